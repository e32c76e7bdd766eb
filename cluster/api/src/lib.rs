//! Tapedeck on a cluster, as data: the resources, and what follows from them.
//!
//! [`Recording`] and [`Snapshot`] say what somebody wants; a [`NodeReport`] is what one node says it
//! does. A node has a
//! resource of its own, so that 500 of them do not write one object, nor get each other's writes. Nothing here speaks to
//! an API server.

#![forbid(unsafe_code)]

pub mod conditions;
mod crds;
#[expect(
    unreachable_pub,
    reason = "kube's derive copies types with rules into the body of a function"
)]
mod node_report;
mod quantities;
#[expect(
    unreachable_pub,
    reason = "kube's derive copies types with rules into the body of a function"
)]
mod recording;
#[expect(
    unreachable_pub,
    reason = "kube's derive copies types with rules into the body of a function"
)]
mod snapshot;
mod writing;

pub use crds::crds;
pub use node_report::{
    Blindness, Cost, NodeFacts, NodePart, NodeRecording, NodeRecordingState, NodeReport,
    NodeReportSpec, NodeReportStatus, NodeSnapshot, NodeSnapshotState,
};
pub use quantities::{ParseQuantityError, Size, Span};
pub use recording::{
    Destination, Expression, Limits, NodeBrief, Operator, Owner, OwnerKind, Paths, Payload,
    Recording, RecordingSpec, RecordingStatus, Retention, Selector, Totals,
};
pub use snapshot::{Completeness, Location, Order, Phase, Snapshot, SnapshotSpec, SnapshotStatus};
pub use writing::{RequestError, replaced_status};

/// The group of the resources.
pub const GROUP: &str = "tapedeck.dev";

/// Their version.
pub const VERSION: &str = "v1alpha1";

/// The finalizer of snapshots: what they stored is removed first.
pub const FINALIZER: &str = "tapedeck.dev/stored";

/// How many nodes the status of a recording lists, those with trouble first; the totals count all.
/// Every daemon gets every change of it, so that its size times the nodes is traffic: 32 entries are
/// about 5 KiB.
pub const MAX_NODES_LISTED: usize = 32;

/// How many recordings a node takes at a time. A node's report has an entry for each, and the kernel
/// side has room for 64 rules.
pub const MAX_RECORDINGS: usize = 64;

/// How often a node writes its report when only counters changed. What changes of a state is
/// written at once.
pub const REPORT_EVERY_SECONDS: u64 = 30;

/// After this long without a report a node is said to be silent: three reports, and some.
pub const SILENT_AFTER_SECONDS: i64 = 100;
