//! What is sent to: nginx, and a server that notes arrivals.

use std::fs;
use std::io::{BufRead, BufReader, Read as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::super::measure::pinned;
use super::FOLDER;

/// nginx with one process, which answers everything with two bytes.
pub(super) struct Nginx {
    child: Child,
    pub(super) http1: u16,
    pub(super) h2c: u16,
}

impl Nginx {
    const WAIT: Duration = Duration::from_secs(10);

    pub(super) fn start(core: usize) -> Result<Self> {
        let (http1, h2c) = (free_port()?, free_port()?);
        let folder = std::env::current_dir()?.join(FOLDER);
        let folder = folder.display();
        let text = format!(
            "daemon off; worker_processes 1; worker_rlimit_nofile 65536; pid {folder}/nginx.pid;
             error_log {folder}/nginx.log crit;
             events {{ worker_connections 32768; }}
             http {{
               access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
               client_body_temp_path {folder}/nginx-body;
               server {{ listen 127.0.0.1:{http1} backlog=16384; location / {{ return 200 ok; }} }}
               server {{ listen 127.0.0.1:{h2c} http2 backlog=16384; location / {{ return 200 ok; }} }}
             }}"
        );
        let path = format!("{FOLDER}/nginx.conf");
        fs::write(&path, text)?;
        let path = fs::canonicalize(path)?;
        let path = path.to_str().context("a path that is not text")?;
        let child = pinned(core, Path::new("nginx"), &["-c", path])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .spawn()
            .context("failed to start nginx")?;
        let nginx = Self { child, http1, h2c };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, http1)).is_err() {
            ensure!(begun.elapsed() < Self::WAIT, "nginx does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers; a KILL would leave them.
        let pid = self.child.id().to_string();
        Command::new("kill").arg(pid).status().ok();
        self.child.wait().ok();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// The example `arrivals`.
pub(super) struct Arrivals {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    port: u16,
}

impl Arrivals {
    pub(super) fn start(core: usize, stalls: bool) -> Result<Self> {
        let args: &[&str] = if stalls { &["--stall"] } else { &[] };
        let mut child = pinned(core, Path::new("target/release/examples/arrivals"), args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut out = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        out.read_line(&mut line)?;
        let port = line.trim().parse().context("the server says no port")?;
        Ok(Self { child, out, port })
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// When the requests came, since the first connection, in nanoseconds.
    pub(super) fn end(mut self) -> Result<Vec<u64>> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.out.read_to_string(&mut text)?;
        ensure!(self.child.wait()?.success(), "the server failed");
        let lines = text.lines().map(str::parse::<u64>);
        Ok(lines.collect::<Result<_, _>>()?)
    }
}
