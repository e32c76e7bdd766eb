//! One client connection: bytes in and out, with limits of time; which protocol it speaks.
//!
//! ```text
//!             preface                              any request but CONNECT
//!  begun ──────────────► HTTP/2 ──► over   ┌───────────┐
//!  ▲ ▲ │   anything else                   ▼           │
//!  │ │ ├──────────────► HTTP/1 ────────────┴───────────┴──► over
//!  │ │ │ ClientHello       │ CONNECT
//!  │ │ └────────► TLS      └───────────► tunnel
//!  │ └─────────────┘                       │
//!  └───────────────────────────────────────┘
//! ```

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::chaos::{Alert, ConnectionFaults};
use super::http1::{PREFACE, RequestReader, Session};
use super::http2;
use super::responder::{Origin, Responder};
use super::socket::{Begun, Socket};
use super::upstream::Tunnel;

/// Serves a connection until it ends.
pub(crate) async fn serve(stream: TcpStream, responder: Arc<Responder>, stop: Arc<Stop>) {
    let limits = *responder.limits();
    let (Ok(client), Ok(server)) = (stream.peer_addr(), stream.local_addr()) else {
        return;
    };
    let faults = responder.faults().connect();
    if faults != ConnectionFaults::default()
        && let Some(journal) = responder.journal()
    {
        journal.count_fault();
    }
    if faults.refuse {
        return reset(&stream);
    }
    let mut line = Line::new(
        Socket::Plain(stream),
        Arc::clone(&stop),
        limits.write_timeout,
    );
    let mut begun = Vec::new();
    // Whom the client believes to talk to, where it does not say.
    let mut name = server.ip().to_canonical().to_string();
    let mut origin = Origin {
        caller: responder.caller(client, server),
        tunnel: None,
    };
    for _ in 0..MAX_LAYERS {
        let inner = match speak(line, begun, &responder, &faults, &origin).await {
            Spoken::Done => return,
            Spoken::Tunnel {
                inner,
                begun: rest,
                authority,
            } => {
                begun = rest;
                name = host_of(&authority);
                origin.tunnel = Some(Tunnel {
                    authority,
                    tls: false,
                });
                inner
            }
            Spoken::Tls(outer, hello) => {
                begun = Vec::new();
                if let Some(tunnel) = &mut origin.tunnel {
                    tunnel.tls = true;
                }
                match tls(outer, hello, &name, &responder, &faults).await {
                    Some(socket) => Line::new(socket, Arc::clone(&stop), limits.write_timeout),
                    None => return,
                }
            }
        };
        line = inner;
    }
    count(&responder.counters().refused);
}

/// What came of speaking with a client.
pub(crate) enum Spoken {
    /// The connection is over.
    Done,
    /// The client made it a tunnel (CONNECT).
    Tunnel {
        inner: Line,
        /// What it has sent into the tunnel.
        begun: Vec<u8>,
        /// Where the tunnel is to lead: a host and a port.
        authority: String,
    },
    /// The client begins with TLS.
    Tls(Line, Vec<u8>),
}

/// Finds out what a client speaks, and speaks it. `begun` was received already.
async fn speak(
    mut line: Line,
    begun: Vec<u8>,
    responder: &Arc<Responder>,
    faults: &ConnectionFaults,
    origin: &Origin,
) -> Spoken {
    let limits = responder.limits();
    let mut reader = RequestReader::new(limits);
    let deadline = Instant::now() + limits.head_timeout;
    reader.space().extend_from_slice(&begun);
    // The first bytes tell the protocol; the preface of HTTP/2 is made so that they do.
    loop {
        let begun = reader.unread();
        if begun.starts_with(PREFACE) {
            let begun = begun.to_vec();
            http2::serve(line, begun, responder, faults, origin).await;
            return Spoken::Done;
        }
        if begun.first() == Some(&TLS_HANDSHAKE) {
            return Spoken::Tls(line, begun.to_vec());
        }
        if !PREFACE.starts_with(begun) {
            return Session::new(line, reader, responder, origin).serve().await;
        }
        match line.fill(reader.space(), deadline, true).await {
            Filled::Bytes => {}
            Filled::Timeout => {
                count(&responder.counters().timeouts);
                return Spoken::Done;
            }
            Filled::End | Filled::Lost | Filled::Stopping => return Spoken::Done,
        }
    }
}

