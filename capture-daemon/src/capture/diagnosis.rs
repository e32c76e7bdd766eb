//! What live capture would need on this machine, and what it would see.
//!
//! The judge is the kernel: each backend is opened for a moment, with rules that take nothing, in
//! the same way as for a recording. What is read beside that explains the verdict.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::open::{allowed, open_one};
use crate::capture::{Backend, OpenError, Options};
use crate::sources::{
    Action, Match, Needed, Policy, Rule, SourceError, af_packet, ebpf, is_effective, libpcap,
};
use crate::words::in_words;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// The kernel and this process.
    pub machine: Machine,
    /// Each backend, best first.
    pub backends: Vec<Prognosis>,
    /// The backend that a recording with these options takes; `None`: none can capture.
    pub choice: Option<&'static str>,
}

/// The kernel, and what it allows this process.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The release of the kernel.
    pub kernel: String,
    /// Where the cgroup2 file system is mounted.
    pub cgroup2: Option<PathBuf>,
    /// Whether its root is the machine's, and not that of a cgroup namespace.
    pub cgroup2_is_whole: bool,
    /// Whether the kernel describes its types (BTF). Nothing here needs it; reading TLS from
    /// processes will.
    pub btf: bool,
    /// The kernel's lockdown mode; `None` where it has none.
    pub lockdown: Option<String>,
    /// `kernel.unprivileged_bpf_disabled`; `None` where it cannot be read.
    pub unprivileged_bpf_disabled: Option<u8>,
    /// Whether a seccomp filter may refuse system calls to this process, as those of container
    /// runtimes refuse bpf(2).
    pub seccomp_filter: bool,
    /// Whether this process sees the processes of the whole machine.
    pub pid_namespace_is_whole: bool,
    /// The capabilities in effect, among those that a backend needs.
    pub capabilities: Vec<String>,
}

/// A backend.
#[derive(Clone, Debug, Serialize)]
pub struct Prognosis {
    /// Its name, as `--backend` takes it.
    pub backend: &'static str,
    /// Whether it can capture.
    pub usable: bool,
    /// What it needs.
    pub needs: Vec<Need>,
    /// What it would see.
    pub sees: Vec<Sight>,
}

/// Something that a backend needs.
#[derive(Clone, Debug, Serialize)]
pub struct Need {
    /// What.
    pub what: String,
    /// Whether it is there.
    pub met: bool,
    /// How it stands here.
    pub here: String,
    /// How it can be given, where it is missing.
    pub remedy: Option<String>,
}

/// What a backend would see of something.
#[derive(Clone, Debug, Serialize)]
pub struct Sight {
    /// Of what.
    pub of: &'static str,
    /// How much.
    pub seen: String,
}

/// Ring buffers came with this release of Linux.
const EBPF_FLOOR: (u32, u32) = (5, 8);
/// TPACKET_V3 came with this one.
const AF_PACKET_FLOOR: (u32, u32) = (3, 2);

/// For trials: the smallest ring of any backend.
const TRIAL_RING: usize = 1 << 20;

/// Looks at everything that live capture with these options needs.
///
/// # Errors
///
/// When the options contradict each other.
pub fn diagnose(options: &Options) -> Result<Diagnosis, OpenError> {
    let machine = Machine::read();
    let allowed = allowed(options)?;
    let backends: Vec<_> = Backend::ALL
        .into_iter()
        .filter(|backend| allowed.contains(backend) || options.backend == Backend::Auto)
        .map(|backend| prognosis(backend, options, &machine))
        .collect();
    let choice = backends
        .iter()
        .find(|prognosis| {
            let is_allowed = |backend: &Backend| backend.name() == prognosis.backend;
            prognosis.usable && allowed.iter().any(is_allowed)
        })
        .map(|prognosis| prognosis.backend);
    Ok(Diagnosis {
        machine,
        backends,
        choice,
    })
}

fn prognosis(backend: Backend, options: &Options, machine: &Machine) -> Prognosis {
    let mut needs = match backend {
        Backend::Auto | Backend::Ebpf => ebpf_needs(machine),
        Backend::AfPacket => {
            let mut needs = vec![kernel(
                machine,
                AF_PACKET_FLOOR,
                "memory-mapped packet rings",
            )];
            needs.extend(capabilities(packet_needs(options)));
            needs
        }
        Backend::Libpcap => {
            let mut needs = vec![built_with_libpcap()];
            needs.extend(capabilities(packet_needs(options)));
            needs
        }
    };
    let trial = try_out(backend, options);
    let usable = trial.is_ok();
    if usable {
        // Newer kernels let CAP_SYS_ADMIN stand for CAP_NET_ADMIN, too (BPF tokens, Linux 6.9).
        for need in needs.iter_mut().filter(|need| !need.met) {
            need.met = true;
            need.here.push_str(", and this kernel does without");
            need.remedy = None;
        }
    }
    // A missing capability was said, one by one, and so was a missing library.
    let is_said = matches!(
        &trial,
        Err(SourceError::MissingCapabilities(_) | SourceError::NotBuilt { .. })
    );
    if !is_said {
        needs.push(outcome(backend, trial, machine));
    }
    Prognosis {
        backend: backend.name(),
        usable,
        needs,
        sees: sights(backend, options, machine),
    }
}

