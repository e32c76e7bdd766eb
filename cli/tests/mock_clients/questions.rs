//! Clients that ask for everything in a recording.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::{Value, json};

use crate::common::{has, pcaps, temp_folder};
use crate::{Mock, exchanges, import, python_path};

/// What a client of a few lines is told to ask, and what it prints of the answers.
const REQUESTS: &str = r#"
import base64, hashlib, json, sys
port, kind = sys.argv[1:]
if kind == "requests":
    import requests
    session = requests.Session()
    ask = lambda q: session.request(q["method"], q["url"], headers=q["headers"], data=q["body"], allow_redirects=False)
else:
    import httpx
    client = httpx.Client(http1=kind == "http1", http2=kind == "http2")
    ask = lambda q: client.request(q["method"], q["url"], headers=q["headers"], content=q["body"])
for line in sys.stdin:
    q = json.loads(line)
    q["url"] = f"http://127.0.0.1:{port}{q['path']}"
    q["body"] = base64.b64decode(q["body"]) or None
    answer = ask(q)
    print(answer.status_code, hashlib.sha256(answer.content).hexdigest())
"#;

const FETCH: &str = r#"
const { createHash } = require('node:crypto');
const [port] = process.argv.slice(1);
const lines = require('node:fs').readFileSync(0, 'utf8').trim().split('\n');
(async () => {
  for (const line of lines) {
    const q = JSON.parse(line);
    const body = Buffer.from(q.body, 'base64');
    const answer = await fetch(`http://127.0.0.1:${port}${q.path}`, {
      method: q.method, headers: q.headers, redirect: 'manual', body: body.length ? body : undefined,
    });
    const content = Buffer.from(await answer.arrayBuffer());
    console.log(answer.status, createHash('sha256').update(content).digest('hex'));
  }
})();
"#;

/// One line for each exchange: what to ask, and what is to come of it.
fn questions(exchanges: &[Value]) -> (String, Vec<String>) {
    use base64::Engine as _;
    let bytes = |body: &Value| match body["text"].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => base64::engine::general_purpose::STANDARD
            .decode(body["base64"].as_str().unwrap_or_default())
            .unwrap(),
    };
    let (mut asked, mut expected) = (String::new(), Vec::new());
    for exchange in exchanges {
        let compared = ["content-type", "authorization", "cookie"];
        let headers: serde_json::Map<String, Value> = exchange["request"]["headers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|field| {
                let name = field["name"].as_str()?.to_lowercase();
                compared
                    .contains(&name.as_str())
                    .then(|| (name, field["value"].clone()))
            })
            .collect();
        let body = bytes(&exchange["request"]["body"]);
        let body = base64::engine::general_purpose::STANDARD.encode(body);
        let question = json!({
            "method": exchange["method"],
            "path": exchange["path"],
            "headers": headers,
            "body": body,
        });
        asked.push_str(&format!("{question}\n"));
        let digest = openssl_sha256(&bytes(&exchange["response"]["body"]));
        expected.push(format!("{} {digest}", exchange["status"]));
    }
    (asked, expected)
}

fn openssl_sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn requests_httpx_and_fetch_read_everything_as_it_was_recorded() {
    let Some(python_path) = python_path() else {
        return;
    };
    if !has("node") {
        return;
    }
    let clients: [(&str, &[&str]); 4] = [
        ("requests", &["python3", "-c", REQUESTS]),
        ("http1", &["python3", "-c", REQUESTS]),
        ("http2", &["python3", "-c", REQUESTS]),
        ("fetch", &["node", "-e", FETCH, "--"]),
    ];
    for case in [
        "001-keep-alive",
        "036-statuses",
        "040-concert",
        "057-scripts",
    ] {
        let folder = temp_folder();
        let tape = folder.path().join("a.tape");
        import(&pcaps().join(case), &tape);
        // What these clients cannot say: other targets than paths, bodies of GET.
        let all: Vec<_> = exchanges(&tape)
            .into_iter()
            .filter(|exchange| {
                let path = exchange["path"].as_str().unwrap_or_default();
                let coded = exchange["response"]["headers"].to_string().to_lowercase();
                path.starts_with('/') && !coded.contains("content-encoding")
            })
            .take(100)
            .collect();
        let (asked, expected) = questions(&all);
        for (kind, command) in clients {
            let mock = Mock::with(&tape, &[]).unwrap();
            let mut child = Command::new(command[0])
                .args(&command[1..])
                .args([&mock.port, kind])
                .env("PYTHONPATH", &python_path)
                .env("NO_PROXY", "*")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let asked = asked.clone();
            let feed = thread::spawn(move || stdin.write_all(asked.as_bytes()));
            let ran = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&ran.stderr).into_owned();
            assert!(ran.status.success(), "{case}, {kind}: {said}");
            feed.join().unwrap().unwrap();
            let got: Vec<_> = String::from_utf8_lossy(&ran.stdout)
                .lines()
                .map(str::to_owned)
                .collect();
            assert_eq!(got, expected, "{case}, {kind}");
            mock.stop();
        }
    }
}
