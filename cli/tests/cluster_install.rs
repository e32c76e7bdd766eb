//! `tapedeck cluster install`, `upgrade` and `uninstall`, on the stand-in API server; the objects are
//! compared with what real helm makes of the chart, and real kubectl reads them.

mod common;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::cluster::{Cluster, run_pods};
use common::{Tapedeck, temp_folder};
use serde_json::{Value, json};
use tapedeck_cluster_standin::Standin;

/// Helm or kubectl, where `cargo xtask test` puts them; else the test says why it is skipped.
fn tool(name: &str) -> Option<PathBuf> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let path = root.join("target/tools/kubernetes").join(name);
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var_os("TAPEDECK_REQUIRE_TOOLS").is_some_and(|one| one == "1");
    assert!(!required, "{} is missing", path.display());
    #[expect(clippy::print_stdout, reason = "a test says why it is skipped")]
    {
        println!(
            "skipped: {} is missing; `cargo xtask test` installs it",
            path.display()
        );
    }
    None
}

fn documents(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("YAML");
    documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect()
}

fn key(object: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (
        text(&object["kind"]),
        text(&object["metadata"]["namespace"]),
        text(&object["metadata"]["name"]),
    )
}

/// What differs between Helm's objects and ours by intent: who looks after them.
fn without_helm(mut object: Value) -> Value {
    for labels in ["/metadata/labels", "/spec/template/metadata/labels"] {
        if let Some(Value::Object(labels)) = object.pointer_mut(labels) {
            labels.shift_remove("helm.sh/chart");
            labels["app.kubernetes.io/managed-by"] = "tapedeck".into();
        }
    }
    object
}

fn printed(args: &[&str]) -> Vec<Value> {
    let all = ["cluster", "install", "--dry-run"].iter().chain(args);
    // It needs no cluster: none is there.
    let ran = Tapedeck::new(all)
        .env("KUBECONFIG", "/nonexistent")
        .env("HOME", "/nonexistent")
        .succeeds();
    documents(&ran.stdout)
}

#[test]
fn the_objects_are_those_of_the_chart() {
    let Some(helm) = tool("helm") else {
        return;
    };
    let cases: [(&[&str], &[&str]); 4] = [
        (&[], &[]),
        (
            &["--image", "example.com:5000/team/tapedeck:1.2.3"],
            &["--set=image.repository=example.com:5000/team/tapedeck,image.tag=1.2.3"],
        ),
        (&["-n", "observability"], &["--namespace=observability"]),
        (
            &[
                "--store",
                "s3://bucket/a&b",
                "--store-option",
                "region=eu-west-1",
                "--store-option",
                "endpoint=http://minio:9000",
                "--store-secret",
                "keys",
                "--snapshot-claim",
                "shared",
            ],
            &[
                "--set-json=stores=[{\"name\":\"default\",\"url\":\"s3://bucket/a&b\",\"secret\":\"keys\",\
               \"options\":{\"region\":\"eu-west-1\",\"endpoint\":\"http://minio:9000\"}}]",
                "--set=snapshotVolume.claimName=shared",
            ],
        ),
    ];
    for (ours, theirs) in cases {
        let output = Command::new(&helm)
            .args([
                "template",
                "tapedeck",
                concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/tapedeck"),
            ])
            .args([
                "--namespace=tapedeck-system",
                "--set=namespace.create=true,crds.keep=false",
            ])
            .args(theirs)
            .output()
            .expect("helm starts");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut chart: Vec<Value> = documents(&String::from_utf8_lossy(&output.stdout))
            .into_iter()
            .map(without_helm)
            .collect();
        let mut printed = printed(ours);
        chart.sort_by_key(key);
        printed.sort_by_key(key);
        assert_eq!(
            printed.iter().map(key).collect::<Vec<_>>(),
            chart.iter().map(key).collect::<Vec<_>>()
        );
        for (ours, theirs) in printed.iter().zip(&chart) {
            assert_eq!(ours, theirs, "{ours:#}\n{theirs:#}");
        }
    }
}

