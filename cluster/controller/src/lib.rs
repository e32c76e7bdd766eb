//! The controller of a cluster: it sums up what the nodes report into the status of recordings, and makes snapshots of
//! what they stored. ADR 9 has the design.
//!
//! [`recordings`] and [`snapshots`] decide, purely; [`run`](run()) watches, writes, and lets only one of several
//! controllers act. It speaks to the API server and the stores, and to no node.

#![forbid(unsafe_code)]

mod assemble;
mod forbidden;
mod http;
mod leader;
mod metrics;
pub mod recordings;
mod run;
pub mod snapshots;
mod snapshots_at_work;
mod tls;
mod watches;
pub mod world;

pub use assemble::{AssembleError, Job, assemble};
pub use forbidden::missing_rule;
pub use leader::{LEASE, Timing};
pub use run::{Settings, run};
pub use tls::Certificate;
