//! What is said within the tunnels that CONNECT opens (RFC 9110 section 9.3.6): each is read as a
//! connection of its own, while its bytes stay the bodies of the exchange that opened it.

use std::collections::BTreeMap;

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
    /// By the stream that carries each. In HTTP/2 there may be thousands, and each input asks for one.
    open: BTreeMap<StreamKey, Tunnel>,
    /// Bytes that these hold.
    held: usize,
    /// How many tunnels are around the conversation.
    depth: usize,
}

#[derive(Debug)]
struct Tunnel {
    analysis: Box<Analysis>,
    open: PerDirection<bool>,
    /// When something came last: gaps bring no time of their own.
    at: Timestamp,
}

impl Tunnels {
    pub(crate) const fn new(depth: usize) -> Self {
        Self {
            open: BTreeMap::new(),
            held: 0,
            depth,
        }
    }

    /// Bytes held.
    pub(crate) const fn held(&self) -> usize {
        self.held
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
        if self.open.contains_key(&stream) {
            return;
        }
        if self.depth >= shared.limits.tunnel_depth {
            shared.ledger.tunnels_not_read += 1;
            return;
        }
        shared.ledger.tunnels += 1;
        shared.held += COST;
        self.held += COST;
        let connection = Connection {
            id: within(outer.id, key),
            // The tunnel was seen from its beginning.
            origin: Origin::Handshake,
            opened: at,
            ..outer.clone()
        };
        let tunnel = Tunnel {
            analysis: Box::new(Analysis::within_tunnel(connection, self.depth + 1)),
            open: PerDirection {
                to_server: true,
                to_client: true,
            },
            at,
        };
        self.open.insert(stream, tunnel);
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
        if let Some(tunnel) = self.open.get_mut(&stream) {
            tunnel.at = at;
            shared.ledger.bytes_tunnel += data.len() as u64;
            let input = Input::Data(data);
            let (before, after) = tunnel.receive(shared, recorder, direction(role), input);
            self.held = self.held + after - before;
        }
    }

    pub(crate) fn gap(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        (stream, role): (StreamKey, Role),
        gap: Gap,
    ) {
        if let Some(tunnel) = self.open.get_mut(&stream) {
            let input = Input::Gap(gap);
            let (before, after) = tunnel.receive(shared, recorder, direction(role), input);
            self.held = self.held + after - before;
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
        let Some(tunnel) = self.open.get_mut(&stream) else {
            return;
        };
        tunnel.at = at;
        let before = tunnel.analysis.held();
        let input = if end.missing.is_empty() {
            Input::Fin
        } else if end.missing.contains(Missing::ABORTED) {
            Input::Reset
        } else {
            if end.missing.contains(Missing::PARTIAL) {
                // What ends it is a limit of ours: so it is with what it carries.
                tunnel.analysis.give_up(shared, recorder, at);
            }
            Input::Cut
        };
        tunnel.end(shared, recorder, direction(role), input);
        self.held = self.held + tunnel.analysis.held() - before;
        if !tunnel.open.to_server
            && !tunnel.open.to_client
            && let Some(tunnel) = self.open.remove(&stream)
        {
            self.held -= tunnel.analysis.held() + COST;
            tunnel.close(shared, recorder);
        }
    }

    /// Has all of them give up what they hold, and ends them: there is no room for the conversation
    /// around them.
    pub(crate) fn give_up(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        at: Timestamp,
    ) {
        for tunnel in self.open.values_mut() {
            tunnel.analysis.give_up(shared, recorder, at);
        }
        self.close(shared, recorder);
    }

    /// Ends all of them: the conversation around them is over.
    pub(crate) fn close(&mut self, shared: &mut Shared, recorder: &mut impl Recorder) {
        self.held = 0;
        for tunnel in std::mem::take(&mut self.open).into_values() {
            tunnel.close(shared, recorder);
        }
    }
}

impl Tunnel {
    /// Takes what comes next; what was held before and is held after it.
    fn receive(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        direction: Direction,
        input: Input<'_>,
    ) -> (usize, usize) {
        let before = self.analysis.held();
        let analysis = &mut self.analysis;
        analysis.receive(shared, recorder, direction, self.at, input);
        (before, analysis.held())
    }

    fn end(
        &mut self,
        shared: &mut Shared,
        recorder: &mut impl Recorder,
        direction: Direction,
        end: Input<'_>,
    ) {
        self.receive(shared, recorder, direction, end);
        self.open[direction] = false;
    }

    fn close(mut self, shared: &mut Shared, recorder: &mut impl Recorder) {
        for direction in Direction::BOTH {
            if self.open[direction] {
                // A reader of TLS says why it is closed once both directions have ended.
                self.end(shared, recorder, direction, Input::Cut);
            }
        }
        shared.held = shared.held.saturating_sub(COST);
        self.analysis.close(shared, recorder);
    }
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
