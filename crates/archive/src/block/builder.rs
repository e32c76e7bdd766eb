//! Exchanges become a block.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use rkyv::rancor::BoxedError;
use rkyv::util::AlignedVec;
use tapedeck_model::{self as model, Exchange, GapCause, Origin, StartLine, Timestamp};

use super::records::{
    Arrival, Block, Connection, Field, Gap, Head, Message, OWN_BLOCK, Piece, Record, Span,
    WideField, connection_flags, field_flags, head_flags, message_flags, record_flags,
};

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
    block: Block,
    handle: BlockHandle,
    /// The location of each of `block.pieces`, whose references are known only at the end.
    locations: Vec<Location>,
    connections: HashMap<u64, u32>,
    /// `block.connections` as they came.
    known: Vec<model::Connection>,
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
        self.block.records.len()
    }

    /// About how long the block will be.
    pub(crate) fn raw_len(&self) -> usize {
        let Block {
            base: _,
            records,
            messages,
            heads,
            fields,
            wide_fields,
            interims,
            pieces,
            gaps,
            arrivals,
            connections,
            bytes,
        } = &self.block;
        256 + size_of_val(&records[..])
            + size_of_val(&messages[..])
            + size_of_val(&heads[..])
            + size_of_val(&fields[..])
            + size_of_val(&wide_fields[..])
            + size_of_val(&interims[..])
            + size_of_val(&pieces[..])
            + size_of_val(&gaps[..])
            + size_of_val(&arrivals[..])
            + size_of_val(&connections[..])
            + bytes.len()
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
        if self.block.records.is_empty() {
            self.block.base = time.as_nanos();
        }
        let bits = exchange.anomalies.bits();
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        let record = Record {
            time: time.as_nanos().wrapping_sub(self.block.base),
            stream: exchange.stream,
            anomalies: [bits as u64, (bits >> 64) as u64],
            connection: self.connection(&exchange.connection),
            n_interims: exchange.interim.len() as u32,
            request_absent: exchange.request_absent.bits(),
            response_absent: exchange.response_absent.bits(),
            protocol: protocol_number(exchange.protocol),
            flags: flag(exchange.request.is_some(), record_flags::REQUEST)
                | flag(exchange.response.is_some(), record_flags::RESPONSE)
                | flag(exchange.tunnel, record_flags::TUNNEL)
                | flag(exchange.pushed, record_flags::PUSHED),
        };
        self.block.records.push(record);

        let mut tails = Tails::default();
        if let Some(message) = &exchange.request {
            tails.request = self.message(time, message, request);
        }
        for interim in &exchange.interim {
            self.block.interims.push(delta(interim.at, time));
            self.head(&interim.head);
        }
        if let Some(message) = &exchange.response {
            tails.response = self.message(time, message, response);
        }
        tails
    }

    /// The block as bytes, and the offsets that its references stand for. The builder is empty
    /// afterwards. Every block that a piece lies in must have been written.
    pub(crate) fn finish(
        &mut self,
        buffer: AlignedVec,
    ) -> Result<(AlignedVec, Vec<u64>), BoxedError> {
        let mut references: Vec<u64> = Vec::new();
        let mut numbers: HashMap<u64, u32> = HashMap::new();
        for (piece, at) in self.block.pieces.iter_mut().zip(&self.locations) {
            piece.reference = if at.block.is(&self.handle) {
                OWN_BLOCK
            } else {
                let offset = at.block.offset();
                debug_assert!(offset.is_some(), "body blocks are written first");
                let offset = offset.unwrap_or(0);
                *numbers.entry(offset).or_insert_with(|| {
                    references.push(offset);
                    references.len() as u32 - 1
                })
            };
        }
        let bytes = rkyv::api::high::to_bytes_in::<_, BoxedError>(&self.block, buffer)?;
        self.clear();
        Ok((bytes, references))
    }

    fn clear(&mut self) {
        let Self {
            block,
            handle,
            locations,
            connections,
            known,
        } = self;
        let Block {
            base,
            records,
            messages,
            heads,
            fields,
            wide_fields,
            interims,
            pieces,
            gaps,
            arrivals,
            connections: block_connections,
            bytes,
        } = block;
        *base = 0;
        records.clear();
        messages.clear();
        heads.clear();
        fields.clear();
        wide_fields.clear();
        interims.clear();
        pieces.clear();
        gaps.clear();
        arrivals.clear();
        block_connections.clear();
        bytes.clear();
        *handle = BlockHandle::default();
        locations.clear();
        connections.clear();
        known.clear();
    }

    /// Adds a message, and says where in `bytes` its tail begins.
    fn message(&mut self, time: Timestamp, message: &model::Message, placement: &Placement) -> u32 {
        let body = &message.body;
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        let inline_len = if placement.tail_inline {
            body.tail.len()
        } else {
            0
        };
        let in_pieces: u64 = placement.pieces.iter().map(|at| u64::from(at.len)).sum();
        self.block.messages.push(Message {
            first_byte: delta(message.first_byte, time),
            last_byte: delta(message.last_byte, message.first_byte),
            body_len: in_pieces + inline_len as u64,
            inline_len: inline_len as u32,
            n_pieces: placement.pieces.len() as u32,
            n_gaps: body.gaps.len() as u32,
            n_arrivals: body.arrivals.len() as u32,
            reset_code: message.reset_code.unwrap_or(0),
            missing: message.missing.bits(),
            flags: flag(message.head.is_some(), message_flags::HEAD)
                | flag(message.trailers.is_some(), message_flags::TRAILERS)
                | flag(message.reset_code.is_some(), message_flags::RESET),
        });
        for head in message.head.iter().chain(&message.trailers) {
            self.head(head);
        }
        for at in &placement.pieces {
            self.block.pieces.push(Piece {
                reference: OWN_BLOCK,
                start: at.start,
                len: at.len,
            });
            self.locations.push(at.clone());
        }
        self.block.gaps.extend(body.gaps.iter().map(|at| Gap {
            offset: at.offset,
            len: at.gap.len,
            cause: match at.gap.cause {
                GapCause::Lost => 0,
                GapCause::Snaplen => 1,
                GapCause::Limit => 2,
            },
        }));
        let arrivals = body.arrivals.iter().map(|arrival| Arrival {
            offset: arrival.offset,
            at: delta(arrival.at, message.first_byte),
        });
        self.block.arrivals.extend(arrivals);
        let start = self.block.bytes.len() as u32;
        if placement.tail_inline {
            self.block.bytes.extend_from_slice(&body.tail);
        }
        start
    }

    fn head(&mut self, head: &model::Head) {
        let mut flags = 0;
        let mut span = |span: Option<model::Span>, flag: u8| {
            if span.is_some() {
                flags |= flag;
            }
            span.map_or_else(Span::default, Span::from)
        };
        let (start, first, second, status) = match head.start {
            StartLine::None => (0, Span::default(), Span::default(), None),
            StartLine::Request { method, target } => (
                1,
                span(method, head_flags::METHOD),
                span(target, head_flags::TARGET),
                None,
            ),
            StartLine::Response { status, reason } => (2, reason.into(), Span::default(), status),
        };
        if status.is_some() {
            flags |= head_flags::STATUS;
        }
        if !self.narrow_fields(&head.fields) {
            flags |= head_flags::WIDE;
            let wide = head.fields.iter().map(|field| WideField {
                name: field.name.into(),
                value: field.value.into(),
                flags: flags_of(field),
            });
            self.block.wide_fields.extend(wide);
        }
        self.block.heads.push(Head {
            raw_len: head.raw.len() as u32,
            n_fields: head.fields.len() as u32,
            first,
            second,
            status: status.unwrap_or(0),
            protocol: protocol_number(head.protocol),
            start,
            flags,
        });
        self.block.bytes.extend_from_slice(&head.raw);
    }

    /// Adds the fields in the narrow form. `false`, and nothing is added, where one does not fit.
    fn narrow_fields(&mut self, fields: &[model::Field]) -> bool {
        let before = self.block.fields.len();
        let mut cursor = 0;
        for field in fields {
            if let Some(narrow) = narrow(field, &mut cursor) {
                self.block.fields.push(narrow);
            } else {
                self.block.fields.truncate(before);
                return false;
            }
        }
        true
    }

    fn connection(&mut self, connection: &model::Connection) -> u32 {
        let known = self.connections.get(&connection.id.0).copied();
        // Ids are unique within one capture, but a merged archive holds several.
        if let Some(number) = known
            && self.known.get(number as usize) == Some(connection)
        {
            return number;
        }
        let number = self.block.connections.len() as u32;
        let (client, client_v6) = octets(connection.client.ip);
        let (server, server_v6) = octets(connection.server.ip);
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        self.block.connections.push(Connection {
            id: connection.id.0,
            scope: connection.scope.0,
            opened: connection.opened.as_nanos(),
            client,
            server,
            client_port: connection.client.port,
            server_port: connection.server.port,
            flags: flag(client_v6, connection_flags::CLIENT_V6)
                | flag(server_v6, connection_flags::SERVER_V6)
                | flag(
                    connection.origin == Origin::Midstream,
                    connection_flags::MIDSTREAM,
                ),
        });
        self.known.push(connection.clone());
        self.connections.insert(connection.id.0, number);
        number
    }
}

