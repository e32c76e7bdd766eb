//! Conversations by hand, one rule each.

use tapedeck_http2::{Limits, Reader, Start};
use tapedeck_model::{Anomaly, Direction, End, Event, Input, Missing, Role, Timestamp};

use crate::log::{Log, Part, Said, Step, c, pair, read, read_with, s};
use crate::wire::*;

const GET: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/a?b=c"),
    (":authority", "shop"),
];
const POST: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/b"),
    (":authority", "shop"),
];
const EOH: u8 = END_HEADERS;
const BOTH: u8 = END_HEADERS | END_STREAM;
const WHOLE: Option<(Missing, Option<u32>)> = Some((Missing::NONE, None));

fn hello() -> Vec<Step> {
    vec![
        c(PREFACE),
        c(settings(&[])),
        s(settings(&[])),
        c(frame(SETTINGS, ACK, 0, &[])),
        s(frame(SETTINGS, ACK, 0, &[])),
    ]
}

/// A conversation that begins with the prefaces.
fn talk(steps: impl IntoIterator<Item = Step>) -> Log {
    read(&hello().into_iter().chain(steps).collect::<Vec<_>>())
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    Encoder::new().block(fields)
}

fn bytes(said: &Said) -> Vec<u8> {
    let part = |part: &Part| match part {
        Part::Bytes(bytes) => bytes.clone(),
        Part::Gap(_) => panic!("a gap in {said:?}"),
    };
    said.body.iter().flat_map(part).collect()
}

fn aborted(code: u32) -> Option<(Missing, Option<u32>)> {
    Some((Missing::ABORTED, Some(code)))
}

#[test]
fn a_call_with_everything() {
    let fields = block(&[("grpc-status", "0")]);
    let request = block(POST);
    let padded = [&[3], &request[..], b"..."].concat();
    let log = talk([
        c(frame(PRIORITY, 0, 3, &[0; 5])),
        c(frame(HEADERS, EOH | PADDED, 1, &padded)),
        c(frame(DATA, PADDED, 1, b"\x04abc....")),
        s(frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9])),
        s(frame(HEADERS, EOH, 1, &[0x08, 3, b'1', b'0', b'0'])),
        c(frame(0xbe, 0xff, 1, b"an extension")),
        c(frame(DATA, END_STREAM, 1, b"def")),
        s(frame(HEADERS, 0, 1, &[0x88])),
        s(frame(CONTINUATION, 0, 1, &[])),
        s(frame(CONTINUATION, EOH, 1, &block(&[("a", "b")]))),
        s(frame(PING, ACK, 0, &[0; 8])),
        s(frame(DATA, 0, 1, b"xyz")),
        s(frame(HEADERS, BOTH, 1, &fields)),
    ]);
    let request = log.message(1, Role::Request);
    let expect: Vec<_> = POST.iter().map(|field| pair(field.0, field.1)).collect();
    assert_eq!(request.head.as_ref(), Some(&expect));
    assert_eq!((bytes(request), request.end), (b"abcdef".to_vec(), WHOLE));
    let response = log.message(1, Role::Response);
    assert_eq!(response.interim, [[pair(":status", "100")]]);
    let head = response.head.as_deref();
    assert_eq!(head, Some(&[pair(":status", "200"), pair("a", "b")][..]));
    assert_eq!(response.trailers, Some(vec![pair("grpc-status", "0")]));
    assert_eq!((bytes(response), response.end), (b"xyz".to_vec(), WHOLE));
    assert_eq!(log.named(), []);
}

