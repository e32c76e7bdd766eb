//! Packets, captures of them, and what becomes of them up to the exchange.

use std::net::Ipv4Addr;
use std::time::Duration;

use tapedeck_ebpf_abi::PacketHeader;
use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_model::{
    Anomaly, BodyPart, Connection, Direction, Endpoint, Exchange, Input, Ledger, PerDirection,
    Scope, Segment, SeqNum, TcpFlags, Timestamp, UnreadConnection,
};
use tapedeck_packet::{CaptureReader, Decoded, Defragmenter, LinkType, RawPacket, decode};
use tapedeck_reassembly::{Reassembler, Sink, Slot};

use crate::program::Program;

/// Packets that one input may hold: a compressed one can stand for millions, which would only be
/// slow.
const MAX_PACKETS: u64 = 20_000;

/// The link types that are known.
const LINKS: [u16; 9] = [0, 1, 101, 108, 113, 228, 229, 239, 276];

fn raw(at: Timestamp, link: u16, data: &[u8]) -> RawPacket<'_> {
    RawPacket {
        at,
        link: LinkType(link),
        scope: Scope(0),
        data,
        wire_len: u32::try_from(data.len()).unwrap_or(u32::MAX),
    }
}

/// A packet of each link type: those that are known, and the one that the first two bytes say. A
/// segment that lay outside of the packet would panic.
pub fn packet(bytes: &[u8]) {
    let named = bytes
        .first_chunk()
        .map_or(0, |first| u16::from_be_bytes(*first));
    for link in LINKS.into_iter().chain([named]) {
        if let Decoded::Segment(segment) = decode(&raw(Timestamp::EPOCH, link, bytes)) {
            assert!(segment.payload.len() <= bytes.len());
        }
    }
}

/// Packets one behind the other, each with its length in two bytes, as raw IP: fragments are put
/// together.
pub fn fragments(bytes: &[u8]) {
    let mut defragmenter = Defragmenter::default();
    let mut program = Program::new(bytes);
    let mut at = Timestamp::EPOCH;
    while !program.is_over() {
        let len = program.word();
        at = at.saturating_add(Duration::from_millis(u64::from(len >> 11) * 200));
        let data = program.take(usize::from(len & 0x7ff));
        if let Decoded::Segment(segment) = defragmenter.decode(&raw(at, 101, data)) {
            // No packet of IP carries more.
            assert!(segment.payload.len() <= 0xffff);
        }
    }
}

/// A capture file of any kind. Behind an error there is nothing.
pub fn capture(bytes: &[u8]) {
    let Ok(mut capture) = CaptureReader::open(bytes) else {
        return;
    };
    for _ in 0..MAX_PACKETS {
        match capture.next_packet() {
            Ok(Some(packet)) => assert!(packet.wire_len as usize >= packet.data.len()),
            Ok(None) => return,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert!(matches!(capture.next_packet(), Ok(None)));
                return;
            }
        }
    }
}

/// A record of the ring buffer. The packet in it lies within it.
pub fn record(bytes: &[u8]) {
    if let Some((header, packet)) = PacketHeader::read(bytes) {
        assert_eq!(packet.len(), header.len as usize);
        assert!(packet.len() + PacketHeader::LEN <= bytes.len());
    }
}

/// The laws that the documentation of the ledger states.
///
/// # Panics
/// Where one does not hold.
pub fn assert_laws(ledger: &Ledger) {
    assert_eq!(
        ledger.packets_seen,
        ledger.segments
            + ledger.packets_not_tcp
            + ledger.packets_fragment
            + ledger.packets_joined
            + ledger.packets_undecodable,
        "{ledger:?}"
    );
    assert_eq!(
        ledger.payload_bytes_seen,
        ledger.payload_bytes_delivered
            + ledger.payload_bytes_duplicate
            + ledger.payload_bytes_dropped,
        "{ledger:?}"
    );
    assert_eq!(
        ledger.payload_bytes_delivered + ledger.bytes_tls_plain + ledger.bytes_tunnel,
        ledger.bytes_http + ledger.bytes_not_http + ledger.bytes_tls,
        "{ledger:?}"
    );
    assert_eq!(
        ledger.gap_bytes,
        ledger.gap_bytes_lost + ledger.gap_bytes_truncated + ledger.gap_bytes_partial,
        "{ledger:?}"
    );
}

/// A capture file through the whole engine. The ledger knows of every packet, byte and exchange.
pub fn engine(bytes: &[u8]) {
    let Ok(mut capture) = CaptureReader::open(bytes) else {
        return;
    };
    let mut engine = Engine::new(Limits::default());
    let mut count = Count::default();
    let mut packets = 0;
    while packets < MAX_PACKETS {
        let Ok(Some(packet)) = capture.next_packet() else {
            break;
        };
        engine.packet(&packet, &mut count);
        packets += 1;
    }
    engine.finish(&mut count);
    let ledger = engine.ledger();
    assert_laws(&ledger);
    assert_eq!(ledger.packets_seen, packets);
    assert_eq!(
        (ledger.exchanges, ledger.exchanges_incomplete),
        (count.exchanges, count.incomplete)
    );
}

#[derive(Default)]
struct Count {
    exchanges: u64,
    incomplete: u64,
    unread: u64,
}

impl Recorder for Count {
    fn body_part(&mut self, _part: &BodyPart) {}

