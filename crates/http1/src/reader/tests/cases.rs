//! Conversations without loss: what is read, at every split and every end.

use super::*;

/// Checks a conversation, whole, in pieces, and cut at every byte in every way.
#[track_caller]
fn check(steps: &[Step], expected: &str) {
    check_text(steps, expected);
    let reference = read(steps, Limits::default());
    for len in [1, 2, 3, 7] {
        let log = read(&in_pieces(steps, len), Limits::default());
        assert_eq!(log.text(), reference.text(), "in pieces of {len}");
    }
    for split in every_split(steps) {
        let log = read(&split, Limits::default());
        assert_eq!(log.text(), reference.text(), "{split:?}");
    }
    for prefix in every_prefix(steps) {
        for close in [Close::Fin, Close::Reset, Close::Cut] {
            for first in Direction::BOTH {
                let mut steps = prefix.clone();
                steps.extend([Step::Close(first, close), Step::Close(!first, close)]);
                read(&steps, Limits::default());
            }
        }
    }
}

#[track_caller]
fn check_text(steps: &[Step], expected: &str) {
    let trimmed: String = expected
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .fold(String::new(), |text, line| text + line + "\n");
    let log = read(steps, Limits::default());
    assert_eq!(log.text(), trimmed);
}

fn every_prefix(steps: &[Step]) -> impl Iterator<Item = Vec<Step>> {
    (0..steps.len()).flat_map(move |index| {
        let data = match &steps[index] {
            Step::Data(direction, data) => Some((*direction, data)),
            _ => None,
        };
        data.into_iter().flat_map(move |(direction, data)| {
            (0..data.len()).map(move |len| {
                let mut prefix = steps[..index].to_vec();
                prefix.push(Step::Data(direction, data[..len].to_vec()));
                prefix
            })
        })
    })
}

