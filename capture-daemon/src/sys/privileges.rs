//! What this process may, beside its capabilities.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Sees to it that no program that is executed from now on gets more than we have, by whatever file
/// capabilities or set-user-id bit.
pub(crate) fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether files can be made, renamed and deleted in this folder with what is in effect now.
///
/// Straight to the kernel (Linux 5.8): where it lacks the call, the C library works the answer out
/// from the permission bits, without looking at capabilities.
pub(crate) fn may_write_to(folder: &Path) -> bool {
    let Ok(folder) = CString::new(folder.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: the path ends in a zero and outlives the call.
    let result = unsafe {
        libc::faccessat(
            libc::AT_FDCWD,
            folder.as_ptr(),
            libc::W_OK | libc::X_OK,
            libc::AT_EACCESS,
        )
    };
    result == 0
}
