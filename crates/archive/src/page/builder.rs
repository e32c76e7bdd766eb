//! Rows become a page.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tapedeck_model::{Connection, Exchange, Role, Tls, TlsVersion, Workload};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::IntoBytes;

use super::column::{Columns, NONE, Shape};
use super::interner::Interner;
use super::values::RowValues;
use super::{id, row_flags, target};
use crate::block::builder::{BlockHandle, halves, protocol_number};
use crate::block::packed::Values;
use crate::block::view::{BodyView, MessageView, Record};
use crate::error::Damage;
use crate::format::{MAX_PAGE_ROWS, PageEntry, PageHeader};
use crate::keyed::Keyed;
use crate::scratch::Scratch;

/// Lengths that the index needs and that the exchange does not tell by itself, since long bodies
/// left it before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bodies {
    pub(crate) request: Option<StoredBody>,
    pub(crate) response: Option<StoredBody>,
}

/// What the index says of a body.
#[derive(Clone, Debug)]
pub(crate) struct StoredBody {
    pub(crate) len: u64,
    /// Where it lies, if it lies in one piece that others may share.
    pub(crate) place: Option<(BlockHandle, u32)>,
}

impl Bodies {
    /// Those of a record that is in a file already.
    pub(crate) fn of(record: &Record<'_>) -> Self {
        let stored = |message: Option<MessageView<'_>>| Some(StoredBody::of(&message?.body()));
        Self {
            request: stored(record.request()),
            response: stored(record.response()),
        }
    }
}

impl StoredBody {
    fn of(body: &BodyView<'_>) -> Self {
        let mut pieces = body.pieces();
        let place = pieces
            .next()
            .filter(|_| pieces.len() == 0 && body.inline.is_empty())
            .and_then(|piece| {
                let block = match piece.reference {
                    None => body.origin.offset,
                    Some(reference) => *body.origin.references.get(reference)?,
                };
                let handle = BlockHandle::default();
                handle.written_at(block);
                Some((handle, piece.start))
            });
        Self {
            len: body.len(),
            place,
        }
    }
}

/// A page under construction.
#[derive(Debug, Default)]
pub(crate) struct PageBuilder {
    n_rows: usize,
    /// The columns of the rows.
    rows: [Values; id::ROWS],
    /// Each block: where it lies, and its first row.
    blocks: Vec<(u64, u64)>,
    connections: Vec<PageConnection>,
    /// Connections as they came, and by id.
    known: Vec<Arc<Connection>>,
    connection_numbers: HashMap<u64, u64, Keyed>,
    addresses: Numbers<IpAddr>,
    anomalies: Numbers<u128>,
    sessions: Numbers<u64>,
    /// As their columns have them.
    tls: Numbers<[u64; 4]>,
    workloads: Numbers<[u64; 7]>,
    bodies: Vec<(BlockHandle, u32)>,
    strings: Interner,
    targets: Interner,
    /// For each target, the number of the string that it shares.
    shared: Vec<u64>,
    own_ends: Vec<u64>,
    own: Vec<u8>,
    /// Used for one target after the other.
    buffer: Vec<u8>,
}

/// Distinct things, in the order in which they came.
#[derive(Debug)]
struct Numbers<T> {
    all: Vec<T>,
    numbers: HashMap<T, u64, Keyed>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            numbers: HashMap::default(),
        }
    }
}

impl<T: Clone + Eq + Hash> Numbers<T> {
    fn clear(&mut self) {
        self.all.clear();
        self.numbers.clear();
    }

    fn number(&mut self, thing: &T) -> u64 {
        // The one before, more often than not.
        if self.all.last() == Some(thing) {
            return self.all.len() as u64 - 1;
        }
        if let Some(number) = self.numbers.get(thing) {
            return *number;
        }
        let number = self.all.len() as u64;
        self.all.push(thing.clone());
        self.numbers.insert(thing.clone(), number);
        number
    }
}

#[derive(Debug)]
struct PageConnection {
    id: u64,
    client: u64,
    client_port: u16,
    server: u64,
    server_port: u16,
    tls: u64,
    client_workload: u64,
    server_workload: u64,
}

impl PageBuilder {
    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(crate) fn is_full(&self) -> bool {
        self.n_rows >= MAX_PAGE_ROWS
    }

    /// Says that the records of the rows since the last call lie in the block at this offset.
    pub(crate) fn block_written(&mut self, offset: u64, n_records: usize) {
        let first_row = self.n_rows.saturating_sub(n_records);
        self.blocks.push((offset, first_row as u64));
    }

