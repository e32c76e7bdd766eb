//! Tasks that wait for an instant, to the microsecond, on one timer.
//!
//! Think time ends when it ends: tokio's timers tick once a millisecond, and what they are late would count as
//! latency of the request behind. A precise timer for each user would be a file descriptor for each.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use tokio::sync::Notify;

use crate::player::timer::PreciseTimer;

/// The tasks of a worker that sleep.
#[derive(Debug)]
pub(super) struct Sleepers {
    timer: PreciseTimer,
    /// Several may be due at one instant: a number tells them apart.
    wakers: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next: Cell<u64>,
    /// Somebody is to be woken sooner than all others.
    sooner: Notify,
    /// A task looks after the timer; none does before somebody sleeps.
    is_kept: Cell<bool>,
}

impl Sleepers {
    /// Needs the worker's runtime.
    pub(super) fn new() -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            timer: PreciseTimer::new()?,
            wakers: RefCell::default(),
            next: Cell::new(0),
            sooner: Notify::new(),
            is_kept: Cell::new(false),
        }))
    }

    /// Returns at `deadline`, never before.
    pub(super) async fn until(self: &Rc<Self>, deadline: Instant) {
        if !self.is_kept.replace(true) {
            tokio::task::spawn_local(Rc::clone(self).keep());
        }
        let place = Place {
            sleepers: self,
            key: (deadline, self.next.replace(self.next.get().wrapping_add(1))),
        };
        poll_fn(|context| {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.put(place.key, context.waker());
            Poll::Pending
        })
        .await;
    }

    fn put(&self, key: (Instant, u64), waker: &Waker) {
        let mut wakers = self.wakers.borrow_mut();
        let is_first = wakers
            .first_key_value()
            .is_none_or(|(first, _)| key < *first);
        // Whoever is asked again before its time mostly has the same waker.
        wakers
            .entry(key)
            .and_modify(|known| known.clone_from(waker))
            .or_insert_with(|| waker.clone());
        if is_first {
            self.sooner.notify_one();
        }
    }

    /// Wakes everybody in time. Never returns.
    async fn keep(self: Rc<Self>) {
        loop {
            let Some(next) = self.wake(Instant::now()) else {
                self.sooner.notified().await;
                continue;
            };
            tokio::select! {
                result = self.timer.until(next) => if result.is_err() {
                    // The kernel has no reason to: but late is better than never.
                    tokio::time::sleep_until(next.into()).await;
                },
                () = self.sooner.notified() => {}
            }
        }
    }

    /// Wakes whose time has come; when the next one's does.
    fn wake(&self, now: Instant) -> Option<Instant> {
        let mut wakers = self.wakers.borrow_mut();
        while let Some(first) = wakers.first_entry() {
            if first.key().0 > now {
                return Some(first.key().0);
            }
            first.remove().wake();
        }
        None
    }
}

/// A sleeper's; it is given back when that is woken, or given up.
struct Place<'a> {
    sleepers: &'a Sleepers,
    key: (Instant, u64),
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.sleepers.wakers.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    #[tokio::test]
    async fn sleepers_are_woken_in_order_and_none_early() {
        let run = async {
            let sleepers = Sleepers::new().unwrap();
            let begun = Instant::now();
            let woken: Rc<RefCell<Vec<u64>>> = Rc::default();
            // The later ones lie down first, so that each is sooner than all before; two are due at once.
            let sleeps = [9, 9, 7, 5, 3, 1, 0].map(|millis| {
                let (sleepers, woken) = (Rc::clone(&sleepers), Rc::clone(&woken));
                spawn_local(async move {
                    let deadline = begun + Duration::from_millis(millis);
                    sleepers.until(deadline).await;
                    assert!(Instant::now() >= deadline);
                    woken.borrow_mut().push(millis);
                })
            });
            for sleep in sleeps {
                sleep.await.unwrap();
            }
            assert_eq!(*woken.borrow(), [0, 1, 3, 5, 7, 9, 9]);
            assert!(sleepers.wakers.borrow().is_empty());
        };
        LocalSet::new().run_until(run).await;
    }

    #[tokio::test]
    async fn who_is_given_up_leaves_nothing_behind() {
        let run = async {
            let sleepers = Sleepers::new().unwrap();
            let hour = Instant::now() + Duration::from_secs(3600);
            for _ in 0..3 {
                let users = (0..10_000).map(|_| {
                    let sleepers = Rc::clone(&sleepers);
                    spawn_local(async move { sleepers.until(hour).await })
                });
                let users: Vec<_> = users.collect();
                while sleepers.wakers.borrow().len() < users.len() {
                    yield_now().await;
                }
                users.iter().for_each(tokio::task::JoinHandle::abort);
                while !sleepers.wakers.borrow().is_empty() {
                    yield_now().await;
                }
            }
            // Nor does the hour, which the timer was set to, keep anybody.
            let soon = Instant::now() + Duration::from_millis(2);
            sleepers.until(soon).await;
        };
        LocalSet::new().run_until(run).await;
    }
}
