//! The kernel programs: they copy the TCP segments of a cgroup's sockets into a ring buffer.
//!
//! Two programs of type `cgroup_skb`, one for each direction. A segment with payload, SYN, FIN or
//! RST becomes an event; bare acknowledgments do not. Nothing above TCP is looked at. What cannot
//! be sent is counted by cause, and told with the next event of the same socket.
//!
//! A `cgroup_skb` program decides whether a packet lives: everything but 1 drops it. Both programs
//! call [`capture`], which has no result, and return the constant [`PASS`].

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod emit;
mod headers;
mod loss;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_skb_cgroup_id,
};
use aya_ebpf::macros::{cgroup_skb, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::SkBuffContext;
use tapedeck_ebpf_abi::{Counter, Loss, PacketHeader, VERSION};

/// Lets the packet live.
const PASS: i32 = 1;

/// The loopback device has this index in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);

#[map]
static PORTS: Array<u64> = Array::with_max_entries(65_536 / 64, 0);

/// The losses that no event has told yet, by socket cookie.
#[map]
static LOSSES: HashMap<u64, Loss> = HashMap::with_max_entries(8_192, 0);

/// How many entries [`LOSSES`] has: while there is none, no event pays for a look-up.
#[map]
static UNTOLD: Array<u64> = Array::with_max_entries(1, 0);

#[unsafe(no_mangle)]
static ONLY_PORTS: u8 = 0;
#[unsafe(no_mangle)]
static LOOPBACK_ONCE: u8 = 0;
#[unsafe(no_mangle)]
static WITH_NETNS: u8 = 0;
#[unsafe(no_mangle)]
static IGNORED_CGROUP: u64 = 0;

#[cgroup_skb(ingress)]
pub fn tapedeck_in(ctx: SkBuffContext) -> i32 {
    capture(&ctx, 0);
    PASS
}

#[cgroup_skb(egress)]
pub fn tapedeck_out(ctx: SkBuffContext) -> i32 {
    capture(&ctx, PacketHeader::EGRESS);
    PASS
}

#[inline(always)]
fn capture(ctx: &SkBuffContext, direction: u16) {
    let loopback = interface(ctx) == LOOPBACK;
    // A loopback packet leaves one socket of this machine and arrives at another: the same bytes
    // twice. The sender's copy is the one that always exists; a receiver without room drops its
    // packet, and the sender repeats it. (Only where both ends are under the attached cgroup.)
    if loopback && direction == 0 && constant(&LOOPBACK_ONCE) != 0 {
        return;
    }
    let Some(headers) = headers::read(ctx) else {
        return;
    };
    if headers.payload_len == 0 && !headers.opens_or_closes() {
        return;
    }
    if constant(&ONLY_PORTS) != 0 && !wanted(headers.source) && !wanted(headers.destination) {
        return;
    }
    // SAFETY: the context is a live skb of this program's type, which both helpers take.
    let (cgroup, cookie) = unsafe {
        (
            bpf_skb_cgroup_id(ctx.skb.skb),
            bpf_get_socket_cookie(ctx.as_ptr()),
        )
    };
    let ignored = constant(&IGNORED_CGROUP);
    if ignored != 0 && cgroup == ignored {
        return;
    }
    let netns = if constant(&WITH_NETNS) == 0 {
        0
    } else {
        // SAFETY: as above; the constant says that this kernel has the helper for skbs. Where it
        // has not, the verifier sees a dead branch.
        unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
    };
    let header = PacketHeader {
        version: VERSION,
        flags: direction | if loopback { PacketHeader::LOOPBACK } else { 0 },
        len: headers.packet_len,
        packet_len: headers.packet_len,
        part_offset: 0,
        // SAFETY: the helper has no requirement.
        time: unsafe { bpf_ktime_get_boot_ns() },
        cookie,
        cgroup,
        netns,
        lost_packets: 0,
        lost_bytes: 0,
    };
    emit::packet(ctx, header, &headers);
}

/// The index of the device that the packet leaves or came by.
#[inline(always)]
fn interface(ctx: &SkBuffContext) -> u32 {
    // SAFETY: the context is a live skb, and the field may be read by this program type.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Reads a constant that the loader may have replaced.
#[inline(always)]
fn constant<T: Copy>(value: &'static T) -> T {
    // SAFETY: a reference is valid to read. Volatile, as the compiler must not use the value that
    // it sees here: the loader writes another one before the program is verified.
    unsafe { core::ptr::read_volatile(value) }
}

#[inline(always)]
fn wanted(port: u16) -> bool {
    match PORTS.get(u32::from(port >> 6)) {
        Some(bits) => bits & (1 << (port & 63)) != 0,
        None => false,
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: never reached: nothing here can panic, and the verifier refuses an endless loop, so
    // an object with a reachable panic would not load.
    unsafe { core::hint::unreachable_unchecked() }
}

/// As `Cargo.toml` has it, in the kernel's words: some helpers are for programs under a licence
/// compatible with the GPL only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
