//! Packet builders, conversations, transcripts and fault injection, for tests only.
//!
//! It makes the bytes that a wire would carry, so that a test states what is said and not how it
//! is encoded: a [`Conversation`] becomes [`SegmentBuf`]s, those become frames ([`wire`]), and
//! those a capture file ([`capture`]). A [`Transcript`] is the same one layer up: what the protocol
//! readers are given. [`fault`] loses, repeats and reorders, from a seed.
//!
//! It reads nothing: there is no decoder here, so that no test checks a decoder against itself.
//! It depends on `model` alone, so that every crate can use it. As a tool of tests it panics on
//! wrong use.

#![forbid(unsafe_code)]

pub mod capture;
pub mod conversation;
pub mod fault;
pub mod transcript;
pub mod wire;

pub use capture::{PcapWriter, PcapngWriter, pcap_of};
pub use conversation::{Conversation, SegmentBuf};
pub use fault::{Faults, Rng};
pub use transcript::{Item, Step, Transcript};
