//! Which request a response answers (RFC 9112 section 9.3.2: responses come in the order of the
//! requests), and when that cannot be known.
//!
//! A response is tied to a request only if no other request can be the one. Where a loss leaves
//! several, all of them are reported as never answered, and the response as never asked: a pair
//! that is missing can be seen in the archive, a wrong one cannot.
//!
//! Three things can still deceive it, all far-fetched: a body that holds a whole head exactly where
//! a segment behind a loss begins; a client that never pipelined until the very moment at which
//! a lone interim response was lost; and one that pipelines with as many requests outstanding all
//! the time, of which each loss hid that there were several: it looks like one that waits.
//!
//! What makes it possible to recover at all is that almost every client is *sequential*: it sends
//! a request when the response before it is over. Once two requests were outstanding at a time the
//! connection is held to be pipelined for good, and nothing is concluded from order any more.
//!
//! ```text
//!            gap ToClient, one request outstanding
//!   certain ────────────────────────────────────────► doubt: was it answered in the gap?
//!      ▲ ▲                                              │ response first: no, this is its answer
//!      │ └──────────────────────────────────────────────┤ request first:  yes, it was answered
//!      │                                                │
//!      │     gap ToClient, several outstanding          ▼ (pipelined)
//!      │   ──────────────────────────────────────────► ghosts: n requests, answered or not
//!      ├───────────────────────────────────────────────── n responses came, and no request
//!      │
//!      │     gap ToServer
//!      │   ──────────────────────────────────────────► hole: requests were lost
//!      ├───────────────────────────────────────────────── a request, and the server had spoken
//!      │                                                   in between (sequential clients only)
//!      └───────────────────────────────────────────────── a request at once, then a gap ToClient, a
//!                                                          response, and a request: lost were whole
//!                                                          exchanges (sequential for TURNS requests)
//! ```

use std::collections::VecDeque;

use tapedeck_model::{
    Anomaly, Direction, End, Event, EventSink, Missing, Role, StreamKey, Timestamp,
};

/// How many requests have to find every earlier one answered before a client is believed to be
/// sequential where only that belief would pair. Who pipelines has two outstanding sooner.
const TURNS: u32 = 8;

/// What a response is read by.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Method {
    /// The request line was not seen.
    #[default]
    Unknown,
    Connect,
    Head,
    Other,
}

impl Method {
    /// The method that a head, or the beginning of one, names.
    pub(crate) fn of(head: &[u8]) -> Self {
        match memchr::memchr(b' ', head).and_then(|end| head.get(..end)) {
            None => Self::Unknown,
            Some(b"CONNECT") => Self::Connect,
            Some(b"HEAD") => Self::Head,
            Some(_) => Self::Other,
        }
    }
}

/// A request whose response is not over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    key: StreamKey,
    pub(crate) method: Method,
    /// It asks for another protocol.
    pub(crate) upgrade: bool,
    /// It waits for 100 (Continue).
    pub(crate) expect: bool,
    /// HTTP/0.9.
    pub(crate) simple: bool,
    /// All of it was seen, or it was given up.
    pub(crate) ended: bool,
    /// Its response has a final head.
    pub(crate) answered: bool,
    /// An interim response was seen.
    pub(crate) interim: bool,
}

impl Pending {
    /// Whether what follows it in its direction depends on the response.
    pub(crate) fn awaits_decision(&self) -> bool {
        !self.answered && (self.upgrade || self.method == Method::Connect)
    }
}

/// A response that belongs to no request that was seen.
#[derive(Clone, Copy, Debug)]
struct Orphan {
    key: StreamKey,
    answered: bool,
}

/// Requests were lost behind those that are outstanding, in an unknown number.
#[derive(Clone, Copy, Debug)]
struct Hole {
    cause: Missing,
    /// The server sent something since.
    activity: bool,
    /// It came while a request was unanswered: the client pipelines, or the answer was lost too.
    suspicious: bool,
    /// Responses were lost right before: the answers to what was lost here may be among them.
    explained: bool,
    /// A request followed before the server sent anything: the same two may be why. Its response
    /// cannot be told from those of the lost ones.
    followed: bool,
    /// One ever did: that it waited for an answer that was lost is only believed of who does so.
    unproven: bool,
    /// A response with a head came since the last request.
    answered: bool,
}

/// The book of requests and responses of one connection.
#[derive(Debug, Default)]
pub(crate) struct Pairing {
    queue: VecDeque<Pending>,
    next: u64,
    orphan: Option<Orphan>,
    seen_request: bool,
    pipelined: bool,
    /// Requests that began when all before them were answered.
    turns: u32,
    doubt: Option<Missing>,
    hole: Option<Hole>,
    /// Requests that were given up although their responses may still come: an upper bound.
    ghosts: u64,
    ghost_cause: Missing,
    /// No response will come any more.
    closed: Option<Missing>,
}

