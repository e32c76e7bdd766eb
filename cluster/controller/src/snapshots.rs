//! What is to be done about a snapshot. Pure: the resources and the time in, steps out.
//!
//! ```text
//!            order written          all have delivered, or the deadline
//! Pending ────────────────► Collecting ───────────────────────────────► Merging ──► Ready
//!    │                                                                     │
//!    └──────────────► Failed ◄─────────────────────────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tapedeck_cluster::conditions::{self, Said};
use tapedeck_cluster::{
    Completeness, FINALIZER, NodeReport, NodeSnapshot, NodeSnapshotState, Order, Phase, Recording,
    Snapshot, SnapshotStatus,
};
use tapedeck_filter::Filter;

use crate::world::{Part, Place, World, seconds_between, silent_since, unread};

/// How long nodes have when the snapshot does not say.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(600);

/// A recording that was made together with its snapshot may come to us later than it.
const RECORDINGS_MAY_LAG_SECONDS: i64 = 10;

/// Missing nodes that are named; the counts say how many there are.
const MAX_MISSING_NAMED: usize = 32;

/// Why a node is missing from a snapshot is cut at this length: 32 of them lie in one object.
const MAX_REASON: usize = 256;

/// The condition that says that the parts are removed.
pub const TIDY: &str = "PartsRemoved";

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing, but to look again after so long; unset: when something changes.
    Wait(Option<Duration>),
    /// The finalizer is missing: it comes before anything is stored.
    Hold,
    /// Write this status.
    Write(Box<SnapshotStatus>),
    /// Put the parts together, and then write what came of it.
    Merge,
    /// Remove the parts, and then say so: nobody needs them any more.
    Tidy,
    /// Its time is over.
    Delete,
    /// Remove what was stored, then the finalizer.
    Clean,
}

/// The next step for a snapshot.
#[must_use]
pub fn step(place: &Place, snapshot: &Snapshot, world: &World, now: &Time) -> Step {
    let held = snapshot
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|name| name == FINALIZER);
    if snapshot.metadata.deletion_timestamp.is_some() {
        return if held { Step::Clean } else { Step::Wait(None) };
    }
    let status = snapshot.status.clone().unwrap_or_default();
    match status.phase {
        Phase::Pending if !held => Step::Hold,
        Phase::Pending => begin(place, snapshot, world, now),
        Phase::Collecting => collect(snapshot, status, world, now),
        Phase::Merging => {
            let uid = snapshot.metadata.uid.as_deref().unwrap_or_default();
            if world.parts.contains_key(uid) {
                Step::Merge
            } else {
                // Another controller knew the parts. The nodes have them, and do not send them twice.
                ask_again(snapshot, status, now)
            }
        }
        Phase::Ready | Phase::Failed => finished(snapshot, &status, now),
    }
}

fn ask_again(snapshot: &Snapshot, mut status: SnapshotStatus, now: &Time) -> Step {
    status.phase = Phase::Collecting;
    let until = deadline(snapshot, now);
    if let Some(order) = &mut status.order {
        order.deadline = Some(until);
    }
    let said = ready(
        Some(false),
        "Collecting",
        "the controller was replaced: asked again",
    );
    say(snapshot, &mut status, now, said);
    Step::Write(Box::new(status))
}

fn deadline(snapshot: &Snapshot, now: &Time) -> Time {
    let deadline = snapshot
        .spec
        .deadline
        .map_or(DEFAULT_DEADLINE, |span| span.0);
    let until = jiff::SignedDuration::try_from(deadline)
        .ok()
        .and_then(|deadline| now.0.checked_add(deadline).ok());
    Time(until.unwrap_or(jiff::Timestamp::MAX))
}

