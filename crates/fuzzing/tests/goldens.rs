//! The captures of `testdata`, made by real programs, over a network and a capture that are worse
//! than the ones they were made on.

use std::collections::BTreeSet;

use tapedeck_fuzzing::captures::{Said, cases, disordered, kept, read, unplaced};
use tapedeck_testkit::Rng;

#[test]
fn many_threads_find_what_one_finds() {
    for case in cases() {
        let (one, ledger) = read(&case.packets, case.keys.as_ref(), 1);
        for threads in [2, 4] {
            let (many, other) = read(&case.packets, case.keys.as_ref(), threads);
            assert!(one.exchanges == many.exchanges, "{}, {threads}", case.name);
            assert!(one.said == many.said, "{}, {threads}", case.name);
            assert!(one.unread == many.unread, "{}, {threads}", case.name);
            assert_eq!(ledger, other, "{}, {threads}", case.name);
        }
    }
}

#[test]
fn disorder_and_repetition_change_nothing() {
    let mut moved = 0;
    for case in cases() {
        let truth = read(&case.packets, case.keys.as_ref(), 1).0.sorted();
        for seed in 0..3 {
            let packets = disordered(&case.packets, &mut Rng::new(seed));
            moved += packets.len() - case.packets.len();
            let said = read(&packets, case.keys.as_ref(), 1).0.sorted();
            assert!(
                said == truth,
                "{} with seed {seed}: {:#?}",
                case.name,
                said.iter()
                    .filter(|said| !truth.contains(said))
                    .map(|said| (&said.place, &said.missing))
                    .collect::<Vec<_>>()
            );
        }
    }
    assert!(moved > 1_000, "{moved} packets were repeated");
}

/// With packets lost, and before the capture began, what says that it is whole was said, to the
/// last byte.
#[test]
fn with_losses_what_is_whole_is_true() {
    let lossy: Vec<(usize, u64, u8)> = (0..8)
        .flat_map(|seed| [1, 3, 5, 10, 20, 30].map(|loss| (0, seed, loss)))
        .collect();
    let late = [(3, 0, 0), (7, 0, 0), (20, 0, 0), (7, 2, 10), (12, 5, 3)];
    let mut whole = 0;
    for case in cases() {
        let truth: BTreeSet<Said> = unplaced(read(&case.packets, case.keys.as_ref(), 1).0);
        for (before, seed, loss) in lossy.iter().chain(&late).copied() {
            let kept = kept(&case.packets, before, seed, loss);
            let (tape, ledger) = read(&kept, case.keys.as_ref(), 1);
            assert_eq!(ledger.exchanges, tape.exchanges.len() as u64);
            for said in unplaced(tape)
                .into_iter()
                .filter(|said| said.missing.is_empty())
            {
                whole += 1;
                assert!(
                    truth.contains(&said),
                    "{} from {before}, seed {seed}, {loss} %: {} {:?}",
                    case.name,
                    said.place,
                    [&said.request, &said.response].map(|spoken| spoken
                        .as_ref()
                        .map(|spoken| String::from_utf8_lossy(&spoken.head).into_owned()))
                );
            }
        }
    }
    assert!(whole > 500, "{whole} whole");
}
