use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::render::{CHART, PLAIN, rendered, template, tool};
use crate::packages::KUBERNETES;
use crate::shell::root;

/// Where the schemas of Kubernetes are.
const KUBERNETES_VALIDATE: &str = "target/tools/kubernetes-validate";

/// The Kubernetes versions whose schemas the objects must fit: the oldest that kube's client speaks
/// to, and all newer ones that the validator has.
const VERSIONS: [&str; 5] = ["1.33", "1.34", "1.35", "1.36", "1.37"];

/// Kinds of the Prometheus operator and of cert-manager, which Kubernetes itself does not have.
pub(super) const OF_OTHERS: [&str; 4] = ["PodMonitor", "ServiceMonitor", "Certificate", "Issuer"];

/// Values, as an administrator sets them.
pub(super) const MATRIX: &[&[&str]] = &[
    &[],
    &["--set=namespace.create=true,crds.keep=false"],
    &["--set=crds.install=false,rbac.userRoles=false,admissionPolicies.enabled=false"],
    &["--set=rbac.aggregate=false,networkPolicies.enabled=false,node.priorityClass.create=false"],
    &[
        "--set=dashboards.enabled=true,serviceMonitor.enabled=true,serviceMonitor.labels.release=kps",
    ],
    &[
        "--set-json=stores=[{\"name\":\"default\",\"url\":\"s3://b/p\",\"secret\":\"keys\"},\
         {\"name\":\"shared\",\"url\":\"file:///snapshots\"}]",
        "--set=snapshotVolume.claimName=shared,image.pullSecrets[0].name=registry",
    ],
    &[
        "--set=node.seccompProfile.type=Localhost,node.seccompProfile.localhostProfile=tapedeck.json",
        "--set=node.appArmorProfile.type=Unconfined,node.priorityClass.name=,controller.replicas=2",
        "--set-json=networkPolicies={\"metricsFrom\":[{\"namespaceSelector\":{}}]}",
        "--set=tls.certManager.enabled=true,tls.certManager.issuerRef.name=ca",
        "--set=image.repository=example.com:5000/team/tapedeck,image.tag=1.2.3",
    ],
];

/// Whether helm, kubectl and the validator are there; else the test says why it is skipped.
pub(super) fn are_tools_here() -> bool {
    std::env::set_current_dir(root()).unwrap();
    let missing = [
        tool("helm"),
        tool("kubectl"),
        KUBERNETES_VALIDATE.to_owned(),
    ]
    .into_iter()
    .find(|path| !Path::new(path).exists());
    let Some(missing) = missing else {
        return true;
    };
    let required = std::env::var_os("TAPEDECK_REQUIRE_TOOLS").is_some_and(|one| one == "1");
    assert!(!required, "{missing} is missing");
    // Where `cargo xtask test` counts it.
    println!("skipped: {missing} is missing; `cargo xtask test` installs it into {KUBERNETES}");
    false
}

/// Runs a script with the validator's packages; what it prints, and whether it was content.
pub(super) fn python(script: &str, args: &[&str], input: &str) -> (String, bool) {
    let mut child = Command::new("python3")
        .args(["-c", script])
        .args(args)
        .env("PYTHONPATH", KUBERNETES_VALIDATE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    if !output.status.success() {
        write!(text, "{}", String::from_utf8_lossy(&output.stderr)).unwrap();
    }
    (text, output.status.success())
}

/// YAML as values: by Python, as this crate has no reader of it.
pub(super) fn documents(yaml: &str) -> Vec<Value> {
    let script =
        "import json,sys,yaml\nprint(json.dumps([d for d in yaml.safe_load_all(sys.stdin) if d]))";
    let (text, _) = python(script, &[], yaml);
    serde_json::from_str(&text).unwrap()
}

pub(super) fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents
        .iter()
        .filter(|document| document["kind"] == kind)
        .collect()
}

