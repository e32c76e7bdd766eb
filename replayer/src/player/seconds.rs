//! What happens second by second: for thresholds over windows, and for time series.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::player::observe::TargetSecond;
use crate::player::tally::Trend;
use crate::player::watch::{Sample, Watch, Watched};

/// What was observed in one second.
#[derive(Clone, Debug)]
pub(crate) struct SecondTally {
    pub(crate) watched: Watched,
    /// Requests count as sent when they are, and not when they end: a second in which the target stalls is one in
    /// which much is sent.
    pub(crate) sent: u64,
    attempted: u64,
    answered: u64,
    failed: u64,
    never_sent: u64,
    iterations: u64,
    dropped: u64,
    duration: Trend,
    lag: Trend,
}

impl SecondTally {
    pub(crate) fn new(watch: &Arc<Watch>) -> Self {
        Self {
            watched: Watched::coarse(watch),
            sent: 0,
            attempted: 0,
            answered: 0,
            failed: 0,
            never_sent: 0,
            iterations: 0,
            dropped: 0,
            duration: Trend::coarse(),
            lag: Trend::coarse(),
        }
    }

    pub(crate) fn record(&mut self, sample: &Sample) {
        self.watched.record(sample);
        self.attempted += u64::from(!sample.stopped);
        self.answered += u64::from(sample.status > 0);
        self.failed += u64::from(!sample.stopped && !sample.expected());
        self.never_sent += u64::from(!sample.sent);
        if let Some(duration) = sample.measures.http_req_duration {
            self.duration.record(duration);
        }
        if let Some(lag) = sample.measures.schedule_lag {
            self.lag.record(lag);
        }
    }

    pub(crate) fn record_iteration(&mut self, scenario: u8, duration: Duration) {
        self.watched.record_iteration(scenario, duration);
        self.iterations += 1;
    }

    pub(crate) fn record_dropped(&mut self, scenario: u8, n: u64) {
        self.watched.record_dropped(scenario, n);
        self.dropped += n;
    }

    fn merge(&mut self, other: &Self) {
        let Self {
            watched,
            sent,
            attempted,
            answered,
            failed,
            never_sent,
            iterations,
            dropped,
            duration,
            lag,
        } = other;
        self.watched.merge(watched);
        self.sent += sent;
        self.attempted += attempted;
        self.answered += answered;
        self.failed += failed;
        self.never_sent += never_sent;
        self.iterations += iterations;
        self.dropped += dropped;
        self.duration.merge(duration);
        self.lag.merge(lag);
    }

    pub(crate) fn row(&self, second: u64) -> SecondRow {
        SecondRow {
            second,
            sent: self.sent,
            answered: self.answered,
            failed: self.failed,
            never_sent: self.never_sent,
            iterations: self.iterations,
            dropped: self.dropped,
            in_flight: 0,
            connections: 0,
            vus: 0,
            latency: (self.duration.count() > 0).then(|| SecondLatency {
                p50: self.duration.percentile(50.0),
                p95: self.duration.percentile(95.0),
                p99: self.duration.percentile(99.0),
                max: self.duration.max(),
            }),
            lag_p99: (self.lag.count() > 0).then(|| self.lag.percentile(99.0)),
            target: None,
            target_query: None,
        }
    }
}

/// What was observed since the start of a run, in whole seconds.
#[derive(Clone, Debug)]
pub struct SoFar {
    /// Requests that were sent, whether they are over or not.
    pub sent: u64,
    /// Requests that are over, or could not be sent.
    pub attempted: u64,
    /// Of these: unanswered, or answered outside of 200 to 399.
    pub failed: u64,
    /// Iterations that came to their end.
    pub iterations: u64,
    /// Iterations that did not begin.
    pub dropped: u64,
    /// From the due time to the last byte; percentiles to two digits.
    pub duration: Trend,
    /// The player's own lateness; percentiles to two digits.
    pub lag: Trend,
}

impl SoFar {
    pub(crate) fn new() -> Self {
        Self {
            sent: 0,
            attempted: 0,
            failed: 0,
            iterations: 0,
            dropped: 0,
            duration: Trend::coarse(),
            lag: Trend::coarse(),
        }
    }

