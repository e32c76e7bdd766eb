//! Many rows at once: which of a page's rows a test holds for.

use super::column::{Stored, Value};
use super::id;
use super::view::{Layout, Page};

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

impl NumberColumn {
    const fn id(self) -> usize {
        match self {
            Self::Time => id::TIME,
            Self::Duration => id::DURATION,
            Self::Status => id::STATUS,
            Self::RequestLen => id::REQUEST_LEN,
            Self::ResponseLen => id::RESPONSE_LEN,
            Self::Stream => id::STREAM,
        }
    }
}

impl<'a> Page<'a> {
    /// The bytes of the mapped file that [`Page::select`] compares. There are none where all rows
    /// have the same value.
    #[must_use]
    pub fn stored(&self, column: NumberColumn) -> &'a [u8] {
        self.column(column.id()).bytes
    }

    /// Which rows have a number between these two, both included: a bit for each row, the first
    /// row in the lowest bit of the first word. Compares the stored bytes of the column, at the
    /// width that they have.
    #[must_use]
    pub fn select(&self, column: NumberColumn, least: i128, most: i128) -> Vec<u64> {
        let (id, is_signed) = (column.id(), column == NumberColumn::Time);
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
        // "Wide" is stored as one below "none", also where nothing is "none".
        let reserved = if column.has_wide {
            2
        } else {
            i128::from(column.has_none)
        };
        let ceiling = i128::from(column.none()) - reserved;
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
                words_of(values, |value| {
                    let value = value.get().cast_signed();
                    (least <= value) & (value <= most)
                })
            }
            Some(_) if !wraps && high < low => vec![0; self.n_rows.div_ceil(64)],
            Some(Stored::U8(values)) if !wraps => {
                let (low, high) = (low as u8, high as u8);
                words_of(values, |value| (low <= *value) & (*value <= high))
            }
            Some(Stored::U16(values)) if !wraps => {
                let (low, high) = (low as u16, high as u16);
                words_of(values, |value| (low <= value.get()) & (value.get() <= high))
            }
            Some(Stored::U32(values)) if !wraps => {
                let (low, high) = (low as u32, high as u32);
                words_of(values, |value| (low <= value.get()) & (value.get() <= high))
            }
            Some(Stored::U64(values)) if !wraps => {
                let (low, high) = (low as u64, high as u64);
                words_of(values, |value| (low <= value.get()) & (value.get() <= high))
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

    /// Corrects the bits of rows whose value was set apart. There are few, and they lie together, so that
    /// the column itself is not looked at again.
    fn select_wide(&self, id: usize, is_between: &dyn Fn(u64) -> bool, words: &mut [u64]) {
        let column = self.column(id);
        let mut set = |row: usize| {
            if let Some(word) = words.get_mut(row / 64) {
                *word |= 1 << (row % 64);
            }
        };
        if let Layout::V1(_) = self.layout {
            let wide = (0..self.n_rows).filter(|row| column.value(*row) == Value::Wide);
            wide.filter(|row| self.number(id, *row).is_some_and(is_between))
                .for_each(set);
            return;
        }
        for (row, value) in self.wide_values(id) {
            // The table may say what it likes: it counts for rows that point to it.
            if row < self.n_rows && is_between(value) && column.value(row) == Value::Wide {
                set(row);
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

/// The same, for a test so plain that the processor puts it to many values at once: it must not branch,
/// and sees arrays of a known length, so that compilers make vectors of it.
fn words_of<T>(values: &[T], test: impl Fn(&T) -> bool) -> Vec<u64> {
    let (wholes, rest) = values.as_chunks::<64>();
    let mut words = Vec::with_capacity(values.len().div_ceil(64));
    words.extend(wholes.iter().map(|values| {
        let mut flags = [0_u8; 64];
        for (flag, value) in flags.iter_mut().zip(values) {
            *flag = u8::from(test(value));
        }
        word_of(&flags)
    }));
    if !rest.is_empty() {
        let mut flags = [0_u8; 64];
        for (flag, value) in flags.iter_mut().zip(rest) {
            *flag = u8::from(test(value));
        }
        words.push(word_of(&flags));
    }
    words
}

/// The low bits of 64 bytes, that of the first in the lowest.
fn word_of(flags: &[u8; 64]) -> u64 {
    let (parts, _) = flags.as_chunks::<16>();
    parts
        .iter()
        .rev()
        .fold(0, |word, flags| word << 16 | low_bits(flags))
}

/// The low bits of 16 bytes, that of the first in the lowest.
#[cfg(target_arch = "x86_64")]
fn low_bits(flags: &[u8; 16]) -> u64 {
    use std::arch::x86_64::{_mm_movemask_epi8, _mm_set_epi64x, _mm_slli_epi16};

    let flags = u128::from_le_bytes(*flags);
    #[expect(
        unsafe_code,
        reason = "one instruction in place of many that a filter is made of, and none gives it safely"
    )]
    // SAFETY: these need SSE2, which every x86-64 has, and touch no memory.
    let bits = unsafe {
        let flags = _mm_set_epi64x((flags >> 64) as i64, flags as i64);
        _mm_movemask_epi8(_mm_slli_epi16::<7>(flags))
    };
    u64::from(bits.cast_unsigned())
}

/// The low bits of 16 bytes, that of the first in the lowest. The factor moves bit 8*n* to 56 + *n*, and no two
/// sums of places meet, so that nothing is carried.
#[cfg(not(target_arch = "x86_64"))]
fn low_bits(flags: &[u8; 16]) -> u64 {
    let (eights, _) = flags.as_chunks::<8>();
    eights.iter().rev().fold(0, |bits, flags| {
        bits << 8 | u64::from_le_bytes(*flags).wrapping_mul(0x0102_0408_1020_4080) >> 56
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_low_bits_of_any_flags_are_gathered() {
        for bits in 0..=u16::MAX {
            let flags = std::array::from_fn(|n| (bits >> n & 1) as u8);
            assert_eq!(low_bits(&flags), u64::from(bits));
        }
        let flags = std::array::from_fn(|n| u8::from(n % 3 == 0));
        let expected = (0..64)
            .filter(|n| n % 3 == 0)
            .fold(0, |all, n| all | 1 << n);
        assert_eq!(word_of(&flags), expected);
    }

    #[test]
    fn a_bit_stands_for_its_value() {
        let values: Vec<u16> = (0..1000).map(|n| n * 31 % 97).collect();
        for len in [0, 1, 63, 64, 65, 200, 1000] {
            let values = &values[..len];
            let expected = bits(len, |row| values[row] < 40);
            assert_eq!(words_of(values, |value| *value < 40), expected);
        }
    }
}
