//! Byte-exactness, from the system call to the archive: {ways to send} x {lengths} x {paths}.
//!
//! One HTTP/1 connection for each way to send. Its bodies, of requests and of responses, are given
//! to the socket in that way, and every byte of them must be in the archive. Compared are the bytes
//! themselves, which is more than any hash of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use tapedeck_archive::{Archive, BodyBuffer, Scratch};
use tapedeck_model::Missing;
use tapedeckd::capture::{Backend, Options, Summary};
use tapedeckd::sources::libpcap;

use crate::pair::{Pair, address_for_child};
use crate::sending::{Sending, send};
use crate::support::{record, recording_options, request, response};

/// Around the 64 KiB that an IP header can announce.
pub(crate) const LENGTHS: [usize; 5] = [1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 1 << 20];

/// Longer than any buffer between sender and archive.
const LONG: usize = 64 << 20;

/// What is said: the lengths in both directions, or one long body.
#[derive(Clone, Copy)]
enum Talk {
    Lengths,
    Long,
}

impl Talk {
    /// The lengths of the bodies of requests and responses on one connection.
    fn bodies(self) -> Vec<(usize, usize)> {
        match self {
            Self::Lengths => LENGTHS.map(|len| (len, len)).to_vec(),
            Self::Long => vec![(1, LONG)],
        }
    }

    /// Room for what is said while the reader waits for a processor: on a busy machine, too, not one
    /// packet may be lost.
    const fn ring_bytes(self) -> usize {
        match self {
            Self::Lengths => 128 << 20,
            Self::Long => 512 << 20,
        }
    }
}

/// Answers the requests of each connection; a target is `/HOW/REQUEST-LENGTH/RESPONSE-LENGTH`.
fn serve(listener: &TcpListener, connections: usize) {
    for _ in 0..connections {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        while let Some((sending, asked, answered)) = read_head(&mut reader) {
            let mut body = vec![0; asked];
            reader.read_exact(&mut body).unwrap();
            assert!(body == request(asked), "the server got the request");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {answered}\r\n\r\n");
            reader.get_mut().write_all(head.as_bytes()).unwrap();
            send(reader.get_mut(), &response(answered), sending);
        }
    }
}

fn read_head(reader: &mut impl BufRead) -> Option<(Sending, usize, usize)> {
    let mut target = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        if let Some(parts) = line.strip_prefix("POST /") {
            let mut parts = parts.split([' ', '/']);
            let mut next = || parts.next().unwrap();
            let sending = Sending::named(next());
            target = Some((sending, next().parse().unwrap(), next().parse().unwrap()));
        }
        if line == "\r\n" {
            return target;
        }
    }
}

/// Has a connection for each way to send.
fn post(server: SocketAddr, talk: Talk) {
    for sending in Sending::ALL {
        let mut stream = TcpStream::connect(server).unwrap();
        for (asked, answered) in talk.bodies() {
            let head = format!(
                "POST /{sending:?}/{asked}/{answered} HTTP/1.1\r\nHost: test\r\n\
                 Content-Length: {asked}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            send(&mut stream, &request(asked), sending);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {answered}\r\n\r\n");
            let mut got = vec![0; head.len() + answered];
            stream.read_exact(&mut got).unwrap();
            assert!(
                got.ends_with(&response(answered)),
                "the client got the response"
            );
        }
    }
}

/// What records, and what came of it.
struct Recorder {
    name: String,
    path: std::path::PathBuf,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Summary>,
}

impl Recorder {
    fn start(name: &str, options: &Options, folder: &Path) -> Option<Self> {
        let path = folder.join(format!("{name}.tape"));
        let stop = Arc::new(AtomicBool::new(false));
        Some(Self {
            name: name.to_owned(),
            thread: record(options, &path, &stop)?,
            path,
            stop,
        })
    }

