//! A block is read in place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::Arc;

use rkyv::rancor::Failure;
use tapedeck_model::{
    self as model, Anomalies, ConnectionId, Endpoint, Exchange, Field, Gap, GapCause, Interim,
    Message, Missing, Origin, Protocol, Scope, Span, StartLine, Timestamp, Tls, Workload,
    Workloads,
    exchange::{Arrival, Body, BodyGap},
};

use super::builder::head_kind;
use super::layout::{Cursor, Start};
use super::records::{
    ArchivedBlock, ArchivedHeads, ArchivedMessages, connection_flags, field_flags, head_flags,
    message_flags, record_flags,
};
use crate::details::{StoredTls, StoredWorkload};
use crate::error::Damage;

/// The block in these bytes, after every pointer and length in them was checked.
pub(crate) fn access(bytes: &[u8]) -> Result<&ArchivedBlock, Damage> {
    rkyv::access::<ArchivedBlock, Failure>(bytes)
        .map_err(|_| Damage::Structure("it is not an exchange block"))
}

/// An exchange with its heads and bodies, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Record<'s> {
    block: &'s ArchivedBlock,
    number: usize,
    start: Start,
    request: Option<MessageView<'s>>,
    response: Option<MessageView<'s>>,
    /// Where the interim responses begin.
    interim: Cursor,
    /// What is added to the id of the connection; see `Segment`.
    first_connection: u64,
}

impl<'s> Record<'s> {
    pub(crate) fn new(
        block: &'s ArchivedBlock,
        number: usize,
        start: Start,
        origin: BlockOrigin<'s>,
    ) -> Result<Self, Damage> {
        let flags = block.records.flags.get(number);
        let mut cursor = start.cursor;
        let time = start.time;
        let request = if flags & record_flags::REQUEST != 0 {
            Some(cursor.message(block, head_kind::REQUEST, time, origin)?)
        } else {
            None
        };
        let interim = cursor;
        for _ in 0..block.records.n_interims.get(number) {
            cursor.interim(block, time)?;
        }
        let response = if flags & record_flags::RESPONSE != 0 {
            Some(cursor.message(block, head_kind::RESPONSE, time, origin)?)
        } else {
            None
        };
        Ok(Self {
            block,
            number,
            start,
            request,
            response,
            interim,
            first_connection: 0,
        })
    }

    /// The record, its connection numbered within an archive of several files.
    pub(crate) fn with_first_connection(self, first_connection: u64) -> Self {
        Self {
            first_connection,
            ..self
        }
    }

