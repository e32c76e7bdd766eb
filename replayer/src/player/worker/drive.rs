//! A worker from its start to its end.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::LocalSet;

use crate::player::gate::{Gate, Pass};
use crate::player::options::Reuse;
use crate::player::outcome::{Cause, NeverSent};
use crate::player::schedule::{Entry, share};
use crate::player::seconds::{Second, SecondTally};
use crate::player::source::Source;
use crate::player::stop::Stop;
use crate::player::tally::Tally;
use crate::player::transport::Transport;
use crate::player::watch::{Observed, Watch};
use crate::player::worker::ahead::{Ahead, Made};
use crate::player::worker::alarm::{Alarm, after};
use crate::player::worker::attempt::{Attempt, Ready};
use crate::player::worker::cap::Cap;
use crate::player::worker::cast::{Part, Work};
use crate::player::worker::iteration::user;
use crate::player::worker::open::Open;
use crate::player::worker::poller::Poller;
use crate::player::worker::queue::Queue;
use crate::player::worker::sleepers::Sleepers;

/// What all workers of a run share.
pub(crate) struct Job<S> {
    pub(crate) source: S,
    pub(crate) gate: Gate,
    pub(crate) timeout: Duration,
    /// How long what is in flight is awaited behind a first stop.
    pub(crate) grace: Duration,
    pub(crate) reuse: Reuse,
    pub(crate) min_iteration: Duration,
    /// How many requests of users may begin in a second.
    pub(crate) cap: Option<Cap>,
    /// In a flood, workers look for answers instead of sleeping until there is one.
    pub(crate) polls: bool,
    pub(crate) workers: u32,
    /// Requests in flight, of all workers together.
    pub(crate) max_in_flight: u32,
    /// Bytes of requests, for each worker.
    pub(crate) max_request_bytes: u64,
    pub(crate) stop: watch::Receiver<Stop>,
    pub(crate) watch: Arc<Watch>,
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
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    /// Users that are active.
    pub(crate) vus: AtomicU64,
    /// What was counted so far, where a threshold may end the run.
    observed: Mutex<Option<Observed>>,
    /// The number of this second of the run.
    second: AtomicU64,
    /// Requests that were sent before it.
    sent: AtomicU64,
    /// Those that are over, until somebody takes them, which happens several times a second.
    seconds: Mutex<Vec<Second>>,
}

/// Runs a worker to its end on this thread.
pub(crate) fn run<S, T>(
    job: &Arc<Job<S>>,
    (number, pass): (u32, Pass<'_>),
    live: Arc<Live>,
    ahead: Arc<Ahead<T::Request>>,
    parts: Vec<Part>,
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
            ahead,
            poller: Poller::default(),
            sleepers: Sleepers::new()?,
            scratch: RefCell::default(),
            max_in_flight: share(job.max_in_flight, job.workers, number),
            in_flight: Cell::new(0),
            request_bytes: Cell::new(0),
            running: Cell::new(0),
            panicked: Cell::new(false),
            drained: Notify::new(),
        });
        if job.watch.aborts() || job.watch.wants_seconds() {
            tokio::task::spawn_local(publish_often(Rc::clone(&worker)));
        }
        worker.make_ahead(number);
        worker.drive(parts, pass).await?;
        Ok::<_, io::Error>(worker)
    })?;
    // What is still in flight is given up: each attempt counts itself as it is dropped.
    drop(tasks);
    if worker.panicked.get() {
        let error = "a part of the player panicked; this is a bug";
        return Err(io::Error::other(error));
    }
    let mut tally = worker.tally.replace(Tally::new(&job.watch));
    worker.transfers(&mut tally);
    if job.watch.aborts() {
        worker.live.publish(tally.observed());
    }
    let sent = worker.transport.counters().requests.get();
    worker.live.end_second(&job.watch, &mut tally, sent, true);
    Ok(tally)
}

/// How often a worker says how it stands; with k6, thresholds are evaluated every 2 s.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

async fn publish_often<S, T>(worker: Rc<Worker<S, T>>)
where
    S: Source + 'static,
    T: Transport + 'static,
{
    let mut interval = tokio::time::interval(PUBLISH_EVERY);
    interval.tick().await;
    loop {
        interval.tick().await;
        let mut tally = worker.tally.borrow_mut();
        let watch = &worker.job.watch;
        if watch.aborts() {
            worker.transfers(&mut tally);
            worker.live.publish(tally.observed());
        }
        let sent = worker.transport.counters().requests.get();
        worker.live.end_second(watch, &mut tally, sent, false);
    }
}

