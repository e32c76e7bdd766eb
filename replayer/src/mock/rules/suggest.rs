//! Finds volatile fields: what differs in every request of a kind, and looks made up for it.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Write as _};

use serde_json::Value;
use tapedeck_model::path_template;
use xxhash_rust::xxh3::xxh3_64;

use crate::mock::call::{Call, pairs};
use crate::mock::fingerprint::{BodyKind, is_uuid};

/// A rule for one kind of request, that recorded requests suggest.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Suggestion {
    /// Which requests, as a rules file names them.
    pub request: String,
    /// How many were recorded.
    pub requests: u64,
    /// Query parameters.
    pub query: Vec<Volatile>,
    /// Places in bodies.
    pub body: Vec<Volatile>,
}

/// A field that differs from request to request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Volatile {
    /// Its name, or its place.
    pub name: String,
    /// How it should be compared: `type` or `presence`.
    pub compare: &'static str,
    /// In how many requests it was.
    pub seen: u64,
}

/// As a rule of a rules file.
impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // JSON strings are YAML strings, whatever is in them.
        let quoted = |text: &str| Value::from(text).to_string();
        writeln!(f, "  - request: {}", quoted(&self.request))?;
        for (part, fields) in [("query", &self.query), ("body", &self.body)] {
            if !fields.is_empty() {
                writeln!(f, "    {part}:")?;
            }
            for Volatile {
                name,
                compare,
                seen,
            } in fields
            {
                let of = self.requests;
                writeln!(
                    f,
                    "      {}: {compare}  # in {seen} of {of} requests, and never the same",
                    quoted(name)
                )?;
            }
        }
        Ok(())
    }
}

/// Looks at requests, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Suggester {
    kinds: BTreeMap<String, Kind>,
}

#[derive(Debug, Default)]
struct Kind {
    requests: u64,
    query: BTreeMap<String, Field>,
    body: BTreeMap<String, Field>,
}

#[derive(Debug, Default)]
struct Field {
    seen: u64,
    values: HashSet<u64>,
    generated: u64,
    uuids: u64,
    integers: u64,
}

/// Kinds of requests that are looked at: a stranger's archive may hold a million.
const MAX_KINDS: usize = 2000;
/// Fields of a kind.
const MAX_FIELDS: usize = 200;
/// Requests of a kind: more tell nothing new, and each value takes memory.
const MAX_REQUESTS: u64 = 2000;
/// Bytes of a body that is still taken apart.
const MAX_BODY: usize = 1 << 20;
/// Requests that a field has to be in: two may differ by chance.
const MIN_SEEN: u64 = 3;
/// Names that say what they are, wherever they stand in a name, without `-` and `_`.
const TELLING: [&str; 10] = [
    "nonce",
    "timestamp",
    "requestid",
    "idempotency",
    "trace",
    "correlation",
    "csrf",
    "signature",
    "salt",
    "random",
];

impl Suggester {
    pub(crate) fn look(&mut self, call: &Call<'_>) {
        let Some(request) = pattern(call) else { return };
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&request) {
            return;
        }
        let kind = self.kinds.entry(request).or_default();
        if kind.requests == MAX_REQUESTS {
            return;
        }
        kind.requests += 1;
        for (name, value) in pairs(call.split().query) {
            note(&mut kind.query, &name, &value);
        }
        if call.body.len() > MAX_BODY {
            return;
        }
        if let Ok(value @ (Value::Object(_) | Value::Array(_))) = serde_json::from_slice(call.body)
        {
            let mut once = HashSet::new();
            leaves("$", &value, &mut |place, leaf| {
                // Elements of one array are one place: the first speaks for them.
                if once.insert(xxh3_64(place.as_bytes())) {
                    note(&mut kind.body, place.as_bytes(), leaf.as_bytes());
                }
            });
        } else if call.content_type.map(BodyKind::of) == Some(BodyKind::Form) {
            for (name, value) in pairs(call.body) {
                note(&mut kind.body, &name, &value);
            }
        }
    }

    /// What the requests suggest, by kind.
    pub(crate) fn finish(self) -> Vec<Suggestion> {
        let suggestion = |(request, kind): (String, Kind)| {
            let Kind {
                requests,
                query,
                body,
            } = kind;
            let volatile = |fields: BTreeMap<String, Field>| {
                let found = fields
                    .into_iter()
                    .filter(|(name, field)| field.is_volatile(name, requests));
                let found = found.map(|(name, field)| Volatile {
                    compare: field.compare(),
                    seen: field.seen,
                    name,
                });
                found.collect::<Vec<_>>()
            };
            let (query, body) = (volatile(query), volatile(body));
            (!query.is_empty() || !body.is_empty()).then_some(Suggestion {
                request,
                requests,
                query,
                body,
            })
        };
        self.kinds.into_iter().filter_map(suggestion).collect()
    }
}

