//! Why a packet could not be decoded.

use std::fmt;

use crate::link::LinkType;

/// Why the headers of a packet could not be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The packet ends within a header.
    #[error("{layer} header needs {needed} bytes, and {len} were captured")]
    Short {
        /// Whose header.
        layer: Layer,
        /// How many bytes it has at least.
        needed: usize,
        /// How many there are.
        len: usize,
    },
    /// A header contradicts itself.
    #[error("malformed {layer} header")]
    Malformed {
        /// Whose header.
        layer: Layer,
    },
    /// More tags, labels and tunnels than any network stacks.
    #[error("more than {limit} layers of tags and tunnels")]
    TooManyLayers {
        /// The limit.
        limit: u8,
    },
    /// A link type that is not supported.
    #[error("link type {0} is not supported")]
    UnknownLink(LinkType),
}

macro_rules! layers {
    ($($variant:ident $name:literal)*) => {
        /// A layer of a packet.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Layer {
            $(#[doc = $name] $variant,)*
        }

        impl fmt::Display for Layer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $name,)* })
            }
        }
    };
}

layers! {
    Link "link"
    Vlan "VLAN"
    Mpls "MPLS"
    Ppp "PPP"
    Ipv4 "IPv4"
    Ipv6 "IPv6"
    Ah "IP authentication"
    Gre "GRE"
    Udp "UDP"
    Vxlan "VXLAN"
    Geneve "Geneve"
    Gtp "GTP-U"
    Tcp "TCP"
}
