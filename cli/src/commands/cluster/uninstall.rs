//! `uninstall`: removes everything, in the order in which each part can still do its part.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};
use tapedeck_cluster::{Recording, Snapshot};
use tokio::time::Instant;

use super::args::{Uninstall, Wipe};
use super::install::{Found, api, inventory, is_rolled_out, ours};
use super::listing;
use super::output::count;
use super::session::{MANAGER, Session};
use super::waiting::until;
use crate::output;

/// How often is looked whether something is gone: deletions take seconds.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The set of pods that empties the folders of the nodes.
const WIPERS: &str = "tapedeck-wipe";

pub(super) async fn uninstall(session: &Session, args: &Uninstall) -> Result<ExitCode> {
    let installed = session.installation().await?;
    let found = inventory(session).await?;
    if let Some(installed) = &installed {
        ours(installed)?;
    }
    let Some(installed) = installed else {
        // What an interrupted removal left.
        ensure!(
            !found.is_empty(),
            "Tapedeck is not installed on this cluster"
        );
        remove(session, args, found).await?;
        output::say("the rest of Tapedeck is removed");
        return Ok(ExitCode::SUCCESS);
    };
    let namespace = installed.namespace.clone();
    let snapshots = listing::all::<Snapshot>(session).await?;
    let recordings = listing::all::<Recording>(session).await?;
    if !args.yes {
        let what = format!(
            "{} with what they stored, {}, the namespace {namespace} and all in it",
            count(snapshots.len() as u64, "snapshot"),
            count(recordings.len() as u64, "recording"),
        );
        confirm(&what, args)?;
    }
    delete_snapshots(session, args, &snapshots).await?;
    delete_all::<Recording>(session, args.timeout, &recordings).await?;
    if !args.keep_archives {
        wipe_nodes(session, args, &namespace).await?;
    }
    remove(session, args, found).await?;
    output::say(format_args!("Tapedeck {} is removed", installed.version));
    Ok(ExitCode::SUCCESS)
}

fn confirm(what: &str, args: &Uninstall) -> Result<()> {
    let archives = if args.keep_archives {
        ""
    } else {
        ", the archives on all nodes"
    };
    ensure!(
        std::io::stdin().is_terminal(),
        "this removes {what}{archives}; --yes does it without asking"
    );
    let mut out = std::io::stderr().lock();
    write!(out, "This removes {what}{archives}. Go on? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    ensure!(
        matches!(answer.trim(), "y" | "Y" | "yes"),
        "nothing was removed"
    );
    Ok(())
}

/// Snapshots first: only the controller can remove what they stored, and it must be there for that.
async fn delete_snapshots(
    session: &Session,
    args: &Uninstall,
    snapshots: &[DynamicObject],
) -> Result<()> {
    if args.abandon_stored {
        for snapshot in snapshots {
            let none = json!({ "metadata": { "finalizers": null } });
            let patched = of::<Snapshot>(session, snapshot)
                .patch(
                    &snapshot.name_any(),
                    &PatchParams::default(),
                    &Patch::Merge(none),
                )
                .await;
            patched.map_err(|error| session.explain(error))?;
            if let Some(url) = snapshot.data["status"]["location"]["url"].as_str() {
                output::say(format_args!("{} stays", output::visible(url)));
            }
        }
    }
    delete_all::<Snapshot>(session, args.timeout, snapshots).await.context(
        "the controller has not removed what snapshots stored (`tapedeck cluster logs --controller`); \
         --abandon-stored leaves it there",
    )
}

/// Objects are deleted by their names: what is in them need not be understood.
fn of<K>(session: &Session, object: &DynamicObject) -> Api<DynamicObject>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let namespace = object.namespace().unwrap_or_default();
    let kind = ApiResource::erase::<K>(&());
    Api::namespaced_with(session.client.clone(), &namespace, &kind)
}

