//! What is said on a connection: finds out in which protocol, and has it read.
//!
//! ```text
//!                   a request or status line               Upgrade: h2c
//!   Detecting ───────────────────────────────► Http1 ──────────────────► Http2
//!     │ │ │                                                                ▲
//!     │ │ └──────────── preface, SETTINGS, frames ─────────────────────────┘
//!     │ └────────────── a record of TLS ───────► the caller goes on
//!     └──────────────── anything else ─────────► NotHttp
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
    Connection, Direction, Event, EventSink, Gap, GapCause, Input, Missing, Origin, PerDirection,
    Role, StreamKey, Timestamp, Workloads,
};

use crate::Recorder;
use crate::builder::{Builder, Shared};
use crate::detecting::{Before, Detecting, Verdict};
use crate::tunnel::Tunnels;

/// What is said on a connection: TCP's bytes, or those within TLS.
#[derive(Debug)]
pub(crate) struct Conversation {
    protocol: Protocol,
    builder: Builder,
    /// It is certain who is the client.
    sides_known: bool,
    within_tls: bool,
    /// The guess of who is the client was wrong: every direction is turned around.
    flipped: bool,
    /// Something was said.
    heard: bool,
    /// It is HTTP, although it begins anew.
    given_up: bool,
    /// Bytes held, as [`Shared::held`] counts them.
    held: usize,
    /// How many bytes that come next come too late to be paired.
    late: PerDirection<u64>,
    tunnels: Tunnels,
}

#[derive(Debug)]
enum Protocol {
    Detecting(Detecting),
    Http1(Box<http1::Reader>),
    Http2(Box<http2::Reader>),
    NotHttp,
}

/// Whether a conversation can be gone on with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Next {
    GoOn,
    /// It is TLS, and has taken nothing of the input; what it holds is for the reader of TLS.
    /// The role of the hello, `None` where that was not seen.
    Tls(Option<Role>),
}

impl Conversation {
    pub(crate) fn new(connection: Connection) -> Self {
        Self::within_tunnel(connection, 0)
    }

    /// What is said within so many tunnels.
    pub(crate) fn within_tunnel(connection: Connection, depth: usize) -> Self {
        let midstream = connection.origin != Origin::Handshake;
        Self {
            protocol: Protocol::Detecting(Detecting::new(midstream)),
            builder: Builder::new(Arc::new(connection)),
            sides_known: !midstream,
            within_tls: false,
            flipped: false,
            heard: false,
            given_up: false,
            held: 0,
            late: PerDirection::default(),
            tunnels: Tunnels::new(depth),
        }
    }

    /// The same from its beginning, now within TLS; with what came before that was known.
    pub(crate) fn within_tls(&mut self, connection: Arc<Connection>) -> Detecting {
        let within = Self {
            protocol: Protocol::Detecting(Detecting::new(false)),
            builder: Builder::new(connection),
            sides_known: true,
            within_tls: true,
            flipped: false,
            heard: false,
            given_up: false,
            held: self.held,
            late: PerDirection::default(),
            tunnels: Tunnels::new(self.tunnels.depth()),
        };
        match std::mem::replace(self, within).protocol {
            Protocol::Detecting(detecting) => detecting,
            Protocol::Http1(_) | Protocol::Http2(_) | Protocol::NotHttp => Detecting::default(),
        }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        self.builder.connection()
    }

    /// What is known of the connection has changed; for exchanges that begin from here on.
    pub(crate) fn set_connection(&mut self, connection: Arc<Connection>) {
        self.builder.set_connection(connection);
    }

    /// Bytes held.
    pub(crate) fn held(&self) -> usize {
        self.held + self.tunnels.held()
    }

