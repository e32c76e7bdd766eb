//! HPACK (RFC 7541) for a reader that may have missed some of it.
//!
//! A decoder at the end of a connection sees every field block, or the connection dies. This one
//! listens: it may begin in the middle, and it may miss blocks. It must then say *unknown* where it
//! does not know, and it must never say anything wrong. What makes that possible:
//!
//! - The dynamic table is addressed from its newest entry, so an insertion shifts every older entry
//!   by one, those that we hold and those that we do not know alike. While no block is missed,
//!   the entries that we saw inserted keep certain indices, whatever lies behind them. An index
//!   beyond them is an entry that we never saw: unknown, not an error.
//! - A missed block may have inserted any number of entries. Nothing that we hold has a certain index
//!   afterwards: the table is flushed, and everything in it is unknown.
//! - Sizes: an entry whose name came from an unknown entry has an unknown length, and the maximum
//!   size of the table is unknown until an update tells it. So we may hold an entry that the peer has
//!   evicted. That is harmless: the encoder has evicted it as well and does not refer to it, and
//!   entries leave in order of age, so the indices of the newer ones do not depend on it.
//!   (An entry larger than the table empties it and is not inserted. If we take that for an
//!   insertion, it and all that is older is gone at the peer, and the newer ones again do not care.)
//! - What we account is a lower bound of the real size. When even that exceeds a known maximum, the
//!   peer has evicted at least what we evict, and everything older: nothing unknown is left, the
//!   table is wholly known again. A size update to zero does the same at once.
//! - Our own limit on memory is no maximum of the peer's. What it evicts becomes an unknown entry.
//!
//! Whoever takes part in a connection can use it, too: where nothing is missed, nothing is unknown.

pub use decoder::{Decoder, Outcome};
pub use section::Section;
pub use static_table::entry as static_entry;
pub(crate) use table::INITIAL_SIZE as INITIAL_TABLE_SIZE;

mod integer;

mod huffman;

mod static_table;

mod table;

mod section;

mod decoder;

#[cfg(test)]
mod tests;
