//! What the daemon says it does: its `NodeReport`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tapedeck_cluster::conditions::{Said, say};
use tapedeck_cluster::{
    Blindness, Cost, NodeFacts, NodeRecording, NodeRecordingState, NodeReport, NodeReportStatus,
    NodeSnapshot, REPORT_EVERY_SECONDS, replaced_status,
};
use tracing::warn;

use super::orders::Orders;
use super::world::{QuarantineCounts, RecordingNow, World};
use crate::words::in_words;

/// Who writes the fields, for the API server.
const MANAGER: &str = "tapedeckd";

/// The least time between two reports, however much happens.
const LEAST: Duration = Duration::from_secs(2);

/// How long a daemon that has just started waits for what it is to do, before it says that it waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// Recordings, and snapshots, of which there is room for an entry.
const MOST: usize = 64;

/// The longest message that there is room for.
const LONGEST: usize = 512;

/// The level of the resources that this daemon knows.
const API_LEVEL: u32 = 1;

/// What the recording tells of itself once a second.
#[derive(Clone, Debug, Default)]
pub struct Vitals {
    /// What the daemon and its kernel are.
    pub facts: NodeFacts,
    /// Why nothing is captured, where nothing is: a reason in one word, and what to do.
    pub blind: Option<(&'static str, String)>,
    /// Processor time since the start.
    pub cpu: Duration,
    /// Resident bytes.
    pub memory: u64,
    /// Bytes of archives, and what is left of their disk.
    pub disk: (u64, u64),
    /// Connections that were not recorded for want of budget, or room in a ring.
    pub refused: u64,
}

/// What the reporter and the recording share.
#[derive(Debug, Default)]
pub struct VitalSigns(Mutex<Vitals>);

impl VitalSigns {
    /// Changes some of them.
    pub fn update(&self, change: impl FnOnce(&mut Vitals)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn get(&self) -> Vitals {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// All that a report is made of.
#[derive(Debug)]
pub struct Known {
    /// The daemon.
    pub vitals: Vitals,
    /// The recordings.
    pub recordings: Vec<RecordingNow>,
    /// The snapshots.
    pub snapshots: Vec<NodeSnapshot>,
    /// What cannot be watched.
    pub troubles: Vec<String>,
    /// What the daemon waits for before it can do anything.
    pub waits_for: Option<String>,
    /// Traffic of unknown pods.
    pub quarantine: QuarantineCounts,
    /// Exchanges of nobody.
    pub unattributed: u64,
}

/// The report. Conditions go on from `before`; `cost` is of the time since.
#[must_use]
pub fn status(
    known: Known,
    before: Vec<Condition>,
    cpu_millis: u32,
    now: &Time,
) -> NodeReportStatus {
    let Known {
        vitals,
        mut recordings,
        mut snapshots,
        troubles,
        waits_for,
        quarantine,
        unattributed,
    } = known;
    let failing = recordings.iter().find_map(|of| of.tally.failing.clone());
    let mut conditions = before;
    let mut set = |of, holds, reason, message: &str| {
        let message = shorten(message);
        let said = Said {
            of,
            holds: Some(holds),
            reason,
            message,
        };
        say(&mut conditions, now, None, said);
    };
    match (&vitals.blind, &waits_for) {
        (Some((reason, why)), _) => set("Ready", false, reason, why),
        (None, Some(why)) => set("Ready", false, "Starting", why),
        (None, None) => set("Ready", true, "Capturing", ""),
    }
    match &failing {
        Some(why) => set("Full", true, "CannotWrite", why),
        None => set("Full", false, "CanWrite", ""),
    }
    if troubles.is_empty() {
        set("Watching", true, "Watching", "");
    } else {
        set("Watching", false, "CannotWatch", &troubles.join("; "));
    }
    let mut cannot_see = blindness(&vitals, quarantine, unattributed);
    recordings.sort_by(|a, b| {
        let order = |of: &RecordingNow| (of.wanted.created, of.wanted.uid.clone());
        order(a).cmp(&order(b))
    });
    if recordings.len() > MOST {
        cannot_see.push(blind(
            "TooManyRecordings",
            format!(
                "{} recordings, and room for {MOST} in a report: delete some",
                recordings.len()
            ),
            0,
        ));
        recordings.truncate(MOST);
    }
    snapshots.truncate(MOST);
    NodeReportStatus {
        at: Some(now.clone()),
        conditions,
        facts: NodeFacts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_level: API_LEVEL,
            ..vitals.facts
        },
        cost: Cost {
            cpu_millis,
            memory_bytes: vitals.memory,
            disk_bytes: vitals.disk.0,
            disk_free_bytes: vitals.disk.1,
        },
        cannot_see,
        recordings: recordings
            .into_iter()
            .map(|of| recording(of, vitals.blind.as_ref()))
            .collect(),
        snapshots,
    }
}

fn blind(reason: &str, message: String, connections: u64) -> Blindness {
    Blindness {
        reason: reason.to_owned(),
        message: shorten(&message),
        pods: Vec::new(),
        connections,
    }
}

fn blindness(vitals: &Vitals, quarantine: QuarantineCounts, unattributed: u64) -> Vec<Blindness> {
    let mut all = Vec::new();
    if let Some((reason, why)) = &vitals.blind {
        all.push(blind(reason, why.clone(), 0));
    }
    let QuarantineCounts { full, expired, .. } = quarantine;
    if full > 0 {
        let message = format!(
            "{full} exchanges of pods that nothing was known of yet were dropped for want of room: \
             raise kubernetes.quarantine_size"
        );
        all.push(blind("QuarantineFull", message, full));
    }
    if expired > 0 {
        let message = format!(
            "of the pods of {expired} exchanges nothing came to be known in time: the API server was \
             away, or was too slow (kubernetes.quarantine)"
        );
        all.push(blind("QuarantineExpired", message, expired));
    }
    if unattributed > 0 {
        let message = format!(
            "{unattributed} exchanges were of cgroups that were gone before anybody saw them"
        );
        all.push(blind("Unattributed", message, unattributed));
    }
    if vitals.refused > 0 {
        let message = "the daemon was over its budget, or a ring was nearly full: raise its limits, or \
                       record less";
        all.push(blind("OverBudget", message.to_owned(), vitals.refused));
    }
    all
}

fn recording(now: RecordingNow, blindness: Option<&(&'static str, String)>) -> NodeRecording {
    let RecordingNow {
        wanted,
        mut state,
        mut message,
        pods,
        crash_loops,
        tally,
    } = now;
    if let Some((_, why)) = blindness
        && matches!(
            state,
            NodeRecordingState::Attached | NodeRecordingState::Waiting
        )
    {
        state = NodeRecordingState::Refused;
        message.clone_from(why);
    }
    let mut cannot_see: Vec<Blindness> = tally
        .unread
        .iter()
        .take(MOST_BLIND - 1)
        .map(|(reason, (connections, some))| Blindness {
            reason: "Encrypted".to_owned(),
            message: shorten(&format!(
                "TLS connections that are listed and not read: {reason}"
            )),
            pods: World::some(some),
            connections: *connections,
        })
        .collect();
    if !crash_loops.is_empty() {
        let mut of = blind(
            "CrashLoop",
            format!(
                "containers that are started again and again are recorded while they run: {}",
                crash_loops.join(", ")
            ),
            0,
        );
        of.pods = crash_loops
            .iter()
            .filter_map(|of| of.rsplit_once('/').map(|(pod, _)| pod.to_owned()))
            .take(MOST_BLIND)
            .collect();
        cannot_see.push(of);
    }
    NodeRecording {
        uid: wanted.uid.clone(),
        namespace: wanted.namespace.clone(),
        name: wanted.name.clone(),
        observed_generation: wanted.generation,
        state,
        message: shorten(&message),
        pods: u32::try_from(pods.len()).unwrap_or(u32::MAX),
        seen: tally.seen,
        archived: tally.archived,
        bytes: tally.written,
        lost: tally
            .lost
            .iter()
            .map(|(cause, count)| ((*cause).to_owned(), *count))
            .collect(),
        cannot_see,
    }
}

/// Reasons and pods of which there is room for a few.
const MOST_BLIND: usize = 8;

fn shorten(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(LONGEST - 3);
    format!("{}...", text.get(..end).unwrap_or_default())
}

/// What of a report is told at once when it changes: everything but times and counters.
fn shape(status: &NodeReportStatus) -> NodeReportStatus {
    let mut shape = status.clone();
    shape.at = None;
    shape.cost = Cost::default();
    for condition in &mut shape.conditions {
        condition.message = String::new();
    }
    for blindness in &mut shape.cannot_see {
        *blindness = blind(&blindness.reason, String::new(), 0);
    }
    for recording in &mut shape.recordings {
        (recording.seen, recording.archived, recording.bytes) = (0, 0, 0);
        recording.lost.clear();
        recording.cannot_see.clear();
    }
    shape
}

/// Writes the report: every so often, and at once when something changed but counters.
pub(super) struct Reporter {
    client: Client,
    node: String,
    world: Arc<World>,
    orders: Arc<Orders>,
    vitals: Arc<VitalSigns>,
    last: Option<NodeReportStatus>,
    written: Option<Instant>,
    cpu: (Instant, Duration),
    is_there: bool,
    started: Instant,
}

impl Reporter {
    pub(super) fn new(
        client: Client,
        node: String,
        world: Arc<World>,
        orders: Arc<Orders>,
        vitals: Arc<VitalSigns>,
    ) -> Self {
        let cpu = (Instant::now(), vitals.get().cpu);
        Self {
            client,
            node,
            world,
            orders,
            vitals,
            last: None,
            written: None,
            cpu,
            is_there: false,
            started: Instant::now(),
        }
    }

    pub(super) async fn run(mut self) {
        let every = Duration::from_secs(REPORT_EVERY_SECONDS);
        loop {
            let since = self.written.map_or(every, |at| at.elapsed());
            let status = self.status();
            if self.world.waits_for().is_some() && self.started.elapsed() < PATIENCE {
                // What came before is not overwritten by knowing nothing yet.
                tokio::time::sleep(LEAST / 10).await;
                continue;
            }
            let is_new = self.last.as_ref().map(shape) != Some(shape(&status));
            if since >= every || is_new {
                self.written = Some(Instant::now());
                match self.write(&status).await {
                    Ok(()) => {
                        self.cpu = (Instant::now(), self.vitals.get().cpu);
                        self.last = Some(status);
                        self.world.trouble("report", None);
                    }
                    Err(why) => {
                        warn!(why, "the report cannot be written; trying again");
                        // What the API server does not get, its own log cannot tell either.
                        self.last = None;
                        tokio::time::sleep(every / 3).await;
                    }
                }
            }
            tokio::time::sleep(LEAST).await;
            let left = every.saturating_sub(self.written.map_or(every, |at| at.elapsed()));
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = self.world.changed() => {}
                () = self.orders.changed() => {}
            }
        }
    }

    fn status(&self) -> NodeReportStatus {
        let vitals = self.vitals.get();
        let (since, cpu) = self.cpu;
        let wall = since.elapsed().as_secs_f64().max(0.001);
        let cores = vitals.cpu.saturating_sub(cpu).as_secs_f64() / wall;
        let before = self.last.as_ref().map(|last| last.conditions.clone());
        let known = Known {
            vitals,
            recordings: self.world.recordings(),
            snapshots: self.orders.snapshots(),
            troubles: self.world.troubles(),
            waits_for: self.world.waits_for(),
            quarantine: self.world.quarantine(),
            unattributed: self.world.unattributed(),
        };
        let now = Time(jiff::Timestamp::now());
        status(
            known,
            before.unwrap_or_default(),
            (cores * 1000.0) as u32,
            &now,
        )
    }

    async fn write(&mut self, status: &NodeReportStatus) -> Result<(), String> {
        if !self.is_there {
            self.begin().await?;
        }
        let request = replaced_status::<NodeReport>(None, &self.node, MANAGER, status);
        let request = request.map_err(|error| in_words(&error))?;
        match self.client.request::<NodeReport>(request).await {
            Ok(_) => Ok(()),
            Err(error) => {
                // Somebody may have deleted it.
                self.is_there = !is(&error, 404);
                Err(explain(&error, "nodereports/status", "patch"))
            }
        }
    }

    /// Makes the object, owned by its node, so that it goes with it.
    async fn begin(&mut self) -> Result<(), String> {
        let nodes = Api::<Node>::all(self.client.clone());
        let uid = match nodes.get(&self.node).await {
            Ok(node) => node.metadata.uid,
            // Without it, the report stays when the node goes.
            Err(error) if is(&error, 403) || is(&error, 404) => {
                let why = explain(&error, "nodes", "get");
                warn!(why, "the report is not owned by its node");
                None
            }
            Err(error) => return Err(in_words(&error)),
        };
        let owners = uid.map(
            |uid| json!([{ "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": uid }]),
        );
        let patch = json!({
            "apiVersion": "tapedeck.dev/v1alpha1",
            "kind": "NodeReport",
            "metadata": { "name": self.node, "ownerReferences": owners.unwrap_or(json!([])) },
            "spec": { "node": self.node },
        });
        let api = Api::<NodeReport>::all(self.client.clone());
        let params = PatchParams::apply(MANAGER).force();
        let made = api.patch(&self.node, &params, &Patch::Apply(patch)).await;
        let made = made.map_err(|error| explain(&error, "nodereports", "create and patch"))?;
        // What was delivered before this daemon was started need not be delivered again.
        let status = made.status.unwrap_or_default();
        self.orders.resume(&status.snapshots);
        self.last = Some(NodeReportStatus {
            conditions: status.conditions,
            ..NodeReportStatus::default()
        });
        self.is_there = true;
        Ok(())
    }
}

fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

fn explain(error: &kube::Error, what: &str, verb: &str) -> String {
    let kube::Error::Api(status) = error else {
        return in_words(error);
    };
    let help = match status.code {
        401 | 403 => format!("; the daemon's ClusterRole needs the verb {verb} of {what}"),
        404 if what != "nodes" => "; is the definition of the resource installed (kubectl get crd \
             nodereports.tapedeck.dev)?"
            .to_owned(),
        _ => String::new(),
    };
    format!("{}{help}", status.message)
}
