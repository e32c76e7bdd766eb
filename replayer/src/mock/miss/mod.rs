//! Why nothing matched: the nearest recorded requests, and what differs.
//!
//! Only misses pay for this. The search is bounded: candidates by path first, a look at what else
//! was recorded only when the path is unknown.

mod remedy;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use self::remedy::Part;
use super::answer::Answer;
use super::call::{Call, normal_authority, normal_path, pairs};
use super::fingerprint::BodyKind;
use super::index::Index;
use super::rules::{Compare, Node, Rule, Rules, member_place};

pub use self::remedy::Remedy;

/// A request that was not answered from the archive.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Miss {
    /// Its method.
    pub method: String,
    /// The authority that it named.
    pub authority: Option<String>,
    /// Its target.
    pub target: String,
    /// How often it came.
    pub count: u64,
    /// Why nothing answered.
    pub reason: String,
    /// The recorded requests that are nearest, the nearest first.
    pub nearest: Vec<Nearest>,
    /// The rule by which the nearest would have answered, as it stands in a rules file; `None`: no
    /// rule would do.
    pub rule: Option<String>,
}

/// A recorded request that was nearly asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nearest {
    /// The id of its exchange.
    pub id: u64,
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
    /// In what it differs from what was asked.
    pub differs: Vec<String>,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} ({}x): {}",
            self.method, self.target, self.count, self.reason
        )?;
        if let Some(near) = self.nearest.first() {
            let differs = near.differs.join(", ");
            write!(
                f,
                "; nearest: {} {} (exchange {}): {differs}",
                near.method, near.target, near.id
            )?;
        }
        Ok(())
    }
}

impl Miss {
    /// The body of the answer.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut body = format!("{:#}", self.to_document()).into_bytes();
        body.push(b'\n');
        body
    }

    /// The same for people.
    pub(crate) fn to_text(&self) -> Vec<u8> {
        let mut text = format!("{}: {} {}\n", self.reason, self.method, self.target);
        for near in &self.nearest {
            let (method, target) = (&near.method, &near.target);
            text.push_str(&format!(
                "\nnearest: {method} {target} (exchange {})\n",
                near.id
            ));
            for line in &near.differs {
                text.push_str(&format!("  {line}\n"));
            }
        }
        if let Some(rule) = &self.rule {
            text.push_str(&format!(
                "\na rule by which the first would answer:\nrules:\n{rule}"
            ));
        }
        text.push_str(&format!("\n{}\n", self.advice()));
        // Of what came over the wire, nothing but lines.
        text.retain(|c| c == '\n' || !c.is_control());
        text.into_bytes()
    }

    fn advice(&self) -> String {
        match self.nearest.first() {
            Some(near) => format!(
                "The nearest recorded request is exchange {}; `tapedeck show ARCHIVE {}` prints it.",
                near.id, near.id
            ),
            None => {
                "Nothing like it was recorded; `tapedeck ls ARCHIVE` lists what was.".to_owned()
            }
        }
    }

    pub(crate) fn to_document(&self) -> Value {
        let nearest: Vec<_> = self
            .nearest
            .iter()
            .map(|near| {
                json!({
                    "id": near.id,
                    "method": near.method,
                    "target": near.target,
                    "differs": near.differs,
                })
            })
            .collect();
        json!({
            "rule": self.rule,
            "error": self.reason,
            "request": {
                "method": self.method,
                "authority": self.authority,
                "target": self.target,
            },
            "nearest": nearest,
            "advice": self.advice(),
        })
    }
}

