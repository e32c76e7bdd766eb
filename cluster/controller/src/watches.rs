//! The resources, kept as the API server has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{BoxStream, StreamExt as _};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tapedeck_cluster::{NodeReport, Recording, RequestError, Snapshot, replaced_status};
use tracing::warn;

use crate::forbidden::explained;
use crate::run::{MANAGER, Shared};
use crate::world::{Place, World};

/// A change of one of the resources.
pub(crate) enum Change {
    Recording(Event<Read<Recording>>),
    Snapshot(Event<Read<Snapshot>>),
    Report(Event<Read<NodeReport>>),
}

/// An object as it was read. One that a newer version wrote, and this one does not understand, must not hide the others.
pub(crate) struct Read<K> {
    place: Place,
    about: ObjectReference,
    object: Result<K, String>,
}

/// An object that was not understood, told once.
#[derive(Debug)]
pub(crate) struct Odd {
    pub(crate) about: ObjectReference,
    pub(crate) why: String,
}

/// All changes, beginning with everything there is. It never ends: watches that break begin anew, after a pause.
pub(crate) fn changes(shared: &Arc<Shared>) -> BoxStream<'static, Change> {
    let client = &shared.client;
    let recordings = watch::<Recording>(client, shared, "recordings").map(Change::Recording);
    let snapshots = watch::<Snapshot>(client, shared, "snapshots").map(Change::Snapshot);
    let reports = watch::<NodeReport>(client, shared, "nodereports").map(Change::Report);
    let all: [BoxStream<'static, Change>; 3] =
        [recordings.boxed(), snapshots.boxed(), reports.boxed()];
    futures_util::stream::select_all(all).boxed()
}

fn watch<K>(
    client: &Client,
    shared: &Arc<Shared>,
    plural: &'static str,
) -> impl futures_util::Stream<Item = Event<Read<K>>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Send + 'static + DeserializeOwned,
{
    let resource = ApiResource::erase::<K>(&());
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
    let shared = Arc::clone(shared);
    let mut said = String::new();
    watcher::watcher(api, watcher::Config::default())
        .default_backoff()
        .filter_map(move |event| {
            let change = match event {
                Ok(event) => {
                    shared.health.heard();
                    said.clear();
                    let read = |object| read::<K>(&resource, object);
                    Some(match event {
                        Event::Apply(object) => Event::Apply(read(object)),
                        Event::Delete(object) => Event::Delete(read(object)),
                        Event::Init => Event::Init,
                        Event::InitApply(object) => Event::InitApply(read(object)),
                        Event::InitDone => Event::InitDone,
                    })
                }
                Err(error) => {
                    let labels = format!("resource=\"{plural}\"");
                    shared
                        .metrics
                        .add("tapedeck_controller_watch_failures_total", &labels, 1);
                    let why = of_watch(&error);
                    // An outage is told once, not at each attempt.
                    if said != why {
                        warn!(
                            resource = plural,
                            error = why,
                            "failed to watch; tried again with growing pauses"
                        );
                        shared.health.trouble(&why);
                        said = why;
                    }
                    None
                }
            };
            std::future::ready(change)
        })
}

fn read<K>(resource: &ApiResource, mut object: DynamicObject) -> Read<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    // Of no use here, and as long as the rest.
    object.managed_fields_mut().clear();
    Read {
        place: Place::of(&object),
        about: object.object_ref(resource),
        object: object.try_parse().map_err(|error| in_words(&error)),
    }
}

fn of_watch(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => explained(error),
        watcher::Error::WatchError(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    }
}

/// What is wrong with an object: bounded, as it quotes what somebody wrote.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string().chars().take(200).collect()
}

/// What is there, while a new beginning is under way.
#[derive(Default)]
pub(crate) struct Beginnings {
    recordings: Beginning<Place, Recording>,
    snapshots: Beginning<Place, Snapshot>,
    reports: Beginning<String, NodeReport>,
    /// Snapshots that were not understood, and why; of the others the world knows it.
    unread_snapshots: BTreeMap<Place, String>,
}

