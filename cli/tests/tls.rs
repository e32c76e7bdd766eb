//! TLS through the real program: key logs of all kinds, and what stays closed.

#![expect(clippy::unwrap_used, reason = "the helpers of these tests are tests")]

mod common;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Ran, Tapedeck, pcaps, temp_folder};
use serde_json::Value;

/// TLS 1.2 and 1.3, three connections.
fn input() -> PathBuf {
    pcaps().join("048-tls/input.pcap")
}

fn keys() -> PathBuf {
    pcaps().join("048-tls/keys.log")
}

fn import(input: &Path, keylogs: &[&Path], tape: &Path) -> Tapedeck {
    let mut args: Vec<OsString> = vec!["import".into(), input.into(), "-o".into(), tape.into()];
    for keylog in keylogs {
        args.extend(["--keylog".into(), (*keylog).into()]);
    }
    Tapedeck::new(args)
}

fn read(command: &str, tape: &Path, more: &[&str]) -> Ran {
    let args = [command.as_ref(), tape.as_os_str()];
    let more = more.iter().map(AsRef::as_ref);
    Tapedeck::new(args.into_iter().chain(more)).succeeds()
}

#[test]
fn what_stays_closed_is_listed_with_the_reason() {
    let folder = temp_folder();
    let tape = folder.path().join("t.tape");
    let says = [
        "no HTTP exchange was found",
        "3 of 3 TLS connections could not be read, or not to their end: 3 no-keys",
        "--keylog FILE gives the keys",
    ];
    import(&input(), &[], &tape).fails(1, &says);

    let lines = read("ls", &tape, &["--connections", "--format", "json"]).lines();
    let field = |name: &str| {
        lines
            .iter()
            .map(|line| line[name].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(field("reason"), ["no-keys"; 3].map(Value::from));
    assert_eq!(field("tls_version"), ["1.2", "1.3", "1.3"].map(Value::from));
    // In TLS 1.3 the choice is encrypted.
    assert_eq!(
        field("alpn"),
        [Value::from("http/1.1"), Value::Null, Value::Null]
    );
    // As tshark counts the payload (`tcp.len`) of both directions of each stream.
    let bytes = lines.iter().map(|line| {
        let of = |name: &str| line[name].as_u64().unwrap();
        (of("bytes_to_server"), of("bytes_to_client"))
    });
    let counted = [(703, 3575), (987, 4213), (936, 4110)];
    assert_eq!(bytes.collect::<Vec<_>>(), counted);

    let table = read("ls", &tape, &["--connections"]).stdout;
    assert_eq!(table.lines().count(), 4, "{table}");
    let stats = read("stats", &tape, &[]).stdout;
    assert!(stats.contains("TLS NOT READ"), "{stats}");
    let stats: Value =
        serde_json::from_str(&read("stats", &tape, &["--format", "json"]).stdout).unwrap();
    assert_eq!(stats["tls_unread"][0]["connections"], 3);
    assert_eq!(stats["ledger"]["tls_no_keys"], 3);
}

#[test]
fn with_its_keys_nothing_stays_closed() {
    let folder = temp_folder();
    let tape = folder.path().join("t.tape");
    let ran = import(&input(), &[&keys()], &tape).succeeds();
    assert!(!ran.stderr.contains("TLS"), "{}", ran.stderr);
    assert!(
        read("ls", &tape, &["--connections", "--format", "json"])
            .lines()
            .is_empty()
    );
    let found = read(
        "ls",
        &tape,
        &["--filter", "request.scheme == 'https'", "--format", "json"],
    );
    assert_eq!(found.lines().len(), 6);
}

#[test]
fn several_key_logs_are_one() {
    let folder = temp_folder();
    let text = fs::read_to_string(keys()).unwrap();
    // Sessions of TLS 1.2 have one line, of that label.
    let halves = [true, false].map(|old| {
        let of = |line: &&str| line.starts_with("CLIENT_RANDOM") == old;
        let lines: Vec<&str> = text.lines().filter(of).collect();
        let path = folder.path().join(format!("{old}.log"));
        fs::write(&path, lines.join("\r\n")).unwrap();
        path
    });
    let tape = folder.path().join("t.tape");
    let half = import(&input(), &[&halves[0]], &tape).succeeds();
    let says = "2 of 3 TLS connections could not be read, or not to their end: 2 no-keys; the key logs lack";
    assert!(half.stderr.contains(says), "{}", half.stderr);
    let both = folder.path().join("both.tape");
    import(&input(), &[&halves[0], &halves[1]], &both).succeeds();
    assert_eq!(read("ls", &both, &["--format", "json"]).lines().len(), 6);
}

#[test]
fn secrets_within_the_file_are_used_and_said() {
    let folder = temp_folder();
    let tape = folder.path().join("t.tape");
    let input = pcaps().join("112-pcapng-secrets/input.pcapng");
    for threads in ["1", "3"] {
        let ran = Tapedeck::new([
            "import".as_ref(),
            input.as_os_str(),
            "--force".as_ref(),
            "--threads".as_ref(),
            threads.as_ref(),
            "-o".as_ref(),
            tape.as_os_str(),
        ])
        .succeeds();
        let says = "TLS is read with the secrets of 2 sessions in the file";
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
        assert_eq!(read("ls", &tape, &["--format", "json"]).lines().len(), 4);
    }
}

#[test]
fn a_capture_that_begins_within_a_connection_says_so() {
    let folder = temp_folder();
    let tape = folder.path().join("t.tape");
    let case = pcaps().join("113-tls-midstream");
    import(&case.join("input.pcap"), &[&case.join("keys.log")], &tape).succeeds();
    let lines = read("ls", &tape, &["--connections", "--format", "json"]).lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["reason"], "handshake-not-seen");
}

#[test]
fn what_is_no_key_log_is_refused_before_anything_is_written() {
    let folder = temp_folder();
    let tape = folder.path().join("t.tape");
    let missing = folder.path().join("missing.log");
    import(&input(), &[&missing], &tape).fails(1, &["failed to open key log", "missing.log"]);
    // The mistake that is made most: the server's private key.
    let pem = folder.path().join("key.pem");
    fs::write(
        &pem,
        "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    import(&input(), &[&pem], &tape).fails(1, &["key.pem is no TLS key log", "SSLKEYLOGFILE"]);
    import(&input(), &[&input()], &tape).fails(1, &["input.pcap is no TLS key log"]);
    import(&input(), &[folder.path()], &tape).fails(1, &["failed to read key log"]);
    let endless = folder.path().join("endless");
    fs::write(&endless, vec![b'x'; 3 << 20]).unwrap();
    import(&input(), &[&endless], &tape).fails(1, &["endless lines"]);
    assert!(!tape.exists());

    let partly = folder.path().join("partly.log");
    let text = fs::read_to_string(keys()).unwrap() + "CLIENT_RANDOM 12 34\n\n# a comment\n";
    fs::write(&partly, text).unwrap();
    let ran = import(&input(), &[&partly], &tape).succeeds();
    assert!(ran.stderr.contains("1 lines of key log"), "{}", ran.stderr);
    let empty = folder.path().join("empty.log");
    fs::write(&empty, "# nothing yet\n").unwrap();
    let other = folder.path().join("o.tape");
    import(&input(), &[&empty], &other).fails(1, &["empty.log is empty", "3 no-keys"]);
}

/// The connections that could not be read.
fn unread(tape: &Path) -> Vec<Value> {
    read("ls", tape, &["--connections", "--format", "json"]).lines()
}

/// The counters of an archive. The laws of `model::Ledger` hold in it.
fn ledger(tape: &Path) -> serde_json::Map<String, Value> {
    let stats = read("stats", tape, &["--format", "json"]).stdout;
    let stats: Value = serde_json::from_str(&stats).unwrap();
    let ledger = stats["ledger"].as_object().unwrap().clone();
    let sum = |names: &[&str]| -> u64 {
        let of = |name: &&str| ledger.get(*name).and_then(Value::as_u64).unwrap_or(0);
        names.iter().map(of).sum()
    };
    for (whole, parts) in [
        (
            &["packets_seen"][..],
            &[
                "segments",
                "packets_not_tcp",
                "packets_fragment",
                "packets_joined",
                "packets_undecodable",
            ][..],
        ),
        (
            &["payload_bytes_seen"],
            &[
                "payload_bytes_delivered",
                "payload_bytes_duplicate",
                "payload_bytes_dropped",
            ],
        ),
        (
            &["payload_bytes_delivered", "bytes_tls_plain", "bytes_tunnel"],
            &["bytes_http", "bytes_not_http", "bytes_tls"],
        ),
    ] {
        assert!(sum(whole) > 0, "{whole:?}");
        assert_eq!(sum(whole), sum(parts), "{whole:?} of {}", tape.display());
    }
    ledger
}

/// Connections that were not read belong to no exchange that a filter could choose: they go along.
#[test]
fn what_stays_closed_goes_through_import_cut_and_merge() {
    let folder = temp_folder();
    let file = |name: &str| folder.path().join(name);
    let half = file("half.log");
    let text = fs::read_to_string(keys()).unwrap();
    let old = text.lines().find(|line| line.starts_with("CLIENT_RANDOM"));
    fs::write(&half, old.unwrap()).unwrap();
    let (a, b) = (file("a.tape"), file("b.tape"));
    import(&input(), &[&half], &a).succeeds();
    let case = pcaps().join("113-tls-midstream");
    import(&case.join("input.pcap"), &[&case.join("keys.log")], &b).succeeds();
    let (of_a, of_b) = (unread(&a), unread(&b));
    assert_eq!((of_a.len(), of_b.len()), (2, 1));

    let paths = |tape: &Path| -> Vec<Value> {
        let lines = read("ls", tape, &["--format", "json"]).lines();
        lines.iter().map(|line| line["path"].clone()).collect()
    };
    let first = paths(&a)[0].as_str().unwrap().to_owned();
    let filter = format!("request.path == '{first}'");
    let (chosen, cut) = (file("chosen.tape"), file("cut.tape"));
    let args = ["import", "--filter", &filter, "--keylog"].map(OsString::from);
    let more = [
        half.into(),
        input().into(),
        "-o".into(),
        chosen.clone().into(),
    ];
    Tapedeck::new(args.into_iter().chain(more)).succeeds();
    read(
        "cut",
        &a,
        &["--filter", &filter, "-o", cut.to_str().unwrap()],
    );
    for tape in [&chosen, &cut] {
        let left_out = ledger(tape)["exchanges_not_chosen"].as_u64().unwrap();
        assert!(left_out > 0, "{}", tape.display());
        assert_eq!(paths(tape).len() as u64 + left_out, paths(&a).len() as u64);
        assert_eq!(unread(tape), of_a, "{}", tape.display());
    }

    let merged = file("merged.tape");
    let with_b = [b.to_str().unwrap(), "-o", merged.to_str().unwrap()];
    read("merge", &a, &with_b);
    assert_eq!(unread(&merged), [of_a, of_b].concat());
    // Every counter is the sum, the reasons of closed connections among them.
    let (of_a, of_b, both) = (ledger(&a), ledger(&b), ledger(&merged));
    for (name, value) in &both {
        let of = |ledger: &serde_json::Map<String, Value>| ledger.get(name).and_then(Value::as_u64);
        if let Some(sum) = value.as_u64() {
            assert_eq!(
                Some(sum),
                Some(of(&of_a).unwrap_or(0) + of(&of_b).unwrap_or(0)),
                "{name}"
            );
        }
    }
    let reasons = both.iter().filter(|(name, _)| name.starts_with("tls_"));
    let told: u64 = reasons.filter_map(|(_, value)| value.as_u64()).sum();
    assert_eq!(told, 3, "a reason for each that is listed");

    // Of one archive alone, whole blocks are copied: the list comes along there, too.
    let alone = file("alone.tape");
    read("merge", &merged, &["-o", alone.to_str().unwrap()]);
    assert_eq!(unread(&alone), unread(&merged));
    assert_eq!(ledger(&alone), both);
}
