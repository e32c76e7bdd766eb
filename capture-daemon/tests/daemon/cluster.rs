//! On a node of a cluster: the API server is a stand-in, pods are cgroups that are named as a kubelet
//! names them; everything else is real.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};
use tapedeck_archive::{Archive, Scratch};
use tapedeck_cluster_standin::{Fault, Standin, When};
use tapedeck_model::Exchange;

use crate::pods::Container;
use crate::support::{Client, Daemon, is_possible, serve, tool, under, until};

pub(crate) const NODE: &str = "node-a";

/// A cluster, and the folder of a daemon on its one node.
pub(crate) struct Node {
    pub(crate) api: Standin,
    pub(crate) folder: tempfile::TempDir,
    /// Above the cgroups of all its pods.
    top: PathBuf,
    pub(crate) test: String,
}

impl Node {
    pub(crate) fn new(test: &str) -> Self {
        Self::with(test, Standin::start().unwrap())
    }

    fn with(test: &str, api: Standin) -> Self {
        for crd in tapedeck_cluster::crds().unwrap() {
            api.seed(&crd).unwrap();
        }
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE } });
        api.seed(&node).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kubeconfig"), api.kubeconfig("daemon")).unwrap();
        let test = format!("cluster-{test}");
        let top = Container::top(&test);
        // A kubelet makes it when it starts.
        fs::create_dir_all(top.join("kubepods/besteffort/none")).unwrap();
        Self {
            api,
            folder,
            top,
            test,
        }
    }

    pub(crate) fn config(&self, more: &str) -> String {
        let folder = self.folder.path().display();
        format!(
            "archive: {{ folder: {folder}/tapes }}\n\
             control: {{ listen: '127.0.0.1:0' }}\n\
             capture: {{ cgroup: {}, ignore_own_cgroup: false }}\n\
             kubernetes:\n  node: {NODE}\n  namespace: tapedeck-system\n  \
             kubeconfig: {folder}/kubeconfig\n  stores: {folder}/stores.yaml\n{more}",
            self.top.display()
        )
    }

    pub(crate) fn start(&self) -> Daemon {
        self.start_with("")
    }

    fn start_with(&self, more: &str) -> Daemon {
        Daemon::start(self.folder.path(), &self.config(more))
    }

    /// A pod of this node, as the API server has it. Its cgroup is named after `uid`.
    pub(crate) fn pod(&self, name: &str, uid: &str, app: &str) {
        self.pod_of(name, uid, app, &id(uid));
    }

    /// The same, with a container of that id.
    pub(crate) fn pod_of(&self, name: &str, uid: &str, app: &str, container: &str) {
        self.api
            .seed(&json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": name, "namespace": "shop", "labels": {
                        "app": app, "pod-template-hash": "7d9f",
                    },
                    "annotations": { "kubernetes.io/config.hash": uid },
                    "ownerReferences": [{
                        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-7d9f"),
                        "uid": "1", "controller": true,
                    }],
                },
                "spec": { "nodeName": NODE, "containers": [{ "name": "web", "image": "x" }] },
                "status": { "containerStatuses": [{
                    "name": "web", "containerID": format!("containerd://{container}"), "image": "x",
                    "imageID": "", "ready": true, "restartCount": 0,
                }] },
            }))
            .unwrap();
    }

    pub(crate) fn container(&self, uid: &str) -> Container {
        Container::new(&self.test, uid, &id(uid))
    }

    /// Makes or changes a recording; gives its uid.
    pub(crate) fn record(&self, name: &str, spec: Value) -> String {
        let made = self.api.seed(&json!({
            "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Recording",
            "metadata": { "name": name, "namespace": "shop" }, "spec": spec,
        }));
        made.unwrap()["metadata"]["uid"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) fn report(&self) -> Option<Value> {
        self.api.get("nodereports.tapedeck.dev", "", NODE)
    }

    /// Waits until the report says something.
    #[track_caller]
    fn reports<T>(&self, what: &str, mut says: impl FnMut(&Value) -> Option<T>) -> T {
        until(what, || says(self.report()?.get("status")?))
    }

    #[track_caller]
    pub(crate) fn reports_state(&self, uid: &str, state: &str) -> Value {
        self.reports(&format!("{uid} is {state}"), |status| {
            let of = recording(status, uid)?;
            (of["state"] == state).then(|| of.clone())
        })
    }

    pub(crate) fn tapes(&self, uid: &str) -> PathBuf {
        self.folder.path().join("tapes/recordings").join(uid)
    }

    /// Waits until so many exchanges of a recording can be read.
    #[track_caller]
    pub(crate) fn exchanges(&self, uid: &str, count: u64) -> Vec<Exchange> {
        let folder = self.tapes(uid);
        let archive = until(&format!("{count} exchanges"), || {
            let archive = Archive::open(&folder).ok()?;
            (archive.len() >= count).then_some(archive)
        });
        all(&archive)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What is still busy is left to whoever looks.
        for below in [
            "kubepods/besteffort/none",
            "kubepods/besteffort",
            "kubepods",
            "",
        ] {
            drop(fs::remove_dir(self.top.join(below)));
        }
    }
}

