//! What others read of ours: cert-manager, the Prometheus operator, krew.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::render::template;
use super::tests::{MATRIX, OF_OTHERS, are_tools_here, documents};
use crate::packages::SCHEMAS_OF_OTHERS;
use crate::shell::root;

/// Mistakes in objects, by the schemas of whoever reads them.
fn mistakes(objects: &[Value]) -> String {
    let mut node = Command::new("node")
        .args(["--input-type=module", "--eval", include_str!("others.mjs")])
        .current_dir(SCHEMAS_OF_OTHERS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = json!(objects).to_string();
    node.stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = node.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_objects_of_others_fit_their_schemas() {
    if !are_tools_here() {
        return;
    }
    if !Path::new(SCHEMAS_OF_OTHERS).exists() {
        println!("skipped: the schemas of cert-manager and of the Prometheus operator are missing");
        return;
    }
    let mut objects = Vec::new();
    let without_issuer: &[&str] = &["--set=tls.certManager.enabled=true"];
    for values in MATRIX.iter().chain([&without_issuer]) {
        let all = documents(&template(values).unwrap());
        objects.extend(all.into_iter().filter(|object| {
            let kind = object["kind"].as_str().unwrap();
            OF_OTHERS.contains(&kind)
        }));
    }
    for kind in OF_OTHERS {
        assert!(
            objects.iter().any(|object| object["kind"] == kind),
            "{kind}"
        );
    }
    assert_eq!(mistakes(&objects), "");

    // It can fail: by a field that there is not, by one that is missing, by a value.
    let change = |kind: &str, pointer: &str, value: Value| {
        let object = objects.iter().find(|object| object["kind"] == kind);
        let mut object = object.unwrap().clone();
        *object.pointer_mut(pointer).unwrap() = value;
        mistakes(&[object])
    };
    for (kind, pointer, value, said) in [
        (
            "Issuer",
            "/spec",
            json!({ "selfsigned": {} }),
            "/spec/selfsigned: no such field",
        ),
        (
            "Certificate",
            "/spec/usages",
            json!(["server"]),
            "/spec/usages/0",
        ),
        (
            "Certificate",
            "/spec/issuerRef",
            json!({ "kind": "Issuer" }),
            "/spec/issuerRef",
        ),
        (
            "PodMonitor",
            "/spec/podMetricsEndpoints/0/interval",
            json!("30x"),
            "interval",
        ),
        (
            "ServiceMonitor",
            "/spec",
            json!({ "endpoints": [] }),
            "/spec",
        ),
        (
            "ServiceMonitor",
            "/spec/endpoints/0/tlsConfig",
            json!({ "servername": "a" }),
            "tlsConfig/servername: no such field",
        ),
    ] {
        let mistakes = change(kind, pointer, value);
        assert!(mistakes.contains(said), "{kind}: {mistakes}");
    }
}

const SUM: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What krew-release-bot makes of a template at a release. Its function gives two lines, the second behind four spaces;
/// by `indent` both stand where they should.
fn released(template: &str, tag: &str) -> String {
    let line = |line: &str| {
        let Some((before, call)) = line.split_once("{{addURIAndSha \"") else {
            return line.to_owned();
        };
        let (address, rest) = call.split_once('"').unwrap();
        let spaces = match rest.trim() {
            ".TagName }}" => 4,
            rest => {
                let (_, spaces) = rest.split_once("| indent ").unwrap();
                spaces.trim_end_matches('}').trim().parse().unwrap()
            }
        };
        let pad = " ".repeat(spaces);
        format!("{before}uri: {address}\n{pad}sha256: {SUM}")
    };
    let text: Vec<String> = template.lines().map(line).collect();
    text.join("\n").replace("{{ .TagName }}", tag)
}

/// The rules of krew's own validation, and of its index, for what a release makes of the template.
#[test]
fn krew_takes_the_manifest() {
    if !are_tools_here() {
        return;
    }
    let template = std::fs::read_to_string(root().join("deploy/krew/tapedeck.yaml")).unwrap();
    let manifest = released(&template, "v0.1.0");
    let manifests = documents(&manifest);
    let [manifest] = manifests.as_slice() else {
        panic!("{manifest}");
    };
    assert_eq!(
        manifest["apiVersion"],
        "krew.googlecontainertools.github.com/v1alpha2"
    );
    assert_eq!(manifest["kind"], "Plugin");
    // As the file is called.
    assert_eq!(manifest["metadata"]["name"], "tapedeck");
    let spec = &manifest["spec"];
    assert_eq!(spec["version"], "v0.1.0");
    let text = |name: &str| spec[name].as_str().unwrap();
    assert!(text("homepage").starts_with("https://"));
    let short = text("shortDescription");
    assert!(
        !short.is_empty() && short.len() <= 50 && !short.ends_with('.'),
        "{short}"
    );
    assert!(
        !short.contains('\n') && !short.to_lowercase().contains("kubectl"),
        "{short}"
    );
    assert!(!text("description").is_empty() && !text("caveats").is_empty());
    let mut seen = Vec::new();
    for platform in spec["platforms"].as_array().unwrap() {
        let fields: Vec<&String> = platform.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["selector", "uri", "sha256", "bin"]);
        let labels = platform["selector"]["matchLabels"].as_object().unwrap();
        let (os, arch) = (
            labels["os"].as_str().unwrap(),
            labels["arch"].as_str().unwrap(),
        );
        assert_eq!(labels.len(), 2);
        let uri = platform["uri"].as_str().unwrap();
        let archive = format!("/v0.1.0/kubectl-tapedeck-{os}-{arch}.tar.gz");
        assert!(
            uri.starts_with("https://") && uri.ends_with(&archive),
            "{uri}"
        );
        assert_eq!(platform["sha256"], SUM);
        assert_eq!(platform["bin"], "kubectl-tapedeck");
        seen.push(format!("{os}/{arch}"));
    }
    assert_eq!(seen, ["linux/amd64", "linux/arm64"]);
}
