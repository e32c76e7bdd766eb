//! The order of what both directions say.
//!
//! A direction that waits is read later than the other one. What the other one says in the meantime
//! waits, too, so that an answer never comes before its request. So it is with what was lost: how much
//! that was, if anything, is known when the next record opens.

use std::collections::VecDeque;

use tapedeck_model::{Direction, Input, PerDirection, Timestamp, Tls};

use crate::Sink;
use crate::half::{HELD_INPUT, Held};

/// Where each direction is, and what was said too early.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Inputs so far.
    count: u64,
    /// The number of the input that is being read.
    pub(crate) now: u64,
    /// The number of the first input of a direction that is still to be read.
    pub(crate) behind: PerDirection<Option<u64>>,
    /// The number of the input at which a direction lost something that is not told yet.
    pub(crate) gaps: PerDirection<Option<u64>>,
    /// What is behind such an input, by its number.
    ahead: VecDeque<(u64, Timestamp, Direction, Held)>,
    pub(crate) bytes: usize,
}

impl Order {
    /// A new input is being read.
    pub(crate) const fn begin(&mut self) {
        self.count += 1;
        self.now = self.count;
    }

    /// Whether a direction said something behind that input, or it is not known yet.
    pub(crate) fn may_have_spoken(&self, direction: Direction, behind: u64) -> bool {
        let last = self
            .ahead
            .iter()
            .rev()
            .find(|(_, _, of, _)| *of == direction);
        self.behind[direction].is_some()
            || self.gaps[direction].is_some()
            || last.is_some_and(|(number, ..)| *number > behind)
    }

    fn must_wait(&self, number: u64, direction: Direction) -> bool {
        let earlier = |of: Option<u64>| of.is_some_and(|of| of < number);
        earlier(self.behind[!direction]) || earlier(self.gaps[!direction])
    }
}

/// A sink that is told everything in order.
pub(crate) struct Ordered<'a, S> {
    pub(crate) order: &'a mut Order,
    pub(crate) sink: &'a mut S,
}

impl<S: Sink> Ordered<'_, S> {
    /// Says what need not wait any more.
    pub(crate) fn flush(&mut self) {
        while let Some((number, _, direction, _)) = self.order.ahead.front() {
            if self.order.must_wait(*number, *direction) {
                return;
            }
            if let Some((_, at, direction, held)) = self.order.ahead.pop_front() {
                self.order.bytes -= held.memory();
                self.sink.input(at, direction, held.as_input());
            }
        }
    }

    /// Nothing is waited for any more.
    pub(crate) fn release(&mut self) {
        self.order.behind = PerDirection::default();
        self.order.gaps = PerDirection::default();
        self.flush();
    }
}

impl<S: Sink> Sink for Ordered<'_, S> {
    fn agreed(&mut self, facts: &Tls) {
        self.sink.agreed(facts);
    }

    fn input(&mut self, at: Timestamp, direction: Direction, input: Input<'_>) {
        let number = self.order.now;
        if self.order.ahead.is_empty() && !self.order.must_wait(number, direction) {
            return self.sink.input(at, direction, input);
        }
        let held = Held::of(input);
        self.order.bytes += held.memory();
        let place = self.order.ahead.partition_point(|(of, ..)| *of <= number);
        self.order
            .ahead
            .insert(place, (number, at, direction, held));
        self.flush();
    }
}

impl Held {
    pub(crate) fn of(input: Input<'_>) -> Self {
        match input {
            Input::Data(data) => Self::Data(data.to_vec()),
            Input::Gap(gap) => Self::Other(Input::Gap(gap)),
            Input::Fin => Self::Other(Input::Fin),
            Input::Reset => Self::Other(Input::Reset),
            Input::Cut => Self::Other(Input::Cut),
        }
    }

    pub(crate) fn as_input(&self) -> Input<'_> {
        match self {
            Self::Data(data) => Input::Data(data),
            Self::Other(input) => *input,
        }
    }

    /// What it takes; an end takes nothing, as there is only one.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Self::Data(data) => HELD_INPUT + data.len(),
            Self::Other(Input::Gap(_)) => HELD_INPUT,
            Self::Other(_) => 0,
        }
    }
}
