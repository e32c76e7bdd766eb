//! What a recording asks for, and what of that fits. Pure: no clock, no server.

use std::net::IpAddr;

use serde_json::Value;
use tapedeck_cluster::{Expression, Operator, Payload, Recording, RecordingSpec, Selector};
use tapedeck_ebpf_abi::flow_hash;
use tapedeck_model::{Connection, Endpoint};

use super::facts::PodFacts;

/// A recording, as this daemon understands it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The generation of what it asks for.
    pub generation: i64,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// What it asks for.
    pub spec: RecordingSpec,
    /// Why this daemon cannot do it.
    pub refused: Option<String>,
}

impl Wanted {
    /// A recording of the API server. `own`: Tapedeck's own namespace. `None` where it has no uid.
    #[must_use]
    pub fn of(value: &Value, own: &str) -> Option<Self> {
        let metadata = value.get("metadata")?;
        let text = |name: &str| metadata.get(name)?.as_str().map(str::to_owned);
        let created = text("creationTimestamp").and_then(|at| at.parse::<jiff::Timestamp>().ok());
        let mut wanted = Self {
            uid: text("uid")?,
            namespace: text("namespace").unwrap_or_default(),
            name: text("name").unwrap_or_default(),
            generation: metadata
                .get("generation")
                .and_then(Value::as_i64)
                .unwrap_or(0),
            created: created.map_or(0, jiff::Timestamp::as_second),
            spec: RecordingSpec::default(),
            refused: None,
        };
        match serde_json::from_value::<Recording>(value.clone()) {
            Ok(recording) => {
                wanted.refused = unknown(value, &recording)
                    .map(|field| {
                        format!(
                            "it asks for `{field}`, which this version of the daemon \
                             ({}) does not know: update the daemons",
                            env!("CARGO_PKG_VERSION")
                        )
                    })
                    .or_else(|| beyond(&recording.spec.selector, &wanted.namespace, own));
                wanted.spec = recording.spec;
            }
            Err(error) => {
                wanted.refused = Some(format!(
                    "this version of the daemon ({}) cannot read it: {error}: update the daemons or \
                     the definitions of the resources",
                    env!("CARGO_PKG_VERSION")
                ));
            }
        }
        Some(wanted)
    }

    /// Whether it selects that pod.
    #[must_use]
    pub fn selects(&self, pod: &PodFacts) -> bool {
        let selector = &self.spec.selector;
        let is_in_namespace = if selector.namespaces.is_empty() {
            pod.namespace == self.namespace
        } else {
            let mut named = selector.namespaces.iter();
            named.any(|name| name == "*" || *name == pod.namespace)
        };
        let mut labels = selector.match_labels.iter();
        is_in_namespace
            && labels.all(|(name, value)| pod.labels.get(name) == Some(value))
            && selector.match_expressions.iter().all(|of| holds(of, pod))
            && (selector.owners.is_empty()
                || selector.owners.iter().any(|owner| {
                    let mut of_pod = pod.owners.iter();
                    of_pod.any(|(kind, name)| *kind == owner.kind && *name == owner.name)
                }))
    }

    /// Whether it asks for that container of a pod that it selects; `None`: nobody knows which it is.
    #[must_use]
    pub fn takes_container(&self, name: Option<&str>) -> bool {
        let containers = &self.spec.selector.containers;
        containers.is_empty() || name.is_some_and(|name| containers.iter().any(|of| of == name))
    }

    /// Whether it asks for that connection, by ports and share.
    #[must_use]
    pub fn takes_connection(&self, connection: &Connection) -> bool {
        let ports = &self.spec.ports;
        let (client, server) = (connection.client, connection.server);
        let is_port =
            ports.is_empty() || ports.contains(&client.port) || ports.contains(&server.port);
        is_port && hash(client, server) <= threshold(self.sample())
    }

