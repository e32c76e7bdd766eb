//! `tapedeck cluster` at run time, on the stand-in API server.

mod access;
#[path = "../common/mod.rs"]
mod common;
mod pull;
mod record;
mod snapshots;
mod status;
