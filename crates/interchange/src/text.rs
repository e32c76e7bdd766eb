//! Bytes of the wire as text for people.

use std::borrow::Cow;

use tapedeck_model::Timestamp;

/// A header value as text: UTF-8 where it is that, else ISO 8859-1, which HTTP used before
/// (RFC 9110 section 5.5), so that no byte is lost.
#[must_use]
pub fn header_text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect()),
    }
}

/// A point in time as RFC 3339 has it, in UTC, with nanoseconds: always 30 characters for the
/// years 1678 to 2262 that a [`Timestamp`] can hold.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(at.as_nanos())) {
        Ok(at) => format!("{at:.9}"),
        Err(_) => format!("{at:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nine_digits() {
        assert_eq!(rfc3339(Timestamp::EPOCH), "1970-01-01T00:00:00.000000000Z");
        let at = Timestamp::from_nanos(1_700_000_000_000_000_001);
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20.000000001Z");
        assert_eq!(rfc3339(Timestamp::MAX).len(), 30);
        assert_eq!(rfc3339(Timestamp::from_nanos(i64::MIN)).len(), 30);
    }

    #[test]
    fn no_byte_of_a_header_is_lost() {
        assert_eq!(header_text("Zürich".as_bytes()), "Zürich");
        assert_eq!(header_text(b"Z\xfcrich"), "Zürich");
    }
}
