//! HAR 1.2 (HTTP Archive), as browsers and their tools read and write it.
//!
//! The types are those of the specification; [`export`] fills them from an archive. Fields that
//! start with an underscore are custom, as the specification asks.

mod export;
mod types;

pub use export::{ExportError, Exported, export};
pub use types::{
    Cache, Content, Cookie, Creator, Entry, NameValue, PostData, Request, Response, Tapedeck,
    Timings,
};
