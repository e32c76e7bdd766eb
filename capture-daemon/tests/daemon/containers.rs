//! The image as the DaemonSet runs it, beside real containers: podman with runc makes the cgroups, and the
//! kernel does the rest. Pods are known from a stand-in API server.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use serde_json::json;
use tapedeck_archive::Archive;

use crate::cluster::{NODE, Node, all, targets};
use crate::support::{is_possible, until};

/// What podman has of a test, until it is dropped.
struct Podman {
    name: String,
    image: String,
    folder: tempfile::TempDir,
}

/// Runs a program, and gives what it printed.
#[track_caller]
fn run(program: &str, words: &[&str]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(program).args(words).output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{program} {words:?}: {stderr}");
    String::from_utf8(stdout).unwrap().trim().to_owned()
}

/// Whether containers can be run here; else says why, or fails where that is not allowed.
fn can_run_containers() -> bool {
    if !is_possible() {
        return false;
    }
    let missing = ["podman", "runc"]
        .into_iter()
        .find(|program| Command::new(program).arg("--version").output().is_err());
    let Some(program) = missing else {
        return true;
    };
    let is_required = std::env::var_os("TAPEDECK_REQUIRE_TOOLS").is_some_and(|v| v == "1");
    assert!(!is_required, "{program} is not installed");
    println!("skipped: {program} is not installed");
    false
}

/// Containers get no more than this machine has.
const LIMITS: [&str; 4] = [
    "--ulimit",
    "nofile=20000:20000",
    "--ulimit",
    "nproc=1024:1024",
];

