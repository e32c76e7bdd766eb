//! The records that the kernel programs and the daemon share: plain data, fixed layout.
//!
//! One event is a [`PacketHeader`] and the bytes of one IP packet behind it, in a ring-buffer
//! record of one of the sizes in [`CLASSES`]. There is no logic here beyond reading that layout
//! back, and nothing that either side could not build: `no_std`, no dependency.

#![no_std]
#![forbid(unsafe_code)]

/// The version of everything in this crate. The programs write it into each event, so that a
/// daemon never misreads the events of an object from another build.
pub const VERSION: u16 = 4;

/// The sizes of the records, smallest first.
///
/// A ring-buffer reservation must have a constant size on every kernel before dynptrs (5.19), and
/// there is no safe place to gather an event of exact size first: a per-CPU scratch buffer is
/// corrupted when an interrupt captures a packet of its own in between. The unused end of a
/// record costs ring space only, as nobody touches it.
///
/// Above 64 KiB are the super-packets of segmentation offload: on loopback the kernel builds them up
/// to 128 KiB by default, and nowhere above 8 x 65,535 bytes (`GSO_MAX_SIZE`), headers not
/// included. They go as a whole: what an IP header can announce does not matter to the reader.
/// The class of 64 KiB takes the longest packet that an IP header can announce, which is one segment
/// on loopback.
pub const CLASSES: [usize; 10] = [
    256, 512, 1024, 2048, 4096, 16_384, 65_600, 135_168, 270_336, LARGEST,
];

/// The largest record.
pub const LARGEST: usize = 532_480;

/// The longest packet that is sent.
pub const MAX_PACKET: usize = LARGEST - PacketHeader::LEN;

/// The longest headers of IP and TCP that a packet can have with a payload of the largest size.
const MAX_HEADERS: usize = 256;

const _: () = assert!(
    MAX_PACKET >= 8 * 65_535 + MAX_HEADERS,
    "every packet can be sent"
);

/// What stands before each packet in the ring buffer. Native byte order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct PacketHeader {
    /// [`VERSION`].
    pub version: u16,
    /// [`EGRESS`](Self::EGRESS) and the others.
    pub flags: u16,
    /// Bytes of the packet that follow this header, from the IP header on.
    pub len: u32,
    /// Payload bytes at the end of the packet that the policy leaves out.
    pub cut: u32,
    /// Makes the next field aligned.
    pub unused: u32,
    /// `CLOCK_BOOTTIME`, in nanoseconds.
    pub time: u64,
    /// The cookie of the socket that sent or received the packet. Until the handshake is over
    /// the server's side gives the cookie of the listening socket.
    pub cookie: u64,
    /// The id of that socket's cgroup.
    pub cgroup: u64,
    /// The cookie of its network namespace; zero where the kernel does not tell.
    pub netns: u64,
    /// Packets of this socket that found no room since the event before.
    pub lost_packets: u32,
    /// Their payload bytes; stops at the maximum.
    pub lost_bytes: u32,
    /// Counts the events of this socket in this direction, from 1 on, those that were lost
    /// included: the next one is this, plus one, plus its own `lost_packets`. Zero where the kernel
    /// had no room to count.
    pub event: u32,
    /// Makes the size a multiple of eight.
    pub unused_too: u32,
}

impl PacketHeader {
    /// The length of the header.
    pub const LEN: usize = size_of::<Self>();

    /// The packet left a socket. Without it: it arrived at one.
    pub const EGRESS: u16 = 1;
    /// The packet is on the loopback device.
    pub const LOOPBACK: u16 = 2;
    /// The packet is part of a handshake (SYN).
    pub const HANDSHAKE: u16 = 4;
    /// The packet left with other addresses or ports than those of its socket, which stand in it now:
    /// the sender's network namespace translates them.
    pub const TRANSLATED: u16 = 8;