#[test]
fn times_are_those_of_the_first_and_last_byte() {
    let head = frame(HEADERS, BOTH, 1, &block(GET));
    let bytes = [PREFACE, &settings(&[]), &head].concat();
    let mut reader = Reader::new(Limits::default(), Start::Detect);
    let mut times = Vec::new();
    for (at, byte) in (1..).zip(&bytes) {
        let at = Timestamp::from_nanos(at);
        let input = Input::Data(std::slice::from_ref(byte));
        reader.push(
            at,
            Direction::ToServer,
            input,
            &mut |event: Event<'_>| match event {
                Event::Head { first_byte, at, .. } => times.extend([first_byte, at]),
                Event::End { at, end, .. } => {
                    assert_eq!(end, End::WHOLE);
                    times.push(at);
                }
                _ => panic!("{event:?}"),
            },
        );
    }
    let (begin, end) = (bytes.len() - head.len() + 1, bytes.len());
    assert_eq!(
        times,
        [begin, end, end].map(|at| Timestamp::from_nanos(at as i64))
    );
}

#[test]
fn a_stream_is_reset_before_within_and_behind_its_response() {
    let code = |code: u32| code.to_be_bytes();
    let mut client = Encoder::new();
    let mut request = |stream, flags| c(frame(HEADERS, flags, stream, &client.block(POST)));
    let log = talk([
        request(1, BOTH),
        c(frame(RST_STREAM, 0, 1, &code(8))),
        s(frame(HEADERS, EOH, 1, &[0x88])),
        request(3, EOH),
        s(frame(HEADERS, EOH, 3, &[0x88])),
        s(frame(DATA, 0, 3, b"x")),
        s(frame(RST_STREAM, 0, 3, &code(2))),
        c(frame(DATA, 0, 3, b"under way")),
        request(5, EOH),
        s(frame(HEADERS, BOTH, 5, &[0x88])),
        s(frame(RST_STREAM, 0, 5, &code(0))),
    ]);
    assert_eq!(log.message(1, Role::Request).end, WHOLE);
    assert_eq!(
        log.message(1, Role::Response).absent,
        Some(Missing::ABORTED)
    );
    assert!(log.message(1, Role::Response).absent_code.is_some());
    assert_eq!(log.message(3, Role::Request).end, aborted(2));
    assert_eq!(log.message(3, Role::Response).end, aborted(2));
    assert_eq!(log.message(5, Role::Request).end, aborted(0));
    assert_eq!(log.message(5, Role::Response).end, WHOLE);
    assert_eq!(log.named(), []);
}

/// As nginx answers a POST to a file (RFC 9113 section 8.1).
#[test]
fn a_request_that_the_server_does_not_want_is_read_while_it_comes() {
    let stop = |stream| s(frame(RST_STREAM, 0, stream, &0_u32.to_be_bytes()));
    let answer = |stream| s(frame(HEADERS, BOTH, stream, &[0x88]));
    let mut client = Encoder::new();
    let mut request = |stream, flags| c(frame(HEADERS, flags, stream, &client.block(POST)));
    let log = talk([
        request(1, EOH),
        answer(1),
        stop(1),
        c(frame(DATA, END_STREAM, 1, b"was under way")),
        request(3, EOH),
        c(frame(DATA, 0, 3, b"as far")),
        answer(3),
        stop(3),
        c(frame(DATA, 0, 3, b" as here")),
        request(5, BOTH),
        c(frame(DATA, 0, 3, b"late")),
        request(7, EOH),
        answer(7),
        stop(7),
    ]);
    let ends = [1, 3, 7].map(|stream| log.message(stream, Role::Request).end);
    assert_eq!(ends, [WHOLE, aborted(0), aborted(0)]);
    let said = [1, 3].map(|stream| bytes(log.message(stream, Role::Request)));
    assert_eq!(said, [&b"was under way"[..], b"as far as here"]);
    assert_eq!(log.message(7, Role::Response).end, WHOLE);
    assert_eq!(log.named(), []);
}

