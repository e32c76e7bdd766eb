//! Two archives, compared as the mock compares requests.

use tapedeck_filter::Filter;
use tapedeck_model::{Exchange, Missing};
use tapedeck_replayer::mock::{Diff, DiffOptions, DiffedRequest, Rules};

use crate::tape::{Case, GET, archive};

fn post(target: &'static str, asked: &'static str) -> Case {
    Case {
        method: "POST",
        target,
        asked,
        ..GET
    }
}

fn get(target: &'static str) -> Case {
    Case { target, ..GET }
}

fn exchanges(cases: &[Case]) -> Vec<Exchange> {
    (0..)
        .zip(cases)
        .map(|(key, case)| case.exchange(key))
        .collect()
}

fn diff(recorded: &[Case], received: &[Case], options: &DiffOptions) -> Diff {
    let (_one, recorded) = archive(&exchanges(recorded));
    let (_other, received) = archive(&exchanges(received));
    Diff::of(recorded, received, options).unwrap()
}

/// What changed, what is missing, and what was added, in a line each.
fn told(diff: &Diff) -> Vec<String> {
    let line =
        |request: &DiffedRequest| format!("{} {} {}", request.id, request.method, request.target);
    let changed = diff.changed.list.iter().map(|changed| {
        let (was, is) = (line(&changed.recorded), line(&changed.received));
        format!("{was} -> {is}: {}", changed.differs.join("; "))
    });
    let missing = diff
        .missing
        .list
        .iter()
        .map(|missing| format!("missing {}", line(missing)));
    let added = diff.added.list.iter().map(|added| {
        format!(
            "added {} ({} times recorded)",
            line(&added.received),
            added.recorded
        )
    });
    changed.chain(missing).chain(added).collect()
}

fn by_rules(text: &str) -> DiffOptions {
    DiffOptions {
        rules: Rules::parse(text).unwrap(),
        ..DiffOptions::default()
    }
}

