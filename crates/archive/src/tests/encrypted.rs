//! Encrypted archives: who can read them, and what nobody can do to them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs};

use tapedeck_model::Ledger;
use tempfile::{TempDir, tempdir};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::{FromBytes, IntoBytes};

use super::crash::{NO_CHILD_STARTS, Victim};
use super::samples::{Sample, add, expected, noise, provenance, read, shop, write};
use crate::encryption::cipher::Budget;
use crate::error::Damage;
use crate::format::{ChunkHeader, ChunkKind, HEADER_LEN, self_hash};
use crate::reader::{Keyring, Segment};
use crate::{
    Archive, BodyBuffer, Identities, Limits, OpenError, Protection, ReadError, Recipients,
    RecoverError, Retention, Scratch, SegmentedWriter, Selection, SetEvent, SetOptions, Writer,
    WriterOptions, copy, partial_path, recover_folder, recover_folder_with, recover_with, verify,
    verify_with,
};

/// The same for all tests.
pub(crate) fn identities() -> Identities {
    Identities::parse("AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX")
        .unwrap()
}

pub(crate) fn recipients() -> Recipients {
    identities().recipients().unwrap()
}

fn options() -> WriterOptions {
    let mut options = WriterOptions::new(provenance());
    options.encrypt_to = Some(recipients());
    options.limits = Limits {
        block: 8 << 10,
        group: 16 << 10,
        ..Limits::default()
    };
    options
}

/// Exchanges of the shop; some have bodies in blocks of bodies, raw and compressed.
fn samples() -> Vec<Sample> {
    let mut samples: Vec<_> = (0..60).map(shop).collect();
    for (n, body) in [
        (5, noise(9_000, 1)),
        (9, vec![b'z'; 70_000]),
        (20, noise(9_000, 2)),
        (40, noise(9_000, 1)),
    ] {
        let message = samples[n].exchange.response.as_mut().unwrap();
        message.body.len = body.len() as u64;
        message.body.tail = body;
    }
    samples
}

fn originals() -> Vec<tapedeck_model::Exchange> {
    samples().iter().map(expected).collect()
}

struct File {
    folder: TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
}

fn file() -> File {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.tape");
    write(&path, &samples(), options());
    let bytes = fs::read(&path).unwrap();
    File {
        folder,
        path,
        bytes,
    }
}

/// Where chunks begin, and how long they are.
fn chunks(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut at, mut found) = (HEADER_LEN, Vec::new());
    while let Ok((header, _)) = ChunkHeader::read_from_prefix(&bytes[at..]) {
        if !header.is_sound(header.archive.get(), at as u64) {
            break;
        }
        found.push((at, header.chunk_len() as usize));
        at += header.chunk_len() as usize;
    }
    found
}

#[test]
fn who_has_an_identity_reads_everything() {
    let file = file();
    let mut several = Identities::generate().unwrap();
    several.extend(identities());
    for identities in [identities(), several] {
        let archive = Archive::open_with(&file.path, &identities).unwrap();
        assert!(read(&archive) == originals());
        assert_eq!(archive.recipients().next(), Some(Some(recipients())));
        for (row, original) in archive.rows().zip(originals()) {
            assert_eq!(row.time(), original.time());
        }
        // A second look finds the same pages.
        assert_eq!(archive.rows().count(), 60);
        assert_eq!(archive.damaged_rows(), 0);
        let report = verify_with(&file.path, &identities).unwrap();
        assert!(
            report.is_whole() && report.encrypted && !report.locked,
            "{report:?}"
        );
        assert_eq!(report.exchanges_readable, 60);
    }
}

