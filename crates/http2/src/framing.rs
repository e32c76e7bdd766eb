//! Cutting one direction into frames.
//!
//! DATA goes through as it comes, without its padding; other frames are handed over whole, borrowed
//! where they lie within one input. A gap within a frame whose length is known is exactly
//! accounted for; any other gap loses the framing, and [`scan`](crate::scan) finds it again.

use std::borrow::Cow;

use tapedeck_model::{Direction, Gap, Timestamp};

use crate::Limits;
use crate::frame::{Flags, FrameHead, HEAD_LEN, Kind, PREFACE};
use crate::scan;

/// The framer of one direction.
#[derive(Debug)]
pub(crate) struct Framer {
    state: State,
    /// When the first byte of the current frame came.
    first: Timestamp,
    /// The beginning of the payload of the current frame, where it is split.
    held: Vec<u8>,
    /// The longest frame that the peer accepts, where that is known.
    max_frame: Option<u32>,
}

/// ```text
///              preface                head                  all but DATA
///   Preface ──────────────► Head ◄──────────────► Payload
///      │                   │ ▲ ▲                     │ gap within
///      │ no preface        │ │ └──── Rest ◄──────────┤
///      ▼                   │ │     (to be skipped)   │ gap beyond the frame
///   Search ◄───────────────┘ └─────────► Data ───────┤
///      ▲  gap, or no frame                           │
///      └─────────────────────────────────────────────┘
/// ```
#[derive(Debug)]
enum State {
    /// Of the client's preface, so many bytes were seen.
    Preface(usize),
    /// Of the head of a frame, so many bytes were seen.
    Head {
        bytes: [u8; HEAD_LEN],
        seen: usize,
        /// It is the first of a server.
        begins_server: bool,
    },
    /// Within the payload of a frame.
    Payload { head: FrameHead, left: u32 },
    /// Within a DATA frame.
    Data(DataState),
    /// Within a frame that is done with.
    Rest { left: u32 },
    /// No frame is known to begin here.
    Search,
}

#[derive(Clone, Copy, Debug)]
struct DataState {
    head: FrameHead,
    /// Payload bytes yet to come, padding included.
    left: u32,
    /// How many of these are padding; `None`: the byte that tells is yet to come.
    padding: Option<u32>,
    first: bool,
}

/// What a direction consists of.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// The client's preface is complete.
    Preface,
    /// A frame other than DATA.
    Frame(Frame<'a>),
    /// A part of a DATA frame.
    Data(Data<'a>),
    /// These bytes were taken for the beginning of something that they are not: they are to be
    /// searched for frames.
    Lost(Vec<u8>),
}

/// A frame other than DATA.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) head: FrameHead,
    /// When its first byte came.
    pub(crate) first: Timestamp,
    /// Shorter than the head says where a limit was reached or a gap tore it.
    pub(crate) payload: Cow<'a, [u8]>,
}

/// A part of a DATA frame.
#[derive(Debug)]
pub(crate) struct Data<'a> {
    pub(crate) head: FrameHead,
    /// Without padding; may be empty.
    pub(crate) bytes: &'a [u8],
    /// It is the first of its frame.
    pub(crate) first: bool,
    /// It is the last of its frame.
    pub(crate) last: bool,
    /// There is more padding than payload: the frame says nothing.
    pub(crate) malformed: bool,
}

/// What a gap did.
#[derive(Debug)]
pub(crate) struct Torn {
    /// A frame other than DATA of which only the beginning is there.
    pub(crate) frame: Option<Frame<'static>>,
    /// A DATA frame that misses bytes.
    pub(crate) data: Option<TornData>,
    /// Whether frames may be in the gap.
    pub(crate) framing_lost: bool,
}

/// A DATA frame that misses bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TornData {
    pub(crate) head: FrameHead,
    /// How many bytes of data are missing; `None`: it cannot be told.
    pub(crate) missing: Option<u64>,
    /// Whether the frame was still without any part.
    pub(crate) first: bool,
    /// Whether the frame ends in the gap.
    pub(crate) last: bool,
}

impl Framer {
    /// The framer of a connection's direction, at its beginning.
    pub(crate) fn new(direction: Direction) -> Self {
        Self {
            state: match direction {
                Direction::ToServer => State::Preface(0),
                Direction::ToClient => State::Head {
                    bytes: [0; HEAD_LEN],
                    seen: 0,
                    begins_server: true,
                },
            },
            first: Timestamp::EPOCH,
            held: Vec::new(),
            max_frame: Some(scan::DEFAULT_FRAME_SIZE),
        }
    }

