//! What nothing recorded answers, asked of upstreams: mocks, and raw sockets for what they do not do.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use tapedeck_archive::{Archive, BodyBuffer, Scratch};
use tapedeck_model::{Anomaly, Missing, Protocol};

use super::super::server::Mock;
use super::super::tls::{AuthorityFiles, CertificateAuthority};
use super::super::upstream::{OnMiss, Upstreams};
use super::http2::{ask, request, with_client};
use super::*;

fn upstreams(list: &[String]) -> Upstreams {
    Upstreams {
        list: list.iter().map(|text| text.parse().unwrap()).collect(),
        ..Upstreams::default()
    }
}

fn passing(list: &[String]) -> Options {
    Options {
        on_miss: OnMiss::Passthrough,
        upstreams: upstreams(list),
        ..options()
    }
}

fn url(mock: &RunningMock) -> String {
    format!("http://{}", mock.addr())
}

fn ask_once(mock: &RunningMock, target: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n");
    talk(mock.addr(), request)
}

/// An upstream that accepts one connection and does this with it once a request has come.
fn raw_upstream(
    act: impl FnOnce(&mut TcpStream, String) + Send + 'static,
) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut raw = Raw { stream };
        let head = raw.read_until("\r\n\r\n");
        act(&mut raw.stream, head);
    });
    (url, thread)
}

#[test]
fn a_miss_gets_the_answer_of_its_upstream_in_either_protocol() {
    let real = start(vec![
        Tape {
            status: 418,
            trailers: &[("X-Sum", "7")],
            ..get("/far?a=1", "from far")
        },
        post("/far", "sent", "taken"),
        get("/rest", "rest"),
    ]);
    let named = format!("shop.test={}", url(&real));
    let over_http2 = format!("h2.test=h2c://{}", real.addr());
    let rest = url(&real);
    let mock = start_with(
        vec![get("/near", "near")],
        &passing(&[named, over_http2, rest]),
    )
    .unwrap();
    assert!(ask_once(&mock, "/near").ends_with("near"));
    let far = ask_once(&mock, "/far?a=1");
    assert!(far.starts_with("HTTP/1.1 418 Recorded\r\n"), "{far}");
    assert!(far.contains("x-case: Kept\r\n"), "{far}");
    assert!(
        far.ends_with("8\r\nfrom far\r\n0\r\nx-sum: 7\r\n\r\n"),
        "{far}"
    );
    let posted = talk(
        mock.addr(),
        "POST /far HTTP/1.1\r\nHost: h2.test\r\nContent-Length: 4\r\nConnection: close\r\n\r\nsent",
    );
    assert!(
        posted.ends_with("\r\n\r\n5\r\ntaken\r\n0\r\n\r\n"),
        "{posted}"
    );
    let old = talk(mock.addr(), "GET /far?a=1 HTTP/1.0\r\n\r\n");
    assert!(old.ends_with("connection: close\r\n\r\nfrom far"), "{old}");
    let head = talk(
        mock.addr(),
        "HEAD /rest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(head.contains("content-length: 4\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    let got = with_client(&mock, async |client| {
        ask(&client, request("GET", "/far?a=1"), None)
            .await
            .unwrap()
    });
    assert_eq!(got.head.status(), 418);
    assert_eq!(got.body, b"from far");
    assert_eq!(got.trailers.unwrap()["x-sum"], "7");
    let stats = mock.stop();
    assert_eq!((stats.hits, stats.misses), (1, 5));
    assert_eq!((stats.passed, stats.upstream_failures), (5, 0));
    assert_eq!(real.stop().hits, 5);
}

#[test]
fn a_proxy_asks_whom_the_request_names() {
    let real = start(vec![get("/far", "from far")]);
    let mock = start_with(vec![get("/near", "near")], &passing(&[])).unwrap();
    let far = ask_once(&mock, &format!("{}/far", url(&real)));
    assert!(far.ends_with("from far"), "{far}");
    let tunnel = format!(
        "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\nGET /far HTTP/1.1\r\nHost: {0}\r\nConnection: close\r\n\r\n",
        real.addr()
    );
    let far = talk(mock.addr(), tunnel);
    assert!(far.ends_with("from far"), "{far}");
    // Whoever talks to the mock as to a server says nothing of where to.
    let nowhere = ask_once(&mock, "/far");
    assert!(nowhere.starts_with("HTTP/1.1 501 "), "{nowhere}");
    assert!(nowhere.contains("no upstream is named for it"), "{nowhere}");
    assert_eq!(mock.stop().passed, 2);
}

/// An archive of one exchange for a mock that speaks TLS: what the tapes are served with does not.
fn over_tls(ca: &AuthorityFiles) -> (tempfile::TempDir, RunningMock) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("far.tape");
    let plain = start(vec![get("/far", "from far")]);
    let options = Options {
        received: Some(path.clone()),
        ..passing(&[url(&plain)])
    };
    let recorder = start_with(vec![get("/near", "near")], &options).unwrap();
    assert!(ask_once(&recorder, "/far").ends_with("from far"));
    drop(recorder);
    let authority = CertificateAuthority::load(&ca.certificate, &ca.key).unwrap();
    let options = Options {
        authority: Some(Arc::new(authority)),
        ..super::options()
    };
    let archive = Arc::new(Archive::open(&path).unwrap());
    (folder, Mock::start(archive, &options).unwrap())
}

