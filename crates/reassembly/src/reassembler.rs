//! The machine: segments in, byte streams out.

use tapedeck_model::{
    Anomaly, Connection, ConnectionId, Direction, GapCause, Ledger, Origin, Segment, SeqNum,
    TcpFlags, Timestamp,
};

use crate::age_queue::{AgeQueue, HalfId};
use crate::backlog::{EndKind, Ending};
use crate::connection::{Conn, Phase, SynKind};
use crate::flow_table::{FlowTable, Key};
use crate::half::HalfState;
use crate::limits::Limits;
use crate::sink::{Sink, Slot};
use crate::stats::Stats;
use crate::vantage::Elsewhere;
use crate::wheel::Wheel;

/// Turns the segments of a capture into the byte streams of its connections. See the
/// [crate](crate) for the rules.
#[derive(Debug)]
pub struct Reassembler {
    pub(crate) limits: Limits,
    pub(crate) table: FlowTable,
    pub(crate) conns: Vec<Conn>,
    /// Places in `conns` that are not in use.
    pub(crate) free: Vec<u32>,
    /// When to look at which connection.
    pub(crate) wheel: Wheel,
    /// Halves with a hole at their front.
    pub(crate) holes: AgeQueue,
    /// Halves whose receiver has acknowledged more than was delivered.
    pub(crate) behind: AgeQueue,
    /// The latest time that a packet or the owner told.
    pub(crate) now: Option<Timestamp>,
    /// Memory of all backlogs. The sum of what the halves say.
    pub(crate) memory: usize,
    next_id: u64,
    id_step: u64,
    pub(crate) stats: Stats,
}

/// A clock that steps back by less only makes time stand still; by more, everything that waits is
/// measured by the new time. Captures merged from several hosts step back by milliseconds all
/// the time, files in a row by hours.
const CLOCK_STEP: std::time::Duration = std::time::Duration::from_secs(60);

/// How far a RST may lie from the next byte; and how far a segment in both its numbers, before it
/// is one of another connection with the same ports. Those lie anywhere.
const STRAY_RANGE: u64 = 64 << 20;

