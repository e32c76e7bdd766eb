//! Recorded exchanges out of an archive.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tapedeck_archive::{
    Archive, BodyBuffer, BodyView, HeadView, MessageView, ReadError, Record, Row, Scratch,
};
use tapedeck_filter::Filter;
use tapedeck_model::{Protocol, Timestamp, is_grpc, session_of};

use super::answer::{Answer, InterimRecording, Pair, Recording, Timing};
use super::call::{Call, Headers};
use super::chaos::{Chaos, Plan};
use super::dialogue::{Dialogue, Spoken};
use super::drawn::Drawn;
use super::fingerprint;
use super::index::Builder;
use super::miss::Recordings;
use super::options::{Latency, Limits, Options, Skipped, StartError};
use super::responder::{Responder, Source};
use super::rules::{Suggester, Suggestion};
use super::tls::Tls;
use super::turns::Arrivals;
use super::websocket::{self, Conversation, Recorded, Side};

/// Reads what can be served, and makes a responder of it.
///
/// Rows without a request body are indexed from the index of the archive alone; only request bodies
/// are read, in recorded order, so that each block is decompressed once.
pub(crate) fn responder(archive: Arc<Archive>, options: &Options) -> Result<Responder, StartError> {
    let tls = match &options.authority {
        Some(authority) => Some(Tls::new(Arc::clone(authority)).map_err(StartError::Tls)?),
        None => None,
    };
    let exchanges = archive.len();
    if exchanges == 0 {
        return Err(StartError::EmptyArchive);
    }
    let limit = u64::from(u32::MAX);
    let Some(count) = u32::try_from(exchanges).ok().filter(|n| *n < u32::MAX) else {
        return Err(StartError::TooManyExchanges { exchanges, limit });
    };
    let source = ArchiveSource::new(archive);
    let mut skipped = Skipped::default();
    let mut chosen = 0_u64;
    let mut served = 0_u64;
    let mut responses = 0_u64;
    let rows = || (0..count).filter_map(|id| Some((id, source.archive.row(id.into())?)));
    let mut builder = Builder::new(options.rules.clone(), options.repeat, source.authorities());
    let mut scratch = Scratch::new();
    let mut drawn = (options.latency == Latency::Drawn).then(Drawn::default);
    for (id, row) in rows() {
        if let Some(filter) = &options.filter {
            match filter.matches_with(&source.archive, &row, &mut scratch) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => {
                    skipped.unreadable += 1;
                    continue;
                }
            }
        }
        chosen += 1;
        responses += u64::from(row.status().is_some());
        let is_tunnel = row.tunnel();
        if is_tunnel && source.conversation(id).is_none() {
            skipped.tunnels += 1;
            continue;
        }
        let reason = unservable(&row, &options.limits, &mut skipped);
        if let Some(reason) = reason {
            *reason += 1;
            continue;
        }
        let with_fields = options.rules.compare_headers();
        let dialogue = source.dialogue(id);
        let is_added = source.with_request(id, &row, with_fields, |call| {
            builder.add(id, call);
            if let Some(dialogue) = &dialogue {
                builder.add_opening(id, call, dialogue.opening());
            }
        });
        if is_added {
            if let Some(drawn) = &mut drawn
                && let (Some(endpoint), Some(took)) = (row.endpoint(), row.first_byte())
            {
                drawn.add(id, &endpoint, took);
            }
            served += 1;
        } else {
            skipped.unreadable += 1;
        }
    }
    if chosen == 0 && skipped.unreadable == 0 {
        return Err(StartError::NothingChosen { exchanges });
    }
    if responses == 0 {
        return Err(StartError::NoResponses { exchanges });
    }
    if served == 0 {
        return Err(StartError::NothingToServe { exchanges, skipped });
    }
    let index = builder.finish(|id| {
        let mut session = None;
        source.with_call(id, &mut |call| {
            session = call.session.map(fingerprint::session)
        });
        session
    });
    let source = Box::new(source);
    let mut responder = Responder::new(index, source, count as usize, skipped, tls, options);
    if let Some(drawn) = drawn {
        responder.draw_from(drawn);
    }
    responder
        .set_chaos(options.chaos.clone())
        .map_err(StartError::Chaos)?;
    Ok(responder)
}