impl Podman {
    /// An image of the daemon, and a network, of this test alone.
    fn new(test: &str, net: u8) -> Self {
        let name = format!("tapedeck-{test}-{}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let image = format!("localhost/{name}:test");
        let podman = Self {
            name,
            image,
            folder,
        };
        podman.build();
        let subnet = format!("10.{net}.0.0/24");
        run(
            "podman",
            &["network", "create", "--subnet", &subnet, &podman.name],
        );
        podman
    }

    /// As `cargo xtask image` does it: the program, what it is linked with, CA certificates, and the
    /// Containerfile.
    fn build(&self) {
        let root = self.folder.path().join("root");
        let program = root.join("usr/bin/tapedeckd");
        put(Path::new(env!("CARGO_BIN_EXE_tapedeckd")), &program);
        run("strip", &["--strip-all", program.to_str().unwrap()]);
        for line in run("ldd", &[program.to_str().unwrap()]).lines() {
            let place = line
                .split_once("=> ")
                .map_or(line, |(_, place)| place)
                .trim();
            let path = place.split(" (").next().unwrap();
            if let Some(below) = path.strip_prefix('/') {
                put(Path::new(path), &root.join(below));
            }
        }
        let certificates = "etc/ssl/certs/ca-certificates.crt";
        put(&Path::new("/").join(certificates), &root.join(certificates));
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/image/Containerfile");
        let root = root.to_str().unwrap();
        run(
            "podman",
            &[
                "build",
                "-q",
                "--isolation=chroot",
                "-f",
                file,
                "-t",
                &self.image,
                root,
            ],
        );
    }

    fn container(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// Starts a container with the programs of this machine, in the cgroup of a pod. Gives its id and
    /// its address.
    fn service(&self, name: &str, pod: &str, words: &[&str]) -> (String, String) {
        let name = self.container(name);
        let parent = format!("/kubepods/besteffort/pod{pod}");
        let mut all = vec!["--runtime", "runc", "run", "-d", "--name", &name];
        all.extend(LIMITS);
        all.extend([
            "--network",
            &self.name,
            "--cgroup-parent",
            &parent,
            "--rootfs",
            "/:O",
        ]);
        all.extend(words);
        run("podman", &all);
        self.known(&name)
    }

    fn known(&self, name: &str) -> (String, String) {
        let format = "{{.Id}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let told = run("podman", &["inspect", name, "--format", format]);
        let (id, address) = told.split_once(' ').unwrap();
        (id.to_owned(), address.to_owned())
    }

    /// Writes what the daemon is given.
    fn configure(&self, node: &Node) {
        // Containers reach this machine at the first address of their network.
        let api = relay(SocketAddr::from(([10, 219, 0, 1], 0)), node.api.address());
        let kubeconfig = node.api.kubeconfig("daemon");
        let kubeconfig = kubeconfig.replace(&node.api.address().to_string(), &api.to_string());
        let folder = self.folder.path();
        fs::create_dir(folder.join("config")).unwrap();
        fs::create_dir(folder.join("archives")).unwrap();
        fs::write(folder.join("config/kubeconfig"), kubeconfig).unwrap();
        fs::write(
            folder.join("config/tapedeckd.yaml"),
            "archive: { folder: /var/lib/tapedeck }\ncontrol: { listen: '0.0.0.0:9464' }\n\
             kubernetes: { kubeconfig: /etc/tapedeck/kubeconfig }\n",
        )
        .unwrap();
    }

    /// Starts the daemon as the DaemonSet does.
    fn daemon(&self) {
        let folder = self.folder.path().display();
        let name = self.container("daemon");
        let cgroups = tapedeckd::sources::ebpf::cgroup_root().unwrap();
        let cgroups = format!("{}:/sys/fs/cgroup:ro", cgroups.display());
        let (config, archives) = (
            format!("{folder}/config:/etc/tapedeck:ro"),
            format!("{folder}/archives:/var/lib/tapedeck"),
        );
        let mut all = vec!["--runtime", "runc", "run", "-d", "--name", &name];
        all.extend(LIMITS);
        all.extend(["--network", &self.name, "--pid", "host", "--read-only"]);
        all.extend([
            "--user",
            "0:0",
            "--cap-drop",
            "all",
            "--cap-add",
            "BPF,NET_ADMIN,PERFMON",
        ]);
        all.extend(["--security-opt", "no-new-privileges"]);
        // What a cluster gives where nothing is said.
        all.extend(["--security-opt", "seccomp=unconfined"]);
        all.extend(["-v", &cgroups, "-v", &config, "-v", &archives]);
        let node = format!("NODE_NAME={NODE}");
        all.extend(["--env", &node, "--env", "POD_NAMESPACE=tapedeck-system"]);
        all.extend(["--entrypoint", "/usr/bin/tapedeckd", &self.image]);
        all.extend(["--config", "/etc/tapedeck/tapedeckd.yaml"]);
        run("podman", &all);
    }

    fn log(&self) -> String {
        let output = Command::new("podman")
            .args(["logs", &self.container("daemon")])
            .output();
        String::from_utf8_lossy(&output.unwrap().stderr).into_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", self.log());
        }
        let names = ["daemon", "cart", "bank"].map(|name| self.container(name));
        let mut words = vec!["rm", "-f", "-t", "0", "-i"];
        words.extend(names.iter().map(String::as_str));
        drop(Command::new("podman").args(words).output());
        drop(
            Command::new("podman")
                .args(["network", "rm", "-f", &self.name])
                .output(),
        );
        drop(
            Command::new("podman")
                .args(["rmi", "-f", &self.image])
                .output(),
        );
    }
}

fn put(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
}

/// Lets containers reach a server of this machine's loopback device.
fn relay(from: SocketAddr, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(from).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(to) else {
                continue;
            };
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ] {
                thread::spawn(move || {
                    drop(io::copy(&mut from, &mut to));
                    drop(to.shutdown(std::net::Shutdown::Both));
                });
            }
        }
    });
    address
}

/// The BPF programs that a process has.
fn programs_of(process: &str) -> BTreeSet<u32> {
    let files = fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap();
    let texts = files
        .flatten()
        .map(|file| fs::read_to_string(file.path()).unwrap_or_default());
    texts
        .flat_map(|text| {
            let ids = text
                .lines()
                .filter_map(|line| line.strip_prefix("prog_id:"));
            ids.map(|id| id.trim().parse().unwrap()).collect::<Vec<_>>()
        })
        .collect()
}

/// Those that the kernel has.
fn loaded() -> BTreeSet<u32> {
    let programs = aya::programs::loaded_programs();
    programs
        .map_while(Result::ok)
        .map(|program| program.id())
        .collect()
}

const CART: &str = "c1000000-0000-4000-8000-000000000001";
const BANK: &str = "b1000000-0000-4000-8000-000000000002";

