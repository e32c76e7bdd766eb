//! Packets on their way to the workers.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use tapedeck_model::{Endpoint, Segment, Timestamp};
use tapedeck_tls::Edition;

/// A batch is on its way with this many packets (few in tests, which have few)...
const PACKETS: usize = if cfg!(test) { 16 } else { 1024 };
/// ...or with this many bytes of payload: enough that the hand-over between threads costs little
/// beside the work, and few enough that all batches under way fit into a cache.
const BYTES: usize = 512 << 10;

/// Packets in the order of the capture, with what the workers need of them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The ordinal of the first packet in the capture.
    pub(super) first: u64,
    items: Vec<Item>,
    /// Editions of the key log, each with the ordinal of the first packet that may use it.
    editions: Vec<(u64, Edition)>,
    payloads: Vec<u8>,
}

#[derive(Debug)]
struct Item {
    at: Timestamp,
    segment: Option<Held>,
}

/// A segment whose payload lies in the batch.
#[derive(Debug)]
struct Held {
    worker: usize,
    /// Its payload is empty here, and lies at `start`.
    header: Segment<'static>,
    start: usize,
    len: usize,
}

impl Batch {
    pub(super) fn clear(&mut self, first: u64) {
        self.first = first;
        self.items.clear();
        self.editions.clear();
        self.payloads.clear();
    }

    /// A packet that tells only the time.
    pub(super) fn push_time(&mut self, at: Timestamp) {
        self.items.push(Item { at, segment: None });
    }

    pub(super) fn push_segment(&mut self, segment: &Segment<'_>, worker: usize) {
        let held = Held {
            worker,
            header: Segment {
                payload: &[],
                ..*segment
            },
            start: self.payloads.len(),
            len: segment.payload.len(),
        };
        self.payloads.extend_from_slice(segment.payload);
        self.items.push(Item {
            at: segment.at,
            segment: Some(held),
        });
    }

    /// The packets from here on may use that edition of the key log.
    pub(super) fn push_edition(&mut self, edition: Edition) {
        let next = self.first + self.items.len() as u64;
        self.editions.push((next, edition));
    }

    /// The edition that this batch brings for the packet of that ordinal.
    pub(super) fn edition_at(&self, ordinal: u64) -> Option<Edition> {
        let mut latest = self.editions.iter().rev();
        latest
            .find(|(first, _)| *first <= ordinal)
            .map(|(_, edition)| *edition)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.items.is_empty() && self.editions.is_empty()
    }

    pub(super) const fn is_full(&self) -> bool {
        self.items.len() >= PACKETS || self.payloads.len() >= BYTES
    }

    /// The packets as a worker sees them: ordinal, time, and the segment where it is one of its own.
    pub(super) fn packets_of(
        &self,
        worker: usize,
    ) -> impl Iterator<Item = (u64, Timestamp, Option<Segment<'_>>)> {
        (self.first..).zip(&self.items).map(move |(ordinal, item)| {
            let own = item.segment.as_ref().filter(|held| held.worker == worker);
            let segment = own.map(|held| Segment {
                payload: self
                    .payloads
                    .get(held.start..held.start + held.len)
                    .unwrap_or_default(),
                ..held.header
            });
            (ordinal, item.at, segment)
        })
    }
}

/// Chooses the worker of a connection: the same for both directions.
#[derive(Debug)]
pub(super) struct Spread {
    workers: u64,
    /// Peers choose their ports, and would load a single worker if they knew this. No result
    /// depends on it.
    seed: u64,
}

impl Spread {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers: workers as u64,
            seed: RandomState::new().hash_one(0),
        }
    }

    pub(super) fn worker(&self, segment: &Segment<'_>) -> usize {
        let ends = self.hash(segment.source) ^ self.hash(segment.destination);
        // Not by scope: the reassembly may find that one connection was seen in several.
        let hash = fold(ends, self.seed | 1);
        ((u128::from(hash) * u128::from(self.workers)) >> 64) as usize
    }

    fn hash(&self, endpoint: Endpoint) -> u64 {
        let (high, low) = match endpoint.ip {
            IpAddr::V4(ip) => (0, u64::from(u32::from(ip))),
            IpAddr::V6(ip) => ((u128::from(ip) >> 64) as u64, u128::from(ip) as u64),
        };
        let port = u64::from(endpoint.port) << 48;
        fold(high ^ self.seed.rotate_left(32), low ^ port ^ self.seed)
    }
}

/// The 128-bit product, folded into 64 bits.
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128 ^ 0x9e37_79b9_7f4a_7c15) * (b as u128 ^ 0xbf58_476d_1ce4_e5b9);
    (product >> 64) as u64 ^ product as u64
}
