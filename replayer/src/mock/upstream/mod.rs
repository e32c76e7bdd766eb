//! What nothing recorded answers can be asked of the real upstream.
//!
//! Where a request goes: to the upstream that is named for its authority, or else to the one for all
//! the rest, or else, where the client takes the mock for its proxy, to whom the request itself names.
//!
//! A request is held whole, because it was compared; its answer passes through as it comes. Fields
//! that belong to a connection are left out both ways (RFC 9110 section 7.6.1), `Via` is added: the
//! mock knows its own, and refuses to go round in a circle.

mod body;
mod connector;
mod route;
mod upgrade;

use std::collections::hash_map::RandomState;
use std::error::Error as StdError;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::ext::ReasonPhrase;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::body::Sent;
use self::connector::{Connector, Peer};
use super::call::{Call, Headers, Target as Asked};
use super::options::Limits;
use crate::player::{Target, TargetProtocol, TlsError};

pub(crate) use body::Pieces;
pub use route::{OnMiss, ParseUpstreamError, Upstream, Upstreams};
pub(crate) use upgrade::{Reached, Upgraded};

/// Whom a client means to talk to, beyond what its requests say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tunnel {
    /// The target of its CONNECT, with the port.
    pub(crate) authority: String,
    /// It speaks TLS there.
    pub(crate) tls: bool,
}

/// The client side of a mock.
pub(crate) struct Relay {
    upstreams: Upstreams,
    /// HTTP/1.1, and over TLS what the upstream prefers.
    client: Client<Connector, Sent>,
    /// HTTP/2 without TLS.
    http2: Client<Connector, Sent>,
    /// HTTP/1.1 whatever the upstream prefers: for what becomes another protocol.
    http1: Client<Connector, Sent>,
    /// This mock in `Via` fields.
    id: String,
    places: Arc<Semaphore>,
    patience: Duration,
}

/// A request on its way to an upstream.
#[derive(Debug)]
pub(crate) struct Outgoing {
    request: Request<Sent>,
    http2: bool,
    /// As it is shown.
    to: String,
}

impl Outgoing {
    pub(crate) fn method(&self) -> Method {
        self.request.method().clone()
    }

    /// Its body is still to come.
    pub(crate) fn goes_on(&mut self) -> Pieces {
        let (pieces, body) = Sent::coming();
        *self.request.body_mut() = body;
        pieces
    }
}

/// Why a request is not passed on, or not answered.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Nobody is named for it.
    Nowhere,
    /// It gets this answer.
    With(StatusCode, String),
}

