//! Waiting for holes, and giving them up: the four occasions in the [crate](crate)'s documentation.

use tapedeck_model::{GapCause, Timestamp};

use crate::age_queue::HalfId;
use crate::delivery::Force;
use crate::half::HalfState;
use crate::reassembler::Reassembler;
use crate::sink::Sink;

impl Reassembler {
    /// The receiver has bytes that were not delivered yet.
    pub(crate) fn acknowledged(&mut self, id: HalfId, acked: u64) {
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
    pub(crate) fn grace_is_over(&mut self, id: HalfId, sink: &mut impl Sink) {
        if self.is_young_before(id) {
            // It has a grace, too, and comes first.
            let half = &mut self.conns[id.slot as usize].halves[id.direction];
            if let Some(backlog) = half.backlog.as_mut()
                && let Some(ticket) = backlog.behind.take()
            {
                self.behind.remove(ticket);
                let now = self.now.unwrap_or_default();
                backlog.behind = Some(self.behind.push(id, now));
            }
            return;
        }
        loop {
            let half = &mut self.conns[id.slot as usize].halves[id.direction];
            let (next, at) = (half.next(), half.last_at);
            let Some(backlog) = half.backlog.as_ref() else {
                break;
            };
            let mark = backlog.mark;
            match backlog.hole_end() {
                Some(end) if end > next && end <= mark => {
                    self.lose(id, end, GapCause::Lost, at, sink);
                    self.drain_pair(id, sink);
                }
                // The other side went on when it had but a part of it.
                Some(end) if end > mark && self.turn_within(id, mark + 1).is_some() => {
                    self.lose(id, mark, GapCause::Lost, at, sink);
                    self.drain_pair(id, sink);
                }
                // Nothing came behind. One byte is as likely a FIN that was lost.
                None if mark > next + 1 => {
                    self.lose(id, mark, GapCause::Lost, at, sink);
                    break;
                }
                None | Some(_) => break,
            }
        }
        let (half, peer) = self.conns[id.slot as usize].pair(id.direction);
        // Where each waits for the other, one of them is wrong, and neither need wait.
        let is_held_up = half.waits_for(peer) && !peer.waits_for(half);
        if let Some(backlog) = half.backlog.as_mut() {
            let mark = backlog.mark;
            if let Some(ticket) = backlog.behind.take() {
                self.behind.remove(ticket);
            }
            if is_held_up {
                // What is here, and waits for a hole of the other side, is not lost: an answer to it
                // must wait as well. That hole has a grace of its own. What is behind it may be.
                let now = self.now.unwrap_or_default();
                backlog.behind = Some(self.behind.push(id, now));
            } else {
                half.settle(mark);
            }
        }
        self.rearm(id);
        self.drain_both(id, sink);
    }

    /// A hole has been waited for long enough, and with it those behind it that are as old.
    pub(crate) fn hole_is_old(&mut self, id: HalfId, now: Timestamp, sink: &mut impl Sink) {
        loop {
            self.give_up_hole(id, GapCause::Limit, sink);
            self.drain_pair(id, sink);
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
                backlog.hole = Some(self.holes.put_back(id, since.min(now)));
                break;
            }
        }
        self.drain_both(id, sink);
    }

    /// Turns the hole at the front into a gap, if there is one. What the receiver acknowledged is
    /// lost, whatever the occasion.
    pub(crate) fn give_up_hole(&mut self, id: HalfId, cause: GapCause, sink: &mut impl Sink) {
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
            self.lose(id, end, cause, at, sink);
        }
    }

    /// Gives up the bytes at the front of a half up to `end`. Where the other side said something
    /// when it had received only some of them, the gap ends, that is delivered, and another gap
    /// follows: whoever pairs requests with answers must see that there was a turn in between. A
    /// hole before that is given up first, since what it stands for was said earlier still.
    pub(crate) fn lose(
        &mut self,
        id: HalfId,
        end: u64,
        cause: GapCause,
        at: Timestamp,
        sink: &mut impl Sink,
    ) {
        let peer = HalfId {
            direction: !id.direction,
            ..id
        };
        loop {
            let halves = &self.conns[id.slot as usize].halves;
            let half = &halves[id.direction];
            let next = half.next();
            if next >= end || half.state == HalfState::Ended {
                return;
            }
            if let Some(turn) = self.turn_within(id, end) {
                self.gap(id, turn - next, cause, at, sink);
                self.drain_pair(id, sink);
            } else if let Some(hole) = self.hole_before(id, end) {
                let half = &halves[peer.direction];
                let (next, at) = (half.next(), half.last_at);
                let is_acked = half.backlog.as_ref().is_some_and(|of| of.acked >= hole);
                let cause = if is_acked { GapCause::Lost } else { cause };
                self.gap(peer, hole - next, cause, at, sink);
                self.drain_pair(id, sink);
            } else {
                self.gap(id, end - next, cause, at, sink);
            }
        }
    }

    /// What the other side had received when it said what is known of it next, if that lies within
    /// the hole at the front of this half, before `end`.
    fn turn_within(&self, id: HalfId, end: u64) -> Option<u64> {
        let halves = &self.conns[id.slot as usize].halves;
        let (half, peer) = (&halves[id.direction], &halves[!id.direction]);
        let (_, chunk) = peer.backlog.as_ref()?.first()?;
        (chunk.needs > half.next() && chunk.needs < end).then_some(chunk.needs)
    }

    /// The end of a hole at the front of the other half, if what is behind that was said when the other
    /// side had not received all that is before `end` here.
    fn hole_before(&self, id: HalfId, end: u64) -> Option<u64> {
        let peer = &self.conns[id.slot as usize].halves[!id.direction];
        let (start, chunk) = peer.backlog.as_ref()?.first()?;
        (start > peer.next() && chunk.needs < end).then_some(start)
    }

    /// Whether there is such a hole for what was acknowledged here, and it has not been waited for.
    fn is_young_before(&self, id: HalfId) -> bool {
        let halves = &self.conns[id.slot as usize].halves;
        let mark = halves[id.direction].backlog.as_ref();
        let end = mark.map_or(0, |backlog| backlog.mark);
        let since = halves[!id.direction].hole_since();
        let now = self.now.unwrap_or_default();
        end > halves[id.direction].next()
            && self.hole_before(id, end).is_some()
            && since.is_some_and(|since| since.saturating_add(self.limits.ack_grace) > now)
    }

    /// The stream went on although a hole further on is known: that hole is not what holds it up,
    /// and begins to be waited for now.
    pub(crate) fn progressed(&mut self, id: HalfId) {
        let half = &mut self.conns[id.slot as usize].halves[id.direction];
        if let Some(backlog) = half.backlog.as_mut()
            && let Some(ticket) = backlog.hole.take()
        {
            self.holes.remove(ticket);
        }
    }

    /// Brings the queues in line with the state of a half, and forgets a backlog that is not
    /// needed any more.
    pub(crate) fn rearm(&mut self, id: HalfId) {
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
    pub(crate) fn enforce_memory(&mut self, id: HalfId, sink: &mut impl Sink) {
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
    pub(crate) fn release(&mut self, id: HalfId, sink: &mut impl Sink) {
        self.give_up_hole(id, GapCause::Limit, sink);
        self.drain(id, Force::Yes, sink);
        self.drain_both(id, sink);
    }
}
