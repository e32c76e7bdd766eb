//! Who of several controllers acts: the holder of a Lease.
//!
//! As in `client-go`: whoever sees a lease unchanged for its duration, by its own clock, takes it; a holder that could not
//! renew for two thirds of it stops, so that it has stopped before another begins.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::forbidden::{code, explained};
use crate::run::Shared;

/// The name of the lease.
pub const LEASE: &str = "tapedeck-controller";

/// How often what is done. With 30 s: eight requests a minute and controller.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a lease holds after it was renewed.
    pub lease: Duration,
    /// How often it is renewed, and looked at by those that wait.
    pub renew: Duration,
}

impl Timing {
    /// Renewed four times within its duration: two attempts may fail.
    #[must_use]
    pub fn of(lease: Duration) -> Self {
        Self {
            lease,
            renew: lease / 4,
        }
    }
}

/// A lease, as it was seen, and when by our clock.
#[derive(Debug)]
struct Seen {
    lease: Lease,
    since: Instant,
}

/// What is to be done about the lease.
#[derive(Debug, PartialEq)]
enum Next {
    /// It is held by another one, and holds.
    Stand,
    /// Write this over what was seen.
    Write(Box<Lease>),
}

/// Takes part until told to stop; then gives the lease back.
pub(crate) struct Election {
    shared: Arc<Shared>,
    api: Api<Lease>,
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
    /// Until when we lead, unless the lease is renewed before.
    until: Option<Instant>,
}

impl Election {
    /// A candidate of that name.
    #[must_use]
    pub(crate) fn new(
        shared: &Arc<Shared>,
        namespace: &str,
        identity: &str,
        timing: Timing,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            api: Api::namespaced(shared.client.clone(), namespace),
            identity: identity.to_owned(),
            timing,
            seen: None,
            until: None,
        }
    }

    /// Says whenever we begin or cease to lead.
    pub(crate) async fn run(mut self, leads: watch::Sender<bool>, mut stop: watch::Receiver<bool>) {
        let mut said = String::new();
        while !*stop.borrow() {
            let begun = Instant::now();
            let least = self.timing.renew.min(Duration::from_secs(10));
            match tokio::time::timeout(least, self.attempt()).await {
                Ok(Ok(true)) => {
                    self.shared.health.heard();
                    let safe = self.timing.lease.saturating_sub(self.timing.lease / 3);
                    self.until = begun.checked_add(safe);
                    said.clear();
                }
                // Somebody else has it.
                Ok(Ok(false)) => {
                    self.shared.health.heard();
                    self.until = None;
                    said.clear();
                }
                Ok(Err(error)) => self.trouble(&mut said, &explained(&error)),
                Err(_) => self.trouble(&mut said, "the API server does not answer"),
            }
            let is_leader = self.until.is_some_and(|until| until > Instant::now());
            let changed = leads.send_if_modified(|leads| {
                let changed = *leads != is_leader;
                *leads = is_leader;
                changed
            });
            if changed {
                info!(identity = %self.identity, leads = is_leader, "leadership");
            }
            // Ceases in time, that the next attempt is due before or not.
            let wake = self
                .until
                .map_or(self.timing.renew, |until| {
                    until.saturating_duration_since(Instant::now())
                })
                .min(self.timing.renew);
            let pause = wake
                .max(Duration::from_millis(20))
                .mul_f64(jitter(&self.identity));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Without anybody who could say it, it is time, too.
                _ = stop.changed() => break,
            }
        }
        leads.send_replace(false);
        self.release().await;
    }

    /// The same trouble is not told every few seconds.
    fn trouble(&self, said: &mut String, error: &str) {
        if said != error {
            warn!(error, "failed to take or renew the lease");
            self.shared.health.trouble(error);
            error.clone_into(said);
        }
    }

    /// Whether we lead now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        // What we hold and wrote last needs no look.
        let holding = self.until.is_some();
        if !holding || self.seen.is_none() {
            self.look().await?;
        }
        let now = MicroTime(Timestamp::now());
        let written = match &self.seen {
            None => {
                let lease = first(&self.identity, self.timing, now);
                self.api.create(&PostParams::default(), &lease).await
            }
            Some(seen) => match next(seen, &self.identity, self.timing, Instant::now(), now) {
                Next::Stand => return Ok(false),
                Next::Write(lease) => {
                    self.api
                        .replace(LEASE, &PostParams::default(), &lease)
                        .await
                }
            },
        };
        match written {
            Ok(lease) => {
                self.seen = Some(Seen {
                    lease,
                    since: Instant::now(),
                });
                Ok(true)
            }
            // Another one was faster, or an answer to us was lost: the next look says which.
            Err(error) if [404, 409].contains(&code(&error)) => {
                self.seen = None;
                self.look().await?;
                let holder = self.seen.as_ref().and_then(|seen| holder(&seen.lease));
                Ok(holder == Some(self.identity.as_str()))
            }
            Err(error) => Err(error),
        }
    }

    async fn look(&mut self) -> Result<(), kube::Error> {
        let Some(lease) = self.api.get_opt(LEASE).await? else {
            self.seen = None;
            return Ok(());
        };
        let same = self
            .seen
            .as_ref()
            .is_some_and(|seen| seen.lease.spec == lease.spec);
        let since = match &self.seen {
            Some(seen) if same => seen.since,
            _ => Instant::now(),
        };
        self.seen = Some(Seen { lease, since });
        Ok(())
    }

    /// Gives it back, so that another one need not wait.
    async fn release(self) {
        let Some(mut seen) = self.seen else { return };
        if holder(&seen.lease) != Some(self.identity.as_str()) {
            return;
        }
        if let Some(spec) = &mut seen.lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        let write = PostParams::default();
        let released = self.api.replace(LEASE, &write, &seen.lease);
        match tokio::time::timeout(Duration::from_secs(5), released).await {
            Ok(Ok(_)) => info!("gave the lease back"),
            Ok(Err(error)) => warn!(error = %explained(&error), "failed to give the lease back"),
            Err(_) => warn!("failed to give the lease back: no answer"),
        }
    }
}

