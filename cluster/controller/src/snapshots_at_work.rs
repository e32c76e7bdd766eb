//! Snapshots at work: what [`snapshots`](crate::snapshots) decides is done here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource as _};
use serde_json::json;
use tapedeck_cluster::{FINALIZER, Phase, Snapshot, SnapshotStatus};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::assemble::{AssembleError, Job, assemble};
use crate::run::{MANAGER, Pauses, Shared, uid};
use crate::snapshots::{self, Made, Step};
use crate::watches::write_status;
use crate::world::{Place, World};

/// Snapshots that are put together at once: each takes disk and memory of its own.
const MAX_JOBS: usize = 2;

/// Attempts to put a snapshot together, with growing pauses: about half an hour.
const MAX_ATTEMPTS: u32 = 30;

/// What a job came to.
#[derive(Debug)]
enum Outcome {
    Made(Box<Result<Made, AssembleError>>),
    /// Everything that was stored is removed.
    Cleaned(Result<()>),
    /// The parts are.
    Tidied(Result<()>),
}

/// All snapshots that are worked on.
pub(crate) struct Work {
    shared: Arc<Shared>,
    jobs: JoinSet<(Place, String, Outcome)>,
    running: BTreeSet<String>,
    pauses: Pauses,
    attempts: BTreeMap<String, u32>,
    /// What finished since the last look.
    finished: Vec<(Place, String, Outcome)>,
}

