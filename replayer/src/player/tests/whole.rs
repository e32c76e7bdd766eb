//! What goes out, and over which connections.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tapedeck_model::Missing;

use super::recording::{call, play, try_play};
use super::server::{OK, options, polite, serve};
use crate::player::{LeftOut, NeverSent, Options, RunError, Speed, StopFlag, Target};

#[test]
fn the_target_receives_the_recorded_bytes() {
    let (address, log) = polite();
    let mut trailers = call(20, 1, "POST /t").head(
        "POST /t HTTP/1.1\r\nHost: recorded.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n",
    );
    trailers.body = b"chunky".to_vec();
    trailers.trailers = Some("X-Sum: 6\r\n\r\n".to_owned());
    let calls = vec![
        call(0, 1, "GET /a?x=%C3%A4&&y").head(
            "GET /a?x=%C3%A4&&y HTTP/1.1\r\nX-First:  1\r\nhost: recorded.example\r\naccept:*/*\r\nAccept: a\r\n\r\n",
        ),
        call(10, 1, "POST /b")
            .head("POST /b HTTP/1.1\r\nHost: recorded.example\r\nContent-Length: 4\r\n\r\n")
            .body(b"\0\r\n\xff".to_vec()),
        trailers,
    ];
    let report = play(calls, &options(address));
    let seen: Vec<_> = log.seen().iter().map(|seen| seen.bytes.clone()).collect();
    let expect: [Vec<u8>; 3] = [
        format!(
            "GET /a?x=%C3%A4&&y HTTP/1.1\r\nX-First:  1\r\nhost: {address}\r\naccept:*/*\r\nAccept: a\r\n\r\n"
        )
        .into_bytes(),
        [
            format!("POST /b HTTP/1.1\r\nHost: {address}\r\nContent-Length: 4\r\n\r\n").as_bytes(),
            b"\0\r\n\xff",
        ]
        .concat(),
        format!(
            "POST /t HTTP/1.1\r\nHost: {address}\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n6\r\nchunky\r\n0\r\nX-Sum: 6\r\n\r\n"
        )
        .into_bytes(),
    ];
    assert_eq!(seen, expect);
    assert_eq!(report.tally.answered(), 3);
    assert_eq!(report.tally.bytes_sent, expect.concat().len() as u64);
    assert_eq!(report.tally.bytes_received, 3 * OK.len() as u64);
    assert_eq!(log.connections(), 1, "the connection of the check is used");
}

#[test]
fn recorded_connections_stay_apart_and_are_kept() {
    let (address, log) = polite();
    let calls: Vec<_> = (0..40)
        .map(|n| call(n * 10, n % 4, &format!("GET /{}", n % 4)))
        .collect();
    let report = play(calls, &options(address));
    assert_eq!(report.tally.answered(), 40);
    // An answer that takes longer than 40 ms costs another connection; none is ever shared.
    assert!(log.connections() >= 4);
    let mut paths = vec![None; log.connections()];
    for seen in log.seen() {
        let path = paths[seen.connection].get_or_insert_with(|| seen.path());
        assert_eq!(*path, seen.path());
    }
}

#[test]
fn an_unanswered_predecessor_costs_another_connection() {
    let (address, log) = serve(|mut peer| {
        while let Some(seen) = peer.request() {
            // The first answer comes when the other two requests have.
            if seen.path() == "/slow" {
                peer.wait_for(3);
            }
            peer.answer(OK);
        }
    });
    let calls = vec![
        call(0, 1, "GET /slow"),
        call(5, 1, "GET /b"),
        call(10, 1, "GET /c"),
    ];
    let report = play(calls, &options(address));
    assert_eq!(report.tally.answered(), 3);
    assert!((2..=3).contains(&log.connections()));
}

#[test]
fn a_pool_is_never_exceeded() {
    let (address, log) = polite();
    let calls: Vec<_> = (0..60).map(|n| call(n / 10, n, "GET /")).collect();
    let report = play(
        calls,
        &Options {
            connections: NonZeroU32::new(3),
            ..options(address)
        },
    );
    assert_eq!(report.tally.answered(), 60);
    assert!(log.connections() <= 3);
    assert!(report.tally.peak_connections <= 3);
}

