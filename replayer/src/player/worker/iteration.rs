//! One iteration: the exchanges of a session, each when those that it waits for are answered.

use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::player::options::Reuse;
use crate::player::scenario::{Step, Window};
use crate::player::schedule::Entry;
use crate::player::source::Source;
use crate::player::transport::Transport;
use crate::player::worker::alarm::{Alarm, FAR, after};
use crate::player::worker::attempt::Ready;
use crate::player::worker::cast::Cast;
use crate::player::worker::drive::Worker;

/// An iteration that is to be done.
#[derive(Clone)]
pub(super) struct Turn {
    pub(super) cast: Arc<Cast>,
    pub(super) session: usize,
    pub(super) lane: u32,
    /// When it was due.
    pub(super) start: Instant,
    /// When it is given up; `None`: whoever waits for it sees to that.
    pub(super) kill: Option<Instant>,
}

/// The first request of an iteration.
pub(super) enum First<S: Source, T: Transport> {
    /// It is read when its time comes.
    Unread,
    /// It was made ready before; `None`: that failed and was counted.
    Prepared(Option<Ready<S, T>>),
}

impl Turn {
    /// Does the iteration, and counts it; when that was over.
    pub(super) async fn run<S, T>(
        self,
        worker: &Rc<Worker<S, T>>,
        first: First<S, T>,
        alarm: &mut Alarm,
    ) -> Instant
    where
        S: Source + 'static,
        T: Transport + 'static,
    {
        let counted = Counted {
            worker: Rc::clone(worker),
            scenario: self.cast.index,
            start: self.start,
            end: None,
        };
        let (lane, begun, kill) = (self.lane, self.start, self.kill);
        let steps = self.steps(worker, first, alarm);
        let end = match kill {
            Some(kill) => tokio::time::timeout_at(kill.into(), steps)
                .await
                .unwrap_or(None),
            None => steps.await,
        };
        counted.end(end);
        if worker.job.reuse != Reuse::Always {
            worker.transport.forget(lane);
        }
        if !worker.job.min_iteration.is_zero() {
            let next = after(begun, worker.job.min_iteration);
            let next = kill.map_or(next, |kill| next.min(kill));
            worker.sleep_until(next).await;
            return Instant::now();
        }
        end.unwrap_or_else(Instant::now)
    }

    /// When it came to its end; `None`: it did not.
    async fn steps<S, T>(
        self,
        worker: &Rc<Worker<S, T>>,
        first: First<S, T>,
        alarm: &mut Alarm,
    ) -> Option<Instant>
    where
        S: Source + 'static,
        T: Transport + 'static,
    {
        let session = self.cast.sessions.session(self.session);
        let steps = session.0;
        let mut first = Some(first);
        if let [only] = steps {
            let (due, first) = (self.start, &mut first);
            return self.step(worker, *only, due, first, alarm).await;
        }
        let mut due: Vec<(usize, Instant)> = session
            .roots()
            .filter_map(|index| Some((index, self.start + self.think(steps.get(index)?.delay))))
            .collect();
        let mut at_once: JoinSet<(usize, Option<Instant>)> = JoinSet::new();
        loop {
            let (index, done) = match due.as_slice() {
                // Most sessions do one thing after the other: that needs no other task.
                [(index, at)] if at_once.is_empty() => {
                    let (index, at) = (*index, *at);
                    due.clear();
                    let step = *steps.get(index)?;
                    let done = self.step(worker, step, at, &mut first, alarm).await;
                    (index, done)
                }
                _ => {
                    for (index, at) in due.drain(..) {
                        if let Some(step) = steps.get(index) {
                            let (turn, worker, step) = (self.clone(), Rc::clone(worker), *step);
                            let mut first = first.take();
                            at_once.spawn_local(async move {
                                let alarm = &mut Alarm::default();
                                let done = turn.step(&worker, step, at, &mut first, alarm).await;
                                (index, done)
                            });
                        }
                    }
                    match at_once.join_next().await {
                        Some(Ok(ended)) => ended,
                        // The run is to fail where a part of it did.
                        Some(Err(error)) if error.is_panic() => resume_unwind(error.into_panic()),
                        // Nobody cancels them.
                        Some(Err(_)) => return None,
                        None => return Some(Instant::now()),
                    }
                }
            };
            let done = done?;
            due.extend(
                session
                    .waiting_for(index)
                    .filter_map(|next| Some((next, done + self.think(steps.get(next)?.delay)))),
            );
            if due.is_empty() && at_once.is_empty() {
                return Some(done);
            }
        }
    }

