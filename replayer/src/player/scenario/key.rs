//! Whose an exchange is: what recorded requests tell of their user.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::str::FromStr;

use tapedeck_model::session_of;

use crate::player::request::Fields;

/// What the requests of one user have in common.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum SessionKey {
    /// The token of `Authorization: Bearer`.
    Bearer,
    /// A cookie.
    Cookie(String),
    /// A header field.
    Header(String),
    /// A field of the query.
    Query(String),
    /// What the archive's index and the mock tell users apart by
    /// ([`session_of`](tapedeck_model::session_of)): all of `Authorization`, else all of `Cookie`.
    Credentials,
    /// The recorded connection.
    Connection,
}

/// Why a text is no [`SessionKey`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is no session key: write connection, credentials, bearer, header:NAME, cookie:NAME or \
     query:NAME"
)]
pub struct ParseSessionKeyError(String);

impl FromStr for SessionKey {
    type Err = ParseSessionKeyError;

    fn from_str(text: &str) -> Result<Self, ParseSessionKeyError> {
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        let name = name.trim().to_owned();
        match (kind, name.is_empty()) {
            ("bearer", true) => Ok(Self::Bearer),
            ("connection", true) => Ok(Self::Connection),
            ("credentials", true) => Ok(Self::Credentials),
            ("cookie", false) => Ok(Self::Cookie(name)),
            ("header", false) => Ok(Self::Header(name)),
            ("query", false) => Ok(Self::Query(name)),
            _ => Err(ParseSessionKeyError(text.to_owned())),
        }
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bearer => f.write_str("bearer"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Credentials => f.write_str("credentials"),
            Self::Connection => f.write_str("connection"),
        }
    }
}

/// The value of the key in a request; `None` where it is not there.
pub(crate) fn value_of<'a>(
    key: &SessionKey,
    target: &'a [u8],
    fields: &Fields<'a>,
) -> Option<&'a [u8]> {
    let value = match key {
        SessionKey::Connection => None,
        SessionKey::Credentials => credentials(fields),
        SessionKey::Query(name) => {
            let mut pairs = query(target);
            pairs.find_map(|(n, value)| (n == name.as_bytes()).then_some(value))
        }
        SessionKey::Header(name) => {
            let mut fields = fields.iter();
            fields.find_map(|field| field.is(name).then_some(field.value))
        }
        SessionKey::Bearer => {
            let mut fields = fields.iter().filter(|field| field.is("authorization"));
            fields.find_map(|field| bearer(field.value))
        }
        SessionKey::Cookie(name) => fields
            .iter()
            .filter(|field| field.is("cookie"))
            .flat_map(|field| cookies(field.value))
            .find_map(|(n, value)| (n == name.as_bytes()).then_some(value)),
    };
    value.filter(|value| !value.is_empty())
}

fn credentials<'a>(fields: &Fields<'a>) -> Option<&'a [u8]> {
    session_of(|name| {
        let mut fields = fields.iter();
        fields.find_map(|field| field.is(name).then_some(field.value))
    })
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

fn cookies(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pairs = value.split(|byte| *byte == b';');
    pairs.filter_map(|pair| split_pair(pair.trim_ascii()))
}

fn query(target: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let at = target.iter().position(|byte| *byte == b'?');
    let query = at.and_then(|at| target.get(at + 1..)).unwrap_or_default();
    let end = query.iter().position(|byte| *byte == b'#');
    let query = query.get(..end.unwrap_or(query.len())).unwrap_or_default();
    query.split(|byte| *byte == b'&').filter_map(split_pair)
}

fn split_pair(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    Some((pair.get(..at)?, pair.get(at + 1..)?))
}

/// Looks for the key that tells the users of a recording apart, in a part of its requests.
#[derive(Debug, Default)]
pub(crate) struct Detector {
    requests: usize,
    seen: BTreeMap<SessionKey, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    requests: usize,
    values: HashSet<u128>,
}

impl Detector {
    /// Requests that are looked at: a key that most requests have shows in these.
    pub(crate) const SAMPLE: usize = 5000;
    /// Names that are followed: a stranger may have put another one in each request.
    const MAX_KEYS: usize = 256;
    /// Header and query fields are looked at only where their name says what they are.
    const TELLING: [&'static str; 8] = [
        "session", "sid", "token", "user", "client", "device", "account", "api-key",
    ];

    pub(crate) fn look(&mut self, target: &[u8], fields: &Fields<'_>) {
        self.requests += 1;
        if let Some(value) = credentials(fields) {
            self.note(SessionKey::Credentials, value);
        }
        for field in fields.iter() {
            if field.is("authorization") {
                if let Some(token) = bearer(field.value) {
                    self.note(SessionKey::Bearer, token);
                }
            } else if field.is("cookie") {
                for (name, value) in cookies(field.value) {
                    self.note_named(SessionKey::Cookie, name, value);
                }
            } else if !field.is("user-agent") && telling(field.name) {
                let name = field.name.to_ascii_lowercase();
                self.note_named(SessionKey::Header, &name, field.value);
            }
        }
        for (name, value) in query(target) {
            if telling(name) {
                self.note_named(SessionKey::Query, name, value);
            }
        }
    }