#[test]
fn nobody_else_reads_anything() {
    let file = file();
    let none = Archive::open(&file.path).unwrap_err();
    assert!(matches!(none, OpenError::NoIdentity { .. }), "{none}");
    assert!(none.to_string().contains("--identity"), "{none}");
    let other = Identities::generate().unwrap();
    let wrong = Archive::open_with(&file.path, &other).unwrap_err();
    let said = wrong.to_string();
    assert!(said.starts_with("the identity does not open"), "{said}");
    assert!(said.ends_with("encrypted to another"), "{said}");
    let (identities, recipients) = match wrong {
        OpenError::WrongIdentity {
            identities,
            recipients,
            ..
        } => (identities, recipients),
        other => panic!("{other}"),
    };
    assert_eq!((identities, recipients), (1, 1));
    assert!(verify_with(&file.path, &other).is_err());
    let out = file.folder.path().join("out.tape");
    for identities in [Identities::none(), other] {
        let refused = recover_with(&file.path, &out, &identities, &Protection::None);
        assert!(matches!(refused, Err(RecoverError::Open(_))), "{refused:?}");
        assert!(!out.exists());
    }
    // What can be seen without a key: that every byte is as it was written, and no more.
    let report = verify(&file.path).unwrap();
    assert!(report.is_whole() && report.locked, "{report:?}");
    assert_eq!(report.exchanges_readable, 0);

    let archive = Archive::open_with(&file.path, &super::encrypted::identities()).unwrap();
    let mut secrets: Vec<Vec<u8>> = vec![b"shop".to_vec(), b"test".to_vec(), b"GET ".to_vec()];
    for row in archive.rows() {
        secrets.extend(
            row.target()
                .map(|it| it.as_bytes()[..8.min(it.len())].to_vec()),
        );
        secrets.push(row.time().as_nanos().to_le_bytes().to_vec());
    }
    secrets.push(noise(9_000, 1)[..16].to_vec());
    secrets.push(b"zzzzzzzz".to_vec());
    for secret in secrets {
        let found = file.bytes.windows(secret.len()).position(|it| it == secret);
        assert_eq!(found, None, "{}", String::from_utf8_lossy(&secret));
    }
}

#[test]
fn several_recipients_each_read_it() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.tape");
    let all = [(); 3].map(|()| Identities::generate().unwrap());
    let mut options = options();
    let to = all.iter().map(|one| one.recipients().unwrap());
    options.encrypt_to = to.reduce(|all, one| all.and(&one).unwrap());
    write(&path, &samples(), options);
    for one in &all {
        assert_eq!(Archive::open_with(&path, one).unwrap().len(), 60);
    }
}

#[test]
fn a_damaged_key_is_read_from_its_copy() {
    let mut file = file();
    let keys: Vec<_> = chunks(&file.bytes)
        .into_iter()
        .filter(|(at, _)| bytes_are_keys(&file.bytes, *at))
        .collect();
    assert_eq!(keys.len(), 2);
    for (n, (at, len)) in keys.into_iter().enumerate() {
        file.bytes[at + len / 2] ^= 1;
        fs::write(&file.path, &file.bytes).unwrap();
        assert!(!verify(&file.path).unwrap().is_whole());
        let opened = Archive::open_with(&file.path, &identities());
        if n == 0 {
            assert!(read(&opened.unwrap()) == originals());
        } else {
            let error = opened.unwrap_err();
            assert!(matches!(error, OpenError::Key { .. }), "{error}");
        }
    }
}

fn bytes_are_keys(bytes: &[u8], at: usize) -> bool {
    bytes[at + 4] == ChunkKind::Keys as u8
}

/// Makes the hashes of a chunk right, as someone would who wants to deceive.
fn reseal(bytes: &mut [u8], archive: &[u8], at: usize, len: usize) {
    let chunk = &mut bytes[at..at + len];
    let mut header = ChunkHeader::read_from_bytes(&chunk[..HEADER_LEN]).unwrap();
    let body_len = header.body_len() as usize;
    header.offset = (at as u64).into();
    header.archive = u64::from_le_bytes(archive.try_into().unwrap()).into();
    header.payload_hash = xxh3_64(&chunk[HEADER_LEN..HEADER_LEN + body_len]).into();
    header.hash = self_hash(&header).into();
    chunk[..HEADER_LEN].copy_from_slice(header.as_bytes());
}

/// What is read of a file that someone without its key has changed: what was in it, or nothing.
#[track_caller]
fn check_forged(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    let report = verify_with(path, &identities());
    assert!(!matches!(&report, Ok(report) if report.is_whole()));
    let Ok(archive) = Archive::open_with(path, &identities()) else {
        return;
    };
    let originals = originals();
    assert_eq!(archive.len(), originals.len() as u64);
    assert!(
        archive
            .rows()
            .all(|row| row.time() == originals[row.id() as usize].time())
    );
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::new());
    for (id, original) in originals.iter().enumerate() {
        let Ok(record) = archive.load(id as u64, &mut scratch) else {
            continue;
        };
        let view = record.response().unwrap();
        if let Ok(body) = archive.body(&view.body(), &mut buffer) {
            assert_eq!(body, original.response.as_ref().unwrap().body.tail);
        }
    }
}

