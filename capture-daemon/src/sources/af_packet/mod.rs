//! Packets of an interface, or of all of them, from a packet socket (packet(7)).
//!
//! The source for machines without BPF or cgroup2. It copies each packet into a ring that is
//! shared with the kernel, and reads it there. It sees interfaces, not sockets: no cgroup, and a
//! packet that passes several interfaces is there once for each when all are captured.
//!
//! - Loopback shows every packet when it is sent and when it is received; the first is left out.
//! - Super-packets (segmentation offload) are longer than any frame on a wire; they fit.
//! - A VLAN tag that the device took out is put back when one interface is captured. Of all
//!   interfaces, the same packet comes tagged and untagged, so there the tags are left out.

mod filter;
mod source;

pub use filter::MAX_PORTS;
pub use source::{AfPacket, AfPacketOptions, NEEDS, NEEDS_ELSEWHERE, check};

#[cfg(feature = "libpcap")]
pub(super) use filter::nothing;
