//! The targets, looked up and tried before the first request.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::player::options::Options;
use crate::player::request::Rules;
use crate::player::resolve::Resolve;
use crate::player::run::RunError;
use crate::player::target::{Target, TargetAddress, TargetProtocol};
use crate::player::tls::{negotiated, server_name};
use crate::player::transport::{Connector, Destination, Names, Secure, Stream};

/// A target that was reached once.
pub(crate) struct Reached {
    pub(crate) destination: Destination,
    pub(crate) secure: Option<Secure>,
    pub(crate) protocol: TargetProtocol,
    pub(crate) rules: Rules,
    /// The connection, which becomes the first of the run; none over TLS, which cannot be moved to
    /// another thread.
    pub(crate) spare: Option<StdStream>,
}

/// Resolves the targets and connects to each once, so that a target that is down is one clear
/// message and not a failure for each request.
pub(crate) fn reach_all(options: &Options, rules: &Rules) -> Result<Vec<Reached>, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Worker)?;
    let targets = std::iter::once(&options.target).chain(options.routes.iter().map(|r| &r.target));
    let targets: Vec<&Target> = targets.collect();
    let config = match targets.iter().any(|target| target.tls) {
        true => Some(options.tls.config().map_err(RunError::Tls)?),
        false => None,
    };
    runtime.block_on(async {
        let mut reached = Vec::new();
        for target in targets {
            let rules = Rules {
                authority: target.authority.clone(),
                path_prefix: target.path_prefix.clone(),
                tls: target.tls,
                ..rules.clone()
            };
            reached.push(reach(target, config.as_ref(), options, rules).await?);
        }
        Ok(reached)
    })
}

async fn reach(
    target: &Target,
    config: Option<&Arc<ClientConfig>>,
    options: &Options,
    rules: Rules,
) -> Result<Reached, RunError> {
    let connect_error = |error: io::Error| {
        let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        let of_tls: Option<rustls::Error> = of_tls.cloned();
        let target = target.to_string();
        match of_tls {
            Some(error) => RunError::Handshake { target, error },
            None => RunError::Connect { target, error },
        }
    };
    let (destination, secure) = match &target.address {
        TargetAddress::Unix(path) => (Destination::Unix(path.clone()), None),
        TargetAddress::Tcp { host, port } => {
            let names = match Resolve::given(&options.resolve, host, *port) {
                Some(given) => Ok(Names::given(host, *port, given)),
                None => Names::look_up(host, *port, options.dns_ttl).await,
            };
            let names = names.map_err(|error| RunError::Resolve {
                host: host.clone(),
                error,
            })?;
            let secure = match config.filter(|_| target.tls) {
                None => None,
                Some(config) => Some(Secure {
                    config: Arc::clone(config),
                    name: server_name(host).map_err(RunError::Tls)?,
                }),
            };
            (Destination::Tcp(names), secure)
        }
    };
    let connector = Connector::new(destination.clone(), secure.clone(), 1, None, Rc::default());
    let connect = async {
        let stream = connector.open().await?;
        match (&secure, stream) {
            (Some(secure), Stream::Tcp(stream)) => secure.handshake(stream).await,
            (_, stream) => Ok(stream),
        }
    };
    let stream = tokio::time::timeout(options.timeout, connect)
        .await
        .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
        .map_err(connect_error)?;
    let (protocol, spare) = match stream {
        Stream::Tls(stream) => (negotiated(stream.get_ref().1.alpn_protocol()), None),
        Stream::Tcp(stream) => (target.protocol, Some(stream.into_std().map(StdStream::Tcp))),
        Stream::Unix(stream) => (
            target.protocol,
            Some(stream.into_std().map(StdStream::Unix)),
        ),
    };
    Ok(Reached {
        destination,
        secure,
        protocol,
        rules,
        spare: spare.transpose().map_err(connect_error)?,
    })
}

/// A stream on its way from one runtime to another.
pub(crate) enum StdStream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl StdStream {
    pub(crate) fn into_tokio(self) -> io::Result<Stream> {
        match self {
            Self::Tcp(stream) => tokio::net::TcpStream::from_std(stream).map(Stream::Tcp),
            Self::Unix(stream) => tokio::net::UnixStream::from_std(stream).map(Stream::Unix),
        }
    }
}