#[test]
fn goaway_ends_what_is_above_its_last_stream() {
    let mut client = Encoder::new();
    let mut request = |stream, flags| c(frame(HEADERS, flags, stream, &client.block(POST)));
    let log = talk([
        request(1, BOTH),
        request(3, BOTH),
        request(5, EOH),
        s(frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0])),
        s(frame(GOAWAY, 0, 0, b"\0\0\0\x01\0\0\0\x02why")),
        s(frame(HEADERS, BOTH, 1, &[0x88])),
    ]);
    assert_eq!(log.message(1, Role::Response).end, WHOLE);
    assert_eq!(log.message(3, Role::Request).end, WHOLE);
    assert_eq!(
        log.message(3, Role::Response).absent,
        Some(Missing::ABORTED)
    );
    assert_eq!(
        log.message(5, Role::Request).end,
        Some((Missing::ABORTED, None))
    );
    assert_eq!(
        log.message(5, Role::Response).absent,
        Some(Missing::ABORTED)
    );
}

#[test]
fn a_pushed_exchange_has_its_request_from_the_server() {
    let promise = [&[0, 0, 0, 2], &block(GET)[..]].concat();
    let log = talk([
        c(frame(HEADERS, BOTH, 1, &block(GET))),
        s(frame(PUSH_PROMISE, EOH, 1, &promise)),
        s(frame(HEADERS, BOTH, 1, &[0x88])),
        s(frame(HEADERS, EOH, 2, &[0x88])),
        s(frame(DATA, END_STREAM, 2, b"pushed")),
    ]);
    assert_eq!(log.pushed, [2]);
    assert_eq!(log.message(2, Role::Request).end, WHOLE);
    assert_eq!(
        log.message(2, Role::Request).head,
        log.message(1, Role::Request).head
    );
    assert_eq!(bytes(log.message(2, Role::Response)), b"pushed");
    assert_eq!(log.named(), []);
}

#[test]
fn connect_makes_a_tunnel_once_it_succeeds() {
    let extended = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/chat"),
        (":authority", "shop"),
    ];
    let plain = [(":method", "CONNECT"), (":authority", "shop:443")];
    for fields in [&extended[..], &plain] {
        for (status, tunnels) in [(0x88, vec![1]), (0x8d, vec![])] {
            let log = talk([
                c(frame(HEADERS, EOH, 1, &block(fields))),
                s(frame(HEADERS, EOH, 1, &[status])),
                c(frame(DATA, 0, 1, b"up")),
                s(frame(DATA, END_STREAM, 1, b"down")),
                c(frame(DATA, END_STREAM, 1, b"")),
            ]);
            assert_eq!(log.tunnels, tunnels);
            assert_eq!(bytes(log.message(1, Role::Request)), b"up");
            assert_eq!(log.named(), []);
        }
    }
}

#[test]
fn an_upgraded_connection_answers_stream_1() {
    let steps = [
        s(settings(&[])),
        s(frame(HEADERS, EOH, 1, &[0x88])),
        c(PREFACE),
        c(settings(&[])),
        s(frame(DATA, END_STREAM, 1, b"hello")),
        c(frame(HEADERS, BOTH, 3, &block(GET))),
    ];
    let log = read_with(&Limits::default(), Start::Upgraded, &steps);
    assert_eq!(bytes(log.message(1, Role::Response)), b"hello");
    assert!(!log.messages.contains_key(&(1, Role::Request)));
    let unfinished = Some(Missing::UNFINISHED);
    assert_eq!(log.message(3, Role::Response).absent, unfinished);
    assert_eq!(log.named(), []);
}

#[test]
fn bodies_have_the_length_that_was_announced() {
    let check = |method: &str, status: u8, length: &str, body: &[u8], good: bool| {
        let request = [(":method", method), (":scheme", "http"), (":path", "/")];
        let head = [&[status][..], &block(&[("content-length", length)])].concat();
        let log = talk([
            c(frame(HEADERS, BOTH, 1, &block(&request))),
            s(frame(HEADERS, EOH, 1, &head)),
            s(frame(DATA, END_STREAM, 1, body)),
        ]);
        let mismatch = log.named() == [Anomaly::ContentLengthMismatch];
        assert_eq!(mismatch, !good, "{method} {length} {body:?}");
        assert_eq!(log.message(1, Role::Response).end, WHOLE);
    };
    check("GET", 0x88, "3", b"abc", true);
    check("GET", 0x88, "4", b"abc", false);
    check("GET", 0x88, "0", b"", true);
    check("GET", 0x88, "x", b"abc", false);
    check("HEAD", 0x88, "9", b"", true);
    check("GET", 0x8b, "9", b"", true);
}

