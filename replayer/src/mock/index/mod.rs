//! The index: from a request to the recorded exchange that answers it, in one lookup.
//!
//! Requests that mean the same ([`fingerprint`]) have one key. A key leads to a *sequence*: its
//! exchanges in recorded order and a cursor, since a repeated request walks through its recorded
//! answers.
//!
//! Where a request was recorded several times, by several users, each user's own answers are a
//! sequence of their own: who asks with a recorded Authorization (or else Cookie) field, or with
//! none where that was recorded, walks through those. Everybody else walks through all of them.
//!
//! An archive may hold several services. Then each exchange is found under its own authority and
//! under "any": a request that names a recorded authority is answered by that one only, every other
//! request (to `127.0.0.1:9000`, where the mock listens) by whichever was recorded first.
//!
//! Where a request has a [rule](Rules), its exchange is found under what the rule leaves of it, too. That
//! is looked at when no equal request was recorded. Numbers that may differ by a distance are kept
//! beside, in order; the nearest within reach answers.
//!
//! Cost: about 90 bytes a distinct exchange, twice that with several authorities.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};

use super::call::{Call, normal_authority};
use super::fingerprint::{self, Loose, Number};
use super::options::Repeat;
use super::rules::Rules;

/// Finds exchanges by what was asked.
pub(crate) struct Index {
    rules: Rules,
    repeat: Repeat,
    /// Chosen at random, so that nobody can prepare an archive or requests whose keys collide.
    seed: u64,
    /// Empty when the archive holds one authority or none.
    authorities: BTreeMap<Vec<u8>, u32>,
    keys: HashMap<Key, u32, BuildHasherDefault<KeyHasher>>,
    /// Where calls that are answered before they are whole can be known by their beginning: by what their
    /// head asks, the lengths of what they begin with, in order.
    openings: HashMap<Key, Vec<usize>, BuildHasherDefault<KeyHasher>>,
    /// Of keys that leave numbers out: what was recorded for them, by the first number, and the key of each.
    near: Near,
    sequences: Vec<Sequence>,
    /// Exchange ids; each sequence owns a range.
    members: Vec<u32>,
    /// Path hash and exchange, sorted: for the explanation of misses only.
    by_path: Vec<(u32, u32)>,
}

/// Numbers that were recorded, and the key of each.
type Near = HashMap<Key, Vec<(Vec<f64>, Key)>, BuildHasherDefault<KeyHasher>>;

/// What a lookup gave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Found {
    /// The exchange that answers.
    Exchange(u32),
    /// It was recorded, but all its answers were given ([`Repeat::Fail`]).
    UsedUp {
        /// How many there were.
        recorded: u32,
    },
    /// Nothing like it was recorded.
    Nothing,
}

impl Index {
    /// The exchange that answers this call; moves the cursor of its sequence.
    pub(crate) fn find(&self, call: &Call<'_>) -> Found {
        match self.locate(call) {
            Some((key, sequence)) => self.walk(call, key, sequence),
            None => Found::Nothing,
        }
    }

    /// How much of a call's body has to be there for [`Index::opening`], in order; empty where no recorded
    /// call was answered before it was whole.
    pub(crate) fn openings(&self, call: &Call<'_>) -> &[usize] {
        if self.openings.is_empty() {
            return &[];
        }
        let key = Parts::of_opening(call, None, &self.rules).key(ANY_AUTHORITY, self.seed);
        self.openings.get(&key).map_or(&[], Vec::as_slice)
    }

    /// How many exchanges answer a call that begins so.
    pub(crate) fn opening(&self, call: &Call<'_>) -> usize {
        self.locate_opening(call)
            .map_or(0, |(_, sequence)| sequence.len as usize)
    }

    /// The exchange that answers a call that begins so; moves the cursor of its sequence.
    pub(crate) fn find_opening(&self, call: &Call<'_>) -> Found {
        match self.locate_opening(call) {
            Some((key, sequence)) => self.walk(call, key, sequence),
            None => Found::Nothing,
        }
    }

