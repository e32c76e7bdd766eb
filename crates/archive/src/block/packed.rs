//! Integers, each in as few bytes as the farthest of them needs.

use rkyv::{Archive, Serialize};

/// A column of a block: `base + n`, with every `n` in the same number of bytes, little endian. A
/// column whose values are all the same has no bytes at all.
#[derive(Archive, Clone, Debug, Default, Serialize)]
#[rkyv(derive(Debug))]
pub(crate) struct Packed {
    base: u64,
    bytes: Vec<u8>,
    /// 0 to 8.
    width: u8,
}

/// Values on their way into a [`Packed`].
///
/// Most columns do not vary: such a one is its value, and how often it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    first: u64,
    /// How many values came, while all of them are the same.
    same: usize,
    /// All values, once they are not.
    all: Vec<u64>,
}

impl Values {
    pub(crate) fn push(&mut self, value: u64) {
        if self.is_same(value) {
            self.first = value;
            self.same += 1;
        } else {
            self.vary();
            self.all.push(value);
        }
    }

    /// Adds a value some times.
    pub(crate) fn repeat(&mut self, value: u64, times: usize) {
        if self.is_same(value) {
            self.first = value;
            self.same += times;
        } else {
            self.vary();
            self.all.resize(self.all.len() + times, value);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.same.max(self.all.len())
    }

    pub(crate) fn set(&mut self, number: usize, value: u64) {
        if number < self.same && value != self.first {
            self.vary();
        }
        if let Some(place) = self.all.get_mut(number) {
            *place = value;
        }
    }

    /// All values, where they are not all the same; else the value, and how often it came.
    pub(crate) fn as_slice(&self) -> Result<&[u64], (u64, usize)> {
        if self.all.is_empty() {
            Err((self.first, self.same))
        } else {
            Ok(&self.all)
        }
    }

    /// No values are left. The memory is used again.
    pub(crate) fn clear(&mut self) {
        self.same = 0;
        self.all.clear();
    }

    /// Whether all values are the same, this one, too.
    fn is_same(&self, value: u64) -> bool {
        self.all.is_empty() && (self.same == 0 || self.first == value)
    }

    fn vary(&mut self) {
        if self.same > 0 {
            self.all.resize(self.same, self.first);
            self.same = 0;
        }
    }

    /// The column; no values are left.
    ///
    /// The base is the least value with its bits taken as signed: a few steps backwards among many
    /// small ones forwards do not widen the column. Sums wrap.
    pub(crate) fn pack(&mut self) -> Packed {
        let packed = match self.as_slice() {
            Err((_, 0)) => Packed::default(),
            Err((value, _)) => Packed::new(std::iter::empty(), value, 0),
            Ok(all) => {
                let (least, most) = all.iter().fold((i64::MAX, i64::MIN), |ends, value| {
                    let value = value.cast_signed();
                    (ends.0.min(value), ends.1.max(value))
                });
                let (least, most) = (least.cast_unsigned(), most.cast_unsigned());
                Packed::new(all.iter().copied(), least, most.wrapping_sub(least))
            }
        };
        self.clear();
        packed
    }
}

/// Lengths on their way into `N` columns: there are many, they are short, and they vary.
#[derive(Clone, Debug)]
pub(crate) struct Lengths<const N: usize>(Vec<[u32; N]>);

impl<const N: usize> Default for Lengths<N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<const N: usize> Lengths<N> {
    pub(crate) fn extend(&mut self, lengths: impl ExactSizeIterator<Item = [u32; N]>) {
        self.0.extend(lengths);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The columns; no lengths are left.
    pub(crate) fn pack(&mut self) -> [Packed; N] {
        let mut ends = [(u32::MAX, 0); N];
        for lengths in &self.0 {
            for ((least, most), length) in ends.iter_mut().zip(lengths) {
                *least = (*least).min(*length);
                *most = (*most).max(*length);
            }
        }
        let packed = std::array::from_fn(|column| {
            let (least, most) = ends.get(column).copied().unwrap_or_default();
            let values = self.0.iter().map(|lengths| lengths.get(column).copied());
            match most.checked_sub(least) {
                Some(range) => Packed::new(
                    values.map(|length| length.unwrap_or(0).into()),
                    least.into(),
                    range.into(),
                ),
                None => Packed::default(),
            }
        });
        self.0.clear();
        packed
    }
}

impl Packed {
    /// These values, the farthest of which lies `range` from the base.
    fn new(values: impl ExactSizeIterator<Item = u64>, base: u64, range: u64) -> Self {
        let width = bytes_of(range);
        let mut bytes = Vec::new();
        put(
            &mut bytes,
            width,
            values.map(|value| value.wrapping_sub(base)),
        );
        Self {
            base,
            bytes,
            width: width as u8,
        }
    }
}

/// Appends numbers, each in its low `width` bytes, at most 8.
pub(crate) fn put(bytes: &mut Vec<u8>, width: usize, numbers: impl ExactSizeIterator<Item = u64>) {
    match width {
        0 => {}
        1 => bytes.extend(numbers.map(|number| number as u8)),
        2 => put_each::<2>(bytes, numbers),
        3 => put_each::<3>(bytes, numbers),
        4 => put_each::<4>(bytes, numbers),
        5 => put_each::<5>(bytes, numbers),
        6 => put_each::<6>(bytes, numbers),
        7 => put_each::<7>(bytes, numbers),
        _ => put_each::<8>(bytes, numbers),
    }
}

fn put_each<const WIDTH: usize>(bytes: &mut Vec<u8>, numbers: impl ExactSizeIterator<Item = u64>) {
    let start = bytes.len();
    bytes.resize(start + numbers.len() * WIDTH, 0);
    let room = bytes.get_mut(start..).unwrap_or_default();
    let (places, _) = room.as_chunks_mut::<WIDTH>();
    for (place, number) in places.iter_mut().zip(numbers) {
        if let Some((low, _)) = number.to_le_bytes().split_first_chunk() {
            *place = *low;
        }
    }
}

/// How many bytes a number needs.
pub(crate) const fn bytes_of(number: u64) -> usize {
    (64 - number.leading_zeros() as usize).div_ceil(8)
}

impl ArchivedPacked {
    /// Whether there are `len` values.
    pub(crate) fn has(&self, len: usize) -> bool {
        self.width <= 8 && len.checked_mul(self.width.into()) == Some(self.bytes.len())
    }