    /// Has what it holds recorded as it is, and goes on as in the middle of a connection.
    pub(crate) fn give_up(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        at: Timestamp,
    ) {
        if let Protocol::Http1(reader) = &mut self.protocol {
            // It still knows of how many requests the answers may come.
            let mut out = Out {
                builder: &mut self.builder,
                tunnels: &mut self.tunnels,
                shared,
                recorder,
                at,
                switches: Vec::new(),
            };
            reader.give_up(at, &mut out);
        }
        self.tunnels.give_up(shared, recorder, at);
        self.builder.finish(shared, recorder, Missing::PARTIAL);
        match &mut self.protocol {
            Protocol::Detecting(detecting) => {
                detecting.midstream = true;
                detecting.forget();
            }
            Protocol::Http2(_) => {
                self.sides_known = true;
                self.given_up = true;
                self.protocol = Protocol::Detecting(Detecting::new(true));
            }
            Protocol::Http1(_) | Protocol::NotHttp => {}
        }
        self.account(shared);
    }

    fn account(&mut self, shared: &mut Shared) {
        let reader = match &self.protocol {
            Protocol::Detecting(detecting) => detecting.memory(),
            Protocol::Http1(reader) => reader.memory(),
            Protocol::Http2(reader) => reader.memory(),
            Protocol::NotHttp => 0,
        };
        let held = reader + self.builder.memory();
        shared.held = shared.held + held - self.held;
        self.held = held;
    }

    /// The next bytes of a direction come behind what they had to come before: an answer behind the
    /// question that follows it, and it would be taken for the answer to that. Where nothing was read
    /// of either direction yet, that does not matter.
    pub(crate) fn late(&mut self, direction: Direction, len: u64) {
        if matches!(self.protocol, Protocol::Http1(_) | Protocol::Http2(_)) {
            self.late[direction] = len;
        }
    }

    pub(crate) fn input(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        direction: Direction,
        at: Timestamp,
        input: Input<'_>,
    ) -> Next {
        let Some(input) = self.in_time(shared, direction, input) else {
            return Next::GoOn;
        };
        let next = self.read(shared, recorder, direction, at, input);
        self.account(shared);
        next
    }

