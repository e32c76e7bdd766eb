//! The one target that knows what must come out.
//!
//! The bytes of an input are a program: which conversations take place, what is said in them, how it
//! is cut into segments, and what the network and the capture do to those. `plan` is what was said,
//! `network` what was captured of it, and `verdict` compares what the engine made of it with both:
//!
//! - what says that it is whole is what was said, to the last byte, and answers what it answered;
//! - what was over before the first loss is whole;
//! - no message holds bytes of another one, and what is stored of a damaged body lies in its place;
//! - without a loss everything is whole, and nothing irregular is named;
//! - the ledger knows of every byte: delivered, or in a gap.

mod network;
mod plan;
mod tell;
mod verdict;

pub use tell::tell;
pub use verdict::conversation;
