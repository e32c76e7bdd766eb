//! The threads, and the caller's side of them.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use tapedeck_model::Ledger;
use tapedeck_packet::RawPacket;
use tapedeck_tls::{Added, KeyLog};

use super::batch::{Batch, Spread};
use super::merge::Merge;
use super::worker::{self, Yield};
use crate::engine::Connections;
use crate::intake::Intake;
use crate::{Engine, Limits, Recorder};

/// Batches under way at once: one at work, one that waits, and two that are over on the other
/// workers. A worker never waits for the caller with fewer.
const UNDER_WAY: usize = 4;

/// An [`Engine`] on several threads, with the same result: exchanges and body parts, their order,
/// ids and keys, and the ledger.
///
/// That holds as long as no limit over all connections is reached (`max_connections` and
/// `max_buffered` of the reassembly, `body_memory`), because each worker has an equal share of
/// those. Which connections share it then depends on the number of workers: the reassembly's limits
/// may evict others, and bodies may leave in parts of other lengths.
///
/// The caller's thread decodes, merges and records. It waits for the workers when they are behind
/// by four batches, so that nothing piles up.
#[derive(Debug)]
pub struct Pipeline {
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Inline(Box<Engine>),
    Spread(Box<Driver>),
}

impl Pipeline {
    /// A pipeline that uses that many threads, the caller's included: with one, no thread is
    /// started.
    ///
    /// # Errors
    ///
    /// When the system cannot start a thread.
    pub fn new(limits: Limits, threads: NonZeroUsize) -> io::Result<Self> {
        let mode = match threads.get() - 1 {
            0 => Mode::Inline(Box::new(Engine::new(limits))),
            workers => Mode::Spread(Box::new(Driver::new(limits, workers)?)),
        };
        Ok(Self { mode })
    }

    /// Reads the next packet. What is found may reach the recorder in a later call.
    ///
    /// # Panics
    ///
    /// With a worker's panic, when one did.
    pub fn packet(&mut self, packet: &RawPacket<'_>, recorder: &mut impl Recorder) {
        match &mut self.mode {
            Mode::Inline(engine) => engine.packet(packet, recorder),
            Mode::Spread(driver) => driver.packet(packet, recorder),
        }
    }

    /// Adds the text of a TLS key log: see [`Engine::secrets`]. It is for packets that come later.
    pub fn secrets(&mut self, text: &[u8]) -> Added {
        match &mut self.mode {
            Mode::Inline(engine) => engine.secrets(text),
            Mode::Spread(driver) => driver.secrets(text),
        }
    }

    /// The capture is over: ends everything that is open, and says what was seen, kept and lost.
    ///
    /// # Panics
    ///
    /// With a worker's panic, when one did.
    pub fn finish(self, recorder: &mut impl Recorder) -> Ledger {
        match self.mode {
            Mode::Inline(mut engine) => {
                engine.finish(recorder);
                engine.ledger()
            }
            Mode::Spread(driver) => driver.finish(recorder),
        }
    }
}

/// The caller's side of the workers.
#[derive(Debug)]
pub(super) struct Driver {
    log: Arc<KeyLog>,
    intake: Intake,
    spread: Spread,
    batch: Batch,
    /// Batches whose yields were not taken yet, oldest first.
    under_way: VecDeque<Arc<Batch>>,
    workers: Vec<Worker>,
    merge: Merge,
}

#[derive(Debug)]
struct Worker {
    batches: SyncSender<Arc<Batch>>,
    yields: Receiver<Yield>,
    thread: JoinHandle<()>,
}

impl Driver {
    fn new(limits: Limits, workers: usize) -> io::Result<Self> {
        let fragments = limits.fragments;
        let limits = limits.share(workers);
        let log = Arc::new(KeyLog::new(limits.tls_secrets));
        let shared = Arc::clone(&log);
        Self::with(fragments, log, workers, move |worker, batches, yields| {
            let connections = Connections::new(limits.clone(), Arc::clone(&shared));
            worker::run(worker, connections, &batches, &yields);
        })
    }