#[test]
fn an_upstream_is_asked_over_tls_and_has_to_be_believed() {
    let ca = CertificateAuthority::generate("upstreams", SystemTime::now()).unwrap();
    let other = CertificateAuthority::generate("others", SystemTime::now()).unwrap();
    let (_folder, real) = over_tls(&ca);
    let far = format!("https://localhost:{}", real.addr().port());
    let ask = |trusted: &AuthorityFiles, http1_only: bool| {
        let mut options = passing(std::slice::from_ref(&far));
        options.upstreams.tls.authorities = Some(trusted.certificate.clone().into_bytes());
        options.upstreams.tls.http1_only = http1_only;
        let mock = start_with(vec![get("/near", "near")], &options).unwrap();
        let answer = ask_once(&mock, "/far");
        let failures = mock.stop().upstream_failures;
        (answer, failures)
    };
    // By ALPN: HTTP/2, and HTTP/1.1.
    for http1_only in [false, true] {
        let (answer, failures) = ask(&ca, http1_only);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("from far"), "{answer}");
        assert_eq!(failures, 0);
    }
    let (answer, failures) = ask(&other, false);
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let why = format!("the upstream {far} cannot be reached: ");
    assert!(
        answer.contains(&why) && answer.contains("UnknownIssuer"),
        "{answer}"
    );
    assert_eq!(failures, 1);
    assert_eq!(real.stop().hits, 2);
}

/// An upstream that says back what it hears, once it has changed the protocol.
fn echoing_upstream() -> (String, JoinHandle<()>) {
    raw_upstream(|stream, head| {
        assert!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{head}");
        for field in [
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-key: abc",
        ] {
            assert!(
                head.to_lowercase().contains(&format!("{field}\r\n")),
                "{head}"
            );
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Accept: xyz\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        let mut buffer = [0; 64];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(read) => stream.write_all(&buffer[..read]).unwrap(),
            }
        }
    })
}

