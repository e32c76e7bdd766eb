//! Sizes and ages as people write them in a configuration: `256MiB`, `5m`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes: a number, or one with a unit (`B`, `KiB`, `MiB`, `GiB`, `TiB`).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Size(pub u64);

/// A duration in whole milliseconds: a number with a unit (`ms`, `s`, `m`, `h`, `d`).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Age(Duration);

const SIZES: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// In milliseconds. `ms` before those that end like it.
const AGES: [(&str, u64); 5] = [
    ("ms", 1),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
];

impl Age {
    /// That many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// As a duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

/// A whole number and the factor of the unit behind it.
fn number(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let (digits, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))?;
    digits.trim_end().parse::<u64>().ok()?.checked_mul(factor)
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        number(text, &SIZES)
            .or_else(|| text.trim().parse().ok())
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no size; examples: 64KiB, 256MiB, 10GiB"))
    }
}

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        number(text, &AGES)
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| format!("`{text}` is no duration; examples: 500ms, 30s, 5m, 12h, 7d"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZES
            .iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let mut units: Vec<_> = AGES.to_vec();
        units.sort_by_key(|(_, factor)| std::cmp::Reverse(*factor));
        let (unit, factor) = units
            .iter()
            .find(|(_, factor)| millis >= *factor && millis.is_multiple_of(*factor))
            .unwrap_or(&("ms", 1));
        write!(f, "{}{unit}", millis / factor)
    }
}

/// Reads a text, or a plain number as the text of it.
fn from_text<'de, T: FromStr<Err = String>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Text;

    impl de::Visitor<'_> for Text {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number with a unit")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }

    let text = deserializer.deserialize_any(Text)?;
    text.parse().map_err(de::Error::custom)
}

macro_rules! quantity {
    ($type:ident, $pattern:literal, $description:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                from_text(deserializer)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": ["string", "integer"],
                    "pattern": $pattern,
                    "description": $description,
                })
            }
        }
    };
}

quantity!(
    Size,
    r"^\s*[0-9]+\s*(B|KiB|MiB|GiB|TiB)?\s*$",
    "A number of bytes, such as 64KiB, 256MiB or 10GiB."
);
quantity!(
    Age,
    r"^\s*[0-9]+\s*(ms|s|m|h|d)\s*$",
    "A duration, such as 500ms, 30s, 5m, 12h or 7d."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_read_and_printed() {
        for (text, bytes) in [("0B", 0), ("17B", 17), ("64KiB", 65_536), ("3GiB", 3 << 30)] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(" 4 MiB ".parse(), Ok(Size(4 << 20)));
        assert_eq!("1024".parse(), Ok(Size(1024)));
        for (text, millis) in [
            ("5ms", 5),
            ("30s", 30_000),
            ("5m", 300_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(text.parse(), Ok(Age(Duration::from_millis(millis))));
            assert_eq!(Age(Duration::from_millis(millis)).to_string(), text);
        }
        for wrong in ["", "MiB", "1.5MiB", "-1B", "1MB", "99999999TiB", "1 2B"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
        for wrong in ["", "5", "s", "1.5h", "-1s", "1w", "99999999999999999d"] {
            assert!(wrong.parse::<Age>().is_err(), "{wrong}");
        }
    }
}
