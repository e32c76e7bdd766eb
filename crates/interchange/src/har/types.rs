use serde::Serialize;

/// Who wrote the file.
#[derive(Debug, Serialize)]
pub struct Creator {
    /// The program.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// One exchange.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// When the request began: RFC 3339.
    pub started_date_time: String,
    /// Milliseconds from the first byte of the request to the last of the response: the sum of
    /// the [`Timings`] that are known.
    pub time: f64,
    /// The request.
    pub request: Request,
    /// The response; status 0 where there was none.
    pub response: Response,
    /// Always empty: what a cache did is not seen on the wire.
    pub cache: Cache,
    /// Where the time went.
    pub timings: Timings,
    /// The server's address.
    #[serde(rename = "serverIPAddress")]
    pub server_ip_address: String,
    /// The id of the connection within the archive.
    pub connection: String,
    /// What HAR has no word for.
    #[serde(rename = "_tapedeck")]
    pub tapedeck: Tapedeck,
}

/// The state of a cache: not seen on the wire.
#[derive(Debug, Serialize)]
pub struct Cache {}

/// A request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The method.
    pub method: String,
    /// The absolute URL.
    pub url: String,
    /// As in the start line: `HTTP/1.1`; `HTTP/2`.
    pub http_version: String,
    /// The cookies of the Cookie fields.
    pub cookies: Vec<Cookie>,
    /// The header fields in the order of the wire, pseudo-header fields left out.
    pub headers: Vec<NameValue>,
    /// The query, decoded.
    pub query_string: Vec<NameValue>,
    /// The body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_data: Option<PostData>,
    /// Bytes of the head; -1 in HTTP/2, where the head is compressed.
    pub headers_size: i64,
    /// Bytes of the body as transferred.
    pub body_size: i64,
}

/// A response.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// The status code; 0: none.
    pub status: u16,
    /// The reason phrase.
    pub status_text: String,
    /// As in the status line.
    pub http_version: String,
    /// The cookies of the Set-Cookie fields.
    pub cookies: Vec<Cookie>,
    /// The header fields in the order of the wire, pseudo-header fields left out.
    pub headers: Vec<NameValue>,
    /// The body.
    pub content: Content,
    /// The Location field, or nothing.
    #[serde(rename = "redirectURL")]
    pub redirect_url: String,
    /// Bytes of the head; -1 in HTTP/2 and where there was no response.
    pub headers_size: i64,
    /// Bytes of the body as transferred; -1 where there was no response.
    pub body_size: i64,
}

/// A name and a value.
#[derive(Debug, Eq, PartialEq, Serialize)]
pub struct NameValue {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// A cookie.
#[derive(Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cookie {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
    /// The Path attribute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The Domain attribute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The HttpOnly attribute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_only: Option<bool>,
    /// The Secure attribute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure: Option<bool>,
}

/// The body of a request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PostData {
    /// The Content-Type field.
    pub mime_type: String,
    /// The body.
    pub text: String,
    /// `base64` where `text` is that.
    #[serde(rename = "_encoding", skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
}

/// The body of a response.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Content {
    /// Bytes of the body with its content coding undone.
    pub size: u64,
    /// Bytes that the content coding saved; absent where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<i64>,
    /// The Content-Type field.
    pub mime_type: String,
    /// The body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// `base64` where `text` is that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
}

/// Where the time of an exchange went, in milliseconds; -1: does not apply.
#[derive(Debug, Serialize)]
pub struct Timings {
    /// Not seen on the wire.
    pub blocked: f64,
    /// Not seen on the wire.
    pub dns: f64,
    /// Belongs to the connection, not to the exchange.
    pub connect: f64,
    /// Belongs to the connection, not to the exchange.
    pub ssl: f64,
    /// First to last byte of the request.
    pub send: f64,
    /// Last byte of the request to first byte of the response.
    pub wait: f64,
    /// First to last byte of the response.
    pub receive: f64,
}

/// What HAR has no word for.
#[derive(Debug, Serialize)]
pub struct Tapedeck {
    /// The id of the exchange in its archive.
    pub id: u64,
    /// The client, `address:port`.
    pub client: String,
    /// The server, `address:port`.
    pub server: String,
    /// The ordinal within an HTTP/1 connection, or the stream id in HTTP/2.
    pub stream: u64,
    /// The request target as it stood on the wire.
    pub target: Option<String>,
    /// Whether both messages are whole.
    pub complete: bool,
    /// Why the request is not whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_missing: Vec<&'static str>,
    /// Why the response is not whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_missing: Vec<&'static str>,
    /// The error code with which the request was given up (RST_STREAM, RFC 9113 section 7); where the
    /// response never came, that of the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_reset_code: Option<u32>,
    /// The error code with which the response was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_reset_code: Option<u32>,
    /// The trailer section of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_trailers: Vec<NameValue>,
    /// The trailer section of the response.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_trailers: Vec<NameValue>,
    /// The status codes of interim responses, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interim: Vec<u16>,
    /// The content coding that could not be undone: `text` is the body as transferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undecoded: Option<String>,
    /// Whether the bodies are the bytes of a tunnel (CONNECT, Upgrade).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tunnel: bool,
    /// What was irregular on the wire.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub anomalies: Vec<&'static str>,
}