    /// Reads the header and the packet behind it from a record of the ring buffer; `None` where
    /// the record is not of this [`VERSION`] or shorter than it says.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<(Self, &[u8])> {
        let (&version, rest) = record.split_first_chunk()?;
        let (&flags, rest) = rest.split_first_chunk()?;
        let (&len, rest) = rest.split_first_chunk()?;
        let (&cut, rest) = rest.split_first_chunk()?;
        let (_unused, rest) = rest.split_first_chunk::<4>()?;
        let (&time, rest) = rest.split_first_chunk()?;
        let (&cookie, rest) = rest.split_first_chunk()?;
        let (&cgroup, rest) = rest.split_first_chunk()?;
        let (&netns, rest) = rest.split_first_chunk()?;
        let (&lost_packets, rest) = rest.split_first_chunk()?;
        let (&lost_bytes, rest) = rest.split_first_chunk()?;
        let (&event, rest) = rest.split_first_chunk()?;
        let (_unused, rest) = rest.split_first_chunk::<4>()?;
        let header = Self {
            version: u16::from_ne_bytes(version),
            flags: u16::from_ne_bytes(flags),
            len: u32::from_ne_bytes(len),
            cut: u32::from_ne_bytes(cut),
            unused: 0,
            time: u64::from_ne_bytes(time),
            cookie: u64::from_ne_bytes(cookie),
            cgroup: u64::from_ne_bytes(cgroup),
            netns: u64::from_ne_bytes(netns),
            lost_packets: u32::from_ne_bytes(lost_packets),
            lost_bytes: u32::from_ne_bytes(lost_bytes),
            event: u32::from_ne_bytes(event),
            unused_too: 0,
        };
        if header.version != VERSION {
            return None;
        }
        Some((header, rest.get(..header.len as usize)?))
    }
}

/// What the programs remember of one direction of a socket.
///
/// What leaves a socket does so under its lock, and what arrives does so in one place at a time, so
/// each direction is counted without atomics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Tally {
    /// The number of the last event, lost ones included.
    pub event: u32,
    /// Packets whose loss no event has told yet.
    pub lost_packets: u32,
    /// Their payload bytes; stops at the maximum.
    pub lost_bytes: u32,
    /// Makes the size a multiple of eight.
    pub unused: u32,
}

/// What the programs remember of a socket.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Socket {
    /// Of what arrives, and of what leaves.
    pub directions: [Tally; 2],
}

/// Who opened a socket.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Owner {
    /// The process id, as the first process namespace counts.
    pub pid: u32,
    /// Makes the size a multiple of eight.
    pub unused: u32,
    /// The name of the thread, ended by zeros (`TASK_COMM_LEN`).
    pub name: [u8; 16],
}

impl Owner {
    /// From what the map has.
    #[must_use]
    pub fn read(bytes: &[u8; 24]) -> Self {
        let [a, b, c, d, _, _, _, _, name @ ..] = *bytes;
        Self {
            pid: u32::from_ne_bytes([a, b, c, d]),
            unused: 0,
            name,
        }
    }
}

/// What is done with a connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Policy {
    /// One of [`CAPTURE`](Self::CAPTURE) and the others.
    pub action: u32,
    /// Connections whose hash is above this are left out.
    pub sample: u32,
}

impl Policy {
    /// Take everything.
    pub const CAPTURE: u32 = 0;
    /// Take the first [`HEADERS_BYTES`] payload bytes of each packet.
    pub const HEADERS: u32 = 1;
    /// Take nothing.
    pub const IGNORE: u32 = 2;
    /// [`sample`](Self::sample) for every connection.
    pub const EVERY: u32 = u32::MAX;

    /// As the map has it.
    #[must_use]
    pub const fn to_words(self) -> [u32; 2] {
        [self.action, self.sample]
    }
}

/// Payload bytes of a packet that the policy "headers only" keeps: as many as servers accept of a
/// request's head by default, twice.
pub const HEADERS_BYTES: u32 = 16 << 10;

/// What may change while the programs run. One entry of an array.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Settings {
    /// Whether new connections are left alone: the daemon is over its budget.
    pub refuse: u32,
    /// Whether any rule is by cgroup.
    pub by_cgroup: u32,
    /// Whether any rule is by port.
    pub by_port: u32,
    /// Changes with the rules by cgroup, so that verdicts from before are not used.
    pub generation: u32,
    /// Zero. The verifier does not know: what this is added to is any number for it, however it was
    /// computed, and it need not walk the rest of the program again for each way to compute it.
    pub zero: u32,
    /// Set once a connection was refused: from then on every packet is looked up.
    pub refused: u32,
    /// Whether loopback packets are taken at their sender only.
    pub loopback_once: u32,
    /// Whether any rule is by socket.
    pub by_socket: u32,
    /// Set once a loopback packet left with other addresses than its socket's: from then on what arrives
    /// by loopback is looked up.
    pub translated: u32,
}

impl Settings {
    /// How many words they are.
    pub const WORDS: usize = 9;

    /// As the map has them.
    #[must_use]
    pub const fn to_words(self) -> [u32; Self::WORDS] {
        let Self {
            refuse,
            by_cgroup,
            by_port,
            generation,
            zero,
            refused,
            loopback_once,
            by_socket,
            translated,
        } = self;
        [
            refuse,
            by_cgroup,
            by_port,
            generation,
            zero,
            refused,
            loopback_once,
            by_socket,
            translated,
        ]
    }
}

