//! HAR and the other formats that people already have.
//!
//! Each module converts between the archive and one format. Nothing here opens files: input comes
//! as bytes and output goes to a [`std::io::Write`]. What a format has no word for goes where the
//! format leaves room for it, or is counted and said; nothing is left out silently.
//!
//! [`content`] undoes content codings, for display and for formats that want plain bodies. What is on
//! top of HTTP is separated for display: messages of [`grpc`], which [`protobuf`] dumps, [`events`], and
//! frames of [`websocket`]; [`stream`] gives each its time.

#![forbid(unsafe_code)]

pub mod content;
pub mod events;
pub mod grpc;
pub mod har;
pub mod jsonl;
pub mod pcap;
pub mod protobuf;
pub mod stream;
mod text;
pub mod websocket;

pub use text::{header_text, rfc3339};