/// Deletes objects, and waits until they are gone.
async fn delete_all<K>(
    session: &Session,
    timeout: Duration,
    objects: &[DynamicObject],
) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let deadline = Instant::now() + timeout;
    for object in objects {
        let deleted = of::<K>(session, object)
            .delete(&object.name_any(), &DeleteParams::background())
            .await;
        match deleted {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(session.explain(error)),
            Ok(_) => {}
        }
    }
    for object in objects {
        let name = object.name_any();
        let api = of::<K>(session, object);
        loop {
            let there = api.get_metadata_opt(&name).await;
            if there.map_err(|error| session.explain(error))?.is_none() {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "{} {}/{name} is still there after {}",
                K::kind(&()),
                object.namespace().unwrap_or_default(),
                output::duration(timeout)
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// The same for a recording or snapshot that a user names.
pub(super) async fn delete_named<K>(
    session: &Session,
    names: &[String],
    wait: Option<Duration>,
) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let kind = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> =
        Api::namespaced_with(session.client.clone(), &session.namespace, &kind);
    let mut objects = Vec::new();
    for name in names {
        objects.push(
            api.get(name)
                .await
                .map_err(|error| session.explain(error))?,
        );
    }
    match wait {
        Some(timeout) => delete_all::<K>(session, timeout, &objects).await,
        None => {
            for name in names {
                let deleted = api.delete(name, &DeleteParams::background()).await;
                deleted.map_err(|error| session.explain(error))?;
            }
            Ok(())
        }
    }
}

/// Empties the folders of archives on the nodes: the daemons make place for pods that do only that.
async fn wipe_nodes(session: &Session, args: &Uninstall, namespace: &str) -> Result<()> {
    let sets = api(session, "apps/v1", "DaemonSet", Some(namespace))?;
    let found = sets.get_opt("tapedeck-node").await;
    let Some(found) = found.map_err(|error| session.explain(error))? else {
        return Ok(());
    };
    let wipers = wipers(&serde_json::to_value(found)?, namespace)?;
    // Nobody may write while the folders are emptied.
    delete_set(session, args, &sets, "tapedeck-node").await?;
    let params = PatchParams::apply(MANAGER).force();
    let applied = sets.patch(WIPERS, &params, &Patch::Apply(&wipers)).await;
    applied.map_err(|error| session.explain(error))?;
    let all_done = until(sets.clone(), WIPERS, is_rolled_out);
    match tokio::time::timeout(args.timeout, all_done).await {
        Ok(waited) => waited.context("cannot watch the pods that empty the nodes' folders")?,
        Err(_) => bail!(
            "after {} the archives of some nodes are still there (`kubectl get pods -n {namespace}`): \
             try again, or leave them with --keep-archives",
            output::duration(args.timeout)
        ),
    };
    delete_set(session, args, &sets, WIPERS).await
}

/// Deletes a set of pods, and waits until its last pod is gone.
async fn delete_set(
    session: &Session,
    args: &Uninstall,
    sets: &Api<DynamicObject>,
    name: &str,
) -> Result<()> {
    let deleted = sets.delete(name, &DeleteParams::foreground()).await;
    deleted.map_err(|error| session.explain(error))?;
    let gone = until(sets.clone(), name, |set: Option<&DynamicObject>| {
        set.is_none()
    });
    let waited = tokio::time::timeout(args.timeout, gone).await;
    let waited = waited.with_context(|| {
        format!(
            "pods of {name} are still there after {}",
            output::duration(args.timeout)
        )
    })?;
    waited.with_context(|| format!("cannot watch {name}"))?;
    Ok(())
}

/// The pods that empty the folders: on the same nodes, with the same image, and nothing but the folder. They are ready
/// once it is empty.
fn wipers(daemons: &Value, namespace: &str) -> Result<Value> {
    let pod = &daemons["spec"]["template"]["spec"];
    let volumes = pod["volumes"]
        .as_array()
        .context("the daemons have no volumes")?;
    let archives = volumes.iter().find(|volume| volume["name"] == "archives");
    let archives = archives.context("the daemons have no folder of archives")?;
    let labels = json!({
        "app.kubernetes.io/name": "tapedeck",
        "app.kubernetes.io/component": "wipe",
        "app.kubernetes.io/part-of": "tapedeck",
        "app.kubernetes.io/managed-by": "tapedeck",
    });
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 1,
        "securityContext": { "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false },
        "containers": [{
            "name": "wipe",
            "image": pod["containers"][0]["image"],
            "imagePullPolicy": pod["containers"][0]["imagePullPolicy"],
            "command": ["/usr/bin/tapedeck", "cluster", "wipe", "/var/lib/tapedeck"],
            "securityContext": {
                "privileged": false,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "readinessProbe": {
                "exec": { "command": ["/usr/bin/tapedeck", "cluster", "wipe", "--check", "/var/lib/tapedeck"] },
                "periodSeconds": 2,
            },
            "resources": { "requests": { "cpu": "10m", "memory": "16Mi" }, "limits": { "memory": "64Mi" } },
            "volumeMounts": [{ "name": "archives", "mountPath": "/var/lib/tapedeck" }],
        }],
        "volumes": [archives],
    });
    // Where and how the daemons ran.
    for key in [
        "nodeSelector",
        "affinity",
        "tolerations",
        "imagePullSecrets",
        "priorityClassName",
    ] {
        if !pod[key].is_null() {
            spec[key] = pod[key].clone();
        }
    }
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": WIPERS, "namespace": namespace, "labels": labels },
        "spec": {
            "selector": { "matchLabels": { "app.kubernetes.io/name": "tapedeck", "app.kubernetes.io/component": "wipe" } },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "100%" } },
            "template": { "metadata": { "labels": labels }, "spec": spec },
        },
    }))
}

