//! Where the things of each record begin: computed, and with it checked, once a block.

use tapedeck_model::Timestamp;

use super::builder::head_kind;
use super::packed::{ArchivedPacked, Column};
use super::records::{
    ArchivedBlock, ArchivedHeads, ArchivedMessages, head_flags, message_flags, record_flags,
};
use super::view::{BlockOrigin, BodyView, HeadView, InterimView, MessageView, index_from_1, moved};
use crate::error::Damage;
use crate::format::MAX_PAGE_ROWS;

/// The most things of one kind in a block. Those that are all alike take no bytes, so that the
/// length of a block says nothing of how many there are.
const MAX_PARTS: u32 = 1 << 20;

/// Where a record's things begin in the columns of its block.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Cursor {
    messages: [u32; 2],
    heads: [u32; 3],
    fields: [u32; 3],
    head_bytes: [u32; 3],
    interim: u32,
    piece: u32,
    gap: u32,
    arrival: u32,
    body_byte: u32,
}

/// Where a record begins, and what is told as a distance from the record before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) cursor: Cursor,
    pub(crate) time: Timestamp,
    pub(crate) stream: u64,
}

/// Where every record of a block begins.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    starts: Vec<Start>,
    /// The last stream of each connection.
    streams: Vec<u64>,
}

impl Layout {
    /// Walks through the whole block, so that no later access can fall outside of it.
    /// `version` is that of the chunk: what version 1 had in line, pieces point to since.
    pub(crate) fn compute(&mut self, block: &ArchivedBlock, version: u16) -> Result<(), Damage> {
        self.starts.clear();
        self.streams.clear();
        check_columns(block)?;
        let connections = &block.connections;
        let n_connections = connections.n.to_native() as usize;
        self.streams
            .extend((0..n_connections).map(|n| connections.first_stream.get(n).wrapping_sub(1)));
        let columns = Columns::of(block);
        let mut cursor = Cursor::default();
        let mut time = Timestamp::from_nanos(block.base.to_native());
        let records = &block.records;
        let [connection, stream_step, time_step, anomalies] = [
            &records.connection,
            &records.stream,
            &records.time,
            &records.anomalies,
        ]
        .map(ArchivedPacked::column);
        for number in 0..records.n.to_native() as usize {
            let connection = connection.get(number) as usize;
            let stream = self
                .streams
                .get_mut(connection)
                .ok_or(Damage::Structure("a record names no connection"))?;
            *stream = stream.wrapping_add(stream_step.get(number));
            time = moved(time, time_step.get(number));
            if block.anomalies.len() <= anomalies.get(number) as usize {
                return Err(Damage::Structure("a record names no set of anomalies"));
            }
            self.starts.push(Start {
                cursor,
                time,
                stream: *stream,
            });
            cursor.record(&columns, number)?;
        }
        let mut end = Cursor::end(block);
        if version == 1 {
            end.body_byte = cursor.body_byte;
        }
        if cursor == end {
            Ok(())
        } else {
            Err(Damage::Structure("a table is longer than its records"))
        }
    }

