//! The mock over TLS, as a proxy, and with chaos, with clients of other people.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of these tests are tests"
)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Tapedeck, interrupt, pcaps, temp_folder};
use tempfile::TempDir;

/// A recorded GET that has one answer whoever asks, and its status and length.
const TARGET: &str = "/reservations/available/dates?concertId=2";
const STATUS: &str = "200";

struct Stage {
    folder: TempDir,
    tape: PathBuf,
    ca: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let folder = temp_folder();
        let tape = folder.path().join("concert.tape");
        let ca = folder.path().join("ca");
        let capture = pcaps().join("040-concert/input.pcap");
        Tapedeck::new([
            "import".as_ref(),
            capture.as_os_str(),
            "-o".as_ref(),
            tape.as_os_str(),
        ])
        .succeeds();
        Tapedeck::new([
            "ca".as_ref(),
            "init".as_ref(),
            "--dir".as_ref(),
            ca.as_os_str(),
        ])
        .succeeds();
        Self { folder, tape, ca }
    }

    fn certificate(&self) -> String {
        self.ca.join("ca.pem").to_str().unwrap().to_owned()
    }

    fn mock(&self) -> Mock {
        let ca = self.ca.to_str().unwrap();
        Mock::start(&self.tape, &["--ca", ca])
    }
}

struct Mock {
    child: Child,
    port: String,
}

impl Mock {
    fn start(tape: &Path, more: &[&str]) -> Self {
        let tape = tape.to_str().unwrap();
        let args = ["mock", tape, "--listen", "127.0.0.1:0"];
        let mut child = Tapedeck::new(args.iter().chain(more)).spawn();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let port = line.trim().rsplit(':').next().unwrap().to_owned();
        Self { child, port }
    }

    /// Ends it as ctrl-c would, and gives what it said.
    fn stop(mut self) -> String {
        interrupt(&self.child);
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        self.child.wait().unwrap();
        said
    }
}

/// What curl says: status, version of HTTP, bytes of the body, and its own exit code.
fn curl(args: &[&str]) -> (String, i32) {
    let ran = Command::new("curl")
        .args(["-sS", "-o", "/dev/null", "--max-time", "20"])
        .args(["-w", "%{http_code} %{http_version} %{size_download}"])
        .args(args)
        .env_remove("HTTPS_PROXY")
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .env_remove("https_proxy")
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .stdin(Stdio::null())
        .output()
        .expect("curl runs");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    (said, ran.status.code().unwrap_or(-1))
}

