//! A block of version 1 becomes one of today's.

use std::sync::Arc;

use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use tapedeck_model::{
    Anomalies, Connection, ConnectionId, Endpoint, Exchange, Field, Gap, GapCause, Head, Interim,
    Message, Missing, Origin, Scope, Span, StartLine, Timestamp, Workloads,
    exchange::{Arrival, Body, BodyGap},
};

use super::records::{
    ArchivedBlock, ArchivedConnection, ArchivedHead, ArchivedPiece, ArchivedRecord, ArchivedSpan,
    OWN_BLOCK, connection_flags, field_flags, head_flags, message_flags, record_flags,
};
use crate::block::builder::{BlockBuilder, BlockHandle, Location, Placement};
use crate::block::view::{address, protocol};
use crate::error::Damage;

/// The block, and the offsets that its references stand for.
///
/// What was `bytes`, heads and bodies in the order of the records, becomes `bodies` as it is, because
/// pieces of other blocks point into it. Bodies are pieces of it.
pub(crate) fn upgrade(
    payload: &[u8],
    references: &[u64],
) -> Result<(AlignedVec, Vec<u64>), Damage> {
    let block = rkyv::access::<ArchivedBlock, Failure>(payload)
        .map_err(|_| Damage::Structure("it is not an exchange block"))?;
    let mut walk = Walk {
        block,
        cursor: Cursor::default(),
        references,
        builder: BlockBuilder::default(),
        connections: block
            .connections
            .iter()
            .map(|connection| Arc::new(connection_of(connection)))
            .collect(),
    };
    for record in block.records.iter() {
        walk.record(record)?;
    }
    let Walk {
        cursor,
        mut builder,
        ..
    } = walk;
    let ends = Cursor {
        message: block.messages.len(),
        head: block.heads.len(),
        field: block.fields.len(),
        wide_field: block.wide_fields.len(),
        interim: block.interims.len(),
        piece: block.pieces.len(),
        gap: block.gaps.len(),
        arrival: block.arrivals.len(),
        byte: block.bytes.len(),
    };
    if cursor != ends {
        return Err(Damage::Structure("a table is longer than its records"));
    }
    builder.set_bodies(&block.bytes);
    builder
        .finish(AlignedVec::new())
        .map_err(|_| Damage::Structure("a block of an older version cannot be read"))
}

/// Where the next thing of each table lies.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Cursor {
    message: usize,
    head: usize,
    field: usize,
    wide_field: usize,
    interim: usize,
    piece: usize,
    gap: usize,
    arrival: usize,
    byte: usize,
}

struct Walk<'a> {
    block: &'a ArchivedBlock,
    cursor: Cursor,
    references: &'a [u64],
    builder: BlockBuilder,
    connections: Vec<Arc<Connection>>,
}

const SHORT: Damage = Damage::Structure("a table is shorter than its records");

