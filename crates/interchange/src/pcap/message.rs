//! The steps of a message: from what the archive has to bytes on a connection.

use std::io::{self, Write};

use tapedeck_archive::{Archive, BodyBuffer, HeadView, MessageView, ReadError, Record};
use tapedeck_model::{Direction, Gap, GapCause, Missing, Protocol, Role, Timestamp};

use super::http1::Framing;
use super::http2;
use super::speaker::{Part, Piece, Speaker};
use super::talk::{Language, Talk};
use super::wire::{MAX_GAP, Output};

/// Where a step of a message takes place.
pub(super) struct Scene<'s, 'o, W> {
    pub(super) archive: &'s Archive,
    pub(super) id: u64,
    pub(super) record: &'s Record<'s>,
    pub(super) role: Role,
    pub(super) talk: &'s mut Talk,
    pub(super) out: Output<'o, W>,
    pub(super) buffer: &'s mut BodyBuffer,
    /// Whether the stream was reset already.
    pub(super) reset: &'s mut bool,
    /// Bytes that no head has room for, and gaps that no connection has.
    pub(super) misfits: &'s mut u64,
}

/// Why a step failed.
#[derive(Debug)]
pub(super) enum StepError {
    Write(io::Error),
    /// A part of the archive is damaged.
    Read,
}

impl From<io::Error> for StepError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl From<ReadError> for StepError {
    fn from(_: ReadError) -> Self {
        Self::Read
    }
}

/// A message that is not whole for one of these reasons simply stops.
fn stops(missing: Missing) -> bool {
    missing.contains(Missing::ABORTED) || missing.contains(Missing::UNFINISHED)
}

/// Whether bytes of it are missing, and how that looks on the wire.
pub(super) fn loss(missing: Missing) -> Option<GapCause> {
    if missing.contains(Missing::TRUNCATED) {
        return Some(GapCause::Snaplen);
    }
    [
        Missing::LOST,
        Missing::PARTIAL,
        Missing::MALFORMED,
        Missing::DAMAGED,
    ]
    .into_iter()
    .any(|cause| missing.contains(cause))
    .then_some(GapCause::Lost)
}

impl<W: Write> Scene<'_, '_, W> {
    /// Takes the next step of a message; gives when the one after it is due, if there is one.
    pub(super) fn step(&mut self, speaker: &mut Speaker) -> Result<Option<Timestamp>, StepError> {
        let next = match speaker.part {
            Part::Interim(number) => self.interim(speaker, number)?,
            Part::Head => self.head(speaker)?,
            Part::HeadEnd => self.head_end(speaker)?,
            Part::Body => self.body(speaker)?,
            Part::End => {
                self.end(speaker)?;
                None
            }
        };
        self.talk.pause(&mut self.out)?;
        Ok(next)
    }