#[test]
fn what_is_printed_is_applied_by_kubectl_and_is_what_install_applies() {
    let Some(kubectl) = tool("kubectl") else {
        return;
    };
    let (by_kubectl, by_us) = (Cluster::bare(), Cluster::bare());
    let file = by_kubectl.folder.path().join("tapedeck.yaml");
    // Else it keeps what it learned of this server in the home of whoever runs the tests.
    let cache = by_kubectl.folder.path().join("kubectl-cache");
    let ran = by_kubectl
        .tapedeck(["install", "--dry-run", "-o", "yaml"])
        .succeeds();
    std::fs::write(&file, ran.stdout).expect("a file");
    let kubectl = |args: &[&str]| {
        let output = Command::new(&kubectl)
            .args(["--kubeconfig"])
            .arg(by_kubectl.kubeconfig())
            .arg("--cache-dir")
            .arg(&cache)
            .args(args)
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .expect("kubectl starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {text}");
        // Warnings are of fields that are odd.
        assert!(!text.contains("Warning"), "{text}");
    };
    // The namespace and the definitions are there only once they are applied.
    let objects = documents(&std::fs::read_to_string(&file).expect("the file"));
    kubectl(&["apply", "--server-side", "--validate=false"]);
    by_us.tapedeck(["install"]).succeeds();
    for object in &objects {
        let (kind, namespace, name) = key(object);
        let plural = plural(&kind);
        let get = |server: &Standin| {
            let mut found = server
                .get(plural, &namespace, &name)
                .unwrap_or_else(|| panic!("{kind} {name}"));
            for field in [
                "uid",
                "resourceVersion",
                "creationTimestamp",
                "managedFields",
            ] {
                found["metadata"]
                    .as_object_mut()
                    .expect("metadata")
                    .shift_remove(field);
            }
            if let Some(found) = found.as_object_mut() {
                found.shift_remove("status");
            }
            found
        };
        assert_eq!(get(&by_kubectl.server), get(&by_us.server), "{kind} {name}");
    }
}

fn plural(kind: &str) -> &'static str {
    match kind {
        "Namespace" => "namespaces",
        "CustomResourceDefinition" => "customresourcedefinitions.apiextensions.k8s.io",
        "NetworkPolicy" => "networkpolicies.networking.k8s.io",
        "PriorityClass" => "priorityclasses.scheduling.k8s.io",
        "ServiceAccount" => "serviceaccounts",
        "ConfigMap" => "configmaps",
        "Secret" => "secrets",
        "ClusterRole" => "clusterroles.rbac.authorization.k8s.io",
        "ClusterRoleBinding" => "clusterrolebindings.rbac.authorization.k8s.io",
        "Role" => "roles.rbac.authorization.k8s.io",
        "RoleBinding" => "rolebindings.rbac.authorization.k8s.io",
        "Service" => "services",
        "DaemonSet" => "daemonsets.apps",
        "Deployment" => "deployments.apps",
        "ValidatingAdmissionPolicy" => "validatingadmissionpolicies.admissionregistration.k8s.io",
        "ValidatingAdmissionPolicyBinding" => {
            "validatingadmissionpolicybindings.admissionregistration.k8s.io"
        }
        other => panic!("{other} is no kind of an installation"),
    }
}

