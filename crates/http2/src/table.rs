//! The streams of a connection that are open, and what is known of the others.

use std::collections::VecDeque;

use tapedeck_model::{Direction, PerDirection};

use crate::frame::StreamId;
use crate::stream::Stream;

/// The streams of one connection.
///
/// Open ones lie in a slab, with their ids sorted beside it: ids grow, so that a new one goes to the
/// end, and a look-up is mostly the one before. Closed ones are forgotten, but for the latest.
#[derive(Debug)]
pub(crate) struct StreamTable {
    /// Sorted by id.
    ids: Vec<(StreamId, Slot)>,
    slab: Vec<Stream>,
    free: Vec<Slot>,
    /// Where in `ids` the latest look-up ended.
    latest: usize,
    closed: VecDeque<(StreamId, Closed)>,
    closed_limit: usize,
    /// By the direction in which the side sends that opens them.
    opened: PerDirection<Opened>,
}

/// The place of an open stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Slot(usize);

/// How a stream was closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Closed {
    /// Both messages ended.
    Ended,
    /// Aborted by a frame in this direction: the peer may have frames under way.
    Aborted(Direction),
    /// Given up by us.
    Evicted,
}

/// What is known of a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    Open(Slot),
    Closed(Closed),
    /// Its id is higher than all that were opened.
    New,
    /// It may have been opened, and closed, unseen.
    Unseen,
}

/// Which streams one side opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Opened {
    highest: u32,
    /// All streams above were opened under our eyes; `None`: those above the next that opens.
    seen_above: Option<u32>,
}

