//! Puts the events of a protocol reader together into exchanges.
//!
//! ```text
//!               Head, Body, Trailers                End
//!   Waiting ─────────────────────────► Open ─────────────────► Ended
//!      │                                                         ▲
//!      └──────────────────────── Absent ─────────────────────────┘
//! ```
//!
//! Each exchange has two such halves. When both have ended, it goes to the recorder.

use std::sync::Arc;

use tapedeck_model::exchange::{Arrival, Body, BodyGap};
use tapedeck_model::{
    Anomalies, Anomaly, BodyPart, Connection, Exchange, Field, Gap, Head, Interim, Ledger, Message,
    Missing, Protocol, Role, StreamKey, Timestamp,
};

use crate::engine::ask;
use crate::sealed::TlsShared;
use crate::{Limits, Recorder};

/// Under pressure, a body leaves in parts of at least this size: smaller ones would cost more in
/// bookkeeping than they free.
const SMALLEST_PART: usize = 16 << 10;

/// What all connections of an engine share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) ledger: Ledger,
    /// Bytes of body tails held in all exchanges under construction.
    pub(crate) body_memory: usize,
    /// Bytes that all conversations hold.
    pub(crate) held: usize,
    /// The next [`Exchange::key`].
    pub(crate) next_key: u64,
    pub(crate) tls: TlsShared,
}

/// The exchanges under construction of one connection, in the order of their stream keys.
#[derive(Debug)]
pub(crate) struct Builder {
    connection: Arc<Connection>,
    // Readers bound the number of open streams. Keys come nearly in order, so that a sorted vector
    // is searched and filled at its end.
    open: Vec<(StreamKey, Box<Building>)>,
    /// Bytes that these hold: the sum of what each says.
    held: usize,
}

#[derive(Debug)]
struct Building {
    key: u64,
    request: Half,
    response: Half,
    interim: Vec<Interim>,
    tunnel: bool,
    pushed: bool,
    anomalies: Anomalies,
    /// Bytes held: heads, tails of bodies, and notes.
    held: usize,
}

#[derive(Debug, Default)]
struct Half {
    message: Option<Message>,
    /// When something of the body came last, or its head.
    last_arrival: Timestamp,
    absent: Missing,
    ended: bool,
}

