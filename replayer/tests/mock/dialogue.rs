//! Calls of gRPC in which the server answers before the client has said all.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{RecvStream, SendStream};
use http::Request;
use tapedeck_archive::{Archive, BodyBuffer, Scratch};
use tapedeck_model::exchange::Arrival;
use tapedeck_model::{Exchange, Protocol};
use tapedeck_replayer::mock::{Mock, OnMiss, Options, RunningMock, Upstreams};
use tokio::runtime;
use tokio::time::timeout;

use crate::tape::{Case, Disk, GET, archive, head};

fn message(text: &str) -> Vec<u8> {
    let mut message = vec![0, 0, 0, 0, text.len() as u8];
    message.extend_from_slice(text.as_bytes());
    message
}

/// A recorded call: what was said, and after how many milliseconds.
fn call(key: u64, said: &[(u64, &'static str)], heard: &[(u64, &'static str)]) -> Exchange {
    let case = Case {
        protocol: Protocol::Http2,
        method: "POST",
        target: "/shop.Talk/Chat",
        fields: &[("content-type", "application/grpc")],
        ..GET
    };
    let mut exchange = case.exchange(key);
    let began = exchange.request.as_ref().unwrap().first_byte;
    let at = |ms: u64| began.saturating_add(Duration::from_millis(ms));
    let fields = [
        (":authority", "shop.local"),
        ("content-type", "application/grpc+proto"),
    ];
    let request = exchange.request.as_mut().unwrap();
    request.head = Some(head(Protocol::Http2, &["POST", "/shop.Talk/Chat"], &fields));
    let response = exchange.response.as_mut().unwrap();
    response.trailers = Some(head(Protocol::Http2, &[], &[("grpc-status", "0")]));
    for (message_of, words) in [(request, said), (response, heard)] {
        let body = &mut message_of.body;
        body.tail.clear();
        body.arrivals = words
            .iter()
            .scan(0, |offset, (ms, word)| {
                let arrival = Arrival {
                    offset: *offset,
                    at: at(*ms),
                };
                *offset += message(word).len() as u64;
                body.tail.extend_from_slice(&message(word));
                Some(arrival)
            })
            .skip(1)
            .collect();
        body.len = body.tail.len() as u64;
        message_of.first_byte = at(words.first().map_or(0, |(ms, _)| *ms));
        message_of.last_byte = at(words.last().map_or(0, |(ms, _)| *ms + 1));
    }
    exchange
}

fn serve(exchanges: &[Exchange], options: &Options) -> (Disk, RunningMock) {
    let (disk, archive) = archive(exchanges);
    (disk, Mock::start(archive, options).unwrap())
}

/// One call of a client that waits for answers.
struct Talk {
    send: SendStream<Bytes>,
    receive: RecvStream,
    held: Vec<u8>,
}

impl Talk {
    /// Begins with these words, and waits for the head of the answer.
    async fn begin(client: &SendRequest<Bytes>, words: &[&str]) -> Self {
        let mut client = client.clone().ready().await.unwrap();
        let request = Request::builder()
            .method("POST")
            .uri("http://shop.local/shop.Talk/Chat")
            .header("content-type", "application/grpc+proto")
            .body(())
            .unwrap();
        let (response, send) = client.send_request(request, false).unwrap();
        let mut send = send;
        for word in words {
            send.send_data(message(word).into(), false).unwrap();
        }
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        Self {
            send,
            receive: response.into_body(),
            held: Vec::new(),
        }
    }

    fn say(&mut self, word: &str) {
        self.send.send_data(message(word).into(), false).unwrap();
    }

    /// The next message.
    async fn hear(&mut self) -> String {
        loop {
            if let Some(len) = self.held.get(4).map(|len| usize::from(*len) + 5)
                && self.held.len() >= len
            {
                let message: Vec<u8> = self.held.drain(..len).skip(5).collect();
                return String::from_utf8(message).unwrap();
            }
            let data = poll_fn(|cx| self.receive.poll_data(cx)).await;
            let data = data.expect("another message").unwrap();
            self.receive
                .flow_control()
                .release_capacity(data.len())
                .unwrap();
            self.held.extend_from_slice(&data);
        }
    }

