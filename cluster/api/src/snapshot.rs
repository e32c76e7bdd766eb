//! `Snapshot`: recordings of a time, from all nodes, as one archive.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantities::Span;
use crate::recording::Destination;

/// Recordings of a time, from all nodes, as one archive. It is taken once.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "tapedeck.dev",
    version = "v1alpha1",
    kind = "Snapshot",
    plural = "snapshots",
    shortname = "tsnap",
    category = "tapedeck",
    namespaced,
    status = "SnapshotStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Recordings of a time, from all nodes, as one archive. It is taken once.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.completeness.nodes"),
    printcolumn(name = "Exchanges", type_ = "integer", json_path = ".status.location.exchanges"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.location.bytes"),
    printcolumn(name = "Complete", type_ = "string", json_path = ".status.conditions[?(@.type=='Complete')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("the name is at most 63 characters long")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf").message("a snapshot is taken once: make another one"),
    validation = Rule::new("!has(self.from) || !has(self.to) || self.from < self.to")
        .message("'from' lies before 'to'")
        .field_path(".from")
)]
pub struct SnapshotSpec {
    /// Recordings of the same namespace, by name.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub recordings: Vec<String>,
    /// Exchanges that began at this time or later. Unset: from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,
    /// Exchanges that began before this time. Unset: up to the making of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Time>,
    /// Only exchanges for which this holds: CEL, as of `tapedeck ls --filter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub filter: Option<String>,
    /// Where it goes. Unset: where the first of the recordings says, else the first of the installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
    /// How long is waited for nodes; then it is made of what there is, and says who is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// So long after it was there, or had failed, it is deleted, with what it stored. Unset: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
}

/// What became of a snapshot.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How far it is.
    #[serde(default)]
    pub phase: Phase,
    /// `Ready`: it can be pulled. `Complete`: no node is missing, and nothing was lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What the nodes are asked for, from `Collecting` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// Where it lies, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// What it is made of, and what is missing.
    #[serde(default)]
    pub completeness: Completeness,
    /// When it was there, or had failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// How far a snapshot is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Phase {
    /// Nobody looked at it yet.
    #[default]
    Pending,
    /// The nodes store their parts.
    Collecting,
    /// The controller puts them together.
    Merging,
    /// It can be pulled.
    Ready,
    /// It cannot be made: the conditions say why.
    Failed,
}

/// What the nodes are asked for: all exchanges of the recordings in the window, as archives at
/// `PREFIX/NODE/NUMBER.tape`. Nodes need not look at the filter.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// The recordings, by uid.
    #[schemars(length(max = 32))]
    pub recordings: Vec<String>,
    /// Exchanges that began at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,
    /// Exchanges that began before this time.
    pub to: Option<Time>,
    /// The store, by name.
    pub store: String,
    /// Where in it.
    pub prefix: String,
    /// The nodes that are waited for.
    #[schemars(length(max = 5000))]
    pub nodes: Vec<String>,
    /// Until when.
    pub deadline: Option<Time>,
}

/// Where a snapshot lies.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    /// The store, by name.
    pub store: String,
    /// The key in it.
    pub key: String,
    /// Its address, for people and other programs: `s3://BUCKET/KEY`, `file:///PATH`.
    pub url: String,
    /// Its length.
    pub bytes: u64,
    /// The BLAKE3 of its bytes, in hexadecimal.
    pub blake3: String,
    /// Exchanges in it.
    pub exchanges: u64,
}

/// What a snapshot is made of, and what is missing.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Completeness {
    /// `DELIVERED/ASKED`, for people.
    pub nodes: String,
    /// Nodes whose parts are in it, or that had none.
    pub nodes_delivered: u32,
    /// Nodes that were asked.
    pub nodes_asked: u32,
    /// Nodes that are missing, with the reason; at most 32.
    #[schemars(extend("maxProperties" = 32))]
    pub missing: BTreeMap<String, String>,
    /// Exchanges that are not whole.
    pub incomplete: u64,
    /// What was lost, by cause: the names of the ledger (docs/anomalies.md).
    pub lost: BTreeMap<String, u64>,
}
