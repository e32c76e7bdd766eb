//! Renders the chart into the plain manifests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::packages::{self, KUBERNETES};
use crate::shell::{cargo, command, line, run, say};

/// Render the chart's resource definitions and the plain manifests
#[derive(clap::Args, Debug)]
pub(crate) struct Manifests {}

/// The chart, and what is rendered from it.
pub(super) const CHART: &str = "deploy/helm/tapedeck";
const MANIFESTS: &str = "deploy/manifests";

/// Where Tapedeck is, unless somebody says otherwise.
pub(super) const NAMESPACE: &str = "tapedeck-system";

/// Ways to capture: the capabilities of the nodes' pods hang on them, and so they are rendered each.
const BACKENDS: [&str; 2] = ["ebpf", "af-packet"];

const HEADER: &str =
    "# Rendered from deploy/helm/tapedeck by `cargo xtask manifests`: change that.\n";

impl Manifests {
    pub(crate) fn run(&self) -> Result<()> {
        let Self {} = self;
        packages::ensure_kubernetes();
        let mut bless = cargo(&["test", "--quiet", "--package", "tapedeck-cluster", "files"]);
        run(bless.env("TAPEDECK_BLESS", "1"))?;
        for (path, text) in rendered()? {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            say(&format!("{}", path.display()));
        }
        Ok(())
    }
}

/// The plain manifests: every file, with its text.
pub(super) fn rendered() -> Result<Vec<(PathBuf, String)>> {
    let folder = Path::new(MANIFESTS);
    let mut files = vec![(
        folder.join("kustomization.yaml"),
        kustomization(&["crds", "ebpf"]),
    )];
    for backend in BACKENDS {
        let text = plain(&template(&[
            "--set=namespace.create=true,crds.keep=false",
            &format!("--set=backend={backend}"),
        ])?);
        let is_crd = |document: &&str| document.contains("\nkind: CustomResourceDefinition\n");
        let documents = text.split("---\n");
        let (crds, rest): (Vec<&str>, Vec<&str>) = documents.partition(is_crd);
        if backend == BACKENDS[0] {
            add(&mut files, folder, "crds", "crds.yaml", &crds);
        }
        add(&mut files, folder, backend, "tapedeck.yaml", &rest);
    }
    Ok(files)
}

fn add(
    files: &mut Vec<(PathBuf, String)>,
    folder: &Path,
    name: &str,
    file: &str,
    documents: &[&str],
) {
    let folder = folder.join(name);
    files.push((folder.join("kustomization.yaml"), kustomization(&[file])));
    let documents: Vec<&str> = documents
        .iter()
        .copied()
        .filter(|document| !document.trim().is_empty())
        .collect();
    files.push((
        folder.join(file),
        format!("{HEADER}{}", documents.join("---\n")),
    ));
}

fn kustomization(resources: &[&str]) -> String {
    let list: String = resources
        .iter()
        .map(|name| format!("  - {name}\n"))
        .collect();
    format!("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{list}")
}

/// What belongs to Helm is left out.
fn plain(text: &str) -> String {
    text.lines()
        .filter(|line| !line.starts_with("# Source: "))
        .filter(|line| !line.trim_start().starts_with("helm.sh/chart:"))
        .map(|line| line.replace("managed-by: Helm", "managed-by: tapedeck"))
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

/// What helm makes of the chart.
pub(super) fn template(args: &[&str]) -> Result<String> {
    let mut helm = command(
        &tool("helm"),
        &["template", "tapedeck", CHART, "--namespace", NAMESPACE],
    );
    let output = helm.args(args).output().context("failed to start helm")?;
    ensure!(
        output.status.success(),
        "{} failed: {}",
        line(&helm),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// The path of `helm` or `kubectl`.
pub(super) fn tool(name: &str) -> String {
    format!("{KUBERNETES}/{name}")
}
