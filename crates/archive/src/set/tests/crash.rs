//! Writers that die and disks that fill up, at hundreds of points.

use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use tapedeck_model::{BodyPart, Ledger, Role};

use super::{names, samples, small, writer_options};
use crate::set::resume::seal_in_place;
use crate::tests::crash::{NO_CHILD_STARTS, Victim};
use crate::tests::encrypted::{identities, recipients};
use crate::tests::samples::{add, expected, memory, noise, read, write};
use crate::{
    Archive, Identities, Limits, Recipients, SegmentedWriter, SetEvent, SetOptions, Writer,
    WriterOptions, partial_path, recover_folder, verify, verify_with,
};

/// Every tick flushes.
fn options() -> SetOptions {
    let mut options = SetOptions::new(writer_options().provenance);
    options.writer.limits = Limits {
        hold: Duration::ZERO,
        ..small()
    };
    options.segment_size = 24 << 10;
    options
}

/// What the variable holds is the folder that the child writes to.
const CHILD: &str = "TAPEDECK_TEST_SET";

/// Not a test by itself: the writer that [`a_killed_writer_leaves_a_set_that_opens`] kills.
#[test]
fn child_writes_segments_until_it_is_killed() {
    let Some(folder) = env::var_os(CHILD) else {
        return;
    };
    let (mut writer, _) = SegmentedWriter::create(Path::new(&folder), options()).unwrap();
    for n in 0..600 {
        writer.exchange(&samples(n..n + 1)[0].exchange).unwrap();
        if n % 7 == 6 {
            let now = Duration::from_millis(n);
            writer.tick(now, Ledger::default).unwrap();
            println!("flushed {}", n + 1);
        }
    }
    writer.seal(&Ledger::default()).unwrap();
    println!("flushed 600");
}

/// Two hundred times, at other moments each: while it begins, writes, rolls, and seals.
#[test]
fn a_killed_writer_leaves_a_set_that_opens() {
    let originals: Vec<_> = samples(0..600).iter().map(expected).collect();
    let (mut unsealed, mut lines_read) = (0, 0);
    for round in 0..200_usize {
        let folder = memory();
        let writer = "set::tests::crash::child_writes_segments_until_it_is_killed";
        let mut victim = Victim::start(writer, CHILD, folder.path());
        // Between two lines anything may be under way. In the first rounds it has barely begun.
        victim.hear(round * 7 % 87);
        victim.kill();
        let flushed = victim.flushed;
        lines_read += victim.heard;

        let hidden = names(folder.path());
        let hidden = hidden.iter().filter(|name| name.starts_with('.')).count();
        assert!(hidden <= 2, "one that is sealed, one that begins: {hidden}");
        unsealed += hidden;
        if flushed > 0 && round % 5 == 0 {
            // As it lies there, before anything is recovered.
            let left = Archive::open(folder.path()).unwrap();
            assert!(left.left_out().is_empty(), "{:?}", left.left_out());
            assert!(read(&left)[..] == originals[..left.len() as usize]);
            assert!(
                left.len() as usize >= flushed,
                "{} of {flushed}",
                left.len()
            );
        }
        let (writer, events) = SegmentedWriter::create(folder.path(), options()).unwrap();
        for event in &events {
            let is_done = matches!(event, SetEvent::Recovered { .. } | SetEvent::Empty { .. });
            assert!(is_done, "{event:?}");
        }
        writer.seal(&Ledger::default()).unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        assert!(archive.segments().all(|segment| segment.is_sealed));
        assert!(
            archive.len() as usize >= flushed,
            "{} of {flushed}",
            archive.len()
        );
        if round % 10 == 0 {
            assert!(read(&archive)[..] == originals[..archive.len() as usize]);
            for segment in archive.segments() {
                assert!(verify(segment.path).unwrap().is_whole());
            }
        }
    }
    assert!(
        unsealed > 70 && lines_read > 1_000,
        "{unsealed}, {lines_read}"
    );
}

#[test]
fn a_full_disk_leaves_a_set_that_opens() {
    let samples = samples(0..120);
    let originals: Vec<_> = samples.iter().map(expected).collect();
    let mut failures = 0;
    for round in 0..300_u64 {
        let _closing = NO_CHILD_STARTS.lock().unwrap();
        let folder = memory();
        let (mut writer, _) = SegmentedWriter::create(folder.path(), options()).unwrap();
        // For each segment: full within the first chunks, in the middle, at the roll, while sealing.
        writer.fill_disk_at(200 + round * 101);
        let mut flushed = 0;
        let failed = samples.iter().enumerate().find_map(|(n, sample)| {
            let now = Duration::from_millis(n as u64);
            let result = writer
                .exchange(&sample.exchange)
                .and_then(|()| writer.tick(now, Ledger::default));
            if result.is_ok() {
                flushed = n + 1;
            }
            result.err()
        });
        let sealed = writer.seal(&Ledger::default());
        if failed.is_some() {
            failures += 1;
        }
        drop(sealed);
        // The next writer has space.
        let (writer, events) = SegmentedWriter::create(folder.path(), options()).unwrap();
        for event in &events {
            let is_done = matches!(event, SetEvent::Recovered { .. } | SetEvent::Empty { .. });
            assert!(is_done, "{event:?}");
        }
        writer.seal(&Ledger::default()).unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        assert!(
            archive.len() as usize >= flushed,
            "{} of {flushed}",
            archive.len()
        );
        if round % 10 == 0 {
            assert!(read(&archive)[..] == originals[..archive.len() as usize]);
        }
    }
    assert!(failures > 200, "{failures}");
}

