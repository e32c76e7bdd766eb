//! Capture files: pcap and pcapng, in every variant that a reader must know.

use tapedeck_model::Timestamp;

use crate::conversation::SegmentBuf;
use crate::wire;

/// Link type of Ethernet.
pub const ETHERNET: u16 = 1;

/// The segments as a pcap file: Ethernet, little endian, nanoseconds.
#[must_use]
pub fn pcap_of(segments: &[SegmentBuf]) -> Vec<u8> {
    let mut file = PcapWriter::new(ETHERNET);
    for segment in segments {
        let segment = segment.as_segment();
        let frame = wire::ethernet(&segment);
        file.packet_cut(segment.at, &frame, frame.len() + segment.cut as usize);
    }
    file.bytes
}

/// The byte order of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

impl ByteOrder {
    fn u16(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
}

/// Writes a pcap file.
#[derive(Clone, Debug)]
pub struct PcapWriter {
    /// The file so far.
    pub bytes: Vec<u8>,
    order: ByteOrder,
    ticks_per_second: i64,
}

impl PcapWriter {
    /// A little-endian file with nanoseconds.
    #[must_use]
    pub fn new(link: u16) -> Self {
        Self::with(link, ByteOrder::Little, true)
    }

    /// A file in that byte order, with nanoseconds or microseconds.
    #[must_use]
    pub fn with(link: u16, order: ByteOrder, nanoseconds: bool) -> Self {
        let (magic, ticks_per_second) = if nanoseconds {
            (0xa1b2_3c4d, 1_000_000_000)
        } else {
            (0xa1b2_c3d4, 1_000_000)
        };
        let mut bytes = Vec::new();
        bytes.extend(order.u32(magic));
        bytes.extend(order.u16(2));
        bytes.extend(order.u16(4));
        bytes.extend([0; 8]);
        bytes.extend(order.u32(262_144));
        bytes.extend(order.u32(link.into()));
        Self {
            bytes,
            order,
            ticks_per_second,
        }
    }

    /// Appends a packet that was captured whole.
    pub fn packet(&mut self, at: Timestamp, data: &[u8]) {
        self.packet_cut(at, data, data.len());
    }

    /// Appends a packet that had `wire_len` bytes on the wire.
    ///
    /// # Panics
    /// On times that the format cannot say.
    pub fn packet_cut(&mut self, at: Timestamp, data: &[u8], wire_len: usize) {
        let second = 1_000_000_000;
        let seconds = u32::try_from(at.as_nanos().div_euclid(second)).expect("1970 to 2106");
        let ticks = at.as_nanos().rem_euclid(second) / (second / self.ticks_per_second);
        let ticks = u32::try_from(ticks).expect("less than a second");
        for field in [seconds, ticks, len_u32(data.len()), len_u32(wire_len)] {
            self.bytes.extend(self.order.u32(field));
        }
        self.bytes.extend(data);
    }
}

/// Writes a pcapng file.
#[derive(Clone, Debug)]
pub struct PcapngWriter {
    /// The file so far.
    pub bytes: Vec<u8>,
    order: ByteOrder,
}

impl PcapngWriter {
    /// A file with one section header block.
    #[must_use]
    pub fn new(order: ByteOrder) -> Self {
        let mut file = Self {
            bytes: Vec::new(),
            order,
        };
        file.section(order);
        file
    }

    /// Appends a section header block; what follows is in that byte order.
    pub fn section(&mut self, order: ByteOrder) {
        self.order = order;
        let mut body = Vec::new();
        body.extend(order.u32(0x1a2b_3c4d));
        body.extend(order.u16(1));
        body.extend(order.u16(0));
        body.extend([0xff; 8]);
        self.block(0x0a0d_0d0a, &body);
    }

    /// Appends an interface description block with raw options (code, value).
    pub fn interface(&mut self, link: u16, snaplen: u32, options: &[(u16, &[u8])]) {
        let mut body = Vec::new();
        body.extend(self.order.u16(link));
        body.extend([0, 0]);
        body.extend(self.order.u32(snaplen));
        for (code, value) in options {
            body.extend(self.order.u16(*code));
            body.extend(
                self.order
                    .u16(u16::try_from(value.len()).expect("a short option")),
            );
            body.extend(*value);
            pad(&mut body);
        }
        if !options.is_empty() {
            body.extend([0; 4]);
        }
        self.block(1, &body);
    }

    /// Appends an enhanced packet block; `ticks` are in the unit of the interface.
    pub fn packet(&mut self, interface: u32, ticks: u64, data: &[u8], wire_len: usize) {
        let mut body = Vec::new();
        let ticks = [(ticks >> 32) as u32, ticks as u32];
        let fields = [
            interface,
            ticks[0],
            ticks[1],
            len_u32(data.len()),
            len_u32(wire_len),
        ];
        for field in fields {
            body.extend(self.order.u32(field));
        }
        body.extend(data);
        pad(&mut body);
        self.block(6, &body);
    }

    /// Appends a simple packet block.
    pub fn simple_packet(&mut self, data: &[u8], wire_len: usize) {
        let mut body = self.order.u32(len_u32(wire_len)).to_vec();
        body.extend(data);
        pad(&mut body);
        self.block(3, &body);
    }

    /// Appends an obsolete packet block.
    pub fn obsolete_packet(&mut self, interface: u16, ticks: u64, data: &[u8], wire_len: usize) {
        let mut body = Vec::new();
        body.extend(self.order.u16(interface));
        body.extend([0xff, 0xff]);
        for field in [
            (ticks >> 32) as u32,
            ticks as u32,
            len_u32(data.len()),
            len_u32(wire_len),
        ] {
            body.extend(self.order.u32(field));
        }
        body.extend(data);
        pad(&mut body);
        self.block(2, &body);
    }

    /// Appends a decryption secrets block of that type.
    pub fn secrets(&mut self, secrets_type: u32, secrets: &[u8]) {
        let mut body = Vec::new();
        body.extend(self.order.u32(secrets_type));
        body.extend(self.order.u32(len_u32(secrets.len())));
        body.extend(secrets);
        pad(&mut body);
        self.block(10, &body);
    }

    /// Appends any block.
    pub fn block(&mut self, block_type: u32, body: &[u8]) {
        let len = self.order.u32(len_u32(body.len() + 12));
        self.bytes.extend(self.order.u32(block_type));
        self.bytes.extend(len);
        self.bytes.extend(body);
        self.bytes.extend(len);
    }
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("packets are shorter than 4 GiB")
}
