//! What is on top of HTTP, as chunks with their times: gRPC messages, server-sent events, WebSocket
//! frames.

use tapedeck_archive::{HeadView, MessageView, Record};
use tapedeck_model::{Role, Timestamp, is_grpc};

use crate::websocket::{self, Deflate, Frame, Inflater};
use crate::{events, grpc};

/// What a body consists of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// gRPC messages.
    Grpc,
    /// Server-sent events.
    Events,
    /// WebSocket frames.
    WebSocket,
}

/// What is looked at of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Chunks.
    pub chunks: usize,
    /// Bytes that one chunk may have with its compression undone.
    pub decoded: usize,
}

/// A part of a stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chunk {
    /// Where it begins in the body.
    pub offset: u64,
    /// When its first byte came, within the millisecond in which a capture tells pauses.
    pub at: Timestamp,
    /// Its length on the wire, without what frames it.
    pub len: u64,
    /// What it is: `message`, the type of an event, or that of a frame.
    pub kind: String,
    /// Whether it was compressed.
    pub compressed: bool,
    /// Whether all of it is there.
    pub whole: bool,
    /// What it holds, without compression and mask; or why that cannot be told.
    pub bytes: Result<Vec<u8>, String>,
}

/// The chunks of a body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stream {
    /// What they are.
    pub kind: Kind,
    /// The first ones.
    pub chunks: Vec<Chunk>,
    /// Whether there are more.
    pub more: bool,
    /// Where a gap ends what can be told apart: the place of the next chunk is lost with it.
    pub lost_from: Option<u64>,
}

/// What the body of a message is, where it is one of these.
#[must_use]
pub fn kind(record: &Record<'_>, role: Role) -> Option<Kind> {
    let head = side(record, role)?.head()?;
    let content_type = head.field("content-type").unwrap_or_default();
    if is_grpc(content_type) {
        return Some(Kind::Grpc);
    }
    if role == Role::Response && events::is_event_stream(content_type) {
        return Some(Kind::Events);
    }
    let is_websocket = |head: HeadView<'_>, name: &str| {
        head.field(name)
            .is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
    };
    let asked = record.request().and_then(|request| request.head());
    let answered = record.response().and_then(|response| response.head());
    let agreed = answered.is_some_and(|head| is_websocket(head, "upgrade"))
        || asked.is_some_and(|head| is_websocket(head, ":protocol"));
    (record.tunnel() && agreed).then_some(Kind::WebSocket)
}

/// The chunks of a message's body. `body`: its bytes as they were transferred.
#[must_use]
pub fn chunks(record: &Record<'_>, role: Role, body: &[u8], limits: Limits) -> Option<Stream> {
    let kind = kind(record, role)?;
    let message = side(record, role)?;
    let gap = message.body().gaps().next();
    let lost_from = gap.map(|gap| gap.offset);
    let end = lost_from.and_then(|end| usize::try_from(end).ok());
    let body = body.get(..end.unwrap_or(body.len())).unwrap_or(body);
    let mut chunks = match kind {
        Kind::Grpc => messages(&message, body, limits),
        Kind::Events => parsed_events(&message, body, limits)?,
        Kind::WebSocket => frames(record, role, body, limits),
    };
    let more = chunks.len() > limits.chunks;
    chunks.truncate(limits.chunks);
    let mut clock = Clock::new(&message);
    for chunk in &mut chunks {
        chunk.at = clock.at(chunk.offset);
    }
    Some(Stream {
        kind,
        chunks,
        more,
        lost_from,
    })
}

/// How a gRPC call ended, where it is one and its status is known.
#[must_use]
pub fn grpc_status(record: &Record<'_>) -> Option<grpc::Status> {
    kind(record, Role::Response).filter(|kind| *kind == Kind::Grpc)?;
    let response = record.response()?;
    let of = |head: HeadView<'_>| {
        grpc::Status::of(head.field("grpc-status"), head.field("grpc-message"))
    };
    let in_trailers = response.trailers().and_then(of);
    // Without a message, the head stands for the trailers, too.
    in_trailers.or_else(|| response.head().and_then(of))
}

/// What a gRPC call that failed tells beside its status.
#[must_use]
pub fn grpc_details(record: &Record<'_>) -> Option<grpc::Details> {
    kind(record, Role::Response).filter(|kind| *kind == Kind::Grpc)?;
    let response = record.response()?;
    let name = "grpc-status-details-bin";
    let trailers = response.trailers();
    let field = trailers.and_then(|trailers| trailers.field(name));
    grpc::Details::of(field.or_else(|| response.head()?.field(name))?)
}

fn side<'s>(record: &Record<'s>, role: Role) -> Option<MessageView<'s>> {
    match role {
        Role::Request => record.request(),
        Role::Response => record.response(),
    }
}

