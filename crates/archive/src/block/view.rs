//! A block is read in place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rkyv::rancor::Failure;
use tapedeck_model::{
    self as model, Anomalies, ConnectionId, Endpoint, Exchange, Field, Gap, GapCause, Interim,
    Message, Missing, Origin, Protocol, Scope, Span, StartLine, Timestamp,
    exchange::{Arrival, Body, BodyGap},
};

use super::records::{
    ArchivedArrival, ArchivedBlock, ArchivedConnection, ArchivedField, ArchivedGap, ArchivedHead,
    ArchivedMessage, ArchivedPiece, ArchivedRecord, ArchivedSpan, ArchivedWideField,
    connection_flags, field_flags, head_flags, message_flags, record_flags,
};
use crate::error::Damage;

/// Where a record's things begin in the arrays of its block.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Cursor {
    message: u32,
    head: u32,
    field: u32,
    wide_field: u32,
    interim: u32,
    piece: u32,
    gap: u32,
    arrival: u32,
    byte: u32,
}

/// Where every record of a block begins: computed, and with it checked, once a block.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    starts: Vec<Cursor>,
}

impl Layout {
    /// Walks through the whole block, so that no later access can fall outside of it.
    pub(crate) fn compute(&mut self, block: &ArchivedBlock) -> Result<(), Damage> {
        self.starts.clear();
        let mut cursor = Cursor::default();
        for record in block.records.iter() {
            self.starts.push(cursor);
            cursor.record(block, record)?;
            if block
                .connections
                .get(record.connection.to_native() as usize)
                .is_none()
            {
                return Err(Damage::Structure("a record names no connection"));
            }
        }
        let ends = Cursor {
            message: block.messages.len() as u32,
            head: block.heads.len() as u32,
            field: block.fields.len() as u32,
            wide_field: block.wide_fields.len() as u32,
            interim: block.interims.len() as u32,
            piece: block.pieces.len() as u32,
            gap: block.gaps.len() as u32,
            arrival: block.arrivals.len() as u32,
            byte: block.bytes.len() as u32,
        };
        if cursor == ends {
            Ok(())
        } else {
            Err(Damage::Structure("a table is longer than its records"))
        }
    }

    pub(crate) fn start(&self, record: usize) -> Option<Cursor> {
        self.starts.get(record).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }
}

/// The block in these bytes, after every pointer and length in them was checked.
pub(crate) fn access(bytes: &[u8]) -> Result<&ArchivedBlock, Damage> {
    rkyv::access::<ArchivedBlock, Failure>(bytes)
        .map_err(|_| Damage::Structure("it is not an exchange block"))
}

/// An exchange with its heads and bodies, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Record<'s> {
    record: &'s ArchivedRecord,
    connection: &'s ArchivedConnection,
    time: Timestamp,
    request: Option<MessageView<'s>>,
    response: Option<MessageView<'s>>,
    block: &'s ArchivedBlock,
    /// Where the interim responses begin.
    interim: Cursor,
    /// What is added to the id of the connection; see `Segment`.
    first_connection: u64,
}

