//! Several captures of the same traffic at the same time, and what each of them tells.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tapedeck_archive::{Archive, BodyBuffer, BodyView, MessageView, Scratch};
use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_model::{BodyPart, Exchange, Missing, UnreadConnection};
use tapedeck_packet::CaptureReader;
use tapedeckd::capture::{Backend, Options, Summary};
use tapedeckd::sources::libpcap;

use crate::support::{has, record, recording_options, writer};

/// How long something may take that takes a moment; much, as the machine may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(240);

/// Everything that watches one port.
pub(crate) struct Witnesses {
    folder: tempfile::TempDir,
    recorders: Vec<Recording>,
    tcpdump: Option<Tcpdump>,
}

struct Recording {
    name: String,
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Summary>,
}

struct Tcpdump {
    child: Child,
    path: PathBuf,
    said: JoinHandle<String>,
    end: TcpListener,
}

/// What one capture tells of an exchange.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Told {
    /// The ordinal on its connection, or the HTTP/2 stream.
    pub(crate) stream: u64,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) status: Option<u16>,
    pub(crate) request: Option<BodyOf>,
    pub(crate) response: Option<BodyOf>,
}

impl Told {
    /// Whether nothing is missing on either side.
    pub(crate) fn is_whole(&self) -> bool {
        let is_whole = |body: Option<BodyOf>| body.is_some_and(|body| body.missing.is_empty());
        is_whole(self.request) && is_whole(self.response)
    }
}

/// One body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BodyOf {
    pub(crate) missing: Missing,
    pub(crate) len: u64,
    hash: u64,
}

impl BodyOf {
    /// What is told of these bytes when none is missing.
    pub(crate) fn whole(bytes: &[u8]) -> Self {
        Self {
            missing: Missing::NONE,
            len: bytes.len() as u64,
            hash: hash(bytes),
        }
    }
}

/// What one capture tells: of each connection, by its client, the exchanges in the order of their
/// streams.
pub(crate) type Telling = BTreeMap<SocketAddr, Vec<Told>>;

impl Witnesses {
    /// Lets eBPF, AF_PACKET and libpcap on one interface and on all, and tcpdump watch the loopback
    /// traffic of a port.
    pub(crate) fn of(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut all = Self {
            tcpdump: has("tcpdump").then(|| Tcpdump::start(port, folder.path())),
            folder,
            recorders: Vec::new(),
        };
        let lo = Some("lo".to_owned());
        let mut ways = vec![
            ("ebpf", Backend::Ebpf, None),
            ("af-packet, any", Backend::AfPacket, None),
            ("af-packet, lo", Backend::AfPacket, lo.clone()),
        ];
        if libpcap::IS_BUILT {
            ways.push(("libpcap, any", Backend::Libpcap, None));
            ways.push(("libpcap, lo", Backend::Libpcap, lo));
        }
        for (name, backend, interface) in ways {
            let mut options = recording_options(backend, port);
            options.ring_bytes = 256 << 20;
            options.interface = interface;
            all.add(name, &options);
        }
        all
    }

    /// Nobody yet.
    pub(crate) fn none() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            recorders: Vec::new(),
            tcpdump: None,
        }
    }

    /// One more.
    pub(crate) fn add(&mut self, name: &str, options: &Options) {
        let path = self.folder.path().join(format!("{name}.tape"));
        let stop = Arc::new(AtomicBool::new(false));
        if let Some(thread) = record(options, &path, &stop) {
            self.recorders.push(Recording {
                name: name.to_owned(),
                path,
                stop,
                thread,
            });
        }
    }

    /// Asserts that none of them lost anything, and that all tell the same; returns that. `None` where
    /// nobody could watch.
    #[track_caller]
    pub(crate) fn agree(self) -> Option<Telling> {
        let mut tellings = Vec::new();
        if let Some(tcpdump) = self.tcpdump {
            let file = tcpdump.stop();
            let path = self.folder.path().join("tcpdump.tape");
            import(&file, &path);
            tellings.push(("tcpdump".to_owned(), telling(&path)));
        }
        for recorder in self.recorders {
            recorder.stop.store(true, Ordering::Release);
            let summary = recorder.thread.join().unwrap();
            let name = recorder.name;
            assert_eq!(summary.drops.total(), 0, "{name}: {:?}", summary.drops);
            assert_eq!(summary.ledger.gaps, 0, "{name}");
            tellings.push((name, telling(&recorder.path)));
        }
        let (first, telling) = tellings.pop()?;
        for (name, other) in &tellings {
            assert_same(&telling, other, &first, name);
        }
        let names: Vec<_> = tellings.iter().map(|(name, _)| name).collect();
        println!("{first} tells the same as {names:?}");
        Some(telling)
    }
}

