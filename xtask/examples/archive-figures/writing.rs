//! Exchanges of an archive are written again, beside zstd on their bytes.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tapedeck_archive::{
    Archive, BodyBuffer, Provenance, Record, Scratch, Summary, Writer, WriterOptions,
};
use tapedeck_model::{Exchange, Ledger};

use crate::timed;

/// Exchanges are read from the archive in batches of about so many bytes, so that reading them is not
/// measured.
const BATCH: usize = 8 << 20;

/// Calls, 0.8 of the time of zstd at most: what it takes to write them.
pub(crate) fn write(path: &str, out: &str) -> Result<Value> {
    let archive = Archive::open(Path::new(path))?;
    let mut writer = Writer::create(Path::new(out), overwriting())?;
    let mut stream = zstd::stream::Encoder::new(Vec::new(), 3)?;
    let (mut written, mut compressed) = (Duration::ZERO, Duration::ZERO);
    let (mut raw_len, mut zstd_len) = (0, 0);
    for_each_batch(&archive, |batch, raw| {
        let (time, result) = timed(|| batch.iter().try_for_each(|it| writer.exchange(it)));
        result?;
        written += time;
        raw_len += raw.len();
        let (time, result) = timed(|| stream.write_all(raw));
        result?;
        compressed += time;
        zstd_len += stream.get_ref().len();
        stream.get_mut().clear();
        Ok(())
    })?;
    let (time, sealed) = timed(|| writer.seal(&Ledger::default()));
    written += time;
    let (time, rest) = timed(|| stream.finish());
    compressed += time;
    zstd_len += rest?.len();
    std::fs::remove_file(out)?;
    Ok(json!({
        "exchanges": archive.len(),
        "raw": raw_len,
        "archive": sealed?.file_len,
        "zstd": zstd_len,
        "write_seconds": written.as_secs_f64(),
        "zstd_seconds": compressed.as_secs_f64(),
    }))
}

/// What a recording of little traffic comes to: one exchange a second, ten, a hundred, each second
/// flushed, beside the same exchanges in full blocks.
pub(crate) fn trickle(path: &str, out: &str) -> Result<Value> {
    let archive = Archive::open(Path::new(path))?;
    let mut exchanges = Vec::new();
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::new());
    for id in 0..archive.len().min(TRICKLE) {
        let record = archive.load(id, &mut scratch)?;
        exchanges.push(whole(&archive, &record, &mut buffer)?);
    }
    let mut figures = serde_json::Map::new();
    for a_second in [1, 10, 100, exchanges.len()] {
        let mut writer = Writer::create(Path::new(out), overwriting())?;
        let mut now = Duration::ZERO;
        for second in exchanges.chunks(a_second.max(1)) {
            second.iter().try_for_each(|it| writer.exchange(it))?;
            now += Duration::from_secs(1);
            writer.tick(now, Ledger::default)?;
        }
        let Summary { file_len, .. } = writer.seal(&Ledger::default())?;
        let each = file_len as f64 / exchanges.len().max(1) as f64;
        let name = if a_second == exchanges.len() {
            "at once".to_owned()
        } else {
            a_second.to_string()
        };
        figures.insert(name, each.into());
    }
    std::fs::remove_file(out)?;
    Ok(figures.into())
}

/// As many as a service of one call a second gets in twenty minutes.
const TRICKLE: u64 = 1200;

pub(crate) fn overwriting() -> WriterOptions {
    let mut options = WriterOptions::new(Provenance::default());
    options.overwrite = true;
    options
}

/// Gives the exchanges with their bodies, and beside them the bytes of all their messages.
pub(crate) fn for_each_batch(
    archive: &Archive,
    mut each: impl FnMut(&[Exchange], &[u8]) -> Result<()>,
) -> Result<()> {
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::new());
    let (mut batch, mut raw) = (Vec::new(), Vec::new());
    for id in 0..archive.len() {
        let record = archive.load(id, &mut scratch)?;
        let mut exchange = whole(archive, &record, &mut buffer)?;
        exchange.key = id;
        for message in exchange.request.iter().chain(&exchange.response) {
            raw.extend_from_slice(message.head.as_ref().map_or(&[], |head| &head.raw));
            raw.extend_from_slice(&message.body.tail);
        }
        batch.push(exchange);
        if raw.len() >= BATCH {
            each(&batch, &raw)?;
            batch.clear();
            raw.clear();
        }
    }
    each(&batch, &raw)
}

/// An exchange with its bodies, as its reader would have handed it on.
pub(crate) fn whole(
    archive: &Archive,
    record: &Record<'_>,
    buffer: &mut BodyBuffer,
) -> Result<Exchange> {
    let mut exchange = record.to_exchange();
    let messages = [
        (record.request(), &mut exchange.request),
        (record.response(), &mut exchange.response),
    ];
    for (view, message) in messages {
        if let (Some(view), Some(message)) = (view, message) {
            message.body.tail = archive.body(&view.body(), buffer)?.to_vec();
        }
    }
    Ok(exchange)
}
