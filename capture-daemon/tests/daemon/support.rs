//! A daemon, a server, and what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};

/// How long something may take that takes a moment; much, as the machine may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(240);

/// Whether this machine can capture with BPF; else says why, or fails where that is not allowed.
pub(crate) fn is_possible() -> bool {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap();
    if has(Capability::CAP_SYS_ADMIN) && tapedeckd::sources::ebpf::cgroup_root().is_ok() {
        return true;
    }
    let is_required = std::env::var_os("TAPEDECK_REQUIRE_PRIVILEGES").is_some_and(|v| v == "1");
    assert!(!is_required, "cannot be skipped: not root, or no cgroup2");
    println!("skipped: not root, or no cgroup2");
    false
}

/// Waits until `is_so` answers something.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut is_so: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = is_so() {
            return answer;
        }
        assert!(start.elapsed() < SOON, "not within {SOON:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A running tapedeckd.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) control: SocketAddr,
    log: Arc<Mutex<String>>,
}

/// A configuration for the exchanges of one port.
pub(crate) fn config(folder: &Path, port: u16, more: &str) -> String {
    let mut text = String::new();
    writeln!(text, "archive: {{ folder: {} }}", folder.display()).unwrap();
    writeln!(text, "rules: [{{ ports: [{port}] }}]").unwrap();
    writeln!(text, "control: {{ listen: '127.0.0.1:0' }}").unwrap();
    // The tests and their daemon share a cgroup.
    writeln!(
        text,
        "capture: {{ backend: ebpf, ignore_own_cgroup: false }}"
    )
    .unwrap();
    text + more
}

pub(crate) fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tapedeckd"));
    command.arg("--config").arg(config);
    command
}

/// The same by way of other programs, which run the rest of their command line.
pub(crate) fn under(wrapper: &[String], config: &Path) -> Command {
    let daemon = command(config);
    let Some((first, more)) = wrapper.split_first() else {
        return daemon;
    };
    let mut command = Command::new(first);
    command
        .args(more)
        .arg(daemon.get_program())
        .args(daemon.get_args());
    command
}

/// Runs a program that must succeed.
#[track_caller]
pub(crate) fn tool(command: &mut Command) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}

/// Asserts that the daemon ends at once, and says that.
#[track_caller]
pub(crate) fn refused(mut command: Command, expect: &str) {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(!status.success(), "{stderr}");
    assert!(stderr.contains(expect), "{expect:?} is not in:\n{stderr}");
}

impl Daemon {
    /// Starts it, and waits until it records.
    pub(crate) fn start(folder: &Path, config: &str) -> Self {
        Self::start_by(folder, config, &[])
    }