/// The rules that recorded requests suggest.
pub(crate) fn suggest(
    archive: Arc<Archive>,
    filter: Option<&Filter>,
) -> Result<Vec<Suggestion>, ReadError> {
    let source = ArchiveSource::new(archive);
    let mut suggester = Suggester::default();
    let _left_out = each_request(&source, filter, true, |_, call| suggester.look(call))?;
    Ok(suggester.finish())
}

/// Calls back with every whole request that a filter chooses, in recorded order: without its fields,
/// unless they are wanted or it has a body. Gives how many are left out: those that are not whole, cannot
/// be read, or ask a proxy for a tunnel.
pub(crate) fn each_request(
    source: &ArchiveSource,
    filter: Option<&Filter>,
    with_fields: bool,
    mut read: impl FnMut(u32, &Call<'_>),
) -> Result<u64, ReadError> {
    let mut scratch = Scratch::new();
    let mut left_out = 0;
    let count = u32::try_from(source.archive.len()).unwrap_or(u32::MAX);
    for (id, row) in (0..count).filter_map(|id| Some((id, source.archive.row(id.into())?))) {
        let chosen = filter.map(|filter| filter.matches_with(&source.archive, &row, &mut scratch));
        if chosen.transpose()? == Some(false) {
            continue;
        }
        let is_request = row.request_missing().is_empty() && row.method() != Some(b"CONNECT");
        let is_read =
            is_request && source.with_request(id, &row, with_fields, |call| read(id, call));
        left_out += u64::from(!is_read);
    }
    Ok(left_out)
}

/// Which exchanges each fault concerns.
fn plan(archive: &Archive, chaos: Chaos) -> Result<Plan, ReadError> {
    let words = usize::try_from(archive.len())
        .unwrap_or(usize::MAX)
        .div_ceil(64);
    Plan::new(chaos, Instant::now(), |filter| {
        let mut chosen = vec![0_u64; words];
        for row in filter.select(archive) {
            let id = usize::try_from(row?.id()).unwrap_or(usize::MAX);
            if let Some(word) = chosen.get_mut(id / 64) {
                *word |= 1 << (id % 64);
            }
        }
        Ok(chosen)
    })
}

/// The counter of the reason why an exchange is not served; `None`: it is.
fn unservable<'s>(row: &Row<'_>, limits: &Limits, skipped: &'s mut Skipped) -> Option<&'s mut u64> {
    let longer = |len: Option<u64>, limit: usize| {
        usize::try_from(len.unwrap_or(0)).map_or(true, |len| len > limit)
    };
    if !row.request_missing().is_empty() || row.method().is_none() || row.target().is_none() {
        return Some(&mut skipped.request_incomplete);
    }
    let Some(status) = row.status().filter(|_| row.response_missing().is_empty()) else {
        return Some(&mut skipped.response_incomplete);
    };
    if !(200..=999).contains(&status) && !row.tunnel() {
        return Some(&mut skipped.unreadable);
    }
    if longer(row.request_body_len(), limits.body_bytes)
        || longer(row.response_body_len(), limits.answer_bytes)
    {
        return Some(&mut skipped.too_large);
    }
    None
}

/// Calls back with a recorded request without its body.
fn with_line(row: &Row<'_>, read: &mut dyn FnMut(&Call<'_>)) {
    if let (Some(method), Some(target)) = (row.method(), row.target()) {
        read(&Call {
            method: if row.tunnel() {
                websocket::METHOD
            } else {
                method
            },
            authority: row.authority(),
            target: &target,
            content_type: None,
            session: None,
            headers: Headers::None,
            body: b"",
        });
    }
}

/// An archive as the matcher reads it.
pub(crate) struct ArchiveSource {
    archive: Arc<Archive>,
    /// As many as ever read at once: one a thread.
    readers: Mutex<Vec<Reader>>,
}