/// What [`Podman::daemon`] gives is what the DaemonSet gives.
#[track_caller]
fn the_chart_gives_the_same() {
    let chart = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/helm/tapedeck/templates/node/daemonset.yaml"
    );
    let chart = fs::read_to_string(chart).unwrap();
    for given in [
        "privileged: false",
        "allowPrivilegeEscalation: false",
        "readOnlyRootFilesystem: true",
        "runAsUser: 0",
        "drop: [ALL]",
        "add: [BPF, NET_ADMIN, PERFMON]",
        "hostPID: true",
        "hostNetwork: false",
        "mountPath: /etc/tapedeck, readOnly: true",
        "mountPath: /var/lib/tapedeck }",
        "mountPath: /sys/fs/cgroup, readOnly: true",
    ] {
        assert!(
            chart.contains(given),
            "the chart gives something else than {given}"
        );
    }
}

#[test]
fn the_image_records_containers_with_what_the_chart_gives_it() {
    if !can_run_containers() {
        return;
    }
    the_chart_gives_the_same();
    let node = Node::new("containers");
    let podman = Podman::new("containers", 219);
    let (bank_id, bank) = podman.service("bank", BANK, &["python3", "-m", "http.server", "8080"]);
    let (cart_id, _) = podman.service("cart", CART, &["sleep", "infinity"]);
    node.pod_of("bank-7d9f-y", BANK, "bank", &bank_id);
    node.pod_of("cart-7d9f-x", CART, "cart", &cart_id);
    let uid = node.record("shop", json!({ "selector": {} }));
    podman.configure(&node);
    podman.daemon();
    node.reports_state(&uid, "Attached");
    let ask = |bank: &str, path: &str| {
        let url = format!("http://{bank}:8080{path}");
        let words = [
            "exec",
            &podman.container("cart"),
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            &url,
        ];
        until("the bank answers", || {
            let output = Command::new("podman").args(words).output().unwrap();
            output.status.success().then_some(())
        });
    };
    let tapes = podman.folder.path().join("archives/recordings").join(&uid);
    let recorded = |count: u64| {
        let archive = until(&format!("{count} exchanges"), || {
            Archive::open(&tapes).ok().filter(|of| of.len() >= count)
        });
        all(&archive)
    };
    ask(&bank, "/etc/hostname?1");
    ask(&bank, "/etc/hostname?2");
    for exchange in recorded(2) {
        let of = &exchange.connection.workloads;
        let (client, server) = (of.client.clone().unwrap(), of.server.clone().unwrap());
        assert_eq!(client.pod.as_deref(), Some("cart-7d9f-x"));
        assert_eq!(server.pod.as_deref(), Some("bank-7d9f-y"));
        assert_eq!(server.container.as_deref(), Some("web"));
        assert_eq!(server.owner.as_deref(), Some("Deployment/bank"));
        assert!(server.cgroup.as_deref().unwrap().contains(&bank_id));
        assert!(exchange.complete());
    }

    // A container that is started again has another cgroup, and another address.
    run("podman", &["restart", "-t", "0", &podman.container("bank")]);
    let (_, again) = podman.known(&podman.container("bank"));
    ask(&again, "/etc/hostname?3");
    let exchanges = recorded(3);
    assert_eq!(
        targets(&exchanges),
        ["/etc/hostname?1", "/etc/hostname?2", "/etc/hostname?3"]
    );
    let last = exchanges
        .last()
        .unwrap()
        .connection
        .workloads
        .server
        .clone();
    assert_eq!(last.unwrap().pod.as_deref(), Some("bank-7d9f-y"));

    // Killed, it leaves its archives, and nothing in the kernel.
    let daemon = podman.container("daemon");
    let process = run(
        "podman",
        &["inspect", &daemon, "--format", "{{.State.Pid}}"],
    );
    let programs = programs_of(&process);
    assert!(
        programs.len() >= 2 && programs.is_subset(&loaded()),
        "{programs:?}"
    );
    run("podman", &["kill", &daemon]);
    until("nothing is left in the kernel", || {
        programs.is_disjoint(&loaded()).then_some(())
    });
    assert_eq!(recorded(3).len(), 3);
    let report = node.api.get("nodereports.tapedeck.dev", "", NODE).unwrap();
    let capabilities = &report["status"]["facts"]["capabilities"];
    assert_eq!(
        *capabilities,
        json!(["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"])
    );
}
