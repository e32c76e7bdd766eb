//! The packet-socket source.

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use caps::Capability;
use tapedeck_model::{Scope, Timestamp};
use tapedeck_packet::{LinkType, RawPacket};

use super::filter;
use crate::sources::error::{Needed, explain};
use crate::sources::{Captured, Drops, PacketSource, Policy, Source, SourceError, Tap};
use crate::sys::{
    Frame, Instruction, PacketRing, PacketSocket, RingSize, in_network_namespace, interface_index,
    interface_names,
};

/// How a packet socket is set up.
#[derive(Clone, Debug)]
pub struct AfPacketOptions {
    /// The interface; `None`: all of them.
    pub interface: Option<String>,
    /// The network namespace whose interfaces are meant; `None`: that of this process.
    pub network_namespace: Option<PathBuf>,
    /// The TCP ports to capture, as source or as destination; empty: all.
    pub ports: Vec<u16>,
    /// Bytes of memory for packets that wait to be read, over all streams. Rounded up to whole
    /// blocks for each.
    pub ring_bytes: usize,
    /// The streams: packet sockets among which the kernel spreads the connections.
    pub streams: NonZeroUsize,
}

/// A live source of packets: packet sockets and their rings.
#[derive(Debug)]
pub struct AfPacket {
    rings: Vec<AfPacketRing>,
    tap: AfPacketTap,
}

/// The packets of one socket.
#[derive(Debug)]
struct AfPacketRing {
    ring: PacketRing,
    link: LinkType,
}

/// What controls the sockets.
#[derive(Debug)]
struct AfPacketTap {
    /// The same sockets under other descriptors.
    sockets: Vec<PacketSocket>,
    network: u32,
    dropped: u64,
}

/// What this source needs to be allowed.
pub const NEEDS: &[Needed] = &[RAW];

/// What it needs in another network namespace.
pub const NEEDS_ELSEWHERE: &[Needed] = &[
    RAW,
    Needed {
        capability: Capability::CAP_SYS_ADMIN,
        what_for: "entering a network namespace",
    },
];

const RAW: Needed = Needed {
    capability: Capability::CAP_NET_RAW,
    what_for: "opening a packet socket",
};

/// Bytes in a block of the ring: the longest packet must fit.
const BLOCK: usize = 1 << 20;

/// Fewer blocks could not take new packets while one is read.
const MIN_BLOCKS: usize = 2;

/// A quiet connection's packets wait this long in a block that is not full. Each block wakes a processor
/// that may have slept.
const BLOCK_TIMEOUT: Duration = Duration::from_millis(60);

/// Bytes kept of a packet. The kernel builds none above 8 x 65,535 bytes (`GSO_MAX_SIZE`), which
/// with headers is less than this.
const SNAPLEN: u32 = 576 << 10;

/// Where the network header starts in an Ethernet frame.
const ETHERNET_HEADER: u32 = 14;

impl AfPacket {
    /// Opens a packet socket.
    ///
    /// # Errors
    ///
    /// When CAP_NET_RAW is missing (CAP_SYS_ADMIN for another network namespace), when there is no
    /// such interface, or when the kernel refuses the ring.
    pub fn open(options: &AfPacketOptions) -> Result<Self, SourceError> {
        check(&options.ports)?;
        let Some(namespace) = &options.network_namespace else {
            return Self::open_here(options).map_err(explain(NEEDS));
        };
        in_network_namespace(namespace, || Ok(Self::open_here(options)))
            .map_err(SourceError::system("enter the network namespace"))
            .flatten()
            .map_err(explain(NEEDS_ELSEWHERE))
    }