#[test]
fn frames_where_they_may_not_be() {
    let get = || c(frame(HEADERS, BOTH, 1, &block(GET)));
    let check = |steps: Vec<Step>, expect: &[Anomaly]| {
        let log = talk(steps);
        assert_eq!(log.named(), expect);
        log
    };
    // DATA behind END_STREAM, on an idle stream, on a closed one.
    let unexpected = [Anomaly::UnexpectedFrame];
    let log = check(vec![get(), c(frame(DATA, 0, 1, b"x"))], &unexpected);
    assert_eq!(log.message(1, Role::Request).body, []);
    check(vec![c(frame(DATA, 0, 1, b"x"))], &unexpected);
    let answer = s(frame(HEADERS, BOTH, 1, &[0x88]));
    check(vec![get(), answer, s(frame(DATA, 0, 1, b"x"))], &unexpected);
    // A promise by the client, a stream of the wrong side, trailers that do not end it.
    check(
        vec![c(frame(PUSH_PROMISE, EOH, 1, &[0, 0, 0, 2]))],
        &unexpected,
    );
    check(vec![c(frame(HEADERS, BOTH, 2, &block(GET)))], &unexpected);
    let head = s(frame(HEADERS, EOH, 1, &[0x88]));
    let trailers = s(frame(HEADERS, EOH, 1, &block(&[("a", "b")])));
    check(vec![get(), head, trailers], &unexpected);
    check(vec![c(frame(CONTINUATION, EOH, 1, &[0x82]))], &unexpected);
    // Lengths and streams that the type does not allow; more padding than payload.
    let malformed = [Anomaly::MalformedFrame];
    check(vec![c(frame(PING, 0, 0, &[0; 7]))], &malformed);
    check(vec![c(frame(DATA, 0, 0, b"x"))], &malformed);
    check(vec![c(settings(&[(5, 1)]))], &malformed);
    let post = c(frame(HEADERS, EOH, 1, &block(POST)));
    let bad = c(frame(DATA, PADDED | END_STREAM, 1, b"\x04abc"));
    let log = check(vec![post, bad], &malformed);
    let malformed_end = Some((Missing::MALFORMED, None));
    assert_eq!(log.message(1, Role::Request).end, malformed_end);
    // Longer than announced.
    let long = c(frame(DATA, END_STREAM, 1, &[0; 16_385]));
    let post = || c(frame(HEADERS, EOH, 1, &block(POST)));
    let log = check(vec![post(), long.clone()], &[Anomaly::FrameTooLarge]);
    assert_eq!(log.message(1, Role::Request).end, WHOLE);
    check(vec![s(settings(&[(5, 1 << 20)])), post(), long], &[]);
}

#[test]
fn an_interrupted_block_costs_its_rest_and_the_table() {
    let mut encoder = Encoder::new();
    let fields = encoder.block(GET);
    let log = talk([
        c(frame(HEADERS, END_STREAM, 1, &fields[..2])),
        c(frame(PING, 0, 0, &[0; 8])),
        c(frame(HEADERS, BOTH, 3, &encoder.block(GET))),
    ]);
    let expect = [
        Anomaly::InterruptedFieldBlock,
        Anomaly::MalformedPseudoHeader,
    ];
    let named = log.named();
    assert!(named.starts_with(&expect[..1]), "{named:?}");
    assert!(named.contains(&Anomaly::HpackUnknownEntry));
    let end = log.message(1, Role::Request).end;
    assert_eq!(end, Some((Missing::MALFORMED, None)));
    let unknown = log.message(3, Role::Request);
    assert!(
        unknown
            .head
            .as_ref()
            .unwrap()
            .iter()
            .all(|field| field.1.is_none())
    );
    assert_eq!(unknown.end, Some((Missing::UNKNOWN_FIELDS, None)));
}

