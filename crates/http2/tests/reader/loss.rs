//! Cutting conversations anywhere, and losing any part of them.
//!
//! The law: whatever is lost, what is said is true, or says that it is not whole.

use proptest::prelude::*;
use tapedeck_http2::{Limits, Reader, Start};
use tapedeck_model::{Anomaly, Direction, Event, Input, Missing, Role};

use crate::generator::{Dice, conversation};
use crate::log::{AT, Log, Pair, Part, Said, Step, read};

/// All bytes of a direction.
fn stream(steps: &[Step], wanted: Direction) -> Vec<u8> {
    let of = |step: &Step| match step {
        Step::Bytes(direction, bytes) if *direction == wanted => bytes.clone(),
        _ => Vec::new(),
    };
    steps.iter().flat_map(of).collect()
}

/// Cuts every step into pieces.
fn cut(steps: &[Step], mut len: impl FnMut() -> usize) -> Vec<Step> {
    let mut out = Vec::new();
    for step in steps {
        let Step::Bytes(direction, bytes) = step else {
            out.push(step.clone());
            continue;
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(len().clamp(1, rest.len()));
            out.push(Step::Bytes(*direction, piece.to_vec()));
            rest = behind;
        }
    }
    out
}

/// Replaces the bytes `start..end` of a direction by a gap.
fn lose(steps: &[Step], wanted: Direction, start: usize, end: usize, known: bool) -> Vec<Step> {
    let mut out = Vec::new();
    let mut place = 0;
    for step in steps {
        let bytes = match step {
            Step::Bytes(direction, bytes) if *direction == wanted => bytes,
            other => {
                out.push(other.clone());
                continue;
            }
        };
        let at = |limit: usize| limit.saturating_sub(place).min(bytes.len());
        let (from, to) = (at(start), at(end));
        let keep = |bytes: &[u8]| Step::Bytes(wanted, bytes.to_vec());
        out.push(keep(&bytes[..from]));
        if to == bytes.len() && from < to && place + bytes.len() < end {
            // The gap goes on in the next step.
        } else if from < to {
            let len = if known { (end - start) as u64 } else { 0 };
            out.push(Step::Gap(wanted, len));
        }
        out.push(keep(&bytes[to..]));
        place += bytes.len();
    }
    out
}

fn same_field(said: &Pair, truth: &Pair) -> bool {
    let part = |said: &Option<String>, truth: &Option<String>| said.is_none() || said == truth;
    part(&said.0, &truth.0) && part(&said.1, &truth.1)
}

/// Fields are those of the truth, or unknown; there may be fewer.
#[track_caller]
fn check_fields(said: &[Pair], truth: &[Pair]) {
    assert!(said.len() <= truth.len(), "{said:?} for {truth:?}");
    for (said, truth) in said.iter().zip(truth) {
        assert!(same_field(said, truth), "{said:?} for {truth:?}");
    }
}

fn body(said: &Said) -> Vec<u8> {
    let part = |part: &Part| match part {
        Part::Bytes(bytes) => bytes.clone(),
        Part::Gap(_) => Vec::new(),
    };
    said.body.iter().flat_map(part).collect()
}

/// Whether a body with gaps can be the true one. A head that is lost, or a gap of unknown length,
/// may stand for any number of bytes.
fn fits(parts: &[Part], truth: &[u8], floating: bool, cut: bool) -> bool {
    match parts.split_first() {
        None => floating || cut || truth.is_empty(),
        Some((Part::Gap(0), rest)) => fits(rest, truth, true, cut),
        Some((Part::Gap(len), rest)) => {
            let behind = |start: usize| truth.get(start + *len as usize..);
            (0..=if floating { truth.len() } else { 0 })
                .any(|start| behind(start).is_some_and(|truth| fits(rest, truth, false, cut)))
        }
        Some((Part::Bytes(bytes), rest)) => (0..=if floating { truth.len() } else { 0 })
            .filter_map(|start| truth.get(start..)?.strip_prefix(&bytes[..]))
            .any(|truth| fits(rest, truth, false, cut)),
    }
}