struct Beginning<P, K> {
    objects: BTreeMap<P, K>,
    odd: BTreeMap<P, String>,
    /// Whether everything has been seen once.
    begun: bool,
}

impl<P, K> Default for Beginning<P, K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            odd: BTreeMap::new(),
            begun: false,
        }
    }
}

impl Beginnings {
    /// Whether everything is known.
    pub(crate) fn complete(&self) -> bool {
        self.recordings.begun && self.snapshots.begun && self.reports.begun
    }

    /// How many of each are not understood.
    pub(crate) fn odd(&self, world: &World) -> BTreeMap<String, u64> {
        [
            ("recordings", world.unread_recordings.len()),
            ("snapshots", self.unread_snapshots.len()),
            ("nodereports", world.unread.len()),
        ]
        .map(|(plural, count)| (plural.to_owned(), count as u64))
        .into()
    }

    /// Puts a change into what is known. Says what of it is not understood, and was not said before.
    pub(crate) fn take(&mut self, world: &mut World, change: Change) -> Option<Odd> {
        match change {
            Change::Recording(event) => {
                let (known, odd) = (&mut world.recordings, &mut world.unread_recordings);
                take(known, odd, &mut self.recordings, event, |place| place)
            }
            Change::Snapshot(event) => {
                let odd = &mut self.unread_snapshots;
                let known = &mut world.snapshots;
                take(known, odd, &mut self.snapshots, event, |place| place)
            }
            Change::Report(event) => {
                let (known, odd) = (&mut world.reports, &mut world.unread);
                take(known, odd, &mut self.reports, event, |place| place.name)
            }
        }
    }
}

fn take<P: Ord + Clone, K>(
    known: &mut BTreeMap<P, K>,
    odd: &mut BTreeMap<P, String>,
    fresh: &mut Beginning<P, K>,
    event: Event<Read<K>>,
    key: impl Fn(Place) -> P,
) -> Option<Odd> {
    match event {
        Event::Apply(read) => {
            let key = key(read.place);
            match read.object {
                Ok(object) => {
                    odd.remove(&key);
                    known.insert(key, object);
                    None
                }
                Err(why) => {
                    // What was known of it holds no longer.
                    known.remove(&key);
                    let before = odd.insert(key, why.clone());
                    let about = read.about;
                    (before.as_ref() != Some(&why)).then_some(Odd { about, why })
                }
            }
        }
        Event::Delete(read) => {
            let key = key(read.place);
            known.remove(&key);
            odd.remove(&key);
            None
        }
        Event::Init => {
            fresh.objects.clear();
            fresh.odd.clear();
            None
        }
        Event::InitApply(read) => {
            let key = key(read.place);
            match read.object {
                Ok(object) => {
                    fresh.objects.insert(key, object);
                    None
                }
                Err(why) => {
                    let is_new = odd.get(&key) != Some(&why);
                    fresh.odd.insert(key, why.clone());
                    let about = read.about;
                    is_new.then_some(Odd { about, why })
                }
            }
        }
        Event::InitDone => {
            *known = std::mem::take(&mut fresh.objects);
            *odd = std::mem::take(&mut fresh.odd);
            fresh.begun = true;
            None
        }
    }
}