    pub(crate) fn start(&self, record: usize) -> Option<Start> {
        self.starts.get(record).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(crate) fn clear(&mut self) {
        self.starts.clear();
    }
}

/// Whether every column is as long as its table says, and every number in the table of
/// connections names something.
fn check_columns(block: &ArchivedBlock) -> Result<(), Damage> {
    let mut sound = block.records.n.to_native() as usize <= MAX_PAGE_ROWS;
    let mut group = |n: u32, columns: &[&ArchivedPacked]| {
        sound &= n <= MAX_PARTS && columns.iter().all(|column| column.has(n as usize));
    };
    let it = &block.records;
    group(
        it.n.to_native(),
        &[
            &it.time,
            &it.connection,
            &it.stream,
            &it.anomalies,
            &it.n_interims,
            &it.request_absent,
            &it.response_absent,
            &it.protocol,
            &it.flags,
        ],
    );
    for it in &block.messages {
        group(
            it.n.to_native(),
            &[
                &it.first_byte,
                &it.last_byte,
                &it.inline_len,
                &it.n_pieces,
                &it.n_gaps,
                &it.n_arrivals,
                &it.reset_code,
                &it.missing,
                &it.flags,
            ],
        );
    }
    for it in &block.heads {
        group(
            it.n.to_native(),
            &[
                &it.start,
                &it.flags,
                &it.protocol,
                &it.status,
                &it.first_skip,
                &it.first_len,
                &it.second_skip,
                &it.second_len,
                &it.n_fields,
                &it.rest,
            ],
        );
        group(
            it.n_all_fields.to_native(),
            &[
                &it.name_skip,
                &it.name_len,
                &it.value_skip,
                &it.value_len,
                &it.field_flags,
            ],
        );
    }
    let it = &block.pieces;
    group(it.n.to_native(), &[&it.reference, &it.start, &it.len]);
    let it = &block.gaps;
    group(it.n.to_native(), &[&it.offset, &it.len, &it.cause]);
    let it = &block.arrivals;
    group(it.n.to_native(), &[&it.offset, &it.at]);
    group(block.n_interims.to_native(), &[&block.interims]);
    if sound {
        check_connections(block)
    } else {
        Err(LONG)
    }
}

const LONG: Damage = Damage::Structure("a column is not as long as its table");

fn check_connections(block: &ArchivedBlock) -> Result<(), Damage> {
    let it = &block.connections;
    let n = it.n.to_native();
    let columns = [
        &it.id,
        &it.scope,
        &it.opened,
        &it.client_high,
        &it.client_low,
        &it.client_port,
        &it.server_high,
        &it.server_low,
        &it.server_port,
        &it.first_stream,
        &it.tls,
        &it.client_workload,
        &it.server_workload,
        &it.flags,
    ];
    if n > MAX_PARTS || !columns.iter().all(|column| column.has(n as usize)) {
        return Err(LONG);
    }
    let names_one = |column: &ArchivedPacked, number: usize, len: usize| {
        index_from_1(column.get(number)).is_none_or(|index| index < len)
    };
    let sound = (0..n as usize).all(|number| {
        names_one(&it.tls, number, block.tls.len())
            && names_one(&it.client_workload, number, block.workloads.len())
            && names_one(&it.server_workload, number, block.workloads.len())
    });
    if sound {
        Ok(())
    } else {
        Err(Damage::Structure("a connection names no workload"))
    }
}

const SHORT: Damage = Damage::Structure("a table is shorter than its records");

impl Cursor {
    /// Behind everything.
    fn end(block: &ArchivedBlock) -> Self {
        let [request, response] = &block.messages;
        let heads = block.heads.each_ref();
        Self {
            messages: [request.n.to_native(), response.n.to_native()],
            heads: heads.map(|heads| heads.n.to_native()),
            fields: heads.map(|heads| heads.n_all_fields.to_native()),
            head_bytes: heads.map(|heads| heads.bytes.len() as u32),
            interim: block.n_interims.to_native(),
            piece: block.pieces.n.to_native(),
            gap: block.gaps.n.to_native(),
            arrival: block.arrivals.n.to_native(),
            body_byte: block.bodies.len() as u32,
        }
    }

    /// Goes over one record.
    fn record(&mut self, columns: &Columns<'_>, number: usize) -> Result<(), Damage> {
        let flags = columns.flags.get(number);
        if flags & record_flags::REQUEST != 0 {
            self.pass_message(columns, head_kind::REQUEST)?;
        }
        for _ in 0..columns.n_interims.get(number) {
            take(&mut self.interim, 1, columns.end.interim)?;
            self.pass_head(columns, head_kind::OTHER)?;
        }
        if flags & record_flags::RESPONSE != 0 {
            self.pass_message(columns, head_kind::RESPONSE)?;
        }
        Ok(())
    }

