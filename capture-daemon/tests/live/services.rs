//! Real services and their real clients. What each side counts is what is in the archive, body for
//! body, and every backend tells the same as tcpdump.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::support::{has, response};
use crate::witness::{BodyOf, Told, Witnesses, interrupt, until};

/// A port that nobody has.
fn free_port() -> u16 {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    free.local_addr().unwrap().port()
}

/// Runs a client to its end, and returns what it printed.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {stdout}\n{stderr}");
    stdout
}

/// The number that follows a word in what a program printed.
#[track_caller]
fn number_after(word: &str, text: &str) -> usize {
    let (_, rest) = text
        .split_once(word)
        .unwrap_or_else(|| panic!("no {word:?} in {text}"));
    let digits = rest
        .trim_start()
        .split(|c: char| !c.is_ascii_digit())
        .next();
    digits.unwrap().parse().unwrap()
}

/// nginx with files of known bytes, and a log of what it answered.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) port: u16,
    folder: tempfile::TempDir,
}

const FILES: [usize; 4] = [0, 100, 5_000, 70_000];

impl Nginx {
    /// With more words for the directive that says where it listens.
    pub(crate) fn start(listen: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        for len in FILES {
            fs::write(folder.path().join(format!("{len}.bin")), response(len)).unwrap();
        }
        // Its worker is somebody else, who must be able to read the files.
        let config = format!(
            "daemon off; user root; worker_processes 1; pid nginx.pid; error_log stderr crit; \
             events {{}} \
             http {{ \
               log_format told '$request_method $uri $status $body_bytes_sent'; \
               access_log answered.log told; keepalive_requests 1000000; \
               client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; \
               uwsgi_temp_path d; scgi_temp_path e; \
               server {{ listen 127.0.0.1:{port} {listen}; root .; }} \
             }}"
        );
        fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let child = Command::new("nginx")
            .arg("-p")
            .arg(folder.path())
            .args(["-c", "nginx.conf"])
            .spawn()
            .unwrap();
        let nginx = Self {
            child,
            port,
            folder,
        };
        until("nginx listens", || {
            let listening = fs::read_to_string("/proc/net/tcp").unwrap();
            listening.contains(&format!(":{port:04X} 00000000:0000 0A"))
        });
        nginx
    }

    fn url(&self, len: usize) -> String {
        format!("http://127.0.0.1:{}/{len}.bin", self.port)
    }

    /// Lets h2load fetch the files, so many in all, on four connections.
    pub(crate) fn load(&self, requests: usize) {
        let urls = FILES.map(|len| self.url(len));
        let requests = requests.to_string();
        let said = run(Command::new("h2load")
            .args(["-n", &requests, "-c", "4", "-m", "10"])
            .args(&urls));
        let expected = format!("{requests} succeeded, 0 failed");
        assert!(said.contains(&expected), "{said}");
    }

    /// What it logged when it had nothing left to do: how often each line.
    pub(crate) fn stop(mut self) -> BTreeMap<String, usize> {
        interrupt(&self.child);
        assert!(self.child.wait().unwrap().success());
        let log = fs::read_to_string(self.folder.path().join("answered.log")).unwrap();
        count(log.lines().map(str::to_owned))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // One that ended needs no end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn count(lines: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        *counts.entry(line).or_default() += 1;
    }
    counts
}

/// Asserts that the body of an answer, where the exchange is whole, is that of the file.
#[track_caller]
pub(crate) fn assert_is_file(told: &Told) {
    if told.is_whole() {
        let len = told.target.trim_matches(|c: char| !c.is_ascii_digit());
        let file = response(len.parse().unwrap());
        assert_eq!(told.response, Some(BodyOf::whole(&file)));
    }
}

fn log_line(told: &Told) -> String {
    let Told {
        method,
        target,
        status,
        response,
        ..
    } = told;
    let len = response.map_or(0, |body| body.len);
    format!("{method} {target} {} {len}", status.unwrap())
}

#[test]
fn nginx_and_h2load_by_http2() {
    if !(has("nginx") && has("h2load")) {
        return;
    }
    let nginx = Nginx::start("http2");
    let witnesses = Witnesses::of(nginx.port);
    nginx.load(400);
    let logged = nginx.stop();
    let Some(telling) = witnesses.agree() else {
        return;
    };
    assert_eq!(telling.len(), 4);
    let all: Vec<_> = telling.values().flatten().collect();
    all.iter().for_each(|told| assert_is_file(told));
    assert_eq!(count(all.iter().map(|told| log_line(told))), logged);
    assert_eq!(all.len(), 400);
}

/// wrk goes away in the middle of answers when its time is over. It is slowed down, for the sake of those
/// that watch in a debug build.
#[test]
fn nginx_and_wrk() {
    const CONNECTIONS: usize = 4;
    if !(has("nginx") && has("wrk")) {
        return;
    }
    let nginx = Nginx::start("");
    let witnesses = Witnesses::of(nginx.port);
    let script = nginx.folder.path().join("wrk.lua");
    let lens = FILES.map(|len| len.to_string()).join(", ");
    let lua = format!(
        "local lens, at = {{ {lens} }}, 0\n\
         request = function()\n  at = at + 1\n  \
         return wrk.format('GET', '/' .. lens[at % #lens + 1] .. '.bin')\nend\n\
         delay = function() return 5 end\n"
    );
    fs::write(&script, lua).unwrap();
    let said = run(Command::new("wrk")
        .args(["-t1", "-c", &CONNECTIONS.to_string(), "-d", "1s", "-s"])
        .arg(&script)
        .arg(nginx.url(0)));
    let answered = said
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .map(|(number, _)| number.parse::<usize>().unwrap())
        .unwrap();
    assert!(!said.contains("Socket errors"), "{said}");
    let logged: usize = nginx.stop().values().sum();
    let Some(telling) = witnesses.agree() else {
        return;
    };
    let all: Vec<_> = telling.values().flatten().collect();
    all.iter().for_each(|told| assert_is_file(told));
    let whole = all.iter().filter(|told| told.is_whole()).count();
    println!(
        "{answered} answered by wrk's count, {logged} by nginx's; {whole} whole of {}",
        all.len()
    );
    assert!(answered > 50, "{said}");
    assert!((answered..=answered + CONNECTIONS).contains(&whole));
    assert_eq!(all.len(), logged);
}

