//! Packets of an interface, or of all of them, by way of the system's libpcap.
//!
//! For what only it has: filters in its language (pcap-filter(7)), and devices that are no packet
//! sockets. [`af_packet`](super::af_packet) sees the same packets at less cost, and cuts none: libpcap
//! takes at most 256 KiB of a packet.
//!
//! Behind the feature `libpcap`; a build without it says so when it is asked for.

#[cfg(feature = "libpcap")]
mod source;

use std::path::PathBuf;

use crate::sources::error::Needed;
use crate::sources::{Source, SourceError, af_packet};

/// What is captured.
#[derive(Clone, Debug)]
pub struct LibpcapOptions {
    /// The interface; `None`: all of them.
    pub interface: Option<String>,
    /// The network namespace whose interfaces are meant; `None`: that of this process.
    pub network_namespace: Option<PathBuf>,
    /// Which packets, in the language of libpcap; `None`: those of TCP.
    pub filter: Option<String>,
    /// The TCP ports to capture, as source or as destination; empty: all.
    pub ports: Vec<u16>,
    /// Bytes of memory for packets that wait to be read.
    pub ring_bytes: usize,
}

/// Whether this build has it.
pub const IS_BUILT: bool = cfg!(feature = "libpcap");

/// What it needs to be allowed: libpcap opens a packet socket.
pub const NEEDS: &[Needed] = af_packet::NEEDS;

/// Opens it; it sees packets from now on.
///
/// # Errors
///
/// When this build lacks libpcap, when CAP_NET_RAW is missing (CAP_SYS_ADMIN for another network
/// namespace), when there is no such interface, or when libpcap does not understand the filter.
pub fn open(options: &LibpcapOptions) -> Result<Source, SourceError> {
    #[cfg(feature = "libpcap")]
    return source::open(options);
    #[cfg(not(feature = "libpcap"))]
    {
        let _ = options;
        Err(SourceError::NotBuilt {
            what: "libpcap",
            feature: "libpcap",
        })
    }
}

/// Whether libpcap understands the filter, on any machine.
///
/// # Errors
///
/// When it does not, or when this build lacks libpcap.
pub fn check(options: &LibpcapOptions) -> Result<(), SourceError> {
    #[cfg(feature = "libpcap")]
    return source::check(options);
    #[cfg(not(feature = "libpcap"))]
    open(options).map(drop)
}

/// The filter for these packets: those of the ports among those that the text chooses.
#[cfg(any(feature = "libpcap", test))]
fn expression(filter: Option<&str>, ports: &[u16]) -> String {
    let ports: Vec<_> = ports
        .iter()
        .map(|port| format!("tcp port {port}"))
        .collect();
    match (filter, ports.is_empty()) {
        (None, true) => "tcp".to_owned(),
        (None, false) => ports.join(" or "),
        (Some(filter), true) => filter.to_owned(),
        (Some(filter), false) => format!("({filter}) and ({})", ports.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_narrow_a_filter() {
        assert_eq!(expression(None, &[]), "tcp");
        assert_eq!(expression(None, &[80, 81]), "tcp port 80 or tcp port 81");
        assert_eq!(expression(Some("host a or b"), &[]), "host a or b");
        assert_eq!(
            expression(Some("host a or b"), &[80]),
            "(host a or b) and (tcp port 80)"
        );
    }
}
