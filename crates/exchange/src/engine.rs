use std::collections::VecDeque;
use std::sync::Arc;

use tapedeck_model::{
    Anomaly, BodyPart, Connection, ConnectionId, Direction, Exchange, Head, Input, Ledger, Origin,
    Segment, Timestamp, UnreadConnection, Workloads,
};
use tapedeck_packet::RawPacket;
use tapedeck_reassembly::{Reassembler, Sink, Slot};
use tapedeck_tls::{Added, Edition, KeyLog};

use crate::Limits;
use crate::builder::Shared;
use crate::connection::Analysis;
use crate::intake::Intake;
use crate::output::{KEY_BITS, Output};
use crate::sealed::TlsShared;

/// Where exchanges go.
///
/// The arguments are borrowed so that their buffers can be used again; a recorder that fails keeps
/// its first error and ignores the rest.
pub trait Recorder {
    /// Takes a piece of a long body; its exchange follows later. Parts of one message come in order.
    fn body_part(&mut self, part: &BodyPart);

    /// Says whose a long body is, before its first part comes: the connection that carries it, and the
    /// request, where its head is known. A [`Pipeline`](crate::Pipeline) does not say it.
    fn body_begins(&mut self, key: u64, connection: &Arc<Connection>, request: Option<&Head>) {
        let _ = (key, connection, request);
    }

    /// Takes an exchange that is over.
    fn exchange(&mut self, exchange: &Exchange);

    /// Takes a connection of TLS that could not be read, or not to its end, and is over.
    fn unread(&mut self, connection: &UnreadConnection);

    /// Whose the ends of a connection are, where the recorder knows more than the packets told.
    /// Asked before each exchange of the connection (and before it goes to [`Self::unread`]), so that what becomes known late still
    /// reaches those that follow; `None`: nothing new.
    fn workloads(&mut self, connection: &Connection) -> Option<Workloads> {
        let _ = connection;
        None
    }

    /// Whether a connection that was seen from its middle on was there before the capture, as far as
    /// the recorder knows. Asked together with [`Self::workloads`], about such connections only.
    fn predates(&mut self, connection: &Connection) -> bool {
        let _ = connection;
        false
    }
}

/// Asks the recorder what it knows of a connection beside what the packets told.
pub(crate) fn ask(recorder: &mut impl Recorder, connection: &mut Arc<Connection>) {
    if let Some(workloads) = recorder.workloads(connection) {
        Arc::make_mut(connection).workloads = workloads;
    }
    if connection.origin == Origin::Midstream && recorder.predates(connection) {
        Arc::make_mut(connection).origin = Origin::Predates;
    }
}

/// Reads packets, and finds the exchanges in them. See the [crate] for the contract.
#[derive(Debug)]
pub struct Engine {
    log: Arc<KeyLog>,
    intake: Intake,
    connections: Connections,
}

impl Engine {
    /// An engine that has seen nothing.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::numbered(limits, 0, 1)
    }

    /// One of several engines that share the connections of one capture, as the threads of a live
    /// source do: its connections get the ids `first`, `first + step`, and so on, so that with
    /// `step` engines and a different `first` below it for each, no id or key is given twice.
    #[must_use]
    pub fn numbered(limits: Limits, first: u64, step: u64) -> Self {
        let log = Arc::new(KeyLog::new(limits.tls_secrets));
        Self {
            intake: Intake::new(limits.fragments),
            connections: Connections::numbered(limits, Arc::clone(&log), first, step),
            log,
        }
    }

    /// Adds the text of a TLS key log (`SSLKEYLOGFILE`): whole lines, any number of them. Connections
    /// are read with the secrets that were there before their packets; for a few packets more, they
    /// wait.
    pub fn secrets(&mut self, text: &[u8]) -> Added {
        let added = self.log.add(text);
        self.connections.advance(added.edition);
        added
    }

    /// Reads the next packet.
    pub fn packet(&mut self, packet: &RawPacket<'_>, recorder: &mut impl Recorder) {
        match self.intake.packet(packet) {
            Some(segment) => self.connections.segment(&segment, recorder),
            None => self.connections.time(packet.at, recorder),
        }
    }

    /// Tells the time where no packet does: a live source calls this when it is quiet. `now` is on
    /// the packets' clock.
    pub fn handle_timeout(&mut self, now: Timestamp, recorder: &mut impl Recorder) {
        self.connections.time(now, recorder);
    }

    /// The capture is over: ends everything that is open.
    pub fn finish(&mut self, recorder: &mut impl Recorder) {
        self.connections.finish(recorder);
    }

    /// What was seen, kept and lost until now.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let mut ledger = self.connections.ledger();
        self.intake.add_to(&mut ledger);
        ledger
    }
}

