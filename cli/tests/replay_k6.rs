//! The same scenario file, the same server: the real k6 and `tapedeck replay` must do as many
//! iterations, and drop as many.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{Tapedeck, has, temp_folder};
use serde_json::{Value, json};
use tapedeck_testkit::{Conversation, pcap_of};

/// Installed by `cargo xtask test`.
const K6: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/k6/bin/k6");

fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || {
                for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    if line.is_empty() && (&stream).write_all(ok).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// All executors at once. An iteration takes 100 ms at least, so that their number is a matter of
/// the schedule and not of the machine.
fn scenarios() -> Value {
    let names = ["loop", "ramp", "each", "shared", "rate", "busy", "rising"];
    let mut thresholds = serde_json::Map::new();
    for name in names {
        for metric in ["iterations", "dropped_iterations"] {
            let series = format!("{metric}{{scenario:{name}}}");
            thresholds.insert(series, json!(["count>=0"]));
        }
    }
    json!({
        "minIterationDuration": "100ms",
        "scenarios": {
            "loop": {"executor": "constant-vus", "vus": 5, "duration": "2s", "gracefulStop": "5s"},
            "ramp": {"executor": "ramping-vus", "startVUs": 1, "stages": [
                {"duration": "1s", "target": 8}, {"duration": "500ms", "target": 8},
                {"duration": "500ms", "target": 0}]},
            "each": {"executor": "per-vu-iterations", "vus": 4, "iterations": 6, "startTime": "300ms"},
            "shared": {"executor": "shared-iterations", "vus": 3, "iterations": 17},
            "rate": {"executor": "constant-arrival-rate", "rate": 40, "duration": "2s",
                "preAllocatedVUs": 20, "maxVUs": 20},
            "busy": {"executor": "constant-arrival-rate", "rate": 3000, "timeUnit": "1m",
                "duration": "2s", "preAllocatedVUs": 1, "maxVUs": 2},
            "rising": {"executor": "ramping-arrival-rate", "startRate": 10, "preAllocatedVUs": 20,
                "stages": [{"duration": "1s", "target": 60}, {"duration": "1s", "target": 20}]},
        },
        "thresholds": thresholds,
    })
}

#[test]
fn the_real_k6_counts_the_same() {
    if !PathBuf::from(K6).exists() && !has(K6) {
        return;
    }
    let folder = temp_folder();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let target = format!("http://{}", server());
    fs::write(path("scenario.json"), scenarios().to_string()).unwrap();
    let script = "import http from 'k6/http';
        export const options = JSON.parse(open('./scenario.json'));
        export default function () { http.get(__ENV.TARGET + '/'); }";
    fs::write(path("script.js"), script).unwrap();
    let mut k6 = Command::new(K6)
        .args([
            "run",
            "-q",
            "--no-usage-report",
            "--summary-export",
            &path("k6.json"),
        ])
        .args(["-e", &format!("TARGET={target}"), &path("script.js")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.handshake();
    talk.client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    fs::write(path("in.pcap"), pcap_of(&talk.segments)).unwrap();
    Tapedeck::new(["import", &path("in.pcap"), "-o", &path("in.tape")]).succeeds();
    let (tape, file, summary) = (path("in.tape"), path("scenario.json"), path("ours.json"));
    let args = [
        "replay",
        &tape,
        "--target",
        &target,
        "--scenario",
        &file,
        "--summary",
        &summary,
    ];
    Tapedeck::new(args).succeeds();
    assert!(k6.wait().unwrap().success());

    let read = |name| serde_json::from_slice::<Value>(&fs::read(path(name)).unwrap()).unwrap();
    let (k6, ours) = (read("k6.json"), read("ours.json"));
    for (name, exact) in [
        ("loop", false),
        ("ramp", false),
        ("each", true),
        ("shared", true),
        ("rate", false),
        ("busy", false),
        ("rising", false),
    ] {
        for metric in ["iterations", "dropped_iterations"] {
            let series = format!("{metric}{{scenario:{name}}}");
            let theirs = k6["metrics"][&series]["count"].as_f64().unwrap_or(0.0);
            let mine = ours["metrics"][&series]["values"]["count"]
                .as_f64()
                .unwrap();
            // On a busy machine an iteration of 100 ms takes longer, for either of them.
            let within = if exact { 0.0 } else { 2.0 + 0.15 * theirs };
            assert!(
                (mine - theirs).abs() <= within,
                "{series}: k6 {theirs}, ours {mine}"
            );
        }
    }
}
