//! One stream: a request and a response, each with its state.

use tapedeck_model::{Missing, Role};

use crate::frame::StreamId;
use crate::head::{ContentLength, Facts, Method, Summary};

/// An open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) request: Message,
    pub(crate) response: Message,
    /// The method of the request.
    pub(crate) method: Method,
}

/// One message of a stream.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) phase: Phase,
    /// Whether there was an event of it.
    pub(crate) spoken: bool,
    /// What is missing. While the head is awaited: why it may never come.
    pub(crate) missing: Missing,
    /// The status of the head is unknown: it may have been an interim one.
    pub(crate) unsure: bool,
    /// What content-length says of the body, where it says something.
    declared: Option<u64>,
    /// The length of the body so far; `None`: a part of it is missing.
    seen: Option<u64>,
}

/// Where a message is. Interim responses leave it where it was.
///
/// ```text
///              head, or DATA             trailers
///              whose head is lost
///   Awaited ──────────────────────► Body ──────────► Trailed
///      │ │   trailers whose head is lost                ▲ │
///      │ └──────────────────────────┼───────────────────┘ │
///      │ RST_STREAM, GOAWAY,        │ the same,           │ the same
///      │ end of the direction       │ END_STREAM          │
///      └───────────────────────────►▼◄────────────────────┘
///                                 Ended
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    Awaited,
    Body,
    Trailed,
    Ended,
}

impl Stream {
    pub(crate) fn new(id: StreamId) -> Self {
        Self {
            id,
            request: Message::awaited(),
            response: Message::awaited(),
            method: Method::Unknown,
        }
    }

    pub(crate) fn message(&mut self, role: Role) -> &mut Message {
        match role {
            Role::Request => &mut self.request,
            Role::Response => &mut self.response,
        }
    }

    /// Whether nothing is to come on this stream.
    pub(crate) fn ended(&self) -> bool {
        self.request.phase == Phase::Ended && self.response.phase == Phase::Ended
    }

    /// Takes what a final head says of the body that follows it. `false`: its content-length says
    /// nothing that makes sense.
    pub(crate) fn announce(&mut self, role: Role, summary: &Summary) -> bool {
        if role == Role::Request {
            self.method = summary.method;
        }
        // RFC 9110 section 8.6: the length of a body that is not sent.
        let bodiless = role == Role::Response
            && (self.method == Method::Head || matches!(summary.status, Some(204 | 304)));
        let tunnel = self.opens_tunnel(role, summary);
        let message = self.message(role);
        message.unsure = role == Role::Response && summary.status.is_none();
        message.declared = match summary.content_length {
            ContentLength::Bytes(len) if !bodiless && !tunnel => Some(len),
            _ => None,
        };
        summary.content_length != ContentLength::Invalid
    }

    /// Whether a head turns the stream into a tunnel: a success of CONNECT, plain (RFC 9113 section
    /// 8.5) or extended (RFC 8441).
    pub(crate) fn opens_tunnel(&self, role: Role, summary: &Summary) -> bool {
        role == Role::Response
            && self.method == Method::Connect
            && matches!(summary.status, Some(200..=299))
    }

    /// Whether the body of a message that ended in order has the length that was announced.
    pub(crate) fn length_is_right(&self, role: Role) -> bool {
        let message = match role {
            Role::Request => &self.request,
            Role::Response => &self.response,
        };
        match (message.declared, message.seen) {
            // The request may have been HEAD.
            (Some(_), Some(0)) if role == Role::Response && self.method == Method::Unknown => true,
            (Some(declared), Some(seen)) => declared == seen,
            _ => true,
        }
    }
}

impl Message {
    fn awaited() -> Self {
        Self {
            phase: Phase::Awaited,
            spoken: false,
            missing: Missing::NONE,
            unsure: false,
            declared: None,
            seen: Some(0),
        }
    }

    /// Bytes of the body came.
    pub(crate) fn add(&mut self, len: usize) {
        self.seen = self.seen.map(|seen| seen.saturating_add(len as u64));
        self.unsure = false;
    }

    /// Whether this section, where trailers are due, must be a second head.
    pub(crate) fn heads_again(&self, facts: &Facts) -> bool {
        facts.pseudo || (self.unsure && facts.first_unknown)
    }

    /// Something of the message is missing, and perhaps a part of the body.
    pub(crate) fn damage(&mut self, cause: Missing) {
        self.missing.insert(cause);
        self.seen = None;
    }
}
