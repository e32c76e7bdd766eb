//! What this machine lets the player have, and what it takes of it.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::player::plan::Plan;
use crate::player::run::RunError;
use crate::player::transport::Destination;
use crate::player::worker::Part;

/// Descriptors that are not connections: the archive, outputs, standard streams, and what few workers need.
const OTHER_DESCRIPTORS: u64 = 64;
/// A worker's event loop, and its timers.
const OF_WORKER: u64 = 6;

/// Raises the soft limit of file descriptors to the hard one, as servers do, and gives the number
/// of connections that it allows.
pub(crate) fn raise_descriptor_limit(plan: &Plan) -> u32 {
    // Each arrival rate, and each recording, has a timer of its own.
    let of_worker = |parts: &Vec<Part>| OF_WORKER + parts.len() as u64;
    let others = plan
        .parts
        .iter()
        .map(of_worker)
        .sum::<u64>()
        .max(OTHER_DESCRIPTORS);
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let effective = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    effective.map_or(u32::MAX, |limit| {
        u32::try_from(limit.saturating_sub(others)).unwrap_or(u32::MAX)
    })
}

/// Local ports for connections to one address.
fn local_ports() -> Option<u64> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = range.split_ascii_whitespace().map(str::parse::<u64>);
    let (from, until) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some(until.saturating_sub(from) + 1)
}

/// Refuses what needs more local ports than there are; gives how many there are, where that can be told.
pub(crate) fn check_ports(destination: &Destination, needed: u64) -> Result<Option<u64>, RunError> {
    let Destination::Tcp(names) = destination else {
        return Ok(None);
    };
    let addresses = names.addresses.len();
    let Some(allowed) = local_ports().map(|ports| ports * addresses as u64) else {
        return Ok(None);
    };
    if needed > allowed {
        return Err(RunError::TooFewPorts {
            needed,
            allowed,
            addresses,
        });
    }
    Ok(Some(allowed))
}

/// What this machine may turn out to be short of, where the target is slow: that is told before the run, and not only
/// by the requests that are not sent then.
pub(crate) fn scarce(plan: &Plan, descriptors: u32, ports: Option<u64>) -> Vec<String> {
    let most = plan.most_connections;
    let short = |allowed: u64, what: &str, advice: &str| {
        (most > allowed).then(|| {
            format!(
                "up to {most} connections may be needed at once if the target is slow, and {what} {allowed}: what finds \
                 none is not sent; {advice}, or share connections (--connections N)"
            )
        })
    };
    let descriptors = short(
        descriptors.into(),
        "this process may open",
        "raise the limit (ulimit -n)",
    );
    let ports = ports.and_then(|ports| {
        let advice = "widen net.ipv4.ip_local_port_range";
        short(ports, "there are local ports for", advice)
    });
    descriptors.into_iter().chain(ports).collect()
}

pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Whether this process is stopped for a while when it takes more processor time than it is allowed: it had better
/// sleep when it has nothing to do.
pub(crate) fn has_quota() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let may_use = std::thread::available_parallelism();
    // The standard library counts whole processors of a cgroup's quota; the kernel's mask knows nothing of it.
    allowed_processors(&status)
        .zip(may_use.ok())
        .is_some_and(|(allowed, may_use)| may_use.get() < allowed)
}

/// Processors that threads may be on, as proc(5) has them: `Cpus_allowed: f,ffffffff`.
fn allowed_processors(status: &str) -> Option<usize> {
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("Cpus_allowed:"))?;
    let mut words = mask.trim().split(',');
    words.try_fold(0, |sum, word| {
        let word = u32::from_str_radix(word, 16).ok()?;
        Some(sum + word.count_ones() as usize)
    })
}

/// Processor time over time: 1 is one whole processor.
pub(crate) fn share_of(cpu: Duration, elapsed: Duration) -> f64 {
    if elapsed.is_zero() {
        0.0
    } else {
        cpu.as_secs_f64() / elapsed.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_as_proc_says() {
        let of = |mask: &str| allowed_processors(&format!("Name:\ta\nCpus_allowed:\t{mask}\n"));
        assert_eq!(of("3"), Some(2));
        assert_eq!(of("f,ffffffff,00000001"), Some(37));
        assert_eq!(
            (of(""), of("x"), allowed_processors("")),
            (None, None, None)
        );
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let own = allowed_processors(&status).unwrap();
        assert!(own >= std::thread::available_parallelism().unwrap().get());
    }
}
