//! The rule that would have let a recorded request answer.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::mock::call::normal_path;

/// A part in which two requests differ.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Part {
    Authority,
    Path,
    Query(String),
    /// A place in a body, as a rules file names it.
    Body(String),
    /// No rule lets this through.
    Fixed,
}

/// Rules for misses, each with the number of misses that it would resolve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remedy {
    /// A rule, as it stands in a rules file below `rules:`.
    pub rule: String,
    /// How many requests it would let through.
    pub requests: u64,
}

/// The rule by which a request of that method and path differs in nothing any more. `None`: there is
/// none. The parts come with whether both requests have them.
pub(super) fn rule(
    method: &[u8],
    was: &[u8],
    is: &[u8],
    parts: &BTreeMap<Part, bool>,
) -> Option<String> {
    let whole = Part::Body("$".to_owned());
    if parts.is_empty() || parts.contains_key(&Part::Fixed) {
        return None;
    }
    let method = std::str::from_utf8(method).ok()?;
    let (path, named) = pattern(&normal_path(was), &normal_path(is))?;
    // JSON strings are YAML strings, whatever is in them.
    let quoted = |text: &str| Value::from(text).to_string();
    let mut rule = format!("  - request: {}\n", quoted(&format!("{method} {path}")));
    if parts.contains_key(&Part::Authority) {
        rule.push_str("    authority: ignore\n");
    }
    let mut section = |name: &str, lines: Vec<(String, bool)>| {
        if !lines.is_empty() {
            // Writing to a string never fails.
            let _written = writeln!(rule, "    {name}:");
        }
        for (place, both) in lines {
            let compare = if both { "presence" } else { "ignore" };
            let _written = writeln!(rule, "      {}: {compare}", quoted(&place));
        }
    };
    section("path", named.into_iter().map(|name| (name, true)).collect());
    let of = |choose: fn(&Part) -> Option<&String>| {
        let found = parts
            .iter()
            .filter_map(|(part, both)| Some((choose(part)?.clone(), *both)));
        found.collect::<Vec<_>>()
    };
    section(
        "query",
        of(|part| match part {
            Part::Query(name) => Some(name),
            _ => None,
        }),
    );
    if parts.contains_key(&whole) {
        section("body", vec![("$".to_owned(), false)]);
    } else {
        section(
            "body",
            of(|part| match part {
                Part::Body(place) => Some(place),
                _ => None,
            }),
        );
    }
    Some(rule)
}

/// A pattern that fits both paths, and the names of the segments in which they differ.
fn pattern(was: &[u8], is: &[u8]) -> Option<(String, Vec<String>)> {
    let (was, is) = (
        std::str::from_utf8(was).ok()?,
        std::str::from_utf8(is).ok()?,
    );
    if !was.starts_with('/') || was.split('/').count() != is.split('/').count() {
        return None;
    }
    let (mut pattern, mut named) = (String::new(), Vec::new());
    for (was, is) in was.split('/').zip(is.split('/')).skip(1) {
        pattern.push('/');
        if was != is {
            let name = format!("p{}", named.len() + 1);
            let _written = write!(pattern, "{{{name}}}");
            named.push(name);
        } else if was.contains(['{', '}', '*', ' ']) {
            return None;
        } else {
            pattern.push_str(was);
        }
    }
    Some((pattern, named))
}

/// Counts what each rule would let through, the most first.
pub(super) fn count<'r>(misses: impl Iterator<Item = (&'r str, u64)>) -> Vec<Remedy> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (rule, requests) in misses {
        *counts.entry(rule).or_default() += requests;
    }
    let mut remedies: Vec<_> = counts
        .into_iter()
        .map(|(rule, requests)| Remedy {
            rule: rule.to_owned(),
            requests,
        })
        .collect();
    // Stable: of equally many, by their text.
    remedies.sort_by_key(|remedy| std::cmp::Reverse(remedy.requests));
    remedies
}
