//! Connections to the target: sockets of either family that count what passes.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::player::outcome::{NeverSent, SendError, Timeline};

/// Where to connect to, names resolved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Destination {
    Tcp(Names),
    Unix(PathBuf),
}

/// A name, and the addresses that it had when it was looked up last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Names {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Never empty. Connections are spread over the addresses in turn.
    pub(crate) addresses: Vec<SocketAddr>,
    /// How long they are used before the name is looked up again; `None`: they do not change.
    ttl: Option<Duration>,
}

impl Names {
    pub(crate) async fn look_up(host: &str, port: u16, ttl: Duration) -> io::Result<Self> {
        let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
        if addresses.is_empty() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            addresses,
            ttl: host.parse::<IpAddr>().is_err().then_some(ttl),
        })
    }

    /// With addresses that somebody gave.
    pub(crate) fn given(host: &str, port: u16, addresses: Vec<SocketAddr>) -> Self {
        Self {
            host: host.to_owned(),
            port,
            addresses,
            ttl: None,
        }
    }
}

/// TLS on top of a connection.
#[derive(Clone)]
pub(crate) struct Secure {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secure").field(&self.name).finish()
    }
}

/// Opens connections within a limit, and counts.
#[derive(Debug)]
pub(crate) struct Connector {
    destination: RefCell<Destination>,
    secure: Option<Secure>,
    limit: u32,
    /// A connection that was made before the run, to see whether the target is there.
    spare: RefCell<Option<Stream>>,
    turn: Cell<usize>,
    looked_up: Cell<Instant>,
    counters: Rc<Counters>,
}

impl Connector {
    pub(crate) fn new(
        destination: Destination,
        secure: Option<Secure>,
        limit: u32,
        spare: Option<Stream>,
        counters: Rc<Counters>,
    ) -> Self {
        Self {
            destination: RefCell::new(destination),
            secure,
            limit,
            spare: RefCell::new(spare),
            turn: Cell::new(0),
            looked_up: Cell::new(Instant::now()),
            counters,
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Opens a connection for the request of that timeline. What that takes (a look-up, a handshake) is no part of what
    /// waits for an answer: ten thousand users would hold it in vain.
    pub(crate) async fn connect(&self, timeline: &Timeline) -> Result<Socket, SendError> {
        Box::pin(self.connected(timeline)).await
    }

    async fn connected(&self, timeline: &Timeline) -> Result<Socket, SendError> {
        if self.counters.open.get() >= self.limit {
            return Err(SendError::never(NeverSent::ConnectionLimit));
        }
        let place = Place::take(&self.counters);
        let started = Instant::now();
        let spare = self.spare.take();
        let stream = match spare {
            Some(stream) => stream,
            None => self.open().await.map_err(SendError::connect)?,
        };
        let connected = Instant::now();
        timeline
            .connecting
            .set(Some(connected.duration_since(started)));
        let stream = match (&self.secure, stream) {
            (Some(secure), Stream::Tcp(stream)) => {
                let stream = secure.handshake(stream).await.map_err(SendError::connect)?;
                timeline.tls_handshaking.set(Some(connected.elapsed()));
                stream
            }
            (_, stream) => stream,
        };
        self.counters.opened.set(self.counters.opened.get() + 1);
        Ok(Socket { stream, place })
    }

    /// Connects, without TLS.
    pub(crate) async fn open(&self) -> io::Result<Stream> {
        let destination = self.destination.borrow().clone();
        let mut names = match destination {
            Destination::Unix(path) => return Ok(Stream::Unix(UnixStream::connect(path).await?)),
            Destination::Tcp(names) => names,
        };
        if let Some(ttl) = names.ttl
            && self.looked_up.get().elapsed() > ttl
        {
            // Whoever comes meanwhile uses the addresses that are known; so does everybody when
            // nobody knows the name any more.
            self.looked_up.set(Instant::now());
            if let Ok(found) = Names::look_up(&names.host, names.port, ttl).await {
                *self.destination.borrow_mut() = Destination::Tcp(found.clone());
                names = found;
            }
        }
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
        let addresses = &names.addresses;
        for offset in 0..addresses.len() {
            let Some(address) = addresses.get(turn.wrapping_add(offset) % addresses.len()) else {
                break;
            };
            result = connect_tcp(*address).await;
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

impl Secure {
    pub(crate) async fn handshake(&self, stream: TcpStream) -> io::Result<Stream> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(self.name.clone(), stream).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

async fn connect_tcp(address: SocketAddr) -> io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    // A request must leave when it is due, not when Nagle's algorithm lets it.
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}

/// What a worker's connections amount to.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) open: Cell<u32>,
    pub(crate) peak: Cell<u32>,
    pub(crate) opened: Cell<u64>,
    pub(crate) bytes_sent: Cell<u64>,
    pub(crate) bytes_received: Cell<u64>,
    /// Requests whose first byte went out.
    pub(crate) requests: Cell<u64>,
}

impl Counters {
    /// The first byte of a request goes out.
    pub(super) fn send(&self, timeline: &Timeline, now: Instant) {
        timeline.sent.set(Some(now));
        self.requests.set(self.requests.get() + 1);
    }

    /// It did not count: it is sent once more.
    pub(super) fn send_again(&self, timeline: &Timeline) {
        timeline.send_again();
        self.requests.set(self.requests.get().saturating_sub(1));
    }
}

/// A place among the open connections, given back when it is dropped.
#[derive(Debug)]
struct Place(Rc<Counters>);

impl Place {
    fn take(counters: &Rc<Counters>) -> Self {
        let open = counters.open.get() + 1;
        counters.open.set(open);
        counters.peak.set(counters.peak.get().max(open));
        Self(Rc::clone(counters))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

/// A stream of any kind.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Stream,
    place: Place,
}

impl Socket {
    /// Whether an idle connection is of no more use: closed, or with bytes that nobody asked for.
    /// Costs a system call only where there is something to read.
    pub(crate) fn is_stale(&mut self) -> bool {
        let mut byte = [0];
        let read = match &mut self.stream {
            Stream::Tcp(stream) => stream.try_read(&mut byte),
            Stream::Unix(stream) => stream.try_read(&mut byte),
            // Bytes may have come that are TLS's own: session tickets, for one.
            Stream::Tls(stream) => {
                let mut buffer = ReadBuf::new(&mut byte);
                let mut context = Context::from_waker(Waker::noop());
                return Pin::new(stream)
                    .poll_read(&mut context, &mut buffer)
                    .is_ready();
            }
        };
        !matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        let received = &self.place.0.bytes_received;
        received.set(received.get() + (buffer.filled().len() - before) as u64);
        poll
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        self.count_sent(poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        };
        self.count_sent(poll)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            // Sockets hold nothing back.
            Stream::Tcp(_) | Stream::Unix(_) => Poll::Ready(Ok(())),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl Socket {
    fn count_sent(&self, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = &poll {
            let sent = &self.place.0.bytes_sent;
            sent.set(sent.get() + *n as u64);
        }
        poll
    }
}
