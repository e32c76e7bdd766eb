//! One request of an HTTP/2 connection, and its answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, StatusCode, header, request};
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::Orders;
use super::upload::{More, Upload};
use crate::mock::call::{Call, Headers};
use crate::mock::chaos::{Effect, Harm, Pace, Place};
use crate::mock::connection::Stop;
use crate::mock::journal::{Draft, answered, now};
use crate::mock::responder::{Early, Origin, Reply, Responder, Response, scaled};

/// One request and its answer.
pub(super) struct Stream {
    pub(super) responder: Arc<Responder>,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) origin: Origin,
    pub(super) stop: Arc<Stop>,
    pub(super) orders: Arc<Orders>,
}

/// What came of listening to a request.
enum Heard {
    Whole,
    /// It is not whole, and the client of a call says nothing more.
    Silent,
    /// So many bytes of its body tell what it will be.
    Opening(usize),
    Refused(StatusCode, &'static str),
    /// The client has reset it.
    Gone,
}

/// So many bytes of a body tell what it will be.
#[derive(Clone, Copy)]
struct Opening {
    len: usize,
    /// Whatever comes behind it.
    is_sure: bool,
}

impl Stream {
    /// Answers; what goes wrong here (a reset, a connection that ends) concerns this stream only,
    /// and the client knows.
    pub(super) async fn serve(&mut self, request: Request<RecvStream>) {
        let (head, stream) = request.into_parts();
        let expects = head.headers.get(header::EXPECT);
        if expects.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
            && !stream.is_end_stream()
        {
            let mut go_on = http::Response::new(());
            *go_on.status_mut() = StatusCode::CONTINUE;
            if self.respond.send_informational(go_on).is_err() {
                return;
            }
        }
        let responder = Arc::clone(&self.responder);
        let mut upload = Upload::new(stream, &responder);
        let mut early = Early::No;
        // Of other requests nobody waits for an answer before they are whole.
        if is_grpc(&head) && !upload.is_over() {
            early = responder.early(&call(&head, b""));
        }
        if early == Early::Unknown && responder.passes_on() {
            return self.relay_as_it_comes(&head, upload).await;
        }
        match self.hear(&head, &mut upload, early).await {
            Heard::Whole => {}
            Heard::Silent => {
                // It waits for an answer. What is there may be all that was recorded.
                let is_known = responder.holds(&call(&head, upload.body()));
                if !is_known && responder.passes_on() {
                    return self.relay_as_it_comes(&head, upload).await;
                }
            }
            Heard::Opening(len) => return self.take_turns(&head, upload, len).await,
            Heard::Refused(status, why) => return self.problem(&head, status, why).await,
            Heard::Gone => return,
        }
        let asked = call(&head, upload.body());
        let Origin { caller, tunnel } = &self.origin;
        let response = responder.respond(&asked, tunnel.as_ref()).await;
        let stream = u64::from(self.respond.stream_id().as_u32());
        let scheme = head.uri.scheme_str().unwrap_or_default();
        let upstream = response.asks_upstream();
        let draft = responder.draft(caller, stream, &asked, scheme, upstream);
        drop(upload);
        match response {
            Response::Ready(reply) => self.give(&reply, draft).await,
            Response::Upstream(outgoing) => self.relay(*outgoing, draft).await,
            // Only HTTP/1 asks for those.
            Response::WebSocket(_) | Response::Upgrade(_) => {}
        }
    }

