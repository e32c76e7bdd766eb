//! What can be asked.

use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::{Control, metrics, openapi};
use crate::mock::chaos::Chaos;
use crate::mock::journal::Written;
use crate::mock::responder::Hits;
use crate::mock::stats::Stats;

/// A request to the control port.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) query: String,
    pub(super) body: Bytes,
}

/// What it gets.
#[derive(Debug)]
pub(super) enum Reply {
    Json(StatusCode, Value),
    /// Media type and text.
    Text(&'static str, String),
    Problem(StatusCode, String),
}

/// A thing that can be asked.
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// In one line, for the OpenAPI document.
    pub(super) summary: &'static str,
    /// Query parameters: name, and what it says.
    pub(super) query: &'static [(&'static str, &'static str)],
    /// The body that it takes.
    pub(super) takes: Option<&'static str>,
    /// Status and description of each answer.
    pub(super) gives: &'static [(u16, &'static str)],
    pub(super) answer: fn(&Control, &Asked) -> Reply,
}

/// Everything that can be asked.
pub(super) const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/status",
        summary: "What the mock has done so far",
        query: &[],
        takes: None,
        gives: &[(200, "Counts")],
        answer: status,
    },
    Route {
        method: "GET",
        path: "/hits",
        summary: "How often each recorded exchange answered, in recorded order",
        query: &[
            ("from", "The first exchange id; 0 if left out"),
            (
                "limit",
                "How many exchanges at most, up to 10000; 1000 if left out",
            ),
            ("uncalled", "`true`: only exchanges that never answered"),
        ],
        takes: None,
        gives: &[
            (
                200,
                "Exchanges, and in `next` where to go on, if there are more",
            ),
            (400, "A parameter is wrong"),
        ],
        answer: hits,
    },
    Route {
        method: "GET",
        path: "/misses",
        summary: "Requests that nothing recorded answers, with the nearest recorded ones, and the rules by which those would",
        query: &[],
        takes: None,
        gives: &[(200, "Each distinct miss once")],
        answer: misses,
    },
    Route {
        method: "POST",
        path: "/reset",
        summary: "Repeated requests begin anew with their first recorded answer; hits, misses and fault counts become 0",
        query: &[],
        takes: None,
        gives: &[(200, "Done")],
        answer: reset,
    },
    Route {
        method: "GET",
        path: "/chaos",
        summary: "The faults that are on, and how often each struck",
        query: &[],
        takes: None,
        gives: &[(200, "Rules and counts")],
        answer: chaos,
    },
    Route {
        method: "PUT",
        path: "/chaos",
        summary: "Other faults from now on; their time begins now",
        query: &[],
        takes: Some("A chaos file (docs/chaos.md), YAML or JSON"),
        gives: &[
            (200, "The rules that are on now"),
            (
                400,
                "A mistake, with line and column; the faults stay as they were",
            ),
        ],
        answer: set_chaos,
    },
    Route {
        method: "DELETE",
        path: "/chaos",
        summary: "No faults from now on",
        query: &[],
        takes: None,
        gives: &[(200, "Done")],
        answer: end_chaos,
    },
    Route {
        method: "POST",
        path: "/shutdown",
        summary: "Ends the mock as a signal would: answers on their way are finished",
        query: &[],
        takes: None,
        gives: &[
            (202, "It ends"),
            (409, "It is part of another program, which has to end it"),
        ],
        answer: shutdown,
    },
    Route {
        method: "GET",
        path: "/metrics",
        summary: "Counters for Prometheus",
        query: &[],
        takes: None,
        gives: &[(200, "OpenMetrics text")],
        answer: |control, _| {
            Reply::Text(
                metrics::CONTENT_TYPE,
                metrics::render(&control.responder.stats()),
            )
        },
    },
    Route {
        method: "GET",
        path: "/openapi.json",
        summary: "This description",
        query: &[],
        takes: None,
        gives: &[(200, "OpenAPI 3.1")],
        answer: |_, _| Reply::Json(StatusCode::OK, openapi::document(ROUTES)),
    },
];

fn ok(document: Value) -> Reply {
    Reply::Json(StatusCode::OK, document)
}

fn bad(why: impl Into<String>) -> Reply {
    Reply::Problem(StatusCode::BAD_REQUEST, why.into())
}

