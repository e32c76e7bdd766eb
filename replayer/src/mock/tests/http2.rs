use std::future::poll_fn;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::{Request, Response};
use tokio::runtime;

use super::super::options::Limits;
use super::*;

/// Runs a client with one connection.
pub(super) fn with_client<F: Future>(
    mock: &RunningMock,
    talk: impl FnOnce(SendRequest<Bytes>) -> F,
) -> F::Output {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(mock.addr()).await.unwrap();
        let (client, connection) = client::handshake(stream).await.unwrap();
        tokio::spawn(async move {
            // Its end is seen by the streams.
            let _end = connection.await;
        });
        tokio::time::timeout(Duration::from_secs(20), talk(client))
            .await
            .unwrap()
    })
}

pub(super) struct Got {
    pub(super) head: Response<()>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<http::HeaderMap>,
}

pub(super) async fn ask(
    client: &SendRequest<Bytes>,
    request: Request<()>,
    body: Option<Vec<u8>>,
) -> Result<Got, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, mut stream) = client.send_request(request, body.is_none())?;
    let upload = async {
        let Some(body) = body else { return };
        let mut body = Bytes::from(body);
        while !body.is_empty() {
            stream.reserve_capacity(body.len());
            let Some(Ok(n)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
                return;
            };
            let part = body.split_to(n.min(body.len()));
            if stream.send_data(part, body.is_empty()).is_err() {
                return;
            }
        }
    };
    let download = async {
        let (head, mut stream) = response.await?.into_parts();
        let mut body = Vec::new();
        while let Some(data) = stream.data().await {
            let data = data?;
            stream.flow_control().release_capacity(data.len())?;
            body.extend_from_slice(&data);
        }
        let trailers = stream.trailers().await?;
        Ok(Got {
            head: Response::from_parts(head, ()),
            body,
            trailers,
        })
    };
    tokio::join!(upload, download).1
}

pub(super) fn request(method: &str, target: &str) -> Request<()> {
    Request::builder()
        .method(method)
        .uri(format!("http://any{target}"))
        .body(())
        .unwrap()
}

#[test]
fn many_streams_find_their_answers() {
    let big = "0123456789".repeat(100_000);
    let trailers = Tape {
        fields: &[
            ("content-type", "application/grpc"),
            ("Connection", "close"),
        ],
        trailers: &[("grpc-status", "0")],
        interim: &[103],
        ..post("/grpc", "message", "reply")
    };
    let mock = start(vec![
        get("/big", &big),
        trailers,
        get("/small?a=1&b=2", "small"),
    ]);
    with_client(&mock, |client| async move {
        for _ in 0..3 {
            let (big_one, grpc, small, miss) = tokio::join!(
                ask(&client, request("GET", "/big"), None),
                ask(&client, request("POST", "/grpc"), Some(b"message".to_vec())),
                ask(&client, request("GET", "/small?b=2&a=1"), None),
                ask(&client, request("GET", "/missing"), None),
            );
            assert_eq!(big_one.unwrap().body, big.as_bytes());
            let grpc = grpc.unwrap();
            assert_eq!(grpc.body, b"reply");
            assert_eq!(grpc.trailers.unwrap()["grpc-status"], "0");
            assert!(grpc.head.headers().get("connection").is_none());
            let small = small.unwrap();
            assert_eq!(small.head.status(), 200);
            assert_eq!(small.head.headers()["x-case"], "Kept");
            assert_eq!(small.body, b"small");
            let miss = miss.unwrap();
            assert_eq!(miss.head.status(), 501);
            assert!(miss.body.starts_with(b"{"));
        }
    });
    let stats = mock.stop();
    assert_eq!(stats.hits_by_exchange, [(0, 3), (1, 3), (2, 3)]);
    assert_eq!((stats.misses, stats.connections), (3, 1));
}

#[test]
fn bodies_are_bounded() {
    let mock = start_with(
        vec![get("/a", "x")],
        &Options {
            limits: Limits {
                body_bytes: 1 << 20,
                ..Limits::default()
            },
            ..options()
        },
    )
    .unwrap();
    with_client(&mock, |client| async move {
        let fits = ask(&client, request("POST", "/a"), Some(vec![b'x'; 1 << 20])).await;
        assert_eq!(fits.unwrap().head.status(), 501);
        let exceeds = ask(
            &client,
            request("POST", "/a"),
            Some(vec![b'x'; (1 << 20) + 1]),
        )
        .await;
        assert_eq!(exceeds.unwrap().head.status(), 413);
        let next = ask(&client, request("GET", "/a"), None).await;
        assert_eq!(next.unwrap().body, b"x");
    });
}

