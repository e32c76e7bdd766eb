//! Connections to the target: sockets of either family that count what passes.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::player::outcome::{NeverSent, SendError, Timeline};

/// Where to connect to, names resolved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Destination {
    /// Never empty. Connections are spread over the addresses in turn.
    Tcp(Vec<SocketAddr>),
    Unix(PathBuf),
}

/// Opens connections within a limit, and counts.
#[derive(Debug)]
pub(crate) struct Connector {
    destination: Destination,
    limit: u32,
    /// A connection that was made before the run, to see whether the target is there.
    spare: RefCell<Option<Stream>>,
    turn: Cell<usize>,
    counters: Rc<Counters>,
}

impl Connector {
    pub(crate) fn new(destination: Destination, limit: u32, spare: Option<Stream>) -> Self {
        Self {
            destination,
            limit,
            spare: RefCell::new(spare),
            turn: Cell::new(0),
            counters: Rc::default(),
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Opens a connection for the request of that timeline.
    pub(crate) async fn connect(&self, timeline: &Timeline) -> Result<Socket, SendError> {
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
        timeline.connecting.set(Some(started.elapsed()));
        self.counters.opened.set(self.counters.opened.get() + 1);
        Ok(Socket { stream, place })
    }

    async fn open(&self) -> io::Result<Stream> {
        let addresses = match &self.destination {
            Destination::Unix(path) => return Ok(Stream::Unix(UnixStream::connect(path).await?)),
            Destination::Tcp(addresses) => addresses,
        };
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
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

/// Connects to the first address that answers.
pub(crate) async fn connect_once(destination: &Destination) -> io::Result<Stream> {
    Connector::new(destination.clone(), 1, None).open().await
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

/// A stream of either family. TLS will be a third.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
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
    pub(crate) fn is_stale(&self) -> bool {
        let mut byte = [0];
        let read = match &self.stream {
            Stream::Tcp(stream) => stream.try_read(&mut byte),
            Stream::Unix(stream) => stream.try_read(&mut byte),
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
        };
        self.count_sent(poll)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets hold nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
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