impl Relay {
    /// `own` is where the mock itself listens.
    pub(crate) fn new(
        upstreams: &Upstreams,
        limits: &Limits,
        own: SocketAddr,
    ) -> Result<Self, TlsError> {
        let connector = Connector::new(upstreams, limits.upstream_connect, own)?;
        let mut only_http1 = upstreams.clone();
        only_http1.tls.http1_only = true;
        let only_http1 = Connector::new(&only_http1, limits.upstream_connect, own)?;
        let build = |http2: bool, connector: Connector| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(MAX_IDLE)
                .http2_only(http2)
                .build(connector)
        };
        // Whoever knows it could make the mock refuse.
        let random = || RandomState::new().hash_one(0_u8);
        Ok(Self {
            client: build(false, connector.clone()),
            http2: build(true, connector),
            http1: build(false, only_http1),
            upstreams: upstreams.clone(),
            id: format!("tapedeck-{:016x}{:016x}", random(), random()),
            places: Arc::new(Semaphore::new(limits.upstream_requests)),
            patience: limits.upstream_timeout,
        })
    }

    /// Makes a request ready to be passed on.
    pub(crate) fn prepare(
        &self,
        call: &Call<'_>,
        tunnel: Option<&Tunnel>,
    ) -> Result<Outgoing, Refused> {
        let fields = fields(call.headers);
        if fields.get_all(header::VIA).iter().any(|via| {
            let told = String::from_utf8_lossy(via.as_bytes());
            told.contains(&self.id)
        }) {
            let why = "this request has been here before: the upstream leads back to this mock";
            return Err(Refused::With(StatusCode::LOOP_DETECTED, why.to_owned()));
        }
        let (target, asked) = self.destination(call, tunnel)?;
        let bad = |what: &str| {
            let why =
                format!("the request cannot be passed on: its {what} is not as HTTP wants it");
            Refused::With(StatusCode::BAD_REQUEST, why)
        };
        let uri = uri(&target, asked).ok_or_else(|| bad("target"))?;
        let mut request = Request::new(Sent::whole(Bytes::copy_from_slice(call.body)));
        *request.method_mut() = Method::from_bytes(call.method).map_err(|_| bad("method"))?;
        *request.uri_mut() = uri;
        let mut fields = end_to_end(fields);
        let own = [header::HOST, header::CONTENT_LENGTH, header::EXPECT];
        for name in own {
            fields.remove(name);
        }
        let via = HeaderValue::from_str(&format!("1.1 {}", self.id)).map_err(|_| bad("Via"))?;
        fields.append(header::VIA, via);
        *request.headers_mut() = fields;
        Ok(Outgoing {
            request,
            http2: target.protocol == TargetProtocol::Http2 && !target.tls,
            to: target.to_string(),
        })
    }

    /// Where a request goes, and its path with the query.
    fn destination<'c>(
        &self,
        call: &Call<'c>,
        tunnel: Option<&Tunnel>,
    ) -> Result<(Target, &'c [u8]), Refused> {
        let asked = Asked::parse(call.target);
        let tunnelled = tunnel.map(|tunnel| tunnel.authority.as_bytes());
        let named = asked.authority.or(call.authority).or(tunnelled);
        // What follows the authority in a target, as it is.
        let path = match asked.authority {
            Some(_) => behind_authority(call.target),
            None => call.target,
        };
        if let Some(target) = self.upstreams.of(named.unwrap_or_default()) {
            return Ok((target.clone(), path));
        }
        let (tls, authority) = match (asked.authority, tunnel) {
            (Some(authority), _) if is_lines(call.headers) => {
                (call.target.starts_with(b"https"), authority)
            }
            (_, Some(tunnel)) => (tunnel.tls, tunnel.authority.as_bytes()),
            _ => return Err(Refused::Nowhere),
        };
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://{}", String::from_utf8_lossy(authority));
        let target = url
            .parse()
            .map_err(|_| Refused::With(StatusCode::BAD_REQUEST, format!("{url} is no address")))?;
        Ok((target, path))
    }

    /// Asks, and gives the answer as soon as its head is there.
    pub(crate) async fn send(&self, outgoing: Outgoing) -> Result<Passed, Refused> {
        let Outgoing { request, http2, to } = outgoing;
        let place = self.place()?;
        let head_only = request.method() == Method::HEAD;
        let client = if http2 { &self.http2 } else { &self.client };
        let response = self.ask(client, request, &to).await?;
        Ok(self.passed(response, head_only, place))
    }

    fn passed(
        &self,
        response: http::Response<Incoming>,
        head_only: bool,
        place: OwnedSemaphorePermit,
    ) -> Passed {
        let (head, body) = response.into_parts();
        let reason = head.extensions.get::<ReasonPhrase>();
        let stated = head.headers.contains_key(header::CONTENT_LENGTH);
        Passed {
            status: head.status,
            reason: reason.map(|reason| reason.as_bytes().to_vec()),
            fields: end_to_end(head.headers),
            peer: head.extensions.get().map(|Peer(addr)| *addr),
            length: body.size_hint().exact().filter(|_| stated),
            bodyless: head_only
                || matches!(
                    head.status,
                    StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
                ),
            body,
            patience: self.patience,
            _place: place,
        }
    }
}

impl Relay {
    async fn ask(
        &self,
        client: &Client<Connector, Sent>,
        request: Request<Sent>,
        to: &str,
    ) -> Result<http::Response<Incoming>, Refused> {
        match timeout(self.patience, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let what = if error.is_connect() {
                    "cannot be reached"
                } else {
                    "gave no answer"
                };
                let why = format!("the upstream {to} {what}: {}", root(&error));
                let status = if connector::is_loop(&error) {
                    StatusCode::LOOP_DETECTED
                } else {
                    StatusCode::BAD_GATEWAY
                };
                Err(Refused::With(status, why))
            }
            Err(_) => {
                let patience = self.patience;
                let why = format!("the upstream {to} gave no answer within {patience:?}");
                Err(Refused::With(StatusCode::GATEWAY_TIMEOUT, why))
            }
        }
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, Refused> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let why = "too many requests are on their way to upstreams; try again";
            Refused::With(StatusCode::SERVICE_UNAVAILABLE, why.to_owned())
        })
    }
}

/// An answer that passes through.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) status: StatusCode,
    /// HTTP/1: where it is not the usual one.
    pub(crate) reason: Option<Vec<u8>>,
    pub(crate) fields: HeaderMap,
    /// The upstream's address.
    pub(crate) peer: Option<SocketAddr>,
    /// Length of the body, where it was stated.
    pub(crate) length: Option<u64>,
    /// By its method or status it has no body.
    pub(crate) bodyless: bool,
    body: Incoming,
    patience: Duration,
    _place: OwnedSemaphorePermit,
}

