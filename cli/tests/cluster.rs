//! `tapedeck cluster` at run time, on the stand-in API server.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use common::cluster::{Cluster, condition, ready_node};
use common::{Tapedeck, temp_folder};
use serde_json::{Value, json};
use tapedeck_cluster_standin::{Fault, Standin, When};

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
        .replace("\"Waiting\"]", "\"Waiting\",\"Dreaming\"]");
    assert!(text.contains("Dreaming"));
    crd = serde_json::from_str(&text).expect("JSON");
    cluster.server.seed(&crd).expect("a newer definition");
    cluster.report("n1", &ready_node());
    let mut newer = ready_node();
    newer["recordings"] = json!([{ "uid": "u", "namespace": "a", "name": "b", "observedGeneration": 1, "state": "Dreaming" }]);
    cluster.report("n2", &newer);
    let ran = cluster.tapedeck(["status"]).succeeds();
    assert!(
        ran.stdout.contains("a report is not understood: n2") && ran.stdout.contains("n1    ready"),
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

/// As the controller: says of each recording what the test says of its spec.
fn decide(server: &Standin, of: impl Fn(&Value) -> Option<Value>) {
    for mut recording in server.list("recordings.tapedeck.dev") {
        let generation = recording["metadata"]["generation"].clone();
        if recording["status"]["observedGeneration"] == generation {
            continue;
        }
        if let Some(status) = of(&recording) {
            recording["status"] = status;
            recording["status"]["observedGeneration"] = generation;
            drop(server.seed(&recording));
        }
    }
}

#[test]
fn a_recording_is_made_and_waited_for_paused_resumed_and_deleted() {
    let cluster = Cluster::with_definitions();
    let _controller = cluster.play(|server| {
        decide(server, |recording| {
            let generation = recording["metadata"]["generation"].as_u64().expect("a generation");
            let (status, reason, nodes) = if recording["spec"]["paused"] == true { ("False", "Paused", 0) } else { ("True", "Attached", 2) };
            Some(json!({
                "conditions": [condition("Accepted", "True", "Valid", "", generation), condition("Ready", status, reason, "", generation)],
                "totals": { "nodesAttached": nodes, "pods": 3 },
            }))
        });
    });
    let ran = cluster
        .tapedeck([
            "record",
            "create",
            "shop",
            "-n",
            "shop",
            "-l",
            "app=shop,tier=web",
            "--of",
            "deployment/shop",
            "--port",
            "8080",
            "--not-path",
            "/healthz",
            "--sample",
            "12.5%",
            "--for",
            "1h",
            "--max-per-node",
            "1Gi",
            "--store",
            "archive",
        ])
        .succeeds();
    assert!(
        ran.stderr.contains("shop is recorded: 3 pods on 2 nodes"),
        "{}",
        ran.stderr
    );
    let made = cluster
        .server
        .get("recordings.tapedeck.dev", "shop", "shop")
        .expect("it is there");
    assert_eq!(
        made["spec"],
        json!({
            "selector": { "matchLabels": { "app": "shop", "tier": "web" }, "owners": [{ "kind": "Deployment", "name": "shop" }] },
            "ports": [8080], "paths": { "exclude": ["/healthz"] }, "samplePerMille": 125,
            "limits": { "duration": "1h", "bytesPerNode": "1Gi" }, "destination": { "store": "archive" }, "paused": false,
        })
    );
    cluster
        .tapedeck(["record", "create", "shop", "-n", "shop"])
        .fails(
            1,
            &["there is a recording shop in the namespace shop already"],
        );
    let ran = cluster
        .tapedeck(["record", "pause", "shop", "-n", "shop"])
        .succeeds();
    assert!(ran.stderr.contains("shop is paused"), "{}", ran.stderr);
    let ran = cluster
        .tapedeck(["record", "resume", "shop", "-n", "shop"])
        .succeeds();
    assert!(ran.stderr.contains("shop is recorded"), "{}", ran.stderr);
    let ran = cluster.tapedeck(["ls", "-n", "shop"]).succeeds();
    assert!(
        ran.stdout.contains("shop       Attached  3"),
        "{}",
        ran.stdout
    );
    cluster
        .tapedeck(["record", "delete", "shop", "-n", "shop"])
        .succeeds();
    assert!(cluster.server.list("recordings.tapedeck.dev").is_empty());
    cluster
        .tapedeck(["record", "pause", "shop", "-n", "shop"])
        .fails(1, &["\"shop\" not found"]);
}

#[test]
fn a_recording_that_cannot_be_is_said_at_once_or_after_the_time_for_it() {
    let cluster = Cluster::with_definitions();
    let _controller = cluster.play(|server| {
        decide(server, |recording| match recording["metadata"]["name"].as_str() {
            Some("foreign") => Some(json!({ "conditions": [condition("Accepted", "False", "ForeignNamespaces", "only recordings in tapedeck-system name other namespaces", 1)] })),
            Some("nothing") => Some(json!({ "conditions": [condition("Ready", "False", "SelectsNothing", "no pod has these labels", 1)] })),
            _ => None,
        });
    });
    cluster
        .tapedeck(["record", "create", "foreign", "--from-namespace", "pay"])
        .fails(
            1,
            &["only recordings in tapedeck-system name other namespaces"],
        );
    cluster
        .tapedeck(["record", "create", "nothing", "--timeout", "1s"])
        .fails(
            1,
            &["is not attached (SelectsNothing): no pod has these labels; it stays"],
        );
    cluster
        .tapedeck(["record", "create", "silence", "--timeout", "1s"])
        .fails(
            1,
            &[
                "the controller has said nothing of recording silence",
                "logs --controller",
            ],
        );
    cluster
        .tapedeck(["record", "create", "later", "--no-wait"])
        .succeeds();
    // The API server refuses what the definition does.
    cluster
        .tapedeck(["record", "create", "odd", "--path", "api"])
        .fails(1, &["spec.paths.include"]);
    cluster
        .tapedeck(["record", "create", "odd", "--sample", "0%"])
        .fails(2, &["between 0.1% and 100%"]);
}

#[test]
fn objects_that_are_only_printed_are_those_that_would_be_made() {
    let cluster = Cluster::with_definitions();
    for (command, kind) in [
        (
            &["record", "create", "a", "-l", "app=a"][..],
            "recordings.tapedeck.dev",
        ),
        (
            &[
                "snapshot",
                "create",
                "a",
                "--recording",
                "a",
                "--from",
                "2026-11-20T00:00:00Z",
                "--filter",
                "response.status >= 500",
            ],
            "snapshots.tapedeck.dev",
        ),
    ] {
        let ran = cluster
            .tapedeck(
                command
                    .iter()
                    .copied()
                    .chain(["--dry-run", "-n", "default"]),
            )
            .succeeds();
        let printed: Value = serde_saphyr::from_str(&ran.stdout).expect("YAML");
        assert!(cluster.server.list(kind).is_empty());
        cluster
            .tapedeck(command.iter().copied().chain(["--no-wait"]))
            .succeeds();
        let made = cluster
            .server
            .get(kind, "default", "a")
            .expect("it is there");
        assert_eq!(printed["spec"], made["spec"]);
        assert_eq!(printed["metadata"]["namespace"], "default");
    }
}

fn ready_snapshot(name: &str, body: &[u8]) -> Value {
    json!({
        "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Snapshot",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "recordings": ["shop"] },
        "status": {
            "phase": "Ready",
            "conditions": [condition("Ready", "True", "Stored", "", 1)],
            "location": {
                "store": "default", "key": name, "url": format!("s3://bucket/{name}"), "bytes": body.len(),
                "blake3": blake3::hash(body).to_hex().to_string(), "exchanges": 7,
            },
            "completeness": { "nodes": "2/3", "nodesDelivered": 2, "nodesAsked": 3, "missing": { "n3": "silent" }, "lost": { "gap_bytes": 9 } },
        },
    })
}

