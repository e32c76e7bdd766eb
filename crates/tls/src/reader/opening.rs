//! Which key opens a record, and under which number.

use tapedeck_model::{Direction, Unread};

use super::Reader;
use crate::cipher::Opener;
use crate::key_log::Secret;
use crate::records::Header;
use crate::session::Epoch;

/// A trial costs at least as much as the decryption of so many bytes: keys are derived and set up.
const LEAST_TRIAL: usize = 1 << 10;

/// A key that a record behind a loss may be under, with the first number to try.
struct Candidate {
    epoch: Epoch,
    first: u64,
    opener: Opener,
    secret: Option<Secret>,
}

impl Reader {
    /// Opens a record: under the key and number that are due, or behind a loss under those that
    /// may be.
    pub(super) fn open(
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
}
