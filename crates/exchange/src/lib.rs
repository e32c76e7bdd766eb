//! From packets to exchanges: protocol detection and request/response pairing.
//!
//! [`Engine`] is the whole wire side of Tapedeck in one sans-IO machine: packets go in, in the
//! order of their capture, and exchanges come out through a [`Recorder`] when both of their sides
//! have ended. It owns the composition of `packet`, `reassembly`, `tls`, `http1` and `http2`, and nothing
//! else does: a file and a live capture run through the same code, and give the same result.
//!
//! It does not read files or sockets, knows no clock (time is the packet's), and neither masks nor
//! stores anything.
//!
//! # Contract
//!
//! Call [`Engine::packet`] for each packet, [`Engine::handle_timeout`] when a live source is quiet,
//! and [`Engine::finish`] once at the end. Body parts of an exchange reach the recorder before the
//! exchange does. [`Pipeline`] does the same on several threads. Memory is bounded by [`Limits`], whatever the input.

#![forbid(unsafe_code)]

mod builder;
mod connection;
mod conversation;
mod detecting;
mod engine;
mod intake;
mod limits;
mod output;
mod pipeline;
mod preamble;
mod sealed;
mod tunnel;

pub use engine::{Engine, Recorder};
pub use limits::Limits;
pub use pipeline::Pipeline;
pub use tapedeck_tls::Added;