    /// Adds the rows of a block that is in a file already, whose records are in the scratch; says how
    /// many.
    pub(crate) fn add_block(&mut self, offset: u64, scratch: &Scratch) -> Result<usize, Damage> {
        let n_records = scratch.n_records();
        if self.n_rows + n_records > MAX_PAGE_ROWS {
            return Err(Damage::Length);
        }
        for number in 0..n_records {
            let record = scratch.record(number)?;
            self.push(&record.to_exchange(), Bodies::of(&record));
        }
        self.block_written(offset, n_records);
        Ok(n_records)
    }

    /// Adds the row of an exchange.
    pub(crate) fn push(&mut self, exchange: &Exchange, bodies: Bodies) {
        let values = RowValues::of(exchange);
        let nanos = |duration: Option<Duration>| {
            duration.map_or(NONE, |duration| {
                u64::try_from(duration.as_nanos())
                    .unwrap_or(NONE)
                    .min(NONE - 1)
            })
        };
        let flag = |on: bool, flag: u64| if on { flag } else { 0 };
        let duration = nanos(values.duration);
        // Both are there or none is. A difference of all ones would be taken for "none".
        let transfer = values.first_byte.map_or(NONE, |first_byte| {
            duration.wrapping_sub(nanos(Some(first_byte))).min(NONE - 1)
        });
        let connection = self.connection(&exchange.connection);
        let [method, scheme, authority] =
            [values.method, values.scheme, values.authority].map(|string| self.string(string));
        let target = self.target(values.target);
        let session = values
            .session
            .map_or(NONE, |session| self.sessions.number(&session_key(session)));
        let len = |body: &Option<StoredBody>| {
            let len = body.as_ref().map(|body| body.len);
            len.map_or(NONE, |len| len.min(NONE - 1))
        };
        let [request_len, response_len] = [len(&bodies.request), len(&bodies.response)];
        let [request_body, response_body] = [bodies.request, bodies.response]
            .map(|body| self.body(body.and_then(|body| body.place)));
        let missing = |role| u64::from(exchange.missing(role).bits());
        let mut row = [NONE; id::ROWS];
        for (column, value) in [
            (id::TIME, values.time.as_nanos().cast_unsigned()),
            (id::DURATION, duration),
            (id::TRANSFER, transfer),
            (id::STREAM, exchange.stream),
            (id::REQUEST_LEN, request_len),
            (id::RESPONSE_LEN, response_len),
            (id::CONNECTION, connection),
            (id::METHOD, method),
            (id::SCHEME, scheme),
            (id::AUTHORITY, authority),
            (id::TARGET, target),
            (id::STATUS, values.status.map_or(NONE, u64::from)),
            (id::REQUEST_MISSING, missing(Role::Request)),
            (id::RESPONSE_MISSING, missing(Role::Response)),
            (
                id::ANOMALIES,
                self.anomalies.number(&exchange.anomalies.bits()),
            ),
            (id::PROTOCOL, protocol_number(exchange.protocol).into()),
            (
                id::FLAGS,
                flag(exchange.tunnel, row_flags::TUNNEL)
                    | flag(exchange.pushed, row_flags::PUSHED)
                    | flag(exchange.complete(), row_flags::COMPLETE),
            ),
            (id::SESSION, session),
            (id::REQUEST_BODY, request_body),
            (id::RESPONSE_BODY, response_body),
        ] {
            if let Some(place) = row.get_mut(column) {
                *place = value;
            }
        }
        for (column, value) in self.rows.iter_mut().zip(row) {
            column.push(value);
        }
        self.n_rows += 1;
    }

    /// The page as bytes, and its entry in the directory, without the place. The builder is empty
    /// afterwards. Every block that a body lies in must have been written.
    pub(crate) fn finish(&mut self, first_row: u64) -> (Vec<u8>, PageEntry) {
        let entry = self.entry(first_row);
        let encoded = self.encode();
        self.clear();
        (encoded, entry)
    }

    /// The memory of what every page has is used again.
    fn clear(&mut self) {
        let Self {
            n_rows,
            rows,
            blocks,
            connections,
            known,
            connection_numbers,
            addresses,
            anomalies,
            sessions,
            tls,
            workloads,
            bodies,
            strings,
            targets,
            shared,
            own_ends,
            own,
            buffer: _,
        } = self;
        *n_rows = 0;
        rows.iter_mut().for_each(Values::clear);
        blocks.clear();
        connections.clear();
        known.clear();
        connection_numbers.clear();
        addresses.clear();
        anomalies.clear();
        sessions.clear();
        tls.clear();
        workloads.clear();
        bodies.clear();
        strings.clear();
        targets.clear();
        shared.clear();
        own_ends.clear();
        own.clear();
    }

