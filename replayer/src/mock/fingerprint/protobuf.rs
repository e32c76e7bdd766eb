//! Protobuf messages along the paths of a rule, without their schema: field numbers are the names
//! (the wire format: protobuf.dev, "Encoding"). What a length-delimited field holds is known only
//! where a rule goes on into it.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};

use super::loose::{Ruler, marker};
use super::{SetHash, join, kind, name_of, value_of};
use crate::mock::rules::{Compare, Node};

/// How messages stand in a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Framing {
    /// The body is one message.
    Bare,
    /// gRPC: a flag and a length before each.
    Grpc,
}

impl Framing {
    /// What a content type says; `None`: that is no protobuf.
    pub(super) fn of(content_type: &[u8]) -> Option<Self> {
        let media = content_type.split(|byte| *byte == b';').next()?;
        let media = media.trim_ascii().to_ascii_lowercase();
        match media.as_slice() {
            b"application/grpc" | b"application/grpc+proto" => Some(Self::Grpc),
            b"application/protobuf" | b"application/x-protobuf" => Some(Self::Bare),
            _ => None,
        }
    }
}

/// Messages within messages that are followed.
const MAX_DEPTH: usize = 32;

/// The hash of a body; `None`: it cannot be read.
pub(super) fn hash(body: &[u8], framing: Framing, node: &Node, ruler: &Ruler) -> Option<u128> {
    match framing {
        Framing::Bare => message(body, node, ruler, 0, 0),
        Framing::Grpc => {
            let mut hash = Xxh3::with_seed(kind::MESSAGE);
            let mut rest = body;
            while let Some((head, behind)) = rest.split_first_chunk::<5>() {
                let [flag, length @ ..] = *head;
                let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
                let (text, behind) = behind.split_at_checked(length)?;
                let one = if flag == 0 {
                    message(text, node, ruler, 0, 0)?
                } else {
                    // Compressed.
                    value_of(text)
                };
                hash.update(&one.to_le_bytes());
                rest = behind;
            }
            rest.is_empty().then(|| hash.digest128())
        }
    }
}

/// A field's value as it stands on the wire.
#[derive(Clone, Copy, Debug)]
enum Wire<'a> {
    Varint(u64),
    Eight([u8; 8]),
    Bytes(&'a [u8]),
    Four([u8; 4]),
}

fn message(text: &[u8], node: &Node, ruler: &Ruler, place: u128, depth: usize) -> Option<u128> {
    if depth > MAX_DEPTH {
        return None;
    }
    let mut rest = text;
    let mut set = SetHash::default();
    // Fields may come in any order, those of one number only in theirs.
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let (number, wire) = (key >> 3, field(key & 7, &mut rest)?);
        let name = number.to_string();
        let hashed = name_of(name.as_bytes());
        let place = join(place, hashed, kind::NAME);
        let node = node.members.get(&name);
        let value = match node {
            None => Some(wire.hash()),
            Some(node) => wire.compared(node, ruler, place, depth)?,
        };
        if let Some(value) = value {
            let turn = seen.entry(number).or_default();
            let value = join(u128::from(*turn), value, kind::VALUE);
            set.add(join(hashed, value, kind::PAIR));
            *turn += 1;
        }
    }
    Some(set.finish(kind::MESSAGE))
}

impl Wire<'_> {
    fn hash(self) -> u128 {
        match self {
            Self::Varint(value) => xxh3_128_with_seed(&value.to_le_bytes(), 0),
            Self::Eight(bytes) => xxh3_128_with_seed(&bytes, 1),
            Self::Bytes(bytes) => xxh3_128_with_seed(bytes, 2),
            Self::Four(bytes) => xxh3_128_with_seed(&bytes, 5),
        }
    }

    /// The number that it may be.
    fn number(self) -> Option<f64> {
        match self {
            Self::Varint(value) => Some(value as f64),
            Self::Eight(bytes) => Some(f64::from_le_bytes(bytes)),
            Self::Four(bytes) => Some(f32::from_le_bytes(bytes).into()),
            Self::Bytes(_) => None,
        }
    }

    /// `None`: the body cannot be read. `Some(None)`: the value does not count.
    fn compared(
        self,
        node: &Node,
        ruler: &Ruler,
        place: u128,
        depth: usize,
    ) -> Option<Option<u128>> {
        Some(Some(match (&node.compare, self) {
            (Some(Compare::Ignore), _) => return Some(None),
            (Some(Compare::Presence), _) => marker(kind::PRESENT),
            (Some(Compare::Type), wire) => {
                let kind_of = match wire {
                    Self::Varint(_) => 0,
                    Self::Eight(_) => 1,
                    Self::Bytes(_) => 2,
                    Self::Four(_) => 5,
                };
                xxh3_128_with_seed(&[kind_of], kind::TYPE)
            }
            (Some(Compare::Matches(regex)), Self::Bytes(text)) if regex.is_match(text) => {
                marker(kind::MATCHED)
            }
            (Some(Compare::Matches(regex)), Self::Varint(value))
                if regex.is_match(value.to_string().as_bytes()) =>
            {
                marker(kind::MATCHED)
            }
            (Some(Compare::Within(within)), wire) => match wire.number() {
                Some(number) => ruler.number(place, number, *within),
                None => wire.hash(),
            },
            (None, Self::Bytes(text)) if !node.members.is_empty() => {
                message(text, node, ruler, place, depth + 1)?
            }
            (None | Some(Compare::Equal | Compare::Matches(_)), wire) => wire.hash(),
        }))
    }
}

fn field<'a>(wire: u64, rest: &mut &'a [u8]) -> Option<Wire<'a>> {
    match wire {
        0 => varint(rest).map(Wire::Varint),
        1 => {
            let (bytes, behind) = rest.split_first_chunk()?;
            *rest = behind;
            Some(Wire::Eight(*bytes))
        }
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            let (bytes, behind) = rest.split_at_checked(length)?;
            *rest = behind;
            Some(Wire::Bytes(bytes))
        }
        5 => {
            let (bytes, behind) = rest.split_first_chunk()?;
            *rest = behind;
            Some(Wire::Four(*bytes))
        }
        _ => None,
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
