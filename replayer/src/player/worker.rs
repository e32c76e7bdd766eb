//! One sending thread: a schedule, a transport and a stop, driven by the clock.
//!
//! In open loop the worker prepares requests ahead, waits for the due time of the next one, and
//! hands it to a task of its own: nothing that the target does can delay the one behind it. In
//! closed loop a fixed number of tasks take the next request whenever they are free.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::LocalSet;

use crate::player::gate::{Gate, Pass};
use crate::player::outcome::{Cause, Failure, Lost, NeverSent, SendError, Timeline};
use crate::player::request::Rules;
use crate::player::schedule::Entry;
use crate::player::source::Source;
use crate::player::stop::Stop;
use crate::player::tally::Tally;
use crate::player::timer::PreciseTimer;
use crate::player::transport::Transport;
use crate::player::watch::{Observed, Watch};

/// What all workers of a run share.
pub(crate) struct Job<S> {
    pub(crate) source: S,
    pub(crate) rules: Rules,
    pub(crate) gate: Gate,
    pub(crate) timeout: Duration,
    pub(crate) grace: Duration,
    /// Requests in flight, for each worker.
    pub(crate) max_in_flight: u32,
    /// Bytes of requests, for each worker.
    pub(crate) max_request_bytes: u64,
    pub(crate) stop: watch::Receiver<Stop>,
    pub(crate) watch: Arc<Watch>,
}

/// What a worker is to send.
pub(crate) enum Work {
    /// At their due times.
    Timed(Vec<Entry>),
    /// As fast as the target answers: so many at once on each of so many lanes.
    Closed {
        queue: Arc<Queue>,
        lanes: u32,
        at_once: u32,
    },
}

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

    fn take(&self) -> Range<usize> {
        let from = self.next.fetch_add(self.claim, Ordering::Relaxed);
        let end = self.entries.len();
        from.min(end)..from.saturating_add(self.claim).min(end)
    }

    /// How many nobody has taken.
    pub(crate) fn left(&self) -> u64 {
        let taken = self.next.load(Ordering::Relaxed);
        self.entries.len().saturating_sub(taken) as u64
    }
}

/// Counters of a running worker that others may read. Aligned, so that two workers do not share a
/// cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Live {
    pub(crate) answered: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) never_sent: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) connections: AtomicU64,
    /// What was counted so far, where a threshold may end the run.
    observed: Mutex<Option<Observed>>,
}

/// Runs a worker to its end on this thread.
pub(crate) fn run<S, T>(
    job: &Arc<Job<S>>,
    pass: Pass<'_>,
    live: Arc<Live>,
    work: Work,
    transport: impl FnOnce() -> io::Result<T>,
) -> io::Result<Tally>
where
    S: Source + 'static,
    T: Transport + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = LocalSet::new();
    let worker = tasks.block_on(&runtime, async {
        let worker = Rc::new(Worker {
            job: Arc::clone(job),
            transport: transport()?,
            live,
            tally: RefCell::new(Tally::new(&job.watch)),
            scratch: RefCell::default(),
            in_flight: Cell::new(0),
            request_bytes: Cell::new(0),
            claimed: RefCell::new(0..0),
            running: Cell::new(0),
            drained: Notify::new(),
        });
        if job.watch.aborts() {
            tokio::task::spawn_local(publish_often(Rc::clone(&worker)));
        }
        worker.drive(work, pass).await?;
        Ok::<_, io::Error>(worker)
    })?;
    // What is still in flight is given up: each attempt counts itself as it is dropped.
    drop(tasks);
    let claimed = worker.claimed.borrow().len() as u64;
    worker.not_begun(claimed);
    let mut tally = worker.tally.replace(Tally::new(&job.watch));
    worker.transfers(&mut tally);
    if job.watch.aborts() {
        worker.live.publish(tally.observed());
    }
    Ok(tally)
}

/// How often a worker says how it stands; with k6, thresholds are evaluated every 2 s.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

async fn publish_often<S, T>(worker: Rc<Worker<S, T>>)
where
    S: Source + 'static,
    T: Transport + 'static,
{
    loop {
        tokio::time::sleep(PUBLISH_EVERY).await;
        let mut tally = worker.tally.borrow_mut();
        worker.transfers(&mut tally);
        worker.live.publish(tally.observed());
    }
}

