//! Whose a socket is: from the id of its cgroup to the container and the pod, and else to the
//! process that opened it.
//!
//! A cgroup's id is told with each packet and never means another one while it exists; its path says
//! which container and pod it is ([`place`]). Containers that are gone when they are asked for are
//! remembered for a while ([`Cgroups`]). The names of pods come from the folders that the kubelet
//! makes for their logs ([`PodNames`]): no request to a server, and nothing is guessed where there
//! are none.

mod cgroups;
mod place;
mod pods;

pub use cgroups::Cgroups;
pub use place::{Place, place};
pub use pods::PodNames;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tapedeck_model::Workload;

use crate::capture::{Attribution, End, Opened};
use crate::sources::ebpf::cgroup_root;
use crate::sources::{Before, Owners};

/// Knows the workloads of this node.
pub struct Node {
    cgroups: Cgroups,
    pods: PodNames,
    owners: Mutex<Option<Box<dyn Owners + Send>>>,
    before: Mutex<Arc<Before>>,
    directory: Option<Arc<dyn Directory>>,
    known: Mutex<HashMap<(u64, u32), Known>>,
}

/// Knows pods and their containers better than the folders of the node do.
pub trait Directory: Send + Sync {
    /// The pod whose cgroup has that UID in its name.
    fn pod(&self, uid: &str) -> Option<PodName>;

    /// The name of a container of that pod.
    fn container(&self, pod: &str, id: &str) -> Option<String>;
}

/// What a pod is called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it belongs to, as `KIND/NAME`.
    pub owner: Option<String>,
}

struct Known {
    workload: Arc<Workload>,
    /// Whether all was found that there is, or else when it was looked for.
    is_whole: bool,
    at: Instant,
}

#[derive(Default)]
struct Names {
    pod: Option<PodName>,
    container: Option<String>,
    is_whole: bool,
}

/// Workloads that are kept: some for each container and process of a node. When there are more, all
/// are looked up again.
const MOST: usize = 8_192;

/// How long a workload of which something is missing is not looked up again.
const AGAIN: Duration = Duration::from_secs(1);

impl Node {
    /// Knows the workloads by the cgroups below their root, and pods by what the kubelet left in
    /// its folders.
    #[must_use]
    pub fn new(cgroups: Cgroups, pods: PodNames) -> Self {
        Self {
            cgroups,
            pods,
            owners: Mutex::new(None),
            before: Mutex::default(),
            directory: None,
            known: Mutex::new(HashMap::new()),
        }
    }

    /// Knows the workloads of this machine; `None` where it has no cgroup2 file system. `logs` is
    /// the node's `/var/log`.
    #[must_use]
    pub fn of_this_machine(logs: &Path) -> Option<Self> {
        let root = cgroup_root().ok()?;
        Some(Self::new(Cgroups::watch(&root), PodNames::new(logs)))
    }

    /// Asks this one first for the names of pods.
    #[must_use]
    pub fn with_directory(mut self, directory: Arc<dyn Directory>) -> Self {
        self.directory = Some(directory);
        self
    }

    /// The cgroups of this machine.
    #[must_use]
    pub const fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Asks this source for the processes from now on.
    pub fn set_source(&self, opened: &mut Opened) {
        *lock(&self.owners) = opened.source.tap.owners();
        *lock(&self.before) = Arc::clone(&opened.before);
    }

    fn owner(&self, end: &End) -> Option<(u32, String)> {
        let (owners, before) = (lock(&self.owners), lock(&self.before));
        let of = |cookie| {
            let told = owners.as_ref().and_then(|owners| owners.owner(cookie));
            told.or_else(|| before.owner(cookie))
        };
        // An accepted socket was opened by nobody: its listening one was.
        of(end.cookie).or_else(|| of(end.opener))
    }

    fn names(&self, pod: Option<&str>, container: Option<&str>) -> Names {
        let directory = self.directory.as_ref();
        let (mut names, is_told) = match (directory, pod) {
            (Some(directory), Some(uid)) => {
                let pod = directory.pod(uid);
                let container = container.and_then(|id| directory.container(uid, id));
                let is_told = pod.is_some() && container.is_some();
                (
                    Names {
                        pod,
                        container,
                        is_whole: is_told,
                    },
                    is_told,
                )
            }
            _ => (Names::default(), false),
        };
        if is_told {
            return names;
        }
        let of_logs = |uid: &str| {
            let (namespace, name) = self.pods.pod(uid)?;
            Some(PodName {
                namespace,
                name,
                owner: None,
            })
        };
        names.pod = names.pod.or_else(|| pod.and_then(of_logs));
        names.container = names
            .container
            .or_else(|| container.and_then(|id| self.pods.container(id)));
        // What the directory does not know yet, it may know soon.
        names.is_whole = directory.is_none() && names.pod.is_some() && names.container.is_some();
        names
    }

    fn find(&self, cgroup: u64, owner: Option<(u32, String)>) -> Option<(Workload, bool)> {
        let mut workload = Workload::default();
        let mut is_whole = false;
        if let Some(path) = self.cgroups.path(cgroup) {
            let Place {
                pod_uid,
                container_id,
            } = place(&path);
            let names = self.names(pod_uid.as_deref(), container_id.as_deref());
            is_whole = pod_uid.is_none() || names.is_whole;
            if let Some(PodName {
                namespace,
                name,
                owner,
            }) = names.pod
            {
                workload.namespace = Some(namespace);
                workload.pod = Some(name);
                workload.owner = owner;
            }
            workload.container = names.container.or(container_id);
            workload.cgroup = Some(path);
        }
        if workload.container.is_none()
            && let Some((pid, name)) = owner
        {
            workload.pid = Some(pid);
            workload.process = Some(name);
        }
        (workload != Workload::default()).then_some((workload, is_whole))
    }
}

impl Attribution for Node {
    fn workload(&self, end: &End) -> Option<Arc<Workload>> {
        let owner = self.owner(end);
        let key = (end.cgroup, owner.as_ref().map_or(0, |(pid, _)| *pid));
        if let Some(known) = lock(&self.known).get(&key)
            && (known.is_whole || known.at.elapsed() < AGAIN)
        {
            return Some(Arc::clone(&known.workload));
        }
        let (workload, is_whole) = self.find(end.cgroup, owner)?;
        let workload = Arc::new(workload);
        let mut known = lock(&self.known);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(
            key,
            Known {
                workload: Arc::clone(&workload),
                is_whole,
                at: Instant::now(),
            },
        );
        Some(workload)
    }
}

/// What is behind these locks is replaced as a whole, so a panic leaves it whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
