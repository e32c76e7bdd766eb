//! A mock that answers for long takes no more memory than one that has answered for a moment.
//!
//! What is allocated is counted, and not only what the process has: of that, the system's allocator keeps
//! some for later, more of it on some machines than on others. Tables and buffers grow and are emptied, so
//! that it is the least of many looks that must not grow. By itself, because the memory is that of the
//! process. `TAPEDECK_SOAK_SECONDS` makes it last.

#![expect(clippy::unwrap_used, reason = "the helpers of this test are tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use peak_alloc::PeakAlloc;
use tapedeck_archive::{Archive, Provenance, Writer, WriterOptions};
use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_model::{BodyPart, Exchange, UnreadConnection};
use tapedeck_packet::CaptureReader;
use tapedeck_replayer::mock::chaos::Chaos;
use tapedeck_replayer::mock::{Mock, Options, RunningMock};

struct ToArchive(Writer);

impl Recorder for ToArchive {
    fn body_part(&mut self, part: &BodyPart) {
        self.0.body_part(part).unwrap();
    }

    fn exchange(&mut self, exchange: &Exchange) {
        self.0.exchange(exchange).unwrap();
    }

    fn unread(&mut self, connection: &UnreadConnection) {
        self.0.unread(connection).unwrap();
    }
}

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Connections between two looks.
const WHILE: usize = 500;
/// Until every list, table and buffer that is bounded has reached its bound.
const FILLED: usize = 5 * WHILE;

/// Resident memory in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// A connection that asks for much, some of it in vain, some of it wrong.
fn round(mock: &RunningMock, n: usize) {
    let Ok(mut stream) = TcpStream::connect(mock.addr()) else {
        return;
    };
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut requests = String::new();
    for target in ["/small.txt", "/seats.json", "/", "/missing"] {
        requests.push_str(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
    }
    requests.push_str(&format!("GET /never/{n} HTTP/1.1\r\nHost: h\r\n\r\n"));
    requests.push_str(match n % 3 {
        0 => "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        1 => "no request at all\r\n\r\n",
        // The client leaves.
        _ => "GET /small.txt HTTP/1.1\r\nHo",
    });
    // A fault may have ended the connection by now.
    let _sent = stream.write_all(requests.as_bytes());
    if n % 3 < 2 {
        let _read = stream.read_to_end(&mut Vec::new());
    }
}

/// Waits until all that came so far is written down: what waits for a slow disk is bounded by a limit of its
/// own.
fn written(mock: &RunningMock) {
    loop {
        let stats = mock.stats();
        let received = stats.received.unwrap();
        if received.exchanges + received.dropped >= stats.hits + stats.misses {
            return;
        }
        thread::yield_now();
    }
}

#[test]
fn memory_stays_flat() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tape");
    let writer = Writer::create(&path, WriterOptions::new(Provenance::default())).unwrap();
    let mut recorder = ToArchive(writer);
    let mut engine = Engine::new(Limits::default());
    let capture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/pcaps/001-keep-alive/input.pcap");
    let mut reader = CaptureReader::open(fs::File::open(capture).unwrap()).unwrap();
    while let Ok(Some(packet)) = reader.next_packet() {
        engine.packet(&packet, &mut recorder);
    }
    engine.finish(&mut recorder);
    recorder.0.seal(&engine.ledger()).unwrap();
    let chaos = "faults: [{name: some, reset: {at: in-head}, probability: 0.05}]";
    let options = Options {
        threads: NonZeroUsize::new(2),
        chaos: Some(Chaos::parse(chaos).unwrap()),
        received: Some(folder.path().join("in.tape")),
        ..Options::default()
    };
    let mock = Mock::start(Arc::new(Archive::open(&path).unwrap()), &options).unwrap();
    let lasts = std::env::var("TAPEDECK_SOAK_SECONDS");
    let lasts = lasts.ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let begun = Instant::now();
    let (mut before, mut whiles) = (0, Vec::new());
    let mut n = 0;
    while n < FILLED + 10 * WHILE || begun.elapsed() < Duration::from_secs(lasts) {
        for _ in 0..WHILE {
            round(&mock, n);
            n += 1;
        }
        written(&mock);
        if n == FILLED {
            before = resident();
        }
        if n > FILLED {
            whiles.push(ALLOCATED.current_usage());
        }
    }
    let after = resident();
    let stats = mock.stop();
    assert!(stats.hits > 15_000, "{} answers", stats.hits);
    let (misses, refused) = (stats.misses, stats.refused);
    assert!(misses > 2000 && refused > 1000, "{misses} {refused}");
    assert_eq!(stats.missed.len(), 1000);
    let grown = after.saturating_sub(before);
    println!(
        "{n} connections, {} answers, grown by {grown} bytes to {after}; allocated: {whiles:?}",
        stats.hits
    );
    let (first, last) = whiles.split_at(whiles.len() / 2);
    let least = |whiles: &[usize]| whiles.iter().copied().min().unwrap();
    let grown_by = least(last).saturating_sub(least(first));
    // A page of the archive's index, and what its blocks are compressed in, come and go.
    assert!(grown_by < 2 << 20, "allocated, in turn: {whiles:?}");
    // What the allocator keeps for later comes on top.
    assert!(grown < 24 << 20, "grown by {grown} bytes from {before}");
}