impl Live {
    fn publish(&self, observed: Observed) {
        // Nothing that holds the lock can panic.
        *self.observed.lock().unwrap_or_else(PoisonError::into_inner) = Some(observed);
    }

    /// Adds what the worker said last.
    pub(crate) fn add_observed(&self, sum: &mut Observed) {
        let observed = self.observed.lock();
        if let Some(observed) = &*observed.unwrap_or_else(PoisonError::into_inner) {
            sum.merge(observed);
        }
    }
}

struct Worker<S: Source, T> {
    job: Arc<Job<S>>,
    transport: T,
    live: Arc<Live>,
    tally: RefCell<Tally>,
    scratch: RefCell<S::Scratch>,
    in_flight: Cell<u32>,
    /// Bytes of requests that are prepared or in flight.
    request_bytes: Cell<u64>,
    /// What this worker has taken from the queue and not yet begun.
    claimed: RefCell<Range<usize>>,
    /// Tasks that have not ended.
    running: Cell<u64>,
    /// Notified when `running` reaches zero.
    drained: Notify,
}

impl<S, T> Worker<S, T>
where
    S: Source + 'static,
    T: Transport + 'static,
{
    /// Requests prepared ahead of their due time: what a few milliseconds of a fast recording need.
    const AHEAD: usize = 256;
    /// And bytes of them, so that recorded uploads are not all read at once.
    const AHEAD_BYTES: u64 = 4 << 20;
    /// How long the preparing and releasing may go on before answers are looked at.
    const TURN: Duration = Duration::from_micros(100);

    async fn drive(self: &Rc<Self>, work: Work, pass: Pass<'_>) -> io::Result<()> {
        let mut stop = self.job.stop.clone();
        match work {
            Work::Timed(entries) => self.send_timed(entries, pass, &mut stop).await?,
            Work::Closed {
                queue,
                lanes,
                at_once,
            } => {
                pass.wait();
                self.start_closed(&queue, lanes, at_once);
            }
        }
        tokio::select! {
            () = self.wait_until_drained() => {}
            () = give_up(&mut stop, self.job.grace) => {}
        }
        Ok(())
    }

    async fn send_timed(
        self: &Rc<Self>,
        entries: Vec<Entry>,
        pass: Pass<'_>,
        stop: &mut watch::Receiver<Stop>,
    ) -> io::Result<()> {
        let timer = PreciseTimer::new()?;
        let mut entries = entries.into_iter();
        let mut ready: VecDeque<Ready<S, T>> = VecDeque::new();
        while self.may_prepare(&ready)
            && let Some(entry) = entries.next()
        {
            ready.extend(self.prepare(entry));
        }
        let start = pass.wait();
        let due = |next: &Ready<S, T>| start + next.entry.due();
        let mut turn = Instant::now();
        while !self.stopped() {
            let now = Instant::now();
            if now.saturating_duration_since(turn) > Self::TURN {
                tokio::task::yield_now().await;
                turn = Instant::now();
            }
            if let Some(next) = ready.pop_front_if(|next| due(next) <= now) {
                self.release(next, start);
            } else if self.may_prepare(&ready)
                && let Some(entry) = entries.next()
            {
                ready.extend(self.prepare(entry));
            } else if let Some(next) = ready.front() {
                tokio::select! {
                    result = timer.until(due(next)) => result?,
                    _ = stop.changed() => {}
                }
                turn = Instant::now();
            } else {
                break;
            }
        }
        let left = ready.len() + entries.len();
        drop(ready);
        self.not_begun(left as u64);
        Ok(())
    }

    fn start_closed(self: &Rc<Self>, queue: &Arc<Queue>, lanes: u32, at_once: u32) {
        // Lanes first, so that the first requests spread over all connections.
        for _ in 0..at_once {
            for lane in 0..lanes {
                let queue = Arc::clone(queue);
                let running = Running::new(self);
                tokio::task::spawn_local(async move {
                    running.0.send_closed(lane, &queue).await;
                });
            }
        }
    }

    async fn send_closed(self: &Rc<Self>, lane: u32, queue: &Queue) {
        while !self.stopped()
            && let Some(entry) = self.claim(queue)
        {
            if let Some(ready) = self.prepare(entry.on_lane(lane))
                && let Some(attempt) = self.begin(ready, Instant::now())
            {
                attempt.run().await;
            }
        }
    }

    fn claim(&self, queue: &Queue) -> Option<Entry> {
        let mut claimed = self.claimed.borrow_mut();
        if claimed.is_empty() {
            *claimed = queue.take();
        }
        claimed
            .next()
            .and_then(|index| queue.entries.get(index))
            .copied()
    }

    fn may_prepare(&self, ready: &VecDeque<Ready<S, T>>) -> bool {
        ready.is_empty()
            || (ready.len() < Self::AHEAD && self.request_bytes.get() < Self::AHEAD_BYTES)
    }

    /// Reads a request and makes it ready.
    fn prepare(self: &Rc<Self>, entry: Entry) -> Option<Ready<S, T>> {
        let mut scratch = self.scratch.borrow_mut();
        let read = self
            .job
            .source
            .with_request(entry.id, &mut scratch, |recorded| {
                T::prepare(recorded, &self.job.rules)
            });
        let request = match read {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => {
                let cause = Cause::Other(Box::new(error));
                self.skip(entry, NeverSent::Untranslatable, &cause);
                return None;
            }
            Err(failure) => {
                self.skip(entry, failure.reason, &failure.cause);
                return None;
            }
        };
        let len = T::request_len(&request) as u64;
        if self.request_bytes.get() + len > self.job.max_request_bytes {
            self.skip(entry, NeverSent::MemoryLimit, &Cause::None);
            return None;
        }
        Some(Ready {
            entry,
            request,
            _bytes: RequestBytes::take(self, len),
        })
    }

    /// Lets a request go.
    fn release(self: &Rc<Self>, ready: Ready<S, T>, start: Instant) {
        let due = start + ready.entry.due();
        if let Some(attempt) = self.begin(ready, due) {
            let running = Running::new(self);
            tokio::task::spawn_local(async move {
                attempt.run().await;
                drop(running);
            });
        }
    }

    fn begin(self: &Rc<Self>, ready: Ready<S, T>, due: Instant) -> Option<Attempt<S, T>> {
        let in_flight = self.in_flight.get();
        if in_flight >= self.job.max_in_flight {
            self.skip(ready.entry, NeverSent::InFlightLimit, &Cause::None);
            return None;
        }
        self.in_flight.set(in_flight + 1);
        self.live.in_flight.fetch_add(1, Ordering::Relaxed);
        let mut tally = self.tally.borrow_mut();
        tally.peak_in_flight = tally.peak_in_flight.max(u64::from(in_flight) + 1);
        Some(Attempt {
            worker: Rc::clone(self),
            timeline: Timeline::start(due),
            ready,
            settled: false,
        })
    }

    /// Adds what the transport counted.
    fn transfers(&self, tally: &mut Tally) {
        let counters = self.transport.counters();
        tally.connections = counters.opened.get();
        tally.peak_connections = counters.peak.get().into();
        tally.bytes_sent = counters.bytes_sent.get();
        tally.bytes_received = counters.bytes_received.get();
    }

    fn stopped(&self) -> bool {
        *self.job.stop.borrow() != Stop::Run
    }

    /// Counts a request that is not sent, and lets go of its lane.
    fn skip(&self, entry: Entry, reason: NeverSent, cause: &Cause) {
        self.tally.borrow_mut().skip(entry.endpoint, reason, cause);
        self.live.never_sent.fetch_add(1, Ordering::Relaxed);
        if entry.last_of_lane {
            self.transport.retire(entry.lane);
        }
    }

    /// Counts requests that a stop kept back.
    fn not_begun(&self, n: u64) {
        let never_sent = &mut self.tally.borrow_mut().never_sent;
        never_sent.add_n(NeverSent::Stopped, n);
        self.live.never_sent.fetch_add(n, Ordering::Relaxed);
    }

    async fn wait_until_drained(&self) {
        while self.running.get() > 0 {
            self.drained.notified().await;
        }
    }
}

