//! Whose connections are: children of cgroups that are named as a kubelet names them.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use tapedeck_archive::{Archive, Scratch};
use tapedeck_model::{Exchange, Workload};

use crate::support::{Daemon, config, get, is_possible, serve, serve_at, targets, tool, until};

const UID: &str = "2f37bcd5-2d1e-4ac2-a8a3-cb8e6bc50d9f";
const ID: &str = "c7cb1e1b0a2a4f0f8e8e4f8e0f4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e";

/// A cgroup of a container, until it is dropped.
pub(crate) struct Container {
    top: PathBuf,
    folder: PathBuf,
}

impl Container {
    /// The cgroup above all containers of a test.
    pub(crate) fn top(test: &str) -> PathBuf {
        let root = tapedeckd::sources::ebpf::cgroup_root().unwrap();
        root.join(format!("tapedeck-{test}-{}", std::process::id()))
    }

    pub(crate) fn new(test: &str, uid: &str, id: &str) -> Self {
        let top = Self::top(test);
        let folder = top.join(format!("kubepods/besteffort/pod{uid}/{id}"));
        fs::create_dir_all(&folder).unwrap();
        Self { top, folder }
    }

    /// Its folder in the file system of cgroups.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A program that is to run in the cgroup.
    pub(crate) fn command(&self, program: &[&str]) -> Command {
        let [first, more @ ..] = &self.wrapper()[..] else {
            unreachable!("five words");
        };
        let mut command = Command::new(first);
        command.args(more).args(program);
        command
    }

    /// The words in front of the command line of one that is to run there.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        let script = "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"";
        let folder = self.folder.to_str().unwrap();
        ["sh", "-c", script, "sh", folder].map(str::to_owned).into()
    }

    fn remove(&self) {
        let mut folder: &Path = &self.folder;
        while folder.starts_with(&self.top) {
            // One that is still busy is left to the drop.
            drop(fs::remove_dir(folder));
            folder = folder.parent().unwrap();
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The names that a kubelet leaves in the node's logs.
fn name_pod(logs: &Path, pod: &str, uid: &str, id: &str) {
    fs::create_dir_all(logs.join(format!("pods/shop_{pod}_{uid}/nginx"))).unwrap();
    fs::create_dir_all(logs.join("containers")).unwrap();
    let container = format!("containers/{pod}_shop_nginx-{id}.log");
    fs::write(logs.join(container), "").unwrap();
}

#[test]
fn a_pod_is_named_even_when_it_is_gone_at_once_and_a_process_where_there_is_none() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("log");
    name_pod(&logs, "cart-0", UID, ID);
    let archive = folder.path().join("tapes");
    // A free port; who opens a socket is known of those that are opened under the daemon's eyes.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = free.local_addr().unwrap();
    drop(free);
    let more = format!("attribution: {{ node_logs: {} }}\n", logs.display());
    let daemon = Daemon::start(folder.path(), &config(&archive, server.port(), &more));
    serve_at(server);
    // The cgroup lives as long as one request, and is gone before the exchange is looked at.
    let container = Container::new("pods", UID, ID);
    let url = format!("http://{server}/pod");
    tool(&mut container.command(&["curl", "-s", "-o", "/dev/null", &url]));
    container.remove();
    get(server, "/process");
    daemon.wait_for("tapedeck_exchanges_total", 2.0);
    daemon.stop();

    let archive = Archive::open(&archive).unwrap();
    let mut scratch = Scratch::new();
    for id in 0..archive.len() {
        let exchange = archive.load(id, &mut scratch).unwrap().to_exchange();
        let workloads = &exchange.connection.workloads;
        let client: &Workload = workloads
            .client
            .as_deref()
            .expect("a client of this machine");
        let server: &Workload = workloads
            .server
            .as_deref()
            .expect("a server of this machine");
        // The server is this test: its name is that of the thread that listened.
        assert_eq!(server.pid, Some(std::process::id()));
        assert!(server.process.is_some());
        let head = exchange.request.unwrap().head.unwrap();
        if head.target().unwrap() == b"/pod" {
            assert_eq!(client.namespace.as_deref(), Some("shop"));
            assert_eq!(client.pod.as_deref(), Some("cart-0"));
            assert_eq!(client.container.as_deref(), Some("nginx"));
            assert!(client.cgroup.as_deref().unwrap().ends_with(ID));
            assert_eq!((client.pid, client.process.as_ref()), (None, None));
        } else {
            assert_eq!(client.pid, Some(std::process::id()));
            assert_eq!(client.pod, None);
        }
    }
}

/// What the daemon says itself is in no archive: neither what leaves its own cgroup, nor the answers of its
/// endpoint to others.
#[test]
fn its_own_traffic_is_left_out() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let own = Container::new("own-traffic", UID, ID);
    // An address that no other test has.
    let text = config(&archive, server.port(), "")
        .replace("127.0.0.1:0", "127.42.17.1:9464")
        .replace("ports: [", "ports: [9464, ")
        .replace("ignore_own_cgroup: false", "ignore_own_cgroup: true");
    let daemon = Daemon::start_by(folder.path(), &text, &own.wrapper());
    assert_eq!(daemon.get("/mine").0, 404);
    let url = format!("http://{server}/own-cgroup");
    tool(&mut own.command(&["curl", "-s", "-o", "/dev/null", &url]));
    get(server, "/of-another");
    daemon.wait_for("tapedeck_exchanges_not_archived_total{cause=\"own\"}", 1.0);
    daemon.stop();
    let found: Vec<_> = targets(&archive)
        .into_iter()
        .filter(|(target, _)| !target.is_empty())
        .collect();
    assert_eq!(found, [("/of-another".to_owned(), true)]);
}