#[test]
fn at_full_speed_every_request_is_sent_once() {
    let (address, log) = polite();
    let calls: Vec<_> = (0..500)
        .map(|n| call(n * 1000, n, &format!("GET /{n}")))
        .collect();
    for workers in [1, 2, 3] {
        let before = log.connections();
        let report = play(
            calls.clone(),
            &Options {
                speed: Speed::Max,
                connections: NonZeroU32::new(8),
                workers: NonZeroU32::new(workers),
                ..options(address)
            },
        );
        assert_eq!(report.tally.answered(), 500);
        assert_eq!(report.workers, workers);
        assert!(log.connections() - before <= 8);
    }
    let mut paths: Vec<_> = log.seen().iter().map(super::server::Seen::path).collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!((paths.len(), log.seen().len()), (500, 1500));
}

#[test]
fn what_is_no_request_is_left_out_and_what_cannot_be_read_never_sent() {
    let (address, _log) = polite();
    let mut calls = vec![call(0, 1, "GET /"); 5];
    calls[1].missing = Missing::LOST;
    calls[2].tunnel = true;
    calls[3].missing = Missing::ABSENT;
    calls[4].readable = false;
    let report = play(calls, &options(address));
    assert_eq!(report.tally.answered(), 1);
    assert_eq!(report.left_out.of(LeftOut::Incomplete), 1);
    assert_eq!(report.left_out.of(LeftOut::Tunnel), 1);
    assert_eq!(report.left_out.of(LeftOut::NoRequest), 1);
    assert_eq!(report.tally.never_sent.of(NeverSent::Unreadable), 1);
    assert_eq!(
        report.tally.first_causes["unreadable"],
        "block 7 is damaged"
    );
}

#[test]
fn nothing_to_send_is_an_error_that_says_why() {
    let (address, _log) = polite();
    let mut lost = call(0, 1, "GET /");
    lost.missing = Missing::TRUNCATED;
    for (calls, text) in [
        (vec![], "the archive holds no exchanges"),
        (
            vec![lost.clone(), lost],
            "the archive holds no request that can be sent (2 incomplete)",
        ),
    ] {
        let error = try_play(calls, &options(address), &StopFlag::new()).unwrap_err();
        assert!(matches!(error, RunError::NothingToSend { .. }));
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn statuses_are_counted_and_compared() {
    let (address, _log) = serve(|mut peer| {
        while let Some(seen) = peer.request() {
            let status = seen.path()[1..].to_owned();
            peer.answer(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes());
        }
    });
    let mut calls: Vec<_> = [200, 404, 500]
        .iter()
        .map(|status| call(0, 1, &format!("GET /{status}")))
        .collect();
    calls[1].status = Some(404);
    calls.push(call(1, 1, "GET /200"));
    calls[3].status = None;
    let report = play(calls, &options(address));
    let comparison = &report.tally.comparison;
    assert_eq!(
        (comparison.same, comparison.different, comparison.unknown),
        (2, 1, 1)
    );
    assert_eq!(comparison.changes[&(200, 500)], 1);
    assert_eq!(report.failed(), 2);

    let json = report.to_json();
    assert_eq!(json["metrics"]["http_reqs"]["values"]["count"], 4);
    assert_eq!(json["metrics"]["http_req_failed"]["values"]["passes"], 2);
    assert_eq!(json["metrics"]["http_req_failed"]["values"]["rate"], 0.5);
    let duration = &json["metrics"]["http_req_duration"];
    assert_eq!(duration["type"], "trend");
    assert_eq!(duration["contains"], "time");
    assert!(duration["values"]["p(95)"].as_f64().unwrap() > 0.0);
    assert_eq!(json["tapedeck"]["statuses"]["404"], 1);
    assert_eq!(json["tapedeck"]["requests"]["recorded"], 4);
    let text = report.to_string();
    assert!(text.contains("4 sent, 4 answered"), "{text}");
    assert!(text.contains("50.00 % (2 of 4"), "{text}");
}

#[test]
fn a_unix_socket_is_a_target() {
    use std::io::{Read as _, Write as _};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 4096];
        let n = stream.read(&mut bytes).unwrap();
        stream.write_all(OK).unwrap();
        bytes.truncate(n);
        bytes
    });
    let target: Target = format!("unix://{}", path.display()).parse().unwrap();
    let report = play(vec![call(0, 1, "GET /x")], &Options::new(target));
    assert_eq!(report.tally.answered(), 1);
    assert_eq!(
        server.join().unwrap(),
        b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"
    );
}

/// Requests as text, each with the number of its connection.
type Http2Log = Arc<Mutex<Vec<(usize, String)>>>;

