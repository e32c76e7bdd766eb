//! Faults as clients meet them.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use super::super::chaos::{Chaos, Injected};
use super::http2::{ask, request, with_client};
use super::*;

const BODY: &str = "0123456789";

fn chaotic(text: &str, tapes: Vec<Tape>) -> RunningMock {
    let options = Options {
        chaos: Some(Chaos::parse(text).unwrap()),
        ..options()
    };
    start_with(tapes, &options).unwrap()
}

fn one(fault: &str) -> RunningMock {
    let text = format!("faults: [{{name: x, {fault}}}]");
    let with_trailers = Tape {
        trailers: &[("X-Sum", "45")],
        ..get("/t", BODY)
    };
    let with_length = Tape {
        fields: &[("Content-Length", "10")],
        ..get("/a", BODY)
    };
    chaotic(&text, vec![with_length, with_trailers])
}

/// All that comes, and how it ended.
fn outcome(mock: &RunningMock, target: &str) -> (String, Option<ErrorKind>) {
    let mut raw = Raw::connect(mock.addr());
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    // A connection that was reset may say so here already.
    let sent = raw.stream.write_all(request.as_bytes());
    if let Err(error) = sent {
        return (String::new(), Some(error.kind()));
    }
    let (mut all, mut end) = (Vec::new(), None);
    let mut part = [0; 512];
    loop {
        match raw.stream.read(&mut part) {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(&part[..n]),
            Err(error) => {
                end = Some(error.kind());
                break;
            }
        }
    }
    (String::from_utf8_lossy(&all).into_owned(), end)
}

const RESET: Option<ErrorKind> = Some(ErrorKind::ConnectionReset);

#[test]
fn http1_answers_are_reset_where_asked() {
    assert_eq!(outcome(&one("reset: {}"), "/a"), (String::new(), RESET));
    let (said, end) = outcome(&one("reset: {at: in-head}"), "/a");
    assert!(
        said.starts_with("HTTP/1.1 200 ") && !said.contains("\r\n\r\n"),
        "{said}"
    );
    assert_eq!(end, RESET);
    let (said, end) = outcome(&one("reset: {at: after-head}"), "/a");
    assert!(said.ends_with("\r\n\r\n"), "{said}");
    assert_eq!(end, RESET);
    let (said, end) = outcome(&one("reset: {at: body, bytes: 4}"), "/a");
    assert!(said.ends_with("\r\n\r\n0123"), "{said}");
    assert_eq!(end, RESET);
    assert_eq!(outcome(&one("refuse: true"), "/a").1, RESET);
}

#[test]
fn http1_answers_are_cut_and_framed_wrongly() {
    let (said, end) = outcome(&one("truncate: {bytes: 3}"), "/a");
    assert!(
        said.contains("Content-Length: 10\r\n") && said.ends_with("\r\n\r\n012"),
        "{said}"
    );
    assert_eq!(end, None);
    let (said, _) = outcome(&one("truncate: {bytes: 300}"), "/a");
    assert!(said.ends_with("\r\n\r\n012345678"), "{said}");
    let (said, _) = outcome(&one("length: 5"), "/a");
    assert!(
        said.contains("Content-Length: 15\r\n") && said.ends_with(BODY),
        "{said}"
    );
    let (said, _) = outcome(&one("length: -20"), "/a");
    assert!(
        said.contains("Content-Length: 0\r\n") && said.ends_with(BODY),
        "{said}"
    );
    let (said, _) = outcome(&one("malformedChunk: true"), "/a");
    assert!(
        said.contains("Transfer-Encoding: chunked\r\n\r\nno number\r\n"),
        "{said}"
    );
    assert!(!said.contains("Content-Length"), "{said}");
    assert!(
        outcome(&one("probability: 0, length: 5"), "/t")
            .0
            .contains("X-Sum: 45\r\n")
    );
    let (said, end) = outcome(&one("missingTrailers: true"), "/t");
    assert!(
        said.ends_with("0\r\n\r\n") && !said.contains("X-Sum: 45"),
        "{said}"
    );
    assert_eq!(end, None);
    assert_eq!(outcome(&one("goaway: {}"), "/a"), (String::new(), None));
}

