//! One entry of a HAR becomes an exchange.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use tapedeck_model::exchange::{Arrival, Body, BodyGap};
use tapedeck_model::{
    Anomalies, Endpoint, Exchange, Gap, GapCause, Interim, Message, Missing, Protocol, Timestamp,
};

use super::import::{causes, unnamed};
use super::synthesis::{Fields, request_head, response_head, section};
use crate::websocket;

/// An entry that was read.
#[derive(Debug)]
pub(super) struct Entry {
    /// Without key and stream; the id of its connection means nothing.
    pub(super) exchange: Exchange,
    /// What the file calls its connection.
    pub(super) connection: Option<String>,
    pub(super) stream: Option<u64>,
    /// Messages of which only the length of the body is known.
    pub(super) cut_bodies: u8,
    pub(super) http3: bool,
}

/// What makes an entry unusable.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Wrong {
    /// Where, behind the entry: `.request.url`.
    path: &'static str,
    what: &'static str,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

const NO_METHOD: Wrong = Wrong {
    path: ".request.method",
    what: "there is none",
};
const NO_URL: Wrong = Wrong {
    path: ".request.url",
    what: "there is none",
};
const RELATIVE_URL: Wrong = Wrong {
    path: ".request.url",
    what: "it is not absolute",
};
const NO_TIME: Wrong = Wrong {
    path: ".startedDateTime",
    what: "there is none",
};
const BAD_TIME: Wrong = Wrong {
    path: ".startedDateTime",
    what: "it is no RFC 3339 time",
};

/// Reads an entry. Most of what the specification demands may be missing: tools leave it out.
pub(super) fn read(entry: &Value) -> Result<Entry, Wrong> {
    let asked = &entry["request"];
    let answered = &entry["response"];
    let own = &entry["_tapedeck"];
    let method = text(&asked["method"]).filter(|method| is_token(method));
    let method = method.ok_or(NO_METHOD)?;
    let url = text(&asked["url"]).ok_or(NO_URL)?;
    let url = Url::of(url).ok_or(RELATIVE_URL)?;
    let started = text(&entry["startedDateTime"])
        .ok_or(NO_TIME)
        .and_then(|at| time(at).ok_or(BAD_TIME))?;

    let (protocol, http3) = protocol([asked, answered]);
    let times = Times::of(&entry["timings"], started);
    let mut cut_bodies = 0;
    let request_missing = own_causes(own, "request_missing");
    let response_missing = own_causes(own, "response_missing");

    let fields = Fields::of(&asked["headers"]);
    let body = request_body(asked);
    let (body, cut) = kept(body, &fields, asked["bodySize"].as_i64(), None);
    cut_bodies += u8::from(cut);
    let target = text(&own["target"]);
    let tunnel = own["tunnel"] == true;
    let len = (!tunnel && !cut).then_some(body.len);
    let head = request_head(protocol, method, target, &url, fields, len);
    let mut missing = request_missing;
    if cut {
        missing.insert(Missing::PARTIAL);
    }
    let request = Message {
        head: Some(head),
        body,
        trailers: own_trailers(own, "request_trailers", protocol),
        first_byte: times.asks,
        last_byte: times.asked,
        missing,
        reset_code: own_code(own, "request_reset_code"),
    };

    let (answers_in, _) = self::protocol([answered, asked]);
    let response = response(answered, own, answers_in, method, &times, response_missing);
    cut_bodies += u8::from(response.as_ref().is_some_and(|(_, cut)| *cut));
    let client = endpoint(&own["client"]).unwrap_or(Endpoint::new(UNKNOWN, 0));
    let server = endpoint(&own["server"]).unwrap_or_else(|| {
        let ip =
            text(&entry["serverIPAddress"]).and_then(|ip| ip.trim_matches(BRACKETS).parse().ok());
        Endpoint::new(ip.unwrap_or(UNKNOWN), url.port)
    });
    let mut exchange = Exchange {
        key: 0,
        connection: unnamed(client, server, started),
        stream: 0,
        protocol,
        request: Some(request),
        interim: interim(own, protocol, times.answers),
        response_absent: if response.is_none() {
            response_missing
        } else {
            Missing::NONE
        },
        response: response.map(|(message, _)| message),
        request_absent: Missing::NONE,
        tunnel,
        pushed: false,
        anomalies: Anomalies::default(),
    };
    if let Some(messages) = entry["_webSocketMessages"].as_array() {
        chat(&mut exchange, messages);
    }
    Ok(Entry {
        exchange,
        connection: text(&entry["connection"]).map(str::to_owned),
        stream: own["stream"].as_u64(),
        cut_bodies,
        http3,
    })
}

