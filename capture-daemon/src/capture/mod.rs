//! Recording live traffic: opens the best source, and takes its packets through
//! [`tapedeck_exchange::Engine`] into an archive.

mod open;
mod options;
mod run;

pub use open::{OpenError, Opened, open};
pub use options::{Backend, Options};
pub use run::{Ended, Progress, RunError, Summary, Until, run};
