//! The receive ring of a packet socket: TPACKET_V3, memory shared with the kernel
//! (`Documentation/networking/packet_mmap.rst`).
//!
//! ```text
//!  ring  | block | block | block | ...       each is the kernel's or ours, as its status says
//!  block | descriptor | frame | frame | ... | unused
//!  frame | tpacket3_hdr | sockaddr_ll | room | packet |
//!          `- tp_next_offset to the next frame, tp_mac to the packet
//! ```

use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::packet_socket::{PacketSocket, check};

/// Free bytes before each packet, for the VLAN tag that is put back.
const RESERVED: usize = VLAN_TAG;

/// A VLAN tag on the wire: its ethertype and its value (IEEE 802.1Q).
const VLAN_TAG: usize = 4;

/// Two link-layer addresses stand before a VLAN tag.
const ADDRESSES: usize = 12;

/// The size of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingSize {
    /// Bytes in a block, a multiple of the page size. No packet is longer than a block.
    pub(crate) block: usize,
    /// How many blocks.
    pub(crate) blocks: usize,
    /// After this time the kernel hands over a block that is not full.
    pub(crate) block_timeout: Duration,
}

/// The ring of a packet socket.
#[derive(Debug)]
pub(crate) struct PacketRing {
    socket: PacketSocket,
    /// INVARIANT: maps `size.block * size.blocks` bytes, read-write, until `self` is dropped.
    memory: NonNull<u8>,
    size: RingSize,
    link_header: bool,
    /// INVARIANT: `next < size.blocks`.
    next: usize,
}

// SAFETY: the mapping belongs to this value alone; the kernel does not care which thread reads.
unsafe impl Send for PacketRing {}

