//! Traffic, and what a source saw of it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tapedeck_archive::{Provenance, Writer, WriterOptions};
use tapedeck_model::TcpFlags;
use tapedeck_packet::{Decoded, decode};
use tapedeckd::capture::{self, Backend, OpenError, Options, Setup, Summary, Until};
use tapedeckd::sources::af_packet::{AfPacket, AfPacketOptions};
use tapedeckd::sources::ebpf::{Ebpf, EbpfOptions};
#[cfg(feature = "libpcap")]
use tapedeckd::sources::libpcap;
use tapedeckd::sources::{Drops, PacketSource, Policy, Source, SourceError};

pub(crate) use crate::sending::{Sending, send};

/// What was opened; `None`, and a line that says why, where this machine cannot.
pub(crate) fn or_skip<T>(opened: Result<T, SourceError>) -> Option<T> {
    match opened {
        Ok(source) => Some(source),
        Err(
            error @ (SourceError::MissingCapabilities(_)
            | SourceError::NoCgroup2
            | SourceError::Unsupported(_)),
        ) => {
            skip(&error.to_string());
            None
        }
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
}

/// Says why a test is skipped; fails where skipping is not allowed.
pub(crate) fn skip(reason: &str) {
    let is_required = std::env::var_os("TAPEDECK_REQUIRE_PRIVILEGES").is_some_and(|v| v == "1");
    assert!(!is_required, "cannot be skipped: {reason}");
    println!("skipped: {reason}");
}

/// The same for a program that is not installed, whose switch is another.
pub(crate) fn skip_without(program: &str) {
    let is_required = std::env::var_os("TAPEDECK_REQUIRE_TOOLS").is_some_and(|v| v == "1");
    assert!(!is_required, "{program} is not installed");
    println!("skipped: {program} is not installed");
}

/// Whether that program is installed; else says why a test is skipped.
pub(crate) fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|folder| folder.join(program).exists());
    if !found {
        skip_without(program);
    }
    found
}

pub(crate) fn ebpf_options(ports: &[u16]) -> EbpfOptions {
    EbpfOptions {
        cgroup: None,
        policy: Policy::only_ports(ports),
        ring_bytes: 64 << 20,
        streams: NonZeroUsize::MIN,
        ignore_own_cgroup: false,
        pause: EbpfOptions::PAUSE,
        burst: EbpfOptions::BURST,
    }
}

pub(crate) fn af_packet_options(interface: Option<&str>, ports: &[u16]) -> AfPacketOptions {
    AfPacketOptions {
        interface: interface.map(str::to_owned),
        network_namespace: None,
        ports: ports.to_vec(),
        ring_bytes: 64 << 20,
        streams: NonZeroUsize::MIN,
    }
}

/// Every source that sees the loopback traffic of these ports, with a name.
pub(crate) fn sources(ports: &[u16]) -> Vec<(&'static str, Source)> {
    let mut sources: Vec<(_, Source)> = Vec::new();
    if let Some(source) = or_skip(Ebpf::open(&ebpf_options(ports))) {
        sources.push(("ebpf", source.into()));
    }
    for (name, interface) in [("af-packet lo", Some("lo")), ("af-packet any", None)] {
        if let Some(source) = or_skip(AfPacket::open(&af_packet_options(interface, ports))) {
            sources.push((name, source.into()));
        }
    }
    #[cfg(feature = "libpcap")]
    for (name, interface) in [("libpcap lo", Some("lo")), ("libpcap any", None)] {
        if let Some(source) = or_skip(libpcap::open(&libpcap_options(interface, ports))) {
            sources.push((name, source));
        }
    }
    sources
}

#[cfg(feature = "libpcap")]
pub(crate) fn libpcap_options(interface: Option<&str>, ports: &[u16]) -> libpcap::LibpcapOptions {
    libpcap::LibpcapOptions {
        interface: interface.map(str::to_owned),
        network_namespace: None,
        filter: None,
        ports: ports.to_vec(),
        ring_bytes: 64 << 20,
    }
}

