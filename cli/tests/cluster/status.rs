//! `status`, `top` and `doctor`.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use crate::common::cluster::{Cluster, condition, ready_node};

fn recording(name: &str, status: &Value) -> Value {
    json!({
        "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Recording",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "selector": {} },
        "status": status,
    })
}

#[test]
fn status_shows_nodes_recordings_loss_and_cost() {
    let cluster = Cluster::with_definitions();
    let mut well = ready_node();
    well["recordings"] = json!([{
        "uid": "u1", "namespace": "shop", "name": "shop", "observedGeneration": 1, "state": "Attached",
        "pods": 2, "seen": 100, "archived": 98, "bytes": 4096, "lost": { "packets_dropped_by_kernel": 2 },
    }]);
    cluster.report("n1", &well);
    cluster.server.seed(&recording("shop", &json!({
        "conditions": [condition("Accepted", "True", "Valid", "", 1), condition("Ready", "True", "Attached", "", 1)],
        "totals": { "nodesAttached": 1, "pods": 2, "seen": 100, "archived": 98, "lostTotal": 2, "bytes": 4096 },
    }))).expect("a recording");
    let ran = cluster.tapedeck(["status"]).succeeds();
    let version = env!("CARGO_PKG_VERSION");
    for part in [
        &format!(
            "Tapedeck {version} in tapedeck-system: 1 node, 1 ready; 12m of processors, 45.0 MiB of memory; 2 lost"
        ),
        "n1    ready",
        "shop/shop  Attached  1      0        2     100   98        2     4.0 KiB",
    ] {
        assert!(ran.stdout.contains(part), "{part}\n{}", ran.stdout);
    }
    let ran = cluster.tapedeck(["status", "-o", "json"]).succeeds();
    let status: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(status["nodes"][0]["cost"]["cpuMillis"], 12);
    assert_eq!(status["recordings"][0]["archived"], 98);
}

#[test]
fn status_says_who_is_in_trouble_and_fails() {
    let cluster = Cluster::with_definitions();
    cluster.report("well", &ready_node());
    let mut silent = ready_node();
    silent["at"] = "2026-01-01T00:00:00Z".into();
    cluster.report("silent", &silent);
    let mut blind = ready_node();
    blind["conditions"] = json!([condition(
        "Ready",
        "False",
        "NoBpf",
        "the kernel refuses bpf(2): allow it in the seccomp profile",
        1
    )]);
    blind["facts"]["version"] = "0.0.1".into();
    cluster.report("blind", &blind);
    cluster.server.seed(&recording("nothing", &json!({
        "conditions": [condition("Ready", "False", "SelectsNothing", "no pod has these labels", 1)],
    }))).expect("a recording");
    let ran = cluster.tapedeck(["status"]).fails(1, &[]);
    for part in [
        "3 nodes, 1 ready",
        "silent: has reported nothing for ",
        "blind: the kernel refuses bpf(2): allow it in the seccomp profile",
        "blind: its daemon is of version 0.0.1",
        "shop/nothing: no pod has these labels",
    ] {
        assert!(ran.stdout.contains(part), "{part}\n{}", ran.stdout);
    }
}

#[test]
fn status_is_shown_again_while_it_is_watched() {
    let cluster = Cluster::with_definitions();
    cluster.report("n1", &ready_node());
    let mut child = cluster.tapedeck(["status", "--watch"]).spawn();
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut heads = lines
        .map(|line| line.expect("UTF-8"))
        .filter(|line| line.starts_with("Tapedeck "));
    let head = heads.next().expect("a page");
    assert!(head.contains("1 node, 1 ready"), "{head}");
    cluster.report("n2", &ready_node());
    // Those that were on their way show the old.
    let head = heads.find(|head| head.contains("2 nodes, 2 ready"));
    assert!(head.is_some(), "the watch ended");
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
}

#[test]
fn status_asks_as_often_as_nodes_make_pages() {
    let cluster = Cluster::with_definitions();
    let ask = |nodes: usize| {
        for node in cluster.server.list("nodereports.tapedeck.dev").len()..nodes {
            cluster.report(&format!("n{node:04}"), &ready_node());
        }
        cluster.server.forget_requests();
        let ran = cluster.tapedeck(["status", "-o", "json"]).succeeds();
        let status: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_eq!(status["nodes"].as_array().expect("nodes").len(), nodes);
        cluster.server.requests().len()
    };
    // The definition, the reports, the recordings; a page of reports more for each 500.
    assert_eq!([ask(10), ask(500), ask(501), ask(1001)], [3, 3, 4, 5]);
}

