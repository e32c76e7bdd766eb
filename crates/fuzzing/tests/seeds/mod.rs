//! What the replay begins with.

use std::collections::BTreeMap;
use std::fs;

use tapedeck_packet::{CaptureReader, Decoded, LinkType, decode};
use tapedeck_testkit::Rng;

use super::{MAX_LEN, files, root};

/// The inputs of a target, with their names.
pub(super) fn of(name: &str) -> Vec<(String, Vec<u8>)> {
    let made = match name {
        "archive" => vec![archive()],
        "tls" => tls(),
        "fragments" => vec![fragments()],
        "conversation" | "segments" => noise(),
        _ => built_in(name),
    };
    let mut seeds: Vec<(String, Vec<u8>)> = made
        .into_iter()
        .enumerate()
        .map(|(n, seed)| (format!("seed {n}"), seed))
        .collect();
    for folder in ["corpus", "regressions"] {
        for path in files(&root().join("fuzz").join(folder).join(name)) {
            seeds.push((path.display().to_string(), fs::read(path).unwrap()));
        }
    }
    if matches!(name, "capture" | "engine") {
        for path in captures() {
            let mut seed = fs::read(&path).unwrap();
            seed.truncate(MAX_LEN);
            seeds.push((path.display().to_string(), seed));
        }
    }
    seeds
}

/// The captures of `testdata`.
fn captures() -> impl Iterator<Item = std::path::PathBuf> {
    let cases = files(&root().join("testdata/pcaps"));
    let paths = cases.into_iter().flat_map(|case| files(&case));
    paths.filter(|path| path.to_string_lossy().contains("input.pcap"))
}

fn archive() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tape");
    tapedeck_fuzzing::write_sample(&path);
    fs::read(path).unwrap()
}

/// Programs.
fn noise() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(1);
    (0..40)
        .map(|n| {
            // Few faults at first.
            let mut bytes = rng.bytes(8 + n * 8);
            for byte in bytes.iter_mut().skip(30) {
                if rng.below(4) > 0 {
                    *byte &= 0xf0;
                }
            }
            bytes
        })
        .collect()
}

/// The connections of a capture of TLS whose secrets the target knows.
fn tls() -> Vec<Vec<u8>> {
    let file = fs::read(root().join("testdata/pcaps/048-tls/input.pcap")).unwrap();
    let mut capture = CaptureReader::open(&file[..]).unwrap();
    let mut scripts: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
    while let Some(packet) = capture.next_packet().unwrap() {
        if let Decoded::Segment(segment) = decode(&packet) {
            let ports = (segment.source.port, segment.destination.port);
            // Clients have the higher ports there.
            let (to_client, client) = (ports.0 < ports.1, ports.0.max(ports.1));
            let script = spoken(&[(to_client, segment.payload)]);
            scripts.entry(client).or_default().extend(script);
        }
    }
    scripts.into_values().collect()
}

/// The packets of a capture with fragments, without their Ethernet headers.
fn fragments() -> Vec<u8> {
    let file = fs::read(root().join("testdata/pcaps/064-fragments/input.pcap")).unwrap();
    let mut capture = CaptureReader::open(&file[..]).unwrap();
    let mut out = Vec::new();
    while let Some(packet) = capture.next_packet().unwrap() {
        let ip = match packet.link {
            LinkType(1) => packet.data.get(14..).unwrap(),
            _ => packet.data,
        };
        out.extend(u16::try_from(ip.len() & 0x7ff).unwrap().to_be_bytes());
        out.extend(&ip[..ip.len() & 0x7ff]);
    }
    out.truncate(MAX_LEN);
    out
}

fn built_in(name: &str) -> Vec<Vec<u8>> {
    let texts: &[&[u8]] = match name {
        "http1" => {
            return vec![
                spoken(&[
                    (false, b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\nHEAD /c HTTP/1.1\r\nHost: x\r\n\r\n"),
                    (true, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n"),
                    (true, b"HTTP/1.1 204 No Content\r\n\r\n"),
                ]),
                spoken(&[
                    (false, b"POST /u HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nUpgrade: h2c\r\n\r\nabcde"),
                    (true, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nxyz"),
                ]),
                spoken(&[(true, b"HTTP/1.0 200\nfolded: a\n b\n\nuntil the end"), (false, b"CONNECT a:1 HTTP/1.1\r\n\r\n")]),
            ];
        }
        "http2" => {
            return vec![spoken(&[
                (false, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
                (true, b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"),
                (false, b"\0\0\x0e\x01\x04\0\0\0\x01\x83\x86\x84\x41\x03abc\x40\x01x\x01y\x82\0\0\x03\0\x01\0\0\0\x01abc"),
                (true, b"\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x04\0\x09\0\0\0\x01\x02a\0\0\0\0\x04\x03\0\0\0\0\x01\0\0\0\0"),
                (true, b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0"),
            ])];
        }
        "filter" => &[
            b"method == 'GET' && status >= 500 && target.startsWith('/a')",
            b"duration > duration('1s') || !complete",
            b"request.headers['x'].matches('a(b|c)*')",
        ],
        "content" => &[
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\x4c\x4a\x06\0\xc2\x41\x24\x35\x03\0\0\0",
            b"\x78\x9c\x4b\x4c\x4a\x06\0\x02\x4d\x01\x27",
            b"\x28\xb5\x2f\xfd\x04\0\x19\0\0abc\x44\xbd\x99\xcf",
            b"\x0b\x01\x80abc\x03",
        ],
        "packet" => &[
            b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0\x45\0\0\x2b\0\0\x40\0\x40\x06\0\0\x0a\0\0\x01\x0a\0\0\x02\x9c\x40\0\x50\0\0\x03\xe8\0\0\x13\x88\x50\x18\xff\xff\0\0\0\0abc",
            b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x81\0\0\x05\x86\xdd\x60\0\0\0\0\x20\0\x40\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x2c\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\x01\x9c\x40\0\x50\0\0\0\0\0\0\0\0\x50\x02\xff\xff\0\0\0\0",
            b"\x45\0\0\x32\0\0\x40\0\x40\x2f\0\0\x0a\0\0\x01\x0a\0\0\x02\x20\0\x65\x58\0\0\0\x07\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0\x45\0\0\x14\0\0\0\0\x40\x06\0\0",
        ],
        "grpc" => &[b"\0\0\0\0\x05hello\x01\0\0\0\x01x\0\0\0\0"],
        "hpack" => &[
            // RFC 7541 appendix C.3 and C.4: the same three requests, without and with Huffman.
            b"\x14\x82\x86\x84\x41\x0fwww.example.com\x0e\x82\x86\x84\xbe\x58\x08no-cache",
            b"\x11\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\x02\x20\x82\x02\x3f\xe1",
        ],
        "key_log" => &[include_bytes!("../../../../testdata/pcaps/048-tls/keys.log")],
        "player_option" => &[
            b"http_req_duration{endpoint:/pay,status:200}: p(95)<500; abort; delay 10s",
            b"4.5x",
            b"http://[2001:db8::1]:8080/base?x",
        ],
        "record" => &[&[1; 60], &[0; 80]],
        _ => &[],
    };
    texts.iter().map(|text| text.to_vec()).collect()
}

/// A conversation in the form that the message targets read.
fn spoken(turns: &[(bool, &[u8])]) -> Vec<u8> {
    let mut script = Vec::new();
    for (to_client, bytes) in turns {
        for piece in bytes.chunks(0x7e) {
            script.push(u8::from(*to_client) << 7 | u8::try_from(piece.len()).unwrap());
            script.extend(piece);
        }
    }
    script
}
