use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tapedeck_model::{BodyPart, Ledger, Role, Timestamp};

use super::{names, samples, writer_options};
use crate::set::name::segment_number;
use crate::tests::samples::{expected, memory, noise, read, shop, write};
use crate::{
    Archive, Cause, Limits, SegmentedWriter, SetEvent, SetOptions, WriteError, Writer, verify,
};

fn options() -> SetOptions {
    let mut options = SetOptions::new(writer_options().provenance);
    options.writer = writer_options();
    options.writer.provenance.created = Timestamp::from_nanos(1_795_241_580_000_000_000);
    options.segment_size = 20 << 10;
    options
}

fn begin(folder: &Path, options: SetOptions) -> (SegmentedWriter, Vec<SetEvent>) {
    SegmentedWriter::create(folder, options).unwrap()
}

/// A ledger of so many exchanges.
fn ledger(exchanges: u64) -> Ledger {
    Ledger {
        exchanges,
        segments: 3 * exchanges,
        ..Ledger::default()
    }
}

/// Writes the exchanges, ten a second.
fn record(writer: &mut SegmentedWriter, range: std::ops::Range<u64>) -> Vec<SetEvent> {
    let mut events = Vec::new();
    for (n, sample) in range.clone().zip(samples(range)) {
        writer.exchange(&sample.exchange).unwrap();
        let now = Duration::from_millis(100 * n);
        events.extend(writer.tick(now, || ledger(n + 1)).unwrap());
    }
    events
}

fn deleted(events: &[SetEvent]) -> Vec<(u64, Cause)> {
    let deleted = events.iter().filter_map(|event| match event {
        SetEvent::Deleted { path, cause, .. } => Some((segment_number(path).unwrap(), *cause)),
        _ => None,
    });
    deleted.collect()
}

#[test]
fn a_recording_rolls_by_size_and_is_one_archive() {
    let folder = memory();
    let path = folder.path().join("made");
    let (mut writer, _) = begin(&path, options());
    let events = record(&mut writer, 0..500);
    let sealed = events.len() as u64;
    assert!(sealed > 3, "{sealed} segments");
    let open = Archive::open(&path).unwrap();
    assert!(
        open.len() >= 489,
        "all but what came within a second: {}",
        open.len()
    );
    assert_eq!(open.segments().filter(|one| !one.is_sealed).count(), 1);
    assert_eq!(open.ledger(), &ledger(open.len()));

    let (summary, events) = writer.seal(&ledger(500)).unwrap();
    assert!(matches!(events[..], [SetEvent::Sealed { .. }]));
    assert_eq!(summary.exchanges, 500);
    let archive = Archive::open(&path).unwrap();
    assert_eq!(archive.ledger(), &ledger(500));
    let originals: Vec<_> = samples(0..500).iter().map(expected).collect();
    assert!(read(&archive) == originals);
    let mut segments = 0;
    for (n, segment) in archive.segments().enumerate() {
        assert!(verify(segment.path).unwrap().is_whole());
        assert_eq!(segment.label, (n + 1).to_string());
        assert!(segment.file_len < 40 << 10, "{}", segment.file_len);
        segments += 1;
    }
    assert_eq!(segments, sealed + 1);
    let connections: std::collections::BTreeSet<_> =
        archive.rows().map(|row| row.connection()).collect();
    assert_eq!(connections.len(), 7, "they go on from segment to segment");
    assert_eq!(
        archive.provenance().extra.len(),
        2,
        "the segments' numbers differ"
    );
}

#[test]
fn a_recording_rolls_by_age_but_not_for_nothing() {
    let folder = memory();
    let mut options = options();
    options.segment_age = Duration::from_secs(10);
    options.segment_size = u64::MAX;
    let (mut writer, _) = begin(folder.path(), options);
    for second in 0..100 {
        let events = writer.tick(Duration::from_secs(second), Ledger::default);
        assert!(events.unwrap().is_empty(), "nothing to keep");
    }
    writer.exchange(&shop(0).exchange).unwrap();
    let events = writer
        .tick(Duration::from_secs(100), Ledger::default)
        .unwrap();
    assert!(matches!(events[..], [SetEvent::Sealed { .. }]));
    writer.exchange(&shop(1).exchange).unwrap();
    for (second, rolls) in [(101, 0), (50, 0), (109, 0), (110, 1)] {
        let events = writer
            .tick(Duration::from_secs(second), Ledger::default)
            .unwrap();
        assert_eq!(events.len(), rolls, "at {second}");
    }
    // The time of the name is that of the segment's beginning.
    assert!(
        names(folder.path())[1..]
            .iter()
            .map(|name| &name[8..])
            .eq(["-20261121T061300Z.tape", "-20261121T061440Z.tape"])
    );
}