fn packet_needs(options: &Options) -> &'static [Needed] {
    if options.network_namespace.is_some() {
        af_packet::NEEDS_ELSEWHERE
    } else {
        af_packet::NEEDS
    }
}

/// Opens the backend and closes it again; no packet passes its rules.
fn try_out(backend: Backend, options: &Options) -> Result<(), SourceError> {
    let nothing = match backend {
        // Its rules can say so.
        Backend::Auto | Backend::Ebpf => Policy {
            rules: Vec::new(),
            otherwise: Action::Ignore,
        },
        // No packet has this port.
        Backend::AfPacket | Backend::Libpcap => Policy {
            rules: vec![Rule {
                of: Match::Ports(vec![0]),
                action: Action::Capture,
                sample: 1.0,
            }],
            otherwise: Action::Ignore,
        },
    };
    let options = Options {
        policy: nothing,
        ring_bytes: TRIAL_RING,
        ..options.clone()
    };
    open_one(backend, &options).map(drop)
}

fn outcome(backend: Backend, trial: Result<(), SourceError>, machine: &Machine) -> Need {
    let what = "the kernel's consent".to_owned();
    let Err(error) = trial else {
        return Need {
            what,
            met: true,
            here: "tried: opened and closed again".to_owned(),
            remedy: None,
        };
    };
    let remedy = match &error {
        SourceError::Bpf(_) if machine.seccomp_filter => {
            Some("allow bpf(2) in the container's seccomp profile".to_owned())
        }
        SourceError::Bpf(_) if backend == Backend::Ebpf => {
            Some("see what the kernel says (dmesg), or use af-packet".to_owned())
        }
        _ => None,
    };
    Need {
        what,
        met: false,
        here: in_words(&error),
        remedy,
    }
}

fn ebpf_needs(machine: &Machine) -> Vec<Need> {
    let mut needs = vec![kernel(machine, EBPF_FLOOR, "BPF ring buffers")];
    needs.push(Need {
        what: "a cgroup2 file system".to_owned(),
        met: machine.cgroup2.is_some(),
        here: machine.cgroup2.as_deref().map_or_else(
            || "not mounted".to_owned(),
            |path| path.display().to_string(),
        ),
        remedy: Some("mount -t cgroup2 none /sys/fs/cgroup/unified".to_owned())
            .filter(|_| machine.cgroup2.is_none()),
    });
    needs.extend(capabilities(ebpf::NEEDS));
    needs
}

fn kernel(machine: &Machine, (major, minor): (u32, u32), with: &str) -> Need {
    let met = release(&machine.kernel).is_some_and(|release| release >= (major, minor));
    Need {
        what: format!("Linux {major}.{minor}, with {with}"),
        met,
        here: machine.kernel.clone(),
        remedy: (!met).then(|| "a newer kernel, or another backend".to_owned()),
    }
}

fn built_with_libpcap() -> Need {
    let met = libpcap::IS_BUILT;
    Need {
        what: "a build with libpcap".to_owned(),
        met,
        here: if met { "it is" } else { "it is not" }.to_owned(),
        remedy: (!met).then(|| "cargo build --features libpcap".to_owned()),
    }
}

fn capabilities(needed: &'static [Needed]) -> impl Iterator<Item = Need> {
    let all: Vec<_> = needed
        .iter()
        .map(|needed| needed.capability.to_string().to_lowercase())
        .collect();
    let remedy = format!("run as root, or: setcap {}+ep PROGRAM", all.join(","));
    needed.iter().map(move |needed| {
        let Needed {
            capability,
            what_for,
        } = needed;
        let met = is_effective(*capability);
        Need {
            what: format!("{capability}, for {what_for}"),
            met,
            here: if met { "in effect" } else { "not in effect" }.to_owned(),
            remedy: (!met).then(|| remedy.clone()),
        }
    })
}

