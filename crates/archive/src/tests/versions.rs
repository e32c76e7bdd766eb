//! Archives of every version, kept in `testdata/archives`, are read for ever.

use std::path::{Path, PathBuf};
use std::{env, fs};

use tempfile::tempdir;

use tapedeck_model::UnreadConnection;

use super::samples::{
    Sample, expected, noise, provenance, read, shop, tls_connection, unread, write_with,
};
use crate::format::{ChunkKind, MAJOR};
use crate::scan::Scan;
use crate::source::Source;
use crate::{Archive, Identities, Limits, Scratch, WriterOptions, verify_with};

/// Fixtures of a version.
#[derive(Clone, Copy)]
struct Fixture {
    folder: &'static str,
    version: u16,
    is_encrypted: bool,
}

const fn fixture(folder: &'static str, version: u16, is_encrypted: bool) -> Fixture {
    Fixture {
        folder,
        version,
        is_encrypted,
    }
}

const FIXTURES: [Fixture; 5] = [
    fixture("v1", 1, false),
    fixture("v2", 2, false),
    fixture("v3", 3, true),
    fixture("v4", 4, false),
    fixture("v4-encrypted", 4, true),
];

impl Fixture {
    fn path(self, name: &str) -> PathBuf {
        let archives = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/archives");
        archives.join(self.folder).join(name)
    }

    /// What opens it; committed beside it.
    fn identities(self) -> Identities {
        if !self.is_encrypted {
            return Identities::none();
        }
        Identities::parse(&fs::read_to_string(self.path("identity.txt")).unwrap()).unwrap()
    }
}

fn samples(version: u16) -> Vec<Sample> {
    let mut samples: Vec<_> = (0..30).map(shop).collect();
    for (n, seed) in [(3, 1), (9, 1), (11, 2)] {
        let body = &mut samples[n].exchange.response.as_mut().unwrap().body;
        body.tail = noise(1_100, seed);
        body.len = 1_100;
    }
    if version >= 2 {
        for n in [5, 6, 20] {
            samples[n].exchange.connection = tls_connection(n as u64);
        }
    }
    samples
}

fn unread_connections(version: u16) -> Vec<UnreadConnection> {
    (0..if version >= 2 { 4 } else { 0 }).map(unread).collect()
}

/// Where the first exchange block's header begins.
fn first_exchange_block(path: &Path, identities: &Identities) -> usize {
    let source = Source::open(path, identities).unwrap();
    let mut found = Scan::new(&source).filter(|found| found.kind == Some(ChunkKind::Exchanges));
    found.next().unwrap().offset as usize
}

/// Writes the fixtures. Done once a version; see their README.
#[test]
fn bless() {
    if env::var_os("TAPEDECK_BLESS").is_none() {
        return;
    }
    for fixture in FIXTURES.iter().filter(|it| it.version == MAJOR) {
        let scratch = tempdir().unwrap();
        let path = scratch.path().join("shop.tape");
        let identities = fixture.identities();
        let mut options = WriterOptions::new(provenance());
        options.encrypt_to = (!identities.is_empty()).then(|| identities.recipients().unwrap());
        options.limits = Limits {
            block: 2 << 10,
            group: 8 << 10,
            min_shared_body: 1 << 10,
            dictionary: 512,
            learned_blocks: 8,
            ..Limits::default()
        };
        let unread = unread_connections(MAJOR);
        write_with(&path, &samples(MAJOR), &unread, options);
        let mut bytes = fs::read(&path).unwrap();
        fs::write(fixture.path("shop.tape"), &bytes).unwrap();
        let block = first_exchange_block(&path, &identities);
        bytes[block + 100] ^= 1;
        fs::write(fixture.path("damaged.tape"), &bytes).unwrap();
    }
}