#[test]
fn bodies_under_way_go_on_in_the_next_segment() {
    let folder = memory();
    let (mut writer, _) = begin(folder.path(), options());
    let parts = |key: u64| {
        (0..3).map(move |n| BodyPart {
            key,
            role: Role::Response,
            // Some in raw blocks, some in compressed ones; the same ones in two exchanges.
            data: if n == 1 {
                vec![key as u8 % 2; 3_000]
            } else {
                noise(1_500, key % 2 + n)
            },
        })
    };
    let long = |key: u64| {
        let mut sample = shop(key);
        sample.parts = parts(key).collect();
        let body = &mut sample.exchange.response.as_mut().unwrap().body;
        body.parts = 3;
        body.len = 6_000 + body.tail.len() as u64;
        sample
    };
    for key in 900..904 {
        for part in parts(key) {
            writer.body_part(&part).unwrap();
        }
    }
    let mut originals: Vec<_> = samples(0..400).iter().map(expected).collect();
    let rolled = record(&mut writer, 0..400).len();
    assert!(rolled > 2, "{rolled} segments");
    for key in 900..904 {
        writer.exchange(&long(key).exchange).unwrap();
        originals.push(expected(&long(key)));
    }
    writer.seal(&Ledger::default()).unwrap();
    let archive = Archive::open(folder.path()).unwrap();
    assert!(read(&archive) == originals);
    for segment in archive.segments() {
        assert!(verify(segment.path).unwrap().is_whole());
    }
}

#[test]
fn long_bodies_under_way_are_not_copied_again_and_again() {
    let folder = memory();
    let (mut writer, _) = begin(folder.path(), options());
    let mut second = 0;
    let mut tick = |writer: &mut SegmentedWriter| {
        second += 2;
        let events = writer.tick(Duration::from_secs(second), Ledger::default);
        events.unwrap().len()
    };
    writer.exchange(&shop(0).exchange).unwrap();
    let mut rolls = 0;
    for n in 0..100_u64 {
        let part = BodyPart {
            key: 900,
            role: Role::Response,
            data: noise(4 << 10, n),
        };
        writer.body_part(&part).unwrap();
        // Else the segment would hold nothing that is over.
        writer.exchange(&shop(n).exchange).unwrap();
        rolls += tick(&mut writer);
    }
    // 400 KiB of one body, in segments of 20 KiB: once in 80 KiB, ledgers and rows included.
    assert!((3..=8).contains(&rolls), "{rolls} segments");
}

#[test]
fn what_is_beyond_the_bounds_is_deleted_and_nothing_else() {
    let folder = memory();
    // Strangers: a text, a segment of another set, an archive, one that is being written.
    let other = memory();
    let mut theirs = options();
    theirs.writer.provenance.host = "another".into();
    let (mut writer, _) = begin(other.path(), theirs);
    record(&mut writer, 0..150);
    drop(writer);
    let strangers = [
        "00000000-19700101T000000Z.tape",
        "00000001-19700101T000000Z.tape",
    ];
    fs::write(folder.path().join(strangers[0]), "mine").unwrap();
    let theirs = other.path().join(&names(other.path())[1]);
    fs::copy(theirs, folder.path().join(strangers[1])).unwrap();
    write(
        &folder.path().join("a.tape"),
        &samples(0..9),
        writer_options(),
    );
    let kept = Writer::create(&folder.path().join("b.tape"), writer_options()).unwrap();

    let mut options = options();
    options.retention.size = Some(100 << 10);
    let (mut writer, events) = begin(folder.path(), options.clone());
    assert!(events.is_empty(), "{events:?}");
    let events = record(&mut writer, 0..700);
    let deleted = deleted(&events);
    assert!(deleted.len() > 3, "{deleted:?}");
    assert!(deleted.is_sorted_by_key(|(number, _)| *number));
    assert!(deleted.iter().all(|(_, cause)| *cause == Cause::Size));
    assert_eq!(deleted[0].0, 2, "numbers go on behind those that are there");
    let left = names(folder.path());
    for stranger in [&strangers[..], &["a.tape", ".b.tape.partial"]].concat() {
        assert!(
            left.iter().any(|name| name == stranger),
            "{stranger}: {left:?}"
        );
    }
    let ours: u64 = left
        .iter()
        .filter(|name| !strangers.contains(&name.as_str()) && name.contains('-'))
        .map(|name| fs::metadata(folder.path().join(name)).unwrap().len())
        .sum();
    assert!(ours <= 100 << 10, "{ours}");
    assert!(ours > 60 << 10, "no more than must: {ours}");

    // The next run keeps to the same bounds, with what the last one left.
    writer.seal(&ledger(700)).unwrap();
    options.retention.size = Some(50 << 10);
    let (writer, events) = begin(folder.path(), options.clone());
    assert!(!events.is_empty());
    drop(writer);
    // By age, counted from the time of sealing: the files are of now, whatever created says.
    options.retention.size = None;
    options.retention.age = Some(Duration::from_secs(60));
    options.writer.provenance.created = Timestamp::from_nanos(0);
    let (mut writer, events) = begin(folder.path(), options);
    let cause = |event: &SetEvent| matches!(event, SetEvent::Deleted { .. });
    assert!(
        !events.iter().any(cause),
        "a clock that was set back: {events:?}"
    );
    writer.exchange(&shop(0).exchange).unwrap();
    let events = writer
        .tick(Duration::from_secs(61), Ledger::default)
        .unwrap();
    assert!(events.iter().all(cause) && events.len() > 1, "{events:?}");
    drop(kept);
}

