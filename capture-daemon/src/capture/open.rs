//! Choosing a source.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use crate::capture::{Backend, Options};
use crate::sources::af_packet::{self, AfPacket, AfPacketOptions};
use crate::sources::ebpf::{self, Ebpf, EbpfOptions, cgroup_id};
use crate::sources::libpcap::{self, LibpcapOptions};
use crate::sources::{Before, Source, SourceError, Where};
use crate::words::in_words;

/// A source that is seeing packets.
pub struct Opened {
    /// The source.
    pub source: Source,
    /// Which one it is; never [`Backend::Auto`].
    pub backend: Backend,
    /// The connections that were there before it.
    pub before: Arc<Before>,
    /// The cgroup that it is attached to, where that is one that can go, and its id.
    pub cgroup: Option<(PathBuf, u64)>,
    /// The better ones that [`Backend::Auto`] passed over, and why.
    pub passed_over: Vec<(Backend, SourceError)>,
}

/// Why no source could be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No backend knows all the options.
    #[error(
        "an interface or network namespace is for the backends af-packet and libpcap, a filter for \
         libpcap, a cgroup for ebpf: choose one"
    )]
    Contradiction,
    /// An option for another backend.
    #[error("the {backend} backend knows no {option}")]
    WrongOption {
        /// The backend that was named.
        backend: Backend,
        /// The option.
        option: &'static str,
    },
    /// More threads than the source has streams.
    #[error("the {backend} backend is read by {possible}, not by {given}")]
    Threads {
        /// The backend.
        backend: Backend,
        /// How many there can be.
        possible: &'static str,
        /// How many were asked for.
        given: NonZeroUsize,
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
    #[error("no backend can capture here: {} (`tapedeck doctor` says more)", list(.0))]
    AllFailed(Vec<(Backend, SourceError)>),
}

fn list(failed: &[(Backend, SourceError)]) -> String {
    let words: Vec<_> = failed
        .iter()
        .map(|(backend, why)| format!("{backend}: {}", in_words(why)))
        .collect();
    words.join("; ")
}

/// Opens the best source that options, kernel and privileges allow. It sees packets from now on.
///
/// # Errors
///
/// When no source can be opened.
pub fn open(options: &Options) -> Result<Opened, OpenError> {
    check(options)?;
    let allowed = allowed(options)?;
    // Asked for before it is attached to: should another one take its place in between, that is seen as a change.
    let cgroup = options
        .cgroup
        .as_ref()
        .and_then(|path| Some((path.clone(), cgroup_id(path).ok()?)));
    if let [backend] = allowed.as_slice() {
        return match open_one(*backend, options) {
            Ok(source) => Ok(Opened {
                cgroup,
                ..opened(source, *backend, options, Vec::new())
            }),
            Err(source) => Err(OpenError::Failed {
                backend: *backend,
                source,
            }),
        };
    }
    let mut passed_over = Vec::new();
    for backend in allowed {
        match open_one(backend, options) {
            Ok(source) => return Ok(opened(source, backend, options, passed_over)),
            Err(why) => passed_over.push((backend, why)),
        }
    }
    Err(OpenError::AllFailed(passed_over))
}

/// Says what [`open`] would refuse on any machine; opens nothing, and asks nothing of this machine.
///
/// # Errors
///
/// Those of [`open`].
pub fn check(options: &Options) -> Result<(), OpenError> {
    let allowed = allowed(options)?;
    let given = options.threads;
    let wrong = match allowed.as_slice() {
        [Backend::Libpcap] if given.get() > 1 => Some((Backend::Libpcap, "one thread")),
        [Backend::Ebpf, ..] if ![1, 2, 4].contains(&given.get()) => {
            Some((Backend::Ebpf, "1, 2 or 4 threads"))
        }
        _ => None,
    };
    if let Some((backend, possible)) = wrong {
        return Err(OpenError::Threads {
            backend,
            possible,
            given,
        });
    }
    let mut failed = Vec::new();
    for backend in &allowed {
        match check_one(*backend, options) {
            // One that can is enough.
            Ok(()) => return Ok(()),
            Err(source) => failed.push((*backend, source)),
        }
    }
    match (failed.pop(), failed.is_empty()) {
        (Some((backend, source)), true) => Err(OpenError::Failed { backend, source }),
        (last, _) => Err(OpenError::AllFailed(
            failed.into_iter().chain(last).collect(),
        )),
    }
}

fn check_one(backend: Backend, options: &Options) -> Result<(), SourceError> {
    match backend {
        Backend::Auto | Backend::Ebpf => ebpf::check(&options.policy),
        Backend::AfPacket => af_packet::check(&ports(backend, options)?),
        Backend::Libpcap => libpcap::check(&libpcap_options(options)?),
    }
}

fn ports(backend: Backend, options: &Options) -> Result<Vec<u16>, SourceError> {
    let ports = options.policy.as_ports();
    ports.ok_or(SourceError::NeedsSockets(backend.name()))
}

