//! `tapedeck record` on real connections: what was there before, whose the ends are, and what the
//! program may still do while it records.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Tapedeck, cannot_capture, temp_folder};
use serde_json::Value;

/// The backends of this build.
fn backends() -> Vec<&'static str> {
    let mut backends = vec!["ebpf", "af-packet"];
    if cfg!(feature = "libpcap") {
        backends.push("libpcap");
    }
    backends
}

/// A server that answers every request on every connection.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(&stream));
        }
    });
    address
}

fn answer(mut stream: &TcpStream) {
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer).unwrap();
        }
    }
}

fn ask(mut stream: &TcpStream, path: &str) {
    let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 40];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer.ends_with(b"ok"));
}

/// A running `tapedeck record`.
struct Recording {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Recording {
    fn start(archive: &Path, backend: &str, port: u16) -> Self {
        Self::start_with(
            archive,
            &["--backend", backend, "--port", &port.to_string()],
        )
    }

    fn start_with(archive: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tapedeck"))
            .arg("record")
            .args(args)
            .arg("-o")
            .arg(archive)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.starts_with("recording "), "{line}");
        Self { child, stderr }
    }

    /// `CapPrm`, `CapEff` and `NoNewPrivs` of every thread.
    fn privileges(&self) -> Vec<[String; 3]> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        tasks
            .map(|task| {
                let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                ["CapPrm:", "CapEff:", "NoNewPrivs:"].map(|name| {
                    let line = status.lines().find(|line| line.starts_with(name));
                    line.unwrap()[name.len()..].trim().to_owned()
                })
            })
            .collect()
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }

    fn stop(self) -> String {
        self.stop_by("INT")
    }

    fn stop_by(mut self, signal: &str) -> String {
        self.signal(signal);
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        said
    }
}

/// The exchanges of an archive, by path.
fn exchanges(archive: &Path) -> Vec<Value> {
    let mut exchanges = Tapedeck::new(["export".as_ref(), "jsonl".as_ref(), archive.as_os_str()])
        .succeeds()
        .lines();
    exchanges.sort_by_key(|exchange| exchange["path"].to_string());
    exchanges
}

#[test]
fn what_was_there_before_says_so_and_what_came_later_does_not() {
    if cannot_capture() {
        return;
    }
    for backend in backends() {
        let folder = temp_folder();
        let archive = folder.path().join("live.tape");
        let server = serve();
        let before = TcpStream::connect(server).unwrap();
        ask(&before, "/unseen");
        let recording = Recording::start(&archive, backend, server.port());
        ask(&before, "/a");
        ask(&before, "/b");
        let later = TcpStream::connect(server).unwrap();
        ask(&later, "/c");
        drop((before, later));
        recording.stop();

        let exchanges = exchanges(&archive);
        let begun: Vec<_> = exchanges
            .iter()
            .map(|e| (e["path"].as_str().unwrap(), e["begun"].as_str().unwrap()))
            .collect();
        let expected = [
            ("/a", "predates-capture"),
            ("/b", "predates-capture"),
            ("/c", "handshake"),
        ];
        assert_eq!(begun, expected, "{backend}");
        let id = exchanges[0]["id"].to_string();
        let shown = Tapedeck::new(["show".as_ref(), archive.as_os_str(), id.as_ref()]).succeeds();
        assert!(
            shown.stdout.contains("(predates the capture)"),
            "{}",
            shown.stdout
        );
    }
}

/// A terminal that is closed hangs up; what else may come means nothing to a recording.
#[test]
fn signals_that_mean_nothing_end_nothing_and_the_others_seal() {
    if cannot_capture() {
        return;
    }
    let folder = temp_folder();
    let server = serve();
    for signal in ["HUP", "QUIT", "TERM"] {
        let archive = folder.path().join(signal);
        let recording = Recording::start(&archive, "af-packet", server.port());
        for nothing in ["USR1", "USR2", "ALRM"] {
            recording.signal(nothing);
        }
        ask(&TcpStream::connect(server).unwrap(), "/a");
        recording.stop_by(signal);
        assert_eq!(exchanges(&archive).len(), 1, "{signal}");
    }
}

