//! Servers for tests: plain sockets and threads, so that nothing stands between a test and the
//! bytes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::player::Options;

/// A request as a server saw it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) connection: usize,
    /// Its bytes, body included.
    pub(super) bytes: Vec<u8>,
}

impl Seen {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(super) fn path(&self) -> String {
        self.text().split(' ').nth(1).unwrap().to_owned()
    }
}

/// What a server has seen so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Mutex<(Vec<Seen>, usize)>>);

impl Log {
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().0.clone()
    }

    /// How many connections were accepted.
    pub(super) fn connections(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

/// A client of the server, with what it sent but was not looked at.
pub(super) struct Peer {
    pub(super) stream: TcpStream,
    pub(super) connection: usize,
    pending: Vec<u8>,
    log: Log,
}

impl Peer {
    /// Reads one request to its end; `None` when the connection has ended.
    pub(super) fn request(&mut self) -> Option<Seen> {
        loop {
            if let Some(len) = request_len(&self.pending) {
                let rest = self.pending.split_off(len);
                let seen = Seen {
                    at: Instant::now(),
                    connection: self.connection,
                    bytes: std::mem::replace(&mut self.pending, rest),
                };
                self.log.0.lock().unwrap().0.push(seen.clone());
                return Some(seen);
            }
            let mut buffer = [0; 65536];
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.pending.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// Reads the head of a request, and leaves its body.
    pub(super) fn head(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.pending, b"\r\n\r\n") {
                let rest = self.pending.split_off(at + 4);
                return Some(std::mem::replace(&mut self.pending, rest));
            }
            let mut buffer = [0; 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.pending.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// What has come behind the last head and was not looked at.
    pub(super) fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Reads that many bytes of a body.
    pub(super) fn take(&mut self, len: usize) -> bool {
        let mut rest = vec![0; len - self.pending.len().min(len)];
        let drained = self.pending.len().min(len);
        self.pending.drain(..drained);
        self.stream.read_exact(&mut rest).is_ok()
    }

    /// Waits until the server as a whole has seen that many requests.
    pub(super) fn wait_for(&self, n: usize) {
        while self.log.0.lock().unwrap().0.len() < n {
            std::thread::yield_now();
        }
    }

    /// When the first request came to the server.
    pub(super) fn first_arrival(&self) -> Instant {
        self.log.0.lock().unwrap().0[0].at
    }

    /// Writes, as far as the client still listens.
    pub(super) fn answer(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Closes with a reset instead of a FIN.
    pub(super) fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
}

pub(super) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Serves every connection with `serve`, on a thread of its own.
pub(super) fn serve(serve: impl Fn(Peer) + Clone + Send + 'static) -> (SocketAddr, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let log = Log::default();
    let shared = log.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            stream.set_nodelay(true).unwrap();
            let connection = {
                let mut state = shared.0.lock().unwrap();
                state.1 += 1;
                state.1 - 1
            };
            let peer = Peer {
                stream,
                connection,
                pending: Vec::new(),
                log: shared.clone(),
            };
            let serve = serve.clone();
            std::thread::spawn(move || serve(peer));
        }
    });
    (address, log)
}

/// A server that answers everything with 200.
pub(super) fn polite() -> (SocketAddr, Log) {
    serve(|mut peer| while peer.request().is_some() && peer.answer(OK) {})
}

pub(super) fn options(address: SocketAddr) -> Options {
    Options::new(format!("http://{address}").parse().unwrap())
}

pub(super) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The length of the first request, where it is there as a whole.
fn request_len(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    if text.contains("transfer-encoding:") {
        let end = if text.contains("trailer:") {
            find(&bytes[head..], b"\r\n0\r\n").map(|at| at + 5)
        } else {
            None
        };
        let from = head + end.unwrap_or(0);
        return find(&bytes[from..], b"\r\n\r\n").map(|at| from + at + 4);
    }
    let len = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(0, |len| len.trim().parse().unwrap());
    (bytes.len() >= head + len).then_some(head + len)
}
