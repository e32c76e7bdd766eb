//! The daemon as a part of a cluster: what binds its parts together.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use caps::CapSet;
use tapedeck_cluster::NodeFacts;
use tracing::{info, warn};

use super::orders::{Deliverer, Orders};
use super::plan::Layout;
use super::quarantine::Limits;
use super::report::{Reporter, VitalSigns};
use super::router::{HowToWrite, Router};
use super::shelf::{self, Keep};
use super::watch;
use super::world::World;
use crate::attribution::{Cgroups, Directory, Place, place};
use crate::capture::{Backend, Machine, Session, Snapshot};
use crate::daemon::{ArchiveConfig, KubernetesConfig};
use crate::sources::SourceError;
use crate::sys;
use crate::words::in_words;

/// How often what was recorded for recordings that are no more is looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// How often the bytes on the disk are counted.
const MEASURE: Duration = Duration::from_secs(15);

/// The daemon as a part of a cluster.
#[derive(Debug)]
pub struct Cluster {
    config: KubernetesConfig,
    node: String,
    folder: PathBuf,
    keep: Keep,
    world: Arc<World>,
    orders: Arc<Orders>,
    vitals: Arc<VitalSigns>,
    /// What the rules in force were made of.
    applied: Option<(u64, u64)>,
    swept: Option<Instant>,
    measured: Option<Instant>,
    /// Kept open: it holds the lock.
    _lock: File,
}

/// Why the daemon cannot be a part of a cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The configuration leaves something out, and so does the environment.
    #[error(
        "kubernetes.{key} is not set, and neither is {variable} in the environment, which the DaemonSet \
         sets by the downward API"
    )]
    Unset {
        /// What is missing.
        key: &'static str,
        /// Where else it is looked for.
        variable: &'static str,
    },
    /// The folder cannot be used.
    #[error("cannot use the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error(
        "another daemon records into {}: is Tapedeck installed twice on this cluster?",
        .0.display()
    )]
    Busy(PathBuf),
}

impl Cluster {
    /// Takes the folder, and finds out what this node is called. Speaks to nobody yet. Called before
    /// privileges are given up, as it tells what there were.
    ///
    /// # Errors
    ///
    /// When the folder is taken, or something is not said.
    pub fn new(config: &KubernetesConfig, archive: &ArchiveConfig) -> Result<Self, ClusterError> {
        let node = said(config.node.as_ref(), "node", "NODE_NAME")?;
        let namespace = said(config.namespace.as_ref(), "namespace", "POD_NAMESPACE")?;
        let folder = archive.folder.clone();
        let lock = take(&folder)?;
        let vitals = Arc::new(VitalSigns::default());
        vitals.update(|vitals| {
            vitals.facts = facts();
            vitals.facts.encrypted = !archive.encrypt_to.is_empty();
        });
        info!(node, namespace, "on a node of a cluster");
        Ok(Self {
            config: config.clone(),
            orders: Arc::new(Orders::new(&node)),
            world: Arc::new(World::new(&namespace)),
            node,
            folder,
            keep: Keep {
                size: archive.retain_size.map(|size| size.0),
                age: archive.retain_age.map(|age| age.duration()),
            },
            vitals,
            applied: None,
            swept: None,
            measured: None,
            _lock: lock,
        })
    }

    /// Who knows the names of pods.
    #[must_use]
    pub fn directory(&self) -> Arc<dyn Directory> {
        Arc::clone(&self.world) as Arc<dyn Directory>
    }

    /// What takes exchanges.
    ///
    /// # Errors
    ///
    /// When the folder of recordings cannot be made.
    pub fn router(&self, how: HowToWrite) -> io::Result<Router> {
        let limits = Limits {
            time: self.config.quarantine.duration(),
            bytes: usize::try_from(self.config.quarantine_size.0).unwrap_or(usize::MAX),
        };
        let world = Arc::clone(&self.world);
        Router::new(world, &recordings(&self.folder), limits, how)
    }

    /// Says by which backend is captured; or why by none.
    pub fn captures(&self, how: Result<Backend, String>) {
        self.vitals.update(|vitals| match how {
            Ok(backend) => {
                backend.name().clone_into(&mut vitals.facts.backend);
                vitals.blind = None;
            }
            Err(why) => vitals.blind = Some(("NoBpf", why)),
        });
    }

    /// Begins to speak to the API server, on a thread of its own.
    ///
    /// # Errors
    ///
    /// When the system cannot start a thread.
    pub fn start(&self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // One cuts parts of snapshots, others hash and look up names.
            .max_blocking_threads(4)
            .build()?;
        let kubeconfig = self.config.kubeconfig.clone();
        let (world, orders) = (Arc::clone(&self.world), Arc::clone(&self.orders));
        let (vitals, node) = (Arc::clone(&self.vitals), self.node.clone());
        let deliverer = Deliverer {
            orders: Arc::clone(&orders),
            recordings: recordings(&self.folder),
            parts: self.folder.join("parts"),
            stores: self.config.stores.clone(),
        };
        let speak = async move {
            let client = loop {
                match watch::client(kubeconfig.as_deref()).await {
                    Ok(client) => break client,
                    Err(why) => {
                        warn!(
                            why,
                            "how to reach the API server is not known; trying again"
                        );
                        world.trouble("pods", Some(why));
                        tokio::time::sleep(Duration::from_secs(5)).await;
                    }
                }
            };
            let reporter = Reporter::new(
                client.clone(),
                node.clone(),
                Arc::clone(&world),
                Arc::clone(&orders),
                vitals,
            );
            tokio::join!(
                watch::pods(client.clone(), node, Arc::clone(&world)),
                watch::recordings(client.clone(), Arc::clone(&world)),
                watch::snapshots(client, Arc::clone(&world), orders),
                deliverer.run(),
                reporter.run(),
            );
        };
        thread::Builder::new()
            .name("kubernetes".to_owned())
            .spawn(move || runtime.block_on(speak))?;
        Ok(())
    }