    /// The same by way of other programs.
    pub(crate) fn start_by(folder: &Path, config: &str, wrapper: &[String]) -> Self {
        let daemon = Self::start_unready(folder, config, wrapper);
        daemon.wait_for_log("\"recording\"");
        until("ready", || (daemon.get("/readyz").0 == 200).then_some(()));
        daemon
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn start_unready(folder: &Path, config: &str, wrapper: &[String]) -> Self {
        let path = folder.join("tapedeckd.yaml");
        fs::write(&path, config).unwrap();
        let mut child = under(wrapper, &path)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = kept.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut daemon = Self {
            child,
            control: SocketAddr::from(([0, 0, 0, 0], 0)),
            log,
        };
        daemon.control = until("control endpoint", || {
            assert!(
                daemon.child.try_wait().unwrap().is_none(),
                "{}",
                daemon.log()
            );
            let log = daemon.log();
            let line = log.lines().find(|line| line.contains("control endpoint"))?;
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["address"].as_str()?.parse().ok()
        });
        daemon
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) {
        let start = Instant::now();
        while !self.log().contains(text) {
            assert!(
                start.elapsed() < SOON,
                "{text:?} is not in:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        get(self.control, path)
    }

    /// Samples of `/metrics`, by name and labels.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let (_, text) = self.get("/metrics");
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect()
    }

    /// Waits until a metric is at least so large.
    #[track_caller]
    pub(crate) fn wait_for(&self, metric: &str, least: f64) -> f64 {
        until(metric, || {
            let value = *self.metrics().get(metric)?;
            (value >= least).then_some(value)
        })
    }

    /// `CapPrm`, `CapEff` and `NoNewPrivs` of every thread.
    pub(crate) fn privileges(&self) -> Vec<[String; 3]> {
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

    /// Of every thread its name, its nice value, and how it is scheduled (`man 5 proc`, `stat`).
    pub(crate) fn threads(&self) -> Vec<(String, i64, u64)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        // One that has just ended has none.
        let stats =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        stats
            .map(|stat| {
                // The name stands in brackets, and may have some of its own.
                let (name, rest) = stat.rsplit_once(") ").unwrap();
                let (_, name) = name.split_once('(').unwrap();
                let fields: Vec<_> = rest.split(' ').collect();
                // The first of these is the third of all.
                let (nice, policy) = (fields[19 - 3], fields[41 - 3]);
                (
                    name.to_owned(),
                    nice.parse().unwrap(),
                    policy.parse().unwrap(),
                )
            })
            .collect()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) -> String {
        self.signal("-TERM");
        let status = self.wait();
        assert!(status.success(), "{}", self.log());
        self.log()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        until("the daemon's end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that failed leaves it running.
        if thread::panicking() {
            println!("{}", self.log());
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A GET on a connection of its own: status and body.
pub(crate) fn get(server: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, body.to_owned())
}

/// A server that answers every request on every connection with a 200.
pub(crate) fn serve() -> SocketAddr {
    serve_at(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// The same, at an address.
pub(crate) fn serve_at(address: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(stream: TcpStream) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let mut is_last = false;
    while reader.read_line(&mut line).is_ok_and(|len| len > 0) {
        is_last |= line == "Connection: close\r\n";
        if line == "\r\n" {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if reader.get_mut().write_all(answer).is_err() || is_last {
                return;
            }
        }
        line.clear();
    }
}

/// A keep-alive connection.
pub(crate) struct Client {
    stream: TcpStream,
}

impl Client {
    pub(crate) fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self { stream }
    }

    pub(crate) fn get(&mut self, path: &str) {
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        self.stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 40];
        self.stream.read_exact(&mut answer).unwrap();
        assert!(answer.ends_with(b"ok"));
    }
}

/// Clients, each with a connection of its own, that ask and ask until they are told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<u64>>,
}

impl Load {
    pub(crate) fn start(server: SocketAddr, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number: usize| {
            let stop = Arc::clone(&stop);
            let mut client = Client::connect(server);
            thread::spawn(move || {
                let mut asked = 0;
                while !stop.load(Ordering::Relaxed) {
                    client.get(&format!("/{number}/{asked}"));
                    asked += 1;
                    // Some load, not all that there is: who records is a debug build, and beside
                    // it run other tests.
                    thread::sleep(Duration::from_millis(20));
                }
                asked
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, clients }
    }

    /// Ends it; the targets that were asked for, and answered.
    pub(crate) fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        let asked = self
            .clients
            .into_iter()
            .map(|client| client.join().unwrap());
        asked
            .enumerate()
            .flat_map(|(number, asked)| (0..asked).map(move |n| format!("/{number}/{n}")))
            .collect()
    }
}

/// The targets in the archive, in order, and whether each exchange is whole.
pub(crate) fn targets(archive: &Path) -> Vec<(String, bool)> {
    let archive = tapedeck_archive::Archive::open(archive).unwrap();
    archive
        .rows()
        .map(|row| {
            let target = row.target().unwrap_or_default();
            (String::from_utf8(target.to_vec()).unwrap(), row.complete())
        })
        .collect()
}

/// The archives of a folder.
pub(crate) fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "tape"))
        .filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.'))
        .collect();
    paths.sort();
    paths
}
