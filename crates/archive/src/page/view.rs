//! A page is read in place.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use tapedeck_model::{Anomalies, ConnectionId, Endpoint, Missing, Protocol, Timestamp};
use zerocopy::little_endian::{I64, U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::{column, row_flags};
use crate::block::view::{address, protocol};
use crate::error::Damage;
use crate::format::{
    MAX_PAGE_ROWS, NONE_U16, NONE_U32, NONE_U64, PageAddress, PageConnection, PageEntry,
    PageHeader, WIDE_U32, WideValue,
};

/// The rows of some consecutive exchanges, column by column.
///
/// The columns are for those who look at many rows, such as filters: everything in one column is
/// one slice of the mapped file. A [`Row`] is the view of one exchange.
#[derive(Clone, Copy)]
pub struct Page<'a> {
    /// The payload of the page's chunk. Its parts lie within it: checked by [`Page::parse`].
    bytes: &'a [u8],
    first_row: u64,
    n_rows: usize,
    /// Where each part behind the columns begins.
    connections: u32,
    addresses: u32,
    blocks: u32,
    anomalies: u32,
    wide: u32,
    string_ends: u32,
    string_bytes: u32,
    /// What is added to the ids of connections; see `Segment`.
    first_connection: u64,
}

impl<'a> Page<'a> {
    pub(crate) fn parse(bytes: &'a [u8], first_row: u64) -> Result<Self, Damage> {
        let short = Damage::Structure("an index page is shorter than its tables");
        let (header, _) = PageHeader::ref_from_prefix(bytes).map_err(|_| short)?;
        let n_rows = header.n_rows.get() as usize;
        if n_rows > MAX_PAGE_ROWS {
            return Err(Damage::Length);
        }
        let mut end = (size_of::<PageHeader>() + n_rows * column::ALL) as u64
            + u64::from(header.extra_len.get());
        let mut part = |n: U32, size: usize| {
            let start = end;
            end = start.saturating_add(u64::from(n.get()) * size as u64);
            start as u32
        };
        let page = Self {
            bytes,
            first_row,
            n_rows,
            connections: part(header.n_connections, size_of::<PageConnection>()),
            addresses: part(header.n_addresses, size_of::<PageAddress>()),
            blocks: part(header.n_blocks, 8),
            anomalies: part(header.n_anomalies, 16),
            wide: part(header.n_wide, size_of::<WideValue>()),
            string_ends: part(header.n_strings, 4),
            string_bytes: part(header.string_bytes, 1),
            first_connection: 0,
        };
        // The payload is limited to 16 MiB, so that no start of a part that fits was cut above.
        if end == bytes.len() as u64 {
            Ok(page)
        } else {
            Err(short)
        }
    }

    /// The page, its connections numbered within an archive of several files.
    pub(crate) fn with_first_connection(self, first_connection: u64) -> Self {
        Self {
            first_connection,
            ..self
        }
    }

    /// What the directory says of this page, which lies at this offset.
    pub(crate) fn entry(&self, offset: u64) -> PageEntry {
        fn ends<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<(T, T)> {
            values.fold(None, |ends, value| match ends {
                None => Some((value, value)),
                Some((least, most)) => Some((value.min(least), value.max(most))),
            })
        }
        let times = ends(self.times().iter().map(|time| time.get())).unwrap_or_default();
        let durations = self.durations().iter().map(|duration| duration.get());
        let durations = ends(durations.filter(|duration| *duration != NONE_U64));
        let statuses = self.statuses().iter().map(|status| status.get());
        let statuses = ends(statuses.filter(|status| *status != NONE_U16));
        PageEntry {
            offset: offset.into(),
            first_row: self.first_row.into(),
            n_rows: (self.n_rows as u32).into(),
            status_min: statuses.unwrap_or_default().0.into(),
            status_max: statuses.unwrap_or_default().1.into(),
            time_min: times.0.into(),
            time_max: times.1.into(),
            duration_min: durations.unwrap_or_default().0.into(),
            duration_max: durations.unwrap_or_default().1.into(),
            has_status: statuses.is_some().into(),
            has_duration: durations.is_some().into(),
            has_incomplete: self.rows().any(|row| !row.complete()).into(),
            reserved: [0; 5],
        }
    }