    fn open_here(options: &AfPacketOptions) -> Result<Self, SourceError> {
        let interface = match &options.interface {
            None => 0,
            Some(name) => interface_index(name).ok_or_else(|| SourceError::UnknownInterface {
                name: name.clone(),
                existing: interface_names(),
            })?,
        };
        let link = if interface != 0 && has_ethernet_header(interface)? {
            LinkType::ETHERNET
        } else {
            LinkType::RAW
        };
        let size = RingSize {
            block: BLOCK,
            blocks: (options.ring_bytes / options.streams)
                .div_ceil(BLOCK)
                .max(MIN_BLOCKS),
            block_timeout: BLOCK_TIMEOUT,
        };
        let rings: Vec<AfPacketRing> = open_rings(interface, link, size, options.streams)
            .map_err(SourceError::system("set up the packet socket"))?;
        let sockets = rings
            .iter()
            .map(|stream| stream.ring.socket().try_clone())
            .collect::<io::Result<_>>()
            .map_err(SourceError::system("set up the packet socket"))?;
        let tap = AfPacketTap {
            sockets,
            network: network_offset(link),
            dropped: 0,
        };
        tap.filter(&options.ports)?;
        Ok(Self { rings, tap })
    }

    /// What the kernel dropped so far.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn drops(&mut self) -> Result<Drops, SourceError> {
        self.tap.drops()
    }

    /// Hands the packets of the next block of each socket to `take`, see [`PacketSource`].
    ///
    /// # Errors
    ///
    /// When the kernel fails a socket for good.
    pub fn next_batch(
        &mut self,
        timeout: Duration,
        take: &mut dyn FnMut(&Captured<'_>),
    ) -> Result<usize, SourceError> {
        let mut packets = 0;
        for ring in &mut self.rings {
            packets += ring.next_batch(timeout, take)?;
        }
        Ok(packets)
    }
}

impl From<AfPacket> for Source {
    fn from(source: AfPacket) -> Self {
        let streams = source.rings.into_iter();
        Self {
            streams: streams.map(|ring| Box::new(ring) as Box<_>).collect(),
            tap: Box::new(source.tap),
        }
    }
}

const fn network_offset(link: LinkType) -> u32 {
    if link.0 == LinkType::ETHERNET.0 {
        ETHERNET_HEADER
    } else {
        0
    }
}

/// Sockets that let nothing pass yet, so that none sees a packet that will be another's.
fn open_rings(
    interface: u32,
    link: LinkType,
    size: RingSize,
    streams: NonZeroUsize,
) -> io::Result<Vec<AfPacketRing>> {
    let link_header = link == LinkType::ETHERNET;
    let mut rings: Vec<AfPacketRing> = Vec::new();
    let mut group = None;
    for _ in 0..streams.get() {
        let socket = PacketSocket::open(link_header)?;
        socket.attach_filter(&filter::nothing())?;
        let ring = PacketRing::new(socket, size, link_header)?;
        ring.socket().bind(interface)?;
        if streams.get() > 1 {
            group = Some(ring.socket().join_group(group)?);
        }
        rings.push(AfPacketRing { ring, link });
    }
    Ok(rings)
}

/// Other devices (tunnels, PPP) have headers of their own or none; there the socket gives packets
/// from the network header on.
fn has_ethernet_header(interface: u32) -> Result<bool, SourceError> {
    let hardware = PacketSocket::open(false)
        .and_then(|socket| socket.hardware_type(interface))
        .map_err(SourceError::system("ask for the interface's type"))?;
    Ok(hardware == libc::ARPHRD_ETHER || hardware == libc::ARPHRD_LOOPBACK)
}

impl PacketSource for AfPacketRing {
    fn next_batch(
        &mut self,
        timeout: Duration,
        take: &mut dyn FnMut(&Captured<'_>),
    ) -> Result<usize, SourceError> {
        let link = self.link;
        self.ring
            .next_block(timeout, &mut |frame| {
                if let Some(data) = packet(link, &frame) {
                    take(&Captured {
                        packet: RawPacket {
                            at: Timestamp::from_nanos(frame.nanos),
                            link,
                            data,
                            wire_len: (data.len() as u32).saturating_add(frame.cut),
                            scope: Scope(0),
                        },
                        socket: None,
                    });
                }
            })
            .map_err(SourceError::system("read from the packet socket"))
    }
}

/// Whether a filter can hold so many ports.
///
/// # Errors
///
/// When it cannot.
pub fn check(ports: &[u16]) -> Result<(), SourceError> {
    if ports.len() > filter::MAX_PORTS {
        return Err(SourceError::TooManyPorts {
            given: ports.len(),
            most: filter::MAX_PORTS,
        });
    }
    Ok(())
}

impl AfPacketTap {
    fn filter(&self, ports: &[u16]) -> Result<(), SourceError> {
        check(ports)?;
        let program = filter::program(self.network, ports, SNAPLEN);
        self.attach(&program)
            .map_err(SourceError::system("filter the packet socket"))
    }

