//! Flipped bits and cut files: an error or the right data, and everything else stays readable.

use std::fs;
use std::path::Path;

use tapedeck_model::{Exchange, Missing};

use super::encrypted::{identities, recipients};
use super::samples::{expected, memory, noise, provenance, read, shop, unread, write_with};
use crate::{
    Archive, BodyBuffer, Limits, OpenError, Protection, ReadError, Recipients, Scratch,
    WriterOptions, recover, recover_with, verify, verify_with,
};

/// A small archive with everything in it: several blocks and pages, shared bodies, a raw block.
fn small(path: &Path) -> (Vec<u8>, Vec<Exchange>) {
    small_to(path, None)
}

fn small_to(path: &Path, encrypt_to: Option<Recipients>) -> (Vec<u8>, Vec<Exchange>) {
    // What is behind the encryption is tried without it; a smaller one will do with it.
    let (len, places) = match encrypt_to {
        None => (15, [3, 9, 11]),
        Some(_) => (5, [1, 2, 4]),
    };
    let mut samples: Vec<_> = (0..len).map(shop).collect();
    let bodies = [noise(1_100, 1), noise(1_100, 1), vec![b'z'; 6_000]];
    for (n, body) in places.into_iter().zip(bodies) {
        let message = samples[n].exchange.response.as_mut().unwrap();
        message.body.len = body.len() as u64;
        message.body.tail = body;
    }
    let mut options = WriterOptions::new(provenance());
    options.encrypt_to = encrypt_to;
    options.limits = Limits {
        block: 4 << 10,
        group: 4 << 10,
        inline_body: 2 << 10,
        min_shared_body: 1 << 10,
        ..Limits::default()
    };
    let closed: Vec<_> = (0..2).map(unread).collect();
    let summary = write_with(path, &samples, &closed, options);
    assert_eq!(summary.deduplicated_bytes, 1_100);
    let archive = Archive::open_with(path, &identities()).unwrap();
    assert!(archive.pages().count() >= len as usize / 7);
    let bytes = fs::read(path).unwrap();
    assert_eq!(summary.file_len, bytes.len() as u64);
    (bytes, samples.iter().map(expected).collect())
}

/// Reads whatever can be read, and sees to it that it is right.
fn check_reader(path: &Path, originals: &[Exchange], place: usize) {
    let Ok(archive) = Archive::open_with(path, &identities()) else {
        return;
    };
    assert_eq!(archive.len(), originals.len() as u64, "at {place}");
    for row in archive.rows() {
        let original = &originals[row.id() as usize];
        assert_eq!(row.time(), original.time(), "at {place}");
        let target = original
            .request
            .as_ref()
            .unwrap()
            .head
            .as_ref()
            .unwrap()
            .target();
        assert_eq!(row.target().as_deref(), target, "at {place}");
    }
    for found in archive.unread().flatten() {
        let n = found.connection.id.0;
        assert_eq!(found, unread(n), "at {place}");
    }
    let mut scratch = Scratch::new();
    let mut buffer = BodyBuffer::new();
    for (id, original) in originals.iter().enumerate() {
        let Ok(record) = archive.load(id as u64, &mut scratch) else {
            continue;
        };
        let mut found = record.to_exchange();
        let view = record.response().unwrap();
        let Ok(body) = archive.body(&view.body(), &mut buffer) else {
            continue;
        };
        found.response.as_mut().unwrap().body.tail = body.to_vec();
        assert_eq!(found, *original, "at {place}");
    }
}

/// Recovers, and sees to it that what comes out is a part of what went in.
fn check_recovery(path: &Path, originals: &[Exchange], place: usize) -> usize {
    let out = path.with_extension("recovered");
    let Ok(recovered) = recover_with(path, &out, &identities(), &Protection::None) else {
        return 0;
    };
    let archive = Archive::open(&out).unwrap();
    assert!(verify(&out).unwrap().is_whole(), "at {place}");
    assert_eq!(archive.len(), recovered.exchanges);
    let mut left = originals.iter();
    for found in read(&archive) {
        let Some(original) = left.find(|original| original.time() == found.time()) else {
            panic!("an exchange from nowhere, at {place}");
        };
        let missing = found.response.as_ref().unwrap().missing;
        if !missing.contains(Missing::DAMAGED) {
            assert_eq!(found, *original, "at {place}");
        }
    }
    fs::remove_file(&out).unwrap();
    recovered.exchanges as usize
}

#[test]
fn every_flipped_byte_is_found() {
    flip_every_byte(None);
}

#[test]
fn every_flipped_byte_of_an_encrypted_archive_is_found() {
    flip_every_byte(Some(recipients()));
}