fn messages(message: &MessageView<'_>, body: &[u8], limits: Limits) -> Vec<Chunk> {
    let head = message.head();
    let coding = head.and_then(|head| head.field("grpc-encoding"));
    grpc::messages(body)
        .take(limits.chunks.saturating_add(1))
        .map(|one| Chunk {
            offset: one.offset as u64,
            at: Timestamp::EPOCH,
            len: one.len.into(),
            kind: "message".to_owned(),
            compressed: one.compressed,
            whole: one.is_whole(),
            bytes: one
                .decoded(coding, limits.decoded)
                .map(std::borrow::Cow::into_owned)
                .map_err(|error| error.to_string()),
        })
        .collect()
}

/// `None` where a content coding hides where each event begins.
fn parsed_events(message: &MessageView<'_>, body: &[u8], limits: Limits) -> Option<Vec<Chunk>> {
    let head = message.head()?;
    if head.field("content-encoding").is_some() {
        return None;
    }
    let chunk = |event: events::Event| {
        let (kind, data) = match (event.data.is_empty(), event.comment) {
            (true, Some(comment)) => ("comment".to_owned(), comment),
            _ => (event.event, event.data),
        };
        let id = event.id.map(|id| format!(", id {id}"));
        Chunk {
            offset: event.offset,
            at: Timestamp::EPOCH,
            len: event.len,
            kind: kind + &id.unwrap_or_default(),
            compressed: false,
            whole: event.whole,
            bytes: Ok(data.into_bytes()),
        }
    };
    let events = events::events(body).take(limits.chunks.saturating_add(1));
    Some(events.map(chunk).collect())
}

fn frames(record: &Record<'_>, role: Role, body: &[u8], limits: Limits) -> Vec<Chunk> {
    let answered = record.response().and_then(|response| response.head());
    let agreed = answered
        .and_then(|head| head.field("sec-websocket-extensions"))
        .and_then(|extensions| Deflate::of(extensions, role == Role::Request));
    let mut inflater = agreed.map(|deflate| Inflater::new(deflate, limits.decoded));
    // The frames of a compressed message, until its last one.
    let mut message: Option<Vec<u8>> = None;
    websocket::frames(body, limits.decoded)
        .take(limits.chunks.saturating_add(1))
        .map(|frame| {
            if frame.compressed && !frame.is_control() {
                message = Some(Vec::new());
            }
            let part = message.as_mut().filter(|_| !frame.is_control());
            let compressed = part.is_some();
            let bytes = match part {
                // The code of a close is in what it is called.
                None => Ok(match frame.close() {
                    Some((_, reason)) => reason.to_vec(),
                    None => frame.payload.clone(),
                }),
                Some(part) if part.len() + frame.payload.len() > limits.decoded => {
                    Err("the message is too long".to_owned())
                }
                Some(part) => {
                    part.extend_from_slice(&frame.payload);
                    if frame.fin {
                        let part = message.take().unwrap_or_default();
                        inflated(inflater.as_mut(), &frame, &part)
                    } else {
                        Ok(Vec::new())
                    }
                }
            };
            Chunk {
                offset: frame.offset,
                at: Timestamp::EPOCH,
                len: frame.len,
                kind: described(&frame),
                compressed,
                whole: frame.whole,
                bytes,
            }
        })
        .collect()
}

fn inflated(
    inflater: Option<&mut Inflater>,
    frame: &Frame,
    message: &[u8],
) -> Result<Vec<u8>, String> {
    let Some(inflater) = inflater else {
        return Err("compressed, which was not agreed on".to_owned());
    };
    if !frame.whole {
        return Err("compressed, and not whole".to_owned());
    }
    inflater
        .message(message)
        .ok_or_else(|| "it cannot be decompressed within the limit".to_owned())
}

fn described(frame: &Frame) -> String {
    let mut text = frame.kind().to_owned();
    if let Some((code, _)) = frame.close() {
        text.push_str(&format!(" {code}"));
    }
    if !frame.fin {
        text.push_str(", goes on");
    }
    text
}

/// Tells the time of bytes of a body, in their order.
struct Clock<I> {
    arrivals: I,
    next: Option<tapedeck_model::exchange::Arrival>,
    now: Timestamp,
}

impl Clock<()> {
    fn new(
        message: &MessageView<'_>,
    ) -> Clock<impl Iterator<Item = tapedeck_model::exchange::Arrival>> {
        let mut arrivals = message.body().arrivals();
        Clock {
            next: arrivals.next(),
            arrivals,
            now: message.first_byte(),
        }
    }
}

impl<I: Iterator<Item = tapedeck_model::exchange::Arrival>> Clock<I> {
    fn at(&mut self, offset: u64) -> Timestamp {
        while let Some(arrival) = self.next.filter(|arrival| arrival.offset <= offset) {
            self.now = arrival.at;
            self.next = self.arrivals.next();
        }
        self.now
    }
}
