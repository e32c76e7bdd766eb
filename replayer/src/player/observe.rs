//! How busy the target is: what the kernel tells of a process, or of a cgroup.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whom to look at while a run lasts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Observe {
    /// One process, with all of its threads.
    Process(u32),
    /// A folder of cgroup v2, with all processes below it: a container, a pod, a service.
    Cgroup(PathBuf),
}

/// Why a text is no [`Observe`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is neither the number of a process nor the folder of a cgroup")]
pub struct ParseObserveError(String);

impl FromStr for Observe {
    type Err = ParseObserveError;

    fn from_str(text: &str) -> Result<Self, ParseObserveError> {
        if text.starts_with('/') {
            return Ok(Self::Cgroup(text.into()));
        }
        let pid = text.parse().map_err(|_| ParseObserveError(text.to_owned()));
        pid.map(Self::Process)
    }
}

impl fmt::Display for Observe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Cgroup(folder) => write!(f, "cgroup {}", folder.display()),
        }
    }
}

/// What a target took in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TargetSecond {
    /// Processor time over time: 1 is one whole processor.
    pub cpu: f64,
    /// Resident memory of a process, charged memory of a cgroup, in bytes.
    pub memory: u64,
    /// How much of the time something of it waited for a processor: of a cgroup the share of the
    /// time in which any task did (pressure stall information), of a process the sum over its
    /// threads. `None`: this kernel does not tell.
    pub waiting: Option<f64>,
}

/// What a target took in a run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TargetUse {
    /// What was looked at.
    pub what: String,
    /// See [`TargetSecond::cpu`]; over the whole run.
    pub cpu_mean: f64,
    /// Of the busiest second.
    pub cpu_max: f64,
    /// The most, in bytes.
    pub memory_max: u64,
    /// See [`TargetSecond::waiting`]; over the whole run.
    pub waiting_mean: Option<f64>,
    /// Of the worst second.
    pub waiting_max: Option<f64>,
}

/// Looks at a target about every second.
#[derive(Debug)]
pub(crate) struct Observer {
    observe: Observe,
    first: (Duration, Reading),
    last: (Duration, Reading),
    now: Option<TargetSecond>,
    cpu_max: f64,
    memory_max: u64,
    waiting_max: Option<f64>,
}

impl Observer {
    const EVERY: Duration = Duration::from_secs(1);

    pub(crate) fn new(observe: &Observe) -> io::Result<Self> {
        let first = Reading::take(observe)?;
        Ok(Self {
            observe: observe.clone(),
            first: (Duration::ZERO, first),
            last: (Duration::ZERO, first),
            now: None,
            cpu_max: 0.0,
            memory_max: first.memory,
            waiting_max: None,
        })
    }

    /// The second that was looked at last; `None`: the target has gone, or none is over.
    pub(crate) fn look(&mut self, elapsed: Duration) -> Option<TargetSecond> {
        if elapsed < self.last.0 + Self::EVERY {
            return self.now;
        }
        self.now = Reading::take(&self.observe).ok().map(|reading| {
            let second = reading.since(&self.last.1, elapsed.saturating_sub(self.last.0));
            self.last = (elapsed, reading);
            self.cpu_max = self.cpu_max.max(second.cpu);
            self.memory_max = self.memory_max.max(second.memory);
            let waiting = second.waiting.into_iter().chain(self.waiting_max);
            self.waiting_max = waiting.reduce(f64::max);
            second
        });
        self.now
    }

    /// What it took until it was looked at last.
    pub(crate) fn sum(mut self, elapsed: Duration) -> TargetUse {
        // A run may be shorter than a second.
        if self.last.0.is_zero() {
            self.last.0 = elapsed.saturating_sub(Self::EVERY);
            self.look(elapsed.max(Self::EVERY));
        }
        let whole = self
            .last
            .1
            .since(&self.first.1, self.last.0.saturating_sub(self.first.0));
        TargetUse {
            what: self.observe.to_string(),
            cpu_mean: whole.cpu,
            cpu_max: self.cpu_max.max(whole.cpu),
            memory_max: self.memory_max,
            waiting_mean: whole.waiting,
            waiting_max: self.waiting_max,
        }
    }
}

/// Counters of the kernel.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    cpu: Duration,
    memory: u64,
    waited: Option<Duration>,
}

impl Reading {
    fn take(observe: &Observe) -> io::Result<Self> {
        match observe {
            Observe::Process(pid) => Self::of_process(&PathBuf::from(format!("/proc/{pid}"))),
            Observe::Cgroup(folder) => Self::of_cgroup(folder),
        }
    }