#[test]
fn settings_bound_the_table_of_the_other_side() {
    let update = |size: usize| {
        let mut block = Vec::new();
        Encoder::new().resize(size, &mut block);
        block.extend(self::block(GET));
        c(frame(HEADERS, BOTH, 1, &block))
    };
    let announce = s(settings(&[(1, 8192)]));
    let ack = c(frame(SETTINGS, ACK, 0, &[]));
    assert_eq!(talk([update(4096)]).named(), []);
    assert_eq!(talk([update(8192)]).named(), [Anomaly::HpackError]);
    let early = [announce.clone(), update(8192)];
    assert_eq!(talk(early).named(), [Anomaly::HpackError]);
    assert_eq!(talk([announce, ack, update(8192)]).named(), []);
}

/// The same the other way round: what the client announces bounds the server.
#[test]
fn settings_of_the_client_bound_the_server() {
    let answer = |size: usize| {
        let mut block = Vec::new();
        Encoder::new().resize(size, &mut block);
        block.push(0x88);
        s(frame(HEADERS, BOTH, 1, &block))
    };
    let ask = || c(frame(HEADERS, BOTH, 1, &block(GET)));
    let announce = c(settings(&[(1, 8192)]));
    let ack = s(frame(SETTINGS, ACK, 0, &[]));
    let early = [ask(), announce.clone(), answer(8192)];
    assert_eq!(talk(early).named(), [Anomaly::HpackError]);
    let agreed = talk([ask(), announce, ack, answer(8192)]);
    assert_eq!(agreed.named(), []);
    assert_eq!(agreed.message(1, Role::Response).end, WHOLE);
    // The largest frame, too.
    let large = c(settings(&[(5, 1 << 20)]));
    let head = || s(frame(HEADERS, EOH, 1, &[0x88]));
    let long = || s(frame(DATA, END_STREAM, 1, &[7; 20_000]));
    let log = talk([ask(), large, head(), long()]);
    assert_eq!(log.named(), []);
    assert_eq!(bytes(log.message(1, Role::Response)).len(), 20_000);
    assert_eq!(
        talk([ask(), head(), long()]).named(),
        [Anomaly::FrameTooLarge]
    );
}

