//! Small blocks say what they have in common once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tapedeck_model::{Exchange, Ledger};
use tempfile::TempDir;

use super::crash::NO_CHILD_STARTS;
use super::encrypted::{identities, recipients};
use super::samples::{expected, memory, provenance, read, shop};
use crate::format::{ChunkKind, DICTIONARY_COPIES};
use crate::scan::Scan;
use crate::source::Source;
use crate::{
    Archive, Damage, Limits, Protection, ReadError, Recipients, Scratch, Selection, Writer,
    WriterOptions, copy, partial_path, recover, recover_with, verify, verify_with,
};

/// A recording of one call a second.
struct Recording {
    folder: TempDir,
    originals: Vec<Exchange>,
}

impl Recording {
    fn new(n: u64, limits: Limits, encrypt_to: Option<Recipients>) -> Self {
        let recording = Self {
            folder: memory(),
            originals: (0..n).map(|n| expected(&shop(n))).collect(),
        };
        let mut options = WriterOptions::new(provenance());
        options.limits = limits;
        options.encrypt_to = encrypt_to;
        let mut writer = Writer::create(&recording.path(), options).unwrap();
        for second in 0..n {
            writer.exchange(&shop(second).exchange).unwrap();
            let now = Duration::from_secs(second + 1);
            assert!(writer.tick(now, Ledger::default).unwrap());
        }
        writer.seal(&Ledger::default()).unwrap();
        recording
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("a.tape")
    }

    fn len(&self) -> u64 {
        fs::metadata(self.path()).unwrap().len()
    }

    /// Where the copies of the first dictionary lie, and how many blocks need it.
    fn dictionaries(&self) -> (Vec<usize>, usize) {
        let source = Source::open(&self.path(), &identities()).unwrap();
        let mut places = Vec::new();
        let mut blocks = 0;
        for found in Scan::new(&source) {
            let chunk = found.chunk.unwrap();
            if chunk.kind == ChunkKind::Dictionary {
                places.push(found.offset as usize);
            }
            blocks += usize::from(chunk.dictionaries().len() > 0);
        }
        (places, blocks)
    }

    /// Damages the payload of a chunk.
    fn flip(&self, chunk: usize) {
        let mut bytes = fs::read(self.path()).unwrap();
        bytes[chunk + 80] ^= 4;
        fs::write(self.path(), bytes).unwrap();
    }
}

fn few() -> Limits {
    Limits {
        dictionary: 512,
        learned_blocks: 8,
        ..Limits::default()
    }
}

#[test]
fn a_call_a_second_costs_half_of_what_it_does_without() {
    let with = Recording::new(400, Limits::default(), None);
    let without = Limits {
        dictionary: 0,
        ..Limits::default()
    };
    let without = Recording::new(400, without, None);
    let n_learned = Limits::default().learned_blocks;
    let (places, blocks) = with.dictionaries();
    assert_eq!(places.len(), DICTIONARY_COPIES);
    assert_eq!(blocks, 400 - n_learned);
    assert_eq!(without.dictionaries(), (Vec::new(), 0));
    assert!(read(&Archive::open(&with.path()).unwrap()) == with.originals);
    assert!(verify(&with.path()).unwrap().is_whole());
    let (with, without) = (with.len(), without.len());
    assert!(with < without * 6 / 10, "{with} and {without}");
}

#[test]
fn one_damaged_dictionary_costs_nothing_and_both_cost_their_blocks() {
    let recording = Recording::new(40, few(), None);
    let (places, blocks) = recording.dictionaries();
    recording.flip(places[0]);
    let report = verify(&recording.path()).unwrap();
    assert_eq!(report.damages.len(), 1, "{report:?}");
    assert_eq!(report.damages[0].what, "dictionary");
    assert_eq!(report.exchanges_readable, 40);
    let archive = Archive::open(&recording.path()).unwrap();
    assert!(read(&archive) == recording.originals);
    // What is copied has both again.
    let out = recording.folder.path().join("copied.tape");
    copy_all(&archive, &out);
    assert!(verify(&out).unwrap().is_whole());

    recording.flip(places[1]);
    let report = verify(&recording.path()).unwrap();
    assert_eq!(report.exchanges_lost as usize, blocks, "{report:?}");
    assert_eq!(report.damages.len(), 2 + blocks);
    let archive = Archive::open(&recording.path()).unwrap();
    let mut scratch = Scratch::new();
    assert!(archive.load(7, &mut scratch).is_ok());
    let error = archive.load(39, &mut scratch).unwrap_err();
    let is_told = matches!(
        error,
        ReadError::Damaged {
            damage: Damage::Dictionary,
            ..
        }
    );
    assert!(is_told, "{error}");
    let out = recording.folder.path().join("recovered.tape");
    let recovered = recover(&recording.path(), &out).unwrap();
    assert_eq!(recovered.exchanges as usize, 40 - blocks);
}

