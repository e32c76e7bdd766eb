//! What the tests of the program share.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod cluster;
pub(crate) mod har;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tapedeck_testkit::{Conversation, pcap_of};

/// The folder of the golden captures.
pub(crate) fn pcaps() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/pcaps"))
}

/// The folders of all golden captures, in order.
pub(crate) fn cases() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(pcaps()).expect("testdata/pcaps is there");
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a folder that can be read").path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

/// The capture of a case.
pub(crate) fn input_of(case: &Path) -> PathBuf {
    let entries = std::fs::read_dir(case).expect("the folder of a case");
    let mut inputs = entries
        .map(|entry| entry.expect("a folder that can be read").path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("input.pcap")
        });
    match (inputs.next(), inputs.next()) {
        (Some(input), None) => input,
        _ => panic!("{} must hold one input.pcap*", case.display()),
    }
}

/// Does to a program what ctrl-c does.
pub(crate) fn interrupt(child: &Child) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status();
    assert!(sent.expect("kill").success());
}

/// The archive of a conversation, in that folder.
pub(crate) fn tape_of(folder: &Path, talk: &Conversation) -> String {
    let (pcap, tape) = (folder.join("in.pcap"), folder.join("in.tape"));
    std::fs::write(&pcap, pcap_of(&talk.segments)).expect("a folder that can be written to");
    let tape = tape.to_str().expect("a name in Unicode").to_owned();
    Tapedeck::new(["import", pcap.to_str().expect("as above"), "-o", &tape]).succeeds();
    tape
}

pub(crate) fn temp_folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for temporary files")
}

/// Whether that program is installed. Without it a test is skipped, unless
/// `TAPEDECK_REQUIRE_TOOLS` is 1.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("-v").output().is_ok();
    if !found {
        let required = std::env::var_os("TAPEDECK_REQUIRE_TOOLS").is_some_and(|one| one == "1");
        assert!(!required, "{program} is not installed");
        #[expect(clippy::print_stdout, reason = "a test says why it is skipped")]
        {
            println!("skipped: {program} is not installed");
        }
    }
    found
}

/// A run of the real program.
pub(crate) struct Tapedeck {
    command: Command,
    line: String,
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Tapedeck {
    pub(crate) fn new<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tapedeck"));
        command.args(args).stdin(Stdio::null());
        let line = format!("{command:?}");
        Self { command, line }
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn input(mut self, file: std::fs::File) -> Self {
        self.command.stdin(file);
        self
    }

    /// Runs it to its end. Whatever happens, it must not panic, and must use the exit codes that
    /// its help names.
    pub(crate) fn run(mut self) -> Ran {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command.output().expect("tapedeck starts");
        let ran = Ran {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        };
        assert!(
            !ran.stderr.contains("panicked"),
            "{}: {}",
            self.line,
            ran.stderr
        );
        assert!([0, 1, 2, 99].contains(&ran.code), "{}: {status}", self.line);
        ran
    }

    #[track_caller]
    pub(crate) fn succeeds(self) -> Ran {
        let line = self.line.clone();
        let ran = self.run();
        assert_eq!(ran.code, 0, "{line}: {}", ran.stderr);
        ran
    }

    /// Runs it, expects that exit code, and that standard error holds each of the texts.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, says: &[&str]) -> Ran {
        let line = self.line.clone();
        let ran = self.run();
        assert_eq!(ran.code, code, "{line}: {}", ran.stderr);
        for text in says {
            assert!(
                ran.stderr.contains(text),
                "{line} does not say {text:?}: {}",
                ran.stderr
            );
        }
        ran
    }

    pub(crate) fn spawn(mut self) -> Child {
        self.command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tapedeck starts")
    }
}

impl Ran {
    /// Standard output as JSON, one object a line.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}

/// Whether live capture cannot be tested here; then the reason is printed. CI has the privileges,
/// and says so with `TAPEDECK_REQUIRE_PRIVILEGES`: there the test must run.
pub(crate) fn cannot_capture() -> bool {
    let required = std::env::var_os("TAPEDECK_REQUIRE_PRIVILEGES").is_some();
    let id = Command::new("id").arg("-u").output();
    let root = id.is_ok_and(|id| id.stdout.trim_ascii() == b"0");
    let cannot = !required && !root;
    if cannot {
        #[expect(clippy::print_stdout, reason = "xtask counts these lines")]
        {
            println!("skipped: live capture needs root (docs/privileges.md)");
        }
    }
    cannot
}