#[test]
fn every_way_to_the_mock_gives_the_same_answer() {
    let stage = Stage::new();
    let mock = stage.mock();
    let port = mock.port.as_str();
    let ca = stage.certificate();
    let plain = format!("http://127.0.0.1:{port}{TARGET}");
    let (expected, _) = curl(&["--http1.1", &plain]);
    assert!(
        expected.starts_with(&format!("{STATUS} 1.1 ")),
        "{expected}"
    );
    let length = expected.rsplit(' ').next().unwrap();
    assert_ne!(length, "0");

    let trust = ["--cacert", &ca, "--proxy-cacert", &ca];
    let by_address = format!("https://127.0.0.1:{port}{TARGET}");
    let by_name = format!("https://127.0.0.1.nip.test:443{TARGET}");
    let to = format!("::127.0.0.1:{port}");
    let proxy = format!("http://127.0.0.1:{port}");
    let tls_proxy = format!("https://127.0.0.1:{port}");
    let elsewhere = format!("https://192.0.2.7{TARGET}");
    let recorded = format!("http://127.0.0.1:8080{TARGET}");
    let ways: &[(&str, &[&str])] = &[
        ("an address", &[&by_address]),
        ("a name", &["--connect-to", &to, &by_name]),
        ("proxy, plain", &["-x", &proxy, &recorded]),
        ("proxy, tunnel, name", &["-x", &proxy, &by_name]),
        ("proxy, tunnel, address", &["-x", &proxy, &elsewhere]),
        ("proxy, tunnel, no TLS", &["-p", "-x", &proxy, &recorded]),
        ("TLS to the proxy, TLS in it", &["-x", &tls_proxy, &by_name]),
    ];
    for (what, way) in ways {
        let args: Vec<&str> = trust.iter().chain(*way).copied().collect();
        let (said, code) = curl(&[&["--http1.1"], args.as_slice()].concat());
        assert_eq!((said.as_str(), code), (expected.as_str(), 0), "{what}");
        if way.last().is_some_and(|url| url.starts_with("https")) {
            let (said, code) = curl(&[&["--http2"], args.as_slice()].concat());
            let http2 = format!("{STATUS} 2 {length}");
            assert_eq!((said, code), (http2, 0), "{what}");
        }
    }
    // TLS 1.2 as well.
    let (said, _) = curl(&[
        "--cacert",
        &ca,
        "--tls-max",
        "1.2",
        "--http1.1",
        &by_address,
    ]);
    assert_eq!(said, expected);
    let said = mock.stop();
    assert!(
        said.contains("0 without a recorded answer, 0 refused"),
        "{said}"
    );
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn a_script_steers_the_mock_through_its_control_port() {
    let stage = Stage::new();
    let tape = stage.tape.to_str().unwrap();
    let mut child = Tapedeck::new([
        "mock",
        tape,
        "--listen",
        "127.0.0.1:0",
        "--control",
        "127.0.0.1:0",
        "--verify",
    ])
    .spawn();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let mut ports = stdout.lines().map(|line| {
        let line = line.unwrap();
        line.split_once("http://").unwrap().1.to_owned()
    });
    let (mock, control) = (ports.next().unwrap(), ports.next().unwrap());
    assert!(
        curl(&[&format!("http://{mock}{TARGET}")])
            .0
            .starts_with(STATUS)
    );
    let said = Command::new("curl")
        .args(["-sS", "--max-time", "20"])
        .arg(format!("http://{control}/status"))
        .output()
        .unwrap();
    let status: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&status["hits"], &status["misses"]), (&1.into(), &0.into()));
    let (said, _) = curl(&["-X", "POST", &format!("http://{control}/shutdown")]);
    assert!(said.starts_with("202 "), "{said}");
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    // Most of the recording was not asked for, and `--verify` wants all of it.
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(
        said.contains("recorded exchanges were never asked for"),
        "{said}"
    );
    assert!(said.contains("never asked for: POST /auth/token"), "{said}");
}

#[test]
fn a_client_certificate_is_asked_for_and_taken() {
    let stage = Stage::new();
    let mock = stage.mock();
    // Any will do, that of the authority, too.
    let (certificate, key) = (stage.certificate(), stage.ca.join("ca.key"));
    let url = format!("https://127.0.0.1:{}{TARGET}", mock.port);
    let (said, code) = curl(&[
        "--cacert",
        &certificate,
        "--cert",
        &certificate,
        "--key",
        key.to_str().unwrap(),
        &url,
    ]);
    assert!(said.starts_with(STATUS), "{said}");
    assert_eq!(code, 0);
    mock.stop();
}

#[test]
fn clients_that_do_not_trust_are_named_with_the_remedy() {
    let stage = Stage::new();
    let mock = stage.mock();
    let url = format!("https://127.0.0.1:{}{TARGET}", mock.port);
    let (_, code) = curl(&[&url]);
    assert_eq!(
        code, 60,
        "curl: the peer's certificate cannot be authenticated"
    );
    let said = mock.stop();
    assert!(said.contains("1 TLS handshakes failed"), "{said}");
    assert!(said.contains("tapedeck ca trust"), "{said}");
}

#[test]
fn without_an_authority_tls_gets_an_alert_and_advice() {
    let stage = Stage::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tapedeck"));
    let home = stage.folder.path().to_str().unwrap();
    let args = ["mock", stage.tape.to_str().unwrap(), "--listen"];
    let mut child = child
        .args(args)
        .arg("127.0.0.1:0")
        .env("XDG_DATA_HOME", home)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let port = line.trim().rsplit(':').next().unwrap().to_owned();
    let mock = Mock { child, port };
    let (_, code) = curl(&["-k", &format!("https://127.0.0.1:{}/", mock.port)]);
    assert_eq!(code, 35, "curl: the TLS handshake failed");
    let said = mock.stop();
    assert!(said.contains("tapedeck ca init"), "{said}");
}

