//! What is known of one direction of a connection.

use std::collections::VecDeque;

use tapedeck_model::{Direction, Gap, GapCause, Input, Timestamp};

use crate::Sink;
use crate::cipher::Opener;
use crate::key_log::Secret;
use crate::messages::Messages;
use crate::order::Ordered;
use crate::records::{Framing, Header};
use crate::session::Epoch;

/// One direction.
#[derive(Debug)]
pub(crate) struct Half {
    pub(crate) framing: Framing,
    pub(crate) epoch: Epoch,
    pub(crate) seq: u64,
    pub(crate) opener: Option<Opener>,
    /// The traffic secret of `opener` (TLS 1.3).
    pub(crate) secret: Option<Secret>,
    pub(crate) messages: Messages,
    /// What was lost and is not told yet.
    pub(crate) gap: Option<Lost>,
    /// Where in the stream the last record that opened ends, where no bytes in an unknown number
    /// were lost since.
    read_to: Option<u64>,
    /// Application data came in records with padding.
    padded: bool,
    /// How many records that may have been.
    pub(crate) lost: u64,
    /// A record is complete, and waits since then.
    pub(crate) waiting: Option<Timestamp>,
    /// What came behind it: the number of the input, when, what.
    pub(crate) held: VecDeque<(u64, Timestamp, Held)>,
    pub(crate) held_bytes: usize,
    /// TCP's direction has ended.
    pub(crate) ended: bool,
    /// That end, or `close_notify`, was handed on.
    pub(crate) over: bool,
    /// Plaintext was handed on.
    pub(crate) talked: bool,
    /// Bytes of the records that were read.
    pub(crate) read: u64,
}

/// Turns that one loss may span. More are told as losses of their own.
const MOST_TURNS: usize = 16;

/// Records that were lost, or may have been.
#[derive(Debug)]
pub(crate) struct Lost {
    /// The inputs at which that showed: several where the other direction said something in between.
    turns: Vec<(u64, Timestamp)>,
    cause: GapCause,
    /// Records were lost, for certain.
    records: bool,
    /// What those held; `None`: an unknown number of bytes.
    len: Option<u64>,
    /// No record has opened since.
    open: bool,
}

#[derive(Debug)]
pub(crate) enum Held {
    Data(Vec<u8>),
    Other(Input<'static>),
}

/// What an input that is held takes beside its bytes.
pub(crate) const HELD_INPUT: usize = size_of::<(u64, Timestamp, Direction, Held)>();

impl Half {
    pub(crate) fn new() -> Self {
        Self {
            framing: Framing::new(),
            epoch: Epoch::Plain,
            seq: 0,
            opener: None,
            secret: None,
            messages: Messages::default(),
            gap: None,
            read_to: None,
            padded: false,
            lost: 0,
            waiting: None,
            held: VecDeque::new(),
            held_bytes: 0,
            ended: false,
            over: false,
            talked: false,
            read: 0,
        }
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.framing.memory() + self.messages.memory() + self.held_bytes
    }

    /// The next record is under other keys.
    pub(crate) fn enter(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.seq = 0;
        self.opener = None;
        self.secret = None;
    }

    /// A record opened under this number, in the order of those before. `cost`: what a record adds
    /// to its content, where that is known.
    pub(crate) fn found(&mut self, seq: u64, record_len: usize, cost: Option<u64>) {
        let records = seq.saturating_sub(self.seq);
        let lost = self.lost_between(records, record_len, cost);
        self.opened(seq, records == 0, lost);
    }

    /// A record opened under another key. `whole`: nothing that was said is lost between it and the
    /// one before.
    pub(crate) fn found_elsewhere(&mut self, seq: u64, whole: bool) {
        self.opened(seq, whole, None);
    }

    fn opened(&mut self, seq: u64, whole: bool, lost: Option<u64>) {
        self.seq = seq.saturating_add(1);
        self.lost = 0;
        self.read_to = Some(self.framing.position());
        let Some(gap) = &mut self.gap else {
            return;
        };
        gap.open = false;
        if !whole {
            gap.records = true;
            gap.len = gap
                .len
                .zip(lost)
                .map(|(len, more)| len.saturating_add(more));
        }
        // What was lost before an earlier one stays lost until it is said.
        if !gap.records || gap.len == Some(0) {
            self.gap = None;
        }
    }

