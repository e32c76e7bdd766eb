//! Version 2 of what lies in an exchange block, as rkyv archives it. See `docs/format.md`.
//!
//! rkyv has no schema evolution: a change here is a new version of the chunk, in a new module
//! beside this one, and this one stays for ever, as [`super::v1`] does.

use rkyv::{Archive, Serialize};

use super::packed::Packed;
use crate::details::{StoredTls, StoredWorkload};

/// The root: one group of columns for each kind of thing.
#[derive(Archive, Debug, Default, Serialize)]
#[rkyv(derive(Debug))]
pub(crate) struct Block {
    /// The time before the first record's.
    pub(crate) base: i64,
    pub(crate) records: Records,
    /// Requests, responses.
    pub(crate) messages: [Messages; 2],
    /// Heads of requests, of final responses, and all others: interim responses and trailers.
    pub(crate) heads: [Heads; 3],
    pub(crate) pieces: Pieces,
    pub(crate) gaps: Gaps,
    pub(crate) arrivals: Arrivals,
    /// When each interim response came, from the time of its record.
    pub(crate) interims: Packed,
    pub(crate) n_interims: u32,
    pub(crate) connections: Connections,
    pub(crate) tls: Vec<StoredTls>,
    pub(crate) workloads: Vec<StoredWorkload>,
    pub(crate) anomalies: Vec<[u64; 2]>,
    /// Inline bodies.
    pub(crate) bodies: Vec<u8>,
}

/// Exchanges.
#[derive(Archive, Debug, Default, Serialize)]
#[rkyv(derive(Debug))]
pub(crate) struct Records {
    pub(crate) n: u32,
    /// From the time of the record before.
    pub(crate) time: Packed,
    /// Number of its connection in the block.
    pub(crate) connection: Packed,
    /// From the stream of the record before on the same connection; for the first, from one below
    /// [`Connections::first_stream`].
    pub(crate) stream: Packed,
    /// Number of the set in `anomalies`.
    pub(crate) anomalies: Packed,
    pub(crate) n_interims: Packed,
    pub(crate) request_absent: Packed,
    pub(crate) response_absent: Packed,
    pub(crate) protocol: Packed,
    /// Of [`record_flags`].
    pub(crate) flags: Packed,
}

pub(crate) mod record_flags {
    pub(crate) const REQUEST: u64 = 1;
    pub(crate) const RESPONSE: u64 = 2;
    pub(crate) const TUNNEL: u64 = 4;
    pub(crate) const PUSHED: u64 = 8;
}

/// Requests, or responses.
#[derive(Archive, Debug, Default, Serialize)]
#[rkyv(derive(Debug))]
pub(crate) struct Messages {
    pub(crate) n: u32,
    /// From the time of the record.
    pub(crate) first_byte: Packed,
    /// From `first_byte`.
    pub(crate) last_byte: Packed,
    /// Bytes of its body in `bodies`.
    pub(crate) inline_len: Packed,
    pub(crate) n_pieces: Packed,
    pub(crate) n_gaps: Packed,
    pub(crate) n_arrivals: Packed,
    pub(crate) reset_code: Packed,
    pub(crate) missing: Packed,
    /// Of [`message_flags`].
    pub(crate) flags: Packed,
}

pub(crate) mod message_flags {
    pub(crate) const HEAD: u64 = 1;
    pub(crate) const TRAILERS: u64 = 2;
    pub(crate) const RESET: u64 = 4;
}

