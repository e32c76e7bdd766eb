//! Frames (RFC 9113 sections 4.1 and 6), as bytes.

/// What a client says first (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of a frame's head.
pub(super) const HEAD_LEN: usize = 9;
/// The longest payload that may be sent to whoever did not say otherwise (RFC 9113 section 4.2). The player does not.
pub(super) const MAX_PAYLOAD: u32 = 1 << 14;

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const PRIORITY: u8 = 0x2;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PUSH_PROMISE: u8 = 0x5;
pub(super) const PING: u8 = 0x6;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const WINDOW_UPDATE: u8 = 0x8;
pub(super) const CONTINUATION: u8 = 0x9;

/// Of SETTINGS and PING.
pub(super) const ACK: u8 = 0x1;
/// Of DATA and HEADERS.
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITIZED: u8 = 0x20;

pub(super) const ENABLE_PUSH: u16 = 0x2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 0x4;
pub(super) const MAX_FRAME_SIZE: u16 = 0x5;

/// The head of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct FrameHead {
    pub(super) len: u32,
    pub(super) kind: u8,
    flags: u8,
    pub(super) stream: u32,
}

impl FrameHead {
    /// `None`: more bytes are needed. Gives what is behind the head, too.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_LEN>()?;
        let [l0, l1, l2, kind, flags, stream @ ..] = *head;
        let head = Self {
            len: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
        };
        Some((head, rest))
    }

    pub(super) const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a frame's head.
pub(super) fn head(out: &mut Vec<u8>, len: usize, kind: u8, flags: u8, stream: u32) {
    // Nothing is written that is longer than the largest frame there can be, which 24 bits hold.
    let [_, l0, l1, l2] = (len as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    out.extend_from_slice(&[l0, l1, l2, kind, flags, s0, s1, s2, s3]);
}

pub(super) fn settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    head(out, settings.len() * 6, SETTINGS, 0, 0);
    for (id, value) in settings {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// RST_STREAM and WINDOW_UPDATE: frames that hold one number.
pub(super) fn number(out: &mut Vec<u8>, kind: u8, stream: u32, number: u32) {
    head(out, 4, kind, 0, stream);
    out.extend_from_slice(&number.to_be_bytes());
}

/// A field block, in as many frames as it needs.
pub(super) fn fields(out: &mut Vec<u8>, stream: u32, block: &[u8], ends: bool, longest: usize) {
    let end_stream = if ends { END_STREAM } else { 0 };
    let (first, mut rest) = block.split_at(block.len().min(longest));
    let ended = |rest: &[u8]| if rest.is_empty() { END_HEADERS } else { 0 };
    head(out, first.len(), HEADERS, end_stream | ended(rest), stream);
    out.extend_from_slice(first);
    while !rest.is_empty() {
        let (next, behind) = rest.split_at(rest.len().min(longest));
        rest = behind;
        head(out, next.len(), CONTINUATION, ended(rest), stream);
        out.extend_from_slice(next);
    }
}

/// The payload without its padding; `None`: there is more padding than payload.
pub(super) fn without_padding(frame: FrameHead, payload: &[u8]) -> Option<&[u8]> {
    if !frame.has(PADDED) {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}

/// The number that four bytes are.
pub(super) fn number_of(payload: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(payload.try_into().ok()?))
}

/// The settings of a frame, in their order.
pub(super) fn settings_of(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload.chunks_exact(6).filter_map(|setting| {
        let (id, value) = setting.split_first_chunk::<2>()?;
        Some((u16::from_be_bytes(*id), number_of(value)?))
    })
}