/// The law.
fn check_law(said: &Log, truth: &Log) {
    for (key, said) in &said.messages {
        let Some(truth) = truth.messages.get(key) else {
            panic!("{key:?} was never there: {said:?}");
        };
        if said.end == Some((Missing::NONE, None)) {
            // An interim head in front of it may be lost unnoticed.
            assert_eq!(said.head, truth.head, "{key:?}");
            assert_eq!(said.body, truth.body, "{key:?}");
            assert_eq!(said.trailers, truth.trailers, "{key:?}");
            assert_eq!(said.end, truth.end, "{key:?}");
        }
        for interim in &said.interim {
            let matches = |truth: &Vec<Pair>| {
                interim
                    .iter()
                    .zip(truth)
                    .all(|(said, truth)| same_field(said, truth))
            };
            let unknown = interim.iter().all(|field| field.1.is_none());
            assert!(unknown || truth.interim.iter().any(matches), "{key:?}");
        }
        if let Some(head) = &said.head {
            let interim = truth
                .interim
                .iter()
                .chain(&truth.head)
                .chain(&truth.trailers);
            let matches = |truth: &Vec<Pair>| {
                head.len() <= truth.len() && head.iter().zip(truth).all(|(a, b)| same_field(a, b))
            };
            assert!(
                interim.clone().any(matches),
                "{key:?} {head:?} for {truth:?}"
            );
        }
        if let Some(trailers) = &said.trailers {
            check_fields(trailers, truth.trailers.as_deref().unwrap_or_default());
        }
        let missing = said.end.map_or(Missing::NONE, |end| end.0);
        let floating = said.head.is_none() || missing.contains(Missing::LOST);
        let whole = truth.body.iter().map(|part| match part {
            Part::Bytes(bytes) => bytes.clone(),
            Part::Gap(_) => panic!("a gap in the truth"),
        });
        let whole: Vec<u8> = whole.flatten().collect();
        let open = !missing.is_empty();
        assert!(
            fits(&said.body, &whole, floating, open),
            "{key:?} {said:?} of {truth:?}"
        );
    }
}

#[test]
fn the_generator_is_lawful() {
    for seed in 0..200 {
        let log = read(&conversation(seed, 12));
        assert_eq!(log.anomalies, [], "{seed}");
        assert_eq!(log.skipped, [0, 0]);
        let aborted = |said: &Said| said.end.is_some_and(|end| end.0 == Missing::ABORTED);
        for (key, said) in &log.messages {
            let good = said.end == Some((Missing::NONE, None)) || aborted(said);
            assert!(
                good || said.absent == Some(Missing::ABORTED),
                "{key:?} {said:?}"
            );
        }
    }
}

#[test]
fn every_split_says_the_same() {
    let steps = conversation(3, 5);
    let truth = read(&steps);
    for len in 1..40 {
        assert_eq!(read(&cut(&steps, || len)), truth, "{len}");
    }
    // In one piece each, and at every single place.
    let [up, down] = Direction::BOTH.map(|direction| stream(&steps, direction));
    let whole = |up: &[&[u8]], down: &[&[u8]]| {
        let up = up
            .iter()
            .map(|bytes| Step::Bytes(Direction::ToServer, bytes.to_vec()));
        let down = down
            .iter()
            .map(|bytes| Step::Bytes(Direction::ToClient, bytes.to_vec()));
        read(&up.chain(down).collect::<Vec<_>>())
    };
    let truth = whole(&[&up], &[&down]);
    for place in 0..up.len() {
        let (a, b) = up.split_at(place);
        assert_eq!(whole(&[a, b], &[&down]), truth);
    }
    for place in 0..down.len() {
        let (a, b) = down.split_at(place);
        assert_eq!(whole(&[&up], &[a, b]), truth);
    }
}

#[test]
fn every_prefix_is_true_as_far_as_it_goes() {
    let steps = cut(&conversation(5, 5), || 1);
    let truth = read(&steps);
    for len in 0..steps.len() {
        check_law(&read(&steps[..len]), &truth);
    }
}

#[test]
fn a_capture_that_begins_anywhere_tells_no_lies_and_learns() {
    for seed in [5, 6, 7] {
        let steps = conversation(seed, 5);
        let truth = read(&steps);
        let bytes = cut(&steps, || 1);
        for start in 0..bytes.len() {
            check_law(&read(&bytes[start..]), &truth);
        }
        // Late streams have heads again, whatever these refer to.
        let steps = conversation(seed, 40);
        let half = read(&steps[steps.len() / 8..]);
        assert_eq!(half.named()[..2], [Anomaly::NoPreface; 2]);
        assert!(!half.named().contains(&Anomaly::UnexpectedFrame), "{seed}");
        let whole = half.messages.values().filter(|said| said.head.is_some());
        assert!(whole.count() > 20, "{seed}");
    }
}

#[test]
fn a_gap_anywhere_tells_no_lies() {
    for (seed, len) in [(11, 1), (12, 5), (13, 20), (14, 150)] {
        let steps = conversation(seed, 4);
        let truth = read(&steps);
        for direction in Direction::BOTH {
            for start in 0..stream(&steps, direction).len() - len {
                // Of unknown length at every third place: the search is the same.
                for known in [true, start % 3 > 0] {
                    let lossy = lose(&steps, direction, start, start + len, known);
                    check_law(&read(&lossy), &truth);
                }
            }
        }
    }
}