impl Live {
    fn publish(&self, observed: Observed) {
        // Nothing that holds the lock can panic.
        *self.observed.lock().unwrap_or_else(PoisonError::into_inner) = Some(observed);
    }

    /// Hands over what was observed in the second that is over; `sent` is the number of requests that were sent by now.
    fn end_second(&self, watch: &Arc<Watch>, tally: &mut Tally, sent: u64, is_cut: bool) {
        if let Some(second) = &mut tally.second {
            let mut tally = std::mem::replace(&mut **second, SecondTally::new(watch));
            // One that is to be sent once more counts where it is.
            let before = self.sent.fetch_max(sent, Ordering::Relaxed);
            tally.sent = sent.saturating_sub(before);
            self.seconds
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Second {
                    number: self.second.fetch_add(1, Ordering::Relaxed),
                    tally,
                    is_cut,
                });
        }
    }

    /// The seconds that nobody has taken yet.
    pub(crate) fn take_seconds(&self) -> Vec<Second> {
        std::mem::take(&mut *self.seconds.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds what the worker said last.
    pub(crate) fn add_observed(&self, sum: &mut Observed) {
        let observed = self.observed.lock();
        if let Some(observed) = &*observed.unwrap_or_else(PoisonError::into_inner) {
            sum.merge(observed);
        }
    }
}

pub(super) struct Worker<S: Source, T: Transport> {
    pub(super) job: Arc<Job<S>>,
    pub(super) transport: T,
    pub(super) live: Arc<Live>,
    pub(super) tally: RefCell<Tally>,
    ahead: Arc<Ahead<T::Request>>,
    pub(super) poller: Poller,
    sleepers: Rc<Sleepers>,
    scratch: RefCell<S::Scratch>,
    /// This worker's share of what all may have in flight.
    max_in_flight: u32,
    pub(super) in_flight: Cell<u32>,
    /// Bytes of requests that are prepared or in flight.
    pub(super) request_bytes: Cell<u64>,
    /// Tasks that have not ended.
    running: Cell<u64>,
    /// One of them did not come to its end.
    panicked: Cell<bool>,
    /// Notified when `running` reaches zero.
    drained: Notify,
}

impl<S, T> Worker<S, T>
where
    S: Source + 'static,
    T: Transport + 'static,
{
    async fn drive(self: &Rc<Self>, parts: Vec<Part>, pass: Pass<'_>) -> io::Result<()> {
        let mut stop = self.job.stop.clone();
        let mut open = Vec::new();
        let mut closed = Vec::new();
        for part in parts {
            let start = part.cast.start;
            match Open::new(self, part)? {
                Ok(part) => open.push((start, part)),
                Err(part) => closed.push(part),
            }
        }
        let start = pass.wait();
        if self.job.polls && !closed.is_empty() {
            // Where an answer is a read of its own, gathering spares nobody anything.
            self.poll(open.is_empty() && self.transport.is_multiplexed());
        }
        for part in closed {
            self.start_closed(part, start);
        }
        let open: Vec<_> = open
            .into_iter()
            .map(|(offset, part)| {
                let running = Running::new(self);
                tokio::task::spawn_local(async move {
                    let result = part.run(after(start, offset)).await;
                    drop(running);
                    result
                })
            })
            .collect();
        tokio::select! {
            () = self.wait_until_drained() => {}
            () = give_up(&mut stop, self.job.grace) => {}
        }
        for part in open {
            if part.is_finished() {
                // It cannot have panicked: the tests would show it.
                part.await.map_err(io::Error::other)??;
            } else {
                part.abort();
            }
        }
        Ok(())
    }

    /// Answers bring about requests: they are looked for. They may gather where nothing else is due.
    fn poll(self: &Rc<Self>, gathers: bool) {
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let counters = worker.transport.counters();
            let moved = || counters.bytes_received.get() + counters.bytes_sent.get();
            worker.poller.run(moved, gathers).await;
        });
    }

    fn start_closed(self: &Rc<Self>, part: Part, start: Instant) {
        let cast = part.cast;
        let start = after(start, cast.start);
        match part.work {
            Work::Closed {
                queue,
                lanes,
                at_once,
                duration,
            } => {
                let end = duration.map(|duration| after(start, duration));
                let at_once = if self.transport.is_multiplexed() {
                    at_once
                } else {
                    1
                };
                let claimed = Rc::new(Claimed::new(self, cast.index, queue));
                // Lanes first, so that the first requests spread over all connections.
                for _ in 0..at_once {
                    for lane in 0..lanes {
                        let lane = part.first_lane.saturating_add(lane);
                        let claimed = Rc::clone(&claimed);
                        let running = Running::new(self);
                        tokio::task::spawn_local(async move {
                            let worker = running.worker();
                            if worker.sleep_until(start).await {
                                worker.send_closed(lane, &claimed, end).await;
                            }
                        });
                    }
                }
            }
            Work::Users(users) => {
                for (lane, windows) in (part.first_lane..).zip(users) {
                    let cast = Arc::clone(&cast);
                    let running = Running::new(self);
                    tokio::task::spawn_local(async move {
                        user(running.worker(), &cast, lane, &windows, start).await;
                    });
                }
            }
            Work::Timed(_) | Work::Arrivals { .. } => debug_assert!(false, "these are open"),
        }
    }

    async fn send_closed(
        self: &Rc<Self>,
        lane: u32,
        claimed: &Claimed<S, T>,
        end: Option<Instant>,
    ) {
        let mut alarm = Alarm::default();
        loop {
            self.until_allowed().await;
            let is_over = self.stopped() || end.is_some_and(|end| Instant::now() >= end);
            let Some(entry) = (!is_over).then(|| claimed.next()).flatten() else {
                return;
            };
            if let Some(ready) = self.prepare(entry.on_lane(lane), true)
                && let Some(attempt) = self.begin(ready, Instant::now(), true)
            {
                attempt.run(&mut alarm).await;
            }
        }
    }

    /// Makes this worker's part of what is made before the run.
    fn make_ahead(&self, number: u32) {
        let mut scratch = self.scratch.borrow_mut();
        let make = |id| {
            let source = &self.job.source;
            let read = source.with_request(id, &mut scratch, |recorded| {
                self.transport.prepare(recorded)
            });
            // Who comes to it says why there is none.
            let request = read.ok()?.ok()?;
            let len = T::request_len(&request) as u64;
            let recorded_status = source.recorded_status(id);
            let made = Made {
                request,
                recorded_status,
            };
            Some((made, len))
        };
        self.ahead.make(number, make, || !self.stopped());
    }

    /// Gives a request that is ready, or reads it and makes it so.
    pub(super) fn prepare(self: &Rc<Self>, entry: Entry, single: bool) -> Option<Ready<S, T>> {
        if let Some(made) = self.ahead.get(entry.id) {
            return Some(Ready::shared(self, entry, made));
        }
        let mut scratch = self.scratch.borrow_mut();
        let read = self
            .job
            .source
            .with_request(entry.id, &mut scratch, |recorded| {
                self.transport.prepare(recorded)
            });
        let request = match read {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => {
                let cause = Cause::Other(Box::new(error));
                self.skip(entry, NeverSent::Untranslatable, &cause, single);
                return None;
            }
            Err(failure) => {
                self.skip(entry, failure.reason, &failure.cause, single);
                return None;
            }
        };
        let len = T::request_len(&request) as u64;
        if self.request_bytes.get() + len > self.job.max_request_bytes {
            self.skip(entry, NeverSent::MemoryLimit, &Cause::None, single);
            return None;
        }
        let made = Made {
            request,
            recorded_status: self.job.source.recorded_status(entry.id),
        };
        Some(Ready::new(self, entry, made))
    }

    pub(super) fn begin(
        self: &Rc<Self>,
        ready: Ready<S, T>,
        due: Instant,
        single: bool,
    ) -> Option<Attempt<S, T>> {
        let in_flight = self.in_flight.get();
        if in_flight >= self.max_in_flight {
            self.skip(ready.entry, NeverSent::InFlightLimit, &Cause::None, single);
            return None;
        }
        self.in_flight.set(in_flight + 1);
        self.live
            .in_flight
            .store(u64::from(in_flight) + 1, Ordering::Relaxed);
        let mut tally = self.tally.borrow_mut();
        tally.peak_in_flight = tally.peak_in_flight.max(u64::from(in_flight) + 1);
        Some(Attempt::new(Rc::clone(self), ready, due, single))
    }

    /// Adds what the transport counted.
    fn transfers(&self, tally: &mut Tally) {
        let counters = self.transport.counters();
        tally.connections = counters.opened.get();
        tally.peak_connections = counters.peak.get().into();
        tally.bytes_sent = counters.bytes_sent.get();
        tally.bytes_received = counters.bytes_received.get();
        tally.polled = self.poller.in_vain();
    }

    pub(super) fn stopped(&self) -> bool {
        *self.job.stop.borrow() != Stop::Run
    }

    /// `false`: the run was stopped meanwhile.
    pub(super) async fn sleep_until(&self, at: Instant) -> bool {
        if self.stopped() {
            return false;
        }
        if at <= Instant::now() {
            return true;
        }
        let mut stop = self.job.stop.clone();
        tokio::select! {
            () = self.sleepers.until(at) => true,
            // An error means that nobody can stop the run any more: then no run is left.
            _ = stop.changed() => false,
        }
    }

    /// Waits until one more request may begin, or the run is stopped; since when it may. `None`: there is no cap.
    pub(super) async fn until_allowed(&self) -> Option<Instant> {
        let at = self.job.cap.as_ref()?.take(Instant::now());
        self.sleep_until(at).await;
        Some(at)
    }

    /// A user that is active until it is dropped.
    pub(super) fn active(&self) -> Active {
        self.live.vus.fetch_add(1, Ordering::Relaxed);
        Active(Arc::clone(&self.live))
    }

    /// Counts a request that is not sent, and lets go of its lane.
    fn skip(&self, entry: Entry, reason: NeverSent, cause: &Cause, single: bool) {
        let mut tally = self.tally.borrow_mut();
        tally.skip(entry.origin(), reason, cause);
        if single {
            tally.drop_iterations(entry.scenario, 1);
        }
        self.live.never_sent.fetch_add(1, Ordering::Relaxed);
        if entry.last_of_lane {
            self.transport.retire(entry.lane);
        }
    }

    async fn wait_until_drained(&self) {
        while self.running.get() > 0 {
            self.drained.notified().await;
        }
    }
}

