//! Every golden capture, imported and served: each recorded request gets its own recorded answer.

#![expect(clippy::unwrap_used, reason = "the helpers of this test are tests")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Uri};
use tapedeck_archive::{
    Archive, BodyBuffer, HeadView, MessageView, Provenance, Scratch, Writer, WriterOptions,
};
use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_model::{BodyPart, Exchange, UnreadConnection};
use tapedeck_packet::CaptureReader;
use tapedeck_replayer::mock::{Mock, Options, StartError};
use tokio::runtime;

/// The fields that the mock looks at: how to read the body, and who asks.
const COMPARED: [&str; 3] = ["content-type", "authorization", "cookie"];

struct ToArchive(Writer);

impl Recorder for ToArchive {
    fn body_part(&mut self, part: &BodyPart) {
        self.0.body_part(part).unwrap();
    }

    fn exchange(&mut self, exchange: &Exchange) {
        self.0.exchange(exchange).unwrap();
    }

    fn unread(&mut self, connection: &UnreadConnection) {
        self.0.unread(connection).unwrap();
    }
}

fn import(capture: &Path, archive: &Path) {
    let writer = Writer::create(archive, WriterOptions::new(Provenance::default())).unwrap();
    let mut recorder = ToArchive(writer);
    let mut engine = Engine::new(Limits::default());
    let mut reader = CaptureReader::open(File::open(capture).unwrap()).unwrap();
    // A damaged end is another test's concern.
    while let Ok(Some(packet)) = reader.next_packet() {
        engine.packet(&packet, &mut recorder);
    }
    engine.finish(&mut recorder);
    recorder.0.seal(&engine.ledger()).unwrap();
}

/// A final response as a client read it.
#[derive(Debug, Eq, PartialEq)]
struct Got {
    status: u16,
    /// Without those that frame or belong to the connection.
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
}

/// Asks by hand, so that every byte of the target and every method goes out as recorded.
fn ask(
    addr: SocketAddr,
    request: &MessageView<'_>,
    head: &HeadView<'_>,
    host: &[u8],
    body: &[u8],
) -> Got {
    let method = head.method().unwrap();
    let mut bytes = [method, b" ", head.target().unwrap(), b" HTTP/1.1\r\n"].concat();
    bytes.extend_from_slice(&[b"Host: ", host, b"\r\nConnection: close\r\n"].concat());
    for name in COMPARED {
        if let Some(value) = head.field(name) {
            bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
    }
    if !request.body().is_empty() {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    let mut stream = TcpStream::connect(addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(&bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    read(&answer, method)
}

fn read(mut answer: &[u8], method: &[u8]) -> Got {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut head = httparse::Response::new(&mut fields);
        let len = head.parse(answer).unwrap().unwrap();
        let status = head.code.unwrap();
        answer = &answer[len..];
        // An interim response.
        if status < 200 {
            continue;
        }
        let chunked = head
            .headers
            .iter()
            .any(|field| field.name.eq_ignore_ascii_case("transfer-encoding"));
        let stated = head
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case("content-length"))
            .map(|field| std::str::from_utf8(field.value).unwrap().parse().unwrap());
        let kept = head
            .headers
            .iter()
            .map(|field| (field.name.as_bytes(), field.value));
        let fields = end_to_end(kept, &[]);
        let bodyless = method == b"HEAD" || matches!(status, 204 | 304);
        let (body, trailers) = if bodyless {
            assert!(answer.is_empty());
            (Vec::new(), Vec::new())
        } else if chunked {
            unchunk(answer)
        } else {
            assert_eq!(stated, Some(answer.len()));
            (answer.to_vec(), Vec::new())
        };
        return Got {
            status,
            fields,
            body,
            trailers,
        };
    }
}

fn unchunk(mut answer: &[u8]) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let mut body = Vec::new();
    loop {
        let (at, size) = httparse::parse_chunk_size(answer).unwrap().unwrap();
        answer = &answer[at..];
        if size == 0 {
            break;
        }
        let (data, rest) = answer.split_at(usize::try_from(size).unwrap());
        body.extend_from_slice(data);
        answer = rest.strip_prefix(b"\r\n").unwrap();
    }
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let (_, fields) = httparse::parse_headers(answer, &mut fields)
        .unwrap()
        .unwrap();
    let fields = fields
        .iter()
        .map(|field| (field.name.as_bytes(), field.value));
    (body, end_to_end(fields, &[]))
}

/// What of a head must arrive unchanged. Field by field, in order; names in lower case.
fn end_to_end<'a>(
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    named: &[u8],
) -> Vec<(String, Vec<u8>)> {
    const HOPS: [&str; 6] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "transfer-encoding",
        "content-length",
    ];
    let named: Vec<_> = named
        .split(|byte| *byte == b',')
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_lowercase())
        .collect();
    fields
        .map(|(name, value)| {
            // A folded value is unfolded before it is sent (RFC 9112 section 5.2).
            let unfold = |byte: &u8| if b"\r\n".contains(byte) { b' ' } else { *byte };
            let value = value.iter().map(unfold).collect();
            (String::from_utf8_lossy(name).to_lowercase(), value)
        })
        .filter(|(name, _)| {
            !name.starts_with(':') && !HOPS.contains(&name.as_str()) && !named.contains(name)
        })
        .collect()
}

