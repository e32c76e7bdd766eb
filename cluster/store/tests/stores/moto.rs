//! A server of S3's protocol: moto, of PyPI.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Installed by `cargo xtask test`.
const MOTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/moto");

/// A server with a bucket `tapes`.
#[derive(Debug)]
pub(crate) struct Moto {
    child: Child,
    address: SocketAddr,
}

impl Moto {
    /// None where it is not installed, which it says.
    #[expect(
        clippy::print_stdout,
        reason = "the runner reads why a test was skipped"
    )]
    pub(crate) fn start() -> Option<Self> {
        if !Path::new(MOTO).exists() {
            println!("skipped: moto is not installed (cargo xtask test installs it)");
            return None;
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = Command::new("python3")
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p"])
            .arg(address.port().to_string())
            .env("PYTHONPATH", fs::canonicalize(MOTO).unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut moto = Self { child, address };
        moto.wait();
        assert!(moto.ask("PUT /tapes").contains(" 200 "));
        Some(moto)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn wait(&mut self) {
        let begin = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "moto ended");
            assert!(begin.elapsed() < Duration::from_secs(60), "moto is silent");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!(
            "{request} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
