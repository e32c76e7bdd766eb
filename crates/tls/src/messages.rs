//! Handshake messages, put together from records (RFC 8446 section 4).

/// A handshake message. Those that nobody reads have no body.
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) body: Vec<u8>,
}

pub(crate) mod kind {
    pub(crate) const CLIENT_HELLO: u8 = 1;
    pub(crate) const SERVER_HELLO: u8 = 2;
    pub(crate) const END_OF_EARLY_DATA: u8 = 5;
    pub(crate) const ENCRYPTED_EXTENSIONS: u8 = 8;
    pub(crate) const FINISHED: u8 = 20;
    pub(crate) const KEY_UPDATE: u8 = 24;
}

/// Puts messages together: they may share a record, and spread over several.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    head: Vec<u8>,
    body: Vec<u8>,
    /// Bytes of the body that are still to come.
    open: Option<usize>,
}

impl Messages {
    /// The next message that is complete. Takes from `bytes` what it needed. A body longer than
    /// `max_len` is not kept.
    pub(crate) fn next(&mut self, bytes: &mut &[u8], max_len: usize) -> Option<Message> {
        const HEAD: usize = 4;
        let open = match self.open {
            Some(open) => open,
            None => {
                self.head
                    .extend_from_slice(take(bytes, HEAD - self.head.len()));
                let [_, len @ ..] = *self.head.first_chunk::<HEAD>()?;
                len.iter()
                    .fold(0, |len, byte| len << 8 | usize::from(*byte))
            }
        };
        let kind = self.head.first().copied()?;
        let part = take(bytes, open);
        let wanted = matches!(
            kind,
            kind::CLIENT_HELLO | kind::SERVER_HELLO | kind::ENCRYPTED_EXTENSIONS
        );
        if wanted && self.body.len().saturating_add(open) <= max_len {
            self.body.extend_from_slice(part);
        }
        let open = open - part.len();
        if open > 0 {
            self.open = Some(open);
            return None;
        }
        let body = std::mem::take(self).body;
        Some(Message { kind, body })
    }

    pub(crate) const fn memory(&self) -> usize {
        self.head.capacity() + self.body.capacity()
    }

    /// Bytes were lost: what comes next begins a record, and with luck a message.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at_checked(len).unwrap_or((bytes, &[]));
    *bytes = rest;
    taken
}
