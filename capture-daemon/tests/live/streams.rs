//! Several streams, rules, and what the programs count for each socket.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tapedeck_ebpf_abi::PacketHeader;
use tapedeck_packet::{Decoded, decode};
use tapedeckd::sources::af_packet::AfPacket;
use tapedeckd::sources::ebpf::Ebpf;
use tapedeckd::sources::{Action, Captured, Match, Policy, Rule, Source, SourceError};

use crate::support::{
    Recording, Sending, Server, af_packet_options, assert_whole, ebpf_options, or_skip,
};

/// Both directions of a connection are in one stream, and the streams share the connections.
fn check_streams(source: impl Into<Source>, server: &Server) {
    let Source {
        mut streams,
        mut tap,
    } = source.into();
    assert!(streams.len() > 1);
    let mut sent = 0;
    for _ in 0..64 {
        let conversation = server.converse(1_000, Sending::Write);
        sent += conversation.request.len() + conversation.response.len();
    }
    tap.detach().unwrap();
    let mut seen: BTreeMap<u16, BTreeSet<usize>> = BTreeMap::new();
    let mut bytes = 0;
    let server = server.address;
    for (index, stream) in streams.iter_mut().enumerate() {
        let wait = Duration::from_millis(200);
        let mut take = |source: SocketAddr, destination: SocketAddr, len: usize| {
            let client = if source == server {
                destination
            } else {
                source
            };
            seen.entry(client.port()).or_default().insert(index);
            bytes += len;
        };
        while stream
            .next_batch(wait, &mut |captured| {
                let Decoded::Segment(segment) = decode(&captured.packet) else {
                    panic!("not TCP");
                };
                let address = |of: tapedeck_model::Endpoint| SocketAddr::new(of.ip, of.port);
                let (from, to) = (address(segment.source), address(segment.destination));
                take(from, to, segment.payload.len());
            })
            .unwrap()
            > 0
        {}
    }
    assert_eq!(seen.len(), 64);
    assert!(seen.values().all(|streams| streams.len() == 1), "{seen:?}");
    let used: BTreeSet<_> = seen.values().flatten().collect();
    assert_eq!(used.len(), streams.len(), "every stream has some");
    assert_eq!(bytes, sent);
    assert_eq!(tap.drops().unwrap().total(), 0);
}

#[test]
fn ring_buffers_share_the_connections() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = ebpf_options(&[server.address.port()]);
    options.streams = NonZeroUsize::new(4).unwrap();
    if let Some(source) = or_skip(Ebpf::open(&options)) {
        check_streams(source, &server);
    }
}

/// As many rules and sockets as there may be, and one more, which is refused while those before stay.
#[test]
fn too_many_rules_or_sockets_are_refused() {
    const MOST_RULES: usize = tapedeck_ebpf_abi::MAX_RULES;
    const MOST_SOCKETS: u64 = 1_024;
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let port = server.address.port();
    let Some(mut source) = or_skip(Ebpf::open(&ebpf_options(&[port]))) else {
        return;
    };
    let rules = |count| Policy {
        rules: (0..count)
            .map(|_| Policy::only_ports(&[port]).rules.remove(0))
            .collect(),
        otherwise: Action::Ignore,
    };
    let sockets = |count| Policy::only_sockets(&(1..=count).collect::<Vec<_>>());
    let tap = source.tap();
    tap.set_policy(&sockets(MOST_SOCKETS)).unwrap();
    tap.set_policy(&rules(MOST_RULES)).unwrap();
    assert!(matches!(
        tap.set_policy(&sockets(MOST_SOCKETS + 1)),
        Err(SourceError::TooManySockets {
            given: 1_025,
            most: 1_024
        })
    ));
    assert!(matches!(
        tap.set_policy(&rules(MOST_RULES + 1)),
        Err(SourceError::TooManyRules {
            given: 128,
            most: 127
        })
    ));
    server.converse(1_000, Sending::Write);
    let mut bytes = 0;
    source
        .read(&mut |event| bytes += event.packet.data.len())
        .unwrap();
    assert!(bytes > 2_000, "the rules before are gone");
}

/// Longer than a test takes: only what fills the ring wakes its reader.
const ASLEEP: Duration = Duration::from_secs(60);

/// A source for a server, with the smallest ring there is, 1 MiB.
fn asleep(server: &Server) -> Option<Source> {
    let mut options = ebpf_options(&[server.address.port()]);
    options.ring_bytes = 0;
    options.pause = ASLEEP;
    options.burst = u32::MAX;
    or_skip(Ebpf::open(&options)).map(Source::from)
}