#[track_caller]
fn assert_same(a: &Telling, b: &Telling, name_a: &str, name_b: &str) {
    let clients: Vec<_> = a.keys().collect();
    assert_eq!(clients, b.keys().collect::<Vec<_>>(), "{name_a}, {name_b}");
    for (client, told) in a {
        let other = &b[client];
        assert_eq!(told.len(), other.len(), "{name_a}, {name_b}, {client}");
        for (one, other) in told.iter().zip(other) {
            assert_eq!(one, other, "{name_a}, {name_b}, {client}");
        }
    }
}

impl Tcpdump {
    fn start(port: u16, folder: &Path) -> Self {
        let path = folder.join("tcpdump.pcap");
        let end = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = end.local_addr().unwrap().port();
        let mut child = Command::new("tcpdump")
            .args(["-i", "lo", "-U", "-B", "262144", "-Z", "root", "-w"])
            .arg(&path)
            .arg(format!("tcp port {port} or tcp port {other}"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("listening on")));
        let said = thread::spawn(move || {
            let lines = lines.map_while(Result::ok);
            lines.collect::<Vec<_>>().join("\n")
        });
        Self {
            child,
            path,
            said,
            end,
        }
    }

    /// Ends it once it has written everything that was said before.
    fn stop(mut self) -> PathBuf {
        // It would leave out what it has not read when the signal comes. So a last word is said on
        // another port that it watches, not in HTTP, and waited for.
        let last = b"this is the last word";
        let mut stream = TcpStream::connect(self.end.local_addr().unwrap()).unwrap();
        stream.write_all(last).unwrap();
        until("tcpdump's last packet", || {
            let written = fs::read(&self.path).unwrap();
            let tail = &written[written.len().saturating_sub(4 << 10)..];
            tail.windows(last.len()).any(|at| at == last)
        });
        interrupt(&self.child);
        assert!(self.child.wait().unwrap().success());
        let said = self.said.join().unwrap();
        assert!(said.contains("\n0 packets dropped by kernel"), "{said}");
        self.path
    }
}

/// As ctrl-c does.
pub(crate) fn interrupt(child: &Child) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(sent.success());
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < SOON, "not within {SOON:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Puts the exchanges of a capture file into an archive, as `tapedeck import` does.
fn import(capture: &Path, archive: &Path) {
    struct Into(tapedeck_archive::Writer);

    impl Recorder for Into {
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

    let mut reader = CaptureReader::open(BufReader::new(File::open(capture).unwrap())).unwrap();
    let (mut engine, mut into) = (Engine::new(Limits::default()), Into(writer(archive)));
    while let Some(packet) = reader.next_packet().unwrap() {
        engine.packet(&packet, &mut into);
    }
    engine.finish(&mut into);
    into.0.seal(&engine.ledger()).unwrap();
}

/// What the archive tells.
pub(crate) fn telling(path: &Path) -> Telling {
    let archive = Archive::open(path).unwrap();
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::new());
    let mut telling = Telling::new();
    for row in archive.rows() {
        let record = archive.load(row.id(), &mut scratch).unwrap();
        let mut body = |message: Option<MessageView<'_>>, missing| {
            let body: BodyView<'_> = message?.body();
            let bytes = archive.body(&body, &mut buffer).unwrap();
            Some(BodyOf {
                missing,
                ..BodyOf::whole(bytes)
            })
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let client = row.client();
        let client = SocketAddr::new(client.ip, client.port);
        telling.entry(client).or_default().push(Told {
            stream: row.stream(),
            method: text(row.method().unwrap_or_default()),
            target: text(&row.target().unwrap_or_default()),
            status: row.status(),
            request: body(record.request(), row.request_missing()),
            response: body(record.response(), row.response_missing()),
        });
    }
    for told in telling.values_mut() {
        told.sort_by_key(|told| told.stream);
    }
    telling
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
