//! The port of the controller: whether it lives, its metrics, and the snapshots.
//!
//! `pull` comes here by the API server's service proxy, with its user's right to it. What is handed out is what the
//! status of the snapshot names, in ranges, so that a transfer that was cut goes on where it was.

use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::{Api, Client};
use tapedeck_cluster::{Location, Phase, Snapshot};
use tapedeck_cluster_store::StoreError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::forbidden::{code, explained};
use crate::run::Shared;
use crate::tls::Shown;

/// Connections that are served at once: the API server's proxies and a few probes. Others wait.
const MAX_CONNECTIONS: usize = 64;

/// Who sends no request for so long, or does not end the handshake, is gone.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

enum Answer {
    Whole(Full<Bytes>),
    Stream {
        parts: BoxStream<'static, Result<Bytes, StoreError>>,
        shared: Arc<Shared>,
    },
}

impl Body for Answer {
    type Data = Bytes;
    type Error = StoreError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StoreError>>> {
        match self.get_mut() {
            Self::Whole(body) => match Pin::new(body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
                Poll::Ready(Some(Err(never))) => match never {},
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
            Self::Stream { parts, shared } => parts.poll_next_unpin(context).map(|part| {
                part.map(|part| {
                    if let Ok(part) = &part {
                        let bytes = part.len() as u64;
                        shared
                            .metrics
                            .add("tapedeck_controller_pull_bytes_total", "", bytes);
                    }
                    part.map(Frame::data)
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream { .. } => false,
        }
    }
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, shown: Arc<Shown>, shared: Arc<Shared>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (shown, shared) = (Arc::clone(&shown), Arc::clone(&shared));
                tokio::spawn(async move {
                    secured(stream, &shown, shared).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "failed to take a connection");
                // Out of descriptors: those that are open end some time.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Behind the handshake, where there is a certificate to show.
async fn secured(stream: TcpStream, shown: &Shown, shared: Arc<Shared>) {
    let Some(config) = shown.now() else {
        return connection(stream, shared).await;
    };
    let handshake = TlsAcceptor::from(config).accept(stream);
    match tokio::time::timeout(HEADER_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => connection(stream, shared).await,
        Ok(Err(error)) => debug!(%error, "a handshake failed"),
        Err(_) => debug!("a handshake was not ended"),
    }
}

async fn connection<S>(stream: S, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, &request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        // The peer may go whenever it wants.
        debug!(%error, "a connection ended");
    }
}

fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Full::new(text.into())));
    *response.status_mut() = code;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

async fn answer(shared: &Arc<Shared>, request: &http::Request<Incoming>) -> Response<Answer> {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    if !is_read {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    let steps: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
    match steps.as_slice() {
        ["livez" | "healthz"] => match shared.health.alive() {
            true => text(StatusCode::OK, "ok\n"),
            false => text(StatusCode::INTERNAL_SERVER_ERROR, "the loop stands still\n"),
        },
        ["readyz"] => match shared.health.ready() {
            Ok(()) => text(StatusCode::OK, "ok\n"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        ["metrics"] => text(StatusCode::OK, shared.metrics.text()),
        ["snapshots", namespace, name] => match snapshot(shared, namespace, name).await {
            Ok(location) => transfer(shared, request, &location, name).await,
            Err((code, why)) => text(code, format!("{why}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "there is no such page\n"),
    }
}

/// Where a snapshot lies that can be pulled.
async fn snapshot(
    shared: &Shared,
    namespace: &str,
    name: &str,
) -> Result<Location, (StatusCode, String)> {
    let api: Api<Snapshot> = Api::namespaced(Client::clone(&shared.client), namespace);
    let found = api.get(name).await.map_err(|error| match code(&error) {
        404 => (
            StatusCode::NOT_FOUND,
            format!("there is no snapshot {namespace}/{name}"),
        ),
        _ => (StatusCode::BAD_GATEWAY, explained(&error)),
    })?;
    let status = found.status.unwrap_or_default();
    match (status.phase, status.location) {
        (Phase::Ready, Some(location)) => Ok(location),
        (phase, _) => Err((
            StatusCode::CONFLICT,
            format!("the snapshot {namespace}/{name} cannot be pulled: it is {phase:?}"),
        )),
    }
}

async fn transfer(
    shared: &Arc<Shared>,
    request: &http::Request<Incoming>,
    location: &Location,
    name: &str,
) -> Response<Answer> {
    let Some(store) = shared.stores.get(&location.store) else {
        let why = format!(
            "the store {:?} is not configured any more\n",
            location.store
        );
        return text(StatusCode::BAD_GATEWAY, why);
    };
    let etag = format!("\"{}\"", location.blake3);
    let headers = request.headers();
    // The port is open to the cluster's network. Only those who may read the `Snapshot` know its BLAKE3.
    if !headers.contains_key(header::IF_MATCH) {
        let why = "name the snapshot by its BLAKE3: If-Match, as `tapedeck cluster pull` does\n";
        return text(StatusCode::PRECONDITION_REQUIRED, why);
    }
    if !list_has(headers, header::IF_MATCH, &etag) {
        return text(StatusCode::PRECONDITION_FAILED, "it is another one\n");
    }
    let all = 0..location.bytes;
    let wanted = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok())
        .map(|range| part(range, location.bytes));
    let (range, code) = match wanted {
        None | Some(Asked::NoRange) => (all, StatusCode::OK),
        Some(Asked::Part(range)) => (range, StatusCode::PARTIAL_CONTENT),
        Some(Asked::Outside) => {
            let mut response = text(StatusCode::RANGE_NOT_SATISFIABLE, "it is not that long\n");
            set(
                &mut response,
                header::CONTENT_RANGE,
                &format!("bytes */{}", location.bytes),
            );
            return response;
        }
    };
    let body = if request.method() == Method::HEAD {
        empty()
    } else {
        match store.range(&location.key, range.clone()).await {
            Ok(parts) => Answer::Stream {
                parts,
                shared: Arc::clone(shared),
            },
            Err(error) => {
                warn!(%error, snapshot = name, "failed to read a snapshot");
                return text(StatusCode::BAD_GATEWAY, format!("{error}\n"));
            }
        }
    };
    let mut response = described(Response::new(body), code, &etag, name);
    let length = range.end.saturating_sub(range.start);
    set(&mut response, header::CONTENT_LENGTH, &length.to_string());
    if code == StatusCode::PARTIAL_CONTENT {
        let last = range.end.saturating_sub(1);
        let said = format!("bytes {}-{last}/{}", range.start, location.bytes);
        set(&mut response, header::CONTENT_RANGE, &said);
    }
    response
}

fn empty() -> Answer {
    Answer::Whole(Full::new(Bytes::new()))
}

fn set(response: &mut Response<Answer>, name: header::HeaderName, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}

fn described(
    mut response: Response<Answer>,
    code: StatusCode,
    etag: &str,
    name: &str,
) -> Response<Answer> {
    *response.status_mut() = code;
    set(&mut response, header::ETAG, etag);
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    set(
        &mut response,
        header::CONTENT_TYPE,
        "application/octet-stream",
    );
    let file = format!("attachment; filename=\"{name}.tape\"");
    set(&mut response, header::CONTENT_DISPOSITION, &file);
    response
}

fn list_has(headers: &HeaderMap, name: header::HeaderName, etag: &str) -> bool {
    let values = headers.get_all(name);
    values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|value| value == etag)
}

#[derive(Debug, Eq, PartialEq)]
enum Asked {
    /// What this server does not understand it may pass over (RFC 9110, 14.2).
    NoRange,
    Outside,
    Part(Range<u64>),
}

/// One range of bytes: `bytes=0-499`, `bytes=500-`, `bytes=-500`.
fn part(range: &str, len: u64) -> Asked {
    let Some(range) = range.strip_prefix("bytes=") else {
        return Asked::NoRange;
    };
    let Some((first, last)) = range.trim().split_once('-') else {
        return Asked::NoRange;
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            Some(count) => len.saturating_sub(count)..len,
            None => return Asked::NoRange,
        },
        (first, "") => match number(first) {
            Some(first) => first..len,
            None => return Asked::NoRange,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(len),
            _ => return Asked::NoRange,
        },
    };
    if range.start >= range.end {
        Asked::Outside
    } else {
        Asked::Part(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_has_them() {
        for (text, wanted) in [
            ("bytes=0-9", Asked::Part(0..10)),
            ("bytes=90-", Asked::Part(90..100)),
            ("bytes=-10", Asked::Part(90..100)),
            ("bytes=-1000", Asked::Part(0..100)),
            ("bytes=50-1000", Asked::Part(50..100)),
            ("bytes=100-", Asked::Outside),
            ("bytes=-0", Asked::Outside),
            ("bytes=9-0", Asked::NoRange),
            ("bytes=0-1,5-6", Asked::NoRange),
            ("items=0-1", Asked::NoRange),
            ("bytes=a-b", Asked::NoRange),
            ("bytes=18446744073709551615-", Asked::Outside),
            ("bytes=0-18446744073709551615", Asked::Part(0..100)),
        ] {
            assert_eq!(part(text, 100), wanted, "{text}");
        }
    }
}