    /// Says no more, and gives the status.
    async fn end(mut self) -> String {
        self.send.send_data(Bytes::new(), true).unwrap();
        assert!(self.held.is_empty() && self.receive.data().await.is_none());
        let trailers = self.receive.trailers().await.unwrap().unwrap();
        trailers["grpc-status"].to_str().unwrap().to_owned()
    }
}

fn with_client<F: Future>(
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
        timeout(Duration::from_secs(60), talk(client))
            .await
            .unwrap()
    })
}

fn chat() -> Vec<Exchange> {
    vec![
        call(0, &[(0, "one"), (20, "two")], &[(10, "ONE"), (30, "TWO")]),
        // Began alike; said something else then.
        call(1, &[(0, "one"), (20, "2")], &[(10, "Eins"), (30, "Zwei")]),
        call(
            2,
            &[(0, "hello"), (20, "you")],
            &[(10, "HELLO"), (30, "YOU")],
        ),
        // Whole before it was answered.
        call(3, &[(0, "all"), (1, "said")], &[(10, "done")]),
    ]
}

#[test]
fn a_client_that_waits_for_answers_gets_them_in_turn() {
    let (_disk, mock) = serve(&chat(), &Options::default());
    with_client(&mock, async |client| {
        let mut talk = Talk::begin(&client, &["hello"]).await;
        assert_eq!(talk.hear().await, "HELLO");
        // Whatever it says.
        talk.say("me");
        assert_eq!(talk.hear().await, "YOU");
        assert_eq!(talk.end().await, "0");
        // Two that begin alike are told apart by their order.
        for (one, two) in [("ONE", "TWO"), ("Eins", "Zwei"), ("Eins", "Zwei")] {
            let mut talk = Talk::begin(&client, &["one"]).await;
            assert_eq!(talk.hear().await, one);
            talk.say("next");
            assert_eq!(talk.hear().await, two);
            assert_eq!(talk.end().await, "0");
        }
    });
    let stats = mock.stop();
    assert_eq!((stats.hits, stats.misses), (4, 0));
    assert_eq!(stats.hits_by_exchange, [(0, 1), (1, 2), (2, 1)]);
}

#[test]
fn what_is_whole_at_once_finds_its_own_answer() {
    let (_disk, mock) = serve(&chat(), &Options::default());
    with_client(&mock, async |client| {
        for (words, answers) in [
            (["one", "2"], &["Eins", "Zwei"][..]),
            (["one", "two"], &["ONE", "TWO"]),
            (["all", "said"], &["done"]),
        ] {
            let mut client = client.clone().ready().await.unwrap();
            let request = Request::builder()
                .method("POST")
                .uri("http://shop.local/shop.Talk/Chat")
                .header("content-type", "application/grpc+proto")
                .body(())
                .unwrap();
            let (response, mut send) = client.send_request(request, false).unwrap();
            let body: Vec<u8> = words.iter().flat_map(|word| message(word)).collect();
            send.send_data(body.into(), true).unwrap();
            let mut receive = response.await.unwrap().into_body();
            let mut got = Vec::new();
            while let Some(data) = receive.data().await {
                got.extend_from_slice(&data.unwrap());
            }
            let expected: Vec<u8> = answers.iter().flat_map(|word| message(word)).collect();
            assert_eq!(got, expected, "{words:?}");
            assert_eq!(
                receive.trailers().await.unwrap().unwrap()["grpc-status"],
                "0"
            );
        }
    });
    let stats = mock.stop();
    assert_eq!(stats.hits_by_exchange, [(0, 1), (1, 1), (3, 1)]);
}

async fn chat_with(client: SendRequest<Bytes>) {
    let mut talk = Talk::begin(&client, &["hello"]).await;
    assert_eq!(talk.hear().await, "HELLO");
    talk.say("you");
    assert_eq!(talk.hear().await, "YOU");
    assert_eq!(talk.end().await, "0");
}

