use std::io::{self, Read, Write as _};

use flate2::write::GzEncoder;
use proptest::prelude::*;
use tapedeck_model::Timestamp;
use tapedeck_testkit::capture::ByteOrder;
use tapedeck_testkit::{PcapWriter, PcapngWriter};

use super::{CaptureError, CaptureReader};
use crate::link::LinkType;

/// Time, link type, data, and length on the wire.
type Read1 = (i64, u16, Vec<u8>, u32);

/// Everything up to the end or the error, and that nothing follows either of them.
fn read_all(input: impl Read) -> (Vec<Read1>, Option<CaptureError>) {
    let mut reader = match CaptureReader::open(input) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut packets = Vec::new();
    let error = loop {
        match reader.next_packet() {
            Ok(Some(packet)) => packets.push((
                packet.at.as_nanos(),
                packet.link.0,
                packet.data.to_vec(),
                packet.wire_len,
            )),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert!(
        matches!(reader.next_packet(), Ok(None)),
        "nothing follows the end"
    );
    (packets, error)
}

#[track_caller]
fn whole(input: impl Read) -> Vec<Read1> {
    let (packets, error) = read_all(input);
    assert!(error.is_none(), "{error:?}");
    packets
}

#[track_caller]
fn failure(input: &[u8]) -> String {
    let (_, error) = read_all(input);
    error.expect("an error").to_string()
}

fn at(nanos: i64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

/// Hands out a few bytes at a time, as a pipe may.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.1.min(self.0.len()).min(buf.len());
        buf[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        Ok(len)
    }
}

#[test]
fn pcap_in_both_orders_and_both_resolutions() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        for (nanoseconds, expected) in [(true, 1_000_000_123), (false, 1_000_000_000)] {
            let mut file = PcapWriter::with(113, order, nanoseconds);
            file.packet(at(1_000_000_123), b"one");
            file.packet_cut(at(4_000_000_000_000_000_000), b"two!", 1500);
            assert_eq!(
                whole(&file.bytes[..]),
                [
                    (expected, 113, b"one".to_vec(), 3),
                    (4_000_000_000_000_000_000, 113, b"two!".to_vec(), 1500)
                ]
            );
        }
    }
}

#[test]
fn pcap_by_the_modified_libpcap() {
    let mut file = PcapWriter::with(1, ByteOrder::Little, false);
    file.packet(at(0), b"abc");
    file.bytes[..4].copy_from_slice(&0xa1b2_cd34_u32.to_le_bytes());
    // Interface index, protocol, packet type, padding.
    file.bytes.splice(40..40, [0; 8]);
    assert_eq!(whole(&file.bytes[..]), [(0, 1, b"abc".to_vec(), 3)]);
}

#[test]
fn pcapng_with_every_kind_of_packet_block() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let mut file = PcapngWriter::new(order);
        file.interface(1, 5, &[(2, b"eth0"), (9, &[9])]);
        file.interface(113, 0, &[]);
        file.packet(0, 7, b"odd", 3);
        file.packet(1, 7, b"", 40);
        file.simple_packet(b"simpl", 900);
        file.obsolete_packet(1, 8, b"obsolete", 8);
        file.block(0x4444, b"unknown block.  ");
        // A section in the other order, with interfaces of its own.
        let other = if order == ByteOrder::Big {
            ByteOrder::Little
        } else {
            ByteOrder::Big
        };
        file.section(other);
        file.interface(101, 0, &[(9, &[9])]);
        file.packet(0, 9, b"next", 4);
        assert_eq!(
            whole(&file.bytes[..]),
            [
                (7, 1, b"odd".to_vec(), 3),
                (7000, 113, Vec::new(), 40),
                (7000, 1, b"simpl".to_vec(), 900),
                (8000, 113, b"obsolete".to_vec(), 8),
                (9, 101, b"next".to_vec(), 4),
            ]
        );
    }
}

