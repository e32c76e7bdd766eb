//! One connection to a target, as the client of it.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Instant;

use super::answer::{Answers, Meaning, Undecodable};
use super::bodies::Data;
use super::encode;
use super::error::{Code, Http2Error};
use super::frame::{self, FrameHead, HEAD_LEN, MAX_PAYLOAD};
use super::limits::Http2Limits;
use super::stream::{Answered, Outgoing, Slot, Stream, Streams, Upload};
use crate::player::outcome::{GrpcStatus, Reply};

/// The longest payload that is sent: everybody takes as much.
pub(super) const LONGEST: usize = MAX_PAYLOAD as usize;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) limits: Http2Limits,
    /// What waits for the socket, from `written` on.
    pub(super) out: Vec<u8>,
    pub(super) written: usize,
    /// Bytes of it that answer frames of the target.
    pub(super) replies: usize,
    pub(super) reading: Reading,
    /// The beginning of a frame whose end has not come.
    pub(super) pending: Vec<u8>,
    pub(super) block: Option<Block>,
    pub(super) answers: Answers,
    pub(super) streams: Streams,
    /// Streams that have something to send, and may.
    pub(super) uploads: VecDeque<Slot>,
    pub(super) next_id: u32,
    pub(super) peer: Peer,
    pub(super) send_window: i64,
    pub(super) receive_window: i64,
    /// Bytes of bodies that were not given back yet.
    pub(super) consumed: u32,
    pub(super) goaway: Option<Code>,
    pub(super) ended: Option<Http2Error>,
}

/// What the target's SETTINGS say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) streams: u32,
    pub(super) window: i64,
    /// It has sent some: they are the first that it says.
    pub(super) greeted: bool,
}

/// Where in its input the reader is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    /// At the beginning of a frame, or within one that is kept in `pending`.
    Frame,
    /// Within DATA, which is not kept.
    Data(Data),
}

/// A field block that is spread over several frames.
#[derive(Debug)]
pub(super) struct Block {
    stream: u32,
    end_stream: bool,
    bytes: Vec<u8>,
}

impl Connection {
    /// What browsers announce, about: the target's answers must not wait for the player's window.
    pub(super) const STREAM_WINDOW: u32 = 1 << 20;
    /// See [`Self::STREAM_WINDOW`].
    pub(super) const CONNECTION_WINDOW: u32 = 16 << 20;
    /// A window before anybody said otherwise (RFC 9113 section 6.9.2).
    const DEFAULT_WINDOW: u32 = 65_535;
    pub(super) const MAX_WINDOW: i64 = (1 << 31) - 1;
    const MAX_ID: u32 = (1 << 31) - 1;
    /// Buffers that are kept when they are empty: those of many idle connections add up.
    const KEPT: usize = 16 << 10;

    pub(crate) fn new(limits: Http2Limits) -> Self {
        let mut out = frame::PREFACE.to_vec();
        let settings = [
            (frame::ENABLE_PUSH, 0),
            (frame::INITIAL_WINDOW_SIZE, Self::STREAM_WINDOW),
        ];
        frame::settings(&mut out, &settings);
        let more = Self::CONNECTION_WINDOW - Self::DEFAULT_WINDOW;
        frame::number(&mut out, frame::WINDOW_UPDATE, 0, more);
        Self {
            limits,
            out,
            written: 0,
            replies: 0,
            reading: Reading::Frame,
            pending: Vec::new(),
            block: None,
            answers: Answers::new(limits.fields),
            streams: Streams::default(),
            uploads: VecDeque::new(),
            next_id: 1,
            peer: Peer {
                streams: limits.streams_before_settings,
                window: Self::DEFAULT_WINDOW.into(),
                greeted: false,
            },
            send_window: Self::DEFAULT_WINDOW.into(),
            receive_window: Self::CONNECTION_WINDOW.into(),
            consumed: 0,
            goaway: None,
            ended: None,
        }
    }

