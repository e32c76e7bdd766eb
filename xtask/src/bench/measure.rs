//! Running a program on one core, and what that took.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::shell::line;

/// How often a program's memory is looked at. The kernel keeps the peak, so that only what a program
/// takes in its last moment is missed.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Linux counts processor time in hundredths of a second for user space, on every architecture
/// (`USER_HZ`).
pub(super) const TICK: Duration = Duration::from_millis(10);

/// What one run took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// User and system time of all threads. On a machine that does other things, too, this is the
    /// steadier figure; on an idle one it is the time on the clock, since there is one core.
    pub(crate) cpu: Duration,
    /// The time on the clock.
    pub(crate) wall: Duration,
    /// The peak of resident memory, in KiB (`VmHWM`).
    pub(crate) resident_kib: u64,
}

/// The same program, to be pinned to a core.
pub(crate) fn pinned(core: usize, program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program);
    command.args(args);
    command
}

/// The median cost of some runs of a program. Its output is dropped.
pub(crate) fn median(runs: usize, command: impl Fn() -> Command) -> Result<Cost> {
    let mut costs = Vec::new();
    for _ in 0..runs.max(1) {
        costs.push(once(&mut command())?);
    }
    let mut cpu: Vec<_> = costs.iter().map(|cost| cost.cpu).collect();
    let mut wall: Vec<_> = costs.iter().map(|cost| cost.wall).collect();
    cpu.sort_unstable();
    wall.sort_unstable();
    Ok(Cost {
        cpu: cpu[cpu.len() / 2],
        wall: wall[wall.len() / 2],
        resident_kib: costs
            .iter()
            .map(|cost| cost.resident_kib)
            .max()
            .unwrap_or(0),
    })
}

/// The cost of one run.
pub(crate) fn once(command: &mut Command) -> Result<Cost> {
    once_into(command, Stdio::null())
}

/// The same, and its output goes there.
pub(crate) fn once_into(command: &mut Command, out: Stdio) -> Result<Cost> {
    let before = children_cpu()?;
    let start = Instant::now();
    let mut child = command
        .stdout(out)
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("failed to start {}", line(command)))?;
    let resident_kib = watch(&mut child)?;
    let wall = start.elapsed();
    let status = child.wait()?;
    ensure!(status.success(), "{} failed: {status}", line(command));
    Ok(Cost {
        cpu: children_cpu()?.saturating_sub(before),
        wall,
        resident_kib,
    })
}

/// Waits for a program, and says how much memory it had at most, in KiB.
fn watch(child: &mut Child) -> Result<u64> {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        if let Some(kib) = fs::read_to_string(&status).ok().as_deref().and_then(vm_hwm) {
            peak = kib;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(peak)
}

fn vm_hwm(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// User and system time of the children that were waited for.
fn children_cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").context("no /proc: not a Linux?")?;
    cutime_and_cstime(&stat).context("/proc/self/stat is not as proc(5) says")
}

fn cutime_and_cstime(stat: &str) -> Option<Duration> {
    times_from(16, stat)
}

/// User and system time of another process.
pub(crate) fn cpu_of(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    times_from(14, &stat).with_context(|| format!("{path} is not as proc(5) says"))
}

/// The sum of two neighbours among the fields of proc(5), from this one on.
fn times_from(field: usize, stat: &str) -> Option<Duration> {
    // The name in parentheses may contain anything; field 3 comes behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(field - 3);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(TICK * (ticks()? + ticks()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_as_the_manual_says() {
        let stat = "77 (a) b c) S 1 2 3 4 5 6 7 8 9 10 11 12 250 50 20 0 1 0\n";
        assert_eq!(cutime_and_cstime(stat), Some(Duration::from_secs(3)));
        assert_eq!(times_from(14, stat), Some(Duration::from_millis(230)));
        assert_eq!(cutime_and_cstime("77 (a"), None);
        assert_eq!(vm_hwm("VmPeak:\t 9 kB\nVmHWM:\t    5120 kB\n"), Some(5120));
        assert_eq!(vm_hwm("State:\tZ (zombie)\n"), None);
    }

    #[test]
    fn a_run_costs_something() {
        let cost = once(&mut Command::new("true")).unwrap();
        assert!(cost.wall > Duration::ZERO);
        assert!(once(&mut Command::new("false")).is_err());
    }
}