/// What reading needs; kept, because it is large.
#[derive(Default)]
struct Reader {
    scratch: Scratch,
    body: BodyBuffer,
}

impl ArchiveSource {
    pub(crate) fn new(archive: Arc<Archive>) -> Self {
        Self {
            archive,
            readers: Mutex::default(),
        }
    }

    /// The authorities that requests name, each as often as it is named.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = &[u8]> {
        let rows = (0..self.archive.len()).filter_map(|id| self.archive.row(id));
        rows.filter_map(|row| row.authority())
    }

    /// Calls back with a request: from the index alone, where it has no body and its fields are not
    /// wanted. `false`: it cannot be read.
    fn with_request(
        &self,
        id: u32,
        row: &Row<'_>,
        with_fields: bool,
        mut read: impl FnMut(&Call<'_>),
    ) -> bool {
        let mut is_read = false;
        let mut read = |call: &Call<'_>| {
            read(call);
            is_read = true;
        };
        // What the client said within a conversation is no body of the request.
        let bodyless = row.tunnel() || row.request_body_len() == Some(0);
        if bodyless && !with_fields {
            with_line(row, &mut read);
        } else {
            self.with_call(id, &mut read);
        }
        is_read
    }

    fn with_reader<T>(&self, read: impl FnOnce(&mut Reader) -> T) -> T {
        let readers = || self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reader = readers().pop().unwrap_or_default();
        let value = read(&mut reader);
        readers().push(reader);
        value
    }
}

impl Recordings for ArchiveSource {
    fn with_line(&self, id: u32, read: &mut dyn FnMut(&Call<'_>)) {
        if let Some(row) = self.archive.row(id.into()) {
            with_line(&row, read);
        }
    }

    fn with_call(&self, id: u32, read: &mut dyn FnMut(&Call<'_>)) {
        self.with_line(id, &mut |line| {
            self.with_reader(|reader| {
                let record = self.archive.load(id.into(), &mut reader.scratch).ok()?;
                let request = record.request()?;
                let head = request.head();
                let field = |name: &str| head.and_then(|head| head.field(name));
                let body = match line.method {
                    websocket::METHOD => b"",
                    _ => self.archive.body(&request.body(), &mut reader.body).ok()?,
                };
                read(&Call {
                    content_type: field("content-type"),
                    session: session_of(field),
                    headers: head.map_or(Headers::None, Headers::Recorded),
                    body,
                    ..*line
                });
                Some(())
            });
        });
    }
}

impl Source for ArchiveSource {
    fn plan(&self, chaos: Chaos) -> Result<Plan, ReadError> {
        plan(&self.archive, chaos)
    }

    fn body_len(&self, id: u32) -> u64 {
        self.archive
            .row(id.into())
            .and_then(|row| row.response_body_len())
            .unwrap_or(0)
    }

    fn conversation(&self, id: u32) -> Option<Conversation> {
        let row = self.archive.row(id.into())?;
        let whole = row.request_missing().is_empty() && row.response_missing().is_empty();
        if !row.tunnel() || row.status() != Some(101) || !whole {
            return None;
        }
        self.with_reader(|reader| {
            let record = self.archive.load(id.into(), &mut reader.scratch).ok()?;
            let (request, response) = (record.request()?, record.response()?);
            let head = response.head()?;
            if !head.field("upgrade")?.eq_ignore_ascii_case(b"websocket") {
                return None;
            }
            let first = response.first_byte();
            let times = |body: &BodyView<'_>, last: Timestamp| Arrivals {
                marks: arrivals(body, first),
                last: last.since(first),
            };
            let (sent, said) = (request.body(), response.body());
            // A buffer holds one body.
            let to_server = self.archive.body(&sent, &mut reader.body).ok()?.to_vec();
            let to_client = self.archive.body(&said, &mut reader.body).ok()?;
            let asked = request.head().map(|_| request.first_byte());
            Conversation::of(&Recorded {
                fields: fields(&head),
                first_byte: asked.map_or(Duration::ZERO, |asked| first.since(asked)),
                to_server: Side {
                    bytes: &to_server,
                    arrivals: times(&sent, request.last_byte()),
                },
                to_client: Side {
                    bytes: to_client,
                    arrivals: times(&said, response.last_byte()),
                },
            })
        })
    }

    fn dialogue(&self, id: u32) -> Option<Dialogue> {
        let row = self.archive.row(id.into())?;
        let may_be = row.protocol() == Protocol::Http2 && row.method() == Some(b"POST");
        if !may_be || row.request_body_len().unwrap_or(0) == 0 || row.tunnel() {
            return None;
        }
        self.with_reader(|reader| {
            let record = self.archive.load(id.into(), &mut reader.scratch).ok()?;
            let (request, response) = (record.request()?, record.response()?);
            let media = request.head()?.field("content-type")?;
            let began = request.first_byte();
            // Whoever answers when all has been said takes no turns.
            if !is_grpc(media) || response.first_byte() >= request.last_byte() {
                return None;
            }
            let times = |body: &BodyView<'_>, first: Timestamp, last: Timestamp| {
                let first = (0, first.since(began));
                let marks = arrivals(body, began)
                    .into_iter()
                    .skip_while(|(at, _)| *at == 0);
                Arrivals {
                    marks: std::iter::once(first).chain(marks).collect(),
                    last: last.since(began),
                }
            };
            let (sent, said) = (request.body(), response.body());
            let to_server = self.archive.body(&sent, &mut reader.body).ok()?.to_vec();
            let to_client = self.archive.body(&said, &mut reader.body).ok()?;
            Dialogue::of(&Spoken {
                to_server: (&to_server, times(&sent, began, request.last_byte())),
                to_client: (
                    to_client,
                    times(&said, response.first_byte(), response.last_byte()),
                ),
            })
        })
    }

