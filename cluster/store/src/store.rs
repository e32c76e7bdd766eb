//! One store.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload, path::Path as Key,
};
use tokio::task::spawn_blocking;

use crate::digest::{self, Digest};
use crate::error::StoreError;

/// How long a request is repeated while the store refuses it for a while.
pub const RETRIED_FOR: Duration = Duration::from_secs(60);

/// Modes on a volume: nodes write as one user, the controller reads and removes as another, and both are in the group of
/// the volume. What was recorded is nobody else's business.
const FILE_MODE: u32 = 0o660;

/// What is made below belongs to the same group.
const FOLDER_MODE: u32 = 0o2770;

/// Files up to this length go in one request, longer ones in parts of it: what is held in memory.
const PART_BYTES: u64 = 8 << 20;

/// S3 takes 10,000 parts of an object at most.
const MOST_PARTS: u64 = 9_000;

/// An object that lies in a store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored {
    /// Its key, without the prefix of the store.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// The BLAKE3 of its bytes.
    pub digest: Digest,
}

/// A store that is open.
pub struct Store {
    name: String,
    url: String,
    prefix: String,
    inner: Box<dyn ObjectStore>,
    /// Where a folder is the store.
    volume: Option<PathBuf>,
}

/// What is within has credentials, and not all of it keeps them to itself: a token of Google's would be printed.
impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("name", &self.name)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Store {
    pub(crate) fn new(
        name: String,
        url: String,
        prefix: String,
        inner: Box<dyn ObjectStore>,
        volume: Option<PathBuf>,
    ) -> Self {
        Self {
            name,
            url,
            prefix,
            inner,
            volume,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address of an object, for people and other programs.
    #[must_use]
    pub fn url(&self, key: &str) -> String {
        format!("{}/{key}", self.url)
    }

    /// Stores a file as `FOLDER/BLAKE3.tape`. When it is there already, nothing is sent: so a transfer that
    /// was interrupted is simply begun again.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or changes, or the store does not take it, or not as it is.
    pub async fn put_part(&self, folder: &str, file: &Path) -> Result<Stored, StoreError> {
        let (bytes, digest) = measure(file).await?;
        let stored = Stored {
            key: format!("{folder}/{digest}.tape"),
            bytes,
            digest,
        };
        match self.length(&stored.key).await {
            Ok(found) if found == bytes => Ok(stored),
            Ok(_) | Err(StoreError::Missing { .. }) => self.send(stored, file).await,
            Err(error) => Err(error),
        }
    }

    /// Stores a file under a key, in the place of what was there.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or changes, or the store does not take it, or not as it is.
    pub async fn put(&self, key: &str, file: &Path) -> Result<Stored, StoreError> {
        let (bytes, digest) = measure(file).await?;
        let key = key.to_owned();
        self.send(Stored { key, bytes, digest }, file).await
    }

    async fn send(&self, stored: Stored, file: &Path) -> Result<Stored, StoreError> {
        let key = self.key(&stored.key)?;
        let failed = |source| StoreError::of(&self.name, "store", &stored.key, source);
        let mut reader = Reader::open(file).await?;
        if stored.bytes <= PART_BYTES {
            let part = reader.next(PART_BYTES).await?;
            reader.check(&stored, file)?;
            let payload = PutPayload::from_bytes(part);
            self.inner.put(&key, payload).await.map_err(failed)?;
        } else {
            let size = PART_BYTES.max(stored.bytes.div_ceil(MOST_PARTS));
            let mut upload = self.inner.put_multipart(&key).await.map_err(failed)?;
            let sent: Result<(), StoreError> = async {
                loop {
                    let part = reader.next(size).await?;
                    if part.is_empty() {
                        break;
                    }
                    let payload = PutPayload::from_bytes(part);
                    upload.put_part(payload).await.map_err(failed)?;
                }
                reader.check(&stored, file)?;
                upload.complete().await.map_err(failed)?;
                Ok(())
            }
            .await;
            if let Err(error) = sent {
                // Parts that belong to nothing cost money until a rule of the bucket removes them. What
                // went wrong first is what somebody wants to know.
                drop(upload.abort().await);
                return Err(error);
            }
        }
        if let Some(volume) = &self.volume {
            share(volume, &stored.key);
        }
        let found = self.length(&stored.key).await?;
        if found != stored.bytes {
            return Err(self.damaged(&stored, found));
        }
        Ok(stored)
    }

    /// Fetches an object into a file. What is there already of it, in `FILE.partial`, is continued; the file
    /// appears when all of it is there and is what was stored.
    ///
    /// # Errors
    ///
    /// When the store has it not, or not whole, or other bytes; what came stays for the next attempt, but for
    /// bytes that are wrong.
    pub async fn fetch(&self, stored: &Stored, file: &Path) -> Result<(), StoreError> {
        let partial = partial(file);
        let mut hasher = blake3::Hasher::new();
        let mut have = resume(&mut hasher, &partial, stored.bytes)?;
        if have < stored.bytes {
            let mut into = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&partial)
                .map_err(StoreError::file(&partial))?;
            let mut parts = self.range(&stored.key, have..stored.bytes).await?;
            while let Some(part) = parts.try_next().await? {
                have += part.len() as u64;
                hasher.update(&part);
                into.write_all(&part).map_err(StoreError::file(&partial))?;
            }
            into.sync_all().map_err(StoreError::file(&partial))?;
        }
        let digest = Digest::from(hasher.finalize());
        if have != stored.bytes || digest != stored.digest {
            fs::remove_file(&partial).map_err(StoreError::file(&partial))?;
            return Err(self.damaged(stored, have));
        }
        if stored.bytes == 0 {
            File::create(&partial).map_err(StoreError::file(&partial))?;
        }
        fs::rename(&partial, file).map_err(StoreError::file(file))
    }

    /// Bytes of an object, as they come.
    ///
    /// # Errors
    ///
    /// When the store has it not, or it ends before the range does.
    pub async fn range(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let at = self.key(key)?;
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(futures_util::stream::empty().boxed());
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let failed = {
            let (store, key) = (self.name.clone(), key.to_owned());
            move |source| StoreError::of(&store, "fetch", &key, source)
        };
        let got = self.inner.get_opts(&at, options).await.map_err(&failed)?;
        if got.meta.size < range.end {
            return Err(StoreError::Damaged {
                store: self.name.clone(),
                key: key.to_owned(),
                expected: range.end,
                found: got.meta.size,
            });
        }
        Ok(got.into_stream().map_err(failed).boxed())
    }

    /// The length of an object.
    ///
    /// # Errors
    ///
    /// When the store has it not, or does not say.
    pub async fn length(&self, key: &str) -> Result<u64, StoreError> {
        let at = self.key(key)?;
        let meta = self.inner.head(&at).await;
        meta.map(|meta| meta.size)
            .map_err(|source| StoreError::of(&self.name, "look up", key, source))
    }

    /// The keys below a folder, with their lengths, in order.
    ///
    /// # Errors
    ///
    /// When the store does not say.
    pub async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, StoreError> {
        let at = self.key(folder)?;
        let listed: Vec<_> = self
            .inner
            .list(Some(&at))
            .try_collect()
            .await
            .map_err(|source| StoreError::of(&self.name, "list", folder, source))?;
        let mut keys: Vec<_> = listed
            .into_iter()
            .map(|meta| (self.without_prefix(&meta.location), meta.size))
            .collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// Removes an object; it is no error when it is gone.
    ///
    /// # Errors
    ///
    /// When the store does not do it.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let at = self.key(key)?;
        match self.inner.delete(&at).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(StoreError::of(&self.name, "remove", key, source)),
        }
    }

    /// Removes all objects below a folder, and says how many there were.
    ///
    /// # Errors
    ///
    /// When the store does not do it; some may be gone then.
    pub async fn delete_all(&self, folder: &str) -> Result<usize, StoreError> {
        let keys = self.list(folder).await?;
        for (key, _) in &keys {
            self.delete(key).await?;
        }
        Ok(keys.len())
    }

    fn key(&self, key: &str) -> Result<Key, StoreError> {
        let wrong = || StoreError::Key {
            key: key.to_owned(),
        };
        if key.is_empty() {
            return Err(wrong());
        }
        let whole = match self.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        };
        Key::parse(whole).map_err(|_| wrong())
    }

    fn without_prefix(&self, key: &Key) -> String {
        let key = key.as_ref();
        let bare = key
            .strip_prefix(&self.prefix)
            .and_then(|rest| rest.strip_prefix('/'));
        bare.unwrap_or(key).to_owned()
    }

    fn damaged(&self, stored: &Stored, found: u64) -> StoreError {
        StoreError::Damaged {
            store: self.name.clone(),
            key: stored.key.clone(),
            expected: stored.bytes,
            found,
        }
    }
}