/// A source that is read by a thread of its own until [`stop`](Self::stop).
pub(crate) struct Recording {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Recording {
    pub(crate) fn start(source: impl Into<Source>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let Source {
            mut streams,
            mut tap,
        } = source.into();
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            while !is_over.load(Ordering::Acquire) {
                for stream in &mut streams {
                    seen.read(stream.as_mut(), Duration::from_millis(20));
                }
            }
            tap.detach().unwrap();
            // A packet socket hands over its last block only when that has become old.
            for stream in &mut streams {
                while seen.read(stream.as_mut(), Duration::from_millis(200)) > 0 {}
            }
            seen.drops = tap.drops().unwrap();
            seen
        });
        Self { stop, thread }
    }

    pub(crate) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

/// What came out of a source.
#[derive(Default)]
pub(crate) struct Seen {
    /// By sender and receiver.
    pub(crate) streams: BTreeMap<(SocketAddr, SocketAddr), Stream>,
    pub(crate) drops: Drops,
    /// Payload bytes, each as often as it came.
    pub(crate) payload_bytes: u64,
    /// Packets that were not captured whole.
    pub(crate) cut: u64,
    /// The scope of the last segment: the VLAN tags around it.
    pub(crate) scope: u64,
}

/// One direction of a connection.
#[derive(Default)]
pub(crate) struct Stream {
    isn: Option<u32>,
    /// By sequence number.
    pub(crate) segments: BTreeMap<u32, Vec<u8>>,
    pub(crate) fins: u32,
}

impl Stream {
    /// The bytes that are there, each at its place, and how many those are. What is missing is
    /// zero.
    pub(crate) fn bytes(&self) -> (Vec<u8>, usize) {
        let isn = self.isn.expect("the SYN was seen");
        let mut pieces: Vec<(usize, &[u8])> = self
            .segments
            .iter()
            .map(|(seq, payload)| (seq.wrapping_sub(isn.wrapping_add(1)) as usize, &payload[..]))
            .collect();
        pieces.sort_unstable_by_key(|(at, _)| *at);
        let (mut bytes, mut count) = (Vec::new(), 0);
        for (at, payload) in pieces {
            let end = at + payload.len();
            count += end.saturating_sub(bytes.len().max(at));
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[at..end].copy_from_slice(payload);
        }
        (bytes, count)
    }
}

impl Seen {
    fn read(&mut self, source: &mut dyn PacketSource, timeout: Duration) -> usize {
        source
            .next_batch(timeout, &mut |captured| {
                let packet = &captured.packet;
                let Decoded::Segment(segment) = decode(packet) else {
                    panic!("not TCP: {:?}: {:02x?}", decode(packet), packet.data);
                };
                self.scope = segment.scope.0;
                self.cut += u64::from(segment.cut > 0);
                self.payload_bytes += segment.payload.len() as u64;
                let key = (
                    SocketAddr::new(segment.source.ip, segment.source.port),
                    SocketAddr::new(segment.destination.ip, segment.destination.port),
                );
                let stream = self.streams.entry(key).or_default();
                if segment.flags.contains(TcpFlags::SYN) {
                    stream.isn = Some(segment.seq.0);
                }
                stream.fins += u32::from(segment.flags.contains(TcpFlags::FIN));
                if !segment.payload.is_empty() {
                    // A repetition may be longer than what it repeats.
                    let known = stream.segments.entry(segment.seq.0).or_default();
                    if known.len() < segment.payload.len() {
                        *known = segment.payload.to_vec();
                    }
                }
            })
            .unwrap()
    }
}

/// To record one port.
pub(crate) fn recording_options(backend: Backend, port: u16) -> Options {
    Options {
        backend,
        policy: Policy::only_ports(&[port]),
        ..Options::default()
    }
}

pub(crate) fn writer(path: &Path) -> Writer {
    Writer::create(path, WriterOptions::new(Provenance::default())).unwrap()
}

/// Records in a thread until the flag is set; `None`, and a line that says why, where this machine
/// cannot.
pub(crate) fn record(
    options: &Options,
    path: &Path,
    stop: &Arc<AtomicBool>,
) -> Option<JoinHandle<Summary>> {
    let opened = match capture::open(options) {
        Ok(opened) => opened,
        Err(OpenError::Failed {
            source: source @ (SourceError::MissingCapabilities(_) | SourceError::NoCgroup2),
            ..
        }) => {
            skip(&source.to_string());
            return None;
        }
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    };
    let (writer, stop) = (writer(path), Arc::clone(stop));
    Some(thread::spawn(move || {
        let until = Until::default();
        capture::run(opened, writer, Setup::default(), &until, &stop, &mut |_| ()).unwrap()
    }))
}

