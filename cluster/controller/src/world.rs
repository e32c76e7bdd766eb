//! What the controller knows: the resources, as the API server last said.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tapedeck_cluster::{NodePart, NodeReport, Recording, SILENT_AFTER_SECONDS, Snapshot};

/// Where an object of a namespace is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Place {
    /// Of an object.
    pub fn of(object: &impl kube::ResourceExt) -> Self {
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// All resources.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Tapedeck's own namespace, whose recordings may select pods anywhere.
    pub own_namespace: String,
    /// The stores of the installation, by name; the first is the default.
    pub stores: Vec<String>,
    /// The recordings.
    pub recordings: BTreeMap<Place, Recording>,
    /// The snapshots.
    pub snapshots: BTreeMap<Place, Snapshot>,
    /// What the nodes report, by node.
    pub reports: BTreeMap<String, NodeReport>,
    /// Recordings that this controller does not understand, and why.
    pub unread_recordings: BTreeMap<Place, String>,
    /// Nodes whose report this controller does not understand, and why: a newer daemon wrote it.
    pub unread: BTreeMap<String, String>,
    /// The parts of snapshots that are put together, by the uid of the snapshot: nodes forget them once the
    /// phase says that they are taken.
    pub parts: BTreeMap<String, Vec<Part>>,
}

/// A part of a snapshot, and whose.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The node.
    pub node: String,
    /// What it stored.
    pub part: NodePart,
}

/// What is said of a node whose report is not understood.
pub(crate) fn unread(why: &str) -> String {
    format!(
        "its report is not understood by the controller {}, which may be older than the daemon: {why}",
        env!("CARGO_PKG_VERSION")
    )
}

/// How many seconds passed between two times.
pub(crate) fn seconds_between(earlier: &Time, later: &Time) -> i64 {
    later.0.as_second().saturating_sub(earlier.0.as_second())
}

/// Since when a node said nothing, if that is too long ago.
pub(crate) fn silent_since<'a>(report: &'a NodeReport, now: &Time) -> Option<&'a Time> {
    // One that has no status yet was made just now, or its daemon never came to write one.
    let at = report
        .status
        .as_ref()
        .and_then(|status| status.at.as_ref())
        .or(report.metadata.creation_timestamp.as_ref())?;
    (seconds_between(at, now) > SILENT_AFTER_SECONDS).then_some(at)
}
