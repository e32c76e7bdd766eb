//! The controller at work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::DeleteParams;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource as _};
use tapedeck_cluster::conditions;
use tapedeck_cluster::{NodeReport, Recording, RecordingStatus};
use tapedeck_cluster_store::{Store, Stores};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::forbidden::{code, explained};
use crate::leader::{Election, Timing};
use crate::metrics::Metrics;
use crate::snapshots_at_work::Work;
use crate::tls::{Certificate, Keeper};
use crate::watches::{Beginnings, Odd, changes, write_status};
use crate::world::{Place, World, seconds_between, silent_since};
use crate::{http, recordings};

/// The field manager of everything that is written.
pub(crate) const MANAGER: &str = "tapedeck-controller";

/// How often a recording's status is written when only numbers grew: as often as nodes report.
const NUMBERS_EVERY: Duration = Duration::from_secs(tapedeck_cluster::REPORT_EVERY_SECONDS);

/// How often everything is looked at, for what no event tells: nodes that fall silent, times that are over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest pause between attempts.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A report that nobody wrote for so long, and that went with no node, is deleted.
const FORGOTTEN_AFTER_SECONDS: i64 = 24 * 3600;

/// After this long without a word from the API server we are not ready.
const DEAF_AFTER: Duration = Duration::from_secs(60);

/// After this long without a turn of the loop something is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// How a controller is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name that stands in the lease: that of the pod.
    pub identity: String,
    /// Tapedeck's namespace.
    pub namespace: String,
    /// Where snapshots may lie.
    pub stores: Stores,
    /// What opens them: the environment.
    pub environment: Vec<(String, String)>,
    /// A folder for archives on their way.
    pub scratch: PathBuf,
    /// How leaders change.
    pub timing: Timing,
    /// What the port shows.
    pub certificate: Certificate,
}

/// What all parts of the controller share.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) stores: BTreeMap<String, Arc<Store>>,
    pub(crate) scratch: PathBuf,
    recorder: Recorder,
}

/// Whether it lives, and is of use.
#[derive(Debug)]
pub(crate) struct Health {
    began: Instant,
    /// Milliseconds since the beginning, of the last turn and of the last word of the API server.
    turned: AtomicU64,
    heard: AtomicU64,
    anything: AtomicBool,
    trouble: Mutex<String>,
}

impl Health {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            turned: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            anything: AtomicBool::new(false),
            trouble: Mutex::default(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn turn(&self) {
        self.turned.store(self.now(), Ordering::Relaxed);
    }

    pub(crate) fn heard(&self) {
        self.heard.store(self.now(), Ordering::Relaxed);
        self.anything.store(true, Ordering::Relaxed);
    }

    pub(crate) fn trouble(&self, why: &str) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        why.clone_into(&mut trouble);
    }

    fn within(&self, at: &AtomicU64, limit: Duration) -> bool {
        let passed = self.now().saturating_sub(at.load(Ordering::Relaxed));
        u128::from(passed) < limit.as_millis()
    }

    pub(crate) fn alive(&self) -> bool {
        self.within(&self.turned, STUCK_AFTER)
    }

    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.anything.load(Ordering::Relaxed) && self.within(&self.heard, DEAF_AFTER) {
            return Ok(());
        }
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        Err(match trouble.as_str() {
            "" => "the API server has not answered yet".to_owned(),
            why => format!("the API server: {why}"),
        })
    }
}

