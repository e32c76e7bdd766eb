use proptest::prelude::*;

use super::*;

fn limits() -> Limits {
    Limits {
        head_bytes: 1000,
        body_bytes: 100,
        ..Limits::default()
    }
}

/// Everything that a reader says about these bytes, pushed in these pieces.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let mut reader = RequestReader::new(&limits());
    let mut said = Vec::new();
    for piece in pieces {
        reader.space().extend_from_slice(piece);
        loop {
            match reader.advance() {
                Step::NeedMore => break,
                // Whether it is needed depends on what has come.
                Step::SendContinue => {}
                Step::Ready => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let (call, client) = (reader.call(), reader.client());
                    said.push(format!(
                        "{} {} host={} type={} body={:?}{}{}",
                        text(call.method),
                        text(call.target),
                        text(call.authority.unwrap_or(b"-")),
                        text(call.content_type.unwrap_or(b"-")),
                        text(call.body),
                        if client.http10 { " 1.0" } else { "" },
                        if client.close { " close" } else { "" },
                    ));
                    reader.consume();
                }
                Step::Refuse(refusal) => {
                    said.push(refusal.status.to_string());
                    return said;
                }
            }
        }
    }
    said
}

/// The same at every split into two, and byte by byte.
#[track_caller]
fn check(input: &[u8], expect: &[&str]) {
    assert_eq!(read([input]), expect, "at once");
    for at in 0..=input.len() {
        let (a, b) = input.split_at(at);
        assert_eq!(read([a, b]), expect, "split at {at}");
    }
    assert_eq!(read(input.chunks(1)), expect, "byte by byte");
}

#[test]
fn pipelined_requests_of_every_framing() {
    check(
        b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n\
          POST /b HTTP/1.1\r\nhost:y:80\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello\
          \r\n\
          PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0A \r\n0123456789\r\n0\r\nT: v\r\n\r\n\
          GET /d HTTP/1.0\r\n\r\n\
          GET /e HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n\
          POST /f HTTP/1.1\r\nTransfer-Encoding: Chunked\r\nConnection: x, close\r\n\r\n0\r\n\r\n",
        &[
            "GET /a host=x type=- body=\"\"",
            "POST /b host=y:80 type=text/plain body=\"hello\"",
            "PUT /c host=- type=- body=\"abc0123456789\"",
            "GET /d host=- type=- body=\"\" 1.0 close",
            "GET /e host=- type=- body=\"\" 1.0",
            "POST /f host=- type=- body=\"\" close",
        ],
    );
}

#[test]
fn bare_line_feeds_end_heads() {
    check(
        b"GET /a HTTP/1.1\nHost: x\n\nGET /b HTTP/1.1\r\n\n",
        &[
            "GET /a host=x type=- body=\"\"",
            "GET /b host=- type=- body=\"\"",
        ],
    );
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    for (fields, body, status) in [
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", "", "400"),
        ("Content-Length: 3\r\nContent-Length: 3", "", "400"),
        ("Content-Length: 3, 3", "", "400"),
        ("Content-Length: +3", "", "400"),
        ("Content-Length: ", "", "400"),
        ("Content-Length: 99999999999999999999", "", "400"),
        ("Transfer-Encoding: gzip, chunked", "", "400"),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "",
            "400",
        ),
        ("Transfer-Encoding : chunked", "", "400"),
        ("Host: a\r\nHost: b", "", "400"),
        ("X: a\r\n b", "", "400"),
        ("Expect: the-unexpected", "", "417"),
        ("Content-Length: 101", "", "413"),
        ("Transfer-Encoding: chunked", "65\r\n", "413"),
        (
            "Transfer-Encoding: chunked",
            "40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n25\r\n",
            "413",
        ),
        ("Transfer-Encoding: chunked", "ffffffffffffffff\r\n", "413"),
        ("Transfer-Encoding: chunked", "fffffffffffffffff\r\n", "400"),
        ("Transfer-Encoding: chunked", "1\nx", "400"),
        ("Transfer-Encoding: chunked", "x\r\n", "400"),
        ("Transfer-Encoding: chunked", "\r\n", "400"),
        ("Transfer-Encoding: chunked", "1 1\r\n", "400"),
        ("Transfer-Encoding: chunked", "1\r\nab\r\n", "400"),
        ("Transfer-Encoding: chunked", "-1\r\n", "400"),
    ] {
        let input = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n{body}");
        check(input.as_bytes(), &[status]);
    }
    check(
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        &["400"],
    );
    check(b"GET / HTTP/3.0\r\n\r\n", &["505"]);
}

