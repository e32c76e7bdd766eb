//! Encrypted archives that were in the hands of somebody without the key.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use tapedeck_archive::{
    Archive, BodyBuffer, Identities, OpenError, Protection, Scratch, recover_with, verify,
    verify_with,
};
use tapedeck_model::Exchange;

use crate::program::Program;
use crate::scratch;
use crate::stored::reseal;

/// An archive of a golden, so that an input means the same in every run: a new one would have
/// another key.
const SAMPLE: &[u8] = include_bytes!("../../../testdata/archives/v4-encrypted/shop.tape");
const IDENTITY: &str = include_str!("../../../testdata/archives/v4-encrypted/identity.txt");

/// Changes of one input: more only make the rest of it unreadable.
const MOST_CHANGES: usize = 24;

/// Bytes of the file that are moved, repeated or dropped at once.
const CHUNK_STEP: usize = 16;
const CHUNK_HEADER: usize = 64;

/// What of a body is kept to compare it.
const MOST_BODY: u64 = 1 << 20;

/// An archive that is encrypted to us, changed as the program says, with or without right checksums.
/// Whatever is read of it was written; and where it is called whole, all of that is there.
pub fn encrypted(bytes: &[u8]) {
    let mut program = Program::new(bytes);
    let control = program.byte();
    let mut file = SAMPLE.to_vec();
    for _ in 0..MOST_CHANGES {
        if program.is_over() {
            break;
        }
        change(&mut file, &mut program);
    }
    if control & 1 == 0 {
        reseal(&mut file);
    }
    read(&file);
}

fn change(file: &mut Vec<u8>, program: &mut Program<'_>) {
    let kind = program.byte();
    let chunks = chunks(file);
    let mut chunk = || {
        let number = program.below(256) % chunks.len().max(1);
        chunks.get(number).copied().unwrap_or((0, 0))
    };
    match kind % 6 {
        // A part moved over another, repeated, or left out.
        0 => {
            let ((from, from_len), (to, to_len)) = (chunk(), chunk());
            let moved = file[from..from + from_len].to_vec();
            file.splice(to..to + to_len, moved);
        }
        1 => {
            let ((from, len), (to, _)) = (chunk(), chunk());
            let again = file[from..from + len].to_vec();
            file.splice(to..to, again);
        }
        2 => {
            let (at, len) = chunk();
            file.drain(at..at + len);
        }
        // A byte of a header, where most is decided, or of any place.
        3 => {
            let (at, _) = chunk();
            let place = at + program.below(CHUNK_HEADER);
            flip(file, place, program.byte());
        }
        4 => {
            let place = usize::from(program.word());
            flip(file, place, program.byte());
        }
        _ => file.truncate(usize::from(program.word())),
    }
}

fn flip(file: &mut [u8], place: usize, bits: u8) {
    if let Some(byte) = file.get_mut(place) {
        *byte ^= bits;
    }
}

/// Where chunks begin, and how long they are with what is between them and the next one.
fn chunks(file: &[u8]) -> Vec<(usize, usize)> {
    let begins = |at: &usize| file[*at..].starts_with(b"\x89TCK");
    let starts: Vec<usize> = (CHUNK_HEADER..file.len())
        .step_by(CHUNK_STEP)
        .filter(begins)
        .collect();
    let ends = starts.iter().copied().skip(1).chain([file.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| (*start, end - start))
        .collect()
}

#[expect(
    clippy::expect_used,
    reason = "a target panics where a contract is broken, and a full disk is no finding"
)]
fn read(bytes: &[u8]) {
    let folder = scratch::folder();
    let file = scratch::file(folder.path(), bytes);
    let identities = identities();
    let opened = Archive::open_with(file.path(), identities);
    let found = opened.as_ref().map(contents).unwrap_or_default();
    assert_written(&found);
    if let Ok(report) = verify_with(file.path(), identities)
        && report.is_whole()
    {
        assert!(!report.locked && report.encrypted, "{report:?}");
        assert!(found == *written(), "called whole, and something is gone");
    }
    if let Ok(report) = verify(file.path()) {
        assert!(report.locked || !report.is_whole(), "{report:?}");
        let without = Archive::open(file.path());
        let is_closed = matches!(&without, Err(OpenError::NoIdentity { .. }));
        assert!(is_closed || !report.is_whole(), "read without an identity");
    }
    let out = folder.path().join("out.tape");
    if recover_with(file.path(), &out, identities, &Protection::AsBefore).is_ok() {
        let report = verify_with(&out, identities).expect("what was recovered");
        assert!(report.is_whole(), "what was recovered is damaged");
        let recovered = Archive::open_with(&out, identities).expect("what was recovered");
        assert_eq!(recovered.len(), report.exchanges_readable);
        fs::remove_file(&out).expect("what was recovered");
    }
}

