//! Puts packets into the ring buffer, long ones in parts.

use core::arch::asm;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::maps::ring_buf::RingBufBytes;
use aya_ebpf::programs::SkBuffContext;
use tapedeck_ebpf_abi::{
    CLASSES, Counter, LARGEST, MAX_HEADERS, MAX_PARTS, MAX_WHOLE, PART, PacketHeader,
};

use crate::headers::Headers;
use crate::{EVENTS, loss};

/// The reader looks at the ring by the clock. A wake-up for each event would cost the sender
/// more than the event itself.
const FLAGS: u64 = BPF_RB_NO_WAKEUP as u64;

/// FIN and PSH: flags of the end of a segment, which only its last part may carry.
const END_FLAGS: u8 = 0x01 | 0x08;

const HEADER: usize = PacketHeader::LEN;

/// Sends the packet.
#[inline(always)]
pub fn packet(ctx: &SkBuffContext, header: PacketHeader, headers: &Headers) {
    let len = headers.packet_len as usize;
    if len <= CLASSES[0] - HEADER {
        whole::<{ CLASSES[0] }>(ctx, header, headers);
    } else if len <= CLASSES[1] - HEADER {
        whole::<{ CLASSES[1] }>(ctx, header, headers);
    } else if len <= CLASSES[2] - HEADER {
        whole::<{ CLASSES[2] }>(ctx, header, headers);
    } else if len <= CLASSES[3] - HEADER {
        whole::<{ CLASSES[3] }>(ctx, header, headers);
    } else if len <= CLASSES[4] - HEADER {
        whole::<{ CLASSES[4] }>(ctx, header, headers);
    } else if len <= CLASSES[5] - HEADER {
        whole::<{ CLASSES[5] }>(ctx, header, headers);
    } else if len <= MAX_WHOLE {
        whole::<LARGEST>(ctx, header, headers);
    } else {
        in_parts(ctx, header, headers);
    }
}

#[inline(always)]
fn whole<const SIZE: usize>(ctx: &SkBuffContext, mut header: PacketHeader, headers: &Headers) {
    let Some(mut record) = EVENTS.reserve_bytes(SIZE, 0) else {
        ring_full(header.cookie, headers.payload_len);
        return;
    };
    let len = opaque(u64::from(headers.packet_len));
    if len == 0 || len > (SIZE - HEADER) as u64 || !load(ctx, 0, &mut record, HEADER as u64, len) {
        record.discard(FLAGS);
        unreadable(header.cookie, headers.payload_len);
        return;
    }
    tell_loss(&mut header);
    put_header(&mut record, header);
    record.submit(FLAGS);
}

#[inline(always)]
fn in_parts(ctx: &SkBuffContext, mut header: PacketHeader, headers: &Headers) {
    if headers.len as usize > MAX_HEADERS {
        too_long(header.cookie, headers.payload_len);
        return;
    }
    for index in 0..MAX_PARTS {
        let offset = (index * PART) as u32;
        if offset >= headers.payload_len {
            return;
        }
        let rest = headers.payload_len - offset;
        let is_last = rest <= PART as u32;
        let len = if is_last { rest } else { PART as u32 };
        header.part_offset = offset;
        part(ctx, header, headers, len, is_last);
    }
    let sent = (MAX_PARTS * PART) as u32;
    if headers.payload_len > sent {
        too_long(header.cookie, headers.payload_len - sent);
    }
}

