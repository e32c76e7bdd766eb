//! Parts become one archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;

use jiff::Timestamp as Instant;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tapedeck_archive::{
    Archive, MergeError, MergeInput, OpenError, Provenance, Selection, WriteError, Writer,
    WriterOptions, merge,
};
use tapedeck_cluster::{Location, Order};
use tapedeck_cluster_store::{Digest, Store, StoreError, Stored};
use tapedeck_filter::Filter;
use tapedeck_model::{Ledger, Timestamp};

use crate::snapshots::Made;
use crate::world::{Part, Place};

/// What is put together.
#[derive(Clone, Debug)]
pub struct Job {
    /// The snapshot.
    pub place: Place,
    /// Where the result goes.
    pub key: String,
    /// What the nodes were asked for.
    pub order: Order,
    /// What they stored.
    pub parts: Vec<Part>,
    /// Only exchanges for which this holds.
    pub filter: Option<String>,
    /// A folder for this job alone. What is in it is continued.
    pub scratch: PathBuf,
    /// When the archive was made.
    pub created: Instant,
}

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The store does not give or take what it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The parts cannot be put together.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// The result cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The filter makes no sense.
    #[error("the filter: {0}")]
    Filter(#[from] tapedeck_filter::FilterError),
    /// The controller's own disk.
    #[error("{path}: {source}")]
    Scratch {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl AssembleError {
    /// Whether it may go better later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) => error.is_passing(),
            // Room on the disk comes back.
            Self::Write(_) | Self::Scratch { .. } => true,
            Self::Merge(error) => matches!(error, MergeError::Write(_)),
            Self::Filter(_) => false,
        }
    }
}

/// Fetches the parts, puts them together, and stores the result. Parts that are missing or are
/// not what their node stored are left out, and named.
///
/// # Errors
///
/// When the store or the disk do not do it.
pub async fn assemble(job: Job, store: Arc<Store>) -> Result<Made, AssembleError> {
    let scratch = |source| AssembleError::Scratch {
        path: job.scratch.clone(),
        source,
    };
    fs::create_dir_all(&job.scratch).map_err(scratch)?;
    let mut spoilt = BTreeMap::new();
    let mut files = Vec::new();
    for part in &job.parts {
        match fetch(&job, part, &store).await? {
            Ok(file) => files.push((part.node.clone(), file)),
            Err(why) => {
                spoilt.insert(part.node.clone(), why);
            }
        }
    }
    let result = job.scratch.join("result.tape");
    let made = {
        let (job, result) = (job.clone(), result.clone());
        // It takes as long as it takes; others are served meanwhile.
        tokio::task::spawn_blocking(move || put_together(&job, &files, &result)).await
    };
    let (ledger, unusable) = match made {
        Ok(made) => made?,
        Err(error) => return Err(scratch(std::io::Error::other(error))),
    };
    spoilt.extend(unusable);
    let stored = store.put(&job.key, &result).await?;
    Ok(Made {
        location: Location {
            store: store.name().to_owned(),
            url: store.url(&stored.key),
            key: stored.key,
            bytes: stored.bytes,
            blake3: stored.digest.to_string(),
            exchanges: ledger.exchanges,
        },
        incomplete: ledger.exchanges_incomplete,
        lost: lost(&ledger),
        spoilt,
    })
}