    /// Whether it asks for a request of that target; `None`: the request was not seen.
    #[must_use]
    pub fn takes_target(&self, target: Option<&[u8]>) -> bool {
        let Some(paths) = &self.spec.paths else {
            return true;
        };
        let Some(path) = target.map(path) else {
            return paths.include.is_empty();
        };
        let begins = |prefix: &String| path.starts_with(prefix.as_bytes());
        (paths.include.is_empty() || paths.include.iter().any(begins))
            && !paths.exclude.iter().any(begins)
    }

    /// The share of connections that it asks for.
    #[must_use]
    pub fn sample(&self) -> f64 {
        f64::from(self.spec.sample_per_mille.min(1000)) / 1000.0
    }

    /// Whether it asks for heads only.
    #[must_use]
    pub fn is_heads_only(&self) -> bool {
        self.spec.payload == Payload::Headers
    }
}

fn holds(expression: &Expression, pod: &PodFacts) -> bool {
    let value = pod.labels.get(&expression.key);
    let is_one = value.is_some_and(|value| expression.values.contains(value));
    match expression.operator {
        Operator::DoesNotExist => value.is_none(),
        Operator::Exists => value.is_some(),
        Operator::In => is_one,
        Operator::NotIn => !is_one,
    }
}

/// A namespace that the recording may not name.
fn beyond(selector: &Selector, namespace: &str, own: &str) -> Option<String> {
    if namespace == own {
        return None;
    }
    let other = selector.namespaces.iter().find(|name| *name != namespace)?;
    Some(format!(
        "it names the namespace `{other}`: only recordings in Tapedeck's own namespace ({own}) select \
         pods of others"
    ))
}

/// A field of the spec that did not survive being read: this daemon does not know it.
fn unknown(value: &Value, read: &Recording) -> Option<String> {
    let spec = value.get("spec")?;
    let known = serde_json::to_value(&read.spec).ok()?;
    missing(spec, &known, "spec")
}

fn missing(given: &Value, known: &Value, path: &str) -> Option<String> {
    match (given, known) {
        (Value::Object(given), known) => given.iter().find_map(|(name, value)| {
            let path = format!("{path}.{name}");
            match known.get(name) {
                Some(known) => missing(value, known, &path),
                // What is at its default is left out when it is written.
                None if is_default(value, name) => None,
                None => Some(path),
            }
        }),
        (Value::Array(given), Value::Array(known)) => given
            .iter()
            .zip(known)
            .find_map(|(given, known)| missing(given, known, path)),
        _ => None,
    }
}

fn is_default(value: &Value, name: &str) -> bool {
    let empty = match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty(),
        _ => false,
    };
    let defaults = [
        ("samplePerMille", Value::from(1000)),
        ("payload", Value::from("Full")),
        ("paused", Value::from(false)),
    ];
    empty
        || defaults
            .iter()
            .any(|(of, default)| *of == name && default == value)
}

/// The path of a request's target: without the query, and without scheme and authority.
fn path(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|byte| *byte == b'?');
    let target = target.get(..end.unwrap_or(target.len())).unwrap_or(target);
    if target.starts_with(b"/") {
        return target;
    }
    // An absolute form (RFC 9112, 3.2.2), as proxies get it.
    let mut slashes = target.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let third = slashes.nth(2).map_or(target.len(), |(at, _)| at);
    target.get(third..).unwrap_or_default()
}

/// The hash of a connection, the same as the kernel's: whoever looks chooses the same connections.
fn hash(a: Endpoint, b: Endpoint) -> u32 {
    flow_hash(words(a.ip), words(b.ip), (a.port, b.port)) as u32
}

/// As the kernel programs read them from a packet.
fn words(ip: IpAddr) -> [u32; 4] {
    match ip {
        IpAddr::V4(ip) => [0, 0, 0, u32::from_ne_bytes(ip.octets())],
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
                if let Ok(bytes) = bytes.try_into() {
                    *word = u32::from_ne_bytes(bytes);
                }
            }
            words
        }
    }
}

