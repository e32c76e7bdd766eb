//! What a mock has done.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use super::journal::Written;
use super::miss::{Miss, Remedy};
use super::options::Skipped;

/// What is counted beside hits and misses.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Numbers connections that got past the first look.
    pub(crate) callers: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) overloads: AtomicU64,
    pub(crate) unreadable: AtomicU64,
    pub(crate) tls_without_authority: AtomicU64,
    pub(crate) passed: AtomicU64,
    pub(crate) upstream_failures: AtomicU64,
}

/// What a mock has done so far.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused because too many were open.
    pub connections_refused: u64,
    /// Requests answered from the archive.
    pub hits: u64,
    /// How often each exchange answered: ids and counts, of those that did.
    pub hits_by_exchange: Vec<(u64, u64)>,
    /// Requests that nothing recorded answers.
    pub misses: u64,
    /// The distinct misses in the order in which they first came, up to
    /// [`Limits::misses_listed`].
    pub missed: Vec<Miss>,
    /// The rules that would let recorded requests answer listed misses, the most telling first.
    pub remedies: Vec<Remedy>,
    /// Of these: passed on to an upstream.
    pub passed: u64,
    /// Of those: not answered by it, or not to the end.
    pub upstream_failures: u64,
    /// Requests refused because they were malformed or too large.
    pub refused: u64,
    /// Connections closed because a limit of time was reached.
    pub timeouts: u64,
    /// Requests refused because a limit of memory was reached.
    pub overloads: u64,
    /// Requests whose recorded answer could not be read from the archive.
    pub unreadable: u64,
    /// Connections that began with TLS while there was no certificate authority
    /// ([`Options::authority`](super::Options::authority)).
    pub tls_without_authority: u64,
    /// TLS handshakes that failed, by reason.
    pub tls_failures: BTreeMap<String, u64>,
    /// Faults injected, by the name of their rule.
    pub faults: BTreeMap<String, u64>,
    /// Recorded exchanges that are not served.
    pub skipped: Skipped,
    /// Bytes of answers that are kept ready.
    pub cache_bytes: usize,
    /// The archive of what was received; `None`: nobody asked for it.
    pub received: Option<Written>,
    /// The archive of what upstreams answered; `None`: nobody asked for it.
    pub recorded: Option<Written>,
}