pub(crate) fn all(archive: &Archive) -> Vec<Exchange> {
    let mut scratch = Scratch::new();
    (0..archive.len())
        .map(|id| archive.load(id, &mut scratch).unwrap().to_exchange())
        .collect()
}

fn recording<'a>(status: &'a Value, uid: &str) -> Option<&'a Value> {
    let mut all = status.get("recordings")?.as_array()?.iter();
    all.find(|of| of["uid"] == uid)
}

fn condition<'a>(status: &'a Value, of: &str) -> Option<&'a Value> {
    let mut all = status.get("conditions")?.as_array()?.iter();
    all.find(|condition| condition["type"] == of)
}

/// The id of the container of a pod.
fn id(uid: &str) -> String {
    uid.replace('-', "").repeat(2)
}

pub(crate) fn targets(exchanges: &[Exchange]) -> Vec<String> {
    let mut all: Vec<_> = exchanges
        .iter()
        .map(|exchange| {
            let head = exchange.request.as_ref().unwrap().head.as_ref().unwrap();
            String::from_utf8(head.target().unwrap().to_vec()).unwrap()
        })
        .collect();
    all.sort();
    all
}

pub(crate) fn ask(container: &Container, server: SocketAddr, path: &str) {
    let url = format!("http://{server}{path}");
    tool(&mut container.command(&["curl", "-sS", "-o", "/dev/null", &url]));
}

pub(crate) const CART: &str = "c0000000-0000-4000-8000-000000000001";
const BANK: &str = "b0000000-0000-4000-8000-000000000002";
const LATE: &str = "a0000000-0000-4000-8000-000000000003";