/// Connections whose hash is above this are left out; as the rules of the kernel have it.
fn threshold(sample: f64) -> u32 {
    if sample >= 1.0 {
        u32::MAX
    } else {
        (sample * f64::from(u32::MAX)) as u32
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tapedeck_model::{ConnectionId, Origin, Scope, Timestamp, Workloads};

    use super::*;

    fn wanted(namespace: &str, spec: Value) -> Wanted {
        let value = json!({
            "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Recording",
            "metadata": {
                "uid": "r", "name": "a", "namespace": namespace, "generation": 3,
                "creationTimestamp": "2026-11-21T16:00:00Z",
            },
            "spec": spec,
        });
        Wanted::of(&value, "tapedeck-system").unwrap()
    }

    fn pod(namespace: &str, labels: &[(&str, &str)]) -> PodFacts {
        PodFacts {
            namespace: namespace.to_owned(),
            labels: labels
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            owners: vec![
                (tapedeck_cluster::OwnerKind::ReplicaSet, "cart-1".to_owned()),
                (tapedeck_cluster::OwnerKind::Deployment, "cart".to_owned()),
            ],
            ..PodFacts::default()
        }
    }

    #[test]
    fn selectors_mean_what_those_of_kubernetes_mean() {
        let cart = pod("shop", &[("app", "cart"), ("tier", "web")]);
        let expression = |operator: &str, key: &str, values: &[&str]| json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] });
        for (selector, expect) in [
            (json!({}), true),
            (json!({ "namespaces": ["shop"] }), true),
            (json!({ "matchLabels": { "app": "cart" } }), true),
            (
                json!({ "matchLabels": { "app": "cart", "tier": "db" } }),
                false,
            ),
            (json!({ "matchLabels": { "none": "" } }), false),
            (expression("In", "app", &["bank", "cart"]), true),
            (expression("In", "none", &["bank"]), false),
            (expression("NotIn", "app", &["bank"]), true),
            (expression("NotIn", "app", &["cart"]), false),
            (expression("NotIn", "none", &["cart"]), true),
            (expression("Exists", "app", &[]), true),
            (expression("Exists", "none", &[]), false),
            (expression("DoesNotExist", "app", &[]), false),
            (expression("DoesNotExist", "none", &[]), true),
            (
                json!({ "owners": [{ "kind": "Deployment", "name": "cart" }] }),
                true,
            ),
            (
                json!({ "owners": [{ "kind": "ReplicaSet", "name": "cart-1" }] }),
                true,
            ),
            (
                json!({ "owners": [{ "kind": "Deployment", "name": "cart-1" }] }),
                false,
            ),
            (
                json!({ "owners": [{ "kind": "Job", "name": "x" }, { "kind": "Deployment", "name": "cart" }] }),
                true,
            ),
        ] {
            let wanted = wanted("shop", json!({ "selector": selector }));
            assert_eq!(wanted.refused, None, "{selector}");
            assert_eq!(wanted.selects(&cart), expect, "{selector}");
            assert!(
                !wanted.selects(&pod("other", &[("app", "cart")])),
                "{selector}"
            );
        }
    }

    #[test]
    fn other_namespaces_are_for_those_who_may_install() {
        let all = json!({ "selector": { "namespaces": ["*"] } });
        let system = wanted("tapedeck-system", all.clone());
        assert_eq!(system.refused, None);
        assert!(system.selects(&pod("shop", &[])) && system.selects(&pod("bank", &[])));
        let two = json!({ "selector": { "namespaces": ["shop", "bank"] } });
        assert!(!wanted("tapedeck-system", two.clone()).selects(&pod("mail", &[])));
        for spec in [all, two] {
            let refused = wanted("shop", spec).refused.unwrap();
            assert!(
                refused.contains("Tapedeck's own namespace (tapedeck-system)"),
                "{refused}"
            );
        }
    }

    #[test]
    fn what_a_newer_resource_asks_for_is_refused_and_not_forgotten() {
        for (spec, said) in [
            (json!({ "selector": {}, "redact": ["x"] }), "`spec.redact`"),
            (
                json!({ "selector": { "images": ["nginx"] } }),
                "`spec.selector.images`",
            ),
            (
                json!({ "selector": {}, "payload": "Sizes" }),
                "cannot read it",
            ),
            (
                json!({ "selector": { "matchExpressions": [{ "key": "a", "operator": "Gt" }] } }),
                "cannot read it",
            ),
            (json!({}), "cannot read it"),
        ] {
            let refused = wanted("shop", spec).refused.unwrap();
            assert!(
                refused.contains(said) && refused.contains("update"),
                "{refused}"
            );
        }
        // Everything that is known, at its default and not.
        let whole = json!({
            "selector": {
                "namespaces": [], "matchLabels": {}, "matchExpressions": [], "owners": [],
                "containers": [],
            },
            "ports": [], "paths": { "include": [], "exclude": ["/healthz"] },
            "samplePerMille": 1000, "payload": "Full", "paused": false,
            "limits": { "duration": "1h", "bytesPerNode": "1024Mi" },
            "retention": { "age": "60m" }, "destination": { "store": "default" },
        });
        assert_eq!(wanted("shop", whole).refused, None);
    }

    #[test]
    fn paths_are_those_before_the_query() {
        let spec = json!({
            "selector": {}, "paths": { "include": ["/api"], "exclude": ["/api/health"] },
        });
        let of = wanted("shop", spec);
        for (target, expect) in [
            (&b"/api"[..], true),
            (b"/api/a?x=/api/health", true),
            (b"/apis", true),
            (b"/api/healthz", false),
            (b"/other?/api", false),
            (b"http://shop/api/a", true),
            (b"http://shop", false),
            (b"*", false),
            (b"", false),
        ] {
            assert_eq!(of.takes_target(Some(target)), expect, "{target:?}");
        }
        assert!(!of.takes_target(None));
        let without = json!({ "selector": {}, "paths": { "exclude": ["/healthz"] } });
        assert!(wanted("shop", without).takes_target(None));
    }

    fn connection(client: &str, server: &str) -> Connection {
        let endpoint = |text: &str| {
            let address: std::net::SocketAddr = text.parse().unwrap();
            Endpoint::new(address.ip(), address.port())
        };
        Connection {
            id: ConnectionId(0),
            client: endpoint(client),
            server: endpoint(server),
            scope: Scope(0),
            origin: Origin::Handshake,
            opened: Timestamp::EPOCH,
            tls: None,
            workloads: Workloads::default(),
        }
    }

    #[test]
    fn ports_are_those_of_either_end_and_a_share_is_of_whole_connections() {
        let ports = wanted("shop", json!({ "selector": {}, "ports": [80, 8080] }));
        assert!(ports.takes_connection(&connection("10.0.0.1:5000", "10.0.0.2:80")));
        assert!(ports.takes_connection(&connection("10.0.0.1:80", "10.0.0.2:5000")));
        assert!(!ports.takes_connection(&connection("10.0.0.1:5000", "10.0.0.2:443")));
        let tenth = wanted("shop", json!({ "selector": {}, "samplePerMille": 100 }));
        let third = wanted("shop", json!({ "selector": {}, "samplePerMille": 333 }));
        let (mut of_tenth, mut of_third) = (0, 0);
        for port in 1..=10_000 {
            for (client, server) in [("10.0.0.1", "10.0.0.2:80"), ("[fd00::1]", "[fd00::2]:80")] {
                let client = format!("{client}:{port}");
                let there = connection(&client, server);
                let back = connection(server, &client);
                assert_eq!(
                    tenth.takes_connection(&there),
                    tenth.takes_connection(&back)
                );
                of_tenth += usize::from(tenth.takes_connection(&there));
                of_third += usize::from(third.takes_connection(&there));
                // A larger share has all that a smaller one has.
                assert!(!tenth.takes_connection(&there) || third.takes_connection(&there));
            }
        }
        assert!((1_800..2_200).contains(&of_tenth), "{of_tenth} of 20,000");
        assert!((6_300..7_000).contains(&of_third), "{of_third} of 20,000");
    }
}
