//! A page is read in place.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use tapedeck_model::{
    Anomalies, ConnectionId, Endpoint, Missing, Protocol, Role, Side, Timestamp, TlsVersion,
};
use zerocopy::FromBytes;

use super::column::{Column, Columns, Descriptor, Stored, Value};
use super::target::Target;
use super::{id, row_flags, v1};
use crate::block::view::{address, address_of, protocol};
use crate::error::Damage;
use crate::format::{MAX_PAGE_ROWS, PageEntry, PageHeader};

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
    layout: Layout<'a>,
    /// What is added to the ids of connections; see `Segment`.
    first_connection: u64,
}

#[derive(Clone, Copy)]
enum Layout<'a> {
    V1(v1::Parts),
    V2(&'a [Descriptor]),
}

/// Something that the index says of each exchange, as a number; see [`Page::select`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NumberColumn {
    /// [`Row::time`], in nanoseconds since the Unix epoch.
    Time,
    /// [`Row::duration`], in nanoseconds.
    Duration,
    /// [`Row::status`].
    Status,
    /// [`Row::request_body_len`].
    RequestLen,
    /// [`Row::response_body_len`].
    ResponseLen,
    /// [`Row::stream`].
    Stream,
}

/// Something that the index says of each exchange, as one of the strings of its page; see
/// [`Page::select_strings`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TextColumn {
    /// [`Row::method`].
    Method,
    /// [`Row::scheme`].
    Scheme,
    /// [`Row::authority`].
    Authority,
    /// [`Row::target`].
    Target,
}

impl<'a> Page<'a> {
    /// The page in the payload of a chunk of that version.
    pub(crate) fn parse(bytes: &'a [u8], version: u16, first_row: u64) -> Result<Self, Damage> {
        let page = Self::parsed(bytes, version, first_row)?;
        let Layout::V2(descriptors) = page.layout else {
            return Ok(page);
        };
        let sound = descriptors.iter().enumerate().all(|(column, it)| {
            it.end().is_some_and(|end| end <= bytes.len())
                && (column >= id::ROWS || it.count() == page.n_rows)
        });
        if sound {
            Ok(page)
        } else {
            Err(Damage::Structure("a column lies outside of its index page"))
        }
    }

    /// The page in a payload that was parsed before: what its columns are is not looked at again.
    pub(crate) fn parsed(bytes: &'a [u8], version: u16, first_row: u64) -> Result<Self, Damage> {
        let (layout, n_rows) = if version == 1 {
            let (parts, n_rows) = v1::Parts::parse(bytes)?;
            (Layout::V1(parts), n_rows)
        } else {
            let short = Damage::Structure("an index page is shorter than its tables");
            let (header, rest) = PageHeader::ref_from_prefix(bytes).map_err(|_| short)?;
            let n_columns = header.n_columns.get() as usize;
            let (descriptors, _) =
                <[Descriptor]>::ref_from_prefix_with_elems(rest, n_columns).map_err(|_| short)?;
            (Layout::V2(descriptors), header.n_rows.get() as usize)
        };
        if n_rows > MAX_PAGE_ROWS {
            return Err(Damage::Length);
        }
        Ok(Self {
            bytes,
            first_row,
            n_rows,
            layout,
            first_connection: 0,
        })
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
        let times = ends(self.rows().map(|row| row.time().as_nanos())).unwrap_or_default();
        let durations = ends((0..self.n_rows).filter_map(|row| self.number(id::DURATION, row)));
        let statuses = ends(self.rows().filter_map(|row| row.status()));
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

    /// Whether both say the same of every row, as far as pages of version 1 go.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let same = |(row, other): (Row<'_>, Row<'_>)| {
            (row.time(), row.duration(), row.first_byte(), row.status())
                == (
                    other.time(),
                    other.duration(),
                    other.first_byte(),
                    other.status(),
                )
                && (row.connection(), row.stream(), row.client(), row.server())
                    == (
                        other.connection(),
                        other.stream(),
                        other.client(),
                        other.server(),
                    )
                && (row.method(), row.scheme(), row.authority(), row.target())
                    == (
                        other.method(),
                        other.scheme(),
                        other.authority(),
                        other.target(),
                    )
                && (row.request_body_len(), row.response_body_len(), row.place())
                    == (
                        other.request_body_len(),
                        other.response_body_len(),
                        other.place(),
                    )
                && (
                    row.request_missing(),
                    row.response_missing(),
                    row.anomalies(),
                ) == (
                    other.request_missing(),
                    other.response_missing(),
                    other.anomalies(),
                )
                && (row.complete(), row.tunnel(), row.pushed(), row.protocol())
                    == (
                        other.complete(),
                        other.tunnel(),
                        other.pushed(),
                        other.protocol(),
                    )
        };
        self.n_rows == other.n_rows && self.rows().zip(other.rows()).all(same)
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

