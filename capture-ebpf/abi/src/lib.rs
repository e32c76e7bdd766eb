//! The records that the kernel programs and the daemon share: plain data, fixed layout.
//!
//! One event is a [`PacketHeader`] and the bytes of one IP packet behind it, in a ring-buffer
//! record of one of the sizes in [`CLASSES`]. There is no logic here beyond reading that layout
//! back, and nothing that either side could not build: `no_std`, no dependency.
//!
//! A packet that fits no record is sent in parts. Every part is an IP packet by itself: a copy of
//! the headers, with length, sequence number and flags of the part. A part that is lost is then
//! a plain gap in the sequence numbers, and user space never puts parts together.

#![no_std]
#![forbid(unsafe_code)]

/// The version of everything in this crate. The programs write it into each event, so that a
/// daemon never misreads the events of an object from another build.
pub const VERSION: u16 = 1;

/// The sizes of the records, smallest first.
///
/// A ring-buffer reservation must have a constant size on every kernel before dynptrs (5.19), and
/// there is no safe place to gather an event of exact size first: a per-CPU scratch buffer is
/// corrupted when an interrupt captures a packet of its own in between. The unused end of a
/// record costs ring space only, as nobody touches it.
pub const CLASSES: [usize; 7] = [256, 512, 1024, 2048, 4096, 16_384, LARGEST];

/// The largest record: with the kernel's own eight bytes it fills 64 KiB.
pub const LARGEST: usize = 65_536 - 8;

/// The longest packet that is sent in one event.
pub const MAX_WHOLE: usize = LARGEST - PacketHeader::LEN;

/// Payload bytes in one part of a longer packet. With [`MAX_HEADERS`] this stays below the 64 KiB
/// that an IP header can announce.
pub const PART: usize = 61_440;

/// The most parts of one packet: the kernel builds none above 8 x 65,535 bytes (`GSO_MAX_SIZE`).
pub const MAX_PARTS: usize = 9;

/// The longest IP and TCP headers of a packet that is sent in parts.
pub const MAX_HEADERS: usize = 256;

const _: () = {
    assert!(PART + MAX_HEADERS <= MAX_WHOLE, "a part fits into a record");
    assert!(PART * MAX_PARTS >= 8 * 65_535, "every packet can be sent");
};

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
    /// The length of the whole packet, of which this event may be a part.
    pub packet_len: u32,
    /// Where the payload of this part starts in the payload of the packet.
    pub part_offset: u32,
    /// `CLOCK_BOOTTIME`, in nanoseconds.
    pub time: u64,
    /// The cookie of the socket that sent or received the packet. Until the handshake is over
    /// the server's side gives the cookie of the listening socket.
    pub cookie: u64,
    /// The id of that socket's cgroup.
    pub cgroup: u64,
    /// The cookie of its network namespace; zero where the kernel does not tell.
    pub netns: u64,
    /// Packets and parts of this socket that found no room since the event before.
    pub lost_packets: u32,
    /// Their payload bytes; stops at the maximum.
    pub lost_bytes: u32,
}

impl PacketHeader {
    /// The length of the header.
    pub const LEN: usize = size_of::<Self>();

    /// The packet left a socket. Without it: it arrived at one.
    pub const EGRESS: u16 = 1;
    /// The packet is on the loopback device.
    pub const LOOPBACK: u16 = 2;
    /// More parts of the packet follow.
    pub const MORE: u16 = 4;

