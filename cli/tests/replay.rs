//! `tapedeck replay` and its thresholds: exit codes, the report, the summary.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use common::{Ran, Tapedeck, interrupt, temp_folder};
use serde_json::Value;
use tapedeck_testkit::{Conversation, pcap_of};

/// Answers every request without a body; `/pay/...` with 500.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut pay = false;
                for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                    pay |= line.contains(" /pay/");
                    if line.is_empty() {
                        let status = if pay { "500 Oops" } else { "200 OK" };
                        pay = false;
                        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                        if (&stream).write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

struct Bench {
    folder: tempfile::TempDir,
    target: String,
}

impl Bench {
    /// Four users are read, one pays.
    fn new() -> Self {
        let bench = Self {
            folder: temp_folder(),
            target: format!("http://{}", server()),
        };
        let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
        talk.handshake();
        for path in ["/users/1", "/users/2", "/users/3", "/users/4", "/pay/1"] {
            talk.client(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n").as_bytes());
            talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
        talk.close();
        let pcap = bench.path("in.pcap");
        fs::write(&pcap, pcap_of(&talk.segments)).unwrap();
        let (pcap, tape) = (pcap.to_str().unwrap(), bench.path("in.tape"));
        Tapedeck::new(["import", pcap, "-o", tape.to_str().unwrap()]).succeeds();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn replay(&self, thresholds: &[&str]) -> Ran {
        let (tape, summary) = (self.path("in.tape"), self.path("summary.json"));
        let mut args = vec!["replay", tape.to_str().unwrap(), "--target", &self.target];
        args.extend(["--speed", "max", "--summary", summary.to_str().unwrap()]);
        for threshold in thresholds {
            args.extend(["--threshold", threshold]);
        }
        Tapedeck::new(args).run()
    }

    fn summary(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("summary.json")).unwrap()).unwrap()
    }
}

#[test]
fn thresholds_that_hold_leave_the_exit_code_alone() {
    let bench = Bench::new();
    let ran = bench.replay(&[
        "http_req_duration{endpoint:/users/{id}}: p(95)<60000",
        "http_reqs: count==5",
        "http_req_failed: rate<=0.2",
    ]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(
        ran.stdout.contains("✓ 'count==5' count=5"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("GET /pay/{id}"), "{}", ran.stdout);
    let summary = bench.summary();
    assert_eq!(
        summary["metrics"]["http_reqs"]["thresholds"]["count==5"]["ok"],
        true
    );
    assert_eq!(
        summary["tapedeck"]["endpoints"][0]["endpoint"],
        "GET /users/{id}"
    );
}

#[test]
fn a_failed_threshold_is_exit_code_99_and_the_summary_is_written() {
    let bench = Bench::new();
    let ran = bench.replay(&["http_reqs: count>1", "http_req_failed: rate<0.1"]);
    assert_eq!(ran.code, 99, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("✗ 'rate<0.1' rate=0.2"),
        "{}",
        ran.stdout
    );
    let summary = bench.summary();
    let failed = &summary["metrics"]["http_req_failed"]["thresholds"];
    assert_eq!(failed["rate<0.1"]["ok"], false);

    let ran = bench.replay(&["http_req_duration{endpoint:/nowhere}: p(95)<500"]);
    assert_eq!(ran.code, 99, "{}", ran.stderr);
    assert!(ran.stdout.contains("no samples"), "{}", ran.stdout);
}

#[test]
fn the_summaries_of_two_runs_add_up_to_that_of_one() {
    let bench = Bench::new();
    let (tape, sum) = (bench.path("in.tape"), bench.path("sum.json"));
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let run = |filter: &str, name: &str| {
        let summary = bench.path(name);
        let (tape, summary_text) = (text(&tape), text(&summary));
        let mut args = vec!["replay", &tape, "--target", &bench.target, "--speed", "max"];
        args.extend(["--summary", &summary_text, "--filter", filter]);
        args.extend(["--threshold", "http_req_failed: rate<0.5"]);
        args.extend(["--threshold", "http_reqs{endpoint:/users/{id}}: count==4"]);
        args.extend(["--threshold", "http_req_duration: p(95)<60000; over 1s"]);
        (Tapedeck::new(args).run().code, text(&summary))
    };
    // One of them has no users, the other nothing but failures: each fails a threshold.
    let (users, a) = run("request.path.startsWith('/users')", "a.json");
    let (pay, b) = run("request.path.startsWith('/pay')", "b.json");
    assert_eq!((users, pay), (0, 99));
    let sum_text = text(&sum);
    let merged = Tapedeck::new(["summary", "merge", &a, &b, "-o", &sum_text]).run();
    assert_eq!(merged.code, 0, "{}{}", merged.stdout, merged.stderr);
    assert!(
        merged.stdout.contains("✓ 'count==4' count=4"),
        "{}",
        merged.stdout
    );
    let json: Value = serde_json::from_slice(&fs::read(&sum).unwrap()).unwrap();
    let metrics = &json["metrics"];
    assert_eq!(metrics["http_reqs"]["values"]["count"], 5.0);
    assert_eq!(metrics["http_req_failed"]["values"]["rate"], 0.2);
    assert_eq!(metrics["http_req_duration"]["values"]["count"], 5.0);
    assert_eq!(
        json["tapedeck"]["statuses"],
        serde_json::json!({"200": 4, "500": 1})
    );
    // A sum adds up like any other, and a threshold of it can fail.
    let again = Tapedeck::new(["summary", "merge", &sum_text, &a]).run();
    assert_eq!(again.code, 99, "{}{}", again.stdout, again.stderr);
    assert!(
        again.stdout.contains("✗ 'count==4' count=8"),
        "{}",
        again.stdout
    );
    let ran = Tapedeck::new(["summary", "merge", &a, &text(&tape)]).run();
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("failed to read the summary"),
        "{}",
        ran.stderr
    );
}

#[test]
fn every_second_of_a_run_is_a_line_of_the_series() {
    let bench = Bench::new();
    let tape = bench.path("in.tape");
    for (name, first) in [
        ("series.csv", "second,sent,"),
        ("series.jsonl", "{\"second\":0,"),
    ] {
        let series = bench.path(name);
        let args = ["replay", tape.to_str().unwrap(), "--target", &bench.target];
        let load = ["--rate", "20/s", "--duration", "2s", "--single", "--series"];
        let args = args.iter().chain(&load).copied();
        Tapedeck::new(args.chain([series.to_str().unwrap()])).succeeds();
        let text = fs::read_to_string(&series).unwrap();
        assert!(text.starts_with(first), "{text}");
        let sent: u64 = text
            .lines()
            .filter_map(|line| match serde_json::from_str::<Value>(line) {
                Ok(row) => row["sent"].as_u64(),
                Err(_) => line.split(',').nth(1)?.parse().ok(),
            })
            .sum();
        assert_eq!(sent, 40, "{text}");
        assert!((2..5).contains(&(text.lines().count() - usize::from(name.ends_with("csv")))));
    }
}

/// The value of a metric on a Prometheus page.
fn metric(page: &str, name: &str) -> Option<f64> {
    let mut lines = page.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn a_run_is_scraped_while_it_lasts_and_the_target_is_observed() {
    let bench = Bench::new();
    let (tape, summary, series) = (
        bench.path("in.tape"),
        bench.path("summary.json"),
        bench.path("series.csv"),
    );
    // The target is this very process: its server answers on threads of it.
    let pid = std::process::id().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tapedeck"))
        .args(["replay", tape.to_str().unwrap(), "--target", &bench.target])
        .args(["--rate", "50/s", "--duration", "30s", "--single"])
        .args(["--metrics", "127.0.0.1:0", "--observe", &pid])
        .args(["--summary", summary.to_str().unwrap()])
        .args(["--series", series.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let address = line.strip_prefix("metrics on http://").expect(&line);
    let address = address.strip_suffix("/metrics").expect(&line);
    // Two seconds are over and in the page, and the target was looked at.
    let page = loop {
        let page = scrape(address);
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        // Before the first second is over, nothing is counted yet.
        let reqs = metric(&page, "k6_http_reqs_total").unwrap_or(0.0);
        if reqs > 60.0 && metric(&page, "tapedeck_target_cpu").is_some() {
            break page;
        }
    };
    assert!(
        metric(&page, "k6_http_req_duration_p99").unwrap() > 0.0,
        "{page}"
    );
    let failed = metric(&page, "k6_http_req_failed_rate").unwrap();
    assert!((failed - 0.2).abs() < 0.05, "one of five pays: {page}");
    assert!(
        metric(&page, "k6_data_received_total").unwrap() > 1000.0,
        "{page}"
    );
    assert!(
        metric(&page, "tapedeck_target_memory_bytes").unwrap() > 1e6,
        "{page}"
    );
    interrupt(&child);
    assert!(child.wait().unwrap().success());
    let summary: Value = serde_json::from_slice(&fs::read(&summary).unwrap()).unwrap();
    let target = &summary["tapedeck"]["target_use"][0];
    assert_eq!(target["what"], format!("process {pid}"));
    assert!(
        target["memory_max"].as_u64().unwrap() > 1_000_000,
        "{target}"
    );
    assert!(target["cpu_max"].as_f64().unwrap() > 0.0, "{target}");
    let series = fs::read_to_string(series).unwrap();
    let last = series.lines().last().unwrap();
    let memory: u64 = last.split(',').nth_back(2).unwrap().parse().expect(last);
    assert!(memory > 1_000_000, "{last}");
}

/// The page of a run, as Prometheus gets it.
fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

/// What is sent counts, also while nothing is answered; and nobody has measured a latency then.
#[test]
fn a_target_that_stalls_shows_in_what_is_scraped() {
    let bench = Bench::new();
    let tape = bench.path("in.tape");
    // Nobody accepts, and the kernel takes what is written.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_tapedeck"))
        .args(["replay", tape.to_str().unwrap(), "--target", &target])
        .args(["--rate", "20/s", "--duration", "60s", "--single"])
        .args(["--max-connections", "50", "--metrics", "127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let address = line.strip_prefix("metrics on http://").expect(&line);
    let address = address.strip_suffix("/metrics").expect(&line);
    let page = loop {
        let page = scrape(address);
        if metric(&page, "k6_http_reqs_total") >= Some(5.0) {
            break page;
        }
    };
    assert_eq!(metric(&page, "tapedeck_answered_total"), Some(0.0));
    for name in ["k6_http_req_duration_p99", "tapedeck_schedule_lag_max"] {
        assert_eq!(metric(&page, name), None, "{page}");
    }
    interrupt(&child);
    interrupt(&child);
    child.wait().unwrap();
}

/// Answers as Prometheus does: each time with a number that is larger by one, but to `broken`. Gives its address, and
/// what it was asked last.
fn prometheus() -> (SocketAddr, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(String::new()));
    let shared = Arc::clone(&asked);
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let line = lines.next().unwrap_or_default();
            // All of the request is read, so that closing does not reset the connection.
            let _ = lines.find(String::is_empty);
            let body = match line.contains("broken") {
                true => r#"{"status":"error","errorType":"bad_data","error":"parse error at 1:7"}"#
                    .to_owned(),
                false => format!(
                    r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{}},"value":[1.5,"{}.5"]}}]}}}}"#,
                    n + 1
                ),
            };
            *shared.lock().unwrap() = line;
            let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream
                .write_all((head + &body).as_bytes())
                .unwrap_or_default();
        }
    });
    (address, asked)
}

