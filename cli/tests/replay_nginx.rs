//! `tapedeck replay` to a real nginx over TLS: certificates of both sides, the protocol that they
//! agree on, several targets, and fields that are set and removed.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::{Ran, Tapedeck, has, temp_folder};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tapedeck_testkit::{Conversation, pcap_of};
use tempfile::TempDir;

/// An nginx with one TLS server and one plain one, which log what they see.
struct Nginx {
    child: Child,
    folder: TempDir,
    tls: u16,
    plain: u16,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Nginx {
    fn start() -> Self {
        let folder = temp_folder();
        let (tls, plain) = (free_port(), free_port());
        certificates(&folder);
        let path = folder.path().display();
        let config = format!(
            r#"
daemon off; master_process off; worker_processes 1; pid {path}/pid; error_log {path}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format seen '$server_port $server_protocol $request_method $request_uri $http_host $ssl_client_verify "$http_x_env" "$http_authorization" $ssl_server_name';
  access_log {path}/access.log seen;
  client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;
  fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;
  server {{
    listen 127.0.0.1:{tls} ssl http2; listen [::1]:{tls} ssl http2;
    ssl_certificate {path}/server.pem; ssl_certificate_key {path}/server.key;
    ssl_client_certificate {path}/ca.pem; ssl_verify_client optional;
    location / {{ return 200 "ok"; }}
    location /old {{ return 302 /new; }}
  }}
  server {{ listen 127.0.0.1:{plain}; location / {{ return 200 "plain"; }} }}
}}
"#
        );
        fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let child = Command::new("nginx")
            .args(["-c", "nginx.conf", "-p"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Self {
            child,
            folder,
            tls,
            plain,
        };
        while TcpStream::connect(("127.0.0.1", plain)).is_err() {
            std::thread::yield_now();
        }
        nginx
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// What it has seen, a line each; only whole once it has written so many.
    fn seen(&self, lines: usize) -> Vec<String> {
        loop {
            let text = fs::read_to_string(self.file("access.log")).unwrap_or_default();
            if text.ends_with('\n') && text.lines().count() >= lines {
                let mut seen: Vec<_> = text.lines().map(str::to_owned).collect();
                seen.sort();
                return seen;
            }
            std::thread::yield_now();
        }
    }

    fn replay(&self, target: &str, more: &[&str]) -> Ran {
        let tape = self.tape();
        let args = [
            "replay",
            tape.to_str().unwrap(),
            "--target",
            target,
            "--speed",
            "max",
        ];
        Tapedeck::new(args.iter().chain(more)).run()
    }

    /// Two hosts, three requests.
    fn tape(&self) -> PathBuf {
        let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
        talk.handshake();
        for (path, host) in [
            ("/a", "shop.example"),
            ("/old", "shop.example"),
            ("/pay", "pay.example:8443"),
        ] {
            let head = format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: secret\r\nX-Env: prod\r\n\r\n"
            );
            talk.client(head.as_bytes());
            talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
        let (pcap, tape) = (self.file("in.pcap"), self.file("in.tape"));
        fs::write(&pcap, pcap_of(&talk.segments)).unwrap();
        Tapedeck::new(["import", &pcap, "-o", &tape, "--force"]).succeeds();
        tape.into()
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// An authority, a server named localhost, and a client.
fn certificates(folder: &TempDir) {
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "an authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    write("ca.pem", params.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(params, key);
    for name in ["server", "client"] {
        let names = vec!["localhost".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        write(
            &format!("{name}.pem"),
            params.signed_by(&key, &issuer).unwrap().pem(),
        );
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

#[test]
fn both_sides_are_believed_and_agree_on_a_protocol() {
    if !has("nginx") {
        return;
    }
    let nginx = Nginx::start();
    let (tls, target) = (nginx.tls, format!("https://localhost:{}", nginx.tls));
    let ca = nginx.file("ca.pem");
    let ran = nginx.replay(&target, &["--cacert", &ca]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let line = |protocol: &str, path: &str, verified: &str| {
        format!(
            r#"{tls} {protocol} GET {path} localhost:{tls} {verified} "prod" "secret" localhost"#
        )
    };
    let three =
        |protocol, verified| ["/a", "/old", "/pay"].map(|path| line(protocol, path, verified));
    // Redirects are answers, and are not followed.
    assert_eq!(nginx.seen(3), three("HTTP/2.0", "NONE"));

    fs::write(nginx.file("access.log"), "").unwrap();
    let (cert, key) = (nginx.file("client.pem"), nginx.file("client.key"));
    let identity = ["--cacert", &ca, "--cert", &cert, "--key", &key, "--http1"];
    let ran = nginx.replay(&target, &identity);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(nginx.seen(3), three("HTTP/1.1", "SUCCESS"));
    assert!(ran.stdout.contains("200: 2, 302: 1"), "{}", ran.stdout);
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    if !has("nginx") {
        return;
    }
    let nginx = Nginx::start();
    let ca = nginx.file("ca.pem");
    // Nobody vouches for it; another name; what is no certificate.
    let localhost = format!("https://localhost:{}", nginx.tls);
    let address = format!("https://127.0.0.1:{}", nginx.tls);
    let key = nginx.file("client.key");
    for (target, options, says) in [
        (&localhost, vec![], "--cacert"),
        (&localhost, vec!["--cacert", &key], "no certificate"),
        (&address, vec!["--cacert", &ca], "certificate"),
    ] {
        let ran = nginx.replay(target, &options);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
    }
    let ran = nginx.replay(&address, &["--insecure"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("warning: certificates are not checked"),
        "{}",
        ran.stderr
    );

    // The wrong protocol, both ways.
    let ran = nginx.replay(
        &format!("https://127.0.0.1:{}", nginx.plain),
        &["--insecure"],
    );
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("no TLS with https://")
            && ran.stderr.contains("does it speak plain http://?"),
        "{}",
        ran.stderr
    );
}

#[test]
fn hosts_are_mapped_and_fields_are_set_and_removed() {
    if !has("nginx") {
        return;
    }
    let nginx = Nginx::start();
    let (tls, plain) = (nginx.tls, nginx.plain);
    let ca = nginx.file("ca.pem");
    let route = format!("pay.example=http://127.0.0.1:{plain}");
    let target = format!("https://[::1]:{tls}");
    let options = [
        "--insecure",
        "--cacert",
        &ca,
        "--map",
        &route,
        "--header",
        "X-Env: staging",
        "--remove-header",
        "authorization",
    ];
    let ran = nginx.replay(&target, &options);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let mut expect = vec![
        format!(r#"{tls} HTTP/2.0 GET /a [::1]:{tls} NONE "staging" "-" -"#),
        format!(r#"{tls} HTTP/2.0 GET /old [::1]:{tls} NONE "staging" "-" -"#),
        format!(r#"{plain} HTTP/1.1 GET /pay 127.0.0.1:{plain} - "staging" "-" -"#),
    ];
    expect.sort();
    assert_eq!(nginx.seen(3), expect);
}
