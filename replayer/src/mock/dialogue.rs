//! Recorded calls of gRPC in which the server answers before its client has said all.
//!
//! Such a client may wait for an answer before it goes on, so that its request cannot be held until it is
//! whole. It is matched by its *opening*: the messages that the first recorded answer came behind. From then
//! on it is as with WebSocket: each answer waits for as many messages as it came behind, whatever they say.

use std::ops::Range;

use super::turns::{Arrivals, Came, Order, Wait};

/// The server's part of a call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Dialogue {
    /// Bytes of the request that the first answer came behind: whole messages.
    opening: usize,
    turns: Vec<Turn>,
    /// The end of the answer came behind the end of the request.
    pub(crate) ends_last: bool,
}

/// A message of the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Turn {
    /// Where in the body it lies.
    pub(crate) message: Range<usize>,
    pub(crate) wait: Wait,
}

/// What was recorded of a call: the bytes of each direction, and when they came since the call began.
#[derive(Debug)]
pub(crate) struct Spoken<'a> {
    pub(crate) to_server: (&'a [u8], Arrivals),
    pub(crate) to_client: (&'a [u8], Arrivals),
}

impl Dialogue {
    /// `None`: these are not whole messages.
    pub(crate) fn of(spoken: &Spoken<'_>) -> Option<Self> {
        let (asked, asked_at) = &spoken.to_server;
        let (answered, answered_at) = &spoken.to_client;
        let questions = messages(asked)?;
        let came: Vec<Came> = questions
            .iter()
            .map(|message| asked_at.came(message.end))
            .collect();
        let mut order = Order::new(&came);
        let turns: Vec<Turn> = messages(answered)?
            .into_iter()
            .map(|message| Turn {
                wait: order.next(answered_at.came(message.end), true),
                message,
            })
            .collect();
        // An answer without messages is one, too.
        let heard = match turns.first() {
            Some(first) => first.wait.likely,
            None => order.next(answered_at.came(0), true).likely,
        };
        let last = heard.checked_sub(1).and_then(|last| questions.get(last));
        Some(Self {
            opening: last.map_or(0, |message| message.end),
            turns,
            ends_last: answered_at.last >= asked_at.last,
        })
    }

    pub(crate) const fn opening(&self) -> usize {
        self.opening
    }

    pub(crate) fn turns(&self) -> &[Turn] {
        &self.turns
    }
}

/// Where the next message ends, that begins at the front: a flag, its length, itself. `None`: more has to come.
pub(crate) fn message_end(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_be_bytes(*bytes.get(1..)?.first_chunk()?);
    let end = usize::try_from(len).ok()?.checked_add(PREFIX)?;
    (end <= bytes.len()).then_some(end)
}

/// The messages of a body. `None`: it does not consist of whole ones.
fn messages(bytes: &[u8]) -> Option<Vec<Range<usize>>> {
    let (mut messages, mut start) = (Vec::new(), 0);
    while start < bytes.len() {
        let end = start + message_end(bytes.get(start..)?)?;
        messages.push(start..end);
        start = end;
    }
    Some(messages)
}

/// A flag that says whether it is compressed, and four bytes of length.
const PREFIX: usize = 5;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn message(text: &str) -> Vec<u8> {
        let mut message = vec![0, 0, 0, 0, text.len() as u8];
        message.extend_from_slice(text.as_bytes());
        message
    }

    fn body(texts: &[&str]) -> Vec<u8> {
        texts.iter().flat_map(|text| message(text)).collect()
    }

    fn arrivals(marks: &[(usize, u64)], last: u64) -> Arrivals {
        Arrivals {
            marks: marks.iter().map(|(at, ms)| (*at, MS(*ms))).collect(),
            last: MS(last),
        }
    }

    #[test]
    fn answers_wait_for_what_they_came_behind() {
        let (asked, answered) = (body(&["one", "two"]), body(&["ONE", "TWO", "end"]));
        let dialogue = Dialogue::of(&Spoken {
            to_server: (&asked, arrivals(&[(0, 0), (8, 50)], 90)),
            to_client: (&answered, arrivals(&[(0, 20), (8, 60), (16, 95)], 95)),
        });
        let dialogue = dialogue.unwrap();
        assert_eq!((dialogue.opening(), dialogue.ends_last), (8, true));
        let waits: Vec<_> = dialogue.turns().iter().map(|turn| turn.wait).collect();
        let wait = |after, likely, pause| Wait {
            after,
            likely,
            pause: MS(pause),
        };
        assert_eq!(waits, [wait(0, 1, 20), wait(1, 2, 10), wait(2, 2, 35)]);
    }

    #[test]
    fn without_pauses_every_message_has_its_answer() {
        let (asked, answered) = (body(&["a", "b", "c"]), body(&["A", "B", "C"]));
        let dialogue = Dialogue::of(&Spoken {
            to_server: (&asked, arrivals(&[(0, 0)], 3)),
            to_client: (&answered, arrivals(&[(0, 1)], 3)),
        });
        let likely: Vec<_> = dialogue
            .unwrap()
            .turns
            .iter()
            .map(|turn| turn.wait.likely)
            .collect();
        assert_eq!(likely, [1, 2, 3]);
        // Refused at once, while the client was still speaking.
        let dialogue = Dialogue::of(&Spoken {
            to_server: (&asked, arrivals(&[(0, 0)], 9)),
            to_client: (b"", arrivals(&[(0, 1)], 1)),
        });
        let dialogue = dialogue.unwrap();
        assert_eq!((dialogue.opening(), dialogue.ends_last), (6, false));
    }

    #[test]
    fn what_is_torn_is_no_dialogue() {
        for torn in [&b"\0\0\0\0"[..], b"\0\0\0\0\x01", b"\0\xff\xff\xff\xffa"] {
            let whole = message("a");
            for (asked, answered) in [(torn, &whole[..]), (&whole[..], torn)] {
                assert!(
                    Dialogue::of(&Spoken {
                        to_server: (asked, Arrivals::default()),
                        to_client: (answered, Arrivals::default()),
                    })
                    .is_none()
                );
            }
        }
    }
}
