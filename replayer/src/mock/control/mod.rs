//! The control port: what a running mock tells about itself, and what it can be told.
//!
//! It is a port of its own, so that nothing there hides a recorded path, and off unless asked for
//! ([`Options::control`](super::Options::control)): whoever reaches it can stop the mock. Requests
//! that carry an `Origin` field are refused, so that no web page reaches it through a browser on the
//! same machine.
//!
//! [`ROUTES`] is all there is; the OpenAPI document is made from it.

mod metrics;
mod openapi;
mod routes;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::connection::Stop;
use super::responder::Responder;
use routes::{Asked, ROUTES, Reply};

pub use metrics::{METRICS, Metric};

/// Is told that a client of the control port asks for the end of the mock.
pub type OnShutdown = Arc<dyn Fn() + Send + Sync>;

/// Connections at once: a person, a script, and what scrapes the metrics.
const MOST_CONNECTIONS: usize = 16;
/// How long a client may take for the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may stay: a client that reads nothing would else hold its place for ever.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a body: a chaos file of thousands of rules.
const MAX_BODY: usize = 1 << 20;
/// How long to wait when a connection cannot be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the port controls.
pub(crate) struct Control {
    pub(crate) responder: Arc<Responder>,
    /// Where the mock itself listens.
    pub(crate) mock: SocketAddr,
    pub(crate) began: Instant,
    pub(crate) on_shutdown: Option<OnShutdown>,
}

impl Control {
    /// Serves until it is stopped.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, stop: Arc<Stop>) {
        let stopping = stop.wait();
        if stop.is_set() {
            return;
        }
        tokio::select! {
            () = stopping => {}
            () = self.accept(listener) => {}
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely: the next connection may find one.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let control = Arc::clone(&self);
            tokio::spawn(async move {
                // What a client does wrong is its own affair.
                let _late = tokio::time::timeout(CONNECTION_TIMEOUT, control.talk(stream)).await;
                drop(place);
            });
        }
    }

    async fn talk(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| {
            let control = Arc::clone(&self);
            async move { Ok::<_, Infallible>(control.handle(request).await) }
        });
        let _ended = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.headers().contains_key(ORIGIN) {
            let why = "requests from web pages are refused (they carry an Origin field)";
            return problem(StatusCode::FORBIDDEN, why);
        }
        let path = request.uri().path().to_owned();
        let here = || ROUTES.iter().filter(|route| route.path == path);
        let Some(route) = here().find(|route| *request.method() == route.method) else {
            return no_route(here().map(|route| route.method).collect());
        };
        let query = request.uri().query().unwrap_or_default().to_owned();
        let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let why = format!("the body is longer than {MAX_BODY} bytes");
                return problem(StatusCode::PAYLOAD_TOO_LARGE, &why);
            }
            Err(_) => return problem(StatusCode::BAD_REQUEST, "the body did not come whole"),
        };
        let asked = Asked { query, body };
        match (route.answer)(self, &asked) {
            Reply::Json(status, document) => json_response(status, &document),
            Reply::Text(kind, text) => response(StatusCode::OK, kind, text),
            Reply::Problem(status, why) => problem(status, &why),
        }
    }
}

fn no_route(methods: Vec<&str>) -> Response<Full<Bytes>> {
    if methods.is_empty() {
        let known: Vec<_> = ROUTES
            .iter()
            .map(|route| format!("{} {}", route.method, route.path))
            .collect();
        let document = json!({ "error": "there is no such path", "paths": known });
        return json_response(StatusCode::NOT_FOUND, &document);
    }
    let allowed = methods.join(", ");
    let mut response = problem(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("this path takes {allowed}"),
    );
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

fn problem(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    json_response(status, &json!({ "error": why }))
}

fn json_response(status: StatusCode, document: &Value) -> Response<Full<Bytes>> {
    response(status, "application/json", format!("{document:#}\n"))
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
