//! The mock as its users meet it: archives from disk, clients of other people.
//!
//! Clients that are not installed are skipped with a message, unless `TAPEDECK_REQUIRE_TOOLS` is 1.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "the helpers of these tests are tests"
)]

mod dialogue;
mod diff;
mod tape;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use tape::{Case, Disk, GET, archive, head};
use tapedeck_model::exchange::Interim;
use tapedeck_model::{Exchange, Missing, Protocol, Timestamp};
use tapedeck_replayer::mock::{Latency, Limits, Mock, Options, RunningMock, StartError};

fn serve(exchanges: &[Exchange]) -> (Disk, RunningMock) {
    let (disk, archive) = archive(exchanges);
    (disk, Mock::start(archive, &Options::default()).unwrap())
}

fn talk(mock: &RunningMock, request: &str) -> String {
    let mut stream = TcpStream::connect(mock.addr()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Runs a client; `None`: it is not installed, and that was said.
fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(name).args(arguments).output() {
        Ok(output) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert!(
                output.status.success(),
                "{name} {arguments:?}: {}{}",
                text(&output.stdout),
                text(&output.stderr)
            );
            Some(text(&output.stdout))
        }
        Err(error) => {
            let required = std::env::var_os("TAPEDECK_REQUIRE_TOOLS").is_some_and(|one| one == "1");
            assert!(!required, "{name}: {error}");
            println!("skipped: {name} is not installed ({error})");
            None
        }
    }
}

#[test]
fn an_archive_that_cannot_answer_is_refused() {
    let start = |exchanges: &[Exchange]| {
        let (_disk, archive) = archive(exchanges);
        Mock::start(archive, &Options::default()).unwrap_err()
    };
    assert!(matches!(start(&[]), StartError::EmptyArchive));

    let mut asked_only = GET.exchange(0);
    asked_only.response = None;
    asked_only.response_absent = Missing::UNFINISHED;
    let error = start(&[asked_only.clone(), asked_only.clone()]);
    assert!(matches!(error, StartError::NoResponses { exchanges: 2 }));

    let mut cut = GET.exchange(1);
    cut.response.as_mut().unwrap().missing = Missing::LOST;
    let mut tunnel = GET.exchange(2);
    tunnel.tunnel = true;
    assert_eq!(
        start(&[asked_only, cut, tunnel]).to_string(),
        "none of the 3 exchanges in the archive can be served: 2 without a complete response, 1 \
         tunnels"
    );
}

#[test]
fn what_is_not_whole_is_counted_and_not_served() {
    let mut lost = Case {
        target: "/lost",
        ..GET
    }
    .exchange(0);
    lost.response.as_mut().unwrap().missing = Missing::LOST;
    let mut unknown = Case {
        target: "/unknown",
        ..GET
    }
    .exchange(1);
    unknown.request.as_mut().unwrap().missing = Missing::UNKNOWN_FIELDS;
    let switched = Case {
        target: "/switched",
        status: "101",
        ..GET
    }
    .exchange(2);
    let long = Case {
        target: "/long",
        body: "0123456789",
        ..GET
    }
    .exchange(3);
    let (_disk, archive) = archive(&[lost, unknown, switched, long, GET.exchange(4)]);
    let options = Options {
        limits: Limits {
            answer_bytes: 9,
            ..Limits::default()
        },
        ..Options::default()
    };
    let mock = Mock::start(archive, &options).unwrap();
    for target in ["/lost", "/unknown", "/switched", "/long"] {
        let request = format!("GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n");
        assert!(
            talk(&mock, &request).starts_with("HTTP/1.1 501 "),
            "{target}"
        );
    }
    let stats = mock.stop();
    let skipped = stats.skipped;
    assert_eq!(
        (
            skipped.response_incomplete,
            skipped.request_incomplete,
            skipped.unreadable,
            skipped.too_large,
            skipped.total(),
        ),
        (1, 1, 1, 1, 4)
    );
}

#[test]
fn every_recorded_request_finds_its_own_answer() {
    let mut exchanges = Vec::new();
    let mut requests = Vec::new();
    for n in 0..200_u64 {
        let (method, query, asked) = match n % 4 {
            0 => ("GET", format!("?n={n}"), String::new()),
            1 => ("POST", String::new(), format!("{{\"n\":{n},\"x\":\"y\"}}")),
            2 => ("DELETE", String::new(), String::new()),
            _ => ("PUT", "?a=1&b=2".to_owned(), format!("raw {n}")),
        };
        let target = format!("/p{}{query}", if n % 4 == 2 { n } else { n % 3 });
        let answer = format!("answer {n}");
        let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
        let case = Case {
            method,
            target: leak(target),
            asked: leak(asked),
            body: leak(answer),
            protocol: if n % 5 == 0 {
                Protocol::Http2
            } else {
                Protocol::Http11
            },
            ..GET
        };
        exchanges.push(case.exchange(n));
        requests.push((case, n));
    }
    let (_disk, mock) = serve(&exchanges);
    for (case, n) in &requests {
        let request = format!(
            "{} {} HTTP/1.1\r\nHost: shop.local\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{}",
            case.method,
            case.target,
            case.asked.len(),
            case.asked
        );
        let answer = talk(&mock, &request);
        assert!(
            answer.ends_with(&format!("\r\n\r\nanswer {n}")),
            "{request}: {answer}"
        );
    }
    let stats = mock.stop();
    assert_eq!((stats.hits, stats.misses), (200, 0));
    assert!(stats.hits_by_exchange.iter().all(|(_, hits)| *hits == 1));
    assert!(stats.cache_bytes > 0);
}