/// Frames of every type that says nothing of a message, at every place where a frame may be.
#[test]
fn frames_that_are_not_of_a_message_change_none() {
    const ALTSVC: u8 = 10;
    const ORIGIN: u8 = 12;
    const PRIORITY_UPDATE: u8 = 16;
    let mut client = Encoder::new();
    let mut server = Encoder::new();
    let post = client.block(POST);
    let (begin, end) = post.split_at(5);
    // In the order in which they are sent: each may refer to those before.
    let hints = server.block(&[(":status", "103")]);
    let head = server.block(&[(":status", "200"), ("a", "b")]);
    let trailers = server.block(&[("grpc-status", "0")]);
    let steps = [
        c(frame(HEADERS, 0, 1, begin)),
        c(frame(CONTINUATION, EOH, 1, end)),
        c(frame(DATA, 0, 1, b"abc")),
        s(frame(HEADERS, EOH, 1, &hints)),
        c(frame(DATA, END_STREAM, 1, b"def")),
        s(frame(HEADERS, EOH, 1, &head)),
        s(frame(DATA, PADDED, 1, b"\x02xyz..")),
        s(frame(HEADERS, BOTH, 1, &trailers)),
        c(frame(HEADERS, BOTH, 3, &client.block(POST))),
        s(frame(
            HEADERS,
            BOTH,
            3,
            &server.block(&[(":status", "204")]),
        )),
    ];
    let truth = talk(steps.clone());
    assert_eq!(truth.named(), []);
    let neutral = [
        frame(PRIORITY, 0, 1, &[0x80, 0, 0, 3, 9]),
        frame(PRIORITY, 0, 99, &[0; 5]),
        frame(SETTINGS, 0, 0, &[]),
        settings(&[(3, 100), (4, 1 << 20), (6, 9), (8, 1), (0xabcd, 7)]),
        frame(PING, 0, 0, b"8 bytes."),
        frame(PING, ACK, 0, b"8 bytes."),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0x40, 0]),
        frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0x40, 0]),
        frame(ALTSVC, 0, 0, b"\0\x04shoph3=\":443\""),
        frame(ALTSVC, 0, 1, b"\0\0h3=\":443\""),
        frame(ORIGIN, 0, 0, b"\0\x0bhttps://shop"),
        frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=1"),
        frame(0xbe, 0xff, 1, b"an extension"),
        frame(0xff, 0, 0x7fff_ffff, &[]),
    ];
    let ways: [fn(Vec<u8>) -> Step; 2] = [c, s];
    for (number, neutral) in neutral.iter().enumerate() {
        for place in 0..=steps.len() {
            for (way, is_server) in ways.into_iter().zip([false, true]) {
                // Nothing may come within a field block (RFC 9113 section 6.10), nor a window for a
                // stream that is idle (section 5.1).
                if (place == 1 && !is_server) || (place == 0 && number == 7) {
                    continue;
                }
                let mut steps = steps.to_vec();
                steps.insert(place, way(neutral.clone()));
                let log = talk(steps);
                assert_eq!(log.messages, truth.messages, "{neutral:?} at {place}");
                assert_eq!(log.named(), [], "{neutral:?} at {place}");
            }
        }
    }
}

#[test]
fn a_close_ends_what_is_open() {
    let get = || c(frame(HEADERS, BOTH, 1, &block(GET)));
    let post = || c(frame(HEADERS, EOH, 1, &block(POST)));
    let log = talk([get(), Step::Fin(Direction::ToClient)]);
    assert_eq!(
        log.message(1, Role::Response).absent,
        Some(Missing::ABORTED)
    );
    let log = talk([post(), Step::Reset(Direction::ToServer)]);
    assert_eq!(
        log.message(1, Role::Request).end,
        Some((Missing::ABORTED, None))
    );
    let log = talk([post()]);
    assert_eq!(
        log.message(1, Role::Request).end,
        Some((Missing::UNFINISHED, None))
    );
    // What comes behind the end of the other direction is answered by nobody.
    let log = talk([Step::Fin(Direction::ToClient), get()]);
    assert_eq!(
        log.message(1, Role::Response).absent,
        Some(Missing::ABORTED)
    );
    // Nothing is read behind the end.
    let log = talk([Step::Fin(Direction::ToServer), get()]);
    assert!(log.messages.is_empty());
}

#[test]
fn a_response_may_overtake_its_request() {
    let mut steps = hello();
    let request = c(frame(HEADERS, BOTH, 1, &block(GET)));
    steps.extend([s(frame(HEADERS, BOTH, 1, &[0x88])), request]);
    let log = read(&steps);
    assert_eq!(log.message(1, Role::Request).end, WHOLE);
    assert_eq!(log.message(1, Role::Response).end, WHOLE);
    assert_eq!(log.named(), []);
    // A higher stream tells that it never comes.
    let mut steps = hello();
    let later = c(frame(HEADERS, BOTH, 3, &block(GET)));
    steps.extend([s(frame(HEADERS, BOTH, 1, &[0x88])), later]);
    let log = read(&steps);
    assert_eq!(log.message(1, Role::Request).absent, Some(Missing::NONE));
}
