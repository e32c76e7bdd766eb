//! Targets that speak HTTP/2, well and badly.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::recording::{Call, call, play};
use super::server::serve;
use crate::player::{Failure, Options, Speed};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// What a busy machine never reaches.
const LONG: Duration = Duration::from_secs(20);

fn h2c(address: SocketAddr) -> Options {
    Options {
        timeout: LONG,
        ..Options::new(format!("h2c://{address}").parse().unwrap())
    }
}

fn calls(n: u64) -> Vec<Call> {
    (0..n)
        .map(|n| call(n, 1, &format!("GET /{n}")).http2(&[]))
        .collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A server side that reads frames as they come and does not think.
struct Raw(TcpStream);

impl Raw {
    /// Reads the preface, and greets.
    fn greet(mut stream: TcpStream, settings: &[u8]) -> Option<Self> {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).ok()?;
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut raw = Self(stream);
        raw.say(&frame(SETTINGS, 0, 0, settings));
        Some(raw)
    }

    fn say(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// The next frame: kind, stream, payload.
    fn frame(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let [l0, l1, l2, kind, _, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((kind, u32::from_be_bytes(stream), payload))
    }

    /// The next of that kind; others are passed over.
    fn next(&mut self, wanted: u8) -> Option<(u32, Vec<u8>)> {
        loop {
            let (kind, stream, payload) = self.frame()?;
            if kind == wanted {
                return Some((stream, payload));
            }
        }
    }

    /// Closes, and reads what still comes: a socket that is dropped with bytes unread (the
    /// acknowledgment of the settings, say) resets the connection.
    fn close(mut self) {
        let _gone = self.0.shutdown(Shutdown::Write).is_err();
        let _reset = std::io::copy(&mut self.0, &mut std::io::sink()).is_err();
    }

    fn ok(&mut self, stream: u32) -> bool {
        self.say(&frame(HEADERS, 5, stream, &[0x88]))
    }
}

/// What a target does with a request, how that is called, and what is said of it.
type WayToFail = (&'static str, fn(Raw, u32), Failure, &'static str);

const WAYS_TO_FAIL: [WayToFail; 10] = [
    (
        "a reset stream",
        |mut raw, stream| {
            raw.say(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 2]));
            raw.frame();
        },
        Failure::Reset,
        "INTERNAL_ERROR",
    ),
    (
        "a reset connection",
        |raw, _| {
            let socket = socket2::SockRef::from(&raw.0);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        },
        Failure::Reset,
        "reset",
    ),
    (
        "a close",
        |raw, _| raw.close(),
        Failure::ClosedEarly,
        "closed",
    ),
    (
        "a close within a frame",
        |mut raw, stream| {
            let head = frame(HEADERS, 5, stream, &[0x88]);
            raw.say(&head[..head.len() - 1]);
            raw.close();
        },
        Failure::ClosedEarly,
        "closed",
    ),
    (
        "a close within the body",
        |mut raw, stream| {
            raw.say(&frame(HEADERS, 4, stream, &[0x88]));
            raw.say(&frame(DATA, 0, stream, b"only this"));
            raw.close();
        },
        Failure::ClosedEarly,
        "closed",
    ),
    (
        "goaway",
        |mut raw, _| {
            raw.say(&frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]));
            raw.frame();
        },
        Failure::Reset,
        "ENHANCE_YOUR_CALM",
    ),
    (
        "garbage",
        |mut raw, _| {
            raw.say(&[0xff; 100]);
            raw.frame();
        },
        Failure::Protocol,
        "FRAME_SIZE_ERROR",
    ),
    (
        "fields that are none",
        |mut raw, stream| {
            raw.say(&frame(HEADERS, 5, stream, &[0x80]));
            raw.frame();
        },
        Failure::Protocol,
        "COMPRESSION_ERROR",
    ),
    (
        "an endless head",
        |mut raw, stream| {
            raw.say(&frame(HEADERS, 0, stream, &[0x88]));
            while raw.say(&frame(9, 0, stream, &[0; 16384])) {}
        },
        Failure::Protocol,
        "256 KiB",
    ),
    (
        "a stall",
        |mut raw, stream| {
            raw.say(&frame(HEADERS, 4, stream, &[0x88]));
            while raw.frame().is_some() {}
        },
        Failure::TimedOut,
        "",
    ),
];

