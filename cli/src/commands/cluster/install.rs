//! `install` and `upgrade`: server-side apply of the objects of the chart.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, TypeMeta,
    ValidationDirective,
};
use kube::core::GroupVersionKind;
use kube::runtime::wait::conditions;
use kube::{Api, ResourceExt};
use serde_json::Value;

use super::args;
use super::args::{Access, Applying, Install, Text, Upgrade};
use super::manifests::{Settings, VERSION};
use super::output::print_objects;
use super::session::{Installation, MANAGER, SYSTEM, Session};
use super::waiting::until;
use crate::output;

/// What is ours and made by this program.
const OURS: &str = "app.kubernetes.io/part-of=tapedeck,app.kubernetes.io/managed-by=tapedeck";

/// A definition is established within moments, or something is wrong with it.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(60);

/// The objects, on standard output.
pub(super) fn print(access: &Access, settings: &args::Settings, text: Text) -> Result<ExitCode> {
    let namespace = access.namespace.as_deref().unwrap_or(SYSTEM);
    print_objects(&Settings::new(namespace, settings)?.objects()?, text)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn install(session: &Session, args: &Install) -> Result<ExitCode> {
    let namespace = session.named.as_deref().unwrap_or(SYSTEM);
    if let Some(installed) = session.installation().await? {
        ours(&installed)?;
        ensure!(
            installed.namespace == namespace,
            "Tapedeck {} is installed in the namespace {} already, and a cluster has room for one: \
             `tapedeck cluster upgrade -n {}`, or uninstall it first",
            installed.version,
            installed.namespace,
            installed.namespace
        );
        // What an interrupted installation left is completed.
        ensure!(
            daemons(session, namespace).await?.is_none(),
            "Tapedeck {} is installed in the namespace {namespace} already: `tapedeck cluster upgrade`",
            installed.version
        );
    }
    let settings = Settings::new(namespace, &args.settings)?;
    apply(session, &settings, &args.applying).await?;
    output::say(format_args!(
        "Tapedeck {VERSION} is installed in the namespace {namespace}; nothing is recorded yet. \
         Next: `tapedeck cluster status`, `tapedeck cluster doctor`"
    ));
    if settings.stores.is_empty() {
        output::warn(
            "there is no store, so that no snapshots can be taken: `upgrade --store URL` adds one",
        );
    }
    wait(session, namespace, &args.applying).await
}

pub(super) async fn upgrade(session: &Session, args: &Upgrade) -> Result<ExitCode> {
    let installed = session.installation().await?;
    let installed = installed
        .context("Tapedeck is not installed on this cluster: `tapedeck cluster install`")?;
    ours(&installed)?;
    let namespace = &installed.namespace;
    if let Some(named) = &session.named {
        ensure!(
            named == namespace,
            "Tapedeck is installed in the namespace {namespace}, not in {named}"
        );
    }
    ensure!(
        parts(&installed.version) <= parts(VERSION),
        "the cluster has Tapedeck {}, and this program is {VERSION}: older definitions would drop fields \
         of what is there; use the program of {} or newer",
        installed.version,
        installed.version
    );
    let daemons = daemons(session, namespace).await?;
    let daemons =
        daemons.context("the installation is not complete: `tapedeck cluster install`")?;
    let stores = api(session, "v1", "ConfigMap", Some(namespace))?;
    let stores = stores.get_opt("tapedeck-stores").await;
    let stores = stores.map_err(|error| session.explain(error))?;
    let stores = stores.map(|stores| stores.data).unwrap_or_default();
    let mut settings = Settings::of(namespace, &stores, &serde_json::to_value(daemons)?);
    settings.set(&args.settings)?;
    if args.applying.dry_run {
        print_objects(&settings.objects()?, args.applying.output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let objects = apply(session, &settings, &args.applying).await?;
    let pruned = prune(session, &objects).await?;
    let also = match pruned {
        0 => String::new(),
        _ => format!(
            "; {} that this version does not have removed",
            super::output::count(pruned, "object")
        ),
    };
    output::say(format_args!(
        "Tapedeck in the namespace {namespace}: {} is now {VERSION}{also}",
        installed.version
    ));
    wait(session, namespace, &args.applying).await
}

/// Refuses an installation that somebody else looks after.
pub(super) fn ours(installed: &Installation) -> Result<()> {
    ensure!(
        installed.managed_by != "Helm",
        "Tapedeck {} was installed in the namespace {} by Helm: use `helm upgrade` and `helm uninstall` \
         (`helm list -n {}` names the release)",
        installed.version,
        installed.namespace,
        installed.namespace
    );
    Ok(())
}

async fn daemons(session: &Session, namespace: &str) -> Result<Option<DynamicObject>> {
    let daemons = api(session, "apps/v1", "DaemonSet", Some(namespace))?;
    let daemons = daemons.get_opt("tapedeck-node").await;
    daemons.map_err(|error| session.explain(error))
}

/// Numbers of a version, to be compared; what is behind a `-` is left out.
fn parts(version: &str) -> Vec<u64> {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    numbers
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect()
}

/// Applies all objects, in order; definitions are waited for.
async fn apply(session: &Session, settings: &Settings, applying: &Applying) -> Result<Vec<Value>> {
    let objects = settings.objects()?;
    let mut params = PatchParams::apply(MANAGER).validation(ValidationDirective::Strict);
    params.force = applying.force_conflicts;
    let mut are_established = false;
    for object in &objects {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        if !are_established && kind != "Namespace" && kind != "CustomResourceDefinition" {
            established(session).await?;
            are_established = true;
        }
        api_of(session, object)?
            .patch(name, &params, &Patch::Apply(object))
            .await
            .map_err(|error| {
                session
                    .explain(error)
                    .context(format!("cannot apply {kind} {name}"))
            })?;
    }
    Ok(objects)
}

/// Waits until the API server serves the resources.
async fn established(session: &Session) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(session.client.clone());
    for kind in ["recordings", "snapshots", "nodereports"] {
        let name = format!("{kind}.{}", tapedeck_cluster::GROUP);
        let condition = until(definitions.clone(), &name, conditions::is_crd_established());
        let waited = tokio::time::timeout(ESTABLISHED_WITHIN, condition).await;
        let waited = waited.with_context(|| {
            format!(
                "the API server does not serve {name} yet: `kubectl describe crd {name}` says why"
            )
        })?;
        waited.with_context(|| format!("cannot watch {name}"))?;
    }
    Ok(())
}

/// Removes what an older version had, and this one has not.
async fn prune(session: &Session, objects: &[Value]) -> Result<u64> {
    let mut removed = 0;
    for found in inventory(session).await? {
        let is_kept = objects.iter().any(|object| {
            object["kind"] == found.kind.as_str()
                && object["metadata"]["name"] == found.name.as_str()
        });
        if !is_kept {
            found.delete(session).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// An object of an installation, found on the cluster.
pub(super) struct Found {
    pub(super) kind: String,
    pub(super) name: String,
    api: Api<DynamicObject>,
}

impl Found {
    /// Deletes it; it may be gone already.
    pub(super) async fn delete(&self, session: &Session) -> Result<()> {
        match self
            .api
            .delete(&self.name, &DeleteParams::background())
            .await
        {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => {
                let what = format!("cannot delete {} {}", self.kind, self.name);
                Err(session.explain(error).context(what))
            }
            Ok(_) => Ok(()),
        }
    }

    /// Whether it is still there.
    pub(super) async fn is_there(&self, session: &Session) -> Result<bool> {
        let found = self.api.get_metadata_opt(&self.name).await;
        Ok(found.map_err(|error| session.explain(error))?.is_some())
    }
}

/// Every object of the installation, by its labels: a request a kind. In the order in which they are made.
pub(super) async fn inventory(session: &Session) -> Result<Vec<Found>> {
    const KINDS: [(&str, &str, bool); 16] = [
        ("v1", "Namespace", false),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition", false),
        ("networking.k8s.io/v1", "NetworkPolicy", true),
        ("scheduling.k8s.io/v1", "PriorityClass", false),
        ("v1", "ServiceAccount", true),
        ("v1", "ConfigMap", true),
        ("v1", "Secret", true),
        ("rbac.authorization.k8s.io/v1", "ClusterRole", false),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", false),
        ("rbac.authorization.k8s.io/v1", "Role", true),
        ("rbac.authorization.k8s.io/v1", "RoleBinding", true),
        ("v1", "Service", true),
        ("apps/v1", "DaemonSet", true),
        ("apps/v1", "Deployment", true),
        (
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicy",
            false,
        ),
        (
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicyBinding",
            false,
        ),
    ];
    let mut found = Vec::new();
    let params = ListParams::default().labels(OURS);
    for (version, kind, is_namespaced) in KINDS {
        let list = api(session, version, kind, None)?
            .list_metadata(&params)
            .await;
        let list = list.map_err(|error| session.explain(error))?;
        for object in list.items {
            let namespace = object.metadata.namespace.clone().filter(|_| is_namespaced);
            found.push(Found {
                kind: kind.to_owned(),
                name: object.name_any(),
                api: api(session, version, kind, namespace.as_deref())?,
            });
        }
    }
    Ok(found)
}

/// The API of a kind; without a namespace, for all or for a kind that has none.
pub(super) fn api(
    session: &Session,
    version: &str,
    kind: &str,
    namespace: Option<&str>,
) -> Result<Api<DynamicObject>> {
    let types = TypeMeta {
        api_version: version.to_owned(),
        kind: kind.to_owned(),
    };
    let kind = GroupVersionKind::try_from(&types).context("the manifests have an odd kind")?;
    let kind = ApiResource::from_gvk(&kind);
    let client = session.client.clone();
    Ok(match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &kind),
        None => Api::all_with(client, &kind),
    })
}

fn api_of(session: &Session, object: &Value) -> Result<Api<DynamicObject>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    api(
        session,
        &text(&object["apiVersion"]),
        &text(&object["kind"]),
        object["metadata"]["namespace"].as_str(),
    )
}

/// Waits until every daemon and the controller run, where that is asked for.
async fn wait(session: &Session, namespace: &str, applying: &Applying) -> Result<ExitCode> {
    if !applying.wait {
        return Ok(ExitCode::SUCCESS);
    }
    let daemons = api(session, "apps/v1", "DaemonSet", Some(namespace))?;
    let controller = api(session, "apps/v1", "Deployment", Some(namespace))?;
    let waited = tokio::time::timeout(applying.timeout, async {
        until(daemons.clone(), "tapedeck-node", is_rolled_out).await?;
        until(controller, "tapedeck-controller", is_rolled_out).await
    });
    match waited.await {
        Ok(Ok(_)) => {
            output::say("every node and the controller run");
            Ok(ExitCode::SUCCESS)
        }
        Ok(Err(error)) => bail!("cannot watch the installation: {error}"),
        Err(_) => bail!(
            "after {} not everything runs: `kubectl get pods -n {namespace}`, `tapedeck cluster logs`",
            output::duration(applying.timeout)
        ),
    }
}

/// Whether a DaemonSet or Deployment runs everywhere as it is now, as `kubectl rollout status` has it.
pub(super) fn is_rolled_out(object: Option<&DynamicObject>) -> bool {
    let Some(object) = object else {
        return false;
    };
    let status = &object.data["status"];
    let number = |name: &str| status[name].as_i64().unwrap_or(0);
    if number("observedGeneration") < object.metadata.generation.unwrap_or(0) {
        return false;
    }
    if status["desiredNumberScheduled"].is_i64() {
        let desired = number("desiredNumberScheduled");
        return number("updatedNumberScheduled") == desired && number("numberAvailable") == desired;
    }
    let desired = object.data["spec"]["replicas"].as_i64().unwrap_or(1);
    number("updatedReplicas") == desired && number("availableReplicas") == desired
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(parts("0.10.0") > parts("0.9.3"));
        assert!(parts("0.1.0-rc.1") == parts("0.1.0"));
        assert!(parts("") < parts("0.1.0"));
    }
}
