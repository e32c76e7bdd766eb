//! Gaps and beginnings in the middle: what is known stays exact, what is not is never guessed.

use proptest::prelude::*;
use tapedeck_model::{Role, StartLine};

use super::log::Item;
use super::*;

#[track_caller]
fn check(steps: &[Step], expected: &str) {
    let log = read(steps, Limits::default());
    let expected: Vec<_> = expected.lines().map(str::trim).collect();
    assert_eq!(log.text().lines().collect::<Vec<_>>(), expected);
}

const GET_A: &str = "GET /a HTTP/1.1\r\n\r\n";
const GET_B: &str = "GET /b HTTP/1.1\r\n\r\n";
const GET_C: &str = "GET /c HTTP/1.1\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn a_gap_in_a_body_of_known_length_changes_nothing_else() {
    check(
        &[
            c("POST /a HTTP/1.1\r\nContent-Length: 6\r\n\r\nab"),
            gap_c(2),
            c(&format!("ef{GET_B}")),
            s("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
            gap_s(8),
            s(OK),
        ],
        r#"0 > POST /a "ab" gap 2 "ef" end
           0 < 200 "x" gap 8 end
           1 > GET /b end
           1 < 200 "body" end"#,
    );
}

#[test]
fn a_gap_within_a_chunk_or_up_to_its_end_is_exact() {
    for (before, gap, after) in [("ab", 2, "e\r\n0\r\n\r\n"), ("", 5, "\r\n0\r\n\r\n")] {
        let log = read(
            &[
                c(GET_A),
                s(&format!("{CHUNKED}5\r\n{before}")),
                gap_s(gap),
                s(after),
                c(GET_B),
                s(OK),
            ],
            Limits::default(),
        );
        let text = log.text();
        assert!(
            text.contains(&format!("gap {gap}")) && !text.contains("skipped"),
            "{text}"
        );
        assert!(text.contains("1 < 200 \"body\" end"), "{text}");
    }
}

#[test]
fn a_gap_over_chunks_ends_the_message() {
    check(
        &[
            c(GET_A),
            s(&format!("{CHUNKED}5\r\nab")),
            gap_s(20),
            s("cd\r\n0\r\n\r\n"),
            c(GET_B),
            s(OK),
        ],
        r#"0 > GET /a end
           0 < 200 "ab" gap 0 end{"lost"}
           1 > GET /b end
           1 < 200 "body" end
           skipped < 9"#,
    );
}

