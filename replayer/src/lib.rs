//! Plays recorded traffic back: as load against a target ([`player`]), or as the server that it
//! was recorded from ([`mock`]).
//!
//! This crate reads archives, opens sockets and measures. It records nothing, parses no command
//! line and prints nothing: `tapedeck` and `tapedeck-replayer` do that with what they get back.

#![forbid(unsafe_code)]

pub mod mock;
pub mod player;
