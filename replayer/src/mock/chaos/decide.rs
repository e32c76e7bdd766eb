//! Which faults strike what.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::dice::Dice;
use super::{Action, Alert, Chaos, Harm, Injected, Pace, Rule};

/// A [`Chaos`] that has met the archive and the clock.
pub(crate) struct Plan {
    seed: u64,
    began: Instant,
    rules: Vec<Aimed>,
    connections: AtomicU64,
}

/// A rule, and whom it concerns.
struct Aimed {
    rule: Rule,
    /// A bit for each exchange; `None`: all of them.
    at: Option<Vec<u64>>,
}

/// What the faults of one request come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Effect {
    pub(crate) delay: Duration,
    pub(crate) pace: Option<Pace>,
    /// An [`Action::Answer`] or [`Action::Grpc`].
    pub(crate) answer: Option<Action>,
    pub(crate) harm: Option<Harm>,
}

/// What the faults of one connection come to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ConnectionFaults {
    pub(crate) refuse: bool,
    pub(crate) window_stall: bool,
    pub(crate) settings_storm: u32,
    pub(crate) tls_alert: Option<Alert>,
    pub(crate) expired_certificate: bool,
}

impl Plan {
    /// `chosen` says which exchanges a filter chooses.
    pub(crate) fn new<E>(
        chaos: Chaos,
        began: Instant,
        mut chosen: impl FnMut(&tapedeck_filter::Filter) -> Result<Vec<u64>, E>,
    ) -> Result<Self, E> {
        let mut rules = Vec::with_capacity(chaos.rules.len());
        for rule in chaos.rules {
            let at = rule.when.as_ref().map(&mut chosen).transpose()?;
            rules.push(Aimed { rule, at });
        }
        Ok(Self {
            seed: chaos.seed,
            began,
            rules,
            connections: AtomicU64::new(0),
        })
    }

    /// Names of the rules, and what they do.
    pub(crate) fn rules(&self) -> Vec<(String, String)> {
        let told = |aimed: &Aimed| (aimed.rule.name.clone(), aimed.rule.action.to_string());
        self.rules.iter().map(told).collect()
    }

    /// What happens to the `nth` answer of an exchange, from zero. `None`: nothing.
    pub(crate) fn strike(
        &self,
        exchange: u32,
        nth: u64,
        now: Instant,
        mut log: impl FnMut(Injected),
    ) -> Option<Effect> {
        let at = now.saturating_duration_since(self.began);
        let mut effect = None;
        for aimed in &self.rules {
            let rule = &aimed.rule;
            if rule.action.is_of_connections() || !rule.is_on(at) || !aimed.concerns(exchange) {
                continue;
            }
            let mut dice = Dice::new(self.seed, &rule.name, exchange.into(), nth);
            if dice.unit() >= rule.probability {
                continue;
            }
            let effect: &mut Effect = effect.get_or_insert_default();
            let mut what = rule.action.to_string();
            match &rule.action {
                Action::Latency(spread) => {
                    let delay = dice.delay(*spread);
                    what = format!("{delay:?} later");
                    effect.delay = effect.delay.saturating_add(delay);
                }
                Action::Pace(pace) => {
                    effect.pace = Some(effect.pace.map_or(*pace, |known| known.slower(*pace)));
                }
                action @ (Action::Answer { .. } | Action::Grpc { .. }) => {
                    if effect.answer.is_some() {
                        continue;
                    }
                    effect.answer = Some(action.clone());
                }
                Action::Harm(harm) => {
                    if effect.harm.is_some() {
                        continue;
                    }
                    effect.harm = Some(*harm);
                }
                Action::Refuse
                | Action::WindowStall
                | Action::SettingsStorm(_)
                | Action::TlsAlert(_)
                | Action::ExpiredCertificate => {}
            }
            log(Injected {
                at,
                rule: rule.name.clone(),
                exchange: Some(exchange.into()),
                nth,
                what,
            });
        }
        effect
    }

    /// What happens to the next connection.
    pub(crate) fn connect(&self, now: Instant, mut log: impl FnMut(Injected)) -> ConnectionFaults {
        let at = now.saturating_duration_since(self.began);
        let nth = self.connections.fetch_add(1, Ordering::Relaxed);
        let mut faults = ConnectionFaults::default();
        for Aimed { rule, .. } in &self.rules {
            let strikes = |rule: &Rule| {
                Dice::new(self.seed, &rule.name, u64::MAX, nth).unit() < rule.probability
            };
            if !rule.action.is_of_connections() || !rule.is_on(at) || !strikes(rule) {
                continue;
            }
            match rule.action {
                Action::Refuse => faults.refuse = true,
                Action::WindowStall => faults.window_stall = true,
                Action::SettingsStorm(frames) => faults.settings_storm = frames,
                Action::TlsAlert(alert) => faults.tls_alert = Some(alert),
                Action::ExpiredCertificate => faults.expired_certificate = true,
                _ => continue,
            }
            log(Injected {
                at,
                rule: rule.name.clone(),
                exchange: None,
                nth,
                what: rule.action.to_string(),
            });
        }
        faults
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("rules", &self.rules.len())
            .finish_non_exhaustive()
    }
}

impl Aimed {
    fn concerns(&self, exchange: u32) -> bool {
        self.at.as_ref().is_none_or(|at| {
            let word = at.get(exchange as usize / 64).copied().unwrap_or(0);
            word & (1 << (exchange % 64)) != 0
        })
    }
}

impl Rule {
    fn is_on(&self, at: Duration) -> bool {
        at >= self.from && self.until.is_none_or(|until| at < until)
    }
}

impl Action {
    /// Whether it strikes connections rather than answers.
    const fn is_of_connections(&self) -> bool {
        matches!(
            self,
            Self::Refuse
                | Self::WindowStall
                | Self::SettingsStorm(_)
                | Self::TlsAlert(_)
                | Self::ExpiredCertificate
        )
    }
}
