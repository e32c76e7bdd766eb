//! What becomes of a recording: the sum of what the nodes say, as its status. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tapedeck_cluster::conditions::{self, Said};
use tapedeck_cluster::{
    MAX_NODES_LISTED, NodeBrief, NodeRecording, NodeRecordingState, Operator, Recording,
    RecordingSpec, RecordingStatus, Totals,
};

use crate::world::{Place, World, seconds_between, silent_since, unread};

/// The status that a recording should have now.
#[must_use]
pub fn status(place: &Place, recording: &Recording, world: &World, now: &Time) -> RecordingStatus {
    let generation = recording.metadata.generation;
    let mut status = RecordingStatus {
        observed_generation: generation,
        conditions: recording
            .status
            .as_ref()
            .map(|status| status.conditions.clone())
            .unwrap_or_default(),
        ..RecordingStatus::default()
    };
    let sum = sum(recording, world, now);
    let accepted = accepted(place, recording, world);
    let ready = ready(recording, &accepted, &sum, now);
    let lossless = lossless(&sum.totals);
    for said in [accepted, ready, lossless] {
        conditions::say(&mut status.conditions, now, generation, said);
    }
    status.totals = sum.totals;
    status.nodes = sum.nodes;
    status
}

/// What the nodes say of a recording, together.
#[derive(Debug, Default)]
struct Sum {
    totals: Totals,
    nodes: Vec<NodeBrief>,
    /// Daemons that say something at all.
    alive: u32,
    ended: u32,
    /// What the first of the failing nodes says.
    trouble: Option<String>,
}

fn sum(recording: &Recording, world: &World, now: &Time) -> Sum {
    let uid = recording.metadata.uid.as_deref().unwrap_or_default();
    let generation = recording.metadata.generation.unwrap_or_default();
    let mut sum = Sum::default();
    for (node, report) in &world.reports {
        let silent = silent_since(report, now);
        let report = report.status.as_ref();
        sum.alive = sum.alive.saturating_add(u32::from(silent.is_none()));
        let said = report.and_then(|status| {
            status
                .recordings
                .iter()
                .find(|recording| recording.uid == uid)
        });
        let Some(said) = said else { continue };
        let mut brief = brief(node, said);
        brief.at = report.and_then(|status| status.at.clone());
        if let Some(since) = silent {
            brief.state = NodeRecordingState::Unknown;
            brief.message = format!("the node has said nothing since {}", since.0);
            brief.pods = 0;
        } else if said.state == NodeRecordingState::Unknown && brief.message.is_empty() {
            brief.message = unread("the state of this recording");
        }
        add(&mut sum, said, &brief, generation);
        sum.nodes.push(brief);
    }
    for (node, why) in &world.unread {
        // Nobody can tell whether the node records it.
        let brief = NodeBrief {
            node: node.clone(),
            state: NodeRecordingState::Unknown,
            message: unread(why),
            ..NodeBrief::default()
        };
        add(&mut sum, &NodeRecording::default(), &brief, generation);
        sum.nodes.push(brief);
    }
    // The trouble first, then who has the most of it.
    sum.nodes.sort_by(|a, b| {
        (a.state, std::cmp::Reverse((a.pods, a.archived)), &a.node).cmp(&(
            b.state,
            std::cmp::Reverse((b.pods, b.archived)),
            &b.node,
        ))
    });
    sum.trouble = sum
        .nodes
        .first()
        .filter(|brief| is_trouble(brief.state))
        .map(|brief| format!("{}: {}", brief.node, brief.message));
    sum.nodes.truncate(MAX_NODES_LISTED);
    sum
}

fn is_trouble(state: NodeRecordingState) -> bool {
    matches!(
        state,
        NodeRecordingState::Refused | NodeRecordingState::Unknown
    )
}

fn brief(node: &str, said: &NodeRecording) -> NodeBrief {
    NodeBrief {
        node: node.to_owned(),
        state: said.state,
        message: said.message.clone(),
        pods: said.pods,
        seen: said.seen,
        archived: said.archived,
        bytes: said.bytes,
        lost: total(said.lost.values()),
        at: None,
    }
}

fn total<'a>(counts: impl Iterator<Item = &'a u64>) -> u64 {
    counts.fold(0, |sum: u64, count| sum.saturating_add(*count))
}

