//! What is made of archives: other formats, and other archives.

use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;

use tapedeck_archive::{
    Archive, CopyError, Provenance, Row, Scratch, Selection, WriteError, Writer, WriterOptions,
    copy, verify,
};
use tapedeck_interchange::{har, jsonl, pcap, stream};
use tapedeck_model::Role;
use tapedeck_packet::CaptureReader;

use crate::display::CAP;
use crate::scratch;
use crate::stored::reseal;

/// Exchanges that are looked at: an index of a few bytes can claim many.
const MOST: usize = 200;

/// What an export writes at most: a body of a few bytes can claim to be long.
const MOST_BYTES: usize = 4 << 20;

/// An archive whose checksums are right, written as everything that it can be written as.
pub fn export(bytes: &[u8]) {
    let mut sealed = bytes.to_vec();
    reseal(&mut sealed);
    let folder = scratch::folder();
    let file = scratch::file(folder.path(), &sealed);
    let Ok(archive) = Archive::open(file.path()) else {
        return;
    };
    to_har(&archive);
    to_lines(&archive);
    for format in [pcap::Format::Pcap, pcap::Format::Pcapng] {
        to_capture(&archive, format);
    }
    streams(&archive);
    for step in [1, 2] {
        let path = folder.path().join(format!("{step}.tape"));
        to_archive(&archive, step, &path);
    }
}

fn rows(archive: &Archive) -> impl Iterator<Item = Row<'_>> {
    archive.rows().take(MOST)
}

fn to_har(archive: &Archive) {
    let mut out = Bounded::default();
    if let Ok(exported) = har::export(archive, rows(archive), "0", &mut out) {
        let read: serde_json::Value = serde_json::from_slice(&out.0).expect("a HAR is JSON");
        let entries = read["log"]["entries"].as_array().map(Vec::len);
        assert_eq!(entries.map(|n| n as u64), Some(exported.entries));
    }
}

fn to_lines(archive: &Archive) {
    let mut out = Bounded::default();
    let limits = jsonl::Limits { body: CAP as u64 };
    if let Ok(exported) = jsonl::export(archive, rows(archive), limits, &mut out) {
        let lines = out.0.split_inclusive(|byte| *byte == b'\n');
        let objects = lines.map(serde_json::from_slice::<serde_json::Value>);
        let objects: Vec<_> = objects.collect::<Result<_, _>>().expect("JSON a line");
        assert_eq!(objects.len() as u64, exported.exchanges);
    }
}

/// What is written as a capture is one.
fn to_capture(archive: &Archive, format: pcap::Format) {
    let mut out = Bounded::default();
    let Ok(exported) = pcap::export(archive, rows(archive), format, "fuzz", &mut out) else {
        return;
    };
    let mut capture = CaptureReader::open(&out.0[..]).expect("a capture");
    let mut packets = 0;
    while capture.next_packet().expect("a packet").is_some() {
        packets += 1;
    }
    assert_eq!(packets, exported.packets);
}

/// What is on top of HTTP.
fn streams(archive: &Archive) {
    let limits = stream::Limits {
        chunks: 100,
        decoded: CAP,
    };
    let mut scratch = Scratch::new();
    let mut buffer = tapedeck_archive::BodyBuffer::with_limit(CAP as u64);
    for row in rows(archive) {
        let Ok(record) = archive.load(row.id(), &mut scratch) else {
            continue;
        };
        black_box(stream::grpc_status(&record));
        let sides = [
            (Role::Request, record.request()),
            (Role::Response, record.response()),
        ];
        for (role, message) in sides {
            let Some(message) = message else { continue };
            let Ok(body) = archive.body(&message.body(), &mut buffer) else {
                continue;
            };
            if let Some(stream) = stream::chunks(&record, role, body, limits) {
                assert!(stream.chunks.len() <= limits.chunks);
                let places = stream.chunks.iter().map(|chunk| chunk.offset);
                assert!(places.is_sorted(), "chunks out of order");
            }
        }
    }
}

/// Copies every `step`th exchange of an archive: what comes out is whole.
#[expect(clippy::expect_used, reason = "a full disk is no finding")]
fn to_archive(archive: &Archive, step: usize, path: &Path) {
    let mut chosen = Selection::none(archive);
    rows(archive)
        .step_by(step)
        .for_each(|row| chosen.insert(row.id()));
    let options = WriterOptions::new(Provenance::default());
    let mut writer = Writer::create(path, options).expect("space for an archive");
    let copied = match copy(archive, &chosen, &mut writer, &mut |_| ()) {
        Ok(copied) => copied,
        Err(CopyError::Read { .. } | CopyError::Write(WriteError::ExchangeTooLarge { .. })) => {
            return;
        }
        Err(error) => panic!("{error}"),
    };
    for unread in archive.unread().take(MOST).flatten() {
        writer.unread(&unread).expect("space for an archive");
    }
    writer.seal(archive.ledger()).expect("space for an archive");
    let report = verify(path).expect("what was copied");
    assert!(report.is_whole(), "what was copied is damaged");
    let again = Archive::open(path).expect("what was copied");
    assert_eq!(again.len(), copied.exchanges);
}

/// Keeps what is written, up to a limit.
#[derive(Default)]
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
