//! Exchanges become a block.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use rkyv::rancor::BoxedError;
use rkyv::util::AlignedVec;
use tapedeck_model::{self as model, Exchange, GapCause, Origin, StartLine, Timestamp};

use super::packed::{Lengths, Values};
use super::records::{
    Arrivals, Block, Connections, Gaps, Heads, Messages, Pieces, Records, connection_flags,
    field_flags, head_flags, message_flags, record_flags,
};
use crate::details::{StoredTls, StoredWorkload};
use crate::keyed::Keyed;

/// Names a block before it is known where in the file it will lie.
#[derive(Clone, Debug, Default)]
pub(crate) struct BlockHandle(Arc<OnceLock<u64>>);

impl BlockHandle {
    /// Where the block lies, once it was written.
    pub(crate) fn offset(&self) -> Option<u64> {
        self.0.get().copied()
    }

    /// Says where the block lies. The first call counts.
    pub(crate) fn written_at(&self, offset: u64) {
        self.0.get_or_init(|| offset);
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Where bytes of a body lie.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    pub(crate) block: BlockHandle,
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// Where the body of a message lies: pieces first, then (where `tail_inline`) its tail, in the
/// block of the record.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    pub(crate) pieces: Vec<Location>,
    pub(crate) tail_inline: bool,
}

/// An exchange block under construction.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    base: i64,
    /// The time of the last record.
    last: i64,
    handle: BlockHandle,
    records: RecordValues,
    messages: [MessageValues; 2],
    heads: [HeadValues; 3],
    pieces: [Values; 3],
    /// The location of each piece, whose references are known only at the end.
    locations: Vec<Location>,
    gaps: [Values; 3],
    arrivals: [Values; 2],
    interims: Values,
    connections: ConnectionValues,
    /// Connections of the block by id.
    numbers: HashMap<u64, usize, Keyed>,
    /// Connections as they came, each with its last stream.
    known: Vec<(Arc<model::Connection>, u64)>,
    tls: Table<StoredTls>,
    workloads: Table<StoredWorkload>,
    anomalies: Vec<u128>,
    bodies: Vec<u8>,
}

#[derive(Debug, Default)]
struct RecordValues {
    time: Values,
    connection: Values,
    stream: Values,
    anomalies: Values,
    n_interims: Values,
    request_absent: Values,
    response_absent: Values,
    protocol: Values,
    flags: Values,
}

#[derive(Debug, Default)]
struct MessageValues {
    first_byte: Values,
    last_byte: Values,
    inline_len: Values,
    n_pieces: Values,
    n_gaps: Values,
    n_arrivals: Values,
    reset_code: Values,
    missing: Values,
    flags: Values,
}

#[derive(Debug, Default)]
struct HeadValues {
    start: Values,
    flags: Values,
    protocol: Values,
    status: Values,
    first_skip: Values,
    first_len: Values,
    second_skip: Values,
    second_len: Values,
    n_fields: Values,
    rest: Values,
    name_skip: Values,
    value_skip: Values,
    field_flags: Values,
    /// Of names, and of values.
    field_lens: Lengths<2>,
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct ConnectionValues {
    id: Values,
    scope: Values,
    opened: Values,
    client_high: Values,
    client_low: Values,
    client_port: Values,
    server_high: Values,
    server_low: Values,
    server_port: Values,
    first_stream: Values,
    tls: Values,
    client_workload: Values,
    server_workload: Values,
    flags: Values,
}

/// Distinct things, numbered from 1.
#[derive(Debug)]
struct Table<T> {
    all: Vec<T>,
    numbers: HashMap<T, u64>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            numbers: HashMap::new(),
        }
    }
}

impl<T: Clone + Eq + Hash> Table<T> {
    /// The number of a thing; 0 for none.
    fn number(&mut self, thing: Option<T>) -> u64 {
        let Some(thing) = thing else { return 0 };
        if let Some(number) = self.numbers.get(&thing) {
            return *number;
        }
        self.all.push(thing.clone());
        let number = self.all.len() as u64;
        self.numbers.insert(thing, number);
        number
    }
}

