//! Logs, rights, kubeconfigs, and clusters that are not there.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tapedeck_cluster_standin::{Fault, When};

use crate::common::cluster::{Cluster, ready_node};
use crate::common::{Tapedeck, temp_folder};
use crate::pull::controller;
use crate::snapshots::ready_snapshot;

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
fn logs_are_followed_while_they_grow() {
    let cluster = Cluster::with_definitions();
    cluster.server.seed(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "tapedeck-node-a", "namespace": "tapedeck-system", "labels": { "app.kubernetes.io/name": "tapedeck", "app.kubernetes.io/component": "node" } },
        "spec": { "nodeName": "n1", "containers": [{ "name": "main", "image": "x" }] },
        "status": { "phase": "Running" },
    })).expect("a pod");
    let log = |text: &str| {
        for container in ["", "main"] {
            cluster
                .server
                .log("tapedeck-system", "tapedeck-node-a", container, text);
        }
    };
    log("one\n");
    let mut child = cluster.tapedeck(["logs", "--follow"]).spawn();
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut next = || lines.next().expect("a line").expect("UTF-8");
    assert_eq!(next(), "n1: one");
    log("one\ntwo\n");
    assert_eq!(next(), "n1: two");
    log("one\ntwo\nthree\n");
    assert_eq!(next(), "n1: three");
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
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
        .serve_plainly("tapedeck-system", "tapedeck-controller:https", address);
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
fn without_a_kubeconfig_the_cause_is_said_once() {
    let folder = temp_folder();
    let nowhere = folder.path().join("none");
    let run = |args: &[&str]| {
        let tapedeck = Tapedeck::new(["cluster"].iter().chain(args));
        let tapedeck = tapedeck.env("HOME", folder.path()).env("KUBECONFIG", "");
        tapedeck
            .env("KUBERNETES_SERVICE_HOST", "")
            .fails(1, &[])
            .stderr
    };
    let said = run(&["status"]);
    assert!(
        said.contains("there is no kubeconfig (KUBECONFIG, ~/.kube/config), and this is no pod"),
        "{said}"
    );
    let said = run(&["--kubeconfig", nowhere.to_str().expect("UTF-8"), "status"]);
    assert!(said.contains(nowhere.to_str().expect("UTF-8")), "{said}");
    assert_eq!(said.matches("No such file").count(), 1, "{said}");
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
