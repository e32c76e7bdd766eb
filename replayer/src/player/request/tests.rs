use proptest::prelude::*;
use tapedeck_http2::hpack::{Decoder, Section};
use tapedeck_model::Protocol;

use super::fields::{Fields, behind_start_line};
use super::recorded::{RecordedRequest, Rules, Untranslatable};
use super::{Http1Request, Http2Request};

fn rules() -> Rules {
    Rules {
        authority: "target:8080".to_owned(),
        path_prefix: String::new(),
        preserve_host: false,
        keep_connection_options: true,
        tls: false,
        set: Vec::new(),
        removed: Vec::new(),
    }
}

/// A recorded HTTP/1 request; `method` and `target` are read from the head.
fn http1<'a>(head: &'a str, body: &'a str) -> RecordedRequest<'a> {
    let mut words = head.trim_start().split(' ');
    RecordedRequest {
        method: words.next().unwrap().as_bytes(),
        target: words.next().unwrap().as_bytes(),
        protocol: if head.contains("HTTP/1.0") {
            Protocol::Http10
        } else {
            Protocol::Http11
        },
        authority: Some(b"recorded.example"),
        fields: Fields::Lines(behind_start_line(head.as_bytes())),
        body: body.as_bytes(),
        trailers: None,
    }
}

/// The fields of a block, as the target decodes them.
fn fields_of(block: &[u8]) -> Vec<(String, String)> {
    let mut section = Section::new(1 << 20, block.len());
    let outcome = Decoder::fresh(4096).decode(block, &mut section);
    assert!(!outcome.error && !outcome.refers && !outcome.changed);
    let text =
        |span: tapedeck_model::Span| String::from_utf8_lossy(span.of(&section.raw)).into_owned();
    let fields = section.fields.iter();
    fields
        .map(|field| (text(field.name), text(field.value)))
        .collect()
}

#[track_caller]
fn check_fields(block: &[u8], expect: &[(&str, &str)]) {
    let fields = fields_of(block);
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(fields, expect);
}

/// A recorded HTTP/2 request, pseudo-header fields included.
fn http2<'a>(pairs: &[(&'a str, &'a str)], body: &'a str) -> RecordedRequest<'a> {
    let find = |name| {
        pairs
            .iter()
            .find(|(given, _)| *given == name)
            .map(|(_, value)| value.as_bytes())
    };
    RecordedRequest {
        method: find(":method").unwrap(),
        target: find(":path").unwrap(),
        protocol: Protocol::Http2,
        authority: find(":authority"),
        fields: Fields::Pairs(
            pairs
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
                .collect(),
        ),
        body: body.as_bytes(),
        trailers: None,
    }
}

#[track_caller]
fn check_wire(recorded: &RecordedRequest<'_>, rules: &Rules, expect: &str) {
    let request = Http1Request::new(recorded, rules).unwrap();
    assert_eq!(String::from_utf8_lossy(&request.wire), expect);
}

#[test]
fn order_case_duplicates_and_white_space_stay() {
    check_wire(
        &http1(
            "GET /a?b=%20c HTTP/1.1\r\nhOsT: recorded.example\r\nX-b:1\r\nx-A:  2 \r\nX-b: 3\r\nno-value:\r\n\r\n",
            "",
        ),
        &rules(),
        "GET /a?b=%20c HTTP/1.1\r\nhOsT: target:8080\r\nX-b:1\r\nx-A:  2 \r\nX-b: 3\r\nno-value:\r\n\r\n",
    );
}

#[test]
fn folded_lines_and_bare_line_feeds_stay() {
    check_wire(
        &http1(
            "GET / HTTP/1.1\nHost: x\nFolded: a\n  b\r\n\tc\r\nLast: 1\n\n",
            "",
        ),
        &rules(),
        "GET / HTTP/1.1\r\nHost: target:8080\r\nFolded: a\n  b\r\n\tc\r\nLast: 1\n\r\n",
    );
}