#[test]
fn every_way_to_fail_over_http2_has_a_name() {
    let run = |fail: fn(Raw, u32), stalls| {
        let (address, _log) = serve(move |peer| {
            let Some(mut raw) = Raw::greet(peer.stream, &[]) else {
                return;
            };
            if let Some((stream, _)) = raw.next(HEADERS) {
                fail(raw, stream);
            }
        });
        let options = Options {
            timeout: if stalls { Duration::from_secs(3) } else { LONG },
            ..h2c(address)
        };
        play(calls(1), &options)
    };
    for (what, fail, failure, cause) in WAYS_TO_FAIL {
        let report = run(fail, failure == Failure::TimedOut);
        assert_eq!(report.tally.failures.of(failure), 1, "{what}: {report}");
        assert_eq!(report.failed(), 1, "{what}");
        let said = report.tally.first_causes.get(failure.name());
        assert!(
            said.map_or("", |said| said).contains(cause),
            "{what}: {said:?}"
        );
    }
}

#[test]
fn a_target_that_speaks_http1_is_said_to() {
    let (address, _log) = serve(|mut peer| {
        peer.head();
        peer.answer(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        peer.wait_for(usize::MAX);
    });
    let report = play(calls(1), &h2c(address));
    assert_eq!(report.tally.failures.of(Failure::Protocol), 1, "{report}");
    assert!(report.tally.first_causes["protocol_error"].contains("http://"));
}

#[test]
fn a_refused_stream_is_sent_again_but_only_once() {
    let run = |refusals: usize| {
        let refused = Arc::new(AtomicUsize::new(0));
        let (address, _log) = serve(move |peer| {
            let mut raw = Raw::greet(peer.stream, &[]).unwrap();
            let mut first = true;
            while let Some((stream, _)) = raw.next(HEADERS) {
                // The connection stood before the request that is refused.
                if !std::mem::take(&mut first) && refused.fetch_add(1, Ordering::Relaxed) < refusals
                {
                    raw.say(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 7]));
                } else {
                    raw.ok(stream);
                }
            }
        });
        let calls = [0, 50].map(|at| call(at, 1, "POST /").http2(&[]));
        play(calls.to_vec(), &h2c(address))
    };
    let once = run(1);
    assert_eq!((once.tally.answered(), once.tally.resent), (2, 1), "{once}");
    let twice = run(2);
    assert_eq!(
        (twice.tally.answered(), twice.tally.resent),
        (1, 1),
        "{twice}"
    );
    assert!(twice.tally.first_causes["reset"].contains("REFUSED_STREAM"));
}

#[test]
fn the_streams_that_a_target_allows_are_never_exceeded() {
    // MAX_CONCURRENT_STREAMS: 3. Streams are answered only when so many are open, or nothing more can come.
    const ALLOWED: usize = 3;
    const REQUESTS: usize = 30;
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let (address, _log) = serve(move |peer| {
        let mut raw = Raw::greet(peer.stream, &[0, 3, 0, 0, 0, ALLOWED as u8]).unwrap();
        // Requests that came before the settings were read may be more.
        let mut open = BTreeSet::new();
        let mut answered = 0;
        while let Some((stream, _)) = raw.next(HEADERS) {
            open.insert(stream);
            seen.fetch_max(open.len(), Ordering::Relaxed);
            if open.len() == ALLOWED || answered + open.len() == REQUESTS {
                answered += open.len();
                for stream in std::mem::take(&mut open) {
                    raw.ok(stream);
                }
            }
        }
    });
    // The first waits for the settings alone.
    let mut calls = calls(REQUESTS as u64);
    for call in &mut calls[ALLOWED..] {
        call.at += Duration::from_millis(100);
    }
    let report = play(calls, &h2c(address));
    assert_eq!(report.tally.answered(), REQUESTS as u64, "{report}");
    assert_eq!(report.tally.connections, 1);
    assert_eq!(most.load(Ordering::Relaxed), ALLOWED);
}

#[test]
fn a_request_that_times_out_takes_its_stream_with_it_and_no_other() {
    let resets = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&resets);
    let (address, log) = serve(move |peer| {
        let mut raw = Raw::greet(peer.stream, &[]).unwrap();
        while let Some((kind, stream, payload)) = raw.frame() {
            match kind {
                // The first is never answered.
                HEADERS if stream > 1 => drop(raw.ok(stream)),
                RST_STREAM => seen.lock().unwrap().push((stream, payload)),
                _ => {}
            }
        }
    });
    let calls = [0, 100, 600].map(|at| call(at, 1, "GET /").http2(&[]));
    let options = Options {
        timeout: Duration::from_millis(300),
        ..h2c(address)
    };
    let report = play(calls.to_vec(), &options);
    assert_eq!(report.tally.answered(), 2, "{report}");
    assert_eq!(report.tally.failures.of(Failure::TimedOut), 1);
    assert_eq!(log.connections(), 1);
    assert_eq!(*resets.lock().unwrap(), [(1, vec![0, 0, 0, 8])]);
}

