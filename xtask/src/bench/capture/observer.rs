//! Whoever looks on: nobody, tcpdump, or Tapedeck with one of its backends.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::group::Group;
use super::{FOLDER, PROGRAM};
use crate::bench::nginx::Nginx;

/// Who looks on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Observer {
    Nobody,
    Tcpdump,
    Ebpf,
    AfPacket,
    Libpcap,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Exchanges that were archived; `None` where nobody counts them.
    pub(crate) exchanges: Option<u64>,
    /// Packets that the kernel dropped, and whatever else was said to be missing.
    pub(crate) lost: Vec<String>,
    /// Resident memory before the load.
    pub(crate) resident_at_rest_kib: u64,
    /// The most that there was.
    pub(crate) resident_kib: u64,
    /// The file's length.
    pub(crate) file_len: u64,
}

impl Observer {
    pub(super) const ALL: [Self; 5] = [
        Self::Nobody,
        Self::Tcpdump,
        Self::Ebpf,
        Self::AfPacket,
        Self::Libpcap,
    ];

    /// The order of one round. Without anybody three times: how far those runs are from each other is what
    /// the machine alone does.
    pub(super) const ROUND: [Self; 7] = [
        Self::Nobody,
        Self::Tcpdump,
        Self::Ebpf,
        Self::Nobody,
        Self::AfPacket,
        Self::Libpcap,
        Self::Nobody,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nothing",
            Self::Tcpdump => "`tcpdump -w`",
            Self::Ebpf => "**ebpf**",
            Self::AfPacket => "**af-packet**",
            Self::Libpcap => "**libpcap**",
        }
    }

    /// Starts it, and waits until it sees packets.
    pub(super) fn start(self, group: &Group, nginx: &Nginx) -> Result<Watching> {
        let (mut command, output, ready) = match self {
            Self::Nobody => return Ok(Watching::default()),
            Self::Tcpdump => (tcpdump(group, nginx), "capture.pcap", "listening on"),
            Self::Ebpf => (tapedeck(group, nginx, "ebpf"), "capture.tape", "recording"),
            Self::AfPacket => (
                tapedeck(group, nginx, "af-packet"),
                "capture.tape",
                "recording",
            ),
            Self::Libpcap => (
                tapedeck(group, nginx, "libpcap"),
                "capture.tape",
                "recording",
            ),
        };
        let output = PathBuf::from(FOLDER).join(output);
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", self.name()))?;
        let mut stderr = BufReader::new(child.stderr.take().context("no output")?);
        let mut line = String::new();
        while !line.contains(ready) {
            line.clear();
            let len = stderr.read_line(&mut line)?;
            ensure!(len > 0, "{} ended before it saw anything", self.name());
        }
        Ok(Watching {
            program: Some(Program {
                child,
                stderr,
                output,
            }),
        })
    }
}

fn tcpdump(group: &Group, nginx: &Nginx) -> Command {
    let mut command = group.command("tcpdump");
    command
        // As root, or it could not write where we do.
        .args(["-Z", "root", "-i", "lo", "-s", "0", "-w"])
        .arg(format!("{FOLDER}/capture.pcap"))
        .arg(format!(
            "tcp port {} or tcp port {}",
            nginx.http1, nginx.h2c
        ));
    command
}

fn tapedeck(group: &Group, nginx: &Nginx, backend: &str) -> Command {
    let mut command = group.command(PROGRAM);
    command.args(["record", "--force", "--backend", backend, "-o"]);
    command.arg(format!("{FOLDER}/capture.tape"));
    for port in [nginx.http1, nginx.h2c] {
        command.arg("--port").arg(port.to_string());
    }
    if backend != "ebpf" {
        command.args(["-i", "lo"]);
    }
    command
}

/// Somebody who looks on now.
#[derive(Default)]
pub(super) struct Watching {
    program: Option<Program>,
}

struct Program {
    child: Child,
    stderr: BufReader<ChildStderr>,
    output: PathBuf,
}

impl Watching {
    pub(super) const fn is_recording(&self) -> bool {
        self.program.is_some()
    }

    /// Resident memory now.
    pub(super) fn resident_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    fn status(&self, field: &str) -> u64 {
        let Some(program) = &self.program else {
            return 0;
        };
        let status = fs::read_to_string(format!("/proc/{}/status", program.child.id()));
        kib(&status.unwrap_or_default(), field).unwrap_or(0)
    }

    /// Lets it finish its file.
    pub(super) fn stop(&mut self, resident_at_rest_kib: u64) -> Result<Seen> {
        let resident_kib = self.status("VmHWM:");
        let Some(Program {
            mut child,
            mut stderr,
            output,
        }) = self.program.take()
        else {
            return Ok(Seen::default());
        };
        let pid = child.id().to_string();
        Command::new("kill").args(["-INT", &pid]).status()?;
        let mut said = String::new();
        stderr.read_to_string(&mut said)?;
        ensure!(child.wait()?.success(), "the recorder failed: {said}");
        let file_len = fs::metadata(&output)?.len();
        fs::remove_file(&output)?;
        Ok(Seen {
            exchanges: exchanges(&said),
            lost: lost(&said),
            resident_at_rest_kib,
            resident_kib,
            file_len,
        })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Where the load failed.
        if let Some(program) = &mut self.program {
            program.child.kill().ok();
            program.child.wait().ok();
        }
    }
}

fn kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// `FILE: 17 exchanges on 1 connections from ...`
fn exchanges(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.contains(" exchanges on "))?;
    let (before, _) = line.split_once(" exchanges on ")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// Tapedeck's warnings, and tcpdump's count of drops.
fn lost(said: &str) -> Vec<String> {
    let warnings = said
        .lines()
        .filter_map(|line| line.strip_prefix("warning: "));
    let drops = said
        .lines()
        .filter(|line| line.contains("dropped by kernel") && !line.starts_with('0'));
    let drops = drops.filter(|line| !line.starts_with("warning: "));
    warnings.chain(drops).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_recorders_say_is_read() {
        let said = "a/b.tape: 17 exchanges on 2 connections from 68 packets, 3.1 KiB\n\
                    warning: 4 packets dropped by the kernel before we saw them\n";
        assert_eq!(exchanges(said), Some(17));
        assert_eq!(
            lost(said),
            ["4 packets dropped by the kernel before we saw them"]
        );
        let said =
            "12 packets captured\n24 packets received by filter\n0 packets dropped by kernel\n";
        assert_eq!(exchanges(said), None);
        assert!(lost(said).is_empty());
        assert_eq!(lost("7 packets dropped by kernel\n").len(), 1);
        assert_eq!(kib("VmHWM:\t 9 kB\nVmRSS:\t 5 kB\n", "VmRSS:"), Some(5));
    }
}
