//! What the player has to know of a field section of the target.

use tapedeck_http2::hpack::{Decoder, Section};
use tapedeck_model::is_grpc;

use crate::player::outcome::GrpcStatus;

/// What a field section means.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Meaning {
    /// `None`: it has none, as trailers have.
    pub(super) status: Option<u16>,
    /// Bytes of the body, where it says.
    pub(super) length: Option<u64>,
    /// It is the head of an answer of gRPC.
    pub(super) is_grpc: bool,
    /// How the call ended, where it says.
    pub(super) grpc_status: Option<GrpcStatus>,
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
    /// The latest block, where it still means the same, and what that is: targets say the same again and again.
    latest: (Vec<u8>, Meaning),
    /// It inserts something into the table each time.
    inserts: bool,
    /// How often it came again, of which the decoder does not know yet.
    repeats: usize,
}

impl Answers {
    /// The table that the target may use (SETTINGS_HEADER_TABLE_SIZE, as long as nobody says otherwise).
    const TABLE: usize = 4096;
    /// So many entries fill it, whatever they are (RFC 7541 section 4.1: an empty one counts 32).
    const FILL: usize = Self::TABLE / 32 + 1;
    /// Blocks that are remembered: heads are mostly shorter.
    const MAX_REMEMBERED: usize = 1024;

    pub(super) fn new(limit: usize) -> Self {
        Self {
            decoder: Decoder::fresh(Self::TABLE),
            limit,
            latest: (Vec::new(), Meaning::default()),
            inserts: false,
            repeats: 0,
        }
    }

    pub(super) fn read(&mut self, block: &[u8]) -> Result<Meaning, Undecodable> {
        let (latest, meaning) = &self.latest;
        if !block.is_empty() && latest == block {
            self.repeats += usize::from(self.inserts);
            return Ok(*meaning);
        }
        self.catch_up();
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
        let depends = outcome.refers || outcome.resized.is_some();
        if outcome.changed && (depends || block.len() > Self::MAX_REMEMBERED) {
            self.latest.0.clear();
        } else if block.len() <= Self::MAX_REMEMBERED {
            self.latest.0.clear();
            self.latest.0.extend_from_slice(block);
            self.latest.1 = meaning;
            self.inserts = outcome.changed;
        }
        Ok(meaning)
    }

    /// Tells the decoder of the repeats. nginx inserts the same fields with each head: to do so as often as fills the
    /// table is to do so for ever.
    fn catch_up(&mut self) {
        let block = &self.latest.0;
        for _ in 0..std::mem::take(&mut self.repeats).min(Self::FILL) {
            let mut section = Section::new(self.limit, block.len());
            // It was decoded before, and refers to nothing that could have changed.
            self.decoder.decode(block, &mut section);
        }
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
            match name {
                b"content-length" => {
                    let length = number(value);
                    let differs = meaning.length.is_some() && meaning.length != length;
                    meaning.malformed |= differs || length.is_none();
                    meaning.length = length;
                }
                b"content-type" => meaning.is_grpc = is_grpc(value),
                b"grpc-status" => meaning.grpc_status = Some(GrpcStatus::of(value)),
                _ => {}
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
        assert_eq!(trailers.grpc_status, Some(GrpcStatus::OK));
        for (kind, is_grpc) in [("application/grpc", true), ("application/json", false)] {
            let head = read(&[(":status", "200"), ("content-type", kind)]);
            assert_eq!(head.is_grpc, is_grpc, "{kind}");
        }
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
    fn a_block_is_remembered_until_the_table_changes() {
        let mut answers = Answers::new(1 << 16);
        // ":status: 203" with insertion; then the newest entry; then ":status: 204", which becomes it.
        let insert = |status: &[u8]| [b"\x48\x03", status].concat();
        assert_eq!(answers.read(&insert(b"203")).unwrap().status, Some(203));
        for _ in 0..2 {
            assert_eq!(answers.read(b"\xbe").unwrap().status, Some(203));
        }
        assert_eq!(answers.read(&insert(b"299")).unwrap().status, Some(299));
        assert_eq!(answers.read(b"\xbe").unwrap().status, Some(299));
        assert_eq!(answers.read(b"\xff\xff"), Err(Undecodable::Broken));

        // What is inserted twice is there twice: the table has the first entry still, and it is the second.
        let mut answers = Answers::new(1 << 16);
        for status in [b"203", b"299", b"299"] {
            answers.read(&insert(status)).unwrap();
        }
        assert_eq!(answers.read(b"\xc0").unwrap().status, Some(203));
    }

    #[test]
    fn what_is_said_again_and_again_is_in_the_table_as_often() {
        let insert = |status: &[u8]| [b"\x48\x03", status].concat();
        for repeats in [1, 2, 5, 94, 95, 96, 97, 98, 99, 300] {
            let mut lazy = Answers::new(1 << 16);
            let mut diligent = Decoder::fresh(Answers::TABLE);
            let mut decode = |block: &[u8]| {
                let mut section = Section::new(1 << 16, block.len());
                diligent.decode(block, &mut section).error
            };
            lazy.read(&insert(b"299")).unwrap();
            assert!(!decode(&insert(b"299")));
            for _ in 0..repeats {
                assert_eq!(lazy.read(&insert(b"203")).unwrap().status, Some(203));
                assert!(!decode(&insert(b"203")));
            }
            // Every entry that there may be, from the newest on: an entry takes 42 bytes.
            for index in 62..62 + 99_u8 {
                let block = match index.checked_sub(127) {
                    None => vec![0x80 | index],
                    Some(rest) => vec![0xff, rest],
                };
                let broken = decode(&block);
                let status = lazy.read(&block);
                assert_eq!(status.is_err(), broken, "{repeats}, {index}");
                if broken {
                    break;
                }
                let newest = usize::from(index - 62) < repeats;
                let expect = if newest { 203 } else { 299 };
                assert_eq!(status.unwrap().status, Some(expect), "{repeats}, {index}");
            }
        }
    }

    #[test]
    fn what_is_inserted_into_no_table_changes_nothing() {
        let mut answers = Answers::new(1 << 16);
        assert_eq!(answers.read(b"\x20\x48\x03203").unwrap().status, Some(203));
        for _ in 0..2 {
            assert_eq!(answers.read(b"\x48\x03203").unwrap().status, Some(203));
            assert_eq!(answers.latest.0, b"\x48\x03203");
        }
        assert_eq!(answers.read(b"\xbe"), Err(Undecodable::Broken));
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
