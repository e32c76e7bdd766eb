//! Requests and answers on one HTTP/1 connection.
//!
//! Answers to pipelined requests are gathered and sent with one write; a large body goes out
//! behind them from where it lies (writev), without a copy.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::super::answer::Http1Client;
use super::super::chaos::Effect;
use super::super::connection::{Filled, Line, Spoken};
use super::super::journal::{Draft, Kept, KeptHead, Tee, answered, now};
use super::super::memory::Share;
use super::super::responder::{Origin, Reply, Responder, Response, scaled};
use super::super::upstream::{Outgoing, Passed, Piece, Reached, Upgraded};
use super::super::websocket::Talk;
use super::faulty::{self, End};
use super::request::{Phase, Refusal, RequestReader, Step};
use super::upgraded;

/// One HTTP/1 connection.
pub(crate) struct Session<'r> {
    line: Line,
    reader: RequestReader,
    responder: &'r Responder,
    origin: &'r Origin,
    /// Requests so far.
    ordinal: u64,
    /// Answers to be sent.
    out: Vec<u8>,
    memory: Share,
    /// What has been waited for, since when.
    waiting: Option<(Phase, Instant)>,
}

/// How a connection goes on.
enum Next {
    GoOn,
    /// Closed in order: everything was sent.
    Close,
    /// There is nobody to talk to.
    Gone,
    /// Chaos resets it.
    Reset,
    /// It goes on as a conversation.
    WebSocket(Talk),
    /// It goes on as one with its upstream.
    Upgraded(Box<Upgraded>, Option<Draft>),
    /// The client asked for a tunnel and has it.
    Tunnel {
        authority: String,
    },
}

impl<'r> Session<'r> {
    /// A connection of which the reader has the first bytes.
    pub(crate) fn new(
        line: Line,
        reader: RequestReader,
        responder: &'r Responder,
        origin: &'r Origin,
    ) -> Self {
        Self {
            line,
            reader,
            responder,
            origin,
            ordinal: 0,
            out: Vec::new(),
            memory: responder.share(),
            waiting: None,
        }
    }

    /// Answers until the connection ends.
    pub(crate) async fn serve(mut self) -> Spoken {
        loop {
            let next = match self.reader.advance() {
                Step::Ready => self.answer().await,
                Step::NeedMore => self.receive().await,
                Step::SendContinue => {
                    self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                    Next::GoOn
                }
                Step::Refuse(refusal) => {
                    let counters = self.responder.counters();
                    counters.refused.fetch_add(1, Ordering::Relaxed);
                    self.refuse(refusal).await
                }
            };
            match next {
                Next::GoOn => {}
                Next::Close => {
                    self.line.close().await;
                    return Spoken::Done;
                }
                Next::Gone => return Spoken::Done,
                Next::Reset => {
                    self.line.reset();
                    return Spoken::Done;
                }
                Next::WebSocket(talk) => {
                    let (latency, limits) = (self.responder.latency(), self.responder.limits());
                    let begun = self.reader.unread().to_vec();
                    if talk.hold(self.line, &begun, latency, limits).await {
                        let counters = self.responder.counters();
                        counters.timeouts.fetch_add(1, Ordering::Relaxed);
                    }
                    return Spoken::Done;
                }
                Next::Upgraded(upgraded, draft) => {
                    let idle = self.responder.limits().idle_timeout;
                    let begun = self.reader.unread().to_vec();
                    if !upgraded::hold(self.line, &begun, *upgraded, draft, idle).await {
                        self.responder.upstream_failed();
                    }
                    return Spoken::Done;
                }
                Next::Tunnel { authority } => {
                    return Spoken::Tunnel {
                        begun: self.reader.unread().to_vec(),
                        inner: self.line,
                        authority,
                    };
                }
            }
        }
    }

