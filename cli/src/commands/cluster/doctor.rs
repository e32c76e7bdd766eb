//! `doctor` of a cluster: what each node needs, and what of each pod would be seen.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::Serialize;
use tapedeck_cluster::{NodeReport, conditions};

use super::args::{Doctor, Report};
use super::listing;
use super::output::table;
use super::session::Session;
use crate::output;

/// Pods of a namespace that are looked at: more are no table for people.
const MOST_PODS: u32 = 500;

/// What the daemons are given, and need.
const NEEDED: [&str; 3] = ["BPF", "NET_ADMIN", "PERFMON"];

pub(super) async fn doctor(session: &Session, args: &Doctor) -> Result<ExitCode> {
    let reports = listing::node_reports(session).await?;
    for odd in &reports.odd {
        output::warn(format_args!("not understood: {odd}"));
    }
    let is_meant = |name: &str| args.node.as_deref().is_none_or(|node| node == name);
    let nodes: Vec<Node> = reports
        .items
        .iter()
        .filter(|report| is_meant(&report.spec.node))
        .map(Node::new)
        .collect();
    ensure!(
        !nodes.is_empty(),
        "{}; `tapedeck cluster logs` says why",
        args.node.as_ref().map_or_else(
            || "no node has reported yet".to_owned(),
            |node| format!("the node {node} has not reported")
        )
    );
    let pods = match pods(session).await {
        Ok(pods) => pods
            .iter()
            .filter(|pod| is_meant(node_of(pod)))
            .map(|pod| Sight::new(pod, &nodes, &reports.items))
            .collect(),
        Err(error) => {
            output::warn(format_args!(
                "what of the pods is seen is not known: {error:#}"
            ));
            Vec::new()
        }
    };
    let is_well = nodes.iter().all(|node| node.can_capture);
    let diagnosis = Diagnosis { nodes, pods };
    match args.output {
        Report::Json => output::print(format_args!("{}\n", serde_json::to_string(&diagnosis)?))?,
        Report::Table => output::print(diagnosis.text(&session.namespace))?,
    }
    Ok(if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(crate::FAILED)
    })
}

/// The pods of the namespace: only now, and only because somebody asks.
async fn pods(session: &Session) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(session.client.clone(), &session.namespace);
    let list = api.list(&ListParams::default().limit(MOST_PODS)).await;
    Ok(list.map_err(|error| session.explain(error))?.items)
}

fn node_of(pod: &Pod) -> &str {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    node.unwrap_or_default()
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    nodes: Vec<Node>,
    pods: Vec<Sight>,
}

#[derive(Debug, Serialize)]
struct Node {
    name: String,
    can_capture: bool,
    why: String,
    kernel: String,
    architecture: String,
    backend: String,
    btf: bool,
    cgroup2: bool,
    capabilities: Vec<String>,
    missing_capabilities: Vec<String>,
    cannot_see: Vec<String>,
}

/// What of a pod's traffic would be seen.
#[derive(Debug, Serialize)]
struct Sight {
    pod: String,
    node: String,
    seen: bool,
    how: String,
}

impl Node {
    fn new(report: &NodeReport) -> Self {
        let status = report.status.clone().unwrap_or_default();
        let ready = conditions::of(&status.conditions, "Ready");
        let facts = status.facts;
        let has = |capability: &str| {
            facts.capabilities.iter().any(|held| {
                held.trim_start_matches("CAP_")
                    .eq_ignore_ascii_case(capability)
            })
        };
        // A daemon that says nothing of them is not said to lack them.
        let missing_capabilities = if facts.capabilities.is_empty() || has("SYS_ADMIN") {
            Vec::new()
        } else {
            let missing = NEEDED.iter().filter(|needed| !has(needed));
            missing.map(|name| (*name).to_owned()).collect()
        };
        Self {
            name: report.spec.node.clone(),
            can_capture: ready.is_some_and(|ready| ready.status == "True"),
            why: ready.map_or_else(
                || "it has not said whether it captures".to_owned(),
                |ready| ready.message.clone(),
            ),
            kernel: facts.kernel,
            architecture: facts.architecture,
            backend: facts.backend,
            btf: facts.btf,
            cgroup2: facts.cgroup2,
            capabilities: facts.capabilities,
            missing_capabilities,
            cannot_see: status
                .cannot_see
                .iter()
                .map(|blind| format!("{}: {}", blind.reason, blind.message))
                .collect(),
        }
    }
}

