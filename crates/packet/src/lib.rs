//! Capture files and packet headers as checked views.
//!
//! [`CaptureReader`] turns a pcap or pcapng stream into [`RawPacket`]s with constant memory;
//! [`decode()`] finds the TCP segment in one, through every link layer, tag and tunnel it knows;
//! [`Defragmenter`] does the same and puts IP fragments together. All of them borrow: a payload
//! is not copied on its way from the file's buffer to the reassembly.
//!
//! It does not check checksums (a capture on the sending host sees them before the network card
//! fills them in), does not follow connections, opens no file or device, and never fails on a
//! packet: what cannot be decoded is named, and counted by the caller.

#![forbid(unsafe_code)]

pub mod capture;
pub mod decode;
pub mod link;

pub use capture::{CaptureError, CaptureReader};
pub use decode::{DecodeError, Decoded, DefragLimits, Defragmenter, Layer, decode};
pub use link::{LinkType, RawPacket};
