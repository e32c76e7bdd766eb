//! One connection: finds out what it speaks, and has it read.
//!
//! ```text
//!                   a request or status line               Upgrade: h2c
//!   Detecting ───────────────────────────────► Http1 ──────────────────► Http2
//!     │ │ │                                                                ▲
//!     │ │ └──────────── preface, SETTINGS, frames ─────────────────────────┘
//!     │ └────────────── a TLS record ──────────► Closed (tls)
//!     └──────────────── anything else ─────────► Closed (not http)
//! ```
//!
//! With its handshake seen, the first bytes of either direction decide: an HTTP/1 server never
//! speaks first, and an HTTP/2 server only with SETTINGS. A connection that predates the capture,
//! or whose beginning was lost, is looked at segment by segment until one begins like a message.
//! The bias is towards missing a conversation rather than inventing one.

use std::sync::Arc;

use tapedeck_http1 as http1;
use tapedeck_http2 as http2;
use tapedeck_model::{
    Connection, Direction, Event, EventSink, Gap, Input, Origin, PerDirection, Role, StreamKey,
    Timestamp,
};

use crate::Recorder;
use crate::builder::{Builder, Shared};

/// A connection and what is known of it.
#[derive(Debug)]
pub(crate) struct Analysis {
    protocol: Protocol,
    builder: Builder,
    /// The guess of who is the client was wrong: every direction is turned around.
    flipped: bool,
    /// Bytes that came before the protocol was known and are not held any more.
    passed_over: u64,
    heard: bool,
}

#[derive(Debug)]
enum Protocol {
    Detecting(Detecting),
    Http1(Box<http1::Reader>),
    Http2(Box<http2::Reader>),
    Closed,
}

/// What came before the protocol is known.
#[derive(Debug, Default)]
struct Detecting {
    /// The bytes of each direction. Invariant: exactly those of `inputs`, in order.
    bytes: PerDirection<Vec<u8>>,
    inputs: Vec<(Direction, Timestamp, Held)>,
    /// The beginning was not seen, so that the first bytes say nothing.
    midstream: bool,
}

/// An input that waits in [`Detecting`].
#[derive(Clone, Copy, Debug)]
enum Held {
    /// That many bytes of its direction.
    Data(usize),
    Other(Input<'static>),
}

enum Verdict {
    Http1(Role),
    Http2(Role),
    Tls,
    NotHttp,
    NeedMore,
}

impl Analysis {
    pub(crate) fn new(connection: Connection) -> Self {
        let midstream = connection.origin == Origin::Midstream;
        Self {
            protocol: Protocol::Detecting(Detecting {
                midstream,
                ..Detecting::default()
            }),
            builder: Builder::new(Arc::new(connection)),
            flipped: false,
            passed_over: 0,
            heard: false,
        }
    }

    pub(crate) fn input(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        direction: Direction,
        at: Timestamp,
        input: Input<'_>,
    ) {
        let direction = if self.flipped { !direction } else { direction };
        self.heard |= matches!(input, Input::Data(_));
        let mut out = Out {
            builder: &mut self.builder,
            shared,
            recorder,
            switch: None,
        };
        match &mut self.protocol {
            Protocol::Detecting(_) => self.detect(shared, recorder, direction, at, input),
            Protocol::Http1(reader) => {
                reader.push(at, direction, input, &mut out);
                if let Some(switch) = out.switch {
                    self.switch_to_http2(shared, recorder, at, switch);
                }
            }
            Protocol::Http2(reader) => reader.push(at, direction, input, &mut out),
            Protocol::Closed => {
                if let Input::Data(data) = input {
                    shared.ledger.bytes_not_http += data.len() as u64;
                }
            }
        }
    }

    pub(crate) fn close(mut self, shared: &mut Shared, recorder: &mut impl Recorder) {
        self.builder.finish(shared, recorder);
        if let Protocol::Detecting(detecting) = &mut self.protocol {
            shared.ledger.bytes_not_http += detecting.forget() + self.passed_over;
            // Where nothing was said, the reassembler counts the connection as empty.
            shared.ledger.connections_not_http += u64::from(self.heard);
        }
    }

