//! The HTTP/2 server, on the `h2` crate: over TLS, and with prior knowledge (RFC 9113 section 3.3).
//!
//! Fields keep their order but for equal names, which stand together: `h2` takes a map. Floods
//! (rapid reset, header bombs, pings, empty frames) meet the limits of `h2`, set here.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, StatusCode, header, request};
use tokio::sync::Notify;
use tokio::time::{Instant, Interval, interval, sleep_until, timeout, timeout_at};

use super::call::{Call, Headers};
use super::chaos::{ConnectionFaults, Effect, Harm, Pace, Place};
use super::connection::{Line, Stop};
use super::journal::{Draft, KeptHead, Tee, answered, now};
use super::responder::{Origin, Reply, Responder, Response, scaled};
use super::socket::Begun;
use super::upstream::{Outgoing, Passed, Piece};

/// Serves a connection whose first bytes, the preface at least, were read already.
pub(crate) async fn serve(
    line: Line,
    begun: Vec<u8>,
    responder: &Arc<Responder>,
    faults: &ConnectionFaults,
    origin: &Origin,
) {
    let (socket, stop) = line.into_parts();
    let limits = *responder.limits();
    let io = Begun::new(begun, socket);
    let handshake = Builder::new()
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits.http2_pending_resets)
        .max_concurrent_reset_streams(limits.http2_pending_resets)
        .initial_window_size(if faults.window_stall {
            0
        } else {
            STREAM_WINDOW
        })
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(io);
    let mut connection = match timeout(limits.head_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) => return refused(responder),
        Err(_) => return timed_out(responder),
    };
    // Counts the streams that are being answered: each holds one.
    let busy = Arc::new(());
    let stopping = stop.wait();
    tokio::pin!(stopping);
    let mut stopped = false;
    let idle = sleep_until(Instant::now() + limits.idle_timeout);
    tokio::pin!(idle);
    let mut last = Instant::now();
    let orders = Arc::new(Orders::default());
    let mut storm = Storm {
        left: faults.settings_storm,
        tick: interval(STORM_TICK),
    };
    loop {
        if stop.is_set() && !stopped {
            stopped = true;
            connection.graceful_shutdown();
        }
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    last = Instant::now();
                    let mut stream = Stream { responder: Arc::clone(responder), respond, origin: origin.clone(), stop: Arc::clone(&stop), orders: Arc::clone(&orders) };
                    // A client that resets its streams opens new ones while their answers still
                    // wait for their recorded time.
                    if Arc::strong_count(&busy) > 2 * limits.http2_streams as usize {
                        responder.counters().overloads.fetch_add(1, Ordering::Relaxed);
                        stream.respond.send_reset(Reason::REFUSED_STREAM);
                        continue;
                    }
                    let busy = Arc::clone(&busy);
                    tokio::spawn(async move {
                        stream.serve(request).await;
                        drop(busy);
                    });
                }
                Some(Err(error)) => {
                    if !error.is_io() && error.reason() != Some(Reason::NO_ERROR) {
                        refused(responder);
                    }
                    return;
                }
                None => return,
            },
            () = &mut stopping, if !stopped => {}
            () = orders.wake.notified() => {
                connection.abrupt_shutdown(orders.reason());
            }
            _ = storm.tick.tick(), if storm.left > 0 => {
                // Refused while the one before is not acknowledged.
                let window = STREAM_WINDOW + (storm.left & 1);
                if connection.set_initial_window_size(window).is_ok() {
                    storm.left -= 1;
                }
            }
            () = &mut idle => {
                let until = last + limits.idle_timeout;
                let now = Instant::now();
                if Arc::strong_count(&busy) > 1 {
                    idle.as_mut().reset(now + limits.idle_timeout);
                } else if now < until {
                    idle.as_mut().reset(until);
                } else {
                    return timed_out(responder);
                }
            }
        }
    }
}

/// What a stream asks of its connection.
#[derive(Debug, Default)]
struct Orders {
    wake: Notify,
    goaway: AtomicU32,
}

impl Orders {
    fn end_with(&self, code: u32) {
        self.goaway.store(code, Ordering::SeqCst);
        self.wake.notify_one();
    }

    fn reason(&self) -> Reason {
        self.goaway.load(Ordering::SeqCst).into()
    }
}

/// SETTINGS frames that are still to be sent.
struct Storm {
    left: u32,
    tick: Interval,
}

/// One request and its answer.
struct Stream {
    responder: Arc<Responder>,
    respond: SendResponse<Bytes>,
    origin: Origin,
    stop: Arc<Stop>,
    orders: Arc<Orders>,
}

