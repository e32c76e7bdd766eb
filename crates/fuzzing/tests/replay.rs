//! Runs every target on its corpus, on the inputs that once broke it, and on damaged copies of both.
//! It needs neither a fuzzer nor a nightly compiler.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails where its inputs are not readable"
)]

use std::fs;
use std::path::{Path, PathBuf};

use tapedeck_fuzzing::{TARGETS, Target};
use tapedeck_testkit::Rng;

/// Damaged copies of each input.
const COPIES: usize = 100;
/// A copy of a longer input would only be slow.
const MAX_LEN: usize = 64 << 10;

#[test]
fn no_target_breaks() {
    for target in TARGETS {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (name, seed) in seeds {
            run(target, &name, &seed);
            let mut rng = Rng::new(7);
            for copy in 0..COPIES {
                run(
                    target,
                    &format!("{name}, copy {copy}"),
                    &damaged(&seed, &mut rng),
                );
            }
        }
    }
}

/// Runs a target, and says on which input it broke.
fn run(target: Target, name: &str, input: &[u8]) {
    let outcome = std::panic::catch_unwind(|| (target.run)(input));
    assert!(outcome.is_ok(), "{} broke on {name}", target.name);
}

fn seeds(target: Target) -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut seeds: Vec<(String, Vec<u8>)> = built_in(target.name)
        .into_iter()
        .enumerate()
        .map(|(n, seed)| (format!("built-in {n}"), seed))
        .collect();
    for folder in ["corpus", "regressions"] {
        for path in files(&root.join("fuzz").join(folder).join(target.name)) {
            seeds.push((path.display().to_string(), fs::read(path).unwrap()));
        }
    }
    if matches!(target.name, "capture" | "engine") {
        for case in files(&root.join("testdata/pcaps")) {
            for path in files(&case) {
                let is_capture = path.file_stem().is_some_and(|stem| stem == "input")
                    || path.to_string_lossy().contains("input.pcap");
                if is_capture {
                    let mut seed = fs::read(&path).unwrap();
                    seed.truncate(MAX_LEN);
                    seeds.push((path.display().to_string(), seed));
                }
            }
        }
    }
    seeds
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
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

/// A copy with a few bytes changed, removed, repeated or cut off.
fn damaged(seed: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut copy = seed.get(..seed.len().min(MAX_LEN)).unwrap().to_vec();
    for _ in 0..1 + rng.below(6) {
        let place = rng.below(copy.len());
        let end = (place + 1 + rng.below(16)).min(copy.len());
        match rng.below(5) {
            0 => copy.truncate(place),
            1 => drop(copy.drain(place..end)),
            2 => {
                let again = copy[place..end].to_vec();
                copy.splice(place..place, again);
            }
            3 => copy
                .iter_mut()
                .skip(place)
                .take(4)
                .for_each(|byte| *byte = 0xff),
            _ => {
                if let Some(byte) = copy.get_mut(place) {
                    *byte ^= 1 << rng.below(8);
                }
            }
        }
    }
    copy
}
