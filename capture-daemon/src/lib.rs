//! Live capture: the packets of this machine's TCP connections, from eBPF socket hooks or
//! AF_PACKET, recorded into archives; and tapedeckd, the daemon that does so on a node.
//!
//! What it does: it opens the best source that the kernel and the capabilities allow, says which
//! and why, hands every packet to [`tapedeck_exchange`], says whose each connection is, and accounts
//! for what the kernel dropped. What it does not: it knows no protocol and no file format, changes
//! no packet, and leaves nothing behind: sockets, programs and attachments die with the process.
//!
//! Reading order: [`sources`] (where packets come from), [`capture`] (what is done with them),
//! [`attribution`] (whose they are), [`daemon`] (the program around these), [`kubernetes`] (the same on
//! a node of a cluster); `sys` holds every system
//! call and all `unsafe` code.

pub mod attribution;
pub mod capture;
pub mod daemon;
pub mod kubernetes;
pub mod sources;
mod sys;
mod words;