#[test]
fn other_answers_take_the_place_of_the_recorded() {
    let mock = one("answer: {status: 503, body: '{\"busy\":1}', contentType: application/json}");
    let (said, _) = outcome(&mock, "/a");
    assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
    assert!(
        said.contains("application/json") && said.ends_with("{\"busy\":1}"),
        "{said}"
    );
    let mock = one("grpc: {status: 14, message: 'try 100% später'}");
    let got = with_client(&mock, |client| async move {
        ask(&client, request("GET", "/a"), None).await.unwrap()
    });
    let field = |name: &str| got.head.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(got.head.status(), 200);
    assert_eq!(field("grpc-status"), "14");
    assert_eq!(field("grpc-message"), "try 100%25 sp%C3%A4ter");
    assert!(got.body.is_empty());
}

#[test]
fn what_is_slow_takes_its_time_and_arrives_whole() {
    let begun = Instant::now();
    let (said, _) = outcome(&one("latency: {fixed: 150ms}"), "/a");
    assert!(said.ends_with(BODY));
    assert!(begun.elapsed() >= Duration::from_millis(150));

    // Head and body have 74 bytes: seven pauses.
    let begun = Instant::now();
    let (said, _) = outcome(&one("drip: {bytes: 10, every: 10ms}"), "/a");
    assert!(said.ends_with(BODY));
    assert!(begun.elapsed() >= Duration::from_millis(70));

    let begun = Instant::now();
    let (said, _) = outcome(&one("stall: {at: body, bytes: 5, for: 120ms}"), "/a");
    assert!(said.ends_with(BODY));
    assert!(begun.elapsed() >= Duration::from_millis(120));

    let begun = Instant::now();
    let got = with_client(&one("drip: {bytes: 1, every: 10ms}"), |client| async move {
        ask(&client, request("GET", "/a"), None).await.unwrap()
    });
    assert_eq!(got.body, BODY.as_bytes());
    assert!(begun.elapsed() >= Duration::from_millis(90));
}

#[test]
fn a_stall_without_an_end_lasts_until_the_client_goes() {
    let mock = one("stall: {at: after-head}");
    let mut raw = Raw::connect(mock.addr());
    raw.send("GET /a HTTP/1.1\r\n\r\n");
    assert!(raw.read_until("\r\n\r\n").starts_with("HTTP/1.1 200 "));
    raw.stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let silent = raw.stream.read(&mut [0; 9]).unwrap_err().kind();
    assert_eq!(silent, ErrorKind::WouldBlock);
    // The mock notices that the client is gone: it ends its side.
    raw.end();
    raw.stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!(raw.stream.read(&mut [0; 9]).unwrap(), 0);
}

#[test]
fn http2_streams_and_connections_end_as_asked() {
    let error_of = |fault: &str, target: &'static str| {
        with_client(&one(fault), |client| async move {
            ask(&client, request("GET", target), None).await.err()
        })
    };
    let reset = error_of("reset: {code: 7}", "/a").unwrap();
    assert!(
        reset.is_reset() && reset.reason() == Some(h2::Reason::REFUSED_STREAM),
        "{reset}"
    );
    let reset = error_of("reset: {at: body, bytes: 4, code: 2}", "/a").unwrap();
    assert!(
        reset.is_reset() && reset.reason() == Some(h2::Reason::INTERNAL_ERROR),
        "{reset}"
    );
    let reset = error_of("malformedChunk: true", "/a").unwrap();
    assert_eq!(reset.reason(), Some(h2::Reason::PROTOCOL_ERROR));
    // What is cut or has the wrong length does not match the content length: the client objects.
    for fault in ["truncate: {bytes: 3}", "length: 1", "length: -1"] {
        let error = error_of(fault, "/a").unwrap();
        assert_eq!(error.reason(), Some(h2::Reason::PROTOCOL_ERROR), "{fault}");
    }

    let got = with_client(&one("missingTrailers: true"), |client| async move {
        ask(&client, request("GET", "/t"), None).await.unwrap()
    });
    assert_eq!((got.body.as_slice(), got.trailers), (BODY.as_bytes(), None));
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// The head and the payload of the next frame.
fn frame(raw: &mut Raw) -> ([u8; 9], Vec<u8>) {
    let mut head = [0; 9];
    raw.stream.read_exact(&mut head).unwrap();
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    raw.stream.read_exact(&mut payload).unwrap();
    (head, payload)
}

