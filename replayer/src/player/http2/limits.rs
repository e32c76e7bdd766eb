//! What one connection may hold.

/// What one connection may hold. Bodies are not held: they are measured and forgotten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Http2Limits {
    /// Bytes that wait for the socket. Where there are as many, bodies go on later, and new streams wait for a place:
    /// a target that reads slowly must not make the player hold its uploads twice.
    pub(crate) out: usize,
    /// Bytes beyond them that answer frames of the target (PING, SETTINGS, what it did wrong): one that asks and does
    /// not read ends its connection (RFC 9113 section 10.5).
    pub(crate) replies: usize,
    /// Bytes of a field block, encoded, and of its fields, decoded: as of a head over HTTP/1.
    pub(crate) fields: usize,
    /// Streams until the target's SETTINGS say more: the least that RFC 9113 section 6.5.2 recommends. More would be
    /// refused by targets that allow no more.
    pub(crate) streams_before_settings: u32,
}

impl Http2Limits {
    pub(crate) const DEFAULT: Self = Self {
        out: 64 << 10,
        replies: 64 << 10,
        fields: 256 << 10,
        streams_before_settings: 100,
    };
}
