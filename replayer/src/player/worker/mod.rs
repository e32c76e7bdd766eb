//! One sending thread: its parts of the scenarios, a transport and a stop, driven by the clock.
//!
//! In open loop the worker prepares requests ahead, waits for the due time of the next one, and
//! hands it to a task of its own: nothing that the target does can delay the one behind it. In
//! closed loop tasks, one for each user, go on whenever they have their answer.

mod ahead;
mod alarm;
mod attempt;
mod cap;
mod cast;
mod drive;
mod iteration;
mod open;
mod poller;
mod queue;
mod sleepers;

pub(crate) use ahead::Ahead;
pub(crate) use cap::Cap;
pub(crate) use cast::{Cast, Part, Work};
pub(crate) use drive::{Job, Live, run};
pub(crate) use queue::Queue;