    /// Waits until the request is whole, or until as much of it is there as it takes to answer.
    async fn hear(&self, head: &request::Parts, upload: &mut Upload, early: Early<'_>) -> Heard {
        let lens = match early {
            Early::Openings(lens) => lens,
            Early::No | Early::Unknown => &[],
        };
        let silence = match early {
            Early::Unknown => Some(QUIET),
            _ if is_grpc(head) => Some(self.responder.limits().grpc_silence),
            Early::Openings(_) | Early::No => None,
        };
        loop {
            let opening = self.opening(head, upload.body(), lens);
            let patience = match opening {
                Some(Opening { len, is_sure: true }) => return Heard::Opening(len),
                // It might still turn out to be another.
                Some(_) => Some(QUIET),
                None => silence,
            };
            let deadline = upload.deadline();
            let until = patience.map_or(deadline, |patience| Instant::now() + patience);
            match upload.more(&self.responder, until.min(deadline)).await {
                More::Data => {}
                More::End => return Heard::Whole,
                More::Gone => return Heard::Gone,
                More::Refused(status, why) => return Heard::Refused(status, why),
                More::Timeout => match opening {
                    Some(Opening { len, .. }) => return Heard::Opening(len),
                    None if until < deadline => return Heard::Silent,
                    None => {
                        timed_out(&self.responder);
                        let why = "the body did not come in time";
                        return Heard::Refused(StatusCode::REQUEST_TIMEOUT, why);
                    }
                },
            }
        }
    }

    /// By how much of what is there a call is known, if it is.
    fn opening(&self, head: &request::Parts, body: &[u8], lens: &[usize]) -> Option<Opening> {
        let known = |len: &usize| {
            let opening = body.get(..*len)?;
            let exchanges = self.responder.opening(&call(head, opening));
            // A longer one may be on its way.
            let is_longest = lens.last() == Some(len);
            (exchanges > 0).then_some(Opening {
                len: *len,
                is_sure: is_longest && exchanges == 1,
            })
        };
        lens.iter().rev().find_map(known)
    }

    /// Sends an answer of the mock's. A client that gives up may do so.
    pub(super) async fn give(&mut self, reply: &Reply, draft: Option<Draft>) {
        let begun = draft.as_ref().map(|_| now());
        let done = match &reply.effect {
            Some(effect) => self.suffer(reply, effect).await,
            None => self.send(reply).await,
        };
        if let Some((draft, begun)) = draft.zip(begun) {
            answered(draft, reply, None, begun, done.is_some());
        }
    }

    async fn problem(&mut self, head: &request::Parts, status: StatusCode, why: &str) {
        let method = head.method.as_str().as_bytes();
        let reply = Responder::problem(method, status, why);
        let _done = self.send(&reply).await;
    }

    /// Sends an answer, on time if asked. `None`: the stream ended before.
    async fn send(&mut self, reply: &Reply) -> Option<()> {
        let answer = &reply.answer;
        let asked = Instant::now();
        let factor = self.responder.latency();
        let after =
            |recorded| factor.and_then(|factor| asked.checked_add(scaled(recorded, factor)));
        for interim in answer.interim() {
            self.pause(None, after(interim.at)).await?;
            self.respond.send_informational(interim.http2()).ok()?;
        }
        let first_byte = reply.first_byte();
        self.pause(None, after(first_byte)).await?;
        let trailers = answer.http2_trailers().filter(|_| !reply.head_only);
        let body = reply.body();
        let headers_only = body.is_empty() && trailers.is_none();
        let mut stream = self
            .respond
            .send_response(answer.http2(), headers_only)
            .ok()?;
        if headers_only {
            return Some(());
        }
        if factor.is_none() {
            self.send_data(&mut stream, body, trailers.is_none())
                .await?;
        } else {
            let mut sent = 0;
            for (at, piece) in answer.body_pieces() {
                let due = after(first_byte.saturating_add(at));
                self.pause(Some(&mut stream), due).await?;
                sent += piece.len();
                let last = sent == body.len() && trailers.is_none();
                self.send_data(&mut stream, piece, last).await?;
            }
        }
        if let Some(trailers) = trailers {
            stream.send_trailers(trailers.clone()).ok()?;
        }
        Some(())
    }

