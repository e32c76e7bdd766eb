//! One message on its way into the file: what comes next of it, and when.

use std::time::Duration;

use tapedeck_archive::{BodyView, MessageView};
use tapedeck_model::{Missing, Timestamp};

/// What comes next of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// The interim response of that number.
    Interim(usize),
    Head,
    /// The second half of a head that took its time.
    HeadEnd,
    Body,
    End,
}

/// Where a message stands. Everything else is read again from the archive, so that an exchange
/// under way costs no more than this.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speaker {
    pub(super) part: Part,
    /// Body bytes that were said.
    pub(super) offset: u64,
    /// The next gap.
    pub(super) gap: usize,
    /// The next arrival.
    arrival: usize,
    /// Since when, and from which byte on, bytes came without a pause.
    run: (Timestamp, u64),
    /// It waits for its turn.
    pub(super) parked: bool,
    /// The end was said with the last bytes.
    pub(super) ended: bool,
}

/// The next bytes of a body: up to `end`, at `at`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Piece {
    pub(super) at: Timestamp,
    pub(super) end: u64,
}

/// Bytes of a body that are written at once.
const MAX_PIECE: u64 = 64 << 10;

/// Arrivals of one body that are looked at: as many as a recording notes.
const MAX_ARRIVALS: usize = 4096;

/// Bytes that came within this time of each other came without a pause, and nothing is known of when
/// each came. Two of them are below the shortest pause that captures tell, so that writing makes none.
const STEADY: u64 = 450_000;

/// A body whose end is told apart from its last byte is spread over its time only if at least so many
/// bytes go into each step. What was slower more likely came at once, and its end came late.
const SPREAD: u128 = 100;

impl Speaker {
    pub(super) fn new(part: Part) -> Self {
        Self {
            part,
            offset: 0,
            gap: 0,
            arrival: 0,
            run: (Timestamp::EPOCH, 0),
            parked: false,
            ended: false,
        }
    }

    /// The body begins at that time, if nothing else is known.
    pub(super) fn begin_body(&mut self, at: Timestamp) {
        self.part = Part::Body;
        self.run = (at, 0);
    }

    /// Whether a gap comes next.
    pub(super) fn at_gap(&self, body: &BodyView<'_>) -> bool {
        body.gaps_from(self.gap)
            .next()
            .is_some_and(|gap| gap.offset <= self.offset)
    }

    /// Whether all of the body was said.
    pub(super) fn body_over(&self, body: &BodyView<'_>) -> bool {
        self.offset >= body.len() && body.gaps_from(self.gap).next().is_none()
    }

    /// The next bytes. `delimited`: something follows them that ends the message.
    pub(super) fn piece(&mut self, message: &MessageView<'_>, delimited: bool) -> Piece {
        let body = message.body();
        // They are differences, so that each has to be come to from the first.
        let mut arrivals = body.arrivals().take(MAX_ARRIVALS).skip(self.arrival);
        let mut next = arrivals.next();
        while let Some(arrival) = next.filter(|arrival| arrival.offset <= self.offset) {
            self.arrival += 1;
            self.run = (arrival.at.max(self.run.0), self.offset);
            next = arrivals.next();
        }
        let (start, first) = self.run;
        let run_end = next.map_or(body.len(), |arrival| arrival.offset.min(body.len()));
        let gap = body.gaps_from(self.gap).next();
        let limit = gap
            .map_or(run_end, |gap| gap.offset.min(run_end))
            .min(self.offset.saturating_add(MAX_PIECE));

        let broken = [Missing::ABORTED, Missing::UNFINISHED]
            .into_iter()
            .any(|cause| message.missing().contains(cause));
        let lasted = message.last_byte().since(start).as_nanos();
        if next.is_some() || broken || lasted == 0 {
            return Piece {
                at: start,
                end: limit,
            };
        }
        let len = u128::from(run_end.saturating_sub(first)).max(1);
        let steady = len * u128::from(STEADY) / lasted;
        if steady < if delimited { SPREAD } else { 1 } {
            return self.at_once(message, start, run_end, limit, delimited);
        }
        // The first bytes are at the beginning, the last ones at the end.
        let steady = u64::try_from(steady).unwrap_or(u64::MAX);
        let end = limit.min(self.offset.saturating_add(steady));
        let (end, at) = if end < run_end {
            let share = lasted * u128::from(self.offset - first) / len;
            let share = u64::try_from(share).unwrap_or(u64::MAX);
            (end, start.saturating_add(Duration::from_nanos(share)))
        } else if self.offset > first || end - first == 1 {
            (end, message.last_byte())
        } else {
            (end - 1, start)
        };
        Piece { at, end }
    }

    /// The next bytes where all came at once: but for the last one, if nothing else tells when the
    /// message ended.
    fn at_once(
        &self,
        message: &MessageView<'_>,
        start: Timestamp,
        run_end: u64,
        limit: u64,
        delimited: bool,
    ) -> Piece {
        let before = run_end.saturating_sub(1);
        if delimited || self.offset < before {
            let end = if delimited { limit } else { limit.min(before) };
            return Piece { at: start, end };
        }
        Piece {
            at: message.last_byte(),
            end: limit,
        }
    }
}
