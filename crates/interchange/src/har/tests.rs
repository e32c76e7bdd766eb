use std::io::Write;

use proptest::prelude::*;
use tapedeck_model::{Exchange, GapCause, Missing, Protocol};

use super::{Imported, Importer, Input, Item, Limits, detect};
use crate::websocket;

/// As Chrome writes it: HTTP/2 with pseudo-header fields, several fields in one value, a body whose
/// coding is undone, one that it forgot, a WebSocket, a request that was blocked.
const CHROME: &str = r#"{"log": {"version": "1.2", "creator": {"name": "WebInspector", "version": "537.36"},
"pages": [{"id": "page_1", "startedDateTime": "2026-11-21T03:35:43.285Z"}],
"entries": [
{"_initiator": {"type": "other"}, "_priority": "VeryHigh", "connection": "443",
 "startedDateTime": "2026-11-21T03:35:43.285Z", "time": 7.5,
 "timings": {"blocked": 1, "dns": -1, "ssl": 2, "connect": 3, "send": 0.5, "wait": 2, "receive": 1},
 "serverIPAddress": "[2001:db8::1]",
 "request": {"method": "GET", "url": "https://shop.example/cart?id=1#top", "httpVersion": "h2",
  "headers": [{"name": ":authority", "value": "shop.example"}, {"name": ":method", "value": "GET"},
   {"name": "accept", "value": "*/*"}], "queryString": [], "cookies": [], "headersSize": -1, "bodySize": 0},
 "response": {"status": 200, "statusText": "", "httpVersion": "h2",
  "headers": [{"name": "content-encoding", "value": "br"}, {"name": "content-length", "value": "5"},
   {"name": "set-cookie", "value": "a=1\nb=2"}],
  "content": {"size": 9, "mimeType": "text/plain", "text": "nine char"},
  "redirectURL": "", "headersSize": -1, "bodySize": -1, "_transferSize": 100, "_error": null}},
{"connection": "443", "startedDateTime": "2026-11-21T03:35:43.300Z", "time": 1,
 "timings": {"send": 0, "wait": 0, "receive": 0},
 "request": {"method": "GET", "url": "https://shop.example/large", "httpVersion": "h2", "headers": []},
 "response": {"status": 200, "headers": [], "content": {"size": 7000, "mimeType": "image/png"}}},
{"startedDateTime": "2026-11-21T03:35:43.400Z", "time": 1, "timings": {},
 "request": {"method": "GET", "url": "http://ads.example/x", "httpVersion": "", "headers": []},
 "response": {"status": 0, "headers": [], "content": {"size": 0}, "_error": "net::ERR_BLOCKED_BY_CLIENT"}},
{"startedDateTime": "2026-11-21T03:35:44Z", "time": 1, "timings": {},
 "request": {"method": "GET", "url": "ws://shop.example:81/chat", "httpVersion": "HTTP/1.1", "headers": []},
 "response": {"status": 101, "statusText": "Switching Protocols", "headers": [], "content": {}},
 "_webSocketMessages": [
  {"type": "send", "time": 1795232145.25, "opcode": 1, "data": "hello"},
  {"type": "receive", "time": 1795232145.5, "opcode": 2, "data": "AAEC"}]}
]}}"#;

