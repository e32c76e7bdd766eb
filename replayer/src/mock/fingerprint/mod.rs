//! Canonical hashes: two requests with the same hash mean the same.
//!
//! | part | what does not matter |
//! |---|---|
//! | path | the spelling of escapes |
//! | query, form body | the order of pairs, the spelling of escapes |
//! | JSON body | the order of members, white space, `1` or `1.0`, escapes |
//! | multipart body | the boundary |
//! | other body | nothing |
//!
//! A body is read as JSON when it *is* a JSON object or array, whatever its content type says
//! (curl sends JSON as a form); as form or multipart when the content type says so.
//!
//! The hash is xxh3-128. It withstands accidents, not attackers; an archive that was made to
//! collide can only make its own answers change places.
//!
//! [`loose`] gives the hash of what a rule leaves of a request.

mod loose;
mod protobuf;

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};

use super::call::{Call, normal_path, pairs};
use super::rules::{Compare, Rule};

pub(crate) use loose::{Loose, Number, is_uuid};

/// The hash of a path.
pub(crate) fn path(path: &[u8]) -> u128 {
    xxh3_128_with_seed(&normal_path(path), kind::PATH)
}

/// The hash of a query.
pub(crate) fn query(query: &[u8]) -> u128 {
    pair_set(query, kind::QUERY, |name, value| Some(pair(name, value)))
}

/// The hash of the fields that a rule compares.
pub(crate) fn headers(call: &Call<'_>, rule: &Rule) -> u128 {
    let mut set = SetHash::default();
    for (name, compare) in &rule.headers {
        let name_hash = name_of(name.as_bytes());
        match call.headers.get(name) {
            _ if matches!(compare, Compare::Ignore) => {}
            Some(value) => set.add(join(name_hash, value_of(value), kind::PAIR)),
            None => set.add(join(
                name_hash,
                xxh3_128_with_seed(b"", kind::ABSENT),
                kind::PAIR,
            )),
        }
    }
    set.finish(kind::NAME)
}

/// The hash of what tells one user from another.
pub(crate) fn session(session: &[u8]) -> u128 {
    xxh3_128_with_seed(session, kind::SESSION)
}

/// The hash of what a body begins with.
pub(crate) fn opening(bytes: &[u8]) -> u128 {
    xxh3_128_with_seed(bytes, kind::OPENING)
}

/// The hash of a body.
pub(crate) fn body(body: &[u8], content_type: Option<&[u8]>) -> u128 {
    if body.is_empty() {
        return 0;
    }
    if let Some(hash) = json(body, Json) {
        return hash;
    }
    match content_type.map(BodyKind::of) {
        Some(BodyKind::Form) => pair_set(body, kind::FORM, |name, value| Some(pair(name, value))),
        Some(BodyKind::Multipart { boundary }) => multipart(body, boundary),
        Some(BodyKind::Other) | None => xxh3_128_with_seed(body, kind::BYTES),
    }
}

/// What a content type says about how a body is compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BodyKind<'a> {
    Form,
    Multipart { boundary: &'a [u8] },
    Other,
}

impl<'a> BodyKind<'a> {
    pub(crate) fn of(content_type: &'a [u8]) -> Self {
        let mut pieces = content_type.split(|byte| *byte == b';');
        let media = pieces.next().unwrap_or_default().trim_ascii();
        if media.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
            return Self::Form;
        }
        let multipart = media
            .split_at_checked(b"multipart/".len())
            .is_some_and(|(kind, _)| kind.eq_ignore_ascii_case(b"multipart/"));
        let boundary = pieces.find_map(|piece| {
            let (name, value) = piece.trim_ascii().split_at_checked(b"boundary=".len())?;
            name.eq_ignore_ascii_case(b"boundary=")
                .then(|| value.strip_prefix(b"\"").unwrap_or(value))
                .map(|value| value.strip_suffix(b"\"").unwrap_or(value))
        });
        match boundary {
            Some(boundary) if multipart && !boundary.is_empty() => Self::Multipart { boundary },
            _ => Self::Other,
        }
    }
}

