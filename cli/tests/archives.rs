//! Cutting archives, and saving what an accident left of one.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Tapedeck, temp_folder};
use serde_json::Value;
use tapedeck_testkit::{Conversation, pcap_of};

/// An archive of `count` exchanges, the odd ones with status 404, the last with a long body.
fn archive(folder: &Path, count: usize) -> PathBuf {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.handshake();
    for n in 0..count {
        talk.client(format!("GET /{n} HTTP/1.1\r\nHost: shop\r\n\r\n").as_bytes());
        let (status, len) = (
            if n % 2 == 0 { 200 } else { 404 },
            if n + 1 == count { 3 << 20 } else { n },
        );
        let body = vec![b'a' + u8::try_from(n % 26).unwrap(); len];
        talk.server(format!("HTTP/1.1 {status} X\r\nContent-Length: {len}\r\n\r\n").as_bytes());
        talk.server(&body);
    }
    talk.close();
    let (pcap, tape) = (folder.join("in.pcap"), folder.join("in.tape"));
    fs::write(&pcap, pcap_of(&talk.segments)).unwrap();
    run(&["import", text(&pcap), "-o", text(&tape)]);
    tape
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(args: &[&str]) -> common::Ran {
    Tapedeck::new(args).succeeds()
}

/// What `ls` says of the exchanges, without their ids.
fn listed(tape: &Path) -> Vec<Value> {
    let mut lines = run(&["ls", text(tape), "--format", "json"]).lines();
    for line in &mut lines {
        line.as_object_mut().unwrap().remove("id");
    }
    lines
}

#[test]
fn a_cut_holds_what_was_chosen_and_nothing_else_changes() {
    let folder = temp_folder();
    let tape = archive(folder.path(), 60);
    let out = folder.path().join("out.tape");
    run(&[
        "cut",
        text(&tape),
        "--filter",
        "response.status == 404",
        "-o",
        text(&out),
    ]);
    run(&["verify", text(&out)]);
    let expected: Vec<Value> = listed(&tape)
        .into_iter()
        .filter(|line| line["status"] == 404)
        .collect();
    assert_eq!(expected.len(), 30);
    assert_eq!(listed(&out), expected);
    // The long body, and a short one, byte for byte.
    for (new, old) in [("29", "59"), ("3", "7")] {
        let body =
            |tape: &Path, id: &str| run(&["show", text(tape), id, "--body", "response"]).stdout;
        assert!(body(&out, new) == body(&tape, old));
    }
    let stats: Value =
        serde_json::from_str(&run(&["stats", text(&out), "--format", "json"]).stdout).unwrap();
    assert_eq!(stats["ledger"]["exchanges"], 30);
    assert_eq!(stats["ledger"]["exchanges_not_chosen"], 30);
}

#[test]
fn a_cut_replaces_nothing_unasked() {
    let folder = temp_folder();
    let tape = archive(folder.path(), 3);
    let args = [
        "cut",
        text(&tape),
        "--filter",
        "complete",
        "-o",
        text(&tape),
    ];
    Tapedeck::new(args).fails(1, &["--force"]);
    assert_eq!(listed(&tape).len(), 3);
}

#[test]
fn an_import_keeps_what_its_filter_chooses() {
    let folder = temp_folder();
    let tape = archive(folder.path(), 20);
    let out = folder.path().join("out.tape");
    let pcap = folder.path().join("in.pcap");
    let filter = ["--filter", "request.path.endsWith(\"3\")"];
    run(&[
        "import",
        text(&pcap),
        "-o",
        text(&out),
        filter[0],
        filter[1],
    ]);
    let paths: Vec<_> = listed(&out)
        .iter()
        .map(|line| line["path"].clone())
        .collect();
    assert_eq!(paths, ["/3", "/13"]);
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 3, "no file but the three: {left:?}");
    drop(tape);
}

#[test]
fn what_an_accident_left_is_saved() {
    let folder = temp_folder();
    let tape = archive(folder.path(), 40);
    let whole = listed(&tape);
    let bytes = fs::read(&tape).unwrap();
    let (cut, out) = (
        folder.path().join("cut.tape"),
        folder.path().join("out.tape"),
    );
    for (len, least) in [(bytes.len() - 1, 40), (bytes.len() / 2, 0)] {
        fs::write(&cut, &bytes[..len]).unwrap();
        Tapedeck::new(["verify", text(&cut)]).fails(1, &[]);
        run(&["recover", text(&cut), "-o", text(&out)]);
        run(&["verify", text(&out)]);
        let saved = listed(&out);
        assert!(saved.len() >= least, "{} of {least}", saved.len());
        assert_eq!(saved, whole[..saved.len()]);
        fs::remove_file(&out).unwrap();
    }
}
