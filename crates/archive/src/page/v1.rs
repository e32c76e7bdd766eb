//! Pages of version 1, as the first archives have them: their columns, found where they lie.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::column::Column;
use super::id;
use crate::error::Damage;
use crate::format::MAX_PAGE_ROWS;

/// The beginning of a page: how long each of its parts is, in the order of the file.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) n_rows: U32,
    /// Bytes of the columns that a later minor version added behind the known ones.
    extra_len: U32,
    n_connections: U32,
    n_addresses: U32,
    n_blocks: U32,
    n_anomalies: U32,
    n_wide: U32,
    n_strings: U32,
    string_bytes: U32,
    reserved: [u8; 28],
}

/// A connection.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Connection {
    pub(crate) id: U64,
    /// Number of the client's address in the page.
    pub(crate) client: U16,
    pub(crate) client_port: U16,
    pub(crate) server: U16,
    pub(crate) server_port: U16,
}

/// An IP address.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Address {
    /// IPv4: the first four bytes, the others zero.
    pub(crate) octets: [u8; 16],
    /// 4 or 6.
    pub(crate) family: U32,
}

/// A value that does not fit its column. Sorted by row, then column.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct WideValue {
    row: U32,
    /// The byte offset of the column for one row, which names it.
    column: U32,
    value: U64,
}

const _: () = assert!(size_of::<Header>() == 64);

/// Where each part behind the columns begins. They lie within the page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    connections: u32,
    addresses: u32,
    blocks: u32,
    anomalies: u32,
    wide: u32,
    string_ends: u32,
    string_bytes: u32,
}

/// Where each column begins, in bytes for one row: column `c` of a page of `n` rows begins
/// `c * n` bytes behind the header; and how wide it is.
const fn place(column: usize) -> Option<(usize, usize)> {
    Some(match column {
        id::TIME => (0, 8),
        id::DURATION => (8, 8),
        id::STREAM => (16, 4),
        id::REQUEST_LEN => (20, 4),
        id::RESPONSE_LEN => (24, 4),
        FIRST_BYTE => (28, 4),
        id::CONNECTION => (32, 2),
        BLOCK => (34, 2),
        RECORD => (36, 2),
        id::METHOD => (38, 2),
        id::SCHEME => (40, 2),
        id::AUTHORITY => (42, 2),
        id::TARGET => (44, 2),
        id::STATUS => (46, 2),
        id::REQUEST_MISSING => (48, 2),
        id::RESPONSE_MISSING => (50, 2),
        id::ANOMALIES => (52, 2),
        id::PROTOCOL => (54, 1),
        id::FLAGS => (55, 1),
        _ => return None,
    })
}

/// Bytes of all columns, for one row.
const ROW: usize = 56;

/// Columns that today's pages have in another form.
pub(crate) const FIRST_BYTE: usize = 1000;
pub(crate) const BLOCK: usize = 1001;
pub(crate) const RECORD: usize = 1002;

impl Parts {
    pub(crate) fn parse(bytes: &[u8]) -> Result<(Self, usize), Damage> {
        let short = Damage::Structure("an index page is shorter than its tables");
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| short)?;
        let n_rows = header.n_rows.get() as usize;
        if n_rows > MAX_PAGE_ROWS {
            return Err(Damage::Length);
        }
        let mut end =
            (size_of::<Header>() + n_rows * ROW) as u64 + u64::from(header.extra_len.get());
        let mut part = |n: U32, size: usize| {
            let start = end;
            end = start.saturating_add(u64::from(n.get()) * size as u64);
            start as u32
        };
        let parts = Self {
            connections: part(header.n_connections, size_of::<Connection>()),
            addresses: part(header.n_addresses, size_of::<Address>()),
            blocks: part(header.n_blocks, 8),
            anomalies: part(header.n_anomalies, 16),
            wide: part(header.n_wide, size_of::<WideValue>()),
            string_ends: part(header.n_strings, 4),
            string_bytes: part(header.string_bytes, 1),
        };
        // The payload is limited to 16 MiB, so that no start of a part that fits was cut above.
        if end == bytes.len() as u64 {
            Ok((parts, n_rows))
        } else {
            Err(short)
        }
    }

    pub(crate) fn column<'a>(&self, bytes: &'a [u8], n_rows: usize, column: usize) -> Column<'a> {
        let Some((before, width)) = place(column) else {
            return Column::ABSENT;
        };
        let start = size_of::<Header>() + before * n_rows;
        let bytes = bytes.get(start..start + n_rows * width).unwrap_or_default();
        Column {
            bytes,
            base: 0,
            slope: 0,
            count: n_rows,
            width,
            has_none: matches!(
                column,
                id::DURATION
                    | id::REQUEST_LEN
                    | id::RESPONSE_LEN
                    | FIRST_BYTE
                    | id::METHOD
                    | id::SCHEME
                    | id::AUTHORITY
                    | id::TARGET
                    | id::STATUS
            ),
            has_wide: width == 4,
        }
    }

    pub(crate) fn wide(&self, bytes: &[u8], column: usize, row: usize) -> Option<u64> {
        let wide: &[WideValue] = table(bytes, self.wide, self.string_ends);
        let key = (row as u32, place(column)?.0 as u32);
        let found = wide
            .binary_search_by_key(&key, |wide| (wide.row.get(), wide.column.get()))
            .ok()?;
        Some(wide.get(found)?.value.get())
    }

    pub(crate) fn connection<'a>(&self, bytes: &'a [u8], number: usize) -> Option<&'a Connection> {
        table(bytes, self.connections, self.addresses).get(number)
    }

    pub(crate) fn address<'a>(&self, bytes: &'a [u8], number: usize) -> Option<&'a Address> {
        table(bytes, self.addresses, self.blocks).get(number)
    }

    pub(crate) fn block(&self, bytes: &[u8], number: usize) -> Option<u64> {
        let blocks: &[U64] = table(bytes, self.blocks, self.anomalies);
        blocks.get(number).map(|offset| offset.get())
    }

    pub(crate) fn anomalies(&self, bytes: &[u8], number: usize) -> Option<u128> {
        let sets: &[U128] = table(bytes, self.anomalies, self.wide);
        sets.get(number).map(|set| set.get())
    }

    pub(crate) fn string<'a>(&self, bytes: &'a [u8], number: usize) -> Option<&'a [u8]> {
        let ends: &[U32] = table(bytes, self.string_ends, self.string_bytes);
        let end = ends.get(number)?.get() as usize;
        let start = match number.checked_sub(1) {
            Some(before) => ends.get(before)?.get() as usize,
            None => 0,
        };
        bytes.get(self.string_bytes as usize..)?.get(start..end)
    }

    pub(crate) fn n_strings(&self, bytes: &[u8]) -> usize {
        table::<U32>(bytes, self.string_ends, self.string_bytes).len()
    }
}

fn table<T: FromBytes + Immutable + KnownLayout + Unaligned>(
    bytes: &[u8],
    start: u32,
    end: u32,
) -> &[T] {
    let bytes = bytes.get(start as usize..end as usize).unwrap_or_default();
    <[T]>::ref_from_bytes(bytes).unwrap_or_default()
}