    async fn receive(&mut self) -> Next {
        if !self.flush(&[]).await {
            return Next::Gone;
        }
        let counters = self.responder.counters();
        if !self.memory.cover(self.reader.memory()) {
            counters.overloads.fetch_add(1, Ordering::Relaxed);
            return self.refuse(OVERLOAD).await;
        }
        let phase = self.reader.phase();
        let since = match self.waiting {
            Some((same, since)) if same == phase => since,
            _ => Instant::now(),
        };
        self.waiting = Some((phase, since));
        let limits = self.responder.limits();
        let patience = match phase {
            Phase::Idle => limits.idle_timeout,
            Phase::Head => limits.head_timeout,
            Phase::Body => limits.body_timeout,
        };
        let between = phase == Phase::Idle;
        let space = self.reader.space();
        match self.line.fill(space, since + patience, between).await {
            Filled::Bytes => Next::GoOn,
            Filled::End | Filled::Lost => Next::Gone,
            Filled::Stopping => Next::Close,
            Filled::Timeout => {
                counters.timeouts.fetch_add(1, Ordering::Relaxed);
                match phase {
                    Phase::Idle => Next::Close,
                    Phase::Head | Phase::Body => self.refuse(TIMEOUT).await,
                }
            }
        }
    }

    async fn answer(&mut self) -> Next {
        // Reading ahead needs no socket, so nothing else would let other connections run.
        consume_budget().await;
        let call = self.reader.call();
        if self.responder.opens_tunnel(&call) {
            return self.tunnel().await;
        }
        let Origin { caller, tunnel } = self.origin;
        let response = if self.reader.wants_websocket() {
            self.responder.converse(&call, tunnel.as_ref()).await
        } else {
            self.responder.respond(&call, tunnel.as_ref()).await
        };
        let draft = self
            .responder
            .draft(caller, self.ordinal, &call, "", response.asks_upstream());
        self.ordinal += 1;
        let mut client = self.reader.client();
        client.close |= self.line.is_stopping();
        self.reader.consume();
        self.memory.release();
        self.waiting = None;
        match response {
            Response::Ready(reply) => self.give(&reply, client, draft).await,
            Response::Upstream(outgoing) => self.relay(*outgoing, client, draft).await,
            Response::Upgrade(outgoing) => self.upgrade(*outgoing, client, draft).await,
            Response::WebSocket(talk) => {
                if let Some(mut draft) = draft {
                    draft.tunnel();
                    let head = KeptHead::Lines(talk.handshake());
                    draft.answered(Some(Kept::whole(head, Bytes::new(), now())));
                }
                // Answers to earlier requests go first.
                if self.flush(&[]).await {
                    Next::WebSocket(talk)
                } else {
                    Next::Gone
                }
            }
        }
    }

    /// Sends an answer of the mock's.
    async fn give(&mut self, reply: &Reply, client: Http1Client, draft: Option<Draft>) -> Next {
        let begun = draft.as_ref().map(|_| now());
        let next = if let Some(effect) = &reply.effect {
            self.suffer(reply, effect, client).await
        } else if let Some(factor) = self.responder.latency() {
            self.send_on_time(reply, client, factor).await
        } else {
            self.send(reply, client).await
        };
        if let Some((draft, begun)) = draft.zip(begun) {
            let sent = !matches!(next, Next::Gone);
            answered(draft, reply, Some(client), begun, sent);
        }
        next
    }

    /// Sends what an upstream answers, as it comes.
    async fn relay(
        &mut self,
        outgoing: Outgoing,
        client: Http1Client,
        draft: Option<Draft>,
    ) -> Next {
        // Answers to earlier requests do not wait for an upstream.
        if !self.flush(&[]).await {
            return Next::Gone;
        }
        match self.responder.ask(outgoing).await {
            Ok(passed) => self.pass(passed, client, draft).await,
            Err(reply) => self.give_instead(&reply, client, draft).await,
        }
    }

    /// Asks an upstream to go on as WebSocket.
    async fn upgrade(
        &mut self,
        outgoing: Outgoing,
        client: Http1Client,
        draft: Option<Draft>,
    ) -> Next {
        if !self.flush(&[]).await {
            return Next::Gone;
        }
        match self.responder.upgrade(outgoing).await {
            Ok(Reached::Upgraded(upgraded)) => Next::Upgraded(upgraded, draft),
            Ok(Reached::Answered(passed)) => self.pass(*passed, client, draft).await,
            Err(reply) => self.give_instead(&reply, client, draft).await,
        }
    }

    /// Sends an answer of the mock's where an upstream gave none.
    async fn give_instead(
        &mut self,
        reply: &Reply,
        client: Http1Client,
        mut draft: Option<Draft>,
    ) -> Next {
        if let Some(draft) = &mut draft {
            draft.unanswered();
        }
        self.give(reply, client, draft).await
    }

