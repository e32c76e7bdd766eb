use std::io::{self, Write};

use tapedeck_archive::{Archive, BodyBuffer, MessageView, ReadError, Row, Scratch};

use super::types::{Interim, Line, Message, Object};

/// What [`export`] wrote.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Exported {
    /// Objects written.
    pub exchanges: u64,
    /// Of these: with a body that is too long to be held, and so is not there.
    pub without_body: u64,
    /// Exchanges left out because they lie in a damaged part of the archive.
    pub unreadable: u64,
}

/// Why an export stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The output could not be written.
    #[error("failed to write JSON: {0}")]
    Write(#[from] io::Error),
    /// An exchange could not be put into JSON.
    #[error("failed to write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes the exchanges of `rows`, in this order, one JSON object a line.
///
/// Memory does not grow with the archive: one block and one exchange are held at a time. A body
/// over [`BodyBuffer`]'s limit is left out of its object, and counted.
///
/// # Errors
///
/// When the output cannot be written. Damaged parts of the archive are no error: they are counted.
pub fn export<'a>(
    archive: &'a Archive,
    rows: impl Iterator<Item = Row<'a>>,
    mut out: impl Write,
) -> Result<Exported, ExportError> {
    let mut exported = Exported::default();
    let mut scratch = Scratch::new();
    let (mut asked, mut answered) = (BodyBuffer::new(), BodyBuffer::new());
    for row in rows {
        match object(archive, &row, &mut scratch, (&mut asked, &mut answered)) {
            Ok((object, whole)) => {
                serde_json::to_writer(&mut out, &object)?;
                out.write_all(b"\n")?;
                exported.exchanges += 1;
                exported.without_body += u64::from(!whole);
            }
            Err(_) => exported.unreadable += 1,
        }
    }
    out.flush()?;
    Ok(exported)
}

/// The object, and whether every body is in it.
fn object<'s>(
    archive: &'s Archive,
    row: &Row<'s>,
    scratch: &'s mut Scratch,
    (asked, answered): (&'s mut BodyBuffer, &'s mut BodyBuffer),
) -> Result<(Object<'s>, bool), ReadError> {
    let record = archive.load(row.id(), scratch)?;
    let request = message(archive, record.request(), asked)?;
    let response = message(archive, record.response(), answered)?;
    let whole = [&request, &response].into_iter().flatten().all(|message| {
        let body = &message.body;
        body.text.is_some() || body.base64.is_some()
    });
    let object = Object {
        line: Line::of(row),
        request,
        interim: record
            .interim()
            .map(|interim| Interim::of(&interim))
            .collect(),
        response,
    };
    Ok((object, whole))
}

fn message<'s>(
    archive: &'s Archive,
    view: Option<MessageView<'s>>,
    buffer: &'s mut BodyBuffer,
) -> Result<Option<Message<'s>>, ReadError> {
    let Some(view) = view else { return Ok(None) };
    let body = view.body();
    let bytes = match archive.body(&body, buffer) {
        Ok(bytes) => Some(bytes),
        Err(ReadError::BodyTooLarge { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(Some(Message::of(&view, bytes)))
}
