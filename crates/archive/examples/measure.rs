//! Measures the archive on traffic like that of a booking service: write rate against `zstd -3` of the
//! same bytes, size, opening, scanning, random loads.
//!
//! ```text
//! cargo run --release -p tapedeck-archive --example measure -- [EXCHANGES]
//! ```

#![expect(clippy::print_stdout, reason = "its output is the measurement")]
#![expect(
    clippy::cast_precision_loss,
    reason = "figures for people need no 53 bits"
)]

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tapedeck_archive::{
    Archive, BodyBuffer, NumberColumn, Provenance, Scratch, Writer, WriterOptions,
};
use tapedeck_model::exchange::Body;
use tapedeck_model::{
    Anomalies, Connection, ConnectionId, Endpoint, Exchange, Field, Head, Ledger, Message, Missing,
    Origin, Protocol, Scope, Span, StartLine, Timestamp,
};

fn main() -> Result<(), Box<dyn Error>> {
    let n: u64 = match std::env::args().nth(1) {
        Some(n) => n.parse()?,
        None => 1_000_000,
    };
    let folder = tempfile::tempdir()?;
    for (name, image_every) in [("small exchanges", 0), ("with images", 20)] {
        let n = if image_every == 0 { n } else { n / 20 };
        println!("{name}: {n} exchanges");
        let path = folder.path().join(format!("{image_every}.tape"));
        let mut writer = Writer::create(&path, WriterOptions::new(Provenance::default()))?;
        let mut raw = Vec::new();
        let (mut raw_len, mut spent) = (0_u64, Duration::ZERO);
        let (mut zstd_len, mut zstd_spent) = (0_u64, Duration::ZERO);
        // In batches, so that generating them is not measured, and one zstd stream over all.
        let mut stream = zstd::stream::Encoder::new(Vec::new(), 3)?;
        for batch in 0..n.div_ceil(1000) {
            let exchanges: Vec<Exchange> = (batch * 1000..n.min(batch * 1000 + 1000))
                .map(|n| exchange(n, image_every))
                .collect();
            let start = Instant::now();
            for exchange in &exchanges {
                writer.exchange(exchange)?;
            }
            spent += start.elapsed();
            raw.clear();
            for message in exchanges
                .iter()
                .flat_map(|e| e.request.iter().chain(&e.response))
            {
                raw.extend_from_slice(message.head.as_ref().map_or(&[], |head| &head.raw));
                raw.extend_from_slice(&message.body.tail);
            }
            raw_len += raw.len() as u64;
            let start = Instant::now();
            std::io::Write::write_all(&mut stream, &raw)?;
            zstd_spent += start.elapsed();
            zstd_len += stream.get_ref().len() as u64;
            stream.get_mut().clear();
        }
        let start = Instant::now();
        let summary = writer.seal(&Ledger::default())?;
        let sealed = start.elapsed();
        zstd_len += stream.finish()?.len() as u64;
        let rate = |bytes: u64, time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
        println!(
            "  write {:.0} MB/s, {:.0} exchanges/s (zstd -3: {:.0} MB/s); seal {sealed:?}",
            rate(raw_len, spent),
            n as f64 / spent.as_secs_f64(),
            rate(raw_len, zstd_spent),
        );
        println!(
            "  size {} of {raw_len} raw ({:.1} bytes an exchange); zstd -3: {zstd_len}; not stored \
             again: {}",
            summary.file_len,
            summary.file_len as f64 / n as f64,
            summary.deduplicated_bytes,
        );
        read(&path, n)?;
    }
    Ok(())
}

