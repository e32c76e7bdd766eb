//! The readers of HTTP and TLS.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tapedeck_model::{
    Direction, Event, Gap, GapCause, Input, PerDirection, Role, StreamKey, Timestamp,
};

use crate::program::Program;

/// What the input says about who speaks: the top bit of a byte is the direction, 0x7f a gap, the rest
/// how many bytes follow.
fn script(mut bytes: &[u8], mut push: impl FnMut(Timestamp, Direction, Input<'_>)) {
    let mut at = Timestamp::EPOCH;
    while let Some((control, rest)) = bytes.split_first() {
        at = at.saturating_add(Duration::from_millis(1));
        let direction = if control & 0x80 == 0 {
            Direction::ToServer
        } else {
            Direction::ToClient
        };
        let len = usize::from(control & 0x7f);
        if len == 0x7f {
            bytes = rest;
            let gap = Gap {
                len: 100,
                cause: GapCause::Lost,
            };
            push(at, direction, Input::Gap(gap));
            continue;
        }
        let (data, behind) = rest.split_at(len.min(rest.len()));
        bytes = behind;
        if !data.is_empty() {
            push(at, direction, Input::Data(data));
        }
    }
    for direction in [Direction::ToServer, Direction::ToClient] {
        push(at, direction, Input::Fin);
    }
}

/// Checks the grammar of [`Event`]: nothing of a message comes behind its end.
#[derive(Default)]
struct Grammar {
    over: BTreeMap<(StreamKey, bool), bool>,
}

impl Grammar {
    fn check(&mut self, event: &Event<'_>) {
        let (stream, role, ends) = match *event {
            Event::Head { stream, role, .. }
            | Event::Body { stream, role, .. }
            | Event::BodyGap { stream, role, .. }
            | Event::Trailers { stream, role, .. } => (stream, role, false),
            Event::End { stream, role, .. } | Event::Absent { stream, role, .. } => {
                (stream, role, true)
            }
            _ => return,
        };
        let over = self
            .over
            .entry((stream, matches!(role, Role::Request)))
            .or_default();
        assert!(!*over, "behind the end of its message: {event:?}");
        *over = ends;
    }
}

/// What a reader may hold beside what its limits name.
const SLACK: usize = 64 << 10;

/// A connection that speaks HTTP/1.
pub fn http1(bytes: &[u8]) {
    let mut reader = tapedeck_http1::Reader::new(tapedeck_http1::Limits::default());
    let mut grammar = Grammar::default();
    let mut switched = false;
    script(bytes, |at, direction, input| {
        if !switched {
            reader.push(at, direction, input, &mut |event: Event<'_>| {
                switched |= matches!(event, Event::SwitchToHttp2 { .. });
                grammar.check(&event);
            });
        }
    });
    if !switched {
        assert!(
            grammar.over.values().all(|over| *over),
            "a message without end"
        );
    }
}

/// A connection that speaks HTTP/2, from its beginning or behind an upgrade.
pub fn http2(bytes: &[u8]) {
    for start in [
        tapedeck_http2::Start::Detect,
        tapedeck_http2::Start::Upgraded,
    ] {
        let limits = tapedeck_http2::Limits::default();
        let most = 4 * limits.search_window + 2 * limits.header_table + SLACK;
        let mut reader = tapedeck_http2::Reader::new(limits, start);
        let mut grammar = Grammar::default();
        script(bytes, |at, direction, input| {
            reader.push(at, direction, input, &mut |event: Event<'_>| {
                grammar.check(&event);
            });
            assert!(reader.memory() <= most + bytes.len(), "{}", reader.memory());
        });
        assert!(
            grammar.over.values().all(|over| *over),
            "a message without end"
        );
    }
}

