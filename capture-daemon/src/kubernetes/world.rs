//! What is known of the cluster on this node: its pods, the recordings, what becomes of both.
//!
//! The watches write it, everything else reads it; what was known last stays when the API server is
//! away. Pods that are gone are remembered for a while, as what they said may still be under way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tapedeck_cluster::{NodeRecordingState, Retention};
use tapedeck_model::{Connection, Timestamp, Workload};
use tokio::sync::Notify;

use super::facts::PodFacts;
use super::plan::{self, Layout, Standing, Take};
use super::selection::Wanted;
use crate::attribution::{Directory, Place, PodName, place};
use crate::sources::Policy;

/// How long a pod is remembered after it is gone: exchanges that run into a timeout of the engine come
/// some minutes late.
const TOMBSTONE: Duration = Duration::from_mins(10);

/// Pods that are remembered after they are gone. A node that starts one each second has as many within
/// the time above.
const MOST_GONE: usize = 1_024;

/// A watch that has not failed for so long is there again: it says so only when something changes, and
/// one that fails is tried anew within this.
const TROUBLE: Duration = Duration::from_secs(90);

/// Pods that are named where some are named.
const SOME: usize = 8;

/// What is known of the cluster on this node.
#[derive(Debug)]
pub struct World {
    own_namespace: String,
    inner: Mutex<Inner>,
    /// Changes with what is to be taken.
    generation: AtomicU64,
    /// Told when a report should be written at once.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    pods: BTreeMap<String, Pod>,
    /// Which pod said last that it has an address.
    addresses: BTreeMap<IpAddr, String>,
    recordings: BTreeMap<String, Followed>,
    are_pods_known: bool,
    are_recordings_known: bool,
    /// What could not be watched, when, and why.
    troubles: BTreeMap<&'static str, (Instant, String)>,
    quarantine: QuarantineCounts,
    unattributed: u64,
}

#[derive(Debug)]
struct Pod {
    facts: PodFacts,
    gone: Option<Instant>,
    /// The recordings that record it.
    recorded: Vec<Arc<Wanted>>,
}

#[derive(Clone, Debug)]
struct Followed {
    wanted: Arc<Wanted>,
    standing: Standing,
    tally: Tally,
}

/// What a recording came to on this node, since the daemon knows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Exchanges that it asks for.
    pub seen: u64,
    /// Exchanges that were written.
    pub archived: u64,
    /// Bytes of archives that were written, those that were deleted since included.
    pub written: u64,
    /// What was lost, by cause.
    pub lost: BTreeMap<&'static str, u64>,
    /// Connections that could not be read, by why, with some of their pods.
    pub unread: BTreeMap<&'static str, (u64, BTreeSet<String>)>,
    /// Why nothing can be written now.
    pub failing: Option<String>,
}

/// What became of traffic of pods that nothing was known of.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct QuarantineCounts {
    /// Exchanges that were held.
    pub held: u64,
    /// Dropped, as nothing came to be known in time.
    pub expired: u64,
    /// Dropped for want of room.
    pub full: u64,
}

/// What is to be done with the traffic of a connection.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Nothing is known yet of a pod at one of its ends.
    Unknown,
    /// It goes into these recordings.
    Goes(Vec<Arc<Wanted>>),
}

/// A recording, for the report.
#[derive(Clone, Debug)]
pub struct RecordingNow {
    /// The recording.
    pub wanted: Arc<Wanted>,
    /// What is done about it.
    pub state: NodeRecordingState,
    /// Why, where it is not recorded.
    pub message: String,
    /// Its pods on this node, `NAMESPACE/NAME`.
    pub pods: Vec<String>,
    /// Containers of its pods that are started again and again.
    pub crash_loops: Vec<String>,
    /// What it came to.
    pub tally: Tally,
}

