//! Recorded WebSocket conversations (RFC 6455).
//!
//! The handshake is answered anew: its key is the client's. What the server sent is sent frame by frame.
//! A frame that came behind so many messages of the client waits for as many; what they say does not
//! matter ([`turns`](super::turns)); a message that it may not have come behind is waited for only a moment. Pings and the close of the client are answered
//! as they come, so that recorded pongs, and a recorded close that only answered the client's, are left out.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::answer::Pair;
use super::connection::{Filled, Line};
use super::options::Limits;
use super::responder::scaled;
use super::turns::{Arrivals, Order, UNSURE, Wait};

/// What a request for a conversation is looked up as: no method of HTTP, so that no other request
/// finds one.
pub(crate) const METHOD: &[u8] = b"WEBSOCKET";

/// One conversation, as the server sees it.
#[derive(Debug)]
pub(crate) struct Conversation {
    /// The fields of the handshake's answer that are not about this one connection.
    fields: Vec<u8>,
    /// The extension that was agreed on, with its parameters.
    extension: Option<Vec<u8>>,
    /// From the request to the answer.
    first_byte: Duration,
    turns: Vec<Turn>,
    /// The frames of all turns.
    bytes: Bytes,
}

/// A frame of the server.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Turn {
    frame: Range<usize>,
    wait: Wait,
    closes: bool,
}

/// What was recorded of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded<'a> {
    pub(crate) fields: Vec<Pair<'a>>,
    pub(crate) first_byte: Duration,
    pub(crate) to_server: Side<'a>,
    pub(crate) to_client: Side<'a>,
}

/// One direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Side<'a> {
    pub(crate) bytes: &'a [u8],
    /// When they came, since the answer to the handshake.
    pub(crate) arrivals: Arrivals,
}

impl Conversation {
    /// `None`: these are not whole frames.
    pub(crate) fn of(recorded: &Recorded<'_>) -> Option<Self> {
        let mut fields = Vec::new();
        let mut extension = None;
        for (name, value) in &recorded.fields {
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if is("sec-websocket-extensions") {
                extension = Some(value.to_vec());
            }
            // Those of the connection, which are made anew, and a length that means nothing here.
            let own = [
                "connection",
                "upgrade",
                "sec-websocket-accept",
                "content-length",
            ];
            if !own.iter().any(|own| is(own)) && !value.contains(&b'\n') {
                fields.extend_from_slice(name);
                fields.extend_from_slice(b": ");
                fields.extend_from_slice(value);
                fields.extend_from_slice(b"\r\n");
            }
        }
        let client = frames(recorded.to_server.bytes)?;
        let ends = client.iter().filter(|frame| frame.ends_message());
        let messages: Vec<_> = ends
            .map(|frame| recorded.to_server.arrivals.came(frame.at.end))
            .collect();
        let closed = client.iter().find(|frame| frame.opcode == CLOSE);
        let closed = closed.map(|frame| recorded.to_server.arrivals.came(frame.at.end));
        let mut turns = Vec::new();
        let mut order = Order::new(&messages);
        for frame in frames(recorded.to_client.bytes)? {
            let came = recorded.to_client.arrivals.came(frame.at.end);
            let answers = closed.is_some_and(|closed| closed.from <= came.until);
            if frame.opcode == PONG || (frame.opcode == CLOSE && answers) {
                continue;
            }
            // The rest of a message, and a ping, answer nothing.
            let answers = (TEXT..CLOSE).contains(&frame.opcode);
            turns.push(Turn {
                frame: frame.at,
                wait: order.next(came, answers),
                closes: frame.opcode == CLOSE,
            });
        }
        Some(Self {
            fields,
            extension,
            first_byte: recorded.first_byte,
            turns,
            bytes: Bytes::copy_from_slice(recorded.to_client.bytes),
        })
    }

    /// Why it cannot be held with a client that offers these extensions; `None`: it can.
    pub(crate) fn contradicts(&self, offered: Option<&[u8]>) -> Option<String> {
        let name = |text: &[u8]| {
            let end = text.iter().position(|byte| *byte == b';');
            let name = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
            name.trim_ascii().to_ascii_lowercase()
        };
        let agreed = name(self.extension.as_deref()?);
        let offered = offered.unwrap_or_default().split(|byte| *byte == b',');
        if offered.map(name).any(|offer| offer == agreed) {
            return None;
        }
        Some(format!(
            "the recorded conversation uses the extension {}, which this client does not offer",
            String::from_utf8_lossy(&agreed)
        ))
    }

