//! The daemon's life: set up, record, follow its configuration and its budget, and end.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tapedeck_archive::{
    Destination, Provenance, Retention, SegmentedWriter, SetEvent, SetOptions, WriteError,
};
use tapedeck_exchange::Limits;
use tapedeck_model::{Connection, Scope, Timestamp};
use tracing::{error, info, warn};

use super::config::{ArchiveConfig, BudgetConfig, Config};
use super::control::{self, Published};
use super::governor::{Budget, Governor, Over, Usage};
use super::log;
use super::metrics::{Report, Segments};
use crate::attribution::Node;
use crate::capture::{self, Backend, Begin, IsOwn, Opened, Options, Session, Setup, Snapshot};
use crate::kubernetes::Cluster;
use crate::kubernetes::router::HowToWrite;
use crate::sources::ebpf::cgroup_id;
use crate::sys::{self, Clock, Signal, Signals};
use crate::words::in_words;

/// How often the output's time passes.
const TICK: Duration = Duration::from_millis(250);

/// How often the daemon looks at itself.
const REPORT: Duration = Duration::from_secs(1);

/// The smallest segments of a recording: below it more goes into the edges of archives than into
/// exchanges.
const SMALLEST_SEGMENT: u64 = 1 << 20;

/// How often rules by cgroup are resolved again: a cgroup that comes later gets its rule then.
const RESOLVE: Duration = Duration::from_secs(10);

/// Runs tapedeckd with this configuration file until a signal ends it: SIGTERM, SIGINT and SIGQUIT end it
/// with a sealed archive, SIGHUP makes it read the file again; SIGUSR1, SIGUSR2 and SIGALRM mean nothing.
///
/// # Errors
///
/// What keeps it from starting, or from sealing.
pub fn run(path: &Path) -> Result<()> {
    let config = Config::read(path)?;
    // Before there is any other thread.
    let signals = Signals::block().context("cannot wait for signals")?;
    log::begin(&config.log);
    let published = Arc::new(Published::default());
    let cgroup = cgroup(&config);
    let control = config.control.listen.map(listen).transpose()?;
    let mut cluster = config
        .kubernetes
        .as_ref()
        .map(|kubernetes| Cluster::new(kubernetes, &config.archive))
        .transpose()?;
    let started = start(&config, control, &published, cluster.as_mut())?;
    let Started {
        session,
        node,
        segments,
    } = match (started, cluster.as_mut()) {
        (Ok(started), _) => started,
        (Err(why), Some(cluster)) => return idle(&why, cluster, &published, &signals),
        (Err(why), None) => return Err(why),
    };
    let mut daemon = Daemon {
        path: path.to_owned(),
        config,
        published,
        node,
        session,
        governor: Governor::new(Budget::default()),
        admits: true,
        segments,
        reloads: (0, 0),
        was_failing: false,
        cgroup,
        is_cgroup_gone: false,
        complaints: Vec::new(),
        cluster,
    };
    daemon.governor.set_budget(budget(&daemon.config.budget));
    // This thread writes, too; the control endpoint has one of its own, which stays as it is.
    capture::step_back(daemon.config.capture.nice);
    let followed = daemon.follow(&signals);
    // Whatever ended it, what was recorded is sealed.
    daemon.end().and(followed)
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address} (control.listen)"))
}

/// What was begun.
struct Started {
    session: Session,
    node: Option<Arc<Node>>,
    segments: Segments,
}

