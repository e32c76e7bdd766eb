//! Archives are opened, filtered, read at random, and scanned.

use std::collections::HashMap;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tapedeck_archive::{Archive, BodyBuffer, NumberColumn, Page, Scratch};
use tapedeck_filter::Filter;

use crate::{quantile, timed};

const RUNS: usize = 21;

/// A filter on the status, beside a sum over the bytes that it looks at.
pub(crate) fn filter(path: &str, expression: &str) -> Result<Value> {
    let archive = Archive::open(Path::new(path))?;
    let filter = Filter::parse(expression)?;
    let pages: Vec<Page<'_>> = archive.pages().collect::<Result<_, _>>()?;
    let columns: Vec<&[u8]> = pages
        .iter()
        .map(|page| page.stored(NumberColumn::Status))
        .collect();
    let bytes: usize = columns.iter().map(|column| column.len()).sum();
    let (mut filtered, mut summed) = (Vec::new(), Vec::new());
    let (mut chosen, mut total) = (0, 0);
    for _ in 0..RUNS {
        let (time, count) = timed(|| filter.count(&archive));
        chosen = count?;
        filtered.push(time);
        let (time, sum) = timed(|| sum(&columns));
        total = sum;
        summed.push(time);
    }
    Ok(json!({
        "exchanges": archive.len(),
        "pages": pages.len(),
        "chosen": chosen,
        "column_bytes": bytes,
        "sum": total,
        "filter_seconds": quantile(&mut filtered, 500),
        "sum_seconds": quantile(&mut summed, 500),
    }))
}

/// The plainest thing that looks at every byte: eight at a time, which compilers make wider still.
fn sum(columns: &[&[u8]]) -> u64 {
    columns.iter().fold(0, |sum, column| {
        let (words, rest) = column.as_chunks::<8>();
        let words = words.iter().fold(0_u64, |sum, word| {
            sum.wrapping_add(u64::from_le_bytes(*word))
        });
        rest.iter().fold(sum.wrapping_add(words), |sum, byte| {
            sum.wrapping_add(u64::from(*byte))
        })
    })
}

/// Opening two archives, in turns.
pub(crate) fn open(small: &str, large: &str) -> Result<Value> {
    let mut times = [Vec::new(), Vec::new()];
    let mut lens = [0, 0];
    for _ in 0..10 * RUNS {
        for ((path, times), len) in [small, large].iter().zip(&mut times).zip(&mut lens) {
            let (time, opened) = timed(|| Archive::open(Path::new(path)).map(|it| it.len()));
            *len = opened?;
            times.push(time);
        }
    }
    let [small, large] = &mut times;
    Ok(json!({
        "exchanges": lens,
        "small_seconds": quantile(small, 500),
        "large_seconds": quantile(large, 500),
    }))
}

/// Random exchanges with their bodies, beside the bare decompression of their blocks: those that zstd made for
/// the archive, and for blocks that are stored as they are, those that `zstd -3` makes of them.
pub(crate) fn random(path: &str) -> Result<Value> {
    let archive = Archive::open(Path::new(path))?;
    let file = fs::read(path)?;
    let blocks = Blocks::of(&file)?;
    // Checksums of index pages are verified when a page is first touched; that is not asked here.
    ensure!(archive.damaged_rows() == 0, "the archive is damaged");
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::new());
    let mut inflater = zstd::bulk::Decompressor::new()?;
    let mut frames: HashMap<usize, Vec<u8>> = HashMap::new();
    let mut out = Vec::with_capacity(16 << 20);
    let (mut loads, mut bare) = (Vec::new(), Vec::new());
    let (mut total, mut n_blocks, mut most_blocks) = (0, 0, 0);
    for n in 0..5_000_u64 {
        let id = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % archive.len();
        let (time, len) = timed(|| -> Result<usize> {
            let record = archive.load(id, &mut scratch)?;
            let Some(message) = record.response() else {
                return Ok(0);
            };
            Ok(black_box(archive.body(&message.body(), &mut buffer)?).len())
        });
        total += len?;
        loads.push(time);
        // Its own block, and those that its body lies in.
        let mut places = vec![blocks.of_exchange(id).context("no such block")?];
        let record = archive.load(id, &mut scratch)?;
        if let Some(message) = record.response() {
            for place in message.body().blocks() {
                places.push(usize::try_from(place)?);
            }
        }
        places.sort_unstable();
        places.dedup();
        n_blocks += places.len();
        most_blocks = most_blocks.max(places.len());
        for place in &places {
            // What is stored as it is, zstd would have put into a frame of its own.
            if let Stored::Raw(bytes) = stored(&file, *place).context("a cut block")?
                && !frames.contains_key(place)
            {
                frames.insert(*place, zstd::bulk::compress(bytes, 3)?);
            }
        }
        let (time, result) = timed(|| -> Result<()> {
            for place in places {
                let frame = match stored(&file, place).context("a cut block")? {
                    Stored::Raw(_) => frames.get(&place).context("no frame")?,
                    Stored::Zstd(bytes) => bytes,
                };
                black_box(inflater.decompress_to_buffer(frame, &mut out)?);
            }
            Ok(())
        });
        result?;
        bare.push(time);
    }
    Ok(json!({
        "body_bytes": total,
        "blocks_mean": n_blocks as f64 / loads.len().max(1) as f64,
        "blocks_most": most_blocks,
        "load_p50": quantile(&mut loads, 500),
        "load_p99": quantile(&mut loads, 990),
        "bare_p50": quantile(&mut bare, 500),
        "bare_p99": quantile(&mut bare, 990),
        "load_mean": mean(&loads),
        "bare_mean": mean(&bare),
    }))
}

