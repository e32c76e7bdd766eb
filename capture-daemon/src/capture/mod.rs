//! Recording live traffic: opens the best source, and takes its packets through
//! [`tapedeck_exchange::Engine`]s into an archive.

mod diagnosis;
mod ends;
mod key_log;
mod open;
mod open_segment;
mod options;
mod output;
mod privileges;
mod run;
mod session;

pub use crate::sys::on_stop;
pub use diagnosis::{Diagnosis, Machine, Need, Prognosis, Sight, diagnose};
pub use ends::End;
pub use open::{OpenError, Opened, check, open};
pub(crate) use open_segment::OpenSegment;
pub use options::{Backend, Options};
pub use output::{Begin, Outlet, Sealed, Stats};
pub use privileges::{PrivilegeError, give_up_privileges};
pub use run::{Ended, Progress, RunError, Summary, Until, run};
pub use session::{
    Attribution, FinishError, Finished, IsOwn, NICE, Session, Setup, Snapshot, step_back,
};
