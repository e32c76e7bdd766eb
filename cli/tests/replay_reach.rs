//! Whom `tapedeck replay` reaches, and what it says before it sends when this machine cannot: names with several
//! addresses, names that move, too few descriptors and ports; a real gRPC server; a run that goes on for long.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Tapedeck, cases, has, input_of, interrupt, tape_of, temp_folder};
use tapedeck_testkit::Conversation;

const TAPEDECK: &str = env!("CARGO_BIN_EXE_tapedeck");

/// What a server has seen.
#[derive(Clone, Default)]
struct Seen {
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Seen {
    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Waits until there were more connections, for as long as the program runs.
    fn wait_for(&self, connections: usize, child: &mut Child) {
        while self.connections() < connections {
            assert!(child.try_wait().unwrap().is_none(), "it ended before");
            std::thread::yield_now();
        }
    }
}

/// Answers every request without a body. One whose `Host` is not that is not answered.
fn serve(listener: TcpListener, host: &'static str) -> Seen {
    let seen = Seen::default();
    let shared = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, seen) = (stream.unwrap(), shared.clone());
            seen.connections.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let mut named = false;
                for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                    named |= line.starts_with(&format!("Host: {host}"));
                    if line.is_empty() {
                        seen.requests.fetch_add(1, Ordering::Relaxed);
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                        if !named || (&stream).write_all(answer).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    seen
}

/// The same over HTTP/2: frames are read as they come, and each HEADERS is answered with ":status: 200".
fn serve_http2(listener: TcpListener) -> Seen {
    let seen = Seen::default();
    let shared = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, seen) = (stream.unwrap(), shared.clone());
            seen.connections.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let mut preface = [0; 24];
                let greeted = stream.read_exact(&mut preface).is_ok()
                    && stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).is_ok();
                let mut head = [0; 9];
                while greeted && stream.read_exact(&mut head).is_ok() {
                    let [l0, l1, l2, kind, _, id @ ..] = head;
                    let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
                    if stream.read_exact(&mut payload).is_err() {
                        return;
                    }
                    if kind == 1 {
                        seen.requests.fetch_add(1, Ordering::Relaxed);
                        let answer = [&[0, 0, 1, 1, 5], &id[..], &[0x88]].concat();
                        if stream.write_all(&answer).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    seen
}

/// The same port at two addresses of loopback.
fn two_addresses() -> (u16, [TcpListener; 2]) {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind(("127.0.0.2", port)) {
            return (port, [first, second]);
        }
    }
}

