//! What tells the head of a frame from other bytes.
//!
//! Nothing marks the beginning of a frame. But a head says where the next head is, and a real one
//! obeys the rules of its type: a random one passes about once in 2^23. So a place is taken for the
//! beginning of a frame when a chain of [`CHAIN`] heads starts there.
//!
//! What is left are coincidences at the place where a search begins: the end of a real frame that
//! reads as the head of an empty one. Empty frames are therefore not believed there, and the streams
//! of a chain have to be near each other, and near those that are known.

use tapedeck_model::Direction;

use crate::frame::{Flags, FrameHead, Kind, StreamId};

/// The initial SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 6.5.2).
pub(crate) const DEFAULT_FRAME_SIZE: u32 = 16 << 10;

/// What is known of the frames that are looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expect {
    /// Their length, at most.
    pub(crate) max_len: u32,
    /// The highest stream that was seen; zero: none was.
    pub(crate) highest: u32,
    /// Where they go, if that is known.
    pub(crate) direction: Option<Direction>,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            max_len: DEFAULT_FRAME_SIZE,
            highest: 0,
            direction: None,
        }
    }
}

impl Expect {
    /// Whether nothing speaks for HTTP/2 but the chain itself. Protocols with many zeros in them
    /// (SMB, Cassandra's) have chains of what look like plain DATA frames.
    fn is_blind(&self) -> bool {
        self.highest == 0 && self.direction.is_none()
    }
}

/// A chain of frames, as far as it was followed.
#[derive(Debug)]
pub(crate) struct Chain {
    heads: usize,
    /// The stream of a field block that goes on.
    block: Option<StreamId>,
    lowest: u32,
    highest: u32,
}

impl Chain {
    /// The chain that begins with a head, if one may.
    pub(crate) fn begin(head: &FrameHead, expect: &Expect) -> Option<Self> {
        let mut chain = Self {
            heads: 0,
            block: None,
            lowest: u32::MAX,
            highest: 0,
        };
        (!doubtful(head) && chain.accepts(head, expect)).then_some(chain)
    }

    /// Whether it is long enough to be believed.
    pub(crate) fn complete(&self) -> bool {
        self.heads >= CHAIN
    }

    /// How far its streams are from each other and from those that are known; those of calls that are
    /// under way together are all the same.
    pub(crate) fn spread(&self, expect: &Expect) -> u32 {
        let lowest = match expect.highest {
            0 => self.lowest,
            known => self.lowest.min(known),
        };
        self.highest.saturating_sub(lowest) / TOGETHER
    }

    /// Adds the next head; `false`: a real one would not come here.
    pub(crate) fn accepts(&mut self, head: &FrameHead, expect: &Expect) -> bool {
        // A field block is not interrupted, and CONTINUATION comes only within one (RFC 9113
        // section 6.10).
        let continues = head.kind == Kind::Continuation;
        let in_order = match self.block {
            Some(stream) => continues && head.stream == stream,
            None => !continues || self.heads == 0,
        };
        self.heads += 1;
        if head.has_fields() {
            self.block = (!head.flags.contains(Flags::END_HEADERS)).then_some(head.stream);
        }
        if head.stream != StreamId::CONNECTION {
            self.lowest = self.lowest.min(head.stream.0);
            self.highest = self.highest.max(head.stream.0);
        }
        let known = if expect.highest == 0 {
            self.lowest
        } else {
            expect.highest
        };
        // A client sends messages on its own streams only, and promises nothing.
        let of_client = expect.direction == Some(Direction::ToServer);
        let carries = head.has_fields() || head.kind == Kind::Data;
        let on_pushed = carries && head.stream.opener() == Direction::ToClient;
        let wrong_side = head.kind == Kind::PushPromise || on_pushed;
        let pointless =
            head.kind == Kind::Data && head.len == 0 && !head.flags.contains(Flags::END_STREAM);
        let blind = expect.is_blind();
        let near = if blind { NEAR_BLIND } else { NEAR };
        plausible(head, expect.max_len)
            && in_order
            && self.highest.saturating_sub(self.lowest) < near
            && self.highest < known.saturating_add(near)
            && !(of_client && wrong_side)
            && !(blind && (on_pushed || pointless))
    }
}

/// Whether this is the head of the frame that a server says first.
pub(crate) fn is_server_preface(head: &FrameHead) -> bool {
    head.kind == Kind::Settings
        && !head.flags.contains(Flags::ACK)
        && head.len <= MAX_SETTINGS_LEN
        && plausible(head, DEFAULT_FRAME_SIZE)
}

/// Whether a frame of a real peer could have this head.
fn plausible(head: &FrameHead, max_len: u32) -> bool {
    !head.reserved
        && head.len <= max_len
        && head.well_formed()
        && head.flags.defined_for(head.kind)
        && match head.kind {
            // Extensions in use: ALTSVC, ORIGIN, PRIORITY_UPDATE.
            Kind::Unknown(0x0a) => true,
            // RFC 8336 section 2.1, RFC 9218 section 7.1.
            Kind::Unknown(0x0c) => head.stream == StreamId::CONNECTION,
            Kind::Unknown(0x10) => head.stream == StreamId::CONNECTION && head.len >= 4,
            Kind::Unknown(_) => false,
            Kind::Settings => head.len <= MAX_SETTINGS_LEN,
            _ => true,
        }
}

/// Whether a head is too common a coincidence to begin with. Nine bytes of small numbers, at the end
/// of a real frame, easily read as the head of an empty one (the acknowledgment of SETTINGS alone is
/// distinct enough), and hardly any server still opens streams.
fn doubtful(head: &FrameHead) -> bool {
    let acknowledges = head.kind == Kind::Settings && head.flags.contains(Flags::ACK);
    let empty = head.len == 0 && !acknowledges;
    let pushed = head.stream != StreamId::CONNECTION && head.stream.opener() == Direction::ToClient;
    empty || pushed
}

/// Streams in use at one time are no further apart. A call takes some 50 bytes, so no gap that is
/// worth a search holds more.
const NEAR: u32 = 1 << 20;

/// The same where nothing else speaks for HTTP/2: calls that are under way together.
const NEAR_BLIND: u32 = 1 << 16;

/// Of two chains, streams that are no further apart speak for neither.
const TOGETHER: u32 = 256;

/// How many heads in a row make a chain.
const CHAIN: usize = 3;

/// Seven settings are defined, and peers add a few: more than this is no SETTINGS frame.
const MAX_SETTINGS_LEN: u32 = 64 * 6;
