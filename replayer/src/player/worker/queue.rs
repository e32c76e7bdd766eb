//! Requests that several workers take from in order.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::player::schedule::Entry;

/// Requests that several workers take from in order.
pub(crate) struct Queue {
    entries: Vec<Entry>,
    next: AtomicUsize,
    claim: usize,
}

impl Queue {
    /// Neighbours in the schedule are mostly neighbours in the archive: a worker that takes several
    /// at once decompresses a block once. Towards the end nobody should be left without.
    const MAX_CLAIM: usize = 64;

    pub(crate) fn new(entries: Vec<Entry>, takers: u32) -> Self {
        let claim = (entries.len() / (takers as usize * 8).max(1)).clamp(1, Self::MAX_CLAIM);
        Self {
            entries,
            next: AtomicUsize::new(0),
            claim,
        }
    }

    pub(super) fn take(&self) -> Range<usize> {
        let from = self.next.fetch_add(self.claim, Ordering::Relaxed);
        let end = self.entries.len();
        from.min(end)..from.saturating_add(self.claim).min(end)
    }

    pub(super) fn get(&self, index: usize) -> Option<Entry> {
        self.entries.get(index).copied()
    }

    /// How many nobody has taken.
    pub(crate) fn left(&self) -> u64 {
        let taken = self.next.load(Ordering::Relaxed);
        self.entries.len().saturating_sub(taken) as u64
    }
}
