//! What the reassembly may hold, and for how long it waits.

use std::time::Duration;

/// What a [`Reassembler`](crate::Reassembler) may hold, and for how long it waits. Durations are
/// packet time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once, lingering ones included. An idle one costs about 300 bytes; the one
    /// whose timeout is nearest goes first, which is a bare SYN where there is any.
    pub max_connections: usize,
    /// Bytes that wait behind holes of one connection, with their bookkeeping. A loss at
    /// 75 MB/s and a round trip of 100 ms puts 7.5 MB behind the hole before the retransmission.
    pub max_buffered_per_connection: usize,
    /// The same for all connections together; the oldest hole goes first.
    pub max_buffered: usize,
    /// How far ahead of the next byte a segment may lie. The largest window that TCP can announce
    /// is 1 GiB (RFC 7323 section 2.2); what lies beyond is not of this connection.
    pub max_ahead: u32,
    /// How long a hole that nobody acknowledged is waited for: three retransmissions of a
    /// usual connection.
    pub hole_timeout: Duration,
    /// How long a hole that the receiver acknowledged is waited for. Longer than the skew between
    /// the queues and threads of one capture (AF_PACKET blocks retire after some tens of
    /// milliseconds), shorter than what a reader of live exchanges would notice.
    pub ack_grace: Duration,
    /// How long a connection may say nothing before it is cut. Keep-alive connections and answers
    /// that are waited for (long polls, reports) pause for many minutes, and what is cut in between
    /// loses the pair; a silent connection costs little, and `max_connections` bounds them all.
    pub idle_timeout: Duration,
    /// How long a SYN waits for an answer.
    pub handshake_timeout: Duration,
    /// How long a closed connection is remembered, so that retransmissions of its last segments
    /// are not taken for a new one.
    pub close_linger: Duration,
    /// How long after a RST segments that were already under way are still accepted.
    pub reset_linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 262_144,
            max_buffered_per_connection: 8 << 20,
            max_buffered: 256 << 20,
            max_ahead: 1 << 30,
            hole_timeout: Duration::from_secs(3),
            ack_grace: Duration::from_millis(100),
            idle_timeout: Duration::from_hours(1),
            handshake_timeout: Duration::from_secs(5),
            close_linger: Duration::from_secs(5),
            reset_linger: Duration::from_secs(1),
        }
    }
}