impl Walk<'_> {
    fn record(&mut self, record: &ArchivedRecord) -> Result<(), Damage> {
        let connection = self
            .connections
            .get(record.connection.to_native() as usize)
            .ok_or(Damage::Structure("a record names no connection"))?
            .clone();
        let base = Timestamp::from_nanos(self.block.base.to_native());
        let time = moved(base, record.time.to_native());
        let has = |flag: u8| record.flags & flag != 0;
        let (mut request, mut response) = (None, None);
        let mut placements = [Placement::default(), Placement::default()];
        let [in_request, in_response] = &mut placements;
        if has(record_flags::REQUEST) {
            request = Some(self.message(time, in_request)?);
        }
        let mut interim = Vec::new();
        for _ in 0..record.n_interims.to_native() {
            let at = take_one(&self.block.interims, &mut self.cursor.interim)?;
            interim.push(Interim {
                head: self.head()?,
                at: moved(time, at.to_native()),
            });
        }
        if has(record_flags::RESPONSE) {
            response = Some(self.message(time, in_response)?);
        }
        let [low, high] = record.anomalies.map(|bits| bits.to_native());
        let exchange = Exchange {
            key: 0,
            connection,
            stream: record.stream.to_native(),
            protocol: protocol(record.protocol.into()),
            request,
            interim,
            response,
            request_absent: Missing::from_bits(record.request_absent.to_native()),
            response_absent: Missing::from_bits(record.response_absent.to_native()),
            tunnel: has(record_flags::TUNNEL),
            pushed: has(record_flags::PUSHED),
            anomalies: Anomalies::from_bits(u128::from(low) | u128::from(high) << 64),
        };
        // The time of an exchange without messages was the connection's opening then, too.
        let [in_request, in_response] = &placements;
        self.builder.push(&exchange, in_request, in_response);
        Ok(())
    }

    fn message(&mut self, time: Timestamp, placement: &mut Placement) -> Result<Message, Damage> {
        let message = take_one(&self.block.messages, &mut self.cursor.message)?;
        let has = |flag: u8| message.flags & flag != 0;
        let head = if has(message_flags::HEAD) {
            Some(self.head()?)
        } else {
            None
        };
        let trailers = if has(message_flags::TRAILERS) {
            Some(self.head()?)
        } else {
            None
        };
        let first_byte = moved(time, message.first_byte.to_native());
        let n_pieces = message.n_pieces.to_native();
        let pieces = take(&self.block.pieces, &mut self.cursor.piece, n_pieces)?;
        for piece in pieces {
            placement.pieces.push(self.location(piece)?);
        }
        let inline_len = message.inline_len.to_native();
        let start = self.cursor.byte;
        take(&self.block.bytes, &mut self.cursor.byte, inline_len)?;
        if inline_len > 0 {
            placement.pieces.push(Location {
                block: self.builder.handle().clone(),
                start: start as u32,
                len: inline_len,
            });
        }
        let len = placement.pieces.iter().map(|at| u64::from(at.len)).sum();
        if len != message.body_len.to_native() {
            return Err(Damage::Structure("a body is not as long as its pieces"));
        }
        let n_gaps = message.n_gaps.to_native();
        let gaps = take(&self.block.gaps, &mut self.cursor.gap, n_gaps)?;
        let gaps = gaps.iter().map(|gap| BodyGap {
            offset: gap.offset.to_native(),
            gap: Gap {
                len: gap.len.to_native(),
                cause: match gap.cause {
                    1 => GapCause::Snaplen,
                    2 => GapCause::Limit,
                    _ => GapCause::Lost,
                },
            },
        });
        let n_arrivals = message.n_arrivals.to_native();
        let arrivals = take(&self.block.arrivals, &mut self.cursor.arrival, n_arrivals)?;
        let arrivals = arrivals.iter().map(|arrival| Arrival {
            offset: arrival.offset.to_native(),
            at: moved(first_byte, arrival.at.to_native()),
        });
        Ok(Message {
            head,
            body: Body {
                len,
                parts: 0,
                tail: Vec::new(),
                gaps: gaps.collect(),
                arrivals: arrivals.collect(),
            },
            trailers,
            first_byte,
            last_byte: moved(first_byte, message.last_byte.to_native()),
            missing: Missing::from_bits(message.missing.to_native()),
            reset_code: has(message_flags::RESET).then(|| message.reset_code.to_native()),
        })
    }

    fn location(&self, piece: &ArchivedPiece) -> Result<Location, Damage> {
        let reference = piece.reference.to_native();
        let block = if reference == OWN_BLOCK {
            self.builder.handle().clone()
        } else {
            let offset = self.references.get(reference as usize);
            let handle = BlockHandle::default();
            handle.written_at(*offset.ok_or(Damage::Structure("a body names no block"))?);
            handle
        };
        Ok(Location {
            block,
            start: piece.start.to_native(),
            len: piece.len.to_native(),
        })
    }

    fn head(&mut self) -> Result<Head, Damage> {
        let head = take_one(&self.block.heads, &mut self.cursor.head)?;
        let raw_len = head.raw_len.to_native();
        let raw = take(&self.block.bytes, &mut self.cursor.byte, raw_len)?;
        let n_fields = head.n_fields.to_native();
        let fields = if head.flags & head_flags::WIDE != 0 {
            self.wide_fields(n_fields)?
        } else {
            self.narrow_fields(n_fields)?
        };
        Ok(Head {
            raw: raw.to_vec(),
            protocol: protocol(head.protocol.into()),
            start: start_line(head),
            fields,
        })
    }

    fn narrow_fields(&mut self, n: u32) -> Result<Vec<Field>, Damage> {
        let fields = take(&self.block.fields, &mut self.cursor.field, n)?;
        let mut cursor = 0_u32;
        let mut advance = |skip: u16, len: u16| {
            let start = cursor.saturating_add(skip.into());
            cursor = start.saturating_add(len.into());
            Span {
                start,
                len: len.into(),
            }
        };
        let fields = fields.iter().map(|field| Field {
            name: advance(field.skip.to_native(), field.name_len.to_native()),
            value: advance(field.gap.to_native(), field.value_len.to_native()),
            ..Field::default()
        });
        Ok(fields.collect())
    }

    fn wide_fields(&mut self, n: u32) -> Result<Vec<Field>, Damage> {
        let fields = take(&self.block.wide_fields, &mut self.cursor.wide_field, n)?;
        let fields = fields.iter().map(|field| {
            let unknown = |flag: u32| field.flags.to_native() & flag != 0;
            Field {
                name: (&field.name).into(),
                value: (&field.value).into(),
                name_unknown: unknown(field_flags::NAME_UNKNOWN),
                value_unknown: unknown(field_flags::VALUE_UNKNOWN),
            }
        });
        Ok(fields.collect())
    }
}

