//! A cluster, reached with a kubeconfig as kubectl reaches it, and the installation there.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};

use super::args::Access;
use super::errors::{Place, explain, innermost};

/// Where Tapedeck is, unless somebody says otherwise.
pub(super) const SYSTEM: &str = "tapedeck-system";

/// Our name as the owner of fields.
pub(super) const MANAGER: &str = "tapedeck";

/// On a resource definition: where the installation is.
pub(super) const INSTALLED_IN: &str = "tapedeck.dev/namespace";

/// The definition that is asked where the installation is.
pub(super) const DEFINITION: &str = "recordings.tapedeck.dev";

/// An API server that does not answer within this is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which nothing comes for so long is dead. Watches get bookmarks every minute.
const SILENCE: Duration = Duration::from_secs(120);

/// A cluster that is reached.
pub(super) struct Session {
    pub(super) client: Client,
    /// For transfers, which are tried again where they were cut, and not as a whole.
    pub(super) transfers: Client,
    /// Of the workloads: `-n`, or that of the context.
    pub(super) namespace: String,
    /// `-n`, where it was given.
    pub(super) named: Option<String>,
    system: Option<String>,
    place: Place,
}

/// What the resource definitions say of the installation.
#[derive(Clone, Debug)]
pub(super) struct Installation {
    pub(super) namespace: String,
    /// Of those who installed it; empty: unknown.
    pub(super) version: String,
    /// Who made it: `Helm`, `tapedeck`.
    pub(super) managed_by: String,
}

impl Session {
    /// Reads the kubeconfig; nothing is asked of the cluster yet.
    pub(super) async fn open(access: &Access) -> Result<Self> {
        let (mut config, place) = config(access).await?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(SILENCE);
        let place = Place {
            server: config.cluster_url.to_string(),
            ..place
        };
        let namespace = access
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let mut once = config.clone();
        once.default_retry = false;
        let transfers = Client::try_from(once);
        let transfers = transfers.with_context(|| format!("cannot use {}", place.of))?;
        let client =
            Client::try_from(config).with_context(|| format!("cannot use {}", place.of))?;
        Ok(Self {
            client,
            transfers,
            namespace,
            named: access.namespace.clone(),
            system: access.system_namespace.clone(),
            place,
        })
    }

    /// What an error of the API says to people.
    pub(super) fn explain(&self, error: kube::Error) -> Error {
        explain(error, &self.place)
    }

    /// The installation, where there is one.
    pub(super) async fn installation(&self) -> Result<Option<Installation>> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let definition = definitions.get_opt(DEFINITION).await;
        let definition = definition.map_err(|error| self.explain(error))?;
        Ok(definition.map(|definition| {
            let label = |name: &str| definition.labels().get(name).cloned().unwrap_or_default();
            let namespace = definition.annotations().get(INSTALLED_IN).cloned();
            Installation {
                namespace: namespace.unwrap_or_else(|| SYSTEM.to_owned()),
                version: label("app.kubernetes.io/version"),
                managed_by: label("app.kubernetes.io/managed-by"),
            }
        }))
    }

    /// Where Tapedeck is: what the user says, what the definitions say, or the default. Who may not read
    /// definitions gets the default.
    pub(super) async fn system(&self) -> String {
        match &self.system {
            Some(namespace) => namespace.clone(),
            None => match self.installation().await {
                Ok(Some(installation)) => installation.namespace,
                Ok(None) | Err(_) => SYSTEM.to_owned(),
            },
        }
    }
}

/// The configuration, and where it comes from.
async fn config(access: &Access) -> Result<(Config, Place)> {
    let options = KubeConfigOptions {
        context: access.context.clone(),
        cluster: access.cluster.clone(),
        user: access.user.clone(),
    };
    let is_chosen = access.context.is_some() || access.cluster.is_some() || access.user.is_some();
    let Some((files, kubeconfig)) = kubeconfig(access)? else {
        if is_chosen {
            bail!("there is no kubeconfig: set KUBECONFIG, or give --kubeconfig");
        }
        let config = Config::incluster().map_err(|error| {
            anyhow!(
                "there is no kubeconfig (KUBECONFIG, ~/.kube/config), and this is no pod ({}): give --kubeconfig",
                innermost(&error)
            )
        })?;
        let place = Place {
            of: "the service account of the pod".to_owned(),
            server: String::new(),
        };
        return Ok((config, place));
    };
    let context = options
        .context
        .clone()
        .or_else(|| kubeconfig.current_context.clone());
    let contexts: Vec<String> = kubeconfig
        .contexts
        .iter()
        .map(|known| known.name.clone())
        .collect();
    let of = match &context {
        Some(context) => format!("the context {context} of {files}"),
        None => files.clone(),
    };
    match &context {
        Some(context) if !contexts.contains(context) => bail!(
            "{files}: there is no context {context:?}; there {}",
            match contexts.as_slice() {
                [] => "are none".to_owned(),
                some => format!("are: {}", some.join(", ")),
            }
        ),
        None if options.cluster.is_none() => {
            bail!(
                "{files} names no current context: give --context, or `kubectl config use-context`"
            )
        }
        Some(_) | None => {}
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let config = config.map_err(|error| anyhow!("cannot use {of}: {}", innermost(&error)))?;
    let place = Place {
        of,
        server: String::new(),
    };
    Ok((config, place))
}

/// The kubeconfig, merged of the files that there are, as kubectl does; none: unset.
fn kubeconfig(access: &Access) -> Result<Option<(String, Kubeconfig)>> {
    let files: Vec<PathBuf> = match (&access.kubeconfig, std::env::var_os("KUBECONFIG")) {
        (Some(file), _) => vec![file.clone()],
        (None, Some(files)) if !files.is_empty() => std::env::split_paths(&files)
            .filter(|file| file.exists())
            .collect(),
        (None, _) => std::env::home_dir()
            .map(|home| home.join(".kube/config"))
            .into_iter()
            .filter(|file| file.exists())
            .collect(),
    };
    let mut merged: Option<Kubeconfig> = None;
    for file in &files {
        // Errors of kubeconfigs say their causes themselves, each those of all below it.
        let read = Kubeconfig::read_from(file)
            .map_err(|error| anyhow!("cannot read {}: {}", file.display(), innermost(&error)))?;
        merged = Some(match merged {
            None => read,
            Some(merged) => merged.merge(read).map_err(|error| {
                let why = innermost(&error);
                anyhow!("cannot join {} to the others: {why}", file.display())
            })?,
        });
    }
    let names: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    Ok(merged.map(|merged| (names.join(", "), merged)))
}