#[test]
fn parts_cannot_be_moved_repeated_dropped_or_taken_from_another_archive() {
    let (ours, theirs) = (file(), file());
    let archive = ours.bytes[16..24].to_vec();
    let parts = chunks(&ours.bytes);
    assert_eq!(parts, chunks(&theirs.bytes), "of the same lengths");
    let path = &ours.path;
    let (mut swapped, mut replaced) = (0, 0);
    for (n, &(at, len)) in parts.iter().enumerate() {
        // Its twin in an archive of the same contents, to the same recipients.
        let mut bytes = ours.bytes.clone();
        bytes[at..at + len].copy_from_slice(&theirs.bytes[at..at + len]);
        reseal(&mut bytes, &archive, at, len);
        check_forged(path, &bytes);
        replaced += 1;
        // Nothing in its place.
        let mut bytes = ours.bytes.clone();
        bytes[at + HEADER_LEN..at + len].fill(0);
        reseal(&mut bytes, &archive, at, len);
        check_forged(path, &bytes);
        for &(other, other_len) in &parts[n + 1..] {
            // Both copies of the key are the same.
            let are_keys = bytes_are_keys(&ours.bytes, at) && bytes_are_keys(&ours.bytes, other);
            if len != other_len || are_keys {
                continue;
            }
            let mut bytes = ours.bytes.clone();
            bytes[at..at + len].copy_from_slice(&ours.bytes[other..other + len]);
            reseal(&mut bytes, &archive, at, len);
            check_forged(path, &bytes);
            bytes[other..other + len].copy_from_slice(&ours.bytes[at..at + len]);
            reseal(&mut bytes, &archive, other, len);
            check_forged(path, &bytes);
            swapped += 1;
        }
    }
    assert!(swapped >= 2 && replaced > 10, "{swapped}, {replaced}");
    // All parts of the other, under our key.
    let (_, keys) = parts[0];
    let mut bytes = theirs.bytes.clone();
    bytes[HEADER_LEN..HEADER_LEN + keys]
        .copy_from_slice(&ours.bytes[HEADER_LEN..HEADER_LEN + keys]);
    let their_archive = theirs.bytes[16..24].to_vec();
    reseal(&mut bytes, &their_archive, HEADER_LEN, keys);
    check_forged(path, &bytes);
    // What is not encrypted has no place in an encrypted archive.
    let plain = ours.folder.path().join("plain.tape");
    let mut options = options();
    options.encrypt_to = None;
    write(&plain, &samples(), options);
    let plain = fs::read(plain).unwrap();
    let (at, len) = chunks(&plain)[1];
    let mut bytes = ours.bytes.clone();
    let end = bytes.len();
    bytes.resize(end + len, 0);
    bytes[end..end + len].copy_from_slice(&plain[at..at + len]);
    reseal(&mut bytes, &archive, end, len);
    check_forged(path, &bytes);
}

#[test]
fn a_forged_part_is_told_apart_from_an_accident() {
    let mut file = file();
    let parts = chunks(&file.bytes);
    let (at, len) = parts[3];
    file.bytes[at + HEADER_LEN + 40] ^= 1;
    fs::write(&file.path, &file.bytes).unwrap();
    let damage = |file: &File| {
        let report = verify_with(&file.path, &identities()).unwrap();
        report.damages[0].damage
    };
    assert_eq!(damage(&file), Damage::Checksum);
    let archive = file.bytes[16..24].to_vec();
    reseal(&mut file.bytes, &archive, at, len);
    fs::write(&file.path, &file.bytes).unwrap();
    assert_eq!(damage(&file), Damage::Forged);
    // Nobody sees that without the key.
    assert!(verify(&file.path).unwrap().is_whole());
}

