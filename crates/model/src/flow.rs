//! Who talks to whom.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Index, IndexMut, Not};

/// The way that bytes travel on a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Direction {
    /// From the side that connected.
    ToServer,
    /// From the side that was connected to.
    ToClient,
}

impl Direction {
    /// Both, in the order in which a request meets them.
    pub const BOTH: [Self; 2] = [Self::ToServer, Self::ToClient];
}

impl Not for Direction {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Side {
    /// The side that connected.
    Client,
    /// The side that was connected to.
    Server,
}

/// One value for each [`Direction`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PerDirection<T> {
    /// What belongs to the bytes that the client sent.
    pub to_server: T,
    /// What belongs to the bytes that the server sent.
    pub to_client: T,
}

impl<T> Index<Direction> for PerDirection<T> {
    type Output = T;

    fn index(&self, direction: Direction) -> &T {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }
}

impl<T> IndexMut<Direction> for PerDirection<T> {
    fn index_mut(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }
}

/// An address and a port. Prints as `192.0.2.1:80` or `[2001:db8::1]:80`.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Endpoint {
    /// The IP address.
    pub ip: IpAddr,
    /// The TCP port.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint of an address and a port.
    #[must_use]
    pub const fn new(ip: IpAddr, port: u16) -> Self {
        Self { ip, port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.ip, self.port).fmt(f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The network that a flow lives in, where one capture holds several: a fold of the VLAN tags and
/// tunnel ids around the packet. Zero: none. Equal addresses in different scopes never mix.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Scope(pub u64);

/// A conversation: two endpoints in canonical order and their [`Scope`], the same for both
/// directions.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey {
    /// The smaller endpoint.
    pub low: Endpoint,
    /// The larger endpoint.
    pub high: Endpoint,
    /// The network that both live in.
    pub scope: Scope,
}

impl FlowKey {
    /// The key of packets from `source` to `destination`, and of those the other way.
    #[must_use]
    pub fn new(source: Endpoint, destination: Endpoint, scope: Scope) -> Self {
        let (low, high) = if source <= destination {
            (source, destination)
        } else {
            (destination, source)
        };
        Self { low, high, scope }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_have_one_key() {
        let a = Endpoint::new("10.0.0.1".parse().unwrap(), 80);
        let b = Endpoint::new("10.0.0.1".parse().unwrap(), 81);
        assert_eq!(FlowKey::new(a, b, Scope(0)), FlowKey::new(b, a, Scope(0)));
        assert_ne!(FlowKey::new(a, b, Scope(0)), FlowKey::new(a, b, Scope(7)));
    }

    #[test]
    fn endpoints_print_as_people_write_them() {
        assert_eq!(
            Endpoint::new("::1".parse().unwrap(), 80).to_string(),
            "[::1]:80"
        );
        assert_eq!(
            Endpoint::new("10.0.0.1".parse().unwrap(), 80).to_string(),
            "10.0.0.1:80"
        );
    }
}
