//! What is known of one direction of a connection.

use std::collections::VecDeque;

use tapedeck_model::{Direction, Gap, GapCause, Input, Timestamp};

use crate::Sink;
use crate::cipher::Opener;
use crate::key_log::Secret;
use crate::messages::Messages;
use crate::records::Framing;
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
    /// What was lost since the last record that opened.
    pub(crate) gap: Option<Gap>,
    /// Records were among it, for certain.
    pub(crate) lost_records: bool,
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
            lost_records: false,
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

    /// A record opened under this number; `whole`: nothing that was said is lost between it and the one
    /// before. What was lost before that one stays lost until it is said.
    pub(crate) fn found(&mut self, seq: u64, whole: bool) {
        self.seq = seq.saturating_add(1);
        self.lost = 0;
        self.lost_records |= !whole && self.gap.is_some();
        if !self.lost_records {
            self.gap = None;
        }
    }

    pub(crate) fn lose(&mut self, gap: Gap) {
        self.lost = self.lost.saturating_add(self.framing.gap(gap.len));
        self.messages.reset();
        self.gap.get_or_insert(Gap {
            len: 0,
            cause: gap.cause,
        });
    }

    /// A record did not open.
    pub(crate) fn lose_record(&mut self) {
        self.lost = self.lost.saturating_add(1);
        self.lost_records = true;
        self.messages.reset();
        self.gap.get_or_insert(Gap {
            len: 0,
            cause: GapCause::Lost,
        });
    }

    pub(crate) fn hold(&mut self, number: u64, at: Timestamp, input: Input<'_>) {
        let held = Held::of(input);
        self.held_bytes += held.memory();
        self.held.push_back((number, at, held));
    }

    pub(crate) fn say_gap(&mut self, at: Timestamp, direction: Direction, sink: &mut impl Sink) {
        self.lost_records = false;
        if let Some(gap) = self.gap.take() {
            sink.input(at, direction, Input::Gap(gap));
        }
    }

    pub(crate) fn end(
        &mut self,
        at: Timestamp,
        direction: Direction,
        end: Input<'_>,
        sink: &mut impl Sink,
    ) {
        if !self.over {
            self.say_gap(at, direction, sink);
            self.over = true;
            sink.input(at, direction, end);
        }
    }
}
