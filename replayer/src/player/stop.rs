//! How a run is told to end early.

use std::sync::Arc;

use tokio::sync::watch;

/// Ends a run early. Clones share one state; a signal handler may hold one.
#[derive(Clone, Debug)]
pub struct StopFlag {
    state: Arc<watch::Sender<Stop>>,
}

impl StopFlag {
    /// A flag that is down.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(Stop::Run)),
        }
    }

    /// The first call stops the sending and lets what is in flight finish within the longest
    /// [`graceful_stop`](crate::player::Scenario::graceful_stop);
    /// the second gives up what is in flight.
    pub fn stop(&self) {
        self.state.send_modify(|state| {
            *state = match state {
                Stop::Run => Stop::Finish,
                Stop::Finish | Stop::Now => Stop::Now,
            };
        });
    }

    /// What was asked for.
    #[must_use]
    pub fn state(&self) -> Stop {
        *self.state.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Stop> {
        self.state.subscribe()
    }
}

impl Default for StopFlag {
    fn default() -> Self {
        Self::new()
    }
}

/// How urgently a run is to end.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Stop {
    /// Not at all.
    Run,
    /// Send nothing more, await what is in flight.
    Finish,
    /// At once.
    Now,
}
