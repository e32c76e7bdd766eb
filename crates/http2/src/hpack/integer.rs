//! Integers with a prefix (RFC 7541 section 5.1).

/// Reads an integer whose first octet is `first`, of which the low `prefix` bits belong to it.
///
/// `None`: the bytes end within it, or it does not fit. Continuation octets beyond the fifth are
/// refused even when they add nothing: an encoder has no reason for them, and a million of them
/// would be a cheap way to keep a reader busy.
pub(crate) fn read(first: u8, prefix: u32, bytes: &mut &[u8]) -> Option<u32> {
    let mask = (1_u32 << prefix) - 1;
    let start = u32::from(first) & mask;
    if start < mask {
        return Some(start);
    }
    let mut value = u64::from(start);
    for shift in [0, 7, 14, 21, 28] {
        let (&octet, rest) = bytes.split_first()?;
        *bytes = rest;
        value += u64::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return u32::try_from(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prefix: u32, bytes: &[u8], expect: Option<(u32, usize)>) {
        let (first, mut rest) = bytes.split_first().unwrap();
        let value = read(*first, prefix, &mut rest);
        assert_eq!(value.map(|value| (value, rest.len())), expect);
    }

    #[test]
    fn examples_of_the_rfc() {
        check(5, &[0b1110_1010], Some((10, 0)));
        check(5, &[0b0001_1111, 0x9a, 0x0a], Some((1337, 0)));
        check(8, &[42, 7], Some((42, 1)));
    }

    #[test]
    fn ends_and_overflows() {
        check(7, &[0x7f], None);
        check(7, &[0x7f, 0x80], None);
        check(7, &[0x7f, 0], Some((127, 0)));
        check(
            5,
            &[0x1f, 0xe0, 0xff, 0xff, 0xff, 0x0f],
            Some((u32::MAX, 0)),
        );
        check(5, &[0x1f, 0xe1, 0xff, 0xff, 0xff, 0x0f], None);
        check(5, &[0x1f, 0xff, 0xff, 0xff, 0xff, 0x7f], None);
        check(5, &[0x1f, 0x80, 0x80, 0x80, 0x80, 0x80, 0], None);
        check(5, &[0x1f, 0x80, 0x80, 0x80, 0x80, 0], Some((31, 0)));
    }
}
