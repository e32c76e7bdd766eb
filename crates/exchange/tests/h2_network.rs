//! The `h2` crate talks to itself over a network that loses, repeats and reorders packets, and the
//! capture of it may begin anywhere, or see one direction alone. What comes out is what was said, or
//! says that it is not whole.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_model::{
    BodyPart, Direction, Exchange, Head, Message, Missing, Role, Scope, Timestamp, UnreadConnection,
};
use tapedeck_packet::{LinkType, RawPacket};
use tapedeck_testkit::{Conversation, Faults, Rng, SegmentBuf, wire};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio_util::io::InspectWriter;

type Pairs = Vec<(String, String)>;

/// What one call is to say.
#[derive(Debug)]
struct Call {
    path: String,
    fields: Pairs,
    body: Vec<u8>,
    hints: bool,
    status: u16,
    answer_fields: Pairs,
    answer: Vec<u8>,
    trailers: Pairs,
    /// The server gives it up behind the head of the answer.
    resets: bool,
}

fn calls(rng: &mut Rng, count: usize) -> Vec<Call> {
    let field = |name: &str, value: String| (name.to_owned(), value);
    let call = |number: usize| {
        let large = 3_000 + rng.below(20_000);
        let mut fields = vec![
            field("x-call", number.to_string()),
            field("x-token", format!("{:016x}", rng.next_u64())),
            field(
                "accept",
                ["*/*", "text/html", "a/b"][rng.below(3)].to_owned(),
            ),
        ];
        if rng.chance(10) {
            // CONTINUATION.
            fields.push(field("x-large", "L~".repeat(large / 2)));
        }
        let kind = rng.below(4);
        let trailers = [
            field("grpc-status", rng.below(17).to_string()),
            field("grpc-message", format!("message {number}")),
        ];
        let (len, answer_len) = (rng.below(3_000), rng.below(9_000));
        Call {
            path: format!("/item/{number}?page={}", rng.below(5)),
            fields,
            body: if kind == 0 {
                Vec::new()
            } else {
                rng.bytes(len)
            },
            hints: rng.chance(15),
            status: [200, 201, 404, 503][rng.below(4)],
            answer_fields: vec![
                field("server", "h2".to_owned()),
                field("etag", format!("{:08x}", rng.below(6))),
                field("x-secret", format!("{:08x}", rng.next_u64())),
            ],
            answer: if kind == 1 {
                Vec::new()
            } else {
                rng.bytes(answer_len)
            },
            trailers: if kind == 2 {
                trailers.into()
            } else {
                Vec::new()
            },
            resets: rng.chance(6),
        }
    };
    (0..count).map(call).collect()
}

fn map(pairs: &Pairs) -> HeaderMap {
    let entry = |(name, value): &(String, String)| {
        let mut text: HeaderValue = value.parse().unwrap();
        // Never entered into a table.
        text.set_sensitive(name == "x-secret");
        (name.parse::<HeaderName>().unwrap(), text)
    };
    pairs.iter().map(entry).collect()
}

/// What was written, by whom, in order.
type Heard = Arc<Mutex<Vec<(Direction, Vec<u8>)>>>;

/// Answers all calls, the last one after the others as they come.
async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, calls: Arc<Vec<Call>>, table: u32) {
    let mut builder = h2::server::Builder::new();
    builder
        .max_header_list_size(1 << 20)
        .header_table_size(table)
        .max_concurrent_streams(200);
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    let mut answers = Vec::new();
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.unwrap();
        let number = request.headers()["x-call"].to_str().unwrap();
        let number: usize = number.parse().unwrap();
        let calls = Arc::clone(&calls);
        answers.push(tokio::spawn(async move {
            answer(request, respond, &calls[number]).await;
        }));
    }
    for answer in answers {
        answer.await.unwrap();
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    call: &Call,
) {
    if call.hints {
        let hints = Response::builder().status(103).header("link", "</a.css>");
        respond.send_informational(hints.body(()).unwrap()).unwrap();
    }
    let mut incoming = request.into_body();
    while let Some(data) = incoming.data().await {
        let len = data.unwrap().len();
        incoming.flow_control().release_capacity(len).unwrap();
    }
    let mut response = Response::builder().status(call.status).body(()).unwrap();
    *response.headers_mut() = map(&call.answer_fields);
    let ends = call.answer.is_empty() && call.trailers.is_empty() && !call.resets;
    let mut stream = respond.send_response(response, ends).unwrap();
    if call.resets {
        return stream.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
    }
    let mut pieces = call.answer.chunks(1_700).peekable();
    while let Some(piece) = pieces.next() {
        let last = pieces.peek().is_none() && call.trailers.is_empty();
        let piece = Bytes::copy_from_slice(piece);
        stream.send_data(piece, last).unwrap();
    }
    if !call.trailers.is_empty() {
        stream.send_trailers(map(&call.trailers)).unwrap();
    }
}

