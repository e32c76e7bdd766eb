use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use tapedeck_archive::{BodyView, HeadView, InterimView, MessageView, Row};
use tapedeck_model::{Anomaly, GapCause, Workload};

use crate::text::{header_text, rfc3339};

/// What the index knows of an exchange, as `ls --format json` prints it. The keys are a contract:
/// only added, never changed. `null` where the wire did not say.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// Counts from 0 within an archive.
    pub id: u64,
    /// When the exchange began: RFC 3339, nanoseconds.
    pub time: String,
    /// The side that connected, `address:port`.
    pub client: String,
    /// The side that was connected to, `address:port`.
    pub server: String,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: String,
    /// The method.
    pub method: Option<Cow<'a, str>>,
    /// The scheme.
    pub scheme: Option<Cow<'a, str>>,
    /// The authority.
    pub authority: Option<Cow<'a, str>>,
    /// The request target as on the wire, query included.
    pub path: Option<Cow<'a, str>>,
    /// The status code of the final response.
    pub status: Option<u16>,
    /// Bytes without transfer coding, content coding kept.
    pub request_body_len: Option<u64>,
    /// Bytes without transfer coding, content coding kept.
    pub response_body_len: Option<u64>,
    /// Seconds from the first byte of the request to the last of the response.
    pub duration: Option<f64>,
    /// Seconds from the first byte of the request to the first of the response.
    pub time_to_first_byte: Option<f64>,
    /// Whether both messages are whole.
    pub complete: bool,
    /// Why the request is not whole; empty when it is.
    pub request_missing: Vec<&'static str>,
    /// Why the response is not whole; empty when it is.
    pub response_missing: Vec<&'static str>,
    /// The connection that carried it.
    pub connection: u64,
    /// The ordinal within an HTTP/1 connection, or the stream id in HTTP/2.
    pub stream: u64,
    /// Whether the bodies are the bytes of a tunnel.
    pub tunnel: bool,
    /// Whether the server pushed it.
    pub pushed: bool,
    /// What was irregular.
    pub anomalies: Vec<&'static str>,
}

impl<'a> Line<'a> {
    /// The line of a row.
    #[must_use]
    pub fn of(row: &Row<'a>) -> Self {
        Line {
            id: row.id(),
            time: rfc3339(row.time()),
            client: row.client().to_string(),
            server: row.server().to_string(),
            protocol: row.protocol().to_string(),
            method: row.method().map(header_text),
            scheme: row.scheme().map(header_text),
            authority: row.authority().map(header_text),
            path: row.target().map(|target| match target {
                Cow::Borrowed(target) => header_text(target),
                Cow::Owned(target) => header_text(&target).into_owned().into(),
            }),
            status: row.status(),
            request_body_len: row.request_body_len(),
            response_body_len: row.response_body_len(),
            duration: row.duration().map(|duration| duration.as_secs_f64()),
            time_to_first_byte: row.first_byte().map(|duration| duration.as_secs_f64()),
            complete: row.complete(),
            request_missing: row.request_missing().names().collect(),
            response_missing: row.response_missing().names().collect(),
            connection: row.connection().0,
            stream: row.stream(),
            tunnel: row.tunnel(),
            pushed: row.pushed(),
            anomalies: row.anomalies().iter().map(Anomaly::name).collect(),
        }
    }
}

/// One exchange with everything that the archive knows of it.
#[derive(Debug, Serialize)]
pub struct Object<'a> {
    /// What the index knows.
    #[serde(flatten)]
    pub line: Line<'a>,
    /// How the beginning of the connection was seen.
    pub begun: &'static str,
    /// Whose the client is; absent where nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_workload: Option<Owner>,
    /// Whose the server is; absent where nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_workload: Option<Owner>,
    /// The request; `null` where it was never seen.
    pub request: Option<Message<'a>>,
    /// The interim responses, in order.
    pub interim: Vec<Interim<'a>>,
    /// The final response; `null` where there was none.
    pub response: Option<Message<'a>>,
    /// How a gRPC call ended; absent where it is none, or its status is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,
}

