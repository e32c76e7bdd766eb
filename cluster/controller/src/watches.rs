//! The resources, kept as the API server has them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures_util::stream::{BoxStream, StreamExt as _};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt as _};
use tapedeck_cluster::{NodeReport, Recording, RequestError, Snapshot, replaced_status};
use tracing::warn;

use crate::forbidden::explained;
use crate::run::{MANAGER, Shared};
use crate::world::{Place, World};

/// A change of one of the resources.
pub(crate) enum Change {
    Recording(Event<Recording>),
    Snapshot(Event<Snapshot>),
    Report(Event<NodeReport>),
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
) -> impl futures_util::Stream<Item = Event<K>> + Send + 'static
where
    K: Resource<DynamicType = ()>
        + Clone
        + Debug
        + Send
        + 'static
        + for<'de> serde::Deserialize<'de>,
{
    let api: Api<K> = Api::all(client.clone());
    let shared = Arc::clone(shared);
    let mut said = String::new();
    watcher::watcher(api, watcher::Config::default())
        .default_backoff()
        .filter_map(move |event| {
            let change = match event {
                Ok(event) => {
                    shared.health.heard();
                    said.clear();
                    Some(event)
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

fn of_watch(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => explained(error),
        watcher::Error::WatchError(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    }
}

/// What is there, while a new beginning is under way.
#[derive(Default)]
pub(crate) struct Beginnings {
    recordings: BTreeMap<Place, Recording>,
    snapshots: BTreeMap<Place, Snapshot>,
    reports: BTreeMap<String, NodeReport>,
    /// Which of the three have been seen whole once.
    begun: [bool; 3],
}

impl Beginnings {
    /// Whether everything is known.
    pub(crate) fn complete(&self) -> bool {
        self.begun.iter().all(|begun| *begun)
    }

    /// Puts a change into what is known.
    pub(crate) fn take(&mut self, world: &mut World, change: Change) {
        let [recordings, snapshots, reports] = &mut self.begun;
        match change {
            Change::Recording(event) => {
                take(
                    &mut world.recordings,
                    &mut self.recordings,
                    recordings,
                    event,
                    Place::of,
                );
            }
            Change::Snapshot(event) => {
                take(
                    &mut world.snapshots,
                    &mut self.snapshots,
                    snapshots,
                    event,
                    Place::of,
                );
            }
            Change::Report(event) => {
                let node = |report: &NodeReport| report.name_any();
                take(&mut world.reports, &mut self.reports, reports, event, node);
            }
        }
    }
}

fn take<P: Ord, K: kube::ResourceExt>(
    known: &mut BTreeMap<P, K>,
    fresh: &mut BTreeMap<P, K>,
    begun: &mut bool,
    event: Event<K>,
    place: impl Fn(&K) -> P,
) {
    let slim = |mut object: K| {
        // Of no use here, and as long as the rest.
        object.managed_fields_mut().clear();
        object
    };
    match event {
        Event::Apply(object) => {
            known.insert(place(&object), slim(object));
        }
        Event::Delete(object) => {
            known.remove(&place(&object));
        }
        Event::Init => fresh.clear(),
        Event::InitApply(object) => {
            fresh.insert(place(&object), slim(object));
        }
        Event::InitDone => {
            *known = std::mem::take(fresh);
            *begun = true;
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
    K: Resource<DynamicType = ()> + serde::de::DeserializeOwned,
{
    let namespace = Some(place.namespace.as_str());
    let request = replaced_status::<K>(namespace, &place.name, MANAGER, status);
    let request = request.map_err(|error| match error {
        RequestError::Json(error) => kube::Error::SerdeError(error),
        RequestError::Http(error) => kube::Error::HttpError(error),
    })?;
    client.request(request).await
}
