//! Durations as k6 writes them.

use std::time::Duration;

/// Numbers with units in a row (`1m30s`, `1d12h`, `500ms`); a bare number counts milliseconds.
/// `None`: it is no duration.
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
        return Duration::try_from_secs_f64(millis / 1e3).ok();
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, behind) = rest.split_at(digits);
        let (unit, factor) = UNITS.iter().find(|(unit, _)| behind.starts_with(unit))?;
        seconds += number(value)? * factor;
        rest = behind.strip_prefix(unit)?;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// Digits and a point: no sign, no exponent, no name of a number.
fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    plain.then(|| text.parse().ok())?
}