impl<'s> Record<'s> {
    pub(crate) fn new(
        block: &'s ArchivedBlock,
        number: usize,
        start: Cursor,
        origin: BlockOrigin<'s>,
    ) -> Result<Self, Damage> {
        let record = block
            .records
            .get(number)
            .ok_or(Damage::Structure("a row names no record"))?;
        let connection = block
            .connections
            .get(record.connection.to_native() as usize)
            .ok_or(Damage::Structure("a record names no connection"))?;
        let base = Timestamp::from_nanos(block.base.to_native());
        let time = moved(base, record.time.to_native());
        let mut cursor = start;
        let request = if record.flags & record_flags::REQUEST != 0 {
            Some(cursor.message(block, time, origin)?)
        } else {
            None
        };
        let interim = cursor;
        for _ in 0..record.n_interims.to_native() {
            cursor.interim(block, time)?;
        }
        let response = if record.flags & record_flags::RESPONSE != 0 {
            Some(cursor.message(block, time, origin)?)
        } else {
            None
        };
        Ok(Self {
            record,
            connection,
            time,
            request,
            response,
            block,
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
        self.time
    }

    /// The connection that carried it.
    #[must_use]
    pub fn connection(&self) -> model::Connection {
        let connection = self.connection;
        let flag = |flag: u8| connection.flags & flag != 0;
        model::Connection {
            id: ConnectionId(
                connection
                    .id
                    .to_native()
                    .wrapping_add(self.first_connection),
            ),
            client: Endpoint::new(
                address(connection.client, flag(connection_flags::CLIENT_V6)),
                connection.client_port.to_native(),
            ),
            server: Endpoint::new(
                address(connection.server, flag(connection_flags::SERVER_V6)),
                connection.server_port.to_native(),
            ),
            scope: Scope(connection.scope.to_native()),
            origin: if flag(connection_flags::MIDSTREAM) {
                Origin::Midstream
            } else {
                Origin::Handshake
            },
            opened: Timestamp::from_nanos(connection.opened.to_native()),
            tls: None,
            workloads: tapedeck_model::Workloads::default(),
        }
    }

    /// The ordinal within an HTTP/1 connection, or the stream id in HTTP/2.
    #[must_use]
    pub fn stream(&self) -> u64 {
        self.record.stream.to_native()
    }

    /// The protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        protocol(self.record.protocol)
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
        let (block, time, mut cursor) = (self.block, self.time, self.interim);
        let n_interims = self.record.n_interims.to_native();
        // `new` went over the same interims without finding fault.
        (0..n_interims).map_while(move |_| cursor.interim(block, time).ok())
    }

    /// Why the request is not there, where it is not.
    #[must_use]
    pub fn request_absent(&self) -> Missing {
        Missing::from_bits(self.record.request_absent.to_native())
    }

    /// Why the response is not there, where it is not.
    #[must_use]
    pub fn response_absent(&self) -> Missing {
        Missing::from_bits(self.record.response_absent.to_native())
    }

    /// Whether the exchange turned its connection or stream into a tunnel.
    #[must_use]
    pub fn tunnel(&self) -> bool {
        self.record.flags & record_flags::TUNNEL != 0
    }

    /// Whether the server pushed it.
    #[must_use]
    pub fn pushed(&self) -> bool {
        self.record.flags & record_flags::PUSHED != 0
    }

    /// What was irregular.
    #[must_use]
    pub fn anomalies(&self) -> Anomalies {
        let [low, high] = self.record.anomalies.map(|bits| bits.to_native());
        Anomalies::from_bits(u128::from(low) | u128::from(high) << 64)
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
    message: &'s ArchivedMessage,
    head: Option<HeadView<'s>>,
    trailers: Option<HeadView<'s>>,
    body: BodyView<'s>,
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
        moved(self.body.first_byte, self.message.last_byte.to_native())
    }

    /// Why it is not whole.
    #[must_use]
    pub fn missing(&self) -> Missing {
        Missing::from_bits(self.message.missing.to_native())
    }

    /// The error code of an HTTP/2 RST_STREAM that ended it.
    #[must_use]
    pub fn reset_code(&self) -> Option<u32> {
        (self.message.flags & message_flags::RESET != 0)
            .then(|| self.message.reset_code.to_native())
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
    head: &'s ArchivedHead,
    raw: &'s [u8],
    fields: &'s [ArchivedField],
    wide_fields: &'s [ArchivedWideField],
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
        protocol(self.head.protocol)
    }

    /// The method of a request.
    #[must_use]
    pub fn method(&self) -> Option<&'s [u8]> {
        self.span(head_flags::METHOD, 1, &self.head.first)
    }

