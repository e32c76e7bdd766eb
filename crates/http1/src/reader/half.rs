//! What is kept of one direction.

use tapedeck_model::{Missing, StreamKey, Timestamp};

use crate::Limits;
use crate::framing::Framing;
use crate::head::{LineEnds, Scan, Section, token_len};
use crate::probe;

/// Where one direction stands.
///
/// ```text
///                ┌──────────────── message over ──────────────────────────┐
///                ▼                                                        │
///   Between ──start line──► Head ──empty line──┬─► Body ──► Trailers ─────┤
///      │                     │                 └─► Peek ──┘ (chunked)     │
///      │                     │                                            │
///      │ not HTTP            │ gap, malformed,      CONNECT, Upgrade:     │
///      │                     │ too large            Undecided ──refused───┘
///      ▼                     ▼                          └──► Tunnel, Opaque
///    Lost ──start line──► Trial ──whole and sound head──► Body ...
///      ▲                    │
///      └────────────────────┘ not sound
///
///   Peek ──a head instead of a body──► Trial
///   any ──Fin, Reset, Cut──► Ended
/// ```
#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    /// Between two messages. The buffer holds a beginning too short to tell what it is.
    Between {
        /// Empty lines were passed over, and named.
        blank: bool,
    },
    /// In a head that does not lie within one input; its beginning is in the buffer.
    Head { key: StreamKey },
    /// At the first byte of the body of a response whose request is unknown. If it was HEAD there
    /// is no body, and the next head begins here. The buffer holds what could be that.
    Peek { key: StreamKey, framing: Framing },
    /// In a body.
    Body { key: StreamKey, framing: Framing },
    /// In the trailer section of a chunked body; its beginning is in the buffer.
    Trailers { key: StreamKey },
    /// Behind a request for a tunnel or another protocol that the server has not decided on. The
    /// buffer holds what the client already sent behind it.
    Undecided {
        key: StreamKey,
        /// When the last byte of the request came.
        at: Timestamp,
    },
    /// In a tunnel.
    Tunnel { key: StreamKey },
    /// In a tunnel whose message is over, or was never seen: passed over to the end.
    Opaque,
    /// Looking for the beginning of a message.
    Lost {
        /// At the first byte of an input.
        fresh: bool,
    },
    /// In what may be a head; the buffer has it from its first byte on.
    Trial,
    /// There will be no more bytes.
    Ended,
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) state: State,
    /// What the state says; never longer than the limits.
    pub(super) buffer: Vec<u8>,
    pub(super) scan: Scan,
    /// On trial: everything before this was found to be lines of a head.
    pub(super) sound: usize,
    /// When the first byte of the head in progress came.
    pub(super) first_byte: Timestamp,
    /// When the last byte came.
    pub(super) last_byte: Timestamp,
    /// A message was seen.
    pub(super) started: bool,
    /// The last message said that it is the last.
    pub(super) closing: bool,
    /// The request in progress goes on as a tunnel.
    pub(super) tunnel_next: bool,
    /// The request in progress waits for 100 (Continue), and nothing of its body came.
    pub(super) expecting: bool,
    /// A bare LF in the chunked body in progress was named.
    pub(super) bare_lf: bool,
    /// Where the last message ended, and so where this one begins, rests on a guess about a request
    /// that was not seen.
    pub(super) guessed: bool,
    /// Bytes passed over and not reported yet.
    pub(super) skipped: u64,
}

/// What became of the bytes of a head or trailer section.
pub(super) enum Gathered<'a> {
    /// The section with its number of lines and where they end, and what is behind it.
    Whole(Vec<u8>, usize, LineEnds, &'a [u8]),
    /// It goes on in the next input.
    More,
    /// It exceeds a limit: how many of its bytes were dropped, and what is behind them.
    TooLarge(usize, &'a [u8]),
}

/// What bytes between two messages are. More lenient than the probe: here, a message is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Look {
    Message,
    Junk,
    NeedMore,
}