/// As the controller: makes the snapshot `good`, cannot make `bad`, and lets all others be.
fn take_snapshots(server: &Standin) {
    for mut snapshot in server.list("snapshots.tapedeck.dev") {
        let name = snapshot["metadata"]["name"]
            .as_str()
            .expect("a name")
            .to_owned();
        if snapshot["status"]["phase"]
            .as_str()
            .is_some_and(|phase| phase != "Pending")
        {
            continue;
        }
        snapshot["status"] = match name.as_str() {
            "good" => ready_snapshot("good", b"tape")["status"].clone(),
            "bad" => {
                json!({ "phase": "Failed", "conditions": [condition("Ready", "False", "StoreRefused", "s3://bucket: access denied", 1)] })
            }
            _ => continue,
        };
        drop(server.seed(&snapshot));
    }
}

#[test]
fn a_snapshot_is_taken_and_waited_for() {
    let cluster = Cluster::with_definitions();
    let _controller = cluster.play(take_snapshots);
    let ran = cluster
        .tapedeck([
            "snapshot",
            "create",
            "good",
            "-n",
            "shop",
            "--recording",
            "shop",
            "--since",
            "1h",
            "--deadline",
            "10m",
        ])
        .succeeds();
    for part in [
        "good: 7 exchanges of 2/3 nodes, 4 B",
        "warning: n3 is missing: silent",
        "warning: lost: 9 gap_bytes",
        "tapedeck cluster pull good -n shop",
    ] {
        assert!(ran.stderr.contains(part), "{part}\n{}", ran.stderr);
    }
    let made = cluster
        .server
        .get("snapshots.tapedeck.dev", "shop", "good")
        .expect("it is there");
    assert!(
        made["spec"]["from"].is_string() && made["spec"]["deadline"] == "10m",
        "{made}"
    );
    let bad = [
        "snapshot",
        "create",
        "bad",
        "-n",
        "shop",
        "--recording",
        "shop",
    ];
    cluster
        .tapedeck(bad)
        .fails(1, &["s3://bucket: access denied (StoreRefused)"]);
    cluster.tapedeck(bad).fails(
        1,
        &["there is a snapshot bad in the namespace shop already"],
    );
    let slow = [
        "snapshot",
        "create",
        "slow",
        "-n",
        "shop",
        "--recording",
        "shop",
        "--timeout",
        "1s",
    ];
    cluster
        .tapedeck(slow)
        .fails(1, &["after 1.00 s snapshot slow is not there yet"]);
}

