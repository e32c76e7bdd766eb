//! Requests that are made ready before the run begins.
//!
//! Iterations begin again where the recording ends, so that the same request goes out many times. Reading it
//! (a block to decompress) and writing it anew for the target costs more than sending it, and would be done
//! while others are due.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

/// A request in the target's protocol, and what was recorded of its answer.
#[derive(Debug)]
pub(crate) struct Made<R> {
    pub(crate) request: R,
    pub(crate) recorded_status: Option<u16>,
}

/// A [`Made`] for one sending, or one that all sendings share.
#[derive(Debug)]
pub(super) enum Lent<R> {
    Own(Made<R>),
    Shared(Arc<Made<R>>),
}

impl<R> Deref for Lent<R> {
    type Target = Made<R>;

    fn deref(&self) -> &Made<R> {
        match self {
            Self::Own(made) => made,
            Self::Shared(made) => made,
        }
    }
}

/// A request that is ready, where there is one.
type Maybe<R> = Option<Arc<Made<R>>>;

/// What the workers of a run have made ready. Each makes its part before the gate opens, and all read all of it
/// from then on.
#[derive(Debug)]
pub(crate) struct Ahead<R> {
    /// The exchanges, in the order of the archive: neighbours share blocks.
    ids: Vec<u64>,
    /// `None`: there was no room for it, or it could not be made; whoever comes to it tries, and counts that.
    parts: Vec<OnceLock<Vec<Maybe<R>>>>,
    /// Exchanges of a part, but for the last.
    part_len: usize,
    /// Bytes of a part.
    part_bytes: u64,
}

impl<R> Ahead<R> {
    /// What a request takes beside its own bytes: its place, its counters, the allocator's share.
    pub(crate) const OVERHEAD: u64 = 128;

    /// For so many workers, within so many bytes. `ids` are sorted.
    pub(crate) fn new(ids: Vec<u64>, workers: u32, bytes: u64) -> Self {
        let workers = workers.max(1);
        Self {
            part_len: ids.len().div_ceil(workers as usize).max(1),
            part_bytes: bytes / u64::from(workers),
            parts: (0..workers).map(|_| OnceLock::new()).collect(),
            ids,
        }
    }

    /// Makes the part of a worker. `make` gives a request with its length, `None` where there is none; `go_on`
    /// says whether there is still a run to do so for.
    pub(super) fn make(
        &self,
        worker: u32,
        mut make: impl FnMut(u64) -> Option<(Made<R>, u64)>,
        go_on: impl Fn() -> bool,
    ) {
        let mut left = self.part_bytes;
        let mut made = Vec::new();
        let ids = self.ids.chunks(self.part_len).nth(worker as usize);
        for id in ids.unwrap_or_default() {
            if left == 0 || !go_on() {
                break;
            }
            made.push(make(*id).and_then(|(made, len)| {
                match left.checked_sub(len.saturating_add(Self::OVERHEAD)) {
                    Some(rest) => {
                        left = rest;
                        Some(Arc::new(made))
                    }
                    // A long upload: shorter ones behind it may still fit.
                    None => None,
                }
            }));
        }
        made.shrink_to_fit();
        if let Some(part) = self.parts.get(worker as usize) {
            // A worker makes its part once.
            part.set(made).unwrap_or_default();
        }
    }

    /// That of an exchange.
    pub(super) fn get(&self, id: u64) -> Option<Arc<Made<R>>> {
        let place = self.place(id)?;
        let part = self.parts.get(place / self.part_len)?.get()?;
        part.get(place % self.part_len)?.clone()
    }

    fn place(&self, id: u64) -> Option<usize> {
        // Mostly all of the archive is meant, or a stretch of it: then an id tells its place.
        let distance = usize::try_from(id.checked_sub(*self.ids.first()?)?).ok()?;
        if self.ids.get(distance) == Some(&id) {
            return Some(distance);
        }
        self.ids.binary_search(&id).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(id: u64) -> Made<u64> {
        Made {
            request: id,
            recorded_status: None,
        }
    }

    fn ahead(ids: Vec<u64>, workers: u32, bytes: u64) -> Ahead<u64> {
        let ahead = Ahead::new(ids, workers, bytes);
        for worker in 0..workers {
            ahead.make(worker, |id| Some((made(id), 0)), || true);
        }
        ahead
    }

    #[test]
    fn every_worker_finds_what_any_has_made() {
        for workers in 1..6 {
            let ids: Vec<u64> = vec![3, 5, 6, 9, 100];
            let ahead = ahead(ids.clone(), workers, 1 << 20);
            for id in ids {
                assert_eq!(ahead.get(id).unwrap().request, id);
            }
            for id in [0, 4, 101] {
                assert!(ahead.get(id).is_none());
            }
        }
    }

    #[test]
    fn there_is_room_for_so_much_and_no_more() {
        let ahead = ahead((0..10).collect(), 2, 2 * 3 * Ahead::<u64>::OVERHEAD);
        let there: Vec<u64> = (0..10).filter(|id| ahead.get(*id).is_some()).collect();
        assert_eq!(there, [0, 1, 2, 5, 6, 7]);

        // What is too long leaves its room to what is not.
        let ahead = Ahead::new((0..3).collect(), 1, 1000);
        let make = |id| Some((made(id), if id == 1 { 900 } else { 10 }));
        ahead.make(0, make, || true);
        let there: Vec<u64> = (0..3).filter(|id| ahead.get(*id).is_some()).collect();
        assert_eq!(there, [0, 2]);
    }

    #[test]
    fn nothing_is_made_for_a_run_that_is_over() {
        let ahead = Ahead::new(vec![1], 1, 1000);
        ahead.make(0, |id| Some((made(id), 0)), || false);
        assert!(ahead.get(1).is_none());
        // Nor is there anything before its worker has come to it.
        assert!(Ahead::<u64>::new(vec![1], 1, 1000).get(1).is_none());
    }
}
