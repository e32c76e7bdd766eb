//! Reports as files: what a summary carries beside what people read, so that the summaries of
//! several processes add up to the summary of one.
//!
//! ```text
//! Report ──► State ──► JSON (`tapedeck.state` of a summary)
//!   ▲                    │
//!   └── Merger ◄── State ◄┘
//! ```
//!
//! A state holds every counter and every histogram as it was measured, and what the thresholds were
//! evaluated on. Adding such up is exact: only then are percentiles taken and thresholds judged.

mod error;
mod histogram;
mod merge;
mod state;

pub use error::{MergeError, SummaryError};

pub(crate) use histogram::{TrendState, decode, encode};
pub(crate) use merge::Evidence;
pub(crate) use state::{KeptState, SecondState, State};

#[cfg(test)]
mod tests;
