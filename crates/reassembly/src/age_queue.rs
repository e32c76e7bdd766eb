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

impl AgeQueue {
    pub(crate) const fn new() -> Self {
        Self {
            nodes: Vec::new(),
            free: NONE,
            oldest: NONE,
            newest: NONE,
        }
    }

    /// Appends a half that waits since then. It is the newest, whatever `since` says: what is late
    /// by that is bounded by the age of the one before it.
    pub(crate) fn push(&mut self, half: HalfId, since: Timestamp) -> Ticket {
        let node = Node {
            half,
            since,
            older: self.newest,
            newer: NONE,
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
        match self.nodes.get_mut(self.newest as usize) {
            Some(newest) => newest.newer = place,
            None => self.oldest = place,
        }
        self.newest = place;
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

    #[test]
    fn the_oldest_comes_first_and_any_can_leave() {
        let half = |slot| HalfId {
            slot,
            direction: Direction::ToServer,
        };
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
