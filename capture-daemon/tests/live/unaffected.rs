//! Who is recorded does not notice: the same traffic, with a capture and without, in namespaces of its
//! own, whose TCP counters nobody else touches.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tapedeckd::sources::af_packet::AfPacket;
use tapedeckd::sources::ebpf::Ebpf;

use crate::pair::Pair;
use crate::support::{Recording, af_packet_options, ebpf_options, or_skip};

/// What a capture that stands in the way would change. How many segments there are, and how many
/// acknowledgments, is a matter of time, and another in each run.
const COUNTERS: [&str; 13] = [
    "ActiveOpens",
    "AttemptFails",
    "EstabResets",
    "InErrs",
    "ListenDrops",
    "ListenOverflows",
    "OutRsts",
    "PassiveOpens",
    "TCPAbortOnClose",
    "TCPAbortOnData",
    REPAIRS[0],
    REPAIRS[1],
    REPAIRS[2],
];

/// One of these counts whenever a packet was lost. `RetransSegs` counts tail loss probes, too, which
/// TCP sends by the clock when a busy machine leaves it waiting (RFC 8985 section 7).
pub(crate) const REPAIRS: [&str; 3] = ["TCPFastRetrans", "TCPLossProbeRecovery", "TCPTimeouts"];

type Counted = [BTreeMap<&'static str, u64>; 2];

/// What the namespaces counted while every way to send was used, and both sides checked every byte
/// that reached them; and what `watch` began before.
fn traffic<T>(server: SocketAddr, watch: impl FnOnce(&Pair) -> T) -> Option<(Counted, T)> {
    let mut pair = Pair::new(&format!("calm{}", server.port()))?;
    // On two processors the kernel itself lets the packets of one connection overtake each other, with
    // a capture or without, and TCP repeats what was late: docs/live.md has the figures.
    pair.on_one_processor();
    let watching = watch(&pair);
    pair.converse(
        server,
        "matrix::child_that_serves",
        "matrix::child_that_posts",
    );
    let counted = [0, 1].map(|end| {
        let counters = pair.counters(end);
        COUNTERS.map(|name| (name, counters[name])).into()
    });
    Some((counted, watching))
}

/// A busy machine may let a program wait for so long that TCP's clock runs out (200 ms). A capture that
/// stood in the way would make it do so every time.
const TRIES: usize = 3;

/// Asserts that with `watch` the same is counted as without. `is_watching` says that it saw something.
fn check<T>(port: u16, what: &str, watch: impl Fn(&Pair) -> T, is_watching: impl Fn(T) -> bool) {
    let server = SocketAddr::from(([10, 211, 0, 2], port));
    let mut counted = Vec::new();
    for _ in 0..TRIES {
        let Some((alone, ())) = traffic(server, |_| ()) else {
            return;
        };
        assert_eq!(alone[0]["ActiveOpens"], 7);
        assert_eq!(alone[1]["PassiveOpens"], 7);
        let (watched, watching) = traffic(server, &watch).unwrap();
        assert!(is_watching(watching), "{what} saw nothing");
        if alone == watched {
            return;
        }
        counted.push((alone, watched));
    }
    panic!("without and with {what}: {counted:#?}");
}

#[test]
fn the_target_does_not_notice_ebpf() {
    let port = 8105;
    let options = ebpf_options(&[port]);
    if or_skip(Ebpf::open(&options)).is_none() {
        return;
    }
    let watch = |_: &Pair| Recording::start(Ebpf::open(&options).unwrap());
    check(port, "ebpf", watch, |recording| {
        recording.stop().payload_bytes > 0
    });
}

/// Nobody reads the ring, so nearly every packet finds no room.
#[test]
fn the_target_does_not_notice_a_full_ring() {
    let port = 8106;
    let mut options = ebpf_options(&[port]);
    options.ring_bytes = 0;
    if or_skip(Ebpf::open(&options)).is_none() {
        return;
    }
    let watch = |_: &Pair| Ebpf::open(&options).unwrap();
    check(port, "a full ring", watch, |mut ebpf| {
        ebpf.drops().unwrap().total() > 0
    });
}

#[test]
fn the_target_does_not_notice_a_packet_socket_beside_it() {
    let port = 8107;
    let options = af_packet_options(None, &[port]);
    if or_skip(AfPacket::open(&options)).is_none() {
        return;
    }
    let watch = |pair: &Pair| {
        let mut options = options.clone();
        options.network_namespace = Some(pair.path(1));
        Recording::start(AfPacket::open(&options).unwrap())
    };
    check(port, "a packet socket", watch, |recording| {
        recording.stop().payload_bytes > 0
    });
}