#[test]
fn a_copy_is_encrypted_anew_and_blocks_are_not_compressed_again() {
    let file = file();
    let archive = Archive::open_with(&file.path, &identities()).unwrap();
    let at = |name: &str| file.folder.path().join(name);
    let copied = |path: &Path, encrypt_to: Option<Recipients>| {
        let mut options = options();
        options.provenance = archive.provenance().clone();
        options.encrypt_to = encrypt_to;
        let mut writer = Writer::create(path, options).unwrap();
        let mut all = Selection::none(&archive);
        archive.rows().for_each(|row| all.insert(row.id()));
        let copied = copy(&archive, &all, &mut writer, &mut |_| {}).unwrap();
        assert_eq!(copied.blocks_anew, 0);
        writer.seal(archive.ledger()).unwrap();
    };
    // Decrypted, it is what would have been written without encryption.
    copied(&at("plain.tape"), None);
    let mut plain = options();
    plain.encrypt_to = None;
    write(&at("direct.tape"), &samples(), plain);
    assert!(fs::read(at("plain.tape")).unwrap() == fs::read(at("direct.tape")).unwrap());
    let other = Identities::generate().unwrap();
    copied(&at("other.tape"), Some(other.recipients().unwrap()));
    let reopened = Archive::open_with(&at("other.tape"), &other).unwrap();
    assert!(read(&reopened) == originals());
    assert_eq!(reopened.recipients().next(), Some(other.recipients().ok()));
    assert!(Archive::open_with(&at("other.tape"), &identities()).is_err());
}

#[test]
fn what_is_recovered_stays_encrypted_unless_asked() {
    let file = file();
    let len = file.bytes.len() * 9 / 10;
    fs::write(&file.path, &file.bytes[..len]).unwrap();
    let at = |name: &str| file.folder.path().join(name);
    let as_before = recover_with(
        &file.path,
        &at("b.tape"),
        &identities(),
        &Protection::AsBefore,
    );
    let saved = as_before.unwrap().exchanges;
    assert!(saved > 20, "{saved}");
    assert!(matches!(
        Archive::open(&at("b.tape")),
        Err(OpenError::NoIdentity { .. })
    ));
    let archive = Archive::open_with(&at("b.tape"), &identities()).unwrap();
    assert!(read(&archive) == originals()[..saved as usize]);
    recover_with(&file.path, &at("c.tape"), &identities(), &Protection::None).unwrap();
    assert_eq!(Archive::open(&at("c.tape")).unwrap().len(), saved);
    // Who it is for is in the first encrypted part.
    let mut bytes = file.bytes.clone();
    let (provenance, _) = chunks(&bytes)[1];
    bytes[provenance + HEADER_LEN + 20] ^= 1;
    fs::write(&file.path, bytes).unwrap();
    let lost = recover_with(
        &file.path,
        &at("d.tape"),
        &identities(),
        &Protection::AsBefore,
    );
    assert!(
        matches!(lost, Err(RecoverError::Recipients { .. })),
        "{lost:?}"
    );
    assert!(!at("d.tape").exists());
    let to = Protection::To(recipients());
    let saved = recover_with(&file.path, &at("d.tape"), &identities(), &to).unwrap();
    assert_eq!(saved.exchanges, 60);
}

#[test]
fn the_decrypted_index_is_bounded() {
    let file = file();
    let keyring = |len| Keyring {
        identities: identities(),
        budget: Arc::new(Budget::new(len)),
    };
    // Room for the first page, and hardly more.
    let segments = (1..40).map(|n| Segment::open(&file.path, &keyring(n * 250)).unwrap());
    let mut segments = segments.skip_while(|segment| segment.page(0).is_err());
    let segment = segments.next().unwrap();
    let pages = segment.n_pages();
    assert!(pages > 1);
    let error = segment.page(pages - 1).unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::Damaged {
                damage: Damage::TooMuch,
                ..
            }
        ),
        "{error}"
    );
    // What is there stays there.
    assert!(segment.page(0).is_ok());
}

/// What the variable holds is the folder that the child writes to.
const CHILD: &str = "TAPEDECK_TEST_ENCRYPTED";

fn set_options() -> SetOptions {
    let mut options = SetOptions::new(provenance());
    options.writer = self::options();
    options.writer.limits.hold = Duration::ZERO;
    options.segment_size = 24 << 10;
    options
}