    /// When the exchange began.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.start.time
    }

    /// The connection that carried it.
    #[must_use]
    pub fn connection(&self) -> model::Connection {
        let number = self.block.records.connection.get(self.number) as usize;
        let connections = &self.block.connections;
        let flags = connections.flags.get(number);
        let endpoint = |high: u64, low: u64, port: u64, is_v6: bool| {
            Endpoint::new(address_of(high, low, is_v6), port as u16)
        };
        let base = Timestamp::from_nanos(self.block.base.to_native());
        model::Connection {
            id: ConnectionId(
                connections
                    .id
                    .get(number)
                    .wrapping_add(self.first_connection),
            ),
            client: endpoint(
                connections.client_high.get(number),
                connections.client_low.get(number),
                connections.client_port.get(number),
                flags & connection_flags::CLIENT_V6 != 0,
            ),
            server: endpoint(
                connections.server_high.get(number),
                connections.server_low.get(number),
                connections.server_port.get(number),
                flags & connection_flags::SERVER_V6 != 0,
            ),
            scope: Scope(connections.scope.get(number)),
            origin: if flags & connection_flags::PREDATES != 0 {
                Origin::Predates
            } else if flags & connection_flags::MIDSTREAM != 0 {
                Origin::Midstream
            } else {
                Origin::Handshake
            },
            opened: moved(base, connections.opened.get(number)),
            tls: self.tls(connections.tls.get(number)),
            workloads: Workloads {
                client: self.workload(connections.client_workload.get(number)),
                server: self.workload(connections.server_workload.get(number)),
            },
        }
    }

    /// The ordinal within an HTTP/1 connection, or the stream id in HTTP/2.
    #[must_use]
    pub fn stream(&self) -> u64 {
        self.start.stream
    }

    /// The protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        protocol(self.block.records.protocol.get(self.number))
    }

    /// The request.
    #[must_use]
    pub fn request(&self) -> Option<MessageView<'s>> {
        self.request
    }

    /// The final response.
    #[must_use]
    pub fn response(&self) -> Option<MessageView<'s>> {
        self.response
    }

    /// The interim responses (1xx), in order.
    pub fn interim(&self) -> impl Iterator<Item = InterimView<'s>> + use<'s> {
        let (block, time, mut cursor) = (self.block, self.start.time, self.interim);
        let n_interims = block.records.n_interims.get(self.number);
        // `new` went over the same interims without finding fault.
        (0..n_interims).map_while(move |_| cursor.interim(block, time).ok())
    }

    /// Why the request is not there, where it is not.
    #[must_use]
    pub fn request_absent(&self) -> Missing {
        Missing::from_bits(self.block.records.request_absent.get(self.number) as u16)
    }

    /// Why the response is not there, where it is not.
    #[must_use]
    pub fn response_absent(&self) -> Missing {
        Missing::from_bits(self.block.records.response_absent.get(self.number) as u16)
    }

    /// Whether the exchange turned its connection or stream into a tunnel.
    #[must_use]
    pub fn tunnel(&self) -> bool {
        self.flags() & record_flags::TUNNEL != 0
    }

    /// Whether the server pushed it.
    #[must_use]
    pub fn pushed(&self) -> bool {
        self.flags() & record_flags::PUSHED != 0
    }

    /// What was irregular.
    #[must_use]
    pub fn anomalies(&self) -> Anomalies {
        let number = self.block.records.anomalies.get(self.number) as usize;
        let set = self.block.anomalies.get(number);
        Anomalies::from_bits(set.map_or(0, |[low, high]| {
            u128::from(low.to_native()) | u128::from(high.to_native()) << 64
        }))
    }

    /// The exchange as the model has it, its bodies without their bytes: [`Body::len`] is set,
    /// [`Body::tail`] is empty.
    #[must_use]
    pub fn to_exchange(&self) -> Exchange {
        Exchange {
            key: 0,
            connection: Arc::new(self.connection()),
            stream: self.stream(),
            protocol: self.protocol(),
            request: self.request.map(|message| message.to_message()),
            interim: self
                .interim()
                .map(|interim| Interim {
                    head: interim.head.to_head(),
                    at: interim.at,
                })
                .collect(),
            response: self.response.map(|message| message.to_message()),
            request_absent: self.request_absent(),
            response_absent: self.response_absent(),
            tunnel: self.tunnel(),
            pushed: self.pushed(),
            anomalies: self.anomalies(),
        }
    }

    fn flags(&self) -> u64 {
        self.block.records.flags.get(self.number)
    }

    fn tls(&self, number: u64) -> Option<Arc<Tls>> {
        let found = self.block.tls.get(index_from_1(number)?)?;
        let stored: StoredTls = rkyv::deserialize::<_, Failure>(found).ok()?;
        Some(Arc::new(stored.into()))
    }

    fn workload(&self, number: u64) -> Option<Arc<Workload>> {
        let found = self.block.workloads.get(index_from_1(number)?)?;
        let stored: StoredWorkload = rkyv::deserialize::<_, Failure>(found).ok()?;
        Some(Arc::new(stored.into()))
    }
}

/// The index of what is numbered from 1.
pub(super) fn index_from_1(number: u64) -> Option<usize> {
    usize::try_from(number.checked_sub(1)?).ok()
}

/// An interim response, read in place.
#[derive(Clone, Copy, Debug)]
pub struct InterimView<'s> {
    /// The head.
    pub head: HeadView<'s>,
    /// When its last byte came.
    pub at: Timestamp,
}