    async fn pass(
        &mut self,
        mut passed: Passed,
        client: Http1Client,
        draft: Option<Draft>,
    ) -> Next {
        let framing = relayed_head(&passed, client, &mut self.out);
        let mut tee = draft.map(|mut draft| {
            if let Some(peer) = passed.peer {
                draft.answered_by(peer);
            }
            Tee::new(draft, KeptHead::Lines(self.out.clone()))
        });
        let (trailers, ended) = match self.relay_body(&mut passed, framing, &mut tee).await {
            Ok(trailers) => (trailers, Next::GoOn),
            Err(next) => (None, next),
        };
        let whole = matches!(ended, Next::GoOn);
        if matches!(ended, Next::Reset) {
            self.responder.upstream_failed();
        }
        if let Some(tee) = tee {
            let kept = trailers.map(KeptHead::Lines);
            tee.end(kept, whole);
        }
        let close = client.close || framing == RelayFraming::Close;
        if whole {
            self.finish(&[], close).await
        } else {
            ended
        }
    }

    /// Sends the body of an upstream's answer. Gives the lines of its trailers. The rest is still to
    /// be flushed.
    async fn relay_body(
        &mut self,
        passed: &mut Passed,
        framing: RelayFraming,
        tee: &mut Option<Tee>,
    ) -> Result<Option<Vec<u8>>, Next> {
        let mut trailers = None;
        if framing == RelayFraming::Bodyless {
            return Ok(None);
        }
        loop {
            // What has come is not held back until more does.
            if !self.flush(&[]).await {
                return Err(Next::Gone);
            }
            match passed.next().await {
                Piece::Data(data) if data.is_empty() => {}
                Piece::Data(data) => {
                    if let Some(tee) = tee {
                        tee.data(&data);
                    }
                    let chunked = framing == RelayFraming::Chunked;
                    if chunked {
                        let size = format!("{:x}\r\n", data.len());
                        self.out.extend_from_slice(size.as_bytes());
                    }
                    if !self.flush(&data).await {
                        return Err(Next::Gone);
                    }
                    if chunked {
                        self.out.extend_from_slice(b"\r\n");
                    }
                }
                Piece::Trailers(fields) => {
                    let mut lines = Vec::new();
                    write_fields(&fields, &mut lines);
                    trailers = Some(lines);
                }
                Piece::End => break,
                // What is said of its length would be a lie: only a reset tells.
                Piece::Broken => return Err(Next::Reset),
            }
        }
        if framing == RelayFraming::Chunked {
            self.out.extend_from_slice(b"0\r\n");
            self.out
                .extend_from_slice(trailers.as_deref().unwrap_or_default());
            self.out.extend_from_slice(b"\r\n");
        }
        Ok(trailers)
    }

    /// Whoever the client wants to be connected to: it is connected to the mock.
    async fn tunnel(&mut self) -> Next {
        let authority = String::from_utf8_lossy(self.reader.call().target).into_owned();
        self.reader.consume();
        self.memory.release();
        self.waiting = None;
        self.out
            .extend_from_slice(b"HTTP/1.1 200 Connection established\r\n\r\n");
        if self.flush(&[]).await {
            Next::Tunnel { authority }
        } else {
            Next::Gone
        }
    }

    /// Sends an answer that goes wrong on purpose.
    async fn suffer(&mut self, reply: &Reply, effect: &Effect, client: Http1Client) -> Next {
        // What was answered before is not concerned.
        if !self.flush(&[]).await {
            return Next::Gone;
        }
        let factor = self.responder.latency();
        match faulty::send(&mut self.line, reply, effect, client, factor).await {
            End::GoOn => Next::GoOn,
            End::Close => Next::Close,
            End::Reset => Next::Reset,
            End::Gone => Next::Gone,
        }
    }

    async fn send(&mut self, reply: &Reply, client: Http1Client) -> Next {
        if !client.http10 {
            for interim in reply.answer.interim() {
                self.out.extend_from_slice(&interim.http1);
            }
        }
        if reply.head_only {
            let close = reply.answer.http1_head(&mut self.out, client);
            self.out.extend_from_slice(b"\r\n");
            return self.finish(&[], close).await;
        }
        let (rest, close) = reply.answer.http1(&mut self.out, client);
        if rest.len() <= COPIED {
            self.out.extend_from_slice(&rest);
            if !close && self.out.len() < GATHERED {
                return Next::GoOn;
            }
            self.finish(&[], close).await
        } else {
            self.finish(&rest, close).await
        }
    }

