//! What every source of packets does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tapedeck_packet::RawPacket;

use crate::sources::SourceError;

/// A live source of packets: one or more streams of them, each to be read by a thread of its own,
/// and what controls all of them.
///
/// Every packet of a connection comes from the same stream.
pub struct Source {
    /// The streams.
    pub streams: Vec<Box<dyn PacketSource + Send>>,
    /// What controls them.
    pub tap: Box<dyn Tap + Send>,
}

/// A stream of packets.
pub trait PacketSource {
    /// Hands the packets that are there to `take`, in the order in which they were seen, and
    /// returns how many they were. Waits for some up to `timeout`; 0 when none came.
    ///
    /// A batch is bounded, so that whoever calls this can look at the clock in between.
    ///
    /// # Errors
    ///
    /// When the kernel fails the source for good.
    fn next_batch(
        &mut self,
        timeout: Duration,
        take: &mut dyn FnMut(&Captured<'_>),
    ) -> Result<usize, SourceError>;
}

/// What controls the streams of a source.
pub trait Tap {
    /// Stops seeing new packets. What was seen before can still be fetched.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; it never does to the owner of a source.
    fn detach(&mut self) -> Result<(), SourceError>;

    /// What the kernel dropped so far.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    fn drops(&mut self) -> Result<Drops, SourceError>;

    /// Whether new connections are captured. `false`: the source cannot refuse any.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn admit(&mut self, admit: bool) -> Result<bool, SourceError> {
        let _ = admit;
        Ok(false)
    }

    /// Puts other rules in force, for the packets that come from now on, and returns what could not
    /// be put into them, in words.
    ///
    /// # Errors
    ///
    /// When the source cannot follow such rules; those before stay in force.
    fn set_policy(&mut self, policy: &Policy) -> Result<Vec<String>, SourceError>;

    /// How full the queues between the kernel and the streams are, where the source knows.
    fn queues(&self) -> Vec<Queue> {
        Vec::new()
    }

    /// Who opened sockets, where the source knows.
    fn owners(&mut self) -> Option<Box<dyn Owners + Send>> {
        None
    }
}

/// How full a queue is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Queue {
    /// Bytes that wait.
    pub used: u64,
    /// Bytes that fit.
    pub size: u64,
}

/// Who opened sockets.
pub trait Owners {
    /// Process id and name of whoever opened the socket of that cookie.
    fn owner(&self, cookie: u64) -> Option<(u32, String)>;
}

/// A packet, and what the source knows of it beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// The packet.
    pub packet: RawPacket<'a>,
    /// The socket that sent or received it; `None` where the source sees no sockets.
    pub socket: Option<Socket>,
}

/// A socket that a packet was seen at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Socket {
    /// Names it as long as the machine runs.
    pub cookie: u64,
    /// The id of its cgroup.
    pub cgroup: u64,
    /// The packet left it; else it arrived.
    pub is_sender: bool,
    /// The packet may be the first that is seen of the socket in this direction: it is part of a
    /// handshake, or the source remembers none before it.
    pub is_first: bool,
}

/// Which connections are captured, and how much of each. The first rule that fits counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// The rules.
    pub rules: Vec<Rule>,
    /// What is done with connections that fit none.
    pub otherwise: Action,
}

/// What is done with some connections.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Which.
    pub of: Match,
    /// What.
    pub action: Action,
    /// The share of them that is taken, from 0 to 1: whole connections, by the hash of their
    /// addresses and ports, so that both ends and every node agree.
    pub sample: f64,
}

/// Which connections a rule is for.
#[derive(Clone, Debug, PartialEq)]
pub enum Match {
    /// Those with one of these TCP ports at either end.
    Ports(Vec<u16>),
    /// Those of sockets in this cgroup or one below it.
    Cgroup(PathBuf),
    /// Those of sockets in one of these cgroups, by their ids, or one below them. A node has more pods
    /// than there may be rules.
    Cgroups(Vec<u64>),
    /// Those of these sockets, by their cookies, which `ss -e` prints behind `sk:`. A rule by socket comes
    /// before all others.
    Sockets(Vec<u64>),
}

/// What is done with a connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Action {
    /// Taken whole.
    #[default]
    Capture,
    /// Only the beginning of each packet is taken: enough for heads, not for bodies.
    Headers,
    /// Left out.
    Ignore,
}

