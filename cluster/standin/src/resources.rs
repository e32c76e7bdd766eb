//! What kinds of objects there are: those of Kubernetes that Tapedeck meets, and those that definitions
//! add.

use std::sync::Arc;

use serde_json::{Value, json};

/// A kind of objects.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) group: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) plural: Arc<str>,
    pub(crate) singular: String,
    pub(crate) kind: Arc<str>,
    pub(crate) namespaced: bool,
    pub(crate) short: Vec<String>,
    pub(crate) categories: Vec<String>,
    /// Its status is written by itself, and only so.
    pub(crate) status: bool,
    /// It was added by a definition: its schema.
    pub(crate) custom: Option<Arc<Value>>,
}

impl Resource {
    /// `recordings.tapedeck.dev`, `pods`: as errors name it.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// What discovery says of it.
    pub(crate) fn discovery(&self) -> Vec<Value> {
        let verbs = [
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch",
        ];
        let mut found = vec![json!({
            "name": *self.plural,
            "singularName": self.singular,
            "namespaced": self.namespaced,
            "kind": *self.kind,
            "verbs": verbs,
            "shortNames": self.short,
            "categories": self.categories,
        })];
        if self.status {
            found.push(json!({
                "name": format!("{}/status", self.plural),
                "singularName": "",
                "namespaced": self.namespaced,
                "kind": *self.kind,
                "verbs": ["get", "patch", "update"],
            }));
        }
        found
    }
}

const IN: bool = true;
const ALL: bool = false;
const STATUS: bool = true;
const PLAIN: bool = false;

/// Group, version, plural, kind, short name, whether it is in namespaces, whether it has a status of its own.
const BUILT_IN: &[(&str, &str, &str, &str, &str, bool, bool)] = &[
    ("", "v1", "configmaps", "ConfigMap", "cm", IN, PLAIN),
    ("", "v1", "endpoints", "Endpoints", "ep", IN, PLAIN),
    ("", "v1", "events", "Event", "ev", IN, PLAIN),
    ("", "v1", "namespaces", "Namespace", "ns", ALL, STATUS),
    ("", "v1", "nodes", "Node", "no", ALL, STATUS),
    (
        "",
        "v1",
        "persistentvolumeclaims",
        "PersistentVolumeClaim",
        "pvc",
        IN,
        STATUS,
    ),
    ("", "v1", "pods", "Pod", "po", IN, STATUS),
    ("", "v1", "secrets", "Secret", "", IN, PLAIN),
    (
        "",
        "v1",
        "serviceaccounts",
        "ServiceAccount",
        "sa",
        IN,
        PLAIN,
    ),
    ("", "v1", "services", "Service", "svc", IN, STATUS),
    (
        "admissionregistration.k8s.io",
        "v1",
        "validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        "",
        ALL,
        STATUS,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        "",
        ALL,
        PLAIN,
    ),
    (
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        "crd",
        ALL,
        STATUS,
    ),
    ("apps", "v1", "daemonsets", "DaemonSet", "ds", IN, STATUS),
    (
        "apps",
        "v1",
        "deployments",
        "Deployment",
        "deploy",
        IN,
        STATUS,
    ),
    ("apps", "v1", "replicasets", "ReplicaSet", "rs", IN, STATUS),
    (
        "apps",
        "v1",
        "statefulsets",
        "StatefulSet",
        "sts",
        IN,
        STATUS,
    ),
    (
        "autoscaling",
        "v2",
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        "hpa",
        IN,
        STATUS,
    ),
    ("batch", "v1", "cronjobs", "CronJob", "cj", IN, STATUS),
    ("batch", "v1", "jobs", "Job", "", IN, STATUS),
    (
        "coordination.k8s.io",
        "v1",
        "leases",
        "Lease",
        "",
        IN,
        PLAIN,
    ),
    (
        "discovery.k8s.io",
        "v1",
        "endpointslices",
        "EndpointSlice",
        "",
        IN,
        PLAIN,
    ),
    ("events.k8s.io", "v1", "events", "Event", "ev", IN, PLAIN),
    (
        "networking.k8s.io",
        "v1",
        "networkpolicies",
        "NetworkPolicy",
        "netpol",
        IN,
        PLAIN,
    ),
    (
        "policy",
        "v1",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        "pdb",
        IN,
        STATUS,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "clusterrolebindings",
        "ClusterRoleBinding",
        "",
        ALL,
        PLAIN,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "clusterroles",
        "ClusterRole",
        "",
        ALL,
        PLAIN,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "rolebindings",
        "RoleBinding",
        "",
        IN,
        PLAIN,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "roles",
        "Role",
        "",
        IN,
        PLAIN,
    ),
    (
        "scheduling.k8s.io",
        "v1",
        "priorityclasses",
        "PriorityClass",
        "pc",
        ALL,
        PLAIN,
    ),
    (
        "storage.k8s.io",
        "v1",
        "storageclasses",
        "StorageClass",
        "sc",
        ALL,
        PLAIN,
    ),
];

/// The kinds that are there from the beginning.
pub(crate) fn built_in() -> Vec<Resource> {
    BUILT_IN
        .iter()
        .map(
            |&(group, version, plural, kind, short, namespaced, status)| Resource {
                group: group.into(),
                version: version.into(),
                plural: plural.into(),
                singular: kind.to_ascii_lowercase(),
                kind: kind.into(),
                namespaced,
                short: Some(short)
                    .filter(|short| !short.is_empty())
                    .map(str::to_owned)
                    .into_iter()
                    .collect(),
                categories: Vec::new(),
                status,
                custom: None,
            },
        )
        .collect()
}

/// The kinds that a definition adds: one for each version that is served.
pub(crate) fn defined(crd: &Value) -> Vec<Resource> {
    let spec = &crd["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| -> Vec<String> {
        let values = value.as_array().map(Vec::as_slice).unwrap_or_default();
        values.iter().map(text).collect()
    };
    let names = &spec["names"];
    let versions = spec["versions"].as_array().cloned().unwrap_or_default();
    let served = versions
        .iter()
        .filter(|version| version["served"] == Value::Bool(true));
    served
        .map(|version| Resource {
            group: text(&spec["group"]).into(),
            version: text(&version["name"]).into(),
            plural: text(&names["plural"]).into(),
            singular: match names["singular"].as_str() {
                Some(singular) if !singular.is_empty() => singular.to_owned(),
                _ => text(&names["kind"]).to_ascii_lowercase(),
            },
            kind: text(&names["kind"]).into(),
            namespaced: spec["scope"] == "Namespaced",
            short: texts(&names["shortNames"]),
            categories: texts(&names["categories"]),
            status: version["subresources"]["status"].is_object(),
            custom: Some(Arc::new(version["schema"]["openAPIV3Schema"].clone())),
        })
        .collect()
}
