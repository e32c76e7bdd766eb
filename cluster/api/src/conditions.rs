//! Conditions, as the conventions of Kubernetes have them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What a condition says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Said {
    /// The condition: `Ready`.
    pub of: &'static str,
    /// Whether it holds; unset: nobody knows.
    pub holds: Option<bool>,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, in a sentence, and what somebody can do.
    pub message: String,
}

/// A condition of that kind, where there is one.
#[must_use]
pub fn of<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether a condition holds.
#[must_use]
pub fn holds(conditions: &[Condition], kind: &str) -> bool {
    of(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// Writes down what is said now. The time of the last transition changes only where the status does,
/// as its readers expect.
pub fn say(conditions: &mut Vec<Condition>, now: &Time, generation: Option<i64>, said: Said) {
    let status = match said.holds {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let before = of(conditions, said.of);
    let since = match before {
        Some(before) if before.status == status => before.last_transition_time.clone(),
        _ => now.clone(),
    };
    let condition = Condition {
        last_transition_time: since,
        message: said.message,
        observed_generation: generation,
        reason: said.reason.to_owned(),
        status: status.to_owned(),
        type_: said.of.to_owned(),
    };
    match conditions.iter_mut().find(|known| known.type_ == said.of) {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}
