//! Transcripts: what the two directions of a connection say, as readable text.
//!
//! ```text
//! Text before the first marker is a comment.
//! >>>
//! GET /a HTTP/1.1
//! Host: example.test
//!
//! <<<
//! HTTP/1.1 200 OK
//! Content-Length: 12
//!
//! hello,\
//! <<< gap 4
//! <<<
//! ld\
//! <<< fin
//! >>> fin
//! ```
//!
//! - `>>>` is said to the server, `<<<` to the client. Each marker begins a new input, one
//!   millisecond after the previous one.
//! - A line of text stands for itself and CR LF. A `\` at its end leaves the CR LF out. Escapes:
//!   `\n`, `\r`, `\t`, `\0`, `\\`, `\xNN`, and `\>`, `\<`, `\@` for a line that would be a marker.
//! - `>>> hex`: the lines that follow are bytes in hexadecimal; white space does not matter, and
//!   `#` begins a comment.
//! - `>>> gap 10`, with `lost` (the default), `snaplen` or `limit` behind it; `>>> fin`,
//!   `>>> reset`, `>>> cut`.
//! - `@ 250` on a line of its own: the next input comes 250 ms after the beginning.

use std::time::Duration;

use tapedeck_model::{Direction, Gap, GapCause, Input, Timestamp};

/// What a transcript's time counts from.
pub const START: Timestamp = Timestamp::from_nanos(1_700_000_000_000_000_000);

/// The inputs of a connection, in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Transcript {
    /// One for each marker.
    pub steps: Vec<Step>,
}

/// One input.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// When.
    pub at: Timestamp,
    /// Which way.
    pub direction: Direction,
    /// What.
    pub item: Item,
}

/// An [`Input`] that owns its bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Item {
    /// Bytes.
    Data(Vec<u8>),
    /// Missing bytes.
    Gap(Gap),
    /// Closed in order.
    Fin,
    /// Reset.
    Reset,
    /// The capture ends.
    Cut,
}

impl Item {
    /// The input as a reader takes it.
    #[must_use]
    pub fn as_input(&self) -> Input<'_> {
        match self {
            Self::Data(bytes) => Input::Data(bytes),
            Self::Gap(gap) => Input::Gap(*gap),
            Self::Fin => Input::Fin,
            Self::Reset => Input::Reset,
            Self::Cut => Input::Cut,
        }
    }
}

impl Transcript {
    /// Reads a transcript.
    ///
    /// # Panics
    /// On a transcript that breaks the rules, with its line.
    #[must_use]
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut transcript = Self::default();
        let mut at = START;
        let mut hex = false;
        for (number, line) in text.lines().enumerate() {
            let place = || format!("transcript line {}: {line:?}", number + 1);
            if let Some(millis) = line.strip_prefix("@ ") {
                let millis = millis
                    .trim()
                    .parse()
                    .unwrap_or_else(|_| panic!("{}", place()));
                at = START.saturating_add(Duration::from_millis(millis));
            } else if let Some((direction, rest)) = marker(line) {
                let item = item(rest).unwrap_or_else(|| panic!("{}", place()));
                hex = rest == "hex";
                transcript.steps.push(Step {
                    at,
                    direction,
                    item,
                });
                at = at.saturating_add(Duration::from_millis(1));
            } else if let Some(step) = transcript.steps.last_mut() {
                match &mut step.item {
                    Item::Data(bytes) if hex => {
                        append_hex(bytes, line).unwrap_or_else(|| panic!("{}", place()));
                    }
                    Item::Data(bytes) => {
                        append_text(bytes, line).unwrap_or_else(|| panic!("{}", place()));
                    }
                    Item::Gap(_) | Item::Fin | Item::Reset | Item::Cut => {
                        assert!(line.is_empty(), "{}", place());
                    }
                }
            }
        }
        transcript
            .steps
            .retain(|step| step.item != Item::Data(Vec::new()));
        transcript
    }

    /// The same transcript with data in inputs of at most `len` bytes.
    #[must_use]
    pub fn split_every(&self, len: usize) -> Self {
        let mut steps = Vec::new();
        for step in &self.steps {
            match &step.item {
                Item::Data(bytes) => steps.extend(bytes.chunks(len.max(1)).map(|chunk| Step {
                    item: Item::Data(chunk.to_vec()),
                    ..step.clone()
                })),
                Item::Gap(_) | Item::Fin | Item::Reset | Item::Cut => steps.push(step.clone()),
            }
        }
        Self { steps }
    }

    /// The same transcript with the data of each input cut in two, `at` bytes in (where it is
    /// that long).
    #[must_use]
    pub fn split_at(&self, at: usize) -> Self {
        let mut steps = Vec::new();
        for step in &self.steps {
            match &step.item {
                Item::Data(bytes) if at > 0 && at < bytes.len() => {
                    let (left, right) = bytes.split_at(at);
                    for half in [left, right] {
                        steps.push(Step {
                            item: Item::Data(half.to_vec()),
                            ..step.clone()
                        });
                    }
                }
                _ => steps.push(step.clone()),
            }
        }
        Self { steps }
    }

    /// Hands every input, in order, to `push`.
    pub fn play(&self, mut push: impl FnMut(Timestamp, Direction, Input<'_>)) {
        for step in &self.steps {
            push(step.at, step.direction, step.item.as_input());
        }
    }

    /// All data of one direction, gaps left out.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> Vec<u8> {
        let mut out = Vec::new();
        for step in &self.steps {
            if let (true, Item::Data(bytes)) = (step.direction == direction, &step.item) {
                out.extend(bytes);
            }
        }
        out
    }
}

