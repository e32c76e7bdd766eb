//! One user's connection.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::report::{Answered, Failure, Report};
use super::{Target, Version};

/// A connection, the token it carries, and what was seen on it.
pub(super) struct Client {
    sender: Sender,
    driver: JoinHandle<()>,
    authority: String,
    patience: Duration,
    pub(super) token: Option<String>,
    pub(super) seen: Report,
}

/// An answer, as far as a user looks at it.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub(super) async fn connect(
        target: &Target,
        version: Version,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let connected = timeout(patience, open(target, version)).await;
        let (sender, driver) = connected.map_err(|_| Failure::Connect)??;
        Ok(Self {
            sender,
            driver,
            authority: target.authority.clone(),
            patience,
            token: None,
            seen: Report::default(),
        })
    }

    pub(super) async fn get(&mut self, target: &str) -> Option<Answer> {
        self.call(Method::GET, target, Bytes::new()).await
    }

    pub(super) async fn post(&mut self, target: &str, body: &Value) -> Option<Answer> {
        self.call(Method::POST, target, body.to_string().into())
            .await
    }

    /// Ends the connection and says what was seen on it.
    pub(super) async fn close(self) -> Report {
        let Self {
            sender,
            driver,
            patience,
            seen,
            ..
        } = self;
        // Without a sender the driver says goodbye to the server and ends.
        drop(sender);
        let abort = driver.abort_handle();
        if timeout(patience, driver).await.is_err() {
            abort.abort();
        }
        seen
    }

    /// Makes a call; `None` where it was not answered, which is counted.
    async fn call(&mut self, method: Method, target: &str, asked: Bytes) -> Option<Answer> {
        let patience = self.patience;
        let exchanged = self.exchange(&method, target, asked.clone());
        let result = match timeout(patience, exchanged).await {
            Ok(result) => result.map_err(|_| Failure::Broken),
            Err(_) => Err(Failure::TimedOut),
        };
        let (status, answer) = match result {
            Ok(answer) => answer,
            Err(failure) => {
                self.seen.failed(failure);
                return None;
            }
        };
        self.seen.answered(&Answered {
            method: method.as_str(),
            target,
            asked: &asked,
            status,
            answer: &answer,
        });
        let Ok(body) = serde_json::from_slice(&answer) else {
            self.seen.failed(Failure::Unexpected);
            return None;
        };
        Some(Answer { status, body })
    }

    async fn exchange(
        &mut self,
        method: &Method,
        target: &str,
        body: Bytes,
    ) -> anyhow::Result<(u16, Bytes)> {
        let mut request = Request::builder()
            .method(method)
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "application/json");
        // HTTP/2 carries the authority in a pseudo-header field, which hyper takes from the URI.
        request = match self.sender {
            Sender::Http1(_) => request.uri(target).header(HOST, &self.authority),
            Sender::Http2(_) => request.uri(format!("http://{}{target}", self.authority)),
        };
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body))?;
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, body))
    }
}

async fn open(target: &Target, version: Version) -> Result<(Sender, JoinHandle<()>), Failure> {
    let stream = TcpStream::connect(target.address)
        .await
        .map_err(|_| Failure::Connect)?;
    stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
    let io = TokioIo::new(stream);
    // A connection's own error ends the call that is under way too, and is counted there.
    match version {
        Version::Http1 => {
            let (sender, connection) = http1::handshake(io).await.map_err(|_| Failure::Broken)?;
            let driver = tokio::spawn(async move { drop(connection.await) });
            Ok((Sender::Http1(sender), driver))
        }
        Version::Http2 => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(|_| Failure::Broken)?;
            let driver = tokio::spawn(async move { drop(connection.await) });
            Ok((Sender::Http2(sender), driver))
        }
    }
}

const AGENT: &str = concat!("concert-crowd/", env!("CARGO_PKG_VERSION"));