/// What the explanation reads of the recorded requests.
pub(crate) trait Recordings {
    /// Calls back with method, authority and target of an exchange.
    fn with_line(&self, id: u32, read: &mut dyn FnMut(&Call<'_>));
    /// Calls back with the whole request.
    fn with_call(&self, id: u32, read: &mut dyn FnMut(&Call<'_>));
}

/// Finds the recorded requests that are nearest to one that missed, and the rule by which the first of
/// them would have answered.
pub(crate) fn nearest(
    asked: &Call<'_>,
    index: &Index,
    recordings: &dyn Recordings,
) -> (Vec<Nearest>, Option<String>) {
    let target = asked.split();
    let named = named(asked, index);
    let path = normal_path(target.path);
    let mut candidates: Vec<_> = index
        .with_path(target.path)
        .take(MAX_CANDIDATES)
        .filter_map(|id| {
            let mut found = None;
            recordings.with_line(id, &mut |line| {
                let score = Score {
                    authority: same_authority(line, named.as_deref()),
                    path: usize::MAX,
                    method: line.method == asked.method,
                    query: shared_pairs(line.split().query, target.query),
                };
                if normal_path(line.split().path) == path {
                    found = Some((Reverse(score), id));
                }
            });
            found
        })
        .collect();
    if candidates.is_empty() {
        candidates = index
            .one_per_path()
            .take(MAX_PATHS)
            .filter_map(|id| {
                let mut found = None;
                recordings.with_line(id, &mut |line| {
                    let score = Score {
                        authority: same_authority(line, named.as_deref()),
                        path: shared_segments(&normal_path(line.split().path), &path),
                        method: line.method == asked.method,
                        query: 0,
                    };
                    // A path that shares nothing explains nothing.
                    if score.path > 0 {
                        found = Some((Reverse(score), id));
                    }
                });
                found
            })
            .collect();
    }
    candidates.sort_unstable();
    let mut explained: Vec<_> = candidates
        .into_iter()
        .take(MAX_EXPLAINED)
        .filter_map(|(score, id)| {
            let mut near = None;
            recordings.with_call(id, &mut |recorded| {
                let (differs, rule) = explain(recorded, asked, index);
                let nearest = Nearest {
                    id: id.into(),
                    method: text(recorded.method),
                    target: text(recorded.target),
                    differs,
                };
                near = Some((nearest, rule));
            });
            near.map(|near| (score, near))
        })
        .collect();
    // Stable: equally near ones stay in recorded order.
    explained.sort_by_key(|(score, (near, _))| (*score, near.differs.len()));
    let mut nearest: Vec<Nearest> = Vec::with_capacity(MAX_NEAREST);
    let first = explained.first().and_then(|(_, (_, rule))| rule.clone());
    for (_, (near, _)) in explained {
        // The same request again explains nothing more.
        let told = nearest.iter().any(|other| {
            (&other.method, &other.target, &other.differs)
                == (&near.method, &near.target, &near.differs)
        });
        if !told && nearest.len() < MAX_NEAREST {
            nearest.push(near);
        }
    }
    (nearest, first)
}

/// In what a request differs from a recorded one, in words, and the rule by which it would not.
pub(crate) fn explain(
    recorded: &Call<'_>,
    asked: &Call<'_>,
    index: &Index,
) -> (Vec<String>, Option<String>) {
    let named = named(asked, index);
    let found = differences(recorded, asked, named.as_deref(), index.rules());
    let (was, is) = (recorded.split().path, asked.split().path);
    let rule = remedy::rule(asked.method, was, is, &found.parts);
    (found.lines, rule)
}

/// Rules, each with the number of requests that it would let through, the most first.
pub(crate) fn remedies<'r>(rules: impl Iterator<Item = (&'r str, u64)>) -> Vec<Remedy> {
    remedy::count(rules)
}

/// The recorded authority that a request names, where it matters.
fn named(asked: &Call<'_>, index: &Index) -> Option<Vec<u8>> {
    let authority = asked.split().authority;
    authority
        .filter(|authority| index.names_recorded(authority))
        .map(normal_authority)
}

/// How near a recorded request is; the greatest is the nearest.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Score {
    path: usize,
    authority: bool,
    method: bool,
    query: usize,
}

fn same_authority(line: &Call<'_>, named: Option<&[u8]>) -> bool {
    named.is_none_or(|named| {
        line.split()
            .authority
            .is_some_and(|authority| normal_authority(authority) == named)
    })
}

/// How many segments two paths have in common, from the front and from the back. Called for
/// thousands of paths: no allocation.
fn shared_segments(a: &[u8], b: &[u8]) -> usize {
    fn segments(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
        path.split(|byte| *byte == b'/')
            .filter(|segment| !segment.is_empty())
    }
    let same = |(a, b): &(&[u8], &[u8])| a.eq_ignore_ascii_case(b);
    let front = segments(a).zip(segments(b)).take_while(same).count();
    let back = segments(a)
        .rev()
        .zip(segments(b).rev())
        .take_while(same)
        .count();
    front + back
}

fn shared_pairs(a: &[u8], b: &[u8]) -> usize {
    let mut left: Vec<_> = pairs(b).collect();
    pairs(a)
        .filter(|pair| match left.iter().position(|other| other == pair) {
            Some(at) => {
                left.swap_remove(at);
                true
            }
            None => false,
        })
        .count()
}

/// In what two calls differ, in words.
fn differences(
    recorded: &Call<'_>,
    asked: &Call<'_>,
    named: Option<&[u8]>,
    rules: &Rules,
) -> Differences {
    let mut list = Differences::default();
    let rule = rules.of_call(recorded);
    list.compare(
        "method",
        &|| Part::Fixed,
        Some(recorded.method),
        Some(asked.method),
    );
    let (was, is) = (recorded.split(), asked.split());
    if !same_authority(recorded, named) && !rule.is_some_and(|rule| rule.any_authority) {
        list.compare(
            "authority",
            &|| Part::Authority,
            was.authority,
            is.authority,
        );
    }
    list.compare(
        "path",
        &|| Part::Path,
        Some(&normal_path(was.path)),
        Some(&normal_path(is.path)),
    );
    list.pairs("query", &Part::Query, was.query, is.query, &|name| {
        any_value(rule.and_then(|rule| named_in(&rule.query, name)))
    });
    for (name, compare) in rule.iter().flat_map(|rule| &rule.headers) {
        if !any_value(Some(compare)) {
            let (was, is) = (recorded.headers.get(name), asked.headers.get(name));
            // A rule names it already: that one has to be changed.
            list.compare(&format!("header {name}"), &|| Part::Fixed, was, is);
        }
    }
    if !rule.is_some_and(Rule::any_body) {
        list.body(recorded, asked, rule);
    }
    list
}

/// Whether a value may be any, so that it explains no miss.
const fn any_value(compare: Option<&Compare>) -> bool {
    matches!(compare, Some(Compare::Ignore | Compare::Presence))
}

fn named_in<'r>(compares: &'r BTreeMap<String, Compare>, name: &[u8]) -> Option<&'r Compare> {
    compares.get(std::str::from_utf8(name).ok()?)
}