#[test]
fn a_second_writer_is_refused_and_a_later_one_seals_what_is_left() {
    let folder = memory();
    let (mut writer, _) = begin(folder.path(), options());
    let _closing = crate::tests::crash::NO_CHILD_STARTS.lock().unwrap();
    record(&mut writer, 0..30);
    let busy = SegmentedWriter::create(folder.path(), options()).unwrap_err();
    assert!(matches!(busy, WriteError::Busy { .. }), "{busy}");
    drop(writer);

    let (writer, events) = begin(folder.path(), options());
    let [SetEvent::Recovered { path, summary }] = &events[..] else {
        panic!("{events:?}");
    };
    assert!(verify(path).unwrap().is_whole());
    assert!(summary.exchanges > 0);
    let archive = Archive::open(folder.path()).unwrap();
    assert!(archive.len() >= 19, "{}", archive.len());
    drop(writer);

    let file = folder.path().join("file");
    fs::write(&file, "mine").unwrap();
    let error = SegmentedWriter::create(&file, options()).unwrap_err();
    assert!(matches!(error, WriteError::NotAFolder { .. }), "{error}");
    assert!(SegmentedWriter::create(&folder.path().join("no/such"), options()).is_err());
}

#[test]
fn readers_follow_a_writer() {
    let folder = memory();
    let mut options = options();
    options.retention.size = Some(120 << 10);
    let (mut writer, _) = begin(folder.path(), options);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut opened, mut newest) = (0, 0);
            while !is_over.load(Ordering::Acquire) {
                // Nothing is there before the first flush, or all was deleted while we looked.
                let Ok(archive) = Archive::open(folder.path()) else {
                    continue;
                };
                let mut last = None;
                for exchange in read(&archive) {
                    let stream = exchange.stream;
                    assert!(last.is_none_or(|last| last <= stream), "in order");
                    last = Some(stream);
                }
                assert!(last.unwrap_or(0) >= newest, "never back");
                newest = last.unwrap_or(0);
                opened += 1;
            }
            opened
        });
        for n in 0..1_000 {
            add_to(&mut writer, n);
            writer
                .tick(Duration::from_millis(200 * n), || ledger(n))
                .unwrap();
        }
        is_over.store(true, Ordering::Release);
        assert!(reader.join().unwrap() > 3);
    });
}

/// One exchange a second: what is paid each second is the block, and hardly more.
#[test]
fn little_traffic_costs_little() {
    let folder = memory();
    let mut options = options();
    options.segment_size = u64::MAX;
    options.segment_age = Duration::MAX;
    options.writer.limits = Limits::default();
    let (mut writer, _) = begin(folder.path(), options);
    let originals: Vec<_> = (0..300).map(|n| expected(&shop(n))).collect();
    let at = |n| Duration::from_secs(n + 1);
    for n in 0..300 {
        writer.exchange(&shop(n).exchange).unwrap();
        writer.tick(at(n), || ledger(n + 1)).unwrap();
        if n % 37 == 0 || (254..258).contains(&n) {
            // The last page is not there yet; what it will say is.
            let archive = Archive::open(folder.path()).unwrap();
            assert!(read(&archive)[..] == originals[..=n as usize]);
            assert_eq!(archive.ledger(), &ledger(n + 1));
            assert_eq!(archive.pages().count(), if n < 256 { 1 } else { 2 });
        }
    }
    let len = writer.file_len();
    assert!(len / 300 < 2_000, "{} bytes a second", len / 300);
    writer.tick(at(400), || ledger(300)).unwrap();
    assert_eq!(writer.file_len(), len, "there is nothing new");
    let (_, events) = writer.seal(&ledger(300)).unwrap();
    let Some(SetEvent::Sealed { path, .. }) = events.last() else {
        panic!("{events:?}");
    };
    assert!(verify(path).unwrap().is_whole());
    assert!(read(&Archive::open(path).unwrap()) == originals);
}

fn add_to(writer: &mut SegmentedWriter, n: u64) {
    writer.exchange(&samples(n..n + 1)[0].exchange).unwrap();
}
