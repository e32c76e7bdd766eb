use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tapedeck_model::{BodyPart, Exchange, Ledger, Role, Timestamp, UnreadConnection};
use tapedeck_packet::{LinkType, RawPacket};
use tapedeck_testkit::{Conversation, Faults, Rng, SegmentBuf, wire};
use tapedeck_tls::KeyLog;

use super::Pipeline;
use super::driver::Driver;
use super::worker::{self, Yield};
use crate::engine::Connections;
use crate::{Engine, Limits, Recorder};

/// Everything that a recorder is told, in its order.
#[derive(Debug, Default, PartialEq)]
struct Tape(Vec<Told>);

#[derive(Debug, PartialEq)]
enum Told {
    Part(u64, Role, Vec<u8>),
    Exchange(Box<Exchange>),
    Unread(Box<UnreadConnection>),
}

impl Recorder for Tape {
    fn body_part(&mut self, part: &BodyPart) {
        self.0
            .push(Told::Part(part.key, part.role, part.data.clone()));
    }

    fn exchange(&mut self, exchange: &Exchange) {
        self.0.push(Told::Exchange(Box::new(exchange.clone())));
    }

    fn unread(&mut self, connection: &UnreadConnection) {
        self.0.push(Told::Unread(Box::new(connection.clone())));
    }
}

fn small_parts() -> Limits {
    Limits {
        part_len: 700,
        ..Limits::default()
    }
}

fn raw<'a>(segment: &SegmentBuf, data: &'a [u8]) -> RawPacket<'a> {
    RawPacket {
        at: segment.at,
        link: LinkType::RAW,
        data,
        wire_len: u32::try_from(data.len()).expect("a short packet"),
        scope: tapedeck_model::Scope(0),
    }
}

fn alone(packets: &[SegmentBuf]) -> (Tape, Ledger) {
    let mut engine = Engine::new(small_parts());
    let mut tape = Tape::default();
    for segment in packets {
        engine.packet(&raw(segment, &wire::ip(&segment.as_segment())), &mut tape);
    }
    engine.finish(&mut tape);
    let ledger = engine.ledger();
    (tape, ledger)
}

fn together(packets: &[SegmentBuf], threads: usize) -> (Tape, Ledger) {
    let threads = NonZeroUsize::new(threads).expect("at least one");
    let mut pipeline = Pipeline::new(small_parts(), threads).expect("threads");
    let mut tape = Tape::default();
    for segment in packets {
        pipeline.packet(&raw(segment, &wire::ip(&segment.as_segment())), &mut tape);
    }
    let ledger = pipeline.finish(&mut tape);
    (tape, ledger)
}

/// Connections that begin, pause, break off and end beside each other, over a bad network.
fn traffic(seed: u64, connections: usize) -> Vec<SegmentBuf> {
    let rng = &mut Rng::new(seed);
    let start = Timestamp::from_nanos(1_700_000_000_000_000_000);
    let mut all = Vec::new();
    for number in 0..connections {
        // Some flows are used again.
        let client = format!("10.0.0.{}:{}", 1 + number % 7, 40_000 + rng.below(20));
        let begin = start.saturating_add(Duration::from_millis(rng.below(20_000) as u64));
        let isn = rng.next_u64();
        let mut talk = Conversation::new(&client, "10.0.1.1:80")
            .starting(begin)
            .with_isn(isn as u32, (isn >> 32) as u32);
        if rng.chance(50) {
            talk = talk.acknowledging();
        }
        if rng.chance(80) {
            talk.handshake();
        }
        for call in 0..rng.below(5) {
            let body = rng.below(3000);
            talk.client(format!("GET /{number}/{call} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
            talk.wait(Duration::from_millis(rng.below(50) as u64));
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n");
            talk.server(&[head.as_bytes(), &vec![b'x'; body]].concat());
            if rng.chance(10) {
                talk.wait(Duration::from_secs(rng.below(400) as u64));
            }
        }
        if rng.chance(60) {
            talk.close();
        }
        all.extend(talk.segments);
    }
    all.sort_by_key(|segment| segment.at);
    let faults = Faults {
        loss: 5,
        duplicate: 3,
        reorder: 10,
        window: 6,
    };
    faults.inject(rng, &all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn one_thread_equals_many(seed: u64, connections in 1_usize..80) {
        let packets = traffic(seed, connections);
        let (tape, ledger) = alone(&packets);
        for threads in [1, 2, 3, 4, 9] {
            let (other, other_ledger) = together(&packets, threads);
            prop_assert_eq!(&other, &tape, "{} threads", threads);
            prop_assert_eq!(&other_ledger, &ledger, "{} threads", threads);
        }
    }
}

#[test]
fn a_panic_of_one_worker_is_the_callers_and_hangs_nobody() {
    let packets = traffic(1, 400);
    // At once, in the middle, and at the end.
    for survives in [0, 2, usize::MAX] {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let fragments = Limits::default().fragments;
            let log = Arc::new(KeyLog::new(0));
            let shared = Arc::clone(&log);
            let mut driver = Driver::with(fragments, log, 3, move |number, batches, yields| {
                if number != 1 {
                    let connections = Connections::new(Limits::default(), Arc::clone(&shared));
                    return worker::run(number, connections, &batches, &yields);
                }
                for _ in batches.iter().take(survives) {
                    yields.send(Yield::default()).expect("the driver listens");
                }
                panic!("on purpose");
            })
            .expect("threads");
            let mut tape = Tape::default();
            for segment in packets.iter().cycle().take(20_000) {
                driver.packet(&raw(segment, &wire::ip(&segment.as_segment())), &mut tape);
            }
            driver.finish(&mut tape);
        }));
        let panic = outcome.expect_err("the worker panicked");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
    }
}

#[test]
fn a_pipeline_that_is_dropped_early_ends_its_threads() {
    let threads = NonZeroUsize::new(3).expect("at least one");
    let mut pipeline = Pipeline::new(Limits::default(), threads).expect("threads");
    let mut tape = Tape::default();
    for segment in traffic(2, 300).iter().cycle().take(10_000) {
        pipeline.packet(&raw(segment, &wire::ip(&segment.as_segment())), &mut tape);
    }
    drop(pipeline);
}
