//! Cutting archives, and saving what an accident left of one.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{Tapedeck, temp_folder};
use serde_json::Value;
use tapedeck_archive::{Archive, Provenance, Writer, WriterOptions};
use tapedeck_model::{
    Anomalies, Connection, ConnectionId, Endpoint, Exchange, Ledger, Missing, Origin, Protocol,
    Scope, Timestamp,
};
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

/// An archive of GET /NAME/0, /NAME/1, ... one a second, beginning at that second.
fn every_second(folder: &Path, name: &str, client: &str, start: u64, count: u64) -> PathBuf {
    let begin = Timestamp::from_nanos(1_700_000_000_000_000_000);
    let begin = begin.saturating_add(Duration::from_millis(start));
    let mut talk = Conversation::new(client, "10.0.0.2:80").starting(begin);
    talk.handshake();
    for n in 0..count {
        talk.now = begin.saturating_add(Duration::from_millis(1000 * n + 10));
        talk.client(format!("GET /{name}/{n} HTTP/1.1\r\nHost: shop\r\n\r\n").as_bytes());
        talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes");
    }
    talk.close();
    let (pcap, tape) = (
        folder.join(format!("{name}.pcap")),
        folder.join(format!("{name}.tape")),
    );
    fs::write(&pcap, pcap_of(&talk.segments)).unwrap();
    run(&["import", text(&pcap), "-o", text(&tape)]);
    tape
}

#[test]
fn a_merge_holds_everything_in_the_order_of_time() {
    let folder = temp_folder();
    let a = every_second(folder.path(), "a", "10.0.0.1:40000", 0, 3);
    let b = every_second(folder.path(), "b", "10.0.0.9:40000", 500, 4);
    let out = folder.path().join("out.tape");
    // The order on the command line has no say.
    run(&["merge", text(&b), text(&a), "-o", text(&out)]);
    run(&["verify", text(&out)]);
    let merged = listed(&out);
    let paths: Vec<_> = merged.iter().map(|line| line["path"].clone()).collect();
    assert_eq!(
        paths,
        ["/a/0", "/b/0", "/a/1", "/b/1", "/a/2", "/b/2", "/b/3"]
    );
    let connection = |n: usize| merged[n]["connection"].clone();
    assert_eq!(connection(0), connection(2));
    assert_ne!(connection(0), connection(1));

    let archives = [&a, &b, &out].map(|path| Archive::open(path).unwrap());
    let mut ledger = archives[0].ledger().clone();
    ledger.merge(archives[1].ledger());
    assert_eq!(archives[2].ledger(), &ledger);
    let provenance = archives[2].provenance();
    for (number, archive) in [(1, &archives[0]), (0, &archives[1])] {
        let source = &provenance.extra[&format!("merged.{number}.source")];
        assert_eq!(source, &archive.provenance().source);
    }
}

#[test]
fn a_merge_commutes_with_a_cut_and_keeps_long_bodies() {
    let folder = temp_folder();
    let a = archive(folder.path(), 30);
    let b = every_second(folder.path(), "b", "10.0.0.9:40000", 5, 4);
    let out = |name: &str| folder.path().join(name);
    let filter = [
        "--filter",
        "response.status == 404 || request.path == \"/29\"",
    ];
    let cut = |from: &Path, to: &Path| {
        run(&["cut", text(from), filter[0], filter[1], "-o", text(to)]);
    };
    let merge = |of: [&Path; 2], to: &Path| {
        run(&["merge", text(of[0]), text(of[1]), "-o", text(to)]);
    };
    merge([&a, &b], &out("ab"));
    cut(&out("ab"), &out("merged-cut"));
    cut(&a, &out("a-cut"));
    cut(&b, &out("b-cut"));
    merge([&out("a-cut"), &out("b-cut")], &out("cut-merged"));
    let (one, other) = (listed(&out("merged-cut")), listed(&out("cut-merged")));
    assert_eq!(one, other);
    let last = (one.len() - 1).to_string();
    let long = listed(&out("ab"))
        .iter()
        .position(|line| line["path"] == "/29")
        .unwrap()
        .to_string();
    let body = |tape: &Path, id: &str| run(&["show", text(tape), id, "--body", "response"]).stdout;
    assert_eq!(body(&out("ab"), &long).len(), 3 << 20);
    assert!(body(&out("merged-cut"), &last) == body(&a, "29"));
}

#[test]
fn a_merge_says_what_is_wrong_and_leaves_nothing() {
    let folder = temp_folder();
    let a = archive(folder.path(), 3);
    let out = folder.path().join("out.tape");
    let pcap = folder.path().join("in.pcap");
    Tapedeck::new(["merge", text(&a), text(&pcap), "-o", text(&out)]).fails(1, &["in.pcap"]);
    Tapedeck::new(["merge", text(&a), "no-such", "-o", text(&out)]).fails(1, &["no-such"]);
    Tapedeck::new(["merge", text(&a), "-o", text(&a)]).fails(1, &["--force"]);
    Tapedeck::new(["merge", "-o", text(&out)]).fails(2, &["ARCHIVE"]);
    assert!(!out.exists());
    run(&["merge", text(&a), text(&a), "-o", text(&a), "--force"]);
    assert_eq!(listed(&a).len(), 6);
}

/// An archive of one exchange, on the connection of that id, with a ledger that claims anything.
fn claiming(path: &Path, connection: u64) {
    let endpoint = Endpoint::new("10.0.0.1".parse().unwrap(), 80);
    let exchange = Exchange {
        key: 0,
        connection: Arc::new(Connection {
            id: ConnectionId(connection),
            client: endpoint,
            server: endpoint,
            scope: Scope(0),
            origin: Origin::Midstream,
            opened: Timestamp::EPOCH,
            tls: None,
            workloads: tapedeck_model::Workloads::default(),
        }),
        stream: 0,
        protocol: Protocol::Http11,
        request: None,
        interim: Vec::new(),
        response: None,
        request_absent: Missing::NONE,
        response_absent: Missing::NONE,
        tunnel: false,
        pushed: false,
        anomalies: Anomalies::default(),
    };
    let options = WriterOptions::new(Provenance::default());
    let mut writer = Writer::create(path, options).unwrap();
    writer.exchange(&exchange).unwrap();
    let ledger = Ledger {
        segments: u64::MAX,
        ..Ledger::default()
    };
    writer.seal(&ledger).unwrap();
}

#[test]
fn archives_from_strangers_cannot_break_a_merge() {
    let folder = temp_folder();
    let a = archive(folder.path(), 5);
    let (last, out) = (
        folder.path().join("last.tape"),
        folder.path().join("out.tape"),
    );
    claiming(&last, u64::MAX);
    // Nothing fits behind the last id, and nothing before it.
    Tapedeck::new(["merge", text(&a), text(&last), "-o", text(&out)])
        .fails(1, &["last.tape", "connection ids"]);
    Tapedeck::new(["merge", text(&last), text(&last), "-o", text(&out)])
        .fails(1, &["last.tape", "connection ids"]);
    assert!(!out.exists());
    claiming(&out, 7);
    run(&[
        "merge",
        text(&out),
        text(&a),
        text(&out),
        "-o",
        text(&out),
        "--force",
    ]);
    assert_eq!(Archive::open(&out).unwrap().ledger().segments, u64::MAX);
}
