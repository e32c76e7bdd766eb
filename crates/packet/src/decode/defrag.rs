//! IP fragments, put together within bounds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tapedeck_model::{Scope, Timestamp};

use super::bytes::Bytes;
use super::{Context, Decoded, MAX_LAYERS, Outcome, frame, ip};
use crate::link::RawPacket;

/// What a [`Defragmenter`] may hold.
#[derive(Clone, Copy, Debug)]
pub struct DefragLimits {
    /// Packets of which some fragments are there. TCP avoids fragments, so that a handful is
    /// normal; more are an attack on whoever puts them together. The oldest goes first.
    pub max_packets: usize,
    /// Bytes of all fragments together; the oldest packet goes first.
    pub max_bytes: usize,
    /// How long to wait for the rest: Linux's `ipfrag_time`.
    pub timeout: Duration,
}

impl Default for DefragLimits {
    fn default() -> Self {
        Self {
            max_packets: 1024,
            max_bytes: 4 << 20,
            timeout: Duration::from_secs(30),
        }
    }
}

/// Decodes packets like [`decode`](super::decode), and puts IPv4 and IPv6 fragments together.
///
/// The packet that completes a fragmented one is reported as its segment, every other fragment as
/// [`Decoded::Fragment`]. Fragments that overlap in part are not put together (RFC 5722, and Linux
/// for IPv4 too): two readers would not agree on the result. Fragments cut by the snapshot length
/// are not put together either.
#[derive(Debug, Default)]
pub struct Defragmenter {
    limits: DefragLimits,
    datagrams: HashMap<DatagramKey, Datagram>,
    /// When each datagram began, oldest first. A key that is no longer in `datagrams`, or whose
    /// `serial` differs, is stale.
    ages: VecDeque<(DatagramKey, u64)>,
    serial: u64,
    bytes: usize,
    evicted: u64,
    joined: u64,
    complete: Vec<u8>,
}

