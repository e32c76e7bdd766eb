use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_800_000_000;

fn time(seconds: i64) -> Time {
    Time(jiff::Timestamp::from_second(seconds).unwrap())
}

fn snapshot(spec: Value, held: bool) -> (Place, Snapshot) {
    let mut whole = json!({ "recordings": ["a"] });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let finalizers = if held { json!([FINALIZER]) } else { json!([]) };
    let snapshot: Snapshot = serde_json::from_value(json!({
        "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Snapshot",
        "metadata": {
            "name": "s", "namespace": "shop", "uid": "uid-s", "generation": 1, "finalizers": finalizers,
            "creationTimestamp": time(NOW).0.to_string(),
        },
        "spec": whole,
    }))
    .unwrap();
    (Place::of(&snapshot), snapshot)
}

fn report(node: &str, ago: i64, said: Option<Value>) -> (String, NodeReport) {
    let said: Vec<Value> = said
        .into_iter()
        .map(|mut said| {
            said["uid"] = "uid-s".into();
            said
        })
        .collect();
    let report = serde_json::from_value(json!({
        "apiVersion": "tapedeck.dev/v1alpha1", "kind": "NodeReport",
        "metadata": { "name": node }, "spec": { "node": node },
        "status": { "at": time(NOW - ago).0.to_string(), "snapshots": said },
    }))
    .unwrap();
    (node.to_owned(), report)
}

fn world(nodes: &[&str]) -> World {
    let recording: Recording = serde_json::from_value(json!({
        "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Recording",
        "metadata": { "name": "a", "namespace": "shop", "uid": "uid-a" },
        "spec": { "selector": {} },
    }))
    .unwrap();
    World {
        own_namespace: "tapedeck-system".to_owned(),
        stores: vec!["main".to_owned(), "cold".to_owned()],
        recordings: BTreeMap::from([(Place::of(&recording), recording)]),
        reports: nodes.iter().map(|node| report(node, 5, None)).collect(),
        ..World::default()
    }
}

fn written(step: Step) -> SnapshotStatus {
    match step {
        Step::Write(status) => *status,
        other => panic!("{other:?}"),
    }
}

fn why(status: &SnapshotStatus, kind: &str) -> String {
    conditions::of(&status.conditions, kind)
        .unwrap()
        .reason
        .clone()
}

#[test]
fn what_holds_it_comes_before_anything_is_stored() {
    let (place, snapshot) = snapshot(json!({}), false);
    assert_eq!(
        step(&place, &snapshot, &world(&["n"]), &time(NOW)),
        Step::Hold
    );
}

#[test]
fn an_order_names_all_that_the_nodes_need() {
    let (place, snapshot) = snapshot(
        json!({ "destination": { "store": "cold" }, "deadline": "1m" }),
        true,
    );
    let status = written(step(&place, &snapshot, &world(&["n1", "n2"]), &time(NOW)));
    assert_eq!(status.phase, Phase::Collecting);
    let order = status.order.unwrap();
    assert_eq!(order.recordings, ["uid-a"]);
    assert_eq!(order.nodes, ["n1", "n2"]);
    assert_eq!(
        (order.store.as_str(), order.prefix.as_str()),
        ("cold", "shop/s/uid-s/parts")
    );
    assert_eq!(order.to, Some(time(NOW + 1)));
    assert_eq!(order.deadline, Some(time(NOW + 60)));
}

/// One node that can deliver is enough for a snapshot; one whose report is not understood may be able to.
#[test]
fn some_encrypted_nodes_do_not_hold_a_snapshot_up() {
    let (place, snapshot) = snapshot(json!({}), true);
    let mut world = world(&["n1", "n2"]);
    let encrypt = |world: &mut World, node: &str| {
        let status = world.reports.get_mut(node).unwrap().status.as_mut();
        status.unwrap().facts.encrypted = true;
    };
    encrypt(&mut world, "n1");
    let status = written(step(&place, &snapshot, &world, &time(NOW)));
    assert_eq!(status.order.unwrap().nodes, ["n1", "n2"]);
    world.reports.remove("n2");
    world.unread.insert("n2".to_owned(), "why".to_owned());
    let status = written(step(&place, &snapshot, &world, &time(NOW)));
    assert_eq!(status.order.unwrap().nodes, ["n1", "n2"]);
}

