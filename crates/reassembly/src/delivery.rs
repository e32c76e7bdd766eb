//! Handing things to the sink: bytes, gaps and ends, in the right order.

use tapedeck_model::{Anomaly, Direction, Gap, GapCause, Input, Timestamp};

use crate::age_queue::HalfId;
use crate::backlog::{Content, EndKind};
use crate::connection::Phase;
use crate::half::HalfState;
use crate::reassembler::Reassembler;
use crate::sink::{Sink, Slot};
use crate::vantage::Print;

impl Reassembler {
    /// Delivers what has become deliverable in either direction.
    pub(crate) fn drain_both(&mut self, id: HalfId, sink: &mut impl Sink) {
        let peer = HalfId {
            direction: !id.direction,
            ..id
        };
        self.drain_pair(id, sink);
        self.rearm(id);
        self.rearm(peer);
        self.close_if_ended(id.slot, sink);
    }

    /// Delivers what may be delivered in either direction, as they were interleaved.
    pub(crate) fn drain_pair(&mut self, id: HalfId, sink: &mut impl Sink) {
        let peer = HalfId {
            direction: !id.direction,
            ..id
        };
        // Each round that goes on has delivered something.
        while self.drain(id, Force::No, sink) | self.drain(peer, Force::No, sink) {}
    }

    /// Delivers what waits at the front of a half and may be delivered; true if there was any.
    pub(crate) fn drain(&mut self, id: HalfId, mut force: Force, sink: &mut impl Sink) -> bool {
        let mut any = false;
        loop {
            let conn = &mut self.conns[id.slot as usize];
            let (half, peer) = conn.pair(id.direction);
            let (next, level) = (half.next(), peer.level());
            let Some(backlog) = half.backlog.as_mut() else {
                return any;
            };
            let allowed = |needs| needs <= level || force != Force::No;
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
            if force == Force::Once {
                force = Force::No;
            }
        }
    }

    /// Hands bytes at the front of a half to the sink.
    pub(crate) fn deliver(&mut self, id: HalfId, at: Timestamp, data: &[u8], sink: &mut impl Sink) {
        let conn = &mut self.conns[id.slot as usize];
        conn.said = true;
        let half = &mut conn.halves[id.direction];
        if half.is_fresh() {
            half.print = Print::of(half.seq(), data);
        }
        half.advance(data.len() as u64);
        half.last_at = half.last_at.max(at);
        self.stats.payload_bytes_delivered += data.len() as u64;
        sink.input(Slot(id.slot), id.direction, half.last_at, Input::Data(data));
    }

    /// Gives up bytes at the front of a half.
    pub(crate) fn gap(
        &mut self,
        id: HalfId,
        len: u64,
        cause: GapCause,
        at: Timestamp,
        sink: &mut impl Sink,
    ) {
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
    pub(crate) fn end(
        &mut self,
        id: HalfId,
        at: Timestamp,
        input: Input<'_>,
        sink: &mut impl Sink,
    ) {
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

    /// Ends a connection whatever state it is in, and frees its place.
    pub(crate) fn close(&mut self, slot: u32, sink: &mut impl Sink) {
        let conn = &self.conns[slot as usize];
        let aborted = matches!(conn.phase, Phase::Aborted(_));
        let at = conn.last_seen;
        if !conn.is_closed() {
            self.flush(slot, sink);
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
        self.table.remove(&conn.key, slot);
        for key in conn
            .copies
            .take()
            .into_iter()
            .flat_map(|copies| copies.joined)
        {
            self.table.remove(&key, slot);
        }
        self.wheel.cancel(slot);
        self.free.push(slot);
    }

    /// Delivers everything that a connection still holds: nothing more will come. Holes are given up
    /// in the order in which they showed, and in between each direction waits for the other as ever:
    /// whoever reads both must not see an answer before what it answers.
    fn flush(&mut self, slot: u32, sink: &mut impl Sink) {
        let halves = Direction::BOTH.map(|direction| HalfId { slot, direction });
        // Each round gives something up or delivers something.
        loop {
            self.drain_pair(halves[0], sink);
            let holes = halves.into_iter().filter_map(|id| {
                let half = &self.conns[slot as usize].halves[id.direction];
                let since = half.hole_since()?;
                Some((since, id))
            });
            if let Some((_, id)) = holes.min_by_key(|(since, _)| *since) {
                self.give_up_hole(id, GapCause::Lost, sink);
                continue;
            }
            if halves.into_iter().any(|id| self.lose_tail(id, sink)) {
                continue;
            }
            // What still waits does so for bytes that the other side cannot have sent. Behind it there
            // may be another hole.
            let waiting = halves.into_iter().filter_map(|id| {
                let half = &self.conns[slot as usize].halves[id.direction];
                Some((half.waiting_since()?, id))
            });
            let Some((_, id)) = waiting.min_by_key(|(since, _)| *since) else {
                break;
            };
            if !self.drain(id, Force::Once, sink) {
                break;
            }
        }
    }

    /// Gives up what was acknowledged at the end of a half and never came; true if there was any.
    fn lose_tail(&mut self, id: HalfId, sink: &mut impl Sink) -> bool {
        let half = &mut self.conns[id.slot as usize].halves[id.direction];
        let (next, at) = (half.next(), half.last_at);
        // As when the grace is over: one byte may be a FIN.
        if let Some(backlog) = half.backlog.as_ref()
            && backlog.hole_end().is_none()
            && backlog.acked > next + 1
        {
            let end = backlog.acked;
            self.lose(id, end, GapCause::Lost, at, sink);
            return true;
        }
        false
    }

    /// Tells the sink when both halves have ended, and lets the connection linger.
    pub(crate) fn close_if_ended(&mut self, slot: u32, sink: &mut impl Sink) {
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
    pub(crate) fn evict(&mut self, sink: &mut impl Sink) {
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

    pub(crate) fn anomaly(&mut self, id: HalfId, anomaly: Anomaly, sink: &mut impl Sink) {
        if self.conns[id.slot as usize].is_closed() {
            // The sink has forgotten the connection: what is left to do is to count.
            self.stats.anomaly(anomaly);
        } else {
            sink.anomaly(Slot(id.slot), id.direction, anomaly);
        }
    }
}

/// Whether to deliver bytes before those that their sender had received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Force {
    No,
    /// The first of what waits; then as ever.
    Once,
    Yes,
}