#[test]
fn recordings_say_what_is_recorded_and_the_report_says_what_came_of_them() {
    if !is_possible() {
        return;
    }
    let node = Node::new("record");
    node.pod("cart-7d9f-x", CART, "cart");
    node.pod("bank-7d9f-y", BANK, "bank");
    let (cart, bank) = (node.container(CART), node.container(BANK));
    let of_cart = node.record(
        "cart",
        json!({ "selector": { "matchLabels": { "app": "cart" } } }),
    );
    let of_api = node.record(
        "api",
        json!({
            "selector": { "owners": [{ "kind": "Deployment", "name": "bank" }, { "kind": "Deployment", "name": "cart" }] },
            "paths": { "include": ["/api"] },
        }),
    );
    let nobody = node.record(
        "nobody",
        json!({ "selector": { "matchLabels": { "app": "x" } } }),
    );
    let beyond = node.record("beyond", json!({ "selector": { "namespaces": ["*"] } }));
    let server = serve();
    let daemon = node.start();
    let state = node.reports_state(&of_cart, "Attached");
    assert_eq!(state["pods"], 1);
    node.reports_state(&nobody, "Waiting");
    let refused = node.reports_state(&beyond, "Refused");
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("Tapedeck's own namespace")
    );

    ask(&cart, server, "/a");
    ask(&cart, server, "/api/a");
    ask(&bank, server, "/b");
    ask(&bank, server, "/api/b");
    let exchanges = node.exchanges(&of_cart, 2);
    assert_eq!(targets(&exchanges), ["/a", "/api/a"]);
    let client = exchanges[0].connection.workloads.client.clone().unwrap();
    assert_eq!(client.namespace.as_deref(), Some("shop"));
    assert_eq!(client.pod.as_deref(), Some("cart-7d9f-x"));
    assert_eq!(client.container.as_deref(), Some("web"));
    assert_eq!(client.owner.as_deref(), Some("Deployment/cart"));
    // One that two recordings ask for is in both.
    assert_eq!(targets(&node.exchanges(&of_api, 2)), ["/api/a", "/api/b"]);

    // A pause takes nothing from a connection that goes on.
    node.record(
        "cart",
        json!({ "selector": { "matchLabels": { "app": "cart" } }, "paused": true }),
    );
    node.reports_state(&of_cart, "Paused");
    ask(&cart, server, "/paused");
    ask(&cart, server, "/api/paused");
    assert_eq!(targets(&node.exchanges(&of_api, 3)).len(), 3);
    node.record(
        "cart",
        json!({ "selector": { "matchLabels": { "app": "cart" } } }),
    );
    node.reports_state(&of_cart, "Attached");
    ask(&cart, server, "/again");
    assert_eq!(
        targets(&node.exchanges(&of_cart, 3)),
        ["/a", "/again", "/api/a"]
    );

    // The counters, and the node that owns the report.
    let report = node.report().unwrap();
    let owner = &report["metadata"]["ownerReferences"][0];
    let of_node = node.api.get("nodes", "", NODE).unwrap();
    assert_eq!(owner["uid"], of_node["metadata"]["uid"]);
    let status = &report["status"];
    assert_eq!(condition(status, "Ready").unwrap()["status"], "True");
    assert_eq!(status["facts"]["backend"], "ebpf");
    assert!(status["cost"]["memoryBytes"].as_u64().unwrap() > 1_000_000);

    // What was recorded goes with its recording.
    assert!(node.tapes(&of_api).is_dir());
    node.api
        .delete("recordings.tapedeck.dev", "shop", "api")
        .unwrap();
    until("the archives are gone", || {
        (!node.tapes(&of_api).exists()).then_some(())
    });
    let log = daemon.stop();
    assert!(
        !log.contains("/api/") && !log.contains(&server.to_string()),
        "{log}"
    );
    let archive = Archive::open(&node.tapes(&of_cart)).unwrap();
    assert_eq!(archive.ledger().exchanges, 3);
}

/// What a pod says before the API server told of it is held, and recorded once it is known.
#[test]
fn a_new_pod_is_recorded_from_its_first_connection() {
    if !is_possible() {
        return;
    }
    let node = Node::new("first");
    node.pod("cart-7d9f-x", CART, "cart");
    let uid = node.record(
        "cart",
        json!({ "selector": { "matchLabels": { "app": "cart" } } }),
    );
    let server = serve();
    let daemon = node.start_with("  quarantine: 30s\n");
    node.reports_state(&uid, "Attached");
    let late = node.container(LATE);
    ask(&late, server, "/first");
    ask(&late, server, "/second");
    assert!(
        !node.tapes(&uid).exists(),
        "nothing is known of the pod yet"
    );
    node.pod("cart-7d9f-z", LATE, "cart");
    let exchanges = node.exchanges(&uid, 2);
    assert_eq!(targets(&exchanges), ["/first", "/second"]);
    for exchange in &exchanges {
        let client = exchange.connection.workloads.client.clone().unwrap();
        assert_eq!(client.pod.as_deref(), Some("cart-7d9f-z"));
        assert_eq!(client.owner.as_deref(), Some("Deployment/cart"));
    }
    daemon.stop();
}

#[test]
fn what_stays_unknown_is_dropped_in_time_and_counted() {
    if !is_possible() {
        return;
    }
    let node = Node::new("unknown");
    let uid = node.record("all", json!({ "selector": {} }));
    let server = serve();
    let daemon = node.start_with("  quarantine: 500ms\n");
    node.reports_state(&uid, "Waiting");
    let late = node.container(LATE);
    ask(&late, server, "/nobody");
    node.reports("the quarantine is said to be over", |status| {
        let mut all = status["cannotSee"].as_array()?.iter();
        let of = all.find(|of| of["reason"] == "QuarantineExpired")?;
        (of["connections"] == 1).then_some(())
    });
    assert!(!node.tapes(&uid).exists());
    daemon.stop();
}

