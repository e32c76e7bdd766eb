//! The clients that the golden captures were recorded with, asking again what they asked then.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use regex::Regex;
use serde_json::{Value, json};

use crate::common::{Tapedeck, cases, pcaps, temp_folder};
use crate::{KEYS, Mock, exchanges, has_program, import, python_path};

/// Programs of recorded clients, and what shows that each is there.
const CLIENTS: [(&str, &str); 11] = [
    ("ab", "ab"),
    ("curl", "curl"),
    ("h2load", "h2load"),
    ("hey", "hey"),
    ("java", "java"),
    ("nghttp", "nghttp"),
    ("node", "node"),
    // The client is a module, LWP, which comes with this program.
    ("perl", "lwp-request"),
    ("python3", "python3"),
    ("ruby", "ruby"),
    ("wget", "wget"),
];

/// Cases whose clients ask what was not recorded whole, and so get 501.
const NOT_WHOLE: [&str; 6] = [
    "020-lost-segments",
    "021-snaplen",
    "029-h2-reset",
    "061-h2-lost",
    "113-tls-midstream",
    "114-tls-lost",
];

/// Cases whose clients do not ask the mock, and why.
const LEFT_OUT: [(&str, &str); 12] = [
    (
        "005-expect-continue",
        "the expectation that nobody knows is refused, not matched",
    ),
    (
        "025-hpack",
        "a table of size 0 and then 256, of which the library h2 announces the second only",
    ),
    (
        "031-h2c-upgrade",
        "the mock takes no upgrade to HTTP/2 (RFC 9113 abolished it)",
    ),
    ("032-beside-others", "a mail server and TLS"),
    (
        "037-absolute-form",
        "the proxy is on another port than its target",
    ),
    ("038-connect", "tunnels to whom the mock stands for"),
    (
        "045-port-reuse",
        "its own port may still be taken by its last connection",
    ),
    ("058-ipv6-extensions", "it writes its own IPv6 packets"),
    (
        "065-proxy-protocol",
        "there is no load balancer before the mock",
    ),
    (
        "069-h2-odd",
        "one script is client and server, frame by frame",
    ),
    (
        "100-tls12-suites",
        "CBC and the exchange of keys by RSA, which the mock does not speak",
    ),
    ("101-tls12-mac-then-encrypt", "the same"),
];

/// What is the same whoever asked and whenever: how often it was.
fn gist(exchanges: &[Value]) -> BTreeMap<String, usize> {
    let mut gist = BTreeMap::new();
    for exchange in exchanges {
        let body = &exchange["response"]["body"];
        let told = [
            &exchange["method"],
            &exchange["path"],
            &exchange["status"],
            body,
        ]
        .map(|part| match part.as_object() {
            Some(body) => json!([body.get("text"), body.get("base64")]).to_string(),
            None => part.to_string(),
        });
        *gist.entry(told.join(" ")).or_default() += 1;
    }
    gist
}

/// The commands of clients in a README that can be given again here, and whether that is all of them.
fn commands(case: &Path, port: &str) -> (Vec<String>, bool) {
    let readme = std::fs::read_to_string(case.join("README.md")).unwrap();
    let block = readme.split("```sh\n").nth(1).unwrap_or_default();
    let block = block.split("```").next().unwrap_or_default();
    let url = Regex::new(r"(https?)://(?:[0-9.]+|localhost|\[::1\]):\d+").unwrap();
    let peer = Regex::new(r"(peers/\S+(?: visit)?) (?:80\d\d|3128)\b").unwrap();
    let (mut found, mut all) = (Vec::new(), true);
    for line in block.lines() {
        // The secrets of these connections are nobody's business.
        let line = line.strip_prefix("SSLKEYLOGFILE=keys.log ").unwrap_or(line);
        let program = line.split(' ').next().unwrap_or_default();
        let client = CLIENTS.iter().find(|(name, _)| *name == program);
        let Some((_, shown_by)) = client else {
            continue;
        };
        if line.ends_with('&') || line.contains("rewrite.py") {
            continue;
        }
        // What was sent lay in a file, or is not printed whole.
        if line.contains("$WORK") || line.contains("...") || !has_program(shown_by) {
            all = false;
            continue;
        }
        let line = line.replace(KEYS, "/dev/null");
        let line = url.replace_all(&line, format!("${{1}}://127.0.0.1:{port}"));
        found.push(peer.replace_all(&line, format!("$1 {port}")).into_owned());
    }
    (found, all)
}

