//! Whom `tapedeck replay` reaches, and what it says before it sends when this machine cannot: names with several
//! addresses, names that move, too few descriptors and ports; a real gRPC server; a run that goes on for long.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Tapedeck, cases, has, input_of, temp_folder};
use tapedeck_testkit::{Conversation, pcap_of};

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
    let (pcap, tape) = (folder.join("in.pcap"), folder.join("in.tape"));
    fs::write(&pcap, pcap_of(&talk.segments)).unwrap();
    let tape = tape.to_str().unwrap().to_owned();
    Tapedeck::new(["import", pcap.to_str().unwrap(), "-o", &tape]).succeeds();
    tape
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
    let folder = temp_folder();
    let tape = tape(folder.path());
    let (port, listeners) = two_addresses();
    let seen = listeners.map(|listener| serve(listener, "shop.test:"));
    let target = format!("http://shop.test:{port}");
    // Nobody is at the third: whoever comes to it goes on to the next.
    let resolve = format!("shop.test:{port}:127.0.0.1,127.0.0.2,127.0.0.3");
    let args = ["replay", &tape, "--target", &target, "--resolve", &resolve];
    let args = args
        .into_iter()
        .chain(["--vus", "12", "--iterations", "120", "--single"]);
    Tapedeck::new(args).succeeds();
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

/// The program sees a hosts file of its own.
#[test]
fn a_target_that_moves_while_the_run_lasts_is_followed() {
    if cannot_unshare("-m") {
        return;
    }
    let folder = temp_folder();
    let tape = tape(folder.path());
    let (port, listeners) = two_addresses();
    let [before, behind] = listeners.map(|listener| serve(listener, "moves.test:"));
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
        .arg(format!("http://moves.test:{port}"))
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
    Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
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
    Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    // Pages that were reserved and are touched for the first time: of histograms, and of stacks.
    assert!(late < early + 1024, "{early} KiB, and {late} KiB later");
}

const GRPC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/grpc");

/// Says what it was asked, a line each; answers every call with two messages, a trailer of its own and its status.
const GRPC_SERVER: &str = r#"
import sys
from concurrent import futures
import grpc

class Any(grpc.GenericRpcHandler):
    def service(self, details):
        def answer(requests, context):
            asked = b"|".join(requests).hex()
            print("asked", details.method, asked, flush=True)
            yield b"one"
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
        "--summary",
        summary.to_str().unwrap(),
    ];
    Tapedeck::new(args).succeeds();
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
}
