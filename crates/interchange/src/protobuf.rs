//! Protocol Buffers without a schema, as text: field numbers and what the wire types tell, like
//! `protoc --decode_raw`.
//!
//! The wire does not say whether a length-delimited field is a text, a message or bytes. What reads
//! as text is shown as one; what reads as a message, and only that, is shown as one with a question
//! mark.

use std::fmt::Write;

/// Messages within messages that are followed. Real ones stay below ten.
const MAX_DEPTH: usize = 16;

/// Text that is made of one message. Fields of two bytes make lines of ten.
const MAX_TEXT: usize = 1 << 20;

/// The fields of a message, one a line; `None` where the bytes are no message, or make too long a
/// text.
#[must_use]
pub fn dump(message: &[u8]) -> Option<String> {
    let mut out = String::new();
    let rest = fields(message, 0, None, &mut out)?;
    (rest.is_empty() && !message.is_empty()).then_some(out)
}

/// A value of a message, as the wire tells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Value<'m> {
    Varint(u64),
    Bytes(&'m [u8]),
    /// Of a fixed width.
    Fixed,
}

/// The fields of a message with their numbers; `None` comes last, where the bytes are no message, or
/// have groups, which nobody uses any more.
pub(crate) fn fields_of(message: &[u8]) -> impl Iterator<Item = Option<(u64, Value<'_>)>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(rest);
        rest = field.map_or(&[], |(_, behind)| behind);
        Some(field.map(|(field, _)| field))
    })
}

fn field(bytes: &[u8]) -> Option<((u64, Value<'_>), &[u8])> {
    let (tag, rest) = varint(bytes)?;
    let (value, rest) = match tag & 7 {
        VARINT => {
            let (value, rest) = varint(rest)?;
            (Value::Varint(value), rest)
        }
        DELIMITED => {
            let (len, rest) = varint(rest)?;
            let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            (Value::Bytes(value), rest)
        }
        FIXED64 => (Value::Fixed, rest.get(8..)?),
        FIXED32 => (Value::Fixed, rest.get(4..)?),
        _ => return None,
    };
    Some(((tag >> 3, value), rest))
}

/// Writes fields up to the end, or to that of the group of that number; gives what is behind it.
fn fields<'m>(
    mut rest: &'m [u8],
    depth: usize,
    group: Option<u64>,
    out: &mut String,
) -> Option<&'m [u8]> {
    if depth > MAX_DEPTH {
        return None;
    }
    while !rest.is_empty() {
        if out.len() > MAX_TEXT {
            return None;
        }
        let (tag, behind) = varint(rest)?;
        let (number, wire_type) = (tag >> 3, tag & 7);
        if number == 0 || number >= 1 << 29 {
            return None;
        }
        if wire_type == END_GROUP {
            return (group == Some(number)).then_some(behind);
        }
        out.extend(std::iter::repeat_n("  ", depth));
        write!(out, "{number}").ok()?;
        rest = value(behind, wire_type, number, depth, out)?;
    }
    group.is_none().then_some(rest)
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const DELIMITED: u64 = 2;
const START_GROUP: u64 = 3;
const END_GROUP: u64 = 4;
const FIXED32: u64 = 5;

fn value<'m>(
    bytes: &'m [u8],
    wire_type: u64,
    number: u64,
    depth: usize,
    out: &mut String,
) -> Option<&'m [u8]> {
    match wire_type {
        VARINT => {
            let (value, rest) = varint(bytes)?;
            writeln!(out, ": {value}").ok()?;
            Some(rest)
        }
        FIXED64 => {
            let (value, rest) = bytes.split_first_chunk::<8>()?;
            writeln!(out, ": 0x{:016x}", u64::from_le_bytes(*value)).ok()?;
            Some(rest)
        }
        FIXED32 => {
            let (value, rest) = bytes.split_first_chunk::<4>()?;
            writeln!(out, ": 0x{:08x}", u32::from_le_bytes(*value)).ok()?;
            Some(rest)
        }
        START_GROUP => {
            out.push_str(" {\n");
            let rest = fields(bytes, depth + 1, Some(number), out)?;
            close(depth, out);
            Some(rest)
        }
        DELIMITED => {
            let (len, behind) = varint(bytes)?;
            let (value, rest) = behind.split_at_checked(usize::try_from(len).ok()?)?;
            delimited(value, depth, out)?;
            Some(rest)
        }
        _ => None,
    }
}

fn delimited(value: &[u8], depth: usize, out: &mut String) -> Option<()> {
    if let Ok(text) = std::str::from_utf8(value)
        && !text.chars().any(|c| c.is_control() && !c.is_whitespace())
    {
        return writeln!(out, ": {text:?}").ok();
    }
    let before = out.len();
    out.push_str(" (a message?) {\n");
    if fields(value, depth + 1, None, out).is_some_and(<[u8]>::is_empty) {
        close(depth, out);
        return Some(());
    }
    out.truncate(before);
    out.push_str(": bytes ");
    for byte in value {
        write!(out, "{byte:02x}").ok()?;
    }
    out.push('\n');
    Some(())
}

fn close(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
    out.push_str("}\n");
}

/// A number of seven bits a byte, the lowest first; at most ten bytes.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        let shifted = bits << (7 * index);
        if shifted >> (7 * index) != bits {
            return None;
        }
        value |= shifted;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_wire_type_is_shown_as_protoc_shows_it() {
        // The examples of https://protobuf.dev/programming-guides/encoding/, a fixed64, a fixed32,
        // a group, bytes.
        let message = [
            &[0x08, 0x96, 0x01][..],
            &[0x12, 0x07, b't', b'e', b's', b't', b'i', b'n', b'g'],
            &[0x1a, 0x03, 0x08, 0x96, 0x01],
            &[0x21, 1, 0, 0, 0, 0, 0, 0, 0x80],
            &[0x2d, 0xdb, 0x0f, 0x49, 0x40],
            &[0x33, 0x08, 0x01, 0x34],
            &[0x3a, 0x02, 0xff, 0x00],
        ]
        .concat();
        assert_eq!(
            dump(&message).unwrap(),
            "1: 150\n2: \"testing\"\n3 (a message?) {\n  1: 150\n}\n4: 0x8000000000000001\n\
             5: 0x40490fdb\n6 {\n  1: 1\n}\n7: bytes ff00\n"
        );
    }

    #[test]
    fn what_is_no_message_is_none() {
        for bytes in [
            &b""[..],
            b"\x08",
            b"\x00\x01",
            b"\x0f",
            b"\x12\x05ab",
            b"\x34",
            b"\x33\x08\x01",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            assert_eq!(dump(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn nesting_and_length_have_an_end() {
        let mut deep = vec![0xff, 0xff];
        for _ in 0..40 {
            let mut outer = vec![0x0a, deep.len() as u8];
            outer.extend(&deep);
            deep = outer;
        }
        assert!(dump(&deep).unwrap().contains("bytes"));
        assert_eq!(dump(&[0x08, 1].repeat(MAX_TEXT)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Some(text) = dump(&bytes) {
                let unsafe_char = |c: char| c.is_control() && c != '\n';
                prop_assert!(!text.contains(unsafe_char));
            }
        }
    }
}
