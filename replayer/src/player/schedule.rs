//! Which exchanges are sent, when, and on which connection.
//!
//! Pure: built from facts about exchanges, never from a clock. A worker walks a [`Schedule`] as
//! an iterator of [`Entry`]s in the order of their due times, so that another way to make entries
//! (an arrival rate, stages) needs no other worker.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use tapedeck_archive::Target;
use tapedeck_model::Timestamp;

use crate::player::counted::counted;
use crate::player::endpoints::{EndpointId, Endpoints};
use crate::player::tally::Origin;

/// How fast recorded time passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// Open loop: every request at its recorded instant, the time between them divided by this.
    Times(Factor),
    /// Closed loop: as fast as the target answers. A request is due when a connection is free.
    Max,
}

impl Speed {
    /// As recorded.
    pub const RECORDED: Self = Self::Times(Factor(1.0));
}

impl FromStr for Speed {
    type Err = ParseSpeedError;

    fn from_str(text: &str) -> Result<Self, ParseSpeedError> {
        if text.eq_ignore_ascii_case("max") {
            return Ok(Self::Max);
        }
        let number = text
            .strip_suffix('x')
            .or_else(|| text.strip_suffix('X'))
            .unwrap_or(text);
        number
            .parse()
            .ok()
            .and_then(Factor::new)
            .map(Self::Times)
            .ok_or_else(|| ParseSpeedError(text.to_owned()))
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Times(factor) => write!(f, "{}x", factor.0),
            Self::Max => f.write_str("max"),
        }
    }
}

/// A finite number greater than zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factor(f64);

impl Factor {
    /// `None` for zero, negative numbers, infinities and NaN.
    #[must_use]
    pub fn new(factor: f64) -> Option<Self> {
        (factor.is_finite() && factor > 0.0).then_some(Self(factor))
    }

    /// When something that was recorded `offset` after the beginning is due after the start.
    #[must_use]
    pub fn due(self, offset: Duration) -> Duration {
        // At 1x nothing may be rounded: a day in nanoseconds still fits the 53 bits of an f64, but
        // the division by one is not worth the doubt.
        if self.0 == 1.0 {
            return offset;
        }
        Duration::try_from_secs_f64(offset.as_secs_f64() / self.0).unwrap_or(Duration::MAX)
    }
}

/// Why a text is no [`Speed`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a speed: write a factor greater than zero (1x, 4x, 0.5x), or max")]
pub struct ParseSpeedError(String);

/// How recorded connections become connections to the target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Topology {
    /// Each recorded connection has connections of its own.
    Recorded,
    /// All requests share this many connections.
    Pooled(NonZeroU32),
}

/// What the schedule needs to know of one archived exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// Its id in the archive.
    pub(crate) id: u64,
    /// When it began.
    pub(crate) at: Timestamp,
    /// How long it took; zero where that is not known.
    pub(crate) took: Duration,
    /// The recorded connection that carried it.
    pub(crate) connection: u64,
    /// Empty where it is not known; so is the target.
    pub(crate) method: &'a [u8],
    pub(crate) target: Target<'a>,
    /// Why it is not to be sent; `None`: it is.
    pub(crate) left_out: Option<LeftOut>,
}

counted! {
    /// Why a recorded exchange is no request to send.
    LeftOut, LeftOutCounts {
        /// The request is not whole: bytes or fields of it are missing.
        Incomplete = "incomplete",
        /// The request was never seen.
        NoRequest = "no_request",
        /// It turned its connection into a tunnel: CONNECT, or an upgrade that was accepted.
        Tunnel = "tunnel",
        /// The part of the archive's index that lists it is damaged.
        Unreadable = "unreadable",
        /// No filter of a scenario chooses it.
        NotChosen = "not_chosen",
        /// It would be due behind the end of the run.
        TooLate = "too_late",
        /// The server pushed it (HTTP/2): no client sent that request.
        Pushed = "pushed",
    }
}

