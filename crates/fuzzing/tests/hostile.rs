//! Captures that were made to exhaust whoever reads them: memory stays within what the limits say,
//! what was refused is counted by name, and the next honest exchange is read as if nothing were.
//!
//! A test binary of its own, because it measures the memory of the whole process.

#![expect(clippy::unwrap_used, reason = "a test fails where it cannot be set up")]

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;
use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_interchange::content::{self, DecodeError};
use tapedeck_interchange::grpc;
use tapedeck_interchange::websocket::{Deflate, Inflater};
use tapedeck_model::{
    Anomaly, BodyPart, Direction, Exchange, Ledger, Missing, Role, Scope, TcpFlags, Timestamp,
    UnreadConnection,
};
use tapedeck_packet::{CaptureReader, LinkType, RawPacket};
use tapedeck_testkit::{Rng, wire};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// One attack at a time: the allocator counts them all.
static ALONE: Mutex<()> = Mutex::new(());

const MIB: usize = 1 << 20;

/// Limits that are soon reached, so that reaching them many times over is quick.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.reassembly.max_connections = 20_000;
    limits.reassembly.max_buffered = 8 * MIB;
    limits.held_memory = 8 * MIB;
    limits.tls_memory = 8 * MIB;
    limits.body_memory = 8 * MIB;
    limits
}

/// An engine under attack.
struct Attack {
    engine: Engine,
    seen: Seen,
    now: i64,
    packet: Vec<u8>,
}

/// What came out.
#[derive(Default)]
struct Seen {
    exchanges: u64,
    most_gaps: usize,
    most_interim: usize,
    missing: Missing,
    /// Paths of the honest exchanges that are whole.
    honest: u64,
}

impl Recorder for Seen {
    fn body_part(&mut self, _part: &BodyPart) {}

    fn exchange(&mut self, exchange: &Exchange) {
        self.exchanges += 1;
        self.most_interim = self.most_interim.max(exchange.interim.len());
        for role in [Role::Request, Role::Response] {
            self.missing.insert(exchange.missing(role));
        }
        for message in [&exchange.request, &exchange.response]
            .into_iter()
            .flatten()
        {
            self.most_gaps = self.most_gaps.max(message.body.gaps.len());
        }
        let head = exchange
            .request
            .as_ref()
            .and_then(|request| request.head.as_ref());
        let is_honest = head.and_then(|head| head.target()) == Some(b"/honest");
        self.honest += u64::from(is_honest && exchange.complete());
    }

    fn unread(&mut self, _connection: &UnreadConnection) {}
}

/// One connection: a number for its client, and where its two sides are.
struct Peer {
    client: u32,
    next: [u32; 2],
}

const DATA: TcpFlags = TcpFlags(0x18);

impl Attack {
    fn packet(&mut self, data: &[u8]) {
        self.now += 1_000;
        let packet = RawPacket {
            at: Timestamp::from_nanos(self.now),
            link: LinkType::RAW,
            scope: Scope(0),
            data,
            wire_len: u32::try_from(data.len()).unwrap(),
        };
        self.engine.packet(&packet, &mut self.seen);
    }

