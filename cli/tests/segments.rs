//! Recordings into folders: segments that roll, are read as one archive, and survive kill -9.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Tapedeck, cannot_capture, temp_folder};
use tapedeck_testkit::{Conversation, pcap_of};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(args: &[&str]) -> common::Ran {
    Tapedeck::new(args).succeeds()
}

/// Asks a server for `/0`, `/1`, ... one after the other, and notes when each answer was there.
struct Crowd {
    address: SocketAddr,
    answered: Arc<Mutex<Vec<Instant>>>,
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Crowd {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (answered, is_over) = (Arc::default(), Arc::default());
        let (noted, stop) = (Arc::clone(&answered), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            let server = thread::spawn(move || serve(&listener));
            ask(address, &noted, &stop);
            server.join().unwrap();
        });
        Self {
            address,
            answered,
            is_over,
            thread,
        }
    }

    /// The numbers of the requests that were answered within this time.
    fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = usize> + use<> {
        let answered = self.answered.lock().unwrap().clone();
        let within = move |at: &Instant| (from..to).contains(at);
        let numbered = answered.into_iter().enumerate();
        numbered.filter(move |(_, at)| within(at)).map(|(n, _)| n)
    }

    fn stop(self) {
        self.is_over.store(true, Ordering::Release);
        self.thread.join().unwrap();
    }
}

fn serve(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 0 {
        if line == "\r\n" {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .unwrap();
        }
        line.clear();
    }
}

fn ask(address: SocketAddr, answered: &Mutex<Vec<Instant>>, is_over: &AtomicBool) {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut answer = [0; 40];
    for n in 0.. {
        if is_over.load(Ordering::Acquire) {
            return;
        }
        // Some hundred a second are enough.
        thread::sleep(Duration::from_millis(2));
        write!(stream, "GET /{n} HTTP/1.1\r\nHost: shop\r\n\r\n").unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert!(answer.ends_with(b"ok"), "{}", answer.escape_ascii());
        answered.lock().unwrap().push(Instant::now());
    }
}

