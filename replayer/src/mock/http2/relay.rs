//! What upstreams answer to requests over HTTP/2.

use std::future::{pending, poll_fn};
use std::sync::Arc;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, request};

use super::stream::{Stream, call};
use super::upload::Upload;
use crate::mock::journal::{Draft, KeptHead, Said, Tee};
use crate::mock::responder::{NOTHING_MATCHES, Origin};
use crate::mock::upstream::{Outgoing, Passed, Piece, Pieces};

impl Stream {
    /// Passes a request on while it comes, and the answer back while that comes.
    pub(super) async fn relay_as_it_comes(&mut self, head: &request::Parts, upload: Upload) {
        let responder = Arc::clone(&self.responder);
        let asked = call(head, b"");
        let Origin { caller, tunnel } = &self.origin;
        let reason = NOTHING_MATCHES.to_owned();
        let passed_on = responder.pass_on(&asked, tunnel.as_ref(), reason);
        let stream = u64::from(self.respond.stream_id().as_u32());
        let scheme = head.uri.scheme_str().unwrap_or_default();
        let mut draft = responder.draft(caller, stream, &asked, scheme, passed_on.is_ok());
        let mut outgoing = match passed_on {
            Ok(outgoing) => outgoing,
            Err(reply) => return self.give(&reply, draft).await,
        };
        let said = draft.as_mut().map(Draft::goes_on);
        let pieces = outgoing.goes_on();
        let (begun, stream) = upload.into_parts();
        tokio::select! {
            () = self.relay(outgoing, draft) => {}
            () = pass(begun, stream, pieces, said) => {}
        }
    }

    /// Sends what an upstream answers, as it comes.
    pub(super) async fn relay(&mut self, outgoing: Outgoing, mut draft: Option<Draft>) {
        let responder = Arc::clone(&self.responder);
        let asked = tokio::select! {
            asked = responder.ask(outgoing) => asked,
            _ = poll_fn(|cx| self.respond.poll_reset(cx)) => return,
        };
        let mut passed = match asked {
            Ok(passed) => passed,
            Err(reply) => {
                if let Some(draft) = &mut draft {
                    draft.unanswered();
                }
                return self.give(&reply, draft).await;
            }
        };
        let mut response = http::Response::new(());
        *response.status_mut() = passed.status;
        *response.headers_mut() = passed.fields.clone();
        let mut tee = draft.map(|mut draft| {
            if let Some(peer) = passed.peer {
                draft.answered_by(peer);
            }
            let head = KeptHead::of_status(passed.status, passed.fields.clone());
            Tee::new(draft, head)
        });
        let over = passed.is_over();
        let mut trailers = None;
        let whole = match self.respond.send_response(response, over) {
            Ok(_) if over => true,
            Ok(mut stream) => {
                let relayed = self.relay_body(&mut passed, &mut stream, &mut tee).await;
                relayed.is_some_and(|last| {
                    trailers = last.clone();
                    match last {
                        Some(fields) => stream.send_trailers(fields).is_ok(),
                        None => stream.send_data(Bytes::new(), true).is_ok(),
                    }
                })
            }
            Err(_) => false,
        };
        if let Some(tee) = tee {
            let kept = trailers.map(|fields| KeptHead::Fields(Vec::new(), fields));
            tee.end(kept, whole);
        }
    }

    /// Sends the body of an upstream's answer, and gives its trailers. `None`: it did not end as it
    /// should; the stream was reset.
    async fn relay_body(
        &self,
        passed: &mut Passed,
        stream: &mut SendStream<Bytes>,
        tee: &mut Option<Tee>,
    ) -> Option<Option<HeaderMap>> {
        let mut trailers = None;
        loop {
            let piece = tokio::select! {
                piece = passed.next() => piece,
                _ = poll_fn(|cx| stream.poll_reset(cx)) => return None,
            };
            match piece {
                Piece::Data(data) => {
                    if let Some(tee) = tee {
                        tee.data(&data);
                    }
                    self.send_as_allowed(stream, data, false).await?;
                }
                Piece::Trailers(fields) => trailers = Some(fields),
                Piece::End => return Some(trailers),
                Piece::Broken => {
                    self.responder.upstream_failed();
                    stream.send_reset(Reason::INTERNAL_ERROR);
                    return None;
                }
            }
        }
    }
}

/// Hands the body of a request on as it comes. Does not end: who answers does.
async fn pass(begun: Bytes, mut stream: RecvStream, pieces: Pieces, said: Option<Said>) {
    if let Some(said) = &said {
        said.add(&begun);
    }
    if !begun.is_empty() && !pieces.data(begun).await {
        return pending().await;
    }
    while let Some(data) = poll_fn(|cx| stream.poll_data(cx)).await {
        let Ok(data) = data else {
            // Without its end it is no request.
            drop(pieces);
            return pending().await;
        };
        if let Some(said) = &said {
            said.add(&data);
        }
        let len = data.len();
        // Who takes no more has answered, or will not.
        if !pieces.data(data).await || stream.flow_control().release_capacity(len).is_err() {
            return pending().await;
        }
    }
    if let Ok(trailers) = stream.trailers().await {
        pieces.end(trailers).await;
    }
    if let Some(said) = &said {
        said.end();
    }
    pending().await
}