#[test]
fn prometheus_is_asked_about_the_target() {
    let bench = Bench::new();
    let path = |name: &str| bench.path(name).to_str().unwrap().to_owned();
    let (tape, summary, series) = (path("in.tape"), path("summary.json"), path("series.csv"));
    let (address, asked) = prometheus();
    let query = format!("http://{address}/api/v1/query?query=sum(up{{job=\"shop\"}}) + 1");
    let args = ["replay", &tape, "--target", &bench.target, "--rate", "20/s"];
    let load = ["--duration", "5s", "--single", "--observe-query", &query];
    let files = ["--summary", &summary, "--series", &series];
    let args = args.into_iter().chain(load).chain(files);
    let ran = Tapedeck::new(args).succeeds();
    assert_eq!(
        *asked.lock().unwrap(),
        "GET /api/v1/query?query=sum(up%7Bjob=%22shop%22%7D)%20%2B%201 HTTP/1.0"
    );
    assert!(ran.stdout.contains("min 1.5000, max "), "{}", ran.stdout);
    let summary: Value = serde_json::from_slice(&fs::read(&summary).unwrap()).unwrap();
    let said = &summary["tapedeck"]["target_queries"][0];
    assert_eq!((&said["query"], &said["min"]), (&query.into(), &1.5.into()));
    let count = said["count"].as_u64().unwrap();
    assert!(count >= 2, "{said}");
    assert_eq!(said["max"], count as f64 + 0.5);
    // And it is in a line of the series.
    let series = fs::read_to_string(series).unwrap();
    let number = |line: &str| line.rsplit(',').next()?.parse::<f64>().ok();
    assert!(
        series.lines().any(|line| number(line) >= Some(1.5)),
        "{series}"
    );

    let broken = format!("http://{address}/api/v1/query?query=broken(");
    for (query, code, says) in [
        (broken.as_str(), 1, "parse error at 1:7"),
        (
            "http://127.0.0.1:1/api/v1/query?query=up",
            1,
            "cannot observe http://127.0.0.1:1/",
        ),
        (
            "up",
            2,
            "expected http://HOST:PORT/api/v1/query?query=EXPRESSION",
        ),
    ] {
        let args = [
            "replay",
            &tape,
            "--target",
            &bench.target,
            "--observe-query",
            query,
        ];
        Tapedeck::new(args).fails(code, &[says]);
    }
}

