//! The machine: segments in, byte streams out.

use tapedeck_model::{
    Anomaly, Connection, ConnectionId, Direction, Gap, GapCause, Input, Ledger, Origin, Segment,
    SeqNum, TcpFlags, Timestamp,
};

use crate::age_queue::{AgeQueue, HalfId};
use crate::backlog::{Content, EndKind, Ending};
use crate::connection::{Conn, Phase, SynKind};
use crate::flow_table::{FlowTable, Key};
use crate::half::HalfState;
use crate::limits::Limits;
use crate::sink::{Sink, Slot};
use crate::stats::Stats;
use crate::wheel::Wheel;

/// Turns the segments of a capture into the byte streams of its connections. See the
/// [crate](crate) for the rules.
#[derive(Debug)]
pub struct Reassembler {
    limits: Limits,
    table: FlowTable,
    conns: Vec<Conn>,
    /// Places in `conns` that are not in use.
    free: Vec<u32>,
    /// When to look at which connection.
    wheel: Wheel,
    /// Halves with a hole at their front.
    holes: AgeQueue,
    /// Halves whose receiver has acknowledged more than was delivered.
    behind: AgeQueue,
    /// The latest time that a packet or the owner told.
    now: Option<Timestamp>,
    /// Memory of all backlogs. The sum of what the halves say.
    memory: usize,
    next_id: u64,
    stats: Stats,
}

/// A clock that steps back by less only makes time stand still; by more, everything that waits is
/// measured by the new time. Captures merged from several hosts step back by milliseconds all
/// the time, files in a row by hours.
const CLOCK_STEP: std::time::Duration = std::time::Duration::from_secs(60);

/// How far a RST may lie from the next byte. Stray ones, of an earlier connection with the same
/// ports, lie anywhere.
const RESET_RANGE: u64 = 64 << 20;

