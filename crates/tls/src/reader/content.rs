//! What records held: application data, alerts, the messages of a handshake.

use tapedeck_model::{Direction, Input, Timestamp, Unread};

use super::{Reader, Sink};
use crate::messages;
use crate::order::Ordered;
use crate::records::kind;
use crate::session::{Early, Epoch};

/// Whether an alert that comes before anything was said ends the handshake (RFC 8446 section 6).
pub(super) fn refusal(alert: &[u8]) -> Result<(), Unread> {
    const FATAL: u8 = 2;
    match alert {
        [FATAL, alert] => Err(Unread::HandshakeFailed(Some(*alert))),
        _ => Ok(()),
    }
}

impl Reader {
    /// Takes what a record held.
    pub(super) fn content(
        &mut self,
        at: Timestamp,
        direction: Direction,
        kind: u8,
        plain: &[u8],
        sink: &mut Ordered<'_, impl Sink>,
    ) -> Result<(), Unread> {
        const CLOSE_NOTIFY: u8 = 0;
        let half = &mut self.halves[direction];
        match (kind, plain) {
            (kind::APPLICATION_DATA, _) => {
                // A server that sends data has decided on early data, whether seen or not.
                if direction == Direction::ToClient && self.session.early == Early::Undecided {
                    self.session.early = Early::Rejected;
                }
                if !plain.is_empty() {
                    if !std::mem::replace(&mut self.agreed, true) {
                        sink.agreed(&self.session.facts);
                    }
                    half.say_gap(direction, sink);
                    half.talked = true;
                    sink.input(at, direction, Input::Data(plain));
                }
            }
            (kind::ALERT, [_, CLOSE_NOTIFY, ..]) => half.end(at, direction, Input::Fin, sink),
            (kind::ALERT, _) if !self.agreed => refusal(plain)?,
            (kind::HANDSHAKE, _) => self.handshake(direction, plain)?,
            _ => {}
        }
        Ok(())
    }

    pub(super) fn handshake(
        &mut self,
        direction: Direction,
        mut bytes: &[u8],
    ) -> Result<(), Unread> {
        while let Some(message) = self.halves[direction]
            .messages
            .next(&mut bytes, self.limits.message_len)
        {
            self.message(direction, &message)?;
        }
        Ok(())
    }

    fn message(&mut self, direction: Direction, message: &messages::Message) -> Result<(), Unread> {
        use Direction::{ToClient, ToServer};
        use messages::kind;

        let Self {
            session, halves, ..
        } = self;
        let epoch = halves[direction].epoch;
        match (epoch, direction, message.kind) {
            (Epoch::Plain, ToServer, kind::CLIENT_HELLO) => session.client_hello(&message.body)?,
            (Epoch::Plain, ToClient, kind::SERVER_HELLO) => {
                let agreed = session.server_hello(&message.body)?;
                if agreed && session.is_tls13() {
                    halves.to_client.enter(Epoch::Handshake);
                    halves.to_server.enter(match session.early {
                        Early::Undecided | Early::Accepted => Epoch::Early,
                        Early::NotOffered | Early::Rejected => Epoch::Handshake,
                    });
                }
            }
            (Epoch::Handshake, ToClient, kind::ENCRYPTED_EXTENSIONS) => {
                session.encrypted_extensions(&message.body)?;
            }
            (Epoch::Early, ToServer, kind::END_OF_EARLY_DATA) => {
                halves.to_server.enter(Epoch::Handshake);
            }
            (Epoch::Handshake, _, kind::FINISHED) => halves[direction].enter(Epoch::Application),
            (Epoch::Application, _, kind::KEY_UPDATE) if session.is_tls13() => {
                let half = &mut halves[direction];
                let next = half
                    .secret
                    .and_then(|secret| session.next_secret(&secret))
                    .ok_or(Unread::Malformed)?;
                half.enter(Epoch::Application);
                half.opener = session.open_with(&next);
                half.secret = Some(next);
            }
            (Epoch::Application, _, kind::CLIENT_HELLO | kind::SERVER_HELLO) => {
                return Err(Unread::Renegotiation);
            }
            _ => {}
        }
        Ok(())
    }
}