#[test]
fn a_conversation_that_was_not_recorded_is_held_with_its_upstream() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.tape");
    let (url, upstream) = echoing_upstream();
    let options = Options {
        recorded: Some(path.clone()),
        ..passing(&[url])
    };
    let mock = start_with(vec![get("/near", "near")], &options).unwrap();
    let mut raw = Raw::connect(mock.addr());
    // Frames of one byte each; those of clients are masked, with zeros here.
    raw.send("GET /chat?room=1 HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n");
    let head = raw.read_until("\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{head}"
    );
    assert!(head.contains("sec-websocket-protocol: chat\r\n"), "{head}");
    for word in [&b"\x81\x81\0\0\0\0a"[..], b"\x81\x81\0\0\0\0b"] {
        raw.send(word);
        let mut echo = vec![0; word.len()];
        raw.stream.read_exact(&mut echo).unwrap();
        assert_eq!(echo, word);
    }
    raw.end();
    assert_eq!(raw.read_all(), "");
    upstream.join().unwrap();
    let stats = mock.stop();
    assert_eq!((stats.passed, stats.upstream_failures), (1, 0));
    let archive = Archive::open(&path).unwrap();
    let row = archive.row(0).unwrap();
    assert_eq!((row.status(), row.tunnel()), (Some(101), true));
    assert_eq!(row.request_body_len(), Some(14));
    assert_eq!(row.response_body_len(), Some(14));
    assert!(row.complete());
}

#[test]
fn an_upstream_that_wants_no_conversation_is_heard() {
    let (url, upstream) = raw_upstream(|stream, _| {
        let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let mock = start_with(vec![get("/near", "near")], &passing(&[url])).unwrap();
    let answer = talk(
        mock.addr(),
        "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nno"), "{answer}");
    upstream.join().unwrap();
    assert_eq!(mock.stop().passed, 1);
}

#[test]
fn a_mock_does_not_ask_itself() {
    // Its own address: it is not even connected to.
    let listen = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let options = Options {
        listen,
        ..passing(&[format!("http://{listen}")])
    };
    let mock = start_with(vec![get("/near", "near")], &options).unwrap();
    let answer = ask_once(&mock, "/far");
    assert!(answer.starts_with("HTTP/1.1 508 "), "{answer}");
    assert!(answer.contains("it is this mock itself"), "{answer}");
    drop(mock);

    // In a circle of two, by what the request carries.
    let second = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let first = start_with(
        vec![get("/near", "x")],
        &passing(&[format!("http://{second}")]),
    )
    .unwrap();
    let options = Options {
        listen: second,
        ..passing(&[url(&first)])
    };
    let second = start_with(vec![get("/near", "x")], &options).unwrap();
    let answer = ask_once(&first, "/far");
    assert!(answer.starts_with("HTTP/1.1 508 "), "{answer}");
    assert!(answer.contains("leads back to this mock"), "{answer}");
    assert_eq!((first.stop().passed, second.stop().passed), (1, 1));
}

#[test]
fn an_upstream_that_fails_is_said_to() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mock = start_with(
        vec![get("/near", "x")],
        &passing(&[format!("http://{free}")]),
    )
    .unwrap();
    let answer = ask_once(&mock, "/far");
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let why = format!("the upstream http://{free} cannot be reached: ");
    assert!(
        answer.contains(&why) && answer.contains("refused"),
        "{answer}"
    );
    assert_eq!(mock.stop().upstream_failures, 1);

    let (url, _silent) = raw_upstream(|stream, _| {
        let _closed = stream.read(&mut [0]);
    });
    let mut options = passing(&[url]);
    options.limits.upstream_timeout = Duration::from_millis(50);
    let mock = start_with(vec![get("/near", "x")], &options).unwrap();
    let answer = ask_once(&mock, "/far");
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert_eq!(mock.stop().upstream_failures, 1);

    // What was promised does not come: the client must not take it for the whole.
    let (url, broken) = raw_upstream(|stream, _| {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        stream.write_all(answer).unwrap();
    });
    let mock = start_with(vec![get("/near", "x")], &passing(&[url])).unwrap();
    let mut raw = Raw::connect(mock.addr());
    raw.send("GET /far HTTP/1.1\r\nHost: x\r\n\r\n");
    raw.read_until("4\r\nhalf");
    let mut rest = Vec::new();
    let end = raw.stream.read_to_end(&mut rest);
    assert!(end.is_err() || !rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
    broken.join().unwrap();
    assert_eq!(mock.stop().upstream_failures, 1);
}

#[test]
fn answers_pass_as_they_come_and_fields_of_the_connection_stay() {
    let (seen, wait) = std::sync::mpsc::channel();
    let (url, upstream) = raw_upstream(move |stream, head| {
        assert!(head.starts_with("GET /events HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("via: 1.1 tapedeck-"), "{head}");
        assert!(
            !head.contains("x-hop") && !head.contains("shop.test"),
            "{head}"
        );
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: x-own, close\r\nX-Own: 1\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            stream.write_all(event.as_bytes()).unwrap();
            // Goes on when the client has it: nothing is held back.
            let _gone = wait.recv();
        }
    });
    let mock = start_with(vec![get("/near", "x")], &passing(&[url])).unwrap();
    let mut raw = Raw::connect(mock.addr());
    raw.send("GET /events HTTP/1.1\r\nHost: shop.test\r\nConnection: x-hop\r\nx-hop: 1\r\n\r\n");
    let head = raw.read_until("data: 1\n\n");
    assert!(!head.to_lowercase().contains("x-own"), "{head}");
    seen.send(()).unwrap();
    raw.read_until("data: 2\n\n");
    drop(seen);
    raw.read_until("0\r\n\r\n");
    upstream.join().unwrap();
}

#[test]
fn so_many_requests_are_on_their_way_at_once() {
    let (arrived, came) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (url, upstream) = raw_upstream(move |stream, _| {
        arrived.send(()).unwrap();
        let _go = wait.recv();
        let _sent = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
    });
    let mut options = passing(&[url]);
    options.limits.upstream_requests = 1;
    let mock = start_with(vec![get("/near", "x")], &options).unwrap();
    let mut first = Raw::connect(mock.addr());
    first.send("GET /far HTTP/1.1\r\nHost: x\r\n\r\n");
    came.recv().unwrap();
    let second = ask_once(&mock, "/far");
    assert!(second.starts_with("HTTP/1.1 503 "), "{second}");
    go.send(()).unwrap();
    let answer = first.read_until("\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 204 No Content"), "{answer}");
    upstream.join().unwrap();
}

struct Row {
    target: String,
    status: Option<u16>,
    body: Vec<u8>,
    faulty: bool,
    missing: Missing,
}

fn rows(path: &Path) -> Vec<Row> {
    let archive = Archive::open(path).unwrap();
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::new());
    let rows = (0..archive.len()).map(|id| {
        let row = archive.row(id).unwrap();
        let record = archive.load(id, &mut scratch).unwrap();
        let body = record.response().map(|response| {
            let body = archive.body(&response.body(), &mut buffer);
            body.unwrap().to_vec()
        });
        Row {
            target: String::from_utf8(row.target().unwrap().to_vec()).unwrap(),
            status: row.status(),
            body: body.unwrap_or_default(),
            faulty: row
                .anomalies()
                .iter()
                .any(|one| one == Anomaly::InjectedFault),
            missing: row.response_missing(),
        }
    });
    rows.collect()
}

