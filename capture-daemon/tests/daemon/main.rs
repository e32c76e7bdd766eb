//! The daemon as its users run it: the real program, real traffic, real signals.
//!
//! These tests need root. Without it they print why and pass, unless
//! `TAPEDECK_REQUIRE_PRIVILEGES=1` is set, as in CI: then they fail.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test speaks to people, and fails by panicking"
)]

mod archives;
mod bad_input;
mod cluster;
mod cluster_edges;
mod containers;
mod life;
mod pods;
mod support;
