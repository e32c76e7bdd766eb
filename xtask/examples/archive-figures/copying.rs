//! Archives become larger ones, by blocks; and what that saves.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tapedeck_archive::{Archive, BodyBuffer, Scratch, Selection, Writer, copy};
use tapedeck_model::Ledger;

use crate::timed;
use crate::writing::{overwriting, whole};

/// Copies archives one behind the other, over and over, until there are so many exchanges and bytes.
pub(crate) fn grow(paths: &[&str], out: &str, exchanges: u64, bytes: u64) -> Result<Value> {
    let archives = paths
        .iter()
        .map(|path| Ok(Archive::open(Path::new(path))?))
        .collect::<Result<Vec<_>>>()?;
    ensure!(archives.iter().any(|it| !it.is_empty()), "nothing to copy");
    let mut writer = Writer::create(Path::new(out), overwriting())?;
    let mut copied = 0;
    for archive in archives.iter().cycle() {
        let left = exchanges.saturating_sub(copied);
        if left == 0 && writer.file_len() >= bytes {
            break;
        }
        let mut selection = Selection::none(archive);
        let now = if left == 0 { u64::MAX } else { left };
        (0..archive.len().min(now)).for_each(|id| selection.insert(id));
        copied += copy(archive, &selection, &mut writer, &mut |_| ())?.exchanges;
    }
    let summary = writer.seal(&Ledger::default())?;
    Ok(json!({ "exchanges": summary.exchanges, "bytes": summary.file_len }))
}

/// What a copy of everything costs by blocks, and written anew.
pub(crate) fn copy_and_rewrite(path: &str, out: &str) -> Result<Value> {
    let archive = Archive::open(Path::new(path))?;
    let mut all = Selection::none(&archive);
    (0..archive.len()).for_each(|id| all.insert(id));
    let mut writer = Writer::create(Path::new(out), overwriting())?;
    let (by_blocks, copied) = timed(|| copy(&archive, &all, &mut writer, &mut |_| ()));
    let copied = copied?;
    writer.seal(archive.ledger())?;

    let mut writer = Writer::create(Path::new(out), overwriting())?;
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::new());
    let (anew, result) = timed(|| -> Result<()> {
        for id in 0..archive.len() {
            let record = archive.load(id, &mut scratch)?;
            writer.exchange(&whole(&archive, &record, &mut buffer)?)?;
        }
        Ok(())
    });
    result?;
    writer.seal(archive.ledger())?;
    std::fs::remove_file(out)?;
    Ok(json!({
        "blocks_whole": copied.blocks_whole,
        "blocks_anew": copied.blocks_anew,
        "by_blocks_seconds": by_blocks.as_secs_f64(),
        "anew_seconds": anew.as_secs_f64(),
    }))
}
