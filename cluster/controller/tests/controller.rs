//! The controller, against an API server and stores.

#![expect(
    clippy::unwrap_used,
    reason = "clippy sees a test in what is under #[test] only"
)]

mod common;

use common::{Cluster, NODES, SECRET, SERVICE};
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tapedeck_cluster_standin::{Fault, When};

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind)
        .unwrap_or(&Value::Null)
}

#[test]
fn what_the_nodes_report_becomes_the_status_of_a_recording() {
    let cluster = Cluster::new();
    let uid = cluster.recording("shop", json!({}));
    cluster.report(NODES[0], &uid, json!({ "state": "Attached", "pods": 2, "seen": 10, "archived": 9, "lost": { "gap_bytes_lost": 3 } }));
    cluster.report(NODES[1], &uid, json!({ "state": "Waiting", "message": "" }));
    let _controller = cluster.controller("a");
    let recording = cluster.until("recordings.tapedeck.dev", "shop", |recording| {
        condition(recording, "Ready")["status"] == "True"
    });
    let totals = &recording["status"]["totals"];
    assert_eq!(totals["nodesInformed"], 2);
    assert_eq!(
        (&totals["pods"], &totals["archived"], &totals["lostTotal"]),
        (&json!(2), &json!(9), &json!(3))
    );
    assert_eq!(condition(&recording, "Lossless")["status"], "False");
    assert_eq!(recording["status"]["nodes"][0]["node"], NODES[0]);
    assert_eq!(recording["status"]["observedGeneration"], 1);
    // A node that refuses it is trouble, is said, and comes first.
    cluster.report(
        NODES[1],
        &uid,
        json!({ "state": "Refused", "message": "no room for another rule" }),
    );
    let recording = cluster.until("recordings.tapedeck.dev", "shop", |recording| {
        condition(recording, "Ready")["reason"] == "NodesFailing"
    });
    assert_eq!(recording["status"]["nodes"][0]["node"], NODES[1]);
    assert!(
        condition(&recording, "Ready")["message"]
            .as_str()
            .unwrap()
            .contains("no room")
    );
    let events = cluster.wait("an event", || {
        let events = cluster.server.list("events.events.k8s.io");
        events
            .iter()
            .any(|event| event["reason"] == "NodesFailing")
            .then_some(events)
    });
    let event = events
        .iter()
        .find(|event| event["reason"] == "NodesFailing")
        .unwrap();
    assert_eq!(event["regarding"]["name"], "shop");
    assert_eq!(event["type"], "Warning");
}

