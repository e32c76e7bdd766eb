//! The traffic archive: a compressed, crash-safe file of HTTP exchanges that is read in place.
//!
//! [`Writer`] puts exchanges into a file, [`Archive`] reads them: [`Row`]s of the index straight from
//! the mapped file, [`Record`]s with heads and bodies after one decompression of their block. It does
//! not capture, pair or mask anything, and knows no clock. `docs/format.md` describes the file;
//! someone could write a reader from it alone.
//!
//! Archives come from strangers: whatever their bytes are, reading them ends in data or in an error
//! that says where, within memory limits that are known beforehand.
//!
//! Reading order: `format` (constants and fixed structures), `block` (records), `page` (the index),
//! `writer`, `reader`; `verify` and `recover` walk through a file without its index.

mod block;
mod bodies;
mod details;
mod dictionary;
mod encryption;
mod error;
mod format;
mod inflate;
mod keyed;
mod output;
mod page;
mod provenance;
mod reader;
mod recover;
mod scan;
mod scratch;
mod set;
mod source;
mod unread;
mod verify;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub use block::view::{BodyView, FieldView, HeadView, InterimView, MessageView, Record};
pub use encryption::age::WrapError;
pub use encryption::keys::{Identities, KeyError, Recipients};
pub use error::{Damage, OpenError, ReadError, WriteError};
pub use output::partial_path;
pub use page::details::{TlsView, WorkloadView};
pub use page::row::Row;
pub use page::select::{NumberColumn, TextColumn};
pub use page::target::Target;
pub use page::view::Page;
pub use provenance::Provenance;
pub use reader::Zone;
pub use recover::{Protection, RecoverError, Recovered, is_being_written, recover, recover_with};
pub use scratch::{BodyBuffer, Scratch};
pub use set::archive::{Archive, LeftOut, SegmentInfo, archives_in};
pub use set::copy::{Copied, CopyError, Selection, copy};
pub use set::merge::{MergeError, MergeInput, Merged, merge};
pub use set::retention::{Cause, Retention};
pub use set::writer::{
    Destination, SegmentedWriter, SetEvent, SetOptions, recover_folder, recover_folder_with,
};
pub use verify::{DamageReport, VerifyReport, verify, verify_with};
pub use writer::{Limits, Summary, Writer, WriterOptions};