#[test]
fn a_snapshot_that_is_not_there_is_said_and_all_are_listed() {
    let cluster = Cluster::with_definitions();
    let _controller = cluster.play(take_snapshots);
    for (name, code) in [("good", 0), ("bad", 1)] {
        let ran = cluster
            .tapedeck([
                "snapshot",
                "create",
                name,
                "-n",
                "shop",
                "--recording",
                "shop",
            ])
            .run();
        assert_eq!(ran.code, code, "{}", ran.stderr);
    }
    let slow = [
        "snapshot",
        "create",
        "slow",
        "-n",
        "shop",
        "--recording",
        "shop",
        "--no-wait",
    ];
    cluster.tapedeck(slow).succeeds();
    cluster
        .tapedeck(["pull", "slow", "-n", "shop", "-o", "/nonexistent/x"])
        .fails(1, &["snapshot slow is not there yet (Pending"]);
    cluster
        .tapedeck(["pull", "bad", "-n", "shop", "-o", "/nonexistent/x"])
        .fails(1, &["could not be taken: s3://bucket: access denied"]);
    cluster
        .tapedeck(["pull", "none", "-n", "shop", "-o", "/nonexistent/x"])
        .fails(1, &["there is no snapshot none in the namespace shop"]);
    cluster
        .tapedeck([
            "snapshot",
            "create",
            "odd",
            "--recording",
            "a",
            "--filter",
            "response.status >=",
        ])
        .fails(2, &["--filter"]);
    let ran = cluster.tapedeck(["ls", "-A"]).succeeds();
    assert!(
        ran.stdout.contains("shop/good  Ready    2/3    7"),
        "{}",
        ran.stdout
    );
    let ran = cluster
        .tapedeck(["ls", "-n", "shop", "-o", "name"])
        .succeeds();
    assert_eq!(ran.stdout, "snapshot/bad\nsnapshot/good\nsnapshot/slow\n");
    let ran = cluster
        .tapedeck(["ls", "-n", "shop", "-o", "yaml"])
        .succeeds();
    let list: Value = serde_saphyr::from_str(&ran.stdout).expect("YAML");
    assert_eq!(list["items"].as_array().expect("items").len(), 3);
    assert_eq!(list["items"][0]["kind"], "Snapshot");
}