/// A request or a response, read in place.
#[derive(Clone, Copy, Debug)]
pub struct MessageView<'s> {
    pub(super) messages: &'s ArchivedMessages,
    pub(super) number: usize,
    pub(super) head: Option<HeadView<'s>>,
    pub(super) trailers: Option<HeadView<'s>>,
    pub(super) body: BodyView<'s>,
}

impl<'s> MessageView<'s> {
    /// The head; `None` where it was lost.
    #[must_use]
    pub fn head(&self) -> Option<HeadView<'s>> {
        self.head
    }

    /// The trailer section.
    #[must_use]
    pub fn trailers(&self) -> Option<HeadView<'s>> {
        self.trailers
    }

    /// The body, which [`Archive::body`](crate::Archive::body) gives the bytes of.
    #[must_use]
    pub fn body(&self) -> BodyView<'s> {
        self.body
    }

    /// When its first byte came.
    #[must_use]
    pub fn first_byte(&self) -> Timestamp {
        self.body.first_byte
    }

    /// When its last byte came.
    #[must_use]
    pub fn last_byte(&self) -> Timestamp {
        moved(
            self.body.first_byte,
            self.messages.last_byte.get(self.number),
        )
    }

    /// Why it is not whole.
    #[must_use]
    pub fn missing(&self) -> Missing {
        Missing::from_bits(self.messages.missing.get(self.number) as u16)
    }

    /// The error code of an HTTP/2 RST_STREAM that ended it.
    #[must_use]
    pub fn reset_code(&self) -> Option<u32> {
        let has_code = self.messages.flags.get(self.number) & message_flags::RESET != 0;
        has_code.then(|| self.messages.reset_code.get(self.number) as u32)
    }

    fn to_message(self) -> Message {
        Message {
            head: self.head.map(HeadView::to_head),
            body: Body {
                len: self.body.len(),
                parts: 0,
                tail: Vec::new(),
                gaps: self.body.gaps().collect(),
                arrivals: self.body.arrivals().collect(),
            },
            trailers: self.trailers.map(HeadView::to_head),
            first_byte: self.first_byte(),
            last_byte: self.last_byte(),
            missing: self.missing(),
            reset_code: self.reset_code(),
        }
    }
}

/// A head or a trailer section, read in place.
#[derive(Clone, Copy, Debug)]
pub struct HeadView<'s> {
    pub(super) heads: &'s ArchivedHeads,
    pub(super) number: usize,
    pub(super) first_field: usize,
    pub(super) raw: &'s [u8],
}

