//! What could not be sent: counted by cause, and kept for the next event of the same socket.

use core::arch::asm;

use tapedeck_ebpf_abi::{Counter, Loss};

use crate::{COUNTERS, LOSSES, UNTOLD};

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

/// Notes that a packet, or a part of one, with `bytes` of payload was lost.
///
/// A subprogram, like [`take`]: in line, the two would be most of the code.
#[inline(never)]
pub fn lost(cookie: u64, packets: Counter, payload: Counter, bytes: u32) {
    count(packets, 1);
    count(payload, u64::from(bytes));
    if let Some(loss) = LOSSES.get_ptr_mut(cookie) {
        // SAFETY: the pointer is to a live map entry. Two CPUs may add at once and lose one
        // addition: the entry is a hint for one connection, `COUNTERS` has the exact sum.
        unsafe {
            (*loss).packets = (*loss).packets.saturating_add(1);
            (*loss).bytes = (*loss).bytes.saturating_add(bytes);
        }
    } else if LOSSES
        .insert(cookie, Loss { packets: 1, bytes }, NEW)
        .is_ok()
    {
        if let Some(untold) = UNTOLD.get_ptr_mut(0) {
            // SAFETY: as in `count`.
            unsafe { add(untold, 1) }
        }
    } else {
        count(Counter::Untold, 1);
    }
}

/// Takes what the socket has lost since it was asked last.
#[inline(never)]
pub fn take(cookie: u64) -> Loss {
    let Some(untold) = UNTOLD.get_ptr_mut(0) else {
        return Loss::default();
    };
    // SAFETY: the pointer is to a live map entry. Volatile, as other CPUs change it.
    if unsafe { untold.read_volatile() } == 0 {
        return Loss::default();
    }
    let Some(entry) = LOSSES.get_ptr_mut(cookie) else {
        return Loss::default();
    };
    // SAFETY: the pointer is to a live map entry of plain data.
    let loss = unsafe { *entry };
    if LOSSES.remove(cookie).is_ok() {
        // SAFETY: as in `count`. Adding this takes one away.
        unsafe { add(untold, u64::MAX) }
    }
    loss
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