/// How the controller answers one request for a snapshot.
#[derive(Clone, Copy, Debug)]
enum Answers {
    /// What is asked for.
    Well,
    /// It ends after so many bytes.
    Cut(usize),
    /// All of it, whatever range is asked for.
    Whole,
    /// 503.
    Busy,
    /// Other bytes of the same length.
    Lies,
    /// Another range than that which is asked for.
    WrongRange,
}

/// The controller's port: answers as it is told, then well. Returns its address, and the ranges that were asked for.
fn controller(body: &'static [u8], answers: &[Answers]) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let mut answers: Vec<Answers> = answers.iter().rev().copied().collect();
    let ranges = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answers.pop().unwrap_or(Answers::Well);
            // Whoever cuts the connection has its reasons.
            drop(answer_one(stream, body, answer, &ranges));
        }
    });
    (address, asked)
}

fn answer_one(
    mut stream: TcpStream,
    body: &[u8],
    answer: Answers,
    ranges: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut from = 0;
    let mut has_sum = false;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            ranges.lock().expect("no panic").push(range.to_owned());
            from = range.trim_end_matches('-').parse().expect("a number");
        }
        has_sum |= line == format!("if-match: \"{}\"", blake3::hash(body).to_hex());
        if line.is_empty() {
            break;
        }
    }
    assert!(has_sum, "who asks must know the sum");
    if matches!(answer, Answers::Busy) {
        return write!(
            stream,
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy"
        );
    }
    let len = body.len();
    if matches!(answer, Answers::Whole) {
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n"
        )?;
        return stream.write_all(body);
    }
    let said = if matches!(answer, Answers::WrongRange) {
        from + 1
    } else {
        from
    };
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {said}-{}/{len}\r\nconnection: close\r\n\r\n",
        len - from,
        len - 1,
    )?;
    let rest = body.get(from..).expect("a range within");
    match answer {
        Answers::Cut(after) => stream.write_all(rest.get(..after).unwrap_or(rest)),
        Answers::Lies => stream.write_all(&vec![b'x'; rest.len()]),
        Answers::Well | Answers::Whole | Answers::Busy | Answers::WrongRange => {
            stream.write_all(rest)
        }
    }
}

/// A body that is no repetition of itself.
fn body() -> &'static [u8] {
    let bytes: Vec<u8> = (0..200_000_u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    Box::leak(bytes.into_boxed_slice())
}

fn cluster_with_snapshot(
    body: &'static [u8],
    answers: &[Answers],
) -> (Cluster, Arc<Mutex<Vec<String>>>) {
    let cluster = Cluster::with_definitions();
    cluster
        .server
        .seed(&ready_snapshot("friday", body))
        .expect("a snapshot");
    let (address, asked) = controller(body, answers);
    cluster
        .server
        .serve("tapedeck-system", "tapedeck-controller:http", address);
    (cluster, asked)
}