#[test]
fn every_version_is_read() {
    for fixture in FIXTURES {
        let Fixture {
            folder,
            version,
            is_encrypted,
        } = fixture;
        let path = fixture.path("shop.tape");
        let identities = fixture.identities();
        let report = verify_with(&path, &identities).unwrap();
        assert!(report.is_whole(), "{folder}: {report:?}");
        assert_eq!(report.encrypted, is_encrypted);
        let archive = Archive::open_with(&path, &identities).unwrap();
        let expected: Vec<_> = samples(version).iter().map(expected).collect();
        assert_eq!(read(&archive), expected);
        let unread: Vec<_> = archive.unread().map(Result::unwrap).collect();
        assert_eq!(unread, unread_connections(version));
        assert_eq!(archive.rows().count(), 30);
        for (row, exchange) in archive.rows().zip(&expected) {
            let target = exchange
                .request
                .as_ref()
                .and_then(|it| it.head.as_ref()?.target());
            assert_eq!(row.target().as_deref(), target);
            assert_eq!(row.tls().is_some(), exchange.connection.tls.is_some());
        }
        assert_eq!(archive.ledger().exchanges, 30);
        let mut provenance = provenance();
        if is_encrypted {
            let to = identities.recipients().unwrap().to_string();
            provenance.extra.insert("encrypted_to".into(), to);
        }
        assert_eq!(archive.provenance(), &provenance);
        assert_eq!(has_dictionary(&path, &identities), version >= 4);
    }
}

/// Whether a block was compressed with a dictionary.
fn has_dictionary(path: &Path, identities: &Identities) -> bool {
    let source = Source::open(path, identities).unwrap();
    let mut chunks = Scan::new(&source).map(|found| found.chunk.unwrap());
    chunks.any(|chunk| chunk.dictionaries().len() > 0)
}

#[test]
fn damaged_ones_are_read_around_the_damage() {
    for fixture in FIXTURES {
        damaged(&fixture.path("damaged.tape"), &fixture.identities());
    }
}

fn damaged(path: &Path, identities: &Identities) {
    let report = verify_with(path, identities).unwrap();
    assert_eq!(report.damages.len(), 1);
    assert!(report.exchanges_lost > 0 && report.exchanges_readable > 0);
    assert_eq!(report.exchanges_lost + report.exchanges_readable, 30);
    let archive = Archive::open_with(path, identities).unwrap();
    assert_eq!(archive.rows().count(), 30);
    let mut scratch = Scratch::new();
    let readable = (0..30).filter(|id| archive.load(*id, &mut scratch).is_ok());
    assert_eq!(readable.count() as u64, report.exchanges_readable);
}

/// The root as `docs/format.md` describes it, read by hand: rkyv must not change it under us.
#[test]
fn the_root_lies_as_documented() {
    let bytes = fs::read(FIXTURES[0].path("shop.tape")).unwrap();
    let block = first_exchange_block(&FIXTURES[0].path("shop.tape"), &Identities::none());
    let u32_at =
        |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let n_references = u32_at(&bytes, block + 8) as usize;
    let (stored_len, raw_len) = (u32_at(&bytes, block + 12), u32_at(&bytes, block + 16));
    let start = block + 64 + n_references * 8;
    let stored = &bytes[start..start + stored_len as usize];
    let raw = zstd::bulk::decompress(stored, raw_len as usize).unwrap();

    let root = raw.len() - (8 + 11 * 8);
    let table = |number: usize| {
        let at = root + 8 + number * 8;
        let offset = u32_at(&raw, at).cast_signed();
        let begin = at.checked_add_signed(offset as isize).unwrap();
        (begin, u32_at(&raw, at + 4) as usize)
    };
    let archive = Archive::open(&FIXTURES[0].path("shop.tape")).unwrap();
    let base = i64::from_le_bytes(raw[root..root + 8].try_into().unwrap());
    assert_eq!(base, archive.row(0).unwrap().time().as_nanos());
    let (records, n_records) = table(0);
    let (messages, n_messages) = table(1);
    assert_eq!(n_messages, 2 * n_records);
    // Elements are as long as documented: each table ends before the next begins.
    assert!(records + n_records * 48 <= messages);
    let second = i64::from_le_bytes(raw[records + 48..records + 56].try_into().unwrap());
    assert_eq!(base + second, archive.row(1).unwrap().time().as_nanos());
    let (bytes_begin, bytes_len) = table(10);
    let text = &raw[bytes_begin..bytes_begin + bytes_len];
    assert!(text.starts_with(b"GET /reservations/0?seat=0 HTTP/1.1\r\n"));
    assert_eq!(messages % 8, 0);
}
