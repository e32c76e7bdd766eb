//! The stand-in, through the client that Tapedeck uses.

#![expect(
    clippy::unwrap_used,
    reason = "clippy sees a test in what is under #[test] only"
)]

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::watcher;
use kube::{Api, Client, Error, ResourceExt};
use serde_json::{Value, json};
use tapedeck_cluster::{NodeReport, Recording, RecordingSpec, Snapshot};
use tapedeck_cluster_standin::{Fault, Standin, When};

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": name } },
        "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "x" }] },
        "status": { "phase": "Running" },
    })
}

fn server() -> (Standin, Client) {
    let server = Standin::start().unwrap();
    for crd in tapedeck_cluster::crds().unwrap() {
        server.seed(&crd).unwrap();
    }
    let client = Client::try_from(server.config()).unwrap();
    (server, client)
}

fn code(error: &Error) -> (u16, &str) {
    match error {
        Error::Api(status) => (status.code, &status.reason),
        other => panic!("{other}"),
    }
}

fn recording(name: &str) -> Recording {
    Recording::new(name, RecordingSpec::default())
}

#[tokio::test]
async fn definitions_bring_kinds_with_schemas_rules_and_a_status_of_their_own() {
    let (server, client) = server();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd = crds.get("recordings.tapedeck.dev").await.unwrap();
    let conditions = crd.status.unwrap().conditions.unwrap();
    assert!(
        conditions
            .iter()
            .any(|c| c.type_ == "Established" && c.status == "True")
    );

    let api: Api<Recording> = Api::default_namespaced(client.clone());
    let made = api
        .create(&PostParams::default(), &recording("a"))
        .await
        .unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    assert!(made.uid().is_some());
    let again = api.create(&PostParams::default(), &recording("a")).await;
    assert_eq!(code(&again.unwrap_err()), (409, "AlreadyExists"));

    let raw: Api<kube::api::DynamicObject> = Api::default_namespaced_with(
        client.clone(),
        &kube::api::ApiResource::erase::<Recording>(&()),
    );
    for (spec, said) in [
        (
            json!({ "selector": {}, "samplePerMille": 0 }),
            "samplePerMille",
        ),
        (
            json!({ "selector": {}, "ports": "80" }),
            "must be of type array",
        ),
        (json!({}), "spec.selector: Required value"),
        (
            json!({ "selector": {}, "payload": "Some" }),
            "supported values",
        ),
        (
            json!({ "selector": { "namespaces": ["*", "b"] } }),
            "stands for all namespaces",
        ),
        (
            json!({ "selector": { "matchExpressions": [{ "key": "a", "operator": "In" }] } }),
            "In and NotIn have values",
        ),
        (
            json!({ "selector": {}, "limits": { "duration": "soon" } }),
            "should match",
        ),
    ] {
        let object = json!({
            "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Recording",
            "metadata": { "name": "bad" }, "spec": spec,
        });
        let object = serde_json::from_value(object).unwrap();
        let error = raw
            .create(&PostParams::default(), &object)
            .await
            .unwrap_err();
        assert_eq!(code(&error), (422, "Invalid"));
        assert!(error.to_string().contains(said), "{error}");
    }

    // A status is written by itself, and leaves the generation alone.
    let status = json!({ "status": { "totals": { "seen": 7 } }, "spec": { "paused": true } });
    let merge = Patch::Merge(&status);
    let after = api
        .patch_status("a", &PatchParams::default(), &merge)
        .await
        .unwrap();
    assert_eq!(after.status.unwrap().totals.seen, 7);
    assert!(!after.spec.paused);
    assert_eq!(after.metadata.generation, Some(1));
    let after = api
        .patch(
            "a",
            &PatchParams::default(),
            &Patch::Merge(json!({ "spec": { "paused": true }, "status": null })),
        )
        .await
        .unwrap();
    assert_eq!(after.metadata.generation, Some(2));
    assert_eq!(after.status.unwrap().totals.seen, 7);
    drop(server);
}