#[test]
fn the_host_is_the_targets_unless_preserved() {
    let recorded = http1("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "");
    check_wire(
        &recorded,
        &rules(),
        "GET / HTTP/1.1\r\nHost: target:8080\r\n\r\n",
    );
    let preserve = Rules {
        preserve_host: true,
        ..rules()
    };
    check_wire(&recorded, &preserve, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // What had none was recorded that way.
    check_wire(
        &http1("GET / HTTP/1.0\r\n\r\n", ""),
        &rules(),
        "GET / HTTP/1.0\r\n\r\n",
    );
}

#[test]
fn hop_by_hop_fields_are_dropped() {
    check_wire(
        &http1(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, X-Mine\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nProxy-Authorization: secret\r\nTE: trailers\r\nAccept: */*\r\n\r\n",
            "",
        ),
        &rules(),
        "GET / HTTP/1.1\r\nHost: target:8080\r\nAccept: */*\r\n\r\n",
    );
}

#[test]
fn a_recorded_close_is_repeated_only_on_recorded_connections() {
    let close = http1("GET / HTTP/1.1\r\nConnection: close\r\nA: b\r\n\r\n", "");
    check_wire(
        &close,
        &rules(),
        "GET / HTTP/1.1\r\nConnection: close\r\nA: b\r\n\r\n",
    );
    let pooled = Rules {
        keep_connection_options: false,
        ..rules()
    };
    check_wire(&close, &pooled, "GET / HTTP/1.1\r\nA: b\r\n\r\n");
    check_wire(
        &http1("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", ""),
        &rules(),
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    );
}

#[test]
fn the_body_is_framed_as_it_is() {
    check_wire(
        &http1("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n", "hello"),
        &rules(),
        "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello",
    );
    // A length that no longer holds, twice, and one that the transfer coding overrules.
    check_wire(
        &http1(
            "POST / HTTP/1.1\r\nContent-Length: 9\r\nContent-Length: 9\r\n\r\n",
            "hello",
        ),
        &rules(),
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    );
    check_wire(
        &http1(
            "POST / HTTP/1.1\r\nContent-Length: 9\r\nTransfer-Encoding: Chunked\r\n\r\n",
            "hello",
        ),
        &rules(),
        "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    check_wire(
        &http1("POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "x"),
        &rules(),
        "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
    );
}

#[test]
fn trailers_go_out_behind_the_chunks() {
    let mut recorded = http1(
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n",
        "data",
    );
    recorded.trailers = Some(Fields::Lines(b"X-Sum: 1\r\nx-sum:2\r\n\r\n"));
    check_wire(
        &recorded,
        &rules(),
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4\r\ndata\r\n0\r\nX-Sum: 1\r\nx-sum:2\r\n\r\n",
    );
}

#[test]
fn targets_are_sent_in_origin_form() {
    let prefix = Rules {
        path_prefix: "/base".to_owned(),
        ..rules()
    };
    for (line, plain, prefixed) in [
        ("GET /a", "/a", "/base/a"),
        (
            "GET http://h:1/a?b=http://c",
            "/a?b=http://c",
            "/base/a?b=http://c",
        ),
        ("GET http://h", "/", "/base/"),
        ("GET http://h?q", "/?q", "/base/?q"),
        ("OPTIONS *", "*", "*"),
        ("OPTIONS http://h", "*", "*"),
    ] {
        let head = format!("{line} HTTP/1.1\r\n\r\n");
        let method = line.split(' ').next().unwrap();
        for (rules, target) in [(&rules(), plain), (&prefix, prefixed)] {
            let expect = format!("{method} {target} HTTP/1.1\r\n\r\n");
            check_wire(&http1(&head, ""), rules, &expect);
        }
    }
}

#[test]
fn expect_holds_the_body_back() {
    let head = "PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n";
    let request = Http1Request::new(&http1(head, "ab"), &rules()).unwrap();
    assert!(request.expects_continue);
    assert_eq!(request.wire.get(request.head_len..), Some(&b"ab"[..]));
    let empty = "PUT / HTTP/1.1\r\nExpect: 100-Continue\r\n\r\n";
    let request = Http1Request::new(&http1(empty, ""), &rules()).unwrap();
    assert!(!request.expects_continue);
}

#[test]
fn http2_becomes_http1() {
    let pairs = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/pay?x"),
        (":authority", "shop.example"),
        ("cookie", "a=1"),
        ("accept", "*/*"),
        ("cookie", "b=2"),
        ("te", "trailers"),
    ];
    let mut recorded = http2(&pairs, "{}");
    check_wire(
        &recorded,
        &rules(),
        "POST /pay?x HTTP/1.1\r\nHost: target:8080\r\ncookie: a=1; b=2\r\naccept: */*\r\nContent-Length: 2\r\n\r\n{}",
    );
    recorded.trailers = Some(Fields::Pairs(vec![(b"x-sum", b"7")]));
    let preserve = Rules {
        preserve_host: true,
        ..rules()
    };
    check_wire(
        &recorded,
        &preserve,
        "POST /pay?x HTTP/1.1\r\nHost: shop.example\r\ncookie: a=1; b=2\r\naccept: */*\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    recorded.trailers = None;
    recorded.body = b"";
    check_wire(
        &recorded,
        &rules(),
        "POST /pay?x HTTP/1.1\r\nHost: target:8080\r\ncookie: a=1; b=2\r\naccept: */*\r\nContent-Length: 0\r\n\r\n",
    );
}

#[test]
fn nothing_breaks_out_of_a_line() {
    let base = [(":method", "GET"), (":path", "/"), (":authority", "a")];
    let check = |at: usize, pair, expect| {
        let mut pairs = base.to_vec();
        if at < pairs.len() {
            pairs[at] = pair;
        } else {
            pairs.push(pair);
        }
        let recorded = http2(&pairs, "");
        assert_eq!(Http1Request::new(&recorded, &rules()).unwrap_err(), expect);
        assert_eq!(Http2Request::new(&recorded, &rules()).unwrap_err(), expect);
    };
    check(0, (":method", "GET / HTTP/1.1\r\n"), Untranslatable::Method);
    check(1, (":path", "/ HTTP/1.1\r\nX: y"), Untranslatable::Target);
    check(3, ("x", "1\r\ny: 2"), Untranslatable::Field);
    check(3, ("x y", "1"), Untranslatable::Field);
}

#[test]
fn http1_becomes_http2() {
    let recorded = http1(
        "POST http://h/a?b HTTP/1.1\r\nHost: h\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-Two: 1\r\nX-TWO: 2\r\nContent-Length: 4\r\nExpect: 100-continue\r\nTE: gzip, trailers\r\nFolded: a\r\n b\r\n\r\n",
        "body",
    );
    let request = Http2Request::new(&recorded, &rules()).unwrap();
    check_fields(
        &request.head,
        &[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "target:8080"),
            (":path", "/a?b"),
            ("x-two", "1"),
            ("x-two", "2"),
            ("content-length", "4"),
            ("te", "trailers"),
            ("folded", "a   b"),
        ],
    );
    assert_eq!(request.body, "body");
}

#[test]
fn http2_stays_http2() {
    let pairs = [
        (":method", "POST"),
        (":path", "/pkg.Service/Call"),
        (":authority", "shop.example"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ];
    let mut recorded = http2(&pairs, "\0\0\0\0\0");
    recorded.trailers = Some(Fields::Pairs(vec![(b"x-sum", b"7")]));
    let preserve = Rules {
        preserve_host: true,
        ..rules()
    };
    let request = Http2Request::new(&recorded, &preserve).unwrap();
    check_fields(
        &request.head,
        &[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "shop.example"),
            (":path", "/pkg.Service/Call"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ],
    );
    check_fields(&request.trailers.unwrap(), &[("x-sum", "7")]);
    // The fragment of a target is not cut off silently.
    let fragment = [(":method", "GET"), (":path", "/a#b"), (":authority", "a")];
    assert_eq!(
        Http2Request::new(&http2(&fragment, ""), &rules()).unwrap_err(),
        Untranslatable::Target
    );
}

#[test]
fn a_head_that_was_cut_off_is_ended() {
    check_wire(
        &http1("GET / HTTP/1.1\r\nA: b\r\nC: d", ""),
        &rules(),
        "GET / HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n",
    );
}

/// Bytes that like to break out of where they are put.
fn nasty() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![prop::sample::select(&b"\r\n\0 \t:;,/?#ab"[..]), any::<u8>()];
    prop::collection::vec(byte, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Archives come from strangers: whatever stands in an HTTP/2 recording, the target is sent one
    /// request, with that method and that body, or none.
    #[test]
    fn no_recording_smuggles_a_second_request(
        method in nasty(),
        target in nasty(),
        fields in prop::collection::vec((nasty(), nasty()), 0..4),
        trailers in prop::option::of(prop::collection::vec((nasty(), nasty()), 0..3)),
        body in nasty(),
    ) {
        let recorded = RecordedRequest {
            protocol: Protocol::Http2,
            method: &method,
            target: &target,
            authority: None,
            fields: Fields::Pairs(fields.iter().map(|(n, v)| (&n[..], &v[..])).collect()),
            body: &body,
            trailers: trailers.as_ref().map(|trailers| {
                Fields::Pairs(trailers.iter().map(|(n, v)| (&n[..], &v[..])).collect())
            }),
        };
        if let Ok(request) = Http2Request::new(&recorded, &rules()) {
            let sent = fields_of(&request.head);
            let names: Vec<_> = sent.iter().map(|(name, _)| name.as_str()).collect();
            prop_assert_eq!(&names[..4], &[":method", ":scheme", ":authority", ":path"]);
            let pseudo = |name: &&str| name.starts_with(':');
            prop_assert!(!names[4..].iter().any(pseudo));
            prop_assert!(sent.len() <= fields.len() + 4);
            let breaks = |byte: u8| matches!(byte, b'\r' | b'\n' | 0);
            prop_assert!(!sent.iter().any(|(name, value)| name.bytes().chain(value.bytes()).any(breaks)));
            prop_assert_eq!(&request.body[..], &body[..]);
        }
        if let Ok(request) = Http1Request::new(&recorded, &rules()) {
            let text = String::from_utf8_lossy(&request.wire).into_owned();
            let head = &request.wire[..request.head_len];
            let ends: Vec<_> = head.windows(4).enumerate().filter(|(_, w)| w == b"\r\n\r\n").collect();
            prop_assert_eq!(ends.len(), 1, "{}", text);
            prop_assert_eq!(ends[0].0 + 4, request.head_len);
            prop_assert!(head.starts_with(&[&method[..], b" "].concat()));
            let lines = head.iter().filter(|byte| **byte == b'\n').count();
            // The start line, Host, framing, and the empty line, beside the recorded fields.
            prop_assert!(lines <= fields.len() + 4);
            let chunked = text.contains("Transfer-Encoding: chunked\r\n");
            if !chunked {
                prop_assert_eq!(&request.wire[request.head_len..], &body[..]);
            }
        }
    }

    /// Heads of an HTTP/1 recording may be anything, too.
    #[test]
    fn damaged_heads_never_panic(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        let recorded = RecordedRequest {
            protocol: Protocol::Http11,
            method: b"GET",
            target: b"/",
            authority: None,
            fields: Fields::Lines(behind_start_line(&raw)),
            body: b"x",
            trailers: Some(Fields::Lines(&raw)),
        };
        drop(Http2Request::new(&recorded, &rules()));
        let request = Http1Request::new(&recorded, &rules()).unwrap();
        let (head, body) = request.wire.split_at(request.head_len);
        prop_assert!(head.ends_with(b"\n\r\n"));
        prop_assert!(body == b"x" || body.ends_with(b"\n\r\n"));
    }
}

#[test]
fn fields_are_set_and_removed_whatever_their_case() {
    let rules = Rules {
        set: vec![("X-Env".to_owned(), "staging".to_owned())],
        removed: vec!["authorization".to_owned()],
        ..rules()
    };
    let head = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: secret\r\nx-env: prod\r\nA: b\r\n\r\n";
    check_wire(
        &http1(head, ""),
        &rules,
        "GET / HTTP/1.1\r\nHost: target:8080\r\nA: b\r\nX-Env: staging\r\n\r\n",
    );
    let request = Http2Request::new(&http1(head, ""), &rules).unwrap();
    let fields = fields_of(&request.head);
    let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(fields[4..], [own("a", "b"), own("x-env", "staging")]);
}
