//! `Recording`: which workloads are recorded, how much of them, and for how long.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::node_report::NodeRecordingState;
use crate::quantities::{Size, Span};

/// Which workloads are recorded, how much of them, and for how long.
#[derive(Clone, CustomResource, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "tapedeck.dev",
    version = "v1alpha1",
    kind = "Recording",
    plural = "recordings",
    shortname = "rec",
    category = "tapedeck",
    namespaced,
    status = "RecordingStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Which workloads are recorded, how much of them, and for how long.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.totals.nodesAttached"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.totals.pods"),
    printcolumn(name = "Archived", type_ = "integer", json_path = ".status.totals.archived"),
    printcolumn(name = "Lost", type_ = "integer", json_path = ".status.totals.lostTotal"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.totals.bytes", priority = 1),
    printcolumn(name = "Paused", type_ = "boolean", json_path = ".spec.paused", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    // A label selects recordings by name, and a label's value has no room for more.
    validation = Rule::new("size(self.metadata.name) <= 63").message("the name is at most 63 characters long")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "!has(self.selector.namespaces) || size(self.selector.namespaces) <= 1 || !('*' in self.selector.namespaces)"
    ).message("'*' stands for all namespaces, and alone").field_path(".selector.namespaces")
)]
pub struct RecordingSpec {
    /// The pods that are recorded. What is left out restricts nothing; all that is said must hold.
    pub selector: Selector,
    /// Only connections with one of these TCP ports at the pod's end or the other. None: all ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 1)))]
    pub ports: Vec<u16>,
    /// Only exchanges with these paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Paths>,
    /// How many of a thousand connections are recorded, chosen by a hash: whole connections, always.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    #[schemars(range(min = 1, max = 1000))]
    pub sample_per_mille: u16,
    /// How much of an exchange is recorded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub payload: Payload,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What is kept on the nodes. Unset: what the daemon is configured to keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Where its snapshots go, unless they say it themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
    /// Nothing is recorded while this is true. What was, stays.
    #[serde(default)]
    pub paused: bool,
}

/// As the API server fills in what is left out: all pods of the namespace, all connections.
impl Default for RecordingSpec {
    fn default() -> Self {
        Self {
            selector: Selector::default(),
            ports: Vec::new(),
            paths: None,
            sample_per_mille: all(),
            payload: Payload::default(),
            limits: None,
            retention: None,
            destination: None,
            paused: false,
        }
    }
}

fn all() -> u16 {
    1000
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde calls"
)]
fn is_all(per_mille: &u16) -> bool {
    *per_mille == all()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Pods, by what is known of them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// The namespaces of the pods; `*` is all. None: the one of the recording. Other namespaces may be
    /// named only by recordings in Tapedeck's own namespace, so that who may record in one
    /// namespace does not record in another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
    /// Labels with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = { "type": "string", "maxLength": 63 }))]
    pub match_labels: BTreeMap<String, String>,
    /// What else holds of their labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<Expression>,
    /// Pods of one of these owners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub owners: Vec<Owner>,
    /// Only these containers of the pods. None: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub containers: Vec<String>,
}

/// Something that holds of the labels of a pod, as in the selectors of Kubernetes.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)"
).message("In and NotIn have values, Exists and DoesNotExist have none"))]
pub struct Expression {
    /// The name of the label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// What is asked of it.
    pub operator: Operator,
    /// The values, for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// What is asked of a label.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Operator {
    /// It is not there.
    DoesNotExist,
    /// It is there.
    Exists,
    /// It has one of the values.
    In,
    /// It has none of the values, or is not there.
    NotIn,
}

/// What pods belong to.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Its kind. Of a Deployment's pods this is the Deployment, not the ReplicaSet in between.
    pub kind: OwnerKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A kind of owner.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[expect(missing_docs, reason = "the kinds of Kubernetes")]
pub enum OwnerKind {
    CronJob,
    DaemonSet,
    Deployment,
    Job,
    ReplicaSet,
    StatefulSet,
}

/// Paths of requests, by what they begin with; the query is not looked at.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Paths {
    /// Only paths that begin with one of these. None: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 1024), regex(pattern = "^/")))]
    pub include: Vec<String>,
    /// No paths that begin with one of these: `/healthz`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 1024), regex(pattern = "^/")))]
    pub exclude: Vec<String>,
}

/// How much of an exchange is recorded.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Payload {
    /// Heads and bodies.
    #[default]
    Full,
    /// The first part of each packet only: heads are whole mostly, bodies are not.
    Headers,
}

/// When a recording ends by itself. It stays, and says that it has ended.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// So long after its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
    /// When a node has archived so much of it, it ends on that node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_node: Option<Size>,
}

/// What is kept on the nodes, the oldest going first; what is unset is as the daemon is configured. All recordings of a
/// node together keep no more than it is configured to.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Nothing older than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<Span>,
    /// No more than this on a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_node: Option<Size>,
}

/// Where snapshots go.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// One of the stores that Tapedeck was installed with, by name. Their addresses and credentials are in
    /// the installation, and in no resource.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub store: String,
}

/// What became of a recording.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordingStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: the spec makes sense. `Ready`: it is attached wherever it has pods. `Lossless`: nothing
    /// was lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Summed over all nodes.
    #[serde(default)]
    pub totals: Totals,
    /// The nodes, those with trouble first, then those with the most; at most 32. `NodeReport`s have all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["node"]))]
    pub nodes: Vec<NodeBrief>,
}

/// What a recording came to, over all nodes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Totals {
    /// Nodes whose daemon knows the recording as it is now.
    pub nodes_informed: u32,
    /// Nodes on which it has pods, and records them.
    pub nodes_attached: u32,
    /// Nodes that reported nothing for a while, or cannot do it.
    pub nodes_failing: u32,
    /// Pods that are recorded now.
    pub pods: u32,
    /// Exchanges seen.
    pub seen: u64,
    /// Exchanges that are in archives.
    pub archived: u64,
    /// Bytes of archives.
    pub bytes: u64,
    /// What was lost, by cause: the names of the ledger (docs/anomalies.md).
    pub lost: BTreeMap<String, u64>,
    /// The sum of `lost`.
    pub lost_total: u64,
}

/// What a recording came to on one node.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeBrief {
    /// The node.
    pub node: String,
    /// What its daemon does about the recording; `Unknown` when it is silent.
    pub state: NodeRecordingState,
    /// Why, when it is not attached.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Pods that are recorded now.
    #[serde(default)]
    pub pods: u32,
    /// Exchanges seen.
    #[serde(default)]
    pub seen: u64,
    /// Exchanges that are in archives.
    #[serde(default)]
    pub archived: u64,
    /// Bytes of archives.
    #[serde(default)]
    pub bytes: u64,
    /// The sum of what was lost.
    #[serde(default)]
    pub lost: u64,
    /// When the node said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}
