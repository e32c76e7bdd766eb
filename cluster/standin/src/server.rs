//! Connections and requests: from HTTP to what is asked, and back.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use crate::api;
use crate::faults::{Fault, Pending, Request};
use crate::refusal::Refusal;
use crate::route::{Ask, User};
use crate::store::Store;
use crate::{discovery, proxy, rbac, watching};

/// A body that is longer is refused, as etcd would.
const MAX_BODY: usize = 3 << 20;

/// Requests that are remembered. The oldest are forgotten, and counted no more.
const MAX_REQUESTS: usize = 1 << 20;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// What watches wait for.
    pub(crate) news: watch::Sender<News>,
    /// Changes when all connections are to end.
    pub(crate) cut: watch::Sender<u64>,
    pub(crate) started: Instant,
    pub(crate) rbac: bool,
}

/// What a watch is told of.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct News {
    pub(crate) revision: u64,
    /// Counts the bookmarks that were asked for.
    pub(crate) bookmarks: u64,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) requests: Vec<Request>,
    pub(crate) faults: Vec<Pending>,
    pub(crate) proxies: proxy::Proxies,
}

impl Shared {
    pub(crate) fn new(rbac: bool) -> Self {
        Self {
            state: Mutex::new(State {
                store: Store::new(),
                requests: Vec::new(),
                faults: Vec::new(),
                proxies: proxy::Proxies::default(),
            }),
            news: watch::Sender::new(News::default()),
            cut: watch::Sender::new(0),
            started: Instant::now(),
            rbac,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked with the lock has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says to the watches how far the store is.
    pub(crate) fn tell(&self) {
        let revision = self.state().store.revision();
        self.news.send_if_modified(|news| {
            let newer = news.revision != revision;
            news.revision = revision;
            newer
        });
    }
}

/// A body: whole, or as it comes.
#[derive(Debug)]
pub(crate) enum Answer {
    Whole(Full<Bytes>),
    Stream(mpsc::Receiver<Bytes>),
    /// Breaks off.
    Broken,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => match Pin::new(body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
                Poll::Ready(Some(Err(never))) => match never {},
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
            Self::Stream(parts) => parts
                .poll_recv(context)
                .map(|part| part.map(|part| Ok(Frame::data(part)))),
            Self::Broken => Poll::Ready(Some(Err(std::io::Error::other("cut by the test")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            _ => false,
        }
    }
}

pub(crate) fn whole(code: u16, kind: &str, body: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Full::new(body.into())));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(kind) = kind.parse() {
        response.headers_mut().insert("content-type", kind);
    }
    response
}

pub(crate) fn json_answer(code: u16, value: &Value) -> Response<Answer> {
    whole(code, "application/json", value.to_string())
}

pub(crate) fn refused(refusal: &Refusal) -> Response<Answer> {
    let mut response = json_answer(refusal.code, &refusal.status());
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    response
}

/// Serves a connection until its peer, or a test, ends it.
pub(crate) async fn connection(shared: Arc<Shared>, stream: TcpStream) {
    let mut cut = shared.cut.subscribe();
    cut.mark_unchanged();
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(request_of(shared, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        // How a connection ends is its peer's business.
        _ = served => {}
        _ = cut.changed() => {}
    }
}

async fn request_of(shared: Arc<Shared>, request: http::Request<Incoming>) -> Response<Answer> {
    let at = shared.started.elapsed();
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let user = user(&parts.headers);
    let ask = Ask::parse(&parts.method, &path, &query).map(|mut ask| {
        ask.user = user.clone();
        ask
    });
    let number = {
        let mut state = shared.state();
        if state.requests.len() == MAX_REQUESTS {
            state.requests.clear();
        }
        let about = ask.clone().unwrap_or_default();
        state.requests.push(Request {
            user: user.name.clone(),
            verb: if ask.is_some() { about.verb } else { "get" },
            group: about.group,
            resource: about.plural,
            subresource: about.subresource,
            namespace: about.namespace.unwrap_or_default(),
            name: about.name,
            path: if query.is_empty() {
                path.clone()
            } else {
                format!("{path}?{query}")
            },
            code: 0,
            at,
        });
        state.requests.len().saturating_sub(1)
    };
    let fault = ask.as_ref().and_then(|ask| take_fault(&shared, ask));
    let response = answer(&shared, ask, &path, user, &parts, body, fault).await;
    if !matches!(response.body(), Answer::Broken)
        && let Some(request) = shared.state().requests.get_mut(number)
    {
        request.code = response.status().as_u16();
    }
    shared.tell();
    response
}

fn user(headers: &HeaderMap) -> User {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let token = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    match header("impersonate-user") {
        Some(user) => User::of_token(Some(user)),
        None => User::of_token(token),
    }
}

fn take_fault(shared: &Shared, ask: &Ask) -> Option<Fault> {
    let mut state = shared.state();
    let number = state
        .faults
        .iter()
        .position(|pending| pending.when.meets(ask))?;
    let pending = state.faults.get_mut(number)?;
    let fault = pending.fault;
    pending.left = pending.left.saturating_sub(1);
    if pending.left == 0 {
        state.faults.remove(number);
    }
    Some(fault)
}

async fn answer(
    shared: &Arc<Shared>,
    ask: Option<Ask>,
    path: &str,
    user: User,
    parts: &http::request::Parts,
    body: Incoming,
    fault: Option<Fault>,
) -> Response<Answer> {
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return refused(&Refusal::new(
            413,
            "RequestEntityTooLarge",
            "etcdserver: request is too large",
        ));
    };
    let body = body.to_bytes();
    if let (Some(fault), Some(ask)) = (fault, &ask) {
        match fault {
            Fault::Slow(time) => tokio::time::sleep(time).await,
            Fault::Cut => return Response::new(Answer::Broken),
            Fault::DoneAndCut => {}
            other => return refused(&refusal_of(other, ask)),
        }
    }
    let response = match ask {
        Some(ask) => match resource(shared, &ask, parts, body).await {
            Ok(response) => response,
            Err(refusal) => refused(&refusal),
        },
        None => match discovery::answer(&shared.state().store, path) {
            Some(value) => json_answer(200, &value),
            None if path == "/" || user.name.is_empty() => refused(&Refusal::no_such_path()),
            None => plain(path),
        },
    };
    if fault == Some(Fault::DoneAndCut) {
        return Response::new(Answer::Broken);
    }
    response
}

fn plain(path: &str) -> Response<Answer> {
    match path {
        "/healthz" | "/livez" | "/readyz" => whole(200, "text/plain", "ok"),
        _ => refused(&Refusal::no_such_path()),
    }
}

fn refusal_of(fault: Fault, ask: &Ask) -> Refusal {
    match fault {
        Fault::Throttled(seconds) => {
            let mut refusal = Refusal::new(
                429,
                "TooManyRequests",
                "the server has received too many requests and has asked us to try again later",
            );
            refusal.retry_after = Some(seconds);
            refusal
        }
        Fault::Forbidden => rbac::forbidden(ask),
        Fault::Conflict => Refusal::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} {:?}: the object has been modified; please apply your changes to the latest version and try again",
                ask.plural, ask.name
            ),
        ),
        Fault::Expired => Refusal::expired("The resourceVersion for the provided list is too old."),
        Fault::Unavailable => Refusal::new(
            503,
            "ServiceUnavailable",
            "the server is currently unable to handle the request",
        ),
        _ => Refusal::new(500, "InternalError", "Internal error occurred: by the test"),
    }
}

