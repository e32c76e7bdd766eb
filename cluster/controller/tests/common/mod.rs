//! A cluster of a stand-in API server, a folder as a store, and nodes that the test plays.

#![expect(
    clippy::print_stdout,
    reason = "a test says to people why it is skipped"
)]
#![expect(
    dead_code,
    reason = "each test that shares this module uses a part of it"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use tapedeck_archive::{Archive, Provenance, Writer, WriterOptions};
use tapedeck_cluster_standin::Standin;
use tapedeck_cluster_store::Stores;
use tapedeck_model::exchange::Body;
use tapedeck_model::{
    Anomalies, Connection, ConnectionId, Endpoint, Exchange, Head, Ledger, Message, Missing,
    Origin, Protocol, Scope, Span, StartLine, Timestamp, Workloads,
};

/// The nodes of the cluster.
pub(crate) const NODES: [&str; 2] = ["node-a", "node-b"];

const PATIENCE: Duration = Duration::from_secs(60);

/// Where the controller keeps its certificate.
pub(crate) const SECRET: &str = "tapedeck-controller-tls";

/// A name that its certificate has.
pub(crate) const SERVICE: &str = "tapedeck-controller.tapedeck-system.svc";

pub(crate) struct Cluster {
    pub(crate) server: Standin,
    folder: tempfile::TempDir,
    /// Where S3 is; else the store is a folder.
    s3: Option<SocketAddr>,
    /// Where everybody else takes the API server to be.
    url: String,
}

/// A program that puts something in front of the stand-in, whose address is its argument, and prints the address of
/// that: a real API server for Tapedeck's own resources. docs/cluster.md says how it was done.
const FRONT: &str = "TAPEDECK_TEST_FRONT";

/// What the store signs in with.
pub(crate) const KEYS: [(&str, &str); 2] = [
    ("TAPEDECK_STORE_MAIN_AWS_ACCESS_KEY_ID", "a key"),
    ("TAPEDECK_STORE_MAIN_AWS_SECRET_ACCESS_KEY", "a secret"),
];

/// A small file system, until it is dropped.
pub(crate) struct Volume(PathBuf);

impl Volume {
    /// Takes all room but so much.
    pub(crate) fn fill_but(&self, left: usize) {
        let size = 64 << 10;
        let taken = std::fs::write(self.0.join("filler"), vec![0; size]);
        assert!(taken.is_err(), "the volume has more room than it should");
        let filler = std::fs::OpenOptions::new()
            .write(true)
            .open(self.0.join("filler"))
            .unwrap();
        let len = filler.metadata().unwrap().len();
        filler.set_len(len - left as u64).unwrap();
    }

    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// A controller in a process of its own. It is killed with this value.
pub(crate) struct Controller {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self::on(Standin::start().unwrap())
    }

    /// Where nobody but `admin` may do anything.
    pub(crate) fn with_roles() -> Self {
        Self::on(Standin::with_roles().unwrap())
    }