/// A recorder that is recording.
fn record(crowd: &Crowd, folder: &Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tapedeck"))
        .args(["record", "--backend", "af-packet", "-i", "lo", "--port"])
        .arg(crowd.address.port().to_string())
        .args(["--segment-size", "60kB", "-o"])
        .arg(format!("{}/", text(folder)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(
        said.any(|line| line.unwrap().starts_with("recording ")),
        "it ended before it recorded"
    );
    // Whatever it says later must not stop it.
    thread::spawn(move || said.for_each(drop));
    child
}

/// The numbers of the requests in an archive.
fn recorded(folder: &Path) -> HashSet<usize> {
    let lines = run(&["ls", text(folder), "--format", "json"]).lines();
    // The recorder may have begun between a request and its answer.
    let path = |line: &serde_json::Value| line["path"].as_str()?[1..].parse().ok();
    lines.iter().filter_map(path).collect()
}

/// How many recorders are killed: `TAPEDECK_KILLS`.
fn kills() -> usize {
    let kills = std::env::var("TAPEDECK_KILLS").ok();
    kills.and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// What a machine that is busy with other tests may keep a recorder from the processor. By itself the
/// writer's bound is a second; the test says how much it really was.
const SLACK: Duration = Duration::from_secs(2);

/// Where in the stream it is, a recorder that begins in the middle of a connection knows only after some
/// messages.
const SETTLED: Duration = Duration::from_millis(300);

#[test]
fn a_killed_recorder_costs_a_second() {
    if cannot_capture() {
        return;
    }
    const AT_ONCE: usize = 4;
    let crowd = Crowd::start();
    let mut worst = Duration::ZERO;
    for round in 0..kills().div_ceil(AT_ONCE) {
        let folders: Vec<_> = (0..AT_ONCE).map(|_| temp_folder()).collect();
        let mut recorders: Vec<_> = folders
            .iter()
            .map(|folder| (record(&crowd, folder.path()), Instant::now()))
            .collect();
        for (number, (child, began)) in recorders.iter_mut().enumerate() {
            // Another moment within the second each time.
            let spread = (round * AT_ONCE + number) as u64 * 617 % 1_000;
            let until = Duration::from_millis(3_300 + spread);
            thread::sleep(until.saturating_sub(began.elapsed()));
            child.kill().unwrap();
            let killed = Instant::now();
            child.wait().unwrap();
            let folder = folders[number].path();
            let found = recorded(folder);
            let bound = killed - Duration::from_secs(1) - SLACK;
            let missing: Vec<_> = crowd
                .between(*began + SETTLED, bound)
                .filter(|n| !found.contains(n))
                .collect();
            assert!(missing.is_empty(), "round {round}: {missing:?} are lost");
            let answered = crowd.answered.lock().unwrap();
            let lost = (0..answered.len())
                .filter(|n| answered[*n] >= *began + SETTLED && !found.contains(n));
            let earliest = lost.map(|n| answered[n]).find(|at| *at < killed);
            worst = worst.max(earliest.map_or(Duration::ZERO, |at| killed - at));
            drop(answered);
            // The next recording seals what is left, and so does `recover`.
            if number % 2 == 0 {
                run(&["recover", text(folder)]);
            } else {
                let mut next = record(&crowd, folder);
                next.kill().unwrap();
                next.wait().unwrap();
            }
            run(&["recover", text(folder)]);
            run(&["verify", text(folder)]);
            assert!(recorded(folder).is_superset(&found));
        }
    }
    crowd.stop();
    println!("{} killed; the worst lost {worst:?}", kills());
}

/// An archive of `count` exchanges, GET /NAME/0 and so on.
fn archive(folder: &Path, name: &str, count: usize) -> PathBuf {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.handshake();
    for n in 0..count {
        talk.client(format!("GET /{name}/{n} HTTP/1.1\r\nHost: shop\r\n\r\n").as_bytes());
        talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes");
    }
    talk.close();
    let (pcap, tape) = (
        folder.join(format!("{name}.pcap")),
        folder.join(format!("{name}.tape")),
    );
    fs::write(&pcap, pcap_of(&talk.segments)).unwrap();
    run(&["import", text(&pcap), "-o", text(&tape)]);
    tape
}

#[test]
fn a_folder_is_an_archive_wherever_one_is_expected() {
    let folder = temp_folder();
    let (a, b) = (
        archive(folder.path(), "a", 5),
        archive(folder.path(), "b", 7),
    );
    let out = folder.path().join("out");
    for archives in [vec![folder.path()], vec![&a, &b]] {
        let archives: Vec<_> = archives.into_iter().map(text).collect();
        let with = |command: &'static str, rest: &[&'static str]| {
            run(&[&[command], &archives[..], rest].concat())
        };
        assert_eq!(with("ls", &["--format", "json"]).lines().len(), 12);
        let table = with("ls", &["--filter", "request.path == \"/b/6\""]).stdout;
        assert!(table.contains("   b/6  "), "{table}");
        assert!(with("stats", &[]).stdout.starts_with("12 exchanges"));
        let exported = run(&[&["export", "jsonl"], &archives[..]].concat());
        assert_eq!(exported.lines().len(), 12);
    }
    let shown = run(&["show", text(folder.path()), "b/6"]).stdout;
    assert!(shown.contains("GET /b/6 HTTP/1.1"), "{shown}");
    assert_eq!(shown, run(&["show", text(folder.path()), "11"]).stdout);
    Tapedeck::new(["show", text(folder.path()), "b/7"]).fails(1, &["no exchange b/7"]);
    Tapedeck::new(["show", text(folder.path()), "b/x"]).fails(2, &["3/17"]);
    let filter = ["--filter", "request.path.startsWith(\"/b\")"];
    run(&[
        "cut",
        text(folder.path()),
        filter[0],
        filter[1],
        "-o",
        text(&out),
    ]);
    assert_eq!(
        run(&["ls", text(&out), "--format", "json"]).lines().len(),
        7
    );

    // One of them is bad: it is said, and the other is read.
    fs::write(&a, "not an archive").unwrap();
    let ran = Tapedeck::new(["ls", text(folder.path()), "--format", "json"]);
    let ran = ran.fails(1, &["a.tape is left out", "not a Tapedeck archive"]);
    assert_eq!(ran.lines().len(), 7);
    let ran = Tapedeck::new(["verify", text(folder.path()), "--format", "json"]).fails(1, &[]);
    let states: Vec<_> = ran
        .lines()
        .iter()
        .map(|line| line["state"].clone())
        .collect();
    assert_eq!(states, ["unreadable", "whole"]);
    Tapedeck::new(["ls", text(&a), text(&b)]).fails(1, &["not a Tapedeck archive"]);
}

#[test]
fn what_cannot_be_a_set_is_told() {
    let folder = temp_folder();
    let path = folder.path();
    Tapedeck::new(["ls", text(path)]).fails(1, &["there is no archive"]);
    Tapedeck::new(["verify", text(path)]).fails(1, &["there is no archive"]);
    run(&["recover", text(path)]);
    let out = path.join("out.tape");
    Tapedeck::new(["recover", text(path), "-o", text(&out)]).fails(1, &["leave out -o"]);
    Tapedeck::new(["recover", text(&out)]).fails(1, &["-o names the new archive"]);
    if cannot_capture() {
        return;
    }
    let record = [
        "record",
        "--backend",
        "af-packet",
        "-i",
        "lo",
        "--port",
        "1",
        "-o",
    ];
    let recording = |rest: &[&str]| Tapedeck::new([&record[..], rest].concat());
    recording(&[text(&out), "--retain-size", "1GB"]).fails(1, &["for a folder of segments"]);
    recording(&[text(path), "--force"]).fails(1, &["--force is for a file"]);
    fs::write(&out, "mine").unwrap();
    let file = format!("{}/", text(&out));
    recording(&[&file]).fails(1, &["is not a folder"]);
    recording(&[text(path), "--retain-age", "soon"]).fails(2, &["no duration"]);
    // Two at once.
    let crowd = Crowd::start();
    let mut first = self::record(&crowd, path);
    recording(&[text(path)]).fails(1, &["is being written by another process"]);
    Tapedeck::new(["recover", text(path)]).fails(1, &["is being written by another process"]);
    first.kill().unwrap();
    first.wait().unwrap();
    crowd.stop();
}