fn sights(backend: Backend, options: &Options, machine: &Machine) -> Vec<Sight> {
    let sight = |of, seen: &str| Sight {
        of,
        seen: seen.to_owned(),
    };
    match backend {
        Backend::Auto | Backend::Ebpf => {
            let sockets = match &options.cgroup {
                Some(cgroup) => format!("those of {} and below", cgroup.display()),
                None if machine.cgroup2_is_whole => "all of the machine".to_owned(),
                None => "those below this container's cgroup: its cgroup namespace is not the \
                         machine's"
                    .to_owned(),
            };
            let processes = if machine.pid_namespace_is_whole {
                "container and pod, else process name and id"
            } else {
                "container and pod; process ids are those of the machine, which are unknown here"
            };
            vec![
                Sight {
                    of: "sockets",
                    seen: sockets,
                },
                sight("loopback", "yes, each packet once"),
                sight("pods and other network namespaces", "yes, all of them"),
                sight("super-packets (GSO, GRO)", "whole, up to 512 KiB"),
                sight("whose a connection is", processes),
                sight(
                    "what never is a packet",
                    "no: Unix sockets, sockets joined by a sockmap",
                ),
            ]
        }
        Backend::AfPacket | Backend::Libpcap => {
            let interfaces = match &options.interface {
                Some(name) => name.as_str(),
                None => "all of them; a packet that passes several is told apart",
            };
            let elsewhere = match &options.network_namespace {
                Some(_) => "the one that was named only",
                None => "no: only what passes this one's interfaces (veth, bridge)",
            };
            let long = if backend == Backend::Libpcap {
                "cut above 256 KiB, which is counted"
            } else {
                "whole, up to 512 KiB"
            };
            vec![
                sight("interfaces", interfaces),
                sight("loopback", "yes, each packet once"),
                sight("pods and other network namespaces", elsewhere),
                sight("super-packets (GSO, GRO)", long),
                sight("whose a connection is", "no: packets tell no socket"),
            ]
        }
    }
}

impl Machine {
    /// What can be read of the kernel and this process.
    #[must_use]
    pub fn read() -> Self {
        let cgroup2 = ebpf::cgroup_root().ok();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let text = |path: &str| {
            let text = fs::read_to_string(path).ok()?;
            Some(text.trim().to_owned())
        };
        Self {
            kernel: text("/proc/sys/kernel/osrelease").unwrap_or_default(),
            cgroup2_is_whole: cgroup2.as_deref().is_some_and(ebpf::is_root_of_all),
            cgroup2,
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            lockdown: text("/sys/kernel/security/lockdown").and_then(|modes| chosen(&modes)),
            unprivileged_bpf_disabled: text("/proc/sys/kernel/unprivileged_bpf_disabled")
                .and_then(|number| number.parse().ok()),
            seccomp_filter: field(&status, "Seccomp").is_some_and(|mode| mode == "2"),
            // In the first namespace, process 2 is the kernel's.
            pid_namespace_is_whole: text("/proc/2/comm").is_some_and(|name| name == "kthreadd"),
            capabilities: ebpf::NEEDS
                .iter()
                .chain(af_packet::NEEDS_ELSEWHERE)
                .filter(|needed| is_effective(needed.capability))
                .map(|needed| needed.capability.to_string())
                .collect(),
        }
    }
}

/// `6.18` of `6.18.44-fc-v595`.
pub(super) fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The word in brackets of `none [integrity] confidentiality`.
fn chosen(modes: &str) -> Option<String> {
    let (_, rest) = modes.split_once('[')?;
    let (mode, _) = rest.split_once(']')?;
    Some(mode.to_owned())
}

/// A field of `/proc/PID/status`.
pub(super) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        assert_eq!(release("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(release("5.4.0"), Some((5, 4)));
        assert_eq!(release("6.1-rc3"), Some((6, 1)));
        assert_eq!(release("unknown"), None);
        let modes = "none [integrity] confidentiality";
        assert_eq!(chosen(modes).as_deref(), Some("integrity"));
        assert_eq!(chosen("none"), None);
        let status = "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(field(status, "Seccomp"), Some("2"));
        assert_eq!(field(status, "NoNewPrivs"), None);
    }

    #[test]
    fn a_kernel_below_the_floor_is_a_need_with_a_remedy() {
        let mut machine = Machine::read();
        machine.kernel = "5.7.19".to_owned();
        machine.cgroup2 = None;
        let needs = ebpf_needs(&machine);
        let missing: Vec<_> = needs
            .iter()
            .filter(|need| !need.met)
            .map(|need| (need.what.as_str(), need.remedy.is_some()))
            .collect();
        assert_eq!(missing[0], ("Linux 5.8, with BPF ring buffers", true));
        assert_eq!(missing[1], ("a cgroup2 file system", true));
    }
}
