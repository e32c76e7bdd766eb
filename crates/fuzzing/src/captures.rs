//! The golden captures as packets that can be lost, moved and repeated, and what is read of them.

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
#[derive(Clone, Debug)]
pub struct Packet {
    /// When it was captured.
    pub at: Timestamp,
    /// What its bytes begin with.
    pub link: LinkType,
    /// Where it was captured.
    pub scope: Scope,
    /// What was captured of it.
    pub data: Vec<u8>,
    /// How long it was.
    pub wire_len: u32,
    /// The flow, and whether the segment may be moved: it is neither SYN nor RST, nor among the
    /// first ones, which tell what the flow is.
    pub segment: Option<(FlowKey, bool)>,
}

impl Packet {
    /// Whether its segment may come at another place.
    #[must_use]
    pub fn may_move(&self) -> bool {
        self.segment.is_some_and(|(_, may_move)| may_move)
    }
}

/// Packets between which so much time passed may come in the other order.
pub(crate) const NEAR: Duration = Duration::from_millis(5);

/// A golden capture.
#[derive(Clone, Debug)]
pub struct Case {
    /// The name of its folder.
    pub name: String,
    /// What it holds.
    pub packets: Vec<Packet>,
    /// Its key log.
    pub keys: Option<Vec<u8>>,
}

/// What an exchange says, without the times at which it said it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Said {
    /// The connection, and the number of the exchange on it.
    pub place: String,
    /// The request.
    pub request: Option<Spoken>,
    /// The response.
    pub response: Option<Spoken>,
    /// How many interim responses there were.
    pub interim: usize,
    /// What is missing of either.
    pub missing: Vec<&'static str>,
}

/// What a message says.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Spoken {
    /// Its head, byte for byte.
    pub head: Vec<u8>,
    /// Its body.
    pub body: Vec<u8>,
    /// Its trailers, byte for byte.
    pub trailers: Vec<u8>,
}

/// Everything that was read of a capture.
#[derive(Debug, Default)]
pub struct Tape {
    /// The exchanges.
    pub exchanges: Vec<Exchange>,
    /// The same in the same order, without times.
    pub said: Vec<Said>,
    /// What could not be read.
    pub unread: Vec<UnreadConnection>,
    /// When each of the exchanges came out, on one thread; `None`: when the capture ended.
    pub told: Vec<Option<Timestamp>>,
    now: Option<Timestamp>,
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
        self.told.push(self.now);
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
    #[must_use]
    pub fn sorted(mut self) -> Vec<Said> {
        self.said.sort();
        self.said
    }
}

/// The golden captures, by name.
///
/// # Panics
/// Where they are not there.
#[must_use]
pub fn cases() -> Vec<Case> {
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

/// Reads packets on so many threads.
///
/// # Panics
/// Without a thread.
#[must_use]
pub fn read(packets: &[Packet], keys: Option<&Vec<u8>>, threads: usize) -> (Tape, Ledger) {
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
        tape.now = Some(packet.at);
        pipeline.packet(&packet, &mut tape);
    }
    tape.now = None;
    let ledger = pipeline.finish(&mut tape);
    (tape, ledger)
}

/// Swaps packets that are near to each other, and repeats some. The times stay where they are.
#[must_use]
pub fn disordered(packets: &[Packet], rng: &mut Rng) -> Vec<Packet> {
    let mut out = packets.to_vec();
    for pass in 0..3 {
        for n in 1..out.len() {
            let is_near = packets[n].at.since(packets[n - 1].at) < NEAR;
            let may_move = out[n].may_move() && out[n - 1].may_move();
            if may_move && is_near && rng.below(3 + pass) == 0 {
                out.swap(n - 1, n);
            }
        }
    }
    let mut repeated = Vec::new();
    for (packet, at) in out.into_iter().zip(packets.iter().map(|packet| packet.at)) {
        let packet = Packet { at, ..packet };
        let again = packet.may_move() && rng.below(6) == 0;
        repeated.push(packet.clone());
        if again {
            repeated.push(packet);
        }
    }
    repeated
}

/// What a capture that begins so many packets late holds, of which so many per cent are lost.
#[must_use]
pub fn kept(packets: &[Packet], before: usize, seed: u64, loss: u8) -> Vec<Packet> {
    let mut rng = Rng::new(seed);
    let packets = packets.iter().skip(before);
    packets.filter(|_| !rng.chance(loss)).cloned().collect()
}

/// What was said, wherever it was.
#[must_use]
pub fn unplaced(tape: Tape) -> BTreeSet<Said> {
    tape.said.iter().map(Said::without_place).collect()
}

impl Said {
    /// Without the ordinals, which a loss changes, nor who connected, which may not be known.
    #[must_use]
    pub fn without_place(&self) -> Self {
        Self {
            place: String::new(),
            interim: 0,
            ..self.clone()
        }
    }
}
