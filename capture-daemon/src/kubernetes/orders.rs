//! What snapshots ask of this node: its part, cut from the archives, put into the store.
//!
//! An order stands in the status of its snapshot, what became of it in the report. After a restart what
//! was delivered is known from there, and the rest is done again: the same part has the same name in
//! the store, and is not sent twice.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tapedeck_archive::{Archive, Provenance, Selection, Writer, WriterOptions, copy};
use tapedeck_cluster::{NodePart, NodeSnapshot, NodeSnapshotState, Order, Phase, SnapshotStatus};
use tapedeck_cluster_store::{Store, StoreError, Stores};
use tapedeck_model::Timestamp;
use tokio::sync::Notify;
use tracing::{info, warn};

/// How long after the end of its window an order is begun: what was said by then is in the archives by
/// then, as those hold nothing back for longer than a second.
const SETTLE: Duration = Duration::from_secs(3);

/// How long after a failure that may pass an order is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// How long is waited for the report of the run before.
const RESUME: Duration = Duration::from_secs(30);

/// Orders that are followed at once. A report has room for as many.
const MOST: usize = 64;

/// What snapshots ask of this node.
#[derive(Debug)]
pub struct Orders {
    node: String,
    inner: Mutex<BTreeMap<String, Job>>,
    /// What was delivered before this daemon was started.
    before: Mutex<BTreeMap<String, NodeSnapshot>>,
    changed: Notify,
    work: Notify,
    /// Told when it is known what was delivered before.
    resumed: Notify,
}

#[derive(Clone, Debug)]
struct Job {
    order: Order,
    done: NodeSnapshot,
}

impl Orders {
    /// None yet, for the node of that name.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            inner: Mutex::default(),
            before: Mutex::default(),
            changed: Notify::new(),
            work: Notify::new(),
            resumed: Notify::new(),
        }
    }

    /// Returns when something changed that should be told at once.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A snapshot, as it stands.
    pub fn follow(&self, uid: &str, status: &SnapshotStatus) {
        let mut jobs = self.lock();
        let asked = status
            .order
            .as_ref()
            .filter(|order| status.phase == Phase::Collecting && order.nodes.contains(&self.node));
        match asked {
            None => {
                // What was asked for has been taken: nobody needs to hear of it any longer.
                if jobs.remove(uid).is_none() {
                    return;
                }
            }
            Some(order) => {
                let is_known = jobs.get(uid).is_some_and(|job| job.order == *order);
                if is_known || jobs.len() >= MOST {
                    return;
                }
                let delivered = lock(&self.before).remove(uid);
                let done = delivered.unwrap_or_else(|| NodeSnapshot {
                    uid: uid.to_owned(),
                    ..NodeSnapshot::default()
                });
                let order = order.clone();
                jobs.insert(uid.to_owned(), Job { order, done });
                self.work.notify_one();
            }
        }
        drop(jobs);
        self.changed.notify_one();
    }

    /// A snapshot that was deleted.
    pub fn remove(&self, uid: &str) {
        self.lock().remove(uid);
        self.changed.notify_one();
    }

    /// Of all snapshots there are these.
    pub fn keep(&self, uids: &BTreeSet<String>) {
        self.lock().retain(|uid, _| uids.contains(uid));
    }

    /// What was delivered before this daemon was started.
    pub fn resume(&self, snapshots: &[NodeSnapshot]) {
        let mut jobs = self.lock();
        let mut before = lock(&self.before);
        let delivered = snapshots
            .iter()
            .filter(|of| of.state == NodeSnapshotState::Delivered);
        for snapshot in delivered {
            match jobs.get_mut(&snapshot.uid) {
                Some(job) => job.done = snapshot.clone(),
                None if before.len() < MOST => {
                    before.insert(snapshot.uid.clone(), snapshot.clone());
                }
                None => {}
            }
        }
        self.resumed.notify_one();
    }

    /// What became of them, for the report.
    #[must_use]
    pub fn snapshots(&self) -> Vec<NodeSnapshot> {
        let jobs = self.lock();
        jobs.values().map(|job| job.done.clone()).collect()
    }

    /// The recordings that are asked for: what was recorded for them is not to be removed yet.
    #[must_use]
    pub fn recordings(&self) -> BTreeSet<String> {
        let jobs = self.lock();
        let open = jobs
            .values()
            .filter(|job| job.done.state == NodeSnapshotState::Uploading);
        open.flat_map(|job| job.order.recordings.iter().cloned())
            .collect()
    }

    /// The next that is to be done.
    fn next(&self) -> Option<(String, Order)> {
        let jobs = self.lock();
        let (uid, job) = jobs
            .iter()
            .find(|(_, job)| job.done.state == NodeSnapshotState::Uploading)?;
        Some((uid.clone(), job.order.clone()))
    }

    fn done(&self, uid: &str, change: impl FnOnce(&mut NodeSnapshot)) {
        if let Some(job) = self.lock().get_mut(uid) {
            change(&mut job.done);
        }
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Job>> {
        lock(&self.inner)
    }
}

/// What is behind these locks is changed in steps that leave it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what is asked for, one after the other.
#[derive(Debug)]
pub(super) struct Deliverer {
    pub(super) orders: Arc<Orders>,
    /// Where each recording has a folder.
    pub(super) recordings: PathBuf,
    /// Where parts are made.
    pub(super) parts: PathBuf,
    /// The list of stores.
    pub(super) stores: Option<PathBuf>,
}

