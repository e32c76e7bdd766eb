//! One thread's share of the connections.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use tapedeck_model::{BodyPart, ConnectionId, Exchange, Ledger, UnreadConnection};

use super::batch::Batch;
use crate::Recorder;
use crate::engine::Connections;
use crate::output::Output;

/// What a worker made of one batch. Connection ids are its own.
#[derive(Debug, Default)]
pub(super) struct Yield {
    /// The ordinals of the packets that opened connections: one each, in the order of the ids.
    pub(super) opened: Vec<u64>,
    pub(super) outputs: Vec<(Cause, Output)>,
    pub(super) closed: Vec<ConnectionId>,
    /// Of the whole capture; only behind the last batch.
    pub(super) ledger: Option<Ledger>,
}

/// Why something was put out. Their order is that of a single engine.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Cause {
    /// The time that this packet told.
    Time(u64),
    /// The segment that it carried.
    Segment(u64),
    /// The end of the capture.
    End,
}

impl Cause {
    /// Sorts by packet; time passes before a segment is read.
    pub(super) const fn rank(self) -> (u64, u8) {
        match self {
            Self::Time(ordinal) => (ordinal, 0),
            Self::Segment(ordinal) => (ordinal, 1),
            Self::End => (u64::MAX, 2),
        }
    }
}

/// Reads batches until there are no more, then ends what is open.
pub(super) fn run(
    worker: usize,
    mut connections: Connections,
    batches: &Receiver<Arc<Batch>>,
    yields: &SyncSender<Yield>,
) {
    connections.note_closed();
    while let Ok(batch) = batches.recv() {
        let mut tape = Tape::default();
        for (ordinal, at, segment) in batch.packets_of(worker) {
            if let Some(edition) = batch.edition_at(ordinal) {
                connections.advance(edition);
            }
            tape.cause = Some(Cause::Time(ordinal));
            connections.time(at, &mut tape);
            if let Some(segment) = segment {
                tape.cause = Some(Cause::Segment(ordinal));
                let before = connections.opened();
                connections.segment(&segment, &mut tape);
                if connections.opened() > before {
                    tape.made.opened.push(ordinal);
                }
            }
        }
        if let Some(edition) = batch.edition_at(u64::MAX) {
            connections.advance(edition);
        }
        tape.made.closed = connections.take_closed();
        // Before the yield: the driver uses the batch again when it has all of them.
        drop(batch);
        if yields.send(tape.made).is_err() {
            return;
        }
    }
    let mut tape = Tape {
        cause: Some(Cause::End),
        ..Tape::default()
    };
    connections.finish(&mut tape);
    tape.made.ledger = Some(connections.ledger());
    // A driver that is gone does not want it.
    drop(yields.send(tape.made));
}

#[derive(Default)]
struct Tape {
    cause: Option<Cause>,
    made: Yield,
}

impl Tape {
    fn push(&mut self, output: Output) {
        let cause = self.cause.unwrap_or(Cause::End);
        self.made.outputs.push((cause, output));
    }
}

impl Recorder for Tape {
    fn body_part(&mut self, part: &BodyPart) {
        self.push(Output::BodyPart(part.clone()));
    }

    fn exchange(&mut self, exchange: &Exchange) {
        self.push(Output::Exchange(Box::new(exchange.clone())));
    }

    fn unread(&mut self, connection: &UnreadConnection) {
        self.push(Output::Unread(Box::new(connection.clone())));
    }
}
