//! What leaves an archive in another format, on every golden capture.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Tapedeck, pcaps, temp_folder};
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The golden captures as archives in that folder, with the names of their cases.
fn archives(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut cases: Vec<PathBuf> = fs::read_dir(pcaps())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.jsonl").is_file())
        .collect();
    cases.sort();
    let archive = |case: &PathBuf| {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let input = fs::read_dir(case)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| text(path).contains("input.pcap"))
            .unwrap();
        let tape = folder.join(format!("{name}.tape"));
        Tapedeck::new(["import", text(&input), "-o", text(&tape)]).run();
        (name, tape)
    };
    cases.iter().map(archive).collect()
}

fn export(format: &str, tape: &Path, more: &[&str]) -> common::Ran {
    Tapedeck::new(["export", format, text(tape)].iter().chain(more)).succeeds()
}

fn listed(tape: &Path) -> Vec<Value> {
    Tapedeck::new(["ls", text(tape), "--format", "json"])
        .succeeds()
        .lines()
}

#[test]
fn json_lines_begin_with_what_ls_says() {
    let folder = temp_folder();
    for (name, tape) in archives(folder.path()) {
        let lines = export("jsonl", &tape, &[]).lines();
        let listed = listed(&tape);
        assert_eq!(lines.len(), listed.len(), "{name}");
        for (line, listed) in lines.iter().zip(&listed) {
            for (key, value) in listed.as_object().unwrap() {
                let told = match key.as_str() {
                    "grpc_status" => &line["grpc"]["status"],
                    key => &line[key],
                };
                assert_eq!(told, value, "{name}: {key}");
            }
            for side in ["request", "response"] {
                let body = &line[side]["body"];
                assert_eq!(
                    body["len"],
                    listed[format!("{side}_body_len")],
                    "{name}: {side}"
                );
                if let Some(text) = body["text"].as_str() {
                    assert_eq!(body["len"], text.len(), "{name}: {side}");
                }
            }
        }
    }
}

#[test]
fn exports_say_what_is_wrong() {
    let folder = temp_folder();
    let (_, tape) = archives(folder.path()).remove(0);
    for format in ["har", "jsonl"] {
        let filter = ["--filter", "response.status == 999"];
        export(format, &tape, &filter);
        Tapedeck::new(["export", format, "no-such.tape"]).fails(1, &["no-such.tape"]);
        Tapedeck::new(["export", format, text(&tape), "-o", "/no/such/folder/x"])
            .fails(1, &["failed to create /no/such/folder/x"]);
        Tapedeck::new(["export", format, text(&tape), "--filter", "response."]).fails(2, &[]);
    }
    let bytes = fs::read(&tape).unwrap();
    let (damaged, out) = (
        folder.path().join("damaged.tape"),
        folder.path().join("out"),
    );
    let mut flipped = bytes.clone();
    // Within the first block, behind the header of the file and that of its chunk.
    let first = bytes.len() / 3;
    flipped[first] ^= 0xff;
    fs::write(&damaged, &flipped).unwrap();
    let args = ["export", "jsonl", text(&damaged), "-o", text(&out)];
    Tapedeck::new(args).fails(1, &["damaged"]);
}