    /// The target of a request, as on the wire.
    #[must_use]
    pub fn target(&self) -> Option<&'s [u8]> {
        self.span(head_flags::TARGET, 1, &self.head.second)
    }

    /// The status code of a response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        (self.head.flags & head_flags::STATUS != 0).then(|| self.head.status.to_native())
    }

    /// The reason phrase of a response; empty where there was none.
    #[must_use]
    pub fn reason(&self) -> &'s [u8] {
        self.span(0, 2, &self.head.first).unwrap_or_default()
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
        let span =
            |flag: u8, span: &ArchivedSpan| (self.head.flags & flag != 0).then(|| Span::from(span));
        model::Head {
            raw: self.raw.to_vec(),
            protocol: self.protocol(),
            start: match self.head.start {
                1 => StartLine::Request {
                    method: span(head_flags::METHOD, &self.head.first),
                    target: span(head_flags::TARGET, &self.head.second),
                },
                2 => StartLine::Response {
                    status: self.status(),
                    reason: (&self.head.first).into(),
                },
                _ => StartLine::None,
            },
            fields: self.spans().collect(),
        }
    }

    fn span(&self, flag: u8, start: u8, span: &ArchivedSpan) -> Option<&'s [u8]> {
        let there = self.head.start == start && self.head.flags & flag == flag;
        there.then(|| Span::from(span).of(self.raw))
    }

    fn spans(&self) -> impl Iterator<Item = Field> + use<'s> {
        let mut cursor = 0_u32;
        // One of the two is empty.
        let narrow = self.fields.iter().map(move |field| {
            let mut advance = |skip: u16, len: u16| {
                let start = cursor.saturating_add(skip.into());
                cursor = start.saturating_add(len.into());
                Span {
                    start,
                    len: len.into(),
                }
            };
            Field {
                name: advance(field.skip.to_native(), field.name_len.to_native()),
                value: advance(field.gap.to_native(), field.value_len.to_native()),
                ..Field::default()
            }
        });
        let wide = self.wide_fields.iter().map(|field| {
            let unknown = |flag: u32| field.flags.to_native() & flag != 0;
            Field {
                name: (&field.name).into(),
                value: (&field.value).into(),
                name_unknown: unknown(field_flags::NAME_UNKNOWN),
                value_unknown: unknown(field_flags::VALUE_UNKNOWN),
            }
        });
        narrow.chain(wide)
    }
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
    /// The whole of `bytes`, for pieces that lie in the block itself.
    pub(crate) bytes: &'s [u8],
}

/// A body: how long it is, where it is, what is missing.
#[derive(Clone, Copy, Debug)]
pub struct BodyView<'s> {
    len: u64,
    pub(crate) inline: &'s [u8],
    pub(crate) pieces: &'s [ArchivedPiece],
    pub(crate) origin: BlockOrigin<'s>,
    gaps: &'s [ArchivedGap],
    arrivals: &'s [ArchivedArrival],
    first_byte: Timestamp,
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
        self.gaps.iter().map(|gap| BodyGap {
            offset: gap.offset.to_native(),
            gap: Gap {
                len: gap.len.to_native(),
                cause: match gap.cause {
                    1 => GapCause::Snaplen,
                    2 => GapCause::Limit,
                    _ => GapCause::Lost,
                },
            },
        })
    }

    /// When its bytes came, where they did not come at once.
    pub fn arrivals(&self) -> impl Iterator<Item = Arrival> + use<'s> {
        let first_byte = self.first_byte;
        self.arrivals.iter().map(move |arrival| Arrival {
            offset: arrival.offset.to_native(),
            at: moved(first_byte, arrival.at.to_native()),
        })
    }
}

impl Cursor {
    /// Goes over one record, without building views.
    fn record(&mut self, block: &ArchivedBlock, record: &ArchivedRecord) -> Result<(), Damage> {
        if record.flags & record_flags::REQUEST != 0 {
            self.pass_message(block)?;
        }
        for _ in 0..record.n_interims.to_native() {
            take(&block.interims, &mut self.interim, 1)?;
            self.head(block)?;
        }
        if record.flags & record_flags::RESPONSE != 0 {
            self.pass_message(block)?;
        }
        Ok(())
    }

