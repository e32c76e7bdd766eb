//! One module a command: from arguments to libraries to output.

mod bodies;
pub(crate) mod ca;
pub(crate) mod cluster;
mod connections;
pub(crate) mod cut;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod key;
mod keylog;
mod keys;
pub(crate) mod ls;
pub(crate) mod merge;
pub(crate) mod mock;
pub(crate) mod record;
pub(crate) mod recover;
pub(crate) mod replay;
pub(crate) mod show;
pub(crate) mod sign;
pub(crate) mod stats;
pub(crate) mod summary;
pub(crate) mod verify;

use std::cell::Cell;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use tapedeck_archive::{
    Archive, Identities, Provenance, Recipients, Row, WriteError, Writer, WriterOptions,
};
use tapedeck_filter::Filter;
use tapedeck_model::Timestamp;

use crate::{args, output};

/// Opens an archive for a command that reads it. What is left out of a folder is said.
fn open<P: AsRef<Path>>(paths: &[P], identity: &args::Identity) -> Result<Archive> {
    open_with(paths, &keys::identities(identity)?)
}

fn open_with<P: AsRef<Path>>(paths: &[P], identities: &Identities) -> Result<Archive> {
    let archive = Archive::open_all_with(paths, identities)?;
    for left_out in archive.left_out() {
        output::warn(format_args!(
            "{} is left out: {:#}",
            left_out.path.display(),
            anyhow::Error::msg(left_out.error.to_string()),
        ));
    }
    Ok(archive)
}

/// The archives that were named, for people.
fn named<P: AsRef<Path>>(paths: &[P]) -> String {
    let names: Vec<_> = paths
        .iter()
        .map(|path| path.as_ref().display().to_string())
        .collect();
    names.join(", ")
}

/// Begins an archive for a command that writes one.
fn create(
    path: &Path,
    provenance: Provenance,
    overwrite: bool,
    encrypt_to: Option<Recipients>,
) -> Result<Writer> {
    let mut options = WriterOptions::new(provenance);
    options.encrypt_to = encrypt_to;
    options.overwrite = overwrite;
    match Writer::create(path, options) {
        Err(error @ WriteError::Exists { .. }) => {
            Err(anyhow::Error::new(error).context("--force replaces an archive"))
        }
        created => Ok(created?),
    }
}

/// Where this run of the program takes place.
fn provenance() -> Provenance {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Provenance {
        host: host.trim().to_owned(),
        software: concat!("tapedeck ", env!("CARGO_PKG_VERSION")).to_owned(),
        created: Timestamp::EPOCH.saturating_add(now),
        ..Provenance::default()
    }
}

/// The exchanges of an archive that a filter chooses; all of them where there is none.
///
/// Some may lie in damaged parts: those are passed over but counted, and [`Chosen::finish`] says so.
struct Chosen<'a> {
    archive: &'a Archive,
    filter: Option<&'a Filter>,
    unreadable: Cell<u64>,
}

impl<'a> Chosen<'a> {
    fn new(archive: &'a Archive, filter: Option<&'a Filter>) -> Self {
        Self {
            archive,
            filter,
            unreadable: Cell::new(0),
        }
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Row<'a>> + '_> {
        let Some(filter) = self.filter else {
            return Box::new(self.archive.rows());
        };
        Box::new(filter.select(self.archive).filter_map(|row| {
            row.inspect_err(|_| self.unreadable.set(self.unreadable.get() + 1))
                .ok()
        }))
    }

    /// Success, or a failure that was said.
    fn finish(&self) -> Result<ExitCode> {
        let unreadable = self.unreadable.get().max(self.archive.damaged_rows());
        if unreadable == 0 {
            let is_all = self.archive.left_out().is_empty();
            let code = if is_all { 0 } else { crate::FAILED };
            return Ok(ExitCode::from(code));
        }
        output::warn(format_args!(
            "at least {unreadable} exchanges lie in damaged parts of the archive; `tapedeck verify` \
             says where"
        ));
        Ok(ExitCode::from(crate::FAILED))
    }
}
