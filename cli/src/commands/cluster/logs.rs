//! `logs`: what the programs on the cluster say.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use futures_util::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt};
use tokio::sync::mpsc;

use super::args::Logs;
use super::session::Session;
use crate::output;

/// How many pods are listened to: each is a connection to the API server.
const MOST_PODS: usize = 50;

/// Lines that wait to be printed.
const QUEUE: usize = 256;

pub(super) async fn logs(session: &Session, args: &Logs) -> Result<ExitCode> {
    let namespace = session.system().await;
    let pods: Api<Pod> = Api::namespaced(session.client.clone(), &namespace);
    let mut params = ListParams::default().labels(match (&args.node, args.controller) {
        (Some(_), _) => "app.kubernetes.io/name=tapedeck,app.kubernetes.io/component=node",
        (None, true) => "app.kubernetes.io/name=tapedeck,app.kubernetes.io/component=controller",
        (None, false) => "app.kubernetes.io/name=tapedeck",
    });
    if let Some(node) = &args.node {
        params = params.fields(&format!("spec.nodeName={node}"));
    }
    let found = pods.list(&params).await;
    let found = found.map_err(|error| session.explain(error))?.items;
    ensure!(
        !found.is_empty(),
        "no pod of Tapedeck is in the namespace {namespace}: `kubectl get events -n {namespace}` may say why"
    );
    if found.len() > MOST_PODS {
        output::warn(format_args!(
            "{} pods: the first {MOST_PODS} are listened to; --node chooses one",
            found.len()
        ));
    }
    let (sender, mut lines) = mpsc::channel::<String>(QUEUE);
    for pod in found.into_iter().take(MOST_PODS) {
        let name = pod.name_any();
        let node = pod.spec.and_then(|spec| spec.node_name);
        let of = node
            .filter(|_| !name.starts_with("tapedeck-controller"))
            .unwrap_or_else(|| name.clone());
        let params = LogParams {
            follow: args.follow,
            tail_lines: Some(args.tail),
            ..LogParams::default()
        };
        let (pods, sender) = (pods.clone(), sender.clone());
        let stream = pods.log_stream(&name, &params).await;
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                output::warn(format_args!("{of}: {:#}", session.explain(error)));
                continue;
            }
        };
        tokio::spawn(async move {
            let mut lines = stream.lines();
            while let Ok(Some(line)) = lines.try_next().await {
                if sender
                    .send(format!("{of}: {}", output::visible(&line)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
    }
    drop(sender);
    while let Some(line) = lines.recv().await {
        output::print(format_args!("{line}\n")).context("cannot print")?;
    }
    Ok(ExitCode::SUCCESS)
}
