//! Runs every target on its corpus, on the inputs that once broke it, and on damaged copies of both.
//! It needs neither a fuzzer nor a nightly compiler.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails where its inputs are not readable"
)]

mod seeds;

use std::fs;
use std::path::{Path, PathBuf};

use tapedeck_fuzzing::TARGETS;
use tapedeck_testkit::Rng;

/// Damaged copies of all inputs of a target together: what a debug build does in a few seconds.
const COPIES: usize = 1500;
/// A copy of a longer input would only be slow.
const MAX_LEN: usize = 32 << 10;

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
            }
        }
    };
}

replayed! {
    archive,
    capture,
    content,
    conversation,
    engine,
    filter,
    fragments,
    grpc,
    hpack,
    http1,
    http2,
    key_log,
    packet,
    player_option,
    record,
    segments,
    tls,
}

fn replay(name: &str) {
    let seeds = seeds::of(name);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let copies = (COPIES / seeds.len()).clamp(2, 100);
    for (path, seed) in seeds {
        run(name, &path, &seed);
        let mut rng = Rng::new(7);
        for copy in 0..copies {
            run(
                name,
                &format!("{path}, copy {copy}"),
                &damaged(&seed, &mut rng),
            );
        }
    }
}

/// Runs a target. An input that breaks it is kept.
fn run(name: &str, path: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    if std::panic::catch_unwind(|| (target.run)(input)).is_err() {
        let folder = root().join("fuzz/artifacts").join(name);
        fs::create_dir_all(&folder).unwrap();
        let kept = folder.join("replayed");
        fs::write(&kept, input).unwrap();
        panic!("{name} broke on {path}, which is now {}", kept.display());
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
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