/// Seeds keep the kinds apart: the string `1` and the number 1 must not collide.
mod kind {
    pub(super) const PATH: u64 = 1;
    pub(super) const QUERY: u64 = 2;
    pub(super) const FORM: u64 = 3;
    pub(super) const BYTES: u64 = 4;
    pub(super) const PAIR: u64 = 5;
    pub(super) const NAME: u64 = 6;
    pub(super) const VALUE: u64 = 7;
    pub(super) const MULTIPART: u64 = 8;
    pub(super) const SESSION: u64 = 9;
    pub(super) const PRESENT: u64 = 10;
    pub(super) const ABSENT: u64 = 11;
    pub(super) const TYPE: u64 = 12;
    pub(super) const MATCHED: u64 = 13;
    pub(super) const NUMBER: u64 = 14;
    pub(super) const MESSAGE: u64 = 15;
    pub(super) const JSON_LITERAL: u64 = 16;
    pub(super) const JSON_INTEGER: u64 = 17;
    pub(super) const JSON_FRACTION: u64 = 18;
    pub(super) const JSON_STRING: u64 = 19;
    pub(super) const JSON_ARRAY: u64 = 20;
    pub(super) const JSON_OBJECT: u64 = 21;
    pub(super) const OPENING: u64 = 22;
}

/// Hash of two hashes, in order.
fn join(first: u128, second: u128, kind: u64) -> u128 {
    let mut both = [0; 32];
    let (low, high) = both.split_at_mut(16);
    low.copy_from_slice(&first.to_le_bytes());
    high.copy_from_slice(&second.to_le_bytes());
    xxh3_128_with_seed(&both, kind)
}

/// A set in which order does not matter and number does: the sum of its members' hashes, which
/// needs no memory, however many members a client sends.
#[derive(Default)]
struct SetHash {
    sum: u128,
    members: u128,
}

impl SetHash {
    fn add(&mut self, member: u128) {
        self.sum = self.sum.wrapping_add(member);
        self.members += 1;
    }

    fn finish(&self, kind: u64) -> u128 {
        join(self.sum, self.members, kind)
    }
}

/// The hash of a name and its value.
fn pair(name: &[u8], value: &[u8]) -> u128 {
    join(name_of(name), value_of(value), kind::PAIR)
}

fn name_of(name: &[u8]) -> u128 {
    xxh3_128_with_seed(name, kind::NAME)
}

fn value_of(value: &[u8]) -> u128 {
    xxh3_128_with_seed(value, kind::VALUE)
}

/// `hash` gives the hash of a pair, or `None` for one that does not count.
fn pair_set(text: &[u8], kind: u64, hash: impl Fn(&[u8], &[u8]) -> Option<u128>) -> u128 {
    let mut set = SetHash::default();
    for (name, value) in pairs(text) {
        if let Some(hash) = hash(&name, &value) {
            set.add(hash);
        }
    }
    // No pair at all is like no query at all.
    if set.members == 0 {
        return 0;
    }
    set.finish(kind)
}

/// The bytes between the boundaries. Clients choose a new boundary for each request.
fn multipart(body: &[u8], boundary: &[u8]) -> u128 {
    let mut hash = Xxh3::with_seed(kind::MULTIPART);
    let mut rest = body;
    while let Some(at) = find(rest, boundary) {
        let (piece, after) = rest.split_at(at);
        hash.update(&piece.len().to_le_bytes());
        hash.update(piece);
        rest = after.get(boundary.len()..).unwrap_or_default();
    }
    hash.update(rest);
    hash.digest128()
}

/// Where the needle, which is not empty, first occurs.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    loop {
        let at = from
            + haystack
                .get(from..)?
                .iter()
                .position(|byte| *byte == first)?;
        if haystack.get(at..)?.starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// The hash of a JSON object or array, as a seed reads it; `None` for anything else, and for JSON
/// whose numbers cannot be compared exactly (beyond 64 bits): those bodies are compared as bytes.
fn json<'de>(body: &'de [u8], seed: impl DeserializeSeed<'de, Value = u128>) -> Option<u128> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace())?;
    if !matches!(first, b'{' | b'[') {
        return None;
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let hash = seed.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(hash)
}

/// Hashes while parsing: no tree is built, so memory does not grow with what a client sends.
#[derive(Clone, Copy)]
struct Json;