    fn segment(&mut self, peer: &Peer, direction: Direction, flags: TcpFlags, payload: &[u8]) {
        let mut packet = std::mem::take(&mut self.packet);
        packet.clear();
        let len = u16::try_from(40 + payload.len()).unwrap();
        packet.extend([0x45, 0]);
        packet.extend(len.to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        let client = (peer.client.to_be_bytes(), 40_000_u16.to_be_bytes());
        let server = ([192, 0, 2, 1], 80_u16.to_be_bytes());
        let (source, destination, seq, ack) = match direction {
            Direction::ToServer => (client, server, peer.next[0], peer.next[1]),
            Direction::ToClient => (server, client, peer.next[1], peer.next[0]),
        };
        packet.extend(source.0);
        packet.extend(destination.0);
        packet.extend(source.1);
        packet.extend(destination.1);
        packet.extend(seq.to_be_bytes());
        packet.extend(ack.to_be_bytes());
        packet.extend([5 << 4, flags.0, 0xff, 0xff, 0, 0, 0, 0]);
        packet.extend(payload);
        self.packet(&packet);
        self.packet = packet;
    }

    /// A connection whose handshake was seen.
    fn connect(&mut self, client: u32) -> Peer {
        let mut peer = Peer {
            client,
            next: [0; 2],
        };
        self.segment(&peer, Direction::ToServer, TcpFlags::SYN, b"");
        peer.next[0] = 1;
        let answer = TcpFlags::SYN.union(TcpFlags::ACK);
        self.segment(&peer, Direction::ToClient, answer, b"");
        peer.next[1] = 1;
        peer
    }

    fn say(&mut self, peer: &mut Peer, direction: Direction, bytes: &[u8]) {
        for part in bytes.chunks(60_000) {
            self.segment(peer, direction, DATA, part);
            let way = usize::from(direction == Direction::ToClient);
            peer.next[way] = peer.next[way].wrapping_add(part.len() as u32);
        }
    }

    fn ask(&mut self, peer: &mut Peer, bytes: &[u8]) {
        self.say(peer, Direction::ToServer, bytes);
    }

    fn answer(&mut self, peer: &mut Peer, bytes: &[u8]) {
        self.say(peer, Direction::ToClient, bytes);
    }

    /// An exchange that has nothing to do with the attack.
    fn honest(&mut self, client: u32) {
        let mut peer = self.connect(client);
        self.ask(&mut peer, b"GET /honest HTTP/1.1\r\nHost: x\r\n\r\n");
        self.answer(&mut peer, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        self.segment(&peer, Direction::ToClient, TcpFlags::RST, b"");
    }
}

/// Attacks an engine with these limits. It may take so many bytes at most, and reads honest
/// exchanges in the middle of it and afterwards.
#[track_caller]
fn attack(limits: Limits, most: usize, attacker: impl FnOnce(&mut Attack)) -> (Ledger, Seen) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let mut attack = Attack {
        engine: Engine::new(limits),
        seen: Seen::default(),
        now: 0,
        packet: Vec::new(),
    };
    attack.honest(0xc000_0201);
    attacker(&mut attack);
    attack.honest(0xc000_0202);
    let Attack {
        mut engine,
        mut seen,
        ..
    } = attack;
    assert_eq!(seen.honest, 2, "an honest exchange was lost");
    engine.finish(&mut seen);
    let took = MEMORY.peak_usage() - before;
    assert!(
        took <= most,
        "took {} KiB of {} KiB",
        took >> 10,
        most >> 10
    );
    let ledger = engine.ledger();
    assert_eq!(ledger.exchanges, seen.exchanges);
    assert_eq!(
        ledger.payload_bytes_seen,
        ledger.payload_bytes_delivered
            + ledger.payload_bytes_duplicate
            + ledger.payload_bytes_dropped
    );
    (ledger, seen)
}

fn counted(ledger: &Ledger, anomaly: Anomaly) -> u64 {
    ledger.anomalies.get(&anomaly).copied().unwrap_or(0)
}

#[test]
fn a_million_half_open_connections() {
    let (ledger, _) = attack(limits(), 48 * MIB, |attack| {
        for client in 0..1_000_000 {
            let peer = Peer {
                client,
                next: [0; 2],
            };
            attack.segment(&peer, Direction::ToServer, TcpFlags::SYN, b"");
        }
    });
    assert_eq!(ledger.connections, 1_000_002);
    assert!(ledger.connections_evicted >= 1_000_000 - 20_000);
}

#[test]
fn a_connection_with_a_million_holes() {
    let (ledger, seen) = attack(limits(), 24 * MIB, |attack| {
        let mut peer = attack.connect(1);
        attack.ask(
            &mut peer,
            b"PUT /holes HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n",
        );
        for _ in 0..1_000_000 {
            peer.next[0] += 1;
            attack.ask(&mut peer, b"x");
        }
        attack.answer(&mut peer, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    assert!(ledger.gaps > 990_000, "{}", ledger.gaps);
    assert_eq!(seen.most_gaps, limits().gaps);
    assert!(ledger.body_bytes_over_limit > 980_000);
    assert!(seen.missing.contains(Missing::PARTIAL));
}

#[test]
fn heads_that_never_end() {
    let (ledger, _) = attack(limits(), 24 * MIB, |attack| {
        let filler = b"X-Filler: 0123456789012345678901234567890123456789\r\n".repeat(2_000);
        for client in 0..800 {
            let mut peer = attack.connect(client);
            attack.ask(&mut peer, b"GET /bomb HTTP/1.1\r\nHost: x\r\n");
            attack.ask(&mut peer, &filler);
        }
    });
    assert!(ledger.connections_given_up > 600, "{ledger:?}");
}

#[test]
fn heads_that_are_never_answered() {
    let (ledger, seen) = attack(limits(), 24 * MIB, |attack| {
        let field = "x".repeat(100_000);
        let request = format!("GET /unanswered HTTP/1.1\r\nHost: x\r\nX: {field}\r\n\r\n");
        let mut peer = attack.connect(1);
        for _ in 0..600 {
            attack.ask(&mut peer, request.as_bytes());
        }
    });
    // Which of them an answer would belong to cannot be told from then on, and so none is waited for.
    assert_eq!(ledger.connections_given_up, 1, "{ledger:?}");
    assert_eq!(seen.exchanges, 602, "each of them is recorded");
    assert!(seen.missing.contains(Missing::PARTIAL));
}

#[test]
fn a_head_beyond_the_limit() {
    let (ledger, _) = attack(limits(), 8 * MIB, |attack| {
        let mut peer = attack.connect(1);
        attack.ask(&mut peer, b"GET /bomb HTTP/1.1\r\nCookie: ");
        for _ in 0..500 {
            attack.ask(&mut peer, &[b'x'; 60_000]);
        }
    });
    assert_eq!(counted(&ledger, Anomaly::HeadTooLarge), 1);
}

#[test]
fn undecided_beginnings() {
    let (ledger, _) = attack(limits(), 24 * MIB, |attack| {
        for client in 0..6_000 {
            let mut peer = attack.connect(client);
            attack.ask(&mut peer, b"GET /");
            attack.ask(&mut peer, &[b'a'; 7_000]);
        }
    });
    assert!(ledger.connections_given_up > 4_000, "{ledger:?}");
}

#[test]
fn bodies_that_never_end() {
    let (ledger, seen) = attack(limits(), 24 * MIB, |attack| {
        for client in 0..4_000 {
            let mut peer = attack.connect(client);
            attack.ask(
                &mut peer,
                b"PUT /half HTTP/1.1\r\nContent-Length: 20000\r\n\r\n",
            );
            attack.ask(&mut peer, &[b'x'; 12_000]);
        }
    });
    assert!(ledger.connections_given_up > 2_000, "{ledger:?}");
    assert_eq!(seen.exchanges, 4_002);
}

fn h2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, len @ ..] = (payload.len() as u32).to_be_bytes();
    let mut out = len.to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A connection on which HTTP/2 has begun.
fn h2(attack: &mut Attack) -> Peer {
    let mut peer = attack.connect(1);
    attack.ask(
        &mut peer,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    );
    peer
}

#[test]
fn field_blocks_that_stand_for_more() {
    let (ledger, seen) = attack(limits(), 32 * MIB, |attack| {
        let mut peer = h2(attack);
        // An entry of 3 KiB, which each further byte repeats.
        let mut block = vec![0x82, 0x86, 0x84, 0x40, 1, b'a', 0x7f, 0x81, 0x16];
        block.extend([b'x'; 2_944]);
        attack.ask(&mut peer, &h2_frame(1, 4, 1, &block));
        let bomb = [&[0x82, 0x86, 0x84][..], &[0xbe; 80]].concat();
        for stream in 1..2_000 {
            attack.ask(&mut peer, &h2_frame(1, 4, stream * 2 + 1, &bomb));
        }
    });
    // Without the table that it gave up, the bytes stand for nothing any more.
    assert!(ledger.connections_given_up >= 1, "{ledger:?}");
    assert!(seen.exchanges > 20, "what was there is recorded");
}

#[test]
fn a_flood_of_continuations() {
    let (ledger, _) = attack(limits(), 8 * MIB, |attack| {
        let mut peer = h2(attack);
        attack.ask(&mut peer, &h2_frame(1, 0, 1, &[0x82, 0x86, 0x84]));
        let field = [&[0, 1, b'a', 0x7f, 0x80, 0x7d][..], &[b'x'; 15_999]].concat();
        let flood = h2_frame(9, 0, 1, &field).repeat(3);
        for _ in 0..100 {
            attack.ask(&mut peer, &flood);
        }
        attack.ask(&mut peer, &h2_frame(9, 4, 1, &[]));
    });
    assert_eq!(counted(&ledger, Anomaly::FieldSectionTooLarge), 1);
}

#[test]
fn all_stream_ids_there_are() {
    let (ledger, _) = attack(limits(), 24 * MIB, |attack| {
        let mut peer = h2(attack);
        for id in (1..=0x7fff_ffff).step_by(200_000) {
            attack.ask(&mut peer, &h2_frame(1, 4, id | 1, &[0x82, 0x86, 0x84]));
        }
    });
    assert!(counted(&ledger, Anomaly::TooManyStreams) > 5_000);
}

/// Each stream a tunnel, and in each of them a request whose head does not end.
#[test]
fn tunnels_on_all_streams() {
    let (ledger, seen) = attack(limits(), 32 * MIB, |attack| {
        let mut peer = h2(attack);
        attack.answer(&mut peer, &h2_frame(4, 0, 0, &[]));
        let connect = b"\x02\x07CONNECT\x01\x07shop:80";
        let begun = [b"GET /within HTTP/1.1\r\nX: ", &[b'x'; 900][..]].concat();
        for stream in 0..30_000 {
            let id = 2 * stream + 1;
            attack.ask(&mut peer, &h2_frame(1, 4, id, connect));
            attack.answer(&mut peer, &h2_frame(1, 4, id, &[0x88]));
            attack.ask(&mut peer, &h2_frame(0, 0, id, &begun));
        }
    });
    assert_eq!(ledger.tunnels, 30_000, "{ledger:?}");
    let named = counted(&ledger, Anomaly::TooManyStreams) + ledger.connections_given_up;
    assert!(named > 0, "{ledger:?}");
    assert!(seen.missing.contains(Missing::PARTIAL));
    assert!(seen.exchanges >= 30_002, "{ledger:?}");
}

/// Tunnels within tunnels, opened by every answer and never ended.
#[test]
fn connects_within_connects() {
    let (ledger, _) = attack(limits(), 24 * MIB, |attack| {
        for client in 0..4_000 {
            let mut peer = attack.connect(client);
            for _ in 0..8 {
                attack.ask(&mut peer, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n");
                attack.answer(&mut peer, b"HTTP/1.1 200 OK\r\n\r\n");
            }
        }
    });
    assert!(ledger.tunnels >= 4 * 4_000, "{ledger:?}");
    assert!(ledger.connections_given_up > 0, "{ledger:?}");
}

#[test]
fn interim_responses_without_end() {
    let (ledger, seen) = attack(limits(), 8 * MIB, |attack| {
        let mut peer = attack.connect(1);
        attack.ask(&mut peer, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
        let interim = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(2_000);
        for _ in 0..100 {
            attack.answer(&mut peer, &interim);
        }
        attack.answer(&mut peer, b"HTTP/1.1 204 No Content\r\n\r\n");
    });
    assert_eq!(seen.most_interim, limits().interim);
    let most = limits().interim as u64;
    assert_eq!(counted(&ledger, Anomaly::TooManyInterim), 200_000 - most);
    assert!(
        !seen.missing.contains(Missing::PARTIAL),
        "the messages are whole"
    );
}

#[test]
fn chunk_extensions_and_trailers_without_end() {
    for (begin, filler) in [
        (&b"5;x="[..], &b"0123456789"[..]),
        (b"5;", b"a=b;"),
        (b"5\r\nhello\r\n0\r\n", b"X-Filler: 0123456789\r\n"),
        (b"5\r\nhello\r\n0\r\nX: ", b"0123456789"),
    ] {
        let (ledger, seen) = attack(limits(), 24 * MIB, |attack| {
            let mut peer = attack.connect(1);
            attack.ask(
                &mut peer,
                b"PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            );
            attack.ask(&mut peer, begin);
            let filler = filler.repeat(60_000 / filler.len());
            for _ in 0..600 {
                attack.ask(&mut peer, &filler);
            }
        });
        let named =
            counted(&ledger, Anomaly::HeadTooLarge) + counted(&ledger, Anomaly::MalformedChunk);
        assert!(named >= 1, "{}: {ledger:?}", begin.escape_ascii());
        assert_eq!(seen.exchanges, 3);
    }
}

#[test]
fn fragments_that_never_complete() {
    let (ledger, _) = attack(limits(), 16 * MIB, |attack| {
        let mut packet = wire::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 6, 1_000, &[7; 1_000]);
        for id in 0..200_000_u32 {
            let [_, high, mid, low] = id.to_be_bytes();
            packet[4..6].copy_from_slice(&[mid, low]);
            packet[15] = high;
            // More fragments follow.
            packet[6] = 0x20;
            attack.packet(&packet);
        }
    });
    assert_eq!(ledger.packets_fragment, 200_000);
}

#[test]
fn tunnels_inside_tunnels() {
    let (ledger, _) = attack(limits(), 8 * MIB, |attack| {
        let mut packet = Vec::new();
        for _ in 0..3_000 {
            packet = wire::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 4, packet.len(), &packet);
        }
        for _ in 0..1_000 {
            attack.packet(&packet);
        }
    });
    assert_eq!(ledger.packets_undecodable, 1_000);
}

#[test]
fn hellos_of_tls_in_quantity() {
    let (ledger, _) = attack(limits(), 96 * MIB, |attack| {
        let mut hello = vec![22, 3, 1, 2, 4, 1, 0, 2, 0, 3, 3];
        hello.extend(Rng::new(1).bytes(0x204 - 6));
        for client in 0..50_000 {
            let mut peer = attack.connect(client);
            attack.ask(&mut peer, &hello);
        }
    });
    assert!(ledger.connections_tls > 45_000, "{ledger:?}");
    assert!(ledger.connections_evicted >= 30_000);
}

/// Packets of no bytes, in a file that is compressed to almost nothing.
#[test]
fn a_compressed_capture_of_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut header = tapedeck_testkit::capture::PcapWriter::new(101).bytes;
    header.resize(header.len() + 16 * MIB, 0);
    let bomb = zstd::encode_all(&header[..], 3).unwrap();
    drop(header);
    assert!(bomb.len() < 64 << 10);
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let mut reader = CaptureReader::open(&bomb[..]).unwrap();
    let mut packets = 0;
    while reader.next_packet().unwrap().is_some() {
        packets += 1;
    }
    assert_eq!(packets, MIB);
    let took = MEMORY.peak_usage() - before;
    assert!(took < 16 * MIB, "{took}");
}

/// A frame that asks for a window of 2 GiB, which its decoder would have to hold.
#[test]
fn a_compressed_capture_that_asks_for_gigabytes() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(31).unwrap();
    let header = tapedeck_testkit::capture::PcapWriter::new(101).bytes;
    encoder.write_all(&header).unwrap();
    encoder.write_all(&[0; 1_000]).unwrap();
    let bomb = encoder.finish().unwrap();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let refused = CaptureReader::open(&bomb[..]).is_err();
    assert!(refused, "a window of 2 GiB");
    assert!(MEMORY.peak_usage() - before < 16 * MIB);
}

/// Bodies that are shown, of bytes that stand for 64 MiB, and of a window of 1 GiB.
#[test]
fn bodies_that_stand_for_more() {
    const CAP: usize = MIB;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let zeros = vec![0; 64 * MIB];
    let level = flate2::Compression::best();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
    gzip.write_all(&zeros).unwrap();
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), level);
    zlib.write_all(&zeros).unwrap();
    let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), level);
    raw.write_all(&zeros).unwrap();
    let raw = raw.finish().unwrap();
    let zstd = zstd::encode_all(&zeros[..], 19).unwrap();
    drop(zeros);
    let bombs: [(&str, &[u8]); 6] = [
        ("gzip", &gzip.finish().unwrap()),
        ("deflate", &zlib.finish().unwrap()),
        ("deflate", &raw),
        ("zstd", &zstd),
        ("br", BROTLI),
        ("br", BROTLI_LARGE_WINDOW),
    ];
    for (coding, bomb) in bombs {
        assert!(bomb.len() < 80 << 10, "{coding} of {} bytes", bomb.len());
        let took = memory_of(|| {
            let decoded = content::decode(Some(coding.as_bytes()), bomb, CAP);
            let refused = decoded.unwrap_err();
            let is_named = matches!(
                refused,
                DecodeError::TooLong { cap: CAP } | DecodeError::Invalid { .. }
            );
            assert!(is_named, "{coding}: {refused}");
        });
        assert!(took < 24 * MIB, "{coding} took {} KiB", took >> 10);
    }
    // The same within a gRPC message, and as a WebSocket message.
    let gzip = bombs[0].1;
    let mut message = vec![1];
    message.extend(u32::try_from(gzip.len()).unwrap().to_be_bytes());
    message.extend(gzip);
    let took = memory_of(|| {
        let first = grpc::messages(&message).next().unwrap();
        assert!(first.decoded(Some(b"gzip"), CAP).is_err());
        let agreed = Deflate::of(b"permessage-deflate", true).unwrap();
        assert_eq!(Inflater::new(agreed, CAP).message(&raw), None);
    });
    assert!(took < 8 * MIB, "{} KiB", took >> 10);
}

