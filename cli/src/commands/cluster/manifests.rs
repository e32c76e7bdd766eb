//! The objects of an installation: the manifests that are rendered from the chart, with the few
//! settings that matter. A test compares them with what helm makes of the chart.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::args;
use super::session::SYSTEM;

const CRDS: &str = include_str!("../../../../deploy/manifests/crds.yaml");
const OBJECTS: &str = include_str!("../../../../deploy/manifests/tapedeck.yaml");

/// Options of stores that are secrets, and the key of a `Secret` that each should be; the chart's, too.
const SECRET_OPTIONS: &str =
    include_str!("../../../../deploy/helm/tapedeck/files/secret-options.json");

/// The image of the manifests.
const IMAGE: &str = concat!("tapedeck:", env!("CARGO_PKG_VERSION"));

/// The version that is installed.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is told apart between installations.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Settings {
    pub(super) namespace: String,
    pub(super) image: String,
    pub(super) stores: Vec<Store>,
    /// The claim that is mounted at /snapshots.
    pub(super) claim: Option<String>,
}

/// A store; the keys in the order in which helm writes them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Store {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) options: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
    pub(super) url: String,
}

impl Settings {
    /// What is set on the command line, and defaults.
    pub(super) fn new(namespace: &str, args: &args::Settings) -> Result<Self> {
        let mut settings = Self {
            namespace: namespace.to_owned(),
            image: IMAGE.to_owned(),
            stores: Vec::new(),
            claim: None,
        };
        settings.set(args)?;
        Ok(settings)
    }

    /// Changes what is set on the command line.
    pub(super) fn set(&mut self, args: &args::Settings) -> Result<()> {
        if let Some(image) = &args.image {
            self.image.clone_from(image);
        }
        if let Some(url) = &args.store {
            const KINDS: [&str; 4] = ["s3://", "gs://", "az://", "file:///"];
            if !KINDS
                .iter()
                .any(|kind| url.starts_with(kind) && url.len() > kind.len())
            {
                bail!(
                    "--store {url}: expected s3://BUCKET/PREFIX, gs://.., az://.. or file:///snapshots"
                );
            }
            for (option, _) in &args.store_option {
                refuse_secret(option)?;
            }
            self.stores = vec![Store {
                name: "default".to_owned(),
                options: args.store_option.iter().cloned().collect(),
                secret: args.store_secret.clone(),
                url: url.clone(),
            }];
        }
        if let Some(claim) = &args.snapshot_claim {
            self.claim = Some(claim.clone());
        }
        let is_local = self
            .stores
            .iter()
            .any(|store| store.url.starts_with("file:"));
        if is_local && self.claim.is_none() {
            bail!("a store at file:/// needs a volume that all nodes share: --snapshot-claim NAME");
        }
        Ok(())
    }

    /// What an installation has, by its objects.
    pub(super) fn of(namespace: &str, stores: &Value, daemons: &Value) -> Self {
        let text = stores["data"]["stores.yaml"].as_str().unwrap_or_default();
        let pod = &daemons["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().map_or(&[][..], Vec::as_slice);
        let claim = volumes
            .iter()
            .find_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
        let image = pod["containers"][0]["image"].as_str().unwrap_or(IMAGE);
        let version = daemons["metadata"]["labels"]["app.kubernetes.io/version"].as_str();
        Self {
            namespace: namespace.to_owned(),
            // An image with the tag of its version gets that of this one; any other stays.
            image: match (image.rsplit_once(':'), version) {
                (Some((repository, tag)), Some(version)) if tag == version => {
                    format!("{repository}:{VERSION}")
                }
                _ => image.to_owned(),
            },
            stores: serde_json::from_str(text).unwrap_or_default(),
            claim: claim.map(str::to_owned),
        }
    }

    /// The objects, in the order in which they are made.
    pub(super) fn objects(&self) -> Result<Vec<Value>> {
        let (mut objects, rest): (Vec<Value>, Vec<Value>) = documents(OBJECTS)?
            .into_iter()
            .partition(|object| object["kind"] == "Namespace");
        objects.extend(documents(CRDS)?);
        objects.extend(rest);
        for object in &mut objects {
            if self.namespace != SYSTEM {
                rename(object, &self.namespace);
            }
            if object["kind"] == "ConfigMap" && object["metadata"]["name"] == "tapedeck-stores" {
                object["data"]["stores.yaml"] = self.stores_text()?.into();
            }
            if object["spec"]["template"]["spec"].is_object() {
                self.set_pod(object)?;
            }
        }
        Ok(objects)
    }

    fn set_pod(&self, object: &mut Value) -> Result<()> {
        let is_node = object["kind"] == "DaemonSet";
        let template = &mut object["spec"]["template"];
        let sum = hex(digest(&SHA256, self.stores_text()?.as_bytes()).as_ref());
        template["metadata"]["annotations"]["checksum/stores"] = sum.into();
        let pod = &mut template["spec"];
        let container = &mut pod["containers"][0];
        container["image"] = self.image.clone().into();
        let secrets: Vec<Value> = self
            .stores
            .iter()
            .filter_map(|store| {
                let name = store.name.to_uppercase().replace('-', "_");
                let secret = store.secret.as_ref()?;
                Some(json!({ "prefix": format!("TAPEDECK_STORE_{name}_"), "secretRef": { "name": secret } }))
            })
            .collect();
        if !secrets.is_empty() {
            container["envFrom"] = secrets.into();
        }
        let Some(claim) = &self.claim else {
            return Ok(());
        };
        push(
            &mut container["volumeMounts"],
            json!({ "name": "snapshots", "mountPath": "/snapshots" }),
        )?;
        push(
            &mut pod["volumes"],
            json!({ "name": "snapshots", "persistentVolumeClaim": { "claimName": claim } }),
        )?;
        if is_node {
            // Nodes and controller share the volume.
            pod["securityContext"] =
                json!({ "fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch" });
        }
        Ok(())
    }

    /// As helm's `toJson` writes it: the sum over it is a part of the pods.
    fn stores_text(&self) -> Result<String> {
        let text = serde_json::to_string(&self.stores).context("cannot write the stores")?;
        Ok(text
            .replace('&', "\\u0026")
            .replace('<', "\\u003c")
            .replace('>', "\\u003e"))
    }
}

fn push(list: &mut Value, value: Value) -> Result<()> {
    list.as_array_mut()
        .context("the manifests have no such list")?
        .push(value);
    Ok(())
}

fn documents(yaml: &str) -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(yaml).context("the manifests of this program cannot be read")
}

/// Puts another namespace wherever ours stands, in rules of admission, too.
fn rename(value: &mut Value, namespace: &str) {
    match value {
        Value::String(text) if text.contains(SYSTEM) => *text = text.replace(SYSTEM, namespace),
        Value::Array(values) => values.iter_mut().for_each(|value| rename(value, namespace)),
        Value::Object(object) => object
            .values_mut()
            .for_each(|value| rename(value, namespace)),
        _ => {}
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is configured stands in a ConfigMap, which many may read. No option has capitals; who takes one for a variable of
/// the environment writes them.
fn refuse_secret(option: &str) -> Result<()> {
    let table: BTreeMap<String, String> =
        serde_json::from_str(SECRET_OPTIONS).context("the table of secret options")?;
    if let Some(key) = table.get(&option.to_ascii_lowercase()) {
        bail!(
            "--store-option {option}: is a secret, and would stand in a ConfigMap: make it the key {key} of a Secret, and \
             name that by --store-secret"
        );
    }
    Ok(())
}
