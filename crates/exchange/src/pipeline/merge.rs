//! The outputs of the workers in one order, with the ids that a single engine would give.

use std::collections::HashMap;
use std::sync::Arc;

use tapedeck_model::ConnectionId;

use super::worker::{Cause, Yield};
use crate::Recorder;
use crate::output::{KEY_BITS, Output};

/// Puts the yields of each batch together.
#[derive(Debug)]
pub(super) struct Merge {
    /// The connections that are open, by worker and its id.
    ids: HashMap<(usize, u64), u64>,
    next_id: u64,
    /// The next id of each worker.
    next_own: Vec<u64>,
}

impl Merge {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            ids: HashMap::new(),
            next_id: 0,
            next_own: vec![0; workers],
        }
    }

    /// Takes what each worker, in their order, made of one batch.
    pub(super) fn batch(&mut self, yields: Vec<Yield>, recorder: &mut impl Recorder) {
        let workers = yields.iter().enumerate();
        let mut opened: Vec<(u64, usize)> = workers
            .flat_map(|(worker, made)| made.opened.iter().map(move |ordinal| (*ordinal, worker)))
            .collect();
        opened.sort_unstable();
        for (_, worker) in opened {
            if let Some(own) = self.next_own.get_mut(worker) {
                self.ids.insert((worker, *own), self.next_id);
                self.next_id += 1;
                *own += 1;
            }
        }

        let mut outputs = Vec::with_capacity(yields.iter().map(|made| made.outputs.len()).sum());
        for (worker, made) in yields.into_iter().enumerate() {
            for (cause, mut output) in made.outputs {
                let id = self.rename(worker, &mut output);
                let among = match cause {
                    // Of one connection, in the order in which they came.
                    Cause::Segment(_) => 0,
                    Cause::Time(_) | Cause::End => id,
                };
                outputs.push((cause.rank(), among, output));
            }
            for ConnectionId(own) in made.closed {
                self.ids.remove(&(worker, own));
            }
        }
        // Stable: what belongs to one connection keeps its order.
        outputs.sort_by_key(|(rank, among, _)| (*rank, *among));
        for (_, _, output) in outputs {
            output.replay(recorder);
        }
    }

    /// Replaces the worker's id of the connection by that of all, which it returns.
    fn rename(&self, worker: usize, output: &mut Output) -> u64 {
        let own = output.connection();
        let id = self.ids.get(&(worker, own)).copied().unwrap_or(own);
        let rename = |key: &mut u64| *key = (id << KEY_BITS) | (*key & ((1 << KEY_BITS) - 1));
        match output {
            Output::BodyPart(part) => rename(&mut part.key),
            Output::Exchange(exchange) => {
                rename(&mut exchange.key);
                // Above the id of TCP's connection stands which tunnel of it this is.
                let connection = Arc::make_mut(&mut exchange.connection);
                connection.id = ConnectionId(connection.id.0 >> KEY_BITS << KEY_BITS | id);
            }
            Output::Unread(unread) => {
                let connection = Arc::make_mut(&mut unread.connection);
                connection.id = ConnectionId(connection.id.0 >> KEY_BITS << KEY_BITS | id);
            }
        }
        id
    }
}
