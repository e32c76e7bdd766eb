//! The sockets at both ends of each connection.

use std::collections::HashMap;

use tapedeck_model::{Connection, FlowKey, TcpFlags};
use tapedeck_packet::{Decoded, decode};

use crate::sources::{Captured, Socket};

/// The sockets at one end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct End {
    /// The id of their cgroup.
    pub cgroup: u64,
    /// The cookie of the socket that speaks.
    pub cookie: u64,
    /// The cookie of the one that answered the handshake: the listening one, where this is the
    /// side that was connected to.
    pub opener: u64,
}

/// Remembers which sockets the ends of each connection are.
///
/// Two generations, so that it is bounded without an order to keep: when the young one is full it
/// becomes the old one, and what is asked for is young again.
#[derive(Debug)]
pub(super) struct Ends {
    young: HashMap<FlowKey, Pair>,
    old: HashMap<FlowKey, Pair>,
    /// Connections in one generation.
    most: usize,
}

/// By the canonical order of the endpoints.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    low: Option<End>,
    high: Option<End>,
}

impl Ends {
    pub(super) fn new(most: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            most: most.max(1),
        }
    }

    /// Looks at a packet before the engine reads it, which may tell of the connection at once.
    pub(super) fn note_before(&mut self, captured: &Captured<'_>) {
        self.note(captured, false);
    }

    /// Looks at a packet that the engine has read. One that begins a connection is noted only now:
    /// what the engine told of an earlier one of the same endpoints is told by the old entry.
    pub(super) fn note_after(&mut self, captured: &Captured<'_>) {
        self.note(captured, true);
    }

    fn note(&mut self, captured: &Captured<'_>, beginnings: bool) {
        let Some(socket) = captured.socket.filter(|socket| socket.is_first) else {
            return;
        };
        let Decoded::Segment(segment) = decode(&captured.packet) else {
            return;
        };
        let key = FlowKey::new(segment.source, segment.destination, segment.scope);
        let begins =
            segment.flags.contains(TcpFlags::SYN) && !segment.flags.contains(TcpFlags::ACK);
        if begins != beginnings {
            return;
        }
        let mut pair = match self.find(&key) {
            // A SYN is seen where it leaves before it is seen where it arrives: the second copy
            // says nothing about the other end.
            Some(pair) if !(begins && socket.is_sender) => pair,
            _ => Pair::default(),
        };
        let own = if socket.is_sender {
            segment.source
        } else {
            segment.destination
        };
        let end = if own == key.low {
            &mut pair.low
        } else {
            &mut pair.high
        };
        let known = end.filter(|_| !begins);
        *end = Some(next_end(known, socket));
        if self.young.len() >= self.most && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, pair);
    }

    /// The ends of a connection: the client's and the server's.
    pub(super) fn of(&self, connection: &Connection) -> (Option<End>, Option<End>) {
        let Connection {
            client,
            server,
            scope,
            ..
        } = connection;
        let key = FlowKey::new(*client, *server, *scope);
        let Some(Pair { low, high }) = self.find(&key) else {
            return (None, None);
        };
        if *client == key.low {
            (low, high)
        } else {
            (high, low)
        }
    }

    fn find(&self, key: &FlowKey) -> Option<Pair> {
        self.young.get(key).or_else(|| self.old.get(key)).copied()
    }
}

fn next_end(known: Option<End>, socket: Socket) -> End {
    End {
        cgroup: socket.cgroup,
        cookie: socket.cookie,
        opener: known.map_or(socket.cookie, |end| end.opener),
    }
}

#[cfg(test)]
mod tests {
    use tapedeck_model::{
        ConnectionId, Endpoint, Origin, Scope, Segment, SeqNum, Timestamp, Workloads,
    };
    use tapedeck_packet::{LinkType, RawPacket};
    use tapedeck_testkit::wire;

    use super::*;

    fn note(ends: &mut Ends, ports: (u16, u16), flags: TcpFlags, socket: Socket) {
        let endpoint = |port| Endpoint::new("10.0.0.1".parse().unwrap(), port);
        let data = wire::ip(&Segment {
            at: Timestamp::EPOCH,
            source: endpoint(ports.0),
            destination: endpoint(ports.1),
            scope: Scope(0),
            seq: SeqNum(1),
            ack: SeqNum(1),
            flags,
            payload: b"",
            cut: 0,
        });
        let captured = Captured {
            packet: RawPacket {
                at: Timestamp::EPOCH,
                link: LinkType::RAW,
                data: &data,
                wire_len: data.len() as u32,
                scope: Scope(7),
            },
            socket: Some(socket),
        };
        ends.note_before(&captured);
        ends.note_after(&captured);
    }

    fn of(ends: &Ends, client: u16) -> [Option<(u64, u64)>; 2] {
        let endpoint = |port| Endpoint::new("10.0.0.1".parse().unwrap(), port);
        let (client, server) = ends.of(&Connection {
            id: ConnectionId(0),
            client: endpoint(client),
            server: endpoint(80),
            scope: Scope(7),
            origin: Origin::Handshake,
            opened: Timestamp::EPOCH,
            tls: None,
            workloads: Workloads::default(),
        });
        [client, server].map(|end| end.map(|end| (end.cookie, end.opener)))
    }

    fn socket(cookie: u64, is_sender: bool) -> Socket {
        Socket {
            cookie,
            cgroup: 1,
            is_sender,
            is_first: true,
        }
    }

    #[test]
    fn the_listening_socket_is_remembered_beside_the_accepted_one() {
        let mut ends = Ends::new(10);
        let syn_ack = TcpFlags::SYN.union(TcpFlags::ACK);
        note(&mut ends, (50, 80), TcpFlags::SYN, socket(1, true));
        note(&mut ends, (50, 80), TcpFlags::SYN, socket(2, false));
        note(&mut ends, (80, 50), syn_ack, socket(2, true));
        note(&mut ends, (80, 50), TcpFlags::ACK, socket(3, true));
        assert_eq!(of(&ends, 50), [Some((1, 1)), Some((3, 2))]);
        // A new connection from the same port.
        note(&mut ends, (50, 80), TcpFlags::SYN, socket(9, true));
        assert_eq!(of(&ends, 50), [Some((9, 9)), None]);
        assert_eq!(of(&ends, 51), [None, None]);
    }

    #[test]
    fn what_was_not_asked_for_is_forgotten() {
        let mut ends = Ends::new(2);
        for port in 1..=5 {
            note(
                &mut ends,
                (port, 80),
                TcpFlags::SYN,
                socket(port.into(), true),
            );
        }
        assert!(ends.young.len() + ends.old.len() <= 4);
        assert_eq!(of(&ends, 1), [None, None]);
        assert_eq!(of(&ends, 5), [Some((5, 5)), None]);
    }
}