/// Opens everything, gives up the privileges for that, and begins to record. No thread is started
/// before they are given up: each has its own. The inner error is one that a node of a cluster lives on
/// with, to tell it.
fn start(
    config: &Config,
    control: Option<TcpListener>,
    published: &Arc<Published>,
    mut cluster: Option<&mut Cluster>,
) -> Result<Result<Started>> {
    let mut options = config.options();
    let mut segments = Segments::default();
    let mut single = None;
    if cluster.is_some() {
        // Only sockets say whose they are.
        options.backend = Backend::Ebpf;
    } else {
        // The archive first: another daemon that writes to it is to be left in peace.
        let mut begin = begin(&config.archive, options.describe_filter());
        let mut events = Vec::new();
        let output = begin(&mut events);
        for event in events {
            segments.note(&event);
        }
        let output = output?;
        single = Some((output, begin));
    }
    let opened = match (open(&options), cluster.is_some()) {
        (Err(why), false) => return Err(why),
        (opened, _) => opened,
    };
    if config.capture.keep_privileges {
        info!("privileges are kept for reloads (capture.keep_privileges)");
    } else {
        let backend = opened
            .as_ref()
            .map_or(Backend::Ebpf, |opened| opened.backend);
        give_up_privileges(backend, &config.archive.folder)?;
    }
    let mut is_own = None;
    if let Some(listener) = control {
        let address = listener.local_addr().context("no control endpoint")?;
        control::serve(listener, Arc::clone(published)).context("cannot start a thread")?;
        info!(%address, "control endpoint");
        is_own = Some(own_connections(address.port()));
    }
    if let Some(cluster) = &mut cluster {
        cluster.captures(match &opened {
            Ok(opened) => Ok(opened.backend),
            Err(why) => Err(format!("{why:#}")),
        });
        cluster.start().context("cannot start a thread")?;
    }
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(why) => return Ok(Err(why)),
    };
    let node = node(config, cluster.as_deref());
    if let Some(node) = &node {
        node.set_source(&mut opened);
    }
    let mut setup = Setup {
        attribution: node
            .clone()
            .map(|node| node as Arc<dyn capture::Attribution>),
        is_own,
        again: None,
        limits: Limits::default(),
        key_logs: Vec::new(),
        nice: config.capture.nice,
    };
    let session = match (single, cluster) {
        (Some((output, begin)), _) => {
            setup.again = Some(begin);
            Session::start(opened, output, setup)
        }
        (None, Some(cluster)) => {
            let router = cluster
                .router(how_to_write(&config.archive))
                .context("cannot make the folder of recordings")?;
            Session::start_into(opened, Box::new(router), setup)
        }
        (None, None) => bail!("nothing to write to"),
    };
    let session = session.context("cannot start a thread")?;
    info!(
        backend = session.backend().name(),
        streams = session.streams(),
        folder = %config.archive.folder.display(),
        filter = options.describe_filter(),
        "recording"
    );
    Ok(Ok(Started {
        session,
        node,
        segments,
    }))
}

/// Tells the cluster and whoever asks why nothing can be recorded on this node, until a signal says stop.
/// To end would tell nobody, and be started again and again.
fn idle(
    why: &anyhow::Error,
    cluster: &mut Cluster,
    published: &Published,
    signals: &Signals,
) -> Result<()> {
    let why = format!("{why:#}");
    error!(why, "nothing can be recorded on this node");
    published.idle(&why);
    loop {
        if let Some(Signal::Stop) = signals.wait(REPORT) {
            return Ok(());
        }
        cluster.pass();
        cluster.observe(sys::processor_time(), resident(), None);
    }
}

/// How the archives of a recording are written: as configured, but for what the recording says.
fn how_to_write(config: &ArchiveConfig) -> HowToWrite {
    let config = config.clone();
    Arc::new(move |wanted| {
        let filter = format!("recording {}/{}", wanted.namespace, wanted.name);
        let mut options = set_options(&config, filter)?;
        if let Some(retention) = &wanted.spec.retention {
            let configured = options.retention;
            options.retention = Retention {
                size: retention
                    .bytes_per_node
                    .map(|size| size.0)
                    .or(configured.size),
                age: retention.age.map(|age| age.0).or(configured.age),
            };
            // What is open counts, too, and is never deleted.
            if let Some(size) = options.retention.size {
                options.segment_size = options.segment_size.min((size / 4).max(SMALLEST_SEGMENT));
            }
        }
        Ok(options)
    })
}

fn give_up_privileges(backend: Backend, output: &Path) -> Result<()> {
    let kept = capture::give_up_privileges(backend, output)?;
    let kept: Vec<_> = kept.iter().map(ToString::to_string).collect();
    info!(kept = kept.join(" "), "privileges given up");
    Ok(())
}

fn open(options: &Options) -> Result<Opened> {
    let opened = capture::open(options)?;
    for (backend, why) in &opened.passed_over {
        warn!(
            backend = backend.name(),
            why = in_words(why),
            "a better backend is not possible here"
        );
    }
    Ok(opened)
}