#[test]
fn a_snapshot_is_put_together_of_what_the_nodes_delivered_and_can_be_pulled() {
    let cluster = Cluster::new();
    let uid = cluster.recording("shop", json!({}));
    for node in NODES {
        cluster.report(node, &uid, json!({ "state": "Attached", "pods": 1 }));
    }
    let controller = cluster.controller("a");
    cluster.snapshot(
        "friday",
        json!({ "recordings": ["shop"], "filter": "request.path != '/b/1'" }),
    );
    let snapshot = cluster.until("snapshots.tapedeck.dev", "friday", |snapshot| {
        snapshot["status"]["phase"] == "Collecting"
    });
    assert_eq!(
        snapshot["metadata"]["finalizers"],
        json!(["tapedeck.dev/stored"])
    );
    let order = &snapshot["status"]["order"];
    assert_eq!(order["recordings"], json!([uid]));
    assert_eq!(order["nodes"], json!(NODES));
    assert_eq!(order["store"], "main");
    cluster.deliver(NODES[0], &snapshot, &["/a/1", "/a/2"]);
    cluster.deliver(NODES[1], &snapshot, &["/b/1", "/b/2", "/b/3"]);
    let snapshot = cluster.until("snapshots.tapedeck.dev", "friday", |snapshot| {
        condition(snapshot, "PartsRemoved")["status"] == "True"
    });
    assert_eq!(snapshot["status"]["phase"], "Ready");
    assert_eq!(
        condition(&snapshot, "Complete")["status"],
        "True",
        "{snapshot:#}"
    );
    assert_eq!(snapshot["status"]["completeness"]["nodes"], "2/2");
    let location = &snapshot["status"]["location"];
    assert_eq!(location["exchanges"], 4);
    // The parts are gone, the result is there, and it is what the status says.
    let kept = cluster.stored();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let bytes = std::fs::read(&kept[0]).unwrap();
    assert_eq!(location["bytes"], bytes.len());
    assert_eq!(location["blake3"], blake3::hash(&bytes).to_hex().as_str());
    assert_eq!(common::paths(&kept[0]), ["/a/1", "/b/2", "/a/2", "/b/3"]);

    // It comes in ranges, through the API server.
    cluster.server.serve(
        "tapedeck-system",
        "tapedeck-controller:https",
        controller.address,
    );
    let etag = format!("\"{}\"", location["blake3"].as_str().unwrap());
    let get =
        |range: &str| cluster.pull("default/friday", &[("if-match", &etag), ("range", range)]);
    let (code, headers, body) = cluster.pull("default/friday", &[("if-match", &etag)]);
    assert_eq!((code, body.as_slice()), (200, bytes.as_slice()));
    assert_eq!(headers["etag"], etag.as_str());
    let (code, headers, body) = get("bytes=100-199");
    assert_eq!((code, body.as_slice()), (206, &bytes[100..200]));
    assert_eq!(
        headers["content-range"],
        format!("bytes 100-199/{}", bytes.len()).as_str()
    );
    let (code, _, body) = get("bytes=100-");
    assert_eq!((code, body.as_slice()), (206, &bytes[100..]));
    assert_eq!(get("bytes=99999999-").0, 416);
    // Who cannot name it does not get it.
    let of = |etag: &str| cluster.pull("default/friday", &[("if-match", etag)]).0;
    assert_eq!(cluster.pull("default/friday", &[]).0, 428);
    assert_eq!((of("\"other\""), of("*")), (412, 412));
    assert_eq!(cluster.pull("default/none", &[("if-match", &etag)]).0, 404);

    // Deleting it removes what is stored.
    cluster
        .server
        .delete("snapshots.tapedeck.dev", "default", "friday")
        .unwrap();
    cluster.wait("its end", || {
        cluster
            .server
            .get("snapshots.tapedeck.dev", "default", "friday")
            .is_none()
            .then_some(())
    });
    assert!(cluster.stored().is_empty());
}

#[test]
fn who_does_not_deliver_by_the_deadline_is_named() {
    let cluster = Cluster::new();
    let uid = cluster.recording("shop", json!({}));
    for node in NODES {
        cluster.report(node, &uid, json!({ "state": "Attached", "pods": 1 }));
    }
    let _controller = cluster.controller("a");
    cluster.snapshot("s", json!({ "recordings": ["shop"], "deadline": "3s" }));
    let snapshot = cluster.until("snapshots.tapedeck.dev", "s", |snapshot| {
        snapshot["status"]["phase"] == "Collecting"
    });
    cluster.deliver(NODES[0], &snapshot, &["/a/1"]);
    let snapshot = cluster.until("snapshots.tapedeck.dev", "s", |snapshot| {
        snapshot["status"]["phase"] == "Ready"
    });
    assert_eq!(snapshot["status"]["completeness"]["nodes"], "1/2");
    let missing = &snapshot["status"]["completeness"]["missing"];
    assert_eq!(missing[NODES[1]], "not begun by the deadline");
    assert_eq!(condition(&snapshot, "Complete")["reason"], "NodesMissing");
}