/// An API server that is away stops nothing; what changed meanwhile is done when it is back.
#[test]
fn an_outage_of_the_api_server_stops_nothing() {
    if !is_possible() {
        return;
    }
    let node = Node::new("outage");
    node.pod("cart-7d9f-x", CART, "cart");
    let uid = node.record(
        "cart",
        json!({ "selector": { "matchLabels": { "app": "cart" } } }),
    );
    let server = serve();
    let cart = node.container(CART);
    let daemon = node.start();
    node.reports_state(&uid, "Attached");
    node.api.down().unwrap();
    ask(&cart, server, "/during");
    assert_eq!(targets(&node.exchanges(&uid, 1)), ["/during"]);
    assert_eq!(daemon.get("/readyz").0, 200);
    let bank = node.record(
        "bank",
        json!({ "selector": { "matchLabels": { "app": "bank" } } }),
    );
    node.pod("bank-7d9f-y", BANK, "bank");
    // Its place in the history is gone, too.
    node.api.compact();
    node.api.up().unwrap();
    node.reports_state(&bank, "Attached");
    ask(&node.container(BANK), server, "/after");
    assert_eq!(targets(&node.exchanges(&bank, 1)), ["/after"]);
    daemon.stop();
}

/// Roles that are too narrow are named, and the daemon says that it waits.
#[test]
fn a_missing_role_is_named() {
    if !is_possible() {
        return;
    }
    let node = Node::with("roles", Standin::start().unwrap());
    let when = When {
        resource: Some("recordings"),
        ..When::default()
    };
    node.api.fault(when, Fault::Forbidden, usize::MAX);
    fs::write(node.folder.path().join("tapedeckd.yaml"), node.config("")).unwrap();
    let daemon = Daemon::start_unready(node.folder.path(), &node.config(""), &[]);
    let why = until("it is said what is missing", || {
        let (code, why) = daemon.get("/readyz");
        (code == 503 && why.contains("verbs [\"list\", \"watch\"]")).then_some(why)
    });
    assert!(
        why.contains("apiGroups [\"tapedeck.dev\"], resources [\"recordings\"]"),
        "{why}"
    );
    let said = node.reports("the report says so", |status| {
        let watching = condition(status, "Watching")?;
        (watching["status"] == "False").then(|| watching["message"].clone())
    });
    assert!(said.as_str().unwrap().contains("recordings"), "{said}");
    // It is given: the daemon goes on by itself.
    node.api.no_faults();
    until("it is ready", || {
        (daemon.get("/readyz").0 == 200).then_some(())
    });
    daemon.stop();
}

/// Without BPF the daemon stays, and tells.
#[test]
fn a_node_without_bpf_says_so_in_its_report() {
    if !is_possible() {
        return;
    }
    let node = Node::new("nobpf");
    node.pod("cart-7d9f-x", CART, "cart");
    let uid = node.record("cart", json!({ "selector": {} }));
    let wrapper = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"];
    let wrapper = wrapper.map(str::to_owned);
    let daemon = Daemon::start_unready(node.folder.path(), &node.config(""), &wrapper);
    let refused = node.reports_state(&uid, "Refused");
    let why = refused["message"].as_str().unwrap();
    assert!(why.contains("CAP_BPF"), "{why}");
    node.reports("the node is not ready", |status| {
        let ready = condition(status, "Ready")?;
        (ready["status"] == "False" && ready["reason"] == "NoBpf").then_some(())
    });
    assert_eq!(daemon.get("/readyz").0, 503);
    assert_eq!(daemon.get("/livez").0, 200);
    daemon.stop();
}

/// A second installation on the same node is refused.
#[test]
fn two_daemons_do_not_share_a_folder() {
    if !is_possible() {
        return;
    }
    let node = Node::new("two");
    let daemon = node.start();
    let output = under(&[], &node.folder.path().join("tapedeckd.yaml"))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && stderr.contains("installed twice"),
        "{stderr}"
    );
    daemon.stop();
}