fn begin(config: &ArchiveConfig, filter: String) -> Begin {
    let config = config.clone();
    Box::new(move |events| {
        let options = set_options(&config, filter.clone())?;
        if let Some(parent) = config.folder.parent() {
            // What is wrong with it, the writer says better.
            drop(fs::create_dir_all(parent));
        }
        SegmentedWriter::create_telling(&config.folder, options, events).map(Destination::from)
    })
}

fn set_options(config: &ArchiveConfig, filter: String) -> Result<SetOptions, WriteError> {
    let provenance = Provenance {
        source: "live, tapedeckd".to_owned(),
        host: fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        software: concat!("tapedeckd ", env!("CARGO_PKG_VERSION")).to_owned(),
        capture_filter: filter,
        created: Timestamp::from_nanos(sys::now(Clock::Wall)),
        ..Provenance::default()
    };
    let mut options = SetOptions::new(provenance);
    options.writer.encrypt_to = config.recipients().map_err(|source| WriteError::Encrypt {
        source: source.into(),
    })?;
    options.segment_size = config.segment_size.0;
    options.segment_age = config.segment_age.duration();
    options.retention = Retention {
        size: config.retain_size.map(|size| size.0),
        age: config.retain_age.map(|age| age.duration()),
    };
    Ok(options)
}

/// Connections to our own control endpoint: in our own network namespace, to its port at an address
/// of this machine. Where packets tell no namespace, all have this scope.
fn own_connections(port: u16) -> IsOwn {
    let own: Vec<_> = sys::own_addresses();
    Arc::new(move |connection: &Connection| {
        let server = &connection.server;
        server.port == port
            && connection.scope == Scope(0)
            && (server.ip.is_loopback() || own.contains(&server.ip))
    })
}

fn node(config: &Config, cluster: Option<&Cluster>) -> Option<Arc<Node>> {
    let attribution = &config.attribution;
    if !attribution.enabled && cluster.is_none() {
        return None;
    }
    let node = Node::of_this_machine(&attribution.node_logs)?;
    Some(Arc::new(match cluster {
        Some(cluster) => node.with_directory(cluster.directory()),
        None => node,
    }))
}

/// The id of the cgroup that the configuration names. Asked for before that is opened: should another
/// one take its place in between, that is seen as a change later.
fn cgroup(config: &Config) -> Option<u64> {
    cgroup_id(config.capture.cgroup.as_deref()?).ok()
}

fn budget(config: &BudgetConfig) -> Budget {
    Budget {
        cpu: config.cpu,
        memory: config.memory.map(|size| size.0),
    }
}

struct Daemon {
    path: PathBuf,
    config: Config,
    published: Arc<Published>,
    node: Option<Arc<Node>>,
    session: Session,
    governor: Governor,
    /// Whether new connections are recorded: over budget, too, by a source that cannot refuse them.
    admits: bool,
    segments: Segments,
    /// Configurations that were applied, and refused.
    reloads: (u64, u64),
    was_failing: bool,
    /// The id of the cgroup whose sockets are seen, where that is one that can go.
    cgroup: Option<u64>,
    is_cgroup_gone: bool,
    /// Why rules could not be followed when they were resolved last.
    complaints: Vec<String>,
    cluster: Option<Cluster>,
}

impl Daemon {
    /// Until a signal says stop, or the source fails.
    fn follow(&mut self, signals: &Signals) -> Result<()> {
        let (mut reported, mut resolved) = (None::<Instant>, None::<Instant>);
        loop {
            match signals.wait(TICK) {
                Some(Signal::Stop) => return Ok(()),
                Some(Signal::Reload) => self.reload(),
                None => {}
            }
            if let Some(error) = self.session.take_failure() {
                return Err(error)
                    .context("the source of packets failed; what came before is in the archive");
            }
            if let (Some(cluster), Some(node)) = (&mut self.cluster, &self.node)
                && let Err(error) = cluster.tick(&mut self.session, node.cgroups())
            {
                warn!(
                    why = in_words(&error),
                    "the rules cannot be put in force; trying again"
                );
            }
            for event in self.session.tick()? {
                self.segments.note(&event);
            }
            if reported.is_none_or(|at| at.elapsed() >= REPORT) {
                reported = Some(Instant::now());
                self.report()?;
            }
            // At once, too: what opened the source kept to itself what it could not resolve.
            if resolved.is_none_or(|at| at.elapsed() >= RESOLVE)
                && self.config.options().policy.has_cgroups()
            {
                resolved = Some(Instant::now());
                self.resolve();
            }
        }
    }