fn read(path: &std::path::Path, n: u64) -> Result<(), Box<dyn Error>> {
    let opened = median(101, || Ok(Archive::open(path)?.len()))?;
    let archive = Archive::open(path)?;
    black_box(archive.damaged_rows());
    let start = Instant::now();
    let hits = archive
        .rows()
        .filter(|row| row.status() == Some(500))
        .count();
    let rows = start.elapsed();
    let start = Instant::now();
    let mut in_columns = 0;
    for page in archive.pages() {
        let words = page?.select(NumberColumn::Status, 500, 500);
        in_columns += words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum::<usize>();
    }
    let columns = start.elapsed();
    assert_eq!(hits, in_columns);
    println!("  open {opened:?}; {n} rows one by one {rows:?}, a column {columns:?} ({hits} hits)");
    let mut scratch = Scratch::new();
    let mut buffer = BodyBuffer::new();
    let mut times = Vec::new();
    for k in 0..2_000_u64 {
        let id = k.wrapping_mul(0x9e37_79b9_7f4a_7c15) % n;
        let start = Instant::now();
        let record = archive.load(id, &mut scratch)?;
        let message = record.response().ok_or("every request is answered")?;
        black_box(archive.body(&message.body(), &mut buffer)?.len());
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |share: usize| {
        times
            .get(times.len() * share / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "  random load with body: p50 {:?}, p99 {:?}",
        at(50),
        at(99)
    );
    let start = Instant::now();
    let mut total = 0;
    for id in 0..n {
        let record = archive.load(id, &mut scratch)?;
        total += record
            .request()
            .and_then(|m| m.head())
            .map_or(0, |head| head.raw().len());
    }
    let all = start.elapsed();
    println!(
        "  loads in order: {:.0} ns each ({total} bytes)",
        all.as_nanos() as f64 / n as f64
    );
    Ok(())
}

fn median(
    n: usize,
    mut run: impl FnMut() -> Result<u64, Box<dyn Error>>,
) -> Result<Duration, Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..n {
        let start = Instant::now();
        black_box(run()?);
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(n / 2).copied().unwrap_or_default())
}

/// Random enough, and the same every time.
fn random(n: u64) -> u64 {
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn exchange(n: u64, image_every: u64) -> Exchange {
    let dice = random(n);
    let at = 1_700_000_000_000_000_000 + n as i64 * 400_000 + (dice % 300_000) as i64;
    let user = dice % 5_000;
    let (line, status, body) = match dice % 10 {
        0..4 => (
            format!(
                "GET /reservations/available/seat?date=2026-11-{:02} HTTP/1.1",
                dice % 28 + 1
            ),
            "200 OK",
            format!(
                r#"{{"date":"2026-11-{:02}","seats":[{}]}}"#,
                dice % 28 + 1,
                (0..dice % 20)
                    .map(|s| (s * 7 + dice % 13).to_string())
                    .collect::<Vec<_>>()
                    .join(",")
            ),
        ),
        4..7 => (
            format!("GET /points/balance?user={user} HTTP/1.1"),
            "200 OK",
            format!(r#"{{"user":{user},"points":{}}}"#, dice % 100_000),
        ),
        7 | 8 => (
            "POST /reservations HTTP/1.1".to_owned(),
            "201 Created",
            format!(
                r#"{{"reservation_id":"{:032x}","expires_in":300}}"#,
                u128::from(dice) << 7
            ),
        ),
        _ => (
            "POST /reservations/pay HTTP/1.1".to_owned(),
            if dice % 70 == 9 {
                "500 Internal Server Error"
            } else {
                "200 OK"
            },
            format!(r#"{{"payment_id":{dice},"status":"PAID"}}"#),
        ),
    };
    let token = format!("Bearer {:016x}{:016x}", random(user), random(user + 1));
    let request = head(
        &line,
        &[
            ("host", "concert.example:8080"),
            ("user-agent", "python-httpx/0.28.1"),
            ("accept", "*/*"),
            ("accept-encoding", "gzip, deflate"),
            ("authorization", &token),
        ],
    );
    let is_image = image_every != 0 && n.is_multiple_of(image_every);
    let body = if is_image {
        // A third of the images were seen before.
        let seed = if dice.is_multiple_of(3) { dice % 7 } else { n };
        (0..8_000)
            .flat_map(|k| random(seed << 20 | k).to_le_bytes())
            .collect()
    } else {
        body.into_bytes()
    };
    let response = head(
        &format!("HTTP/1.1 {status}"),
        &[
            (
                "content-type",
                if is_image {
                    "image/jpeg"
                } else {
                    "application/json"
                },
            ),
            ("content-length", &body.len().to_string()),
            (
                "date",
                &format!(
                    "Fri, 21 Nov 2026 10:{:02}:{:02} GMT",
                    n / 150_000 % 60,
                    n / 2_500 % 60
                ),
            ),
            ("x-request-id", &format!("{:016x}", random(dice))),
        ],
    );
    let message = |head, body: Vec<u8>, first_byte, last_byte| Message {
        head: Some(head),
        body: Body {
            len: body.len() as u64,
            tail: body,
            ..Body::default()
        },
        trailers: None,
        first_byte: Timestamp::from_nanos(first_byte),
        last_byte: Timestamp::from_nanos(last_byte),
        missing: Missing::NONE,
        reset_code: None,
    };
    let answered = at + 500_000 + (random(dice) % 20_000_000) as i64;
    Exchange {
        key: n,
        connection: Arc::new(Connection {
            id: ConnectionId(user % 200),
            client: Endpoint::new(
                [10, 1, (user % 200) as u8, 7].into(),
                40_000 + (user % 200) as u16,
            ),
            server: Endpoint::new([10, 0, 0, 2].into(), 8080),
            scope: Scope(0),
            origin: Origin::Handshake,
            opened: Timestamp::from_nanos(1_700_000_000_000_000_000),
            tls: None,
            workloads: tapedeck_model::Workloads::default(),
        }),
        stream: n / 200,
        protocol: Protocol::Http11,
        request: Some(message(request, Vec::new(), at, at)),
        interim: Vec::new(),
        response: Some(message(response, body, answered, answered + 40_000)),
        request_absent: Missing::NONE,
        response_absent: Missing::NONE,
        tunnel: false,
        pushed: false,
        anomalies: Anomalies::default(),
    }
}

fn head(line: &str, fields: &[(&str, &str)]) -> Head {
    let span = |start: usize, len: usize| Span {
        start: start as u32,
        len: len as u32,
    };
    let first = line.find(' ').unwrap_or(0);
    let second = line.rfind(' ').unwrap_or(0);
    let start = if line.starts_with("HTTP/") {
        StartLine::Response {
            status: line
                .get(first + 1..first + 4)
                .and_then(|status| status.parse().ok()),
            reason: span(first + 5, line.len() - first - 5),
        }
    } else {
        StartLine::Request {
            method: Some(span(0, first)),
            target: Some(span(first + 1, second - first - 1)),
        }
    };
    let mut raw = format!("{line}\r\n").into_bytes();
    let fields = fields
        .iter()
        .map(|(name, value)| {
            let at = raw.len();
            raw.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            Field {
                name: span(at, name.len()),
                value: span(at + name.len() + 2, value.len()),
                ..Field::default()
            }
        })
        .collect();
    raw.extend_from_slice(b"\r\n");
    Head {
        raw,
        protocol: Protocol::Http11,
        start,
        fields,
    }
}
