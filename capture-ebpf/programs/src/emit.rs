//! Puts packets into a ring buffer.

use core::arch::asm;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::maps::RingBuf;
use aya_ebpf::maps::ring_buf::RingBufBytes;
use aya_ebpf::programs::SkBuffContext;
use tapedeck_ebpf_abi::{CLASSES, Counter, PacketHeader};

use crate::{headers, loss, quarter, written};

/// Does not wake the reader: it looks at the ring by the clock. A wake-up for each event would cost the
/// sender more than the event itself.
const QUIETLY: u64 = BPF_RB_NO_WAKEUP as u64;

/// Other processors may have reserved this much by the time that we do: a few records of common sizes. Each
/// record this close to the next quarter wakes the reader, which costs its sender an interrupt, so it is not
/// more. Where a longer one slips in between, the reader wakes by the clock, or with the next quarter.
const BESIDE: u64 = 4 << 10;

const HEADER: usize = PacketHeader::LEN;

/// Sends the first `header.len` bytes of the packet, which has `payload_len` bytes of payload.
#[inline(always)]
pub fn packet(ctx: &SkBuffContext, ring: &RingBuf, header: PacketHeader, payload_len: u32) {
    let len = header.len as usize;
    let flags = flags(ring, u64::from(header.len));
    if len <= CLASSES[0] - HEADER {
        record::<{ CLASSES[0] }>(ctx, ring, header, payload_len, flags);
    } else if len <= CLASSES[1] - HEADER {
        record::<{ CLASSES[1] }>(ctx, ring, header, payload_len, flags);
    } else if len <= CLASSES[2] - HEADER {
        record::<{ CLASSES[2] }>(ctx, ring, header, payload_len, flags);
    } else if len <= CLASSES[3] - HEADER {
        record::<{ CLASSES[3] }>(ctx, ring, header, payload_len, flags);
    } else if len <= CLASSES[4] - HEADER {
        record::<{ CLASSES[4] }>(ctx, ring, header, payload_len, flags);
    } else if len <= CLASSES[5] - HEADER {
        record::<{ CLASSES[5] }>(ctx, ring, header, payload_len, flags);
    } else if len <= CLASSES[6] - HEADER {
        record::<{ CLASSES[6] }>(ctx, ring, header, payload_len, flags);
    } else if len <= CLASSES[7] - HEADER {
        record::<{ CLASSES[7] }>(ctx, ring, header, payload_len, flags);
    } else if len <= CLASSES[8] - HEADER {
        record::<{ CLASSES[8] }>(ctx, ring, header, payload_len, flags);
    } else if len <= CLASSES[9] - HEADER {
        record::<{ CLASSES[9] }>(ctx, ring, header, payload_len, flags);
    } else {
        lost(
            &header,
            Counter::TooLong,
            Counter::TooLongBytes,
            payload_len,
        );
    }
}

#[inline(always)]
fn record<const SIZE: usize>(
    ctx: &SkBuffContext,
    ring: &RingBuf,
    header: PacketHeader,
    payload_len: u32,
    flags: u64,
) {
    let Some(mut record) = ring.reserve_bytes(SIZE, 0) else {
        lost(
            &header,
            Counter::RingFull,
            Counter::RingFullBytes,
            payload_len,
        );
        return;
    };
    let len = opaque(u64::from(header.len));
    if len == 0 || len > (SIZE - HEADER) as u64 || !load(ctx, &mut record, len) {
        record.discard(QUIETLY);
        lost(
            &header,
            Counter::Unreadable,
            Counter::UnreadableBytes,
            payload_len,
        );
        return;
    }
    // SAFETY: every record is longer than the header and 128 bytes, and records are aligned to 8 bytes.
    unsafe {
        let place = record.as_mut_ptr().cast::<PacketHeader>();
        place.write(header);
        if header.flags & PacketHeader::TRANSLATED != 0 {
            headers::write_sender(ctx, record.as_mut_ptr().add(HEADER));
        }
        loss::take(header.cookie, direction(&header), place);
    }
    record.submit(flags);
}

/// A record is at most this many times as long as its packet, and [`BESIDE`] longer.
const ROUNDED_UP: u64 = 4;

const _: () = {
    let mut class = 1;
    while class < CLASSES.len() {
        let shortest = CLASSES[class - 1] - HEADER + 1;
        assert!(CLASSES[class] as u64 <= shortest as u64 * ROUNDED_UP + BESIDE);
        class += 1;
    }
};

/// Wakes the reader (`BPF_RB_FORCE_WAKEUP` is the number after `BPF_RB_NO_WAKEUP`) where the record of a packet
/// of that length may begin another quarter of the ring. Without a branch, for which the verifier would walk all
/// that follows twice.
#[inline(always)]
fn flags(ring: &RingBuf, len: u64) -> u64 {
    let written = written(ring);
    QUIETLY + ((quarter(written) ^ quarter(written + len * ROUNDED_UP + BESIDE)) & 1)
}

#[inline(always)]
fn lost(header: &PacketHeader, packets: Counter, payload: Counter, bytes: u32) {
    loss::lost(header.cookie, direction(header), packets, payload, bytes);
}

/// A constant, unlike the flags, whose bits would lead the verifier on ways of their own.
#[inline(always)]
fn direction(header: &PacketHeader) -> u64 {
    u64::from(header.flags & PacketHeader::EGRESS)
}

/// Copies the first `len` bytes of the packet behind the header of the record.
#[inline(always)]
fn load(ctx: &SkBuffContext, record: &mut RingBufBytes<'_>, len: u64) -> bool {
    // SAFETY: the caller checked that the bytes fit behind the header, which the verifier proves
    // again from the same comparisons.
    unsafe {
        bpf_skb_load_bytes(
            ctx.as_ptr(),
            0,
            record.as_mut_ptr().add(HEADER).cast(),
            len as u32,
        ) == 0
    }
}

/// The same number, of which the compiler knows nothing.
///
/// It would else remove the comparisons that are superfluous by its own knowledge, and the
/// verifier, which lacks that knowledge, would find the number unbounded.
#[inline(always)]
pub fn opaque(mut number: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe {
        asm!("/* {0} */", inout(reg) number, options(nomem, nostack, preserves_flags, pure));
    }
    number
}
