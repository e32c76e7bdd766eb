//! Packets of sockets, from BPF programs on a cgroup (`cgroup_skb`).
//!
//! The programs are in `capture-ebpf`; this is their loader and reader. They see every byte that a
//! TCP socket sends or receives, whatever the system call (sendfile, splice, io_uring), with the
//! socket's cgroup, and cost a fraction of a packet socket, as acknowledgments stay in the kernel.
//!
//! Nothing is pinned: programs, maps and attachments are this process's file descriptors and go with
//! it, however it ends.
//!
//! One connection between two sockets below the cgroup is seen at both ends. On loopback only the
//! sender's copy is taken; between network namespaces of one machine both are, and the second
//! counts as a duplicate in reassembly. A cgroup other than the root may hold only one end, and so
//! may rules by cgroup leave one out; there both copies are taken on loopback too.

mod cgroup;
mod clock;
mod object;
mod source;
mod tap;

pub use cgroup::{cgroup_id, cgroup_root, is_root_of_all, own_cgroup};
pub use source::{Ebpf, EbpfOptions, Event, NEEDS};
pub use tap::check;