#[test]
fn the_plain_manifests_are_those_of_the_chart() {
    if !are_tools_here() {
        return;
    }
    for (path, text) in rendered().unwrap() {
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == text,
            "{} is stale: `cargo xtask manifests`",
            path.display()
        );
    }
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    if !are_tools_here() {
        return;
    }
    let lint = |set: &str| {
        let output = Command::new(tool("helm"))
            .args(["lint", "--strict", CHART, set])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (text, output.status.success())
    };
    let (text, is_content) = lint("--set=controller.replicas=2");
    assert!(is_content, "{text}");
    // It can fail.
    let (text, is_content) = lint("--set=controller.replicas=none");
    assert!(!is_content && text.contains("replicas"), "{text}");
}

#[test]
fn every_object_fits_the_schemas_of_several_kubernetes_versions() {
    if !are_tools_here() {
        return;
    }
    let mut all = String::new();
    for values in MATRIX {
        all += &template(values).unwrap();
        all += "\n---\n";
    }
    let mut args = VERSIONS.to_vec();
    args.push("--without");
    args.extend(OF_OTHERS);
    let (text, is_content) = python(include_str!("validate.py"), &args, &all);
    assert!(is_content, "{text}");
    // It can fail: a field that no version has.
    let wrong = all.replacen("hostPID: true", "hostPid: true", 1);
    let (text, is_content) = python(include_str!("validate.py"), &args, &wrong);
    assert!(!is_content && text.contains("hostPid"), "{text}");
}

#[test]
fn whatever_is_set_no_container_has_more_than_it_needs() {
    if !are_tools_here() {
        return;
    }
    for values in MATRIX {
        let documents = documents(&template(values).unwrap());
        for kind in ["DaemonSet", "Deployment"] {
            let [pod] = of_kind(&documents, kind).try_into().unwrap();
            let pod = &pod["spec"]["template"]["spec"];
            assert!(!pod["hostNetwork"].as_bool().unwrap_or(false));
            assert_eq!(
                pod["hostPID"].as_bool().unwrap_or(false),
                kind == "DaemonSet"
            );
            assert!(pod["automountServiceAccountToken"].as_bool().unwrap());
            for container in pod["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert_eq!(context["privileged"], false, "{values:?}");
                assert_eq!(context["allowPrivilegeEscalation"], false);
                assert_eq!(context["readOnlyRootFilesystem"], true);
                assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
                assert!(container["resources"]["limits"]["memory"].is_string());
                assert!(container["resources"]["requests"]["cpu"].is_string());
                if kind == "Deployment" {
                    assert_eq!(context["capabilities"]["add"], Value::Null);
                    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
                    assert_eq!(
                        pod["securityContext"]["seccompProfile"]["type"],
                        "RuntimeDefault"
                    );
                } else {
                    assert!(context["seccompProfile"]["type"].is_string());
                    // A kubelet refuses a pod that names a profile where the node has no AppArmor.
                    let is_named = values.iter().any(|set| set.contains("appArmorProfile"));
                    assert_eq!(context["appArmorProfile"].is_object(), is_named);
                }
                // What is mounted of the host is read-only, but for the archives.
                for mount in container["volumeMounts"].as_array().unwrap() {
                    let volumes = pod["volumes"].as_array().unwrap();
                    let volume = volumes
                        .iter()
                        .find(|volume| volume["name"] == mount["name"])
                        .unwrap();
                    if volume["hostPath"].is_object() && mount["name"] != "archives" {
                        assert_eq!(mount["readOnly"], true, "{mount}");
                    }
                }
            }
        }
    }
}

