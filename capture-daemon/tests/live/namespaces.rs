//! Between network namespaces: a veth pair, as between a node and its pods.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use tapedeckd::sources::af_packet::AfPacket;
use tapedeckd::sources::ebpf::Ebpf;

use crate::support::{
    Conversation, Recording, Seen, Sending, af_packet_options, answer, ask, assert_whole,
    ebpf_options, or_skip, request, response, skip,
};

const LENGTHS: [usize; 3] = [1, 70_000, 2 << 20];
const PORT: u16 = 8099;

/// Two namespaces with a veth pair between them, until it is dropped.
struct Pair {
    names: [String; 2],
}

impl Pair {
    /// `None`, and a line that says why, where this machine cannot.
    fn new(test: &str) -> Option<Self> {
        let process = std::process::id();
        let pair = Self {
            names: ["a", "b"].map(|end| format!("tapedeck-{test}-{process}-{end}")),
        };
        let [a, b] = &pair.names;
        let link = format!("link add veth0 netns {a} type veth peer name veth0 netns {b}");
        for command in [format!("netns add {a}"), format!("netns add {b}"), link] {
            if let Err(error) = ip(&command) {
                skip(&error);
                return None;
            }
        }
        for (name, host) in [(a, 1), (b, 2)] {
            ip(&format!(
                "-n {name} address add 10.211.0.{host}/24 dev veth0"
            ))
            .unwrap();
            ip(&format!(
                "-n {name} address add fd00:211::{host}/64 dev veth0 nodad"
            ))
            .unwrap();
            ip(&format!("-n {name} link set veth0 up")).unwrap();
        }
        Some(pair)
    }

    /// Runs a function of this file in the namespace of that number.
    fn run(&self, end: usize, function: &str, address: SocketAddr) -> Child {
        Command::new("ip")
            .args(["netns", "exec", &self.names[end]])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &format!("namespaces::{function}"), "--nocapture"])
            .env("TAPEDECK_TEST_ADDRESS", address.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Holds the conversations, with the server in the second namespace.
    fn converse(&self, server: SocketAddr) {
        let mut serving = self.run(1, "child_that_answers", server);
        // Kept until the end, as the child's test runner fails without somebody to tell.
        let mut lines = BufReader::new(serving.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("listening")));
        let asking = self
            .run(0, "child_that_asks", server)
            .wait_with_output()
            .unwrap();
        assert!(asking.status.success());
        assert!(serving.wait().unwrap().success());
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            // The veth pair goes with its namespaces. One that was never made needs no report.
            drop(ip(&format!("netns delete {name}")));
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {arguments}: {}", stderr.trim()))
}

fn address_for_child() -> Option<SocketAddr> {
    Some(
        std::env::var("TAPEDECK_TEST_ADDRESS")
            .ok()?
            .parse()
            .unwrap(),
    )
}

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
    options.network_namespace = Some(format!("/run/netns/{}", pair.names[0]).into());
    for ip in ["10.211.0.2", "fd00:211::2"] {
        let server = SocketAddr::new(ip.parse().unwrap(), PORT);
        let interface = or_skip(AfPacket::open(&options)).map(Recording::start);
        let sockets = or_skip(Ebpf::open(&ebpf_options(&[PORT]))).map(Recording::start);
        pair.converse(server);
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

/// The kernel takes the tag out of the packet; it is put back.
#[test]
fn a_vlan_tag_is_in_the_packet() {
    let Some(pair) = Pair::new("vlan") else {
        return;
    };
    for (name, host) in pair.names.iter().zip([1, 2]) {
        let link = format!("-n {name} link add link veth0 name veth0.7 type vlan id 7");
        if let Err(error) = ip(&link) {
            println!("skipped: no VLAN devices on this kernel: {error}");
            return;
        }
        ip(&format!(
            "-n {name} address add 10.212.0.{host}/24 dev veth0.7"
        ))
        .unwrap();
        ip(&format!("-n {name} link set veth0.7 up")).unwrap();
    }
    let server = SocketAddr::new("10.212.0.2".parse().unwrap(), PORT);
    let mut options = af_packet_options(Some("veth0"), &[PORT]);
    options.network_namespace = Some(format!("/run/netns/{}", pair.names[0]).into());
    let tagged = or_skip(AfPacket::open(&options)).map(Recording::start);
    options.interface = None;
    let without = or_skip(AfPacket::open(&options)).map(Recording::start);
    pair.converse(server);
    if let Some(recording) = tagged {
        let seen = recording.stop();
        assert_all_seen(&seen, server, "veth0");
        assert_ne!(seen.scope, 0, "the tag is gone");
    }
    if let Some(recording) = without {
        let seen = recording.stop();
        assert_all_seen(&seen, server, "all interfaces");
        assert_eq!(
            seen.scope, 0,
            "the same packet with and without tag would be two"
        );
    }
}
