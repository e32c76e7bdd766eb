//! Why a capture could not be read, or not any further.

use std::io;

use crate::link::LinkType;

/// Why a capture could not be read, or not any further. Offsets count bytes of the capture itself,
/// behind decompression.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// There is not one byte.
    #[error(
        "the capture is empty: no bytes at all (did the capturing program stop before it wrote any?)"
    )]
    Empty,
    /// The first bytes are not those of any capture format.
    #[error(
        "not a capture file: it begins with {}; expected pcap, pcapng or snoop, plain or compressed with gzip or zstd",
        hex(start)
    )]
    NotACapture {
        /// The first bytes, at most four.
        start: Vec<u8>,
    },
    /// A version of the format that is not known.
    #[error(
        "{format} version {major}.{minor} is not supported; convert the file with a current Wireshark or tcpdump"
    )]
    UnsupportedVersion {
        /// The format.
        format: &'static str,
        /// Its major version.
        major: u16,
        /// Its minor version.
        minor: u16,
    },
    /// The file ends in the middle of something.
    #[error(
        "the capture is cut off: {what} at byte {offset} needs {needed} bytes, and only {available} are there; \
         everything before it was read"
    )]
    Cut {
        /// What was cut.
        what: &'static str,
        /// Where that begins.
        offset: u64,
        /// How long it says it is.
        needed: u64,
        /// How much of it there is.
        available: u64,
    },
    /// The compressed data around the capture ends in the middle, between two packets.
    #[error(
        "the compressed capture is cut off behind {offset} bytes of its content; everything before that was read"
    )]
    CutCompressed {
        /// How much of the capture could be decompressed.
        offset: u64,
    },
    /// A length that cannot be right.
    #[error(
        "the capture is damaged: {what} at byte {offset} claims {len} bytes (between {min} and {max} are possible); \
         everything before it was read"
    )]
    BadLength {
        /// Whose length.
        what: &'static str,
        /// Where that begins.
        offset: u64,
        /// The length.
        len: u64,
        /// The least that it can be.
        min: u64,
        /// The most that is read.
        max: u64,
    },
    /// A pcapng block whose parts contradict each other.
    #[error("the capture is damaged: {what} at byte {offset}; everything before it was read")]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// Where the block begins.
        offset: u64,
    },
    /// A packet of an interface that was never described.
    #[error(
        "the capture is damaged: the packet at byte {offset} names interface {interface}, of {known} described; \
         everything before it was read"
    )]
    UnknownInterface {
        /// Where the packet's block begins.
        offset: u64,
        /// The interface's number.
        interface: u32,
        /// How many interfaces there are.
        known: usize,
    },
    /// Every packet of the file has a link type that is not supported.
    #[error(
        "link type {} is not supported (known: {}); capture on an Ethernet-like interface or on 'any'",
        .0.0,
        known_links()
    )]
    UnknownLink(LinkType),
    /// The bytes could not be read or decompressed.
    #[error("cannot read the capture at byte {offset}; everything before it was read")]
    Read {
        /// How many bytes of the capture had been read.
        offset: u64,
        /// Why.
        source: io::Error,
    },
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(" ")
}

fn known_links() -> String {
    let names: Vec<&str> = LinkType::KNOWN.iter().map(|(_, name)| *name).collect();
    names.join(", ")
}