    fn detect(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        direction: Direction,
        at: Timestamp,
        input: Input<'_>,
    ) {
        let Protocol::Detecting(detecting) = &mut self.protocol else {
            return;
        };
        let data = match input {
            Input::Data(data) => data,
            Input::Gap(gap) => {
                self.passed_over += detecting.forget();
                detecting.midstream = true;
                return detecting.hold_gap(direction, at, gap);
            }
            Input::Fin => {
                return detecting
                    .inputs
                    .push((direction, at, Held::Other(Input::Fin)));
            }
            Input::Reset => {
                return detecting
                    .inputs
                    .push((direction, at, Held::Other(Input::Reset)));
            }
            Input::Cut => {
                return detecting
                    .inputs
                    .push((direction, at, Held::Other(Input::Cut)));
            }
        };

        let verdict = detecting.judge_with(direction, data);
        match verdict {
            Verdict::Http1(role) => {
                let reader = Box::new(http1::Reader::new(shared.limits.http1));
                self.begin(
                    shared,
                    recorder,
                    Protocol::Http1(reader),
                    role,
                    (direction, at, data),
                );
            }
            Verdict::Http2(role) => {
                let limits = shared.limits.http2.clone();
                let reader = Box::new(http2::Reader::new(limits, http2::Start::Detect));
                self.begin(
                    shared,
                    recorder,
                    Protocol::Http2(reader),
                    role,
                    (direction, at, data),
                );
            }
            Verdict::NeedMore
                if detecting.bytes[direction].len() + data.len() < shared.limits.detect_bytes =>
            {
                detecting.bytes[direction].extend_from_slice(data);
                detecting
                    .inputs
                    .push((direction, at, Held::Data(data.len())));
            }
            Verdict::Tls | Verdict::NotHttp | Verdict::NeedMore => {
                self.passed_over += detecting.forget() + data.len() as u64;
                // In the middle of a connection, the next segment may begin a message.
                if !detecting.midstream || self.passed_over > shared.limits.detect_midstream_bytes {
                    if matches!(verdict, Verdict::Tls) {
                        shared.ledger.connections_tls += 1;
                    } else {
                        shared.ledger.connections_not_http += 1;
                    }
                    shared.ledger.bytes_not_http += std::mem::take(&mut self.passed_over);
                    self.protocol = Protocol::Closed;
                }
            }
        }
    }

    /// The protocol is known: gives its reader what was held, then `data`.
    fn begin(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        protocol: Protocol,
        role: Role,
        (direction, at, data): (Direction, Timestamp, &[u8]),
    ) {
        let before = std::mem::replace(&mut self.protocol, protocol);
        let Protocol::Detecting(detecting) = before else {
            return;
        };
        shared.ledger.bytes_skipped += std::mem::take(&mut self.passed_over);

        let expected = match role {
            Role::Request => Direction::ToServer,
            Role::Response => Direction::ToClient,
        };
        let connection = self.builder.connection();
        if direction != expected && connection.origin == Origin::Midstream {
            self.flipped = true;
            let turned = Connection {
                client: connection.server,
                server: connection.client,
                ..Connection::clone(connection)
            };
            self.builder = Builder::new(Arc::new(turned));
        }

        // `input` turns the directions itself from here on, so these go in as they came.
        let Detecting {
            bytes,
            inputs,
            midstream: _,
        } = detecting;
        let mut rest: PerDirection<&[u8]> = PerDirection {
            to_server: &bytes.to_server,
            to_client: &bytes.to_client,
        };
        for (direction, at, held) in inputs {
            let input = match held {
                Held::Data(len) => {
                    let (now, later) = rest[direction].split_at_checked(len).unwrap_or_default();
                    rest[direction] = later;
                    Input::Data(now)
                }
                Held::Other(input) => input,
            };
            self.input(shared, recorder, direction, at, input);
        }
        self.input(shared, recorder, direction, at, Input::Data(data));
    }

    fn switch_to_http2(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        at: Timestamp,
        (stream, direction, rest): (StreamKey, Direction, Vec<u8>),
    ) {
        self.builder.switch_to_http2(stream);
        let mut reader = Box::new(http2::Reader::new(
            shared.limits.http2.clone(),
            http2::Start::Upgraded,
        ));
        if !rest.is_empty() {
            let mut out = Out {
                builder: &mut self.builder,
                shared,
                recorder,
                switch: None,
            };
            reader.push(at, direction, Input::Data(&rest), &mut out);
        }
        self.protocol = Protocol::Http2(reader);
    }
}

impl Detecting {
    /// What the bytes of a direction look like together with `data`.
    fn judge_with(&mut self, direction: Direction, data: &[u8]) -> Verdict {
        let bytes = &mut self.bytes[direction];
        if bytes.is_empty() {
            return judge(data);
        }
        let held = bytes.len();
        bytes.extend_from_slice(data);
        let verdict = judge(bytes);
        bytes.truncate(held);
        verdict
    }