/// A file that is read in parts, and hashed on the way.
struct Reader {
    file: Option<(File, blake3::Hasher)>,
    path: PathBuf,
    bytes: u64,
}

impl Reader {
    async fn open(path: &Path) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(StoreError::file(path))?;
        Ok(Self {
            file: Some((file, blake3::Hasher::new())),
            path: path.to_owned(),
            bytes: 0,
        })
    }

    /// Up to so many bytes; none at the end.
    async fn next(&mut self, most: u64) -> Result<Bytes, StoreError> {
        let Some((file, mut hasher)) = self.file.take() else {
            return Ok(Bytes::new());
        };
        let read = spawn_blocking(move || {
            let mut part = Vec::new();
            let read = (&file).take(most).read_to_end(&mut part);
            hasher.update(&part);
            read.map(|_| (file, hasher, part))
        });
        let (file, hasher, part) = joined(read.await).map_err(StoreError::file(&self.path))?;
        self.file = Some((file, hasher));
        self.bytes += part.len() as u64;
        Ok(part.into())
    }

    /// Whether what was read is what was measured before.
    fn check(&self, stored: &Stored, path: &Path) -> Result<(), StoreError> {
        let digest = self
            .file
            .as_ref()
            .map(|(_, hasher)| Digest::from(hasher.finalize()));
        if self.bytes == stored.bytes && digest == Some(stored.digest) {
            return Ok(());
        }
        Err(StoreError::Changed {
            path: path.to_owned(),
        })
    }
}

