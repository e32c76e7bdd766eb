//! What a rule leaves of a request: two requests with the same loose hash, and with numbers that are
//! near enough, may be answered alike.

use std::cell::RefCell;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};

use super::{BodyKind, Json, SetHash, join, json, kind, name_of, pair_set, protobuf, value_of};
use crate::mock::call::{Call, normal_path};
use crate::mock::rules::{Compare, Node, Rule};

/// What is left of a request.
#[derive(Debug)]
pub(crate) struct Loose {
    /// Of everything but the authority, and but the values of `numbers`.
    pub(crate) hash: u128,
    /// What may differ by a distance, in an order that does not depend on the request's.
    pub(crate) numbers: Vec<Number>,
}

/// A number, and how far another may be away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    place: u128,
    pub(crate) value: f64,
    pub(crate) within: f64,
}

impl Loose {
    /// What this rule leaves of a call.
    pub(crate) fn of(call: &Call<'_>, rule: &Rule) -> Self {
        let ruler = Ruler::default();
        let target = call.split();
        let query = pair_set(target.query, kind::QUERY, |name, value| {
            let compare = std::str::from_utf8(name).ok();
            let compare = compare.and_then(|name| rule.query.get(name));
            ruler.text(compare, name_of(name), value)
        });
        let parts = [
            xxh3_128_with_seed(call.method, 0),
            ruler.path(target.path, rule),
            query,
            ruler.headers(call, rule),
            ruler.body(call, rule),
        ];
        let mut hash = Xxh3::new();
        for part in parts {
            hash.update(&part.to_le_bytes());
        }
        let mut numbers = ruler.numbers.into_inner();
        // Stable: elements of one array keep their order.
        numbers.sort_by_key(|number| number.place);
        Self {
            hash: hash.digest128(),
            numbers,
        }
    }
}

/// Compares, and notes the numbers that have a distance.
#[derive(Debug, Default)]
pub(super) struct Ruler {
    numbers: RefCell<Vec<Number>>,
}

impl Ruler {
    /// The hash of a named text; `None`: it does not count.
    fn text(&self, compare: Option<&Compare>, name: u128, value: &[u8]) -> Option<u128> {
        let value = match compare {
            None | Some(Compare::Equal) => value_of(value),
            Some(Compare::Ignore) => return None,
            Some(Compare::Presence) => marker(kind::PRESENT),
            Some(Compare::Type) => xxh3_128_with_seed(type_of(value).as_bytes(), kind::TYPE),
            Some(Compare::Matches(regex)) if regex.is_match(value) => marker(kind::MATCHED),
            Some(Compare::Matches(_)) => value_of(value),
            Some(Compare::Within(within)) => {
                let number = std::str::from_utf8(value).ok();
                match number.and_then(|text| text.trim().parse::<f64>().ok()) {
                    Some(number) => self.number(name, number, *within),
                    None => value_of(value),
                }
            }
        };
        Some(join(name, value, kind::PAIR))
    }

    /// Notes a number, and gives the hash of any.
    pub(super) fn number(&self, place: u128, value: f64, within: f64) -> u128 {
        self.numbers.borrow_mut().push(Number {
            place,
            value,
            within,
        });
        marker(kind::NUMBER)
    }

    fn path(&self, path: &[u8], rule: &Rule) -> u128 {
        let path = normal_path(path);
        let mut hash = Xxh3::with_seed(kind::PATH);
        for (name, segment) in rule.request.split(&path) {
            let compare = name.and_then(|name| rule.path.get(name));
            let place = name.map_or(0, |name| name_of(name.as_bytes()));
            // A segment that does not count is there all the same.
            let segment = self.text(compare, place, segment);
            hash.update(
                &segment
                    .unwrap_or_else(|| marker(kind::PRESENT))
                    .to_le_bytes(),
            );
        }
        hash.digest128()
    }

    fn headers(&self, call: &Call<'_>, rule: &Rule) -> u128 {
        let mut set = SetHash::default();
        for (name, compare) in &rule.headers {
            let hashed = name_of(name.as_bytes());
            match call.headers.get(name) {
                Some(value) => {
                    if let Some(hash) = self.text(Some(compare), hashed, value) {
                        set.add(hash);
                    }
                }
                None if matches!(compare, Compare::Ignore) => {}
                None => set.add(join(hashed, marker(kind::ABSENT), kind::PAIR)),
            }
        }
        set.finish(kind::NAME)
    }

    fn body(&self, call: &Call<'_>, rule: &Rule) -> u128 {
        let body = call.body;
        if let Some(compare) = &rule.body.compare {
            if body.is_empty() && matches!(compare, Compare::Presence) {
                return marker(kind::ABSENT);
            }
            return self.text(Some(compare), 0, body).unwrap_or(0);
        }
        let exact = || super::body(body, call.content_type);
        if body.is_empty() || (rule.body.is_empty() && rule.anywhere.is_empty()) {
            return exact();
        }
        let lens = Lens {
            ruler: self,
            rule,
            node: Some(&rule.body),
            place: 0,
        };
        let before = self.numbers.borrow().len();
        if let Some(hash) = json(body, lens) {
            return hash;
        }
        let framing = call.content_type.and_then(protobuf::Framing::of);
        if let Some(framing) = framing
            && let Some(hash) = protobuf::hash(body, framing, &rule.body, self)
        {
            return hash;
        }
        // What was noted before a mistake in the body belongs to no reading of it.
        self.numbers.borrow_mut().truncate(before);
        if call.content_type.map(BodyKind::of) == Some(BodyKind::Form) {
            return pair_set(body, kind::FORM, |name, value| {
                let compare = std::str::from_utf8(name).ok();
                let compare = compare.and_then(|name| rule.anywhere.get(name));
                self.text(compare, name_of(name), value)
            });
        }
        exact()
    }
}

