//! TCP conversations as a healthy pair of stacks would have them.

use std::time::Duration;

use tapedeck_model::{
    Direction, Endpoint, PerDirection, Scope, Segment, SeqNum, TcpFlags, Timestamp,
};

/// A [`Segment`] that owns its payload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SegmentBuf {
    /// When it is captured.
    pub at: Timestamp,
    /// The sender.
    pub source: Endpoint,
    /// The receiver.
    pub destination: Endpoint,
    /// The network of both.
    pub scope: Scope,
    /// The sequence number of the first byte.
    pub seq: SeqNum,
    /// The acknowledgment number.
    pub ack: SeqNum,
    /// The flags.
    pub flags: TcpFlags,
    /// The captured payload.
    pub payload: Vec<u8>,
    /// Payload bytes behind it that were not captured.
    pub cut: u32,
}

impl SegmentBuf {
    /// The segment as the decoder would hand it on.
    #[must_use]
    pub fn as_segment(&self) -> Segment<'_> {
        let Self {
            at,
            source,
            destination,
            scope,
            seq,
            ack,
            flags,
            ref payload,
            cut,
        } = *self;
        Segment {
            at,
            source,
            destination,
            scope,
            seq,
            ack,
            flags,
            payload,
            cut,
        }
    }

    /// The same segment captured with a snapshot length that leaves `keep` bytes of payload.
    #[must_use]
    pub fn snapped(mut self, keep: usize) -> Self {
        let lost = self.payload.len().saturating_sub(keep);
        self.payload.truncate(keep);
        self.cut += u32::try_from(lost).expect("a segment is shorter than 4 GiB");
        self
    }
}

/// Two TCP stacks that talk. Each call appends the segments that it causes, one
/// [`step`](Self::step) of time apart, with correct sequence and acknowledgment numbers.
///
/// ```
/// use tapedeck_testkit::Conversation;
///
/// let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
/// talk.handshake();
/// talk.client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
/// talk.server(b"HTTP/1.1 204 No Content\r\n\r\n");
/// talk.close();
/// let pcap = tapedeck_testkit::pcap_of(&talk.segments);
/// # assert_eq!(talk.segments.len(), 3 + 2 + 4);
/// # assert!(pcap.len() > 24);
/// ```
#[derive(Clone, Debug)]
pub struct Conversation {
    /// What was sent so far. Tests change, drop and reorder it as they like.
    pub segments: Vec<SegmentBuf>,
    /// When the next segment is captured.
    pub now: Timestamp,
    /// Time between two segments.
    pub step: Duration,
    /// The largest payload of one segment.
    pub mss: usize,
    client: Endpoint,
    server: Endpoint,
    scope: Scope,
    next: PerDirection<SeqNum>,
    acknowledges: bool,
}

impl Conversation {
    /// A conversation between two `address:port`s. Nothing is sent yet; without
    /// [`handshake`](Self::handshake) it is one whose beginning the capture did not see.
    ///
    /// # Panics
    /// On text that is not a socket address.
    #[must_use]
    pub fn new(client: &str, server: &str) -> Self {
        Self {
            segments: Vec::new(),
            now: Timestamp::from_nanos(1_700_000_000_000_000_000),
            step: Duration::from_millis(1),
            mss: 1460,
            client: endpoint(client),
            server: endpoint(server),
            scope: Scope::default(),
            next: PerDirection {
                to_server: SeqNum(1000),
                to_client: SeqNum(5000),
            },
            acknowledges: false,
        }
    }

    /// Begins at these sequence numbers (those of the SYNs, where there is a handshake).
    #[must_use]
    pub const fn with_isn(mut self, client: u32, server: u32) -> Self {
        self.next = PerDirection {
            to_server: SeqNum(client),
            to_client: SeqNum(server),
        };
        self
    }

    /// Lives in that scope.
    #[must_use]
    pub const fn in_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Begins at that time.
    #[must_use]
    pub const fn starting(mut self, at: Timestamp) -> Self {
        self.now = at;
        self
    }

