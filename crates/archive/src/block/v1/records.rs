//! Version 1 of what lies in an exchange block, as rkyv archived it. See `docs/format.md`. It is never
//! written any more.

use rkyv::Archive;

/// The root.
#[derive(Archive, Debug, Default)]
#[rkyv(derive(Debug))]
#[expect(
    dead_code,
    reason = "only what rkyv makes of it is used: it is read, not written"
)]
pub(crate) struct Block {
    /// Record times count from here.
    pub(crate) base: i64,
    pub(crate) records: Vec<Record>,
    pub(crate) messages: Vec<Message>,
    pub(crate) heads: Vec<Head>,
    pub(crate) fields: Vec<Field>,
    pub(crate) wide_fields: Vec<WideField>,
    /// When each interim response came, from the time of its record.
    pub(crate) interims: Vec<i64>,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) bytes: Vec<u8>,
}

/// An exchange. In the arrays: the request, the interim responses, the response.
#[derive(Archive, Clone, Copy, Debug)]
#[rkyv(derive(Debug))]
pub(crate) struct Record {
    /// When it began, from the block's base.
    pub(crate) time: i64,
    pub(crate) stream: u64,
    pub(crate) anomalies: [u64; 2],
    /// Number of its connection in the block.
    pub(crate) connection: u32,
    pub(crate) n_interims: u32,
    pub(crate) request_absent: u16,
    pub(crate) response_absent: u16,
    pub(crate) protocol: u8,
    /// Of [`record_flags`].
    pub(crate) flags: u8,
}

pub(crate) mod record_flags {
    pub(crate) const REQUEST: u8 = 1;
    pub(crate) const RESPONSE: u8 = 2;
    pub(crate) const TUNNEL: u8 = 4;
    pub(crate) const PUSHED: u8 = 8;
}

/// A request or a response. In the arrays: the head, the trailers, the body.
#[derive(Archive, Clone, Copy, Debug)]
#[rkyv(derive(Debug))]
pub(crate) struct Message {
    /// From the time of the record.
    pub(crate) first_byte: i64,
    /// From `first_byte`.
    pub(crate) last_byte: i64,
    /// Length of the whole body: of the pieces, then of what lies in `bytes`.
    pub(crate) body_len: u64,
    pub(crate) inline_len: u32,
    pub(crate) n_pieces: u32,
    pub(crate) n_gaps: u32,
    pub(crate) n_arrivals: u32,
    pub(crate) reset_code: u32,
    pub(crate) missing: u16,
    /// Of [`message_flags`].
    pub(crate) flags: u8,
}

pub(crate) mod message_flags {
    pub(crate) const HEAD: u8 = 1;
    pub(crate) const TRAILERS: u8 = 2;
    pub(crate) const RESET: u8 = 4;
}

/// A head, an interim head or a trailer section. In the arrays: its fields; in `bytes`: its bytes.
#[derive(Archive, Clone, Copy, Debug)]
#[rkyv(derive(Debug))]
pub(crate) struct Head {
    pub(crate) raw_len: u32,
    pub(crate) n_fields: u32,
    /// The method, or the reason phrase.
    pub(crate) first: Span,
    /// The target.
    pub(crate) second: Span,
    pub(crate) status: u16,
    pub(crate) protocol: u8,
    /// 0 none, 1 request, 2 response.
    pub(crate) start: u8,
    /// Of [`head_flags`].
    pub(crate) flags: u8,
}

pub(crate) mod head_flags {
    pub(crate) const METHOD: u8 = 1;
    pub(crate) const TARGET: u8 = 2;
    pub(crate) const STATUS: u8 = 4;
    /// The fields are in `wide_fields`.
    pub(crate) const WIDE: u8 = 8;
}

/// Bytes within a head.
#[derive(Archive, Clone, Copy, Debug, Default)]
#[rkyv(derive(Debug))]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// A field, by distances: from the end of the field before (first: of the head's beginning) to the
/// name, and from the name's end to the value. Like heads then have equal fields, wherever they lie.
#[derive(Archive, Clone, Copy, Debug)]
#[rkyv(derive(Debug))]
pub(crate) struct Field {
    pub(crate) skip: u16,
    pub(crate) name_len: u16,
    pub(crate) gap: u16,
    pub(crate) value_len: u16,
}

/// A field that [`Field`] cannot express: longer, out of order, or with an unknown name or value.
#[derive(Archive, Clone, Copy, Debug)]
#[rkyv(derive(Debug))]
pub(crate) struct WideField {
    pub(crate) name: Span,
    pub(crate) value: Span,
    /// Of [`field_flags`].
    pub(crate) flags: u32,
}

pub(crate) mod field_flags {
    pub(crate) const NAME_UNKNOWN: u32 = 1;
    pub(crate) const VALUE_UNKNOWN: u32 = 2;
}

/// Bytes of a body that lie elsewhere.
#[derive(Archive, Clone, Copy, Debug)]
#[rkyv(derive(Debug))]
pub(crate) struct Piece {
    /// Number of the reference before the stored payload; [`OWN_BLOCK`]: this block.
    pub(crate) reference: u32,
    /// Where in the body block, or in `bytes` of the exchange block.
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// [`Piece::reference`] to the block that holds the piece.
pub(crate) const OWN_BLOCK: u32 = u32::MAX;

/// Bytes that are missing in a body.
#[derive(Archive, Clone, Copy, Debug)]
#[rkyv(derive(Debug))]
pub(crate) struct Gap {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// 0 lost, 1 snaplen, 2 limit.
    pub(crate) cause: u8,
}

/// When a part of a body came.
#[derive(Archive, Clone, Copy, Debug)]
#[rkyv(derive(Debug))]
pub(crate) struct Arrival {
    pub(crate) offset: u64,
    /// From the message's first byte.
    pub(crate) at: i64,
}

/// A connection.
#[derive(Archive, Clone, Copy, Debug)]
#[rkyv(derive(Debug))]
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) scope: u64,
    pub(crate) opened: i64,
    /// IPv4: the first four bytes, the others zero.
    pub(crate) client: [u8; 16],
    pub(crate) server: [u8; 16],
    pub(crate) client_port: u16,
    pub(crate) server_port: u16,
    /// Of [`connection_flags`].
    pub(crate) flags: u8,
}

pub(crate) mod connection_flags {
    pub(crate) const CLIENT_V6: u8 = 1;
    pub(crate) const SERVER_V6: u8 = 2;
    pub(crate) const MIDSTREAM: u8 = 4;
}