    /// A driver of workers that do `work`.
    pub(super) fn with(
        fragments: tapedeck_packet::DefragLimits,
        log: Arc<KeyLog>,
        workers: usize,
        work: impl Fn(usize, Receiver<Arc<Batch>>, SyncSender<Yield>) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let start = |worker: usize| {
            // As many places as there are batches under way, and one for the end: sending never
            // blocks, on either side.
            let (batches, to_read) = sync_channel(UNDER_WAY);
            let (made, yields) = sync_channel(UNDER_WAY + 1);
            let work = work.clone();
            let thread = thread::Builder::new()
                .name(format!("wire-{worker}"))
                .spawn(move || work(worker, to_read, made))?;
            Ok(Worker {
                batches,
                yields,
                thread,
            })
        };
        Ok(Self {
            log,
            intake: Intake::new(fragments),
            spread: Spread::new(workers),
            batch: Batch::default(),
            under_way: VecDeque::new(),
            workers: (0..workers).map(start).collect::<io::Result<_>>()?,
            merge: Merge::new(workers),
        })
    }

    pub(super) fn packet(&mut self, packet: &RawPacket<'_>, recorder: &mut impl Recorder) {
        match self.intake.packet(packet) {
            Some(segment) => {
                let worker = self.spread.worker(&segment);
                self.batch.push_segment(&segment, worker);
            }
            None => self.batch.push_time(packet.at),
        }
        if self.batch.is_full() {
            self.submit(recorder);
        }
    }

    pub(super) fn secrets(&mut self, text: &[u8]) -> Added {
        let added = self.log.add(text);
        self.batch.push_edition(added.edition);
        added
    }

    /// Sends the batch to all workers; waits for them first, when enough is under way.
    fn submit(&mut self, recorder: &mut impl Recorder) {
        let mut next = Batch::default();
        if self.under_way.len() >= UNDER_WAY {
            next = self.take_oldest(recorder).unwrap_or_default();
        }
        next.clear(self.intake.packets());
        let batch = Arc::new(std::mem::replace(&mut self.batch, next));
        for idx in 0..self.workers.len() {
            if self.workers[idx].batches.send(Arc::clone(&batch)).is_err() {
                self.fail();
            }
        }
        self.under_way.push_back(batch);
    }

    /// Takes what the workers made of the oldest batch, which can then be filled again.
    fn take_oldest(&mut self, recorder: &mut impl Recorder) -> Option<Batch> {
        let batch = self.under_way.pop_front()?;
        let yields = self.receive();
        self.merge.batch(yields, recorder);
        Arc::into_inner(batch)
    }

    /// The next yield of each worker.
    fn receive(&mut self) -> Vec<Yield> {
        let yields: Result<Vec<_>, _> = self
            .workers
            .iter()
            .map(|worker| worker.yields.recv())
            .collect();
        yields.unwrap_or_else(|_| self.fail())
    }

    pub(super) fn finish(mut self, recorder: &mut impl Recorder) -> Ledger {
        if !self.batch.is_empty() {
            self.submit(recorder);
        }
        while !self.under_way.is_empty() {
            self.take_oldest(recorder);
        }
        let mut ledger = Ledger::default();
        self.intake.add_to(&mut ledger);
        for worker in &mut self.workers {
            // Without its other end, a worker sees the end of the capture.
            worker.batches = sync_channel(0).0;
        }
        let yields = self.receive();
        for made in &yields {
            if let Some(own) = &made.ledger {
                ledger.merge(own);
            }
        }
        self.merge.batch(yields, recorder);
        ledger
    }

    /// A worker is gone, which it only is by a panic: goes on with it here. The others end when
    /// their channels close.
    fn fail(&mut self) -> ! {
        for Worker {
            batches,
            yields,
            thread,
        } in std::mem::take(&mut self.workers)
        {
            drop((batches, yields));
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        unreachable!("a worker ends before its channels only by a panic");
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        for Worker {
            batches,
            yields,
            thread,
        } in std::mem::take(&mut self.workers)
        {
            drop((batches, yields));
            // Whoever drops a pipeline before its end does not want to know how it went.
            drop(thread.join());
        }
    }
}
