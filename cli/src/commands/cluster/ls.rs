//! `ls`: recordings and snapshots.

use std::process::ExitCode;

use anyhow::Result;
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};
use tapedeck_cluster::{Recording, Snapshot, conditions};

use super::args::{Ls, Output};
use super::listing;
use super::output::{age, table, yaml};
use super::session::Session;
use crate::output;

pub(super) async fn ls(session: &Session, args: &Ls) -> Result<ExitCode> {
    let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
    let recordings = listing::recordings(session, namespace).await?;
    let snapshots = listing::snapshots(session, namespace).await?;
    for odd in recordings.odd.iter().chain(&snapshots.odd) {
        output::warn(format_args!("not understood: {odd}"));
    }
    let (recordings, snapshots) = (recordings.items, snapshots.items);
    match args.output {
        Output::Table => print_tables(&recordings, &snapshots, args.all_namespaces)?,
        Output::Name => {
            for recording in &recordings {
                output::print(format_args!("recording/{}\n", recording.name_any()))?;
            }
            for snapshot in &snapshots {
                output::print(format_args!("snapshot/{}\n", snapshot.name_any()))?;
            }
        }
        Output::Json | Output::Yaml => {
            let mut items = objects(&recordings)?;
            items.extend(objects(&snapshots)?);
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
            if args.output == Output::Json {
                output::print(format_args!("{list:#}\n"))?;
            } else {
                output::print(yaml(&list)?)?;
            }
        }
    }
    if args.output == Output::Table && recordings.is_empty() && snapshots.is_empty() {
        output::say(match namespace {
            Some(namespace) => format!(
                "neither recordings nor snapshots are in the namespace {namespace}; -A looks in all"
            ),
            None => "there are neither recordings nor snapshots".to_owned(),
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn objects<K: Resource<DynamicType = ()> + Serialize>(of: &[K]) -> Result<Vec<Value>> {
    of.iter()
        .map(|object| Ok(serde_json::to_value(object)?))
        .collect()
}

fn print_tables(
    recordings: &[Recording],
    snapshots: &[Snapshot],
    is_everywhere: bool,
) -> Result<()> {
    let now = Timestamp::now();
    let name = |namespace: Option<String>, name: String| match namespace {
        Some(namespace) if is_everywhere => format!("{namespace}/{name}"),
        Some(_) | None => name,
    };
    let since =
        |made: Option<Timestamp>| made.map_or_else(|| "-".to_owned(), |made| age(made, now));
    let rows: Vec<Vec<String>> = recordings
        .iter()
        .map(|recording| {
            let status = recording.status.clone().unwrap_or_default();
            let ready = conditions::of(&status.conditions, "Ready");
            vec![
                name(recording.namespace(), recording.name_any()),
                ready.map_or_else(|| "Unknown".to_owned(), |ready| ready.reason.clone()),
                status.totals.pods.to_string(),
                status.totals.archived.to_string(),
                status.totals.lost_total.to_string(),
                output::bytes(status.totals.bytes),
                since(recording.creation_timestamp().map(|made| made.0)),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let head = [
            "RECORDING",
            "STATE",
            "PODS",
            "ARCHIVED",
            "LOST",
            "BYTES",
            "AGE",
        ];
        output::print(table(&head, &rows))?;
    }
    let between = if rows.is_empty() || snapshots.is_empty() {
        ""
    } else {
        "\n"
    };
    let rows: Vec<Vec<String>> = snapshots
        .iter()
        .map(|snapshot| {
            let status = snapshot.status.clone().unwrap_or_default();
            let location = status.location.clone().unwrap_or_default();
            let complete = conditions::of(&status.conditions, "Complete");
            vec![
                name(snapshot.namespace(), snapshot.name_any()),
                format!("{:?}", status.phase),
                status.completeness.nodes.clone(),
                location.exchanges.to_string(),
                output::bytes(location.bytes),
                complete.map_or_else(|| "-".to_owned(), |complete| complete.status.clone()),
                since(snapshot.creation_timestamp().map(|made| made.0)),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let head = [
            "SNAPSHOT",
            "PHASE",
            "NODES",
            "EXCHANGES",
            "BYTES",
            "COMPLETE",
            "AGE",
        ];
        output::print(format_args!("{between}{}", table(&head, &rows)))?;
    }
    Ok(())
}