/// The parts are removed; a snapshot with a time to live is, when that is over.
fn finished(snapshot: &Snapshot, status: &SnapshotStatus, now: &Time) -> Step {
    if status.order.is_some() && !conditions::holds(&status.conditions, TIDY) {
        return Step::Tidy;
    }
    let (Some(ttl), Some(at)) = (snapshot.spec.ttl, &status.finished_at) else {
        return Step::Wait(None);
    };
    let passed = u64::try_from(seconds_between(at, now)).unwrap_or_default();
    match ttl.0.as_secs().checked_sub(passed) {
        None | Some(0) => Step::Delete,
        Some(left) => Step::Wait(Some(Duration::from_secs(left))),
    }
}

/// A status that says that it failed, and why.
#[must_use]
pub fn failed(
    snapshot: &Snapshot,
    reason: &'static str,
    message: String,
    now: &Time,
) -> SnapshotStatus {
    let mut status = snapshot.status.clone().unwrap_or_default();
    status.phase = Phase::Failed;
    status.finished_at = Some(now.clone());
    say(
        snapshot,
        &mut status,
        now,
        ready(Some(false), reason, message),
    );
    status
}

fn ready(holds: Option<bool>, reason: &'static str, message: impl Into<String>) -> Said {
    Said {
        of: "Ready",
        holds,
        reason,
        message: message.into(),
    }
}

fn say(snapshot: &Snapshot, status: &mut SnapshotStatus, now: &Time, said: Said) {
    let generation = snapshot.metadata.generation;
    status.observed_generation = generation;
    conditions::say(&mut status.conditions, now, generation, said);
}

/// Where everything of a snapshot lies: nothing of another one does.
#[must_use]
pub fn folder(place: &Place, snapshot: &Snapshot) -> String {
    let uid = snapshot.metadata.uid.as_deref().unwrap_or_default();
    format!("{}/{}/{uid}", place.namespace, place.name)
}

/// Where the result lies.
#[must_use]
pub fn result_key(place: &Place, snapshot: &Snapshot) -> String {
    format!("{}/{}.tape", folder(place, snapshot), place.name)
}

/// The recordings that a snapshot names, or what is to be done without them.
fn recordings<'a>(
    place: &Place,
    snapshot: &Snapshot,
    world: &'a World,
    now: &Time,
) -> Result<Vec<&'a Recording>, Step> {
    let fail = |reason, message| Step::Write(Box::new(failed(snapshot, reason, message, now)));
    let mut recordings: Vec<&Recording> = Vec::new();
    for name in &snapshot.spec.recordings {
        let wanted = Place {
            namespace: place.namespace.clone(),
            name: name.clone(),
        };
        match world.recordings.get(&wanted) {
            Some(recording) => recordings.push(recording),
            None if world.unread_recordings.contains_key(&wanted) => {
                let why = format!(
                    "the recording {wanted} is not understood by the controller {}: `tapedeck cluster upgrade`, \
                     then take another snapshot",
                    env!("CARGO_PKG_VERSION")
                );
                return Err(fail("NotUnderstood", why));
            }
            None => {
                let age = snapshot
                    .metadata
                    .creation_timestamp
                    .as_ref()
                    .map_or(i64::MAX, |made| seconds_between(made, now));
                if age < RECORDINGS_MAY_LAG_SECONDS {
                    return Err(Step::Wait(Some(Duration::from_secs(1))));
                }
                return Err(fail(
                    "NoSuchRecording",
                    format!("there is no recording {wanted}"),
                ));
            }
        }
    }
    Ok(recordings)
}