impl StreamTable {
    pub(crate) fn new(closed_limit: usize) -> Self {
        Self {
            ids: Vec::new(),
            slab: Vec::new(),
            free: Vec::new(),
            latest: 0,
            closed: VecDeque::new(),
            closed_limit,
            opened: PerDirection::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn fate(&mut self, id: StreamId) -> Fate {
        if let Some((_, slot)) = self.ids.get(self.latest).filter(|(found, _)| *found == id) {
            return Fate::Open(*slot);
        }
        if let Ok(place) = self.search(id) {
            self.latest = place;
            if let Some((_, slot)) = self.ids.get(place) {
                return Fate::Open(*slot);
            }
        }
        let opened = self.opened[id.opener()];
        if let Some((_, closed)) = self.closed.iter().rev().find(|(closed, _)| *closed == id) {
            Fate::Closed(*closed)
        } else if id.0 > opened.highest {
            Fate::New
        } else if opened.seen_above.is_some_and(|above| id.0 > above) {
            Fate::Closed(Closed::Ended)
        } else {
            Fate::Unseen
        }
    }

    /// Adds a stream that is not there.
    pub(crate) fn insert(&mut self, id: StreamId) -> Slot {
        let stream = Stream::new(id);
        let slot = if let Some(slot) = self.free.pop()
            && let Some(place) = self.slab.get_mut(slot.0)
        {
            *place = stream;
            slot
        } else {
            self.slab.push(stream);
            Slot(self.slab.len() - 1)
        };
        let place = self.search(id).unwrap_or_else(|place| place);
        self.ids.insert(place, (id, slot));
        self.latest = place;
        slot
    }

    /// Removes a stream.
    pub(crate) fn remove(&mut self, id: StreamId, closed: Closed) {
        let Ok(place) = self.search(id) else {
            return;
        };
        let (_, slot) = self.ids.remove(place);
        self.free.push(slot);
        if self.closed.len() >= self.closed_limit {
            self.closed.pop_front();
        }
        if self.closed_limit > 0 {
            self.closed.push_back((id, closed));
        }
    }

    /// The stream at a place that [`StreamTable::fate`] or [`StreamTable::insert`] gave.
    pub(crate) fn get(&mut self, slot: Slot) -> Option<&mut Stream> {
        self.slab.get_mut(slot.0)
    }

    /// The open stream that is behind `after` in the order of ids.
    pub(crate) fn next(&self, after: Option<StreamId>) -> Option<(StreamId, Slot)> {
        let place = match after.map(|after| self.search(after)) {
            None => 0,
            Some(Ok(place)) => place + 1,
            Some(Err(place)) => place,
        };
        self.ids.get(place).copied()
    }

    /// A side opened a stream: those below that were not opened never will be.
    pub(crate) fn open(&mut self, id: StreamId) {
        let opened = &mut self.opened[id.opener()];
        opened.highest = opened.highest.max(id.0);
        opened.seen_above.get_or_insert(opened.highest);
    }

    /// The highest stream that is known; zero: none is.
    pub(crate) fn highest(&self) -> u32 {
        let opened = Direction::BOTH.map(|direction| self.opened[direction].highest);
        let open = self.ids.last().map_or(0, |(id, _)| id.0);
        opened.into_iter().fold(open, u32::max)
    }

    /// A stream was opened unseen, and any below it may have been.
    pub(crate) fn open_unseen(&mut self, id: StreamId) {
        let opened = &mut self.opened[id.opener()];
        opened.highest = opened.highest.max(id.0);
        opened.seen_above = opened.seen_above.map(|above| above.max(id.0));
    }

    /// The connection is seen from its beginning in this direction.
    pub(crate) fn seen_from_beginning(&mut self, direction: Direction) {
        self.opened[direction].seen_above = Some(0);
    }

    /// Streams may have been opened unseen in this direction.
    pub(crate) fn doubt(&mut self, direction: Direction) {
        self.opened[direction].seen_above = None;
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.ids.capacity() * size_of::<(StreamId, Slot)>()
            + self.slab.capacity() * size_of::<Stream>()
            + self.free.capacity() * size_of::<Slot>()
            + self.closed.capacity() * size_of::<(StreamId, Closed)>()
    }

    fn search(&self, id: StreamId) -> Result<usize, usize> {
        // Most streams are new, or among the newest.
        match self.ids.last() {
            Some((last, _)) if *last < id => Err(self.ids.len()),
            _ => self.ids.binary_search_by_key(&id, |(id, _)| *id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(table: &mut StreamTable, id: u32) -> u32 {
        match table.fate(StreamId(id)) {
            Fate::Open(slot) => table.get(slot).unwrap().id.0,
            fate => panic!("{id} is {fate:?}"),
        }
    }

    #[test]
    fn streams_are_found_in_any_order_and_slots_are_reused() {
        let mut table = StreamTable::new(4);
        for id in [1, 5, 3, 2, 9, 7] {
            table.insert(StreamId(id));
        }
        table.remove(StreamId(5), Closed::Ended);
        table.insert(StreamId(11));
        for id in [9, 1, 11, 3, 7, 2, 1] {
            assert_eq!(slot(&mut table, id), id);
        }
        let mut ids = Vec::new();
        while let Some((id, _)) = table.next(ids.last().copied()) {
            ids.push(id);
        }
        assert_eq!(
            ids.iter().map(|id| id.0).collect::<Vec<_>>(),
            [1, 2, 3, 7, 9, 11]
        );
        assert_eq!(table.slab.len(), 6);
    }

    #[test]
    fn fates() {
        let mut table = StreamTable::new(2);
        table.seen_from_beginning(Direction::ToServer);
        assert_eq!(table.fate(StreamId(7)), Fate::New);
        table.open(StreamId(7));
        assert_eq!(table.fate(StreamId(5)), Fate::Closed(Closed::Ended));
        table.insert(StreamId(7));
        table.remove(StreamId(7), Closed::Evicted);
        assert_eq!(table.fate(StreamId(7)), Fate::Closed(Closed::Evicted));
        table.doubt(Direction::ToServer);
        assert_eq!(table.fate(StreamId(5)), Fate::Unseen);
        table.open(StreamId(11));
        assert_eq!(table.fate(StreamId(9)), Fate::Unseen);
        table.open(StreamId(15));
        assert_eq!(table.fate(StreamId(13)), Fate::Closed(Closed::Ended));
        assert_eq!(table.fate(StreamId(2)), Fate::New);
        table.open_unseen(StreamId(19));
        assert_eq!(table.fate(StreamId(17)), Fate::Unseen);
    }

    #[test]
    fn closed_streams_are_forgotten() {
        let mut table = StreamTable::new(8);
        for id in 0..100_000 {
            table.insert(StreamId(id * 2 + 1));
            table.remove(StreamId(id * 2 + 1), Closed::Ended);
        }
        assert!(table.memory() < 4096);
    }
}
