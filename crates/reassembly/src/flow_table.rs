//! From the two endpoints of a segment to its connection.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;

use tapedeck_model::{Endpoint, Segment};

/// The canonical 5-tuple in a form that hashes and compares fast: a [`FlowKey`] packed into words.
///
/// [`FlowKey`]: tapedeck_model::FlowKey
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Key {
    low: u128,
    high: u128,
    /// The ports, and which addresses are IPv4, which a packed address does not say.
    ports: u64,
    scope: u64,
}

impl Key {
    /// The key of a segment, and whether its source is the low end.
    pub(crate) fn of(segment: &Segment<'_>) -> (Self, bool) {
        let (source, destination) = (pack(segment.source), pack(segment.destination));
        let source_is_low = source <= destination;
        let (low, high) = if source_is_low {
            (source, destination)
        } else {
            (destination, source)
        };
        let ports = (low.1 << 32) | high.1;
        (
            Self {
                low: low.0,
                high: high.0,
                ports,
                scope: segment.scope.0,
            },
            source_is_low,
        )
    }
}

fn pack(endpoint: Endpoint) -> (u128, u64) {
    let port = u64::from(endpoint.port);
    match endpoint.ip {
        IpAddr::V4(ip) => (u32::from(ip).into(), port | 1 << 16),
        IpAddr::V6(ip) => (ip.into(), port),
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.low);
        state.write_u128(self.high);
        state.write_u64(self.ports);
        state.write_u64(self.scope);
    }
}

impl Key {
    /// The same in no scope.
    const fn unscoped(self) -> Self {
        Self { scope: 0, ..self }
    }
}

/// The connections by key.
#[derive(Debug)]
pub(crate) struct FlowTable {
    slots: HashMap<Key, u32, FlowHash>,
    /// The latest of each flow, in whatever scope.
    flows: HashMap<Key, u32, FlowHash>,
    /// Packets come in trains: the flow of the previous one is the likeliest.
    last: Option<(Key, u32)>,
}

impl FlowTable {
    pub(crate) fn new() -> Self {
        let random = RandomState::new();
        // Peers choose their ports, and would make all of them collide if they knew the seed. No
        // result depends on it: the table is never iterated.
        let seed = [random.hash_one(0), random.hash_one(1)];
        Self {
            slots: HashMap::with_hasher(FlowHash(seed)),
            flows: HashMap::with_hasher(FlowHash(seed)),
            last: None,
        }
    }

    pub(crate) fn find(&mut self, key: &Key) -> Option<u32> {
        if let Some((last, slot)) = &self.last
            && last == key
        {
            return Some(*slot);
        }
        let slot = self.slots.get(key).copied()?;
        self.last = Some((*key, slot));
        Some(slot)
    }

    /// The latest connection of that flow in any scope.
    pub(crate) fn find_elsewhere(&self, key: &Key) -> Option<u32> {
        self.flows.get(&key.unscoped()).copied()
    }

    pub(crate) fn insert(&mut self, key: Key, slot: u32) {
        self.alias(key, slot);
        self.flows.insert(key.unscoped(), slot);
    }

    /// Has a further key lead to a connection.
    pub(crate) fn alias(&mut self, key: Key, slot: u32) {
        self.slots.insert(key, slot);
        self.last = Some((key, slot));
    }

    /// Forgets a key of a connection.
    pub(crate) fn remove(&mut self, key: &Key, slot: u32) {
        self.slots.remove(key);
        let flow = key.unscoped();
        if self.flows.get(&flow) == Some(&slot) {
            self.flows.remove(&flow);
        }
        self.last = None;
    }
}

/// A keyed hash by folded multiplication: two words in, the 128-bit product folded into one.
#[derive(Clone, Debug)]
struct FlowHash([u64; 2]);

impl BuildHasher for FlowHash {
    type Hasher = FlowHasher;

    fn build_hasher(&self) -> FlowHasher {
        FlowHasher {
            state: self.0[0],
            key: self.0[1] | 1,
        }
    }
}

struct FlowHasher {
    state: u64,
    key: u64,
}

impl FlowHasher {
    const fn fold(&mut self, a: u64, b: u64) {
        let product = (a ^ self.state) as u128 * (b ^ self.key) as u128;
        self.state = (product >> 64) as u64 ^ product as u64 ^ self.state.rotate_left(23);
    }
}

impl Hasher for FlowHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.fold((*byte).into(), 0);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.fold(word, word.rotate_left(32));
    }

    fn write_u128(&mut self, words: u128) {
        self.fold((words >> 64) as u64, words as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}