    /// Puts the rules in force that follow from what is known now, where that has changed; and lets time
    /// pass. Called some times a second.
    ///
    /// # Errors
    ///
    /// When the source cannot follow the rules; those before stay in force.
    pub fn tick(&mut self, session: &mut Session, cgroups: &Cgroups) -> Result<(), SourceError> {
        self.pass();
        let now = (self.world.generation(), cgroups.generation());
        if self.applied == Some(now) {
            return Ok(());
        }
        session.set_policy(&self.world.policy(&layout(cgroups)))?;
        self.applied = Some(now);
        Ok(())
    }

    /// Lets time pass.
    pub fn pass(&mut self) {
        self.world.tick(jiff::Timestamp::now().as_second());
        if self.swept.is_none_or(|at| at.elapsed() >= SWEEP) {
            self.swept = Some(Instant::now());
            self.sweep();
        }
        if self.measured.is_none_or(|at| at.elapsed() >= MEASURE) {
            self.measured = Some(Instant::now());
            let used = self.tidy();
            let free = sys::free_bytes(&self.folder).unwrap_or(0);
            self.vitals.update(|vitals| vitals.disk = (used, free));
        }
    }

    /// Takes note of what the daemon uses.
    pub fn observe(&self, cpu: Duration, memory: u64, snapshot: Option<&Snapshot>) {
        self.vitals.update(|vitals| {
            vitals.cpu = cpu;
            vitals.memory = memory;
            if let Some(snapshot) = snapshot {
                vitals.refused = snapshot.drops.connections_refused;
            }
        });
    }

    /// Why nothing can be recorded yet.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        self.world.waits_for()
    }

    /// Removes what is not to be kept; says how many bytes of archives are left.
    fn tidy(&self) -> u64 {
        let age = |uid: &str| {
            self.world
                .retention(uid)?
                .age
                .map(|age| age.0)
                .or(self.keep.age)
        };
        let now = SystemTime::now();
        let (left, removals) = shelf::tidy(&recordings(&self.folder), self.keep.size, now, age);
        for of in removals {
            let path = of.path.display();
            match of.failed {
                None => info!(%path, bytes = of.len, "segment deleted by retention"),
                Some(error) => {
                    warn!(%path, why = in_words(&error), "a segment cannot be deleted");
                }
            }
        }
        left
    }

    /// Removes what was recorded for recordings that were deleted, unless a snapshot still wants it.
    fn sweep(&self) {
        let wanted = self.orders.recordings();
        let entries = fs::read_dir(recordings(&self.folder));
        for entry in entries.into_iter().flatten().flatten() {
            let Ok(uid) = entry.file_name().into_string() else {
                continue;
            };
            if wanted.contains(&uid) || self.world.has_recording(&uid) != Some(false) {
                continue;
            }
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => info!(uid, "the recording was deleted: its archives are removed"),
                Err(error) => warn!(uid, why = in_words(&error), "archives cannot be removed"),
            }
        }
    }
}

/// Where each recording has a folder.
fn recordings(folder: &Path) -> PathBuf {
    folder.join("recordings")
}

fn said(
    value: Option<&String>,
    key: &'static str,
    variable: &'static str,
) -> Result<String, ClusterError> {
    let of_environment = || std::env::var(variable).ok();
    let value = value.cloned().or_else(of_environment);
    value
        .filter(|value| !value.is_empty())
        .ok_or(ClusterError::Unset { key, variable })
}

/// Takes the folder for this daemon alone.
fn take(folder: &Path) -> Result<File, ClusterError> {
    let failed = |source| ClusterError::Folder {
        path: folder.to_owned(),
        source,
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let mut open = OpenOptions::new();
    open.write(true).create(true).truncate(false);
    let file = open.open(folder.join(".tapedeckd")).map_err(failed)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(ClusterError::Busy(folder.to_owned())),
        // Some file systems of networks have no locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

fn facts() -> NodeFacts {
    let machine = Machine::read();
    let mut capabilities: Vec<_> = caps::read(None, CapSet::Effective)
        .unwrap_or_default()
        .into_iter()
        .collect();
    capabilities.sort_by_key(|capability| capability.index());
    NodeFacts {
        kernel: machine.kernel,
        architecture: std::env::consts::ARCH.to_owned(),
        btf: machine.btf,
        cgroup2: machine.cgroup2.is_some(),
        capabilities: capabilities.iter().map(ToString::to_string).collect(),
        ..NodeFacts::default()
    }
}

/// The cgroups of pods.
fn layout(cgroups: &Cgroups) -> Layout {
    let mut layout = Layout::default();
    let mut roots = BTreeSet::new();
    cgroups.each(|id, path| {
        let (above, name) = path.rsplit_once('/').unwrap_or_default();
        if name.contains("kubepods") && !above.contains("kubepods") {
            roots.insert(id);
        }
        if let Place {
            pod_uid: Some(uid),
            container_id: None,
        } = place(path)
        {
            // By path, so that a pod comes before what lies below it.
            layout.pods.entry(uid).or_insert(id);
        }
    });
    layout.roots = roots.into_iter().collect();
    layout
}
