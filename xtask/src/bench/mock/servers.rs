//! The servers, each with the same recorded exchanges.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::super::measure::{cpu_of, pinned};
use super::super::nginx::{Nginx, free_port};
use super::clients::Shape;
use super::{FOLDER, FOR_MITMPROXY, Stage};
use crate::packages::{TOOLS, WIREMOCK};
use crate::shell::has;

/// How long a server may take until it answers: WireMock reads its mappings, mitmproxy its flows.
const WAIT: Duration = Duration::from_secs(120);

/// Who answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Tapedeck,
    Nginx,
    Wiremock,
    Mitmproxy,
}

impl Kind {
    pub(super) const ALL: [Self; 4] =
        [Self::Tapedeck, Self::Nginx, Self::Wiremock, Self::Mitmproxy];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tapedeck => "**`tapedeck mock`**",
            Self::Nginx => "nginx, `return`",
            Self::Wiremock => "WireMock",
            Self::Mitmproxy => "mitmproxy, 1,000 exchanges",
        }
    }

    pub(super) fn is_there(self) -> bool {
        match self {
            Self::Tapedeck => true,
            Self::Nginx => has("nginx"),
            Self::Wiremock => has("java") && jar().is_some(),
            Self::Mitmproxy => mitmdump().exists(),
        }
    }

    /// The bounds beside WireMock and mitmproxy are about HTTP/1.1.
    pub(super) fn serves(self, shape: Shape) -> bool {
        shape == Shape::Http1 || matches!(self, Self::Tapedeck | Self::Nginx)
    }

    /// How many exchanges it knows.
    pub(super) const fn exchanges(self) -> u64 {
        match self {
            Self::Mitmproxy => FOR_MITMPROXY,
            Self::Tapedeck | Self::Nginx | Self::Wiremock => super::EXCHANGES,
        }
    }
}

/// A server on its core.
pub(super) struct Server {
    pub(super) kind: Kind,
    process: Process,
    pub(super) http1: u16,
    pub(super) h2c: u16,
    pub(super) tls: u16,
    control: u16,
    /// From its start to its first answer.
    pub(super) ready: Duration,
}

enum Process {
    Child(Child),
    /// It ends with its handle.
    Nginx {
        _handle: Nginx,
        worker: u32,
    },
}

impl Server {
    pub(super) fn start(kind: Kind, stage: &Stage, archive: &str) -> Result<Self> {
        match kind {
            Kind::Tapedeck => tapedeck(stage, archive),
            Kind::Nginx => nginx(stage),
            Kind::Wiremock => wiremock(stage),
            Kind::Mitmproxy => mitmproxy(stage),
        }
    }

    fn child(kind: Kind, child: Child, port: u16, control: u16, begun: Instant) -> Result<Self> {
        let mut server = Self {
            kind,
            process: Process::Child(child),
            http1: port,
            h2c: port,
            tls: port,
            control,
            ready: Duration::ZERO,
        };
        server.wait(begun)?;
        Ok(server)
    }

    /// Waits for the first answer that is one.
    fn wait(&mut self, begun: Instant) -> Result<()> {
        while get(self.http1, "/items/1").is_none_or(|answer| !answer.starts_with("HTTP/1.1 200")) {
            let ended = match &mut self.process {
                Process::Child(child) => child.try_wait()?,
                Process::Nginx { .. } => None,
            };
            ensure!(ended.is_none(), "{} ended at its start", self.kind.name());
            ensure!(
                begun.elapsed() < WAIT,
                "{} does not answer",
                self.kind.name()
            );
            thread::sleep(Duration::from_millis(1));
        }
        self.ready = begun.elapsed();
        Ok(())
    }

    fn pid(&self) -> u32 {
        match &self.process {
            Process::Child(child) => child.id(),
            Process::Nginx { worker, .. } => *worker,
        }
    }

    /// Processor time so far, in seconds, of all threads.
    pub(super) fn cpu(&self) -> Result<f64> {
        Ok(cpu_of(self.pid())?.as_secs_f64())
    }

