mod cases;
mod framing;
mod log;
mod loss;
mod talks;

use tapedeck_model::{Direction, Gap, GapCause, Input};

use super::*;
use log::{Log, check_grammar};

/// One step of a conversation.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Data(Direction, Vec<u8>),
    Gap(Direction, u64),
    Close(Direction, Close),
}

/// From the client.
pub(super) fn c(text: &str) -> Step {
    Step::Data(Direction::ToServer, text.as_bytes().to_vec())
}

/// From the server.
pub(super) fn s(text: &str) -> Step {
    Step::Data(Direction::ToClient, text.as_bytes().to_vec())
}

pub(super) const fn gap_c(len: u64) -> Step {
    Step::Gap(Direction::ToServer, len)
}

pub(super) const fn gap_s(len: u64) -> Step {
    Step::Gap(Direction::ToClient, len)
}

pub(super) const FIN_C: Step = Step::Close(Direction::ToServer, Close::Fin);
pub(super) const FIN_S: Step = Step::Close(Direction::ToClient, Close::Fin);
pub(super) const RESET_S: Step = Step::Close(Direction::ToClient, Close::Reset);
pub(super) const CUT_S: Step = Step::Close(Direction::ToClient, Close::Cut);

/// Reads the steps, then ends both directions as a connection that is closed in order.
pub(super) fn read(steps: &[Step], limits: Limits) -> Log {
    let mut log = Log::default();
    let mut reader = Reader::new(limits);
    let bound = 4 * (limits.head + limits.undecided) + (4 << 10);
    let end = [FIN_C, FIN_S];
    for (time, step) in (1..).zip(steps.iter().chain(&end)) {
        let (direction, input) = match step {
            Step::Data(_, data) if data.is_empty() => continue,
            Step::Data(direction, data) => (*direction, Input::Data(data)),
            Step::Gap(direction, len) => {
                let cause = GapCause::Lost;
                (*direction, Input::Gap(Gap { len: *len, cause }))
            }
            Step::Close(direction, Close::Fin) => (*direction, Input::Fin),
            Step::Close(direction, Close::Reset) => (*direction, Input::Reset),
            Step::Close(direction, Close::Cut) => (*direction, Input::Cut),
        };
        reader.push(
            Timestamp::from_nanos(time),
            direction,
            input,
            &mut |event: Event<'_>| {
                log.add(&event);
            },
        );
        assert!(
            reader.memory() <= bound,
            "{} bytes are held",
            reader.memory()
        );
    }
    check_grammar(&log);
    log
}

/// The steps, with each input cut into pieces of one length.
pub(super) fn in_pieces(steps: &[Step], len: usize) -> Vec<Step> {
    let pieces = |step: &Step| match step {
        Step::Data(direction, data) => data
            .chunks(len)
            .map(|piece| Step::Data(*direction, piece.to_vec()))
            .collect(),
        other => vec![other.clone()],
    };
    steps.iter().flat_map(pieces).collect()
}

/// The steps, with one input cut in two, in every way.
pub(super) fn every_split(steps: &[Step]) -> impl Iterator<Item = Vec<Step>> {
    steps.iter().enumerate().flat_map(move |(index, step)| {
        let data = match step {
            Step::Data(direction, data) => Some((*direction, data)),
            _ => None,
        };
        data.into_iter().flat_map(move |(direction, data)| {
            (1..data.len()).map(move |at| {
                let (head, tail) = data.split_at(at);
                let mut steps = steps.to_vec();
                let two = [
                    Step::Data(direction, head.to_vec()),
                    Step::Data(direction, tail.to_vec()),
                ];
                steps.splice(index..=index, two);
                steps
            })
        })
    })
}
