//! The control endpoint: `/livez`, `/readyz`, `/metrics`.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::{AbortHandle, yield_now};

use super::metrics::{self, Report};

/// What the endpoint tells, written once a second by the recording.
#[derive(Debug, Default)]
pub(super) struct Published {
    state: Mutex<Option<State>>,
    /// Why the daemon does nothing, and never will as it is.
    idle: Mutex<Option<String>>,
}

#[derive(Debug)]
struct State {
    at: Instant,
    report: Report,
    /// Why the daemon does not do its work, in words.
    not_ready: Option<String>,
}

/// A recording that has not reported for so long is stuck. It reports every second; a disk that
/// hangs may take some.
const STUCK: Duration = Duration::from_secs(15);

/// Connections at once. Who watches needs one or two; one more takes the place of that which has been silent for
/// longest.
const MOST_CONNECTIONS: usize = 32;

/// How long a client may take for the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may stay: a client that reads nothing would else hold its place for ever.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

impl Published {
    /// Tells how it stands. `not_ready`: why the daemon does not do its work.
    pub(super) fn publish(&self, report: Report, not_ready: Option<String>) {
        let state = State {
            at: Instant::now(),
            report,
            not_ready,
        };
        *lock(&self.state) = Some(state);
    }

    /// Tells that nothing is recorded, and why.
    pub(super) fn idle(&self, why: &str) {
        *lock(&self.idle) = Some(why.to_owned());
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if ![Method::GET, Method::HEAD].contains(method) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD");
            let allow = hyper::header::HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allow);
            return response;
        }
        let state = lock(&self.state);
        let unavailable = |why: &str| text(StatusCode::SERVICE_UNAVAILABLE, why);
        match (path, &*state) {
            ("/livez", Some(state)) if state.at.elapsed() > STUCK => unavailable("stuck"),
            ("/livez", _) => text(StatusCode::OK, "ok"),
            ("/readyz" | "/metrics", None) => {
                let idle = lock(&self.idle);
                unavailable(idle.as_deref().unwrap_or("starting"))
            }
            ("/readyz", Some(state)) => match &state.not_ready {
                None => text(StatusCode::OK, "ok"),
                Some(why) => unavailable(why),
            },
            ("/metrics", Some(state)) => {
                let mut response = text(StatusCode::OK, metrics::render(&state.report));
                let kind = hyper::header::HeaderValue::from_static(metrics::CONTENT_TYPE);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            _ => text(StatusCode::NOT_FOUND, "/livez, /readyz or /metrics"),
        }
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Full<Bytes>> {
    let mut body = body.into();
    if !body.ends_with('\n') {
        body.push('\n');
    }
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Serves what is published, on a thread of its own, until the process ends.
///
/// # Errors
///
/// When the system cannot start a thread.
pub(super) fn serve(listener: TcpListener, published: Arc<Published>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || runtime.block_on(accept(listener, published)))?;
    Ok(())
}

async fn accept(listener: TcpListener, published: Arc<Published>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the control endpoint cannot be served");
            return;
        }
    };
    let mut connections = Vec::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: the next connection may find one.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        make_place(&mut connections).await;
        let published = Arc::clone(&published);
        let asked = Arc::new(Mutex::new(Instant::now()));
        let asks = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                *lock(&asks) = Instant::now();
                let response = published.answer(request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // What a client does wrong is its own affair.
            drop(tokio::time::timeout(CONNECTION_TIMEOUT, connection).await);
        });
        let task = task.abort_handle();
        connections.push(Connection { task, asked });
    }
}

/// A connection that is open.
struct Connection {
    task: AbortHandle,
    /// When it asked for something last, or began.
    asked: Arc<Mutex<Instant>>,
}

/// Makes room for one more: whoever connects and says nothing, by mistake or not, must not keep out who asks whether
/// the daemon lives.
async fn make_place(connections: &mut Vec<Connection>) {
    if connections.len() >= MOST_CONNECTIONS {
        // Those that have asked by now are answered first.
        yield_now().await;
    }
    connections.retain(|connection| !connection.task.is_finished());
    if connections.len() < MOST_CONNECTIONS {
        return;
    }
    let asked = |(_, connection): &(usize, &Connection)| *lock(&connection.asked);
    if let Some((longest, _)) = connections.iter().enumerate().min_by_key(asked) {
        connections.swap_remove(longest).task.abort();
    }
}

/// A value that is written in one step is whole, whoever panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn who_says_nothing_keeps_nobody_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        serve(listener, Arc::default()).unwrap();
        let connect = |said: &str| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(said.as_bytes()).unwrap();
            stream
        };
        let head = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
        let answer = |prober: &mut TcpStream| {
            prober.set_read_timeout(Some(HEAD_TIMEOUT / 2)).unwrap();
            let mut answer = [0; 15];
            prober.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
        };
        let mut silent = Vec::new();
        for number in 0..200 {
            silent.push(connect(if number % 2 == 0 { "" } else { "GET /li" }));
            if number % 50 == 0 {
                answer(&mut connect(head));
            }
        }
        answer(&mut connect(head));
    }
}