impl Builder {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            open: Vec::new(),
            held: 0,
        }
    }

    /// Bytes held.
    pub(crate) const fn memory(&self) -> usize {
        self.held
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(crate) fn set_connection(&mut self, connection: Arc<Connection>) {
        self.connection = connection;
    }

    pub(crate) fn head(
        &mut self,
        shared: &mut Shared,
        (stream, role): (StreamKey, Role),
        (first_byte, at): (Timestamp, Timestamp),
        interim: bool,
        head: Head,
    ) {
        let most_interim = shared.limits.interim;
        let cost = cost(&head);
        let building = self.building(shared, stream);
        if interim && building.interim.len() >= most_interim {
            building.anomalies.insert(Anomaly::TooManyInterim);
            shared.ledger.count(Anomaly::TooManyInterim);
            return;
        }
        building.held += cost;
        if interim {
            building.interim.push(Interim { head, at });
            self.held += cost;
            return;
        }
        let half = building.half(role);
        let message = half.open(first_byte);
        if head.has_unknown() {
            message.missing.insert(Missing::UNKNOWN_FIELDS);
        }
        message.head = Some(head);
        message.last_byte = at;
        half.last_arrival = at;
        self.held += cost;
    }

    pub(crate) fn body(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        (stream, role): (StreamKey, Role),
        at: Timestamp,
        data: &[u8],
    ) {
        self.announce(shared, recorder, (stream, role), data.len());
        let building = self.building(shared, stream);
        let key = building.key;
        let other = match role {
            Role::Request => &building.response,
            Role::Response => &building.request,
        };
        // What a tunnel carries is a conversation: who spoke before whom must stay known.
        let after = building.tunnel.then_some(other.last_arrival);
        let half = building.half(role);
        let last_arrival = std::mem::replace(&mut half.last_arrival, at);
        let in_turn = after.is_some_and(|other| last_arrival <= other && last_arrival < at);
        let message = half.open(at);
        message.last_byte = at;

        let body = &mut message.body;
        let before = body.tail.len() + body.arrivals.len() * size_of::<Arrival>();
        let room = if body.gaps.len() < shared.limits.gaps {
            shared.limits.body_len.saturating_sub(body.len)
        } else {
            0
        };
        let kept = usize::try_from(room).map_or(data.len(), |room| room.min(data.len()));
        let (data, over) = data.split_at(kept);
        if !over.is_empty() {
            message.missing.insert(Missing::PARTIAL);
            shared.ledger.body_bytes_over_limit += over.len() as u64;
        }

        if (in_turn || at.since(last_arrival) >= shared.limits.arrival_interval)
            && body.arrivals.len() < shared.limits.arrivals
            && message.head.is_some()
        {
            body.arrivals.push(Arrival {
                offset: body.len,
                at,
            });
        }
        append(body, shared, recorder, (key, role), data);
        let after = body.tail.len() + body.arrivals.len() * size_of::<Arrival>();
        building.held = building.held + after - before;
        self.held = self.held + after - before;
    }

    pub(crate) fn body_gap(
        &mut self,
        shared: &mut Shared,
        (stream, role): (StreamKey, Role),
        gap: Gap,
    ) {
        let connection_opened = self.connection.opened;
        let most_gaps = shared.limits.gaps;
        let building = self.building(shared, stream);
        let half = building.half(role);
        let at = half
            .message
            .as_ref()
            .map_or(connection_opened, |message| message.last_byte);
        let message = half.open(at);
        message.missing.insert(gap.cause.into());
        let body = &mut message.body;
        if body.gaps.len() >= most_gaps {
            message.missing.insert(Missing::PARTIAL);
            return;
        }
        body.gaps.push(BodyGap {
            offset: body.len,
            gap,
        });
        building.held += size_of::<BodyGap>();
        self.held += size_of::<BodyGap>();
    }

    pub(crate) fn trailers(
        &mut self,
        shared: &mut Shared,
        (stream, role): (StreamKey, Role),
        at: Timestamp,
        trailers: Head,
    ) {
        let cost = cost(&trailers);
        let building = self.building(shared, stream);
        building.held += cost;
        let message = building.half(role).open(at);
        if trailers.has_unknown() {
            message.missing.insert(Missing::UNKNOWN_FIELDS);
        }
        message.trailers = Some(trailers);
        message.last_byte = at;
        self.held += cost;
    }

    pub(crate) fn end(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        (stream, role): (StreamKey, Role),
        at: Timestamp,
        end: tapedeck_model::End,
    ) {
        let half = self.building(shared, stream).half(role);
        let Some(message) = &mut half.message else {
            // Interim responses alone make no message.
            let (missing, code) = (end.missing, end.reset_code);
            return self.absent(shared, recorder, (stream, role), missing, code);
        };
        half.ended = true;
        message.last_byte = at;
        message.missing.insert(end.missing);
        if message.head.is_none() && message.missing.is_empty() {
            message.missing.insert(Missing::LOST);
        }
        message.reset_code = end.reset_code;
        self.emit_if_over(shared, recorder, stream);
    }

    pub(crate) fn absent(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        (stream, role): (StreamKey, Role),
        missing: Missing,
        reset_code: Option<u32>,
    ) {
        let building = self.building(shared, stream);
        let half = building.half(role);
        half.ended = true;
        half.absent.insert(missing);
        // A message that never came has no place for it; the stream is that of the other one, too.
        let other = match role {
            Role::Request => &mut building.response,
            Role::Response => &mut building.request,
        };
        if let Some(message) = &mut other.message {
            message.reset_code = message.reset_code.or(reset_code);
        }
        self.emit_if_over(shared, recorder, stream);
    }

    pub(crate) fn tunnel(&mut self, shared: &mut Shared, stream: StreamKey) {
        self.building(shared, stream).tunnel = true;
    }

    /// The key of the exchange of that stream, if its request is CONNECT to some place: not the one
    /// that opens another protocol on a stream (RFC 8441).
    pub(crate) fn connects(&self, stream: StreamKey) -> Option<u64> {
        let idx = self.find(stream).ok()?;
        let (_, building) = self.open.get(idx)?;
        let head = building.request.message.as_ref()?.head.as_ref()?;
        let connects = head.method() == Some(b"CONNECT") && head.field(":protocol").is_none();
        connects.then_some(building.key)
    }

    pub(crate) fn pushed(&mut self, shared: &mut Shared, stream: StreamKey) {
        self.building(shared, stream).pushed = true;
    }

    pub(crate) fn anomaly(&mut self, stream: StreamKey, anomaly: Anomaly) {
        // Only for exchanges under way: an anomaly alone makes none.
        if let Ok(idx) = self.find(stream)
            && let Some((_, building)) = self.open.get_mut(idx)
        {
            building.anomalies.insert(anomaly);
        }
    }

    /// The connection went on as HTTP/2: the exchange that asked for it is stream 1 from now on.
    pub(crate) fn switch_to_http2(&mut self, asked: StreamKey) {
        if let Ok(idx) = self.find(asked) {
            let (_, building) = self.open.remove(idx);
            self.open.insert(0, (StreamKey(1), building));
        }
    }

    /// Hands over whatever is still open. Readers end what they began, so that this finds
    /// something only where a connection stopped being read.
    ///
    /// `why` they are not whole.
    pub(crate) fn finish(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        why: Missing,
    ) {
        self.held = 0;
        for (stream, mut building) in std::mem::take(&mut self.open) {
            for half in [&mut building.request, &mut building.response] {
                if half.ended {
                    continue;
                }
                match &mut half.message {
                    Some(message) => message.missing.insert(why),
                    None => half.absent.insert(why),
                }
            }
            self.emit(shared, recorder, stream, *building);
        }
    }

    fn find(&self, stream: StreamKey) -> Result<usize, usize> {
        match self.open.last() {
            Some((last, _)) if *last == stream => Ok(self.open.len() - 1),
            Some((last, _)) if *last < stream => Err(self.open.len()),
            None => Err(0),
            Some(_) => self.open.binary_search_by_key(&stream, |(key, _)| *key),
        }
    }

    /// Says whose a body is, before its first part leaves.
    fn announce(
        &self,
        shared: &Shared,
        recorder: &mut impl Recorder,
        (stream, role): (StreamKey, Role),
        more: usize,
    ) {
        let building = self.find(stream).ok().and_then(|idx| self.open.get(idx));
        let Some((_, building)) = building else {
            return;
        };
        let (request, response) = (&building.request.message, &building.response.message);
        let message = match role {
            Role::Request => request,
            Role::Response => response,
        };
        let body = message.as_ref().map(|message| &message.body);
        let (tail, parts) = body.map_or((0, 0), |body| (body.tail.len(), body.parts));
        if parts == 0 && tail + more >= part_len(shared, more) {
            let head = request.as_ref().and_then(|message| message.head.as_ref());
            recorder.body_begins(building.key, &self.connection, head);
        }
    }

    fn building(&mut self, shared: &mut Shared, stream: StreamKey) -> &mut Building {
        let idx = self.find(stream).unwrap_or_else(|idx| {
            let key = shared.next_key;
            shared.next_key += 1;
            self.open
                .insert(idx, (stream, Box::new(Building::new(key))));
            idx
        });
        &mut self.open[idx].1
    }

    fn emit_if_over(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        stream: StreamKey,
    ) {
        if let Ok(idx) = self.find(stream)
            && self
                .open
                .get(idx)
                .is_some_and(|(_, b)| b.request.ended && b.response.ended)
        {
            let (_, building) = self.open.remove(idx);
            self.held -= building.held;
            self.emit(shared, recorder, stream, *building);
        }
    }

    fn emit(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        stream: StreamKey,
        building: Building,
    ) {
        let Building {
            key,
            request,
            response,
            interim,
            tunnel,
            pushed,
            anomalies,
            held: _,
        } = building;
        for message in [&request.message, &response.message].into_iter().flatten() {
            shared.body_memory = shared.body_memory.saturating_sub(message.body.tail.len());
        }
        if request.message.is_none() && response.message.is_none() && interim.is_empty() {
            return;
        }
        let heads = [&request.message, &response.message].into_iter().flatten();
        let protocol = heads
            .filter_map(|message| message.head.as_ref())
            .map(|head| head.protocol)
            .next()
            .unwrap_or(Protocol::Http11);
        ask(recorder, &mut self.connection);
        let exchange = Exchange {
            key,
            connection: Arc::clone(&self.connection),
            stream: stream.0,
            protocol,
            request: request.message,
            interim,
            response: response.message,
            request_absent: request.absent,
            response_absent: response.absent,
            tunnel,
            pushed,
            anomalies,
        };
        let ledger = &mut shared.ledger;
        ledger.exchanges += 1;
        ledger.exchanges_incomplete += u64::from(!exchange.complete());
        ledger.exchanges_without_request += u64::from(exchange.request.is_none());
        ledger.exchanges_without_response += u64::from(exchange.response.is_none());
        recorder.exchange(&exchange);
    }
}

