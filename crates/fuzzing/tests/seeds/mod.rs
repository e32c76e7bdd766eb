//! What the replay and the fuzzers begin with.

mod goldens;
mod texts;

use std::fs;
use std::path::{Path, PathBuf};

use tapedeck_fuzzing::Blocks;
use tapedeck_packet::{CaptureReader, LinkType};
use tapedeck_testkit::Rng;

/// A copy of a longer input would only be slow.
pub(super) const MAX_LEN: usize = 20 << 10;

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files of a folder, by name; none where there is no such folder.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The inputs of a target, with their names: the committed ones, and those made for it.
pub(super) fn of(name: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<(String, Vec<u8>)> = made(name)
        .into_iter()
        .filter(|seed| seed.len() <= MAX_LEN)
        .enumerate()
        .map(|(n, seed)| (format!("seed {n}"), seed))
        .collect();
    for folder in ["corpus", "regressions"] {
        for path in files(&root().join("fuzz").join(folder).join(name)) {
            seeds.push((path.display().to_string(), fs::read(path).unwrap()));
        }
    }
    seeds
}

/// Inputs that are made of what is in the repository.
pub(super) fn made(name: &str) -> Vec<Vec<u8>> {
    let mut seeds = texts::of(name);
    seeds.extend(match name {
        "archive" | "export" => goldens::archives(),
        "capture" | "engine" => captures(),
        "content" => goldens::bodies(goldens::Body::Coded),
        "events" => goldens::bodies(goldens::Body::Events),
        "grpc" => goldens::bodies(goldens::Body::Grpc),
        "protobuf" => goldens::protobuf(),
        "websocket" => goldens::bodies(goldens::Body::WebSocket),
        "conversation" | "encrypted" | "folder" | "segments" => noise(),
        "fragments" => vec![fragments()],
        "har" => goldens::hars(),
        "hpack" => goldens::field_blocks(),
        "http1" | "http2" => goldens::scripts(name == "http2"),
        "key_log" => goldens::key_logs(),
        "luck" => luck(),
        "packet" => goldens::packets(),
        "tls" => goldens::tls_scripts(),
        _ => Vec::new(),
    });
    seeds
}

/// The beginnings of the captures of `testdata`.
fn captures() -> Vec<Vec<u8>> {
    let begun = goldens::files_named("input.pcap").into_iter().map(|path| {
        let mut capture = fs::read(path).unwrap();
        capture.truncate(MAX_LEN);
        capture
    });
    begun.collect()
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

/// Bad luck of each kind for each golden capture.
fn luck() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(5);
    (0..100)
        .flat_map(|golden| (0..3).map(move |kind| vec![golden, kind]))
        .map(|mut seed| {
            seed.extend(rng.bytes(6));
            seed
        })
        .collect()
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
