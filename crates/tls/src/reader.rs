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

use std::collections::VecDeque;
use std::sync::Arc;

use tapedeck_model::{Direction, Gap, GapCause, Input, PerDirection, Timestamp};

use crate::Limits;
use crate::cipher::Opener;
use crate::key_log::{KeyLog, Secret};
use crate::messages::{self, Messages};
use crate::records::{Framing, Header, Next, Record, kind};
use crate::session::{Closed, Early, Epoch, Facts, Session};

/// Where a [`Reader`] puts the plaintext.
pub trait Sink {
    /// What comes next in one direction of the connection within TLS. A record that was lost is a
    /// gap of unknown length; `close_notify` is a [`Fin`](Input::Fin). The time is that of the
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
    key_log: Arc<KeyLog>,
    session: Session,
    halves: PerDirection<Half>,
    plain: Vec<u8>,
    trial_bytes: u64,
}

/// One direction.
#[derive(Debug)]
struct Half {
    framing: Framing,
    epoch: Epoch,
    seq: u64,
    opener: Option<Opener>,
    /// The traffic secret of `opener` (TLS 1.3).
    secret: Option<Secret>,
    messages: Messages,
    /// What was lost since the last record that opened.
    gap: Option<Gap>,
    /// How many records that may have been.
    lost: u64,
    /// A record is complete, and waits since then.
    waiting: Option<Timestamp>,
    /// What came behind it.
    held: VecDeque<(Timestamp, Held)>,
    held_bytes: usize,
    /// TCP's direction has ended.
    ended: bool,
    /// That end, or `close_notify`, was handed on.
    over: bool,
    /// Plaintext was handed on.
    talked: bool,
}

#[derive(Debug)]
enum Held {
    Data(Vec<u8>),
    Other(Input<'static>),
}

/// What an input that is held takes beside its bytes.
const HELD_INPUT: usize = size_of::<(Timestamp, Held)>();

/// A trial costs at least as much as the decryption of so many bytes: keys are derived and set up.
const LEAST_TRIAL: usize = 1 << 10;

/// What became of a record.
enum Step {
    Done,
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

impl Reader {
    /// A reader that has seen nothing.
    #[must_use]
    pub fn new(limits: Limits, key_log: Arc<KeyLog>) -> Self {
        Self {
            limits,
            key_log,
            session: Session::new(),
            halves: PerDirection {
                to_server: Half::new(),
                to_client: Half::new(),
            },
            plain: Vec::new(),
            trial_bytes: 0,
        }
    }

    /// What the connection told of itself so far. Complete before the first plaintext comes out.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.session.facts
    }

    /// Bytes held.
    #[must_use]
    pub fn memory(&self) -> usize {
        let of = |half: &Half| half.framing.memory() + half.held_bytes;
        self.plain.capacity() + of(&self.halves.to_server) + of(&self.halves.to_client)
    }

    /// Reads what comes next in one direction.
    pub fn push(
        &mut self,
        at: Timestamp,
        direction: Direction,
        input: Input<'_>,
        sink: &mut impl Sink,
    ) {
        let half = &mut self.halves[direction];
        let is_end = matches!(input, Input::Fin | Input::Reset | Input::Cut);
        half.ended |= is_end;
        if self.session.facts.closed.is_some() {
            if is_end {
                half.end(at, direction, input, sink);
            }
            return;
        }
        if let Err(closed) = self.try_push(at, direction, input, sink) {
            self.close(at, closed, sink);
        }
    }

    fn try_push(
        &mut self,
        at: Timestamp,
        direction: Direction,
        input: Input<'_>,
        sink: &mut impl Sink,
    ) -> Result<(), Closed> {
        let half = &mut self.halves[direction];
        if half.waiting.is_some() {
            half.hold(at, input);
        } else {
            self.take(at, direction, input, sink)?;
        }
        // What one direction says may be what the other one waits for.
        for direction in [!direction, direction, !direction] {
            self.retry(direction, sink)?;
        }
        let halves = [&self.halves.to_server, &self.halves.to_client];
        if halves
            .iter()
            .any(|half| half.held_bytes > self.limits.held_bytes)
        {
            return Err(self.waits_for().unwrap_or(Closed::Limit));
        }
        if halves.iter().all(|half| half.ended) && halves.iter().any(|half| half.waiting.is_some())
        {
            return Err(self.waits_for().unwrap_or(Closed::NoKeys));
        }
        Ok(())
    }

    /// Why a direction that waits will wait for ever.
    fn waits_for(&self) -> Option<Closed> {
        match self.session.facts.suite {
            None => Some(Closed::HandshakeNotSeen),
            Some(_) if self.halves.to_client.waiting.is_some() => Some(Closed::NoKeys),
            Some(_) => None,
        }
    }