#[test]
fn a_long_answer_over_http2_passes_through_within_its_windows() {
    const LEN: usize = 64 << 20;
    let (address, _log) = serve(|peer| {
        let mut raw = Raw::greet(peer.stream, &[]).unwrap();
        let mut windows = [0_i64, 65_535];
        let piece = frame(DATA, 0, 1, &[0; 16384]);
        let mut sent = 0;
        let mut begun = false;
        while sent < LEN {
            if begun && windows.iter().all(|window| *window >= 16384) {
                assert!(raw.say(&piece));
                windows = windows.map(|window| window - 16384);
                sent += 16384;
                continue;
            }
            match raw.frame().unwrap() {
                (WINDOW_UPDATE, stream, more) => {
                    let more = u32::from_be_bytes(more.try_into().unwrap());
                    windows[usize::from(stream == 0)] += i64::from(more);
                }
                // SETTINGS_INITIAL_WINDOW_SIZE is the second of two.
                (SETTINGS, _, settings) if settings.len() == 12 => {
                    windows[0] = u32::from_be_bytes(settings[8..].try_into().unwrap()).into();
                }
                (HEADERS, ..) => {
                    begun = raw.say(&frame(HEADERS, 4, 1, &[0x88]));
                }
                _ => {}
            }
        }
        raw.say(&frame(DATA, 1, 1, &[]));
        while raw.frame().is_some() {}
    });
    let report = play(calls(1), &h2c(address));
    assert_eq!(report.tally.answered(), 1, "{report}");
    assert!(report.tally.bytes_received > LEN as u64);
}

#[test]
fn at_full_speed_lost_connections_do_not_end_the_run() {
    let (address, _log) = serve(|peer| {
        let mut raw = Raw::greet(peer.stream, &[]).unwrap();
        for n in 0.. {
            let Some((stream, _)) = raw.next(HEADERS) else {
                return;
            };
            if n == 9 {
                // The connection ends, and with it whatever was on it.
                return;
            }
            raw.ok(stream);
        }
    });
    let report = play(
        calls(300),
        &Options {
            speed: Speed::Max,
            connections: NonZeroU32::new(2),
            streams: NonZeroU32::new(2).unwrap(),
            ..h2c(address)
        },
    );
    // Everything is sent, or could not be because its connection ended just before.
    assert_eq!(
        report.tally.sent() + report.tally.never_sent.total(),
        300,
        "{report}"
    );
    assert!(report.tally.failures.total() >= 20, "{report}");
    assert!(report.tally.answered() >= 200, "{report}");
}

#[test]
fn a_call_that_is_answered_by_a_page_has_failed() {
    // ":status: 200", "content-type: ..."; the page may even claim that all is well.
    let answer = |kind: &str| {
        let mut head = vec![0x88, 0x0f, 0x10, kind.len() as u8];
        head.extend_from_slice(kind.as_bytes());
        head.extend_from_slice(b"\x00\x0bgrpc-status\x010");
        head
    };
    let page = |kind: &'static str| {
        let (address, _log) = serve(move |peer| {
            let mut raw = Raw::greet(peer.stream, &[]).unwrap();
            while let Some((stream, _)) = raw.next(HEADERS) {
                raw.say(&frame(HEADERS, 5, stream, &answer(kind)));
            }
        });
        h2c(address)
    };
    let http1 = || {
        let (address, _log) = super::server::polite();
        Options::new(format!("http://{address}").parse().unwrap())
    };
    let call_of = |kind: &str| call(0, 1, "POST /shop.Carts/Add").http2(&[("content-type", kind)]);
    let grpc = "application/grpc+proto";
    for (asked, options, failed) in [
        (grpc, page("text/html"), (1, 1)),
        (grpc, page(grpc), (0, 1)),
        (grpc, http1(), (1, 1)),
        ("application/json", page("text/html"), (0, 0)),
        // What is sent decides, and not what was recorded.
        (
            "application/json",
            Options {
                headers: vec![("Content-Type".to_owned(), grpc.to_owned())],
                ..page("text/html")
            },
            (1, 1),
        ),
    ] {
        let report = play(vec![call_of(asked)], &options);
        assert_eq!(report.tally.answered(), 1, "{report}");
        assert_eq!(report.tally.grpc_failed(), failed, "{asked}: {report}");
    }
}
