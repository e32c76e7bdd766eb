//! A server of S3's protocol: moto, of PyPI.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::Process;

/// Installed by `cargo xtask test`.
const MOTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/moto");

/// With a bucket `tapes`. None where it is not installed, which it says.
#[expect(
    clippy::print_stdout,
    reason = "the runner reads why a test was skipped"
)]
pub(crate) fn start() -> Option<Process> {
    if !Path::new(MOTO).exists() {
        println!("skipped: moto is not installed (cargo xtask test installs it)");
        return None;
    }
    let moto = Process::start(|port| {
        let mut python = Command::new("python3");
        python.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", port]);
        python.env("PYTHONPATH", fs::canonicalize(MOTO).unwrap());
        python
    });
    assert!(moto.ask("PUT /tapes", "").contains(" 200 "));
    Some(moto)
}