#[test]
fn what_came_and_what_upstreams_answered_are_archives() {
    let large = "x".repeat(300_000);
    let large: &'static str = Box::leak(large.into_boxed_str());
    let real = start(vec![
        Tape {
            trailers: &[("X-Sum", "7")],
            ..get("/far", "from far")
        },
        get("/large", large),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let (received, recorded) = (
        folder.path().join("in.tape"),
        folder.path().join("far.tape"),
    );
    let options = Options {
        received: Some(received.clone()),
        recorded: Some(recorded.clone()),
        ..passing(&[url(&real)])
    };
    let mock = start_with(vec![get("/near", "near")], &options).unwrap();
    for target in ["/near", "/far", "/large", "/nowhere"] {
        ask_once(&mock, target);
    }
    with_client(&mock, async |client| {
        let got = ask(&client, request("GET", "/far"), None).await.unwrap();
        assert_eq!(got.body, b"from far");
    });
    let stats = mock.stop();
    assert_eq!(stats.received.unwrap().exchanges, 5);
    assert_eq!(stats.recorded.unwrap().exchanges, 4);

    let rows_in = rows(&received);
    let told: Vec<_> = rows_in
        .iter()
        .map(|row| (row.target.as_str(), row.status, row.body.len()))
        .collect();
    let expect = [
        ("/near", Some(200), 4),
        ("/far", Some(200), 8),
        ("/large", Some(200), 300_000),
        ("/nowhere", Some(501), rows_in[3].body.len()),
        ("/far", Some(200), 8),
    ];
    assert_eq!(told, expect);
    assert!(
        rows_in
            .iter()
            .all(|row| row.missing.is_empty() && !row.faulty)
    );
    let archive = Archive::open(&received).unwrap();
    let row = archive.row(4).unwrap();
    assert_eq!(row.protocol(), Protocol::Http2);
    assert_eq!(row.authority(), Some(&b"any"[..]));
    assert_eq!(archive.ledger().connections, 5);
    assert_eq!(archive.ledger().exchanges, 5);

    // What was recorded answers in place of the upstream.
    let archive = Arc::new(Archive::open(&recorded).unwrap());
    assert_eq!(archive.row(0).unwrap().server().port, real.addr().port());
    drop(real);
    let again = Mock::start(archive, &super::options()).unwrap();
    let far = ask_once(&again, "/far");
    assert!(
        far.ends_with("8\r\nfrom far\r\n0\r\nx-sum: 7\r\n\r\n"),
        "{far}"
    );
    assert!(ask_once(&again, "/large").ends_with(large));
    assert_eq!(again.stop().misses, 0);
}

#[test]
fn injected_faults_are_marked_in_what_was_received() {
    let folder = tempfile::tempdir().unwrap();
    let received = folder.path().join("in.tape");
    let chaos = "faults:
        - {name: gone, reset: {at: body, bytes: 3}, probability: 1, until: 1h}
        - {name: alert, settingsStorm: 1}";
    let options = Options {
        received: Some(received.clone()),
        chaos: Some(Chaos::parse(chaos).unwrap()),
        ..options()
    };
    let mock = start_with(vec![get("/a", "0123456789")], &options).unwrap();
    let mut raw = Raw::connect(mock.addr());
    raw.send("GET /a HTTP/1.1\r\n\r\n");
    let _reset = raw.stream.read_to_end(&mut Vec::new());
    drop(mock);
    let rows = rows(&received);
    assert_eq!(rows.len(), 1);
    assert!(rows[0].faulty && rows[0].missing.contains(Missing::ABORTED));
    assert_eq!(rows[0].body, b"012");
    // The other struck the connection.
    let ledger = Archive::open(&received).unwrap().ledger().clone();
    assert_eq!(ledger.anomalies[&Anomaly::InjectedFault], 2);
}

#[test]
fn what_finds_no_room_is_counted_and_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let received = folder.path().join("in.tape");
    let mut options = Options {
        received: Some(received.clone()),
        ..options()
    };
    // Room for a small exchange, and not for the long one.
    options.limits.journal_bytes = 8 << 10;
    let long: &'static str = Box::leak("y".repeat(20_000).into_boxed_str());
    let mock = start_with(vec![get("/a", "x"), get("/long", long)], &options).unwrap();
    assert!(ask_once(&mock, "/long").ends_with(long));
    assert!(ask_once(&mock, "/a").ends_with("x"));
    let written = mock.stop().received.unwrap();
    assert_eq!((written.exchanges, written.dropped), (1, 1));
    let ledger = Archive::open(&received).unwrap().ledger().clone();
    assert_eq!((ledger.exchanges, ledger.exchanges_dropped), (1, 1));
}

#[test]
fn an_archive_that_is_there_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let received = folder.path().join("in.tape");
    std::fs::write(&received, "mine").unwrap();
    let options = Options {
        received: Some(received.clone()),
        ..options()
    };
    let error = start_with(vec![get("/a", "x")], &options).unwrap_err();
    assert!(matches!(error, StartError::Journal(_)), "{error:?}");
    assert_eq!(std::fs::read(&received).unwrap(), b"mine");
}
