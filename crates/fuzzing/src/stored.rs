//! What lies in files: archives, and the bodies in them.

use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;

use tapedeck_archive::{
    Archive, BodyBuffer, MessageView, Provenance, Scratch, Writer, WriterOptions, recover, verify,
};
use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_interchange::content;
use tapedeck_interchange::grpc::{self as messages};
use tapedeck_model::{BodyPart, Exchange, Scope, UnreadConnection};
use tapedeck_packet::{LinkType, RawPacket};
use tapedeck_testkit::{Conversation, wire};
use tempfile::{NamedTempFile, TempDir};
use xxhash_rust::xxh3::xxh3_64;

/// The longest body that a target asks for.
const CAP: usize = 1 << 16;

/// A body behind each content coding, and behind two of them.
pub fn content(bytes: &[u8]) {
    for coding in ["gzip", "deflate", "br", "zstd", "gzip, gzip"] {
        if let Ok(body) = content::decode(Some(coding.as_bytes()), bytes, CAP) {
            assert!(body.len() <= CAP);
        }
    }
}

/// The messages of a gRPC body. They lie within it, one behind the other.
pub fn grpc(bytes: &[u8]) {
    let mut end = 0;
    for message in messages::messages(bytes) {
        assert_eq!(message.offset, end);
        end += 5 + message.bytes.len();
        assert!(end <= bytes.len());
        if let Ok(body) = message.decoded(Some(b"gzip"), CAP) {
            assert!(body.len() <= CAP.max(message.bytes.len()));
        }
    }
}

/// An archive: as it is, and with every checksum made right, so that what lies behind them is
/// reached.
pub fn archive(bytes: &[u8]) {
    read_archive(bytes);
    let mut sealed = bytes.to_vec();
    reseal(&mut sealed);
    if sealed != bytes {
        read_archive(&sealed);
    }
}

#[expect(clippy::expect_used, reason = "a full disk is no finding")]
fn read_archive(bytes: &[u8]) {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("space for a temporary file");
    let opened = Archive::open(file.path());
    if let Ok(archive) = &opened {
        read_rows(archive);
    }
    let report = verify(file.path());
    if matches!(&report, Ok(report) if report.is_whole()) {
        assert!(opened.is_ok(), "whole, but it cannot be opened");
    }
    let folder = TempDir::new().expect("a temporary folder");
    let out = folder.path().join("out.tape");
    if recover(file.path(), &out).is_ok() {
        let report = verify(&out).expect("what was recovered");
        assert!(report.is_whole(), "what was recovered is damaged");
    }
}

/// Reads everything of the first rows, and the index of all that a directory of this size can hold
/// without repetition.
fn read_rows(archive: &Archive) {
    const MOST: usize = 2_000;
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::with_limit(CAP as u64));
    for row in archive.rows().take(MOST) {
        std::hint::black_box((
            (row.time(), row.duration(), row.first_byte(), row.protocol()),
            (row.client(), row.server(), row.status(), row.anomalies()),
            (row.method(), row.scheme(), row.authority(), row.target()),
            (row.request_body_len(), row.response_body_len()),
        ));
        let Ok(record) = archive.load(row.id(), &mut scratch) else {
            continue;
        };
        std::hint::black_box(record.to_exchange());
        let messages: [Option<MessageView<'_>>; 2] = [record.request(), record.response()];
        for message in messages.into_iter().flatten() {
            let body = message.body();
            if let Ok(bytes) = archive.body(&body, &mut buffer) {
                assert_eq!(bytes.len() as u64, body.len());
            }
            if body.len() <= CAP as u64 {
                // Its errors are those of `body`.
                drop(archive.copy_body(&body, &mut buffer, &mut io::sink()));
            }
        }
    }
}