impl Reassembler {
    /// A reassembler without connections.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::numbered(limits, 0, 1)
    }

    /// A reassembler whose connections get the ids `first`, `first + step`, and so on: several
    /// that share the connections of one capture then give each an id of its own.
    #[must_use]
    pub fn numbered(limits: Limits, first: u64, step: u64) -> Self {
        Self {
            limits,
            table: FlowTable::new(),
            conns: Vec::new(),
            free: Vec::new(),
            wheel: Wheel::new(),
            holes: AgeQueue::new(),
            behind: AgeQueue::new(),
            now: None,
            memory: 0,
            next_id: first,
            id_step: step,
            stats: Stats::default(),
        }
    }

    /// Takes the next segment of the capture.
    pub fn push(&mut self, segment: &Segment<'_>, sink: &mut impl Sink) {
        self.stats.segments += 1;
        self.stats.payload_bytes_seen += segment.payload.len() as u64;
        self.handle_timeout(segment.at, sink);
        let (key, source_is_low) = Key::of(segment);
        if let Some(slot) = self.table.find(&key) {
            self.next_segment(slot, key, source_is_low, segment, sink);
            return;
        }
        match self.elsewhere(&key, source_is_low, segment) {
            Elsewhere::No => self.first_segment(key, source_is_low, None, segment, sink),
            Elsewhere::Twin(slot) => {
                self.first_segment(key, source_is_low, Some(slot), segment, sink);
            }
            Elsewhere::Shadow(slot) => {
                self.stats.payload_bytes_duplicate += segment.payload.len() as u64;
                self.shadow(key, slot);
            }
            Elsewhere::Joins(slot) => {
                self.join(key, slot);
                self.next_segment(slot, key, source_is_low, segment, sink);
            }
        }
    }

    /// A segment of a flow with a connection.
    fn next_segment(
        &mut self,
        slot: u32,
        key: Key,
        source_is_low: bool,
        segment: &Segment<'_>,
        sink: &mut impl Sink,
    ) {
        let now = self.now.unwrap_or(segment.at);
        let conn = &mut self.conns[slot as usize];
        conn.last_seen = now;
        let direction = conn.direction(source_is_low);
        let (half, peer) = conn.pair(direction);
        let peer_has_all = match peer.state {
            HalfState::Open => peer.backlog.is_none() && segment.ack.distance_from(peer.seq()) <= 0,
            // The acknowledgment of a handshake tells where the other half begins.
            HalfState::Unseen => half.soft,
            HalfState::Ended => true,
        };
        // In order, whole, and nothing else to think of: nearly every segment.
        let control = TcpFlags::SYN.union(TcpFlags::FIN).union(TcpFlags::RST);
        if half.is_plain()
            && peer_has_all
            && segment.seq == half.seq()
            && segment.flags.0 & (control.0 | TcpFlags::ACK.0) == TcpFlags::ACK.0
            && segment.cut == 0
            && conn.phase == Phase::Open
        {
            if !segment.payload.is_empty() {
                self.deliver(
                    HalfId { slot, direction },
                    segment.at,
                    segment.payload,
                    sink,
                );
            }
            return;
        }
        if segment.flags.contains(TcpFlags::SYN) && !segment.flags.contains(TcpFlags::RST) {
            match conn.classify_syn(direction, segment) {
                SynKind::Same => {}
                SynKind::Anchor => {
                    let (half, _) = conn.pair(direction);
                    let first = SeqNum(segment.seq.0.wrapping_add(1));
                    let offset = half.offset(first);
                    if half.soft && offset <= half.next() {
                        half.move_beginning(offset);
                    } else {
                        half.anchor(first, false);
                    }
                    half.soft = false;
                }
                SynKind::New => {
                    self.close(slot, sink);
                    self.first_segment(key, source_is_low, None, segment, sink);
                    return;
                }
            }
        } else if conn.is_foreign(direction, segment, STRAY_RANGE) {
            // The port is used again, and the capture missed the SYN.
            self.close(slot, sink);
            self.first_segment(key, source_is_low, None, segment, sink);
            return;
        }
        self.segment(slot, direction, segment, sink);
    }

    /// When [`handle_timeout`](Self::handle_timeout) will have something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let behind = self.behind.oldest();
        let behind = behind.map(|(_, since)| since.saturating_add(self.limits.ack_grace));
        let hole = self.holes.oldest();
        let hole = hole.map(|(_, since)| since.saturating_add(self.limits.hole_timeout));
        [behind, hole, self.wheel.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Lets time pass: gives up holes, cuts idle connections. [`push`](Self::push) does it by
    /// itself; a live source calls it when no packets come.
    pub fn handle_timeout(&mut self, now: Timestamp, sink: &mut impl Sink) {
        match self.now {
            Some(before) if now == before => return,
            Some(before) if now < before => {
                if before.since(now) <= CLOCK_STEP {
                    return;
                }
                self.wheel.set(now);
            }
            Some(_) => {}
            None => self.wheel.set(now),
        }
        self.now = Some(now);
        let passed = |since: Timestamp, wait| {
            since.saturating_add(wait) <= now || since.since(now) > CLOCK_STEP
        };
        while let Some((half, since)) = self.behind.oldest()
            && passed(since, self.limits.ack_grace)
        {
            self.grace_is_over(half, sink);
        }
        while let Some((half, since)) = self.holes.oldest()
            && passed(since, self.limits.hole_timeout)
        {
            self.hole_is_old(half, now, sink);
        }
        while let Some(slot) = self.wheel.due(now) {
            let conn = &mut self.conns[slot as usize];
            conn.forget_future(now, CLOCK_STEP);
            let deadline = conn.deadline(&self.limits);
            if deadline <= now {
                self.close(slot, sink);
            } else {
                self.wheel.schedule(slot, deadline);
            }
        }
    }

    /// Ends every connection: the capture is over.
    pub fn finish(&mut self, sink: &mut impl Sink) {
        for slot in 0..self.conns.len() as u32 {
            if self.conns[slot as usize].phase != Phase::Free {
                self.close(slot, sink);
            }
        }
    }

    /// Adds its counters to a ledger: segments, payload bytes, gaps, connections, and those
    /// anomalies that [`Sink::anomaly`] was not told because their connection was closed.
    pub fn add_to(&self, ledger: &mut Ledger) {
        self.stats.add_to(ledger);
    }

    /// Payload bytes that wait behind holes: seen, but neither delivered nor dropped yet.
    #[must_use]
    pub fn buffered_bytes(&self) -> u64 {
        let halves = self
            .conns
            .iter()
            .flat_map(|conn| Direction::BOTH.map(|way| &conn.halves[way]));
        halves
            .filter_map(|half| half.backlog.as_ref())
            .map(|backlog| backlog.bytes())
            .sum()
    }

    /// Memory that those take, bookkeeping included.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.memory
    }

    /// Connections in the table, lingering ones included.
    #[must_use]
    pub const fn connections(&self) -> usize {
        self.conns.len() - self.free.len()
    }

    /// A segment of a flow without a connection. `twin`: the connection whose copy it was taken for,
    /// with a handshake like this one's.
    fn first_segment(
        &mut self,
        key: Key,
        source_is_low: bool,
        twin: Option<u32>,
        segment: &Segment<'_>,
        sink: &mut impl Sink,
    ) {
        let Segment {
            at,
            source,
            destination,
            scope,
            flags,
            payload,
            cut,
            ..
        } = *segment;
        let syn = flags.contains(TcpFlags::SYN);
        // Bare acknowledgments, FINs and RSTs are the rest of something that is over. So is a
        // single byte without PSH: a keep-alive probe repeats the last byte, or invents one
        // (RFC 9293 section 3.8.4).
        let probe = payload.len() == 1 && !flags.contains(TcpFlags::PSH);
        let says_something = (!payload.is_empty() || cut > 0) && !probe;
        if flags.contains(TcpFlags::RST) || !(syn || says_something) {
            self.stats.payload_bytes_dropped += payload.len() as u64;
            return;
        }
        let twin = twin.map(|twin| &self.conns[twin as usize]);
        let beginnings = twin.map(Conn::beginnings);
        let source_is_client = match (syn, flags.contains(TcpFlags::ACK), twin) {
            (true, false, _) => true,
            (true, true, _) => false,
            (false, _, Some(twin)) => twin.client_is_low == source_is_low,
            (false, _, None) => source.port >= destination.port,
        };
        let (client, server) = if source_is_client {
            (source, destination)
        } else {
            (destination, source)
        };
        let origin = if syn || beginnings.is_some() {
            Origin::Handshake
        } else {
            Origin::Midstream
        };
        while self.connections() >= self.limits.max_connections.max(1) {
            self.evict(sink);
        }
        let phase = if syn && payload.is_empty() {
            Phase::Opening
        } else {
            Phase::Open
        };
        let mut conn = Conn::new(
            key,
            source_is_client == source_is_low,
            phase,
            self.now.unwrap_or(at),
        );
        if let Some(beginnings) = beginnings {
            conn.begin_like(beginnings);
        }
        let deadline = conn.deadline(&self.limits);
        let direction = conn.direction(source_is_low);
        let slot = if let Some(slot) = self.free.pop() {
            self.conns[slot as usize] = conn;
            slot
        } else {
            // Bounded by `max_connections`, and by memory long before 32 bits.
            let slot = self.conns.len() as u32;
            self.conns.push(conn);
            slot
        };
        self.table.insert(key, slot);
        self.wheel.schedule(slot, deadline);
        self.stats.connections += 1;
        self.stats.connections_midstream += u64::from(origin == Origin::Midstream);
        let id = ConnectionId(self.next_id);
        self.next_id = self.next_id.wrapping_add(self.id_step);
        sink.opened(
            Slot(slot),
            Connection {
                id,
                client,
                server,
                scope,
                origin,
                opened: at,
                tls: None,
                workloads: tapedeck_model::Workloads::default(),
            },
        );
        self.segment(slot, direction, segment, sink);
    }

    /// A segment of a connection, in full generality.
    fn segment(
        &mut self,
        slot: u32,
        direction: Direction,
        segment: &Segment<'_>,
        sink: &mut impl Sink,
    ) {
        let Segment {
            at,
            seq,
            ack,
            flags,
            payload,
            cut,
            ..
        } = *segment;
        let id = HalfId { slot, direction };
        let syn = flags.contains(TcpFlags::SYN) && !flags.contains(TcpFlags::RST);
        let seq = if syn {
            SeqNum(seq.0.wrapping_add(1))
        } else {
            seq
        };
        let conn = &mut self.conns[slot as usize];
        if conn.phase == Phase::Opening && !syn {
            conn.phase = Phase::Open;
        }
        let (half, peer) = conn.pair(direction);
        if half.state == HalfState::Unseen {
            half.anchor(seq, !syn);
        }
        let has_ack = flags.contains(TcpFlags::ACK) && !flags.contains(TcpFlags::RST);
        if has_ack && peer.state == HalfState::Unseen {
            // A SYN or SYN-ACK was lost. What it carried, or what came since, was lost as well.
            peer.anchor(ack, true);
        }
        let mut needs = 0;
        if has_ack && peer.state == HalfState::Open {
            let acked = peer.offset(ack);
            if acked > peer.next() && acked - peer.next() <= self.limits.max_ahead.into() {
                needs = acked;
                self.acknowledged(
                    HalfId {
                        direction: !direction,
                        ..id
                    },
                    acked,
                );
            }
        }
        let half = &self.conns[slot as usize].halves[direction];
        let offset = half.offset(seq);
        if flags.contains(TcpFlags::RST) {
            // What a RST carries is a diagnostic (RFC 9293 section 3.5.3), not of the stream.
            self.stats.payload_bytes_dropped += payload.len() as u64;
            self.reset(id, offset, at, sink);
        } else {
            let distance = offset.abs_diff(half.next());
            if distance > self.limits.max_ahead.into() || cut > self.limits.max_ahead {
                self.stats.payload_bytes_dropped += payload.len() as u64;
                if !payload.is_empty() {
                    self.anomaly(id, Anomaly::SegmentOutOfRange, sink);
                }
                return;
            }
            if !payload.is_empty() || cut > 0 {
                self.payload(id, offset, segment, needs, sink);
            }
            if flags.contains(TcpFlags::FIN) {
                let end = offset + payload.len() as u64 + u64::from(cut);
                self.fin(
                    id,
                    Ending {
                        offset: end,
                        kind: EndKind::Fin,
                        at,
                        needs,
                    },
                    sink,
                );
            }
        }
        self.drain_both(id, sink);
        self.enforce_memory(id, sink);
    }

    /// Payload at an offset that is in range.
    fn payload(
        &mut self,
        id: HalfId,
        offset: u64,
        segment: &Segment<'_>,
        needs: u64,
        sink: &mut impl Sink,
    ) {
        let Segment { at, payload, .. } = *segment;
        let conn = &mut self.conns[id.slot as usize];
        let (half, peer) = conn.pair(id.direction);
        let mut end = offset + payload.len() as u64;
        let mut cut_end = end + u64::from(segment.cut);
        if half.state == HalfState::Ended {
            let past = half.past(offset, end);
            self.stats.payload_bytes_duplicate += past.duplicate;
            let dropped = payload.len() as u64 - past.duplicate;
            self.stats.payload_bytes_dropped += dropped;
            if dropped > past.late {
                self.anomaly(id, Anomaly::DataAfterFin, sink);
            }
            return;
        }
        // A keep-alive probe repeats the byte before; see `first_segment`.
        let probe = payload.len() == 1 && offset + 1 == half.next();
        if half.soft && half.is_fresh() && offset < half.next() && !probe {
            let late = half.next() - offset;
            half.move_beginning(offset);
            if !peer.is_fresh() {
                sink.late(Slot(id.slot), id.direction, late);
            }
        }
        let next = half.next();
        let mut data = payload;
        let mut start = offset;
        if offset < next {
            let past = half.past(offset, end);
            self.stats.payload_bytes_duplicate += past.duplicate;
            self.stats.payload_bytes_dropped += past.late;
            data = data.get((next - offset) as usize..).unwrap_or_default();
            start = next;
            end = end.max(next);
            cut_end = cut_end.max(next);
        }
        let mut after_end = 0;
        if let Some(ending) = half.backlog.as_ref().and_then(|backlog| backlog.ending) {
            after_end = end
                .saturating_sub(ending.offset.max(start))
                .min(data.len() as u64);
            self.stats.payload_bytes_dropped += after_end;
            data = data
                .get(..data.len() - after_end as usize)
                .unwrap_or_default();
            end = start + data.len() as u64;
            cut_end = cut_end.min(ending.offset).max(end);
        }
        let waits = start > next
            || needs > peer.level()
            || half
                .backlog
                .as_ref()
                .is_some_and(|backlog| backlog.overlaps(start, cut_end));
        if waits {
            let backlog = half.backlog.get_or_insert_default();
            let before = backlog.memory();
            let inserted = backlog.insert(start, data, at, needs);
            backlog.insert_cut(end, cut_end, at, needs);
            self.memory += backlog.memory() - before;
            self.stats.payload_bytes_duplicate += inserted.duplicate;
            if inserted.conflict {
                self.anomaly(id, Anomaly::ConflictingOverlap, sink);
            }
        } else {
            if !data.is_empty() {
                self.deliver(id, at, data, sink);
            }
            if cut_end > end {
                self.gap(id, cut_end - end, GapCause::Snaplen, at, sink);
            }
            self.progressed(id);
        }
        if after_end > 0 {
            self.anomaly(id, Anomaly::DataAfterFin, sink);
        }
    }

    /// A FIN.
    fn fin(&mut self, id: HalfId, ending: Ending, sink: &mut impl Sink) {
        let half = &mut self.conns[id.slot as usize].halves[id.direction];
        if half.state == HalfState::Ended {
            return;
        }
        let mut ending = ending;
        if ending.offset < half.next() {
            // The acknowledgment of a FIN that was captured late looked like one more lost byte.
            if !half.in_gap(ending.offset) {
                self.anomaly(id, Anomaly::DataAfterFin, sink);
                return;
            }
            ending.offset = half.next();
        }
        let backlog = half.backlog.get_or_insert_default();
        if backlog.ending.is_some() {
            return;
        }
        backlog.ending = Some(ending);
        let before = backlog.memory();
        let dropped = backlog.truncate(ending.offset);
        self.memory -= before - backlog.memory();
        self.stats.payload_bytes_dropped += dropped;
        if dropped > 0 {
            self.anomaly(id, Anomaly::DataAfterFin, sink);
        }
    }

    /// A RST: its half ends behind what was sent; the other one soon, because the reset side takes
    /// no more and the rest of it is under way already.
    fn reset(&mut self, id: HalfId, offset: u64, at: Timestamp, sink: &mut impl Sink) {
        let conn = &mut self.conns[id.slot as usize];
        let (half, _) = conn.pair(id.direction);
        if half.state != HalfState::Ended {
            if offset.abs_diff(half.next()) > STRAY_RANGE {
                self.anomaly(id, Anomaly::SegmentOutOfRange, sink);
                return;
            }
            let next = half.next();
            let backlog = half.backlog.get_or_insert_default();
            // A FIN whose place is known stays; a RST behind it only hurries.
            if backlog.ending.is_none() {
                let offset = offset.max(next).max(backlog.end().unwrap_or(0));
                backlog.ending = Some(Ending {
                    offset,
                    kind: EndKind::Reset,
                    at,
                    needs: 0,
                });
            }
        }
        if matches!(conn.phase, Phase::Opening | Phase::Open) {
            conn.phase = Phase::Aborted(self.now.unwrap_or(at));
            let deadline = conn.deadline(&self.limits);
            self.wheel.schedule(id.slot, deadline);
        }
    }
}