    fn encode(&self) -> Vec<u8> {
        let mut columns = Columns::default();
        self.encode_rows(&mut columns);
        self.encode_tables(&mut columns);
        let all = |columns: &mut Columns, values: &[u64]| {
            columns.all(Shape::Narrow, values.iter().copied());
        };
        let ends: Vec<_> = self
            .strings
            .ends
            .iter()
            .map(|end| u64::from(*end))
            .collect();
        all(&mut columns, &ends);
        columns.bytes(&self.strings.bytes);
        all(&mut columns, &self.shared);
        all(&mut columns, &self.own_ends);
        columns.bytes(&self.own);
        columns.wide();
        debug_assert_eq!(columns.descriptors.len(), id::ALL);
        let header = PageHeader {
            n_rows: (self.n_rows as u32).into(),
            n_columns: (columns.descriptors.len() as u32).into(),
            reserved: [0; 8],
        };
        let mut out = header.as_bytes().to_vec();
        columns.finish(size_of::<PageHeader>(), &mut out);
        out
    }

    fn encode_rows(&self, columns: &mut Columns) {
        for (column, values) in self.rows.iter().enumerate() {
            let shape = match column {
                id::SESSION | id::TARGET | id::REQUEST_BODY | id::RESPONSE_BODY => Shape::Narrow,
                _ => Shape::Scanned,
            };
            let is_nullable = !matches!(
                column,
                id::TIME
                    | id::STREAM
                    | id::CONNECTION
                    | id::ANOMALIES
                    | id::PROTOCOL
                    | id::FLAGS
                    | id::REQUEST_MISSING
                    | id::RESPONSE_MISSING
            );
            match values.as_slice() {
                Ok(values) => columns.encode(shape, values, is_nullable),
                Err((value, times)) => columns.repeated(value, times, is_nullable),
            }
        }
    }

    fn encode_tables(&self, columns: &mut Columns) {
        fn each<'a, T>(columns: &mut Columns, of: &'a [T], values: &[fn(&'a T) -> u64]) {
            for value in values {
                columns.some(Shape::Narrow, of.iter().map(value));
            }
        }
        // Nothing of these is ever "none".
        columns.all(Shape::Narrow, self.blocks.iter().map(|block| block.0));
        columns.all(Shape::Narrow, self.blocks.iter().map(|block| block.1));
        columns.all(Shape::Narrow, self.connections.iter().map(|it| it.id));
        each(
            columns,
            &self.connections,
            &[
                |it| it.client,
                |it| it.client_port.into(),
                |it| it.server,
                |it| it.server_port.into(),
                |it| it.tls,
                |it| it.client_workload,
                |it| it.server_workload,
            ],
        );
        let addresses = &self.addresses.all;
        columns.all(Shape::Narrow, addresses.iter().map(|ip| halves(*ip).0));
        columns.all(Shape::Narrow, addresses.iter().map(|ip| halves(*ip).1));
        columns.all(
            Shape::Narrow,
            addresses.iter().map(|ip| ip.is_ipv6().into()),
        );
        let sets = &self.anomalies.all;
        columns.all(Shape::Narrow, sets.iter().map(|bits| *bits as u64));
        columns.all(Shape::Narrow, sets.iter().map(|bits| (bits >> 64) as u64));
        columns.all(Shape::Narrow, self.sessions.all.iter().copied());
        for column in 0..4 {
            let values = self.tls.all.iter().map(|tls| tls.get(column).copied());
            columns.some(Shape::Narrow, values.map(|value| value.unwrap_or(NONE)));
        }
        for column in 0..7 {
            let values = self.workloads.all.iter();
            let values = values.map(|workload| workload.get(column).copied());
            columns.some(Shape::Narrow, values.map(|value| value.unwrap_or(NONE)));
        }
        let offsets = self.bodies.iter().map(|(block, _)| block.offset());
        columns.all(Shape::Narrow, offsets.map(|offset| offset.unwrap_or(0)));
        columns.all(Shape::Narrow, self.bodies.iter().map(|body| body.1.into()));
    }
}

impl PageBuilder {
    fn string(&mut self, string: Option<&[u8]>) -> u64 {
        string.map_or(NONE, |string| self.strings.number(string).0)
    }

    fn target(&mut self, target: Option<&[u8]>) -> u64 {
        let Some(target) = target else { return NONE };
        let (number, is_new) = self.targets.number(target);
        if is_new {
            let mut shared = std::mem::take(&mut self.buffer);
            shared.clear();
            target::split(target, &mut shared, &mut self.own);
            self.shared.push(self.strings.number(&shared).0);
            self.own_ends.push(self.own.len() as u64);
            self.buffer = shared;
        }
        number
    }