    /// Which rows have a number between these two, both included: a bit for each row, the first
    /// row in the lowest bit of the first word. Compares the stored bytes of the column, at the
    /// width that they have.
    #[must_use]
    pub fn select(&self, column: NumberColumn, least: i128, most: i128) -> Vec<u64> {
        let (id, is_signed) = match column {
            NumberColumn::Time => (id::TIME, true),
            NumberColumn::Duration => (id::DURATION, false),
            NumberColumn::Status => (id::STATUS, false),
            NumberColumn::RequestLen => (id::REQUEST_LEN, false),
            NumberColumn::ResponseLen => (id::RESPONSE_LEN, false),
            NumberColumn::Stream => (id::STREAM, false),
        };
        let wide = |value: u64| {
            if is_signed {
                value.cast_signed().into()
            } else {
                i128::from(value)
            }
        };
        let column = self.column(id);
        let is_between = |value: u64| (least..=most).contains(&wide(value));
        // Where the sum of base and stored value does not wrap, ranges of one are ranges of the other.
        let base = wide(column.base);
        let ceiling =
            i128::from(column.none()) - i128::from(column.has_none) - i128::from(column.has_wide);
        let wraps = base + ceiling > wide(u64::MAX >> u32::from(is_signed));
        let low = least.saturating_sub(base).max(0);
        let high = most.saturating_sub(base).min(ceiling);
        let mut words = match column.stored() {
            Some(Stored::Zero) => {
                let all = !column.has_none && is_between(column.base);
                bits(self.n_rows, |_| all)
            }
            Some(Stored::U64(values)) if is_signed && column.base == 0 => {
                let least = least.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
                let most = most.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
                let range = least..=most;
                words_of(values, |value| range.contains(&value.get().cast_signed()))
            }
            Some(_) if !wraps && high < low => vec![0; self.n_rows.div_ceil(64)],
            Some(Stored::U8(values)) if !wraps => {
                let range = low as u8..=high as u8;
                words_of(values, |value| range.contains(value))
            }
            Some(Stored::U16(values)) if !wraps => {
                let range = low as u16..=high as u16;
                words_of(values, |value| range.contains(&value.get()))
            }
            Some(Stored::U32(values)) if !wraps => {
                let range = low as u32..=high as u32;
                words_of(values, |value| range.contains(&value.get()))
            }
            Some(Stored::U64(values)) if !wraps => {
                let range = low as u64..=high as u64;
                words_of(values, |value| range.contains(&value.get()))
            }
            _ => {
                return bits(self.n_rows, |row| {
                    self.number(id, row).is_some_and(is_between)
                });
            }
        };
        if column.has_wide {
            self.select_wide(id, &is_between, &mut words);
        }
        words
    }

    /// Corrects the bits of rows whose value was set apart.
    fn select_wide(&self, id: usize, is_between: &dyn Fn(u64) -> bool, words: &mut [u64]) {
        let column = self.column(id);
        for row in (0..self.n_rows).filter(|row| column.value(*row) == Value::Wide) {
            if let Some(word) = words.get_mut(row / 64)
                && self.number(id, row).is_some_and(is_between)
            {
                *word |= 1 << (row % 64);
            }
        }
    }

    /// Which rows have a string for which the test holds: bits as of [`Page::select`]. Each distinct
    /// string is looked at once, when it first comes.
    pub fn select_strings(
        &self,
        column: TextColumn,
        mut test: impl FnMut(&[u8]) -> bool,
    ) -> Vec<u64> {
        let mut buffer = Vec::new();
        let (id, distinct) = match column {
            TextColumn::Method => (id::METHOD, self.n_strings()),
            TextColumn::Scheme => (id::SCHEME, self.n_strings()),
            TextColumn::Authority => (id::AUTHORITY, self.n_strings()),
            TextColumn::Target => (id::TARGET, self.n_targets()),
        };
        let is_target = column == TextColumn::Target;
        let mut answers: Vec<Option<bool>> = vec![None; distinct];
        let column = self.column(id);
        bits(self.n_rows, |row| {
            let Some(number) = column.get(row) else {
                return false;
            };
            let Some(answer) = answers.get_mut(number as usize) else {
                return false;
            };
            *answer.get_or_insert_with(|| {
                if is_target {
                    let Some(target) = self.target(number) else {
                        return false;
                    };
                    buffer.clear();
                    target.append_to(&mut buffer);
                    test(&buffer)
                } else {
                    self.string(number).is_some_and(&mut test)
                }
            })
        })
    }

