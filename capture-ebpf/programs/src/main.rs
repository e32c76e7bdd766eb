//! The kernel programs: they copy the TCP segments of a cgroup's sockets into a ring buffer.
//!
//! Two programs of type `cgroup_skb`, one for each direction. A segment with payload, SYN, FIN or
//! RST becomes an event; bare acknowledgments do not. Nothing above TCP is looked at. What cannot
//! be sent is counted by cause, and told with the next event of the same socket. A third, small one
//! of type `cgroup_sock` notes which process opens a socket.
//!
//! A `cgroup_skb` program decides whether a packet lives: everything but 1 drops it; one of type
//! `cgroup_sock` whether a socket may be. All call functions without a result, and return the
//! constant [`PASS`].

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod emit;
mod headers;
mod loss;
mod policy;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_get_socket_cookie,
    bpf_ktime_get_boot_ns, bpf_ringbuf_query, bpf_skb_cgroup_id,
};
use aya_ebpf::macros::{cgroup_skb, cgroup_sock, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::{SkBuffContext, SockContext};
use tapedeck_ebpf_abi::{
    Counter, MAX_RULES, Owner, PacketHeader, Policy, Settings, Socket, VERSION,
};

use crate::headers::Headers;

/// Lets the packet live.
const PASS: i32 = 1;

/// The loopback device has this index in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// `BPF_RB_AVAIL_DATA`.
const WAITING: u64 = 0;

/// `BPF_RB_PROD_POS`.
const WRITTEN: u64 = 3;

#[map]
static EVENTS_0: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
static EVENTS_1: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
static EVENTS_2: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
static EVENTS_3: RingBuf = RingBuf::with_byte_size(4096, 0);

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);

/// The sockets that spoke last. One that is forgotten counts from one again.
#[map]
static SOCKETS: LruHashMap<u64, Socket> = LruHashMap::with_max_entries(16_384, 0);

#[map]
static OWNERS: LruHashMap<u64, Owner> = LruHashMap::with_max_entries(16_384, 0);

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

#[map]
static POLICIES: Array<Policy> = Array::with_max_entries(2 * MAX_RULES as u32 + 2, 0);

#[map]
static PORTS: Array<u64> = Array::with_max_entries(65_536 / 8, 0);

#[map]
static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(4_096, 0);

/// The rule of a socket's own cgroup, found by those above it: generation and number.
#[map]
static CGROUPS_FOUND: LruHashMap<u64, u64> = LruHashMap::with_max_entries(4_096, 0);

#[map]
static COOKIES: LruHashMap<u64, u32> = LruHashMap::with_max_entries(4_096, 0);

/// The connections that were refused, by their hash. One that is forgotten shows up in its middle.
#[map]
static REFUSED: LruHashMap<u64, u32> = LruHashMap::with_max_entries(16_384, 0);

/// The connections on loopback whose packets are of other addresses than the socket that sends them, by the
/// hash of these. Of one that is forgotten, only what leaves is recorded.
#[map]
static TRANSLATED: LruHashMap<u64, u32> = LruHashMap::with_max_entries(4_096, 0);

#[unsafe(no_mangle)]
static SHARD_MASK: u32 = 0;
#[unsafe(no_mangle)]
static RING_NEARLY_FULL: u64 = 0;
#[unsafe(no_mangle)]
static RING_QUARTER_BITS: u32 = 10;
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

/// Notes who opens a socket. A socket that is accepted has no opener of its own; the first packets
/// of its connection carry the cookie of the one that listened.
#[cgroup_sock(sock_create)]
pub fn tapedeck_socket(ctx: SockContext) -> i32 {
    owner(&ctx);
    PASS
}

#[inline(always)]
fn owner(ctx: &SockContext) {
    let mut owner = Owner::default();
    // SAFETY: the context is a live socket of this program's type, and the name is as long as the
    // helper is told.
    let (cookie, ids) = unsafe {
        bpf_get_current_comm(owner.name.as_mut_ptr().cast(), owner.name.len() as u32);
        (
            bpf_get_socket_cookie(ctx.as_ptr()),
            bpf_get_current_pid_tgid(),
        )
    };
    owner.pid = (ids >> 32) as u32;
    // Without room the owner stays unknown.
    let _ = OWNERS.insert(cookie, owner, 0);
}

