//! Targets that are down, slow, broken or malicious.

use std::time::Duration;

use super::recording::{call, play, try_play};
use super::server::{OK, find, options, serve};
use crate::player::{Failure, Limits, NeverSent, Options, RunError, Speed, StopFlag};

fn calls(n: u64) -> Vec<super::recording::Call> {
    (0..n).map(|n| call(n, n, &format!("GET /{n}"))).collect()
}

#[test]
fn a_target_that_is_down_is_one_clear_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = try_play(calls(1000), &options(address), &StopFlag::new()).unwrap_err();
    assert!(matches!(error, RunError::Connect { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&format!("cannot connect to http://{address}")),
        "{text}"
    );
    assert!(text.contains("refused"), "{text}");

    let target = "unix:///nowhere/at/all.sock".parse().unwrap();
    let error = try_play(calls(1), &Options::new(target), &StopFlag::new()).unwrap_err();
    assert!(matches!(error, RunError::Connect { .. }));
}

#[test]
fn a_target_that_goes_down_in_the_middle_refuses_the_rest() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        drop(listener);
        drop(stream);
    });
    let report = play(
        (0..10).map(|n| call(n * 20, n, "GET /")).collect(),
        &options(address),
    );
    server.join().unwrap();
    assert!(
        report.tally.never_sent.of(NeverSent::Refused) >= 8,
        "{report}"
    );
    assert!(report.tally.first_causes["connect_refused"].contains("refused"));
}

#[test]
fn every_way_to_fail_has_a_name() {
    let (address, _log) = serve(|mut peer| {
        let Some(seen) = peer.request() else { return };
        match seen.path().as_str() {
            "/reset" => peer.reset(),
            "/early" => {
                peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this");
            }
            "/nothing" => {}
            "/half-a-head" => {
                peer.answer(b"HTTP/1.1 200 OK\r\nConte");
            }
            "/garbage" => {
                peer.answer(b"\x16\x03\x01\x02\x00 this is not HTTP\r\n\r\n");
            }
            "/chunks" => {
                peer.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZ\r\n");
            }
            "/stall" => {
                peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nand then");
                peer.request();
            }
            other => panic!("{other}"),
        }
    });
    for (path, failure) in [
        ("/reset", Failure::Reset),
        ("/early", Failure::ClosedEarly),
        ("/nothing", Failure::ClosedEarly),
        ("/half-a-head", Failure::ClosedEarly),
        ("/garbage", Failure::Protocol),
        ("/chunks", Failure::Protocol),
        ("/stall", Failure::TimedOut),
    ] {
        let options = Options {
            // Long, where nothing waits for it: the machine may be busy.
            timeout: Duration::from_millis(if path == "/stall" { 300 } else { 20_000 }),
            ..options(address)
        };
        let report = play(vec![call(0, 1, &format!("GET {path}"))], &options);
        assert_eq!(report.tally.failures.of(failure), 1, "{path}: {report}");
        assert_eq!(report.failed(), 1);
    }
}

#[test]
fn a_target_that_never_accepts_is_timed_out() {
    // The queue of this socket takes the connection, and nobody ever reads it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = Options {
        timeout: Duration::from_millis(100),
        ..options(listener.local_addr().unwrap())
    };
    let report = play(calls(3), &options);
    assert_eq!(report.tally.failures.of(Failure::TimedOut), 3);
    assert!(report.tally.trends.http_req_duration.min() >= options.timeout);
}

#[test]
fn a_kept_connection_that_was_closed_is_replaced() {
    let (address, log) = serve(|mut peer| {
        // Answers once, and closes without saying so before.
        if peer.request().is_some() {
            peer.answer(OK);
        }
    });
    let calls = (0..5).map(|n| call(n * 30, 1, "GET /")).collect();
    let report = play(calls, &options(address));
    assert_eq!(report.tally.answered(), 5, "{report}");
    assert_eq!(log.seen().len(), 5);
}

#[test]
fn a_close_that_crosses_the_request_is_sent_again_only_where_that_is_safe() {
    let (address, _log) = serve(|mut peer| {
        // The second request on a connection is read and never answered.
        if peer.request().is_some() {
            peer.answer(OK);
            peer.request();
        }
    });
    // One behind the other, however slow the machine is.
    let options = Options {
        speed: Speed::Max,
        connections: std::num::NonZeroU32::new(1),
        ..options(address)
    };
    let run = |method: &str| {
        let calls = vec![call(0, 1, "GET /"), call(30, 1, &format!("{method} /"))];
        play(calls, &options)
    };
    let get = run("GET");
    assert_eq!((get.tally.answered(), get.tally.resent), (2, 1));
    let post = run("POST");
    assert_eq!((post.tally.answered(), post.tally.resent), (1, 0));
    assert_eq!(post.tally.failures.of(Failure::ClosedEarly), 1);
}