fn begin(place: &Place, snapshot: &Snapshot, world: &World, now: &Time) -> Step {
    let fail = |reason, message| Step::Write(Box::new(failed(snapshot, reason, message, now)));
    if let Some(filter) = &snapshot.spec.filter
        && let Err(error) = Filter::parse(filter)
    {
        return fail("BadFilter", format!("spec.filter: {error}"));
    }
    let recordings = match recordings(place, snapshot, world, now) {
        Ok(recordings) => recordings,
        Err(step) => return step,
    };
    let named = snapshot.spec.destination.as_ref().or_else(|| {
        recordings
            .first()
            .and_then(|recording| recording.spec.destination.as_ref())
    });
    let store = match named {
        Some(destination) => Some(&destination.store),
        None => world.stores.first(),
    };
    let Some(store) = store.filter(|name| world.stores.contains(name)) else {
        let what = match store {
            Some(name) => format!("there is no store {name:?}; this installation has: "),
            None => "no store is configured".to_owned(),
        };
        return fail("NoSuchStore", what + &world.stores.join(", "));
    };
    if world.reports.is_empty() && world.unread.is_empty() {
        return fail(
            "NoNodes",
            "no node reports anything: is the DaemonSet tapedeck-node there?".to_owned(),
        );
    }
    if world.unread.is_empty() && world.reports.values().all(is_encrypted) {
        return fail("Encrypted", where_the_encrypted_are(&recordings));
    }
    let asked: BTreeSet<String> = world
        .reports
        .keys()
        .chain(world.unread.keys())
        .cloned()
        .collect();
    let asked: Vec<String> = asked.into_iter().collect();
    let count = asked.len();
    let mut status = snapshot.status.clone().unwrap_or_default();
    status.phase = Phase::Collecting;
    status.order = Some(Order {
        recordings: recordings
            .iter()
            .filter_map(|recording| recording.metadata.uid.clone())
            .collect(),
        from: snapshot.spec.from.clone(),
        // Up to the making of the snapshot, if nothing was said.
        to: snapshot
            .spec
            .to
            .clone()
            .or_else(|| Some(end_of_second(now))),
        store: store.clone(),
        prefix: format!("{}/parts", folder(place, snapshot)),
        nodes: asked,
        deadline: Some(deadline(snapshot, now)),
    });
    say(
        snapshot,
        &mut status,
        now,
        ready(
            Some(false),
            "Collecting",
            format!("0 of {count} nodes have delivered"),
        ),
    );
    status.completeness = Completeness {
        nodes: format!("0/{count}"),
        nodes_asked: u32::try_from(count).unwrap_or(u32::MAX),
        ..Completeness::default()
    };
    Step::Write(Box::new(status))
}

/// What somebody can do where no node can cut its archives.
fn where_the_encrypted_are(recordings: &[&Recording]) -> String {
    let uids: Vec<&str> = recordings
        .iter()
        .filter_map(|recording| recording.metadata.uid.as_deref())
        .collect();
    format!(
        "all nodes keep their archives encrypted (node.archive.encryptTo), and a snapshot takes the key, which no node \
         has: fetch the folders recordings/{{{}}} below /var/lib/tapedeck of the nodes, and open them with the key \
         (`tapedeck ls --identity`)",
        uids.join(",")
    )
}

fn is_encrypted(report: &NodeReport) -> bool {
    let status = report.status.as_ref();
    status.is_some_and(|status| status.facts.encrypted)
}

/// Times of the API have whole seconds: what was recorded within this one belongs to the snapshot.
fn end_of_second(now: &Time) -> Time {
    let next = now.0.as_second().saturating_add(1);
    Time(jiff::Timestamp::from_second(next).unwrap_or(now.0))
}

/// All parts that the nodes have delivered.
#[must_use]
pub fn parts(snapshot: &Snapshot, world: &World) -> Vec<Part> {
    let uid = snapshot.metadata.uid.as_deref().unwrap_or_default();
    let delivered = world.reports.iter().filter_map(|(node, report)| {
        let said = said(report, uid)?;
        (said.state == NodeSnapshotState::Delivered).then_some((node, said))
    });
    delivered
        .flat_map(|(node, said)| {
            said.parts.iter().map(|part| Part {
                node: node.clone(),
                part: part.clone(),
            })
        })
        .collect()
}

