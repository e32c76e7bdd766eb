//! Cgroups: where their file system is, and which one is meant.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sources::SourceError;
use crate::sys;

/// A cgroup (version 2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Cgroup {
    /// Its folder.
    pub(super) path: PathBuf,
    /// Its id, as the kernel tells it with each packet.
    pub(super) id: u64,
    /// Whether it holds every socket of the machine.
    pub(super) is_root: bool,
}

/// The id of the root of all cgroups, on every kernel. Within a cgroup namespace the root that is
/// seen is another one.
const ROOT_ID: u64 = 1;

impl Cgroup {
    /// The cgroup at `path`; the root without one. A relative path, or one that starts with a slash
    /// but is no folder, is meant from the root on, as `/proc/PID/cgroup` prints it.
    pub(super) fn find(path: Option<&Path>) -> Result<Self, SourceError> {
        let root = cgroup_root()?;
        let Some(asked) = path else {
            return Self::at(root.clone(), &root);
        };
        let below = root.join(asked.strip_prefix("/").unwrap_or(asked));
        if asked.is_absolute() && asked.is_dir() && sys::is_cgroup2(asked).unwrap_or(false) {
            Self::at(asked.to_owned(), &root)
        } else if below.is_dir() {
            Self::at(below, &root)
        } else {
            Err(SourceError::NotCgroup2 {
                path: asked.to_owned(),
                root,
            })
        }
    }

    fn at(path: PathBuf, root: &Path) -> Result<Self, SourceError> {
        let metadata = fs::metadata(&path).map_err(SourceError::system("read the cgroup"))?;
        if !sys::is_cgroup2(&path).map_err(SourceError::system("read the cgroup"))? {
            return Err(SourceError::NotCgroup2 {
                path,
                root: root.to_owned(),
            });
        }
        Ok(Self {
            path,
            id: metadata.ino(),
            is_root: metadata.ino() == ROOT_ID,
        })
    }
}

/// Where the file system of cgroups (version 2) is mounted.
///
/// # Errors
///
/// When it is not, or when the list of mounts cannot be read.
pub fn cgroup_root() -> Result<PathBuf, SourceError> {
    let mounts = fs::read_to_string("/proc/self/mounts")
        .map_err(SourceError::system("read /proc/self/mounts"))?;
    find_root(&mounts).ok_or(SourceError::NoCgroup2)
}

/// Whether this is the root of the cgroups of the whole machine, and not that of a namespace.
#[must_use]
pub fn is_root_of_all(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.ino() == ROOT_ID)
}

/// The id of the cgroup at a path, see [`EbpfOptions`](super::EbpfOptions): another one for each that
/// is ever made there.
///
/// # Errors
///
/// When there is none.
pub fn cgroup_id(path: &Path) -> Result<u64, SourceError> {
    Cgroup::find(Some(path)).map(|cgroup| cgroup.id)
}

/// The id of the cgroup of this process, where it has one of its own; `None` in the root, whose
/// sockets are those of half the machine.
#[must_use]
pub fn own_cgroup() -> Option<u64> {
    let root = cgroup_root().ok()?;
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::"))?;
    let path = root.join(path.strip_prefix('/').unwrap_or(path));
    let id = fs::metadata(path).ok()?.ino();
    (id != ROOT_ID).then_some(id)
}

/// The first cgroup2 mount in the text of `/proc/self/mounts`.
fn find_root(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_device, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(unescape(path)))
    })
}

/// Blanks, tabs, line ends and backslashes stand as octal escapes in that file (proc(5)).
fn unescape(path: &str) -> String {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_among_others() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        assert_eq!(
            find_root(hybrid),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(
            find_root("none /my\\040cgroups cgroup2 rw 0 0"),
            Some(PathBuf::from("/my cgroups"))
        );
        assert_eq!(find_root("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0"), None);
        assert_eq!(find_root("\n \nx"), None);
    }

    #[test]
    fn a_folder_elsewhere_is_no_cgroup() {
        if cgroup_root().is_err() {
            println!("skipped: no cgroup2 file system is mounted");
            return;
        }
        for path in ["/tmp", "/no/such/folder", "no-such-cgroup"] {
            let error = Cgroup::find(Some(Path::new(path))).unwrap_err();
            assert!(
                error.to_string().contains("not a cgroup of version 2"),
                "{error}"
            );
        }
        let root = Cgroup::find(None).unwrap();
        assert_eq!(Cgroup::find(Some(Path::new("/"))).unwrap().id, root.id);
        assert_eq!(Cgroup::find(Some(&root.path)).unwrap(), root);
    }
}
