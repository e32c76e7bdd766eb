//! What a recorder is told, as a value.

use tapedeck_model::{BodyPart, Exchange, UnreadConnection};

use crate::Recorder;
use crate::engine::ask;

/// A call of a [`Recorder`], for later.
#[derive(Debug)]
pub(crate) enum Output {
    BodyPart(BodyPart),
    Exchange(Box<Exchange>),
    Unread(Box<UnreadConnection>),
}

/// How many bits of an [`Exchange::key`] count the exchanges of a connection. Those above are its
/// id, so that a key does not depend on what other connections do.
pub(crate) const KEY_BITS: u32 = 32;

impl Output {
    /// The id of the connection of TCP that it is of.
    pub(crate) fn connection(&self) -> u64 {
        match self {
            Self::BodyPart(part) => part.key >> KEY_BITS,
            Self::Exchange(exchange) => exchange.key >> KEY_BITS,
            Self::Unread(unread) => unread.connection.id.0 & ((1 << KEY_BITS) - 1),
        }
    }

    pub(crate) fn replay(self, recorder: &mut impl Recorder) {
        match self {
            Self::BodyPart(part) => recorder.body_part(&part),
            Self::Exchange(mut exchange) => {
                ask(recorder, &mut exchange.connection);
                recorder.exchange(&exchange);
            }
            Self::Unread(mut unread) => {
                ask(recorder, &mut unread.connection);
                recorder.unread(&unread);
            }
        }
    }
}

impl Recorder for Vec<Output> {
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
