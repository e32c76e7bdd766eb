//! Where the targets put files.

use std::io::Write;
use std::path::Path;

use tempfile::{NamedTempFile, TempDir};

/// A folder in memory where there is one: what archives sync to a disk would only be slow.
#[expect(clippy::expect_used, reason = "a full disk is no finding")]
pub(crate) fn folder() -> TempDir {
    const MEMORY: &str = "/dev/shm";
    let in_memory = TempDir::new_in(MEMORY);
    in_memory
        .or_else(|_| TempDir::new())
        .expect("a temporary folder")
}

/// A file of these bytes in a folder.
#[expect(clippy::expect_used, reason = "a full disk is no finding")]
pub(crate) fn file(folder: &Path, bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new_in(folder).expect("a temporary file");
    file.write_all(bytes).expect("space for a temporary file");
    file
}