    fn report(&mut self) -> Result<()> {
        let snapshot = self.session.snapshot()?;
        let usage = Usage {
            cpu: sys::processor_time(),
            memory: resident(),
        };
        self.govern(&snapshot, usage);
        let failing = snapshot.output.failing.clone();
        match (&failing, self.was_failing) {
            (Some(why), false) => error!(why, "cannot write the archive; trying again"),
            (None, true) => info!("the archive can be written again"),
            _ => {}
        }
        self.was_failing = failing.is_some();
        let cgroup_gone = self.follow_cgroup()?;
        let mut not_ready = failing.or(cgroup_gone);
        if let Some(cluster) = &self.cluster {
            cluster.observe(usage.cpu, usage.memory, Some(&snapshot));
            not_ready = not_ready.or_else(|| cluster.waits_for());
        }
        let report = Report {
            backend: self.session.backend().name(),
            snapshot,
            usage,
            admits: self.admits,
            reloads: self.reloads,
            segments: self.segments,
        };
        self.published.publish(report, not_ready);
        Ok(())
    }

    /// A cgroup that is removed takes the programs on it along, without a word; one that takes its place
    /// is another one. Returns why nothing is recorded now; an error where only a restart helps.
    fn follow_cgroup(&mut self) -> Result<Option<String>> {
        let (Some(attached), Some(path)) = (self.cgroup, self.config.capture.cgroup.clone()) else {
            return Ok(None);
        };
        match cgroup_id(&path) {
            Ok(id) if id == attached => Ok(None),
            Ok(id) => {
                let options = self.config.options();
                self.change_source(&options).with_context(|| {
                    format!("the cgroup {} is not the one it was", path.display())
                })?;
                self.cgroup = Some(id);
                self.is_cgroup_gone = false;
                info!(cgroup = %path.display(), "the cgroup is there again: recording it");
                Ok(None)
            }
            Err(why) => {
                if !self.is_cgroup_gone {
                    self.is_cgroup_gone = true;
                    error!(
                        cgroup = %path.display(),
                        why = in_words(&why),
                        "the cgroup is gone: nothing is recorded until it is there again"
                    );
                }
                Ok(Some(format!("the cgroup {} is gone", path.display())))
            }
        }
    }

    fn govern(&mut self, snapshot: &Snapshot, usage: Usage) {
        let did = self.governor.admits();
        let over = self.governor.observe(snapshot.elapsed, usage);
        if did == self.governor.admits() {
            return;
        }
        let admitted = self.session.admit(over.is_none());
        if let Ok(can_refuse) = admitted {
            self.admits = !can_refuse || over.is_none();
        }
        match (admitted, over) {
            (Err(error), _) => warn!(why = in_words(&error), "cannot refuse connections"),
            (Ok(false), Some(over)) => {
                warn!(
                    over = words(over),
                    "over budget, and this backend cannot refuse connections"
                );
            }
            (Ok(_), Some(over)) => warn!(
                over = words(over),
                cpu_seconds = usage.cpu.as_secs_f64(),
                resident_bytes = usage.memory,
                "over budget: new connections are not recorded"
            ),
            (Ok(_), None) => info!("within budget again: new connections are recorded"),
        }
    }

    /// Reads the configuration again. What is wrong with it leaves everything as it is.
    fn reload(&mut self) {
        match self.try_reload() {
            Ok(()) => {
                self.reloads.0 += 1;
                info!("configuration applied");
            }
            Err(error) => {
                self.reloads.1 += 1;
                error!(
                    why = format!("{error:#}"),
                    "the configuration was not applied; the one before stays in force"
                );
            }
        }
    }