    /// The answer to the handshake with this key.
    fn handshake(&self, key: &[u8]) -> Vec<u8> {
        const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
        let mut head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Accept: "
            .to_vec();
        head.extend_from_slice(STANDARD.encode(hash).as_bytes());
        head.extend_from_slice(b"\r\n");
        head.extend_from_slice(&self.fields);
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// A conversation with one client.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) conversation: Arc<Conversation>,
    /// The client's `Sec-WebSocket-Key`.
    pub(crate) key: Vec<u8>,
    /// A share of the memory for large answers.
    pub(crate) _memory: Option<OwnedSemaphorePermit>,
}

/// Why a talk is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Over {
    /// Both sides closed, or the client did what none may.
    Closed,
    /// There is nobody to talk to.
    Gone,
    Timeout,
}

impl Talk {
    /// The answer to the handshake.
    pub(crate) fn handshake(&self) -> Vec<u8> {
        self.conversation.handshake(&self.key)
    }

    /// Holds it until one side ends it. `begun` came behind the handshake. Gives whether a limit of time
    /// was reached.
    pub(crate) async fn hold(
        &self,
        mut line: Line,
        begun: &[u8],
        latency: Option<f64>,
        limits: &Limits,
    ) -> bool {
        let first_byte = scaled(self.conversation.first_byte, latency.unwrap_or(0.0));
        if latency.is_some()
            && !line
                .pause_until(Instant::now() + first_byte.min(LONGEST))
                .await
        {
            return false;
        }
        let mut client = Client {
            input: begun.to_vec(),
            ..Client::default()
        };
        client.out = self.handshake();
        let over = match self.turns(&mut line, &mut client, latency, limits).await {
            Ok(()) => client.hear_until(&mut line, None, limits).await,
            Err(over) => Err(over),
        };
        match over {
            Err(Over::Gone) => false,
            Err(Over::Timeout) => {
                let _told = line.send(&mut AWAY.to_vec(), &[]).await;
                line.close().await;
                true
            }
            Ok(()) | Err(Over::Closed) => {
                line.close().await;
                false
            }
        }
    }

    async fn turns(
        &self,
        line: &mut Line,
        client: &mut Client,
        latency: Option<f64>,
        limits: &Limits,
    ) -> Result<(), Over> {
        for turn in &self.conversation.turns {
            client.flush(line).await?;
            while client.messages < turn.wait.after {
                client
                    .hear(line, Instant::now() + limits.idle_timeout)
                    .await?;
            }
            let patience = Instant::now() + UNSURE;
            while client.messages < turn.wait.likely && Instant::now() < patience {
                match client.hear(line, patience).await {
                    Err(Over::Timeout) if !line.is_stopping() => break,
                    heard => heard?,
                }
            }
            if let Some(factor) = latency {
                let due = Instant::now() + scaled(turn.wait.pause, factor).min(LONGEST);
                client.hear_until(line, Some(due), limits).await?;
            }
            let frame = self.conversation.bytes.get(turn.frame.clone());
            if !line.send(&mut client.out, frame.unwrap_or_default()).await {
                return Err(Over::Gone);
            }
            client.told = turn.closes;
        }
        client.flush(line).await
    }
}

/// What a client has said.
#[derive(Debug, Default)]
struct Client {
    input: Vec<u8>,
    /// Bytes of a long frame that are still to be passed over.
    skip: u64,
    /// Whole messages so far.
    messages: usize,
    /// The server has closed.
    told: bool,
    /// What is to be sent.
    out: Vec<u8>,
}

impl Client {
    async fn flush(&mut self, line: &mut Line) -> Result<(), Over> {
        if line.send(&mut self.out, &[]).await {
            Ok(())
        } else {
            Err(Over::Gone)
        }
    }

    /// Listens until then, or, without a time, until the end.
    async fn hear_until(
        &mut self,
        line: &mut Line,
        until: Option<Instant>,
        limits: &Limits,
    ) -> Result<(), Over> {
        loop {
            let deadline = until.unwrap_or_else(|| Instant::now() + limits.idle_timeout);
            if until.is_some() && Instant::now() >= deadline {
                return Ok(());
            }
            match self.hear(line, deadline).await {
                Err(Over::Timeout) if until.is_some() && !line.is_stopping() => return Ok(()),
                heard => heard?,
            }
        }
    }

    /// Listens once, and answers what wants an answer at once.
    async fn hear(&mut self, line: &mut Line, deadline: Instant) -> Result<(), Over> {
        // What came with the handshake is there already.
        if !self.advance()? {
            self.input.reserve(READ);
            match line.fill(&mut self.input, deadline, true).await {
                Filled::Bytes => {}
                Filled::End | Filled::Lost => return Err(Over::Gone),
                Filled::Timeout | Filled::Stopping => return Err(Over::Timeout),
            }
            self.advance()?;
        }
        self.flush(line).await
    }

