//! Every limit is reached once: memory stays bounded, the anomaly is named, and reading goes on.

use tapedeck_http2::{Limits, Reader, Start};
use tapedeck_model::{Anomaly, Direction, Event, Input, Missing, Role};

use crate::log::{AT, Log, c, read_with, s};
use crate::wire::*;

const GET: &[u8] = &[0x82, 0x86, 0x84];
const BOTH: u8 = END_HEADERS | END_STREAM;

/// A connection that is flooded by its client; counts anomalies and keeps no log.
struct Flood {
    reader: Reader,
    events: usize,
    anomalies: Vec<Anomaly>,
}

impl Flood {
    fn new(limits: Limits) -> Self {
        let mut flood = Self {
            reader: Reader::new(limits, Start::Detect),
            events: 0,
            anomalies: Vec::new(),
        };
        flood.push(PREFACE);
        flood.push(&settings(&[]));
        flood
    }

    fn push(&mut self, bytes: &[u8]) {
        let Self {
            reader,
            events,
            anomalies,
        } = self;
        let mut sink = |event: Event<'_>| {
            *events += 1;
            if let Event::Anomaly { anomaly, .. } = event
                && anomalies.last() != Some(&anomaly)
            {
                anomalies.push(anomaly);
            }
        };
        reader.push(AT, Direction::ToServer, Input::Data(bytes), &mut sink);
    }
}

/// A request behind whatever was done to the connection.
fn read_after(limits: &Limits, abuse: &[Vec<u8>]) -> Log {
    let mut steps = vec![c(PREFACE), c(settings(&[])), s(settings(&[]))];
    steps.extend(abuse.iter().map(c));
    steps.push(c(frame(HEADERS, BOTH, 0x7fff_ffff, GET)));
    let log = read_with(limits, Start::Detect, &steps);
    let last = log.message(0x7fff_ffff, Role::Request);
    assert_eq!(last.head.as_ref().map(Vec::len), Some(3));
    log
}

#[test]
fn all_stream_ids_there_are() {
    let limits = Limits {
        streams: 100,
        ..Limits::default()
    };
    let mut flood = Flood::new(limits);
    for id in (1..0x7fff_ffff).step_by(100_000) {
        flood.push(&frame(HEADERS, END_HEADERS, id, GET));
        assert!(flood.reader.memory() < 64 << 10);
    }
    assert_eq!(flood.anomalies, [Anomaly::TooManyStreams]);
}

#[test]
fn the_oldest_stream_gives_way_and_says_so() {
    let limits = Limits {
        streams: 2,
        ..Limits::default()
    };
    let open = |id| frame(HEADERS, END_HEADERS, id, GET);
    let body = |id| frame(DATA, END_STREAM, id, b"late");
    let log = read_after(
        &limits,
        &[open(1), open(3), open(5), body(1), body(3), body(5)],
    );
    let partial = Some((Missing::PARTIAL, None));
    assert_eq!(log.message(1, Role::Request).end, partial);
    assert_eq!(
        log.message(1, Role::Response).absent,
        Some(Missing::PARTIAL)
    );
    let whole = Some((Missing::NONE, None));
    assert_eq!(log.message(5, Role::Request).end, whole);
    assert_eq!(log.named(), [Anomaly::TooManyStreams; 2]);
}

#[test]
fn a_rapid_reset_costs_nothing_that_stays() {
    let mut flood = Flood::new(Limits::default());
    for id in (1..400_000).step_by(2) {
        flood.push(&frame(HEADERS, BOTH, id, GET));
        flood.push(&frame(RST_STREAM, 0, id, &[0, 0, 0, 8]));
    }
    assert_eq!(flood.anomalies, []);
    // Head, End, and Absent of the response.
    assert_eq!(flood.events, 200_000 * 3);
    assert!(
        flood.reader.memory() < 64 << 10,
        "{}",
        flood.reader.memory()
    );
}

#[test]
fn a_flood_of_continuations_is_cut() {
    let mut flood = Flood::new(Limits::default());
    flood.push(&frame(HEADERS, END_STREAM, 1, GET));
    let field = [&[0, 1, b'a', 127, 0x80, 1][..], &[b'x'; 255]].concat();
    for _ in 0..50_000 {
        flood.push(&frame(CONTINUATION, 0, 1, &field));
        flood.push(&frame(CONTINUATION, 0, 1, &[]));
    }
    assert!(flood.reader.memory() < 1 << 20, "{}", flood.reader.memory());
    assert_eq!(flood.events, 0);
    flood.push(&frame(CONTINUATION, END_HEADERS, 1, &field));
    assert_eq!(flood.anomalies, [Anomaly::FieldSectionTooLarge]);
    assert_eq!(flood.events, 3);
}