#[test]
fn a_gap_of_unknown_length_ends_what_is_counted_but_not_what_ends_with_the_connection() {
    check(
        &[
            c(GET_A),
            s("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
            gap_s(0),
            s("y"),
            c(GET_B),
            s(OK),
        ],
        r#"0 > GET /a end
           0 < 200 "x" gap 0 end{"lost"}
           1 > GET /b end
           1 < 200 "body" end
           skipped < 1"#,
    );
    check(
        &[
            c(GET_A),
            s("HTTP/1.1 200 OK\r\n\r\nx"),
            gap_s(0),
            s("y"),
            gap_s(7),
        ],
        r#"0 > GET /a end
           0 < 200 "x" gap 0 "y" gap 7 end"#,
    );
}

#[test]
fn a_lost_response_is_absent_once_the_client_goes_on() {
    check(
        &[c(GET_A), gap_s(60), c(GET_B), s(OK)],
        r#"0 > GET /a end
           0 < absent{"lost"}
           1 > GET /b end
           1 < 200 "body" end"#,
    );
}

#[test]
fn a_lost_decision_is_told_by_what_the_client_goes_on_with() {
    let ask = "GET /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n";
    // The server was not interested.
    check(
        &[c(ask), gap_s(60), c(GET_B), s(OK)],
        r#"0 > GET /a end
           0 < absent{"lost"}
           1 > GET /b end
           1 < 200 "body" end"#,
    );
    // It may not have waited: then two answers are due.
    check(
        &[c(ask), c(GET_B), gap_s(60), s(OK)],
        r#"0 > GET /a end
           0 < absent{"lost"}
           1 > GET /b end
           1 < absent{"lost"}
           2 > absent{"lost"}
           2 < 200 "body" end"#,
    );
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nx";
    check(
        &[
            c(ask),
            gap_s(60),
            c("PRI * HT"),
            c(&preface["PRI * HT".len()..]),
        ],
        r#"0 > GET /a end
           0 http2 < lost ""
           0 http2 > "PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\nx""#,
    );
    check(
        &[c(ask), c(preface), gap_s(60), s("anything")],
        r#"0 > GET /a end
           0 http2 < lost ""
           0 http2 > "PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\nx""#,
    );
}

#[test]
fn a_lost_interim_response_does_not_cost_the_final_one() {
    check(
        &[c(GET_A), gap_s(25), s(OK), c(GET_B), s(OK)],
        r#"0 > GET /a end
           0 < 200 "body" end
           1 > GET /b end
           1 < 200 "body" end"#,
    );
}

#[test]
fn a_gap_in_a_head_loses_that_message() {
    check(
        &[
            c("GET /a HTTP/1.1\r\nHo"),
            gap_c(10),
            c("\r\n\r\n"),
            s(OK),
            c(GET_B),
            s("HTTP/1.1 200 OK\r\nCont"),
            gap_s(10),
            s("4\r\n\r\nbody"),
            c(GET_C),
            s(OK),
        ],
        r#"0 > GET /a end{"lost"}
           0 < 200 "body" end
           1 > GET /b end
           1 < 200 end{"lost"}
           2 > GET /c end
           2 < 200 "body" end
           skipped < 13
           skipped > 6"#,
    );
}

#[test]
fn the_answer_to_a_lost_head_request_has_no_body() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
    // Of the first, the method was seen; of the second, nothing.
    check(
        &[
            c("HEAD /a HTTP/1.1\r\nHo"),
            gap_c(10),
            s(head),
            gap_c(22),
            s(head),
            s(OK),
            c(GET_B),
            s(OK),
        ],
        r#"0 > HEAD /a end{"lost"}
           0 < 200 end
           1 > absent{"lost"}
           1 < 200 end{"unknown-end"}
           2 > absent{"lost"}
           2 < 200 "body" end{"unknown-end"}
           3 > GET /b end
           3 < 200 "body" end
           skipped > 2"#,
    );
}

