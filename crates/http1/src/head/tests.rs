use proptest::prelude::*;

use super::*;

fn read(raw: &str, role: Role) -> Parsed {
    let section = Section::Head(role);
    let (mut scan, mut ends) = (Scan::START, LineEnds::NONE);
    let end = scan
        .end(raw.as_bytes(), section, &mut ends)
        .expect("the head is whole");
    assert_eq!(end, raw.len(), "{raw:?}");
    let parsed = parse(raw.as_bytes().to_vec(), section, scan.lines, &ends);
    // Lines that are looked for again are the same lines.
    let again = parse(
        raw.as_bytes().to_vec(),
        section,
        scan.lines,
        &LineEnds::NONE,
    );
    assert_eq!(format!("{parsed:?}"), format!("{again:?}"));
    parsed
}

#[track_caller]
fn request(line: &str, method: &str, target: &str, protocol: Protocol, odd: bool) {
    let parsed = read(&format!("{line}\r\nHost: a\r\n\r\n"), Role::Request);
    let head = &parsed.head;
    assert_eq!(head.method(), Some(method.as_bytes()), "{line:?}");
    assert_eq!(
        head.target().unwrap_or_default(),
        target.as_bytes(),
        "{line:?}"
    );
    assert_eq!(head.protocol, protocol, "{line:?}");
    assert!(!parsed.unreadable, "{line:?}");
    let malformed = parsed
        .anomalies
        .iter()
        .any(|one| one == Anomaly::MalformedHead);
    assert_eq!(malformed, odd, "{line:?}");
}

#[test]
fn request_lines() {
    use Protocol::{Http10, Http11};
    request("GET / HTTP/1.1", "GET", "/", Http11, false);
    request("get /?a=b#c HTTP/1.0", "get", "/?a=b#c", Http10, false);
    request("CONNECT a:443 HTTP/1.1", "CONNECT", "a:443", Http11, false);
    request(
        "GET http://a/b HTTP/1.1",
        "GET",
        "http://a/b",
        Http11,
        false,
    );
    request("OPTIONS * HTTP/1.2", "OPTIONS", "*", Http11, false);
    request("GET /a b HTTP/1.1", "GET", "/a b", Http11, true);
    request("GET  / HTTP/1.1", "GET", "/", Http11, true);
    request("GET /  HTTP/1.1", "GET", "/", Http11, true);
    request("GET / HTTP/1.1 ", "GET", "/", Http11, true);
    request("GET  HTTP/1.1", "GET", "", Http11, true);
    request("GET / HTTP/2.0", "GET", "/", Http11, true);
    request("POST / http/1.0", "POST", "/", Http10, true);
    request("POST / HTTP/0.9", "POST", "/", Http10, true);
}

#[test]
fn a_request_without_a_version_is_simple_or_unreadable() {
    let (mut scan, mut ends) = (Scan::START, LineEnds::NONE);
    let section = Section::Head(Role::Request);
    assert_eq!(scan.end(b"GET /old\r\nmore", section, &mut ends), Some(10));
    let parsed = parse(b"GET /old\r\n".to_vec(), section, scan.lines, &ends);
    assert!(parsed.simple && !parsed.unreadable);
    assert_eq!(parsed.head.target(), Some(b"/old".as_slice()));
    assert!(read("POST /old\r\n\r\n", Role::Request).unreadable);
    assert!(read("hello\r\n\r\n", Role::Request).unreadable);
}

#[track_caller]
fn response(line: &str, status: Option<u16>, reason: &str, protocol: Protocol, odd: bool) {
    let parsed = read(&format!("{line}\r\nA: b\r\n\r\n"), Role::Response);
    assert_eq!(parsed.head.status(), status, "{line:?}");
    let StartLine::Response { reason: span, .. } = parsed.head.start else {
        panic!("{line:?} is not a status line");
    };
    assert_eq!(span.of(&parsed.head.raw), reason.as_bytes(), "{line:?}");
    assert_eq!(parsed.head.protocol, protocol, "{line:?}");
    assert_eq!(!parsed.anomalies.is_empty(), odd, "{line:?}");
}

