//! What filters choose, and what they say when they are wrong.

use std::hint::black_box;
use std::sync::Arc;

use proptest::prelude::*;
use tapedeck_archive::{
    Archive, BodyBuffer, MergeError, MergeInput, Provenance, Scratch, Selection, Writer,
    WriterOptions, copy, merge,
};
use tapedeck_model::exchange::Body;
use tapedeck_model::{
    Anomalies, Anomaly, Connection, ConnectionId, Endpoint, Exchange, Field, Head, Ledger, Message,
    Missing, Origin, Protocol, Role, Scope, Side, Span, StartLine, Timestamp, Tls, TlsVersion,
    Workload, Workloads,
};

use crate::Filter;

/// A request line or status line, fields, and a body.
fn message(start_line: &str, fields: &[(&str, &str)], body: &[u8], at: i64) -> Message {
    let span = |start: usize, len: usize| Span {
        start: start as u32,
        len: len as u32,
    };
    let words: Vec<&str> = start_line.splitn(3, ' ').collect();
    let start = if words[0].starts_with("HTTP/") {
        StartLine::Response {
            status: words[1].parse().ok(),
            reason: Span::default(),
        }
    } else {
        StartLine::Request {
            method: Some(span(0, words[0].len())),
            target: Some(span(words[0].len() + 1, words[1].len())),
        }
    };
    let mut raw = format!("{start_line}\r\n").into_bytes();
    let fields = fields
        .iter()
        .map(|(name, value)| {
            let at = raw.len();
            raw.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            Field {
                name: span(at, name.len()),
                value: span(at + name.len() + 2, value.len()),
                ..Field::default()
            }
        })
        .collect();
    Message {
        head: Some(Head {
            raw,
            protocol: Protocol::Http11,
            start,
            fields,
        }),
        body: Body {
            len: body.len() as u64,
            tail: body.to_vec(),
            ..Body::default()
        },
        trailers: None,
        first_byte: Timestamp::from_nanos(at),
        last_byte: Timestamp::from_nanos(at),
        missing: Missing::NONE,
        reset_code: None,
    }
}

const SECOND: i64 = 1_000_000_000;
/// 2026-11-21T10:00:00Z.
const START: i64 = 1_795_255_200 * SECOND;

fn tls() -> Tls {
    Tls {
        version: Some(TlsVersion::Tls13),
        server_name: Some(b"pay.example".to_vec()),
        ..Tls::default()
    }
}

fn web() -> Workload {
    Workload {
        namespace: Some("shop".into()),
        pod: Some("web-1".into()),
        pid: Some(7),
        ..Workload::default()
    }
}

/// 0: GET, answered in 20 ms. 1: POST, answered with 503 in 2 s. 2: never answered. 3: answer only.
fn shop() -> Vec<Exchange> {
    let connection = |id: u64, ip: &str| {
        Arc::new(Connection {
            id: ConnectionId(id),
            client: Endpoint::new(ip.parse().unwrap(), 40_000 + id as u16),
            server: Endpoint::new([10, 0, 0, 2].into(), 8080),
            scope: Scope(0),
            origin: Origin::Handshake,
            opened: Timestamp::from_nanos(START),
            tls: (id == 1).then(|| Arc::new(tls())),
            workloads: Workloads {
                client: (id == 1).then(|| Arc::new(web())),
                server: None,
            },
        })
    };
    let exchange = |n: u64, request: Option<Message>, response: Option<Message>| Exchange {
        key: n,
        connection: connection(n, if n == 2 { "2001:db8::1" } else { "10.0.0.1" }),
        stream: n,
        protocol: if n == 1 {
            Protocol::Http2
        } else {
            Protocol::Http11
        },
        request,
        interim: Vec::new(),
        response,
        request_absent: Missing::NONE,
        response_absent: Missing::NONE,
        tunnel: false,
        pushed: n == 1,
        anomalies: Anomalies::default(),
    };
    let get = message(
        "GET /seats?date=today HTTP/1.1",
        &[("Host", "shop"), ("X-User", "anna"), ("Cookie", "id=1")],
        b"",
        START,
    );
    let ok = message(
        "HTTP/1.1 200 OK",
        &[("Content-Type", "text/plain")],
        b"hello",
        START + 20_000_000,
    );
    let post = message(
        "POST http://pay:81/charge HTTP/1.1",
        &[("Host", "pay:81"), ("X-User", "bert")],
        b"0123456789",
        START + SECOND,
    );
    let busy = message("HTTP/1.1 503 Busy", &[], b"", START + 3 * SECOND);
    let lonely = message(
        "GET /never HTTP/1.1",
        &[("Host", "shop")],
        b"",
        START + 5 * SECOND,
    );
    let stray = message("HTTP/1.1 404 Not Found", &[], b"gone", START + 6 * SECOND);
    let mut exchanges = vec![
        exchange(0, Some(get), Some(ok)),
        exchange(1, Some(post), Some(busy)),
        exchange(2, Some(lonely), None),
        exchange(3, None, Some(stray)),
    ];
    exchanges[3].anomalies.insert(Anomaly::UnsolicitedResponse);
    exchanges
}