/// What one connection said.
pub(crate) struct Conversation {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) request: Vec<u8>,
    pub(crate) response: Vec<u8>,
}

/// A server on a port of its own, which answers each connection with what [`response`] says.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) listener: TcpListener,
}

impl Server {
    pub(crate) fn bind(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, listener }
    }

    /// Holds one conversation: the client sends `len` bytes and its FIN, the server answers with as
    /// many other bytes and its FIN.
    pub(crate) fn converse(&self, len: usize, sending: Sending) -> Conversation {
        thread::scope(|scope| {
            scope.spawn(|| answer(&self.listener, sending));
            ask(self.address, len, sending)
        })
    }
}

impl Server {
    /// One connection that ends in a reset: its client closes it without having read what is there.
    pub(crate) fn reset(&self) {
        let client = TcpStream::connect(self.address).unwrap();
        let (mut accepted, _) = self.listener.accept().unwrap();
        accepted.write_all(b"unread").unwrap();
        client.peek(&mut [0]).unwrap();
        drop(client);
    }
}

/// The server's side of one conversation.
pub(crate) fn answer(listener: &TcpListener, sending: Sending) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert!(got == request(got.len()), "the server got the request");
    send(&mut stream, &response(got.len()), sending);
}

/// The client's side of one conversation.
pub(crate) fn ask(server: SocketAddr, len: usize, sending: Sending) -> Conversation {
    let mut stream = TcpStream::connect(server).unwrap();
    send(&mut stream, &request(len), sending);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert!(got == response(len), "the client got the response");
    Conversation {
        client: stream.local_addr().unwrap(),
        server,
        request: request(len),
        response: got,
    }
}

impl Server {
    /// One connection on which the client sends twice, and the server after that; `between` runs
    /// after the first bytes have arrived.
    pub(crate) fn converse_twice(&self, first: usize, second: usize, between: impl FnOnce()) {
        thread::scope(|scope| {
            let (sender, arrived) = mpsc::channel();
            scope.spawn(move || {
                let (mut stream, _) = self.listener.accept().unwrap();
                let mut request = vec![0; first];
                stream.read_exact(&mut request).unwrap();
                sender.send(()).unwrap();
                stream.read_to_end(&mut request).unwrap();
                stream.write_all(&response(second)).unwrap();
            });
            let mut stream = TcpStream::connect(self.address).unwrap();
            stream.write_all(&request(first)).unwrap();
            arrived.recv().unwrap();
            between();
            stream.write_all(&request(second)).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
        });
    }
}

/// Bytes that differ at every place where a mistake could put them.
pub(crate) fn request(len: usize) -> Vec<u8> {
    pseudo_random(len, 0x9e37_79b9)
}

pub(crate) fn response(len: usize) -> Vec<u8> {
    pseudo_random(len, 0x85eb_ca6b)
}

fn pseudo_random(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed ^ len as u32;
    let mut bytes = Vec::with_capacity(len + 4);
    while bytes.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend_from_slice(&state.rotate_left(11).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Asserts that `seen` has every byte of the conversation, both ways.
#[track_caller]
pub(crate) fn assert_whole(seen: &Seen, conversation: &Conversation, what: &str) {
    let Conversation {
        client,
        server,
        request,
        response,
    } = conversation;
    for (from, to, sent) in [(client, server, request), (server, client, response)] {
        let stream = &seen
            .streams
            .get(&(*from, *to))
            .unwrap_or_else(|| panic!("{what}: nothing from {from} to {to}"));
        let (bytes, count) = stream.bytes();
        assert_eq!(count, sent.len(), "{what}: bytes from {from} to {to}");
        assert!(bytes == *sent, "{what}: other bytes than were sent");
        assert!(stream.fins > 0, "{what}: no FIN from {from}");
    }
}
