//! The machine of one connection: bytes of both directions in, events out.

mod body;
mod half;
mod start;

use tapedeck_model::{
    Anomalies, Anomaly, Direction, End, Event, EventSink, Gap, GapCause, Input, Missing,
    PerDirection, Role, StreamKey, Timestamp,
};

use crate::Limits;
use crate::framing::Framing;
use crate::pairing::{Pairing, Pending};
use crate::probe::Probe;
use half::{Close, Half, State};

/// Reads both directions of one HTTP/1 connection; see the [crate] documentation.
///
/// It may be given a connection from its first byte or from the middle: what comes before the
/// first message is skipped. Behind [`Event::SwitchToHttp2`] it ignores all input.
///
/// - A response is paired with a request only if no loss makes another one possible; see
///   [`Missing::ABSENT`].
/// - The end of a CONNECT or Upgrade request waits for the decision of the server.
/// - Where `101` switches to h2c, that head is an interim response: the final one comes in HTTP/2.
///   Bytes that the client sent ahead come as a second [`Event::SwitchToHttp2`].
/// - Where the decision may have been lost, what the client goes on with tells it: a request, or
///   the preface of HTTP/2.
/// - Interim and final responses that no request asked for make one exchange.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    halves: PerDirection<Half>,
    pairing: Pairing,
    verdict: Option<Verdict>,
    switched: bool,
}

/// What a client begins HTTP/2 with (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a response decides about the request for a tunnel or another protocol before it.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    Refused(StreamKey),
    Tunnel(StreamKey),
    Http2(StreamKey),
}