/// An archive of some GETs.
fn tape(folder: &Path) -> String {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.handshake();
    for n in 0..20 {
        talk.client(format!("GET /users/{n} HTTP/1.1\r\nHost: shop\r\n\r\n").as_bytes());
        talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
    talk.close();
    tape_of(folder, &talk)
}

/// Whether namespaces can be made here; the reason is printed where not.
fn cannot_unshare(what: &str) -> bool {
    let made = Command::new("unshare").args([what, "true"]).output();
    let can = made.is_ok_and(|made| made.status.success());
    let required = std::env::var_os("TAPEDECK_REQUIRE_PRIVILEGES").is_some();
    assert!(can || !required, "no namespace can be made: unshare {what}");
    if !can {
        #[expect(clippy::print_stdout, reason = "a test says why it is skipped")]
        {
            println!("skipped: no namespace can be made here (unshare {what})");
        }
    }
    !can
}

#[test]
fn connections_are_spread_over_the_addresses_of_a_name() {
    check_spread("http", |listener| serve(listener, "shop.test:"));
}

#[test]
fn connections_over_http2_are_spread_as_well() {
    check_spread("h2c", serve_http2);
}

#[track_caller]
fn check_spread(scheme: &str, serve: fn(TcpListener) -> Seen) {
    let folder = temp_folder();
    let tape = tape(folder.path());
    let (port, listeners) = two_addresses();
    let seen = listeners.map(serve);
    let target = format!("{scheme}://shop.test:{port}");
    // Nobody is at the third: whoever comes to it goes on to the next.
    let resolve = format!("shop.test:{port}:127.0.0.1,127.0.0.2,127.0.0.3");
    // Each user has a connection, and its own requests to send on it.
    let scenario = folder.path().join("scenario.yaml");
    let text = "scenarios:\n  a: {executor: per-vu-iterations, vus: 12, iterations: 10, iteration: exchange}\n";
    fs::write(&scenario, text).unwrap();
    let args = ["replay", &tape, "--target", &target, "--resolve", &resolve];
    let scenario = ["--scenario", scenario.to_str().unwrap()];
    Tapedeck::new(args.into_iter().chain(scenario)).succeeds();
    let requests: usize = seen
        .iter()
        .map(|seen| seen.requests.load(Ordering::Relaxed))
        .sum();
    assert_eq!(requests, 120);
    for seen in seen {
        assert!(
            seen.connections() >= 3,
            "{} of 12 connections",
            seen.connections()
        );
    }

    let nonsense = [
        "replay",
        &tape,
        "--target",
        &target,
        "--resolve",
        "shop.test:127.0.0.1",
    ];
    Tapedeck::new(nonsense).fails(2, &["HOST:PORT:ADDRESS[,ADDRESS...]"]);
}

#[test]
fn a_target_that_moves_while_the_run_lasts_is_followed() {
    check_moving("http", |listener| serve(listener, "moves.test:"));
}

#[test]
fn a_target_that_moves_is_followed_over_http2_as_well() {
    check_moving("h2c", serve_http2);
}

/// The program sees a hosts file of its own.
#[track_caller]
fn check_moving(scheme: &str, serve: fn(TcpListener) -> Seen) {
    if cannot_unshare("-m") {
        return;
    }
    let folder = temp_folder();
    let tape = tape(folder.path());
    let (port, listeners) = two_addresses();
    let [before, behind] = listeners.map(serve);
    let hosts = folder.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 moves.test\n").unwrap();
    let scenario = folder.path().join("scenario.yaml");
    let text = "noConnectionReuse: true\nscenarios:\n  a: {executor: constant-vus, vus: 2, duration: 60s, gracefulStop: 1s}\n";
    fs::write(&scenario, text).unwrap();
    let script = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
    let mut child = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(&hosts)
        .args([TAPEDECK, "replay", &tape, "--target"])
        .arg(format!("{scheme}://moves.test:{port}"))
        .args(["--dns-ttl", "100ms", "--scenario"])
        .arg(&scenario)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    before.wait_for(10, &mut child);
    assert_eq!(behind.connections(), 0);
    fs::write(&hosts, "127.0.0.2 moves.test\n").unwrap();
    behind.wait_for(10, &mut child);
    interrupt(&child);
    assert!(child.wait().unwrap().success());
}

#[test]
fn too_few_descriptors_are_said_before_anything_is_sent() {
    let folder = temp_folder();
    let tape = tape(folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let seen = serve(listener, "127.0.0.1:");
    let script = "ulimit -n 100 && exec \"$@\"";
    let ran = Command::new("sh")
        .args([
            "-c", script, "sh", TAPEDECK, "replay", &tape, "--target", &target,
        ])
        .args(["--vus", "1000", "--duration", "60s"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(
        said.contains("about 1000 connections are needed at once, and this process may open 36"),
        "{said}"
    );
    assert!(said.contains("ulimit -n"), "{said}");
    assert_eq!(seen.connections(), 0);
}

/// Arrivals need no user that is not there, and may come to need all of them.
#[test]
fn descriptors_that_may_be_too_few_are_said_before_anything_is_sent() {
    let folder = temp_folder();
    let tape = tape(folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let _seen = serve(listener, "127.0.0.1:");
    let run = |limit: &str, more: &[&str]| {
        let script = format!("ulimit -n {limit} && exec \"$@\"");
        let ran = Command::new("sh")
            .args(["-c", &script, "sh", TAPEDECK, "replay", &tape])
            .args(["--target", &target, "--duration", "1s"])
            .args(more)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(0), "{said}");
        said
    };
    let says = "up to 50 connections may be needed at once if the target is slow, and this process may open 36: what \
                finds none is not sent; raise the limit (ulimit -n)";
    let arrivals = ["--rate", "50/s", "--single"];
    let said = run("100", &arrivals);
    assert!(said.contains(says), "{said}");
    assert!(run("100", &[&arrivals[..], &["--dry-run"]].concat()).contains(says));
    for (limit, more) in [
        ("200", &[][..]),
        ("100", &["--max-connections", "36"]),
        ("100", &["--connections", "9"]),
    ] {
        let said = run(limit, &[&arrivals[..], more].concat());
        assert!(!said.contains("may be needed"), "{said}");
    }
}

/// In a network of its own, with ten local ports.
#[test]
fn too_few_ports_are_said_before_anything_is_sent() {
    if cannot_unshare("-n") || !has("ip") {
        return;
    }
    let folder = temp_folder();
    let tape = tape(folder.path());
    // Its own mock is the target: nobody else is in that network. It may take its time to listen.
    let script =
        "ip link set lo up && echo 40000 40009 > /proc/sys/net/ipv4/ip_local_port_range || exit 9
        \"$1\" mock \"$2\" --listen 127.0.0.1:9000 > /dev/null 2>&1 &
        while :; do
          said=$(\"$1\" replay \"$2\" --target http://127.0.0.1:9000 --vus 1000 --duration 60s 2>&1)
          code=$?
          case $said in *refused*) ;; *) break ;; esac
          kill -0 $! || break
        done
        kill $!
        echo \"$said\"
        exit $code";
    let ran = Command::new("unshare")
        .args(["-n", "sh", "-c", script, "sh", TAPEDECK, &tape])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert_eq!(
        ran.status.code(),
        Some(1),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(
        said.contains("about 1000 connections are needed at once, and there are 10 local ports"),
        "{said}"
    );
    assert!(said.contains("ip_local_port_range"), "{said}");
}

/// What a run takes for itself does not grow while it lasts, whatever the number of requests.
#[test]
fn memory_is_flat() {
    let folder = temp_folder();
    let tape = tape(folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let seen = serve(listener, "127.0.0.1:");
    let mut child = Tapedeck::new([
        "replay",
        &tape,
        "--target",
        &target,
        "--vus",
        "8",
        "--iterations",
        "1000000",
        "--single",
    ])
    .spawn();
    let at = |requests: usize, child: &mut Child| {
        while seen.requests.load(Ordering::Relaxed) < requests {
            assert!(child.try_wait().unwrap().is_none(), "it ended before");
            std::thread::yield_now();
        }
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .unwrap();
        line.trim()
            .strip_suffix(" kB")
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let early = at(2_000, &mut child);
    let late = at(30_000, &mut child);
    interrupt(&child);
    assert!(child.wait_with_output().unwrap().status.success());
    // Pages that were reserved and are touched for the first time: of histograms, and of stacks.
    assert!(late < early + 1024, "{early} KiB, and {late} KiB later");
}

/// What the most was that a program had in memory, in KiB, if it lives.
fn most_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The answer is measured, and not kept.
#[test]
fn an_answer_of_a_gibibyte_takes_no_memory() {
    const LEN: usize = 1 << 30;
    let folder = temp_folder();
    let tape = tape(folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            if !matches!(stream.read(&mut request), Ok(1..)) {
                continue;
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n");
            let piece = vec![b'x'; 1 << 20];
            let mut sent = stream.write_all(head.as_bytes());
            for _ in 0..LEN / piece.len() {
                sent = sent.and_then(|()| stream.write_all(&piece));
            }
        }
    });
    let summary = folder.path().join("summary.json");
    let args = ["replay", &tape, "--target", &target, "--vus", "1"];
    let more = ["--iterations", "1", "--single", "--summary"];
    let args = args.into_iter().chain(more);
    let mut child = Tapedeck::new(args.chain([summary.to_str().unwrap()])).spawn();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most_memory(child.id()).unwrap_or(0).max(most);
        std::thread::yield_now();
    }
    assert!(child.wait().unwrap().success());
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(summary).unwrap()).unwrap();
    let received = &summary["metrics"]["data_received"]["values"]["count"];
    assert!(received.as_u64().unwrap() > LEN as u64, "{received}");
    assert!(0 < most && most < 256 << 10, "{most} KiB");
}

/// A target that never answers, and a word for each connection on which it was asked.
fn silent() -> (String, std::sync::mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let (asked, was_asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            if matches!(stream.read(&mut request), Ok(1..)) {
                asked.send(()).unwrap();
            }
            kept.push(stream);
        }
    });
    (target, was_asked)
}

/// The target never answers; the first signal awaits it, the second does not. The summary is written.
#[test]
fn a_second_signal_stops_at_once() {
    let folder = temp_folder();
    let tape = tape(folder.path());
    let (target, was_asked) = silent();
    let summary = folder.path().join("summary.json");
    let args = ["replay", &tape, "--target", &target, "--vus", "1"];
    let more = ["--duration", "10m", "--timeout", "10m", "--summary"];
    let args = args.into_iter().chain(more);
    let mut child = Tapedeck::new(args.chain([summary.to_str().unwrap()])).spawn();
    was_asked.recv().unwrap();
    interrupt(&child);
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = said.find(|line| line.as_ref().is_ok_and(|line| line.contains("stopping")));
    assert!(said.is_some());
    assert!(
        child.try_wait().unwrap().is_none(),
        "what is in flight may finish"
    );
    interrupt(&child);
    // Not one request was answered, so that there is no result.
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(summary).unwrap()).unwrap();
    let own = &summary["tapedeck"];
    assert_eq!(own["stopped_early"], true);
    assert_eq!(own["failures"]["unanswered"], 1, "{own}");
}

