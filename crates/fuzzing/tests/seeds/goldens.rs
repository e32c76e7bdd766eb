//! Seeds from the golden captures and archives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tapedeck_archive::{Archive, Provenance, Writer, WriterOptions};
use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_interchange::har;
use tapedeck_model::{
    Anomaly, BodyPart, Connection, Direction, Exchange, Head, Input, Message, Role, Timestamp,
    UnreadConnection,
};
use tapedeck_packet::{CaptureReader, Decoded, decode};
use tapedeck_reassembly::{Reassembler, Sink, Slot};

use super::{MAX_LEN, files, root};

/// The files of the golden cases whose names begin so.
pub(super) fn files_named(name: &str) -> Vec<PathBuf> {
    let cases = files(&root().join("testdata/pcaps"));
    let paths = cases.into_iter().flat_map(|case| files(&case));
    let has_name = |path: &PathBuf| {
        let found = path.file_name().map(|found| found.to_string_lossy());
        found.is_some_and(|found| found.starts_with(name))
    };
    paths.filter(has_name).collect()
}

pub(super) fn key_logs() -> Vec<Vec<u8>> {
    let logs = files_named("keys.log").into_iter();
    logs.map(|path| fs::read(path).unwrap()).collect()
}

/// Some packets of each capture, none twice.
pub(super) fn packets() -> Vec<Vec<u8>> {
    const EACH: usize = 4;
    const LONG: usize = 300;
    let mut packets = BTreeSet::new();
    for path in files_named("input.pcap") {
        let file = fs::read(path).unwrap();
        let mut capture = CaptureReader::open(&file[..]).unwrap();
        for _ in 0..EACH {
            let Ok(Some(packet)) = capture.next_packet() else {
                break;
            };
            let data = packet.data.get(..LONG).unwrap_or(packet.data);
            packets.insert(data.to_vec());
        }
    }
    packets.into_iter().collect()
}

/// What was said on one connection, in the order in which it came.
type Talk = Vec<(Direction, Vec<u8>)>;

#[derive(Default)]
struct Talks {
    open: BTreeMap<u32, Talk>,
    done: Vec<Talk>,
}

impl Sink for Talks {
    fn opened(&mut self, slot: Slot, _connection: Connection) {
        self.open.insert(slot.0, Talk::new());
    }

    fn input(&mut self, slot: Slot, direction: Direction, _at: Timestamp, input: Input<'_>) {
        if let Input::Data(data) = input {
            let talk = self.open.get_mut(&slot.0).unwrap();
            talk.push((direction, data.to_vec()));
        }
    }

    fn anomaly(&mut self, _slot: Slot, _direction: Direction, _anomaly: Anomaly) {}

    fn closed(&mut self, slot: Slot, _at: Timestamp) {
        self.done.extend(self.open.remove(&slot.0));
    }
}