#[test]
fn what_is_no_request_is_refused() {
    assert_eq!(read([&b"\x16\x03\x01\x02\x00\x01"[..]]), ["400"]);
    assert_eq!(read([&b"hello world\r\n\r\n"[..]]), ["400"]);
    assert_eq!(read([&b"GET  / HTTP/1.1\r\n\r\n"[..]]), ["400"]);
    assert_eq!(read([&b"\0"[..]]), ["400"]);
}

#[test]
fn heads_and_trailers_are_bounded() {
    let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(1000));
    check(long.as_bytes(), &["431"]);
    let endless = "\r\n".repeat(600);
    assert_eq!(read(endless.as_bytes().chunks(1)), ["431"]);
    let fields = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(129));
    assert_eq!(read([fields.as_bytes()]), ["431"]);
    let trailers = format!(
        "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}",
        "a: b\r\n".repeat(200)
    );
    assert_eq!(read([trailers.as_bytes()]), ["400"]);
    assert_eq!(read(trailers.as_bytes().chunks(7)), ["400"]);
    let extension = format!(
        "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;{}",
        "x".repeat(2000)
    );
    assert_eq!(read(extension.as_bytes().chunks(7)), ["400"]);
}

#[test]
fn a_waiting_client_is_told_to_go_on_once() {
    let mut reader = RequestReader::new(&limits());
    reader
        .space()
        .extend_from_slice(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(reader.advance(), Step::SendContinue);
    assert_eq!(reader.advance(), Step::NeedMore);
    assert_eq!(reader.phase(), Phase::Body);
    reader.space().extend_from_slice(b"ok");
    assert_eq!(reader.advance(), Step::Ready);
    assert_eq!(reader.call().body, b"ok");

    // Too large: refused before the body is sent.
    let mut reader = RequestReader::new(&limits());
    reader.space().extend_from_slice(
        b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2000\r\n\r\n",
    );
    assert!(matches!(reader.advance(), Step::Refuse(refusal) if refusal.status == 413));
}

#[test]
fn a_large_request_does_not_stay_in_memory() {
    let limits = Limits::default();
    let mut reader = RequestReader::new(&limits);
    let body = "x".repeat(1 << 20);
    let next = b"GET /next HTTP/1.1\r\n\r\n";
    for head in [
        format!("Content-Length: {}\r\n\r\n{body}", body.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n100000\r\n{body}\r\n0\r\n\r\n"),
    ] {
        let mut input = format!("POST / HTTP/1.1\r\n{head}").into_bytes();
        input.extend_from_slice(next);
        for piece in input.chunks(10_000) {
            reader.space().extend_from_slice(piece);
            while let Step::Ready = reader.advance() {
                if reader.call().target == b"/" {
                    assert_eq!(reader.call().body.len(), 1 << 20);
                } else {
                    assert_eq!(reader.call().target, b"/next");
                }
                reader.consume();
            }
        }
        assert_eq!(reader.phase(), Phase::Idle);
        assert!(
            reader.memory() < 128 << 10,
            "{} bytes held",
            reader.memory()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Requests with bytes changed at random, cut into pieces at random: never a panic, and the
    /// pieces do not matter. (A head that is malformed may be waited for to its end when it comes
    /// in pieces, so its refusal may still be outstanding.)
    #[test]
    fn no_input_panics_and_no_split_matters(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"\r\n :;0aGZ\x00\xff,".to_vec())), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut input = b"GET /a?b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n\
            POST /b HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello\
            PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n5\r\nabcde\r\n0\r\nT: v\r\n\r\n\
            GET / HTTP/1.0\r\n\r\n".to_vec();
        for (at, byte) in changes {
            let at = at.index(input.len());
            input[at] = byte;
        }
        let whole = read([&input[..]]);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(input.len())).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|cut| &input[cut[0]..cut[1]]).collect();
        let split = read(pieces.into_iter().filter(|piece| !piece.is_empty()));
        let outstanding = &whole[split.len().min(whole.len())..];
        prop_assert_eq!(&whole[..whole.len() - outstanding.len()], &split[..]);
        prop_assert!(outstanding.len() <= 1 && outstanding.iter().all(|said| said.len() == 3), "{:?}", outstanding);
    }
}
