//! nginx with one process, as what is asked, or as what another server is compared with.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// nginx with one process, over HTTP/1.1 and over HTTP/2 without TLS. It ends with this handle.
pub(super) struct Nginx {
    child: Child,
    pub(super) http1: u16,
    pub(super) h2c: u16,
}

impl Nginx {
    /// How long it may take until it listens.
    const WAIT: Duration = Duration::from_secs(10);

    /// `command` starts nginx, on a core or in a control group. Its files are in `folder`, which it
    /// serves from; `server` says what: directives of a `server` block, such as
    /// `location / { return 200 ok; }`.
    pub(super) fn start(mut command: Command, folder: &Path, server: &str) -> Result<Self> {
        let (http1, h2c) = (free_port()?, free_port()?);
        fs::create_dir_all(folder)?;
        let root = fs::canonicalize(folder)?;
        let shown = root.to_str().context("a path that is not text")?;
        let config = root.join("nginx.conf");
        let text = format!(
            "daemon off; worker_processes 1; worker_rlimit_nofile 65536; pid {shown}/nginx.pid;
             error_log {shown}/nginx.log crit;
             events {{ worker_connections 32768; }}
             http {{
               access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
               sendfile on; default_type application/json; root {shown};
               client_body_temp_path {shown}/nginx-body; open_file_cache max=10;
               server {{ listen 127.0.0.1:{http1} backlog=16384; {server} }}
               server {{ listen 127.0.0.1:{h2c} http2 backlog=16384; {server} }}
             }}"
        );
        fs::write(&config, text)?;
        // Its log says what is wrong; standard error says, too, that `http2` is an old way to ask.
        let child = command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("-p")
            .arg(&root)
            .arg("-c")
            .arg(&config)
            .stderr(Stdio::null())
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

impl Nginx {
    /// The process that answers.
    pub(super) fn worker(&self) -> Result<u32> {
        let master = self.child.id();
        // taskset runs nginx in its own place, so that the child is the master.
        let children = format!("/proc/{master}/task/{master}/children");
        let begun = Instant::now();
        loop {
            let children = fs::read_to_string(&children)?;
            let first = children.split_ascii_whitespace().next();
            if let Some(worker) = first.and_then(|worker| worker.parse().ok()) {
                return Ok(worker);
            }
            ensure!(begun.elapsed() < Self::WAIT, "nginx has no worker");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its worker; a KILL would leave it.
        let pid = self.child.id().to_string();
        Command::new("kill").arg(pid).status().ok();
        self.child.wait().ok();
    }
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}