/// Writes a status, and gives the object as it is then.
pub(crate) async fn write_status<K>(
    client: &Client,
    place: &Place,
    status: &impl serde::Serialize,
) -> Result<K, kube::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let namespace = Some(place.namespace.as_str());
    let request = replaced_status::<K>(namespace, &place.name, MANAGER, status);
    let request = request.map_err(|error| match error {
        RequestError::Json(error) => kube::Error::SerdeError(error),
        RequestError::Http(error) => kube::Error::HttpError(error),
    })?;
    client.request(request).await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// An object of a node: understood, or with a field that has another type than we know.
    fn object(node: u8, understood: bool) -> DynamicObject {
        let level: Value = if understood { json!(1) } else { json!("one") };
        serde_json::from_value(json!({
            "apiVersion": "tapedeck.dev/v1alpha1", "kind": "NodeReport",
            "metadata": { "name": format!("node-{node}"), "uid": format!("uid-{node}") },
            "spec": { "node": format!("node-{node}"), "newer": [1, { "of": true }] },
            "status": {
                "facts": { "apiLevel": level },
                "recordings": [{
                    "uid": "u", "namespace": "n", "name": "r", "observedGeneration": 1, "state": "Dreaming"
                }],
                "snapshots": [{ "uid": "s", "state": "Dreaming", "parts": [] }],
            },
        }))
        .unwrap()
    }

    fn report(node: u8, understood: bool) -> Read<NodeReport> {
        let resource = ApiResource::erase::<NodeReport>(&());
        read(&resource, object(node, understood))
    }

    #[test]
    fn values_that_a_newer_version_knows_are_unknown_and_no_more() {
        let report = report(1, true).object.unwrap().status.unwrap();
        assert_eq!(
            report.recordings[0].state,
            tapedeck_cluster::NodeRecordingState::Unknown
        );
        assert_eq!(
            report.snapshots[0].state,
            tapedeck_cluster::NodeSnapshotState::Unknown
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_few_words() {
        let mut object = object(1, true);
        object.data["spec"] = json!({ "node": { "x".repeat(5_000): 1 } });
        let resource = ApiResource::erase::<NodeReport>(&());
        let why = read::<NodeReport>(&resource, object).object.unwrap_err();
        assert!(why.contains("invalid type: map"), "{why}");
        let mut object = self::object(1, true);
        object.data["spec"]["node"] = json!(["x".repeat(5_000)]);
        object.data["status"]["facts"]["apiLevel"] = json!("y".repeat(5_000));
        let why = read::<NodeReport>(&resource, object).object.unwrap_err();
        assert!(why.chars().count() <= 200, "{why}");
    }

    #[derive(Clone, Debug)]
    enum Happens {
        Applied(u8, bool),
        Deleted(u8),
        Listed(BTreeMap<u8, bool>),
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            (0..4_u8, any::<bool>()).prop_map(|(node, is)| Happens::Applied(node, is)),
            (0..4_u8).prop_map(Happens::Deleted),
            proptest::collection::btree_map(0..4_u8, any::<bool>(), 0..4).prop_map(Happens::Listed),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: each object is known or named, and none hides another.
        #[test]
        fn each_object_is_known_or_named(
            all in proptest::collection::vec(happens(), 0..24),
        ) {
            let mut world = World::default();
            let mut beginnings = Beginnings::default();
            let mut there = BTreeMap::<u8, bool>::new();
            for one in all {
                let (events, after) = match one {
                    Happens::Applied(node, is) => {
                        let mut after = there.clone();
                        after.insert(node, is);
                        (vec![Event::Apply(report(node, is))], after)
                    }
                    Happens::Deleted(node) => {
                        let mut after = there.clone();
                        let is = after.remove(&node).unwrap_or(true);
                        (vec![Event::Delete(report(node, is))], after)
                    }
                    Happens::Listed(after) => {
                        let listed = after.iter().map(|(node, is)| Event::InitApply(report(*node, *is)));
                        let events = std::iter::once(Event::Init).chain(listed);
                        (events.chain([Event::InitDone]).collect(), after)
                    }
                };
                let mut told = Vec::new();
                for event in events {
                    let odd = beginnings.take(&mut world, Change::Report(event));
                    told.extend(odd.and_then(|odd| odd.about.name));
                }
                let of = |nodes: &BTreeMap<u8, bool>, wanted: bool| -> Vec<String> {
                    let those = nodes.iter().filter(|(_, is)| **is == wanted);
                    those.map(|(node, _)| format!("node-{node}")).collect()
                };
                prop_assert_eq!(world.reports.keys().cloned().collect::<Vec<_>>(), of(&after, true));
                prop_assert_eq!(world.unread.keys().cloned().collect::<Vec<_>>(), of(&after, false));
                // Told when it begins, and not again.
                let known = of(&there, false);
                let new: Vec<_> = of(&after, false).into_iter().filter(|of| !known.contains(of)).collect();
                prop_assert_eq!(told, new);
                there = after;
            }
        }
    }
}
