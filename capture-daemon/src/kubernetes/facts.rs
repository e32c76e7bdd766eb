//! What is known of a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tapedeck_cluster::OwnerKind;

/// What is known of a pod.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PodFacts {
    /// What its cgroup is named after: its UID, and of a static pod the hash of its manifest.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it belongs to, the nearest first.
    pub owners: Vec<(OwnerKind, String)>,
    /// Its containers: the name of each id. Those that were restarted have several.
    pub containers: BTreeMap<String, String>,
    /// Containers that are started again and again.
    pub crash_loops: Vec<String>,
    /// The addresses that are its own: none where it shares the node's network, or has ended, as another pod may have
    /// them by then.
    pub addresses: Vec<IpAddr>,
    /// When the kubelet took it up, in seconds since 1970: before it had an address.
    pub started: Option<i64>,
}

/// Containers that are remembered of a pod: restarted ones have a new id each time.
const MOST_CONTAINERS: usize = 64;

impl PodFacts {
    /// What is said of a pod; `None` where it has no UID, which the API server gives to all.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        // The kubelet names the cgroup of a static pod after what it read, and the API server gives
        // the pod's mirror a UID of its own.
        let annotations = metadata.annotations.as_ref();
        let uid = annotations
            .and_then(|all| all.get("kubernetes.io/config.hash"))
            .or(metadata.uid.as_ref())?;
        let mut facts = Self {
            uid: uid.clone(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            labels: metadata.labels.clone().unwrap_or_default(),
            ..Self::default()
        };
        facts.owners = owners(pod, &facts.labels);
        let Some(status) = &pod.status else {
            return Some(facts);
        };
        facts.addresses = addresses(pod);
        facts.started = status.start_time.as_ref().map(|at| at.0.as_second());
        let lists = [
            &status.init_container_statuses,
            &status.container_statuses,
            &status.ephemeral_container_statuses,
        ];
        for container in lists.into_iter().flatten().flatten() {
            facts.container(container);
        }
        Some(facts)
    }

    fn container(&mut self, status: &ContainerStatus) {
        // `containerd://ID`
        if let Some((_, id)) = status
            .container_id
            .as_deref()
            .and_then(|id| id.split_once("://"))
        {
            self.containers.insert(id.to_owned(), status.name.clone());
        }
        let waiting = status
            .state
            .as_ref()
            .and_then(|state| state.waiting.as_ref());
        if waiting.and_then(|waiting| waiting.reason.as_deref()) == Some("CrashLoopBackOff") {
            self.crash_loops.push(status.name.clone());
        }
    }

    /// Keeps the ids of containers that were there before: what they said may still be under way.
    pub fn remember(&mut self, before: &Self) {
        for (id, name) in &before.containers {
            if self.containers.len() >= MOST_CONTAINERS {
                return;
            }
            self.containers
                .entry(id.clone())
                .or_insert_with(|| name.clone());
        }
    }

