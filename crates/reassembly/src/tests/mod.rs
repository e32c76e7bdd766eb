//! Tests of the machine as a whole: segments in, a log of the sink out.

mod cases;
mod lifetimes;
mod limits;
mod losses;
mod properties;
mod vantage;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tapedeck_model::{Anomaly, Connection, Direction, Gap, Input, Ledger, PerDirection, Timestamp};
use tapedeck_testkit::{Conversation, SegmentBuf};

use crate::{Limits, Reassembler, Sink, Slot};

pub(super) const UP: Direction = Direction::ToServer;
pub(super) const DOWN: Direction = Direction::ToClient;

pub(super) fn talk() -> Conversation {
    Conversation::new("10.0.0.1:40000", "10.0.0.2:80")
}

pub(super) fn started() -> Conversation {
    let mut talk = talk();
    talk.handshake();
    talk
}

pub(super) fn data(segments: &[SegmentBuf], text: &[u8]) -> usize {
    segments
        .iter()
        .position(|segment| segment.payload == text)
        .expect("a segment with that text")
}

/// What a sink was told, checked against the sink's contract while it is told.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) connections: Vec<Logged>,
    live: BTreeMap<Slot, usize>,
}

#[derive(Debug)]
pub(super) struct Logged {
    pub(super) connection: Connection,
    pub(super) halves: PerDirection<HalfLog>,
    pub(super) anomalies: Vec<Anomaly>,
    pub(super) late: Vec<(Direction, u64)>,
    pub(super) closed: bool,
}

#[derive(Debug, Default)]
pub(super) struct HalfLog {
    pub(super) pieces: Vec<Piece>,
    pub(super) times: Vec<Timestamp>,
}

/// Data of consecutive inputs is one piece: how it was cut into segments does not matter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Piece {
    Data(Vec<u8>),
    Gap(Gap),
    Fin,
    Reset,
    Cut,
}

impl Piece {
    const fn is_end(&self) -> bool {
        matches!(self, Self::Fin | Self::Reset | Self::Cut)
    }
}

impl Sink for Log {
    fn opened(&mut self, slot: Slot, connection: Connection) {
        assert!(!self.live.contains_key(&slot), "{slot:?} is in use");
        assert_eq!(connection.id.0, self.connections.len() as u64);
        self.live.insert(slot, self.connections.len());
        self.connections.push(Logged {
            connection,
            halves: PerDirection {
                to_server: HalfLog::default(),
                to_client: HalfLog::default(),
            },
            anomalies: Vec::new(),
            late: Vec::new(),
            closed: false,
        });
    }

    fn input(&mut self, slot: Slot, direction: Direction, at: Timestamp, input: Input<'_>) {
        let half = &mut self.connections[self.live[&slot]].halves[direction];
        assert!(
            !half.pieces.last().is_some_and(Piece::is_end),
            "{input:?} behind the end"
        );
        assert!(
            half.times.last().is_none_or(|last| *last <= at),
            "time stepped back"
        );
        half.times.push(at);
        match (input, half.pieces.last_mut()) {
            (Input::Data(data), Some(Piece::Data(bytes))) => bytes.extend(data),
            (Input::Data(data), _) => {
                assert!(!data.is_empty(), "empty data");
                half.pieces.push(Piece::Data(data.to_vec()));
            }
            (Input::Gap(gap), _) => {
                assert_ne!(gap.len, 0, "an empty gap");
                half.pieces.push(Piece::Gap(gap));
            }
            (Input::Fin, _) => half.pieces.push(Piece::Fin),
            (Input::Reset, _) => half.pieces.push(Piece::Reset),
            (Input::Cut, _) => half.pieces.push(Piece::Cut),
        }
    }

    fn late(&mut self, slot: Slot, direction: Direction, len: u64) {
        let logged = &mut self.connections[self.live[&slot]];
        let pieces = &logged.halves[direction].pieces;
        assert!(pieces.is_empty(), "it has begun");
        logged.late.push((direction, len));
    }

    fn anomaly(&mut self, slot: Slot, _: Direction, anomaly: Anomaly) {
        self.connections[self.live[&slot]].anomalies.push(anomaly);
    }

    fn closed(&mut self, slot: Slot, _: Timestamp) {
        let index = self.live.remove(&slot).expect("closed twice");
        let logged = &mut self.connections[index];
        for direction in Direction::BOTH {
            let last = logged.halves[direction].pieces.last();
            assert!(
                last.is_some_and(Piece::is_end),
                "{direction:?} has not ended"
            );
        }
        logged.closed = true;
    }
}

impl Log {
    /// One line for each connection and direction.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        for Logged {
            connection,
            halves,
            anomalies,
            late: _,
            closed: _,
        } in &self.connections
        {
            let Connection {
                client,
                server,
                origin,
                ..
            } = connection;
            writeln!(out, "{client} {server} {origin:?}").unwrap();
            for (arrow, direction) in [(">>>", Direction::ToServer), ("<<<", Direction::ToClient)] {
                write!(out, "{arrow}").unwrap();
                for piece in &halves[direction].pieces {
                    match piece {
                        Piece::Data(bytes) => write!(out, " {}", bytes.escape_ascii()),
                        Piece::Gap(Gap { len, cause }) => write!(out, " ({len} {cause:?})"),
                        end => write!(out, " {end:?}"),
                    }
                    .unwrap();
                }
                out.push('\n');
            }
            for anomaly in anomalies {
                writeln!(out, "!!! {anomaly}").unwrap();
            }
        }
        out
    }

    /// The pieces of one direction of the only connection.
    pub(super) fn pieces(&self, direction: Direction) -> &[Piece] {
        assert_eq!(self.connections.len(), 1, "{}", self.text());
        &self.connections[0].halves[direction].pieces
    }
}

/// Feeds segments and ends the capture; the ledger's law must hold at every moment.
pub(super) fn feed(limits: Limits, segments: &[SegmentBuf]) -> (Log, Ledger) {
    let mut log = Log::default();
    let mut reassembler = Reassembler::new(limits);
    for segment in segments {
        reassembler.push(&segment.as_segment(), &mut log);
        check_law(&reassembler);
    }
    reassembler.finish(&mut log);
    assert_eq!(reassembler.buffered_bytes(), 0);
    assert_eq!(reassembler.memory(), 0);
    assert_eq!(reassembler.connections(), 0);
    assert!(log.connections.iter().all(|logged| logged.closed));
    let mut ledger = check_law(&reassembler);
    for anomaly in log.connections.iter().flat_map(|logged| &logged.anomalies) {
        ledger.count(*anomaly);
    }
    (log, ledger)
}

/// The second law of the ledger, with what is in flight.
#[track_caller]
pub(super) fn check_law(reassembler: &Reassembler) -> Ledger {
    let mut ledger = Ledger::default();
    reassembler.add_to(&mut ledger);
    assert_eq!(
        ledger.payload_bytes_seen,
        ledger.payload_bytes_delivered
            + ledger.payload_bytes_duplicate
            + ledger.payload_bytes_dropped
            + reassembler.buffered_bytes(),
        "{ledger:?}"
    );
    ledger
}

#[track_caller]
pub(super) fn check(segments: &[SegmentBuf], expected: &str) -> Ledger {
    let (log, ledger) = feed(Limits::default(), segments);
    let expected: String = expected
        .lines()
        .map(|line| format!("{}\n", line.trim()))
        .collect();
    assert_eq!(log.text(), expected);
    ledger
}