#[inline(always)]
fn capture(ctx: &SkBuffContext, direction: u16) {
    let Some(settings) = SETTINGS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the pointer is to a live map entry of plain data. Volatile, as the daemon writes it.
    let now = unsafe { settings.read_volatile() };
    let loopback = interface(ctx) == LOOPBACK;
    // A loopback packet leaves one socket of this machine and arrives at another: the same bytes
    // twice. The sender's copy is the one that always exists; a receiver without room drops its
    // packet, and the sender repeats it. (Only where both ends are recorded.)
    let is_copy = loopback && direction == 0 && now.loopback_once != 0;
    if is_copy && now.translated == 0 {
        return;
    }
    let Some(mut headers) = headers::read(ctx) else {
        return;
    };
    if headers.payload_len == 0 && !headers.opens_or_closes() {
        return;
    }
    // Where the address is translated in between, each end speaks of another connection.
    if is_copy && TRANSLATED.get_ptr(headers.hash).is_none() {
        return;
    }
    let mut translated = 0;
    if direction == PacketHeader::EGRESS {
        let on_the_wire = headers.hash;
        translated = headers.set_sender(ctx);
        if loopback && translated != 0 && TRANSLATED.get_ptr(on_the_wire).is_none() {
            // Without room the receiver's end is not recorded.
            let _ = TRANSLATED.insert(on_the_wire, 1, 0);
            // SAFETY: as above. Whoever writes, writes the same.
            unsafe { (&raw mut (*settings).translated).write_volatile(1) };
        }
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
    let Some(take) = policy::payload(ctx, &now, &headers, cgroup, cookie) else {
        loss::count(Counter::LeftOut, 1);
        return;
    };
    let ring = ring(headers.hash);
    if !is_admitted(settings, &now, &headers, ring) {
        loss::count(Counter::LeftOut, 1);
        return;
    }
    let netns = if constant(&WITH_NETNS) == 0 {
        0
    } else {
        // SAFETY: as above; the constant says that this kernel has the helper for skbs. Where it
        // has not, the verifier sees a dead branch.
        unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
    };
    let cut = headers.payload_len.saturating_sub(take);
    let mut header = PacketHeader {
        version: VERSION,
        flags: direction
            // See `Settings::zero`.
            | (translated + now.zero) as u16 * PacketHeader::TRANSLATED
            | if loopback { PacketHeader::LOOPBACK } else { 0 }
            | if headers.is_handshake() {
                PacketHeader::HANDSHAKE
            } else {
                0
            },
        len: headers.packet_len - cut,
        cut,
        // SAFETY: the helper has no requirement.
        time: unsafe { bpf_ktime_get_boot_ns() },
        cookie,
        cgroup,
        netns,
        lost_packets: 0,
        lost_bytes: 0,
        event: 0,
        unused: 0,
        unused_too: 0,
    };
    // See `Settings::zero`.
    header.len += now.zero;
    emit::packet(ctx, ring, header, headers.payload_len + now.zero);
}

/// Whether the packet's connection is one that is recorded. A new one is not when the daemon has
/// enough to do: better a whole connection less than holes in those that are under way.
#[inline(always)]
fn is_admitted(settings: *mut Settings, now: &Settings, headers: &Headers, ring: &RingBuf) -> bool {
    if headers.begins() {
        let waiting = query(ring, WAITING);
        if now.refuse != 0 || waiting > constant(&RING_NEARLY_FULL) {
            // Both ends see the first packet, and a lost one comes again.
            if REFUSED.get_ptr(headers.hash).is_none() {
                loss::count(Counter::Refused, 1);
                // Without room in the map the connection shows up in its middle.
                let _ = REFUSED.insert(headers.hash, 1, 0);
                // SAFETY: as above. Whoever writes, writes the same.
                unsafe { (&raw mut (*settings).refused).write_volatile(1) };
            }
            return false;
        }
        if now.refused != 0 && REFUSED.get_ptr(headers.hash).is_some() {
            let _ = REFUSED.remove(headers.hash);
        }
        return true;
    }
    now.refused == 0 || REFUSED.get_ptr(headers.hash).is_none()
}

/// The ring buffer of a connection. By the connection, not by the socket: both ends of one that
/// stays on this machine must reach the same reader, and in the handshake the server's side has
/// another socket than later.
#[inline(always)]
fn ring(hash: u64) -> &'static RingBuf {
    match (hash >> 32) as u32 & constant(&SHARD_MASK) & 3 {
        0 => &EVENTS_0,
        1 => &EVENTS_1,
        2 => &EVENTS_2,
        _ => &EVENTS_3,
    }
}

/// Bytes that were ever written into the ring.
#[inline(always)]
fn written(ring: &RingBuf) -> u64 {
    query(ring, WRITTEN)
}

/// Which quarter of the ring that is, counted from the beginning of time.
#[inline(always)]
fn quarter(written: u64) -> u64 {
    written >> (constant(&RING_QUARTER_BITS) & 63)
}

#[inline(always)]
fn query(ring: &RingBuf, what: u64) -> u64 {
    // SAFETY: the map is a ring buffer.
    unsafe { bpf_ringbuf_query(core::ptr::from_ref(ring).cast_mut().cast(), what) }
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