impl Stream {
    /// Answers; what goes wrong here (a reset, a connection that ends) concerns this stream only,
    /// and the client knows.
    async fn serve(&mut self, request: Request<RecvStream>) {
        let (head, mut stream) = request.into_parts();
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
        let limits = *self.responder.limits();
        let deadline = Instant::now() + limits.body_timeout;
        let mut memory = self.responder.share();
        let mut body = Vec::new();
        while !stream.is_end_stream() {
            let data = match timeout_at(deadline, poll_fn(|cx| stream.poll_data(cx))).await {
                Ok(Some(Ok(data))) => data,
                Ok(None) => break,
                Ok(Some(Err(_))) => return,
                Err(_) => {
                    timed_out(&self.responder);
                    let why = "the body did not come in time";
                    return self.problem(&head, StatusCode::REQUEST_TIMEOUT, why).await;
                }
            };
            if data.len() > limits.body_bytes - body.len() {
                refused(&self.responder);
                let why = "the body exceeds the limit of this mock";
                return self
                    .problem(&head, StatusCode::PAYLOAD_TOO_LARGE, why)
                    .await;
            }
            if !memory.cover(body.len() + data.len()) {
                let counters = self.responder.counters();
                counters.overloads.fetch_add(1, Ordering::Relaxed);
                let why = "all memory for request bodies is taken; try again";
                return self
                    .problem(&head, StatusCode::SERVICE_UNAVAILABLE, why)
                    .await;
            }
            body.extend_from_slice(&data);
            if stream.flow_control().release_capacity(data.len()).is_err() {
                return;
            }
        }
        let asked = call(&head, &body);
        let Origin { caller, tunnel } = &self.origin;
        let response = self.responder.respond(&asked, tunnel.as_ref()).await;
        let stream = u64::from(self.respond.stream_id().as_u32());
        let scheme = head.uri.scheme_str().unwrap_or_default();
        let draft = self
            .responder
            .draft(caller, stream, &asked, scheme, &response);
        drop(body);
        memory.release();
        match response {
            Response::Ready(reply) => self.give(&reply, draft).await,
            Response::Upstream(outgoing) => self.relay(*outgoing, draft).await,
            // Only HTTP/1 asks for those.
            Response::WebSocket(_) => {}
        }
    }

    /// Sends an answer of the mock's. A client that gives up may do so.
    async fn give(&mut self, reply: &Reply, draft: Option<Draft>) {
        let begun = draft.as_ref().map(|_| now());
        let done = match &reply.effect {
            Some(effect) => self.suffer(reply, effect).await,
            None => self.send(reply).await,
        };
        if let Some((draft, begun)) = draft.zip(begun) {
            answered(draft, reply, None, begun, done.is_some());
        }
    }

    /// Sends what an upstream answers, as it comes.
    async fn relay(&mut self, outgoing: Outgoing, draft: Option<Draft>) {
        let responder = Arc::clone(&self.responder);
        let asked = tokio::select! {
            asked = responder.ask(outgoing) => asked,
            _ = poll_fn(|cx| self.respond.poll_reset(cx)) => return,
        };
        let mut passed = match asked {
            Ok(passed) => passed,
            Err(reply) => return self.give(&reply, draft).await,
        };
        let mut response = http::Response::new(());
        *response.status_mut() = passed.status;
        *response.headers_mut() = passed.fields.clone();
        let mut tee = draft.map(|mut draft| {
            if let Some(peer) = passed.peer {
                draft.answered_by(peer);
            }
            let head = KeptHead::of_status(passed.status, passed.fields.clone());
            Tee::new(draft, head)
        });
        let over = passed.is_over();
        let mut trailers = None;
        let whole = match self.respond.send_response(response, over) {
            Ok(_) if over => true,
            Ok(mut stream) => {
                let relayed = self.relay_body(&mut passed, &mut stream, &mut tee).await;
                relayed.is_some_and(|last| {
                    trailers = last.clone();
                    match last {
                        Some(fields) => stream.send_trailers(fields).is_ok(),
                        None => stream.send_data(Bytes::new(), true).is_ok(),
                    }
                })
            }
            Err(_) => false,
        };
        if let Some(tee) = tee {
            let kept = trailers.map(|fields| KeptHead::Fields(Vec::new(), fields));
            tee.end(kept, whole);
        }
    }

    /// Sends the body of an upstream's answer, and gives its trailers. `None`: it did not end as it
    /// should; the stream was reset.
    async fn relay_body(
        &self,
        passed: &mut Passed,
        stream: &mut SendStream<Bytes>,
        tee: &mut Option<Tee>,
    ) -> Option<Option<HeaderMap>> {
        let mut trailers = None;
        loop {
            let piece = tokio::select! {
                piece = passed.next() => piece,
                _ = poll_fn(|cx| stream.poll_reset(cx)) => return None,
            };
            match piece {
                Piece::Data(data) => {
                    if let Some(tee) = tee {
                        tee.data(&data);
                    }
                    self.send_as_allowed(stream, data, false).await?;
                }
                Piece::Trailers(fields) => trailers = Some(fields),
                Piece::End => return Some(trailers),
                Piece::Broken => {
                    self.responder.upstream_failed();
                    stream.send_reset(Reason::INTERNAL_ERROR);
                    return None;
                }
            }
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
    async fn suffer(&mut self, reply: &Reply, effect: &Effect) -> Option<()> {
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
    async fn pause(
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
    async fn send_data(
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
    async fn send_as_allowed(
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
fn call<'a>(head: &'a request::Parts, body: &'a [u8]) -> Call<'a> {
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

fn refused(responder: &Responder) {
    responder.counters().refused.fetch_add(1, Ordering::Relaxed);
}

fn timed_out(responder: &Responder) {
    responder
        .counters()
        .timeouts
        .fetch_add(1, Ordering::Relaxed);
}

/// How long a stream lives on before chaos resets it: what was sent must leave first.
const RESET_AFTER: Duration = Duration::from_millis(20);
/// Longer than any client waits.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// How often a SETTINGS frame of a storm is tried.
const STORM_TICK: Duration = Duration::from_millis(1);
/// What a client may send ahead on one stream.
const STREAM_WINDOW: u32 = 256 << 10;
/// What a client may send ahead on one connection: this much may wait in memory.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What may wait to be sent on one stream.
const SEND_BUFFER: usize = 256 << 10;
/// Data up to this is handed to h2 whatever the window: times the streams of a connection, that is
/// 2 MiB.
const UNASKED: usize = 16 << 10;