#[test]
fn as_many_threads_send_as_asked_for() {
    let folder = temp_folder();
    let tape = tape(folder.path());
    let (target, was_asked) = silent();
    let args = ["replay", &tape, "--target", &target, "--vus", "8"];
    let more = ["--duration", "10m", "--threads", "3"];
    let mut child = Tapedeck::new(args.into_iter().chain(more)).spawn();
    for _ in 0..8 {
        was_asked.recv().unwrap();
    }
    let threads = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let senders = threads.filter(|thread| {
        let name = thread.as_ref().unwrap().path().join("comm");
        fs::read_to_string(name).is_ok_and(|name| name.trim() == "player")
    });
    assert_eq!(senders.count(), 3);
    child.kill().unwrap();
    child.wait().unwrap();
}

const GRPC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/grpc");

/// Says what it was asked, a line each; answers every call with two messages, a trailer of its own and its status, but
/// the first with the status UNAVAILABLE alone, and the second with DATA_LOSS behind a message.
const GRPC_SERVER: &str = r#"
import itertools
from concurrent import futures
import grpc

calls = itertools.count()

class Any(grpc.GenericRpcHandler):
    def service(self, details):
        def answer(requests, context):
            asked = b"|".join(requests).hex()
            print("asked", details.method, asked, flush=True)
            n = next(calls)
            if n == 0:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
            yield b"one"
            if n == 1:
                context.abort(grpc.StatusCode.DATA_LOSS, "no more")
            yield b"two"
            context.set_trailing_metadata((("x-sum", "2"),))
        return grpc.stream_stream_rpc_method_handler(answer)