/// The kinds of heads, as [`Block::heads`] has them.
pub(crate) mod head_kind {
    pub(crate) const REQUEST: usize = 0;
    pub(crate) const RESPONSE: usize = 1;
    pub(crate) const OTHER: usize = 2;
}

/// Where the tails of an exchange came to lie in the block, where they are inline.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tails {
    pub(crate) request: u32,
    pub(crate) response: u32,
}

impl BlockBuilder {
    pub(crate) fn handle(&self) -> &BlockHandle {
        &self.handle
    }

    pub(crate) fn n_records(&self) -> usize {
        self.records.time.len()
    }

    /// About how long the block will be. It can be five times as long, where nothing in it has
    /// anything to do with anything else.
    pub(crate) fn raw_len(&self) -> usize {
        let heads = self
            .heads
            .iter()
            .map(|heads| heads.bytes.len() + heads.start.len() * 10 + heads.field_lens.len() * 3);
        let [pieces, ..] = &self.pieces;
        let [gaps, ..] = &self.gaps;
        let [arrivals, ..] = &self.arrivals;
        2048 + heads.sum::<usize>()
            + self.bodies.len()
            + self.n_records() * 40
            + pieces.len() * 8
            + gaps.len() * 10
            + arrivals.len() * 8
            + self.interims.len() * 4
            + self.known.len() * 64
            + (self.tls.all.len() + self.workloads.all.len()) * 256
    }

    /// Whether any piece lies in a block that was not written yet, this one not counted.
    pub(crate) fn awaits_bodies(&self) -> bool {
        self.locations
            .iter()
            .any(|at| !at.block.is(&self.handle) && at.block.offset().is_none())
    }

    /// Adds an exchange.
    pub(crate) fn push(
        &mut self,
        exchange: &Exchange,
        request: &Placement,
        response: &Placement,
    ) -> Tails {
        let time = exchange.time();
        if self.n_records() == 0 {
            self.base = time.as_nanos();
            self.last = self.base;
        }
        let flag = |on: bool, flag: u64| if on { flag } else { 0 };
        let connection = self.connection(&exchange.connection, exchange.stream);
        let stream = self.known.get_mut(connection).map_or(0, |(_, last)| {
            exchange
                .stream
                .wrapping_sub(std::mem::replace(last, exchange.stream))
        });
        let anomalies = self.anomalies(exchange.anomalies.bits());
        let records = &mut self.records;
        records
            .time
            .push(time.as_nanos().wrapping_sub(self.last).cast_unsigned());
        self.last = time.as_nanos();
        records.connection.push(connection as u64);
        records.stream.push(stream);
        records.anomalies.push(anomalies);
        records.n_interims.push(exchange.interim.len() as u64);
        records
            .request_absent
            .push(exchange.request_absent.bits().into());
        records
            .response_absent
            .push(exchange.response_absent.bits().into());
        records
            .protocol
            .push(protocol_number(exchange.protocol).into());
        records.flags.push(
            flag(exchange.request.is_some(), record_flags::REQUEST)
                | flag(exchange.response.is_some(), record_flags::RESPONSE)
                | flag(exchange.tunnel, record_flags::TUNNEL)
                | flag(exchange.pushed, record_flags::PUSHED),
        );

        let mut tails = Tails::default();
        if let Some(message) = &exchange.request {
            tails.request = self.message(time, message, request, head_kind::REQUEST);
        }
        for interim in &exchange.interim {
            self.interims.push(delta(interim.at, time));
            self.head(&interim.head, head_kind::OTHER);
        }
        if let Some(message) = &exchange.response {
            tails.response = self.message(time, message, response, head_kind::RESPONSE);
        }
        tails
    }