/// Makes the checksums of a file right, as `docs/format.md` describes them: whatever else was
/// changed is found behind them.
fn reseal(bytes: &mut [u8]) {
    const HEADER: usize = 64;
    const FOOTER: usize = 96;
    seal(bytes.get_mut(..HEADER));
    if let Some(start) = bytes.len().checked_sub(FOOTER) {
        seal(bytes.get_mut(start..));
    }
    for offset in (HEADER..bytes.len()).step_by(16) {
        let Some((header, rest)) = bytes
            .get_mut(offset..)
            .and_then(|bytes| bytes.split_at_mut_checked(HEADER))
        else {
            break;
        };
        if !header.starts_with(b"\x89TCK") {
            continue;
        }
        let number = |at: usize| {
            let bytes = header
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, |bytes| u32::from_le_bytes(bytes) as usize)
        };
        let len = number(8).saturating_mul(8).saturating_add(number(12));
        if let Some(payload) = rest.get(..len) {
            header[48..56].copy_from_slice(&xxh3_64(payload).to_le_bytes());
        }
        seal(Some(header));
    }
}

/// Writes the hash of a structure into its last eight bytes.
fn seal(structure: Option<&mut [u8]>) {
    if let Some((fields, hash)) = structure.and_then(|bytes| bytes.split_last_chunk_mut::<8>()) {
        *hash = xxh3_64(fields).to_le_bytes();
    }
}

/// An archive of a few exchanges: the seed of [`archive`], and what [`filter`](crate::filter)
/// chooses from.
///
/// # Panics
/// Where it cannot be written.
#[expect(clippy::expect_used, reason = "a full disk is no finding")]
pub fn write_sample(path: &Path) {
    struct Tape(Writer);

    impl Recorder for Tape {
        fn body_part(&mut self, part: &BodyPart) {
            self.0.body_part(part).expect("space for an archive");
        }

        fn exchange(&mut self, exchange: &Exchange) {
            self.0.exchange(exchange).expect("space for an archive");
        }

        fn unread(&mut self, _connection: &UnreadConnection) {}
    }

    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.handshake();
    talk.client(b"GET /a?x=1 HTTP/1.1\r\nHost: shop\r\n\r\n");
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: x\r\n\r\nhello");
    talk.client(b"POST /b HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n");
    talk.client(b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n");
    talk.server(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nContent-Length: 8000\r\n\r\n");
    talk.server(&[b'x'; 8000]);
    talk.client(b"PUT /c HTTP/1.0\r\nContent-Length: 10\r\n\r\nabc");
    talk.lose(tapedeck_model::Direction::ToServer, 4);
    talk.client(b"def");
    talk.close();
    let mut options = WriterOptions::new(Provenance::default());
    options.limits.block = 1 << 10;
    options.limits.inline_body = 1 << 10;
    options.limits.group = 2 << 10;
    let writer = Writer::create(path, options).expect("a file for an archive");
    let (mut engine, mut tape) = (Engine::new(Limits::default()), Tape(writer));
    for segment in &talk.segments {
        let data = wire::ip(&segment.as_segment());
        let packet = RawPacket {
            at: segment.at,
            link: LinkType::RAW,
            scope: Scope(0),
            data: &data,
            wire_len: u32::try_from(data.len()).expect("a short packet"),
        };
        engine.packet(&packet, &mut tape);
    }
    engine.finish(&mut tape);
    tape.0.seal(&engine.ledger()).expect("space for an archive");
}

/// The archive that [`write_sample`] writes, opened once.
#[expect(clippy::expect_used, reason = "a full disk is no finding")]
pub(crate) fn sample() -> &'static Archive {
    static SAMPLE: OnceLock<Archive> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let folder = TempDir::new().expect("a temporary folder");
        let path = folder.path().join("sample.tape");
        write_sample(&path);
        // The mapping outlives the name.
        Archive::open(&path).expect("the sample")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_made_right() {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("a.tape");
        write_sample(&path);
        let whole = std::fs::read(&path).expect("the archive");
        let mut same = whole.clone();
        reseal(&mut same);
        assert!(same == whole, "a sound archive is changed");
        let mut bytes = whole;
        let last = bytes.len() - 97;
        for place in [70, 200, last] {
            bytes[place] ^= 1;
        }
        std::fs::write(&path, &bytes).expect("the archive");
        assert!(Archive::open(&path).is_err());
        reseal(&mut bytes);
        let mut again = bytes.clone();
        reseal(&mut again);
        assert!(again == bytes);
    }
}
