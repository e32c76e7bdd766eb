//! The streams of a connection.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;

use super::error::Http2Error;
use crate::player::outcome::{GrpcStatus, Reply};

/// A request on its way out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    /// Its field block.
    pub(crate) head: &'a [u8],
    pub(crate) body: &'a Bytes,
    /// That of its trailers.
    pub(crate) trailers: Option<&'a Bytes>,
    /// The answer has no body, whatever its head says.
    pub(crate) is_head: bool,
    /// It is a gRPC call.
    pub(crate) is_grpc: bool,
}

/// What came back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Answered {
    pub(crate) reply: Reply,
    /// When the head of the answer came.
    pub(crate) first_byte: Instant,
    /// When the last byte of the request went out; `None`: the answer came before.
    pub(crate) sent_whole: Option<Instant>,
}

/// One request, from its HEADERS until somebody has taken its answer.
///
/// ```text
///          HEADERS                 HEADERS, final          END_STREAM
/// open ─────────────► AwaitsHead ─────────────────► Body ────────────► settled
///                        │  └─ interim ─┘             │
///                        └───────── RST_STREAM, GOAWAY, the end ─────► settled
/// ```
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) is_head: bool,
    /// It is a gRPC call.
    pub(super) is_call: bool,
    /// Of the final head; `None`: it has not come.
    pub(super) status: Option<(u16, Instant)>,
    /// Whether it is an answer of gRPC.
    pub(super) is_grpc: bool,
    /// How the call ended, where that was said.
    pub(super) grpc_status: Option<GrpcStatus>,
    /// Bytes of the body that are still to come, where the head says how many.
    pub(super) left: Option<u64>,
    /// What the target may still send.
    pub(super) receive_window: i64,
    /// What it sent and was not given back yet.
    pub(super) consumed: u32,
    /// What may still be sent to it. Below zero where it has changed its mind (RFC 9113 section 6.9.2).
    pub(super) send_window: i64,
    /// What is still to be sent; `None`: nothing.
    pub(super) upload: Option<Upload>,
    pub(super) sent_whole: Option<Instant>,
    pub(super) result: Option<Result<Answered, Http2Error>>,
    pub(super) waker: Option<Waker>,
}

/// The rest of a request.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) body: Bytes,
    pub(super) trailers: Option<Bytes>,
    /// It has its turn when there is room.
    pub(super) queued: bool,
}

/// The place of a stream, for whoever opened it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Slot(u32);

/// All streams of a connection. Those that are settled are still there, but no longer have an id.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slab: Vec<Option<Stream>>,
    free: Vec<Slot>,
    ids: HashMap<u32, Slot, BuildHasherDefault<IdHasher>>,
}

impl Streams {
    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn insert(&mut self, stream: Stream) -> Slot {
        let id = stream.id;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slab.push(None);
                // Ids have 31 bits, and every stream has one.
                Slot((self.slab.len() - 1) as u32)
            }
        };
        if let Some(place) = self.slab.get_mut(slot.0 as usize) {
            *place = Some(stream);
        }
        self.ids.insert(id, slot);
        slot
    }

    pub(super) fn get(&mut self, slot: Slot) -> Option<&mut Stream> {
        self.slab.get_mut(slot.0 as usize)?.as_mut()
    }

    pub(super) fn of_id(&mut self, id: u32) -> Option<(Slot, &mut Stream)> {
        let slot = *self.ids.get(&id)?;
        Some((slot, self.get(slot)?))
    }

    /// The stream is over; its result waits.
    pub(super) fn settle(&mut self, slot: Slot, result: Result<Answered, Http2Error>) {
        let Some(stream) = self.get(slot) else { return };
        stream.result = Some(result);
        stream.upload = None;
        let (id, waker) = (stream.id, stream.waker.take());
        self.ids.remove(&id);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Nobody asks for it any more.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<Stream> {
        let stream = self.slab.get_mut(slot.0 as usize)?.take()?;
        self.ids.remove(&stream.id);
        self.free.push(slot);
        Some(stream)
    }

    /// Those that are open.
    pub(super) fn slots(&self) -> Vec<(u32, Slot)> {
        let open = |(index, stream): (usize, &Option<Stream>)| {
            let stream = stream.as_ref().filter(|stream| stream.result.is_none())?;
            Some((stream.id, Slot(index as u32)))
        };
        self.slab.iter().enumerate().filter_map(open).collect()
    }
}

/// The ids are the player's own, so that nobody can choose them to collide.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        // Fibonacci hashing: the upper bits, which the table uses as well, must differ, too.
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