/// After a power cut, what was not synced may be there, be zeros, or be missing, page by page.
#[test]
fn a_power_cut_costs_only_what_came_since_the_last_tick() {
    let samples = samples(0..120);
    let originals: Vec<_> = samples.iter().map(expected).collect();
    for round in 0..150_usize {
        let _closing = NO_CHILD_STARTS.lock().unwrap();
        let folder = memory();
        let path = folder.path().join("a.tape");
        let mut limits = small();
        limits.hold = Duration::ZERO;
        let mut options = WriterOptions::new(writer_options().provenance);
        options.limits = limits;
        let mut writer = Writer::create(&path, options).unwrap();
        let ticked = 1 + round * 53 % 100;
        for sample in &samples[..ticked] {
            add(&mut writer, sample);
        }
        assert!(writer.tick(Duration::ZERO, Ledger::default).unwrap());
        let synced = writer.file_len() as usize;
        for (n, sample) in samples[ticked..].iter().enumerate() {
            add(&mut writer, sample);
            if n % 9 == 8 {
                writer.flush().unwrap();
            }
        }
        drop(writer);
        let partial = partial_path(&path).unwrap();
        let mut bytes = fs::read(&partial).unwrap();
        let lost = &mut bytes[synced..];
        for (page, bytes) in lost.chunks_mut(4096).enumerate() {
            if (round * 31 + page * 7) % 3 == 0 {
                bytes.fill(0);
            }
        }
        bytes.truncate(synced + round * 997 % (bytes.len() - synced));
        fs::write(&partial, &bytes).unwrap();
        super::super::writer::finish(&partial, &path, &Identities::none()).unwrap();
        assert!(!partial.exists() && verify(&path).unwrap().is_whole());
        let archive = Archive::open(&path).unwrap();
        assert!(
            archive.len() as usize >= ticked,
            "{} of {ticked}",
            archive.len()
        );
        // Blocks that came through alone are there, too.
        assert!(read(&archive)[..ticked] == originals[..ticked]);
    }
}

#[test]
fn a_file_cut_anywhere_is_sealed_where_it_lies() {
    cut_anywhere(None);
}

#[test]
fn an_encrypted_file_cut_anywhere_is_sealed_where_it_lies() {
    cut_anywhere(Some(recipients()));
}

