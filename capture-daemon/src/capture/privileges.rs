//! Giving up what is needed no more once a source is open.
//!
//! Opening a source takes capabilities; reading it, changing its rules and closing it take none.
//! What parses bytes of strangers for weeks should be able to do no more than that.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};

use crate::capture::Backend;
use crate::sys::{forbid_new_privileges, may_write_to};

/// Why capabilities could not be given up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivilegeError {
    /// The kernel refused.
    #[error("cannot give up privileges: {0}")]
    Refused(String),
    /// They are still there, in threads that were started before.
    #[error("privileges were given up, but not by the threads {0}")]
    Kept(String),
}

/// Gives up, for good and in the whole process, every capability that recording does not need, and
/// the possibility to get any by executing another program. Returns those that were kept:
///
/// - CAP_BPF with `ebpf` before Linux 5.19, which refuses everybody else the reading of a map where
///   `kernel.unprivileged_bpf_disabled` is set;
/// - CAP_DAC_OVERRIDE where the output's folder cannot be written to without.
///
/// A capability belongs to a thread, so this is to be called before others are started: it fails
/// when one has more.
///
/// # Errors
///
/// When the kernel refuses, or when there are threads that have more.
pub fn give_up_privileges(
    backend: Backend,
    output: &Path,
) -> Result<Vec<Capability>, PrivilegeError> {
    let had = caps::read(None, CapSet::Permitted).map_err(refused)?;
    let mut keep = CapsHashSet::new();
    if backend == Backend::Ebpf && reading_maps_takes_a_capability() {
        keep.insert(Capability::CAP_BPF);
    }
    set(&keep.intersection(&had).copied().collect(), &had)?;
    if !may_write_to(output) && had.contains(&Capability::CAP_DAC_OVERRIDE) {
        keep.insert(Capability::CAP_DAC_OVERRIDE);
    }
    let kept: CapsHashSet = keep.intersection(&had).copied().collect();
    drop_bounds(&kept, &had)?;
    set(&kept, &kept)?;
    forbid_new_privileges().map_err(|error| PrivilegeError::Refused(error.to_string()))?;
    check_threads(&kept)?;
    let mut kept: Vec<_> = kept.into_iter().collect();
    kept.sort_by_key(|capability| capability.index());
    Ok(kept)
}

/// Sets what is in effect, and what may be again.
fn set(effective: &CapsHashSet, permitted: &CapsHashSet) -> Result<(), PrivilegeError> {
    let none = CapsHashSet::new();
    // What is ambient must be inheritable, what is in effect permitted: from the inside out.
    caps::clear(None, CapSet::Ambient).map_err(refused)?;
    caps::set(None, CapSet::Inheritable, &none).map_err(refused)?;
    caps::set(None, CapSet::Effective, effective).map_err(refused)?;
    caps::set(None, CapSet::Permitted, permitted).map_err(refused)
}

/// Takes the others out of what a program that is executed can ever get. That takes a capability of
/// its own; without it, there is no way to get them back all the same, by `no_new_privs`.
fn drop_bounds(kept: &CapsHashSet, had: &CapsHashSet) -> Result<(), PrivilegeError> {
    if !had.contains(&Capability::CAP_SETPCAP) {
        return Ok(());
    }
    caps::raise(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(refused)?;
    let bounds = caps::read(None, CapSet::Bounding).map_err(refused)?;
    for capability in bounds.difference(kept) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(refused)?;
    }
    Ok(())
}

fn reading_maps_takes_a_capability() -> bool {
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    let release = super::diagnosis::release(&text("/proc/sys/kernel/osrelease"));
    let is_open = text("/proc/sys/kernel/unprivileged_bpf_disabled").trim() == "0";
    !is_open && release.is_none_or(|release| release < (5, 19))
}

/// Looks at what the kernel says of every thread.
fn check_threads(kept: &CapsHashSet) -> Result<(), PrivilegeError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the order of bits set does not matter"
    )]
    let bits = kept.iter().map(|capability| capability.bitmask());
    let allowed = bits.fold(0, |all, bit| all | bit);
    let more: Vec<_> = threads()
        .map_err(|error| PrivilegeError::Refused(format!("cannot read /proc/self/task: {error}")))?
        .into_iter()
        .filter(|(_, status)| !has_at_most(status, allowed))
        .map(|(name, _)| name)
        .collect();
    if more.is_empty() {
        Ok(())
    } else {
        Err(PrivilegeError::Kept(more.join(", ")))
    }
}

/// The status of each thread, by its id.
fn threads() -> io::Result<BTreeMap<String, String>> {
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        // A thread that has just ended has nothing any more.
        if let Ok(status) = fs::read_to_string(entry.path().join("status")) {
            threads.insert(entry.file_name().to_string_lossy().into_owned(), status);
        }
    }
    Ok(threads)
}

fn has_at_most(status: &str, allowed: u64) -> bool {
    let field = |name| super::diagnosis::field(status, name);
    let within = |name| {
        field(name)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .is_some_and(|has| has & !allowed == 0)
    };
    within("CapPrm") && within("CapEff") && field("NoNewPrivs") == Some("1")
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn refused(error: caps::errors::CapsError) -> PrivilegeError {
    PrivilegeError::Refused(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_with_more_is_found() {
        let status = |permitted: &str, no_new: &str| {
            format!("CapPrm:\t{permitted}\nCapEff:\t0000000000000000\nNoNewPrivs:\t{no_new}\n")
        };
        assert!(has_at_most(&status("0000000000000000", "1"), 0));
        assert!(has_at_most(&status("0000000000000002", "1"), 2));
        assert!(!has_at_most(&status("0000000000000002", "1"), 0));
        assert!(!has_at_most(&status("0000000000000000", "0"), 0));
        assert!(!has_at_most("", 0));
    }
}