/// Not a test by itself: the writer that [`a_killed_writer_leaves_what_the_key_opens`] kills.
#[test]
fn child_writes_encrypted_segments_until_it_is_killed() {
    let Some(folder) = env::var_os(CHILD) else {
        return;
    };
    let (mut writer, _) = SegmentedWriter::create(Path::new(&folder), set_options()).unwrap();
    for n in 0..600 {
        writer.exchange(&shop(n).exchange).unwrap();
        if n % 7 == 6 {
            writer
                .tick(Duration::from_millis(n), Ledger::default)
                .unwrap();
            println!("flushed {}", n + 1);
        }
    }
}

#[test]
fn a_killed_writer_leaves_what_the_key_opens() {
    let mut left = 0;
    for round in 0..400_usize {
        // On a busy machine many are done before they can be killed.
        if round >= 25 && left > 5 {
            break;
        }
        let folder = tempdir().unwrap();
        let writer = "tests::encrypted::child_writes_encrypted_segments_until_it_is_killed";
        let mut victim = Victim::start(writer, CHILD, folder.path());
        victim.hear(1 + round * 7 % 80);
        victim.kill();
        let flushed = victim.flushed;

        let read_it = || {
            let archive = Archive::open_with(folder.path(), &identities()).unwrap();
            assert!(
                archive.len() as usize >= flushed,
                "{} of {flushed}",
                archive.len()
            );
            for (n, found) in read(&archive).into_iter().enumerate() {
                assert_eq!(found, expected(&shop(n as u64)));
            }
            archive
                .segments()
                .filter(|segment| !segment.is_sealed)
                .count()
        };
        // As it lies there; by a writer without the key, which goes on beside it; by who has the key.
        left += read_it();
        let (writer, events) = SegmentedWriter::create(folder.path(), set_options()).unwrap();
        for event in &events {
            let is_locked = matches!(
                event,
                SetEvent::NotRecovered {
                    error: RecoverError::Open(OpenError::NoIdentity { .. }),
                    ..
                }
            );
            assert!(is_locked, "{event:?}");
        }
        writer.seal(&Ledger::default()).unwrap();
        read_it();
        let events = recover_folder(folder.path()).unwrap();
        assert!(
            events
                .iter()
                .all(|it| matches!(it, SetEvent::NotRecovered { .. })),
            "{events:?}"
        );
        let events = recover_folder_with(folder.path(), &identities()).unwrap();
        assert!(
            events
                .iter()
                .all(|it| matches!(it, SetEvent::Recovered { .. })),
            "{events:?}"
        );
        assert_eq!(read_it(), 0);
        let archive = Archive::open_with(folder.path(), &identities()).unwrap();
        for segment in archive.segments() {
            assert!(verify_with(segment.path, &identities()).unwrap().is_whole());
            check_nonces(&fs::read(segment.path).unwrap());
        }
    }
    assert!(left > 5, "{left}");
}

/// A nonce must not come twice under one key, not even where a file was written on after a crash.
fn check_nonces(bytes: &[u8]) {
    let encrypted = |at: &usize| bytes[at + 4] == ChunkKind::Encrypted as u8;
    // Copies of the key are no ciphertext, and there are three where the writer died behind the second.
    let parts = chunks(bytes)
        .into_iter()
        .map(|(at, _)| at)
        .filter(encrypted);
    let nonces: Vec<_> = parts.map(|at| &bytes[at + HEADER_LEN..][..12]).collect();
    let distinct: HashSet<_> = nonces.iter().collect();
    assert_eq!(distinct.len(), nonces.len());
}

#[test]
fn retention_needs_no_key() {
    let folder = tempdir().unwrap();
    let mut options = set_options();
    let (mut writer, _) = SegmentedWriter::create(folder.path(), options.clone()).unwrap();
    for n in 0..200 {
        writer.exchange(&shop(n).exchange).unwrap();
        writer
            .tick(Duration::from_millis(n), Ledger::default)
            .unwrap();
    }
    let _closing = NO_CHILD_STARTS.lock().unwrap();
    // It dies.
    drop(writer);
    let hidden = |folder: &Path| {
        let names = fs::read_dir(folder)
            .unwrap()
            .map(|it| it.unwrap().file_name());
        names
            .filter(|it| it.as_encoded_bytes().ends_with(b".partial"))
            .count()
    };
    assert_eq!(hidden(folder.path()), 1);
    // Of another set, and with a name like ours: not ours to delete.
    let foreign = folder.path().join("00000000-20261121T000000Z.tape");
    write(&foreign, &samples(), self::options());
    options.writer.provenance.software = "another run".into();
    options.retention = Retention {
        size: Some(1),
        age: None,
    };
    let (writer, events) = SegmentedWriter::create(folder.path(), options).unwrap();
    let deleted = events
        .iter()
        .filter(|it| matches!(it, SetEvent::Deleted { .. }));
    assert!(deleted.count() > 3, "{events:?}");
    writer.seal(&Ledger::default()).unwrap();
    // What nobody here can seal went, too, in its turn.
    assert_eq!(hidden(folder.path()), 0);
    assert!(foreign.exists());
}