/// Two pods of one node: network namespaces, each with a cgroup of its own, joined by that of the node.
struct Pods {
    /// Of the pods, and of the node between them.
    namespaces: [String; 3],
    containers: [Container; 2],
    serving: Option<Child>,
}

const UIDS: [&str; 2] = [
    "0a1b2c3d-0000-4000-8000-00000000000a",
    "0a1b2c3d-0000-4000-8000-00000000000b",
];

impl Pods {
    /// Their addresses are 10.NET.0.1 and 10.NET.1.1.
    fn new(test: &str, net: u8, logs: &Path) -> Self {
        let process = std::process::id();
        let namespaces = ["a", "b", "node"].map(|end| format!("tapedeck-{test}-{process}-{end}"));
        let containers = [0, 1].map(|end| {
            let id = format!("{end}").repeat(64);
            name_pod(logs, ["cart-0", "bank-0"][end], UIDS[end], &id);
            Container::new(&format!("{test}-{end}"), UIDS[end], &id)
        });
        let pods = Self {
            namespaces,
            containers,
            serving: None,
        };
        for name in &pods.namespaces {
            ip(&format!("netns add {name}"));
        }
        let [a, b, node] = &pods.namespaces;
        for (number, pod) in [a, b].into_iter().enumerate() {
            ip(&format!(
                "link add veth0 netns {pod} type veth peer name pod{number} netns {node}"
            ));
            let subnet = format!("10.{net}.{number}");
            for (name, host, device) in [
                (pod, 1, "veth0".to_owned()),
                (node, 254, format!("pod{number}")),
            ] {
                ip(&format!(
                    "-n {name} address add {subnet}.{host}/24 dev {device}"
                ));
                ip(&format!("-n {name} link set {device} up"));
            }
            ip(&format!("-n {pod} link set lo up"));
            ip(&format!("-n {pod} route add default via {subnet}.254"));
        }
        pods.on_node(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
        pods
    }

    /// Runs a program in the namespace between them.
    #[track_caller]
    fn on_node(&self, program: &[&str]) {
        self.within(2, program);
    }

    /// Runs a program in the namespace of a pod, or in the one between them, which is the last.
    #[track_caller]
    fn within(&self, number: usize, program: &[&str]) {
        let namespace = ["netns", "exec", &self.namespaces[number]];
        tool(Command::new("ip").args(namespace).args(program));
    }

    /// Lets that namespace translate an address, as it does for a service (`hook` as nft has it).
    #[track_caller]
    fn translate(&self, number: usize, hook: &str, from: &str, to: &str) {
        for rule in [
            "add table ip nat".to_owned(),
            format!("add chain ip nat way {{ type nat hook {hook} priority -100; }}"),
            format!("add rule ip nat way ip daddr {from} tcp dport 80 dnat to {to}"),
        ] {
            self.within(number, &["nft", &rule]);
        }
    }

    /// A program that is to run in the pod of that number.
    fn command(&self, pod: usize, program: &[&str]) -> Command {
        let mut words = vec!["ip", "netns", "exec", &self.namespaces[pod]];
        words.extend(program);
        self.containers[pod].command(&words)
    }

    /// Lets the second pod serve an empty folder on a port.
    fn serve(&mut self, folder: &Path, port: u16) {
        let text = port.to_string();
        let server = ["python3", "-m", "http.server", "--bind", "0.0.0.0", &text];
        let mut command = self.command(1, &server);
        let silent = std::process::Stdio::null;
        command
            .current_dir(folder)
            .stdout(silent())
            .stderr(silent());
        self.serving = Some(command.spawn().unwrap());
        until("the pod serves", || {
            let mut listening = self.command(1, &["cat", "/proc/net/tcp"]);
            let output = listening.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.contains(&format!(":{port:04X} 00000000:0000 0A"))
                .then_some(())
        });
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        if let Some(serving) = &mut self.serving {
            drop(serving.kill());
            drop(serving.wait());
        }
        for name in &self.namespaces {
            drop(Command::new("ip").args(["netns", "delete", name]).output());
        }
    }
}

#[track_caller]
fn ip(arguments: &str) {
    tool(Command::new("ip").args(arguments.split(' ')));
}

fn exchanges(archive: &Path) -> Vec<Exchange> {
    let archive = Archive::open(archive).unwrap();
    let mut scratch = Scratch::new();
    (0..archive.len())
        .map(|id| archive.load(id, &mut scratch).unwrap().to_exchange())
        .collect()
}

fn pod(workload: Option<&std::sync::Arc<Workload>>) -> Option<&str> {
    workload?.pod.as_deref()
}

/// Both ends of a connection are seen, at sockets in two namespaces: it is one all the same.
#[test]
fn two_pods_of_a_node_have_one_connection_with_both_named() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (logs, archive) = (folder.path().join("log"), folder.path().join("tapes"));
    let port = 8111;
    let mut pods = Pods::new("both", 212, &logs);
    let more = format!("attribution: {{ node_logs: {} }}\n", logs.display());
    let daemon = Daemon::start(folder.path(), &config(&archive, port, &more));
    pods.serve(folder.path(), port);
    let url = format!("http://10.212.1.1:{port}/tapedeckd.yaml");
    tool(&mut pods.command(0, &["curl", "-sS", "-o", "/dev/null", &url, &url]));
    daemon.wait_for("tapedeck_exchanges_total", 2.0);
    daemon.stop();
    let exchanges = exchanges(&archive);
    assert_eq!(exchanges.len(), 2);
    for exchange in exchanges {
        assert!(exchange.complete());
        let workloads = &exchange.connection.workloads;
        assert_eq!(pod(workloads.client.as_ref()), Some("cart-0"));
        assert_eq!(pod(workloads.server.as_ref()), Some("bank-0"));
    }
}

