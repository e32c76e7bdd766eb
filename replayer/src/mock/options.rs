//! What a mock can be told, and the bounds that it keeps.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tapedeck_archive::WriteError;
use tapedeck_filter::Filter;

use super::chaos::{Chaos, OnFault};
use super::control::OnShutdown;
use super::rules::Rules;
use super::tls::CertificateAuthority;
use super::upstream::{OnMiss, Upstreams};
use crate::player::TlsError;

/// How a mock listens, matches and answers.
#[derive(Clone)]
pub struct Options {
    /// Where to listen. Port 0 takes a free one; see [`RunningMock::addr`](super::RunningMock::addr).
    pub listen: SocketAddr,
    /// Threads that serve; `None`: one for each core.
    pub threads: Option<NonZeroUsize>,
    /// When answers are sent.
    pub latency: Latency,
    /// What a repeated request gets when its recorded answers are used up.
    pub repeat: Repeat,
    /// What a request and a recorded request may differ in.
    pub rules: Rules,
    /// Which exchanges answer; `None`: all that can.
    pub filter: Option<Filter>,
    /// What a request gets that nothing recorded answers.
    pub on_miss: OnMiss,
    /// The real servers behind the mock, for [`OnMiss::Passthrough`].
    pub upstreams: Upstreams,
    /// Writes down every request and its answer, as an archive there.
    pub received: Option<PathBuf>,
    /// Writes down what upstreams answered, as an archive there.
    pub recorded: Option<PathBuf>,
    /// Who signs the certificates of a mock that speaks TLS, too; `None`: it does not.
    pub authority: Option<Arc<CertificateAuthority>>,
    /// What goes wrong on purpose; `None`: nothing.
    pub chaos: Option<Chaos>,
    /// Is told of each fault as it strikes.
    pub on_fault: Option<OnFault>,
    /// Where the control port listens; `None`: there is none. Whoever reaches it can stop the mock.
    pub control: Option<SocketAddr>,
    /// Is told when a client of the control port asks for the end; `None`: the port refuses that.
    pub on_shutdown: Option<OnShutdown>,
    /// The bounds of memory and time.
    pub limits: Limits,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("listen", &self.listen)
            .field("threads", &self.threads)
            .field("latency", &self.latency)
            .field("repeat", &self.repeat)
            .field("rules", &self.rules)
            .field("filter", &self.filter)
            .field("on_miss", &self.on_miss)
            .field("upstreams", &self.upstreams)
            .field("received", &self.received)
            .field("recorded", &self.recorded)
            .field("authority", &self.authority)
            .field("chaos", &self.chaos)
            .field("control", &self.control)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Default for Options {
    /// A free port of the loopback, strict matching, no delay.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            threads: None,
            latency: Latency::None,
            repeat: Repeat::Last,
            rules: Rules::default(),
            filter: None,
            on_miss: OnMiss::Fail,
            upstreams: Upstreams::default(),
            received: None,
            recorded: None,
            authority: None,
            chaos: None,
            on_fault: None,
            control: None,
            on_shutdown: None,
            limits: Limits::default(),
        }
    }
}

/// When answers are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Latency {
    /// At once.
    #[default]
    None,
    /// As recorded, times a factor: the time to the first byte, counted from the end of the
    /// request, and the pauses within the body. A factor that is not a positive number is
    /// [`Latency::None`].
    Recorded {
        /// 1.0: as recorded; 2.0: twice as slow.
        factor: f64,
    },
    /// The time to the first byte is one of those recorded for the same endpoint (method and path,
    /// ids left out), another each time, in the same order in every run; pauses within the body as
    /// recorded.
    Drawn,
}

/// What a request gets that was recorded n times and is asked for the n+1st time. Until then it
/// walks through its recorded answers in their order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Repeat {
    /// The last recorded answer, again and again.
    #[default]
    Last,
    /// The first again, and so on.
    Cycle,
    /// No answer: a miss.
    Fail,
}

