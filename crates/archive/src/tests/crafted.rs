//! Files that were made to deceive: every checksum right, and the contents wrong.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::{FromBytes, IntoBytes};

use super::samples::{memory, noise, provenance, shop, write};
use crate::format::{
    ChunkHeader, FOOTER_LEN, FileHeader, Footer, HEADER_LEN, MAJOR, MAJOR_OF_COLUMNS, PageEntry,
    self_hash,
};
use crate::{
    Archive, BodyBuffer, Damage, Limits, OpenError, ReadError, Scratch, WriterOptions, recover,
    verify,
};

/// An archive of several blocks, to be rewritten.
struct Forge {
    folder: TempDir,
    bytes: Vec<u8>,
}

impl Forge {
    fn new() -> Self {
        let folder = memory();
        let path = folder.path().join("a.tape");
        let mut samples: Vec<_> = (0..30).map(shop).collect();
        let body = &mut samples[0].exchange.response.as_mut().unwrap().body;
        body.tail = noise(2_000, 3);
        body.len = 2_000;
        let mut options = WriterOptions::new(provenance());
        options.limits = Limits {
            block: 4 << 10,
            group: 4 << 10,
            inline_body: 4 << 10,
            min_shared_body: 1 << 10,
            ..Limits::default()
        };
        write(&path, &samples, options);
        let bytes = fs::read(&path).unwrap();
        Self { folder, bytes }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("a.tape")
    }

    fn save(&self) -> PathBuf {
        fs::write(self.path(), &self.bytes).unwrap();
        self.path()
    }

    fn footer(&self) -> Footer {
        Footer::read_from_bytes(&self.bytes[self.bytes.len() - FOOTER_LEN..]).unwrap()
    }

    fn set_footer(&mut self, change: impl FnOnce(&mut Footer)) {
        let mut footer = self.footer();
        change(&mut footer);
        footer.hash = self_hash(&footer).into();
        let at = self.bytes.len() - FOOTER_LEN;
        self.bytes[at..].copy_from_slice(footer.as_bytes());
    }

    /// Where the chunks of a kind begin.
    fn chunks(&self, kind: u8) -> Vec<usize> {
        let mut offset = HEADER_LEN;
        let mut found = Vec::new();
        while offset < self.bytes.len() - FOOTER_LEN {
            let header = self.header(offset);
            if header.kind == kind {
                found.push(offset);
            }
            offset += header.chunk_len() as usize;
        }
        found
    }

    fn header(&self, offset: usize) -> ChunkHeader {
        ChunkHeader::read_from_prefix(&self.bytes[offset..])
            .unwrap()
            .0
    }

    /// Makes the checksums of a chunk right again, after header and payload were changed.
    fn resign(&mut self, offset: usize, change: impl FnOnce(&mut ChunkHeader)) {
        let mut header = self.header(offset);
        change(&mut header);
        let start = offset + HEADER_LEN;
        let payload = &self.bytes[start..start + header.body_len() as usize];
        header.payload_hash = xxh3_64(payload).into();
        header.hash = self_hash(&header).into();
        self.bytes[offset..start].copy_from_slice(header.as_bytes());
    }

    /// Changes bytes of a payload.
    fn forge(&mut self, chunk: usize, at: usize, bytes: &[u8]) {
        let at = chunk + HEADER_LEN + at;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.resign(chunk, |_| {});
    }
}

/// Everything that can be asked of an archive ends in an answer or an error.
fn use_all(path: &Path) {
    if let Ok(archive) = Archive::open(path) {
        for row in archive.rows() {
            assert!(!format!("{row:?} {:?}", row.anomalies()).is_empty());
            black_box((row.client(), row.server(), row.connection(), row.stream()));
            black_box((row.authority(), row.first_byte(), row.response_body_len()));
        }
        let mut scratch = Scratch::new();
        let mut buffer = BodyBuffer::new();
        for id in 0..archive.len() {
            let Ok(record) = archive.load(id, &mut scratch) else {
                continue;
            };
            for message in record.request().into_iter().chain(record.response()) {
                black_box(archive.body(&message.body(), &mut buffer).is_ok());
            }
            black_box(record.to_exchange().complete());
        }
    }
    black_box(verify(path).is_ok());
    let out = path.with_extension("out");
    if recover(path, &out).is_ok() {
        assert!(verify(&out).unwrap().is_whole());
        fs::remove_file(&out).unwrap();
    }
}

const EXCHANGES: u8 = 2;
const BODIES: u8 = 3;
const PAGE: u8 = 4;
const DIRECTORY: u8 = 6;