impl Pairing {
    /// A request begins. `head_in_flight`: what may be the head of a response is incomplete.
    pub(crate) fn begin_request(
        &mut self,
        at: Timestamp,
        limit: usize,
        head_in_flight: bool,
        out: &mut impl EventSink,
    ) -> StreamKey {
        self.seen_request = true;
        let key = self.next_key();
        if let Some(cause) = self.unanswerable(at, limit, head_in_flight, key, out) {
            absent(key, Role::Response, at, cause, out);
        } else {
            self.queue.push_back(Pending {
                key,
                method: Method::Unknown,
                upgrade: false,
                expect: false,
                simple: false,
                ended: false,
                answered: false,
                interim: false,
            });
        }
        key
    }

    /// Why the response of a request that begins now cannot be told from others.
    fn unanswerable(
        &mut self,
        at: Timestamp,
        limit: usize,
        head_in_flight: bool,
        key: StreamKey,
        out: &mut impl EventSink,
    ) -> Option<Missing> {
        if self.closed.is_some() {
            return self.closed;
        }
        if let (Some(front), Some(cause)) = (self.queue.front(), self.doubt) {
            let sequential =
                !self.pipelined && self.queue.len() == 1 && !front.expect && !head_in_flight;
            if sequential {
                self.close_all(at, cause, out);
                self.doubt = None;
            } else {
                self.give_up(at, cause, out);
            }
        } else if self.queue.is_empty() {
            // Whatever was lost before answered an earlier request.
            self.doubt = None;
            if self.hole.is_none() && key.0 > 0 {
                self.turns = self.turns.saturating_add(1);
            }
        } else {
            self.pipelined = true;
        }
        if self.queue.len() >= limit {
            out.event(Event::Anomaly {
                stream: Some(key),
                direction: Direction::ToServer,
                anomaly: Anomaly::TooManyOutstanding,
            });
            self.give_up(at, Missing::PARTIAL, out);
        }
        if self.ghosts > 0 {
            self.ghosts = self.ghosts.saturating_add(1);
            return Some(self.ghost_cause);
        }
        if let Some(hole) = &mut self.hole {
            let cause = hole.cause;
            if self.pipelined || self.orphan.is_some() {
                self.pipelined = true;
                return Some(cause);
            }
            if hole.followed {
                if !std::mem::take(&mut hole.answered) {
                    self.pipelined = true;
                    return Some(cause);
                }
            } else if !hole.activity {
                // Where whole exchanges were lost, the next response will come behind a gap.
                hole.followed = true;
                hole.unproven = true;
                hole.suspicious = !hole.explained;
                return Some(cause);
            }
            if hole.unproven && self.turns < TURNS {
                self.turns += 1;
                return Some(cause);
            }
            self.hole = None;
        }
        None
    }

    /// A response begins: the exchange that it belongs to.
    pub(crate) fn begin_response(&mut self, at: Timestamp, out: &mut impl EventSink) -> StreamKey {
        if let Some(orphan) = self.orphan {
            return orphan.key;
        }
        if let (Some(_), Some(cause)) = (self.hole, self.doubt) {
            // Lost both ways: this may answer the request that is outstanding, or a lost one.
            self.close_all(at, cause, out);
            self.doubt = None;
        }
        if let Some(front) = self.queue.front() {
            self.doubt = None;
            if let Some(hole) = &mut self.hole
                && hole.suspicious
            {
                // The response is there, so it was not waited for.
                hole.suspicious = false;
                self.pipelined = true;
            }
            return front.key;
        }
        let key = self.next_key();
        if let Some(hole) = &mut self.hole
            && hole.followed
            && hole.suspicious
        {
            // No response was lost, so the lost request was not answered before the next one came.
            hole.suspicious = false;
            self.pipelined = true;
        }
        let cause = if self.ghosts > 0 {
            self.ghost_cause
        } else if let Some(hole) = self.hole {
            hole.cause
        } else if let Some(cause) = self.doubt {
            cause
        } else if self.seen_request {
            out.event(Event::Anomaly {
                stream: Some(key),
                direction: Direction::ToClient,
                anomaly: Anomaly::UnsolicitedResponse,
            });
            Missing::NONE
        } else {
            Missing::PREDATES_CAPTURE
        };
        absent(key, Role::Request, at, cause, out);
        self.orphan = Some(Orphan {
            key,
            answered: false,
        });
        key
    }

    /// Whether the next response has no head (HTTP/0.9).
    pub(crate) fn simple_is_next(&self) -> bool {
        self.orphan.is_none()
            && self.doubt.is_none()
            && self.queue.front().is_some_and(|front| front.simple)
    }

    /// Whether responses may have been lost since the last request.
    pub(crate) const fn in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// Whether a request waits for its response.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The outstanding request of that exchange.
    pub(crate) fn pending(&mut self, key: StreamKey) -> Option<&mut Pending> {
        // The first for responses, the last for requests.
        match self.queue.front() {
            Some(front) if front.key == key => self.queue.front_mut(),
            _ => self
                .queue
                .iter_mut()
                .rev()
                .find(|pending| pending.key == key),
        }
    }

