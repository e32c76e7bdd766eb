//! A call of gRPC that is answered in turns with its client.

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::request;
use tokio::time::Instant;

use super::stream::{Stream, call, timed_out};
use super::upload::{More, Upload};
use crate::mock::dialogue::{Dialogue, message_end};
use crate::mock::journal::{answered, now};
use crate::mock::responder::{Origin, Reply, scaled};
use crate::mock::turns::{UNSURE, Wait};

/// What a client has said.
struct Client {
    upload: Upload,
    /// Bytes of whole messages so far.
    heard: usize,
    messages: usize,
    is_over: bool,
}

impl Client {
    fn count(&mut self) {
        while let Some(len) = self.upload.body().get(self.heard..).and_then(message_end) {
            self.heard += len;
            self.messages += 1;
        }
    }
}

impl Stream {
    /// Answers a call that begins with so many bytes of what is there.
    pub(super) async fn take_turns(&mut self, head: &request::Parts, upload: Upload, len: usize) {
        let opening = upload.body().get(..len).unwrap_or_default();
        let begun = self.responder.take_turns(&call(head, opening)).await;
        let Origin { caller, .. } = &self.origin;
        let stream = u64::from(self.respond.stream_id().as_u32());
        let scheme = head.uri.scheme_str().unwrap_or_default();
        let mut draft = self
            .responder
            .draft(caller, stream, &call(head, b""), scheme, false);
        let mut upload = upload;
        if let Some(draft) = &mut draft {
            upload.tell(draft.goes_on());
        }
        let (reply, dialogue) = match begun {
            Ok((reply, dialogue)) if reply.effect.is_none() => (reply, dialogue),
            // What goes wrong waits for nobody.
            Ok((reply, _)) | Err(reply) => return self.give(&reply, draft).await,
        };
        let mut client = Client {
            upload,
            heard: 0,
            messages: 0,
            is_over: false,
        };
        client.count();
        let at = now();
        let done = self.answer_in_turns(&reply, &dialogue, &mut client).await;
        if let Some(draft) = draft {
            answered(draft, &reply, None, at, done.is_some());
        }
    }

    /// `None`: the stream ended before.
    async fn answer_in_turns(
        &mut self,
        reply: &Reply,
        dialogue: &Dialogue,
        client: &mut Client,
    ) -> Option<()> {
        let (answer, body) = (&reply.answer, reply.body());
        let trailers = answer.http2_trailers().cloned();
        let mut stream: Option<SendStream<Bytes>> = None;
        for turn in dialogue.turns() {
            self.wait(client, turn.wait, &mut stream).await?;
            let mut open = match stream.take() {
                Some(open) => open,
                None => self.respond.send_response(answer.http2(), false).ok()?,
            };
            let message = body.slice(turn.message.clone());
            self.send_data(&mut open, message, false).await?;
            stream = Some(open);
        }
        if dialogue.ends_last {
            let patience = self.responder.limits().idle_timeout;
            while !client.is_over {
                let until = Instant::now() + patience;
                if !self.hear_client(client, until, &mut stream).await? {
                    return self.give_up(&mut stream);
                }
            }
        }
        let Some(mut stream) = stream else {
            // An answer without messages.
            let mut head = self
                .respond
                .send_response(answer.http2(), trailers.is_none())
                .ok()?;
            return trailers.map_or(Some(()), |fields| head.send_trailers(fields).ok());
        };
        match trailers {
            Some(fields) => stream.send_trailers(fields).ok(),
            None => stream.send_data(Bytes::new(), true).ok(),
        }
    }

    /// Waits as the recorded server did.
    async fn wait(
        &mut self,
        client: &mut Client,
        wait: Wait,
        stream: &mut Option<SendStream<Bytes>>,
    ) -> Option<()> {
        let patience = self.responder.limits().idle_timeout;
        while client.messages < wait.after && !client.is_over {
            let until = Instant::now() + patience;
            if !self.hear_client(client, until, stream).await? {
                return self.give_up(stream);
            }
        }
        let until = Instant::now() + UNSURE;
        while client.messages < wait.likely && !client.is_over {
            if !self.hear_client(client, until, stream).await? {
                break;
            }
        }
        let Some(factor) = self.responder.latency() else {
            return Some(());
        };
        let due = Instant::now().checked_add(scaled(wait.pause, factor));
        while let Some(until) = due.filter(|due| !client.is_over && *due > Instant::now()) {
            if !self.hear_client(client, until, stream).await? {
                break;
            }
        }
        self.pause(stream.as_mut(), due).await
    }

    /// Listens once, until then; `false`: nothing came. `None`: the stream ended.
    async fn hear_client(
        &self,
        client: &mut Client,
        until: Instant,
        stream: &mut Option<SendStream<Bytes>>,
    ) -> Option<bool> {
        match client.upload.more(&self.responder, until).await {
            More::Data => client.count(),
            More::End => client.is_over = true,
            More::Timeout => return Some(false),
            More::Gone => return None,
            More::Refused(..) => {
                if let Some(stream) = stream {
                    stream.send_reset(Reason::REFUSED_STREAM);
                }
                return None;
            }
        }
        Some(true)
    }

    /// The client is silent for too long.
    fn give_up(&mut self, stream: &mut Option<SendStream<Bytes>>) -> Option<()> {
        timed_out(&self.responder);
        match stream {
            Some(stream) => stream.send_reset(Reason::CANCEL),
            None => self.respond.send_reset(Reason::CANCEL),
        }
        None
    }
}