/// Whoever looks after the certificate: the port shows it, and the controller may touch no other Secret.
#[test]
fn the_port_shows_a_certificate_of_the_controller_or_of_cert_manager() {
    if !are_tools_here() {
        return;
    }
    for (set, args, secrets, kinds) in [
        (
            "--set=controller.replicas=1",
            vec!["--tls-secret=tapedeck-controller-tls"],
            1,
            (1, 0, 0),
        ),
        (
            "--set=tls.certManager.enabled=true",
            vec!["--tls-certificate=/tls/tls.crt", "--tls-key=/tls/tls.key"],
            0,
            (0, 1, 1),
        ),
        (
            "--set=tls.certManager.enabled=true,tls.certManager.issuerRef.name=ca",
            vec!["--tls-certificate=/tls/tls.crt", "--tls-key=/tls/tls.key"],
            0,
            (0, 1, 0),
        ),
    ] {
        let documents = documents(&template(&[set]).unwrap());
        let [controller] = of_kind(&documents, "Deployment").try_into().unwrap();
        let container = &controller["spec"]["template"]["spec"]["containers"][0];
        let given = container["args"].as_array().unwrap();
        let given: Vec<&str> = given.iter().map(|arg| arg.as_str().unwrap()).collect();
        let given: Vec<&str> = given
            .into_iter()
            .filter(|arg| arg.starts_with("--tls"))
            .collect();
        assert_eq!(given, args, "{set}");
        for probe in ["livenessProbe", "readinessProbe"] {
            assert_eq!(container[probe]["httpGet"]["scheme"], "HTTPS");
            assert_eq!(
                container[probe]["httpGet"]["port"],
                container["ports"][0]["name"]
            );
        }
        let of_secrets: Vec<&Value> = ["Role", "ClusterRole"]
            .into_iter()
            .flat_map(|kind| of_kind(&documents, kind))
            .filter_map(|role| role["rules"].as_array())
            .flatten()
            .filter(|rule| rule["resources"].to_string().contains("secrets"))
            .collect();
        assert_eq!(of_secrets.len(), secrets, "{set}");
        for rule in of_secrets {
            assert_eq!(rule["resourceNames"], json!(["tapedeck-controller-tls"]));
            assert_eq!(rule["verbs"], json!(["get", "update"]));
        }
        let count = |kind| of_kind(&documents, kind).len();
        assert_eq!(
            (count("Secret"), count("Certificate"), count("Issuer")),
            kinds,
            "{set}"
        );
    }
}