/// The most rules. The number of a rule is kept in a byte, zero is none, and new rules are written
/// beside the ones in force, which they then replace port by port.
pub const MAX_RULES: usize = 127;

/// Levels of cgroups above a socket's own that are looked at for a rule: containers lie at depth
/// four or five, systemd in a container adds three.
pub const MAX_CGROUP_LEVELS: u32 = 12;

/// The most ring buffers.
pub const MAX_SHARDS: usize = 4;

/// The hash of a connection, the same for both directions, from four numbers that are: exclusive or
/// and sum of the addresses (their words first folded the same way), and of the ports.
#[must_use]
#[inline(always)]
pub const fn flow_hash(source: [u32; 4], destination: [u32; 4], ports: (u16, u16)) -> u64 {
    flow_hash_of_folded(fold(source), fold(destination), ports)
}

/// The same of addresses that were [folded](fold).
#[must_use]
#[inline(always)]
pub const fn flow_hash_of_folded(source: u64, destination: u64, ports: (u16, u16)) -> u64 {
    let addresses = (source ^ destination) ^ source.wrapping_add(destination).rotate_left(32);
    let (a, b) = (ports.0 as u64, ports.1 as u64);
    let ports = (a ^ b) << 32 | (a + b);
    let mut hash = addresses.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ports;
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^= hash >> 29;
    hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^ hash >> 32
}

/// The first step of [`flow_hash`], for each address.
#[must_use]
#[inline(always)]
pub const fn fold(address: [u32; 4]) -> u64 {
    let [a, b, c, d] = address;
    ((a as u64) << 32 | b as u64).rotate_left(7) ^ ((c as u64) << 32 | d as u64)
}

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// The counters of the kernel programs: indices into the map `COUNTERS`.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Counter {
            /// Every counter, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

counters! {
    /// Packets for which the ring had no room.
    RingFull = 0, "ring-full";
    /// Their payload bytes.
    RingFullBytes = 1, "ring-full-bytes";
    /// Packets whose bytes the kernel would not hand out.
    Unreadable = 2, "unreadable";
    /// Their payload bytes.
    UnreadableBytes = 3, "unreadable-bytes";
    /// Packets longer than [`MAX_PACKET`].
    TooLong = 4, "too-long";
    /// Their payload bytes.
    TooLongBytes = 5, "too-long-bytes";
    /// TCP packets whose headers contradict themselves.
    Malformed = 6, "malformed";
    /// Losses that could not be noted for the next event of their socket; the counters above have
    /// them all the same.
    Untold = 7, "untold";
    /// Connections that were not admitted: the daemon is over its budget, or a ring is nearly full.
    Refused = 8, "refused";
    /// Packets that became an event.
    Sent = 9, "sent";
    /// Packets whose connection the policy leaves out, or that was refused.
    LeftOut = 10, "left-out";
}

/// The names of the programs, maps and constants in the object.
pub mod names {
    /// The program for what arrives at sockets.
    pub const INGRESS: &str = "tapedeck_in";
    /// The program for what leaves sockets.
    pub const EGRESS: &str = "tapedeck_out";
    /// The program that notes who opens a socket.
    pub const SOCKET: &str = "tapedeck_socket";
    /// The ring buffers.
    pub const RINGS: [&str; crate::MAX_SHARDS] = ["EVENTS_0", "EVENTS_1", "EVENTS_2", "EVENTS_3"];
    /// The per-CPU array of [`Counter`](crate::Counter)s.
    pub const COUNTERS: &str = "COUNTERS";
    /// What is remembered of each [`Socket`](crate::Socket), by cookie.
    pub const SOCKETS: &str = "SOCKETS";
    /// Each socket's [`Owner`](crate::Owner), by cookie.
    pub const OWNERS: &str = "OWNERS";
    /// The one entry of [`Settings`](crate::Settings).
    pub const SETTINGS: &str = "SETTINGS";
    /// The [`Policy`](crate::Policy) of each rule; the first is that of connections without a rule.
    pub const POLICIES: &str = "POLICIES";
    /// The number of the rule of each port, a byte each, eight to an entry; zero for none.
    pub const PORTS: &str = "PORTS";
    /// The number of the rule of each cgroup that has one.
    pub const CGROUPS: &str = "CGROUPS";
    /// The number of the rule of each socket that has one of its own, by cookie; before all others.
    pub const COOKIES: &str = "COOKIES";
    /// Constant, `u32`: the number of ring buffers in use, a power of two, minus one.
    pub const SHARD_MASK: &str = "SHARD_MASK";
    /// Constant, `u64`: a new connection is refused when more than this waits in its ring.
    pub const RING_NEARLY_FULL: &str = "RING_NEARLY_FULL";
    /// Constant, `u32`: a quarter of a ring has two to the power of this bytes; the reader is woken once
    /// for each that is filled.
    pub const RING_QUARTER_BITS: &str = "RING_QUARTER_BITS";
    /// Constant, `u8`: the kernel tells the network namespace of a packet.
    pub const WITH_NETNS: &str = "WITH_NETNS";
    /// Constant, `u64`: the cgroup whose own sockets are left out; zero for none.
    pub const IGNORED_CGROUP: &str = "IGNORED_CGROUP";
}

