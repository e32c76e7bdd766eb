//! A BPF ring buffer, read (`Documentation/bpf/ringbuf.rst`).
//!
//! ```text
//!  reader's page | writer's page | records ... | the same records once more
//!   read, write  |   read only   |  read only  |   read only, as far as the longest record
//! ```
//!
//! aya has a reader, which maps all of the second copy: a process is told to use the ring's memory twice.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Before each record (`BPF_RINGBUF_HDR_SZ`): its length with the bits below, and 4 bytes for the kernel.
const RECORD_HEADER: usize = 8;

/// `BPF_RINGBUF_BUSY_BIT`: the record is being written.
const BUSY: u32 = 1 << 31;

/// `BPF_RINGBUF_DISCARD_BIT`: whoever wrote the record thought better of it.
const DISCARDED: u32 = 1 << 30;

/// Space is given back to the writers after this many bytes: each time costs them a cache line.
const GIVE_BACK: u64 = 64 << 10;

/// Bytes in a line of the processor's cache, and how many of a record's are brought near before it is
/// looked at: those of its headers, and of most requests.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;
#[cfg(target_arch = "x86_64")]
const PREFETCHED: usize = 4;

/// The reading end of a ring buffer.
#[derive(Debug)]
pub(crate) struct EventRing {
    reader: Mapping,
    /// Begins with the writer's page.
    writer: Mapping,
    /// Bytes of records, a power of two.
    size: u64,
    /// Up to where we have read; both positions only grow.
    position: u64,
    /// Readable when a writer woke us since we last looked.
    woken: OwnedFd,
    /// `woken` forgets a ring that nobody has open.
    _ring: OwnedFd,
}

impl EventRing {
    /// The ring buffer of that descriptor, which holds `size` bytes and no record above `longest`.
    pub(crate) fn new(ring: BorrowedFd<'_>, size: u32, longest: usize) -> io::Result<Self> {
        let page = page_size()?;
        let reader = Mapping::new(ring, 0, page, libc::PROT_READ | libc::PROT_WRITE)?;
        let second = (RECORD_HEADER + longest)
            .next_multiple_of(page)
            .min(size as usize);
        let len = page + size as usize + second;
        let writer = Mapping::new(ring, page, len, libc::PROT_READ)?;
        let position = reader.position().load(Ordering::Acquire);
        Ok(Self {
            reader,
            writer,
            size: size.into(),
            position,
            woken: wake_ups(ring)?,
            _ring: ring.try_clone_to_owned()?,
        })
    }

    /// Hands up to `most` records to `take`, which may refuse to go on, and returns how many they were.
    pub(crate) fn read<E>(
        &mut self,
        most: usize,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut given_back = self.position;
        let mut records = 0;
        let mut result = Ok(());
        let written = self.writer.position().load(Ordering::Acquire);
        while records < most && self.position < written {
            let header = self.header();
            if header & BUSY != 0 {
                break;
            }
            let len = (header & !DISCARDED) as usize;
            self.prefetch(len);
            if header & DISCARDED == 0 {
                records += 1;
                result = take(self.record(len));
            }
            self.position += (RECORD_HEADER + len).next_multiple_of(8) as u64;
            if self.position - given_back >= GIVE_BACK {
                given_back = self.position;
                self.give_back();
            }
            if result.is_err() {
                break;
            }
        }
        if self.position != given_back {
            self.give_back();
        }
        result.map(|()| records)
    }

    /// Waits until a writer wakes us, or until the time is over. What woke us before, since the last
    /// wait, counts.
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<()> {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // Rounded up: a wait of nothing would go round and round.
        let millis = timeout.as_nanos().div_ceil(1_000_000);
        let millis = millis.try_into().unwrap_or(libc::c_int::MAX);
        // SAFETY: one entry, which outlives the call.
        if unsafe { libc::epoll_wait(self.woken.as_raw_fd(), &raw mut event, 1, millis) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Where our position is in the writer's mapping.
    const fn at(&self) -> usize {
        self.writer.page + (self.position & (self.size - 1)) as usize
    }

    /// What the kernel says about the record at our position, which is below the writer's.
    fn header(&self) -> u32 {
        // SAFETY: within the first copy, aligned to 8, and the kernel keeps a header there, which it
        // changes while we look.
        let header =
            unsafe { AtomicU32::from_ptr(self.writer.memory.add(self.at()).cast().as_ptr()) };
        header.load(Ordering::Acquire)
    }

    /// The record at our position, which is complete; nothing of one that is longer than was said.
    fn record(&self, len: usize) -> &[u8] {
        let start = self.at() + RECORD_HEADER;
        if start + len > self.writer.len {
            return &[];
        }
        // SAFETY: within the mapping, and complete: the kernel does not touch such a record until the
        // position behind it is given back, which `read` does, by `&mut self`.
        unsafe { slice::from_raw_parts(self.writer.memory.add(start).as_ptr(), len) }
    }

    /// Has the beginning of the record behind this one, which has `len` bytes, brought near: another processor
    /// wrote it, and the free ends of records keep this one from guessing where the next begins.
    fn prefetch(&self, len: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

            let next = self.at() + RECORD_HEADER + len;
            for line in 0..PREFETCHED {
                // SAFETY: a hint, which faults at no address.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(
                        self.writer
                            .memory
                            .as_ptr()
                            .wrapping_add(next + line * LINE)
                            .cast(),
                    );
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = len;
    }

    fn give_back(&self) {
        self.reader
            .position()
            .store(self.position, Ordering::Release);
    }
}

/// A descriptor that is readable whenever a writer woke us, and for no other reason: by the ring's own it
/// would be so as long as there is a record.
fn wake_ups(ring: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    let mut event = libc::epoll_event {
        events: (libc::EPOLLIN | libc::EPOLLET) as u32,
        u64: 0,
    };
    let (add, ring) = (libc::EPOLL_CTL_ADD, ring.as_raw_fd());
    // SAFETY: one entry, which outlives the call.
    if unsafe { libc::epoll_ctl(epoll.as_raw_fd(), add, ring, &raw mut event) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(epoll)
}

pub(super) fn page_size() -> io::Result<usize> {
    // SAFETY: the call takes no pointer.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(page).map_err(|_| io::Error::last_os_error())
}

/// Memory that is shared with the kernel.
#[derive(Debug)]
pub(super) struct Mapping {
    /// INVARIANT: maps `len` bytes until `self` is dropped, and begins with a position: an aligned number
    /// of the machine's word size (64 bits on every target of the programs) that others write.
    memory: NonNull<u8>,
    len: usize,
    page: usize,
}

// SAFETY: the mapping belongs to this value alone, and numbers in it that change are touched as atomics
// only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `len` bytes of a ring buffer from `offset` on, both multiples of the page size.
    pub(super) fn new(
        ring: BorrowedFd<'_>,
        offset: usize,
        len: usize,
        protection: libc::c_int,
    ) -> io::Result<Self> {
        let page = page_size()?;
        let offset = offset
            .try_into()
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                ring.as_raw_fd(),
                offset,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory, len, page })
    }

    /// The position at its beginning.
    pub(super) fn position(&self) -> &AtomicU64 {
        // SAFETY: the invariant.
        unsafe { AtomicU64::from_ptr(self.memory.cast().as_ptr()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, and no borrow of it outlives `self`.
        let result = unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len) };
        debug_assert!(result == 0, "the mapping is ours");
    }
}