#[tokio::test]
async fn a_rule_about_what_was_there_before_holds() {
    let (_server, client) = server();
    let api: Api<Snapshot> = Api::default_namespaced(client);
    let snapshot: Snapshot = serde_json::from_value(json!({
        "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Snapshot",
        "metadata": { "name": "s" }, "spec": { "recordings": ["a"] },
    }))
    .unwrap();
    api.create(&PostParams::default(), &snapshot).await.unwrap();
    let change = json!({ "spec": { "recordings": ["b"] } });
    let error = api
        .patch("s", &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("taken once"), "{error}");
}

#[tokio::test]
async fn who_writes_over_a_newer_version_is_told_so() {
    let (_server, client) = server();
    let api: Api<Recording> = Api::default_namespaced(client);
    let first = api
        .create(&PostParams::default(), &recording("a"))
        .await
        .unwrap();
    let mut mine = first.clone();
    mine.spec.ports = vec![80];
    let second = api
        .replace("a", &PostParams::default(), &mine)
        .await
        .unwrap();
    assert_ne!(first.resource_version(), second.resource_version());
    mine.spec.ports = vec![81];
    let error = api
        .replace("a", &PostParams::default(), &mine)
        .await
        .unwrap_err();
    assert_eq!(code(&error), (409, "Conflict"));
    // Writing what is there changes nothing.
    let same = api
        .replace("a", &PostParams::default(), &second)
        .await
        .unwrap();
    assert_eq!(same.resource_version(), second.resource_version());
}

#[tokio::test]
async fn apply_knows_whose_a_field_is() {
    let (_server, client) = server();
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    let apply = |manager: &'static str, force: bool, data: Value| {
        let api = api.clone();
        async move {
            let mut params = PatchParams::apply(manager);
            params.force = force;
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": "m" }, "data": data,
            });
            api.patch("m", &params, &Patch::Apply(object)).await
        }
    };
    apply("a", false, json!({ "one": "1", "two": "2" }))
        .await
        .unwrap();
    let both = apply("b", false, json!({ "three": "3", "one": "1" }))
        .await
        .unwrap();
    assert_eq!(both.data.unwrap().len(), 3);
    // Another value of another's field is a conflict, and says whose.
    let error = apply("b", false, json!({ "three": "3", "two": "x" }))
        .await
        .unwrap_err();
    assert_eq!(code(&error), (409, "Conflict"));
    assert!(
        error
            .to_string()
            .contains("conflict with \"a\" using v1: .data.two"),
        "{error}"
    );
    // `one` had two owners: it stays when one leaves it.
    let left = apply("b", false, json!({ "three": "3" })).await.unwrap();
    assert_eq!(left.data.unwrap().len(), 3);
    // `two` is taken by force, and then not a's to remove.
    apply("b", true, json!({ "three": "3", "two": "x" }))
        .await
        .unwrap();
    let left = apply("a", false, json!({ "one": "1" })).await.unwrap();
    let data = left.data.unwrap();
    assert_eq!(data["two"], "x");
    // What nobody applies any more goes.
    let left = apply("a", false, json!({})).await.unwrap();
    assert!(!left.data.unwrap().contains_key("one"));
    // A plain write owns what it changed.
    let merge = Patch::Merge(json!({ "data": { "three": "4" } }));
    api.patch(
        "m",
        &PatchParams {
            field_manager: Some("c".to_owned()),
            ..PatchParams::default()
        },
        &merge,
    )
    .await
    .unwrap();
    let error = apply("b", false, json!({ "three": "5", "two": "x" }))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("\"c\""), "{error}");
}

