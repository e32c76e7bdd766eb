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
use crate::block::view::{BodyView, MessageView, Record};
use crate::error::Damage;
use crate::format::{MAX_PAGE_ROWS, PageEntry, PageHeader};
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
    rows: Vec<Row>,
    /// Each block: where it lies, and its first row.
    blocks: Vec<(u64, u64)>,
    connections: Vec<PageConnection>,
    /// Connections as they came, and by id.
    known: Vec<Arc<Connection>>,
    connection_numbers: HashMap<u64, u64>,
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
    numbers: HashMap<T, u64>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            numbers: HashMap::new(),
        }
    }
}

impl<T: Clone + Eq + Hash> Numbers<T> {
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

/// The values of a row, as its columns have them.
#[derive(Debug)]
struct Row([u64; id::ROWS]);

impl PageBuilder {
    pub(crate) fn n_rows(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows.len() >= MAX_PAGE_ROWS
    }

    /// Says that the records of the rows since the last call lie in the block at this offset.
    pub(crate) fn block_written(&mut self, offset: u64, n_records: usize) {
        let first_row = self.rows.len().saturating_sub(n_records);
        self.blocks.push((offset, first_row as u64));
    }

    /// Adds the rows of a block that is in a file already, whose records are in the scratch; says how
    /// many.
    pub(crate) fn add_block(&mut self, offset: u64, scratch: &Scratch) -> Result<usize, Damage> {
        let n_records = scratch.n_records();
        if self.rows.len() + n_records > MAX_PAGE_ROWS {
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
        let mut row = Row([NONE; id::ROWS]);
        let mut set = |column: usize, value: u64| {
            if let Some(place) = row.0.get_mut(column) {
                *place = value;
            }
        };
        set(id::TIME, values.time.as_nanos().cast_unsigned());
        set(id::DURATION, duration);
        // Both are there or none is. A difference of all ones would be taken for "none".
        if let Some(first_byte) = values.first_byte {
            let transfer = duration.wrapping_sub(nanos(Some(first_byte)));
            set(id::TRANSFER, transfer.min(NONE - 1));
        }
        set(id::STREAM, exchange.stream);
        set(id::CONNECTION, self.connection(&exchange.connection));
        set(id::METHOD, self.string(values.method));
        set(id::SCHEME, self.string(values.scheme));
        set(id::AUTHORITY, self.string(values.authority));
        set(id::TARGET, self.target(values.target));
        set(id::STATUS, values.status.map_or(NONE, u64::from));
        for (role, len, place, missing, body) in [
            (
                Role::Request,
                id::REQUEST_LEN,
                id::REQUEST_BODY,
                id::REQUEST_MISSING,
                bodies.request,
            ),
            (
                Role::Response,
                id::RESPONSE_LEN,
                id::RESPONSE_BODY,
                id::RESPONSE_MISSING,
                bodies.response,
            ),
        ] {
            set(missing, exchange.missing(role).bits().into());
            if let Some(body) = body {
                set(len, body.len.min(NONE - 1));
                set(place, self.body(body.place));
            }
        }
        set(
            id::ANOMALIES,
            self.anomalies.number(&exchange.anomalies.bits()),
        );
        set(id::PROTOCOL, protocol_number(exchange.protocol).into());
        set(
            id::FLAGS,
            flag(exchange.tunnel, row_flags::TUNNEL)
                | flag(exchange.pushed, row_flags::PUSHED)
                | flag(exchange.complete(), row_flags::COMPLETE),
        );
        if let Some(session) = values.session {
            set(id::SESSION, self.sessions.number(&session_key(session)));
        }
        self.rows.push(row);
    }

    /// The page as bytes, and its entry in the directory, without the place. The builder is empty
    /// afterwards. Every block that a body lies in must have been written.
    pub(crate) fn finish(&mut self, first_row: u64) -> (Vec<u8>, PageEntry) {
        let mut page = std::mem::take(self);
        let entry = entry(&page.rows, first_row);
        let encoded = page.encode();
        // The tables of strings are large, and used again.
        page.strings.clear();
        page.targets.clear();
        page.own.clear();
        self.strings = page.strings;
        self.targets = page.targets;
        self.own = page.own;
        (encoded, entry)
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
            n_rows: (self.rows.len() as u32).into(),
            n_columns: (columns.descriptors.len() as u32).into(),
            reserved: [0; 8],
        };
        let mut out = header.as_bytes().to_vec();
        columns.finish(size_of::<PageHeader>(), &mut out);
        out
    }

    fn encode_rows(&self, columns: &mut Columns) {
        for column in 0..id::ROWS {
            let shape = match column {
                id::SESSION | id::TARGET | id::REQUEST_BODY | id::RESPONSE_BODY => Shape::Narrow,
                _ => Shape::Scanned,
            };
            let values = self.rows.iter().map(|row| row.get(column));
            match column {
                id::TIME
                | id::STREAM
                | id::CONNECTION
                | id::ANOMALIES
                | id::PROTOCOL
                | id::FLAGS
                | id::REQUEST_MISSING
                | id::RESPONSE_MISSING => {
                    columns.all(shape, values);
                }
                _ => columns.some(shape, values),
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

impl Row {
    fn get(&self, column: usize) -> u64 {
        self.0.get(column).copied().unwrap_or(NONE)
    }
}

fn entry(rows: &[Row], first_row: u64) -> PageEntry {
    let there = |column: usize| {
        let values = rows.iter().map(move |row| row.get(column));
        values.filter(|value| *value != NONE)
    };
    let times = || rows.iter().map(|row| row.get(id::TIME).cast_signed());
    let status = |status: Option<u64>| status.map_or(0, |status| status as u16);
    let is_incomplete = |row: &Row| row.get(id::FLAGS) & row_flags::COMPLETE == 0;
    PageEntry {
        offset: 0.into(),
        first_row: first_row.into(),
        n_rows: (rows.len() as u32).into(),
        status_min: status(there(id::STATUS).min()).into(),
        status_max: status(there(id::STATUS).max()).into(),
        time_min: times().min().unwrap_or(0).into(),
        time_max: times().max().unwrap_or(0).into(),
        duration_min: there(id::DURATION).min().unwrap_or(0).into(),
        duration_max: there(id::DURATION).max().unwrap_or(0).into(),
        has_status: there(id::STATUS).next().is_some().into(),
        has_duration: there(id::DURATION).next().is_some().into(),
        has_incomplete: rows.iter().any(is_incomplete).into(),
        reserved: [0; 5],
    }
}
