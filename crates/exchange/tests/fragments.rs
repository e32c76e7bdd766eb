//! Fragmented IP packets, through the engine.

use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_model::{BodyPart, Exchange, Ledger, Missing, Role, Timestamp, UnreadConnection};
use tapedeck_packet::{LinkType, RawPacket};
use tapedeck_testkit::{Conversation, Faults, Rng, SegmentBuf, wire};

#[derive(Default)]
struct Tape(Vec<Exchange>);

impl Recorder for Tape {
    fn body_part(&mut self, _part: &BodyPart) {}

    fn exchange(&mut self, exchange: &Exchange) {
        self.0.push(exchange.clone());
    }

    fn unread(&mut self, _connection: &UnreadConnection) {}
}

const ENDS: [[&str; 2]; 2] = [
    ["10.0.0.1:40000", "10.0.0.2:80"],
    ["[2001:db8::1]:40000", "[2001:db8::2]:80"],
];

fn talk([client, server]: [&str; 2]) -> Vec<SegmentBuf> {
    let mut talk = Conversation::new(client, server);
    talk.handshake();
    let head = "POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Length: 400\r\n\r\n";
    talk.client(&[head.as_bytes(), &[b'x'; 400]].concat());
    talk.server(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    talk.close();
    talk.segments
}

/// The IP fragments of a segment, with `size` bytes each.
fn fragments(segment: &SegmentBuf, id: u16, size: usize) -> Vec<Vec<u8>> {
    let tcp = wire::tcp(&segment.as_segment());
    let count = tcp.len().div_ceil(size);
    let fragment = |(index, piece): (usize, &[u8])| {
        let more = u16::from(index + 1 < count);
        let offset = u16::try_from(index * size).expect("within a datagram");
        match (segment.source.ip, segment.destination.ip) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let mut ip = wire::ipv4(source, destination, 6, piece.len(), piece);
                ip[4..6].copy_from_slice(&id.to_be_bytes());
                ip[6..8].copy_from_slice(&((more << 13) | (offset / 8)).to_be_bytes());
                ip
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ([o0, o1], [i0, i1]) = ((offset | more).to_be_bytes(), id.to_be_bytes());
                let payload = [&[6, 0, o0, o1, 0, 0, i0, i1][..], piece].concat();
                let (source, destination) = (source.octets(), destination.octets());
                wire::ipv6(source, destination, 44, payload.len(), &payload)
            }
            _ => unreachable!("both of one family"),
        }
    };
    tcp.chunks(size).enumerate().map(fragment).collect()
}

fn read(limits: Limits, packets: &[(Timestamp, Vec<u8>)]) -> (Vec<Exchange>, Ledger) {
    let mut engine = Engine::new(limits);
    let mut tape = Tape::default();
    for (at, data) in packets {
        let wire_len = u32::try_from(data.len()).expect("a short packet");
        let packet = RawPacket {
            at: *at,
            link: LinkType::RAW,
            data,
            wire_len,
            scope: tapedeck_model::Scope(0),
        };
        engine.packet(&packet, &mut tape);
        assert_conserved(&engine.ledger());
    }
    engine.finish(&mut tape);
    (tape.0, engine.ledger())
}

fn assert_conserved(ledger: &Ledger) {
    let packets = ledger.segments
        + ledger.packets_not_tcp
        + ledger.packets_fragment
        + ledger.packets_joined
        + ledger.packets_undecodable;
    assert_eq!(ledger.packets_seen, packets, "{ledger:?}");
}

/// The conversation with its request, the fourth segment, in fragments of 64 bytes that the network
/// did something to.
fn with_request_as(
    segments: &[SegmentBuf],
    fate: impl FnOnce(Vec<Vec<u8>>) -> Vec<Vec<u8>>,
) -> Vec<(Timestamp, Vec<u8>)> {
    let mut fate = Some(fate);
    let mut packets = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let data = match fate.take_if(|_| index == 3) {
            Some(fate) => fate(fragments(segment, 7, 64)),
            None => vec![wire::ip(&segment.as_segment())],
        };
        packets.extend(data.into_iter().map(|data| (segment.at, data)));
    }
    packets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_request_in_fragments_is_whole_in_any_order_and_with_duplicates(seed: u64, v6: bool) {
        let segments = talk(ENDS[usize::from(v6)]);
        let (whole, _) = read(Limits::default(), &with_request_as(&segments, |f| {
            vec![wire::ip(&segments[3].as_segment())].into_iter().take(f.len()).collect()
        }));
        let mut count = 0;
        let packets = with_request_as(&segments, |fragments| {
            count = fragments.len() as u64;
            let faults = Faults { loss: 0, duplicate: 30, reorder: 60, window: 9 };
            faults.inject(&mut Rng::new(seed), &fragments)
        });
        let (exchanges, ledger) = read(Limits::default(), &packets);
        prop_assert_eq!(exchanges, whole);
        prop_assert_eq!(ledger.packets_joined, count - 1);
        // The duplicates were of no use.
        let duplicates = packets.len() as u64 - count - (segments.len() as u64 - 1);
        prop_assert_eq!(ledger.packets_fragment, duplicates);
        prop_assert_eq!(ledger.segments, segments.len() as u64);
    }
}

#[test]
fn one_missing_fragment_is_a_gap_and_the_others_are_counted() {
    for ends in ENDS {
        let segments = talk(ends);
        let mut count = 0;
        let packets = with_request_as(&segments, |mut fragments| {
            fragments.remove(2);
            count = fragments.len() as u64;
            fragments
        });
        let (exchanges, ledger) = read(Limits::default(), &packets);
        assert_eq!(ledger.packets_fragment, count);
        assert_eq!(ledger.packets_joined, 0);
        assert_eq!(ledger.gap_bytes_lost, segments[3].payload.len() as u64);
        assert!(
            exchanges[0]
                .missing(Role::Request)
                .contains(Missing::ABSENT)
        );
    }
}

#[test]
fn a_flood_of_fragments_that_never_complete_stays_bounded() {
    let segments = talk(ENDS[0]);
    let mut limits = Limits::default();
    limits.fragments.max_packets = 8;
    limits.fragments.max_bytes = 4096;
    let mut flood = Vec::new();
    for id in 0..2000 {
        let first = fragments(&segments[3], id, 64).swap_remove(0);
        flood.push((segments[0].at, first));
    }
    let mut packets = flood.clone();
    packets.extend(with_request_as(&segments, |fragments| fragments));
    packets.extend(flood);
    let (exchanges, ledger) = read(limits, &packets);
    assert!(
        exchanges[0].complete(),
        "what is whole is read all the same"
    );
    // Id 7 was given up long before the request used it again.
    assert_eq!(ledger.packets_fragment, 4000);
}

#[test]
fn a_capture_that_begins_before_the_last_one_ended_is_read_as_well() {
    let mut late = talk(ENDS[0]);
    for segment in &mut late {
        segment.at = segment.at.saturating_add(Duration::from_hours(1));
    }
    let early = talk(["10.0.0.3:40000", "10.0.0.2:80"]);
    let packets = late.iter().chain(&early);
    let packets: Vec<_> = packets
        .map(|segment| (segment.at, wire::ip(&segment.as_segment())))
        .collect();
    let (exchanges, ledger) = read(Limits::default(), &packets);
    assert_eq!(exchanges.len(), 2);
    assert!(exchanges.iter().all(Exchange::complete), "{exchanges:?}");
    assert_eq!((ledger.connections, ledger.connections_midstream), (2, 0));
}
