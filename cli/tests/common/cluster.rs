//! A cluster for tests of the program: the stand-in API server, and programs that play the rest.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tapedeck_cluster_standin::Standin;

use super::Tapedeck;

/// What is true of a time now.
pub(crate) fn now() -> String {
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())
        .expect("a time")
        .to_string()
}

/// A stand-in, and a kubeconfig for it.
pub(crate) struct Cluster {
    pub(crate) server: Arc<Standin>,
    pub(crate) folder: tempfile::TempDir,
}

impl Cluster {
    /// A cluster without Tapedeck. Everybody may do everything.
    pub(crate) fn bare() -> Self {
        Self::of(Standin::start().expect("a stand-in"))
    }

    /// A cluster with roles.
    pub(crate) fn with_roles() -> Self {
        Self::of(Standin::with_roles().expect("a stand-in"))
    }

    fn of(server: Standin) -> Self {
        let cluster = Self {
            server: Arc::new(server),
            folder: super::temp_folder(),
        };
        std::fs::write(cluster.kubeconfig(), cluster.server.kubeconfig("admin")).expect("a file");
        cluster
    }

    /// A cluster that knows Tapedeck's resources.
    pub(crate) fn with_definitions() -> Self {
        let cluster = Self::bare();
        for namespace in ["pay", "shop"] {
            cluster.server.namespace(namespace).expect("a namespace");
        }
        for crd in tapedeck_cluster::crds().expect("definitions") {
            let mut crd = serde_json::to_value(crd).expect("JSON");
            crd["metadata"]["labels"] = json!({
                "app.kubernetes.io/version": env!("CARGO_PKG_VERSION"),
                "app.kubernetes.io/managed-by": "tapedeck",
            });
            crd["metadata"]["annotations"] = json!({ "tapedeck.dev/namespace": "tapedeck-system" });
            cluster.server.seed(&crd).expect("a definition");
        }
        cluster
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// `tapedeck cluster ...`, as the user `admin`.
    pub(crate) fn tapedeck<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Tapedeck {
        Tapedeck::new(["cluster"].into_iter().chain(args)).env("KUBECONFIG", self.kubeconfig())
    }

    /// The same as another user.
    pub(crate) fn tapedeck_as<'a>(
        &self,
        user: &str,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Tapedeck {
        let path = self.folder.path().join(format!("{user}.kubeconfig"));
        std::fs::write(&path, self.server.kubeconfig(user)).expect("a file");
        Tapedeck::new(["cluster"].into_iter().chain(args)).env("KUBECONFIG", path)
    }

    /// A node's report, of a moment ago.
    pub(crate) fn report(&self, node: &str, status: &Value) {
        let mut status = status.clone();
        if status["at"].is_null() {
            status["at"] = now().into();
        }
        let report = json!({
            "apiVersion": "tapedeck.dev/v1alpha1", "kind": "NodeReport",
            "metadata": { "name": node },
            "spec": { "node": node },
            "status": status,
        });
        self.server.seed(&report).expect("a report");
    }

    /// Plays somebody else on the cluster: `act` is called over and over until the test ends.
    pub(crate) fn play(&self, mut act: impl FnMut(&Standin) + Send + 'static) -> Player {
        let server = Arc::clone(&self.server);
        let is_over = Arc::new(AtomicBool::new(false));
        let is_told = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            while !is_told.load(Ordering::Relaxed) {
                act(&server);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Player {
            is_over,
            thread: Some(thread),
        }
    }
}

/// Somebody who acts on the cluster until this is dropped.
pub(crate) struct Player {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Player {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed.
            drop(thread.join());
        }
    }
}

pub(crate) fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    generation: u64,
) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "observedGeneration": generation, "lastTransitionTime": now(),
    })
}

/// The status of a node that captures.
pub(crate) fn ready_node() -> Value {
    json!({
        "conditions": [condition("Ready", "True", "Captures", "", 1)],
        "facts": {
            "version": env!("CARGO_PKG_VERSION"), "apiLevel": 1, "kernel": "6.18.0", "architecture": "x86_64",
            "backend": "ebpf", "btf": true, "cgroup2": true, "capabilities": ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"],
        },
        "cost": { "cpuMillis": 12, "memoryBytes": 47_185_920_u64, "diskBytes": 1_073_741_824_u64, "diskFreeBytes": 1_u64 << 40 },
    })
}

/// A set of pods runs everywhere at once.
pub(crate) fn run_pods(server: &Standin) {
    for kind in ["daemonsets.apps", "deployments.apps"] {
        for mut set in server.list(kind) {
            let generation = set["metadata"]["generation"].clone();
            if set["status"]["observedGeneration"] == generation
                || !set["metadata"]["deletionTimestamp"].is_null()
            {
                continue;
            }
            set["status"] = match kind {
                "daemonsets.apps" => json!({
                    "observedGeneration": generation, "desiredNumberScheduled": 3, "currentNumberScheduled": 3,
                    "numberMisscheduled": 0, "numberReady": 3, "updatedNumberScheduled": 3, "numberAvailable": 3,
                }),
                _ => json!({
                    "observedGeneration": generation, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, "availableReplicas": 1,
                }),
            };
            // It may be gone by now.
            drop(server.seed(&set));
        }
    }
}
