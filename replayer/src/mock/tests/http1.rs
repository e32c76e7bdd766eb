use std::time::Instant;

use super::super::options::{Latency, Limits, Repeat};
use super::*;

const CASE: &str = "HTTP/1.1 200 Recorded\r\nContent-Type: text/plain\r\nX-Case: Kept\r\n";

#[test]
fn pipelined_requests_are_answered_in_order_at_every_split() {
    let mock = start(vec![
        get("/a?x=1&y=2", "first"),
        post("/b", r#"{"p":1,"q":2}"#, "second"),
    ]);
    let requests = "GET /a?y=2&x=1 HTTP/1.1\r\nHost: any\r\n\r\n\
         POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"q\":2, \r\n6\r\n\"p\":1}\r\n0\r\n\r\n\
         GET /a?x=1&y=2 HTTP/1.1\r\nConnection: close\r\n\r\n";
    let expect = format!(
        "{CASE}Content-Length: 5\r\n\r\nfirst{CASE}Content-Length: 6\r\n\r\nsecond\
         {CASE}Content-Length: 5\r\nConnection: close\r\n\r\nfirst"
    );
    for at in 0..requests.len() {
        let (a, b) = requests.split_at(at);
        let mut raw = Raw::connect(mock.addr());
        raw.send(a);
        raw.send(b);
        assert_eq!(raw.read_all(), expect, "split at {at}");
    }
    let stats = mock.stop();
    let n = requests.len() as u64;
    assert_eq!(stats.hits_by_exchange, [(0, 2 * n), (1, n)]);
    assert_eq!((stats.hits, stats.misses, stats.refused), (3 * n, 0, 0));
}

#[test]
fn what_the_recording_had_is_what_the_client_gets() {
    let head = Tape {
        method: "HEAD",
        fields: &[("Content-Length", "12345")],
        ..get("/h", "")
    };
    let trailers = Tape {
        fields: &[("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum")],
        trailers: &[("X-Sum", "7")],
        ..get("/t", "chunky")
    };
    let hints = Tape {
        interim: &[103],
        ..get("/i", "x")
    };
    let mock = start(vec![head, trailers, hints]);
    let close = "Connection: close\r\n\r\n";
    assert_eq!(
        talk(mock.addr(), format!("HEAD /h HTTP/1.1\r\n{close}")),
        format!("HTTP/1.1 200 Recorded\r\nContent-Length: 12345\r\n{close}")
    );
    assert_eq!(
        talk(mock.addr(), format!("GET /t HTTP/1.1\r\n{close}")),
        format!(
            "HTTP/1.1 200 Recorded\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n{close}\
             6\r\nchunky\r\n0\r\nX-Sum: 7\r\n\r\n"
        )
    );
    assert_eq!(
        talk(mock.addr(), "GET /t HTTP/1.0\r\n\r\n"),
        format!("HTTP/1.1 200 Recorded\r\nTrailer: X-Sum\r\n{close}chunky")
    );
    assert_eq!(
        talk(mock.addr(), format!("GET /i HTTP/1.1\r\n{close}")),
        format!("HTTP/1.1 103 Early Hints\r\n\r\n{CASE}Content-Length: 1\r\n{close}x")
    );
    // HTTP/1.0 knows no interim responses, but keeps the connection if asked.
    let mut raw = Raw::connect(mock.addr());
    raw.send("GET /i HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(
        raw.read_until("\r\n\r\nx"),
        format!("{CASE}Content-Length: 1\r\nConnection: keep-alive\r\n\r\nx")
    );
    raw.send("GET /i HTTP/1.0\r\n\r\n");
    assert!(raw.read_all().starts_with(CASE));
}

#[test]
fn a_miss_names_the_nearest_recorded_request() {
    let mock = start(vec![get("/list?page=2", "x"), get("/other", "y")]);
    for _ in 0..2 {
        let answer = talk(
            mock.addr(),
            "GET /list?page=3 HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 501 Not Implemented\r\n"),
            "{head}"
        );
        assert!(
            head.contains("content-type: application/json\r\n"),
            "{head}"
        );
        assert!(head.contains("x-tapedeck-mock: not-recorded\r\n"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"], "no recorded request matches this one");
        assert_eq!(body["request"]["target"], "/list?page=3");
        assert_eq!(body["request"]["authority"], "shop");
        assert_eq!(body["nearest"][0]["id"], 0);
        assert_eq!(body["nearest"][0]["target"], "/list?page=2");
        assert_eq!(
            body["nearest"][0]["differs"][0],
            "query.page: recorded 2, got 3"
        );
        assert!(body["advice"].as_str().unwrap().contains("exchange 0"));
    }
    // Who would rather read text gets it, first or again.
    for accept in [
        "text/plain",
        "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8",
    ] {
        let ask = |accept: &str| {
            format!(
                "GET /list?page=3 HTTP/1.1\r\nHost: shop\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
            )
        };
        let answer = talk(mock.addr(), ask(accept));
        assert!(
            answer.contains("content-type: text/plain; charset=utf-8\r\n"),
            "{answer}"
        );
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let expected = "no recorded request matches this one: GET /list?page=3\n\n\
            nearest: GET /list?page=2 (exchange 0)\n  query.page: recorded 2, got 3\n\n\
            a rule by which the first would answer:\nrules:\n  - request: \"GET /list\"\n    \
            query:\n      \"page\": presence\n\n\
            The nearest recorded request is exchange 0; `tapedeck show ARCHIVE 0` prints it.\n";
        assert_eq!(body, expected);
    }
    let stats = mock.stop();
    assert_eq!((stats.hits, stats.misses), (0, 4));
    assert_eq!(stats.missed.len(), 1);
    assert_eq!(stats.missed[0].count, 4);
    assert_eq!(stats.missed[0].nearest[0].id, 0);
}

#[test]
fn used_up_answers_are_a_miss_if_asked() {
    let mock = start_with(
        vec![get("/a", "1"), get("/a", "2")],
        &Options {
            repeat: Repeat::Fail,
            ..options()
        },
    )
    .unwrap();
    let request = "GET /a HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert!(talk(mock.addr(), request).ends_with("\r\n\r\n1"));
    assert!(talk(mock.addr(), request).ends_with("\r\n\r\n2"));
    assert!(talk(mock.addr(), request).contains("recorded 2 times, and all its answers"));
}

#[test]
fn bodies_of_every_size_arrive_whole() {
    let sizes = [0, 1, 16 << 10, (16 << 10) + 1, 300_000, 3_000_000];
    let targets = ["/0", "/1", "/2", "/3", "/4", "/5"];
    let tapes = sizes
        .iter()
        .zip(targets)
        .map(|(size, target)| get(target, &"0123456789".repeat(size / 10 + 1)[..*size]))
        .collect();
    let mock = start(tapes);
    // All in one pipeline, twice: cached and not.
    let mut raw = Raw::connect(mock.addr());
    for round in 0..2 {
        for target in targets {
            raw.send(format!("GET {target} HTTP/1.1\r\n\r\n"));
        }
        for size in sizes {
            let head = raw.read_until("\r\n\r\n");
            assert!(
                head.contains(&format!("Content-Length: {size}\r\n")),
                "{head}"
            );
            let mut body = vec![0; size];
            raw.stream.read_exact(&mut body).unwrap();
            let whole = body
                .iter()
                .enumerate()
                .all(|(n, byte)| *byte == b'0' + (n % 10) as u8);
            assert!(whole, "round {round}, size {size}");
        }
    }
}

#[test]
fn a_client_that_waits_is_told_to_go_on() {
    let mock = start(vec![post("/a", "hello", "yes")]);
    let mut raw = Raw::connect(mock.addr());
    raw.send("POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(raw.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    raw.send("hello");
    assert!(raw.read_until("\r\n\r\nyes").starts_with(CASE));
}

#[test]
fn malformed_requests_get_an_answer_and_an_end() {
    let mock = start(vec![get("/a", "x")]);
    for (request, status) in [
        ("nonsense\r\n\r\n", "400"),
        (
            "GET /a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "400",
        ),
        ("GET /a HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", "413"),
        ("GET /a HTTP/3.1\r\n\r\n", "505"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\nx", "505"),
    ] {
        let answer = talk(mock.addr(), request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
        assert!(answer.contains("Connection: close\r\n"));
        assert!(answer.contains("{\"error\":"));
    }
    let long = format!("GET /a HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(70_000));
    assert!(talk(mock.addr(), long).starts_with("HTTP/1.1 431 "));
    // Answers before the malformed request still arrive.
    let answer = talk(mock.addr(), "GET /a HTTP/1.1\r\n\r\nGET\r\n\r\n");
    assert!(
        answer.starts_with(CASE) && answer.contains("HTTP/1.1 400 "),
        "{answer}"
    );
    // TLS gets a TLS alert where there is no certificate authority.
    let mut raw = Raw::connect(mock.addr());
    raw.send(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00");
    let mut alert = Vec::new();
    raw.stream.read_to_end(&mut alert).unwrap();
    assert_eq!(alert, [0x15, 3, 1, 0, 2, 2, 40]);
    let stats = mock.stop();
    assert_eq!((stats.refused, stats.tls_without_authority), (7, 1));
}

#[test]
fn an_upload_that_is_refused_can_read_why() {
    let mock = start(vec![get("/a", "x")]);
    let mut raw = Raw::connect(mock.addr());
    raw.send("POST /a HTTP/1.1\r\nContent-Length: 20000000\r\n\r\n");
    // Sent regardless, as most clients do.
    raw.send(vec![b'x'; 1 << 20]);
    raw.end();
    assert!(raw.read_all().starts_with("HTTP/1.1 413 "));
}

#[test]
fn slow_and_silent_clients_are_let_go() {
    let mock = start_with(
        vec![get("/a", "x")],
        &Options {
            limits: Limits {
                head_timeout: Duration::from_millis(150),
                body_timeout: Duration::from_millis(150),
                idle_timeout: Duration::from_millis(150),
                ..Limits::default()
            },
            ..options()
        },
    )
    .unwrap();
    let addr = mock.addr();
    // Nothing at all; a head that stops; a body that stops; nothing after an answer.
    assert_eq!(talk(addr, ""), "");
    assert!(talk(addr, "GET /a HTTP/1.1\r\nA:").starts_with("HTTP/1.1 408 "));
    let body = "POST /a HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc";
    assert!(talk(addr, body).starts_with("HTTP/1.1 408 "));
    assert!(talk(addr, "GET /a HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nx"));
    // A head that drips in faster than any pause limit, but never ends.
    let mut raw = Raw::connect(addr);
    let started = Instant::now();
    raw.send("GET /a HTTP/1.1\r\n");
    let mut writer = raw.stream.try_clone().unwrap();
    let dripper = std::thread::spawn(move || {
        while writer.write_all(b"A").is_ok() && started.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert!(raw.read_until("\r\n\r\n").starts_with("HTTP/1.1 408 "));
    drop(raw);
    assert!(started.elapsed() < Duration::from_secs(5));
    dripper.join().unwrap();
    assert_eq!(mock.stop().timeouts, 5);
}

#[test]
fn a_client_that_reads_nothing_is_let_go() {
    let mock = start_with(
        vec![get("/big", &"x".repeat(32 << 20))],
        &Options {
            limits: Limits {
                connections: 1,
                write_timeout: Duration::from_millis(100),
                ..Limits::default()
            },
            ..options()
        },
    )
    .unwrap();
    let mut deaf = Raw::connect(mock.addr());
    deaf.send("GET /big HTTP/1.1\r\n\r\n");
    // Its place is free when it is let go; until then, others are told that there is none.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut other = Raw::connect(mock.addr());
        other.send("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        // A refused connection may be reset.
        let _partial = other.stream.read_to_end(&mut answer);
        if answer.starts_with(b"HTTP/1.1 501 ") {
            break;
        }
        assert!(Instant::now() < deadline, "the place is never free");
    }
    drop(deaf);
    assert!(mock.stop().connections_refused > 0);
}

#[test]
fn large_bodies_share_a_bound_of_memory() {
    let mock = start_with(
        vec![get("/a", "x")],
        &Options {
            limits: Limits {
                request_memory: 1 << 20,
                ..Limits::default()
            },
            ..options()
        },
    )
    .unwrap();
    let mut raw = Raw::connect(mock.addr());
    raw.send("POST /a HTTP/1.1\r\nContent-Length: 8000000\r\n\r\n");
    raw.send(vec![b'x'; 2 << 20]);
    raw.end();
    assert!(raw.read_all().starts_with("HTTP/1.1 503 "));
    assert_eq!(mock.stop().overloads, 1);
}

#[test]
fn recorded_times_are_kept_times_a_factor() {
    let ms = Duration::from_millis;
    let slow = Tape {
        fields: &[("Transfer-Encoding", "chunked")],
        timing: Timing {
            first_byte: ms(50),
            arrivals: vec![(3, ms(50))],
        },
        ..get("/slow", "onetwo")
    };
    let start = |latency| {
        start_with(
            vec![slow.clone()],
            &Options {
                latency,
                ..options()
            },
        )
        .unwrap()
    };
    let request = "GET /slow HTTP/1.1\r\n\r\n";
    let timed = |latency| {
        let mock = start(latency);
        let mut raw = Raw::connect(mock.addr());
        let asked = Instant::now();
        raw.send(request);
        let head = raw.read_until("\r\n\r\n");
        let first = asked.elapsed();
        let body = raw.read_until("0\r\n\r\n");
        (head + &body, first, asked.elapsed())
    };
    let (text, first, all) = timed(Latency::Recorded { factor: 2.0 });
    assert!(
        text.ends_with("\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
        "{text}"
    );
    assert!(first >= ms(100), "{first:?}");
    assert!(all >= ms(200), "{all:?}");
    let (text, _, all) = timed(Latency::Recorded { factor: 0.1 });
    assert!(
        text.ends_with("3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
        "{text}"
    );
    assert!(all >= ms(10), "{all:?}");
    for none in [
        Latency::None,
        Latency::Recorded { factor: 0.0 },
        Latency::Recorded { factor: f64::NAN },
    ] {
        let (text, _, _) = timed(none);
        assert!(text.ends_with("\r\n\r\n6\r\nonetwo\r\n0\r\n\r\n"), "{text}");
    }
}

#[test]
fn an_answer_that_cannot_be_read_is_told_and_counted() {
    let unreadable = Tape {
        status: 99,
        ..get("/bad", "x")
    };
    let mock = start(vec![unreadable, get("/a", "x")]);
    let mut raw = Raw::connect(mock.addr());
    raw.send("GET /bad HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\nConnection: close\r\n\r\n");
    let answers = raw.read_all();
    assert!(answers.starts_with("HTTP/1.1 500 "), "{answers}");
    assert!(answers.contains("tapedeck verify"), "{answers}");
    assert!(answers.ends_with("\r\n\r\nx"), "{answers}");
    assert_eq!(mock.stop().unreadable, 1);
}

#[test]
fn large_answers_wait_for_memory_and_get_it() {
    let big = "x".repeat(16 << 20);
    let mock = start_with(
        vec![get("/big", &big)],
        &Options {
            limits: Limits {
                answer_memory: 1 << 20,
                write_timeout: Duration::from_millis(200),
                ..Limits::default()
            },
            ..options()
        },
    )
    .unwrap();
    // Holds all of the memory until it is let go.
    let mut deaf = Raw::connect(mock.addr());
    deaf.send("GET /big HTTP/1.1\r\n\r\n");
    deaf.read_until("HTTP/1.1 200 ");
    let answer = talk(
        mock.addr(),
        "GET /big HTTP/1.1\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.ends_with(&big));
    assert_eq!(mock.stop().hits, 2);
}

#[test]
fn a_head_that_was_not_recorded_is_answered_by_the_recorded_get() {
    let with_trailers = Tape {
        trailers: &[("X-Sum", "7")],
        ..get("/t", "chunky")
    };
    let tapes = vec![get("/a", "first"), get("/a", "second"), with_trailers];
    let faults = "faults: [{name: late, latency: {fixed: 1ms}, probability: 0.5}]";
    for chaos in [None, Some(Chaos::parse(faults).unwrap())] {
        let options = Options { chaos, ..options() };
        let mock = start_with(tapes.clone(), &options).unwrap();
        let ask = |method: &str, target: &str| {
            let request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n\r\n");
            talk(mock.addr(), request)
        };
        let head = format!("{CASE}Content-Length: 5\r\nConnection: close\r\n\r\n");
        assert_eq!(ask("HEAD", "/a"), head);
        // Looking moves nothing on.
        assert_eq!(ask("GET", "/a"), format!("{head}first"));
        let chunked = ask("HEAD", "/t");
        assert!(chunked.ends_with("Connection: close\r\n\r\n"), "{chunked}");
        let got = http2::with_client(&mock, async |client| {
            let request = http2::request("HEAD", "/t");
            http2::ask(&client, request, None).await.unwrap()
        });
        assert_eq!((got.head.status().as_u16(), got.body.len()), (200, 0));
        assert!(got.trailers.is_none());
        assert!(ask("HEAD", "/nowhere").starts_with("HTTP/1.1 501 "));
        assert_eq!(mock.stop().misses, 1);
    }
}
