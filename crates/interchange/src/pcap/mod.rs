//! Captures: an archive as packets that Wireshark and every other tool of the wire can read.
//!
//! The packets never were; the conversations were. Each connection becomes a valid TCP connection:
//! handshake where one was recorded, segments that fit into a frame, acknowledgments, close, right
//! checksums. HTTP/1 heads are written byte for byte, chunks as they may have been; HTTP/2 is
//! encoded anew. What was recorded keeps its time: the first and last byte of each message, and every
//! arrival of a body.
//!
//! What is missing in the archive is missing in the file: bytes that were lost become segments that
//! the peer acknowledges but that are not there, those that the snapshot length cut become packets
//! that are cut, and a message that the capture's end broke off is broken off. So reading the file
//! back gives the same exchanges, with these differences:
//!
//! - what was given up for another reason than a loss (a limit, damage, bytes that were no HTTP) comes
//!   back as lost;
//! - a push names some stream of its connection as the one that it was promised on;
//! - where the archive does not know the length of a gap, the file has to have one;
//! - what was read within TLS is written as plain text, on the port that it had;
//! - what a CONNECT tunnel carried is there as the tunnel's bytes, and again only if it was read within TLS;
//! - VLANs and tunnels become plain VLANs, one for each network of the archive.
//!
//! Reading order: `file` (pcap, pcapng), `frame` (Ethernet, IP, TCP), `wire` (one TCP connection),
//! `http1` and `http2` (what is said), `talk` (one connection), `speaker` (one message), `export`.

mod export;
mod file;
mod frame;
mod http1;
mod http2;
mod message;
mod speaker;
mod talk;
mod wire;

pub use export::{ExportError, Exported, export};
pub use file::Format;
