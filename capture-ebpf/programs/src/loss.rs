//! What was sent and what could not be: counted by cause, and for the next event of the socket.

use core::arch::asm;

use tapedeck_ebpf_abi::{Counter, PacketHeader, Socket, Tally};

use crate::{COUNTERS, SOCKETS};

/// `BPF_NOEXIST`.
const NEW: u64 = 1;

/// Adds to a counter.
///
/// Atomic although the slot belongs to this CPU: the program for egress runs in the sender's
/// context, where an interrupt may run the one for ingress in the middle of an addition.
#[inline(always)]
pub fn count(counter: Counter, by: u64) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the pointer is to a live map entry, which is touched by atomic additions only.
        unsafe { add(slot, by) }
    }
}

/// What is remembered of one direction of a socket; `None` where there was no room.
#[inline(always)]
fn tally(cookie: u64, direction: u64) -> Option<*mut Tally> {
    let socket = match SOCKETS.get_ptr_mut(cookie) {
        Some(socket) => socket,
        None => {
            // Another CPU may have been faster, which is as good.
            let _ = SOCKETS.insert(cookie, Socket::default(), NEW);
            SOCKETS.get_ptr_mut(cookie)?
        }
    };
    // SAFETY: the pointer is to a live map entry, and the index is 0 or 1.
    Some(unsafe {
        (&raw mut (*socket).directions)
            .cast::<Tally>()
            .add((direction & 1) as usize)
    })
}

/// Notes that a packet with `bytes` of payload was lost.
///
/// A subprogram, like [`take`]: in line, the two would be most of the code.
#[inline(never)]
pub fn lost(cookie: u64, direction: u64, packets: Counter, payload: Counter, bytes: u32) {
    count(packets, 1);
    count(payload, u64::from(bytes));
    let Some(tally) = tally(cookie, direction) else {
        count(Counter::Untold, 1);
        return;
    };
    // SAFETY: the pointer is to a live map entry of plain data.
    unsafe {
        (*tally).event = (*tally).event.wrapping_add(1);
        (*tally).lost_packets = (*tally).lost_packets.saturating_add(1);
        (*tally).lost_bytes = (*tally).lost_bytes.saturating_add(bytes);
    }
}

/// Counts an event of the socket, and writes its number and what was lost since the event before
/// into its header.
///
/// Into the header, and not to be returned: what differs between the ways through here then lies
/// where the verifier keeps no track, and it walks the rest of the program once.
///
/// # Safety
///
/// `header` points to a record that is being written.
#[inline(never)]
pub unsafe fn take(cookie: u64, direction: u64, header: *mut PacketHeader) {
    count(Counter::Sent, 1);
    let Some(tally) = tally(cookie, direction) else {
        return;
    };
    // SAFETY: the pointer is to a live map entry of plain data; the caller vouches for the header.
    unsafe {
        (*tally).event = (*tally).event.wrapping_add(1);
        (*header).event = (*tally).event;
        (*header).lost_packets = (*tally).lost_packets;
        (*header).lost_bytes = (*tally).lost_bytes;
        (*tally).lost_packets = 0;
        (*tally).lost_bytes = 0;
    }
}

/// Adds atomically. `AtomicU64` has no additions on this target, which lacks the
/// compare-and-exchange that rustc asks for; the instruction itself is in every kernel's BPF.
///
/// # Safety
///
/// `number` points to a live, aligned map entry.
#[inline(always)]
unsafe fn add(number: *mut u64, by: u64) {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) number, in(reg) by, options(nostack));
    }
}
