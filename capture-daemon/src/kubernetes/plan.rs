//! From recordings and the pods of a node to what the kernel takes. Pure: no clock, no server.
//!
//! The kernel chooses by cgroup, share and size, as it can; it may take more than is wanted, never less.
//! What a pod is recorded for is looked at once more for each exchange.

use std::collections::BTreeMap;

use tapedeck_cluster::{MAX_RECORDINGS, NodeRecordingState};

use super::selection::Wanted;
use crate::sources::{Action, Match, Policy, Rule};

/// The cgroups of pods on this node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Layout {
    /// Those that all pods lie below.
    pub roots: Vec<u64>,
    /// Those of pods, by what they are named after.
    pub pods: BTreeMap<String, u64>,
}

/// What a recording comes to on this node, before its pods are looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    /// What is done about it: `Attached` where it is recorded if it has pods.
    pub state: NodeRecordingState,
    /// Why, where it is not.
    pub message: String,
}

/// What each recording comes to: those that are refused, have ended or are paused are not recorded.
/// `now` in seconds since 1970; `written` says how many bytes of a recording were written on this node.
/// The oldest are taken where there are too many.
pub fn standings<'a>(
    recordings: impl IntoIterator<Item = &'a Wanted>,
    now: i64,
    written: impl Fn(&Wanted) -> u64,
) -> BTreeMap<String, Standing> {
    let mut all: Vec<_> = recordings.into_iter().collect();
    all.sort_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)));
    all.into_iter()
        .enumerate()
        .map(|(index, wanted)| {
            let standing = standing(wanted, index, now, written(wanted));
            (wanted.uid.clone(), standing)
        })
        .collect()
}

fn standing(wanted: &Wanted, index: usize, now: i64, written: u64) -> Standing {
    let is = |state, message: String| Standing { state, message };
    if index >= MAX_RECORDINGS {
        let message =
            format!("a node takes {MAX_RECORDINGS} recordings: delete some that are older");
        return is(NodeRecordingState::Refused, message);
    }
    if let Some(why) = &wanted.refused {
        return is(NodeRecordingState::Refused, why.clone());
    }
    let limits = wanted.spec.limits.clone().unwrap_or_default();
    if let Some(duration) = limits.duration
        && now.saturating_sub(wanted.created) >= seconds(duration.0)
    {
        let message = format!("limits.duration: {duration} are over");
        return is(NodeRecordingState::Ended, message);
    }
    if let Some(bytes) = limits.bytes_per_node
        && written >= bytes.0
    {
        let message = format!("limits.bytesPerNode: {bytes} were archived on this node");
        return is(NodeRecordingState::Ended, message);
    }
    if wanted.spec.paused {
        return is(NodeRecordingState::Paused, String::new());
    }
    is(NodeRecordingState::Attached, String::new())
}

fn seconds(of: std::time::Duration) -> i64 {
    i64::try_from(of.as_secs()).unwrap_or(i64::MAX)
}

/// How much of a pod the kernel takes: enough for all that record it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Take {
    /// Whole, or heads only.
    pub action: Action,
    /// The share of its connections.
    pub sample: f64,
}

impl Take {
    /// Nothing.
    pub const NOTHING: Self = Self {
        action: Action::Ignore,
        sample: 1.0,
    };

    /// What all of these need.
    #[must_use]
    pub fn of<'a>(recordings: impl IntoIterator<Item = &'a Wanted>) -> Self {
        let mut take = Self::NOTHING;
        for wanted in recordings {
            let action = if wanted.is_heads_only() {
                Action::Headers
            } else {
                Action::Capture
            };
            take = match (take.action, action) {
                (Action::Ignore, action) => Self {
                    action,
                    sample: wanted.sample(),
                },
                (Action::Headers, Action::Headers) => Self {
                    action,
                    sample: take.sample.max(wanted.sample()),
                },
                _ => Self {
                    action: Action::Capture,
                    sample: take.sample.max(wanted.sample()),
                },
            };
        }
        take
    }
}