#[test]
fn what_means_the_same_is_the_same_in_any_order() {
    let recorded = [
        get("/a?x=1&y=2"),
        post("/pay", r#"{"amount":1,"to":"x"}"#),
        get("/a?x=1&y=2"),
    ];
    let received = [
        post("/pay", r#"{ "to": "x", "amount": 1.0 }"#),
        get("/a?y=2&x=1"),
        get("/%61?x=1&y=2"),
    ];
    let found = diff(&recorded, &received, &DiffOptions::default());
    assert_eq!((found.same, told(&found)), (3, Vec::new()));
    assert!(found.is_empty() && found.remedies.is_empty());
}

#[test]
fn what_changed_is_told_by_field_and_with_the_rule_that_allows_it() {
    let recorded = [
        post("/pay", r#"{"amount":1,"nonce":"a"}"#),
        post("/pay", r#"{"amount":2,"nonce":"b"}"#),
        get("/users/17/cart"),
        get("/gone"),
        get("/twice"),
    ];
    let received = [
        post("/pay", r#"{"amount":2,"nonce":"c"}"#),
        post("/pay", r#"{"amount":1,"nonce":"d"}"#),
        get("/users/18/cart"),
        get("/new"),
        get("/twice"),
        get("/twice"),
    ];
    let strict = diff(&recorded, &received, &DiffOptions::default());
    let expected = [
        r#"1 POST /pay -> 0 POST /pay: body.nonce: recorded "b", got "c""#,
        r#"0 POST /pay -> 1 POST /pay: body.nonce: recorded "a", got "d""#,
        "2 GET /users/17/cart -> 2 GET /users/18/cart: path: recorded /users/17/cart, got /users/18/cart",
        "missing 3 GET /gone",
        "added 3 GET /new (0 times recorded)",
        "added 5 GET /twice (1 times recorded)",
    ];
    assert_eq!(told(&strict), expected);
    assert_eq!(strict.same, 1);
    let rule = &strict.remedies[0];
    assert_eq!(rule.requests, 2);

    // The rules that it tells are the rules that it takes.
    let rules: String = strict
        .remedies
        .iter()
        .map(|remedy| remedy.rule.as_str())
        .collect();
    let allowed = diff(&recorded, &received, &by_rules(&format!("rules:\n{rules}")));
    assert_eq!(told(&allowed), expected[3..]);
    assert_eq!(allowed.same, 4);
}

#[test]
fn an_equal_request_is_not_spent_on_one_that_a_rule_lets_through() {
    let recorded = [get("/a?ts=1"), get("/a?ts=2")];
    let received = [get("/a?ts=9"), get("/a?ts=1")];
    let options = by_rules("rules:\n  - request: GET /a\n    query: {ts: ignore}\n");
    let found = diff(&recorded, &received, &options);
    assert_eq!((found.same, told(&found)), (2, Vec::new()));
    // Each recorded request stands for one: a third is too many.
    let found = diff(&recorded, &[received, received].concat(), &options);
    assert_eq!((found.same, found.added.total), (2, 2));
}

#[test]
fn fields_of_heads_count_where_a_rule_names_them() {
    let (recorded, received) = (
        [get("/a")],
        [Case {
            host: "elsewhere",
            ..get("/a")
        }],
    );
    let found = diff(&recorded, &received, &DiffOptions::default());
    assert!(found.is_empty());
    let options = by_rules("rules:\n  - request: GET /a\n    headers: {host: equal}\n");
    let found = diff(&recorded, &received, &options);
    let expected = ["0 GET /a -> 0 GET /a: header host: recorded shop.local, got elsewhere"];
    assert_eq!(told(&found), expected);
}

#[test]
fn lists_are_bounded_and_totals_are_not() {
    let recorded = [get("/a"), get("/b"), get("/c")];
    let options = DiffOptions {
        listed: 2,
        ..DiffOptions::default()
    };
    let found = diff(&recorded, &[get("/d")], &options);
    assert_eq!((found.missing.total, found.missing.list.len()), (3, 2));
    let chosen = DiffOptions {
        filter: Some(Filter::parse("request.path != '/d'").unwrap()),
        ..options
    };
    assert_eq!(diff(&recorded, &[get("/d")], &chosen).added.total, 0);
}

#[test]
fn what_is_not_whole_is_counted_and_not_compared() {
    let mut cut = exchanges(&[get("/a"), get("/b")]);
    cut[1].request.as_mut().unwrap().missing = Missing::LOST;
    let (_one, recorded) = archive(&cut);
    let (_other, received) = archive(&exchanges(&[get("/a")]));
    let found = Diff::of(recorded, received, &DiffOptions::default()).unwrap();
    assert!(found.is_empty());
    assert_eq!(found.left_out, [1, 0]);
    let (_one, nothing) = archive(&[]);
    let (_other, received) = archive(&exchanges(&[get("/a")]));
    let found = Diff::of(nothing, received, &DiffOptions::default()).unwrap();
    assert_eq!(told(&found), ["added 0 GET /a (0 times recorded)"]);
}

/// A received request is compared with as many of its endpoint as [`Diff`] looks at, the first ones: one that is
/// nearer behind them is not found, and takes no time.
#[test]
fn few_of_an_endpoint_are_looked_at() {
    const LOOKED_AT: usize = 16;
    for (before, nearest) in [(LOOKED_AT - 1, LOOKED_AT - 1), (LOOKED_AT, 0)] {
        let mut recorded = vec![post("/pay", r#"{"amount":1,"to":"x","nonce":"a"}"#); before];
        recorded.push(post("/pay", r#"{"amount":7,"to":"y","nonce":"a"}"#));
        let received = [post("/pay", r#"{"amount":7,"to":"y","nonce":"b"}"#)];
        let found = diff(&recorded, &received, &DiffOptions::default());
        let changed = &found.changed.list[0];
        assert_eq!(changed.recorded.id, nearest as u64, "behind {before}");
        assert_eq!(found.missing.total, before as u64);
    }
}

/// Each endpoint changed in a way of its own: rules beyond the limit are not counted, requests are.
#[test]
fn distinct_rules_are_bounded() {
    const RULES: usize = 1_000;
    let target = |number: usize, letter: char| -> &'static str {
        // No ids: each is an endpoint of its own.
        let name: String = format!("{number:04}")
            .bytes()
            .map(|digit| char::from(digit - b'0' + b'a'))
            .collect();
        Box::leak(format!("/{name}?q={letter}").into_boxed_str())
    };
    let of = |letter| -> Vec<Case> {
        (0..=RULES)
            .map(|number| get(target(number, letter)))
            .collect()
    };
    let options = DiffOptions {
        listed: 1,
        ..DiffOptions::default()
    };
    let found = diff(&of('a'), &of('b'), &options);
    assert_eq!(found.changed.total, RULES as u64 + 1);
    assert!(!found.remedies.is_empty() && found.remedies.len() <= RULES);
}
