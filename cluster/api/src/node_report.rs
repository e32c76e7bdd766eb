//! `NodeReport`: what one daemon says it does. One object a node, written by nobody else.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the daemon of a node says that it does, sees, costs and cannot see.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "tapedeck.dev",
    version = "v1alpha1",
    kind = "NodeReport",
    plural = "nodereports",
    shortname = "tnr",
    category = "tapedeck",
    status = "NodeReportStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "What the daemon of a node says that it does, sees, costs and cannot see.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.facts.version"),
    printcolumn(name = "Backend", type_ = "string", json_path = ".status.facts.backend"),
    printcolumn(name = "CPU-m", type_ = "integer", json_path = ".status.cost.cpuMillis"),
    printcolumn(name = "Memory", type_ = "integer", json_path = ".status.cost.memoryBytes"),
    printcolumn(name = "Seen", type_ = "date", json_path = ".status.at"),
    validation = Rule::new("self.spec.node == self.metadata.name").message("a report has the name of its node")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a report stays with its node"))]
pub struct NodeReportSpec {
    /// The node.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
}

/// What a daemon says.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReportStatus {
    /// When this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// `Ready`: the daemon captures. `Full`: its disk has no room.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What the daemon and its kernel are.
    #[serde(default)]
    pub facts: NodeFacts,
    /// What the daemon takes.
    #[serde(default)]
    pub cost: Cost,
    /// What it cannot see, of any recording.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub cannot_see: Vec<Blindness>,
    /// The recordings, each by its uid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["uid"]))]
    pub recordings: Vec<NodeRecording>,
    /// The snapshots that it is asked for, each by its uid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["uid"]))]
    pub snapshots: Vec<NodeSnapshot>,
}

/// What a daemon and its kernel are.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeFacts {
    /// The version of the daemon.
    pub version: String,
    /// Which fields of the resources it knows: a daemon that is older than the resources leaves out
    /// recordings that ask for something newer, and says so.
    pub api_level: u32,
    /// `uname -r`.
    pub kernel: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// The way it captures: `ebpf`, `af-packet`, `libpcap`; empty: it cannot.
    pub backend: String,
    /// Whether the kernel has BTF.
    pub btf: bool,
    /// Whether the node has the unified cgroup hierarchy.
    pub cgroup2: bool,
    /// The capabilities it was started with.
    #[schemars(length(max = 64))]
    pub capabilities: Vec<String>,
    /// Whether its archives are encrypted: no snapshot can be cut out of them.
    pub encrypted: bool,
}

/// What a daemon takes, over the time since its last report.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cost {
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Resident memory.
    pub memory_bytes: u64,
    /// Archives on the node's disk.
    pub disk_bytes: u64,
    /// What is left of that disk.
    pub disk_free_bytes: u64,
}

/// Traffic that a daemon cannot see, or not as HTTP.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blindness {
    /// Why: `Encrypted`, `NoBpf`, `CgroupV1`, `HostNetwork`, `TooManyRecordings`, ...
    #[schemars(length(max = 63))]
    pub reason: String,
    /// What somebody can do about it, in words.
    #[schemars(length(max = 512))]
    pub message: String,
    /// Some of the pods that it is about, `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub pods: Vec<String>,
    /// How many connections were met.
    #[serde(default)]
    pub connections: u64,
}

/// What a node does about a recording.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecording {
    /// The recording.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The generation that this is about.
    pub observed_generation: i64,
    /// What the node does.
    pub state: NodeRecordingState,
    /// Why, when it does not record.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
    /// Pods that are recorded now.
    #[serde(default)]
    pub pods: u32,
    /// Exchanges seen since the daemon knows the recording.
    #[serde(default)]
    pub seen: u64,
    /// Exchanges that are in archives.
    #[serde(default)]
    pub archived: u64,
    /// Bytes of archives.
    #[serde(default)]
    pub bytes: u64,
    /// What was lost, by cause: the names of the ledger (docs/anomalies.md).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub lost: BTreeMap<String, u64>,
    /// What it cannot see of this recording.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub cannot_see: Vec<Blindness>,
}

/// What a node does about a recording. Trouble is less than what goes well, so that it comes first.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
pub enum NodeRecordingState {
    /// It cannot: the message says why.
    Refused = 0,
    /// It records the pods that the recording selects.
    Attached = 2,
    /// One of its limits was reached.
    Ended = 3,
    /// It is paused.
    Paused = 4,
    /// None of its pods is on this node.
    Waiting = 5,
    /// The node says nothing any more, or something that only a newer version knows.
    #[default]
    #[serde(other)]
    Unknown = 1,
}

/// What a node did for a snapshot.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSnapshot {
    /// The snapshot.
    pub uid: String,
    /// How far it is.
    pub state: NodeSnapshotState,
    /// Why it failed, or what it waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
    /// What it stored, so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub parts: Vec<NodePart>,
}

/// How far a node is with a snapshot.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum NodeSnapshotState {
    /// All its parts are stored; there may be none.
    Delivered,
    /// It could not, and does not try again.
    Failed,
    /// It is at work.
    #[default]
    Uploading,
    /// Something that a newer version knows. Nobody writes it.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// An archive that a node stored for a snapshot.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePart {
    /// Its key in the store.
    #[schemars(length(max = 1024))]
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// The BLAKE3 of its bytes, in hexadecimal.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub blake3: String,
    /// Exchanges in it.
    #[serde(default)]
    pub exchanges: u64,
}
