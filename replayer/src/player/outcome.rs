//! What became of one request.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use tapedeck_model::GRPC_STATUS_NAMES;

use crate::player::counted::counted;

counted! {
    /// Why a request that was to be sent never reached the wire.
    NeverSent, NeverSentCounts {
        /// The target's name could not be resolved.
        Dns = "dns",
        /// TLS could not be agreed on, or the target's certificate is not believed.
        Tls = "tls",
        /// The target refused the connection.
        Refused = "connect_refused",
        /// The connection could not be made for another reason of the network.
        Unreachable = "unreachable",
        /// No connection, or no free place on one, came within the timeout.
        TimedOut = "connect_timed_out",
        /// This machine is out of ports, file descriptors or memory.
        LocalResources = "local_resources",
        /// The limit of connections was reached.
        ConnectionLimit = "connection_limit",
        /// The limit of requests in flight was reached.
        InFlightLimit = "in_flight_limit",
        /// The limit of request bytes held in memory was reached.
        MemoryLimit = "memory_limit",
        /// The archive could not give it back (a damaged block).
        Unreadable = "unreadable",
        /// It cannot be said in the target's protocol (a field that HTTP/2 forbids).
        Untranslatable = "untranslatable",
        /// The run was stopped before.
        Stopped = "stopped",
    }
}

counted! {
    /// Why a request that was sent has no answer.
    Failure, FailureCounts {
        /// The connection, or the HTTP/2 stream, was reset.
        Reset = "reset",
        /// No whole answer came within the timeout.
        TimedOut = "timed_out",
        /// The connection was closed before the answer was whole.
        ClosedEarly = "closed_early",
        /// What came was not HTTP, or not that version of it.
        Protocol = "protocol_error",
        /// The run was stopped while the answer was awaited.
        Unanswered = "unanswered",
    }
}

/// Why there is no answer, before or behind the moment of sending.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lost {
    NeverSent(NeverSent),
    Failed(Failure),
}

/// A [`Lost`] and what the system or the parser said of it.
#[derive(Debug)]
pub(crate) struct SendError {
    pub(crate) lost: Lost,
    pub(crate) cause: Cause,
}

impl SendError {
    pub(crate) fn never(reason: NeverSent) -> Self {
        Self {
            lost: Lost::NeverSent(reason),
            cause: Cause::None,
        }
    }

    pub(crate) fn failed(failure: Failure, cause: impl Into<Cause>) -> Self {
        Self {
            lost: Lost::Failed(failure),
            cause: cause.into(),
        }
    }

    /// The failure of an attempt to connect.
    pub(crate) fn connect(error: io::Error) -> Self {
        Self {
            lost: Lost::NeverSent(connect_failure(&error)),
            cause: error.into(),
        }
    }

    /// The failure of a read or a write on a connection that stood.
    pub(crate) fn io(error: io::Error) -> Self {
        let failure = match error.kind() {
            io::ErrorKind::TimedOut => Failure::TimedOut,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => Failure::ClosedEarly,
            // Anything else that the kernel says on an established connection has the same
            // effect: it is gone.
            _ => Failure::Reset,
        };
        Self::failed(failure, error)
    }
}

fn connect_failure(error: &io::Error) -> NeverSent {
    if error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>())
    {
        return NeverSent::Tls;
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => NeverSent::Refused,
        io::ErrorKind::TimedOut => NeverSent::TimedOut,
        // EADDRNOTAVAIL: every local port is taken.
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory => NeverSent::LocalResources,
        _ => {
            let code = error
                .raw_os_error()
                .map(rustix::io::Errno::from_raw_os_error);
            if matches!(
                code,
                Some(
                    rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOBUFS
                )
            ) {
                NeverSent::LocalResources
            } else {
                NeverSent::Unreachable
            }
        }
    }
}