/// Field blocks, each behind a byte with its length, on streams of their own. Each of them gives
/// one head, or says that there is none, and nothing that was decoded comes from nowhere.
pub fn hpack(bytes: &[u8]) {
    const HEADERS: u8 = 1;
    const END_STREAM_END_HEADERS: u8 = 5;
    let mut program = Program::new(bytes);
    let limits = tapedeck_http2::Limits::default();
    let mut reader = tapedeck_http2::Reader::new(limits, tapedeck_http2::Start::Detect);
    let mut push = |direction, bytes: &[u8], sink: &mut dyn FnMut(Event<'_>)| {
        let input = Input::Data(bytes);
        reader.push(Timestamp::EPOCH, direction, input, &mut |event: Event<
            '_,
        >| {
            sink(event)
        });
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    push(Direction::ToServer, preface, &mut |_| {});
    let mut stream = 1_u32;
    while !program.is_over() && stream < 2000 {
        let len = program.byte();
        let block = program.take(len.into());
        let mut frame = vec![0, 0, block.len() as u8, HEADERS, END_STREAM_END_HEADERS];
        frame.extend(stream.to_be_bytes());
        frame.extend(block);
        let (mut heads, mut ends) = (0, 0);
        push(Direction::ToServer, &frame, &mut |event| match event {
            Event::Head { head, .. } => {
                heads += 1;
                for field in &head.fields {
                    // A span that lies outside of the head reads as empty.
                    for span in [field.name, field.value] {
                        assert_eq!(span.of(&head.raw).len(), span.len as usize);
                    }
                }
                assert!(head.raw.len() <= 256 << 10, "a bomb");
            }
            Event::End {
                role: Role::Request,
                ..
            } => ends += 1,
            _ => {}
        });
        assert!(heads <= 1 && ends <= 1, "{heads} heads, {ends} ends");
        stream += 2;
    }
}

/// A connection that speaks TLS, with the key logs of recorded conversations. What comes out keeps
/// the order of the world above TCP: nothing behind an end, no empty piece.
pub fn tls(bytes: &[u8]) {
    static KEY_LOG: LazyLock<Arc<tapedeck_tls::KeyLog>> = LazyLock::new(|| {
        let log = tapedeck_tls::KeyLog::new(1000);
        for text in KEY_LOGS {
            log.add(text);
        }
        Arc::new(log)
    });
    let keys = Arc::new(tapedeck_tls::Keys::new(Arc::clone(&KEY_LOG)));
    let limits = tapedeck_tls::Limits::default();
    let most = 4 * limits.held_bytes + 2 * limits.message_len + SLACK;
    let mut reader = tapedeck_tls::Reader::new(limits, keys);
    let mut scratch = Vec::new();
    let mut over: PerDirection<bool> = PerDirection::default();
    let mut plain = 0;
    script(bytes, |at, direction, input| {
        reader.push(at, direction, input, &mut scratch, &mut |_: Timestamp,
                                                              direction,
                                                              input: Input<
            '_,
        >| {
            assert!(!over[direction], "behind the end");
            match input {
                Input::Data(data) => {
                    assert!(!data.is_empty(), "an empty piece");
                    plain += data.len();
                }
                Input::Gap(_) => {}
                Input::Fin | Input::Reset | Input::Cut => over[direction] = true,
            }
        });
        assert!(reader.memory() <= most, "{}", reader.memory());
    });
    assert!(plain <= bytes.len(), "more than went in");
    assert!(over.to_server && over.to_client, "a direction without end");
}

macro_rules! key_logs {
    ($($case:literal),* $(,)?) => {
        &[$(include_bytes!(concat!("../../../testdata/pcaps/", $case, "/keys.log"))),*]
    };
}

/// The secrets of the golden captures.
const KEY_LOGS: &[&[u8]] = key_logs![
    "048-tls",
    "100-tls12-suites",
    "101-tls12-mac-then-encrypt",
    "102-tls13-suites",
    "103-tls12-resumed",
    "104-tls13-resumed",
    "105-early-data",
    "106-key-update",
    "107-hello-retry",
    "108-tls-h2",
    "109-client-certificate",
    "110-tls-grpc",
    "111-node-https",
    "113-tls-midstream",
    "114-tls-lost",
];