    /// A value; the base for one that is not there, which [`ArchivedPacked::has`] rules out.
    pub(crate) fn get(&self, number: usize) -> u64 {
        self.column().get(number)
    }

    /// The column, for those who read many of its values.
    pub(crate) fn column(&self) -> Column<'_> {
        Column {
            base: self.base.to_native(),
            bytes: self.bytes.as_slice(),
            width: self.width,
        }
    }
}

/// A column of a block, where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column<'a> {
    base: u64,
    bytes: &'a [u8],
    width: u8,
}

impl Column<'_> {
    /// As [`ArchivedPacked::get`].
    #[inline]
    pub(crate) fn get(&self, number: usize) -> u64 {
        // Most columns do not vary.
        if self.width == 0 {
            return self.base;
        }
        self.base.wrapping_add(self.offset(number))
    }

    fn offset(&self, number: usize) -> u64 {
        let bytes = self.bytes;
        match self.width {
            1 => bytes.get(number).copied().unwrap_or(0).into(),
            2 => bytes
                .as_chunks::<2>()
                .0
                .get(number)
                .map_or(0, |bytes| u16::from_le_bytes(*bytes).into()),
            4 => bytes
                .as_chunks::<4>()
                .0
                .get(number)
                .map_or(0, |bytes| u32::from_le_bytes(*bytes).into()),
            width => {
                let start = number * usize::from(width);
                little_endian(
                    bytes
                        .get(start..start + usize::from(width))
                        .unwrap_or_default(),
                )
            }
        }
    }

    /// The sum of `len` values.
    #[inline]
    pub(crate) fn sum(&self, start: usize, len: usize) -> u64 {
        let base = self.base.wrapping_mul(len as u64);
        let offsets = match self.width {
            0 => 0,
            1 => self
                .bytes
                .get(start..start + len)
                .unwrap_or_default()
                .iter()
                .map(|byte| u64::from(*byte))
                .sum(),
            _ => (start..start + len)
                .fold(0_u64, |sum, number| sum.wrapping_add(self.offset(number))),
        };
        base.wrapping_add(offsets)
    }
}