fn cut_anywhere(encrypt_to: Option<Recipients>) {
    let is_encrypted = encrypt_to.is_some();
    let folder = memory();
    let path = folder.path().join("a.tape");
    let partial = partial_path(&path).unwrap();
    let samples = samples(0..60);
    let mut options = writer_options();
    options.encrypt_to = encrypt_to;
    write(&path, &samples, options);
    let whole = fs::read(&path).unwrap();
    let originals: Vec<_> = samples.iter().map(expected).collect();
    fs::remove_file(&path).unwrap();
    let mut most = 0;
    for len in (200..whole.len()).step_by(401).chain([whole.len()]) {
        fs::write(&partial, &whole[..len]).unwrap();
        if is_encrypted && len < 384 {
            // Cut within its key.
            seal_in_place(&partial, &path, &identities()).unwrap_err();
            continue;
        }
        let Some(sealed) = seal_in_place(&partial, &path, &identities()).unwrap() else {
            assert!(
                len < if is_encrypted { 1_000 } else { 400 },
                "it does not say where it comes from"
            );
            assert_eq!(fs::read(&partial).unwrap(), whole[..len]);
            continue;
        };
        assert!(verify_with(&path, &identities()).unwrap().is_whole());
        let archive = Archive::open_with(&path, &identities()).unwrap();
        assert_eq!(sealed.exchanges, archive.len());
        assert_eq!(sealed.file_len, fs::metadata(&path).unwrap().len());
        assert!(read(&archive)[..] == originals[..archive.len() as usize]);
        assert!(archive.len() >= most, "more bytes, more exchanges");
        most = archive.len();
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(most, 60);
    // Damage in the middle is not for this: nothing behind it is to be lost.
    let mut damaged = whole.clone();
    damaged[1_500] ^= 1;
    damaged.truncate(whole.len() - 10);
    fs::write(&partial, &damaged).unwrap();
    let refused = seal_in_place(&partial, &path, &identities());
    if let Ok(Some(sealed)) = refused {
        panic!("{sealed:?}");
    }
    assert_eq!(fs::read(&partial).unwrap(), damaged);
}

/// The writer was done but for the name; what came then was a bad disk.
#[test]
fn a_complete_file_with_damage_is_recovered_and_not_just_named() {
    let folder = memory();
    let name = folder.path().join("00000000-20261121T061300Z.tape");
    let partial = partial_path(&name).unwrap();
    write(&name, &samples(0..20), writer_options());
    let whole = fs::read(&name).unwrap();
    fs::remove_file(&name).unwrap();
    // Any page of the index: the file does not open without its directory.
    for place in [whole.len() / 3, whole.len() - 120] {
        let mut damaged = whole.clone();
        damaged[place] ^= 1;
        fs::write(&partial, &damaged).unwrap();
        assert!(!verify(&partial).unwrap().is_whole());
        assert!(
            seal_in_place(&partial, &name, &identities())
                .unwrap()
                .is_none()
        );
        recover_folder(folder.path()).unwrap();
        assert!(verify(&name).unwrap().is_whole(), "at {place}");
        assert!(!partial.exists());
        fs::remove_file(&name).unwrap();
    }
    fs::write(&partial, &whole).unwrap();
    assert!(
        seal_in_place(&partial, &name, &identities())
            .unwrap()
            .is_some()
    );
    assert!(fs::read(&name).unwrap() == whole);
}

/// A long body under way, so far as the disk takes it.
fn fill_with_a_body(writer: &mut SegmentedWriter) {
    let parts = (0..).map(|n| BodyPart {
        key: 1 << 40,
        role: Role::Response,
        data: noise(3_000, n),
    });
    for (n, part) in parts.enumerate() {
        let now = Duration::from_secs(1_000 + n as u64);
        let taken = writer.body_part(&part);
        if taken
            .and_then(|()| writer.tick(now, || ledger(n as u64)))
            .is_err()
        {
            return;
        }
    }
}

/// A ledger after so many lost exchanges.
fn ledger(lost: u64) -> Ledger {
    Ledger {
        exchanges_dropped: lost,
        ..Ledger::default()
    }
}

/// The parts of a body lie in the file before their exchange does. Where the disk is full before that is over,
/// nothing refers to them.
#[test]
fn a_body_that_fills_the_disk_gives_its_room_back() {
    let _closing = NO_CHILD_STARTS.lock().unwrap();
    let folder = memory();
    let samples = samples(0..40);
    let mut options = options();
    options.segment_size = u64::MAX;
    options.segment_age = Duration::MAX;
    let (mut writer, _) = SegmentedWriter::create(folder.path(), options.clone()).unwrap();
    for sample in &samples {
        writer.exchange(&sample.exchange).unwrap();
    }
    writer
        .tick(Duration::from_secs(1), Ledger::default)
        .unwrap();
    let len = writer.file_len();
    writer.fill_disk_at(1 << 20);
    fill_with_a_body(&mut writer);
    drop(writer);
    let (writer, events) = SegmentedWriter::create(folder.path(), options).unwrap();
    let [SetEvent::Recovered { path, summary }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(summary.exchanges, 40);
    assert!(
        summary.file_len < len + 8_000,
        "{} behind {len}",
        summary.file_len
    );
    assert!(verify(path).unwrap().is_whole());
    let archive = Archive::open(path).unwrap();
    assert!(read(&archive) == samples.iter().map(expected).collect::<Vec<_>>());
    // That lay behind the bodies.
    assert!(archive.ledger().exchanges_dropped > 100);
    drop(writer);
}

/// Each attempt to go on leaves a segment, and what it had to say must not be lost.
#[test]
fn segments_without_exchanges_are_removed_and_their_ledgers_go_on() {
    let _closing = NO_CHILD_STARTS.lock().unwrap();
    let folder = memory();
    let mut lost = 0;
    for round in 0..10 {
        let (mut writer, _) = SegmentedWriter::create(folder.path(), options()).unwrap();
        writer.fill_disk_at(30_000 + round);
        fill_with_a_body(&mut writer);
        drop(writer);
        let told = Archive::open(folder.path())
            .unwrap()
            .ledger()
            .exchanges_dropped;
        assert!(told > lost, "{told} after {lost}");
        lost = told;
        assert_eq!(names(folder.path()).len(), 1);
    }
    // One that was sealed without anything goes the same way.
    let (writer, _) = SegmentedWriter::create(folder.path(), options()).unwrap();
    writer.seal(&ledger(1)).unwrap();
    let (mut writer, events) = SegmentedWriter::create(folder.path(), options()).unwrap();
    assert!(
        matches!(&events[..], [SetEvent::Empty { .. }]),
        "{events:?}"
    );
    writer.exchange(&samples(0..1)[0].exchange).unwrap();
    writer.seal(&ledger(2)).unwrap();
    let archive = Archive::open(folder.path()).unwrap();
    assert_eq!(archive.len(), 1);
    assert_eq!(archive.ledger().exchanges_dropped, lost + 3);
    assert_eq!(names(folder.path()).len(), 1);
    // It is told once, and by the segment that was begun then.
    let (mut writer, events) = SegmentedWriter::create(folder.path(), options()).unwrap();
    assert!(events.is_empty(), "{events:?}");
    writer.exchange(&samples(0..1)[0].exchange).unwrap();
    writer.seal(&Ledger::default()).unwrap();
    let archive = Archive::open(folder.path()).unwrap();
    assert_eq!(archive.ledger().exchanges_dropped, lost + 3);
}
