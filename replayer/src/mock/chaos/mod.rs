//! Chaos: failures on demand, seeded and repeatable.
//!
//! A [`Chaos`] is a list of [`Rule`]s, mostly read from a file ([`Chaos::parse`]). A rule says which
//! exchanges or connections it concerns, how often, from when to when, and what happens then.
//!
//! Whether a rule strikes depends on the seed, the rule's name, the exchange, and how often that
//! exchange has been asked for: not on time or on what other clients do. So the same requests meet
//! the same faults in every run, in whatever order they come.

mod decide;
mod dice;
mod faults;
mod file;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use tapedeck_filter::Filter;

pub use faults::OnFault;
pub use file::ChaosError;

pub(crate) use decide::{ConnectionFaults, Effect, Plan};
pub(crate) use faults::Faults;

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Chaos {
    /// What the draws begin with.
    pub seed: u64,
    /// The faults. Several may strike the same request: delays add up, the slowest pace counts,
    /// and of other things the first.
    pub rules: Vec<Rule>,
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name in the log.
    pub name: String,
    /// Which recorded exchanges it concerns, as the filter language says it; `None`: all.
    pub when: Option<Filter>,
    /// How likely it strikes: 0 to 1.
    pub probability: f64,
    /// From when on, since chaos began.
    pub from: Duration,
    /// Until when; `None`: for ever.
    pub until: Option<Duration>,
    /// What happens.
    pub action: Action,
}

/// What happens when a fault strikes.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The answer comes later.
    Latency(Spread),
    /// The answer comes slowly.
    Pace(Pace),
    /// Another answer.
    Answer {
        /// Its status.
        status: u16,
        /// Its body.
        body: String,
        /// The media type of the body.
        content_type: Option<String>,
    },
    /// A gRPC status in place of an answer, in the form "Trailers-Only".
    Grpc {
        /// The status code.
        status: u32,
        /// The message.
        message: String,
    },
    /// The answer is hurt on its way.
    Harm(Harm),
    /// The connection is reset as soon as it is there.
    Refuse,
    /// HTTP/2: the client gets no window to send request bodies into.
    WindowStall,
    /// HTTP/2: so many SETTINGS frames, each as soon as the one before is acknowledged.
    SettingsStorm(u32),
    /// TLS: a fatal alert in place of a handshake.
    TlsAlert(Alert),
    /// TLS: a certificate that expired yesterday.
    ExpiredCertificate,
}

/// How a delay is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    /// Always this.
    Fixed(Duration),
    /// Around a mean, never below zero.
    Normal {
        /// The mean.
        mean: Duration,
        /// The standard deviation.
        deviation: Duration,
    },
    /// Skewed, as latencies mostly are.
    LogNormal {
        /// Half of all are longer.
        median: Duration,
        /// The standard deviation of the logarithm.
        sigma: f64,
    },
    /// With a heavy tail.
    Pareto {
        /// None is shorter.
        minimum: Duration,
        /// The smaller, the heavier the tail.
        shape: f64,
    },
}

/// How fast an answer is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// So many bytes,
    pub bytes: usize,
    /// each time that this has passed.
    pub every: Duration,
}

impl Pace {
    /// So many bytes a second.
    #[must_use]
    pub fn rate(bytes: u64) -> Self {
        /// Often enough that it looks like a slow line, seldom enough to cost little.
        const TICKS: u64 = 20;
        if bytes < TICKS {
            return Self {
                bytes: 1,
                every: Duration::from_secs(1) / u32::try_from(bytes).unwrap_or(1).max(1),
            };
        }
        Self {
            bytes: usize::try_from(bytes / TICKS).unwrap_or(usize::MAX),
            every: Duration::from_secs(1) / 20,
        }
    }

    /// Which of two is slower.
    fn slower(self, other: Self) -> Self {
        let rate = |pace: &Self| pace.bytes as f64 / pace.every.as_secs_f64();
        if rate(&other) < rate(&self) {
            other
        } else {
            self
        }
    }
}