#[test]
fn status_lines() {
    use Protocol::{Http10, Http11};
    response("HTTP/1.1 200 OK", Some(200), "OK", Http11, false);
    response(
        "HTTP/1.0 404 Not  Found ",
        Some(404),
        "Not  Found ",
        Http10,
        false,
    );
    response("HTTP/1.1 200 ", Some(200), "", Http11, false);
    response("HTTP/1.1 200", Some(200), "", Http11, false);
    response("HTTP/1.1 999 \u{e4}", Some(999), "\u{e4}", Http11, false);
    response("HTTP/1.1  200 OK", Some(200), "OK", Http11, true);
    response("HTTP/1.1 2000 OK", None, "2000 OK", Http11, true);
    response("HTTP/1.1 20", None, "20", Http11, true);
    response("HTTP/1.1", None, "", Http11, true);
    response("HTTP/3 200 OK", Some(200), "OK", Http11, true);
    assert!(read("HTTQ/1.1 200\r\n\r\n", Role::Response).unreadable);
}

#[track_caller]
fn fields(lines: &str, expected: &[(&str, &str)], anomalies: &[Anomaly]) {
    let parsed = read(&format!("GET / HTTP/1.1\r\n{lines}\r\n"), Role::Request);
    let pairs: Vec<_> = parsed
        .head
        .pairs()
        .map(|(name, value)| {
            (
                str::from_utf8(name).unwrap(),
                str::from_utf8(value).unwrap(),
            )
        })
        .collect();
    assert_eq!(pairs, expected, "{lines:?}");
    assert_eq!(
        parsed.anomalies.iter().collect::<Vec<_>>(),
        anomalies,
        "{lines:?}"
    );
}

#[test]
fn field_lines() {
    use Anomaly::{BareLf, MalformedHead, ObsFold, SpaceBeforeColon};
    fields("", &[], &[]);
    fields("A: b\r\na:\t c d \t\r\n", &[("A", "b"), ("a", "c d")], &[]);
    fields(
        "A:\r\nB: \r\nC::\r\n",
        &[("A", ""), ("B", ""), ("C", ":")],
        &[],
    );
    fields("A: b\nC: d\r\n", &[("A", "b"), ("C", "d")], &[BareLf]);
    fields(
        "A: b\r\n c\r\n\td \r\nE: f\r\n",
        &[("A", "b\r\n c\r\n\td"), ("E", "f")],
        &[ObsFold],
    );
    fields("A:\r\n b\r\n", &[("A", "b")], &[ObsFold]);
    fields(
        "A: b\r\n \r\nC: d\r\n",
        &[("A", "b"), ("C", "d")],
        &[ObsFold],
    );
    fields(" A: b\r\nC: d\r\n", &[("C", "d")], &[MalformedHead]);
    fields("A \t: b\r\n", &[("A", "b")], &[SpaceBeforeColon]);
    fields("A B: c\r\n", &[("A B", "c")], &[MalformedHead]);
    fields(
        "nonsense\r\n: b\r\nC: d\r\n",
        &[("C", "d")],
        &[MalformedHead],
    );
    fields("A: b\r\r\n", &[("A", "b\r")], &[]);
    fields("\r: b\r\n", &[("\r", "b")], &[MalformedHead]);
}

#[test]
fn the_end_is_found_at_every_split() {
    for (raw, section) in [
        (
            "GET / HTTP/1.1\r\nA: b\r\n\r\n",
            Section::Head(Role::Request),
        ),
        ("GET / HTTP/1.1\nA: b\n\n", Section::Head(Role::Request)),
        ("GET /old\r\n", Section::Head(Role::Request)),
        ("HTTP/1.1 200\r\nA: b\n\r\n", Section::Head(Role::Response)),
        ("\r\n", Section::Trailers),
        ("\n", Section::Trailers),
        ("A: b\r\n\r\n", Section::Trailers),
    ] {
        let whole = format!("{raw}\r\nmore\r\n\r\n");
        let mut reference = Scan::START;
        assert_eq!(
            reference.end(whole.as_bytes(), section, &mut { LineEnds::NONE }),
            Some(raw.len()),
            "{raw:?}"
        );
        let mut bytewise = Scan::START;
        for len in 0..raw.len() {
            assert_eq!(
                bytewise.end(&whole.as_bytes()[..len], section, &mut { LineEnds::NONE }),
                None,
                "{raw:?} {len}"
            );
        }
        assert_eq!(
            bytewise.end(raw.as_bytes(), section, &mut { LineEnds::NONE }),
            Some(raw.len()),
            "{raw:?}"
        );
        assert_eq!(bytewise.lines, reference.lines, "{raw:?}");
    }
}

