use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestCaseError;

use super::*;

fn read(raw: &str, role: Role) -> Parsed {
    read_bytes(raw.as_bytes(), role)
}

fn read_bytes(raw: &[u8], role: Role) -> Parsed {
    let section = Section::Head(role);
    let (mut scan, mut ends) = (Scan::START, LineEnds::NONE);
    let end = scan
        .end(raw, section, &mut ends)
        .expect("the head is whole");
    assert_eq!(end, raw.len(), "{}", raw.escape_ascii());
    let parsed = parse(raw.to_vec(), section, scan.lines, &ends);
    // Lines that are looked for again are the same lines.
    let again = parse(raw.to_vec(), section, scan.lines, &LineEnds::NONE);
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

/// What a head says.
#[derive(Debug, Eq, PartialEq)]
struct Said {
    /// Method and target, or the status alone.
    start: (Vec<u8>, Vec<u8>),
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Said {
    fn of(head: &Head) -> Self {
        let start = match head.status() {
            Some(status) => (status.to_string().into_bytes(), Vec::new()),
            None => (
                head.method().unwrap_or_default().to_vec(),
                head.target().unwrap_or_default().to_vec(),
            ),
        };
        let pairs = head.pairs();
        let fields = pairs.map(|(name, value)| (name.to_vec(), value.to_vec()));
        Self {
            start,
            fields: fields.collect(),
        }
    }

    /// What httparse makes of a head; `None` where it refuses.
    fn by_httparse(raw: &[u8], role: Role) -> Option<Self> {
        let mut storage = [httparse::EMPTY_HEADER; 64];
        let (start, read, headers) = match role {
            Role::Request => {
                let mut request = httparse::Request::new(&mut storage);
                let read = request.parse(raw).ok()?;
                let start = (request.method?.into(), request.path?.into());
                (start, read, request.headers)
            }
            Role::Response => {
                let mut response = httparse::Response::new(&mut storage);
                let read = response.parse(raw).ok()?;
                // Of reasons that are not ASCII it says nothing.
                let start = (response.code?.to_string().into_bytes(), Vec::new());
                (start, read, response.headers)
            }
        };
        assert_eq!(read, httparse::Status::Complete(raw.len()));
        let fields = headers
            .iter()
            .map(|header| (header.name.as_bytes().to_vec(), header.value.to_vec()));
        Some(Self {
            start,
            fields: fields.collect(),
        })
    }
}

/// Why httparse may refuse a head that is sound to us. Bytes on the wire were understood by those who
/// sent and got them; a server's parser may be choosier.
fn reason_to_refuse(raw: &[u8], role: Role, parsed: &Parsed) -> Option<&'static str> {
    let line = raw.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line.trim_ascii_end().split(|byte| *byte == b' ');
    let version = match role {
        Role::Request => words.next_back(),
        Role::Response => words.next(),
    };
    let is_fold = |anomaly| anomaly == Anomaly::ObsFold;
    let is_control = |byte: &u8| byte.is_ascii_control() && !b"\t\r\n".contains(byte);
    let bare_cr = |two: &[u8]| two[0] == b'\r' && two[1] != b'\n';
    let target = parsed.head.target().unwrap_or_default();
    let is_known = matches!(version, Some(b"HTTP/1.0" | b"HTTP/1.1"));
    [
        (parsed.anomalies.iter().any(is_fold), "a folded value"),
        (raw.iter().any(is_control), "a control character"),
        (raw.windows(2).any(bare_cr), "CR alone"),
        (
            str::from_utf8(target).is_err(),
            "a target that is not UTF-8",
        ),
        (!is_known, "a minor version that nobody has defined"),
    ]
    .into_iter()
    .find_map(|(is_there, reason)| is_there.then_some(reason))
}

/// Why a head is not sound to us although httparse takes it.
fn reason_to_doubt(parsed: &Parsed) -> Option<&'static str> {
    let status = parsed.head.status();
    let low = status.is_some_and(|status| status < 100);
    low.then_some("a status below 100, which RFC 9110 section 15 does not know")
}

fn any_head() -> impl Strategy<Value = (Role, Vec<u8>)> {
    let start = prop_oneof![
        "[A-Z]{1,7} [/*a-z?=%:.]{1,20} HTTP/1[.][0-2]".prop_map(|line| (Role::Request, line)),
        "HTTP/1[.][0-2] [0-9]{3}( [ -~]{0,12})?".prop_map(|line| (Role::Response, line)),
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
        (role, (raw + end).into_bytes())
    })
}

/// A head in which some bytes were put, taken out, or changed, up to where it ends now.
fn any_mutated_head() -> impl Strategy<Value = (Role, Vec<u8>)> {
    let byte = prop_oneof![
        4 => prop::sample::select(&b"\r\n \t:/.,;=*\"\\{\0\x7f\x80\xe4HTP1209aZ"[..]),
        1 => any::<u8>(),
    ];
    let place = prop_oneof![0.0..0.2, 0.0..1.0];
    let mutation = (0..4, place, byte);
    let mutations = proptest::collection::vec(mutation, 1..5);
    (any_head(), mutations).prop_map(|((role, mut raw), mutations)| {
        for (kind, place, byte) in mutations {
            let place = (place * raw.len() as f64) as usize;
            match kind {
                0 => raw.insert(place, byte),
                1 => drop(raw.remove(place)),
                2 => raw[place] = byte,
                _ => raw.insert(place, raw[place]),
            }
        }
        raw.extend(b"\r\n\r\n");
        // Empty lines before a message are the reader's to pass over.
        let start = raw.iter().position(|byte| !b"\r\n".contains(byte));
        raw.drain(..start.unwrap_or(0));
        let section = Section::Head(role);
        let mut scan = Scan::START;
        let end = scan.end(&raw, section, &mut { LineEnds::NONE });
        raw.truncate(end.unwrap_or(raw.len()));
        (role, raw)
    })
}

fn check_against_httparse(role: Role, raw: &[u8]) -> Result<&'static str, TestCaseError> {
    let text = raw.escape_ascii();
    let parsed = read_bytes(raw, role);
    let said = Said::of(&parsed.head);
    Ok(match (Said::by_httparse(raw, role), parsed.sound()) {
        (Some(theirs), true) => {
            prop_assert_eq!(said, theirs, "{}", text);
            "the same"
        }
        (Some(_), false) => {
            let reason = reason_to_doubt(&parsed);
            prop_assert!(reason.is_some(), "only httparse takes {}", text);
            reason.unwrap_or_default()
        }
        (None, true) => {
            let reason = reason_to_refuse(raw, role, &parsed);
            prop_assert!(reason.is_some(), "httparse refuses {}", text);
            reason.unwrap_or_default()
        }
        (None, false) => "neither",
    })
}

/// The generator reaches every reason: a list of reasons that nothing needs would hide a difference.
#[test]
fn every_difference_from_httparse_comes_up() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..10_000 {
        let (role, raw) = any_mutated_head().new_tree(&mut runner).unwrap().current();
        seen.insert(check_against_httparse(role, &raw).unwrap());
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
}

proptest! {
    #[test]
    fn what_httparse_reads_is_read_the_same((role, raw) in any_head()) {
        check_against_httparse(role, &raw)?;
    }

    #[test]
    fn what_is_not_quite_a_head_is_read_as_httparse_reads_it((role, raw) in any_mutated_head()) {
        check_against_httparse(role, &raw)?;
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