#[test]
fn keep_alive() {
    check(
        &[
            c("GET /a HTTP/1.1\r\nHost: x\r\n\r\n"),
            s("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
            c("POST /b HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
            s("HTTP/1.1 201\r\nContent-Length: 0\r\n\r\n"),
        ],
        r#"0 > GET /a end
           0 < 200 "hi" end
           1 > POST /b "abc" end
           1 < 201 end"#,
    );
}

#[test]
fn pipelining_with_interim_responses_and_head() {
    check(
        &[
            c(
                "GET /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nPUT /c HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
            ),
            s(
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
            ),
            s(
                "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
            ),
        ],
        r#"0 > GET /a end
           0 < (103) (102) 200 "a" end
           1 > HEAD /b end
           1 < 200 end
           2 > PUT /c "x" end
           2 < (100) 204 end"#,
    );
}

#[test]
fn chunked_bodies_and_trailers() {
    check(
        &[
            c(
                "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n1\r\nd\r\n0\r\nSum: 1\r\nB:2\r\n\r\n",
            ),
            s("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
        ],
        r#"0 > POST /a "abcd" Sum=1 B=2 end
           0 < 200 "hi" end"#,
    );
}

#[test]
fn not_modified_has_no_body_whatever_it_says() {
    check(
        &[
            c("GET /a HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
            c("GET /b HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ],
        "0 > GET /a end
         0 < 304 end
         1 > GET /b end
         1 < 204 end",
    );
}

#[test]
fn a_body_may_end_with_the_connection() {
    let steps = [
        c("GET /a HTTP/1.0\r\n\r\n"),
        s("HTTP/1.0 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
    ];
    check(
        &steps,
        r#"0 > GET /a end
                     0 < 200 "HTTP/1.1 200 OK\\r\\n\\r\\n" end"#,
    );
    let reset = [&steps[..], &[RESET_S]].concat();
    check(
        &reset,
        r#"0 > GET /a end
                     0 < 200 "HTTP/1.1 200 OK\\r\\n\\r\\n" end{"aborted"}
                     0 < http1-closed-in-message"#,
    );
    let cut = [&steps[..], &[CUT_S]].concat();
    check(
        &cut,
        r#"0 > GET /a end
                   0 < 200 "HTTP/1.1 200 OK\\r\\n\\r\\n" end{"unfinished"}"#,
    );
}

#[test]
fn a_tunnel_by_connect() {
    check(
        &[
            c("CONNECT a:443 HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"),
            c("GET / HTTP/1.1\r\n\r\n"),
            s("cd"),
        ],
        r#"0 > CONNECT a:443 "GET / HTTP/1.1\\r\\n\\r\\n" end
           0 < 200 "abcd" end
           0 tunnel"#,
    );
    // What the client sends ahead belongs to the tunnel, or is the next request.
    let ahead = [
        c("CONNECT a:443 HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
        s("HTTP/1.1 200 OK\r\n\r\nab"),
    ];
    check(
        &ahead,
        r#"0 > CONNECT a:443 "GET / HTTP/1.1\\r\\n\\r\\n" end
                     0 < 200 "ab" end
                     0 tunnel"#,
    );
    let refused = [
        ahead[0].clone(),
        s("HTTP/1.1 407 No\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 204 No\r\n\r\n"),
    ];
    check(
        &refused,
        r#"0 > CONNECT a:443 end
                       0 < 407 "x" end
                       1 > GET / end
                       1 < 204 end"#,
    );
}

#[test]
fn an_upgrade_is_agreed_on_or_ignored() {
    let ask = c("GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n");
    check(
        &[
            ask.clone(),
            s("HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n\x02x"),
            c("\x01y"),
            gap_c(5),
            RESET_S,
        ],
        r#"0 > GET /ws "\\x01y" gap 5 end
           0 < 101 "\\x02x" end{"aborted"}
           0 tunnel"#,
    );
    check(
        &[
            ask,
            s("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            c("GET /b HTTP/1.1\r\n\r\n"),
        ],
        r#"0 > GET /ws end
           0 < 200 end
           1 > GET /b end
           1 < absent{"aborted"}"#,
    );
}

#[test]
fn an_upgrade_behind_a_body_is_agreed_on_before_its_end() {
    check(
        &[
            c("POST /ws HTTP/1.1\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\na"),
            s("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\ns"),
            c("bc"),
        ],
        r#"0 > POST /ws "abc" end
           0 < 101 "s" end
           0 < http1-early-response
           0 tunnel"#,
    );
}

#[test]
fn an_upgrade_nobody_asked_for_is_an_answer() {
    check(
        &[
            c("GET /a HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 101 Switching\r\n\r\n"),
            c("GET /b HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 204 No\r\n\r\n"),
        ],
        "0 > GET /a end
         0 < 101 end
         1 > GET /b end
         1 < 204 end",
    );
}

#[test]
fn a_switch_to_http2() {
    let ask = "GET /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n";
    let agree = "HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n";
    check_text(
        &[c(ask), s(&format!("{agree}rest")), c("PRI")],
        r#"0 > GET /a end
           0 < (101)
           0 http2 < "rest""#,
    );
    check(
        &[c(ask), s(agree)],
        r#"0 > GET /a end
                                  0 < (101)
                                  0 http2 < """#,
    );
    check(
        &[c(&format!("{ask}PRI")), s(agree)],
        r#"0 > GET /a end
                                  0 < (101)
                                  0 http2 < ""
                                  0 http2 > "PRI""#,
    );
}

#[test]
fn odd_heads_are_read_and_named() {
    check(
        &[
            c("\r\n\nGET /a b HTTP/1.1\nHost : x\r\nA: b\r\n c\r\n\r\n"),
            s("HTTP/1.1 200\nContent-Length: 1\n\nx"),
        ],
        r#"0 > GET /a b end
           0 < 200 "x" end
           - > http1-junk-between-messages
           0 < http1-bare-lf
           0 > http1-bare-lf
           0 > http1-malformed-head
           0 > http1-obs-fold
           0 > http1-space-before-colon
           skipped > 3"#,
    );
}

#[test]
fn http_09_has_no_heads() {
    check(
        &[c("GET /old\r\n"), s("<html>HTTP/1.1 200 OK\r\n\r\n")],
        r#"0 > GET /old end
           0 < ??? "<html>HTTP/1.1 200 OK\\r\\n\\r\\n" end
           0 > http1-malformed-head"#,
    );
    check(
        &[
            c("GET /new\r\n"),
            s("HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n"),
        ],
        "0 > GET /new end
         0 < 400 end
         0 > http1-malformed-head",
    );
}

#[test]
fn streaming_servers_answer_by_another_name() {
    check(
        &[
            c("GET /radio HTTP/1.0\r\nIcy-MetaData: 1\r\n\r\n"),
            s("ICY 200 OK\r\nicy-metaint:8192\r\n\r\nmusic"),
        ],
        r#"0 > GET /radio end
           0 < 200 "music" end"#,
    );
}

#[test]
fn sloppy_start_lines_are_read() {
    check_text(
        &[
            c("GET   /a HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1  200  OK\r\nContent-Length: 0\r\n\r\n"),
            c("GET HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 400Bad Request\r\nContent-Length: 0\r\n\r\n"),
        ],
        "0 > GET /a end
         0 < 200 end
         1 > GET - end
         1 < 400 end
         0 < http1-malformed-head
         0 > http1-malformed-head
         1 < http1-malformed-head
         1 > http1-malformed-head",
    );
}

#[test]
fn an_answer_that_is_none_is_not_taken_for_lost_before_the_capture() {
    check_text(
        &[
            c("GET /a HTTP/1.1\r\n\r\n"),
            s("HTTP 200 OK\r\nContent-Length: 0\r\n\r\n"),
            c("GET /b HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 204 No Content\r\n\r\n"),
        ],
        "0 > GET /a end
         0 < absent{\"malformed\"}
         1 > GET /b end
         1 < 204 end
         skipped < 34",
    );
}

#[test]
fn an_unreadable_request_has_its_answer() {
    check(
        &[
            c("OPTIONS * HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 204 No\r\n\r\n"),
            c("what is this\r\n\r\n"),
            s("HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n"),
        ],
        r#"0 > OPTIONS * end
           0 < 204 end
           1 > end{"malformed"}
           1 < 400 end
           1 > http1-malformed-head
           skipped > 16"#,
    );
}

#[test]
fn an_unreadable_response_is_one() {
    check(
        &[
            c("GET /a HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 100 C\r\n\r\nHTTP/x\r\n\r\n"),
            c("GET /b HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 204 No\r\n\r\n"),
        ],
        r#"0 > GET /a end
           0 < (100) end{"malformed"}
           1 > GET /b end
           1 < 204 end
           0 < http1-malformed-head
           skipped < 10"#,
    );
}

#[test]
fn lengths_that_contradict() {
    check(
        &[
            c(
                "POST /a HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            ),
            s("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nabc"),
        ],
        r#"0 > POST /a "x" end
           0 < 200 "abc" end
           0 < http1-invalid-length
           0 > http1-conflicting-length"#,
    );
    check(
        &[
            c("POST /a HTTP/1.1\r\nContent-Length: x\r\n\r\nabc"),
            s("HTTP/1.1 400 Bad\r\nTransfer-Encoding: gzip\r\n\r\nno"),
        ],
        r#"0 > POST /a end{"malformed"}
           0 < 400 "no" end
           0 < http1-unknown-transfer-coding
           0 > http1-invalid-length
           skipped > 3"#,
    );
}

#[test]
fn malformed_chunks_end_the_message() {
    check(
        &[
            c("POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\nzz\r\n"),
            s("HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n"),
        ],
        r#"0 > POST /a "x" end{"malformed"}
           0 < 400 "ab" end{"malformed"}
           0 < http1-malformed-chunk
           0 > http1-bare-lf
           0 > http1-malformed-chunk
           skipped < 3
           skipped > 4"#,
    );
}

#[test]
fn a_response_before_the_request_ended() {
    check(
        &[
            c("POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nab"),
            s("HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n"),
            c("cd"),
            c("GET /b HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 204 No\r\n\r\n"),
        ],
        r#"0 > POST /a "abcd" end
           0 < 413 end
           1 > GET /b end
           1 < 204 end
           0 < http1-early-response"#,
    );
}

#[test]
fn a_body_that_was_asked_about_and_kept_back() {
    check_text(
        &[
            c("PUT /a HTTP/1.1\r\nContent-Length: 99\r\nExpect: 100-continue\r\n\r\n"),
            s("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"),
            c("PUT /a HTTP/1.1\r\nAuthorization: x\r\nContent-Length: 1\r\n\r\nx"),
            s("HTTP/1.1 204 No\r\n\r\n"),
        ],
        r#"0 > PUT /a end{"aborted"}
           0 < 401 end
           1 > PUT /a "x" end
           1 < 204 end
           0 < http1-early-response"#,
    );
}

#[test]
fn answers_that_nobody_asked_for() {
    check(
        &[
            c("GET /a HTTP/1.1\r\n\r\n"),
            s(
                "HTTP/1.1 204 No\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 408 Timeout\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
            ),
        ],
        r#"0 > GET /a end
           0 < 204 end
           1 > absent{}
           1 < (100) 408 "no" end
           1 < http1-unsolicited-response"#,
    );
}

#[test]
fn requests_that_nobody_answered() {
    let ask = c("GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
    for (close, cause) in [
        (FIN_S, "aborted"),
        (RESET_S, "aborted"),
        (CUT_S, "unfinished"),
    ] {
        check(
            &[
                ask.clone(),
                s("HTTP/1.1 100 C\r\n\r\n"),
                close,
                c("GET /c HTTP/1.1\r\n\r\n"),
            ],
            &format!(
                r#"0 > GET /a end
                   0 < (100) end{{"{cause}"}}
                   1 > GET /b end
                   1 < absent{{"{cause}"}}
                   2 > GET /c end
                   2 < absent{{"{cause}"}}"#
            ),
        );
    }
}

#[test]
fn data_behind_the_last_message() {
    check(
        &[
            c("GET /a HTTP/1.1\r\nConnection: close\r\n\r\n"),
            s("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nabc"),
            c("GET /b HTTP/1.1\r\n\r\n"),
        ],
        r#"0 > GET /a end
           0 < 200 "a" end
           1 > GET /b end
           1 < absent{"aborted"}
           - < http1-data-after-last-message
           - > http1-data-after-last-message
           skipped < 2"#,
    );
}

#[test]
fn junk_is_passed_over() {
    check_text(
        &[
            c("POST /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx{\"more\":1}"),
            s("HTTP/1.1 204 No\r\nContent-Length: 4\r\n\r\nbody"),
            c("GET /b HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 204 No\r\n\r\n"),
        ],
        r#"0 > POST /a "x" end
           0 < 204 end
           1 > GET /b end
           1 < 204 end
           - < http1-junk-between-messages
           - > http1-junk-between-messages
           skipped < 4
           skipped > 10"#,
    );
}

#[test]
fn a_close_in_the_middle() {
    check(
        &[
            c("POST /a HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"),
            FIN_C,
            s("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        ],
        r#"0 > POST /a "x" end{"aborted"}
           0 < 200 "ab" end{"aborted"}
           0 < http1-closed-in-message
           0 > http1-closed-in-message"#,
    );
    check(
        &[c("GET /a HTTP/1.1\r\nHo"), FIN_C, s("HTTP/1.1 2")],
        r#"0 > end{"aborted"}
           0 < end{"aborted"}
           0 < http1-closed-in-message
           0 > http1-closed-in-message
           skipped < 10
           skipped > 19"#,
    );
}

fn small() -> Limits {
    Limits {
        head: 64,
        lines: 4,
        outstanding: 2,
        undecided: 8,
    }
}

#[track_caller]
fn check_limit(steps: &[Step], expected: &str) {
    for len in [usize::MAX, 1, 5, 63, 64, 65] {
        let log = read(&in_pieces(steps, len.min(1 << 20)), small());
        let expected: Vec<_> = expected.lines().map(str::trim).collect();
        assert_eq!(
            log.text().lines().collect::<Vec<_>>(),
            expected,
            "in pieces of {len}"
        );
    }
}

#[test]
fn heads_have_a_limit() {
    let long = "x".repeat(80);
    check_limit(
        &[
            c(&format!("GET /{long} HTTP/1.1\r\n\r\n")),
            s(&format!("HTTP/1.1 414 {long}\r\n\r\n")),
            c("GET /b HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 204 No\r\n\r\n"),
        ],
        r#"0 > end{"partial"}
           0 < end{"partial"}
           1 > GET /b end
           1 < 204 end
           0 < http1-head-too-large
           0 > http1-head-too-large
           skipped < 97
           skipped > 98"#,
    );
}

#[test]
fn lines_of_heads_and_trailers_have_a_limit() {
    check_limit(
        &[
            c("GET /a HTTP/1.1\r\na:\r\na:\r\na:\r\na:\r\n\r\n"),
            s(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na:\r\na:\r\na:\r\na:\r\na:\r\n\r\n",
            ),
        ],
        r#"0 > end{"partial"}
           0 < 200 end{"partial"}
           0 < http1-head-too-large
           0 > http1-head-too-large
           skipped < 22
           skipped > 35"#,
    );
}

#[test]
fn outstanding_requests_have_a_limit() {
    check_limit(
        &[
            c("GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 201 a\r\nContent-Length: 0\r\n\r\n"),
            s("HTTP/1.1 202 b\r\nContent-Length: 0\r\n\r\n"),
            s("HTTP/1.1 203 c\r\nContent-Length: 0\r\n\r\n"),
            c("GET /d HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 204 d\r\n\r\n"),
        ],
        r#"0 > GET /a end
           0 < absent{"partial"}
           1 > GET /b end
           1 < absent{"partial"}
           2 > GET /c end
           2 < absent{"partial"}
           3 > absent{"partial"}
           3 < 201 end
           4 > absent{"partial"}
           4 < 202 end
           5 > absent{"partial"}
           5 < 203 end
           6 > GET /d end
           6 < 204 end
           2 > http1-too-many-outstanding"#,
    );
}

#[test]
fn what_comes_before_a_decision_has_a_limit() {
    check_limit(
        &[
            c("CONNECT a:1 HTTP/1.1\r\n\r\n"),
            c("GET /b HTTP/1.1\r\n\r\n"),
            s("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"),
            s("HTTP/1.1 204 No\r\n\r\n"),
        ],
        "0 > CONNECT a:1 end
         0 < 407 end
         1 > GET /b end
         1 < 204 end",
    );
}

/// Bytes come one by one, each at its own time; and heads are kept as they were.
#[test]
fn times_are_those_of_the_first_and_last_byte() {
    let parts = [
        "POST /a HTTP/1.1\r\nX:  1\r\nx: 2 \r\nX: 1\r\nB: c\r\n\td\r\ncontent-LENGTH:3\r\n\r\n",
        "abc",
        "HTTP/1.1 103 Hints\r\nLink: a\r\nlink: b\n\r\n",
        "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n",
        "2\r\nhi\r\n0\r\nT: 1\r\n\r\n",
    ];
    let mut reader = Reader::new(Limits::default());
    let (mut found, mut raw) = (Vec::new(), Vec::new());
    let mut now = 0;
    for (part, text) in parts.iter().enumerate() {
        let direction = if part < 2 {
            Direction::ToServer
        } else {
            Direction::ToClient
        };
        for byte in text.as_bytes() {
            now += 1;
            let input = Input::Data(std::slice::from_ref(byte));
            let at = Timestamp::from_nanos(now);
            reader.push(at, direction, input, &mut |event: Event<'_>| match event {
                Event::Head {
                    first_byte,
                    at,
                    head,
                    ..
                } => {
                    found.extend([first_byte, at]);
                    raw.extend(head.raw);
                }
                Event::End { at, .. } => found.push(at),
                _ => {}
            });
        }
    }
    let mut sum = 0;
    let ends = parts.map(|part| {
        sum += part.len() as i64;
        sum
    });
    let [asked, asked_all, hinted, answered, answered_all] = ends;
    let expected = [
        1,
        asked,
        asked_all,
        asked_all + 1,
        hinted,
        hinted + 1,
        answered,
        answered_all,
    ];
    assert_eq!(found, expected.map(Timestamp::from_nanos));
    assert_eq!(raw, [parts[0], parts[2], parts[3]].concat().as_bytes());
}
