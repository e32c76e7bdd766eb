//! Who spoke when, where client and server take turns: WebSocket, and streams of gRPC.
//!
//! Recordings note when bytes came where there was a pause before them. What was said without one, both
//! ways, is taken for question and answer in turn.

use std::time::Duration;

/// When something came: not before, and not after.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Came {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

/// When the bytes of one direction came, counted from any moment that both directions share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals {
    /// From this offset on they came then.
    pub(crate) marks: Vec<(usize, Duration)>,
    /// When the last of them came.
    pub(crate) last: Duration,
}

impl Arrivals {
    /// When the byte before this offset came.
    pub(crate) fn came(&self, end: usize) -> Came {
        let next = self.marks.partition_point(|(offset, _)| *offset < end);
        let mark = next.checked_sub(1).and_then(|at| self.marks.get(at));
        let from = mark.map_or(Duration::ZERO, |(_, at)| *at);
        let until = self.marks.get(next).map_or(self.last, |(_, at)| *at);
        Came {
            from,
            until: until.max(from),
        }
    }
}

/// What the server waits for before it speaks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Wait {
    /// Messages that the client had sent by then, without doubt.
    pub(crate) after: usize,
    /// Messages that it probably had.
    pub(crate) likely: usize,
    /// Since the later of what the server said before and the last of these messages.
    pub(crate) pause: Duration,
}

/// Puts what a server said into the order of what its client said.
#[derive(Debug)]
pub(crate) struct Order<'m> {
    /// The client's messages.
    messages: &'m [Came],
    before: Duration,
    likely: usize,
}

impl<'m> Order<'m> {
    pub(crate) const fn new(messages: &'m [Came]) -> Self {
        Self {
            messages,
            before: Duration::ZERO,
            likely: 0,
        }
    }

    /// What waited for what, of something that the server said next. `answers`: it may be the answer to
    /// a message.
    pub(crate) fn next(&mut self, came: Came, answers: bool) -> Wait {
        let messages = self.messages;
        let after = messages.partition_point(|message| message.until <= came.from);
        let possible = messages.partition_point(|message| message.from < came.until);
        self.likely = (self.likely + usize::from(answers))
            .min(possible)
            .max(after);
        let heard = self
            .likely
            .checked_sub(1)
            .and_then(|last| messages.get(last));
        let since = self
            .before
            .max(heard.map_or(Duration::ZERO, |message| message.from));
        self.before = came.from;
        Wait {
            after,
            likely: self.likely,
            pause: came.from.saturating_sub(since),
        }
    }
}

/// How long the server waits for a message that it may not have come behind.
pub(crate) const UNSURE: Duration = Duration::from_millis(250);
