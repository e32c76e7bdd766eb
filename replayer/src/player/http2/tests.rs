//! The connection against scripts of frames, good ones and bad ones.

use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use proptest::prelude::*;

use super::connection::Connection;
use super::encode;
use super::error::{Code, Http2Error};
use super::frame::{self, FrameHead};
use super::limits::Http2Limits;
use super::stream::{Answered, Outgoing, Slot};

/// A connection, and what it has written so far as `kind stream flags payload`.
struct Talk {
    connection: Connection,
    now: Instant,
    wrote: Vec<u8>,
}

impl Talk {
    /// The target has said its settings.
    fn new() -> Self {
        let mut talk = Self::silent();
        talk.hear(&settings(&[]));
        talk.frames();
        talk
    }

    fn silent() -> Self {
        let mut talk = Self {
            connection: Connection::new(Http2Limits::DEFAULT),
            now: Instant::now(),
            wrote: Vec::new(),
        };
        talk.flush();
        let preface = talk.wrote.split_off(frame::PREFACE.len());
        assert_eq!(talk.wrote, frame::PREFACE);
        talk.wrote = preface;
        talk.frames();
        talk
    }

    fn flush(&mut self) {
        loop {
            let out = self.connection.output().to_vec();
            if out.is_empty() && !self.connection.upload(self.now) {
                return;
            }
            self.connection.wrote(out.len());
            self.wrote.extend(out);
        }
    }

    /// What was written since the last time.
    fn frames(&mut self) -> Vec<(FrameHead, Vec<u8>)> {
        self.flush();
        let mut frames = Vec::new();
        let mut rest = self.wrote.as_slice();
        while let Some((head, behind)) = FrameHead::read(rest) {
            let (payload, behind) = behind.split_at(head.len as usize);
            frames.push((head, payload.to_vec()));
            rest = behind;
        }
        assert!(rest.is_empty());
        self.wrote.clear();
        frames
    }

    fn kinds(&mut self) -> Vec<(u8, u32)> {
        let frames = self.frames();
        frames
            .iter()
            .map(|(head, _)| (head.kind, head.stream))
            .collect()
    }

    fn hear(&mut self, bytes: &[u8]) {
        if let Err(error) = self.connection.receive(self.now, bytes) {
            self.connection.fail(error);
        }
    }

    fn get(&mut self) -> Slot {
        self.send(b"", None)
    }

    fn send(&mut self, body: &'static [u8], trailers: Option<&'static [u8]>) -> Slot {
        let trailers = trailers.map(Bytes::from_static);
        let request = Outgoing {
            head: b"\x82\x84",
            body: &Bytes::from_static(body),
            trailers: trailers.as_ref(),
            is_head: false,
            is_grpc: false,
        };
        self.connection.open(self.now, &request)
    }

    fn answer(&mut self, slot: Slot) -> Option<Result<u16, Http2Error>> {
        let context = Context::from_waker(Waker::noop());
        match self.connection.poll_answer(slot, &context) {
            Poll::Ready(result) => Some(result.map(|answered: Answered| answered.reply.status)),
            Poll::Pending => None,
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::head(&mut out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
    out
}

fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::settings(&mut out, settings);
    out
}

fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        encode::field(&mut block, name.as_bytes(), value.as_bytes());
    }
    block
}

const END: u8 = frame::END_STREAM;
const WHOLE: u8 = frame::END_HEADERS;

fn head(stream: u32, status: &str, flags: u8) -> Vec<u8> {
    frame(
        frame::HEADERS,
        WHOLE | flags,
        stream,
        &fields(&[(":status", status)]),
    )
}

fn number(kind: u8, stream: u32, value: u32) -> Vec<u8> {
    frame(kind, 0, stream, &value.to_be_bytes())
}

