//! Requests out of an archive, read in place.

use std::sync::Arc;

use tapedeck_archive::{Archive, BodyBuffer, HeadView, ReadError, Row, Scratch, Target};
use tapedeck_filter::Filter;
use tapedeck_model::Protocol;

use crate::player::options::Options;
use crate::player::outcome::{Cause, NeverSent};
use crate::player::request::{Fields, RecordedRequest, behind_start_line};
use crate::player::schedule::{Candidate, LeftOut};
use crate::player::source::{Facts, ReadFailure, Source};

/// An archive, and which of its exchanges are meant.
pub(crate) struct Recorded {
    pub(crate) archive: Arc<Archive>,
    /// `None`: all.
    pub(crate) filter: Option<Filter>,
    /// Exchanges that are not whole are meant, too.
    pub(crate) include_incomplete: bool,
}

impl Recorded {
    pub(crate) fn new(archive: Arc<Archive>, options: &Options) -> Self {
        Self {
            archive,
            filter: options.filter.clone(),
            include_incomplete: options.include_incomplete,
        }
    }
}

impl Source for Recorded {
    type Scratch = ArchiveScratch;

    fn candidates(&self) -> impl Iterator<Item = Candidate<'_>> {
        let mut scratch = Scratch::new();
        self.archive.rows().map(move |row| {
            let mut candidate = candidate(&row);
            let can_be_sent = row.method().is_some() && row.target_pieces().is_some();
            if self.include_incomplete
                && can_be_sent
                && candidate.left_out == Some(LeftOut::Incomplete)
            {
                candidate.left_out = None;
            }
            if let Some(filter) = &self.filter {
                match filter.matches_with(&self.archive, &row, &mut scratch) {
                    Ok(true) => {}
                    Ok(false) => candidate.left_out = Some(LeftOut::NotChosen),
                    Err(_) => candidate.left_out = Some(LeftOut::Unreadable),
                }
            }
            candidate
        })
    }

    fn unreadable(&self) -> u64 {
        self.archive.damaged_rows()
    }

    fn recorded_status(&self, id: u64) -> Option<u16> {
        self.archive.row(id).and_then(|row| row.status())
    }

    fn matches(&self, id: u64, filter: &Filter, scratch: &mut ArchiveScratch) -> Option<bool> {
        let row = self.archive.row(id)?;
        let matches = filter.matches_with(&self.archive, &row, &mut scratch.block);
        matches.ok()
    }

    fn with_head<T>(
        &self,
        id: u64,
        scratch: &mut ArchiveScratch,
        f: impl FnOnce(&[u8], &Fields<'_>) -> T,
    ) -> Option<T> {
        let record = self.archive.load(id, &mut scratch.block).ok()?;
        let head = record.request()?.head()?;
        let fields = fields_of(&head, self.include_incomplete).ok()?;
        Some(f(head.target()?, &fields))
    }

    fn with_request<T>(
        &self,
        id: u64,
        scratch: &mut ArchiveScratch,
        f: impl FnOnce(&RecordedRequest<'_>) -> T,
    ) -> Result<T, ReadFailure> {
        let record = self
            .archive
            .load(id, &mut scratch.block)
            .map_err(unreadable)?;
        let request = record.request().ok_or_else(incomplete)?;
        let head = request.head().ok_or_else(incomplete)?;
        let body = self
            .archive
            .body(&request.body(), &mut scratch.body)
            .map_err(unreadable)?;
        let trailers = request
            .trailers()
            .map(|trailers| match trailers.protocol() {
                Protocol::Http10 | Protocol::Http11 => Ok(Fields::Lines(trailers.raw())),
                Protocol::Http2 => pairs(&trailers, self.include_incomplete),
            });
        Ok(f(&RecordedRequest {
            protocol: head.protocol(),
            method: head.method().ok_or_else(incomplete)?,
            target: head.target().ok_or_else(incomplete)?,
            authority: self.archive.row(id).and_then(|row| row.authority()),
            fields: fields_of(&head, self.include_incomplete)?,
            body,
            trailers: trailers.transpose()?,
        }))
    }
}

/// What one worker reads with: the last block, and the last body that was in pieces.
#[derive(Debug, Default)]
pub(crate) struct ArchiveScratch {
    block: Scratch,
    body: BodyBuffer,
}

fn candidate<'a>(row: &Row<'a>) -> Candidate<'a> {
    let facts = Facts {
        method: row.method(),
        target: row.target_pieces(),
        request_missing: row.request_missing(),
        tunnel: row.tunnel(),
        pushed: row.pushed(),
    };
    Candidate {
        id: row.id(),
        at: row.time(),
        took: row.duration().unwrap_or_default(),
        connection: row.connection().0,
        method: row.method().unwrap_or_default(),
        target: row.target_pieces().unwrap_or_else(|| Target::whole(b"")),
        left_out: facts.left_out(),
    }
}

fn fields_of<'a>(head: &HeadView<'a>, partly: bool) -> Result<Fields<'a>, ReadFailure> {
    match head.protocol() {
        Protocol::Http10 | Protocol::Http11 => Ok(Fields::Lines(behind_start_line(head.raw()))),
        Protocol::Http2 => pairs(head, partly),
    }
}

/// `partly`: fields that could not be decoded are left out.
fn pairs<'a>(head: &HeadView<'a>, partly: bool) -> Result<Fields<'a>, ReadFailure> {
    let pairs: Option<Vec<_>> = head
        .fields()
        .map(|field| field.name.zip(field.value))
        .filter(|pair| pair.is_some() || !partly)
        .collect();
    pairs.map(Fields::Pairs).ok_or_else(incomplete)
}

fn unreadable(error: ReadError) -> ReadFailure {
    let reason = match error {
        ReadError::BodyTooLarge { .. } => NeverSent::MemoryLimit,
        _ => NeverSent::Unreadable,
    };
    ReadFailure {
        reason,
        cause: Cause::Other(Box::new(error)),
    }
}

/// The index says that the request is whole, and its record says that it is not: one of the two is
/// damaged.
fn incomplete() -> ReadFailure {
    ReadFailure {
        reason: NeverSent::Unreadable,
        cause: Cause::Text("the index and the record of an exchange contradict each other"),
    }
}
