//! Index pages: the rows of some exchange blocks, column by column, uncompressed, read in place.
//!
//! ```text
//! header | descriptors of the columns | columns of the rows | columns of the page's tables
//! ```
//!
//! A column says of each row, or of each element of a table, one integer: a value, or the number of an
//! element of a table ([`column`]). Tables hold what rows share, once a page: strings, connections,
//! targets. A filter looks at each distinct one once.

pub(crate) mod builder;
mod check;
pub(crate) mod column;
pub(crate) mod details;
mod interner;
pub(crate) mod row;
pub(crate) mod select;
pub(crate) mod target;
pub(crate) mod v1;
pub(crate) mod values;
pub(crate) mod view;

/// The columns, by the place of their descriptors. Those up to [`id::ROWS`] have a value for each row.
pub(crate) mod id {
    pub(crate) const TIME: usize = 0;
    pub(crate) const DURATION: usize = 1;
    /// From the response's first byte to its last, so that nothing is there to be stored of a short
    /// one.
    pub(crate) const TRANSFER: usize = 2;
    pub(crate) const STREAM: usize = 3;
    pub(crate) const REQUEST_LEN: usize = 4;
    pub(crate) const RESPONSE_LEN: usize = 5;
    pub(crate) const CONNECTION: usize = 6;
    pub(crate) const METHOD: usize = 7;
    pub(crate) const SCHEME: usize = 8;
    pub(crate) const AUTHORITY: usize = 9;
    pub(crate) const TARGET: usize = 10;
    pub(crate) const STATUS: usize = 11;
    pub(crate) const REQUEST_MISSING: usize = 12;
    pub(crate) const RESPONSE_MISSING: usize = 13;
    pub(crate) const ANOMALIES: usize = 14;
    pub(crate) const PROTOCOL: usize = 15;
    pub(crate) const FLAGS: usize = 16;
    pub(crate) const SESSION: usize = 17;
    pub(crate) const REQUEST_BODY: usize = 18;
    pub(crate) const RESPONSE_BODY: usize = 19;
    /// How many columns of rows there are.
    pub(crate) const ROWS: usize = 20;

    pub(crate) const BLOCK_OFFSET: usize = 20;
    pub(crate) const BLOCK_ROW: usize = 21;
    pub(crate) const CONNECTION_ID: usize = 22;
    pub(crate) const CLIENT: usize = 23;
    pub(crate) const CLIENT_PORT: usize = 24;
    pub(crate) const SERVER: usize = 25;
    pub(crate) const SERVER_PORT: usize = 26;
    pub(crate) const TLS: usize = 27;
    pub(crate) const CLIENT_WORKLOAD: usize = 28;
    pub(crate) const SERVER_WORKLOAD: usize = 29;
    pub(crate) const ADDRESS_HIGH: usize = 30;
    pub(crate) const ADDRESS_LOW: usize = 31;
    pub(crate) const ADDRESS_V6: usize = 32;
    pub(crate) const ANOMALIES_LOW: usize = 33;
    pub(crate) const ANOMALIES_HIGH: usize = 34;
    pub(crate) const SESSION_KEY: usize = 35;
    pub(crate) const TLS_VERSION: usize = 36;
    pub(crate) const TLS_SUITE: usize = 37;
    pub(crate) const TLS_SERVER_NAME: usize = 38;
    pub(crate) const TLS_ALPN: usize = 39;
    pub(crate) const WORKLOAD_NAMESPACE: usize = 40;
    pub(crate) const WORKLOAD_POD: usize = 41;
    pub(crate) const WORKLOAD_CONTAINER: usize = 42;
    pub(crate) const WORKLOAD_OWNER: usize = 43;
    pub(crate) const WORKLOAD_PROCESS: usize = 44;
    pub(crate) const WORKLOAD_CGROUP: usize = 45;
    pub(crate) const WORKLOAD_PID: usize = 46;
    pub(crate) const BODY_BLOCK: usize = 47;
    pub(crate) const BODY_START: usize = 48;
    pub(crate) const STRING_END: usize = 49;
    pub(crate) const STRING_BYTES: usize = 50;
    pub(crate) const TARGET_SHARED: usize = 51;
    pub(crate) const TARGET_END: usize = 52;
    pub(crate) const TARGET_BYTES: usize = 53;
    pub(crate) const WIDE_KEY: usize = 54;
    pub(crate) const WIDE_VALUE: usize = 55;
    /// How many columns there are. A later minor version may add some behind these.
    pub(crate) const ALL: usize = 56;
}

pub(crate) mod row_flags {
    pub(crate) const TUNNEL: u64 = 1;
    pub(crate) const PUSHED: u64 = 2;
    pub(crate) const COMPLETE: u64 = 4;
}
