//! Finding frames in the middle of a byte stream.
//!
//! Every place is tried: where a plausible head stands, the chain of frames that would begin there
//! is followed. The chain that is complete first wins; of several the one whose streams are nearest
//! to each other, then the one that began last. A true chain goes through all frames, so a false one
//! that jumps over some of them comes later; but the stream and the priority of a HEADERS frame may
//! read as the head of a frame that ends where the true one does. The outcome depends on the bytes
//! alone, never on how they were cut into packets.

use std::collections::BTreeMap;

use tapedeck_model::Timestamp;

use crate::frame::{FrameHead, HEAD_LEN};
use crate::scan::{Chain, Expect};

/// Bytes among which frames are looked for. All places count from the beginning of the search.
#[derive(Debug, Default)]
pub(crate) struct Search {
    bytes: Vec<u8>,
    /// The place of the first of `bytes`.
    origin: usize,
    /// The places where those begin that came at a time.
    times: Vec<(usize, Timestamp)>,
    /// The place that is tried next.
    next: usize,
    /// The chains that are being followed, by the place of their next head, then of their first.
    chains: BTreeMap<(usize, usize), Chain>,
    /// Up to here bytes were reported as passed over.
    reported: usize,
}

/// How a search went on.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Found {
    /// Frames begin at the first byte that is held.
    Frames,
    /// More bytes are needed.
    NeedMore,
}

impl Search {
    /// Adds bytes.
    pub(crate) fn fill(&mut self, at: Timestamp, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.times.last().is_none_or(|(_, time)| *time != at) {
            self.times.push((self.end(), at));
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Looks for frames whose chain is complete within `window` bytes.
    pub(crate) fn run(&mut self, expect: &Expect, window: usize) -> Found {
        let end = self.end();
        loop {
            // Whatever is decided by the earlier byte comes first.
            let tried = self.next + HEAD_LEN;
            let followed = self.chains.first_key_value();
            match followed.map(|((head, _), _)| head + HEAD_LEN) {
                Some(known) if known <= tried && known <= end => {
                    if let Some(start) = self.follow(known - HEAD_LEN, expect, window) {
                        self.forget_before(start);
                        return Found::Frames;
                    }
                }
                _ if tried <= end => self.begin(expect, window),
                _ => break,
            }
        }
        let first = self.chains.keys().map(|(_, start)| *start).min();
        self.forget_before(first.unwrap_or(self.next).min(self.next));
        Found::NeedMore
    }

    /// The same where no byte will follow: a shorter chain will do if it ends with the bytes.
    pub(crate) fn run_last(&mut self, expect: &Expect, window: usize) -> Found {
        if self.run(expect, window) == Found::Frames {
            return Found::Frames;
        }
        let end = self.end();
        if let Some(((_, start), _)) = self.chains.range((end, 0)..(end + 1, 0)).next() {
            let start = *start;
            self.forget_before(start);
            return Found::Frames;
        }
        // Nothing that is held has to do with what may come.
        self.chains.clear();
        self.next = end;
        self.forget_before(end);
        Found::NeedMore
    }

    /// Whether a chain is being followed.
    pub(crate) fn hopes(&self) -> bool {
        !self.chains.is_empty()
    }

    /// Gives away what is held.
    pub(crate) fn take(&mut self) -> Held {
        let taken = std::mem::take(self);
        Held {
            bytes: taken.bytes,
            times: taken.times,
            origin: taken.origin,
        }
    }

    /// Searches in what [`Search::take`] gave, but for the bytes before a place.
    pub(crate) fn take_back(&mut self, held: Held, place: usize) {
        *self = Self {
            bytes: held.bytes,
            origin: held.origin,
            times: held.times,
            next: place,
            chains: BTreeMap::new(),
            reported: place,
        };
        self.forget_before(place);
    }

    /// How many bytes were passed over since the last call.
    pub(crate) fn take_skipped(&mut self) -> u64 {
        let skipped = self.origin - self.reported;
        self.reported = self.origin;
        skipped as u64
    }

    /// The bytes that are held.
    pub(crate) fn held(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes held, with what it takes to keep them.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity()
            + self.times.capacity() * size_of::<(usize, Timestamp)>()
            + self.chains.len() * size_of::<((usize, usize), Chain)>()
    }

    fn end(&self) -> usize {
        self.origin + self.bytes.len()
    }

    fn head(&self, place: usize) -> Option<FrameHead> {
        let bytes = self.bytes.get(place - self.origin..)?;
        bytes.first_chunk().map(FrameHead::parse)
    }

    /// Tries the next place.
    fn begin(&mut self, expect: &Expect, window: usize) {
        let start = self.next;
        self.next += 1;
        let Some(head) = self.head(start) else {
            return;
        };
        let next = start + HEAD_LEN + head.len as usize;
        if next + HEAD_LEN > start + window {
            return;
        }
        if let Some(chain) = Chain::begin(&head, expect) {
            self.chains.insert((next, start), chain);
            if self.chains.len() > MAX_CHAINS {
                // The one that would be complete last.
                self.chains.pop_last();
            }
        }
    }

    /// Follows the chains whose next head is at a place; gives the start of one that is complete.
    fn follow(&mut self, place: usize, expect: &Expect, window: usize) -> Option<usize> {
        let head = self.head(place)?;
        let mut complete: Option<(u32, usize)> = None;
        while let Some(entry) = self.chains.first_entry()
            && entry.key().0 == place
        {
            let ((_, start), mut chain) = entry.remove_entry();
            if !chain.accepts(&head, expect) {
                continue;
            }
            if chain.complete() {
                let spread = chain.spread(expect);
                if complete.is_none_or(|(least, _)| spread <= least) {
                    complete = Some((spread, start));
                }
                continue;
            }
            let next = place + HEAD_LEN + head.len as usize;
            if next + HEAD_LEN <= start + window {
                self.chains.insert((next, start), chain);
            }
        }
        complete.map(|(_, start)| start)
    }

    /// Lets go of the bytes before a place.
    fn forget_before(&mut self, place: usize) {
        let gone = place.saturating_sub(self.origin).min(self.bytes.len());
        self.bytes.drain(..gone);
        self.origin += gone;
        let passed = self
            .times
            .partition_point(|(start, _)| *start <= self.origin);
        // The last of those still holds for the first byte that is left.
        self.times.drain(..passed.saturating_sub(1));
        if self.bytes.is_empty() {
            self.times.clear();
        }
    }
}

/// Bytes that a [`Search`] held.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: Vec<u8>,
    origin: usize,
    times: Vec<(usize, Timestamp)>,
}

impl Held {
    /// The bytes, in order, by the time at which they came; with each the place of its end.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Timestamp, &[u8], usize)> {
        let end = self.origin + self.bytes.len();
        let ends = self.times.iter().skip(1).map(|(start, _)| *start);
        let starts = self.times.iter();
        starts
            .zip(ends.chain([end]))
            .map(move |((start, at), end)| {
                let start = start.saturating_sub(self.origin);
                let bytes = self.bytes.get(start..end - self.origin);
                (*at, bytes.unwrap_or_default(), end)
            })
    }
}

