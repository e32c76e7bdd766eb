//! What is missing is named.

use std::thread;

use caps::{CapSet, Capability};
use tapedeckd::sources::SourceError;
use tapedeckd::sources::af_packet::AfPacket;
use tapedeckd::sources::ebpf::Ebpf;

use crate::support::{Recording, Sending, Server, af_packet_options, ebpf_options, or_skip, skip};

/// Runs `work` in a thread that has only these capabilities in effect.
fn with_only<T: Send + 'static>(
    capabilities: &'static [Capability],
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    thread::spawn(move || {
        let had = caps::read(None, CapSet::Effective).unwrap();
        for capability in had {
            if !capabilities.contains(&capability) {
                caps::drop(None, CapSet::Effective, capability).unwrap();
            }
        }
        work()
    })
    .join()
    .unwrap()
}

fn is_root() -> bool {
    let has_all = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap();
    if !has_all {
        skip("CAP_SYS_ADMIN missing: nothing to take away");
    }
    has_all
}

#[test]
fn missing_capabilities_are_named() {
    if !is_root() {
        return;
    }
    let error = with_only(&[], || {
        AfPacket::open(&af_packet_options(Some("lo"), &[])).unwrap_err()
    });
    let SourceError::MissingCapabilities(missing) = error else {
        panic!("{error}");
    };
    assert_eq!(missing, [Capability::CAP_NET_RAW]);

    let error = with_only(&[Capability::CAP_BPF], || {
        Ebpf::open(&ebpf_options(&[])).err().unwrap()
    });
    let SourceError::MissingCapabilities(missing) = error else {
        panic!("{error}");
    };
    assert_eq!(
        missing,
        [Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON]
    );
}

/// Exactly what docs/privileges.md says is enough.
#[test]
fn the_named_capabilities_are_enough() {
    if !is_root() {
        return;
    }
    let server = Server::bind(std::net::Ipv4Addr::LOCALHOST.into());
    let ports = [server.address.port()];
    let af_packet = with_only(&[Capability::CAP_NET_RAW], move || {
        AfPacket::open(&af_packet_options(Some("lo"), &ports))
    });
    let ebpf = with_only(
        &[
            Capability::CAP_BPF,
            Capability::CAP_NET_ADMIN,
            Capability::CAP_PERFMON,
        ],
        move || Ebpf::open(&ebpf_options(&ports)),
    );
    let af_packet = or_skip(af_packet).map(Recording::start);
    let ebpf = or_skip(ebpf).map(Recording::start);
    let conversation = server.converse(100, Sending::Write);
    for (name, recording) in [("af-packet", af_packet), ("ebpf", ebpf)] {
        if let Some(recording) = recording {
            crate::support::assert_whole(&recording.stop(), &conversation, name);
        }
    }
}
