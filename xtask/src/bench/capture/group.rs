//! Processor time: of a control group, and of the whole machine.

use std::fs;
use std::ops::Sub;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

/// Linux counts processor time in hundredths of a second for user space, on every architecture
/// (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

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

/// The time in which the processors of the machine did something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Busy(Duration);

impl Busy {
    pub(super) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("no /proc: not a Linux?")?;
        let busy = busy(&stat).context("/proc/stat is not as proc(5) says")?;
        Ok(Self(busy))
    }
}

impl Sub for Busy {
    type Output = Duration;

    fn sub(self, before: Self) -> Duration {
        self.0.saturating_sub(before.0)
    }
}

/// User, nice, system, irq and softirq of the first line; not idle, iowait, and what the hypervisor
/// stole.
fn busy(stat: &str) -> Option<Duration> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u32> = line
        .split_whitespace()
        .map_while(|n| n.parse().ok())
        .collect();
    let of = |index: usize| ticks.get(index).copied();
    Some(TICK * (of(0)? + of(1)? + of(2)? + of(5)? + of(6)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let stat = "cpu  100 20 30 4000 500 6 7 800 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy(stat), Some(Duration::from_millis(1_630)));
        assert_eq!(busy("intr 1"), None);
        let text = "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n";
        assert_eq!(usage(text), Some(Duration::from_micros(1_500)));
        assert_eq!(usage(""), None);
    }
}