async fn ask(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    calls: Arc<Vec<Call>>,
    table: u32,
) {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(1 << 20)
        .header_table_size(table)
        .max_header_list_size(1 << 20);
    let (client, connection) = builder.handshake::<_, Bytes>(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut answers = Vec::new();
    for number in 0..calls.len() {
        let call = &calls[number];
        let mut client = client.clone().ready().await.unwrap();
        let uri = format!("http://shop{}", call.path);
        let mut request = Request::post(uri).body(()).unwrap();
        *request.headers_mut() = map(&call.fields);
        let (response, mut stream) = client.send_request(request, call.body.is_empty()).unwrap();
        let mut pieces = call.body.chunks(900).peekable();
        while let Some(piece) = pieces.next() {
            let piece = Bytes::copy_from_slice(piece);
            stream.send_data(piece, pieces.peek().is_none()).unwrap();
        }
        answers.push(tokio::spawn(async move {
            // What the server gave up ends with an error, here or there.
            let Ok(response) = response.await else {
                return;
            };
            let mut incoming = response.into_body();
            while let Some(Ok(data)) = incoming.data().await {
                let flow = incoming.flow_control();
                flow.release_capacity(data.len()).unwrap();
            }
            let _trailers = incoming.trailers().await;
        }));
    }
    for answer in answers {
        answer.await.unwrap();
    }
    drop(client);
    connection.await.unwrap().unwrap();
}

/// A conversation of `h2` with itself: what was to be said, and the packets of it.
struct Talk {
    calls: Arc<Vec<Call>>,
    segments: Vec<SegmentBuf>,
}

fn talk(seed: u64) -> Talk {
    let mut rng = Rng::new(seed);
    let calls = Arc::new(calls(&mut rng, 40));
    let heard = Heard::default();
    let tables = [0, 256, 4_096, 16_384];
    let (up, down) = (tables[rng.below(4)], tables[rng.below(4)]);
    let (client, server) = tokio::io::duplex(500 + rng.below(20_000));
    let tee = |pipe: DuplexStream, direction| {
        let heard = Arc::clone(&heard);
        InspectWriter::new(pipe, move |bytes: &[u8]| {
            heard.lock().unwrap().push((direction, bytes.to_vec()));
        })
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let answers = serve(tee(server, Direction::ToClient), Arc::clone(&calls), up);
        let answers = tokio::spawn(answers);
        ask(tee(client, Direction::ToServer), Arc::clone(&calls), down).await;
        answers.await.unwrap();
    });
    let mut packets = Conversation::new("10.0.0.1:40000", "10.0.0.2:80").acknowledging();
    packets.mss = 100 + rng.below(1_361);
    // What comes late comes within the patience of the reassembly.
    packets.step = Duration::from_micros(10);
    packets.handshake();
    for (direction, bytes) in heard.lock().unwrap().iter() {
        packets.send(*direction, bytes);
    }
    packets.close();
    Talk {
        calls,
        segments: packets.segments,
    }
}

#[derive(Default)]
struct Tape(Vec<Exchange>);

impl Recorder for Tape {
    fn body_part(&mut self, _part: &BodyPart) {}

    fn exchange(&mut self, exchange: &Exchange) {
        self.0.push(exchange.clone());
    }

    fn unread(&mut self, _connection: &UnreadConnection) {}
}

