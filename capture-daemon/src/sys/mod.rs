//! The system calls that the standard library lacks, each behind a safe function or type.
//!
//! All `unsafe` code of the daemon is in here.

#![expect(
    unsafe_code,
    reason = "system calls and memory that is shared with the kernel"
)]

mod addresses;
mod clock;
mod event_ring;
mod folder_watch;
mod limits;
mod netns;
mod packet_ring;
mod packet_socket;
mod priority;
mod privileges;
mod ring_gauge;
mod signals;
mod socket_diag;
#[cfg(feature = "libpcap")]
mod wait;

pub(crate) use addresses::own_addresses;
pub(crate) use clock::{Clock, now, processor_time};
pub(crate) use event_ring::EventRing;
pub(crate) use folder_watch::{FolderEvent, FolderWatch};
pub(crate) use limits::{free_bytes, is_cgroup2, lift_memory_lock_limit};
pub(crate) use netns::{in_network_namespace, own_netns_cookie};
pub(crate) use packet_ring::{Frame, PacketRing, RingSize};
pub(crate) use packet_socket::{Instruction, PacketSocket, interface_index, interface_names};
pub(crate) use priority::step_back;
pub(crate) use privileges::{forbid_new_privileges, may_write_to};
pub(crate) use ring_gauge::RingGauge;
pub use signals::on_stop;
pub(crate) use signals::{Signal, Signals};
pub(crate) use socket_diag::{TcpSocket, tcp_sockets};
#[cfg(feature = "libpcap")]
pub(crate) use wait::wait_readable;
