//! The loss ledger: what was seen, what was kept, and what became of the rest.

use std::collections::BTreeMap;

use crate::anomaly::Anomaly;
use crate::tls::Unread;

macro_rules! ledger {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Counters of everything that a capture saw, kept and gave up, each with its cause.
        ///
        /// Three laws hold, and are tested:
        ///
        /// ```text
        /// packets_seen       = segments + packets_not_tcp + packets_fragment
        ///                    + packets_joined + packets_undecodable
        /// payload_bytes_seen = payload_bytes_delivered + payload_bytes_duplicate
        ///                    + payload_bytes_dropped
        /// payload_bytes_delivered + bytes_tls_plain + bytes_tunnel
        ///                    = bytes_http + bytes_not_http + bytes_tls
        /// ```
        ///
        /// What is said within TLS is counted like what is said without: `bytes_tls_plain` come out of
        /// `bytes_tls`, and are HTTP or not. So it is with tunnels: `bytes_tunnel` come out of
        /// `bytes_http`, and are HTTP, TLS or neither.
        ///
        /// A fragmented IP packet counts as what it turned out to be (a segment, say) once, for the
        /// fragment that completed it; its other fragments are `packets_joined`.
        #[derive(Clone, Debug, Default, Eq, PartialEq)]
        pub struct Ledger {
            $($(#[$doc])* pub $field: u64,)*
            /// How often each anomaly was seen.
            pub anomalies: BTreeMap<Anomaly, u64>,
        }

        impl Ledger {
            /// The counters with their names, in a fixed order, anomalies not included.
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }

            /// The counter of that name.
            pub fn counter_mut(&mut self, name: &str) -> Option<&mut u64> {
                match name { $(stringify!($field) => Some(&mut self.$field),)* _ => None }
            }
        }
    };
}

ledger! {
    /// Packets that the source handed over.
    packets_seen,
    /// Packets that the kernel or the capture library dropped before that, as the source reports.
    packets_dropped_by_kernel,
    /// Packets of which only the head was captured (snaplen); they still count below.
    packets_truncated,
    /// Packets that carry no TCP.
    packets_not_tcp,
    /// IP fragments that were not put together.
    packets_fragment,
    /// IP fragments that were put together, but for the last to come of each packet.
    packets_joined,
    /// Packets whose headers could not be read.
    packets_undecodable,
    /// TCP segments.
    segments,
    /// Captured TCP payload bytes.
    payload_bytes_seen,
    /// Payload bytes delivered, in order, to a protocol reader.
    payload_bytes_delivered,
    /// Payload bytes that had been delivered before (retransmissions, second vantage points).
    payload_bytes_duplicate,
    /// Payload bytes dropped: out of range, behind a FIN, or over a limit.
    payload_bytes_dropped,
    /// Gaps in byte streams.
    gaps,
    /// Bytes that the gaps stand for.
    gap_bytes,
    /// Of these: lost before the capture saw them.
    gap_bytes_lost,
    /// Of these: cut by the snapshot length.
    gap_bytes_truncated,
    /// Of these: given up because of a limit.
    gap_bytes_partial,
    /// Connections.
    connections,
    /// Connections whose beginning was not seen.
    connections_midstream,
    /// Connections evicted because of a limit.
    connections_evicted,
    /// Connections that a live capture did not admit, because it had too much to do; the others
    /// do not count them.
    connections_refused,
    /// Times that a connection gave up what it held of unfinished exchanges, because of the limit
    /// for all connections together.
    connections_given_up,
    /// Connections that carried TLS.
    connections_tls,
    /// Of these: unread, or not to their end, because no secret was there.
    tls_no_keys,
    /// Of these: because the handshake was before the capture, or lost.
    tls_handshake_not_seen,
    /// Of these: because of their version.
    tls_unsupported_version,
    /// Of these: because of their cipher suite, or compression.
    tls_unsupported_suite,
    /// Of these: because of a second handshake.
    tls_renegotiation,
    /// Of these: because of what is not TLS.
    tls_malformed,
    /// Of these: because records did not open any more.
    tls_desynchronised,
    /// Of these: because of a limit.
    tls_limit,
    /// Of these: because the handshake ended before anything was said.
    tls_handshake_failed,
    /// Connections on which something was said, within TLS or without, that was not HTTP.
    connections_not_http,
    /// Connections on which nothing was said.
    connections_empty,
    /// Tunnels (CONNECT) that were read as connections of their own.
    tunnels,
    /// Tunnels that were not, because they lay too deep within others.
    tunnels_not_read,
    /// Payload bytes of TLS connections.
    bytes_tls,
    /// Of these: of records that were read.
    bytes_tls_read,
    /// What those records held for the application.
    bytes_tls_plain,
    /// Bytes given to HTTP readers, out of TLS or plain.
    bytes_http,
    /// Of these: bytes that tunnels (CONNECT) carried, and that were read as what they are.
    bytes_tunnel,
    /// Bytes that were not HTTP, out of TLS or plain.
    bytes_not_http,
    /// Bytes on HTTP connections that belonged to no message (re-synchronisation).
    bytes_skipped,
    /// Exchanges archived.
    exchanges,
    /// Exchanges that a filter left out.
    exchanges_not_chosen,
    /// Exchanges that were not archived, because they came faster than they could be written, or could not be
    /// written at all.
    exchanges_dropped,
    /// Of the exchanges archived: not whole on one side or both.
    exchanges_incomplete,
    /// Of these: whose request was never answered within the capture.
    exchanges_without_response,
    /// Of these: whose request was never seen.
    exchanges_without_request,
    /// Body bytes left out because of the limit for one body.
    body_bytes_over_limit,
}

