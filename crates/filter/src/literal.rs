//! Durations and timestamps as CEL writes them.

use jiff::Timestamp;

/// Nanoseconds of `500ms`, `1.5h`, `1h30m`, `-2s`.
pub(crate) fn duration(text: &str) -> Option<i128> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(number_len)?;
        let unit_len = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_len)?;
        let nanos: i128 = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        // A duration of more digits than this is beyond any clock.
        if whole.len() > 15
            || fraction.len() > 15
            || number.len() < 1 + usize::from(fraction.is_empty() && number.contains('.'))
        {
            return None;
        }
        let parse = |digits: &str| {
            if digits.is_empty() {
                Some(0)
            } else {
                digits.parse::<i128>().ok()
            }
        };
        let scale = 10_i128.pow(fraction.len() as u32);
        total += parse(whole)? * nanos + parse(fraction)? * nanos / scale;
        rest = tail;
    }
    (!text.is_empty() && text != "-").then_some(sign * total)
}

/// Nanoseconds since the Unix epoch of an RFC 3339 timestamp.
pub(crate) fn timestamp(text: &str) -> Option<i128> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_nanosecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("500ms", Some(500_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("-2us", Some(-2_000)),
            (".5s", Some(500_000_000)),
            ("0", Some(0)),
            ("", None),
            ("-", None),
            ("5", None),
            ("ms", None),
            (".s", None),
            ("1..5s", None),
            ("5 s", None),
            ("5 minutes", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn timestamps() {
        assert_eq!(timestamp("1970-01-01T00:00:01.5Z"), Some(1_500_000_000));
        assert_eq!(timestamp("1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(timestamp("yesterday"), None);
    }
}
