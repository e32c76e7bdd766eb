//! What is missing is named.

use std::thread;

use caps::{CapSet, Capability};
use tapedeckd::sources::af_packet::{self, AfPacket};
use tapedeckd::sources::ebpf::{self, Ebpf};
use tapedeckd::sources::{Needed, SourceError, libpcap};

use crate::support::{Recording, Sending, Server, af_packet_options, ebpf_options, or_skip, skip};

/// Runs `work` in a thread that has only these capabilities in effect.
fn with_only<T: Send + 'static>(
    capabilities: impl AsRef<[Capability]> + Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    thread::spawn(move || {
        let had = caps::read(None, CapSet::Effective).unwrap();
        for capability in had {
            if !capabilities.as_ref().contains(&capability) {
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
    let error = with_only([], || {
        AfPacket::open(&af_packet_options(Some("lo"), &[])).unwrap_err()
    });
    let SourceError::MissingCapabilities(missing) = error else {
        panic!("{error}");
    };
    assert_eq!(missing, [Capability::CAP_NET_RAW]);

    let error = with_only([Capability::CAP_BPF], || {
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

/// The kernel refuses each backend when any one of its capabilities is missing, and it is named.
#[test]
fn each_of_the_named_capabilities_is_needed() {
    if !is_root() {
        return;
    }
    for missing in ebpf::NEEDS {
        let others: Vec<_> = capabilities(ebpf::NEEDS)
            .filter(|capability| *capability != missing.capability)
            .collect();
        let error = with_only(others, || Ebpf::open(&ebpf_options(&[])).err().unwrap());
        let SourceError::MissingCapabilities(named) = error else {
            panic!("without {}: {error}", missing.capability);
        };
        assert_eq!(named, [missing.capability]);
    }
    for missing in af_packet::NEEDS_ELSEWHERE {
        let others: Vec<_> = capabilities(af_packet::NEEDS_ELSEWHERE)
            .filter(|capability| *capability != missing.capability)
            .collect();
        let mut options = af_packet_options(Some("lo"), &[]);
        options.network_namespace = Some("/proc/self/ns/net".into());
        let error = with_only(others, move || AfPacket::open(&options).unwrap_err());
        let SourceError::MissingCapabilities(named) = error else {
            panic!("without {}: {error}", missing.capability);
        };
        assert_eq!(named, [missing.capability]);
    }
}

fn capabilities(needed: &[Needed]) -> impl Iterator<Item = Capability> {
    needed.iter().map(|needed| needed.capability)
}

/// What docs/privileges.md says is what the sources say.
#[test]
fn the_document_names_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/privileges.md");
    let document = std::fs::read_to_string(path).unwrap();
    for (backend, needed) in [
        ("ebpf", ebpf::NEEDS),
        ("af-packet", af_packet::NEEDS),
        ("libpcap", libpcap::NEEDS),
    ] {
        let start = document.find(&format!("| `{backend}` |")).unwrap();
        let rows = document[start..].lines();
        let rows: String = rows
            .take_while(|row| row.starts_with(&format!("| `{backend}`")) || row.starts_with("| |"))
            .collect();
        for capability in capabilities(needed) {
            assert!(
                rows.contains(&format!("`{capability}`")),
                "{capability}: {rows}"
            );
        }
    }
}

/// Exactly what docs/privileges.md says is enough.
#[test]
fn the_named_capabilities_are_enough() {
    if !is_root() {
        return;
    }
    let server = Server::bind(std::net::Ipv4Addr::LOCALHOST.into());
    let ports = [server.address.port()];
    let af_packet = with_only([Capability::CAP_NET_RAW], move || {
        AfPacket::open(&af_packet_options(Some("lo"), &ports))
    });
    let ebpf = with_only(
        [
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