#[derive(Default)]
struct Differences {
    lines: Vec<String>,
    /// For a rule: in what they differ, and whether both have it.
    parts: BTreeMap<Part, bool>,
}

impl Differences {
    fn push(&mut self, line: String) {
        match self.lines.len() {
            len if len < MAX_DIFFERENCES => self.lines.push(line),
            MAX_DIFFERENCES => self.lines.push("...".to_owned()),
            _ => {}
        }
    }

    /// Notes a part. So many that a rule of them would be none count as the whole body.
    fn part(&mut self, part: Part, both: bool) {
        if self.parts.len() < MAX_PARTS {
            *self.parts.entry(part).or_insert(true) &= both;
        } else {
            self.parts.insert(Part::Body("$".to_owned()), false);
        }
    }

    fn compare(
        &mut self,
        what: &str,
        part: &dyn Fn() -> Part,
        recorded: Option<&[u8]>,
        asked: Option<&[u8]>,
    ) {
        if recorded == asked {
            return;
        }
        self.part(part(), recorded.is_some() && asked.is_some());
        let show = |value: Option<&[u8]>| value.map_or_else(|| "nothing".to_owned(), short);
        self.push(format!(
            "{what}: recorded {}, got {}",
            show(recorded),
            show(asked)
        ));
    }

    fn pairs(
        &mut self,
        what: &str,
        part: &dyn Fn(String) -> Part,
        recorded: &[u8],
        asked: &[u8],
        skip: &dyn Fn(&[u8]) -> bool,
    ) {
        let mut values: BTreeMap<_, (Vec<_>, Vec<_>)> = BTreeMap::new();
        for (name, value) in pairs(recorded) {
            values.entry(name).or_default().0.push(value);
        }
        for (name, value) in pairs(asked) {
            values.entry(name).or_default().1.push(value);
        }
        for (name, (mut was, mut is)) in values {
            if skip(&name) {
                continue;
            }
            was.sort_unstable();
            is.sort_unstable();
            let join = |values: &[_]| (!values.is_empty()).then(|| values.join(&b", "[..]));
            // A name that is no text stands in no rules file.
            let part = || std::str::from_utf8(&name).map_or(Part::Fixed, |name| part(name.into()));
            self.compare(
                &format!("{what}.{}", short(&name)),
                &part,
                join(&was).as_deref(),
                join(&is).as_deref(),
            );
        }
    }