    /// What the records held that were lost before the one that ends here. In TLS 1.3 their
    /// types and padding are encrypted: it is known only where application data is under way, and is
    /// not padded. Tickets come before it.
    fn lost_between(&self, records: u64, record_len: usize, cost: Option<u64>) -> Option<u64> {
        if !self.talked || self.padded {
            return None;
        }
        let begin = self.framing.position().checked_sub(record_len as u64)?;
        let len = begin.checked_sub(self.read_to?)?;
        let cost = cost?.checked_add(Header::LEN as u64)?;
        let lost = len.checked_sub(cost.checked_mul(records)?)?;
        (lost <= records.saturating_mul(Header::MAX_CONTENT)).then_some(lost)
    }

    /// A record of application data added so many bytes to what it held.
    pub(crate) fn measure(&mut self, added: u64, cost: Option<u64>) {
        self.padded |= Some(added) != cost;
    }

    /// Bytes will not come.
    pub(crate) fn lose(
        &mut self,
        at: Timestamp,
        direction: Direction,
        gap: Gap,
        sink: &mut Ordered<'_, impl Sink>,
    ) {
        self.lost = self.lost.saturating_add(self.framing.gap(gap.len));
        if gap.len == 0 {
            self.read_to = None;
        }
        self.messages.reset();
        self.note(at, direction, gap.cause, sink);
    }

    /// A record did not open.
    pub(crate) fn lose_record(
        &mut self,
        at: Timestamp,
        direction: Direction,
        sink: &mut Ordered<'_, impl Sink>,
    ) {
        self.lost = self.lost.saturating_add(1);
        self.messages.reset();
        self.note(at, direction, GapCause::Lost, sink);
        if let Some(gap) = &mut self.gap {
            gap.records = true;
        }
    }

    /// Something was lost, and the other direction waits until it is known what.
    fn note(
        &mut self,
        at: Timestamp,
        direction: Direction,
        cause: GapCause,
        sink: &mut Ordered<'_, impl Sink>,
    ) {
        if self.over {
            return;
        }
        if self
            .gap
            .as_ref()
            .is_some_and(|gap| gap.turns.len() >= MOST_TURNS)
        {
            self.say_gap(direction, sink);
        }
        let now = sink.order.now;
        let gap = self.gap.get_or_insert_with(|| Lost {
            turns: vec![(now, at)],
            cause,
            records: false,
            len: Some(0),
            open: true,
        });
        gap.open = true;
        let last = gap.turns.last().map_or(now, |(last, _)| *last);
        if last < now && sink.order.may_have_spoken(!direction, last) {
            gap.turns.push((now, at));
        }
        let first = gap.turns.first().map(|(first, _)| *first);
        sink.order.gaps[direction] = first;
    }

    /// Nothing more will be read of it.
    pub(crate) fn stop(
        &mut self,
        at: Timestamp,
        direction: Direction,
        sink: &mut Ordered<'_, impl Sink>,
    ) {
        self.framing = Framing::new();
        self.opener = None;
        self.secret = None;
        self.held_bytes = 0;
        self.waiting = None;
        if self.talked {
            self.note(at, direction, GapCause::Limit, sink);
        } else {
            self.gap = None;
        }
    }

    pub(crate) fn hold(&mut self, number: u64, at: Timestamp, input: Input<'_>) {
        let held = Held::of(input);
        self.held_bytes += held.memory();
        self.held.push_back((number, at, held));
    }

    /// Tells what was lost, in its place among what the other direction says.
    pub(crate) fn say_gap(&mut self, direction: Direction, sink: &mut Ordered<'_, impl Sink>) {
        let Some(gap) = self.gap.take() else {
            return;
        };
        if gap.open {
            self.read_to = None;
        }
        let Lost { cause, turns, .. } = gap;
        let known = !gap.open && turns.len() == 1;
        let len = gap.len.filter(|_| known).unwrap_or(0);
        let now = sink.order.now;
        for (number, at) in turns {
            sink.order.now = number;
            sink.input(at, direction, Input::Gap(Gap { len, cause }));
        }
        sink.order.now = now;
        sink.order.gaps[direction] = None;
    }

    pub(crate) fn end(
        &mut self,
        at: Timestamp,
        direction: Direction,
        end: Input<'_>,
        sink: &mut Ordered<'_, impl Sink>,
    ) {
        if !self.over {
            self.say_gap(direction, sink);
            self.over = true;
            sink.input(at, direction, end);
        }
    }
}
