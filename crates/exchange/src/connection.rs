//! One connection: what is said on it, and the TLS around that where there is any.
//!
//! ```text
//!             a hello, or records of TLS
//!   Plain ───────────────────────────────► Sealed
//! ```

use std::sync::Arc;

use tapedeck_model::{Connection, Direction, Input, Origin, Role, Timestamp};

use crate::Recorder;
use crate::builder::Shared;
use crate::conversation::{Conversation, Next};
use crate::detecting::Before;
use crate::preamble::Preamble;
use crate::sealed::Sealed;

/// A connection and what is known of it.
#[derive(Debug)]
pub(crate) struct Analysis {
    conversation: Conversation,
    sealed: Option<Box<Sealed>>,
    /// What a proxy may have said first, until that is known.
    preamble: Option<Box<Preamble>>,
}

impl Analysis {
    pub(crate) fn new(connection: Connection) -> Self {
        let preamble = (connection.origin == Origin::Handshake).then(Box::default);
        Self {
            conversation: Conversation::new(connection),
            sealed: None,
            preamble,
        }
    }

    /// A connection within so many tunnels, from its beginning on.
    pub(crate) fn within_tunnel(connection: Connection, depth: usize) -> Self {
        Self {
            conversation: Conversation::within_tunnel(connection, depth),
            sealed: None,
            preamble: None,
        }
    }

    /// Takes what happened next in one direction, as the reassembly tells it.
    pub(crate) fn receive(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        direction: Direction,
        at: Timestamp,
        input: Input<'_>,
    ) {
        let Some(preamble) = &mut self.preamble else {
            self.input(shared, recorder, direction, at, input);
            return;
        };
        let (len, rest) = match input {
            Input::Data(data) => preamble.strip(direction, data),
            Input::Gap(_) | Input::Fin | Input::Reset | Input::Cut => {
                (0, preamble.give_up(direction).into())
            }
        };
        if preamble.is_done() {
            self.preamble = None;
        }
        shared.ledger.bytes_not_http += len as u64;
        if !rest.is_empty() {
            self.input(shared, recorder, direction, at, Input::Data(&rest));
        }
        if !matches!(input, Input::Data(_)) {
            self.input(shared, recorder, direction, at, input);
        }
    }

    fn input(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        direction: Direction,
        at: Timestamp,
        input: Input<'_>,
    ) {
        let Self {
            conversation,
            sealed,
            preamble: _,
        } = self;
        if let Some(sealed) = sealed {
            return sealed.input(shared, recorder, conversation, (direction, at, input));
        }
        let next = conversation.input(shared, recorder, direction, at, input);
        if let Next::Tls(hello) = next {
            let mut sealed = Box::new(seal(conversation, shared, recorder, direction, hello));
            sealed.input(shared, recorder, conversation, (direction, at, input));
            self.sealed = Some(sealed);
        }
    }

    /// The next bytes of a direction come behind what they had to come before.
    pub(crate) fn late(&mut self, direction: Direction, len: u64) {
        // Records of TLS open only where the handshake was seen, and then nothing is late.
        if self.sealed.is_none() {
            self.conversation.late(direction, len);
        }
    }

    /// Bytes held of what is unfinished; what TLS holds is not among them.
    pub(crate) fn held(&self) -> usize {
        self.conversation.held()
    }

    pub(crate) fn give_up(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        at: Timestamp,
    ) {
        self.conversation.give_up(shared, recorder, at);
    }

    pub(crate) fn close(self, shared: &mut Shared, recorder: &mut impl Recorder) {
        let Self {
            mut conversation,
            mut sealed,
            preamble: _,
        } = self;
        if sealed.is_none() && conversation.is_like_tls() {
            // All that was seen of it were pieces of records.
            let direction = Direction::ToServer;
            let pieces = seal(&mut conversation, shared, recorder, direction, None);
            sealed = Some(Box::new(pieces));
        }
        let connection = Arc::clone(conversation.connection());
        conversation.close(shared, recorder);
        if let Some(sealed) = sealed {
            sealed.close(shared, recorder, &connection);
        }
    }
}

/// The conversation turned out to be TLS: has it begin anew within, and what came before read. The
/// hello came in `direction`.
fn seal(
    conversation: &mut Conversation,
    shared: &mut Shared,
    recorder: &mut impl Recorder,
    direction: Direction,
    hello: Option<Role>,
) -> Sealed {
    let connection = conversation.connection();
    let (mut sealed, connection) = Sealed::new(shared, connection, direction, hello);
    let before = conversation.within_tls(connection);
    sealed.passed_over(shared, before.passed_over, before.last_byte);
    before.replay(|direction, at, before| {
        let Before::Input(input) = before else {
            return;
        };
        sealed.input(shared, recorder, conversation, (direction, at, input));
    });
    sealed
}