impl Defragmenter {
    /// A defragmenter with these limits.
    #[must_use]
    pub fn new(limits: DefragLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Decodes one packet.
    pub fn decode<'a>(&'a mut self, packet: &RawPacket<'a>) -> Decoded<'a> {
        let fragment = match frame::link(Context::new(packet), packet) {
            Ok(Outcome::Segment(segment)) => return Decoded::Segment(segment),
            Ok(Outcome::NotTcp) => return Decoded::NotTcp,
            Err(error) => return Decoded::Undecodable(error),
            Ok(Outcome::Fragment(fragment)) => fragment,
        };
        self.expire(fragment.at);
        let key = fragment.key;
        let context = Context {
            at: fragment.at,
            scope: key.scope,
            layers_left: MAX_LAYERS,
        };
        if !self.insert(&fragment) {
            return Decoded::Fragment;
        }
        let bytes = Bytes {
            data: &self.complete,
            cut: 0,
        };
        match ip::payload(context, key.protocol, key.source, key.destination, bytes) {
            Ok(Outcome::Segment(segment)) => Decoded::Segment(segment),
            Ok(Outcome::NotTcp) => Decoded::NotTcp,
            // Fragments within fragments: once is enough.
            Ok(Outcome::Fragment(_)) => Decoded::Fragment,
            Err(error) => Decoded::Undecodable(error),
        }
    }

    /// Bytes of fragments that are held.
    #[must_use]
    pub const fn memory(&self) -> usize {
        self.bytes
    }

    /// Fragmented packets that were given up: incomplete for too long, or over a limit.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Fragments that were reported as such and belonged to packets that were completed later.
    #[must_use]
    pub const fn joined(&self) -> u64 {
        self.joined
    }

    /// Adds a fragment; true when it completed its packet, which is then in `complete`.
    fn insert(&mut self, fragment: &Fragment<'_>) -> bool {
        let Fragment {
            key,
            at,
            offset,
            more,
            bytes,
        } = *fragment;
        let end = offset.saturating_add(bytes.data.len());
        // RFC 791: all but the last have a multiple of eight bytes. Nothing ends beyond 64 KiB.
        if bytes.cut != 0
            || bytes.data.is_empty()
            || end > usize::from(u16::MAX)
            || (more && !bytes.data.len().is_multiple_of(8))
        {
            return false;
        }
        let serial = &mut self.serial;
        let datagram = self.datagrams.entry(key).or_insert_with(|| {
            *serial += 1;
            self.ages.push_back((key, *serial));
            Datagram {
                serial: *serial,
                began: at,
                pieces: BTreeMap::new(),
                len: 0,
                end: None,
            }
        });
        match datagram.add(offset, more, bytes.data) {
            Added::Duplicate => return false,
            Added::Conflict => {
                self.forget(key);
                self.evicted += 1;
                return false;
            }
            Added::New => self.bytes += bytes.data.len(),
        }
        if datagram.end == Some(datagram.len) {
            self.complete.clear();
            for piece in datagram.pieces.values() {
                self.complete.extend_from_slice(piece);
            }
            self.joined += datagram.pieces.len() as u64 - 1;
            self.forget(key);
            return true;
        }
        while self.bytes > self.limits.max_bytes || self.datagrams.len() > self.limits.max_packets {
            if !self.evict_oldest() {
                break;
            }
        }
        false
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some((key, serial)) = self.ages.front() {
            match self.datagrams.get(key) {
                Some(datagram) if datagram.serial == *serial => {
                    if now.since(datagram.began) <= self.limits.timeout {
                        return;
                    }
                    self.evict_oldest();
                }
                _ => {
                    self.ages.pop_front();
                }
            }
        }
    }

    fn evict_oldest(&mut self) -> bool {
        while let Some((key, serial)) = self.ages.pop_front() {
            if self
                .datagrams
                .get(&key)
                .is_some_and(|datagram| datagram.serial == serial)
            {
                self.forget(key);
                self.evicted += 1;
                return true;
            }
        }
        false
    }

    fn forget(&mut self, key: DatagramKey) {
        if let Some(datagram) = self.datagrams.remove(&key) {
            self.bytes = self.bytes.saturating_sub(datagram.len);
        }
        // Completed packets leave stale ages behind; without this, packets that complete at once
        // behind one that never does would pile them up.
        if self.ages.len() > 2 * self.limits.max_packets.max(self.datagrams.len()) {
            let datagrams = &self.datagrams;
            self.ages.retain(|(key, serial)| {
                datagrams
                    .get(key)
                    .is_some_and(|datagram| datagram.serial == *serial)
            });
        }
    }
}

/// A fragment as the IP layer found it.
pub(super) struct Fragment<'a> {
    pub(super) key: DatagramKey,
    pub(super) at: Timestamp,
    /// Where in the packet's payload it belongs.
    pub(super) offset: usize,
    /// Whether others follow behind it.
    pub(super) more: bool,
    pub(super) bytes: Bytes<'a>,
}

/// What the fragments of one packet have in common (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct DatagramKey {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) scope: Scope,
    pub(super) id: u32,
    pub(super) protocol: u8,
}

/// The fragments of a packet so far.
#[derive(Debug)]
struct Datagram {
    serial: u64,
    began: Timestamp,
    /// By offset; they do not overlap.
    pieces: BTreeMap<usize, Vec<u8>>,
    /// The sum of their lengths.
    len: usize,
    /// The length of the whole, once the last fragment is there.
    end: Option<usize>,
}

enum Added {
    New,
    Duplicate,
    Conflict,
}

impl Datagram {
    fn add(&mut self, offset: usize, more: bool, data: &[u8]) -> Added {
        let end = offset + data.len();
        if self.pieces.get(&offset).is_some_and(|piece| piece == data) {
            return Added::Duplicate;
        }
        let before = self.pieces.range(..=offset).next_back();
        let after = self.pieces.range(offset..).next();
        if before.is_some_and(|(start, piece)| start + piece.len() > offset)
            || after.is_some_and(|(start, _)| *start < end)
            || self
                .end
                .is_some_and(|known| end > known || (!more && end != known))
        {
            return Added::Conflict;
        }
        if !more {
            let last = self.pieces.last_key_value();
            if last.is_some_and(|(start, piece)| start + piece.len() > end) {
                return Added::Conflict;
            }
            self.end = Some(end);
        }
        self.len += data.len();
        self.pieces.insert(offset, data.to_vec());
        Added::New
    }
}
