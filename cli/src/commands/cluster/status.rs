//! `status` and `top`: how it goes, and what it costs.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;
use tapedeck_cluster::{
    Cost, NodeRecordingState, NodeReport, Recording, SILENT_AFTER_SECONDS, conditions,
};

use super::args::{Report, Status, Top, TopSort};
use super::listing::{self, Listed};
use super::output::{age, count, table};
use super::session::{Installation, Session};
use crate::output;

/// Reports come every 30 s and when a state changes: looking more often would show little more.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub(super) async fn status(session: &Session, args: &Status) -> Result<ExitCode> {
    loop {
        let overview = Overview::read(session).await?;
        let is_well = overview.is_well();
        match args.output {
            Report::Json => output::print(format_args!("{}\n", serde_json::to_string(&overview)?))?,
            Report::Table => show(&overview.text(), args.watch)?,
        }
        if !args.watch {
            return Ok(if is_well {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(crate::FAILED)
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(super) async fn top(session: &Session, args: &Top) -> Result<ExitCode> {
    loop {
        let reports = listing::node_reports(session).await?;
        let now = Timestamp::now();
        let mut nodes: Vec<Node> = reports
            .items
            .iter()
            .map(|report| Node::new(report, now))
            .collect();
        nodes.sort_by_key(|node| {
            std::cmp::Reverse(match args.sort {
                TopSort::Cpu => u64::from(node.cost.cpu_millis),
                TopSort::Disk => node.cost.disk_bytes,
                TopSort::Lost => node.lost,
                TopSort::Memory => node.cost.memory_bytes,
            })
        });
        let rows: Vec<Vec<String>> = nodes.iter().map(Node::top_row).collect();
        let head = [
            "NODE",
            "CPU",
            "MEMORY",
            "DISK",
            "DISK FREE",
            "ARCHIVED",
            "LOST",
            "REPORTED",
        ];
        show(&table(&head, &rows), args.watch)?;
        for odd in &reports.odd {
            output::warn(format_args!("not understood: {odd}"));
        }
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Prints a page; one that is watched takes the place of the last on a terminal.
fn show(text: &str, is_watched: bool) -> Result<()> {
    if is_watched && std::io::stdout().is_terminal() {
        output::print(format_args!("\x1b[H\x1b[2J{text}"))?;
    } else {
        output::print(text)?;
    }
    Ok(())
}

/// All that `status` says. Its JSON is for programs: fields are added, not changed.
#[derive(Debug, Serialize)]
struct Overview {
    namespace: String,
    version: String,
    nodes: Vec<Node>,
    recordings: Vec<Row>,
    /// What could not be read.
    warnings: Vec<String>,
}

/// A node, as its report says.
#[derive(Debug, Serialize)]
struct Node {
    name: String,
    /// `ready`, `not ready`, `silent`.
    state: &'static str,
    /// Why, where it is not ready.
    message: String,
    version: String,
    backend: String,
    recordings: usize,
    archived: u64,
    lost: u64,
    cannot_see: Vec<String>,
    cost: Cost,
    reported_at: Option<Timestamp>,
    #[serde(skip)]
    reported: String,
}

/// A recording, over all nodes.
#[derive(Debug, Serialize)]
struct Row {
    namespace: String,
    name: String,
    /// The reason of the condition `Ready`, or `Unknown` while the controller has said nothing.
    state: String,
    is_ready: bool,
    message: String,
    nodes_attached: u32,
    nodes_failing: u32,
    pods: u32,
    seen: u64,
    archived: u64,
    lost: u64,
    bytes: u64,
}

impl Overview {
    /// Three requests, and one more for each 500 nodes or recordings.
    async fn read(session: &Session) -> Result<Self> {
        let mut warnings = Vec::new();
        let installation = match session.installation().await {
            Ok(Some(installation)) => installation,
            Ok(None) => anyhow::bail!(
                "Tapedeck is not installed on this cluster: `tapedeck cluster install`"
            ),
            Err(error) => {
                // Who may not read definitions may well read reports.
                warnings.push(format!("{error:#}"));
                Installation {
                    namespace: session.system().await,
                    version: String::new(),
                    managed_by: String::new(),
                }
            }
        };
        let Listed {
            items: reports,
            odd,
        } = listing::node_reports(session).await?;
        warnings.extend(
            odd.into_iter()
                .map(|odd| format!("a report is not understood: {odd}")),
        );
        // All, or those of the namespace that is named.
        let Listed {
            items: recordings,
            odd,
        } = listing::recordings(session, session.named.as_deref()).await?;
        warnings.extend(
            odd.into_iter()
                .map(|odd| format!("a recording is not understood: {odd}")),
        );
        let now = Timestamp::now();
        Ok(Self {
            namespace: installation.namespace,
            version: installation.version,
            nodes: reports
                .iter()
                .map(|report| Node::new(report, now))
                .collect(),
            recordings: recordings.iter().map(Row::new).collect(),
            warnings,
        })
    }

    fn is_well(&self) -> bool {
        self.nodes.iter().all(|node| node.state == "ready")
            && self
                .recordings
                .iter()
                .all(|recording| recording.nodes_failing == 0)
    }

    fn text(&self) -> String {
        let ready = self
            .nodes
            .iter()
            .filter(|node| node.state == "ready")
            .count();
        let mut text = format!(
            "Tapedeck {} in {}: {}, {ready} ready",
            self.version,
            self.namespace,
            count(self.nodes.len() as u64, "node")
        );
        let lost: u64 = self.nodes.iter().map(|node| node.lost).sum();
        let cpu: u64 = self
            .nodes
            .iter()
            .map(|node| u64::from(node.cost.cpu_millis))
            .sum();
        let memory: u64 = self.nodes.iter().map(|node| node.cost.memory_bytes).sum();
        text.push_str(&format!(
            "; {cpu}m of processors, {} of memory; {lost} lost\n",
            output::bytes(memory)
        ));
        for warning in &self.warnings {
            text.push_str(&format!("warning: {}\n", output::visible(warning)));
        }
        if self.nodes.is_empty() {
            text.push_str("no node has reported yet: `tapedeck cluster logs` says why\n");
        } else {
            let head = [
                "NODE",
                "STATE",
                "VERSION",
                "BACKEND",
                "RECORDINGS",
                "ARCHIVED",
                "LOST",
                "CPU",
                "MEMORY",
                "DISK",
                "REPORTED",
            ];
            let rows: Vec<Vec<String>> = self.nodes.iter().map(Node::row).collect();
            text.push('\n');
            text.push_str(&table(&head, &rows));
        }
        if !self.recordings.is_empty() {
            let head = [
                "RECORDING",
                "STATE",
                "NODES",
                "FAILING",
                "PODS",
                "SEEN",
                "ARCHIVED",
                "LOST",
                "BYTES",
            ];
            let rows: Vec<Vec<String>> = self.recordings.iter().map(Row::row).collect();
            text.push('\n');
            text.push_str(&table(&head, &rows));
        }
        self.troubles(&mut text);
        text
    }

    /// What is wrong, and what nobody can see, in sentences.
    fn troubles(&self, text: &mut String) {
        let mut lines = Vec::new();
        for node in &self.nodes {
            if !node.message.is_empty() {
                lines.push(format!("{}: {}", node.name, node.message));
            }
            lines.extend(
                node.cannot_see
                    .iter()
                    .map(|blind| format!("{}: {blind}", node.name)),
            );
            if !self.version.is_empty() && !node.version.is_empty() && node.version != self.version
            {
                lines.push(format!(
                    "{}: its daemon is of version {}, the installation of {}",
                    node.name, node.version, self.version
                ));
            }
        }
        for recording in &self.recordings {
            if !recording.is_ready && !recording.message.is_empty() {
                lines.push(format!(
                    "{}/{}: {}",
                    recording.namespace, recording.name, recording.message
                ));
            }
        }
        if !lines.is_empty() {
            text.push('\n');
        }
        for line in lines {
            text.push_str(&output::visible(&line));
            text.push('\n');
        }
    }
}

impl Node {
    fn new(report: &NodeReport, now: Timestamp) -> Self {
        let status = report.status.clone().unwrap_or_default();
        let at = status.at.as_ref().map(|at| at.0);
        let silence = at.map(|at| now.duration_since(at).as_secs());
        let ready = conditions::of(&status.conditions, "Ready");
        let (state, message) = match (silence, ready) {
            (None, _) => ("silent", "has reported nothing yet".to_owned()),
            (Some(silence), _) if silence > SILENT_AFTER_SECONDS => (
                "silent",
                format!(
                    "has reported nothing for {}",
                    at.map_or_else(String::new, |at| age(at, now))
                ),
            ),
            (Some(_), Some(ready)) if ready.status == "True" => ("ready", String::new()),
            (Some(_), Some(ready)) => ("not ready", ready.message.clone()),
            (Some(_), None) => ("not ready", "does not say whether it captures".to_owned()),
        };
        let sum = |of: fn(&tapedeck_cluster::NodeRecording) -> u64| {
            status.recordings.iter().map(of).sum()
        };
        let is_active = |state| {
            !matches!(
                state,
                NodeRecordingState::Waiting | NodeRecordingState::Ended
            )
        };
        Self {
            name: report.spec.node.clone(),
            state,
            message,
            version: status.facts.version.clone(),
            backend: status.facts.backend.clone(),
            recordings: status
                .recordings
                .iter()
                .filter(|recording| is_active(recording.state))
                .count(),
            archived: sum(|recording| recording.archived),
            lost: sum(|recording| recording.lost.values().sum()),
            cannot_see: status
                .cannot_see
                .iter()
                .map(|blind| format!("{}: {}", blind.reason, blind.message))
                .collect(),
            cost: status.cost,
            reported: at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(at, now))),
            reported_at: at,
        }
    }

    fn row(&self) -> Vec<String> {
        let or_none = |text: &str| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text.to_owned()
            }
        };
        vec![
            self.name.clone(),
            self.state.to_owned(),
            or_none(&self.version),
            or_none(&self.backend),
            self.recordings.to_string(),
            self.archived.to_string(),
            self.lost.to_string(),
            format!("{}m", self.cost.cpu_millis),
            output::bytes(self.cost.memory_bytes),
            output::bytes(self.cost.disk_bytes),
            self.reported.clone(),
        ]
    }

    fn top_row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            format!("{}m", self.cost.cpu_millis),
            output::bytes(self.cost.memory_bytes),
            output::bytes(self.cost.disk_bytes),
            output::bytes(self.cost.disk_free_bytes),
            self.archived.to_string(),
            self.lost.to_string(),
            self.reported.clone(),
        ]
    }
}

