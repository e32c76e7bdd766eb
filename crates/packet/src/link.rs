//! What a capture hands over: link types and raw packets.

use std::fmt;

use tapedeck_model::{Scope, Timestamp};

macro_rules! link_types {
    ($($(#[$doc:meta])* $konst:ident = $number:literal, $name:literal;)*) => {
        /// What the first bytes of a packet are: the LINKTYPE_ numbers that pcap and pcapng files
        /// use (<https://www.tcpdump.org/linktypes.html>).
        #[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct LinkType(pub u16);

        impl LinkType {
            $($(#[$doc])* pub const $konst: Self = Self($number);)*

            /// Those that [`decode`](crate::decode()) reads, with their names.
            pub const KNOWN: &'static [(Self, &'static str)] = &[$((Self::$konst, $name)),*];
        }
    };
}

link_types! {
    /// BSD loopback: the address family in the byte order of the capturing machine.
    NULL = 0, "NULL";
    /// Ethernet.
    ETHERNET = 1, "ETHERNET";
    /// Token Ring.
    IEEE802_5 = 6, "IEEE802_5";
    /// PPP, with or without HDLC address and control.
    PPP = 9, "PPP";
    /// FDDI.
    FDDI = 10, "FDDI";
    /// Raw IP, as some BSDs number it in old files.
    RAW_BSD = 12, "RAW (12)";
    /// Raw IP, as OpenBSD numbers it.
    RAW_OPENBSD = 14, "RAW (14)";
    /// PPP in HDLC framing.
    PPP_HDLC = 50, "PPP_HDLC";
    /// PPPoE without its Ethernet header.
    PPP_ETHER = 51, "PPP_ETHER";
    /// ATM with LLC, or IP alone (RFC 2684).
    ATM_RFC1483 = 100, "ATM_RFC1483";
    /// Raw IP, version 4 or 6.
    RAW = 101, "RAW";
    /// Cisco HDLC.
    C_HDLC = 104, "C_HDLC";
    /// Wireless LAN frames.
    IEEE802_11 = 105, "IEEE802_11";
    /// Frame Relay.
    FRELAY = 107, "FRELAY";
    /// OpenBSD loopback: the address family in network byte order.
    LOOP = 108, "LOOP";
    /// OpenBSD IPsec interfaces, behind the decryption.
    ENC = 109, "ENC";
    /// Linux cooked capture, version 1.
    LINUX_SLL = 113, "LINUX_SLL";
    /// OpenBSD and FreeBSD packet filter logs.
    PFLOG = 117, "PFLOG";
    /// Wireless LAN frames behind a Prism header.
    PRISM = 119, "PRISM";
    /// Wireless LAN frames behind a radiotap header.
    RADIOTAP = 127, "RADIOTAP";
    /// Wireless LAN frames behind an AVS header.
    AVS = 163, "AVS";
    /// Any link type behind a header with a number of its own.
    PPI = 192, "PPI";
    /// PPP behind a byte for the direction.
    PPP_WITH_DIR = 204, "PPP_WITH_DIR";
    /// Raw IPv4.
    IPV4 = 228, "IPV4";
    /// Raw IPv6.
    IPV6 = 229, "IPV6";
    /// Linux netfilter log messages.
    NFLOG = 239, "NFLOG";
    /// macOS pktap.
    PKTAP = 258, "PKTAP";
    /// Linux cooked capture, version 2.
    LINUX_SLL2 = 276, "LINUX_SLL2";
}

impl LinkType {
    /// Its name, when [`decode`](crate::decode()) can read packets of it.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::KNOWN
            .iter()
            .find(|(link, _)| *link == self)
            .map(|(_, name)| *name)
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "LINKTYPE {}", self.0),
        }
    }
}

impl fmt::Debug for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A packet as captured, borrowed from the buffer of its source.
#[derive(Clone, Copy, Debug)]
pub struct RawPacket<'a> {
    /// When it was captured.
    pub at: Timestamp,
    /// What its first bytes are.
    pub link: LinkType,
    /// The captured bytes.
    pub data: &'a [u8],
    /// Its length on the wire: more than `data` when the capture kept only the head.
    pub wire_len: u32,
    /// The network that it was captured in, where one source sees several that may use the same
    /// addresses (network namespaces); else zero. Tags within the packet add to it.
    pub scope: Scope,
}
