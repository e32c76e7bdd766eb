//! A ring that is too small for the traffic: what is lost is counted, to the byte.

use std::net::Ipv4Addr;

use tapedeck_packet::{Decoded, decode};
use tapedeckd::sources::af_packet::AfPacket;
use tapedeckd::sources::ebpf::{Ebpf, Event};

use crate::support::{Recording, Sending, Server, af_packet_options, ebpf_options, or_skip, skip};

const LEN: usize = 8 << 20;

#[test]
fn ebpf_counts_what_found_no_room() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = ebpf_options(&[server.address.port()]);
    options.ring_bytes = 0;
    let Some(mut source) = or_skip(Ebpf::open(&options)) else {
        return;
    };
    // Nobody reads meanwhile, so the smallest ring overflows whatever the machine's speed.
    server.converse(LEN, Sending::Write);
    let mut seen = 0;
    while source
        .read(&mut |event| {
            let Decoded::Segment(segment) = decode(&event.packet) else {
                panic!("not TCP");
            };
            seen += segment.payload.len() as u64;
        })
        .unwrap()
        > 0
    {}
    let drops = source.drops().unwrap();
    assert!(drops.total() > 0, "8 MiB fit into 1 MiB");
    let sent = 2 * LEN as u64;
    let accounted = seen + drops.payload_bytes;
    // TCP may repeat; it cannot say less.
    assert!(
        (sent..sent + sent / 4).contains(&accounted),
        "{seen} bytes seen and {} lost of {sent} sent",
        drops.payload_bytes
    );
    println!("{seen} bytes seen, {drops:?}");
}

#[test]
fn ebpf_tells_the_loss_of_a_socket_with_its_next_event() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = ebpf_options(&[server.address.port()]);
    options.ring_bytes = 0;
    let Some(mut source) = or_skip(Ebpf::open(&options)) else {
        return;
    };
    let mut told = (0, 0);
    let mut drain = |source: &mut Ebpf| {
        let mut add = |event: &Event<'_>| {
            told.0 += u64::from(event.header.lost_packets);
            told.1 += u64::from(event.header.lost_bytes);
        };
        while source.read(&mut add).unwrap() > 0 {}
    };
    // Behind the first bytes the ring is made empty, so that the second ones find room and tell.
    server.converse_twice(4 << 20, 1_000, || drain(&mut source));
    drain(&mut source);
    let drops = source.drops().unwrap();
    assert!(drops.total() > 0);
    assert_eq!(told, (drops.total(), drops.payload_bytes));
}

#[test]
fn af_packet_counts_what_found_no_room() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = af_packet_options(Some("lo"), &[server.address.port()]);
    options.ring_bytes = 0;
    let Some(source) = or_skip(AfPacket::open(&options)) else {
        return;
    };
    server.converse(LEN, Sending::Write);
    let seen = Recording::start(source).stop();
    assert!(seen.drops.total() > 0, "8 MiB fit into 2 MiB");
    let stored: usize = seen.streams.values().map(|stream| stream.bytes().1).sum();
    assert!(stored < 2 * LEN, "something was lost, so not all is there");
    println!("{stored} bytes of {} seen, {:?}", 2 * LEN, seen.drops);
}

/// What is too small for the smallest ring still works, once it is read in time.
#[test]
fn a_tiny_ring_is_enough_for_little() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = ebpf_options(&[server.address.port()]);
    options.ring_bytes = 1;
    let Some(source) = or_skip(Ebpf::open(&options)) else {
        skip("no eBPF");
        return;
    };
    let recording = Recording::start(source);
    let conversation = server.converse(10_000, Sending::Write);
    let seen = recording.stop();
    assert_eq!(seen.drops.total(), 0);
    crate::support::assert_whole(&seen, &conversation, "ebpf");
}