fn mean(times: &[Duration]) -> f64 {
    let sum: Duration = times.iter().sum();
    sum.as_secs_f64() / times.len().max(1) as f64
}

/// Where the exchange blocks of a file lie, read as docs/format.md says, without our reader.
struct Blocks {
    /// The first exchange of each block, and where its header begins.
    starts: Vec<(u64, usize)>,
}

enum Stored<'a> {
    Raw(&'a [u8]),
    Zstd(&'a [u8]),
}

impl Blocks {
    const EXCHANGES: u8 = 2;

    fn of(file: &[u8]) -> Result<Self> {
        let mut starts = Vec::new();
        let mut offset = 64;
        while file.get(offset..offset + 4) == Some(b"\x89TCK") {
            let kind = file.get(offset + 4).copied();
            if kind == Some(Self::EXCHANGES) {
                let first = number::<8>(file, offset + 40).context("a cut header")?;
                starts.push((first, offset));
            }
            let len = body_len(file, offset).context("a cut header")?;
            offset += 64 + len.next_multiple_of(16);
        }
        ensure!(!starts.is_empty(), "no exchange blocks");
        Ok(Self { starts })
    }

    fn of_exchange(&self, id: u64) -> Option<usize> {
        let behind = self.starts.partition_point(|(first, _)| *first <= id);
        let (_, offset) = *self.starts.get(behind.checked_sub(1)?)?;
        Some(offset)
    }
}

/// How the block is stored that begins there.
fn stored(file: &[u8], offset: usize) -> Option<Stored<'_>> {
    let references = usize::try_from(number::<4>(file, offset + 8)?).ok()? * 8;
    let start = offset + 64 + references;
    let end = offset + 64 + body_len(file, offset)?;
    let bytes = file.get(start..end)?;
    match file.get(offset + 5)? {
        0 => Some(Stored::Raw(bytes)),
        _ => Some(Stored::Zstd(bytes)),
    }
}

/// The length of a chunk's references and stored payload.
fn body_len(file: &[u8], offset: usize) -> Option<usize> {
    let references = number::<4>(file, offset + 8)?;
    let stored = number::<4>(file, offset + 12)?;
    usize::try_from(references * 8 + stored).ok()
}

fn number<const N: usize>(file: &[u8], offset: usize) -> Option<u64> {
    let bytes = file.get(offset..offset + N)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)),
    )
}

/// Reads every row, every record and every body, and says how much memory that took at most.
pub(crate) fn scan(path: &str) -> Result<Value> {
    let archive = Archive::open(Path::new(path))?;
    let (time, found) = timed(|| scanned(&archive));
    let mut found = found?;
    found["file_bytes"] = fs::metadata(path)?.len().into();
    found["scan_seconds"] = time.as_secs_f64().into();
    Ok(found)
}

/// What it is to read all of an archive.
pub(crate) fn scanned(archive: &Archive) -> Result<Value> {
    let mut peak = anonymous_kib()?;
    let mut targets = 0;
    for (n, row) in archive.rows().enumerate() {
        targets += row
            .target_pieces()
            .map_or(0, |target| target.pieces().map(<[u8]>::len).sum());
        if n % 100_000 == 0 {
            peak = peak.max(anonymous_kib()?);
        }
    }
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::new());
    let mut bodies = 0;
    for id in 0..archive.len() {
        let record = archive.load(id, &mut scratch)?;
        for message in record.request().iter().chain(&record.response()) {
            bodies += archive.body(&message.body(), &mut buffer)?.len() as u64;
        }
        if id % 1_000 == 0 {
            peak = peak.max(anonymous_kib()?);
        }
    }
    Ok(json!({
        "exchanges": archive.len(),
        "target_bytes": targets,
        "body_bytes": bodies,
        "anonymous_kib": peak.max(anonymous_kib()?),
    }))
}

/// Resident memory of this process that is not of a mapped file.
fn anonymous_kib() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .context("no RssAnon")?;
    let kib = line.trim().strip_suffix(" kB").context("not in KiB")?;
    Ok(kib.trim().parse()?)
}
