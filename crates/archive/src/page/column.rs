//! Columns of integers in an index page: written once, read in place.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::packed::{bytes_of, little_endian, put};

/// Where a column lies and what its bytes mean.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Descriptor {
    /// What is added to every stored value.
    base: U64,
    /// Where in the page it begins.
    start: U32,
    /// How many values there are.
    count: [u8; 3],
    /// Bytes of a stored value, 0 to 8, and flags of [`encoding`].
    encoding: u8,
}

mod encoding {
    pub(super) const WIDTH: u8 = 15;
    /// A stored value of ones only stands for "none"; at width 0, every one does.
    pub(super) const NONE: u8 = 16;
    /// A stored value of one less stands for one that is too large, and lies in the table of those.
    pub(super) const WIDE: u8 = 32;
    /// The number of the value times a slope is added. The slope, a u32, lies before the values.
    pub(super) const SLOPE: u8 = 64;
}

impl Descriptor {
    pub(crate) fn count(&self) -> usize {
        let [low, middle, high] = self.count;
        u32::from_le_bytes([low, middle, high, 0]) as usize
    }

    fn width(&self) -> usize {
        usize::from(self.encoding & encoding::WIDTH)
    }

    fn has(&self, flag: u8) -> bool {
        self.encoding & flag != 0
    }

    /// Where it ends in the page; `None` where it is no column.
    pub(crate) fn end(&self) -> Option<usize> {
        let slope = if self.has(encoding::SLOPE) { 4 } else { 0 };
        let start = self.start.get() as usize;
        (self.width() <= 8).then(|| start + slope + self.count() * self.width())
    }

    /// The column in these bytes of its page.
    pub(crate) fn column<'a>(&self, page: &'a [u8]) -> Column<'a> {
        let end = self.end().unwrap_or(0);
        let bytes = page.get(self.start.get() as usize..end).unwrap_or_default();
        let (slope, bytes) = match bytes.split_first_chunk::<4>() {
            Some((slope, rest)) if self.has(encoding::SLOPE) => (u32::from_le_bytes(*slope), rest),
            _ => (0, bytes),
        };
        Column {
            bytes,
            base: self.base.get(),
            slope: slope.into(),
            count: self.count(),
            width: self.width(),
            has_none: self.has(encoding::NONE),
            has_wide: self.has(encoding::WIDE),
        }
    }
}

/// A column of an index page: what it says of each row, read in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) base: u64,
    pub(crate) slope: u64,
    pub(crate) count: usize,
    pub(crate) width: usize,
    pub(crate) has_none: bool,
    pub(crate) has_wide: bool,
}

/// A value of a column.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Value {
    None,
    /// In the table of those that are too large.
    Wide,
    Some(u64),
}