#[test]
fn goaway_takes_the_place_of_an_answer() {
    let mock = one("goaway: {code: 11}");
    let mut raw = Raw::connect(mock.addr());
    raw.send(PREFACE);
    // GET http /a on stream 1: indexed fields, and a literal path.
    raw.send(b"\x00\x00\x06\x01\x05\x00\x00\x00\x01\x82\x86\x04\x02/a");
    let goaway = loop {
        let (head, payload) = frame(&mut raw);
        assert!(
            ![0, 1, 3].contains(&head[3]),
            "a frame of the stream: {head:?}"
        );
        if head[3] == 7 {
            break payload;
        }
    };
    assert_eq!(goaway[4..8], [0, 0, 0, 11]);
    assert_eq!(raw.stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_storm_of_settings_is_acknowledged_frame_by_frame() {
    let mock = one("settingsStorm: 25");
    let mut raw = Raw::connect(mock.addr());
    raw.send(PREFACE);
    let mut settings = 0;
    while settings < 26 {
        let (head, _) = frame(&mut raw);
        if head[3] == 4 && head[4] == 0 {
            settings += 1;
            raw.send(b"\x00\x00\x00\x04\x01\x00\x00\x00\x00");
        }
    }
}

#[test]
fn without_a_window_no_request_body_can_be_sent() {
    let mock = one("windowStall: true");
    let mut raw = Raw::connect(mock.addr());
    raw.send(PREFACE);
    let (head, payload) = frame(&mut raw);
    assert_eq!(head[3], 4);
    // SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 section 6.5.2).
    assert!(
        payload
            .chunks(6)
            .any(|setting| setting == [0, 4, 0, 0, 0, 0]),
        "{payload:?}"
    );
}

#[test]
fn the_same_seed_strikes_the_same_requests_in_any_order() {
    let run = |seed: u32, order: &[usize]| {
        let text = format!(
            "seed: {seed}\nfaults:\n- {{name: some, probability: 0.3, answer: {{status: 503}}}}"
        );
        let targets = ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7"];
        let tapes = targets.iter().map(|target| get(target, "x")).collect();
        let seen: Arc<Mutex<Vec<Injected>>> = Arc::default();
        let log = Arc::clone(&seen);
        let options = Options {
            chaos: Some(Chaos::parse(&text).unwrap()),
            on_fault: Some(Arc::new(move |injected| {
                log.lock().unwrap().push(injected.clone());
            })),
            ..options()
        };
        let mock = start_with(tapes, &options).unwrap();
        let mut struck = Vec::new();
        for n in order.iter().copied().cycle().take(order.len() * 5) {
            let (said, _) = outcome(&mock, targets[n]);
            if said.starts_with("HTTP/1.1 503") {
                struck.push(n as u64);
            }
        }
        let stats = mock.stop();
        let mut log: Vec<_> = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(
            stats.faults.get("some").copied().unwrap_or(0),
            log.len() as u64
        );
        assert_eq!(
            log.iter().map(|i| i.exchange.unwrap()).collect::<Vec<_>>(),
            struck
        );
        log.sort_by_key(|injected| (injected.exchange, injected.nth));
        log.into_iter()
            .map(|injected| (injected.exchange, injected.nth))
            .collect::<Vec<_>>()
    };
    let forth = run(1, &[0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(!forth.is_empty() && forth.len() < 40);
    assert_eq!(run(1, &[7, 3, 1, 0, 2, 6, 5, 4]), forth);
    assert_ne!(run(2, &[0, 1, 2, 3, 4, 5, 6, 7]), forth);
}

#[test]
fn chaos_can_be_switched_while_the_mock_runs() {
    let mock = start(vec![get("/a", BODY)]);
    assert!(outcome(&mock, "/a").0.ends_with(BODY));
    let chaos = Chaos::parse("faults: [{name: x, answer: {status: 500}}]").unwrap();
    mock.set_chaos(Some(chaos)).unwrap();
    assert!(outcome(&mock, "/a").0.starts_with("HTTP/1.1 500 "));
    mock.set_chaos(None).unwrap();
    assert!(outcome(&mock, "/a").0.ends_with(BODY));
}
