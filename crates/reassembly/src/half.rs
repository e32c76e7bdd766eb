//! One direction of a connection.

use std::ops::Range;

use tapedeck_model::{SeqNum, Timestamp};

use crate::backlog::Backlog;
use crate::vantage::Print;

/// One direction of a connection, and where its byte stream stands.
///
/// Positions are *offsets*: 64 bits that never wrap. The first sequence number that is seen becomes
/// [`ORIGIN`]; every later one is unwrapped relative to the next expected byte.
#[derive(Debug)]
pub(crate) struct Half {
    pub(crate) state: HalfState,
    /// The beginning was not seen as a SYN but taken from the first segment: an earlier one may
    /// still come.
    pub(crate) soft: bool,
    /// Where the stream begins.
    first: u64,
    /// The next byte to deliver. `first <= next`.
    next: u64,
    /// The sequence number of that byte.
    seq: SeqNum,
    /// The time of the latest input.
    pub(crate) last_at: Timestamp,
    /// The most recent gap.
    gap: Range<u64>,
    /// What the other direction may rely on, although it was not delivered: an acknowledgment whose
    /// grace is over.
    settled: u64,
    /// What was delivered first.
    pub(crate) print: Print,
    pub(crate) backlog: Option<Box<Backlog>>,
}

/// ```text
/// Unseen ──(any segment)──► Open ──(FIN or RST reached, or cut)──► Ended
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HalfState {
    /// Nothing was seen from this side.
    Unseen,
    /// Its position is known.
    Open,
    /// Its end was delivered.
    Ended,
}

/// The offset of the first byte. Not zero, so that bytes before it have offsets too.
const ORIGIN: u64 = 1 << 40;

/// What is known of bytes that lie before the next expected one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Past {
    /// Delivered before.
    pub(crate) duplicate: u64,
    /// Too late: before the beginning, or in a gap.
    pub(crate) late: u64,
}

impl Half {
    pub(crate) fn new() -> Self {
        Self {
            state: HalfState::Unseen,
            soft: false,
            first: ORIGIN,
            next: ORIGIN,
            seq: SeqNum(0),
            last_at: Timestamp::from_nanos(i64::MIN),
            gap: ORIGIN..ORIGIN,
            settled: 0,
            print: Print::default(),
            backlog: None,
        }
    }

    /// Learns the position.
    pub(crate) fn anchor(&mut self, first: SeqNum, soft: bool) {
        self.state = HalfState::Open;
        self.soft = soft;
        self.seq = first;
        self.first = self.next;
        self.gap = self.next..self.next;
    }

    /// Moves a guessed beginning to an earlier one, as long as nothing was delivered.
    pub(crate) fn move_beginning(&mut self, offset: u64) {
        debug_assert!(
            self.is_fresh() && offset <= self.next,
            "the stream has begun"
        );
        self.seq = SeqNum(self.seq.0.wrapping_sub((self.next - offset) as u32));
        self.first = offset;
        self.next = offset;
        self.gap = offset..offset;
    }

    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// The sequence number of the next byte.
    pub(crate) const fn seq(&self) -> SeqNum {
        self.seq
    }

    /// The sequence number of the first byte.
    pub(crate) const fn first_seq(&self) -> SeqNum {
        SeqNum(self.seq.0.wrapping_sub((self.next - self.first) as u32))
    }

    /// Whether nothing was delivered, nor given up.
    pub(crate) const fn is_fresh(&self) -> bool {
        self.next == self.first
    }

    /// Whether its beginning can still be put elsewhere. One that ended before it said anything is
    /// fresh, too, but over.
    pub(crate) fn may_move(&self) -> bool {
        self.state == HalfState::Open && self.is_fresh()
    }

    /// The offset of a sequence number: the one nearest to the next byte.
    pub(crate) const fn offset(&self, seq: SeqNum) -> u64 {
        self.next
            .saturating_add_signed(seq.distance_from(self.seq) as i64)
    }

    /// Goes on behind bytes that were delivered.
    pub(crate) const fn advance(&mut self, len: u64) {
        self.next += len;
        self.seq = SeqNum(self.seq.0.wrapping_add(len as u32));
    }

    /// Goes on behind a gap.
    pub(crate) const fn give_up(&mut self, len: u64) {
        self.gap = self.next..self.next + len;
        self.advance(len);
    }

    /// Whether `offset` lies in, or at the end of, the most recent gap.
    pub(crate) fn in_gap(&self, offset: u64) -> bool {
        !self.gap.is_empty() && (self.gap.start..=self.gap.end).contains(&offset)
    }

    /// What became of bytes before the next one. Only the most recent gap is remembered: bytes that
    /// come later than that count as duplicates.
    pub(crate) fn past(&self, start: u64, end: u64) -> Past {
        let end = end.min(self.next);
        let len = end.saturating_sub(start);
        let early = self.first.min(end).saturating_sub(start);
        let lost = self
            .gap
            .end
            .min(end)
            .saturating_sub(self.gap.start.max(start));
        let late = (early + lost).min(len);
        Past {
            duplicate: len - late,
            late,
        }
    }

    /// How far the other direction may go on: what was delivered, or settled otherwise.
    pub(crate) fn level(&self) -> u64 {
        match self.state {
            HalfState::Open => self.next.max(self.settled),
            HalfState::Unseen | HalfState::Ended => u64::MAX,
        }
    }

    /// Lets the other direction rely on everything before `offset`.
    pub(crate) fn settle(&mut self, offset: u64) {
        self.settled = self.settled.max(offset);
    }

    /// Whether a segment in order can be delivered without further thought.
    pub(crate) const fn is_plain(&self) -> bool {
        matches!(self.state, HalfState::Open) && self.backlog.is_none()
    }

    /// When the hole at the front showed, where there is one: what lies behind it was captured then.
    pub(crate) fn hole_since(&self) -> Option<Timestamp> {
        let backlog = self.backlog.as_ref()?;
        let (end, since) = match (backlog.first(), backlog.ending) {
            (Some((offset, chunk)), _) => (offset, chunk.at),
            (None, Some(ending)) => (ending.offset, ending.at),
            (None, None) => return None,
        };
        (end > self.next).then_some(since)
    }

    /// Since when what it is to say next is there.
    pub(crate) fn waiting_since(&self) -> Option<Timestamp> {
        let backlog = self.backlog.as_ref()?;
        let chunk = backlog.first().map(|(_, chunk)| chunk.at);
        chunk.or_else(|| backlog.ending.map(|ending| ending.at))
    }

    /// Whether what it is to say next waits for bytes of the other half that are being waited for.
    pub(crate) fn waits_for(&self, peer: &Self) -> bool {
        let first = self.backlog.as_ref().and_then(|backlog| backlog.first());
        let waits =
            first.is_some_and(|(start, chunk)| start == self.next && chunk.needs > peer.level());
        let is_incomplete = peer
            .backlog
            .as_ref()
            .is_some_and(|backlog| backlog.behind.is_some() || backlog.hole.is_some());
        waits && is_incomplete
    }

    pub(crate) fn memory(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.memory())
    }
}