#[test]
fn what_cannot_be_observed_is_said_before_anything_is_sent() {
    let bench = Bench::new();
    let tape = bench.path("in.tape");
    for (whom, code, said) in [
        ("4194305", 1, "cannot observe process 4194305: No such file"),
        ("/nowhere", 1, "cannot observe cgroup /nowhere"),
        (
            "nginx",
            2,
            "neither the number of a process nor the folder of a cgroup",
        ),
    ] {
        let args = ["replay", tape.to_str().unwrap(), "--target", &bench.target];
        let ran = Tapedeck::new(args.into_iter().chain(["--observe", whom])).run();
        assert_eq!(ran.code, code, "{}", ran.stderr);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
}

#[test]
fn a_terminal_shows_the_stage_the_rate_and_the_latency() {
    if !common::has("script") {
        return;
    }
    let bench = Bench::new();
    let tape = bench.path("in.tape");
    let line = format!(
        "{} replay {} --target {} --rate 10/s --stages 3s:50 --single",
        env!("CARGO_BIN_EXE_tapedeck"),
        tape.display(),
        bench.target
    );
    let ran = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "xterm")
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{shown}");
    for part in [
        "stage    default: from 10 iterations in 1s to 50 iterations in 1s",
        " in flight, ",
        "latency  p50 ",
        "errors   ",
        "lag p99 ",
        // And then the results.
        "Throughput",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

/// The log of a pipeline: a line every ten seconds, and nothing that only a terminal understands.
#[test]
fn where_nobody_watches_a_line_comes_now_and_then() {
    let bench = Bench::new();
    let tape = bench.path("in.tape");
    let args = ["replay", tape.to_str().unwrap(), "--target", &bench.target];
    let load = ["--rate", "10/s", "--duration", "12s", "--single"];
    let ran = Tapedeck::new(args.iter().chain(&load)).succeeds();
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let [line] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    // On a busy machine it is some other second.
    let (seconds, rest) = line.split_once("s of 12s: ").expect(line);
    assert!(seconds.parse::<u64>().expect(line) >= 10, "{line}");
    for part in ["/s, ", " in flight, 0 failed, ", " connections"] {
        assert!(rest.contains(part), "{part}: {line}");
    }
    let is_plain = |text: &str| text.chars().all(|c| c == '\n' || !c.is_control());
    assert!(is_plain(&ran.stderr), "{:?}", ran.stderr);
    assert!(is_plain(&ran.stdout), "{:?}", ran.stdout);
}

#[test]
fn no_result_is_written_over_what_is_read_or_over_another() {
    let bench = Bench::new();
    let (tape, link) = (bench.path("in.tape"), bench.path("link"));
    fs::hard_link(&tape, &link).unwrap();
    let before = fs::read(&tape).unwrap();
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let one = text(&bench.path("one.json"));
    let folder = text(&bench.folder.path().to_owned());
    let other = format!("{folder}/./one.json");
    for (archive, results) in [
        (text(&tape), vec!["--series".to_owned(), text(&tape)]),
        (text(&tape), vec!["--summary".to_owned(), text(&link)]),
        (folder.clone(), vec!["--series".to_owned(), text(&tape)]),
        (
            text(&tape),
            vec!["--series".to_owned(), one, "--summary".to_owned(), other],
        ),
    ] {
        let args = ["replay", &archive, "--target", &bench.target].map(str::to_owned);
        let ran = Tapedeck::new(args.into_iter().chain(results)).fails(2, &["would write over"]);
        assert_eq!(ran.stdout, "");
        assert!(fs::read(&tape).unwrap() == before, "the archive is whole");
    }
    assert!(!bench.path("one.json").exists());
}

#[test]
fn a_summary_that_cannot_be_written_is_said_before_anything_is_sent() {
    let bench = Bench::new();
    let tape = bench.path("in.tape");
    let args = ["replay", tape.to_str().unwrap(), "--target", &bench.target];
    let nowhere = bench.path("no/summary.json");
    let args = args
        .into_iter()
        .chain(["--summary", nowhere.to_str().unwrap()]);
    let ran = Tapedeck::new(args).fails(1, &["failed to write the summary"]);
    assert_eq!(ran.stdout, "");
}

#[test]
fn a_report_that_cannot_be_printed_loses_neither_the_summary_nor_the_exit_code() {
    let bench = Bench::new();
    let (tape, summary) = (bench.path("in.tape"), bench.path("summary.json"));
    let replay = |threshold| {
        drop(fs::remove_file(&summary));
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let status = Command::new(env!("CARGO_BIN_EXE_tapedeck"))
            .args(["replay", tape.to_str().unwrap(), "--target", &bench.target])
            .args(["--speed", "max", "--threshold", threshold])
            .args(["--summary", summary.to_str().unwrap()])
            .stdout(full.unwrap())
            .stderr(Stdio::null())
            .status();
        (status.unwrap().code(), bench.summary())
    };
    for (threshold, code) in [("http_reqs: count<1", 99), ("http_reqs: count>1", 1)] {
        let (found, summary) = replay(threshold);
        assert_eq!(found, Some(code), "{threshold}");
        assert_eq!(summary["metrics"]["http_reqs"]["values"]["count"], 5.0);
    }
}

#[test]
fn a_threshold_with_a_mistake_is_wrong_usage_and_says_where() {
    let bench = Bench::new();
    for (threshold, says) in [
        ("latency: p(95)<5", "http_req_duration"),
        (
            "http_req_failed: p(95)<5",
            "a rate has no p(95); it has rate",
        ),
        (
            "http_req_duration: p(95)<fast",
            "\n                           ^",
        ),
    ] {
        let ran = bench.replay(&[threshold]);
        assert_eq!(ran.code, 2, "{threshold}");
        assert!(ran.stderr.contains(says), "{threshold}: {}", ran.stderr);
    }
}

#[test]
fn a_dry_run_prints_the_schedule_and_sends_nothing() {
    let bench = Bench::new();
    let tape = bench.path("in.tape");
    let file = bench.path("load.yaml");
    let load = "
scenarios:
  rise: {executor: ramping-arrival-rate, preAllocatedVUs: 5, stages: [{duration: 10s, target: 20}]}
  loop: {executor: constant-vus, vus: 3, duration: 5s, startTime: 2s}
";
    fs::write(&file, load).unwrap();
    // Nobody listens there.
    let args = [
        "replay",
        tape.to_str().unwrap(),
        "--target",
        "http://127.0.0.1:1",
    ];
    let more = ["--scenario", file.to_str().unwrap(), "--dry-run"];
    let ran = Tapedeck::new(args.iter().chain(&more)).succeeds();
    for text in [
        "for 10s at the most; 5 exchanges are recorded, 0 left out\n",
        "Sessions by connection (found)",
        "  3 connections at once at the least, 8 at the most\n  8 VUs at once, without those that arrivals may add\n",
        "loop: 3 looping VUs for 5s (constant-vus), from 1 sessions of 5 exchanges, from 2s on\n    from 2s to 7s, \
         gracefulStop 30s; as many iterations as the target lets there be\n    3 VUs\n    3 connections at once at the \
         least, 3 at the most\n",
        "    from 0s to 10s, gracefulStop 30s; 100 iterations\n    5 VUs\n    0 connections at once at the least, 5 at the \
         most\n",
        "10s  20 iterations in 1s",
        "end: 100 iterations were due",
    ] {
        assert!(ran.stdout.contains(text), "{text}: {}", ran.stdout);
    }
    let ran = Tapedeck::new(args.iter().chain(&["--speed", "max", "--dry-run"])).succeeds();
    let says = "    from 0s on, as long as the target takes for all of it; 5 iterations\n";
    assert!(ran.stdout.contains(says), "{}", ran.stdout);
}

#[test]
fn a_mistake_in_a_scenario_is_wrong_usage_with_line_and_field() {
    let bench = Bench::new();
    let tape = bench.path("in.tape");
    let file = bench.path("load.yaml");
    let load = "scenarios:\n  peak:\n    executor: constant-vus\n    rate: 5\n";
    fs::write(&file, load).unwrap();
    let args = ["replay", tape.to_str().unwrap(), "--target", &bench.target];
    let run = |more: &[&str], says: &[&str]| {
        Tapedeck::new(args.iter().chain(more)).fails(2, says);
    };
    let file = file.to_str().unwrap();
    run(
        &["--scenario", file],
        &[
            "load.yaml",
            "line 4, column",
            "scenarios.peak.rate: constant-vus has no such field",
        ],
    );
    // What only a script feeds is no mistake, but nobody is to think that it held.
    let other = bench.path("other.json");
    let load = r#"{"vus": 1, "thresholds": {"checks": ["rate>0.9"], "http_reqs": ["count>0"]}}"#;
    fs::write(&other, load).unwrap();
    let ran = Tapedeck::new(args.iter().chain(&["--scenario", other.to_str().unwrap()])).succeeds();
    let says = "other.json: thresholds on checks are left out: a replay has no such values";
    assert!(ran.stderr.contains(says), "{}", ran.stderr);
    assert!(ran.stdout.contains("count>0"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("rate>0.9"), "{}", ran.stdout);
    run(
        &["--rate", "5/s"],
        &["--rate needs --duration, or --stages"],
    );
    run(
        &["--vus", "0", "--duration", "5s"],
        &["--vus: must be at least 1"],
    );
    run(
        &["--vus", "5", "--iterations", "4"],
        &["--iterations: 4 is less than the number of VUs, 5"],
    );
    run(
        &["--threshold", "http_reqs{zone:b}: count<1"],
        &["the tag \"zone\""],
    );
    run(&["--header", "Host: a"], &["follows from the request"]);
    run(
        &["--max-connections", "0"],
        &["expected a whole number of at least 1"],
    );
    run(&["--threads", "0"], &["0 is not in 1..=256"]);
    run(&["--threads", "257"], &["257 is not in 1..=256"]);
}

/// It is there, unlike one that refuses connections.
#[test]
fn a_target_that_speaks_no_tls_is_named_so() {
    let bench = Bench::new();
    let tape = bench.path("in.tape");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let https = format!("https://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        // Until the player has read that and closes: a reset would be faster than what was written.
        drop(stream.read_to_end(&mut Vec::new()));
    });
    let args = ["replay", tape.to_str().unwrap(), "--target", &https];
    let says = [
        "no TLS with https://127.0.0.1:",
        "does it speak plain http://?",
    ];
    Tapedeck::new(args).fails(1, &says);
    server.join().unwrap();
}

#[test]
fn flags_without_effect_are_wrong_usage() {
    let bench = Bench::new();
    let (tape, file) = (bench.path("in.tape"), bench.path("load.yaml"));
    fs::write(&file, "scenarios: {a: {executor: recorded, speed: max}}\n").unwrap();
    let (tape, file) = (tape.to_str().unwrap(), file.to_str().unwrap());
    let args = ["replay", tape, "--target", &bench.target];
    let users = "--vus, --iterations, --stages or --rate bring some";
    for (more, says) in [
        (
            &["--rate", "5/s", "--duration", "1s", "--vus", "3"][..],
            "--vus",
        ),
        (&["--single"], users),
        (&["--single", "--duration", "1s"], "--single is for users"),
        (&["--think", "none"], "--think is for users"),
        (
            &["--session-by", "connection"],
            "--session-by is for users that send sessions",
        ),
        (&["--vus", "1", "--single", "--think", "2x"], "--think"),
        (
            &["--vus", "1", "--single", "--session-by", "connection"],
            "--session-by",
        ),
        (&["--scenario", file, "--think", "2x"], "--think"),
        (&["--scenario", file, "--single"], "--single"),
        (
            &["--scenario", file, "--session-by", "connection"],
            "--session-by is for users",
        ),
        (
            &["--iterations", "18446744073709551615"],
            "--iterations: at most 1000000000000 are supported",
        ),
    ] {
        Tapedeck::new(args.iter().chain(more)).fails(2, &[says]);
    }
    let key = ["--vus", "1", "--session-by", "header:X-Nobody"];
    let says =
        "no request that users are to send has header:X-Nobody, which is to tell users apart";
    Tapedeck::new(args.iter().chain(&key)).fails(1, &[says]);
    let more = [
        "--vus",
        "1",
        "--think",
        "none",
        "--session-by",
        "connection",
    ];
    Tapedeck::new(args.iter().chain(&more)).succeeds();
}

#[test]
fn a_summary_may_go_to_standard_output_and_the_report_goes_beside_it() {
    let bench = Bench::new();
    let tape = bench.path("in.tape");
    let tape = tape.to_str().unwrap();
    let args = ["replay", tape, "--target", &bench.target, "--speed", "max"];
    let ran = Tapedeck::new(args.iter().chain(&["--summary", "-"])).succeeds();
    let summary: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(summary["metrics"]["http_reqs"]["values"]["count"], 5);
    assert!(
        ran.stderr.contains("Replay of 5 exchanges"),
        "{}",
        ran.stderr
    );
    let file = bench.path("summary.json");
    fs::write(&file, ran.stdout).unwrap();
    let file = file.to_str().unwrap();
    let ran = Tapedeck::new(["summary", "merge", file, file, "-o", "-"]).succeeds();
    let sum: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(sum["metrics"]["http_reqs"]["values"]["count"], 10);
    assert!(
        ran.stderr.contains("Replay of 10 exchanges"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_run_that_is_refused_leaves_no_results() {
    let bench = Bench::new();
    let (tape, made, kept) = (
        bench.path("in.tape"),
        bench.path("made.json"),
        bench.path("kept.json"),
    );
    fs::write(&kept, "of an earlier run").unwrap();
    // Nobody listens there.
    let tape = tape.to_str().unwrap();
    let args = ["replay", tape, "--target", "http://127.0.0.1:1"];
    for flag in ["--summary", "--series"] {
        for result in [&made, &kept] {
            let more = [flag, result.to_str().unwrap()];
            Tapedeck::new(args.iter().chain(&more)).fails(1, &["is the target running?"]);
        }
        assert!(!made.exists(), "{flag}");
        assert_eq!(fs::read_to_string(&kept).unwrap(), "of an earlier run");
    }
    // One that is not has its own alone.
    let args = ["replay", tape, "--target", &bench.target, "--speed", "max"];
    let more = ["--series", kept.to_str().unwrap()];
    Tapedeck::new(args.iter().chain(&more)).succeeds();
    let series = fs::read_to_string(&kept).unwrap();
    assert!(
        series.starts_with("{\"") && series.ends_with("}\n"),
        "{series}"
    );
}