    /// Reads an input; holds what cannot be read yet.
    fn take(
        &mut self,
        at: Timestamp,
        direction: Direction,
        input: Input<'_>,
        sink: &mut impl Sink,
    ) -> Result<(), Closed> {
        let half = &mut self.halves[direction];
        match input {
            Input::Data(mut data) => {
                self.records(at, direction, &mut data, sink)?;
                if !data.is_empty() {
                    let half = &mut self.halves[direction];
                    half.held_bytes += HELD_INPUT + data.len();
                    half.held.push_front((at, Held::Data(data.to_vec())));
                }
            }
            Input::Gap(gap) => half.lose(gap),
            Input::Fin | Input::Reset | Input::Cut => half.end(at, direction, input, sink),
        }
        Ok(())
    }

    /// Goes on with a direction that waits.
    fn retry(&mut self, direction: Direction, sink: &mut impl Sink) -> Result<(), Closed> {
        let Some(at) = self.halves[direction].waiting.take() else {
            return Ok(());
        };
        self.records(at, direction, &mut &[][..], sink)?;
        while self.halves[direction].waiting.is_none() {
            let half = &mut self.halves[direction];
            match half.held.pop_front() {
                None => break,
                Some((at, Held::Data(data))) => {
                    half.held_bytes -= HELD_INPUT + data.len();
                    self.take(at, direction, Input::Data(&data), sink)?;
                }
                Some((at, Held::Other(input))) => {
                    if matches!(input, Input::Gap(_)) {
                        half.held_bytes -= HELD_INPUT;
                    }
                    self.take(at, direction, input, sink)?;
                }
            }
        }
        Ok(())
    }

    /// Nothing more can be read: ends what will not be ended otherwise.
    fn close(&mut self, at: Timestamp, closed: Closed, sink: &mut impl Sink) {
        self.session.facts.closed = Some(closed);
        for direction in Direction::BOTH {
            let half = &mut self.halves[direction];
            half.framing = Framing::new();
            half.opener = None;
            half.secret = None;
            half.held_bytes = 0;
            half.waiting = None;
            if half.talked && half.gap.is_none() {
                half.gap = Some(Gap {
                    len: 0,
                    cause: GapCause::Limit,
                });
            }
            if !half.talked {
                half.gap = None;
            }
            for (held_at, held) in std::mem::take(&mut half.held) {
                if let Held::Other(input @ (Input::Fin | Input::Reset | Input::Cut)) = held {
                    half.end(held_at.max(at), direction, input, sink);
                }
            }
        }
        self.plain = Vec::new();
    }

