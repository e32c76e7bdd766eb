//! TLS key logs that programs write while their connections are recorded.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use tapedeck_exchange::Engine;
use tapedeck_model::Timestamp;

use crate::sys::{self, Clock};

/// A log is read in pieces of this size. No line is as long.
const PIECE: usize = 64 << 10;

/// The end of a key log, which one thread follows.
///
/// A program writes a secret before it sends what is sealed with it. So a log that was looked at after a
/// packet was captured held the secrets of that packet; looking more often would tell nothing more.
#[derive(Debug)]
pub(super) struct KeyLogTail {
    file: Arc<File>,
    /// Up to where it was read.
    offset: u64,
    /// The beginning of a line.
    line: Vec<u8>,
    /// When it was looked at last, on the packets' clock.
    looked: i64,
}

impl KeyLogTail {
    pub(super) const fn new(file: Arc<File>) -> Self {
        Self {
            file,
            offset: 0,
            line: Vec::new(),
            looked: i64::MIN,
        }
    }

    /// Gives an engine what it must know for a packet that was captured then.
    pub(super) fn follow(&mut self, captured: Timestamp, engine: &mut Engine) {
        if captured.as_nanos() < self.looked {
            return;
        }
        self.looked = sys::now(Clock::Wall);
        // A log that cannot be read has no secrets: its connections are listed as closed to us.
        let Ok(len) = self.file.metadata().map(|file| file.size()) else {
            return;
        };
        if len < self.offset {
            // It was emptied, and begins anew.
            self.offset = 0;
            self.line.clear();
        }
        while self.offset < len && self.piece(engine) {}
    }

    /// Reads the next piece; whether there was any.
    fn piece(&mut self, engine: &mut Engine) -> bool {
        let before = self.line.len();
        self.line.resize(before + PIECE, 0);
        let room = self.line.get_mut(before..).unwrap_or_default();
        let read = self.file.read_at(room, self.offset).unwrap_or(0);
        self.line.truncate(before + read);
        self.offset += read as u64;
        match self.line.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => {
                let _added = engine.secrets(self.line.get(..=end).unwrap_or_default());
                self.line.drain(..=end);
            }
            None if self.line.len() >= PIECE => self.line.clear(),
            None => {}
        }
        read > 0
    }
}