    fn pass_message(&mut self, block: &ArchivedBlock) -> Result<(), Damage> {
        // Neither time nor origin has a part in where things lie.
        let origin = BlockOrigin {
            archive: 0,
            offset: 0,
            references: &[],
            bytes: &[],
        };
        self.message(block, Timestamp::EPOCH, origin).map(|_| ())
    }

    fn message<'s>(
        &mut self,
        block: &'s ArchivedBlock,
        time: Timestamp,
        origin: BlockOrigin<'s>,
    ) -> Result<MessageView<'s>, Damage> {
        let message = take_one(&block.messages, &mut self.message)?;
        let head = if message.flags & message_flags::HEAD != 0 {
            Some(self.head(block)?)
        } else {
            None
        };
        let trailers = if message.flags & message_flags::TRAILERS != 0 {
            Some(self.head(block)?)
        } else {
            None
        };
        let pieces = take(&block.pieces, &mut self.piece, message.n_pieces.to_native())?;
        let inline = take(&block.bytes, &mut self.byte, message.inline_len.to_native())?;
        let len = pieces.iter().try_fold(inline.len() as u64, |sum, piece| {
            sum.checked_add(piece.len.to_native().into())
        });
        if len != Some(message.body_len.to_native()) {
            return Err(Damage::Structure("a body is not as long as its pieces"));
        }
        let body = BodyView {
            len: message.body_len.to_native(),
            inline,
            pieces,
            origin,
            gaps: take(&block.gaps, &mut self.gap, message.n_gaps.to_native())?,
            arrivals: take(
                &block.arrivals,
                &mut self.arrival,
                message.n_arrivals.to_native(),
            )?,
            first_byte: moved(time, message.first_byte.to_native()),
        };
        Ok(MessageView {
            message,
            head,
            trailers,
            body,
        })
    }

    fn interim<'s>(
        &mut self,
        block: &'s ArchivedBlock,
        time: Timestamp,
    ) -> Result<InterimView<'s>, Damage> {
        let at = take_one(&block.interims, &mut self.interim)?;
        Ok(InterimView {
            head: self.head(block)?,
            at: moved(time, at.to_native()),
        })
    }

    fn head<'s>(&mut self, block: &'s ArchivedBlock) -> Result<HeadView<'s>, Damage> {
        let head = take_one(&block.heads, &mut self.head)?;
        let n_fields = head.n_fields.to_native();
        let is_wide = head.flags & head_flags::WIDE != 0;
        let (n_narrow, n_wide) = if is_wide {
            (0, n_fields)
        } else {
            (n_fields, 0)
        };
        Ok(HeadView {
            head,
            raw: take(&block.bytes, &mut self.byte, head.raw_len.to_native())?,
            fields: take(&block.fields, &mut self.field, n_narrow)?,
            wide_fields: take(&block.wide_fields, &mut self.wide_field, n_wide)?,
        })
    }
}

fn take<'s, T>(table: &'s [T], at: &mut u32, n: u32) -> Result<&'s [T], Damage> {
    let start = *at as usize;
    let taken = table
        .get(start..start.saturating_add(n as usize))
        .ok_or(Damage::Structure("a table is shorter than its records"))?;
    *at += n;
    Ok(taken)
}

fn take_one<'s, T>(table: &'s [T], at: &mut u32) -> Result<&'s T, Damage> {
    take(table, at, 1)?
        .first()
        .ok_or(Damage::Structure("a table is shorter than its records"))
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

/// The address of these bytes.
pub(crate) fn address(octets: [u8; 16], is_v6: bool) -> IpAddr {
    let [a, b, c, d, ..] = octets;
    if is_v6 {
        Ipv6Addr::from(octets).into()
    } else {
        Ipv4Addr::new(a, b, c, d).into()
    }
}

/// The protocol of this number. Newer ones cannot occur: they raise the major version.
pub(crate) const fn protocol(number: u8) -> Protocol {
    match number {
        0 => Protocol::Http10,
        2 => Protocol::Http2,
        _ => Protocol::Http11,
    }
}
