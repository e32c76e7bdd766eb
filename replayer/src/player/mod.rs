//! Sends recorded requests to a target: at the recorded instants, faster or slower, or as fast as
//! the target answers, and says what became of each.
//!
//! ```text
//! archive ──► schedule ──► worker ──► transport ──► target
//!             (when)       (clock)    (protocol)
//!                             └──► tally ──► report
//! ```
//!
//! - **Open loop** ([`Speed::Times`]): every request has an absolute due time, and the target's
//!   slowness never moves the next one. Latency is measured from the due time, so that a stall
//!   shows in every request that it held up. The player's own lateness is a measure of its own.
//! - **Closed loop** ([`Speed::Max`]): a fixed number of connections, each sending its next request
//!   when it has the answer to the last. A request is due when its connection is free.
//! - **Connections as recorded**, by default: each recorded connection has its own to the target.
//!   Over HTTP/1 a request that is due while its predecessor is still unanswered opens another one
//!   (what was pipelined is not pipelined again), so that arrivals stay open loop; over HTTP/2 it is
//!   another stream.
//! - **Recorded bytes**: see `request`. An HTTP/2 recording can be sent as HTTP/1 and the other
//!   way round.
//! - **Nothing disappears**: every exchange of the archive is sent, never sent, or left out, each
//!   with its reason; see [`Report`].
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use tapedeck_archive::Archive;
//! use tapedeck_replayer::player::{Options, StopFlag, run};
//!
//! let archive = Arc::new(Archive::open(Path::new("shop.tape"))?);
//! let options = Options {
//!     speed: "4x".parse()?,
//!     ..Options::new("http://staging:8080".parse()?)
//! };
//! let report = run(archive, &options, &StopFlag::new(), |_progress| {})?;
//! println!("{report}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod archive;
mod counted;
mod crew;
mod demand;
mod dry_run;
pub(crate) mod duration;
mod endpoints;
mod gate;
mod guard;
mod http2;
mod observe;
mod options;
mod outcome;
mod plan;
mod query;
mod reach;
mod report;
mod request;
mod resolve;
mod resources;
mod run;
mod scenario;
mod schedule;
mod seconds;
mod source;
mod stop;
mod summary;
mod tally;
mod target;
mod threshold;
mod timer;
mod tls;
mod transport;
mod watch;
mod windows;
mod worker;

pub use dry_run::{DryRun, DryScenario};
pub use endpoints::{ScenarioSignals, Signals};
pub use observe::{Observe, ParseObserveError, TargetSecond, TargetUse};
pub use options::{Limits, Options, Reuse};
pub use outcome::{Failure, FailureCounts, GrpcStatus, NeverSent, NeverSentCounts};
pub use query::{ParseQueryError, Query, QueryUse};
pub use report::{Report, ScenarioPlan, Vus};
pub use resolve::{ParseResolveError, Resolve};
pub use run::{Progress, RunError, dry_run, run};
pub use scenario::{
    Executor, FileError, FileOptions, Iteration, ParseSessionKeyError, PerTime, Scenario,
    ScenarioError, SessionKey, Stage, Weight,
};
pub use schedule::{Factor, LeftOut, LeftOutCounts, ParseSpeedError, Speed};
pub use seconds::{SecondLatency, SecondRow, SoFar};
pub use stop::{Stop, StopFlag};
pub use summary::{MergeError, SummaryError};
pub use tally::{Comparison, Tally, Trend, Trends};
pub use target::{
    ParseRouteError, ParseTargetError, Route, Target, TargetAddress, TargetFault, TargetProtocol,
};
pub use threshold::{ParseThresholdError, Threshold, Verdict, VerdictReason};
pub use tls::{Identity, TlsError, TlsOptions};
pub use watch::UnknownTag;

#[cfg(test)]
mod tests;
