//! Traffic of real programs over loopback, captured by tcpdump, and kept for the next run.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::super::wire;
use super::{FOLDER, TOOLS};
use crate::demo::{Service, terminate};
use crate::shell::{command, run, say};

/// What is written, and read, and compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Traffic {
    Concert,
    Images,
    Grpc,
    Calls,
    Bodies,
}

impl Traffic {
    pub(crate) const ALL: [Self; 5] = [
        Self::Concert,
        Self::Images,
        Self::Grpc,
        Self::Calls,
        Self::Bodies,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Concert => "concert",
            Self::Images => "images",
            Self::Grpc => "grpc",
            Self::Calls => "calls",
            Self::Bodies => "bodies",
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Concert => "The booking service's crowd",
            Self::Images => "A static site's images",
            Self::Grpc => "A gRPC service",
            Self::Calls => "Small calls, all different",
            Self::Bodies => "Bodies of 1 MiB",
        }
    }

    /// The capture. `parts`: how much of the usual traffic, in tenths.
    pub(crate) fn capture(self, tenths: u32) -> Result<PathBuf> {
        let path = PathBuf::from(format!("{FOLDER}/{}-{tenths}.pcap", self.name()));
        if path.exists() {
            return Ok(path);
        }
        say(&format!("{}: capturing", self.name()));
        let unfinished = path.with_extension("unfinished");
        match self {
            Self::Concert => concert(&unfinished, tenths)?,
            Self::Images => images(&unfinished, tenths)?,
            Self::Grpc => grpc(&unfinished, tenths)?,
            Self::Calls => generated("calls", u64::from(tenths) * 8, &unfinished)?,
            Self::Bodies => generated("bodies", u64::from(tenths) * 32, &unfinished)?,
        }
        fs::rename(&unfinished, &path)?;
        Ok(path)
    }
}

/// A capture of the wire side.
fn generated(kind: &str, mib: u64, capture: &Path) -> Result<()> {
    let mut generator = wire::generator(kind, mib);
    let status = generator.stdout(File::create(capture)?).status()?;
    ensure!(status.success(), "the generator failed: {status}");
    Ok(())
}

/// The demo's service and crowd, with more users.
fn concert(capture: &Path, tenths: u32) -> Result<()> {
    let service = Service::start(
        Path::new("target/release/concert"),
        &["--seed", "7", "--seats", "300"],
    )?;
    let tcpdump = Tcpdump::start(port_of(&service.url)?, capture)?;
    let (users, seconds) = ((tenths * 1500).to_string(), (tenths * 6).to_string());
    run(Command::new("target/release/concert-crowd")
        .args(["--target", &service.url, "--seed", "1", "--timeout", "60"])
        .args(["--users", &users, "--seconds", &seconds])
        .stdout(Stdio::null()))?;
    tcpdump.stop()?;
    service.stop()
}

/// nginx, with images as large as those of the web, some of them much more popular than others,
/// fetched over six connections, as a browser does.
fn images(capture: &Path, tenths: u32) -> Result<()> {
    let root = fs::canonicalize(FOLDER)?.join("site");
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut dice = Dice(7);
    fs::create_dir_all(root.join("www/img"))?;
    for number in 0..IMAGES {
        // Between 2 and 128 KiB, small ones more often.
        let len = 2048_u64 << dice.below(6);
        let len = len + dice.below(len);
        fs::write(image(&root, number), jpeg(&mut dice, len))?;
    }
    let config = NGINX.replace("PORT", &port.to_string());
    fs::write(root.join("nginx.conf"), config)?;
    let folder = root.to_string_lossy().into_owned();
    let mut nginx = Killed(
        command("nginx", &["-p", &folder, "-c", "nginx.conf"])
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start nginx")?,
    );
    wait_for(port)?;
    let tcpdump = Tcpdump::start(port, capture)?;
    let list = root.join("urls");
    let mut urls = BufWriter::new(File::create(&list)?);
    for _ in 0..tenths * 500 {
        // The smallest of three: the first images are the popular ones.
        let picks = [(); 3].map(|()| dice.below(IMAGES));
        let number = picks.into_iter().min().unwrap_or(0);
        writeln!(urls, "url = http://127.0.0.1:{port}/img/{number:04}.jpg")?;
        writeln!(urls, "output = /dev/null")?;
    }
    urls.into_inner()?.sync_all()?;
    let list = list.to_string_lossy().into_owned();
    let mut curl = command(
        "curl",
        &[
            "-sSZ",
            "--no-progress-meter",
            "--parallel-max",
            "6",
            "--config",
            &list,
        ],
    );
    for field in BROWSER {
        curl.args(["-H", field]);
    }
    run(&mut curl)?;
    tcpdump.stop()?;
    terminate(&mut nginx.0)?;
    fs::remove_dir_all(&root)?;
    Ok(())
}

