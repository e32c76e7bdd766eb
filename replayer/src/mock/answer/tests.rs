use super::*;

fn recording(
    status: u16,
    fields: &[(&'static str, &'static str)],
    body: &'static str,
) -> Recording<'static> {
    Recording {
        method: b"GET",
        status,
        reason: Some(b"Fine"),
        fields: fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect(),
        body: body.as_bytes(),
        ..Recording::default()
    }
}

fn wire(answer: &Answer, client: Http1Client) -> String {
    let mut out = Vec::new();
    let (rest, _) = answer.http1(&mut out, client);
    out.extend_from_slice(&rest);
    String::from_utf8(out).unwrap()
}

#[track_caller]
fn check(recording: &Recording<'_>, expect: &str) -> Answer {
    let answer = Answer::compose(recording).unwrap();
    assert_eq!(wire(&answer, Http1Client::default()), expect);
    let mut pieces = Vec::new();
    answer.http1_head(&mut pieces, Http1Client::default());
    for (_, piece) in answer.http1_pieces(Http1Client::default()) {
        pieces.extend_from_slice(&piece);
    }
    if recording.timing.arrivals.is_empty() {
        assert_eq!(String::from_utf8(pieces).unwrap(), expect, "in pieces");
    }
    answer
}

#[test]
fn order_case_and_duplicates_are_kept_and_hops_are_not() {
    let fields = [
        ("dAte", "Tue, 01 Jan 2030 00:00:00 GMT"),
        ("Set-Cookie", "a=1"),
        ("Connection", "Keep-Alive, X-Hop"),
        ("X-hop", "1"),
        ("CONTENT-length", "2"),
        ("Keep-Alive", "timeout=5"),
        ("Set-Cookie", "b=2"),
    ];
    check(
        &recording(200, &fields, "ok"),
        "HTTP/1.1 200 Fine\r\ndAte: Tue, 01 Jan 2030 00:00:00 GMT\r\nSet-Cookie: a=1\r\n\
         CONTENT-length: 2\r\nSet-Cookie: b=2\r\n\r\nok",
    );
}