#[test]
fn bodies_beyond_a_block_and_everything_around_them() {
    let mut exchange = GET.exchange(0);
    let body: Vec<u8> = (0..1_500_000_u32).map(|n| b'a' + (n % 23) as u8).collect();
    {
        let response = exchange.response.as_mut().unwrap();
        response.body.tail = body.clone();
        response.body.len = body.len() as u64;
        response.trailers = Some(head(Protocol::Http11, &[], &[("X-Sum", "7")]));
    }
    exchange.interim.push(Interim {
        head: head(Protocol::Http11, &["103", "Hints", ""], &[("Link", "</a>")]),
        at: Timestamp::from_nanos(0),
    });
    let (_disk, mock) = serve(&[exchange]);
    for _ in 0..3 {
        let answer = talk(&mock, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
        let (interim, rest) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(interim, "HTTP/1.1 103 Hints\r\nLink: </a>");
        let (head, rest) = rest.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            head,
            "HTTP/1.1 200 As Recorded\r\nContent-Type: text/plain\r\nX-Order: 1\r\nx-order: 2\r\n\
             Transfer-Encoding: chunked\r\nConnection: close"
        );
        let rest = rest.strip_prefix(&format!("{:x}\r\n", body.len())).unwrap();
        let rest = rest
            .strip_prefix(std::str::from_utf8(&body).unwrap())
            .unwrap();
        assert_eq!(rest, "\r\n0\r\nX-Sum: 7\r\n\r\n");
    }
}

