//! Exchanges of an archive are written again, beside zstd on their bytes.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tapedeck_archive::{
    Archive, BodyBuffer, Provenance, Record, Scratch, Summary, Writer, WriterOptions,
};
use tapedeck_model::{Connection, Exchange, Ledger};

use crate::{spent, timed};

/// Exchanges are read from the archive in batches of about so many bytes of messages, so that reading them is
/// not measured. In memory they take four times that: few enough that they lie in the caches of one core, as
/// what a recorder has just put together does, and the bytes that zstd gets, too. In batches of a MiB, every
/// exchange comes from the cache that all cores share, and writing small ones takes a quarter longer.
const BATCH: usize = 256 << 10;

/// How often everything is written at most, and for how long. The round in the middle counts.
const ROUNDS: usize = 9;
const ENOUGH: Duration = Duration::from_secs(4);

/// Calls, 0.8 of the rate of zstd at least: what it takes to write them.
pub(crate) fn write(path: &str, out: &str) -> Result<Value> {
    let archive = Archive::open(Path::new(path))?;
    let begin = spent();
    let mut rounds = Vec::new();
    while rounds.is_empty() || (rounds.len() < ROUNDS && spent() - begin < ENOUGH) {
        rounds.push(Round::of(&archive, out)?);
    }
    std::fs::remove_file(out)?;
    rounds.sort_by(|one, other| one.ratio().total_cmp(&other.ratio()));
    let n_rounds = rounds.len();
    let middle = rounds.swap_remove(n_rounds / 2);
    Ok(json!({
        "exchanges": archive.len(),
        "rounds": n_rounds,
        "raw": middle.raw_len,
        "archive": middle.summary.file_len,
        "zstd": middle.zstd_len,
        "write_seconds": middle.written.as_secs_f64(),
        "zstd_seconds": middle.compressed.as_secs_f64(),
    }))
}

/// Everything written once, and compressed once.
struct Round {
    written: Duration,
    compressed: Duration,
    raw_len: usize,
    zstd_len: usize,
    summary: Summary,
}

impl Round {
    fn of(archive: &Archive, out: &str) -> Result<Self> {
        let mut writer = Writer::create(Path::new(out), overwriting())?;
        let mut stream = zstd::stream::Encoder::new(Vec::new(), 3)?;
        let (mut written, mut compressed) = (Duration::ZERO, Duration::ZERO);
        let (mut raw_len, mut zstd_len) = (0, 0);
        for_each_batch(archive, |batch, raw| {
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
        Ok(Self {
            written,
            compressed,
            raw_len,
            zstd_len: zstd_len + rest?.len(),
            summary: sealed?,
        })
    }

    fn ratio(&self) -> f64 {
        self.written.as_secs_f64() / self.compressed.as_secs_f64()
    }
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

/// Gives the exchanges with their bodies, and beside them the bytes of all their messages. Exchanges of one
/// connection share what is known of it, as they do when they come from the pipeline.
pub(crate) fn for_each_batch(
    archive: &Archive,
    mut each: impl FnMut(&[Exchange], &[u8]) -> Result<()>,
) -> Result<()> {
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::new());
    let (mut batch, mut raw) = (Vec::new(), Vec::new());
    let mut connections: HashMap<u64, Arc<Connection>> = HashMap::new();
    for id in 0..archive.len() {
        let record = archive.load(id, &mut scratch)?;
        let mut exchange = whole(archive, &record, &mut buffer)?;
        exchange.key = id;
        let shared = connections
            .entry(exchange.connection.id.0)
            .or_insert_with(|| Arc::clone(&exchange.connection));
        if **shared == *exchange.connection {
            exchange.connection = Arc::clone(shared);
        } else {
            *shared = Arc::clone(&exchange.connection);
        }
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