fn start_line(head: &ArchivedHead) -> StartLine {
    let span = |flag: u8, span: &ArchivedSpan| (head.flags & flag != 0).then(|| Span::from(span));
    match head.start {
        1 => StartLine::Request {
            method: span(head_flags::METHOD, &head.first),
            target: span(head_flags::TARGET, &head.second),
        },
        2 => StartLine::Response {
            status: (head.flags & head_flags::STATUS != 0).then(|| head.status.to_native()),
            reason: (&head.first).into(),
        },
        _ => StartLine::None,
    }
}

fn connection_of(stored: &ArchivedConnection) -> Connection {
    let has = |flag: u8| stored.flags & flag != 0;
    let endpoint = |octets, is_v6, port| Endpoint::new(address(octets, is_v6), port);
    Connection {
        id: ConnectionId(stored.id.to_native()),
        client: endpoint(
            stored.client,
            has(connection_flags::CLIENT_V6),
            stored.client_port.to_native(),
        ),
        server: endpoint(
            stored.server,
            has(connection_flags::SERVER_V6),
            stored.server_port.to_native(),
        ),
        scope: Scope(stored.scope.to_native()),
        origin: if has(connection_flags::MIDSTREAM) {
            Origin::Midstream
        } else {
            Origin::Handshake
        },
        opened: Timestamp::from_nanos(stored.opened.to_native()),
        tls: None,
        workloads: Workloads::default(),
    }
}

fn take<'s, T>(table: &'s [T], at: &mut usize, n: u32) -> Result<&'s [T], Damage> {
    let taken = table.get(*at..at.saturating_add(n as usize)).ok_or(SHORT)?;
    *at += n as usize;
    Ok(taken)
}

fn take_one<'s, T>(table: &'s [T], at: &mut usize) -> Result<&'s T, Damage> {
    take(table, at, 1)?.first().ok_or(SHORT)
}

impl From<&ArchivedSpan> for Span {
    fn from(span: &ArchivedSpan) -> Self {
        Self {
            start: span.start.to_native(),
            len: span.len.to_native(),
        }
    }
}

fn moved(time: Timestamp, by: i64) -> Timestamp {
    Timestamp::from_nanos(time.as_nanos().wrapping_add(by))
}