impl World {
    /// Nothing is known yet. `own_namespace` is Tapedeck's own.
    #[must_use]
    pub fn new(own_namespace: &str) -> Self {
        Self {
            own_namespace: own_namespace.to_owned(),
            inner: Mutex::default(),
            generation: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// Tapedeck's own namespace.
    #[must_use]
    pub fn own_namespace(&self) -> &str {
        &self.own_namespace
    }

    /// Changes with what is to be taken.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns when something changed that should be told at once.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// All pods of the node, from a list.
    pub fn set_pods(&self, pods: Vec<PodFacts>) {
        let mut inner = self.lock();
        let now = Instant::now();
        let listed: BTreeSet<String> = pods.iter().map(|pod| pod.uid.clone()).collect();
        for (uid, pod) in &mut inner.pods {
            if !listed.contains(uid) {
                pod.gone.get_or_insert(now);
            }
        }
        for pod in pods {
            inner.put_pod(pod);
        }
        inner.are_pods_known = true;
        self.update(inner);
    }

    /// A pod that came or changed.
    pub fn put_pod(&self, pod: PodFacts) {
        let mut inner = self.lock();
        inner.put_pod(pod);
        self.update(inner);
    }

    /// A pod that is gone.
    pub fn pod_gone(&self, uid: &str) {
        let mut inner = self.lock();
        if let Some(pod) = inner.pods.get_mut(uid) {
            pod.gone.get_or_insert_with(Instant::now);
        }
        self.update(inner);
    }

    /// All recordings, from a list.
    pub fn set_recordings(&self, recordings: Vec<Wanted>) {
        let mut inner = self.lock();
        let listed: BTreeSet<&str> = recordings.iter().map(|of| of.uid.as_str()).collect();
        inner
            .recordings
            .retain(|uid, _| listed.contains(uid.as_str()));
        for wanted in recordings {
            inner.put_recording(wanted);
        }
        inner.are_recordings_known = true;
        self.update(inner);
    }

    /// A recording that came or changed.
    pub fn put_recording(&self, wanted: Wanted) {
        let mut inner = self.lock();
        if inner.put_recording(wanted) {
            self.update(inner);
        }
    }

    /// A recording that was deleted.
    pub fn recording_gone(&self, uid: &str) {
        let mut inner = self.lock();
        inner.recordings.remove(uid);
        self.update(inner);
    }

    /// Lets time pass: recordings end, pods that are gone are forgotten.
    pub fn tick(&self, seconds: i64) {
        let mut inner = self.lock();
        inner.forget();
        if inner.settle(seconds) {
            self.tell(inner);
        }
    }

    /// What of this cannot be watched, and why; `None`: it can.
    pub fn trouble(&self, what: &'static str, why: Option<String>) {
        let mut inner = self.lock();
        let before = match why {
            Some(why) => inner.troubles.insert(what, (Instant::now(), why)),
            None => inner.troubles.remove(what),
        };
        if before.is_some() != inner.troubles.contains_key(what) {
            drop(inner);
            self.changed.notify_one();
        }
    }

    /// What cannot be watched, and why.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let inner = self.lock();
        inner
            .troubles
            .iter()
            .filter(|(_, (at, _))| at.elapsed() < TROUBLE)
            .map(|(what, (_, why))| format!("{what}: {why}"))
            .collect()
    }

    /// What keeps the daemon from knowing what to record: it never could ask yet.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        let inner = self.lock();
        let known = [
            ("pods", inner.are_pods_known),
            ("recordings", inner.are_recordings_known),
        ];
        let (what, _) = known.into_iter().find(|(_, is_known)| !is_known)?;
        let why = inner.troubles.get(what).map(|(_, why)| why.as_str());
        Some(format!(
            "waiting for the API server to list {what}: {}",
            why.unwrap_or("no answer yet")
        ))
    }

    /// What the kernel is to take.
    #[must_use]
    pub fn policy(&self, layout: &Layout) -> Policy {
        let inner = self.lock();
        if inner.active().next().is_none() || !inner.are_pods_known {
            return plan::nothing();
        }
        let known = inner.pods.iter().map(|(uid, pod)| {
            let recorded = pod.recorded.iter().map(|of| &**of);
            (uid.as_str(), Take::of(recorded))
        });
        plan::policy(layout, known)
    }

    /// The recordings that are recorded now, where they have pods.
    #[must_use]
    pub fn active(&self) -> Vec<Arc<Wanted>> {
        self.lock().active().cloned().collect()
    }

    /// Whether there is such a recording; `None`: recordings were never listed.
    #[must_use]
    pub fn has_recording(&self, uid: &str) -> Option<bool> {
        let inner = self.lock();
        inner
            .are_recordings_known
            .then(|| inner.recordings.contains_key(uid))
    }

    /// What is to be kept of a recording; `None`: it is not known.
    #[must_use]
    pub fn retention(&self, uid: &str) -> Option<Retention> {
        let inner = self.lock();
        let followed = inner.recordings.get(uid)?;
        Some(followed.wanted.spec.retention.clone().unwrap_or_default())
    }