impl PacketRing {
    /// Gives the socket a ring. `link_header` is what the socket was opened with.
    pub(crate) fn new(socket: PacketSocket, size: RingSize, link_header: bool) -> io::Result<Self> {
        let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        socket.set_option(libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        let reserved = RESERVED as libc::c_uint;
        socket.set_option(libc::SOL_PACKET, libc::PACKET_RESERVE, &reserved)?;
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        // The kernel wants frames of a fixed size that fill the blocks, and then ignores them.
        let frame = 2048;
        let request = libc::tpacket_req3 {
            tp_block_size: size.block.try_into().map_err(invalid)?,
            tp_block_nr: size.blocks.try_into().map_err(invalid)?,
            tp_frame_size: frame,
            tp_frame_nr: (size.block / frame as usize * size.blocks)
                .try_into()
                .map_err(invalid)?,
            tp_retire_blk_tov: size.block_timeout.as_millis().try_into().map_err(invalid)?,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        socket.set_option(libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size.block * size.blocks,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.raw(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            socket,
            memory,
            size,
            link_header,
            next: 0,
        })
    }

    /// The socket of this ring.
    pub(crate) fn socket(&self) -> &PacketSocket {
        &self.socket
    }

    /// Hands the frames of the next block to `take`, and the block back to the kernel. Waits for
    /// one up to `timeout`; returns the number of frames, 0 if there was no block.
    pub(crate) fn next_block(
        &mut self,
        timeout: Duration,
        take: &mut dyn FnMut(Frame<'_>),
    ) -> io::Result<usize> {
        if !self.is_ours() {
            self.wait(timeout)?;
            if !self.is_ours() {
                return self.nothing();
            }
        }
        let frames = self.frames(take);
        self.status()
            .store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % self.size.blocks;
        Ok(frames)
    }

    /// Calls `take` with each frame of the block, which is ours.
    fn frames(&mut self, take: &mut dyn FnMut(Frame<'_>)) -> usize {
        let block = self.block();
        // SAFETY: the block is ours, and starts with its descriptor, in the version-1 variant (the
        // only one).
        let (count, first) = unsafe {
            let header = &raw const (*block.cast::<libc::tpacket_block_desc>().as_ptr()).hdr.bh1;
            ((*header).num_pkts, (*header).offset_to_first_pkt)
        };
        let mut at = first as usize;
        for _ in 0..count {
            if at + size_of::<libc::tpacket3_hdr>() > self.size.block {
                debug_assert!(false, "the kernel's frames stay within their block");
                break;
            }
            // SAFETY: the block is ours, and the kernel put a frame header, aligned to 16, there.
            let header = unsafe { block.add(at).cast::<libc::tpacket3_hdr>().as_ptr().read() };
            if let Some(frame) = self.frame(at, &header) {
                take(frame);
            }
            at += header.tp_next_offset as usize;
        }
        count as usize
    }

    /// The frame whose header is at `at` in the block, which is ours.
    fn frame(&mut self, at: usize, header: &libc::tpacket3_hdr) -> Option<Frame<'_>> {
        let start = at + usize::from(header.tp_mac);
        let len = header.tp_snaplen as usize;
        if start + len > self.size.block {
            debug_assert!(false, "the kernel's packets stay within their block");
            return None;
        }
        let tag = (header.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(header);
        // SAFETY: `start + len` lies in the block, which is ours until it is given back; the
        // exclusive borrow of `self` keeps that from happening while the slice lives. The
        // reserved bytes before the packet belong to it.
        let with_room = unsafe {
            slice::from_raw_parts_mut(self.block().add(start - RESERVED).as_ptr(), RESERVED + len)
        };
        let data = match tag {
            Some(header) if self.link_header && len >= ADDRESSES => {
                put_vlan_tag(with_room, header);
                &*with_room
            }
            _ => with_room.get(RESERVED..)?,
        };
        // SAFETY: a `sockaddr_ll` follows the frame header, aligned to 16.
        let address = unsafe {
            self.block()
                .add(at + libc::TPACKET3_HDRLEN - size_of::<libc::sockaddr_ll>())
                .cast::<libc::sockaddr_ll>()
                .as_ptr()
                .read()
        };
        Some(Frame {
            nanos: i64::from(header.tp_sec) * 1_000_000_000 + i64::from(header.tp_nsec),
            data,
            cut: header.tp_len.saturating_sub(header.tp_snaplen),
            protocol: u16::from_be(address.sll_protocol),
        })
    }

    fn wait(&self, timeout: Duration) -> io::Result<()> {
        let mut poll = libc::pollfd {
            fd: self.socket.raw(),
            events: libc::POLLIN | libc::POLLERR,
            revents: 0,
        };
        let millis = timeout.as_millis().try_into().unwrap_or(libc::c_int::MAX);
        // SAFETY: one entry, which outlives the call.
        if unsafe { libc::poll(&raw mut poll, 1, millis) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        if poll.revents & libc::POLLERR != 0
            && let Some(error) = self.socket.take_error()?
            // An interface that went down may come up again, and the socket is still bound to it.
            && error.raw_os_error() != Some(libc::ENETDOWN)
        {
            return Err(error);
        }
        Ok(())
    }

    /// No block. An interface that is removed goes down first, which is all that wakes us: at that time the
    /// socket may still be bound to it, and of the removal itself the kernel says nothing. So it is asked.
    fn nothing(&self) -> io::Result<usize> {
        if self.socket.has_lost_interface()? {
            return Err(io::Error::from_raw_os_error(libc::ENETDOWN));
        }
        Ok(0)
    }

    fn is_ours(&self) -> bool {
        self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER != 0
    }

    /// The word by which the kernel and we pass the block to each other.
    fn status(&self) -> &AtomicU32 {
        // SAFETY: the descriptor is at the block's start, aligned to a page. The kernel changes
        // the word while we look, so it is only ever touched as an atomic.
        unsafe {
            let block = self.block().cast::<libc::tpacket_block_desc>().as_ptr();
            AtomicU32::from_ptr(&raw mut (*block).hdr.bh1.block_status)
        }
    }

    fn block(&self) -> NonNull<u8> {
        // SAFETY: `next < size.blocks`, so this is within the mapping.
        unsafe { self.memory.add(self.next * self.size.block) }
    }
}

impl Drop for PacketRing {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, and no borrow of it outlives `self`.
        let result = unsafe {
            libc::munmap(
                self.memory.as_ptr().cast(),
                self.size.block * self.size.blocks,
            )
        };
        debug_assert!(check(result).is_ok(), "the mapping is ours");
    }
}

/// One packet in the ring.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    /// When it was seen: nanoseconds since the Unix epoch.
    pub(crate) nanos: i64,
    /// The packet, VLAN tag put back.
    pub(crate) data: &'a [u8],
    /// Bytes of the packet behind `data` that were not captured.
    pub(crate) cut: u32,
    /// The ethertype behind the link header and one VLAN tag.
    pub(crate) protocol: u16,
}

/// Moves the addresses into the reserved bytes, and puts the tag that the kernel or the device took
/// out between them and the ethertype.
fn put_vlan_tag(with_room: &mut [u8], header: &libc::tpacket3_hdr) {
    const DEFAULT: u16 = 0x8100;
    with_room.copy_within(RESERVED..RESERVED + ADDRESSES, 0);
    let ethertype = if header.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 {
        header.hv1.tp_vlan_tpid
    } else {
        DEFAULT
    };
    // The kernel keeps the value in 16 bits of a wider field.
    let value = header.hv1.tp_vlan_tci as u16;
    if let Some(tag) = with_room.get_mut(ADDRESSES..ADDRESSES + VLAN_TAG) {
        let [a, b] = ethertype.to_be_bytes();
        let [c, d] = value.to_be_bytes();
        tag.copy_from_slice(&[a, b, c, d]);
    }
}