/// Sends `len` payload bytes from `header.part_offset` on, as a packet by itself.
#[inline(always)]
fn part(ctx: &SkBuffContext, mut header: PacketHeader, headers: &Headers, len: u32, is_last: bool) {
    let Some(mut record) = EVENTS.reserve_bytes(LARGEST, 0) else {
        ring_full(header.cookie, len);
        return;
    };
    let headers_len = opaque(u64::from(headers.len));
    let payload_len = opaque(u64::from(len));
    let payload_at = u64::from(headers.len + header.part_offset);
    if headers_len == 0
        || headers_len > MAX_HEADERS as u64
        || payload_len == 0
        || payload_len > PART as u64
        || !load(ctx, 0, &mut record, HEADER as u64, headers_len)
        || !load(
            ctx,
            payload_at,
            &mut record,
            HEADER as u64 + headers_len,
            payload_len,
        )
    {
        record.discard(FLAGS);
        unreadable(header.cookie, len);
        return;
    }
    header.len = headers.len + len;
    if !is_last {
        header.flags |= PacketHeader::MORE;
    }
    // The length field counts the whole packet in IPv4, what follows the fixed header in IPv6.
    let (field, announced) = if headers.is_ipv6 {
        (4, header.len - 40)
    } else {
        (2, header.len)
    };
    put_be(
        &mut record,
        HEADER + field,
        &(announced as u16).to_be_bytes(),
    );
    let tcp = opaque(u64::from(headers.tcp));
    if tcp <= MAX_HEADERS as u64 {
        let tcp = HEADER + tcp as usize;
        let seq = headers.seq.wrapping_add(header.part_offset);
        put_be(&mut record, tcp + 4, &seq.to_be_bytes());
        if !is_last {
            put_be(&mut record, tcp + 13, &[headers.flags & !END_FLAGS]);
        }
    }
    tell_loss(&mut header);
    put_header(&mut record, header);
    record.submit(FLAGS);
}

#[inline(always)]
fn tell_loss(header: &mut PacketHeader) {
    let loss = loss::take(header.cookie);
    header.lost_packets = loss.packets;
    header.lost_bytes = loss.bytes;
}

#[inline(always)]
fn ring_full(cookie: u64, bytes: u32) {
    loss::lost(cookie, Counter::RingFull, Counter::RingFullBytes, bytes);
}

#[inline(always)]
fn unreadable(cookie: u64, bytes: u32) {
    loss::lost(cookie, Counter::Unreadable, Counter::UnreadableBytes, bytes);
}

#[inline(always)]
fn too_long(cookie: u64, bytes: u32) {
    loss::lost(cookie, Counter::TooLong, Counter::TooLongBytes, bytes);
}

/// Copies `len` bytes of the packet, from `from` on, to `at` in the record.
#[inline(always)]
fn load(ctx: &SkBuffContext, from: u64, record: &mut RingBufBytes<'_>, at: u64, len: u64) -> bool {
    // SAFETY: the callers checked that `at + len` lies in the record, which the verifier proves
    // again from the same comparisons.
    unsafe {
        bpf_skb_load_bytes(
            ctx.as_ptr(),
            from as u32,
            record.as_mut_ptr().add(at as usize).cast(),
            len as u32,
        ) == 0
    }
}

#[inline(always)]
fn put_header(record: &mut RingBufBytes<'_>, header: PacketHeader) {
    // SAFETY: every record is longer than the header, and records are aligned to 8 bytes.
    unsafe { record.as_mut_ptr().cast::<PacketHeader>().write(header) }
}

/// Writes byte by byte: the place is not aligned.
#[inline(always)]
fn put_be<const N: usize>(record: &mut RingBufBytes<'_>, at: usize, bytes: &[u8; N]) {
    for (index, byte) in bytes.iter().enumerate() {
        // SAFETY: the callers' places lie in the headers, at most `MAX_HEADERS` and the few bytes
        // of a TCP header into a record of `LARGEST` bytes.
        unsafe { record.as_mut_ptr().add(at + index).write_volatile(*byte) }
    }
}

/// The same number, of which the compiler knows nothing.
///
/// It would else remove the comparisons that are superfluous by its own knowledge, and the
/// verifier, which lacks that knowledge, would find the number unbounded.
#[inline(always)]
fn opaque(mut number: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe {
        asm!("/* {0} */", inout(reg) number, options(nomem, nostack, preserves_flags, pure));
    }
    number
}
