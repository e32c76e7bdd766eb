//! Why a source could not be opened, or failed later.

use std::fmt::{self, Display};
use std::io;
use std::path::PathBuf;

use caps::Capability;

/// Why a source could not be opened, or failed later.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The process lacks capabilities.
    #[error(
        "{} missing: run as root, or grant {} to the program (docs/privileges.md)",
        List(.0, " and "),
        if .0.len() == 1 { "it" } else { "them" }
    )]
    MissingCapabilities(Vec<Capability>),
    /// There is no interface of that name.
    #[error("no interface {name:?} here; there are: {}", List(.existing, ", "))]
    UnknownInterface {
        /// What was asked for.
        name: String,
        /// What there is.
        existing: Vec<String>,
    },
    /// The kernel cannot do what the source needs.
    #[error("the kernel lacks {0}")]
    Unsupported(&'static str),
    /// No cgroup2 file system is mounted.
    #[error(
        "no cgroup2 file system is mounted: mount one \
         (mount -t cgroup2 none /sys/fs/cgroup/unified), or use the af-packet backend"
    )]
    NoCgroup2,
    /// A path is not a cgroup2 folder.
    #[error("{} is not a cgroup of version 2; the root of those is {}", path.display(), root.display())]
    NotCgroup2 {
        /// The path.
        path: PathBuf,
        /// Where the file system of cgroups is mounted.
        root: PathBuf,
    },
    /// The cgroup was removed, and the programs on it with it.
    #[error("the cgroup {} is gone", .0.display())]
    CgroupGone(PathBuf),
    /// More ports were given than a filter can hold.
    #[error("{given} ports to capture, but a filter takes at most {most}")]
    TooManyPorts {
        /// How many were given.
        given: usize,
        /// How many there may be.
        most: usize,
    },
    /// More rules were given than the programs can hold.
    #[error("{given} rules, but there may be at most {most}")]
    TooManyRules {
        /// How many were given.
        given: usize,
        /// How many there may be.
        most: usize,
    },
    /// More sockets were given than the programs can hold.
    #[error("rules for {given} sockets, but there may be at most {most}")]
    TooManySockets {
        /// How many were given.
        given: usize,
        /// How many there may be.
        most: usize,
    },
    /// The source sees packets only, and the rules ask for more than some ports.
    #[error(
        "rules by cgroup or socket, samples and `headers` need the ebpf backend: {0} can only filter by port"
    )]
    NeedsSockets(&'static str),
    /// The kernel refused the BPF object.
    #[error("the kernel did not take the BPF programs")]
    Bpf(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// This build has no such source.
    #[error("this build has no {what}: build it with `--features {feature}`")]
    NotBuilt {
        /// What it lacks.
        what: &'static str,
        /// What would bring it.
        feature: &'static str,
    },
    /// What libpcap said when it failed.
    #[error("libpcap: {0}")]
    Libpcap(String),
    /// libpcap does not understand the filter.
    #[error("libpcap does not take the filter {filter:?}: {message}")]
    Filter {
        /// The filter.
        filter: String,
        /// What libpcap said of it.
        message: String,
    },
    /// A ring-buffer record was not what this build's programs write.
    #[error("a record in the ring buffer has an unknown layout")]
    UnknownRecord,
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl SourceError {
    /// For `map_err`: an action that failed.
    pub(crate) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }

    /// Whether the kernel would not let us, somewhere among the causes.
    fn is_refusal(&self) -> bool {
        if let Self::Libpcap(message) = self {
            // It tells causes in words only.
            return message.contains("permi");
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
            {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// For `map_err`: something that the BPF loader said.
    pub(crate) fn bpf(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Bpf(Box::new(error))
    }
}

/// For `map_err`: where the kernel refused something and capabilities are missing, those are why.
///
/// The kernel is asked first, and the capabilities are looked at afterwards: it alone knows what it
/// lets whom do.
pub(crate) fn explain(needed: &'static [Needed]) -> impl FnOnce(SourceError) -> SourceError {
    move |error| {
        let missing: Vec<_> = needed
            .iter()
            .map(|needed| needed.capability)
            .filter(|capability| !is_effective(*capability))
            .collect();
        if missing.is_empty() || !error.is_refusal() {
            error
        } else {
            SourceError::MissingCapabilities(missing)
        }
    }
}

/// A capability that a source needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Needed {
    /// Which.
    pub capability: Capability,
    /// What for, in words.
    pub what_for: &'static str,
}

/// Whether this thread may use the capability.
#[must_use]
pub fn is_effective(capability: Capability) -> bool {
    let is_effective =
        |capability| caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or(false);
    // The newer capabilities were split off from CAP_SYS_ADMIN, which still stands for them.
    let is_split_off = matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
    is_effective(capability) || is_split_off && is_effective(Capability::CAP_SYS_ADMIN)
}

/// Prints a list with something between its items.
struct List<'a, T>(&'a [T], &'a str);

impl<T: Display> Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(self.1)?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_and_what_to_do() {
        let error =
            SourceError::MissingCapabilities(vec![Capability::CAP_BPF, Capability::CAP_PERFMON]);
        assert_eq!(
            error.to_string(),
            "CAP_BPF and CAP_PERFMON missing: run as root, or grant them to the program \
             (docs/privileges.md)"
        );
        let error = SourceError::UnknownInterface {
            name: "eth7".into(),
            existing: vec!["lo".into(), "eth0".into()],
        };
        assert_eq!(
            error.to_string(),
            "no interface \"eth7\" here; there are: lo, eth0"
        );
    }
}