fn copy_all(archive: &Archive, out: &Path) {
    let mut all = Selection::none(archive);
    (0..archive.len()).for_each(|id| all.insert(id));
    let mut writer = Writer::create(out, WriterOptions::new(provenance())).unwrap();
    let copied = copy(archive, &all, &mut writer, &mut |_| ()).unwrap();
    assert_eq!(copied.blocks_anew, 0);
    writer.seal(archive.ledger()).unwrap();
    assert!(read(&Archive::open(out).unwrap()) == read(archive));
}

#[test]
fn a_dictionary_goes_along_with_its_blocks() {
    let recording = Recording::new(40, few(), None);
    let out = recording.folder.path().join("copied.tape");
    let archive = Archive::open(&recording.path()).unwrap();
    copy_all(&archive, &out);
    assert!(verify(&out).unwrap().is_whole());
    // Twice into one file, and again from there: two dictionaries side by side.
    let twice = Archive::open_all(&[recording.path(), out]).unwrap();
    let merged = recording.folder.path().join("merged.tape");
    let mut all = Selection::none(&twice);
    (0..twice.len()).for_each(|id| all.insert(id));
    let mut writer = Writer::create(&merged, WriterOptions::new(provenance())).unwrap();
    copy(&twice, &all, &mut writer, &mut |_| ()).unwrap();
    writer.seal(twice.ledger()).unwrap();
    assert!(verify(&merged).unwrap().is_whole());
    let found = read(&Archive::open(&merged).unwrap());
    assert_eq!(found.len(), 80);
    for (found, original) in found.iter().zip(recording.originals.iter().cycle()) {
        assert_eq!(found.request, original.request);
        assert_eq!(found.response, original.response);
    }
}

#[test]
fn an_interrupted_recording_has_its_dictionary() {
    let folder = memory();
    let path = folder.path().join("a.tape");
    let mut options = WriterOptions::new(provenance());
    options.limits = few();
    let mut writer = Writer::create(&path, options).unwrap();
    for n in 0..30 {
        writer.exchange(&shop(n).exchange).unwrap();
        let now = Duration::from_secs(n + 1);
        writer.tick(now, Ledger::default).unwrap();
    }
    let _closing = NO_CHILD_STARTS.lock().unwrap();
    drop(writer);
    let out = folder.path().join("b.tape");
    let recovered = recover(&partial_path(&path).unwrap(), &out).unwrap();
    assert_eq!(recovered.exchanges, 30);
    let originals: Vec<_> = (0..30).map(|n| expected(&shop(n))).collect();
    assert!(read(&Archive::open(&out).unwrap()) == originals);
}

#[test]
fn no_flipped_byte_costs_more_than_a_block() {
    for encrypt_to in [None, Some(recipients())] {
        flip_dictionaries(&Recording::new(10, few(), encrypt_to));
    }
}

/// Every byte of both copies, and of the block behind them; all others are of `damage`.
fn flip_dictionaries(recording: &Recording) {
    let (path, originals) = (recording.path(), &recording.originals);
    let (places, blocks) = recording.dictionaries();
    assert_eq!((places.len(), blocks), (DICTIONARY_COPIES, 2));
    let bytes = fs::read(&path).unwrap();
    let behind = places[1] + 2 * (places[1] - places[0]);
    for place in places[0]..behind {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1 << (place % 8);
        fs::write(&path, &damaged).unwrap();
        let report = verify_with(&path, &identities()).unwrap();
        assert!(!report.is_whole(), "verify did not see byte {place}");
        assert!(report.exchanges_lost <= 1, "at {place}: {report:?}");
        let archive = Archive::open_with(&path, &identities()).unwrap();
        let mut scratch = Scratch::new();
        let mut lost = 0;
        for (id, original) in originals.iter().enumerate() {
            match archive.load(id as u64, &mut scratch) {
                Ok(record) => assert_eq!(record.time(), original.time(), "at {place}"),
                Err(_) => lost += 1,
            }
        }
        assert!(lost <= 1, "{lost} at {place}");
    }
}

#[test]
fn a_cut_keeps_what_is_before_it() {
    let recording = Recording::new(16, few(), None);
    let bytes = fs::read(recording.path()).unwrap();
    let out = recording.folder.path().join("out.tape");
    let mut saved = 0;
    for len in (0..bytes.len()).step_by(61) {
        fs::write(recording.path(), &bytes[..len]).unwrap();
        let protection = Protection::None;
        let Ok(recovered) = recover_with(&recording.path(), &out, &identities(), &protection)
        else {
            continue;
        };
        assert!(recovered.exchanges >= saved, "at {len}");
        saved = recovered.exchanges;
        let found = read(&Archive::open(&out).unwrap());
        assert!(found[..] == recording.originals[..found.len()]);
        fs::remove_file(&out).unwrap();
    }
    assert_eq!(saved, 16);
}
