use proptest::prelude::*;
use serde_json::{Value, json};
use tapedeck_cluster::NodeReport;

use super::*;

const NOW: i64 = 1_800_000_000;

fn time(seconds: i64) -> Time {
    Time(jiff::Timestamp::from_second(seconds).unwrap())
}

fn recording(namespace: &str, name: &str, spec: Value) -> (Place, Recording) {
    let mut whole = json!({ "selector": {} });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let recording: Recording = serde_json::from_value(json!({
        "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Recording",
        "metadata": {
            "name": name, "namespace": namespace, "uid": format!("uid-{name}"), "generation": 2,
            "creationTimestamp": time(NOW - 100).0.to_string(),
        },
        "spec": whole,
    }))
    .unwrap();
    (Place::of(&recording), recording)
}

fn report(node: &str, ago: i64, recordings: Value) -> (String, NodeReport) {
    let report = serde_json::from_value(json!({
        "apiVersion": "tapedeck.dev/v1alpha1", "kind": "NodeReport",
        "metadata": { "name": node }, "spec": { "node": node },
        "status": { "at": time(NOW - ago).0.to_string(), "recordings": recordings },
    }))
    .unwrap();
    (node.to_owned(), report)
}

fn said(state: &str, pods: u32, archived: u64) -> Value {
    json!({
        "uid": "uid-a", "namespace": "shop", "name": "a", "observedGeneration": 2,
        "state": state, "pods": pods, "archived": archived, "seen": archived + 1, "bytes": archived * 10,
        "message": if state == "Refused" { "no room" } else { "" },
    })
}

fn world(reports: impl IntoIterator<Item = (String, NodeReport)>) -> World {
    World {
        own_namespace: "tapedeck-system".to_owned(),
        stores: vec!["main".to_owned()],
        reports: reports.into_iter().collect(),
        ..World::default()
    }
}

fn reason(status: &RecordingStatus, kind: &str) -> (String, String) {
    let condition = conditions::of(&status.conditions, kind).unwrap();
    (condition.status.clone(), condition.reason.clone())
}

#[test]
fn the_condition_ready_says_how_far_it_is() {
    let fresh = |recordings: Value| vec![report("n1", 5, json!([])), report("n2", 5, recordings)];
    let old = json!([{ "uid": "uid-a", "namespace": "shop", "name": "a", "observedGeneration": 1, "state": "Attached", "pods": 1 }]);
    for (reports, spec, wanted) in [
        (vec![], json!({}), ("Unknown", "NoNodes")),
        (
            fresh(json!([said("Attached", 1, 0)])),
            json!({}),
            ("False", "Attaching"),
        ),
        (
            vec![report("n", 5, json!([said("Attached", 1, 0)]))],
            json!({}),
            ("True", "Attached"),
        ),
        (vec![report("n", 5, old)], json!({}), ("False", "Attaching")),
        (
            vec![report("n", 5, json!([said("Waiting", 0, 0)]))],
            json!({}),
            ("False", "NoPods"),
        ),
        (
            vec![report("n", 5, json!([said("Refused", 0, 0)]))],
            json!({}),
            ("False", "NodesFailing"),
        ),
        (
            vec![report("n", 101, json!([said("Attached", 1, 0)]))],
            json!({}),
            ("False", "NodesFailing"),
        ),
        (
            vec![report("n", 100, json!([said("Attached", 1, 0)]))],
            json!({}),
            ("True", "Attached"),
        ),
        (
            vec![report("n", 5, json!([said("Ended", 0, 9)]))],
            json!({}),
            ("False", "Ended"),
        ),
        (
            vec![report("n", 5, json!([said("Attached", 1, 0)]))],
            json!({ "paused": true }),
            ("False", "Paused"),
        ),
        (
            vec![report("n", 5, json!([said("Attached", 1, 0)]))],
            json!({ "limits": { "duration": "100s" } }),
            ("False", "Ended"),
        ),
        (
            vec![report("n", 5, json!([said("Attached", 1, 0)]))],
            json!({ "limits": { "duration": "101s" } }),
            ("True", "Attached"),
        ),
    ] {
        let (place, recording) = recording("shop", "a", spec);
        let status = status(&place, &recording, &world(reports), &time(NOW));
        let (holds, reason) = reason(&status, "Ready");
        assert_eq!((holds.as_str(), reason.as_str()), wanted);
        assert_eq!(status.observed_generation, Some(2));
    }
}