/// Rules that are kept for different shares and sizes; further ones are taken whole. There may be 127
/// rules, and the last is for pods that nothing is known of.
const MOST_KINDS: usize = 100;

/// The rules for the kernel: of each pod that is known what is said, of others below the roots
/// everything, as they may be recorded from their first connection on, and nothing of the rest of the
/// node. Where nothing is recorded, nothing is taken.
pub fn policy<'a>(layout: &Layout, known: impl IntoIterator<Item = (&'a str, Take)>) -> Policy {
    let mut kinds: Vec<(Take, Vec<u64>)> = Vec::new();
    let whole = Take {
        action: Action::Capture,
        sample: 1.0,
    };
    for (pod, mut take) in known {
        let Some(cgroup) = layout.pods.get(pod) else {
            continue;
        };
        let is_known = |kinds: &[(Take, Vec<u64>)], take| kinds.iter().any(|(of, _)| *of == take);
        if kinds.len() >= MOST_KINDS && !is_known(&kinds, take) && take.action != Action::Ignore {
            take = whole;
        }
        match kinds.iter_mut().find(|(of, _)| *of == take) {
            Some((_, cgroups)) => cgroups.push(*cgroup),
            None => kinds.push((take, vec![*cgroup])),
        }
    }
    let mut rules: Vec<Rule> = kinds
        .into_iter()
        .map(|(take, cgroups)| rule(cgroups, take))
        .collect();
    if !layout.roots.is_empty() {
        rules.push(rule(layout.roots.clone(), whole));
    }
    Policy {
        rules,
        otherwise: Action::Ignore,
    }
}

/// The rules where nothing is recorded.
#[must_use]
pub fn nothing() -> Policy {
    Policy {
        rules: Vec::new(),
        otherwise: Action::Ignore,
    }
}