/// A place in an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Before its first byte.
    BeforeHead,
    /// In the middle of the head. HTTP/2 sends heads whole: before it, there.
    InHead,
    /// Behind the head.
    AfterHead,
    /// Behind so many bytes of the body, or at its last byte if it is shorter.
    Body(usize),
}

impl Place {
    /// Whether it lies before the head is whole.
    pub(crate) const fn is_before_body(self) -> bool {
        matches!(self, Self::BeforeHead | Self::InHead)
    }
}

/// What happens to an answer on its way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Harm {
    /// TCP's reset; in HTTP/2, RST_STREAM.
    Reset {
        /// Where.
        at: Place,
        /// The error code in HTTP/2 (RFC 9113 section 7).
        code: u32,
    },
    /// The end comes early. HTTP/2: END_STREAM.
    Cut {
        /// Where.
        at: Place,
    },
    /// Nothing more comes.
    Stall {
        /// Where.
        at: Place,
        /// For how long; `None`: until the client gives up.
        time: Option<Duration>,
    },
    /// The Content-Length is off by so much.
    Length(i64),
    /// A chunk whose size is no number. HTTP/2 has no chunks: RST_STREAM with PROTOCOL_ERROR.
    MalformedChunk,
    /// The trailers do not come.
    MissingTrailers,
    /// HTTP/2: GOAWAY in place of the answer. HTTP/1: the connection ends in place of it.
    Goaway {
        /// The error code (RFC 9113 section 7).
        code: u32,
    },
}

/// A TLS alert by its number (RFC 8446 section 6).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Alert(pub u8);

impl Alert {
    /// The alert of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        const NAMES: [(&str, u8); 16] = [
            ("close_notify", 0),
            ("unexpected_message", 10),
            ("bad_record_mac", 20),
            ("handshake_failure", 40),
            ("bad_certificate", 42),
            ("unsupported_certificate", 43),
            ("certificate_revoked", 44),
            ("certificate_expired", 45),
            ("certificate_unknown", 46),
            ("unknown_ca", 48),
            ("access_denied", 49),
            ("protocol_version", 70),
            ("insufficient_security", 71),
            ("internal_error", 80),
            ("unrecognized_name", 112),
            ("no_application_protocol", 120),
        ];
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, number)| Self(*number))
    }
}

/// A fault that struck.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Injected {
    /// When, since chaos began.
    pub at: Duration,
    /// The rule.
    pub rule: String,
    /// The exchange that would have answered; `None`: it struck a connection.
    pub exchange: Option<u64>,
    /// How often that exchange, or how many connections, had been asked for before.
    pub nth: u64,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latency(_) => f.write_str("latency"),
            Self::Pace(pace) => write!(f, "{} bytes every {:?}", pace.bytes, pace.every),
            Self::Answer { status, .. } => write!(f, "status {status}"),
            Self::Grpc { status, .. } => write!(f, "grpc-status {status}"),
            Self::Harm(harm) => harm.fmt(f),
            Self::Refuse => f.write_str("connection reset at once"),
            Self::WindowStall => f.write_str("no window for request bodies"),
            Self::SettingsStorm(frames) => write!(f, "{frames} SETTINGS frames"),
            Self::TlsAlert(alert) => write!(f, "TLS alert {}", alert.0),
            Self::ExpiredCertificate => f.write_str("expired certificate"),
        }
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset { at, code } => write!(f, "reset {at} (code {code})"),
            Self::Cut { at } => write!(f, "cut {at}"),
            Self::Stall {
                at,
                time: Some(time),
            } => write!(f, "stall of {time:?} {at}"),
            Self::Stall { at, time: None } => write!(f, "stall {at}"),
            Self::Length(by) => write!(f, "content length off by {by}"),
            Self::MalformedChunk => f.write_str("malformed chunk"),
            Self::MissingTrailers => f.write_str("no trailers"),
            Self::Goaway { code } => write!(f, "GOAWAY (code {code})"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforeHead => f.write_str("before the head"),
            Self::InHead => f.write_str("in the head"),
            Self::AfterHead => f.write_str("behind the head"),
            Self::Body(bytes) => write!(f, "behind {bytes} bytes of the body"),
        }
    }
}