    /// Sends every part when it is due.
    async fn send_on_time(&mut self, reply: &Reply, client: Http1Client, factor: f64) -> Next {
        let asked = Instant::now();
        let answer = &reply.answer;
        if !client.http10 {
            for interim in answer.interim() {
                if !self.pause(asked, scaled(interim.at, factor)).await {
                    return Next::Gone;
                }
                self.out.extend_from_slice(&interim.http1);
            }
        }
        let first_byte = scaled(reply.first_byte(), factor);
        if !self.pause(asked, first_byte).await {
            return Next::Gone;
        }
        let close = answer.http1_head(&mut self.out, client);
        if reply.head_only {
            self.out.extend_from_slice(b"\r\n");
            return self.finish(&[], close).await;
        }
        for (at, piece) in answer.http1_pieces(client) {
            let due = first_byte.saturating_add(scaled(at, factor));
            if !self.pause(asked, due).await {
                return Next::Gone;
            }
            if piece.len() <= COPIED {
                self.out.extend_from_slice(&piece);
            } else if !self.flush(&piece).await {
                return Next::Gone;
            }
        }
        self.finish(&[], close).await
    }

    /// Sends what is gathered when something is due later than now, and waits for that.
    async fn pause(&mut self, asked: Instant, after: std::time::Duration) -> bool {
        let Some(due) = asked.checked_add(after) else {
            // Not in this life: the client gives up first.
            return self.flush(&[]).await
                && self
                    .line
                    .pause_until(asked + self.responder.limits().idle_timeout)
                    .await;
        };
        Instant::now() >= due || (self.flush(&[]).await && self.line.pause_until(due).await)
    }

    async fn finish(&mut self, rest: &[u8], close: bool) -> Next {
        match (self.flush(rest).await, close) {
            (true, true) => Next::Close,
            (true, false) => Next::GoOn,
            (false, _) => Next::Gone,
        }
    }

    async fn flush(&mut self, rest: &[u8]) -> bool {
        self.line.send(&mut self.out, rest).await
    }

    async fn refuse(&mut self, refusal: Refusal) -> Next {
        let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
        let reply = Responder::problem(b"", status, refusal.why);
        let client = Http1Client {
            close: true,
            ..Http1Client::default()
        };
        let (rest, _) = reply.answer.http1(&mut self.out, client);
        self.finish(&rest, true).await
    }
}

/// How the body of an upstream's answer is delimited for its client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum RelayFraming {
    Bodyless,
    Length,
    Chunked,
    /// By the end of the connection: for HTTP/1.0.
    Close,
}

/// Writes the head of an upstream's answer.
fn relayed_head(passed: &Passed, client: Http1Client, out: &mut Vec<u8>) -> RelayFraming {
    let canonical = passed.status.canonical_reason().unwrap_or_default();
    let reason = passed.reason.as_deref().unwrap_or(canonical.as_bytes());
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(passed.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
    write_fields(&passed.fields, out);
    let framing = match passed.length {
        _ if passed.bodyless => RelayFraming::Bodyless,
        Some(_) => RelayFraming::Length,
        None if passed.is_over() => {
            out.extend_from_slice(b"content-length: 0\r\n");
            RelayFraming::Bodyless
        }
        None if client.http10 => RelayFraming::Close,
        None => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            RelayFraming::Chunked
        }
    };
    if client.close || framing == RelayFraming::Close {
        out.extend_from_slice(b"connection: close\r\n");
    } else if client.http10 {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
    framing
}

pub(super) fn write_fields(fields: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in fields {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Bodies up to this are copied behind their heads: cheaper than a second piece in the write.
const COPIED: usize = 16 << 10;
/// Answers are gathered up to this before they are sent.
const GATHERED: usize = 64 << 10;
const TIMEOUT: Refusal = Refusal {
    status: 408,
    why: "the request did not come in time",
};
const OVERLOAD: Refusal = Refusal {
    status: 503,
    why: "all memory for request bodies is taken; try again",
};
