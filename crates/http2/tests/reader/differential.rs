//! The `h2` crate talks to itself, and the reader listens.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tapedeck_model::{Direction, Missing, Role};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio_util::io::InspectWriter;

use crate::log::{Log, Pair, Part, Said, Step, pair, read};

const CALLS: usize = 100;

/// What call `i` is like.
fn request(i: usize) -> Request<()> {
    let mut request = Request::post(format!("http://shop/item/{i}?page={}", i % 7))
        .header("user-agent", "differential")
        .header("x-request-id", format!("{i:032x}"))
        .header("accept", ["*/*", "application/json", "text/html"][i % 3]);
    if i % 10 == 3 {
        // Larger than a frame: CONTINUATIONs.
        request = request.header("x-large", "L~".repeat(12_000 + i));
    }
    request.body(()).unwrap()
}

fn body(i: usize, salt: u8) -> Bytes {
    (0..i * 200)
        .map(|n| (n as u8).wrapping_mul(salt))
        .collect::<Vec<u8>>()
        .into()
}

fn trailers(i: usize) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", (i % 16).into());
    trailers.insert("grpc-message", format!("message {i}").parse().unwrap());
    trailers
}

fn resets(i: usize) -> bool {
    i % 17 == 5
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut builder = h2::server::Builder::new();
    builder
        .max_header_list_size(1 << 20)
        .max_concurrent_streams(200);
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    let mut calls = Vec::new();
    while let Some(call) = connection.accept().await {
        let (request, mut respond) = call.unwrap();
        calls.push(tokio::spawn(async move {
            let i: usize = request.headers()["x-request-id"]
                .to_str()
                .map(|id| usize::from_str_radix(id, 16).unwrap())
                .unwrap();
            let mut incoming = request.into_body();
            while let Some(data) = incoming.data().await {
                let len = data.unwrap().len();
                incoming.flow_control().release_capacity(len).unwrap();
            }
            let response = Response::builder()
                .status([200, 404, 201, 503][i % 4])
                .header("server", "h2")
                .header("date", format!("day {}", i % 5));
            let mut stream = respond
                .send_response(response.body(()).unwrap(), false)
                .unwrap();
            if resets(i) {
                return stream.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
            }
            stream.send_data(body(i, 7), false).unwrap();
            stream.send_trailers(trailers(i)).unwrap();
        }));
    }
}

async fn call(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(1 << 20)
        .max_header_list_size(1 << 20);
    let (client, connection) = builder.handshake::<_, Bytes>(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut calls = Vec::new();
    for i in 0..CALLS {
        let mut client = client.clone().ready().await.unwrap();
        let (response, mut stream) = client.send_request(request(i), i == 0).unwrap();
        if i > 0 {
            stream.send_data(body(i, 3), true).unwrap();
        }
        calls.push(tokio::spawn(async move {
            // A reset may overtake the head that was to be sent before it.
            let Ok(response) = response.await else {
                assert!(resets(i));
                return;
            };
            let mut incoming = response.into_body();
            while let Some(data) = incoming.data().await {
                let Ok(data) = data else {
                    assert!(resets(i));
                    return;
                };
                incoming
                    .flow_control()
                    .release_capacity(data.len())
                    .unwrap();
            }
            assert_eq!(incoming.trailers().await.unwrap(), Some(trailers(i)));
        }));
    }
    for call in calls {
        call.await.unwrap();
    }
    drop(client);
    connection.await.unwrap().unwrap();
}

fn conversation() -> Vec<Step> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    runtime.block_on(async {
        let (client, server) = tokio::io::duplex(9_000);
        let tee = |pipe: DuplexStream, direction| {
            let heard = Arc::clone(&heard);
            InspectWriter::new(pipe, move |bytes: &[u8]| {
                let step = Step::Bytes(direction, bytes.to_vec());
                heard.lock().unwrap().push(step);
            })
        };
        let server = tokio::spawn(serve(tee(server, Direction::ToClient)));
        call(tee(client, Direction::ToServer)).await;
        server.await.unwrap();
    });
    Arc::into_inner(heard).unwrap().into_inner().unwrap()
}

fn pairs(headers: &HeaderMap) -> Vec<Pair> {
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        pair(name.as_str(), value.to_str().unwrap())
    };
    headers.iter().map(text).collect()
}

fn bytes(said: &Said) -> Vec<u8> {
    let part = |part: &Part| match part {
        Part::Bytes(bytes) => bytes.clone(),
        Part::Gap(_) => Vec::new(),
    };
    said.body.iter().flat_map(part).collect()
}

