//! Every limit reached, and hostile input in quantity.

use std::time::Duration;

use tapedeck_model::{
    Connection, Direction, Endpoint, Input, Scope, Segment, SeqNum, TcpFlags, Timestamp,
};
use tapedeck_testkit::Conversation;

use super::{Log, check_law, feed};
use crate::{Limits, Reassembler, Sink, Slot};

/// Counts, and keeps nothing.
#[derive(Default)]
struct Count {
    opened: u64,
    closed: u64,
    bytes: u64,
    gaps: u64,
}

impl Sink for Count {
    fn opened(&mut self, _: Slot, _: Connection) {
        self.opened += 1;
    }

    fn input(&mut self, _: Slot, _: Direction, _: Timestamp, input: Input<'_>) {
        match input {
            Input::Data(data) => self.bytes += data.len() as u64,
            Input::Gap(_) => self.gaps += 1,
            Input::Fin | Input::Reset | Input::Cut => {}
        }
    }

    fn anomaly(&mut self, _: Slot, _: Direction, _: tapedeck_model::Anomaly) {}

    fn closed(&mut self, _: Slot, _: Timestamp) {
        self.closed += 1;
    }
}

fn segment(client: u32, at: i64, seq: u32, flags: TcpFlags, payload: &[u8]) -> Segment<'_> {
    Segment {
        at: Timestamp::from_nanos(at),
        source: Endpoint::new(std::net::Ipv4Addr::from(client).into(), 40_000),
        destination: Endpoint::new(std::net::Ipv4Addr::LOCALHOST.into(), 80),
        scope: Scope(0),
        seq: SeqNum(seq),
        ack: SeqNum(0),
        flags,
        payload,
        cut: 0,
    }
}

#[test]
fn a_million_half_open_connections_stay_within_the_table() {
    let limits = Limits {
        max_connections: 10_000,
        ..Limits::default()
    };
    let mut count = Count::default();
    let mut reassembler = Reassembler::new(limits);
    // One that says something outlives all of them: its deadline is further away.
    reassembler.push(&segment(1, 0, 1, TcpFlags::PSH, b"hello"), &mut count);
    for client in 0..1_000_000 {
        reassembler.push(
            &segment(client + 1000, client.into(), 0, TcpFlags::SYN, b""),
            &mut count,
        );
        assert!(reassembler.connections() <= limits.max_connections);
    }
    reassembler.push(
        &segment(1, 1_000_001, 6, TcpFlags::PSH, b" again"),
        &mut count,
    );
    let ledger = check_law(&reassembler);
    assert_eq!(ledger.connections, 1_000_001);
    assert_eq!(ledger.connections_evicted, 1_000_001 - 10_000);
    assert_eq!(count.bytes, 11);
    reassembler.finish(&mut count);
    assert_eq!((count.opened, count.closed), (1_000_001, 1_000_001));
}

#[test]
fn half_open_connections_expire() {
    let mut count = Count::default();
    let mut reassembler = Reassembler::new(Limits::default());
    for client in 0..1000 {
        reassembler.push(&segment(client, 0, 0, TcpFlags::SYN, b""), &mut count);
    }
    let due = reassembler.poll_timeout().expect("a timeout");
    assert!(due.since(Timestamp::EPOCH) >= Duration::from_secs(5));
    assert!(due.since(Timestamp::EPOCH) <= Duration::from_millis(5500));
    reassembler.handle_timeout(due, &mut count);
    assert_eq!(
        (reassembler.connections(), reassembler.poll_timeout()),
        (0, None)
    );
    assert_eq!(check_law(&reassembler).connections_empty, 1000);
}

