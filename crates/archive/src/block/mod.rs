//! Exchange blocks: records with their heads and small bodies.
//!
//! A block is columnar: one array for each kind of thing, and every record holds counts and
//! lengths, never offsets. Where a thing begins follows from the sum of what came before, which is
//! computed once when the block is loaded ([`view::Layout`]). Records of like traffic are then
//! nearly equal bytes, which is what zstd is good at: with offsets or a relative pointer for each
//! head and field the same traffic compresses a third worse.
//!
//! The exchanges of a block need nothing outside of it but the body blocks they name: the index can
//! be rebuilt from the blocks alone.

pub(crate) mod builder;
pub(crate) mod records;
pub(crate) mod view;