fn talks(path: &Path) -> Vec<Talk> {
    let file = fs::read(path).unwrap();
    let mut capture = CaptureReader::open(&file[..]).unwrap();
    let mut reassembler = Reassembler::new(tapedeck_reassembly::Limits::default());
    let mut talks = Talks::default();
    while let Ok(Some(packet)) = capture.next_packet() {
        if let Decoded::Segment(segment) = decode(&packet) {
            reassembler.push(&segment, &mut talks);
        }
    }
    reassembler.finish(&mut talks);
    talks.done
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn is_http2(talk: &Talk) -> bool {
    let first = talk.iter().find(|(way, _)| *way == Direction::ToServer);
    first.is_some_and(|(_, bytes)| bytes.starts_with(PREFACE))
}

/// Some connections of each capture, as the targets of the readers want them.
pub(super) fn scripts(http2: bool) -> Vec<Vec<u8>> {
    const EACH: usize = 2;
    let mut scripts = Vec::new();
    for path in files_named("input.pcap") {
        let talks = talks(&path).into_iter();
        let talks = talks.filter(|talk| is_http2(talk) == http2 && !is_tls(talk));
        scripts.extend(
            talks
                .map(|talk| script(&talk))
                .filter(|seed| short(seed))
                .take(EACH),
        );
    }
    scripts
}

fn is_tls(talk: &Talk) -> bool {
    talk.iter()
        .any(|(_, bytes)| matches!(bytes.as_slice(), [20..=23, 3, ..]))
}

fn short(seed: &[u8]) -> bool {
    !seed.is_empty() && seed.len() <= MAX_LEN
}

/// Connections of TLS whose secrets the target knows.
pub(super) fn tls_scripts() -> Vec<Vec<u8>> {
    const EACH: usize = 4;
    let mut scripts = Vec::new();
    for log in files_named("keys.log") {
        let captures = files(log.parent().unwrap());
        let has_name = |path: &&PathBuf| path.to_string_lossy().contains("input.pcap");
        let talks = talks(captures.iter().find(has_name).unwrap()).into_iter();
        scripts.extend(
            talks
                .map(|talk| script(&talk))
                .filter(|seed| short(seed))
                .take(EACH),
        );
    }
    scripts
}

fn script(talk: &Talk) -> Vec<u8> {
    let turns: Vec<(bool, &[u8])> = talk
        .iter()
        .map(|(direction, bytes)| (*direction == Direction::ToClient, bytes.as_slice()))
        .collect();
    spoken(&turns)
}

/// A conversation in the form that the message targets read.
pub(super) fn spoken(turns: &[(bool, &[u8])]) -> Vec<u8> {
    let mut script = Vec::new();
    for (to_client, bytes) in turns {
        for piece in bytes.chunks(0x7e) {
            script.push(u8::from(*to_client) << 7 | u8::try_from(piece.len()).unwrap());
            script.extend(piece);
        }
    }
    script
}

/// The field blocks that a connection's client sent.
pub(super) fn field_blocks() -> Vec<Vec<u8>> {
    const HEADERS: u8 = 1;
    const PADDED: u8 = 8;
    const PRIORITY: u8 = 0x20;
    let mut seeds = BTreeSet::new();
    for path in files_named("input.pcap") {
        for talk in talks(&path).iter().filter(|talk| is_http2(talk)).take(2) {
            let said: Vec<u8> = talk
                .iter()
                .filter(|(way, _)| *way == Direction::ToServer)
                .flat_map(|(_, bytes)| bytes.iter().copied())
                .collect();
            let mut rest = said.get(PREFACE.len()..).unwrap_or_default();
            let mut seed = Vec::new();
            while let Some((head, behind)) = rest.split_first_chunk::<9>() {
                let [high, mid, low, kind, flags, ..] = *head;
                let len = u32::from_be_bytes([0, high, mid, low]) as usize;
                let Some((payload, next)) = behind.split_at_checked(len) else {
                    break;
                };
                rest = next;
                let from = if flags & PRIORITY == 0 { 0 } else { 5 };
                let block = payload.get(from..).unwrap_or_default();
                if let (HEADERS, 0, Ok(len)) = (kind, flags & PADDED, u8::try_from(block.len())) {
                    seed.push(len);
                    seed.extend(block);
                }
            }
            seeds.insert(seed);
        }
    }
    seeds.into_iter().filter(|seed| short(seed)).collect()
}

/// What a golden capture holds.
#[derive(Default)]
struct Tape {
    exchanges: Vec<(Exchange, [Vec<u8>; 2])>,
    parts: BTreeMap<(u64, Role), Vec<u8>>,
}

impl Recorder for Tape {
    fn body_part(&mut self, part: &BodyPart) {
        let parts = self.parts.entry((part.key, part.role)).or_default();
        parts.extend(&part.data);
    }

    fn exchange(&mut self, exchange: &Exchange) {
        let mut exchange = exchange.clone();
        let key = exchange.key;
        let sides = [
            (Role::Request, &mut exchange.request),
            (Role::Response, &mut exchange.response),
        ];
        let bodies = sides.map(|(role, message)| {
            let mut body = self.parts.remove(&(key, role)).unwrap_or_default();
            if let Some(message) = message {
                body.append(&mut message.body.tail);
                // In one piece, as the archive takes it, too.
                message.body.parts = 0;
                message.body.tail.clone_from(&body);
            }
            body
        });
        self.exchanges.push((exchange, bodies));
    }

    fn unread(&mut self, _connection: &UnreadConnection) {}
}

/// What the golden captures hold, with their keys.
fn tapes() -> &'static [Tape] {
    static TAPES: OnceLock<Vec<Tape>> = OnceLock::new();
    TAPES.get_or_init(|| {
        let captures = files_named("input.pcap").into_iter();
        captures.map(|path| tape(&path)).collect()
    })
}

fn tape(path: &Path) -> Tape {
    let file = fs::read(path).unwrap();
    let mut engine = Engine::new(Limits::default());
    if let Ok(keys) = fs::read(path.with_file_name("keys.log")) {
        engine.secrets(&keys);
    }
    let mut tape = Tape::default();
    let mut capture = CaptureReader::open(&file[..]).unwrap();
    while let Ok(Some(packet)) = capture.next_packet() {
        engine.packet(&packet, &mut tape);
    }
    engine.finish(&mut tape);
    tape
}