#[tokio::test]
async fn items_of_keyed_lists_are_owned_one_by_one() {
    let (_server, client) = server();
    let api: Api<Recording> = Api::default_namespaced(client);
    api.create(&PostParams::default(), &recording("a"))
        .await
        .unwrap();
    let apply = |manager: &'static str, kind: &'static str, status: &'static str| {
        let api = api.clone();
        async move {
            let object = json!({
                "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Recording",
                "metadata": { "name": "a" },
                "status": { "conditions": [{
                    "type": kind, "status": status, "reason": "Because", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }] },
            });
            api.patch_status("a", &PatchParams::apply(manager), &Patch::Apply(object))
                .await
        }
    };
    apply("one", "Ready", "True").await.unwrap();
    let both = apply("two", "Lossless", "True").await.unwrap();
    assert_eq!(both.status.unwrap().conditions.len(), 2);
    let error = apply("two", "Ready", "False").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains(".status.conditions[type=\"Ready\"].status"),
        "{error}"
    );
    let before = api.get("a").await.unwrap();
    let same = apply("one", "Ready", "True").await.unwrap();
    assert_eq!(before.resource_version(), same.resource_version());
}

#[tokio::test]
async fn lists_come_in_pages_and_by_selectors() {
    let (server, client) = server();
    for number in 0..25 {
        let node = if number % 5 == 0 { "n0" } else { "n1" };
        server.seed(&pod(&format!("p{number:02}"), node)).unwrap();
    }
    let api: Api<Pod> = Api::all(client);
    let mine = ListParams::default().fields("spec.nodeName=n0");
    assert_eq!(api.list(&mine).await.unwrap().items.len(), 5);
    let one = ListParams::default().labels("app in (p03, p99)");
    assert_eq!(api.list(&one).await.unwrap().items[0].name_any(), "p03");
    let mut names = Vec::new();
    let mut params = ListParams::default().limit(10);
    let mut pages = 0;
    loop {
        let page = api.list(&params).await.unwrap();
        pages += 1;
        names.extend(page.items.iter().map(ResourceExt::name_any));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => break,
        }
    }
    assert_eq!((pages, names.len()), (3, 25));
    assert!(names.is_sorted());
    server.compact();
    let error = api.list(&params).await.unwrap_err();
    assert_eq!(code(&error), (410, "Expired"));
    let unknown = ListParams::default().fields("spec.color=red");
    assert_eq!(code(&api.list(&unknown).await.unwrap_err()).0, 400);
}

async fn next(
    events: &mut (impl Stream<Item = Result<WatchEvent<Pod>, Error>> + Unpin),
) -> (&'static str, String) {
    match events.next().await.unwrap().unwrap() {
        WatchEvent::Added(pod) => ("added", pod.name_any()),
        WatchEvent::Modified(pod) => ("modified", pod.name_any()),
        WatchEvent::Deleted(pod) => ("deleted", pod.name_any()),
        WatchEvent::Bookmark(mark) => ("bookmark", mark.metadata.resource_version),
        WatchEvent::Error(status) => ("error", status.code.to_string()),
    }
}

#[tokio::test]
async fn a_watch_says_what_enters_changes_and_leaves_its_selection() {
    let (server, client) = server();
    let api: Api<Pod> = Api::all(client);
    let version = api.list(&ListParams::default()).await.unwrap();
    let version = version.metadata.resource_version.unwrap();
    let params = WatchParams::default()
        .fields("spec.nodeName=n1")
        .labels("app=a");
    let mut events = Box::pin(api.watch(&params, &version).await.unwrap());
    server.seed(&pod("other", "n2")).unwrap();
    server.seed(&pod("a", "n1")).unwrap();
    // Its status is written by itself, which is a change.
    assert_eq!(next(&mut events).await, ("added", "a".to_owned()));
    assert_eq!(next(&mut events).await, ("modified", "a".to_owned()));
    let mut left = pod("a", "n1");
    left["metadata"]["labels"]["app"] = "b".into();
    server.seed(&left).unwrap();
    assert_eq!(next(&mut events).await, ("deleted", "a".to_owned()));
    server.bookmark();
    assert_eq!(next(&mut events).await.0, "bookmark");
    // From a version that is forgotten none can go on.
    server.compact();
    let mut events = Box::pin(api.watch(&params, &version).await.unwrap());
    assert_eq!(next(&mut events).await, ("error", "410".to_owned()));
}