    /// Every data segment is followed by a bare acknowledgment of the receiver.
    #[must_use]
    pub const fn acknowledging(mut self) -> Self {
        self.acknowledges = true;
        self
    }

    /// SYN, SYN-ACK, ACK.
    pub fn handshake(&mut self) {
        self.emit(Direction::ToServer, TcpFlags::SYN, &[]);
        self.emit(Direction::ToClient, TcpFlags::SYN.union(TcpFlags::ACK), &[]);
        self.ack(Direction::ToServer);
    }

    /// The client sends bytes.
    pub fn client(&mut self, bytes: &[u8]) {
        self.send(Direction::ToServer, bytes);
    }

    /// The server sends bytes.
    pub fn server(&mut self, bytes: &[u8]) {
        self.send(Direction::ToClient, bytes);
    }

    /// Sends bytes, in segments of at most [`mss`](Self::mss).
    pub fn send(&mut self, direction: Direction, bytes: &[u8]) {
        for chunk in bytes.chunks(self.mss) {
            self.emit(direction, TcpFlags::ACK.union(TcpFlags::PSH), chunk);
            if self.acknowledges {
                self.ack(!direction);
            }
        }
    }

    /// A bare acknowledgment, sent in that direction, of all that came the other way.
    pub fn ack(&mut self, direction: Direction) {
        self.emit(direction, TcpFlags::ACK, &[]);
    }

    /// A FIN in that direction.
    pub fn fin(&mut self, direction: Direction) {
        self.emit(direction, TcpFlags::FIN.union(TcpFlags::ACK), &[]);
    }

    /// A RST in that direction.
    pub fn reset(&mut self, direction: Direction) {
        self.emit(direction, TcpFlags::RST.union(TcpFlags::ACK), &[]);
    }

    /// FIN, ACK, FIN, ACK; the client begins.
    pub fn close(&mut self) {
        self.fin(Direction::ToServer);
        self.ack(Direction::ToClient);
        self.fin(Direction::ToClient);
        self.ack(Direction::ToServer);
    }

    /// Lets time pass before the next segment.
    pub fn wait(&mut self, duration: Duration) {
        self.now = self.now.saturating_add(duration);
    }

    /// Bytes that are sent but that the capture never sees.
    pub fn lose(&mut self, direction: Direction, bytes: usize) {
        let bytes = u32::try_from(bytes).expect("fewer than 4 GiB");
        self.next[direction].0 = self.next[direction].0.wrapping_add(bytes);
    }

    /// The sequence number of the next byte in that direction.
    #[must_use]
    pub fn next_seq(&self, direction: Direction) -> SeqNum {
        self.next[direction]
    }

    /// One segment with these flags, as the stack would number it.
    pub fn emit(&mut self, direction: Direction, flags: TcpFlags, payload: &[u8]) {
        let (source, destination) = match direction {
            Direction::ToServer => (self.client, self.server),
            Direction::ToClient => (self.server, self.client),
        };
        let ack = if flags.contains(TcpFlags::ACK) {
            self.next[!direction]
        } else {
            SeqNum(0)
        };
        self.segments.push(SegmentBuf {
            at: self.now,
            source,
            destination,
            scope: self.scope,
            seq: self.next[direction],
            ack,
            flags,
            payload: payload.to_vec(),
            cut: 0,
        });
        self.now = self.now.saturating_add(self.step);
        let len = u32::try_from(payload.len()).expect("a segment is shorter than 4 GiB")
            + u32::from(flags.contains(TcpFlags::SYN))
            + u32::from(flags.contains(TcpFlags::FIN));
        let next = &mut self.next[direction];
        next.0 = next.0.wrapping_add(len);
    }
}

fn endpoint(text: &str) -> Endpoint {
    let address: std::net::SocketAddr = text.parse().expect("address:port");
    Endpoint::new(address.ip(), address.port())
}
