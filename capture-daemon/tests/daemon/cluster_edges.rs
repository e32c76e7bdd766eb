//! On a node of a cluster: limits, retention, pods that go, containers of pods, peers, definitions of other versions,
//! and what a minute costs the API server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tapedeck_archive::Archive;

use crate::cluster::{CART, NODE, Node, all, ask, targets};
use crate::pods::Container;
use crate::support::{Daemon, is_possible, serve, serve_at, until};

/// A recording that takes everything, beside the one that a test is about: what is in its archive was seen by both.
fn witness(node: &Node) -> String {
    node.record("witness", json!({ "selector": {} }))
}

#[test]
fn limits_end_a_recording_and_wider_ones_let_it_go_on() {
    if !is_possible() {
        return;
    }
    let node = Node::new("limits");
    node.pod("cart-7d9f-x", CART, "cart");
    let cart = node.container(CART);
    let witness = witness(&node);
    let limited =
        |limits: Value| node.record("limited", json!({ "selector": {}, "limits": limits }));
    let uid = limited(json!({}));
    let server = serve();
    let daemon = node.start();
    node.reports_state(&uid, "Attached");
    ask(&cart, server, "/first");
    node.exchanges(&uid, 1);
    let over = [
        (
            json!({ "bytesPerNode": "1" }),
            "limits.bytesPerNode: 1 were archived",
        ),
        (json!({ "duration": "1s" }), "limits.duration: 1s are over"),
    ];
    for (number, (limits, said)) in (2..).zip(over) {
        limited(limits);
        let ended = node.reports_state(&uid, "Ended");
        assert!(ended["message"].as_str().unwrap().contains(said), "{ended}");
        ask(&cart, server, "/over");
        node.exchanges(&witness, number);
        limited(json!({ "bytesPerNode": "1Gi", "duration": "24h" }));
        node.reports_state(&uid, "Attached");
    }
    ask(&cart, server, "/last");
    assert_eq!(targets(&node.exchanges(&uid, 2)), ["/first", "/last"]);
    daemon.stop();
}

/// Each recording keeps what it says, whatever others keep of the same.
#[test]
fn retention_is_that_of_the_recording() {
    if !is_possible() {
        return;
    }
    let node = Node::new("retention");
    node.pod("cart-7d9f-x", CART, "cart");
    let cart = node.container(CART);
    let keep = |name: &str, retention: Value| {
        node.record(name, json!({ "selector": {}, "retention": retention }))
    };
    let short = keep("short", json!({ "age": "1s" }));
    let small = keep("small", json!({ "bytesPerNode": "1" }));
    let long = keep("long", json!({ "age": "7d", "bytesPerNode": "1Gi" }));
    let server = serve();
    let config = node
        .config("")
        .replace("/tapes }", "/tapes, segment_age: 1s }");
    assert!(config.contains("segment_age"));
    let daemon = Daemon::start(node.folder.path(), &config);
    for uid in [&short, &small, &long] {
        node.reports_state(uid, "Attached");
    }
    ask(&cart, server, "/old");
    node.exchanges(&long, 1);
    // Everybody's next segment has begun by then.
    ask(&cart, server, "/new");
    node.exchanges(&long, 2);
    for uid in [&short, &small] {
        until("what is old is gone", || {
            let archive = Archive::open(&node.tapes(uid)).ok()?;
            let is_there = targets(&all(&archive)).contains(&"/old".to_owned());
            (!is_there).then_some(())
        });
    }
    assert_eq!(targets(&node.exchanges(&long, 2)), ["/new", "/old"]);
    daemon.stop();
}

