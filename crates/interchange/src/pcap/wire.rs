//! One TCP connection as its segments: handshake, data, acknowledgments, gaps, close.

use std::io::{self, Write};

use tapedeck_model::{Direction, Endpoint, GapCause, PerDirection, TcpFlags, Timestamp};

use super::file::{CaptureFile, Frame};
use super::frame::{MAX_SEGMENT, Segment};

/// Unacknowledged bytes at most. Below the smallest window that the headers can mean, so that no
/// tool takes a sender for stuck.
const MAX_UNACKED: u32 = 60_000;

/// Bytes that a gap skips before its peer acknowledges them: well within the distance at which
/// sequence numbers are still told apart.
const GAP_STEP: u64 = 16 << 20;

/// The longest gap that is written. A TCP connection has no way to say more at once, and an archive
/// can claim any number.
pub(super) const MAX_GAP: u64 = 1 << 30;

/// A TCP connection on its way into a file.
#[derive(Debug)]
pub(super) struct Wire {
    client: Endpoint,
    server: Endpoint,
    lane: u32,
    /// The sequence number of the next byte.
    next: PerDirection<u32>,
    /// Bytes, sent or skipped, that the peer did not acknowledge.
    unacked: PerDirection<u32>,
    /// No more will come in this direction.
    closed: PerDirection<bool>,
}

/// Where segments go.
pub(super) struct Output<'o, W> {
    pub(super) file: &'o mut CaptureFile<W>,
    pub(super) frame: &'o mut Vec<u8>,
    pub(super) at: Timestamp,
}

impl Wire {
    /// A connection that is under way. Its number decides the sequence numbers: those of two
    /// connections in a row between the same endpoints must not be alike.
    pub(super) fn new(number: u64, client: Endpoint, server: Endpoint, lane: u32) -> Self {
        // Multiplicative hashing (Knuth): consecutive numbers come to lie far apart.
        let start = (number as u32).wrapping_mul(0x9e37_79b1);
        Self {
            client,
            server,
            lane,
            next: PerDirection {
                to_server: start,
                to_client: start.rotate_left(16),
            },
            unacked: PerDirection::default(),
            closed: PerDirection::default(),
        }
    }

    /// Whether no more can be sent in this direction.
    pub(super) fn is_closed(&self, direction: Direction) -> bool {
        self.closed[direction]
    }

    /// The three segments of a handshake. Sequence numbers go on far from those of an earlier
    /// connection between the same endpoints.
    pub(super) fn open<W: Write>(&mut self, out: &mut Output<'_, W>) -> io::Result<()> {
        self.closed = PerDirection::default();
        self.unacked = PerDirection::default();
        for direction in Direction::BOTH {
            self.next[direction] = self.next[direction].wrapping_add(0x0100_0000);
        }
        let syn_ack = TcpFlags::SYN.union(TcpFlags::ACK);
        self.flag(Direction::ToServer, TcpFlags::SYN, out)?;
        self.next.to_server = self.next.to_server.wrapping_add(1);
        self.flag(Direction::ToClient, syn_ack, out)?;
        self.next.to_client = self.next.to_client.wrapping_add(1);
        self.flag(Direction::ToServer, TcpFlags::ACK, out)
    }

    /// Bytes, in as many segments as it takes, and their acknowledgment.
    pub(super) fn send<W: Write>(
        &mut self,
        direction: Direction,
        bytes: &[u8],
        comment: Option<&str>,
        out: &mut Output<'_, W>,
    ) -> io::Result<()> {
        let mut comment = comment;
        let mut segments = bytes.chunks(MAX_SEGMENT).peekable();
        while let Some(payload) = segments.next() {
            let flags = if segments.peek().is_none() {
                TcpFlags::ACK.union(TcpFlags::PSH)
            } else {
                TcpFlags::ACK
            };
            self.segment(direction, flags, payload, 0, comment.take(), out)?;
            self.advance(direction, payload.len() as u32);
            if self.unacked[direction] > MAX_UNACKED {
                self.acknowledge(direction, out)?;
            }
        }
        Ok(())
    }

    /// Bytes that are not there: of a lost segment there is no trace but that the peer acknowledges
    /// it, of one that the snapshot length cut there is the head. Gives whether all fitted.
    pub(super) fn skip<W: Write>(
        &mut self,
        direction: Direction,
        len: u64,
        cause: GapCause,
        out: &mut Output<'_, W>,
    ) -> io::Result<bool> {
        let mut left = len.min(MAX_GAP);
        while left > 0 {
            let step = match cause {
                GapCause::Snaplen => {
                    let step = left.min(Segment::max_cut().into());
                    self.segment(direction, TcpFlags::ACK, &[], step as u16, None, out)?;
                    step
                }
                GapCause::Lost | GapCause::Limit => left.min(GAP_STEP),
            };
            self.advance(direction, step as u32);
            left -= step;
            if left > 0 {
                self.acknowledge(direction, out)?;
            }
        }
        Ok(len <= MAX_GAP)
    }

    /// The peer acknowledges what it has not yet.
    pub(super) fn acknowledge<W: Write>(
        &mut self,
        direction: Direction,
        out: &mut Output<'_, W>,
    ) -> io::Result<()> {
        if std::mem::take(&mut self.unacked[direction]) == 0 {
            return Ok(());
        }
        self.flag(!direction, TcpFlags::ACK, out)
    }

    /// The end of a direction.
    pub(super) fn finish<W: Write>(
        &mut self,
        direction: Direction,
        out: &mut Output<'_, W>,
    ) -> io::Result<()> {
        if std::mem::replace(&mut self.closed[direction], true) {
            return Ok(());
        }
        self.flag(direction, TcpFlags::FIN.union(TcpFlags::ACK), out)?;
        self.advance(direction, 1);
        self.acknowledge(direction, out)
    }

    /// The end of the connection, by force, from the side that sends in this direction.
    pub(super) fn reset<W: Write>(
        &mut self,
        direction: Direction,
        out: &mut Output<'_, W>,
    ) -> io::Result<()> {
        if self.closed[direction] && self.closed[!direction] {
            return Ok(());
        }
        self.closed = PerDirection {
            to_server: true,
            to_client: true,
        };
        self.flag(direction, TcpFlags::RST.union(TcpFlags::ACK), out)
    }

    fn advance(&mut self, direction: Direction, len: u32) {
        self.next[direction] = self.next[direction].wrapping_add(len);
        self.unacked[direction] = self.unacked[direction].saturating_add(len);
    }

    fn flag<W: Write>(
        &mut self,
        direction: Direction,
        flags: TcpFlags,
        out: &mut Output<'_, W>,
    ) -> io::Result<()> {
        self.segment(direction, flags, &[], 0, None, out)
    }

    fn segment<W: Write>(
        &mut self,
        direction: Direction,
        flags: TcpFlags,
        payload: &[u8],
        cut: u16,
        comment: Option<&str>,
        out: &mut Output<'_, W>,
    ) -> io::Result<()> {
        let acks = flags.contains(TcpFlags::ACK);
        if acks {
            // Every segment acknowledges all that came the other way.
            self.unacked[!direction] = 0;
        }
        let (source, destination) = match direction {
            Direction::ToServer => (self.client, self.server),
            Direction::ToClient => (self.server, self.client),
        };
        let segment = Segment {
            source,
            destination,
            lane: self.lane,
            seq: self.next[direction],
            ack: if acks { self.next[!direction] } else { 0 },
            flags,
            payload,
            cut,
        };
        segment.encode(out.frame);
        out.file.frame(Frame {
            at: out.at,
            bytes: out.frame,
            cut: cut.into(),
            comment,
        })
    }
}
