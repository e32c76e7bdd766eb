//! Mocks on real sockets, with recordings from memory.

mod chaos;
mod http1;
mod http2;
mod upstream;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use tapedeck_archive::ReadError;

use super::answer::{Answer, InterimRecording, Recording, Timing};
use super::call::{Call, Headers};
use super::chaos::{Chaos, Plan};
use super::index::Builder;
use super::miss::Recordings;
use super::options::{Limits, Options, Skipped, StartError};
use super::responder::{Responder, Source};
use super::server::{Listener, RunningMock};

/// A request and its answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tape {
    method: &'static str,
    target: &'static str,
    content_type: Option<&'static str>,
    asked: &'static str,
    status: u16,
    fields: &'static [(&'static str, &'static str)],
    body: Vec<u8>,
    trailers: &'static [(&'static str, &'static str)],
    interim: &'static [u16],
    timing: Timing,
}

pub(crate) fn get(target: &'static str, body: &str) -> Tape {
    Tape {
        method: "GET",
        target,
        status: 200,
        fields: &[("Content-Type", "text/plain"), ("X-Case", "Kept")],
        body: body.as_bytes().to_vec(),
        ..Tape::default()
    }
}

fn post(target: &'static str, asked: &'static str, body: &str) -> Tape {
    Tape {
        method: "POST",
        asked,
        ..get(target, body)
    }
}

impl Tape {
    fn call(&self) -> Call<'_> {
        Call {
            method: self.method.as_bytes(),
            authority: None,
            target: self.target.as_bytes(),
            content_type: self.content_type.map(str::as_bytes),
            session: None,
            headers: Headers::None,
            body: self.asked.as_bytes(),
        }
    }
}

struct Tapes(Vec<Tape>);