impl Policy {
    /// Only connections with one of these ports at either end; all of them where there is none.
    #[must_use]
    pub fn only_ports(ports: &[u16]) -> Self {
        if ports.is_empty() {
            return Self::default();
        }
        Self {
            rules: vec![Rule {
                of: Match::Ports(ports.to_vec()),
                action: Action::Capture,
                sample: 1.0,
            }],
            otherwise: Action::Ignore,
        }
    }

    /// The ports that are captured, where the rules say nothing but that: all that a filter of
    /// packets can do. Empty: all.
    #[must_use]
    pub fn as_ports(&self) -> Option<Vec<u16>> {
        if self.rules.is_empty() && self.otherwise == Action::Capture {
            return Some(Vec::new());
        }
        let mut all = Vec::new();
        for Rule { of, action, sample } in &self.rules {
            match of {
                Match::Ports(ports) if *action == Action::Capture && *sample >= 1.0 => {
                    all.extend_from_slice(ports);
                }
                Match::Ports(_) | Match::Cgroup(_) | Match::Cgroups(_) | Match::Sockets(_) => {
                    return None;
                }
            }
        }
        (self.otherwise == Action::Ignore && !all.is_empty()).then_some(all)
    }

    /// Whether any rule is by cgroup.
    #[must_use]
    pub fn has_cgroups(&self) -> bool {
        self.rules
            .iter()
            .any(|rule| matches!(rule.of, Match::Cgroup(_)))
    }

    /// Whether a rule may be for one end of a connection and not for the other.
    #[must_use]
    pub fn tells_ends_apart(&self) -> bool {
        self.rules
            .iter()
            .any(|rule| !matches!(rule.of, Match::Ports(_)))
    }

    /// Only these sockets.
    #[must_use]
    pub fn only_sockets(cookies: &[u64]) -> Self {
        Self {
            rules: vec![Rule {
                of: Match::Sockets(cookies.to_vec()),
                action: Action::Capture,
                sample: 1.0,
            }],
            otherwise: Action::Ignore,
        }
    }
}

/// What never reached a source, by cause, and what it left out by intention.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Drops {
    /// Packets (or parts of long ones), by cause.
    pub packets: BTreeMap<&'static str, u64>,
    /// Their payload bytes, where the source knows.
    pub payload_bytes: u64,
    /// Connections that were not admitted, because there was too much to do.
    pub connections_refused: u64,
    /// Packets that the policy left out, or of connections that were refused.
    pub left_out: u64,
}

impl Drops {
    /// Packets dropped, for whatever cause.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.packets.values().sum()
    }

    /// Counts packets of one cause, if there are any.
    pub fn add(&mut self, cause: &'static str, packets: u64) {
        if packets > 0 {
            *self.packets.entry(cause).or_default() += packets;
        }
    }

    /// Adds those of another source.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            packets,
            payload_bytes,
            connections_refused,
            left_out,
        } = other;
        for (cause, count) in packets {
            self.add(cause, *count);
        }
        self.payload_bytes += payload_bytes;
        self.connections_refused += connections_refused;
        self.left_out += left_out;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(of: Match, action: Action, sample: f64) -> Rule {
        Rule { of, action, sample }
    }

    #[test]
    fn only_a_list_of_ports_can_be_a_filter_of_packets() {
        assert_eq!(Policy::only_ports(&[]).as_ports(), Some(vec![]));
        assert_eq!(Policy::only_ports(&[80, 81]).as_ports(), Some(vec![80, 81]));
        let ports = || Match::Ports(vec![80]);
        for rule in [
            rule(ports(), Action::Headers, 1.0),
            rule(ports(), Action::Ignore, 1.0),
            rule(ports(), Action::Capture, 0.5),
            rule(Match::Cgroup("/a".into()), Action::Capture, 1.0),
            rule(Match::Cgroups(vec![7]), Action::Capture, 1.0),
            rule(Match::Sockets(vec![7]), Action::Capture, 1.0),
        ] {
            let mut policy = Policy::only_ports(&[8080]);
            policy.rules.push(rule);
            assert_eq!(policy.as_ports(), None, "{policy:?}");
        }
        let rules = vec![rule(ports(), Action::Capture, 1.0)];
        let otherwise = Action::Capture;
        assert_eq!(Policy { rules, otherwise }.as_ports(), None);
        let rules = Vec::new();
        let otherwise = Action::Ignore;
        assert_eq!(Policy { rules, otherwise }.as_ports(), None);
    }
}