#[cfg(test)]
mod tests {
    use super::*;

    extern crate std;
    use std::vec::Vec;

    fn record(header: &PacketHeader, packet: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        record.extend(header.version.to_ne_bytes());
        record.extend(header.flags.to_ne_bytes());
        record.extend(header.len.to_ne_bytes());
        record.extend(header.cut.to_ne_bytes());
        record.extend([0; 4]);
        record.extend(header.time.to_ne_bytes());
        record.extend(header.cookie.to_ne_bytes());
        record.extend(header.cgroup.to_ne_bytes());
        record.extend(header.netns.to_ne_bytes());
        record.extend(header.lost_packets.to_ne_bytes());
        record.extend(header.lost_bytes.to_ne_bytes());
        record.extend(header.event.to_ne_bytes());
        record.extend([0; 4]);
        assert_eq!(record.len(), PacketHeader::LEN);
        record.extend_from_slice(packet);
        record
    }

    #[test]
    fn fields_are_read_where_the_compiler_puts_them() {
        assert_eq!(core::mem::offset_of!(PacketHeader, len), 4);
        assert_eq!(core::mem::offset_of!(PacketHeader, time), 16);
        assert_eq!(core::mem::offset_of!(PacketHeader, event), 56);
        let header = PacketHeader {
            version: VERSION,
            flags: PacketHeader::EGRESS,
            len: 3,
            cut: 9,
            unused: 0,
            time: 2,
            cookie: 3,
            cgroup: 4,
            netns: 5,
            lost_packets: 6,
            lost_bytes: 7,
            event: 8,
            unused_too: 0,
        };
        let record = record(&header, b"abc and the unused end");
        assert_eq!(PacketHeader::read(&record), Some((header, &b"abc"[..])));
    }

    #[test]
    fn short_or_foreign_records_are_refused() {
        let mut header = PacketHeader {
            version: VERSION,
            len: 4,
            ..PacketHeader::default()
        };
        let whole = record(&header, b"abcd");
        for len in 0..whole.len() {
            assert_eq!(PacketHeader::read(&whole[..len]), None, "{len} bytes");
        }
        assert!(PacketHeader::read(&whole).is_some());
        header.version += 1;
        assert_eq!(PacketHeader::read(&record(&header, b"abcd")), None);
    }

    #[test]
    fn both_directions_of_a_connection_have_one_hash() {
        let (a, b) = ([1, 2, 3, 4], [5, 6, 7, 0xffff_ffff]);
        assert_eq!(flow_hash(a, b, (80, 40_000)), flow_hash(b, a, (40_000, 80)));
        // The connections between two hosts spread over shards, samples and 64 bits.
        let hashes: Vec<_> = (32_768..65_535)
            .map(|port| flow_hash(a, a, (port, 80)))
            .collect();
        for bit in [0, 1, 2, 16, 30, 31, 32, 33] {
            let set = hashes.iter().filter(|hash| *hash >> bit & 1 == 1).count();
            assert!((14_000..18_700).contains(&set), "bit {bit}: {set}");
        }
        let mut distinct = hashes.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), hashes.len());
    }

    #[test]
    fn maps_hold_what_the_structs_say() {
        assert_eq!(size_of::<Settings>(), size_of::<[u32; Settings::WORDS]>());
        assert_eq!(core::mem::offset_of!(Settings, loopback_once), 6 * 4);
        assert_eq!(size_of::<Policy>(), size_of::<[u32; 2]>());
        assert_eq!(size_of::<Owner>(), 24);
        let mut bytes = [0; 24];
        bytes[..4].copy_from_slice(&7_u32.to_ne_bytes());
        bytes[core::mem::offset_of!(Owner, name)..].copy_from_slice(b"nginx\0\0\0\0\0\0\0\0\0\0\0");
        let owner = Owner::read(&bytes);
        assert_eq!((owner.pid, &owner.name[..6]), (7, &b"nginx\0"[..]));
    }

    #[test]
    fn sizes_agree() {
        assert!(CLASSES.is_sorted());
        assert!(CLASSES.iter().all(|size| size % 8 == 0));
        assert!(CLASSES.contains(&(PacketHeader::LEN + 65_536)));
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index, "{}", counter.name());
        }
    }
}