/// The stored values of a column, each as wide as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stored<'a> {
    /// None are stored: all of them are zero.
    Zero,
    U8(&'a [u8]),
    U16(&'a [U16]),
    U32(&'a [U32]),
    U64(&'a [U64]),
}

impl<'a> Column<'a> {
    /// A column that is not there, as in pages of older versions.
    pub(crate) const ABSENT: Self = Self {
        bytes: &[],
        base: 0,
        slope: 0,
        count: 0,
        width: 0,
        has_none: true,
        has_wide: false,
    };

    /// What is stored for "none", where anything is.
    pub(crate) fn none(&self) -> u64 {
        u64::MAX
            .checked_shr(64 - 8 * self.width.min(8) as u32)
            .unwrap_or(0)
    }

    pub(crate) fn value(&self, number: usize) -> Value {
        let stored = match self.width {
            0 if self.has_none => return Value::None,
            0 => 0,
            1 => match self.bytes.get(number) {
                Some(byte) => u64::from(*byte),
                None => return Value::None,
            },
            // Where the number comes from another column, it may be any.
            width => match number
                .checked_mul(width)
                .and_then(|start| self.bytes.get(start..)?.get(..width))
            {
                Some(bytes) => little_endian(bytes),
                None => return Value::None,
            },
        };
        if self.has_none && stored == self.none() {
            Value::None
        } else if self.has_wide && stored == self.none().wrapping_sub(1) {
            Value::Wide
        } else {
            let slope = self.slope.wrapping_mul(number as u64);
            Value::Some(self.base.wrapping_add(slope).wrapping_add(stored))
        }
    }

    /// A value that is neither none nor too large.
    pub(crate) fn get(&self, number: usize) -> Option<u64> {
        match self.value(number) {
            Value::Some(value) => Some(value),
            Value::None | Value::Wide => None,
        }
    }

    /// The stored values, for those who look at all of them; `None` where they are of a width, or
    /// have a slope, that makes them slow to look at.
    pub(crate) fn stored(&self) -> Option<Stored<'a>> {
        if self.slope != 0 {
            return None;
        }
        Some(match self.width {
            0 => Stored::Zero,
            1 => Stored::U8(self.bytes),
            2 => Stored::U16(<[U16]>::ref_from_bytes(self.bytes).ok()?),
            4 => Stored::U32(<[U32]>::ref_from_bytes(self.bytes).ok()?),
            8 => Stored::U64(<[U64]>::ref_from_bytes(self.bytes).ok()?),
            _ => return None,
        })
    }
}

/// "None" among values to be encoded.
pub(crate) const NONE: u64 = u64::MAX;

/// How a column is encoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Shape {
    /// Filters look at all of it: widths that processors know. A few values that need more than
    /// the others are set apart.
    Scanned,
    /// As narrow as can be.
    Narrow,
}

/// Columns on their way into a page.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    pub(crate) descriptors: Vec<Descriptor>,
    pub(crate) bytes: Vec<u8>,
    /// Values that were set apart: the number of their column and of their row, and they.
    wide: Vec<(u64, u64)>,
}

impl Columns {
    /// Adds bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.describe(bytes.len(), 0, 1, 0);
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds a column none of whose values is "none".
    pub(crate) fn all(&mut self, shape: Shape, values: impl Iterator<Item = u64>) {
        let values: Vec<_> = values.collect();
        self.encode(shape, &values, false);
    }

    /// Adds a column in which [`NONE`] is "none".
    pub(crate) fn some(&mut self, shape: Shape, values: impl Iterator<Item = u64>) {
        let values: Vec<_> = values.collect();
        self.encode(shape, &values, true);
    }

    /// Adds a column whose values are all the same.
    pub(crate) fn repeated(&mut self, value: u64, times: usize, is_nullable: bool) {
        match times {
            0 => self.describe(0, 0, 0, 0),
            _ if is_nullable && value == NONE => self.describe(times, 0, 0, encoding::NONE),
            _ => self.describe(times, value, 0, 0),
        }
    }

    /// Adds the columns of the values that were set apart.
    pub(crate) fn wide(&mut self) {
        let wide = std::mem::take(&mut self.wide);
        self.all(Shape::Narrow, wide.iter().map(|(key, _)| *key));
        self.all(Shape::Narrow, wide.iter().map(|(_, value)| *value));
    }

    /// The key of a value that was set apart.
    pub(crate) const fn wide_key(column: usize, row: usize) -> u64 {
        (column as u64) << 16 | row as u64
    }

