//! How full a BPF ring buffer is (`Documentation/bpf/ringbuf.rst`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

/// The positions of a ring buffer's reader and writer, mapped to be read.
#[derive(Debug)]
pub(crate) struct RingGauge {
    /// INVARIANT: maps two pages, read-only, until `self` is dropped: the first begins with the
    /// reader's position, the second with the writer's. Both only grow.
    memory: NonNull<u8>,
    page: usize,
    size: u64,
}

// SAFETY: the mapping belongs to this value alone, and is read by atomic loads only.
unsafe impl Send for RingGauge {}
// SAFETY: as above.
unsafe impl Sync for RingGauge {}

impl RingGauge {
    /// Of the ring buffer of that descriptor, which holds `size` bytes.
    pub(crate) fn new(ring: BorrowedFd<'_>, size: u64) -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                2 * page,
                libc::PROT_READ,
                libc::MAP_SHARED,
                ring.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory, page, size })
    }

    /// Bytes that wait to be read.
    pub(crate) fn waiting(&self) -> u64 {
        let read = self.position(0);
        self.position(self.page).saturating_sub(read)
    }

    /// Bytes that it holds.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    fn position(&self, at: usize) -> u64 {
        // SAFETY: `at` is the beginning of one of the two pages, which hold an aligned number of
        // the machine's word size (64 bits on every target of the programs) that others write.
        unsafe { AtomicU64::from_ptr(self.memory.add(at).cast().as_ptr()).load(Ordering::Acquire) }
    }
}

impl Drop for RingGauge {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, and no borrow of it outlives `self`.
        let result = unsafe { libc::munmap(self.memory.as_ptr().cast(), 2 * self.page) };
        debug_assert!(result == 0, "the mapping is ours");
    }
}
