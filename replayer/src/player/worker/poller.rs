//! Looking for answers instead of sleeping until there is one.
//!
//! Who sleeps must be woken: on a virtual machine that costs the target's core some microseconds for each answer, and
//! as much again passes until the next request is on its way. In a flood, where the next answer is nearer than that,
//! a worker does not sleep: it looks again and again, and lets others have the core in between. Where answers come
//! less often it sleeps, as programs do.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// Whether to look for answers or to sleep, of one worker.
#[derive(Debug, Default)]
pub(super) struct Poller {
    /// It looks again when so many more were answered.
    rests: Cell<u32>,
    waker: RefCell<Option<Waker>>,
    in_vain: Cell<Duration>,
}

impl Poller {
    /// How long it looks in vain before it sleeps; a few times what waking costs.
    const LOOK: Duration = Duration::from_micros(50);
    /// It was worth looking where it found something so often.
    const ENOUGH: u32 = 4;
    /// Looking in vain costs that many answers hardly anything.
    const LONGEST_REST: u32 = 1024;

    /// Something was answered.
    pub(super) fn answered(&self) {
        let rests = self.rests.get();
        self.rests.set(rests.saturating_sub(1));
        if rests == 1
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// Time spent looking in vain.
    pub(super) const fn in_vain(&self) -> Duration {
        self.in_vain.get()
    }

    /// Keeps the worker from sleeping while answers come in quick succession. `moved` counts what came and went: bytes.
    /// Never returns.
    pub(super) async fn run(&self, moved: impl Fn() -> u64) {
        let mut rest = 1;
        loop {
            rest = match self.look(&moved).await {
                Self::ENOUGH.. => 1,
                _ => Self::LONGEST_REST.min(rest * 2),
            };
            self.rests.set(rest);
            poll_fn(|context| {
                if self.rests.get() == 0 {
                    return Poll::Ready(());
                }
                self.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            })
            .await;
        }
    }

    /// Looks until nothing has come for a while; gives how often it found something.
    async fn look(&self, moved: &impl Fn() -> u64) -> u32 {
        let mut before = Instant::now();
        let (mut last, mut seen) = (before, moved());
        let mut found = 0_u32;
        let mut is_idle = false;
        loop {
            if is_idle {
                // Another program may want this core: the target, for one.
                std::thread::yield_now();
            }
            // The runtime looks at all sockets before it comes back.
            tokio::task::yield_now().await;
            let now = Instant::now();
            let moved = moved();
            is_idle = moved == seen;
            if is_idle {
                // Where another program had the core, that took no time of this one.
                let took = now.duration_since(before).min(Self::LOOK);
                self.in_vain.set(self.in_vain.get() + took);
                if now.duration_since(last) > Self::LOOK {
                    return found;
                }
            } else {
                (seen, last) = (moved, now);
                found = found.saturating_add(1);
            }
            before = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    #[tokio::test]
    async fn it_rests_for_longer_and_longer_where_nothing_comes_and_not_in_a_flood() {
        let poller = Rc::new(Poller::default());
        let moved = Rc::new(Cell::new(0));
        let (its_own, bytes) = (Rc::clone(&poller), Rc::clone(&moved));
        let rested = async || {
            while poller.waker.borrow().is_none() {
                yield_now().await;
            }
            poller.rests.get()
        };
        let tasks = LocalSet::new();
        tasks
            .run_until(async {
                spawn_local(async move { its_own.run(move || bytes.get()).await });
                for rest in [2, 4, 8] {
                    let in_vain = poller.in_vain();
                    assert_eq!(rested().await, rest);
                    assert!(poller.in_vain() > in_vain);
                    for _ in 1..rest {
                        poller.answered();
                        assert!(poller.waker.borrow().is_some());
                    }
                    poller.answered();
                    assert!(poller.waker.borrow().is_none());
                }
                // It looks now. However slow this machine is, something has come whenever it does.
                for _ in 0..100 {
                    moved.set(moved.get() + 1);
                    yield_now().await;
                }
                assert_eq!(rested().await, 1);
            })
            .await;
    }
}
