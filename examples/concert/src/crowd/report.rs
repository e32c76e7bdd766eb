//! What the crowd saw, in a form that two runs can be compared by.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use xxhash_rust::xxh3::Xxh3;

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// The connection was refused, or not made in time.
    Connect,
    /// The connection ended, or what came was not HTTP.
    Broken,
    /// The crowd's own code panicked.
    Panicked,
    /// No whole answer in time.
    TimedOut,
    /// The answer's body was not what the service promises.
    Unexpected,
}

/// What was asked and answered.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Report {
    /// Calls that were answered.
    pub requests: u64,
    /// How many answers had which status.
    pub by_status: BTreeMap<u16, u64>,
    /// The same for each endpoint.
    pub by_endpoint: BTreeMap<String, BTreeMap<u16, u64>>,
    /// What was asked (method, target, body), whatever the order.
    #[serde(serialize_with = "hex")]
    pub requests_hash: u64,
    /// What was answered (endpoint, status, body), whatever the order.
    #[serde(serialize_with = "hex")]
    pub bodies_hash: u64,
    /// Calls without an answer, or without one that could be used.
    pub failures: BTreeMap<Failure, u64>,
}

impl Report {
    /// Counts a call and its answer.
    pub(super) fn answered(&mut self, call: &Answered<'_>) {
        let Answered {
            method,
            target,
            asked,
            status,
            answer,
        } = *call;
        self.requests += 1;
        *self.by_status.entry(status).or_default() += 1;
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        let endpoint = format!("{method} {path}");
        // A sum does not depend on the order of its parts, and, unlike an exclusive or, does not
        // lose what comes twice.
        let request = hash(&[method.as_bytes(), target.as_bytes(), asked]);
        self.requests_hash = self.requests_hash.wrapping_add(request);
        let body = hash(&[endpoint.as_bytes(), &status.to_le_bytes(), answer]);
        self.bodies_hash = self.bodies_hash.wrapping_add(body);
        let by_status = self.by_endpoint.entry(endpoint).or_default();
        *by_status.entry(status).or_default() += 1;
    }

    /// Counts a call without a usable answer.
    pub(super) fn failed(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }

    /// Adds what another user saw.
    pub(super) fn add(&mut self, other: &Self) {
        let Self {
            requests,
            by_status,
            by_endpoint,
            requests_hash,
            bodies_hash,
            failures,
        } = other;
        self.requests += requests;
        self.requests_hash = self.requests_hash.wrapping_add(*requests_hash);
        self.bodies_hash = self.bodies_hash.wrapping_add(*bodies_hash);
        add_counts(&mut self.by_status, by_status);
        add_counts(&mut self.failures, failures);
        for (endpoint, by_status) in by_endpoint {
            let own = self.by_endpoint.entry(endpoint.clone()).or_default();
            add_counts(own, by_status);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (endpoint, by_status) in &self.by_endpoint {
            write!(f, "{endpoint:<36}")?;
            for (status, count) in by_status {
                write!(f, "  {status}: {count}")?;
            }
            writeln!(f)?;
        }
        for (failure, count) in &self.failures {
            writeln!(f, "failed ({failure:?}): {count}")?;
        }
        write!(f, "{} calls answered", self.requests)
    }
}

/// A call and its answer.
#[derive(Clone, Copy)]
pub(super) struct Answered<'a> {
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    pub(super) asked: &'a [u8],
    pub(super) status: u16,
    pub(super) answer: &'a [u8],
}

fn add_counts<K: Copy + Ord>(counts: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (key, count) in more {
        *counts.entry(*key).or_default() += count;
    }
}

/// Of all parts, with their lengths: what moves from one part to the next must change the hash.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = Xxh3::new();
    for part in parts {
        hash.update(&part.len().to_le_bytes());
        hash.update(part);
    }
    hash.digest()
}

fn hex<S: Serializer>(hash: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(target: &str, status: u16, answer: &[u8]) -> Report {
        let mut report = Report::default();
        report.answered(&Answered {
            method: "GET",
            target,
            asked: b"",
            status,
            answer,
        });
        report
    }

    #[test]
    fn the_order_does_not_matter_but_everything_else_does() {
        let (one, two) = (seen("/a?x=1", 200, b"1"), seen("/a?x=2", 409, b"2"));
        let mut forth = one.clone();
        forth.add(&two);
        let mut back = two.clone();
        back.add(&one);
        assert_eq!(forth, back);
        assert_eq!(forth.requests, 2);
        assert_eq!(forth.by_endpoint["GET /a"][&409], 1);
        assert_ne!(one.requests_hash, two.requests_hash);
        assert_ne!(one.bodies_hash, seen("/a?x=1", 200, b"2").bodies_hash);
        assert_ne!(one.bodies_hash, seen("/a?x=1", 201, b"1").bodies_hash);
        let mut twice = one.clone();
        twice.add(&one);
        assert_ne!(twice.bodies_hash, Report::default().bodies_hash);
    }

    #[test]
    fn json_has_the_keys_that_runs_are_compared_by() {
        let mut report = seen("/a", 200, b"1");
        report.failed(Failure::TimedOut);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["requests"], 1);
        assert_eq!(json["by_status"]["200"], 1);
        assert_eq!(json["by_endpoint"]["GET /a"]["200"], 1);
        assert_eq!(json["failures"]["timed-out"], 1);
        assert_eq!(json["bodies_hash"].as_str().unwrap().len(), 16);
    }
}