/// Pulls, and says whether the archive is there, with what was said.
fn pull(cluster: &Cluster, code: i32, says: &[&str]) -> Option<Vec<u8>> {
    let path = cluster.folder.path().join("friday.tape");
    let args = [
        "pull",
        "friday",
        "-n",
        "shop",
        "-o",
        path.to_str().expect("UTF-8"),
    ];
    if code == 0 {
        let ran = cluster.tapedeck(args).succeeds();
        for part in says {
            assert!(ran.stderr.contains(part), "{part}\n{}", ran.stderr);
        }
    } else {
        cluster.tapedeck(args).fails(code, says);
    }
    std::fs::read(path).ok()
}

/// What is left beside the archive.
fn partials(cluster: &Cluster) -> usize {
    let entries = std::fs::read_dir(cluster.folder.path()).expect("a folder");
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".pull"))
        .count()
}

#[test]
fn a_pull_goes_on_where_it_was_cut_and_checks_what_came() {
    let body = body();
    let cuts = [Answers::Cut(100_000), Answers::Busy, Answers::Cut(300_000)];
    let (cluster, asked) = cluster_with_snapshot(body, &cuts);
    let got = pull(
        &cluster,
        0,
        &[
            "friday.tape: 7 exchanges of 2/3 nodes, 781.2 KiB",
            "n3 is missing",
        ],
    );
    assert!(got.is_some_and(|got| got == body));
    assert_eq!(
        *asked.lock().expect("no panic"),
        ["0-", "100000-", "100000-", "400000-"]
    );
    assert_eq!(partials(&cluster), 0);
    pull(&cluster, 1, &["exists; --force replaces it"]);
}

#[test]
fn a_pull_that_ended_is_gone_on_with_by_the_next() {
    let body = body();
    // Cut for good: nothing more comes, again and again.
    let mut answers = vec![Answers::Cut(500_000)];
    answers.extend([Answers::Cut(0); 5]);
    let (cluster, asked) = cluster_with_snapshot(body, &answers);
    assert_eq!(
        pull(
            &cluster,
            1,
            &[
                "the transfer was cut again and again",
                "pull again to go on"
            ]
        ),
        None
    );
    assert_eq!(partials(&cluster), 1);
    asked.lock().expect("no panic").clear();
    let got = pull(&cluster, 0, &["going on behind 488.3 KiB"]);
    assert!(got.is_some_and(|got| got == body));
    assert_eq!(*asked.lock().expect("no panic"), ["500000-"]);
}

#[test]
fn a_pull_through_something_that_knows_no_ranges_begins_anew() {
    let body = body();
    let (cluster, _) = cluster_with_snapshot(body, &[Answers::Cut(1000), Answers::Whole]);
    assert!(pull(&cluster, 0, &[]).is_some_and(|got| got == body));
}

#[test]
fn what_is_not_the_snapshot_is_not_kept() {
    let body = body();
    let (cluster, _) = cluster_with_snapshot(body, &[Answers::Lies]);
    assert_eq!(
        pull(
            &cluster,
            1,
            &[
                "what came is not the snapshot friday: its BLAKE3 is",
                "it was not kept"
            ]
        ),
        None
    );
    assert_eq!(partials(&cluster), 0);
    let (cluster, _) = cluster_with_snapshot(body, &[Answers::WrongRange]);
    assert_eq!(
        pull(
            &cluster,
            1,
            &["the controller sends bytes 1-799999/800000, and not bytes 0-799999/800000"]
        ),
        None
    );
}