#[tokio::test]
async fn a_watcher_of_kube_lives_through_cuts_expiry_and_an_outage() {
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let (server, client) = server();
        server.seed(&pod("a", "n1")).unwrap();
        let api: Api<Pod> = Api::all(client);
        let events = watcher(api, config.any_semantic());
        let mut events = Box::pin(events.filter_map(|event| async move {
            match event {
                Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                    Some(pod.name_any())
                }
                _ => None,
            }
        }));
        assert_eq!(events.next().await.unwrap(), "a");
        for (name, trouble) in [
            ("b", Standin::cut as fn(&Standin)),
            ("c", Standin::compact),
            ("d", |server| {
                server.down().unwrap();
                server.up().unwrap();
            }),
            ("e", |server| {
                server.compact();
                server.cut();
            }),
        ] {
            trouble(&server);
            server.seed(&pod(name, "n1")).unwrap();
            while events.next().await.unwrap() != name {}
        }
    }
}

#[tokio::test]
async fn finalizers_hold_and_what_is_owned_goes_along() {
    let (server, client) = server();
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let owner = server
        .seed(&json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "owner", "finalizers": ["test/held"] },
        }))
        .unwrap();
    server
        .seed(&json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "owned", "ownerReferences": [{
                "apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
                "uid": owner["metadata"]["uid"],
            }] },
        }))
        .unwrap();
    let left = api.delete("owner", &DeleteParams::default()).await.unwrap();
    let marked = left.left().unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    let release = json!({ "metadata": { "finalizers": [] } });
    api.patch("owner", &PatchParams::default(), &Patch::Merge(release))
        .await
        .unwrap();
    assert!(server.get("configmaps", "default", "owner").is_none());
    assert!(server.get("secrets", "default", "owned").is_none());

    // A namespace and a definition wait for the last of theirs.
    server
        .seed(&json!({
            "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Recording",
            "metadata": { "name": "r", "namespace": "shop", "finalizers": ["test/held"] },
            "spec": { "selector": {} },
        }))
        .unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .delete("shop", &DeleteParams::default())
        .await
        .unwrap();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    crds.delete("recordings.tapedeck.dev", &DeleteParams::default())
        .await
        .unwrap();
    assert!(namespaces.get("shop").await.is_ok());
    assert!(crds.get("recordings.tapedeck.dev").await.is_ok());
    let recordings: Api<Recording> = Api::namespaced(client, "shop");
    let release = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    recordings
        .patch("r", &PatchParams::default(), &release)
        .await
        .unwrap();
    assert!(namespaces.get("shop").await.is_err());
    assert!(crds.get("recordings.tapedeck.dev").await.is_err());
    assert_eq!(
        code(&recordings.list(&ListParams::default()).await.unwrap_err()).0,
        404
    );
}