    fn note_named(&mut self, key: fn(String) -> SessionKey, name: &[u8], value: &[u8]) {
        if let Ok(name) = std::str::from_utf8(name)
            && !name.is_empty()
        {
            self.note(key(name.to_owned()), value);
        }
    }

    fn note(&mut self, key: SessionKey, value: &[u8]) {
        if value.is_empty() || (self.seen.len() >= Self::MAX_KEYS && !self.seen.contains_key(&key))
        {
            return;
        }
        let seen = self.seen.entry(key).or_default();
        seen.requests += 1;
        seen.values.insert(hash(value));
    }

    /// The key that the most requests have, if at least half of them do, there are several users,
    /// and they send several requests each. Else their credentials, where that holds for these as a
    /// whole: a cookie among them may change while its user does not. Else the connection.
    pub(crate) fn found(&self) -> SessionKey {
        let usable = |seen: &&Seen| {
            let users = seen.values.len();
            2 * seen.requests >= self.requests && users >= 2 && seen.requests >= 2 * users
        };
        let mut best: Option<(&SessionKey, usize)> = None;
        for (key, seen) in &self.seen {
            // The order of the keys decides between equals: a token is never there by accident.
            let is_better = best.is_none_or(|(_, requests)| {
                *key != SessionKey::Credentials && seen.requests > requests
            });
            if usable(&seen) && is_better {
                best = Some((key, seen.requests));
            }
        }
        best.map_or(SessionKey::Connection, |(key, _)| key.clone())
    }
}

fn telling(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let holds = |word: &&'static str| name.windows(word.len()).any(|part| part == word.as_bytes());
    Detector::TELLING.iter().any(holds)
}

/// Two users whose keys have the same hash would become one: with 128 bits that does not happen.
pub(crate) fn hash(value: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(key: &str, target: &str, lines: &str) -> Option<String> {
        let fields = Fields::Lines(lines.as_bytes());
        let found = value_of(&key.parse().unwrap(), target.as_bytes(), &fields);
        found.map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    #[test]
    fn each_kind_of_key_is_found_where_it_stands() {
        let lines =
            "Host: a\r\nauthorization: BEARER  abc\r\nCookie: a=1; sid=x=y\r\nX-User: 7\r\n";
        for (key, expect) in [
            ("bearer", Some("abc")),
            ("cookie:sid", Some("x=y")),
            ("cookie:id", None),
            ("header:x-user", Some("7")),
            ("header:x", None),
            ("credentials", Some("BEARER  abc")),
            ("query:u", Some("3")),
            ("query:v", None),
            ("connection", None),
        ] {
            let found = value(key, "/p?a=1&u=3&v=#u=4", lines);
            assert_eq!(found.as_deref(), expect, "{key}");
        }
    }

    #[test]
    fn keys_are_read_and_shown_alike() {
        for text in [
            "connection",
            "credentials",
            "bearer",
            "header:X-User",
            "cookie:sid",
            "query:u",
        ] {
            assert_eq!(text.parse::<SessionKey>().unwrap().to_string(), text);
        }
        for text in ["", "user", "header", "header:", "bearer:x"] {
            assert!(text.parse::<SessionKey>().is_err(), "{text}");
        }
    }

    fn detect<'a>(requests: impl IntoIterator<Item = (&'a str, String)>) -> String {
        let mut detector = Detector::default();
        for (target, lines) in requests {
            detector.look(target.as_bytes(), &Fields::Lines(lines.as_bytes()));
        }
        detector.found().to_string()
    }

    #[test]
    fn the_key_of_most_requests_is_found() {
        let bearer = |n: usize| format!("Authorization: Bearer {}\r\n", n % 5);
        assert_eq!(detect((0..50).map(|n| ("/", bearer(n)))), "bearer");
        // A login comes before there is a token.
        let mixed = |n: usize| {
            if n.is_multiple_of(5) {
                String::new()
            } else {
                bearer(n)
            }
        };
        assert_eq!(detect((0..50).map(|n| ("/", mixed(n)))), "bearer");
        let cookie = |n: usize| format!("Cookie: theme=dark; sid={}; nonce={n}\r\n", n % 5);
        assert_eq!(detect((0..50).map(|n| ("/", cookie(n)))), "cookie:sid");
        let header = |n: usize| format!("X-Request-Id: {n}\r\nX-User-Id: {}\r\n", n % 5);
        assert_eq!(
            detect((0..50).map(|n| ("/", header(n)))),
            "header:x-user-id"
        );
        // Of these only the rule that the index and the mock have tells users apart.
        let basic = |n: usize| format!("Authorization: Basic dXNlc{}\r\n", n % 5);
        assert_eq!(detect((0..50).map(|n| ("/", basic(n)))), "credentials");
        // One token for all is no user, nor is one for each request.
        assert_eq!(detect((0..50).map(|_| ("/", bearer(0)))), "connection");
        let fresh = |n: usize| format!("Authorization: Bearer {n}\r\n");
        assert_eq!(detect((0..50).map(|n| ("/", fresh(n)))), "connection");
    }
}