/// Asks again what the clients of a case asked, and compares what they got.
fn ask_again(case: &Path, python_path: &str) -> usize {
    let name = case.file_name().unwrap().to_str().unwrap();
    let folder = temp_folder();
    let (tape, received) = (folder.path().join("a.tape"), folder.path().join("in.tape"));
    import(case, &tape);
    let (ca, received_path) = (folder.path().join("ca"), received.to_str().unwrap());
    let mut more = vec!["--received", received_path];
    let readme = std::fs::read_to_string(case.join("README.md")).unwrap();
    if readme.contains(KEYS) {
        let ca = ca.to_str().unwrap();
        Tapedeck::new(["ca", "init", "--dir", ca]).succeeds();
        more.extend(["--ca", ca]);
    }
    let Some(mock) = Mock::with(&tape, &more) else {
        return 0;
    };
    let (commands, all) = commands(case, &mock.port);
    for command in &commands {
        let ran = Command::new("timeout")
            .args(["30", "sh", "-c", command])
            .current_dir(pcaps().join("../record"))
            .env("PYTHONPATH", python_path)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        // 8: wget was told of a redirect that it must not follow.
        let code = ran.status.code();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(
            code == Some(0) || (code == Some(8) && command.contains("max-redirect")),
            "{name}: {command}: {code:?}: {said}"
        );
    }
    let said = mock.stop();
    if commands.is_empty() {
        return 0;
    }
    let (recorded, got) = (gist(&exchanges(&tape)), gist(&exchanges(&received)));
    if NOT_WHOLE.contains(&name) {
        return 0;
    }
    let wrong: Vec<_> = got
        .keys()
        .filter(|key| !recorded.contains_key(*key))
        .collect();
    assert!(
        wrong.is_empty(),
        "{name}: not as recorded: {wrong:#?}\n{said}"
    );
    assert!(
        said.contains(" 0 without a recorded answer, 0 refused"),
        "{name}: {said}"
    );
    // Both sides of a proxy were recorded in some, and what servers pushed in another.
    let one_sided = [
        "044-push",
        "050-proxy-keep-alive",
        "051-varnish",
        "052-caddy",
    ];
    if all && !one_sided.contains(&name) {
        let forgotten: Vec<_> = recorded
            .keys()
            .filter(|key| !got.contains_key(*key))
            .collect();
        assert!(
            forgotten.is_empty(),
            "{name}: not asked for: {forgotten:#?}\n{said}"
        );
    }
    got.values().sum()
}

#[test]
fn the_clients_of_the_golden_captures_get_what_they_got() {
    let Some(python_path) = python_path() else {
        return;
    };
    let required = std::env::var_os("TAPEDECK_REQUIRE_TOOLS").is_some_and(|one| one == "1");
    for (client, shown_by) in CLIENTS {
        let is_there = has_program(shown_by);
        assert!(is_there || !required, "{shown_by} is not installed");
        if !is_there {
            println!("left out: {client}, {shown_by} is not installed");
        }
    }
    let cases: Vec<_> = cases()
        .into_iter()
        .filter(|case| {
            let name = case.file_name().unwrap().to_str().unwrap();
            !LEFT_OUT.iter().any(|(known, _)| *known == name)
        })
        .collect();
    // A client spends most of its time with its own start.
    let asked: usize = thread::scope(|scope| {
        let halves = cases.chunks(cases.len().div_ceil(4));
        let threads: Vec<_> = halves
            .map(|half| {
                let path = &python_path;
                scope.spawn(move || half.iter().map(|case| ask_again(case, path)).sum::<usize>())
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert!(asked >= 200, "only {asked} exchanges were asked for");
}