/// What a pod asked for is answered when the API server has forgotten the pod.
#[test]
fn what_is_under_way_when_a_pod_goes_is_recorded_with_its_names() {
    if !is_possible() {
        return;
    }
    let node = Node::new("gone");
    node.pod("cart-7d9f-x", CART, "cart");
    let cart = node.container(CART);
    let uid = node.record("all", json!({ "selector": {} }));
    let daemon = node.start();
    node.reports_state(&uid, "Attached");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let (asked, is_asked) = mpsc::channel();
    let (answer, may_answer) = mpsc::channel::<()>();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        drop(lines.map(Result::unwrap).find(String::is_empty));
        asked.send(()).unwrap();
        may_answer.recv().unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .unwrap();
    });
    let url = format!("http://{server}/late");
    let mut curl = cart
        .command(&["curl", "-sS", "-o", "/dev/null", &url])
        .spawn()
        .unwrap();
    is_asked.recv().unwrap();
    node.api.delete("pods", "shop", "cart-7d9f-x").unwrap();
    // The daemon has heard of it.
    node.reports_state(&uid, "Waiting");
    answer.send(()).unwrap();
    serving.join().unwrap();
    assert!(curl.wait().unwrap().success());
    let exchanges = node.exchanges(&uid, 1);
    assert_eq!(targets(&exchanges), ["/late"]);
    assert!(exchanges[0].complete());
    let client = exchanges[0].connection.workloads.client.clone().unwrap();
    assert_eq!(client.pod.as_deref(), Some("cart-7d9f-x"));
    assert_eq!(client.container.as_deref(), Some("web"));
    daemon.stop();
}

/// A pod of two containers.
fn two_containers(node: &Node, side: &str) {
    let status = |name: &str, id: &str| {
        json!({
            "name": name, "containerID": format!("containerd://{id}"), "image": "x", "imageID": "",
            "ready": true, "restartCount": 0,
        })
    };
    let web = CART.replace('-', "").repeat(2);
    node.api
        .seed(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "cart", "namespace": "shop", "annotations": { "kubernetes.io/config.hash": CART },
            },
            "spec": {
                "nodeName": NODE,
                "containers": [{ "name": "web", "image": "x" }, { "name": "side", "image": "x" }],
            },
            "status": { "containerStatuses": [status("web", &web), status("side", side)] },
        }))
        .unwrap();
}

#[test]
fn a_recording_takes_the_containers_that_it_names() {
    if !is_possible() {
        return;
    }
    let node = Node::new("containers");
    let id = "5".repeat(64);
    two_containers(&node, &id);
    let (web, side) = (node.container(CART), Container::new(&node.test, CART, &id));
    let witness = witness(&node);
    let of_side = node.record("side", json!({ "selector": { "containers": ["side"] } }));
    let server = serve();
    let daemon = node.start();
    node.reports_state(&of_side, "Attached");
    ask(&web, server, "/web");
    ask(&side, server, "/side");
    assert_eq!(targets(&node.exchanges(&witness, 2)), ["/side", "/web"]);
    let exchanges = node.exchanges(&of_side, 1);
    assert_eq!(targets(&exchanges), ["/side"]);
    let client = exchanges[0].connection.workloads.client.clone().unwrap();
    assert_eq!(client.container.as_deref(), Some("side"));
    daemon.stop();
}

/// Nothing is captured of the other pod: its address says whose the other end is.
#[test]
fn a_peer_on_the_node_is_named_by_its_address() {
    if !is_possible() {
        return;
    }
    let node = Node::new("peers");
    node.pod("cart-7d9f-x", CART, "cart");
    let pod = |name: &str, network: bool, ip: &str, since: &str| {
        node.api
            .seed(&json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": name, "namespace": "bank" },
                "spec": {
                    "nodeName": NODE, "hostNetwork": network, "containers": [{ "name": "c", "image": "x" }],
                },
                "status": { "phase": "Running", "startTime": since, "podIP": ip, "podIPs": [{ "ip": ip }] },
            }))
            .unwrap();
    };
    let before = "2026-01-01T00:00:00Z";
    pod("ledger", false, "127.0.0.2", before);
    // Its address is the node's, and everybody's on it.
    pod("hosted", true, "127.0.0.3", before);
    // Who had that address when the connection was opened is not known any more.
    pod("later", false, "127.0.0.4", "2126-01-01T00:00:00Z");
    let uid = node.record(
        "cart",
        json!({ "selector": { "matchLabels": { "app": "cart" } } }),
    );
    let daemon = node.start();
    node.reports_state(&uid, "Attached");
    let cart = node.container(CART);
    for last in [2, 3, 4] {
        let server = serve_at(SocketAddr::from(([127, 0, 0, last], 0)));
        ask(&cart, server, &format!("/{last}"));
    }
    let mut exchanges = node.exchanges(&uid, 3);
    exchanges.sort_by_key(|of| of.connection.server.ip);
    let names: Vec<_> = exchanges
        .iter()
        .map(|of| {
            let server = of.connection.workloads.server.as_deref()?;
            Some((server.namespace.clone()?, server.pod.clone()?))
        })
        .collect();
    let ledger = ("bank".to_owned(), "ledger".to_owned());
    assert_eq!(names, [Some(ledger), None, None]);
    daemon.stop();
}

