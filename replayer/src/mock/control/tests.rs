//! The control port over real sockets, beside a mock at work.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::metrics::METRICS;
use super::routes::ROUTES;
use super::{MAX_BODY, MOST_CONNECTIONS};
use crate::mock::tests::{Tape, get, options, start_with, talk};
use crate::mock::{Options, Repeat, RunningMock};

fn start(tapes: Vec<Tape>) -> RunningMock {
    start_with(tapes, &controlled()).unwrap()
}

fn controlled() -> Options {
    Options {
        control: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        ..options()
    }
}

/// Status and body.
fn ask(mock: &RunningMock, method: &str, path: &str, body: &str) -> (u16, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: control\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = talk(mock.control_addr().unwrap(), request);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

fn json_of(mock: &RunningMock, method: &str, path: &str, body: &str) -> Value {
    let (status, body) = ask(mock, method, path, body);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn request(mock: &RunningMock, target: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n");
    let answer = talk(mock.addr(), request);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    format!("{} {body}", head.split(' ').nth(1).unwrap())
}

#[test]
fn without_being_asked_for_there_is_none() {
    let mock = start_with(vec![get("/a", "x")], &options()).unwrap();
    assert_eq!(mock.control_addr(), None);
}

#[test]
fn status_hits_and_misses_tell_what_was_done() {
    let mock = start(vec![get("/a", "x"), get("/b", "y"), get("/c", "z")]);
    for target in ["/a", "/a", "/c", "/d", "/d"] {
        request(&mock, target);
    }
    let status = json_of(&mock, "GET", "/status", "");
    assert_eq!(status["listening"], mock.addr().to_string());
    let counts = ["served", "hits", "misses", "connections"].map(|name| status[name].as_u64());
    assert_eq!(counts, [3, 3, 2, 5].map(Some));

    let hits = json_of(&mock, "GET", "/hits", "");
    let told = |n: u64, target: &str, hits: u64| json!({ "exchange": n, "method": "GET", "target": target, "hits": hits });
    let all = [told(0, "/a", 2), told(1, "/b", 0), told(2, "/c", 1)];
    assert_eq!(hits, json!({ "exchanges": all, "next": null }));
    let uncalled = json_of(&mock, "GET", "/hits?uncalled=true", "");
    assert_eq!(uncalled["exchanges"], json!([told(1, "/b", 0)]));
    // Page by page.
    let first = json_of(&mock, "GET", "/hits?limit=2", "");
    assert_eq!(first["exchanges"].as_array().unwrap().len(), 2);
    assert_eq!(first["next"], 2);
    let second = json_of(&mock, "GET", "/hits?from=2&limit=2", "");
    assert_eq!(
        second,
        json!({ "exchanges": [told(2, "/c", 1)], "next": null })
    );
    for wrong in ["limit=0", "limit=10001", "from=x", "uncalled=1", "page=2"] {
        let (status, why) = ask(&mock, "GET", &format!("/hits?{wrong}"), "");
        assert_eq!(status, 400, "{wrong}: {why}");
    }

    let misses = json_of(&mock, "GET", "/misses", "");
    assert_eq!(misses["total"], 2);
    assert_eq!(misses["distinct"].as_array().unwrap().len(), 1);
    assert_eq!(misses["distinct"][0]["count"], 2);
    assert_eq!(misses["distinct"][0]["request"]["target"], "/d");
    let uncalled = mock.uncalled(10);
    assert_eq!(
        (uncalled.total, uncalled.listed),
        (1, vec![(1, "GET".to_owned(), "/b".to_owned())])
    );
}

#[test]
fn a_reset_begins_anew() {
    let tapes = vec![get("/a", "first"), get("/a", "second")];
    let mock = start_with(
        tapes,
        &Options {
            repeat: Repeat::Fail,
            ..controlled()
        },
    )
    .unwrap();
    for _ in 0..2 {
        assert_eq!(request(&mock, "/a"), "200 first");
        assert_eq!(request(&mock, "/a"), "200 second");
        assert!(request(&mock, "/a").starts_with("501 "));
        let stats = mock.stats();
        assert_eq!((stats.hits, stats.misses, stats.missed.len()), (2, 1, 1));
        json_of(&mock, "POST", "/reset", "");
        let stats = mock.stats();
        assert_eq!((stats.hits, stats.misses, stats.missed.len()), (0, 0, 0));
    }
}

#[test]
fn chaos_is_switched_while_the_mock_runs() {
    let mock = start(vec![get("/a", "x")]);
    assert_eq!(json_of(&mock, "GET", "/chaos", ""), json!({ "rules": [] }));
    let file = "faults:\n  - {name: gone, answer: {status: 503}}\n";
    let on = json_of(&mock, "PUT", "/chaos", file);
    assert_eq!(on["rules"][0]["name"], "gone");
    assert!(request(&mock, "/a").starts_with("503 "));
    assert_eq!(json_of(&mock, "GET", "/chaos", "")["rules"][0]["struck"], 1);

    // A mistake changes nothing.
    let (status, why) = ask(
        &mock,
        "PUT",
        "/chaos",
        "faults:\n  - {name: a, latancy: 1}\n",
    );
    assert_eq!(status, 400);
    assert!(why.contains("line 2"), "{why}");
    assert!(request(&mock, "/a").starts_with("503 "));

    json_of(&mock, "DELETE", "/chaos", "");
    assert_eq!(request(&mock, "/a"), "200 x");
}

#[test]
fn who_started_the_mock_is_told_that_it_should_end() {
    let mock = start(vec![get("/a", "x")]);
    assert_eq!(ask(&mock, "POST", "/shutdown", "").0, 409);
    let told = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&told);
    let mock = start_with(
        vec![get("/a", "x")],
        &Options {
            on_shutdown: Some(Arc::new(move || tell.store(true, Ordering::SeqCst))),
            ..controlled()
        },
    )
    .unwrap();
    assert_eq!(ask(&mock, "POST", "/shutdown", "").0, 202);
    assert!(told.load(Ordering::SeqCst));
    // It still runs: its owner ends it.
    assert_eq!(request(&mock, "/a"), "200 x");
}

#[test]
fn the_document_describes_every_route_and_no_other() {
    let mock = start(vec![get("/a", "x")]);
    let document = json_of(&mock, "GET", "/openapi.json", "");
    assert_eq!(document["openapi"], "3.1.0");
    let mut described = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            // What is described is there: shutdown is refused here, chaos wants a file.
            let (status, _) = ask(&mock, &method.to_ascii_uppercase(), path, "");
            let answers = operation["responses"].as_object().unwrap();
            assert!(
                answers.contains_key(&status.to_string()),
                "{method} {path}: {status}"
            );
            described.push((method.to_ascii_uppercase(), path.clone()));
        }
    }
    let mut routes: Vec<_> = ROUTES
        .iter()
        .map(|route| (route.method.to_owned(), route.path.to_owned()))
        .collect();
    described.sort();
    routes.sort();
    assert_eq!(described, routes);
}