/// What a node archived counts, that it is silent now or not.
fn add(sum: &mut Sum, said: &NodeRecording, brief: &NodeBrief, generation: i64) {
    let totals = &mut sum.totals;
    let one = |holds: bool| u32::from(holds);
    let speaks = brief.state != NodeRecordingState::Unknown;
    let informed = speaks && said.observed_generation == generation;
    totals.nodes_informed = totals.nodes_informed.saturating_add(one(informed));
    let attached = brief.state == NodeRecordingState::Attached && brief.pods > 0;
    totals.nodes_attached = totals.nodes_attached.saturating_add(one(attached));
    let failing = is_trouble(brief.state);
    totals.nodes_failing = totals.nodes_failing.saturating_add(one(failing));
    sum.ended = sum
        .ended
        .saturating_add(one(brief.state == NodeRecordingState::Ended));
    totals.pods = totals.pods.saturating_add(brief.pods);
    totals.seen = totals.seen.saturating_add(said.seen);
    totals.archived = totals.archived.saturating_add(said.archived);
    totals.bytes = totals.bytes.saturating_add(said.bytes);
    for (cause, count) in &said.lost {
        let lost = totals.lost.entry(cause.clone()).or_default();
        *lost = lost.saturating_add(*count);
    }
    totals.lost_total = totals.lost_total.saturating_add(brief.lost);
}

fn no(of: &'static str, reason: &'static str, message: impl Into<String>) -> Said {
    Said {
        of,
        holds: Some(false),
        reason,
        message: message.into(),
    }
}

fn yes(of: &'static str, reason: &'static str, message: impl Into<String>) -> Said {
    Said {
        of,
        holds: Some(true),
        reason,
        message: message.into(),
    }
}

/// Whether the spec makes sense, by itself and beside the others.
fn accepted(place: &Place, recording: &Recording, world: &World) -> Said {
    let spec = &recording.spec;
    let foreign = spec
        .selector
        .namespaces
        .iter()
        .find(|name| **name != place.namespace);
    if let Some(foreign) = foreign
        && place.namespace != world.own_namespace
    {
        return no(
            "Accepted",
            "NamespaceNotAllowed",
            format!(
                "it selects the namespace {foreign:?}: only recordings in {:?} may select others than their own",
                world.own_namespace
            ),
        );
    }
    if let Some(why) = selects_nothing(spec) {
        return no("Accepted", "SelectsNothing", why);
    }
    if let Some(destination) = &spec.destination
        && !world.stores.contains(&destination.store)
    {
        return no(
            "Accepted",
            "NoSuchStore",
            format!(
                "there is no store {:?}; this installation has: {}",
                destination.store,
                world.stores.join(", ")
            ),
        );
    }
    if let Some((other, what)) = contradicted(place, recording, world) {
        return yes(
            "Accepted",
            "Overlaps",
            format!(
                "{other} selects the same pods with {what}: each is kept as it asks, but the nodes capture what the two need together"
            ),
        );
    }
    yes("Accepted", "Accepted", "")
}

/// Why no pod or no exchange can ever be selected, whatever the cluster has.
fn selects_nothing(spec: &RecordingSpec) -> Option<String> {
    let labels = &spec.selector.match_labels;
    for expression in &spec.selector.match_expressions {
        let key = &expression.key;
        let wanted = labels.get(key);
        let contradicts = match (expression.operator, wanted) {
            (_, None) => false,
            (Operator::DoesNotExist, Some(_)) => true,
            (Operator::Exists, Some(_)) => false,
            (Operator::In, Some(value)) => !expression.values.contains(value),
            (Operator::NotIn, Some(value)) => expression.values.contains(value),
        };
        if contradicts {
            return Some(format!(
                "matchLabels and matchExpressions contradict each other about the label {key:?}"
            ));
        }
        let opposite = spec.selector.match_expressions.iter().find(|other| {
            other.key == *key
                && match (expression.operator, other.operator) {
                    (Operator::Exists | Operator::In, Operator::DoesNotExist) => true,
                    (Operator::In, Operator::In) => {
                        !expression.values.iter().any(|v| other.values.contains(v))
                    }
                    (Operator::In, Operator::NotIn) => {
                        expression.values.iter().all(|v| other.values.contains(v))
                    }
                    _ => false,
                }
        });
        if opposite.is_some() {
            return Some(format!(
                "the expressions about the label {key:?} contradict each other"
            ));
        }
    }
    let paths = spec.paths.as_ref()?;
    let all_excluded = !paths.include.is_empty()
        && paths
            .include
            .iter()
            .all(|path| paths.exclude.iter().any(|prefix| path.starts_with(prefix)));
    let nothing = all_excluded || paths.exclude.iter().any(|prefix| prefix == "/");
    nothing.then(|| "every path that is included is excluded, too".to_owned())
}