    /// As [`Cursor::message`], for where things lie only.
    fn pass_message(&mut self, columns: &Columns<'_>, kind: usize) -> Result<(), Damage> {
        let end = &columns.end;
        let (Some(messages), Some(at), Some(len)) = (
            columns.messages.get(kind),
            self.messages.get_mut(kind),
            end.messages.get(kind),
        ) else {
            return Err(SHORT);
        };
        let (number, _) = take(at, 1, *len)?;
        let number = number as usize;
        let flags = messages.flags.get(number);
        if flags & message_flags::HEAD != 0 {
            self.pass_head(columns, kind)?;
        }
        if flags & message_flags::TRAILERS != 0 {
            self.pass_head(columns, head_kind::OTHER)?;
        }
        for (at, taken, len) in [
            (&mut self.piece, messages.n_pieces, end.piece),
            (&mut self.body_byte, messages.inline_len, end.body_byte),
            (&mut self.gap, messages.n_gaps, end.gap),
            (&mut self.arrival, messages.n_arrivals, end.arrival),
        ] {
            take(at, taken.get(number), len)?;
        }
        Ok(())
    }

    /// As [`Cursor::head`], for where things lie only.
    fn pass_head(&mut self, columns: &Columns<'_>, kind: usize) -> Result<(), Damage> {
        let end = &columns.end;
        let (Some(heads), Some(at), Some(field), Some(byte)) = (
            columns.heads.get(kind),
            self.heads.get_mut(kind),
            self.fields.get_mut(kind),
            self.head_bytes.get_mut(kind),
        ) else {
            return Err(SHORT);
        };
        let (Some(n), Some(n_all_fields), Some(n_bytes)) = (
            end.heads.get(kind),
            end.fields.get(kind),
            end.head_bytes.get(kind),
        ) else {
            return Err(SHORT);
        };
        let (number, _) = take(at, 1, *n)?;
        let number = number as usize;
        let (first_field, n_fields) = take(field, heads.n_fields.get(number), *n_all_fields)?;
        let len = heads.raw_len(number, first_field as usize, n_fields as usize);
        take(byte, len.into(), *n_bytes)?;
        Ok(())
    }

    pub(super) fn message<'s>(
        &mut self,
        block: &'s ArchivedBlock,
        kind: usize,
        time: Timestamp,
        origin: BlockOrigin<'s>,
    ) -> Result<MessageView<'s>, Damage> {
        let (Some(messages), Some(at)) = (block.messages.get(kind), self.messages.get_mut(kind))
        else {
            return Err(SHORT);
        };
        let (number, _) = take(at, 1, messages.n.to_native())?;
        let number = number as usize;
        let flags = messages.flags.get(number);
        let head = if flags & message_flags::HEAD != 0 {
            Some(self.head(block, kind)?)
        } else {
            None
        };
        let trailers = if flags & message_flags::TRAILERS != 0 {
            Some(self.head(block, head_kind::OTHER)?)
        } else {
            None
        };
        let pieces = take(
            &mut self.piece,
            messages.n_pieces.get(number),
            block.pieces.n.to_native(),
        )?;
        let inline = slice(
            &block.bodies,
            &mut self.body_byte,
            messages.inline_len.get(number),
        )?;
        let gaps = take(
            &mut self.gap,
            messages.n_gaps.get(number),
            block.gaps.n.to_native(),
        )?;
        let arrivals = take(
            &mut self.arrival,
            messages.n_arrivals.get(number),
            block.arrivals.n.to_native(),
        )?;
        let mut body = BodyView {
            len: 0,
            inline,
            block,
            pieces,
            gaps,
            arrivals,
            origin,
            first_byte: moved(time, messages.first_byte.get(number)),
        };
        let in_pieces: u64 = body.pieces().map(|piece| u64::from(piece.len)).sum();
        body.len = in_pieces + inline.len() as u64;
        Ok(MessageView {
            messages,
            number,
            head,
            trailers,
            body,
        })
    }

    pub(super) fn interim<'s>(
        &mut self,
        block: &'s ArchivedBlock,
        time: Timestamp,
    ) -> Result<InterimView<'s>, Damage> {
        let (number, _) = take(&mut self.interim, 1, block.n_interims.to_native())?;
        Ok(InterimView {
            head: self.head(block, head_kind::OTHER)?,
            at: moved(time, block.interims.get(number as usize)),
        })
    }

    fn head<'s>(&mut self, block: &'s ArchivedBlock, kind: usize) -> Result<HeadView<'s>, Damage> {
        let (Some(heads), Some(at), Some(field), Some(byte)) = (
            block.heads.get(kind),
            self.heads.get_mut(kind),
            self.fields.get_mut(kind),
            self.head_bytes.get_mut(kind),
        ) else {
            return Err(SHORT);
        };
        let (number, _) = take(at, 1, heads.n.to_native())?;
        let columns = HeadColumns::of(heads);
        let n_fields = columns.n_fields.get(number as usize);
        let (first_field, n_fields) = take(field, n_fields, heads.n_all_fields.to_native())?;
        let len = columns.raw_len(number as usize, first_field as usize, n_fields as usize);
        Ok(HeadView {
            heads,
            number: number as usize,
            first_field: first_field as usize,
            raw: slice(&heads.bytes, byte, len.into())?,
        })
    }
}

