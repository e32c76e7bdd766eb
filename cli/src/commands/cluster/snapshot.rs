//! `snapshot`: takes recordings of a time, from all nodes, as one archive.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};
use tapedeck_cluster::{Destination, Phase, Snapshot, SnapshotSpec, SnapshotStatus, conditions};

use super::args::{Access, Delete, SnapshotCreate, Text};
use super::output::{count, print_objects};
use super::record::create_whole;
use super::session::Session;
use super::uninstall;
use super::waiting::until;
use crate::output;

/// The object, on standard output.
pub(super) fn print(access: &Access, args: &SnapshotCreate) -> Result<ExitCode> {
    let mut snapshot = snapshot(args)?;
    snapshot.metadata.namespace.clone_from(&access.namespace);
    print_objects(&[serde_json::to_value(snapshot)?], Text::Yaml)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn create(session: &Session, args: &SnapshotCreate) -> Result<ExitCode> {
    let name = &args.name;
    let created = create_whole(&api(session), &snapshot(args)?, |it| &it.spec).await?;
    created.map_err(|error| match error {
        kube::Error::Api(status) if status.is_already_exists() => anyhow!(
            "there is a snapshot {name} in the namespace {} already: a snapshot is taken once, choose another name",
            session.namespace
        ),
        error => session.explain(error),
    })?;
    if args.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let progress = output::message_line();
    let is_over = |snapshot: Option<&Snapshot>| {
        let Some(snapshot) = snapshot else {
            return true;
        };
        let status = snapshot.status.clone().unwrap_or_default();
        progress.set_message(format!("{:?} {}", status.phase, status.completeness.nodes));
        matches!(status.phase, Phase::Ready | Phase::Failed)
    };
    let watched = until(api(session), name, is_over);
    let over = tokio::time::timeout(args.timeout, watched).await;
    progress.finish_and_clear();
    let over = over.with_context(|| {
        format!(
            "after {} snapshot {name} is not there yet; it goes on, and `tapedeck cluster ls -n {}` shows how far it is",
            output::duration(args.timeout),
            session.namespace
        )
    })?;
    let Some(snapshot) = over.with_context(|| format!("cannot watch snapshot {name}"))? else {
        bail!("snapshot {name} was deleted meanwhile");
    };
    let status = snapshot.status.unwrap_or_default();
    if status.phase == Phase::Failed {
        bail!("snapshot {name}: {}", why(&status));
    }
    tell(name, &status);
    output::say(format_args!(
        "next: `tapedeck cluster pull {name} -n {}`",
        session.namespace
    ));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn delete(session: &Session, args: &Delete) -> Result<ExitCode> {
    let wait = (!args.waiting.no_wait).then_some(args.waiting.timeout);
    uninstall::delete_named::<Snapshot>(session, &args.names, wait)
        .await
        .context("the controller removes what a snapshot stored first (`tapedeck cluster logs --controller`)")?;
    output::say(format_args!("{} deleted", args.names.join(", ")));
    Ok(ExitCode::SUCCESS)
}

/// What a snapshot holds, and what of it is missing.
pub(super) fn tell(name: &str, status: &SnapshotStatus) {
    let location = status.location.clone().unwrap_or_default();
    output::say(format_args!(
        "{name}: {} of {} nodes, {}",
        count(location.exchanges, "exchange"),
        status.completeness.nodes,
        output::bytes(location.bytes)
    ));
    for (node, why) in &status.completeness.missing {
        output::warn(format_args!(
            "{} is missing: {}",
            output::visible(node),
            output::visible(why)
        ));
    }
    for (cause, lost) in &status.completeness.lost {
        output::warn(format_args!("lost: {lost} {}", output::visible(cause)));
    }
}

/// Why it cannot be pulled.
pub(super) fn why(status: &SnapshotStatus) -> String {
    conditions::of(&status.conditions, "Ready").map_or_else(
        || "the controller does not say why".to_owned(),
        |ready| format!("{} ({})", ready.message, ready.reason),
    )
}

pub(super) fn api(session: &Session) -> Api<Snapshot> {
    Api::namespaced(session.client.clone(), &session.namespace)
}

fn snapshot(args: &SnapshotCreate) -> Result<Snapshot> {
    let from = match args.since {
        Some(since) => Some(
            Timestamp::now()
                .checked_sub(since)
                .context("--since reaches too far back")?,
        ),
        None => args.from,
    };
    // The API keeps seconds.
    let whole =
        |time: Timestamp| -> Result<Time> { Ok(Time(Timestamp::from_second(time.as_second())?)) };
    Ok(Snapshot::new(
        &args.name,
        SnapshotSpec {
            recordings: args.recordings.clone(),
            from: from.map(whole).transpose()?,
            to: args.to.map(whole).transpose()?,
            filter: args.filter.clone(),
            destination: args.store.clone().map(|store| Destination { store }),
            deadline: args.deadline,
            ttl: args.ttl,
        },
    ))
}

/// The snapshot, once it can be pulled.
pub(super) async fn ready(session: &Session, name: &str) -> Result<SnapshotStatus> {
    let found = api(session).get_opt(name).await;
    let found = found.map_err(|error| session.explain(error))?;
    let Some(found) = found else {
        bail!(
            "there is no snapshot {name} in the namespace {}: `tapedeck cluster ls -A`",
            session.namespace
        );
    };
    let namespace = found.namespace().unwrap_or_default();
    let status = found.status.unwrap_or_default();
    match status.phase {
        Phase::Ready => Ok(status),
        Phase::Failed => bail!("snapshot {name} could not be taken: {}", why(&status)),
        phase @ (Phase::Pending | Phase::Collecting | Phase::Merging) => bail!(
            "snapshot {name} is not there yet ({phase:?}, nodes {}): `kubectl wait --for=condition=Ready snapshots.tapedeck.dev/{name} -n {namespace}`",
            status.completeness.nodes
        ),
    }
}