const IMAGES: u64 = 600;

const BROWSER: [&str; 5] = [
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
    "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate",
    "Referer: http://shop.example/catalogue",
];

const NGINX: &str = "daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr crit;
events {}
http {
    access_log off;
    types { image/jpeg jpg; }
    keepalive_requests 100000;
    server { listen 127.0.0.1:PORT; root www; }
}
";

fn image(root: &Path, number: u64) -> PathBuf {
    root.join(format!("www/img/{number:04}.jpg"))
}

/// What a compressor sees in a JPEG: a short header, then bytes that no longer shrink.
fn jpeg(dice: &mut Dice, len: u64) -> Vec<u8> {
    let mut bytes = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x48\0\x48\0\0\xff\xda".to_vec();
    while (bytes.len() as u64) < len {
        let word = dice.next().to_le_bytes();
        // Within the picture, ff is a marker but for ff 00.
        for byte in word {
            bytes.push(byte);
            if byte == 0xff {
                bytes.push(0);
            }
        }
    }
    bytes.extend_from_slice(b"\xff\xd9");
    bytes
}

/// The grpcio of PyPI on both sides.
fn grpc(capture: &Path, tenths: u32) -> Result<()> {
    let script = "xtask/src/bench/archive/grpc_shop.py";
    let python = |args: &[&str]| {
        let mut python = command("python3", &[script]);
        python.args(args);
        python.env("PYTHONPATH", format!("{TOOLS}/grpcio"));
        python
    };
    let service = Service::spawn(&mut python(&["serve"]))?;
    let port = port_of(&service.url)?;
    let tcpdump = Tcpdump::start(port, capture)?;
    let calls = (tenths * 4000).to_string();
    run(&mut python(&["visit", &port.to_string(), &calls]))?;
    tcpdump.stop()?;
    service.stop()
}

fn port_of(url: &str) -> Result<u16> {
    let port = url.rsplit(':').next().unwrap_or_default();
    port.parse().with_context(|| format!("no port in {url}"))
}

fn wait_for(port: u16) -> Result<()> {
    let begin = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(
            begin.elapsed() < Duration::from_secs(10),
            "nothing listens on port {port}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A running capture.
struct Tcpdump {
    child: Killed,
    stderr: BufReader<ChildStderr>,
}

impl Tcpdump {
    fn start(port: u16, capture: &Path) -> Result<Self> {
        let filter = format!("tcp port {port}");
        // As root still: it would write as a user who may not write here. The buffer is in KiB.
        let mut child = command("tcpdump", &["-i", "lo", "-Z", "root", "-s", "0"])
            .args(["-B", "262144", "-w"])
            .arg(capture)
            .arg(&filter)
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to start tcpdump")?;
        let mut stderr = BufReader::new(child.stderr.take().context("no output")?);
        let child = Killed(child);
        let mut said = String::new();
        while !said.contains("listening on") {
            let len = stderr.read_line(&mut said)?;
            ensure!(len > 0, "tcpdump did not start: {}", said.trim());
        }
        Ok(Self { child, stderr })
    }

    /// Ends it, and sees to it that it has lost nothing.
    fn stop(mut self) -> Result<()> {
        // What a socket was sent last may be on its way still.
        std::thread::sleep(Duration::from_millis(500));
        terminate(&mut self.child.0)?;
        let said: Vec<String> = self.stderr.lines().collect::<Result<_, _>>()?;
        let dropped = said.iter().find(|line| line.contains("dropped by kernel"));
        let dropped = dropped.with_context(|| format!("tcpdump said {said:?}"))?;
        ensure!(
            dropped.starts_with("0 "),
            "{dropped}: the machine is too busy to capture; try again"
        );
        Ok(())
    }
}

/// A program that ends with us.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Random enough, and the same every time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
