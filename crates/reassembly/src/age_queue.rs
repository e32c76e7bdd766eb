//! A queue of halves by age, from which any one can be taken out in constant time.

use tapedeck_model::{Direction, Timestamp};

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct HalfId {
    pub(crate) slot: u32,
    pub(crate) direction: Direction,
}

/// Halves that wait for something, oldest first: a doubly linked list in a slab. A half is in a
/// queue at most once, so that the number of connections bounds it.
#[derive(Debug)]
pub(crate) struct AgeQueue {
    nodes: Vec<Node>,
    free: u32,
    oldest: u32,
    newest: u32,
}

/// A place in an [`AgeQueue`], good for one removal.
#[derive(Debug)]
pub(crate) struct Ticket(u32);

#[derive(Debug)]
struct Node {
    half: HalfId,
    since: Timestamp,
    older: u32,
    /// Also links the free nodes.
    newer: u32,
}

const NONE: u32 = u32::MAX;

/// How many halves a half that is put back may pass. Beyond, with thousands that began to wait at
/// about one time, those behind it wait until it is due, too.
const MAX_STEPS: usize = 256;

impl AgeQueue {
    pub(crate) const fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: NONE,
            oldest: NONE,
            newest: NONE,
        }
    }

    /// Appends a half that begins to wait.
    pub(crate) fn push(&mut self, half: HalfId, now: Timestamp) -> Ticket {
        self.insert(half, now, self.newest, NONE)
    }

    /// Puts a half back that has waited since then, in its place by age.
    pub(crate) fn put_back(&mut self, half: HalfId, since: Timestamp) -> Ticket {
        let (mut older, mut newer) = (NONE, self.oldest);
        // It was at the front, and nearly always belongs close to it.
        for _ in 0..MAX_STEPS {
            match self.nodes.get(newer as usize) {
                Some(node) if node.since < since => (older, newer) = (newer, node.newer),
                Some(_) | None => break,
            }
        }
        self.insert(half, since, older, newer)
    }

    fn insert(&mut self, half: HalfId, since: Timestamp, older: u32, newer: u32) -> Ticket {
        let node = Node {
            half,
            since,
            older,
            newer,
        };
        let place = if let Some(free) = self.nodes.get_mut(self.free as usize) {
            let place = self.free;
            self.free = free.newer;
            *free = node;
            place
        } else {
            // Two for each connection, whose index is 32 bits; memory ends long before.
            let place = u32::try_from(self.nodes.len()).unwrap_or(NONE);
            self.nodes.push(node);
            place
        };
        match self.nodes.get_mut(older as usize) {
            Some(older) => older.newer = place,
            None => self.oldest = place,
        }
        match self.nodes.get_mut(newer as usize) {
            Some(newer) => newer.older = place,
            None => self.newest = place,
        }
        Ticket(place)
    }

    pub(crate) fn remove(&mut self, Ticket(place): Ticket) {
        let Some(node) = self.nodes.get_mut(place as usize) else {
            return;
        };
        let (older, newer) = (node.older, node.newer);
        node.newer = self.free;
        self.free = place;
        match self.nodes.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.nodes.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
    }

    pub(crate) fn oldest(&self) -> Option<(HalfId, Timestamp)> {
        self.nodes
            .get(self.oldest as usize)
            .map(|node| (node.half, node.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(slot: u32) -> HalfId {
        HalfId {
            slot,
            direction: Direction::ToServer,
        }
    }

    #[test]
    fn what_is_put_back_waits_in_its_place() {
        let at = Timestamp::from_nanos;
        let mut queue = AgeQueue::new();
        let mut tickets: Vec<_> = (0..4)
            .map(|n| queue.push(half(n), at((n * 10).into())))
            .collect();
        queue.remove(tickets.remove(0));
        queue.put_back(half(7), at(15));
        queue.put_back(half(8), at(99));
        queue.put_back(half(9), at(0));
        let mut order = Vec::new();
        let mut place = queue.oldest;
        while let Some(node) = queue.nodes.get(place as usize) {
            order.push(node.half.slot);
            place = node.newer;
        }
        assert_eq!(order, [9, 1, 7, 2, 3, 8]);
        assert_eq!(queue.nodes[queue.newest as usize].half, half(8));
    }

    #[test]
    fn the_oldest_comes_first_and_any_can_leave() {
        let at = Timestamp::from_nanos;
        let mut queue = AgeQueue::new();
        let mut tickets: Vec<_> = (0..4).map(|n| queue.push(half(n), at(n.into()))).collect();
        queue.remove(tickets.remove(2));
        assert_eq!(queue.oldest(), Some((half(0), at(0))));
        queue.remove(tickets.remove(0));
        assert_eq!(queue.oldest(), Some((half(1), at(1))));
        queue.remove(tickets.remove(1));
        tickets.push(queue.push(half(9), at(9)));
        queue.remove(tickets.remove(0));
        assert_eq!(queue.oldest(), Some((half(9), at(9))));
        queue.remove(tickets.remove(0));
        assert_eq!(queue.oldest(), None);
        assert_eq!(queue.nodes.len(), 4, "places are used again");
    }
}