#[test]
fn what_a_newer_version_wrote_hides_nothing_else() {
    let cluster = Cluster::with_definitions();
    // A newer definition knows another state.
    let mut crd = cluster
        .server
        .get(
            "customresourcedefinitions.apiextensions.k8s.io",
            "",
            "nodereports.tapedeck.dev",
        )
        .expect("it is there");
    let text = crd
        .to_string()
        .replace("\"Waiting\",", "\"Waiting\",\"Dreaming\",")
        .replace(
            "\"cpuMillis\":{",
            "\"cpuMillis\":{\"x-kubernetes-preserve-unknown-fields\":true},\"cpuWas\":{",
        );
    assert!(text.contains("Dreaming") && text.contains("cpuWas"));
    crd = serde_json::from_str(&text).expect("JSON");
    cluster.server.seed(&crd).expect("a newer definition");
    cluster.report("n1", &ready_node());
    let mut newer = ready_node();
    newer["recordings"] = json!([{ "uid": "u", "namespace": "a", "name": "b", "observedGeneration": 1, "state": "Dreaming" }]);
    cluster.report("n3", &newer);
    // And another type.
    newer["cost"] = json!({ "cpuMillis": "twelve" });
    cluster.report("n2", &newer);
    let ran = cluster.tapedeck(["status"]).succeeds();
    assert!(
        ran.stdout.contains("a report is not understood: n2")
            && ran.stdout.contains("n1    ready")
            && ran.stdout.contains("n3    ready"),
        "{}",
        ran.stdout
    );
}

#[test]
fn top_shows_the_most_expensive_first() {
    let cluster = Cluster::with_definitions();
    for (node, cpu, memory) in [("a", 5, 3), ("b", 50, 1), ("c", 7, 2)] {
        let mut status = ready_node();
        status["cost"]["cpuMillis"] = cpu.into();
        status["cost"]["memoryBytes"] = memory.into();
        cluster.report(node, &status);
    }
    let order = |args: &[&str]| {
        let ran = cluster.tapedeck(args.iter().copied()).succeeds();
        ran.stdout
            .lines()
            .skip(1)
            .map(|line| line.chars().next().expect("a node"))
            .collect::<String>()
    };
    assert_eq!(order(&["top"]), "bca");
    assert_eq!(order(&["top", "--sort", "memory"]), "acb");
}

#[test]
fn doctor_says_what_of_each_pod_would_be_seen() {
    let cluster = Cluster::with_definitions();
    let mut status = ready_node();
    status["cannotSee"] = json!([{ "reason": "Encrypted", "message": "give its key log", "pods": ["default/tls"], "connections": 7 }]);
    cluster.report("n1", &status);
    let mut without = ready_node();
    without["conditions"] = json!([condition(
        "Ready",
        "False",
        "NoBpf",
        "Linux 4.18 has no ring buffer",
        1
    )]);
    without["facts"]["capabilities"] = json!(["CAP_NET_ADMIN"]);
    cluster.report("n2", &without);
    for (name, node, network) in [
        ("web", "n1", false),
        ("tls", "n1", false),
        ("hosted", "n1", true),
        ("old", "n2", false),
        ("lost", "n3", false),
        ("new", "", false),
    ] {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default" },
            "spec": { "hostNetwork": network, "containers": [{ "name": "c", "image": "x" }] },
            "status": { "phase": "Running" },
        });
        if !node.is_empty() {
            pod["spec"]["nodeName"] = node.into();
        }
        cluster.server.seed(&pod).expect("a pod");
    }
    let ran = cluster.tapedeck(["doctor"]).fails(1, &[]);
    for (pod, how) in [
        ("web", "yes   HTTP/1 and HTTP/2"),
        (
            "tls",
            "no    Encrypted (7 connections met): give its key log",
        ),
        ("hosted", "yes   HTTP/1 and HTTP/2, but"),
        (
            "old",
            "no    its node cannot capture: Linux 4.18 has no ring buffer",
        ),
        ("lost", "no    its node has no daemon that reports"),
        ("new", "no    it is on no node yet"),
    ] {
        let line = ran
            .stdout
            .lines()
            .find(|line| line.starts_with(&format!("default/{pod} ")));
        assert!(
            line.is_some_and(|line| line.contains(how)),
            "{pod}: {how}\n{}",
            ran.stdout
        );
    }
    assert!(ran.stdout.contains("MISSING BPF,PERFMON"), "{}", ran.stdout);
    let ran = cluster
        .tapedeck(["doctor", "--node", "n1", "-o", "json"])
        .succeeds();
    let diagnosis: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(diagnosis["nodes"].as_array().expect("nodes").len(), 1);
    assert_eq!(diagnosis["pods"].as_array().expect("pods").len(), 3);
    cluster
        .tapedeck(["doctor", "--node", "n9"])
        .fails(1, &["the node n9 has not reported"]);
}