impl Reassembler {
    /// A reassembler without connections.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
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
            next_id: 0,
            stats: Stats::default(),
        }
    }

    /// Takes the next segment of the capture.
    pub fn push(&mut self, segment: &Segment<'_>, sink: &mut impl Sink) {
        self.stats.segments += 1;
        self.stats.payload_bytes_seen += segment.payload.len() as u64;
        self.handle_timeout(segment.at, sink);
        let (key, source_is_low) = Key::of(segment);
        let Some(slot) = self.table.find(&key) else {
            self.first_segment(key, source_is_low, segment, sink);
            return;
        };
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
                    self.first_segment(key, source_is_low, segment, sink);
                    return;
                }
            }
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

    /// Adds its counters to a ledger: segments, payload bytes, gaps, connections, and the anomalies
    /// of TCP.
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

    /// A segment of a flow without a connection.
    fn first_segment(
        &mut self,
        key: Key,
        source_is_low: bool,
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
        let source_is_client = match (syn, flags.contains(TcpFlags::ACK)) {
            (true, false) => true,
            (true, true) => false,
            (false, _) => source.port >= destination.port,
        };
        let (client, server) = if source_is_client {
            (source, destination)
        } else {
            (destination, source)
        };
        let origin = if syn {
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
        let conn = Conn::new(
            key,
            source_is_client == source_is_low,
            phase,
            self.now.unwrap_or(at),
        );
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
        self.next_id += 1;
        sink.opened(
            Slot(slot),
            Connection {
                id,
                client,
                server,
                scope,
                origin,
                opened: at,
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
        if has_ack && peer.state == HalfState::Unseen && !half.soft {
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
            if distance > self.limits.max_ahead.into() {
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
            half.move_beginning(offset);
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
            if offset.abs_diff(half.next()) > RESET_RANGE {
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

    /// The receiver has bytes that were not delivered yet.
    fn acknowledged(&mut self, id: HalfId, acked: u64) {
        let half = &mut self.conns[id.slot as usize].halves[id.direction];
        if half.backlog.is_none() && acked <= half.level() {
            return;
        }
        let backlog = half.backlog.get_or_insert_default();
        backlog.acked = backlog.acked.max(acked);
        if backlog.behind.is_none() {
            backlog.mark = backlog.acked;
            backlog.behind = self.now.map(|now| self.behind.push(id, now));
        }
    }

    /// The grace for an acknowledgment is over: what it covers and the capture did not show is
    /// lost.
    fn grace_is_over(&mut self, id: HalfId, sink: &mut impl Sink) {
        loop {
            let half = &mut self.conns[id.slot as usize].halves[id.direction];
            let (next, at) = (half.next(), half.last_at);
            let Some(backlog) = half.backlog.as_ref() else {
                break;
            };
            let mark = backlog.mark;
            match backlog.hole_end() {
                Some(end) if end > next && end <= mark => {
                    self.gap(id, end - next, GapCause::Lost, at, sink);
                    self.drain(id, Force::No, sink);
                }
                // Nothing came behind. One byte is as likely a FIN that was lost.
                None if mark > next + 1 => {
                    self.gap(id, mark - next, GapCause::Lost, at, sink);
                    break;
                }
                None | Some(_) => break,
            }
        }
        let half = &mut self.conns[id.slot as usize].halves[id.direction];
        if let Some(backlog) = half.backlog.as_mut() {
            let mark = backlog.mark;
            if let Some(ticket) = backlog.behind.take() {
                self.behind.remove(ticket);
            }
            half.settle(mark);
        }
        self.rearm(id);
        self.drain_both(id, sink);
    }

    /// A hole has been waited for long enough, and with it those behind it that are as old.
    fn hole_is_old(&mut self, id: HalfId, now: Timestamp, sink: &mut impl Sink) {
        loop {
            self.give_up_hole(id, GapCause::Limit, sink);
            self.drain(id, Force::No, sink);
            let half = &mut self.conns[id.slot as usize].halves[id.direction];
            let next = half.next();
            let Some(backlog) = half.backlog.as_mut() else {
                break;
            };
            let Some((start, chunk)) = backlog.first() else {
                break;
            };
            let since = chunk.at;
            if start == next {
                break;
            }
            if since.saturating_add(self.limits.hole_timeout) > now {
                // As old as the segment that showed it.
                if let Some(ticket) = backlog.hole.take() {
                    self.holes.remove(ticket);
                }
                backlog.hole = Some(self.holes.push(id, since));
                break;
            }
        }
        self.drain_both(id, sink);
    }

    /// Turns the hole at the front into a gap, if there is one. What the receiver acknowledged is
    /// lost, whatever the occasion.
    fn give_up_hole(&mut self, id: HalfId, cause: GapCause, sink: &mut impl Sink) {
        let half = &mut self.conns[id.slot as usize].halves[id.direction];
        let (next, at) = (half.next(), half.last_at);
        let Some(backlog) = half.backlog.as_ref() else {
            return;
        };
        if let Some(end) = backlog.hole_end()
            && end > next
        {
            let cause = if backlog.acked >= end {
                GapCause::Lost
            } else {
                cause
            };
            self.gap(id, end - next, cause, at, sink);
        }
    }

    /// Delivers what has become deliverable in either direction.
    fn drain_both(&mut self, id: HalfId, sink: &mut impl Sink) {
        let peer = HalfId {
            direction: !id.direction,
            ..id
        };
        // Each round that goes on has delivered something.
        while self.drain(id, Force::No, sink) | self.drain(peer, Force::No, sink) {}
        self.rearm(id);
        self.rearm(peer);
        self.close_if_ended(id.slot, sink);
    }

    /// Delivers what waits at the front of a half and may be delivered; true if there was any.
    fn drain(&mut self, id: HalfId, force: Force, sink: &mut impl Sink) -> bool {
        let mut any = false;
        loop {
            let conn = &mut self.conns[id.slot as usize];
            let (half, peer) = conn.pair(id.direction);
            let (next, level) = (half.next(), peer.level());
            let Some(backlog) = half.backlog.as_mut() else {
                return any;
            };
            let allowed = |needs| needs <= level || force == Force::Yes;
            if let Some((start, chunk)) = backlog.first() {
                if start != next || !allowed(chunk.needs) {
                    return any;
                }
                let before = backlog.memory();
                let Some(chunk) = backlog.pop() else {
                    return any;
                };
                self.memory -= before - backlog.memory();
                match chunk.content {
                    Content::Data(bytes) => self.deliver(id, chunk.at, &bytes, sink),
                    Content::Cut(len) => self.gap(id, len, GapCause::Snaplen, chunk.at, sink),
                }
            } else if let Some(ending) = backlog.ending
                && ending.offset <= next
                && allowed(ending.needs)
            {
                let input = match ending.kind {
                    EndKind::Fin => Input::Fin,
                    EndKind::Reset => Input::Reset,
                };
                self.end(id, ending.at, input, sink);
                return true;
            } else {
                return any;
            }
            any = true;
        }
    }

    /// Hands bytes at the front of a half to the sink.
    fn deliver(&mut self, id: HalfId, at: Timestamp, data: &[u8], sink: &mut impl Sink) {
        let conn = &mut self.conns[id.slot as usize];
        conn.said = true;
        let half = &mut conn.halves[id.direction];
        half.advance(data.len() as u64);
        half.last_at = half.last_at.max(at);
        self.stats.payload_bytes_delivered += data.len() as u64;
        sink.input(Slot(id.slot), id.direction, half.last_at, Input::Data(data));
    }

    /// Gives up bytes at the front of a half.
    fn gap(&mut self, id: HalfId, len: u64, cause: GapCause, at: Timestamp, sink: &mut impl Sink) {
        let conn = &mut self.conns[id.slot as usize];
        conn.said = true;
        let half = &mut conn.halves[id.direction];
        half.give_up(len);
        // A half of which nothing was delivered has no time yet: the gap is where the connection
        // stands.
        half.last_at = half.last_at.max(at);
        if half.last_at == Timestamp::from_nanos(i64::MIN) {
            half.last_at = conn.last_seen;
        }
        let gap = Gap { len, cause };
        self.stats.gap(gap);
        sink.input(Slot(id.slot), id.direction, half.last_at, Input::Gap(gap));
    }

    /// Ends a half.
    fn end(&mut self, id: HalfId, at: Timestamp, input: Input<'_>, sink: &mut impl Sink) {
        let half = &mut self.conns[id.slot as usize].halves[id.direction];
        half.state = HalfState::Ended;
        half.last_at = half.last_at.max(at);
        let at = half.last_at;
        if let Some(mut backlog) = half.backlog.take() {
            self.memory -= backlog.memory();
            self.stats.payload_bytes_dropped += backlog.bytes();
            if let Some(ticket) = backlog.hole.take() {
                self.holes.remove(ticket);
            }
            if let Some(ticket) = backlog.behind.take() {
                self.behind.remove(ticket);
            }
        }
        sink.input(Slot(id.slot), id.direction, at, input);
    }

    /// The stream went on although a hole further on is known: that hole is not what holds it up,
    /// and begins to be waited for now.
    fn progressed(&mut self, id: HalfId) {
        let half = &mut self.conns[id.slot as usize].halves[id.direction];
        if let Some(backlog) = half.backlog.as_mut()
            && let Some(ticket) = backlog.hole.take()
        {
            self.holes.remove(ticket);
        }
    }

    /// Brings the queues in line with the state of a half, and forgets a backlog that is not
    /// needed any more.
    fn rearm(&mut self, id: HalfId) {
        let half = &mut self.conns[id.slot as usize].halves[id.direction];
        let next = half.next();
        let Some(backlog) = half.backlog.as_mut() else {
            return;
        };
        let now = self.now.unwrap_or_default();
        let has_hole = backlog.hole_end().is_some_and(|end| end > next);
        match (&backlog.hole, has_hole) {
            (None, true) => backlog.hole = Some(self.holes.push(id, now)),
            (Some(_), false) => {
                if let Some(ticket) = backlog.hole.take() {
                    self.holes.remove(ticket);
                }
            }
            (None, false) | (Some(_), true) => {}
        }
        // An acknowledgment whose grace is over has had its effect, unless it covers the hole now.
        let covers = backlog.hole_end().is_some_and(|end| end <= backlog.acked);
        let is_behind = backlog.acked > next
            && (backlog.behind.is_some() || backlog.acked > backlog.mark || (has_hole && covers));
        match (&backlog.behind, is_behind) {
            (None, true) => {
                backlog.mark = backlog.acked;
                backlog.behind = Some(self.behind.push(id, now));
            }
            (Some(_), false) => {
                if let Some(ticket) = backlog.behind.take() {
                    self.behind.remove(ticket);
                }
            }
            (None, false) | (Some(_), true) => {}
        }
        if backlog.is_idle() {
            half.backlog = None;
        }
    }

    /// Gives up holes, oldest first, until the limits hold.
    fn enforce_memory(&mut self, id: HalfId, sink: &mut impl Sink) {
        loop {
            let conn = &self.conns[id.slot as usize];
            let [here, there] = [id.direction, !id.direction].map(|way| conn.halves[way].memory());
            if here + there <= self.limits.max_buffered_per_connection {
                break;
            }
            let direction = if here >= there {
                id.direction
            } else {
                !id.direction
            };
            self.release(HalfId { direction, ..id }, sink);
        }
        while self.memory > self.limits.max_buffered {
            // Without a hole anywhere, what waits does so for the other direction.
            let oldest = match (self.holes.oldest(), self.behind.oldest()) {
                (Some((half, _)), _) => half,
                (None, Some((half, _))) => HalfId {
                    direction: !half.direction,
                    ..half
                },
                (None, None) => {
                    debug_assert!(false, "something waits, but not for anything");
                    return;
                }
            };
            self.release(oldest, sink);
        }
    }

    /// Delivers the front of a half, whatever it waits for.
    fn release(&mut self, id: HalfId, sink: &mut impl Sink) {
        self.give_up_hole(id, GapCause::Limit, sink);
        self.drain(id, Force::Yes, sink);
        self.drain_both(id, sink);
    }

    /// Ends a connection whatever state it is in, and frees its place.
    fn close(&mut self, slot: u32, sink: &mut impl Sink) {
        let conn = &self.conns[slot as usize];
        let aborted = matches!(conn.phase, Phase::Aborted(_));
        let at = conn.last_seen;
        if !conn.is_closed() {
            for direction in Direction::BOTH {
                self.flush(HalfId { slot, direction }, sink);
            }
            for direction in Direction::BOTH {
                let id = HalfId { slot, direction };
                if self.conns[slot as usize].halves[direction].state != HalfState::Ended {
                    let input = if aborted { Input::Reset } else { Input::Cut };
                    self.end(id, at, input, sink);
                }
            }
            self.close_if_ended(slot, sink);
        }
        let conn = &mut self.conns[slot as usize];
        conn.phase = Phase::Free;
        self.table.remove(&conn.key);
        self.wheel.cancel(slot);
        self.free.push(slot);
    }

    /// Delivers everything that a half still holds: nothing more will come.
    fn flush(&mut self, id: HalfId, sink: &mut impl Sink) {
        while self.conns[id.slot as usize].halves[id.direction]
            .backlog
            .is_some()
        {
            self.give_up_hole(id, GapCause::Lost, sink);
            if !self.drain(id, Force::Yes, sink) {
                break;
            }
        }
        let half = &mut self.conns[id.slot as usize].halves[id.direction];
        let (next, at) = (half.next(), half.last_at);
        // As when the grace is over: one byte may be a FIN.
        if let Some(acked) = half.backlog.as_ref().map(|backlog| backlog.acked)
            && acked > next + 1
        {
            self.gap(id, acked - next, GapCause::Lost, at, sink);
        }
    }

    /// Tells the sink when both halves have ended, and lets the connection linger.
    fn close_if_ended(&mut self, slot: u32, sink: &mut impl Sink) {
        let conn = &mut self.conns[slot as usize];
        let ended = |direction| conn.halves[direction].state == HalfState::Ended;
        if conn.is_closed() || !Direction::BOTH.into_iter().all(ended) {
            return;
        }
        self.stats.connections_empty += u64::from(!conn.said);
        let at = Direction::BOTH.map(|direction| conn.halves[direction].last_at);
        sink.closed(Slot(slot), at[0].max(at[1]));
        conn.phase = Phase::Closed(self.now.unwrap_or(conn.last_seen));
        let deadline = conn.deadline(&self.limits);
        self.wheel.schedule(slot, deadline);
    }

    /// Makes room for a connection.
    fn evict(&mut self, sink: &mut impl Sink) {
        while let Some(slot) = self.wheel.nearest() {
            let conn = &self.conns[slot as usize];
            let deadline = conn.deadline(&self.limits);
            // Seen since it was scheduled: there may be a better one.
            if self.wheel.schedule(slot, deadline) {
                continue;
            }
            self.stats.connections_evicted += u64::from(!conn.is_closed());
            self.close(slot, sink);
            return;
        }
        debug_assert!(self.conns.is_empty(), "every connection has a deadline");
    }

    fn anomaly(&mut self, id: HalfId, anomaly: Anomaly, sink: &mut impl Sink) {
        self.stats.anomaly(anomaly);
        if !self.conns[id.slot as usize].is_closed() {
            sink.anomaly(Slot(id.slot), id.direction, anomaly);
        }
    }
}

/// Whether to deliver bytes before those that their sender had received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Force {
    No,
    Yes,
}
