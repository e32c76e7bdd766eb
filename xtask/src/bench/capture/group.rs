//! The processor time of a control group.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

/// A control group (version 2) for the processes of one run. Removed with its last process.
pub(super) struct Group(PathBuf);

impl Group {
    pub(super) fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/self/mounts").context("no /proc: not a Linux?")?;
        let root = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then_some(path)
        });
        let root = root.context("no cgroup2 file system is mounted")?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tapedeck-bench-{}-{number}", std::process::id());
        let path = PathBuf::from(root).join(name);
        fs::create_dir(&path)
            .with_context(|| format!("failed to make the cgroup {}", path.display()))?;
        Ok(Self(path))
    }

    /// A program that runs in the group from its first instruction on.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        let procs = self.0.join("cgroup.procs");
        command
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(procs)
            .arg(program)
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            );
        command
    }

    /// User and system time of all its processes, those that have ended included.
    pub(super) fn processor_time(&self) -> Result<Duration> {
        let path = self.0.join("cpu.stat");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        usage(&text).context("cpu.stat tells no usage")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel needs a moment for processes that have just ended.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn usage(text: &str) -> Option<Duration> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    line?.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_file_is_read() {
        let text = "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n";
        assert_eq!(usage(text), Some(Duration::from_micros(1_500)));
        assert_eq!(usage(""), None);
    }
}
