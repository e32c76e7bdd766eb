//! `record`: says what is recorded, and waits until it is.

use std::fmt::Debug;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tapedeck_cluster::{
    Destination, Limits, Paths, Payload, Recording, RecordingSpec, Retention, Selector, conditions,
};

use super::args::{Access, Delete, RecordCreate, RecordSwitch, Text, Waiting};
use super::output::{count, print_objects};
use super::session::{MANAGER, Session};
use super::uninstall;
use super::waiting::until;
use crate::output;

/// The object, on standard output.
pub(super) fn print(access: &Access, args: &RecordCreate) -> Result<ExitCode> {
    let mut recording = recording(args);
    recording.metadata.namespace.clone_from(&access.namespace);
    print_objects(&[serde_json::to_value(recording)?], Text::Yaml)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn create(session: &Session, args: &RecordCreate) -> Result<ExitCode> {
    let wanted = recording(args);
    let created = create_whole(&api(session), &wanted, |it| &it.spec).await?;
    let created = created.map_err(|error| match error {
        kube::Error::Api(status) if status.is_already_exists() => anyhow!(
            "there is a recording {} in the namespace {} already: choose another name, or `kubectl edit recording {}`",
            args.name,
            session.namespace,
            args.name
        ),
        error => session.explain(error),
    })?;
    wait_for(session, &created, &args.waiting).await
}

pub(super) async fn switch(
    session: &Session,
    args: &RecordSwitch,
    is_paused: bool,
) -> Result<ExitCode> {
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let change = Patch::Merge(json!({ "spec": { "paused": is_paused } }));
    let patched = api(session).patch(&args.name, &params, &change).await;
    let patched = patched.map_err(|error| session.explain(error))?;
    wait_for(session, &patched, &args.waiting).await
}

pub(super) async fn delete(session: &Session, args: &Delete) -> Result<ExitCode> {
    let wait = (!args.waiting.no_wait).then_some(args.waiting.timeout);
    uninstall::delete_named::<Recording>(session, &args.names, wait).await?;
    output::say(format_args!("{} deleted", args.names.join(", ")));
    Ok(ExitCode::SUCCESS)
}

/// Makes an object, all of it or none: the API server leaves out in silence what older definitions do not have,
/// and a recording without its paths takes everything. So what would be made is looked at before it is.
pub(super) async fn create_whole<K, S>(
    api: &Api<K>,
    wanted: &K,
    spec: impl Fn(&K) -> &S,
) -> Result<Result<K, kube::Error>>
where
    K: Clone + Debug + DeserializeOwned + Serialize,
    S: Serialize,
{
    let params = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    let try_out = PostParams {
        dry_run: true,
        ..params.clone()
    };
    match api.create(&try_out, wanted).await {
        Ok(tried) => all_is_known(spec(wanted), spec(&tried))?,
        Err(error) => return Ok(Err(error)),
    }
    Ok(api.create(&params, wanted).await)
}

fn all_is_known(wanted: &impl Serialize, got: &impl Serialize) -> Result<()> {
    let (wanted, got) = (serde_json::to_value(wanted)?, serde_json::to_value(got)?);
    let fields = wanted.as_object().into_iter().flatten();
    for (name, value) in fields {
        ensure!(
            got.get(name) == Some(value),
            "the definitions on the cluster are older than this program, and know no such `{name}`: \
             `tapedeck cluster upgrade`"
        );
    }
    Ok(())
}

fn api(session: &Session) -> Api<Recording> {
    Api::namespaced(session.client.clone(), &session.namespace)
}

fn recording(args: &RecordCreate) -> Recording {
    let some = |list: &[String]| !list.is_empty();
    let spec = RecordingSpec {
        selector: Selector {
            namespaces: args.namespaces.clone(),
            match_labels: args.labels.iter().cloned().collect(),
            owners: args.owners.clone(),
            containers: args.containers.clone(),
            ..Selector::default()
        },
        ports: args.ports.clone(),
        paths: (some(&args.paths) || some(&args.not_paths)).then(|| Paths {
            include: args.paths.clone(),
            exclude: args.not_paths.clone(),
        }),
        sample_per_mille: args.sample,
        payload: if args.headers_only {
            Payload::Headers
        } else {
            Payload::Full
        },
        limits: (args.duration.is_some() || args.max_per_node.is_some()).then_some(Limits {
            duration: args.duration,
            bytes_per_node: args.max_per_node,
        }),
        retention: args.keep.map(|age| Retention {
            age: Some(age),
            bytes_per_node: None,
        }),
        destination: args.store.clone().map(|store| Destination { store }),
        paused: false,
    };
    Recording::new(&args.name, spec)
}

/// Waits until the controller says of this generation that it is as it should be, or that it never will.
async fn wait_for(session: &Session, recording: &Recording, waiting: &Waiting) -> Result<ExitCode> {
    let name = recording.name_any();
    if waiting.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let generation = recording.metadata.generation;
    let is_paused = recording.spec.paused;
    let is_decided = |recording: Option<&Recording>| match recording {
        None => true,
        Some(recording) => verdict(recording, generation, is_paused).is_some(),
    };
    let watched = until(api(session), &name, is_decided);
    let decided = match tokio::time::timeout(waiting.timeout, watched).await {
        Ok(decided) => decided.with_context(|| format!("cannot watch recording {name}"))?,
        Err(_) => return Err(too_late(session, &name, waiting.timeout).await),
    };
    let Some(decided) = decided else {
        bail!("recording {name} was deleted meanwhile");
    };
    if let Some(Err(message)) = verdict(&decided, generation, is_paused) {
        bail!("recording {name}: {message}");
    }
    let totals = decided.status.unwrap_or_default().totals;
    if is_paused {
        output::say(format_args!("{name} is paused"));
    } else {
        output::say(format_args!(
            "{name} is recorded: {} on {}",
            count(totals.pods.into(), "pod"),
            count(totals.nodes_attached.into(), "node")
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the controller says of a generation: it is so, or it will not be; unset: nothing yet.
fn verdict(
    recording: &Recording,
    generation: Option<i64>,
    is_paused: bool,
) -> Option<Result<(), String>> {
    let status = recording.status.as_ref()?;
    let said = |kind: &str| {
        let condition = conditions::of(&status.conditions, kind)?;
        (condition.observed_generation >= generation).then_some(condition)
    };
    if let Some(refused) = said("Accepted").filter(|accepted| accepted.status == "False") {
        return Some(Err(refused.message.clone()));
    }
    let ready = said("Ready")?;
    match (is_paused, ready.reason.as_str()) {
        (true, "Paused") => Some(Ok(())),
        (true, _) => None,
        (false, _) if ready.status == "True" && status.totals.nodes_attached > 0 => Some(Ok(())),
        (false, _) => None,
    }
}

/// What is missing after the time for it.
async fn too_late(session: &Session, name: &str, timeout: Duration) -> anyhow::Error {
    let waited = output::duration(timeout);
    let found = match api(session).get(name).await {
        Ok(found) => found,
        Err(error) => return session.explain(error),
    };
    let status = found.status.unwrap_or_default();
    match conditions::of(&status.conditions, "Ready") {
        Some(ready) => anyhow!(
            "after {waited} recording {name} is not attached ({}): {}; it stays, and `tapedeck cluster status` shows it",
            ready.reason,
            ready.message
        ),
        None => anyhow!(
            "after {waited} the controller has said nothing of recording {name}: `tapedeck cluster logs --controller`"
        ),
    }
}