fn response(
    answered: &Value,
    own: &Value,
    protocol: Protocol,
    method: &str,
    times: &Times,
    mut missing: Missing,
) -> Option<(Message, bool)> {
    let status = number(&answered["status"])?;
    let status = u16::try_from(status)
        .ok()
        .filter(|status| (100..=999).contains(status))?;
    let mut fields = Fields::of(&answered["headers"]);
    let content = &answered["content"];
    let bytes = decoded(content, "encoding");
    // What HAR calls the content has no coding any more, unless it says so.
    if bytes.as_ref().is_some_and(|bytes| !bytes.is_empty()) && own["undecoded"].is_null() {
        fields.drop_coding();
    }
    let bodiless = method == "HEAD" || matches!(status, 100..=199 | 204 | 304);
    let size = number(&content["size"]).filter(|_| !bodiless);
    let (body, cut) = kept(bytes, &fields, size, Some(bodiless));
    if cut {
        missing.insert(Missing::PARTIAL);
    }
    let reason = text(&answered["statusText"]).unwrap_or_default();
    let head = response_head(
        protocol,
        status,
        reason,
        fields,
        (!bodiless && !cut && own["tunnel"] != true).then_some(body.len),
    );
    let message = Message {
        head: Some(head),
        body,
        trailers: own_trailers(own, "response_trailers", protocol),
        first_byte: times.answers,
        last_byte: times.answered,
        missing,
        reset_code: own_code(own, "response_reset_code"),
    };
    Some((message, cut))
}

/// A body, and whether all that is known of it is its length.
fn kept(
    bytes: Option<Vec<u8>>,
    fields: &Fields,
    size: Option<i64>,
    bodiless: Option<bool>,
) -> (Body, bool) {
    let bytes = bytes.unwrap_or_default();
    let announced = size.filter(|size| *size > 0).or_else(|| {
        fields
            .length()
            .filter(|_| bodiless == Some(false))
            .filter(|_| size.is_none())
    });
    let cut = bytes.is_empty() && announced.is_some();
    let gaps = announced.filter(|_| cut).map(|len| BodyGap {
        offset: 0,
        gap: Gap {
            len: len.unsigned_abs(),
            cause: GapCause::Limit,
        },
    });
    let body = Body {
        len: bytes.len() as u64,
        tail: bytes,
        gaps: gaps.into_iter().collect(),
        ..Body::default()
    };
    (body, cut)
}

fn request_body(asked: &Value) -> Option<Vec<u8>> {
    let data = &asked["postData"];
    let key = if data["encoding"].is_string() {
        "encoding"
    } else {
        "_encoding"
    };
    let bytes = decoded(data, key).filter(|bytes| !bytes.is_empty());
    bytes.or_else(|| form(data["params"].as_array()?))
}

/// The body that a browser would have made of a form's fields.
fn form(params: &[Value]) -> Option<Vec<u8>> {
    let mut body = String::new();
    for param in params {
        let name = text(&param["name"])?;
        if !body.is_empty() {
            body.push('&');
        }
        body.push_str(name);
        body.push('=');
        body.push_str(text(&param["value"]).unwrap_or_default());
    }
    (!body.is_empty()).then(|| body.into_bytes())
}

fn decoded(content: &Value, encoding: &str) -> Option<Vec<u8>> {
    let body = text(&content["text"])?;
    if content[encoding] == "base64" {
        // What is no base64 is what it says.
        return Some(
            BASE64
                .decode(body)
                .unwrap_or_else(|_| body.as_bytes().to_vec()),
        );
    }
    Some(body.as_bytes().to_vec())
}

fn own_causes(own: &Value, key: &str) -> Missing {
    let names = own[key].as_array().map(Vec::as_slice).unwrap_or_default();
    causes(names.iter().filter_map(Value::as_str))
}

fn own_code(own: &Value, key: &str) -> Option<u32> {
    own[key].as_u64().and_then(|code| u32::try_from(code).ok())
}

fn own_trailers(own: &Value, key: &str, protocol: Protocol) -> Option<tapedeck_model::Head> {
    let fields = Fields::of(&own[key]);
    (!fields.is_empty()).then(|| section(protocol, fields))
}

