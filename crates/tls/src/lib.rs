//! A passive, loss-aware TLS reader for connections whose secrets a key log holds.
//!
//! [`Reader`] is given both directions of one connection, as the reassembler delivers them, and
//! hands the plaintext on in the same form: data, gaps and ends. It reads TLS 1.2 (AES-GCM,
//! ChaCha20-Poly1305, AES-CBC) and TLS 1.3 with the secrets of a [`KeyLog`] in the
//! `SSLKEYLOGFILE` format. Without them it still tells the server name and why the connection
//! stays closed.
//!
//! It attacks nothing, checks no certificate, and speaks to nobody. It knows neither DTLS nor
//! versions before 1.2, and does not follow a renegotiation.
//!
//! # Losses
//!
//! A record that lost bytes is lost. Behind it the reader looks for the next record header and
//! proves it by opening that record under one of the sequence numbers and keys that may have come
//! up in between: the authentication tag leaves no room for a wrong guess. The effort is bounded by
//! [`Limits`].

#![forbid(unsafe_code)]

mod cipher;
mod half;
mod hello;
mod key_log;
mod limits;
mod messages;
mod order;
mod reader;
mod records;
mod session;
#[cfg(test)]
mod tests;

pub use key_log::{Added, Edition, KeyLog, Keys};
pub use limits::Limits;
pub use reader::{Reader, Sink};

use tapedeck_model::Role;

/// Whether bytes begin a TLS connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probe {
    /// They do: a ClientHello (`Request`) or a ServerHello (`Response`).
    Yes(Role),
    /// They do not.
    No,
    /// Too few to tell.
    NeedMore,
}

/// How much bytes from the middle of a connection look like TLS.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Likeness {
    /// Not at all.
    None,
    /// They begin with what may be the header of a record.
    Header,
    /// They are records, each beginning where the one before it ends. Others look so once in 10^11
    /// times.
    Records,
}

/// How much bytes look like records of a connection whose beginning was not seen.
#[must_use]
pub fn likeness(bytes: &[u8]) -> Likeness {
    let mut rest = bytes;
    let mut likeness = Likeness::None;
    while let Some(header) = records::Header::midstream(rest) {
        let Some(behind) = rest.get(header.record_len()..) else {
            return likeness.max(Likeness::Header);
        };
        rest = behind;
        likeness = Likeness::Records;
    }
    match (rest.len(), likeness) {
        (_, Likeness::None) => Likeness::None,
        // Too few bytes for a header.
        (0..records::Header::LEN, _) => Likeness::Records,
        (_, _) => Likeness::Header,
    }
}

/// Whether the first bytes of a direction begin a TLS connection (RFC 8446 sections 4 and 5.1).
#[must_use]
pub fn probe(bytes: &[u8]) -> Probe {
    const BYTES: usize = 6;
    let fits = bytes.iter().take(BYTES).enumerate().all(|(at, byte)| {
        matches!(
            (at, byte),
            (0, 22) | (1, 3) | (2, 0..=4) | (3 | 4, _) | (5, 1 | 2)
        )
    });
    match bytes.get(5) {
        _ if !fits => Probe::No,
        None => Probe::NeedMore,
        Some(1) => Probe::Yes(Role::Request),
        Some(_) => Probe::Yes(Role::Response),
    }
}
