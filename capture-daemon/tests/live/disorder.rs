//! A network that loses, repeats and reorders packets, between two namespaces.
//!
//! There is none in this kernel (no netem), so a program of ours stands between two tun devices. What
//! comes out of the archive is what the applications said, wherever it was watched.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use tapedeckd::capture::Backend;

use crate::matrix::LENGTHS;
use crate::pair::Pair;
use crate::sending::Sending;
use crate::support::{has, recording_options, request, response, skip};
use crate::unaffected::REPAIRS;
use crate::witness::{BodyOf, Witnesses};

/// Of the packets, in percent, that are lost; half as many come twice, as many come late.
const LOST: &str = "3";

/// Joins the tun devices of the namespaces, until it is dropped.
struct Relay(Child);

impl Relay {
    /// `None`, and a line that says why, where this machine has no such devices.
    fn start(pair: &Pair, seed: &str) -> Option<Self> {
        if !Path::new("/dev/net/tun").exists() {
            skip("no /dev/net/tun");
            return None;
        }
        let program =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/record/peers/tun_relay.py");
        let mut child = pair
            .command(0, "python3")
            .arg(program)
            .args([&pair.names[1], LOST, seed])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let line = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        assert_eq!(line.map_while(Result::ok).next().as_deref(), Some("joined"));
        Some(Self(child))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn lost_repeated_and_late_packets_change_nothing() {
    let server: SocketAddr = "10.9.0.2:8104".parse().unwrap();
    if !has("python3") {
        return;
    }
    let Some(pair) = Pair::bare("disorder") else {
        return;
    };
    let Some(_relay) = Relay::start(&pair, "7") else {
        return;
    };
    let mut witnesses = Witnesses::none();
    let mut options = recording_options(Backend::Ebpf, server.port());
    witnesses.add("ebpf", &options);
    options.backend = Backend::AfPacket;
    options.interface = Some("tun0".to_owned());
    for (end, name) in [(0, "client's side"), (1, "server's side")] {
        options.network_namespace = Some(pair.path(end));
        witnesses.add(name, &options);
    }
    pair.converse(
        server,
        "matrix::child_that_serves",
        "matrix::child_that_posts",
    );
    let counted = [0, 1].map(|end| pair.counters(end));
    let sum = |names: &[&str]| -> u64 {
        let both = counted.iter();
        both.flat_map(|counters| names.iter().map(|name| counters[*name]))
            .sum()
    };
    let repeated = sum(&["RetransSegs"]);
    println!("{repeated} segments were repeated");
    assert!(repeated > 10, "the network did nothing");
    // So `unaffected` would see a capture that loses packets.
    assert!(sum(&REPAIRS) > 0, "losses that the counters do not show");
    let Some(telling) = witnesses.agree() else {
        return;
    };
    let told: Vec<_> = telling.into_values().flatten().collect();
    assert_eq!(told.len(), Sending::ALL.len() * LENGTHS.len());
    for told in told {
        let len = told.target.rsplit_once('/').unwrap().1.parse().unwrap();
        assert_eq!(told.request, Some(BodyOf::whole(&request(len))));
        assert_eq!(told.response, Some(BodyOf::whole(&response(len))));
    }
}
