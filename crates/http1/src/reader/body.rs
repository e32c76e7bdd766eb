//! Bodies and trailer sections.

use tapedeck_model::{
    Anomalies, Anomaly, Direction, End, Event, EventSink, Gap, Missing, Role, StreamKey, Timestamp,
};

use super::half::{Gathered, State};
use super::{Reader, anomalies, anomaly, role};
use crate::chunked::{Chunked, Step};
use crate::framing::Framing;
use crate::head::{self, Scan, Section};
use crate::probe::{self, Probe};

impl Reader {
    /// The head is over, and its body begins.
    pub(super) fn begin_body(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        framing: Framing,
        out: &mut impl EventSink,
    ) {
        match framing {
            Framing::Exact(0) => self.finish(at, direction, key, out),
            Framing::Unknowable => {
                self.fail(at, direction, key, Missing::MALFORMED, out);
                self.lose_place(at, direction, Missing::MALFORMED, false, out);
            }
            Framing::Exact(_) | Framing::Chunked(_) | Framing::UntilClose => {
                let half = &mut self.halves[direction];
                half.state = State::Body { key, framing };
                half.bare_lf = false;
            }
        }
    }

    pub(super) fn body<'a>(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        framing: Framing,
        data: &'a [u8],
        out: &mut impl EventSink,
    ) -> &'a [u8] {
        match framing {
            Framing::Exact(left) => {
                if self.abandoned(direction, key, data) {
                    self.fail(at, direction, key, Missing::ABORTED, out);
                    self.halves[direction].state = State::Between { blank: false };
                    return data;
                }
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
                let (data, rest) = data.split_at_checked(take).unwrap_or((data, &[]));
                part(at, direction, key, data, out);
                self.pass_exact(at, direction, key, left.saturating_sub(take as u64), out);
                rest
            }
            Framing::Chunked(chunked) => self.chunked(at, direction, key, chunked, data, out),
            Framing::UntilClose => {
                part(at, direction, key, data, out);
                &[]
            }
            Framing::Unknowable => {
                self.fail(at, direction, key, Missing::MALFORMED, out);
                data
            }
        }
    }

    fn pass_exact(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        left: u64,
        out: &mut impl EventSink,
    ) {
        if left == 0 {
            self.finish(at, direction, key, out);
        } else {
            self.halves[direction].state = State::Body {
                key,
                framing: Framing::Exact(left),
            };
        }
    }

    /// Whether the client kept back the body that it asked about (`Expect: 100-continue`), because
    /// the server answered with a final response, and goes on with the next request.
    fn abandoned(&mut self, direction: Direction, key: StreamKey, data: &[u8]) -> bool {
        direction == Direction::ToServer
            && std::mem::take(&mut self.halves.to_server.expecting)
            && self.pairing.pending(key).is_none_or(|own| own.answered)
            && probe::request_line(data) == Probe::Yes(Role::Request)
    }

    fn chunked<'a>(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        mut chunked: Chunked,
        mut data: &'a [u8],
        out: &mut impl EventSink,
    ) -> &'a [u8] {
        loop {
            let mut odd = Anomalies::default();
            let step = chunked.step(data, &mut odd);
            // Once a message: it is a habit of the sender.
            if !odd.is_empty() && !std::mem::replace(&mut self.halves[direction].bare_lf, true) {
                anomalies(key, direction, odd, out);
            }
            match step {
                Step::Data(body, rest) => {
                    part(at, direction, key, body, out);
                    data = rest;
                }
                Step::NeedMore => {
                    self.halves[direction].state = State::Body {
                        key,
                        framing: Framing::Chunked(chunked),
                    };
                    return &[];
                }
                Step::Trailers(rest) => {
                    self.halves[direction].state = State::Trailers { key };
                    return rest;
                }
                Step::Malformed(rest) => {
                    anomaly(Some(key), direction, Anomaly::MalformedChunk, out);
                    self.fail(at, direction, key, Missing::MALFORMED, out);
                    self.lose_place(at, direction, Missing::MALFORMED, false, out);
                    return rest;
                }
            }
        }
    }

    pub(super) fn trailers<'a>(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        data: &'a [u8],
        out: &mut impl EventSink,
    ) -> &'a [u8] {
        match self.halves[direction].gather(data, Section::Trailers, &self.limits) {
            Gathered::Whole(raw, lines, ends, rest) => {
                let parsed = head::parse(raw, Section::Trailers, lines, &ends);
                anomalies(key, direction, parsed.anomalies, out);
                if lines > 1 || parsed.head.raw.len() > 2 {
                    out.event(Event::Trailers {
                        stream: key,
                        role: role(direction),
                        at,
                        trailers: parsed.head,
                    });
                }
                self.finish(at, direction, key, out);
                rest
            }
            Gathered::More => &[],
            Gathered::TooLarge(dropped, rest) => {
                self.halves[direction].skip(dropped);
                anomaly(Some(key), direction, Anomaly::HeadTooLarge, out);
                self.fail(at, direction, key, Missing::PARTIAL, out);
                self.lose_place(at, direction, Missing::PARTIAL, false, out);
                rest
            }
        }
    }

    /// Bytes of a body will never come.
    pub(super) fn body_gap(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        framing: Framing,
        gap: Gap,
        out: &mut impl EventSink,
    ) {
        let mut lost = |len| {
            out.event(Event::BodyGap {
                stream: key,
                role: role(direction),
                gap: Gap { len, ..gap },
            });
        };
        match framing {
            Framing::Exact(left) if gap.len > 0 => {
                let within = gap.len.min(left);
                lost(within);
                self.halves[direction].expecting = false;
                self.pass_exact(at, direction, key, left - within, out);
                if gap.len > within {
                    let behind = Gap {
                        len: gap.len - within,
                        ..gap
                    };
                    self.gap(at, direction, behind, out);
                }
                return;
            }
            Framing::Chunked(chunked) if gap.len > 0 => {
                if let Some(chunked) = chunked.behind(gap.len) {
                    lost(gap.len);
                    self.halves[direction].state = State::Body {
                        key,
                        framing: Framing::Chunked(chunked),
                    };
                    return;
                }
                lost(0);
            }
            Framing::UntilClose => {
                lost(gap.len);
                return;
            }
            Framing::Exact(_) | Framing::Chunked(_) | Framing::Unknowable => lost(0),
        }
        let cause = Missing::from(gap.cause);
        self.fail(at, direction, key, cause, out);
        self.lose_place(at, direction, cause, false, out);
    }

    /// Looks whether the body of a response to an unknown request is none, as behind HEAD.
    pub(super) fn peek<'a>(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        framing: Framing,
        data: &'a [u8],
        out: &mut impl EventSink,
    ) -> &'a [u8] {
        let half = &mut self.halves[direction];
        let mut data = data;
        while let Some((byte, rest)) = data.split_first() {
            half.buffer.push(*byte);
            data = rest;
            match probe::status_line(&half.buffer) {
                Probe::NeedMore => {}
                Probe::No => {
                    self.end_peek(at, direction, key, framing, out);
                    return data;
                }
                Probe::Yes(_) => {
                    self.end_unknown(at, key, out);
                    // On trial, in case it is a body that only begins like a head.
                    let half = &mut self.halves[direction];
                    half.guessed = true;
                    half.state = State::Trial;
                    half.scan = Scan::START;
                    half.sound = 0;
                    half.first_byte = at;
                    return data;
                }
            }
        }
        data
    }

    /// Ends an answer as one without a body, which is a guess: its request was not seen.
    pub(super) fn end_unknown(&mut self, at: Timestamp, key: StreamKey, out: &mut impl EventSink) {
        self.halves.to_client.state = State::Between { blank: false };
        let end = End::missing(Missing::UNKNOWN_END);
        self.end_message(at, Direction::ToClient, key, end, out);
    }

    /// It is a body after all.
    pub(super) fn end_peek(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        framing: Framing,
        out: &mut impl EventSink,
    ) {
        let half = &mut self.halves[direction];
        half.state = State::Body { key, framing };
        let held = std::mem::take(&mut half.buffer);
        self.feed(at, direction, &held, out);
    }
}

fn part(
    at: Timestamp,
    direction: Direction,
    key: StreamKey,
    data: &[u8],
    out: &mut impl EventSink,
) {
    if !data.is_empty() {
        out.event(Event::Body {
            stream: key,
            role: role(direction),
            at,
            data,
        });
    }
}