/// The server's socket was there before the programs that note who opens one; both ends of the
/// connections are this process all the same.
#[test]
fn both_ends_are_named_whenever_their_sockets_were_opened() {
    if cannot_capture() {
        return;
    }
    let folder = temp_folder();
    let archive = folder.path().join("live.tape");
    let server = serve();
    let before = TcpStream::connect(server).unwrap();
    let recording = Recording::start(&archive, "ebpf", server.port());
    ask(&before, "/before");
    ask(&TcpStream::connect(server).unwrap(), "/later");
    recording.stop();
    let own = u64::from(std::process::id());
    let exchanges = exchanges(&archive);
    assert_eq!(exchanges.len(), 2);
    for exchange in &exchanges {
        for side in ["client_workload", "server_workload"] {
            let workload = &exchange[side];
            assert_eq!(
                workload["pid"].as_u64(),
                Some(own),
                "{side} of {exchange:#}"
            );
            assert!(workload["process"].is_string(), "{side} of {exchange:#}");
        }
    }
}

#[test]
fn while_it_records_no_thread_may_do_more_than_anybody() {
    if cannot_capture() {
        return;
    }
    const NONE: &str = "0000000000000000";
    for backend in backends() {
        let folder = temp_folder();
        let archive = folder.path().join("live.tape");
        let server = serve();
        let recording = Recording::start(&archive, backend, server.port());
        ask(&TcpStream::connect(server).unwrap(), "/");
        let privileges = recording.privileges();
        assert!(privileges.len() >= 2, "{privileges:?}");
        for thread in privileges {
            assert_eq!(thread, [NONE, NONE, "1"], "{backend}");
        }
        let said = recording.stop();
        assert!(
            said.contains("1 exchanges on 1 connections"),
            "{backend}: {said}"
        );
        assert_eq!(exchanges(&archive).len(), 1, "{backend}");
    }
}

/// Root writes into the folder of somebody else by a capability, which is then kept: else the
/// archive could not get its name in the end.
#[test]
fn what_writing_takes_is_kept() {
    const DAC_OVERRIDE: &str = "0000000000000002";
    if cannot_capture() {
        return;
    }
    let folder = temp_folder();
    let theirs = folder.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::chown(&theirs, Some(65_534), Some(65_534)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&theirs, mode).unwrap();
    let archive = theirs.join("live.tape");
    let server = serve();
    let recording = Recording::start(&archive, "ebpf", server.port());
    ask(&TcpStream::connect(server).unwrap(), "/");
    for thread in recording.privileges() {
        assert_eq!(thread, [DAC_OVERRIDE, DAC_OVERRIDE, "1"]);
    }
    recording.stop();
    assert_eq!(exchanges(&archive).len(), 1);
}

/// What is recorded never touches the disk in the clear, even if the recording is killed.
#[test]
fn a_recording_can_be_encrypted() {
    if cannot_capture() {
        return;
    }
    let folder = temp_folder();
    let path = |name: &str| folder.path().join(name).into_os_string();
    let key = [
        "key".into(),
        "encryption".into(),
        "-o".into(),
        path("key.txt"),
    ];
    let recipient = Tapedeck::new(key).succeeds().stdout;
    let server = serve();
    let port = server.port().to_string();
    let args = ["--encrypt-to", recipient.trim(), "--port", &port];
    let ask_for = |path: &str| {
        let client = TcpStream::connect(server).unwrap();
        ask(&client, path);
    };

    let archive = folder.path().join("live.tape");
    let recording = Recording::start_with(&archive, &args);
    ask_for("/a-secret-of-ours");
    recording.stop();
    assert!(!is_in_the_clear(folder.path(), "a-secret-of-ours"));
    Tapedeck::new(["ls".into(), path("live.tape")]).fails(1, &["--identity FILE"]);
    let identity = ["--identity".into(), path("key.txt")];
    let listed = Tapedeck::new(["ls".into(), path("live.tape")].into_iter().chain(identity));
    assert!(listed.succeeds().stdout.contains("/a-secret-of-ours"));

    let mut killed = Recording::start_with(&folder.path().join("killed.tape"), &args);
    ask_for("/another-secret");
    // Once its second is over there is something to find.
    let partial = tapedeck_archive::partial_path(&folder.path().join("killed.tape")).unwrap();
    let begun = fs::metadata(&partial).unwrap().len();
    let due = Instant::now() + Duration::from_secs(30);
    while fs::metadata(&partial).unwrap().len() == begun {
        assert!(Instant::now() < due, "nothing was written");
        thread::yield_now();
    }
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    assert!(!is_in_the_clear(folder.path(), "another-secret"));
}