    fn locate_opening(&self, call: &Call<'_>) -> Option<(Key, &Sequence)> {
        let parts = Parts::of_opening(call, Some(call.body), &self.rules);
        let key = self.key(self.authority(call), &parts);
        Some((key, self.sequence(key)?))
    }

    /// Whether it is sure, whatever the body, that nothing recorded answers this call.
    pub(crate) fn is_unknown(&self, call: &Call<'_>) -> bool {
        self.with_path(call.split().path).next().is_none() && self.rules.of_call(call).is_none()
    }

    fn walk<'i>(&'i self, call: &Call<'_>, key: Key, mut sequence: &'i Sequence) -> Found {
        if sequence.len > 1 {
            let session = call.session.map_or(NO_SESSION, fingerprint::session);
            let own = self.sequence(key.of_session(session, self.seed));
            sequence = own.unwrap_or(sequence);
        }
        let members = self.members(sequence);
        let at = sequence.advance(self.repeat);
        match members.get(at as usize) {
            Some(id) => Found::Exchange(*id),
            None => Found::UsedUp {
                recorded: sequence.len,
            },
        }
    }

    /// The exchange that would answer this call. Nothing moves on by that.
    pub(crate) fn peek(&self, call: &Call<'_>) -> Option<u32> {
        let (key, mut sequence) = self.locate(call)?;
        if sequence.len > 1 {
            let session = call.session.map_or(NO_SESSION, fingerprint::session);
            let own = self.sequence(key.of_session(session, self.seed));
            sequence = own.unwrap_or(sequence);
        }
        let at = sequence.next.load(Ordering::Relaxed).min(sequence.len - 1);
        self.members(sequence).get(at as usize).copied()
    }

    /// The first exchange whose request equals this one and that is `free`. Each is given once: the
    /// sequence moves on, whatever [`Repeat`] says.
    pub(crate) fn take_equal(&self, call: &Call<'_>, free: &dyn Fn(u32) -> bool) -> Option<u32> {
        let (parts, authority) = self.parts(call);
        self.take(self.sequence(self.key(authority, &parts))?, free)
    }

    /// The same of exchanges whose requests are equal by the rules.
    pub(crate) fn take_allowed(&self, call: &Call<'_>, free: &dyn Fn(u32) -> bool) -> Option<u32> {
        let key = self.loose_key(call, self.authority(call))?;
        self.take(self.sequence(key)?, free)
    }

    fn take(&self, sequence: &Sequence, free: &dyn Fn(u32) -> bool) -> Option<u32> {
        let members = self.members(sequence);
        loop {
            let id = *members.get(sequence.advance(Repeat::Fail) as usize)?;
            if free(id) {
                return Some(id);
            }
        }
    }

    /// How many exchanges have a request that equals this one.
    pub(crate) fn recorded(&self, call: &Call<'_>) -> u64 {
        let (parts, authority) = self.parts(call);
        let sequence = self.sequence(self.key(authority, &parts));
        sequence.map_or(0, |sequence| sequence.len.into())
    }

    /// The exchanges recorded for this path, in no order that matters.
    pub(crate) fn with_path(&self, path: &[u8]) -> impl Iterator<Item = u32> {
        let hash = short(fingerprint::path(path));
        let from = self.by_path.partition_point(|(other, _)| *other < hash);
        self.by_path
            .get(from..)
            .unwrap_or_default()
            .iter()
            .take_while(move |(other, _)| *other == hash)
            .map(|(_, id)| *id)
    }

    /// All exchanges, in recorded order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        let mut ids: Vec<_> = self.by_path.iter().map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids.into_iter()
    }

    /// Repeated requests begin anew with their first recorded answer.
    pub(crate) fn reset(&self) {
        for sequence in &self.sequences {
            sequence.next.store(0, Ordering::Relaxed);
        }
    }

    /// How many exchanges can answer.
    pub(crate) const fn len(&self) -> usize {
        self.by_path.len()
    }

    /// One exchange of each path.
    pub(crate) fn one_per_path(&self) -> impl Iterator<Item = u32> {
        self.by_path
            .chunk_by(|(a, _), (b, _)| a == b)
            .filter_map(|same| same.first())
            .map(|(_, id)| *id)
    }

    /// Whether a recorded request matches this one. Nothing moves on by that.
    pub(crate) fn holds(&self, call: &Call<'_>) -> bool {
        self.locate(call).is_some()
    }

    /// Whether the archive holds several authorities and this is one of them.
    pub(crate) fn names_recorded(&self, authority: &[u8]) -> bool {
        !self.authorities.is_empty() && self.authorities.contains_key(&normal_authority(authority))
    }

    /// What is left out when requests are compared.
    pub(crate) const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// A name for what a call asks: equal for calls that mean the same.
    pub(crate) fn identity(&self, call: &Call<'_>) -> u128 {
        let (parts, authority) = self.parts(call);
        let Key(high, low) = self.key(authority, &parts);
        u128::from(high) << 64 | u128::from(low)
    }

    /// The sequence that answers: that of an equal request, or else one that the rules allow.
    fn locate(&self, call: &Call<'_>) -> Option<(Key, &Sequence)> {
        let (parts, authority) = self.parts(call);
        let key = self.key(authority, &parts);
        if let Some(sequence) = self.sequence(key) {
            return Some((key, sequence));
        }
        let key = self.loose_key(call, authority)?;
        Some((key, self.sequence(key)?))
    }

    /// The key of what the rule of a call leaves of it.
    fn loose_key(&self, call: &Call<'_>, authority: u32) -> Option<Key> {
        let rule = self.rules.of_call(call)?;
        let loose = Loose::of(call, rule);
        let authority = if rule.any_authority {
            ANY_AUTHORITY
        } else {
            authority
        };
        let key = Key::of_loose(loose.hash, authority, self.seed);
        if loose.numbers.is_empty() {
            return Some(key);
        }
        nearest(self.near.get(&key)?, &loose.numbers)
    }

    fn sequence(&self, key: Key) -> Option<&Sequence> {
        self.sequences.get(*self.keys.get(&key)? as usize)
    }

    fn members(&self, sequence: &Sequence) -> &[u32] {
        self.members.get(sequence.range()).unwrap_or_default()
    }

    fn parts(&self, call: &Call<'_>) -> (Parts, u32) {
        (Parts::of(call, &self.rules), self.authority(call))
    }

    /// The recorded authority that a call names.
    fn authority(&self, call: &Call<'_>) -> u32 {
        // The usual archive holds one service: no authority is even looked at.
        if self.authorities.is_empty() {
            return ANY_AUTHORITY;
        }
        let target = call.split();
        let authority = target
            .authority
            .and_then(|authority| self.authorities.get(&normal_authority(authority)));
        authority.copied().unwrap_or(ANY_AUTHORITY)
    }

    fn key(&self, authority: u32, parts: &Parts) -> Key {
        parts.key(authority, self.seed)
    }
}

