//! An HTTP/2 client without I/O (RFC 9113): bytes of the target go in, bytes for it come out, and each request
//! is told what became of it.
//!
//! ```text
//! open(request) ──► frames ──► output ──► socket
//! socket ──► receive(now, bytes) ──► poll_answer(request)
//! ```
//!
//! It is a client of its own because load is made of requests that are known beforehand: their field blocks
//! ([`encode`]) are written once and copied from then on, and the frames of all streams of a connection leave in one
//! write. For that it does without a dynamic table of its own. That of the target is kept exactly, by the
//! decoder of `tapedeck-http2`.

mod answer;
mod bodies;
mod connection;
mod control;
pub(crate) mod encode;
mod error;
mod frame;
mod limits;
mod stream;

pub(crate) use connection::Connection;
pub(crate) use error::{Code, Http2Error, io_error};
pub(crate) use limits::Http2Limits;
pub(crate) use stream::{Answered, Outgoing, Slot};

#[cfg(test)]
mod tests;