    fn attach(&self, program: &[Instruction]) -> io::Result<()> {
        self.sockets
            .iter()
            .try_for_each(|socket| socket.attach_filter(program))
    }
}

impl Tap for AfPacketTap {
    fn detach(&mut self) -> Result<(), SourceError> {
        // A filter that lets nothing pass, as a bound packet socket cannot be unbound.
        self.attach(&filter::nothing())
            .map_err(SourceError::system("stop the packet socket"))
    }

    fn drops(&mut self) -> Result<Drops, SourceError> {
        for socket in &self.sockets {
            let dropped = socket
                .take_drops()
                .map_err(SourceError::system("ask for the packet socket's drops"))?;
            self.dropped += u64::from(dropped);
        }
        let mut drops = Drops::default();
        drops.add("ring-full", self.dropped);
        Ok(drops)
    }

    fn set_policy(&mut self, policy: &Policy) -> Result<Vec<String>, SourceError> {
        let ports = policy
            .as_ports()
            .ok_or(SourceError::NeedsSockets("af-packet"))?;
        self.filter(&ports)?;
        Ok(Vec::new())
    }
}

/// The packet of a frame, in the shape that `link` says. Without a link header, that is an IP
/// packet: VLAN tags that the kernel left in (all but the outermost) are stepped over.
///
/// Since Linux 6.10 the protocol of such a frame is the one behind its tags, before it is that of
/// the first tag. The IP version tells whether a tag is still there: a tag's first four bits are its
/// priority, which would have to be 2 or 3 to look like one.
fn packet<'a>(link: LinkType, frame: &Frame<'a>) -> Option<&'a [u8]> {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;
    const VLAN: u16 = 0x8100;
    const QINQ: u16 = 0x88a8;

    if link != LinkType::RAW {
        return Some(frame.data);
    }
    let (mut protocol, mut data) = (frame.protocol, frame.data);
    loop {
        match (protocol, data.first()? >> 4) {
            (IPV4, 4) | (IPV6, 6) => return Some(data),
            (IPV4 | IPV6 | VLAN | QINQ, _) => {
                let (tag, rest) = data.split_first_chunk::<4>()?;
                protocol = u16::from_be_bytes([tag[2], tag[3]]);
                data = rest;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(protocol: u16, data: &[u8]) -> Frame<'_> {
        Frame {
            nanos: 0,
            data,
            cut: 0,
            protocol,
        }
    }

    #[test]
    fn without_a_link_header_only_ip_passes_and_tags_are_stepped_over() {
        let raw = LinkType::RAW;
        let (ipv4, ipv6) = (b"\x45v4", b"\x60v6");
        assert_eq!(packet(raw, &frame(0x0800, ipv4)), Some(&ipv4[..]));
        assert_eq!(packet(raw, &frame(0x86dd, ipv6)), Some(&ipv6[..]));
        assert_eq!(packet(raw, &frame(0x0806, b"arp")), None);
        let tagged = b"\x00\x05\x81\x00\x00\x06\x86\xdd\x60v6";
        for protocol in [0x88a8, 0x86dd] {
            assert_eq!(packet(raw, &frame(protocol, tagged)), Some(&ipv6[..]));
            for len in 0..9 {
                assert_eq!(packet(raw, &frame(protocol, &tagged[..len])), None);
            }
        }
    }
}