/// An older recording of the same pods that wants them in another way.
fn contradicted(
    place: &Place,
    recording: &Recording,
    world: &World,
) -> Option<(Place, &'static str)> {
    if recording.spec.paused {
        return None;
    }
    world.recordings.iter().find_map(|(other_place, other)| {
        let same = other_place != place
            && !other.spec.paused
            && other_place.namespace == place.namespace
            && other.spec.selector == recording.spec.selector
            && other.spec.ports == recording.spec.ports;
        if !same {
            return None;
        }
        if other.spec.payload != recording.spec.payload {
            return Some((other_place.clone(), "another payload"));
        }
        if other.spec.sample_per_mille != recording.spec.sample_per_mille {
            return Some((other_place.clone(), "another share of the connections"));
        }
        None
    })
}

/// Whether it is attached wherever it has pods.
fn ready(recording: &Recording, accepted: &Said, sum: &Sum, now: &Time) -> Said {
    let totals = &sum.totals;
    if accepted.holds != Some(true) {
        return no("Ready", "NotAccepted", accepted.message.clone());
    }
    if let Some(duration) = recording
        .spec
        .limits
        .as_ref()
        .and_then(|limits| limits.duration)
        && let Some(created) = &recording.metadata.creation_timestamp
        && seconds_between(created, now) >= i64::try_from(duration.0.as_secs()).unwrap_or(i64::MAX)
    {
        return no(
            "Ready",
            "Ended",
            format!("its duration of {duration} is over"),
        );
    }
    if recording.spec.paused {
        return no("Ready", "Paused", "spec.paused is true");
    }
    if let Some(trouble) = &sum.trouble {
        return no(
            "Ready",
            "NodesFailing",
            format!("{} nodes do not record it; {trouble}", totals.nodes_failing),
        );
    }
    if sum.alive == 0 {
        return Said {
            of: "Ready",
            holds: None,
            reason: "NoNodes",
            message: "no node reports anything: is the DaemonSet tapedeck-node there?".to_owned(),
        };
    }
    if totals.nodes_informed < sum.alive {
        return no(
            "Ready",
            "Attaching",
            format!(
                "{} of {} nodes know it as it is now",
                totals.nodes_informed, sum.alive
            ),
        );
    }
    if totals.nodes_attached > 0 {
        return yes(
            "Ready",
            "Attached",
            format!("{} pods on {} nodes", totals.pods, totals.nodes_attached),
        );
    }
    if sum.ended > 0 {
        return no(
            "Ready",
            "Ended",
            "one of its limits was reached wherever it has pods",
        );
    }
    no(
        "Ready",
        "NoPods",
        "no pod that runs is selected; it begins with the first one",
    )
}

fn lossless(totals: &Totals) -> Said {
    if totals.lost_total == 0 {
        return yes("Lossless", "NothingLost", "");
    }
    let causes: Vec<String> = totals
        .lost
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(cause, count)| format!("{cause}: {count}"))
        .collect();
    no("Lossless", "Lost", causes.join(", "))
}

/// Whether a status says something else than another, beyond numbers that grow.
#[must_use]
pub fn differs_in_kind(before: Option<&RecordingStatus>, after: &RecordingStatus) -> bool {
    let Some(before) = before else { return true };
    let states = |status: &RecordingStatus| -> Vec<_> {
        status
            .nodes
            .iter()
            .map(|brief| (brief.node.clone(), brief.state, brief.pods))
            .collect()
    };
    let said = |status: &RecordingStatus| -> Vec<_> {
        status
            .conditions
            .iter()
            .map(|c| {
                (
                    c.type_.clone(),
                    c.status.clone(),
                    c.reason.clone(),
                    c.observed_generation,
                )
            })
            .collect()
    };
    before.observed_generation != after.observed_generation
        || said(before) != said(after)
        || (before.totals.nodes_attached, before.totals.pods)
            != (after.totals.nodes_attached, after.totals.pods)
        || (after.nodes.len() < MAX_NODES_LISTED && states(before) != states(after))
}

#[cfg(test)]
#[path = "recordings/tests.rs"]
mod tests;
