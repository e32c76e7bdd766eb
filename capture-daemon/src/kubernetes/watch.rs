//! Follows the API server: the pods of this node, the recordings, the snapshots.
//!
//! kube's watcher lists once and then follows, with bookmarks; it lists anew where its place is gone (410),
//! and waits for longer and longer, by chance, when the server does not answer. What was known stays.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, Config, ResourceExt};
use serde_json::Value;
use tapedeck_cluster::{Recording, Snapshot, SnapshotStatus};
use tracing::{debug, warn};

use super::facts::PodFacts;
use super::orders::Orders;
use super::selection::Wanted;
use super::world::World;
use crate::words::in_words;

/// How the API server is reached.
///
/// # Errors
///
/// When that cannot be found out.
pub(super) async fn client(kubeconfig: Option<&Path>) -> Result<Client, String> {
    let config = match kubeconfig {
        None => Config::incluster().map_err(|error| in_words(&error))?,
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|error| in_words(&error))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(|error| in_words(&error))?
        }
    };
    Client::try_from(config).map_err(|error| in_words(&error))
}

/// Follows the pods of this node.
pub(super) async fn pods(client: Client, node: String, world: Arc<World>) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut stream = pin!(watch(Api::<Pod>::all(client), config).default_backoff());
    let mut listed = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pod)) => listed.extend(PodFacts::of(&pod)),
            Ok(Event::InitDone) => {
                debug!(pods = listed.len(), "pods of this node were listed");
                world.set_pods(std::mem::take(&mut listed));
                world.trouble("pods", None);
            }
            Ok(Event::Apply(pod)) => {
                if let Some(pod) = PodFacts::of(&pod) {
                    world.put_pod(pod);
                }
            }
            Ok(Event::Delete(pod)) => {
                if let Some(pod) = PodFacts::of(&pod) {
                    world.pod_gone(&pod.uid);
                }
            }
            Err(error) => trouble(&world, "pods", &error),
        }
    }
}

/// Follows the recordings. They are read as they are, so that one this daemon does not understand is
/// refused, and does not hide the others.
pub(super) async fn recordings(client: Client, world: Arc<World>) {
    let resource = ApiResource::erase::<Recording>(&());
    let api = Api::<DynamicObject>::all_with(client, &resource);
    let mut stream = pin!(watch(api, watcher::Config::default()).default_backoff());
    let of = |object: &DynamicObject| {
        let wanted = Wanted::of(&value(object), world.own_namespace())?;
        if let Some(why) = &wanted.refused {
            let name = format!("{}/{}", wanted.namespace, wanted.name);
            warn!(recording = name, why, "a recording is refused");
        }
        Some(wanted)
    };
    let mut listed = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.extend(of(&object)),
            Ok(Event::InitDone) => {
                world.set_recordings(std::mem::take(&mut listed));
                world.trouble("recordings", None);
            }
            Ok(Event::Apply(object)) => {
                if let Some(wanted) = of(&object) {
                    world.put_recording(wanted);
                }
            }
            Ok(Event::Delete(object)) => world.recording_gone(&object.uid().unwrap_or_default()),
            Err(error) => trouble(&world, "recordings", &error),
        }
    }
}

/// Follows the snapshots, for what they ask of this node.
pub(super) async fn snapshots(client: Client, world: Arc<World>, orders: Arc<Orders>) {
    let resource = ApiResource::erase::<Snapshot>(&());
    let api = Api::<DynamicObject>::all_with(client, &resource);
    let mut stream = pin!(watch(api, watcher::Config::default()).default_backoff());
    let mut listed = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.push(object),
            Ok(Event::InitDone) => {
                let all = std::mem::take(&mut listed);
                orders.keep(&all.iter().filter_map(ResourceExt::uid).collect());
                for object in &all {
                    order(&orders, object);
                }
                world.trouble("snapshots", None);
            }
            Ok(Event::Apply(object)) => order(&orders, &object),
            Ok(Event::Delete(object)) => orders.remove(&object.uid().unwrap_or_default()),
            Err(error) => trouble(&world, "snapshots", &error),
        }
    }
}

fn order(orders: &Orders, object: &DynamicObject) {
    let Some(uid) = object.uid() else { return };
    let status = object.data.get("status").cloned();
    let status = status.map(serde_json::from_value::<SnapshotStatus>);
    match status {
        Some(Ok(status)) => orders.follow(&uid, &status),
        Some(Err(error)) => warn!(uid, %error, "the status of a snapshot cannot be read"),
        None => {}
    }
}

fn value(object: &DynamicObject) -> Value {
    let mut value = object.data.clone();
    if let (Value::Object(all), Ok(metadata)) = (&mut value, serde_json::to_value(&object.metadata))
    {
        all.insert("apiVersion".to_owned(), "tapedeck.dev/v1alpha1".into());
        all.insert("kind".to_owned(), "Recording".into());
        all.insert("metadata".to_owned(), metadata);
    }
    value
}

fn trouble(world: &World, what: &'static str, error: &watcher::Error) {
    let why = explain(what, error);
    warn!(what, why, "the API server cannot be followed; trying again");
    world.trouble(what, Some(why));
}

/// What went wrong, and what somebody can do about it.
fn explain(what: &str, error: &watcher::Error) -> String {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status),
        watcher::Error::WatchError(status) => Some(status),
        _ => None,
    };
    let Some(status) = status else {
        return in_words(error);
    };
    let help = match status.code {
        401 | 403 => format!(
            "; the daemon's ClusterRole needs: apiGroups [{:?}], resources [{what:?}], verbs [\"list\", \
             \"watch\"]",
            if what == "pods" {
                ""
            } else {
                tapedeck_cluster::GROUP
            }
        ),
        404 if what != "pods" => format!(
            "; is the definition of the resource installed (kubectl get crd {what}.{}), with the \
             version {}?",
            tapedeck_cluster::GROUP,
            tapedeck_cluster::VERSION
        ),
        _ => String::new(),
    };
    format!("{}{help}", status.message)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_missing_rule_is_named() {
        let failure = |code, message: &str| {
            let status = Status::failure(message, "Forbidden").with_code(code);
            watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
        };
        assert_eq!(
            explain(
                "recordings",
                &failure(403, "recordings.tapedeck.dev is forbidden")
            ),
            "recordings.tapedeck.dev is forbidden; the daemon's ClusterRole needs: apiGroups \
             [\"tapedeck.dev\"], resources [\"recordings\"], verbs [\"list\", \"watch\"]"
        );
        let missing = explain("snapshots", &failure(404, "not found"));
        assert!(
            missing.contains("kubectl get crd snapshots.tapedeck.dev"),
            "{missing}"
        );
        assert_eq!(
            explain("pods", &failure(500, "etcd is slow")),
            "etcd is slow"
        );
    }
}