impl Half {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Between { blank: false },
            buffer: Vec::new(),
            scan: Scan::START,
            sound: 0,
            first_byte: Timestamp::EPOCH,
            last_byte: Timestamp::EPOCH,
            started: false,
            closing: false,
            tunnel_next: false,
            expecting: false,
            bare_lf: false,
            guessed: false,
            skipped: 0,
        }
    }

    /// Reads on in a section. A section that lies whole in `data` is copied once.
    pub(super) fn gather<'a>(
        &mut self,
        data: &'a [u8],
        section: Section,
        limits: &Limits,
    ) -> Gathered<'a> {
        let held = self.buffer.len();
        let room = limits.head.saturating_sub(held).min(data.len());
        let (now, later) = data.split_at_checked(room).unwrap_or((data, &[]));
        let mut ends = LineEnds::NONE;
        let end = if held == 0 {
            self.scan = Scan::START;
            self.scan.end(now, section, &mut ends)
        } else {
            self.buffer.extend_from_slice(now);
            // Lines that came before are not among these ends.
            self.scan.end(&self.buffer, section, &mut ends)
        };
        let Some(end) = end else {
            if later.is_empty() && self.scan.lines <= limits.lines {
                if held == 0 {
                    self.buffer.extend_from_slice(now);
                }
                return Gathered::More;
            }
            self.buffer = Vec::new();
            return Gathered::TooLarge(held + room, later);
        };
        let rest = data.get(end.saturating_sub(held)..).unwrap_or_default();
        if self.scan.lines > limits.lines {
            self.buffer = Vec::new();
            return Gathered::TooLarge(end, rest);
        }
        let raw = if held == 0 {
            now.get(..end).unwrap_or_default().to_vec()
        } else {
            self.buffer.truncate(end);
            std::mem::take(&mut self.buffer)
        };
        Gathered::Whole(raw, self.scan.lines, ends, rest)
    }

    /// Puts bytes into the skipped ones.
    pub(super) const fn skip(&mut self, len: usize) {
        self.skipped = self.skipped.saturating_add(len as u64);
    }

    /// Drops what is in the buffer, and its memory: most connections never need it again.
    pub(super) fn drop_buffer(&mut self) {
        self.skip(self.buffer.len());
        self.buffer = Vec::new();
    }
}

/// Whether a request is due to begin here.
pub(super) fn look_request(bytes: &[u8]) -> Look {
    let len = token_len(bytes);
    match bytes.get(len) {
        _ if len > probe::MAX_METHOD => Look::Junk,
        Some(b' ') if len > 0 => Look::Message,
        None => Look::NeedMore,
        Some(_) => Look::Junk,
    }
}

/// Whether a response is due to begin here.
pub(super) fn look_response(bytes: &[u8]) -> Look {
    let begins = |name: &[u8]| {
        let seen = bytes.len().min(name.len());
        (bytes.get(..seen) == name.get(..seen)).then_some(seen == name.len())
    };
    match begins(b"HTTP/").or_else(|| begins(b"ICY ")) {
        Some(true) => Look::Message,
        Some(false) => Look::NeedMore,
        None => Look::Junk,
    }
}

/// Whether all whole lines from `sound` on, the first of `bytes` aside, could be lines of a head.
/// Moves `sound` behind them, at most to the empty line.
pub(super) fn sound_lines(bytes: &[u8], sound: &mut usize) -> bool {
    while let Some(unread) = bytes.get(*sound..) {
        let Some(len) = memchr::memchr(b'\n', unread) else {
            break;
        };
        let name = token_len(unread);
        let fits = match unread.get(name) {
            _ if *sound == 0 => true,
            Some(b':') => name > 0,
            Some(b'\r' | b'\n') if name == 0 => return true,
            Some(b' ' | b'\t') => name == 0,
            _ => false,
        };
        if !fits {
            return false;
        }
        *sound += len + 1;
    }
    true
}

/// How a direction ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Close {
    Fin,
    Reset,
    Cut,
}

impl Close {
    /// Why a message that was not over then is not whole.
    pub(super) const fn cause(self) -> Missing {
        match self {
            Self::Fin | Self::Reset => Missing::ABORTED,
            Self::Cut => Missing::UNFINISHED,
        }
    }
}
