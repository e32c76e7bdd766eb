//! The engine spread over threads.
//!
//! ```text
//!             decode       batches of        ┌► worker ─┐
//!   packets ─────────────► segments, one ────┼► worker ─┼──► merge ─► recorder
//!             (caller)     copy for all      └► worker ─┘   (caller)
//! ```
//!
//! Every worker gets every batch. It reads the segments of its own connections, and lets its time
//! pass with the others, so that its timers see what those of a single engine see. The merge
//! puts the outputs of a batch in the order of the packets that caused them.

mod batch;
mod driver;
mod merge;
mod worker;

#[cfg(test)]
mod tests;

pub use driver::Pipeline;