#[test]
fn a_client_that_gives_no_window_is_let_go() {
    let mock = start_with(
        vec![get("/big", &"x".repeat(1 << 20))],
        &Options {
            limits: Limits {
                write_timeout: Duration::from_millis(100),
                ..Limits::default()
            },
            ..options()
        },
    )
    .unwrap();
    with_client(&mock, |client| async move {
        let mut client = client.ready().await.unwrap();
        let (response, _) = client.send_request(request("GET", "/big"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let error = loop {
            // Reads, but never gives the window back.
            match body.data().await.unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    });
    assert_eq!(mock.stop().timeouts, 1);
}

#[test]
fn rapid_resets_end_the_connection_and_nothing_else() {
    let mock = start(vec![get("/a", "x")]);
    with_client(&mock, |client| async move {
        let mut refused = false;
        for _ in 0..20_000 {
            let Ok(mut client) = client.clone().ready().await else {
                refused = true;
                break;
            };
            let Ok((response, mut stream)) = client.send_request(request("GET", "/a"), false)
            else {
                refused = true;
                break;
            };
            stream.send_reset(h2::Reason::CANCEL);
            drop(response);
        }
        // h2's own client paces resets to its connection task, so the flood may be too slow to be
        // one; then every stream was reset and the connection still answers.
        if !refused {
            let answer = ask(&client, request("GET", "/a"), None).await;
            assert!(answer.is_err() || answer.is_ok_and(|got| got.body == b"x"));
        }
    });
    with_client(&mock, |client| async move {
        let answer = ask(&client, request("GET", "/a"), None).await;
        assert_eq!(answer.unwrap().body, b"x");
    });
}

/// Frames by hand: what no client library would send.
#[test]
fn floods_and_nonsense_end_the_connection_and_nothing_else() {
    let mock = start(vec![get("/a", "x")]);
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    preface.extend(frame(4, 0, 0, b""));
    // :method GET, :scheme http, :path /, and a header that the limit does not allow for.
    let bomb = {
        let mut block = vec![0x82, 0x86, 0x84];
        for _ in 0..20 {
            block.extend([0x40, 0x01, b'a', 0x7f, 0xe1, 0x5e]);
            block.extend(vec![b'x'; 12_256]);
        }
        let mut frames = Vec::new();
        let pieces: Vec<_> = block.chunks(16_000).collect();
        for (n, piece) in pieces.iter().enumerate() {
            let (kind, first) = if n == 0 { (1, 1) } else { (9, 0) };
            let last = if n + 1 == pieces.len() { 4 } else { 0 };
            frames.extend(frame(kind, first | last, 1, piece));
        }
        frames
    };
    let reset = |n: u32| {
        let mut both = frame(1, 5, 2 * n + 1, &[0x82, 0x86, 0x84, 0x41, 0x01, b'a']);
        both.extend(frame(3, 0, 2 * n + 1, &8_u32.to_be_bytes()));
        both
    };
    let floods: [(&str, Vec<u8>); 4] = [
        ("nonsense", frame(0, 0, 0, b"data on stream 0")),
        ("huge frame", vec![0xff; 64]),
        ("header bomb", bomb),
        ("rapid reset", (0..5000).flat_map(reset).collect()),
    ];
    for (what, flood) in floods {
        let mut raw = Raw::connect(mock.addr());
        let mut bytes = preface.clone();
        bytes.extend(&flood);
        // The server may be gone before all is sent.
        let _cut = raw.stream.write_all(&bytes);
        let _half = raw.stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _reset = raw.stream.read_to_end(&mut answer);
        assert!(!answer.is_empty(), "{what}: nothing came back");
    }
    let mut raw = Raw::connect(mock.addr());
    raw.send("GET /a HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(raw.read_all().ends_with("\r\n\r\nx"));
    assert!(mock.stop().refused >= 3);
}

#[test]
fn floods_that_ask_for_nothing_end_by_time_or_by_rule() {
    let short = Duration::from_millis(300);
    let limits = Limits {
        body_timeout: short,
        idle_timeout: short,
        ..Limits::default()
    };
    let mock = start_with(
        vec![get("/a", "x")],
        &Options {
            limits,
            ..options()
        },
    )
    .unwrap();
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        frame.extend(payload);
        frame
    };
    let preface = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, b""),
    ]
    .concat();
    // :method POST, :scheme http, :path /, :authority a
    let head = [0x83, 0x86, 0x84, 0x41, 0x01, b'a'];
    let floods = [
        ("pings", Vec::new(), frame(6, 0, 0, &[0; 8])),
        ("settings", Vec::new(), frame(4, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("empty data", frame(1, 4, 1, &head), frame(0, 0, 1, b"")),
        ("continuations", frame(1, 0, 1, &head), frame(9, 0, 1, b"")),
        ("priorities", Vec::new(), frame(2, 0, 1, &[0, 0, 0, 3, 0])),
        ("windows", Vec::new(), frame(8, 0, 0, &[0, 0, 0, 0])),
    ];
    for (what, first, flood) in floods {
        let mut raw = Raw::connect(mock.addr());
        let mut bytes = preface.clone();
        bytes.extend(&first);
        bytes.extend(flood.repeat(50_000));
        // Who does not read what comes back is not read for long, and the server may be gone before all is
        // sent.
        raw.stream
            .set_write_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let cut = raw.stream.write_all(&bytes).map_err(|error| error.kind());
        assert_ne!(
            cut,
            Err(std::io::ErrorKind::WouldBlock),
            "{what}: neither read nor ended"
        );
        let end = raw
            .stream
            .read_to_end(&mut Vec::new())
            .map_err(|error| error.kind());
        assert_ne!(
            end,
            Err(std::io::ErrorKind::WouldBlock),
            "{what}: never ended"
        );
    }
    assert!(
        talk(mock.addr(), "GET /a HTTP/1.1\r\nConnection: close\r\n\r\n").ends_with("\r\n\r\nx")
    );
    let stats = mock.stop();
    assert_eq!(stats.timeouts + stats.refused, 6, "{stats:?}");
}

#[test]
fn the_preface_is_known_at_every_split() {
    let mock = start(vec![get("/a", "x")]);
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for at in 1..hello.len() {
        let (a, b) = hello.split_at(at);
        let mut raw = Raw::connect(mock.addr());
        raw.send(a);
        raw.send(b);
        let mut frame = [0; 9];
        raw.stream.read_exact(&mut frame).unwrap();
        assert_eq!(frame[3], 4, "SETTINGS first, split at {at}");
    }
}

#[test]
fn a_stopped_mock_finishes_what_it_began() {
    let slow = Tape {
        timing: Timing {
            first_byte: Duration::from_secs(60),
            arrivals: vec![],
        },
        ..get("/slow", "done")
    };
    let mock = start_with(
        vec![slow],
        &Options {
            latency: super::super::options::Latency::Recorded { factor: 1.0 },
            limits: Limits {
                stop_grace: Duration::from_secs(10),
                ..Limits::default()
            },
            ..options()
        },
    )
    .unwrap();
    let addr = mock.addr();
    let client = std::thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
            let (client, connection) = client::handshake(stream).await.unwrap();
            tokio::spawn(async move {
                let _end = connection.await;
            });
            ask(&client, request("GET", "/slow"), None)
                .await
                .unwrap()
                .body
        })
    });
    // The request has been matched, so it waits for its time.
    while mock.stats().hits == 0 {
        std::thread::yield_now();
    }
    let _stats = mock.stop();
    assert_eq!(client.join().unwrap(), b"done");
}