    /// The id of the first row.
    #[must_use]
    pub fn first_row(&self) -> u64 {
        self.first_row
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.n_rows
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n_rows == 0
    }

    /// The row of that number within the page.
    #[must_use]
    pub fn row(&self, number: usize) -> Option<Row<'a>> {
        (number < self.n_rows).then_some(Row {
            page: *self,
            number,
        })
    }

    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = Row<'a>> + use<'a> {
        let page = *self;
        (0..page.n_rows).map(move |number| Row { page, number })
    }

    /// When each exchange began, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn times(&self) -> &'a [I64] {
        self.column(column::TIME)
    }

    /// From the first byte of the request to the last of the response, in nanoseconds;
    /// [`Page::NO_DURATION`] where one of them is not there.
    #[must_use]
    pub fn durations(&self) -> &'a [U64] {
        self.column(column::DURATION)
    }

    /// The status codes; [`Page::NO_STATUS`] where there is none.
    #[must_use]
    pub fn statuses(&self) -> &'a [U16] {
        self.column(column::STATUS)
    }

    /// The numbers of the methods' strings; see [`Page::string`].
    #[must_use]
    pub fn methods(&self) -> &'a [U16] {
        self.column(column::METHOD)
    }

    /// The numbers of the schemes' strings.
    #[must_use]
    pub fn schemes(&self) -> &'a [U16] {
        self.column(column::SCHEME)
    }

    /// The numbers of the authorities' strings.
    #[must_use]
    pub fn authorities(&self) -> &'a [U16] {
        self.column(column::AUTHORITY)
    }

    /// The numbers of the targets' strings.
    #[must_use]
    pub fn targets(&self) -> &'a [U16] {
        self.column(column::TARGET)
    }

    /// How many distinct strings the page has.
    #[must_use]
    pub fn n_strings(&self) -> usize {
        self.ends().len()
    }

    /// The string of that number; `None` for [`Page::NO_STRING`].
    #[must_use]
    pub fn string(&self, number: u16) -> Option<&'a [u8]> {
        let ends = self.ends();
        let end = ends.get(usize::from(number))?.get() as usize;
        let start = match usize::from(number).checked_sub(1) {
            Some(before) => ends.get(before)?.get() as usize,
            None => 0,
        };
        let bytes = self.part(self.string_bytes, self.bytes.len());
        bytes.get(start..end)
    }

    /// What stands for "none" in [`Page::durations`].
    pub const NO_DURATION: u64 = NONE_U64;
    /// What stands for "none" in [`Page::statuses`].
    pub const NO_STATUS: u16 = NONE_U16;
    /// What stands for "none" where a string's number is expected.
    pub const NO_STRING: u16 = NONE_U16;

    /// Where the exchange blocks of this page begin in the file.
    pub(crate) fn blocks(&self) -> &'a [U64] {
        self.table(self.blocks, self.anomalies)
    }

    fn ends(&self) -> &'a [U32] {
        self.table(self.string_ends, self.string_bytes)
    }

    fn column<T: FromBytes + Immutable + KnownLayout + Unaligned>(&self, column: usize) -> &'a [T] {
        let start = size_of::<PageHeader>() + column * self.n_rows;
        let end = start + self.n_rows * size_of::<T>();
        self.slice(start..end)
    }

    fn table<T: FromBytes + Immutable + KnownLayout + Unaligned>(
        &self,
        start: u32,
        end: u32,
    ) -> &'a [T] {
        self.slice(start as usize..end as usize)
    }

    fn slice<T: FromBytes + Immutable + KnownLayout + Unaligned>(
        &self,
        range: Range<usize>,
    ) -> &'a [T] {
        let bytes = self.bytes.get(range).unwrap_or_default();
        <[T]>::ref_from_bytes(bytes).unwrap_or_default()
    }

    fn part(&self, start: u32, end: usize) -> &'a [u8] {
        self.bytes.get(start as usize..end).unwrap_or_default()
    }

    /// Whether every number in the page names something. Only [`verify`](crate::verify) asks:
    /// readers take what is out of range as "none".
    pub(crate) fn check(&self) -> Result<(), Damage> {
        let in_range = |numbers: &[U16], len: usize, or_none: bool| {
            numbers.iter().all(|number| {
                usize::from(number.get()) < len || (or_none && number.get() == NONE_U16)
            })
        };
        let n_strings = self.n_strings();
        let strings = [
            column::METHOD,
            column::SCHEME,
            column::AUTHORITY,
            column::TARGET,
        ];
        if !strings
            .into_iter()
            .all(|column| in_range(self.column(column), n_strings, true))
        {
            return Err(Damage::Structure("a row names no string"));
        }
        let connections: &[PageConnection] = self.table(self.connections, self.addresses);
        let addresses: &[PageAddress] = self.table(self.addresses, self.blocks);
        let anomalies: &[U128] = self.table(self.anomalies, self.wide);
        let sound = in_range(self.column(column::CONNECTION), connections.len(), false)
            && in_range(self.column(column::BLOCK), self.blocks().len(), false)
            && in_range(self.column(column::ANOMALIES), anomalies.len(), false)
            && connections.iter().all(|connection| {
                usize::from(connection.client.get()) < addresses.len()
                    && usize::from(connection.server.get()) < addresses.len()
            })
            && self.ends().is_sorted_by_key(|end| end.get());
        if sound {
            Ok(())
        } else {
            Err(Damage::Structure("a row points outside of its page"))
        }
    }
}

