//! WebSocket frames (RFC 6455) within the bytes of a tunnel, separated for display.

use flate2::{Decompress, FlushDecompress, Status};

/// The opcode of a text.
pub const TEXT: u8 = 1;
/// The opcode of a frame that continues the message before it.
pub const CONTINUATION: u8 = 0;
/// The opcode of bytes.
pub const BINARY: u8 = 2;
/// The opcode of a close.
pub const CLOSE: u8 = 8;
/// The opcode of a ping.
pub const PING: u8 = 9;
/// The opcode of a pong.
pub const PONG: u8 = 10;

/// A frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    /// Where it begins in the body.
    pub offset: u64,
    /// Its opcode.
    pub opcode: u8,
    /// Whether it is the last of its message.
    pub fin: bool,
    /// Whether the message that it begins is compressed (permessage-deflate, RFC 7692).
    pub compressed: bool,
    /// Whether it is masked, as frames of a client are.
    pub masked: bool,
    /// The length that its head gives.
    pub len: u64,
    /// What there is of its payload, without the mask; at most the cap.
    pub payload: Vec<u8>,
    /// Whether all of it is there.
    pub whole: bool,
}

impl Frame {
    /// What it is, for people.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.opcode {
            CONTINUATION => "continuation",
            TEXT => "text",
            BINARY => "binary",
            CLOSE => "close",
            PING => "ping",
            PONG => "pong",
            _ => "reserved",
        }
    }

    /// Whether it belongs to the connection and not to a message.
    #[must_use]
    pub const fn is_control(&self) -> bool {
        self.opcode & 8 != 0
    }

    /// The code and the reason of a close, where it has them.
    #[must_use]
    pub fn close(&self) -> Option<(u16, &[u8])> {
        let (code, reason) = self.payload.split_first_chunk::<2>()?;
        (self.opcode == CLOSE).then_some((u16::from_be_bytes(*code), reason))
    }
}

/// The frames of a body without gaps, each with at most `cap` bytes of its payload. What does not
/// make a head any more is left.
pub fn frames(body: &[u8], cap: usize) -> impl Iterator<Item = Frame> + use<'_> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let offset = (body.len() - rest.len()) as u64;
        let ([first, second], behind) = rest.split_first_chunk::<2>()?;
        let masked = second & 0x80 != 0;
        let (len, behind) = match second & 0x7f {
            126 => {
                let (len, behind) = behind.split_first_chunk::<2>()?;
                (u16::from_be_bytes(*len).into(), behind)
            }
            127 => {
                let (len, behind) = behind.split_first_chunk::<8>()?;
                (u64::from_be_bytes(*len), behind)
            }
            short => (short.into(), behind),
        };
        let (mask, behind) = if masked {
            let (mask, behind) = behind.split_first_chunk::<4>()?;
            (*mask, behind)
        } else {
            ([0; 4], behind)
        };
        let there = usize::try_from(len).unwrap_or(usize::MAX).min(behind.len());
        let (payload, next) = behind.split_at_checked(there)?;
        rest = next;
        let payload = payload.get(..cap).unwrap_or(payload);
        let unmasked = payload.iter().zip(mask.iter().cycle());
        Some(Frame {
            offset,
            opcode: first & 0xf,
            fin: first & 0x80 != 0,
            compressed: first & 0x40 != 0,
            masked,
            len,
            payload: unmasked.map(|(byte, mask)| byte ^ mask).collect(),
            whole: there as u64 == len && payload.len() == there,
        })
    })
}

/// Appends a frame that is a message of its own. A mask of zeros leaves the payload as it is.
pub fn frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8], masked: bool) {
    out.push(0x80 | (opcode & 0xf));
    let mask = if masked { 0x80 } else { 0 };
    match payload.len() {
        len @ 0..126 => out.push(mask | len as u8),
        len => match u16::try_from(len) {
            Ok(len) => {
                out.push(mask | 126);
                out.extend(len.to_be_bytes());
            }
            Err(_) => {
                out.push(mask | 127);
                out.extend((len as u64).to_be_bytes());
            }
        },
    }
    if masked {
        out.extend([0; 4]);
    }
    out.extend(payload);
}

/// What a handshake agreed on for the messages of one direction (RFC 7692 section 7.1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Deflate {
    /// Each message is compressed by itself.
    pub no_context_takeover: bool,
}

impl Deflate {
    /// What `Sec-WebSocket-Extensions` of the response says for frames from the client, or from the
    /// server; `None` where it says nothing of permessage-deflate.
    #[must_use]
    pub fn of(extensions: &[u8], from_client: bool) -> Option<Self> {
        let extensions = extensions.to_ascii_lowercase();
        let text = String::from_utf8_lossy(&extensions);
        let own = text.split(',').find(|extension| {
            extension.split(';').next().map(str::trim) == Some("permessage-deflate")
        })?;
        let wanted = if from_client {
            "client_no_context_takeover"
        } else {
            "server_no_context_takeover"
        };
        Some(Self {
            no_context_takeover: own.split(';').any(|parameter| parameter.trim() == wanted),
        })
    }
}

/// Decompresses the messages of one direction, in their order.
#[derive(Debug)]
pub struct Inflater {
    deflate: Deflate,
    stream: Decompress,
    cap: usize,
    /// A message could not be decompressed: those behind it depend on it.
    broken: bool,
}

impl Inflater {
    /// For messages of that agreement, of which at most `cap` bytes come out.
    #[must_use]
    pub fn new(deflate: Deflate, cap: usize) -> Self {
        Self {
            deflate,
            stream: Decompress::new(false),
            cap,
            broken: false,
        }
    }

    /// Decompresses a whole message; `None` where that cannot be done, or would exceed the cap.
    pub fn message(&mut self, compressed: &[u8]) -> Option<Vec<u8>> {
        if self.deflate.no_context_takeover {
            self.stream.reset(false);
            self.broken = false;
        }
        if self.broken {
            return None;
        }
        let inflated = self.inflate(compressed);
        self.broken = inflated.is_none();
        inflated
    }

    fn inflate(&mut self, compressed: &[u8]) -> Option<Vec<u8>> {
        // What every message ends with is not sent (RFC 7692 section 7.2.2).
        let input = [compressed, &[0, 0, 0xff, 0xff]].concat();
        let mut out = Vec::with_capacity(1024);
        let before = self.stream.total_in();
        loop {
            let read = usize::try_from(self.stream.total_in() - before).ok()?;
            let rest = input.get(read..)?;
            let was = out.len();
            let status = self
                .stream
                .decompress_vec(rest, &mut out, FlushDecompress::Sync)
                .ok()?;
            if out.len() > self.cap {
                return None;
            }
            let now = usize::try_from(self.stream.total_in() - before).ok()?;
            if status == Status::StreamEnd || (now == input.len() && out.len() < out.capacity()) {
                return Some(out);
            }
            if now == read && out.len() == was && out.len() < out.capacity() {
                return None;
            }
            out.reserve(out.len().max(1024));
        }
    }
}
