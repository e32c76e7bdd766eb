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
#[derive(Clone, Debug, Default)]
pub(crate) struct Values(Vec<u64>);

impl Values {
    pub(crate) fn push(&mut self, value: u64) {
        self.0.push(value);
    }

    pub(crate) fn extend(&mut self, values: impl Iterator<Item = u64>) {
        self.0.extend(values);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn set(&mut self, number: usize, value: u64) {
        if let Some(place) = self.0.get_mut(number) {
            *place = value;
        }
    }

    /// The column; no values are left.
    ///
    /// The base is the least value with its bits taken as signed: a few steps backwards among many
    /// small ones forwards do not widen the column. Sums wrap.
    pub(crate) fn pack(&mut self) -> Packed {
        let Some((first, rest)) = self.0.split_first() else {
            return Packed::default();
        };
        let (mut base, mut width) = (*first, 0);
        // Most columns do not vary, which is seen sooner than how much they do.
        if rest.iter().any(|value| value != first) {
            let (least, most) = self.0.iter().fold((i64::MAX, i64::MIN), |ends, value| {
                let value = value.cast_signed();
                (ends.0.min(value), ends.1.max(value))
            });
            base = least.cast_unsigned();
            width = bytes_of(most.cast_unsigned().wrapping_sub(base));
        }
        let mut bytes = Vec::new();
        put(
            &mut bytes,
            width,
            self.0.iter().map(|value| value.wrapping_sub(base)),
        );
        self.0.clear();
        Packed {
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
        _ => {
            let start = bytes.len();
            let end = start + numbers.len() * width;
            // Each is written in full, and the next one over what is too much of it.
            bytes.resize(end + 8, 0);
            let places = (start..end).step_by(width);
            for (place, number) in places.zip(numbers) {
                if let Some(room) = bytes.get_mut(place..place + 8) {
                    room.copy_from_slice(&number.to_le_bytes());
                }
            }
            bytes.truncate(end);
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
        let base = self.base.to_native();
        let bytes = self.bytes.as_slice();
        let offset = match self.width {
            0 => 0,
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
        };
        base.wrapping_add(offset)
    }

    /// The sum of `len` values.
    pub(crate) fn sum(&self, start: usize, len: usize) -> u64 {
        let base = self.base.to_native().wrapping_mul(len as u64);
        let bytes = self.bytes.as_slice();
        let offsets = match self.width {
            0 => 0,
            1 => bytes
                .get(start..start + len)
                .unwrap_or_default()
                .iter()
                .map(|byte| u64::from(*byte))
                .sum(),
            _ => (start..start + len).fold(0_u64, |sum, number| {
                sum.wrapping_add(self.get(number).wrapping_sub(self.base.to_native()))
            }),
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

    fn packed(values: &[u64]) -> rkyv::util::AlignedVec {
        let packed = Values(values.to_vec()).pack();
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
            prop_assert_eq!(found.sum(0, values.len()), sum);
        }
    }

    #[test]
    fn what_does_not_vary_takes_no_bytes_and_steps_back_are_short() {
        assert_eq!(Values(vec![7; 100]).pack().bytes.len(), 0);
        assert_eq!(Values(vec![0, u64::MAX, 1]).pack().bytes.len(), 3);
        assert_eq!(Values(vec![1000, 1300]).pack().bytes.len(), 4);
    }
}
