use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::mock::call::Headers;

fn call<'a>(method: &'a str, target: &'a str, body: &'a str) -> Call<'a> {
    Call {
        method: method.as_bytes(),
        authority: None,
        target: target.as_bytes(),
        content_type: None,
        session: None,
        headers: Headers::None,
        body: body.as_bytes(),
    }
}

fn at<'a>(authority: &'a str, target: &'a str) -> Call<'a> {
    Call {
        authority: Some(authority.as_bytes()),
        ..call("GET", target, "")
    }
}

fn index_with(rules: Rules, repeat: Repeat, calls: &[Call<'_>]) -> Index {
    let authorities = calls.iter().filter_map(|call| call.split().authority);
    let mut builder = Builder::new(rules, repeat, authorities);
    for (id, call) in (0..).zip(calls) {
        builder.add(id, call);
    }
    builder.finish(|id| calls[id as usize].session.map(fingerprint::session))
}

fn index(calls: &[Call<'_>]) -> Index {
    index_with(Rules::default(), Repeat::Last, calls)
}

#[test]
fn the_rules_are_strict_by_default() {
    let index = index(&[
        call("GET", "/a?x=1&y=2", ""),
        call("GET", "/a?x=2", ""),
        call("POST", "/a", r#"{"p":1,"q":[true]}"#),
        call("POST", "/a", "plain"),
    ]);
    for (asked, expect) in [
        (call("GET", "/a?y=2&x=1", ""), Found::Exchange(0)),
        (call("GET", "/%61?x=%31&y=2", ""), Found::Exchange(0)),
        (call("GET", "http://any/a?x=2", ""), Found::Exchange(1)),
        (
            call("POST", "/a", r#"{ "q": [true], "p": 1.0 }"#),
            Found::Exchange(2),
        ),
        (call("POST", "/a", "plain"), Found::Exchange(3)),
        (call("get", "/a?x=2", ""), Found::Nothing),
        (call("GET", "/a", ""), Found::Nothing),
        (call("GET", "/a?x=2&x=2", ""), Found::Nothing),
        (call("GET", "/A?x=2", ""), Found::Nothing),
        (call("GET", "/a/?x=2", ""), Found::Nothing),
        (call("GET", "/a?x=2", "body"), Found::Nothing),
        (call("POST", "/a", "plain "), Found::Nothing),
        (call("POST", "/a", ""), Found::Nothing),
    ] {
        assert_eq!(index.find(&asked), expect, "{asked:?}");
    }
}

#[test]
fn repeated_requests_walk_through_their_answers() {
    let calls = [
        call("GET", "/a", ""),
        call("GET", "/b", ""),
        call("GET", "/a", ""),
        call("GET", "/a", ""),
    ];
    let walk = |repeat| {
        let index = index_with(Rules::default(), repeat, &calls);
        (0..7)
            .map(|_| match index.find(&calls[0]) {
                Found::Exchange(id) => id.to_string(),
                other => format!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(walk(Repeat::Last), ["0", "2", "3", "3", "3", "3", "3"]);
    assert_eq!(walk(Repeat::Cycle), ["0", "2", "3", "0", "2", "3", "0"]);
    let used_up = "UsedUp { recorded: 3 }";
    assert_eq!(
        walk(Repeat::Fail),
        ["0", "2", "3", used_up, used_up, used_up, used_up]
    );
}

#[test]
fn an_authority_counts_only_when_several_were_recorded() {
    let several = index(&[
        at("Pay.local", "/x"),
        at("mail.local:80", "/x"),
        at("mail.local", "/y"),
    ]);
    for (asked, expect) in [
        (at("pay.local:80", "/x"), Found::Exchange(0)),
        (at("mail.local", "/x"), Found::Exchange(1)),
        (at("pay.local", "/y"), Found::Nothing),
        (at("127.0.0.1:9000", "/y"), Found::Exchange(2)),
        (call("GET", "/x", ""), Found::Exchange(0)),
        (call("GET", "http://mail.local/x", ""), Found::Exchange(1)),
    ] {
        assert_eq!(several.find(&asked), expect, "{asked:?}");
    }
    let one = index(&[at("pay.local", "/x"), at("PAY.local", "/y")]);
    assert_eq!(one.find(&at("mail.local", "/x")), Found::Exchange(0));
}

#[test]
fn paths_are_found_for_explanations() {
    let index = index(&[
        call("GET", "/a?1", ""),
        call("GET", "/b", ""),
        call("POST", "/a", ""),
    ]);
    assert_eq!(index.with_path(b"/a").collect::<Vec<_>>(), [0, 2]);
    assert_eq!(index.with_path(b"/c").count(), 0);
    let mut paths: Vec<_> = index.one_per_path().collect();
    paths.sort_unstable();
    assert_eq!(paths, [0, 1]);
}

#[derive(Clone, Debug)]
struct Owned {
    method: &'static str,
    authority: Option<&'static str>,
    path: String,
    query: Vec<(String, String)>,
    body: Vec<(String, i32)>,
}

impl Owned {
    fn target(&self, reversed: bool) -> String {
        let mut pairs: Vec<_> = self
            .query
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if reversed {
            pairs.reverse();
        }
        format!("{}?{}", self.path, pairs.join("&"))
    }

    fn body(&self, reversed: bool) -> String {
        let mut members: Vec<_> = self
            .body
            .iter()
            .map(|(name, value)| format!("\"{name}\": {value}"))
            .collect();
        if reversed {
            members.reverse();
        }
        if members.is_empty() {
            return String::new();
        }
        format!("{{{}}}", members.join(if reversed { " , " } else { "," }))
    }
}

fn owned() -> impl Strategy<Value = Owned> {
    (
        prop::sample::select(vec!["GET", "POST", "DELETE"]),
        prop::sample::select(vec![None, Some("a.local"), Some("b.local:81")]),
        "/[ab]{0,2}",
        prop::collection::vec(("[pq]", "[01]"), 0..3),
        prop::collection::vec(("[mn]", 0..3_i32), 0..3),
    )
        .prop_map(|(method, authority, path, query, body)| Owned {
            method,
            authority,
            path,
            query,
            body,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Every recorded request finds an answer that was recorded for the same request, with its
    /// query and its JSON members in any order; and walking through repeats gives each its own.
    #[test]
    fn every_recorded_request_finds_its_own_answer(recorded in prop::collection::vec(owned(), 1..40)) {
        let texts: Vec<_> = recorded
            .iter()
            .map(|call| (call.target(false), call.body(false)))
            .collect();
        let calls: Vec<_> = recorded
            .iter()
            .zip(&texts)
            .map(|(call, (target, body))| Call {
                method: call.method.as_bytes(),
                authority: call.authority.map(str::as_bytes),
                target: target.as_bytes(),
                content_type: None,
                session: None,
                headers: Headers::None,
                body: body.as_bytes(),
            })
            .collect();
        let index = index(&calls);
        for (id, owned) in recorded.iter().enumerate() {
            let (target, body) = (owned.target(true), owned.body(true));
            let asked = Call { target: target.as_bytes(), body: body.as_bytes(), ..calls[id] };
            // A request without an authority may be answered by any.
            if owned.authority.is_some() {
                let found = match index.find(&asked) {
                    Found::Exchange(found) => found as usize,
                    other => panic!("{other:?} for {owned:?}"),
                };
                let named = recorded.iter().filter_map(|call| call.authority).collect::<BTreeSet<_>>();
                if named.len() > 1 {
                    // Asked in recorded order, each finds exactly itself.
                    prop_assert_eq!(found, id);
                }
            } else {
                prop_assert!(matches!(index.find(&asked), Found::Exchange(_)));
            }
        }
    }
}

#[test]
fn each_user_walks_through_their_own_answers() {
    let by = |session: Option<&'static str>| Call {
        session: session.map(str::as_bytes),
        ..call("GET", "/balance", "")
    };
    let (ann, bob) = (by(Some("Bearer ann")), by(Some("Bearer bob")));
    let index = index(&[ann, bob, ann, bob]);
    // In any order of the users, and the last answer again and again.
    for (asked, expect) in [(bob, 1), (bob, 3), (ann, 0), (bob, 3), (ann, 2), (ann, 2)] {
        assert_eq!(index.find(&asked), Found::Exchange(expect));
    }
    // Who is not known, or does not say, walks through all of them.
    let (eve, nobody) = (by(Some("Bearer eve")), by(None));
    for (asked, expect) in [(eve, 0), (nobody, 1), (eve, 2), (nobody, 3)] {
        assert_eq!(index.find(&asked), Found::Exchange(expect));
    }
    // Not to say who one is was recorded, too.
    let index = self::index(&[ann, nobody, ann]);
    for (asked, expect) in [(nobody, 1), (nobody, 1), (ann, 0), (eve, 0)] {
        assert_eq!(index.find(&asked), Found::Exchange(expect));
    }
}