    /// What is left of an input without the bytes that come too late.
    fn in_time<'a>(
        &mut self,
        shared: &mut Shared,
        direction: Direction,
        input: Input<'a>,
    ) -> Option<Input<'a>> {
        let late = &mut self.late[direction];
        let Input::Data(data) = input else {
            *late = 0;
            return Some(input);
        };
        if *late == 0 {
            return Some(input);
        }
        let skipped = usize::try_from(*late).map_or(data.len(), |late| late.min(data.len()));
        *late -= skipped as u64;
        shared.ledger.bytes_http += skipped as u64;
        shared.ledger.bytes_skipped += skipped as u64;
        let rest = data.get(skipped..).filter(|rest| !rest.is_empty())?;
        Some(Input::Data(rest))
    }

    fn read(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        direction: Direction,
        at: Timestamp,
        input: Input<'_>,
    ) -> Next {
        let direction = if self.flipped { !direction } else { direction };
        let mut out = Out {
            builder: &mut self.builder,
            tunnels: &mut self.tunnels,
            shared,
            recorder,
            at,
            switches: Vec::new(),
        };
        let len = match input {
            Input::Data(data) => data.len() as u64,
            _ => 0,
        };
        self.heard |= len > 0;
        match &mut self.protocol {
            Protocol::Detecting(_) => {
                return self.detect(shared, recorder, direction, at, input);
            }
            Protocol::Http1(reader) => {
                out.shared.ledger.bytes_http += len;
                reader.push(at, direction, input, &mut out);
                let switches = out.switches;
                self.switch_to_http2(shared, recorder, at, switches);
            }
            Protocol::Http2(reader) => {
                out.shared.ledger.bytes_http += len;
                reader.push(at, direction, input, &mut out);
            }
            Protocol::NotHttp => shared.ledger.bytes_not_http += len,
        }
        Next::GoOn
    }

    /// Whether it ended before anything but what looks like TLS was seen of it.
    pub(crate) fn is_like_tls(&self) -> bool {
        !self.given_up
            && matches!(&self.protocol, Protocol::Detecting(detecting) if detecting.like_tls)
    }

    pub(crate) fn close(mut self, shared: &mut Shared, recorder: &mut impl Recorder) {
        self.tunnels.close(shared, recorder);
        self.builder.finish(shared, recorder, Missing::UNFINISHED);
        shared.held -= self.held;
        if let Protocol::Detecting(detecting) = &mut self.protocol {
            detecting.forget();
            if self.given_up {
                shared.ledger.bytes_skipped += detecting.passed_over();
                shared.ledger.bytes_http += detecting.passed_over();
                return;
            }
            shared.ledger.bytes_not_http += detecting.passed_over();
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
    ) -> Next {
        let Protocol::Detecting(detecting) = &mut self.protocol else {
            return Next::GoOn;
        };
        let data = match input {
            Input::Data(data) => data,
            Input::Gap(gap) => {
                detecting.hold_gap(direction, at, gap);
                return Next::GoOn;
            }
            Input::Fin => {
                detecting.hold_end(direction, at, Input::Fin);
                return Next::GoOn;
            }
            Input::Reset => {
                detecting.hold_end(direction, at, Input::Reset);
                return Next::GoOn;
            }
            Input::Cut => {
                detecting.hold_end(direction, at, Input::Cut);
                return Next::GoOn;
            }
        };

        let may_be_tls = !self.within_tls && !self.given_up;
        match detecting.judge_with(direction, data) {
            Verdict::Http1(role) => {
                let reader = Box::new(http1::Reader::new(shared.limits.http1));
                self.begin(
                    shared,
                    recorder,
                    Protocol::Http1(reader),
                    Some(role),
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
            Verdict::Tls(role) if may_be_tls => return Next::Tls(Some(role)),
            Verdict::TlsMidstream if may_be_tls => return Next::Tls(None),
            Verdict::NeedMore
                if detecting.len(direction) + data.len() < shared.limits.detect_bytes =>
            {
                detecting.hold(direction, at, data);
            }
            Verdict::Tls(_) | Verdict::TlsMidstream | Verdict::Neither | Verdict::NeedMore => {
                detecting.forget();
                let limit = shared.limits.detect_midstream_bytes;
                let passed_over = detecting.passed_over() + data.len() as u64;
                // In the middle of a connection, the next segment may begin a message.
                let enough = !self.given_up && (!detecting.midstream || passed_over > limit);
                if enough && detecting.like_tls && may_be_tls {
                    return Next::Tls(None);
                }
                detecting.pass_over(direction, at, data);
                if enough {
                    shared.ledger.connections_not_http += 1;
                    shared.ledger.bytes_not_http += detecting.passed_over();
                    self.protocol = Protocol::NotHttp;
                }
            }
        }
        Next::GoOn
    }

    /// The protocol is known: gives its reader what was held, then `data`.
    fn begin(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        protocol: Protocol,
        role: Option<Role>,
        (direction, at, data): (Direction, Timestamp, &[u8]),
    ) {
        let was_flipped = self.flipped;
        let before = std::mem::replace(&mut self.protocol, protocol);
        let Protocol::Detecting(detecting) = before else {
            return;
        };
        shared.ledger.bytes_skipped += detecting.passed_over();
        shared.ledger.bytes_http += detecting.passed_over();

        let expected = match role {
            Some(Role::Request) => Direction::ToServer,
            Some(Role::Response) => Direction::ToClient,
            // Nothing speaks against what the ports say.
            None => direction,
        };
        if direction != expected && !self.sides_known {
            self.flipped = true;
            let turned = turned(self.builder.connection());
            self.builder = Builder::new(Arc::new(turned));
        }

        // `read` turns the directions itself, so these go in as they came: unturned, unless a
        // protocol was known before.
        let turn = |direction: Direction| if was_flipped { !direction } else { direction };
        let flipped = self.flipped;
        detecting.replay(|direction, at, before| match (before, &mut self.protocol) {
            (Before::Input(input), _) => {
                self.read(shared, recorder, turn(direction), at, input);
            }
            (Before::PassedOver, Protocol::Http1(reader)) => {
                reader.passed_over(if flipped {
                    !turn(direction)
                } else {
                    turn(direction)
                });
            }
            (Before::PassedOver, _) => {}
        });
        self.read(shared, recorder, turn(direction), at, Input::Data(data));
    }

    fn switch_to_http2(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        at: Timestamp,
        switches: Vec<Switch>,
    ) {
        let Some(first) = switches.first() else {
            return;
        };
        self.builder.switch_to_http2(first.stream);
        let mut reader = Box::new(http2::Reader::new(
            shared.limits.http2.clone(),
            http2::Start::Upgraded,
        ));
        let mut out = Out {
            builder: &mut self.builder,
            tunnels: &mut self.tunnels,
            shared,
            recorder,
            at,
            switches: Vec::new(),
        };
        for switch in &switches {
            let direction = switch.direction;
            if switch.lost {
                let gap = Gap {
                    len: 0,
                    cause: GapCause::Lost,
                };
                reader.push(at, direction, Input::Gap(gap), &mut out);
            }
            if !switch.rest.is_empty() {
                reader.push(at, direction, Input::Data(&switch.rest), &mut out);
            }
        }
        self.protocol = Protocol::Http2(reader);
    }
}

/// The connection with its sides swapped.
pub(crate) fn turned(connection: &Connection) -> Connection {
    Connection {
        client: connection.server,
        server: connection.client,
        workloads: Workloads {
            client: connection.workloads.server.clone(),
            server: connection.workloads.client.clone(),
        },
        ..connection.clone()
    }
}

/// Takes the events of a reader to the builder and the ledger.
struct Out<'a, R> {
    builder: &'a mut Builder,
    tunnels: &'a mut Tunnels,
    shared: &'a mut Shared,
    recorder: &'a mut R,
    /// When the input came.
    at: Timestamp,
    switches: Vec<Switch>,
}

/// A direction goes on as HTTP/2.
struct Switch {
    /// The exchange that asked for it.
    stream: StreamKey,
    direction: Direction,
    /// Bytes before `rest` may have been lost.
    lost: bool,
    rest: Vec<u8>,
}

impl<R: Recorder> EventSink for Out<'_, R> {
    fn event(&mut self, event: Event<'_>) {
        let Self {
            builder,
            tunnels,
            shared,
            recorder,
            at: now,
            switches,
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
                tunnels.data(shared, *recorder, (stream, role), at, data);
            }
            Event::BodyGap { stream, role, gap } => {
                builder.body_gap(shared, (stream, role), gap);
                tunnels.gap(shared, *recorder, (stream, role), gap);
            }
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
                // First, as what is said within must be over before what carries it.
                tunnels.end(shared, *recorder, (stream, role), at, end);
                builder.end(shared, *recorder, (stream, role), at, end);
            }
            Event::Absent {
                stream,
                role,
                at: _,
                missing,
                reset_code,
            } => {
                builder.absent(shared, *recorder, (stream, role), missing, reset_code);
            }
            Event::Pushed { stream } => builder.pushed(shared, stream),
            Event::Tunnel { stream } => {
                builder.tunnel(shared, stream);
                if let Some(key) = builder.connects(stream) {
                    let outer = builder.connection();
                    tunnels.open(shared, (stream, key), outer, *now);
                }
            }
            Event::SwitchToHttp2 {
                stream,
                direction,
                lost,
                rest,
            } => switches.push(Switch {
                stream,
                direction,
                lost,
                rest: rest.to_vec(),
            }),
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