/// Takes fields out of a definition, or puts one in.
fn redefine(node: &Node, name: &str, change: impl FnOnce(&mut Value)) {
    let kind = "customresourcedefinitions.apiextensions.k8s.io";
    let mut crd = node.api.get(kind, "", name).unwrap();
    change(&mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]);
    node.api.seed(&crd).unwrap();
}

fn without(schema: &mut Value, fields: &[&str]) {
    let properties = schema["properties"].as_object_mut().unwrap();
    for field in fields {
        assert!(properties.remove(*field).is_some(), "{field}");
    }
}

/// The API server drops what an older definition does not have; the daemon goes on without.
#[test]
fn a_daemon_works_with_older_definitions() {
    if !is_possible() {
        return;
    }
    let node = Node::new("older");
    redefine(&node, "recordings.tapedeck.dev", |of| {
        without(&mut of["spec"], &["retention", "destination", "paths"]);
    });
    redefine(&node, "nodereports.tapedeck.dev", |of| {
        without(&mut of["status"], &["cost", "cannotSee", "snapshots"]);
    });
    node.pod("cart-7d9f-x", CART, "cart");
    let uid = node.record("all", json!({ "selector": {} }));
    let server = serve();
    let daemon = node.start();
    node.reports_state(&uid, "Attached");
    ask(&node.container(CART), server, "/a");
    assert_eq!(targets(&node.exchanges(&uid, 1)), ["/a"]);
    let status = node.report().unwrap()["status"].clone();
    assert!(
        status["facts"]["version"].is_string() && status["cost"].is_null(),
        "{status}"
    );
    daemon.stop();
}

/// What is asked for and not known is not left out in silence.
#[test]
fn a_daemon_refuses_what_newer_definitions_ask_for() {
    if !is_possible() {
        return;
    }
    let node = Node::new("newer");
    redefine(&node, "recordings.tapedeck.dev", |of| {
        of["spec"]["properties"]["redact"] =
            json!({ "type": "array", "items": { "type": "string" } });
    });
    node.pod("cart-7d9f-x", CART, "cart");
    let uid = node.record(
        "redacted",
        json!({ "selector": {}, "redact": ["authorization"] }),
    );
    let witness = witness(&node);
    let server = serve();
    let daemon = node.start();
    let refused = node.reports_state(&uid, "Refused");
    let why = refused["message"].as_str().unwrap();
    assert!(
        why.contains("`spec.redact`") && why.contains("update the daemons"),
        "{why}"
    );
    node.reports_state(&witness, "Attached");
    ask(&node.container(CART), server, "/a");
    node.exchanges(&witness, 1);
    assert!(!node.tapes(&uid).exists());
    daemon.stop();
}

/// A whole minute under load: two reports, and whatever a third one or a watch that begins anew adds.
#[test]
fn a_minute_costs_the_api_server_few_requests() {
    if !is_possible() {
        return;
    }
    let node = Node::new("minute");
    for number in 0..20 {
        let uid = format!("c0000000-0000-4000-8000-{number:012}");
        node.pod(&format!("cart-{number}"), &uid, "cart");
    }
    let uid = node.record("cart", json!({ "selector": {} }));
    let daemon = node.start();
    node.reports_state(&uid, "Attached");
    let container = node.container("c0000000-0000-4000-8000-000000000000");
    let urls = format!("http://{}/[1-100000]", serve());
    let mut asking = container
        .command(&["curl", "-sS", "--rate", "20/s", "-o", "/dev/null", &urls])
        .spawn()
        .unwrap();
    node.exchanges(&uid, 1);
    node.api.forget_requests();
    // The minute is what is measured.
    thread::sleep(Duration::from_mins(1));
    let asked = node.api.requests();
    asking.kill().unwrap();
    asking.wait().unwrap();
    let reports = asked
        .iter()
        .filter(|of| of.resource == "nodereports")
        .count();
    println!(
        "{} requests in a minute, {reports} of them reports",
        asked.len()
    );
    assert!(asked.iter().all(|of| of.code < 400), "{asked:#?}");
    assert!((1..=3).contains(&reports), "{asked:#?}");
    assert!(asked.len() <= 6, "{asked:#?}");
    daemon.stop();
}