/// One request to send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    /// The exchange in the archive.
    pub(crate) id: u64,
    /// Nanoseconds after the start at which it is due.
    due: u64,
    /// The connections that it may use; see [`Shard::lanes`].
    pub(crate) lane: u32,
    /// What it is measured with.
    pub(crate) endpoint: EndpointId,
    /// No later entry has this lane: its connections may be closed.
    pub(crate) last_of_lane: bool,
    /// What it is sent for.
    pub(crate) scenario: u8,
}

impl Entry {
    /// The same request on another lane, which it is not the last of.
    pub(crate) const fn on_lane(self, lane: u32) -> Self {
        Self {
            lane,
            last_of_lane: false,
            ..self
        }
    }

    /// The same request behind the lanes of other scenarios.
    pub(crate) const fn behind_lane(self, first: u32) -> Self {
        let lane = self.lane.saturating_add(first);
        Self { lane, ..self }
    }

    /// A step of an iteration. The user has the lane for itself, before and after it.
    pub(crate) const fn of_user(id: u64, endpoint: EndpointId, scenario: u8, lane: u32) -> Self {
        Self {
            id,
            due: 0,
            lane,
            endpoint,
            last_of_lane: false,
            scenario,
        }
    }

    /// What its request belongs to.
    pub(crate) const fn origin(&self) -> Origin {
        Origin {
            endpoint: self.endpoint,
            scenario: self.scenario,
        }
    }

    /// When it is due, counted from the start.
    pub(crate) const fn due(&self) -> Duration {
        Duration::from_nanos(self.due)
    }
}

/// The plan of a whole run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedule {
    /// What is sent, by due time.
    pub(crate) entries: Vec<Entry>,
    /// How many lanes the entries name: `0..lanes`.
    pub(crate) lanes: u32,
    /// What is not sent, and why.
    pub(crate) left_out: LeftOutCounts,
}

impl Schedule {
    /// Plans the candidates. They may come in any order; equal times keep the order of ids.
    pub(crate) fn new<'a>(
        candidates: impl IntoIterator<Item = Candidate<'a>>,
        speed: Speed,
        duration: Option<Duration>,
        scenario: u8,
        endpoints: &mut Endpoints,
    ) -> Self {
        let mut left_out = LeftOutCounts::default();
        let mut sent: Vec<Candidate<'a>> = Vec::new();
        for candidate in candidates {
            match candidate.left_out {
                Some(reason) => left_out.add(reason),
                None => sent.push(candidate),
            }
        }
        sent.sort_by_key(|candidate| (candidate.at, candidate.id));

        let first = sent.first().map(|candidate| candidate.at);
        if let (Some(duration), Speed::Times(factor), Some(first)) = (duration, speed, first) {
            let in_time =
                |candidate: &Candidate<'_>| factor.due(candidate.at.since(first)) < duration;
            let late = sent.split_off(sent.partition_point(in_time));
            left_out.add_n(LeftOut::TooLate, late.len() as u64);
        }
        let mut lanes: HashMap<u64, u32> = HashMap::new();
        let mut entries: Vec<Entry> = sent
            .iter()
            .map(|candidate| {
                let next = u32::try_from(lanes.len()).unwrap_or(u32::MAX);
                let offset = candidate.at.since(first.unwrap_or(candidate.at));
                let due = match speed {
                    Speed::Times(factor) => factor.due(offset),
                    Speed::Max => Duration::ZERO,
                };
                Entry {
                    id: candidate.id,
                    due: u64::try_from(due.as_nanos()).unwrap_or(u64::MAX),
                    lane: *lanes.entry(candidate.connection).or_insert(next),
                    endpoint: endpoints.id(candidate.method, &candidate.target.to_bytes()),
                    last_of_lane: false,
                    scenario,
                }
            })
            .collect();

        let mut seen = vec![false; lanes.len()];
        for entry in entries.iter_mut().rev() {
            if let Some(seen) = seen.get_mut(entry.lane as usize) {
                entry.last_of_lane = !std::mem::replace(seen, true);
            }
        }
        Self {
            entries,
            lanes: u32::try_from(lanes.len()).unwrap_or(u32::MAX),
            left_out,
        }
    }

    /// When the last request is due.
    pub(crate) fn span(&self) -> Duration {
        self.entries.last().map_or(Duration::ZERO, Entry::due)
    }

    /// The most lanes that are in use at the same time: between their first and last entry.
    pub(crate) fn lanes_at_once(&self) -> u64 {
        let mut seen = vec![false; self.lanes as usize];
        let (mut now, mut most) = (0, 0);
        for entry in &self.entries {
            if let Some(seen) = seen.get_mut(entry.lane as usize)
                && !std::mem::replace(seen, true)
            {
                now += 1;
                most = most.max(now);
            }
            if entry.last_of_lane {
                now -= 1;
            }
        }
        most
    }

    /// Splits the plan over workers so that a recorded connection stays with one of them.
    pub(crate) fn into_shards(self, workers: NonZeroU32, topology: Topology) -> Vec<Shard> {
        let n = workers.get();
        let mut shards: Vec<Shard> = (0..n)
            .map(|worker| Shard {
                entries: Vec::with_capacity(self.entries.len() / n as usize + 1),
                lanes: match topology {
                    Topology::Recorded => share(self.lanes, n, worker),
                    Topology::Pooled(connections) => share(connections.get(), n, worker),
                },
            })
            .collect();
        let mut turn = vec![0_u32; n as usize];
        for (index, entry) in (0_u32..).zip(self.entries) {
            let (worker, lane) = match topology {
                Topology::Recorded => (entry.lane % n, Some(entry.lane / n)),
                Topology::Pooled(_) => (index % n, None),
            };
            let worker = worker as usize;
            if let (Some(shard), Some(turn)) = (shards.get_mut(worker), turn.get_mut(worker)) {
                let entry = match lane {
                    Some(lane) => Entry { lane, ..entry },
                    None => entry.on_lane(*turn % shard.lanes.max(1)),
                };
                *turn = turn.wrapping_add(1);
                shard.entries.push(entry);
            }
        }
        shards
    }
}