    /// Sends one exchange when it is due; when that was over. `None`: the run is stopped.
    async fn step<S, T>(
        &self,
        worker: &Rc<Worker<S, T>>,
        step: Step,
        due: Instant,
        first: &mut Option<First<S, T>>,
        alarm: &mut Alarm,
    ) -> Option<Instant>
    where
        S: Source + 'static,
        T: Transport + 'static,
    {
        let ready = match first.take() {
            Some(First::Prepared(ready)) => ready,
            Some(First::Unread) | None => {
                let entry = Entry::of_user(step.id, step.endpoint, self.cast.index, self.lane);
                worker.prepare(entry, false)
            }
        };
        if due > self.start && !worker.sleep_until(due).await {
            return None;
        }
        // As in k6, what the cap holds back is no latency.
        let due = worker.until_allowed().await.map_or(due, |at| at.max(due));
        if worker.stopped() {
            return None;
        }
        let attempt = ready.and_then(|ready| worker.begin(ready, due, false));
        Some(match attempt {
            Some(attempt) => attempt.run(alarm).await,
            // It was counted as never sent.
            None => Instant::now(),
        })
    }

    fn think(&self, recorded: Duration) -> Duration {
        let factor = self.cast.think;
        factor.map_or(Duration::ZERO, |factor| {
            Duration::try_from_secs_f64(recorded.as_secs_f64() / factor)
                .map_or(FAR, |time| time.min(FAR))
        })
    }
}

/// An iteration that has begun. However it ends, also when it is dropped, it is counted once.
struct Counted<S: Source, T: Transport> {
    worker: Rc<Worker<S, T>>,
    scenario: u8,
    start: Instant,
    /// Of one that came to its end.
    end: Option<Instant>,
}

impl<S: Source, T: Transport> Counted<S, T> {
    fn end(mut self, end: Option<Instant>) {
        self.end = end;
    }
}

impl<S: Source, T: Transport> Drop for Counted<S, T> {
    fn drop(&mut self) {
        let mut tally = self.worker.tally.borrow_mut();
        if let Some(end) = self.end {
            tally.iteration(self.scenario, end.saturating_duration_since(self.start));
        } else {
            tally.interrupted(self.scenario);
        }
    }
}

/// A user that begins again whenever it is done, within its windows.
pub(super) async fn user<S, T>(
    worker: &Rc<Worker<S, T>>,
    cast: &Arc<Cast>,
    lane: u32,
    windows: &[Window],
    start: Instant,
) where
    S: Source + 'static,
    T: Transport + 'static,
{
    let mut quota = Quota {
        worker: Rc::clone(worker),
        scenario: cast.index,
        left: cast.quota,
    };
    let mut alarm = Alarm::default();
    for window in windows {
        if !worker.sleep_until(after(start, window.from)).await {
            break;
        }
        let _active = worker.active();
        let until = after(start, window.until);
        let turns = async {
            let mut now = Instant::now();
            loop {
                if now >= until {
                    return true;
                }
                if worker.stopped() || quota.left == Some(0) {
                    return false;
                }
                let Some(iteration) = cast.next_iteration() else {
                    return false;
                };
                quota.left = quota.left.map(|left| left - 1);
                let Some(session) = cast.mix.session(iteration) else {
                    return false;
                };
                let turn = Turn {
                    cast: Arc::clone(cast),
                    session,
                    lane,
                    start: now,
                    kill: None,
                };
                now = turn.run(worker, First::Unread, &mut alarm).await;
                // An iteration whose requests cannot be sent never waits: others must have their turn.
                tokio::task::coop::consume_budget().await;
            }
        };
        // One timer for the window, and not one for each of its iterations: the one in the middle is given up.
        let kill = after(start, window.kill);
        match tokio::time::timeout_at(kill.into(), turns).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(_elapsed) if worker.job.reuse != Reuse::Always => worker.transport.forget(lane),
            Err(_elapsed) => {}
        }
    }
    worker.transport.retire(lane);
}

/// The iterations that are left of a user's own; those left at its end did not begin.
struct Quota<S: Source, T: Transport> {
    worker: Rc<Worker<S, T>>,
    scenario: u8,
    left: Option<u64>,
}

impl<S: Source, T: Transport> Drop for Quota<S, T> {
    fn drop(&mut self) {
        if let Some(left @ 1..) = self.left {
            let mut tally = self.worker.tally.borrow_mut();
            tally.drop_iterations(self.scenario, left);
        }
    }
}