fn has_nft() -> bool {
    if Command::new("nft").arg("--version").output().is_ok() {
        return true;
    }
    let is_required = std::env::var_os("TAPEDECK_REQUIRE_TOOLS").is_some_and(|v| v == "1");
    assert!(!is_required, "nft is not installed");
    println!("skipped: nft is not installed");
    false
}

/// Of the exchanges whose target ends in `?translated`, by the server's port: the server, the pods of
/// client and server, and whether it is whole.
fn translated(archive: &Path) -> Vec<(String, Option<String>, Option<String>, bool)> {
    let mut exchanges = exchanges(archive);
    exchanges.retain(|exchange| {
        let head = exchange.request.as_ref().and_then(|of| of.head.as_ref());
        head.and_then(|head| head.target())
            .is_some_and(|target| target.ends_with(b"?translated"))
    });
    exchanges.sort_by_key(|exchange| exchange.connection.server.port);
    exchanges
        .iter()
        .map(|exchange| {
            let connection = &exchange.connection;
            let pod = |workload| pod(workload).map(str::to_owned);
            (
                connection.server.to_string(),
                pod(connection.workloads.client.as_ref()),
                pod(connection.workloads.server.as_ref()),
                exchange.complete(),
            )
        })
        .collect()
}

/// Where the node translates the address on the way, as it does for a service, the two ends are of other
/// addresses, and nothing that sockets see joins them: they are two connections, each with the end
/// that is known.
#[test]
fn two_pods_with_a_translated_address_are_two_connections_with_an_end_each() {
    if !is_possible() {
        return;
    }
    if !has_nft() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (logs, archive) = (folder.path().join("log"), folder.path().join("tapes"));
    let port = 8112;
    let mut pods = Pods::new("nat", 213, &logs);
    pods.translate(2, "prerouting", "10.96.0.1", "10.213.1.1:8112");
    let more = format!("attribution: {{ node_logs: {} }}\n", logs.display());
    let text = config(&archive, port, &more);
    let text = text.replace("ports: [8112]", "ports: [80, 8112]");
    let daemon = Daemon::start(folder.path(), &text);
    pods.serve(folder.path(), port);
    let url = "http://10.96.0.1/tapedeckd.yaml?translated";
    tool(&mut pods.command(0, &["curl", "-sS", "-o", "/dev/null", url]));
    daemon.wait_for("tapedeck_exchanges_total", 2.0);
    daemon.stop();
    let ends = translated(&archive);
    let expected = [
        ("10.96.0.1:80", Some("cart-0"), None),
        ("10.213.1.1:8112", None, Some("bank-0")),
    ];
    assert_eq!(ends, whole(expected));
}