    fn connection(&mut self, connection: &Arc<Connection>) -> u64 {
        // Ids are unique within one capture, but a merged archive holds several.
        if let Some(number) = self.connection_numbers.get(&connection.id.0)
            && let Some(known) = self.known.get(*number as usize)
            && (Arc::ptr_eq(known, connection) || known == connection)
        {
            return *number;
        }
        let number = self.known.len() as u64;
        self.known.push(connection.clone());
        self.connection_numbers.insert(connection.id.0, number);
        let Connection {
            id,
            client,
            server,
            tls,
            workloads,
            ..
        } = &**connection;
        let entry = PageConnection {
            id: id.0,
            client: self.addresses.number(&client.ip),
            client_port: client.port,
            server: self.addresses.number(&server.ip),
            server_port: server.port,
            tls: tls.as_deref().map_or(NONE, |tls| self.tls(tls)),
            client_workload: self.workload(workloads.client.as_deref()),
            server_workload: self.workload(workloads.server.as_deref()),
        };
        self.connections.push(entry);
        number
    }

    fn tls(&mut self, tls: &Tls) -> u64 {
        let columns = [
            match tls.version {
                Some(TlsVersion::Tls12) => 0x0303,
                Some(TlsVersion::Tls13) => 0x0304,
                None => NONE,
            },
            tls.suite.map_or(NONE, u64::from),
            self.string(tls.server_name.as_deref()),
            self.string(tls.alpn.as_deref()),
        ];
        self.tls.number(&columns)
    }

    fn workload(&mut self, workload: Option<&Workload>) -> u64 {
        let Some(workload) = workload else {
            return NONE;
        };
        let Workload {
            namespace,
            pod,
            container,
            owner,
            process,
            pid,
            cgroup,
        } = workload;
        let [namespace, pod, container, owner, process, cgroup] =
            [namespace, pod, container, owner, process, cgroup]
                .map(|name| self.string(name.as_deref().map(str::as_bytes)));
        let pid = pid.map_or(NONE, u64::from);
        let columns = [namespace, pod, container, owner, process, cgroup, pid];
        self.workloads.number(&columns)
    }

    fn body(&mut self, place: Option<(BlockHandle, u32)>) -> u64 {
        let Some((block, start)) = place else {
            return NONE;
        };
        let number = self.bodies.len() as u64;
        self.bodies.push((block, start));
        number
    }
}

/// What stands for a session: 48 bits, so that a million users share one by chance once in five
/// hundred archives.
pub(crate) fn session_key(session: &[u8]) -> u64 {
    xxh3_64(session) >> 16
}

impl PageBuilder {
    /// The directory's entry of the page, but for where it lies.
    fn entry(&self, first_row: u64) -> PageEntry {
        let status = self.there(id::STATUS);
        let duration = self.there(id::DURATION);
        let time = self.column(id::TIME).map(u64::cast_signed);
        let is_incomplete = |flags: u64| flags & row_flags::COMPLETE == 0;
        let status_of = |status: Option<u64>| status.map_or(0, |status| status as u16);
        PageEntry {
            offset: 0.into(),
            first_row: first_row.into(),
            n_rows: (self.n_rows as u32).into(),
            status_min: status_of(status.clone().min()).into(),
            status_max: status_of(status.clone().max()).into(),
            time_min: time.clone().min().unwrap_or(0).into(),
            time_max: time.max().unwrap_or(0).into(),
            duration_min: duration.clone().min().unwrap_or(0).into(),
            duration_max: duration.clone().max().unwrap_or(0).into(),
            has_status: status.clone().next().is_some().into(),
            has_duration: duration.clone().next().is_some().into(),
            has_incomplete: self.column(id::FLAGS).any(is_incomplete).into(),
            reserved: [0; 5],
        }
    }

    /// The values of a column; once, where they are all the same.
    fn column(&self, column: usize) -> impl Iterator<Item = u64> + Clone {
        let values = self.rows.get(column).map(Values::as_slice);
        let (same, all) = match values {
            Some(Ok(all)) => (None, all),
            Some(Err((value, times))) => ((times > 0).then_some(value), &[][..]),
            None => (None, &[][..]),
        };
        same.into_iter().chain(all.iter().copied())
    }

    /// The values of a column that are not "none".
    fn there(&self, column: usize) -> impl Iterator<Item = u64> + Clone {
        self.column(column).filter(|value| *value != NONE)
    }
}
