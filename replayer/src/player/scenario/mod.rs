//! Load models: who sends which recorded requests, and when. k6's executors, with k6's names,
//! defaults and meaning, and `recorded`, which keeps the recorded instants.
//!
//! ```text
//! file or flags ──► Scenario ──► windows of each user   (closed: a user begins again when done)
//!                           └──► instants of arrivals   (open: an iteration begins when it is due)
//! archive ──► Sessions ── what an iteration sends
//! ```
//!
//! Everything here is pure: no clock, no thread, no file.

mod arrivals;
mod executor;
mod file;
mod key;
mod sessions;
mod users;

pub use executor::{Executor, Iteration, PerTime, Scenario, ScenarioError, Stage, Weight};
pub use file::{FileError, FileOptions};
pub use key::{ParseSessionKeyError, SessionKey};

pub(crate) use arrivals::Arrivals;
pub(crate) use key::{Detector, hash, value_of};
pub(crate) use sessions::{Member, Mix, Sessions, Step};
pub(crate) use users::{Window, windows};
