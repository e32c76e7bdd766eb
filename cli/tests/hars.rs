//! `tapedeck import` of HARs: those that `tapedeck export har` writes, and those that are none.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Tapedeck, cases, input_of, pcaps, temp_folder};
use serde_json::{Value, json};

#[test]
fn every_case_comes_back_from_its_har() {
    let mut wrong = Vec::new();
    for case in cases() {
        let folder = temp_folder();
        let first = folder.path().join("first.tape");
        run("import", &[&input_of(&case)], &first).run();
        let har = folder.path().join("case.har");
        Tapedeck::new([
            "export".as_ref(),
            "har".as_ref(),
            first.as_os_str(),
            "-o".as_ref(),
            har.as_os_str(),
        ])
        .succeeds();
        let second = folder.path().join("second.tape");
        run("import", &[&har], &second).run();
        // HAR has no entry without a request.
        let before: Vec<Value> = exchanges(&first)
            .iter()
            .filter(|exchange| exchange["method"] != Value::Null)
            .map(told)
            .collect();
        let after: Vec<Value> = exchanges(&second).iter().map(told).collect();
        let (before, after) = (sorted(before), sorted(after));
        if before.len() != after.len() {
            wrong.push(format!("{}: how many", case.display()));
        }
        for (before, mut after) in before.iter().zip(after) {
            // What had a content coding comes back without it.
            if before["response"]["body"].is_null() && !after["response"].is_null() {
                after["response"]["body"].take();
            }
            for (key, value) in before.as_object().unwrap() {
                if *value != after[key] {
                    let short = |value: &Value| value.to_string().chars().take(300).collect();
                    let (was, is): (String, String) = (short(value), short(&after[key]));
                    wrong.push(format!("{}: {key}\n  {was}\n  {is}", case.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a HAR can tell of an exchange.
fn told(exchange: &Value) -> Value {
    // HAR has no time for what was sent while the answer came.
    let (asked, answered) = (&exchange["request"], &exchange["response"]);
    let overlaps = answered["first_byte"]
        .as_str()
        .is_some_and(|first| asked["last_byte"].as_str() > Some(first));
    let side = |name: &str| {
        let message = &exchange[name];
        if message.is_null() {
            return Value::Null;
        }
        let coded = message["headers"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|field| {
                field["name"] == "content-encoding" || field["name"] == "Content-Encoding"
            });
        let body = &message["body"];
        json!({
            "first": message["first_byte"],
            "last": if overlaps && name == "request" {
                &exchange["response"]["first_byte"]
            } else {
                &message["last_byte"]
            },
            "body": if coded || name == "response" && exchange["status"].is_null() {
                Value::Null
            } else {
                json!([body["text"], body["base64"]])
            },
            "trailers": message["trailers"],
            "reset_code": message["reset_code"],
        })
    };
    let mut told = json!({"request": side("request"), "response": side("response")});
    for key in [
        "time",
        "client",
        "server",
        "protocol",
        "method",
        "path",
        "status",
        "complete",
        "request_missing",
        "response_missing",
        "stream",
        "tunnel",
    ] {
        told[key] = exchange[key].clone();
    }
    told
}

#[test]
fn a_har_comes_through_a_pipe_and_is_chosen_from() {
    let folder = temp_folder();
    let first = folder.path().join("first.tape");
    run("import", &[&input_of(&pcaps().join("040-concert"))], &first).succeeds();
    let har = folder.path().join("x.har");
    let args = ["export", "har", "-o"].map(PathBuf::from);
    Tapedeck::new(args.iter().chain([&har, &first])).succeeds();
    let second = folder.path().join("second.tape");
    let piped = Tapedeck::new([
        "import".as_ref(),
        "-".as_ref(),
        "-o".as_ref(),
        second.as_os_str(),
        "--filter".as_ref(),
        "response.status == 409".as_ref(),
    ]);
    piped.input(fs::File::open(&har).unwrap()).succeeds();
    let lines = exchanges(&second);
    assert!(!lines.is_empty() && lines.iter().all(|line| line["status"] == 409));
}

#[test]
fn what_is_no_har_is_said_with_its_place() {
    let folder = temp_folder();
    let tape = folder.path().join("x.tape");
    let file = folder.path().join("x.json");
    let entry = r#"{"startedDateTime": "2026-11-21T03:35:43Z",
        "request": {"method": "GET", "url": "http://h/"}, "response": {"status": 204}}"#;
    for (text, says) in [
        ("{\"a\": 1}".to_owned(), "no log.entries"),
        ("{\"log\": {\"entries\": [{]".to_owned(), "line 1 column 23"),
        (
            format!("{{\"log\": {{\"entries\": [{entry}, {{}}]}}}}"),
            "1 entry was left out: log.entries[1].request.method",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let ran = run("import", &[&file], &tape).fails(1, &[says]);
        assert_eq!(
            ran.stderr.matches(says).count(),
            1,
            "said twice: {}",
            ran.stderr
        );
        drop(fs::remove_file(&tape));
    }
}

#[test]
fn hars_and_captures_do_not_mix() {
    let folder = temp_folder();
    let tape = folder.path().join("x.tape");
    let har = folder.path().join("x.har");
    fs::write(&har, "{\"log\": {\"entries\": []}}").unwrap();
    let capture = input_of(&pcaps().join("001-keep-alive"));
    run("import", &[&capture, &har], &tape).fails(1, &["tapedeck merge"]);
}

fn run(command: &str, inputs: &[&Path], output: &Path) -> Tapedeck {
    let mut args = vec![PathBuf::from(command)];
    args.extend(inputs.iter().map(|input| input.to_path_buf()));
    args.extend(["-o".into(), output.to_path_buf()]);
    Tapedeck::new(args)
}

fn exchanges(tape: &Path) -> Vec<Value> {
    Tapedeck::new(["export".as_ref(), "jsonl".as_ref(), tape.as_os_str()])
        .succeeds()
        .lines()
}

fn sorted(mut exchanges: Vec<Value>) -> Vec<Value> {
    exchanges.sort_by_cached_key(Value::to_string);
    exchanges
}