    /// Reads the header and the packet behind it from a record of the ring buffer; `None` where
    /// the record is not of this [`VERSION`] or shorter than it says.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<(Self, &[u8])> {
        let (&version, rest) = record.split_first_chunk()?;
        let (&flags, rest) = rest.split_first_chunk()?;
        let (&len, rest) = rest.split_first_chunk()?;
        let (&packet_len, rest) = rest.split_first_chunk()?;
        let (&part_offset, rest) = rest.split_first_chunk()?;
        let (&time, rest) = rest.split_first_chunk()?;
        let (&cookie, rest) = rest.split_first_chunk()?;
        let (&cgroup, rest) = rest.split_first_chunk()?;
        let (&netns, rest) = rest.split_first_chunk()?;
        let (&lost_packets, rest) = rest.split_first_chunk()?;
        let (&lost_bytes, rest) = rest.split_first_chunk()?;
        let header = Self {
            version: u16::from_ne_bytes(version),
            flags: u16::from_ne_bytes(flags),
            len: u32::from_ne_bytes(len),
            packet_len: u32::from_ne_bytes(packet_len),
            part_offset: u32::from_ne_bytes(part_offset),
            time: u64::from_ne_bytes(time),
            cookie: u64::from_ne_bytes(cookie),
            cgroup: u64::from_ne_bytes(cgroup),
            netns: u64::from_ne_bytes(netns),
            lost_packets: u32::from_ne_bytes(lost_packets),
            lost_bytes: u32::from_ne_bytes(lost_bytes),
        };
        if header.version != VERSION {
            return None;
        }
        Some((header, rest.get(..header.len as usize)?))
    }
}

/// What a socket lost since its last event, kept until its next one carries it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Loss {
    /// Packets and parts.
    pub packets: u32,
    /// Their payload bytes; stops at the maximum.
    pub bytes: u32,
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
    /// Packets, and parts of packets, for which the ring had no room.
    RingFull = 0, "ring-full";
    /// Their payload bytes.
    RingFullBytes = 1, "ring-full-bytes";
    /// Packets, and parts of packets, whose bytes the kernel would not hand out.
    Unreadable = 2, "unreadable";
    /// Their payload bytes.
    UnreadableBytes = 3, "unreadable-bytes";
    /// Packets too long for [`MAX_PARTS`] parts, or with headers above [`MAX_HEADERS`].
    TooLong = 4, "too-long";
    /// Payload bytes of those that were left out.
    TooLongBytes = 5, "too-long-bytes";
    /// TCP packets whose headers contradict themselves.
    Malformed = 6, "malformed";
    /// Losses that could not be noted for the next event of their socket; the counters above have
    /// them all the same.
    Untold = 7, "untold";
}

/// The names of the programs, maps and constants in the object.
pub mod names {
    /// The program for what arrives at sockets.
    pub const INGRESS: &str = "tapedeck_in";
    /// The program for what leaves sockets.
    pub const EGRESS: &str = "tapedeck_out";
    /// The ring buffer.
    pub const EVENTS: &str = "EVENTS";
    /// The per-CPU array of [`Counter`](crate::Counter)s.
    pub const COUNTERS: &str = "COUNTERS";
    /// The bitmap of the ports to capture, 64 to an entry.
    pub const PORTS: &str = "PORTS";
    /// Constant, `u8`: whether `PORTS` counts; without it every port is captured.
    pub const ONLY_PORTS: &str = "ONLY_PORTS";
    /// Constant, `u8`: take loopback packets at their sender only.
    pub const LOOPBACK_ONCE: &str = "LOOPBACK_ONCE";
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
        record.extend(header.packet_len.to_ne_bytes());
        record.extend(header.part_offset.to_ne_bytes());
        record.extend(header.time.to_ne_bytes());
        record.extend(header.cookie.to_ne_bytes());
        record.extend(header.cgroup.to_ne_bytes());
        record.extend(header.netns.to_ne_bytes());
        record.extend(header.lost_packets.to_ne_bytes());
        record.extend(header.lost_bytes.to_ne_bytes());
        assert_eq!(record.len(), PacketHeader::LEN);
        record.extend_from_slice(packet);
        record
    }

    #[test]
    fn fields_are_read_where_the_compiler_puts_them() {
        assert_eq!(core::mem::offset_of!(PacketHeader, len), 4);
        assert_eq!(core::mem::offset_of!(PacketHeader, time), 16);
        assert_eq!(core::mem::offset_of!(PacketHeader, lost_bytes), 52);
        let header = PacketHeader {
            version: VERSION,
            flags: PacketHeader::EGRESS,
            len: 3,
            packet_len: 9,
            part_offset: 1,
            time: 2,
            cookie: 3,
            cgroup: 4,
            netns: 5,
            lost_packets: 6,
            lost_bytes: 7,
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
    fn sizes_agree() {
        assert!(CLASSES.is_sorted());
        assert!(CLASSES.iter().all(|size| size % 8 == 0));
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index, "{}", counter.name());
        }
    }
}