impl Work {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            jobs: JoinSet::new(),
            running: BTreeSet::new(),
            pauses: Pauses::default(),
            attempts: BTreeMap::new(),
            finished: Vec::new(),
        }
    }

    /// Returns when a job is done.
    pub(crate) async fn finished(&mut self) {
        match self.jobs.join_next().await {
            Some(Ok(done)) => self.finished.push(done),
            Some(Err(error)) => warn!(%error, "a job broke off"),
            None => std::future::pending().await,
        }
    }

    pub(crate) async fn look(&mut self, world: &mut World, now: &Time) {
        for (place, uid, outcome) in std::mem::take(&mut self.finished) {
            self.running.remove(&uid);
            self.take(world, &place, &uid, outcome, now).await;
        }
        let known: BTreeSet<String> = world.snapshots.values().map(uid).collect();
        self.pauses.keep(|what| known.contains(what));
        self.attempts.retain(|what, _| known.contains(what));
        world.parts.retain(|what, _| known.contains(what));
        let places: Vec<Place> = world.snapshots.keys().cloned().collect();
        for place in places {
            let Some(snapshot) = world.snapshots.get(&place).cloned() else {
                continue;
            };
            let uid = uid(&snapshot);
            if self.running.contains(&uid) || self.pauses.holds(&uid) {
                continue;
            }
            let step = snapshots::step(&place, &snapshot, world, now);
            self.follow(world, &place, snapshot, step, now).await;
        }
    }

    async fn follow(
        &mut self,
        world: &mut World,
        place: &Place,
        snapshot: Snapshot,
        step: Step,
        now: &Time,
    ) {
        let uid = uid(&snapshot);
        match step {
            // All are looked at every second.
            Step::Wait(_) => {}
            Step::Hold => self.hold(world, place, &snapshot).await,
            Step::Write(status) => {
                if status.phase == Phase::Merging {
                    // Before they are forgotten.
                    let parts = snapshots::parts(&snapshot, world);
                    world.parts.insert(uid, parts);
                }
                self.write(world, place, &snapshot, &status).await;
            }
            Step::Merge => {
                if self.jobs.len() < MAX_JOBS {
                    self.begin(world, place, &snapshot, now);
                }
            }
            Step::Tidy => {
                let prefix = snapshot
                    .status
                    .as_ref()
                    .and_then(|status| status.order.as_ref())
                    .map(|order| (order.store.clone(), order.prefix.clone()));
                self.remove(place, &uid, prefix, Outcome::Tidied);
            }
            Step::Delete => {
                let api: Api<Snapshot> =
                    Api::namespaced(self.shared.client.clone(), &place.namespace);
                let params = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: Some(uid.clone()),
                        ..Preconditions::default()
                    }),
                    ..DeleteParams::default()
                };
                info!(snapshot = %place, "its time is over");
                let deleted = api.delete(&place.name, &params).await;
                self.shared.wrote("snapshots", deleted.as_ref().map(|_| ()));
                self.pauses.failed(&uid);
            }
            Step::Clean => self.clean(place, &snapshot),
        }
    }

    /// Puts the finalizer there.
    async fn hold(&mut self, world: &mut World, place: &Place, snapshot: &Snapshot) {
        let mut finalizers = snapshot.metadata.finalizers.clone().unwrap_or_default();
        finalizers.push(FINALIZER.to_owned());
        self.finalizers(world, place, snapshot, finalizers).await;
    }

    async fn finalizers(
        &mut self,
        world: &mut World,
        place: &Place,
        snapshot: &Snapshot,
        finalizers: Vec<String>,
    ) {
        let api: Api<Snapshot> = Api::namespaced(self.shared.client.clone(), &place.namespace);
        // With the version: between two writers of finalizers, none is lost.
        let change = json!({ "metadata": {
            "finalizers": finalizers,
            "resourceVersion": snapshot.metadata.resource_version,
        }});
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let written = api.patch(&place.name, &params, &Patch::Merge(change)).await;
        self.shared.wrote("snapshots", written.as_ref().map(|_| ()));
        match written {
            Ok(written) => {
                self.pauses.worked(&uid(snapshot));
                world.snapshots.insert(place.clone(), written);
            }
            Err(_) => self.pauses.failed(&uid(snapshot)),
        }
    }

    async fn write(
        &mut self,
        world: &mut World,
        place: &Place,
        snapshot: &Snapshot,
        status: &SnapshotStatus,
    ) {
        let written = write_status::<Snapshot>(&self.shared.client, place, status).await;
        self.shared.wrote("snapshots", written.as_ref().map(|_| ()));
        match written {
            Ok(written) => {
                self.tell(place, snapshot, status);
                self.pauses.worked(&uid(snapshot));
                world.snapshots.insert(place.clone(), written);
            }
            Err(_) => self.pauses.failed(&uid(snapshot)),
        }
    }

    fn tell(&self, place: &Place, snapshot: &Snapshot, status: &SnapshotStatus) {
        let before = snapshot.status.as_ref().map(|status| status.phase);
        if before == Some(status.phase) {
            return;
        }
        let phase = format!("{:?}", status.phase);
        let ready = tapedeck_cluster::conditions::of(&status.conditions, "Ready");
        let message = ready.map(|ready| ready.message.clone()).unwrap_or_default();
        info!(snapshot = %place, phase, message, "snapshot");
        let failed = status.phase == Phase::Failed;
        self.shared
            .event(snapshot.object_ref(&()), failed, &phase, message);
    }

    fn folder_of(&self, uid: &str) -> PathBuf {
        self.shared.scratch.join(uid)
    }

    fn begin(&mut self, world: &World, place: &Place, snapshot: &Snapshot, now: &Time) {
        let uid = uid(snapshot);
        let Some(order) = snapshot
            .status
            .as_ref()
            .and_then(|status| status.order.clone())
        else {
            return;
        };
        let store = self.shared.stores.get(&order.store).cloned();
        let job = Job {
            place: place.clone(),
            key: snapshots::result_key(place, snapshot),
            parts: world.parts.get(&uid).cloned().unwrap_or_default(),
            filter: snapshot.spec.filter.clone(),
            scratch: self.folder_of(&uid),
            created: now.0,
            order,
        };
        self.running.insert(uid.clone());
        let place = place.clone();
        self.jobs.spawn(async move {
            let made = match store {
                Some(store) => assemble(job, store).await,
                // It was there when the order was written.
                None => Err(AssembleError::Scratch {
                    path: PathBuf::from(job.order.store),
                    source: std::io::Error::other("there is no such store any more"),
                }),
            };
            (place, uid, Outcome::Made(Box::new(made)))
        });
    }

    /// Removes everything that a snapshot stored.
    fn clean(&mut self, place: &Place, snapshot: &Snapshot) {
        let status = snapshot.status.as_ref();
        let store = status
            .and_then(|status| status.order.as_ref())
            .map(|order| order.store.clone());
        let uid = uid(snapshot);
        let folder = snapshots::folder(place, snapshot);
        // Without an order nothing was ever stored.
        let what = store.map(|store| (store, folder));
        self.remove(place, &uid, what, Outcome::Cleaned);
    }

    fn remove(
        &mut self,
        place: &Place,
        uid: &str,
        what: Option<(String, String)>,
        outcome: fn(Result<()>) -> Outcome,
    ) {
        let store = what
            .as_ref()
            .and_then(|(store, _)| self.shared.stores.get(store).cloned());
        let scratch = self.folder_of(uid);
        let (place, uid) = (place.clone(), uid.to_owned());
        self.running.insert(uid.clone());
        self.jobs.spawn(async move {
            let removed = async {
                match std::fs::remove_dir_all(&scratch) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        warn!(%error, folder = %scratch.display(), "failed to remove a folder");
                    }
                    _ => {}
                }
                match (what, store) {
                    (Some((_, folder)), Some(store)) => {
                        let count = store.delete_all(&folder).await?;
                        info!(snapshot = %place, count, folder, "removed from the store");
                    }
                    (Some((name, folder)), None) => {
                        // Nobody can remove it then but a person. The snapshot must not hang on it forever.
                        warn!(snapshot = %place, store = name, folder, "the store is not configured any more: what lies there stays");
                    }
                    (None, _) => {}
                }
                Ok(())
            };
            let result = removed.await;
            (place, uid, outcome(result))
        });
    }

    async fn take(
        &mut self,
        world: &mut World,
        place: &Place,
        id: &str,
        outcome: Outcome,
        now: &Time,
    ) {
        let snapshot = world.snapshots.get(place).cloned();
        // Another one of the same name is another one.
        let Some(snapshot) = snapshot.filter(|snapshot| uid(snapshot) == id) else {
            return;
        };
        match outcome {
            Outcome::Made(made) => self.made(world, place, &snapshot, *made, now).await,
            Outcome::Tidied(Ok(())) => {
                let status = snapshots::tidied(&snapshot, now);
                self.write(world, place, &snapshot, &status).await;
            }
            Outcome::Cleaned(Ok(())) => {
                let left = snapshot.metadata.finalizers.clone().unwrap_or_default();
                let left = left.into_iter().filter(|name| name != FINALIZER).collect();
                self.finalizers(world, place, &snapshot, left).await;
            }
            Outcome::Tidied(Err(error)) | Outcome::Cleaned(Err(error)) => {
                self.failed(place, &snapshot, "RemovalFailed", &error);
            }
        }
    }

    fn failed(&mut self, place: &Place, snapshot: &Snapshot, reason: &str, error: &anyhow::Error) {
        let why = format!("{error:#}");
        warn!(snapshot = %place, error = why, reason, "tried again later");
        self.shared
            .metrics
            .add("tapedeck_controller_snapshot_failures_total", "", 1);
        self.shared
            .event(snapshot.object_ref(&()), true, reason, why);
        self.pauses.failed(&uid(snapshot));
    }

    async fn made(
        &mut self,
        world: &mut World,
        place: &Place,
        snapshot: &Snapshot,
        made: Result<Made, AssembleError>,
        now: &Time,
    ) {
        let id = uid(snapshot);
        if snapshot.metadata.deletion_timestamp.is_some() {
            return;
        }
        let status = match made {
            Ok(made) => {
                self.shared.metrics.add(
                    "tapedeck_controller_snapshot_bytes_total",
                    "",
                    made.location.bytes,
                );
                snapshots::done(snapshot, made, now)
            }
            Err(error) => {
                let attempts = self.attempts.entry(id.clone()).or_default();
                *attempts = attempts.saturating_add(1);
                let again = error.is_passing() && *attempts < MAX_ATTEMPTS;
                let error = anyhow::Error::new(error).context("failed to put it together");
                let why = format!("{error:#}");
                self.failed(place, snapshot, "MergeFailed", &error);
                if again {
                    snapshots::delayed(snapshot, &why, now)
                } else {
                    snapshots::failed(snapshot, "MergeFailed", why, now)
                }
            }
        };
        if snapshot.status.as_ref() != Some(&status) {
            let pausing = status.phase == Phase::Merging;
            self.write(world, place, snapshot, &status).await;
            if pausing {
                // Writing the reason down did not make it better.
                self.pauses.failed(&id);
            }
        }
    }
}
