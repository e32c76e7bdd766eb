//! The mock and the clients of other people: those that the golden captures were recorded with, asking
//! again what they asked then, and others that ask for everything in some of them.
//!
//! A client that is not installed is left out with a message, unless `TAPEDECK_REQUIRE_TOOLS` is 1.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of these tests are tests"
)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{Tapedeck, cases, has, input_of, pcaps, temp_folder};
use regex::Regex;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where `cargo xtask test` puts modules of Python.
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools");

/// Programs of recorded clients.
const CLIENTS: [&str; 11] = [
    "ab", "curl", "h2load", "hey", "java", "nghttp", "node", "perl", "python3", "ruby", "wget",
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

/// The secrets of a case's TLS connections.
const KEYS: &str = "keys.log";

struct Mock {
    child: Child,
    port: String,
}

impl Mock {
    /// `None`: nothing of the archive can be served.
    fn with(tape: &Path, more: &[&str]) -> Option<Self> {
        let mut args = vec!["mock", tape.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        args.extend(more);
        let mut child = Tapedeck::new(&args).spawn();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        if line.is_empty() {
            child.wait().unwrap();
            return None;
        }
        let port = line.trim().rsplit(':').next().unwrap().to_owned();
        Some(Self { child, port })
    }

    /// Ends it as ctrl-c would, and gives what it said.
    fn stop(mut self) -> String {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &pid])
                .status()
                .unwrap()
                .success()
        );
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        self.child.wait().unwrap();
        said
    }
}

fn import(case: &Path, tape: &Path) {
    let (input, keys) = (input_of(case), case.join(KEYS));
    let mut args = vec![
        "import".as_ref(),
        input.as_os_str(),
        "-o".as_ref(),
        tape.as_os_str(),
    ];
    if keys.exists() {
        args.extend(["--keylog".as_ref(), keys.as_os_str()]);
    }
    Tapedeck::new(args).run();
}

/// The exchanges of an archive that are whole.
fn exchanges(tape: &Path) -> Vec<Value> {
    let ran = Tapedeck::new(["export".as_ref(), "jsonl".as_ref(), tape.as_os_str()]).succeeds();
    let lines = ran.stdout.lines();
    let all = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|exchange| exchange["complete"] == true && exchange["tunnel"] == false)
        .collect()
}

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
        let is_client = CLIENTS.contains(&program) && !line.ends_with('&');
        if !is_client || line.contains("rewrite.py") {
            continue;
        }
        // What was sent lay in a file, or is not printed whole.
        if line.contains("$WORK") || line.contains("...") || !has_program(program) {
            all = false;
            continue;
        }
        let line = line.replace(KEYS, "/dev/null");
        let line = url.replace_all(&line, format!("${{1}}://127.0.0.1:{port}"));
        found.push(peer.replace_all(&line, format!("$1 {port}")).into_owned());
    }
    (found, all)
}

