//! Answers in pieces, at their recorded times: events, streams of gRPC, WebSocket.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::{Tapedeck, pcaps, temp_folder};
use crate::{Mock, exchanges, import, python_path};

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