/// Lets the group of the volume at an object, and at the folders that lead to it.
fn share(volume: &Path, key: &str) {
    let file = volume.join(key);
    let folders = file.ancestors().skip(1);
    let own = folders.take_while(|folder| *folder != volume && folder.starts_with(volume));
    for (path, mode) in own
        .map(|folder| (folder, FOLDER_MODE))
        .chain([(file.as_path(), FILE_MODE)])
    {
        // Who did not make it may not; who did has.
        drop(fs::set_permissions(path, Permissions::from_mode(mode)));
    }
}

async fn measure(file: &Path) -> Result<(u64, Digest), StoreError> {
    let path = file.to_owned();
    joined(spawn_blocking(move || digest::of_file(&path)).await).map_err(StoreError::file(file))
}

/// A task that was cut short did nothing.
fn joined<T>(result: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    result.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn partial(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// How much of an object is there already, and its hash. More than there is to come is of something
/// else.
fn resume(hasher: &mut blake3::Hasher, partial: &Path, bytes: u64) -> Result<u64, StoreError> {
    match fs::metadata(partial) {
        Ok(meta) if meta.len() <= bytes => {
            digest::feed(hasher, partial).map_err(StoreError::file(partial))
        }
        Ok(_) => {
            fs::remove_file(partial).map_err(StoreError::file(partial))?;
            Ok(0)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(StoreError::file(partial)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stores;

    /// A file that is written to between the two looks at it has another digest at the second.
    #[tokio::test]
    async fn a_file_that_changes_is_not_stored() {
        let folder = tempfile::tempdir().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("- {{name: a, url: 'file://{}'}}", folder.path().display());
        let stores = Stores::parse(&text).unwrap();
        let store = stores.get(None).unwrap().open([]).unwrap();
        let long = 2 * PART_BYTES + 1;
        for (before, now) in [(10, 10), (10, 11), (long, long), (long + 1, long)] {
            file.as_file().set_len(now).unwrap();
            let stored = Stored {
                key: "a".to_owned(),
                bytes: before,
                digest: blake3::hash(b"what it was").into(),
            };
            let sent = store.send(stored, file.path()).await;
            assert!(matches!(sent, Err(StoreError::Changed { .. })), "{sent:?}");
            assert_eq!(store.list("a").await.unwrap(), []);
            assert!(matches!(
                store.length("a").await,
                Err(StoreError::Missing { .. })
            ));
        }
    }
}