/// The bounds of memory and time. Reaching one is counted in [`Stats`](super::Stats).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; a further one is told 503 and closed. Bounds file descriptors and, with
    /// the limits below, memory.
    pub connections: usize,
    /// Bytes of a request head (and of its trailers). nginx takes 32 KiB, most servers less; more
    /// than this is an attack.
    pub head_bytes: usize,
    /// Bytes of a request body. The whole body is held, because it is compared.
    pub body_bytes: usize,
    /// Bytes of all large request bodies together, since connections times `body_bytes` would be
    /// too much for any machine.
    pub request_memory: usize,
    /// Bytes of a recorded response body; exchanges with a longer one are not served.
    pub answer_bytes: usize,
    /// Bytes of all large answers on their way together; further ones wait.
    pub answer_memory: usize,
    /// Bytes of answers that are kept ready.
    pub cache_bytes: usize,
    /// Time for a whole head, from its first byte: a client that sends slower only holds the
    /// connection.
    pub head_timeout: Duration,
    /// Time for a whole body, from the end of the head.
    pub body_timeout: Duration,
    /// Time that a connection may be silent between requests.
    pub idle_timeout: Duration,
    /// Time that a client may take no byte of an answer.
    pub write_timeout: Duration,
    /// Time that a client of gRPC may be silent within a call that might still be a recorded one: then it
    /// waits for an answer, and what is there is all there will be.
    pub grpc_silence: Duration,
    /// Concurrent streams of an HTTP/2 connection.
    pub http2_streams: u32,
    /// Streams that an HTTP/2 client may have reset before the mock has looked at them: rapid reset
    /// (CVE-2023-44487) ends the connection here.
    pub http2_pending_resets: usize,
    /// Distinct misses that are listed; further ones are only counted.
    pub misses_listed: usize,
    /// Time that answers on their way get when the mock is stopped.
    pub stop_grace: Duration,
    /// Requests on their way to upstreams at once; a further one gets 503. Bounds connections, and
    /// with `body_bytes` memory.
    pub upstream_requests: usize,
    /// Time for a connection to an upstream, name and TLS included.
    pub upstream_connect: Duration,
    /// Time that an upstream may take for the head of its answer, and that it may be silent within
    /// the body.
    pub upstream_timeout: Duration,
    /// Bytes of requests and answers that wait to be written down. A disk that is slower than the
    /// clients for longer costs exchanges of the archive, never time of the clients.
    pub journal_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            head_bytes: 64 << 10,
            body_bytes: 16 << 20,
            request_memory: 256 << 20,
            answer_bytes: 64 << 20,
            answer_memory: 256 << 20,
            cache_bytes: 64 << 20,
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            grpc_silence: Duration::from_secs(10),
            http2_streams: 128,
            http2_pending_resets: 32,
            misses_listed: 1000,
            stop_grace: Duration::from_millis(500),
            upstream_requests: 1024,
            upstream_connect: Duration::from_secs(10),
            upstream_timeout: Duration::from_secs(60),
            journal_bytes: 64 << 20,
        }
    }
}

/// Why a mock did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The archive holds nothing.
    #[error("the archive holds no exchange, so there is nothing to answer with")]
    EmptyArchive,
    /// The filter leaves nothing.
    #[error("the filter chooses none of the {exchanges} exchanges in the archive")]
    NothingChosen {
        /// How many it holds.
        exchanges: u64,
    },
    /// The archive holds requests only.
    #[error(
        "none of the {exchanges} exchanges in the archive has a response, so there is nothing to \
         answer with"
    )]
    NoResponses {
        /// How many it holds.
        exchanges: u64,
    },
    /// Nothing in the archive can be served.
    #[error("none of the {exchanges} exchanges in the archive can be served: {skipped}")]
    NothingToServe {
        /// How many it holds.
        exchanges: u64,
        /// Why not.
        skipped: Skipped,
    },
    /// More exchanges than the index can number.
    #[error("the archive holds {exchanges} exchanges; a mock serves up to {limit}")]
    TooManyExchanges {
        /// How many it holds.
        exchanges: u64,
        /// How many are possible.
        limit: u64,
    },
    /// The address could not be listened on.
    #[error("cannot listen on {listen}{}", in_use(source))]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The exchanges that a fault concerns could not be found.
    #[error("cannot tell which exchanges the faults concern")]
    Chaos(#[source] tapedeck_archive::ReadError),
    /// TLS could not be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// Upstreams cannot be talked to over TLS.
    #[error("cannot set up TLS to upstreams")]
    Upstreams(#[source] TlsError),
    /// An archive of what was received or answered could not be begun.
    #[error("cannot write an archive")]
    Journal(#[source] WriteError),
    /// A thread or its event loop could not be made.
    #[error("cannot start a serving thread")]
    Thread(#[source] io::Error),
}

/// A hint for the one cause that people meet every day; the cause itself is the error's source.
fn in_use(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            ": another program listens there; choose another port, or 0 for a free one"
        }
        _ => "",
    }
}

/// Recorded exchanges that are not served, by reason.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Skipped {
    /// The request was not recorded whole.
    pub request_incomplete: u64,
    /// The response was not recorded whole, or there was none.
    pub response_incomplete: u64,
    /// Connections turned into tunnels: CONNECT, WebSocket that was not recorded whole.
    pub tunnels: u64,
    /// A body exceeds the limits.
    pub too_large: u64,
    /// The record could not be read, or is no HTTP message that could be sent.
    pub unreadable: u64,
}

impl Skipped {
    /// All together.
    #[must_use]
    pub const fn total(&self) -> u64 {
        let Self {
            request_incomplete,
            response_incomplete,
            tunnels,
            too_large,
            unreadable,
        } = *self;
        request_incomplete + response_incomplete + tunnels + too_large + unreadable
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.request_incomplete, "with an incomplete request"),
            (self.response_incomplete, "without a complete response"),
            (self.tunnels, "tunnels"),
            (self.too_large, "larger than the limits"),
            (self.unreadable, "unreadable"),
        ];
        let mut first = true;
        for (count, what) in parts.into_iter().filter(|(count, _)| *count > 0) {
            if !first {
                f.write_str(", ")?;
            }
            write!(f, "{count} {what}")?;
            first = false;
        }
        if first {
            f.write_str("none")?;
        }
        Ok(())
    }
}