    /// The inline bodies, in place of those that the exchanges brought: for blocks of version 1,
    /// which had them among the heads.
    pub(crate) fn set_bodies(&mut self, bytes: &[u8]) {
        self.bodies.clear();
        self.bodies.extend_from_slice(bytes);
    }

    /// The block as bytes, and the offsets that its references stand for. The builder is empty
    /// afterwards. Every block that a piece lies in must have been written.
    pub(crate) fn finish(
        &mut self,
        buffer: AlignedVec,
    ) -> Result<(AlignedVec, Vec<u64>), BoxedError> {
        let mut references: Vec<u64> = Vec::new();
        let mut numbers: HashMap<u64, u64> = HashMap::new();
        let [piece_references, ..] = &mut self.pieces;
        for (number, at) in self.locations.iter().enumerate() {
            if at.block.is(&self.handle) {
                continue;
            }
            let offset = at.block.offset();
            debug_assert!(offset.is_some(), "body blocks are written first");
            let offset = offset.unwrap_or(0);
            let reference = *numbers.entry(offset).or_insert_with(|| {
                references.push(offset);
                references.len() as u64
            });
            piece_references.set(number, reference);
        }
        let mut block = self.pack();
        let bytes = rkyv::api::high::to_bytes_in::<_, BoxedError>(&block, buffer)?;
        // The long buffers are used again.
        let [first, second, third] = &mut block.heads;
        for (values, heads) in self.heads.iter_mut().zip([first, second, third]) {
            values.bytes = std::mem::take(&mut heads.bytes);
            values.bytes.clear();
        }
        self.bodies = block.bodies;
        self.bodies.clear();
        Ok((bytes, references))
    }

    fn pack(&mut self) -> Block {
        self.handle = BlockHandle::default();
        self.locations.clear();
        self.numbers.clear();
        self.known.clear();
        let [references, starts, lens] = &mut self.pieces;
        let pieces = Pieces {
            n: references.len() as u32,
            reference: references.pack(),
            start: starts.pack(),
            len: lens.pack(),
        };
        let [offsets, lens, causes] = &mut self.gaps;
        let gaps = Gaps {
            n: offsets.len() as u32,
            offset: offsets.pack(),
            len: lens.pack(),
            cause: causes.pack(),
        };
        let [offsets, times] = &mut self.arrivals;
        let arrivals = Arrivals {
            n: offsets.len() as u32,
            offset: offsets.pack(),
            at: times.pack(),
        };
        Block {
            base: self.base,
            records: self.records.pack(),
            messages: self.messages.each_mut().map(MessageValues::pack),
            heads: self.heads.each_mut().map(HeadValues::pack),
            pieces,
            gaps,
            arrivals,
            n_interims: self.interims.len() as u32,
            interims: self.interims.pack(),
            connections: self.connections.pack(),
            tls: std::mem::take(&mut self.tls).all,
            workloads: std::mem::take(&mut self.workloads).all,
            anomalies: self
                .anomalies
                .drain(..)
                .map(|bits| [bits as u64, (bits >> 64) as u64])
                .collect(),
            bodies: std::mem::take(&mut self.bodies),
        }
    }

