//! Every case of `testdata/pcaps`, through the real program, against what is expected of it.
//!
//! The first expectation of a case comes from tshark (`testdata/oracle.py`). `TAPEDECK_BLESS=1`
//! (`cargo xtask golden --bless`) writes what comes out instead of comparing it.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Tapedeck, pcaps, temp_folder};
use serde_json::Value;

/// What is compared. `time` too: it is the packet's. The rest of a line (ids, durations) is ours.
const KEYS: [&str; 12] = [
    "time",
    "client",
    "server",
    "protocol",
    "method",
    "scheme",
    "authority",
    "path",
    "status",
    "request_body_len",
    "response_body_len",
    "complete",
];

#[test]
fn every_case_gives_what_is_expected() {
    let bless = std::env::var_os("TAPEDECK_BLESS").is_some();
    let cases = cases();
    assert!(cases.len() >= 66, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for (case, keys) in cases.iter().flat_map(Case::readings) {
        let found = exchanges(&case.input, keys.as_deref());
        let path = case.folder.join(match keys {
            None => "expected.jsonl",
            Some(_) => "expected-with-keys.jsonl",
        });
        if bless {
            let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
            fs::write(
                &path,
                lines.join("\n") + if lines.is_empty() { "" } else { "\n" },
            )
            .unwrap();
            continue;
        }
        let text = fs::read_to_string(&path).expect("a case says what is expected");
        let mut expected: Vec<Value> = text
            .lines()
            .map(|line| chosen(&serde_json::from_str(line).unwrap()))
            .collect();
        sort(&mut expected);
        if found != expected {
            wrong.push(format!(
                "{}:\n{}",
                path.display(),
                difference(&expected, &found)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases differ:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_case_verifies_and_exports() {
    for case in cases() {
        let folder = temp_folder();
        let tape = folder.path().join("case.tape");
        let har = folder.path().join("case.har");
        Tapedeck::new([
            "import".as_ref(),
            case.input.as_os_str(),
            "-o".as_ref(),
            tape.as_os_str(),
        ])
        .run();
        Tapedeck::new(["verify".as_ref(), tape.as_os_str()]).succeeds();
        let listed = Tapedeck::new([
            "ls".as_ref(),
            tape.as_os_str(),
            "--format".as_ref(),
            "json".as_ref(),
        ])
        .succeeds()
        .lines();
        Tapedeck::new([
            "export".as_ref(),
            "har".as_ref(),
            tape.as_os_str(),
            "-o".as_ref(),
            har.as_os_str(),
        ])
        .succeeds();
        let har: Value = serde_json::from_slice(&fs::read(har).unwrap()).unwrap();
        let asked = listed
            .iter()
            .filter(|line| line["method"] != Value::Null)
            .count();
        assert_eq!(
            har["log"]["entries"].as_array().unwrap().len(),
            asked,
            "{}",
            case.name()
        );
        common::har::assert_valid(&har);
    }
}

#[test]
fn grpc_messages_are_shown_one_by_one_and_decompressed() {
    let folder = temp_folder();
    let tape = folder.path().join("case.tape");
    let input = pcaps().join("053-grpc-kinds/input.pcap");
    Tapedeck::new([
        "import".as_ref(),
        input.as_os_str(),
        "-o".as_ref(),
        tape.as_os_str(),
    ])
    .succeeds();
    let show = |id: &str| {
        Tapedeck::new(["show".as_ref(), tape.as_os_str(), id.as_ref()])
            .succeeds()
            .stdout
    };
    let listed = show("1");
    for number in 0..4 {
        assert!(
            listed.contains(&format!("message {number} at +")),
            "{listed}"
        );
    }
    assert!(listed.contains("balcony 3"), "{listed}");
    let booked = show("6");
    assert_eq!(booked.matches("39 B, compressed").count(), 3, "{booked}");
    // As `protoc --decode_raw` has it.
    assert!(booked.contains("2: \"seat 2 seat 2 "), "{booked}");
    assert!(booked.contains("grpc status 0 OK"), "{booked}");

    // How each call ended: in the list, and for filters.
    let list = |filter: &str| {
        let args = ["ls", "--format", "json", "--filter", filter].map(OsStr::new);
        Tapedeck::new(args.into_iter().chain([tape.as_os_str()]))
            .succeeds()
            .lines()
    };
    let failed = list("response.grpc_status == 8");
    assert_eq!(failed.len(), 3);
    for call in &failed {
        assert_eq!(
            (&call["grpc_status"], &call["path"]),
            (&8.into(), &"/shop.Seats/Swap".into())
        );
    }
    assert_eq!(list("response.grpc_status != 8").len(), 9);
    assert_eq!(list("response.grpc_status != 8 && id < 3").len(), 3);
}

#[test]
fn the_code_of_a_reset_is_told_where_nothing_was_answered() {
    let folder = temp_folder();
    let tape = folder.path().join("case.tape");
    let input = pcaps().join("029-h2-reset/input.pcap");
    let import = [
        "import".as_ref(),
        input.as_os_str(),
        "-o".as_ref(),
        tape.as_os_str(),
    ];
    Tapedeck::new(import).succeeds();
    let shown = Tapedeck::new(["show".as_ref(), tape.as_os_str(), "0".as_ref()]).succeeds();
    assert!(
        shown.stdout.contains("request     whole"),
        "{}",
        shown.stdout
    );
    assert!(
        shown
            .stdout
            .contains("response    not whole: aborted, absent"),
        "{}",
        shown.stdout
    );
    assert!(
        shown.stdout.contains("reset       7 REFUSED_STREAM"),
        "{}",
        shown.stdout
    );
}

#[test]
fn events_and_frames_are_shown_one_by_one_with_their_times() {
    let shown = |case: &str, id: &str| {
        let folder = temp_folder();
        let tape = folder.path().join("case.tape");
        let input = pcaps().join(case).join("input.pcap");
        Tapedeck::new([
            "import".as_ref(),
            input.as_os_str(),
            "-o".as_ref(),
            tape.as_os_str(),
        ])
        .succeeds();
        Tapedeck::new(["show".as_ref(), tape.as_os_str(), id.as_ref()])
            .succeeds()
            .stdout
    };
    let events = shown("055-events", "0");
    assert!(events.contains("event 0 at +"), "{events}");
    let frames = shown("054-websocket-deflate", "0");
    for text in ["frame 0 at +", ": text, ", ", compressed", ": close 1001, "] {
        assert!(frames.contains(text), "{text} in {frames}");
    }
    assert!(!frames.contains("cannot be decompressed"), "{frames}");
}

struct Case {
    folder: PathBuf,
    input: PathBuf,
}

impl Case {
    /// With which key logs it is read: with none, and with its own where it has one.
    fn readings(&self) -> Vec<(&Self, Option<PathBuf>)> {
        let keys = self.folder.join("keys.log");
        let keys = keys.is_file().then_some(keys);
        let with_keys = keys.map(|keys| (self, Some(keys)));
        [(self, None)].into_iter().chain(with_keys).collect()
    }

    fn name(&self) -> String {
        self.folder
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    }
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = fs::read_dir(pcaps())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|folder| Case {
            input: input_of(&folder),
            folder,
        })
        .collect();
    cases.sort_by(|a, b| a.folder.cmp(&b.folder));
    for case in &cases {
        assert!(
            case.folder.join("README.md").is_file(),
            "{} has no README.md",
            case.name()
        );
    }
    cases
}

fn input_of(folder: &Path) -> PathBuf {
    let mut inputs: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("input.pcap")
        })
        .collect();
    assert_eq!(
        inputs.len(),
        1,
        "{} must hold one input.pcap*",
        folder.display()
    );
    inputs.remove(0)
}

/// The exchanges of a capture, in the order of their beginning.
fn exchanges(input: &Path, keys: Option<&Path>) -> Vec<Value> {
    let folder = temp_folder();
    let tape = folder.path().join("case.tape");
    let mut import = vec![
        "import".as_ref(),
        input.as_os_str(),
        "-o".as_ref(),
        tape.as_os_str(),
    ];
    if let Some(keys) = keys {
        import.extend(["--keylog".as_ref(), keys.as_os_str()]);
    }
    Tapedeck::new(import).run();
    let lines = Tapedeck::new([
        "ls".as_ref(),
        tape.as_os_str(),
        "--format".as_ref(),
        "json".as_ref(),
    ])
    .succeeds()
    .lines();
    let mut found: Vec<Value> = lines.iter().map(chosen).collect();
    sort(&mut found);
    found
}

/// By time, which stands first; by everything else where pipelining or HTTP/2 gave several
/// exchanges the same time, because then no order is the right one.
fn sort(exchanges: &mut [Value]) {
    exchanges.sort_by_cached_key(Value::to_string);
}

fn chosen(line: &Value) -> Value {
    KEYS.iter()
        .map(|key| ((*key).to_owned(), line[*key].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn difference(expected: &[Value], found: &[Value]) -> String {
    let mut text = format!("  expected {}, found {}\n", expected.len(), found.len());
    let differing =
        (0..expected.len().max(found.len())).filter(|idx| expected.get(*idx) != found.get(*idx));
    for idx in differing.take(3) {
        for (what, lines) in [("expected", expected), ("found   ", found)] {
            let line = lines
                .get(idx)
                .map_or_else(|| "nothing".to_owned(), ToString::to_string);
            text.push_str(&format!("  [{idx}] {what} {line}\n"));
        }
    }
    text
}
