//! Requests and answers on one HTTP/1 connection.
//!
//! Answers to pipelined requests are gathered and sent with one write; a large body goes out
//! behind them from where it lies (writev), without a copy.

use std::sync::atomic::Ordering;

use http::StatusCode;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::super::answer::Http1Client;
use super::super::chaos::Effect;
use super::super::connection::{Filled, Line, Spoken};
use super::super::responder::{Reply, Responder, Share, scaled};
use super::faulty::{self, End};
use super::request::{Phase, Refusal, RequestReader, Step};

/// One HTTP/1 connection.
pub(crate) struct Session<'r> {
    line: Line,
    reader: RequestReader,
    responder: &'r Responder,
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
    /// The client asked for a tunnel and has it.
    Tunnel {
        host: String,
    },
}

impl<'r> Session<'r> {
    /// A connection of which the reader has the first bytes.
    pub(crate) fn new(line: Line, reader: RequestReader, responder: &'r Responder) -> Self {
        Self {
            line,
            reader,
            responder,
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
                Next::Tunnel { host } => {
                    return Spoken::Tunnel {
                        begun: self.reader.unread().to_vec(),
                        inner: self.line,
                        host,
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
        if self.responder.opens_tunnel(&self.reader.call()) {
            return self.tunnel().await;
        }
        let reply = self.responder.respond(&self.reader.call()).await;
        let mut client = self.reader.client();
        client.close |= self.line.is_stopping();
        self.reader.consume();
        self.memory.release();
        self.waiting = None;
        if let Some(effect) = &reply.effect {
            return self.suffer(&reply, effect, client).await;
        }
        match self.responder.latency() {
            Some(factor) => self.send_on_time(&reply, client, factor).await,
            None => self.send(&reply, client).await,
        }
    }

    /// Whoever the client wants to be connected to: it is connected to the mock.
    async fn tunnel(&mut self) -> Next {
        let host = host_of(self.reader.call().target);
        self.reader.consume();
        self.memory.release();
        self.waiting = None;
        self.out
            .extend_from_slice(b"HTTP/1.1 200 Connection established\r\n\r\n");
        if self.flush(&[]).await {
            Next::Tunnel { host }
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
        let first_byte = scaled(answer.timing().first_byte, factor);
        if !self.pause(asked, first_byte).await {
            return Next::Gone;
        }
        let close = answer.http1_head(&mut self.out, client);
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

/// The host of an authority-form target (RFC 9112 section 3.2.3), without its port.
fn host_of(target: &[u8]) -> String {
    let target = String::from_utf8_lossy(target);
    let host = target.rsplit_once(':').map_or(&*target, |(host, _)| host);
    host.trim_matches(['[', ']']).to_owned()
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
