//! Where records are cut, and which of them are to be opened.

use tapedeck_model::{Direction, Timestamp, Unread};

use super::content::refusal;
use super::{Reader, Sink};
use crate::order::Ordered;
use crate::records::{Header, Next, Record, kind};
use crate::session::{Early, Epoch};

/// What became of a record.
enum Step {
    Done,
    /// It will never be read, and what follows does not depend on it.
    Lost,
    /// A guess at a record that did not open.
    NotProven,
    /// Something must be known first.
    Blocked,
}

impl Reader {
    /// Reads the records that are complete.
    pub(super) fn records(
        &mut self,
        at: Timestamp,
        direction: Direction,
        data: &mut &[u8],
        sink: &mut Ordered<'_, impl Sink>,
    ) -> Result<(), Unread> {
        loop {
            let half = &mut self.halves[direction];
            if half.over {
                *data = &[];
                return Ok(());
            }
            let record = match half.framing.next(data) {
                Next::NeedMore => return Ok(()),
                Next::Malformed => return Err(Unread::Malformed),
                Next::Record(record) => record,
            };
            let guess = half.framing.is_guess();
            let step = self.record(at, direction, &record, guess, sink)?;
            let half = &mut self.halves[direction];
            match step {
                Step::Done => {
                    half.read += record.bytes().len() as u64;
                    if guess {
                        half.framing.accept();
                    }
                }
                Step::Lost => {}
                Step::NotProven => half.framing.reject(&record),
                Step::Blocked => {
                    half.framing.unread(&record);
                    half.waiting = Some(at);
                    sink.order.behind[direction] = Some(sink.order.now);
                    return Ok(());
                }
            }
        }
    }

    fn record(
        &mut self,
        at: Timestamp,
        direction: Direction,
        record: &Record<'_>,
        guess: bool,
        sink: &mut Ordered<'_, impl Sink>,
    ) -> Result<Step, Unread> {
        let Some((header, payload)) = record.split() else {
            return Ok(Step::Done);
        };
        if self.halves[direction].epoch == Epoch::Plain
            && let Some(step) = self.plain_record(direction, header, payload, guess)?
        {
            return Ok(step);
        }
        let passed_over = if guess { Step::NotProven } else { Step::Done };
        if self.session.is_tls13() {
            // For middleboxes only, or in the clear before keys were there (RFC 8446 section 5).
            if header.kind() != kind::APPLICATION_DATA {
                // OpenSSL's client refuses a certificate so.
                if header.kind() == kind::ALERT && !guess && !self.agreed {
                    refusal(payload)?;
                }
                return Ok(passed_over);
            }
            let half = &mut self.halves[direction];
            match self.session.early {
                Early::Undecided if half.epoch == Epoch::Early => return Ok(Step::Blocked),
                Early::Rejected if half.epoch == Epoch::Early => half.enter(Epoch::Handshake),
                _ => {}
            }
        } else if header.kind() == kind::CHANGE_CIPHER_SPEC {
            return Ok(passed_over);
        }
        self.sealed_record(at, direction, (header, payload), guess, sink)
    }

    /// Reads a record that is not encrypted. `None`: it may be.
    fn plain_record(
        &mut self,
        direction: Direction,
        header: Header,
        payload: &[u8],
        guess: bool,
    ) -> Result<Option<Step>, Unread> {
        let to_server = direction == Direction::ToServer;
        let known = self.session.client_is_known();
        if !known && (!to_server || header.kind() != kind::HANDSHAKE) {
            return if to_server {
                Err(Unread::HandshakeNotSeen)
            } else {
                Ok(Some(Step::Blocked))
            };
        }
        if guess && self.session.facts.suite.is_none() {
            return if to_server && known {
                Ok(Some(Step::Blocked))
            } else {
                Err(Unread::HandshakeNotSeen)
            };
        }
        let step = match header.kind() {
            kind::CHANGE_CIPHER_SPEC if self.session.facts.version.is_none() => Step::Blocked,
            kind::CHANGE_CIPHER_SPEC if guess && payload != [1] => Step::NotProven,
            kind::CHANGE_CIPHER_SPEC => {
                if !self.session.is_tls13() {
                    self.halves[direction].enter(Epoch::Application);
                }
                Step::Done
            }
            // Behind a loss, only a key can tell.
            _ if guess => return Ok(None),
            kind::HANDSHAKE => {
                self.handshake(direction, payload)?;
                Step::Done
            }
            kind::ALERT => {
                refusal(payload)?;
                Step::Done
            }
            kind::APPLICATION_DATA if to_server && self.session.early == Early::Rejected => {
                Step::Lost
            }
            kind::APPLICATION_DATA if to_server && self.session.facts.version.is_none() => {
                Step::Blocked
            }
            kind::APPLICATION_DATA => return Err(Unread::HandshakeNotSeen),
            _ => Step::Done,
        };
        Ok(Some(step))
    }

    /// Reads a record that is encrypted.
    fn sealed_record(
        &mut self,
        at: Timestamp,
        direction: Direction,
        record: (Header, &[u8]),
        guess: bool,
        sink: &mut Ordered<'_, impl Sink>,
    ) -> Result<Step, Unread> {
        let mut plain = std::mem::take(&mut self.plain);
        let opened = self.open(direction, record, guess, &mut plain);
        let result = match opened {
            Ok(Some(kind)) => {
                if kind == kind::APPLICATION_DATA {
                    let added = record.1.len().saturating_sub(plain.len());
                    let cost = self.session.cost();
                    self.halves[direction].measure(added as u64, cost);
                }
                let result = self.content(at, direction, kind, &plain, sink);
                result.map(|()| Step::Done)
            }
            Ok(None) if self.halves[direction].opener.is_none() && !guess => {
                // Not one key: it may yet come.
                Ok(Step::Blocked)
            }
            Ok(None) if guess => Ok(Step::NotProven),
            Ok(None) => {
                let half = &mut self.halves[direction];
                let refused = direction == Direction::ToServer
                    && self.session.early == Early::Rejected
                    && (half.epoch, half.seq) == (Epoch::Handshake, 0);
                // The server skips early data that it refused, and so do we
                // (RFC 8446 section 4.2.10).
                if !refused {
                    half.lose_record(at, direction, sink);
                }
                Ok(Step::Lost)
            }
            Err(closed) => Err(closed),
        };
        self.plain = plain;
        result
    }
}