#[test]
fn a_body_is_framed_as_it_was_or_by_length() {
    check(
        &recording(
            200,
            &[("Transfer-Encoding", "chunked"), ("A", "b")],
            "hello world",
        ),
        "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\nb\r\nhello world\r\n0\r\n\r\n",
    );
    check(
        &recording(200, &[("Transfer-Encoding", "chunked")], ""),
        "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    // Both: the coding wins (RFC 9112 section 6.3).
    check(
        &recording(
            200,
            &[("Content-Length", "7"), ("Transfer-Encoding", "chunked")],
            "x",
        ),
        "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    );
    // Close-delimited; a length that lies; two lengths.
    for fields in [
        &[][..],
        &[("Content-Length", "99")],
        &[("Content-Length", "1"), ("Content-Length", "2")],
    ] {
        check(
            &recording(200, fields, "abc"),
            "HTTP/1.1 200 Fine\r\nContent-Length: 3\r\n\r\nabc",
        );
    }
}

#[test]
fn answers_without_a_body_state_the_length_they_may() {
    let fields = [("Content-Length", "5")];
    check(&recording(204, &fields, ""), "HTTP/1.1 204 Fine\r\n\r\n");
    check(
        &recording(304, &fields, ""),
        "HTTP/1.1 304 Fine\r\nContent-Length: 5\r\n\r\n",
    );
    let head = Recording {
        method: b"HEAD",
        ..recording(200, &fields, "")
    };
    check(&head, "HTTP/1.1 200 Fine\r\nContent-Length: 5\r\n\r\n");
    let head = Recording {
        fields: vec![(b"Transfer-Encoding", b"chunked")],
        ..head
    };
    let answer = check(
        &head,
        "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert!(answer.body().is_empty());
}

#[test]
fn http10_clients_get_no_chunks() {
    let answer = Answer::compose(&recording(
        200,
        &[("Transfer-Encoding", "chunked"), ("A", "b")],
        "hello",
    ))
    .unwrap();
    let client = Http1Client {
        http10: true,
        close: false,
    };
    assert_eq!(
        wire(&answer, client),
        "HTTP/1.1 200 Fine\r\nA: b\r\nConnection: close\r\n\r\nhello"
    );
    let answer = Answer::compose(&recording(200, &[], "hello")).unwrap();
    assert_eq!(
        wire(&answer, client),
        "HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello"
    );
}

#[test]
fn trailers_and_http2_are_translated() {
    let answer = check(
        &Recording {
            reason: None,
            fields: vec![(b":status", b"200"), (b"content-type", b"application/grpc")],
            trailers: vec![(b"grpc-status", b"0")],
            ..recording(200, &[], "msg")
        },
        "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nmsg\r\n0\r\ngrpc-status: 0\r\n\r\n",
    );
    let response = answer.http2();
    assert_eq!(response.headers().len(), 1);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert_eq!(answer.http2_trailers().unwrap()["grpc-status"], "0");
    assert_eq!(&answer.body()[..], b"msg");

    let answer = Answer::compose(&recording(
        404,
        &[("Content-Length", "3"), ("X-A", "1"), ("x-a", "2")],
        "abc",
    ))
    .unwrap();
    let response = answer.http2();
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()["content-length"], "3");
    assert_eq!(response.headers().get_all("x-a").iter().count(), 2);
    assert!(answer.http2_trailers().is_none());
    // No length was recorded: HTTP/2 needs none.
    let answer = Answer::compose(&recording(200, &[], "abc")).unwrap();
    assert!(answer.http2().headers().is_empty());
}

#[test]
fn an_archive_cannot_split_the_response() {
    check(
        &Recording {
            reason: Some(b"O\r\nK: x"),
            fields: vec![
                (b"A", b"folded\r\n  value\0"),
                (b"B: c\r\nD", b"e"),
                (b"", b"f"),
            ],
            ..recording(200, &[], "")
        },
        "HTTP/1.1 200 O  K: x\r\nA: folded    value \r\nContent-Length: 0\r\n\r\n",
    );
    assert!(Answer::compose(&recording(99, &[], "")).is_none());
    assert!(Answer::compose(&recording(101, &[], "")).is_none());
    assert!(Answer::compose(&recording(1000, &[], "")).is_none());
}

#[test]
fn interim_responses_that_bind_the_connection_are_left_out() {
    let interim = |status, fields| InterimRecording {
        status,
        fields,
        ..InterimRecording::default()
    };
    let link: Vec<Pair<'_>> = vec![(b"Link", b"</a.css>; rel=preload"), (b"Connection", b"x")];
    let answer = Answer::compose(&Recording {
        interim: vec![
            interim(100, vec![]),
            interim(103, link),
            interim(101, vec![]),
        ],
        ..recording(200, &[], "")
    })
    .unwrap();
    let [hints] = answer.interim() else {
        panic!("{:?}", answer.interim())
    };
    assert_eq!(
        &hints.http1[..],
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
    );
    assert_eq!(hints.http2().status(), 103);
    assert_eq!(hints.http2().headers()["link"], "</a.css>; rel=preload");
}

#[test]
fn pieces_follow_the_recorded_pauses() {
    let ms = Duration::from_millis;
    let paced = Recording {
        timing: Timing {
            first_byte: ms(10),
            arrivals: vec![(2, ms(20)), (4, ms(30)), (99, ms(40))],
        },
        ..recording(200, &[("Transfer-Encoding", "chunked")], "aabbc")
    };
    let answer = Answer::compose(&paced).unwrap();
    let pieces: Vec<_> = answer.body_pieces().collect();
    assert_eq!(
        pieces,
        [
            (ms(0), Bytes::from_static(b"aa")),
            (ms(20), Bytes::from_static(b"bb")),
            (ms(30), Bytes::from_static(b"c"))
        ]
    );
    let wire: Vec<u8> = answer
        .http1_pieces(Http1Client::default())
        .into_iter()
        .flat_map(|(_, piece)| piece)
        .collect();
    assert_eq!(wire, b"\r\n2\r\naa\r\n2\r\nbb\r\n1\r\nc\r\n0\r\n\r\n");
    let unframed: Vec<u8> = answer
        .http1_pieces(Http1Client {
            http10: true,
            close: false,
        })
        .into_iter()
        .flat_map(|(_, piece)| piece)
        .collect();
    assert_eq!(unframed, b"\r\naabbc");
}