/// Whoever sleeps for long is woken by what fills the ring.
#[test]
fn a_quarter_of_the_ring_wakes_its_reader() {
    const LEN: usize = 200 << 10;
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let Some(Source {
        mut streams,
        mut tap,
    }) = asleep(&server)
    else {
        return;
    };
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| server.converse(LEN, Sending::Write));
        let mut seen = 0;
        // Not all: the last quarter is not full.
        while seen < LEN {
            let mut take = |captured: &Captured<'_>| seen += captured.packet.data.len();
            streams[0].next_batch(ASLEEP, &mut take).unwrap();
        }
    });
    assert!(start.elapsed() < ASLEEP / 2, "nobody woke it");
    assert_eq!(tap.drops().unwrap().total(), 0);
}

/// A busy ring is looked at by the clock, before so much is in it that its reader is woken.
#[test]
fn a_reader_comes_back_for_little_at_a_time() {
    const LEN: usize = 100;
    // Records of 256 bytes, of which a quarter of the ring holds about a thousand: nine quarters.
    const RECORDS: usize = 10_000;
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = ebpf_options(&[server.address.port()]);
    options.ring_bytes = 0;
    options.pause = ASLEEP;
    options.burst = 64;
    let Some(Source {
        mut streams,
        mut tap,
    }) = or_skip(Ebpf::open(&options)).map(Source::from)
    else {
        return;
    };
    let (sent, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = TcpStream::connect(server.address).unwrap();
            let (mut accepted, _) = server.listener.accept().unwrap();
            // It goes on until all is seen: whoever looks while nothing comes sleeps for long.
            while seen.load(Ordering::Relaxed) < RECORDS && start.elapsed() < ASLEEP {
                client.write_all(&[b'x'; LEN]).unwrap();
                accepted.read_exact(&mut [0; LEN]).unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_micros(50));
            }
        });
        while sent.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        let mut batches = 0;
        while seen.load(Ordering::Relaxed) < RECORDS {
            let mut take = |_: &Captured<'_>| {
                seen.fetch_add(1, Ordering::Relaxed);
            };
            streams[0].next_batch(ASLEEP, &mut take).unwrap();
            batches += 1;
        }
        // 64 each time make 156. Quarters alone make nine, or six times as many where records beside wake it, too.
        assert!(batches > 75, "{batches} times");
    });
    assert!(start.elapsed() < ASLEEP / 2, "it slept");
    assert_eq!(tap.drops().unwrap().total(), 0);
}

/// A wake-up costs the sender an interrupt, so that only what comes next to the end of a quarter may wake the
/// reader, and not whatever comes near it.
#[test]
fn a_quarter_of_the_ring_wakes_its_reader_a_few_times() {
    const LEN: usize = 1_000;
    // Records of 2 KiB, 128 to a quarter: eleven quarters and some.
    const RECORDS: usize = 1_500;
    const QUARTERS: usize = 11;
    // Two quarters and more: what is under way always wakes a reader that sleeps, and never fills the ring.
    const AHEAD: usize = 300;
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let Some(Source {
        mut streams,
        mut tap,
    }) = asleep(&server)
    else {
        return;
    };
    let seen = AtomicUsize::new(0);
    let slept = thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = TcpStream::connect(server.address).unwrap();
            let (mut accepted, _) = server.listener.accept().unwrap();
            for sent in 0..RECORDS {
                while sent > seen.load(Ordering::Relaxed) + AHEAD {
                    thread::yield_now();
                }
                client.write_all(&[b'x'; LEN]).unwrap();
                accepted.read_exact(&mut [0; LEN]).unwrap();
            }
        });
        let before = sleeps();
        while seen.load(Ordering::Relaxed) < RECORDS - AHEAD {
            let mut take = |_: &Captured<'_>| {
                seen.fetch_add(1, Ordering::Relaxed);
            };
            streams[0].next_batch(ASLEEP, &mut take).unwrap();
        }
        sleeps() - before
    });
    // Four records reach into the next quarter when their longest size and what may slip in are added.
    assert!(slept <= QUARTERS * 6, "slept {slept} times");
    assert_eq!(tap.drops().unwrap().total(), 0);
}

/// How often this thread went to sleep.
fn sleeps() -> usize {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let count = |line: &str| {
        line.strip_prefix("voluntary_ctxt_switches:")?
            .trim()
            .parse()
            .ok()
    };
    status.lines().find_map(count).unwrap()
}

#[test]
fn packet_sockets_share_the_connections() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = af_packet_options(Some("lo"), &[server.address.port()]);
    options.streams = NonZeroUsize::new(2).unwrap();
    if let Some(source) = or_skip(AfPacket::open(&options)) {
        check_streams(source, &server);
    }
}

