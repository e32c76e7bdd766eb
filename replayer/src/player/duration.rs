//! Durations as k6 writes them.

use std::time::Duration;

/// The longest: whatever is added to it, and to now, the clock still tells.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Numbers with units in a row (`1m30s`, `1d12h`, `500ms`); a bare number counts milliseconds.
/// `None`: it is no duration, or longer than 100 years.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    /// Longer units first where one begins like another.
    const UNITS: [(&str, f64); 8] = [
        ("ms", 1e-3),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ns", 1e-9),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
        ("d", 86400.0),
    ];
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    if let Some(millis) = number(rest) {
        return not_too_long(millis / 1e3);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, behind) = rest.split_at(digits);
        let (unit, factor) = UNITS.iter().find(|(unit, _)| behind.starts_with(unit))?;
        seconds += number(value)? * factor;
        rest = behind.strip_prefix(unit)?;
    }
    not_too_long(seconds)
}

fn not_too_long(seconds: f64) -> Option<Duration> {
    let duration = Duration::try_from_secs_f64(seconds).ok()?;
    (duration <= LONGEST).then_some(duration)
}

/// Digits and a point: no sign, no exponent, no name of a number.
fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    plain.then(|| text.parse().ok())?
}

/// A duration as a person would write it: `1m30s`, `250ms`.
pub(crate) fn show(duration: Duration) -> String {
    const PARTS: [(&str, u128); 5] = [
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
    ];
    let mut left = duration.as_nanos();
    let mut text = String::new();
    for (unit, nanos) in PARTS {
        let n = left / nanos;
        left %= nanos;
        if n > 0 {
            text.push_str(&format!("{n}{unit}"));
        }
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_k6() {
        for (text, millis) in [
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1d12h", 36 * 3_600_000),
            ("1500", 1500),
            ("1.5s", 1500),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1 s", "1x", "inf", "1e3", "1s2"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn nothing_is_longer_than_a_hundred_years() {
        let years = |n: u64| Some(Duration::from_secs(n * 365 * 86_400));
        assert_eq!(parse("36500d"), years(100));
        assert_eq!(parse("3153600000000"), years(100));
        for text in [
            "36500d1s",
            "3153600001000",
            "99999999999999999999d",
            "300000000000h",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_what_is_read() {
        for text in ["1h2m3s", "250ms", "1s500ms", "26h", "0s", "7us"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
    }
}