const KINDS: [&str; 16] = [
    "Namespace",
    "CustomResourceDefinition",
    "NetworkPolicy",
    "PriorityClass",
    "ServiceAccount",
    "ConfigMap",
    "Secret",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "DaemonSet",
    "Deployment",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

/// Everything on a cluster, by kind, namespace and name.
fn everything(server: &Standin) -> Vec<(String, String, String)> {
    let mut plurals: Vec<&str> = KINDS.iter().map(|kind| plural(kind)).collect();
    plurals.extend(["leases.coordination.k8s.io", "pods"]);
    plurals
        .iter()
        .flat_map(|plural| server.list(plural))
        .map(|object| key(&object))
        .collect()
}

#[test]
fn the_configuration_of_the_nodes_is_one_that_the_daemon_takes() {
    let objects = printed(&["--store", "s3://bucket/prefix"]);
    let of = |name: &str| {
        let found = objects
            .iter()
            .find(|object| object["kind"] == "ConfigMap" && object["metadata"]["name"] == name);
        found.expect("a ConfigMap")["data"].clone()
    };
    let text = of("tapedeck-node")["tapedeckd.yaml"]
        .as_str()
        .expect("text")
        .to_owned();
    let config = tapedeckd::daemon::Config::parse(&text, "tapedeckd.yaml")
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert!(config.kubernetes.is_some());
    let stores = of("tapedeck-stores")["stores.yaml"]
        .as_str()
        .expect("text")
        .to_owned();
    let stores = tapedeck_cluster_store::Stores::parse(&stores).expect("stores");
    assert_eq!(stores.get(None).expect("a store").url, "s3://bucket/prefix");
}

#[test]
fn one_cluster_has_one_installation() {
    let cluster = Cluster::bare();
    let ran = cluster.tapedeck(["install", "-n", "one"]).succeeds();
    assert!(
        ran.stderr.contains("installed in the namespace one"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("there is no store"), "{}", ran.stderr);
    let ran = cluster.tapedeck(["install", "-n", "two"]).fails(1, &[]);
    assert!(
        ran.stderr
            .contains("is installed in the namespace one already"),
        "{}",
        ran.stderr
    );
    assert!(cluster.server.get("namespaces", "", "two").is_none());
    let ran = cluster.tapedeck(["install", "-n", "one"]).fails(1, &[]);
    assert!(ran.stderr.contains("cluster upgrade"), "{}", ran.stderr);
    let ran = cluster.tapedeck(["upgrade", "-n", "two"]).fails(1, &[]);
    assert!(
        ran.stderr.contains("in the namespace one, not in two"),
        "{}",
        ran.stderr
    );
}

#[test]
fn what_helm_installed_is_left_to_helm() {
    let cluster = Cluster::with_definitions();
    let mut crd = cluster
        .server
        .get(
            plural("CustomResourceDefinition"),
            "",
            "recordings.tapedeck.dev",
        )
        .expect("a definition");
    crd["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "Helm".into();
    cluster.server.seed(&crd).expect("a definition");
    for command in [&["install"][..], &["upgrade"], &["uninstall", "--yes"]] {
        let ran = cluster.tapedeck(command.iter().copied()).fails(1, &[]);
        assert!(ran.stderr.contains("by Helm"), "{}", ran.stderr);
    }
}

#[test]
fn an_interrupted_installation_is_completed() {
    let cluster = Cluster::bare();
    cluster.tapedeck(["install"]).succeeds();
    let whole = everything(&cluster.server);
    for (kind, name) in [
        ("daemonsets.apps", "tapedeck-node"),
        ("deployments.apps", "tapedeck-controller"),
        ("services", "tapedeck-controller"),
    ] {
        cluster
            .server
            .delete(kind, "tapedeck-system", name)
            .expect("it is there");
    }
    cluster.tapedeck(["install"]).succeeds();
    let mut again = everything(&cluster.server);
    let mut whole = whole;
    again.sort();
    whole.sort();
    assert_eq!(again, whole);
}

#[test]
fn an_upgrade_keeps_what_is_set_and_removes_what_is_old() {
    let cluster = Cluster::bare();
    let before = [
        "install",
        "-n",
        "tapes",
        "--image",
        "example.com/tapedeck:custom",
        "--store",
        "gs://bucket/tapes",
        "--snapshot-claim",
        "shared",
    ];
    cluster.tapedeck(before).succeeds();
    let labels = json!({ "app.kubernetes.io/part-of": "tapedeck", "app.kubernetes.io/managed-by": "tapedeck" });
    let old = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "tapedeck-old", "namespace": "tapes", "labels": labels } });
    cluster
        .server
        .seed(&old)
        .expect("an object of an older version");
    let foreign = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "foreign", "namespace": "tapes" } });
    cluster
        .server
        .seed(&foreign)
        .expect("an object of somebody else");
    let ran = cluster.tapedeck(["upgrade"]).succeeds();
    assert!(
        ran.stderr
            .contains("1 object that this version does not have removed"),
        "{}",
        ran.stderr
    );
    assert!(
        cluster
            .server
            .get("configmaps", "tapes", "tapedeck-old")
            .is_none()
    );
    assert!(
        cluster
            .server
            .get("configmaps", "tapes", "foreign")
            .is_some()
    );
    let daemons = cluster
        .server
        .get("daemonsets.apps", "tapes", "tapedeck-node")
        .expect("the daemons");
    let pod = &daemons["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], "example.com/tapedeck:custom");
    assert!(
        pod["volumes"]
            .to_string()
            .contains("\"claimName\":\"shared\"")
    );
    let stores = cluster
        .server
        .get("configmaps", "tapes", "tapedeck-stores")
        .expect("the stores");
    assert!(
        stores["data"]["stores.yaml"]
            .as_str()
            .expect("text")
            .contains("gs://bucket/tapes")
    );
    // What is said now is changed.
    cluster
        .tapedeck(["upgrade", "--image", "example.com/tapedeck:2"])
        .succeeds();
    let daemons = cluster
        .server
        .get("daemonsets.apps", "tapes", "tapedeck-node")
        .expect("the daemons");
    assert_eq!(
        daemons["spec"]["template"]["spec"]["containers"][0]["image"],
        "example.com/tapedeck:2"
    );
}