    /// Keeps a gap for the reader, to which it may mean a lost message. One in a direction says
    /// as much as many: nothing between them was kept.
    fn hold_gap(&mut self, direction: Direction, at: Timestamp, gap: Gap) {
        let held = self.inputs.iter_mut().find_map(|(of, _, held)| match held {
            Held::Other(Input::Gap(held)) if *of == direction => Some(held),
            Held::Other(_) | Held::Data(_) => None,
        });
        match held {
            Some(held) => held.len = held.len.saturating_add(gap.len),
            None => self
                .inputs
                .push((direction, at, Held::Other(Input::Gap(gap)))),
        }
    }

    /// Drops the bytes that are held, and says how many those were.
    fn forget(&mut self) -> u64 {
        let bytes = self.bytes.to_server.len() + self.bytes.to_client.len();
        self.bytes = PerDirection::default();
        self.inputs
            .retain(|(_, _, held)| matches!(held, Held::Other(_)));
        bytes as u64
    }
}

/// What the first bytes of a direction look like.
fn judge(bytes: &[u8]) -> Verdict {
    let http2 = http2::probe(bytes);
    if let http2::Probe::Yes(role) = http2 {
        return Verdict::Http2(role);
    }
    match http1::probe(bytes) {
        http1::Probe::Yes(role) => Verdict::Http1(role),
        http1::Probe::NeedMore => Verdict::NeedMore,
        http1::Probe::No if looks_like_tls(bytes) => Verdict::Tls,
        http1::Probe::No => match http2 {
            http2::Probe::NeedMore => Verdict::NeedMore,
            http2::Probe::Yes(_) | http2::Probe::No => Verdict::NotHttp,
        },
    }
}

/// A TLS record that carries a handshake message (RFC 8446 section 5.1).
fn looks_like_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x16, 0x03, 0x00..=0x04, ..])
}

/// Takes the events of a reader to the builder and the ledger.
struct Out<'a, R> {
    builder: &'a mut Builder,
    shared: &'a mut Shared,
    recorder: &'a mut R,
    switch: Option<(StreamKey, Direction, Vec<u8>)>,
}

impl<R: Recorder> EventSink for Out<'_, R> {
    fn event(&mut self, event: Event<'_>) {
        let Self {
            builder,
            shared,
            recorder,
            switch,
        } = self;
        match event {
            Event::Head {
                stream,
                role,
                first_byte,
                at,
                interim,
                head,
            } => {
                builder.head(shared, (stream, role), (first_byte, at), interim, head);
            }
            Event::Body {
                stream,
                role,
                at,
                data,
            } => {
                builder.body(shared, *recorder, (stream, role), at, data);
            }
            Event::BodyGap { stream, role, gap } => builder.body_gap(shared, (stream, role), gap),
            Event::Trailers {
                stream,
                role,
                at,
                trailers,
            } => {
                builder.trailers(shared, (stream, role), at, trailers);
            }
            Event::End {
                stream,
                role,
                at,
                end,
            } => {
                builder.end(shared, *recorder, (stream, role), at, end);
            }
            Event::Absent {
                stream,
                role,
                at: _,
                missing,
            } => {
                builder.absent(shared, *recorder, (stream, role), missing);
            }
            Event::Pushed { stream } => builder.pushed(shared, stream),
            Event::Tunnel { stream } => builder.tunnel(shared, stream),
            Event::SwitchToHttp2 {
                stream,
                direction,
                rest,
            } => {
                *switch = Some((stream, direction, rest.to_vec()));
            }
            Event::Skipped { direction: _, len } => shared.ledger.bytes_skipped += len,
            Event::Anomaly {
                stream,
                direction: _,
                anomaly,
            } => {
                shared.ledger.count(anomaly);
                if let Some(stream) = stream {
                    builder.anomaly(stream, anomaly);
                }
            }
        }
    }
}