/// Heads of one kind, their fields, and their bytes. Everything in a head is a distance from the
/// end of what came before it in this order: the first part of the start line, its second part,
/// the fields, each with name and value, the head's end. Distances wrap, since what came before
/// need not lie before.
#[derive(Archive, Debug, Default, Serialize)]
#[rkyv(derive(Debug))]
pub(crate) struct Heads {
    pub(crate) n: u32,
    pub(crate) n_all_fields: u32,
    /// 0 none, 1 request, 2 response.
    pub(crate) start: Packed,
    /// Of [`head_flags`].
    pub(crate) flags: Packed,
    pub(crate) protocol: Packed,
    pub(crate) status: Packed,
    /// The method, or the reason phrase.
    pub(crate) first_skip: Packed,
    pub(crate) first_len: Packed,
    /// The target.
    pub(crate) second_skip: Packed,
    pub(crate) second_len: Packed,
    pub(crate) n_fields: Packed,
    /// From the end of the last field, or of the start line where there is none.
    pub(crate) rest: Packed,
    /// To the name of each field.
    pub(crate) name_skip: Packed,
    pub(crate) name_len: Packed,
    pub(crate) value_skip: Packed,
    pub(crate) value_len: Packed,
    /// Of [`field_flags`].
    pub(crate) field_flags: Packed,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) mod head_flags {
    pub(crate) const METHOD: u64 = 1;
    pub(crate) const TARGET: u64 = 2;
    pub(crate) const STATUS: u64 = 4;
    /// The fields begin with the head, and the parts of the start line lie among them, as in
    /// HTTP/2. Else they begin behind the start line.
    pub(crate) const FIELDS_FIRST: u64 = 8;
}

pub(crate) mod field_flags {
    pub(crate) const NAME_UNKNOWN: u64 = 1;
    pub(crate) const VALUE_UNKNOWN: u64 = 2;
}

/// Bytes of bodies that lie elsewhere.
#[derive(Archive, Debug, Default, Serialize)]
#[rkyv(derive(Debug))]
pub(crate) struct Pieces {
    pub(crate) n: u32,
    /// 0: this block; else number of the reference before the stored payload, from 1.
    pub(crate) reference: Packed,
    /// Where in the body block, or in `bodies` of the exchange block.
    pub(crate) start: Packed,
    pub(crate) len: Packed,
}

/// Bytes that are missing in a body.
#[derive(Archive, Debug, Default, Serialize)]
#[rkyv(derive(Debug))]
pub(crate) struct Gaps {
    pub(crate) n: u32,
    pub(crate) offset: Packed,
    pub(crate) len: Packed,
    /// 0 lost, 1 snaplen, 2 limit.
    pub(crate) cause: Packed,
}

/// When parts of a body came.
#[derive(Archive, Debug, Default, Serialize)]
#[rkyv(derive(Debug))]
pub(crate) struct Arrivals {
    pub(crate) n: u32,
    /// From the one before in the same body.
    pub(crate) offset: Packed,
    /// From the one before in the same body; for the first, from the message's first byte.
    pub(crate) at: Packed,
}

/// Connections.
#[derive(Archive, Debug, Default, Serialize)]
#[rkyv(derive(Debug))]
pub(crate) struct Connections {
    pub(crate) n: u32,
    pub(crate) id: Packed,
    pub(crate) scope: Packed,
    /// From the block's base.
    pub(crate) opened: Packed,
    /// The address as a number, in two halves; that of an IPv4 address is in the low one.
    pub(crate) client_high: Packed,
    pub(crate) client_low: Packed,
    pub(crate) client_port: Packed,
    pub(crate) server_high: Packed,
    pub(crate) server_low: Packed,
    pub(crate) server_port: Packed,
    pub(crate) first_stream: Packed,
    /// Number in `tls`, from 1; 0: none.
    pub(crate) tls: Packed,
    /// Numbers in `workloads`, from 1; 0: none.
    pub(crate) client_workload: Packed,
    pub(crate) server_workload: Packed,
    /// Of [`connection_flags`].
    pub(crate) flags: Packed,
}

pub(crate) mod connection_flags {
    pub(crate) const CLIENT_V6: u64 = 1;
    pub(crate) const SERVER_V6: u64 = 2;
    pub(crate) const MIDSTREAM: u64 = 4;
    /// Beside [`MIDSTREAM`], which is all that older readers know.
    pub(crate) const PREDATES: u64 = 8;
}
