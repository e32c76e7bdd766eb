use super::super::index::Builder;
use super::super::options::Repeat;
use super::*;
use crate::mock::call::Headers;

struct Fixed(Vec<Call<'static>>);

impl Recordings for Fixed {
    fn with_line(&self, id: u32, read: &mut dyn FnMut(&Call<'_>)) {
        if let Some(call) = self.0.get(id as usize) {
            read(&Call { body: b"", ..*call });
        }
    }

    fn with_call(&self, id: u32, read: &mut dyn FnMut(&Call<'_>)) {
        read(&self.0[id as usize]);
    }
}

fn call(method: &'static str, target: &'static str, body: &'static str) -> Call<'static> {
    Call {
        method: method.as_bytes(),
        authority: Some(b"shop"),
        target: target.as_bytes(),
        content_type: None,
        session: None,
        headers: Headers::None,
        body: body.as_bytes(),
    }
}

fn explain(recorded: &[Call<'static>], asked: &Call<'_>) -> Vec<(u64, Vec<String>)> {
    let authorities = recorded.iter().filter_map(|call| call.authority);
    let mut builder = Builder::new(Rules::default(), Repeat::Last, authorities);
    for (id, call) in (0..).zip(recorded) {
        builder.add(id, call);
    }
    nearest(asked, &builder.finish(|_| None), &Fixed(recorded.to_vec()))
        .0
        .into_iter()
        .map(|near| (near.id, near.differs))
        .collect()
}

#[track_caller]
fn differs(recorded: Call<'static>, asked: Call<'static>, expect: &[&str]) {
    let got = explain(&[recorded], &asked);
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!(got[0].1, expect);
}

#[test]
fn differences_are_named_by_part() {
    differs(
        call("GET", "/list?page=2&size=10&a", ""),
        call("GET", "/list?page=3&size=10&b=%20", ""),
        &[
            "query.a: recorded , got nothing",
            "query.b: recorded nothing, got  ",
            "query.page: recorded 2, got 3",
        ],
    );
    differs(
        call(
            "POST",
            "/a",
            r#"{"to":{"iban":"X"},"amount":2,"items":[1,2]}"#,
        ),
        call(
            "PUT",
            "/a",
            r#"{"amount":3,"items":[1],"to":{"iban":"X","bic":1}}"#,
        ),
        &[
            "method: recorded POST, got PUT",
            "body.to.bic: recorded nothing, got 1",
            "body.amount: recorded 2, got 3",
            "body.items[1]: recorded 2, got nothing",
        ],
    );
    differs(
        call("POST", "/a", "hello"),
        call("POST", "/a", "help"),
        &["body: recorded 5 bytes, got 4, the first difference is at byte 3"],
    );
    differs(
        call("POST", "/a", "hello"),
        call("POST", "/a", ""),
        &["body: recorded 5 bytes, got nothing"],
    );
    differs(
        call("GET", "/users/1/cart", ""),
        call("GET", "/users/2/cart", ""),
        &["path: recorded /users/1/cart, got /users/2/cart"],
    );
    let form = |body| Call {
        content_type: Some(b"application/x-www-form-urlencoded"),
        ..call("POST", "/f", body)
    };
    differs(
        form("a=1&b=2"),
        form("b=3&a=1"),
        &["body.b: recorded 2, got 3"],
    );
}

#[test]
fn the_nearest_comes_first() {
    let recorded = [
        call("GET", "/orders?x=1&y=2", ""),
        call("GET", "/orders?x=2&y=2", ""),
        call("POST", "/orders?x=2&y=3", ""),
        call("GET", "/other", ""),
    ];
    let ids = |asked| {
        explain(&recorded, &asked)
            .into_iter()
            .map(|(id, _)| id)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(call("GET", "/orders?x=2&y=3", "")), [1, 0, 2]);
    assert_eq!(ids(call("POST", "/orders?x=1&y=2", "")), [2, 0, 1]);
    assert_eq!(ids(call("GET", "/Other", "")), [3]);
    assert!(ids(call("GET", "/nothing/like/it", "")).is_empty());
}

#[test]
fn fewer_differences_are_nearer_and_repeats_are_told_once() {
    let recorded = [
        call("POST", "/a", r#"{"x":1,"y":2,"z":3}"#),
        call("POST", "/a", r#"{"x":1,"y":2,"z":3}"#),
        call("POST", "/a", r#"{"x":1,"y":5,"z":6}"#),
        call("POST", "/a", r#"{"x":1,"y":5,"z":6}"#),
    ];
    let got = explain(&recorded, &call("POST", "/a", r#"{"x":1,"y":5,"z":9}"#));
    assert_eq!(
        got,
        [
            (2, vec!["body.z: recorded 6, got 9".to_owned()]),
            (
                0,
                vec![
                    "body.y: recorded 2, got 5".to_owned(),
                    "body.z: recorded 3, got 9".to_owned()
                ]
            ),
        ]
    );
}

#[test]
fn an_authority_that_was_recorded_counts() {
    let mail = Call {
        authority: Some(b"mail"),
        ..call("GET", "/x", "")
    };
    let recorded = [call("GET", "/x", ""), call("GET", "/y", ""), mail];
    let asked = Call {
        authority: Some(b"mail:80"),
        ..call("GET", "/y", "")
    };
    let got = explain(&recorded, &asked);
    assert_eq!(
        got,
        [(1, vec!["authority: recorded shop, got mail:80".to_owned()])]
    );
}

#[test]
fn a_flood_of_misses_is_bounded_and_counted() {
    let mut log = MissLog::default();
    let miss = Miss {
        method: "GET".into(),
        authority: None,
        target: "/".into(),
        count: 1,
        reason: "why".into(),
        nearest: vec![],
        rule: None,
    };
    for n in 0..100 {
        if log.again(n % 50, "why", b"GET", false).is_none() {
            log.note(n % 50, miss.clone(), b"GET", false, 10);
        }
    }
    assert_eq!(log.total(), 100);
    assert_eq!(log.list().len(), 10);
    assert!(log.list().iter().all(|miss| miss.count == 2));
    assert!(log.again(0, "another reason", b"GET", false).is_none());
}

#[test]
fn long_and_wide_differences_are_cut() {
    let wide: &'static str = Box::leak(format!("[{}]", ["1"; 50].join(",")).into_boxed_str());
    let got = explain(&[call("POST", "/a", "[]")], &call("POST", "/a", wide));
    assert_eq!(got[0].1.len(), 11);
    assert_eq!(got[0].1[10], "...");
    let long: &'static str = Box::leak(format!("/a?q={}", "x".repeat(500)).into_boxed_str());
    let got = explain(&[call("GET", "/a", "")], &call("GET", long, ""));
    assert!(got[0].1[0].len() < 130, "{got:?}");
}

/// What that rule proposes to let the recorded request answer, which it then does.
#[track_caller]
fn resolved(recorded: Call<'static>, asked: Call<'static>, expect: &str) {
    let index = |rules: Rules| {
        let other = Call {
            authority: Some(b"other"),
            target: b"/other",
            ..recorded
        };
        let authorities = [&b"shop"[..], b"other"];
        let mut builder = Builder::new(rules, Repeat::Last, authorities);
        builder.add(0, &recorded);
        builder.add(1, &other);
        (builder.finish(|_| None), Fixed(vec![recorded, other]))
    };
    let (strict, calls) = index(Rules::default());
    assert_eq!(strict.peek(&asked), None);
    let rule = nearest(&asked, &strict, &calls).1.unwrap();
    assert_eq!(rule, expect);
    let (loose, _) = index(Rules::parse(&format!("rules:\n{rule}")).unwrap());
    assert_eq!(loose.peek(&asked), Some(0), "{rule}");
}

#[test]
fn the_rule_that_is_proposed_resolves_the_miss() {
    resolved(
        call("GET", "/list?page=2&ts=1", ""),
        call("GET", "/list?page=2&ts=2&new=1", ""),
        "  - request: \"GET /list\"\n    query:\n      \"new\": ignore\n      \"ts\": presence\n",
    );
    resolved(
        call(
            "POST",
            "/users/7/pay/x",
            r#"{"a":{"n.o":1},"l":[{"id":1},{"id":2}],"k":1}"#,
        ),
        call(
            "POST",
            "/users/8/pay/x",
            r#"{"a":{"n.o":2},"l":[{"id":3},{"id":2}],"k":1}"#,
        ),
        "  - request: \"POST /users/{p1}/pay/x\"\n    path:\n      \"p1\": presence\n    body:\n      \
         \"$.a['n.o']\": presence\n      \"$.l[*].id\": presence\n",
    );
    resolved(
        call("PUT", "/blob", "bytes"),
        call("PUT", "/blob", "other"),
        "  - request: \"PUT /blob\"\n    body:\n      \"$\": ignore\n",
    );
    resolved(
        call("GET", "/a", ""),
        Call {
            authority: Some(b"other"),
            ..call("GET", "/a", "")
        },
        "  - request: \"GET /a\"\n    authority: ignore\n",
    );
}

#[test]
fn misses_are_grouped_by_the_rule_that_would_resolve_them() {
    let mut log = MissLog::default();
    let miss = |rule: Option<&str>| Miss {
        method: "GET".to_owned(),
        authority: None,
        target: "/".to_owned(),
        count: 1,
        reason: "x".to_owned(),
        nearest: Vec::new(),
        rule: rule.map(str::to_owned),
    };
    for (identity, rule) in [(1, Some("a")), (2, Some("b")), (3, None), (4, Some("b"))] {
        log.note(identity, miss(rule), b"GET", false, 10);
    }
    log.again(4, "x", b"GET", false).unwrap();
    let remedies: Vec<_> = log
        .remedies()
        .into_iter()
        .map(|remedy| (remedy.rule, remedy.requests))
        .collect();
    assert_eq!(remedies, [("b".to_owned(), 3), ("a".to_owned(), 1)]);
}