/// An HTTP/2 server by the `h2` crate. Logs each request with the number of its connection, and
/// answers when `together` requests are there.
fn http2_server(together: usize) -> (SocketAddr, Http2Log) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let log = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&log);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (arrived, _) = tokio::sync::watch::channel(0_usize);
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, arrived) = (Arc::clone(&shared), arrived.clone());
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let (log, arrived) = (Arc::clone(&log), arrived.clone());
                        tokio::spawn(async move {
                            let (head, mut body) = request.into_parts();
                            let mut bytes = Vec::new();
                            while let Some(Ok(data)) = body.data().await {
                                body.flow_control().release_capacity(data.len()).unwrap();
                                bytes.extend_from_slice(&data);
                            }
                            let trailers = body.trailers().await.unwrap();
                            log.lock().unwrap().push((
                                number,
                                format!(
                                    "{} {} {:?} {} {:?}",
                                    head.method,
                                    head.uri,
                                    head.headers.get("x-name"),
                                    bytes.len(),
                                    trailers.map(|map| map["x-sum"].clone()),
                                ),
                            ));
                            arrived.send_modify(|n| *n += 1);
                            let mut all = arrived.subscribe();
                            all.wait_for(|n| *n >= together).await.unwrap();
                            let response = http::Response::new(());
                            let mut stream = respond.send_response(response, false).unwrap();
                            stream.send_data(Bytes::from_static(b"ok"), false).unwrap();
                            let mut trailers = http::HeaderMap::new();
                            trailers.insert("grpc-status", "0".parse().unwrap());
                            stream.send_trailers(trailers).unwrap();
                        });
                    }
                });
            }
        });
    });
    (address, log)
}

fn h2c(address: SocketAddr) -> Options {
    Options::new(format!("h2c://{address}").parse().unwrap())
}

#[test]
fn http2_streams_interleave_on_recorded_connections() {
    // No answer comes before all requests have: one connection must carry several streams at once.
    let (address, log) = http2_server(12);
    let mut calls: Vec<_> = (0..10)
        .map(|n| call(n, n % 2, &format!("GET /{n}")).http2(&[("x-name", "v")]))
        .collect();
    let mut upload = call(3, 0, "POST /up").http2(&[("te", "trailers")]);
    // More than the initial window of the stream and of the connection.
    upload.body = vec![7; 300_000];
    upload.trailers = Some("X-Sum: 9\r\n\r\n".to_owned());
    calls.push(upload);
    // An HTTP/1 recording goes to the same target.
    calls.push(call(4, 1, "GET http://old.example/h1?q"));
    let report = play(calls, &h2c(address));
    assert_eq!(report.tally.answered(), 12, "{report}");
    assert_eq!(report.tally.connections, 2);
    let mut log = log.lock().unwrap().clone();
    log.sort_unstable();
    assert!(log.iter().all(|(connection, _)| *connection < 2));
    let texts: Vec<_> = log.iter().map(|(_, text)| text.as_str()).collect();
    assert!(texts.contains(&&*format!(
        "POST http://{address}/up None 300000 Some(\"9\")"
    )));
    assert!(texts.contains(&&*format!("GET http://{address}/h1?q None 0 None")));
    assert!(texts.contains(&&*format!("GET http://{address}/0 Some(\"v\") 0 None")));
}

#[test]
fn http2_at_full_speed_uses_the_streams_asked_for() {
    let (address, log) = http2_server(1);
    let calls: Vec<_> = (0..300)
        .map(|n| call(0, n, &format!("GET /{n}")).http2(&[]))
        .collect();
    let report = play(
        calls,
        &Options {
            speed: Speed::Max,
            connections: NonZeroU32::new(2),
            streams: NonZeroU32::new(4).unwrap(),
            ..h2c(address)
        },
    );
    assert_eq!(report.tally.answered(), 300, "{report}");
    assert_eq!(report.tally.connections, 2);
    assert!(report.tally.peak_in_flight <= 8);
    assert_eq!(log.lock().unwrap().len(), 300);
}

#[test]
fn a_closed_http2_connection_is_replaced() {
    // Serves one request on each connection, says GOAWAY behind it, and closes.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        respond
                            .send_response(http::Response::new(()), true)
                            .unwrap();
                        connection.graceful_shutdown();
                    }
                });
            }
        });
    });
    // Some come behind the close, some cross it.
    let calls: Vec<_> = [0, 200, 400, 400, 400, 600]
        .into_iter()
        .map(|at| call(at, 1, "GET /").http2(&[]))
        .collect();
    let report = play(calls, &h2c(address));
    assert_eq!(report.tally.answered(), 6, "{report}");
    assert!(report.tally.connections >= 2);
}