/// The hash of a fact without a value.
pub(super) fn marker(kind: u64) -> u128 {
    xxh3_128_with_seed(b"", kind)
}

/// The type of a text.
fn type_of(text: &[u8]) -> &'static str {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if text.is_empty() {
        "empty"
    } else if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) {
        "integer"
    } else if digits.first().is_some_and(u8::is_ascii_digit)
        && std::str::from_utf8(text).is_ok_and(|text| text.parse::<f64>().is_ok())
    {
        "number"
    } else if is_uuid(text) {
        "uuid"
    } else {
        "text"
    }
}

/// The textual form of RFC 9562 section 4.
pub(crate) fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Reads JSON along the paths of a rule.
#[derive(Clone, Copy)]
struct Lens<'r> {
    ruler: &'r Ruler,
    rule: &'r Rule,
    /// What the rule says about this value and what is in it.
    node: Option<&'r Node>,
    /// The hash of the way here.
    place: u128,
}

impl<'r> Lens<'r> {
    fn of(self, node: Option<&'r Node>, step: u128) -> Self {
        Self {
            node,
            place: join(self.place, step, kind::NAME),
            ..self
        }
    }

    /// The hash of a value that is compared in a way of its own; `None`: it does not count.
    fn compared<'de, D: Deserializer<'de>>(
        self,
        compare: &Compare,
        deserializer: D,
    ) -> Result<Option<u128>, D::Error> {
        let value = match compare {
            Compare::Equal => return Json.deserialize(deserializer).map(Some),
            Compare::Ignore => {
                IgnoredAny::deserialize(deserializer)?;
                return Ok(None);
            }
            Compare::Presence => {
                IgnoredAny::deserialize(deserializer)?;
                return Ok(Some(marker(kind::PRESENT)));
            }
            Compare::Type | Compare::Matches(_) | Compare::Within(_) => {
                Value::deserialize(deserializer)?
            }
        };
        let exact = || Json.deserialize(&value).map_err(Error::custom);
        let hash = match compare {
            Compare::Type => xxh3_128_with_seed(json_type(&value).as_bytes(), kind::TYPE),
            Compare::Matches(regex) => {
                let matches = match &value {
                    Value::String(text) => regex.is_match(text.as_bytes()),
                    Value::Number(_) | Value::Bool(_) => {
                        regex.is_match(value.to_string().as_bytes())
                    }
                    _ => false,
                };
                if matches {
                    marker(kind::MATCHED)
                } else {
                    exact()?
                }
            }
            Compare::Within(within) => match value.as_f64() {
                Some(number) => self.ruler.number(self.place, number, *within),
                None => exact()?,
            },
            Compare::Equal | Compare::Ignore | Compare::Presence => exact()?,
        };
        Ok(Some(hash))
    }
}

const fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl<'de> DeserializeSeed<'de> for Lens<'_> {
    type Value = u128;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u128, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Lens<'_> {
    type Value = u128;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<u128, E> {
        Json.visit_unit()
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<u128, E> {
        Json.visit_bool(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u128, E> {
        Json.visit_i64(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u128, E> {
        Json.visit_u64(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<u128, E> {
        Json.visit_f64(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<u128, E> {
        Json.visit_str(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<u128, A::Error> {
        let node = self.node.and_then(|node| node.items.as_deref());
        let item = Ruled {
            lens: self.of(node, marker(kind::JSON_ARRAY)),
            compare: node.and_then(|node| node.compare.as_ref()),
        };
        let mut hash = Xxh3::with_seed(kind::JSON_ARRAY);
        while let Some(item) = items.next_element_seed(item)? {
            if let Some(item) = item {
                hash.update(&item.to_le_bytes());
            }
        }
        Ok(hash.digest128())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<u128, A::Error> {
        let mut set = SetHash::default();
        while let Some((name, value)) = members.next_key_seed(RuledName(self))? {
            if let Some(value) = members.next_value_seed(value)? {
                set.add(join(name, value, kind::PAIR));
            }
        }
        Ok(set.finish(kind::JSON_OBJECT))
    }
}

/// A value that may have a rule of its own. `None`: it does not count.
#[derive(Clone, Copy)]
struct Ruled<'r> {
    lens: Lens<'r>,
    compare: Option<&'r Compare>,
}

impl<'de> DeserializeSeed<'de> for Ruled<'_> {
    type Value = Option<u128>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.compare {
            Some(compare) => self.lens.compared(compare, deserializer),
            None => self.lens.deserialize(deserializer).map(Some),
        }
    }
}

/// The name of a member: its hash, and how the value behind it is read.
struct RuledName<'r>(Lens<'r>);

impl<'de, 'r> DeserializeSeed<'de> for RuledName<'r> {
    type Value = (u128, Ruled<'r>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'r> Visitor<'_> for RuledName<'r> {
    type Value = (u128, Ruled<'r>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        let hash = name_of(name.as_bytes());
        let lens = self.0;
        let node = lens.node.and_then(|node| node.members.get(name));
        let compare = node
            .and_then(|node| node.compare.as_ref())
            .or_else(|| lens.rule.anywhere.get(name));
        let lens = lens.of(node, hash);
        Ok((hash, Ruled { lens, compare }))
    }
}