/// The status of a finished snapshot whose parts are removed.
#[must_use]
pub fn tidied(snapshot: &Snapshot, now: &Time) -> SnapshotStatus {
    let mut status = snapshot.status.clone().unwrap_or_default();
    let said = Said {
        of: TIDY,
        holds: Some(true),
        reason: "Removed",
        message: String::new(),
    };
    say(snapshot, &mut status, now, said);
    status
}

/// The status of a snapshot whose parts could not be put together this time.
#[must_use]
pub fn delayed(snapshot: &Snapshot, why: &str, now: &Time) -> SnapshotStatus {
    let mut status = snapshot.status.clone().unwrap_or_default();
    say(
        snapshot,
        &mut status,
        now,
        ready(Some(false), "Retrying", cut(why)),
    );
    status
}

/// How far the nodes are with an order.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Delivery {
    /// Nodes that have delivered.
    pub delivered: Vec<String>,
    /// Nodes that will not deliver, with the reason.
    pub missing: BTreeMap<String, String>,
    /// Nodes that are at work.
    pub waiting: Vec<String>,
}

/// What a node says about a snapshot.
#[must_use]
pub fn said<'a>(report: &'a NodeReport, uid: &str) -> Option<&'a NodeSnapshot> {
    let status = report.status.as_ref()?;
    status.snapshots.iter().find(|said| said.uid == uid)
}

/// How far the nodes are.
#[must_use]
pub fn delivery(snapshot: &Snapshot, order: &Order, world: &World, now: &Time) -> Delivery {
    let uid = snapshot.metadata.uid.as_deref().unwrap_or_default();
    let mut delivery = Delivery::default();
    for node in &order.nodes {
        let Some(report) = world.reports.get(node) else {
            // An upgrade that is under way may be done by the deadline.
            if world.unread.contains_key(node) {
                delivery.waiting.push(node.clone());
                continue;
            }
            let why = "the node is gone".to_owned();
            delivery.missing.insert(node.clone(), why);
            continue;
        };
        let said = said(report, uid);
        match said.map(|said| (said.state, said.message.as_str())) {
            Some((NodeSnapshotState::Delivered, _)) => delivery.delivered.push(node.clone()),
            Some((NodeSnapshotState::Failed, message)) => {
                delivery.missing.insert(node.clone(), cut(message));
            }
            _ => match silent_since(report, now) {
                Some(since) => {
                    let why = format!("it has said nothing since {}", since.0);
                    delivery.missing.insert(node.clone(), why);
                }
                None => delivery.waiting.push(node.clone()),
            },
        }
    }
    delivery
}

fn cut(message: &str) -> String {
    message.chars().take(MAX_REASON).collect()
}

fn collect(snapshot: &Snapshot, mut status: SnapshotStatus, world: &World, now: &Time) -> Step {
    let Some(order) = status.order.clone() else {
        // Somebody took it out: without it nothing can be known.
        let why = "status.order is gone".to_owned();
        return Step::Write(Box::new(failed(snapshot, "OrderLost", why, now)));
    };
    let mut delivery = delivery(snapshot, &order, world, now);
    let left = order
        .deadline
        .as_ref()
        .map_or(0, |deadline| seconds_between(now, deadline));
    if left <= 0 {
        for node in std::mem::take(&mut delivery.waiting) {
            let uid = snapshot.metadata.uid.as_deref().unwrap_or_default();
            let why = world
                .reports
                .get(&node)
                .and_then(|report| said(report, uid))
                .map(|said| format!("not done by the deadline: {}", said.message))
                .or_else(|| world.unread.get(&node).map(|why| unread(why)))
                .unwrap_or_else(|| "not begun by the deadline".to_owned());
            delivery.missing.insert(node, cut(&why));
        }
    }
    let asked = order.nodes.len();
    let delivered = delivery.delivered.len();
    status.completeness.nodes = format!("{delivered}/{asked}");
    status.completeness.nodes_delivered = u32::try_from(delivered).unwrap_or(u32::MAX);
    status.completeness.nodes_asked = u32::try_from(asked).unwrap_or(u32::MAX);
    let missing = delivery.missing.len();
    status.completeness.missing = delivery
        .missing
        .into_iter()
        .take(MAX_MISSING_NAMED)
        .collect();
    let message = format!("{delivered} of {asked} nodes have delivered, {missing} will not");
    if delivery.waiting.is_empty() {
        if delivered == 0 {
            let named: Vec<String> = status
                .completeness
                .missing
                .iter()
                .map(|(node, why)| format!("{node}: {why}"))
                .collect();
            let mut whole = failed(
                snapshot,
                "NothingDelivered",
                format!("no node delivered: {}", cut(&named.join("; "))),
                now,
            );
            whole.completeness = status.completeness;
            return Step::Write(Box::new(whole));
        }
        status.phase = Phase::Merging;
        say(
            snapshot,
            &mut status,
            now,
            ready(Some(false), "Merging", message),
        );
        return Step::Write(Box::new(status));
    }
    say(
        snapshot,
        &mut status,
        now,
        ready(Some(false), "Collecting", message),
    );
    if snapshot.status.as_ref() != Some(&status) {
        return Step::Write(Box::new(status));
    }
    // A node may fall silent before that.
    let look = u64::try_from(left).unwrap_or_default().min(10);
    Step::Wait(Some(Duration::from_secs(look.max(1))))
}

