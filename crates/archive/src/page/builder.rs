//! Rows become a page.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tapedeck_model::{Connection, Exchange, Role};
use zerocopy::IntoBytes;

use super::values::RowValues;
use super::{column, row_flags};
use crate::block::builder::{octets, protocol_number};
use crate::format::{
    MAX_PAGE_ROWS, NONE_U16, NONE_U32, NONE_U64, PageAddress, PageConnection, PageEntry,
    PageHeader, WIDE_U32, WideValue,
};

/// Lengths that the index needs and that the exchange does not tell by itself, since long bodies
/// left it before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BodyLengths {
    pub(crate) request: Option<u64>,
    pub(crate) response: Option<u64>,
}

/// A page under construction.
#[derive(Debug, Default)]
pub(crate) struct PageBuilder {
    rows: Vec<Row>,
    connections: Vec<PageConnection>,
    connection_numbers: HashMap<ConnectionKey, u16>,
    addresses: Vec<PageAddress>,
    address_numbers: HashMap<IpAddr, u16>,
    blocks: Vec<u64>,
    anomalies: Vec<u128>,
    wide: Vec<WideValue>,
    string_numbers: HashMap<Box<[u8]>, u16>,
    string_ends: Vec<u32>,
    string_bytes: Vec<u8>,
}

impl PageBuilder {
    pub(crate) fn n_rows(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows.len() >= MAX_PAGE_ROWS
    }

    /// Says that the records of the rows since the last call lie in the block at this offset.
    pub(crate) fn block_written(&mut self, offset: u64) {
        self.blocks.push(offset);
    }

    /// Adds the row of an exchange: record `record` of the block that is written next.
    pub(crate) fn push(&mut self, exchange: &Exchange, lengths: BodyLengths, record: usize) {
        let values = RowValues::of(exchange);
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        let nanos = |duration: Option<Duration>| {
            duration.map(|duration| u64::try_from(duration.as_nanos()).unwrap_or(NONE_U64 - 1))
        };
        let row = Row {
            time: values.time.as_nanos(),
            duration: nanos(values.duration).unwrap_or(NONE_U64),
            stream: self.narrow(column::STREAM, Some(exchange.stream)),
            request_len: self.narrow(column::REQUEST_LEN, lengths.request),
            response_len: self.narrow(column::RESPONSE_LEN, lengths.response),
            first_byte: self.narrow(column::FIRST_BYTE, nanos(values.first_byte)),
            connection: self.connection(&exchange.connection),
            block: self.blocks.len() as u16,
            record: record as u16,
            method: self.string(values.method),
            scheme: self.string(values.scheme),
            authority: self.string(values.authority),
            target: self.string(values.target),
            status: values.status.unwrap_or(NONE_U16),
            request_missing: exchange.missing(Role::Request).bits(),
            response_missing: exchange.missing(Role::Response).bits(),
            anomalies: self.anomalies(exchange.anomalies.bits()),
            protocol: protocol_number(exchange.protocol),
            flags: flag(exchange.tunnel, row_flags::TUNNEL)
                | flag(exchange.pushed, row_flags::PUSHED)
                | flag(RowValues::is_complete(exchange), row_flags::COMPLETE),
        };
        self.rows.push(row);
    }

    /// The page as bytes, and its entry in the directory, without the place. The builder is empty
    /// afterwards.
    pub(crate) fn finish(&mut self, first_row: u64) -> (Vec<u8>, PageEntry) {
        let page = std::mem::take(self);
        let entry = entry(&page.rows, first_row);
        (page.encode(), entry)
    }

    fn encode(self) -> Vec<u8> {
        let Self {
            rows,
            connections,
            connection_numbers: _,
            addresses,
            address_numbers: _,
            blocks,
            anomalies,
            wide,
            string_numbers: _,
            string_ends,
            string_bytes,
        } = self;
        let header = PageHeader {
            n_rows: (rows.len() as u32).into(),
            extra_len: 0.into(),
            n_connections: (connections.len() as u32).into(),
            n_addresses: (addresses.len() as u32).into(),
            n_blocks: (blocks.len() as u32).into(),
            n_anomalies: (anomalies.len() as u32).into(),
            n_wide: (wide.len() as u32).into(),
            n_strings: (string_ends.len() as u32).into(),
            string_bytes: (string_bytes.len() as u32).into(),
            reserved: [0; 28],
        };
        let mut out = Vec::with_capacity(256 + rows.len() * (column::ALL + 16));
        out.extend_from_slice(header.as_bytes());
        out.extend(rows.iter().flat_map(|row| row.time.to_le_bytes()));
        out.extend(rows.iter().flat_map(|row| row.duration.to_le_bytes()));
        let columns: [fn(&Row) -> u32; 4] = [
            |row| row.stream,
            |row| row.request_len,
            |row| row.response_len,
            |row| row.first_byte,
        ];
        for column in columns {
            out.extend(rows.iter().flat_map(|row| column(row).to_le_bytes()));
        }
        let columns: [fn(&Row) -> u16; 11] = [
            |row| row.connection,
            |row| row.block,
            |row| row.record,
            |row| row.method,
            |row| row.scheme,
            |row| row.authority,
            |row| row.target,
            |row| row.status,
            |row| row.request_missing,
            |row| row.response_missing,
            |row| row.anomalies,
        ];
        for column in columns {
            out.extend(rows.iter().flat_map(|row| column(row).to_le_bytes()));
        }
        out.extend(rows.iter().map(|row| row.protocol));
        out.extend(rows.iter().map(|row| row.flags));
        out.extend_from_slice(connections.as_bytes());
        out.extend_from_slice(addresses.as_bytes());
        out.extend(blocks.iter().flat_map(|offset| offset.to_le_bytes()));
        out.extend(anomalies.iter().flat_map(|bits| bits.to_le_bytes()));
        out.extend_from_slice(wide.as_bytes());
        out.extend(string_ends.iter().flat_map(|end| end.to_le_bytes()));
        out.extend_from_slice(&string_bytes);
        out
    }

