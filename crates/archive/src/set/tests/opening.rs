//! Files of many kinds, opened as one.

use std::fs;
use std::path::Path;

use tapedeck_model::{Exchange, Ledger};
use tempfile::tempdir;

use super::{samples, writer_options};
use crate::tests::samples::{add, expected, noise, read, shop, write};
use crate::{Archive, OpenError, Scratch, Writer, WriterOptions, partial_path};

fn options(recording: Option<&str>) -> WriterOptions {
    let mut options = writer_options();
    let names = recording
        .into_iter()
        .flat_map(|name| ["recording", "set"].map(|key| (key.to_owned(), name.to_owned())));
    options.provenance.extra.extend(names);
    options
}

fn segment(folder: &Path, number: u64) -> std::path::PathBuf {
    folder.join(format!("{number:08}-20261121T061300Z.tape"))
}

fn originals(range: std::ops::Range<u64>) -> Vec<Exchange> {
    samples(range).iter().map(expected).collect()
}

/// Three segments of 150 exchanges, the last of them still being written.
fn folder_of_three(folder: &Path) -> Writer {
    for (number, range) in [(7, 0..150), (8, 150..300)] {
        write(
            &segment(folder, number),
            &samples(range),
            options(Some("r")),
        );
    }
    let mut writer = Writer::create(&segment(folder, 9), options(Some("r"))).unwrap();
    for sample in samples(300..450) {
        add(&mut writer, &sample);
    }
    writer.flush().unwrap();
    add(&mut writer, &shop(450));
    writer
}

#[test]
fn a_folder_reads_as_one_archive() {
    let folder = tempdir().unwrap();
    let writer = folder_of_three(folder.path());
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let archive = Archive::open(folder.path()).unwrap();
    assert_eq!(archive.len(), 450);
    assert_eq!(archive.rows().count(), 450);
    let ids: Vec<u64> = archive.rows().map(|row| row.id()).collect();
    assert!(ids.into_iter().eq(0..450));
    assert!(read(&archive) == originals(0..450));
    assert_eq!(archive.damaged_rows(), 0);
    assert_eq!(archive.ledger().exchanges, 300, "of what is sealed");
    let zones: Vec<_> = archive.zones().collect();
    let pages: Vec<_> = archive.pages().map(Result::unwrap).collect();
    assert_eq!(zones.len(), pages.len());
    for (number, (zone, page)) in zones.iter().zip(&pages).enumerate() {
        assert_eq!(zone.first_row(), page.first_row());
        assert_eq!(zone.n_rows(), page.len());
        let times = || page.rows().map(|row| row.time().as_nanos());
        assert_eq!(zone.times().0, times().min().unwrap());
        assert_eq!(zone.times().1, times().max().unwrap());
        assert_eq!(zone.statuses(), Some((200, 200)));
        assert!(!zone.has_incomplete());
        assert_eq!(archive.page(number).unwrap().first_row(), page.first_row());
    }
    assert!(archive.page(pages.len()).is_err());
    assert!(archive.row(450).is_none());
    assert!(archive.load(450, &mut Scratch::new()).is_err());

    // Names stay when what is before is deleted.
    assert_eq!(archive.name(149), "7/149");
    assert_eq!(archive.name(301), "9/1");
    for id in 0..450 {
        assert_eq!(archive.find(&archive.name(id)), Some(id));
        assert_eq!(archive.find(&id.to_string()), Some(id));
    }
    for wrong in ["450", "7/150", "6/0", "7/", "/1", "7/1/1", "", "-1", "x"] {
        assert_eq!(archive.find(wrong), None, "{wrong}");
    }
    fs::remove_file(segment(folder.path(), 7)).unwrap();
    let later = Archive::open(folder.path()).unwrap();
    assert_eq!(later.name(later.find("9/1").unwrap()), "9/1");
    // What is mapped stays readable.
    assert!(read(&archive) == originals(0..450));

    writer.seal(&Ledger::default()).unwrap();
    let sealed = Archive::open(folder.path()).unwrap();
    assert_eq!(sealed.len(), 301);
    assert!(sealed.segments().all(|segment| segment.is_sealed));
}

#[test]
fn a_bad_file_costs_a_folder_no_more_than_itself() {
    let folder = tempdir().unwrap();
    drop(folder_of_three(folder.path()));
    type Damage = fn(&mut Vec<u8>);
    let damage: [(u64, Damage); 4] = [
        (10, |bytes| bytes.clear()),
        (11, |bytes| bytes.truncate(bytes.len() - 1)),
        (12, |bytes| {
            // A newer major version, as a sound header says it.
            bytes[8..10].copy_from_slice(&9_u16.to_le_bytes());
            bytes[12..14].copy_from_slice(&9_u16.to_le_bytes());
            let hash = xxhash_rust::xxh3::xxh3_64(&bytes[..56]);
            bytes[56..64].copy_from_slice(&hash.to_le_bytes());
        }),
        (13, |bytes| bytes[3] ^= 1),
    ];
    let good = fs::read(segment(folder.path(), 8)).unwrap();
    for (number, damage) in damage {
        let mut bytes = good.clone();
        damage(&mut bytes);
        fs::write(segment(folder.path(), number), bytes).unwrap();
    }
    fs::create_dir(segment(folder.path(), 14)).unwrap();
    let archive = Archive::open(folder.path()).unwrap();
    assert!(read(&archive) == originals(0..450));
    let said: Vec<_> = archive
        .left_out()
        .iter()
        .map(|left_out| left_out.error.to_string())
        .collect();
    assert_eq!(said.len(), 5, "{said:?}");
    for (said, expect) in said.iter().zip([
        "is empty",
        "was never sealed, or was cut",
        "use a newer Tapedeck",
        "is not a Tapedeck archive",
        "is not a regular file",
    ]) {
        assert!(said.contains(expect), "{said}");
    }
}