#[test]
fn the_key_is_for_its_owner_only_and_nothing_is_replaced_unasked() {
    let folder = temp_folder();
    let ca = folder.path().join("deep/ca");
    let init = ["ca", "init", "--dir", ca.to_str().unwrap()];
    let said = Tapedeck::new(init).succeeds().stdout;
    for client in ["curl", "Node", "Java", "Go", "Python"] {
        assert!(
            said.contains(client),
            "no instructions for {client}: {said}"
        );
    }
    let mode = |name: &str| {
        let metadata = std::fs::metadata(ca.join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!((mode("ca.key"), mode("ca.pem")), (0o600, 0o644));
    let before = std::fs::read(ca.join("ca.key")).unwrap();
    Tapedeck::new(init).fails(1, &["has a certificate authority already", "--force"]);
    assert_eq!(std::fs::read(ca.join("ca.key")).unwrap(), before);
    Tapedeck::new(init.iter().chain(&["--force"])).succeeds();
    assert_ne!(std::fs::read(ca.join("ca.key")).unwrap(), before);
}

#[test]
fn a_broken_authority_is_said_before_the_port_is_opened() {
    let stage = Stage::new();
    let mock = |says: &[&str]| {
        let ca = stage.ca.to_str().unwrap();
        let tape = stage.tape.to_str().unwrap();
        let args = ["mock", tape, "--listen", "127.0.0.1:0", "--ca", ca];
        Tapedeck::new(args).fails(1, says);
    };
    let (certificate, key) = (stage.ca.join("ca.pem"), stage.ca.join("ca.key"));
    let good = std::fs::read(&certificate).unwrap();
    std::fs::write(&certificate, "hello").unwrap();
    mock(&["no certificate in PEM"]);
    std::fs::remove_file(&certificate).unwrap();
    mock(&["holds no certificate authority", "tapedeck ca init"]);
    std::fs::write(&certificate, good).unwrap();
    let other = temp_folder();
    let dir = other.path().to_str().unwrap();
    Tapedeck::new(["ca", "init", "--dir", dir]).succeeds();
    std::fs::copy(other.path().join("ca.key"), &key).unwrap();
    mock(&["does not belong to the certificate"]);
    std::fs::write(&key, "hello").unwrap();
    mock(&["no private key in PEM"]);
}

/// A mock with that chaos, and the file of its log.
fn chaotic(stage: &Stage, text: &str) -> (Mock, PathBuf) {
    let (file, log) = (
        stage.folder.path().join("chaos.yaml"),
        stage.folder.path().join("log"),
    );
    std::fs::write(&file, text).unwrap();
    let [ca, file, log_name] = [&stage.ca, &file, &log].map(|path| path.to_str().unwrap());
    let more = ["--ca", ca, "--chaos", file, "--chaos-log", log_name];
    (Mock::start(&stage.tape, &more), log)
}

#[test]
fn tls_faults_are_what_they_say_to_openssl() {
    let stage = Stage::new();
    let url = |mock: &Mock| format!("https://127.0.0.1:{}{TARGET}", mock.port);
    let certificate = stage.certificate();
    let ask = |mock: &Mock| {
        let ran = Command::new("curl")
            .args([
                "-sS",
                "-o",
                "/dev/null",
                "--cacert",
                &certificate,
                &url(mock),
            ])
            .output()
            .unwrap();
        String::from_utf8_lossy(&ran.stderr).into_owned()
    };
    let (mock, log) = chaotic(&stage, "faults: [{name: a, tlsAlert: unrecognized_name}]");
    let said = ask(&mock);
    assert!(said.contains("unrecognized name"), "{said}");
    assert!(mock.stop().contains("fault a: 1 times"));
    let log = std::fs::read_to_string(log).unwrap();
    assert!(
        log.contains(r#""fault":"a","exchange":null,"nth":0,"what":"TLS alert 112""#),
        "{log}"
    );

    let (mock, _) = chaotic(&stage, "faults: [{name: b, expiredCertificate: true}]");
    let said = ask(&mock);
    assert!(said.contains("expired"), "{said}");
    mock.stop();
}

#[test]
fn filters_choose_among_recorded_exchanges() {
    let stage = Stage::new();
    let text =
        "faults: [{name: dates, when: 'request.path.contains(\"dates\")', answer: {status: 503}}]";
    let (mock, log) = chaotic(&stage, text);
    let status = |target: &str| {
        let url = format!("http://127.0.0.1:{}{target}", mock.port);
        curl(&["--http1.1", &url])
            .0
            .split(' ')
            .next()
            .map(str::to_owned)
    };
    assert_eq!(status(TARGET).as_deref(), Some("503"));
    let other = "/reservations/available/seat?date=2026-12-29&concertId=2";
    assert_eq!(status(other).as_deref(), Some("200"));
    assert!(mock.stop().contains("fault dates: 1 times"));
    assert_eq!(std::fs::read_to_string(log).unwrap().lines().count(), 1);
}

#[test]
fn rules_let_through_what_differs_in_every_request() {
    let stage = Stage::new();
    let tape = stage.tape.to_str().unwrap();
    let file = stage.folder.path().join("rules.yaml");
    let text = "rules:\n  - request: GET /reservations/available/dates\n    query: {ts: ignore}\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    for (more, expected) in [(&["--rules", file][..], STATUS), (&[], "501")] {
        let mock = Mock::start(&stage.tape, more);
        let (said, _) = curl(&[&format!("http://127.0.0.1:{}{TARGET}&ts=12345", mock.port)]);
        assert!(said.starts_with(expected), "{said}");
        mock.stop();
    }
    let wrong = stage.folder.path().join("wrong.yaml");
    std::fs::write(&wrong, "rules:\n  - request: pay\n").unwrap();
    Tapedeck::new(["mock", tape, "--rules", wrong.to_str().unwrap()]).fails(
        2,
        &["wrong.yaml", "line 2, column", "no pattern of requests"],
    );
    // What is proposed is a rules file.
    let proposed = Tapedeck::new(["mock", tape, "--suggest"]).succeeds().stdout;
    std::fs::write(file, proposed).unwrap();
    let mock = Mock::start(&stage.tape, &["--rules", file]);
    let (said, _) = curl(&[&format!("http://127.0.0.1:{}{TARGET}", mock.port)]);
    assert!(said.starts_with(STATUS), "{said}");
    mock.stop();
}

#[test]
fn mistakes_in_a_chaos_file_are_said_with_their_place() {
    let stage = Stage::new();
    let file = stage.folder.path().join("chaos.yaml");
    std::fs::write(&file, "faults:\n  - {name: x, probability: 2, reset: {}}\n").unwrap();
    let [tape, file] = [&stage.tape, &file].map(|path| path.to_str().unwrap());
    Tapedeck::new(["mock", tape, "--listen", "127.0.0.1:0", "--chaos", file])
        .fails(2, &["chaos.yaml", "line 2, column", "between 0 and 1"]);
    Tapedeck::new(["mock", tape, "--chaos", "/nowhere/chaos.yaml"])
        .fails(2, &["/nowhere/chaos.yaml"]);
}

/// The lines of `tapedeck ls --format json`.
fn listed(tape: &Path) -> Vec<serde_json::Value> {
    let ran = Tapedeck::new([
        "ls".as_ref(),
        tape.as_os_str(),
        "--format".as_ref(),
        "json".as_ref(),
    ])
    .succeeds();
    let lines = ran.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn misses_are_recorded_from_the_real_upstream_and_everything_received_is_kept() {
    let stage = Stage::new();
    let real = Mock::start(&stage.tape, &[]);
    let (recorded, received) = (
        stage.folder.path().join("new.tape"),
        stage.folder.path().join("received.tape"),
    );
    let upstream = format!("http://127.0.0.1:{}", real.port);
    // This one knows nothing of what the test asks for.
    let mock = Mock::start(
        &stage.tape,
        &[
            "--filter",
            "request.method == 'POST'",
            "--on-miss",
            "record",
            "--upstream",
            &upstream,
            "--record",
            recorded.to_str().unwrap(),
            "--received",
            received.to_str().unwrap(),
        ],
    );
    let url = format!("http://127.0.0.1:{}{TARGET}", mock.port);
    let (first, _) = curl(&[&url]);
    let (unknown, _) = curl(&[&format!("http://127.0.0.1:{}/nowhere", mock.port)]);
    assert!(first.starts_with(STATUS), "{first}");
    assert!(unknown.starts_with("501"), "{unknown}");
    let said = mock.stop();
    assert!(said.contains("2 of those without were passed on"), "{said}");
    assert!(
        said.contains(&format!("2 exchanges in {}", recorded.display())),
        "{said}"
    );
    real.stop();

    for tape in [&recorded, &received] {
        let rows = listed(tape);
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert_eq!(rows[0]["path"], TARGET);
        assert_eq!(rows[0]["status"], 200);
        Tapedeck::new(["verify".as_ref(), tape.as_os_str()]).succeeds();
    }
    let shown = Tapedeck::new(["show".as_ref(), received.as_os_str(), "0".as_ref()]).succeeds();
    assert!(shown.stdout.contains("user-agent: curl") || shown.stdout.contains("User-Agent: curl"));

    // The next test needs the upstream no more, and what came can be sent again.
    let alone = Mock::start(&recorded, &[]);
    let (again, _) = curl(&[&format!("http://127.0.0.1:{}{TARGET}", alone.port)]);
    assert_eq!(again, first);
    let target = format!("http://127.0.0.1:{}", alone.port);
    Tapedeck::new([
        "replay".as_ref(),
        received.as_os_str(),
        "--target".as_ref(),
        target.as_ref(),
        "--speed".as_ref(),
        "max".as_ref(),
    ])
    .succeeds();
    let said = alone.stop();
    assert!(
        said.contains("3 answered from the recording, 0 without"),
        "{said}"
    );
}

/// What the mock says while its upstream is down is no recording of the upstream: the next mock would serve it for good.
#[test]
fn an_upstream_that_is_down_is_not_recorded() {
    let stage = Stage::new();
    let [recorded, received] =
        ["new.tape", "received.tape"].map(|name| stage.folder.path().join(name));
    // Nobody listens there.
    let more = [
        "--on-miss",
        "record",
        "--upstream",
        "http://127.0.0.1:1",
        "--record",
    ];
    let files = [
        recorded.to_str().unwrap(),
        "--received",
        received.to_str().unwrap(),
    ];
    let mock = Mock::start(&stage.tape, &[&more[..], &files].concat());
    let url = format!("http://127.0.0.1:{}/nowhere", mock.port);
    assert!(curl(&[&url]).0.starts_with("502"));
    assert!(
        curl(&["--http2-prior-knowledge", &url])
            .0
            .starts_with("502")
    );
    mock.stop();
    assert_eq!(listed(&recorded).len(), 0);
    let statuses: Vec<_> = listed(&received)
        .iter()
        .map(|row| row["status"].clone())
        .collect();
    assert_eq!(statuses, [502, 502]);
}

#[test]
fn a_miss_fails_a_strict_run_and_is_told_with_its_rule() {
    let stage = Stage::new();
    for (more, code) in [(&["--strict"][..], 1), (&[], 0)] {
        let mut mock = Mock::start(&stage.tape, more);
        for ts in [1, 2] {
            let url = format!("http://127.0.0.1:{}{TARGET}&ts={ts}", mock.port);
            assert!(curl(&[&url]).0.starts_with("501 "));
        }
        interrupt(&mock.child);
        let mut said = String::new();
        mock.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(mock.child.wait().unwrap().code(), Some(code), "{said}");
        assert!(said.contains("2 without a recorded answer"), "{said}");
        // Both by one rule.
        let rule = "  - request: \"GET /reservations/available/dates\"\n    query:\n      \"ts\": ignore\n    # 2 requests\n";
        assert!(said.contains(rule), "{said}");
    }
}

#[test]
fn what_a_service_asked_is_compared_with_the_recording() {
    let stage = Stage::new();
    let received = stage.folder.path().join("received.tape");
    let mock = Mock::start(&stage.tape, &["--received", received.to_str().unwrap()]);
    let url = |target: &str| format!("http://127.0.0.1:{}{target}", mock.port);
    curl(&[&url(TARGET)]);
    curl(&[&url(
        "/reservations/available/seat?date=2026-12-30&concertId=2",
    )]);
    curl(&[&url("/new")]);
    mock.stop();
    let [tape, received] = [&stage.tape, &received].map(|path| path.to_str().unwrap());
    let chosen = "request.path.startsWith('/reservations/available/') || request.path == '/new'";
    let diff = ["diff", tape, received, "--filter", chosen];
    let told = Tapedeck::new(diff).fails(1, &["rules:"]).stdout;
    assert!(told.contains("added    GET /new (received 2)"), "{told}");
    assert!(told.contains("query.date: recorded 2026-12-"), "{told}");
    let json = Tapedeck::new(diff.iter().chain(&["--format", "json"])).run();
    assert_eq!(json.code, 1);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["totals"]["same"], 1);
    assert_eq!(json["totals"]["added"], 1);
    assert_eq!(json["changed"][0]["received"]["id"], 1);
    assert_eq!(
        json["missing"].as_array().unwrap().len(),
        json["totals"]["missing"]
    );

    // With the rule that it tells, only what is new is left of what was received.
    let rules = stage.folder.path().join("rules.yaml");
    let text = format!("rules:\n{}", json["rules"][0]["rule"].as_str().unwrap());
    std::fs::write(&rules, text).unwrap();
    let with_rules = ["--rules", rules.to_str().unwrap(), "--format", "json"];
    let json = Tapedeck::new(diff.iter().chain(&with_rules)).run().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["totals"]["same"], &json["totals"]["changed"]),
        (&2.into(), &0.into())
    );

    let same = Tapedeck::new(["diff", tape, tape]).succeeds().stdout;
    assert!(
        same.ends_with(" the same, 0 changed, 0 missing, 0 added\n"),
        "{same}"
    );
    Tapedeck::new(["diff", tape, "/nowhere.tape"]).fails(1, &["/nowhere.tape"]);
    std::fs::write(&rules, "rules: 7").unwrap();
    Tapedeck::new(["diff", tape, received, "--rules", rules.to_str().unwrap()])
        .fails(2, &["in the rules file", "rules.yaml"]);
}

