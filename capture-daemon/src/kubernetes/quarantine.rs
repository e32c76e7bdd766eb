//! Traffic of pods that nothing is known of yet, held until it is known whether it is recorded.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tapedeck_model::{BodyPart, Connection, Exchange, Message, UnreadConnection};

/// What is held at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// How long: an API server tells of a pod well before it speaks, or soon after.
    pub time: Duration,
    /// How many bytes: what the pods that started last may have said by then.
    pub bytes: usize,
}

/// Something that is held.
#[derive(Debug)]
pub enum Held {
    /// An exchange, with what went ahead of it.
    Exchange(Box<Exchange>, Vec<BodyPart>),
    /// A connection that could not be read.
    Unread(Box<UnreadConnection>),
}

impl Held {
    /// The connection that it is about.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        match self {
            Self::Exchange(exchange, _) => &exchange.connection,
            Self::Unread(unread) => &unread.connection,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Exchange(exchange, parts) => {
                let messages = [&exchange.request, &exchange.response];
                let messages = messages.into_iter().flatten().map(message_len);
                let parts = parts.iter().map(|part| part.data.len());
                size_of::<Exchange>() + messages.sum::<usize>() + parts.sum::<usize>()
            }
            Self::Unread(_) => size_of::<UnreadConnection>() + size_of::<Connection>(),
        }
    }
}

fn message_len(message: &Message) -> usize {
    let heads = [&message.head, &message.trailers].into_iter().flatten();
    heads.map(|head| head.raw.len()).sum::<usize>() + message.body.tail.len()
}

/// Holds traffic of unknown pods, the oldest first.
#[derive(Debug)]
pub struct Quarantine {
    limits: Limits,
    held: VecDeque<(Instant, Held)>,
    bytes: usize,
    /// Bytes that are held elsewhere and count here: parts of exchanges that are not over.
    apart: usize,
}

impl Quarantine {
    /// An empty one.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            held: VecDeque::new(),
            bytes: 0,
            apart: 0,
        }
    }

    /// Holds something. `false`: there is no room for it.
    #[must_use]
    pub fn hold(&mut self, now: Instant, held: Held) -> bool {
        let len = held.len();
        if !self.has_room(len) {
            return false;
        }
        self.bytes += len;
        self.held.push_back((now, held));
        true
    }

    /// Counts bytes that are held elsewhere. `false`: there is no room for them.
    #[must_use]
    pub const fn hold_apart(&mut self, len: usize) -> bool {
        if !self.has_room(len) {
            return false;
        }
        self.apart += len;
        true
    }

    /// Those are no longer held.
    pub const fn release_apart(&mut self, len: usize) {
        self.apart = self.apart.saturating_sub(len);
    }

    const fn has_room(&self, len: usize) -> bool {
        self.bytes + self.apart + len <= self.limits.bytes
    }

    /// Hands out what need not be held any longer: what is known by now, and what was held for the
    /// whole time, of which the flag says so.
    pub fn release(
        &mut self,
        now: Instant,
        mut is_known: impl FnMut(&Connection) -> bool,
    ) -> Vec<(Held, bool)> {
        let mut released = Vec::new();
        let mut kept = VecDeque::with_capacity(self.held.len());
        for (at, held) in self.held.drain(..) {
            let is_over = now.saturating_duration_since(at) >= self.limits.time;
            if is_known(held.connection()) {
                released.push((held, false));
            } else if is_over {
                released.push((held, true));
            } else {
                kept.push_back((at, held));
            }
        }
        self.held = kept;
        for (held, _) in &released {
            self.bytes = self.bytes.saturating_sub(held.len());
        }
        released
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tapedeck_model::{
        ConnectionId, Endpoint, Origin, PerDirection, Scope, Timestamp, Unread, Workloads,
    };

    use super::*;

    fn unread(id: u64) -> Held {
        let endpoint = Endpoint::new([10, 0, 0, 1].into(), 80);
        Held::Unread(Box::new(UnreadConnection {
            connection: Arc::new(Connection {
                id: ConnectionId(id),
                client: endpoint,
                server: endpoint,
                scope: Scope(0),
                origin: Origin::Handshake,
                opened: Timestamp::EPOCH,
                tls: None,
                workloads: Workloads::default(),
            }),
            last_byte: Timestamp::EPOCH,
            bytes: PerDirection::default(),
            reason: Unread::NoKeys,
        }))
    }

    fn ids(released: &[(Held, bool)]) -> Vec<(u64, bool)> {
        let id = |held: &Held| held.connection().id.0;
        released
            .iter()
            .map(|(held, is_over)| (id(held), *is_over))
            .collect()
    }

    #[test]
    fn what_is_known_or_old_is_released_in_order() {
        let limits = Limits {
            time: Duration::from_secs(10),
            bytes: 1 << 20,
        };
        let mut quarantine = Quarantine::new(limits);
        let start = Instant::now();
        for id in 0..6 {
            assert!(quarantine.hold(start + Duration::from_secs(id), unread(id)));
        }
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(ids(&quarantine.release(at(6), |_| false)), []);
        let known = |of: &Connection| of.id.0 == 3;
        assert_eq!(ids(&quarantine.release(at(6), known)), [(3, false)]);
        assert_eq!(
            ids(&quarantine.release(at(11), |_| false)),
            [(0, true), (1, true)]
        );
        // What is known at the last moment is known.
        let rest = quarantine.release(at(60), |of| of.id.0 == 5);
        assert_eq!(ids(&rest), [(2, true), (4, true), (5, false)]);
        assert!(quarantine.is_empty());
        assert_eq!(quarantine.bytes, 0);
    }

    #[test]
    fn there_is_room_for_so_much_and_again_when_it_was_released() {
        let one = unread(0).len();
        let mut quarantine = Quarantine::new(Limits {
            time: Duration::ZERO,
            bytes: 3 * one,
        });
        let now = Instant::now();
        assert!(quarantine.hold_apart(one));
        assert!(quarantine.hold(now, unread(0)) && quarantine.hold(now, unread(1)));
        assert!(!quarantine.hold(now, unread(2)) && !quarantine.hold_apart(1));
        quarantine.release_apart(one);
        assert!(quarantine.hold(now, unread(2)));
        assert_eq!(quarantine.release(now, |_| false).len(), 3);
        assert!(quarantine.hold_apart(3 * one));
    }
}
