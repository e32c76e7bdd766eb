//! One request, from the moment it is ready to the moment it is counted.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::player::options::Reuse;
use crate::player::outcome::{Cause, Failure, Lost, NeverSent, Reply, SendError, Timeline};
use crate::player::schedule::Entry;
use crate::player::source::Source;
use crate::player::transport::Transport;
use crate::player::worker::ahead::{Lent, Made};
use crate::player::worker::alarm::{Alarm, after};
use crate::player::worker::drive::Worker;

/// A request that waits for its due time.
pub(super) struct Ready<S: Source, T: Transport> {
    pub(super) entry: Entry,
    made: Lent<T::Request>,
    _bytes: RequestBytes<S, T>,
}

impl<S: Source, T: Transport> Ready<S, T> {
    pub(super) fn new(worker: &Rc<Worker<S, T>>, entry: Entry, made: Made<T::Request>) -> Self {
        let len = T::request_len(&made.request) as u64;
        Self::holding(worker, entry, Lent::Own(made), len)
    }

    /// With a request that is held for the whole run.
    pub(super) fn shared(
        worker: &Rc<Worker<S, T>>,
        entry: Entry,
        made: Arc<Made<T::Request>>,
    ) -> Self {
        Self::holding(worker, entry, Lent::Shared(made), 0)
    }

    fn holding(worker: &Rc<Worker<S, T>>, entry: Entry, made: Lent<T::Request>, len: u64) -> Self {
        Self {
            entry,
            made,
            _bytes: RequestBytes::take(worker, len),
        }
    }

    pub(super) fn on_lane(mut self, lane: u32) -> Self {
        self.entry = self.entry.on_lane(lane);
        self
    }
}

/// Request bytes that are held, given back when it is dropped.
struct RequestBytes<S: Source, T: Transport> {
    worker: Rc<Worker<S, T>>,
    len: u64,
}

impl<S: Source, T: Transport> RequestBytes<S, T> {
    fn take(worker: &Rc<Worker<S, T>>, len: u64) -> Self {
        worker.request_bytes.set(worker.request_bytes.get() + len);
        Self {
            worker: Rc::clone(worker),
            len,
        }
    }
}

impl<S: Source, T: Transport> Drop for RequestBytes<S, T> {
    fn drop(&mut self) {
        let held = &self.worker.request_bytes;
        held.set(held.get().saturating_sub(self.len));
    }
}

/// A request in flight. However it ends, also when it is dropped, it is counted once.
pub(super) struct Attempt<S: Source, T: Transport> {
    worker: Rc<Worker<S, T>>,
    timeline: Timeline,
    ready: Ready<S, T>,
    /// It is an iteration of its own.
    single: bool,
    settled: bool,
}

impl<S: Source, T: Transport> Attempt<S, T> {
    pub(super) fn new(
        worker: Rc<Worker<S, T>>,
        ready: Ready<S, T>,
        due: Instant,
        single: bool,
    ) -> Self {
        Self {
            worker,
            timeline: Timeline::start(due),
            ready,
            single,
            settled: false,
        }
    }

    /// Sends it, and gives it up in time; when that was over.
    pub(super) async fn run(mut self, alarm: &mut Alarm) -> Instant {
        // In open loop this runs when the task does: what the player did before counts as lag.
        self.timeline.taken = Instant::now();
        let lane = self.ready.entry.lane;
        let sending = self
            .worker
            .transport
            .send(lane, &self.ready.made.request, &self.timeline);
        let deadline = after(self.timeline.taken, self.worker.job.timeout);
        let result = alarm.within(deadline, sending).await;
        if self.ready.entry.last_of_lane {
            self.worker.transport.retire(lane);
        } else if self.worker.job.reuse == Reuse::Never {
            self.worker.transport.forget(lane);
        }
        let now = Instant::now();
        match result {
            Some(Ok(reply)) => self.answered(now, reply),
            Some(Err(SendError { lost, cause })) => self.lose(now, lost, &cause),
            None => {
                let lost = self.lost_as(Failure::TimedOut, NeverSent::TimedOut);
                self.lose(now, lost, &Cause::None);
            }
        }
        now
    }

    fn answered(&mut self, now: Instant, reply: Reply) {
        let entry = self.ready.entry;
        let recorded = self.ready.made.recorded_status;
        let mut tally = self.worker.tally.borrow_mut();
        tally.answer(entry.origin(), &self.timeline, now, reply, recorded);
        if self.single {
            tally.iteration(
                entry.scenario,
                now.saturating_duration_since(self.timeline.due),
            );
        }
        self.worker.live.answered.fetch_add(1, Ordering::Relaxed);
        if let Some(sent) = self.timeline.sent.get() {
            self.worker.poller.took(now.saturating_duration_since(sent));
        }
        self.settled = true;
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
        let entry = self.ready.entry;
        let mut tally = self.worker.tally.borrow_mut();
        tally.lose(entry.origin(), &self.timeline, now, lost, cause);
        if self.single {
            match lost {
                Lost::Failed(_) => {
                    let took = now.saturating_duration_since(self.timeline.due);
                    tally.iteration(entry.scenario, took);
                }
                Lost::NeverSent(_) => tally.drop_iterations(entry.scenario, 1),
            }
        }
        self.settled = true;
    }
}

impl<S: Source, T: Transport> Drop for Attempt<S, T> {
    fn drop(&mut self) {
        self.worker.poller.answered();
        let in_flight = &self.worker.in_flight;
        in_flight.set(in_flight.get().saturating_sub(1));
        let live = &self.worker.live;
        live.in_flight
            .store(in_flight.get().into(), Ordering::Relaxed);
        let counters = self.worker.transport.counters();
        for (live, own) in [
            (&live.connections, counters.open.get().into()),
            (&live.bytes_sent, counters.bytes_sent.get()),
            (&live.bytes_received, counters.bytes_received.get()),
        ] {
            live.store(own, Ordering::Relaxed);
        }
        if !self.settled {
            let lost = self.lost_as(Failure::Unanswered, NeverSent::Stopped);
            self.lose(Instant::now(), lost, &Cause::None);
        }
    }
}
