//! Where packets come from.
//!
//! Every source is a [`Source`]: streams of packets as they were on the wire, and counters of what
//! the kernel dropped before that. Nothing behind this line knows which source it was.

pub mod af_packet;
mod before;
pub mod ebpf;
mod error;
pub mod libpcap;
mod source;

pub use before::{Before, Seen, Where};
pub use error::{Needed, SourceError, is_effective};
pub use source::{
    Action, Captured, Drops, Match, Owners, PacketSource, Policy, Queue, Rule, Socket, Source, Tap,
};
