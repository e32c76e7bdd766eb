//! The system calls that the standard library lacks, each behind a safe function or type.
//!
//! All `unsafe` code of the daemon is in here.

#![expect(
    unsafe_code,
    reason = "system calls and memory that is shared with the kernel"
)]

mod clock;
mod limits;
mod netns;
mod packet_ring;
mod packet_socket;

pub(crate) use clock::{Clock, now};
pub(crate) use limits::{is_cgroup2, lift_memory_lock_limit};
pub(crate) use netns::in_network_namespace;
pub(crate) use packet_ring::{Frame, PacketRing, RingSize};
pub(crate) use packet_socket::{Instruction, PacketSocket, interface_index, interface_names};
