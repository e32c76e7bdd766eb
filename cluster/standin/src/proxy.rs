//! What the server fetches from elsewhere: services by its proxy, and logs of pods.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use crate::refusal::Refusal;
use crate::route::Ask;
use crate::server::{Answer, Shared, whole};

/// Parts of an answer that wait for a client that does not read.
const MAX_WAITING: usize = 16;

/// Where services and logs are.
#[derive(Debug, Default)]
pub(crate) struct Proxies {
    /// By namespace, and name with its port: `tapedeck-controller:https`; and whether TLS is left out.
    pub(crate) services: BTreeMap<(String, String), (SocketAddr, bool)>,
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
    let (is_secure, name) = match ask.name.strip_prefix("https:") {
        Some(name) => (true, name),
        None => (false, ask.name.strip_prefix("http:").unwrap_or(&ask.name)),
    };
    let key = (ask.namespace.clone().unwrap_or_default(), name.to_owned());
    let address = shared.state().proxies.services.get(&key).copied();
    let unavailable = |why: &str| {
        Refusal::new(
            503,
            "ServiceUnavailable",
            format!("error trying to reach service: {why}"),
        )
    };
    let (address, is_plain) = address.ok_or_else(|| {
        unavailable(&format!(
            "no endpoints available for service {:?}",
            ask.name
        ))
    })?;
    let mut sender = connect(address, is_secure && !is_plain)
        .await
        .map_err(|why| unavailable(&why))?;
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

async fn connect(address: SocketAddr, is_secure: bool) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(address).await.map_err(in_words)?;
    if !is_secure {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(in_words)?;
        tokio::spawn(connection);
        return Ok(sender);
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(in_words)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::from(address.ip());
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(in_words)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(in_words)?;
    tokio::spawn(connection);
    Ok(sender)
}

fn in_words(error: impl std::error::Error) -> String {
    error.to_string()
}

/// Believes every certificate, as the real API server's proxy does: it knows no authority of services.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
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
    let first: String = shown.iter().map(|line| format!("{line}\n")).collect();
    if !ask.is_true("follow") {
        return Ok(whole(200, "text/plain", first));
    }
    let (to, answer) = mpsc::channel(MAX_WAITING);
    let key = (namespace, ask.name.clone(), container.to_owned());
    tokio::spawn(follow(Arc::clone(shared), key, first, text.len(), to));
    let mut response = Response::new(Answer::Stream(answer));
    let plain = http::HeaderValue::from_static("text/plain");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, plain);
    Ok(response)
}

/// How often a log that is followed is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Sends what is there, then what comes behind the first `sent` bytes, while somebody listens.
async fn follow(
    shared: Arc<Shared>,
    (namespace, pod, container): (String, String, String),
    first: String,
    mut sent: usize,
    to: mpsc::Sender<Bytes>,
) {
    let mut next = first;
    loop {
        if !next.is_empty() && to.send(Bytes::from(next)).await.is_err() {
            return;
        }
        tokio::select! {
            () = to.closed() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let state = shared.state();
        let of = |of: &String| container.is_empty() || *of == container;
        let found = state.proxies.logs.iter();
        let mut found = found
            .filter(|((place, name, in_pod), _)| *place == namespace && *name == pod && of(in_pod));
        let text = found.next().map_or("", |(_, text)| text.as_str());
        next = text.get(sent..).unwrap_or_default().to_owned();
        sent += next.len();
    }
}
