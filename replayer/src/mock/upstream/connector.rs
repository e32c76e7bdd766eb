//! Connections to upstreams.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::route::Upstreams;
use crate::player::{TlsError, TlsOptions};

/// Opens connections to whom a URI names.
#[derive(Clone)]
pub(super) struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    tls: TlsOptions,
    /// Read when it is needed first: a proxy may never be asked for TLS, and a container may hold
    /// no authorities.
    config: OnceLock<Result<Arc<ClientConfig>, String>>,
    patience: Duration,
    /// Where the mock itself listens.
    own: SocketAddr,
}

/// The address of whoever answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The mock was about to connect to itself.
#[derive(Debug, thiserror::Error)]
#[error("it is this mock itself")]
struct Loop;

/// Whether that was why.
pub(super) fn is_loop(error: &(dyn StdError + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(one) = error {
        // An I/O error is not its own source.
        let inner = one.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if one.is::<Loop>() || inner.is_some_and(|inner| inner.is::<Loop>()) {
            return true;
        }
        error = one.source();
    }
    false
}

impl Connector {
    pub(super) fn new(
        upstreams: &Upstreams,
        patience: Duration,
        own: SocketAddr,
    ) -> Result<Self, TlsError> {
        let config = OnceLock::new();
        if upstreams.use_tls() {
            // What is wrong with it is said at the start.
            let _first = config.set(Ok(upstreams.tls.config()?));
        }
        Ok(Self {
            shared: Arc::new(Shared {
                tls: upstreams.tls.clone(),
                config,
                patience,
                own,
            }),
        })
    }
}

impl Shared {
    async fn connect(&self, uri: Uri) -> io::Result<Line> {
        let host = uri.host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']);
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let stream = self.dial(host, port).await?;
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        if peer.port() == self.own.port() && is_own(self.own.ip(), peer.ip(), &stream) {
            return Err(io::Error::other(Loop));
        }
        if !tls {
            return Ok(Line {
                socket: Socket::Plain(TokioIo::new(stream)),
                peer,
            });
        }
        let config = self.config.get_or_init(|| {
            let made = self.tls.config();
            made.map_err(|error| error.to_string())
        });
        let config = config.clone().map_err(io::Error::other)?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Line {
            socket: Socket::Tls(Box::new(TokioIo::new(stream))),
            peer,
        })
    }

    /// Tries the addresses of a name, one after the other.
    async fn dial(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for addr in lookup_host((host, port)).await? {
            match TcpStream::connect(addr).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

/// Whether a peer with our port is this mock: it listens at that address, or at every one of this
/// machine's, and a connection from an address to itself stays on the machine.
fn is_own(own: IpAddr, peer: IpAddr, stream: &TcpStream) -> bool {
    let is_local = || {
        stream
            .local_addr()
            .is_ok_and(|local| local.ip().to_canonical() == peer.to_canonical())
    };
    own.to_canonical() == peer.to_canonical() || (own.is_unspecified() && is_local())
}

impl Service<Uri> for Connector {
    type Response = Line;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Line>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            match timeout(shared.patience, shared.connect(uri)).await {
                Ok(connected) => connected,
                Err(_) => {
                    let why = format!("no connection within {:?}", shared.patience);
                    Err(io::Error::new(io::ErrorKind::TimedOut, why))
                }
            }
        })
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

/// A connection to an upstream.
#[derive(Debug)]
pub(super) struct Line {
    socket: Socket,
    peer: SocketAddr,
}

#[derive(Debug)]
enum Socket {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(Peer(self.peer));
        match &self.socket {
            Socket::Tls(stream) if stream.inner().get_ref().1.alpn_protocol() == Some(b"h2") => {
                connected.negotiated_h2()
            }
            Socket::Plain(_) | Socket::Tls(_) => connected,
        }
    }
}

impl Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Socket::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl Write for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Socket::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
