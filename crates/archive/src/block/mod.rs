//! Exchange blocks: records with their heads and small bodies.
//!
//! A block is columns of distances and lengths, never of offsets ([`records`]), each in as few bytes
//! as it needs ([`packed`]). Where a thing begins follows from the sum of what came before, which is
//! computed once when the block is loaded ([`layout`]). Records of like traffic are then columns that
//! do not vary, which take no bytes at all, and short ones that do.
//!
//! The exchanges of a block need nothing outside of it but the body blocks they name: the index can
//! be rebuilt from the blocks alone.

pub(crate) mod builder;
pub(crate) mod layout;
pub(crate) mod packed;
pub(crate) mod records;
pub(crate) mod v1;
pub(crate) mod view;
