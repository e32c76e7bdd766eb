//! TLS through the engine: captures of real programs (`testdata/pcaps`), whole, cut and damaged.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use tapedeck_exchange::{Engine, Limits, Pipeline, Recorder};
use tapedeck_model::{
    BodyPart, Exchange, Ledger, Role, Scope, Timestamp, TlsVersion, Unread, UnreadConnection,
};
use tapedeck_packet::{CaptureReader, LinkType, RawPacket};
use tapedeck_testkit::{Conversation, Rng, SegmentBuf, wire};

#[derive(Debug, Default, PartialEq)]
struct Tape {
    exchanges: Vec<Exchange>,
    unread: Vec<UnreadConnection>,
}

impl Recorder for Tape {
    fn body_part(&mut self, _part: &BodyPart) {}

    fn exchange(&mut self, exchange: &Exchange) {
        self.exchanges.push(exchange.clone());
    }

    fn unread(&mut self, connection: &UnreadConnection) {
        self.unread.push(connection.clone());
    }
}

#[derive(Clone)]
struct Packet {
    at: Timestamp,
    link: LinkType,
    data: Vec<u8>,
}

impl Packet {
    fn raw(&self) -> RawPacket<'_> {
        RawPacket {
            at: self.at,
            link: self.link,
            data: &self.data,
            wire_len: u32::try_from(self.data.len()).unwrap(),
            scope: Scope(0),
        }
    }

    fn of(segment: &SegmentBuf) -> Self {
        Self {
            at: segment.at,
            link: LinkType::RAW,
            data: wire::ip(&segment.as_segment()),
        }
    }
}

/// A case of `testdata/pcaps`: its packets and its keys.
fn case(name: &str) -> (Vec<Packet>, Vec<u8>) {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/pcaps"));
    let bytes = fs::read(root.join(name).join("input.pcap")).unwrap();
    let mut capture = CaptureReader::open(&bytes[..]).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = capture.next_packet().unwrap() {
        packets.push(Packet {
            at: packet.at,
            link: packet.link,
            data: packet.data.to_vec(),
        });
    }
    (packets, fs::read(root.join(name).join("keys.log")).unwrap())
}

/// What is found where the keys come before the packet of that number.
fn read_with(limits: Limits, packets: &[Packet], keys: &[u8], before: usize) -> (Tape, Ledger) {
    let mut engine = Engine::new(limits);
    let mut tape = Tape::default();
    for (number, packet) in packets.iter().enumerate() {
        if number == before {
            engine.secrets(keys);
        }
        engine.packet(&packet.raw(), &mut tape);
    }
    engine.finish(&mut tape);
    let ledger = engine.ledger();
    assert_conserved(&ledger, &tape);
    (tape, ledger)
}

fn read(packets: &[Packet], keys: &[u8]) -> (Tape, Ledger) {
    read_with(Limits::default(), packets, keys, 0)
}

/// The laws of the ledger that are about TLS.
fn assert_conserved(ledger: &Ledger, tape: &Tape) {
    assert_eq!(
        ledger.payload_bytes_delivered + ledger.bytes_tls_plain + ledger.bytes_tunnel,
        ledger.bytes_http + ledger.bytes_not_http + ledger.bytes_tls,
        "{ledger:?}"
    );
    assert!(
        ledger.bytes_tls_plain <= ledger.bytes_tls_read,
        "{ledger:?}"
    );
    assert!(ledger.bytes_tls_read <= ledger.bytes_tls, "{ledger:?}");
    for reason in Unread::ALL {
        let name = |unread: &&UnreadConnection| unread.reason.name() == reason.name();
        let listed = tape.unread.iter().filter(name);
        assert_eq!(listed.count() as u64, ledger.unread(reason), "{reason:?}");
    }
    let listed: u64 = tape
        .unread
        .iter()
        .map(|unread| unread.bytes.to_server + unread.bytes.to_client)
        .sum();
    assert!(listed <= ledger.bytes_tls);
    assert!(tape.unread.len() as u64 <= ledger.connections_tls);
}