    /// What it belongs to in the end, as `KIND/NAME`.
    #[must_use]
    pub fn owner(&self) -> Option<String> {
        let (kind, name) = self.owners.last()?;
        Some(format!("{kind:?}/{name}"))
    }
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let shares = |pod: &Pod| pod.spec.as_ref()?.host_network;
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if shares(pod) == Some(true) || has_ended {
        return Vec::new();
    }
    let all = status.pod_ips.iter().flatten();
    let mut all: Vec<IpAddr> = all
        .map(|of| of.ip.as_str())
        .chain(status.pod_ip.as_deref())
        .filter_map(|ip| ip.parse().ok())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What the pod says of its owners. Of those above the first it says nothing; but a Deployment names
/// its ReplicaSets by itself and a hash that is a label of their pods, and a CronJob its Jobs by itself
/// and the minutes of the time. So none of these needs to be watched.
fn owners(pod: &Pod, labels: &BTreeMap<String, String>) -> Vec<(OwnerKind, String)> {
    let references = pod.metadata.owner_references.iter().flatten();
    let Some(nearest) = references
        .into_iter()
        .find(|owner| owner.controller == Some(true))
    else {
        return Vec::new();
    };
    let name = nearest.name.clone();
    match nearest.kind.as_str() {
        "DaemonSet" => vec![(OwnerKind::DaemonSet, name)],
        "StatefulSet" => vec![(OwnerKind::StatefulSet, name)],
        "ReplicaSet" => {
            let deployment = labels
                .get("pod-template-hash")
                .and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'))
                .map(|name| (OwnerKind::Deployment, name.to_owned()));
            [(OwnerKind::ReplicaSet, name)]
                .into_iter()
                .chain(deployment)
                .collect()
        }
        "Job" => {
            let cron = name
                .rsplit_once('-')
                .filter(|(_, time)| time.len() >= 8 && time.bytes().all(|b| b.is_ascii_digit()))
                .map(|(name, _)| (OwnerKind::CronJob, name.to_owned()));
            [(OwnerKind::Job, name)].into_iter().chain(cron).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: serde_json::Value) -> PodFacts {
        PodFacts::of(&serde_json::from_value(value).unwrap()).unwrap()
    }

    fn owned(kind: &str, name: &str, hash: Option<&str>) -> PodFacts {
        let labels = hash.map(|hash| serde_json::json!({ "pod-template-hash": hash }));
        pod(serde_json::json!({ "metadata": {
            "uid": "u", "labels": labels,
            "ownerReferences": [
                { "apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1" },
                { "apiVersion": "v1", "kind": kind, "name": name, "uid": "2", "controller": true },
            ],
        } }))
    }

    #[test]
    fn owners_are_told_without_asking_for_them() {
        for (kind, name, hash, owner) in [
            (
                "ReplicaSet",
                "cart-7d9f",
                Some("7d9f"),
                Some("Deployment/cart"),
            ),
            // One that was made by hand.
            (
                "ReplicaSet",
                "cart-7d9f",
                None,
                Some("ReplicaSet/cart-7d9f"),
            ),
            ("ReplicaSet", "cart", Some("7d9f"), Some("ReplicaSet/cart")),
            ("StatefulSet", "db", None, Some("StatefulSet/db")),
            ("DaemonSet", "log", None, Some("DaemonSet/log")),
            ("Job", "mail-28934211", None, Some("CronJob/mail")),
            ("Job", "mail-2", None, Some("Job/mail-2")),
            ("Rollout", "x", None, None),
        ] {
            assert_eq!(owned(kind, name, hash).owner().as_deref(), owner, "{name}");
        }
        assert_eq!(
            pod(serde_json::json!({ "metadata": { "uid": "u" } })).owner(),
            None
        );
    }

    #[test]
    fn containers_have_names_by_id_and_restarted_ones_too() {
        let of = |id: &str| {
            pod(serde_json::json!({
                "metadata": { "uid": "u", "name": "p", "namespace": "n" },
                "status": {
                    "containerStatuses": [{
                        "name": "web", "containerID": format!("containerd://{id}"), "image": "",
                        "imageID": "", "ready": false, "restartCount": 3,
                        "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                    }],
                    "initContainerStatuses": [{
                        "name": "init", "image": "", "imageID": "", "ready": false,
                        "restartCount": 0,
                    }],
                },
            }))
        };
        let mut now = of("b");
        now.remember(&of("a"));
        let names: Vec<_> = now
            .containers
            .iter()
            .map(|(id, name)| (&**id, &**name))
            .collect();
        assert_eq!(names, [("a", "web"), ("b", "web")]);
        assert_eq!(now.crash_loops, ["web"]);
        for number in 0..1_000 {
            let mut next = of(&number.to_string());
            next.remember(&now);
            now = next;
        }
        assert_eq!(now.containers.len(), MOST_CONTAINERS);
        assert!(now.containers.contains_key("999"));
    }

    #[test]
    fn addresses_are_those_that_nobody_else_has() {
        let of = |network: bool, phase: &str| {
            pod(serde_json::json!({
                "metadata": { "uid": "u" },
                "spec": { "containers": [], "hostNetwork": network },
                "status": {
                    "phase": phase, "podIP": "10.0.0.7", "podIPs": [{ "ip": "10.0.0.7" }, { "ip": "fd00::7" }],
                },
            }))
            .addresses
        };
        let both: Vec<IpAddr> = ["10.0.0.7", "fd00::7"]
            .map(|ip| ip.parse().unwrap())
            .to_vec();
        assert_eq!(of(false, "Running"), both);
        assert!(of(true, "Running").is_empty());
        assert!(of(false, "Succeeded").is_empty());
        assert!(of(false, "Failed").is_empty());
    }

    #[test]
    fn a_static_pod_is_known_by_its_manifest() {
        let of = pod(serde_json::json!({ "metadata": {
            "uid": "u", "annotations": { "kubernetes.io/config.hash": "0123" },
        } }));
        assert_eq!(of.uid, "0123");
        assert_eq!(PodFacts::of(&Pod::default()), None);
    }
}