/// What the backend ebpf needs, by the table in docs/privileges.md.
fn capabilities_in_the_documentation() -> BTreeSet<String> {
    let text = std::fs::read_to_string("docs/privileges.md").unwrap();
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| `ebpf`"));
    rows.take_while(|line| line.starts_with("| `ebpf`") || line.starts_with("| |"))
        .filter_map(|line| line.split('`').find_map(|word| word.strip_prefix("CAP_")))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_capabilities_are_those_of_the_documentation() {
    if !are_tools_here() {
        return;
    }
    let documents = documents(&template(&[]).unwrap());
    let [node] = of_kind(&documents, "DaemonSet").try_into().unwrap();
    let container = &node["spec"]["template"]["spec"]["containers"][0];
    let added = container["securityContext"]["capabilities"]["add"].clone();
    let added: BTreeSet<String> = serde_json::from_value(added).unwrap();
    assert_eq!(added, capabilities_in_the_documentation());
}

#[test]
fn values_that_make_no_sense_are_refused_with_their_place() {
    if !are_tools_here() {
        return;
    }
    for (set, place) in [
        ("--set=bakend=ebpf", "bakend"),
        ("--set=node.privileged=true", "/node"),
        ("--set=controller.replicas=0", "/controller/replicas"),
        ("--set=node.budget.cpu=0", "/node/budget/cpu"),
        (
            "--set=node.archive.hostPath=relative",
            "/node/archive/hostPath",
        ),
        (
            "--set=node.archive.retainSize=10Gi",
            "/node/archive/retainSize",
        ),
        (
            "--set=node.seccompProfile.type=Localhost",
            "/node/seccompProfile",
        ),
        ("--set=node.archive.retainSize=-1GiB", "'-1GiB'"),
        ("--set=node.archive.segmentAge=1min", "(ms|s|m|h|d)"),
        ("--set=node.budget.cpu=500m", "want number"),
        (
            "--set=node.resources.limits.memory=512MiB",
            "/node/resources/limits/memory",
        ),
        (
            "--set=controller.resources.request.cpu=1",
            "'request' not allowed",
        ),
        (
            "--set=controller.scratch.sizeLimit=20GiB",
            "/controller/scratch/sizeLimit",
        ),
        (
            "--set-json=stores=[{\"name\":\"a\",\"url\":\"file:///snapshots\"}]",
            "set snapshotVolume.claimName",
        ),
        (
            "--set-json=stores=[{\"name\":\"a\",\"url\":\"file:///data\"}]",
            "file:///snapshots",
        ),
        (
            "--set-json=stores=[{\"name\":\"a\",\"url\":\"s3://b\"},{\"name\":\"a\",\"url\":\"s3://c\"}]",
            "two stores are called a",
        ),
        (
            "--set-json=stores=[{\"name\":\"a\",\"url\":\"s3://b\",\"options\":{\"secret_access_key\":\"x\"}}]",
            "the key AWS_SECRET_ACCESS_KEY of the Secret",
        ),
        (
            "--set-json=stores=[{\"name\":\"a\",\"url\":\"s3://b\",\"options\":{\"AWS_SECRET_ACCESS_KEY\":\"x\"}}]",
            "the key AWS_SECRET_ACCESS_KEY of the Secret",
        ),
        (
            "--set-json=stores=[{\"name\":\"a\",\"url\":\"az://b\",\"options\":{\"account_key\":\"x\"}}]",
            "the key AZURE_STORAGE_ACCOUNT_KEY of the Secret",
        ),
        (
            "--set-json=stores=[{\"name\":\"A b\",\"url\":\"s3://b\"}]",
            "/stores/0/name",
        ),
        (
            "--set-json=stores=[{\"name\":\"a\",\"url\":\"file://relative\"}]",
            "/stores/0/url",
        ),
        (
            "--set-json=stores=[{\"name\":\"a\",\"url\":\"ftp://b\"}]",
            "/stores/0/url",
        ),
    ] {
        let error = template(&[set]).unwrap_err().to_string();
        assert!(error.contains(place), "{set}: {error}");
    }
}

#[test]
fn kustomize_reads_the_plain_manifests() {
    if !are_tools_here() {
        return;
    }
    let kustomize = |folder: &str| {
        let output = Command::new(tool("kubectl"))
            .args(["kustomize", folder])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        documents(&String::from_utf8(output.stdout).unwrap())
    };
    let key = |document: &Value| {
        (
            document["kind"].to_string(),
            document["metadata"]["name"].to_string(),
        )
    };
    let mut built = kustomize("deploy/manifests");
    let mut chart = documents(&template(&[PLAIN]).unwrap());
    assert!(built.len() > 20);
    built.sort_by_key(key);
    chart.sort_by_key(key);
    assert_eq!(
        built.iter().map(key).collect::<Vec<_>>(),
        chart.iter().map(key).collect::<Vec<_>>()
    );
    for (built, chart) in built.iter().zip(&chart) {
        assert_eq!(built["data"], chart["data"]);
        assert_eq!(built["rules"], chart["rules"]);
        assert_eq!(
            built["spec"]["template"]["spec"],
            chart["spec"]["template"]["spec"]
        );
    }
}

#[test]
fn dashboards_show_only_metrics_that_there_are() {
    std::env::set_current_dir(root()).unwrap();
    let known: BTreeSet<String> = ["docs/metrics.md", "docs/cluster.md"]
        .into_iter()
        .flat_map(|path| words(&std::fs::read_to_string(path).unwrap_or_default()))
        .collect();
    for entry in std::fs::read_dir(format!("{CHART}/files/dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let mut queries = Vec::new();
        collect_queries(&dashboard, &mut queries);
        assert!(queries.len() >= 8, "{}", path.display());
        for metric in queries.iter().flat_map(|query| words(query)) {
            assert!(known.contains(&metric), "{}: {metric}", path.display());
        }
    }
}

/// Names of metrics in a text.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("tapedeck_"))
        .map(str::to_owned)
        .collect()
}

fn collect_queries(value: &Value, queries: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            queries.extend(
                object
                    .get("expr")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            );
            object
                .values()
                .for_each(|value| collect_queries(value, queries));
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| collect_queries(value, queries)),
        _ => {}
    }
}

fn recording(spec: &Value) -> Value {
    json!({ "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Recording", "metadata": { "name": "a" }, "spec": spec })
}

fn snapshot(spec: &Value) -> Value {
    json!({ "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Snapshot", "metadata": { "name": "a" }, "spec": spec })
}

