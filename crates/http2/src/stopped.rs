//! Requests whose rest the server does not want (RFC 9113 section 8.1).
//!
//! A server that has answered may end the stream with RST_STREAM and NO_ERROR before the request
//! is over; nginx answers a POST to a file so. What of the request was under way by then still
//! comes, and often that is all of it.

use tapedeck_model::{Direction, EventSink, Missing, Role, Timestamp};

use crate::frame::StreamId;
use crate::messages::{Messages, Scene};
use crate::stream::Phase;
use crate::table::{Closed, Fate, Slot};

const NO_ERROR: u32 = 0;

/// The streams that were ended so, and when. They are open, so that there are never more of them than
/// the limit for streams.
#[derive(Debug, Default)]
pub(crate) struct Stopped(Vec<(StreamId, Timestamp)>);

impl Messages {
    /// Whether a RST_STREAM ends the stream so. The request then goes on until it ends, or
    /// [`end_stopped`](Self::end_stopped).
    pub(crate) fn stops<S>(
        &mut self,
        scene: &Scene<'_, S>,
        id: StreamId,
        slot: Slot,
        code: Option<u32>,
    ) -> bool {
        let stops = scene.direction == Direction::ToClient
            && code == Some(NO_ERROR)
            && self.streams.get(slot).is_some_and(|stream| {
                stream.response.phase == Phase::Ended && stream.request.phase == Phase::Body
            });
        if stops {
            self.stopped.0.push((id, scene.at));
        }
        stops
    }

    /// The client goes on with something else: what it did not send until now, it will not send.
    pub(crate) fn end_stopped<S: EventSink>(&mut self, scene: &mut Scene<'_, S>) {
        for (id, at) in std::mem::take(&mut self.stopped.0) {
            let Fate::Open(slot) = self.streams.fate(id) else {
                continue;
            };
            let now = std::mem::replace(&mut scene.at, at);
            let cause = Missing::ABORTED;
            let _last = self.stop(scene, slot, Role::Request, cause, Some(NO_ERROR));
            scene.at = now;
            self.streams
                .remove(id, Closed::Aborted(Direction::ToClient));
        }
    }
}
