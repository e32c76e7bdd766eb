//! What it costs that an archive is encrypted.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tapedeck_archive::{Archive, Identities, Writer};
use tapedeck_filter::Filter;
use tapedeck_model::Ledger;

use crate::reading::scanned;
use crate::timed;
use crate::writing::{for_each_batch, overwriting};

/// Writes the exchanges of an archive as they are and encrypted, and does the same with both: opens
/// them, filters them for the first time, reads everything.
pub(crate) fn compare(path: &str, out: &str) -> Result<Value> {
    let source = Archive::open(Path::new(path))?;
    let identity = Identities::generate()?;
    let filter = Filter::parse("response.status >= 400")?;
    let mut figures = serde_json::Map::new();
    for (name, identities) in [("plain", Identities::none()), ("encrypted", identity)] {
        let mut options = overwriting();
        options.encrypt_to = match identities.is_empty() {
            true => None,
            false => Some(identities.recipients()?),
        };
        let mut writer = Writer::create(Path::new(out), options)?;
        let mut written = Duration::ZERO;
        for_each_batch(&source, |batch, _| {
            let (time, result) = timed(|| batch.iter().try_for_each(|it| writer.exchange(it)));
            written += time;
            Ok(result?)
        })?;
        let (time, sealed) = timed(|| writer.seal(&Ledger::default()));
        let file_len = sealed?.file_len;
        let (opened, archive) = timed(|| Archive::open_with(Path::new(out), &identities));
        let archive = archive?;
        let (filtered, chosen) = timed(|| filter.count(&archive));
        let (again, _) = timed(|| filter.count(&archive));
        let (read, scanned) = timed(|| scanned(&archive));
        scanned?;
        let what = json!({
            "file_bytes": file_len,
            "chosen": chosen?,
            "write_seconds": (written + time).as_secs_f64(),
            "open_seconds": opened.as_secs_f64(),
            "filter_seconds": filtered.as_secs_f64(),
            "filter_again_seconds": again.as_secs_f64(),
            "scan_seconds": read.as_secs_f64(),
        });
        figures.insert(name.to_owned(), what);
    }
    std::fs::remove_file(out)?;
    Ok(figures.into())
}