#[test]
fn a_pull_without_a_controller_or_the_right_to_it_is_said() {
    let cluster = Cluster::with_definitions();
    cluster
        .server
        .seed(&ready_snapshot("friday", b"tape"))
        .expect("a snapshot");
    assert_eq!(
        pull(
            &cluster,
            1,
            &["the controller does not answer", "no endpoints available"]
        ),
        None
    );
    let when = When {
        subresource: Some("proxy"),
        ..When::default()
    };
    cluster.server.fault(when, Fault::Forbidden, 1);
    assert_eq!(
        pull(
            &cluster,
            1,
            &[
                "services/proxy",
                "resourceNames: [\"tapedeck-controller:http\"]",
                "The Role tapedeck-admin"
            ]
        ),
        None
    );
}

#[test]
fn logs_are_those_of_the_nodes_and_the_controller() {
    let cluster = Cluster::with_definitions();
    for (name, component, node) in [
        ("tapedeck-node-a", "node", "n1"),
        ("tapedeck-node-b", "node", "n2"),
        ("tapedeck-controller-c", "controller", "n1"),
    ] {
        cluster.server.seed(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "tapedeck-system", "labels": { "app.kubernetes.io/name": "tapedeck", "app.kubernetes.io/component": component } },
            "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "x" }] },
            "status": { "phase": "Running" },
        })).expect("a pod");
        cluster.server.log(
            "tapedeck-system",
            name,
            "",
            &format!("{name} says \u{1b}[2J\n"),
        );
        cluster.server.log(
            "tapedeck-system",
            name,
            "main",
            &format!("{name} says \u{1b}[2J\n"),
        );
    }
    let lines = |args: &[&str]| {
        let ran = cluster.tapedeck(args.iter().copied()).succeeds();
        let mut lines: Vec<String> = ran.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(
        lines(&["logs"]),
        [
            "n1: tapedeck-node-a says \u{fffd}[2J",
            "n2: tapedeck-node-b says \u{fffd}[2J",
            "tapedeck-controller-c: tapedeck-controller-c says \u{fffd}[2J"
        ]
    );
    assert_eq!(lines(&["logs", "--node", "n2"]).len(), 1);
    assert_eq!(lines(&["logs", "--controller"]).len(), 1);
    cluster.tapedeck(["logs", "--node", "n7"]).fails(
        1,
        &["no pod of Tapedeck is in the namespace tapedeck-system"],
    );
}

#[test]
fn a_right_that_is_missing_is_said_with_its_rule() {
    let cluster = Cluster::with_roles();
    let admin = Cluster {
        server: Arc::clone(&cluster.server),
        folder: temp_folder(),
    };
    std::fs::write(admin.kubeconfig(), admin.server.kubeconfig("admin")).expect("a file");
    admin.tapedeck(["install"]).succeeds();
    cluster.tapedeck_as("jane", ["status"]).fails(
        1,
        &[
            "User \"jane\" cannot list resource \"nodereports\"",
            "resources: [nodereports]\n    verbs: [list]",
            "The ClusterRole tapedeck-viewer has it",
        ],
    );
    cluster
        .tapedeck_as("jane", ["record", "create", "a", "-n", "shop"])
        .fails(
            1,
            &[
                "A Role in the namespace shop",
                "verbs: [create]",
                "tapedeck-operator",
            ],
        );
    // The roles of the installation are enough for what they are said to be for.
    let bind = |kind: &str, role: &str, user: &str, namespace: &str| {
        let scope = if namespace.is_empty() {
            "ClusterRoleBinding"
        } else {
            "RoleBinding"
        };
        let mut binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": scope,
            "metadata": { "name": format!("{user}-{role}") },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role },
            "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user }],
        });
        if !namespace.is_empty() {
            binding["metadata"]["namespace"] = namespace.into();
        }
        cluster.server.seed(&binding).expect("a binding");
    };
    bind("ClusterRole", "tapedeck-viewer", "jane", "");
    cluster.report("n1", &ready_node());
    cluster.tapedeck_as("jane", ["status"]).succeeds();
    cluster.tapedeck_as("jane", ["ls", "-A"]).succeeds();
    cluster.tapedeck_as("jane", ["top"]).succeeds();
    cluster
        .tapedeck_as("jane", ["record", "create", "a", "-n", "shop"])
        .fails(1, &["verbs: [create]"]);
    bind("ClusterRole", "tapedeck-recorder", "jim", "shop");
    cluster
        .tapedeck_as("jim", ["record", "create", "a", "-n", "shop", "--no-wait"])
        .succeeds();
    cluster
        .tapedeck_as("jim", ["record", "create", "a", "-n", "pay", "--no-wait"])
        .fails(1, &["in the namespace \"pay\""]);
    cluster.tapedeck_as("jane", ["logs"]).fails(
        1,
        &["The Role tapedeck-admin of Tapedeck's namespace has it"],
    );
    bind("Role", "tapedeck-admin", "jane", "tapedeck-system");
    cluster
        .tapedeck_as("jane", ["logs"])
        .fails(1, &["no pod of Tapedeck"]);
    cluster
        .server
        .seed(&ready_snapshot("friday", b"tape"))
        .expect("a snapshot");
    let (address, _) = controller(b"tape", &[]);
    cluster
        .server
        .serve("tapedeck-system", "tapedeck-controller:http", address);
    let path = cluster.folder.path().join("friday.tape");
    cluster
        .tapedeck_as(
            "jane",
            [
                "pull",
                "friday",
                "-n",
                "shop",
                "-o",
                path.to_str().expect("UTF-8"),
            ],
        )
        .succeeds();
}

