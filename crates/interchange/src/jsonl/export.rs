use std::io::{self, Write};
use std::sync::Arc;

use tapedeck_archive::{Archive, BodyBuffer, MessageView, ReadError, Row, Scratch};
use tapedeck_model::Workload;

use super::types::{Grpc, Interim, Line, Message, Object, Owner};
use crate::stream;

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

/// What an export holds at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a body that goes into a line. A line is read whole into memory by every tool, and
    /// an archive of a few bytes can claim a body of many GiB.
    pub body: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: BodyBuffer::DEFAULT_LIMIT,
        }
    }
}

/// Writes the exchanges of `rows`, in this order, one JSON object a line.
///
/// Memory does not grow with the archive: one block and one exchange are held at a time. A body
/// over the limit is left out of its object, and counted.
///
/// # Errors
///
/// When the output cannot be written. Damaged parts of the archive are no error: they are counted.
pub fn export<'a>(
    archive: &'a Archive,
    rows: impl Iterator<Item = Row<'a>>,
    limits: Limits,
    mut out: impl Write,
) -> Result<Exported, ExportError> {
    let mut exported = Exported::default();
    let mut scratch = Scratch::new();
    let mut asked = BodyBuffer::with_limit(limits.body);
    let mut answered = BodyBuffer::with_limit(limits.body);
    for row in rows {
        match object(
            archive,
            &row,
            &mut scratch,
            (&mut asked, &mut answered),
            limits.body,
        ) {
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
    limit: u64,
) -> Result<(Object<'s>, bool), ReadError> {
    let record = archive.load(row.id(), scratch)?;
    let request = message(archive, record.request(), asked, limit)?;
    let response = message(archive, record.response(), answered, limit)?;
    let whole = [&request, &response].into_iter().flatten().all(|message| {
        let body = &message.body;
        body.text.is_some() || body.base64.is_some()
    });
    let connection = record.connection();
    let owner = |workload: &Option<Arc<Workload>>| workload.as_deref().map(Owner::of);
    let object = Object {
        line: Line::of(row),
        begun: connection.origin.name(),
        client_workload: owner(&connection.workloads.client),
        server_workload: owner(&connection.workloads.server),
        request,
        interim: record
            .interim()
            .map(|interim| Interim::of(&interim))
            .collect(),
        response,
        grpc: stream::grpc_status(&record).map(|status| Grpc {
            status: status.code,
            name: status.name(),
            message: status.message,
        }),
    };
    Ok((object, whole))
}

fn message<'s>(
    archive: &'s Archive,
    view: Option<MessageView<'s>>,
    buffer: &'s mut BodyBuffer,
    limit: u64,
) -> Result<Option<Message<'s>>, ReadError> {
    let Some(view) = view else { return Ok(None) };
    let body = view.body();
    if body.len() > limit {
        return Ok(Some(Message::of(&view, None)));
    }
    let bytes = match archive.body(&body, buffer) {
        Ok(bytes) => Some(bytes),
        Err(ReadError::BodyTooLarge { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(Some(Message::of(&view, bytes)))
}

#[cfg(test)]
mod tests {
    use tapedeck_archive::{Provenance, Writer, WriterOptions};
    use tapedeck_model::exchange::{Arrival, Body, BodyGap};
    use tapedeck_model::{
        Connection, ConnectionId, Endpoint, Exchange, Gap, GapCause, Ledger, Missing, Origin,
        Protocol, Scope, Timestamp,
    };

    use super::*;

    /// A response without a head, to a request that was never seen: what is hardest to say.
    fn headless(body: &[u8]) -> Exchange {
        let endpoint = Endpoint::new("2001:db8::1".parse().unwrap(), 80);
        Exchange {
            key: 0,
            connection: Arc::new(Connection {
                id: ConnectionId(3),
                client: endpoint,
                server: endpoint,
                scope: Scope(0),
                origin: Origin::Midstream,
                opened: Timestamp::EPOCH,
                tls: None,
                workloads: tapedeck_model::Workloads::default(),
            }),
            stream: 1,
            protocol: Protocol::Http2,
            request: None,
            interim: Vec::new(),
            response: Some(tapedeck_model::Message {
                head: None,
                body: Body {
                    len: body.len() as u64,
                    tail: body.to_vec(),
                    gaps: vec![BodyGap {
                        offset: 1,
                        gap: Gap {
                            len: 0,
                            cause: GapCause::Lost,
                        },
                    }],
                    arrivals: vec![Arrival {
                        offset: 1,
                        at: Timestamp::EPOCH,
                    }],
                    ..Body::default()
                },
                trailers: None,
                first_byte: Timestamp::EPOCH,
                last_byte: Timestamp::EPOCH,
                missing: Missing::LOST,
                reset_code: Some(8),
            }),
            request_absent: Missing::PREDATES_CAPTURE,
            response_absent: Missing::NONE,
            tunnel: false,
            pushed: false,
            anomalies: Default::default(),
        }
    }

    fn exported(limit: u64) -> (Exported, Vec<serde_json::Value>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tape");
        let options = WriterOptions::new(Provenance::default());
        let mut writer = Writer::create(&path, options).unwrap();
        for body in [&b"text"[..], b"\xff\xfe\x00\x01\x02"] {
            writer.exchange(&headless(body)).unwrap();
        }
        writer.seal(&Ledger::default()).unwrap();
        let archive = Archive::open(&path).unwrap();
        let mut out = Vec::new();
        let limits = Limits { body: limit };
        let exported = export(&archive, archive.rows(), limits, &mut out).unwrap();
        let lines = out.split(|byte| *byte == b'\n');
        let lines = lines
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        (exported, lines)
    }

    #[test]
    fn what_is_missing_is_null_and_said() {
        let (exported, lines) = exported(100);
        assert_eq!((exported.exchanges, exported.without_body), (2, 0));
        let [line, binary] = &lines[..] else {
            panic!("two lines")
        };
        assert!(line["request"].is_null() && line["method"].is_null());
        let response = &line["response"];
        assert!(response["headers"].is_null() && response["trailers"].is_null());
        assert_eq!(response["reset_code"], 8);
        assert_eq!(response["body"]["text"], "text");
        let gap = serde_json::json!({"offset": 1, "len": 0, "cause": "lost"});
        assert_eq!(response["body"]["gaps"], serde_json::json!([gap]));
        assert_eq!(response["body"]["arrivals"][0]["offset"], 1);
        assert_eq!(binary["response"]["body"]["base64"], "//4AAQI=");
        assert!(binary["response"]["body"]["text"].is_null());
    }

    #[test]
    fn a_body_over_the_limit_is_counted_not_held() {
        let (exported, lines) = exported(4);
        assert_eq!((exported.exchanges, exported.without_body), (2, 1));
        let body = &lines[1]["response"]["body"];
        assert_eq!(body["len"], 5);
        assert!(body["text"].is_null() && body["base64"].is_null());
    }
}