#[test]
fn a_header_bomb_keeps_its_beginning() {
    let limits = Limits {
        field_section: 1000,
        ..Limits::default()
    };
    let mut encoder = Encoder::new();
    let mut block = GET.to_vec();
    for i in 0..100 {
        encoder.field("x", &i.to_string(), How::Index, &mut block);
    }
    let next = [GET, &encoder.block(&[("x", "99")])].concat();
    let abuse = [
        frame(HEADERS, BOTH, 1, &block),
        frame(HEADERS, BOTH, 3, &next),
    ];
    let log = read_after(&limits, &abuse);
    let bomb = log.message(1, Role::Request);
    assert_eq!(bomb.end, Some((Missing::PARTIAL, None)));
    assert!(
        bomb.head
            .as_ref()
            .is_some_and(|head| (20..40).contains(&head.len()))
    );
    assert_eq!(log.named(), [Anomaly::FieldSectionTooLarge]);
    // The table has seen all of it.
    let after = log.message(3, Role::Request).head.as_ref();
    assert_eq!(after.unwrap()[3].1.as_deref(), Some("99"));
}

#[test]
fn a_block_beyond_the_limit_costs_the_table() {
    let limits = Limits {
        field_block: 400,
        ..Limits::default()
    };
    let mut encoder = Encoder::new();
    let mut block = GET.to_vec();
    encoder.field("first", "1", How::Index, &mut block);
    encoder.field("long", &"x".repeat(1000), How::Index, &mut block);
    let next = [GET, &encoder.block(&[("first", "1")])].concat();
    for split in [1_000, 500, 10] {
        let (a, b) = block.split_at(split);
        let mut abuse = frame(HEADERS, END_STREAM, 1, a);
        abuse.extend(frame(CONTINUATION, END_HEADERS, 1, b));
        let whole = frame(HEADERS, BOTH, 1, &block);
        for abuse in [abuse, whole] {
            let log = read_after(&limits, &[abuse, frame(HEADERS, BOTH, 3, &next)]);
            let bomb = log.message(1, Role::Request);
            assert_eq!(bomb.end, Some((Missing::PARTIAL, None)));
            assert_eq!(bomb.head.as_ref().map(Vec::len), Some(4));
            let after = log.message(3, Role::Request);
            assert_eq!(after.end, Some((Missing::UNKNOWN_FIELDS, None)));
            let expect = [Anomaly::FieldSectionTooLarge, Anomaly::HpackUnknownEntry];
            assert_eq!(log.named(), expect);
        }
    }
}

#[test]
fn a_large_table_is_held_in_part() {
    let limits = Limits {
        header_table: 2000,
        ..Limits::default()
    };
    let mut encoder = Encoder::new();
    let mut block = GET.to_vec();
    for i in 0..60 {
        encoder.field("x", &format!("{i:010}"), How::Index, &mut block);
    }
    let block_of = |encoder: &mut Encoder, i: usize| {
        [GET, &encoder.block(&[("x", &format!("{i:010}"))])].concat()
    };
    let (late, early) = (block_of(&mut encoder, 50), block_of(&mut encoder, 5));
    let log = read_after(
        &limits,
        &[
            frame(HEADERS, BOTH, 1, &block),
            frame(HEADERS, BOTH, 3, &late),
            frame(HEADERS, BOTH, 5, &early),
        ],
    );
    let field = |id: u64| {
        log.message(id, Role::Request).head.as_ref().unwrap()[3]
            .1
            .clone()
    };
    assert_eq!(field(3).as_deref(), Some("0000000050"));
    assert_eq!(field(5), None);
    assert_eq!(log.named(), [Anomaly::HpackUnknownEntry]);
}

#[test]
fn a_flood_of_settings_is_no_longer_followed() {
    let mut flood = Flood::new(Limits::default());
    for _ in 0..100_000 {
        flood.push(&settings(&[(1, 100)]));
    }
    assert_eq!(flood.anomalies, [Anomaly::TooManySettings]);
    assert!(flood.reader.memory() < 16 << 10);
}

#[test]
fn a_huge_control_frame_is_not_held() {
    let mut flood = Flood::new(Limits::default());
    for kind in [SETTINGS, GOAWAY, 0xbe] {
        let stream = if kind == 0xbe { 1 } else { 0 };
        let huge = frame(kind, 0, stream, &vec![0; 6 << 17]);
        for piece in huge.chunks(1000) {
            flood.push(piece);
            assert!(
                flood.reader.memory() < 64 << 10,
                "{}",
                flood.reader.memory()
            );
        }
    }
    let expect = [
        Anomaly::FrameTooLarge,
        Anomaly::MalformedFrame,
        Anomaly::FrameTooLarge,
    ];
    assert_eq!(flood.anomalies[..3], expect);
}

#[test]
fn bytes_that_are_no_frames_are_passed_over_and_counted() {
    let junk = vec![0xff_u8; 1 << 20];
    let limits = Limits::default();
    let mut reader = Reader::new(limits, Start::Detect);
    let mut log = Log::default();
    for piece in junk.chunks(1460) {
        let mut sink = |event: Event<'_>| log.take(event);
        reader.push(AT, Direction::ToServer, Input::Data(piece), &mut sink);
        assert!(reader.memory() < 256 << 10);
    }
    reader.push(AT, Direction::ToServer, Input::Fin, &mut |event: Event<
        '_,
    >| {
        log.take(event)
    });
    assert_eq!(log.skipped, [1 << 20, 0]);
    assert_eq!(log.named(), [Anomaly::NoPreface]);
}
