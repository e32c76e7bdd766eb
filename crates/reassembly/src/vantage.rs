//! The same conversation captured at several points.
//!
//! A capture of all devices of a host, or of a mirror port, shows a packet several times: plain, with
//! a VLAN tag, within a tunnel. The scopes differ, and so would the connections. A conversation that
//! two tenants have with equal addresses looks just the same, up to the bytes: so those decide.
//!
//! ```text
//!   a segment of a flow that is known, but in another scope:
//!     SYN with the same number ──► shadow: its segments without payload open nothing
//!     payload equal to the first of that direction ──► a copy: the scope joins the connection
//!     other payload of a shadow ──► a connection of its own, whose handshake was the shadow's
//!     the answer to what the connection said, while nothing came from that side
//!       ──► tags that differ by direction: the scope joins the connection
//!     anything else ──► a connection of its own
//! ```

use std::hash::{DefaultHasher, Hasher};

use tapedeck_model::{Direction, Segment, SeqNum, TcpFlags};

use crate::connection::Conn;
use crate::flow_table::Key;
use crate::half::{Half, HalfState};
use crate::reassembler::Reassembler;

/// What a segment in a scope without a connection has to do with one in another scope.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Elsewhere {
    /// Nothing.
    No,
    /// It belongs to it.
    Joins(u32),
    /// It may be a copy of what was seen, and says nothing new.
    Shadow(u32),
    /// It looked like a copy until it said something else.
    Twin(u32),
}

/// The other scopes of a connection.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Those that joined.
    pub(crate) joined: Vec<Key>,
    /// The one that may be a copy.
    shadow: Option<Key>,
}

/// Scopes of one connection. A packet crosses a handful of devices; whoever forges more gets more
/// connections, which have a limit of their own.
const MAX_JOINED: usize = 16;

/// How far an acknowledgment may lie ahead of what was seen: a capture may show an answer before its
/// question, but not by more than is under way at the beginning.
const ACK_AHEAD: u64 = 64 << 10;

impl Reassembler {
    /// Whether a segment belongs to a connection in another scope.
    pub(crate) fn elsewhere(
        &self,
        key: &Key,
        source_is_low: bool,
        segment: &Segment<'_>,
    ) -> Elsewhere {
        let Some(slot) = self.table.find_elsewhere(key) else {
            return Elsewhere::No;
        };
        let conn = &self.conns[slot as usize];
        let direction = conn.direction(source_is_low);
        let (half, peer) = (&conn.halves[direction], &conn.halves[!direction]);
        let copies = conn.copies.as_deref();
        let is_shadow = copies.is_some_and(|copies| copies.shadow.as_ref() == Some(key));
        let may_join = copies.is_none_or(|copies| copies.joined.len() < MAX_JOINED);
        let answers = !is_shadow && may_join && half.is_fresh() && acknowledges(segment, peer);
        if segment.flags.contains(TcpFlags::SYN) {
            let first = SeqNum(segment.seq.0.wrapping_add(1));
            return match half.state {
                // What it carries (RFC 7413) has to be read.
                _ if !segment.payload.is_empty() => Elsewhere::No,
                HalfState::Unseen if answers => Elsewhere::Joins(slot),
                HalfState::Open | HalfState::Ended if !half.soft && half.first_seq() == first => {
                    Elsewhere::Shadow(slot)
                }
                _ if is_shadow => Elsewhere::Shadow(slot),
                _ => Elsewhere::No,
            };
        }
        if segment.payload.is_empty() {
            return if is_shadow {
                Elsewhere::Shadow(slot)
            } else {
                Elsewhere::No
            };
        }
        if may_join && half.print.is_of(segment) || answers && !peer.is_fresh() {
            Elsewhere::Joins(slot)
        } else if is_shadow {
            Elsewhere::Twin(slot)
        } else {
            Elsewhere::No
        }
    }

    /// From now on, segments of that key belong to the connection.
    pub(crate) fn join(&mut self, key: Key, slot: u32) {
        let copies = self.conns[slot as usize].copies.get_or_insert_default();
        copies.joined.push(key);
        copies.shadow = None;
        self.table.alias(key, slot);
    }

    /// Segments of that key may be copies of the connection's.
    pub(crate) fn shadow(&mut self, key: Key, slot: u32) {
        let copies = self.conns[slot as usize].copies.get_or_insert_default();
        copies.shadow = Some(key);
    }
}

impl Conn {
    /// Begins where the connection did whose copy this was taken for.
    pub(crate) fn begin_like(&mut self, beginnings: [Option<SeqNum>; 2]) {
        for (direction, first) in Direction::BOTH.into_iter().zip(beginnings) {
            if let Some(first) = first {
                self.halves[direction].anchor(first, false);
            }
        }
    }

    /// Where both halves begin, as far as SYNs told.
    pub(crate) fn beginnings(&self) -> [Option<SeqNum>; 2] {
        Direction::BOTH.map(|direction| {
            let half = &self.halves[direction];
            (half.state != HalfState::Unseen && !half.soft).then(|| half.first_seq())
        })
    }
}

/// Whether a segment acknowledges what that half said.
fn acknowledges(segment: &Segment<'_>, half: &Half) -> bool {
    if !segment.flags.contains(TcpFlags::ACK) || half.state == HalfState::Unseen {
        return false;
    }
    let ack = half.offset(segment.ack);
    (half.offset(half.first_seq())..=half.next() + ACK_AHEAD).contains(&ack)
}

/// The first payload of a direction, by which copies of it are known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Print {
    hash: u64,
    seq: SeqNum,
    /// How much of it was looked at; zero where there is none.
    len: u16,
}

impl Print {
    /// Heads of requests differ within their first bytes; and segmentation offload may cut the same
    /// bytes in other places, so that less is better to compare.
    const MAX: usize = 512;

    pub(crate) fn of(seq: SeqNum, payload: &[u8]) -> Self {
        let len = payload.len().min(Self::MAX);
        Self {
            hash: hash(payload, len),
            seq,
            len: len as u16,
        }
    }

    fn is_of(self, segment: &Segment<'_>) -> bool {
        let len = usize::from(self.len);
        len > 0
            && segment.seq == self.seq
            && segment.payload.len() >= len
            && hash(segment.payload, len) == self.hash
    }
}

fn hash(payload: &[u8], len: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(payload.get(..len).unwrap_or(payload));
    hasher.finish()
}
