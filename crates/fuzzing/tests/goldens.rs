//! The captures of `testdata`, made by real programs, over a network and a capture that are worse
//! than the ones they were made on.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails where its inputs are not readable"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use tapedeck_exchange::{Limits, Pipeline, Recorder};
use tapedeck_model::{
    BodyPart, Exchange, FlowKey, Head, Ledger, Message, Role, Scope, TcpFlags, Timestamp,
    UnreadConnection,
};
use tapedeck_packet::{CaptureReader, Decoded, LinkType, RawPacket, decode};
use tapedeck_testkit::Rng;

/// A packet that owns its bytes.
#[derive(Clone)]
struct Packet {
    at: Timestamp,
    link: LinkType,
    scope: Scope,
    data: Vec<u8>,
    wire_len: u32,
    /// The flow, and whether the segment may be moved: it is neither SYN nor RST, nor among the
    /// first ones, which tell what the flow is.
    segment: Option<(FlowKey, bool)>,
}

struct Case {
    name: String,
    packets: Vec<Packet>,
    keys: Option<Vec<u8>>,
}

/// What an exchange says, without the times at which it said it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Said {
    place: String,
    request: Option<Spoken>,
    response: Option<Spoken>,
    interim: usize,
    missing: Vec<&'static str>,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Spoken {
    head: Vec<u8>,
    body: Vec<u8>,
    trailers: Vec<u8>,
}

#[derive(Default)]
struct Tape {
    exchanges: Vec<Exchange>,
    said: Vec<Said>,
    unread: Vec<UnreadConnection>,
    parts: BTreeMap<(u64, Role), Vec<u8>>,
}

impl Recorder for Tape {
    fn body_part(&mut self, part: &BodyPart) {
        let parts = self.parts.entry((part.key, part.role)).or_default();
        parts.extend_from_slice(&part.data);
    }

    fn exchange(&mut self, exchange: &Exchange) {
        let request = self.spoken(exchange.key, Role::Request, exchange.request.as_ref());
        let response = self.spoken(exchange.key, Role::Response, exchange.response.as_ref());
        let connection = &exchange.connection;
        let missing = [Role::Request, Role::Response].map(|role| exchange.missing(role));
        self.said.push(Said {
            place: format!(
                "{} {} {}",
                connection.client, connection.server, exchange.stream
            ),
            request,
            response,
            interim: exchange.interim.len(),
            missing: missing
                .into_iter()
                .flat_map(|missing| missing.names())
                .collect(),
        });
        self.exchanges.push(exchange.clone());
    }

    fn unread(&mut self, connection: &UnreadConnection) {
        self.unread.push(connection.clone());
    }
}

impl Tape {
    fn spoken(&mut self, key: u64, role: Role, message: Option<&Message>) -> Option<Spoken> {
        let mut body = self.parts.remove(&(key, role)).unwrap_or_default();
        let message = message?;
        body.extend_from_slice(&message.body.tail);
        let raw = |head: &Option<Head>| head.as_ref().map(|head| head.raw.clone());
        Some(Spoken {
            head: raw(&message.head).unwrap_or_default(),
            body,
            trailers: raw(&message.trailers).unwrap_or_default(),
        })
    }

    /// In an order that does not depend on which connection was first.
    fn sorted(mut self) -> Vec<Said> {
        self.said.sort();
        self.said
    }
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/pcaps");
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Ok(files) = fs::read_dir(&path) else {
            continue;
        };
        let input = files
            .map(|file| file.unwrap().path())
            .find(|file| file.to_string_lossy().contains("input.pcap"));
        let Some(input) = input else { continue };
        cases.push(Case {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            packets: packets(&fs::read(input).unwrap()),
            keys: fs::read(path.join("keys.log")).ok(),
        });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() >= 60);
    cases
}

fn packets(file: &[u8]) -> Vec<Packet> {
    const BEGINNING: u32 = 8;
    let mut reader = CaptureReader::open(file).unwrap();
    let mut packets = Vec::new();
    let mut seen: BTreeMap<FlowKey, u32> = BTreeMap::new();
    while let Some(packet) = reader.next_packet().unwrap() {
        let segment = match decode(&packet) {
            Decoded::Segment(segment) => {
                let key = FlowKey::new(segment.source, segment.destination, segment.scope);
                let count = seen.entry(key).or_default();
                *count += 1;
                let control = TcpFlags::SYN.0 | TcpFlags::RST.0;
                Some((key, *count > BEGINNING && segment.flags.0 & control == 0))
            }
            _ => None,
        };
        packets.push(Packet {
            at: packet.at,
            link: packet.link,
            scope: packet.scope,
            data: packet.data.to_vec(),
            wire_len: packet.wire_len,
            segment,
        });
    }
    packets
}

