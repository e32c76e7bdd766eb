//! HTTP/1: small JSON calls, and large bodies.

use std::io::Write;

use anyhow::Result;
use tapedeck_testkit::Rng;

use crate::text;
use crate::wire::{Capture, Connection, Side};

/// Connections that are open at once.
const OPEN: usize = 64;
/// The size of a large body.
const LARGE: usize = 1 << 20;

/// A connection of the crowd, and what happens next on it.
struct Caller {
    connection: Connection,
    calls_left: usize,
    next: Next,
}

#[derive(Clone, Copy)]
enum Next {
    Request,
    Response,
    Acknowledgment,
}

/// Small calls on many interleaved connections of some dozen calls each. Every call has its own
/// id, token and query, and so has every answer.
pub(crate) fn small(mut capture: Capture<impl Write>) -> Result<()> {
    let mut rng = Rng::new(1);
    let mut callers = Vec::new();
    for _ in 0..OPEN {
        callers.push(Caller::connect(&mut capture, &mut rng)?);
    }
    while !capture.is_full() {
        let n = rng.below(callers.len());
        let caller = &mut callers[n];
        capture.wait(10_000);
        match caller.next {
            Next::Request => {
                let request = request(&mut rng);
                capture.send(&mut caller.connection, Side::Client, &request)?;
                caller.next = Next::Response;
            }
            Next::Response => {
                let response = response(&mut rng);
                capture.send(&mut caller.connection, Side::Server, &response)?;
                caller.next = Next::Acknowledgment;
            }
            Next::Acknowledgment => {
                capture.acknowledge(&mut caller.connection, Side::Client)?;
                caller.calls_left -= 1;
                caller.next = Next::Request;
            }
        }
        if caller.calls_left == 0 {
            let new = Caller::connect(&mut capture, &mut rng)?;
            let old = std::mem::replace(&mut callers[n], new);
            capture.close(old.connection)?;
        }
    }
    Ok(capture.finish()?)
}

impl Caller {
    fn connect(capture: &mut Capture<impl Write>, rng: &mut Rng) -> Result<Self> {
        Ok(Self {
            connection: capture.connect()?,
            calls_left: 20 + rng.below(100),
            next: Next::Request,
        })
    }
}

fn request(rng: &mut Rng) -> Vec<u8> {
    let fields = format!(
        "Host: tickets.example\r\nUser-Agent: crowd/2.4 (x86_64; linux)\r\nAccept: application/json\r\n\
         Accept-Encoding: identity\r\nAuthorization: Bearer {}\r\nX-Request-Id: {}\r\n",
        text::token(rng, 64),
        text::uuid(rng),
    );
    if rng.chance(60) {
        return format!(
            "GET /api/v1/bookings/{}?q={}+{}&page={}&session={} HTTP/1.1\r\n{fields}\r\n",
            rng.below(10_000_000),
            text::word(rng),
            text::word(rng),
            rng.below(40),
            text::token(rng, 16),
        )
        .into_bytes();
    }
    let mut body = String::new();
    text::booking(rng, &mut body);
    format!(
        "POST /api/v1/bookings?session={} HTTP/1.1\r\n{fields}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        text::token(rng, 16),
        body.len(),
    )
    .into_bytes()
}

fn response(rng: &mut Rng) -> Vec<u8> {
    let mut body = String::new();
    text::booking(rng, &mut body);
    format!(
        "HTTP/1.1 200 OK\r\nServer: tickets/1.9\r\nDate: Tue, 14 Nov 2023 22:{:02}:{:02} GMT\r\n\
         Content-Type: application/json; charset=utf-8\r\nCache-Control: no-store\r\n\
         X-Trace-Id: {}\r\nContent-Length: {}\r\n\r\n{body}",
        rng.below(60),
        rng.below(60),
        text::token(rng, 22),
        body.len(),
    )
    .into_bytes()
}

/// Downloads of 1 MiB over eight interleaved connections: half of them text, half of them what
/// images and archives look like to a compressor. No two are equal.
pub(crate) fn large(mut capture: Capture<impl Write>) -> Result<()> {
    /// What a connection sends before another one has its turn.
    const TURN: usize = 64 << 10;
    let mut rng = Rng::new(2);
    let mut downloads = Vec::new();
    for _ in 0..8 {
        downloads.push((capture.connect()?, Vec::new(), 0));
    }
    while !capture.is_full() {
        let n = rng.below(downloads.len());
        let (connection, response, sent) = &mut downloads[n];
        if *sent == response.len() {
            capture.wait(1_000_000);
            capture.send(connection, Side::Client, &request(&mut rng))?;
            *response = download(&mut rng);
            *sent = 0;
        }
        let turn = &response[*sent..response.len().min(*sent + TURN)];
        capture.send(connection, Side::Server, turn)?;
        *sent += turn.len();
    }
    Ok(capture.finish()?)
}

fn download(rng: &mut Rng) -> Vec<u8> {
    let (kind, body) = if rng.chance(50) {
        let mut body = text::bookings(rng, LARGE);
        body.truncate(LARGE);
        ("application/json", body.into_bytes())
    } else {
        let words = (0..LARGE / 8).flat_map(|_| rng.next_u64().to_le_bytes());
        ("image/webp", words.collect())
    };
    let mut response = format!(
        "HTTP/1.1 200 OK\r\nServer: tickets/1.9\r\nContent-Type: {kind}\r\nETag: \"{}\"\r\n\
         Content-Length: {}\r\n\r\n",
        text::token(rng, 22),
        body.len()
    )
    .into_bytes();
    response.extend(body);
    response
}
