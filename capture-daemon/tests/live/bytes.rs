//! Every byte, once, whatever the size of the packets and the way they were sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tapedeck_ebpf_abi::PacketHeader;
use tapedeck_model::TcpFlags;
use tapedeck_packet::{Decoded, decode};
use tapedeckd::sources::SourceError;
use tapedeckd::sources::af_packet::AfPacket;
use tapedeckd::sources::ebpf::Ebpf;

use crate::support::{
    Recording, Sending, Server, af_packet_options, assert_whole, ebpf_options, or_skip, sources,
};

const LENGTHS: [usize; 6] = [
    1,
    (64 << 10) - 1,
    64 << 10,
    (64 << 10) + 1,
    1 << 20,
    8 << 20,
];

fn check_loopback(ip: IpAddr) {
    let server = Server::bind(ip);
    let recordings: Vec<_> = sources(&[server.address.port()])
        .into_iter()
        .map(|(name, source)| (name, Recording::start(source)))
        .collect();
    let mut conversations = Vec::new();
    for sending in [Sending::Write, Sending::Sendfile] {
        for len in LENGTHS {
            conversations.push((server.converse(len, sending), sending, len));
        }
    }
    let sent: u64 = LENGTHS.iter().map(|len| *len as u64 * 4).sum();
    for (name, recording) in recordings {
        let seen = recording.stop();
        assert_eq!(seen.drops.total(), 0, "{name}: {:?}", seen.drops);
        assert_eq!(seen.cut, 0, "{name}: packets cut");
        assert_eq!(seen.streams.len(), conversations.len() * 2, "{name}");
        for (conversation, sending, len) in &conversations {
            assert_whole(&seen, conversation, &format!("{name}, {sending:?} {len}"));
        }
        // Loopback shows everything twice: once is enough. TCP may repeat a little.
        assert!(
            (sent..sent + sent / 4).contains(&seen.payload_bytes),
            "{name}: {} payload bytes of {sent} sent",
            seen.payload_bytes
        );
    }
}

#[test]
fn loopback_ipv4_is_seen_whole_and_once() {
    check_loopback(Ipv4Addr::LOCALHOST.into());
}

#[test]
fn loopback_ipv6_is_seen_whole_and_once() {
    check_loopback(Ipv6Addr::LOCALHOST.into());
}

/// The kernel builds packets above 64 KiB on loopback, which no IP header can announce.
#[test]
fn long_packets_come_whole() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let Some(mut source) = or_skip(Ebpf::open(&ebpf_options(&[server.address.port()]))) else {
        return;
    };
    server.converse(16 << 20, Sending::Write);
    let mut longest = 0;
    source
        .read(&mut |event| {
            let Decoded::Segment(segment) = decode(&event.packet) else {
                panic!("not TCP");
            };
            assert_eq!(segment.cut, 0);
            longest = longest.max(segment.payload.len());
        })
        .unwrap();
    println!("longest payload: {longest} bytes");
    assert!(longest > 65_535, "{longest}");
}

#[test]
fn events_tell_socket_cgroup_and_direction() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let Some(mut source) = or_skip(Ebpf::open(&ebpf_options(&[server.address.port()]))) else {
        return;
    };
    server.converse(100, Sending::Write);
    let mut cookies = Vec::new();
    source
        .read(&mut |event| {
            let header = &event.header;
            assert_ne!(header.cgroup, 0);
            assert_ne!(header.cookie, 0);
            let flags = header.flags & !PacketHeader::HANDSHAKE;
            assert_eq!(flags, PacketHeader::EGRESS | PacketHeader::LOOPBACK);
            cookies.push(header.cookie);
        })
        .unwrap();
    cookies.sort_unstable();
    cookies.dedup();
    // The client's socket, the server's, and the listening one, which answered the SYN.
    assert!((2..=3).contains(&cookies.len()), "{cookies:?}");
}

#[test]
fn what_opens_or_closes_is_an_event_and_bare_acknowledgments_are_none() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let Some(mut source) = or_skip(Ebpf::open(&ebpf_options(&[server.address.port()]))) else {
        return;
    };
    server.converse(1 << 20, Sending::Write);
    server.reset();
    let telling = [TcpFlags::SYN, TcpFlags::FIN, TcpFlags::RST];
    let mut seen = [false; 3];
    source
        .read(&mut |event| {
            let Decoded::Segment(segment) = decode(&event.packet) else {
                panic!("not TCP");
            };
            let has = telling.map(|flag| segment.flags.contains(flag));
            assert!(
                has.contains(&true) || !segment.payload.is_empty(),
                "a bare acknowledgment"
            );
            for (seen, has) in seen.iter_mut().zip(has) {
                *seen |= has;
            }
        })
        .unwrap();
    assert_eq!(seen, [true; 3], "SYN, FIN, RST");
}

#[test]
fn other_ports_are_left_out() {
    let (wanted, other) = (
        Server::bind(Ipv4Addr::LOCALHOST.into()),
        Server::bind(Ipv4Addr::LOCALHOST.into()),
    );
    let recordings: Vec<_> = sources(&[wanted.address.port()])
        .into_iter()
        .map(|(name, source)| (name, Recording::start(source)))
        .collect();
    other.converse(1_000, Sending::Write);
    let conversation = wanted.converse(1_000, Sending::Write);
    for (name, recording) in recordings {
        let seen = recording.stop();
        assert_whole(&seen, &conversation, name);
        assert_eq!(seen.streams.len(), 2, "{name}: {:?}", seen.streams.keys());
    }
}

#[test]
fn sockets_outside_of_the_cgroup_are_left_out() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let root = tapedeckd::sources::ebpf::cgroup_root();
    let Some(root) = or_skip(root) else { return };
    let folder = root.join(format!("tapedeck-test-{}", std::process::id()));
    if let Err(error) = std::fs::create_dir(&folder) {
        crate::support::skip(&format!("cannot create {}: {error}", folder.display()));
        return;
    }
    let mut options = ebpf_options(&[server.address.port()]);
    options.cgroup = Some(folder.clone());
    let opened = Ebpf::open(&options);
    let seen = or_skip(opened).map(|source| {
        let recording = Recording::start(source);
        // Nobody is in the new cgroup, so its sockets say nothing.
        server.converse(1_000, Sending::Write);
        recording.stop()
    });
    std::fs::remove_dir(&folder).unwrap();
    let Some(seen) = seen else { return };
    assert_eq!(seen.payload_bytes, 0);
}

#[test]
fn an_unknown_interface_is_named_with_those_there_are() {
    let options = af_packet_options(Some("no-such-if0"), &[]);
    let Err(error) = AfPacket::open(&options) else {
        panic!("there is no such interface");
    };
    if matches!(error, SourceError::MissingCapabilities(_)) {
        crate::support::skip(&error.to_string());
        return;
    }
    let text = error.to_string();
    assert!(
        text.contains("no-such-if0") && text.contains("lo"),
        "{text}"
    );
}
