//! The whole road, on real traffic: a service and its crowd are recorded from the wire, the
//! recording is replayed against a fresh instance, and served as a mock to the same crowd.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Tapedeck, interrupt, temp_folder};
use concert::booking::Options;
use concert::crowd::{Crowd, Report, Target, Version};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A booking service in a runtime of its own; ends with it.
struct Service {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Service {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let options = Options {
            seed: 7,
            ..Options::default()
        };
        runtime.spawn(concert::api::serve(
            listener,
            options,
            std::future::pending(),
        ));
        Self {
            address,
            _runtime: runtime,
        }
    }
}

fn crowd_visits(address: &str, version: Version) -> Report {
    let crowd = Crowd {
        users: 40,
        arrivals: Duration::from_millis(500),
        seed: 3,
        version,
        patience: Duration::from_secs(20),
    };
    Runtime::new().unwrap().block_on(async {
        crowd
            .visit(&Target::resolve(&format!("http://{address}")).await.unwrap())
            .await
    })
}

/// A `tapedeck` that runs until it is told to stop.
struct Running {
    child: Child,
}

impl Running {
    /// Starts it, and gives back what follows `mark` on the line where it first says that.
    fn start(command: Tapedeck, mark: &str, on_stderr: bool) -> (Self, String) {
        let mut child = command.spawn();
        let stream: Box<dyn std::io::Read + Send> = if on_stderr {
            Box::new(child.stderr.take().unwrap())
        } else {
            Box::new(child.stdout.take().unwrap())
        };
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let mut seen = Vec::new();
        let found = lines.by_ref().find_map(|line| {
            seen.push(line.clone());
            Some(line.split_once(mark)?.1.trim().to_owned())
        });
        // Whoever stops reading would block the program when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        let running = Self { child };
        (
            running,
            found.unwrap_or_else(|| panic!("it never said {mark:?}, but {seen:?}")),
        )
    }

