//! The thread that writes what the others saw.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tapedeck_archive::{WriteError, Writer};
use tapedeck_model::exchange::{Body, BodyGap, Interim, Message};
use tapedeck_model::{
    Anomalies, Anomaly, BodyPart, Exchange, Gap, GapCause, Ledger, Missing, Protocol, Role,
};

use super::{Book, Entry, Journal, Kept, Note, Tally};

/// How often the archives are told the time: what they hold is on the disk a second later.
const TICK: Duration = Duration::from_millis(200);

/// Writes until it is told to end.
pub(super) fn run(journal: &Arc<Journal>, notes: &Receiver<Note>, writers: [Option<Writer>; 2]) {
    let [received, recorded] = writers;
    let mut volumes: Vec<_> = [(Book::Received, received), (Book::Recorded, recorded)]
        .into_iter()
        .filter_map(|(book, writer)| {
            Some(Volume {
                book,
                writer: Some(writer?),
                ledger: Ledger::default(),
            })
        })
        .collect();
    let began = Instant::now();
    let mut ticked = began;
    loop {
        match notes.recv_timeout(TICK) {
            Ok(Note::Entry(entry, room)) => {
                write(journal, &mut volumes, &entry);
                drop(room);
            }
            Ok(Note::Part(part, to, room)) => {
                for volume in volumes.iter_mut().filter(|volume| to.is_for(volume.book)) {
                    volume.part(journal, &part);
                }
                drop(room);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Note::End) | Err(RecvTimeoutError::Disconnected) => break,
        }
        if ticked.elapsed() >= TICK {
            ticked = Instant::now();
            for volume in &mut volumes {
                volume.tick(journal, began.elapsed());
            }
        }
    }
    for volume in volumes {
        volume.seal(journal);
    }
}

fn write(journal: &Journal, volumes: &mut [Volume], entry: &Entry) {
    let exchange = exchange(entry);
    for volume in volumes {
        if entry.to.is_for(volume.book) {
            volume.exchange(journal, &exchange, entry.is_first);
        }
    }
}

/// One archive.
struct Volume {
    book: Book,
    /// `None`: it failed.
    writer: Option<Writer>,
    ledger: Ledger,
}

impl Volume {
    fn part(&mut self, journal: &Journal, part: &BodyPart) {
        if let Some(writer) = &mut self.writer {
            let written = writer.body_part(part);
            self.check(journal, written);
        }
    }

    fn exchange(&mut self, journal: &Journal, exchange: &Exchange, is_first: bool) {
        let Some(tally) = journal.tally(self.book) else {
            return;
        };
        let Some(writer) = &mut self.writer else {
            tally.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let written = writer.exchange(exchange);
        if !self.check(journal, written) {
            tally.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        tally.exchanges.fetch_add(1, Ordering::Relaxed);
        let ledger = &mut self.ledger;
        ledger.connections += u64::from(is_first);
        ledger.exchanges += 1;
        ledger.exchanges_incomplete += u64::from(!exchange.complete());
        ledger.exchanges_without_response += u64::from(exchange.response.is_none());
        for anomaly in exchange.anomalies.iter() {
            ledger.count(anomaly);
        }
    }

    fn tick(&mut self, journal: &Journal, now: Duration) {
        if let Some(writer) = &mut self.writer {
            let ledger = &self.ledger;
            let counted = || counted(journal, self.book, ledger.clone());
            let written = writer.tick(now, counted).map(|_| ());
            self.check(journal, written);
        }
    }

    fn seal(mut self, journal: &Journal) {
        if let Some(writer) = self.writer.take() {
            let ledger = counted(journal, self.book, self.ledger.clone());
            let sealed = writer.seal(&ledger).map(|_| ());
            self.check(journal, sealed);
        }
    }

    /// Whether that went well. A failure ends the archive: what was written before can be recovered.
    fn check(&mut self, journal: &Journal, written: Result<(), WriteError>) -> bool {
        match written {
            Ok(()) => true,
            // That one does not fit; the next will.
            Err(WriteError::ExchangeTooLarge { .. }) => false,
            Err(error) => {
                if let Some(tally) = journal.tally(self.book) {
                    *tally.failed() = Some(told(&error));
                }
                self.writer = None;
                false
            }
        }
    }
}

/// An error with its causes.
fn told(error: &WriteError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The ledger with what the serving threads counted.
fn counted(journal: &Journal, book: Book, mut ledger: Ledger) -> Ledger {
    let dropped = |tally: &Tally| tally.dropped.load(Ordering::Relaxed);
    ledger.exchanges_dropped = journal.tally(book).map_or(0, dropped);
    let faults = journal.connection_faults.load(Ordering::Relaxed);
    if book == Book::Received && faults > 0 {
        *ledger.anomalies.entry(Anomaly::InjectedFault).or_default() += faults;
    }
    ledger
}

fn exchange(entry: &Entry) -> Exchange {
    let request = message(&entry.request, Role::Request);
    let response = entry
        .response
        .as_ref()
        .map(|kept| message(kept, Role::Response));
    let asked = entry.request.last_byte;
    let protocol = request
        .head
        .as_ref()
        .map_or(Protocol::Http11, |head| head.protocol);
    let at = entry
        .response
        .as_ref()
        .map_or(asked, |kept| kept.first_byte);
    let interim = entry.interim.iter();
    let mut anomalies = Anomalies::default();
    if entry.faulty {
        anomalies.insert(Anomaly::InjectedFault);
    }
    Exchange {
        key: entry.key,
        connection: Arc::clone(&entry.connection),
        stream: entry.stream,
        protocol,
        interim: interim
            .filter_map(|kept| {
                let head = kept.of_message(Role::Response)?;
                Some(Interim { head, at })
            })
            .collect(),
        request: Some(request),
        request_absent: Missing::NONE,
        response_absent: if response.is_none() {
            Missing::ABORTED
        } else {
            Missing::NONE
        },
        response,
        tunnel: entry.tunnel,
        pushed: false,
        anomalies,
    }
}

fn message(kept: &Kept, role: Role) -> Message {
    // What no longer found room in the queue.
    let cut = kept.missing.contains(Missing::PARTIAL);
    let gap = BodyGap {
        offset: kept.len,
        gap: Gap {
            len: 0,
            cause: GapCause::Limit,
        },
    };
    Message {
        head: kept.head.of_message(role),
        body: Body {
            len: kept.len,
            parts: kept.parts,
            tail: kept.body.to_vec(),
            gaps: cut.then_some(gap).into_iter().collect(),
            arrivals: kept.arrivals.clone(),
        },
        trailers: kept.trailers.as_ref().map(super::KeptHead::of_trailers),
        first_byte: kept.first_byte,
        last_byte: kept.last_byte,
        missing: kept.missing,
        reset_code: kept.reset_code,
    }
}