/// Shakes hands. `None`: there is no TLS to be had, and the connection is over.
async fn tls(
    mut line: Line,
    hello: Vec<u8>,
    name: &str,
    responder: &Responder,
    faults: &ConnectionFaults,
) -> Option<Socket> {
    if let Some(Alert(alert)) = faults.tls_alert {
        if line.send(&mut vec![0x15, 3, 3, 0, 2, 2, alert], &[]).await {
            line.close().await;
        }
        return None;
    }
    let Some(tls) = responder.tls() else {
        count(&responder.counters().tls_without_authority);
        if line.send(&mut Vec::new(), TLS_ALERT).await {
            line.close().await;
        }
        return None;
    };
    let (socket, _) = line.into_parts();
    let handshake = TlsAcceptor::from(tls.config(name, faults.expired_certificate))
        .accept(Begun::new(hello, socket));
    match timeout(responder.limits().head_timeout, handshake).await {
        Ok(Ok(stream)) => Some(Socket::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            responder.tls_failed(&error);
            None
        }
        Err(_) => {
            count(&responder.counters().timeouts);
            None
        }
    }
}

/// Ends a connection with TCP's reset (RFC 9293 section 3.10.4: unread or unsent data is thrown away).
fn reset(stream: &TcpStream) {
    // The reset is sent when the socket is dropped.
    let _at_once = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// The host of an authority-form target (RFC 9112 section 3.2.3), without its port.
fn host_of(authority: &str) -> String {
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    host.trim_matches(['[', ']']).to_owned()
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Tells the connections of one thread that the mock stops.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    stopping: AtomicBool,
    wake: Arc<Notify>,
}

impl Stop {
    pub(crate) fn set(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake.notify_waiters();
    }

    pub(crate) fn is_set(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Becomes ready when the mock stops, if that is after this call.
    pub(crate) fn wait(&self) -> OwnedNotified {
        Arc::clone(&self.wake).notified_owned()
    }
}

/// What came of waiting for bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Filled {
    Bytes,
    /// The client will send nothing more.
    End,
    Timeout,
    Stopping,
    /// The connection broke.
    Lost,
}

/// A socket with what belongs to it for as long as it lives: reading and writing at full speed
/// touches no timer.
#[derive(Debug)]
pub(crate) struct Line {
    socket: Socket,
    timer: Pin<Box<Sleep>>,
    stop: Arc<Stop>,
    stopping: Pin<Box<OwnedNotified>>,
    write_timeout: Duration,
}

impl Line {
    fn new(socket: Socket, stop: Arc<Stop>, write_timeout: Duration) -> Self {
        Self {
            socket,
            timer: Box::pin(sleep_until(Instant::now() + write_timeout)),
            stopping: Box::pin(stop.wait()),
            stop,
            write_timeout,
        }
    }

    /// The parts, for a protocol that reads and writes by itself.
    pub(crate) fn into_parts(self) -> (Socket, Arc<Stop>) {
        (self.socket, self.stop)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_set()
    }

    /// Appends what comes. `between`: nothing is lost when the mock stops here.
    pub(crate) async fn fill(
        &mut self,
        buffer: &mut Vec<u8>,
        deadline: Instant,
        between: bool,
    ) -> Filled {
        loop {
            let interruptible = between && !self.stop.is_set();
            if between && !interruptible {
                return Filled::Stopping;
            }
            // The timer mostly stands for an earlier request. It is moved only when it is too
            // late, or when it fires too early.
            if deadline < self.timer.deadline() {
                self.timer.as_mut().reset(deadline);
            }
            tokio::select! {
                biased;
                // Not `try_read`: that asks the kernel once more after each short read.
                read = self.socket.read_buf(buffer) => return match read {
                    Ok(0) => Filled::End,
                    Ok(_) => Filled::Bytes,
                    Err(_) => Filled::Lost,
                },
                () = &mut self.stopping, if interruptible => return Filled::Stopping,
                () = &mut self.timer => {
                    if Instant::now() >= deadline {
                        return Filled::Timeout;
                    }
                    self.timer.as_mut().reset(deadline);
                }
            }
        }
    }

    /// Sends both, and empties the first. `false`: the client is gone or takes nothing.
    pub(crate) async fn send(&mut self, first: &mut Vec<u8>, second: &[u8]) -> bool {
        let stream = match &mut self.socket {
            Socket::Plain(stream) => stream,
            Socket::Tls(stream) => {
                let sent = timeout(self.write_timeout, send_sealed(stream, first, second)).await;
                return matches!(sent, Ok(Ok(())));
            }
        };
        let (mut a, mut b) = (first.as_slice(), second);
        while !(a.is_empty() && b.is_empty()) {
            let sent = match (a, b) {
                (one, []) | ([], one) => stream.try_write(one),
                (a, b) => stream.try_write_vectored(&[IoSlice::new(a), IoSlice::new(b)]),
            };
            match sent {
                Ok(sent) => {
                    let of_a = sent.min(a.len());
                    a = a.get(of_a..).unwrap_or_default();
                    b = b.get(sent - of_a..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match timeout(self.write_timeout, stream.writable()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) | Err(_) => return false,
                    }
                }
                Err(_) => return false,
            }
        }
        first.clear();
        true
    }

    /// Ends the connection with TCP's reset.
    pub(crate) fn reset(self) {
        reset(self.socket.tcp());
    }

    /// Waits until the client goes away, or until the mock stops. What it sends is thrown away.
    pub(crate) async fn outlast(&mut self) {
        let mut rest = Vec::with_capacity(4 << 10);
        let deadline = Instant::now() + LONG;
        while self.fill(&mut rest, deadline, true).await == Filled::Bytes {
            rest.clear();
        }
    }

    /// Waits until then, or until the mock stops. `false`: the connection broke meanwhile.
    pub(crate) async fn pause_until(&mut self, due: Instant) -> bool {
        let mut watch = true;
        let sleep = sleep_until(due);
        tokio::pin!(sleep);
        loop {
            let interruptible = !self.stop.is_set();
            if !interruptible {
                return true;
            }
            let mut next = [0];
            tokio::select! {
                biased;
                () = &mut sleep => return true,
                () = &mut self.stopping, if interruptible => return true,
                peeked = self.socket.tcp().peek(&mut next), if watch => match peeked {
                    // The next request, or the end of a client that sends nothing more but may
                    // still read: both can wait.
                    Ok(_) => watch = false,
                    Err(_) => return false,
                },
            }
        }
    }

    /// Closes so that the client can read what was sent: a socket that is closed with unread bytes
    /// in it is reset, and the reset overtakes the answer (RFC 9112 section 9.6).
    pub(crate) async fn close(mut self) {
        if self.socket.shutdown().await.is_err() {
            return;
        }
        let deadline = Instant::now() + LINGER;
        let mut rest = Vec::with_capacity(16 << 10);
        let mut seen = 0;
        while seen < MAX_LINGER_BYTES && !self.stop.is_set() {
            rest.clear();
            if self.fill(&mut rest, deadline, true).await != Filled::Bytes {
                return;
            }
            seen += rest.len();
        }
    }
}

/// Sends both through TLS, and empties the first.
async fn send_sealed(
    stream: &mut TlsStream<Begun>,
    first: &mut Vec<u8>,
    mut second: &[u8],
) -> io::Result<()> {
    // One record costs less than two.
    if second.len() <= RECORD {
        first.extend_from_slice(second);
        second = &[];
    }
    stream.write_all(first).await?;
    first.clear();
    stream.write_all(second).await?;
    stream.flush().await
}

/// Longer than any client waits.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// The most that one TLS record carries (RFC 8446 section 5.1).
const RECORD: usize = 16 << 10;
/// TLS to the proxy, the tunnel through it, TLS in that, and room for one proxy behind another.
const MAX_LAYERS: usize = 8;
/// The first byte of a TLS record that carries a handshake (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// A fatal alert `handshake_failure`: the client reports a TLS failure, not a broken server.
const TLS_ALERT: &[u8] = &[0x15, 3, 1, 0, 2, 2, 40];
/// How long a closed connection may take to see that it is closed.
const LINGER: Duration = Duration::from_secs(2);
/// What a client may still be sending by then: an upload that was refused.
const MAX_LINGER_BYTES: usize = 4 << 20;
