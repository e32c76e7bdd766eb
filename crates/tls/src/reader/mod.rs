//! Both directions of one connection.
//!
//! ```text
//!                 ServerHello, 1.3                Finished
//!   Plain ──┬───► Early ──► Handshake ──────────► Application ◄─┐
//!           │     (0-RTT, to the server)               │        │ KeyUpdate
//!           └────────── ChangeCipherSpec, 1.2 ─────────┘────────┘
//! ```
//!
//! Each direction walks through these epochs on its own. Where it needs to know what the other one
//! says, or a key that the log does not hold yet, it waits, and its input is held.

mod content;
mod opening;
mod record;

use std::sync::Arc;

use tapedeck_model::{Direction, Input, PerDirection, Timestamp, Tls, Unread};

use crate::Limits;
use crate::half::{HELD_INPUT, Half, Held};
use crate::key_log::Keys;
use crate::order::{Order, Ordered};
use crate::session::{Early, Epoch, Session};

/// Where a [`Reader`] puts the plaintext.
pub trait Sink {
    /// Told once, before the first plaintext: what the handshake came to.
    fn agreed(&mut self, _facts: &Tls) {}

    /// What comes next in one direction of the connection within TLS. Records that were lost are a
    /// gap; `close_notify` is a [`Fin`](Input::Fin). The time is that of the
    /// record's last byte.
    fn input(&mut self, at: Timestamp, direction: Direction, input: Input<'_>);
}

impl<F: FnMut(Timestamp, Direction, Input<'_>)> Sink for F {
    fn input(&mut self, at: Timestamp, direction: Direction, input: Input<'_>) {
        self(at, direction, input);
    }
}

/// Reads one TLS connection from its first byte on. See the [crate] for what it can read.
///
/// `ToServer` must be the direction of the ClientHello; [`probe`](crate::probe()) tells.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    keys: Arc<Keys>,
    session: Session,
    halves: PerDirection<Half>,
    /// The caller's scratch during a call, empty between calls.
    plain: Vec<u8>,
    closed: Option<Unread>,
    /// The sink was told.
    agreed: bool,
    order: Order,
    trial_bytes: u64,
}

impl Reader {
    /// A reader that has seen nothing.
    #[must_use]
    pub fn new(limits: Limits, keys: Arc<Keys>) -> Self {
        Self {
            limits,
            keys,
            session: Session::new(),
            halves: PerDirection {
                to_server: Half::new(),
                to_client: Half::new(),
            },
            plain: Vec::new(),
            closed: None,
            agreed: false,
            order: Order::default(),
            trial_bytes: 0,
        }
    }

    /// What the connection told of itself so far. Complete before the first plaintext comes out.
    #[must_use]
    pub const fn facts(&self) -> &Tls {
        &self.session.facts
    }

    /// Why it is closed to us, once it is.
    #[must_use]
    pub const fn closed(&self) -> Option<Unread> {
        self.closed
    }

    /// Bytes of the records of a direction that were read, headers and handshake included.
    #[must_use]
    pub fn bytes_read(&self, direction: Direction) -> u64 {
        self.halves[direction].read
    }