    /// Takes what came apart. Gives whether there was a frame.
    fn advance(&mut self) -> Result<bool, Over> {
        let mut found = false;
        loop {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX);
            let skipped = skipped.min(self.input.len());
            self.input.drain(..skipped);
            self.skip -= skipped as u64;
            let Some(head) = FrameHead::of(&self.input) else {
                return Ok(found);
            };
            // RFC 6455 section 5.1 and 5.5.
            let is_control = head.opcode >= CLOSE;
            if head.mask.is_none() || (is_control && (head.payload > MAX_CONTROL || !head.fin)) {
                self.out.extend_from_slice(WRONG);
                return Err(Over::Closed);
            }
            if !is_control {
                self.skip = head.len as u64 + head.payload;
                self.messages += usize::from(head.fin);
                found = true;
                continue;
            }
            let payload = usize::try_from(head.payload).unwrap_or(usize::MAX);
            let Some(masked) = self.input.get(head.len..head.len.saturating_add(payload)) else {
                return Ok(found);
            };
            let mask = head.mask.unwrap_or_default();
            let clear = masked.iter().zip(mask.iter().cycle());
            let clear: Vec<u8> = clear.map(|(byte, mask)| byte ^ mask).collect();
            self.skip = (head.len + payload) as u64;
            found = true;
            let answer = match head.opcode {
                PING => PONG,
                CLOSE => CLOSE,
                _ => continue,
            };
            if answer == PONG || !self.told {
                self.out.push(FIN | answer);
                self.out.push(payload as u8);
                self.out.extend_from_slice(&clear);
            }
            if answer == CLOSE {
                return Err(Over::Closed);
            }
        }
    }
}

/// The beginning of a frame (RFC 6455 section 5.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct FrameHead {
    fin: bool,
    opcode: u8,
    payload: u64,
    mask: Option<[u8; 4]>,
    /// Its own length.
    len: usize,
}

impl FrameHead {
    /// `None`: it is not whole yet.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (payload, mut len) = match second & 0x7f {
            126 => (
                u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?).into(),
                4,
            ),
            127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
            short => (u64::from(short), 2),
        };
        let mask = if second & 0x80 == 0 {
            None
        } else {
            len += 4;
            Some(*bytes.get(len - 4..)?.first_chunk()?)
        };
        Some(Self {
            fin: first & FIN != 0,
            opcode: first & 0x0f,
            payload,
            mask,
            len,
        })
    }
}

/// A recorded frame.
struct Frame {
    at: Range<usize>,
    opcode: u8,
    fin: bool,
}

impl Frame {
    const fn ends_message(&self) -> bool {
        self.fin && self.opcode < CLOSE
    }
}

/// The frames of a recorded direction. `None`: it does not consist of whole frames.
fn frames(bytes: &[u8]) -> Option<Vec<Frame>> {
    let (mut frames, mut start) = (Vec::new(), 0);
    while start < bytes.len() {
        let head = FrameHead::of(bytes.get(start..)?)?;
        let payload = usize::try_from(head.payload).ok()?;
        let end = start.checked_add(head.len)?.checked_add(payload)?;
        if end > bytes.len() {
            return None;
        }
        frames.push(Frame {
            at: start..end,
            opcode: head.opcode,
            fin: head.fin,
        });
        start = end;
    }
    Some(frames)
}