/// The first two words of the start line, and the fields.
type Parts = (Vec<u8>, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

/// What httparse makes of a head, in our words; `None` where it refuses.
fn oracle(raw: &[u8], role: Role) -> Option<Parts> {
    let mut storage = [httparse::EMPTY_HEADER; 64];
    let (first, second, headers) = match role {
        Role::Request => {
            let mut request = httparse::Request::new(&mut storage);
            let read = request.parse(raw).ok()?;
            assert_eq!(read, httparse::Status::Complete(raw.len()));
            (
                request.method?.as_bytes().to_vec(),
                request.path?.as_bytes().to_vec(),
                request.headers,
            )
        }
        Role::Response => {
            let mut response = httparse::Response::new(&mut storage);
            let read = response.parse(raw).ok()?;
            assert_eq!(read, httparse::Status::Complete(raw.len()));
            (
                response.code?.to_string().into_bytes(),
                // It gives up on reasons that are not ASCII.
                Vec::new(),
                response.headers,
            )
        }
    };
    let headers = headers
        .iter()
        .map(|header| (header.name.as_bytes().to_vec(), header.value.to_vec()))
        .collect();
    Some((first, second, headers))
}

fn any_head() -> impl Strategy<Value = (Role, String)> {
    let start = prop_oneof![
        "[A-Z]{1,7} [/*a-z?=%:.]{1,20} HTTP/1.[01]".prop_map(|line| (Role::Request, line)),
        "HTTP/1.[01] [1-9][0-9]{2}( [ -~]{0,12})?".prop_map(|line| (Role::Response, line)),
    ];
    let fields =
        proptest::collection::vec("[-a-zA-Z0-9!_]{1,12}:[ \t]{0,2}[!-~ \u{e4}]{0,16}", 0..12);
    (start, fields, any::<bool>()).prop_map(|((role, start), fields, bare)| {
        let end = if bare { "\n" } else { "\r\n" };
        let mut raw = start + end;
        for field in fields {
            raw += &field;
            raw += end;
        }
        (role, raw + end)
    })
}

proptest! {
    #[test]
    fn what_httparse_reads_is_read_the_same((role, raw) in any_head()) {
        let Some((first, second, headers)) = oracle(raw.as_bytes(), role) else {
            return Ok(());
        };
        let parsed = read(&raw, role);
        prop_assert!(parsed.sound(), "{:?}", parsed.anomalies);
        let head = &parsed.head;
        match role {
            Role::Request => {
                prop_assert_eq!(head.method(), Some(first.as_slice()));
                prop_assert_eq!(head.target(), Some(second.as_slice()));
            }
            Role::Response => {
                prop_assert_eq!(head.status().map(|status| status.to_string().into_bytes()), Some(first));
            }
        }
        let pairs: Vec<_> = head.pairs().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        prop_assert_eq!(pairs, headers);
    }

    #[test]
    fn any_bytes_are_read(
        bytes in proptest::collection::vec(prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), Just(b'G'), any::<u8>()
        ], 0..60),
        start in prop_oneof![Just("GET / HTTP/1.1\r\n"), Just("HTTP/1.1 200\r\n"), Just("")],
    ) {
        let raw = [start.as_bytes(), &bytes, b"\r\n\r\n"].concat();
        for section in [Section::Head(Role::Request), Section::Head(Role::Response), Section::Trailers] {
            let (mut scan, mut ends) = (Scan::START, LineEnds::NONE);
            let end = scan.end(&raw, section, &mut ends).expect("there is an empty line");
            let parsed = parse(raw[..end].to_vec(), section, scan.lines, &ends);
            for field in &parsed.head.fields {
                prop_assert!(field.value.start as usize + field.value.len as usize <= end);
                prop_assert!(field.name.len > 0);
            }
        }
    }
}