/// The columns that say where things lie: looked up once for a walk over all records, which is most of what a
/// reader adds to the time of decompression.
struct Columns<'s> {
    flags: Column<'s>,
    n_interims: Column<'s>,
    messages: [MessageColumns<'s>; 2],
    heads: [HeadColumns<'s>; 3],
    end: Cursor,
}

impl<'s> Columns<'s> {
    fn of(block: &'s ArchivedBlock) -> Self {
        Self {
            flags: block.records.flags.column(),
            n_interims: block.records.n_interims.column(),
            messages: block.messages.each_ref().map(MessageColumns::of),
            heads: block.heads.each_ref().map(HeadColumns::of),
            end: Cursor::end(block),
        }
    }
}

struct MessageColumns<'s> {
    flags: Column<'s>,
    n_pieces: Column<'s>,
    inline_len: Column<'s>,
    n_gaps: Column<'s>,
    n_arrivals: Column<'s>,
}

impl<'s> MessageColumns<'s> {
    fn of(messages: &'s ArchivedMessages) -> Self {
        Self {
            flags: messages.flags.column(),
            n_pieces: messages.n_pieces.column(),
            inline_len: messages.inline_len.column(),
            n_gaps: messages.n_gaps.column(),
            n_arrivals: messages.n_arrivals.column(),
        }
    }
}

struct HeadColumns<'s> {
    flags: Column<'s>,
    n_fields: Column<'s>,
    /// The parts of the start line.
    line: [Column<'s>; 4],
    /// The parts of the fields.
    fields: [Column<'s>; 4],
    rest: Column<'s>,
}

impl<'s> HeadColumns<'s> {
    #[inline]
    fn of(heads: &'s ArchivedHeads) -> Self {
        Self {
            flags: heads.flags.column(),
            n_fields: heads.n_fields.column(),
            line: [
                &heads.first_skip,
                &heads.first_len,
                &heads.second_skip,
                &heads.second_len,
            ]
            .map(ArchivedPacked::column),
            fields: [
                &heads.name_skip,
                &heads.name_len,
                &heads.value_skip,
                &heads.value_len,
            ]
            .map(ArchivedPacked::column),
            rest: heads.rest.column(),
        }
    }

    /// How long a head is: the sum of everything in it.
    #[inline]
    fn raw_len(&self, number: usize, first_field: usize, n_fields: usize) -> u32 {
        let mut len = self.rest.get(number);
        if self.flags.get(number) & head_flags::FIELDS_FIRST == 0 {
            for part in &self.line {
                len = len.wrapping_add(part.get(number));
            }
        }
        for part in &self.fields {
            len = len.wrapping_add(part.sum(first_field, n_fields));
        }
        len as u32
    }
}

/// The next `n` of a table of `len`: where they begin, and how many they are.
fn take(at: &mut u32, n: u64, len: u32) -> Result<(u32, u32), Damage> {
    let start = *at;
    if n > u64::from(len - start.min(len)) {
        return Err(SHORT);
    }
    *at = start + n as u32;
    Ok((start, n as u32))
}

/// The next `n` bytes.
fn slice<'s>(
    bytes: &'s rkyv::vec::ArchivedVec<u8>,
    at: &mut u32,
    n: u64,
) -> Result<&'s [u8], Damage> {
    let (start, n) = take(at, n, bytes.len() as u32)?;
    let range = start as usize..start as usize + n as usize;
    bytes.as_slice().get(range).ok_or(SHORT)
}