fn status(control: &Control, _: &Asked) -> Reply {
    let stats = control.responder.stats();
    let Stats {
        connections,
        connections_refused,
        hits,
        misses,
        passed,
        upstream_failures,
        refused,
        timeouts,
        overloads,
        unreadable,
        tls_without_authority,
        tls_failures,
        skipped,
        cache_bytes,
        received,
        recorded,
        // These have paths of their own.
        hits_by_exchange: _,
        missed: _,
        remedies: _,
        faults: _,
    } = &stats;
    ok(json!({
        "listening": control.mock.to_string(),
        "uptime_seconds": control.began.elapsed().as_secs_f64(),
        "served": control.responder.served(),
        "skipped": {
            "request_incomplete": skipped.request_incomplete,
            "response_incomplete": skipped.response_incomplete,
            "tunnels": skipped.tunnels,
            "too_large": skipped.too_large,
            "unreadable": skipped.unreadable,
        },
        "connections": connections,
        "connections_refused": connections_refused,
        "hits": hits,
        "misses": misses,
        "passed": passed,
        "upstream_failures": upstream_failures,
        "refused": refused,
        "timeouts": timeouts,
        "overloads": overloads,
        "unreadable": unreadable,
        "tls_without_authority": tls_without_authority,
        "tls_failures": tls_failures,
        "cache_bytes": cache_bytes,
        "received": received.as_ref().map(written),
        "recorded": recorded.as_ref().map(written),
    }))
}

fn written(written: &Written) -> Value {
    let Written {
        exchanges,
        dropped,
        failed,
    } = written;
    json!({ "exchanges": exchanges, "dropped": dropped, "failed": failed })
}

/// Exchanges in one answer: what a person scrolls, and what a script takes at once.
const DEFAULT_LIMIT: usize = 1000;
const MAX_LIMIT: usize = 10_000;

fn hits(control: &Control, asked: &Asked) -> Reply {
    let (mut from, mut limit, mut uncalled) = (0, DEFAULT_LIMIT, false);
    for pair in asked.query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let read = match name {
            "from" => value.parse().map(|n| from = n).is_ok(),
            "limit" => {
                value.parse().map(|n: usize| limit = n).is_ok() && (1..=MAX_LIMIT).contains(&limit)
            }
            "uncalled" => value.parse().map(|yes| uncalled = yes).is_ok(),
            _ => {
                return bad(format!(
                    "there is no parameter {name:?}: from, limit, uncalled"
                ));
            }
        };
        if !read {
            return bad(format!(
                "{name}={value}: from takes an exchange id, limit 1 to {MAX_LIMIT}, uncalled true or false"
            ));
        }
    }
    let mut exchanges = Vec::new();
    let next = control.responder.each_hit(from, uncalled, |hits| {
        let Hits {
            id,
            method,
            target,
            hits,
        } = hits;
        exchanges.push(json!({ "exchange": id, "method": method, "target": target, "hits": hits }));
        exchanges.len() < limit
    });
    ok(json!({ "exchanges": exchanges, "next": next }))
}

fn misses(control: &Control, _: &Asked) -> Reply {
    let stats = control.responder.stats();
    let listed: Vec<_> = stats
        .missed
        .iter()
        .map(|miss| {
            let mut document = miss.to_document();
            document["count"] = miss.count.into();
            document
        })
        .collect();
    let remedies: Vec<_> = stats
        .remedies
        .iter()
        .map(|remedy| json!({ "rule": remedy.rule, "requests": remedy.requests }))
        .collect();
    ok(json!({ "total": stats.misses, "distinct": listed, "rules": remedies }))
}

fn reset(control: &Control, _: &Asked) -> Reply {
    control.responder.reset();
    ok(json!({ "reset": true }))
}

fn chaos(control: &Control, _: &Asked) -> Reply {
    let faults = control.responder.faults();
    let counts = faults.counts();
    let rules: Vec<_> = faults
        .rules()
        .into_iter()
        .map(|(name, what)| {
            let struck = counts.get(&name).copied().unwrap_or(0);
            json!({ "name": name, "what": what, "struck": struck })
        })
        .collect();
    ok(json!({ "rules": rules }))
}

fn set_chaos(control: &Control, asked: &Asked) -> Reply {
    let Ok(text) = std::str::from_utf8(&asked.body) else {
        return bad("a chaos file is UTF-8 text");
    };
    let parsed = match Chaos::parse(text) {
        Ok(parsed) => parsed,
        Err(error) => return bad(error.to_string()),
    };
    match control.responder.set_chaos(Some(parsed)) {
        Ok(()) => chaos(control, asked),
        Err(error) => Reply::Problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn end_chaos(control: &Control, asked: &Asked) -> Reply {
    match control.responder.set_chaos(None) {
        Ok(()) => chaos(control, asked),
        Err(error) => Reply::Problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn shutdown(control: &Control, _: &Asked) -> Reply {
    match &control.on_shutdown {
        Some(on_shutdown) => {
            on_shutdown();
            Reply::Json(StatusCode::ACCEPTED, json!({ "shutdown": true }))
        }
        None => Reply::Problem(
            StatusCode::CONFLICT,
            "this mock is part of another program, which has to end it".to_owned(),
        ),
    }
}