/// What is in a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Body {
    Coded,
    Events,
    Grpc,
    WebSocket,
}

/// Some bodies of each golden capture.
pub(super) fn bodies(kind: Body) -> Vec<Vec<u8>> {
    const EACH: usize = 3;
    let mut seeds = BTreeSet::new();
    for tape in tapes() {
        let bodies = tape.exchanges.iter().flat_map(|(exchange, bodies)| {
            let messages = [&exchange.request, &exchange.response];
            let sides = messages.into_iter().zip(bodies);
            sides.filter_map(move |(message, body)| body_of(kind, exchange, message, body))
        });
        seeds.extend(bodies.filter(|seed| short(seed)).take(EACH));
    }
    seeds.into_iter().collect()
}

fn body_of(
    kind: Body,
    exchange: &Exchange,
    message: &Option<Message>,
    body: &[u8],
) -> Option<Vec<u8>> {
    let head = message.as_ref()?.head.as_ref()?;
    let field = |name| head.field(name).unwrap_or_default();
    let is_kind = match kind {
        Body::Coded => !field("content-encoding").is_empty(),
        Body::Events => field("content-type").starts_with(b"text/event-stream"),
        Body::Grpc => field("content-type").starts_with(b"application/grpc"),
        Body::WebSocket => exchange.tunnel && field("upgrade").eq_ignore_ascii_case(b"websocket"),
    };
    let mut seed = match (kind, &exchange.response) {
        (Body::WebSocket, Some(response)) => {
            let agreed = response.head.as_ref().and_then(extensions);
            [agreed.unwrap_or_default(), b"\n"].concat()
        }
        _ => Vec::new(),
    };
    seed.extend(body);
    (is_kind && !body.is_empty()).then_some(seed)
}

fn extensions(head: &Head) -> Option<&[u8]> {
    head.field("sec-websocket-extensions")
}

/// The messages within the gRPC bodies.
pub(super) fn protobuf() -> Vec<Vec<u8>> {
    let bodies = bodies(Body::Grpc);
    let messages = bodies.iter().filter_map(|body| body.get(5..));
    messages
        .map(<[u8]>::to_vec)
        .filter(|seed| short(seed))
        .collect()
}

/// The golden archives, and archives of the first exchanges of golden captures that are unlike.
pub(super) fn archives() -> Vec<Vec<u8>> {
    let folders = files(&root().join("testdata/archives"));
    let paths = folders.iter().flat_map(|folder| files(folder));
    let archives = paths.filter(|path| path.extension().is_some_and(|ext| ext == "tape"));
    let mut seeds: Vec<Vec<u8>> = archives.map(|path| fs::read(path).unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    for (number, blocks) in [super::Blocks::Compressed, super::Blocks::Plain]
        .into_iter()
        .enumerate()
    {
        let path = folder.path().join(format!("sample{number}.tape"));
        tapedeck_fuzzing::write_sample(&path, blocks);
        seeds.push(fs::read(path).unwrap());
    }
    for (number, tape) in tapes().iter().enumerate() {
        let path = folder.path().join(format!("{number}.tape"));
        write(tape, &path);
        seeds.push(fs::read(path).unwrap());
    }
    seeds.retain(|seed| short(seed));
    seeds
}

fn write(tape: &Tape, path: &Path) {
    const EXCHANGES: usize = 3;
    let mut options = WriterOptions::new(Provenance::default());
    // Stored as they are, so that damage of the file is damage of the records.
    options.level = -100_000;
    let mut writer = Writer::create(path, options).unwrap();
    for (exchange, _) in tape.exchanges.iter().take(EXCHANGES) {
        writer.exchange(exchange).unwrap();
    }
    writer.seal(&tapedeck_model::Ledger::default()).unwrap();
}

/// The golden captures as HARs.
pub(super) fn hars() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let mut seeds = Vec::new();
    for (number, tape) in tapes().iter().enumerate() {
        let path = folder.path().join(format!("{number}.tape"));
        write(tape, &path);
        let archive = Archive::open(&path).unwrap();
        let mut seed = Vec::new();
        har::export(&archive, archive.rows(), "0", &mut seed).unwrap();
        seeds.push(seed);
    }
    seeds.retain(|seed| short(seed));
    seeds
}
