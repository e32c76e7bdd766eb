//! A network between a client and a server, which does what it is told: one request a connection.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The store asks for patience.
    Throttle,
    /// 403.
    Deny,
    /// The connection ends without an answer.
    Refuse,
    /// The answer ends after so many bytes of its body.
    Cut(usize),
    /// This byte of the answer's body is another one.
    Flip(usize),
}

#[derive(Debug, Default)]
struct State {
    /// By method; each request takes one.
    faults: HashMap<&'static str, VecDeque<Fault>>,
    /// Heads of requests, as they came.
    heads: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Network {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Network {
    /// A server, and how it asks for patience: the status, and the code of the error.
    pub(crate) fn to(server: SocketAddr, throttles: (&'static str, &'static str)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                let state = Arc::clone(&shared);
                // A client that goes away in the middle is what a test wanted.
                thread::spawn(move || drop(carry(&client.unwrap(), server, throttles, &state)));
            }
        });
        Self { address, state }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn will(&self, method: &'static str, faults: impl IntoIterator<Item = Fault>) {
        let mut state = self.state.lock().unwrap();
        state.faults.entry(method).or_default().extend(faults);
    }

    pub(crate) fn left(&self, method: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.faults.get(method).map_or(0, VecDeque::len)
    }

    /// Heads of requests, as they came.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.state.lock().unwrap().heads.clone()
    }

    /// Request lines, with the range that was asked for.
    pub(crate) fn requests(&self) -> Vec<String> {
        let line = |head: &String| {
            let range = head
                .lines()
                .find(|line| line.to_ascii_lowercase().starts_with("range:"));
            let line = head.lines().next().unwrap();
            [Some(line), range]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(" ")
        };
        self.heads().iter().map(line).collect()
    }
}

fn carry(
    client: &TcpStream,
    server: SocketAddr,
    throttles: (&str, &str),
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if lower.starts_with("connection:") {
            continue;
        }
        // By its name the server of Google's protocol knows which interface is meant.
        if lower.starts_with("host:") {
            line = format!("host: {server}\r\n");
        }
        if line == "\r\n" {
            head.push_str("connection: close\r\n\r\n");
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request = head.lines().next().unwrap().to_owned();
    let fault = {
        let mut state = state.lock().unwrap();
        state.heads.push(head.clone());
        let method = request.split(' ').next().unwrap();
        state.faults.get_mut(method).and_then(VecDeque::pop_front)
    };
    let mut answer = match fault {
        Some(Fault::Throttle) => refusal(throttles.0, throttles.1),
        Some(Fault::Deny) => refusal("403 Forbidden", "AccessDenied"),
        Some(Fault::Refuse) => return Ok(()),
        _ => {
            let mut upstream = TcpStream::connect(server)?;
            upstream.write_all(head.as_bytes())?;
            upstream.write_all(&body)?;
            let mut answer = Vec::new();
            upstream.read_to_end(&mut answer)?;
            answer
        }
    };
    let begin = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let begin = begin.unwrap() + 4;
    match fault {
        Some(Fault::Cut(at)) => answer.truncate(begin + at),
        Some(Fault::Flip(at)) => answer[begin + at] ^= 1,
        _ => {}
    }
    let mut client = client;
    client.write_all(&answer)?;
    client.shutdown(Shutdown::Both)
}

fn refusal(status: &str, code: &str) -> Vec<u8> {
    let body = format!("<Error><Code>{code}</Code></Error>");
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
