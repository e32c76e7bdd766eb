//! What the server fetches from elsewhere: services by its proxy, and logs of pods.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::refusal::Refusal;
use crate::route::Ask;
use crate::server::{Answer, Shared, whole};

/// Parts of an answer that wait for a client that does not read.
const MAX_WAITING: usize = 16;

/// Where services and logs are.
#[derive(Debug, Default)]
pub(crate) struct Proxies {
    /// By namespace, and name with its port: `tapedeck-controller:http`.
    pub(crate) services: BTreeMap<(String, String), SocketAddr>,
    /// By namespace, pod and container.
    pub(crate) logs: BTreeMap<(String, String, String), String>,
}

/// `/api/v1/namespaces/NS/services/[SCHEME:]NAME[:PORT]/proxy/PATH`
pub(crate) async fn service(
    shared: &Arc<Shared>,
    ask: &Ask,
    parts: &http::request::Parts,
    body: Bytes,
) -> Result<Response<Answer>, Refusal> {
    let name = ask
        .name
        .trim_start_matches("http:")
        .trim_start_matches("https:");
    let key = (ask.namespace.clone().unwrap_or_default(), name.to_owned());
    let address = shared.state().proxies.services.get(&key).copied();
    let unavailable = |why: &str| {
        Refusal::new(
            503,
            "ServiceUnavailable",
            format!("error trying to reach service: {why}"),
        )
    };
    let address = address.ok_or_else(|| {
        unavailable(&format!(
            "no endpoints available for service {:?}",
            ask.name
        ))
    })?;
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| unavailable(&error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unavailable(&error.to_string()))?;
    tokio::spawn(connection);
    let query = parts
        .uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let mut request = http::Request::new(Full::new(body));
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = format!("/{}{query}", ask.rest)
        .parse()
        .map_err(|_| unavailable("no such path"))?;
    for (name, value) in &parts.headers {
        // The credentials are the server's business.
        if !["authorization", "connection", "content-length"].contains(&name.as_str()) {
            request.headers_mut().append(name, value.clone());
        }
    }
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| unavailable(&error.to_string()))?;
    let (head, mut body) = response.into_parts();
    let (to, answer) = mpsc::channel(MAX_WAITING);
    tokio::spawn(async move {
        // The connection lives as long as its body.
        let _sender = sender;
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data()
                && to.send(data).await.is_err()
            {
                return;
            }
        }
    });
    let mut response = Response::from_parts(head, Answer::Stream(answer));
    response.headers_mut().remove("transfer-encoding");
    response.headers_mut().remove("connection");
    Ok(response)
}

/// `/api/v1/namespaces/NS/pods/POD/log`
pub(crate) fn log(shared: &Arc<Shared>, ask: &Ask) -> Result<Response<Answer>, Refusal> {
    let state = shared.state();
    let namespace = ask.namespace.clone().unwrap_or_default();
    let container = ask.value("container").unwrap_or_default();
    let found = state
        .proxies
        .logs
        .iter()
        .find(|((place, pod, of), _)| {
            *place == namespace && *pod == ask.name && (container.is_empty() || of == container)
        })
        .map(|(_, text)| text.clone());
    let text = found
        .ok_or_else(|| Refusal::new(404, "NotFound", format!("pods {:?} not found", ask.name)))?;
    let lines: Vec<&str> = text.lines().collect();
    let last = ask
        .value("tailLines")
        .and_then(|lines| lines.parse().ok())
        .unwrap_or(lines.len());
    let shown = lines
        .get(lines.len().saturating_sub(last)..)
        .unwrap_or_default();
    let text: String = shown.iter().map(|line| format!("{line}\n")).collect();
    Ok(whole(200, "text/plain", text))
}