/// Numbers that are missing are the losses that are told, socket by socket.
#[test]
fn events_of_a_socket_are_numbered_and_losses_have_their_numbers() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = ebpf_options(&[server.address.port()]);
    options.ring_bytes = 0;
    let Some(mut source) = or_skip(Ebpf::open(&options)) else {
        return;
    };
    let mut last: BTreeMap<(u64, u16), u32> = BTreeMap::new();
    let mut lost = 0;
    let mut drain = |source: &mut Ebpf| {
        let mut check = |header: &PacketHeader| {
            let socket = (header.cookie, header.flags & PacketHeader::EGRESS);
            let before = last.insert(socket, header.event).unwrap_or(0);
            assert_eq!(header.event, before + 1 + header.lost_packets);
            lost += header.lost_packets;
        };
        while source.read(&mut |event| check(&event.header)).unwrap() > 0 {}
    };
    server.converse_twice(8 << 20, 1_000, || drain(&mut source));
    drain(&mut source);
    assert!(lost > 0, "8 MiB fit into 1 MiB");
    assert!(last.len() >= 2);
}

fn rule(port: u16, action: Action, sample: f64) -> Policy {
    Policy {
        rules: vec![Rule {
            of: Match::Ports(vec![port]),
            action,
            sample,
        }],
        otherwise: Action::Ignore,
    }
}

#[test]
fn heads_are_enough_for_who_wants_only_heads() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = ebpf_options(&[]);
    options.policy = rule(server.address.port(), Action::Headers, 1.0);
    let Some(source) = or_skip(Ebpf::open(&options)) else {
        return;
    };
    let recording = Recording::start(source);
    let small = server.converse(1_000, Sending::Write);
    let large = server.converse(1 << 20, Sending::Write);
    let seen = recording.stop();
    assert_whole(&seen, &small, "small");
    assert!(seen.cut > 0);
    let stream = &seen.streams[&(large.client, large.server)];
    for (seq, payload) in &stream.segments {
        assert!(payload.len() <= 16 << 10, "{} at {seq}", payload.len());
    }
    // What is there is at its place.
    let (_, count) = stream.bytes();
    assert!((1..1 << 20).contains(&count));
}

#[test]
fn a_share_is_taken_of_whole_connections_and_other_rules_take_over_at_once() {
    const CONNECTIONS: usize = 200;
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = ebpf_options(&[]);
    options.policy = rule(server.address.port(), Action::Capture, 0.5);
    let Some(mut source) = or_skip(Ebpf::open(&options)) else {
        return;
    };
    let talk = |source: &mut Ebpf| {
        let mut events: BTreeMap<u16, usize> = BTreeMap::new();
        for _ in 0..CONNECTIONS {
            server.converse(10, Sending::Write);
        }
        source
            .read(&mut |event| {
                let Decoded::Segment(segment) = decode(&event.packet) else {
                    panic!("not TCP");
                };
                let ports = [segment.source.port, segment.destination.port];
                let client = ports
                    .into_iter()
                    .find(|port| *port != server.address.port());
                *events.entry(client.unwrap()).or_default() += 1;
            })
            .unwrap();
        events
    };
    let half = talk(&mut source);
    assert!((60..140).contains(&half.len()), "{} of 200", half.len());
    // Both SYNs, both payloads, both FINs.
    assert!(half.values().all(|events| *events >= 6), "{half:?}");
    assert!(source.drops().unwrap().left_out > 0);

    let everything = rule(server.address.port(), Action::Capture, 1.0);
    assert!(source.tap().set_policy(&everything).unwrap().is_empty());
    assert_eq!(talk(&mut source).len(), CONNECTIONS);
    let nothing = rule(server.address.port(), Action::Ignore, 1.0);
    source.tap().set_policy(&nothing).unwrap();
    assert_eq!(talk(&mut source).len(), 0);
    // The rules change places again and again without mixing up.
    for _ in 0..5 {
        source.tap().set_policy(&everything).unwrap();
        source.tap().set_policy(&nothing).unwrap();
    }
    source.tap().set_policy(&everything).unwrap();
    assert_eq!(talk(&mut source).len(), CONNECTIONS);
}

/// A rule for a cgroup that is not there is told, and the others hold.
#[test]
fn a_cgroup_that_is_not_there_is_told() {
    let Some(mut source) = or_skip(Ebpf::open(&ebpf_options(&[]))) else {
        return;
    };
    let policy = Policy {
        rules: vec![Rule {
            of: Match::Cgroup("/no/such/cgroup".into()),
            action: Action::Ignore,
            sample: 1.0,
        }],
        otherwise: Action::Ignore,
    };
    let complaints = source.tap().set_policy(&policy).unwrap();
    assert_eq!(complaints.len(), 1);
    assert!(complaints[0].contains("/no/such/cgroup"), "{complaints:?}");
}