fn flip_every_byte(encrypt_to: Option<Recipients>) {
    let folder = memory();
    let path = folder.path().join("a.tape");
    let (bytes, originals) = small_to(&path, encrypt_to);
    let verify = |path: &Path| verify_with(path, &identities());
    assert!(verify(&path).unwrap().is_whole());
    let mut most_lost = 0;
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1 << (place % 8);
        fs::write(&path, &damaged).unwrap();
        // Without the key, too.
        let seen = crate::verify(&path).map(|report| report.is_whole());
        assert!(!matches!(seen, Ok(true)), "verify did not see byte {place}");
        if let Ok(report) = verify(&path) {
            assert!(!report.is_whole(), "verify did not see byte {place}");
            let known = report.exchanges_readable + report.exchanges_lost;
            assert!(known <= originals.len() as u64, "at {place}: {report:?}");
            if report.sealed {
                assert_eq!(known, originals.len() as u64, "at {place}: {report:?}");
            }
            most_lost = most_lost.max(report.exchanges_lost);
        }
        check_reader(&path, &originals, place);
        if place % 61 == 0 {
            let saved = check_recovery(&path, &originals, place);
            assert!(saved + 12 >= originals.len(), "{saved} at {place}");
        }
    }
    assert!((1..=12).contains(&most_lost), "one block, not {most_lost}");
}

#[test]
fn every_cut_is_found() {
    cut_everywhere(None);
}

#[test]
fn every_cut_of_an_encrypted_archive_is_found() {
    cut_everywhere(Some(recipients()));
}

fn cut_everywhere(encrypt_to: Option<Recipients>) {
    let folder = memory();
    let path = folder.path().join("a.tape");
    let is_encrypted = encrypt_to.is_some();
    let (bytes, originals) = small_to(&path, encrypt_to);
    let mut saved = 0;
    for len in 0..bytes.len() {
        fs::write(&path, &bytes[..len]).unwrap();
        match Archive::open_with(&path, &identities()) {
            // Cut within its key.
            Err(OpenError::Key { .. }) if is_encrypted && len < 1_000 => {}
            Err(
                OpenError::Empty { .. }
                | OpenError::NotAnArchive { .. }
                | OpenError::Unsealed { .. },
            ) => {}
            other => panic!("{other:?} at {len}"),
        }
        for report in [verify(&path), verify_with(&path, &identities())] {
            let Ok(report) = report else { continue };
            assert!(!report.sealed && !report.is_whole(), "at {len}");
        }
        if len % 61 == 0 {
            let now = check_recovery(&path, &originals, len);
            assert!(now >= saved, "a longer file has no fewer exchanges");
            saved = now;
        }
    }
    assert_eq!(saved, originals.len());
}

#[test]
fn a_damaged_page_hides_its_rows_only() {
    let folder = memory();
    let path = folder.path().join("a.tape");
    let (bytes, _) = small(&path);
    let starts = (64..bytes.len()).step_by(16);
    let mut pages = starts.filter(|at| bytes[*at..].starts_with(b"\x89TCK\x04"));
    let first = pages.next().unwrap();
    let mut damaged = bytes;
    damaged[first + 200] ^= 1;
    fs::write(&path, &damaged).unwrap();

    let archive = Archive::open(&path).unwrap();
    assert!(archive.row(0).is_none());
    let lost = archive.damaged_rows();
    assert!(lost > 0 && lost < archive.len());
    assert_eq!(archive.rows().count() as u64, archive.len() - lost);
    assert!(matches!(archive.page_of(0), Err(ReadError::Damaged { .. })));
    assert!(archive.pages().next().unwrap().is_err());
    // The records need no page.
    assert_eq!(verify(&path).unwrap().exchanges_lost, 0);
    let out = folder.path().join("b.tape");
    assert_eq!(recover(&path, &out).unwrap().exchanges, archive.len());
}

#[test]
fn a_damaged_body_is_told_in_the_recovered_exchange() {
    let folder = memory();
    let path = folder.path().join("a.tape");
    let (mut bytes, originals) = small(&path);
    let needle = &noise(1_100, 1)[..32];
    let found = bytes.windows(needle.len()).position(|w| w == needle);
    bytes[found.unwrap()] ^= 1;
    fs::write(&path, &bytes).unwrap();

    let report = verify(&path).unwrap();
    assert_eq!(report.damages.len(), 1);
    assert_eq!(
        (report.exchanges_lost, report.exchanges_without_body),
        (0, 2)
    );
    let out = folder.path().join("b.tape");
    let recovered = recover(&path, &out).unwrap();
    assert_eq!(recovered.exchanges_without_body, 2);
    let archive = Archive::open(&out).unwrap();
    assert_eq!(archive.len(), originals.len() as u64);
    let row = archive.row(3).unwrap();
    assert_eq!(row.response_missing(), Missing::DAMAGED);
    assert!(!row.complete());
    let mut scratch = Scratch::new();
    let record = archive.load(3, &mut scratch).unwrap();
    let gap = record.response().unwrap().body().gaps().next().unwrap();
    assert_eq!((gap.offset, gap.gap.len), (0, 1_100));
}