/// Whose one end of a connection is. What is not known is absent.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are those of `Workload`")]
pub struct Owner {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

impl Owner {
    pub(super) fn of(workload: &Workload) -> Self {
        let Workload {
            namespace,
            pod,
            container,
            owner,
            process,
            pid,
            cgroup,
        } = workload.clone();
        Self {
            namespace,
            pod,
            container,
            owner,
            process,
            pid,
            cgroup,
        }
    }
}

/// How a gRPC call ended.
#[derive(Debug, Serialize)]
pub struct Grpc {
    /// The code: `grpc-status`.
    pub status: u32,
    /// The name of the code.
    pub name: &'static str,
    /// `grpc-message`, with its percent-encoding undone.
    pub message: String,
}

/// A request or a response.
#[derive(Debug, Serialize)]
pub struct Message<'a> {
    /// When its first byte came.
    pub first_byte: String,
    /// When its last byte came.
    pub last_byte: String,
    /// The version that its head names; `null` where the head was lost.
    pub protocol: Option<String>,
    /// The reason phrase of a response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// The header fields in the order of the wire; `null` where the head was lost.
    pub headers: Option<Vec<Field<'a>>>,
    /// The body.
    pub body: Body<'a>,
    /// The trailer fields; `null` where there was no trailer section.
    pub trailers: Option<Vec<Field<'a>>>,
    /// The error code of the RST_STREAM that ended it (HTTP/2).
    pub reset_code: Option<u32>,
}

impl<'a> Message<'a> {
    pub(super) fn of(view: &MessageView<'a>, body: Option<&'a [u8]>) -> Self {
        let head = view.head();
        Self {
            first_byte: rfc3339(view.first_byte()),
            last_byte: rfc3339(view.last_byte()),
            protocol: head.map(|head| head.protocol().to_string()),
            reason: head
                .filter(|head| head.status().is_some())
                .map(|head| header_text(head.reason())),
            headers: head.as_ref().map(fields),
            body: Body::of(&view.body(), body),
            trailers: view.trailers().as_ref().map(fields),
            reset_code: view.reset_code(),
        }
    }
}

/// An interim response (1xx).
#[derive(Debug, Serialize)]
pub struct Interim<'a> {
    /// When its last byte came.
    pub at: String,
    /// The status code.
    pub status: Option<u16>,
    /// The header fields in the order of the wire.
    pub headers: Vec<Field<'a>>,
}

impl<'a> Interim<'a> {
    pub(super) fn of(view: &InterimView<'a>) -> Self {
        Self {
            at: rfc3339(view.at),
            status: view.head.status(),
            headers: fields(&view.head),
        }
    }
}

/// A header or trailer field. `null` where HPACK could not be decoded.
#[derive(Debug, Serialize)]
pub struct Field<'a> {
    /// The name, as sent; pseudo-header fields of HTTP/2 among them.
    pub name: Option<Cow<'a, str>>,
    /// The value: UTF-8 where it is that, else each byte as one character (ISO 8859-1).
    pub value: Option<Cow<'a, str>>,
}

fn fields<'a>(head: &HeadView<'a>) -> Vec<Field<'a>> {
    head.fields()
        .map(|field| Field {
            name: field.name.map(header_text),
            value: field.value.map(header_text),
        })
        .collect()
}

/// A body as it was transferred: without transfer coding, content coding kept.
#[derive(Debug, Serialize)]
pub struct Body<'a> {
    /// The bytes that are stored.
    pub len: u64,
    /// The bytes, where they are UTF-8. Neither this nor `base64`: longer than can be held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'a str>,
    /// The bytes, where they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// Where bytes are missing.
    pub gaps: Vec<Gap>,
    /// When bytes came, where they did not come at once.
    pub arrivals: Vec<Arrival>,
}

impl<'a> Body<'a> {
    fn of(view: &BodyView<'_>, bytes: Option<&'a [u8]>) -> Self {
        let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
        Self {
            len: view.len(),
            text,
            base64: bytes
                .filter(|_| text.is_none())
                .map(|bytes| BASE64.encode(bytes)),
            gaps: view
                .gaps()
                .map(|gap| Gap {
                    offset: gap.offset,
                    len: gap.gap.len,
                    cause: match gap.gap.cause {
                        GapCause::Lost => "lost",
                        GapCause::Snaplen => "truncated",
                        GapCause::Limit => "partial",
                    },
                })
                .collect(),
            arrivals: view
                .arrivals()
                .map(|arrival| Arrival {
                    offset: arrival.offset,
                    at: rfc3339(arrival.at),
                })
                .collect(),
        }
    }
}

/// Bytes that are missing in a body.
#[derive(Debug, Serialize)]
pub struct Gap {
    /// Where in the stored bytes.
    pub offset: u64,
    /// How many; 0: unknown.
    pub len: u64,
    /// Why: `lost`, `truncated` or `partial`.
    pub cause: &'static str,
}

/// When a part of a body came.
#[derive(Debug, Serialize)]
pub struct Arrival {
    /// The first byte of the part.
    pub offset: u64,
    /// When it came.
    pub at: String,
}