/// The pattern of requests like this one; `None`: its path cannot be written as one.
fn pattern(call: &Call<'_>) -> Option<String> {
    let method = std::str::from_utf8(call.method).ok()?;
    let template = path_template(call.split().path);
    if template.contains(['…', '\u{fffd}', '*', ' ']) || !template.starts_with('/') {
        return None;
    }
    let mut pattern = format!("{method} ");
    let mut ids = 0;
    for segment in template.split('/').skip(1) {
        pattern.push('/');
        if segment == "{id}" {
            ids += 1;
            if ids > 1 {
                // Writing to a string never fails.
                let _written = write!(pattern, "{{id{ids}}}");
                continue;
            }
        } else if segment.contains(['{', '}']) {
            return None;
        }
        pattern.push_str(segment);
    }
    Some(pattern)
}

fn note(fields: &mut BTreeMap<String, Field>, name: &[u8], value: &[u8]) {
    let Ok(name) = std::str::from_utf8(name) else {
        return;
    };
    if fields.len() >= MAX_FIELDS && !fields.contains_key(name) {
        return;
    }
    let field = fields.entry(name.to_owned()).or_default();
    field.seen += 1;
    field.values.insert(xxh3_64(value));
    field.generated += u64::from(is_generated(value));
    field.uuids += u64::from(is_uuid(value));
    field.integers += u64::from(!value.is_empty() && value.iter().all(u8::is_ascii_digit));
}

impl Field {
    /// Whether it differs in (nearly) every request, and looks as if it were made for each.
    fn is_volatile(&self, name: &str, requests: u64) -> bool {
        let plain = name.to_ascii_lowercase().replace(['-', '_'], "");
        let telling = TELLING.iter().any(|word| plain.contains(word));
        // A request that was sent again may carry what it carried before.
        let differs = 10 * self.values.len() as u64 >= 9 * self.seen;
        let generated = 10 * self.generated >= 9 * self.seen;
        self.seen >= MIN_SEEN && 2 * self.seen >= requests && differs && (generated || telling)
    }

    fn compare(&self) -> &'static str {
        if self.uuids == self.seen || self.integers == self.seen {
            "type"
        } else {
            "presence"
        }
    }
}

/// Whether a value looks made up: a UUID, a token, a time.
fn is_generated(value: &[u8]) -> bool {
    let digits = value.iter().filter(|byte| byte.is_ascii_digit()).count();
    let wordly = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_+/=".contains(byte);
    let token =
        value.len() >= 16 && digits >= 3 && digits < value.len() && value.iter().all(wordly);
    // Seconds, milli-, micro- or nanoseconds since 1970, from 2001 on.
    let epoch = digits == value.len()
        && matches!(value.len(), 10 | 13 | 16 | 19)
        && value.starts_with(b"1");
    // RFC 3339.
    let time = value.len() >= 19
        && value.get(4) == Some(&b'-')
        && value.get(7) == Some(&b'-')
        && matches!(value.get(10), Some(b'T' | b' '));
    token || epoch || time
}

/// The place of a member, as rules files name it.
pub(crate) fn member_place(place: &str, name: &str) -> String {
    if !name.is_empty() && !name.contains(['.', '[', '\'', ']']) {
        format!("{place}.{name}")
    } else {
        format!("{place}['{name}']")
    }
}

/// Calls back with each text and number in it, and with its place.
fn leaves(place: &str, value: &Value, found: &mut impl FnMut(&str, &str)) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                leaves(&member_place(place, name), value, found);
            }
        }
        Value::Array(items) => {
            let place = format!("{place}[*]");
            for value in items {
                leaves(&place, value, found);
            }
        }
        Value::String(text) => found(place, text),
        Value::Number(number) => found(place, &number.to_string()),
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::call::Headers;

    fn look(suggester: &mut Suggester, target: &str) {
        suggester.look(&Call {
            method: b"GET",
            authority: None,
            target: target.as_bytes(),
            content_type: None,
            session: None,
            headers: Headers::None,
            body: b"",
        });
    }

    /// A path without digits: one with digits would be the same kind as the next.
    fn word(mut n: usize) -> String {
        let mut word = String::new();
        for _ in 0..4 {
            word.push(char::from(b'a' + (n % 26) as u8));
            n /= 26;
        }
        word
    }

    #[test]
    fn an_archive_of_too_many_kinds_takes_no_more_memory() {
        let mut suggester = Suggester::default();
        for n in 0..MAX_KINDS + 50 {
            look(&mut suggester, &format!("/{}", word(n)));
        }
        assert_eq!(suggester.kinds.len(), MAX_KINDS);
        // Those that are known are looked at all the same.
        look(&mut suggester, &format!("/{}", word(0)));
        assert_eq!(suggester.kinds[&format!("GET /{}", word(0))].requests, 2);
    }

    #[test]
    fn of_one_kind_so_many_fields_and_requests_are_looked_at() {
        let mut suggester = Suggester::default();
        let fields: Vec<_> = (0..MAX_FIELDS + 50).map(|n| format!("f{n}=1")).collect();
        look(&mut suggester, &format!("/x?{}", fields.join("&")));
        assert_eq!(suggester.kinds["GET /x"].query.len(), MAX_FIELDS);
        for n in 0..MAX_REQUESTS + 50 {
            look(&mut suggester, &format!("/x?f0={n}"));
        }
        let kind = &suggester.kinds["GET /x"];
        assert_eq!(kind.requests, MAX_REQUESTS);
        assert_eq!(kind.query["f0"].seen, MAX_REQUESTS);
    }
}
