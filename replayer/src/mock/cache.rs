//! Answers kept ready, up to a bound of memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::answer::Answer;

/// Keeps the answers that were asked for last. In shards, so that threads seldom meet; in each, a
/// queue with a second chance (CLOCK): a hit costs one flag, not a move in a list.
#[derive(Debug)]
pub(crate) struct Cache {
    shards: Vec<Mutex<Shard>>,
    /// Bytes of one shard.
    capacity: usize,
}

#[derive(Debug, Default)]
struct Shard {
    slots: HashMap<u32, Slot>,
    /// Every key of `slots`, once.
    queue: VecDeque<u32>,
    bytes: usize,
}

#[derive(Debug)]
struct Slot {
    answer: Arc<Answer>,
    weight: usize,
    used: bool,
}

impl Cache {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            capacity: bytes / SHARDS,
        }
    }

    pub(crate) fn get(&self, id: u32) -> Option<Arc<Answer>> {
        let mut shard = self.shard(id)?;
        let slot = shard.slots.get_mut(&id)?;
        slot.used = true;
        Some(Arc::clone(&slot.answer))
    }

    /// Keeps an answer, at the price of others. One that would take a quarter of its shard is not
    /// kept.
    pub(crate) fn insert(&self, id: u32, answer: &Arc<Answer>) {
        let weight = answer.weight();
        if weight > self.capacity / 4 {
            return;
        }
        let Some(mut shard) = self.shard(id) else {
            return;
        };
        shard.make_room(weight, self.capacity);
        shard.keep(id, answer, weight);
    }

    /// Keeps an answer where nothing must go for it. `false`: there is no room.
    pub(crate) fn offer(&self, id: u32, answer: &Arc<Answer>) -> bool {
        let Some(mut shard) = self.shard(id) else {
            return false;
        };
        let weight = answer.weight();
        if weight > self.capacity / 4 {
            return true;
        }
        let room = shard.bytes + weight <= self.capacity;
        if room {
            shard.keep(id, answer, weight);
        }
        room
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).bytes).sum()
    }

    fn shard(&self, id: u32) -> Option<MutexGuard<'_, Shard>> {
        self.shards.get(id as usize % SHARDS).map(lock)
    }
}

impl Shard {
    fn keep(&mut self, id: u32, answer: &Arc<Answer>, weight: usize) {
        // Two threads may have read it at once.
        if self.slots.contains_key(&id) {
            return;
        }
        self.bytes += weight;
        self.queue.push_back(id);
        let slot = Slot {
            answer: Arc::clone(answer),
            weight,
            used: false,
        };
        self.slots.insert(id, slot);
    }

    fn make_room(&mut self, weight: usize, capacity: usize) {
        while self.bytes + weight > capacity {
            let Some(id) = self.queue.pop_front() else {
                return;
            };
            let Some(slot) = self.slots.get_mut(&id) else {
                continue;
            };
            if slot.used {
                slot.used = false;
                self.queue.push_back(id);
            } else {
                self.bytes -= slot.weight;
                self.slots.remove(&id);
            }
        }
    }
}

/// A shard is consistent between any two statements that could panic.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::super::answer::Recording;
    use super::*;

    fn answer(len: usize) -> Arc<Answer> {
        let body = vec![b'x'; len];
        let recording = Recording {
            status: 200,
            body: &body,
            ..Recording::default()
        };
        Arc::new(Answer::compose(&recording).unwrap())
    }

    #[test]
    fn it_stays_within_its_bound_and_keeps_what_is_used() {
        let cache = Cache::new(SHARDS * 20_000);
        let small = answer(1000);
        cache.insert(0, &small);
        for n in 1..1000 {
            assert!(cache.get(0).is_some(), "evicted before {n}");
            cache.insert(n, &small);
            assert!(cache.bytes() <= SHARDS * 20_000);
        }
        assert!(cache.get(1).is_none());
        assert!(cache.get(999).is_some());
        cache.insert(1000, &answer(6000));
        assert!(cache.get(1000).is_none(), "too large to keep");
        // What is only offered takes nobody's place.
        assert!(!cache.offer(1001, &small));
        assert!(cache.get(999).is_some() && cache.get(1001).is_none());
        assert!(Cache::new(SHARDS * 20_000).offer(1, &small));
    }
}