impl Row {
    fn new(recording: &Recording) -> Self {
        let status = recording.status.clone().unwrap_or_default();
        let wrong = conditions::of(&status.conditions, "Accepted")
            .filter(|accepted| accepted.status == "False");
        let said = wrong.or_else(|| conditions::of(&status.conditions, "Ready"));
        Self {
            namespace: recording.metadata.namespace.clone().unwrap_or_default(),
            name: recording.metadata.name.clone().unwrap_or_default(),
            state: said.map_or_else(|| "Unknown".to_owned(), |said| said.reason.clone()),
            is_ready: said.is_some_and(|said| said.status == "True"),
            message: said.map(|said| said.message.clone()).unwrap_or_default(),
            nodes_attached: status.totals.nodes_attached,
            nodes_failing: status.totals.nodes_failing,
            pods: status.totals.pods,
            seen: status.totals.seen,
            archived: status.totals.archived,
            lost: status.totals.lost_total,
            bytes: status.totals.bytes,
        }
    }

    fn row(&self) -> Vec<String> {
        vec![
            format!("{}/{}", self.namespace, self.name),
            self.state.clone(),
            self.nodes_attached.to_string(),
            self.nodes_failing.to_string(),
            self.pods.to_string(),
            self.seen.to_string(),
            self.archived.to_string(),
            self.lost.to_string(),
            output::bytes(self.bytes),
        ]
    }
}