/// A part on our disk, or why it is none.
async fn fetch(
    job: &Job,
    part: &Part,
    store: &Store,
) -> Result<Result<PathBuf, String>, AssembleError> {
    let own = format!("{}/{}/", job.order.prefix, part.node);
    let Part { node: _, part } = part;
    if !part.key.starts_with(&own) {
        // What a node says may name what is another's.
        return Ok(Err(format!(
            "it names {:?}, which is not its own",
            part.key
        )));
    }
    let Ok(digest) = Digest::from_str(&part.blake3) else {
        return Ok(Err(format!("{:?} is no BLAKE3", part.blake3)));
    };
    let file = job.scratch.join(format!("{digest}.part.tape"));
    if file.metadata().is_ok_and(|meta| meta.len() == part.bytes) {
        return Ok(Ok(file));
    }
    let stored = Stored {
        key: part.key.clone(),
        bytes: part.bytes,
        digest,
    };
    match store.fetch(&stored, &file).await {
        Ok(()) => Ok(Ok(file)),
        Err(error @ (StoreError::Missing { .. } | StoreError::Damaged { .. })) => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

type PutTogether = (Ledger, BTreeMap<String, String>);

fn put_together(
    job: &Job,
    files: &[(String, PathBuf)],
    result: &Path,
) -> Result<PutTogether, AssembleError> {
    let filter = job.filter.as_deref().map(Filter::parse).transpose()?;
    let mut unusable = BTreeMap::new();
    let mut opened = Vec::new();
    for (node, file) in files {
        match Archive::open_all(&[file]) {
            Ok(archive) => {
                let chosen = chosen(job, filter.as_ref(), &archive, || {
                    let why = "some of what it stored cannot be read".to_owned();
                    unusable.insert(node.clone(), why);
                });
                opened.push((node.as_str(), archive, chosen));
            }
            Err(error @ OpenError::Io { .. }) => {
                return Err(AssembleError::Scratch {
                    path: file.clone(),
                    source: std::io::Error::other(error),
                });
            }
            Err(error) => {
                unusable.insert(
                    node.clone(),
                    format!("what it stored is no archive: {error}"),
                );
            }
        }
    }
    let inputs: Vec<MergeInput<'_>> = opened
        .iter()
        .map(|(node, archive, chosen)| MergeInput {
            name: node,
            archive,
            chosen: Some(chosen),
        })
        .collect();
    let provenance = provenance(job, &opened);
    // An attempt before this one may have been cut short.
    remove(&tapedeck_archive::partial_path(result)?, job)?;
    let merged = merge::<AssembleError>(&inputs, || {
        let mut options = WriterOptions::new(provenance);
        options.overwrite = true;
        Ok(Writer::create(result, options)?)
    })?;
    Ok((merged.ledger, unusable))
}

fn remove(path: &Path, job: &Job) -> Result<(), AssembleError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(AssembleError::Scratch {
                path: job.scratch.clone(),
                source,
            })
        }
        _ => Ok(()),
    }
}

/// The exchanges of the window for which the filter holds.
fn chosen(
    job: &Job,
    filter: Option<&Filter>,
    archive: &Archive,
    unreadable: impl FnOnce(),
) -> Selection {
    let nanos = |time: &Option<Time>| {
        time.as_ref()
            .and_then(|time| i64::try_from(time.0.as_nanosecond()).ok())
            .map(Timestamp::from_nanos)
    };
    let (from, to) = (nanos(&job.order.from), nanos(&job.order.to));
    let within = |at: Timestamp| from.is_none_or(|from| at >= from) && to.is_none_or(|to| at < to);
    let mut selection = Selection::none(archive);
    let mut failed = 0_u64;
    match filter {
        None => archive
            .rows()
            .filter(|row| within(row.time()))
            .for_each(|row| selection.insert(row.id())),
        Some(filter) => {
            for row in filter.select(archive) {
                match row {
                    Ok(row) if within(row.time()) => selection.insert(row.id()),
                    Ok(_) => {}
                    Err(_) => failed = failed.saturating_add(1),
                }
            }
        }
    }
    if failed > 0 || archive.damaged_rows() > 0 {
        unreadable();
    }
    selection
}

fn provenance(job: &Job, opened: &[(&str, Archive, Selection)]) -> Provenance {
    let distinct = |of: fn(&Provenance) -> &String| {
        let values: BTreeSet<&str> = opened
            .iter()
            .map(|(_, archive, _)| of(archive.provenance()).as_str())
            .filter(|value| !value.is_empty())
            .collect();
        values.into_iter().collect::<Vec<_>>().join(", ")
    };
    let nodes: BTreeSet<&str> = opened.iter().map(|(node, ..)| *node).collect();
    let extra = [
        ("snapshot", job.place.to_string()),
        ("snapshot.recordings", job.order.recordings.join(", ")),
        (
            "snapshot.nodes",
            nodes.into_iter().collect::<Vec<_>>().join(", "),
        ),
        ("snapshot.filter", job.filter.clone().unwrap_or_default()),
    ];
    let nanos = i64::try_from(job.created.as_nanosecond()).unwrap_or_default();
    Provenance {
        source: distinct(|provenance| &provenance.source),
        host: distinct(|provenance| &provenance.host),
        capture_filter: distinct(|provenance| &provenance.capture_filter),
        software: concat!("tapedeck-controller ", env!("CARGO_PKG_VERSION")).to_owned(),
        created: Timestamp::from_nanos(nanos),
        extra: extra
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

/// What of a ledger is loss, by name. What a filter left out is none.
fn lost(ledger: &Ledger) -> BTreeMap<String, u64> {
    const LOSSES: [&str; 7] = [
        "packets_dropped_by_kernel",
        "payload_bytes_dropped",
        "gap_bytes_lost",
        "gap_bytes_partial",
        "connections_evicted",
        "connections_refused",
        "connections_given_up",
    ];
    ledger
        .counters()
        .filter(|(name, count)| *count > 0 && LOSSES.contains(name))
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}