    /// Into which recordings the traffic of a connection goes, by its pods, ports and share. `is_last`:
    /// what is not known by now is not waited for.
    #[must_use]
    pub fn verdict(&self, connection: &Connection, is_last: bool) -> Verdict {
        let inner = self.lock();
        let mut goes: Vec<Arc<Wanted>> = Vec::new();
        let workloads = &connection.workloads;
        for workload in [&workloads.client, &workloads.server].into_iter().flatten() {
            let Place {
                pod_uid: Some(uid),
                container_id,
            } = place(workload.cgroup.as_deref().unwrap_or_default())
            else {
                continue;
            };
            let Some(pod) = inner.pods.get(&uid) else {
                if is_last {
                    continue;
                }
                return Verdict::Unknown;
            };
            let container = container_id.and_then(|id| pod.facts.containers.get(&id));
            for wanted in &pod.recorded {
                let names_containers = !wanted.spec.selector.containers.is_empty();
                if names_containers && container.is_none() && !is_last {
                    return Verdict::Unknown;
                }
                if wanted.takes_container(container.map(String::as_str))
                    && !goes.iter().any(|of| of.uid == wanted.uid)
                {
                    goes.push(Arc::clone(wanted));
                }
            }
        }
        goes.retain(|wanted| wanted.takes_connection(connection));
        Verdict::Goes(goes)
    }

    /// The workload with the names that are known by now; `None`: it has them.
    #[must_use]
    pub fn named(&self, workload: &Workload) -> Option<Workload> {
        let place = place(workload.cgroup.as_deref()?);
        let inner = self.lock();
        let facts = &inner.pods.get(place.pod_uid.as_deref()?)?.facts;
        let mut named = workload.clone();
        named.namespace = Some(facts.namespace.clone());
        named.pod = Some(facts.name.clone());
        named.owner = facts.owner();
        let container = place.container_id.and_then(|id| facts.containers.get(&id));
        if let Some(container) = container {
            named.container = Some(container.clone());
        }
        (named != *workload).then_some(named)
    }

    /// The pod of this node that has that address, and had it when the connection was opened: for an end of which
    /// nothing was captured. By the clock of this node alone, which is the kubelet's, too.
    #[must_use]
    pub fn at(&self, address: IpAddr, opened: Timestamp) -> Option<Workload> {
        let inner = self.lock();
        let pod = inner.pods.get(inner.addresses.get(&address)?)?;
        let facts = &pod.facts;
        let was_there = facts
            .started
            .is_some_and(|started| opened.as_nanos() >= started.saturating_mul(1_000_000_000));
        // One that is gone, or has ended, may have given its address to a pod of another node.
        (was_there && pod.gone.is_none() && facts.addresses.contains(&address)).then(|| Workload {
            namespace: Some(facts.namespace.clone()),
            pod: Some(facts.name.clone()),
            owner: facts.owner(),
            ..Workload::default()
        })
    }

    /// Counts for a recording.
    pub fn count(&self, uid: &str, add: impl FnOnce(&mut Tally)) {
        let mut inner = self.lock();
        let Some(followed) = inner.recordings.get_mut(uid) else {
            return;
        };
        let was_failing = followed.tally.failing.is_some();
        add(&mut followed.tally);
        if was_failing != followed.tally.failing.is_some() {
            drop(inner);
            self.changed.notify_one();
        }
    }

    /// Why nothing can be written of a recording.
    #[must_use]
    pub fn failing(&self, uid: &str) -> Option<String> {
        self.lock().recordings.get(uid)?.tally.failing.clone()
    }

    /// Counts what became of traffic of unknown pods.
    pub fn count_quarantine(&self, add: impl FnOnce(&mut QuarantineCounts)) {
        add(&mut self.lock().quarantine);
    }

    /// What became of traffic of unknown pods.
    #[must_use]
    pub fn quarantine(&self) -> QuarantineCounts {
        self.lock().quarantine
    }

    /// Counts an exchange that nobody can be told to have said, as its cgroup was gone too soon.
    pub fn count_unattributed(&self) {
        self.lock().unattributed += 1;
    }

    /// Exchanges of which nobody can be told to have said them.
    #[must_use]
    pub fn unattributed(&self) -> u64 {
        self.lock().unattributed
    }

    /// The recordings as they stand.
    #[must_use]
    pub fn recordings(&self) -> Vec<RecordingNow> {
        let inner = self.lock();
        let of = |followed: &Followed| {
            let Followed {
                wanted,
                standing,
                tally,
            } = followed;
            let mut now = RecordingNow {
                wanted: Arc::clone(wanted),
                state: standing.state,
                message: standing.message.clone(),
                pods: Vec::new(),
                crash_loops: Vec::new(),
                tally: tally.clone(),
            };
            for pod in inner.pods.values().filter(|pod| pod.gone.is_none()) {
                if pod.recorded.iter().any(|of| of.uid == wanted.uid) {
                    let PodFacts {
                        namespace, name, ..
                    } = &pod.facts;
                    now.pods.push(format!("{namespace}/{name}"));
                    let looping = pod.facts.crash_loops.iter();
                    now.crash_loops
                        .extend(looping.map(|of| format!("{namespace}/{name}/{of}")));
                }
            }
            now.pods.sort();
            if now.state == NodeRecordingState::Attached && now.pods.is_empty() {
                now.state = NodeRecordingState::Waiting;
                now.message = "none of its pods is on this node".to_owned();
            }
            if let Some(why) = &tally.failing
                && now.state == NodeRecordingState::Attached
            {
                now.message = format!("nothing can be written: {why}");
            }
            now
        };
        inner.recordings.values().map(of).collect()
    }