#[test]
fn a_newer_installation_is_not_made_older() {
    let cluster = Cluster::bare();
    cluster.tapedeck(["install"]).succeeds();
    let mut crd = cluster
        .server
        .get(
            plural("CustomResourceDefinition"),
            "",
            "recordings.tapedeck.dev",
        )
        .expect("a definition");
    crd["metadata"]["labels"]["app.kubernetes.io/version"] = "9.0.0".into();
    cluster.server.seed(&crd).expect("a newer definition");
    let ran = cluster.tapedeck(["upgrade"]).fails(1, &[]);
    assert!(
        ran.stderr.contains("the cluster has Tapedeck 9.0.0"),
        "{}",
        ran.stderr
    );
}

#[test]
fn fields_that_somebody_else_has_set_are_taken_over_only_if_asked() {
    let cluster = Cluster::bare();
    cluster.tapedeck(["install"]).succeeds();
    let mut controller = cluster
        .server
        .get("deployments.apps", "tapedeck-system", "tapedeck-controller")
        .expect("it is there");
    controller["spec"]["replicas"] = 3.into();
    controller["metadata"]
        .as_object_mut()
        .expect("metadata")
        .shift_remove("managedFields");
    cluster.server.seed(&controller).expect("another owner");
    let ran = cluster.tapedeck(["upgrade"]).fails(1, &[]);
    assert!(
        ran.stderr.contains("--force-conflicts") && ran.stderr.contains("tapedeck-controller"),
        "{}",
        ran.stderr
    );
    cluster
        .tapedeck(["upgrade", "--force-conflicts"])
        .succeeds();
    let controller = cluster
        .server
        .get("deployments.apps", "tapedeck-system", "tapedeck-controller")
        .expect("it is there");
    assert_eq!(controller["spec"]["replicas"], 1);
}

#[test]
fn waiting_ends_when_everything_runs() {
    let cluster = Cluster::bare();
    let ran = cluster
        .tapedeck(["install", "--wait", "--timeout", "1s"])
        .fails(1, &[]);
    assert!(
        ran.stderr.contains("after 1.00 s not everything runs"),
        "{}",
        ran.stderr
    );
    let _pods = cluster.play(run_pods);
    let ran = cluster
        .tapedeck(["upgrade", "--wait", "--timeout", "30s"])
        .succeeds();
    assert!(
        ran.stderr.contains("every node and the controller run"),
        "{}",
        ran.stderr
    );
}