#[test]
fn of_a_head_that_is_cut_its_whole_lines_are_kept() {
    let log = read(
        &[
            c("POST /a HTTP/1.1\r\nHost: h\r\nContent-Le"),
            gap_c(90),
            s("HTTP/1.1 404 No\r\nA: b\r\nC"),
            gap_s(90),
        ],
        Limits::default(),
    );
    let head = |role| match &log.messages[&(0, role)][0] {
        Item::Head { head, .. } => String::from_utf8(head.raw.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(head(Role::Request), "POST /a HTTP/1.1\r\nHost: h\r\n");
    assert_eq!(head(Role::Response), "HTTP/1.1 404 No\r\nA: b\r\n");
    assert!(
        log.text().contains(r#"0 > POST /a end{"lost"}"#),
        "{}",
        log.text()
    );
    assert!(
        log.text().contains(r#"0 < 404 end{"lost"}"#),
        "{}",
        log.text()
    );
    // An interim response is not the answer; and of what has no whole line nothing is known.
    for cut in ["HTTP/1.1 103 Hints\r\nLi", "HTTP/1.1 40"] {
        let log = read(&[c(GET_A), s(cut), gap_s(90), s(OK)], Limits::default());
        assert!(
            log.text().contains("0 < 200 \"body\" end"),
            "{}",
            log.text()
        );
    }
}

#[test]
fn without_a_length_the_answer_to_a_lost_head_request_does_not_swallow_the_next() {
    check(
        &[
            gap_c(40),
            s("HTTP/1.1 200 OK\r\nA: b\r\n\r\n"),
            s("HTTP/1.1 204 No\r\n\r\n"),
        ],
        r#"0 > absent{"lost"}
           0 < 200 end{"unknown-end"}
           1 > absent{"lost"}
           1 < 204 end{"unknown-end"}"#,
    );
}

#[test]
fn a_loss_where_a_body_may_begin_leaves_no_bytes_in_a_wrong_place() {
    // The lost request may have been HEAD: then what comes behind the gap is no body.
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
    for begin in ["", "HT"] {
        let steps = [gap_c(40), s(head), s(begin), gap_s(4), s("/1.1 ")];
        let text = read(&steps, Limits::default()).text();
        assert!(text.contains(r#"0 < 200 end{"lost"}"#), "{text}");
    }
}

#[test]
fn the_beginning_of_a_head_at_the_end_is_no_whole_body() {
    let steps = [
        gap_c(40),
        s("HTTP/1.1 200 OK\r\nA: b\r\n\r\nHTTP/1"),
        Step::Close(Direction::ToClient, Close::Fin),
    ];
    let text = read(&steps, Limits::default()).text();
    assert!(
        text.contains(r#"0 < 200 end{"aborted", "unknown-end"}"#),
        "{text}"
    );
}

#[test]
fn a_body_that_looks_like_an_answer_is_not_taken_for_one_without_a_word() {
    // Behind a lost request, this is HEAD's answer and another one, or one with a body. The client
    // that goes on makes an end of the guessing.
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 38\r\n\r\n";
    let body = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    check(
        &[gap_c(40), s(&[head, body].concat()), c(GET_B), s(OK)],
        r#"0 > absent{"lost"}
           0 < 200 end{"unknown-end"}
           1 > absent{"lost"}
           1 < 200 end{"unknown-end"}
           2 > GET /b end
           2 < 200 "body" end"#,
    );
}

#[test]
fn behind_a_lost_request_what_has_no_length_may_be_a_tunnel() {
    check(
        &[
            gap_c(40),
            s("HTTP/1.1 200 OK\r\n\r\nbytes"),
            Step::Close(Direction::ToClient, Close::Fin),
        ],
        r#"0 > absent{"lost"}
           0 < 200 "bytes" end{"unknown-end"}"#,
    );
}

#[test]
fn a_client_that_does_not_wait_says_nothing_of_a_body_that_is_due() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
    // It waited until now: there is no body, as it seems.
    check(
        &[gap_c(40), s(head), c(GET_B), s(OK)],
        r#"0 > absent{"lost"}
           0 < 200 end{"unknown-end"}
           1 > GET /b end
           1 < 200 "body" end"#,
    );
    // It is known not to wait.
    let both = [GET_A, GET_B].concat();
    check(
        &[
            c(&both),
            s(OK),
            s(OK),
            gap_c(40),
            s(head),
            c(GET_C),
            s("body"),
            s(OK),
        ],
        r#"0 > GET /a end
           0 < 200 "body" end
           1 > GET /b end
           1 < 200 "body" end
           2 > absent{"lost"}
           2 < 200 "body" end
           3 > GET /c end
           3 < absent{"lost"}
           4 > absent{"lost"}
           4 < 200 "body" end"#,
    );
}

#[test]
fn requests_may_lie_within_what_could_not_be_read() {
    let chunked = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let gzip = "POST /a HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n";
    let large = format!("GET /a HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(300 << 10));
    let trailers = format!("{chunked}0\r\nA: {}\r\n\r\n", "b".repeat(300 << 10));
    for begin in [
        format!("{chunked}no chunk\r\n"),
        gzip.to_owned(),
        large,
        trailers,
        format!("{GET_A}{{}} "),
    ] {
        // The second is passed over with the rest of the first: then the answer to it is no other's.
        let steps = [c(&[&begin, GET_B].concat()), c(GET_C), s(OK), s(OK), s(OK)];
        let log = read(&steps, Limits::default());
        let text = log.text();
        assert!(text.contains(r#"1 > GET /c end"#), "{begin:.60}: {text}");
        assert!(text.contains(r#"1 < absent{"#), "{begin:.60}: {text}");
    }
}

#[test]
fn the_rest_of_a_request_that_predates_the_capture_is_answered_first() {
    let tail = "of a body";
    check(
        &[c(tail), c(GET_B), s(OK), s(OK)],
        r#"0 > GET /b end
           0 < absent{"predates-capture"}
           1 > absent{"predates-capture"}
           1 < 200 "body" end
           2 > absent{"predates-capture"}
           2 < 200 "body" end
           skipped > 9"#,
    );
    // It was, before the client went on.
    check(
        &[c(tail), s(OK), c(GET_B), s(OK)],
        r#"0 > absent{"predates-capture"}
           0 < 200 "body" end
           1 > GET /b end
           1 < 200 "body" end
           skipped > 9"#,
    );
    // The same where it was not this reader that passed it over.
    let mut reader = Reader::new(Limits::default());
    let mut log = Log::default();
    let mut out = |event: Event<'_>| log.add(&event);
    reader.passed_over(Direction::ToServer);
    let at = Timestamp::EPOCH;
    for (direction, text) in [
        (Direction::ToServer, GET_B),
        (Direction::ToClient, OK),
        (Direction::ToServer, GET_C),
    ] {
        reader.push(at, direction, Input::Data(text.as_bytes()), &mut out);
    }
    assert!(
        log.text().contains(r#"0 < absent{"predates-capture"}"#),
        "{}",
        log.text()
    );
}

#[test]
fn what_was_given_up_is_answered_before_what_follows() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx";
    let mut reader = Reader::new(Limits::default());
    let mut log = Log::default();
    let mut out = |event: Event<'_>| log.add(&event);
    let at = Timestamp::EPOCH;
    let mut say = |reader: &mut Reader, direction, text: &str| {
        reader.push(at, direction, Input::Data(text.as_bytes()), &mut out);
    };
    say(
        &mut reader,
        Direction::ToServer,
        &[GET_A, GET_B, GET_C].concat(),
    );
    say(&mut reader, Direction::ToClient, begun);
    let mut given_up = Log::default();
    reader.give_up(at, &mut |event: Event<'_>| given_up.add(&event));
    let text = given_up.text();
    assert!(text.contains(r#"0 < gap 0 end{"partial"}"#), "{text}");
    assert!(text.contains(r#"1 < absent{"partial"}"#), "{text}");
    assert!(text.contains(r#"2 < absent{"partial"}"#), "{text}");
    assert_eq!(reader.memory(), 0);
    say(&mut reader, Direction::ToClient, "the rest");
    say(&mut reader, Direction::ToServer, "GET /d HTTP/1.1\r\n\r\n");
    for _ in 0..3 {
        say(&mut reader, Direction::ToClient, OK);
    }
    let text = log.text();
    assert!(text.contains("3 > GET /d end"), "{text}");
    assert!(text.contains(r#"3 < absent{"partial"}"#), "{text}");
}

#[test]
fn loss_in_both_directions_at_once() {
    // The answer to /a, then a whole exchange, then the next request were lost.
    check(
        &[c(GET_A), gap_c(60), gap_s(90), s(OK), c(GET_C), s(OK)],
        r#"0 > GET /a end
           0 < absent{"lost"}
           1 > absent{"lost"}
           1 < 200 "body" end
           2 > GET /c end
           2 < 200 "body" end"#,
    );
}

#[test]
fn a_lost_exchange_costs_the_one_behind_it_and_no_more() {
    // A loss is told with what comes behind it: that a response is missing, only with the next one.
    check(
        &[
            c(GET_A),
            s(OK),
            gap_c(20),
            c(GET_B),
            gap_s(42),
            s(OK),
            c(GET_C),
            s(OK),
        ],
        r#"0 > GET /a end
           0 < 200 "body" end
           1 > GET /b end
           1 < absent{"lost"}
           2 > absent{"lost"}
           2 < 200 "body" end
           3 > GET /c end
           3 < 200 "body" end"#,
    );
    // The next request acknowledges the response, too: then both are told with it.
    let steps = [
        c(GET_A),
        s(OK),
        gap_s(42),
        gap_c(20),
        c(GET_B),
        s(OK),
        c(GET_C),
        s(OK),
    ];
    let log = read(&steps, Limits::default());
    assert_eq!(log.text().matches("absent").count(), 2, "{}", log.text());
    // Again and again.
    let lost = [gap_c(20), c(GET_B), gap_s(42), s(OK)];
    let steps = [
        &lost[..],
        &[c(GET_C), s(OK)],
        &lost,
        &lost,
        &[c(GET_C), s(OK)],
    ]
    .concat();
    let log = read(&steps, Limits::default());
    assert_eq!(log.text().matches("> GET /c end").count(), 2);
    assert_eq!(log.text().matches("absent").count(), 6, "{}", log.text());
}

#[test]
fn a_client_that_did_not_wait_for_a_lost_request_is_not_taken_for_one_that_does() {
    // The response to the lost request is there, so that the next request came before it.
    let steps = [c(GET_A), s(OK), gap_c(20), c(GET_B), s(OK), c(GET_C), s(OK)];
    let log = read(&steps, Limits::default());
    assert_eq!(log.text().matches("absent").count(), 4, "{}", log.text());
    // Two requests before the server said anything.
    let steps = [
        gap_c(20),
        c(GET_A),
        c(GET_B),
        gap_s(42),
        s(OK),
        c(GET_C),
        s(OK),
    ];
    let log = read(&steps, Limits::default());
    assert_eq!(log.text().matches("absent").count(), 5, "{}", log.text());
}

#[test]
fn pipelined_requests_behind_a_loss_are_not_paired_by_guessing() {
    check(
        &[
            c(&[GET_A, GET_B, GET_C].concat()),
            gap_s(41),
            s(&[OK, OK].concat()),
            c(GET_A),
            s(OK),
        ],
        r#"0 > GET /a end
           0 < absent{"lost"}
           1 > GET /b end
           1 < absent{"lost"}
           2 > GET /c end
           2 < absent{"lost"}
           3 > absent{"lost"}
           3 < 200 "body" end
           4 > absent{"lost"}
           4 < 200 "body" end
           5 > GET /a end
           5 < absent{"lost"}
           6 > absent{"lost"}
           6 < 200 "body" end"#,
    );
}

#[test]
fn pipelined_requests_are_paired_again_once_all_answers_are_accounted_for() {
    check(
        &[
            c(&[GET_A, GET_B].concat()),
            gap_s(25),
            s(&[OK, OK].concat()),
            c(GET_C),
            s(OK),
        ],
        r#"0 > GET /a end
           0 < absent{"lost"}
           1 > GET /b end
           1 < absent{"lost"}
           2 > absent{"lost"}
           2 < 200 "body" end
           3 > absent{"lost"}
           3 < 200 "body" end
           4 > GET /c end
           4 < 200 "body" end"#,
    );
}

#[test]
fn a_beginning_in_the_middle_is_passed_over() {
    check(
        &[
            s("tail of a body\r\nHTTP/1.1 is what this text is about\r\n\r\n"),
            c("tail of a body"),
            s(OK),
            c(GET_A),
            s(OK),
        ],
        r#"0 > absent{"predates-capture"}
           0 < 200 "body" end
           1 > GET /a end
           1 < 200 "body" end
           skipped < 55
           skipped > 14"#,
    );
}

#[test]
fn text_that_looks_like_a_head_is_none_if_not_all_of_it_does() {
    let text = "say\nHTTP/1.1 200 OK\nto him\n\nHTTP/1.1 200 OK\nA b\n\n";
    for len in [1, 4, 5, 20, 21, 1000] {
        let steps = [
            c(GET_A),
            s(&format!("{CHUNKED}5\r\nab")),
            gap_s(9),
            s(text),
            c(GET_B),
            s(OK),
        ];
        let log = read(&in_pieces(&steps[..4], len), Limits::default());
        assert!(
            log.text().ends_with(&format!("skipped < {}\n", text.len())),
            "{}",
            log.text()
        );
        let log = read(&steps, Limits::default());
        assert!(
            log.text().contains("1 < 200 \"body\" end\n"),
            "{}",
            log.text()
        );
    }
}

#[test]
fn a_hostile_search_for_a_head_takes_linear_time() {
    // Every line begins a head, and every second line refutes it.
    let lines = "HTTP/1.1 200 OK\na:b\n".repeat(20_000);
    for len in [17, 1 << 20] {
        let steps = [s("x\n"), s(&lines)];
        let log = read(&in_pieces(&steps, len), Limits::default());
        assert_eq!(log.accounted(Direction::ToClient), 2 + lines.len() as u64);
    }
}

/// A message of a generated conversation, and how it reads.
#[derive(Clone, Debug)]
struct Exchange {
    request: Vec<u8>,
    response: Vec<u8>,
}

/// An exchange whose request and response name each other: the target is `/ID`, the reason is ID.
fn exchange(id: usize, kind: (u8, u8, u8), body: &[u8], last: bool) -> Exchange {
    let (ask, interim, answer) = kind;
    let framed = |body: &[u8], chunked: bool| {
        if !chunked {
            return [
                format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(),
                body,
            ]
            .concat();
        }
        let mut framed = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in body.chunks(5) {
            framed.extend(format!("{:x};e\r\n", chunk.len()).bytes());
            framed.extend_from_slice(chunk);
            framed.extend_from_slice(b"\r\n");
        }
        framed.extend_from_slice(b"0\r\nSum: 1\r\n\r\n");
        framed
    };
    let method = ["GET", "HEAD", "POST", "PUT"][usize::from(ask % 4)];
    let mut request = format!("{method} /{id} HTTP/1.1\r\nHost: h\r\n").into_bytes();
    match method {
        "POST" => request.extend(framed(body, true)),
        "PUT" => request.extend(framed(body, false)),
        _ => request.extend_from_slice(b"\r\n"),
    }
    let mut response = Vec::new();
    for _ in 0..interim % 3 {
        response.extend(format!("HTTP/1.1 103 {id}\r\nA: b\r\n\r\n").bytes());
    }
    let status = if answer % 5 == 4 { 304 } else { 200 };
    response.extend(format!("HTTP/1.1 {status} {id}\r\nDate: x\r\n").bytes());
    let framed = match answer % 5 {
        3 if last => [b"\r\n", body].concat(),
        0 | 3 => framed(body, false),
        _ => framed(body, answer % 5 == 1),
    };
    let bodiless = method == "HEAD" || status == 304;
    let head_len = if framed.starts_with(b"\r\n") {
        2
    } else {
        let end = framed.windows(4).position(|four| four == b"\r\n\r\n");
        end.unwrap() + 4
    };
    response.extend_from_slice(if bodiless {
        &framed[..head_len]
    } else {
        &framed
    });
    Exchange { request, response }
}

#[derive(Clone, Debug)]
struct Talk {
    exchanges: Vec<Exchange>,
    /// How many requests are sent before their responses.
    burst: usize,
}

/// Bodies with whole heads in them.
const ANY_TEXT: &str =
    "([ -~]|\r\n|\r\nHTTP/1\\.1 200 9\r\n\r\n|\r\nGET /9 HTTP/1\\.1\r\n\r\n){0,30}";

/// Bodies with parts of heads in them. Where a loss ends right before a whole head in a body,
/// nothing tells it from a message; and while part of one may be a message, no request is paired.
const TEXT: &str =
    "([ -~]|\r\n|HTTP/1\\.1 200 9\r\nno head\r\n|GET /9 HTTP/1\\.1\r\nno head\r\n){0,30}";

const PLAIN: &str = "([ -~]|\r\n){0,60}";

fn any_talk(
    text: &'static str,
    burst: impl Strategy<Value = usize>,
) -> impl Strategy<Value = Talk> {
    let one = ((0..4_u8, 0..3_u8, 0..5_u8), text);
    (proptest::collection::vec(one, 1..7), burst).prop_map(|(kinds, burst)| {
        let count = kinds.len();
        let exchanges = kinds
            .into_iter()
            .enumerate()
            .map(|(id, (kind, body))| exchange(id, kind, body.as_bytes(), id + 1 == count))
            .collect();
        Talk { exchanges, burst }
    })
}

impl Talk {
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for burst in self.exchanges.chunks(self.burst) {
            let request = |one: &Exchange| Step::Data(Direction::ToServer, one.request.clone());
            let response = |one: &Exchange| Step::Data(Direction::ToClient, one.response.clone());
            steps.extend(burst.iter().map(request));
            steps.extend(burst.iter().map(response));
        }
        steps
    }

    fn len(&self, direction: Direction) -> usize {
        let len = |one: &Exchange| match direction {
            Direction::ToServer => one.request.len(),
            Direction::ToClient => one.response.len(),
        };
        self.exchanges.iter().map(len).sum()
    }
}

/// The steps without some bytes of one direction: a gap for each part of each input.
fn with_gap(steps: &[Step], direction: Direction, from: usize, len: usize) -> Vec<Step> {
    let (mut lossy, mut offset) = (Vec::new(), 0);
    for step in steps {
        let data = match step {
            Step::Data(own, data) if *own == direction => data,
            other => {
                lossy.push(other.clone());
                continue;
            }
        };
        let cut = |at: usize| at.saturating_sub(offset).min(data.len());
        let (start, end) = (cut(from), cut(from + len));
        lossy.push(Step::Data(direction, data[..start].to_vec()));
        if start < end {
            lossy.push(Step::Gap(direction, (end - start) as u64));
        }
        lossy.push(Step::Data(direction, data[end..].to_vec()));
        offset += data.len();
    }
    lossy
}

/// The steps without those whose bit is set.
fn without(steps: &[Step], lost: u32) -> Vec<Step> {
    let steps = steps.iter().enumerate();
    let lossy = steps.map(|(index, step)| match step {
        Step::Data(direction, data) if lost >> index & 1 == 1 => {
            Step::Gap(*direction, data.len() as u64)
        }
        other => other.clone(),
    });
    lossy.collect()
}

/// A loss is seen when something comes behind it; that of a request at the latest when the server, which acknowledges
/// it, says something.
fn told_late(steps: &[Step]) -> Vec<Step> {
    let (mut late, mut to_server, mut to_client) = (Vec::new(), 0, 0);
    for step in steps {
        match step {
            Step::Gap(Direction::ToServer, len) => to_server += len,
            Step::Gap(Direction::ToClient, len) => to_client += len,
            Step::Data(_, data) if data.is_empty() => {}
            other => {
                if to_server > 0 {
                    late.push(Step::Gap(
                        Direction::ToServer,
                        std::mem::take(&mut to_server),
                    ));
                }
                if to_client > 0 && matches!(other, Step::Data(Direction::ToClient, _)) {
                    late.push(Step::Gap(
                        Direction::ToClient,
                        std::mem::take(&mut to_client),
                    ));
                }
                late.push(other.clone());
            }
        }
    }
    late
}

/// The ids in the two heads of every exchange that has both.
fn pairs(log: &Log) -> Vec<(String, String)> {
    let head = |key, role| {
        log.messages.get(&(key, role)).and_then(|items| {
            items.iter().find_map(|item| match item {
                Item::Head {
                    interim: false,
                    head,
                } => Some(head),
                _ => None,
            })
        })
    };
    let keys = log
        .messages
        .keys()
        .filter(|(_, role)| *role == Role::Request);
    keys.filter_map(|(key, _)| {
        let (request, response) = (head(*key, Role::Request)?, head(*key, Role::Response)?);
        let target = str::from_utf8(request.target()?).unwrap();
        let StartLine::Response { reason, .. } = response.start else {
            panic!("a response has a status line");
        };
        let reason = str::from_utf8(reason.of(&response.raw)).unwrap();
        Some((target.trim_start_matches('/').to_owned(), reason.to_owned()))
    })
    .collect()
}

/// Every gap of a few lengths, everywhere: pairs are never wrong. `exact`: and no exchange suffers
/// that lost no byte.
fn check_gaps(talk: &Talk, exact: bool) -> Result<(), TestCaseError> {
    let steps = talk.steps();
    for direction in Direction::BOTH {
        let total = talk.len(direction);
        for from in (0..total).step_by(3) {
            for len in [1, 7, 40, 120, 300] {
                let lossy = with_gap(&steps, direction, from, len);
                let log = read(&lossy, Limits::default());
                let pairs = pairs(&log);
                for (request, response) in &pairs {
                    prop_assert_eq!(request, response, "{} from {}:\n{}", len, from, log.text());
                }
                if !exact {
                    continue;
                }
                let (mut offset, mut touched) = (0, 0);
                for one in &talk.exchanges {
                    let own = match direction {
                        Direction::ToServer => one.request.len(),
                        Direction::ToClient => one.response.len(),
                    };
                    touched += usize::from(from < offset + own && offset < from + len);
                    offset += own;
                }
                prop_assert!(
                    pairs.len() + touched >= talk.exchanges.len(),
                    "{} {:?} from {}: {} touched\n{:?}\n{}",
                    len,
                    direction,
                    from,
                    touched,
                    lossy,
                    log.text()
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_client_that_waits_loses_only_what_was_hit(talk in any_talk(PLAIN, Just(1))) {
        check_gaps(&talk, true)?;
    }

    #[test]
    fn no_gap_mispairs(talk in any_talk(TEXT, 1..5_usize)) {
        check_gaps(&talk, false)?;
    }

    #[test]
    fn lost_messages_do_not_mispair(talk in any_talk(PLAIN, 1..5_usize)) {
        let steps = talk.steps();
        for lost in 0..1_u32 << (2 * talk.exchanges.len()).min(12) {
            let lossy = told_late(&without(&steps, lost));
            let log = read(&lossy, Limits::default());
            for (request, response) in pairs(&log) {
                prop_assert_eq!(request, response, "{:b}\n{}", lost, log.text());
            }
        }
    }

    #[test]
    fn any_split_reads_the_same(talk in any_talk(ANY_TEXT, 1..5_usize), lens in proptest::collection::vec(1..40_usize, 1..8)) {
        let steps = talk.steps();
        let reference = read(&steps, Limits::default());
        prop_assert_eq!(pairs(&reference).len(), talk.exchanges.len(), "{}", reference.text());
        prop_assert!(!reference.text().contains("http1-"), "{}", reference.text());
        prop_assert_eq!(&read(&in_pieces(&steps, 1), Limits::default()), &reference);
        let mut pieces = Vec::new();
        let mut lens = lens.iter().cycle();
        for step in &steps {
            let Step::Data(direction, mut data) = step.clone() else { continue };
            while !data.is_empty() {
                let rest = data.split_off((*lens.next().unwrap()).min(data.len()));
                pieces.push(Step::Data(direction, data));
                data = rest;
            }
        }
        prop_assert_eq!(&read(&pieces, Limits::default()), &reference);
    }

    #[test]
    fn anything_is_read(
        steps in proptest::collection::vec(
            (
                any::<bool>(),
                prop_oneof![
                    4 => prop_oneof![
                        Just(GET_A.to_owned()),
                        Just("CONNECT a:1 HTTP/1.1\r\n\r\n".to_owned()),
                        Just("GET /w HTTP/1.1\r\nUpgrade: w\r\n\r\n".to_owned()),
                        Just("POST /p HTTP/1.1\r\nContent-Length: 5\r\n\r\nab".to_owned()),
                        Just("POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab".to_owned()),
                        Just("GET /old\r\n".to_owned()),
                    ].prop_map(|text| (0, text)),
                    4 => prop_oneof![
                        Just(OK.to_owned()),
                        Just(format!("{CHUNKED}2\r\nab")),
                        Just("HTTP/1.1 101 S\r\nUpgrade: w\r\n\r\n".to_owned()),
                        Just("HTTP/1.1 100 C\r\n\r\n".to_owned()),
                        Just("HTTP/1.1 204 N\r\n\r\n".to_owned()),
                        Just("HTTP/1.0 200 OK\r\n\r\nx".to_owned()),
                    ].prop_map(|text| (1, text)),
                    3 => "[\r\n0-9a-zA-Z: /.]{0,9}".prop_map(|text| (2, text)),
                    2 => (0..9_u64).prop_map(|len| (3, len.to_string())),
                    1 => (4..7_u8).prop_map(|close| (close, String::new())),
                ],
            ),
            0..14,
        ),
        piece in 1..30_usize,
    ) {
        let steps: Vec<_> = steps
            .into_iter()
            .map(|(either, (kind, text))| {
                let any = if either { Direction::ToServer } else { Direction::ToClient };
                match kind {
                    0 => Step::Data(Direction::ToServer, text.into_bytes()),
                    1 => Step::Data(Direction::ToClient, text.into_bytes()),
                    2 => Step::Data(any, text.into_bytes()),
                    3 => Step::Gap(any, text.parse().unwrap()),
                    4 => Step::Close(any, Close::Fin),
                    5 => Step::Close(any, Close::Reset),
                    _ => Step::Close(any, Close::Cut),
                }
            })
            .collect();
        let small = Limits { head: 48, lines: 4, outstanding: 2, undecided: 20 };
        for limits in [Limits::default(), small] {
            // The grammar and the bound of memory are checked by reading.
            let whole = read(&steps, limits);
            let pieces = read(&in_pieces(&steps, piece), limits);
            for direction in Direction::BOTH {
                let given: u64 = steps.iter().map(|step| match step {
                    Step::Data(own, data) if *own == direction => data.len() as u64,
                    _ => 0,
                }).sum();
                // Chunk framing is the only thing that no event stands for.
                for log in [&whole, &pieces] {
                    prop_assert!(log.accounted(direction) <= given, "{}", log.text());
                }
            }
        }
    }
}