    /// Adds a message, and says where in `bodies` its tail begins.
    fn message(
        &mut self,
        time: Timestamp,
        message: &model::Message,
        placement: &Placement,
        kind: usize,
    ) -> u32 {
        let body = &message.body;
        let flag = |on: bool, flag: u64| if on { flag } else { 0 };
        let inline_len = if placement.tail_inline {
            body.tail.len()
        } else {
            0
        };
        if let Some(messages) = self.messages.get_mut(kind) {
            messages.first_byte.push(delta(message.first_byte, time));
            messages
                .last_byte
                .push(delta(message.last_byte, message.first_byte));
            messages.inline_len.push(inline_len as u64);
            messages.n_pieces.push(placement.pieces.len() as u64);
            messages.n_gaps.push(body.gaps.len() as u64);
            messages.n_arrivals.push(body.arrivals.len() as u64);
            messages
                .reset_code
                .push(message.reset_code.unwrap_or(0).into());
            messages.missing.push(message.missing.bits().into());
            messages.flags.push(
                flag(message.head.is_some(), message_flags::HEAD)
                    | flag(message.trailers.is_some(), message_flags::TRAILERS)
                    | flag(message.reset_code.is_some(), message_flags::RESET),
            );
        }
        if let Some(head) = &message.head {
            self.head(head, kind);
        }
        if let Some(trailers) = &message.trailers {
            self.head(trailers, head_kind::OTHER);
        }
        let [references, starts, lens] = &mut self.pieces;
        for at in &placement.pieces {
            references.push(0);
            starts.push(at.start.into());
            lens.push(at.len.into());
            self.locations.push(at.clone());
        }
        let [offsets, lens, causes] = &mut self.gaps;
        for at in &body.gaps {
            offsets.push(at.offset);
            lens.push(at.gap.len);
            causes.push(match at.gap.cause {
                GapCause::Lost => 0,
                GapCause::Snaplen => 1,
                GapCause::Limit => 2,
            });
        }
        let [offsets, times] = &mut self.arrivals;
        let (mut offset, mut at) = (0, message.first_byte);
        for arrival in &body.arrivals {
            offsets.push(arrival.offset.wrapping_sub(offset));
            times.push(delta(arrival.at, at));
            (offset, at) = (arrival.offset, arrival.at);
        }
        let start = self.bodies.len() as u32;
        if placement.tail_inline {
            self.bodies.extend_from_slice(&body.tail);
        }
        start
    }

    fn head(&mut self, head: &model::Head, kind: usize) {
        if let Some(heads) = self.heads.get_mut(kind) {
            heads.push(head);
        }
    }

    fn anomalies(&mut self, bits: u128) -> u64 {
        // Nearly every block has one or two distinct sets.
        let known = self.anomalies.iter().position(|known| *known == bits);
        known.unwrap_or_else(|| {
            self.anomalies.push(bits);
            self.anomalies.len() - 1
        }) as u64
    }

    fn connection(&mut self, connection: &Arc<model::Connection>, stream: u64) -> usize {
        let known = self.numbers.get(&connection.id.0).copied();
        // Ids are unique within one capture, but a merged archive holds several.
        if let Some(number) = known
            && self
                .known
                .get(number)
                .is_some_and(|(known, _)| Arc::ptr_eq(known, connection) || known == connection)
        {
            return number;
        }
        let number = self.known.len();
        self.known
            .push((connection.clone(), stream.wrapping_sub(1)));
        self.numbers.insert(connection.id.0, number);
        let model::Connection {
            id,
            client,
            server,
            scope,
            origin,
            opened,
            tls,
            workloads,
        } = &**connection;
        let flag = |on: bool, flag: u64| if on { flag } else { 0 };
        let base = Timestamp::from_nanos(self.base);
        let values = &mut self.connections;
        values.id.push(id.0);
        values.scope.push(scope.0);
        values.opened.push(delta(*opened, base));
        let (high, low) = halves(client.ip);
        values.client_high.push(high);
        values.client_low.push(low);
        values.client_port.push(client.port.into());
        let (high, low) = halves(server.ip);
        values.server_high.push(high);
        values.server_low.push(low);
        values.server_port.push(server.port.into());
        values.first_stream.push(stream);
        values
            .tls
            .push(self.tls.number(tls.as_deref().map(Into::into)));
        let mut workload =
            |workload: Option<&model::Workload>| self.workloads.number(workload.map(Into::into));
        values
            .client_workload
            .push(workload(workloads.client.as_deref()));
        values
            .server_workload
            .push(workload(workloads.server.as_deref()));
        values.flags.push(
            flag(client.ip.is_ipv6(), connection_flags::CLIENT_V6)
                | flag(server.ip.is_ipv6(), connection_flags::SERVER_V6)
                | flag(*origin != Origin::Handshake, connection_flags::MIDSTREAM)
                | flag(*origin == Origin::Predates, connection_flags::PREDATES),
        );
        number
    }
}

