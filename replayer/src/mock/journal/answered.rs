//! Answers as they are written down: those of the archive at once, those of upstreams as they pass.

use tapedeck_model::{Missing, Timestamp};

use super::{Draft, Kept, KeptHead, Times, now};
use crate::mock::answer::{Answer, Http1Client};
use crate::mock::chaos::{Harm, Place};
use crate::mock::responder::Reply;

/// Writes down an answer of the mock's. `client`: in HTTP/1, whom it was for. `sent`: it went out as it
/// should.
pub(crate) fn answered(
    mut draft: Draft,
    reply: &Reply,
    client: Option<Http1Client>,
    begun: Timestamp,
    sent: bool,
) {
    let Reply { answer, effect, .. } = reply;
    let harm = effect.as_ref().and_then(|effect| effect.harm);
    if effect.is_some() {
        draft.mark_faulty();
    }
    for interim in answer.interim() {
        draft.interim(if client.is_some() {
            KeptHead::Lines(interim.http1.to_vec())
        } else {
            let (head, ()) = interim.http2().into_parts();
            KeptHead::of_status(head.status, head.headers)
        });
    }
    let ends = end(harm);
    if ends.is_some_and(Place::is_before_body) {
        return draft.answered(None);
    }
    let mut body = reply.body();
    if let Some(place) = ends {
        body.truncate(match place {
            Place::Body(bytes) => bytes.min(body.len().saturating_sub(1)),
            Place::BeforeHead | Place::InHead | Place::AfterHead => 0,
        });
    }
    let mut kept = Kept::whole(head(answer, client), body, begun);
    if !reply.head_only && ends.is_none() && !matches!(harm, Some(Harm::MissingTrailers)) {
        kept.trailers = trailers(answer, client.is_some());
    }
    kept.last_byte = now();
    if ends.is_some() || !sent {
        kept.missing = Missing::ABORTED;
    }
    if let (Some(Harm::Reset { code, .. }), None) = (harm, client) {
        kept.reset_code = Some(code);
    }
    draft.answered(Some(kept));
}

/// Where a harmed answer ends before its time.
const fn end(harm: Option<Harm>) -> Option<Place> {
    match harm {
        Some(Harm::Reset { at, .. } | Harm::Cut { at } | Harm::Stall { at, time: None }) => {
            Some(at)
        }
        Some(Harm::Goaway { .. }) => Some(Place::BeforeHead),
        Some(Harm::MalformedChunk) => Some(Place::AfterHead),
        Some(Harm::Stall { .. } | Harm::Length(_) | Harm::MissingTrailers) | None => None,
    }
}

fn head(answer: &Answer, client: Option<Http1Client>) -> KeptHead {
    match client {
        Some(client) => {
            let mut lines = Vec::with_capacity(512);
            answer.http1_head(&mut lines, client);
            lines.extend_from_slice(b"\r\n");
            // It may wait for long.
            lines.shrink_to_fit();
            KeptHead::Lines(lines)
        }
        None => {
            let (head, ()) = answer.http2().into_parts();
            KeptHead::of_status(head.status, head.headers)
        }
    }
}

fn trailers(answer: &Answer, http1: bool) -> Option<KeptHead> {
    if http1 {
        let lines = answer.trailer_lines();
        return (!lines.is_empty()).then(|| KeptHead::Lines(lines.to_vec()));
    }
    let fields = answer.http2_trailers()?.clone();
    Some(KeptHead::Fields(Vec::new(), fields))
}

/// An answer that is written down while it passes.
#[derive(Debug)]
pub(crate) struct Tee {
    draft: Draft,
    head: KeptHead,
    times: Times,
    held: Vec<u8>,
    len: u64,
    parts: u32,
    /// The queue had no room: the rest is not kept.
    full: bool,
}

impl Tee {
    pub(crate) fn new(draft: Draft, head: KeptHead) -> Self {
        Self {
            draft,
            head,
            times: Times::begin(),
            held: Vec::new(),
            len: 0,
            parts: 0,
            full: false,
        }
    }

    /// A piece of the body has come.
    pub(crate) fn data(&mut self, data: &[u8]) {
        if self.full || data.is_empty() {
            return;
        }
        if self.held.len() + data.len() > PART && !self.held.is_empty() {
            let part = std::mem::take(&mut self.held);
            let len = part.len() as u64;
            if !self.draft.part(part) {
                self.full = true;
                self.len -= len;
                return;
            }
            self.parts += 1;
        }
        self.times.note(self.len);
        self.held.extend_from_slice(data);
        self.len += data.len() as u64;
    }

    /// The answer is over. `whole`: as it should be.
    pub(crate) fn end(self, trailers: Option<KeptHead>, whole: bool) {
        let Self {
            draft,
            head,
            times,
            held,
            len,
            parts,
            full,
        } = self;
        let Times {
            first,
            last,
            mut arrivals,
        } = times;
        arrivals.retain(|arrival| arrival.offset < len);
        let mut missing = Missing::NONE;
        if full {
            missing.insert(Missing::PARTIAL);
        }
        if !whole {
            missing.insert(Missing::ABORTED);
        }
        draft.answered(Some(Kept {
            head,
            body: held.into(),
            len,
            parts,
            trailers,
            arrivals,
            first_byte: first,
            last_byte: last.max(now()),
            missing,
            reset_code: None,
        }));
    }
}

/// A body goes to the queue in pieces of this size.
const PART: usize = 64 << 10;
