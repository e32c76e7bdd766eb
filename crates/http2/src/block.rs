//! Field blocks that are spread over several frames (RFC 9113 section 4.3).

use tapedeck_model::Timestamp;

use crate::frame::{Flags, FrameHead, Kind, StreamId};

/// A field block that is being put together.
#[derive(Debug)]
pub(crate) struct Block {
    /// The stream whose frames carry it.
    pub(crate) stream: StreamId,
    pub(crate) purpose: Purpose,
    pub(crate) end_stream: bool,
    /// When its first byte came.
    pub(crate) first_byte: Timestamp,
    pub(crate) fields: Vec<u8>,
    /// Whether it is longer than the limit; `fields` is its beginning then.
    pub(crate) overflowed: bool,
}

/// What a field block is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// A head or trailers on its stream.
    Message,
    /// The request of another stream.
    Promise(StreamId),
}

impl Block {
    /// An empty block that begins with that frame.
    pub(crate) fn new(head: &FrameHead, promised: StreamId, first_byte: Timestamp) -> Self {
        let promise = head.kind == Kind::PushPromise;
        Self {
            stream: head.stream,
            purpose: if promise {
                Purpose::Promise(promised)
            } else {
                Purpose::Message
            },
            end_stream: !promise && head.flags.contains(Flags::END_STREAM),
            first_byte,
            fields: Vec::new(),
            overflowed: false,
        }
    }

    /// Adds a fragment, up to the limit for all.
    pub(crate) fn add(&mut self, fragment: &[u8], limit: usize) {
        if self.overflowed {
            return;
        }
        let room = limit.saturating_sub(self.fields.len());
        let (kept, rest) = fragment.split_at_checked(room).unwrap_or((fragment, &[]));
        self.fields.extend_from_slice(kept);
        self.overflowed = !rest.is_empty();
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.fields.capacity()
    }
}