    /// Sends an answer that goes wrong on purpose. `None`: the stream ended before.
    pub(super) async fn suffer(&mut self, reply: &Reply, effect: &Effect) -> Option<()> {
        let answer = &reply.answer;
        let first_byte = reply.first_byte();
        let factor = self.responder.latency();
        let recorded = factor.map_or(Duration::ZERO, |factor| scaled(first_byte, factor));
        let delay = effect.delay.saturating_add(recorded);
        self.pause(None, Instant::now().checked_add(delay)).await?;
        let mut response = answer.http2();
        let body = reply.body();
        let mut cut = body.len();
        match effect.harm {
            Some(Harm::Goaway { code }) => {
                self.orders.end_with(code);
                // A stream that is dropped before is reset, and the reset would be seen first.
                return self.stall(None, None).await;
            }
            Some(Harm::Reset { at, code }) if at.is_before_body() => {
                self.respond.send_reset(code.into());
                return Some(());
            }
            Some(Harm::Stall { at, time }) if at.is_before_body() => self.stall(None, time).await?,
            Some(Harm::Cut { at } | Harm::Reset { at, .. } | Harm::Stall { at, .. }) => {
                cut = match at {
                    Place::Body(bytes) => bytes.min(body.len().saturating_sub(1)),
                    Place::BeforeHead | Place::InHead | Place::AfterHead => 0,
                };
            }
            Some(Harm::MalformedChunk) => cut = 0,
            Some(Harm::Length(by)) => {
                let length = i64::try_from(body.len()).unwrap_or(i64::MAX);
                let stated = length.saturating_add(by).max(0);
                let fields = response.headers_mut();
                fields.insert(header::CONTENT_LENGTH, stated.into());
            }
            Some(Harm::MissingTrailers) | None => {}
        }
        let trailers = match effect.harm {
            Some(Harm::MissingTrailers) => None,
            _ if reply.head_only => None,
            _ => answer.http2_trailers().cloned(),
        };
        let whole = matches!(effect.harm, None | Some(Harm::Stall { .. }));
        if body.is_empty() && trailers.is_none() && whole {
            self.respond.send_response(response, true).ok()?;
            return Some(());
        }
        let mut stream = self.respond.send_response(response, false).ok()?;
        let (before, behind) = (body.slice(..cut), body.slice(cut..));
        self.send_paced(&mut stream, before, effect.pace).await?;
        match effect.harm {
            Some(Harm::Reset { code, .. }) => {
                self.leave_time(&mut stream).await?;
                stream.send_reset(code.into());
                return Some(());
            }
            Some(Harm::MalformedChunk) => {
                self.leave_time(&mut stream).await?;
                stream.send_reset(Reason::PROTOCOL_ERROR);
                return Some(());
            }
            Some(Harm::Cut { .. }) => return stream.send_data(Bytes::new(), true).ok(),
            Some(Harm::Stall { at, time }) if !at.is_before_body() => {
                self.stall(Some(&mut stream), time).await?;
            }
            _ => {}
        }
        self.send_paced(&mut stream, behind, effect.pace).await?;
        match trailers {
            Some(trailers) => stream.send_trailers(trailers).ok(),
            None => stream.send_data(Bytes::new(), true).ok(),
        }
    }

    /// Gives the connection time to send what a reset would throw away.
    async fn leave_time(&mut self, stream: &mut SendStream<Bytes>) -> Option<()> {
        self.pause(Some(stream), Some(Instant::now() + RESET_AFTER))
            .await
    }

    /// Sends nothing for that time, or until the client gives up.
    async fn stall(
        &mut self,
        stream: Option<&mut SendStream<Bytes>>,
        time: Option<Duration>,
    ) -> Option<()> {
        let due = Instant::now().checked_add(time.unwrap_or(LONG));
        self.pause(stream, due).await
    }

    async fn send_paced(
        &mut self,
        stream: &mut SendStream<Bytes>,
        mut data: Bytes,
        pace: Option<Pace>,
    ) -> Option<()> {
        let Some(pace) = pace else {
            if data.is_empty() {
                return Some(());
            }
            return self.send_data(stream, data, false).await;
        };
        let mut due = Instant::now();
        while !data.is_empty() {
            self.pause(Some(stream), Some(due)).await?;
            let part = data.split_to(pace.bytes.clamp(1, data.len()));
            self.send_data(stream, part, false).await?;
            due = due.checked_add(pace.every)?;
        }
        Some(())
    }