impl RecordValues {
    fn pack(&mut self) -> Records {
        Records {
            n: self.time.len() as u32,
            time: self.time.pack(),
            connection: self.connection.pack(),
            stream: self.stream.pack(),
            anomalies: self.anomalies.pack(),
            n_interims: self.n_interims.pack(),
            request_absent: self.request_absent.pack(),
            response_absent: self.response_absent.pack(),
            protocol: self.protocol.pack(),
            flags: self.flags.pack(),
        }
    }
}

impl MessageValues {
    fn pack(&mut self) -> Messages {
        Messages {
            n: self.flags.len() as u32,
            first_byte: self.first_byte.pack(),
            last_byte: self.last_byte.pack(),
            inline_len: self.inline_len.pack(),
            n_pieces: self.n_pieces.pack(),
            n_gaps: self.n_gaps.pack(),
            n_arrivals: self.n_arrivals.pack(),
            reset_code: self.reset_code.pack(),
            missing: self.missing.pack(),
            flags: self.flags.pack(),
        }
    }
}

impl HeadValues {
    fn push(&mut self, head: &model::Head) {
        let mut flags = 0;
        let (start, first, second, status) = match head.start {
            StartLine::None => (0, None, None, None),
            StartLine::Request { method, target } => {
                flags |= method.map_or(0, |_| head_flags::METHOD);
                flags |= target.map_or(0, |_| head_flags::TARGET);
                (1, method, target, None)
            }
            StartLine::Response { status, reason } => (2, Some(reason), None, status),
        };
        flags |= status.map_or(0, |_| head_flags::STATUS);
        let mut cursor = 0_u32;
        let mut part = |span: Option<model::Span>| {
            let Some(span) = span else { return (0, 0) };
            let skip = distance(cursor, span.start);
            cursor = span.start.wrapping_add(span.len);
            (skip, u64::from(span.len))
        };
        let (skip, len) = part(first);
        self.first_skip.push(skip);
        self.first_len.push(len);
        let (skip, len) = part(second);
        self.second_skip.push(skip);
        self.second_len.push(len);
        let begins_behind = head
            .fields
            .first()
            .is_none_or(|field| field.name.start >= cursor);
        if !begins_behind {
            flags |= head_flags::FIELDS_FIRST;
            cursor = 0;
        }
        self.fields(&head.fields, &mut cursor);
        self.rest.push(distance(cursor, head.raw.len() as u32));
        self.start.push(start);
        self.flags.push(flags);
        self.protocol.push(protocol_number(head.protocol).into());
        self.status.push(status.unwrap_or(0).into());
        self.n_fields.push(head.fields.len() as u64);
        self.bytes.extend_from_slice(&head.raw);
    }

    /// Column by column: most of what an exchange has are fields, and so each column grows but once.
    fn fields(&mut self, fields: &[model::Field], cursor: &mut u32) {
        let (Some(first), Some(last)) = (fields.first(), fields.last()) else {
            return;
        };
        let end = |span: model::Span| span.start.wrapping_add(span.len);
        let name_skip = |before: u32, field: &model::Field| field.name.start.wrapping_sub(before);
        let value_skip = |field: &model::Field| field.value.start.wrapping_sub(end(field.name));
        let flags = |field: &model::Field| u32::from(field.name_unknown | field.value_unknown);
        // Every field is as far from the one before in nearly every head: that is seen without a branch
        // for each.
        let second = fields.get(1);
        let skips = (
            second.map_or(0, |field| name_skip(end(first.value), field)),
            value_skip(first),
        );
        let mut odd = 0;
        let mut before = first.name.start.wrapping_sub(skips.0);
        self.field_lens.extend(fields.iter().map(|field| {
            odd |=
                (name_skip(before, field) ^ skips.0) | (value_skip(field) ^ skips.1) | flags(field);
            before = end(field.value);
            [field.name.len, field.value.len]
        }));
        self.name_skip.push(distance(*cursor, first.name.start));
        if odd == 0 {
            self.name_skip.repeat(signed(skips.0), fields.len() - 1);
            self.value_skip.repeat(signed(skips.1), fields.len());
            self.field_flags.repeat(0, fields.len());
        } else {
            let mut before = end(first.value);
            for field in fields.iter().skip(1) {
                self.name_skip.push(signed(name_skip(before, field)));
                before = end(field.value);
            }
            for field in fields {
                self.value_skip.push(signed(value_skip(field)));
                self.field_flags.push(flags_of(field));
            }
        }
        *cursor = end(last.value);
    }

