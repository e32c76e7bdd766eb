//! The dynamic table (RFC 7541 section 2.3.2), of which the older part may be unknown.

use std::collections::VecDeque;

/// The dynamic table of one direction. See the module above for what is certain and why.
#[derive(Debug)]
pub(crate) struct Table {
    /// The entries that we saw inserted, oldest first.
    entries: VecDeque<Entry>,
    /// The names and values of `entries`, in order, behind those of some evicted ones.
    bytes: Vec<u8>,
    /// The place of the first of `bytes` among all bytes ever inserted.
    base: u64,
    /// What the entries count in the peer's table, at least.
    size: usize,
    /// The peer's maximum size; `None`: unknown.
    maximum: Option<usize>,
    /// The most that we hold, whatever the peer does.
    limit: usize,
    /// Whether there may be entries older than `entries`.
    older: bool,
}

/// What an index of the dynamic table leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lookup<'a> {
    /// An entry; `None`: that part of it is unknown.
    Entry(Option<&'a [u8]>, Option<&'a [u8]>),
    /// An entry from before the capture or from a missed block.
    Unknown,
    /// There is no such entry.
    Invalid,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The place of the first byte among all bytes ever inserted.
    start: u64,
    name_len: u32,
    value_len: u32,
    name_known: bool,
    value_known: bool,
}

impl Table {
    /// The table of a connection that is seen from its beginning.
    pub(crate) fn fresh(limit: usize) -> Self {
        Self {
            maximum: Some(INITIAL_SIZE),
            older: false,
            ..Self::unknown(limit)
        }
    }