impl Sight {
    fn new(pod: &Pod, nodes: &[Node], reports: &[NodeReport]) -> Self {
        let name = pod.name_any();
        let full = format!("{}/{name}", pod.namespace().unwrap_or_default());
        let node = nodes.iter().find(|node| node.name == node_of(pod));
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let spec = pod.spec.clone().unwrap_or_default();
        let blind = reports
            .iter()
            .filter(|report| report.spec.node == node_of(pod))
            .filter_map(|report| report.status.as_ref())
            .flat_map(|status| {
                let of_recordings = status
                    .recordings
                    .iter()
                    .flat_map(|recording| &recording.cannot_see);
                status.cannot_see.iter().chain(of_recordings)
            })
            .find(|blind| blind.pods.contains(&full));
        let waiting = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten())
            .find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
        let (seen, how) = match (node, phase) {
            (None, _) if node_of(pod).is_empty() => (false, "it is on no node yet".to_owned()),
            (None, _) => (false, "its node has no daemon that reports".to_owned()),
            (Some(node), _) if !node.can_capture => (false, format!("its node cannot capture: {}", node.why)),
            (_, Some("Succeeded" | "Failed")) => (false, "it has ended".to_owned()),
            _ if blind.is_some() => {
                let blind = blind.cloned().unwrap_or_default();
                let met = super::output::count(blind.connections, "connection");
                (false, format!("{} ({met} met): {}", blind.reason, blind.message))
            }
            _ if spec.host_network == Some(true) => (
                true,
                "HTTP/1 and HTTP/2, but for connections to services whose address the node translates".to_owned(),
            ),
            _ if waiting.is_some() => (
                true,
                format!("HTTP/1 and HTTP/2, from its first connection on; now it waits: {}", waiting.unwrap_or_default()),
            ),
            _ => (true, "HTTP/1 and HTTP/2; TLS stays closed, and is counted".to_owned()),
        };
        Self {
            pod: full,
            node: node_of(pod).to_owned(),
            seen,
            how,
        }
    }
}

impl Diagnosis {
    fn text(&self, namespace: &str) -> String {
        let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
        let head = [
            "NODE",
            "CAPTURES",
            "BACKEND",
            "KERNEL",
            "ARCHITECTURE",
            "BTF",
            "CGROUP2",
            "CAPABILITIES",
        ];
        let rows: Vec<Vec<String>> = self
            .nodes
            .iter()
            .map(|node| {
                let capabilities = match node.missing_capabilities.as_slice() {
                    [] => node.capabilities.join(","),
                    missing => format!("MISSING {}", missing.join(",")),
                };
                vec![
                    node.name.clone(),
                    yes(node.can_capture),
                    node.backend.clone(),
                    node.kernel.clone(),
                    node.architecture.clone(),
                    yes(node.btf),
                    yes(node.cgroup2),
                    capabilities,
                ]
            })
            .collect();
        let mut text = table(&head, &rows);
        for node in &self.nodes {
            let why = (!node.can_capture).then_some(&node.why);
            for line in why.into_iter().chain(&node.cannot_see) {
                text.push_str(&format!(
                    "{}: {}\n",
                    output::visible(&node.name),
                    output::visible(line)
                ));
            }
        }
        if self.pods.is_empty() {
            text.push_str(&format!("\nno pods are in the namespace {namespace}\n"));
            return text;
        }
        let rows: Vec<Vec<String>> = self
            .pods
            .iter()
            .map(|sight| {
                vec![
                    sight.pod.clone(),
                    sight.node.clone(),
                    yes(sight.seen),
                    sight.how.clone(),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&table(&["POD", "NODE", "SEEN", "HOW"], &rows));
        text
    }
}