    pub(crate) fn add(&mut self, second: &SecondTally) {
        self.sent += second.sent;
        self.attempted += second.attempted;
        self.failed += second.failed;
        self.iterations += second.iterations;
        self.dropped += second.dropped;
        self.duration.merge(&second.duration);
        self.lag.merge(&second.lag);
    }
}

/// One second of a run. What is counted happened in it: a request counts as sent when it is, and as answered, failed
/// or never sent when that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SecondRow {
    /// Since the start, from zero.
    pub second: u64,
    /// Requests that were sent, whenever they are answered.
    pub sent: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests unanswered, or answered outside of 200 to 399.
    pub failed: u64,
    /// Requests that could not be sent.
    pub never_sent: u64,
    /// Iterations that came to their end.
    pub iterations: u64,
    /// Iterations that did not begin.
    pub dropped: u64,
    /// Requests in flight when the second was added up.
    pub in_flight: u64,
    /// Open connections then.
    pub connections: u64,
    /// Active users then.
    pub vus: u64,
    /// From the due time to the last byte; `None`: nothing was answered or timed out.
    pub latency: Option<SecondLatency>,
    /// The player's own lateness with the requests that ended; `None`: none did.
    pub lag_p99: Option<Duration>,
    /// What the target took, where it is observed.
    pub target: Option<TargetSecond>,
    /// What Prometheus said of it, where it is asked.
    pub target_query: Option<f64>,
}

/// Latencies of one second; percentiles to two digits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SecondLatency {
    /// Half of the requests took no longer.
    pub p50: Duration,
    /// 95 of 100 took no longer.
    pub p95: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// None took longer.
    pub max: Duration,
}

/// A second of one worker.
#[derive(Clone, Debug)]
pub(crate) struct Second {
    /// Counted from zero.
    pub(crate) number: u64,
    pub(crate) tally: SecondTally,
    /// It was cut short: the worker has ended.
    pub(crate) is_cut: bool,
}

/// Adds up the seconds of all workers, and gives them in order.
#[derive(Debug)]
pub(crate) struct Seconds {
    workers: usize,
    /// The last second of each worker that has ended.
    ended: Vec<u64>,
    pending: BTreeMap<u64, (Second, usize)>,
}

impl Seconds {
    pub(crate) const fn new(workers: usize) -> Self {
        Self {
            workers,
            ended: Vec::new(),
            pending: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, second: Second) {
        if second.is_cut {
            self.ended.push(second.number);
        }
        match self.pending.get_mut(&second.number) {
            None => {
                self.pending.insert(second.number, (second, 1));
            }
            Some((sum, workers)) => {
                sum.tally.merge(&second.tally);
                sum.is_cut |= second.is_cut;
                *workers += 1;
            }
        }
    }

    /// The next second, when all workers that have not ended have handed theirs over.
    pub(crate) fn next(&mut self) -> Option<Second> {
        let entry = self.pending.first_entry()?;
        let gone = self.ended.iter().filter(|last| *last < entry.key()).count();
        (entry.get().1 + gone >= self.workers).then(|| entry.remove().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: u64, is_cut: bool) -> Second {
        let mut tally = SecondTally::new(&Arc::default());
        tally.record_iteration(0, Duration::ZERO);
        Second {
            number,
            tally,
            is_cut,
        }
    }

    #[test]
    fn a_second_is_whole_when_every_worker_that_still_runs_has_told() {
        let mut seconds = Seconds::new(2);
        seconds.add(second(0, false));
        assert!(seconds.next().is_none());
        seconds.add(second(0, false));
        assert_eq!(seconds.next().map(|s| s.tally.iterations), Some(2));
        seconds.add(second(1, true));
        seconds.add(second(1, false));
        seconds.add(second(2, false));
        let rest: Vec<_> = std::iter::from_fn(|| seconds.next())
            .map(|s| (s.number, s.tally.row(s.number).iterations, s.is_cut))
            .collect();
        assert_eq!(rest, [(1, 2, true), (2, 1, false)]);
    }
}