#[test]
fn a_newer_version_is_refused_with_advice() {
    let mut forge = Forge::new();
    let mut header = FileHeader::read_from_bytes(&forge.bytes[..HEADER_LEN]).unwrap();
    header.major = (MAJOR + 1).into();
    header.readable_by = (MAJOR + 1).into();
    header.hash = self_hash(&header).into();
    forge.bytes[..HEADER_LEN].copy_from_slice(header.as_bytes());
    let path = forge.save();
    let error = Archive::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::TooNew { found, .. } if found == MAJOR + 1));
    assert!(
        error.to_string().contains("use a newer Tapedeck"),
        "{error}"
    );
    assert!(matches!(verify(&path), Err(OpenError::TooNew { .. })));
    let out = forge.folder.path().join("b.tape");
    assert!(recover(&path, &out).is_err() && !out.exists());

    // A newer version may say that this one can read it.
    header.readable_by = MAJOR_OF_COLUMNS.into();
    header.hash = self_hash(&header).into();
    forge.bytes[..HEADER_LEN].copy_from_slice(header.as_bytes());
    assert_eq!(Archive::open(&forge.save()).unwrap().len(), 30);
}

#[test]
fn what_is_no_archive_is_told() {
    let folder = memory();
    let path = folder.path().join("x");
    assert!(matches!(
        Archive::open(&path),
        Err(OpenError::Io { action: "open", .. })
    ));
    assert!(matches!(
        Archive::open(folder.path()),
        Err(OpenError::NoArchives { .. })
    ));
    assert!(matches!(
        Archive::open(Path::new("/dev/null")),
        Err(OpenError::NotAFile { .. })
    ));
    fs::write(&path, b"").unwrap();
    assert!(matches!(Archive::open(&path), Err(OpenError::Empty { .. })));
    fs::write(&path, b"\x0a\x0d\x0d\x0a not a tape").unwrap();
    assert!(matches!(
        Archive::open(&path),
        Err(OpenError::NotAnArchive { .. })
    ));
    assert!(matches!(verify(&path), Err(OpenError::NotAnArchive { .. })));
}

#[test]
fn blocks_in_the_wrong_place_are_found() {
    let mut forge = Forge::new();
    let blocks = forge.chunks(EXCHANGES);
    // The second over the first, with a header as sound as it ever was.
    let len = forge.header(blocks[1]).chunk_len() as usize;
    let copy = forge.bytes[blocks[1]..blocks[1] + len].to_vec();
    forge.bytes[blocks[0]..blocks[0] + len].copy_from_slice(&copy);
    let path = forge.save();
    use_all(&path);
    let report = verify(&path).unwrap();
    assert_eq!(report.damages[0].offset, blocks[0] as u64);
    let archive = Archive::open(&path).unwrap();
    assert_eq!(
        archive.load(0, &mut Scratch::new()).unwrap_err(),
        ReadError::Damaged {
            offset: blocks[0] as u64,
            damage: Damage::Header,
        }
    );

    // Signed for its new place, it contradicts the index.
    forge.resign(blocks[0], |header| {
        header.offset = (blocks[0] as u64).into()
    });
    let path = forge.save();
    use_all(&path);
    assert!(!verify(&path).unwrap().is_whole());
}

#[test]
fn a_footer_of_another_file_is_refused() {
    let (mut forge, other) = (Forge::new(), Forge::new());
    let at = forge.bytes.len() - FOOTER_LEN;
    // Of the same kind of archive, but longer.
    forge.bytes.truncate(at);
    forge.bytes.extend_from_slice(&[0; 16]);
    forge.bytes.extend_from_slice(other.footer().as_bytes());
    let path = forge.save();
    assert!(matches!(
        Archive::open(&path),
        Err(OpenError::Unsealed { .. })
    ));
    assert!(!verify(&path).unwrap().sealed);
    use_all(&path);

    let mut forge = Forge::new();
    forge.set_footer(|footer| footer.archive = 7.into());
    assert!(matches!(
        Archive::open(&forge.save()),
        Err(OpenError::Unsealed { .. })
    ));
}

