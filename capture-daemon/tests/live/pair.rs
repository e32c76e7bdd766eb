//! Two network namespaces, as a node and a pod are.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::support::skip;

/// Two namespaces, until it is dropped.
pub(crate) struct Pair {
    pub(crate) names: [String; 2],
    /// What children are started with: a program and its arguments.
    by: Vec<String>,
}

impl Pair {
    /// With nothing in them, not even loopback. `None`, and a line that says why, where this machine
    /// cannot.
    pub(crate) fn bare(test: &str) -> Option<Self> {
        let process = std::process::id();
        let pair = Self {
            names: ["a", "b"].map(|end| format!("tapedeck-{test}-{process}-{end}")),
            by: Vec::new(),
        };
        for name in &pair.names {
            if let Err(error) = ip(&format!("netns add {name}")) {
                skip(&error);
                return None;
            }
        }
        Some(pair)
    }

    /// With a veth pair between them, whose ends are 10.211.0.1 and .2, fd00:211::1 and ::2.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let pair = Self::bare(test)?;
        let [a, b] = &pair.names;
        let link = format!("link add veth0 netns {a} type veth peer name veth0 netns {b}");
        if let Err(error) = ip(&link) {
            skip(&error);
            return None;
        }
        for (name, host) in [(a, 1), (b, 2)] {
            ip(&format!(
                "-n {name} address add 10.211.0.{host}/24 dev veth0"
            ))
            .unwrap();
            ip(&format!(
                "-n {name} address add fd00:211::{host}/64 dev veth0 nodad"
            ))
            .unwrap();
            ip(&format!("-n {name} link set veth0 up")).unwrap();
        }
        Some(pair)
    }

    /// Keeps children in both namespaces, and so the packets between them, on one processor: the first
    /// that this process may use.
    pub(crate) fn on_one_processor(&mut self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let mut lines = status.lines();
        let allowed = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let first = allowed.unwrap().trim().split(['-', ',']).next().unwrap();
        self.by = ["taskset", "--cpu-list", first].map(str::to_owned).into();
    }

    /// The file that names that namespace.
    pub(crate) fn path(&self, end: usize) -> PathBuf {
        format!("/run/netns/{}", self.names[end]).into()
    }

    /// What that namespace's TCP counted so far, by the kernel's names (`nstat` prints the same).
    pub(crate) fn counters(&self, end: usize) -> BTreeMap<String, u64> {
        let output = self
            .command(end, "cat")
            .args(["/proc/net/snmp", "/proc/net/netstat"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        // A line of names, then one of numbers.
        let of_tcp = lines
            .chunks_exact(2)
            .filter(|two| two[0].starts_with("Tcp"));
        of_tcp
            .flat_map(|two| two[0].split(' ').zip(two[1].split(' ')).skip(1))
            .map(|(name, number)| (name.to_owned(), number.parse().unwrap_or_default()))
            .collect()
    }

    /// A program that is to run in the namespace of that number.
    pub(crate) fn command(&self, end: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.names[end]])
            .arg(program);
        command
    }

    /// Runs a test of this program in the namespace of that number: a child, which finds the address
    /// by [`address_for_child`].
    fn run(&self, end: usize, test: &str, address: SocketAddr) -> Child {
        let test_program = std::env::current_exe().unwrap();
        let mut command = match self.by.split_first() {
            Some((by, arguments)) => {
                let mut command = self.command(end, by);
                command.args(arguments).arg(test_program);
                command
            }
            None => self.command(end, test_program),
        };
        command
            .args(["--exact", test, "--nocapture"])
            .env("TAPEDECK_TEST_ADDRESS", address.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Lets a child in the second namespace serve, which says `listening` when it does, and one in
    /// the first talk to it; waits for the end of both.
    pub(crate) fn converse(&self, server: SocketAddr, serve: &str, talk: &str) {
        let mut serving = self.run(1, serve, server);
        // Kept until the end, as the child's test runner fails without somebody to tell.
        let mut lines = BufReader::new(serving.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("listening")));
        let talking = self.run(0, talk, server).wait_with_output().unwrap();
        assert!(talking.status.success());
        assert!(serving.wait().unwrap().success());
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            // What is in a namespace goes with it. One that was never made needs no report.
            drop(ip(&format!("netns delete {name}")));
        }
    }
}

pub(crate) fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {arguments}: {}", stderr.trim()))
}

/// The address that a child is to use; `None` where this process is no child.
pub(crate) fn address_for_child() -> Option<SocketAddr> {
    let address = std::env::var("TAPEDECK_TEST_ADDRESS").ok()?;
    Some(address.parse().unwrap())
}
