//! Passive TCP reassembly: from segments to the two byte streams of each connection.
//!
//! Segments go into a [`Reassembler`] in the order of the capture; ordered bytes, explicit gaps
//! and ends come out through a [`Sink`] before the call returns. Bytes that arrive in order are
//! handed on as the slice of the packet that carried them: no copy, no allocation.
//!
//! It does not judge: windows, checksums, timestamps and options are not looked at, because a
//! passive observer knows less than the two stacks do and only ever loses by refusing what they
//! accepted. It knows no protocol above TCP, and no clock: time is the packets' time.
//!
//! # When a hole becomes a gap
//! A *hole* is a range that may still arrive. It is given up, and becomes a *gap*,
//! 1. when the receiver has acknowledged it, [`Limits::ack_grace`] ago: it was on the wire, and the
//!    capture lost it ([`GapCause::Lost`]). The grace is there because captures reorder: with
//!    several receive queues, ring buffers or capture threads an acknowledgment is seen some
//!    milliseconds before the data that it acknowledges. A file and a live source are
//!    treated alike, so that both give the same result; the grace costs a reader of a file nothing;
//! 2. when it has been waited for, for [`Limits::hole_timeout`], without an acknowledgment
//!    ([`GapCause::Limit`]);
//! 3. when what waits behind it exceeds a memory limit, oldest hole first ([`GapCause::Limit`]);
//! 4. when the connection or the capture ends: nothing can come any more ([`GapCause::Lost`]).
//!
//! It is never given up because the other direction goes on, and no half is closed by being idle:
//! a connection without any packet for [`Limits::idle_timeout`] is cut as a whole.
//!
//! # The same packet at several points
//! A connection is known by its addresses and its scope (VLAN, tunnel). Captures show the same packet
//! with and without tags, and tags that differ by direction: see `vantage` for how copies are told
//! from other conversations between equal addresses.
//!
//! # Order between the directions
//! An answer is never delivered before the bytes that its sender had received. A segment that
//! acknowledges bytes which the capture has not shown yet waits for them (or for the gap that
//! replaces them, by rule 1), so that a reader does not see a response whose request was
//! merely captured late.
//!
//! [`GapCause::Lost`]: tapedeck_model::GapCause::Lost
//! [`GapCause::Limit`]: tapedeck_model::GapCause::Limit

#![forbid(unsafe_code)]

mod age_queue;
mod backlog;
mod connection;
mod delivery;
mod flow_table;
mod half;
mod limits;
mod patience;
mod reassembler;
mod sink;
mod stats;
mod vantage;
mod wheel;

#[cfg(test)]
mod tests;

pub use limits::Limits;
pub use reassembler::Reassembler;
pub use sink::{Sink, Slot};