    /// Waits until then, or until the mock stops. `None`: the client reset the stream. `stream` is
    /// there once the head was sent: from then on `respond` cannot tell of a reset.
    pub(super) async fn pause(
        &mut self,
        stream: Option<&mut SendStream<Bytes>>,
        due: Option<Instant>,
    ) -> Option<()> {
        let Some(due) = due.filter(|due| *due > Instant::now()) else {
            return Some(());
        };
        let stopping = self.stop.wait();
        if self.stop.is_set() {
            return Some(());
        }
        let reset = async {
            match stream {
                Some(stream) => poll_fn(|cx| stream.poll_reset(cx)).await,
                None => poll_fn(|cx| self.respond.poll_reset(cx)).await,
            }
        };
        tokio::select! {
            () = sleep_until(due) => Some(()),
            () = stopping => Some(()),
            _ = reset => None,
        }
    }

    /// Sends data as the client's windows allow.
    pub(super) async fn send_data(
        &self,
        stream: &mut SendStream<Bytes>,
        data: Bytes,
        last: bool,
    ) -> Option<()> {
        // Small data may wait in h2 for a window: no need to wait here.
        if data.len() <= UNASKED {
            return stream.send_data(data, last).ok();
        }
        self.send_as_allowed(stream, data, last).await
    }

    /// Sends data when there is a window for it.
    pub(super) async fn send_as_allowed(
        &self,
        stream: &mut SendStream<Bytes>,
        mut data: Bytes,
        last: bool,
    ) -> Option<()> {
        let patience = self.responder.limits().write_timeout;
        while data.has_remaining() {
            stream.reserve_capacity(data.len());
            let capacity = poll_fn(|cx| stream.poll_capacity(cx));
            let Ok(capacity) = timeout(patience, capacity).await else {
                timed_out(&self.responder);
                stream.send_reset(Reason::CANCEL);
                return None;
            };
            let part = data.split_to(capacity?.ok()?.min(data.len()));
            if part.is_empty() {
                continue;
            }
            let end = last && data.is_empty();
            stream.send_data(part, end).ok()?;
        }
        Some(())
    }
}

/// A request as the matcher sees it.
pub(super) fn call<'a>(head: &'a request::Parts, body: &'a [u8]) -> Call<'a> {
    let field = |name| head.headers.get(name).map(header::HeaderValue::as_bytes);
    let authority = head.uri.authority().map(|authority| authority.as_str());
    let target = match head.uri.path_and_query() {
        Some(target) => target.as_str(),
        // CONNECT has an authority and nothing else (RFC 9113 section 8.5).
        None => authority.unwrap_or("/"),
    };
    Call {
        method: head.method.as_str().as_bytes(),
        authority: authority.map(str::as_bytes).or_else(|| field(header::HOST)),
        target: target.as_bytes(),
        content_type: field(header::CONTENT_TYPE),
        session: field(header::AUTHORIZATION).or_else(|| field(header::COOKIE)),
        headers: Headers::Map(&head.headers),
        body,
    }
}

fn is_grpc(head: &request::Parts) -> bool {
    let media = head.headers.get(header::CONTENT_TYPE);
    media.is_some_and(|media| tapedeck_model::is_grpc(media.as_bytes()))
}

pub(super) fn refused(responder: &Responder) {
    responder.counters().refused.fetch_add(1, Ordering::Relaxed);
}

pub(super) fn timed_out(responder: &Responder) {
    responder
        .counters()
        .timeouts
        .fetch_add(1, Ordering::Relaxed);
}

/// How long a stream lives on before chaos resets it: what was sent must leave first.
const RESET_AFTER: Duration = Duration::from_millis(20);
/// Longer than any client waits.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// Data up to this is handed to h2 whatever the window: times the streams of a connection, that is
/// 2 MiB.
const UNASKED: usize = 16 << 10;
/// How long a client has to be silent before a call is taken for what it began like, where that may be
/// the beginning of several.
const QUIET: Duration = Duration::from_millis(50);