/// What one worker sends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shard {
    /// Its entries, by due time, with lanes counted from zero in this shard.
    pub(crate) entries: Vec<Entry>,
    /// How many lanes there are: one for each recorded connection, or one for each connection of
    /// the pool.
    pub(crate) lanes: u32,
}

/// The part of `total` that falls to `worker` of `n`: the parts differ by one at most.
pub(crate) const fn share(total: u32, n: u32, worker: u32) -> u32 {
    total / n + if worker < total % n { 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan<'a>(rows: impl IntoIterator<Item = Candidate<'a>>, speed: Speed) -> Schedule {
        let mut endpoints = Endpoints::new(Vec::new(), Vec::new());
        Schedule::new(rows, speed, None, 0, &mut endpoints)
    }

    fn candidate(id: u64, millis: i64, connection: u64) -> Candidate<'static> {
        Candidate {
            id,
            at: Timestamp::from_nanos(1_700_000_000_000_000_000 + millis * 1_000_000),
            took: Duration::ZERO,
            connection,
            method: b"GET",
            target: Target::whole(b"/"),
            left_out: None,
        }
    }

    fn times(factor: f64) -> Speed {
        Speed::Times(Factor::new(factor).unwrap())
    }

    #[test]
    fn speeds_are_read_as_people_write_them() {
        for (text, expect) in [
            ("1x", Some(Speed::RECORDED)),
            ("4x", Some(times(4.0))),
            ("4", Some(times(4.0))),
            ("0.5X", Some(times(0.5))),
            ("max", Some(Speed::Max)),
            ("MAX", Some(Speed::Max)),
            ("0x", None),
            ("-1x", None),
            ("inf", None),
            ("NaN", None),
            ("fast", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Speed>().ok(), expect, "{text:?}");
        }
        assert_eq!(times(2.5).to_string(), "2.5x");
    }

    #[test]
    fn due_times_are_absolute_and_scale_with_the_speed() {
        // Archives are ordered by completion, not by beginning.
        let rows = [
            candidate(0, 40, 1),
            candidate(1, 0, 1),
            candidate(2, 1000, 2),
        ];
        let due = |speed| {
            plan(rows, speed)
                .entries
                .iter()
                .map(|entry| (entry.id, entry.due().as_micros()))
                .collect::<Vec<_>>()
        };
        assert_eq!(due(Speed::RECORDED), [(1, 0), (0, 40_000), (2, 1_000_000)]);
        assert_eq!(due(times(4.0)), [(1, 0), (0, 10_000), (2, 250_000)]);
        assert_eq!(due(times(0.5)), [(1, 0), (0, 80_000), (2, 2_000_000)]);
        assert_eq!(due(Speed::Max), [(1, 0), (0, 0), (2, 0)]);
    }

    #[test]
    fn every_candidate_is_sent_or_left_out() {
        let mut rows = vec![candidate(0, 0, 1)];
        for (id, reason) in (1..).zip(LeftOut::ALL) {
            rows.push(Candidate {
                left_out: Some(*reason),
                ..candidate(id, 5, 1)
            });
        }
        let schedule = plan(rows.iter().copied(), Speed::RECORDED);
        assert_eq!(
            schedule.entries.len() as u64 + schedule.left_out.total(),
            rows.len() as u64
        );
        assert!(schedule.left_out.iter().all(|(_, n)| n == 1));
    }

    #[test]
    fn a_run_that_ends_early_leaves_out_what_is_due_later() {
        let rows = [
            candidate(0, 0, 1),
            candidate(1, 999, 1),
            candidate(2, 1000, 1),
        ];
        let mut endpoints = Endpoints::new(Vec::new(), Vec::new());
        let limit = Some(Duration::from_millis(500));
        let schedule = Schedule::new(rows, times(2.0), limit, 0, &mut endpoints);
        assert_eq!(schedule.entries.len(), 2);
        assert_eq!(schedule.left_out.of(LeftOut::TooLate), 1);
        assert!(schedule.entries[1].last_of_lane);
    }

    #[test]
    fn the_last_entry_of_each_lane_says_so() {
        let rows = [(0, 7), (1, 8), (2, 7), (3, 9), (4, 8)]
            .map(|(id, connection)| candidate(id, id.cast_signed(), connection));
        let schedule = plan(rows, Speed::RECORDED);
        let seen: Vec<_> = schedule
            .entries
            .iter()
            .map(|entry| (entry.lane, entry.last_of_lane))
            .collect();
        assert_eq!(
            seen,
            [(0, false), (1, false), (0, true), (2, true), (1, true)]
        );
    }

    #[test]
    fn shards_keep_every_entry_and_every_connection_together() {
        let rows: Vec<_> = (0..100)
            .map(|id| candidate(id, id.cast_signed(), id % 7))
            .collect();
        for workers in 1..5 {
            let workers = NonZeroU32::new(workers).unwrap();
            let schedule = plan(rows.iter().copied(), Speed::RECORDED);
            let shards = schedule.into_shards(workers, Topology::Recorded);
            let mut ids = Vec::new();
            let mut home = HashMap::new();
            for (worker, shard) in shards.iter().enumerate() {
                assert!(shard.entries.is_sorted_by_key(Entry::due));
                for entry in &shard.entries {
                    assert!(entry.lane < shard.lanes);
                    let place = (worker, entry.lane);
                    assert_eq!(*home.entry(entry.id % 7).or_insert(place), place);
                    ids.push(entry.id);
                }
            }
            ids.sort_unstable();
            assert_eq!(ids, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_pool_is_shared_evenly() {
        let rows: Vec<_> = (0..30).map(|id| candidate(id, 0, 1)).collect();
        let shards = plan(rows, Speed::RECORDED).into_shards(
            NonZeroU32::new(2).unwrap(),
            Topology::Pooled(NonZeroU32::new(5).unwrap()),
        );
        assert_eq!(
            shards.iter().map(|shard| shard.lanes).collect::<Vec<_>>(),
            [3, 2]
        );
        assert!(shards.iter().all(|shard| shard.entries.len() == 15));
    }
}