fn read(packets: &[Packet], keys: Option<&Vec<u8>>, threads: usize) -> (Tape, Ledger) {
    let threads = NonZeroUsize::new(threads).unwrap();
    let mut pipeline = Pipeline::new(Limits::default(), threads).unwrap();
    let mut tape = Tape::default();
    if let Some(keys) = keys {
        pipeline.secrets(keys);
    }
    for packet in packets {
        let packet = RawPacket {
            at: packet.at,
            link: packet.link,
            scope: packet.scope,
            data: &packet.data,
            wire_len: packet.wire_len,
        };
        pipeline.packet(&packet, &mut tape);
    }
    let ledger = pipeline.finish(&mut tape);
    (tape, ledger)
}

#[test]
fn many_threads_find_what_one_finds() {
    for case in cases() {
        let (one, ledger) = read(&case.packets, case.keys.as_ref(), 1);
        for threads in [2, 4] {
            let (many, other) = read(&case.packets, case.keys.as_ref(), threads);
            assert!(one.exchanges == many.exchanges, "{}, {threads}", case.name);
            assert!(one.said == many.said, "{}, {threads}", case.name);
            assert!(one.unread == many.unread, "{}, {threads}", case.name);
            assert_eq!(ledger, other, "{}, {threads}", case.name);
        }
    }
}

/// Swaps packets that are near to each other, and repeats some. The times stay where they are.
fn disordered(packets: &[Packet], rng: &mut Rng) -> Vec<Packet> {
    const NEAR: Duration = Duration::from_millis(5);
    let mut out = packets.to_vec();
    for pass in 0..3 {
        for n in 1..out.len() {
            let may_move = |n: usize| {
                let packet: &Packet = &out[n];
                packet.segment.is_some_and(|(_, may_move)| may_move)
            };
            let is_near = packets[n].at.since(packets[n - 1].at) < NEAR;
            if may_move(n) && may_move(n - 1) && is_near && rng.below(3 + pass) == 0 {
                out.swap(n - 1, n);
            }
        }
    }
    let mut repeated = Vec::new();
    for (packet, at) in out.into_iter().zip(packets.iter().map(|packet| packet.at)) {
        let packet = Packet { at, ..packet };
        let again = packet.segment.is_some_and(|(_, may_move)| may_move) && rng.below(6) == 0;
        repeated.push(packet.clone());
        if again {
            repeated.push(packet);
        }
    }
    repeated
}

#[test]
fn disorder_and_repetition_change_nothing() {
    let mut moved = 0;
    for case in cases() {
        let truth = read(&case.packets, case.keys.as_ref(), 1).0.sorted();
        for seed in 0..3 {
            let packets = disordered(&case.packets, &mut Rng::new(seed));
            moved += packets.len() - case.packets.len();
            let said = read(&packets, case.keys.as_ref(), 1).0.sorted();
            assert!(
                said == truth,
                "{} with seed {seed}: {:#?}",
                case.name,
                said.iter()
                    .filter(|said| !truth.contains(said))
                    .map(|said| (&said.place, &said.missing))
                    .collect::<Vec<_>>()
            );
        }
    }
    assert!(moved > 1_000, "{moved} packets were repeated");
}

/// With packets lost, and before the capture began, what says that it is whole was said, to the
/// last byte.
#[test]
fn with_losses_what_is_whole_is_true() {
    let lossy: Vec<(usize, u64, u8)> = (0..8)
        .flat_map(|seed| [1, 3, 5, 10, 20, 30].map(|loss| (0, seed, loss)))
        .collect();
    let late = [(3, 0, 0), (7, 0, 0), (20, 0, 0), (7, 2, 10), (12, 5, 3)];
    let mut whole = 0;
    for case in cases() {
        let truth: BTreeSet<Said> = unplaced(read(&case.packets, case.keys.as_ref(), 1).0);
        // What a tunnel carries is read as what it is where nobody saw it opened.
        if case.name.ends_with("-connect") {
            continue;
        }
        for (before, seed, loss) in lossy.iter().chain(&late).copied() {
            let mut rng = Rng::new(seed);
            let kept: Vec<Packet> = case
                .packets
                .iter()
                .skip(before)
                .filter(|_| !rng.chance(loss))
                .cloned()
                .collect();
            let (tape, ledger) = read(&kept, case.keys.as_ref(), 1);
            assert_eq!(ledger.exchanges, tape.exchanges.len() as u64);
            for said in unplaced(tape)
                .into_iter()
                .filter(|said| said.missing.is_empty())
            {
                whole += 1;
                assert!(
                    truth.contains(&said),
                    "{} from {before}, seed {seed}, {loss} %: {} {:?}",
                    case.name,
                    said.place,
                    [&said.request, &said.response].map(|spoken| spoken
                        .as_ref()
                        .map(|spoken| String::from_utf8_lossy(&spoken.head).into_owned()))
                );
            }
        }
    }
    assert!(whole > 500, "{whole} whole");
}

/// Without the ordinals, which a loss changes, nor who connected, which may not be known.
fn unplaced(tape: Tape) -> BTreeSet<Said> {
    let said = tape.said.into_iter();
    said.map(|said| Said {
        place: String::new(),
        interim: 0,
        ..said
    })
    .collect()
}