fn interim(own: &Value, protocol: Protocol, at: Timestamp) -> Vec<Interim> {
    let statuses = own["interim"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    statuses
        .iter()
        .filter_map(|status| u16::try_from(status.as_u64()?).ok())
        .filter(|status| (100..200).contains(status))
        .map(|status| Interim {
            head: response_head(protocol, status, "", Fields::default(), None),
            at,
        })
        .collect()
}

/// The messages of a WebSocket become the frames of a tunnel, each at its time.
fn chat(exchange: &mut Exchange, messages: &[Value]) {
    let Some(response) = &mut exchange.response else {
        return;
    };
    let Some(request) = &mut exchange.request else {
        return;
    };
    exchange.tunnel = true;
    for message in messages {
        let sent = message["type"] == "send";
        let opcode = number(&message["opcode"]).and_then(|opcode| u8::try_from(opcode).ok());
        let opcode = opcode.unwrap_or(websocket::TEXT) & 0xf;
        let data = text(&message["data"]).unwrap_or_default();
        let data = if opcode == websocket::TEXT {
            data.as_bytes().to_vec()
        } else {
            BASE64
                .decode(data)
                .unwrap_or_else(|_| data.as_bytes().to_vec())
        };
        let at = message["time"].as_f64().and_then(|seconds| {
            let since = Duration::try_from_secs_f64(seconds).ok()?;
            Some(Timestamp::EPOCH.saturating_add(since))
        });
        let side = if sent { &mut *request } else { &mut *response };
        let at = at.unwrap_or(side.last_byte).max(side.last_byte);
        side.body.arrivals.push(Arrival {
            offset: side.body.len,
            at,
        });
        websocket::frame(&mut side.body.tail, opcode, &data, sent);
        side.body.len = side.body.tail.len() as u64;
        side.last_byte = at;
    }
}

/// When an exchange's messages began and ended.
struct Times {
    asks: Timestamp,
    asked: Timestamp,
    answers: Timestamp,
    answered: Timestamp,
}

impl Times {
    fn of(timings: &Value, started: Timestamp) -> Self {
        let after = |at: Timestamp, key: &str| {
            let millis = timings[key].as_f64().unwrap_or(0.0).max(0.0);
            let nanos = Duration::try_from_secs_f64(millis / 1e3).unwrap_or_default();
            at.saturating_add(nanos)
        };
        // The time for TLS is within that for connecting.
        let ready = ["blocked", "dns", "connect"]
            .into_iter()
            .fold(started, after);
        let asked = after(ready, "send");
        let answers = after(asked, "wait");
        Self {
            asks: ready,
            asked,
            answers,
            answered: after(answers, "receive"),
        }
    }
}

/// An absolute URL, as far as a request needs its parts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Url<'u> {
    pub(super) scheme: &'u str,
    pub(super) authority: &'u str,
    /// Path and query; `/` where there is no path.
    pub(super) target: &'u str,
    pub(super) port: u16,
}

impl<'u> Url<'u> {
    pub(super) fn of(url: &'u str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let rest = rest.split('#').next().unwrap_or_default();
        if !rest.bytes().all(|byte| byte > b' ' && byte != 0x7f) {
            return None;
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let authority = authority.rsplit('@').next().unwrap_or_default();
        let port = authority
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
            .unwrap_or(match scheme {
                "https" | "wss" => 443,
                _ => 80,
            });
        Some(Self {
            scheme: match scheme {
                "ws" => "http",
                "wss" => "https",
                other => other,
            },
            authority,
            target: if target.is_empty() { "/" } else { target },
            port,
        })
    }
}

/// Stands for an address that is not known.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const BRACKETS: [char; 2] = ['[', ']'];

/// The version that an exchange was spoken in, and whether that was HTTP/3.
fn protocol(messages: [&Value; 2]) -> (Protocol, bool) {
    let versions = messages.map(|message| &message["httpVersion"]);
    for version in versions.into_iter().filter_map(text) {
        match version.to_ascii_lowercase().as_str() {
            "http/1.0" => return (Protocol::Http10, false),
            "http/1.1" => return (Protocol::Http11, false),
            "h2" | "h2c" | "http/2" | "http/2.0" => return (Protocol::Http2, false),
            "h3" | "http/3" | "http/3.0" | "h3-29" => return (Protocol::Http2, true),
            _ => {}
        }
    }
    (Protocol::Http11, false)
}

fn endpoint(value: &Value) -> Option<Endpoint> {
    let address: SocketAddr = text(value)?.parse().ok()?;
    Some(Endpoint::new(address.ip(), address.port()))
}

fn time(text: &str) -> Option<Timestamp> {
    let at: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(at.as_nanosecond())
        .ok()
        .map(Timestamp::from_nanos)
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

/// A number, also where a tool wrote it with a fraction or as text.
fn number(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|number| number as i64))
        .or_else(|| value.as_str()?.parse().ok())
}
