//! `record`.

use serde_json::{Value, json};
use tapedeck_cluster_standin::{Fault, Standin, When};

use crate::common::cluster::{Cluster, condition};

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

/// All is well: the recording is on two nodes, unless it is paused.
fn attach(recording: &Value) -> Option<Value> {
    let generation = recording["metadata"]["generation"].as_u64()?;
    let (status, reason, nodes) = if recording["spec"]["paused"] == true {
        ("False", "Paused", 0)
    } else {
        ("True", "Attached", 2)
    };
    Some(json!({
        "conditions": [
            condition("Accepted", "True", "Valid", "", generation),
            condition("Ready", status, reason, "", generation),
        ],
        "totals": { "nodesAttached": nodes, "pods": 3 },
    }))
}

#[test]
fn a_recording_is_made_and_waited_for_paused_resumed_and_deleted() {
    let cluster = Cluster::with_definitions();
    let _controller = cluster.play(|server| decide(server, attach));
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

/// The API server would leave it out in silence, and everything would be recorded.
#[test]
fn what_older_definitions_do_not_know_is_not_asked_of_them() {
    let cluster = Cluster::with_definitions();
    let kind = "customresourcedefinitions.apiextensions.k8s.io";
    let found = cluster.server.get(kind, "", "recordings.tapedeck.dev");
    let mut crd = found.expect("it is there");
    let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let spec = schema["properties"]["spec"]["properties"].as_object_mut();
    let removed = spec.expect("fields").shift_remove("paths");
    assert!(removed.is_some());
    cluster.server.seed(&crd).expect("an older definition");
    cluster
        .tapedeck(["record", "create", "a", "-n", "shop", "--path", "/api"])
        .fails(1, &["know no such `paths`", "tapedeck cluster upgrade"]);
    assert!(cluster.server.list("recordings.tapedeck.dev").is_empty());
    cluster
        .tapedeck(["record", "create", "a", "-n", "shop", "--no-wait"])
        .succeeds();
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

#[test]
fn a_server_that_fails_for_a_while_is_waited_for() {
    let cluster = Cluster::with_definitions();
    let _controller = cluster.play(|server| decide(server, attach));
    let asks = |verb| When {
        resource: Some("recordings"),
        verb: Some(verb),
        ..When::default()
    };
    cluster.server.fault(asks("list"), Fault::Broken, 2);
    cluster.server.fault(asks("watch"), Fault::Cut, 1);
    let ran = cluster
        .tapedeck(["record", "create", "shop", "-n", "shop", "-l", "app=shop"])
        .succeeds();
    assert!(
        ran.stderr.contains("shop is recorded: 3 pods on 2 nodes"),
        "{}",
        ran.stderr
    );
    assert!(cluster.server.count("list", "recordings") >= 3);
    cluster.server.fault(asks("list"), Fault::Forbidden, 9);
    cluster
        .tapedeck(["record", "pause", "shop", "-n", "shop"])
        .fails(1, &["cannot watch recording shop"]);
}