/// As Firefox and mitmproxy write it: other versions, times with an offset, parameters of a form,
/// base64 in a request, numbers with fractions and as text, nulls, a byte order mark.
const OTHERS: &str = "\u{feff}  {\"log\": {\"entries\": [
{\"startedDateTime\": \"2026-11-21T04:35:43.285+01:00\", \"request\": {\"method\": \"POST\",
 \"url\": \"http://127.0.0.1:8080/forms\", \"httpVersion\": \"HTTP/1.1\",
 \"headers\": [{\"name\": \"Host\", \"value\": \"other.example\"}, {\"name\": \"bad name\", \"value\": \"x\"}, {\"name\": \"X\"}],
 \"postData\": {\"mimeType\": \"application/x-www-form-urlencoded\", \"params\": [{\"name\": \"a\", \"value\": \"1\"}, {\"name\": \"b\"}]}},
 \"response\": {\"status\": 302.0, \"statusText\": \"Found\\r\\n\", \"httpVersion\": \"HTTP/1.0\", \"headers\": [{\"name\": \"Location\", \"value\": \"/\"}], \"content\": null},
 \"timings\": null},
{\"startedDateTime\": \"2026-11-21T03:35:43Z\", \"request\": {\"method\": \"PUT\", \"url\": \"http://h\",
 \"postData\": {\"encoding\": \"base64\", \"text\": \"/w==\"}}, \"response\": {\"status\": \"204\"}},
{\"startedDateTime\": \"yesterday\", \"request\": {\"method\": \"GET\", \"url\": \"http://h/\"}},
{\"startedDateTime\": \"2026-11-21T03:35:43Z\", \"request\": {\"method\": \"GET\", \"url\": \"/relative\"}},
null
]}}";

fn import(json: &[u8]) -> (Vec<Exchange>, Imported, Option<String>) {
    let mut importer = Importer::new(Limits::default());
    let mut exchanges = Vec::new();
    let read = match detect(json).unwrap() {
        Input::Json(json) => importer
            .read(json, &mut |item| {
                if let Item::Exchange(exchange) = item {
                    exchanges.push(exchange.clone());
                }
            })
            .err()
            .map(|error| error.to_string()),
        Input::Other(_) => Some("no JSON".to_owned()),
    };
    (exchanges, importer.finish().1, read)
}

fn fields(head: &tapedeck_model::Head) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pairs = head.pairs();
    pairs
        .map(|(name, value)| format!("{}: {}", text(name), text(value)))
        .collect()
}

#[test]
fn what_chrome_writes_is_read() {
    let (exchanges, imported, error) = import(CHROME.as_bytes());
    assert_eq!(
        (error, imported.unusable, imported.without_body),
        (None, 0, 1)
    );
    let [cart, large, blocked, chat] = &exchanges[..] else {
        panic!("{exchanges:?}")
    };
    let request = cart.request.as_ref().unwrap();
    let response = cart.response.as_ref().unwrap();
    assert_eq!(cart.protocol, Protocol::Http2);
    assert_eq!(
        fields(request.head.as_ref().unwrap()),
        [
            ":method: GET",
            ":scheme: https",
            ":authority: shop.example",
            ":path: /cart?id=1",
            "accept: */*"
        ]
    );
    assert_eq!(
        fields(response.head.as_ref().unwrap()),
        [
            ":status: 200",
            "content-length: 9",
            "set-cookie: a=1",
            "set-cookie: b=2"
        ]
    );
    assert_eq!(response.body.tail, b"nine char");
    assert_eq!(cart.connection.server.to_string(), "[2001:db8::1]:443");
    // Blocked and connecting are not part of it.
    let started = cart.connection.opened;
    let after = |at: tapedeck_model::Timestamp| at.since(started).as_micros();
    assert_eq!(
        [
            request.first_byte,
            request.last_byte,
            response.first_byte,
            response.last_byte
        ]
        .map(after),
        [4000, 4500, 6500, 7500]
    );
    assert_ne!(cart.connection.id, large.connection.id, "another server");

    let response = large.response.as_ref().unwrap();
    assert_eq!(response.missing, Missing::PARTIAL);
    let gap = response.body.gaps[0].gap;
    assert_eq!((gap.len, gap.cause), (7000, GapCause::Limit));

    assert!(blocked.response.is_none() && !blocked.complete());

    assert!(chat.tunnel);
    let said = |message: &Option<tapedeck_model::Message>| {
        let body = &message.as_ref().unwrap().body;
        let frame = websocket::frames(&body.tail, 99).next().unwrap();
        (frame.opcode, frame.payload, body.arrivals[0].at.as_nanos())
    };
    assert_eq!(
        said(&chat.request),
        (1, b"hello".to_vec(), 1_795_232_145_250_000_000)
    );
    assert_eq!(
        said(&chat.response),
        (2, vec![0, 1, 2], 1_795_232_145_500_000_000)
    );
}

#[test]
fn what_others_write_is_read_and_what_says_too_little_is_counted() {
    let (exchanges, imported, error) = import(OTHERS.as_bytes());
    assert_eq!((error, imported.unusable), (None, 3));
    assert_eq!(
        imported.first_unusable.as_deref(),
        Some("log.entries[2].startedDateTime: it is no RFC 3339 time")
    );
    let [form, put] = &exchanges[..] else {
        panic!("{exchanges:?}")
    };
    let request = form.request.as_ref().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&request.head.as_ref().unwrap().raw),
        "POST /forms HTTP/1.1\r\nHost: other.example\r\nContent-Length: 6\r\n\r\n"
    );
    assert_eq!(request.body.tail, b"a=1&b=");
    assert_eq!(request.first_byte.as_nanos(), 1_795_232_143_285_000_000);
    assert_eq!(form.connection.server.port, 8080);
    let response = form.response.as_ref().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&response.head.as_ref().unwrap().raw),
        "HTTP/1.0 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(put.request.as_ref().unwrap().body.tail, [0xff]);
    assert_eq!(
        put.response
            .as_ref()
            .unwrap()
            .head
            .as_ref()
            .unwrap()
            .status(),
        Some(204)
    );
}