    fn answer(&self, id: u32) -> Option<Answer> {
        let row = self.archive.row(id.into())?;
        self.with_reader(|reader| {
            let record = self.archive.load(id.into(), &mut reader.scratch).ok()?;
            let response = record.response()?;
            let head = response.head()?;
            let asked = record.request().map(|request| request.last_byte());
            let view = response.body();
            let body = self.archive.body(&view, &mut reader.body).ok()?;
            Answer::compose(&Recording {
                method: row.method()?,
                status: head.status()?,
                reason: reason(&head),
                fields: fields(&head),
                body,
                trailers: response
                    .trailers()
                    .map_or_else(Vec::new, |head| fields(&head)),
                interim: interim(&record, asked),
                timing: timing(&response, &view, asked),
            })
        })
    }
}

fn interim<'a>(record: &Record<'a>, asked: Option<Timestamp>) -> Vec<InterimRecording<'a>> {
    record
        .interim()
        .filter_map(|interim| {
            let head = interim.head;
            Some(InterimRecording {
                status: head.status()?,
                reason: reason(&head),
                fields: fields(&head),
                at: asked.map_or(Duration::ZERO, |asked| interim.at.since(asked)),
            })
        })
        .collect()
}

fn timing(response: &MessageView<'_>, body: &BodyView<'_>, asked: Option<Timestamp>) -> Timing {
    let first = response.first_byte();
    Timing {
        first_byte: asked.map_or(Duration::ZERO, |asked| first.since(asked)),
        arrivals: arrivals(body, first),
    }
}

fn arrivals(body: &BodyView<'_>, since: Timestamp) -> Vec<(usize, Duration)> {
    body.arrivals()
        .map(|arrival| {
            let offset = usize::try_from(arrival.offset).unwrap_or(usize::MAX);
            (offset, arrival.at.since(since))
        })
        .collect()
}

fn reason<'a>(head: &HeadView<'a>) -> Option<&'a [u8]> {
    (head.protocol() != Protocol::Http2).then(|| head.reason())
}

fn fields<'a>(head: &HeadView<'a>) -> Vec<Pair<'a>> {
    head.fields()
        .filter_map(|field| Some((field.name?, field.value?)))
        .collect()
}