    fn try_reload(&mut self) -> Result<()> {
        let next = Config::read(&self.path)?;
        let (old, new) = (self.config.options(), next.options());
        let mut fixed: Vec<&str> = Vec::new();
        if next.archive != self.config.archive {
            fixed.push("archive");
        }
        if next.control != self.config.control {
            fixed.push("control");
        }
        if next.kubernetes != self.config.kubernetes {
            fixed.push("kubernetes");
        }
        if next.attribution != self.config.attribution {
            fixed.push("attribution");
        }
        if next.log != self.config.log {
            fixed.push("log");
        }
        let of_start = |config: &Config| {
            let capture = &config.capture;
            (capture.threads, capture.nice, capture.keep_privileges)
        };
        if old.backend != new.backend || of_start(&self.config) != of_start(&next) {
            fixed.push("capture.backend, .threads, .nice or .keep_privileges");
        }
        if !fixed.is_empty() {
            bail!("a restart is needed to change {}", fixed.join(", "));
        }
        let policy = new.policy.clone();
        let is_other_source = Options {
            policy: old.policy.clone(),
            ..new.clone()
        } != old;
        if is_other_source {
            let cgroup = cgroup(&next);
            self.change_source(&new)?;
            self.cgroup = cgroup;
        } else if self.cluster.is_none() {
            let complaints = self.session.set_policy(&policy)?;
            self.complaints.clear();
            self.complain(complaints);
        }
        self.governor.set_budget(budget(&next.budget));
        self.config = next;
        Ok(())
    }

    /// Goes on with a source of these options; connections go on, too.
    fn change_source(&mut self, options: &Options) -> Result<()> {
        let backend = self.session.backend();
        if !self.config.capture.keep_privileges {
            bail!(
                "a restart is needed to change the source in `capture`: what opening one takes was \
                 given up (capture.keep_privileges)"
            );
        }
        let mut opened = open(&Options {
            backend,
            ..options.clone()
        })?;
        if let Some(node) = &self.node {
            node.set_source(&mut opened);
        }
        if self.session.replace(opened).is_err() {
            bail!("the new source has other streams than the one before: a restart is needed");
        }
        if !self.governor.admits() {
            self.admits = !self.session.admit(false)?;
        }
        Ok(())
    }

    fn resolve(&mut self) {
        match self.session.set_policy(&self.config.options().policy) {
            Ok(complaints) => self.complain(complaints),
            Err(error) => warn!(why = in_words(&error), "the rules cannot be renewed"),
        }
    }

    /// Says once of each rule that it cannot be followed; again where it could be in between.
    fn complain(&mut self, complaints: Vec<String>) {
        for complaint in &complaints {
            if !self.complaints.contains(complaint) {
                warn!(complaint, "a rule cannot be followed yet");
            }
        }
        self.complaints = complaints;
    }

    fn end(self) -> Result<()> {
        let mut segments = self.segments;
        let finished = self.session.finish().context("cannot end in order")?;
        for event in finished.events {
            segments.note(&event);
        }
        info!(
            exchanges = finished.output.exchanges,
            packets = finished.ledger.packets_seen,
            packets_dropped = finished.ledger.packets_dropped_by_kernel,
            connections_refused = finished.ledger.connections_refused,
            "stopped"
        );
        Ok(())
    }
}

impl Segments {
    /// Counts what happened to a segment, and logs it.
    fn note(&mut self, event: &SetEvent) {
        match event {
            SetEvent::Sealed { path, summary } => {
                self.sealed += 1;
                self.sealed_bytes += summary.file_len;
                info!(
                    path = %path.display(),
                    exchanges = summary.exchanges,
                    bytes = summary.file_len,
                    "segment sealed"
                );
            }
            SetEvent::Recovered { path, summary } => {
                self.resumed += 1;
                warn!(
                    path = %path.display(),
                    exchanges = summary.exchanges,
                    "segment of an interrupted run sealed"
                );
            }
            SetEvent::Empty { path } => {
                info!(path = %path.display(), "segment without exchanges removed");
            }
            SetEvent::Deleted { path, len, .. } => {
                self.deleted += 1;
                info!(path = %path.display(), bytes = len, "segment deleted by retention");
            }
            SetEvent::NotRecovered { path, error } => {
                self.failed += 1;
                error!(
                    path = %path.display(),
                    why = in_words(error),
                    "segment of an interrupted run cannot be sealed"
                );
            }
            SetEvent::NotDeleted { path, error } => {
                self.failed += 1;
                error!(path = %path.display(), why = in_words(error), "segment cannot be deleted");
            }
            other => warn!(event = ?other, "segments"),
        }
    }
}

const fn words(over: Over) -> &'static str {
    match over {
        Over::Cpu => "budget.cpu",
        Over::Memory => "budget.memory",
    }
}

/// Resident memory of this process; 0 where `/proc` does not tell.
fn resident() -> u64 {
    const KIB: u64 = 1024;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * KIB
}
