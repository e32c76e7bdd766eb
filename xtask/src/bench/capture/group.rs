//! Processor time: of a control group, and of the whole machine.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

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
///
/// All time but that in which they slept: the kernel measures their sleep from its beginning to its end, while
/// it only samples, at each tick of its clock, who runs. What is over before the next tick, as all that a
/// light load does, and what the tick itself wakes up, is counted far too low or far too high by that. What the
/// hypervisor stole is known as exactly as sleep, and is nobody's work here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Busy {
    at: Instant,
    processors: u32,
    slept: Duration,
}

impl Busy {
    pub(super) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("no /proc: not a Linux?")?;
        let at = Instant::now();
        let (processors, slept) = slept(&stat).context("/proc/stat is not as proc(5) says")?;
        Ok(Self {
            at,
            processors,
            slept,
        })
    }

    pub(super) fn since(self, before: Self) -> Duration {
        let elapsed = self.processors * self.at.duration_since(before.at);
        elapsed.saturating_sub(self.slept.saturating_sub(before.slept))
    }
}

/// How many processors there are, and for how long they slept or were not there: the idle, iowait and steal of the
/// first line.
fn slept(stat: &str) -> Option<(u32, Duration)> {
    let mut lines = stat.lines();
    let line = lines.next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u32> = line
        .split_whitespace()
        .map_while(|n| n.parse().ok())
        .collect();
    let (idle, iowait, steal) = (ticks.get(3)?, ticks.get(4)?, ticks.get(7)?);
    let processors = lines.take_while(|line| line.starts_with("cpu")).count();
    Some((processors.try_into().ok()?, TICK * (idle + iowait + steal)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_what_was_not_slept() {
        let at = Instant::now();
        let busy = |seconds, slept| Busy {
            at: at + Duration::from_secs(seconds),
            processors: 2,
            slept: Duration::from_secs(slept),
        };
        assert_eq!(busy(10, 107).since(busy(0, 100)), Duration::from_secs(13));
        // Two clocks: never less than nothing.
        assert_eq!(busy(10, 121).since(busy(0, 100)), Duration::ZERO);
    }

    #[test]
    fn the_kernels_files_are_read() {
        let stat = "cpu  100 20 30 4000 500 6 7 800 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(slept(stat), Some((1, Duration::from_secs(53))));
        assert_eq!(slept("intr 1"), None);
        let text = "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n";
        assert_eq!(usage(text), Some(Duration::from_micros(1_500)));
        assert_eq!(usage(""), None);
    }
}
