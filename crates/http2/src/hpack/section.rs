//! The field section that a block decodes to.

use tapedeck_model::{Field, Span};

/// Fields as they are decoded, in the shape of a [`Head`](tapedeck_model::Head).
///
/// Fields beyond the limit are left out; the decoder goes on, because the dynamic table needs them.
#[derive(Debug)]
pub struct Section {
    /// The names and values.
    pub raw: Vec<u8>,
    /// Where they are.
    pub fields: Vec<Field>,
    /// Whether fields were left out.
    pub overflowed: bool,
    limit: usize,
}

impl Section {
    /// A section that holds up to `limit` bytes, counted as SETTINGS_MAX_HEADER_LIST_SIZE counts
    /// them: 32 more a field. `block_len` is the encoded length, a hint.
    #[must_use]
    pub fn new(limit: usize, block_len: usize) -> Self {
        // Blocks that are mostly indices grow a lot, strings by at most 8/5.
        let room = block_len.saturating_mul(2).clamp(128, limit.max(128));
        Self {
            raw: Vec::with_capacity(room.min(16 << 10)),
            fields: Vec::with_capacity(16),
            overflowed: false,
            limit,
        }
    }

    /// The end of the bytes so far: where the next string will begin.
    pub(super) fn mark(&self) -> usize {
        self.raw.len()
    }

    /// The bytes from `mark` on.
    pub(super) fn since(&self, mark: usize) -> &[u8] {
        self.raw.get(mark..).unwrap_or_default()
    }

    /// Adds the field whose name lies at `start` and whose value lies behind it, from `middle` to
    /// the end.
    pub(super) fn push(&mut self, start: usize, middle: usize, parts: Parts) {
        let end = self.raw.len();
        let counted = end + (self.fields.len() + 1) * FIELD_OVERHEAD;
        let spans = (span(start, middle), span(middle, end));
        let (Some(name), Some(value), true) = (spans.0, spans.1, counted <= self.limit) else {
            self.raw.truncate(start);
            self.overflowed = true;
            return;
        };
        self.fields.push(Field {
            name,
            value,
            name_unknown: !parts.name_known,
            value_unknown: !parts.value_known,
        });
    }

    /// Removes the bytes of a field that will not be pushed.
    pub(super) fn forget(&mut self, mark: usize) {
        self.raw.truncate(mark);
    }
}

/// Which parts of a field are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) name_known: bool,
    pub(super) value_known: bool,
}

/// What a field counts beside its bytes (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

fn span(start: usize, end: usize) -> Option<Span> {
    Some(Span {
        start: start.try_into().ok()?,
        len: end.checked_sub(start)?.try_into().ok()?,
    })
}