    fn column(&self, id: usize) -> Column<'a> {
        match self.layout {
            Layout::V1(parts) => parts.column(self.bytes, self.n_rows, id),
            Layout::V2(descriptors) => descriptors
                .get(id)
                .map_or(Column::ABSENT, |it| it.column(self.bytes)),
        }
    }

    /// A value of a column, of rows or of a table.
    fn number(&self, id: usize, row: usize) -> Option<u64> {
        match self.column(id).value(row) {
            Value::None => None,
            Value::Some(value) => Some(value),
            Value::Wide => match self.layout {
                Layout::V1(parts) => parts.wide(self.bytes, id, row),
                Layout::V2(_) => self.wide(Columns::wide_key(id, row)),
            },
        }
    }

    fn wide(&self, key: u64) -> Option<u64> {
        let keys = self.column(id::WIDE_KEY);
        let (mut low, mut high) = (0, keys.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            let found = keys.get(middle)?;
            match found.cmp(&key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return self.column(id::WIDE_VALUE).get(middle),
            }
        }
        None
    }

    fn n_strings(&self) -> usize {
        match self.layout {
            Layout::V1(parts) => parts.n_strings(self.bytes),
            Layout::V2(_) => self.column(id::STRING_END).count,
        }
    }

    fn n_targets(&self) -> usize {
        match self.layout {
            Layout::V1(parts) => parts.n_strings(self.bytes),
            Layout::V2(_) => self.column(id::TARGET_END).count,
        }
    }

    fn string(&self, number: u64) -> Option<&'a [u8]> {
        match self.layout {
            Layout::V1(parts) => parts.string(self.bytes, number as usize),
            Layout::V2(_) => self.part(id::STRING_END, id::STRING_BYTES, number),
        }
    }

    fn target(&self, number: u64) -> Option<Target<'a>> {
        match self.layout {
            Layout::V1(parts) => parts.string(self.bytes, number as usize).map(Target::whole),
            Layout::V2(_) => {
                let shared = self.string(self.number(id::TARGET_SHARED, number as usize)?)?;
                let own = self.part(id::TARGET_END, id::TARGET_BYTES, number)?;
                Some(Target::new(shared, own))
            }
        }
    }

    /// The bytes up to an end, from the one before.
    fn part(&self, ends: usize, bytes: usize, number: u64) -> Option<&'a [u8]> {
        let ends = self.column(ends);
        let number = usize::try_from(number).ok()?;
        if number >= ends.count {
            return None;
        }
        let end = usize::try_from(ends.get(number)?).ok()?;
        let start = match number.checked_sub(1) {
            Some(before) => usize::try_from(ends.get(before)?).ok()?,
            None => 0,
        };
        self.column(bytes).bytes.get(start..end)
    }

    /// The number of the row's block, and of the row in it.
    fn block_of(&self, row: usize) -> Option<(usize, usize)> {
        let starts = self.column(id::BLOCK_ROW);
        let (mut low, mut high) = (0, starts.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            if starts.get(middle)? <= row as u64 {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let block = low.checked_sub(1)?;
        let start = usize::try_from(starts.get(block)?).ok()?;
        Some((block, row.checked_sub(start)?))
    }

    fn address(&self, number: u64) -> std::net::IpAddr {
        let number = number as usize;
        match self.layout {
            Layout::V1(parts) => parts.address(self.bytes, number).map_or_else(
                || address([0; 16], false),
                |found| address(found.octets, found.family.get() == 6),
            ),
            Layout::V2(_) => address_of(
                self.number(id::ADDRESS_HIGH, number).unwrap_or(0),
                self.number(id::ADDRESS_LOW, number).unwrap_or(0),
                self.number(id::ADDRESS_V6, number) == Some(1),
            ),
        }
    }

    /// Whether every number in the page names something. Only [`verify`](crate::verify) asks:
    /// readers take what is out of range as "none". Pages of version 1 are compared with what
    /// their records say, which is more.
    pub(crate) fn check(&self) -> Result<(), Damage> {
        let Layout::V2(_) = self.layout else {
            return Ok(());
        };
        let is_named = |column: usize, len: usize| {
            let column = self.column(column);
            (0..column.count).all(|row| match column.value(row) {
                Value::Some(number) => number < len as u64,
                Value::None => true,
                Value::Wide => false,
            })
        };
        let count = |column: usize| self.column(column).count;
        let strings = [
            id::METHOD,
            id::SCHEME,
            id::AUTHORITY,
            id::TARGET_SHARED,
            id::TLS_SERVER_NAME,
            id::TLS_ALPN,
            id::WORKLOAD_NAMESPACE,
            id::WORKLOAD_POD,
            id::WORKLOAD_CONTAINER,
            id::WORKLOAD_OWNER,
            id::WORKLOAD_PROCESS,
            id::WORKLOAD_CGROUP,
        ];
        let tables = [
            (id::TARGET, id::TARGET_END),
            (id::CONNECTION, id::CONNECTION_ID),
            (id::ANOMALIES, id::ANOMALIES_LOW),
            (id::SESSION, id::SESSION_KEY),
            (id::REQUEST_BODY, id::BODY_BLOCK),
            (id::RESPONSE_BODY, id::BODY_BLOCK),
            (id::CLIENT, id::ADDRESS_LOW),
            (id::SERVER, id::ADDRESS_LOW),
            (id::TLS, id::TLS_VERSION),
            (id::CLIENT_WORKLOAD, id::WORKLOAD_POD),
            (id::SERVER_WORKLOAD, id::WORKLOAD_POD),
        ];
        let sound = strings
            .into_iter()
            .all(|column| is_named(column, self.n_strings()))
            && tables
                .into_iter()
                .all(|(column, table)| is_named(column, count(table)));
        if sound {
            Ok(())
        } else {
            Err(Damage::Structure("a row points outside of its page"))
        }
    }
}

/// A bit for each row.
fn bits(n_rows: usize, mut test: impl FnMut(usize) -> bool) -> Vec<u64> {
    let word = |first: usize| {
        let rows = first..n_rows.min(first + 64);
        // Not from the last on: strings are looked at in the order of the rows.
        rows.fold(0, |word, row| word | u64::from(test(row)) << (row % 64))
    };
    (0..n_rows).step_by(64).map(word).collect()
}

fn words_of<T>(values: &[T], test: impl Fn(&T) -> bool) -> Vec<u64> {
    let word = |values: &[T]| {
        values
            .iter()
            .rev()
            .fold(0, |word, value| word << 1 | u64::from(test(value)))
    };
    values.chunks(64).map(word).collect()
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
        Timestamp::from_nanos(self.get(id::TIME).unwrap_or(0).cast_signed())
    }

    /// The connection that carried it.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        let number = self.get(id::CONNECTION).unwrap_or(u64::MAX) as usize;
        let page = &self.page;
        let found = match page.layout {
            Layout::V1(parts) => parts
                .connection(page.bytes, number)
                .map(|connection| connection.id.get()),
            Layout::V2(_) => page.number(id::CONNECTION_ID, number),
        };
        ConnectionId(found.unwrap_or(0).wrapping_add(page.first_connection))
    }

    /// The ordinal within an HTTP/1 connection, or the stream id in HTTP/2.
    #[must_use]
    pub fn stream(&self) -> u64 {
        self.get(id::STREAM).unwrap_or(0)
    }

    /// The protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        protocol(self.get(id::PROTOCOL).unwrap_or(1))
    }

    /// The side that connected.
    #[must_use]
    pub fn client(&self) -> Endpoint {
        self.endpoint_of(Side::Client)
    }

    /// The side that was connected to.
    #[must_use]
    pub fn server(&self) -> Endpoint {
        self.endpoint_of(Side::Server)
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> Option<&'a [u8]> {
        self.page.string(self.get(id::METHOD)?)
    }

    /// The scheme: that of an absolute target or `:scheme`; `http` or, within TLS, `https` for other
    /// HTTP/1 requests.
    #[must_use]
    pub fn scheme(&self) -> Option<&'a [u8]> {
        self.page.string(self.get(id::SCHEME)?)
    }

    /// The authority: that of an absolute target, `:authority`, or the Host field.
    #[must_use]
    pub fn authority(&self) -> Option<&'a [u8]> {
        self.page.string(self.get(id::AUTHORITY)?)
    }

    /// The request target as on the wire, query included. A copy, where the index keeps it in
    /// pieces; see [`Row::target_pieces`].
    #[must_use]
    pub fn target(&self) -> Option<Cow<'a, [u8]>> {
        self.target_pieces().map(Target::to_bytes)
    }

    /// The request target, in the pieces that the index keeps it in.
    #[must_use]
    pub fn target_pieces(&self) -> Option<Target<'a>> {
        self.page.target(self.get(id::TARGET)?)
    }

    /// The path of the target with what looks like an id replaced, by which requests are grouped;
    /// see [`tapedeck_model::path_template`].
    #[must_use]
    pub fn endpoint(&self) -> Option<String> {
        self.target_pieces().map(Target::endpoint)
    }

    /// What stands for the user that made the request: the first 48 bits of the XXH3-64 of what
    /// [`tapedeck_model::session_of`] names. Equal ones are one user's.
    #[must_use]
    pub fn session(&self) -> Option<u64> {
        let number = self.get(id::SESSION)?;
        self.page.number(id::SESSION_KEY, number as usize)
    }

    /// The status code of the final response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.get(id::STATUS).map(|status| status as u16)
    }

    /// How many bytes of the request's body are stored; `None` where there is no request.
    #[must_use]
    pub fn request_body_len(&self) -> Option<u64> {
        self.get(id::REQUEST_LEN)
    }

    /// How many bytes of the response's body are stored; `None` where there is no response.
    #[must_use]
    pub fn response_body_len(&self) -> Option<u64> {
        self.get(id::RESPONSE_LEN)
    }

    /// Where the body of the message lies, where it lies in one piece that equal bodies share: the
    /// offset of a block in the file, and where in the block it begins. Bodies of equal length at
    /// one place are one body.
    #[must_use]
    pub fn body_place(&self, role: Role) -> Option<(u64, u64)> {
        let number = match role {
            Role::Request => self.get(id::REQUEST_BODY)?,
            Role::Response => self.get(id::RESPONSE_BODY)?,
        } as usize;
        let block = self.page.number(id::BODY_BLOCK, number)?;
        Some((block, self.page.number(id::BODY_START, number)?))
    }

    /// From the first byte of the request to the last of the response; `None` where one of them is
    /// not there.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.get(id::DURATION).map(Duration::from_nanos)
    }

    /// From the first byte of the request to the first of the final response.
    #[must_use]
    pub fn first_byte(&self) -> Option<Duration> {
        let nanos = match self.page.layout {
            Layout::V1(_) => self.get(v1::FIRST_BYTE)?,
            Layout::V2(_) => {
                let duration = self.get(id::DURATION)?;
                duration.wrapping_sub(self.get(id::TRANSFER)?)
            }
        };
        Some(Duration::from_nanos(nanos))
    }

    /// Why the request is not whole.
    #[must_use]
    pub fn request_missing(&self) -> Missing {
        Missing::from_bits(self.get(id::REQUEST_MISSING).unwrap_or(0) as u16)
    }

    /// Why the response is not whole.
    #[must_use]
    pub fn response_missing(&self) -> Missing {
        Missing::from_bits(self.get(id::RESPONSE_MISSING).unwrap_or(0) as u16)
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
        let number = self.get(id::ANOMALIES).unwrap_or(u64::MAX) as usize;
        let page = &self.page;
        Anomalies::from_bits(match page.layout {
            Layout::V1(parts) => parts.anomalies(page.bytes, number).unwrap_or(0),
            Layout::V2(_) => {
                let half = |column| u128::from(page.number(column, number).unwrap_or(0));
                half(id::ANOMALIES_HIGH) << 64 | half(id::ANOMALIES_LOW)
            }
        })
    }

    /// What the TLS handshake of its connection told; `None` where there was none.
    #[must_use]
    pub fn tls(&self) -> Option<TlsView<'a>> {
        let number = self.connection_number(id::TLS)? as usize;
        Some(TlsView {
            page: self.page,
            number,
        })
    }

    /// What ran at one side of its connection, where that is known.
    #[must_use]
    pub fn workload(&self, side: Side) -> Option<WorkloadView<'a>> {
        let column = match side {
            Side::Client => id::CLIENT_WORKLOAD,
            Side::Server => id::SERVER_WORKLOAD,
        };
        let number = self.connection_number(column)? as usize;
        Some(WorkloadView {
            page: self.page,
            number,
        })
    }

    /// Where the block of its record begins in the file, and the record's number there.
    pub(crate) fn place(&self) -> Option<(u64, usize)> {
        let page = &self.page;
        if let Layout::V1(parts) = page.layout {
            let block = self.get(v1::BLOCK)? as usize;
            let record = self.get(v1::RECORD)? as usize;
            return Some((parts.block(page.bytes, block)?, record));
        }
        let (block, record) = page.block_of(self.number)?;
        Some((page.number(id::BLOCK_OFFSET, block)?, record))
    }

    fn get(&self, column: usize) -> Option<u64> {
        self.page.number(column, self.number)
    }

    fn flag(&self, flag: u64) -> bool {
        self.get(id::FLAGS).is_some_and(|flags| flags & flag != 0)
    }

    /// What a column of the page's connections says of its own.
    fn connection_number(&self, column: usize) -> Option<u64> {
        self.page.number(column, self.get(id::CONNECTION)? as usize)
    }

    fn endpoint_of(&self, side: Side) -> Endpoint {
        let page = &self.page;
        let number = self.get(id::CONNECTION).unwrap_or(u64::MAX) as usize;
        let (ip, port) = match page.layout {
            Layout::V1(parts) => {
                let found = parts.connection(page.bytes, number);
                found.map_or((u64::MAX, 0), |it| match side {
                    Side::Client => (it.client.get().into(), it.client_port.get()),
                    Side::Server => (it.server.get().into(), it.server_port.get()),
                })
            }
            Layout::V2(_) => {
                let (address, port) = match side {
                    Side::Client => (id::CLIENT, id::CLIENT_PORT),
                    Side::Server => (id::SERVER, id::SERVER_PORT),
                };
                (
                    page.number(address, number).unwrap_or(u64::MAX),
                    page.number(port, number).unwrap_or(0) as u16,
                )
            }
        };
        Endpoint::new(page.address(ip), port)
    }
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_struct("Row")
            .field("id", &self.id())
            .field("time", &self.time())
            .field("method", &self.method().map(text))
            .field("target", &self.target().map(|target| text(&target)))
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// What a TLS handshake told, read in place from the index.
#[derive(Clone, Copy, Debug)]
pub struct TlsView<'a> {
    page: Page<'a>,
    number: usize,
}