#[test]
fn a_long_answer_passes_through() {
    const LEN: usize = 256 << 20;
    let (address, _log) = serve(|mut peer| {
        while peer.request().is_some() {
            peer.answer(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n").as_bytes());
            let piece = vec![b'x'; 1 << 20];
            for _ in 0..LEN / piece.len() {
                peer.answer(&piece);
            }
        }
    });
    let report = play(calls(1), &options(address));
    assert_eq!(report.tally.answered(), 1);
    assert!(report.tally.bytes_received > LEN as u64);
}

#[test]
fn an_endless_head_is_given_up() {
    let (address, _log) = serve(|mut peer| {
        peer.request();
        peer.answer(b"HTTP/1.1 200 OK\r\nX: ");
        while peer.answer(&[b'x'; 65536]) {}
    });
    let report = play(calls(1), &options(address));
    assert_eq!(report.tally.failures.of(Failure::Protocol), 1);
}

#[test]
fn an_answer_before_the_end_of_the_upload_counts() {
    let (address, _log) = serve(|mut peer| {
        peer.head();
        peer.answer(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
        // Keeps the connection, and reads nothing more.
        peer.wait_for(usize::MAX);
    });
    let upload = call(0, 1, "POST /")
        .head("POST / HTTP/1.1\r\nContent-Length: 20000000\r\n\r\n")
        .body(vec![b'x'; 20_000_000]);
    let report = play(vec![upload], &options(address));
    assert_eq!(report.tally.statuses[&413], 1, "{report}");
}

#[test]
fn expect_waits_for_the_target_but_not_forever() {
    let (address, _log) = serve(|mut peer| {
        while let Some(head) = peer.head() {
            assert!(find(&head, b"Expect: 100-continue").is_some());
            let path = String::from_utf8_lossy(&head)
                .split(' ')
                .nth(1)
                .unwrap()
                .to_owned();
            if path == "/no" {
                peer.answer(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n");
                // The body must not come.
                assert_eq!(peer.head(), None);
                assert_eq!(peer.pending(), b"");
                return;
            }
            if path == "/yes" {
                assert_eq!(peer.pending(), b"", "the body is held back");
                peer.answer(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            // "/silent" says nothing, and must get the body all the same.
            assert!(peer.take(4));
            peer.answer(OK);
        }
    });
    let put = |millis, path: &str| {
        call(millis, 1, "PUT")
            .head(&format!(
                "PUT {path} HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
            ))
            .body(*b"body")
    };
    let calls = vec![put(0, "/yes"), put(1, "/no"), put(2, "/silent")];
    let report = play(calls, &options(address));
    assert_eq!(report.tally.statuses[&200], 2, "{report}");
    assert_eq!(report.tally.statuses[&417], 1);
}

#[test]
fn limits_are_kept_and_what_exceeds_them_is_counted() {
    let (address, log) = serve(|mut peer| while peer.request().is_some() {});
    let limited = |limits| Options {
        limits,
        timeout: Duration::from_millis(200),
        workers: std::num::NonZeroU32::new(1),
        ..options(address)
    };
    let report = play(
        calls(10),
        &limited(Limits {
            connections: 4,
            ..Limits::default()
        }),
    );
    assert_eq!(report.tally.never_sent.of(NeverSent::ConnectionLimit), 6);
    assert_eq!(log.connections(), 4);

    let report = play(
        calls(10),
        &limited(Limits {
            in_flight: 3,
            ..Limits::default()
        }),
    );
    assert_eq!(report.tally.never_sent.of(NeverSent::InFlightLimit), 7);
    assert_eq!(report.tally.peak_in_flight, 3);

    let mut large = calls(3);
    large[1].body = vec![b'x'; 10_000];
    let report = play(
        large,
        &limited(Limits {
            request_bytes: 5_000,
            ..Limits::default()
        }),
    );
    assert_eq!(report.tally.never_sent.of(NeverSent::MemoryLimit), 1);
}

#[test]
fn the_wrong_protocol_is_said_to_be_wrong() {
    let (address, _log) = serve(|mut peer| {
        peer.head();
        peer.answer(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    });
    let http2 = Options::new(format!("h2c://{address}").parse().unwrap());
    let report = play(calls(2), &http2);
    let lost = report.tally.failures.of(Failure::Protocol)
        + report.tally.failures.of(Failure::ClosedEarly)
        + report.tally.failures.of(Failure::Reset)
        + report.tally.never_sent.of(NeverSent::Unreachable);
    assert_eq!(lost, 2, "{report}");

    // The preface of an HTTP/2 server: SETTINGS on stream 0.
    let (address, _log) = serve(|mut peer| {
        peer.answer(b"\0\0\0\x04\0\0\0\0\0");
        peer.request();
    });
    let report = play(calls(1), &options(address));
    assert_eq!(report.tally.failures.of(Failure::Protocol), 1);
    assert!(report.tally.first_causes["protocol_error"].contains("h2c://"));
}

#[test]
fn at_full_speed_failures_do_not_end_the_run() {
    let (address, _log) = serve(|mut peer| {
        let mut n = 0;
        while peer.request().is_some() {
            n += 1;
            if n % 10 == 0 {
                return peer.reset();
            }
            peer.answer(OK);
        }
    });
    let mut calls = calls(300);
    for call in &mut calls {
        call.head = call.head.replace("GET", "POST");
    }
    let report = play(
        calls,
        &Options {
            speed: Speed::Max,
            connections: std::num::NonZeroU32::new(4),
            ..options(address)
        },
    );
    assert_eq!(report.tally.sent(), 300);
    assert!(report.tally.failures.total() >= 26, "{report}");
}