#[test]
fn requests_are_answered_in_any_order() {
    let mut talk = Talk::new();
    let slots = [talk.get(), talk.get(), talk.get()];
    let heads = talk.frames();
    assert!(
        heads
            .iter()
            .all(|(head, _)| head.kind == frame::HEADERS && head.has(END) && head.has(WHOLE))
    );
    // The first block of a connection says that there is no table.
    assert_eq!(heads[0].1, [encode::NO_TABLE, 0x82, 0x84]);
    assert_eq!(heads[1].1, [0x82, 0x84]);
    talk.hear(&head(5, "404", END));
    talk.hear(
        &[
            head(1, "103", 0),
            head(1, "200", 0),
            frame(frame::DATA, END, 1, b"body"),
        ]
        .concat(),
    );
    assert_eq!(talk.answer(slots[2]), Some(Ok(404)));
    assert_eq!(talk.answer(slots[0]), Some(Ok(200)));
    assert_eq!(talk.answer(slots[1]), None);
    let trailers = frame(
        frame::HEADERS,
        WHOLE | END,
        3,
        &fields(&[("grpc-status", "0")]),
    );
    talk.hear(&[head(3, "200", 0), frame(frame::DATA, 0, 3, b""), trailers].concat());
    assert_eq!(talk.answer(slots[1]), Some(Ok(200)));
    assert_eq!(talk.connection.open_streams(), 0);
    assert_eq!(talk.kinds(), []);
}

#[test]
fn bodies_keep_to_both_windows_and_end_with_trailers() {
    static BODY: [u8; 100_000] = [7; 100_000];
    let mut talk = Talk::silent();
    talk.hear(&settings(&[(frame::INITIAL_WINDOW_SIZE, 50_000)]));
    let slot = talk.send(&BODY, Some(b"\0\x01a\x01b"));
    let sum = |frames: &[(FrameHead, Vec<u8>)]| -> usize {
        let data = frames.iter().filter(|(head, _)| head.kind == frame::DATA);
        data.map(|(_, payload)| payload.len()).sum()
    };
    let first = talk.frames();
    assert!(first.iter().all(|(head, _)| head.len <= frame::MAX_PAYLOAD));
    assert_eq!(sum(&first), 50_000, "the stream's window");
    // The target thinks again: less than what is under way.
    talk.hear(&settings(&[(frame::INITIAL_WINDOW_SIZE, 20_000)]));
    talk.hear(&number(frame::WINDOW_UPDATE, 1, 30_000));
    assert_eq!(sum(&talk.frames()), 0, "it is at zero again");
    talk.hear(&number(frame::WINDOW_UPDATE, 1, 70_000));
    assert_eq!(sum(&talk.frames()), 15_535, "the connection's window");
    talk.hear(&number(frame::WINDOW_UPDATE, 0, 1 << 20));
    let last = talk.frames();
    assert_eq!(sum(&last), 100_000 - 65_535);
    let (trailers, payload) = last.last().unwrap();
    assert!(trailers.kind == frame::HEADERS && trailers.has(END));
    assert_eq!(payload, b"\0\x01a\x01b");
    talk.hear(&head(1, "200", END));
    assert_eq!(talk.answer(slot), Some(Ok(200)));
}

#[test]
fn a_body_waits_for_room_in_the_output() {
    static BODY: [u8; 1 << 20] = [7; 1 << 20];
    let mut talk = Talk::silent();
    talk.hear(&settings(&[(frame::INITIAL_WINDOW_SIZE, 1 << 30)]));
    talk.hear(&number(frame::WINDOW_UPDATE, 0, 1 << 30));
    talk.frames();
    talk.send(&BODY, None);
    while talk.connection.upload(talk.now) {}
    let limit = Http2Limits::DEFAULT.out + frame::MAX_PAYLOAD as usize + 100;
    assert!(talk.connection.output().len() <= limit);
    // Nor are there places while nothing is read.
    assert_eq!(talk.connection.places(), 0);
    let sent: usize = talk
        .frames()
        .iter()
        .filter(|(head, _)| head.kind == frame::DATA)
        .map(|(_, payload)| payload.len())
        .sum();
    assert_eq!(sent, BODY.len());
    assert!(talk.connection.places() > 0);
}