/// How many chains are followed at once. In real bytes there are one or two; zeros and small numbers
/// make some more.
const MAX_CHAINS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0........";
    const GET: &[u8] = b"\0\0\x03\x01\x05\0\0\0\x05\x82\x86\x84";
    const BODY: &[u8] = b"\0\0\x02\0\x01\0\0\0\x05{}";
    const UPDATE: &[u8] = b"\0\0\x07\x10\0\0\0\0\0\0\0\0\x01u=3";
    const BEGUN: &[u8] = b"\0\0\x01\x01\0\0\0\0\x05\x82";
    const REST: &[u8] = b"\0\0\x01\x09\x04\0\0\0\x05\x86";
    const WINDOW: usize = 1 << 16;

    /// Where frames are found, by one push and by single bytes alike.
    #[track_caller]
    fn check(parts: &[&[u8]], expect: Option<usize>) {
        let bytes = parts.concat();
        let found = |len: usize| {
            let mut search = Search::default();
            for (at, part) in (0..).zip(bytes.chunks(len)) {
                search.fill(Timestamp::from_nanos(at), part);
                if search.run(&Expect::default(), WINDOW) == Found::Frames {
                    return Some(search.take_skipped() as usize);
                }
            }
            None
        };
        assert_eq!(found(bytes.len()), expect);
        assert_eq!(found(1), expect);
    }

    #[test]
    fn chains_are_found_behind_anything() {
        check(&[PING, GET, BODY], Some(0));
        check(&[b"the end of a body", PING, GET, BODY], Some(17));
        check(&[&[0; 100], PING, GET, BODY], Some(100));
        check(&[PING, GET], None);
    }

    #[test]
    fn blocks_are_not_interrupted() {
        check(&[BEGUN, REST, PING], Some(0));
        check(&[BEGUN, PING, GET, BODY], Some(BEGUN.len()));
        check(&[PING, REST, GET, BODY, PING], Some(PING.len()));
    }

    #[test]
    fn coincidences_lose() {
        // The end of it reads as an empty DATA frame on stream 0x1753d33.
        check(&[&UPDATE[2..], PING, GET, BODY], Some(UPDATE.len() - 2));
        // What is left of a head reads as that of a frame that ends where another does.
        let small = b"\0\0\x0c\0\0\0\0\0\x0duhe body say";
        let fill = [b'.'; 3072 + 9 - 20 - 17 * 180];
        let parts = [&small[1..], &PING.repeat(180), &fill, PING, PING, PING];
        check(&parts, Some(small.len() - 1));
    }

    /// Found by a property test: stream 21, and 21 bytes from there on to the end of the frame.
    #[test]
    fn a_priority_is_no_head() {
        let request = b"\0\0\x1b\x01\x25\0\0\0\x15\0\0\0\0\x07\xc7\xcf\xc9\xcd\xc4\x0f\x2f\x03*/*\x7f\x03\x08cookie-8";
        check(&[request, GET, BODY], Some(0));
        check(&[b"the end", request, GET, PING], Some(7));
    }

    #[test]
    fn the_last_bytes_may_be_a_short_chain() {
        for (parts, expect) in [
            (&[&b"..."[..], GET][..], Some(3)),
            (&[b"...", GET, BODY], Some(3)),
            (&[b"...", GET, &BODY[..10]], None),
            (&[b"..."], None),
        ] {
            let mut search = Search::default();
            search.fill(Timestamp::EPOCH, &parts.concat());
            let found = search.run_last(&Expect::default(), WINDOW) == Found::Frames;
            assert_eq!(found.then(|| search.take_skipped()), expect, "{parts:?}");
        }
    }

    #[test]
    fn what_is_held_stays_within_the_window() {
        let mut search = Search::default();
        // A chain that never becomes complete, then another, and so on.
        let long = b"\0\x40\0\0\0\0\0\0\x01";
        for at in 0..100_000 {
            search.fill(Timestamp::from_nanos(at), long);
            search.run(&Expect::default(), 20_000);
            assert!(search.held().len() <= 20_000, "{}", search.held().len());
        }
        assert!(search.memory() < 200_000, "{}", search.memory());
    }
}
