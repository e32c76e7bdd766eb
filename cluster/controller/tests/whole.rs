//! The whole way: a recording, a pod's traffic in the kernel, a snapshot, an archive on somebody's disk. The API server
//! is a stand-in and the pod a cgroup with the name that a kubelet gives it; the daemon, the controller and the command line are real.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "clippy sees a test in what is under #[test] only"
)]

mod common;
#[path = "../../store/tests/stores/moto.rs"]
mod moto;
#[path = "../../store/tests/stores/process.rs"]
mod process;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Cluster, KEYS, contents};
use serde_json::json;

const UID: &str = "c0000000-0000-4000-8000-00000000000a";

/// A program of the workspace, built beside that of this package.
fn program(name: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_BIN_EXE_tapedeck-controller"));
    Some(own.with_file_name(name)).filter(|path| path.is_file())
}

fn cgroups() -> Option<PathBuf> {
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .map(PathBuf::from)
        .find(|root| {
            root.join("cgroup.procs").is_file() && root.join("cgroup.controllers").is_file()
        })
}

/// What the test needs, or why it cannot be had.
fn needs() -> Result<(PathBuf, PathBuf, PathBuf), &'static str> {
    let is_root = fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .any(|line| line.starts_with("CapEff:") && !line.contains("0000000000000000"));
    let root = cgroups()
        .filter(|_| is_root)
        .ok_or("not root, or no cgroup2")?;
    let daemon = program("tapedeckd").ok_or("tapedeckd is not built")?;
    let cli = program("tapedeck").ok_or("tapedeck is not built")?;
    Ok((root, daemon, cli))
}

/// The cgroup of the only container of a pod, and all above it that is the test's.
struct Pod {
    top: PathBuf,
    folder: PathBuf,
}

impl Pod {
    fn new(root: &Path, test: &str) -> Self {
        let top = root.join(format!("tapedeck-whole-{test}-{}", std::process::id()));
        let folder = top.join(format!("kubepods/besteffort/pod{UID}/{}", container()));
        fs::create_dir_all(&folder).unwrap();
        Self { top, folder }
    }

    fn ask(&self, server: SocketAddr, path: &str) {
        let script = "echo $$ > \"$1/cgroup.procs\" && exec curl -sS -o /dev/null \"$2\"";
        let asked = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&self.folder)
            .arg(format!("http://{server}{path}"))
            .status()
            .unwrap();
        assert!(asked.success());
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let mut folder: &Path = &self.folder;
        while folder.starts_with(&self.top) {
            // One that is still busy is left to whoever looks.
            drop(fs::remove_dir(folder));
            folder = folder.parent().unwrap();
        }
    }
}

fn container() -> String {
    UID.replace('-', "").repeat(2)
}

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A service that says to each what it asked for.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
                request.push(byte[0]);
            }
            let text = String::from_utf8(request).unwrap();
            let body = format!("you asked for {}", text.split(' ').nth(1).unwrap());
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    });
    address
}

/// The node, and a pod on it.
fn seed(cluster: &Cluster) {
    for object in [
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-a" } }),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "shop-0", "namespace": "shop", "labels": { "app": "shop" },
                "annotations": { "kubernetes.io/config.hash": UID },
            },
            "spec": { "nodeName": "node-a", "containers": [{ "name": "web", "image": "x" }] },
            "status": { "containerStatuses": [{
                "name": "web", "containerID": format!("containerd://{}", container()), "image": "x",
                "imageID": "", "ready": true, "restartCount": 0,
            }] },
        }),
    ] {
        cluster.server.seed(&object).unwrap();
    }
}

#[test]
fn what_a_pod_says_is_recorded_taken_and_pulled_byte_for_byte() {
    the_whole_way("folder", &Cluster::new());
}

#[test]
fn the_same_by_way_of_s3() {
    if let Some(moto) = moto::start() {
        the_whole_way("s3", &Cluster::with_s3(moto.address()));
    }
}

fn the_whole_way(test: &str, cluster: &Cluster) {
    let (root, daemon, cli) = match needs() {
        Ok(needs) => needs,
        Err(why) => {
            let is_required =
                std::env::var_os("TAPEDECK_REQUIRE_PRIVILEGES").is_some_and(|v| v == "1");
            assert!(!is_required, "cannot be skipped: {why}");
            println!("skipped: {why}");
            return;
        }
    };
    let controller = cluster.controller("a");
    cluster.server.serve(
        "tapedeck-system",
        "tapedeck-controller:https",
        controller.address,
    );
    seed(cluster);
    let pod = Pod::new(&root, test);
    let folder = cluster.folder();
    let config = format!(
        "archive: {{ folder: {0}/tapes }}\ncontrol: {{ listen: '127.0.0.1:0' }}\n\
         capture: {{ cgroup: {1}, ignore_own_cgroup: false }}\n\
         kubernetes: {{ node: node-a, namespace: tapedeck-system, kubeconfig: {0}/kubeconfig, stores: {0}/stores.yaml }}\n",
        folder.display(),
        pod.top.display(),
    );
    fs::write(folder.join("tapedeckd.yaml"), config).unwrap();
    let log = fs::File::create(folder.join("tapedeckd.log")).unwrap();
    let _daemon = Running(
        Command::new(daemon)
            .arg("--config")
            .arg(folder.join("tapedeckd.yaml"))
            .envs(KEYS)
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap(),
    );
    fs::write(folder.join("admin"), cluster.kubeconfig("admin")).unwrap();
    let tapedeck = |args: &[&str]| {
        let done = Command::new(&cli)
            .args([
                "cluster",
                "--system-namespace",
                "tapedeck-system",
                "-n",
                "shop",
            ])
            .args(args)
            .env("KUBECONFIG", folder.join("admin"))
            .current_dir(folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success(),
            "{args:?}: {said}\n{}",
            cluster.logs()
        );
        String::from_utf8(done.stdout).unwrap()
    };
    let server = serve();
    // Its namespace is there: the pod is in it. The command waits until it is attached.
    tapedeck(&["record", "create", "shop", "-l", "app=shop"]);
    for path in ["/one", "/two", "/healthz", "/three"] {
        pod.ask(server, path);
    }
    tapedeck(&[
        "snapshot",
        "create",
        "friday",
        "--recording",
        "shop",
        "--filter",
        "request.path != '/healthz'",
    ]);
    tapedeck(&["pull", "friday", "-o", "friday.tape"]);
    // The snapshot alone: its parts are removed.
    cluster.wait("the parts to be gone", || {
        (cluster.stored_count() == 1).then_some(())
    });
    let pulled = contents(&folder.join("friday.tape"));
    let wanted = ["/one", "/two", "/three"].map(|path| {
        (
            path.to_owned(),
            format!("you asked for {path}").into_bytes(),
        )
    });
    assert_eq!(pulled, wanted);
    let listed = tapedeck(&["ls"]);
    assert!(
        listed.contains("1/1") && listed.contains("Ready"),
        "{listed}"
    );

    // And nothing stays behind.
    tapedeck(&["snapshot", "delete", "friday"]);
    tapedeck(&["record", "delete", "shop"]);
    cluster.wait("an empty store", || {
        (cluster.stored_count() == 0).then_some(())
    });
    cluster.wait("an empty node", || {
        let left = fs::read_dir(folder.join("tapes/recordings")).ok()?;
        (left.count() == 0).then_some(())
    });
}