async fn resource(
    shared: &Arc<Shared>,
    ask: &Ask,
    parts: &http::request::Parts,
    body: Bytes,
) -> Result<Response<Answer>, Refusal> {
    if let Some(answer) = review(shared, ask, &body) {
        return Ok(answer);
    }
    if shared.rbac {
        rbac::allows(&shared.state().store, ask)?;
    }
    match ask.subresource.as_str() {
        "proxy" => return proxy::service(shared, ask, parts, body).await,
        "log" => return proxy::log(shared, ask),
        _ => {}
    }
    if ask.verb == "watch" {
        return watching::start(shared, ask);
    }
    let (code, value, warnings) =
        api::answer(&mut shared.state().store, ask, &parts.headers, &body)?;
    let mut response = json_answer(code, &value);
    for warning in warnings {
        let text = format!("299 - {:?}", warning);
        if let Ok(header) = text.parse() {
            response.headers_mut().append("warning", header);
        }
    }
    Ok(response)
}

/// `kubectl auth can-i`, and whoever asks for itself.
fn review(shared: &Shared, ask: &Ask, body: &Bytes) -> Option<Response<Answer>> {
    if ask.group != "authorization.k8s.io" || ask.verb != "create" {
        return None;
    }
    let mut review: Value = serde_json::from_slice(body).ok()?;
    if ask.plural == "selfsubjectaccessreviews" {
        let what = &review["spec"]["resourceAttributes"];
        let text = |name: &str| what[name].as_str().unwrap_or_default().to_owned();
        let verbs = [
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch",
        ];
        let verb = text("verb");
        let wanted = Ask {
            verb: verbs
                .into_iter()
                .find(|known| *known == verb)
                .unwrap_or("other"),
            group: text("group"),
            version: text("version"),
            plural: text("resource"),
            namespace: Some(text("namespace")).filter(|name| !name.is_empty()),
            name: text("name"),
            subresource: text("subresource"),
            user: ask.user.clone(),
            ..Ask::default()
        };
        let allowed = !shared.rbac || rbac::may(&shared.state().store, &wanted);
        review["status"] = json!({ "allowed": allowed });
        return Some(json_answer(201, &review));
    }
    if ask.plural == "selfsubjectrulesreviews" {
        let namespace = review["spec"]["namespace"].as_str().map(str::to_owned);
        let rules = rbac::rules(&shared.state().store, &ask.user, namespace.as_deref());
        review["status"] = json!({
            "resourceRules": rules, "nonResourceRules": [], "incomplete": false,
        });
        return Some(json_answer(201, &review));
    }
    None
}