    /// The response of that exchange has its final head.
    pub(crate) fn final_head(&mut self, key: StreamKey) {
        if let Some(orphan) = self.orphan.as_mut().filter(|orphan| orphan.key == key) {
            orphan.answered = true;
            if let Some(hole) = &mut self.hole {
                hole.answered = true;
            }
            // It answers a ghost, or a request behind all ghosts that were answered: one less.
            self.ghosts = self.ghosts.saturating_sub(1);
        } else if let Some(pending) = self.pending(key) {
            pending.answered = true;
        }
    }

    /// The response of that exchange was ended.
    pub(crate) fn end_response(&mut self, key: StreamKey) {
        if self.queue.front().is_some_and(|front| front.key == key) {
            self.queue.pop_front();
        } else {
            self.orphan = None;
        }
    }

    /// The server sends, or sent something that was lost.
    pub(crate) fn server_activity(&mut self) {
        if let Some(hole) = &mut self.hole {
            hole.activity = true;
        }
    }

    /// Responses may have been lost. The response in progress was ended before.
    pub(crate) fn lost_responses(
        &mut self,
        at: Timestamp,
        cause: Missing,
        out: &mut impl EventSink,
    ) {
        if let Some(orphan) = self.orphan.take() {
            end(orphan.key, Role::Response, at, cause, out);
        }
        if let Some(hole) = &mut self.hole {
            hole.suspicious = false;
        }
        let mut doubt = self.doubt.unwrap_or_default();
        doubt.insert(cause);
        self.doubt = Some(doubt);
        if self.queue.len() > 1 {
            self.pipelined = true;
            self.give_up(at, doubt, out);
        }
    }

    /// Requests may have been lost. `between`: behind a whole request, not within one.
    pub(crate) fn lost_requests(&mut self, cause: Missing, between: bool) {
        let mut hole = self.hole.unwrap_or(Hole {
            cause,
            activity: false,
            suspicious: false,
            explained: false,
            followed: false,
            unproven: false,
            answered: false,
        });
        hole.cause.insert(cause);
        hole.activity = false;
        hole.explained = self.doubt.is_some();
        // What followed the hole before this one was answered, so that it begins anew.
        if std::mem::take(&mut hole.answered) {
            hole.followed = false;
        }
        hole.suspicious |= between && !self.queue.is_empty() && self.doubt.is_none();
        self.hole = Some(hole);
    }

    /// No response will come any more.
    pub(crate) fn close(&mut self, at: Timestamp, cause: Missing, out: &mut impl EventSink) {
        let cause = self.doubt.unwrap_or(cause);
        if let Some(orphan) = self.orphan.take() {
            end(orphan.key, Role::Response, at, cause, out);
        }
        self.close_all(at, cause, out);
        self.closed = Some(cause);
    }

    /// Whether two requests were ever outstanding at a time.
    pub(crate) const fn is_pipelined(&self) -> bool {
        self.pipelined
    }

    /// Gives up on every request; their responses may still come, and belong to none of those that
    /// follow.
    pub(crate) fn abandon(&mut self, at: Timestamp, cause: Missing, out: &mut impl EventSink) {
        if let Some(orphan) = self.orphan.take() {
            end(orphan.key, Role::Response, at, cause, out);
        }
        self.ghosts = self.ghosts.saturating_add(self.queue.len() as u64);
        self.ghost_cause = cause;
        self.close_all(at, cause, out);
        self.queue = VecDeque::new();
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.queue.capacity() * size_of::<Pending>()
    }

    /// Gives up on every outstanding request, whose responses may still come.
    fn give_up(&mut self, at: Timestamp, cause: Missing, out: &mut impl EventSink) {
        self.ghosts = self.ghosts.saturating_add(self.queue.len() as u64);
        self.ghost_cause = cause;
        // A response in progress is somebody's: it goes on as what it is.
        let answered = self.queue.front().copied().filter(|front| front.answered);
        if let Some(front) = answered {
            self.queue.pop_front();
            self.ghosts = self.ghosts.saturating_sub(1);
            self.close_all(at, cause, out);
            self.queue.push_back(front);
        } else {
            self.close_all(at, cause, out);
        }
    }

    fn close_all(&mut self, at: Timestamp, cause: Missing, out: &mut impl EventSink) {
        for pending in self.queue.drain(..) {
            if pending.interim || pending.answered {
                end(pending.key, Role::Response, at, cause, out);
            } else {
                absent(pending.key, Role::Response, at, cause, out);
            }
        }
    }

    const fn next_key(&mut self) -> StreamKey {
        let key = StreamKey(self.next);
        self.next += 1;
        key
    }
}

fn absent(
    stream: StreamKey,
    role: Role,
    at: Timestamp,
    missing: Missing,
    out: &mut impl EventSink,
) {
    out.event(Event::Absent {
        stream,
        role,
        at,
        missing,
        reset_code: None,
    });
}

fn end(stream: StreamKey, role: Role, at: Timestamp, missing: Missing, out: &mut impl EventSink) {
    out.event(Event::End {
        stream,
        role,
        at,
        end: End::missing(missing),
    });
}