#[test]
fn a_connection_with_a_million_holes_is_bounded_and_linear() {
    let mut count = Count::default();
    let mut reassembler = Reassembler::new(Limits::default());
    for n in 0..1_000_000_u32 {
        // Every second byte, backwards in groups, so that the tree works for it.
        let place = (n / 1000) * 1000 + (999 - n % 1000);
        let segment = segment(
            1,
            n.into(),
            2 * place,
            TcpFlags::PSH.union(TcpFlags::ACK),
            b"x",
        );
        reassembler.push(&segment, &mut count);
        assert!(reassembler.memory() <= Limits::default().max_buffered_per_connection);
    }
    reassembler.finish(&mut count);
    let ledger = check_law(&reassembler);
    assert!(count.gaps > 990_000, "{}", count.gaps);
    assert_eq!(
        ledger.gap_bytes_partial + ledger.gap_bytes_lost,
        ledger.gap_bytes
    );
}

#[test]
fn the_memory_of_one_connection_is_bounded_and_its_oldest_hole_goes_first() {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.handshake();
    for _ in 0..10 {
        talk.lose(Direction::ToServer, 10);
        talk.client(&[b'x'; 100]);
    }
    let limits = Limits {
        max_buffered_per_connection: 1000,
        ..Limits::default()
    };
    let (log, ledger) = feed(limits, &talk.segments);
    // 212 bytes each with the bookkeeping: four may wait, six were given up on the way.
    assert_eq!(ledger.gap_bytes_partial, 60);
    assert_eq!(ledger.gap_bytes_lost, 40);
    assert_eq!(ledger.payload_bytes_delivered, 1000);
    assert!(log.text().contains("(10 Limit) xxx"));
}

#[test]
fn the_memory_of_all_is_bounded_and_the_oldest_hole_goes_first() {
    let limits = Limits {
        max_buffered: 1000,
        ..Limits::default()
    };
    let mut log = Log::default();
    let mut reassembler = Reassembler::new(limits);
    for client in 1..=10_u16 {
        let mut talk = Conversation::new(&format!("10.0.0.{client}:40000"), "10.0.1.0:80")
            .starting(Timestamp::from_nanos(client.into()));
        talk.handshake();
        talk.lose(Direction::ToServer, 10);
        talk.client(&[b'x'; 100]);
        for segment in &talk.segments {
            reassembler.push(&segment.as_segment(), &mut log);
        }
        assert!(reassembler.memory() <= limits.max_buffered);
    }
    let given_up: Vec<_> = log
        .connections
        .iter()
        .map(|logged| !logged.halves.to_server.pieces.is_empty())
        .collect();
    let mut expected = [true; 10];
    expected[6..].fill(false);
    assert_eq!(given_up, expected);
    check_law(&reassembler);
}

#[test]
fn answers_that_wait_are_bounded_too() {
    // The client's bytes never come, and the server's answers pile up within the grace.
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.step = Duration::from_nanos(1);
    talk.handshake();
    talk.lose(Direction::ToServer, 10);
    for _ in 0..100 {
        talk.server(&[b'x'; 100]);
    }
    for limits in [
        Limits {
            max_buffered: 1000,
            ..Limits::default()
        },
        Limits {
            max_buffered_per_connection: 1000,
            ..Limits::default()
        },
    ] {
        let (_, ledger) = feed(limits, &talk.segments);
        assert_eq!(ledger.payload_bytes_delivered, 10_000);
        assert_eq!((ledger.gaps, ledger.gap_bytes), (1, 10));
    }
}

#[test]
fn a_segment_beyond_the_window_is_counted() {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.handshake();
    talk.client(b"a");
    let mut far = talk.segments[3].clone();
    far.seq.0 = far.seq.0.wrapping_add(0x5000_0000);
    talk.segments.push(far.clone());
    far.seq.0 = far.seq.0.wrapping_sub(0xa000_0000);
    talk.segments.push(far);
    let (_, ledger) = feed(Limits::default(), &talk.segments);
    assert_eq!(ledger.payload_bytes_dropped, 2);
    assert_eq!(ledger.anomalies.values().sum::<u64>(), 2);
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<crate::connection::Conn>() <= 304);
}