    /// Adds a column. Where it is nullable, [`NONE`] is "none".
    pub(crate) fn encode(&mut self, shape: Shape, values: &[u64], is_nullable: bool) {
        // Values are walked over as few times as can be: a page has twenty for each row.
        let is_none = |value: u64| is_nullable & (value == NONE);
        let (mut least, mut most, mut n_none) = (i64::MAX, i64::MIN, 0);
        for value in values {
            let none = is_none(*value);
            let value = value.cast_signed();
            least = least.min(if none { i64::MAX } else { value });
            most = most.max(if none { i64::MIN } else { value });
            n_none += usize::from(none);
        }
        let has_none = n_none > 0;
        let none = if has_none { encoding::NONE } else { 0 };
        if n_none == values.len() {
            self.describe(values.len(), 0, 0, none);
            return;
        }
        let mut base = least.cast_unsigned();
        let mut range = most.cast_unsigned().wrapping_sub(base);
        let mut slope = 0;
        if shape == Shape::Narrow
            && let Some(found) = slope_of(values)
        {
            let there = values.iter().enumerate();
            let there = there.filter(|(_, value)| !is_none(**value));
            let flat = there.map(|(number, value)| flattened(*value, number, found));
            let (flat_base, flat_range) = extent(flat);
            if bytes_of(flat_range) < bytes_of(range) {
                (base, range, slope) = (flat_base, flat_range, found);
            }
        }
        let reserved = u64::from(has_none);
        let mut width = bytes_of(range.saturating_add(reserved));
        let mut limit = u64::MAX;
        if shape == Shape::Scanned {
            let offset = |value: u64| (!is_none(value)).then(|| value.wrapping_sub(base));
            (width, limit) = scanned_width(values, range, reserved, offset);
        }
        if width == 8 {
            // What is there is never all ones, so that "none" is free.
            (base, slope) = (0, 0);
        }
        let mut flags = none;
        if slope != 0 {
            flags |= encoding::SLOPE;
        }
        if limit != u64::MAX {
            flags |= encoding::WIDE;
        }
        self.describe(values.len(), base, width as u8, flags);
        let all_ones = u64::MAX >> ((64 - 8 * width as u32) % 64);
        let or_none = |value: u64, stored: u64| if is_none(value) { all_ones } else { stored };
        if slope != 0 {
            self.bytes.extend_from_slice(&slope.to_le_bytes());
            let stored = values.iter().enumerate().map(|(number, value)| {
                let stored = flattened(*value, number, slope).wrapping_sub(base);
                or_none(*value, stored)
            });
            put(&mut self.bytes, width, stored);
        } else if limit != u64::MAX {
            self.put_with_far(values, width, limit, base, is_none);
        } else {
            let stored = values
                .iter()
                .map(|value| or_none(*value, value.wrapping_sub(base)));
            put(&mut self.bytes, width, stored);
        }
    }

    /// The values of the last column, those set apart that lie farther from the base than the limit.
    fn put_with_far(
        &mut self,
        values: &[u64],
        width: usize,
        limit: u64,
        base: u64,
        is_none: impl Fn(u64) -> bool,
    ) {
        let column = self.descriptors.len() - 1;
        let all_ones = u64::MAX >> ((64 - 8 * width as u32) % 64);
        let wide = &mut self.wide;
        let stored = values.iter().enumerate().map(|(number, value)| {
            let stored = value.wrapping_sub(base);
            if is_none(*value) {
                all_ones
            } else if stored > limit {
                wide.push((Self::wide_key(column, number), *value));
                all_ones - 1
            } else {
                stored
            }
        });
        put(&mut self.bytes, width, stored);
    }

    fn describe(&mut self, count: usize, base: u64, width: u8, flags: u8) {
        let [low, middle, high, _] = (count as u32).to_le_bytes();
        self.descriptors.push(Descriptor {
            base: base.into(),
            start: (self.bytes.len() as u32).into(),
            count: [low, middle, high],
            encoding: width | flags,
        });
    }

    /// The descriptors, then the bytes. `before`: how many bytes of the page lie before them.
    pub(crate) fn finish(mut self, before: usize, out: &mut Vec<u8>) {
        let shift = (before + size_of_val(&self.descriptors[..])) as u32;
        for descriptor in &mut self.descriptors {
            descriptor.start += U32::new(shift);
        }
        out.extend_from_slice(self.descriptors.as_bytes());
        out.extend_from_slice(&self.bytes);
    }
}

/// The least of some values, their bits taken as signed, and how far the largest lies from it.
fn extent(values: impl Iterator<Item = u64>) -> (u64, u64) {
    let ends = values.fold(None, |ends, value| {
        let value = value.cast_signed();
        Some(ends.map_or((value, value), |(least, most): (i64, i64)| {
            (least.min(value), most.max(value))
        }))
    });
    let (least, most) = ends.unwrap_or_default();
    let (least, most) = (least.cast_unsigned(), most.cast_unsigned());
    (least, most.wrapping_sub(least))
}