/// Every exchange that is read is one that was written, and none comes twice.
fn assert_written(found: &[Said]) {
    let mut rest = written().iter();
    for said in found {
        assert!(
            rest.any(|written| said.is_of(written)),
            "this was not written, or not here: {:?}",
            said.exchange
        );
    }
}

/// An exchange and its bodies; `None`: damaged.
#[derive(Debug, PartialEq)]
struct Said {
    exchange: Exchange,
    bodies: [Option<Vec<u8>>; 2],
}

impl Said {
    fn is_of(&self, written: &Self) -> bool {
        let bodies = self.bodies.iter().zip(&written.bodies);
        self.exchange == written.exchange
            && bodies
                .into_iter()
                .all(|(found, written)| found.is_none() || found == written)
    }
}

fn contents(archive: &Archive) -> Vec<Said> {
    let mut scratch = Scratch::new();
    let mut buffer = BodyBuffer::with_limit(MOST_BODY);
    let mut found = Vec::new();
    for row in archive.rows() {
        let Ok(record) = archive.load(row.id(), &mut scratch) else {
            continue;
        };
        let bodies = [record.request(), record.response()].map(|message| {
            let body = message?.body();
            archive.body(&body, &mut buffer).ok().map(<[u8]>::to_vec)
        });
        let exchange = record.to_exchange();
        found.push(Said { exchange, bodies });
    }
    found
}

#[expect(clippy::expect_used, reason = "a file of this repository")]
fn identities() -> &'static Identities {
    static IDENTITIES: OnceLock<Identities> = OnceLock::new();
    IDENTITIES.get_or_init(|| Identities::parse(IDENTITY).expect("the identity of a golden"))
}

/// What the sample holds.
#[expect(clippy::expect_used, reason = "a file of this repository")]
fn written() -> &'static Vec<Said> {
    static WRITTEN: OnceLock<Vec<Said>> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let folder = scratch::folder();
        let file = scratch::file(folder.path(), SAMPLE);
        let path: &Path = file.path();
        let archive = Archive::open_with(path, identities()).expect("a golden");
        contents(&archive)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_read_and_its_parts_are_found() {
        assert!(written().len() > 10);
        assert!(chunks(SAMPLE).len() > 5);
        let mut sealed = SAMPLE.to_vec();
        reseal(&mut sealed);
        assert!(sealed == SAMPLE, "a sound archive is changed");
        encrypted(&[]);
    }

    /// The target would see it.
    #[test]
    fn what_was_not_written_is_noticed() {
        let archive_of = |said: &Said| Said {
            exchange: said.exchange.clone(),
            bodies: said.bodies.clone(),
        };
        let all = written();
        let noticed = |found: &[Said]| std::panic::catch_unwind(|| assert_written(found)).is_err();
        assert!(!noticed(&[archive_of(&all[0]), archive_of(&all[2])]));
        assert!(
            noticed(&[archive_of(&all[0]), archive_of(&all[0])]),
            "twice"
        );
        assert!(
            noticed(&[archive_of(&all[2]), archive_of(&all[0])]),
            "moved"
        );
        let mut other = archive_of(&all[1]);
        other.bodies[1] = Some(b"forged".to_vec());
        assert!(noticed(&[other]));
    }
}
