//! Several files that are one archive: a folder of segments that a long recording rolls through, or
//! the files of several nodes.
//!
//! Each segment is a whole archive by itself: it is sealed, verified, copied and deleted alone, and
//! nothing in one points into another.

pub(crate) mod archive;
pub(crate) mod copy;
pub(crate) mod empty;
pub(crate) mod merge;
pub(crate) mod name;
pub(crate) mod provenance;
pub(crate) mod resume;
pub(crate) mod retention;
pub(crate) mod writer;

#[cfg(test)]
mod tests;
