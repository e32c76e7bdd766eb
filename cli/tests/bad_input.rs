//! What the program says and does when something is wrong: the message names what and where, the
//! exit code is right, and whatever could be read is kept.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use common::{Ran, Tapedeck, temp_folder};
use tapedeck_testkit::{Conversation, capture::PcapWriter, pcap_of, wire};

/// A capture of `count` exchanges on one connection.
fn capture(count: usize) -> Vec<u8> {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.handshake();
    for n in 0..count {
        talk.client(format!("GET /{n} HTTP/1.1\r\nHost: shop\r\n\r\n").as_bytes());
        talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    }
    talk.close();
    pcap_of(&talk.segments)
}

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: temp_folder(),
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn tape(&self) -> PathBuf {
        self.folder.path().join("out.tape")
    }

    fn import(&self, inputs: &[&Path]) -> Tapedeck {
        let tape = self.tape();
        let mut args = vec!["import".as_ref()];
        args.extend(inputs.iter().map(|path| path.as_os_str()));
        args.extend(["--force".as_ref(), "-o".as_ref(), tape.as_os_str()]);
        Tapedeck::new(args)
    }

    /// An archive of `count` exchanges.
    fn archive(&self, count: usize) -> PathBuf {
        let input = self.file("good.pcap", &capture(count));
        self.import(&[&input]).succeeds();
        self.tape()
    }

    fn listed(&self) -> usize {
        let tape = self.tape();
        Tapedeck::new([
            "ls".as_ref(),
            tape.as_os_str(),
            "--format".as_ref(),
            "json".as_ref(),
        ])
        .succeeds()
        .lines()
        .len()
    }
}

fn tapedeck(args: &[&str]) -> Tapedeck {
    Tapedeck::new(args)
}

#[test]
fn what_is_no_capture_is_said_and_leaves_nothing() {
    let bench = Bench::new();
    let text = bench.file(
        "notes.txt",
        b"these are notes, not packets, and long enough to tell",
    );
    bench
        .import(&[&text])
        .fails(1, &["notes.txt", "not a capture"]);
    let empty = bench.file("empty.pcap", b"");
    bench.import(&[&empty]).fails(1, &["empty.pcap", "empty"]);
    let absent = bench.folder.path().join("absent.pcap");
    bench
        .import(&[&absent])
        .fails(1, &["absent.pcap", "No such file"]);
    bench.import(&[bench.folder.path()]).fails(1, &["folder"]);
    assert!(!bench.tape().exists());
    let left: Vec<_> = fs::read_dir(bench.folder.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "nothing but our own files: {left:?}");
}