fn pairs<'a>(head: &HeadView<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    head.fields()
        .map(|field| (field.name.unwrap(), field.value.unwrap()))
}

/// Asks over HTTP/2. `None`: its client cannot say such a request.
fn ask_http2(addr: SocketAddr, head: &HeadView<'_>, host: &[u8], body: &[u8]) -> Option<Got> {
    let mut request = Request::builder().method(head.method()?).uri(
        Uri::builder()
            .scheme("http")
            .authority(host)
            .path_and_query(head.target()?)
            .build()
            .ok()?,
    );
    for name in COMPARED {
        if let Some(value) = head.field(name) {
            request = request.header(name, value);
        }
    }
    let request = request.body(()).ok()?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let talk = async {
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move {
            // Its end is seen by the stream.
            let _end = connection.await;
        });
        let (response, mut upload) = client.send_request(request, body.is_empty()).unwrap();
        if !body.is_empty() {
            upload
                .send_data(Bytes::copy_from_slice(body), true)
                .unwrap();
        }
        let (head, mut stream) = response.await.unwrap().into_parts();
        let mut body = Vec::new();
        while let Some(data) = stream.data().await {
            let data = data.unwrap();
            stream.flow_control().release_capacity(data.len()).unwrap();
            body.extend_from_slice(&data);
        }
        let trailers = stream.trailers().await.unwrap().unwrap_or_default();
        let fields = |map: &HeaderMap| {
            let pairs = map
                .iter()
                .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
            end_to_end(pairs, &[])
        };
        Got {
            status: head.status.as_u16(),
            fields: fields(&head.headers),
            body,
            trailers: fields(&trailers),
        }
    };
    Some(runtime.block_on(talk))
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Client {
    Http1,
    Http2,
}

/// Serves one capture and asks for everything in it; gives how many exchanges were asked for.
fn check(capture: &Path, archive: &Arc<Archive>, client: Client) -> u64 {
    let mock = match Mock::start(Arc::clone(archive), &Options::default()) {
        Ok(mock) => mock,
        Err(
            StartError::EmptyArchive
            | StartError::NoResponses { .. }
            | StartError::NothingToServe { .. },
        ) => return 0,
        Err(error) => panic!("{error}"),
    };
    let (mut scratch, mut body) = (Scratch::default(), BodyBuffer::default());
    let mut asked = 0;
    for id in 0..archive.len() {
        let row = archive.row(id).unwrap();
        let whole = row.request_missing().is_empty() && row.response_missing().is_empty();
        if !whole || row.tunnel() || row.status().is_none_or(|status| status < 200) {
            continue;
        }
        let record = archive.load(id, &mut scratch).unwrap();
        let (request, response) = (record.request().unwrap(), record.response().unwrap());
        let host = row.authority().unwrap_or(b"nobody");
        let sent = archive.body(&request.body(), &mut body).unwrap().to_vec();
        let head = request.head().unwrap();
        let got = match client {
            Client::Http1 => Some(ask(mock.addr(), &request, &head, host, &sent)),
            Client::Http2 => ask_http2(mock.addr(), &head, host, &sent),
        };
        let Some(mut got) = got else { continue };
        let head = response.head().unwrap();
        let mut expect = Got {
            status: head.status().unwrap(),
            fields: end_to_end(pairs(&head), head.field("connection").unwrap_or_default()),
            body: archive.body(&response.body(), &mut body).unwrap().to_vec(),
            trailers: response
                .trailers()
                .map_or_else(Vec::new, |trailers| end_to_end(pairs(&trailers), &[])),
        };
        if client == Client::Http2 {
            // Equal names stand together there.
            got.fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            expect.fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        assert_eq!(got, expect, "{}: exchange {id}", capture.display());
        asked += 1;
    }
    let stats = mock.stop();
    assert_eq!(
        (stats.hits, stats.misses, stats.refused),
        (asked, 0, 0),
        "{}",
        capture.display()
    );
    // Each answered for itself, in recorded order where the same was asked twice.
    assert!(stats.hits_by_exchange.iter().all(|(_, hits)| *hits == 1));
    if client == Client::Http1 {
        // Those are for clients of WebSocket.
        let conversations = archive
            .rows()
            .filter(|row| row.tunnel() && row.status() == Some(101) && row.complete());
        let not_asked = archive.len() - asked - conversations.count() as u64;
        assert_eq!(stats.skipped.total(), not_asked);
    }
    asked
}

#[test]
fn every_golden_capture_is_served_as_it_was_recorded() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/pcaps");
    let mut captures: Vec<PathBuf> = cases
        .read_dir()
        .unwrap()
        .flat_map(|case| case.unwrap().path().read_dir().into_iter().flatten())
        .map(|file| file.unwrap().path())
        .filter(|path| path.file_stem().is_some_and(|stem| stem == "input"))
        .collect();
    captures.sort();
    assert!(captures.len() >= 16, "{} captures", captures.len());
    let (mut http1, mut http2) = (0, 0);
    for capture in &captures {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("case.tape");
        import(capture, &path);
        let archive = Arc::new(Archive::open(&path).unwrap());
        http1 += check(capture, &archive, Client::Http1);
        http2 += check(capture, &archive, Client::Http2);
    }
    assert!(http1 > 300, "only {http1} exchanges over HTTP/1");
    assert!(http2 > 300, "only {http2} exchanges over HTTP/2");
}