fn snapshot(name: &str) -> Value {
    json!({
        "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Snapshot",
        "metadata": { "name": name, "namespace": "shop", "finalizers": ["tapedeck.dev/stored"] },
        "spec": { "recordings": ["shop"] },
        "status": { "phase": "Ready", "location": {
            "store": "default", "key": name, "url": format!("s3://bucket/{name}"), "bytes": 1, "blake3": "a".repeat(64), "exchanges": 1,
        } },
    })
}

fn recording() -> Value {
    json!({
        "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Recording",
        "metadata": { "name": "shop", "namespace": "shop" },
        "spec": { "selector": {} },
    })
}

/// As the controller: takes the finalizer off what is deleted.
fn remove_stored(server: &Standin) {
    for mut snapshot in server.list("snapshots.tapedeck.dev") {
        if snapshot["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        snapshot["metadata"]["finalizers"] = json!([]);
        drop(server.seed(&snapshot));
    }
}

#[test]
fn removing_leaves_nothing_behind() {
    let cluster = Cluster::bare();
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "theirs", "namespace": "shop" } });
    cluster.server.seed(&secret).expect("what others have");
    let before = everything(&cluster.server);
    cluster
        .tapedeck(["install", "--store", "s3://bucket/p"])
        .succeeds();
    cluster.server.seed(&recording()).expect("a recording");
    cluster
        .server
        .seed(&snapshot("friday"))
        .expect("a snapshot");
    // What something newer wrote, and this program does not understand, goes, too.
    let definition = "customresourcedefinitions.apiextensions.k8s.io";
    let newer = cluster
        .server
        .get(definition, "", "snapshots.tapedeck.dev")
        .expect("it was installed")
        .to_string()
        .replace(
            "\"Pending\",\"Collecting\"",
            "\"Pending\",\"Collecting\",\"Dreaming\"",
        );
    let newer: Value = serde_json::from_str(&newer).expect("JSON");
    cluster.server.seed(&newer).expect("a newer definition");
    let mut strange = snapshot("friday");
    strange["status"] = json!({ "phase": "Dreaming" });
    cluster.server.seed(&strange).expect("a newer snapshot");
    cluster.report("n1", &json!({}));
    // Nobody is asked when nobody is there: nothing is done.
    let ran = cluster.tapedeck(["uninstall"]).fails(1, &[]);
    assert!(
        ran.stderr
            .contains("1 snapshot with what they stored, 1 recording"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("the archives on all nodes; --yes"),
        "{}",
        ran.stderr
    );
    assert!(
        cluster
            .server
            .get("daemonsets.apps", "tapedeck-system", "tapedeck-node")
            .is_some()
    );

    let _controller = cluster.play(remove_stored);
    let _pods = cluster.play(run_pods);
    let ran = cluster
        .tapedeck(["uninstall", "--yes", "--timeout", "60s"])
        .succeeds();
    assert!(ran.stderr.contains("is removed"), "{}", ran.stderr);
    let mut after = everything(&cluster.server);
    let mut before = before;
    after.sort();
    before.sort();
    assert_eq!(after, before);
    // The folders of the nodes were emptied, by pods with the daemons' image, before anything else went.
    let order = |verb: &str, name: &str| {
        let requests = cluster.server.requests();
        requests
            .iter()
            .position(|request| request.verb == verb && request.name == name)
            .unwrap_or_else(|| panic!("{verb} {name}"))
    };
    assert!(order("delete", "friday") < order("delete", "tapedeck-node"));
    assert!(order("delete", "tapedeck-node") < order("patch", "tapedeck-wipe"));
    assert!(order("patch", "tapedeck-wipe") < order("delete", "tapedeck-controller"));
    assert!(order("delete", "tapedeck-controller") < order("delete", "recordings.tapedeck.dev"));
    let ran = cluster.tapedeck(["uninstall", "--yes"]).fails(1, &[]);
    assert!(ran.stderr.contains("not installed"), "{}", ran.stderr);
}

