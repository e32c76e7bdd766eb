//! A connection of TLS: its plaintext goes on as a conversation, and it is listed where it stays
//! closed to us.

use std::sync::Arc;

use tapedeck_model::{
    Connection, Direction, Input, Origin, PerDirection, Role, Timestamp, Tls, Unread,
    UnreadConnection,
};
use tapedeck_tls as tls;

use crate::Recorder;
use crate::builder::Shared;
use crate::conversation::{Conversation, turned};
use crate::engine::ask;

/// What all connections of TLS share.
#[derive(Debug)]
pub(crate) struct TlsShared {
    pub(crate) keys: Arc<tls::Keys>,
    /// Where records are opened.
    scratch: Vec<u8>,
    /// Bytes that wait in all readers.
    held: usize,
}

impl TlsShared {
    pub(crate) fn new(log: Arc<tls::KeyLog>) -> Self {
        Self {
            // Not what it holds now: a thread may begin after the first secrets came.
            keys: Arc::new(tls::Keys::before_all(log)),
            scratch: Vec::new(),
            held: 0,
        }
    }
}

/// A connection of TLS.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// `None`: no hello was seen, so that there is nothing to read it with.
    reader: Option<Box<tls::Reader>>,
    /// The guess of who is the client was wrong: every direction is turned around.
    flipped: bool,
    bytes: PerDirection<u64>,
    last_byte: Timestamp,
    /// The reader's part of [`TlsShared::held`].
    held: usize,
}

impl Sealed {
    /// A connection whose hello came in `direction`, and what is known of it now.
    pub(crate) fn new(
        shared: &mut Shared,
        connection: &Arc<Connection>,
        direction: Direction,
        hello: Option<Role>,
    ) -> (Self, Arc<Connection>) {
        shared.ledger.connections_tls += 1;
        let expected = match hello {
            None => direction,
            Some(Role::Request) => Direction::ToServer,
            Some(Role::Response) => Direction::ToClient,
        };
        let flipped = direction != expected && connection.origin != Origin::Handshake;
        let reader = |_| {
            let keys = Arc::clone(&shared.tls.keys);
            Box::new(tls::Reader::new(shared.limits.tls, keys))
        };
        let sealed = Self {
            reader: hello.map(reader),
            flipped,
            bytes: PerDirection::default(),
            last_byte: connection.opened,
            held: 0,
        };
        let connection = if flipped {
            Arc::new(turned(connection))
        } else {
            Arc::clone(connection)
        };
        (sealed, connection)
    }

    /// Bytes that came before it was known what they are.
    pub(crate) fn passed_over(
        &mut self,
        shared: &mut Shared,
        bytes: PerDirection<u64>,
        last_byte: Timestamp,
    ) {
        self.last_byte = self.last_byte.max(last_byte);
        for direction in Direction::BOTH {
            self.count(shared, direction, bytes[direction]);
        }
    }

    pub(crate) fn input(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        conversation: &mut Conversation,
        (direction, at, input): (Direction, Timestamp, Input<'_>),
    ) {
        if let Input::Data(data) = input {
            self.count(shared, direction, data.len() as u64);
            self.last_byte = at;
        }
        let direction = if self.flipped { !direction } else { direction };
        let Some(reader) = &mut self.reader else {
            return;
        };
        let mut scratch = std::mem::take(&mut shared.tls.scratch);
        let mut within = Within {
            shared,
            recorder,
            conversation,
        };
        reader.push(at, direction, input, &mut scratch, &mut within);
        let tls = &mut within.shared.tls;
        tls.scratch = scratch;
        tls.held = tls.held.saturating_sub(self.held) + reader.memory();
        self.held = reader.memory();
        let limit = within.shared.limits.tls_memory;
        // Those that wait may have half of it: most of them wait for keys that never come, and must
        // not take the room of records that are only under way.
        let room = if reader.is_waiting() {
            limit / 2
        } else {
            limit
        };
        if self.held > 0 && within.shared.tls.held > room {
            reader.give_up(at, &mut within);
            let tls = &mut within.shared.tls;
            tls.held = tls.held.saturating_sub(self.held) + reader.memory();
            self.held = reader.memory();
        }
    }

    /// TCP's connection is over.
    pub(crate) fn close(
        self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        connection: &Arc<Connection>,
    ) {
        shared.tls.held = shared.tls.held.saturating_sub(self.held);
        let mut told = Tls::default();
        let mut reason = Some(Unread::HandshakeNotSeen);
        if let Some(reader) = &self.reader {
            told = reader.facts().clone();
            // One that never came to a suite was never going to say anything.
            let unfinished = told.suite.is_none();
            reason = reader
                .closed()
                .or_else(|| unfinished.then_some(Unread::HandshakeFailed(None)));
            for direction in Direction::BOTH {
                shared.ledger.bytes_tls_read += reader.bytes_read(direction);
            }
        }
        let Some(reason) = reason else {
            return;
        };
        shared.ledger.count_unread(reason);
        let mut connection = Connection::clone(connection);
        connection.tls = Some(Arc::new(told));
        let mut connection = Arc::new(connection);
        ask(recorder, &mut connection);
        recorder.unread(&UnreadConnection {
            connection,
            last_byte: self.last_byte,
            bytes: self.bytes,
            reason,
        });
    }

    fn count(&mut self, shared: &mut Shared, direction: Direction, len: u64) {
        let direction = if self.flipped { !direction } else { direction };
        self.bytes[direction] += len;
        shared.ledger.bytes_tls += len;
    }
}

/// Takes the plaintext to the conversation.
struct Within<'a, R> {
    shared: &'a mut Shared,
    recorder: &'a mut R,
    conversation: &'a mut Conversation,
}

impl<R: Recorder> tls::Sink for Within<'_, R> {
    fn agreed(&mut self, facts: &Tls) {
        let mut connection = Connection::clone(self.conversation.connection());
        connection.tls = Some(Arc::new(facts.clone()));
        self.conversation.set_connection(Arc::new(connection));
    }

    fn input(&mut self, at: Timestamp, direction: Direction, input: Input<'_>) {
        if let Input::Data(data) = input {
            self.shared.ledger.bytes_tls_plain += data.len() as u64;
        }
        self.conversation
            .input(self.shared, self.recorder, direction, at, input);
    }
}