#[test]
fn a_capture_cut_anywhere_keeps_what_was_whole() {
    let bench = Bench::new();
    let whole = capture(3);
    let mut most = 0;
    for len in (24..whole.len()).step_by(7) {
        let input = bench.file("cut.pcap", &whole[..len]);
        let ran = bench.import(&[&input]).run();
        let found = if bench.tape().exists() {
            bench.listed()
        } else {
            0
        };
        assert!(
            found >= most || found == 0,
            "a longer capture holds no less"
        );
        most = most.max(found);
        assert!(
            ran.code == 0
                || ["cut.pcap", "no HTTP"]
                    .iter()
                    .any(|said| ran.stderr.contains(said)),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(most, 3);
    let input = bench.file("cut.pcap", &whole[..whole.len() - 3]);
    bench
        .import(&[&input])
        .fails(1, &["cut.pcap", "stopped after"]);
    assert_eq!(bench.listed(), 3);
}

#[test]
fn a_bad_file_does_not_stop_the_good_ones() {
    let bench = Bench::new();
    let good = bench.file("good.pcap", &capture(2));
    let bad = bench.file("bad.pcap", b"no capture at all, really not");
    bench.import(&[&bad, &good]).fails(1, &["bad.pcap"]);
    assert_eq!(bench.listed(), 2);
}

#[test]
fn an_unknown_link_type_is_named() {
    let bench = Bench::new();
    let mut pcap = PcapWriter::new(147);
    pcap.packet(tapedeck_model::Timestamp::EPOCH, b"whatever this is");
    let input = bench.file("odd.pcap", &pcap.bytes);
    bench.import(&[&input]).fails(1, &["odd.pcap", "147"]);
}

#[test]
fn no_http_inside_is_said_with_what_was_there_instead() {
    let bench = Bench::new();
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:22");
    talk.handshake();
    talk.server(b"SSH-2.0-OpenSSH_9.2\r\n");
    talk.close();
    let input = bench.file("ssh.pcap", &pcap_of(&talk.segments));
    bench
        .import(&[&input])
        .fails(1, &["no HTTP exchange", "1 connections were not HTTP"]);
    assert_eq!(bench.listed(), 0);

    let mut pcap = PcapWriter::new(1);
    pcap.packet(
        tapedeck_model::Timestamp::EPOCH,
        &wire::ethernet_frame(0x0806, &[0; 28]),
    );
    let input = bench.file("arp.pcap", &pcap.bytes);
    bench
        .import(&[&input])
        .fails(1, &["no HTTP exchange", "1 packets were not TCP"]);
}

#[test]
fn standard_input_is_a_capture_too() {
    let bench = Bench::new();
    let input = bench.file("in.pcap", &capture(2));
    bench
        .import(&[Path::new("-")])
        .input(fs::File::open(&input).unwrap())
        .succeeds();
    assert_eq!(bench.listed(), 2);
    bench
        .import(&[Path::new("-")])
        .fails(1, &["standard input", "empty"]);
}

#[test]
fn an_existing_archive_is_not_replaced_unasked() {
    let bench = Bench::new();
    let tape = bench.archive(2);
    let input = bench.file("other.pcap", &capture(1));
    Tapedeck::new([
        "import".as_ref(),
        input.as_os_str(),
        "-o".as_ref(),
        tape.as_os_str(),
    ])
    .fails(1, &["out.tape", "--force"]);
    assert_eq!(bench.listed(), 2);
}

#[test]
fn a_path_that_cannot_be_written_is_said_before_the_work() {
    let bench = Bench::new();
    let input = bench.file("good.pcap", &capture(1));
    let there = bench.folder.path().join("no/such/folder/x.tape");
    Tapedeck::new([
        "import".as_ref(),
        input.as_os_str(),
        "-o".as_ref(),
        there.as_os_str(),
    ])
    .fails(1, &["no/such/folder", "No such file"]);
}

#[test]
fn a_full_disk_stops_the_work_and_what_was_written_can_be_saved() {
    let bench = Bench::new();
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.handshake();
    let mut noise = tapedeck_testkit::Rng::new(1);
    for n in 0..60 {
        talk.client(format!("GET /{n} HTTP/1.1\r\nHost: shop\r\n\r\n").as_bytes());
        talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n");
        talk.server(&noise.bytes(200_000));
    }
    let (input, tape) = (
        bench.file("big.pcap", &pcap_of(&talk.segments)),
        bench.tape(),
    );
    // A limit on the file size fails writes as a full disk does, and needs no disk to fill. The
    // unit is 512 bytes: 8 MiB of 12.
    let limited = "trap '' XFSZ; ulimit -f 16384; exec \"$0\" import \"$1\" \"$1\" -o \"$2\"";
    let output = std::process::Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_tapedeck")])
        .args([&input, &tape])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("out.tape") && said.contains("File too large"),
        "{said}"
    );
    assert_eq!(said.matches("error:").count(), 1, "said once: {said}");
    assert!(!tape.exists());

    let partial = bench.folder.path().join(".out.tape.partial");
    Tapedeck::new([
        "recover".as_ref(),
        partial.as_os_str(),
        "-o".as_ref(),
        tape.as_os_str(),
    ])
    .succeeds();
    Tapedeck::new(["verify".as_ref(), tape.as_os_str()]).succeeds();
    assert!(bench.listed() > 10, "what was flushed before is there");
}

#[test]
fn every_flipped_byte_of_an_archive_is_found() {
    let bench = Bench::new();
    let tape = bench.archive(5);
    let whole = fs::read(&tape).unwrap();
    let verify = |bytes: &[u8]| -> Ran {
        let path = bench.file("bad.tape", bytes);
        Tapedeck::new(["verify".as_ref(), path.as_os_str()]).run()
    };
    assert_eq!(verify(&whole).code, 0);
    // A process for each byte takes long; the archive's own tests try every one.
    for at in (0..whole.len()).step_by(whole.len() / 60) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        let ran = verify(&bytes);
        assert_eq!(ran.code, 1, "byte {at}: {}", ran.stdout);
        let path = bench.file("bad.tape", &bytes);
        for command in ["ls", "stats"] {
            Tapedeck::new([command.as_ref(), path.as_os_str()]).run();
        }
        Tapedeck::new(["show".as_ref(), path.as_os_str(), "0".as_ref()]).run();
    }
}