    /// Whether frames have to be searched for.
    pub(crate) fn searching(&self) -> bool {
        matches!(self.state, State::Search)
    }

    /// The peer accepts frames of that length.
    pub(crate) fn raise_max_frame(&mut self, len: u32) {
        self.max_frame = self.max_frame.map(|max| max.max(len));
    }

    /// What the peer announced may have been missed: frames of any length may come.
    pub(crate) fn forget_max_frame(&mut self) {
        self.max_frame = None;
    }

    /// The longest frame to expect, where that is known.
    pub(crate) fn max_frame(&self) -> Option<u32> {
        self.max_frame
    }

    /// Frames begin here again.
    pub(crate) fn found(&mut self) {
        self.state = State::head();
    }

    /// Frames are not known to begin here.
    pub(crate) fn lose(&mut self) {
        self.state = State::Search;
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.held.capacity()
    }

    /// Takes the next piece off `input`; `None`: all of it is consumed, or frames have to be
    /// searched for.
    pub(crate) fn next<'a>(
        &mut self,
        at: Timestamp,
        input: &mut &'a [u8],
        limits: &Limits,
    ) -> Option<Piece<'a>> {
        loop {
            match &mut self.state {
                State::Preface(seen) => {
                    let (&byte, rest) = input.split_first()?;
                    if PREFACE.get(*seen) != Some(&byte) {
                        let lost = PREFACE.get(..*seen).unwrap_or_default().to_vec();
                        self.state = State::Search;
                        return Some(Piece::Lost(lost));
                    }
                    *input = rest;
                    *seen += 1;
                    if *seen == PREFACE.len() {
                        self.state = State::head();
                        return Some(Piece::Preface);
                    }
                }
                State::Head {
                    bytes,
                    seen,
                    begins_server,
                } => {
                    if *seen == 0 && !input.is_empty() {
                        self.first = at;
                    }
                    while *seen < HEAD_LEN {
                        let (&byte, rest) = input.split_first()?;
                        *input = rest;
                        if let Some(slot) = bytes.get_mut(*seen) {
                            *slot = byte;
                        }
                        *seen += 1;
                    }
                    let head = FrameHead::parse(bytes);
                    // No peer sends an extension that large: this was no head.
                    let longest = self.max_frame.unwrap_or_else(|| limits.search_frame());
                    let nonsense = matches!(head.kind, Kind::Unknown(_)) && head.len > longest;
                    if nonsense || (*begins_server && !scan::is_server_preface(&head)) {
                        let lost = bytes.to_vec();
                        self.state = State::Search;
                        return Some(Piece::Lost(lost));
                    }
                    self.state = State::begin(head);
                    if let Some(piece) = self.empty_frame(head) {
                        return Some(piece);
                    }
                }
                State::Payload { .. } => return self.payload(input, limits),
                State::Data(data) => {
                    let piece = data.next(input)?;
                    if piece.last {
                        self.state = State::head();
                    }
                    return Some(Piece::Data(piece));
                }
                State::Rest { left } => {
                    let skipped = take(input, *left);
                    *left -= skipped.len() as u32;
                    if *left > 0 {
                        return None;
                    }
                    self.state = State::head();
                }
                State::Search => return None,
            }
        }
    }

    /// Bytes are missing.
    pub(crate) fn tear(&mut self, gap: Gap) -> Torn {
        let mut torn = Torn {
            frame: None,
            data: None,
            framing_lost: false,
        };
        let state = std::mem::replace(&mut self.state, State::Search);
        let left = match state {
            State::Payload { head, left } => {
                torn.frame = Some(Frame {
                    head,
                    first: self.first,
                    payload: Cow::Owned(std::mem::take(&mut self.held)),
                });
                left
            }
            State::Data(data) => {
                torn.data = Some(data.tear(gap));
                data.left
            }
            State::Rest { left } => left,
            State::Preface(_) | State::Head { .. } | State::Search => 0,
        };
        // A gap of unknown length is as long as it takes.
        match u32::try_from(gap.len).ok().filter(|len| *len > 0) {
            Some(len) if len <= left => {
                let left = left - len;
                self.state = match state {
                    State::Data(data) if left > 0 && data.padding.is_some() => {
                        State::Data(DataState {
                            left,
                            padding: data.padding.map(|padding| padding.min(left)),
                            first: false,
                            ..data
                        })
                    }
                    _ if left > 0 => State::Rest { left },
                    _ => State::head(),
                };
            }
            _ => torn.framing_lost = true,
        }
        torn
    }

    /// A frame without payload has no bytes to wait for.
    fn empty_frame(&mut self, head: FrameHead) -> Option<Piece<'static>> {
        if head.len > 0 {
            return None;
        }
        self.state = State::head();
        Some(if head.kind == Kind::Data {
            Piece::Data(Data {
                head,
                bytes: &[],
                first: true,
                last: true,
                malformed: head.flags.contains(Flags::PADDED),
            })
        } else {
            Piece::Frame(Frame {
                head,
                first: self.first,
                payload: Cow::Borrowed(&[]),
            })
        })
    }

    fn payload<'a>(&mut self, input: &mut &'a [u8], limits: &Limits) -> Option<Piece<'a>> {
        let State::Payload { head, left } = &mut self.state else {
            return None;
        };
        let limit = match head.kind {
            Kind::Headers | Kind::PushPromise | Kind::Continuation => {
                limits.field_block.saturating_add(PADDING_AND_PRIORITY)
            }
            Kind::Unknown(_) => 0,
            _ => limits.control_payload,
        };
        let bytes = take(input, *left);
        let whole = bytes.len() == head.len as usize;
        *left -= bytes.len() as u32;
        let payload = if whole {
            Cow::Borrowed(bytes.get(..limit).unwrap_or(bytes))
        } else {
            let room = limit.saturating_sub(self.held.len());
            self.held
                .extend_from_slice(bytes.get(..room).unwrap_or(bytes));
            if *left > 0 {
                return None;
            }
            Cow::Owned(std::mem::take(&mut self.held))
        };
        let head = *head;
        self.state = State::head();
        Some(Piece::Frame(Frame {
            head,
            first: self.first,
            payload,
        }))
    }
}

