//! The beginnings of messages: start lines and heads, in their place and behind a loss.

use tapedeck_model::{Anomaly, Direction, Event, EventSink, Missing, Role, StreamKey, Timestamp};

use super::half::{Gathered, Look, State, look_request, look_response, sound_lines};
use super::{Reader, Verdict, anomalies, anomaly, role};
use crate::framing::{Declared, Framing};
use crate::head::{self, LineEnds, Parsed, Scan, Section};
use crate::pairing::Method;
use crate::probe::{self, Probe};

impl Reader {
    /// A message is due.
    pub(super) fn between<'a>(
        &mut self,
        at: Timestamp,
        direction: Direction,
        blank: bool,
        data: &'a [u8],
        out: &mut impl EventSink,
    ) -> &'a [u8] {
        let half = &mut self.halves[direction];
        let mut data = data;
        if half.buffer.is_empty() {
            let line = data
                .iter()
                .position(|byte| !matches!(byte, b'\r' | b'\n'))
                .unwrap_or(data.len());
            if line > 0 {
                half.skip(line);
                half.state = State::Between { blank: true };
                if !blank {
                    anomaly(None, direction, Anomaly::JunkBetweenMessages, out);
                }
                return data.get(line..).unwrap_or_default();
            }
            half.first_byte = at;
        } else if let Some((byte, rest)) = data.split_first() {
            // The few bytes that are missing to tell what this is.
            half.buffer.push(*byte);
            data = rest;
        }
        let held = !half.buffer.is_empty();
        let begin = if held { half.buffer.as_slice() } else { data };
        let look = match direction {
            // The first bytes may be from the middle of a message that predates the capture.
            _ if !half.started => look_first(begin, direction),
            Direction::ToServer => look_request(begin),
            Direction::ToClient => look_response(begin),
        };
        match look {
            Look::NeedMore if held => data,
            Look::NeedMore => {
                half.buffer.extend_from_slice(data);
                &[]
            }
            Look::Junk => self.junk(at, direction, data, out),
            Look::Message => {
                let method = Method::of(begin);
                half.started = true;
                if std::mem::take(&mut half.closing) {
                    anomaly(None, direction, Anomaly::DataAfterLastMessage, out);
                }
                let key = self.begin(at, direction, out);
                if direction == Direction::ToServer
                    && let Some(pending) = self.pairing.pending(key)
                {
                    pending.method = method;
                }
                let half = &mut self.halves[direction];
                half.scan = Scan::START;
                half.state = State::Head { key };
                if data.is_empty() {
                    return data;
                }
                self.head(at, direction, key, data, out)
            }
        }
    }

    /// What comes where a message is due is none.
    fn junk<'a>(
        &mut self,
        at: Timestamp,
        direction: Direction,
        data: &'a [u8],
        out: &mut impl EventSink,
    ) -> &'a [u8] {
        let half = &mut self.halves[direction];
        if direction == Direction::ToClient && self.pairing.simple_is_next() {
            // The response of HTTP/0.9 is a body and nothing else.
            half.started = true;
            let first_byte = half.first_byte;
            let held = std::mem::take(&mut half.buffer);
            let key = self.begin(at, direction, out);
            self.pairing.final_head(key);
            out.event(Event::Head {
                stream: key,
                role: Role::Response,
                first_byte,
                at: first_byte,
                interim: false,
                head: head::empty_response(),
            });
            self.begin_body(at, direction, key, Framing::UntilClose, out);
            self.feed(at, direction, &held, out);
            return data;
        }
        if half.started {
            let what = if half.closing {
                Anomaly::DataAfterLastMessage
            } else {
                Anomaly::JunkBetweenMessages
            };
            anomaly(None, direction, what, out);
        }
        let began = std::mem::take(&mut half.buffer);
        // Bytes from before the first message were sent before the capture, unless a request was
        // seen: then they may be its answer.
        match direction {
            Direction::ToClient if half.started || self.pairing.is_waiting() => {
                self.lose_place(at, direction, Missing::MALFORMED, true, out);
            }
            Direction::ToClient => {}
            // These may be the rest of a request, and others may lie within them.
            Direction::ToServer if half.started => {
                self.pairing.lost_requests(Missing::MALFORMED, false);
            }
            Direction::ToServer => self.passed_over(direction),
        }
        let half = &mut self.halves[direction];
        half.closing = false;
        half.state = State::Lost { fresh: false };
        half.skip(began.len());
        data
    }

    pub(super) fn head<'a>(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        data: &'a [u8],
        out: &mut impl EventSink,
    ) -> &'a [u8] {
        let section = Section::Head(role(direction));
        let half = &mut self.halves[direction];
        match half.gather(data, section, &self.limits) {
            Gathered::Whole(raw, lines, ends, rest) => {
                let parsed = head::parse(raw, section, lines, &ends);
                self.whole_head(at, direction, key, parsed, out);
                rest
            }
            Gathered::More => &[],
            Gathered::TooLarge(dropped, rest) => {
                half.skip(dropped);
                anomaly(Some(key), direction, Anomaly::HeadTooLarge, out);
                self.fail(at, direction, key, Missing::PARTIAL, out);
                self.lose_place(at, direction, Missing::PARTIAL, false, out);
                rest
            }
        }
    }

    /// The rest of a head will never come: what is there of it is told, if that is enough to know
    /// what it was.
    pub(super) fn cut_head(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        cause: Missing,
        out: &mut impl EventSink,
    ) -> bool {
        let half = &mut self.halves[direction];
        let whole = memchr::memrchr(b'\n', &half.buffer).map_or(0, |end| end + 1);
        let Some(raw) = half.buffer.get(..whole).filter(|raw| !raw.is_empty()) else {
            return false;
        };
        let lines = memchr::memchr_iter(b'\n', raw).count();
        let section = Section::Head(role(direction));
        let parsed = head::parse(raw.to_vec(), section, lines, &LineEnds::NONE);
        let is_final = match direction {
            Direction::ToServer => true,
            Direction::ToClient => parsed.head.status().is_some_and(|status| status >= 200),
        };
        if parsed.unreadable || parsed.simple || !is_final {
            return false;
        }
        half.buffer.drain(..whole);
        let first_byte = half.first_byte;
        anomalies(key, direction, parsed.anomalies, out);
        match direction {
            Direction::ToClient => self.pairing.final_head(key),
            Direction::ToServer => {
                let method = Method::of(&parsed.head.raw);
                if let Some(pending) = self.pairing.pending(key) {
                    pending.method = method;
                    // It may have asked for one.
                    pending.upgrade = true;
                }
            }
        }
        out.event(Event::Head {
            stream: key,
            role: role(direction),
            first_byte,
            at,
            interim: false,
            head: parsed.head,
        });
        self.fail(at, direction, key, cause, out);
        true
    }

    /// Looks for a message. Programs send a message with one write, so that it begins a segment,
    /// and with it an input. Lines within an input are no place to look: bodies carry whole heads
    /// (batches, archives, documents about HTTP), and an exchange that never was is worse than one
    /// that is missing.
    pub(super) fn lost<'a>(
        &mut self,
        at: Timestamp,
        direction: Direction,
        fresh: bool,
        data: &'a [u8],
    ) -> &'a [u8] {
        let half = &mut self.halves[direction];
        if fresh && may_resume(data, direction) {
            half.sound = 0;
            half.first_byte = at;
            half.state = State::Trial;
            return data;
        }
        half.skip(data.len());
        &[]
    }

    /// Reads on in what may be a head. It is one if it is whole and nothing about it is odd.
    pub(super) fn trial<'a>(
        &mut self,
        at: Timestamp,
        direction: Direction,
        data: &'a [u8],
        out: &mut impl EventSink,
    ) -> &'a [u8] {
        let section = Section::Head(role(direction));
        let half = &mut self.halves[direction];
        if !half.buffer.is_empty() && resumes(data, direction) == Probe::Yes(role(direction)) {
            // A start line at the start of an input is never the middle of a head.
            half.drop_buffer();
            half.sound = 0;
            half.first_byte = at;
        }
        match half.gather(data, section, &self.limits) {
            Gathered::Whole(raw, lines, ends, rest) => {
                let parsed = head::parse(raw, section, lines, &ends);
                if parsed.sound() {
                    self.report_skipped(direction, out);
                    self.halves[direction].started = true;
                    let key = self.begin(at, direction, out);
                    self.whole_head(at, direction, key, parsed, out);
                } else {
                    let half = &mut self.halves[direction];
                    half.skip(parsed.head.raw.len());
                    half.state = State::Lost { fresh: false };
                }
                rest
            }
            Gathered::More => {
                if !sound_lines(&half.buffer, &mut half.sound)
                    || !may_resume(&half.buffer, direction)
                {
                    half.drop_buffer();
                    half.state = State::Lost { fresh: false };
                }
                &[]
            }
            Gathered::TooLarge(dropped, rest) => {
                half.skip(dropped);
                half.state = State::Lost { fresh: false };
                rest
            }
        }
    }

    fn begin(
        &mut self,
        at: Timestamp,
        direction: Direction,
        out: &mut impl EventSink,
    ) -> StreamKey {
        match direction {
            Direction::ToServer => {
                let half = &mut self.halves.to_client;
                let mut in_flight = false;
                match half.state {
                    State::Peek { key, framing }
                        if half.buffer.is_empty()
                            && framing != Framing::UntilClose
                            && !self.pairing.is_pipelined() =>
                    {
                        // The client does not wait for a body: there is none, as behind HEAD.
                        half.guessed = false;
                        let last_byte = half.last_byte;
                        self.end_unknown(last_byte, key, out);
                    }
                    // All that came before was over when the client went on.
                    State::Between { .. } | State::Lost { .. } => half.guessed = false,
                    State::Trial if probe::status_line(&half.buffer) == Probe::NeedMore => {
                        // It does not wait for these few bytes either: they end what was lost.
                        half.drop_buffer();
                        half.state = State::Lost { fresh: false };
                    }
                    State::Trial => in_flight = true,
                    _ => {}
                }
                self.pairing
                    .begin_request(at, self.limits.outstanding, in_flight, out)
            }
            Direction::ToClient => self.pairing.begin_response(at, out),
        }
    }

    fn whole_head(
        &mut self,
        at: Timestamp,
        direction: Direction,
        key: StreamKey,
        parsed: Parsed,
        out: &mut impl EventSink,
    ) {
        anomalies(key, direction, parsed.anomalies, out);
        if parsed.unreadable {
            self.halves[direction].skip(parsed.head.raw.len());
            self.fail(at, direction, key, Missing::MALFORMED, out);
            self.lose_place(at, direction, Missing::MALFORMED, false, out);
            return;
        }
        let declared = Declared::of(&parsed.head);
        anomalies(key, direction, declared.anomalies, out);
        match direction {
            Direction::ToServer => self.request_head(at, key, parsed, declared, out),
            Direction::ToClient => self.response_head(at, key, parsed, declared, out),
        }
    }

    fn request_head(
        &mut self,
        at: Timestamp,
        key: StreamKey,
        parsed: Parsed,
        declared: Declared,
        out: &mut impl EventSink,
    ) {
        let method = Method::of(&parsed.head.raw);
        let half = &mut self.halves.to_server;
        half.closing = declared.last;
        half.expecting = declared.expect;
        if let Some(pending) = self.pairing.pending(key) {
            pending.method = method;
            pending.upgrade = declared.upgrade;
            pending.expect = declared.expect;
            pending.simple = parsed.simple;
        }
        out.event(Event::Head {
            stream: key,
            role: Role::Request,
            first_byte: half.first_byte,
            at,
            interim: false,
            head: parsed.head,
        });
        // Content of CONNECT has no meaning (RFC 9110 section 9.3.6): the tunnel begins here.
        let framing = match method {
            Method::Connect => Framing::Exact(0),
            Method::Unknown | Method::Head | Method::Other => declared.of_request(),
        };
        self.begin_body(at, Direction::ToServer, key, framing, out);
    }

    fn response_head(
        &mut self,
        at: Timestamp,
        key: StreamKey,
        parsed: Parsed,
        declared: Declared,
        out: &mut impl EventSink,
    ) {
        let direction = Direction::ToClient;
        let status = parsed.head.status();
        let request = self.pairing.pending(key).copied();
        let method = request.map_or(Method::Unknown, |request| request.method);
        // Nobody may switch unasked; where the question was not seen, it is believed.
        let switches = status == Some(101) && request.is_none_or(|request| request.upgrade);
        let http2 = switches && declared.h2c && request.is_some_and(|request| request.ended);
        let connected = method == Method::Connect && matches!(status, Some(200..300));
        let interim = http2 || matches!(status, Some(100 | 102..200));
        if !interim {
            if request.is_some_and(|request| !request.ended) {
                anomaly(Some(key), direction, Anomaly::EarlyResponse, out);
            }
            self.pairing.final_head(key);
            self.halves.to_client.closing = declared.last;
        } else if let Some(pending) = self.pairing.pending(key) {
            pending.interim = true;
        }
        let half = &mut self.halves.to_client;
        out.event(Event::Head {
            stream: key,
            role: Role::Response,
            first_byte: half.first_byte,
            at,
            interim,
            head: parsed.head,
        });
        if http2 {
            half.state = State::Ended;
            self.verdict = Some(Verdict::Http2(key));
        } else if switches || connected {
            half.state = State::Tunnel { key };
            self.verdict = Some(Verdict::Tunnel(key));
        } else if interim {
            half.state = State::Between { blank: false };
        } else {
            self.verdict = Some(Verdict::Refused(key));
            let framing = match declared.of_response(status) {
                _ if method == Method::Head => Framing::Exact(0),
                framing => framing,
            };
            if method == Method::Unknown && framing != Framing::Exact(0) {
                // The answer to CONNECT has no length, and a tunnel behind it.
                half.guessed |= framing == Framing::UntilClose && matches!(status, Some(200..300));
                half.state = State::Peek { key, framing };
            } else {
                self.begin_body(at, direction, key, framing, out);
            }
        }
    }
}

/// Whether the first message of a direction begins here.
fn look_first(bytes: &[u8], direction: Direction) -> Look {
    let probe = match direction {
        Direction::ToServer => probe::request_line(bytes),
        Direction::ToClient => probe::status_line(bytes),
    };
    match probe {
        Probe::Yes(_) => Look::Message,
        Probe::No => Look::Junk,
        Probe::NeedMore => Look::NeedMore,
    }
}

/// Whether, behind a loss, a message of that direction begins here.
pub(super) fn resumes(bytes: &[u8], direction: Direction) -> Probe {
    match direction {
        Direction::ToServer => probe::known_request_line(bytes),
        Direction::ToClient => probe::status_line(bytes),
    }
}

/// Whether a message begins here, or may once more bytes are there.
fn may_resume(bytes: &[u8], direction: Direction) -> bool {
    resumes(bytes, direction) != Probe::No
}