#[test]
fn a_store_that_lies_costs_the_nodes_parts_and_says_so() {
    let cluster = Cluster::new();
    let uid = cluster.recording("shop", json!({}));
    for node in NODES {
        cluster.report(node, &uid, json!({ "state": "Attached", "pods": 1 }));
    }
    let controller = cluster.controller("a");
    cluster.snapshot("s", json!({ "recordings": ["shop"] }));
    let snapshot = cluster.until("snapshots.tapedeck.dev", "s", |snapshot| {
        snapshot["status"]["phase"] == "Collecting"
    });
    drop(controller);
    cluster.deliver(NODES[0], &snapshot, &["/a/1"]);
    cluster.deliver(NODES[1], &snapshot, &["/b/1"]);
    // One byte of a part is another one.
    let part = cluster
        .stored()
        .into_iter()
        .find(|path| path.to_string_lossy().contains(NODES[1]))
        .unwrap();
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[50] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let _controller = cluster.controller("b");
    let snapshot = cluster.until("snapshots.tapedeck.dev", "s", |snapshot| {
        snapshot["status"]["phase"] == "Ready"
    });
    assert_eq!(snapshot["status"]["location"]["exchanges"], 1);
    let why = snapshot["status"]["completeness"]["missing"][NODES[1]]
        .as_str()
        .unwrap();
    assert!(why.contains("damaged there"), "{why}");
}

#[test]
fn a_volume_that_is_full_is_said_and_it_goes_on_when_there_is_room() {
    let cluster = Cluster::new();
    let Some(volume) = cluster.small_volume() else {
        return;
    };
    let uid = cluster.recording("shop", json!({}));
    for node in NODES {
        cluster.report(node, &uid, json!({ "state": "Attached", "pods": 1 }));
    }
    let _controller = cluster.controller("a");
    cluster.snapshot("s", json!({ "recordings": ["shop"] }));
    let snapshot = cluster.until("snapshots.tapedeck.dev", "s", |snapshot| {
        snapshot["status"]["phase"] == "Collecting"
    });
    cluster.deliver(NODES[0], &snapshot, &["/a/1"]);
    // There is room for one part more.
    volume.fill_but(4096);
    cluster.deliver(NODES[1], &snapshot, &["/b/1"]);
    let snapshot = cluster.until("snapshots.tapedeck.dev", "s", |snapshot| {
        condition(snapshot, "Ready")["reason"] == "Retrying"
    });
    let why = condition(&snapshot, "Ready")["message"].as_str().unwrap();
    assert!(why.contains("full"), "{why}");
    volume.empty();
    let snapshot = cluster.until("snapshots.tapedeck.dev", "s", |snapshot| {
        snapshot["status"]["phase"] == "Ready"
    });
    assert_eq!(snapshot["status"]["location"]["exchanges"], 2);
}

#[test]
fn what_cannot_be_made_says_why_at_once() {
    let cluster = Cluster::new();
    let uid = cluster.recording("shop", json!({}));
    cluster.report(NODES[0], &uid, json!({ "state": "Waiting" }));
    let _controller = cluster.controller("a");
    for (name, spec, reason) in [
        (
            "filter",
            json!({ "recordings": ["shop"], "filter": "path ==" }),
            "BadFilter",
        ),
        (
            "store",
            json!({ "recordings": ["shop"], "destination": { "store": "none" } }),
            "NoSuchStore",
        ),
    ] {
        cluster.snapshot(name, spec);
        let snapshot = cluster.until("snapshots.tapedeck.dev", name, |snapshot| {
            snapshot["status"]["phase"] == "Failed"
        });
        assert_eq!(condition(&snapshot, "Ready")["reason"], reason);
        assert_eq!(
            cluster.pull_direct(&_controller, &format!("default/{name}")),
            409
        );
    }
}

#[test]
fn when_the_leader_dies_another_one_goes_on_and_when_it_stops_at_once() {
    let cluster = Cluster::new();
    let uid = cluster.recording("shop", json!({}));
    cluster.report(NODES[0], &uid, json!({ "state": "Attached", "pods": 1 }));
    let first = cluster.controller("first");
    let holder = |name: &str| {
        cluster.wait(name, || {
            let lease = cluster.server.get(
                "leases.coordination.k8s.io",
                "tapedeck-system",
                "tapedeck-controller",
            )?;
            (lease["spec"]["holderIdentity"] == name).then_some(lease)
        })
    };
    holder("first");
    let second = cluster.controller("second");
    cluster.until("recordings.tapedeck.dev", "shop", |recording| {
        condition(recording, "Ready")["status"] == "True"
    });
    // It dies without a word.
    first.kill();
    let lease = holder("second");
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    cluster.report(NODES[0], &uid, json!({ "state": "Attached", "pods": 5 }));
    cluster.until("recordings.tapedeck.dev", "shop", |recording| {
        recording["status"]["totals"]["pods"] == 5
    });
    // This one stops in order: the third need not wait for the lease to run out.
    second.stop();
    let lease = cluster
        .server
        .get(
            "leases.coordination.k8s.io",
            "tapedeck-system",
            "tapedeck-controller",
        )
        .unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "");
    let _third = cluster.controller("third");
    holder("third");
}

