//! What to capture, and how.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::sources::{Action, Match, Policy};

/// A way to capture.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Backend {
    /// The best that kernel, privileges and the other options allow.
    #[default]
    Auto,
    /// BPF programs on a cgroup: [`crate::sources::ebpf`].
    Ebpf,
    /// A packet socket: [`crate::sources::af_packet`].
    AfPacket,
    /// The system's libpcap: [`crate::sources::libpcap`].
    Libpcap,
}

impl Backend {
    /// The ways, best first.
    pub const ALL: [Self; 3] = [Self::Ebpf, Self::AfPacket, Self::Libpcap];

    /// As on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ebpf => "ebpf",
            Self::AfPacket => "af-packet",
            Self::Libpcap => "libpcap",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What to capture, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The way. One that is named is never replaced by another.
    pub backend: Backend,
    /// The interface to listen on (AF_PACKET, libpcap); `None`: all.
    pub interface: Option<String>,
    /// The network namespace whose interfaces are meant (AF_PACKET, libpcap): `/run/netns/NAME`,
    /// `/proc/PID/ns/net`; `None`: that of this process.
    pub network_namespace: Option<PathBuf>,
    /// Which packets are taken, in the language of libpcap (libpcap); `None`: those of TCP.
    pub filter: Option<String>,
    /// The cgroup whose sockets are seen (eBPF); `None`: every socket of the machine.
    pub cgroup: Option<PathBuf>,
    /// Leave out the sockets of this process's own cgroup (eBPF). For a daemon in a container;
    /// a user's shell has its servers and clients in the same cgroup as us.
    pub ignore_own_cgroup: bool,
    /// Which connections, and how much of them.
    pub policy: Policy,
    /// Bytes of memory for packets that wait to be read. It must hold what arrives while a block
    /// is being compressed and written: at 1 GB/s, 32 MiB last for 30 ms.
    pub ring_bytes: usize,
    /// The threads that read packets, each the connections of its own; fewer where the source has
    /// fewer streams.
    pub threads: NonZeroUsize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backend: Backend::Auto,
            interface: None,
            network_namespace: None,
            filter: None,
            cgroup: None,
            ignore_own_cgroup: false,
            policy: Policy::default(),
            ring_bytes: 32 << 20,
            threads: NonZeroUsize::MIN,
        }
    }
}

impl Options {
    /// What the capture is limited to, in words; empty for everything.
    #[must_use]
    pub fn describe_filter(&self) -> String {
        let mut parts = Vec::new();
        if let Some(interface) = &self.interface {
            parts.push(format!("interface {interface}"));
        }
        if let Some(namespace) = &self.network_namespace {
            parts.push(format!("network namespace {}", namespace.display()));
        }
        if let Some(filter) = &self.filter {
            parts.push(filter.clone());
        }
        if let Some(cgroup) = &self.cgroup {
            parts.push(format!("cgroup {}", cgroup.display()));
        }
        match self.policy.as_ports().as_deref() {
            Some([]) => {}
            Some(ports) => parts.push(describe_ports(ports)),
            None => parts.extend(describe_rules(&self.policy)),
        }
        parts.join(", ")
    }
}

fn describe_ports(ports: &[u16]) -> String {
    let words: Vec<_> = ports.iter().map(u16::to_string).collect();
    let plural = if ports.len() == 1 { "" } else { "s" };
    format!("port{plural} {}", words.join(" "))
}

fn describe_sockets(cookies: &[u64]) -> String {
    let words: Vec<_> = cookies.iter().map(|cookie| format!("{cookie:x}")).collect();
    format!("sockets {}", words.join(" "))
}

fn describe_rules(policy: &Policy) -> Vec<String> {
    let verb = |action| match action {
        Action::Capture => "all of",
        Action::Headers => "heads of",
        Action::Ignore => "nothing of",
    };
    let mut parts: Vec<String> = policy
        .rules
        .iter()
        .map(|rule| {
            let of = match &rule.of {
                Match::Ports(ports) => describe_ports(ports),
                Match::Cgroup(path) => format!("cgroup {}", path.display()),
                Match::Cgroups(ids) => format!("{} cgroups", ids.len()),
                Match::Sockets(cookies) => describe_sockets(cookies),
            };
            let share = if rule.sample < 1.0 {
                format!("{} % of ", rule.sample * 100.0)
            } else {
                String::new()
            };
            format!("{share}{} {of}", verb(rule.action))
        })
        .collect();
    parts.push(format!("{} the rest", verb(policy.otherwise)));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Rule;

    #[test]
    fn a_filter_is_described_in_words() {
        let mut options = Options::default();
        assert_eq!(options.describe_filter(), "");
        options.interface = Some("eth0".into());
        options.policy = Policy::only_ports(&[80]);
        assert_eq!(options.describe_filter(), "interface eth0, port 80");
        options.policy = Policy::only_ports(&[80, 8080]);
        options.interface = None;
        options.cgroup = Some("/a".into());
        assert_eq!(options.describe_filter(), "cgroup /a, ports 80 8080");
        options.cgroup = None;
        options.policy.rules.push(Rule {
            of: Match::Cgroup("/b".into()),
            action: Action::Headers,
            sample: 0.25,
        });
        assert_eq!(
            options.describe_filter(),
            "all of ports 80 8080, 25 % of heads of cgroup /b, nothing of the rest"
        );
    }
}
