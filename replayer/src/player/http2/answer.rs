//! What the player has to know of a field section of the target.

use tapedeck_http2::hpack::{Decoder, Section};

/// What a field section means.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Meaning {
    /// `None`: it has none, as trailers have.
    pub(super) status: Option<u16>,
    /// Bytes of the body, where it says.
    pub(super) length: Option<u64>,
    /// What no section may be (RFC 9113 section 8.2).
    pub(super) malformed: bool,
}

/// A block could not be decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Undecodable {
    /// Nothing that follows can be, either.
    Broken,
    /// It has more than it may.
    TooLarge,
}

/// Reads the field sections of a connection, all of them, in their order.
#[derive(Debug)]
pub(super) struct Answers {
    decoder: Decoder,
    limit: usize,
    /// The latest block that did not depend on the table, and what it means: targets say the same again and again.
    latest: (Vec<u8>, Meaning),
}

impl Answers {
    /// The table that the target may use (SETTINGS_HEADER_TABLE_SIZE, as long as nobody says otherwise).
    const TABLE: usize = 4096;
    /// Blocks that are remembered: heads are mostly shorter.
    const MAX_REMEMBERED: usize = 1024;

    pub(super) fn new(limit: usize) -> Self {
        Self {
            decoder: Decoder::fresh(Self::TABLE),
            limit,
            latest: (Vec::new(), Meaning::default()),
        }
    }

    pub(super) fn read(&mut self, block: &[u8]) -> Result<Meaning, Undecodable> {
        let (latest, meaning) = &self.latest;
        if !block.is_empty() && latest == block {
            return Ok(*meaning);
        }
        let mut section = Section::new(self.limit, block.len());
        let outcome = self.decoder.decode(block, &mut section);
        // A table larger than allowed would fall out of step with the target's (RFC 7541 section 4.2).
        let too_large = self
            .decoder
            .table_size()
            .is_some_and(|size| size > Self::TABLE);
        if outcome.error || outcome.unknown || too_large {
            return Err(Undecodable::Broken);
        }
        if section.overflowed {
            return Err(Undecodable::TooLarge);
        }
        let meaning = Meaning::of(&section);
        if !outcome.stateful && block.len() <= Self::MAX_REMEMBERED {
            self.latest.0.clear();
            self.latest.0.extend_from_slice(block);
            self.latest.1 = meaning;
        }
        Ok(meaning)
    }
}

impl Meaning {
    fn of(section: &Section) -> Self {
        let mut meaning = Self::default();
        let mut regular = false;
        for field in &section.fields {
            let name = field.name.of(&section.raw);
            let value = field.value.of(&section.raw);
            if name.first() == Some(&b':') {
                let again = meaning.status.is_some();
                meaning.status = if name == b":status" {
                    status(value)
                } else {
                    None
                };
                meaning.malformed |= regular || again || meaning.status.is_none();
                continue;
            }
            regular = true;
            meaning.malformed |= name.iter().any(u8::is_ascii_uppercase);
            if name == b"content-length" {
                let length = number(value);
                let differs = meaning.length.is_some() && meaning.length != length;
                meaning.malformed |= differs || length.is_none();
                meaning.length = length;
            }
        }
        meaning
    }
}

/// Three digits (RFC 9110 section 15).
fn status(value: &[u8]) -> Option<u16> {
    match value {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => None,
    }
}

/// Digits and nothing else (RFC 9110 section 8.6).
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::player::http2::encode::field;

    fn read(fields: &[(&str, &str)]) -> Meaning {
        let mut block = Vec::new();
        for (name, value) in fields {
            field(&mut block, name.as_bytes(), value.as_bytes());
        }
        let mut answers = Answers::new(1 << 16);
        let first = answers.read(&block).unwrap();
        assert_eq!(answers.read(&block), Ok(first), "the same again");
        first
    }

    #[test]
    fn heads_and_trailers() {
        let head = read(&[(":status", "201"), ("content-length", "12"), ("a", "b")]);
        assert_eq!(
            (head.status, head.length, head.malformed),
            (Some(201), Some(12), false)
        );
        let trailers = read(&[("grpc-status", "0")]);
        assert_eq!((trailers.status, trailers.malformed), (None, false));
        for bad in [
            &[("a", "b"), (":status", "200")][..],
            &[(":status", "2OO")],
            &[(":status", "200"), (":status", "200")],
            &[(":status", "200"), (":path", "/")],
            &[(":status", "200"), ("Upper", "")],
            &[(":status", "200"), ("content-length", "-1")],
            &[
                (":status", "200"),
                ("content-length", "1"),
                ("content-length", "2"),
            ],
        ] {
            assert!(read(bad).malformed, "{bad:?}");
        }
    }

    #[test]
    fn a_block_that_depends_on_the_table_is_decoded_each_time() {
        let mut answers = Answers::new(1 << 16);
        // ":status: 203" with insertion; then the newest entry; then ":status: 204", which becomes it.
        let insert = |status: &[u8]| [b"\x48\x03", status].concat();
        assert_eq!(answers.read(&insert(b"203")).unwrap().status, Some(203));
        assert_eq!(answers.read(b"\xbe").unwrap().status, Some(203));
        assert_eq!(answers.read(&insert(b"299")).unwrap().status, Some(299));
        assert_eq!(answers.read(b"\xbe").unwrap().status, Some(299));
        assert_eq!(answers.read(b"\xff\xff"), Err(Undecodable::Broken));
    }

    #[test]
    fn tables_and_sections_are_bounded() {
        // A table of 4097 bytes, which nobody allowed.
        assert_eq!(
            Answers::new(100).read(b"\x3f\xe2\x1f\x88"),
            Err(Undecodable::Broken)
        );
        let mut block = vec![0x88];
        field(&mut block, b"a", &[b'x'; 200]);
        assert_eq!(Answers::new(100).read(&block), Err(Undecodable::TooLarge));
    }
}