/// Collects exchanges for an [`Index`].
pub(crate) struct Builder {
    rules: Rules,
    repeat: Repeat,
    seed: u64,
    authorities: BTreeMap<Vec<u8>, u32>,
    entries: Vec<(Key, u32)>,
    openings: HashMap<Key, Vec<usize>, BuildHasherDefault<KeyHasher>>,
    near: Near,
    by_path: Vec<(u32, u32)>,
}

impl Builder {
    /// A builder for an archive with these authorities; all must be named before the first
    /// [`Builder::add`].
    pub(crate) fn new<'a>(
        rules: Rules,
        repeat: Repeat,
        authorities: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        let mut numbers = BTreeMap::new();
        // The same few authorities come a million times: do not normalise each.
        let mut last: Option<&[u8]> = None;
        for authority in authorities {
            if last != Some(authority) {
                last = Some(authority);
                let next = u32::try_from(numbers.len()).unwrap_or(ANY_AUTHORITY);
                numbers.entry(normal_authority(authority)).or_insert(next);
            }
        }
        if numbers.len() < 2 {
            numbers.clear();
        }
        Self {
            rules,
            repeat,
            seed: RandomState::new().hash_one(0_u8),
            authorities: numbers,
            entries: Vec::new(),
            openings: HashMap::default(),
            near: HashMap::default(),
            by_path: Vec::new(),
        }
    }

    /// Adds the exchange that answers this call. Exchanges come in recorded order.
    pub(crate) fn add(&mut self, id: u32, call: &Call<'_>) {
        let parts = Parts::of(call, &self.rules);
        let authority = self.authority(call);
        if let Some(authority) = authority {
            self.entries.push((parts.key(authority, self.seed), id));
        }
        self.entries.push((parts.key(ANY_AUTHORITY, self.seed), id));
        self.by_path.push((short(parts.path), id));
        self.add_loose(id, call, authority);
    }

    /// Lets the exchange answer calls whose body begins with so many bytes of that of this one, too.
    pub(crate) fn add_opening(&mut self, id: u32, call: &Call<'_>, len: usize) {
        let head = Parts::of_opening(call, None, &self.rules).key(ANY_AUTHORITY, self.seed);
        let lens = self.openings.entry(head).or_default();
        if let Err(at) = lens.binary_search(&len) {
            if lens.len() >= MAX_OPENINGS {
                // It answers calls that are whole.
                return;
            }
            lens.insert(at, len);
        }
        let opening = call.body.get(..len).unwrap_or_default();
        let parts = Parts::of_opening(call, Some(opening), &self.rules);
        for authority in self.authority(call).into_iter().chain([ANY_AUTHORITY]) {
            self.entries.push((parts.key(authority, self.seed), id));
        }
    }

    /// The number of the authority that a call names, where there are several.
    fn authority(&self, call: &Call<'_>) -> Option<u32> {
        if self.authorities.is_empty() {
            return None;
        }
        let authority = normal_authority(call.split().authority?);
        self.authorities.get(&authority).copied()
    }

    /// Adds it under what its rule leaves of it.
    fn add_loose(&mut self, id: u32, call: &Call<'_>, authority: Option<u32>) {
        let Some(rule) = self.rules.of_call(call) else {
            return;
        };
        let loose = Loose::of(call, rule);
        for authority in authority.into_iter().chain([ANY_AUTHORITY]) {
            let mut key = Key::of_loose(loose.hash, authority, self.seed);
            if !loose.numbers.is_empty() {
                let values: Vec<f64> = loose.numbers.iter().map(|number| number.value).collect();
                let exact = key.of_numbers(&values, self.seed);
                self.near.entry(key).or_default().push((values, exact));
                key = exact;
            }
            self.entries.push((key, id));
        }
    }

    /// The index of all that was added. `session` says who made a recorded request; it is asked
    /// about those only that were recorded several times, in recorded order.
    pub(crate) fn finish(mut self, session: impl FnMut(u32) -> Option<u128>) -> Index {
        self.entries.sort_unstable();
        self.add_sessions(session);
        self.by_path.sort_unstable();
        self.by_path.shrink_to_fit();
        for recorded in self.near.values_mut() {
            recorded.sort_by(|(a, _), (b, _)| compare_numbers(a, b));
            recorded.dedup_by_key(|(_, key)| *key);
            recorded.shrink_to_fit();
        }
        let distinct = self.entries.chunk_by(|(a, _), (b, _)| a == b).count();
        let mut keys = HashMap::with_capacity_and_hasher(distinct, BuildHasherDefault::default());
        let mut sequences = Vec::with_capacity(distinct);
        let mut members = Vec::with_capacity(self.entries.len());
        for same in self.entries.chunk_by(|(a, _), (b, _)| a == b) {
            let (Some((key, _)), start) = (same.first(), members.len()) else {
                continue;
            };
            members.extend(same.iter().map(|(_, id)| *id));
            // Ids are u32 and each stands here at most twice; the server refuses larger archives.
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            keys.insert(*key, number(sequences.len()));
            sequences.push(Sequence {
                start: number(start),
                len: number(same.len()),
                next: AtomicU32::new(0),
            });
        }
        Index {
            rules: self.rules,
            repeat: self.repeat,
            seed: self.seed,
            authorities: self.authorities,
            keys,
            openings: self.openings,
            near: self.near,
            sequences,
            members,
            by_path: self.by_path,
        }
    }
}