/// What came of putting the parts together.
#[derive(Clone, Debug)]
pub struct Made {
    /// Where it lies.
    pub location: tapedeck_cluster::Location,
    /// Exchanges that are not whole.
    pub incomplete: u64,
    /// What was lost, by cause.
    pub lost: BTreeMap<String, u64>,
    /// Nodes parts of which could not be used, with the reason.
    pub spoilt: BTreeMap<String, String>,
}

/// The status of a snapshot that is there.
#[must_use]
pub fn done(snapshot: &Snapshot, made: Made, now: &Time) -> SnapshotStatus {
    let mut status = snapshot.status.clone().unwrap_or_default();
    status.phase = Phase::Ready;
    status.finished_at = Some(now.clone());
    let completeness = &mut status.completeness;
    completeness.incomplete = made.incomplete;
    completeness.lost = made.lost;
    let spoilt = u32::try_from(made.spoilt.len()).unwrap_or(u32::MAX);
    completeness.nodes_delivered = completeness.nodes_delivered.saturating_sub(spoilt);
    completeness.nodes = format!(
        "{}/{}",
        completeness.nodes_delivered, completeness.nodes_asked
    );
    for (node, why) in made.spoilt {
        if completeness.missing.len() < MAX_MISSING_NAMED {
            completeness.missing.insert(node, cut(&why));
        }
    }
    let missing = completeness
        .nodes_asked
        .saturating_sub(completeness.nodes_delivered);
    let lost: u64 = completeness
        .lost
        .values()
        .fold(0, |sum, count| sum.saturating_add(*count));
    let complete = missing == 0 && lost == 0;
    let (reason, message) = if missing > 0 {
        let names: Vec<&str> = completeness.missing.keys().map(String::as_str).collect();
        (
            "NodesMissing",
            format!("{missing} nodes are missing: {}", names.join(", ")),
        )
    } else if lost > 0 {
        let causes: Vec<String> = completeness
            .lost
            .iter()
            .map(|(cause, count)| format!("{cause}: {count}"))
            .collect();
        ("Lost", causes.join(", "))
    } else {
        ("Complete", String::new())
    };
    say(
        snapshot,
        &mut status,
        now,
        ready(
            Some(true),
            "Stored",
            format!(
                "{} exchanges at {}",
                made.location.exchanges, made.location.url
            ),
        ),
    );
    say(
        snapshot,
        &mut status,
        now,
        Said {
            of: "Complete",
            holds: Some(complete),
            reason,
            message,
        },
    );
    status.location = Some(made.location);
    status
}

#[cfg(test)]
#[path = "snapshots/tests.rs"]
mod tests;