/// What the system or the parser said.
#[derive(Debug)]
pub(crate) enum Cause {
    None,
    Text(&'static str),
    Io(io::Error),
    Other(Box<dyn std::error::Error>),
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<&'static str> for Cause {
    fn from(text: &'static str) -> Self {
        Self::Text(text)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Text(text) => f.write_str(text),
            Self::Io(error) => error.fmt(f),
            Self::Other(error) => error.fmt(f),
        }
    }
}

/// What an answer says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// How a gRPC call ended; `None`: it is none.
    pub(crate) grpc: Option<GrpcStatus>,
}

/// How a gRPC call ended: a code of gRPC's list.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct GrpcStatus(u8);

impl GrpcStatus {
    /// The call did what it was to do.
    pub const OK: Self = Self(0);
    /// That of a call that does not say how it ended, or says what is in no list: so every client of gRPC has it.
    pub const UNKNOWN: Self = Self(2);

    /// What stands in `grpc-status`.
    pub(crate) fn of(value: &[u8]) -> Self {
        let code = std::str::from_utf8(value)
            .ok()
            .and_then(|code| code.parse().ok());
        let known = code.filter(|code: &u8| usize::from(*code) < GRPC_STATUS_NAMES.len());
        known.map_or(Self::UNKNOWN, Self)
    }

    /// The status of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let code = GRPC_STATUS_NAMES.iter().position(|known| *known == name)?;
        u8::try_from(code).ok().map(Self)
    }

    /// As gRPC calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        GRPC_STATUS_NAMES
            .get(usize::from(self.0))
            .copied()
            .unwrap_or("UNKNOWN")
    }
}

/// The instants of one request. A transport fills it in as it goes, so that an attempt that is
/// given up in the middle still says how far it came.
///
/// ```text
/// due ──► taken up ──► (connecting) ──► sent ──► sent whole ──► first byte ──► last byte
///    lag          blocked                  sending       waiting        receiving
/// ```
#[derive(Debug)]
pub(crate) struct Timeline {
    /// When the schedule wanted it.
    pub(crate) due: Instant,
    /// When the player turned to it.
    pub(crate) taken: Instant,
    /// Time spent on opening a connection for it.
    pub(crate) connecting: Cell<Option<Duration>>,
    /// And on TLS, behind that.
    pub(crate) tls_handshaking: Cell<Option<Duration>>,
    /// When its first byte was handed to the kernel.
    pub(crate) sent: Cell<Option<Instant>>,
    /// When its last byte was.
    pub(crate) sent_whole: Cell<Option<Instant>>,
    /// When the first byte of the answer was read.
    pub(crate) first_byte: Cell<Option<Instant>>,
    /// It was sent again on a fresh connection, because a kept one turned out to be closed.
    pub(crate) resent: Cell<bool>,
}

impl Timeline {
    pub(crate) fn start(due: Instant) -> Self {
        Self {
            due,
            taken: due,
            connecting: Cell::new(None),
            tls_handshaking: Cell::new(None),
            sent: Cell::new(None),
            sent_whole: Cell::new(None),
            first_byte: Cell::new(None),
            resent: Cell::new(false),
        }
    }

    /// Forgets a sending that did not count.
    pub(crate) fn send_again(&self) {
        self.sent.set(None);
        self.sent_whole.set(None);
        self.first_byte.set(None);
        self.resent.set(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_does_not_say_how_it_ended_ended_unknown() {
        for (value, name) in [
            (&b"0"[..], "OK"),
            (b"14", "UNAVAILABLE"),
            (b"16", "UNAUTHENTICATED"),
            (b"17", "UNKNOWN"),
            (b"", "UNKNOWN"),
            (b"-1", "UNKNOWN"),
            (b"256", "UNKNOWN"),
            (b"\xff", "UNKNOWN"),
        ] {
            let status = GrpcStatus::of(value);
            assert_eq!(status.name(), name);
            assert_eq!(GrpcStatus::named(name), Some(status));
        }
        assert_eq!(GrpcStatus::named("FINE"), None);
    }
}