#[test]
fn places_outside_of_the_file_are_refused() {
    let far = [0, 1, 63, 1 << 20, u64::MAX - 15, u64::MAX];
    for place in far {
        for field in 0..3 {
            let mut forge = Forge::new();
            forge.set_footer(|footer| match field {
                0 => footer.directory = place.into(),
                1 => footer.ledger = place.into(),
                _ => footer.provenance = place.into(),
            });
            let path = forge.save();
            assert!(matches!(
                Archive::open(&path),
                Err(OpenError::Damaged { .. })
            ));
            assert!(!verify(&path).unwrap().is_whole());
        }
        // The directory names a page that is not there.
        let mut forge = Forge::new();
        let directory = forge.chunks(DIRECTORY)[0];
        forge.forge(directory, 0, &place.to_le_bytes());
        let path = forge.save();
        let archive = Archive::open(&path).unwrap();
        assert!(archive.row(0).is_none() && archive.row(29).is_some());
        assert!(!verify(&path).unwrap().is_whole());
        // A page names a block that is not there.
        let mut forge = Forge::new();
        let page = forge.chunks(PAGE)[0];
        let block = (forge.chunks(EXCHANGES)[0] as u64).to_le_bytes();
        let payload = &forge.bytes[page + HEADER_LEN..];
        let at = payload
            .windows(8)
            .position(|window| window == block)
            .unwrap();
        forge.forge(page, at, &place.to_le_bytes());
        let path = forge.save();
        let archive = Archive::open(&path).unwrap();
        assert!(archive.load(0, &mut Scratch::new()).is_err());
        assert!(!verify(&path).unwrap().is_whole());
        // A record names a body block that is not there.
        let mut forge = Forge::new();
        let block = forge.chunks(EXCHANGES)[0];
        assert_eq!(forge.header(block).n_references.get(), 1);
        forge.forge(block, 0, &place.to_le_bytes());
        let path = forge.save();
        let archive = Archive::open(&path).unwrap();
        let mut scratch = Scratch::new();
        let record = archive.load(0, &mut scratch).unwrap();
        let body = record.response().unwrap().body();
        assert!(archive.body(&body, &mut BodyBuffer::new()).is_err());
        assert_eq!(verify(&path).unwrap().exchanges_without_body, 1);
        use_all(&path);
    }
}

#[test]
fn every_changed_byte_with_the_right_checksum_is_borne() {
    let whole = Forge::new();
    for kind in [EXCHANGES, BODIES, PAGE, DIRECTORY] {
        let chunk = whole.chunks(kind)[0];
        let len = whole.header(chunk).body_len() as usize;
        let step = if kind == BODIES { 501 } else { 11 };
        for at in (0..len).step_by(step) {
            for value in [0, 0x7f, 0xff] {
                let mut forge = Forge {
                    folder: memory(),
                    bytes: whole.bytes.clone(),
                };
                forge.forge(chunk, at, &[value]);
                let path = forge.save();
                if let Ok(archive) = Archive::open(&path) {
                    let mut scratch = Scratch::new();
                    let mut buffer = BodyBuffer::new();
                    for id in [0, 7, 29] {
                        black_box(archive.row(id).map(|row| (row.client(), row.stream())));
                        if let Ok(record) = archive.load(id, &mut scratch) {
                            black_box(record.to_exchange().complete());
                            let body = record.response().map(|message| message.body());
                            black_box(body.map(|body| archive.body(&body, &mut buffer).is_ok()));
                        }
                    }
                }
                black_box(verify(&path).is_ok());
            }
        }
    }
}

#[test]
fn lengths_are_checked_before_memory_is_taken() {
    let mut forge = Forge::new();
    let block = forge.chunks(EXCHANGES)[0];
    for raw_len in [u32::MAX, (16 << 20) + 1, 16 << 20, 1, 0] {
        forge.resign(block, |header| header.raw_len = raw_len.into());
        let path = forge.save();
        let archive = Archive::open(&path).unwrap();
        assert!(archive.load(0, &mut Scratch::new()).is_err());
        use_all(&path);
    }
    let entry =
        PageEntry::read_from_prefix(&forge.bytes[forge.chunks(DIRECTORY)[0] + HEADER_LEN..]);
    assert_eq!(entry.unwrap().0.first_row.get(), 0);
}

#[test]
fn a_body_beyond_the_buffers_limit_is_refused_and_can_be_copied() {
    let folder = memory();
    let path = folder.path().join("a.tape");
    let mut sample = shop(0);
    let body = &mut sample.exchange.response.as_mut().unwrap().body;
    body.tail = vec![b'x'; 700_000];
    body.len = 700_000;
    write(&path, &[sample], WriterOptions::new(provenance()));
    let archive = Archive::open(&path).unwrap();
    let mut scratch = Scratch::new();
    let record = archive.load(0, &mut scratch).unwrap();
    let body = record.response().unwrap().body();
    let mut buffer = BodyBuffer::with_limit(699_999);
    assert_eq!(
        archive.body(&body, &mut buffer).unwrap_err(),
        ReadError::BodyTooLarge {
            len: 700_000,
            limit: 699_999
        }
    );
    let mut out = Vec::new();
    archive.copy_body(&body, &mut buffer, &mut out).unwrap();
    assert_eq!(out, vec![b'x'; 700_000]);

    let other = Archive::open(&path).unwrap();
    assert_eq!(
        other.body(&body, &mut BodyBuffer::new()).unwrap_err(),
        ReadError::ForeignBody
    );
}
