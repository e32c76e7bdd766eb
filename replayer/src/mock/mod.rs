//! The mock: answers requests from an archive.
//!
//! # Matching
//! A request is answered by a recorded one with the same method, path, query and body, found in one
//! lookup. What does not matter: the order of query parameters, form fields and JSON members, the
//! spelling of escapes and numbers, a multipart boundary. [`Rules`] say what may differ beyond that:
//! what finds no equal request is looked up once more by them. Where the
//! archive holds several authorities and the request names one of them, only that one answers.
//! A request that was recorded several times walks through its answers in recorded order;
//! [`Repeat`] says what comes then. Only exchanges that were recorded whole are served; the others
//! are counted ([`Skipped`]).
//!
//! # Answering
//! HTTP/1.0, HTTP/1.1, WebSocket, HTTP/2 and, with a [`CertificateAuthority`], TLS on one port, translated where
//! the recording spoke the other. A client may take it for its proxy: a request for any authority
//! is answered, and a tunnel (CONNECT) to anywhere leads to the mock itself. By default at once ([`Latency`]). What nothing answers gets 501 with the
//! nearest recorded requests and what differs ([`Miss`]), or the answer of its real upstream
//! ([`OnMiss`]).
//!
//! What came and what was answered can be written down as an archive ([`Options::received`]), and so
//! can what upstreams answered ([`Options::recorded`]).
//!
//! [`chaos`] makes some of it go wrong, on purpose.
//!
//! # In a test
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use tapedeck_archive::Archive;
//! use tapedeck_replayer::mock::{Mock, Options};
//!
//! let archive = Arc::new(Archive::open(Path::new("payments.tape"))?);
//! let payments = Mock::start(archive, &Options::default())?;
//! let url = format!("http://{}", payments.addr());
//! // ... let the code under test talk to `url` ...
//! let stats = payments.stop();
//! assert_eq!(stats.misses, 0, "{:#?}", stats.missed);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
mod cache;
mod call;
pub mod chaos;
mod connection;
mod control;
mod dialogue;
mod diff;
mod drawn;
mod fingerprint;
mod http1;
mod http2;
mod index;
mod journal;
mod memory;
mod miss;
mod options;
mod responder;
mod rules;
mod server;
mod socket;
mod source;
mod stats;
mod tls;
mod turns;
mod upstream;
mod websocket;

pub use control::{METRICS, Metric, OnShutdown};
pub use diff::{Added, Changed, Diff, DiffOptions, DiffedRequest, Listed};
pub use journal::Written;
pub use miss::{Miss, Nearest, Remedy};
pub use options::{Latency, Limits, Options, Repeat, Skipped, StartError};
pub use rules::{Rules, RulesError, Suggestion};
pub use server::{Mock, RunningMock, Uncalled};
pub use stats::Stats;
pub use tls::{AuthorityError, AuthorityFiles, CertificateAuthority};
pub use upstream::{OnMiss, ParseUpstreamError, Upstream, Upstreams};

#[cfg(test)]
mod tests;
