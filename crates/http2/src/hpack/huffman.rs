//! The Huffman code of RFC 7541, appendix B.
//!
//! The code is canonical: symbols are numbered by the length of their code, then by value. So the
//! lengths alone define it, and a symbol is found by arithmetic. Codes of up to [`FAST_BITS`] bits,
//! which is all that ordinary fields consist of, take one look into a table of 1 KiB instead.

/// Appends the decoded string to `out`.
///
/// `None`: the string has an end-of-string symbol within, or does not end in up to seven one bits
/// (RFC 7541 section 5.2); what was appended is then meaningless.
pub(crate) fn decode(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    // The shortest code has five bits.
    out.reserve(bytes.len() * 8 / 5);
    // The bits yet to be decoded, at the upper end of `bits`; those below `have` are zero.
    let (mut bits, mut have) = (0_u64, 0_u32);
    let mut rest = bytes;
    loop {
        if have <= 32 {
            if let Some((four, behind)) = rest.split_first_chunk::<4>() {
                bits |= u64::from(u32::from_be_bytes(*four)) << (32 - have);
                have += 32;
                rest = behind;
            } else {
                while let (Some((&byte, behind)), true) = (rest.split_first(), have <= 56) {
                    bits |= u64::from(byte) << (56 - have);
                    have += 8;
                    rest = behind;
                }
            }
        }
        let (symbol, len) = symbol(bits);
        if len > have {
            // Only the padding is left, or nothing.
            let padding = bits.checked_shr(64 - have).unwrap_or(0);
            return (have < 8 && padding == (1 << have) - 1).then_some(());
        }
        out.push(u8::try_from(symbol).ok()?);
        bits <<= len;
        have -= len;
    }
}

/// The symbol at the upper end of `bits`, and the length of its code. Bits that are not there yet
/// may be zero: the length then exceeds their number or the symbol is right.
fn symbol(bits: u64) -> (u16, u32) {
    let (symbol, len) = FAST[(bits >> (64 - FAST_BITS)) as usize];
    if len > 0 {
        return (symbol.into(), len.into());
    }
    let mut len = FAST_BITS + 1;
    loop {
        let code = (bits >> (64 - len)) as u32;
        let row = &ROWS[len as usize];
        // The codes of the longest length end in end-of-string, all ones: the loop ends there.
        if code < row.end {
            return (ORDER[(code - row.first + row.index) as usize], len);
        }
        len += 1;
    }
}

/// The codes of one length: `first..end` are the symbols `ORDER[index..]`.
#[derive(Clone, Copy)]
struct Row {
    first: u32,
    end: u32,
    index: u32,
}

const END_OF_STRING: usize = 256;
const FAST_BITS: u32 = 9;
const LONGEST: usize = 30;

/// The length of the code of each symbol, in bits.
const LENGTHS: [u8; END_OF_STRING + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

/// The symbols in the order of their codes.
static ORDER: [u16; END_OF_STRING + 1] = order();

static ROWS: [Row; LONGEST + 1] = rows();

/// Symbol and length of the code that the index begins with; length zero: a longer code.
static FAST: [(u8, u8); 1 << FAST_BITS] = fast();

const fn order() -> [u16; END_OF_STRING + 1] {
    let mut order = [0; END_OF_STRING + 1];
    let (mut count, mut len) = (0, 1);
    while len <= LONGEST {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == len {
                order[count] = symbol as u16;
                count += 1;
            }
            symbol += 1;
        }
        len += 1;
    }
    order
}

const fn rows() -> [Row; LONGEST + 1] {
    let empty = Row {
        first: 0,
        end: 0,
        index: 0,
    };
    let mut rows = [empty; LONGEST + 1];
    let (mut code, mut index, mut len) = (0, 0, 1);
    while len <= LONGEST {
        code <<= 1;
        let first = code;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == len {
                code += 1;
            }
            symbol += 1;
        }
        rows[len] = Row {
            first,
            end: code,
            index,
        };
        index += code - first;
        len += 1;
    }
    rows
}

