//! Where bodies end (RFC 9112 section 6.3), rule by rule, for every combination of what decides.

use super::*;

/// Where a body ends by the fields of its head alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ends {
    /// Behind so many bytes.
    Behind(usize),
    /// Where its chunks say.
    Chunks,
    /// With the connection.
    Close,
}

use Ends::{Behind, Chunks, Close as WithConnection};

const FIELDS: [(&str, Ends); 12] = [
    ("", WithConnection),
    ("Content-Length: 3\r\n", Behind(3)),
    ("Content-Length: 0\r\n", Behind(0)),
    ("Content-Length: 3\r\nContent-Length: 3\r\n", Behind(3)),
    ("Content-Length: 3, 3\r\n", Behind(3)),
    ("Content-Length: 3\r\nContent-Length: 4\r\n", WithConnection),
    ("Content-Length: three\r\n", WithConnection),
    ("Transfer-Encoding: chunked\r\n", Chunks),
    ("Transfer-Encoding: gzip, chunked\r\n", Chunks),
    (
        "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n",
        Chunks,
    ),
    ("Transfer-Encoding: gzip\r\n", WithConnection),
    (
        "Transfer-Encoding: gzip\r\nContent-Length: 1\r\n",
        WithConnection,
    ),
];

/// What a response to that request has for a body; `None`: it opens a tunnel.
fn body_of_response(method: &str, status: u16, by_fields: Ends) -> Option<Ends> {
    match (method, status) {
        ("CONNECT", 200..=299) => None,
        ("HEAD", _) | (_, 204 | 304) => Some(Behind(0)),
        _ => Some(by_fields),
    }
}

fn body(ends: Ends) -> (&'static str, &'static str) {
    match ends {
        Behind(0) => ("", ""),
        Behind(_) | WithConnection => ("abc", " \"abc\""),
        Chunks => (
            "2;x=y\r\nab\r\n1\r\nc\r\n0\r\nSum: 1\r\n\r\n",
            " \"abc\" Sum=1",
        ),
    }
}

#[track_caller]
fn check(what: &str, steps: &[Step], expected: &str) {
    for len in [usize::MAX, 1, 7] {
        let text = read(&in_pieces(steps, len), Limits::default()).text();
        let notes = ["http1-", "skipped", "tunnel"];
        let messages: Vec<_> = text
            .lines()
            .filter(|line| !notes.iter().any(|note| line.contains(note)))
            .collect();
        assert_eq!(messages, expected.lines().collect::<Vec<_>>(), "{what}");
    }
}

#[test]
fn responses_end_where_the_rules_say() {
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    let mut combinations = 0;
    for method in ["GET", "HEAD", "POST", "OPTIONS", "CONNECT"] {
        for status in [200, 201, 204, 205, 304, 404, 503] {
            for (fields, by_fields) in FIELDS {
                for (interim, hinted) in [("", ""), (HINTS, " (103)")] {
                    for (minor, connection, is_last) in [
                        (1, "", false),
                        (1, "Connection: close\r\n", true),
                        (0, "", true),
                        (0, "Connection: keep-alive\r\n", false),
                    ] {
                        combinations += 1;
                        let target = if method == "CONNECT" { "a:1" } else { "/a" };
                        let ask = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
                        let head = format!("HTTP/1.{minor} {status} R\r\n{fields}{connection}\r\n");
                        let ends = body_of_response(method, status, by_fields);
                        let (sent, said) = ends.map_or(("down", " \"down\""), body);
                        let mut steps = vec![c(&ask), s(&format!("{interim}{head}{sent}"))];
                        let (up, tunnelled) = if ends.is_none() {
                            (Some(c("up")), " \"up\"")
                        } else {
                            (None, "")
                        };
                        steps.extend(up);
                        let mut expected = format!(
                            "0 > {method} {target}{tunnelled} end\n0 <{hinted} {status}{said} end\n"
                        );
                        if !is_last && matches!(ends, Some(Behind(_) | Chunks)) {
                            steps.push(c("GET /next HTTP/1.1\r\n\r\n"));
                            steps.push(s("HTTP/1.1 204 No\r\n\r\n"));
                            expected += "1 > GET /next end\n1 < 204 end\n";
                        }
                        check(&format!("{ask}{head}"), &steps, &expected);
                    }
                }
            }
        }
    }
    assert_eq!(combinations, 5 * 7 * 12 * 2 * 4);
}

/// Without a length a request has no body; one whose end cannot be known is refused, and what comes
/// behind it is nothing.
#[test]
fn requests_end_where_the_rules_say() {
    for method in ["GET", "HEAD", "POST", "DELETE"] {
        for (fields, by_fields) in FIELDS {
            let ends = match (fields, by_fields) {
                ("", _) => Some(Behind(0)),
                (_, WithConnection) => None,
                (_, by_fields) => Some(by_fields),
            };
            let head = format!("{method} /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let Some(ends) = ends else {
                let steps = [
                    c(&format!("{head}abc")),
                    s("HTTP/1.1 400 Bad\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
                ];
                let expected = format!("0 > {method} /a end{{\"malformed\"}}\n0 < 400 end\n");
                check(&head, &steps, &expected);
                continue;
            };
            let (sent, said) = body(ends);
            let steps = [
                c(&format!("{head}{sent}GET /next HTTP/1.1\r\n\r\n")),
                s("HTTP/1.1 201 R\r\nContent-Length: 0\r\n\r\nHTTP/1.1 204 No\r\n\r\n"),
            ];
            let expected =
                format!("0 > {method} /a{said} end\n0 < 201 end\n1 > GET /next end\n1 < 204 end\n");
            check(&head, &steps, &expected);
        }
    }
}

/// Any order of bodies on one connection: each ends where it does, and the next begins there.
#[test]
fn pipelined_bodies_of_every_kind_follow_each_other() {
    let kinds: Vec<_> = FIELDS
        .into_iter()
        .filter(|(_, ends)| *ends != WithConnection)
        .collect();
    for first in &kinds {
        for second in &kinds {
            for third in &kinds {
                let (mut ask, mut answer, mut expected) = Default::default();
                let mut say =
                    |at: usize, method: &str, asked: Ends, answered: Ends, fields: [&str; 2]| {
                        let (sent, told) = body(asked);
                        ask = format!("{ask}{method} /{at} HTTP/1.1\r\n{}\r\n{sent}", fields[0]);
                        let bodiless = method == "HEAD";
                        let (sent, heard) = if bodiless { ("", "") } else { body(answered) };
                        answer = format!("{answer}HTTP/1.1 200 OK\r\n{}\r\n{sent}", fields[1]);
                        expected = format!(
                            "{expected}{at} > {method} /{at}{told} end\n{at} < 200{heard} end\n"
                        );
                    };
                say(0, "POST", first.1, second.1, [first.0, second.0]);
                say(1, "HEAD", Behind(0), third.1, ["", third.0]);
                say(2, "PUT", third.1, first.1, [third.0, first.0]);
                check("three", &[c(&ask), s(&answer)], &expected);
            }
        }
    }
}