/// Served to curl over both protocols, whatever was recorded.
#[test]
fn curl_reads_what_was_recorded() {
    let cases = [
        GET,
        Case {
            method: "HEAD",
            target: "/h",
            fields: &[("Content-Length", "77")],
            body: "",
            ..GET
        },
        Case {
            target: "/c",
            fields: &[("Transfer-Encoding", "chunked")],
            body: "chunky",
            ..GET
        },
        Case {
            target: "/2",
            protocol: Protocol::Http2,
            body: "from h2",
            ..GET
        },
        Case {
            method: "POST",
            target: "/j",
            asked: r#"{"a":1,"b":[2]}"#,
            body: "json",
            ..GET
        },
        Case {
            target: "/n",
            status: "204",
            body: "",
            ..GET
        },
    ];
    let exchanges: Vec<_> = (0..)
        .zip(&cases)
        .map(|(n, case)| case.exchange(n))
        .collect();
    let (_disk, mock) = serve(&exchanges);
    let url = |target: &str| format!("http://{}{target}", mock.addr());
    for version in ["--http1.1", "--http2-prior-knowledge", "--http1.0"] {
        let curl = |arguments: &[&str], target: &str| {
            let url = url(target);
            let mut all = vec!["-sS", "--max-time", "20", version, "-w", "|%{http_code}"];
            all.extend(arguments);
            all.push(&url);
            tool("curl", &all)
        };
        let Some(answer) = curl(&[], "/") else { return };
        assert_eq!(answer, "hello|200", "{version}");
        let answer = curl(&["-I"], "/h").unwrap();
        assert!(
            answer.to_lowercase().contains("content-length: 77\r\n"),
            "{version}: {answer}"
        );
        assert_eq!(curl(&[], "/c").unwrap(), "chunky|200", "{version}");
        assert_eq!(curl(&[], "/2").unwrap(), "from h2|200", "{version}");
        assert_eq!(curl(&[], "/n").unwrap(), "|204", "{version}");
        // As a form, as curl -d claims; members in another order.
        let permuted = r#"{ "b": [2], "a": 1.0 }"#;
        assert_eq!(
            curl(&["-d", permuted], "/j").unwrap(),
            "json|200",
            "{version}"
        );
        let typed = ["-H", "Content-Type: application/json", "-d", permuted];
        assert_eq!(curl(&typed, "/j").unwrap(), "json|200", "{version}");
        let waiting = ["-H", "Expect: 100-continue", "-d", permuted];
        assert_eq!(curl(&waiting, "/j").unwrap(), "json|200", "{version}");
        let missed = curl(&["-d", r#"{"a":2,"b":[2]}"#], "/j").unwrap();
        assert!(missed.ends_with("|501"), "{version}: {missed}");
        assert!(
            missed.contains("body.a: recorded 1, got 2"),
            "{version}: {missed}"
        );
    }
    // As a proxy's client would ask, and through one connection.
    let (a, b) = (url("/"), url("/2"));
    let both = tool("curl", &["-sS", &a, "--next", "-sS", &b]).unwrap();
    assert_eq!(both, "hellofrom h2");
}

#[test]
fn nghttp_and_h2load_are_served() {
    let body: &'static str = Box::leak("0123456789".repeat(30_000).into_boxed_str());
    let cases = [
        GET,
        Case {
            target: "/big",
            body,
            ..GET
        },
        Case {
            method: "POST",
            target: "/j",
            asked: r#"{"a":1}"#,
            body: "json",
            ..GET
        },
    ];
    let exchanges: Vec<_> = (0..)
        .zip(&cases)
        .map(|(n, case)| case.exchange(n))
        .collect();
    let (_disk, mock) = serve(&exchanges);
    let url = |target: &str| format!("http://{}{target}", mock.addr());
    if let Some(both) = tool("nghttp", &["--no-dep", &url("/"), &url("/big")]) {
        // In whichever order they came.
        assert_eq!(both.len(), "hello".len() + body.len());
    }
    let arguments = ["-n", "2000", "-c", "8", "-m", "16", "-t", "1"];
    for h1 in [false, true] {
        let mut all = arguments.to_vec();
        if h1 {
            all.push("--h1");
        }
        let (a, b) = (url("/"), url("/big"));
        all.extend([a.as_str(), b.as_str()]);
        if let Some(report) = tool("h2load", &all) {
            let expect = "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored";
            assert!(report.contains(expect), "{report}");
            assert!(report.contains("2000 2xx"), "{report}");
        }
    }
    assert_eq!(mock.stop().misses, 0);
}

#[test]
fn several_services_are_told_apart_by_authority() {
    let pay = Case {
        host: "pay.local",
        body: "pay",
        ..GET
    }
    .exchange(0);
    let mail = Case {
        host: "mail.local:8080",
        body: "mail",
        ..GET
    }
    .exchange(1);
    let (_disk, mock) = serve(&[pay, mail]);
    let ask = |host: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        talk(&mock, &request)
    };
    assert!(ask("mail.local:8080").ends_with("\r\n\r\nmail"));
    assert!(ask("PAY.local:80").ends_with("\r\n\r\npay"));
    assert!(ask("127.0.0.1").ends_with("\r\n\r\npay"));
}

#[test]
fn what_is_created_is_there_until_it_is_deleted() {
    let step = |method, target, asked, status, body| Case {
        method,
        target,
        asked,
        status,
        body,
        ..GET
    };
    let steps = [
        step("GET", "/seats/7", "", "404", "none"),
        step("POST", "/seats", r#"{"id":7}"#, "201", "made"),
        step("GET", "/seats/7", "", "200", "seat 7"),
        step("DELETE", "/seats/7", "", "200", "gone"),
        step("GET", "/seats/7", "", "404", "none again"),
    ];
    let exchanges: Vec<_> = (0..)
        .zip(&steps)
        .map(|(key, step)| step.exchange(key))
        .collect();
    let (_disk, mock) = serve(&exchanges);
    for step in &steps {
        let Case {
            method,
            target,
            asked,
            ..
        } = step;
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{asked}",
            asked.len()
        );
        let answer = talk(&mock, &request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {} ", step.status)),
            "{answer}"
        );
        assert!(answer.ends_with(step.body), "{answer}");
    }
    assert_eq!(mock.stop().misses, 0);
}

#[test]
fn latencies_are_drawn_from_those_of_the_endpoint() {
    let delay = Duration::from_millis(120);
    let exchanges: Vec<_> = (0..4)
        .map(|key| {
            let mut exchange = Case {
                target: ["/seats/1", "/seats/2", "/seats/3", "/seats/4"][key as usize],
                ..GET
            }
            .exchange(key);
            let asked = exchange.request.as_ref().unwrap().first_byte;
            let response = exchange.response.as_mut().unwrap();
            response.first_byte = asked.saturating_add(delay * (1 + key as u32 % 2));
            response.last_byte = response.first_byte;
            exchange
        })
        .collect();
    let (_disk, archive) = archive(&exchanges);
    let options = Options {
        latency: Latency::Drawn,
        ..Options::default()
    };
    let mock = Mock::start(archive, &options).unwrap();
    for target in ["/seats/1", "/seats/2", "/seats/3", "/seats/4"] {
        let begun = Instant::now();
        let answer = talk(
            &mock,
            &format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        );
        assert!(answer.ends_with("hello"), "{answer}");
        // Any of those that were recorded, and so none below the least.
        assert!(begun.elapsed() >= delay, "{target}");
    }
    assert_eq!(mock.stop().hits, 4);
}