impl Builder {
    /// Gives every user of a request that several users made a key of their own.
    fn add_sessions(&mut self, mut session: impl FnMut(u32) -> Option<u128>) {
        let mut repeated: Vec<(u32, Key)> = self
            .entries
            .chunk_by(|(a, _), (b, _)| a == b)
            .filter(|same| same.len() > 1)
            .flatten()
            .map(|(key, id)| (*id, *key))
            .collect();
        // In recorded order each block of the archive is decompressed once.
        repeated.sort_unstable();
        let mut made: Vec<(Key, u128, u32)> = Vec::with_capacity(repeated.len());
        for same in repeated.chunk_by(|(a, _), (b, _)| a == b) {
            let Some((id, _)) = same.first() else {
                continue;
            };
            let session = session(*id).unwrap_or(NO_SESSION);
            made.extend(same.iter().map(|(id, key)| (*key, session, *id)));
        }
        made.sort_unstable();
        for same in made.chunk_by(|(a, ..), (b, ..)| a == b) {
            let several = same.first().map(|made| made.1) != same.last().map(|made| made.1);
            if several {
                let own = same
                    .iter()
                    .map(|(key, session, id)| (key.of_session(*session, self.seed), *id));
                self.entries.extend(own);
            }
        }
        self.entries.sort_unstable();
    }
}