    /// Whether input is held until the other direction, or a key log, has said more.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.halves.to_server.waiting.is_some() || self.halves.to_client.waiting.is_some()
    }

    /// Bytes held.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.halves.to_server.memory() + self.halves.to_client.memory() + self.order.bytes
    }

    /// Reads what comes next in one direction. Records are opened in `scratch`, whose content does
    /// not matter; it is a parameter so that all readers can use the same memory.
    pub fn push(
        &mut self,
        at: Timestamp,
        direction: Direction,
        input: Input<'_>,
        scratch: &mut Vec<u8>,
        sink: &mut impl Sink,
    ) {
        let half = &mut self.halves[direction];
        let is_end = matches!(input, Input::Fin | Input::Reset | Input::Cut);
        half.ended |= is_end;
        let mut order = std::mem::take(&mut self.order);
        order.begin();
        let sink = &mut Ordered {
            order: &mut order,
            sink,
        };
        if self.closed.is_some() {
            if is_end {
                half.end(at, direction, input, sink);
            }
            self.order = order;
            return;
        }
        std::mem::swap(&mut self.plain, scratch);
        if let Err(closed) = self.try_push(at, direction, input, sink) {
            self.close(at, closed, sink);
        }
        self.order = order;
        std::mem::swap(&mut self.plain, scratch);
    }

    /// Does without what this reader holds, because the caller has no room for it; where it needs that,
    /// it stops reading.
    pub fn give_up(&mut self, at: Timestamp, sink: &mut impl Sink) {
        if self.closed.is_some() {
            return;
        }
        let mut order = std::mem::take(&mut self.order);
        let sink = &mut Ordered {
            order: &mut order,
            sink,
        };
        let held = sink.order.bytes;
        self.tell_gaps(sink);
        if self.is_waiting() || sink.order.bytes == held {
            let why = self.is_waiting().then(|| self.waits_for()).flatten();
            self.close(at, why.unwrap_or(Unread::Limit), sink);
        }
        self.order = order;
    }

    /// Tells what was lost although it is not known how much that was.
    fn tell_gaps(&mut self, sink: &mut Ordered<'_, impl Sink>) {
        for direction in Direction::BOTH {
            self.halves[direction].say_gap(direction, sink);
        }
        sink.flush();
    }

    fn try_push(
        &mut self,
        at: Timestamp,
        direction: Direction,
        input: Input<'_>,
        sink: &mut Ordered<'_, impl Sink>,
    ) -> Result<(), Unread> {
        let half = &mut self.halves[direction];
        if half.waiting.is_some() {
            half.hold(sink.order.now, at, input);
        } else {
            self.take(at, direction, input, sink)?;
        }
        // What one direction says may be what the other one waits for.
        for direction in [!direction, direction, !direction] {
            self.retry(direction, sink)?;
        }
        for direction in Direction::BOTH {
            if self.halves[direction].gap.is_none() {
                sink.order.gaps[direction] = None;
            }
        }
        sink.flush();
        if sink.order.bytes > self.limits.behind_gap {
            self.tell_gaps(sink);
        }
        let halves = [&self.halves.to_server, &self.halves.to_client];
        let most = halves[0].held_bytes.max(halves[1].held_bytes);
        if most.max(sink.order.bytes) > self.limits.held_bytes {
            return Err(self.waits_for().unwrap_or(Unread::Limit));
        }
        if halves.iter().all(|half| half.ended) && halves.iter().any(|half| half.waiting.is_some())
        {
            return Err(self.waits_for().unwrap_or(Unread::NoKeys));
        }
        Ok(())
    }

    /// Why a direction that waits will wait for ever, if nothing more comes.
    fn waits_for(&self) -> Option<Unread> {
        let PerDirection {
            to_server,
            to_client,
        } = &self.halves;
        let undecided = to_server.epoch == Epoch::Early && self.session.early == Early::Undecided;
        match self.session.facts.suite {
            None => Some(Unread::HandshakeNotSeen),
            Some(_) if to_client.waiting.is_some() => Some(Unread::NoKeys),
            Some(_) if to_server.waiting.is_some() && !undecided => Some(Unread::NoKeys),
            Some(_) => None,
        }
    }

    /// Reads an input; holds what cannot be read yet.
    fn take(
        &mut self,
        at: Timestamp,
        direction: Direction,
        input: Input<'_>,
        sink: &mut Ordered<'_, impl Sink>,
    ) -> Result<(), Unread> {
        let half = &mut self.halves[direction];
        match input {
            Input::Data(mut data) => {
                self.records(at, direction, &mut data, sink)?;
                if !data.is_empty() {
                    let half = &mut self.halves[direction];
                    half.held_bytes += HELD_INPUT + data.len();
                    let held = Held::Data(data.to_vec());
                    half.held.push_front((sink.order.now, at, held));
                }
            }
            Input::Gap(gap) => half.lose(at, direction, gap, sink),
            Input::Fin | Input::Reset | Input::Cut => half.end(at, direction, input, sink),
        }
        Ok(())
    }

    /// Goes on with a direction that waits.
    fn retry(
        &mut self,
        direction: Direction,
        sink: &mut Ordered<'_, impl Sink>,
    ) -> Result<(), Unread> {
        let Some(at) = self.halves[direction].waiting.take() else {
            return Ok(());
        };
        let now = sink.order.now;
        sink.order.now = sink.order.behind[direction].unwrap_or(now);
        self.records(at, direction, &mut &[][..], sink)?;
        while self.halves[direction].waiting.is_none() {
            let half = &mut self.halves[direction];
            let Some((number, at, held)) = half.held.pop_front() else {
                sink.order.behind[direction] = None;
                break;
            };
            half.held_bytes -= held.memory();
            sink.order.now = number;
            sink.order.behind[direction] = Some(number);
            self.take(at, direction, held.as_input(), sink)?;
        }
        sink.order.now = now;
        sink.flush();
        Ok(())
    }

    /// Nothing more can be read: ends what will not be ended otherwise.
    fn close(&mut self, at: Timestamp, closed: Unread, sink: &mut Ordered<'_, impl Sink>) {
        self.closed = Some(closed);
        for direction in Direction::BOTH {
            self.halves[direction].stop(at, direction, sink);
        }
        self.tell_gaps(sink);
        sink.release();
        for direction in Direction::BOTH {
            let half = &mut self.halves[direction];
            for (_, held_at, held) in std::mem::take(&mut half.held) {
                if let Held::Other(input @ (Input::Fin | Input::Reset | Input::Cut)) = held {
                    half.end(held_at.max(at), direction, input, sink);
                }
            }
        }
    }
}
