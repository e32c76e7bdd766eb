//! The two programs, as the demo runs them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Ends with the test, however that ends.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.0.kill());
    }
}

#[test]
fn the_service_prints_its_address_serves_the_crowd_and_stops_on_sigterm() {
    let service = Command::new(env!("CARGO_BIN_EXE_concert"))
        .args(["--listen", "127.0.0.1:0", "--seats", "5", "--seed", "1"])
        .stdout(Stdio::piped())
        .spawn();
    let mut service = Service(service.unwrap());
    let mut line = String::new();
    BufReader::new(service.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let url = line.trim().strip_prefix("listening on ").unwrap();

    let crowd = Command::new(env!("CARGO_BIN_EXE_concert-crowd"))
        .args([
            "--target",
            url,
            "--users",
            "10",
            "--seconds",
            "0.1",
            "--json",
        ])
        .output()
        .unwrap();
    assert!(crowd.status.success());
    let report: serde_json::Value = serde_json::from_slice(&crowd.stdout).unwrap();
    assert_eq!(report["by_endpoint"]["POST /auth/token"]["200"], 10);

    let stopped = Command::new("kill")
        .args(["-TERM", &service.0.id().to_string()])
        .status()
        .unwrap();
    assert!(stopped.success());
    assert!(service.0.wait().unwrap().success());
}

#[test]
fn a_crowd_without_a_service_fails() {
    let crowd = Command::new(env!("CARGO_BIN_EXE_concert-crowd"))
        .args([
            "--target",
            "http://127.0.0.1:1",
            "--users",
            "1",
            "--seconds",
            "0",
        ])
        .output()
        .unwrap();
    assert_eq!(crowd.status.code(), Some(1));
}