/// Objects that make sense.
fn good() -> Vec<Value> {
    vec![
        recording(&json!({ "selector": {} })),
        recording(&json!({
            "selector": {
                "namespaces": ["shop", "pay"],
                "matchLabels": { "app": "shop" },
                "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["web"] }],
                "owners": [{ "kind": "Deployment", "name": "shop" }],
                "containers": ["app"],
            },
            "ports": [80, 8080],
            "paths": { "include": ["/api"], "exclude": ["/healthz"] },
            "samplePerMille": 100,
            "payload": "Headers",
            "limits": { "duration": "1h", "bytesPerNode": "1Gi" },
            "retention": { "age": "7d", "bytesPerNode": "10Gi" },
            "destination": { "store": "default" },
            "paused": true,
        })),
        snapshot(&json!({ "recordings": ["shop"] })),
        snapshot(&json!({
            "recordings": ["shop", "pay"],
            "from": "2026-11-20T00:00:00Z",
            "to": "2026-11-21T00:00:00Z",
            "filter": "response.status >= 500",
            "destination": { "store": "archive" },
            "deadline": "10m",
        })),
        json!({ "apiVersion": "tapedeck.dev/v1alpha1", "kind": "NodeReport", "metadata": { "name": "n" }, "spec": { "node": "n" } }),
    ]
}

/// Objects that make none: what, the object, and where it is wrong.
fn bad() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("a selector is missing", recording(&json!({})), "selector"),
        (
            "a field that is none",
            recording(&json!({ "selector": {}, "port": [80] })),
            "port",
        ),
        (
            "port 0",
            recording(&json!({ "selector": {}, "ports": [0] })),
            "ports[0]",
        ),
        (
            "port 70000",
            recording(&json!({ "selector": {}, "ports": [70000] })),
            "ports[0]",
        ),
        (
            "a share of 0",
            recording(&json!({ "selector": {}, "samplePerMille": 0 })),
            "samplePerMille",
        ),
        (
            "a share of 1001",
            recording(&json!({ "selector": {}, "samplePerMille": 1001 })),
            "samplePerMille",
        ),
        (
            "a path without a slash",
            recording(&json!({ "selector": {}, "paths": { "include": ["api"] } })),
            "include[0]",
        ),
        (
            "an owner of no kind",
            recording(&json!({ "selector": { "owners": [{ "kind": "Pod", "name": "a" }] } })),
            "owners[0].kind",
        ),
        (
            "a size in words",
            recording(&json!({ "selector": {}, "limits": { "bytesPerNode": "much" } })),
            "bytesPerNode",
        ),
        (
            "a span in weeks",
            recording(&json!({ "selector": {}, "limits": { "duration": "1w" } })),
            "duration",
        ),
        (
            "a store with spaces",
            recording(&json!({ "selector": {}, "destination": { "store": "a b" } })),
            "store",
        ),
        (
            "an unknown payload",
            recording(&json!({ "selector": {}, "payload": "Some" })),
            "payload",
        ),
        (
            "a snapshot of nothing",
            snapshot(&json!({ "recordings": [] })),
            "recordings",
        ),
        (
            "a filter of 5000 letters",
            snapshot(&json!({ "recordings": ["a"], "filter": "a".repeat(5000) })),
            "filter",
        ),
        (
            "a report of nobody",
            json!({ "apiVersion": "tapedeck.dev/v1alpha1", "kind": "NodeReport", "metadata": { "name": "n" }, "spec": { "node": "" } }),
            "node",
        ),
    ]
}

#[test]
fn the_definitions_accept_and_refuse_what_they_should() {
    if !are_tools_here() {
        return;
    }
    let (good, bad) = (good(), bad());
    let mut input: Vec<Value> = good.iter().map(|object| json!(["good", object])).collect();
    input.extend(bad.iter().map(|(what, object, _)| json!([what, object])));
    let (text, _) = python(
        include_str!("definitions.py"),
        &[&format!("{CHART}/files/crds")],
        &json!(input).to_string(),
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), input.len(), "{text}");
    let (of_good, of_bad) = lines.split_at(good.len());
    for line in of_good {
        assert_eq!(*line, "good: accepted");
    }
    for (line, (what, _, place)) in of_bad.iter().zip(&bad) {
        assert!(
            !line.ends_with("accepted") && line.contains(place),
            "{what}: {line}"
        );
    }
}