fn archive(exchanges: &[Exchange]) -> Archive {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tape");
    let mut writer = Writer::create(&path, WriterOptions::new(Provenance::default())).unwrap();
    for exchange in exchanges {
        writer.exchange(exchange).unwrap();
    }
    writer.seal(&Ledger::default()).unwrap();
    Archive::open(&path).unwrap()
}

/// The ids that a filter chooses, the same by pages and by rows.
fn chosen(archive: &Archive, text: &str) -> Vec<u64> {
    let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let by_page: Vec<u64> = filter
        .select(archive)
        .map(|row| row.unwrap().id())
        .collect();
    let mut scratch = Scratch::new();
    let by_row: Vec<u64> = archive
        .rows()
        .filter(|row| filter.matches_with(archive, row, &mut scratch).unwrap())
        .map(|row| row.id())
        .collect();
    assert_eq!(by_page, by_row, "{text}");
    assert_eq!(filter.count(archive), Ok(by_row.len() as u64), "{text}");
    by_row
}

#[test]
fn every_name_and_operator() {
    let archive = archive(&shop());
    let all = [0, 1, 2, 3];
    let cases: &[(&str, &[u64])] = &[
        ("true", &all),
        ("false", &[]),
        (r#"request.method == "GET""#, &[0, 2]),
        (r#""GET" == request.method"#, &[0, 2]),
        (r#"request.method != "GET""#, &[1]),
        (r#"!(request.method == "GET")"#, &[1, 3]),
        (r#"request.method in ["POST", "PUT"]"#, &[1]),
        (r#"request.path == "/seats""#, &[0]),
        (r#"endpoint == "/seats""#, &[0]),
        (r#"endpoint.startsWith("/")"#, &[0, 2]),
        ("session != null", &[0]),
        ("session.size() == 12", &[0]),
        ("tls", &[1]),
        ("!tls", &[0, 2, 3]),
        (r#"tls.server_name.endsWith(".example")"#, &[1]),
        (r#"tls.version == "1.3""#, &[1]),
        ("tls.alpn == null", &all),
        (r#"workload.client.pod == "web-1""#, &[1]),
        (r#"workload.client.namespace in ["shop", "pay"]"#, &[1]),
        ("workload.client.pid == 7", &[1]),
        ("workload.client.owner == null", &all),
        ("workload.server.pod != null", &[]),
        (r#"request.query == "date=today""#, &[0]),
        (r#"request.target.startsWith("/seats?")"#, &[0]),
        (r#"request.target.endsWith("never")"#, &[2]),
        (r#"request.target.contains("a")"#, &[0, 1]),
        (r#"request.path.matches("^/[a-z]+$")"#, &[0, 2]),
        (r#"request.path >= "/o""#, &[0, 1]),
        (r#"request.authority == "pay:81""#, &[1]),
        (r#"request.scheme == "http""#, &[0, 1, 2]),
        ("size(request.method) == 4", &[1]),
        ("request.method.size() in [3, 5]", &[0, 2]),
        ("request.size > 0", &[1]),
        ("response.size == 5", &[0]),
        ("response.status >= 400 && response.status < 500", &[3]),
        ("500 <= response.status", &[1]),
        ("response.status in [200, 404]", &[0, 3]),
        ("response.status != 200", &[1, 3]),
        ("response.status == null", &[2]),
        ("response.status != null", &[0, 1, 3]),
        ("response.status > -1", &[0, 1, 3]),
        ("response.status < 1000000", &[0, 1, 3]),
        ("response.status == 200.0", &[0]),
        ("has(response.status) && !has(request.method)", &[3]),
        (r#"duration > duration("1.5s")"#, &[1]),
        (r#"duration == duration("20ms")"#, &[0]),
        (r#"first_byte < duration("-1s")"#, &[]),
        (r#"time >= timestamp("2026-11-21T10:00:05Z")"#, &[2, 3]),
        (r#"time < timestamp("2026-11-21T11:00:01+01:00")"#, &[0]),
        (r#"client == "10.0.0.1:40000""#, &[0]),
        (r#"client == "[2001:db8::1]:40002""#, &[2]),
        (r#"client.ip == "2001:db8::1""#, &[2]),
        ("client.port > 40001", &[2, 3]),
        (r#"server == "10.0.0.2:8080" && server.port == 8080"#, &all),
        (r#"server.ip.startsWith("10.")"#, &all),
        (r#"protocol == "HTTP/2""#, &[1]),
        ("complete", &[0, 1]),
        ("complete == false", &[2, 3]),
        ("!complete", &[2, 3]),
        ("pushed || tunnel", &[1]),
        ("id >= 2", &[2, 3]),
        ("connection == 1", &[1]),
        ("stream == 3u", &[3]),
        (r#""http1-unsolicited-response" in anomalies"#, &[3]),
        (r#"request.headers["x-user"] == "anna""#, &[0]),
        (
            r#"request.headers["X-User"].startsWith("b") || id == 3"#,
            &[1, 3],
        ),
        (r#""x-user" in request.headers"#, &[0, 1]),
        (r#"response.headers["content-type"] != null"#, &[0]),
        (r#"complete ? duration > duration("1s") : id == 2"#, &[1, 2]),
        ("// a comment\ncomplete // another", &[0, 1]),
    ];
    for (text, expected) in cases {
        assert_eq!(chosen(&archive, text), *expected, "{text}");
    }
}

#[test]
fn only_header_fields_need_the_record() {
    let needs = |text| Filter::parse(text).unwrap().needs_record();
    assert!(!needs(
        r#"request.path == "/" && duration > duration("1s") || !complete"#
    ));
    assert!(needs(r#"complete && !(request.headers["a"] == "b")"#));
}

#[track_caller]
fn check_error(text: &str, place: &str, message: &str) {
    let error = Filter::parse(text).unwrap_err();
    assert!(
        error.message.contains(message),
        "{text}: `{}` does not say `{message}`",
        error.message
    );
    let rest = &text[error.offset..];
    assert!(rest.starts_with(place), "{text}: the error is at `{rest}`");
}

#[test]
fn mistakes_are_told_with_their_place() {
    check_error("", "", "expecting expression");
    check_error("complete &&", "", "expecting expression");
    check_error("complete complete", "complete", "expecting <EOF>");
    check_error("(complete", "", "expected ')'");
    check_error(
        "complete && request.foo == 1",
        "foo",
        "`request` has method",
    );
    check_error("complete && nothing", "nothing", "unknown name `nothing`");
    check_error("response == 1", "response", "name a field of it");
    check_error(
        "request.headers.accept == 'x'",
        "accept",
        "request.headers[\"accept\"]",
    );
    check_error(
        "complete && request.path",
        "path",
        "a bool is expected here, not a string",
    );
    check_error(
        "id == 1 && request.path == 5",
        "==",
        "a string cannot be compared with a number",
    );
    check_error("duration > 5", ">", "duration(\"500ms\")");
    check_error(
        "duration > duration('5 parsecs')",
        "'5 parsecs'",
        "this is not a duration",
    );
    check_error(
        "time > timestamp('noon')",
        "'noon'",
        "this is not a timestamp",
    );
    check_error(
        "request.path == request.query",
        "==",
        "a name with a literal",
    );
    check_error(
        "response.status + 1 == 2",
        "+",
        "arithmetic is not supported",
    );
    check_error(
        "request.path.upper() == 'A'",
        "upper",
        "there is no function `upper`",
    );
    check_error(
        "request.path.matches('(')",
        "'('",
        "not a regular expression",
    );
    check_error(
        "request.path.matches('a{1000}{1000}')",
        "'a{",
        "not a regular expression",
    );
    check_error("[1].exists(x, x == 1)", "exists", "not supported");
    check_error(
        "response.status in [200, 'ok']",
        "[",
        "each element must be a number",
    );
    check_error("response.status in 200", "200", "a list is expected");
    check_error(
        "'tcp-nothing' in anomalies",
        "'tcp-nothing'",
        "there is no such anomaly",
    );
    check_error("response.status == 0.5", "0.5", "whole numbers");
    check_error("id == 1 // so far\n&& foo", "foo", "unknown name");
    check_error(&"(".repeat(20_000), "", "the limit is");
    check_error(
        &format!("{}complete", "!(".repeat(3_000)),
        "",
        "recursion limit",
    );
}

#[test]
fn an_error_prints_with_a_caret() {
    let error = Filter::parse("complete && request.foo == 1").unwrap_err();
    let printed = error.to_string();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[1], "  complete && request.foo == 1");
    assert_eq!(lines[2], "                      ^");
}

/// Filters that are valid, of any shape.
fn any_filter() -> BoxedStrategy<String> {
    let leaf = prop::sample::select(vec![
        "complete",
        "pushed",
        "response.status == 200",
        "response.status > 100",
        "response.status == null",
        "duration >= duration('20ms')",
        "duration < duration('2s')",
        "time > timestamp('2026-11-21T10:00:03Z')",
        "request.method == 'GET'",
        "request.path.contains('e')",
        "request.headers['x-user'] != 'anna'",
        "id in [1, 2]",
        "true",
        "false",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            inner.prop_map(|a| format!("!({a})")),
        ]
    })
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Zone maps, the order of operands and the column tests change nothing.
    #[test]
    fn pages_and_rows_agree(filter in any_filter(), n in 1_usize..4) {
        let exchanges: Vec<_> = shop().into_iter().cycle().take(n * 33).collect();
        let archive = archive(&exchanges);
        let whole = chosen(&archive, &filter);
        let rest = chosen(&archive, &format!("!({filter})"));
        prop_assert_eq!(whole.len() + rest.len(), exchanges.len());
    }

    #[test]
    fn any_text_is_a_filter_or_an_error(text in "[a-z.()\\[\\]!&|<>=?:'\"0-9 /{}+-]{0,40}|\\PC{0,20}") {
        if let Err(error) = Filter::parse(&text) {
            prop_assert!(error.offset <= text.len());
            prop_assert!(!error.message.is_empty());
        }
    }
}

/// So many exchanges, each with a target of its own, on one page of the index.
fn page_of(n: u64) -> Archive {
    let template = shop().swap_remove(0);
    let exchanges: Vec<_> = (0..n)
        .map(|n| {
            let mut exchange = template.clone();
            let at = START + n as i64 * 1_000_000;
            let target = format!("GET /seats/{n:06}?date=today HTTP/1.1");
            let cookie = format!("id={n}");
            let fields = [("Host", "shop"), ("Cookie", cookie.as_str())];
            exchange.key = n;
            exchange.stream = n;
            exchange.request = Some(message(&target, &fields, b"", at));
            let status = if n % 7 == 0 {
                "HTTP/1.1 404 No"
            } else {
                "HTTP/1.1 200 OK"
            };
            exchange.response = Some(message(status, &[], b"seat", at + 2_000_000));
            exchange
        })
        .collect();
    let archive = archive(&exchanges);
    assert_eq!(archive.pages().count(), 1);
    // A page is checked when it is first touched.
    assert_eq!(archive.rows().count() as u64, n);
    archive
}

/// Everything that the index says of an exchange: what `ls` prints, and what the player's schedule and
/// the mock's index are made of.
fn look_at(row: &tapedeck_archive::Row<'_>) {
    let target = row.target_pieces().unwrap();
    black_box(target.pieces().map(<[u8]>::len).sum::<usize>());
    black_box((row.id(), row.time(), row.duration(), row.first_byte()));
    black_box((row.method(), row.scheme(), row.authority(), row.status()));
    black_box((row.connection(), row.stream(), row.client(), row.server()));
    black_box((row.session(), row.protocol(), row.complete(), row.tunnel()));
    black_box((row.request_body_len(), row.response_body_len()));
    black_box((row.body_place(Role::Response), row.anomalies()));
    black_box((row.tls().is_some(), row.workload(Side::Client).is_some()));
}

#[test]
fn listing_allocates_nothing() {
    let archive = page_of(1_000);
    let listed = allocation_counter::measure(|| {
        archive.rows().for_each(|row| look_at(&row));
        for id in (0..1_000).rev() {
            look_at(&archive.row(id).unwrap());
        }
    });
    assert_eq!(listed.count_total, 0, "{listed:?}");
}

#[test]
fn filters_allocate_by_page_and_not_by_exchange() {
    let (few, many) = (page_of(100), page_of(5_000));
    for text in [
        "response.status >= 400",
        "duration > duration('1ms') && request.method == 'GET'",
        "request.path.startsWith('/seats/0001') || complete",
        "request.query == 'date=today'",
        "session == '0123456789ab' || client == '10.0.0.1:40000'",
        "!(request.authority == 'shop') || stream < 10",
    ] {
        let filter = Filter::parse(text).unwrap();
        let [of_few, of_many] = [&few, &many].map(|archive| {
            allocation_counter::measure(|| {
                black_box(filter.count(archive).unwrap());
            })
        });
        // A buffer may be made longer a few times, as far as the longest target.
        assert!(
            of_many.count_total <= of_few.count_total + 4,
            "{text}: {of_few:?} {of_many:?}"
        );
        assert!(of_many.count_total < 40, "{text}: {of_many:?}");
    }
}

/// Exchanges of the shop's kinds, so many milliseconds after each other's beginning.
fn arranged(places: &[(usize, i64)]) -> Archive {
    let kinds = shop();
    let exchanges: Vec<_> = places
        .iter()
        .zip(0..)
        .map(|((kind, at), n)| {
            let mut exchange = kinds[*kind].clone();
            exchange.key = n;
            for message in exchange.request.iter_mut().chain(&mut exchange.response) {
                for time in [&mut message.first_byte, &mut message.last_byte] {
                    *time = Timestamp::from_nanos(time.as_nanos() + at * 1_000_000);
                }
            }
            exchange
        })
        .collect();
    archive(&exchanges)
}

/// What comes out of a writer.
fn written(write: impl FnOnce(Writer)) -> Archive {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.tape");
    write(Writer::create(&path, WriterOptions::new(Provenance::default())).unwrap());
    Archive::open(&path).unwrap()
}

fn selection(archive: &Archive, filter: &Filter) -> Selection {
    let mut chosen = Selection::none(archive);
    for row in filter.select(archive) {
        chosen.insert(row.unwrap().id());
    }
    chosen
}

fn cut(archive: &Archive, filter: &Filter) -> Archive {
    written(|mut writer| {
        copy(
            archive,
            &selection(archive, filter),
            &mut writer,
            &mut |_| (),
        )
        .unwrap();
        writer.seal(archive.ledger()).unwrap();
    })
}

/// Merged, of each what a filter chooses.
fn merged(archives: [&Archive; 2], filter: Option<&Filter>) -> Archive {
    let chosen = archives.map(|archive| filter.map(|filter| selection(archive, filter)));
    let inputs: Vec<_> = archives
        .iter()
        .zip(&chosen)
        .map(|(archive, chosen)| MergeInput {
            name: "",
            archive,
            chosen: chosen.as_ref(),
        })
        .collect();
    written(|writer| {
        merge(&inputs, || Ok::<_, MergeError>(writer)).unwrap();
    })
}

/// Everything but the ids of connections, which a merge gives anew.
fn contents(archive: &Archive) -> Vec<Exchange> {
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::new());
    let read = |id| {
        let record = archive.load(id, &mut scratch).unwrap();
        let mut exchange = record.to_exchange();
        Arc::make_mut(&mut exchange.connection).id = ConnectionId(0);
        let views = [record.request(), record.response()];
        for (view, message) in views
            .into_iter()
            .zip([&mut exchange.request, &mut exchange.response])
        {
            if let (Some(view), Some(message)) = (view, message) {
                message.body.tail = archive.body(&view.body(), &mut buffer).unwrap().to_vec();
            }
        }
        exchange
    };
    (0..archive.len()).map(read).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cut_and_merge_commute_with_filters(
        first in prop::collection::vec((0_usize..4, 0_i64..20), 0..12),
        second in prop::collection::vec((0_usize..4, 0_i64..20), 0..12),
        filter in prop::sample::select(vec![
            "response.status >= 400",
            "complete",
            "request.method == 'GET' && !has(response.status)",
            "request.headers['x-user'] == 'bert'",
            "response.size > 0 || duration > duration('1s')",
            "true",
            "false",
        ]),
    ) {
        let filter = Filter::parse(filter).unwrap();
        let (first, second) = (arranged(&first), arranged(&second));
        let cut_last = contents(&cut(&merged([&first, &second], None), &filter));
        let cut_first = merged([&cut(&first, &filter), &cut(&second, &filter)], None);
        prop_assert_eq!(&contents(&cut_first), &cut_last);
        let at_once = merged([&first, &second], Some(&filter));
        prop_assert_eq!(&contents(&at_once), &cut_last);
        // And it is idempotent.
        prop_assert_eq!(&contents(&cut(&at_once, &filter)), &cut_last);
    }
}