#[test]
fn faults_of_the_api_server_delay_and_lose_nothing() {
    let cluster = Cluster::new();
    let uid = cluster.recording("shop", json!({}));
    cluster.report(NODES[0], &uid, json!({ "state": "Attached", "pods": 1 }));
    let _controller = cluster.controller("a");
    let pods = |wanted: u64| {
        cluster.until("recordings.tapedeck.dev", "shop", |recording| {
            recording["status"]["totals"]["pods"] == wanted
        });
    };
    pods(1);
    let writes = When {
        verb: Some("patch"),
        resource: Some("recordings"),
        subresource: Some("status"),
    };
    for (number, fault) in [
        Fault::Throttled(1),
        Fault::Conflict,
        Fault::Broken,
        Fault::Cut,
        Fault::DoneAndCut,
    ]
    .into_iter()
    .enumerate()
    {
        cluster.server.fault(writes, fault, 1);
        let wanted = number as u64 + 2;
        cluster.report(
            NODES[0],
            &uid,
            json!({ "state": "Attached", "pods": wanted }),
        );
        pods(wanted);
    }
    // Watches are cut, and what they had not told is forgotten.
    cluster.server.compact();
    cluster.server.cut();
    cluster.report(NODES[0], &uid, json!({ "state": "Attached", "pods": 20 }));
    pods(20);
    // An outage.
    cluster.server.down().unwrap();
    cluster.report(NODES[0], &uid, json!({ "state": "Attached", "pods": 30 }));
    cluster.server.up().unwrap();
    pods(30);
}

#[test]
fn a_role_that_is_too_tight_is_said_with_the_missing_rule() {
    let cluster = Cluster::with_roles();
    let controller = cluster.controller("a");
    let lacks = |wanted: &str| {
        cluster.wait(wanted, || {
            let (code, text) = controller.get("/readyz");
            (code == 503 && text.contains(wanted)).then_some(())
        });
    };
    lacks(
        "system:serviceaccount:tapedeck-system:tapedeck-controller lacks the rule {apiGroups: [\"coordination.k8s.io\"], resources: [\"leases\"], verbs: [\"get\"]} in a Role in tapedeck-system",
    );
    // The port speaks TLS all the same, with a certificate that nobody can check.
    cluster.wait("the rule for the certificate", || {
        let rule = "{apiGroups: [\\\"\\\"], resources: [\\\"secrets\\\"], verbs: [\\\"get\\\"]}";
        cluster.logs().contains(rule).then_some(())
    });
    // With the roles of the chart it has all it needs, and none too many.
    cluster.roles("tapedeck-controller");
    let uid = cluster.recording("shop", json!({}));
    cluster.report(NODES[0], &uid, json!({ "state": "Attached", "pods": 1 }));
    cluster.until("recordings.tapedeck.dev", "shop", |recording| {
        condition(recording, "Ready")["status"] == "True"
    });
    cluster.snapshot("s", json!({ "recordings": ["shop"], "ttl": "1s" }));
    let snapshot = cluster.until("snapshots.tapedeck.dev", "s", |snapshot| {
        snapshot["status"]["phase"] == "Collecting"
    });
    cluster.deliver(NODES[0], &snapshot, &["/a/1"]);
    // Until its time is over: everything that is done with a snapshot was done then.
    cluster.wait("the end of its time", || {
        let there = cluster.server.get("snapshots.tapedeck.dev", "default", "s");
        there.is_none().then_some(())
    });
    assert!(cluster.stored().is_empty());
    cluster.wait("readiness", || {
        (controller.get("/readyz").0 == 200).then_some(())
    });
    let made = cluster.wait("a certificate", || cluster.secret("ca.crt"));
    assert!(cluster.is_of(&controller, &made));
    let (_, metrics) = controller.get("/metrics");
    assert!(!metrics.contains("forbidden"), "{metrics}");
}

