//! Where the reassembly puts what it found.

use tapedeck_model::{Anomaly, Connection, Direction, Input, Timestamp};

/// A dense index of a live connection: a place in a `Vec` for whatever the sink keeps for it.
/// Used again after [`Sink::closed`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Slot(pub u32);

/// Takes what the reassembly finds.
///
/// For each connection: `opened`; then, for each direction, any number of `Data` and `Gap` inputs
/// and exactly one `Fin`, `Reset` or `Cut`; then `closed`. The times of one direction never step
/// back.
pub trait Sink {
    /// A connection begins. For [`Origin::Midstream`](tapedeck_model::Origin::Midstream), which
    /// side is the client is a guess: the lower port is taken for the server's.
    fn opened(&mut self, slot: Slot, connection: Connection);

    /// What happens next in one direction.
    fn input(&mut self, slot: Slot, direction: Direction, at: Timestamp, input: Input<'_>);

    /// The first `len` bytes of that direction, which come next, come late: the other side had received
    /// them when it said what was told of it already. It is so where a capture begins in the middle
    /// and its queues are out of step. Whoever pairs what both sides say must not rely on their order.
    fn late(&mut self, slot: Slot, direction: Direction, len: u64) {
        let _ = (slot, direction, len);
    }

    /// Something irregular, for the sink to count. Those of a connection that was closed already
    /// are not told but counted by the reassembly itself (see
    /// [`Reassembler::add_to`](crate::Reassembler::add_to)).
    fn anomaly(&mut self, slot: Slot, direction: Direction, anomaly: Anomaly);

    /// The connection is over: both directions have ended, and the slot is free.
    fn closed(&mut self, slot: Slot, at: Timestamp);
}