server = grpc.server(futures.ThreadPoolExecutor(8), handlers=(Any(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print("listening", port, flush=True)
server.wait_for_termination()
"#;

/// The recording is grpcio's own: calls with one message and with several.
#[test]
fn a_real_grpc_server_understands_what_is_played() {
    if !Path::new(GRPC).join("grpc").exists() {
        let required = std::env::var_os("TAPEDECK_REQUIRE_TOOLS").is_some_and(|one| one == "1");
        assert!(
            !required,
            "gRPC for Python is not there: cargo xtask test installs it"
        );
        println!("skipped: gRPC for Python is not there (cargo xtask test installs it)");
        return;
    }
    let folder = temp_folder();
    let tape = folder.path().join("grpc.tape");
    let tape = tape.to_str().unwrap();
    let case = cases()
        .into_iter()
        .find(|case| case.ends_with("030-grpc"))
        .unwrap();
    let capture = input_of(&case);
    Tapedeck::new(["import", capture.to_str().unwrap(), "-o", tape]).succeeds();
    let recorded = Tapedeck::new(["ls", tape, "--format", "json"])
        .succeeds()
        .lines()
        .len();

    let mut server = Command::new("python3")
        .args(["-c", GRPC_SERVER])
        .env("PYTHONPATH", GRPC)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let port = lines.next().unwrap();
    let port: u16 = port.strip_prefix("listening ").unwrap().parse().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let summary = folder.path().join("summary.json");
    let target = format!("h2c://{address}");
    let args = [
        "replay",
        tape,
        "--target",
        &target,
        "--speed",
        "max",
        "--threshold",
        "grpc_req_failed: rate==0",
        "--threshold",
        "grpc_req_duration: max>0",
        "--summary",
        summary.to_str().unwrap(),
    ];
    let ran = Tapedeck::new(args).fails(99, &["1 thresholds failed"]);
    assert!(ran.stdout.contains("UNAVAILABLE: 1"), "{}", ran.stdout);
    let asked: Vec<String> = lines.take(recorded).collect();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(
        asked.iter().all(|line| line.starts_with("asked /")),
        "{asked:?}"
    );
    // The server sees messages: those that the recorded bodies are made of, prefix and all, were understood.
    assert!(
        asked.iter().any(|line| line
            .split(' ')
            .nth(2)
            .is_some_and(|message| !message.is_empty())),
        "{asked:?}"
    );
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(summary).unwrap()).unwrap();
    assert_eq!(summary["tapedeck"]["requests"]["answered"], recorded);
    assert_eq!(
        summary["metrics"]["http_req_failed"]["values"]["rate"].as_f64(),
        Some(0.0)
    );
    let ended = serde_json::json!({ "OK": recorded - 2, "UNAVAILABLE": 1, "DATA_LOSS": 1 });
    assert_eq!(summary["tapedeck"]["grpc_statuses"], ended);
    assert_eq!(summary["metrics"]["grpc_req_failed"]["values"]["passes"], 2);
}