    fn body(&mut self, recorded: &Call<'_>, asked: &Call<'_>, rule: Option<&Rule>) {
        let (was, is) = (recorded.body, asked.body);
        let skip = |name: &[u8]| any_value(rule.and_then(|rule| named_in(&rule.anywhere, name)));
        if was == is {
            return;
        }
        if was.len().max(is.len()) <= MAX_DIFFED {
            let parse = |body| serde_json::from_slice::<Value>(body).ok();
            if let (Some(was), Some(is)) = (parse(was), parse(is)) {
                let node = rule.map(|rule| &rule.body);
                return self.json(At::ROOT, &was, &is, node, &skip);
            }
        }
        let is_form = |call: &Call<'_>| call.content_type.map(BodyKind::of) == Some(BodyKind::Form);
        if is_form(recorded) && is_form(asked) {
            return self.pairs("body", &Part::Body, was, is, &skip);
        }
        self.part(Part::Body("$".to_owned()), false);
        if was.is_empty() || is.is_empty() {
            let show = |body: &[u8]| match body.len() {
                0 => "nothing".to_owned(),
                len => format!("{len} bytes"),
            };
            return self.push(format!("body: recorded {}, got {}", show(was), show(is)));
        }
        let at = was.iter().zip(is).take_while(|(a, b)| a == b).count();
        self.push(format!(
            "body: recorded {} bytes, got {}, the first difference is at byte {at}",
            was.len(),
            is.len(),
        ));
    }

    fn json(
        &mut self,
        at: At<'_>,
        recorded: &Value,
        asked: &Value,
        node: Option<&Node>,
        skip: &dyn Fn(&[u8]) -> bool,
    ) {
        if any_value(node.and_then(|node| node.compare.as_ref())) {
            return;
        }
        match (recorded, asked) {
            (Value::Object(was), Value::Object(is)) => {
                let names = was
                    .keys()
                    .chain(is.keys().filter(|name| !was.contains_key(*name)));
                for name in names.filter(|name| !skip(name.as_bytes())) {
                    let node = node.and_then(|node| node.members.get(name));
                    let (shown, place) = at.member(name);
                    self.child(At(&shown, &place), was.get(name), is.get(name), node, skip);
                }
            }
            (Value::Array(was), Value::Array(is)) => {
                let node = node.and_then(|node| node.items.as_deref());
                for n in 0..was.len().max(is.len()) {
                    let (shown, place) = (format!("{}[{n}]", at.0), format!("{}[*]", at.1));
                    self.child(At(&shown, &place), was.get(n), is.get(n), node, skip);
                    if self.lines.len() > MAX_DIFFERENCES {
                        return;
                    }
                }
            }
            // `1` and `1.0` mean the same to the matcher.
            (Value::Number(was), Value::Number(is))
                if was.as_f64() == is.as_f64() && was.is_f64() != is.is_f64() => {}
            (was, is) if was == is => {}
            (was, is) => self.values(at, Some(was), Some(is)),
        }
    }

    fn child(
        &mut self,
        at: At<'_>,
        recorded: Option<&Value>,
        asked: Option<&Value>,
        node: Option<&Node>,
        skip: &dyn Fn(&[u8]) -> bool,
    ) {
        match (recorded, asked) {
            (Some(was), Some(is)) => self.json(at, was, is, node, skip),
            (was, is) => {
                let compare = node.and_then(|node| node.compare.as_ref());
                if !matches!(compare, Some(Compare::Ignore)) {
                    self.values(at, was, is);
                }
            }
        }
    }

    fn values(&mut self, at: At<'_>, recorded: Option<&Value>, asked: Option<&Value>) {
        let show = |value: Option<&Value>| value.map(Value::to_string);
        self.compare(
            at.0,
            &|| Part::Body(at.1.to_owned()),
            show(recorded).as_deref().map(str::as_bytes),
            show(asked).as_deref().map(str::as_bytes),
        );
    }
}

/// A place in JSON: as it is shown, and as a rules file names it.
#[derive(Clone, Copy, Debug)]
struct At<'a>(&'a str, &'a str);

