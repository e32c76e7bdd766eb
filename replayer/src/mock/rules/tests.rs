use proptest::prelude::*;

use super::body::{Place, Step};
use super::*;
use crate::mock::call::Headers;
use crate::mock::fingerprint;
use crate::mock::index::{Builder, Found, Index};
use crate::mock::options::Repeat;

fn call<'a>(method: &'a str, target: &'a str, body: &'a [u8]) -> Call<'a> {
    Call {
        method: method.as_bytes(),
        authority: None,
        target: target.as_bytes(),
        content_type: None,
        session: None,
        headers: Headers::None,
        body,
    }
}

fn post<'a>(body: &'a str) -> Call<'a> {
    call("POST", "/pay", body.as_bytes())
}

fn rules(text: &str) -> Rules {
    Rules::parse(text).unwrap()
}

fn index(rules: Rules, calls: &[Call<'_>]) -> Index {
    let authorities = calls.iter().filter_map(|call| call.split().authority);
    let mut builder = Builder::new(rules, Repeat::Last, authorities);
    for (id, call) in (0..).zip(calls) {
        builder.add(id, call);
    }
    builder.finish(|id| calls[id as usize].session.map(fingerprint::session))
}

/// What answers, with this one rule.
#[track_caller]
fn answers(rule: &str, recorded: &[Call<'_>], asked: Call<'_>, expect: Option<u32>) {
    let index = index(rules(&format!("rules:\n  - {rule}\n")), recorded);
    let found = match index.find(&asked) {
        Found::Exchange(id) => Some(id),
        _ => None,
    };
    assert_eq!(found, expect, "{rule}");
}

#[test]
fn patterns_fit_methods_and_paths() {
    for (pattern, fits, not) in [
        (
            "POST /a/{id}",
            &["POST /a/1"][..],
            &["GET /a/1", "POST /a/1/b", "POST /a/", "POST /a"][..],
        ),
        (
            "/a/**",
            &["GET /a", "GET /a/b", "POST /a/b/c"],
            &["GET /ab", "GET /"],
        ),
        ("GET **", &["GET /", "GET /a/b"], &["POST /"]),
        ("* /{x}/{y}", &["PUT /a/b"], &["PUT /a", "PUT /a/"]),
        ("/", &["GET /"], &["GET /a"]),
    ] {
        let parsed = Pattern::parse(pattern).unwrap();
        let fit = |text: &str| {
            let (method, path) = text.split_once(' ').unwrap();
            parsed.fits(method.as_bytes(), path.as_bytes())
        };
        assert!(fits.iter().all(|text| fit(text)), "{pattern}");
        assert!(!not.iter().any(|text| fit(text)), "{pattern}");
    }
    for wrong in [
        "", "pay", "GET", "/a{b}", "/{}", "/a/*", "/{a}/{a}", "/**/a",
    ] {
        assert!(Pattern::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn places_are_paths() {
    let member = |name: &str| Step::Member(name.to_owned());
    for (text, expect) in [
        ("nonce", Place::Anywhere("nonce".to_owned())),
        ("$..nonce", Place::Anywhere("nonce".to_owned())),
        ("$", Place::Path(vec![])),
        (
            "$.a[*].b",
            Place::Path(vec![member("a"), Step::Items, member("b")]),
        ),
        ("$['a.b'][*]", Place::Path(vec![member("a.b"), Step::Items])),
    ] {
        assert_eq!(Place::parse(text).unwrap(), expect, "{text}");
    }
    for wrong in ["$a", "$.", "$.a.", "$[0]", "$['a", "$..a.b", "$..."] {
        assert!(Place::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn each_way_of_comparing_lets_through_what_it_says() {
    let one = [post(r#"{"a":1,"n":"x1"}"#)];
    for (compare, same, other) in [
        ("equal", r#"{"n":"x1","a":1}"#, r#"{"a":1,"n":"x2"}"#),
        ("ignore", r#"{"a":1}"#, r#"{"a":2}"#),
        ("presence", r#"{"a":1,"n":null}"#, r#"{"a":1}"#),
        ("type", r#"{"a":1,"n":"other"}"#, r#"{"a":1,"n":7}"#),
        (
            "{matches: 'x\\d+'}",
            r#"{"a":1,"n":"x987"}"#,
            r#"{"a":1,"n":"x987y"}"#,
        ),
    ] {
        for place in ["n", "$.n"] {
            let rule = format!("body: {{{place}: {compare}}}");
            answers(&rule, &one, post(same), Some(0));
            answers(&rule, &one, post(other), None);
        }
    }
    // A path is exact about where.
    let deep = [post(r#"{"a":{"n":1},"n":1}"#)];
    answers(
        "body: {$.n: ignore}",
        &deep,
        post(r#"{"a":{"n":1},"n":2}"#),
        Some(0),
    );
    answers(
        "body: {$.n: ignore}",
        &deep,
        post(r#"{"a":{"n":2},"n":1}"#),
        None,
    );
    answers(
        "body: {n: ignore}",
        &deep,
        post(r#"{"a":{"n":2},"n":3}"#),
        Some(0),
    );
    let items = [post(r#"{"i":[{"id":1,"q":2},{"id":3,"q":4}]}"#)];
    let rule = "body: {'$.i[*].id': type}";
    answers(
        rule,
        &items,
        post(r#"{"i":[{"id":8,"q":2},{"id":9,"q":4}]}"#),
        Some(0),
    );
    answers(
        rule,
        &items,
        post(r#"{"i":[{"id":8,"q":4},{"id":9,"q":2}]}"#),
        None,
    );
    answers(
        rule,
        &items,
        post(r#"{"i":[{"id":"8","q":2},{"id":9,"q":4}]}"#),
        None,
    );
    // Any body, JSON or not.
    answers("body: {$: ignore}", &one, post("plain"), Some(0));
    answers("body: {$: presence}", &one, post("plain"), Some(0));
    answers("body: {$: presence}", &one, post(""), None);
}

#[test]
fn paths_queries_heads_and_forms_are_compared_alike() {
    let get = |target| call("GET", target, b"");
    let one = [get("/users/7/cart?ts=17&page=1")];
    let rule = "{request: 'GET /users/{id}/cart', path: {id: type}, query: {ts: ignore}}";
    answers(rule, &one, get("/users/8/cart?page=1"), Some(0));
    answers(rule, &one, get("/users/8/cart?page=2"), None);
    answers(rule, &one, get("/users/ann/cart?page=1"), None);
    answers(rule, &one, get("/users/8/carts?page=1"), None);

    let tenant = |lines: &'static str| Call {
        headers: Headers::Lines(lines.as_bytes()),
        ..get("/a")
    };
    let recorded = [tenant("X-Tenant: a\r\n"), tenant("X-Tenant: b\r\n")];
    let rule = "headers: {X-Tenant: equal}";
    // Equal requests, but for the field: the index alone would give them one after the other.
    for (asked, expect) in [
        ("x-tenant: b\r\n", Some(1)),
        ("x-tenant:  a \r\nother: 1\r\n", Some(0)),
        ("x-tenant: c\r\n", None),
        ("", None),
    ] {
        answers(rule, &recorded, tenant(asked), expect);
    }

    let form = |body: &'static str| Call {
        content_type: Some(b"application/x-www-form-urlencoded"),
        ..post(body)
    };
    let recorded = [form("a=1&csrf=x")];
    answers(
        "body: {csrf: presence}",
        &recorded,
        form("csrf=y&a=1"),
        Some(0),
    );
    answers("body: {csrf: presence}", &recorded, form("a=1"), None);

    let named = |authority: &'static str| Call {
        authority: Some(authority.as_bytes()),
        ..get("/x")
    };
    let recorded = [
        named("a"),
        named("b"),
        Call {
            target: b"/y",
            ..named("b")
        },
    ];
    let asked = Call {
        target: b"/y",
        ..named("a")
    };
    answers("query: {q: ignore}", &recorded, asked, None);
    answers("authority: ignore", &recorded, asked, Some(2));
}

#[test]
fn the_nearest_number_within_reach_answers() {
    let recorded = [
        post(r#"{"amount":10.0,"to":"a"}"#),
        post(r#"{"amount":10.5,"to":"a"}"#),
        post(r#"{"amount":10.5,"to":"b"}"#),
        post(r#"{"amount":-3,"to":"a"}"#),
    ];
    let rule = "body: {amount: {within: 0.5}}";
    for (amount, expect) in [
        ("10", Some(0)),
        ("10.2", Some(0)),
        ("10.3", Some(1)),
        ("11.0", Some(1)),
        ("11.01", None),
        ("9.49", None),
        ("-2.75", Some(3)),
        ("\"10\"", None),
    ] {
        let body = format!(r#"{{"to":"a","amount":{amount}}}"#);
        answers(rule, &recorded, post(&body), expect);
    }
    // Two numbers: both have to be near.
    let recorded = [post(r#"{"x":1,"y":1}"#), post(r#"{"x":1,"y":5}"#)];
    let rule = "body: {x: {within: 1}, y: {within: 1}}";
    answers(rule, &recorded, post(r#"{"y":4.5,"x":1.5}"#), Some(1));
    answers(rule, &recorded, post(r#"{"y":3,"x":1}"#), None);
}

#[test]
fn protobuf_fields_go_by_number() {
    // 1: varint 7, 2: "tok", 3: {1: varint 5}
    let message = |token: &str, inner: u8| {
        let mut text = vec![0x08, 7, 0x12, u8::try_from(token.len()).unwrap()];
        text.extend_from_slice(token.as_bytes());
        text.extend_from_slice(&[0x1a, 2, 0x08, inner]);
        text
    };
    let framed = |message: &[u8]| {
        let mut text = vec![0];
        text.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        text.extend_from_slice(message);
        text
    };
    let call = |body: &'static [u8]| Call {
        content_type: Some(b"application/grpc"),
        ..call("POST", "/shop.Pay/Pay", body)
    };
    let leak = |text: Vec<u8>| -> &'static [u8] { Box::leak(text.into_boxed_slice()) };
    let recorded = [call(leak(framed(&message("tok", 5))))];
    let asked = |token, inner| call(leak(framed(&message(token, inner))));
    answers(
        "body: {'$.2': presence}",
        &recorded,
        asked("other", 5),
        Some(0),
    );
    answers(
        "body: {'$.2': presence}",
        &recorded,
        asked("other", 6),
        None,
    );
    answers(
        "body: {'$.3.1': {within: 1}}",
        &recorded,
        asked("tok", 6),
        Some(0),
    );
    answers(
        "body: {'$.3.1': {within: 1}}",
        &recorded,
        asked("tok", 7),
        None,
    );
    answers("body: {'$.3.2': ignore}", &recorded, asked("tok", 6), None);
    // What is cut short is compared as bytes.
    let mut cut = framed(&message("tok", 5));
    cut.pop();
    answers("body: {'$.2': presence}", &recorded, call(leak(cut)), None);
}

#[test]
fn an_equal_request_gets_its_own_answer_first() {
    let recorded = [post(r#"{"n":1}"#), post(r#"{"n":2}"#), post(r#"{"n":3}"#)];
    let index = index(rules("rules:\n  - body: {n: ignore}\n"), &recorded);
    for (body, expect) in [
        (r#"{"n":3}"#, 2),
        (r#"{"n":2}"#, 1),
        // Others walk through all of them.
        (r#"{"n":9}"#, 0),
        (r#"{"n":8}"#, 1),
        (r#"{"n":7}"#, 2),
        (r#"{"n":1}"#, 0),
    ] {
        assert_eq!(index.find(&post(body)), Found::Exchange(expect), "{body}");
    }
}

#[test]
fn the_first_rule_that_fits_is_the_rule() {
    let text = "rules:\n  - {request: POST /pay, body: {n: ignore}}\n  - {body: {m: ignore}}\n";
    let index = index(rules(text), &[post(r#"{"n":1,"m":1}"#)]);
    assert_eq!(index.find(&post(r#"{"m":1}"#)), Found::Exchange(0));
    assert_eq!(index.find(&post(r#"{"n":1}"#)), Found::Nothing);
}

#[test]
fn mistakes_are_said_with_their_place() {
    for (text, line, says) in [
        ("rules:\n  - body: {n: ignor}\n", 2, "ignor"),
        ("rules:\n  - request: pay\n", 2, "no pattern"),
        (
            "rules:\n  - request: /a/{id}\n    path: {name: ignore}\n",
            3,
            "no segment {name}",
        ),
        (
            "rules:\n  - body: {'$.': ignore}\n",
            2,
            "no place in a body",
        ),
        (
            "rules:\n  - query:\n      a: {matches: '('}\n",
            3,
            "no regular expression",
        ),
        ("rules:\n  - query: {a: {within: -1}}\n", 2, "0 or greater"),
        ("rules:\n  - querry: {a: ignore}\n", 2, "querry"),
        ("rule: []\n", 1, "rule"),
    ] {
        let error = Rules::parse(text).unwrap_err();
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.message.contains(says), "{text}: {error}");
    }
}

#[test]
fn volatile_fields_are_found_and_the_proposal_works() {
    let body = |n: u32| {
        format!(
            r#"{{"amount":{n},"nonce":"{n}","order":{{"id":"550e8400-e29b-41d4-a716-4466554400{n:02}"}},"note":"to {n}"}}"#
        )
    };
    let texts: Vec<_> = (10..20)
        .map(|n| (format!("/users/{n}/pay?ts=16000000{n}&page=1"), body(n)))
        .collect();
    let calls: Vec<_> = texts
        .iter()
        .map(|(target, body)| call("POST", target, body.as_bytes()))
        .collect();
    let mut suggester = Suggester::default();
    for call in &calls {
        suggester.look(call);
    }
    let found = suggester.finish();
    assert_eq!(found.len(), 1);
    let text = format!("rules:\n{}", found[0]);
    let names = |fields: &[suggest::Volatile]| {
        fields
            .iter()
            .map(|field| format!("{} {}", field.name, field.compare))
            .collect::<Vec<_>>()
    };
    assert_eq!(found[0].request, "POST /users/{id}/pay");
    assert_eq!(names(&found[0].query), ["ts type"]);
    // An amount and a note are what somebody asked for, however they differ.
    assert_eq!(names(&found[0].body), ["$.nonce type", "$.order.id type"]);

    let index = index(rules(&text), &calls);
    let asked = body(10).replace("\"nonce\":\"10\"", "\"nonce\":\"99\"");
    let asked = call(
        "POST",
        "/users/10/pay?page=1&ts=1699999999",
        asked.as_bytes(),
    );
    assert_eq!(index.find(&asked), Found::Exchange(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the rules, each recorded request finds its own answer; and foreign bytes do no harm.
    #[test]
    fn the_recorded_request_always_finds_its_own_answer(
        bodies in prop::collection::btree_set("[ -~]{0,12}|\\{\"(a|n)\":[0-9]{1,3}(,\"b\":\\[[0-9]\\])?\\}", 1..12),
        rule in prop::sample::select(vec![
            "body: {n: ignore}", "body: {n: type, a: {within: 5}}", "body: {$: ignore}",
            "body: {'$.b[*]': presence}", "body: {'$.1': ignore}", "{body: {n: {matches: '1.*'}}, query: {q: ignore}}",
        ]),
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let calls: Vec<_> = bodies.iter().map(|body| post(body)).collect();
        let index = index(rules(&format!("rules:\n  - {rule}\n")), &calls);
        for call in &calls {
            let Found::Exchange(id) = index.find(call) else { panic!("nothing for {call:?}") };
            prop_assert_eq!(
                fingerprint::body(calls[id as usize].body, None),
                fingerprint::body(call.body, None)
            );
        }
        for content_type in [None, Some(&b"application/grpc"[..]), Some(b"application/x-protobuf")] {
            index.find(&Call { content_type, ..call("POST", "/pay", &noise) });
        }
    }
}
