//! What clients are told about the certificate authority.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::common::{Tapedeck, has, pcaps, temp_folder};
use crate::{Mock, has_program, import, python_path};

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