/// What is read of packets that come in this order, by the streams.
fn read(segments: &[SegmentBuf]) -> BTreeMap<u64, Exchange> {
    let mut engine = Engine::new(Limits::default());
    let mut tape = Tape::default();
    for (number, segment) in (0..).zip(segments) {
        let data = wire::ip(&segment.as_segment());
        let packet = RawPacket {
            at: Timestamp::from_nanos(1_000_000_000 + number * 10_000),
            link: LinkType::RAW,
            scope: Scope(0),
            data: &data,
            wire_len: u32::try_from(data.len()).unwrap(),
        };
        engine.packet(&packet, &mut tape);
    }
    engine.finish(&mut tape);
    let ledger = engine.ledger();
    assert_eq!(
        ledger.payload_bytes_seen,
        ledger.payload_bytes_delivered
            + ledger.payload_bytes_duplicate
            + ledger.payload_bytes_dropped
    );
    let count = tape.0.len();
    let by_stream: BTreeMap<u64, Exchange> = tape
        .0
        .into_iter()
        .map(|exchange| (exchange.stream, exchange))
        .collect();
    assert_eq!(by_stream.len(), count, "a stream was told twice");
    by_stream
}

/// Name and value of each field; `None`: unknown.
type Fields = Vec<(Option<Vec<u8>>, Option<Vec<u8>>)>;

fn fields(head: Option<&Head>) -> Option<Fields> {
    let head = head?;
    let field = |field: &tapedeck_model::Field| {
        (
            (!field.name_unknown).then(|| field.name.of(&head.raw).to_vec()),
            (!field.value_unknown).then(|| field.value.of(&head.raw).to_vec()),
        )
    };
    Some(head.fields.iter().map(field).collect())
}

fn known(head: Option<&Head>) -> Pairs {
    let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap()).unwrap();
    let fields = fields(head).unwrap_or_default().into_iter();
    let mut pairs: Pairs = fields
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    pairs.sort();
    pairs
}

fn sorted(pairs: &Pairs, more: &[(&str, &str)]) -> Pairs {
    let mut pairs = pairs.clone();
    let more = more.iter();
    pairs.extend(more.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    pairs.sort();
    pairs
}

/// Everything that was to be said came out.
fn assert_whole(read: &BTreeMap<u64, Exchange>, calls: &[Call]) {
    assert_eq!(read.len(), calls.len());
    for (number, call) in (0..).zip(calls) {
        let exchange = &read[&(2 * number + 1)];
        let request = exchange.request.as_ref().unwrap();
        let start = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "shop"),
            (":path", call.path.as_str()),
        ];
        assert_eq!(known(request.head.as_ref()), sorted(&call.fields, &start));
        assert!(request.body.tail == call.body, "{number}");
        assert!(exchange.anomalies.is_empty(), "{number}: {exchange:?}");
        if call.resets {
            let missing = exchange.missing(Role::Response);
            assert!(missing.contains(Missing::ABORTED), "{number}: {missing:?}");
            let codes = [exchange.request.as_ref(), exchange.response.as_ref()];
            let code = codes
                .iter()
                .flatten()
                .find_map(|message| message.reset_code);
            assert_eq!(code, Some(11), "{number} {exchange:?}");
            continue;
        }
        assert!(exchange.complete(), "{number}: {exchange:?}");
        let response = exchange.response.as_ref().unwrap();
        let status = call.status.to_string();
        assert_eq!(
            known(response.head.as_ref()),
            sorted(&call.answer_fields, &[(":status", &status)])
        );
        assert!(response.body.tail == call.answer, "{number}");
        assert_eq!(
            known(response.trailers.as_ref()),
            sorted(&call.trailers, &[])
        );
        assert_eq!(exchange.interim.len(), usize::from(call.hints), "{number}");
    }
}

fn message(exchange: &Exchange, role: Role) -> Option<&Message> {
    match role {
        Role::Request => exchange.request.as_ref(),
        Role::Response => exchange.response.as_ref(),
    }
}

/// Fields are those of the truth or unknown; a head that is cut has fewer.
fn is_of(said: &Fields, truth: &Fields) -> bool {
    said.len() <= truth.len()
        && said.iter().zip(truth).all(|(said, truth)| {
            let part = |said: &Option<Vec<u8>>, truth| said.is_none() || said == truth;
            part(&said.0, &truth.0) && part(&said.1, &truth.1)
        })
}

/// Whether the stored bytes can be the true ones: in order, with the gaps that were told. Where the
/// length of a gap is not known, or the beginning was not seen, any number of bytes may be missing.
fn fits(message: &Message, truth: &[u8], floating: bool, open: bool) -> bool {
    let (mut stored, mut place) = (&message.body.tail[..], 0);
    let mut pieces = Vec::new();
    for gap in &message.body.gaps {
        let (piece, rest) = stored.split_at(gap.offset as usize - place);
        pieces.push((piece, Some(gap.gap.len as usize)));
        (stored, place) = (rest, gap.offset as usize);
    }
    pieces.push((stored, None));
    fits_pieces(&pieces, truth, floating, open)
}

