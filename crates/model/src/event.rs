//! What the protocol readers are given, and what they say.
//!
//! Every reader (`http1`, `http2`) has the same shape: bytes of one direction go in as
//! [`Input`]s, in order, and [`Event`]s come out through an [`EventSink`] before the call returns.
//! A reader never fails: what it cannot read becomes an anomaly and a [`Missing`] cause. Events
//! borrow from the input, so that a body passes through without a copy.

use crate::anomaly::Anomaly;
use crate::flow::Direction;
use crate::message::{Head, Role};
use crate::missing::{Gap, Missing};
use crate::time::Timestamp;

/// What happens next in one direction of a connection.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The next bytes. Never empty.
    Data(&'a [u8]),
    /// Bytes that will never come.
    Gap(Gap),
    /// The direction was closed in order: there are no bytes behind this.
    Fin,
    /// The connection was reset.
    Reset,
    /// The capture ended, or the connection was evicted; the direction may have gone on.
    Cut,
}

/// Which exchange of a connection an event belongs to: the stream id in HTTP/2, the ordinal of the
/// exchange in HTTP/1.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StreamKey(pub u64);

/// How a message ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct End {
    /// Why it is not whole; [`Missing::NONE`] for a message that ended as its framing said. Causes
    /// that earlier events of the message told (gaps, unknown fields) need not be repeated.
    pub missing: Missing,
    /// The error code of an HTTP/2 RST_STREAM.
    pub reset_code: Option<u32>,
}

impl End {
    /// The end of a whole message.
    pub const WHOLE: Self = Self {
        missing: Missing::NONE,
        reset_code: None,
    };

    /// The end of a message that is not whole.
    #[must_use]
    pub const fn missing(missing: Missing) -> Self {
        Self {
            missing,
            reset_code: None,
        }
    }
}

/// What a reader found.
///
/// For each `(stream, role)`: any number of interim `Head`s, at most one final `Head`, then
/// `Body`s and `BodyGap`s, at most one `Trailers`, and exactly one `End`. A message whose head was
/// lost has no `Head`. A reader that is told of the end of a direction ends every message that
/// is open there.
#[derive(Debug)]
pub enum Event<'a> {
    /// A head is complete.
    Head {
        /// The exchange.
        stream: StreamKey,
        /// Request or response.
        role: Role,
        /// When the first byte of the head came.
        first_byte: Timestamp,
        /// When its last byte came.
        at: Timestamp,
        /// An interim response (1xx other than 101): another head will follow.
        interim: bool,
        /// The head.
        head: Head,
    },
    /// Bytes of a body, without transfer coding, with content coding. Behind an upgrade or a
    /// CONNECT: bytes of the tunnel, `Request` to the server, `Response` to the client.
    Body {
        /// The exchange.
        stream: StreamKey,
        /// Request or response.
        role: Role,
        /// When they came.
        at: Timestamp,
        /// The bytes.
        data: &'a [u8],
    },
    /// Bytes of a body are missing here.
    BodyGap {
        /// The exchange.
        stream: StreamKey,
        /// Request or response.
        role: Role,
        /// How many, and why. [`Gap::len`] counts body bytes where the framing allows to tell,
        /// else zero.
        gap: Gap,
    },
    /// The trailer section. [`Head::start`] is `StartLine::None`.
    Trailers {
        /// The exchange.
        stream: StreamKey,
        /// Request or response.
        role: Role,
        /// When it was complete.
        at: Timestamp,
        /// The fields.
        trailers: Head,
    },
    /// The message is over.
    End {
        /// The exchange.
        stream: StreamKey,
        /// Request or response.
        role: Role,
        /// When its last byte came (for `Missing::ABORTED` and the like: when that was seen).
        at: Timestamp,
        /// How.
        end: End,
    },
    /// No message of that role will come for this exchange: a request that is never answered, an
    /// answer whose request was not seen. Stands for `End` of a message without any other event.
    Absent {
        /// The exchange.
        stream: StreamKey,
        /// Request or response.
        role: Role,
        /// When that was certain.
        at: Timestamp,
        /// Why, beside [`Missing::ABSENT`], which is understood.
        missing: Missing,
        /// The error code of the HTTP/2 RST_STREAM that ended the stream before.
        reset_code: Option<u32>,
    },
    /// The server announced this exchange by itself (HTTP/2 PUSH_PROMISE): its request came
    /// from the server.
    Pushed {
        /// The exchange.
        stream: StreamKey,
    },
    /// The exchange turned the connection (HTTP/1) or stream (HTTP/2) into a tunnel: 101 or a
    /// successful CONNECT. The bodies that follow are the tunnel's bytes.
    Tunnel {
        /// The exchange.
        stream: StreamKey,
    },
    /// An HTTP/1 connection goes on as HTTP/2 (`Upgrade: h2c`): the reader of this connection is
    /// done, and every further byte, `rest` first, belongs to an HTTP/2 reader. The upgrading
    /// request is stream 1 there; its response has neither ended nor is absent yet.
    SwitchToHttp2 {
        /// The exchange that asked for the upgrade.
        stream: StreamKey,
        /// The direction in which `rest` goes on.
        direction: Direction,
        /// Bytes of that direction may have been lost before `rest`: `101` was not seen.
        lost: bool,
        /// What followed the upgrade in the same input.
        rest: &'a [u8],
    },
    /// Bytes that belong to no message were passed over (re-synchronisation).
    Skipped {
        /// The direction.
        direction: Direction,
        /// How many.
        len: u64,
    },
    /// Something on the wire was irregular.
    Anomaly {
        /// The exchange, where it belongs to one.
        stream: Option<StreamKey>,
        /// The direction in which it was seen.
        direction: Direction,
        /// What.
        anomaly: Anomaly,
    },
}

/// Where a reader puts its events.
pub trait EventSink {
    /// Takes one event.
    fn event(&mut self, event: Event<'_>);
}

impl<F: FnMut(Event<'_>)> EventSink for F {
    fn event(&mut self, event: Event<'_>) {
        self(event);
    }
}