#[test]
fn pcapng_resolutions_and_offsets() {
    let second: i64 = 1_000_000_000;
    for (resolution, ticks, nanos) in [
        (0, 3, 3 * second),
        (3, 1500, 1_500_000_000),
        (6, 1, 1000),
        (9, 1, 1),
        (12, 5999, 5),
        (127, u64::MAX, 0),
        (0x80, 3, 3 * second),
        (0x80 | 10, 1536, 1_500_000_000),
        (0x80 | 127, u64::MAX, 0),
    ] {
        for offset in [0, 100, -100_i64] {
            let mut file = PcapngWriter::new(ByteOrder::Big);
            file.interface(1, 0, &[(9, &[resolution]), (14, &offset.to_be_bytes())]);
            file.packet(0, ticks, b"x", 1);
            assert_eq!(
                whole(&file.bytes[..])[0].0,
                nanos + offset * second,
                "{resolution:#x}"
            );
        }
    }
    // Out of any range: the nearest time there is.
    let mut file = PcapngWriter::new(ByteOrder::Big);
    file.interface(1, 0, &[(9, &[0]), (14, &i64::MAX.to_be_bytes())]);
    file.packet(0, u64::MAX, b"x", 1);
    assert_eq!(whole(&file.bytes[..])[0].0, i64::MAX);
}

#[test]
fn pcapng_drops_secrets_and_unknown_links() {
    let mut file = PcapngWriter::new(ByteOrder::Little);
    file.interface(1, 0, &[]);
    file.interface(250, 0, &[]);
    file.interface(250, 0, &[]);
    file.secrets(0x544c_534b, b"CLIENT_RANDOM a b");
    file.secrets(0x5747_4b4c, b"not of TLS");
    for drops in [3_u64, 5] {
        let mut body = vec![0; 12];
        for (code, value) in [(5_u16, drops), (7, 10)] {
            body.extend(code.to_le_bytes());
            body.extend(8_u16.to_le_bytes());
            body.extend(value.to_le_bytes());
        }
        file.block(5, &body);
    }
    file.section(ByteOrder::Little);
    file.interface(1, 0, &[]);
    file.packet(0, 0, b"x", 1);
    let mut reader = CaptureReader::open(&file.bytes[..]).unwrap();
    assert!(reader.next_packet().unwrap().is_some());
    assert_eq!(reader.dropped_packets(), 15);
    assert_eq!(reader.tls_key_log(), b"CLIENT_RANDOM a b\n");
    assert_eq!(reader.unknown_links(), [LinkType(250)]);
}

#[test]
fn compressed_captures_read_as_they_are() {
    let mut file = PcapWriter::new(1);
    for n in 0..1000 {
        file.packet(at(n), &[n as u8; 200]);
    }
    let expected = whole(&file.bytes[..]);
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    // Several members and frames in a row are one file.
    let (left, right) = file.bytes.split_at(5_000);
    assert_eq!(whole(&[gzip(left), gzip(right)].concat()[..]), expected);
    let frames = [left, right].map(|part| zstd::encode_all(part, 1).unwrap());
    assert_eq!(whole(&frames.concat()[..]), expected);
    // A skippable frame at the beginning, as pzstd writes it.
    let skippable = [
        &[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..],
        &frames.concat(),
    ]
    .concat();
    assert_eq!(whole(&skippable[..]), expected);
    for compressed in [
        gzip(&file.bytes),
        zstd::encode_all(&file.bytes[..], 1).unwrap(),
    ] {
        for len in 4..compressed.len() {
            let (packets, error) = read_all(&compressed[..len]);
            let cut = matches!(
                error,
                Some(
                    CaptureError::Cut { .. }
                        | CaptureError::CutCompressed { .. }
                        | CaptureError::NotACapture { .. }
                )
            );
            assert!(cut, "{error:?} at {len} of {}", compressed.len());
            assert_eq!(packets, expected[..packets.len()]);
        }
    }
}

