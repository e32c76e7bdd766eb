//! Reads HTTP/1.0 and HTTP/1.1 from the side: both directions of one connection go in as bytes and
//! gaps, [`Event`](tapedeck_model::Event)s come out.
//!
//! It frames messages (RFC 9112 section 6), keeps heads as they stood on the wire, pairs responses
//! with requests, and finds its place again behind a loss. It never fails: what cannot be read
//! becomes an anomaly, a cause of [`Missing`](tapedeck_model::Missing) and a number of skipped
//! bytes. It does not decode content codings, gather bodies, or follow a tunnel; and it does not
//! decide which side is the client: `Direction::ToServer` carries requests, and [`probe()`] tells the
//! caller beforehand when that is the wrong way round.
//!
//! # What is relied on
//! The two directions are interleaved as they happened: the bytes of a request, or the gap that
//! stands for them, come before the bytes of its response; and a gap comes before the data of the
//! other direction that acknowledges it. Reassembly by acknowledgment gives exactly that. A response
//! that starts while no request is outstanding is therefore reported as unasked at once.
//!
//! # Reading order
//! [`probe()`], `head` (the tokeniser), `framing` (where a body ends), `chunked`, `pairing` (which
//! request a response answers, and when that cannot be known), `reader` (the machine of a direction).

#![forbid(unsafe_code)]

mod chunked;
mod framing;
mod head;
mod pairing;
mod probe;
mod reader;

pub use probe::{Probe, probe};
pub use reader::Reader;

/// How much a [`Reader`] holds at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of one head or trailer section. Servers stop at 8 to 64 KiB; cookies and signed
    /// headers of real clients stay below 256 KiB.
    pub head: usize,
    /// Lines of one head or trailer section: each costs a [`Field`](tapedeck_model::Field) of
    /// several times its bytes. Servers stop at 100 to 1,000.
    pub lines: usize,
    /// Requests that wait for a response at once. Clients that pipeline send a few dozen; when a
    /// capture holds only one direction, no response ever comes.
    pub outstanding: usize,
    /// Bytes sent behind a request for an upgrade or a tunnel before the server decided. Clients
    /// wait, but for a first flight of a few packets.
    pub undecided: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 256 << 10,
            lines: 4096,
            outstanding: 1000,
            undecided: 64 << 10,
        }
    }
}