#[test]
fn an_early_answer_ends_the_upload() {
    static BODY: [u8; 100_000] = [7; 100_000];
    let mut talk = Talk::new();
    let slot = talk.send(&BODY, None);
    talk.frames();
    talk.hear(&head(1, "413", END));
    assert_eq!(talk.answer(slot), Some(Ok(413)));
    talk.hear(&number(frame::WINDOW_UPDATE, 0, 1 << 20));
    assert_eq!(talk.kinds(), [(frame::RST_STREAM, 1)]);
    // What the target still says of it is of no interest.
    talk.hear(&number(frame::WINDOW_UPDATE, 1, 1));
    talk.hear(&number(frame::RST_STREAM, 1, 0));
    assert!(talk.connection.is_usable());
}

#[test]
fn places_are_what_the_target_allows() {
    let mut talk = Talk::silent();
    assert_eq!(talk.connection.places(), 100);
    talk.hear(&settings(&[(frame::MAX_CONCURRENT_STREAMS, 2)]));
    let first = talk.get();
    let second = talk.get();
    assert_eq!(talk.connection.places(), 0);
    talk.hear(&head(1, "200", END));
    assert_eq!(talk.connection.places(), 1);
    talk.connection.cancel(second);
    assert_eq!(talk.connection.places(), 2);
    let kinds = talk.kinds();
    assert!(kinds.contains(&(frame::RST_STREAM, 3)), "{kinds:?}");
    talk.hear(&settings(&[(frame::MAX_CONCURRENT_STREAMS, 0)]));
    assert_eq!(talk.connection.places(), 0);
    assert_eq!(talk.answer(first), Some(Ok(200)));
    // Who says nothing has no limit.
    assert!(Talk::new().connection.places() > 1 << 20);
}

#[test]
fn what_is_read_is_given_back() {
    let mut talk = Talk::new();
    let slot = talk.get();
    talk.frames();
    talk.hear(&head(1, "200", 0));
    let data = frame(frame::DATA, 0, 1, &[0; 16384]);
    let (mut stream, mut connection) = (0_u64, 0_u64);
    for _ in 0..4096 {
        talk.hear(&data);
        for (head, payload) in talk.frames() {
            assert_eq!(head.kind, frame::WINDOW_UPDATE);
            let more = u64::from(frame::number_of(&payload).unwrap());
            *(if head.stream == 0 {
                &mut connection
            } else {
                &mut stream
            }) += more;
        }
    }
    assert_eq!(stream, 64 << 20);
    assert_eq!(connection, 64 << 20);
    talk.hear(&frame(frame::DATA, END, 1, b""));
    assert_eq!(talk.answer(slot), Some(Ok(200)));
}

#[test]
fn goaway_is_heeded() {
    let mut talk = Talk::new();
    let slots = [talk.get(), talk.get()];
    let goaway = |code: u32| {
        frame(
            frame::GOAWAY,
            0,
            0,
            &[&1_u32.to_be_bytes()[..], &code.to_be_bytes(), b"why"].concat(),
        )
    };
    talk.hear(&goaway(0));
    assert!(!talk.connection.is_usable());
    assert_eq!(
        talk.answer(slots[1]),
        Some(Err(Http2Error::NotProcessed(Code::NO_ERROR)))
    );
    talk.hear(&head(1, "200", END));
    assert_eq!(talk.answer(slots[0]), Some(Ok(200)));

    let mut talk = Talk::new();
    let slot = talk.get();
    talk.hear(&goaway(Code::ENHANCE_YOUR_CALM.0));
    talk.connection.closed();
    let closed = Http2Error::Closed(Some(Code::ENHANCE_YOUR_CALM));
    assert_eq!(talk.answer(slot), Some(Err(closed)));
    assert!(
        closed
            .to_string()
            .ends_with("behind GOAWAY: ENHANCE_YOUR_CALM")
    );
}

