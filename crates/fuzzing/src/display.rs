//! What is decoded for display: content codings, and what lies in bodies.

use tapedeck_interchange::grpc::{self as messages};
use tapedeck_interchange::websocket::{self as frames, Deflate, Inflater};
use tapedeck_interchange::{content as codings, events as blocks, protobuf as fields};

/// The longest body that a target asks for.
pub(crate) const CAP: usize = 1 << 16;

/// A body behind each content coding, and behind two of them.
pub fn content(bytes: &[u8]) {
    for coding in ["gzip", "deflate", "br", "zstd", "gzip, gzip"] {
        if let Ok(body) = codings::decode(Some(coding.as_bytes()), bytes, CAP) {
            assert!(body.len() <= CAP);
        }
    }
}

/// The messages of a gRPC body. They lie within it, one behind the other.
pub fn grpc(bytes: &[u8]) {
    let mut end = 0;
    for message in messages::messages(bytes) {
        assert_eq!(message.offset, end);
        end += 5 + message.bytes.len();
        assert!(end <= bytes.len());
        if let Ok(body) = message.decoded(Some(b"gzip"), CAP) {
            assert!(body.len() <= CAP.max(message.bytes.len()));
        }
    }
}

/// A message of Protocol Buffers as text, which a terminal can show.
pub fn protobuf(bytes: &[u8]) {
    // The limit of the text, and what one field may add when it is reached.
    let most = (1 << 20) + 16 * bytes.len();
    if let Some(text) = fields::dump(bytes) {
        assert!(text.len() <= most, "{} bytes of text", text.len());
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
        assert!(text.ends_with('\n'));
    }
}

/// Server-sent events. They lie within the body, one behind the other, and only the last may lack
/// its end.
pub fn events(bytes: &[u8]) {
    let (mut end, mut whole) = (0, true);
    for event in blocks::events(bytes) {
        assert!(whole, "behind an event without end");
        assert!(event.offset >= end && event.len > 0);
        end = event.offset + event.len;
        whole = event.whole;
        assert!(event.data.len() <= 3 * bytes.len());
    }
    assert!(end <= bytes.len() as u64);
}

/// WebSocket frames behind the value of their extension field, each written anew and read again; and
/// their payloads as compressed messages.
pub fn websocket(bytes: &[u8]) {
    let line = bytes.iter().position(|byte| *byte == b'\n');
    let (extensions, body) = bytes.split_at(line.map_or(0, |line| line + 1));
    let mut inflaters: Vec<Inflater> = [true, false]
        .into_iter()
        .filter_map(|from_client| Deflate::of(extensions, from_client))
        .map(|deflate| Inflater::new(deflate, CAP))
        .collect();
    let mut end = 0;
    for frame in frames::frames(body, CAP) {
        assert_eq!(frame.offset, end);
        let second = usize::try_from(end + 1).ok().and_then(|at| body.get(at));
        let longer = match second.map(|byte| byte & 0x7f) {
            Some(126) => 2,
            Some(127) => 8,
            _ => 0,
        };
        let mask = if frame.masked { 4 } else { 0 };
        end += 2 + longer + mask + frame.payload.len() as u64;
        assert!(end <= body.len() as u64, "outside of the body: {frame:?}");
        for inflater in &mut inflaters {
            if let Some(message) = inflater.message(&frame.payload) {
                assert!(message.len() <= CAP);
            }
        }
        let mut again = Vec::new();
        frames::frame(&mut again, frame.opcode, &frame.payload, frame.masked);
        let read: Vec<_> = frames::frames(&again, CAP).collect();
        let [read] = read.as_slice() else {
            panic!("{frame:?} became {read:?}");
        };
        assert!(read.whole && read.payload == frame.payload && read.opcode == frame.opcode);
    }
}
