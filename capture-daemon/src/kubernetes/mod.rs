//! On a node of a cluster: recordings that are resources, and what becomes of them here.
//!
//! ```text
//!   API server ─► watch ─► World ─► policy ─► the kernel
//!                            │ ▲
//!   engines ─► Router ◄──────┘ │ counts        Orders ─► store
//!                └─► archives  └─► Reporter ─► NodeReport
//! ```
//!
//! [`facts`], [`selection`] and [`plan`] are pure. [`World`] is what is known, and stays when the API
//! server is away. One thread with a runtime of its own speaks to the API server and the stores; it is started
//! after the privileges were given up. No other node is spoken to: everything goes through the resources
//! (ADR 9).

mod cluster;
pub mod facts;
pub mod orders;
pub mod plan;
pub mod quarantine;
pub mod report;
pub mod router;
pub mod selection;
pub mod shelf;
mod watch;
mod world;

pub use cluster::{Cluster, ClusterError};
pub use world::{QuarantineCounts, RecordingNow, Tally, Verdict, World};