/// Definitions that know more values than the types do.
fn newer_definitions(cluster: &Cluster) {
    for (plural, from, to) in [
        ("recordings", "\"Headers\"]", "\"Headers\",\"Trailers\"]"),
        ("nodereports", "\"Waiting\",", "\"Waiting\",\"Dreaming\","),
        (
            "nodereports",
            "\"cpuMillis\":{",
            "\"cpuMillis\":{\"x-kubernetes-preserve-unknown-fields\":true},\"cpuWas\":{",
        ),
        (
            "snapshots",
            "\"Pending\",\"Collecting\"",
            "\"Pending\",\"Collecting\",\"Dreaming\"",
        ),
    ] {
        let kind = "customresourcedefinitions.apiextensions.k8s.io";
        let name = format!("{plural}.tapedeck.dev");
        let text = cluster.server.get(kind, "", &name).unwrap().to_string();
        let newer = text.replace(from, to);
        assert_ne!(newer, text, "{plural} {from}");
        let newer: Value = serde_json::from_str(&newer).unwrap();
        cluster.server.seed(&newer).unwrap();
    }
}

/// Definitions of a newer version, with values that this one does not know: the objects that have them are named, and
/// hide no others.
#[test]
fn what_a_newer_version_wrote_is_named_and_hides_nothing() {
    let cluster = Cluster::new();
    newer_definitions(&cluster);
    let uid = cluster.recording("shop", json!({}));
    let newer = json!({
        "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Recording",
        "metadata": { "name": "newer" }, "spec": { "selector": {}, "payload": "Trailers" },
    });
    cluster.server.seed(&newer).unwrap();
    cluster.snapshot("strange", json!({ "recordings": ["shop"] }));
    let mut strange = cluster
        .server
        .get("snapshots.tapedeck.dev", "default", "strange")
        .unwrap();
    strange["status"] = json!({ "phase": "Dreaming" });
    cluster.server.seed(&strange).unwrap();
    cluster.report(NODES[0], &uid, json!({ "state": "Attached", "pods": 2 }));
    cluster.report(NODES[1], &uid, json!({ "state": "Dreaming", "pods": 1 }));
    let controller = cluster.controller("a");

    let recording = cluster.until("recordings.tapedeck.dev", "shop", |recording| {
        condition(recording, "Ready")["reason"] == "NodesFailing"
    });
    let why = condition(&recording, "Ready")["message"].as_str().unwrap();
    assert!(
        why.contains("node-b: its report is not understood") && why.contains("the state"),
        "{why}"
    );
    assert_eq!(recording["status"]["totals"]["nodesAttached"], 1);
    // One that cannot be read at all.
    cluster.write_report(NODES[1], |status| {
        status["cost"] = json!({ "cpuMillis": "twelve" });
    });
    let recording = cluster.until("recordings.tapedeck.dev", "shop", |recording| {
        let why = &condition(recording, "Ready")["message"];
        why.as_str().is_some_and(|why| why.contains("twelve"))
    });
    assert_eq!(recording["status"]["nodes"][0]["state"], "Unknown");
    // The watches go on: what comes now is seen.
    cluster.recording("later", json!({}));
    cluster.until("recordings.tapedeck.dev", "later", |recording| {
        condition(recording, "Ready")["reason"] == "NodesFailing"
    });
    // A snapshot asks the node all the same, and says at its deadline why it is missing.
    cluster.snapshot("s", json!({ "recordings": ["shop"], "deadline": "2s" }));
    let snapshot = cluster.until("snapshots.tapedeck.dev", "s", |snapshot| {
        snapshot["status"]["phase"] == "Failed"
    });
    let missing = &snapshot["status"]["completeness"]["missing"][NODES[1]];
    assert!(
        missing.as_str().unwrap().contains("not understood"),
        "{missing}"
    );
    cluster.snapshot("of-newer", json!({ "recordings": ["newer"] }));
    let snapshot = cluster.until("snapshots.tapedeck.dev", "of-newer", |snapshot| {
        snapshot["status"]["phase"] == "Failed"
    });
    assert_eq!(condition(&snapshot, "Ready")["reason"], "NotUnderstood");
    // What is not understood is left alone, and named.
    let newer = cluster
        .server
        .get("recordings.tapedeck.dev", "default", "newer")
        .unwrap();
    assert!(newer["status"].is_null(), "{newer}");
    let named = cluster.wait("the events", || {
        let events = cluster.server.list("events.events.k8s.io");
        let named: std::collections::BTreeSet<String> = events
            .iter()
            .filter(|event| event["reason"] == "NotUnderstood")
            .map(|event| {
                let of = &event["regarding"];
                format!("{} {}", of["kind"], of["name"]).replace('"', "")
            })
            .collect();
        (named.len() == 3).then_some(named)
    });
    assert_eq!(
        named.into_iter().collect::<Vec<_>>(),
        ["NodeReport node-b", "Recording newer", "Snapshot strange"]
    );
    let (_, text) = controller.get("/metrics");
    for line in [
        "tapedeck_controller_not_understood{resource=\"nodereports\"} 1",
        "tapedeck_controller_not_understood{resource=\"recordings\"} 1",
        "tapedeck_controller_not_understood{resource=\"snapshots\"} 1",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(
        !text.contains("tapedeck_controller_watch_failures_total{"),
        "{text}"
    );
    // Once it is understood again, all is well.
    cluster.write_report(NODES[1], |status| status["cost"] = json!({}));
    cluster.report(NODES[1], &uid, json!({ "state": "Attached", "pods": 1 }));
    cluster.until("recordings.tapedeck.dev", "shop", |recording| {
        condition(recording, "Ready")["status"] == "True"
    });
}

#[test]
fn what_it_asks_of_the_api_server_is_little() {
    let cluster = Cluster::new();
    let uid = cluster.recording("shop", json!({}));
    for node in NODES {
        cluster.report(node, &uid, json!({ "state": "Attached", "pods": 1 }));
    }
    let controller = cluster.controller("a");
    cluster.until("recordings.tapedeck.dev", "shop", |recording| {
        condition(recording, "Ready")["status"] == "True"
    });
    cluster.server.forget_requests();
    // Numbers that grow are not written at once; what changes in kind is, and takes them along.
    for seen in 0..50 {
        cluster.report(
            NODES[0],
            &uid,
            json!({ "state": "Attached", "pods": 1, "seen": seen }),
        );
    }
    cluster.report(
        NODES[0],
        &uid,
        json!({ "state": "Attached", "pods": 2, "seen": 99 }),
    );
    cluster.until("recordings.tapedeck.dev", "shop", |recording| {
        recording["status"]["totals"]["pods"] == 3 && recording["status"]["totals"]["seen"] == 99
    });
    assert_eq!(cluster.server.count("patch", "recordings/status"), 1);
    let others: Vec<_> = cluster
        .server
        .requests()
        .into_iter()
        .filter(|request| !["leases", "events", "secrets"].contains(&request.resource.as_str()))
        .filter(|request| request.subresource != "status")
        .collect();
    assert!(others.is_empty(), "{others:?}");
    let (code, text) = controller.get("/metrics");
    assert_eq!(code, 200);
    assert!(text.contains("tapedeck_controller_leader 1"), "{text}");
    assert!(text.contains("tapedeck_controller_nodes 2"), "{text}");
}

/// One of several makes it, all show it, and whoever comes later renews it.
#[test]
fn the_controllers_make_a_certificate_keep_it_and_renew_it() {
    let cluster = Cluster::new();
    let first = cluster.controller("first");
    let authority = cluster.wait("a certificate", || cluster.secret("ca.crt"));
    assert!(cluster.is_of(&first, &authority));
    let second = cluster.controller("second");
    cluster.wait("the same at the second", || {
        cluster.is_of(&second, &authority).then_some(())
    });
    assert_eq!(cluster.secret("ca.crt").unwrap(), authority);
    // The key is that of the certificate, and the port speaks nothing else than TLS.
    assert!(
        cluster
            .secret("tls.key")
            .unwrap()
            .starts_with(b"-----BEGIN PRIVATE KEY-----")
    );
    let plain = std::process::Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "20",
            &format!("http://{}/livez", second.address),
        ])
        .output()
        .unwrap();
    assert!(!plain.status.success() && plain.stdout.is_empty());

    // It grows old.
    let mut secret = cluster
        .server
        .get("secrets", "tapedeck-system", SECRET)
        .unwrap();
    // 2020-01-01T00:00:00Z
    secret["data"]["renew-after"] = "MjAyMC0wMS0wMVQwMDowMDowMFo=".into();
    cluster.server.seed(&secret).unwrap();
    let third = cluster.controller("third");
    let renewed = cluster.wait("another certificate", || {
        cluster.secret("ca.crt").filter(|now| *now != authority)
    });
    cluster.wait("the new one at the port", || {
        cluster.is_of(&third, &renewed).then_some(())
    });
    assert!(!cluster.is_of(&third, &authority));
    // Those that were there before come to show it, too.
    for before in [&first, &second] {
        cluster.wait("the new one at an older port", || {
            cluster.is_of(before, &renewed).then_some(())
        });
    }
}

