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
use std::process::{Child, Command};
use std::time::Duration;

use common::{Tapedeck, temp_folder};
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
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &pid])
                .status()
                .unwrap()
                .success()
        );
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