#[test]
fn what_is_no_capture_is_named() {
    assert!(failure(b"").contains("empty"));
    let text = failure(b"{\"log\": {}}");
    assert!(
        text.contains("not a capture file: it begins with 7b 22 6c 6f"),
        "{text}"
    );
    assert!(failure(&[0xd4]).contains("begins with d4"));
    let mut file = PcapWriter::new(1).bytes;
    file[4] = 9;
    assert!(failure(&file).contains("pcap version 9.4"));
    let text = failure(&PcapWriter::new(147).bytes);
    assert!(
        text.contains("link type 147") && text.contains("LINUX_SLL2"),
        "{text}"
    );
    let mut file = PcapngWriter::new(ByteOrder::Little).bytes;
    file[12] = 2;
    assert!(failure(&file).contains("pcapng version 2.0"));
    file[8] = 0;
    assert!(failure(&file).contains("magic number"));
}

#[test]
fn absurd_lengths_are_named_with_their_place() {
    let mut file = PcapWriter::new(1);
    file.packet(at(0), b"good");
    file.packet(at(0), b"bad");
    let mut absurd = file.bytes.clone();
    absurd[44 + 8..44 + 12].copy_from_slice(&0xfff0_0000_u32.to_le_bytes());
    let (packets, error) = read_all(&absurd[..]);
    assert_eq!(packets.len(), 1);
    assert!(
        matches!(
            error,
            Some(CaptureError::BadLength {
                offset: 44,
                len: 0xfff0_0000,
                ..
            })
        ),
        "{error:?}"
    );

    let mut file = PcapngWriter::new(ByteOrder::Little);
    file.interface(1, 0, &[]);
    let place = file.bytes.len();
    for (len, expected) in [
        (8_u32, "claims 8 bytes"),
        (u32::MAX, "claims 4294967295 bytes"),
    ] {
        let mut bytes = file.bytes.clone();
        bytes.extend(6_u32.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend([0; 64]);
        let text = failure(&bytes);
        assert!(
            text.contains(expected) && text.contains(&format!("byte {place} ")),
            "{text}"
        );
    }
    // Blocks that nobody reads may be long, but must be there.
    let mut bytes = file.bytes.clone();
    bytes.extend(0x99_u32.to_le_bytes());
    bytes.extend(0xffff_0000_u32.to_le_bytes());
    bytes.extend(vec![0; 1 << 20]);
    let (_, error) = read_all(&bytes[..]);
    assert!(
        matches!(
            error,
            Some(CaptureError::Cut {
                needed: 0xffff_0000,
                available: 0x10_0008,
                ..
            })
        ),
        "{error:?}"
    );
}

#[test]
fn blocks_that_contradict_themselves_are_named() {
    let mut file = PcapngWriter::new(ByteOrder::Little);
    file.interface(1, 0, &[]);
    let start = file.bytes.clone();
    file.packet(3, 0, b"x", 1);
    assert!(failure(&file.bytes).contains("interface 3, of 1"));

    let mut file = PcapngWriter::new(ByteOrder::Little);
    file.simple_packet(b"x", 1);
    assert!(failure(&file.bytes).contains("interface 0, of 0"));

    let mut bytes = start.clone();
    let mut file = PcapngWriter::new(ByteOrder::Little);
    file.bytes.clear();
    file.packet(0, 0, b"abcd", 4);
    // The captured length is more than the block holds.
    file.bytes[20] = 200;
    bytes.extend(&file.bytes);
    assert!(
        failure(&bytes).contains("a packet at byte"),
        "{}",
        failure(&bytes)
    );

    let mut bytes = start;
    file.bytes[20] = 4;
    *file.bytes.last_mut().unwrap() = 9;
    bytes.extend(&file.bytes);
    assert!(failure(&bytes).contains("two lengths differ"));
}

#[test]
fn a_super_packet_and_a_read_error() {
    let mut file = PcapWriter::new(1);
    file.packet(at(0), &vec![7; 524_288]);
    file.packet(at(1), b"behind");
    let packets = whole(&file.bytes[..]);
    assert_eq!(
        (packets[0].2.len(), packets[1].2.as_slice()),
        (524_288, &b"behind"[..])
    );

    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is on fire"))
        }
    }
    let cut = file.bytes.len() - 3;
    let (packets, error) = read_all(file.bytes[..cut].chain(Broken));
    assert_eq!(packets.len(), 1);
    let Some(CaptureError::Read { offset, source }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        (offset, source.to_string().as_str()),
        (cut as u64, "the disk is on fire")
    );
}

