//! Both directions of one connection.
//!
//! ```text
//!                 ServerHello, 1.3                Finished
//!   Plain ──┬───► Early ──► Handshake ──────────► Application ◄─┐
//!           │     (0-RTT, to the server)               │        │ KeyUpdate
//!           └────────── ChangeCipherSpec, 1.2 ─────────┘────────┘
//! ```
//!
//! Each direction walks through these epochs on its own. Where it needs to know what the other one
//! says, or a key that the log does not hold yet, it waits, and its input is held.

use std::sync::Arc;

use tapedeck_model::{Direction, Input, PerDirection, Timestamp, Tls, Unread};

use crate::Limits;
use crate::cipher::Opener;
use crate::half::{HELD_INPUT, Half, Held};
use crate::key_log::{Keys, Secret};
use crate::messages;
use crate::order::{Order, Ordered};
use crate::records::{Header, Next, Record, kind};
use crate::session::{Early, Epoch, Session};

/// Where a [`Reader`] puts the plaintext.
pub trait Sink {
    /// Told once, before the first plaintext: what the handshake came to.
    fn agreed(&mut self, _facts: &Tls) {}

    /// What comes next in one direction of the connection within TLS. Records that were lost are a
    /// gap; `close_notify` is a [`Fin`](Input::Fin). The time is that of the
    /// record's last byte.
    fn input(&mut self, at: Timestamp, direction: Direction, input: Input<'_>);
}

impl<F: FnMut(Timestamp, Direction, Input<'_>)> Sink for F {
    fn input(&mut self, at: Timestamp, direction: Direction, input: Input<'_>) {
        self(at, direction, input);
    }
}

/// Reads one TLS connection from its first byte on. See the [crate] for what it can read.
///
/// `ToServer` must be the direction of the ClientHello; [`probe`](crate::probe()) tells.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    keys: Arc<Keys>,
    session: Session,
    halves: PerDirection<Half>,
    /// The caller's scratch during a call, empty between calls.
    plain: Vec<u8>,
    closed: Option<Unread>,
    /// The sink was told.
    agreed: bool,
    order: Order,
    trial_bytes: u64,
}

/// A trial costs at least as much as the decryption of so many bytes: keys are derived and set up.
const LEAST_TRIAL: usize = 1 << 10;

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

/// A key that a record behind a loss may be under, with the first number to try.
struct Candidate {
    epoch: Epoch,
    first: u64,
    opener: Opener,
    secret: Option<Secret>,
}

/// Whether an alert that comes before anything was said ends the handshake (RFC 8446 section 6).
fn refusal(alert: &[u8]) -> Result<(), Unread> {
    const FATAL: u8 = 2;
    match alert {
        [FATAL, alert] => Err(Unread::HandshakeFailed(Some(*alert))),
        _ => Ok(()),
    }
}

impl Reader {
    /// A reader that has seen nothing.
    #[must_use]
    pub fn new(limits: Limits, keys: Arc<Keys>) -> Self {
        Self {
            limits,
            keys,
            session: Session::new(),
            halves: PerDirection {
                to_server: Half::new(),
                to_client: Half::new(),
            },
            plain: Vec::new(),
            closed: None,
            agreed: false,
            order: Order::default(),
            trial_bytes: 0,
        }
    }

    /// What the connection told of itself so far. Complete before the first plaintext comes out.
    #[must_use]
    pub const fn facts(&self) -> &Tls {
        &self.session.facts
    }

    /// Why it is closed to us, once it is.
    #[must_use]
    pub const fn closed(&self) -> Option<Unread> {
        self.closed
    }

    /// Bytes of the records of a direction that were read, headers and handshake included.
    #[must_use]
    pub fn bytes_read(&self, direction: Direction) -> u64 {
        self.halves[direction].read
    }