#[test]
fn a_controller_that_is_gone_holds_a_removal_up_and_is_said() {
    let cluster = Cluster::bare();
    cluster
        .tapedeck(["install", "--store", "s3://bucket/p"])
        .succeeds();
    cluster
        .server
        .seed(&snapshot("friday"))
        .expect("a snapshot");
    let ran = cluster
        .tapedeck(["uninstall", "--yes", "--keep-archives", "--timeout", "1s"])
        .fails(1, &[]);
    assert!(
        ran.stderr.contains("Snapshot shop/friday is still there"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("--abandon-stored"), "{}", ran.stderr);
    assert!(
        cluster
            .server
            .get("deployments.apps", "tapedeck-system", "tapedeck-controller")
            .is_some()
    );
    let ran = cluster
        .tapedeck(["uninstall", "--yes", "--keep-archives", "--abandon-stored"])
        .succeeds();
    assert!(
        ran.stderr.contains("s3://bucket/friday stays"),
        "{}",
        ran.stderr
    );
    assert!(
        cluster
            .server
            .get("namespaces", "", "tapedeck-system")
            .is_none()
    );
}

#[test]
fn a_namespace_that_is_kept_keeps_what_others_put_there() {
    let cluster = Cluster::bare();
    cluster.tapedeck(["install"]).succeeds();
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "theirs", "namespace": "tapedeck-system" } });
    cluster.server.seed(&secret).expect("what others have");
    cluster
        .tapedeck(["uninstall", "--yes", "--keep-archives", "--keep-namespace"])
        .succeeds();
    assert!(
        cluster
            .server
            .get("secrets", "tapedeck-system", "theirs")
            .is_some()
    );
    let left: Vec<_> = everything(&cluster.server)
        .into_iter()
        .filter(|(_, namespace, _)| namespace == "tapedeck-system")
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let namespace = cluster
        .server
        .get("namespaces", "", "tapedeck-system")
        .expect("it stays");
    assert!(namespace["metadata"]["labels"]["app.kubernetes.io/managed-by"].is_null());
}

#[test]
fn a_folder_is_emptied_and_nothing_beside_it() {
    let folder = temp_folder();
    let archives = folder.path().join("archives");
    std::fs::create_dir_all(archives.join("set/deep")).expect("folders");
    std::fs::write(archives.join("set/deep/1.tape"), "x").expect("a file");
    std::fs::write(folder.path().join("beside"), "x").expect("a file");
    std::os::unix::fs::symlink(folder.path(), archives.join("link")).expect("a link");
    let folder_of_archives = archives.to_str().expect("UTF-8");
    Tapedeck::new(["cluster", "wipe", "--check", folder_of_archives]).fails(1, &[]);
    let mut wiping = Command::new(env!("CARGO_BIN_EXE_tapedeck"))
        .args(["cluster", "wipe", folder_of_archives])
        .stderr(Stdio::piped())
        .spawn()
        .expect("tapedeck starts");
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(wiping.stderr.take().expect("its output")),
        &mut line,
    )
    .expect("a line");
    assert!(line.contains("is empty"), "{line}");
    Tapedeck::new(["cluster", "wipe", "--check", folder_of_archives]).succeeds();
    assert!(folder.path().join("beside").exists());
    wiping.kill().expect("it waits");
    wiping.wait().expect("it ends");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (args, said) in [
        (
            &["--store", "ftp://host"][..],
            "expected s3://BUCKET/PREFIX",
        ),
        (&["--store", "file:///snapshots"], "--snapshot-claim"),
        (
            &["--store", "s3://b", "--store-option", "secret_access_key=x"],
            "the key AWS_SECRET_ACCESS_KEY of a Secret",
        ),
        (
            &[
                "--store",
                "s3://b",
                "--store-option",
                "AWS_SECRET_ACCESS_KEY=x",
            ],
            "the key AWS_SECRET_ACCESS_KEY of a Secret",
        ),
    ] {
        let all = ["cluster", "install", "--dry-run"].iter().chain(args);
        let ran = Tapedeck::new(all).fails(1, &[]);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
}