    fn pack(&mut self) -> Heads {
        let n_all_fields = self.field_lens.len() as u32;
        let [name_len, value_len] = self.field_lens.pack();
        Heads {
            n: self.start.len() as u32,
            n_all_fields,
            start: self.start.pack(),
            flags: self.flags.pack(),
            protocol: self.protocol.pack(),
            status: self.status.pack(),
            first_skip: self.first_skip.pack(),
            first_len: self.first_len.pack(),
            second_skip: self.second_skip.pack(),
            second_len: self.second_len.pack(),
            n_fields: self.n_fields.pack(),
            rest: self.rest.pack(),
            name_skip: self.name_skip.pack(),
            name_len,
            value_skip: self.value_skip.pack(),
            value_len,
            field_flags: self.field_flags.pack(),
            bytes: std::mem::take(&mut self.bytes),
        }
    }
}

impl ConnectionValues {
    fn pack(&mut self) -> Connections {
        Connections {
            n: self.id.len() as u32,
            id: self.id.pack(),
            scope: self.scope.pack(),
            opened: self.opened.pack(),
            client_high: self.client_high.pack(),
            client_low: self.client_low.pack(),
            client_port: self.client_port.pack(),
            server_high: self.server_high.pack(),
            server_low: self.server_low.pack(),
            server_port: self.server_port.pack(),
            first_stream: self.first_stream.pack(),
            tls: self.tls.pack(),
            client_workload: self.client_workload.pack(),
            server_workload: self.server_workload.pack(),
            flags: self.flags.pack(),
        }
    }
}

/// How far `to` lies behind `from`, as [`Heads`] has it: 32 bits, so that a step back stays short.
fn distance(from: u32, to: u32) -> u64 {
    signed(to.wrapping_sub(from))
}

/// A difference of 32 bits as one of 64.
fn signed(difference: u32) -> u64 {
    i64::from(difference.cast_signed()).cast_unsigned()
}

fn flags_of(field: &model::Field) -> u64 {
    let name = u64::from(field.name_unknown) * field_flags::NAME_UNKNOWN;
    let value = u64::from(field.value_unknown) * field_flags::VALUE_UNKNOWN;
    name | value
}

/// `at` from `from` on. Wraps, and so does the way back: any two timestamps survive.
fn delta(at: Timestamp, from: Timestamp) -> u64 {
    at.as_nanos().wrapping_sub(from.as_nanos()).cast_unsigned()
}

/// The bytes of an address, and whether it is IPv6.
pub(crate) fn octets(ip: IpAddr) -> ([u8; 16], bool) {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            ([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], false)
        }
        IpAddr::V6(ip) => (ip.octets(), true),
    }
}

/// An address as a number, in two halves.
pub(crate) fn halves(ip: IpAddr) -> (u64, u64) {
    match ip {
        IpAddr::V4(ip) => (0, ip.to_bits().into()),
        IpAddr::V6(ip) => ((ip.to_bits() >> 64) as u64, ip.to_bits() as u64),
    }
}

/// The number that stands for a protocol in the file.
pub(crate) const fn protocol_number(protocol: model::Protocol) -> u8 {
    match protocol {
        model::Protocol::Http10 => 0,
        model::Protocol::Http11 => 1,
        model::Protocol::Http2 => 2,
    }
}