    /// Asserts that everything is in the archive.
    #[track_caller]
    fn check(self, talk: Talk) {
        self.stop.store(true, Ordering::Release);
        let name = &self.name;
        let Summary { ledger, drops, .. } = self.thread.join().unwrap();
        assert_eq!(drops.total(), 0, "{name}: {drops:?}");
        assert_eq!((ledger.gaps, ledger.connections), (0, 7), "{name}");
        let archive = Archive::open(&self.path).unwrap();
        let mut expected = Sending::ALL.into_iter().flat_map(|sending| {
            let bodies = talk.bodies().into_iter();
            bodies.map(move |(asked, answered)| (sending, asked, answered))
        });
        let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::with_limit(LONG as u64));
        for row in archive.rows() {
            let (sending, asked, answered) = expected.next().unwrap();
            let what = format!("{name}: {sending:?} {asked} {answered}");
            let target = format!("/{sending:?}/{asked}/{answered}");
            assert_eq!(row.target().unwrap(), target.as_bytes(), "{name}");
            assert_eq!(row.request_missing(), Missing::NONE, "{what}");
            assert_eq!(row.response_missing(), Missing::NONE, "{what}");
            let record = archive.load(row.id(), &mut scratch).unwrap();
            for (message, sent) in [
                (record.request(), request(asked)),
                (record.response(), response(answered)),
            ] {
                let body = message.unwrap().body();
                let archived = archive.body(&body, &mut buffer).unwrap();
                assert_eq!(archived.len(), sent.len(), "{what}");
                assert!(archived == sent, "{what}: other bytes than were sent");
            }
        }
        assert_eq!(expected.next(), None, "{name}");
    }
}

#[track_caller]
fn check_loopback(ip: IpAddr, talk: Talk, backends: &[Backend]) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let server = listener.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let recorders: Vec<_> = backends
        .iter()
        .filter_map(|backend| {
            let mut options = recording_options(*backend, server.port());
            options.ring_bytes = talk.ring_bytes();
            Recorder::start(backend.name(), &options, folder.path())
        })
        .collect();
    thread::scope(|scope| {
        scope.spawn(|| serve(&listener, Sending::ALL.len()));
        post(server, talk);
    });
    for recorder in recorders {
        recorder.check(talk);
    }
}

/// The port must be that of no other test: the programs see the sockets of all namespaces.
#[track_caller]
fn check_veth(server: &str, talk: Talk, backends: &[Backend]) {
    let server: SocketAddr = server.parse().unwrap();
    let Some(pair) = Pair::new(&format!("matrix{}", server.port())) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let recorders: Vec<_> = backends
        .iter()
        .filter_map(|backend| {
            let mut options = recording_options(*backend, server.port());
            options.ring_bytes = talk.ring_bytes();
            if *backend != Backend::Ebpf {
                options.interface = Some("veth0".to_owned());
                options.network_namespace = Some(pair.path(0));
            }
            Recorder::start(backend.name(), &options, folder.path())
        })
        .collect();
    let talks = match talk {
        Talk::Lengths => "matrix::child_that_posts",
        Talk::Long => "matrix::child_that_posts_much",
    };
    pair.converse(server, "matrix::child_that_serves", talks);
    for recorder in recorders {
        recorder.check(talk);
    }
}

#[test]
fn child_that_serves() {
    if let Some(address) = address_for_child() {
        let listener = TcpListener::bind(address).unwrap();
        println!("listening");
        serve(&listener, Sending::ALL.len());
    }
}

#[test]
fn child_that_posts() {
    if let Some(address) = address_for_child() {
        post(address, Talk::Lengths);
    }
}

#[test]
fn child_that_posts_much() {
    if let Some(address) = address_for_child() {
        post(address, Talk::Long);
    }
}

/// Every backend of this build.
fn all() -> Vec<Backend> {
    let is_built = |backend: &Backend| *backend != Backend::Libpcap || libpcap::IS_BUILT;
    Backend::ALL.into_iter().filter(is_built).collect()
}

#[test]
fn every_way_to_send_on_loopback_ipv4() {
    check_loopback(Ipv4Addr::LOCALHOST.into(), Talk::Lengths, &all());
}

#[test]
fn every_way_to_send_on_loopback_ipv6() {
    check_loopback(Ipv6Addr::LOCALHOST.into(), Talk::Lengths, &all());
}

#[test]
fn every_way_to_send_between_namespaces_ipv4() {
    check_veth("10.211.0.2:8100", Talk::Lengths, &all());
}

#[test]
fn every_way_to_send_between_namespaces_ipv6() {
    check_veth("[fd00:211::2]:8101", Talk::Lengths, &all());
}

#[test]
fn every_way_to_send_much_on_loopback_ipv4() {
    check_loopback(Ipv4Addr::LOCALHOST.into(), Talk::Long, &all());
}

#[test]
fn every_way_to_send_much_on_loopback_ipv6() {
    check_loopback(Ipv6Addr::LOCALHOST.into(), Talk::Long, &all());
}

#[test]
fn every_way_to_send_much_between_namespaces_ipv4() {
    check_veth("10.211.0.2:8102", Talk::Long, &all());
}

#[test]
fn every_way_to_send_much_between_namespaces_ipv6() {
    check_veth("[fd00:211::2]:8103", Talk::Long, &all());
}