#[test]
fn turns_are_recorded_through_the_mock_and_served_again() {
    let (_disk, real) = serve(&chat(), &Options::default());
    let folder = tempfile::tempdir().unwrap();
    let (recorded, received) = (
        folder.path().join("new.tape"),
        folder.path().join("in.tape"),
    );
    let options = Options {
        on_miss: OnMiss::Passthrough,
        upstreams: Upstreams {
            list: vec![format!("h2c://{}", real.addr()).parse().unwrap()],
            ..Upstreams::default()
        },
        recorded: Some(recorded.clone()),
        received: Some(received.clone()),
        ..Options::default()
    };
    // What it knows is something else: the client is heard by the real one while it speaks.
    let (_disk, between) = serve(&[GET.exchange(0)], &options);
    with_client(&between, chat_with);
    let stats = between.stop();
    assert_eq!((stats.passed, stats.upstream_failures), (1, 0));
    assert_eq!(real.stop().hits, 1);

    let archive = Archive::open(&recorded).unwrap();
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::new());
    let record = archive.load(0, &mut scratch).unwrap();
    let request = record.request().unwrap();
    let body = archive.body(&request.body(), &mut buffer).unwrap();
    assert_eq!(body, [message("hello"), message("you")].concat());
    assert!(request.last_byte() > record.response().unwrap().first_byte());
    assert!(archive.row(0).unwrap().complete());
    drop(archive);
    for path in [recorded, received] {
        let archive = Arc::new(Archive::open(&path).unwrap());
        let again = Mock::start(archive, &Options::default()).unwrap();
        with_client(&again, chat_with);
        let stats = again.stop();
        assert_eq!((stats.hits, stats.misses), (1, 0));
    }
}

/// The status of the answer to a client that says one thing, and no more until it is answered.
async fn ask_and_wait(client: SendRequest<Bytes>, path: &str) -> u16 {
    let request = Request::builder()
        .method("POST")
        .uri(format!("http://shop.local{path}"))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let mut client = client.ready().await.unwrap();
    let (response, mut send) = client.send_request(request, false).unwrap();
    send.send_data(message("hello?").into(), false).unwrap();
    response.await.unwrap().status().into()
}

#[test]
fn a_client_that_waits_in_vain_is_told() {
    let mut options = Options::default();
    for (path, silence) in [
        // Nothing that could still come would make it a recorded call.
        ("/shop.Talk/Never", Duration::from_hours(1)),
        // Something could, but does not.
        ("/shop.Talk/Chat", Duration::from_millis(100)),
    ] {
        options.limits.grpc_silence = silence;
        let (_disk, mock) = serve(&chat(), &options);
        let status = with_client(&mock, async |client| ask_and_wait(client, path).await);
        assert_eq!(status, 501, "{path}");
        let stats = mock.stop();
        assert_eq!((stats.hits, stats.misses), (0, 1));
        assert_eq!(stats.missed[0].target, path);
    }
}

/// As long as its silence may only be a pause, what it says next still counts.
#[test]
fn a_client_that_takes_its_time_is_heard() {
    let mut options = Options::default();
    options.limits.grpc_silence = Duration::from_hours(1);
    let (_disk, mock) = serve(&chat(), &options);
    with_client(&mock, async |client| {
        let request = Request::builder()
            .method("POST")
            .uri("http://shop.local/shop.Talk/Chat")
            .header("content-type", "application/grpc+proto")
            .body(())
            .unwrap();
        let mut client = client.ready().await.unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        let whole = [message("all"), message("said")].concat();
        for byte in whole {
            send.send_data(vec![byte].into(), false).unwrap();
            tokio::task::yield_now().await;
        }
        send.send_data(Bytes::new(), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), message("done"));
    });
    assert_eq!(mock.stop().hits_by_exchange, [(3, 1)]);
}
