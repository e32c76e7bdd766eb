//! HTTP/2 frames (RFC 9113) with fields that need no table: literals without indexing, no Huffman.
//!
//! What could not be decoded refers to an entry of the dynamic table that no field made, so that it
//! stays unknown to whoever reads the file.

use tapedeck_archive::HeadView;

/// What the client begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest payload of a frame, as long as nothing else was announced.
pub(super) const MAX_PAYLOAD: usize = 16_384;

/// The largest window, which is what both sides announce at first: the recorded bytes were sent, so
/// that there was room for them.
const MAX_WINDOW: u32 = (1 << 31) - 1;
const FIRST_WINDOW: u32 = 65_535;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// The head of a frame whose payload is of that length.
pub(super) fn frame_head(out: &mut Vec<u8>, len: usize, kind: u8, flags: u8, stream: u64) {
    let [_, len @ ..] = (len as u32).to_be_bytes();
    out.extend(len);
    out.extend([kind, flags]);
    out.extend((stream as u32 & MAX_WINDOW).to_be_bytes());
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u64, payload: &[u8]) {
    frame_head(out, payload.len(), kind, flags, stream);
    out.extend(payload);
}

/// What a side says first: its settings, and that the connection's window is the largest.
pub(super) fn announce(out: &mut Vec<u8>, from_server: bool) {
    let mut settings = Vec::new();
    let mut set = |id: u16, value: u32| {
        settings.extend(id.to_be_bytes());
        settings.extend(value.to_be_bytes());
    };
    set(4, MAX_WINDOW);
    if from_server {
        // Extended CONNECT is possible (RFC 8441).
        set(8, 1);
    }
    frame(out, SETTINGS, 0, 0, &settings);
    window(out, MAX_WINDOW - FIRST_WINDOW);
}

/// The acknowledgment of the other side's settings.
pub(super) fn acknowledge(out: &mut Vec<u8>) {
    frame(out, SETTINGS, ACK, 0, &[]);
}

/// More room for the connection.
pub(super) fn window(out: &mut Vec<u8>, by: u32) {
    frame(out, WINDOW_UPDATE, 0, 0, &by.to_be_bytes());
}

/// The end of a stream by force.
pub(super) fn reset(out: &mut Vec<u8>, stream: u64, code: u32) {
    frame(out, RST_STREAM, 0, stream, &code.to_be_bytes());
}

/// A part of a body.
pub(super) fn data(out: &mut Vec<u8>, stream: u64, bytes: &[u8], end: bool) {
    let mut parts = bytes.chunks(MAX_PAYLOAD).peekable();
    if parts.peek().is_none() {
        frame(out, DATA, if end { END_STREAM } else { 0 }, stream, &[]);
    }
    while let Some(part) = parts.next() {
        let last = end && parts.peek().is_none();
        frame(out, DATA, if last { END_STREAM } else { 0 }, stream, part);
    }
}

/// A field section, in as many frames as it takes. `promised`: as a promise of that stream.
pub(super) fn fields(
    out: &mut Vec<u8>,
    stream: u64,
    head: &HeadView<'_>,
    end: bool,
    promised: Option<u64>,
) {
    let mut block = Vec::new();
    if let Some(promised) = promised {
        block.extend((promised as u32 & MAX_WINDOW).to_be_bytes());
    }
    for field in head.fields() {
        match (field.name, field.value) {
            (Some(name), Some(value)) => {
                block.push(0);
                string(&mut block, name);
                string(&mut block, value);
            }
            (None, Some(value)) => {
                integer(&mut block, 0, 4, UNKNOWN_ENTRY);
                string(&mut block, value);
            }
            (_, None) => integer(&mut block, 0x80, 7, UNKNOWN_ENTRY),
        }
    }
    let (mut kind, stream_end) = match promised {
        Some(_) => (PUSH_PROMISE, 0),
        None => (HEADERS, if end { END_STREAM } else { 0 }),
    };
    let mut flags = stream_end;
    let mut rest = block.as_slice();
    loop {
        let (part, behind) = rest.split_at_checked(MAX_PAYLOAD).unwrap_or((rest, &[]));
        if behind.is_empty() {
            flags |= END_HEADERS;
        }
        frame(out, kind, flags, stream, part);
        if behind.is_empty() {
            return;
        }
        (kind, flags, rest) = (CONTINUATION, 0, behind);
    }
}

/// The first entry of the dynamic table (RFC 7541 section 2.3.3), which is always empty here.
const UNKNOWN_ENTRY: usize = 62;

fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 0, 7, text.len());
    out.extend(text);
}

/// An integer with a prefix of so many bits (RFC 7541 section 5.1).
fn integer(out: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let max = (1_usize << bits) - 1;
    if value < max {
        out.push(first | value as u8);
        return;
    }
    out.push(first | max as u8);
    let mut rest = value - max;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