    /// Whether it will ever take another request.
    pub(crate) const fn is_usable(&self) -> bool {
        self.ended.is_none() && self.goaway.is_none() && self.next_id <= Self::MAX_ID
    }

    /// How it ended.
    pub(crate) const fn ended(&self) -> Option<Http2Error> {
        self.ended
    }

    /// Streams that are open.
    pub(crate) fn open_streams(&self) -> usize {
        self.streams.open()
    }

    /// How many more requests it takes now.
    pub(crate) fn places(&self) -> usize {
        if !self.is_usable() || self.output().len() >= self.limits.out {
            return 0;
        }
        (self.peer.streams as usize).saturating_sub(self.streams.open())
    }

    /// Begins a request. There must be a place for it.
    pub(crate) fn open(&mut self, now: Instant, request: &Outgoing<'_>) -> Slot {
        let id = self.next_id;
        self.next_id += 2;
        let ends = request.body.is_empty() && request.trailers.is_none();
        if id == 1 {
            let head = [&[encode::NO_TABLE], request.head].concat();
            frame::fields(&mut self.out, id, &head, ends, LONGEST);
        } else {
            frame::fields(&mut self.out, id, request.head, ends, LONGEST);
        }
        let upload = (!ends).then(|| Upload {
            body: request.body.clone(),
            trailers: request.trailers.cloned(),
            queued: true,
        });
        let slot = self.streams.insert(Stream {
            id,
            is_head: request.is_head,
            is_call: request.is_grpc,
            status: None,
            is_grpc: false,
            grpc_status: None,
            left: None,
            receive_window: Self::STREAM_WINDOW.into(),
            consumed: 0,
            send_window: self.peer.window,
            upload,
            sent_whole: ends.then_some(now),
            result: None,
            waker: None,
        });
        if !ends {
            self.uploads.push_back(slot);
        }
        slot
    }