#[test]
fn silent_connections_are_let_go() {
    let mock = start_with(
        vec![get("/a", "x")],
        &Options {
            limits: Limits {
                head_timeout: Duration::from_millis(100),
                idle_timeout: Duration::from_millis(100),
                ..Limits::default()
            },
            ..options()
        },
    )
    .unwrap();
    // Half a preface; a preface; a preface and SETTINGS.
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for len in [10, 24, hello.len()] {
        let mut raw = Raw::connect(mock.addr());
        raw.send(&hello[..len]);
        let mut rest = Vec::new();
        // Closed with unread bytes, it may be reset.
        let _reset = raw.stream.read_to_end(&mut rest);
    }
    assert_eq!(mock.stop().timeouts, 3);
}

#[test]
fn recorded_pauses_within_a_body_are_kept() {
    let pause = Duration::from_millis(60);
    let tape = Tape {
        timing: Timing {
            first_byte: Duration::ZERO,
            arrivals: vec![(3, pause), (6, 2 * pause)],
        },
        ..get("/events", "onetwothree")
    };
    let latency = super::super::options::Latency::Recorded { factor: 1.0 };
    let mock = start_with(
        vec![tape],
        &Options {
            latency,
            ..options()
        },
    )
    .unwrap();
    let begun = Instant::now();
    let got = with_client(&mock, |client| async move {
        ask(&client, request("GET", "/events"), None).await.unwrap()
    });
    assert_eq!(got.body, b"onetwothree");
    assert!(begun.elapsed() >= 2 * pause);
}