fn whole(
    ends: [(&str, Option<&str>, Option<&str>); 2],
) -> [(String, Option<String>, Option<String>, bool); 2] {
    let owned = |pod: Option<&str>| pod.map(str::to_owned);
    ends.map(|(server, client, of)| (server.to_owned(), owned(client), owned(of), true))
}

/// Where the network namespace of the client's own socket translates the address, as it does for a pod in
/// the host's network, what leaves has other addresses than what arrives; all the same each end
/// has its connection whole, under the addresses of its socket. The server is elsewhere, or in the same
/// namespace, where all goes by loopback.
#[test]
fn what_a_sockets_own_namespace_translates_stays_one_connection() {
    if !is_possible() || !has_nft() {
        return;
    }
    for (client, net, port) in [(0, 214, 8113), (1, 215, 8114)] {
        let folder = tempfile::tempdir().unwrap();
        let (logs, archive) = (folder.path().join("log"), folder.path().join("tapes"));
        let mut pods = Pods::new(&format!("own{client}"), net, &logs);
        let server = format!("10.{net}.1.1:{port}");
        pods.translate(client, "output", "10.96.0.1", &server);
        let more = format!("attribution: {{ node_logs: {} }}\n", logs.display());
        let text = config(&archive, port, &more);
        let text = text.replace(&format!("[{port}]"), &format!("[80, {port}]"));
        let daemon = Daemon::start(folder.path(), &text);
        pods.serve(folder.path(), port);
        let url = "http://10.96.0.1/tapedeckd.yaml?translated";
        tool(&mut pods.command(client, &["curl", "-sS", "-o", "/dev/null", url]));
        daemon.wait_for("tapedeck_exchanges_total", 2.0);
        daemon.stop();
        // On loopback the answer to the SYN, which comes from the socket that listens, has the address that
        // was asked for, and says whose that is.
        let (asking, known) = [("cart-0", None), ("bank-0", Some("bank-0"))][client];
        let expected = [
            ("10.96.0.1:80", Some(asking), known),
            (&*server, None, Some("bank-0")),
        ];
        assert_eq!(translated(&archive), whole(expected), "client {client}");
    }
}