    /// Whether input is held until the other direction, or a key log, has said more.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.halves.to_server.waiting.is_some() || self.halves.to_client.waiting.is_some()
    }

    /// Bytes held.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.halves.to_server.memory() + self.halves.to_client.memory() + self.order.bytes
    }

    /// Reads what comes next in one direction. Records are opened in `scratch`, whose content does
    /// not matter; it is a parameter so that all readers can use the same memory.
    pub fn push(
        &mut self,
        at: Timestamp,
        direction: Direction,
        input: Input<'_>,
        scratch: &mut Vec<u8>,
        sink: &mut impl Sink,
    ) {
        let half = &mut self.halves[direction];
        let is_end = matches!(input, Input::Fin | Input::Reset | Input::Cut);
        half.ended |= is_end;
        let mut order = std::mem::take(&mut self.order);
        order.begin();
        let sink = &mut Ordered {
            order: &mut order,
            sink,
        };
        if self.closed.is_some() {
            if is_end {
                half.end(at, direction, input, sink);
            }
            self.order = order;
            return;
        }
        std::mem::swap(&mut self.plain, scratch);
        if let Err(closed) = self.try_push(at, direction, input, sink) {
            self.close(at, closed, sink);
        }
        self.order = order;
        std::mem::swap(&mut self.plain, scratch);
    }

    /// Does without what this reader holds, because the caller has no room for it; where it needs that,
    /// it stops reading.
    pub fn give_up(&mut self, at: Timestamp, sink: &mut impl Sink) {
        if self.closed.is_some() {
            return;
        }
        let mut order = std::mem::take(&mut self.order);
        let sink = &mut Ordered {
            order: &mut order,
            sink,
        };
        let held = sink.order.bytes;
        self.tell_gaps(sink);
        if self.is_waiting() || sink.order.bytes == held {
            let why = self.is_waiting().then(|| self.waits_for()).flatten();
            self.close(at, why.unwrap_or(Unread::Limit), sink);
        }
        self.order = order;
    }

    /// Tells what was lost although it is not known how much that was.
    fn tell_gaps(&mut self, sink: &mut Ordered<'_, impl Sink>) {
        for direction in Direction::BOTH {
            self.halves[direction].say_gap(direction, sink);
        }
        sink.flush();
    }

    fn try_push(
        &mut self,
        at: Timestamp,
        direction: Direction,
        input: Input<'_>,
        sink: &mut Ordered<'_, impl Sink>,
    ) -> Result<(), Unread> {
        let half = &mut self.halves[direction];
        if half.waiting.is_some() {
            half.hold(sink.order.now, at, input);
        } else {
            self.take(at, direction, input, sink)?;
        }
        // What one direction says may be what the other one waits for.
        for direction in [!direction, direction, !direction] {
            self.retry(direction, sink)?;
        }
        for direction in Direction::BOTH {
            if self.halves[direction].gap.is_none() {
                sink.order.gaps[direction] = None;
            }
        }
        sink.flush();
        if sink.order.bytes > self.limits.behind_gap {
            self.tell_gaps(sink);
        }
        let halves = [&self.halves.to_server, &self.halves.to_client];
        let most = halves[0].held_bytes.max(halves[1].held_bytes);
        if most.max(sink.order.bytes) > self.limits.held_bytes {
            return Err(self.waits_for().unwrap_or(Unread::Limit));
        }
        if halves.iter().all(|half| half.ended) && halves.iter().any(|half| half.waiting.is_some())
        {
            return Err(self.waits_for().unwrap_or(Unread::NoKeys));
        }
        Ok(())
    }

    /// Why a direction that waits will wait for ever, if nothing more comes.
    fn waits_for(&self) -> Option<Unread> {
        let PerDirection {
            to_server,
            to_client,
        } = &self.halves;
        let undecided = to_server.epoch == Epoch::Early && self.session.early == Early::Undecided;
        match self.session.facts.suite {
            None => Some(Unread::HandshakeNotSeen),
            Some(_) if to_client.waiting.is_some() => Some(Unread::NoKeys),
            Some(_) if to_server.waiting.is_some() && !undecided => Some(Unread::NoKeys),
            Some(_) => None,
        }
    }

    /// Reads an input; holds what cannot be read yet.
    fn take(
        &mut self,
        at: Timestamp,
        direction: Direction,
        input: Input<'_>,
        sink: &mut Ordered<'_, impl Sink>,
    ) -> Result<(), Unread> {
        let half = &mut self.halves[direction];
        match input {
            Input::Data(mut data) => {
                self.records(at, direction, &mut data, sink)?;
                if !data.is_empty() {
                    let half = &mut self.halves[direction];
                    half.held_bytes += HELD_INPUT + data.len();
                    let held = Held::Data(data.to_vec());
                    half.held.push_front((sink.order.now, at, held));
                }
            }
            Input::Gap(gap) => half.lose(at, direction, gap, sink),
            Input::Fin | Input::Reset | Input::Cut => half.end(at, direction, input, sink),
        }
        Ok(())
    }

    /// Goes on with a direction that waits.
    fn retry(
        &mut self,
        direction: Direction,
        sink: &mut Ordered<'_, impl Sink>,
    ) -> Result<(), Unread> {
        let Some(at) = self.halves[direction].waiting.take() else {
            return Ok(());
        };
        let now = sink.order.now;
        sink.order.now = sink.order.behind[direction].unwrap_or(now);
        self.records(at, direction, &mut &[][..], sink)?;
        while self.halves[direction].waiting.is_none() {
            let half = &mut self.halves[direction];
            let Some((number, at, held)) = half.held.pop_front() else {
                sink.order.behind[direction] = None;
                break;
            };
            half.held_bytes -= held.memory();
            sink.order.now = number;
            sink.order.behind[direction] = Some(number);
            self.take(at, direction, held.as_input(), sink)?;
        }
        sink.order.now = now;
        sink.flush();
        Ok(())
    }

    /// Nothing more can be read: ends what will not be ended otherwise.
    fn close(&mut self, at: Timestamp, closed: Unread, sink: &mut Ordered<'_, impl Sink>) {
        self.closed = Some(closed);
        for direction in Direction::BOTH {
            self.halves[direction].stop(at, direction, sink);
        }
        self.tell_gaps(sink);
        sink.release();
        for direction in Direction::BOTH {
            let half = &mut self.halves[direction];
            for (_, held_at, held) in std::mem::take(&mut half.held) {
                if let Held::Other(input @ (Input::Fin | Input::Reset | Input::Cut)) = held {
                    half.end(held_at.max(at), direction, input, sink);
                }
            }
        }
    }

    /// Reads the records that are complete.
    fn records(
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

    /// Opens a record: under the key and number that are due, or behind a loss under those that
    /// may be.
    fn open(
        &mut self,
        direction: Direction,
        (header, payload): (Header, &[u8]),
        guess: bool,
        plain: &mut Vec<u8>,
    ) -> Result<Option<u8>, Unread> {
        let half = &mut self.halves[direction];
        if half.opener.is_none() && half.epoch != Epoch::Plain {
            (half.opener, half.secret) = if self.session.is_tls13() {
                let secret = self
                    .session
                    .traffic_secret(&self.keys, direction, half.epoch);
                let opener = secret.and_then(|secret| self.session.open_with(&secret));
                (opener, secret)
            } else {
                (self.session.open_tls12(&self.keys, direction), None)
            };
        }
        let window = half.lost.min(self.limits.lost_records);
        if let Some(opener) = &half.opener {
            for seq in half.seq..=half.seq.saturating_add(window) {
                if let Some(kind) = opener.open(seq, header, payload, plain) {
                    half.found(seq, header.record_len(), self.session.cost());
                    return Ok(Some(kind));
                }
                self.trial_bytes += payload.len().max(LEAST_TRIAL) as u64;
                if self.trial_bytes > self.limits.trial_bytes {
                    return Err(Unread::Desynchronised);
                }
            }
            if window == 0 && !guess {
                return Ok(None);
            }
        }
        self.search(direction, (header, payload), window, plain)
    }

    /// Tries the keys that may have come up within a loss.
    fn search(
        &mut self,
        direction: Direction,
        (header, payload): (Header, &[u8]),
        window: u64,
        plain: &mut Vec<u8>,
    ) -> Result<Option<u8>, Unread> {
        for candidate in self.candidates(direction) {
            let first = candidate.first;
            for seq in first..=first.saturating_add(window) {
                if let Some(kind) = candidate.opener.open(seq, header, payload, plain) {
                    let half = &mut self.halves[direction];
                    // In TLS 1.2 the first record under a key is Finished.
                    let handshake = u64::from(!self.session.is_tls13());
                    let nothing_said = matches!(half.epoch, Epoch::Plain | Epoch::Handshake)
                        && candidate.epoch == Epoch::Application
                        && seq <= handshake;
                    half.enter(candidate.epoch);
                    half.opener = Some(candidate.opener);
                    half.secret = candidate.secret;
                    half.found_elsewhere(seq, nothing_said || candidate.epoch < Epoch::Application);
                    return Ok(Some(kind));
                }
                self.trial_bytes += payload.len().max(LEAST_TRIAL) as u64;
                if self.trial_bytes > self.limits.trial_bytes {
                    return Err(Unread::Desynchronised);
                }
            }
        }
        Ok(None)
    }

    fn candidates(&self, direction: Direction) -> Vec<Candidate> {
        let half = &self.halves[direction];
        let mut candidates = Vec::new();
        let mut add = |epoch, opener: Option<Opener>, secret| {
            candidates.extend(opener.map(|opener| Candidate {
                epoch,
                first: 0,
                opener,
                secret,
            }));
        };
        if !self.session.is_tls13() {
            if half.epoch == Epoch::Plain {
                let opener = self.session.open_tls12(&self.keys, direction);
                add(Epoch::Application, opener, None);
            }
            return candidates;
        }
        for epoch in [Epoch::Handshake, Epoch::Application] {
            if epoch > half.epoch {
                let secret = self.session.traffic_secret(&self.keys, direction, epoch);
                let opener = secret.and_then(|secret| self.session.open_with(&secret));
                add(epoch, opener, secret);
            }
        }
        if half.epoch == Epoch::Application
            && let Some(secret) = &half.secret
            && let Some(next) = self.session.next_secret(secret)
        {
            add(
                Epoch::Application,
                self.session.open_with(&next),
                Some(next),
            );
        }
        candidates
    }

    /// Takes what a record held.
    fn content(
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

    fn handshake(&mut self, direction: Direction, mut bytes: &[u8]) -> Result<(), Unread> {
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
