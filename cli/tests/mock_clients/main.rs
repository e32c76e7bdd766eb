//! The mock and the clients of other people: those that the golden captures were recorded with, asking
//! again what they asked then, and others that ask for everything in some of them.
//!
//! A client that is not installed is left out with a message, unless `TAPEDECK_REQUIRE_TOOLS` is 1.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of these tests are tests"
)]

#[path = "../common/mod.rs"]
mod common;
mod golden;
mod questions;
mod trust;
mod turns;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Child;

use common::{Tapedeck, input_of, interrupt};
use serde_json::Value;

/// Where `cargo xtask test` puts modules of Python.
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools");

/// The secrets of a case's TLS connections.
const KEYS: &str = "keys.log";

struct Mock {
    child: Child,
    port: String,
}

impl Mock {
    /// `None`: nothing of the archive can be served.
    fn with(tape: &Path, more: &[&str]) -> Option<Self> {
        let mut args = vec!["mock", tape.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        args.extend(more);
        let mut child = Tapedeck::new(&args).spawn();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        if line.is_empty() {
            child.wait().unwrap();
            return None;
        }
        let port = line.trim().rsplit(':').next().unwrap().to_owned();
        Some(Self { child, port })
    }

    /// Ends it as ctrl-c would, and gives what it said.
    fn stop(mut self) -> String {
        interrupt(&self.child);
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        self.child.wait().unwrap();
        said
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        // Where a test failed before it was stopped.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn import(case: &Path, tape: &Path) {
    let (input, keys) = (input_of(case), case.join(KEYS));
    let mut args = vec![
        "import".as_ref(),
        input.as_os_str(),
        "-o".as_ref(),
        tape.as_os_str(),
    ];
    if keys.exists() {
        args.extend(["--keylog".as_ref(), keys.as_os_str()]);
    }
    Tapedeck::new(args).run();
}

/// The exchanges of an archive that are whole.
fn exchanges(tape: &Path) -> Vec<Value> {
    let ran = Tapedeck::new(["export".as_ref(), "jsonl".as_ref(), tape.as_os_str()]).succeeds();
    let lines = ran.stdout.lines();
    let all = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|exchange| exchange["complete"] == true && exchange["tunnel"] == false)
        .collect()
}

fn has_program(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Modules of Python that are installed beside it; empty where one that is needed is not.
fn python_path() -> Option<String> {
    let needed = [
        ("grpc", "grpc"),
        ("clients", "websockets"),
        ("clients", "httpx"),
    ];
    let missing = needed
        .iter()
        .find(|(folder, module)| !Path::new(TOOLS).join(folder).join(module).is_dir());
    if let Some((_, module)) = missing {
        let required = std::env::var_os("TAPEDECK_REQUIRE_TOOLS").is_some_and(|one| one == "1");
        assert!(!required, "{module} for Python is not installed");
        #[expect(clippy::print_stdout, reason = "a test says why it is skipped")]
        {
            println!("skipped: {module} for Python is not installed");
        }
        return None;
    }
    Some(format!("{TOOLS}/grpc:{TOOLS}/clients"))
}