#[test]
fn every_metric_is_told_and_stands_in_the_documentation() {
    let mock = start(vec![get("/a", "x")]);
    json_of(
        &mock,
        "PUT",
        "/chaos",
        "faults:\n  - {name: 'a\"b', answer: {status: 503}}\n",
    );
    request(&mock, "/a");
    request(&mock, "/b");
    let (status, text) = ask(&mock, "GET", "/metrics", "");
    assert_eq!(status, 200);
    for line in [
        "tapedeck_mock_hits_total 1",
        "tapedeck_mock_misses_total 1",
        "tapedeck_mock_connections_total 2",
        "tapedeck_mock_faults_total{rule=\"a\\\"b\"} 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} in {text}");
    }
    let page = include_str!("../../../../docs/mock.md");
    for metric in METRICS {
        let row = format!("| `{}` | {} | {} |", metric.name, metric.kind, metric.help);
        assert!(page.contains(&row), "docs/mock.md lacks: {row}");
    }
    for route in ROUTES {
        let row = format!("| `{} {}` | {} |", route.method, route.path, route.summary);
        assert!(page.contains(&row), "docs/mock.md lacks: {row}");
    }
}

#[test]
fn what_is_wrong_is_said_and_the_port_stays_up() {
    let mock = start(vec![get("/a", "x")]);
    let addr = mock.control_addr().unwrap();
    let (status, why) = ask(&mock, "GET", "/statu", "");
    assert_eq!(status, 404);
    assert!(why.contains("GET /status"), "{why}");
    let answer = talk(
        addr,
        "POST /status HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("allow: get"),
        "{answer}"
    );
    // A web page's script.
    let answer = talk(
        addr,
        "POST /reset HTTP/1.1\r\nHost: c\r\nOrigin: http://elsewhere\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    // Longer than any chaos file.
    let long = "#".repeat(MAX_BODY + 1);
    assert_eq!(ask(&mock, "PUT", "/chaos", &long).0, 413);
}

#[test]
fn who_finds_all_places_taken_waits_until_one_is_free() {
    let mock = start(vec![get("/a", "x")]);
    let addr = mock.control_addr().unwrap();
    let connect = || {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
            .write_all(b"GET /status HTTP/1.1\r\nHost: control\r\n\r\n")
            .unwrap();
        stream
    };
    let mut byte = [0];
    // Whoever got an answer has a place, and keeps it while the connection stays open.
    let mut held: Vec<_> = (0..MOST_CONNECTIONS).map(|_| connect()).collect();
    for stream in &mut held {
        stream.read_exact(&mut byte).unwrap();
    }
    let mut late = connect();
    late.set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let waits = late.read(&mut byte).unwrap_err();
    assert!(
        matches!(waits.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{waits}"
    );
    drop(held.pop());
    late.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    late.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"H");
}
