//! JSON Lines: one object an exchange, with everything that the archive knows.
//!
//! `docs/jsonl.md` describes the keys. They begin with those of a [`Line`], which is what
//! `tapedeck ls --format json` prints.

mod export;
mod types;

pub use export::{ExportError, Exported, Limits, export};
pub use types::{Arrival, Body, Field, Gap, Grpc, Interim, Line, Message, Object, Owner};