    fn narrow(&mut self, column: usize, value: Option<u64>) -> u32 {
        let Some(value) = value else { return NONE_U32 };
        match u32::try_from(value) {
            Ok(value) if value < WIDE_U32 => value,
            _ => {
                self.wide.push(WideValue {
                    row: (self.rows.len() as u32).into(),
                    column: (column as u32).into(),
                    value: value.into(),
                });
                WIDE_U32
            }
        }
    }

    fn string(&mut self, string: Option<&[u8]>) -> u16 {
        let Some(string) = string else {
            return NONE_U16;
        };
        if let Some(number) = self.string_numbers.get(string) {
            return *number;
        }
        let number = self.string_ends.len() as u16;
        self.string_bytes.extend_from_slice(string);
        self.string_ends.push(self.string_bytes.len() as u32);
        self.string_numbers.insert(string.into(), number);
        number
    }

    fn anomalies(&mut self, bits: u128) -> u16 {
        // Nearly every page has one or two distinct sets.
        let known = self.anomalies.iter().position(|known| *known == bits);
        known.unwrap_or_else(|| {
            self.anomalies.push(bits);
            self.anomalies.len() - 1
        }) as u16
    }

    fn connection(&mut self, connection: &Connection) -> u16 {
        let key = ConnectionKey {
            id: connection.id.0,
            client: (connection.client.ip, connection.client.port),
            server: (connection.server.ip, connection.server.port),
        };
        if let Some(number) = self.connection_numbers.get(&key) {
            return *number;
        }
        let number = self.connections.len() as u16;
        let entry = PageConnection {
            id: connection.id.0.into(),
            client: self.address(connection.client.ip).into(),
            client_port: connection.client.port.into(),
            server: self.address(connection.server.ip).into(),
            server_port: connection.server.port.into(),
        };
        self.connections.push(entry);
        self.connection_numbers.insert(key, number);
        number
    }

    fn address(&mut self, ip: IpAddr) -> u16 {
        *self.address_numbers.entry(ip).or_insert_with(|| {
            let (octets, is_v6) = octets(ip);
            let family = if is_v6 { 6 } else { 4 };
            self.addresses.push(PageAddress {
                octets,
                family: family.into(),
            });
            self.addresses.len() as u16 - 1
        })
    }
}

#[derive(Debug, Eq, Hash, PartialEq)]
struct ConnectionKey {
    id: u64,
    client: (IpAddr, u16),
    server: (IpAddr, u16),
}

#[derive(Debug)]
struct Row {
    time: i64,
    duration: u64,
    stream: u32,
    request_len: u32,
    response_len: u32,
    first_byte: u32,
    connection: u16,
    block: u16,
    record: u16,
    method: u16,
    scheme: u16,
    authority: u16,
    target: u16,
    status: u16,
    request_missing: u16,
    response_missing: u16,
    anomalies: u16,
    protocol: u8,
    flags: u8,
}

fn entry(rows: &[Row], first_row: u64) -> PageEntry {
    let times = || rows.iter().map(|row| row.time);
    let durations = || {
        rows.iter()
            .map(|row| row.duration)
            .filter(|d| *d != NONE_U64)
    };
    let statuses = || rows.iter().map(|row| row.status).filter(|s| *s != NONE_U16);
    let is_incomplete = |row: &Row| row.flags & row_flags::COMPLETE == 0;
    PageEntry {
        offset: 0.into(),
        first_row: first_row.into(),
        n_rows: (rows.len() as u32).into(),
        status_min: statuses().min().unwrap_or(0).into(),
        status_max: statuses().max().unwrap_or(0).into(),
        time_min: times().min().unwrap_or(0).into(),
        time_max: times().max().unwrap_or(0).into(),
        duration_min: durations().min().unwrap_or(0).into(),
        duration_max: durations().max().unwrap_or(0).into(),
        has_status: statuses().next().is_some().into(),
        has_duration: durations().next().is_some().into(),
        has_incomplete: rows.iter().any(is_incomplete).into(),
        reserved: [0; 5],
    }
}
