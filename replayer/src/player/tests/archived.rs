//! From an archive on disk.

use std::sync::Arc;

use tapedeck_archive::{Archive, Provenance, Writer, WriterOptions};
use tapedeck_model::exchange::Body;
use tapedeck_model::{
    Anomalies, Connection, ConnectionId, Endpoint, Exchange, Field, Head, Ledger, Message, Missing,
    Origin, Protocol, Scope, Span, StartLine, Timestamp,
};

use super::server::{options, polite};
use crate::player::{LeftOut, Options, Report, StopFlag, run};

fn span(raw: &[u8], part: &[u8]) -> Span {
    let start = super::server::find(raw, part).unwrap();
    Span {
        start: u32::try_from(start).unwrap(),
        len: u32::try_from(part.len()).unwrap(),
    }
}

/// A head from its bytes: HTTP/1 with a start line, whose fields are read line by line.
fn head(raw: &[u8], start: StartLine) -> Head {
    let fields = raw
        .split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some(Field {
                name: span(raw, &line[..colon]),
                value: span(raw, line[colon + 1..].trim_ascii()),
                ..Field::default()
            })
        })
        .collect();
    Head {
        raw: raw.to_vec(),
        protocol: Protocol::Http11,
        start,
        fields,
    }
}

fn message(head: Head, body: &[u8], at: i64) -> Message {
    Message {
        head: Some(head),
        body: Body {
            len: body.len() as u64,
            tail: body.to_vec(),
            ..Body::default()
        },
        trailers: None,
        first_byte: Timestamp::from_nanos(at),
        last_byte: Timestamp::from_nanos(at + 1000),
        missing: Missing::NONE,
        reset_code: None,
    }
}

fn exchange(n: u64, request: &str, body: &[u8]) -> Exchange {
    let endpoint = |port| Endpoint::new("10.0.0.1".parse().unwrap(), port);
    let at = 1_700_000_000_000_000_000 + i64::try_from(n).unwrap() * 2_000_000;
    let mut words = request.split(' ');
    let mut word = || span(request.as_bytes(), words.next().unwrap().as_bytes());
    let start = StartLine::Request {
        method: Some(word()),
        target: Some(word()),
    };
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    let status = StartLine::Response {
        status: Some(200),
        reason: span(answer, b"OK"),
    };
    Exchange {
        key: n,
        connection: Arc::new(Connection {
            id: ConnectionId(n % 3),
            client: endpoint(40_000 + u16::try_from(n % 3).unwrap()),
            server: endpoint(80),
            scope: Scope(0),
            origin: Origin::Handshake,
            opened: Timestamp::from_nanos(at),
            tls: None,
            workloads: tapedeck_model::Workloads::default(),
        }),
        stream: n,
        protocol: Protocol::Http11,
        request: Some(message(head(request.as_bytes(), start), body, at)),
        interim: Vec::new(),
        response: Some(message(head(answer, status), b"ok", at + 5000)),
        request_absent: Missing::NONE,
        response_absent: Missing::NONE,
        tunnel: false,
        pushed: false,
        anomalies: Anomalies::default(),
    }
}

fn play(exchanges: impl Iterator<Item = Exchange>, address: std::net::SocketAddr) -> Report {
    play_with(exchanges, &options(address))
}

fn play_with(exchanges: impl Iterator<Item = Exchange>, options: &Options) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.tape");
    let provenance = Provenance {
        source: "test".to_owned(),
        host: "test".to_owned(),
        software: "test".to_owned(),
        capture_filter: String::new(),
        created: Timestamp::EPOCH,
        extra: Default::default(),
    };
    let mut writer = Writer::create(&path, WriterOptions::new(provenance)).unwrap();
    for exchange in exchanges {
        writer.exchange(&exchange).unwrap();
    }
    writer.seal(&Ledger::default()).unwrap();
    let archive = Arc::new(Archive::open(&path).unwrap());
    let seen = std::cell::Cell::new(0);
    let report = run(archive, options, &StopFlag::new(), |progress| {
        seen.set(progress.answered);
    });
    let report = report.unwrap();
    assert_eq!(seen.get(), report.tally.answered(), "the last progress");
    report
}

#[test]
fn an_archive_is_played_byte_for_byte() {
    let (address, log) = polite();
    let calls: Vec<(String, Vec<u8>)> = (0..60_u8)
        .map(|n| {
            let body = vec![n; usize::from(n) * 700];
            let head = format!(
                "PUT /{n}?q HTTP/1.1\r\nHost: {address}\r\nX-dup: {n}\r\nx-Dup:\t{n}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            (head, body)
        })
        .collect();
    let report = play(
        (0..)
            .zip(&calls)
            .map(|(n, (head, body))| exchange(n, head, body)),
        address,
    );
    assert_eq!(report.tally.answered(), 60, "{report}");
    assert_eq!(report.tally.comparison.same, 60);
    let mut seen: Vec<_> = log.seen().into_iter().map(|seen| seen.bytes).collect();
    let mut expect: Vec<_> = calls
        .iter()
        .map(|(head, body)| [head.as_bytes(), body].concat())
        .collect();
    seen.sort_unstable();
    expect.sort_unstable();
    assert!(seen == expect, "the bytes differ");
}

#[test]
fn incomplete_exchanges_of_an_archive_are_left_out() {
    let (address, log) = polite();
    let whole = |n| exchange(n, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"");
    let mut exchanges: Vec<_> = (0..5).map(whole).collect();
    if let Some(request) = &mut exchanges[1].request {
        request.missing = Missing::LOST;
    }
    exchanges[2].request = None;
    exchanges[2].request_absent = Missing::PREDATES_CAPTURE;
    exchanges[3].tunnel = true;
    // An answer that was not seen does not keep a request from being sent.
    exchanges[4].response = None;
    let report = play(exchanges.into_iter(), address);
    assert_eq!(log.seen().len(), 2);
    assert_eq!(report.recorded, 5);
    for reason in [LeftOut::Incomplete, LeftOut::NoRequest, LeftOut::Tunnel] {
        assert_eq!(report.left_out.of(reason), 1, "{reason}");
    }
    assert_eq!(report.tally.comparison.unknown, 1);
}

#[test]
fn incomplete_requests_are_sent_as_far_as_they_were_recorded_where_that_is_asked() {
    let (address, log) = polite();
    let put = "PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n";
    let mut exchanges: Vec<_> = (0..3).map(|n| exchange(n, put, b"only")).collect();
    if let Some(request) = &mut exchanges[0].request {
        request.missing = Missing::LOST;
    }
    // Of these there is nothing that could be sent, or nobody's client sent it.
    exchanges[1].request = None;
    exchanges[1].request_absent = Missing::PREDATES_CAPTURE;
    exchanges[2].tunnel = true;
    let mut options = options(address);
    options.include_incomplete = true;
    let report = play_with(exchanges.into_iter(), &options);
    assert_eq!((report.tally.answered(), report.left_out.total()), (1, 2));
    let seen = log.seen();
    let text = seen[0].text();
    // The length is that of what is there: else the target would wait for the rest.
    assert!(
        text.contains("Content-Length: 4\r\n") && text.ends_with("\r\nonly"),
        "{text}"
    );
}