impl Ledger {
    /// How many connections of TLS were closed to us for that reason.
    #[must_use]
    pub const fn unread(&self, reason: Unread) -> u64 {
        match reason {
            Unread::NoKeys => self.tls_no_keys,
            Unread::HandshakeNotSeen => self.tls_handshake_not_seen,
            Unread::UnsupportedVersion => self.tls_unsupported_version,
            Unread::UnsupportedSuite => self.tls_unsupported_suite,
            Unread::Renegotiation => self.tls_renegotiation,
            Unread::Malformed => self.tls_malformed,
            Unread::Desynchronised => self.tls_desynchronised,
            Unread::Limit => self.tls_limit,
            Unread::HandshakeFailed(_) => self.tls_handshake_failed,
        }
    }

    /// Counts a connection of TLS that was closed to us.
    pub const fn count_unread(&mut self, reason: Unread) {
        let counter = match reason {
            Unread::NoKeys => &mut self.tls_no_keys,
            Unread::HandshakeNotSeen => &mut self.tls_handshake_not_seen,
            Unread::UnsupportedVersion => &mut self.tls_unsupported_version,
            Unread::UnsupportedSuite => &mut self.tls_unsupported_suite,
            Unread::Renegotiation => &mut self.tls_renegotiation,
            Unread::Malformed => &mut self.tls_malformed,
            Unread::Desynchronised => &mut self.tls_desynchronised,
            Unread::Limit => &mut self.tls_limit,
            Unread::HandshakeFailed(_) => &mut self.tls_handshake_failed,
        };
        *counter += 1;
    }

    /// Counts an anomaly.
    pub fn count(&mut self, anomaly: Anomaly) {
        *self.anomalies.entry(anomaly).or_default() += 1;
    }

    /// Adds the counters of `other`. They stop at the largest number: an archive from a stranger
    /// can claim any.
    pub fn merge(&mut self, other: &Self) {
        for (name, value) in other.counters() {
            if let Some(counter) = self.counter_mut(name) {
                *counter = counter.saturating_add(value);
            }
        }
        for (anomaly, count) in &other.anomalies {
            let counter = self.anomalies.entry(*anomaly).or_default();
            *counter = counter.saturating_add(*count);
        }
    }

    /// What was counted since `earlier`: the counters of one part of a recording.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (name, value) in earlier.counters() {
            if let Some(counter) = since.counter_mut(name) {
                *counter = counter.saturating_sub(value);
            }
        }
        for (anomaly, count) in &earlier.anomalies {
            if let Some(counter) = since.anomalies.get_mut(anomaly) {
                *counter = counter.saturating_sub(*count);
            }
        }
        since.anomalies.retain(|_, count| *count > 0);
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_counter() {
        let mut ledger = Ledger::default();
        for (count, reason) in (1..).zip(Unread::ALL) {
            for _ in 0..count {
                ledger.count_unread(reason);
            }
        }
        for (count, reason) in (1..).zip(Unread::ALL) {
            assert_eq!(ledger.unread(reason), count, "{reason:?}");
        }
        let named: u64 = ledger.counters().map(|(_, count)| count).sum();
        assert_eq!(named, 45);
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let mut early = Ledger {
            segments: 2,
            ..Ledger::default()
        };
        early.count(Anomaly::BareLf);
        let mut late = early.clone();
        late.segments = 7;
        let part = late.since(&early);
        assert_eq!(part.segments, 5);
        assert!(part.anomalies.is_empty(), "it was seen before");
        late.count(Anomaly::BareLf);
        let mut sum = early.clone();
        sum.merge(&late.since(&early));
        assert_eq!(sum, late);
    }

    #[test]
    fn merging_adds_every_counter() {
        let mut a = Ledger {
            segments: 2,
            ..Ledger::default()
        };
        a.count(Anomaly::BareLf);
        let mut b = a.clone();
        b.merge(&a);
        assert_eq!(b.segments, 4);
        assert_eq!(b.anomalies[&Anomaly::BareLf], 2);
        let names: Vec<_> = a.counters().map(|(name, _)| name).collect();
        for name in names {
            assert!(a.counter_mut(name).is_some());
        }
    }
}