#[test]
fn a_killed_mock_leaves_what_it_received() {
    let stage = Stage::new();
    let received = stage.folder.path().join("received.tape");
    let mut mock = Mock::start(&stage.tape, &["--received", received.to_str().unwrap()]);
    let url = format!("http://127.0.0.1:{}{TARGET}", mock.port);
    curl(&[&url]);
    // It is on the disk a second later: `recover` says when.
    let out = stage.folder.path().join("recovered.tape");
    let hidden = stage.folder.path().join(".received.tape.partial");
    let before = std::fs::metadata(&hidden).unwrap().len();
    while std::fs::metadata(&hidden).unwrap().len() <= before {
        std::thread::yield_now();
    }
    mock.child.kill().unwrap();
    mock.child.wait().unwrap();
    assert!(!received.exists());
    Tapedeck::new([
        "recover".as_ref(),
        hidden.as_os_str(),
        "-o".as_ref(),
        out.as_os_str(),
    ])
    .run();
    assert_eq!(listed(&out).len(), 1);
}

#[test]
fn what_means_nothing_together_is_said() {
    let stage = Stage::new();
    let tape = stage.tape.to_str().unwrap();
    for (args, why) in [
        (
            &["--upstream", "http://a"][..],
            "--upstream needs --on-miss",
        ),
        (&["--on-miss", "record"], "needs --record OUT.tape"),
        (&["--record", "x.tape"], "--record needs --on-miss record"),
        (
            &["--on-miss", "passthrough", "--upstream", "nothing"],
            "expected a URL, such as",
        ),
    ] {
        let ran = Tapedeck::new(["mock", tape].iter().chain(args)).run();
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(why), "{args:?}: {}", ran.stderr);
    }
}