impl<'a> TlsView<'a> {
    /// The version.
    #[must_use]
    pub fn version(&self) -> Option<TlsVersion> {
        match self.page.number(id::TLS_VERSION, self.number)? {
            0x0303 => Some(TlsVersion::Tls12),
            0x0304 => Some(TlsVersion::Tls13),
            _ => None,
        }
    }

    /// The cipher suite, by its number in IANA's registry.
    #[must_use]
    pub fn suite(&self) -> Option<u16> {
        let suite = self.page.number(id::TLS_SUITE, self.number)?;
        u16::try_from(suite).ok()
    }

    /// The name that the client asked for.
    #[must_use]
    pub fn server_name(&self) -> Option<&'a [u8]> {
        let number = self.page.number(id::TLS_SERVER_NAME, self.number)?;
        self.page.string(number)
    }

    /// The protocol that the server chose.
    #[must_use]
    pub fn alpn(&self) -> Option<&'a [u8]> {
        let number = self.page.number(id::TLS_ALPN, self.number)?;
        self.page.string(number)
    }
}

/// What runs at one end of a connection, read in place from the index.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadView<'a> {
    page: Page<'a>,
    number: usize,
}

impl<'a> WorkloadView<'a> {
    /// Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> Option<&'a [u8]> {
        self.text(id::WORKLOAD_NAMESPACE)
    }

    /// Kubernetes pod.
    #[must_use]
    pub fn pod(&self) -> Option<&'a [u8]> {
        self.text(id::WORKLOAD_POD)
    }

    /// Container.
    #[must_use]
    pub fn container(&self) -> Option<&'a [u8]> {
        self.text(id::WORKLOAD_CONTAINER)
    }

    /// What owns the pod, as `kind/name`.
    #[must_use]
    pub fn owner(&self) -> Option<&'a [u8]> {
        self.text(id::WORKLOAD_OWNER)
    }

    /// Name of the process.
    #[must_use]
    pub fn process(&self) -> Option<&'a [u8]> {
        self.text(id::WORKLOAD_PROCESS)
    }

    /// Path of its control group.
    #[must_use]
    pub fn cgroup(&self) -> Option<&'a [u8]> {
        self.text(id::WORKLOAD_CGROUP)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let pid = self.page.number(id::WORKLOAD_PID, self.number)?;
        u32::try_from(pid).ok()
    }

    fn text(&self, column: usize) -> Option<&'a [u8]> {
        self.page.string(self.page.number(column, self.number)?)
    }
}