fn libpcap_options(options: &Options) -> Result<LibpcapOptions, SourceError> {
    Ok(LibpcapOptions {
        interface: options.interface.clone(),
        network_namespace: options.network_namespace.clone(),
        filter: options.filter.clone(),
        ports: ports(Backend::Libpcap, options)?,
        ring_bytes: options.ring_bytes,
    })
}

fn opened(
    source: Source,
    backend: Backend,
    options: &Options,
    passed_over: Vec<(Backend, SourceError)>,
) -> Opened {
    let place = match backend {
        Backend::Auto | Backend::Ebpf => Where::Everywhere,
        Backend::AfPacket | Backend::Libpcap => Where::In(options.network_namespace.as_deref()),
    };
    Opened {
        source,
        backend,
        before: Arc::new(Before::read(place)),
        cgroup: None,
        passed_over,
    }
}

pub(super) fn open_one(backend: Backend, options: &Options) -> Result<Source, SourceError> {
    match backend {
        Backend::Auto | Backend::Ebpf => {
            let source = Ebpf::open(&EbpfOptions {
                cgroup: options.cgroup.clone(),
                policy: options.policy.clone(),
                ring_bytes: options.ring_bytes,
                streams: options.threads,
                ignore_own_cgroup: options.ignore_own_cgroup,
                pause: EbpfOptions::PAUSE,
                burst: EbpfOptions::BURST,
            })?;
            Ok(source.into())
        }
        Backend::AfPacket => {
            let source = AfPacket::open(&AfPacketOptions {
                interface: options.interface.clone(),
                network_namespace: options.network_namespace.clone(),
                ports: ports(backend, options)?,
                ring_bytes: options.ring_bytes,
                streams: options.threads,
            })?;
            Ok(source.into())
        }
        Backend::Libpcap => libpcap::open(&libpcap_options(options)?),
    }
}

/// What an option is for.
const OPTIONS: [(&str, &[Backend]); 4] = [
    ("interface", &[Backend::AfPacket, Backend::Libpcap]),
    ("network namespace", &[Backend::AfPacket, Backend::Libpcap]),
    ("filter", &[Backend::Libpcap]),
    ("cgroup", &[Backend::Ebpf]),
];

/// The backends that the options leave, best first. Who names an interface wants what passes there,
/// not the sockets of the whole machine.
pub(super) fn allowed(options: &Options) -> Result<Vec<Backend>, OpenError> {
    let given = [
        options.interface.is_some(),
        options.network_namespace.is_some(),
        options.filter.is_some(),
        options.cgroup.is_some(),
    ];
    let mut left = Backend::ALL.to_vec();
    for ((option, backends), _) in OPTIONS.iter().zip(given).filter(|(_, given)| *given) {
        if options.backend != Backend::Auto && !backends.contains(&options.backend) {
            return Err(OpenError::WrongOption {
                backend: options.backend,
                option,
            });
        }
        left.retain(|backend| backends.contains(backend));
    }
    if left.is_empty() {
        return Err(OpenError::Contradiction);
    }
    if options.backend != Backend::Auto {
        return Ok(vec![options.backend]);
    }
    // One that was not built is no worse choice but none, unless there is no other.
    if left.len() > 1 && !libpcap::IS_BUILT {
        left.retain(|backend| *backend != Backend::Libpcap);
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(backend: Backend, given: &str, expect: Option<&[Backend]>) {
        let is_given = |name: &str| given.split(' ').any(|given| given == name);
        let options = Options {
            backend,
            interface: is_given("interface").then(|| "lo".to_owned()),
            filter: is_given("filter").then(|| "tcp".to_owned()),
            cgroup: is_given("cgroup").then(|| "/".into()),
            ..Options::default()
        };
        assert_eq!(allowed(&options).ok().as_deref(), expect, "{given}");
    }

    #[test]
    fn options_choose_the_backend_or_contradict_it() {
        use Backend::{AfPacket, Auto, Ebpf, Libpcap};
        let built = |all: &'static [Backend]| {
            if libpcap::IS_BUILT {
                Some(all)
            } else {
                all.split_last().map(|(_, others)| others)
            }
        };
        check(Auto, "", built(&[Ebpf, AfPacket, Libpcap]));
        check(Auto, "interface", built(&[AfPacket, Libpcap]));
        check(Auto, "cgroup", Some(&[Ebpf]));
        check(Auto, "filter", Some(&[Libpcap]));
        check(Auto, "filter interface", Some(&[Libpcap]));
        check(Auto, "interface cgroup", None);
        check(Auto, "filter cgroup", None);
        check(Ebpf, "", Some(&[Ebpf]));
        check(Ebpf, "cgroup", Some(&[Ebpf]));
        check(Ebpf, "interface", None);
        check(AfPacket, "interface", Some(&[AfPacket]));
        check(AfPacket, "cgroup", None);
        check(AfPacket, "filter", None);
        check(Libpcap, "filter interface", Some(&[Libpcap]));
    }
}