    fn message(&self) -> Option<MessageView<'_>> {
        match self.role {
            Role::Request => self.record.request(),
            Role::Response => self.record.response(),
        }
    }

    fn missing(&self) -> Missing {
        match (self.message(), self.role) {
            (Some(message), _) => message.missing(),
            (None, Role::Request) => self.record.request_absent(),
            (None, Role::Response) => self.record.response_absent(),
        }
    }

    fn direction(&self) -> Direction {
        match self.role {
            Role::Request if self.record.pushed() => Direction::ToClient,
            Role::Request => Direction::ToServer,
            Role::Response => Direction::ToClient,
        }
    }

    fn language(&self) -> Language {
        let head = self.message().and_then(|message| message.head());
        let protocol = head.map_or_else(|| self.record.protocol(), |head| head.protocol());
        match protocol {
            Protocol::Http10 | Protocol::Http11 => Language::Http1,
            Protocol::Http2 => Language::Http2,
        }
    }

    fn framing(&self, message: &MessageView<'_>) -> Framing {
        if self.record.tunnel() {
            return Framing::UntilClose;
        }
        let Some(head) = message.head() else {
            return Framing::UntilClose;
        };
        let request = self.record.request();
        let method = request.and_then(|request| request.head()?.method());
        let body = message.body();
        // The request was not seen: no body where one was announced means that it was HEAD.
        let nothing = body.is_empty() && body.gaps().next().is_none();
        let unasked = request.is_none() && nothing && message.missing().is_empty();
        Framing::of(&head, self.role, unasked || method == Some(b"HEAD"))
    }

    fn interim(
        &mut self,
        speaker: &mut Speaker,
        number: usize,
    ) -> Result<Option<Timestamp>, StepError> {
        let record = *self.record;
        let mut interims = record.interim().skip(number);
        if let Some(interim) = interims.next() {
            self.say_head(&interim.head, false)?;
        }
        if let Some(next) = interims.next() {
            speaker.part = Part::Interim(number + 1);
            return Ok(Some(next.at));
        }
        speaker.part = Part::Head;
        let at = self.message().map(|message| message.first_byte());
        Ok(Some(at.unwrap_or(self.out.at)))
    }

    fn head(&mut self, speaker: &mut Speaker) -> Result<Option<Timestamp>, StepError> {
        let language = self.language();
        let record = *self.record;
        let message = match self.role {
            Role::Request => record.request(),
            Role::Response => record.response(),
        };
        let Some(message) = message else {
            self.absent(language)?;
            return Ok(None);
        };
        let body = message.body();
        let mut begins = self.out.at;
        if record.tunnel()
            && self.role == Role::Request
            && let Some(answer) = record.response()
        {
            begins = begins.max(answer.first_byte());
        }
        speaker.begin_body(begins);
        let Some(head) = message.head() else {
            let cause = loss(message.missing()).unwrap_or(GapCause::Lost);
            self.lose_head(language, cause, false)?;
            return self.after_head(speaker, &message);
        };
        let bare = message.missing().is_empty() && speaker.body_over(&body);
        let slow = message.last_byte() > self.out.at;
        match language {
            Language::Http1 => {
                let framing = self.framing(&message);
                let raw = head.raw();
                let comment = self.comment();
                if bare && slow && !matches!(framing, Framing::Chunked | Framing::UntilClose) {
                    let (first, _) = raw.split_at(raw.len() / 2);
                    self.say(language, first, Some(&comment))?;
                    speaker.part = Part::HeadEnd;
                    return Ok(Some(message.last_byte()));
                }
                self.say(language, raw, Some(&comment))?;
            }
            Language::Http2 => {
                let end = bare && !slow && message.trailers().is_none();
                speaker.ended = end || (record.pushed() && self.role == Role::Request);
                self.say_head(&head, end)?;
                if speaker.ended {
                    return Ok(None);
                }
            }
        }
        self.after_head(speaker, &message)
    }

    fn head_end(&mut self, speaker: &mut Speaker) -> Result<Option<Timestamp>, StepError> {
        let record = *self.record;
        let message = match self.role {
            Role::Request => record.request(),
            Role::Response => record.response(),
        };
        if let Some(head) = message.and_then(|message| message.head()) {
            let raw = head.raw();
            let (_, second) = raw.split_at(raw.len() / 2);
            self.say(Language::Http1, second, None)?;
        }
        speaker.part = Part::End;
        Ok(Some(self.out.at))
    }

    /// When the body goes on, or its end is due.
    fn after_head(
        &self,
        speaker: &mut Speaker,
        message: &MessageView<'_>,
    ) -> Result<Option<Timestamp>, StepError> {
        let body = message.body();
        if speaker.body_over(&body) {
            speaker.part = Part::End;
            return Ok(Some(message.last_byte()));
        }
        if speaker.at_gap(&body) {
            return Ok(Some(self.out.at));
        }
        Ok(Some(speaker.piece(message, self.delimited(message)).at))
    }

    /// Whether something on the wire ends the message behind its last byte.
    fn delimited(&self, message: &MessageView<'_>) -> bool {
        match self.language() {
            Language::Http2 => true,
            Language::Http1 => self.framing(message) == Framing::Chunked,
        }
    }

    fn body(&mut self, speaker: &mut Speaker) -> Result<Option<Timestamp>, StepError> {
        let record = *self.record;
        let message = match self.role {
            Role::Request => record.request(),
            Role::Response => record.response(),
        };
        let Some(message) = message else {
            return Ok(None);
        };
        let body = message.body();
        if speaker.at_gap(&body) {
            if let Some(next) = body.gaps_from(speaker.gap).next() {
                self.body_gap(&message, next.gap, speaker.offset >= body.len())?;
            }
            speaker.gap += 1;
        } else {
            let piece = speaker.piece(&message, self.delimited(&message));
            self.body_piece(speaker, &message, piece)?;
            if speaker.ended {
                return Ok(None);
            }
        }
        self.after_head(speaker, &message)
    }

    fn body_piece(
        &mut self,
        speaker: &mut Speaker,
        message: &MessageView<'_>,
        piece: Piece,
    ) -> Result<(), StepError> {
        let body = message.body();
        let start = speaker.offset;
        let len = piece.end.saturating_sub(start).max(1);
        let mut buffer = std::mem::take(self.buffer);
        let read = self.archive.body_range(&body, start, len, &mut buffer);
        let said = read.map_err(StepError::from).and_then(|bytes| {
            speaker.offset = start.saturating_add(len);
            self.say_body(speaker, message, start, bytes)
        });
        *self.buffer = buffer;
        said
    }

    fn say_body(
        &mut self,
        speaker: &mut Speaker,
        message: &MessageView<'_>,
        start: u64,
        bytes: &[u8],
    ) -> Result<(), StepError> {
        match self.language() {
            Language::Http1 => match self.framing(message) {
                Framing::Chunked => {
                    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
                    chunk.extend_from_slice(bytes);
                    chunk.extend(b"\r\n");
                    self.say(Language::Http1, &chunk, None)
                }
                Framing::UntilClose => self.say(Language::Http1, bytes, None),
                framing @ (Framing::Exact(_) | Framing::None) => {
                    let announced = match framing {
                        Framing::Exact(announced) => announced,
                        _ => 0,
                    };
                    // A body from elsewhere may be longer than its head says, and nobody could
                    // tell it from the next message.
                    let room = usize::try_from(announced.saturating_sub(start));
                    let fits = bytes.len().min(room.unwrap_or(usize::MAX));
                    let (bytes, over) = bytes.split_at(fits);
                    *self.misfits += over.len() as u64;
                    self.say(Language::Http1, bytes, None)
                }
            },
            Language::Http2 => {
                speaker.ended = message.missing().is_empty()
                    && message.trailers().is_none()
                    && speaker.body_over(&message.body())
                    && message.last_byte() <= self.out.at;
                let direction = self.direction();
                self.talk
                    .account(direction, bytes.len() as u64, &mut self.out)?;
                let mut frames = Vec::with_capacity(bytes.len() + 64);
                http2::data(&mut frames, self.record.stream(), bytes, speaker.ended);
                self.say(Language::Http2, &frames, None)
            }
        }
    }

    /// Leaves out bytes of a body. `last`: nothing of it comes behind them.
    fn body_gap(
        &mut self,
        message: &MessageView<'_>,
        gap: Gap,
        last: bool,
    ) -> Result<(), StepError> {
        let len = gap.len.min(MAX_GAP);
        *self.misfits += gap.len - len;
        match self.language() {
            Language::Http1 => match self.framing(message) {
                // What ends the message was lost, too: that is for its end to say.
                Framing::Chunked | Framing::Exact(_) if len == 0 && last => {}
                Framing::Chunked => {
                    let head = format!("{:x}\r\n", len.max(1));
                    self.say(Language::Http1, head.as_bytes(), None)?;
                    self.skip(len.max(1), gap.cause)?;
                    self.say(Language::Http1, b"\r\n", None)?;
                }
                Framing::Exact(_) | Framing::UntilClose => self.skip(len.max(1), gap.cause)?,
                Framing::None => {}
            },
            Language::Http2 => {
                let mut left = len.max(1);
                while left > 0 {
                    let part = left.min(http2::MAX_PAYLOAD as u64);
                    self.lose_frame(http2::DATA, 0, part, gap.cause)?;
                    left -= part;
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, speaker: &Speaker) -> Result<(), StepError> {
        let record = *self.record;
        let message = match self.role {
            Role::Request => record.request(),
            Role::Response => record.response(),
        };
        match (message, self.language()) {
            (None, _) => Ok(()),
            (Some(message), Language::Http1) => self.end_http1(speaker, &message),
            (Some(message), Language::Http2) => self.end_http2(speaker, &message),
        }
    }

    fn end_http1(&mut self, speaker: &Speaker, message: &MessageView<'_>) -> Result<(), StepError> {
        let direction = self.direction();
        let missing = message.missing();
        let body = message.body();
        let known: u64 = body.gaps().map(|gap| gap.gap.len.max(1)).sum();
        let unknown = body.gaps().any(|gap| gap.gap.len == 0);
        match self.framing(message) {
            Framing::None => {}
            Framing::UntilClose if stops(missing) => {
                // Whoever answers next does so on another connection.
                if self.role == Role::Response && self.talk.remaining > 1 {
                    self.talk.reset(direction, &mut self.out)?;
                }
            }
            Framing::UntilClose => {
                self.talk.finish(direction, &mut self.out)?;
                if !self.record.tunnel() {
                    self.talk.finish(!direction, &mut self.out)?;
                }
            }
            Framing::Exact(announced) => {
                let left = announced.saturating_sub(speaker.offset.saturating_add(known));
                if left > 0 && !stops(missing) {
                    let cause = loss(missing).unwrap_or(GapCause::Lost);
                    self.skip(left, cause)?;
                    if left > MAX_GAP {
                        *self.misfits += left - MAX_GAP;
                        self.talk.reset(direction, &mut self.out)?;
                    }
                }
            }
            Framing::Chunked if stops(missing) => {}
            Framing::Chunked if unknown || (!missing.is_empty() && known == 0) => {
                let cause = loss(missing).unwrap_or(GapCause::Lost);
                self.skip(LOST_CHUNK, cause)?;
            }
            Framing::Chunked => {
                let mut last = b"0\r\n".to_vec();
                match message.trailers() {
                    Some(trailers) => last.extend_from_slice(trailers.raw()),
                    None => last.extend(b"\r\n"),
                }
                self.say(Language::Http1, &last, None)?;
            }
        }
        Ok(())
    }

    fn end_http2(&mut self, speaker: &Speaker, message: &MessageView<'_>) -> Result<(), StepError> {
        let missing = message.missing();
        let stream = self.record.stream();
        // A whole one has the code that came in the place of its answer.
        if let Some(code) = message.reset_code().filter(|_| !missing.is_empty()) {
            return self.reset_stream(code);
        }
        if stops(missing) || speaker.ended {
            return Ok(());
        }
        let lost = loss(missing).filter(|_| message.body().gaps().next().is_none());
        if let Some(cause) = lost.filter(|_| message.head().is_some()) {
            let flags = http2::END_HEADERS | http2::END_STREAM;
            self.lose_frame(http2::HEADERS, flags, 1, cause)?;
            return Ok(());
        }
        match message.trailers() {
            Some(trailers) => self.say_head(&trailers, true),
            None => {
                let mut frame = Vec::new();
                http2::data(&mut frame, stream, &[], true);
                self.say(Language::Http2, &frame, None)
            }
        }
    }

    /// A message that was never seen.
    fn absent(&mut self, language: Language) -> Result<(), StepError> {
        let missing = self.missing();
        if let Some(cause) = loss(missing) {
            return self.lose_head(language, cause, true);
        }
        let asked = self.record.request();
        match asked.and_then(|asked| asked.reset_code()) {
            Some(code) if language == Language::Http2 && self.role == Role::Response => {
                self.reset_stream(code)
            }
            // Without a code it was GOAWAY or the end of the connection: here it is the latter.
            _ => Ok(()),
        }
    }

    /// Leaves out the head of a message. `all`: and whatever followed it.
    fn lose_head(
        &mut self,
        language: Language,
        cause: GapCause,
        all: bool,
    ) -> Result<(), StepError> {
        match language {
            Language::Http1 => self.skip(LOST_HEAD, cause),
            // In HTTP/2 a request that is not there leaves no trace: its stream simply has none.
            Language::Http2 if all && self.role == Role::Request => Ok(()),
            Language::Http2 => {
                let end = if all { http2::END_STREAM } else { 0 };
                self.lose_frame(http2::HEADERS, http2::END_HEADERS | end, 1, cause)?;
                let direction = self.direction();
                self.talk.lost_fields(direction);
                Ok(())
            }
        }
    }

    /// A frame of which only the head is there.
    fn lose_frame(
        &mut self,
        kind: u8,
        flags: u8,
        len: u64,
        cause: GapCause,
    ) -> Result<(), StepError> {
        let mut head = Vec::new();
        http2::frame_head(&mut head, len as usize, kind, flags, self.record.stream());
        self.say(Language::Http2, &head, None)?;
        let direction = self.direction();
        self.talk
            .skip(direction, Language::Http2, len, cause, &mut self.out)?;
        Ok(self.talk.pause(&mut self.out)?)
    }

    fn reset_stream(&mut self, code: u32) -> Result<(), StepError> {
        if std::mem::replace(self.reset, true) {
            return Ok(());
        }
        let mut frame = Vec::new();
        http2::reset(&mut frame, self.record.stream(), code);
        // Who gave up is not recorded; clients cancel, servers refuse and fail.
        let direction = if code == CANCEL {
            Direction::ToServer
        } else {
            Direction::ToClient
        };
        Ok(self
            .talk
            .say(direction, Language::Http2, &frame, None, &mut self.out)?)
    }

    fn say_head(&mut self, head: &HeadView<'_>, end: bool) -> Result<(), StepError> {
        let comment = self.comment();
        if head.protocol() != Protocol::Http2 {
            self.say(Language::Http1, head.raw(), Some(&comment))?;
            self.talk.upgrading |= head.status() == Some(101)
                && head
                    .field("upgrade")
                    .is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(b"h2c"));
            return Ok(());
        }
        let direction = self.direction();
        let stream = self.record.stream();
        let promised = (self.role == Role::Request && self.record.pushed()).then_some(stream);
        if self.role == Role::Request && promised.is_none() {
            self.talk.parent = stream;
        }
        let on = if promised.is_some() {
            self.talk.parent
        } else {
            stream
        };
        // The connection has begun before a part of it can be lost.
        self.say(Language::Http2, &[], None)?;
        self.talk.make_unknown(direction, head, &mut self.out)?;
        let mut frames = Vec::new();
        http2::fields(&mut frames, on, head, end, promised);
        self.say(Language::Http2, &frames, Some(&comment))
    }

    fn say(
        &mut self,
        language: Language,
        bytes: &[u8],
        comment: Option<&str>,
    ) -> Result<(), StepError> {
        let direction = self.direction();
        self.talk
            .say(direction, language, bytes, comment, &mut self.out)?;
        Ok(())
    }

    fn skip(&mut self, len: u64, cause: GapCause) -> Result<(), StepError> {
        let direction = self.direction();
        self.talk
            .skip(direction, Language::Http1, len, cause, &mut self.out)?;
        Ok(self.talk.pause(&mut self.out)?)
    }

    fn comment(&self) -> String {
        let role = match self.role {
            Role::Request => "request",
            Role::Response => "response",
        };
        format!("exchange {}, {role}", self.id)
    }
}

/// The error code of a stream that is no longer needed (RFC 9113 section 7).
const CANCEL: u32 = 8;

/// More than what can be left of a chunk, so that its end and with it the framing is lost.
const LOST_CHUNK: u64 = 4;

/// Stands for a message of which nothing is known: as long as the shortest status line. A single
/// byte would look like a FIN that was lost.
const LOST_HEAD: u64 = 13;
