//! Folders of archives.

use std::path::Path;

use tapedeck_archive::{
    Archive, OpenError, Provenance, SegmentedWriter, SetEvent, SetOptions, archives_in,
    partial_path, recover_folder, verify,
};
use tapedeck_model::Ledger;

use crate::program::Program;
use crate::scratch;
use crate::stored::{read_rows, reseal, sample_bytes};

/// A folder of archives, each of them damaged, cut, or still hidden, as the program says. It opens as
/// one; what was interrupted in it is sealed; and a writer goes on behind it.
#[expect(clippy::expect_used, reason = "a full disk is no finding")]
pub fn folder(bytes: &[u8]) {
    let mut program = Program::new(bytes);
    let folder = scratch::folder();
    for number in 0..1 + program.below(4) {
        put_file(folder.path(), number, &mut program);
    }
    read(folder.path());
    for event in recover_folder(folder.path()).expect("nobody writes there") {
        check(&event);
    }
    read(folder.path());
    let options = SetOptions::new(Provenance::default());
    // It may be refused: there is no number behind the largest one.
    if let Ok((writer, events)) = SegmentedWriter::create(folder.path(), options) {
        events.iter().for_each(check);
        let (_, events) = writer
            .seal(&Ledger::default())
            .expect("space for a segment");
        events.iter().for_each(check);
    }
    read(folder.path());
}

/// What was written is whole. What was interrupted and is sealed now opens, and holds as much as was
/// said; where the writer had come to its end, damage from elsewhere may still be in it.
#[expect(
    clippy::expect_used,
    reason = "a target panics where a contract is broken"
)]
fn check(event: &SetEvent) {
    let (path, summary) = match event {
        SetEvent::Sealed { path, summary } => {
            let report = verify(path).expect("what was written");
            assert!(report.is_whole(), "{event:?}");
            (path, summary)
        }
        SetEvent::Recovered { path, summary } => (path, summary),
        SetEvent::NotRecovered { error, .. } => {
            return assert!(!error.to_string().is_empty());
        }
        _ => return,
    };
    let archive = Archive::open(path).expect("what was sealed");
    assert_eq!(archive.len(), summary.exchanges, "{event:?}");
}

/// Every file of it is read, or left out with a reason.
fn read(folder: &Path) {
    let Ok(names) = archives_in(folder) else {
        return;
    };
    match Archive::open(folder) {
        Ok(archive) => {
            // What was interrupted before its header was written is nothing yet.
            let begun = names.iter().filter(|name| !is_empty(name));
            assert_eq!(
                archive.segments().count() + archive.left_out().len(),
                begun.count()
            );
            for left_out in archive.left_out() {
                assert!(!left_out.error.to_string().is_empty());
            }
            read_rows(&archive);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Whether an archive has only its hidden name yet, and no header.
fn is_empty(name: &Path) -> bool {
    let hidden = partial_path(name).ok().filter(|_| !name.exists());
    hidden.is_some_and(|hidden| matches!(Archive::open(&hidden), Err(OpenError::Empty { .. })))
}

#[expect(clippy::expect_used, reason = "a full disk is no finding")]
fn put_file(folder: &Path, number: usize, program: &mut Program<'_>) {
    let control = program.byte();
    let name = match control & 3 {
        0 => format!("{number:08}-20261121T06130{number}Z.tape"),
        1 => format!("{}-20261121T061300Z.tape", u64::MAX),
        2 => format!("shop{number}.tape"),
        _ => format!("{number}"),
    };
    let path = folder.join(name);
    let path = if control & 4 == 0 {
        path
    } else {
        partial_path(&path).expect("a file name")
    };
    let mut bytes = sample_bytes().to_vec();
    if control & 8 != 0 {
        bytes.truncate(usize::from(program.word()) % (bytes.len() + 1));
    }
    for _ in 0..program.below(4) {
        let place = usize::from(program.word()) % bytes.len().max(1);
        let value = program.byte();
        if let Some(byte) = bytes.get_mut(place) {
            *byte ^= value;
        }
    }
    if control & 16 != 0 {
        reseal(&mut bytes);
    }
    let file = scratch::file(folder, &bytes);
    file.persist(path).expect("a name");
}
