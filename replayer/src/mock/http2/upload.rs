//! The body of a request, as it comes.

use std::future::poll_fn;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use h2::RecvStream;
use http::StatusCode;
use tokio::time::{Instant, timeout_at};

use super::stream::refused;
use crate::mock::journal::Said;
use crate::mock::memory::Share;
use crate::mock::responder::Responder;

/// A body that is held.
pub(super) struct Upload {
    stream: RecvStream,
    body: Vec<u8>,
    memory: Share,
    deadline: Instant,
    /// Who writes it down as it comes.
    said: Option<Said>,
}

/// What came next of a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum More {
    Data,
    End,
    Timeout,
    /// The client has reset the stream.
    Gone,
    Refused(StatusCode, &'static str),
}

impl Upload {
    pub(super) fn new(stream: RecvStream, responder: &Responder) -> Self {
        Self {
            stream,
            body: Vec::new(),
            memory: responder.share(),
            deadline: Instant::now() + responder.limits().body_timeout,
            said: None,
        }
    }

    /// What is there of it.
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// When it has to be whole.
    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn is_over(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// From now on, what comes is written down; and what came before.
    pub(super) fn tell(&mut self, said: Said) {
        said.add(&self.body);
        self.said = Some(said);
    }

    /// What is there, and what brings the rest.
    pub(super) fn into_parts(self) -> (Bytes, RecvStream) {
        (self.body.into(), self.stream)
    }

    /// Waits for the next piece until then.
    pub(super) async fn more(&mut self, responder: &Responder, until: Instant) -> More {
        if self.is_over() {
            self.end();
            return More::End;
        }
        let stream = &mut self.stream;
        let data = match timeout_at(until, poll_fn(|cx| stream.poll_data(cx))).await {
            Ok(Some(Ok(data))) => data,
            Ok(None) => {
                self.end();
                return More::End;
            }
            Ok(Some(Err(_))) => return More::Gone,
            Err(_) => return More::Timeout,
        };
        self.take(&data, responder)
    }

    fn take(&mut self, data: &Bytes, responder: &Responder) -> More {
        let limit = responder.limits().body_bytes;
        if data.len() > limit.saturating_sub(self.body.len()) {
            refused(responder);
            let why = "the body exceeds the limit of this mock";
            return More::Refused(StatusCode::PAYLOAD_TOO_LARGE, why);
        }
        if !self.memory.cover(self.body.len() + data.len()) {
            responder
                .counters()
                .overloads
                .fetch_add(1, Ordering::Relaxed);
            let why = "all memory for request bodies is taken; try again";
            return More::Refused(StatusCode::SERVICE_UNAVAILABLE, why);
        }
        self.body.extend_from_slice(data);
        if let Some(said) = &self.said {
            said.add(data);
        }
        match self.stream.flow_control().release_capacity(data.len()) {
            Ok(()) => More::Data,
            Err(_) => More::Gone,
        }
    }

    fn end(&self) {
        if let Some(said) = &self.said {
            said.end();
        }
    }
}