#[test]
fn what_makes_no_sense_is_not_accepted_and_says_why() {
    for (namespace, spec, wanted) in [
        ("shop", json!({}), "Accepted"),
        (
            "shop",
            json!({ "selector": { "namespaces": ["shop"] } }),
            "Accepted",
        ),
        (
            "shop",
            json!({ "selector": { "namespaces": ["bank"] } }),
            "NamespaceNotAllowed",
        ),
        (
            "shop",
            json!({ "selector": { "namespaces": ["*"] } }),
            "NamespaceNotAllowed",
        ),
        (
            "tapedeck-system",
            json!({ "selector": { "namespaces": ["*"] } }),
            "Accepted",
        ),
        (
            "shop",
            json!({ "destination": { "store": "main" } }),
            "Accepted",
        ),
        (
            "shop",
            json!({ "destination": { "store": "other" } }),
            "NoSuchStore",
        ),
        (
            "shop",
            json!({ "selector": { "matchLabels": { "app": "a" }, "matchExpressions": [{ "key": "app", "operator": "In", "values": ["b", "c"] }] } }),
            "SelectsNothing",
        ),
        (
            "shop",
            json!({ "selector": { "matchLabels": { "app": "a" }, "matchExpressions": [{ "key": "app", "operator": "DoesNotExist" }] } }),
            "SelectsNothing",
        ),
        (
            "shop",
            json!({ "selector": { "matchExpressions": [{ "key": "app", "operator": "Exists" }, { "key": "app", "operator": "DoesNotExist" }] } }),
            "SelectsNothing",
        ),
        (
            "shop",
            json!({ "selector": { "matchExpressions": [{ "key": "app", "operator": "In", "values": ["a"] }, { "key": "app", "operator": "NotIn", "values": ["a", "b"] }] } }),
            "SelectsNothing",
        ),
        (
            "shop",
            json!({ "selector": { "matchLabels": { "app": "a" }, "matchExpressions": [{ "key": "app", "operator": "In", "values": ["a"] }, { "key": "tier", "operator": "NotIn", "values": ["db"] }] } }),
            "Accepted",
        ),
        (
            "shop",
            json!({ "paths": { "include": ["/a/b"], "exclude": ["/a"] } }),
            "SelectsNothing",
        ),
        (
            "shop",
            json!({ "paths": { "exclude": ["/"] } }),
            "SelectsNothing",
        ),
        (
            "shop",
            json!({ "paths": { "include": ["/a", "/b"], "exclude": ["/a"] } }),
            "Accepted",
        ),
    ] {
        let (place, recording) = recording(namespace, "a", spec.clone());
        let reports = [report("n", 5, json!([said("Attached", 1, 0)]))];
        let status = status(&place, &recording, &world(reports), &time(NOW));
        let (holds, why) = reason(&status, "Accepted");
        assert_eq!(why, wanted, "{spec}");
        assert_eq!(holds == "True", wanted == "Accepted", "{spec}");
        assert_eq!(
            reason(&status, "Ready").1 == "NotAccepted",
            wanted != "Accepted"
        );
    }
}

#[test]
fn two_that_want_the_same_pods_in_different_ways_say_so() {
    for (other, wanted) in [
        (json!({}), "Accepted"),
        (json!({ "payload": "Headers" }), "Overlaps"),
        (json!({ "samplePerMille": 10 }), "Overlaps"),
        (json!({ "samplePerMille": 10, "paused": true }), "Accepted"),
        (json!({ "samplePerMille": 10, "ports": [80] }), "Accepted"),
        (
            json!({ "samplePerMille": 10, "selector": { "matchLabels": { "a": "b" } } }),
            "Accepted",
        ),
    ] {
        let mut world = world([]);
        let (place, recording_a) = recording("shop", "a", json!({}));
        let (other_place, other) = recording("shop", "b", other);
        world.recordings.insert(place.clone(), recording_a.clone());
        world.recordings.insert(other_place, other);
        let status = status(&place, &recording_a, &world, &time(NOW));
        assert_eq!(
            reason(&status, "Accepted"),
            ("True".to_owned(), wanted.to_owned())
        );
    }
}

#[test]
fn writing_the_same_again_is_not_needed_and_a_time_of_transition_stays() {
    let (place, mut recording) = recording("shop", "a", json!({}));
    let world = world([report("n", 5, json!([said("Attached", 1, 7)]))]);
    let first = status(&place, &recording, &world, &time(NOW));
    assert!(differs_in_kind(None, &first));
    recording.status = Some(first.clone());
    let second = status(&place, &recording, &world, &time(NOW + 50));
    assert_eq!(first, second);
    // More of the same is numbers only; another state is more.
    let mut more = world.clone();
    more.reports
        .extend([report("n", 5, json!([said("Attached", 1, 8)]))]);
    let numbers = status(&place, &recording, &more, &time(NOW));
    assert_ne!(first, numbers);
    assert!(!differs_in_kind(Some(&first), &numbers));
    more.reports
        .extend([report("n", 5, json!([said("Attached", 2, 8)]))]);
    let kind = status(&place, &recording, &more, &time(NOW));
    assert!(differs_in_kind(Some(&first), &kind));
}

proptest! {
    #[test]
    fn totals_are_those_of_all_nodes_and_trouble_comes_first(
        nodes in proptest::collection::vec((0_usize..6, 0_u32..9, 0_u64..1000, 0_i64..200), 0..80),
    ) {
        let states = ["Refused", "Unknown", "Attached", "Ended", "Paused", "Waiting"];
        let (place, recording) = recording("shop", "a", json!({}));
        let reports = nodes.iter().enumerate().map(|(number, (state, pods, archived, ago))| {
            report(&format!("n{number:03}"), *ago, json!([said(states[*state], *pods, *archived)]))
        });
        let status = status(&place, &recording, &world(reports), &time(NOW));
        let totals = &status.totals;
        prop_assert_eq!(totals.archived, nodes.iter().map(|node| node.2).sum::<u64>());
        let alive = nodes.iter().filter(|node| node.3 <= 100);
        prop_assert_eq!(totals.pods, alive.map(|node| node.1).sum::<u32>());
        let failing = nodes.iter().filter(|node| node.0 < 2 || node.3 > 100).count();
        prop_assert_eq!(totals.nodes_failing as usize, failing);
        prop_assert_eq!(status.nodes.len(), nodes.len().min(MAX_NODES_LISTED));
        let listed = status.nodes.iter().take_while(|brief| is_trouble(brief.state)).count();
        prop_assert_eq!(listed, failing.min(MAX_NODES_LISTED));
        let ready = conditions::holds(&status.conditions, "Ready");
        prop_assert!(!(ready && failing > 0));
        // The order of the nodes in it is no accident, so that nothing is written for nothing.
        prop_assert!(status.nodes.is_sorted_by_key(|brief| brief.state));
    }
}
