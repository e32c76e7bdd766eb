//! Who can read an archive, and what only they can read.

pub(crate) mod age;
pub(crate) mod cipher;
pub(crate) mod keys;