/// Few requests: a list and a watch of three kinds, the node, and the report; nothing while nothing happens.
#[test]
fn the_api_server_is_asked_little() {
    if !is_possible() {
        return;
    }
    let node = Node::new("little");
    for number in 0..20 {
        let uid = format!("c0000000-0000-4000-8000-{number:012}");
        node.pod(&format!("cart-{number}"), &uid, "cart");
    }
    let uid = node.record("cart", json!({ "selector": {} }));
    let daemon = node.start();
    node.reports_state(&uid, "Attached");
    let asked = node.api.requests();
    let of = |verb: &str, resource: &str| {
        let is =
            |of: &&tapedeck_cluster_standin::Request| of.verb == verb && of.resource == resource;
        asked.iter().filter(is).count()
    };
    for resource in ["pods", "recordings", "snapshots"] {
        assert_eq!(
            (of("list", resource), of("watch", resource)),
            (1, 1),
            "{asked:#?}"
        );
    }
    assert_eq!(of("get", "nodes"), 1);
    assert!(of("patch", "nodereports") <= 4, "{asked:#?}");
    assert!(asked.len() <= 11, "{asked:#?}");
    let pods = asked.iter().find(|of| of.resource == "pods").unwrap();
    assert!(
        pods.path.contains("fieldSelector=spec.nodeName%3Dnode-a"),
        "{}",
        pods.path
    );
    // Traffic asks for nothing.
    let container = node.container("c0000000-0000-4000-8000-000000000000");
    let server = serve();
    node.api.forget_requests();
    for _ in 0..20 {
        ask(&container, server, "/a");
    }
    node.exchanges(&uid, 20);
    let asked = node.api.requests();
    assert!(asked.len() <= 1, "{asked:#?}");
    daemon.stop();
}

/// The part of a node: of the recordings and the time that are asked for, once each, in the store, and told
/// with its digest; known after a restart.
#[test]
fn a_snapshot_gets_the_part_of_this_node() {
    if !is_possible() {
        return;
    }
    let node = Node::new("snapshot");
    let store = node.folder.path().join("store");
    fs::create_dir(&store).unwrap();
    fs::write(
        node.folder.path().join("stores.yaml"),
        format!("- {{ name: default, url: 'file://{}' }}\n", store.display()),
    )
    .unwrap();
    node.pod("cart-7d9f-x", CART, "cart");
    let cart = node.container(CART);
    let both = [
        node.record("a", json!({ "selector": {} })),
        node.record(
            "b",
            json!({ "selector": { "matchLabels": { "app": "cart" } } }),
        ),
    ];
    let server = serve();
    let daemon = node.start();
    node.reports_state(&both[1], "Attached");
    ask(&cart, server, "/in");
    node.exchanges(&both[0], 1);
    let from = jiff::Timestamp::now();
    for number in 0..10 {
        ask(&cart, server, &format!("/{number}"));
    }
    node.exchanges(&both[0], 11);
    node.exchanges(&both[1], 11);
    let order = |to: jiff::Timestamp| {
        json!({
            "recordings": both, "from": from.to_string(), "to": to.to_string(),
            "store": "default", "prefix": "snapshots/u", "nodes": [NODE],
            "deadline": jiff::Timestamp::now().saturating_add(jiff::SignedDuration::from_mins(5)).unwrap().to_string(),
        })
    };
    let snapshot = |phase: &str, order: &Value| {
        json!({
            "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Snapshot",
            "metadata": { "name": "s", "namespace": "shop" },
            "spec": { "recordings": ["a", "b"] },
            "status": { "phase": phase, "order": order, "completeness": {} },
        })
    };
    let order = order(jiff::Timestamp::now());
    let made = node.api.seed(&snapshot("Collecting", &order)).unwrap();
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    let delivered = |status: &Value| {
        let mut all = status["snapshots"].as_array()?.iter();
        let of = all.find(|of| of["uid"] == uid.as_str())?;
        (of["state"] == "Delivered").then(|| of.clone())
    };
    let told = node.reports("the part is delivered", delivered);
    let part = &told["parts"][0];
    assert_eq!(
        (&part["exchanges"], told["parts"].as_array().unwrap().len()),
        (&json!(10), 1)
    );
    let key = part["key"].as_str().unwrap();
    assert!(key.starts_with(&format!("snapshots/u/{NODE}/")), "{key}");
    let file = store.join(key);
    let bytes = fs::read(&file).unwrap();
    assert_eq!(part["bytes"], bytes.len() as u64);
    assert_eq!(part["blake3"], blake3::hash(&bytes).to_string());
    let exchanges = all(&Archive::open(&file).unwrap());
    let expected: Vec<_> = (0..10).map(|number| format!("/{number}")).collect();
    assert_eq!(targets(&exchanges), expected);

    // A daemon that starts anew does nothing again, and still says so.
    daemon.kill();
    fs::remove_dir_all(&store).unwrap();
    fs::create_dir(&store).unwrap();
    let daemon = node.start();
    until("the snapshots are listed again", || {
        (node.api.count("watch", "snapshots") >= 2).then_some(())
    });
    assert_eq!(node.reports("it is still delivered", delivered), told);
    assert_eq!(fs::read_dir(&store).unwrap().count(), 0);
    // What was taken is not told for ever.
    node.api.seed(&snapshot("Merging", &order)).unwrap();
    node.reports("the order is forgotten", |status| {
        let all = status.get("snapshots").and_then(Value::as_array);
        all.is_none_or(Vec::is_empty).then_some(())
    });
    daemon.stop();
}

