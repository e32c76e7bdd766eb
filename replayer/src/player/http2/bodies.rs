//! Bodies, both ways.

use std::time::Instant;

use super::connection::{Connection, LONGEST, Reading, flow_control, protocol};
use super::error::Http2Error;
use super::frame::{self, FrameHead, HEAD_LEN};

/// DATA that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    stream: u32,
    left: u32,
    /// Of those, how many are padding; `None`: the next byte says.
    padding: Option<u32>,
    end_stream: bool,
}

impl Connection {
    /// Writes on at the bodies, as far as there is room; `true`: something was written.
    pub(crate) fn upload(&mut self, now: Instant) -> bool {
        let mut any = false;
        while self.output().len() < self.limits.out {
            let Some(slot) = self.uploads.pop_front() else {
                break;
            };
            let Some(stream) = self.streams.get(slot) else {
                continue;
            };
            let Some(upload) = &mut stream.upload else {
                continue;
            };
            if !upload.body.is_empty() {
                let window = self.send_window.min(stream.send_window);
                let Some(window) = usize::try_from(window).ok().filter(|window| *window > 0) else {
                    // It waits for the stream's window by itself, and for the connection's in the queue.
                    if stream.send_window > 0 {
                        self.uploads.push_front(slot);
                        break;
                    }
                    upload.queued = false;
                    continue;
                };
                let part = upload.body.len().min(window).min(LONGEST);
                let part = upload.body.split_to(part);
                let ends = upload.body.is_empty() && upload.trailers.is_none();
                let flags = if ends { frame::END_STREAM } else { 0 };
                frame::head(&mut self.out, part.len(), frame::DATA, flags, stream.id);
                self.out.extend_from_slice(&part);
                self.send_window -= part.len() as i64;
                stream.send_window -= part.len() as i64;
            }
            any = true;
            if !upload.body.is_empty() {
                self.uploads.push_back(slot);
                continue;
            }
            if let Some(trailers) = upload.trailers.take() {
                frame::fields(&mut self.out, stream.id, &trailers, true, LONGEST);
            }
            stream.upload = None;
            stream.sent_whole = Some(now);
        }
        any
    }

    pub(super) fn begin_data(&mut self, head: FrameHead) -> Result<(), Http2Error> {
        self.known(head.stream)?;
        if head.has(frame::PADDED) && head.len == 0 {
            return Err(protocol("a frame has more padding than room"));
        }
        self.receive_window -= i64::from(head.len);
        if self.receive_window < 0 {
            return Err(flow_control(
                "more was sent than the connection's window allows",
            ));
        }
        self.give_back(head.len);
        let end_stream = head.has(frame::END_STREAM);
        if let Some((slot, stream)) = self.streams.of_id(head.stream) {
            stream.receive_window -= i64::from(head.len);
            if stream.receive_window < 0 {
                let what = "more was sent than the stream's window allows";
                return Err(flow_control(what));
            }
            if stream.status.is_none() {
                self.abort(
                    slot,
                    head.stream,
                    "the body of an answer comes before its head",
                )?;
            } else if !end_stream {
                stream.consumed += head.len;
                if stream.consumed >= Self::STREAM_WINDOW / 2 {
                    let more = std::mem::take(&mut stream.consumed);
                    stream.receive_window += i64::from(more);
                    frame::number(&mut self.out, frame::WINDOW_UPDATE, head.stream, more);
                    self.replied(HEAD_LEN + 4)?;
                }
            }
        }
        self.reading = Reading::Data(Data {
            stream: head.stream,
            left: head.len,
            padding: (!head.has(frame::PADDED)).then_some(0),
            end_stream,
        });
        if head.len == 0 {
            self.data_ended(head.stream, end_stream)?;
        }
        Ok(())
    }

    /// What is measured and forgotten makes room on the connection at once.
    fn give_back(&mut self, len: u32) {
        self.consumed += len;
        if self.consumed >= Self::CONNECTION_WINDOW / 2 {
            let more = std::mem::take(&mut self.consumed);
            self.receive_window += i64::from(more);
            frame::number(&mut self.out, frame::WINDOW_UPDATE, 0, more);
        }
    }

    pub(super) fn data<'i>(
        &mut self,
        mut data: Data,
        mut input: &'i [u8],
    ) -> Result<&'i [u8], Http2Error> {
        if data.padding.is_none()
            && let Some((padding, rest)) = input.split_first()
        {
            input = rest;
            data.left -= 1;
            let padding = u32::from(*padding);
            if padding > data.left {
                return Err(protocol("a frame has more padding than room"));
            }
            data.padding = Some(padding);
        }
        let len = (data.left as usize).min(input.len());
        let (part, rest) = input.split_at(len);
        // What is left is padding at its end.
        let padding = data.padding.unwrap_or(0);
        let body = part
            .len()
            .min((data.left - padding.min(data.left)) as usize);
        data.left -= part.len() as u32;
        self.reading = Reading::Data(data);
        if let Some((slot, stream)) = self.streams.of_id(data.stream)
            && let Some(left) = &mut stream.left
        {
            match left.checked_sub(body as u64) {
                Some(rest) => *left = rest,
                None => {
                    let what = "an answer is longer than its content-length";
                    self.abort(slot, data.stream, what)?;
                }
            }
        }
        if data.left == 0 {
            self.data_ended(data.stream, data.end_stream)?;
        }
        Ok(rest)
    }

    fn data_ended(&mut self, id: u32, end_stream: bool) -> Result<(), Http2Error> {
        self.reading = Reading::Frame;
        match self.streams.of_id(id) {
            Some((slot, _)) if end_stream => self.end(slot, id),
            _ => Ok(()),
        }
    }
}