impl Reader {
    /// A reader for one connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            halves: PerDirection {
                to_server: Half::new(),
                to_client: Half::new(),
            },
            pairing: Pairing::default(),
            verdict: None,
            switched: false,
        }
    }

    /// Takes what happened next in one direction.
    pub fn push(
        &mut self,
        at: Timestamp,
        direction: Direction,
        input: Input<'_>,
        out: &mut impl EventSink,
    ) {
        if self.switched {
            return;
        }
        if direction == Direction::ToClient && matches!(input, Input::Data(_) | Input::Gap(_)) {
            self.pairing.server_activity();
        }
        match input {
            Input::Data(data) => self.data(at, direction, data, out),
            Input::Gap(gap) => self.gap(at, direction, gap, out),
            Input::Fin => self.close(at, direction, Close::Fin, out),
            Input::Reset => self.close(at, direction, Close::Reset, out),
            Input::Cut => self.close(at, direction, Close::Cut, out),
        }
        if !self.switched {
            self.settle(at, out);
        }
        for direction in Direction::BOTH {
            self.report_skipped(direction, out);
        }
    }

    /// Bytes of that direction came before the first input, and were no beginning of a message: the
    /// rest of one, perhaps.
    pub fn passed_over(&mut self, direction: Direction) {
        match direction {
            Direction::ToServer => {
                let cause = Missing::PREDATES_CAPTURE;
                self.pairing.lost_requests(cause, false);
            }
            Direction::ToClient => self.pairing.server_activity(),
        }
    }

    /// Gives up what it holds of messages under way: they are [`Missing::PARTIAL`]. It goes on with
    /// the next message that can be told from these.
    pub fn give_up(&mut self, at: Timestamp, out: &mut impl EventSink) {
        let gap = Gap {
            len: 0,
            cause: GapCause::Limit,
        };
        for direction in Direction::BOTH {
            if let State::Tunnel { key } = self.halves[direction].state {
                self.fail(at, direction, key, Missing::PARTIAL, out);
                self.halves[direction].state = State::Opaque;
            }
            self.push(at, direction, Input::Gap(gap), out);
            // A body that ends with the connection went on behind the gap.
            if let State::Body { key, .. } = self.halves[direction].state {
                self.fail(at, direction, key, Missing::PARTIAL, out);
                self.lose_place(at, direction, Missing::PARTIAL, false, out);
            }
        }
        self.pairing.abandon(at, Missing::PARTIAL, out);
        self.settle(at, out);
    }

    /// Bytes held.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.halves.to_server.buffer.capacity()
            + self.halves.to_client.buffer.capacity()
            + self.pairing.memory()
    }

    fn data(&mut self, at: Timestamp, direction: Direction, data: &[u8], out: &mut impl EventSink) {
        let half = &mut self.halves[direction];
        if let State::Lost { fresh } = &mut half.state {
            *fresh = true;
        }
        self.feed(at, direction, data, out);
        self.halves[direction].last_byte = at;
    }

    /// Reads bytes: those of an input, or those that were held back.
    fn feed(
        &mut self,
        at: Timestamp,
        direction: Direction,
        mut data: &[u8],
        out: &mut impl EventSink,
    ) {
        while !data.is_empty() {
            data = self.step(at, direction, data, out);
            if let Some(verdict) = self.verdict.take() {
                data = self.decide(verdict, at, data, out);
            }
        }
    }

    /// Reads up to the next change of state; what is behind it.
    fn step<'a>(
        &mut self,
        at: Timestamp,
        direction: Direction,
        data: &'a [u8],
        out: &mut impl EventSink,
    ) -> &'a [u8] {
        match self.halves[direction].state {
            State::Between { blank } => self.between(at, direction, blank, data, out),
            State::Head { key } => self.head(at, direction, key, data, out),
            State::Peek { key, framing } => self.peek(at, direction, key, framing, data, out),
            State::Body { key, framing } => self.body(at, direction, key, framing, data, out),
            State::Trailers { key } => self.trailers(at, direction, key, data, out),
            State::Undecided { key, at: end } => self.undecided(at, key, end, data, out),
            State::Tunnel { key } => {
                out.event(Event::Body {
                    stream: key,
                    role: role(direction),
                    at,
                    data,
                });
                &[]
            }
            State::Opaque | State::Ended => {
                self.halves[direction].skip(data.len());
                &[]
            }
            State::Lost { fresh } => self.lost(at, direction, fresh, data),
            State::Trial => self.trial(at, direction, data, out),
        }
    }

    /// Holds what the client sends before the server decided, within the limit.
    fn undecided<'a>(
        &mut self,
        at: Timestamp,
        key: StreamKey,
        end: Timestamp,
        data: &'a [u8],
        out: &mut impl EventSink,
    ) -> &'a [u8] {
        let buffer = &mut self.halves.to_server.buffer;
        if buffer.len().saturating_add(data.len()) <= self.limits.undecided {
            buffer.extend_from_slice(data);
            if self.pairing.in_doubt() {
                self.decide_by_client(at, key, end, out);
            }
            return &[];
        }
        // So much is not sent in good faith: it is a message, or nothing.
        self.refuse(at, key, end, out);
        data
    }

    /// The decision may have been lost: what the client goes on with tells it, where that is HTTP.
    fn decide_by_client(
        &mut self,
        at: Timestamp,
        key: StreamKey,
        end: Timestamp,
        out: &mut impl EventSink,
    ) {
        let begin = self.halves.to_server.buffer.as_slice();
        let asked = |pending: &mut Pending| pending.upgrade;
        if begin.starts_with(HTTP2_PREFACE) && self.pairing.pending(key).is_some_and(asked) {
            self.decide(Verdict::Http2(key), at, &[], out);
        } else if start::resumes(begin, Direction::ToServer) == Probe::Yes(Role::Request) {
            self.refuse(at, key, end, out);
        }
    }

    /// Acts on the decision of the server; what is left of `rest` for the client's direction.
    fn decide<'a>(
        &mut self,
        verdict: Verdict,
        at: Timestamp,
        rest: &'a [u8],
        out: &mut impl EventSink,
    ) -> &'a [u8] {
        let to_server = &mut self.halves.to_server;
        let (Verdict::Refused(key) | Verdict::Tunnel(key) | Verdict::Http2(key)) = verdict;
        let asked = match to_server.state {
            State::Undecided { key: own, at } if own == key => Some(at),
            _ => None,
        };
        match verdict {
            Verdict::Refused(_) => {
                if let Some(end) = asked {
                    self.refuse(at, key, end, out);
                }
                rest
            }
            Verdict::Tunnel(_) => {
                out.event(Event::Tunnel { stream: key });
                match to_server.state {
                    State::Undecided { .. } if asked.is_some() => {
                        to_server.state = State::Tunnel { key };
                        let (early, early_at) =
                            (std::mem::take(&mut to_server.buffer), to_server.last_byte);
                        self.feed(early_at, Direction::ToServer, &early, out);
                    }
                    State::Body { key: own, .. } | State::Trailers { key: own } => {
                        to_server.tunnel_next = own == key;
                    }
                    State::Between { .. } | State::Lost { .. } | State::Trial => {
                        to_server.drop_buffer();
                        to_server.state = State::Opaque;
                    }
                    _ => {}
                }
                rest
            }
            Verdict::Http2(_) => {
                self.switched = true;
                let early = std::mem::take(&mut to_server.buffer);
                let to_client = &self.halves.to_client.state;
                let lost = matches!(to_client, State::Lost { .. } | State::Trial);
                if let Some(end) = asked {
                    self.end_message(end, Direction::ToServer, key, End::WHOLE, out);
                }
                for (direction, rest) in [
                    (Direction::ToClient, rest),
                    (Direction::ToServer, early.as_slice()),
                ] {
                    // The first is the switch itself; the second only carries bytes.
                    if direction == Direction::ToClient || !rest.is_empty() {
                        out.event(Event::SwitchToHttp2 {
                            stream: key,
                            direction,
                            lost: lost && direction == Direction::ToClient,
                            rest,
                        });
                    }
                }
                &[]
            }
        }
    }

    /// The request was an ordinary one, and what came behind it goes on as HTTP/1.
    fn refuse(&mut self, at: Timestamp, key: StreamKey, end: Timestamp, out: &mut impl EventSink) {
        self.end_message(end, Direction::ToServer, key, End::WHOLE, out);
        let half = &mut self.halves.to_server;
        half.state = State::Between { blank: false };
        let early = std::mem::take(&mut half.buffer);
        self.feed(at, Direction::ToServer, &early, out);
    }

    fn gap(&mut self, at: Timestamp, direction: Direction, gap: Gap, out: &mut impl EventSink) {
        let cause = Missing::from(gap.cause);
        match self.halves[direction].state {
            State::Between { .. } | State::Lost { .. } | State::Trial => {
                self.lose_place(at, direction, cause, true, out);
            }
            State::Head { key } => {
                if !self.cut_head(at, direction, key, cause, out)
                    && direction == Direction::ToServer
                {
                    self.fail(at, direction, key, cause, out);
                }
                // Of a response without its status it is not known whether it was an interim one.
                self.lose_place(at, direction, cause, false, out);
            }
            State::Peek { key, .. } => {
                // What was lost is the body, or, behind HEAD, of the messages that follow.
                self.fail(at, direction, key, cause, out);
                self.lose_place(at, direction, cause, false, out);
            }
            State::Body { key, framing } => self.body_gap(at, direction, key, framing, gap, out),
            State::Trailers { key } => {
                self.fail(at, direction, key, cause, out);
                self.lose_place(at, direction, cause, false, out);
            }
            State::Undecided { key, at: end } => {
                self.refuse(at, key, end, out);
                self.gap(at, direction, gap, out);
            }
            State::Tunnel { key } => out.event(Event::BodyGap {
                stream: key,
                role: role(direction),
                gap,
            }),
            State::Opaque | State::Ended => {}
        }
    }

    fn close(
        &mut self,
        at: Timestamp,
        direction: Direction,
        close: Close,
        out: &mut impl EventSink,
    ) {
        let half = &mut self.halves[direction];
        let last_byte = half.last_byte;
        let open = match half.state {
            // What is there may be a body, or, behind HEAD, the beginning of the next message.
            State::Peek { key, .. } if !half.buffer.is_empty() => Some(key),
            State::Peek { key, framing } => {
                self.end_peek(at, direction, key, framing, out);
                self.close(at, direction, close, out);
                return;
            }
            State::Head { key } | State::Trailers { key } => Some(key),
            State::Body {
                key,
                framing: Framing::UntilClose,
            }
            | State::Tunnel { key }
                if close == Close::Fin =>
            {
                self.finish(last_byte, direction, key, out);
                None
            }
            State::Body { key, .. } | State::Tunnel { key } => Some(key),
            State::Undecided { key, at: end } => {
                self.refuse(at, key, end, out);
                self.close(at, direction, close, out);
                return;
            }
            State::Between { .. } | State::Lost { .. } | State::Opaque | State::Trial => None,
            State::Ended => return,
        };
        if let Some(key) = open {
            if close != Close::Cut && !matches!(self.halves[direction].state, State::Tunnel { .. })
            {
                anomaly(Some(key), direction, Anomaly::ClosedInMessage, out);
            }
            self.fail(at, direction, key, close.cause(), out);
        }
        let half = &mut self.halves[direction];
        half.drop_buffer();
        half.state = State::Ended;
        if direction == Direction::ToClient {
            self.pairing.close(at, close.cause(), out);
        }
    }

    /// Ends a message that is whole.
    fn finish(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        out: &mut impl EventSink,
    ) {
        let half = &mut self.halves[direction];
        half.state = State::Between { blank: false };
        let tunnel_next = std::mem::take(&mut half.tunnel_next);
        if direction == Direction::ToServer
            && let Some(pending) = self.pairing.pending(key)
        {
            pending.ended = true;
            if tunnel_next {
                half.state = State::Tunnel { key };
                return;
            }
            if pending.awaits_decision() {
                half.state = State::Undecided { key, at };
                return;
            }
        }
        self.end_message(at, direction, key, End::WHOLE, out);
    }

    /// Ends a message that is not whole. What is in the buffer belongs to nothing any more.
    fn fail(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        cause: Missing,
        out: &mut impl EventSink,
    ) {
        let half = &mut self.halves[direction];
        half.drop_buffer();
        half.tunnel_next = false;
        half.state = State::Lost { fresh: false };
        if direction == Direction::ToServer
            && let Some(pending) = self.pairing.pending(key)
        {
            pending.ended = true;
        }
        self.end_message(at, direction, key, End::missing(cause), out);
    }

    fn end_message(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        end: End,
        out: &mut impl EventSink,
    ) {
        let mut end = end;
        if direction == Direction::ToClient && self.halves.to_client.guessed {
            end.missing.insert(Missing::UNKNOWN_END);
        }
        out.event(Event::End {
            stream: key,
            role: role(direction),
            at,
            end,
        });
        if direction == Direction::ToClient {
            self.pairing.end_response(key);
        }
    }

    /// From here on it is not known where a message begins. `between`: the loss began behind a
    /// whole message.
    fn lose_place(
        &mut self,
        at: Timestamp,
        direction: Direction,
        cause: Missing,
        between: bool,
        out: &mut impl EventSink,
    ) {
        let half = &mut self.halves[direction];
        half.drop_buffer();
        half.state = State::Lost { fresh: false };
        half.closing = false;
        half.guessed = false;
        match direction {
            Direction::ToServer => self.pairing.lost_requests(cause, between),
            Direction::ToClient => {
                // What the client sent ahead may be requests: then there were several to answer.
                if let State::Undecided { key, at: end } = self.halves.to_server.state {
                    self.decide_by_client(at, key, end, out);
                }
                if !self.switched {
                    self.pairing.lost_responses(at, cause, out);
                }
            }
        }
    }

    /// A request that waits for a decision waits in vain once its response was given up.
    fn settle(&mut self, at: Timestamp, out: &mut impl EventSink) {
        while let State::Undecided { key, at: end } = self.halves.to_server.state
            && self.pairing.pending(key).is_none()
        {
            self.refuse(at, key, end, out);
        }
    }

    fn report_skipped(&mut self, direction: Direction, out: &mut impl EventSink) {
        let len = std::mem::take(&mut self.halves[direction].skipped);
        if len > 0 {
            out.event(Event::Skipped { direction, len });
        }
    }
}

const fn role(direction: Direction) -> Role {
    match direction {
        Direction::ToServer => Role::Request,
        Direction::ToClient => Role::Response,
    }
}

fn anomaly(
    stream: Option<StreamKey>,
    direction: Direction,
    anomaly: Anomaly,
    out: &mut impl EventSink,
) {
    out.event(Event::Anomaly {
        stream,
        direction,
        anomaly,
    });
}

fn anomalies(stream: StreamKey, direction: Direction, found: Anomalies, out: &mut impl EventSink) {
    if !found.is_empty() {
        for found in found.iter() {
            anomaly(Some(stream), direction, found, out);
        }
    }
}

#[cfg(test)]
mod tests;
