//! Between network namespaces: a veth pair, as between a node and its pods.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use tapedeckd::sources::af_packet::AfPacket;
use tapedeckd::sources::ebpf::Ebpf;

use crate::pair::{Pair, address_for_child, ip};
use crate::support::{
    Conversation, Recording, Seen, Sending, af_packet_options, answer, ask, assert_whole,
    ebpf_options, or_skip, request, response, skip,
};

const LENGTHS: [usize; 3] = [1, 70_000, 2 << 20];
const PORT: u16 = 8099;

#[test]
fn child_that_answers() {
    let Some(address) = address_for_child() else {
        return;
    };
    let listener = TcpListener::bind(address).unwrap();
    println!("listening");
    for _ in LENGTHS {
        answer(&listener, Sending::Sendfile);
    }
}

#[test]
fn child_that_asks() {
    let Some(address) = address_for_child() else {
        return;
    };
    for len in LENGTHS {
        ask(address, len, Sending::Write);
    }
}

#[track_caller]
fn assert_all_seen(seen: &Seen, server: SocketAddr, what: &str) {
    assert_eq!((seen.drops.total(), seen.cut), (0, 0), "{what}");
    assert_eq!(seen.streams.len(), 2 * LENGTHS.len(), "{what}");
    let mut lengths = BTreeSet::new();
    for (client, _) in seen.streams.keys().filter(|(_, to)| *to == server) {
        let (_, len) = seen.streams[&(*client, server)].bytes();
        lengths.insert(len);
        let conversation = Conversation {
            client: *client,
            server,
            request: request(len),
            response: response(len),
        };
        assert_whole(seen, &conversation, what);
    }
    assert_eq!(lengths, BTreeSet::from(LENGTHS), "{what}");
}

#[test]
fn a_veth_pair_is_seen_whole() {
    let Some(pair) = Pair::new("veth") else {
        return;
    };
    let mut options = af_packet_options(Some("veth0"), &[PORT]);
    options.network_namespace = Some(pair.path(0));
    for ip in ["10.211.0.2", "fd00:211::2"] {
        let server = SocketAddr::new(ip.parse().unwrap(), PORT);
        let interface = or_skip(AfPacket::open(&options)).map(Recording::start);
        let sockets = or_skip(Ebpf::open(&ebpf_options(&[PORT]))).map(Recording::start);
        pair.converse(
            server,
            "namespaces::child_that_answers",
            "namespaces::child_that_asks",
        );
        let sent: u64 = LENGTHS.iter().map(|len| *len as u64 * 2).sum();
        if let Some(recording) = interface {
            let seen = recording.stop();
            assert_all_seen(&seen, server, "af-packet");
            assert!((sent..sent + sent / 4).contains(&seen.payload_bytes));
        }
        if let Some(recording) = sockets {
            let seen = recording.stop();
            assert_all_seen(&seen, server, "ebpf");
            // Both ends are sockets of this machine.
            assert!((2 * sent..2 * sent + sent / 2).contains(&seen.payload_bytes));
        }
    }
}

#[cfg(feature = "libpcap")]
#[test]
fn libpcap_sees_a_veth_pair_whole() {
    let Some(pair) = Pair::new("pcap") else {
        return;
    };
    // Not that of the test above: its programs see the sockets of every namespace.
    let port = PORT - 1;
    let mut options = crate::support::libpcap_options(Some("veth0"), &[port]);
    options.network_namespace = Some(pair.path(0));
    for ip in ["10.211.0.2", "fd00:211::2"] {
        let server = SocketAddr::new(ip.parse().unwrap(), port);
        let source = or_skip(tapedeckd::sources::libpcap::open(&options));
        let Some(recording) = source.map(Recording::start) else {
            return;
        };
        pair.converse(
            server,
            "namespaces::child_that_answers",
            "namespaces::child_that_asks",
        );
        assert_all_seen(&recording.stop(), server, "libpcap");
    }
    options.interface = Some("none-such".to_owned());
    let error = tapedeckd::sources::libpcap::open(&options).err().unwrap();
    assert!(error.to_string().contains("there are: "), "{error}");
}