fn marker(line: &str) -> Option<(Direction, &str)> {
    let (direction, rest) = if let Some(rest) = line.strip_prefix(">>>") {
        (Direction::ToServer, rest)
    } else {
        (Direction::ToClient, line.strip_prefix("<<<")?)
    };
    (rest.is_empty() || rest.starts_with(' ')).then_some((direction, rest.trim()))
}

fn item(text: &str) -> Option<Item> {
    let mut words = text.split_whitespace();
    let item = match words.next() {
        None | Some("hex") => Item::Data(Vec::new()),
        Some("fin") => Item::Fin,
        Some("reset") => Item::Reset,
        Some("cut") => Item::Cut,
        Some("gap") => {
            let len = words.next()?.parse().ok()?;
            let cause = match words.next() {
                None | Some("lost") => GapCause::Lost,
                Some("snaplen") => GapCause::Snaplen,
                Some("limit") => GapCause::Limit,
                Some(_) => return None,
            };
            Item::Gap(Gap { len, cause })
        }
        Some(_) => return None,
    };
    words.next().is_none().then_some(item)
}

fn append_text(out: &mut Vec<u8>, line: &str) -> Option<()> {
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match chars.next() {
            // The backslash was the last character: no line end.
            None => return Some(()),
            Some('n') => out.push(b'\n'),
            Some('r') => out.push(b'\r'),
            Some('t') => out.push(b'\t'),
            Some('0') => out.push(0),
            Some('x') => {
                let digits: String = chars.by_ref().take(2).collect();
                out.push(u8::from_str_radix(&digits, 16).ok()?);
            }
            Some(c @ ('\\' | '>' | '<' | '@')) => out.push(c as u8),
            Some(_) => return None,
        }
    }
    out.extend(b"\r\n");
    Some(())
}

fn append_hex(out: &mut Vec<u8>, line: &str) -> Option<()> {
    let code = line.split('#').next().unwrap_or_default();
    let digits: Vec<char> = code.chars().filter(|c| !c.is_whitespace()).collect();
    for pair in digits.chunks(2) {
        let pair: String = pair.iter().collect();
        if pair.len() != 2 {
            return None;
        }
        out.push(u8::from_str_radix(&pair, 16).ok()?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_reads_as_written() {
        let transcript = Transcript::parse(
            "A comment.\n>>>\nGET / HTTP/1.1\n\n<<<\nab\\\n<<< gap 4 limit\n<<< hex\n00 ff # x\n@ 250\n<<< fin\n>>>\n\\>>> \\x41\\\\\\n\\\n>>> reset\n",
        );
        let expected = [
            (
                0,
                Direction::ToServer,
                Item::Data(b"GET / HTTP/1.1\r\n\r\n".to_vec()),
            ),
            (1, Direction::ToClient, Item::Data(b"ab".to_vec())),
            (
                2,
                Direction::ToClient,
                Item::Gap(Gap {
                    len: 4,
                    cause: GapCause::Limit,
                }),
            ),
            (3, Direction::ToClient, Item::Data(vec![0, 0xff])),
            (250, Direction::ToClient, Item::Fin),
            (251, Direction::ToServer, Item::Data(b">>> A\\\n".to_vec())),
            (252, Direction::ToServer, Item::Reset),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(millis, direction, item)| Step {
                at: START.saturating_add(Duration::from_millis(millis)),
                direction,
                item,
            })
            .collect();
        assert_eq!(transcript.steps, expected);
        let split = transcript.split_every(1);
        for direction in Direction::BOTH {
            assert_eq!(split.bytes(direction), transcript.bytes(direction));
        }
        assert_eq!(
            transcript.split_at(1).steps.len(),
            transcript.steps.len() + 4
        );
    }

    #[test]
    #[should_panic(expected = "transcript line 2")]
    fn an_unknown_marker_is_named() {
        drop(Transcript::parse("\n>>> nonsense\n"));
    }
}