#[test]
fn a_gap_within_data_costs_exactly_its_bytes() {
    use crate::wire::{DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, frame, settings};
    let before = [
        frame(HEADERS, END_HEADERS, 1, &[0x83, 0x86, 0x84]),
        frame(DATA, 0, 1, b"abc"),
    ];
    let data = frame(DATA, END_STREAM, 1, &[b'x'; 50]);
    // An index from the first stream: the table has survived.
    let behind = [
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            3,
            &[0x82, 0x86, 0x84, 0x40, 1, b'a', 1, b'b'],
        ),
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            5,
            &[0x82, 0x86, 0x84, 0xbe],
        ),
    ];
    let up = [
        PREFACE,
        &settings(&[]),
        &before.concat(),
        &data,
        &behind.concat(),
    ]
    .concat();
    let first = PREFACE.len() + settings(&[]).len() + before.concat().len() + 9;
    for start in 0..50 {
        for len in 1..=50 - start {
            let steps = [Step::Bytes(Direction::ToServer, up.clone())];
            let log = read(&lose(
                &steps,
                Direction::ToServer,
                first + start,
                first + start + len,
                true,
            ));
            let said = log.message(1, Role::Request);
            assert!(said.body.contains(&Part::Gap(len as u64)), "{said:?}");
            assert_eq!(body(said).len() + len, 53);
            assert_eq!(said.end, Some((Missing::LOST, None)));
            assert_eq!(
                log.message(5, Role::Request).end,
                Some((Missing::NONE, None))
            );
            assert_eq!((log.named(), log.skipped), (vec![], [0, 0]));
        }
    }
}

#[test]
fn what_follows_a_gap_is_read_again() {
    let steps = conversation(21, 40);
    let truth = read(&steps);
    let up = stream(&steps, Direction::ToServer).len();
    let lossy = read(&lose(
        &steps,
        Direction::ToServer,
        up / 4,
        up / 4 + 30,
        true,
    ));
    let whole = |log: &Log| {
        let good = |said: &&Said| said.end == Some((Missing::NONE, None));
        log.messages.values().filter(good).count()
    };
    // All responses but for those of lost requests, and most requests but for unknown fields.
    assert!(
        whole(&lossy) * 2 > whole(&truth),
        "{} of {}",
        whole(&lossy),
        whole(&truth)
    );
    check_law(&lossy, &truth);
}

/// Pushes anything, in any order.
fn push_all(inputs: &[(Direction, Vec<u8>, u8)]) {
    let limits = Limits {
        streams: 8,
        field_block: 64,
        field_section: 256,
        search_window: 512,
        ..Limits::default()
    };
    let mut reader = Reader::new(limits, Start::Detect);
    let mut log = Log::default();
    for (direction, bytes, kind) in inputs {
        let gap = |len| {
            Input::Gap(tapedeck_model::Gap {
                len,
                cause: tapedeck_model::GapCause::Limit,
            })
        };
        let input = match kind {
            0 => gap(bytes.len() as u64),
            1 => gap(u64::MAX),
            2 => gap(0),
            _ if bytes.is_empty() => continue,
            _ => Input::Data(bytes),
        };
        reader.push(AT, *direction, input, &mut |event: Event<'_>| {
            log.take(event)
        });
        assert!(reader.memory() < 64 << 10, "{}", reader.memory());
    }
    for direction in Direction::BOTH {
        reader.push(AT, direction, Input::Fin, &mut |event: Event<'_>| {
            log.take(event)
        });
    }
    log.check_ends();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_split_says_the_same(seed: u64, cuts: u64) {
        let steps = conversation(seed, 12);
        let mut dice = Dice::new(cuts);
        let pieces = cut(&steps, || 1 + dice.below(60));
        prop_assert_eq!(read(&pieces), read(&steps));
    }

    #[test]
    fn any_two_gaps_tell_no_lies(seed: u64, a in 0.0..1.0, b in 0.0..1.0, len in 1_usize..400) {
        let steps = conversation(seed, 12);
        let truth = read(&steps);
        let mut lossy = steps;
        for (place, direction) in [(a, Direction::ToServer), (b, Direction::ToClient)] {
            let total = stream(&lossy, direction).len();
            let start = (place * total as f64) as usize;
            lossy = lose(&lossy, direction, start, (start + len).min(total), true);
        }
        check_law(&read(&lossy), &truth);
    }

    #[test]
    fn noise_is_read_to_its_end(noise: Vec<(bool, Vec<u8>, u8)>) {
        let way = |up| if up { Direction::ToServer } else { Direction::ToClient };
        let inputs: Vec<_> = noise.into_iter().map(|(up, bytes, kind)| (way(up), bytes, kind)).collect();
        push_all(&inputs);
    }

    #[test]
    fn broken_conversations_are_read_to_their_end(seed: u64, flips in prop::collection::vec((0.0..1.0, any::<u8>()), 1..20)) {
        let mut steps = conversation(seed, 6);
        for (place, value) in flips {
            let one = (place * steps.len() as f64) as usize;
            if let Step::Bytes(_, bytes) = &mut steps[one] {
                let byte = (place * 7919.0) as usize % bytes.len();
                bytes[byte] = value;
            }
        }
        let inputs = steps.into_iter().filter_map(|step| match step {
            Step::Bytes(direction, bytes) => Some((direction, bytes, 9)),
            _ => None,
        });
        push_all(&inputs.collect::<Vec<_>>());
    }
}