impl<'s> HeadView<'s> {
    /// The bytes. HTTP/1: as they stood on the wire. HTTP/2: names and values, one after the other.
    #[must_use]
    pub fn raw(&self) -> &'s [u8] {
        self.raw
    }

    /// The version that the message names.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        protocol(self.heads.protocol.get(self.number))
    }

    /// The method of a request.
    #[must_use]
    pub fn method(&self) -> Option<&'s [u8]> {
        match self.start() {
            StartLine::Request { method, .. } => method.map(|span| span.of(self.raw)),
            StartLine::Response { .. } | StartLine::None => None,
        }
    }

    /// The target of a request, as on the wire.
    #[must_use]
    pub fn target(&self) -> Option<&'s [u8]> {
        match self.start() {
            StartLine::Request { target, .. } => target.map(|span| span.of(self.raw)),
            StartLine::Response { .. } | StartLine::None => None,
        }
    }

    /// The status code of a response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self.start() {
            StartLine::Response { status, .. } => status,
            StartLine::Request { .. } | StartLine::None => None,
        }
    }

    /// The reason phrase of a response; empty where there was none.
    #[must_use]
    pub fn reason(&self) -> &'s [u8] {
        match self.start() {
            StartLine::Response { reason, .. } => reason.of(self.raw),
            StartLine::Request { .. } | StartLine::None => &[],
        }
    }

    /// The header fields, in the order of the wire.
    pub fn fields(&self) -> impl Iterator<Item = FieldView<'s>> + use<'s> {
        let raw = self.raw;
        self.spans().map(move |field| FieldView {
            name: (!field.name_unknown).then(|| field.name.of(raw)),
            value: (!field.value_unknown).then(|| field.value.of(raw)),
        })
    }

    /// The value of the first field of that name, compared without case. `None` where there is
    /// none, or where its value is unknown.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'s [u8]> {
        self.fields()
            .find(|field| {
                field
                    .name
                    .is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes()))
            })
            .and_then(|field| field.value)
    }

    /// The head as the model has it.
    #[must_use]
    pub fn to_head(self) -> model::Head {
        model::Head {
            raw: self.raw.to_vec(),
            protocol: self.protocol(),
            start: self.start(),
            fields: self.spans().collect(),
        }
    }

    fn flag(&self, flag: u64) -> bool {
        self.heads.flags.get(self.number) & flag != 0
    }

    fn start(&self) -> StartLine {
        let (heads, number) = (self.heads, self.number);
        let (first, second, _) = self.line();
        match heads.start.get(number) {
            1 => StartLine::Request {
                method: self.flag(head_flags::METHOD).then_some(first),
                target: self.flag(head_flags::TARGET).then_some(second),
            },
            2 => StartLine::Response {
                status: self
                    .flag(head_flags::STATUS)
                    .then(|| heads.status.get(number) as u16),
                reason: first,
            },
            _ => StartLine::None,
        }
    }

    /// The two parts of the start line, and where they end.
    fn line(&self) -> (Span, Span, u32) {
        let (heads, number) = (self.heads, self.number);
        let mut cursor = 0;
        let first = advance(
            &mut cursor,
            heads.first_skip.get(number),
            heads.first_len.get(number),
        );
        let second = advance(
            &mut cursor,
            heads.second_skip.get(number),
            heads.second_len.get(number),
        );
        (first, second, cursor)
    }

    fn spans(&self) -> impl Iterator<Item = Field> + use<'s> {
        let heads = self.heads;
        let mut cursor = if self.flag(head_flags::FIELDS_FIRST) {
            0
        } else {
            self.line().2
        };
        let n_fields = heads.n_fields.get(self.number) as usize;
        (self.first_field..self.first_field + n_fields).map(move |number| {
            let flags = heads.field_flags.get(number);
            Field {
                name: advance(
                    &mut cursor,
                    heads.name_skip.get(number),
                    heads.name_len.get(number),
                ),
                value: advance(
                    &mut cursor,
                    heads.value_skip.get(number),
                    heads.value_len.get(number),
                ),
                name_unknown: flags & field_flags::NAME_UNKNOWN != 0,
                value_unknown: flags & field_flags::VALUE_UNKNOWN != 0,
            }
        })
    }
}

/// The next part of a head, behind the one that the cursor stands at the end of.
fn advance(cursor: &mut u32, skip: u64, len: u64) -> Span {
    let span = Span {
        start: cursor.wrapping_add(skip as u32),
        len: len as u32,
    };
    *cursor = span.start.wrapping_add(span.len);
    span
}

/// A header field, read in place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FieldView<'s> {
    /// The name, as sent; `None` where it could not be decoded.
    pub name: Option<&'s [u8]>,
    /// The value; `None` where it could not be decoded.
    pub value: Option<&'s [u8]>,
}

/// Where a block came from: what a piece needs to find the block it lies in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockOrigin<'s> {
    /// Number of the open archive, unique in this process.
    pub(crate) archive: u64,
    /// Where the block's chunk begins.
    pub(crate) offset: u64,
    /// The references before the stored payload.
    pub(crate) references: &'s [u64],
}

