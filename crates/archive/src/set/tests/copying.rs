use std::fs;

use proptest::prelude::*;
use tapedeck_model::{BodyPart, Ledger};

use super::{samples, small, writer_options};
use crate::tests::samples::{Sample, add, any_samples, expected, memory, noise, read, write};
use crate::{Archive, Copied, Selection, Writer, WriterOptions, copy, verify};

/// What is copied of an archive when those are chosen; the new archive is checked and compared.
fn check(samples: &[Sample], options: &WriterOptions, chosen: impl Fn(u64) -> bool) -> Copied {
    let folder = memory();
    let (old, new) = (
        folder.path().join("old.tape"),
        folder.path().join("new.tape"),
    );
    write(&old, samples, options.clone());
    let archive = Archive::open(&old).unwrap();
    let mut selection = Selection::none(&archive);
    let ids: Vec<u64> = (0..archive.len()).filter(|id| chosen(*id)).collect();
    ids.iter().for_each(|id| selection.insert(*id));
    let mut writer = Writer::create(&new, options.clone()).unwrap();
    let mut passed = 0;
    let copied = copy(&archive, &selection, &mut writer, &mut |now| passed = now).unwrap();
    writer.seal(archive.ledger()).unwrap();
    assert_eq!(passed, archive.len());
    assert_eq!(copied.exchanges, ids.len() as u64);

    // The same as what is written one by one.
    let report = verify(&new).unwrap();
    assert!(report.is_whole(), "{report:?}");
    let originals = ids.iter().map(|id| expected(&samples[*id as usize]));
    assert!(read(&Archive::open(&new).unwrap()) == originals.collect::<Vec<_>>());
    let whole = |id: &&u64| samples[**id as usize].exchange.complete();
    let incomplete = ids.len() - ids.iter().filter(whole).count();
    assert_eq!(copied.incomplete, incomplete as u64);

    if ids.len() == samples.len() && copied.blocks_anew == 0 {
        assert!(fs::read(&old).unwrap() == fs::read(&new).unwrap());
    }
    // Nothing of what was left out is there, not even in a body block that others are in.
    let bytes = fs::read(&new).unwrap();
    for (id, sample) in samples.iter().enumerate() {
        let Some(response) = &sample.exchange.response else {
            continue;
        };
        let body = &response.body.tail;
        let kept = |other: &u64| {
            let other = samples[*other as usize].exchange.response.as_ref();
            other.is_some_and(|other| other.body.tail == *body)
        };
        // Only what does not shrink lies there byte for byte.
        if body.len() == 5_000 && !chosen(id as u64) && !ids.iter().any(kept) {
            let found = bytes.windows(64).any(|bytes| bytes == &body[..64]);
            assert!(!found, "the body of {id} was left out");
        }
    }
    copied
}

#[test]
fn everything_is_copied_byte_for_byte_without_being_written_anew() {
    let copied = check(&samples(0..500), &writer_options(), |_| true);
    assert!(copied.blocks_whole > 5, "{copied:?}");
    assert_eq!(copied.blocks_anew, 0);
}

#[test]
fn a_stretch_is_copied_by_blocks_but_for_its_ends() {
    let copied = check(&samples(0..500), &writer_options(), |id| {
        (105..395).contains(&id)
    });
    assert!(copied.blocks_whole > 3, "{copied:?}");
    assert!((2..=6).contains(&copied.blocks_anew), "{copied:?}");
}

#[test]
fn some_of_every_block_are_written_anew() {
    let copied = check(&samples(0..300), &writer_options(), |id| id % 3 == 0);
    assert_eq!(copied.blocks_whole, 0, "{copied:?}");
    assert_eq!(
        check(&samples(0..50), &writer_options(), |_| false).exchanges,
        0
    );
}