fn samples() -> Vec<Vec<u8>> {
    let mut pcap = PcapWriter::new(1);
    let mut pcapng = PcapngWriter::new(ByteOrder::Big);
    pcapng.interface(1, 0, &[(9, &[9]), (2, b"lo")]);
    for n in 0..4 {
        pcap.packet(at(n), &[n as u8; 21]);
        pcapng.packet(0, n as u64, &[n as u8; 21], 21);
    }
    pcapng.simple_packet(b"s", 1);
    pcapng.secrets(0x544c_534b, b"text");
    vec![pcap.bytes, pcapng.bytes]
}

/// Every prefix gives the packets that are whole in it, and an error with a place unless it ends
/// between two of them.
#[test]
fn every_prefix_gives_what_is_whole_in_it() {
    for file in samples() {
        let all = whole(&file[..]);
        for len in 1..file.len() {
            let (packets, error) = read_all(&file[..len]);
            assert_eq!(packets, all[..packets.len()]);
            match error {
                None => {}
                Some(CaptureError::Cut {
                    offset,
                    needed,
                    available,
                    ..
                }) => {
                    assert_eq!(offset + available, len as u64);
                    assert!(needed > available);
                }
                Some(CaptureError::NotACapture { .. }) => assert!(len < 4),
                Some(other) => panic!("{other:?} at {len}"),
            }
        }
    }
}

#[test]
fn reads_of_any_size_give_the_same_packets() {
    for file in samples() {
        let all = whole(&file[..]);
        for size in 1..30 {
            assert_eq!(whole(Trickle(&file, size)), all);
        }
    }
}

fn snoop(link: u32, records: &[(u32, &[u8], u32, u32)]) -> Vec<u8> {
    let mut file = b"snoop\0\0\0\0\0\0\x02".to_vec();
    file.extend(link.to_be_bytes());
    for (wire_len, data, padding, dropped) in records {
        let len = data.len() as u32;
        for word in [*wire_len, len, 24 + len + padding, *dropped, 7, 5] {
            file.extend(word.to_be_bytes());
        }
        file.extend(*data);
        file.resize(file.len() + *padding as usize, 0);
    }
    file
}

#[test]
fn snoop_files_are_read() {
    let file = snoop(4, &[(5, b"hello", 3, 0), (9, b"cut", 1, 2)]);
    let time = 7_000_005_000;
    let expected = vec![
        (time, 1, b"hello".to_vec(), 5),
        (time, 1, b"cut".to_vec(), 9),
    ];
    assert_eq!(whole(&file[..]), expected);
    assert_eq!(
        whole(&file[..file.len() - 1]),
        expected,
        "without the last padding"
    );
    let mut reader = CaptureReader::open(&file[..]).unwrap();
    while reader.next_packet().unwrap().is_some() {}
    assert_eq!(reader.dropped_packets(), 2);
    let (packets, error) = read_all(&file[..file.len() - 2]);
    assert_eq!(packets, expected[..1]);
    assert!(matches!(error, Some(CaptureError::Cut { .. })), "{error:?}");
    let mut damaged = file.clone();
    damaged[16 + 8] = 1;
    assert!(
        failure(&damaged).contains("a packet"),
        "{}",
        failure(&damaged)
    );
    assert!(failure(&snoop(9, &[])).contains("Token Ring"));
    assert!(failure(b"snoopy and friends").contains("not"));
}

/// Before version 2.3 the length on the wire came first.
#[test]
fn old_captures_have_their_lengths_the_other_way_round() {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 2 | 2 << 16, 0, 0, 100, 1, 7, 5, 9, 3] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"cut");
    assert_eq!(whole(&file[..]), [(7_000_005_000, 1, b"cut".to_vec(), 9)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damage_never_panics(which in 0_usize..2, damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut file = samples().swap_remove(which);
        for (place, byte) in damage {
            let place = place.index(file.len());
            file[place] = byte;
        }
        read_all(&file[..]);
    }
}