/// Method, target, status, and both body lengths.
fn said(tape: &Tape) -> Vec<String> {
    let len = |exchange: &Exchange, role| {
        let message = match role {
            Role::Request => &exchange.request,
            Role::Response => &exchange.response,
        };
        message.as_ref().map(|message| message.body.len)
    };
    let line = |exchange: &Exchange| {
        let head = exchange.request.as_ref().and_then(|r| r.head.as_ref());
        let text =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or(b"?")).into_owned();
        format!(
            "{} {} {:?} {:?} {}",
            text(head.and_then(|head| head.method())),
            text(head.and_then(|head| head.target())),
            len(exchange, Role::Request),
            len(exchange, Role::Response),
            exchange.complete(),
        )
    };
    tape.exchanges.iter().map(line).collect()
}

#[test]
fn what_is_said_within_tls_is_said() {
    let (packets, keys) = case("048-tls");
    let (tape, ledger) = read(&packets, &keys);
    assert_eq!(tape.exchanges.len(), 6);
    assert!(tape.exchanges.iter().all(Exchange::complete));
    assert!(tape.unread.is_empty());
    let told: Vec<_> = tape
        .exchanges
        .iter()
        .map(|exchange| exchange.connection.tls.clone().unwrap())
        .map(|tls| {
            (
                tls.version.unwrap(),
                tls.suite.unwrap(),
                tls.alpn.clone().unwrap(),
            )
        })
        .collect();
    assert_eq!(told[0], (TlsVersion::Tls12, 0xc030, b"http/1.1".to_vec()));
    assert_eq!(told[2], (TlsVersion::Tls13, 0x1302, b"http/1.1".to_vec()));
    assert_eq!(told[4], (TlsVersion::Tls13, 0x1302, b"h2".to_vec()));
    assert_eq!(ledger.bytes_tls, ledger.payload_bytes_delivered);
    assert_eq!(ledger.bytes_tls_read, ledger.bytes_tls, "every record");
    assert_eq!(ledger.bytes_not_http, 0);
}

#[test]
fn without_keys_the_names_and_bytes_are_listed() {
    let (packets, _) = case("048-tls");
    let (tape, ledger) = read(&packets, b"");
    assert!(tape.exchanges.is_empty());
    assert_eq!((ledger.connections_tls, ledger.tls_no_keys), (3, 3));
    let bytes: u64 = tape
        .unread
        .iter()
        .map(|unread| unread.bytes.to_server + unread.bytes.to_client)
        .sum();
    assert_eq!(bytes, ledger.payload_bytes_delivered);
    assert_eq!(
        (ledger.connections_not_http, ledger.connections_empty),
        (0, 0)
    );
    let last = packets.iter().map(|packet| packet.at).max().unwrap();
    assert!(tape.unread.iter().all(|unread| unread.last_byte <= last));
}

/// A live key log is behind the packets: those wait.
#[test]
fn keys_that_come_late_are_used() {
    let (packets, keys) = case("048-tls");
    let whole = said(&read(&packets, &keys).0);
    for before in 0..packets.len() {
        let (tape, ledger) = read_with(Limits::default(), &packets, &keys, before);
        let read: Vec<_> = said(&tape);
        assert!(read.iter().all(|line| whole.contains(line)), "{read:?}");
        let unread = ledger.connections_tls - ledger.tls_no_keys;
        assert_eq!(read.len() as u64, 2 * unread, "keys before packet {before}");
    }
}