#[test]
fn a_har_is_found_by_its_content() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(OTHERS.as_bytes()).unwrap();
    let zstd = zstd::encode_all(OTHERS.as_bytes(), 1).unwrap();
    for bytes in [gzip.finish().unwrap(), zstd] {
        assert_eq!(import(&bytes).0.len(), 2);
    }
    for other in [
        &b""[..],
        b"\xd4\xc3\xb2\xa1",
        b"\x1f\x8b",
        b"\x28\xb5\x2f\xfd",
        b"GET / HTTP/1.1",
    ] {
        assert_eq!(import(other).2.as_deref(), Some("no JSON"));
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_place() {
    let error = |text: &str| import(text.as_bytes()).2.unwrap();
    for other in [
        "{}",
        "{\"log\": {}}",
        "{\"log\": {\"version\": \"1.2\"}, \"entries\": []}",
    ] {
        assert_eq!(
            error(other),
            "it is JSON, but no HAR: it has no log.entries"
        );
    }
    assert_eq!(
        error("[1]"),
        "it is not valid JSON: invalid type: sequence, expected the object of a HAR at line 1 column 1"
    );
    let cut = &CHROME[..CHROME.find("shop.example/large").unwrap()];
    let (line, column) = (cut.lines().count(), cut.lines().last().unwrap().len());
    assert_eq!(
        error(cut),
        format!(
            "log.entries[1]: it is not valid JSON: EOF while parsing a string at line {line} column \
             {column}"
        )
    );
    assert_eq!(
        error("{\"log\": {\"entries\": []}} x"),
        "it is not valid JSON: trailing characters at line 1 column 26"
    );
}

#[test]
fn an_entry_over_the_limit_is_not_held() {
    let mut importer = Importer::new(Limits {
        entry: 100_000,
        ..Limits::default()
    });
    let long = "x".repeat(200_000);
    let json = format!("{{\"log\": {{\"entries\": [{{}}, {{\"a\": \"{long}\"}}]}}}}");
    let error = importer.read(json.as_bytes(), &mut |_| {}).unwrap_err();
    assert_eq!(
        error.to_string(),
        "log.entries[1] is longer than 100000 bytes"
    );
}

#[test]
fn a_long_body_comes_in_parts() {
    let mut importer = Importer::new(Limits {
        part: 4,
        ..Limits::default()
    });
    let mut parts = Vec::new();
    let mut last = None;
    importer
        .read(
            OTHERS.trim_start_matches('\u{feff}').as_bytes(),
            &mut |item| match item {
                Item::Part(part) => parts.push(part.data.clone()),
                Item::Exchange(exchange) => {
                    last.get_or_insert_with(|| exchange.request.clone().unwrap().body);
                }
            },
        )
        .unwrap();
    let body = last.unwrap();
    assert_eq!((body.len, body.parts, &body.tail[..]), (6, 1, &b"b="[..]));
    assert_eq!(parts, [b"a=1&"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever comes: no panic, and what is taken can be written as what it is.
    #[test]
    fn damaged_files_do_no_harm(
        chrome in any::<bool>(),
        at in 0_usize..3000,
        with in prop::collection::vec(any::<u8>(), 0..4),
        cut in 0_usize..4,
    ) {
        let mut json = if chrome { CHROME } else { OTHERS }.as_bytes().to_vec();
        let at = at.min(json.len());
        let end = (at + cut).min(json.len());
        json.splice(at..end, with);
        let (exchanges, _, _) = import(&json);
        for exchange in exchanges {
            for message in [exchange.request, exchange.response].into_iter().flatten() {
                let head = message.head.unwrap();
                for field in &head.fields {
                    let value = field.value.of(&head.raw);
                    prop_assert!(!value.contains(&b'\n') && !value.contains(&b'\r'));
                    prop_assert!(!field.name.of(&head.raw).is_empty());
                }
            }
        }
    }
}