    /// Some names of pods, for a report.
    #[must_use]
    pub fn some(pods: &BTreeSet<String>) -> Vec<String> {
        pods.iter().take(SOME).cloned().collect()
    }

    fn update(&self, mut inner: MutexGuard<'_, Inner>) {
        let seconds = jiff::Timestamp::now().as_second();
        inner.settle(seconds);
        inner.select();
        self.tell(inner);
    }

    fn tell(&self, inner: MutexGuard<'_, Inner>) {
        drop(inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
    }

    /// What is behind the lock is changed in steps that leave it whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory for World {
    fn pod(&self, uid: &str) -> Option<PodName> {
        let inner = self.lock();
        let facts = &inner.pods.get(uid)?.facts;
        Some(PodName {
            namespace: facts.namespace.clone(),
            name: facts.name.clone(),
            owner: facts.owner(),
        })
    }

    fn container(&self, pod: &str, id: &str) -> Option<String> {
        let inner = self.lock();
        inner.pods.get(pod)?.facts.containers.get(id).cloned()
    }
}

impl Inner {
    fn put_pod(&mut self, mut facts: PodFacts) {
        if let Some(before) = self.pods.get(&facts.uid) {
            facts.remember(&before.facts);
        }
        for address in &facts.addresses {
            self.addresses.insert(*address, facts.uid.clone());
        }
        let pod = Pod {
            facts,
            gone: None,
            recorded: Vec::new(),
        };
        self.pods.insert(pod.facts.uid.clone(), pod);
    }

    /// Whether anything changed: the status of a recording is written often, and asks for nothing.
    fn put_recording(&mut self, wanted: Wanted) -> bool {
        if let Some(followed) = self.recordings.get_mut(&wanted.uid) {
            let is_new = *followed.wanted != wanted;
            followed.wanted = Arc::new(wanted);
            return is_new;
        }
        let followed = Followed {
            standing: Standing {
                state: NodeRecordingState::Unknown,
                message: String::new(),
            },
            tally: Tally::default(),
            wanted: Arc::new(wanted),
        };
        self.recordings
            .insert(followed.wanted.uid.clone(), followed);
        true
    }

    fn active(&self) -> impl Iterator<Item = &Arc<Wanted>> {
        self.recordings
            .values()
            .filter(|of| of.standing.state == NodeRecordingState::Attached)
            .map(|of| &of.wanted)
    }

    /// Works out what each recording comes to. Whether that changed.
    fn settle(&mut self, seconds: i64) -> bool {
        let recordings = &self.recordings;
        let written = |wanted: &Wanted| {
            let of = recordings.get(&wanted.uid);
            of.map_or(0, |followed| followed.tally.written)
        };
        let all = recordings.values().map(|of| &*of.wanted);
        let standings = plan::standings(all, seconds, written);
        let mut has_changed = false;
        for (uid, standing) in standings {
            if let Some(followed) = self.recordings.get_mut(&uid)
                && followed.standing != standing
            {
                followed.standing = standing;
                has_changed = true;
            }
        }
        if has_changed {
            self.select();
        }
        has_changed
    }

    /// Works out which pods each recording records.
    fn select(&mut self) {
        let active: Vec<_> = self.active().cloned().collect();
        for pod in self.pods.values_mut() {
            let selects = |of: &&Arc<Wanted>| of.selects(&pod.facts);
            pod.recorded = active.iter().filter(selects).cloned().collect();
        }
    }

    fn forget(&mut self) {
        let mut gone: Vec<_> = self
            .pods
            .iter()
            .filter_map(|(uid, pod)| Some((pod.gone?, uid.clone())))
            .collect();
        gone.sort();
        let too_many = gone.len().saturating_sub(MOST_GONE);
        for (number, (at, uid)) in gone.into_iter().enumerate() {
            if number < too_many || at.elapsed() >= TOMBSTONE {
                self.pods.remove(&uid);
                self.addresses.retain(|_, of| *of != uid);
            }
        }
    }
}