#[test]
fn a_cluster_that_is_not_there_or_has_no_tapedeck_is_said() {
    let cluster = Cluster::bare();
    for command in [&["status"][..], &["upgrade"], &["uninstall", "--yes"]] {
        cluster
            .tapedeck(command.iter().copied())
            .fails(1, &["not installed on this cluster"]);
    }
    for command in [&["ls"][..], &["top"], &["record", "create", "a"]] {
        cluster.tapedeck(command.iter().copied()).fails(
            1,
            &[
                "does not know Tapedeck's resources (tapedeck.dev/v1alpha1)",
                "cluster install",
            ],
        );
    }
    cluster.server.down().expect("it ends");
    cluster.tapedeck(["status"]).fails(
        1,
        &[
            "does not answer",
            "onnection refused",
            "the context standin of ",
        ],
    );
}

#[test]
fn an_api_server_that_throttles_is_asked_again() {
    let cluster = Cluster::with_definitions();
    cluster.report("n1", &ready_node());
    cluster.server.fault(
        When {
            resource: Some("nodereports"),
            ..When::default()
        },
        Fault::Throttled(1),
        1,
    );
    cluster.tapedeck(["status"]).succeeds();
    assert_eq!(cluster.server.count("list", "nodereports"), 2);
}

#[test]
fn kubeconfigs_are_found_and_joined_as_kubectl_does() {
    let cluster = Cluster::with_definitions();
    cluster.report("n1", &ready_node());
    let folder = temp_folder();
    let write = |name: &str, config: &Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, config.to_string()).expect("a file");
        path
    };
    // The contexts in one file, what they name in another, and one that is not there.
    let contexts = write(
        "contexts",
        &json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "away",
            "contexts": [
                { "name": "away", "context": { "cluster": "away", "user": "me" } },
                { "name": "here", "context": { "cluster": "here", "user": "me", "namespace": "shop" } },
            ],
        }),
    );
    let rest = write(
        "rest",
        &json!({
            "apiVersion": "v1", "kind": "Config",
            "clusters": [
                { "name": "here", "cluster": { "server": cluster.server.url() } },
                { "name": "away", "cluster": { "server": "http://127.0.0.1:1" } },
            ],
            "users": [{ "name": "me", "user": { "token": "admin" } }],
        }),
    );
    let joined = std::env::join_paths([contexts.clone(), folder.path().join("none"), rest.clone()])
        .expect("paths");
    let run = |args: &[&str]| {
        Tapedeck::new(["cluster"].iter().chain(args))
            .env("KUBECONFIG", &joined)
            .env("HOME", folder.path())
    };
    run(&["status"]).fails(1, &["127.0.0.1:1", "the context away of"]);
    run(&["status", "--context", "here"]).succeeds();
    run(&["status", "--context", "away", "--cluster", "here"]).succeeds();
    run(&["status", "--context", "nowhere"]).fails(
        1,
        &["there is no context \"nowhere\"; there are: away, here"],
    );
    // The namespace of the context, unless another is named.
    run(&["record", "create", "a", "--no-wait", "--context", "here"]).succeeds();
    assert!(
        cluster
            .server
            .get("recordings.tapedeck.dev", "shop", "a")
            .is_some()
    );
    run(&[
        "record",
        "create",
        "a",
        "--no-wait",
        "--context",
        "here",
        "-n",
        "pay",
    ])
    .succeeds();
    assert!(
        cluster
            .server
            .get("recordings.tapedeck.dev", "pay", "a")
            .is_some()
    );
    // --kubeconfig goes before KUBECONFIG, and that before the home folder.
    let here = cluster.kubeconfig();
    run(&["status", "--kubeconfig", here.to_str().expect("UTF-8")]).succeeds();
    run(&["status", "--kubeconfig", "/nonexistent"]).fails(1, &["/nonexistent"]);
    std::fs::create_dir(folder.path().join(".kube")).expect("a folder");
    std::fs::copy(&here, folder.path().join(".kube/config")).expect("a copy");
    let at_home = |home: &std::path::Path| {
        Tapedeck::new(["cluster", "status"])
            .env("KUBECONFIG", "")
            .env("HOME", home)
    };
    at_home(folder.path()).succeeds();
    at_home(cluster.folder.path()).fails(1, &["there is no kubeconfig"]);
}