const fn fast() -> [(u8, u8); 1 << FAST_BITS] {
    let (order, rows) = (order(), rows());
    let mut fast = [(0, 0); 1 << FAST_BITS];
    let mut len = 1;
    while len <= FAST_BITS {
        let row = rows[len as usize];
        let mut code = row.first;
        while code < row.end {
            let symbol = order[(code - row.first + row.index) as usize] as u8;
            let mut slot = code << (FAST_BITS - len);
            while slot < (code + 1) << (FAST_BITS - len) {
                fast[slot as usize] = (symbol, len as u8);
                slot += 1;
            }
            code += 1;
        }
        len += 1;
    }
    fast
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of a symbol.
    fn code(symbol: usize) -> (u32, u32) {
        let len = LENGTHS[symbol] as usize;
        let place = ORDER.iter().position(|&s| usize::from(s) == symbol);
        let row = ROWS[len];
        (
            u32::try_from(place.unwrap()).unwrap() - row.index + row.first,
            len as u32,
        )
    }

    fn encode(symbols: &[usize]) -> Vec<u8> {
        let mut bits: Vec<bool> = Vec::new();
        for &symbol in symbols {
            let (code, len) = code(symbol);
            bits.extend((0..len).rev().map(|bit| code >> bit & 1 == 1));
        }
        while !bits.len().is_multiple_of(8) {
            bits.push(true);
        }
        let octet = |bits: &[bool]| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
        bits.chunks(8).map(octet).collect()
    }

    fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(bytes, &mut out).map(|()| out)
    }

    #[test]
    fn codes_of_the_appendix() {
        assert_eq!(code(b'0'.into()), (0, 5));
        assert_eq!(code(b'a'.into()), (3, 5));
        assert_eq!(code(b'&'.into()), (0xf8, 8));
        assert_eq!(code(b'{'.into()), (0x7ffe, 15));
        assert_eq!(code(0), (0x1ff8, 13));
        assert_eq!(code(249), (0x0fff_fffe, 28));
        assert_eq!(code(22), (0x3fff_fffe, 30));
        assert_eq!(code(END_OF_STRING), (0x3fff_ffff, 30));
    }

    #[test]
    fn every_pair_of_octets_survives() {
        for first in 0..256 {
            for second in 0..256 {
                let bytes = encode(&[first, second]);
                assert_eq!(
                    decoded(&bytes),
                    Some(vec![first as u8, second as u8]),
                    "{first} {second}"
                );
            }
        }
    }

    #[test]
    fn every_length_survives() {
        let symbols: Vec<usize> = (0..300).map(|i| (i * 37) % 256).collect();
        for len in 0..symbols.len() {
            let expect: Vec<u8> = symbols[..len].iter().map(|s| *s as u8).collect();
            assert_eq!(decoded(&encode(&symbols[..len])), Some(expect));
        }
    }

    #[test]
    fn wrong_endings_are_refused() {
        assert_eq!(decoded(b""), Some(vec![]));
        // 'a' and padding of zeros; a whole octet of padding; a lone octet of ones.
        assert_eq!(decoded(&[0x18]), None);
        assert_eq!(decoded(&[0x1f]), Some(b"a".to_vec()));
        assert_eq!(decoded(&[0x1f, 0xff]), None);
        assert_eq!(decoded(&[0xff]), None);
        // End-of-string within the string, and as all of it.
        assert_eq!(decoded(&encode(&[END_OF_STRING])), None);
        assert_eq!(decoded(&encode(&[97, END_OF_STRING, 97])), None);
        assert_eq!(decoded(&[0xff; 64]), None);
    }

    #[test]
    fn no_input_is_too_odd() {
        for a in 0..=255 {
            for b in 0..=255 {
                decoded(&[a, b]);
                decoded(&[0xff, 0xff, a, b]);
                decoded(&[b, 0xff, 0xff, 0xff, a]);
            }
        }
    }
}