/// A piece of a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// Number of a reference; `None`: the record's own block.
    pub(crate) reference: Option<usize>,
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// A body: how long it is, where it is, what is missing.
#[derive(Clone, Copy, Debug)]
pub struct BodyView<'s> {
    pub(super) len: u64,
    pub(crate) inline: &'s [u8],
    pub(super) block: &'s ArchivedBlock,
    /// Where its pieces begin, and how many there are; the same for gaps and arrivals.
    pub(super) pieces: (u32, u32),
    pub(super) gaps: (u32, u32),
    pub(super) arrivals: (u32, u32),
    pub(crate) origin: BlockOrigin<'s>,
    pub(super) first_byte: Timestamp,
}

impl<'s> BodyView<'s> {
    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where bytes are missing.
    pub fn gaps(&self) -> impl Iterator<Item = BodyGap> + use<'s> {
        self.gaps_from(0)
    }

    /// The same, without the first `skipped` ones.
    pub fn gaps_from(&self, skipped: usize) -> impl Iterator<Item = BodyGap> + use<'s> {
        let gaps = &self.block.gaps;
        let Range { start, end } = numbers(self.gaps);
        (start.saturating_add(skipped)..end).map(|number| BodyGap {
            offset: gaps.offset.get(number),
            gap: Gap {
                len: gaps.len.get(number),
                cause: match gaps.cause.get(number) {
                    1 => GapCause::Snaplen,
                    2 => GapCause::Limit,
                    _ => GapCause::Lost,
                },
            },
        })
    }

    /// When its bytes came, where they did not come at once.
    pub fn arrivals(&self) -> impl Iterator<Item = Arrival> + use<'s> {
        let arrivals = &self.block.arrivals;
        let (mut offset, mut at) = (0_u64, self.first_byte);
        numbers(self.arrivals).map(move |number| {
            offset = offset.wrapping_add(arrivals.offset.get(number));
            at = moved(at, arrivals.at.get(number));
            Arrival { offset, at }
        })
    }

    /// Where its bytes lie, but for the inline ones, which come last.
    pub(crate) fn pieces(&self) -> impl ExactSizeIterator<Item = Piece> + use<'s> {
        let pieces = &self.block.pieces;
        numbers(self.pieces).map(|number| Piece {
            reference: index_from_1(pieces.reference.get(number)),
            start: pieces.start.get(number) as u32,
            len: pieces.len.get(number) as u32,
        })
    }

    /// Where in the file the blocks begin that it lies in: the record's own, too, where it lies there.
    pub fn blocks(&self) -> impl Iterator<Item = u64> + use<'s> {
        let origin = self.origin;
        let inline = (!self.inline.is_empty()).then_some(origin.offset);
        let pieces = self.pieces().map(move |piece| match piece.reference {
            None => origin.offset,
            Some(number) => origin.references.get(number).copied().unwrap_or(0),
        });
        pieces.chain(inline)
    }

    /// What pieces in the record's own block point into.
    pub(crate) fn own_bytes(&self) -> &'s [u8] {
        self.block.bodies.as_slice()
    }
}

fn numbers((start, n): (u32, u32)) -> Range<usize> {
    start as usize..start as usize + n as usize
}

pub(super) fn moved(time: Timestamp, by: u64) -> Timestamp {
    Timestamp::from_nanos(time.as_nanos().wrapping_add(by.cast_signed()))
}

/// The address of these bytes.
pub(crate) fn address(octets: [u8; 16], is_v6: bool) -> IpAddr {
    let [a, b, c, d, ..] = octets;
    if is_v6 {
        Ipv6Addr::from(octets).into()
    } else {
        Ipv4Addr::new(a, b, c, d).into()
    }
}

/// The address of these halves.
pub(crate) fn address_of(high: u64, low: u64, is_v6: bool) -> IpAddr {
    if is_v6 {
        Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()
    } else {
        Ipv4Addr::from_bits(low as u32).into()
    }
}

/// The protocol of this number. Newer ones cannot occur: they raise the major version.
pub(crate) const fn protocol(number: u64) -> Protocol {
    match number {
        0 => Protocol::Http10,
        2 => Protocol::Http2,
        _ => Protocol::Http11,
    }
}
