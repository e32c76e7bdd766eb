//! Connections that could not be read are kept, in order, through crashes and damage.

use std::fs;

use tapedeck_model::Ledger;
use tempfile::tempdir;

use super::samples::{add, provenance, shop, unread, write_with};
use crate::{Archive, Limits, ReadError, Writer, WriterOptions, partial_path, recover, verify};

#[test]
fn they_are_read_back_in_order() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.tape");
    let closed: Vec<_> = (0..500).map(unread).collect();
    let samples: Vec<_> = (0..60).map(shop).collect();
    let mut options = WriterOptions::new(provenance());
    options.limits = Limits {
        block: 8 << 10,
        ..Limits::default()
    };
    let summary = write_with(&path, &samples, &closed, options);
    assert_eq!((summary.exchanges, summary.unread_connections), (60, 500));
    let archive = Archive::open(&path).unwrap();
    let found: Vec<_> = archive.unread().map(Result::unwrap).collect();
    assert_eq!(found, closed);
    let report = verify(&path).unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(report.unread_connections, 500);
}

#[test]
fn a_damaged_list_is_told_and_passed_over() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.tape");
    let closed: Vec<_> = (0..400).map(unread).collect();
    let mut options = WriterOptions::new(provenance());
    options.limits.block = 8 << 10;
    write_with(&path, &[], &closed, options);
    let mut bytes = fs::read(&path).unwrap();
    let starts = (64..bytes.len()).step_by(16);
    let lists: Vec<_> = starts
        .filter(|at| bytes[*at..].starts_with(b"\x89TCK\x07"))
        .collect();
    assert!(lists.len() > 2);
    bytes[lists[1] + 80] ^= 1;
    fs::write(&path, &bytes).unwrap();

    let archive = Archive::open(&path).unwrap();
    let errors: Vec<_> = archive.unread().filter_map(Result::err).collect();
    let offset = lists[1] as u64;
    assert!(
        matches!(errors[..], [ReadError::Damaged { offset: at, .. }] if at == offset),
        "{errors:?}"
    );
    let left: Vec<_> = archive.unread().flatten().collect();
    assert!(left.len() > 200 && left.len() < 400);
    assert_eq!(left.last(), closed.last());

    let report = verify(&path).unwrap();
    assert_eq!(
        (report.damages.len(), report.damages[0].offset),
        (1, offset)
    );
    assert_eq!(report.unread_connections, left.len() as u64);
    let out = folder.path().join("b.tape");
    assert_eq!(recover(&path, &out).unwrap().damaged_places, 1);
    let recovered = Archive::open(&out).unwrap();
    assert_eq!(
        recovered.unread().map(Result::unwrap).collect::<Vec<_>>(),
        left
    );
}

#[test]
fn what_was_flushed_survives_a_crash_with_counters_of_a_newer_version() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.tape");
    let mut writer = Writer::create(&path, WriterOptions::new(provenance())).unwrap();
    writer.keep_counters([("bits_flipped".to_owned(), 4)].into());
    writer.unread(&unread(0)).unwrap();
    writer.checkpoint(&Ledger::default()).unwrap();
    add(&mut writer, &shop(0));
    writer.unread(&unread(1)).unwrap();
    writer.flush().unwrap();
    writer.unread(&unread(2)).unwrap();
    // A crash: the hidden file as it is now.
    let partial = folder.path().join("left.tape");
    fs::copy(partial_path(&path).unwrap(), &partial).unwrap();
    let out = folder.path().join("b.tape");
    recover(&partial, &out).unwrap();
    let archive = Archive::open(&out).unwrap();
    let found: Vec<_> = archive.unread().map(Result::unwrap).collect();
    assert_eq!(found, [unread(0), unread(1)]);
    assert_eq!(archive.unknown_counters()["bits_flipped"], 4);
    assert!(verify(&out).unwrap().is_whole());
}