/// Whether a policy lets a request pass.
fn is_admitted(objects: &[Value], policy: &str, request: &Value, object: &Value) -> bool {
    let found = objects.iter().find(|object| {
        object["kind"] == "ValidatingAdmissionPolicy" && object["metadata"]["name"] == policy
    });
    let spec = &found.expect("a policy")["spec"];
    let holds = |expression: &Value| {
        let text = expression["expression"].as_str().expect("an expression");
        let program = cel::Program::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut context = cel::Context::default();
        context.add_variable("request", request).expect("a request");
        context.add_variable("object", object).expect("an object");
        program.execute(&context) == Ok(cel::Value::Bool(true))
    };
    let list = |name: &str| spec[name].as_array().cloned().unwrap_or_default();
    !list("matchConditions").iter().all(holds) || list("validations").iter().all(holds)
}

#[test]
fn admission_holds_daemons_to_their_node_and_recordings_to_their_namespace() {
    let objects = printed(&["-n", "tapes"]);
    let report = json!({ "metadata": { "name": "n1" } });
    let by = |user: &str, nodes: &Value| {
        let extra = if nodes.is_null() {
            json!({})
        } else {
            json!({ "authentication.kubernetes.io/node-name": nodes })
        };
        let request = json!({ "userInfo": { "username": user, "extra": extra } });
        is_admitted(&objects, "tapedeck-own-node-report", &request, &report)
    };
    let daemon = "system:serviceaccount:tapes:tapedeck-node";
    assert!(by(daemon, &json!(["n1"])));
    assert!(!by(daemon, &json!(["n2"])));
    // A token that is bound to no pod.
    assert!(!by(daemon, &Value::Null));
    assert!(by(
        "system:serviceaccount:tapes:tapedeck-controller",
        &Value::Null
    ));
    let from = |namespace: &str, selector: &Value| {
        let recording = json!({ "spec": { "selector": selector } });
        is_admitted(
            &objects,
            "tapedeck-own-namespace",
            &json!({ "namespace": namespace }),
            &recording,
        )
    };
    assert!(from("shop", &json!({})));
    assert!(from("shop", &json!({ "namespaces": ["shop"] })));
    assert!(!from("shop", &json!({ "namespaces": ["pay"] })));
    assert!(!from("shop", &json!({ "namespaces": ["*"] })));
    assert!(from("tapes", &json!({ "namespaces": ["*"] })));
}

#[test]
fn the_manifest_for_krew_names_what_kubectl_looks_for() {
    let template = include_str!("../../deploy/krew/tapedeck.yaml");
    // As krew-release-bot fills it in.
    let filled: String = template
        .lines()
        .map(
            |line| match line.trim_start().strip_prefix("{{addURIAndSha \"") {
                Some(rest) => {
                    let uri = rest
                        .split('"')
                        .next()
                        .expect("an address")
                        .replace("{{ .TagName }}", "v0.1.0");
                    format!("      uri: {uri}\n      sha256: {}\n", "0".repeat(64))
                }
                None => line.replace("{{ .TagName }}", "v0.1.0") + "\n",
            },
        )
        .collect();
    let manifest: Value = serde_saphyr::from_str(&filled).expect("YAML");
    assert_eq!(manifest["kind"], "Plugin");
    assert_eq!(manifest["metadata"]["name"], "tapedeck");
    let platforms = manifest["spec"]["platforms"].as_array().expect("platforms");
    assert_eq!(platforms.len(), 2);
    for platform in platforms {
        assert_eq!(platform["bin"], "kubectl-tapedeck");
        assert!(
            platform["uri"]
                .as_str()
                .expect("an address")
                .contains("/v0.1.0/")
        );
    }
}