#[test]
fn one_thread_equals_many_wherever_the_keys_come() {
    let (mut packets, keys) = case("103-tls12-resumed");
    packets.extend(case("048-tls").0);
    let keys = [keys, case("048-tls").1].concat();
    for before in (0..packets.len()).step_by(7) {
        let (alone, ledger) = read_with(Limits::default(), &packets, &keys, before);
        for threads in [2, 3, 5] {
            let threads = NonZeroUsize::new(threads).unwrap();
            let mut pipeline = Pipeline::new(Limits::default(), threads).unwrap();
            let mut tape = Tape::default();
            for (number, packet) in packets.iter().enumerate() {
                if number == before {
                    pipeline.secrets(&keys);
                }
                pipeline.packet(&packet.raw(), &mut tape);
            }
            let other = pipeline.finish(&mut tape);
            let differ: Vec<_> = other
                .counters()
                .zip(ledger.counters())
                .filter(|(a, b)| a != b)
                .collect();
            assert_eq!(differ, [], "{before}");
            assert_eq!(tape, alone, "{threads} threads, keys before {before}");
        }
    }
}

/// One packet less: what is then said to be whole is as it was.
#[test]
fn a_lost_packet_costs_what_it_touched() {
    for name in [
        "048-tls",
        "106-key-update",
        "107-hello-retry",
        "101-tls12-mac-then-encrypt",
    ] {
        let (packets, keys) = case(name);
        let whole = said(&read(&packets, &keys).0);
        let mut kept = 0;
        let step = (packets.len() / 60).max(1);
        for lost in (0..packets.len()).step_by(step) {
            let mut rest = packets.clone();
            rest.remove(lost);
            let (tape, _) = read(&rest, &keys);
            let complete: Vec<_> = said(&tape)
                .into_iter()
                .filter(|line| line.ends_with("true"))
                .collect();
            assert!(
                complete.iter().all(|line| whole.contains(line)),
                "{name} {lost}: {complete:?}"
            );
            kept += complete.len();
        }
        let losses = packets.len().div_ceil(step);
        // Most packets are of one exchange, or of none.
        assert!(
            kept >= whole.len() * losses / 2,
            "{name}: {kept} of {}",
            whole.len() * losses
        );
    }
}

/// A capture that begins anywhere: what is lost is listed, nothing is invented.
#[test]
fn a_beginning_that_was_not_seen_is_said() {
    let (packets, keys) = case("113-tls-midstream");
    let whole = said(&read(&packets, &keys).0);
    for begin in 0..packets.len() {
        let (tape, ledger) = read(&packets[begin..], &keys);
        let read = said(&tape);
        assert!(
            read.iter().all(|line| whole.contains(line)),
            "from {begin}: {read:?}"
        );
        assert_eq!(
            ledger.connections_not_http,
            0,
            "from {begin}: {:?}",
            ledger
                .counters()
                .filter(|(_, n)| *n > 0)
                .collect::<Vec<_>>()
        );
    }
    let (tape, _) = read_with(Limits::default(), &packets, &keys, 0);
    assert_eq!(tape.unread.len(), 1);
    assert_eq!(tape.unread[0].reason, Unread::HandshakeNotSeen);
    assert!(tape.unread[0].bytes.to_client > 1000);
}

/// The beginning of a ClientHello of 16 KiB, on many connections that go no further.
#[test]
fn half_open_handshakes_take_no_more_than_their_limit() {
    let mut limits = Limits::default();
    limits.tls_memory = 1 << 20;
    let mut hello = vec![22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3];
    hello.extend(Rng::new(1).bytes(3000));
    let mut packets = Vec::new();
    for number in 0..3000_u32 {
        let client = format!("10.{}.{}.1:40000", number / 250, number % 250);
        let mut talk = Conversation::new(&client, "10.0.0.2:443");
        talk.handshake();
        talk.client(&hello);
        packets.extend(talk.segments.iter().map(Packet::of));
    }
    let (tape, ledger) = read_with(limits, &packets, b"", usize::MAX);
    assert_eq!(ledger.connections_tls, 3000);
    assert_eq!(ledger.connections_evicted, 0);
    // What a record takes is rounded up to a power of two.
    let room = 1_048_576 / 4096;
    assert!(
        (3000 - room - 10..3000 - room / 8).contains(&ledger.tls_limit),
        "{ledger:?}"
    );
    assert_eq!(ledger.tls_limit + ledger.tls_handshake_failed, 3000);
    assert_eq!(tape.unread.len(), 3000);
}
