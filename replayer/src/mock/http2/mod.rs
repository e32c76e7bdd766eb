//! The HTTP/2 server, on the `h2` crate: over TLS, and with prior knowledge (RFC 9113 section 3.3).
//!
//! Fields keep their order but for equal names, which stand together: `h2` takes a map. Floods
//! (rapid reset, header bombs, pings, empty frames) meet the limits of `h2`, set in `connection`.

mod connection;
mod dialogue;
mod relay;
mod stream;
mod upload;

pub(crate) use connection::serve;
