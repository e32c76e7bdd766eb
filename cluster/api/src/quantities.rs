//! Sizes and spans of time, as people write them in YAML.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A number of bytes: `1048576`, `64Mi`, `2G`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

/// A span of time: `30s`, `15m`, `24h`, `7d`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

/// Why a text is no such quantity.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is no {what}: a whole number with one of {units}")]
pub struct ParseQuantityError {
    text: String,
    what: &'static str,
    units: &'static str,
}

const SIZES: [(&str, u64); 8] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

const SPANS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

/// Longest first, so that `Ki` is not read as `i` behind a `K`; digits are few enough for no value
/// to overflow what it is multiplied with.
const SIZE_PATTERN: &str = "^[0-9]{1,6}([0-9]{0,9}|Ki|Mi|Gi|Ti|k|M|G|T)$";
const SPAN_PATTERN: &str = "^[0-9]{1,8}[smhd]$";

fn parse(text: &str, units: &[(&str, u64)], bare: Option<u64>) -> Option<u64> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at_checked(end)?;
    let factor = match unit {
        "" => bare?,
        unit => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// In the largest unit that divides it.
fn write(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)], bare: &str) -> fmt::Result {
    let unit = units
        .iter()
        .rev()
        .find(|(_, factor)| value != 0 && value.is_multiple_of(*factor));
    match unit {
        Some((name, factor)) => write!(f, "{}{name}", value / factor),
        None => write!(f, "{value}{bare}"),
    }
}

impl FromStr for Size {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, &SIZES, Some(1))
            .map(Self)
            .ok_or_else(|| ParseQuantityError {
                text: text.to_owned(),
                what: "size",
                units: "Ki, Mi, Gi, Ti, k, M, G, T, or none",
            })
    }
}

impl FromStr for Span {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = parse(text, &SPANS, None);
        seconds
            .map(|seconds| Self(Duration::from_secs(seconds)))
            .ok_or_else(|| ParseQuantityError {
                text: text.to_owned(),
                what: "span of time",
                units: "s, m, h, d",
            })
    }
}

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0, SIZES.get(..4).unwrap_or(&SIZES), "")
    }
}

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0.as_secs(), &SPANS, "s")
    }
}

impl TryFrom<String> for Size {
    type Error = ParseQuantityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for Span {
    type Error = ParseQuantityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": SIZE_PATTERN, "maxLength": 16 })
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": SPAN_PATTERN, "maxLength": 9 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_and_written() {
        for (text, bytes, written) in [
            ("0", 0, "0"),
            ("1048576", 1 << 20, "1Mi"),
            ("64Mi", 64 << 20, "64Mi"),
            ("2G", 2_000_000_000, "1953125Ki"),
            ("1500", 1500, "1500"),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string(), written);
            assert_eq!(written.parse(), Ok(Size(bytes)));
        }
        for (text, seconds, written) in [
            ("90s", 90, "90s"),
            ("60m", 3600, "1h"),
            ("7d", 604_800, "7d"),
        ] {
            let span = Span(Duration::from_secs(seconds));
            assert_eq!(text.parse(), Ok(span));
            assert_eq!(span.to_string(), written);
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "",
            "-1",
            "1.5Gi",
            "10 Mi",
            "Mi",
            "1Pi",
            "18446744073709551615Ti",
            "١",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["", "10", "1h30m", "s", "1w", "99999999999999999999s"] {
            let error = text.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains("one of s, m, h, d"), "{error}");
        }
    }
}