/// A server that is told to stop by the end of its standard input, and says how much it served.
struct Echo {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    stdin: Option<ChildStdin>,
    port: u16,
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/programs")
        .join(name)
}

impl Echo {
    fn start(interpreter: &str, name: &str) -> Self {
        let mut child = Command::new(interpreter)
            .arg(program(name))
            .args(["serve", "0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
            port: number_after("listening", &line) as u16,
        }
    }

    /// How many requests it answered.
    fn stop(mut self) -> usize {
        drop(self.stdin.take());
        let served = self.lines.next().unwrap().unwrap();
        assert!(self.child.wait().unwrap().success());
        number_after("served", &served)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What the programs make, too.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31 + seed) % 251) as u8).collect()
}

/// Lets one serve the other; both check every byte, and so do we.
fn check_echo(server: [&str; 2], client: [&str; 2]) {
    const CONNECTIONS: usize = 4;
    const REQUESTS: usize = 40;
    if !(has("node") && has("python3")) {
        return;
    }
    let echo = Echo::start(server[0], server[1]);
    let witnesses = Witnesses::of(echo.port);
    let numbers = [echo.port.into(), CONNECTIONS, REQUESTS].map(|number| number.to_string());
    let said = run(Command::new(client[0])
        .arg(program(client[1]))
        .arg("visit")
        .args(numbers));
    let answered = number_after("answered", &said);
    assert_eq!(echo.stop(), answered);
    let Some(telling) = witnesses.agree() else {
        return;
    };
    assert_eq!(telling.len(), CONNECTIONS);
    let mut seen = 0;
    for told in telling.values() {
        assert_eq!(told.len(), REQUESTS);
        for told in told {
            let (asked, answer) = told.target[1..].split_once('/').unwrap();
            let [asked, answer] = [asked, answer].map(|len| len.parse().unwrap());
            assert_eq!(told.request, Some(BodyOf::whole(&pattern(asked, 1))));
            assert_eq!(told.response, Some(BodyOf::whole(&pattern(answer, 2))));
            seen += 1;
        }
    }
    assert_eq!(seen, answered);
}

const NODE: [&str; 2] = ["node", "echo.js"];
const ASYNCIO: [&str; 2] = ["python3", "echo.py"];

#[test]
fn node_serves_and_asyncio_visits() {
    check_echo(NODE, ASYNCIO);
}

#[test]
fn asyncio_serves_and_node_visits() {
    check_echo(ASYNCIO, NODE);
}

/// Where `cargo xtask test` puts gRPC for Python.
const GRPC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/grpc");

/// A message as gRPC frames it.
fn grpc_message(bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![0];
    message.extend((bytes.len() as u32).to_be_bytes());
    message.extend(bytes);
    message
}

#[test]
fn grpc() {
    const VISITS: usize = 5;
    if !Path::new(GRPC).exists() {
        crate::support::skip_without("grpc for python (cargo xtask test installs it)");
        return;
    }
    let peer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/record/peers/grpc_peer.py");
    let port = free_port();
    let command = |role: &str| {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", GRPC).arg(&peer);
        command.args([role, &port.to_string()]);
        command
    };
    let witnesses = Witnesses::of(port);
    let mut server = command("serve").spawn().unwrap();
    until("the server listens", || {
        let files =
            ["/proc/net/tcp", "/proc/net/tcp6"].map(|file| fs::read_to_string(file).unwrap());
        files.concat().contains(&format!(":{port:04X} 00"))
    });
    let said: Vec<_> = (0..VISITS).map(|_| run(&mut command("visit"))).collect();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(said.windows(2).all(|two| two[0] == two[1]), "{said:?}");
    let Some(telling) = witnesses.agree() else {
        return;
    };
    let chat: Vec<_> = [&b"HELLO"[..], b"HOW", &b"ARE YOU ".repeat(100)]
        .into_iter()
        .flat_map(grpc_message)
        .collect();
    let watch: Vec<_> = (0..5)
        .flat_map(|number| grpc_message(format!("date-{number}").as_bytes()))
        .collect();
    let expected: [(&str, &[u8]); 6] = [
        ("Reserve", &grpc_message(b"reserved:seat-12")),
        ("Reserve", &grpc_message(b"reserved:")),
        ("Reserve", b""),
        ("Watch", &watch),
        ("Chat", &chat),
        ("Missing", b""),
    ];
    assert_eq!(telling.len(), VISITS);
    for told in telling.values() {
        assert_eq!(told.len(), expected.len());
        for (told, (method, answer)) in told.iter().zip(expected) {
            assert_eq!(told.target, format!("/shop.Booking/{method}"));
            assert_eq!(told.status, Some(200));
            assert_eq!(told.response, Some(BodyOf::whole(answer)), "{method}");
        }
    }
}