impl Shared {
    /// Tells people, beside the log: an event at the object. Nothing waits for it.
    pub(crate) fn event(
        self: &Arc<Self>,
        about: k8s_openapi::api::core::v1::ObjectReference,
        warning: bool,
        reason: &str,
        note: String,
    ) {
        let shared = Arc::clone(self);
        let event = Event {
            type_: if warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: reason.to_owned(),
            // The server takes at most 1024 bytes.
            note: Some(note.chars().take(250).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        tokio::spawn(async move {
            if let Err(error) = shared.recorder.publish(&event, &about).await {
                shared.wrote("event", Err(&error));
            }
        });
    }

    /// Counts a write, and says why it failed.
    pub(crate) fn wrote(&self, kind: &str, result: Result<(), &kube::Error>) {
        let how = match &result {
            Ok(()) => "ok",
            Err(error) => match code(error) {
                403 => "forbidden",
                404 => "gone",
                409 => "conflict",
                429 => "throttled",
                _ => "error",
            },
        };
        let labels = format!("resource=\"{kind}\",result=\"{how}\"");
        self.metrics
            .add("tapedeck_controller_writes_total", &labels, 1);
        if let Err(error) = result {
            let error = explained(error);
            match how {
                // Gone meanwhile, or newer: the watch says what to do next.
                "gone" | "conflict" => info!(kind, error, "not written"),
                _ => warn!(kind, error, "not written"),
            }
        }
    }
}

/// Runs a controller until it is told to stop. Leadership is given back then.
///
/// # Errors
///
/// When it cannot begin: a store or a certificate that makes no sense.
pub async fn run(
    client: Client,
    settings: Settings,
    listener: TcpListener,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let mut stores = BTreeMap::new();
    for config in settings.stores.all() {
        let store = config.open(settings.environment.iter().cloned())?;
        stores.insert(config.name.clone(), Arc::new(store));
    }
    let reporter = Reporter {
        controller: MANAGER.to_owned(),
        instance: Some(settings.identity.clone()),
    };
    let shared = Arc::new(Shared {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        metrics: Metrics::default(),
        health: Health::new(),
        stores,
        scratch: settings.scratch.clone(),
    });
    let keeper = Keeper::new(&shared.client, &settings)?;
    let served = tokio::spawn(http::serve(listener, keeper.shown(), Arc::clone(&shared)));
    let kept = tokio::spawn(keeper.run());
    let Settings {
        identity,
        namespace,
        timing,
        ..
    } = &settings;
    let election = Election::new(&shared, namespace, identity, *timing);
    let (leads, mut leading) = watch::channel(false);
    let elected = tokio::spawn(election.run(leads, stop.clone()));
    let acted = act(&shared, &settings, &mut leading, stop).await;
    served.abort();
    kept.abort();
    elected.await.context("the election ended")?;
    acted
}

/// Acts whenever it leads; else only lives.
async fn act(
    shared: &Arc<Shared>,
    settings: &Settings,
    leading: &mut watch::Receiver<bool>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    loop {
        let leads = *leading.borrow_and_update();
        shared
            .metrics
            .set("tapedeck_controller_leader", u64::from(leads));
        let work = async {
            if leads {
                Leader::new(shared, settings).run().await;
            } else {
                live(shared).await;
            }
        };
        tokio::select! {
            // Whatever is under way ends with the leadership.
            () = work => {}
            changed = leading.changed() => if changed.is_err() { return Ok(()) },
            _ = stop.changed() => return Ok(()),
        }
    }
}

/// A controller that waits is of use: it hands out snapshots, and would take over.
async fn live(shared: &Shared) {
    loop {
        shared.health.turn();
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// When what failed is tried again.
#[derive(Debug)]
struct Pause {
    until: Instant,
    last: Duration,
}

/// The one that acts.
struct Leader<'a> {
    shared: &'a Arc<Shared>,
    world: World,
    beginnings: Beginnings,
    /// When the status of a recording was written.
    written: BTreeMap<Place, Instant>,
    pauses: Pauses,
    work: Work,
    silent: BTreeSet<String>,
}

impl<'a> Leader<'a> {
    fn new(shared: &'a Arc<Shared>, settings: &Settings) -> Self {
        let stores = settings.stores.all();
        Self {
            shared,
            world: World {
                own_namespace: settings.namespace.clone(),
                stores: stores.iter().map(|store| store.name.clone()).collect(),
                ..World::default()
            },
            beginnings: Beginnings::default(),
            written: BTreeMap::new(),
            pauses: Pauses::default(),
            work: Work::new(shared),
            silent: BTreeSet::new(),
        }
    }

    async fn run(mut self) {
        let mut changes = changes(self.shared);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.shared.health.turn();
            tokio::select! {
                change = changes.next() => match change {
                    // What comes is taken at once; what follows from it waits for the next look, so
                    // that 500 reports make one write and not 500.
                    Some(change) => {
                        if let Some(odd) = self.beginnings.take(&mut self.world, change) {
                            self.not_understood(odd);
                        }
                    }
                    None => return,
                },
                _ = look.tick() => {
                    if self.beginnings.complete() {
                        self.look().await;
                    }
                }
                () = self.work.finished() => {}
            }
        }
    }

    /// Only this object is left alone: all others go on.
    fn not_understood(&self, odd: Odd) {
        let Odd { about, why } = odd;
        let name = |of: &Option<String>| of.clone().unwrap_or_default();
        warn!(
            kind = name(&about.kind),
            namespace = name(&about.namespace),
            name = name(&about.name),
            why,
            "not understood, and left as it is"
        );
        let note = format!(
            "the controller {} does not understand it, and leaves it as it is; if something newer wrote it, \
             `tapedeck cluster upgrade`: {why}",
            env!("CARGO_PKG_VERSION")
        );
        self.shared.event(about, true, "NotUnderstood", note);
    }

    async fn look(&mut self) {
        let now = Time(jiff::Timestamp::now());
        self.nodes(&now).await;
        self.recordings(&now).await;
        self.work.look(&mut self.world, &now).await;
        self.count();
    }

    /// Says which nodes fell silent, and removes reports that nobody will ever write again.
    async fn nodes(&mut self, now: &Time) {
        let mut silent = BTreeSet::new();
        let mut forgotten = Vec::new();
        for (node, report) in &self.world.reports {
            let Some(since) = silent_since(report, now) else {
                continue;
            };
            silent.insert(node.clone());
            if !self.silent.contains(node) {
                let note = format!("the daemon has said nothing since {}", since.0);
                warn!(node, "{note}");
                self.shared
                    .event(report.object_ref(&()), true, "Silent", note);
            }
            if seconds_between(since, now) > FORGOTTEN_AFTER_SECONDS {
                forgotten.push(node.clone());
            }
        }
        let metrics = &self.shared.metrics;
        metrics.set("tapedeck_controller_nodes", self.world.reports.len() as u64);
        metrics.set("tapedeck_controller_nodes_silent", silent.len() as u64);
        self.silent = silent;
        let api: Api<NodeReport> = Api::all(self.shared.client.clone());
        for node in forgotten {
            let deleted = api.delete(&node, &DeleteParams::default()).await;
            self.shared
                .wrote("nodereports", deleted.as_ref().map(|_| ()));
            // Else it is tried again every second.
            self.world.reports.remove(&node);
        }
    }

    async fn recordings(&mut self, now: &Time) {
        self.written
            .retain(|place, _| self.world.recordings.contains_key(place));
        let known: BTreeSet<String> = self.world.recordings.values().map(uid).collect();
        self.pauses.keep(|what| known.contains(what));
        let at = Instant::now();
        let mut due = Vec::new();
        for (place, recording) in &self.world.recordings {
            if recording.metadata.deletion_timestamp.is_some() {
                continue;
            }
            if self.pauses.holds(&uid(recording)) {
                continue;
            }
            let before = recording.status.as_ref();
            let after = recordings::status(place, recording, &self.world, now);
            let recent = self
                .written
                .get(place)
                .is_some_and(|written| at.saturating_duration_since(*written) < NUMBERS_EVERY);
            let is_due =
                recordings::differs_in_kind(before, &after) || before != Some(&after) && !recent;
            if is_due {
                due.push((place.clone(), uid(recording), after));
            }
        }
        for (place, uid, status) in due {
            self.write(place, &uid, status).await;
        }
    }

    async fn write(&mut self, place: Place, uid: &str, status: RecordingStatus) {
        let written = write_status::<Recording>(&self.shared.client, &place, &status).await;
        self.shared
            .wrote("recordings", written.as_ref().map(|_| ()));
        match written {
            Ok(recording) => {
                self.tell(&place, &recording, &status);
                self.written.insert(place.clone(), Instant::now());
                self.pauses.worked(uid);
                // Before the watch brings it, so that the same is not written twice.
                self.world.recordings.insert(place, recording);
            }
            Err(_) => self.pauses.failed(uid),
        }
    }

    /// What changed for people.
    fn tell(&self, place: &Place, recording: &Recording, status: &RecordingStatus) {
        let before = self.world.recordings.get(place);
        for kind in ["Accepted", "Ready"] {
            let of = |conditions: &[_]| {
                conditions::of(conditions, kind).map(|c| (c.reason.clone(), c.message.clone()))
            };
            let was = before
                .and_then(|before| before.status.as_ref())
                .and_then(|status| of(&status.conditions));
            let Some((reason, message)) = of(&status.conditions) else {
                continue;
            };
            let same = was.is_some_and(|(was, _)| was == reason);
            // On the way to attached, it says so in its status, and that is enough.
            if same || ["Accepted", "Attaching", "NotAccepted"].contains(&reason.as_str()) {
                continue;
            }
            let bad = kind == "Accepted" || ["NodesFailing", "NoNodes"].contains(&reason.as_str());
            info!(recording = %place, reason, message, "recording");
            self.shared
                .event(recording.object_ref(&()), bad, &reason, message);
        }
    }

    fn count(&self) {
        let mut reasons = BTreeMap::<String, u64>::new();
        for recording in self.world.recordings.values() {
            let status = recording.status.as_ref();
            let ready = status.and_then(|status| conditions::of(&status.conditions, "Ready"));
            let reason = ready.map_or("Unknown", |ready| ready.reason.as_str());
            *reasons.entry(reason.to_owned()).or_default() += 1;
        }
        let mut phases = BTreeMap::<String, u64>::new();
        for snapshot in self.world.snapshots.values() {
            let phase = snapshot.status.as_ref().map(|status| status.phase);
            *phases
                .entry(format!("{:?}", phase.unwrap_or_default()))
                .or_default() += 1;
        }
        let metrics = &self.shared.metrics;
        metrics.set_by("tapedeck_controller_recordings", "reason", &reasons);
        metrics.set_by("tapedeck_controller_snapshots", "phase", &phases);
        let odd = self.beginnings.odd(&self.world);
        metrics.set_by("tapedeck_controller_not_understood", "resource", &odd);
    }
}

/// The pause behind a pause: twice as long, and not the same for all.
fn longer(last: Duration) -> Pause {
    let nanos = jiff::Timestamp::now().subsec_nanosecond().unsigned_abs();
    let share = 0.75 + f64::from(nanos % 1000) / 2000.0;
    let next = last.saturating_mul(2).min(MAX_PAUSE);
    let now = Instant::now();
    Pause {
        until: now.checked_add(next.mul_f64(share)).unwrap_or(now),
        last: next,
    }
}

/// A pause that grows, for whoever tries something again.
#[derive(Debug, Default)]
pub(crate) struct Pauses(BTreeMap<String, Pause>);

impl Pauses {
    /// Whether it is too early for another attempt.
    pub(crate) fn holds(&self, what: &str) -> bool {
        self.0
            .get(what)
            .is_some_and(|pause| pause.until > Instant::now())
    }

    /// It failed.
    pub(crate) fn failed(&mut self, what: &str) {
        let last = self
            .0
            .get(what)
            .map_or(Duration::from_millis(500), |pause| pause.last);
        self.0.insert(what.to_owned(), longer(last));
    }

    /// It did not.
    pub(crate) fn worked(&mut self, what: &str) {
        self.0.remove(what);
    }

    /// Forgets all but these.
    pub(crate) fn keep(&mut self, known: impl Fn(&str) -> bool) {
        self.0.retain(|what, _| known(what));
    }
}

/// What an object is called where it may be gone and come again.
pub(crate) fn uid(object: &impl kube::ResourceExt) -> String {
    object.uid().unwrap_or_default()
}
