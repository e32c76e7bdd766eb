//! `tapedeck replay` to real servers of HTTP/2, other than nginx: nghttpd, and node.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Tapedeck, has, tape_of, temp_folder};
use serde_json::Value;
use tapedeck_testkit::Conversation;

/// A server that ends with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().unwrap();
    }
}

impl Server {
    /// nghttpd, which writes all frames into a file.
    fn nghttpd(folder: &Path, log: &str, more: &[&str]) -> Self {
        fs::write(folder.join("hello"), "hello from a file").unwrap();
        // It cannot choose a port by itself, and whoever else is on this machine may be faster.
        for _ in 0..20 {
            let port = free_port();
            let child = Command::new("nghttpd")
                .args(["--no-tls", "-v", "-a", "127.0.0.1", "-d"])
                .arg(folder)
                .args(more)
                .arg(port.to_string())
                .stdout(fs::File::create(folder.join(log)).unwrap())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut server = Self { child, port };
            // It writes when somebody comes, and ends where the port is not its own.
            let listens = format!("listen 127.0.0.1:{port}");
            let mut visitors = Vec::new();
            while server.child.try_wait().unwrap().is_none() {
                if visitors.is_empty() && is_listened_on(port) {
                    visitors.extend(TcpStream::connect(("127.0.0.1", port)));
                }
                let said = fs::read_to_string(folder.join(log)).unwrap();
                if said.contains(&listens) {
                    return server;
                }
                std::thread::yield_now();
            }
        }
        panic!("nghttpd does not start");
    }

    /// A program of node that prints its port first; gives its other lines.
    fn node(program: &str) -> (Self, impl Iterator<Item = String>) {
        let mut child = Command::new("node")
            .args(["-e", program])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let port = lines.next().unwrap().parse().unwrap();
        (Self { child, port }, lines)
    }