fn sorted(mut pairs: Vec<Pair>) -> Vec<Pair> {
    pairs.sort();
    pairs
}

fn check_request(i: usize, said: &Said) {
    let request = request(i);
    let uri = request.uri();
    let mut expect = pairs(request.headers());
    expect.extend([
        pair(":method", "POST"),
        pair(":scheme", "http"),
        pair(":authority", "shop"),
        pair(":path", uri.path_and_query().unwrap().as_str()),
    ]);
    assert_eq!(said.head.clone().map(sorted), Some(sorted(expect)));
    assert!(bytes(said) == body(i, 3), "{i}");
    assert_eq!(said.end, Some((Missing::NONE, None)));
}

fn check_response(i: usize, said: &Said) {
    if resets(i) {
        let aborted = said.end == Some((Missing::ABORTED, Some(11)));
        assert!(aborted || said.absent == Some(Missing::ABORTED), "{said:?}");
        return;
    }
    let status = [200, 404, 201, 503][i % 4].to_string();
    let expect = [
        pair(":status", &status),
        pair("server", "h2"),
        pair("date", &format!("day {}", i % 5)),
    ];
    assert_eq!(said.head.clone().map(sorted), Some(sorted(expect.to_vec())));
    assert!(bytes(said) == body(i, 7), "{i}");
    assert_eq!(
        said.trailers.clone().map(sorted),
        Some(sorted(pairs(&trailers(i))))
    );
    assert_eq!(said.end, Some((Missing::NONE, None)));
}

#[test]
fn a_hundred_interleaved_calls_of_h2() {
    let steps = conversation();
    let log = read(&steps);
    assert_eq!(log.named(), []);
    for i in 0..CALLS {
        let id = i as u64 * 2 + 1;
        check_request(i, log.message(id, Role::Request));
        check_response(i, log.message(id, Role::Response));
    }
    assert_eq!(log.messages.len(), 2 * CALLS);
}

/// The reader is told of losses by packets: of every `every`-th write, a stretch is lost.
fn lossy(steps: &[Step], every: usize) -> Vec<Step> {
    let mut out = Vec::new();
    for (place, step) in steps.iter().enumerate() {
        let Step::Bytes(direction, bytes) = step else {
            continue;
        };
        let start = place * 37 % bytes.len();
        let end = (start + 1460).min(bytes.len());
        if place % every != every - 1 {
            out.push(step.clone());
            continue;
        }
        out.push(Step::Bytes(*direction, bytes[..start].to_vec()));
        out.push(Step::Gap(*direction, (end - start) as u64));
        out.push(Step::Bytes(*direction, bytes[end..].to_vec()));
    }
    out
}

#[test]
fn with_losses_what_is_whole_is_true() {
    let steps = conversation();
    let truth = read(&steps);
    for every in [7, 20, 60] {
        for skip in [0, 3, 11] {
            let log = read(&lossy(&steps[skip..], every));
            let mut whole = 0;
            for (key, said) in &log.messages {
                let truth = &truth.messages[key];
                if said.end == Some((Missing::NONE, None)) {
                    whole += 1;
                    assert!(said == truth, "{key:?}");
                }
                let known = |fields: &Option<Vec<Pair>>| fields.clone().unwrap_or_default();
                for (said, truth) in [(&said.head, &truth.head), (&said.trailers, &truth.trailers)]
                {
                    for (said, truth) in known(said).iter().zip(known(truth)) {
                        assert!(said.0.is_none() || said.0 == truth.0, "{key:?}");
                        assert!(said.1.is_none() || said.1 == truth.1, "{key:?}");
                    }
                }
            }
            // Most bodies are hit when a seventh of all packets is; few when a sixtieth is. (Where
            // the beginning is missing, no head is without an unknown field.)
            assert!(
                skip > 0 || every < 60 || whole > 20,
                "{every}: {whole} whole"
            );
        }
    }
}

#[test]
fn the_same_in_pieces_of_any_size() {
    let steps = conversation();
    let truth: Log = read(&steps);
    for len in [17, 1460] {
        let cut = steps.iter().flat_map(|step| match step {
            Step::Bytes(direction, bytes) => {
                let piece = |piece: &[u8]| Step::Bytes(*direction, piece.to_vec());
                bytes.chunks(len).map(piece).collect()
            }
            other => vec![other.clone()],
        });
        assert!(read(&cut.collect::<Vec<_>>()) == truth, "{len}");
    }
}
