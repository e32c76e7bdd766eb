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

/// What is set for those who have no Helm.
pub(super) const PLAIN: &str = "--set=namespace.create=true,crds.keep=false";

const KUSTOMIZATION: &str = "\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - crds.yaml
  - tapedeck.yaml
";

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
    let text = plain(&template(&[PLAIN])?);
    let is_crd = |document: &&str| document.contains("\nkind: CustomResourceDefinition\n");
    let documents = text
        .split("---\n")
        .filter(|document| !document.trim().is_empty());
    let (crds, rest): (Vec<&str>, Vec<&str>) = documents.partition(is_crd);
    let of = |documents: Vec<&str>| format!("{HEADER}{}", documents.join("---\n"));
    let folder = Path::new(MANIFESTS);
    Ok(vec![
        (folder.join("kustomization.yaml"), KUSTOMIZATION.to_owned()),
        (folder.join("crds.yaml"), of(crds)),
        (folder.join("tapedeck.yaml"), of(rest)),
    ])
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