fn has_program(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Modules of Python that are installed beside it; empty where one that is needed is not.
fn python_path() -> Option<String> {
    let needed = [
        ("grpc", "grpc"),
        ("clients", "websockets"),
        ("clients", "httpx"),
    ];
    let missing = needed
        .iter()
        .find(|(folder, module)| !Path::new(TOOLS).join(folder).join(module).is_dir());
    if let Some((_, module)) = missing {
        let required = std::env::var_os("TAPEDECK_REQUIRE_TOOLS").is_some_and(|one| one == "1");
        assert!(!required, "{module} for Python is not installed");
        #[expect(clippy::print_stdout, reason = "a test says why it is skipped")]
        {
            println!("skipped: {module} for Python is not installed");
        }
        return None;
    }
    Some(format!("{TOOLS}/grpc:{TOOLS}/clients"))
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

#[test]
fn events_come_one_by_one_at_their_recorded_times() {
    let folder = temp_folder();
    let tape = folder.path().join("a.tape");
    import(&pcaps().join("055-events"), &tape);
    let all = exchanges(&tape);
    let arrivals = all[0]["response"]["body"]["arrivals"]
        .as_array()
        .unwrap()
        .len();
    assert!(arrivals > 1, "the recording has no pauses");
    let path = all[0]["path"].as_str().unwrap();
    let tape = tape.to_str().unwrap();
    let args = [
        "mock",
        tape,
        "--listen",
        "127.0.0.1:0",
        "--latency",
        "recorded",
    ];
    let mut child = Tapedeck::new(args).spawn();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let port = line.trim().rsplit(':').next().unwrap();
    let begun = std::time::Instant::now();
    let mut curl = Command::new("curl")
        .args([
            "-sSN",
            "--max-time",
            "30",
            &format!("http://127.0.0.1:{port}{path}"),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut times = Vec::new();
    for line in BufReader::new(curl.stdout.take().unwrap()).lines() {
        if line.unwrap().starts_with("data:") {
            times.push(begun.elapsed());
        }
    }
    assert!(curl.wait().unwrap().success());
    child.kill().unwrap();
    child.wait().unwrap();
    // No event may come before its time; how long after it depends on the machine.
    let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let asked = time(&all[0]["request"]["last_byte"]);
    let body = &all[0]["response"]["body"];
    let pieces = body["arrivals"].as_array().unwrap();
    let begins = body["text"].as_str().unwrap().match_indices("data:");
    let due: Vec<_> = begins
        .map(|(at, _)| {
            let piece = pieces
                .iter()
                .rfind(|piece| piece["offset"].as_u64() <= Some(at as u64));
            time(&piece.unwrap()["at"])
                .duration_since(asked)
                .unsigned_abs()
        })
        .collect();
    assert_eq!(times.len(), due.len());
    for (came, due) in times.iter().zip(&due) {
        assert!(*came >= due.mul_f64(0.98), "{times:?}, due {due:?}");
    }
    let (first, last) = (times[0], times[times.len() - 1]);
    assert!(due[due.len() - 1] > Duration::from_millis(100), "{due:?}");
    assert!(
        last - first > Duration::from_millis(1),
        "{times:?}: all at once"
    );
}

/// A service of gRPC and one of WebSocket, which take turns with their clients, and the clients. Each prints
/// what it hears, and after how many milliseconds. The service pauses where its client is to notice.
const TURNS: &str = r#"
import asyncio, queue, sys, time
kind, role, port = sys.argv[1:]
PAUSE = 0.15

def tell(began, word):
    print(f"{(time.monotonic() - began) * 1000:.1f} {word}", flush=True)

if kind == "grpc":
    import grpc
    from concurrent import futures
    class Handlers(grpc.GenericRpcHandler):
        def service(self, details):
            return {
                "/shop.Talk/Chat": grpc.stream_stream_rpc_method_handler(self.chat),
                "/shop.Talk/Count": grpc.unary_stream_rpc_method_handler(self.count),
            }.get(details.method)
        def chat(self, words, context):
            for word in words:
                time.sleep(PAUSE)
                yield word.upper()
            context.set_trailing_metadata((("x-said", "bye"),))
        def count(self, word, context):
            for n in range(3):
                time.sleep(PAUSE)
                yield word + str(n).encode()
    if role == "serve":
        server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(Handlers(),))
        print(server.add_insecure_port("127.0.0.1:0"), flush=True)
        server.start()
        server.wait_for_termination()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        asked = queue.Queue()
        began = time.monotonic()
        call = channel.stream_stream("/shop.Talk/Chat")(iter(asked.get, None), timeout=60)
        for word in (b"one", b"two", b"three"):
            asked.put(word)
            tell(began, next(call).decode())
        asked.put(None)
        assert list(call) == []
        tell(began, f"{call.code().name} {dict(call.trailing_metadata())['x-said']}")
        began = time.monotonic()
        for answer in channel.unary_stream("/shop.Talk/Count")(b"n", timeout=60):
            tell(began, answer.decode())
else:
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve
    async def chat(socket):
        await socket.send("welcome")
        async for word in socket:
            await asyncio.sleep(PAUSE)
            await socket.send(word.upper())
    async def server():
        async with serve(chat, "127.0.0.1", 0) as listening:
            print(listening.sockets[0].getsockname()[1], flush=True)
            await asyncio.get_running_loop().create_future()
    async def client():
        async with connect(f"ws://127.0.0.1:{port}/chat", compression=None, open_timeout=60) as socket:
            began = time.monotonic()
            tell(began, await socket.recv())
            for word in ("one", "two"):
                await socket.send(word)
                tell(began, await socket.recv())
    asyncio.run(server() if role == "serve" else client())
"#;

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn turns(kind: &str, role: &str, port: &str, python_path: &str) -> Command {
    let mut command = Command::new("python3");
    command
        .args(["-c", TURNS, kind, role, port])
        .env("PYTHONPATH", python_path)
        .env("NO_PROXY", "*")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// What a client heard, and when.
fn heard(kind: &str, port: &str, python_path: &str) -> Vec<(f64, String)> {
    let mut client = turns(kind, "visit", port, python_path);
    let ran = client.stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{kind}: {said}");
    let lines = String::from_utf8(ran.stdout).unwrap();
    let lines = lines.lines().map(|line| {
        let (time, word) = line.split_once(' ').unwrap();
        (time.parse().unwrap(), word.to_owned())
    });
    lines.collect()
}

/// A client that waits for answers is heard by the real service through the mock, which writes down what
/// they say; and then it gets the same from the recording, no sooner than the service had said it.
#[test]
fn clients_that_take_turns_reach_their_service_and_then_its_recording() {
    let Some(python_path) = python_path() else {
        return;
    };
    for (kind, scheme) in [("grpc", "h2c"), ("websocket", "http")] {
        let folder = temp_folder();
        let (known, recorded) = (folder.path().join("a.tape"), folder.path().join("new.tape"));
        import(&pcaps().join("001-keep-alive"), &known);
        let mut service = turns(kind, "serve", "0", &python_path).spawn().unwrap();
        let mut port = String::new();
        let mut out = BufReader::new(service.stdout.take().unwrap());
        out.read_line(&mut port).unwrap();
        let service = Service(service);
        let upstream = format!("{scheme}://127.0.0.1:{}", port.trim());
        let recording = recorded.to_str().unwrap();
        let more = [
            "--on-miss",
            "record",
            "--record",
            recording,
            "--upstream",
            &upstream,
        ];
        let mock = Mock::with(&known, &more).unwrap();
        let live = heard(kind, &mock.port, &python_path);
        let said = mock.stop();
        assert!(said.contains("which failed to answer 0"), "{kind}: {said}");
        drop(service);

        let words = |heard: &[(f64, String)]| {
            let words = heard.iter().map(|(_, word)| word.clone());
            words.collect::<Vec<_>>()
        };
        let mock = Mock::with(&recorded, &["--latency", "recorded", "--strict"]).unwrap();
        let again = heard(kind, &mock.port, &python_path);
        let said = mock.stop();
        assert_eq!(words(&again), words(&live), "{kind}: {said}");
        assert!(
            said.contains(" 0 without a recorded answer"),
            "{kind}: {said}"
        );
        // The service waits for 150 ms before each answer but a greeting, and the recording may have lost a
        // millisecond of each to its own delays. How long after that they come depends on the machine.
        let mut due = 0.0;
        for (came, word) in &again {
            if word == "n0" {
                due = 0.0;
            }
            if word != "welcome" && !word.starts_with("OK") {
                due += 140.0;
            }
            assert!(*came >= due, "{kind}: {word} is due at {due}: {again:?}");
        }
        // At once, where nobody asks for times: the same words.
        let mock = Mock::with(&recorded, &[]).unwrap();
        assert_eq!(
            words(&heard(kind, &mock.port, &python_path)),
            words(&live),
            "{kind}"
        );
        mock.stop();
    }
}

const GET_BY_NODE: &str = r#"
const https = require('node:https');
https.get(process.argv[1], (answer) => {
  let length = 0;
  answer.on('data', (data) => { length += data.length; });
  answer.on('end', () => console.log(answer.statusCode, length));
}).on('error', (error) => { console.error(error); process.exit(1); });
"#;

const GET_BY_REQUESTS: &str = r#"
import sys, requests
answer = requests.get(sys.argv[1])
print(answer.status_code, len(answer.content))
"#;

const GET_BY_HTTPX: &str = r#"
import sys, httpx
with httpx.Client(http2=True) as client:
    answer = client.get(sys.argv[1])
print(answer.status_code, len(answer.content))
assert answer.http_version == "HTTP/2", answer.http_version
"#;

const GET_BY_JAVA: &str = r#"
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

class Get {
    public static void main(String[] arguments) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0])).build();
        var answer = HttpClient.newHttpClient().send(request, BodyHandlers.ofByteArray());
        System.out.println(answer.statusCode() + " " + answer.body().length);
        if (answer.version() != HttpClient.Version.HTTP_2) System.exit(1);
        System.exit(0);
    }
}
"#;