/// A certificate for the controller's name, by an authority: both, and the key.
fn made_by_somebody() -> (String, String, String) {
    let mut authority = rcgen::CertificateParams::default();
    // Whoever has the name of who signed it counts as signed by itself.
    authority
        .distinguished_name
        .push(rcgen::DnType::CommonName, "somebody");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = authority.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut leaf = rcgen::CertificateParams::new(vec![SERVICE.to_owned()]).unwrap();
    leaf.distinguished_name
        .push(rcgen::DnType::CommonName, SERVICE);
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    (leaf.pem(), key.serialize_pem(), pem)
}

#[test]
fn a_certificate_of_somebody_else_is_shown_and_stays() {
    let cluster = Cluster::new();
    let (certificate, key, authority) = made_by_somebody();
    cluster
        .server
        .seed(&json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": { "name": SECRET, "namespace": "tapedeck-system" },
            "data": {
                "tls.crt": ByteString(certificate.into_bytes()),
                "tls.key": ByteString(key.into_bytes()),
            },
        }))
        .unwrap();
    let controller = cluster.controller("a");
    controller.get("/livez");
    cluster.wait("it at the port", || {
        cluster
            .is_of(&controller, authority.as_bytes())
            .then_some(())
    });
    assert_eq!(cluster.server.count("update", "secrets"), 0);
}