impl Recordings for Tapes {
    fn with_line(&self, id: u32, read: &mut dyn FnMut(&Call<'_>)) {
        if let Some(tape) = self.0.get(id as usize) {
            read(&Call {
                body: b"",
                ..tape.call()
            });
        }
    }

    fn with_call(&self, id: u32, read: &mut dyn FnMut(&Call<'_>)) {
        read(&self.0[id as usize].call());
    }
}

impl Source for Tapes {
    fn plan(&self, chaos: Chaos) -> Result<Plan, ReadError> {
        // There is no archive that a filter could choose from.
        Plan::new(chaos, Instant::now(), |_| Ok(Vec::new()))
    }

    fn body_len(&self, id: u32) -> u64 {
        self.0[id as usize].body.len() as u64
    }

    fn answer(&self, id: u32) -> Option<Answer> {
        let tape = &self.0[id as usize];
        let pairs = |fields: &'static [(&str, &str)]| {
            fields
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
                .collect()
        };
        Answer::compose(&Recording {
            method: tape.method.as_bytes(),
            status: tape.status,
            reason: Some(b"Recorded"),
            fields: pairs(tape.fields),
            body: &tape.body,
            trailers: pairs(tape.trailers),
            interim: tape
                .interim
                .iter()
                .map(|status| InterimRecording {
                    status: *status,
                    ..InterimRecording::default()
                })
                .collect(),
            timing: tape.timing.clone(),
        })
    }
}

pub(crate) fn options() -> Options {
    Options {
        threads: NonZeroUsize::new(2),
        ..Options::default()
    }
}

pub(crate) fn start_with(tapes: Vec<Tape>, options: &Options) -> Result<RunningMock, StartError> {
    let listener = Listener::open(options.listen)?;
    let control = options.control.map(Listener::open).transpose()?;
    RunningMock::start(listener, control, responder(tapes, options), options)
}

fn responder(tapes: Vec<Tape>, options: &Options) -> Responder {
    let mut builder = Builder::new(options.rules.clone(), options.repeat, []);
    for (id, tape) in (0..).zip(&tapes) {
        builder.add(id, &tape.call());
    }
    let (index, count) = (builder.finish(|_| None), tapes.len());
    let (source, skipped) = (Box::new(Tapes(tapes)), Skipped::default());
    let responder = Responder::new(index, source, count, skipped, None, options);
    responder.set_chaos(options.chaos.clone()).unwrap();
    responder
}

fn start(tapes: Vec<Tape>) -> RunningMock {
    start_with(tapes, &options()).unwrap()
}

/// A client that sends bytes and reads bytes.
pub(crate) struct Raw {
    stream: TcpStream,
}

impl Raw {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self { stream }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Everything until the server closes.
    fn read_all(mut self) -> String {
        let mut all = Vec::new();
        self.stream.read_to_end(&mut all).unwrap();
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Reads until this has come.
    fn read_until(&mut self, end: &str) -> String {
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(end.as_bytes()) {
            let n = self.stream.read(&mut byte).unwrap();
            assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    fn end(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

/// Sends this, asks for the end, and gives all that came back.
pub(crate) fn talk(addr: SocketAddr, request: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::connect(addr);
    raw.send(request);
    raw.read_all()
}

#[test]
fn two_mocks_cannot_share_a_port() {
    let first = start(vec![get("/", "x")]);
    let second = start_with(
        vec![get("/", "y")],
        &Options {
            listen: first.addr(),
            ..options()
        },
    );
    let error = second.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on {}: another program listens there; choose another port, or 0 for a \
             free one",
            first.addr()
        )
    );
    let addr = first.addr();
    assert_eq!(first.stop().connections, 0);
    // The port is free again at once.
    let again = start_with(
        vec![get("/", "z")],
        &Options {
            listen: addr,
            ..options()
        },
    );
    assert!(again.is_ok());
}

#[test]
fn a_stopped_mock_closes_idle_connections_and_refuses_new_ones() {
    let mock = start(vec![get("/a", "x")]);
    let addr = mock.addr();
    let mut idle = Raw::connect(addr);
    idle.send("GET /a HTTP/1.1\r\n\r\n");
    idle.read_until("\r\n\r\nx");
    let stats = mock.stop();
    assert_eq!((stats.connections, stats.hits), (1, 1));
    assert_eq!(idle.read_all(), "");
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn answers_are_made_ready_ahead_as_far_as_there_is_room() {
    let tapes: Vec<_> = (0..400)
        .map(|n| {
            let target: &'static str = Box::leak(format!("/{n}").into_boxed_str());
            get(target, &"x".repeat(1000))
        })
        .collect();
    for (cache_bytes, all) in [(64 << 20, true), (128 << 10, false)] {
        let mock = start_with(
            tapes.clone(),
            &Options {
                limits: Limits {
                    cache_bytes,
                    ..Limits::default()
                },
                ..options()
            },
        )
        .unwrap();
        let enough = if all { 400 * 1000 } else { 50_000 };
        while mock.stats().cache_bytes < enough {
            std::thread::yield_now();
        }
        assert!(mock.stats().cache_bytes <= cache_bytes);
        let answer = talk(
            mock.addr(),
            "GET /399 HTTP/1.1\r\nConnection: close\r\n\r\n",
        );
        assert!(answer.starts_with("HTTP/1.1 200 "));
        assert!(mock.stop().cache_bytes <= cache_bytes);
    }
}

#[test]
fn so_many_reasons_of_failed_handshakes_are_told_apart() {
    let responder = responder(vec![get("/a", "x")], &options());
    for n in 0..100 {
        responder.tls_failed(&std::io::Error::other(format!("reason {n}")));
    }
    responder.tls_failed(&std::io::Error::other("reason 0"));
    let failures = responder.stats().tls_failures;
    assert_eq!(failures.len(), 33);
    assert_eq!(failures.values().sum::<u64>(), 101);
    assert_eq!(failures["other reasons"], 68);
    // A reason that is known is counted as such, however many there are.
    assert_eq!(failures["reason 0"], 2);
}

#[test]
fn tunnels_within_tunnels_end_somewhere() {
    let mock = start(vec![get("/a", "x")]);
    let mut raw = Raw::connect(mock.addr());
    for _ in 0..8 {
        raw.send("CONNECT shop.local:443 HTTP/1.1\r\nHost: shop.local:443\r\n\r\n");
        let answer = raw.read_until("\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(raw.read_all(), "");
    assert_eq!(mock.stop().refused, 1);
}