fn rule(cgroups: Vec<u64>, take: Take) -> Rule {
    Rule {
        of: Match::Cgroups(cgroups),
        action: take.action,
        sample: take.sample,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tapedeck_cluster::{Limits, Payload, Size, Span};
    use tapedeck_ebpf_abi::MAX_RULES;

    use super::*;

    fn wanted(uid: &str, change: impl FnOnce(&mut Wanted)) -> Wanted {
        let mut wanted = Wanted {
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            name: uid.to_owned(),
            generation: 1,
            created: 1_000,
            spec: tapedeck_cluster::RecordingSpec {
                sample_per_mille: 1000,
                ..Default::default()
            },
            refused: None,
        };
        change(&mut wanted);
        wanted
    }

    #[test]
    fn a_recording_ends_and_pauses_and_is_refused() {
        use NodeRecordingState::{Attached, Ended, Paused, Refused};
        let limits = |duration: Option<u64>, bytes: Option<u64>| {
            Some(Limits {
                duration: duration.map(|s| Span(std::time::Duration::from_secs(s))),
                bytes_per_node: bytes.map(Size),
            })
        };
        let check = |wanted: &Wanted, state, said: &str| {
            let all = standings([wanted], 1_060, |_| 4096);
            assert_eq!(all["a"].state, state);
            assert!(all["a"].message.contains(said), "{}", all["a"].message);
        };
        check(&wanted("a", |_| ()), Attached, "");
        check(&wanted("a", |of| of.spec.paused = true), Paused, "");
        check(
            &wanted("a", |of| of.spec.limits = limits(Some(61), Some(4097))),
            Attached,
            "",
        );
        check(
            &wanted("a", |of| of.spec.limits = limits(Some(60), None)),
            Ended,
            "1m are over",
        );
        check(
            &wanted("a", |of| of.spec.limits = limits(None, Some(4096))),
            Ended,
            "4Ki were",
        );
        let paused_and_over = wanted("a", |of| {
            of.spec.paused = true;
            of.spec.limits = limits(Some(1), None);
        });
        check(&paused_and_over, Ended, "");
        check(
            &wanted("a", |of| of.refused = Some("no".to_owned())),
            Refused,
            "no",
        );
    }

    #[test]
    fn of_too_many_recordings_the_oldest_are_taken() {
        let all: Vec<_> = (0..MAX_RECORDINGS + 2)
            .map(|number| {
                wanted(&format!("r{number}"), |of| {
                    of.created = 10_000 - i64::try_from(number).unwrap();
                })
            })
            .collect();
        let standings = standings(&all, 20_000, |_| 0);
        let refused: Vec<_> = standings
            .iter()
            .filter(|(_, of)| of.state == NodeRecordingState::Refused)
            .map(|(uid, of)| (uid.as_str(), of.message.as_str()))
            .collect();
        let said = "a node takes 64 recordings: delete some that are older";
        assert_eq!(refused, [("r0", said), ("r1", said)]);
    }

    #[test]
    fn the_kernel_takes_enough_for_all_that_record_a_pod() {
        let heads = wanted("h", |of| of.spec.payload = Payload::Headers);
        let tenth = wanted("t", |of| of.spec.sample_per_mille = 100);
        let few_heads = wanted("f", |of| {
            of.spec.payload = Payload::Headers;
            of.spec.sample_per_mille = 5;
        });
        for (recordings, action, sample) in [
            (vec![], Action::Ignore, 1.0),
            (vec![&heads], Action::Headers, 1.0),
            (vec![&tenth], Action::Capture, 0.1),
            (vec![&heads, &tenth], Action::Capture, 1.0),
            (vec![&few_heads, &tenth], Action::Capture, 0.1),
            (vec![&few_heads, &few_heads], Action::Headers, 0.005),
        ] {
            assert_eq!(Take::of(recordings), Take { action, sample });
        }
    }

    fn take() -> impl Strategy<Value = Take> {
        let action = prop_oneof![
            Just(Action::Ignore),
            Just(Action::Headers),
            Just(Action::Capture)
        ];
        (action, 1..=1000_u16).prop_map(|(action, sample)| match action {
            Action::Ignore => Take::NOTHING,
            action => Take {
                action,
                sample: f64::from(sample) / 1000.0,
            },
        })
    }

    /// What the kernel does with a connection of a cgroup that lies below these: the first rule that
    /// has one of them.
    fn verdict(policy: &Policy, path: &[u64]) -> (Action, f64) {
        let rule = policy.rules.iter().find(|rule| match &rule.of {
            Match::Cgroups(ids) => path.iter().any(|id| ids.contains(id)),
            _ => false,
        });
        rule.map_or((policy.otherwise, 1.0), |rule| (rule.action, rule.sample))
    }

    proptest! {
        /// However many pods and kinds there are: there is room for the rules, no pod is taken less
        /// than is wanted, an ignored one not at all, an unknown one whole, the node itself never.
        #[test]
        fn no_pod_is_taken_less_than_is_wanted(takes in prop::collection::vec(take(), 0..250)) {
            let name = |number: usize| format!("pod-{number}");
            let layout = Layout {
                roots: vec![1_000, 1_001],
                pods: (0..takes.len()).map(|of| (name(of), of as u64)).collect(),
            };
            let names: Vec<_> = (0..takes.len()).map(name).collect();
            let known = names.iter().map(String::as_str).zip(takes.iter().copied());
            let policy = policy(&layout, known);
            prop_assert!(policy.rules.len() <= MAX_RULES);
            for (number, wanted) in takes.iter().enumerate() {
                let (action, sample) = verdict(&policy, &[1_000, number as u64]);
                match wanted.action {
                    Action::Ignore => prop_assert_eq!(action, Action::Ignore),
                    Action::Capture => prop_assert_eq!(action, Action::Capture),
                    Action::Headers => prop_assert_ne!(action, Action::Ignore),
                }
                prop_assert!(sample >= wanted.sample);
            }
            prop_assert_eq!(verdict(&policy, &[1_001, 9_999]), (Action::Capture, 1.0));
            prop_assert_eq!(verdict(&policy, &[9_999]), (Action::Ignore, 1.0));
        }
    }
}