impl fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page")
            .field("first_row", &self.first_row)
            .field("n_rows", &self.n_rows)
            .finish_non_exhaustive()
    }
}

/// What the index knows of one exchange, read in place from the mapped file.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    page: Page<'a>,
    number: usize,
}

impl<'a> Row<'a> {
    /// The id of the exchange: they count from 0 in the order of writing.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.page.first_row + self.number as u64
    }

    /// When it began: the first byte that was seen of it.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        Timestamp::from_nanos(self.get::<I64>(column::TIME).map_or(0, |nanos| nanos.get()))
    }

    /// The connection that carried it.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        ConnectionId(
            self.page_connection()
                .map_or(0, |connection| connection.id.get())
                .wrapping_add(self.page.first_connection),
        )
    }

    /// The ordinal within an HTTP/1 connection, or the stream id in HTTP/2.
    #[must_use]
    pub fn stream(&self) -> u64 {
        self.wide(column::STREAM).unwrap_or(0)
    }

    /// The protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        protocol(
            self.get::<u8>(column::PROTOCOL)
                .copied()
                .unwrap_or(1)
                .into(),
        )
    }

    /// The side that connected.
    #[must_use]
    pub fn client(&self) -> Endpoint {
        self.endpoint(|connection| (connection.client, connection.client_port))
    }

    /// The side that was connected to.
    #[must_use]
    pub fn server(&self) -> Endpoint {
        self.endpoint(|connection| (connection.server, connection.server_port))
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> Option<&'a [u8]> {
        self.string(column::METHOD)
    }

    /// The scheme: that of an absolute target or `:scheme`; `http` or, over TLS, `https` for other
    /// HTTP/1 requests.
    #[must_use]
    pub fn scheme(&self) -> Option<&'a [u8]> {
        self.string(column::SCHEME)
    }

    /// The authority: that of an absolute target, `:authority`, or the Host field.
    #[must_use]
    pub fn authority(&self) -> Option<&'a [u8]> {
        self.string(column::AUTHORITY)
    }

    /// The request target as on the wire, query included.
    #[must_use]
    pub fn target(&self) -> Option<&'a [u8]> {
        self.string(column::TARGET)
    }

    /// The status code of the final response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.get::<U16>(column::STATUS)
            .map(|status| status.get())
            .filter(|status| *status != NONE_U16)
    }

    /// How many bytes of the request's body are stored; `None` where there is no request.
    #[must_use]
    pub fn request_body_len(&self) -> Option<u64> {
        self.wide(column::REQUEST_LEN)
    }

    /// How many bytes of the response's body are stored; `None` where there is no response.
    #[must_use]
    pub fn response_body_len(&self) -> Option<u64> {
        self.wide(column::RESPONSE_LEN)
    }

    /// From the first byte of the request to the last of the response; `None` where one of them is
    /// not there.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.get::<U64>(column::DURATION)
            .map(|nanos| nanos.get())
            .filter(|nanos| *nanos != NONE_U64)
            .map(Duration::from_nanos)
    }

    /// From the first byte of the request to the first of the final response.
    #[must_use]
    pub fn first_byte(&self) -> Option<Duration> {
        self.wide(column::FIRST_BYTE).map(Duration::from_nanos)
    }

    /// Why the request is not whole.
    #[must_use]
    pub fn request_missing(&self) -> Missing {
        self.missing(column::REQUEST_MISSING)
    }

    /// Why the response is not whole.
    #[must_use]
    pub fn response_missing(&self) -> Missing {
        self.missing(column::RESPONSE_MISSING)
    }

    /// Whether every byte of the request and of the response is there.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.flag(row_flags::COMPLETE)
    }

    /// Whether the exchange turned its connection or stream into a tunnel.
    #[must_use]
    pub fn tunnel(&self) -> bool {
        self.flag(row_flags::TUNNEL)
    }

    /// Whether the server pushed it (HTTP/2).
    #[must_use]
    pub fn pushed(&self) -> bool {
        self.flag(row_flags::PUSHED)
    }

    /// What was irregular.
    #[must_use]
    pub fn anomalies(&self) -> Anomalies {
        let sets: &[U128] = self.page.table(self.page.anomalies, self.page.wide);
        let bits = self
            .get::<U16>(column::ANOMALIES)
            .and_then(|number| sets.get(usize::from(number.get())))
            .map_or(0, |bits| bits.get());
        Anomalies::from_bits(bits)
    }

    /// Where the block of its record begins in the file, and the record's number there.
    pub(crate) fn place(&self) -> Option<(u64, usize)> {
        let block = self.get::<U16>(column::BLOCK)?.get();
        let record = self.get::<U16>(column::RECORD)?.get();
        let offset = self.page.blocks().get(usize::from(block))?.get();
        Some((offset, record.into()))
    }

    fn get<T: FromBytes + Immutable + KnownLayout + Unaligned>(
        &self,
        column: usize,
    ) -> Option<&'a T> {
        self.page.column(column).get(self.number)
    }

    fn wide(&self, column: usize) -> Option<u64> {
        let value = self.get::<U32>(column)?.get();
        match value {
            NONE_U32 => None,
            WIDE_U32 => {
                let wide: &[WideValue] = self.page.table(self.page.wide, self.page.string_ends);
                let key = (self.number as u32, column as u32);
                let found = wide
                    .binary_search_by_key(&key, |wide| (wide.row.get(), wide.column.get()))
                    .ok()?;
                Some(wide.get(found)?.value.get())
            }
            _ => Some(value.into()),
        }
    }

    fn string(&self, column: usize) -> Option<&'a [u8]> {
        self.page.string(self.get::<U16>(column)?.get())
    }

    fn missing(&self, column: usize) -> Missing {
        Missing::from_bits(self.get::<U16>(column).map_or(0, |bits| bits.get()))
    }

    fn flag(&self, flag: u8) -> bool {
        self.get::<u8>(column::FLAGS)
            .is_some_and(|flags| flags & flag != 0)
    }

    fn page_connection(&self) -> Option<&'a PageConnection> {
        let connections: &[PageConnection] =
            self.page.table(self.page.connections, self.page.addresses);
        let number = self.get::<U16>(column::CONNECTION)?.get();
        connections.get(usize::from(number))
    }

    fn endpoint(&self, side: impl Fn(&PageConnection) -> (U16, U16)) -> Endpoint {
        let addresses: &[PageAddress] = self.page.table(self.page.addresses, self.page.blocks);
        let (number, port) = self.page_connection().map_or((U16::ZERO, U16::ZERO), side);
        let ip = addresses.get(usize::from(number.get())).map_or_else(
            || address([0; 16], false),
            |found| address(found.octets, found.family.get() == 6),
        );
        Endpoint::new(ip, port.get())
    }
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row")
            .field("id", &self.id())
            .field("time", &self.time())
            .field("method", &self.method().map(String::from_utf8_lossy))
            .field("target", &self.target().map(String::from_utf8_lossy))
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