    /// What became of a request; asked once more after that, nobody knows.
    pub(crate) fn poll_answer(
        &mut self,
        slot: Slot,
        context: &Context<'_>,
    ) -> Poll<Result<Answered, Http2Error>> {
        let Some(stream) = self.streams.get(slot) else {
            return Poll::Ready(Err(Http2Error::Closed(self.goaway)));
        };
        if let Some(result) = stream.result {
            self.streams.remove(slot);
            return Poll::Ready(result);
        }
        match &mut stream.waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => stream.waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Whoever opened it does not want the answer any more.
    pub(crate) fn cancel(&mut self, slot: Slot) {
        let Some(stream) = self.streams.remove(slot) else {
            return;
        };
        if stream.result.is_none() && self.ended.is_none() {
            frame::number(&mut self.out, frame::RST_STREAM, stream.id, Code::CANCEL.0);
        }
    }

    /// What waits for the socket.
    pub(crate) fn output(&self) -> &[u8] {
        self.out.get(self.written..).unwrap_or_default()
    }

    /// So much of it was taken.
    pub(crate) fn wrote(&mut self, len: usize) {
        self.written += len;
        self.replies = self.replies.saturating_sub(len);
        if self.written < self.out.len() {
            return;
        }
        self.written = 0;
        if self.out.capacity() > Self::KEPT {
            self.out = Vec::new();
        } else {
            self.out.clear();
        }
    }

    /// Takes the next bytes of the target. An error ends the connection.
    pub(crate) fn receive(&mut self, now: Instant, mut input: &[u8]) -> Result<(), Http2Error> {
        while !input.is_empty() && self.ended.is_none() {
            input = match self.reading {
                Reading::Data(data) => self.data(data, input)?,
                Reading::Frame if self.pending.is_empty() => self.whole_frame(now, input)?,
                Reading::Frame => self.pending_frame(now, input)?,
            };
        }
        Ok(())
    }

    /// Reads a frame where it lies; keeps it where its end has not come.
    fn whole_frame<'i>(&mut self, now: Instant, input: &'i [u8]) -> Result<&'i [u8], Http2Error> {
        if let Some((head, rest)) = FrameHead::read(input) {
            self.check(head, input)?;
            if head.kind == frame::DATA {
                self.begin_data(head)?;
                return Ok(rest);
            }
            if let Some((payload, behind)) = rest.split_at_checked(head.len as usize) {
                self.frame(now, head, payload)?;
                return Ok(behind);
            }
        }
        self.pending.extend_from_slice(input);
        Ok(&[])
    }

    /// Goes on with a frame whose beginning came before.
    fn pending_frame<'i>(&mut self, now: Instant, input: &'i [u8]) -> Result<&'i [u8], Http2Error> {
        let has_head = FrameHead::read(&self.pending).map(|(head, _)| head);
        let needed = has_head.map_or(HEAD_LEN, |head| HEAD_LEN + head.len as usize);
        let missing = needed.saturating_sub(self.pending.len());
        let (part, rest) = input.split_at(missing.min(input.len()));
        self.pending.extend_from_slice(part);
        let Some((head, _)) = FrameHead::read(&self.pending) else {
            return Ok(rest);
        };
        if has_head.is_none() {
            self.check(head, &self.pending)?;
            if head.kind == frame::DATA {
                self.pending.clear();
                self.begin_data(head)?;
                return Ok(rest);
            }
        }
        if self.pending.len() == HEAD_LEN + head.len as usize {
            let mut pending = std::mem::take(&mut self.pending);
            self.frame(now, head, pending.get(HEAD_LEN..).unwrap_or_default())?;
            if pending.capacity() <= Self::KEPT {
                pending.clear();
                self.pending = pending;
            }
        }
        Ok(rest)
    }

    /// What holds for every frame.
    fn check(&self, head: FrameHead, bytes: &[u8]) -> Result<(), Http2Error> {
        if !self.peer.greeted && head.kind != frame::SETTINGS {
            return Err(match bytes {
                [b'H', b'T', b'T', b'P', b'/', ..] => {
                    protocol("the answer is HTTP/1; the target wants http://")
                }
                [0x15 | 0x16, 3, ..] => protocol("the answer is TLS; the target wants https://"),
                _ => protocol("the answer is not HTTP/2"),
            });
        }
        if head.len > MAX_PAYLOAD {
            let what = "a frame is longer than the player allows";
            return Err(Http2Error::Violation(what, Code::FRAME_SIZE_ERROR));
        }
        if let Some(block) = &self.block
            && (head.kind != frame::CONTINUATION || head.stream != block.stream)
        {
            return Err(protocol("a frame stands within the fields of another"));
        }
        Ok(())
    }

    fn frame(&mut self, now: Instant, head: FrameHead, payload: &[u8]) -> Result<(), Http2Error> {
        match head.kind {
            frame::HEADERS => self.headers(now, head, payload)?,
            frame::CONTINUATION => self.continuation(now, head, payload)?,
            frame::SETTINGS => self.settings(head, payload)?,
            frame::WINDOW_UPDATE => self.window_update(head, payload)?,
            frame::RST_STREAM => {
                let code = sized(frame::number_of(payload))?;
                self.known(head.stream)?;
                if let Some((slot, _)) = self.streams.of_id(head.stream) {
                    self.streams
                        .settle(slot, Err(Http2Error::Reset(Code(code))));
                }
            }
            frame::GOAWAY => self.goaway(payload)?,
            frame::PING => {
                sized((payload.len() == 8).then_some(()))?;
                if !head.has(frame::ACK) {
                    frame::head(&mut self.out, 8, frame::PING, frame::ACK, 0);
                    self.out.extend_from_slice(payload);
                    self.replied(HEAD_LEN + 8)?;
                }
            }
            frame::PRIORITY => sized((payload.len() == 5).then_some(()))?,
            frame::PUSH_PROMISE => return Err(protocol("the target pushes, which it may not")),
            // RFC 9113 section 5.5: extensions are passed over.
            _ => {}
        }
        Ok(())
    }

    /// The stream is one that was opened; it may be over.
    pub(super) fn known(&self, stream: u32) -> Result<(), Http2Error> {
        if stream % 2 == 1 && stream < self.next_id {
            Ok(())
        } else {
            Err(protocol("a frame is for a stream that was never opened"))
        }
    }

    fn headers(&mut self, now: Instant, head: FrameHead, payload: &[u8]) -> Result<(), Http2Error> {
        self.known(head.stream)?;
        let padding = || protocol("a frame has more padding than room");
        let payload = frame::without_padding(head, payload).ok_or_else(padding)?;
        let fragment = match head.has(frame::PRIORITIZED) {
            true => sized(payload.get(5..))?,
            false => payload,
        };
        let end_stream = head.has(frame::END_STREAM);
        if head.has(frame::END_HEADERS) {
            return self.fields(now, head.stream, fragment, end_stream);
        }
        self.block = Some(Block {
            stream: head.stream,
            end_stream,
            bytes: fragment.to_vec(),
        });
        Ok(())
    }

    fn continuation(
        &mut self,
        now: Instant,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<(), Http2Error> {
        let Some(mut block) = self.block.take() else {
            return Err(protocol("a CONTINUATION frame continues nothing"));
        };
        if block.bytes.len() + payload.len() > self.limits.fields {
            return Err(too_many_fields());
        }
        block.bytes.extend_from_slice(payload);
        if head.has(frame::END_HEADERS) {
            return self.fields(now, block.stream, &block.bytes, block.end_stream);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A field block is whole.
    fn fields(
        &mut self,
        now: Instant,
        id: u32,
        block: &[u8],
        end_stream: bool,
    ) -> Result<(), Http2Error> {
        let meaning = self.answers.read(block).map_err(|error| match error {
            Undecodable::Broken => {
                let what = "the fields of an answer cannot be decoded";
                Http2Error::Violation(what, Code::COMPRESSION_ERROR)
            }
            Undecodable::TooLarge => too_many_fields(),
        })?;
        // What comes for a stream that is over was decoded for the table's sake.
        let Some((slot, stream)) = self.streams.of_id(id) else {
            return Ok(());
        };
        if let Err(what) = stream.take(now, meaning, end_stream) {
            self.abort(slot, id, what)?;
        } else if end_stream {
            self.end(slot, id)?;
        }
        Ok(())
    }

    /// The target has answered as much as it is going to.
    pub(super) fn end(&mut self, slot: Slot, id: u32) -> Result<(), Http2Error> {
        let Some(stream) = self.streams.get(slot) else {
            return Ok(());
        };
        let Some((status, first_byte)) = stream.status else {
            return self.abort(slot, id, "an answer ends before its head");
        };
        if stream.left.is_some_and(|left| left > 0) {
            return self.abort(slot, id, "an answer is shorter than its content-length");
        }
        // A page of an error is no answer to a call, whatever its status is.
        let grpc = match stream.is_grpc {
            true => Some(stream.grpc_status.unwrap_or(GrpcStatus::UNKNOWN)),
            false => stream.is_call.then_some(GrpcStatus::UNKNOWN),
        };
        let answered = Answered {
            reply: Reply { status, grpc },
            first_byte,
            sent_whole: stream.sent_whole,
        };
        let uploads = stream.upload.is_some();
        self.streams.settle(slot, Ok(answered));
        if uploads {
            // An early answer: what is left of the body is not wanted.
            self.reset(id, Code::CANCEL)?;
        }
        Ok(())
    }

    /// The target broke the rules of a stream.
    pub(super) fn abort(
        &mut self,
        slot: Slot,
        id: u32,
        what: &'static str,
    ) -> Result<(), Http2Error> {
        self.streams.settle(slot, Err(protocol(what)));
        self.reset(id, Code::PROTOCOL_ERROR)
    }

    fn reset(&mut self, id: u32, code: Code) -> Result<(), Http2Error> {
        frame::number(&mut self.out, frame::RST_STREAM, id, code.0);
        self.replied(HEAD_LEN + 4)
    }

    /// Counts what was written because of what the target sent.
    pub(super) fn replied(&mut self, len: usize) -> Result<(), Http2Error> {
        self.replies += len;
        if self.replies > self.limits.replies {
            let what = "the target asks for more than it reads";
            return Err(Http2Error::Violation(what, Code::ENHANCE_YOUR_CALM));
        }
        Ok(())
    }

    /// The target closed the connection.
    pub(crate) fn closed(&mut self) {
        self.fail(Http2Error::Closed(self.goaway));
    }

    /// The connection is over, for that reason. What the target did wrong it is told.
    pub(crate) fn fail(&mut self, error: Http2Error) {
        if self.ended.replace(error).is_some() {
            return;
        }
        for (_, slot) in self.streams.slots() {
            self.streams.settle(slot, Err(error));
        }
        if let Http2Error::Violation(_, code) = error {
            self.say_goodbye(code);
        }
    }

    /// Nobody will use it any more, and there is nothing left that could be wrong with it.
    pub(crate) fn finish(&mut self) {
        if self.ended.is_none() {
            self.say_goodbye(Code::NO_ERROR);
            self.ended = Some(Http2Error::Closed(None));
        }
    }

    fn say_goodbye(&mut self, code: Code) {
        frame::head(&mut self.out, 8, frame::GOAWAY, 0, 0);
        // The last stream of the target's that was looked at: it opens none.
        self.out.extend_from_slice(&[0; 4]);
        self.out.extend_from_slice(&code.0.to_be_bytes());
    }
}

#[cfg(test)]
impl Connection {
    /// What the target may still send, on every stream and on the connection.
    pub(super) fn shut_windows(&mut self, stream: i64, connection: i64) {
        self.receive_window = connection;
        for (_, slot) in self.streams.slots() {
            if let Some(open) = self.streams.get(slot) {
                open.receive_window = stream;
            }
        }
    }
}

impl Stream {
    /// Takes a field section; an error is what is wrong with it.
    fn take(
        &mut self,
        now: Instant,
        meaning: Meaning,
        end_stream: bool,
    ) -> Result<(), &'static str> {
        if meaning.malformed {
            return Err("the fields of an answer are malformed");
        }
        match (self.status, meaning.status) {
            (None, None) => Err("an answer has no status"),
            // RFC 9113 section 8.6.
            (None, Some(101)) => Err("the target switches protocols, which HTTP/2 cannot"),
            (None, Some(100..200)) if end_stream => Err("an answer ends before its head"),
            (None, Some(100..200)) => Ok(()),
            (None, Some(status)) => {
                self.status = Some((status, now));
                self.is_grpc = meaning.is_grpc;
                // A call may end with its head.
                self.grpc_status = meaning.grpc_status;
                let has_body = !self.is_head && !matches!(status, 204 | 304);
                self.left = meaning.length.filter(|_| has_body);
                Ok(())
            }
            (Some(_), Some(_)) => Err("an answer has two heads"),
            (Some(_), None) if !end_stream => Err("there is something behind the trailers"),
            (Some(_), None) => {
                self.grpc_status = meaning.grpc_status.or(self.grpc_status);
                Ok(())
            }
        }
    }
}

pub(super) fn protocol(what: &'static str) -> Http2Error {
    Http2Error::Violation(what, Code::PROTOCOL_ERROR)
}

pub(super) fn flow_control(what: &'static str) -> Http2Error {
    Http2Error::Violation(what, Code::FLOW_CONTROL_ERROR)
}

fn too_many_fields() -> Http2Error {
    let what = "the head of an answer is longer than 256 KiB";
    Http2Error::Violation(what, Code::ENHANCE_YOUR_CALM)
}

/// `None` is a payload of the wrong length.
pub(super) fn sized<T>(payload: Option<T>) -> Result<T, Http2Error> {
    let what = "a frame does not have the length of its kind";
    payload.ok_or(Http2Error::Violation(what, Code::FRAME_SIZE_ERROR))
}
