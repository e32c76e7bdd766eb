//! The moment at which all workers begin.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::player::resources::cpu_time;

/// Opens when everybody who was expected is ready, or has gone.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Debug)]
struct State {
    expected: u32,
    start: Option<Instant>,
    /// What the process had taken by then.
    cpu: Duration,
}

impl Gate {
    pub(crate) fn new(expected: u32) -> Self {
        Self {
            state: Mutex::new(State {
                expected,
                start: None,
                cpu: Duration::ZERO,
            }),
            opened: Condvar::new(),
        }
    }

    /// One of those expected. Dropped instead of used, it no longer keeps the others waiting.
    pub(crate) const fn pass(&self) -> Pass<'_> {
        Pass(self)
    }

    /// How long the gate has been open, and the processor time that went into it; nothing before.
    pub(crate) fn since(&self) -> (Duration, Duration) {
        let state = self.lock();
        state.start.map_or_else(Default::default, |start| {
            (start.elapsed(), cpu_time().saturating_sub(state.cpu))
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing that holds the lock can panic, so that the state is good in any case.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to go through a [`Gate`] once.
#[derive(Debug)]
pub(crate) struct Pass<'a>(&'a Gate);

impl Pass<'_> {
    /// Blocks until the gate opens; gives the moment at which it did.
    pub(crate) fn wait(self) -> Instant {
        let gate = self.0;
        drop(self);
        let mut state = gate.lock();
        loop {
            match state.start {
                Some(start) => return start,
                None => {
                    state = gate
                        .opened
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.expected = state.expected.saturating_sub(1);
        if state.expected == 0 {
            if state.start.is_none() {
                (state.start, state.cpu) = (Some(Instant::now()), cpu_time());
            }
            self.0.opened.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_begins_before_the_last_is_ready_or_gone() {
        let gate = Gate::new(3);
        let (a, b, gone) = (gate.pass(), gate.pass(), gate.pass());
        std::thread::scope(|scope| {
            let waiting = [a, b].map(|pass| scope.spawn(|| pass.wait()));
            assert_eq!(gate.since(), (Duration::ZERO, Duration::ZERO));
            let before = Instant::now();
            drop(gone);
            let starts = waiting.map(|thread| thread.join().unwrap());
            assert_eq!(starts[0], starts[1]);
            assert!(starts[0] >= before);
            assert!(gate.since().0 <= starts[0].elapsed());
        });
    }

    #[test]
    fn what_is_made_ready_is_no_part_of_the_run() {
        let gate = Gate::new(1);
        let pass = gate.pass();
        let ready = cpu_time();
        while cpu_time() - ready < Duration::from_millis(50) {}
        assert_eq!(gate.since(), (Duration::ZERO, Duration::ZERO));
        let made_ready = cpu_time();
        drop(pass);
        let (elapsed, cpu) = gate.since();
        // Other tests run in the same process, and take what they take.
        assert!(cpu <= cpu_time() - made_ready, "{cpu:?}");
        assert!(!elapsed.is_zero());
    }
}
