//! Reads HTTP/2 (RFC 9113) that others speak: both directions of a connection go in as bytes and
//! gaps, and the messages of its streams come out as events.
//!
//! It has its own HPACK (RFC 7541), because a decoder that takes part in a connection may give up at
//! the first loss, and one that listens may not. What was missed is said: heads and trailers may
//! have unknown fields, bodies have gaps of known length where the framing allows it, and every
//! message says why it is not whole. Nothing is ever guessed.
//!
//! It does not: pair requests with responses beyond their stream, keep bodies, check flow control,
//! reject what a strict peer would reject (that is an [`Anomaly`](tapedeck_model::Anomaly), and reading
//! goes on), or know of time other than that of the packets.

#![forbid(unsafe_code)]

pub use limits::Limits;
pub use probe::{PROBE_WINDOW, Probe, probe};
pub use reader::{Reader, Start};

mod limits;

mod reader;

mod frame;

mod scan;

mod search;

mod probe;

mod framing;

mod block;

pub mod hpack;

mod head;

mod settings;

mod messages;

mod stopped;
mod stream;

mod table;
