//! A page is read in place.

use std::fmt;

use zerocopy::FromBytes;

use super::column::{Column, Columns, Descriptor, Value};
use super::row::Row;
use super::target::Target;
use super::{id, v1};
use crate::block::view::{address, address_of};
use crate::error::Damage;
use crate::format::{MAX_PAGE_ROWS, PageEntry, PageHeader};

/// The rows of some consecutive exchanges, column by column.
///
/// The columns are for those who look at many rows, such as filters: everything in one column is
/// one slice of the mapped file. A [`Row`] is the view of one exchange.
#[derive(Clone, Copy)]
pub struct Page<'a> {
    /// The payload of the page's chunk. Its parts lie within it: checked by [`Page::parse`].
    pub(super) bytes: &'a [u8],
    pub(super) first_row: u64,
    pub(super) n_rows: usize,
    pub(super) layout: Layout<'a>,
    /// What is added to the ids of connections; see `Segment`.
    pub(super) first_connection: u64,
}

#[derive(Clone, Copy)]
pub(super) enum Layout<'a> {
    V1(v1::Parts),
    V2(&'a [Descriptor]),
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

    pub(super) fn column(&self, id: usize) -> Column<'a> {
        match self.layout {
            Layout::V1(parts) => parts.column(self.bytes, self.n_rows, id),
            Layout::V2(descriptors) => descriptors
                .get(id)
                .map_or(Column::ABSENT, |it| it.column(self.bytes)),
        }
    }

    /// A value of a column, of rows or of a table.
    pub(super) fn number(&self, id: usize, row: usize) -> Option<u64> {
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
        let place = self.wide_place(key);
        let found = self.column(id::WIDE_KEY).get(place)?;
        (found == key).then(|| self.column(id::WIDE_VALUE).get(place))?
    }

    /// The values of a column that were set apart, and their rows, in the order of these.
    pub(super) fn wide_values(&self, id: usize) -> impl Iterator<Item = (usize, u64)> + use<'a> {
        let (keys, values) = (self.column(id::WIDE_KEY), self.column(id::WIDE_VALUE));
        let (first, behind) = (Columns::wide_key(id, 0), Columns::wide_key(id + 1, 0));
        (self.wide_place(first)..keys.count)
            .map_while(move |place| {
                keys.get(place)
                    .filter(|key| *key < behind)
                    .zip(values.get(place))
            })
            .map(move |(key, value)| (key.wrapping_sub(first) as usize, value))
    }

    /// Where in the table of values that were set apart a key lies, or would.
    fn wide_place(&self, key: u64) -> usize {
        let keys = self.column(id::WIDE_KEY);
        let (mut low, mut high) = (0, keys.count);
        while low < high {
            let middle = usize::midpoint(low, high);
            if keys.get(middle).is_some_and(|found| found < key) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    pub(super) fn n_strings(&self) -> usize {
        match self.layout {
            Layout::V1(parts) => parts.n_strings(self.bytes),
            Layout::V2(_) => self.column(id::STRING_END).count,
        }
    }

    pub(super) fn n_targets(&self) -> usize {
        match self.layout {
            Layout::V1(parts) => parts.n_strings(self.bytes),
            Layout::V2(_) => self.column(id::TARGET_END).count,
        }
    }

    pub(super) fn string(&self, number: u64) -> Option<&'a [u8]> {
        match self.layout {
            Layout::V1(parts) => parts.string(self.bytes, number as usize),
            Layout::V2(_) => self.part(id::STRING_END, id::STRING_BYTES, number),
        }
    }

    pub(super) fn target(&self, number: u64) -> Option<Target<'a>> {
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
    pub(super) fn block_of(&self, row: usize) -> Option<(usize, usize)> {
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

    pub(super) fn address(&self, number: u64) -> std::net::IpAddr {
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
}

impl fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page")
            .field("first_row", &self.first_row)
            .field("n_rows", &self.n_rows)
            .finish_non_exhaustive()
    }
}