/// Sends one frame by a packet socket, as this kernel may have no VLAN devices.
const SEND_FRAME: &str = "import socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind(('veth0', 0))
link.send(bytes.fromhex(sys.argv[1]))";

/// A broadcast frame with these tags around a segment of six bytes.
fn tagged_frame(tags: &[u8]) -> String {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(tags);
    frame.extend([0x08, 0x00]);
    frame.extend([
        0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 211, 0, 1, 10, 211, 0, 2,
    ]);
    frame.extend(PORT.to_be_bytes());
    frame.extend([0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    frame.extend(b"tagged");
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The kernel takes the outer tag out of the packet; it is put back, unless all interfaces are
/// captured: there the same packet with and without tag would be two.
#[test]
fn vlan_tags_are_put_back_or_left_out() {
    let Some(pair) = Pair::new("vlan") else {
        return;
    };
    let mut options = af_packet_options(Some("veth0"), &[PORT]);
    options.network_namespace = Some(pair.path(1));
    let mut scopes = BTreeSet::new();
    let tags: [&[u8]; 3] = [&[], &[0x81, 0, 0, 7], &[0x88, 0xa8, 0, 3, 0x81, 0, 0, 7]];
    for tags in tags {
        options.interface = Some("veth0".to_owned());
        let tagged = or_skip(AfPacket::open(&options));
        options.interface = None;
        let untagged = or_skip(AfPacket::open(&options));
        let (Some(tagged), Some(untagged)) = (tagged, untagged) else {
            return;
        };
        let recordings = [Recording::start(tagged), Recording::start(untagged)];
        let sent = pair
            .command(0, "python3")
            .args(["-c", SEND_FRAME])
            .arg(tagged_frame(tags))
            .status()
            .unwrap();
        if !sent.success() {
            skip("python3 cannot send a frame");
            return;
        }
        let [tagged, untagged] = recordings.map(Recording::stop);
        for seen in [&tagged, &untagged] {
            assert_eq!(seen.payload_bytes, 6, "tags {tags:02x?}");
            let stream = seen.streams.values().next().unwrap();
            assert!(stream.segments.values().eq([b"tagged"]));
        }
        assert_eq!(untagged.scope, 0);
        scopes.insert(tagged.scope);
    }
    assert_eq!(scopes.len(), 3, "each set of tags is a network of its own");
    assert!(scopes.contains(&0));
}

#[test]
fn an_interface_that_is_removed_ends_the_source_one_that_is_down_does_not() {
    let Some(pair) = Pair::new("gone") else {
        return;
    };
    let mut options = af_packet_options(Some("veth0"), &[PORT]);
    options.network_namespace = Some(pair.path(0));
    let Some(mut source) = or_skip(AfPacket::open(&options)) else {
        return;
    };
    let name = &pair.names[0];
    let wait = Duration::from_secs(10);
    ip(&format!("-n {name} link set veth0 down")).unwrap();
    assert_eq!(source.next_batch(wait, &mut |_| ()).unwrap(), 0);
    ip(&format!("-n {name} link set veth0 up")).unwrap();
    // As a recorder reads: woken as soon as the interface goes down, which comes before it is gone.
    let reader = thread::spawn(move || {
        let start = Instant::now();
        loop {
            match source.next_batch(Duration::from_millis(100), &mut |_| ()) {
                Ok(_) => assert!(
                    start.elapsed() < wait,
                    "the source goes on without an interface"
                ),
                Err(error) => return error,
            }
        }
    });
    ip(&format!("-n {name} link delete veth0")).unwrap();
    let error = reader.join().unwrap();
    println!("{error}: {:?}", std::error::Error::source(&error));
}
