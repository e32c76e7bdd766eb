//! What is archived, replayed and mocked.

use std::sync::Arc;

use crate::anomaly::Anomalies;
use crate::flow::{Endpoint, Scope};
use crate::message::{Head, Protocol, Role};
use crate::missing::{Gap, Missing};
use crate::time::Timestamp;
use crate::tls::Tls;
use crate::workload::Workload;

/// A connection within one capture. Ids count up in the order in which connections were first
/// seen.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnectionId(pub u64);

/// How the beginning of a connection was seen.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Origin {
    /// With its handshake: who connected to whom is certain.
    Handshake,
    /// In the middle: it predates the capture, or its handshake was lost.
    Midstream,
    /// In the middle, because it predates the capture: the kernel had it when a live one began.
    Predates,
}

impl Origin {
    /// Its name, as archives are shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Midstream => "midstream",
            Self::Predates => "predates-capture",
        }
    }
}

/// One lifetime of a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// The side that connected.
    pub client: Endpoint,
    /// The side that was connected to.
    pub server: Endpoint,
    /// The network of both.
    pub scope: Scope,
    /// How its beginning was seen.
    pub origin: Origin,
    /// When its first packet was seen.
    pub opened: Timestamp,
    /// What its TLS handshake told, where it had one.
    pub tls: Option<Arc<Tls>>,
    /// Whose each end is, where that is known.
    pub workloads: Workloads,
}

/// The workloads at both ends of a connection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Workloads {
    /// At the side that connected.
    pub client: Option<Arc<Workload>>,
    /// At the side that was connected to.
    pub server: Option<Arc<Workload>>,
}

/// A point at which bytes of a body arrived: those from `offset` on came at `at`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arrival {
    /// Offset into the body.
    pub offset: u64,
    /// When the byte at `offset` came.
    pub at: Timestamp,
}

/// A gap within a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BodyGap {
    /// Offset into the stored bytes at which the gap lies.
    pub offset: u64,
    /// What is missing there.
    pub gap: Gap,
}

/// The body of a message: without transfer coding, content coding kept.
///
/// Long bodies leave the reader in [`BodyPart`]s before their exchange is complete, so that memory
/// does not grow with them; `tail` is what came after the last part.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Body {
    /// The bytes that are stored: those of all parts and of the tail.
    pub len: u64,
    /// How many parts went before.
    pub parts: u32,
    /// The bytes behind the last part.
    pub tail: Vec<u8>,
    /// Where bytes are missing.
    pub gaps: Vec<BodyGap>,
    /// When its bytes came, where they did not come at once: a new entry whenever the body went on
    /// after a pause. Empty: all at once, between the head and [`Message::last_byte`].
    pub arrivals: Vec<Arrival>,
}

/// A piece of a long body, on its way ahead of its exchange. Parts of one message come in order.
#[derive(Clone, Debug)]
pub struct BodyPart {
    /// The exchange that it will belong to; see [`Exchange::key`].
    pub key: u64,
    /// Request or response.
    pub role: Role,
    /// The bytes.
    pub data: Vec<u8>,
}

/// A request or a response.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// The head; `None` where it was lost but something of the body was seen.
    pub head: Option<Head>,
    /// The body.
    pub body: Body,
    /// The trailer section.
    pub trailers: Option<Head>,
    /// When its first byte came.
    pub first_byte: Timestamp,
    /// When its last byte came.
    pub last_byte: Timestamp,
    /// Why it is not whole.
    pub missing: Missing,
    /// The error code of an HTTP/2 RST_STREAM that ended it; of a whole request, of the one that came
    /// in the place of its response.
    pub reset_code: Option<u32>,
}

/// An interim response (1xx).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interim {
    /// The head.
    pub head: Head,
    /// When its last byte came.
    pub at: Timestamp,
}

/// One request with its responses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exchange {
    /// Names the exchange among its [`BodyPart`]s; unique within one capture, without meaning
    /// otherwise.
    pub key: u64,
    /// The connection that carried it.
    pub connection: Arc<Connection>,
    /// The ordinal within an HTTP/1 connection, or the stream id in HTTP/2.
    pub stream: u64,
    /// The protocol: that of the request, or of the response where there is no request.
    pub protocol: Protocol,
    /// The request; `None` where it was never seen.
    pub request: Option<Message>,
    /// The interim responses, in order.
    pub interim: Vec<Interim>,
    /// The final response; `None` where there was none.
    pub response: Option<Message>,
    /// Why the request is not there, where it is not.
    pub request_absent: Missing,
    /// Why the response is not there, where it is not.
    pub response_absent: Missing,
    /// Whether the exchange turned its connection or stream into a tunnel; the bodies are the
    /// tunnel's bytes.
    pub tunnel: bool,
    /// Whether the server pushed it (HTTP/2).
    pub pushed: bool,
    /// What was irregular.
    pub anomalies: Anomalies,
}

impl Exchange {
    /// Why the message of that role is not whole; the empty set when it is.
    #[must_use]
    pub fn missing(&self, role: Role) -> Missing {
        let (message, mut absent) = match role {
            Role::Request => (&self.request, self.request_absent),
            Role::Response => (&self.response, self.response_absent),
        };
        if let Some(message) = message {
            message.missing
        } else {
            absent.insert(Missing::ABSENT);
            absent
        }
    }

    /// Whether every byte of the request and of the response is there.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.missing(Role::Request).is_empty() && self.missing(Role::Response).is_empty()
    }

    /// When the exchange began: the first byte that was seen of it.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        let first = |message: &Option<Message>| message.as_ref().map(|message| message.first_byte);
        first(&self.request)
            .or_else(|| first(&self.response))
            .unwrap_or(self.connection.opened)
    }
}