    /// Plays an archive to it as fast as it goes, and gives the summary.
    fn play(&self, folder: &Path, tape: &str, more: &[&str]) -> Value {
        let summary = folder.join("summary.json");
        let target = format!("h2c://127.0.0.1:{}", self.port);
        let args = ["replay", tape, "--target", &target];
        let summary_file = ["--summary", summary.to_str().unwrap()];
        Tapedeck::new(
            args.into_iter()
                .chain(summary_file)
                .chain(more.iter().copied()),
        )
        .succeeds();
        serde_json::from_slice(&fs::read(summary).unwrap()).unwrap()
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Whether somebody listens on a port of this machine. To try by connecting would sooner or later be given that very
/// port, meet itself, and keep the server from it.
fn is_listened_on(port: u16) -> bool {
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    let listens = format!("0100007F:{port:04X} 00000000:0000 0A ");
    sockets.lines().any(|line| line.contains(&listens))
}

/// An archive of what one client said.
fn tape(folder: &Path, requests: &[Vec<u8>]) -> String {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.handshake();
    for request in requests {
        talk.client(request);
        talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
    talk.close();
    tape_of(folder, &talk)
}

/// Bytes of which no two neighbours are the same.
fn body(len: usize) -> Vec<u8> {
    (0..len).map(|n| b'a' + (n % 23) as u8).collect()
}

/// An upload in chunks, with trailers behind it.
fn upload(path: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nX-B: 1\r\nX-A: 2\r\nX-B: 3\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    )
    .into_bytes();
    for chunk in body.chunks(5000) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\nX-Sum: 77\r\n\r\n");
    bytes
}

#[test]
fn nghttpd_understands_what_is_played() {
    if !has("nghttpd") {
        return;
    }
    let folder = temp_folder();
    let folder = folder.path();
    let server = Server::nghttpd(folder, "frames", &["--echo-upload", "-m", "5"]);
    let mut requests: Vec<Vec<u8>> = (0..40)
        .map(|n| format!("GET /hello HTTP/1.1\r\nHost: a\r\nX-N: {n}\r\n\r\n").into_bytes())
        .collect();
    requests.push(b"GET /missing HTTP/1.1\r\nHost: a\r\n\r\n".to_vec());
    requests.push(b"HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n".to_vec());
    // Longer than the window that it begins with: it has to be given more.
    requests.push(upload("/up", &body(200_000)));
    let tape = tape(folder, &requests);
    let summary = server.play(folder, &tape, &["--speed", "max", "--connections", "2"]);
    let own = &summary["tapedeck"];
    assert_eq!(own["requests"]["answered"], 43, "{own}");
    assert_eq!(own["statuses"], serde_json::json!({ "200": 42, "404": 1 }));
    // The upload came back whole.
    let received = &summary["metrics"]["data_received"]["values"]["count"];
    assert!(received.as_u64().unwrap() > 200_000, "{received}");
    drop(server);

    let frames = fs::read_to_string(folder.join("frames")).unwrap();
    // Of that stream: its fields in their order, duplicates and all, and its trailers.
    let of = |line: &str| {
        let (_, rest) = line.split_once("recv (stream_id=")?;
        let (stream, field) = rest.split_once(") ")?;
        Some((stream.to_owned(), field.to_owned()))
    };
    let fields: Vec<(String, String)> = frames.lines().filter_map(of).collect();
    let (stream, _) = fields
        .iter()
        .find(|(_, field)| field == ":path: /up")
        .unwrap();
    // Both connections have streams of that number.
    let ours = fields.iter().filter(|(one, _)| one == stream);
    let ours: Vec<&str> = ours.map(|(_, field)| field.as_str()).collect();
    let begin = ours.iter().position(|field| *field == "x-b: 1").unwrap();
    assert_eq!(ours[begin..begin + 3], ["x-b: 1", "x-a: 2", "x-b: 3"]);
    assert!(ours.contains(&"x-sum: 77"), "{ours:?}");
    for complaint in ["GOAWAY", "PROTOCOL_ERROR", "FLOW_CONTROL_ERROR"] {
        let heard = frames
            .lines()
            .filter(|line| line.contains("send "))
            .any(|line| line.contains(complaint));
        assert!(!heard, "nghttpd says {complaint}:\n{frames}");
    }
}

/// Says what it was asked, a line each; answers with 300,000 bytes and a trailer.
const NODE: &str = r#"
const http2 = require('node:http2');
const server = http2.createServer({ settings: { initialWindowSize: 20000, maxConcurrentStreams: 4 } });
server.on('stream', (stream, headers, flags, raw) => {
  let body = '', trailers = {};
  stream.setEncoding('latin1');
  stream.on('data', (data) => { body += data; });
  stream.on('trailers', (found) => { trailers = found; });
  stream.on('end', () => {
    const fields = [];
    for (let n = 0; n < raw.length; n += 2) fields.push([raw[n], raw[n + 1]]);
    console.log(JSON.stringify({ fields, body, trailers }));
    stream.respond({ ':status': 201, 'content-type': 'text/plain' }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-end': 'yes' }));
    stream.end('x'.repeat(300000));
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
"#;

#[test]
fn node_understands_what_is_played() {
    if !has("node") {
        return;
    }
    let folder = temp_folder();
    let folder = folder.path();
    let (server, lines) = Server::node(NODE);
    let requests: Vec<Vec<u8>> = (0..12)
        .map(|n| upload(&format!("/up/{n}?q={n}"), &body(10_000 * n)))
        .collect();
    let tape = tape(folder, &requests);
    let summary = server.play(folder, &tape, &["--speed", "max", "--connections", "1"]);
    let own = &summary["tapedeck"];
    assert_eq!(own["statuses"], serde_json::json!({ "201": 12 }), "{own}");
    let received = &summary["metrics"]["data_received"]["values"]["count"];
    assert!(received.as_u64().unwrap() > 12 * 300_000, "{received}");

    let mut seen: Vec<Value> = lines
        .take(requests.len())
        .map(|line| serde_json::from_str(&line).unwrap())
        .collect();
    seen.sort_by_key(|one| one["body"].as_str().unwrap().len());
    for (n, one) in seen.iter().enumerate() {
        assert_eq!(one["body"].as_str().unwrap().as_bytes(), body(10_000 * n));
        assert_eq!(one["trailers"]["x-sum"], "77");
        let fields: Vec<(&str, &str)> = one["fields"]
            .as_array()
            .unwrap()
            .iter()
            .map(|field| (field[0].as_str().unwrap(), field[1].as_str().unwrap()))
            .collect();
        let path = format!("/up/{n}?q={n}");
        let authority = format!("127.0.0.1:{}", server.port);
        assert_eq!(
            fields[..7],
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":authority", &*authority),
                (":path", &*path),
                ("x-b", "1"),
                ("x-a", "2"),
                ("x-b", "3"),
            ]
        );
    }
}