#[tokio::test]
async fn roles_allow_what_they_name_and_the_refusal_names_what_is_missing() {
    let server = Standin::with_roles().unwrap();
    for crd in tapedeck_cluster::crds().unwrap() {
        server.seed(&crd).unwrap();
    }
    let user = "system:serviceaccount:tapedeck-system:tapedeck-node";
    let client = Client::try_from(server.config_of(user)).unwrap();
    let reports: Api<NodeReport> = Api::all(client.clone());
    let error = reports.get("n1").await.unwrap_err();
    assert_eq!(code(&error), (403, "Forbidden"));
    assert!(
        error.to_string().contains(
            "nodereports.tapedeck.dev \"n1\" is forbidden: User \"system:serviceaccount:tapedeck-system:tapedeck-node\" cannot get resource \"nodereports\" in API group \"tapedeck.dev\" at the cluster scope"
        ),
        "{error}"
    );
    server
        .seed(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": "tapedeck-node" },
            "rules": [{ "apiGroups": ["tapedeck.dev"], "resources": ["nodereports", "nodereports/status"], "verbs": ["create", "get", "patch"] }],
        }))
        .unwrap();
    server
        .seed(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": "tapedeck-node" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tapedeck-node" },
            "subjects": [{ "kind": "ServiceAccount", "namespace": "tapedeck-system", "name": "tapedeck-node" }],
        }))
        .unwrap();
    assert_eq!(code(&reports.get("n1").await.unwrap_err()).0, 404);
    assert_eq!(
        code(&reports.list(&ListParams::default()).await.unwrap_err()).0,
        403
    );
    let leases: Api<Lease> = Api::namespaced(client, "tapedeck-system");
    assert_eq!(code(&leases.get("x").await.unwrap_err()).0, 403);
}

#[tokio::test]
async fn faults_meet_whom_they_are_meant_for_and_all_is_counted() {
    let server = Standin::start().unwrap();
    let mut config = server.config();
    // Else the client asks again by itself.
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let pods: Api<Pod> = Api::all(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let lists = When {
        verb: Some("list"),
        resource: Some("pods"),
        ..When::default()
    };
    for (fault, wanted) in [
        (Fault::Throttled(3), 429),
        (Fault::Broken, 500),
        (Fault::Unavailable, 503),
        (Fault::Forbidden, 403),
        (Fault::Expired, 410),
    ] {
        server.fault(lists, fault, 1);
        maps.list(&ListParams::default()).await.unwrap();
        let error = pods.list(&ListParams::default()).await.unwrap_err();
        assert_eq!(code(&error).0, wanted);
        pods.list(&ListParams::default()).await.unwrap();
    }
    let creates = When {
        verb: Some("create"),
        ..When::default()
    };
    server.fault(creates, Fault::DoneAndCut, 1);
    let map: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "m" } })).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap_err();
    assert!(server.get("configmaps", "default", "m").is_some());
    assert_eq!(server.count("list", "pods"), 10);
    assert_eq!(server.count("list", "configmaps"), 5);
    let last = server.requests().pop().unwrap();
    assert_eq!(
        (last.verb, last.code, last.user.as_str()),
        ("create", 0, "admin")
    );
}

#[tokio::test]
async fn logs_and_services_are_reached_through_it() {
    let server = Standin::start().unwrap();
    // Another one of it is a service.
    let behind = Standin::start().unwrap();
    server.serve(
        "tapedeck-system",
        "tapedeck-controller:http",
        behind.address(),
    );
    let client = Client::try_from(server.config()).unwrap();
    let path = "/api/v1/namespaces/tapedeck-system/services/tapedeck-controller:http/proxy/version";
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    let answer: Value = client.request(request).await.unwrap();
    assert_eq!(answer["minor"], "33");
    server.log("default", "a", "main", "one\ntwo\nthree\n");
    let pods: Api<Pod> = Api::default_namespaced(client);
    let last = kube::api::LogParams {
        tail_lines: Some(2),
        ..Default::default()
    };
    assert_eq!(pods.logs("a", &last).await.unwrap(), "two\nthree\n");
}

#[tokio::test]
async fn discovery_lists_what_definitions_add() {
    let (_server, client) = server();
    let discovery = kube::Discovery::new(client).run().await.unwrap();
    let group = discovery.get("tapedeck.dev").unwrap();
    let (resource, capabilities) = group.recommended_kind("Recording").unwrap();
    assert_eq!(resource.plural, "recordings");
    assert!(
        capabilities
            .subresources
            .iter()
            .any(|(of, _)| of.plural == "status")
    );
    assert!(discovery.groups().count() > 5);
}