/// What a head takes.
fn cost(head: &Head) -> usize {
    size_of::<Message>() + head.raw.capacity() + head.fields.capacity() * size_of::<Field>()
}

/// How long a tail becomes before it leaves as a part, when so much more is held.
fn part_len(shared: &Shared, more: usize) -> usize {
    let len = shared.limits.part_len;
    if shared.body_memory + more > shared.limits.body_memory {
        len.min(SMALLEST_PART)
    } else {
        len
    }
}

/// Appends to the tail of a body, and sends a part on its way when the tail is long enough or
/// memory is short.
fn append(
    body: &mut Body,
    shared: &mut Shared,
    recorder: &mut impl Recorder,
    (key, role): (u64, Role),
    mut data: &[u8],
) {
    let part_len = shared.limits.part_len;
    while !data.is_empty() {
        let room = part_len.saturating_sub(body.tail.len()).max(1);
        let (now, later) = data.split_at(room.min(data.len()));
        body.tail.extend_from_slice(now);
        body.len += now.len() as u64;
        shared.body_memory += now.len();
        data = later;

        if body.tail.len() >= self::part_len(shared, 0) {
            shared.body_memory = shared.body_memory.saturating_sub(body.tail.len());
            let mut part = BodyPart {
                key,
                role,
                data: std::mem::take(&mut body.tail),
            };
            recorder.body_part(&part);
            part.data.clear();
            body.tail = part.data;
            body.parts += 1;
        }
    }
}

impl Building {
    fn new(key: u64) -> Self {
        Self {
            key,
            request: Half::default(),
            response: Half::default(),
            interim: Vec::new(),
            tunnel: false,
            pushed: false,
            anomalies: Anomalies::default(),
            held: 0,
        }
    }

    fn half(&mut self, role: Role) -> &mut Half {
        match role {
            Role::Request => &mut self.request,
            Role::Response => &mut self.response,
        }
    }
}

impl Half {
    /// The message under construction; begun at `at` if nothing of it came before.
    fn open(&mut self, at: Timestamp) -> &mut Message {
        self.message.get_or_insert_with(|| Message {
            head: None,
            body: Body::default(),
            trailers: None,
            first_byte: at,
            last_byte: at,
            missing: Missing::NONE,
            reset_code: None,
        })
    }
}