#[test]
fn an_archive_cut_at_any_length_is_an_error_not_a_panic() {
    let bench = Bench::new();
    let whole = fs::read(bench.archive(5)).unwrap();
    for len in (0..whole.len()).step_by(whole.len() / 40) {
        let path = bench.file("cut.tape", &whole[..len]);
        Tapedeck::new(["verify".as_ref(), path.as_os_str()]).fails(1, &[]);
        for command in ["ls", "stats"] {
            Tapedeck::new([command.as_ref(), path.as_os_str()]).fails(1, &["cut.tape"]);
        }
    }
}

#[test]
fn other_files_are_no_archives() {
    let bench = Bench::new();
    let pcap = bench.file("x.pcap", &capture(1));
    Tapedeck::new(["ls".as_ref(), pcap.as_os_str()])
        .fails(1, &["x.pcap", "is not a Tapedeck archive"]);
    Tapedeck::new(["ls".as_ref(), bench.folder.path().as_os_str()]).fails(1, &[]);
    tapedeck(&["ls", "/no/such.tape"]).fails(1, &["/no/such.tape"]);
}

#[test]
fn a_target_that_refuses_is_one_clear_message() {
    let bench = Bench::new();
    let tape = bench.archive(20);
    // A port that was just free is refused: nobody else takes it within the test.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let target = format!("http://127.0.0.1:{port}");
    let tape = tape.to_string_lossy();
    let ran = tapedeck(&["replay", &tape, "--target", &target, "--speed", "max"])
        .fails(1, &["refused", &port.to_string()]);
    assert!(ran.stderr.lines().count() < 10, "{}", ran.stderr);
}

#[test]
fn a_filter_that_leaves_nothing_is_said() {
    let bench = Bench::new();
    let tape = bench.archive(3);
    let tape = tape.to_string_lossy();
    let listen = ["--listen", "127.0.0.1:0"];
    tapedeck(&["mock", &tape, "--filter", "id < 0", listen[0], listen[1]])
        .fails(1, &["the filter chooses none of the 3 exchanges"]);
    tapedeck(&[
        "replay",
        &tape,
        "--filter",
        "id < 0",
        "--target",
        "http://127.0.0.1:1",
    ])
    .fails(1, &["the filter chooses none of the 3 exchanges"]);
}

#[test]
fn a_port_in_use_is_named() {
    let bench = Bench::new();
    let tape = bench.archive(1);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    tapedeck(&["mock", &tape.to_string_lossy(), "--listen", &address])
        .fails(1, &["in use", &address]);
}

#[test]
fn wrong_usage_is_two() {
    let bench = Bench::new();
    let tape = bench.archive(1);
    let tape = tape.to_string_lossy();
    tapedeck(&[]).fails(2, &["Usage"]);
    tapedeck(&["import"]).fails(2, &["--output"]);
    tapedeck(&["show", &tape, "x"]).fails(2, &["invalid value"]);
    tapedeck(&["replay", &tape, "--target", "ftp://x"]).fails(2, &["ftp"]);
    tapedeck(&["replay", &tape, "--target", "http://x", "--speed", "fast"]).fails(2, &["fast"]);
    tapedeck(&["mock", &tape, "--listen", "nowhere"]).fails(2, &["nowhere"]);
    tapedeck(&["ls", &tape, "--filter", "response.status >="]).fails(2, &["response.status"]);
    tapedeck(&["show", &tape, "99"]).fails(1, &["99", "it holds 1"]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    use std::io::Read;
    let bench = Bench::new();
    let tape = bench.archive(5000);
    let mut child = Tapedeck::new([
        "ls".as_ref(),
        tape.as_os_str(),
        "--format".as_ref(),
        "json".as_ref(),
    ])
    .spawn();
    let mut first = [0; 10];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!(said, "");
}