#[test]
fn it_is_a_plugin_of_kubectl() {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let kubectl = root.join("target/tools/kubernetes/kubectl");
    let cluster = Cluster::with_definitions();
    cluster.report("n1", &ready_node());
    let plugin = cluster.folder.path().join("kubectl-tapedeck");
    symlink(env!("CARGO_BIN_EXE_tapedeck"), &plugin).expect("a link");
    let mut path = vec![cluster.folder.path().to_owned()];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let run = |program: &std::path::Path, args: &[&str]| {
        let output = Command::new(program)
            .args(args)
            .env("KUBECONFIG", cluster.kubeconfig())
            .env("PATH", std::env::join_paths(&path).expect("paths"))
            .stdin(Stdio::null())
            .output()
            .expect("it starts");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (code, text) = run(&plugin, &["status"]);
    assert!(code == Some(0) && text.contains("n1    ready"), "{text}");
    let (code, text) = run(&plugin, &["status", "--help"]);
    assert!(
        code == Some(0) && text.contains("Usage: kubectl tapedeck status"),
        "{text}"
    );
    let (code, text) = run(&plugin, &["status", "--nothing"]);
    assert!(code == Some(2) && text.contains("--nothing"), "{text}");
    if !kubectl.exists() {
        let required = std::env::var_os("TAPEDECK_REQUIRE_TOOLS").is_some_and(|one| one == "1");
        assert!(!required, "{} is missing", kubectl.display());
        println!(
            "skipped: {} is missing; `cargo xtask test` installs it",
            kubectl.display()
        );
        return;
    }
    let (code, text) = run(&kubectl, &["tapedeck", "status"]);
    assert!(code == Some(0) && text.contains("n1    ready"), "{text}");
    // kubectl itself reads what we made.
    cluster
        .tapedeck(["record", "create", "shop", "--no-wait"])
        .succeeds();
    let (code, text) = run(&kubectl, &["get", "recordings"]);
    assert!(code == Some(0) && text.contains("shop"), "{text}");
}