    fn on(server: Standin) -> Self {
        for crd in tapedeck_cluster::crds().unwrap() {
            server.seed(&crd).unwrap();
        }
        server.namespace("tapedeck-system").unwrap();
        // As the manifests have it.
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": { "name": SECRET, "namespace": "tapedeck-system" },
        });
        server.seed(&secret).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        let url = match std::env::var_os(FRONT) {
            None => server.url(),
            Some(front) => {
                let done = Command::new(front).arg(server.url()).output().unwrap();
                assert!(done.status.success());
                String::from_utf8(done.stdout).unwrap().trim().to_owned()
            }
        };
        Self {
            server,
            folder,
            s3: None,
            url,
        }
    }

    pub(crate) fn kubeconfig(&self, user: &str) -> String {
        let direct = self.server.kubeconfig(user);
        direct.replace(&self.server.url(), &self.url)
    }

    /// With a store at S3, in the bucket `tapes`.
    pub(crate) fn with_s3(s3: SocketAddr) -> Self {
        Self {
            s3: Some(s3),
            ..Self::new()
        }
    }

    /// The list of stores.
    fn stores(&self) -> String {
        let Some(s3) = self.s3 else {
            return format!(
                "- {{name: main, url: 'file://{}'}}\n",
                self.store().display()
            );
        };
        format!(
            "- {{name: main, url: 's3://tapes/a/prefix', options: {{region: us-east-1, allow_http: 'true', \
             endpoint: 'http://{s3}'}}}}\n"
        )
    }

    /// How much lies in the store.
    pub(crate) fn stored_count(&self) -> usize {
        if self.s3.is_none() {
            return self.stored().len();
        }
        let stores = Stores::parse(&self.stores()).unwrap();
        let keys = KEYS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let store = stores.get(None).unwrap().open(keys).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // Snapshots of the namespace `shop` lie there.
        runtime.block_on(store.list("shop")).unwrap().len()
    }

    /// The roles of an account, as they are installed.
    pub(crate) fn roles(&self, account: &str) {
        let manifests = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../deploy/manifests/tapedeck.yaml"
        );
        let manifests = std::fs::read_to_string(manifests).unwrap();
        let mut found = 0;
        for text in manifests.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(text).unwrap();
            let is_of = object["metadata"]["name"] == account
                && object["apiVersion"] == "rbac.authorization.k8s.io/v1";
            if is_of {
                self.server.seed(&object).unwrap();
                found += 1;
            }
        }
        assert!(found >= 2, "{account} has no roles");
    }

    /// A folder for whatever the test needs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Makes the store one of 64 KiB. Needs root; without it says so.
    pub(crate) fn small_volume(&self) -> Option<Volume> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(self.store())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Volume(self.store()));
        }
        let is_required = std::env::var_os("TAPEDECK_REQUIRE_PRIVILEGES").is_some_and(|v| v == "1");
        assert!(
            !is_required,
            "cannot be skipped: no file system can be mounted"
        );
        println!("skipped: no file system can be mounted");
        None
    }

    /// Everything that lies in the store.
    pub(crate) fn stored(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                } else {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.store(), &mut found);
        found
    }

    pub(crate) fn controller(&self, name: &str) -> Controller {
        self.controller_with(name, &[&format!("--tls-secret={SECRET}")])
    }

    pub(crate) fn controller_with(&self, name: &str, more: &[&str]) -> Controller {
        let at = |file: &str| self.folder.path().join(file);
        std::fs::write(at("stores.yaml"), self.stores()).unwrap();
        let user = "system:serviceaccount:tapedeck-system:tapedeck-controller";
        std::fs::write(at("kubeconfig"), self.kubeconfig(user)).unwrap();
        let log = std::fs::File::create(at(&format!("{name}.log"))).unwrap();
        // A port that is free now; the loopback device gives it to nobody else so soon.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = Command::new(env!("CARGO_BIN_EXE_tapedeck-controller"))
            .arg(format!("--listen={address}"))
            .arg(format!("--stores={}", at("stores.yaml").display()))
            .arg(format!(
                "--scratch={}",
                at(&format!("scratch-{name}")).display()
            ))
            .arg(format!("--identity={name}"))
            .arg("--lease=2")
            .args(more)
            .env("KUBECONFIG", at("kubeconfig"))
            .envs(KEYS)
            .env_remove("POD_NAME")
            .env_remove("POD_NAMESPACE")
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        Controller { child, address }
    }

    pub(crate) fn logs(&self) -> String {
        let logs = std::fs::read_dir(self.folder.path()).unwrap();
        logs.map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|of| of == "log"))
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect()
    }

    /// Waits until something is there.
    pub(crate) fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < until,
                "waited for {what}; the logs:\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until an object is so.
    pub(crate) fn until(&self, kind: &str, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            last = self.server.get(kind, "default", name).unwrap_or_default();
            if is_so(&last) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!(
            "{kind} {name} stays so: {last:#}; the logs:\n{}",
            self.logs()
        );
    }

    /// Makes a recording, and gives its uid.
    pub(crate) fn recording(&self, name: &str, selector: Value) -> String {
        let made = self
            .server
            .seed(&json!({
                "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Recording",
                "metadata": { "name": name }, "spec": { "selector": selector },
            }))
            .unwrap();
        made["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    pub(crate) fn snapshot(&self, name: &str, spec: Value) {
        self.server
            .seed(&json!({
                "apiVersion": "tapedeck.dev/v1alpha1", "kind": "Snapshot",
                "metadata": { "name": name }, "spec": spec,
            }))
            .unwrap();
    }

    pub(crate) fn write_report(&self, node: &str, change: impl FnOnce(&mut Value)) {
        let mut report = self
            .server
            .get("nodereports.tapedeck.dev", "", node)
            .unwrap_or_else(|| {
                json!({
                    "apiVersion": "tapedeck.dev/v1alpha1", "kind": "NodeReport",
                    "metadata": { "name": node }, "spec": { "node": node }, "status": {},
                })
            });
        report["status"]["at"] = jiff::Timestamp::now().to_string().into();
        change(&mut report["status"]);
        self.server.seed(&report).unwrap();
    }

    /// A node says what it does about a recording.
    pub(crate) fn report(&self, node: &str, uid: &str, mut said: Value) {
        said["uid"] = uid.into();
        said["namespace"] = "default".into();
        said["name"] = "shop".into();
        said["observedGeneration"] = 1.into();
        self.write_report(node, |status| status["recordings"] = json!([said]));
    }

    /// A node stores a part of a snapshot with these paths, and reports it.
    pub(crate) fn deliver(&self, node: &str, snapshot: &Value, paths: &[&str]) {
        let file = self.folder.path().join("part.tape");
        archive(&file, node, paths);
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let digest = blake3::hash(&bytes).to_hex();
        let prefix = snapshot["status"]["order"]["prefix"].as_str().unwrap();
        let key = format!("{prefix}/{node}/{digest}.tape");
        let path = self.store().join(&key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &bytes).unwrap();
        let part = json!({ "key": key, "bytes": bytes.len(), "blake3": digest.as_str(), "exchanges": paths.len() });
        let uid = snapshot["metadata"]["uid"].clone();
        self.write_report(node, |status| {
            status["snapshots"] = json!([{ "uid": uid, "state": "Delivered", "parts": [part] }]);
        });
    }

    /// Fetches a snapshot through the API server.
    pub(crate) fn pull(&self, place: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
        let path = format!(
            "/api/v1/namespaces/tapedeck-system/services/https:tapedeck-controller:https/proxy/snapshots/{place}"
        );
        fetch(self.server.address(), &path, headers)
    }

    /// Fetches a snapshot from the controller: the code of its answer.
    pub(crate) fn pull_direct(&self, controller: &Controller, place: &str) -> u16 {
        controller.get(&format!("/snapshots/{place}")).0
    }

    /// An entry of the controller's Secret, once it is there.
    pub(crate) fn secret(&self, entry: &str) -> Option<Vec<u8>> {
        let secret = self.server.get("secrets", "tapedeck-system", SECRET)?;
        let secret: Secret = serde_json::from_value(secret).unwrap();
        Some(secret.data?.get(entry)?.0.clone())
    }

    /// Whether the port shows a certificate of that authority: as Prometheus looks.
    pub(crate) fn is_of(&self, controller: &Controller, authority: &[u8]) -> bool {
        let file = self.folder.path().join("ca.pem");
        std::fs::write(&file, authority).unwrap();
        let port = controller.address.port();
        let asked = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--cacert"])
            .arg(&file)
            .args(["--resolve", &format!("{SERVICE}:{port}:127.0.0.1")])
            .arg(format!("https://{SERVICE}:{port}/livez"))
            .output()
            .unwrap();
        // 7: nobody listens yet. 60: it does not believe the certificate. 35: nor the signature under it, where another
        // authority has the same name.
        let code = asked.status.code().unwrap();
        let said = String::from_utf8_lossy(&asked.stderr);
        assert!([0, 7, 35, 60].contains(&code), "{said}");
        code == 0
    }
}

