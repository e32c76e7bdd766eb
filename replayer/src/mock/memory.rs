//! Bounds of memory that requests share.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound of memory that many share.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    kib: Arc<Semaphore>,
    total: u32,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes / 1024)
            .unwrap_or(u32::MAX)
            .min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self {
            kib: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    /// Waits for this much; what exceeds the whole bound waits for all of it.
    pub(crate) async fn wait_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        // It is never closed, so this fails never.
        Arc::clone(&self.kib)
            .acquire_many_owned(kib.min(self.total))
            .await
            .ok()
    }

    fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        Arc::clone(&self.kib).try_acquire_many_owned(kib).ok()
    }
}

/// What one request holds of the memory for request bodies. The first 64 KiB are free: they are
/// bounded by the number of connections.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Memory,
    held: Vec<OwnedSemaphorePermit>,
    covered: usize,
}

impl Share {
    /// A share of nothing yet.
    pub(crate) const fn of(memory: Memory) -> Self {
        Self {
            memory,
            held: Vec::new(),
            covered: FREE,
        }
    }

    /// Makes the share cover this many bytes. `false`: there is no memory left.
    pub(crate) fn cover(&mut self, bytes: usize) -> bool {
        if bytes <= self.covered {
            return true;
        }
        // Doubling keeps the number of permits small.
        let more = (bytes - self.covered).max(self.covered);
        match self.memory.try_take(more) {
            Some(permit) => {
                self.held.push(permit);
                self.covered += more;
                true
            }
            None => false,
        }
    }

    /// Gives everything back.
    pub(crate) fn release(&mut self) {
        self.held.clear();
        self.covered = FREE;
    }
}

/// Bytes of a request that count against no shared bound.
const FREE: usize = 64 << 10;
