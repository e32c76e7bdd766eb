//! HAR 1.2 (HTTP Archive), as browsers and their tools read and write it.
//!
//! The types are those of the specification; [`export`] fills them from an archive. Fields that
//! start with an underscore are custom, as the specification asks. [`Importer`] reads what browsers,
//! proxies and [`export`] write, one entry at a time; it takes nothing for granted that an exchange
//! can do without.

mod detect;
mod entry;
mod export;
mod import;
mod synthesis;
#[cfg(test)]
mod tests;
mod types;

pub use detect::{Input, detect};
pub use export::{ExportError, Exported, export};
pub use import::{ImportError, Imported, Importer, Item, Limits};
pub use types::{
    Cache, Content, Cookie, Creator, Entry, NameValue, PostData, Request, Response, Tapedeck,
    Timings,
};
