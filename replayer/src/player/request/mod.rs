//! Recorded requests, made ready for the target's protocol.
//!
//! Method, target, field order, case, duplicates, body and trailers stay as recorded. What changes
//! is what the connection and the target own: hop-by-hop fields (RFC 9110 section 7.6.1),
//! `Host`/`:authority`, and the framing of the body, which is written anew and consistently.

mod fields;
mod http1;
mod http2;
mod recorded;

pub(crate) use fields::{Fields, behind_start_line};
pub(crate) use http1::Http1Request;
pub(crate) use http2::Http2Request;
pub(crate) use recorded::{RecordedRequest, Rules, Untranslatable};

#[cfg(test)]
mod tests;