/// What a piece of code took at its peak.
fn memory_of(code: impl FnOnce()) -> usize {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    code();
    MEMORY.peak_usage() - before
}

/// 64 MiB of zeros, by node's zlib.
const BROTLI: &[u8] = b"\xcf\xff\xff\x7f\xf8\x27\x00\xe2\xb1\x40\x20\xf7\xfe\x9f\xff\xff\xff\xf0\x4f\x00\xc4\x61\x01\x80\xee\xfd\x3f\xff\xff\xff\xe1\x9f\x00\x88\xc3\x22\x00\xdd\xfb\xff\xfc\xff\xff\xc7\x3f\x01\x10\x87\x05\x00\xba\xf7\xff";

/// The same, with a window of 1 GiB, which is no content coding.
const BROTLI_LARGE_WINDOW: &[u8] = b"\x11\x1e\xff\xff\xff\xe1\x9f\x00\x88\xc7\x02\x01\xb9\xf7\xff\xfc\xff\xff\x87\x7f\x02\x20\x0e\x0b\x00\xe8\xde\xff\xf3\xff\xff\x1f\xfe\x09\x80\x38\x2c\x00\xa0\x7b\xff\x9f\xff\xff\xff\xf8\x27\x00\xe2\xb0\x00\x80\xee\xfd\x3f";
