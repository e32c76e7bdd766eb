//! What lies in files: archives.

use std::fs;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use tapedeck_archive::{
    Archive, BodyBuffer, MessageView, OpenError, Provenance, Row, Scratch, Writer, WriterOptions,
    recover, verify,
};
use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_model::{
    BodyPart, Direction, Exchange, Role, Scope, Side, UnreadConnection, Workload,
};
use tapedeck_packet::{LinkType, RawPacket};
use tapedeck_testkit::{Conversation, SegmentBuf, wire};
use xxhash_rust::xxh3::xxh3_64;

use crate::display::CAP;
use crate::scratch;

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
    let folder = scratch::folder();
    let file = scratch::file(folder.path(), bytes);
    let opened = Archive::open(file.path());
    if let Ok(archive) = &opened {
        read_rows(archive);
    }
    let report = verify(file.path());
    if matches!(&report, Ok(report) if report.is_whole()) {
        // Without the key, of an encrypted one only the structure is verified.
        assert!(
            matches!(&opened, Ok(_) | Err(OpenError::NoIdentity { .. })),
            "whole, but it cannot be opened: {:?}",
            opened.err()
        );
    }
    let out = folder.path().join("out.tape");
    if recover(file.path(), &out).is_ok() {
        let report = verify(&out).expect("what was recovered");
        assert!(report.is_whole(), "what was recovered is damaged");
    }
}

/// Reads everything of the first rows, and the index of all that a directory of this size can hold
/// without repetition.
pub(crate) fn read_rows(archive: &Archive) {
    const MOST: usize = 2_000;
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::with_limit(CAP as u64));
    black_box((archive.provenance(), archive.ledger(), archive.is_empty()));
    for row in archive.rows().take(MOST) {
        read_row(&row);
        assert_eq!(archive.find(&archive.name(row.id())), Some(row.id()));
        let Ok(record) = archive.load(row.id(), &mut scratch) else {
            continue;
        };
        black_box(record.to_exchange());
        let messages: [Option<MessageView<'_>>; 2] = [record.request(), record.response()];
        for message in messages.into_iter().flatten() {
            let body = message.body();
            if let Ok(bytes) = archive.body(&body, &mut buffer) {
                assert_eq!(bytes.len() as u64, body.len());
            }
            let middle = archive.body_range(&body, body.len() / 2, 100, &mut buffer);
            black_box(middle.is_ok());
            if body.len() <= CAP as u64 {
                // Its errors are those of `body`.
                drop(archive.copy_body(&body, &mut buffer, &mut io::sink()));
            }
        }
    }
    black_box(archive.unread().take(MOST).count());
    black_box((archive.zones().count(), archive.damaged_rows()));
}

fn read_row(row: &Row<'_>) {
    black_box((
        (row.time(), row.duration(), row.first_byte(), row.protocol()),
        (row.client(), row.server(), row.connection(), row.stream()),
        (row.method(), row.scheme(), row.authority(), row.target()),
        (row.endpoint(), row.session(), row.status(), row.anomalies()),
        (row.request_body_len(), row.response_body_len()),
        (row.request_missing(), row.response_missing()),
        (row.complete(), row.tunnel(), row.pushed()),
        [Role::Request, Role::Response].map(|role| row.body_place(role)),
    ));
    if let Some(tls) = row.tls() {
        black_box((tls.version(), tls.suite(), tls.server_name(), tls.alpn()));
    }
    for workload in [Side::Client, Side::Server].map(|side| row.workload(side)) {
        black_box(workload.map(|workload| {
            (
                (workload.namespace(), workload.pod(), workload.container()),
                (workload.owner(), workload.process(), workload.cgroup()),
                workload.pid(),
            )
        }));
    }
}

/// Makes the checksums of a file right, as `docs/format.md` describes them: whatever else was
/// changed is found behind them.
pub(crate) fn reseal(bytes: &mut [u8]) {
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

/// How the blocks of a sample are stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blocks {
    /// As they are by default.
    Compressed,
    /// As they are where compression gains nothing: damage of the file is damage of the records.
    Plain,
}

