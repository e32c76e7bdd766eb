//! What the network and the capture do to what is said.

use std::time::Duration;

use tapedeck_model::{Direction, PerDirection, Timestamp};
use tapedeck_testkit::SegmentBuf;

use super::plan::Plan;
use crate::program::Program;

/// What a capture may do to a conversation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// Segments are missing.
    pub(super) loss: bool,
    /// Segments come late.
    pub(super) disorder: bool,
    /// Time between two packets. Where several conversations wait for each other, not so long that
    /// one of them counts as idle.
    pub(super) step: Duration,
}

impl Faults {
    pub(super) fn new(conversations: usize, program: &mut Program<'_>) -> Self {
        let control = program.byte();
        let disorder = control & 2 != 0;
        // With disorder, all that is late comes within the patience of the reassembly.
        let micros = match control >> 2 & 3 {
            _ if disorder => 10,
            0 => 10,
            1 => 1_000,
            _ if conversations > 1 => 1_000,
            2 => 150_000,
            _ => 4_000_000,
        };
        Self {
            loss: control & 1 != 0,
            disorder,
            step: Duration::from_micros(micros),
        }
    }
}

/// What of each direction was captured.
#[derive(Clone, Debug)]
pub(super) struct Seen(PerDirection<Vec<bool>>);

impl Seen {
    /// How many bytes were captured.
    pub(super) fn bytes(&self, direction: Direction) -> usize {
        self.0[direction].iter().filter(|seen| **seen).count()
    }

    /// The first byte that was not captured.
    pub(super) fn first_lost(&self, direction: Direction) -> usize {
        let lost = self.0[direction].iter().position(|seen| !seen);
        lost.unwrap_or(usize::MAX)
    }

    pub(super) fn is_whole(&self) -> bool {
        Direction::BOTH
            .into_iter()
            .all(|direction| self.first_lost(direction) == usize::MAX)
    }
}

/// What is captured of a conversation, in the order of the capture.
pub(super) fn captured(
    plan: &Plan,
    faults: Faults,
    program: &mut Program<'_>,
) -> (Vec<SegmentBuf>, Seen) {
    // Late by up to this many segments.
    const WINDOW: usize = 7;
    let mut seen = Seen(PerDirection {
        to_server: vec![false; plan.said.to_server],
        to_client: vec![false; plan.said.to_client],
    });
    // What comes before the first segment of a connection whose handshake was not seen is not missed.
    let mut may_miss = PerDirection {
        to_server: plan.has_handshake,
        to_client: plan.has_handshake,
    };
    // With the place in the capture, to be sorted by.
    let mut out: Vec<(usize, SegmentBuf)> = Vec::new();
    for (place, segment) in plan.talk.segments.iter().enumerate() {
        if segment.payload.is_empty() {
            out.push((place * 2, segment.clone()));
            continue;
        }
        let direction = if segment.source.port == 80 {
            Direction::ToClient
        } else {
            Direction::ToServer
        };
        let mut capture = |place: usize, segment: SegmentBuf| {
            let start = segment.seq.0.wrapping_sub(plan.first[direction]) as usize;
            for byte in seen.0[direction]
                .iter_mut()
                .skip(start)
                .take(segment.payload.len())
            {
                *byte = true;
            }
            out.push((place, segment));
        };
        let fault = program.byte();
        let late = if faults.disorder {
            usize::from(fault >> 4) % WINDOW
        } else {
            0
        };
        match fault & 0xf {
            _ if !std::mem::replace(&mut may_miss[direction], true) => {
                capture(place * 2, segment.clone());
            }
            1 => capture((place + late) * 2 + 1, segment.clone()),
            2 if faults.loss => {}
            3 => {
                capture(place * 2, segment.clone());
                out.push(((place + late) * 2 + 1, segment.clone()));
            }
            // Sent again, in part.
            4 => {
                if !faults.loss || fault >> 4 & 1 == 0 {
                    capture(place * 2, segment.clone());
                }
                let mut part = segment.clone();
                let from = program.below(part.payload.len().min(256));
                let to = from + 1 + program.below((part.payload.len() - from).min(256));
                part.payload = part.payload[from..to].to_vec();
                part.seq.0 = part.seq.0.wrapping_add(from as u32);
                capture(place * 2 + 1, part);
            }
            _ => capture(place * 2, segment.clone()),
        }
    }
    out.sort_by_key(|(place, _)| *place);
    (out.into_iter().map(|(_, segment)| segment).collect(), seen)
}

/// The captures of several conversations as one, in which each goes on as the program says.
pub(super) fn merged(
    mut captures: Vec<Vec<SegmentBuf>>,
    faults: Faults,
    program: &mut Program<'_>,
) -> Vec<SegmentBuf> {
    for capture in &mut captures {
        capture.reverse();
    }
    let mut at = Timestamp::from_nanos(1_700_000_000_000_000_000);
    let mut out = Vec::new();
    while !captures.is_empty() {
        let which = program.below(captures.len());
        let mut run = 1 + program.below(16);
        while run > 0
            && let Some(mut segment) = captures[which].pop()
        {
            segment.at = at;
            at = at.saturating_add(faults.step);
            out.push(segment);
            run -= 1;
        }
        captures.retain(|capture| !capture.is_empty());
    }
    out
}

/// Whether a segment is of the conversation of that number.
pub(super) fn captured_of(number: usize, segment: &SegmentBuf) -> bool {
    let port = 40_000 + number;
    [segment.source.port, segment.destination.port]
        .into_iter()
        .any(|end| usize::from(end) == port)
}