impl State {
    const fn head() -> Self {
        Self::Head {
            bytes: [0; HEAD_LEN],
            seen: 0,
            begins_server: false,
        }
    }

    fn begin(head: FrameHead) -> Self {
        if head.kind == Kind::Data {
            Self::Data(DataState {
                head,
                left: head.len,
                padding: (!head.flags.contains(Flags::PADDED)).then_some(0),
                first: true,
            })
        } else {
            Self::Payload {
                head,
                left: head.len,
            }
        }
    }
}

impl DataState {
    fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Data<'a>> {
        let mut malformed = false;
        let padding = match self.padding {
            Some(padding) => padding,
            None => {
                let (&padding, rest) = input.split_first()?;
                *input = rest;
                self.left -= 1;
                malformed = u32::from(padding) > self.left;
                let padding = u32::from(padding).min(self.left);
                *self.padding.insert(padding)
            }
        };
        let bytes = take(input, self.left - padding);
        self.left -= bytes.len() as u32;
        if self.left == padding {
            let skipped = take(input, padding);
            self.left -= skipped.len() as u32;
            self.padding = Some(self.left);
        }
        let last = self.left == 0;
        if bytes.is_empty() && !last && !malformed {
            return None;
        }
        Some(Data {
            head: self.head,
            bytes,
            first: std::mem::replace(&mut self.first, false),
            last,
            malformed,
        })
    }

    fn tear(&self, gap: Gap) -> TornData {
        let left = u64::from(self.left);
        let data = self.padding.map(|padding| left - u64::from(padding));
        TornData {
            head: self.head,
            missing: data.filter(|_| gap.len > 0).map(|data| data.min(gap.len)),
            // Where the padding is unknown the rest of the frame says nothing. A gap of unknown
            // length loses the framing, and with it the end of this frame.
            first: self.first,
            last: gap.len == 0 || gap.len >= left || self.padding.is_none(),
        }
    }
}

/// Takes up to `len` bytes off the input.
fn take<'a>(input: &mut &'a [u8], len: u32) -> &'a [u8] {
    let (taken, rest) = input.split_at_checked(len as usize).unwrap_or((input, &[]));
    *input = rest;
    taken
}

/// What a HEADERS or PUSH_PROMISE frame has beside its fragment, at most: the length of the padding,
/// the padding, and the priority or promised stream.
const PADDING_AND_PRIORITY: usize = 1 + 255 + 5;
