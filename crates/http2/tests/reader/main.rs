//! Whole conversations through the reader: what it says, however they are cut, and whatever is lost.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests panic like the tests themselves"
)]

mod cases;
mod differential;
mod generator;
mod limits;
mod log;
mod loss;
mod wire;
