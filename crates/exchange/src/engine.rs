use tapedeck_model::{
    Anomaly, BodyPart, Connection, Direction, Exchange, Input, Ledger, Timestamp,
};
use tapedeck_packet::{Decoded, RawPacket, decode};
use tapedeck_reassembly::{Reassembler, Sink, Slot};

use crate::Limits;
use crate::builder::Shared;
use crate::connection::Analysis;

/// Where exchanges go.
///
/// The arguments are borrowed so that their buffers can be used again; a recorder that fails keeps
/// its first error and ignores the rest.
pub trait Recorder {
    /// Takes a piece of a long body; its exchange follows later. Parts of one message come in order.
    fn body_part(&mut self, part: &BodyPart);

    /// Takes an exchange that is over.
    fn exchange(&mut self, exchange: &Exchange);
}

/// Reads packets, and finds the exchanges in them. See the [crate] for the contract.
#[derive(Debug)]
pub struct Engine {
    reassembler: Reassembler,
    analyses: Analyses,
    /// The time of the latest packet.
    now: Timestamp,
}

/// The connections that are open, by slot, and what they share.
#[derive(Debug)]
struct Analyses {
    slots: Vec<Option<Box<Analysis>>>,
    shared: Shared,
}

impl Engine {
    /// An engine that has seen nothing.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            reassembler: Reassembler::new(limits.reassembly),
            analyses: Analyses {
                slots: Vec::new(),
                shared: Shared {
                    limits,
                    ledger: Ledger::default(),
                    body_memory: 0,
                    next_key: 0,
                },
            },
            now: Timestamp::EPOCH,
        }
    }

    /// Reads the next packet.
    pub fn packet(&mut self, packet: &RawPacket<'_>, recorder: &mut impl Recorder) {
        let ledger = &mut self.analyses.shared.ledger;
        ledger.packets_seen += 1;
        if (packet.data.len() as u64) < u64::from(packet.wire_len) {
            ledger.packets_truncated += 1;
        }
        self.now = self.now.max(packet.at);
        match decode(packet) {
            Decoded::Segment(segment) => {
                let mut sink = Recording {
                    analyses: &mut self.analyses,
                    recorder,
                };
                self.reassembler.push(&segment, &mut sink);
            }
            Decoded::NotTcp => ledger.packets_not_tcp += 1,
            Decoded::Fragment => ledger.packets_fragment += 1,
            Decoded::Undecodable(_) => ledger.packets_undecodable += 1,
        }
        if self
            .reassembler
            .poll_timeout()
            .is_some_and(|due| due <= self.now)
        {
            self.handle_timeout(self.now, recorder);
        }
    }

    /// Tells the time where no packet does: a live source calls this when it is quiet. `now` is on
    /// the packets' clock.
    pub fn handle_timeout(&mut self, now: Timestamp, recorder: &mut impl Recorder) {
        self.now = self.now.max(now);
        let mut sink = Recording {
            analyses: &mut self.analyses,
            recorder,
        };
        self.reassembler.handle_timeout(now, &mut sink);
    }

    /// The capture is over: ends everything that is open.
    pub fn finish(&mut self, recorder: &mut impl Recorder) {
        let mut sink = Recording {
            analyses: &mut self.analyses,
            recorder,
        };
        self.reassembler.finish(&mut sink);
    }

    /// What was seen, kept and lost until now.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let mut ledger = self.analyses.shared.ledger.clone();
        self.reassembler.add_to(&mut ledger);
        ledger
    }
}

/// Takes what the reassembler finds to the connection that it belongs to.
struct Recording<'a, R> {
    analyses: &'a mut Analyses,
    recorder: &'a mut R,
}

impl<R: Recorder> Sink for Recording<'_, R> {
    fn opened(&mut self, slot: Slot, connection: Connection) {
        let slots = &mut self.analyses.slots;
        let idx = slot.0 as usize;
        if idx >= slots.len() {
            slots.resize_with(idx + 1, || None);
        }
        slots[idx] = Some(Box::new(Analysis::new(connection)));
    }

    fn input(&mut self, slot: Slot, direction: Direction, at: Timestamp, input: Input<'_>) {
        let Analyses { slots, shared } = &mut *self.analyses;
        if let Some(Some(analysis)) = slots.get_mut(slot.0 as usize) {
            analysis.input(shared, self.recorder, direction, at, input);
        }
    }

    fn anomaly(&mut self, _slot: Slot, _direction: Direction, anomaly: Anomaly) {
        self.analyses.shared.ledger.count(anomaly);
    }

    fn closed(&mut self, slot: Slot, _at: Timestamp) {
        let Analyses { slots, shared } = &mut *self.analyses;
        if let Some(analysis) = slots.get_mut(slot.0 as usize).and_then(Option::take) {
            analysis.close(shared, self.recorder);
        }
    }
}