impl<'de> DeserializeSeed<'de> for Json {
    type Value = u128;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u128, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Json {
    type Value = u128;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<u128, E> {
        Ok(xxh3_128_with_seed(b"null", kind::JSON_LITERAL))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<u128, E> {
        Ok(xxh3_128_with_seed(&[value.into()], kind::JSON_LITERAL))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u128, E> {
        Ok(integer(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u128, E> {
        Ok(integer(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<u128, E> {
        /// Behind this, not every integer has a double of its own: two that differ would compare
        /// equal.
        const EXACT: f64 = (1_u64 << 53) as f64;
        if value.abs() >= EXACT {
            return Err(E::custom("a number that a double cannot hold exactly"));
        }
        if value.fract() == 0.0 {
            return Ok(integer((value as i64).into()));
        }
        Ok(xxh3_128_with_seed(
            &value.to_bits().to_le_bytes(),
            kind::JSON_FRACTION,
        ))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<u128, E> {
        Ok(xxh3_128_with_seed(value.as_bytes(), kind::JSON_STRING))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<u128, A::Error> {
        let mut hash = Xxh3::with_seed(kind::JSON_ARRAY);
        while let Some(item) = items.next_element_seed(self)? {
            hash.update(&item.to_le_bytes());
        }
        Ok(hash.digest128())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<u128, A::Error> {
        let mut set = SetHash::default();
        while let Some(name) = members.next_key_seed(MemberName)? {
            set.add(join(name, members.next_value_seed(self)?, kind::PAIR));
        }
        Ok(set.finish(kind::JSON_OBJECT))
    }
}

/// The hash of a member's name.
struct MemberName;

impl<'de> DeserializeSeed<'de> for MemberName {
    type Value = u128;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u128, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for MemberName {
    type Value = u128;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<u128, E> {
        Ok(name_of(name.as_bytes()))
    }
}

fn integer(value: i128) -> u128 {
    xxh3_128_with_seed(&value.to_le_bytes(), kind::JSON_INTEGER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> u128 {
        body(text.as_bytes(), None)
    }

    #[track_caller]
    fn same(a: &str, b: &str) {
        assert_eq!(of(a), of(b), "{a} and {b} should mean the same");
    }

    #[track_caller]
    fn different(a: &str, b: &str) {
        assert_ne!(of(a), of(b), "{a} and {b} should differ");
    }

    #[test]
    fn json_compares_by_structure() {
        same(r#"{"a":1,"b":[1,2]}"#, " {\n\"b\" : [1,2.0], \"a\":1e0 }\n");
        same(r#"{"a":"\u0041"}"#, r#"{"a":"A"}"#);
        same(
            r#"{"x":{"p":null,"q":true}}"#,
            r#"{"x":{"q":true,"p":null}}"#,
        );
        same(r#"{"a":-0.0}"#, r#"{"a":0}"#);
        same("[18446744073709551615]", "[ 18446744073709551615]");
        different(r#"{"a":1}"#, r#"{"a":"1"}"#);
        different(r#"{"a":1}"#, r#"{"a":2}"#);
        different("[1,2]", "[2,1]");
        different(r#"{"a":1}"#, r#"{"a":1,"a":1}"#);
        different(r#"{"a":null}"#, "{}");
        different(r#"{"a":"b"}"#, r#"{"b":"a"}"#);
        different("[]", "{}");
        different("[[1],2]", "[1,[2]]");
        different("[9007199254740993.5]", "[9007199254740992.5]");
        different("[18446744073709551616]", "[18446744073709551617]");
        different(r#"{"a":1}"#, r#"{"a":1} x"#);
    }

    #[test]
    fn deep_json_is_bytes_not_a_stack_overflow() {
        let deep = "[".repeat(100_000);
        same(&deep, &deep);
        different(&deep, &"[".repeat(100_001));
    }

    #[test]
    fn queries_compare_as_multisets() {
        let of = |text: &str| query(text.as_bytes());
        assert_eq!(of("a=1&b=2"), of("b=2&a=1"));
        assert_eq!(of("a=%31"), of("a=1"));
        assert_eq!(of("a=x+y"), of("a=x%20y"));
        assert_eq!(of("a"), of("a=&"));
        assert_eq!(of(""), of("&"));
        assert_ne!(of("a=1"), of("a=1&a=1"));
        assert_ne!(of("a=1&b=2"), of("a=2&b=1"));
        assert_ne!(of("ab=c"), of("a=bc"));
        assert_ne!(of(""), of("a"));
    }

    #[test]
    fn forms_and_multiparts_follow_their_content_type() {
        let form = Some(&b"application/x-www-form-urlencoded; charset=utf-8"[..]);
        assert_eq!(body(b"a=1&b=2", form), body(b"b=2&a=1", form));
        assert_ne!(body(b"a=1&b=2", None), body(b"b=2&a=1", None));
        // curl -d '{...}' claims a form.
        assert_eq!(body(b"{\"a\":1}", form), body(b"{\"a\" :1}", None));

        let part = |boundary: &str, value: &str| {
            let text = format!("--{boundary}\r\n\r\n{value}\r\n--{boundary}--\r\n");
            let content_type = format!("multipart/form-data; boundary=\"{boundary}\"");
            body(text.as_bytes(), Some(content_type.as_bytes()))
        };
        assert_eq!(part("xyz", "1"), part("another", "1"));
        assert_ne!(part("xyz", "1"), part("xyz", "2"));
    }
}
