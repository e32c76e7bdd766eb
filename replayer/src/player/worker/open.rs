//! Open loop: requests and iterations that go out when they are due, whatever the target does.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::player::schedule::Entry;
use crate::player::source::Source;
use crate::player::timer::PreciseTimer;
use crate::player::transport::Transport;
use crate::player::worker::alarm::{Alarm, after};
use crate::player::worker::attempt::Ready;
use crate::player::worker::cast::{Cast, Part, Work};
use crate::player::worker::drive::{Running, Worker};
use crate::player::worker::iteration::{First, Turn};

/// What is due at an instant.
pub(super) struct Due {
    /// Counted from the start of the scenario.
    at: Duration,
    entry: Entry,
    /// The session that begins with it; `None`: it stands for itself.
    session: Option<usize>,
}

/// A [`Due`] with its request ready. One that could not be made ready was counted; the rest of its
/// session goes on without it.
struct Prepared<S: Source, T: Transport> {
    at: Duration,
    ready: Option<Ready<S, T>>,
    session: Option<usize>,
}

/// One worker's part of an open scenario.
pub(super) struct Open<S: Source, T: Transport> {
    worker: Rc<Worker<S, T>>,
    cast: Arc<Cast>,
    dues: Box<dyn Iterator<Item = Due>>,
    prepared: VecDeque<Prepared<S, T>>,
    timer: PreciseTimer,
    lanes: Rc<Lanes>,
}

/// The connections of users that are not busy.
pub(super) struct Lanes {
    free: RefCell<Vec<u32>>,
    next: Cell<u32>,
}

impl Lanes {
    /// A free one; those used last come first, and others not before they are needed.
    fn take(&self) -> u32 {
        let free = self.free.borrow_mut().pop();
        free.unwrap_or_else(|| self.next.replace(self.next.get().saturating_add(1)))
    }
}

/// A user that is busy with an arrival.
struct Busy {
    cast: Arc<Cast>,
    lanes: Rc<Lanes>,
    lane: u32,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.lanes.free.borrow_mut().push(self.lane);
        self.cast.give_user_back();
    }
}

impl<S, T> Open<S, T>
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

    /// `None`: the part is not of this kind. The first requests are ready behind it.
    pub(super) fn new(worker: &Rc<Worker<S, T>>, part: Part) -> io::Result<Result<Self, Part>> {
        let cast = Arc::clone(&part.cast);
        let first_lane = part.first_lane;
        let dues: Box<dyn Iterator<Item = Due>> = match part.work {
            Work::Timed(entries) => Box::new(entries.into_iter().map(move |entry| Due {
                at: entry.due(),
                entry: entry.behind_lane(first_lane),
                session: None,
            })),
            Work::Arrivals {
                arrivals,
                n,
                worker,
            } => {
                let mine = (0_u64..)
                    .zip(arrivals)
                    .skip(worker as usize)
                    .step_by(n as usize);
                let cast = Arc::clone(&cast);
                Box::new(mine.filter_map(move |(iteration, at)| {
                    let session = cast.mix.session(iteration)?;
                    let first = cast.sessions.session(session).0.first()?;
                    let entry = Entry::of_user(first.id, first.endpoint, cast.index, first_lane);
                    let session = Some(session);
                    Some(Due { at, entry, session })
                }))
            }
            work @ (Work::Closed { .. } | Work::Users(_)) => return Ok(Err(Part { work, ..part })),
        };
        let mut open = Self {
            worker: Rc::clone(worker),
            cast,
            dues,
            prepared: VecDeque::new(),
            timer: PreciseTimer::new()?,
            lanes: Rc::new(Lanes {
                free: RefCell::default(),
                next: Cell::new(first_lane),
            }),
        };
        while open.prepare_next() {}
        Ok(Ok(open))
    }

    /// Makes one more request ready, where there may be one more.
    fn prepare_next(&mut self) -> bool {
        let room = self.prepared.is_empty()
            || (self.prepared.len() < Self::AHEAD
                && self.worker.request_bytes.get() < Self::AHEAD_BYTES);
        if !room {
            return false;
        }
        let Some(Due { at, entry, session }) = self.dues.next() else {
            return false;
        };
        let ready = self.worker.prepare(entry, session.is_none());
        if ready.is_some() || session.is_some() {
            self.prepared.push_back(Prepared { at, ready, session });
        }
        true
    }

    /// Sends everything when it is due; `start` is that of the scenario.
    pub(super) async fn run(mut self, start: Instant) -> io::Result<()> {
        let mut stop = self.worker.job.stop.clone();
        let mut turn = Instant::now();
        while !self.worker.stopped() {
            let now = Instant::now();
            if now.saturating_duration_since(turn) > Self::TURN {
                tokio::task::yield_now().await;
                turn = Instant::now();
            }
            let is_due = |next: &mut Prepared<S, T>| after(start, next.at) <= now;
            if let Some(next) = self.prepared.pop_front_if(is_due) {
                self.release(next, start);
            } else if self.prepare_next() {
                // One more is ready.
            } else if let Some(next) = self.prepared.front() {
                tokio::select! {
                    result = self.timer.until(after(start, next.at)) => result?,
                    _ = stop.changed() => {}
                }
                turn = Instant::now();
            } else {
                break;
            }
        }
        Ok(())
    }

    /// Lets a request or an iteration go.
    fn release(&self, next: Prepared<S, T>, start: Instant) {
        let worker = &self.worker;
        let due = after(start, next.at);
        let Prepared { ready, session, .. } = next;
        let Some(session) = session else {
            if let Some(attempt) = ready.and_then(|ready| worker.begin(ready, due, true)) {
                let running = Running::new(worker);
                tokio::task::spawn_local(async move {
                    attempt.run(&mut Alarm::default()).await;
                    drop(running);
                });
            }
            return;
        };
        if !self.cast.take_user() {
            let mut tally = worker.tally.borrow_mut();
            tally.drop_iterations(self.cast.index, 1);
            return;
        }
        let lane = self.lanes.take();
        let busy = Busy {
            cast: Arc::clone(&self.cast),
            lanes: Rc::clone(&self.lanes),
            lane,
        };
        let turn = Turn {
            cast: Arc::clone(&self.cast),
            session,
            lane,
            start: due,
            kill: Some(after(
                start,
                self.cast.end.saturating_add(self.cast.graceful_stop),
            )),
        };
        let first = First::Prepared(ready.map(|ready| ready.on_lane(lane)));
        let running = Running::new(worker);
        tokio::task::spawn_local(async move {
            let _active = running.worker().active();
            turn.run(running.worker(), first, &mut Alarm::default())
                .await;
            drop(busy);
        });
    }
}

/// Requests that a stop kept back. Iterations that were not yet due are nobody's.
impl<S: Source, T: Transport> Drop for Open<S, T> {
    fn drop(&mut self) {
        self.prepared.retain(|next| next.session.is_none());
        let kept = self.prepared.len() as u64;
        self.prepared.clear();
        // What stands for itself is a list; arrivals may be without end.
        let rest = self.dues.by_ref().take_while(|due| due.session.is_none());
        let kept = kept + rest.count() as u64;
        self.worker.not_begun(self.cast.index, kept);
    }
}