/// Returns when nothing may be awaited any longer; never, where no stop comes.
async fn give_up(stop: &mut watch::Receiver<Stop>, grace: Duration) {
    // An error means that nobody can stop the run any more.
    if stop.wait_for(|stop| *stop >= Stop::Finish).await.is_err() {
        std::future::pending::<()>().await;
    }
    let now = async {
        if stop.wait_for(|stop| *stop == Stop::Now).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = tokio::time::sleep(grace) => {}
        () = now => {}
    }
}

/// A request that waits for its due time.
struct Ready<S: Source, T: Transport> {
    entry: Entry,
    request: T::Request,
    _bytes: RequestBytes<S, T>,
}

/// Request bytes that are held, given back when it is dropped.
struct RequestBytes<S: Source, T> {
    worker: Rc<Worker<S, T>>,
    len: u64,
}

impl<S: Source, T> RequestBytes<S, T> {
    fn take(worker: &Rc<Worker<S, T>>, len: u64) -> Self {
        worker.request_bytes.set(worker.request_bytes.get() + len);
        Self {
            worker: Rc::clone(worker),
            len,
        }
    }
}

impl<S: Source, T> Drop for RequestBytes<S, T> {
    fn drop(&mut self) {
        let held = &self.worker.request_bytes;
        held.set(held.get().saturating_sub(self.len));
    }
}