/// Between 0.9 and 1: several controllers do not ask in step.
fn jitter(identity: &str) -> f64 {
    let sum: u32 = identity.bytes().map(u32::from).sum();
    let nanos = Timestamp::now().subsec_nanosecond().unsigned_abs();
    0.9 + f64::from(sum.wrapping_add(nanos / 1000) % 100) / 1000.0
}

fn holder(lease: &Lease) -> Option<&str> {
    let spec = lease.spec.as_ref()?;
    spec.holder_identity
        .as_deref()
        .filter(|name| !name.is_empty())
}

fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs()).unwrap_or(i32::MAX).max(1)
}

fn first(identity: &str, timing: Timing, now: MicroTime) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(LEASE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            acquire_time: Some(now.clone()),
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: Some(seconds(timing.lease)),
            lease_transitions: Some(0),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}

fn next(seen: &Seen, identity: &str, timing: Timing, at: Instant, now: MicroTime) -> Next {
    let mut lease = seen.lease.clone();
    let mut spec = lease.spec.take().unwrap_or_default();
    let ours = holder(&seen.lease) == Some(identity);
    if !ours {
        let held = holder(&seen.lease).is_some();
        let lasts = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(timing.lease, Duration::from_secs);
        if held && at.saturating_duration_since(seen.since) < lasts {
            return Next::Stand;
        }
        spec.holder_identity = Some(identity.to_owned());
        spec.acquire_time = Some(now.clone());
        let transitions = spec.lease_transitions.unwrap_or_default();
        spec.lease_transitions = Some(transitions.saturating_add(1));
    }
    spec.lease_duration_seconds = Some(seconds(timing.lease));
    spec.renew_time = Some(now);
    lease.spec = Some(spec);
    Next::Write(Box::new(lease))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(holder: &str, ago: u64) -> Seen {
        let now = MicroTime(Timestamp::UNIX_EPOCH);
        let mut lease = first(holder, Timing::of(Duration::from_secs(30)), now);
        lease.metadata.resource_version = Some("7".to_owned());
        Seen {
            lease,
            since: Instant::now()
                .checked_sub(Duration::from_secs(ago))
                .unwrap(),
        }
    }

    #[test]
    fn a_lease_is_taken_when_nobody_has_it_or_its_holder_is_silent() {
        let timing = Timing::of(Duration::from_secs(30));
        for (holder, ago, taken) in [
            ("other", 0, None),
            ("other", 29, None),
            ("other", 31, Some(1)),
            ("", 0, Some(1)),
            ("me", 0, Some(0)),
            ("me", 99, Some(0)),
        ] {
            let now = MicroTime(Timestamp::now());
            let next = next(&seen(holder, ago), "me", timing, Instant::now(), now);
            match (next, taken) {
                (Next::Stand, None) => {}
                (Next::Write(lease), Some(transitions)) => {
                    // Over what was seen, and over nothing newer.
                    assert_eq!(lease.metadata.resource_version.as_deref(), Some("7"));
                    let spec = lease.spec.unwrap();
                    assert_eq!(spec.holder_identity.as_deref(), Some("me"));
                    assert_eq!(spec.lease_transitions, Some(transitions));
                }
                (next, _) => panic!("{holder} {ago}: {next:?}"),
            }
        }
    }
}