    fn of_process(folder: &Path) -> io::Result<Self> {
        /// `USER_HZ`, on every architecture.
        const TICK: Duration = Duration::from_millis(10);
        let stat = fs::read_to_string(folder.join("stat"))?;
        let status = fs::read_to_string(folder.join("status"))?;
        // The name in parentheses may contain anything. Fields 14 and 15 of proc(5); 3 comes behind.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let mut fields = fields.split_ascii_whitespace().skip(14 - 3);
        let mut ticks = || fields.next()?.parse::<u32>().ok();
        let cpu = ticks()
            .zip(ticks())
            .map(|(user, system)| TICK * user + TICK * system);
        // A process that is ending has none.
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(Self {
            cpu: cpu.ok_or(io::ErrorKind::InvalidData)?,
            memory: kib.unwrap_or(0).saturating_mul(1024),
            waited: waited_of_threads(folder),
        })
    }

    fn of_cgroup(folder: &Path) -> io::Result<Self> {
        let stat = fs::read_to_string(folder.join("cpu.stat"))?;
        let usage = stat
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        let usage = usage.and_then(|usage| usage.trim().parse().ok());
        // The root has no limit, and thus nothing that is charged.
        let memory = fs::read_to_string(folder.join("memory.current")).unwrap_or_default();
        let pressure = fs::read_to_string(folder.join("cpu.pressure")).unwrap_or_default();
        let some = pressure.lines().find_map(|line| line.strip_prefix("some "));
        let total = some.and_then(|some| some.rsplit_once("total="));
        Ok(Self {
            cpu: Duration::from_micros(usage.ok_or(io::ErrorKind::InvalidData)?),
            memory: memory.trim().parse().unwrap_or(0),
            waited: total
                .and_then(|(_, total)| total.trim().parse().ok())
                .map(Duration::from_micros),
        })
    }

    fn since(&self, before: &Self, elapsed: Duration) -> TargetSecond {
        let share = |time: Duration| match elapsed.is_zero() {
            true => 0.0,
            false => time.as_secs_f64() / elapsed.as_secs_f64(),
        };
        let waited = self.waited.zip(before.waited);
        TargetSecond {
            cpu: share(self.cpu.saturating_sub(before.cpu)),
            memory: self.memory,
            // Threads that have ended take their count with them.
            waiting: waited.map(|(now, then)| share(now.saturating_sub(then))),
        }
    }
}

/// The second number of schedstat: nanoseconds of waiting for a processor.
fn waited_of_threads(folder: &Path) -> Option<Duration> {
    let tasks = fs::read_dir(folder.join("task")).ok()?;
    let waited = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    });
    waited.reduce(u64::saturating_add).map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_shows() {
        let mut observer = Observer::new(&Observe::Process(std::process::id())).unwrap();
        assert!(
            observer.look(Duration::from_millis(999)).is_none(),
            "no second is over"
        );
        let begun = std::time::Instant::now();
        let busy = || Reading::take(&observer.observe).unwrap().cpu - observer.first.1.cpu;
        while busy() < Duration::from_millis(50) {
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
        let second = observer.look(Duration::from_secs(1)).unwrap();
        assert!(second.cpu >= 0.05, "{second:?}");
        assert!(second.memory > 1 << 20, "{second:?}");
        let sum = observer.sum(Duration::from_secs(1));
        assert!((sum.cpu_mean - second.cpu).abs() < 1e-9, "{sum:?}");
        assert!(sum.memory_max >= second.memory);
    }

    #[test]
    fn a_cgroup_is_read_as_the_kernel_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let observe = Observe::Cgroup(folder.path().to_owned());
        assert!(Observer::new(&observe).is_err(), "it is no cgroup");
        write(
            "cpu.stat",
            "usage_usec 1000000\nuser_usec 600000\nsystem_usec 400000\n",
        );
        write("memory.current", "4096\n");
        write(
            "cpu.pressure",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=500\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        );
        let mut observer = Observer::new(&observe).unwrap();
        write("cpu.stat", "usage_usec 4000000\n");
        write("memory.current", "8192\n");
        write(
            "cpu.pressure",
            "some avg10=9.00 avg60=0.00 avg300=0.00 total=500500\n",
        );
        let second = observer.look(Duration::from_secs(2)).unwrap();
        let expect = TargetSecond {
            cpu: 1.5,
            memory: 8192,
            waiting: Some(0.25),
        };
        assert_eq!(second, expect);
        // It goes away: that is no zero.
        fs::remove_file(folder.path().join("cpu.stat")).unwrap();
        assert_eq!(observer.look(Duration::from_secs(3)), None);
        assert_eq!(observer.sum(Duration::from_secs(3)).memory_max, 8192);
    }

    #[test]
    fn whom_to_look_at_is_read() {
        assert_eq!("77".parse(), Ok(Observe::Process(77)));
        assert_eq!("/a/b".parse(), Ok(Observe::Cgroup("/a/b".into())));
        for wrong in ["", "nginx", "-1", "7 7"] {
            assert!(wrong.parse::<Observe>().is_err(), "{wrong}");
        }
    }
}