impl<S: Source, T: Transport> Worker<S, T> {
    /// Counts requests that a stop, or the end of their time, kept back.
    pub(super) fn not_begun(&self, scenario: u8, n: u64) {
        let mut tally = self.tally.borrow_mut();
        tally.never_sent.add_n(NeverSent::Stopped, n);
        tally.drop_iterations(scenario, n);
        self.live.never_sent.fetch_add(n, Ordering::Relaxed);
    }
}

/// What a worker has taken from a queue and not yet begun; what is left of it at the end was not.
struct Claimed<S: Source, T: Transport> {
    worker: Rc<Worker<S, T>>,
    scenario: u8,
    queue: Arc<Queue>,
    range: RefCell<Range<usize>>,
}

impl<S: Source, T: Transport> Claimed<S, T> {
    fn new(worker: &Rc<Worker<S, T>>, scenario: u8, queue: Arc<Queue>) -> Self {
        Self {
            worker: Rc::clone(worker),
            scenario,
            queue,
            range: RefCell::new(0..0),
        }
    }

    fn next(&self) -> Option<Entry> {
        let mut range = self.range.borrow_mut();
        if range.is_empty() {
            *range = self.queue.take();
        }
        range.next().and_then(|index| self.queue.get(index))
    }
}

impl<S: Source, T: Transport> Drop for Claimed<S, T> {
    fn drop(&mut self) {
        let left = self.range.borrow().len() as u64;
        self.worker.not_begun(self.scenario, left);
    }
}

/// A user that is active.
pub(super) struct Active(Arc<Live>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.vus.fetch_sub(1, Ordering::Relaxed);
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

/// A task that has not ended.
pub(super) struct Running<S: Source, T: Transport>(Rc<Worker<S, T>>);

impl<S: Source, T: Transport> Running<S, T> {
    pub(super) fn new(worker: &Rc<Worker<S, T>>) -> Self {
        worker.running.set(worker.running.get() + 1);
        Self(Rc::clone(worker))
    }

    pub(super) const fn worker(&self) -> &Rc<Worker<S, T>> {
        &self.0
    }
}

impl<S: Source, T: Transport> Drop for Running<S, T> {
    fn drop(&mut self) {
        let running = self.0.running.get().saturating_sub(1);
        self.0.running.set(running);
        // The runtime catches it, and what is left of the run would pass for all of it.
        if std::thread::panicking() {
            self.0.panicked.set(true);
        }
        if running == 0 {
            self.0.drained.notify_one();
        }
    }
}