/// Removes the objects, those made last first; then the definitions, then the namespace.
async fn remove(session: &Session, args: &Uninstall, found: Vec<Found>) -> Result<()> {
    let is_last =
        |found: &Found| found.kind == "CustomResourceDefinition" || found.kind == "Namespace";
    let (last, mut first): (Vec<Found>, Vec<Found>) = found.into_iter().partition(is_last);
    // Access goes last, so that programs that are ending can still say so.
    first.sort_by_key(|found| found.kind.contains("Role") || found.kind == "ServiceAccount");
    for found in &first {
        found.delete(session).await?;
    }
    let deadline = Instant::now() + args.timeout;
    for found in last.iter().rev() {
        if found.kind == "Namespace" && args.keep_namespace {
            release(session, &found.name).await?;
            continue;
        }
        found.delete(session).await?;
        gone(session, found, deadline).await?;
    }
    for found in &first {
        gone(session, found, deadline).await?;
    }
    Ok(())
}

async fn gone(session: &Session, found: &Found, deadline: Instant) -> Result<()> {
    while found.is_there(session).await? {
        ensure!(
            Instant::now() < deadline,
            "{} {} is still there: `kubectl describe` says what holds it; then uninstall again",
            found.kind,
            found.name
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// The namespace stays: what is ours there goes, the controller's Lease and our labels.
async fn release(session: &Session, namespace: &str) -> Result<()> {
    let leases = api(session, "coordination.k8s.io/v1", "Lease", Some(namespace))?;
    match leases
        .delete("tapedeck-controller", &DeleteParams::background())
        .await
    {
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        Err(error) => return Err(session.explain(error)),
        Ok(_) => {}
    }
    let none = json!({ "metadata": { "labels": {
        "app.kubernetes.io/name": null,
        "app.kubernetes.io/part-of": null,
        "app.kubernetes.io/version": null,
        "app.kubernetes.io/managed-by": null,
    } } });
    let namespaces = api(session, "v1", "Namespace", None)?;
    let patched = namespaces
        .patch(namespace, &PatchParams::default(), &Patch::Merge(none))
        .await;
    patched.map_err(|error| session.explain(error))?;
    Ok(())
}

/// Empties a folder, then waits to be ended; or says whether it is empty.
pub(super) async fn wipe(args: &Wipe) -> Result<ExitCode> {
    let folder = args.folder.display();
    let entries = || {
        let entries = std::fs::read_dir(&args.folder);
        entries.with_context(|| format!("cannot read {folder}"))
    };
    if args.check {
        return Ok(match entries()?.next() {
            None => ExitCode::SUCCESS,
            Some(_) => ExitCode::from(crate::FAILED),
        });
    }
    for entry in entries()? {
        let path = entry
            .with_context(|| format!("cannot read {folder}"))?
            .path();
        let removed = if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    output::say(format_args!("{folder} is empty"));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("cannot wait for signals")?;
    terminate.recv().await;
    Ok(ExitCode::SUCCESS)
}
