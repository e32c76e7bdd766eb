//! Looking for answers instead of sleeping until there is one.
//!
//! Who sleeps must be woken: on a virtual machine that costs the target's core some microseconds for each answer, and
//! as much again passes until the next request is on its way. In a flood, where the next answer is nearer than that,
//! a worker does not sleep: it looks again and again, and lets others have the core in between. Where answers come
//! less often it sleeps, as programs do.
//!
//! Who looks too often finds answers one by one. HTTP/2 has many in flight on a connection: read together they cost
//! one system call, and so do the requests behind them, here and at the target. So a worker lets answers gather, for a
//! small share of the latency that they have anyhow: of the shortest, so that whoever is answered soon among many that
//! are not is looked for soon.

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
    /// The shortest latency since it looked last.
    shortest: Cell<Option<Duration>>,
}

impl Poller {
    /// How long it looks in vain before it sleeps; a few times what waking costs.
    const LOOK: Duration = Duration::from_micros(50);
    /// It was worth looking where it found something so often.
    const ENOUGH: u32 = 4;
    /// Looking in vain costs that many answers hardly anything.
    const LONGEST_REST: u32 = 1024;
    /// It lets answers gather for this part of the shortest latency that it found last.
    const SHARE: u32 = 64;
    /// However long latencies are: the most that it adds to that of an answer which comes sooner than those before.
    const LONGEST_PAUSE: Duration = Duration::from_micros(200);

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

    /// A request was answered so long after it was sent.
    pub(super) fn took(&self, latency: Duration) {
        let shortest = self.shortest.get().map_or(latency, |it| it.min(latency));
        self.shortest.set(Some(shortest));
    }

    /// Time spent looking in vain.
    pub(super) const fn in_vain(&self) -> Duration {
        self.in_vain.get()
    }

    /// Keeps the worker from sleeping while answers come in quick succession. `moved` counts what came and went: bytes.
    /// `gathers` lets it wait for more answers than one. Never returns.
    pub(super) async fn run(&self, moved: impl Fn() -> u64, gathers: bool) {
        let mut rest = 1;
        loop {
            rest = match self.look(&moved, gathers).await {
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
    async fn look(&self, moved: &impl Fn() -> u64, gathers: bool) -> u32 {
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
                if gathers && let Some(shortest) = self.shortest.take() {
                    self.pause(now, shortest / Self::SHARE);
                    // The pause is counted.
                    before = Instant::now();
                    continue;
                }
            }
            before = now;
        }
    }

    /// Lets answers gather, and others have the core.
    fn pause(&self, now: Instant, pause: Duration) {
        let pause = pause.min(Self::LONGEST_PAUSE);
        while now.elapsed() < pause {
            std::thread::yield_now();
        }
        self.in_vain.set(self.in_vain.get() + pause);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    #[test]
    fn a_pause_is_short_and_counts_as_looking_in_vain() {
        let poller = Poller::default();
        let begun = Instant::now();
        poller.pause(begun, Duration::from_secs(3600));
        let took = begun.elapsed();
        assert!(took >= Poller::LONGEST_PAUSE && took < Duration::from_secs(60));
        assert_eq!(poller.in_vain(), Poller::LONGEST_PAUSE);
    }

    /// How long it lets answers gather in twenty looks, each of which finds answers of these latencies.
    async fn gathers(gathers: bool, latencies: &[Duration]) -> Duration {
        let poller = Rc::new(Poller::default());
        let moved = Rc::new(Cell::new(0));
        let (its_own, bytes) = (Rc::clone(&poller), Rc::clone(&moved));
        let run = async {
            spawn_local(async move { its_own.run(move || bytes.get(), gathers).await });
            // It begins to look.
            yield_now().await;
            for _ in 0..20 {
                for latency in latencies {
                    poller.took(*latency);
                    poller.answered();
                }
                moved.set(moved.get() + 1);
                yield_now().await;
            }
        };
        LocalSet::new().run_until(run).await;
        poller.in_vain()
    }

    #[tokio::test]
    async fn slow_answers_gather_and_one_that_is_quick_is_not_kept_waiting() {
        let (slow, quick) = (Duration::from_secs(1), Duration::from_micros(64));
        assert_eq!(
            gathers(true, &[slow, slow]).await,
            20 * Poller::LONGEST_PAUSE
        );
        assert_eq!(
            gathers(true, &[slow, quick, slow]).await,
            Duration::from_micros(20)
        );
        assert_eq!(gathers(false, &[slow, slow]).await, Duration::ZERO);
    }

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
                spawn_local(async move { its_own.run(move || bytes.get(), true).await });
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
