//! Capture files: pcap and pcapng, plain or compressed, as a stream.
//!
//! Memory is one buffer that grows to the largest packet; a file of any length is read with it, and
//! a pipe as well as a file. Written here rather than taken from a crate, because the errors matter
//! as much as the packets: each one says at which byte, and everything before it was delivered.

mod error;
mod pcap;
mod pcapng;
mod reader;
mod snoop;
mod source;
mod window;

#[cfg(test)]
mod tests;

pub use error::CaptureError;
pub use reader::CaptureReader;
