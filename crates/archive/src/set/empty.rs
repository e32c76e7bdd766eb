//! Segments without an exchange are not kept: what their ledgers say goes into the next segment.
//!
//! A disk that is full leaves one for each attempt to go on, and each takes some of what is free.

use super::retention::{Kept, Shelf};
use super::writer::SetEvent;
use crate::output::io_error;
use crate::provenance::StoredLedger;
use crate::{Archive, WriteError, Writer};

/// The longest segment that is looked at: one without exchanges has a kilobyte or two.
const LONGEST: u64 = 64 << 10;

/// Sealed segments that hold no exchange and no unread connection.
pub(crate) struct Empty {
    segments: Vec<Kept>,
    ledger: StoredLedger,
}

impl Empty {
    /// Takes them off the shelf.
    pub(crate) fn of(shelf: &mut Shelf) -> Self {
        let mut ledger = StoredLedger::default();
        let segments = shelf.take(|kept| {
            let told = (kept.len <= LONGEST).then(|| told(kept)).flatten();
            told.inspect(|told| ledger.merge(told)).is_some()
        });
        Self { segments, ledger }
    }

    /// Removes them, once what they say is in the file of `next`. Gives what that is.
    pub(crate) fn pass_on(
        self,
        next: &mut Writer,
        events: &mut Vec<SetEvent>,
    ) -> Result<StoredLedger, WriteError> {
        if self.ledger != StoredLedger::default() {
            next.inherit(self.ledger.clone())?;
        }
        for Kept { path, .. } in self.segments {
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
            events.retain(
                |event| !matches!(event, SetEvent::Recovered { path: of, .. } if *of == path),
            );
            events.push(SetEvent::Empty { path });
        }
        Ok(self.ledger)
    }
}

/// What the ledger of a segment says that holds nothing else. `None`: it holds more, or cannot be read.
fn told(kept: &Kept) -> Option<StoredLedger> {
    let archive = Archive::open(&kept.path).ok()?;
    let is_empty = archive.is_empty() && archive.unread().next().is_none();
    is_empty.then(|| StoredLedger {
        ledger: archive.ledger().clone(),
        unknown: archive.unknown_counters().clone(),
    })
}