/// A long body goes where its exchange goes, though its parts come first, and of a pod that is not
/// known yet.
#[test]
fn long_bodies_go_where_their_exchanges_go() {
    if !is_possible() {
        return;
    }
    let node = Node::new("long");
    node.pod("cart-7d9f-x", CART, "cart");
    let wanted = node.record(
        "up",
        json!({ "selector": {}, "paths": { "include": ["/up"] } }),
    );
    let other = node.record(
        "other",
        json!({ "selector": {}, "paths": { "include": ["/other"] } }),
    );
    let daemon = node.start_with("  quarantine: 30s\n  quarantine_size: 32MiB\n");
    node.reports_state(&other, "Attached");
    let body = node.folder.path().join("body");
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n ^ n >> 7) as u8).collect();
    fs::write(&body, &bytes).unwrap();
    let server = swallow();
    let send = |container: &Container| {
        let data = format!("@{}", body.display());
        let url = format!("http://{server}/up");
        let words = [
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-H",
            "Expect:",
            "--data-binary",
            &data,
            &url,
        ];
        tool(&mut container.command(&words));
    };
    send(&node.container(CART));
    send(&node.container(LATE));
    node.pod("cart-7d9f-z", LATE, "cart");
    node.exchanges(&wanted, 2);
    let archive = Archive::open(&node.tapes(&wanted)).unwrap();
    let (mut scratch, mut buffer) = (Scratch::new(), tapedeck_archive::BodyBuffer::new());
    for id in 0..2 {
        let record = archive.load(id, &mut scratch).unwrap();
        let found = archive
            .body(&record.request().unwrap().body(), &mut buffer)
            .unwrap();
        assert!(found == bytes, "body {id} is another");
    }
    assert!(!node.tapes(&other).exists());
    daemon.stop();
}

/// A server that reads what it is sent, and answers each connection once.
fn swallow() -> SocketAddr {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut seen = Vec::new();
            let mut buffer = vec![0; 1 << 16];
            let whole = loop {
                let count = stream.read(&mut buffer).unwrap_or(0);
                seen.extend_from_slice(&buffer[..count]);
                let end = seen.windows(4).position(|of| of == b"\r\n\r\n");
                let is_whole = end.is_some_and(|end| seen.len() >= end + 4 + 5_000_000);
                if count == 0 || is_whole {
                    break is_whole;
                }
            };
            if whole {
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
            }
        }
    });
    address
}