#[test]
fn a_ping_is_answered_but_not_without_end() {
    let mut talk = Talk::new();
    let ping = frame(frame::PING, 0, 0, b"12345678");
    talk.hear(&ping);
    let frames = talk.frames();
    assert!(frames[0].0.has(frame::ACK) && frames[0].1 == b"12345678");
    talk.hear(&frame(frame::PING, frame::ACK, 0, b"12345678"));
    assert_eq!(talk.kinds(), []);
    // Nobody reads what is written here.
    while talk.connection.ended().is_none() {
        talk.hear(&ping);
        assert!(talk.connection.output().len() <= Http2Limits::DEFAULT.replies + 100);
    }
    let calm = Some(Code::ENHANCE_YOUR_CALM);
    assert_eq!(talk.connection.ended().and_then(violated), calm);
}

fn violated(error: Http2Error) -> Option<Code> {
    match error {
        Http2Error::Violation(_, code) => Some(code),
        _ => None,
    }
}

type Wrong = (&'static str, Vec<u8>, Code);

/// What no stream may say.
fn wrong_on_streams() -> Vec<Wrong> {
    let too_long = vec![0; frame::MAX_PAYLOAD as usize + 1];
    vec![
        (
            "HTTP/1",
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "too long",
            frame(frame::DATA, 0, 1, &too_long),
            Code::FRAME_SIZE_ERROR,
        ),
        ("idle stream", head(3, "200", END), Code::PROTOCOL_ERROR),
        ("even stream", head(2, "200", END), Code::PROTOCOL_ERROR),
        ("stream 0", head(0, "200", END), Code::PROTOCOL_ERROR),
        (
            "data for nobody",
            frame(frame::DATA, 0, 9, b"x"),
            Code::PROTOCOL_ERROR,
        ),
        (
            "reset of nobody",
            number(frame::RST_STREAM, 9, 0),
            Code::PROTOCOL_ERROR,
        ),
        (
            "a push",
            frame(frame::PUSH_PROMISE, WHOLE, 1, &[0, 0, 0, 2, 0x82]),
            Code::PROTOCOL_ERROR,
        ),
        (
            "no table entry",
            frame(frame::HEADERS, WHOLE, 1, b"\xff\x7f"),
            Code::COMPRESSION_ERROR,
        ),
        (
            "a table too large",
            frame(frame::HEADERS, WHOLE, 1, b"\x3f\xe1\xff\x03\x88"),
            Code::COMPRESSION_ERROR,
        ),
        (
            "padding",
            frame(frame::HEADERS, WHOLE | frame::PADDED, 1, &[9, 0x88]),
            Code::PROTOCOL_ERROR,
        ),
        (
            "padding of data",
            frame(frame::DATA, frame::PADDED, 1, &[9, 0]),
            Code::PROTOCOL_ERROR,
        ),
        (
            "no padding at all",
            frame(frame::DATA, frame::PADDED, 1, b""),
            Code::PROTOCOL_ERROR,
        ),
    ]
}

/// What nobody may say of the connection.
fn wrong_on_connections() -> Vec<Wrong> {
    let goaway = frame(frame::GOAWAY, 0, 0, b"short");
    let status = fields(&[(":status", "200")]);
    vec![
        (
            "continues nothing",
            frame(frame::CONTINUATION, WHOLE, 1, &status),
            Code::PROTOCOL_ERROR,
        ),
        (
            "within a block",
            [
                frame(frame::HEADERS, 0, 1, &status),
                frame(frame::PING, 0, 0, &[0; 8]),
            ]
            .concat(),
            Code::PROTOCOL_ERROR,
        ),
        (
            "a window of zero",
            number(frame::WINDOW_UPDATE, 0, 0),
            Code::PROTOCOL_ERROR,
        ),
        (
            "a window too large",
            number(frame::WINDOW_UPDATE, 0, u32::MAX >> 1),
            Code::FLOW_CONTROL_ERROR,
        ),
        (
            "a stream's window too large",
            number(frame::WINDOW_UPDATE, 1, u32::MAX >> 1),
            Code::FLOW_CONTROL_ERROR,
        ),
        (
            "an initial window too large",
            settings(&[(frame::INITIAL_WINDOW_SIZE, 1 << 31)]),
            Code::FLOW_CONTROL_ERROR,
        ),
        (
            "frames too small",
            settings(&[(frame::MAX_FRAME_SIZE, 100)]),
            Code::PROTOCOL_ERROR,
        ),
        (
            "half a setting",
            frame(frame::SETTINGS, 0, 0, &[0; 5]),
            Code::FRAME_SIZE_ERROR,
        ),
        (
            "settings of a stream",
            frame(frame::SETTINGS, 0, 1, &[]),
            Code::PROTOCOL_ERROR,
        ),
        (
            "an ack that says something",
            frame(frame::SETTINGS, frame::ACK, 0, &[0; 6]),
            Code::FRAME_SIZE_ERROR,
        ),
        (
            "a long ping",
            frame(frame::PING, 0, 0, &[0; 9]),
            Code::FRAME_SIZE_ERROR,
        ),
        ("a short goaway", goaway, Code::FRAME_SIZE_ERROR),
        (
            "a short reset",
            frame(frame::RST_STREAM, 0, 1, &[0; 3]),
            Code::FRAME_SIZE_ERROR,
        ),
        (
            "a short priority",
            frame(frame::PRIORITY, 0, 1, &[0; 3]),
            Code::FRAME_SIZE_ERROR,
        ),
    ]
}

/// What must end the connection, with which code.
#[test]
fn a_target_that_breaks_the_rules_of_the_connection_is_told_which() {
    for (what, bytes, code) in wrong_on_streams().into_iter().chain(wrong_on_connections()) {
        let mut talk = if what == "HTTP/1" {
            Talk::silent()
        } else {
            Talk::new()
        };
        let slot = talk.get();
        talk.frames();
        talk.hear(&bytes);
        let ended = talk.connection.ended().and_then(violated);
        assert_eq!(ended, Some(code), "{what}");
        let answer = talk.answer(slot).unwrap().unwrap_err();
        assert_eq!(violated(answer), Some(code), "{what}");
        let frames = talk.frames();
        let (last, payload) = frames.last().unwrap();
        assert_eq!(last.kind, frame::GOAWAY, "{what}");
        assert_eq!(payload[4..], code.0.to_be_bytes(), "{what}");
    }
}

/// What ends one stream, and leaves the others.
#[test]
fn a_target_that_breaks_the_rules_of_a_stream_loses_that() {
    let block = |fields_of: &[(&str, &str)], flags| {
        frame(frame::HEADERS, WHOLE | flags, 1, &fields(fields_of))
    };
    let data = |len: usize, flags| frame(frame::DATA, flags, 1, &vec![0; len]);
    let of_length = |length: &str| block(&[(":status", "200"), ("content-length", length)], 0);
    for (what, bytes) in [
        ("no status", block(&[("a", "b")], 0)),
        ("no head", data(1, 0)),
        ("an end without head", data(0, END)),
        ("an interim end", head(1, "100", END)),
        ("switching", head(1, "101", 0)),
        ("two heads", [head(1, "200", 0), head(1, "200", 0)].concat()),
        (
            "trailers that go on",
            [head(1, "200", 0), block(&[("a", "b")], 0)].concat(),
        ),
        ("malformed", block(&[(":status", "200"), ("UPPER", "b")], 0)),
        ("too short", [of_length("2"), data(1, END)].concat()),
        (
            "too short with trailers",
            [of_length("2"), block(&[("a", "b")], END)].concat(),
        ),
        ("too long", [of_length("2"), data(3, 0)].concat()),
        ("a window of zero", number(frame::WINDOW_UPDATE, 1, 0)),
    ] {
        let mut talk = Talk::new();
        let (slot, other) = (talk.get(), talk.get());
        talk.frames();
        talk.hear(&bytes);
        let answer = talk
            .answer(slot)
            .unwrap_or_else(|| panic!("{what}: none"))
            .unwrap_err();
        assert_eq!(violated(answer), Some(Code::PROTOCOL_ERROR), "{what}");
        assert_eq!(talk.kinds(), [(frame::RST_STREAM, 1)], "{what}");
        talk.hear(&head(3, "200", END));
        assert_eq!(talk.answer(other), Some(Ok(200)), "{what}");
    }
}

#[test]
fn answers_without_body_may_say_how_long_it_would_be() {
    let block = fields(&[(":status", "304"), ("content-length", "9")]);
    let mut talk = Talk::new();
    let slot = talk.get();
    talk.hear(&frame(frame::HEADERS, WHOLE | END, 1, &block));
    assert_eq!(talk.answer(slot), Some(Ok(304)));
    let head = Outgoing {
        head: b"\x82",
        body: &Bytes::new(),
        trailers: None,
        is_head: true,
        is_grpc: false,
    };
    let slot = talk.connection.open(talk.now, &head);
    let block = fields(&[(":status", "200"), ("content-length", "9")]);
    talk.hear(&frame(frame::HEADERS, WHOLE | END, 3, &block));
    assert_eq!(talk.answer(slot), Some(Ok(200)));
}

#[test]
fn more_than_the_windows_allow_is_an_error() {
    // Windows are given back by halves while they are read, so that they have to be made smaller to be reached.
    let mut talk = Talk::new();
    talk.get();
    talk.hear(&head(1, "200", 0));
    talk.connection.shut_windows(20_000, 1 << 30);
    talk.hear(&frame(frame::DATA, 0, 1, &[0; 16384]));
    assert_eq!(talk.connection.ended(), None);
    talk.hear(&frame(frame::DATA, 0, 1, &[0; 16384]));
    assert_eq!(
        talk.connection.ended().and_then(violated),
        Some(Code::FLOW_CONTROL_ERROR)
    );

    let mut talk = Talk::new();
    talk.get();
    talk.hear(&head(1, "200", 0));
    talk.connection.shut_windows(1 << 30, 20_000);
    talk.hear(&frame(frame::DATA, 0, 1, &[0; 16384]));
    assert_eq!(talk.connection.ended(), None);
    talk.hear(&frame(frame::DATA, 0, 1, &[0; 16384]));
    assert_eq!(
        talk.connection.ended().and_then(violated),
        Some(Code::FLOW_CONTROL_ERROR)
    );
}

#[test]
fn a_head_of_any_length_is_cut_into_frames_and_one_without_end_is_given_up() {
    let mut talk = Talk::new();
    let block = vec![0x82; 40_000];
    let long = Outgoing {
        head: &block,
        body: &Bytes::new(),
        trailers: None,
        is_head: false,
        is_grpc: false,
    };
    talk.connection.open(talk.now, &long);
    let frames = talk.frames();
    let kinds: Vec<_> = frames
        .iter()
        .map(|(head, _)| (head.kind, head.has(WHOLE), head.has(END)))
        .collect();
    // The end of the stream is said by the first of them.
    assert_eq!(
        kinds,
        [
            (frame::HEADERS, false, true),
            (frame::CONTINUATION, false, false),
            (frame::CONTINUATION, true, false)
        ]
    );
    let sum: usize = frames.iter().map(|(_, payload)| payload.len()).sum();
    assert_eq!(sum, 40_001);

    talk.hear(&frame(frame::HEADERS, 0, 1, &[0; 16384]));
    for n in 0.. {
        assert!(n < 20);
        talk.hear(&frame(frame::CONTINUATION, 0, 1, &[0; 16384]));
        if talk.connection.ended().is_some() {
            break;
        }
    }
    assert_eq!(
        talk.connection.ended().and_then(violated),
        Some(Code::ENHANCE_YOUR_CALM)
    );
}

/// A talk with everything in it.
fn everything() -> Vec<u8> {
    let long = fields(&[
        (":status", "200"),
        ("content-length", "300"),
        ("x", &"y".repeat(500)),
    ]);
    let (first, second) = long.split_at(100);
    let padded = [&[5][..], &[1; 100], &[0; 5]].concat();
    [
        settings(&[
            (frame::MAX_CONCURRENT_STREAMS, 50),
            (frame::INITIAL_WINDOW_SIZE, 100),
        ]),
        frame(frame::SETTINGS, frame::ACK, 0, &[]),
        head(1, "100", 0),
        frame(frame::HEADERS, 0, 1, first),
        frame(frame::CONTINUATION, WHOLE, 1, second),
        frame(frame::PING, 0, 0, b"abcdefgh"),
        frame(frame::DATA, 0, 1, &[0; 100]),
        frame(frame::DATA, frame::PADDED, 1, &padded),
        frame(0x77, 3, 5, b"an extension"),
        number(frame::WINDOW_UPDATE, 3, 1000),
        // With insertion into the table, and priority.
        frame(
            frame::HEADERS,
            WHOLE | END | frame::PRIORITIZED,
            3,
            b"\0\0\0\0\x10\x48\x03299",
        ),
        frame(frame::DATA, END, 1, &[0; 100]),
        frame(frame::HEADERS, WHOLE | END, 5, b"\xbe"),
        number(frame::RST_STREAM, 7, Code::REFUSED_STREAM.0),
    ]
    .concat()
}

/// What it comes to, and what is written meanwhile.
fn told(pieces: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
    static BODY: [u8; 200] = [7; 200];
    let mut talk = Talk::silent();
    let slots = [talk.get(), talk.send(&BODY, None), talk.get(), talk.get()];
    for piece in pieces {
        talk.hear(piece);
    }
    talk.flush();
    let answers = slots.map(|slot| format!("{:?}", talk.answer(slot)));
    (answers.to_vec(), talk.wrote)
}

#[test]
fn pieces_of_every_size_mean_the_same() {
    let bytes = everything();
    let (answers, wrote) = told(&[&bytes]);
    assert_eq!(
        answers,
        [
            "Some(Ok(200))",
            "Some(Ok(299))",
            "Some(Ok(299))",
            "Some(Err(Reset(Code(7))))"
        ]
    );
    for size in 1..40 {
        let pieces: Vec<_> = bytes.chunks(size).collect();
        assert_eq!(
            told(&pieces),
            (answers.clone(), wrote.clone()),
            "in pieces of {size}"
        );
    }
    for at in 1..bytes.len() {
        let (a, b) = bytes.split_at(at);
        assert_eq!(told(&[a, b]).0, answers, "split at {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever a target says, in whatever pieces: no panic, every request has its answer when the connection ends, and
    /// the pieces make no difference.
    #[test]
    fn a_target_may_say_anything(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        size in 1_usize..300,
    ) {
        let mut bytes = everything();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let pieces: Vec<_> = bytes.chunks(size).collect();
        prop_assert_eq!(told(&[&bytes]).0, told(&pieces).0);

        let mut talk = Talk::silent();
        let slots = [talk.get(), talk.get(), talk.get(), talk.get()];
        talk.hear(&bytes);
        talk.connection.closed();
        for slot in slots {
            prop_assert!(talk.answer(slot).is_some());
        }
        prop_assert_eq!(talk.connection.open_streams(), 0);
    }
}