fn compare_numbers(a: &[f64], b: &[f64]) -> std::cmp::Ordering {
    let pairs = a.iter().zip(b);
    let differs = pairs
        .map(|(a, b)| a.total_cmp(b))
        .find(|order| order.is_ne());
    differs.unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// The key of those recorded numbers that are nearest to the asked ones, if all of them are near
/// enough. Of equally near ones, the smaller.
fn nearest(recorded: &[(Vec<f64>, Key)], asked: &[Number]) -> Option<Key> {
    let first = asked.first()?;
    let (from, to) = (first.value - first.within, first.value + first.within);
    let first_of = |values: &[f64]| values.first().copied().unwrap_or(f64::NAN);
    let start = recorded.partition_point(|(values, _)| first_of(values) < from);
    let mut best: Option<(f64, Key)> = None;
    for (values, key) in recorded.get(start..).unwrap_or_default() {
        if first_of(values) > to {
            break;
        }
        let distances = values.iter().zip(asked).map(|(value, asked)| {
            let distance = (value - asked.value).abs();
            // In units of what is allowed. Equal is near enough even where nothing is.
            if distance == 0.0 {
                0.0
            } else {
                distance / asked.within
            }
        });
        let farthest = distances.fold(0.0, f64::max);
        let reachable = values.len() == asked.len() && farthest <= 1.0;
        if reachable && best.is_none_or(|(known, _)| farthest < known) {
            best = Some((farthest, *key));
        }
    }
    best.map(|(_, key)| key)
}

/// The exchanges of one key.
struct Sequence {
    start: u32,
    /// At least 1.
    len: u32,
    /// 0 <= next <= len; `len`: used up.
    next: AtomicU32,
}

impl Sequence {
    fn range(&self) -> Range<usize> {
        let start = self.start as usize;
        start..start.saturating_add(self.len as usize)
    }

    /// Which member answers now.
    fn advance(&self, repeat: Repeat) -> u32 {
        let last = self.len - 1;
        // Most requests were recorded once: no shared write for those.
        if last == 0 && repeat != Repeat::Fail {
            return 0;
        }
        let following = |at: u32| match repeat {
            Repeat::Last => (at < last).then_some(at + 1),
            Repeat::Cycle => Some(if at < last { at + 1 } else { 0 }),
            Repeat::Fail => (at <= last).then_some(at + 1),
        };
        match self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, following)
        {
            Ok(at) | Err(at) => at,
        }
    }
}