#[test]
fn what_cannot_be_made_fails_at_once_with_the_reason() {
    let no_nodes = world(&[]);
    let no_stores = World {
        stores: Vec::new(),
        ..world(&["n"])
    };
    let some = world(&["n"]);
    let mut encrypted = world(&["n", "m"]);
    for report in encrypted.reports.values_mut() {
        report.status.as_mut().unwrap().facts.encrypted = true;
    }
    let mut not_understood = world(&["n"]);
    let (place, _) = not_understood.recordings.pop_first().unwrap();
    let why_not = "unknown variant".to_owned();
    not_understood.unread_recordings.insert(place, why_not);
    for (world, spec, later, reason) in [
        (
            &some,
            json!({ "filter": "request.path ==" }),
            0,
            "BadFilter",
        ),
        (
            &some,
            json!({ "destination": { "store": "x" } }),
            0,
            "NoSuchStore",
        ),
        (&no_stores, json!({}), 0, "NoSuchStore"),
        (&no_nodes, json!({}), 0, "NoNodes"),
        (&encrypted, json!({}), 0, "Encrypted"),
        (&not_understood, json!({}), 0, "NotUnderstood"),
        (
            &some,
            json!({ "recordings": ["a", "b"] }),
            10,
            "NoSuchRecording",
        ),
    ] {
        let (place, snapshot) = snapshot(spec, true);
        let status = written(step(&place, &snapshot, world, &time(NOW + later)));
        assert_eq!(
            (status.phase, why(&status, "Ready").as_str()),
            (Phase::Failed, reason)
        );
        assert!(status.finished_at.is_some());
        assert_eq!(status.order, None);
    }
    // The recording may have been made together with it, and come later to us.
    let (place, snapshot) = snapshot(json!({ "recordings": ["b"] }), true);
    let step = step(&place, &snapshot, &some, &time(NOW + 9));
    assert!(matches!(step, Step::Wait(Some(_))), "{step:?}");
}

#[test]
fn it_waits_for_who_may_still_deliver_and_for_nobody_else() {
    let (place, mut snapshot) = snapshot(json!({ "deadline": "60s" }), true);
    let mut world = world(&["n1", "n2", "n3", "n4"]);
    snapshot.status = Some(written(step(&place, &snapshot, &world, &time(NOW))));
    let part =
        json!({ "key": "shop/s/uid-s/parts/n1/x.tape", "bytes": 1, "blake3": "0".repeat(64) });
    world.reports.extend([
        report(
            "n1",
            1,
            Some(json!({ "state": "Delivered", "parts": [part] })),
        ),
        report(
            "n2",
            1,
            Some(json!({ "state": "Failed", "message": "the disk is gone" })),
        ),
        report(
            "n3",
            1,
            Some(json!({ "state": "Uploading", "message": "3 of 9 files" })),
        ),
    ]);
    world.reports.remove("n4");
    let status = written(step(&place, &snapshot, &world, &time(NOW + 30)));
    assert_eq!(status.phase, Phase::Collecting);
    assert_eq!(status.completeness.nodes, "1/4");
    assert_eq!(status.completeness.missing["n2"], "the disk is gone");
    assert_eq!(status.completeness.missing["n4"], "the node is gone");
    snapshot.status = Some(status);
    let again = step(&place, &snapshot, &world, &time(NOW + 30));
    assert_eq!(again, Step::Wait(Some(Duration::from_secs(10))));
    // The deadline, to the second.
    let status = written(step(&place, &snapshot, &world, &time(NOW + 60)));
    assert_eq!(status.phase, Phase::Merging);
    assert_eq!(
        status.completeness.missing["n3"],
        "not done by the deadline: 3 of 9 files"
    );
    // Or it falls silent before that.
    world
        .reports
        .extend([report("n3", 75, Some(json!({ "state": "Uploading" })))]);
    let status = written(step(&place, &snapshot, &world, &time(NOW + 30)));
    assert_eq!(status.phase, Phase::Merging);
    assert!(status.completeness.missing["n3"].starts_with("it has said nothing since"));
    let parts = parts(&snapshot, &world);
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].node, "n1");
}

#[test]
fn without_any_part_there_is_nothing_to_make() {
    let (place, mut snapshot) = snapshot(json!({}), true);
    let mut world = world(&["n1"]);
    snapshot.status = Some(written(step(&place, &snapshot, &world, &time(NOW))));
    world.reports.extend([report(
        "n1",
        1,
        Some(json!({ "state": "Failed", "message": "no room" })),
    )]);
    let status = written(step(&place, &snapshot, &world, &time(NOW + 1)));
    assert_eq!(
        (status.phase, why(&status, "Ready").as_str()),
        (Phase::Failed, "NothingDelivered")
    );
}

#[test]
fn a_controller_that_did_not_see_the_parts_asks_for_them_again() {
    let (place, mut snapshot) = snapshot(json!({ "deadline": "60s" }), true);
    let mut world = world(&["n1"]);
    let mut status = written(step(&place, &snapshot, &world, &time(NOW)));
    status.phase = Phase::Merging;
    snapshot.status = Some(status);
    let again = written(step(&place, &snapshot, &world, &time(NOW + 50)));
    assert_eq!(again.phase, Phase::Collecting);
    assert_eq!(again.order.unwrap().deadline, Some(time(NOW + 110)));
    world.parts.insert("uid-s".to_owned(), Vec::new());
    assert_eq!(
        step(&place, &snapshot, &world, &time(NOW + 50)),
        Step::Merge
    );
}