#[test]
fn parts_of_bodies_go_on_into_the_next_segment() {
    let folder = tempdir().unwrap();
    let (mut writer, _) = SegmentedWriter::create(folder.path(), set_options()).unwrap();
    let mut long = shop(1_000);
    let body = noise(40_000, 7);
    let role = tapedeck_model::Role::Response;
    let part = |data: &[u8]| tapedeck_model::BodyPart {
        key: long.exchange.key,
        role,
        data: data.to_vec(),
    };
    writer.body_part(&part(&body[..5_000])).unwrap();
    for n in 0..150 {
        writer.exchange(&shop(n).exchange).unwrap();
        writer
            .tick(Duration::from_millis(n), Ledger::default)
            .unwrap();
    }
    writer.body_part(&part(&body[5_000..30_000])).unwrap();
    let message = long.exchange.response.as_mut().unwrap();
    message.body.len = 40_000;
    message.body.parts = 2;
    message.body.tail = body[30_000..].to_vec();
    writer.exchange(&long.exchange).unwrap();
    writer.seal(&Ledger::default()).unwrap();
    let archive = Archive::open_with(folder.path(), &identities()).unwrap();
    assert!(archive.segments().count() > 1);
    let last = read(&archive).pop().unwrap();
    assert!(last.response.unwrap().body.tail == body);
}

#[test]
fn two_writers_and_full_disks_are_as_without_encryption() {
    let folder = tempdir().unwrap();
    let samples = samples();
    for round in 0..40 {
        let _closing = NO_CHILD_STARTS.lock().unwrap();
        let path = folder.path().join(format!("{round}.tape"));
        let mut writer = Writer::create(&path, options()).unwrap();
        let busy = Writer::create(&path, options()).unwrap_err();
        assert!(matches!(busy, crate::WriteError::Busy { .. }), "{busy}");
        writer.fill_disk_at(100 + round * 1_500);
        let mut flushed = 0;
        for (n, sample) in samples.iter().enumerate() {
            let written = writer
                .exchange(&sample.exchange)
                .and_then(|()| writer.flush());
            if written.is_err() {
                break;
            }
            flushed = n as u64 + 1;
        }
        let sealed = writer.seal(&Ledger::default());
        assert!(sealed.is_err() || flushed == 60);
        if sealed.is_ok() {
            continue;
        }
        let partial = partial_path(&path).unwrap();
        let out = folder.path().join("out.tape");
        match recover_with(&partial, &out, &identities(), &Protection::AsBefore) {
            Ok(recovered) => {
                assert!(recovered.exchanges >= flushed);
                let archive = Archive::open_with(&out, &identities()).unwrap();
                let found = read(&archive);
                assert!(found[..] == originals()[..found.len()]);
                fs::remove_file(&out).unwrap();
            }
            // Full within the key, or before it says to whom it is encrypted.
            Err(error) => assert!(flushed == 0, "{error} after {flushed}"),
        }
    }
}

#[test]
fn unread_connections_and_the_ledger_are_encrypted_too() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.tape");
    let mut writer = Writer::create(&path, options()).unwrap();
    add(&mut writer, &shop(0));
    writer.unread(&super::samples::unread(3)).unwrap();
    let ledger = Ledger {
        packets_seen: 77,
        ..Ledger::default()
    };
    writer.seal(&ledger).unwrap();
    let archive = Archive::open_with(&path, &identities()).unwrap();
    assert_eq!(archive.ledger(), &ledger);
    let unread: Vec<_> = archive.unread().map(Result::unwrap).collect();
    assert_eq!(unread, [super::samples::unread(3)]);
    let bytes = fs::read(&path).unwrap();
    assert!(!bytes.windows(12).any(|it| it == b"packets_seen"));
}