const FIN: u8 = 0x80;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// Bytes in a control frame.
const MAX_CONTROL: u64 = 125;
/// Close frames: 1002, the client broke the protocol; 1001, the mock goes away.
const WRONG: &[u8] = &[FIN | CLOSE, 2, 0x03, 0xea];
const AWAY: &[u8] = &[FIN | CLOSE, 2, 0x03, 0xe9];
/// Longer than any client waits; a timer holds it.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const READ: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn frames_wait_for_what_they_came_behind() {
        // Text "a"; a ping; text "b" in two pieces; a close.
        let client = [
            &[0x81, 0x81, 0, 0, 0, 0, b'a'][..],
            &[0x89, 0x80, 0, 0, 0, 0],
            &[0x01, 0x81, 0, 0, 0, 0, b'b', 0x80, 0x80, 0, 0, 0, 0],
            &[0x88, 0x80, 0, 0, 0, 0],
        ]
        .concat();
        // A greeting; an answer; a pong; a late word; a close.
        let server = b"\x81\x01h\x81\x01A\x8a\x00\x81\x01l\x88\x00";
        let recorded = Recorded {
            fields: vec![(b"Upgrade", b"websocket"), (b"X-A", b"1")],
            first_byte: MS(3),
            to_server: Side {
                bytes: &client,
                arrivals: Arrivals {
                    marks: vec![(0, MS(10)), (7, MS(20)), (13, MS(40)), (26, MS(90))],
                    last: MS(90),
                },
            },
            to_client: Side {
                bytes: server,
                arrivals: Arrivals {
                    marks: vec![
                        (0, MS(1)),
                        (3, MS(21)),
                        (6, MS(22)),
                        (8, MS(92)),
                        (11, MS(93)),
                    ],
                    last: MS(93),
                },
            },
        };
        let conversation = Conversation::of(&recorded).unwrap();
        let turn = |frame, after, likely, pause| Turn {
            frame,
            wait: Wait {
                after,
                likely,
                pause,
            },
            closes: false,
        };
        assert_eq!(
            conversation.turns,
            [
                turn(0..3, 0, 1, MS(0)),
                turn(3..6, 1, 1, MS(11)),
                turn(8..11, 2, 2, MS(52)),
            ]
        );
        let head = conversation.handshake(b"dGhlIHNhbXBsZSBub25jZQ==");
        let head = String::from_utf8(head).unwrap();
        // The example of RFC 6455 section 1.3.
        assert!(head.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(head.ends_with("\r\nX-A: 1\r\n\r\n"), "{head}");
        let torn = Recorded {
            to_client: Side {
                bytes: b"\x81\x05abc",
                ..Side::default()
            },
            ..Recorded::default()
        };
        assert!(Conversation::of(&torn).is_none());
    }

    #[test]
    fn what_was_said_without_a_pause_is_taken_for_question_and_answer() {
        // Three questions, and an answer to each; no time but the first was noted.
        let client = [0x81, 0x81, 0, 0, 0, 0, b'?'].repeat(3);
        let server = b"\x81\x01!".repeat(3);
        let recorded = Recorded {
            to_server: Side {
                bytes: &client,
                arrivals: Arrivals {
                    marks: vec![(0, MS(5))],
                    last: MS(7),
                },
            },
            to_client: Side {
                bytes: &server,
                arrivals: Arrivals {
                    marks: vec![(0, MS(5))],
                    last: MS(7),
                },
            },
            ..Recorded::default()
        };
        let turns = Conversation::of(&recorded).unwrap().turns;
        let waits: Vec<_> = turns
            .iter()
            .map(|turn| (turn.wait.after, turn.wait.likely))
            .collect();
        assert_eq!(waits, [(0, 1), (0, 2), (0, 3)]);
    }

    #[test]
    fn an_extension_has_to_be_offered() {
        let with = |extension: &[u8]| Conversation {
            fields: Vec::new(),
            extension: Some(extension.to_vec()),
            first_byte: Duration::ZERO,
            turns: Vec::new(),
            bytes: Bytes::new(),
        };
        let deflate = with(b"permessage-deflate; server_no_context_takeover");
        assert_eq!(
            deflate.contradicts(Some(b"x-a, Permessage-Deflate; q")),
            None
        );
        for offered in [None, Some(&b""[..]), Some(b"x-a")] {
            let why = deflate.contradicts(offered).unwrap();
            assert!(why.contains("permessage-deflate"), "{why}");
        }
    }

    #[test]
    fn a_client_that_breaks_the_protocol_is_told_so() {
        for wrong in [
            &b"\x81\x01a"[..],
            &[0x89, 0xfe, 0x00, 0x7e, 0, 0, 0, 0],
            &[0x08, 0x80, 0, 0, 0, 0],
        ] {
            let mut client = Client {
                input: wrong.to_vec(),
                ..Client::default()
            };
            assert_eq!(client.advance(), Err(Over::Closed));
            assert_eq!(client.out, WRONG);
        }
    }

    #[test]
    fn a_long_message_is_counted_and_not_held() {
        let mut client = Client {
            input: [&[0x82, 0xff][..], &(1_u64 << 40).to_be_bytes(), &[0; 4]].concat(),
            ..Client::default()
        };
        assert_eq!(client.advance(), Ok(true));
        for _ in 0..100 {
            client.input.extend_from_slice(&[7; 4096]);
            assert_eq!(client.advance(), Ok(false));
            assert!(client.input.is_empty());
        }
        assert_eq!((client.messages, client.skip), (1, (1 << 40) - 409_600));
    }
}
