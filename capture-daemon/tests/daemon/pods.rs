//! Whose connections are: children of cgroups that are named as a kubelet names them.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tapedeck_archive::{Archive, Scratch};
use tapedeck_model::Workload;

use crate::support::{Daemon, config, get, is_possible, serve_at};

const UID: &str = "2f37bcd5-2d1e-4ac2-a8a3-cb8e6bc50d9f";
const ID: &str = "c7cb1e1b0a2a4f0f8e8e4f8e0f4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e";

/// A cgroup of a container, until it is dropped.
struct Container {
    top: PathBuf,
    folder: PathBuf,
}

impl Container {
    fn new() -> Self {
        let root = tapedeckd::sources::ebpf::cgroup_root().unwrap();
        let top = root.join(format!("tapedeck-pods-{}", std::process::id()));
        let folder = top.join(format!("kubepods/besteffort/pod{UID}/{ID}"));
        fs::create_dir_all(&folder).unwrap();
        Self { top, folder }
    }

    /// Runs curl in the cgroup.
    fn curl(&self, url: &str) {
        let script = "echo $$ > \"$1/cgroup.procs\" && exec curl -s -o /dev/null \"$2\"";
        let status = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&self.folder)
            .arg(url)
            .status()
            .unwrap();
        assert!(status.success(), "{url}");
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

#[test]
fn a_pod_is_named_even_when_it_is_gone_at_once_and_a_process_where_there_is_none() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("log");
    fs::create_dir_all(logs.join(format!("pods/shop_cart-0_{UID}/nginx"))).unwrap();
    fs::create_dir_all(logs.join("containers")).unwrap();
    fs::write(
        logs.join(format!("containers/cart-0_shop_nginx-{ID}.log")),
        "",
    )
    .unwrap();
    let archive = folder.path().join("tapes");
    // A free port; who opens a socket is known of those that are opened under the daemon's eyes.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = free.local_addr().unwrap();
    drop(free);
    let more = format!("attribution: {{ node_logs: {} }}\n", logs.display());
    let daemon = Daemon::start(folder.path(), &config(&archive, server.port(), &more));
    serve_at(server);
    // The cgroup lives as long as one request, and is gone before the exchange is looked at.
    let container = Container::new();
    container.curl(&format!("http://{server}/pod"));
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