impl Controller {
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let until = Instant::now() + PATIENCE;
        loop {
            // It may not listen yet.
            if std::net::TcpStream::connect(self.address).is_ok() {
                break;
            }
            assert!(Instant::now() < until, "the controller does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        let asked = Command::new("curl")
            .args(["-sSk", "--max-time", "60", "-w", "\n%{http_code}"])
            .arg(format!("https://{}{path}", self.address))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&asked.stderr);
        assert!(asked.status.success(), "{path}: {said}");
        let text = String::from_utf8(asked.stdout).unwrap();
        let (body, code) = text.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), body.to_owned())
    }

    /// It ends by itself, and not well.
    pub(crate) fn fails(mut self) {
        assert!(!self.child.wait().unwrap().success());
    }

    /// It dies.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// It is asked to end, and does.
    pub(crate) fn stop(mut self) {
        let done = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        assert!(done.unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn fetch(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::get(path).header("host", "x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        (head.status.as_u16(), head.headers, body)
    })
}

/// An archive with a GET for each path, `/NAME/NUMBER`: the number says when, and what is `b` was a bit before.
fn archive(file: &Path, node: &str, paths: &[&str]) {
    let provenance = Provenance {
        source: "test".to_owned(),
        host: node.to_owned(),
        ..Provenance::default()
    };
    let mut writer = Writer::create(file, WriterOptions::new(provenance)).unwrap();
    let mut ledger = Ledger::default();
    for (key, path) in paths.iter().enumerate() {
        let number: i64 = path.rsplit('/').next().unwrap().parse().unwrap();
        let earlier = i64::from(path.starts_with("/b/")) * 5_000_000;
        let at = 1_700_000_000_000_000_000 + number * 10_000_000 - earlier;
        let raw = format!("GET {path} HTTP/1.1\r\n\r\n");
        let request = Head {
            start: StartLine::Request {
                method: Some(Span { start: 0, len: 3 }),
                target: Some(Span {
                    start: 4,
                    len: path.len() as u32,
                }),
            },
            raw: raw.into_bytes(),
            protocol: Protocol::Http11,
            fields: Vec::new(),
        };
        let response = Head {
            start: StartLine::Response {
                status: Some(200),
                reason: Span { start: 13, len: 2 },
            },
            raw: b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
            protocol: Protocol::Http11,
            fields: Vec::new(),
        };
        writer
            .exchange(&Exchange {
                key: key as u64,
                connection: connection(at),
                stream: 0,
                protocol: Protocol::Http11,
                request: Some(message(request, at)),
                interim: Vec::new(),
                response: Some(message(response, at + 1000)),
                anomalies: Anomalies::default(),
                request_absent: Missing::NONE,
                response_absent: Missing::NONE,
                tunnel: false,
                pushed: false,
            })
            .unwrap();
        ledger.exchanges += 1;
    }
    writer.seal(&ledger).unwrap();
}

fn message(head: Head, at: i64) -> Message {
    Message {
        head: Some(head),
        body: Body::default(),
        trailers: None,
        first_byte: Timestamp::from_nanos(at),
        last_byte: Timestamp::from_nanos(at),
        missing: Missing::NONE,
        reset_code: None,
    }
}

fn connection(at: i64) -> Arc<Connection> {
    Arc::new(Connection {
        id: ConnectionId(0),
        client: Endpoint::new([10, 0, 0, 1].into(), 40_000),
        server: Endpoint::new([10, 0, 0, 2].into(), 8080),
        scope: Scope(0),
        origin: Origin::Handshake,
        opened: Timestamp::from_nanos(at),
        tls: None,
        workloads: Workloads::default(),
    })
}

/// The paths of an archive, in its order, and what was answered.
pub(crate) fn contents(file: &Path) -> Vec<(String, Vec<u8>)> {
    let archive = Archive::open_all(&[file]).unwrap();
    let mut buffer = tapedeck_archive::BodyBuffer::default();
    let mut scratch = tapedeck_archive::Scratch::default();
    let paths = paths(file).into_iter();
    paths
        .zip(archive.rows())
        .map(|(path, row)| {
            let record = archive.load(row.id(), &mut scratch).unwrap();
            let body = record.response().unwrap().body();
            let body = archive.body(&body, &mut buffer).unwrap().to_vec();
            (path, body)
        })
        .collect()
}

/// The paths of an archive, in its order.
pub(crate) fn paths(file: &Path) -> Vec<String> {
    let archive = Archive::open_all(&[file]).unwrap();
    let mut scratch = tapedeck_archive::Scratch::default();
    archive
        .rows()
        .map(|row| {
            let exchange = archive.load(row.id(), &mut scratch).unwrap().to_exchange();
            let raw = exchange.request.unwrap().head.unwrap().raw;
            String::from_utf8(raw)
                .unwrap()
                .split(' ')
                .nth(1)
                .unwrap()
                .to_owned()
        })
        .collect()
}