fn fits_pieces(
    pieces: &[(&[u8], Option<usize>)],
    truth: &[u8],
    floating: bool,
    open: bool,
) -> bool {
    let Some(((piece, gap), rest)) = pieces.split_first() else {
        return open || floating || truth.is_empty();
    };
    let starts = 0..=if floating { truth.len() } else { 0 };
    let mut behind = starts.filter_map(|start| truth.get(start..)?.strip_prefix(*piece));
    behind.any(|truth| {
        let floating = floating && piece.is_empty();
        match gap {
            None => open || floating || truth.is_empty(),
            Some(0) => fits_pieces(rest, truth, true, open),
            Some(len) => match truth.get(*len..) {
                Some(truth) => fits_pieces(rest, truth, floating, open),
                None => false,
            },
        }
    })
}

/// What is said of an exchange is true, and where it is said to be whole, it is.
#[track_caller]
fn assert_true(stream: u64, said: &Exchange, truth: &Exchange) {
    for role in [Role::Request, Role::Response] {
        let missing = said.missing(role);
        let Some(of) = message(said, role) else {
            assert!(!missing.is_empty(), "{stream} {role:?} is gone");
            continue;
        };
        let hints = truth.interim.iter().filter(|_| role == Role::Response);
        let hints: Vec<Fields> = hints.filter_map(|hint| fields(Some(&hint.head))).collect();
        let Some(truth) = message(truth, role) else {
            // An interim response whose status is unknown may be the final one.
            let head = fields(of.head.as_ref()).unwrap_or_default();
            let is_hint = missing.contains(Missing::UNKNOWN_FIELDS)
                && hints.iter().any(|hint| is_of(&head, hint));
            assert!(is_hint, "{stream} {role:?} was never there: {of:?}");
            continue;
        };
        let (said_head, true_head) = (fields(of.head.as_ref()), fields(truth.head.as_ref()));
        let (said_end, true_end) = (
            fields(of.trailers.as_ref()),
            fields(truth.trailers.as_ref()),
        );
        if missing.is_empty() {
            assert_eq!(said_head, true_head, "{stream} {role:?}");
            assert!(of.body.tail == truth.body.tail, "{stream} {role:?}");
            assert_eq!(said_end, true_end, "{stream} {role:?}");
        }
        if missing == Missing::UNKNOWN_FIELDS {
            assert!(of.body.tail == truth.body.tail, "{stream} {role:?} {of:?}");
        }
        if let Some(head) = &said_head {
            // Where the head was lost, trailers are the first that is seen of it.
            let of_truth = [&true_head, &true_end].into_iter().flatten();
            let is_true = of_truth.chain(&hints).any(|truth| is_of(head, truth));
            assert!(is_true, "{stream} {role:?} {missing:?}: {head:?}");
        }
        if let Some(end) = &said_end {
            let is_true = true_end.is_some_and(|truth| is_of(end, &truth));
            assert!(is_true, "{stream} {role:?}: {end:?}");
        }
        let floating = of.head.is_none() || missing.contains(Missing::LOST);
        assert!(
            fits(of, &truth.body.tail, floating, !missing.is_empty()),
            "{stream} {role:?} {missing:?}: {} bytes of {}, gaps {:?}",
            of.body.tail.len(),
            truth.body.tail.len(),
            of.body.gaps
        );
    }
}

#[track_caller]
fn assert_all_true(said: &BTreeMap<u64, Exchange>, truth: &BTreeMap<u64, Exchange>) {
    for (stream, said) in said {
        let Some(truth) = truth.get(stream) else {
            panic!("stream {stream} was never there: {said:?}");
        };
        assert_true(*stream, said, truth);
    }
}

fn whole(read: &BTreeMap<u64, Exchange>) -> usize {
    read.values().filter(|exchange| exchange.complete()).count()
}