    /// Reads the records that are complete.
    fn records(
        &mut self,
        at: Timestamp,
        direction: Direction,
        data: &mut &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), Closed> {
        loop {
            let half = &mut self.halves[direction];
            if half.over {
                *data = &[];
                return Ok(());
            }
            let record = match half.framing.next(data) {
                Next::NeedMore => return Ok(()),
                Next::Malformed => return Err(Closed::Malformed),
                Next::Record(record) => record,
            };
            let guess = half.framing.is_guess();
            let step = self.record(at, direction, &record, guess, sink)?;
            let half = &mut self.halves[direction];
            match step {
                Step::Done if guess => half.framing.accept(),
                Step::Done => {}
                Step::NotProven => half.framing.reject(&record),
                Step::Blocked => {
                    half.framing.unread(&record);
                    half.waiting = Some(at);
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
        sink: &mut impl Sink,
    ) -> Result<Step, Closed> {
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
    ) -> Result<Option<Step>, Closed> {
        let to_server = direction == Direction::ToServer;
        let known = self.session.client_is_known();
        if !known && (!to_server || header.kind() != kind::HANDSHAKE) {
            return if to_server {
                Err(Closed::HandshakeNotSeen)
            } else {
                Ok(Some(Step::Blocked))
            };
        }
        if guess && self.session.facts.suite.is_none() {
            return if to_server && known {
                Ok(Some(Step::Blocked))
            } else {
                Err(Closed::HandshakeNotSeen)
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
            kind::APPLICATION_DATA if to_server && self.session.early == Early::Rejected => {
                Step::Done
            }
            kind::APPLICATION_DATA if to_server && self.session.facts.version.is_none() => {
                Step::Blocked
            }
            kind::APPLICATION_DATA => return Err(Closed::HandshakeNotSeen),
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
        sink: &mut impl Sink,
    ) -> Result<Step, Closed> {
        let mut plain = std::mem::take(&mut self.plain);
        let opened = self.open(direction, record, guess, &mut plain);
        let result = match opened {
            Ok(Some(kind)) => {
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
                    half.lose_record();
                }
                Ok(Step::Done)
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
    ) -> Result<Option<u8>, Closed> {
        let half = &mut self.halves[direction];
        if half.opener.is_none() && half.epoch != Epoch::Plain {
            (half.opener, half.secret) = if self.session.is_tls13() {
                let secret = self
                    .session
                    .traffic_secret(&self.key_log, direction, half.epoch);
                let opener = secret.and_then(|secret| self.session.open_with(&secret));
                (opener, secret)
            } else {
                (self.session.open_tls12(&self.key_log, direction), None)
            };
        }
        let window = half.lost.min(self.limits.lost_records);
        if let Some(opener) = &half.opener {
            for seq in half.seq..=half.seq.saturating_add(window) {
                if let Some(kind) = opener.open(seq, header, payload, plain) {
                    let exact = seq == half.seq;
                    half.found(seq, exact);
                    return Ok(Some(kind));
                }
                self.trial_bytes += payload.len().max(LEAST_TRIAL) as u64;
                if self.trial_bytes > self.limits.trial_bytes {
                    return Err(Closed::Desynchronised);
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
    ) -> Result<Option<u8>, Closed> {
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
                    half.found(seq, nothing_said || candidate.epoch < Epoch::Application);
                    return Ok(Some(kind));
                }
                self.trial_bytes += payload.len().max(LEAST_TRIAL) as u64;
                if self.trial_bytes > self.limits.trial_bytes {
                    return Err(Closed::Desynchronised);
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
                let opener = self.session.open_tls12(&self.key_log, direction);
                add(Epoch::Application, opener, None);
            }
            return candidates;
        }
        for epoch in [Epoch::Handshake, Epoch::Application] {
            if epoch > half.epoch {
                let secret = self.session.traffic_secret(&self.key_log, direction, epoch);
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
        sink: &mut impl Sink,
    ) -> Result<(), Closed> {
        const CLOSE_NOTIFY: u8 = 0;
        let half = &mut self.halves[direction];
        match (kind, plain) {
            (kind::APPLICATION_DATA, _) => {
                // A server that sends data has decided on early data, whether seen or not.
                if direction == Direction::ToClient && self.session.early == Early::Undecided {
                    self.session.early = Early::Rejected;
                }
                if !plain.is_empty() {
                    half.say_gap(at, direction, sink);
                    half.talked = true;
                    sink.input(at, direction, Input::Data(plain));
                }
            }
            (kind::ALERT, [_, CLOSE_NOTIFY, ..]) => half.end(at, direction, Input::Fin, sink),
            (kind::HANDSHAKE, _) => self.handshake(direction, plain)?,
            _ => {}
        }
        Ok(())
    }

    fn handshake(&mut self, direction: Direction, mut bytes: &[u8]) -> Result<(), Closed> {
        while let Some(message) = self.halves[direction]
            .messages
            .next(&mut bytes, self.limits.message_len)
        {
            self.message(direction, &message)?;
        }
        Ok(())
    }

    fn message(&mut self, direction: Direction, message: &messages::Message) -> Result<(), Closed> {
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
                    .ok_or(Closed::Malformed)?;
                half.enter(Epoch::Application);
                half.opener = session.open_with(&next);
                half.secret = Some(next);
            }
            (Epoch::Application, _, kind::CLIENT_HELLO | kind::SERVER_HELLO) => {
                return Err(Closed::Renegotiation);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Half {
    fn new() -> Self {
        Self {
            framing: Framing::new(),
            epoch: Epoch::Plain,
            seq: 0,
            opener: None,
            secret: None,
            messages: Messages::default(),
            gap: None,
            lost: 0,
            waiting: None,
            held: VecDeque::new(),
            held_bytes: 0,
            ended: false,
            over: false,
            talked: false,
        }
    }

    /// The next record is under other keys.
    fn enter(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.seq = 0;
        self.opener = None;
        self.secret = None;
    }

    /// A record opened under this number; `whole`: nothing that was said is lost before it.
    fn found(&mut self, seq: u64, whole: bool) {
        self.seq = seq.saturating_add(1);
        self.lost = 0;
        if whole {
            self.gap = None;
        }
    }

    fn lose(&mut self, gap: Gap) {
        self.lost = self.lost.saturating_add(self.framing.gap(gap.len));
        self.messages.reset();
        self.gap.get_or_insert(Gap {
            len: 0,
            cause: gap.cause,
        });
    }

    /// A record did not open.
    fn lose_record(&mut self) {
        self.lost = self.lost.saturating_add(1);
        self.messages.reset();
        self.gap.get_or_insert(Gap {
            len: 0,
            cause: GapCause::Lost,
        });
    }

    fn hold(&mut self, at: Timestamp, input: Input<'_>) {
        let held = match input {
            Input::Data(data) => {
                self.held_bytes += HELD_INPUT + data.len();
                Held::Data(data.to_vec())
            }
            Input::Gap(gap) => {
                // So that no number of them takes memory without end.
                self.held_bytes += HELD_INPUT;
                Held::Other(Input::Gap(gap))
            }
            Input::Fin => Held::Other(Input::Fin),
            Input::Reset => Held::Other(Input::Reset),
            Input::Cut => Held::Other(Input::Cut),
        };
        self.held.push_back((at, held));
    }

    fn say_gap(&mut self, at: Timestamp, direction: Direction, sink: &mut impl Sink) {
        if let Some(gap) = self.gap.take() {
            sink.input(at, direction, Input::Gap(gap));
        }
    }

    fn end(&mut self, at: Timestamp, direction: Direction, end: Input<'_>, sink: &mut impl Sink) {
        if !self.over {
            self.say_gap(at, direction, sink);
            self.over = true;
            sink.input(at, direction, end);
        }
    }
}