    /// The table of a connection that is seen from somewhere in the middle.
    pub(crate) fn unknown(limit: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: Vec::new(),
            base: 0,
            size: 0,
            maximum: None,
            limit,
            older: true,
        }
    }

    /// A block was missed: nothing is certain any more.
    pub(crate) fn desynchronise(&mut self) {
        self.clear();
        self.maximum = None;
        self.older = true;
    }

    /// The peer changes the maximum size (RFC 7541 section 6.3).
    pub(crate) fn resize(&mut self, maximum: usize) {
        self.maximum = Some(maximum);
        if maximum < ENTRY_OVERHEAD {
            // Not even an empty entry fits.
            self.clear();
            self.older = false;
        }
        self.evict(0);
    }

    /// Adds the newest entry; `None`: that part of it is unknown.
    pub(crate) fn insert(&mut self, name: Option<&[u8]>, value: Option<&[u8]>) {
        let (name_bytes, value_bytes) = (name.unwrap_or_default(), value.unwrap_or_default());
        let size = name_bytes.len() + value_bytes.len() + ENTRY_OVERHEAD;
        if self.maximum.is_some_and(|maximum| size > maximum) {
            // RFC 7541 section 4.4: it empties the table and is not inserted.
            self.clear();
            self.older = false;
            return;
        }
        if size > self.limit {
            // Inserted at the peer, too large for us.
            self.clear();
            self.older = true;
            return;
        }
        let (Ok(name_len), Ok(value_len)) =
            (name_bytes.len().try_into(), value_bytes.len().try_into())
        else {
            return self.desynchronise();
        };
        self.evict(size);
        let start = self.base + self.bytes.len() as u64;
        self.bytes.extend_from_slice(name_bytes);
        self.bytes.extend_from_slice(value_bytes);
        self.entries.push_back(Entry {
            start,
            name_len,
            value_len,
            name_known: name.is_some(),
            value_known: value.is_some(),
        });
        self.size += size;
    }

    /// The entry of an index that counts from zero, the newest entry.
    pub(crate) fn get(&self, index: usize) -> Lookup<'_> {
        let place = self.entries.len().checked_sub(index.saturating_add(1));
        let Some(entry) = place.and_then(|place| self.entries.get(place)) else {
            return if self.older {
                Lookup::Unknown
            } else {
                Lookup::Invalid
            };
        };
        let start = (entry.start - self.base) as usize;
        let bytes = self.bytes.get(start..start + entry.len());
        let (name, value) = bytes.unwrap_or_default().split_at(entry.name_len as usize);
        Lookup::Entry(
            entry.name_known.then_some(name),
            entry.value_known.then_some(value),
        )
    }

    /// The peer's maximum size, where it is known.
    pub(crate) fn maximum(&self) -> Option<usize> {
        self.maximum
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Makes room for `more`.
    fn evict(&mut self, more: usize) {
        let room = self
            .maximum
            .map_or(self.limit, |maximum| maximum.min(self.limit));
        while self.size + more > room {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.size -= entry.len() + ENTRY_OVERHEAD;
            // The peer evicted it too, and with it all that is older, only if it had to.
            self.older = self.maximum.is_none_or(|maximum| maximum > self.limit);
        }
        let first = self.entries.front().map(|entry| entry.start - self.base);
        let dead = first.map_or(self.bytes.len(), |dead| dead as usize);
        if dead > self.bytes.len() / 2 {
            self.bytes.drain(..dead);
            self.base += dead as u64;
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.base += self.bytes.len() as u64;
        self.bytes.clear();
        self.size = 0;
    }
}

impl Entry {
    fn len(&self) -> usize {
        self.name_len as usize + self.value_len as usize
    }
}

/// What an entry counts beside its bytes (RFC 7541 section 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// The maximum size before any update: the initial SETTINGS_HEADER_TABLE_SIZE (RFC 9113 section
/// 6.5.2).
pub(crate) const INITIAL_SIZE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const A: Lookup<'_> = Lookup::Entry(Some(b"a"), Some(b"1"));
    const B: Lookup<'_> = Lookup::Entry(Some(b"b"), Some(b"2"));

    fn put(table: &mut Table, name: &str, value: &str) {
        table.insert(Some(name.as_bytes()), Some(value.as_bytes()));
    }

    #[test]
    fn indices_count_from_the_newest() {
        let mut table = Table::fresh(1 << 16);
        assert_eq!(table.get(0), Lookup::Invalid);
        put(&mut table, "a", "1");
        put(&mut table, "b", "2");
        assert_eq!((table.get(0), table.get(1)), (B, A));
        assert_eq!(table.get(2), Lookup::Invalid);
        assert_eq!(table.get(usize::MAX - 1), Lookup::Invalid);
    }

    #[test]
    fn what_predates_us_is_unknown_until_it_must_be_gone() {
        let mut table = Table::unknown(1 << 16);
        put(&mut table, "a", "1");
        assert_eq!((table.get(0), table.get(1)), (A, Lookup::Unknown));
        // 34 of 68: older entries may be there, but not once a known one had to go.
        table.resize(68);
        assert_eq!((table.get(0), table.get(1)), (A, Lookup::Unknown));
        put(&mut table, "a", "1");
        put(&mut table, "b", "2");
        assert_eq!((table.get(0), table.get(1)), (B, A));
        assert_eq!(table.get(2), Lookup::Invalid);
    }

    #[test]
    fn an_update_to_zero_is_a_clean_start() {
        let mut table = Table::unknown(1 << 16);
        table.resize(0);
        assert_eq!(table.get(0), Lookup::Invalid);
        put(&mut table, "a", "1");
        assert_eq!(table.get(0), Lookup::Invalid);
        table.resize(4096);
        put(&mut table, "a", "1");
        assert_eq!((table.get(0), table.get(1)), (A, Lookup::Invalid));
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut table = Table::fresh(1 << 16);
        table.resize(70);
        put(&mut table, "a", "1");
        put(&mut table, "a", &"x".repeat(40));
        assert_eq!(table.get(0), Lookup::Invalid);
    }

    #[test]
    fn our_limit_makes_entries_unknown_not_absent() {
        let mut table = Table::fresh(70);
        put(&mut table, "a", "1");
        put(&mut table, "b", "2");
        put(&mut table, "a", "1");
        assert_eq!((table.get(0), table.get(1)), (A, B));
        assert_eq!(table.get(2), Lookup::Unknown);
        put(&mut table, "a", &"x".repeat(40));
        assert_eq!(table.get(0), Lookup::Unknown);
    }

    #[test]
    fn unknown_parts_stay_unknown() {
        let mut table = Table::unknown(1 << 16);
        table.insert(None, Some(b"1"));
        table.insert(Some(b"b"), None);
        assert_eq!(table.get(0), Lookup::Entry(Some(b"b"), None));
        assert_eq!(table.get(1), Lookup::Entry(None, Some(b"1")));
    }

    #[test]
    fn memory_does_not_grow_with_insertions() {
        let mut table = Table::fresh(1 << 16);
        for i in 0..100_000 {
            put(&mut table, "name", &i.to_string());
        }
        assert!(table.memory() < 16 << 10, "{}", table.memory());
        assert_eq!(table.get(0), Lookup::Entry(Some(b"name"), Some(b"99999")));
        let held = 4096 / (32 + 9);
        assert_eq!(
            table.get(held - 1),
            Lookup::Entry(Some(b"name"), Some((100_000 - held).to_string().as_bytes()))
        );
        assert_eq!(table.get(held), Lookup::Invalid);
    }
}
