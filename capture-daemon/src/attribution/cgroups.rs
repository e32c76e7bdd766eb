//! The paths of cgroups by their ids, those of cgroups that are gone included.
//!
//! A cgroup that lives for some milliseconds is gone when the first exchange from it is whole, so
//! waiting for the question is too late. A thread watches the tree (inotify) and notes each cgroup
//! when it is made. Where that is not possible, the tree is read again when an unknown id comes.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::lock;
use crate::sys::{FolderEvent, FolderWatch};

/// Knows the paths of cgroups.
#[derive(Debug)]
pub struct Cgroups {
    tree: Arc<Tree>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Tree {
    root: PathBuf,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    paths: HashMap<u64, String>,
    /// Those that are gone, by when that was seen.
    gone: BTreeSet<(Instant, u64)>,
    read: Option<Instant>,
    /// Changes with the paths.
    generation: u64,
}

/// Cgroups that are remembered after they are gone. A node that starts a container every second has
/// as many within an hour and a half.
const MOST_GONE: usize = 8_192;

/// How long a cgroup is remembered after it is gone: exchanges that run into a timeout of the
/// engine come some minutes late.
const REMEMBERED: Duration = Duration::from_mins(10);

/// Cgroups that are there at once. A node has some thousand; beyond this they stay unknown.
const MOST: usize = 65_536;

/// How long the thread waits for an event before it looks whether it is to stop. Nobody waits for that, and
/// each look wakes a processor that may have slept.
const WAIT: Duration = Duration::from_secs(1);

/// How often the tree is read again because of an unknown id.
const AGAIN: Duration = Duration::from_secs(1);

impl Cgroups {
    /// Knows the cgroups below `root`, where their file system is mounted, from now on.
    #[must_use]
    pub fn watch(root: &Path) -> Self {
        let tree = Arc::new(Tree {
            root: root.to_owned(),
            index: Mutex::default(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        // Watched before it is read, so that what comes in between is seen.
        let started = FolderWatch::new().and_then(|mut watch| {
            let mut watched = HashMap::new();
            tree.visit(root, &mut |folder| {
                if let Ok(id) = watch.add(folder) {
                    watched.insert(id, folder.to_owned());
                }
            });
            let (tree, stop) = (Arc::clone(&tree), Arc::clone(&stop));
            thread::Builder::new()
                .name("cgroups".to_owned())
                .spawn(move || tree.follow(watch, watched, &stop))
        });
        // Without it, cgroups are known that are there when they are asked for.
        drop(started);
        Self { tree, stop }
    }

    /// The path of the cgroup of that id, from the root of cgroups on (`/` for that); `None` where
    /// it is not known.
    #[must_use]
    pub fn path(&self, id: u64) -> Option<String> {
        let tree = &self.tree;
        {
            let mut index = lock(&tree.index);
            if let Some(path) = index.paths.get(&id) {
                return Some(path.clone());
            }
            if index.read.is_some_and(|read| read.elapsed() < AGAIN) {
                return None;
            }
            index.read = Some(Instant::now());
        }
        tree.visit(&tree.root, &mut |_| ());
        lock(&tree.index).paths.get(&id).cloned()
    }
}

impl Cgroups {
    /// Changes whenever a cgroup comes or goes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        lock(&self.tree.index).generation
    }

    /// The cgroups that are there, by path.
    pub fn each(&self, mut take: impl FnMut(u64, &str)) {
        let index = lock(&self.tree.index);
        let gone: BTreeSet<u64> = index.gone.iter().map(|(_, id)| *id).collect();
        #[expect(clippy::disallowed_methods, reason = "they are sorted")]
        let mut paths: Vec<_> = index.paths.iter().collect();
        paths.sort_by_key(|&(_, path)| path);
        for (id, path) in paths {
            if !gone.contains(id) {
                take(*id, path);
            }
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        // The thread has nothing to say, and sees it by itself.
        self.stop.store(true, Ordering::Release);
    }
}

impl Tree {
    /// Notes a cgroup and those below it, and calls `each` with the folder of each before it looks
    /// for those below.
    fn visit(&self, folder: &Path, each: &mut dyn FnMut(&Path)) {
        each(folder);
        let Ok(metadata) = fs::metadata(folder) else {
            return;
        };
        let Ok(below) = folder.strip_prefix(&self.root) else {
            return;
        };
        let path = format!("/{}", below.to_string_lossy());
        lock(&self.index).note(metadata.ino(), path);
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.visit(&entry.path(), each);
            }
        }
    }

    fn follow(
        &self,
        mut watch: FolderWatch,
        mut watched: HashMap<i32, PathBuf>,
        stop: &AtomicBool,
    ) {
        while !stop.load(Ordering::Acquire) {
            let Ok(events) = watch.wait(WAIT) else {
                return;
            };
            for event in events {
                match event {
                    FolderEvent::Made { folder, name } => {
                        let Some(parent) = watched.get(&folder) else {
                            continue;
                        };
                        let path = parent.join(name);
                        self.visit(&path, &mut |folder| {
                            if let Ok(id) = watch.add(folder) {
                                watched.insert(id, folder.to_owned());
                            }
                        });
                    }
                    FolderEvent::Gone { folder } => {
                        if let Some(path) = watched.remove(&folder) {
                            self.forget_later(&path);
                        }
                    }
                    FolderEvent::Missed => {
                        let root = self.root.clone();
                        self.visit(&root, &mut |folder| {
                            if let Ok(id) = watch.add(folder) {
                                watched.insert(id, folder.to_owned());
                            }
                        });
                    }
                }
            }
            lock(&self.index).expire();
        }
    }

    fn forget_later(&self, folder: &Path) {
        let Ok(below) = folder.strip_prefix(&self.root) else {
            return;
        };
        let path = format!("/{}", below.to_string_lossy());
        lock(&self.index).gone(&path);
    }
}

impl Index {
    fn note(&mut self, id: u64, path: String) {
        if self.paths.len() < MOST + MOST_GONE && self.paths.insert(id, path).is_none() {
            self.generation += 1;
        }
    }

    fn gone(&mut self, path: &str) {
        // Rare, and a node has some thousand at most.
        #[expect(
            clippy::disallowed_methods,
            reason = "one cgroup has this path at a time: the order does not matter"
        )]
        let ids = self
            .paths
            .iter()
            .filter(|(_, known)| *known == path)
            .map(|(id, _)| *id)
            .collect::<Vec<_>>();
        for id in ids {
            self.gone.insert((Instant::now(), id));
            self.generation += 1;
        }
    }

    fn expire(&mut self) {
        while let Some(&(at, id)) = self.gone.first() {
            if at.elapsed() < REMEMBERED && self.gone.len() <= MOST_GONE {
                break;
            }
            self.gone.pop_first();
            self.paths.remove(&id);
        }
    }
}