impl At<'_> {
    const ROOT: Self = Self("body", "$");

    fn member(self, name: &str) -> (String, String) {
        let shown = format!("{}.{name}", self.0);
        (shown, member_place(self.1, name))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A value as it is shown: not longer than a line.
fn short(value: &[u8]) -> String {
    match value.split_at_checked(MAX_SHOWN) {
        Some((start, rest)) if !rest.is_empty() => format!("{}...", text(start)),
        _ => text(value),
    }
}

/// What a client is told of a miss, in JSON or as text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told([Option<Arc<Answer>>; 2]);

impl Told {
    /// The answer to a request of that method; made once.
    fn answer(&mut self, miss: &Miss, method: &[u8], as_text: bool) -> Arc<Answer> {
        let [json, text] = &mut self.0;
        let told = if as_text { text } else { json };
        let answer = told.get_or_insert_with(|| {
            let (media, body) = if as_text {
                (&b"text/plain; charset=utf-8"[..], miss.to_text())
            } else {
                (&b"application/json"[..], miss.to_json())
            };
            let status = StatusCode::NOT_IMPLEMENTED;
            Arc::new(Answer::not_recorded(method, status, media, &body))
        });
        Arc::clone(answer)
    }
}

/// Whether a client would rather read text than JSON: a browser, or who says so.
pub(crate) fn wants_text(call: &Call<'_>) -> bool {
    let accept = call.headers.get("accept").unwrap_or_default();
    let media = |part: &[u8]| {
        let end = part.iter().position(|byte| *byte == b';');
        let media = part.get(..end.unwrap_or(part.len())).unwrap_or_default();
        media.trim_ascii().to_ascii_lowercase()
    };
    let named: Vec<_> = accept.split(|byte| *byte == b',').map(media).collect();
    let takes = |kind: &[u8]| named.iter().any(|media| media.starts_with(kind));
    takes(b"text/") && !takes(b"application/json") && !takes(b"application/*")
}

/// The misses of a mock, each distinct one once.
#[derive(Default)]
pub(crate) struct MissLog {
    places: HashMap<u128, usize>,
    misses: Vec<(Miss, Told)>,
    /// All, listed or not.
    total: u64,
}

impl MissLog {
    /// Counts a miss that is listed already, and gives the answer that it got.
    pub(crate) fn again(
        &mut self,
        identity: u128,
        reason: &str,
        method: &[u8],
        as_text: bool,
    ) -> Option<Arc<Answer>> {
        let at = self.places.get(&identity)?;
        let (miss, told) = self.misses.get_mut(*at)?;
        // Used up is another reason than never recorded.
        if miss.reason != reason {
            return None;
        }
        miss.count += 1;
        self.total += 1;
        Some(told.answer(miss, method, as_text))
    }

    /// Counts a new miss, lists it if there is room, and gives its answer.
    pub(crate) fn note(
        &mut self,
        identity: u128,
        miss: Miss,
        method: &[u8],
        as_text: bool,
        max: usize,
    ) -> Arc<Answer> {
        self.total += 1;
        let mut told = Told::default();
        let answer = told.answer(&miss, method, as_text);
        if let Some((known, _)) = self
            .places
            .get(&identity)
            .and_then(|at| self.misses.get_mut(*at))
        {
            known.count += 1;
        } else if self.misses.len() < max {
            self.places.insert(identity, self.misses.len());
            self.misses.push((miss, told));
        }
        answer
    }

    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// The rules that would resolve them.
    pub(crate) fn remedies(&self) -> Vec<Remedy> {
        let misses = self.misses.iter();
        remedy::count(misses.filter_map(|(miss, _)| Some((miss.rule.as_deref()?, miss.count))))
    }

    pub(crate) fn list(&self) -> Vec<Miss> {
        self.misses.iter().map(|(miss, _)| miss.clone()).collect()
    }
}

/// Recorded requests of one path that are looked at.
const MAX_CANDIDATES: usize = 256;
/// Recorded paths that are looked at.
const MAX_PATHS: usize = 4096;
/// Recorded requests that are compared in detail: their bodies are read.
const MAX_EXPLAINED: usize = 16;
/// Recorded requests that are named.
const MAX_NEAREST: usize = 3;
/// Differences that are named for each.
const MAX_DIFFERENCES: usize = 10;
/// Parts that a proposed rule names.
const MAX_PARTS: usize = 32;
/// Bytes of a JSON body that is still compared member by member.
const MAX_DIFFED: usize = 1 << 20;
/// Bytes of a value that are shown.
const MAX_SHOWN: usize = 80;

#[cfg(test)]
mod tests;
