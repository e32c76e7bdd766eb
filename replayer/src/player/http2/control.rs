//! Frames that are about the connection, and about windows.

use super::connection::{Connection, flow_control, protocol, sized};
use super::error::{Code, Http2Error};
use super::frame::{self, FrameHead, HEAD_LEN, MAX_PAYLOAD};
use super::stream::Slot;

impl Connection {
    pub(super) fn settings(&mut self, head: FrameHead, payload: &[u8]) -> Result<(), Http2Error> {
        sized(payload.len().is_multiple_of(6).then_some(()))?;
        if head.stream != 0 {
            return Err(protocol("SETTINGS are for the connection"));
        }
        if head.has(frame::ACK) {
            return sized(payload.is_empty().then_some(()));
        }
        if !std::mem::replace(&mut self.peer.greeted, true) {
            // Who says nothing of it has no limit (RFC 9113 section 6.5.2).
            self.peer.streams = u32::MAX;
        }
        for (id, value) in frame::settings_of(payload) {
            match id {
                frame::MAX_CONCURRENT_STREAMS => self.peer.streams = value,
                frame::INITIAL_WINDOW_SIZE => self.resize_windows(value)?,
                // One that allows more need not get more.
                frame::MAX_FRAME_SIZE if !(MAX_PAYLOAD..1 << 24).contains(&value) => {
                    return Err(protocol("SETTINGS_MAX_FRAME_SIZE is none"));
                }
                // The size of a table that is not used, and what is not for clients.
                _ => {}
            }
        }
        frame::head(&mut self.out, 0, frame::SETTINGS, frame::ACK, 0);
        self.replied(HEAD_LEN)
    }

    /// RFC 9113 section 6.9.2: the windows of open streams change with it.
    fn resize_windows(&mut self, value: u32) -> Result<(), Http2Error> {
        let window = i64::from(value);
        if window > Self::MAX_WINDOW {
            return Err(flow_control("SETTINGS_INITIAL_WINDOW_SIZE is none"));
        }
        let change = window - std::mem::replace(&mut self.peer.window, window);
        for (_, slot) in self.streams.slots() {
            self.widen(slot, change)?;
        }
        Ok(())
    }

    /// Changes what may be sent on a stream.
    fn widen(&mut self, slot: Slot, change: i64) -> Result<(), Http2Error> {
        let Some(stream) = self.streams.get(slot) else {
            return Ok(());
        };
        stream.send_window += change;
        if stream.send_window > Self::MAX_WINDOW {
            return Err(flow_control(
                "the window of a stream grows beyond the largest",
            ));
        }
        if stream.send_window > 0
            && let Some(upload) = &mut stream.upload
            && !std::mem::replace(&mut upload.queued, true)
        {
            self.uploads.push_back(slot);
        }
        Ok(())
    }

    pub(super) fn window_update(
        &mut self,
        head: FrameHead,
        payload: &[u8],
    ) -> Result<(), Http2Error> {
        let more = sized(frame::number_of(payload))? & (u32::MAX >> 1);
        if head.stream == 0 {
            self.send_window += i64::from(more);
            if more == 0 {
                return Err(protocol("a WINDOW_UPDATE updates nothing"));
            }
            if self.send_window > Self::MAX_WINDOW {
                return Err(flow_control(
                    "the connection's window grows beyond the largest",
                ));
            }
            return Ok(());
        }
        self.known(head.stream)?;
        match self.streams.of_id(head.stream) {
            Some((slot, _)) if more == 0 => {
                self.abort(slot, head.stream, "a WINDOW_UPDATE updates nothing")
            }
            Some((slot, _)) => self.widen(slot, more.into()),
            None => Ok(()),
        }
    }

    pub(super) fn goaway(&mut self, payload: &[u8]) -> Result<(), Http2Error> {
        let (last, rest) = sized(payload.split_first_chunk::<4>())?;
        let (code, _) = sized(rest.split_first_chunk::<4>())?;
        let last = u32::from_be_bytes(*last) & (u32::MAX >> 1);
        let code = Code(u32::from_be_bytes(*code));
        self.goaway = Some(code);
        for (id, slot) in self.streams.slots() {
            if id > last {
                self.streams
                    .settle(slot, Err(Http2Error::NotProcessed(code)));
            }
        }
        Ok(())
    }
}