    /// Anonymous memory in bytes when it is ready and at rest, and what of it is answers kept ready.
    pub(super) fn settled_memory(&self) -> Result<(u64, u64)> {
        let (mut last, mut same) = (u64::MAX, 0);
        loop {
            let cache = get(self.control, "/status").context("no status")?;
            let cache = cache
                .lines()
                .find_map(|line| line.trim().strip_prefix("\"cache_bytes\": "))
                .and_then(|number| number.trim_end_matches(',').parse().ok())
                .context("no cache_bytes")?;
            same = if cache == last { same + 1 } else { 0 };
            last = cache;
            if same == 5 {
                let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
                let kib = status
                    .lines()
                    .find_map(|line| line.strip_prefix("RssAnon:"))
                    .and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
                return Ok((kib.context("no RssAnon")? << 10, cache));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Process::Child(child) = &mut self.process {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Asks once; `None`: nobody answers yet.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

fn tapedeck(stage: &Stage, archive: &str) -> Result<Server> {
    let begun = Instant::now();
    let args = [
        "mock",
        archive,
        "--listen",
        "127.0.0.1:0",
        "--control",
        "127.0.0.1:0",
        "--ca",
        &stage.ca,
    ];
    let mut child = pinned(stage.core, &stage.program, &args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let mut port = || {
        let line = lines.next().context("the mock says no port")??;
        let port = line.rsplit(':').next().and_then(|port| port.parse().ok());
        port.context("the mock says no port")
    };
    let (port, control) = (port()?, port()?);
    Server::child(Kind::Tapedeck, child, port, control, begun)
}

fn nginx(stage: &Stage) -> Result<Server> {
    let tls = free_port()?;
    let folder = PathBuf::from(FOLDER).join("mock-nginx");
    fs::create_dir_all(&folder)?;
    certificate(&folder)?;
    let shown = fs::canonicalize(&folder)?;
    let shown = shown.display();
    let mut server = format!(
        "listen 127.0.0.1:{tls} ssl; ssl_certificate {shown}/cert.pem; \
         ssl_certificate_key {shown}/key.pem; ssl_protocols TLSv1.3;\n"
    );
    for (n, body) in stage.bodies.iter().enumerate() {
        writeln!(server, "location = /items/{n} {{ return 200 '{body}'; }}").unwrap_or_default();
    }
    let begun = Instant::now();
    let handle = Nginx::start(
        pinned(stage.core, Path::new("nginx"), &[]),
        &folder,
        &server,
    )?;
    let (http1, h2c) = (handle.http1, handle.h2c);
    let worker = handle.worker()?;
    let mut server = Server {
        kind: Kind::Nginx,
        process: Process::Nginx {
            _handle: handle,
            worker,
        },
        http1,
        h2c,
        tls,
        control: 0,
        ready: Duration::ZERO,
    };
    server.wait(begun)?;
    Ok(server)
}

/// A certificate as the mock mints them: ECDSA over P-256.
fn certificate(folder: &Path) -> Result<()> {
    let file = |name: &str| folder.join(name).display().to_string();
    if Path::new(&file("cert.pem")).exists() {
        return Ok(());
    }
    let status = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "365"])
        .args([
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-keyout", &file("key.pem"), "-out", &file("cert.pem")])
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "openssl failed: {status}");
    Ok(())
}

fn jar() -> Option<PathBuf> {
    let folder = fs::read_dir(format!("{WIREMOCK}/node_modules/wiremock/build")).ok()?;
    let mut files = folder.filter_map(|file| Some(file.ok()?.path()));
    files.find(|path| path.extension().is_some_and(|jar| jar == "jar"))
}

fn wiremock(stage: &Stage) -> Result<Server> {
    let folder = format!("{FOLDER}/mock-wiremock");
    let mappings: Vec<_> = stage
        .bodies
        .iter()
        .enumerate()
        .map(|(n, body)| {
            serde_json::json!({
                "request": { "method": "GET", "url": format!("/items/{n}") },
                "response": {
                    "status": 200,
                    "headers": { "Content-Type": "application/json" },
                    "body": body,
                },
            })
        })
        .collect();
    fs::create_dir_all(format!("{folder}/mappings"))?;
    let file = fs::File::create(format!("{folder}/mappings/all.json"))?;
    serde_json::to_writer(file, &serde_json::json!({ "mappings": mappings }))?;
    let port = free_port()?;
    let jar = jar().context("no WireMock")?.display().to_string();
    let port_text = port.to_string();
    let args = [
        "-jar",
        &jar,
        "--port",
        &port_text,
        "--root-dir",
        &folder,
        "--no-request-journal",
        "--disable-banner",
        "--disable-request-logging",
    ];
    let begun = Instant::now();
    let child = pinned(stage.core, Path::new("java"), &args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Server::child(Kind::Wiremock, child, port, 0, begun)
}

fn mitmdump() -> PathBuf {
    PathBuf::from(format!("{TOOLS}/mitmproxy/bin/mitmdump"))
}

fn mitmproxy(stage: &Stage) -> Result<Server> {
    let port = free_port()?;
    let flows = format!("{FOLDER}/mock-mitmproxy.flow");
    let program = mitmdump().display().to_string();
    let command = |args: &[&str], core: usize| {
        let mut command = pinned(core, Path::new("python3"), &[]);
        command
            .arg(&program)
            .args(args)
            .env("PYTHONPATH", format!("{TOOLS}/mitmproxy"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    if !Path::new(&flows).exists() {
        let (cut, har) = (format!("{flows}.tape"), format!("{flows}.har"));
        let number = FOR_MITMPROXY.to_string();
        let tapedeck = |args: &[&str]| -> Result<()> {
            let status = Command::new(&stage.program)
                .args(args)
                .stdout(Stdio::null())
                .status()?;
            ensure!(status.success(), "tapedeck failed: {status}");
            Ok(())
        };
        tapedeck(&[
            "cut",
            &stage.archive,
            "-o",
            &cut,
            "--filter",
            &format!("id < {number}"),
        ])?;
        tapedeck(&["export", "har", &cut, "-o", &har])?;
        let status = command(&["-q", "-n", "-r", &har, "-w", &flows], stage.core).status()?;
        ensure!(status.success(), "mitmdump failed: {status}");
    }
    let listen = port.to_string();
    let args = [
        "-q",
        "--mode",
        "reverse:http://shop.test",
        "--listen-host",
        "127.0.0.1",
        "-p",
        &listen,
        "--server-replay",
        &flows,
        "--set",
        "server_replay_reuse=true",
        "--set",
        "server_replay_extra=404",
        "--set",
        "connection_strategy=lazy",
    ];
    let begun = Instant::now();
    let child = command(&args, stage.core).spawn()?;
    Server::child(Kind::Mitmproxy, child, port, 0, begun)
}