/// Everything behind the decoder: from segments to exchanges.
///
/// What happens to a connection depends on its own segments and on the time of all packets, and on
/// other connections only where they share a limit that is reached. Several connections that end
/// at one point in time do so in the order of their ids.
#[derive(Debug)]
pub(crate) struct Connections {
    reassembler: Reassembler,
    analyses: Analyses,
}

/// The connections that are open, by slot, and what they share.
#[derive(Debug)]
struct Analyses {
    slots: Vec<Option<Open>>,
    shared: Shared,
    opened: u64,
    /// Those that closed; `None` where nobody asks for them.
    closed: Option<Vec<ConnectionId>>,
    /// Those that hold something, longest first; some of them do not any more, or are closed.
    holders: VecDeque<(Slot, ConnectionId)>,
}

/// What a connection in order holds at rest: it is not looked at to make room.
const HELD_AT_REST: usize = 512;

#[derive(Debug)]
struct Open {
    id: ConnectionId,
    /// The key of its next exchange.
    next_key: u64,
    analysis: Box<Analysis>,
    /// It is among the holders.
    holds: bool,
}

impl Analyses {
    /// Notes whether a connection holds something, and has others give up what they hold until the
    /// limit is kept.
    fn make_room(&mut self, slot: Slot, at: Timestamp, recorder: &mut impl Recorder) {
        let Self {
            slots,
            shared,
            holders,
            ..
        } = self;
        if let Some(Some(open)) = slots.get_mut(slot.0 as usize)
            && !open.holds
            && open.analysis.held() > HELD_AT_REST
        {
            // Each connection that is open is there once; a new one may take the place of one that
            // closed.
            if holders.len() > 2 * slots.len() {
                holders.retain(|(slot, id)| {
                    let open = slots.get(slot.0 as usize).and_then(Option::as_ref);
                    open.is_some_and(|open| open.id == *id)
                });
            }
            if let Some(Some(open)) = slots.get_mut(slot.0 as usize) {
                open.holds = true;
                holders.push_back((slot, open.id));
            }
        }
        while shared.held > shared.limits.held_memory
            && let Some((slot, id)) = holders.pop_front()
        {
            let Some(Some(open)) = slots.get_mut(slot.0 as usize) else {
                continue;
            };
            if open.id != id {
                continue;
            }
            open.holds = false;
            if open.analysis.held() > HELD_AT_REST {
                shared.ledger.connections_given_up += 1;
                shared.next_key = open.next_key;
                open.analysis.give_up(shared, recorder, at);
                open.next_key = shared.next_key;
            }
        }
    }
}

impl Connections {
    pub(crate) fn new(limits: Limits, log: Arc<KeyLog>) -> Self {
        Self::numbered(limits, log, 0, 1)
    }

    fn numbered(limits: Limits, log: Arc<KeyLog>, first: u64, step: u64) -> Self {
        Self {
            reassembler: Reassembler::numbered(limits.reassembly, first, step),
            analyses: Analyses {
                slots: Vec::new(),
                shared: Shared {
                    limits,
                    ledger: Ledger::default(),
                    body_memory: 0,
                    held: 0,
                    next_key: 0,
                    tls: TlsShared::new(log),
                },
                opened: 0,
                closed: None,
                holders: VecDeque::new(),
            },
        }
    }

    /// From now on, connections can be read with that edition of the key log.
    pub(crate) fn advance(&self, edition: Edition) {
        self.analyses.shared.tls.keys.advance(edition);
    }