const CALL_BY_GRPC: &str = r#"
import sys, grpc
with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials()) as channel:
    ask = b"\x08\x02\x12\x00\x1a\x02\x08\x03"
    answers = channel.unary_stream("/shop.Seats/List")(ask, timeout=60)
    number = 0
    try:
        for answer in answers:
            number += 1
    except grpc.RpcError:
        pass
    print(number, answers.code().name, answers.details())
"#;

/// A new authority, and what `tapedeck ca init` told of it.
struct Authority {
    folder: TempDir,
    told: String,
    certificate: String,
    python_path: String,
}

impl Authority {
    /// `None`: a client is not installed.
    fn new() -> Option<Self> {
        let python_path = python_path()?;
        let folder = temp_folder();
        let ca = folder.path().join("ca").to_str().unwrap().to_owned();
        let told = Tapedeck::new(["ca", "init", "--dir", &ca])
            .succeeds()
            .stdout;
        Some(Self {
            folder,
            told,
            certificate: format!("{ca}/ca.pem"),
            python_path,
        })
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// A mock of a golden capture that speaks TLS.
    fn mock(&self, case: &str, more: &[&str]) -> Mock {
        let tape = self.folder.path().join(format!("{case}.tape"));
        if !tape.exists() {
            import(&pcaps().join(case), &tape);
        }
        let ca = self.path("ca");
        Mock::with(&tape, &[&["--ca", &ca], more].concat()).unwrap()
    }

    /// The variable with the certificate, as it was told.
    fn variable<'v>(&self, name: &'v str) -> (&'v str, &str) {
        let told = format!("{name}={}", self.certificate);
        assert!(self.told.contains(&told), "{told}: {}", self.told);
        (name, &self.certificate)
    }

