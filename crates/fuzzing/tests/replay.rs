//! Runs every target on its corpus, on the inputs that once broke it, and on damaged copies of both.
//! It needs neither a fuzzer nor a nightly compiler.
//!
//! A test binary of its own, because it measures the memory of the whole process.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails where its inputs are not readable"
)]

mod seeds;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;
use seeds::{MAX_LEN, files, root};
use tapedeck_fuzzing::{TARGETS, Target};
use tapedeck_testkit::Rng;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// One target at a time: the allocator counts them all.
static ALONE: Mutex<()> = Mutex::new(());

/// Damaged copies of all inputs of a target together: what a debug build does in a second or two.
const COPIES: usize = 500;

macro_rules! replayed {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { replay(stringify!($name)); })*

        #[test]
        fn every_target_is_replayed_and_fuzzed() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            let mut files: Vec<String> = files(&root().join("fuzz/fuzz_targets"))
                .iter()
                .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            files.sort();
            assert_eq!(names, files);
            let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
            for name in names {
                assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
                let text = fs::read_to_string(root().join(format!("fuzz/fuzz_targets/{name}.rs")));
                assert!(text.unwrap().contains(&format!("fuzz!(\"{name}\")")), "{name}");
            }
        }
    };
}

replayed! {
    archive,
    capture,
    chaos,
    configuration,
    content,
    conversation,
    encrypted,
    engine,
    events,
    export,
    filter,
    folder,
    fragments,
    grpc,
    har,
    hpack,
    http1,
    http2,
    key_log,
    luck,
    packet,
    place,
    player_option,
    protobuf,
    record,
    scenario,
    segments,
    tls,
    websocket,
}

/// Runs a target. An input that breaks it is kept.
fn replay(name: &str) {
    let seeds = seeds::of(name);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    if let Some(Broken { on, input }) = broken(Target::named(name).unwrap(), &seeds) {
        let folder = root().join("fuzz/artifacts").join(name);
        fs::create_dir_all(&folder).unwrap();
        let kept = folder.join("replayed");
        fs::write(&kept, input).unwrap();
        panic!("{name} broke on {on}, which is now {}", kept.display());
    }
}

/// What broke a target.
#[derive(Debug, Eq, PartialEq)]
struct Broken {
    on: String,
    input: Vec<u8>,
}

/// The first input that breaks a target: the seeds as they are, and damaged copies of them.
fn broken(target: &Target, seeds: &[(String, Vec<u8>)]) -> Option<Broken> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let breaks = |input: &[u8]| {
        // Nothing of the target outlives its panic.
        catch_unwind(AssertUnwindSafe(|| target.feed(input, &ALLOCATOR))).is_err()
    };
    let copies = (COPIES / seeds.len()).clamp(1, 100);
    let mut rng = Rng::new(7);
    for (on, seed) in seeds {
        if breaks(seed) {
            let (on, input) = (on.clone(), seed.clone());
            return Some(Broken { on, input });
        }
        for copy in 0..copies {
            let input = damaged(seed, &mut rng);
            if breaks(&input) {
                let on = format!("{on}, copy {copy}");
                return Some(Broken { on, input });
            }
        }
    }
    None
}

/// The replay is worth as much as what it notices.
#[test]
fn a_target_that_breaks_is_noticed() {
    let broken_by = |run: fn(&[u8]), seed: &[u8]| {
        let target = Target {
            name: "broken",
            run,
            memory: 1 << 20,
        };
        broken(&target, &[("seed".to_owned(), seed.to_vec())]).map(|broken| broken.on)
    };
    let seed = Some("seed".to_owned());
    assert_eq!(broken_by(|_| (), b"abc"), None);
    assert_eq!(broken_by(|bytes| assert_ne!(bytes, b"abc"), b"abc"), seed);
    // Only a damaged copy breaks this one.
    let found = broken_by(|bytes| assert!(bytes.is_ascii()), b"abcdefgh");
    assert!(found.is_some_and(|on| on.starts_with("seed, copy")));
    let hungry = |bytes: &[u8]| drop(vec![0_u8; bytes.len() << 16]);
    assert_eq!(broken_by(hungry, b"a"), None);
    assert_eq!(broken_by(hungry, &[b'a'; 17]), seed);
}

/// A copy with a few bytes changed, removed, repeated or cut off.
fn damaged(seed: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut copy = seed.get(..seed.len().min(MAX_LEN)).unwrap().to_vec();
    for _ in 0..1 + rng.below(6) {
        if copy.is_empty() {
            break;
        }
        let place = rng.below(copy.len());
        let end = (place + 1 + rng.below(16)).min(copy.len());
        match rng.below(5) {
            0 => copy.truncate(place),
            1 => drop(copy.drain(place..end)),
            2 => {
                let again = copy[place..end].to_vec();
                copy.splice(place..place, again);
            }
            3 => copy
                .iter_mut()
                .skip(place)
                .take(4)
                .for_each(|byte| *byte = 0xff),
            _ => {
                if let Some(byte) = copy.get_mut(place) {
                    *byte ^= 1 << rng.below(8);
                }
            }
        }
    }
    copy
}
