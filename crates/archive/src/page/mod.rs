//! Index pages: the rows of some exchange blocks, column by column, uncompressed, read in place.
//!
//! ```text
//! header | columns, widest first | later columns | connections | addresses | blocks | anomalies
//!        | wide values | string ends | string bytes
//! ```
//!
//! Strings (method, scheme, authority, target) are kept once a page, and columns hold their numbers:
//! a filter looks at each distinct string once.

pub(crate) mod builder;
pub(crate) mod values;
pub(crate) mod view;

/// The version of a page's structure, as the chunk header tells it.
pub(crate) const VERSION: u16 = 1;

/// Where each column begins, in bytes for one row: column `c` of a page of `n` rows begins
/// `c * n` bytes behind the header.
pub(crate) mod column {
    pub(crate) const TIME: usize = 0;
    pub(crate) const DURATION: usize = 8;
    pub(crate) const STREAM: usize = 16;
    pub(crate) const REQUEST_LEN: usize = 20;
    pub(crate) const RESPONSE_LEN: usize = 24;
    pub(crate) const FIRST_BYTE: usize = 28;
    pub(crate) const CONNECTION: usize = 32;
    pub(crate) const BLOCK: usize = 34;
    pub(crate) const RECORD: usize = 36;
    pub(crate) const METHOD: usize = 38;
    pub(crate) const SCHEME: usize = 40;
    pub(crate) const AUTHORITY: usize = 42;
    pub(crate) const TARGET: usize = 44;
    pub(crate) const STATUS: usize = 46;
    pub(crate) const REQUEST_MISSING: usize = 48;
    pub(crate) const RESPONSE_MISSING: usize = 50;
    pub(crate) const ANOMALIES: usize = 52;
    pub(crate) const PROTOCOL: usize = 54;
    pub(crate) const FLAGS: usize = 55;
    /// All of them.
    pub(crate) const ALL: usize = 56;
}

pub(crate) mod row_flags {
    pub(crate) const TUNNEL: u8 = 1;
    pub(crate) const PUSHED: u8 = 2;
    pub(crate) const COMPLETE: u8 = 4;
}