fn made(spoilt: &[&str], lost: u64) -> Made {
    Made {
        location: tapedeck_cluster::Location {
            exchanges: 3,
            ..tapedeck_cluster::Location::default()
        },
        incomplete: 1,
        lost: BTreeMap::from([("gap_bytes_lost".to_owned(), lost)]),
        spoilt: spoilt
            .iter()
            .map(|node| ((*node).to_owned(), "damaged".to_owned()))
            .collect(),
    }
}

#[test]
fn it_is_complete_when_no_node_is_missing_and_nothing_was_lost() {
    for (spoilt, lost, reason) in [
        (&[][..], 0, "Complete"),
        (&[], 5, "Lost"),
        (&["n1"], 0, "NodesMissing"),
    ] {
        let (_, mut snapshot) = snapshot(json!({}), true);
        snapshot.status = Some(SnapshotStatus {
            phase: Phase::Merging,
            completeness: Completeness {
                nodes_asked: 2,
                nodes_delivered: 2,
                ..Completeness::default()
            },
            ..SnapshotStatus::default()
        });
        let status = done(&snapshot, made(spoilt, lost), &time(NOW));
        assert_eq!(status.phase, Phase::Ready);
        assert_eq!(why(&status, "Complete"), reason);
        assert_eq!(
            status.completeness.nodes_delivered as usize,
            2 - spoilt.len()
        );
        assert_eq!(
            conditions::holds(&status.conditions, "Complete"),
            reason == "Complete"
        );
    }
}

#[test]
fn what_is_finished_is_tidied_up_and_ends_with_its_time() {
    let (place, mut snapshot) = snapshot(json!({ "ttl": "1h" }), true);
    let world = world(&["n1"]);
    let ordered = written(step(&place, &snapshot, &world, &time(NOW)));
    snapshot.status = Some(ordered);
    snapshot.status = Some(done(&snapshot, made(&[], 0), &time(NOW)));
    assert_eq!(step(&place, &snapshot, &world, &time(NOW)), Step::Tidy);
    snapshot.status = Some(tidied(&snapshot, &time(NOW)));
    let wait = Step::Wait(Some(Duration::from_secs(3600)));
    assert_eq!(step(&place, &snapshot, &world, &time(NOW)), wait);
    assert_eq!(
        step(&place, &snapshot, &world, &time(NOW + 3600)),
        Step::Delete
    );
    snapshot.metadata.deletion_timestamp = Some(time(NOW + 3600));
    assert_eq!(
        step(&place, &snapshot, &world, &time(NOW + 3600)),
        Step::Clean
    );
    snapshot.metadata.finalizers = None;
    assert_eq!(
        step(&place, &snapshot, &world, &time(NOW + 3600)),
        Step::Wait(None)
    );
}

proptest! {
    /// Whatever nodes do and whenever it is looked at: no node is counted twice or not at all, and
    /// with the deadline it ends.
    #[test]
    fn each_node_is_delivered_missing_or_waited_for(
        nodes in proptest::collection::vec((0_usize..5, 0_i64..200), 1..60),
        later in 0_i64..200,
    ) {
        let names: Vec<String> = (0..nodes.len()).map(|number| format!("n{number:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (place, mut snapshot) = snapshot(json!({ "deadline": "60s" }), true);
        let mut world = world(&names);
        snapshot.status = Some(written(step(&place, &snapshot, &world, &time(NOW))));
        for (name, (what, ago)) in names.iter().zip(&nodes) {
            let said = match what {
                0 => None,
                1 => Some(json!({ "state": "Uploading" })),
                2 => Some(json!({ "state": "Delivered" })),
                3 => Some(json!({ "state": "Failed", "message": "x" })),
                _ => {
                    world.reports.remove(*name);
                    continue;
                }
            };
            world.reports.extend([report(name, ago - later, said)]);
        }
        let now = time(NOW + later);
        let order = snapshot.status.clone().unwrap().order.unwrap();
        let found = delivery(&snapshot, &order, &world, &now);
        let counted = found.delivered.len() + found.missing.len() + found.waiting.len();
        prop_assert_eq!(counted, nodes.len());
        match step(&place, &snapshot, &world, &now) {
            Step::Write(status) => {
                let over = matches!(status.phase, Phase::Merging | Phase::Failed);
                prop_assert_eq!(over, found.waiting.is_empty() || later >= 60);
                prop_assert_eq!(status.phase == Phase::Failed, over && found.delivered.is_empty());
                prop_assert!(status.completeness.missing.len() <= MAX_MISSING_NAMED);
            }
            Step::Wait(Some(_)) => prop_assert!(later < 60),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
