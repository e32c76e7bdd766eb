//! A connection in the table.

use std::time::Duration;

use tapedeck_model::{Direction, PerDirection, Segment, SeqNum, TcpFlags, Timestamp};

use crate::flow_table::Key;
use crate::half::{Half, HalfState};
use crate::limits::Limits;
use crate::vantage::Copies;

/// A connection in the table.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) key: Key,
    pub(crate) client_is_low: bool,
    pub(crate) phase: Phase,
    /// When its latest segment was captured.
    pub(crate) last_seen: Timestamp,
    /// Whether any payload was delivered.
    pub(crate) said: bool,
    /// The other scopes that it was seen in.
    pub(crate) copies: Option<Box<Copies>>,
    pub(crate) halves: PerDirection<Half>,
}

/// What the connection waits for.
///
/// ```text
/// Opening ──(anything but a SYN)──► Open ──(RST)──► Aborted
///    │                                │               │
///    └────────────────────────────────┴── both halves ended ──► Closed ──(linger)──► Free
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Only SYNs were seen.
    Opening,
    /// It goes on.
    Open,
    /// A RST was seen then; what was under way may still come.
    Aborted(Timestamp),
    /// Both halves ended then. The sink knows; only retransmissions can come.
    Closed(Timestamp),
    /// The place is not in use.
    Free,
}

/// How a SYN relates to the connection that its flow has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SynKind {
    /// It belongs to it.
    Same,
    /// It belongs to it, and tells where the stream begins, which was guessed wrongly.
    Anchor,
    /// It begins another one: the port is used again.
    New,
}

/// How far before the first segment that was seen a late SYN may lie: captures reorder, but
/// not by more than what is under way at the beginning of a connection.
const LATE_SYN: i32 = 1 << 16;

impl Conn {
    pub(crate) fn new(key: Key, client_is_low: bool, phase: Phase, at: Timestamp) -> Self {
        Self {
            key,
            client_is_low,
            phase,
            last_seen: at,
            said: false,
            copies: None,
            halves: PerDirection {
                to_server: Half::new(),
                to_client: Half::new(),
            },
        }
    }

    /// The direction of a segment, by which end sent it.
    pub(crate) const fn direction(&self, source_is_low: bool) -> Direction {
        if source_is_low == self.client_is_low {
            Direction::ToServer
        } else {
            Direction::ToClient
        }
    }

    /// The half of that direction, and the other one.
    pub(crate) const fn pair(&mut self, direction: Direction) -> (&mut Half, &mut Half) {
        let PerDirection {
            to_server,
            to_client,
        } = &mut self.halves;
        match direction {
            Direction::ToServer => (to_server, to_client),
            Direction::ToClient => (to_client, to_server),
        }
    }

    /// When it is over, if nothing more is seen of it.
    pub(crate) fn deadline(&self, limits: &Limits) -> Timestamp {
        match self.phase {
            Phase::Opening => self.last_seen.saturating_add(limits.handshake_timeout),
            Phase::Open => self.last_seen.saturating_add(limits.idle_timeout),
            Phase::Aborted(at) => at.saturating_add(limits.reset_linger),
            Phase::Closed(at) => at.saturating_add(limits.close_linger),
            Phase::Free => Timestamp::MAX,
        }
    }

    /// After a clock was set back by more than `step`: what lies further ahead happened now.
    pub(crate) fn forget_future(&mut self, now: Timestamp, step: Duration) {
        let clamp = |at: Timestamp| if at.since(now) > step { now } else { at };
        self.last_seen = clamp(self.last_seen);
        self.phase = match self.phase {
            Phase::Aborted(at) => Phase::Aborted(clamp(at)),
            Phase::Closed(at) => Phase::Closed(clamp(at)),
            phase @ (Phase::Opening | Phase::Open | Phase::Free) => phase,
        };
    }

    /// What a segment with SYN means here.
    pub(crate) fn classify_syn(&self, direction: Direction, segment: &Segment<'_>) -> SynKind {
        let (half, peer) = (&self.halves[direction], &self.halves[!direction]);
        let first = SeqNum(segment.seq.0.wrapping_add(1));
        let is_answer = segment.flags.contains(TcpFlags::ACK);
        if half.state == HalfState::Unseen {
            // An answer, or a simultaneous open; but a SYN of a side to which something was said
            // already is the beginning of another connection.
            return if is_answer || (peer.is_fresh() && !self.is_closed()) {
                SynKind::Same
            } else {
                SynKind::New
            };
        }
        match first.distance_from(half.first_seq()) {
            0 => SynKind::Same,
            early if self.is_closed() || early < -LATE_SYN => self.other_syn(half, is_answer),
            // The SYN comes behind the first data.
            ..0 if half.soft && half.may_move() => SynKind::Anchor,
            ..0 if half.soft => SynKind::Same,
            _ => self.other_syn(half, is_answer),
        }
    }

    /// Whether a segment with payload lies further than `range` from everything that was seen, both
    /// in what it says and in what it acknowledges.
    pub(crate) fn is_foreign(
        &self,
        direction: Direction,
        segment: &Segment<'_>,
        range: u64,
    ) -> bool {
        let control = TcpFlags::SYN.union(TcpFlags::RST).union(TcpFlags::ACK);
        if segment.payload.is_empty() || segment.flags.0 & control.0 != TcpFlags::ACK.0 {
            return false;
        }
        let is_far = |half: &Half, seq| {
            half.state != HalfState::Unseen && half.offset(seq).abs_diff(half.next()) > range
        };
        is_far(&self.halves[direction], segment.seq)
            && is_far(&self.halves[!direction], segment.ack)
    }

    /// A SYN with another initial sequence number.
    fn other_syn(&self, half: &Half, is_answer: bool) -> SynKind {
        if is_answer && !self.is_closed() && half.may_move() && half.backlog.is_none() {
            // The server answered anew before it said anything.
            SynKind::Anchor
        } else {
            SynKind::New
        }
    }

    pub(crate) const fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed(_))
    }
}
