//! The names of pods and containers, from the folders of their logs.
//!
//! The kubelet makes `/var/log/pods/NAMESPACE_POD_UID/CONTAINER/` before it starts a container, and
//! a link `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log` when it has. Names of Kubernetes hold
//! no underscore, so both can be taken apart.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;

/// Knows pods and containers by what they are called in cgroups.
#[derive(Debug)]
pub struct PodNames {
    /// `/var/log` of the node.
    logs: PathBuf,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    /// Namespace and name, by UID.
    pods: HashMap<String, (String, String)>,
    /// Name, by id.
    containers: HashMap<String, String>,
    read: Option<Instant>,
}

/// The folders are read again at most this often.
const AGAIN: Duration = Duration::from_millis(500);

/// Names that are kept after their pod is gone. A node has some hundred pods at once.
const MOST: usize = 16_384;

impl PodNames {
    /// From the folders below `logs`, the node's `/var/log`.
    #[must_use]
    pub fn new(logs: &Path) -> Self {
        Self {
            logs: logs.to_owned(),
            index: Mutex::default(),
        }
    }

    /// Namespace and name of the pod.
    pub fn pod(&self, uid: &str) -> Option<(String, String)> {
        self.find(|index| index.pods.get(uid).cloned())
    }

    /// Name of the container.
    pub fn container(&self, id: &str) -> Option<String> {
        self.find(|index| index.containers.get(id).cloned())
    }

    fn find<T>(&self, get: impl Fn(&Index) -> Option<T>) -> Option<T> {
        let mut index = lock(&self.index);
        if let Some(found) = get(&index) {
            return Some(found);
        }
        if index.read.is_some_and(|read| read.elapsed() < AGAIN) {
            return None;
        }
        index.read = Some(Instant::now());
        if index.pods.len() + index.containers.len() > MOST {
            index.pods.clear();
            index.containers.clear();
        }
        for name in names(&self.logs.join("pods")) {
            if let Some((uid, pod)) = pod_of(&name) {
                index.pods.insert(uid, pod);
            }
        }
        for name in names(&self.logs.join("containers")) {
            if let Some((id, container)) = container_of(&name) {
                index.containers.insert(id, container);
            }
        }
        get(&index)
    }
}

/// The names in a folder; none where there is no such folder.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

fn pod_of(name: &str) -> Option<(String, (String, String))> {
    let mut parts = name.split('_');
    let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let is_whole = parts.next().is_none() && ![namespace, pod, uid].contains(&"");
    is_whole.then(|| (uid.to_owned(), (namespace.to_owned(), pod.to_owned())))
}

fn container_of(name: &str) -> Option<(String, String)> {
    let mut parts = name.strip_suffix(".log")?.split('_');
    let (_pod, _namespace, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (container, id) = rest.rsplit_once('-')?;
    let is_whole = parts.next().is_none() && !container.is_empty();
    is_whole.then(|| (id.to_owned(), container.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let pod = ("shop".to_owned(), "cart-7d9f-x2x".to_owned());
        assert_eq!(pod_of("shop_cart-7d9f-x2x_u-1"), Some(("u-1".into(), pod)));
        let container = ("abc".to_owned(), "side-car".to_owned());
        assert_eq!(
            container_of("cart-7d9f-x2x_shop_side-car-abc.log"),
            Some(container)
        );
        for wrong in ["", "_", "a_b", "a__c", "a_b_c_d", "lost+found"] {
            assert_eq!(pod_of(wrong), None, "{wrong}");
        }
        for wrong in [
            "",
            "x.log",
            "a_b_c.log",
            "a_b_-c.log",
            "a_b_c-d",
            "a_b_c-d_e.log",
        ] {
            assert_eq!(container_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_pod_that_came_later_is_found_and_one_that_went_is_remembered() {
        let logs = tempfile::tempdir().unwrap();
        let names = PodNames::new(logs.path());
        assert_eq!(names.pod("u"), None);
        let folder = logs.path().join("pods/default_web-0_u/nginx");
        fs::create_dir_all(&folder).unwrap();
        // Read again only after a while.
        assert_eq!(names.pod("u"), None);
        lock(&names.index).read = None;
        let found = Some(("default".to_owned(), "web-0".to_owned()));
        assert_eq!(names.pod("u"), found);
        fs::remove_dir_all(logs.path().join("pods")).unwrap();
        lock(&names.index).read = None;
        assert_eq!(names.pod("u"), found);
        assert_eq!(names.pod("v"), None);
    }
}
