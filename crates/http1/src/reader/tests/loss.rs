//! Gaps and beginnings in the middle: what is known stays exact, what is not is never guessed.
use tapedeck_model::Role;

use super::log::Item;
use super::*;

#[track_caller]
fn check(steps: &[Step], expected: &str) {
    let log = read(steps, Limits::default());
    let expected: Vec<_> = expected.lines().map(str::trim).collect();
    assert_eq!(log.text().lines().collect::<Vec<_>>(), expected);
}

pub(super) const GET_A: &str = "GET /a HTTP/1.1\r\n\r\n";
const GET_B: &str = "GET /b HTTP/1.1\r\n\r\n";
const GET_C: &str = "GET /c HTTP/1.1\r\n\r\n";
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
pub(super) const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

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

/// A client that waits for each of so many responses.
fn turns(count: usize) -> Vec<Step> {
    vec![[c(GET_A), s(OK)]; count].concat()
}

#[test]
fn a_lost_exchange_costs_the_one_behind_it_and_no_more() {
    let before = turns(9);
    // A loss is told with what comes behind it: that a response is missing, only with the next one.
    // Or with the next request, which acknowledges it.
    for lost in [
        [gap_c(20), c(GET_B), gap_s(42), s(OK)],
        [gap_s(42), gap_c(20), c(GET_B), s(OK)],
    ] {
        let steps = [&before[..], &lost, &turns(1)].concat();
        let log = read(&steps, Limits::default());
        let text = log.text();
        let behind: Vec<_> = text.lines().skip(18).collect();
        let expected = [
            r#"9 > GET /b end"#,
            r#"9 < absent{"lost"}"#,
            r#"10 > absent{"lost"}"#,
            r#"10 < 200 "body" end"#,
            r#"11 > GET /a end"#,
            r#"11 < 200 "body" end"#,
        ];
        assert_eq!(behind, expected);
        // Again and again.
        let steps = [&before, &lost[..], &turns(1), &lost, &lost, &turns(1)].concat();
        let text = read(&steps, Limits::default()).text();
        assert_eq!(text.matches("absent").count(), 6, "{text}");
        assert!(
            text.ends_with("16 > GET /a end\n16 < 200 \"body\" end\n"),
            "{text}"
        );
    }
}

#[test]
fn who_has_not_shown_yet_that_it_waits_loses_more_by_a_lost_exchange() {
    let lost = [gap_c(20), c(GET_B), gap_s(42), s(OK)];
    for before in 0..12 {
        let steps = [&turns(before), &lost[..], &turns(12)].concat();
        let text = read(&steps, Limits::default()).text();
        // The first of all requests shows nothing.
        let unproven = 9_usize.saturating_sub(before.max(1));
        assert_eq!(
            text.matches("absent").count(),
            2 + 2 * unproven,
            "{before}: {text}"
        );
        assert!(text.ends_with("< 200 \"body\" end\n"), "{text}");
    }
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