    /// Ends it as ctrl-c would; it must end well.
    fn stop(mut self) {
        interrupt(&self.child);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn ls(tape: &Path) -> Vec<Value> {
    Tapedeck::new([
        "ls".as_ref(),
        tape.as_os_str(),
        "--format".as_ref(),
        "json".as_ref(),
    ])
    .succeeds()
    .lines()
}

/// Records a crowd with that backend; gives back the archive and what the crowd saw. `None` where
/// this machine does not let us capture, with the reason printed.
fn record(folder: &Path, backend: &str, version: Version) -> Option<(std::path::PathBuf, Report)> {
    let service = Service::start();
    let tape = folder.join(format!("{backend}.tape"));
    let port = service.address.port().to_string();
    let args = [
        "record",
        "--backend",
        backend,
        "--port",
        &port,
        "-o",
        tape.to_str().unwrap(),
    ];
    if common::cannot_capture() {
        return None;
    }
    let (recorder, _) = Running::start(Tapedeck::new(args), "recording", true);
    let seen = crowd_visits(&service.address.to_string(), version);
    assert!(seen.failures.is_empty(), "{seen:?}");
    recorder.stop();
    Some((tape, seen))
}

fn recorded_replayed_and_mocked(backend: &str, version: Version, target_scheme: &str) {
    let folder = temp_folder();
    let Some((tape, seen)) = record(folder.path(), backend, version) else {
        return;
    };

    // Every call is in the archive, whole, with the status that the crowd saw.
    Tapedeck::new(["verify".as_ref(), tape.as_os_str()]).succeeds();
    let listed = ls(&tape);
    assert_eq!(listed.len() as u64, seen.requests);
    assert!(
        listed.iter().all(|line| line["complete"] == true),
        "{listed:?}"
    );
    for (status, count) in &seen.by_status {
        let found = listed
            .iter()
            .filter(|line| line["status"] == *status)
            .count();
        assert_eq!(found as u64, *count, "{status}");
    }

    // A fresh instance is sent every call once.
    let fresh = Service::start();
    let target = format!("{target_scheme}://{}", fresh.address);
    let summary = folder.path().join("summary.json");
    let tape_text = tape.to_str().unwrap();
    Tapedeck::new([
        "replay",
        tape_text,
        "--target",
        &target,
        "--speed",
        "4x",
        "--summary",
        summary.to_str().unwrap(),
    ])
    .succeeds();
    let summary: Value = serde_json::from_slice(&std::fs::read(summary).unwrap()).unwrap();
    let metric =
        |name: &str, value: &str| summary["metrics"][name]["values"][value].as_f64().unwrap();
    assert_eq!(
        metric("http_reqs", "count"),
        seen.requests as f64,
        "{summary}"
    );
    assert!(metric("http_req_duration", "p(95)") > 0.0);

    // The mock gives the crowd the recorded answers.
    let (mock, url) = Running::start(
        Tapedeck::new(["mock", tape_text, "--listen", "127.0.0.1:0", "--strict"]),
        "listening on http://",
        false,
    );
    let mocked = crowd_visits(&url, version);
    mock.stop();
    assert_eq!(mocked.by_endpoint, seen.by_endpoint);
    assert_eq!(
        mocked.bodies_hash, seen.bodies_hash,
        "every body is the recorded one"
    );
}

#[test]
fn the_crowd_by_packet_sockets_over_http1() {
    recorded_replayed_and_mocked("af-packet", Version::Http1, "http");
}

#[test]
fn the_crowd_by_socket_hooks_over_http1() {
    recorded_replayed_and_mocked("ebpf", Version::Http1, "http");
}

#[test]
fn the_crowd_by_socket_hooks_over_http2() {
    recorded_replayed_and_mocked("ebpf", Version::Http2, "h2c");
}

/// `openssl s_server`, which answers every request with a page about its connection.
struct TlsServer {
    child: Child,
    port: String,
}

impl TlsServer {
    fn start(folder: &Path) -> Self {
        let (key, cert) = (folder.join("key.pem"), folder.join("cert.pem"));
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&cert)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut child = Command::new("openssl")
            .args(["s_server", "-www", "-accept", "127.0.0.1:0", "-cert"])
            .arg(&cert)
            .arg("-key")
            .arg(&key)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.strip_prefix("ACCEPT ")?.rsplit_once(':')?;
            Some(port.to_owned())
        });
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self {
            child,
            port: port.unwrap(),
        }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The log is empty when the recording begins, and curl, which ends as soon as it has its answer, writes
/// into it: no secret may come too late.
#[test]
fn tls_is_read_live_with_a_key_log_that_grows() {
    if !common::has("openssl") || !common::has("curl") || common::cannot_capture() {
        return;
    }
    for backend in ["af-packet", "ebpf"] {
        let folder = temp_folder();
        let server = TlsServer::start(folder.path());
        let (tape, log) = (folder.path().join("t.tape"), folder.path().join("keys.log"));
        std::fs::write(&log, "").unwrap();
        let command = Tapedeck::new([
            "record".as_ref(),
            "--backend".as_ref(),
            backend.as_ref(),
            "--port".as_ref(),
            server.port.as_ref(),
            "--keylog".as_ref(),
            log.as_os_str(),
            "-o".as_ref(),
            tape.as_os_str(),
        ]);
        let (recorder, _) = Running::start(command, "recording", true);
        let curl = |path: &str, more: &[&str]| {
            Command::new("curl")
                .env("SSLKEYLOGFILE", &log)
                .args(["-s", "-o", "/dev/null"])
                .args(more)
                .arg(format!("https://127.0.0.1:{}{path}", server.port))
                .status()
                .unwrap()
                .success()
        };
        for n in 0..5 {
            assert!(curl(&format!("/{n}"), &["-k", "--tlsv1.3"]));
            assert!(curl(&format!("/{n}"), &["-k", "--tls-max", "1.2"]));
        }
        assert!(!curl("/refused", &[]), "nobody vouches for the certificate");
        recorder.stop();

        let listed = ls(&tape);
        assert_eq!(listed.len(), 10, "{backend}: {listed:?}");
        for line in &listed {
            assert_eq!(
                (&line["status"], &line["scheme"]),
                (&200.into(), &"https".into())
            );
            assert_eq!(line["complete"], true, "{backend}: {line}");
        }
        // It said so within TLS, with the keys that it had just logged.
        let closed = Tapedeck::new([
            "ls".as_ref(),
            tape.as_os_str(),
            "--connections".as_ref(),
            "--format".as_ref(),
            "json".as_ref(),
        ]);
        let closed = closed.succeeds().lines();
        assert_eq!(closed.len(), 1, "{backend}: {closed:?}");
        assert_eq!(closed[0]["reason"], "handshake-failed");
        assert_eq!(closed[0]["alert_name"], "unknown_ca");
    }
}

#[test]
fn a_key_log_must_be_there_before_a_recording() {
    if common::cannot_capture() {
        return;
    }
    let folder = temp_folder();
    let tape = folder.path().join("t.tape");
    let missing = folder.path().join("missing.log");
    Tapedeck::new([
        "record".as_ref(),
        "--backend".as_ref(),
        "af-packet".as_ref(),
        "--keylog".as_ref(),
        missing.as_os_str(),
        "-o".as_ref(),
        tape.as_os_str(),
    ])
    .fails(1, &["failed to open key log", "missing.log", "touch"]);
}