/// Whether any file of the folder has this text in it.
fn is_in_the_clear(folder: &Path, text: &str) -> bool {
    let files = fs::read_dir(folder).unwrap();
    files
        .map(|file| fs::read(file.unwrap().path()).unwrap())
        .any(|bytes| {
            let mut windows = bytes.windows(text.len());
            windows.any(|window| window == text.as_bytes())
        })
}

/// One of two connections to one server, by the cookie of its client's socket.
#[test]
fn a_socket_can_be_chosen_by_its_cookie() {
    if cannot_capture() || !common::has("ss") {
        return;
    }
    let folder = temp_folder();
    let archive = folder.path().join("live.tape");
    let server = serve();
    let wanted = TcpStream::connect(server).unwrap();
    let other = TcpStream::connect(server).unwrap();
    let port = wanted.local_addr().unwrap().port();
    let listed = Command::new("ss")
        .args(["-Htne", "sport", "=", &port.to_string()])
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let cookie = listed
        .split_whitespace()
        .find(|word| word.starts_with("sk:"));
    let recording = Recording::start_with(&archive, &["--socket", cookie.unwrap()]);
    ask(&other, "/other");
    ask(&wanted, "/wanted");
    drop((wanted, other));
    recording.stop();
    let found: Vec<_> = exchanges(&archive)
        .iter()
        .map(|e| (e["path"].clone(), e["complete"].clone()))
        .collect();
    assert_eq!(found, [("/wanted".into(), true.into())]);
}

#[test]
fn a_filter_of_libpcap_is_followed_or_its_mistake_is_told() {
    if cannot_capture() {
        return;
    }
    let folder = temp_folder();
    let archive = folder.path().join("live.tape");
    let record = |filter: &str| {
        let args = [
            "record",
            "--duration",
            "1s",
            "--force",
            "--backend",
            "libpcap",
            "-o",
        ];
        let mut args: Vec<_> = args.map(str::to_owned).to_vec();
        args.extend([
            archive.display().to_string(),
            "--packet-filter".to_owned(),
            filter.to_owned(),
        ]);
        Tapedeck::new(args)
    };
    if !cfg!(feature = "libpcap") {
        record("tcp").fails(1, &["this build has no libpcap", "--features libpcap"]);
        return;
    }
    record("tcp prot 80").fails(1, &["\"tcp prot 80\"", "can't parse filter expression"]);
    assert!(!archive.exists());
    let (wanted, other) = (serve(), serve());
    let recording = record(&format!("dst port {0} or src port {0}", wanted.port())).spawn();
    // The recording says when it has begun, on standard error.
    let mut recording = recording;
    let mut line = String::new();
    let mut stderr = BufReader::new(recording.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("with libpcap"), "{line}");
    ask(&TcpStream::connect(other).unwrap(), "/other");
    ask(&TcpStream::connect(wanted).unwrap(), "/wanted");
    assert!(recording.wait().unwrap().success());
    let paths: Vec<_> = exchanges(&archive)
        .iter()
        .map(|e| e["path"].clone())
        .collect();
    assert_eq!(paths, ["/wanted"]);
}
