//! What was there before a capture began: connections, and who owns their sockets.
//!
//! Read right after a source was opened. A connection that is made from then on shows its
//! handshake; one that is there already is in the kernel's list, unless it ends in the moment
//! between.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tapedeck_model::{Endpoint, FlowKey, Scope};

use crate::sys::{TcpSocket, in_network_namespace, tcp_sockets};

/// The sockets that were there when a capture began.
#[derive(Debug, Default)]
pub struct Before {
    /// The cookies of those with a connection.
    cookies: HashSet<u64>,
    /// Their connections, without a scope.
    flows: HashSet<FlowKey>,
    /// Process id and name of whoever has the socket, by cookie.
    owners: HashMap<u64, (u32, String)>,
    /// What was read, and what was not.
    pub seen: Seen,
}

/// What was read of the sockets that were there, and what was not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// Sockets with a connection.
    pub connections: u64,
    /// Of all sockets, listening ones too: those whose process is known.
    pub owned: u64,
    /// Sockets beyond the limit.
    pub left_out: u64,
    /// Network namespaces that could not be entered: CAP_SYS_ADMIN and CAP_SYS_PTRACE are missing.
    pub namespaces_left_out: u64,
}

/// Sockets that are remembered: a busy node has some ten thousand. What is left out is counted, and
/// seen in its middle.
const MOST: usize = 128 << 10;

/// Network namespaces that are looked at: one for each pod.
const MOST_NAMESPACES: usize = 4_096;

/// Where sockets are looked for.
#[derive(Clone, Copy, Debug)]
pub enum Where<'a> {
    /// In every network namespace that a process lives in.
    Everywhere,
    /// In this one; `None`: that of this process.
    In(Option<&'a Path>),
}

impl Before {
    /// Reads what is there now. What cannot be read stays unknown, and is counted.
    #[must_use]
    pub fn read(place: Where<'_>) -> Self {
        let mut found = Found::default();
        match place {
            Where::In(None) => found.here(),
            Where::In(Some(namespace)) => found.at(namespace),
            Where::Everywhere => {
                found.here();
                for namespace in other_namespaces() {
                    found.at(&namespace);
                }
            }
        }
        found.with_owners()
    }

    /// Whether the socket of that cookie had a connection.
    #[must_use]
    pub fn has_socket(&self, cookie: u64) -> bool {
        self.cookies.contains(&cookie)
    }

    /// Whether there was a connection between these, where no socket is known.
    #[must_use]
    pub fn has_flow(&self, a: Endpoint, b: Endpoint) -> bool {
        self.flows.contains(&FlowKey::new(a, b, Scope(0)))
    }

    /// Process id and name of whoever had the socket of that cookie.
    #[must_use]
    pub fn owner(&self, cookie: u64) -> Option<(u32, String)> {
        self.owners.get(&cookie).cloned()
    }
}

#[derive(Default)]
struct Found {
    before: Before,
    /// The cookies of sockets, by inode.
    inodes: HashMap<u32, u64>,
}

impl Found {
    fn here(&mut self) {
        let mut sockets = Vec::new();
        // Where the kernel was built without it, nothing is known.
        if tcp_sockets(&mut |socket| sockets.push(socket)).is_ok() {
            self.note(&sockets);
        }
    }

    fn at(&mut self, namespace: &Path) {
        let sockets = in_network_namespace(namespace, || {
            let mut sockets = Vec::new();
            tcp_sockets(&mut |socket| sockets.push(socket))?;
            Ok(sockets)
        });
        match sockets {
            Ok(sockets) => self.note(&sockets),
            Err(_) => self.before.seen.namespaces_left_out += 1,
        }
    }

    fn note(&mut self, sockets: &[TcpSocket]) {
        let Before {
            cookies,
            flows,
            seen,
            ..
        } = &mut self.before;
        for socket in sockets {
            if cookies.len() + self.inodes.len() >= 2 * MOST {
                seen.left_out += 1;
                continue;
            }
            if socket.inode != 0 {
                self.inodes.insert(socket.inode, socket.cookie);
            }
            if !socket.listens {
                seen.connections += 1;
                cookies.insert(socket.cookie);
                let endpoint = |(ip, port)| Endpoint::new(ip, port);
                let (local, remote) = (endpoint(socket.local), endpoint(socket.remote));
                flows.insert(FlowKey::new(local, remote, Scope(0)));
            }
        }
    }

    /// Looks for the sockets among the descriptors of all processes that may be looked at.
    fn with_owners(self) -> Before {
        let Self {
            mut before,
            mut inodes,
        } = self;
        for (pid, folder) in processes() {
            if inodes.is_empty() {
                break;
            }
            let Ok(descriptors) = fs::read_dir(folder.join("fd")) else {
                continue;
            };
            let sockets = descriptors.flatten().filter_map(|descriptor| {
                let target = fs::read_link(descriptor.path()).ok()?;
                inode(target.to_str()?)
            });
            for socket in sockets {
                // A socket that several processes share belongs to the first of them.
                let Some(cookie) = inodes.remove(&socket) else {
                    continue;
                };
                if let Ok(name) = fs::read_to_string(folder.join("comm")) {
                    let name = name.trim_end_matches('\n').to_owned();
                    before.owners.insert(cookie, (pid, name));
                    before.seen.owned += 1;
                }
            }
        }
        before
    }
}

/// The processes, in the order of their ids: whoever opened a socket comes before those that it
/// gave it to.
fn processes() -> BTreeMap<u32, PathBuf> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, entry.path()))
        })
        .collect()
}

/// One path for each network namespace of a process but our own.
fn other_namespaces() -> Vec<PathBuf> {
    let id = |path: &Path| fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let mut known: HashSet<u64> = id(Path::new("/proc/self/ns/net")).into_iter().collect();
    let mut paths = Vec::new();
    for (_, folder) in processes() {
        let path = folder.join("ns/net");
        if let Some(id) = id(&path)
            && known.insert(id)
            && paths.len() < MOST_NAMESPACES
        {
            paths.push(path);
        }
    }
    paths
}

/// The inode of `socket:[4711]`.
fn inode(target: &str) -> Option<u32> {
    let number = target.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    fn endpoint(address: SocketAddr) -> Endpoint {
        Endpoint::new(address.ip(), address.port())
    }

    #[test]
    fn a_connection_that_is_there_is_known_with_its_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let client = TcpStream::connect(server).unwrap();
        let (_accepted, _) = listener.accept().unwrap();
        let before = Before::read(Where::In(None));
        let here = client.local_addr().unwrap();
        assert!(before.has_flow(endpoint(here), endpoint(server)));
        assert!(before.has_flow(endpoint(server), endpoint(here)));
        // One that comes later is not.
        let later = TcpStream::connect(server).unwrap();
        let later = later.local_addr().unwrap();
        assert!(!before.has_flow(endpoint(later), endpoint(server)));
        let own = std::process::id();
        #[expect(clippy::disallowed_methods, reason = "only counted")]
        let ours = before
            .owners
            .values()
            .filter(|(pid, _)| *pid == own)
            .count();
        assert!(ours >= 3, "{:?}", before.owners);
        assert!(before.seen.connections >= 2 && before.seen.owned >= 3);
    }

    #[test]
    fn only_sockets_have_an_inode_of_interest() {
        assert_eq!(inode("socket:[4711]"), Some(4711));
        for other in ["pipe:[4711]", "socket:[x]", "socket:[1", "/dev/null", ""] {
            assert_eq!(inode(other), None, "{other}");
        }
    }
}