/// A connection that is there goes on while rules come and go.
#[test]
fn changing_recordings_loses_no_connection() {
    if !is_possible() {
        return;
    }
    let node = Node::new("change");
    node.pod("cart-7d9f-x", CART, "cart");
    let uid = node.record("all", json!({ "selector": {} }));
    let container = node.container(CART);
    let daemon = node.start();
    node.reports_state(&uid, "Attached");
    // The server is in the pod; the client, this test, is not.
    let listening = until("the pod serves", || {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        Some(port)
    });
    let text = listening.to_string();
    let program = "import http.server as h\n\
                   class H(h.BaseHTTPRequestHandler):\n\
                   \x20protocol_version='HTTP/1.1'\n\
                   \x20def do_GET(s):\n\
                   \x20\x20s.wfile.write(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok')\n\
                   \x20def log_message(*a): pass\n\
                   import sys\n\
                   h.ThreadingHTTPServer(('127.0.0.1',int(sys.argv[1])),H).serve_forever()";
    let mut serving = container
        .command(&["python3", "-c", program, &text])
        .spawn()
        .unwrap();
    let server = SocketAddr::from(([127, 0, 0, 1], listening));
    until("it listens", || std::net::TcpStream::connect(server).ok());
    let mut client = Client::connect(server);
    for number in 0..10 {
        client.get(&format!("/{number}"));
        let other = node.record(
            &format!("r{number}"),
            json!({
                "selector": { "matchLabels": { "app": "cart" } }, "samplePerMille": 100 + number,
            }),
        );
        node.reports_state(&other, "Attached");
    }
    client.get("/end");
    let exchanges = node.exchanges(&uid, 11);
    let mut expected: Vec<_> = (0..10).map(|number| format!("/{number}")).collect();
    expected.push("/end".to_owned());
    assert_eq!(targets(&exchanges), expected);
    assert!(exchanges.iter().all(Exchange::complete));
    let first = exchanges[0].connection.id;
    assert!(
        exchanges
            .iter()
            .all(|exchange| exchange.connection.id == first)
    );
    serving.kill().unwrap();
    serving.wait().unwrap();
    daemon.stop();
}

/// A process that opens connections in one cgroup after the other, and asks on all of them in rounds: a
/// socket stays in the cgroup that it was made in.
const MANY: &str = "
import os, socket, sys
port, each, rounds = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
sockets = []
for folder in sys.argv[5:]:
    open(folder + '/cgroup.procs', 'w').write(str(os.getpid()))
    sockets += [socket.create_connection(('127.0.0.1', port)) for _ in range(each)]
open(sys.argv[4] + '/cgroup.procs', 'w').write(str(os.getpid()))
ask = b'GET /a HTTP/1.1\\r\\nHost: test\\r\\nCookie: ' + b'x' * 500 + b'\\r\\n\\r\\n'
for _ in range(rounds):
    for s in sockets: s.sendall(ask)
    for s in sockets:
        got = b''
        while not got.endswith(b'ok'): got += s.recv(4096)
print('asked', flush=True)
sys.stdin.read()
";

/// The bound of the issue: 110 pods and 2,000 connections that are all open at once, in 96 MiB.
#[test]
fn a_full_node_takes_little_memory() {
    if !is_possible() {
        return;
    }
    let node = Node::new("memory");
    let (pods, each, rounds) = (110_u32, 19, 5);
    let containers: Vec<Container> = (0..pods)
        .map(|number| {
            let uid = format!("d0000000-0000-4000-8000-{number:012}");
            node.pod(&format!("cart-{number}"), &uid, "cart");
            node.container(&uid)
        })
        .collect();
    let uid = node.record("all", json!({ "selector": {} }));
    let server = serve();
    let daemon = node.start();
    let attached = node.reports_state(&uid, "Attached");
    assert_eq!(attached["pods"], pods);
    let root = tapedeckd::sources::ebpf::cgroup_root().unwrap();
    let mut many = std::process::Command::new("python3")
        .args([
            "-c",
            MANY,
            &server.port().to_string(),
            &each.to_string(),
            &rounds.to_string(),
        ])
        .arg(&root)
        .args(containers.iter().map(Container::folder))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut told = std::io::BufReader::new(many.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut told, &mut said).unwrap();
    assert_eq!(said, "asked\n");
    let count = u64::from(pods * each * rounds);
    let exchanges = node.exchanges(&uid, count);
    assert!(exchanges.iter().all(Exchange::complete));
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let most = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = most.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    println!(
        "{pods} pods, {} connections: {} MiB at most",
        pods * each,
        kib >> 10
    );
    assert!(kib < 96 << 10, "{} MiB", kib >> 10);
    drop(many.stdin.take());
    many.wait().unwrap();
    daemon.stop();
}
