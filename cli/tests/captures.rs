//! `tapedeck export pcap`: what comes out is read back by `tapedeck import` and by tshark.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Tapedeck, cases, input_of, pcaps, temp_folder};
use serde_json::Value;

#[test]
fn every_case_comes_back_as_it_was() {
    let mut wrong = Vec::new();
    for (number, case) in cases().into_iter().enumerate() {
        let folder = temp_folder();
        let first = import(folder.path(), "first", &input_of(&case));
        let before = without_tls(exchanges(&first));
        if before.is_empty() {
            continue;
        }
        let extension = ["pcapng", "pcap"][number % 2];
        let capture = export(folder.path(), &first, extension);
        let second = import(folder.path(), "second", &capture);
        let after = without_tls(exchanges(&second));
        if before != after {
            let differing = before.iter().zip(&after).find(|(a, b)| a != b);
            wrong.push(format!(
                "{} as {extension}: {} exchanges became {}\n  {differing:?}",
                case.display(),
                before.len(),
                after.len(),
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Cases that tshark reads without help, one of each kind.
const READ_BY_TSHARK: [&str; 9] = [
    "010-ipv6",
    "023-vlan",
    "024-h2-interleaved",
    "029-h2-reset",
    "031-h2c-upgrade",
    "035-websocket",
    "038-connect",
    "044-push",
    "055-events",
];

#[test]
fn tshark_reads_the_same_exchanges() {
    if no_tshark() {
        return;
    }
    let folder = temp_folder();
    for case in READ_BY_TSHARK {
        let first = import(folder.path(), case, &input_of(&pcaps().join(case)));
        let capture = export(folder.path(), &first, "pcapng");
        let oracle = Command::new("python3")
            .arg(pcaps().join("../oracle.py"))
            .arg("--capture")
            .arg(&capture)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&oracle.stderr);
        assert!(oracle.status.success(), "{case}: {told}");
        let keys = [
            "time",
            "client",
            "server",
            "protocol",
            "method",
            "scheme",
            "authority",
            "path",
            "status",
            "request_body_len",
            "response_body_len",
            "complete",
        ];
        let chosen = |line: &Value| {
            let pairs = keys.iter().map(|key| (*key).to_owned());
            Value::from_iter(pairs.map(|key| (key.clone(), line[&key].clone())))
        };
        let lines = String::from_utf8(oracle.stdout).unwrap();
        let read: Vec<Value> = lines
            .lines()
            .map(|line| chosen(&serde_json::from_str(line).unwrap()))
            .collect();
        // tshark does not look into tunnels to ports that it knows nothing of.
        let within = |line: &&Value| {
            case == "038-connect" && line["server"] == "127.0.0.1:3128" && line["method"] == "GET"
        };
        let exchanges = exchanges(&first);
        let listed = exchanges.iter().filter(|line| !within(line));
        let listed = listed.map(chosen).collect();
        assert_eq!(sorted(read), sorted(listed), "{case}");
    }
}

#[test]
fn tshark_finds_no_fault_with_the_packets() {
    if no_tshark() {
        return;
    }
    let folder = temp_folder();
    for (case, extension) in [("009-large-body", "pcap"), ("041-concert-h2", "pcapng")] {
        let first = import(folder.path(), case, &input_of(&pcaps().join(case)));
        let capture = export(folder.path(), &first, extension);
        let faults = "ip.checksum.status == 0 || tcp.checksum.status == 0 || \
                          tcp.analysis.flags && !tcp.analysis.reused_ports || \
                          _ws.malformed || frame.time_delta < 0 || tcp.len > 1440";
        let tshark = Command::new("tshark")
            .arg("-r")
            .arg(&capture)
            .args([
                "-o",
                "ip.check_checksum:TRUE",
                "-o",
                "tcp.check_checksum:TRUE",
            ])
            .args(["-Y", faults])
            .output()
            .unwrap();
        assert!(tshark.status.success(), "{tshark:?}");
        let found = String::from_utf8_lossy(&tshark.stdout);
        assert_eq!(found.lines().next(), None, "{case}");
    }
}

/// Streams whose servers pause between messages: each arrival is the time of a packet, to the
/// nanosecond, as tshark tells it.
#[test]
fn arrivals_are_the_times_of_packets() {
    if no_tshark() {
        return;
    }
    let folder = temp_folder();
    for (case, least) in [("055-events", 4), ("030-grpc", 1)] {
        let capture = input_of(&pcaps().join(case));
        let tshark = Command::new("tshark")
            .arg("-r")
            .arg(&capture)
            .args(["-T", "fields", "-e", "frame.time_epoch"])
            .output()
            .unwrap();
        let text = String::from_utf8(tshark.stdout).unwrap();
        let times: Vec<&str> = text.lines().collect();
        let tape = import(folder.path(), case, &capture);
        let mut arrivals = 0;
        for exchange in exchanges(&tape) {
            for side in ["request", "response"] {
                let body = &exchange[side]["body"];
                for arrival in body["arrivals"].as_array().into_iter().flatten() {
                    let at: jiff::Timestamp = arrival["at"].as_str().unwrap().parse().unwrap();
                    let seconds = at.as_second();
                    let epoch = format!("{seconds}.{:09}", at.subsec_nanosecond());
                    assert!(times.contains(&epoch.as_str()), "{case}: {epoch}");
                    arrivals += 1;
                }
            }
        }
        assert!(arrivals >= least, "{case}: {arrivals} arrivals");
    }
}

#[test]
fn a_capture_goes_through_a_pipe_and_says_whose_each_packet_is() {
    let folder = temp_folder();
    let first = import(
        folder.path(),
        "a",
        &input_of(&pcaps().join("001-keep-alive")),
    );
    let whole = fs::read(export(folder.path(), &first, "pcapng")).unwrap();
    let comment = b"exchange 0, request";
    assert!(whole.windows(comment.len()).any(|window| window == comment));
    for output in [&["-o", "-"][..], &[]] {
        let mut child = Tapedeck::new(
            ["export", "pcap", first.to_str().unwrap()]
                .iter()
                .chain(output),
        )
        .spawn();
        let mut piped = Vec::new();
        std::io::copy(child.stdout.as_mut().unwrap(), &mut piped).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(piped == whole, "a pipe gets what a file gets");
    }
}

#[test]
fn a_filter_chooses_what_is_exported() {
    let folder = temp_folder();
    let first = import(folder.path(), "a", &input_of(&pcaps().join("040-concert")));
    let capture = folder.path().join("some.pcapng");
    let filter = "response.status == 409";
    let export = ["export", "pcap", "--filter", filter].map(PathBuf::from);
    let files = [first.clone(), "-o".into(), capture.clone()];
    Tapedeck::new(export.iter().chain(&files)).succeeds();
    let second = import(folder.path(), "b", &capture);
    let chosen: Vec<Value> = exchanges(&first)
        .into_iter()
        .filter(|exchange| exchange["status"] == 409)
        .collect();
    assert!(!chosen.is_empty());
    let kept = |exchanges: Vec<Value>| {
        let lines = exchanges.into_iter().map(|mut exchange| {
            // Ordinals count what is there.
            exchange["stream"].take();
            exchange
        });
        sorted(lines.collect())
    };
    assert_eq!(kept(exchanges(&second)), kept(chosen));
}

fn no_tshark() -> bool {
    let required = std::env::var_os("TAPEDECK_REQUIRE_TOOLS").is_some_and(|one| one == "1");
    let is_there = Command::new("tshark").arg("--version").output().is_ok();
    let cannot = !required && !is_there;
    if cannot {
        #[expect(clippy::print_stdout, reason = "xtask counts these lines")]
        {
            println!("skipped: tshark is not installed");
        }
    }
    cannot
}

fn import(folder: &Path, name: &str, capture: &Path) -> PathBuf {
    let tape = folder.join(format!("{name}.tape"));
    let args = ["import".into(), capture.into(), "-o".into(), tape.clone()];
    Tapedeck::new::<PathBuf>(args).run();
    tape
}

fn export(folder: &Path, tape: &Path, extension: &str) -> PathBuf {
    let capture = folder.join(format!("capture.{extension}"));
    let args = [
        "export".into(),
        "pcap".into(),
        tape.into(),
        "-o".into(),
        capture.clone(),
    ];
    Tapedeck::new::<PathBuf>(args).succeeds();
    capture
}

/// Everything that an archive holds, but for what only says where it is, and for anomalies: they
/// are of the wire, and the wire is another.
fn exchanges(tape: &Path) -> Vec<Value> {
    let mut lines = Tapedeck::new(["export".as_ref(), "jsonl".as_ref(), tape.as_os_str()])
        .succeeds()
        .lines();
    for line in &mut lines {
        for key in ["id", "connection", "anomalies"] {
            line[key].take();
        }
    }
    lines
}

/// What was read within TLS is written as plain text: that it was, only the scheme tells.
fn without_tls(mut exchanges: Vec<Value>) -> Vec<Value> {
    for exchange in &mut exchanges {
        exchange["scheme"].take();
    }
    sorted(exchanges)
}

fn sorted(mut exchanges: Vec<Value>) -> Vec<Value> {
    exchanges.sort_by_cached_key(Value::to_string);
    exchanges
}
