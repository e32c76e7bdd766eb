//! Distributions as text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};
use serde::{Deserialize, Serialize};

/// A distribution of durations as it stands in a file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrendState {
    /// The counts: HdrHistogram's V2 encoding in base64, as its other implementations read it.
    pub(crate) histogram: String,
    /// All values added up, in nanoseconds; as text, because 64 bits may be too few.
    pub(crate) sum_ns: String,
    pub(crate) min_ns: u64,
    pub(crate) max_ns: u64,
}

/// Cookie, length, offset, digits, bounds, ratio.
const HEADER: usize = 40;
/// The length of the counts, which is the only part of the header that differs between two
/// histograms of the same bounds.
const LENGTH: std::ops::Range<usize> = 4..8;

pub(crate) fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2Serializer::new()
        .serialize(histogram, &mut bytes)
        .expect("a Vec takes every write, and our counts fit");
    STANDARD.encode(bytes)
}

/// Reads a histogram with the bounds of `empty`. Nothing else gets to the library's reader: it takes
/// memory as the header says, and negates what it finds.
pub(crate) fn decode(text: &str, empty: &Histogram<u64>) -> Result<Histogram<u64>, &'static str> {
    let bytes = STANDARD.decode(text).map_err(|_| "it is not base64")?;
    let mut expected = Vec::new();
    V2Serializer::new()
        .serialize(empty, &mut expected)
        .map_err(|_| "its bounds cannot be written")?;
    let (Some(header), Some(counts)) = (bytes.get(..HEADER), bytes.get(HEADER..)) else {
        return Err("it is too short");
    };
    let length = header.get(LENGTH).and_then(|length| length.try_into().ok());
    if length.map(u32::from_be_bytes) != u32::try_from(counts.len()).ok() {
        return Err("its length is not what it says");
    }
    let same = |range: std::ops::Range<usize>| header.get(range.clone()) == expected.get(range);
    if !same(0..LENGTH.start) || !same(LENGTH.end..HEADER) {
        return Err("it has other bounds");
    }
    check_runs(counts, empty.distinct_values())?;
    Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|_| "its counts cannot be read")
}

/// Walks over the counts (ZigZag LEB128 of at most nine bytes; what is negative stands for so many
/// zeros) and sees that they do not lead out of the histogram.
fn check_runs(counts: &[u8], places: usize) -> Result<(), &'static str> {
    let places = places as u64;
    let mut place = 0_u64;
    let mut bytes = counts.iter();
    while bytes.len() > 0 {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte = *bytes.next().ok_or("its last count is cut")?;
            if shift == 56 {
                value |= u64::from(byte) << shift;
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
        }
        let (is_run, half) = (value & 1 == 1, value >> 1);
        // ZigZag: odd numbers are the negative ones, -1 first.
        let step = if is_run { half.saturating_add(1) } else { 1 };
        place = place.saturating_add(step);
        if place > places {
            return Err("it has more counts than its bounds allow");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Histogram<u64> {
        Histogram::new_with_bounds(100, 3_600_000_000_000, 2).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut histogram = empty();
        assert_eq!(decode(&encode(&histogram), &empty()).unwrap(), histogram);
        for n in 0..5000_u64 {
            histogram.record_n(n * n * 113 + 1, n % 7 + 1).unwrap();
        }
        histogram.record_n(3_600_000_000_000, 1 << 40).unwrap();
        let read = decode(&encode(&histogram), &empty()).unwrap();
        assert_eq!(read, histogram);
        assert_eq!(read.len(), histogram.len());
    }

    #[test]
    fn what_a_stranger_wrote_takes_no_memory_and_never_panics() {
        let mut histogram = empty();
        histogram.record_n(5000, 3).unwrap();
        let whole = STANDARD.decode(encode(&histogram)).unwrap();
        let read = |bytes: &[u8]| decode(&STANDARD.encode(bytes), &empty());
        assert!(read(&whole).is_ok());
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "{cut}");
        }
        for at in 0..HEADER {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            assert!(read(&damaged).is_err(), "{at}");
        }
        // The smallest number there is, which has no opposite; a count beyond the end; one that has
        // no end.
        for counts in [&[0xff; 9][..], &[0xff, 0xff, 0xff, 0xff, 0x0f, 2], &[0x80]] {
            let mut bytes = whole[..HEADER].to_vec();
            bytes[LENGTH].copy_from_slice(&u32::try_from(counts.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(counts);
            assert!(read(&bytes).is_err(), "{counts:?}");
        }
        assert!(decode("no base64 !", &empty()).is_err());
    }
}