impl From<model::Span> for Span {
    fn from(span: model::Span) -> Self {
        Self {
            start: span.start,
            len: span.len,
        }
    }
}

fn narrow(field: &model::Field, cursor: &mut u32) -> Option<Field> {
    if field.name_unknown || field.value_unknown {
        return None;
    }
    let mut distance = |span: model::Span| -> Option<(u16, u16)> {
        let skip = u16::try_from(span.start.checked_sub(*cursor)?).ok()?;
        let len = u16::try_from(span.len).ok()?;
        *cursor = span.start.checked_add(span.len)?;
        Some((skip, len))
    };
    let (skip, name_len) = distance(field.name)?;
    let (gap, value_len) = distance(field.value)?;
    Some(Field {
        skip,
        name_len,
        gap,
        value_len,
    })
}

fn flags_of(field: &model::Field) -> u32 {
    let mut flags = 0;
    if field.name_unknown {
        flags |= field_flags::NAME_UNKNOWN;
    }
    if field.value_unknown {
        flags |= field_flags::VALUE_UNKNOWN;
    }
    flags
}

/// `at` from `from` on. Wraps, and so does the way back: any two timestamps survive.
fn delta(at: Timestamp, from: Timestamp) -> i64 {
    at.as_nanos().wrapping_sub(from.as_nanos())
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

/// The number that stands for a protocol in the file.
pub(crate) const fn protocol_number(protocol: model::Protocol) -> u8 {
    match protocol {
        model::Protocol::Http10 => 0,
        model::Protocol::Http11 => 1,
        model::Protocol::Http2 => 2,
    }
}