#[test]
fn a_folder_without_archives_is_told_from_one_whose_archives_are_bad() {
    let folder = tempdir().unwrap();
    let error = Archive::open(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::NoArchives { .. }), "{error}");
    fs::write(folder.path().join("a.tape"), "not one").unwrap();
    let error = Archive::open(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::NotAnArchive { .. }), "{error}");
    // A hidden file under another name than ours is not one being written.
    fs::write(folder.path().join(".b.partial"), "not one").unwrap();
    fs::remove_file(folder.path().join("a.tape")).unwrap();
    let error = Archive::open(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::NoArchives { .. }), "{error}");
}

#[test]
fn a_file_whose_writer_has_just_begun_is_passed_over() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join(".b.tape.partial"), "").unwrap();
    let error = Archive::open(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::NoArchives { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains(&*folder.path().to_string_lossy())
    );
    write(
        &folder.path().join("a.tape"),
        &samples(0..10),
        options(None),
    );
    let archive = Archive::open(folder.path()).unwrap();
    assert!(archive.left_out().is_empty());
    assert_eq!(archive.len(), 10);
    // One that has its name has something in it, or is damaged.
    fs::write(folder.path().join("b.tape"), "").unwrap();
    let archive = Archive::open(folder.path()).unwrap();
    assert_eq!(archive.left_out().len(), 1);
}

#[test]
fn files_of_several_recordings_lie_by_time_and_share_no_connection() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write(&path("late.tape"), &samples(200..240), options(None));
    write(&path("early.tape"), &samples(0..40), options(None));
    let archive = Archive::open_all(&[path("late.tape"), path("early.tape")]).unwrap();
    let times: Vec<_> = archive.rows().map(|row| row.time()).collect();
    assert!(times.is_sorted());
    assert_eq!(archive.name(40), "late/0");
    let connections = |range: std::ops::Range<u64>| {
        let mut scratch = Scratch::new();
        let of = |id| archive.row(id).unwrap().connection();
        let found: std::collections::BTreeSet<_> = range.clone().map(of).collect();
        for id in range {
            let record = archive.load(id, &mut scratch).unwrap();
            assert_eq!(
                record.connection().id,
                archive.row(id).unwrap().connection()
            );
        }
        found
    };
    assert!(connections(0..40).is_disjoint(&connections(40..80)));

    // Of one recording: the same connections in every segment, and the order of the numbers,
    // although the clock was set back.
    let folder = tempdir().unwrap();
    write(
        &segment(folder.path(), 1),
        &samples(200..240),
        options(Some("r")),
    );
    write(
        &segment(folder.path(), 2),
        &samples(0..40),
        options(Some("r")),
    );
    let archive = Archive::open(folder.path()).unwrap();
    assert!(read(&archive)[0] == expected(&samples(200..201)[0]));
    let connections: std::collections::BTreeSet<_> =
        archive.rows().map(|row| row.connection()).collect();
    assert_eq!(connections.len(), 7);

    // The same number twice: the place tells them apart.
    let other = tempdir().unwrap();
    write(
        &segment(other.path(), 2),
        &samples(0..1),
        options(Some("s")),
    );
    let archive = Archive::open_all(&[folder.path(), other.path()]).unwrap();
    let labels: Vec<_> = archive.segments().map(|segment| segment.label).collect();
    assert_eq!(labels, ["1", "2", "3"]);
}

#[test]
fn a_body_is_read_from_the_file_it_lies_in() {
    let folder = tempdir().unwrap();
    drop(folder_of_three(folder.path()));
    let archive = Archive::open(folder.path()).unwrap();
    let other = Archive::open(folder.path()).unwrap();
    let mut scratch = Scratch::new();
    let record = archive.load(310, &mut scratch).unwrap();
    let body = record.response().unwrap().body();
    let mut buffer = crate::BodyBuffer::new();
    assert_eq!(archive.body(&body, &mut buffer).unwrap(), noise(5_000, 310));
    assert_eq!(
        other.body(&body, &mut buffer),
        Err(crate::ReadError::ForeignBody)
    );
    assert!(partial_path(&segment(folder.path(), 9)).unwrap().exists());
}
