//! `snapshot` and `ls`.

use serde_json::{Value, json};
use tapedeck_cluster_standin::Standin;

use crate::common::cluster::{Cluster, condition};

pub(crate) fn ready_snapshot(name: &str, body: &[u8]) -> Value {
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
