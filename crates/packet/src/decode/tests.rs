use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use tapedeck_model::{Scope, Segment, Timestamp};
use tapedeck_testkit::{Conversation, SegmentBuf, wire};

use super::{DecodeError, Decoded, DefragLimits, Defragmenter, Layer, decode};
use crate::link::{LinkType, RawPacket};

const FAMILIES: [(&str, &str); 2] = [
    ("10.0.0.1:40000", "10.0.0.2:80"),
    ("[2001:db8::1]:40000", "[2001:db8::2]:80"),
];

fn sample(ends: (&str, &str)) -> SegmentBuf {
    let mut talk = Conversation::new(ends.0, ends.1).with_isn(0xdead_beef, 0x0102_0304);
    talk.client(b"GET / HTTP/1.1\r\n\r\n");
    talk.segments.remove(0)
}

fn packet(link: LinkType, data: &[u8]) -> RawPacket<'_> {
    RawPacket {
        at: Timestamp::from_nanos(9),
        link,
        data,
        wire_len: data.len() as u32,
        scope: Scope(0),
    }
}

#[track_caller]
fn segment<'a>(decoded: Decoded<'a>) -> Segment<'a> {
    match decoded {
        Decoded::Segment(segment) => segment,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_same(found: Segment<'_>, sent: &SegmentBuf) {
    let found = SegmentBuf {
        at: found.at,
        source: found.source,
        destination: found.destination,
        scope: found.scope,
        seq: found.seq,
        ack: found.ack,
        flags: found.flags,
        payload: found.payload.to_vec(),
        cut: found.cut,
    };
    assert_eq!(
        found,
        SegmentBuf {
            at: Timestamp::from_nanos(9),
            ..sent.clone()
        }
    );
}

/// The scope of the sample in this wrapping; everything else must be as sent.
#[track_caller]
fn scope(link: LinkType, data: &[u8], sent: &SegmentBuf) -> Scope {
    let found = segment(decode(&packet(link, data)));
    assert_same(
        found,
        &SegmentBuf {
            scope: found.scope,
            ..sent.clone()
        },
    );
    found.scope
}

fn tagged(ether_type: u16, tag: &[u8], inner: &[u8]) -> Vec<u8> {
    wire::ethernet_frame(ether_type, &[tag, inner].concat())
}

/// The sample on other networks than Ethernet, wireless ones among them.
fn lan_cases(sent: &SegmentBuf) -> Vec<(LinkType, Vec<u8>)> {
    let ip = wire::ip(&sent.as_segment());
    let kind = wire::ether_type(&sent.as_segment()).to_be_bytes();
    let v4 = sent.source.ip.is_ipv4();
    let family: u8 = if v4 { 2 } else { 30 };
    let with = |head: &[u8]| [head, &ip].concat();
    let nlpid = if v4 { 0xcc } else { 0x8e };
    let snap = [&[0xaa, 0xaa, 0x03, 0, 0, 0][..], &kind].concat();
    let bridged = [
        &[0xaa, 0xaa, 0x03, 0, 0x80, 0xc2, 0, 7, 0, 0][..],
        &wire::ethernet(&sent.as_segment()),
    ]
    .concat();
    let routed = [&[0x10, 0x40][..], &[1; 6], &[0x81; 6], &[2, 0], &snap].concat();
    let wlan = |kind: u8, flags: u8, more: &[u8]| {
        [&[kind, flags][..], &[0; 22], more, &snap, &ip].concat()
    };
    let monitored = |head: &[u8]| [head, &wlan(0x08, 1, &[])].concat();
    vec![
        (LinkType::FDDI, with(&[&[0x50; 13][..], &snap].concat())),
        (LinkType::IEEE802_5, with(&[&[0; 14][..], &snap].concat())),
        (LinkType::IEEE802_5, with(&routed)),
        (LinkType::ATM_RFC1483, with(&snap)),
        (LinkType::ATM_RFC1483, bridged),
        (LinkType::ATM_RFC1483, ip.clone()),
        (LinkType::FRELAY, with(&[0x18, 0x41, 0x03, nlpid])),
        (LinkType::FRELAY, with(&[&[0x18, 0x41][..], &kind].concat())),
        (
            LinkType::FRELAY,
            with(&[&[0x18, 0x41, 0x03, 0, 0x80, 0, 0, 0][..], &kind].concat()),
        ),
        (LinkType::ENC, with(&[0; 12])),
        (
            LinkType::PFLOG,
            with(&[&[61, family, 0, 0][..], &[0; 60]].concat()),
        ),
        (LinkType::IEEE802_11, wlan(0x08, 1, &[])),
        (LinkType::IEEE802_11, wlan(0x08, 3, &[9; 6])),
        (LinkType::IEEE802_11, wlan(0x88, 2, &[0, 0])),
        (LinkType::IEEE802_11, wlan(0x88, 2, &[0, 0, 0, 0])),
        (LinkType::IEEE802_11, wlan(0x88, 0x82, &[0; 6])),
        (
            LinkType::RADIOTAP,
            monitored(&[0, 0, 10, 0, 0, 0, 0, 0, 7, 7]),
        ),
        (
            LinkType::PRISM,
            monitored(&[&[0x44, 0, 0, 0, 144, 0, 0, 0][..], &[7; 136]].concat()),
        ),
        (
            LinkType::AVS,
            monitored(&[&[0x80, 0x21, 0x10, 1, 0, 0, 0, 64][..], &[7; 56]].concat()),
        ),
        (
            LinkType::PPI,
            monitored(&[0, 0, 12, 0, 105, 0, 0, 0, 7, 7, 7, 7]),
        ),
    ]
}

#[test]
fn every_link_type_leads_to_the_segment() {
    for ends in FAMILIES {
        let sent = sample(ends);
        let ip = wire::ip(&sent.as_segment());
        let kind = wire::ether_type(&sent.as_segment()).to_be_bytes();
        let v4 = sent.source.ip.is_ipv4();
        let family: u8 = if v4 { 2 } else { 30 };
        let with = |head: &[u8]| [head, &ip].concat();
        let sll = [&[0, 0, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0][..], &kind].concat();
        let sll2 = [&kind[..], &[0; 18]].concat();
        let ppp: &[u8] = if v4 { &[0x00, 0x21] } else { &[0x00, 0x57] };
        let hdlc = [&[0xff, 0x03], ppp].concat();
        let pppoe = [
            &[0x11, 0, 0, 7],
            &(ip.len() as u16 + 2).to_be_bytes()[..],
            ppp,
        ]
        .concat();
        let nflog_len = (ip.len() as u16 + 4).to_le_bytes();
        let nflog = [
            &[
                if v4 { 2 } else { 10 },
                0,
                0,
                1,
                7,
                0,
                10,
                0,
                b'a',
                b'b',
                0,
                0,
            ][..],
            &nflog_len,
            &[9, 0],
        ]
        .concat();
        let mut pktap = vec![108, 0, 0, 0, 1, 0, 0, 0, 101, 0, 0, 0];
        pktap.resize(108, 0);
        let cases: Vec<(LinkType, Vec<u8>)> = vec![
            (LinkType::ETHERNET, wire::ethernet(&sent.as_segment())),
            (LinkType::NULL, with(&[family, 0, 0, 0])),
            (LinkType::NULL, with(&[0, 0, 0, family])),
            (LinkType::LOOP, with(&[0, 0, 0, family])),
            (LinkType::RAW, ip.clone()),
            (LinkType::RAW_BSD, ip.clone()),
            (LinkType::RAW_OPENBSD, ip.clone()),
            (if v4 { LinkType::IPV4 } else { LinkType::IPV6 }, ip.clone()),
            (LinkType::LINUX_SLL, with(&sll)),
            (LinkType::LINUX_SLL2, with(&sll2)),
            (LinkType::PPP, with(ppp)),
            (LinkType::PPP_HDLC, with(&hdlc)),
            (LinkType::PPP_ETHER, with(&pppoe)),
            (LinkType::C_HDLC, with(&[&[0x0f, 0][..], &kind].concat())),
            (LinkType::NFLOG, with(&nflog)),
            (LinkType::PKTAP, with(&pktap)),
            (LinkType::PPP_WITH_DIR, with(&[&[1], &hdlc[..]].concat())),
        ];
        let cases = [cases, lan_cases(&sent)].concat();
        for (link, data) in &cases {
            assert_eq!(scope(*link, data, &sent), Scope(0), "{link}");
        }
        // Nothing that is announced as readable is left out here.
        for (link, _) in LinkType::KNOWN {
            let other = matches!(*link, LinkType::IPV4 | LinkType::IPV6);
            assert!(
                other || cases.iter().any(|(case, _)| case == link),
                "{link}"
            );
        }
    }
}

#[test]
fn an_unknown_link_type_is_named() {
    let Decoded::Undecodable(error) = decode(&packet(LinkType(147), b"x")) else {
        panic!()
    };
    assert_eq!(error, DecodeError::UnknownLink(LinkType(147)));
    assert_eq!(error.to_string(), "link type LINKTYPE 147 is not supported");
}

#[test]
fn tags_and_labels() {
    for ends in FAMILIES {
        let sent = sample(ends);
        let ip = wire::ip(&sent.as_segment());
        let kind = wire::ether_type(&sent.as_segment()).to_be_bytes();
        let vlan = |id: u8| [0x20, id, kind[0], kind[1]];
        let plain = scope(
            LinkType::ETHERNET,
            &wire::ethernet(&sent.as_segment()),
            &sent,
        );
        let seven = scope(LinkType::ETHERNET, &tagged(0x8100, &vlan(7), &ip), &sent);
        let eight = scope(LinkType::ETHERNET, &tagged(0x8100, &vlan(8), &ip), &sent);
        let priority = scope(LinkType::ETHERNET, &tagged(0x8100, &vlan(0), &ip), &sent);
        let [k0, k1] = kind;
        let qinq = [0, 8, 0x81, 0, 0, 7, k0, k1];
        let qinq_scope = scope(LinkType::ETHERNET, &tagged(0x88a8, &qinq, &ip), &sent);
        let qinq = [0, 7, 0x81, 0, 0, 8, k0, k1];
        let swapped = scope(LinkType::ETHERNET, &tagged(0x9100, &qinq, &ip), &sent);
        assert_eq!(priority, plain);
        let mut scopes = [plain, seven, eight, qinq_scope, swapped];
        scopes.sort();
        assert!(
            scopes.windows(2).all(|pair| pair[0] != pair[1]),
            "{scopes:?}"
        );

        let labels = [0, 1, 0x20, 64, 0, 2, 0x31, 64];
        let snap = [&[0xaa, 0xaa, 3, 0, 0, 0][..], &kind].concat();
        let ethernet = wire::ethernet(&sent.as_segment());
        let pseudowire = [&[0, 1, 0x31, 64, 0, 0, 0, 0][..], &ethernet].concat();
        for frame in [
            tagged(0x8847, &labels, &ip),
            tagged(0x8848, &labels[4..], &ip),
            tagged(0x8847, &[], &pseudowire),
            tagged((snap.len() + ip.len()) as u16, &snap, &ip),
        ] {
            assert_eq!(scope(LinkType::ETHERNET, &frame, &sent), plain);
        }
    }
}

/// Subscribers' lines: PPPoE in Ethernet, with and without tags around it.
#[test]
fn lines_of_subscribers() {
    for ends in FAMILIES {
        let sent = sample(ends);
        let ip = wire::ip(&sent.as_segment());
        let ppp: u8 = if sent.source.ip.is_ipv4() { 0x21 } else { 0x57 };
        let [l0, l1] = (ip.len() as u16 + 2).to_be_bytes();
        let session = [&[0x11, 0, 0, 7, l0, l1, 0, ppp][..], &ip].concat();
        let plain = wire::ethernet_frame(0x8864, &session);
        assert_eq!(scope(LinkType::ETHERNET, &plain, &sent), Scope(0));
        let other_line = [&[0x11, 0, 0, 8, l0, l1, 0, ppp][..], &ip].concat();
        let other_line = wire::ethernet_frame(0x8864, &other_line);
        assert_eq!(scope(LinkType::ETHERNET, &other_line, &sent), Scope(0));
        let vlan = [0, 7, 0x88, 0x64];
        let within = scope(LinkType::ETHERNET, &tagged(0x8100, &vlan, &session), &sent);
        assert_ne!(within, Scope(0));
        let discovery = wire::ethernet_frame(0x8863, &[0x11, 9, 0, 0, 0, 0]);
        let found = decode(&packet(LinkType::ETHERNET, &discovery));
        assert!(matches!(found, Decoded::NotTcp), "{found:?}");
    }
}

/// Network cards fill checksums in behind the capture.
#[test]
fn checksums_are_not_looked_at() {
    for ends in FAMILIES {
        let sent = sample(ends);
        let good = wire::ethernet(&sent.as_segment());
        let v4 = sent.source.ip.is_ipv4();
        let tcp = 14 + if v4 { 20 } else { 40 };
        let checksums = [14 + 10, 14 + 11, tcp + 16, tcp + 17];
        for place in &checksums[if v4 { 0 } else { 2 }..] {
            for byte in [0, 0xff, !good[*place]] {
                let mut frame = good.clone();
                frame[*place] = byte;
                assert_eq!(scope(LinkType::ETHERNET, &frame, &sent), Scope(0));
            }
        }
    }
}

/// The payload in IPv4 and in IPv6.
fn both_outer(protocol: u8, payload: &[u8]) -> [Vec<u8>; 2] {
    let four = wire::ipv4([1; 4], [2; 4], protocol, payload.len(), payload);
    let six = wire::ipv6([1; 16], [2; 16], protocol, payload.len(), payload);
    [four, six]
}

/// The payload in UDP in both.
fn udp_outer(port: u16, head: &[u8], inner: &[u8]) -> [Vec<u8>; 2] {
    both_outer(17, &wire::udp(55_555, port, &[head, inner].concat()))
}

#[test]
fn tunnels_of_providers() {
    for ends in FAMILIES {
        let sent = sample(ends);
        let ip = wire::ip(&sent.as_segment());
        let frame = wire::ethernet(&sent.as_segment());
        let v4 = sent.source.ip.is_ipv4();
        let [k0, k1] = wire::ether_type(&sent.as_segment()).to_be_bytes();
        let (outer, udp) = (both_outer, udp_outer);
        let ppp: &[u8] = if v4 { &[0x21] } else { &[0x57] };
        let ppp_len = (ip.len() as u16 + 1).to_be_bytes();
        let pptp = [
            &[0x30, 0x81, 0x88, 0x0b, ppp_len[0], ppp_len[1], 0, 7][..],
            &[0; 8],
            ppp,
        ];
        let l2tp = [&[0x4a, 2][..], &[0; 10], &[0, 2, 7, 7, 0xff, 0x03], ppp].concat();
        let tzsp = [1, 0, 0, 1, 0, 10, 2, 7, 7, 1];
        let hsr = tagged(0x892f, &[0, 1, 0, 2, k0, k1], &ip);
        let backbone = tagged(0x88e7, &[0, 0, 0, 7], &frame);
        let unscoped = [
            outer(47, &[&pptp.concat()[..], &ip].concat()),
            outer(47, &[&[0, 0, 0x88, 0x0b][..], ppp, &ip].concat()),
            udp(1701, &l2tp, &ip),
            udp(37_008, &tzsp, &frame),
            outer(47, &[&[0, 0, 0x65, 0x58][..], &hsr].concat()),
            outer(47, &[&[0, 0, 0x65, 0x58][..], &backbone].concat()),
        ];
        for (index, packets) in unscoped.iter().enumerate() {
            for packet in packets {
                assert_eq!(scope(LinkType::RAW, packet, &sent), Scope(0), "{index}");
            }
        }
        if v4 {
            for head in [&[0, 0, 0x88, 0x3e][..], &[0, 0, 0x88, 0x3e, 0, 0, 0, 7]] {
                for packet in outer(47, &[head, &ip].concat()) {
                    assert_eq!(scope(LinkType::RAW, &packet, &sent), Scope(0));
                }
            }
        } else {
            let origin = [&[0, 1, 0, 0][..], &[0; 9], &[0, 0, 1, 2, 3, 4, 5, 6]].concat();
            for packet in [udp(3544, &[], &ip), udp(3544, &origin, &ip)].concat() {
                assert_eq!(scope(LinkType::RAW, &packet, &sent), Scope(0));
            }
        }
    }
}

#[test]
fn tunnels() {
    for ends in FAMILIES {
        let sent = sample(ends);
        let ip = wire::ip(&sent.as_segment());
        let frame = wire::ethernet(&sent.as_segment());
        let v4 = sent.source.ip.is_ipv4();
        let [k0, k1] = wire::ether_type(&sent.as_segment()).to_be_bytes();
        let outer = both_outer;
        let udp = udp_outer;
        let gtp_len = (ip.len() as u16 + 8).to_be_bytes();
        let gtp = [
            0x34, 255, gtp_len[0], gtp_len[1], 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0x10, 1, 0,
        ];
        let gtp_plain_len = (ip.len() as u16).to_be_bytes();
        let gtp_plain = [0x30, 255, gtp_plain_len[0], gtp_plain_len[1], 0, 0, 0, 1];
        let erspan_3 = [
            &[0x10, 0, 0x22, 0xeb, 0, 0, 0, 1][..],
            &[0; 11],
            &[1],
            &[0; 8],
        ]
        .concat();
        let unscoped = [
            outer(if v4 { 4 } else { 41 }, &ip),
            outer(47, &[&[0, 0, k0, k1][..], &ip].concat()),
            outer(47, &[&[0xb0, 0, k0, k1][..], &[0; 12], &ip].concat()),
            outer(47, &[&[0, 0, 0x65, 0x58][..], &frame].concat()),
            outer(47, &[&[0, 0, 0x88, 0xbe][..], &frame].concat()),
            outer(47, &[&[0x10, 0, 0x88, 0xbe][..], &[0; 12], &frame].concat()),
            outer(47, &[&erspan_3[..], &frame].concat()),
            outer(137, &[&[0, 1, 0x31, 64][..], &ip].concat()),
            udp(4754, &[0, 0, k0, k1], &ip),
            udp(6635, &[0, 1, 0x31, 64], &ip),
            udp(2152, &gtp, &ip),
            udp(2152, &gtp_plain, &ip),
        ];
        for (index, packets) in unscoped.iter().enumerate() {
            for packet in packets {
                assert_eq!(scope(LinkType::RAW, packet, &sent), Scope(0), "{index}");
            }
        }
        let next = if v4 { 1 } else { 2 };
        let scoped = [
            udp(4789, &[8, 0, 0, 0, 0, 0, 5, 0], &frame),
            udp(4789, &[8, 0, 0, 0, 0, 0, 6, 0], &frame),
            udp(6081, &[1, 0, k0, k1, 0, 0, 5, 0, 1, 2, 3, 4], &ip),
            outer(
                47,
                &[&[0x20, 0, 0x65, 0x58, 0, 0, 5, 0x77][..], &frame].concat(),
            ),
        ];
        let mut scopes = vec![Scope(0)];
        for packets in &scoped {
            let [four, six] = packets
                .each_ref()
                .map(|packet| scope(LinkType::RAW, packet, &sent));
            assert_eq!(four, six);
            scopes.push(four);
        }
        let [gpe, _] = udp(4790, &[0x0c, 0, 0, next, 0, 0, 5, 0], &ip);
        let [flannel, _] = udp(8472, &[8, 0, 0, 0, 0, 0, 5, 0], &frame);
        assert_eq!(scope(LinkType::RAW, &gpe, &sent), scopes[1]);
        assert_eq!(scope(LinkType::RAW, &flannel, &sent), scopes[1]);
        scopes.sort();
        assert!(
            scopes.windows(2).all(|pair| pair[0] != pair[1]),
            "{scopes:?}"
        );
    }
}

#[test]
fn wireless_frames_without_a_packet_to_read() {
    let sent = sample(FAMILIES[0]);
    let snap = [0xaa, 0xaa, 3, 0, 0, 0, 8, 0];
    let ip = wire::ip(&sent.as_segment());
    for (kind, flags, fragment, control) in [
        // A beacon, a data frame without data, an encrypted one, fragments, an aggregate.
        (0x80, 0, 0, 0),
        (0x48, 1, 0, 0),
        (0x08, 0x41, 0, 0),
        (0x08, 0x05, 0, 0),
        (0x08, 1, 1, 0),
        (0x88, 1, 0, 0x80),
    ] {
        let head = [&[kind, flags][..], &[0; 20], &[fragment, 0, control, 0]].concat();
        let frame = [&head[..], &snap, &ip].concat();
        let decoded = decode(&packet(LinkType::IEEE802_11, &frame));
        assert!(
            matches!(decoded, Decoded::NotTcp),
            "{kind} {flags} {decoded:?}"
        );
    }
}

#[test]
fn tunnels_within_tunnels_end() {
    let sent = sample(FAMILIES[0]);
    let mut data = wire::ip(&sent.as_segment());
    for depth in 1..100 {
        data = wire::ipv4([1; 4], [2; 4], 4, data.len(), &data);
        match decode(&packet(LinkType::RAW, &data)) {
            Decoded::Segment(_) => assert!(depth < 16),
            Decoded::Undecodable(DecodeError::TooManyLayers { limit: 16 }) => assert!(depth >= 16),
            other => panic!("{other:?}"),
        }
    }
    let tags = [[0, 1, 0x81, 0]; 1000].concat();
    let frame = tagged(0x8100, &tags, &data);
    assert!(matches!(
        decode(&packet(LinkType::ETHERNET, &frame)),
        Decoded::Undecodable(DecodeError::TooManyLayers { .. })
    ));
}

#[test]
fn a_well_known_port_with_something_else_on_it_is_not_an_error() {
    for port in [4789, 4790, 6081, 2152, 8472, 1701, 3544, 37_008] {
        let ip = wire::ipv4([1; 4], [2; 4], 17, 28, &wire::udp(1, port, &[0xc7; 20]));
        assert!(
            matches!(decode(&packet(LinkType::RAW, &ip)), Decoded::NotTcp),
            "{port}"
        );
    }
}

#[test]
fn extension_headers_are_walked() {
    let sent = sample(FAMILIES[1]);
    let tcp = wire::tcp(&sent.as_segment());
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (sent.source.ip, sent.destination.ip)
    else {
        unreachable!("the second sample is IPv6")
    };
    let with = |first: u8, headers: &[u8]| {
        let payload = [headers, &tcp].concat();
        wire::ipv6(
            source.octets(),
            destination.octets(),
            first,
            payload.len(),
            &payload,
        )
    };
    // Hop-by-hop (16 bytes), routing, destination, authentication (24 bytes), atomic fragment.
    let mut headers = vec![43, 1];
    headers.extend([0; 14]);
    headers.extend([60, 0, 0, 0, 0, 0, 0, 0]);
    headers.extend([51, 0, 0, 0, 0, 0, 0, 0]);
    headers.extend([44, 4]);
    headers.extend([0; 22]);
    headers.extend([6, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(scope(LinkType::RAW, &with(0, &headers), &sent), Scope(0));
    // No more than there can be.
    let endless = [60, 0, 0, 0, 0, 0, 0, 0].repeat(50);
    assert!(matches!(
        decode(&packet(LinkType::RAW, &with(60, &endless))),
        Decoded::Undecodable(DecodeError::Malformed { layer: Layer::Ipv6 })
    ));
    // Encrypted, and nothing at all.
    for next in [50, 59] {
        assert!(matches!(
            decode(&packet(LinkType::RAW, &with(next, &[]))),
            Decoded::NotTcp
        ));
    }
}

#[test]
fn padding_and_check_sequences_fall_off() {
    for ends in FAMILIES {
        let mut sent = sample(ends);
        sent.payload.clear();
        let mut frame = wire::ethernet(&sent.as_segment());
        frame.extend([0xee; 10]);
        assert_eq!(scope(LinkType::ETHERNET, &frame, &sent), Scope(0));
    }
}

#[test]
fn options_are_skipped() {
    let sent = sample(FAMILIES[0]);
    let mut tcp = wire::tcp(&sent.as_segment());
    tcp[12] = 8 << 4;
    tcp.splice(20..20, [1; 12]);
    let mut ip = wire::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 6, tcp.len() + 4, &tcp);
    ip[0] = 0x46;
    ip.splice(20..20, [1; 4]);
    assert_eq!(scope(LinkType::RAW, &ip, &sent), Scope(0));
}

#[test]
fn super_packets_take_their_length_from_the_frame() {
    for ends in FAMILIES {
        let mut sent = sample(ends);
        sent.payload = vec![b'x'; 512 << 10];
        let frame = wire::ethernet(&sent.as_segment());
        assert_eq!(scope(LinkType::ETHERNET, &frame, &sent), Scope(0));
        // Cut as well.
        let data = &frame[..262_144];
        let packet = RawPacket {
            wire_len: frame.len() as u32,
            ..packet(LinkType::ETHERNET, data)
        };
        let found = segment(decode(&packet));
        assert_eq!(found.payload.len() + found.cut as usize, 512 << 10);
    }
}

/// Wherever the capture cut the packet, what is missing is counted; or the headers are too short.
#[test]
fn every_cut_is_counted() {
    for ends in FAMILIES {
        let sent = sample(ends);
        let mut inner = wire::ethernet(&sent.as_segment());
        inner[14 + if sent.source.ip.is_ipv4() { 20 } else { 40 } + 12] = 5 << 4;
        let headers = inner.len() - sent.payload.len();
        // Padding that was cut is not payload.
        let wire_len = inner.len() as u32 + 6;
        for len in 0..=inner.len() {
            let data = &inner[..len];
            let packet = RawPacket {
                wire_len,
                ..packet(LinkType::ETHERNET, data)
            };
            match decode(&packet) {
                Decoded::Segment(found) => {
                    assert!(len >= headers);
                    assert_eq!(found.payload, &sent.payload[..len - headers]);
                    assert_eq!(found.cut as usize, inner.len() - len);
                }
                Decoded::Undecodable(DecodeError::Short {
                    needed, len: found, ..
                }) => {
                    assert!(len < headers && found < needed);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn what_is_not_tcp() {
    let arp = wire::ethernet_frame(0x0806, &[0; 28]);
    assert!(matches!(
        decode(&packet(LinkType::ETHERNET, &arp)),
        Decoded::NotTcp
    ));
    let spanning_tree = wire::ethernet_frame(38, &[0x42; 38]);
    assert!(matches!(
        decode(&packet(LinkType::ETHERNET, &spanning_tree)),
        Decoded::NotTcp
    ));
    let icmp = wire::ipv4([1; 4], [2; 4], 1, 8, &[0; 8]);
    assert!(matches!(
        decode(&packet(LinkType::RAW, &icmp)),
        Decoded::NotTcp
    ));
    assert!(matches!(
        decode(&packet(LinkType::NULL, &[7, 0, 0, 0, 1])),
        Decoded::NotTcp
    ));
}

#[test]
fn headers_that_contradict_themselves_are_named() {
    let sent = sample(FAMILIES[0]);
    let good = wire::ip(&sent.as_segment());
    for (place, byte, layer) in [
        (0, 0x44, Layer::Ipv4),
        (0, 0x95, Layer::Link),
        // A total length within the header.
        (3, 19, Layer::Ipv4),
        // A TCP header of four bytes.
        (32, 0x10, Layer::Tcp),
    ] {
        let mut bad = good.clone();
        bad[2] = 0;
        bad[place] = byte;
        let decoded = decode(&packet(LinkType::RAW, &bad));
        let Decoded::Undecodable(DecodeError::Malformed { layer: found }) = decoded else {
            panic!("{decoded:?}")
        };
        assert_eq!(found, layer);
    }
}

/// The fragments of a sample, as (more, offset in bytes, range of the payload).
fn fragments(sent: &SegmentBuf, size: usize) -> Vec<Vec<u8>> {
    let tcp = wire::tcp(&sent.as_segment());
    let count = tcp.len().div_ceil(size);
    let pieces = tcp.chunks(size).enumerate().map(|(index, piece)| {
        let more = u16::from(index + 1 < count);
        let offset = (index * size) as u16;
        match (sent.source.ip, sent.destination.ip) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip =
                    wire::ipv4(source.octets(), destination.octets(), 6, piece.len(), piece);
                ip[4..6].copy_from_slice(&77_u16.to_be_bytes());
                ip[6..8].copy_from_slice(&((more << 13) | (offset / 8)).to_be_bytes());
                ip
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let [o0, o1] = (offset | more).to_be_bytes();
                let payload = [&[6, 0, o0, o1, 0, 0, 0, 77][..], piece].concat();
                wire::ipv6(
                    source.octets(),
                    destination.octets(),
                    44,
                    payload.len(),
                    &payload,
                )
            }
            _ => unreachable!("both of one family"),
        }
    });
    pieces.collect()
}

#[test]
fn fragments_in_any_order_make_the_segment() {
    for ends in FAMILIES {
        let mut sent = sample(ends);
        sent.payload = (0..40).collect();
        for order in [[0, 1, 2, 3, 3], [3, 2, 1, 0, 0], [2, 0, 2, 3, 1]] {
            let pieces = fragments(&sent, 16);
            assert_eq!(pieces.len(), 4);
            let mut defragmenter = Defragmenter::default();
            let mut found = 0;
            for index in order {
                let packet = packet(LinkType::RAW, &pieces[index]);
                assert!(matches!(decode(&packet), Decoded::Fragment));
                match defragmenter.decode(&packet) {
                    Decoded::Segment(segment) => {
                        assert_same(segment, &sent);
                        found += 1;
                    }
                    Decoded::Fragment => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(found, 1);
        }
    }
}

#[test]
fn fragments_are_bounded() {
    let limits = DefragLimits {
        max_packets: 10,
        max_bytes: 100,
        ..DefragLimits::default()
    };
    let mut defragmenter = Defragmenter::new(limits);
    let sent = sample(FAMILIES[0]);
    let mut first = fragments(&sent, 16).swap_remove(0);
    for id in 0..5000_u16 {
        first[4..6].copy_from_slice(&id.to_be_bytes());
        assert!(matches!(
            defragmenter.decode(&packet(LinkType::RAW, &first)),
            Decoded::Fragment
        ));
        assert!(defragmenter.memory() <= limits.max_bytes);
    }
    // Six of sixteen bytes fit.
    assert_eq!(defragmenter.evicted(), 5000 - 6);
    // And what is left expires.
    let mut late = packet(LinkType::RAW, &first);
    late.at = late.at.saturating_add(Duration::from_secs(31));
    assert!(matches!(defragmenter.decode(&late), Decoded::Fragment));
    assert_eq!((defragmenter.evicted(), defragmenter.memory()), (5000, 16));
}

#[test]
fn fragments_that_overlap_are_given_up() {
    let sent = sample(FAMILIES[0]);
    let pieces = fragments(&sent, 16);
    let mut other = pieces[1].clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    let mut defragmenter = Defragmenter::default();
    for piece in [&pieces[0], &pieces[1], &other, &pieces[2]] {
        let decoded = defragmenter.decode(&packet(LinkType::RAW, piece));
        assert!(matches!(decoded, Decoded::Fragment));
    }
    assert_eq!(defragmenter.evicted(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn damage_never_panics(
        link: prop::sample::Index,
        six: bool,
        damage in proptest::collection::vec((0_usize..90, any::<u8>()), 0..12),
        len in 0_usize..140,
    ) {
        let sent = sample(FAMILIES[usize::from(six)]);
        let inner = wire::ethernet(&sent.as_segment());
        let mut data = wire::ethernet_frame(0x0800, &wire::ipv4([1; 4], [2; 4], 47, inner.len() + 4, &[&[0, 0, 0x65, 0x58][..], &inner].concat()));
        for (place, byte) in damage {
            if let Some(found) = data.get_mut(place) {
                *found = byte;
            }
        }
        data.truncate(len);
        let (link, _) = LinkType::KNOWN[link.index(LinkType::KNOWN.len())];
        for link in [link, LinkType::ETHERNET] {
            let packet = packet(link, &data);
            let plain = format!("{:?}", decode(&packet));
            let mut defragmenter = Defragmenter::default();
            prop_assert_eq!(plain, format!("{:?}", defragmenter.decode(&packet)));
        }
    }

    #[test]
    fn noise_never_panics(data in proptest::collection::vec(any::<u8>(), 0..120), wire_len: u32) {
        for (link, _) in LinkType::KNOWN {
            let packet = RawPacket { wire_len, ..packet(*link, &data) };
            drop(format!("{:?}", decode(&packet)));
        }
    }
}
