//! Whose connection it was.

/// What runs at one end of a connection, as far as its node could tell. Unknown is `None`, never a
/// guess.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Workload {
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// Kubernetes pod.
    pub pod: Option<String>,
    /// Container: its name where the node knows it, else its id.
    pub container: Option<String>,
    /// What owns the pod, as `kind/name`.
    pub owner: Option<String>,
    /// Name of the process, outside of Kubernetes.
    pub process: Option<String>,
    /// Its process id.
    pub pid: Option<u32>,
    /// Path of its control group, from the root of the hierarchy.
    pub cgroup: Option<String>,
}
