//! Field blocks (RFC 7541), written without a dynamic table: such a block is the same on every connection.

use tapedeck_http2::hpack::static_entry;

/// "The dynamic table has no entries from now on" (RFC 7541 section 6.3): behind it, no setting of the target has a
/// say. It goes before the first block of a connection.
pub(crate) const NO_TABLE: u8 = 0x20;

/// Appends a field, whose name is in lower case.
pub(crate) fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    match place(name, value) {
        Place::Field(index) => integer(out, 0x80, 7, index),
        Place::Name(index) => {
            integer(out, 0, 4, index);
            string(out, value);
        }
        Place::Nowhere => {
            out.push(0);
            string(out, name);
            string(out, value);
        }
    }
}

/// Where a field is in the static table.
enum Place {
    Field(usize),
    Name(usize),
    Nowhere,
}

fn place(name: &[u8], value: &[u8]) -> Place {
    let mut place = Place::Nowhere;
    for index in 1.. {
        let Some((its_name, its_value)) = static_entry(index) else {
            break;
        };
        if its_name != name {
            continue;
        }
        if its_value == value {
            return Place::Field(index as usize);
        }
        if matches!(place, Place::Nowhere) {
            place = Place::Name(index as usize);
        }
    }
    place
}

/// As it is: the Huffman code would save the target's network some bytes, and cost it time.
fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// An integer behind a prefix of `bits` bits (RFC 7541 section 5.1).
fn integer(out: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tapedeck_http2::hpack::{Decoder, Section};

    use super::*;

    #[test]
    fn known_fields_are_a_byte() {
        let mut out = Vec::new();
        field(&mut out, b":method", b"GET");
        field(&mut out, b":path", b"/x");
        field(&mut out, b"accept-encoding", b"gzip, deflate");
        field(&mut out, b"te", b"trailers");
        assert_eq!(out, b"\x82\x04\x02/x\x90\0\x02te\x08trailers");
    }

    #[test]
    fn integers_of_the_rfc() {
        let written = |bits, value| {
            let mut out = Vec::new();
            integer(&mut out, 0, bits, value);
            out
        };
        assert_eq!(written(5, 10), [10]);
        assert_eq!(written(5, 1337), [0x1f, 0x9a, 0x0a]);
        assert_eq!(written(8, 42), [42]);
    }

    proptest! {
        #[test]
        fn the_decoder_reads_what_was_written(
            fields in prop::collection::vec(("[a-z:-]{1,12}|:path|cookie|accept", prop::collection::vec(any::<u8>(), 0..300)), 0..20),
        ) {
            let mut block = vec![NO_TABLE];
            for (name, value) in &fields {
                field(&mut block, name.as_bytes(), value);
            }
            let mut section = Section::new(1 << 20, block.len());
            let outcome = Decoder::fresh(4096).decode(&block, &mut section);
            prop_assert!(!outcome.error && !outcome.unknown && !section.overflowed);
            let read: Vec<_> = section.fields.iter().map(|f| (f.name.of(&section.raw), f.value.of(&section.raw))).collect();
            let wrote: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), &value[..])).collect();
            prop_assert_eq!(read, wrote);
        }
    }
}
