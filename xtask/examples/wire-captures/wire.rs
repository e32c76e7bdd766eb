//! TCP as two Linux hosts on an Ethernet speak it, written as pcap.

use std::io::{self, BufWriter, Write};

/// What an Ethernet leaves to a segment with timestamps: 1500 - 20 - 32.
const MSS: usize = 1448;
/// Frame header, IPv4 header, TCP header with timestamps.
const HEADERS: usize = 14 + 20 + 32;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Who sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// A capture file that is being written.
pub(crate) struct Capture<W: Write> {
    out: BufWriter<W>,
    left: u64,
    /// The time of the next packet, in nanoseconds.
    now: u64,
    connections: u32,
}

/// One TCP connection.
pub(crate) struct Connection {
    number: u32,
    /// The next sequence numbers of the client and of the server.
    next: [u32; 2],
    /// Full segments that the receiver has not acknowledged yet.
    unacknowledged: u32,
}

impl<W: Write> Capture<W> {
    /// Begins a file of about `bytes` bytes.
    pub(crate) fn begin(out: W, bytes: u64) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(1 << 20, out);
        // Nanoseconds, version 2.4, a snapshot length of 256 KiB, Ethernet.
        for word in [0xa1b2_3c4d, 0x0004_0002, 0, 0, 262_144, 1] {
            out.write_all(&u32::to_le_bytes(word))?;
        }
        Ok(Self {
            out,
            left: bytes,
            now: 1_700_000_000_000_000_000,
            connections: 0,
        })
    }

    /// Whether the file has its size.
    pub(crate) const fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Lets time pass.
    pub(crate) const fn wait(&mut self, nanos: u64) {
        self.now += nanos;
    }

    /// A new connection, with its handshake.
    pub(crate) fn connect(&mut self) -> io::Result<Connection> {
        let number = self.connections;
        self.connections += 1;
        let mut connection = Connection {
            number,
            next: [
                number.wrapping_mul(0x9e37_79b1),
                number.wrapping_mul(0x85eb_ca77),
            ],
            unacknowledged: 0,
        };
        self.packet(&mut connection, Side::Client, SYN, &[])?;
        self.packet(&mut connection, Side::Server, SYN | ACK, &[])?;
        self.packet(&mut connection, Side::Client, ACK, &[])?;
        Ok(connection)
    }

    /// Sends bytes in full segments; the receiver acknowledges every second one (RFC 5681 section
    /// 4.2).
    pub(crate) fn send(
        &mut self,
        connection: &mut Connection,
        side: Side,
        bytes: &[u8],
    ) -> io::Result<()> {
        let last = bytes.len().div_ceil(MSS) - 1;
        for (n, segment) in bytes.chunks(MSS).enumerate() {
            let flags = if n == last { ACK | PSH } else { ACK };
            self.packet(connection, side, flags, segment)?;
            connection.unacknowledged += 1;
            if connection.unacknowledged == 2 {
                self.acknowledge(connection, side.other())?;
            }
        }
        Ok(())
    }

    /// A bare acknowledgment.
    pub(crate) fn acknowledge(
        &mut self,
        connection: &mut Connection,
        side: Side,
    ) -> io::Result<()> {
        connection.unacknowledged = 0;
        self.packet(connection, side, ACK, &[])
    }

    /// The client closes, then the server.
    pub(crate) fn close(&mut self, mut connection: Connection) -> io::Result<()> {
        self.packet(&mut connection, Side::Client, FIN | ACK, &[])?;
        self.packet(&mut connection, Side::Server, FIN | ACK, &[])?;
        self.packet(&mut connection, Side::Client, ACK, &[])
    }

    /// Writes what is buffered.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn packet(
        &mut self,
        connection: &mut Connection,
        side: Side,
        flags: u8,
        payload: &[u8],
    ) -> io::Result<()> {
        self.now += 2_000 + payload.len() as u64 * 8;
        let header = self.headers(connection, side, flags, payload.len());
        self.out.write_all(&header)?;
        self.out.write_all(payload)?;
        self.left = self
            .left
            .saturating_sub((header.len() + payload.len()) as u64);
        let consumed = payload.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
        let next = &mut connection.next[side as usize];
        *next = next.wrapping_add(consumed);
        Ok(())
    }

    /// The record header of pcap and the headers of the packet. The TCP checksum is zero, as in a
    /// capture on a sender whose network card computes it.
    fn headers(
        &self,
        connection: &Connection,
        side: Side,
        flags: u8,
        payload: usize,
    ) -> [u8; 16 + HEADERS] {
        let len = (HEADERS + payload) as u32;
        // Some thousand clients, each with the ports that Linux gives to connections.
        let client_ip = [
            10,
            1,
            (connection.number >> 8) as u8,
            connection.number as u8,
        ];
        let client_port = 32_768 + (connection.number % 28_000) as u16;
        let (client, server) = ((client_ip, client_port), ([10, 2, 0, 1], 8080));
        let (source, destination) = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        let acknowledged = if flags & ACK == 0 {
            0
        } else {
            connection.next[side.other() as usize]
        };
        let millis = (self.now / 1_000_000) as u32;

        let mut header = Vec::with_capacity(16 + HEADERS);
        for word in [
            (self.now / 1_000_000_000) as u32,
            (self.now % 1_000_000_000) as u32,
            len,
            len,
        ] {
            header.extend(word.to_le_bytes());
        }
        header.extend([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
        let ip = header.len();
        header.extend([0x45, 0]);
        header.extend(((len - 14) as u16).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        header.extend(source.0);
        header.extend(destination.0);
        let sum = checksum(&header[ip..]);
        header[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
        header.extend(source.1.to_be_bytes());
        header.extend(destination.1.to_be_bytes());
        header.extend(connection.next[side as usize].to_be_bytes());
        header.extend(acknowledged.to_be_bytes());
        header.extend([8 << 4, flags, 0x01, 0xf5, 0, 0, 0, 0]);
        header.extend([1, 1, 8, 10]);
        header.extend(millis.to_be_bytes());
        header.extend(millis.wrapping_sub(1).to_be_bytes());
        let mut whole = [0; 16 + HEADERS];
        whole.copy_from_slice(&header);
        whole
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