    /// From now on, [`take_closed`](Self::take_closed) must be called now and then.
    pub(crate) fn note_closed(&mut self) {
        self.analyses.closed = Some(Vec::new());
    }

    /// The connections that closed since the last call.
    pub(crate) fn take_closed(&mut self) -> Vec<ConnectionId> {
        self.analyses
            .closed
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Connections so far.
    pub(crate) const fn opened(&self) -> u64 {
        self.analyses.opened
    }

    /// Reads the next segment.
    pub(crate) fn segment(&mut self, segment: &Segment<'_>, recorder: &mut impl Recorder) {
        self.time(segment.at, recorder);
        let mut sink = Recording {
            analyses: &mut self.analyses,
            recorder,
        };
        self.reassembler.push(segment, &mut sink);
    }

    /// Lets time pass.
    pub(crate) fn time(&mut self, now: Timestamp, recorder: &mut impl Recorder) {
        let mut late: Vec<Output> = Vec::new();
        let mut sink = Recording {
            analyses: &mut self.analyses,
            recorder: &mut late,
        };
        self.reassembler.handle_timeout(now, &mut sink);
        replay_in_order(late, recorder);
    }

    /// Ends everything that is open.
    pub(crate) fn finish(&mut self, recorder: &mut impl Recorder) {
        let mut last: Vec<Output> = Vec::new();
        let mut sink = Recording {
            analyses: &mut self.analyses,
            recorder: &mut last,
        };
        self.reassembler.finish(&mut sink);
        replay_in_order(last, recorder);
    }

    pub(crate) fn ledger(&self) -> Ledger {
        let mut ledger = self.analyses.shared.ledger.clone();
        self.reassembler.add_to(&mut ledger);
        ledger
    }
}

/// The reassembler's queues and slots are in an order that depends on all connections.
fn replay_in_order(mut outputs: Vec<Output>, recorder: &mut impl Recorder) {
    // As after nearly every packet.
    if outputs.is_empty() {
        return;
    }
    // Stable: what belongs to one connection keeps its order.
    outputs.sort_by_key(Output::connection);
    for output in outputs {
        output.replay(recorder);
    }
}

/// Takes what the reassembler finds to the connection that it belongs to.
struct Recording<'a, R> {
    analyses: &'a mut Analyses,
    recorder: &'a mut R,
}

impl<R: Recorder> Sink for Recording<'_, R> {
    fn opened(&mut self, slot: Slot, connection: Connection) {
        self.analyses.opened += 1;
        let slots = &mut self.analyses.slots;
        let idx = slot.0 as usize;
        if idx >= slots.len() {
            slots.resize_with(idx + 1, || None);
        }
        slots[idx] = Some(Open {
            id: connection.id,
            next_key: connection.id.0 << KEY_BITS,
            analysis: Box::new(Analysis::new(connection)),
            holds: false,
        });
    }

    fn input(&mut self, slot: Slot, direction: Direction, at: Timestamp, input: Input<'_>) {
        let Analyses { slots, shared, .. } = &mut *self.analyses;
        if let Some(Some(open)) = slots.get_mut(slot.0 as usize) {
            shared.next_key = open.next_key;
            open.analysis
                .receive(shared, self.recorder, direction, at, input);
            open.next_key = shared.next_key;
        }
        self.analyses.make_room(slot, at, self.recorder);
    }

    fn late(&mut self, slot: Slot, direction: Direction, len: u64) {
        if let Some(Some(open)) = self.analyses.slots.get_mut(slot.0 as usize) {
            open.analysis.late(direction, len);
        }
    }

    fn anomaly(&mut self, _slot: Slot, _direction: Direction, anomaly: Anomaly) {
        self.analyses.shared.ledger.count(anomaly);
    }

    fn closed(&mut self, slot: Slot, _at: Timestamp) {
        let Analyses {
            slots,
            shared,
            closed,
            opened: _,
            holders: _,
        } = &mut *self.analyses;
        if let Some(open) = slots.get_mut(slot.0 as usize).and_then(Option::take) {
            open.analysis.close(shared, self.recorder);
            if let Some(closed) = closed {
                closed.push(open.id);
            }
        }
    }
}