/// A task that has not ended.
struct Running<S: Source, T>(Rc<Worker<S, T>>);

impl<S: Source, T> Running<S, T> {
    fn new(worker: &Rc<Worker<S, T>>) -> Self {
        worker.running.set(worker.running.get() + 1);
        Self(Rc::clone(worker))
    }
}

impl<S: Source, T> Drop for Running<S, T> {
    fn drop(&mut self) {
        let running = self.0.running.get().saturating_sub(1);
        self.0.running.set(running);
        if running == 0 {
            self.0.drained.notify_one();
        }
    }
}

/// A request in flight. However it ends, also when it is dropped, it is counted once.
struct Attempt<S: Source, T: Transport> {
    worker: Rc<Worker<S, T>>,
    timeline: Timeline,
    ready: Ready<S, T>,
    settled: bool,
}

impl<S: Source, T: Transport> Attempt<S, T> {
    async fn run(mut self) {
        // In open loop this runs when the task does: what the player did before counts as lag.
        self.timeline.taken = Instant::now();
        let lane = self.ready.entry.lane;
        let sending = self
            .worker
            .transport
            .send(lane, &self.ready.request, &self.timeline);
        let result = tokio::time::timeout(self.worker.job.timeout, sending).await;
        if self.ready.entry.last_of_lane {
            self.worker.transport.retire(lane);
        }
        let now = Instant::now();
        match result {
            Ok(Ok(status)) => {
                let recorded = self.worker.job.source.recorded_status(self.ready.entry.id);
                self.worker.tally.borrow_mut().answer(
                    self.ready.entry.endpoint,
                    &self.timeline,
                    now,
                    status,
                    recorded,
                );
                self.worker.live.answered.fetch_add(1, Ordering::Relaxed);
                self.settled = true;
            }
            Ok(Err(SendError { lost, cause })) => self.lose(now, lost, &cause),
            Err(_elapsed) => {
                let lost = self.lost_as(Failure::TimedOut, NeverSent::TimedOut);
                self.lose(now, lost, &Cause::None);
            }
        }
    }

    fn lost_as(&self, sent: Failure, not_sent: NeverSent) -> Lost {
        match self.timeline.sent.get() {
            Some(_) => Lost::Failed(sent),
            None => Lost::NeverSent(not_sent),
        }
    }

    fn lose(&mut self, now: Instant, lost: Lost, cause: &Cause) {
        // What an HTTP/2 connection says of a stream that never had a place on it.
        let lost = match (lost, self.timeline.sent.get()) {
            (Lost::Failed(_), None) => Lost::NeverSent(NeverSent::Unreachable),
            (lost, _) => lost,
        };
        let live = match lost {
            Lost::Failed(_) => &self.worker.live.failed,
            Lost::NeverSent(_) => &self.worker.live.never_sent,
        };
        live.fetch_add(1, Ordering::Relaxed);
        self.worker.tally.borrow_mut().lose(
            self.ready.entry.endpoint,
            &self.timeline,
            now,
            lost,
            cause,
        );
        self.settled = true;
    }
}

impl<S: Source, T: Transport> Drop for Attempt<S, T> {
    fn drop(&mut self) {
        let in_flight = &self.worker.in_flight;
        in_flight.set(in_flight.get().saturating_sub(1));
        let live = &self.worker.live;
        live.in_flight.fetch_sub(1, Ordering::Relaxed);
        let open = self.worker.transport.counters().open.get();
        live.connections.store(open.into(), Ordering::Relaxed);
        if !self.settled {
            let lost = self.lost_as(Failure::Unanswered, NeverSent::Stopped);
            self.lose(Instant::now(), lost, &Cause::None);
        }
    }
}
