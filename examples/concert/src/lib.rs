//! A small concert-booking service and the crowd that uses it: traffic for the demo and the
//! tests, of the kind that is hard to replay.
//!
//! It does: tokens that every later call needs, seats that run out, balances that are checked,
//! ids that the service makes up, times in bodies, two protocol versions on one port. It does
//! not: keep anything beyond its own life, or protect anybody's money.
//!
//! - [`booking`]: the rules, without HTTP and without a clock;
//! - [`api`]: the HTTP side of them;
//! - [`crowd`]: the users, and the report of what they saw;
//! - [`draw`]: the numbers that both sides draw from a seed.

#![forbid(unsafe_code)]

pub mod api;
pub mod booking;
pub mod crowd;
pub mod draw;
