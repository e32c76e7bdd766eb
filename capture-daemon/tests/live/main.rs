//! Live capture on the real kernel: every byte that was sent comes out of the packets, and what
//! does not is counted.
//!
//! These tests need root. Without it they print why and pass, unless
//! `TAPEDECK_REQUIRE_PRIVILEGES=1` is set, as in CI: then they fail.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test speaks to people, and fails by panicking"
)]

mod bytes;
mod death;
mod disorder;
mod loss;
mod matrix;
mod namespaces;
mod pair;
mod privileges;
mod programs;
mod recording;
mod sending;
mod services;
mod streams;
mod support;
mod unaffected;
mod witness;