/// How much the values grow from one to the next, if that is worth a try.
fn slope_of(values: &[u64]) -> Option<u32> {
    let (first, last) = (values.first()?, values.last()?);
    let steps = values.len() as u64 - 1;
    let slope = last.checked_sub(*first)?.checked_div(steps)?;
    u32::try_from(slope).ok().filter(|slope| *slope > 0)
}

fn flattened(value: u64, number: usize, slope: u32) -> u64 {
    value.wrapping_sub(u64::from(slope).wrapping_mul(number as u64))
}

/// The width of a column to be scanned, and the largest offset that is not set apart.
fn scanned_width(
    values: &[u64],
    range: u64,
    reserved: u64,
    offset: impl Fn(u64) -> Option<u64>,
) -> (usize, u64) {
    if range == 0 && reserved == 0 {
        return (0, u64::MAX);
    }
    for width in [1, 2, 4] {
        let all_ones = u64::MAX >> (64 - 8 * width);
        if range <= all_ones - reserved {
            return (width, u64::MAX);
        }
        let limit = all_ones - 2;
        let may_be_far = values.len() / 64;
        let is_far = |value: &&u64| offset(**value).is_some_and(|offset| offset > limit);
        // Where there are more, that is seen after a few.
        if values.iter().filter(is_far).nth(may_be_far).is_none() {
            return (width, limit);
        }
    }
    (8, u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(columns: Columns, number: usize) -> Vec<Option<u64>> {
        let mut page = vec![7; 3];
        let mut columns = columns;
        columns.wide();
        let n_columns = columns.descriptors.len();
        let before = page.len();
        columns.finish(before, &mut page);
        let (descriptors, _) =
            <[Descriptor]>::ref_from_prefix_with_elems(&page[before..], n_columns).unwrap();
        assert!(descriptors.iter().all(|it| it.end().unwrap() <= page.len()));
        let column = descriptors[number].column(&page);
        let keys = descriptors[n_columns - 2].column(&page);
        let values = descriptors[n_columns - 1].column(&page);
        (0..column.count)
            .map(|row| match column.value(row) {
                Value::None => None,
                Value::Some(value) => Some(value),
                Value::Wide => {
                    let key = Columns::wide_key(number, row);
                    let found = (0..keys.count).find(|at| keys.get(*at) == Some(key));
                    values.get(found.unwrap())
                }
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_column_survives(
            base in any::<u64>(),
            offsets in prop::collection::vec((any::<u64>(), 0_u8..90), 0..200),
            bits in 0_u32..64,
            slope in prop_oneof![Just(0_u64), Just(1), 0_u64..1_000_000],
            nullable in any::<bool>(),
            shape in prop_oneof![Just(Shape::Scanned), Just(Shape::Narrow)],
        ) {
            let values: Vec<_> = offsets
                .iter()
                .enumerate()
                .map(|(row, (offset, dice))| {
                    let offset = if *dice == 0 { *offset } else { offset >> bits };
                    let value = base.wrapping_add(offset).wrapping_add(slope * row as u64);
                    match dice {
                        80.. if nullable => NONE,
                        _ if nullable => value.min(NONE - 1),
                        _ => value,
                    }
                })
                .collect();
            let mut columns = Columns::default();
            columns.bytes(b"abc");
            if nullable {
                columns.some(shape, values.iter().copied());
            } else {
                columns.all(shape, values.iter().copied());
            }
            let expected: Vec<_> = values
                .iter()
                .map(|value| (!nullable || *value != NONE).then_some(*value))
                .collect();
            prop_assert_eq!(read(columns, 1), expected);
        }
    }

    #[test]
    fn one_far_value_does_not_widen_the_others() {
        let mut columns = Columns::default();
        columns.all(Shape::Scanned, (0..200).chain([u64::MAX / 3]));
        assert_eq!(columns.bytes.len(), 201);
        let mut columns = Columns::default();
        columns.all(Shape::Narrow, (0..200).map(|n| n * 57));
        assert_eq!(columns.bytes.len(), 4);
    }
}