/// The hashes of the parts of a call.
struct Parts {
    method: u128,
    path: u128,
    query: u128,
    headers: u128,
    body: u128,
}

impl Parts {
    fn of(call: &Call<'_>, rules: &Rules) -> Self {
        let target = call.split();
        let rule = rules.of_call(call).filter(|rule| !rule.headers.is_empty());
        Self {
            // Methods are case-sensitive (RFC 9110 section 9.1).
            method: xxh3_128_with_seed(call.method, 0),
            path: fingerprint::path(target.path),
            query: fingerprint::query(target.query),
            headers: rule.map_or(0, |rule| fingerprint::headers(call, rule)),
            body: fingerprint::body(call.body, call.content_type),
        }
    }

    /// Those of a call whose body is only known to begin so; `None`: of its head alone.
    fn of_opening(call: &Call<'_>, opening: Option<&[u8]>, rules: &Rules) -> Self {
        let head = Call { body: b"", ..*call };
        Self {
            body: opening.map_or(NO_OPENING, fingerprint::opening),
            ..Self::of(&head, rules)
        }
    }

    fn key(&self, authority: u32, seed: u64) -> Key {
        let mut bytes = [0; 84];
        let parts = [self.method, self.path, self.query, self.headers, self.body];
        for (slot, part) in bytes.chunks_exact_mut(16).zip(parts) {
            slot.copy_from_slice(&part.to_le_bytes());
        }
        if let Some(slot) = bytes.last_chunk_mut() {
            *slot = authority.to_le_bytes();
        }
        let hash = xxh3_128_with_seed(&bytes, seed);
        Key((hash >> 64) as u64, hash as u64)
    }
}

/// The key of a sequence: two words rather than one u128, whose alignment would cost 8 bytes an
/// entry.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Key(u64, u64);

impl Key {
    /// The key of what a rule leaves of a call. (Parts and authority take 84 bytes: no accident makes
    /// it an exact one.)
    fn of_loose(hash: u128, authority: u32, seed: u64) -> Self {
        let mut bytes = [0; 20];
        let (first, second) = bytes.split_at_mut(16);
        first.copy_from_slice(&hash.to_le_bytes());
        second.copy_from_slice(&authority.to_le_bytes());
        let hash = xxh3_128_with_seed(&bytes, seed);
        Self((hash >> 64) as u64, hash as u64)
    }

    /// The key of one with these numbers.
    fn of_numbers(self, values: &[f64], seed: u64) -> Self {
        let mut hash = Xxh3::with_seed(seed);
        hash.update(&self.0.to_le_bytes());
        hash.update(&self.1.to_le_bytes());
        for value in values {
            hash.update(&value.to_bits().to_le_bytes());
        }
        let hash = hash.digest128();
        Self((hash >> 64) as u64, hash as u64)
    }

    /// The key of the same call, made by one user.
    fn of_session(self, session: u128, seed: u64) -> Self {
        let mut bytes = [0; 32];
        let words = [self.0, self.1, (session >> 64) as u64, session as u64];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let hash = xxh3_128_with_seed(&bytes, seed);
        Self((hash >> 64) as u64, hash as u64)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.1);
    }
}

/// A key is a seeded hash already.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(false, "only keys are hashed, as one word");
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// Enough of a path's hash to find it; whoever uses it compares the paths themselves.
const fn short(hash: u128) -> u32 {
    (hash >> 96) as u32
}

const ANY_AUTHORITY: u32 = u32::MAX;

/// What stands for the body in the key of a head alone: no hash by accident.
const NO_OPENING: u128 = 1;
/// Lengths of openings that are told apart for one path: at each, a call in the coming is looked up.
const MAX_OPENINGS: usize = 64;

/// Whoever does not say who they are is one user.
const NO_SESSION: u128 = 0;

#[cfg(test)]
mod tests;