    fn exchange(&mut self, exchange: &Exchange) {
        // Of one that was cut, an interim response may be all that was seen.
        let messages = [&exchange.request, &exchange.response];
        let has_message = messages.into_iter().any(Option::is_some);
        assert!(
            has_message || !exchange.interim.is_empty(),
            "an exchange of nothing"
        );
        self.exchanges += 1;
        self.incomplete += u64::from(!exchange.complete());
    }

    fn unread(&mut self, _connection: &UnreadConnection) {
        self.unread += 1;
    }
}

/// Segments of two flows, with every number near a place where numbers wrap, under limits that are
/// soon reached.
pub fn segments(bytes: &[u8]) {
    let mut program = Program::new(bytes);
    let limits = tapedeck_reassembly::Limits {
        max_connections: 1 + program.below(2),
        max_buffered_per_connection: usize::from(program.byte()) * 16,
        max_buffered: usize::from(program.byte()) * 16 + 300,
        ack_grace: Duration::from_millis(u64::from(program.byte())),
        ..tapedeck_reassembly::Limits::default()
    };
    let mut contract = Contract::default();
    let mut reassembler = Reassembler::new(limits);
    let mut at = Timestamp::EPOCH;
    while !program.is_over() {
        let control = program.byte();
        // Time steps back, too.
        let step = (i64::from(program.byte()) - 16) * 1_000_000;
        at = Timestamp::from_nanos(at.as_nanos() + step * i64::from(1 + (control >> 5) % 4 * 40));
        let (near, far) = (u32::MAX - 60, 0x7fff_fff0);
        let base = if control & 4 == 0 { near } else { far };
        let seq = base.wrapping_add(program.byte().into());
        let ack = base.wrapping_add(program.byte().into());
        let flags = match control & 3 {
            0 => program.byte(),
            _ => TcpFlags::ACK.union(TcpFlags::PSH).0,
        };
        let payload = vec![control; program.below(48)];
        let cut = if control & 0x18 == 0x18 {
            u32::from(program.byte()) << (control >> 3)
        } else {
            0
        };
        let ends = [40_000 + u16::from(control >> 7), 80]
            .map(|port| Endpoint::new(Ipv4Addr::LOCALHOST.into(), port));
        let [source, destination] = if control & 0x40 == 0 {
            ends
        } else {
            [ends[1], ends[0]]
        };
        reassembler.push(
            &Segment {
                at,
                source,
                destination,
                scope: Scope(0),
                seq: SeqNum(seq),
                ack: SeqNum(ack),
                flags: TcpFlags(flags),
                payload: &payload,
                cut,
            },
            &mut contract,
        );
        assert!(reassembler.memory() <= limits.max_buffered);
        assert!(reassembler.connections() <= limits.max_connections);
        if control & 0x30 == 0x30
            && let Some(due) = reassembler.poll_timeout()
        {
            reassembler.handle_timeout(due, &mut contract);
        }
    }
    reassembler.finish(&mut contract);
    assert_eq!((reassembler.memory(), reassembler.connections()), (0, 0));
    let mut ledger = Ledger::default();
    reassembler.add_to(&mut ledger);
    assert_eq!(ledger.payload_bytes_delivered, contract.delivered);
    assert_eq!(ledger.connections, contract.closed);
    ledger.packets_seen = ledger.segments;
    // Nobody read what was delivered.
    ledger.bytes_not_http = ledger.payload_bytes_delivered;
    assert_laws(&ledger);
}

/// Checks what [`Sink`] promises.
#[derive(Default)]
struct Contract {
    /// By slot: the time of the latest input of each direction, and whether it has ended.
    open: Vec<Option<PerDirection<(Timestamp, bool)>>>,
    delivered: u64,
    closed: u64,
}

impl Contract {
    #[expect(
        clippy::expect_used,
        reason = "a target panics where a contract is broken"
    )]
    fn half(&mut self, slot: Slot, direction: Direction) -> &mut (Timestamp, bool) {
        let open = self.open.get_mut(slot.0 as usize);
        let halves = open.and_then(Option::as_mut);
        &mut halves.expect("an input of no connection")[direction]
    }
}

impl Sink for Contract {
    fn opened(&mut self, slot: Slot, _connection: Connection) {
        let slot = slot.0 as usize;
        self.open.resize(self.open.len().max(slot + 1), None);
        let begun = (Timestamp::from_nanos(i64::MIN), false);
        let halves = PerDirection {
            to_server: begun,
            to_client: begun,
        };
        assert!(
            self.open[slot].replace(halves).is_none(),
            "a slot in use twice"
        );
    }

    fn input(&mut self, slot: Slot, direction: Direction, at: Timestamp, input: Input<'_>) {
        let (before, over) = self.half(slot, direction);
        assert!(*before <= at, "time steps back");
        assert!(!*over, "behind the end");
        *before = at;
        match input {
            Input::Data(data) => {
                assert!(!data.is_empty());
                self.delivered += data.len() as u64;
            }
            Input::Gap(gap) => assert!(gap.len > 0),
            Input::Fin | Input::Reset | Input::Cut => *over = true,
        }
    }

    fn anomaly(&mut self, slot: Slot, direction: Direction, _anomaly: Anomaly) {
        self.half(slot, direction);
    }

    fn closed(&mut self, slot: Slot, _at: Timestamp) {
        for direction in Direction::BOTH {
            assert!(self.half(slot, direction).1, "closed before its ends");
        }
        self.open[slot.0 as usize] = None;
        self.closed += 1;
    }
}