/// A number of up to eight bytes.
pub(crate) fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rkyv::rancor::Failure;

    use super::*;

    fn of(values: &[u64]) -> Values {
        let mut all = Values::default();
        values.iter().for_each(|value| all.push(*value));
        all
    }

    fn packed(values: &[u64]) -> rkyv::util::AlignedVec {
        let packed = of(values).pack();
        rkyv::to_bytes::<Failure>(&packed).unwrap()
    }

    proptest! {
        #[test]
        fn any_values_survive(
            base in any::<u64>(),
            offsets in prop::collection::vec(any::<u64>(), 0..50),
            bits in 0_u32..64,
        ) {
            let values: Vec<_> = offsets
                .iter()
                .map(|offset| base.wrapping_add(offset >> bits))
                .collect();
            let bytes = packed(&values);
            let found = rkyv::access::<ArchivedPacked, Failure>(&bytes).unwrap();
            prop_assert!(found.has(values.len()));
            for (number, value) in values.iter().enumerate() {
                prop_assert_eq!(found.get(number), *value);
            }
            let sum = values.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value));
            prop_assert_eq!(found.column().sum(0, values.len()), sum);
        }
    }

    #[test]
    fn what_does_not_vary_takes_no_bytes_and_steps_back_are_short() {
        assert_eq!(of(&[7; 100]).pack().bytes.len(), 0);
        assert_eq!(of(&[0, u64::MAX, 1]).pack().bytes.len(), 3);
        assert_eq!(of(&[1000, 1300]).pack().bytes.len(), 4);
    }

    #[test]
    fn values_that_are_the_same_for_a_while_are_all_there() {
        let mut values = Values::default();
        values.repeat(7, 3);
        values.push(7);
        assert_eq!(values.as_slice(), Err((7, 4)));
        values.set(1, 7);
        assert_eq!(values.len(), 4);
        values.set(2, 9);
        values.repeat(8, 2);
        values.repeat(8, 0);
        assert_eq!(values.as_slice(), Ok(&[7, 7, 9, 7, 8, 8][..]));
        assert_eq!(values.len(), 6);
        values.set(6, 1);
        values.clear();
        assert_eq!((values.len(), values.pack().bytes.len()), (0, 0));
        values.push(5);
        assert_eq!(values.as_slice(), Err((5, 1)));
    }

    #[test]
    fn lengths_are_as_narrow_as_they_can_be() {
        for (most, width) in [(3, 0), (258, 1), (259, 2), (u32::MAX, 4)] {
            let mut lengths = Lengths::default();
            lengths.extend([[3, 9], [most, 9], [3, 9]].into_iter());
            let [first, second] = lengths.pack();
            let bytes = rkyv::to_bytes::<Failure>(&first).unwrap();
            let found = rkyv::access::<ArchivedPacked, Failure>(&bytes).unwrap();
            assert_eq!((found.get(0), found.get(1)), (3, most.into()));
            assert_eq!(usize::from(found.width), width);
            assert_eq!((second.base, second.width), (9, 0));
        }
        let [none] = Lengths::<1>::default().pack();
        assert_eq!((none.base, none.bytes.len()), (0, 0));
    }
}
