//! The moment at which all workers begin.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

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
}

impl Gate {
    pub(crate) fn new(expected: u32) -> Self {
        Self {
            state: Mutex::new(State {
                expected,
                start: None,
            }),
            opened: Condvar::new(),
        }
    }

    /// One of those expected. Dropped instead of used, it no longer keeps the others waiting.
    pub(crate) const fn pass(&self) -> Pass<'_> {
        Pass(self)
    }

    /// When the gate opened; `None` before.
    pub(crate) fn start(&self) -> Option<Instant> {
        self.lock().start
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
            state.start.get_or_insert_with(Instant::now);
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
            assert_eq!(gate.start(), None);
            let before = Instant::now();
            drop(gone);
            let starts = waiting.map(|thread| thread.join().unwrap());
            assert_eq!(starts[0], starts[1]);
            assert!(starts[0] >= before);
            assert_eq!(gate.start(), Some(starts[0]));
        });
    }
}