    /// Runs a client, and gives what it says.
    fn run(&self, command: &mut Command) -> String {
        let ran = command
            .env("PYTHONPATH", &self.python_path)
            .env("NO_PROXY", "")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success(), "{command:?}: {said}");
        String::from_utf8(ran.stdout).unwrap().trim().to_owned()
    }

    /// What Java's client gets, told what `keytool` is told.
    fn ask_by_java(&self, url: &str) -> String {
        let trusted = self.path("trust.p12");
        let line = |line: &str| {
            line.trim()
                .strip_prefix("Java")
                .map(str::trim)
                .map(str::to_owned)
        };
        let keytool = self.told.lines().find_map(line).unwrap();
        let keytool = keytool.replace("trust.p12", &trusted);
        self.run(Command::new("sh").args(["-c", &keytool]));
        std::fs::write(self.path("Get.java"), GET_BY_JAVA).unwrap();
        self.run(
            Command::new("java")
                .arg(format!("-Djavax.net.ssl.trustStore={trusted}"))
                .arg("-Djavax.net.ssl.trustStorePassword=changeit")
                .args([&self.path("Get.java"), url]),
        )
    }
}

/// What `tapedeck ca trust` tells each kind of client to do is done here, and no more than that.
#[test]
fn clients_trust_as_they_are_told() {
    let Some(authority) = Authority::new() else {
        return;
    };
    if !has("node") || !has_program("java") || !has_program("keytool") {
        return;
    }
    let mock = authority.mock("040-concert", &[]);
    let target = "/reservations/available/dates?concertId=2";
    let here = format!("127.0.0.1:{}", mock.port);
    let direct = format!("https://{here}{target}");
    // Of a host that is not there, through the mock as a proxy.
    let (proxied, proxy) = (
        format!("https://shop.example.com{target}"),
        format!("http://{here}"),
    );
    let curl = [
        "curl",
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{size_download}",
    ];
    let expected = authority.run(Command::new(curl[0]).args(&curl[1..]).args([
        "--cacert",
        &authority.certificate,
        &direct,
    ]));
    assert!(expected.starts_with("200 "), "{expected}");
    let ways: [(&str, &[&str]); 4] = [
        ("CURL_CA_BUNDLE", &curl),
        ("NODE_EXTRA_CA_CERTS", &["node", "-e", GET_BY_NODE, "--"]),
        ("REQUESTS_CA_BUNDLE", &["python3", "-c", GET_BY_REQUESTS]),
        ("SSL_CERT_FILE", &["python3", "-c", GET_BY_HTTPX]),
    ];
    for (variable, command) in ways {
        let (name, value) = authority.variable(variable);
        let client = || {
            let mut client = Command::new(command[0]);
            client
                .args(&command[1..])
                .env(name, value)
                .env_remove("HTTPS_PROXY");
            client
        };
        let got = authority.run(client().arg(&direct));
        assert_eq!(got, expected, "{variable}");
        // This node asks no proxy by itself.
        if command[0] != "node" {
            let got = authority.run(client().arg(&proxied).env("HTTPS_PROXY", &proxy));
            assert_eq!(got, expected, "{variable}, as a proxy");
        }
    }
    let by_name = format!("https://localhost:{}{target}", mock.port);
    assert_eq!(authority.ask_by_java(&by_name), expected, "java");
    let said = mock.stop();
    assert!(
        said.contains(" 0 without a recorded answer, 0 refused"),
        "{said}"
    );
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn grpc_trusts_as_it_is_told_and_sees_the_status_of_the_chaos_file() {
    let Some(authority) = Authority::new() else {
        return;
    };
    let (name, value) = authority.variable("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH");
    let call = |mock: &Mock| {
        let server = format!("localhost:{}", mock.port);
        let mut client = Command::new("python3");
        authority.run(client.args(["-c", CALL_BY_GRPC, &server]).env(name, value))
    };
    let mock = authority.mock("053-grpc-kinds", &[]);
    assert_eq!(call(&mock), "4 OK");
    mock.stop();
    let chaos = authority.path("chaos.yaml");
    let text = "faults: [{name: busy, grpc: {status: 14, message: try later}}]";
    std::fs::write(&chaos, text).unwrap();
    let mock = authority.mock("053-grpc-kinds", &["--chaos", &chaos]);
    assert_eq!(call(&mock), "0 UNAVAILABLE try later");
    mock.stop();
}