impl Deliverer {
    pub(super) async fn run(self) {
        // Parts of an interrupted run are made anew.
        drop(fs::remove_dir_all(&self.parts));
        // If the report cannot be read, what was delivered is stored once more, under the same name.
        drop(tokio::time::timeout(RESUME, self.orders.resumed.notified()).await);
        loop {
            let Some((uid, order)) = self.orders.next() else {
                self.orders.work.notified().await;
                continue;
            };
            let wait = until_settled(&order);
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
                continue;
            }
            match self.deliver(&uid, &order).await {
                Ok(parts) => {
                    info!(
                        snapshot = uid,
                        parts = parts.len(),
                        "a snapshot's part is stored"
                    );
                    self.orders.done(&uid, |done| {
                        done.state = NodeSnapshotState::Delivered;
                        done.message = String::new();
                        done.parts = parts;
                    });
                }
                Err(error) => {
                    let is_passing = error
                        .chain()
                        .any(|cause| cause.downcast_ref().is_some_and(StoreError::is_passing));
                    let why = format!("{error:#}");
                    warn!(snapshot = uid, why, "a snapshot's part is not stored");
                    self.orders.done(&uid, |done| {
                        if !is_passing || is_over(&order) {
                            done.state = NodeSnapshotState::Failed;
                        }
                        done.message = why.chars().take(500).collect();
                    });
                    tokio::time::sleep(AGAIN).await;
                }
            }
            drop(fs::remove_dir_all(&self.parts));
        }
    }

    async fn deliver(&self, uid: &str, order: &Order) -> Result<Vec<NodePart>> {
        let store = self.store(&order.store)?;
        let (order, recordings) = (order.clone(), self.recordings.clone());
        let prefix = format!("{}/{}", order.prefix, self.orders.node);
        let file = self.parts.join(format!("{uid}.tape"));
        let (made, node) = (file.clone(), self.orders.node.clone());
        let cut = move || part(&recordings, &order, &made, &node);
        let exchanges = tokio::task::spawn_blocking(cut)
            .await
            .context("the part was not made")??;
        if exchanges == 0 {
            return Ok(Vec::new());
        }
        let stored = store.put_part(&prefix, &file).await?;
        Ok(vec![NodePart {
            key: stored.key,
            bytes: stored.bytes,
            blake3: stored.digest.to_string(),
            exchanges,
        }])
    }

    fn store(&self, name: &str) -> Result<Store> {
        let path = self
            .stores
            .as_deref()
            .context("this daemon was given no stores (kubernetes.stores)")?;
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the stores {}", path.display()))?;
        let stores = Stores::parse(&text)?;
        Ok(stores.get(Some(name))?.open(std::env::vars())?)
    }
}

fn now() -> Timestamp {
    timestamp(jiff::Timestamp::now())
}

fn timestamp(of: jiff::Timestamp) -> Timestamp {
    Timestamp::from_nanos(i64::try_from(of.as_nanosecond()).unwrap_or(i64::MAX))
}

/// How long until the window of an order is over, and what was said in it is written.
fn until_settled(order: &Order) -> Duration {
    let Some(to) = &order.to else {
        return Duration::ZERO;
    };
    let end = timestamp(to.0).saturating_add(SETTLE);
    end.since(now())
}

fn is_over(order: &Order) -> bool {
    order
        .deadline
        .as_ref()
        .is_some_and(|deadline| timestamp(deadline.0) < now())
}

/// Makes the part of an order: what its recordings have in its window, each exchange once, though
/// several of them may have it. Says how many there are; without any, no file is made.
///
/// # Errors
///
/// When an archive cannot be read, or the part cannot be written.
pub fn part(recordings: &Path, order: &Order, file: &Path, node: &str) -> Result<u64> {
    let folders: Vec<PathBuf> = order
        .recordings
        .iter()
        .map(|uid| recordings.join(uid))
        .filter(|folder| folder.is_dir())
        .collect();
    if folders.is_empty() {
        return Ok(0);
    }
    let archive = Archive::open_all(&folders).context("cannot read what was recorded")?;
    if archive.recipients().any(|of| of.is_some()) {
        anyhow::bail!(
            "archives are encrypted (archive.encrypt_to), and this daemon has no key to cut them: fetch the \
             folder {} of the node, and open it with the key",
            recordings.display()
        );
    }
    let (from, to) = (&order.from, &order.to);
    let from = from
        .as_ref()
        .map_or(Timestamp::from_nanos(i64::MIN), |at| timestamp(at.0));
    let to = to
        .as_ref()
        .map_or(Timestamp::from_nanos(i64::MAX), |at| timestamp(at.0));
    let mut chosen = Selection::none(&archive);
    let mut known = HashSet::new();
    for row in archive.rows() {
        let at = row.time();
        let mut is_first = || known.insert((at, row.client(), row.server(), row.stream()));
        if at >= from && at < to && (folders.len() == 1 || is_first()) {
            chosen.insert(row.id());
        }
    }
    if chosen.is_empty() {
        return Ok(0);
    }
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let provenance = Provenance {
        source: format!("a part of a snapshot, of the node {node}"),
        host: node.to_owned(),
        ..archive.provenance().clone()
    };
    let mut options = WriterOptions::new(provenance);
    options.overwrite = true;
    let mut writer = Writer::create(file, options)?;
    let copied = copy(&archive, &chosen, &mut writer, &mut |_| ())?;
    for unread in archive.unread().flatten() {
        if unread.last_byte >= from && unread.connection.opened < to {
            writer.unread(&unread)?;
        }
    }
    let mut ledger = archive.ledger().clone();
    let left_out = ledger.exchanges.saturating_sub(copied.exchanges);
    ledger.exchanges = copied.exchanges;
    ledger.exchanges_incomplete = copied.incomplete;
    ledger.exchanges_without_request = copied.without_request;
    ledger.exchanges_without_response = copied.without_response;
    ledger.exchanges_not_chosen += left_out;
    writer.seal(&ledger)?;
    Ok(copied.exchanges)
}