#[test]
fn repetition_and_disorder_change_nothing() {
    let faults = Faults {
        loss: 0,
        duplicate: 10,
        reorder: 20,
        window: 6,
    };
    for seed in 0..8 {
        let talk = talk(seed);
        assert_whole(&read(&talk.segments), &talk.calls);
        let late = faults.inject(&mut Rng::new(seed), &talk.segments);
        assert_whole(&read(&late), &talk.calls);
    }
}

#[test]
fn what_survives_losses_is_true() {
    for (loss, at_least) in [(1, 60), (4, 1), (20, 0)] {
        let faults = Faults {
            loss,
            duplicate: 5,
            reorder: 10,
            window: 4,
        };
        let mut survived = 0;
        for seed in 0..8 {
            let talk = talk(seed);
            let truth = read(&talk.segments);
            let lossy = read(&faults.inject(&mut Rng::new(100 + seed), &talk.segments));
            assert_all_true(&lossy, &truth);
            survived += whole(&lossy);
        }
        // Of 320 calls.
        assert!(survived >= at_least, "{loss} per cent: {survived} whole");
    }
}

/// No byte of a body goes without a word.
#[test]
fn the_loss_of_any_segment_is_said() {
    let bytes = |read: &BTreeMap<u64, Exchange>, of: &BTreeMap<u64, Exchange>| -> u64 {
        let whole = read.iter().filter(|(stream, _)| of[stream].complete());
        let messages = whole.flat_map(|(_, exchange)| {
            let roles = [Role::Request, Role::Response].into_iter();
            roles.filter_map(|role| message(exchange, role))
        });
        messages.map(|message| message.body.len).sum()
    };
    let talk = talk(3);
    let truth = read(&talk.segments);
    let mut said_so = 0;
    for lost in 0..talk.segments.len() {
        if talk.segments[lost].payload.is_empty() {
            continue;
        }
        let mut rest = talk.segments.clone();
        rest.remove(lost);
        let said = read(&rest);
        assert_all_true(&said, &truth);
        if bytes(&said, &truth) < bytes(&truth, &truth) {
            assert!(whole(&said) < whole(&truth), "segment {lost}");
            said_so += 1;
        }
    }
    assert!(said_so > 20, "{said_so}");
}

#[test]
fn a_capture_from_the_middle_has_bodies_exact_and_guesses_no_field() {
    let mut unknown = 0;
    for seed in 0..4 {
        let talk = talk(seed);
        let truth = read(&talk.segments);
        for start in (0..talk.segments.len()).step_by(talk.segments.len() / 12) {
            let said = read(&talk.segments[start..]);
            assert_all_true(&said, &truth);
            for (stream, exchange) in &said {
                for role in [Role::Request, Role::Response] {
                    let Some(of) = message(exchange, role) else {
                        continue;
                    };
                    let began_before = of.missing.contains(Missing::PREDATES_CAPTURE);
                    if of.head.is_none() || began_before {
                        continue;
                    }
                    let Some(truth) = message(&truth[stream], role) else {
                        // Reset behind an interim response, whose status is not known here.
                        assert!(of.missing.contains(Missing::UNKNOWN_FIELDS));
                        continue;
                    };
                    // Nothing was lost behind the beginning.
                    assert!(!of.missing.contains(Missing::LOST), "{stream} {role:?}");
                    assert!(of.body.tail == truth.body.tail, "{stream} {role:?}");
                    unknown += usize::from(of.missing == Missing::UNKNOWN_FIELDS);
                }
            }
        }
    }
    assert!(
        unknown > 50,
        "{unknown} with fields from before the capture"
    );
}

#[test]
fn one_direction_alone_is_read() {
    for seed in 0..4 {
        let talk = talk(seed);
        let truth = read(&talk.segments);
        for (port, role) in [(80, Role::Response), (40_000, Role::Request)] {
            let one: Vec<_> = talk
                .segments
                .iter()
                .filter(|segment| segment.source.port == port)
                .cloned()
                .collect();
            let said = read(&one);
            assert_all_true(&said, &truth);
            for (stream, exchange) in &said {
                let other = match role {
                    Role::Request => Role::Response,
                    Role::Response => Role::Request,
                };
                assert!(message(exchange, other).is_none(), "{stream}");
                let (of, truth) = (message(exchange, role), message(&truth[stream], role));
                assert_eq!(
                    of.map(|of| &of.body.tail),
                    truth.map(|truth| &truth.body.tail),
                    "{stream}"
                );
            }
        }
    }
}