/// An archive of a few exchanges and of a connection that was not read: the seed of [`archive`], and
/// what [`filter`](crate::filter) chooses from.
///
/// # Panics
/// Where it cannot be written.
#[expect(clippy::expect_used, reason = "a full disk is no finding")]
pub fn write_sample(path: &Path, blocks: Blocks) {
    struct Tape(Writer);

    impl Recorder for Tape {
        fn body_part(&mut self, part: &BodyPart) {
            self.0.body_part(part).expect("space for an archive");
        }

        fn exchange(&mut self, exchange: &Exchange) {
            let mut exchange = exchange.clone();
            let connection = Arc::make_mut(&mut exchange.connection);
            connection.workloads.server = Some(Arc::new(Workload {
                namespace: Some("shop".to_owned()),
                pod: Some("cart-0".to_owned()),
                pid: Some(17),
                ..Workload::default()
            }));
            self.0.exchange(&exchange).expect("space for an archive");
        }

        fn unread(&mut self, connection: &UnreadConnection) {
            self.0.unread(connection).expect("space for an archive");
        }
    }

    let mut options = WriterOptions::new(Provenance::default());
    options.limits.block = 1 << 10;
    options.limits.inline_body = 1 << 10;
    options.limits.group = 2 << 10;
    if blocks == Blocks::Plain {
        // So fast that it finds nothing.
        options.level = -100_000;
    }
    let writer = Writer::create(path, options).expect("a file for an archive");
    let (mut engine, mut tape) = (Engine::new(Limits::default()), Tape(writer));
    for segment in said() {
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

/// What is said in a sample.
fn said() -> Vec<SegmentBuf> {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.handshake();
    talk.client(b"GET /a?x=1 HTTP/1.1\r\nHost: shop\r\n\r\n");
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: x\r\n\r\nhello");
    talk.client(b"POST /b HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n");
    talk.client(b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n");
    talk.server(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nContent-Length: 8000\r\n\r\n");
    talk.server(&[b'x'; 8000]);
    talk.client(b"PUT /c HTTP/1.0\r\nContent-Length: 10\r\n\r\nabc");
    talk.lose(Direction::ToServer, 4);
    talk.client(b"def");
    talk.close();
    let mut closed = Conversation::new("10.0.0.1:40001", "10.0.0.3:443");
    closed.handshake();
    closed.client(&client_hello());
    closed.close();
    [talk.segments, closed.segments].concat()
}

/// What TLS begins with: no extensions, one suite.
fn client_hello() -> Vec<u8> {
    let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0x13, 1, 1, 0]);
    hello
}

/// The bytes of an archive whose blocks are [`Blocks::Plain`].
#[expect(clippy::expect_used, reason = "a full disk is no finding")]
pub(crate) fn sample_bytes() -> &'static [u8] {
    static SAMPLE: OnceLock<Vec<u8>> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let folder = scratch::folder();
        let path = folder.path().join("sample.tape");
        write_sample(&path, Blocks::Plain);
        fs::read(path).expect("the sample")
    })
}

/// The archive that [`write_sample`] writes, opened once.
#[expect(clippy::expect_used, reason = "a full disk is no finding")]
pub(crate) fn sample() -> &'static Archive {
    static SAMPLE: OnceLock<Archive> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let folder = scratch::folder();
        let path = folder.path().join("sample.tape");
        write_sample(&path, Blocks::Compressed);
        // The mapping outlives the name.
        Archive::open(&path).expect("the sample")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_made_right() {
        let folder = scratch::folder();
        let path = folder.path().join("a.tape");
        write_sample(&path, Blocks::Compressed);
        let whole = fs::read(&path).expect("the archive");
        let mut same = whole.clone();
        reseal(&mut same);
        assert!(same == whole, "a sound archive is changed");
        let mut bytes = whole;
        let last = bytes.len() - 97;
        for place in [70, 200, last] {
            bytes[place] ^= 1;
        }
        fs::write(&path, &bytes).expect("the archive");
        assert!(Archive::open(&path).is_err());
        reseal(&mut bytes);
        let mut again = bytes.clone();
        reseal(&mut again);
        assert!(again == bytes);
    }
}
