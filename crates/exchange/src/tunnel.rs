//! What is said within the tunnels that CONNECT opens (RFC 9110 section 9.3.6): each is read as a
//! connection of its own, while its bytes stay the bodies of the exchange that opened it.

use tapedeck_model::{
    Connection, ConnectionId, Direction, End, Gap, Input, Missing, Origin, PerDirection, Role,
    StreamKey, Timestamp,
};

use crate::Recorder;
use crate::builder::Shared;
use crate::connection::Analysis;
use crate::output::KEY_BITS;

/// What a tunnel costs beside what is held of its messages, roughly.
const COST: usize = size_of::<Tunnel>() + size_of::<Analysis>();

/// The tunnels within one conversation.
#[derive(Debug)]
pub(crate) struct Tunnels {
    open: Vec<Tunnel>,
    /// How many tunnels are around the conversation.
    depth: usize,
}

#[derive(Debug)]
struct Tunnel {
    stream: StreamKey,
    analysis: Box<Analysis>,
    open: PerDirection<bool>,
    /// When something came last: gaps bring no time of their own.
    at: Timestamp,
}

impl Tunnels {
    pub(crate) const fn new(depth: usize) -> Self {
        Self {
            open: Vec::new(),
            depth,
        }
    }

    /// Bytes held.
    pub(crate) fn held(&self) -> usize {
        let held = self.open.iter().map(|tunnel| tunnel.analysis.held());
        held.map(|held| held + COST).sum()
    }

    pub(crate) const fn depth(&self) -> usize {
        self.depth
    }

    /// The exchange of that key opened a tunnel on `outer`.
    pub(crate) fn open(
        &mut self,
        shared: &mut Shared,
        (stream, key): (StreamKey, u64),
        outer: &Connection,
        at: Timestamp,
    ) {
        if self.depth >= shared.limits.tunnel_depth {
            shared.ledger.tunnels_not_read += 1;
            return;
        }
        shared.ledger.tunnels += 1;
        shared.held += COST;
        let connection = Connection {
            id: within(outer.id, key),
            // The tunnel was seen from its beginning.
            origin: Origin::Handshake,
            opened: at,
            ..outer.clone()
        };
        self.open.push(Tunnel {
            stream,
            analysis: Box::new(Analysis::within_tunnel(connection, self.depth + 1)),
            open: PerDirection {
                to_server: true,
                to_client: true,
            },
            at,
        });
    }

    /// Bytes that the tunnel of that stream carries, where it is one.
    pub(crate) fn data(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        (stream, role): (StreamKey, Role),
        at: Timestamp,
        data: &[u8],
    ) {
        let Some(tunnel) = self.find(stream) else {
            return;
        };
        tunnel.at = at;
        shared.ledger.bytes_tunnel += data.len() as u64;
        let input = Input::Data(data);
        let analysis = &mut tunnel.analysis;
        analysis.receive(shared, recorder, direction(role), at, input);
    }

    pub(crate) fn gap(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        (stream, role): (StreamKey, Role),
        gap: Gap,
    ) {
        if let Some(tunnel) = self.find(stream) {
            let (at, input) = (tunnel.at, Input::Gap(gap));
            let analysis = &mut tunnel.analysis;
            analysis.receive(shared, recorder, direction(role), at, input);
        }
    }

    /// A direction of the tunnel is over.
    pub(crate) fn end(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        (stream, role): (StreamKey, Role),
        at: Timestamp,
        end: End,
    ) {
        let Some(place) = self.open.iter().position(|tunnel| tunnel.stream == stream) else {
            return;
        };
        let Some(tunnel) = self.open.get_mut(place) else {
            return;
        };
        let input = if end.missing.is_empty() {
            Input::Fin
        } else if end.missing.contains(Missing::ABORTED) {
            Input::Reset
        } else {
            Input::Cut
        };
        let analysis = &mut tunnel.analysis;
        analysis.receive(shared, recorder, direction(role), at, input);
        tunnel.open[direction(role)] = false;
        if !tunnel.open.to_server && !tunnel.open.to_client {
            close(self.open.swap_remove(place), shared, recorder);
        }
    }

    /// Ends all of them: the conversation around them is over.
    pub(crate) fn close(&mut self, shared: &mut Shared, recorder: &mut impl Recorder) {
        for tunnel in std::mem::take(&mut self.open) {
            close(tunnel, shared, recorder);
        }
    }

    fn find(&mut self, stream: StreamKey) -> Option<&mut Tunnel> {
        self.open.iter_mut().find(|tunnel| tunnel.stream == stream)
    }
}

fn close(tunnel: Tunnel, shared: &mut Shared, recorder: &mut impl Recorder) {
    shared.held = shared.held.saturating_sub(COST);
    tunnel.analysis.close(shared, recorder);
}

/// The id of the connection within the tunnel that the exchange of that key opened: as unique as
/// the key, and told from the ids of TCP's connections, which have but the lower half.
fn within(outer: ConnectionId, key: u64) -> ConnectionId {
    const LOWER: u64 = (1 << KEY_BITS) - 1;
    let number = (key & LOWER) + 1;
    ConnectionId(number << KEY_BITS | outer.0 & LOWER)
}

const fn direction(role: Role) -> Direction {
    match role {
        Role::Request => Direction::ToServer,
        Role::Response => Direction::ToClient,
    }
}