#[test]
fn a_body_of_several_blocks_is_left_out_with_one_of_them() {
    // Each tenth has the same body, that lies in a body block which all blocks name.
    let mut samples = samples(0..300);
    for sample in samples.iter_mut().step_by(10) {
        let body = &mut sample.exchange.response.as_mut().unwrap().body;
        body.tail = noise(5_000, 1);
    }
    // And one in two parts.
    let part = |n: u64| BodyPart {
        key: 120,
        role: tapedeck_model::Role::Response,
        data: noise(6_000, 100 + n),
    };
    samples[120].parts = vec![part(0), part(1)];
    let body = &mut samples[120].exchange.response.as_mut().unwrap().body;
    body.parts = 2;
    body.len += 12_000;
    let copied = check(&samples, &writer_options(), |_| true);
    assert_eq!(copied.blocks_anew, 0, "{copied:?}");
    check(&samples, &writer_options(), |id| id != 10);
    check(&samples, &writer_options(), |id| id > 150);
}

#[test]
fn a_set_becomes_one_file_and_a_damaged_block_is_named() {
    let folder = memory();
    let path = |name: &str| folder.path().join(name);
    let mut options = writer_options();
    options
        .provenance
        .extra
        .insert("recording".into(), "r".into());
    let files =
        ["1", "2", "3"].map(|number| path(&format!("0000000{number}-20261121T061300Z.tape")));
    for (n, file) in (0..).zip(&files) {
        write(file, &samples(n * 100..n * 100 + 100), options.clone());
    }
    let archive = Archive::open(folder.path()).unwrap();
    let mut all = Selection::none(&archive);
    (0..300).for_each(|id| all.insert(id));
    let mut writer = Writer::create(&path("one"), options.clone()).unwrap();
    let copied = copy(&archive, &all, &mut writer, &mut |_| ()).unwrap();
    writer.seal(&Ledger::default()).unwrap();
    assert_eq!((copied.exchanges, copied.blocks_anew), (300, 0));
    let originals: Vec<_> = samples(0..300).iter().map(expected).collect();
    assert!(read(&Archive::open(&path("one")).unwrap()) == originals);
    assert!(verify(&path("one")).unwrap().is_whole());

    let mut bytes = fs::read(&files[1]).unwrap();
    let block = (64..bytes.len()).step_by(16);
    let block = block
        .filter(|at| bytes[*at..].starts_with(b"\x89TCK\x02"))
        .nth(1);
    bytes[block.unwrap() + 200] ^= 1;
    fs::write(&files[1], bytes).unwrap();
    let archive = Archive::open(folder.path()).unwrap();
    let mut writer = Writer::create(&path("two"), options).unwrap();
    let error = copy(&archive, &all, &mut writer, &mut |_| ()).unwrap_err();
    assert!(
        error.to_string().starts_with("failed to read exchange 1"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_choice_of_any_exchanges(samples in any_samples(40), mask in any::<u64>()) {
        let mut options = writer_options();
        options.limits = small();
        check(&samples, &options, |id| mask & (1 << (id % 64)) != 0);
        check(&samples, &options, |_| true);
    }
}

/// What is added goes behind what was copied, and both are there.
#[test]
fn a_copy_and_more() {
    let folder = memory();
    let (old, new) = (
        folder.path().join("old.tape"),
        folder.path().join("new.tape"),
    );
    write(&old, &samples(0..100), writer_options());
    let archive = Archive::open(&old).unwrap();
    let mut selection = Selection::none(&archive);
    (0..100).for_each(|id| selection.insert(id));
    let mut writer = Writer::create(&new, writer_options()).unwrap();
    add(&mut writer, &samples(500..501)[0]);
    copy(&archive, &selection, &mut writer, &mut |_| ()).unwrap();
    add(&mut writer, &samples(600..601)[0]);
    writer.seal(&Ledger::default()).unwrap();
    assert!(verify(&new).unwrap().is_whole());
    let archive = Archive::open(&new).unwrap();
    let expected: Vec<_> = [500..501, 0..100, 600..601]
        .into_iter()
        .flat_map(samples)
        .map(|sample| expected(&sample))
        .collect();
    assert!(read(&archive) == expected);
}