#[test]
fn files_of_a_certificate_are_read_again_and_wrong_ones_are_named() {
    let cluster = Cluster::new();
    let at = |name: &str| cluster.folder().join(name);
    let write = || {
        let (certificate, key, authority) = made_by_somebody();
        // The kubelet changes both at once; a controller that looks in between keeps what it has.
        std::fs::write(at("tls.crt"), certificate).unwrap();
        std::fs::write(at("tls.key"), key).unwrap();
        authority.into_bytes()
    };
    let first = write();
    let certificate = format!("--tls-certificate={}", at("tls.crt").display());
    let key = format!("--tls-key={}", at("tls.key").display());
    let controller = cluster.controller_with("a", &[&certificate, &key]);
    controller.get("/livez");
    assert!(cluster.is_of(&controller, &first));
    let second = write();
    cluster.wait("the new one", || {
        cluster.is_of(&controller, &second).then_some(())
    });
    // Nothing that makes sense: the port stays what it was.
    std::fs::write(at("tls.key"), "no key").unwrap();
    cluster.wait("a word about it", || {
        cluster
            .logs()
            .contains("tls.key is no private key in PEM")
            .then_some(())
    });
    assert!(cluster.is_of(&controller, &second));
    cluster.controller_with("b", &[&certificate, &key]).fails();
    let said = std::fs::read_to_string(at("b.log")).unwrap();
    assert!(
        said.contains("tls.key") && said.contains("no private key"),
        "{said}"
    );
}