/// What comes next of a body.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// The upstream broke off, or fell silent.
    Broken,
}

impl Passed {
    /// Whether nothing follows the head.
    pub(crate) fn is_over(&self) -> bool {
        self.bodyless || self.body.is_end_stream()
    }

    pub(crate) async fn next(&mut self) -> Piece {
        match timeout(self.patience, self.body.frame()).await {
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Piece::Data(data),
                Err(frame) => frame
                    .into_trailers()
                    .map_or(Piece::End, |trailers| Piece::Trailers(end_to_end(trailers))),
            },
            Ok(None) => Piece::End,
            Ok(Some(Err(_))) | Err(_) => Piece::Broken,
        }
    }
}

const fn is_lines(headers: Headers<'_>) -> bool {
    matches!(headers, Headers::Lines(_))
}

/// What follows the authority of a target in absolute form.
fn behind_authority(target: &[u8]) -> &[u8] {
    let scheme = target.windows(3).position(|three| three == b"://");
    let rest = scheme.and_then(|at| target.get(at + 3..));
    let rest = rest.unwrap_or_default();
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
    end.and_then(|end| rest.get(end..)).unwrap_or_default()
}

fn uri(target: &Target, asked: &[u8]) -> Option<Uri> {
    let mut path = target.path_prefix.clone().into_bytes();
    if !asked.starts_with(b"/") && asked != b"*" {
        path.push(b'/');
    }
    path.extend_from_slice(asked);
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if target.tls {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    });
    parts.authority = Some(Authority::try_from(target.authority.as_str()).ok()?);
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(Bytes::from(path)).ok()?);
    Uri::from_parts(parts).ok()
}

/// The fields of a request. What no field can hold is left out.
fn fields(headers: Headers<'_>) -> HeaderMap {
    let lines = match headers {
        Headers::Map(map) => return map.clone(),
        Headers::Lines(lines) => lines,
        Headers::None | Headers::Recorded(_) => b"",
    };
    let mut map = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            // Full: more fields than a head may have.
            let _full = map.try_append(name, value);
        }
    }
    map
}

/// The fields that do not belong to the connection they came on.
fn end_to_end(mut fields: HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = fields
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    // gRPC servers want to hear it (RFC 9110 section 10.1.4), and only HTTP/2 may say it unnamed.
    let trailers = !fields.contains_key(header::CONNECTION)
        && fields.get(header::TE).is_some_and(|te| te == "trailers");
    const HOP_BY_HOP: [HeaderName; 6] = [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
    ];
    for name in HOP_BY_HOP.iter().chain(&named) {
        fields.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        fields.remove(name);
    }
    if trailers {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    fields
}

/// The cause at the bottom, which says the most.
fn root(error: &dyn StdError) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// How long a connection to an upstream is kept for the next request: less than servers keep theirs.
const IDLE: Duration = Duration::from_secs(15);
/// Idle connections that are kept for each upstream.
const MAX_IDLE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        let lines = b"GET / HTTP/1.1\r\nConnection: x-own, close\r\nX-Own: 1\r\nTE: trailers\r\n\
            Upgrade: h2c\r\nKeep-Alive: 5\r\nProxy-Authorization: secret\r\nX-Kept: 2\r\n\
            x-kept: 3\r\nbroken name: 4\r\n\r\n";
        let kept = end_to_end(fields(Headers::Lines(lines)));
        let kept: Vec<_> = kept
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        assert_eq!(kept, [("x-kept", &b"2"[..]), ("x-kept", b"3")]);
        // HTTP/2 names no connection; gRPC needs it.
        let mut map = HeaderMap::new();
        map.insert(header::TE, HeaderValue::from_static("trailers"));
        assert_eq!(end_to_end(fields(Headers::Map(&map))), map);
    }

    #[test]
    fn the_path_follows_that_of_the_upstream() {
        for (url, asked, expect) in [
            ("http://a", "/x?y", "http://a/x?y"),
            ("https://a:1/base/", "/x", "https://a:1/base/x"),
            ("h2c://[::1]:2", "", "http://[::1]:2/"),
            ("http://a", "?q", "http://a/?q"),
        ] {
            let target: Target = url.parse().unwrap();
            let uri = uri(&target, asked.as_bytes()).unwrap();
            assert_eq!(uri.to_string(), expect);
        }
        for (target, rest) in [
            ("http://a/b?c", "/b?c"),
            ("http://a", ""),
            ("http://a?b", "?b"),
        ] {
            assert_eq!(behind_authority(target.as_bytes()), rest.as_bytes());
        }
    }
}
