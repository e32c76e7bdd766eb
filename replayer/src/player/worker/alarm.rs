//! When requests are given up.
//!
//! A timer for each request is set and put back a hundred thousand times a second, and hardly ever goes off. Whoever
//! sends one request behind the other keeps one, and puts it off: for tokio that is a number that grows.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

/// What is so far away that no clock tells it is thirty years away, as with tokio.
pub(super) const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// That much later, as far as a clock can tell: a sum beyond that would be a panic.
pub(super) fn after(now: Instant, time: Duration) -> Instant {
    now + time.min(FAR)
}

/// A timer that is set again and again; none, before it is needed.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// What a future gives; `None` where that has not come by the deadline.
    pub(super) async fn within<F: Future>(
        &mut self,
        deadline: Instant,
        future: F,
    ) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut is_set = false;
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            let timer = match &mut self.0 {
                Some(timer) => {
                    if !is_set {
                        timer.as_mut().reset(deadline.into());
                    }
                    timer
                }
                none => none.insert(Box::pin(sleep_until(deadline.into()))),
            };
            is_set = true;
            timer.as_mut().poll(context).map(|()| None)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn what_takes_too_long_is_given_up_and_what_comes_behind_is_not() {
        let mut alarm = Alarm::default();
        let far = || Instant::now() + Duration::from_secs(3600);
        assert_eq!(alarm.within(far(), async { 1 }).await, Some(1));
        assert!(alarm.0.is_none(), "nothing was waited for");
        for n in 0..3 {
            let yields = async {
                yield_now().await;
                n
            };
            assert_eq!(alarm.within(far(), yields).await, Some(n));
            // Before the time that was set last, and behind it.
            let soon = Instant::now() + Duration::from_millis(10);
            assert_eq!(alarm.within(soon, pending::<()>()).await, None);
            assert!(Instant::now() >= soon);
        }
        // What is over already, and what is there although its time is.
        let now = Instant::now();
        assert_eq!(alarm.within(now, pending::<()>()).await, None);
        assert_eq!(alarm.within(now, async { 5 }).await, Some(5));
    }
}
