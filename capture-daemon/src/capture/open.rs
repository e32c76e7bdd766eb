//! Choosing a source.

use crate::capture::{Backend, Options};
use crate::sources::af_packet::{AfPacket, AfPacketOptions};
use crate::sources::ebpf::{Ebpf, EbpfOptions};
use crate::sources::{Source, SourceError};

/// A source that is seeing packets.
pub struct Opened {
    /// The source.
    pub source: Source,
    /// Which one it is; never [`Backend::Auto`].
    pub backend: Backend,
    /// The better one that [`Backend::Auto`] passed over, and why.
    pub passed_over: Option<(Backend, SourceError)>,
}

/// Why no source could be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Options for both backends.
    #[error(
        "an interface or network namespace is for the af-packet backend, a cgroup for the ebpf \
         backend: choose one"
    )]
    Contradiction,
    /// An option for the other backend.
    #[error("the {backend} backend knows no {option}")]
    WrongOption {
        /// The backend that was named.
        backend: Backend,
        /// The option.
        option: &'static str,
    },
    /// The only backend that was allowed failed.
    #[error("cannot capture with {backend}")]
    Failed {
        /// The backend.
        backend: Backend,
        /// Why it failed.
        #[source]
        source: SourceError,
    },
    /// Every backend failed.
    #[error("cannot capture, with ebpf ({ebpf}) or with af-packet")]
    AllFailed {
        /// Why the better one failed.
        ebpf: SourceError,
        /// Why the other one failed.
        #[source]
        af_packet: SourceError,
    },
}

/// Opens the best source that options, kernel and privileges allow. It sees packets from now on.
///
/// # Errors
///
/// When no source can be opened.
pub fn open(options: &Options) -> Result<Opened, OpenError> {
    match allowed(options)? {
        Allowed::Only(backend) => open_one(backend, options)
            .map(|source| Opened {
                source,
                backend,
                passed_over: None,
            })
            .map_err(|source| OpenError::Failed { backend, source }),
        Allowed::Any => open_best(options),
    }
}

fn open_best(options: &Options) -> Result<Opened, OpenError> {
    let ebpf = match open_one(Backend::Ebpf, options) {
        Ok(source) => {
            return Ok(Opened {
                source,
                backend: Backend::Ebpf,
                passed_over: None,
            });
        }
        Err(error) => error,
    };
    match open_one(Backend::AfPacket, options) {
        Ok(source) => Ok(Opened {
            source,
            backend: Backend::AfPacket,
            passed_over: Some((Backend::Ebpf, ebpf)),
        }),
        Err(af_packet) => Err(OpenError::AllFailed { ebpf, af_packet }),
    }
}

fn open_one(backend: Backend, options: &Options) -> Result<Source, SourceError> {
    match backend {
        Backend::AfPacket => {
            let ports = options.policy.as_ports();
            let source = AfPacket::open(&AfPacketOptions {
                interface: options.interface.clone(),
                network_namespace: options.network_namespace.clone(),
                ports: ports.ok_or(SourceError::NeedsSockets(backend.name()))?,
                ring_bytes: options.ring_bytes,
                streams: options.threads,
            })?;
            Ok(source.into())
        }
        Backend::Auto | Backend::Ebpf => {
            let source = Ebpf::open(&EbpfOptions {
                cgroup: options.cgroup.clone(),
                policy: options.policy.clone(),
                ring_bytes: options.ring_bytes,
                streams: options.threads,
                ignore_own_cgroup: options.ignore_own_cgroup,
            })?;
            Ok(source.into())
        }
    }
}

/// Which backends the options leave.
#[derive(Debug, Eq, PartialEq)]
enum Allowed {
    Any,
    Only(Backend),
}

/// What an option is for.
const OPTIONS: [(&str, &[Backend]); 3] = [
    ("interface", &[Backend::AfPacket]),
    ("network namespace", &[Backend::AfPacket]),
    ("cgroup", &[Backend::Ebpf]),
];

fn allowed(options: &Options) -> Result<Allowed, OpenError> {
    let given = [
        options.interface.is_some(),
        options.network_namespace.is_some(),
        options.cgroup.is_some(),
    ];
    let mut left = vec![Backend::Ebpf, Backend::AfPacket];
    for ((option, backends), _) in OPTIONS.iter().zip(given).filter(|(_, given)| *given) {
        if options.backend != Backend::Auto && !backends.contains(&options.backend) {
            return Err(OpenError::WrongOption {
                backend: options.backend,
                option,
            });
        }
        left.retain(|backend| backends.contains(backend));
    }
    match (options.backend, left.as_slice()) {
        (_, []) => Err(OpenError::Contradiction),
        (Backend::Auto, [Backend::Ebpf, ..]) if left.len() > 1 => Ok(Allowed::Any),
        // Who names an interface wants what passes there, not the sockets of the whole machine.
        (Backend::Auto, [first, ..]) => Ok(Allowed::Only(*first)),
        (backend, _) => Ok(Allowed::Only(backend)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(backend: Backend, interface: bool, cgroup: bool, expect: Option<Allowed>) {
        let options = Options {
            backend,
            interface: interface.then(|| "lo".to_owned()),
            cgroup: cgroup.then(|| "/".into()),
            ..Options::default()
        };
        assert_eq!(allowed(&options).ok(), expect);
    }

    #[test]
    fn options_choose_the_backend_or_contradict_it() {
        let only = |backend| Some(Allowed::Only(backend));
        check(Backend::Auto, false, false, Some(Allowed::Any));
        check(Backend::Auto, true, false, only(Backend::AfPacket));
        check(Backend::Auto, false, true, only(Backend::Ebpf));
        check(Backend::Auto, true, true, None);
        check(Backend::Ebpf, false, false, only(Backend::Ebpf));
        check(Backend::Ebpf, false, true, only(Backend::Ebpf));
        check(Backend::Ebpf, true, false, None);
        check(Backend::AfPacket, false, false, only(Backend::AfPacket));
        check(Backend::AfPacket, true, false, only(Backend::AfPacket));
        check(Backend::AfPacket, false, true, None);
    }
}
