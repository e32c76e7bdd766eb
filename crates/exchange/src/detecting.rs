//! What came on a connection before it is known what it speaks.

use tapedeck_http1 as http1;
use tapedeck_http2 as http2;
use tapedeck_model::{Direction, Gap, Input, PerDirection, Role, Timestamp};
use tapedeck_tls as tls;

/// What came before the protocol is known.
#[derive(Debug, Default)]
pub(crate) struct Detecting {
    /// The bytes of each direction. Invariant: exactly those of `inputs`, in order.
    bytes: PerDirection<Vec<u8>>,
    inputs: Vec<(Direction, Timestamp, Held)>,
    /// The beginning was not seen, so that the first bytes say nothing.
    pub(crate) midstream: bool,
    /// Bytes that came before those, and said nothing.
    pub(crate) passed_over: PerDirection<u64>,
    /// When the last of those came.
    pub(crate) last_byte: Timestamp,
    /// Among those was what looks like the header of a TLS record.
    pub(crate) like_tls: bool,
}

/// An input that waits in [`Detecting`].
#[derive(Clone, Copy, Debug)]
enum Held {
    /// That many bytes of its direction.
    Data(usize),
    /// Bytes of its direction that were passed over since what stands before it.
    PassedOver,
    Other(Input<'static>),
}

/// What is given to a reader of what came before it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Before<'a> {
    Input(Input<'a>),
    /// Bytes that said nothing: perhaps the rest of a message.
    PassedOver,
}

/// What the bytes of a direction look like.
pub(crate) enum Verdict {
    Http1(Role),
    /// `None`: it cannot be told which side says it.
    Http2(Option<Role>),
    /// A hello of TLS.
    Tls(Role),
    /// Records of TLS, whose hello was not seen.
    TlsMidstream,
    Neither,
    NeedMore,
}

impl Detecting {
    pub(crate) fn new(midstream: bool) -> Self {
        Self {
            midstream,
            ..Self::default()
        }
    }

    /// What the bytes of a direction look like together with `data`.
    pub(crate) fn judge_with(&mut self, direction: Direction, data: &[u8]) -> Verdict {
        let bytes = &mut self.bytes[direction];
        let verdict = if bytes.is_empty() {
            judge(data)
        } else {
            let held = bytes.len();
            bytes.extend_from_slice(data);
            let verdict = judge(bytes);
            bytes.truncate(held);
            verdict
        };
        // A SETTINGS frame is the first of a server, but also the second thing of a client, behind a
        // preface that may have been lost: then who has the higher port remains the client.
        if self.midstream
            && direction == Direction::ToServer
            && matches!(verdict, Verdict::Http2(Some(Role::Response)))
            && self.bytes[direction].iter().chain(data).nth(3) == Some(&SETTINGS)
        {
            return Verdict::Http2(None);
        }
        if !matches!(verdict, Verdict::Neither | Verdict::NeedMore) || !self.midstream {
            return verdict;
        }
        // `data` alone: bytes that were held before it belong to another guess.
        match tls::likeness(data) {
            tls::Likeness::None => verdict,
            tls::Likeness::Header => {
                self.like_tls = true;
                verdict
            }
            tls::Likeness::Records => Verdict::TlsMidstream,
        }
    }

    /// How many bytes of a direction are held.
    pub(crate) fn len(&self, direction: Direction) -> usize {
        self.bytes[direction].len()
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.to_server.capacity()
            + self.bytes.to_client.capacity()
            + self.inputs.capacity() * size_of::<(Direction, Timestamp, Held)>()
    }

    pub(crate) fn hold(&mut self, direction: Direction, at: Timestamp, data: &[u8]) {
        self.bytes[direction].extend_from_slice(data);
        self.inputs.push((direction, at, Held::Data(data.len())));
    }

    /// Keeps an end for the reader.
    pub(crate) fn hold_end(&mut self, direction: Direction, at: Timestamp, end: Input<'static>) {
        self.inputs.push((direction, at, Held::Other(end)));
    }

    /// Keeps a gap for the reader, to which it may mean a lost message. One in a direction says
    /// as much as many, in the place of the last: what the other side said before it answers nothing
    /// that was lost in it.
    pub(crate) fn hold_gap(&mut self, direction: Direction, at: Timestamp, gap: Gap) {
        self.midstream = true;
        self.forget();
        let mut gap = gap;
        self.inputs.retain(|(of, _, held)| match held {
            Held::Other(Input::Gap(held)) if *of == direction => {
                gap.len = gap.len.saturating_add(held.len);
                false
            }
            Held::Other(_) | Held::Data(_) | Held::PassedOver => true,
        });
        self.hold_end(direction, at, Input::Gap(gap));
    }

    /// Passes over the bytes that are held.
    pub(crate) fn forget(&mut self) {
        for direction in Direction::BOTH {
            let bytes = std::mem::take(&mut self.bytes[direction]);
            self.passed_over[direction] += bytes.len() as u64;
        }
        for (direction, at, held) in std::mem::take(&mut self.inputs) {
            match held {
                Held::Data(_) | Held::PassedOver => self.note_passed_over(direction, at),
                Held::Other(_) => self.inputs.push((direction, at, held)),
            }
        }
    }

    /// One note in a direction says as much as many, in the place of the last.
    fn note_passed_over(&mut self, direction: Direction, at: Timestamp) {
        self.last_byte = self.last_byte.max(at);
        self.inputs
            .retain(|(of, _, held)| *of != direction || !matches!(held, Held::PassedOver));
        self.inputs.push((direction, at, Held::PassedOver));
    }

    /// Passes over bytes.
    pub(crate) fn pass_over(&mut self, direction: Direction, at: Timestamp, data: &[u8]) {
        self.passed_over[direction] += data.len() as u64;
        self.note_passed_over(direction, at);
    }

    /// How many bytes were passed over.
    pub(crate) const fn passed_over(&self) -> u64 {
        self.passed_over.to_server + self.passed_over.to_client
    }

    /// Gives what is held to a reader, in order.
    pub(crate) fn replay(&self, mut reader: impl FnMut(Direction, Timestamp, Before<'_>)) {
        let mut rest: PerDirection<&[u8]> = PerDirection {
            to_server: &self.bytes.to_server,
            to_client: &self.bytes.to_client,
        };
        for (direction, at, held) in &self.inputs {
            let before = match held {
                Held::Data(len) => {
                    let (now, later) = rest[*direction].split_at_checked(*len).unwrap_or_default();
                    rest[*direction] = later;
                    Before::Input(Input::Data(now))
                }
                Held::Other(input) => Before::Input(*input),
                Held::PassedOver => Before::PassedOver,
            };
            reader(*direction, *at, before);
        }
    }
}

/// The type of a SETTINGS frame, its fourth byte (RFC 9113 sections 4.1 and 6.5).
const SETTINGS: u8 = 4;

/// What the first bytes of a direction look like.
fn judge(bytes: &[u8]) -> Verdict {
    // Nothing is both, and this is the faster look: what begins with a letter would be a frame of
    // megabytes, and HTTP/1 knows the preface of HTTP/2.
    let http1 = http1::probe(bytes);
    if let http1::Probe::Yes(role) = http1 {
        return Verdict::Http1(role);
    }
    let http2 = http2::probe(bytes);
    if let http2::Probe::Yes(role) = http2 {
        return Verdict::Http2(role);
    }
    match http1 {
        http1::Probe::Yes(role) => Verdict::Http1(role),
        http1::Probe::NeedMore => Verdict::NeedMore,
        http1::Probe::No => match (tls::probe(bytes), http2) {
            (tls::Probe::Yes(role), _) => Verdict::Tls(role),
            (tls::Probe::NeedMore, _) | (_, http2::Probe::NeedMore) => Verdict::NeedMore,
            (tls::Probe::No, _) => Verdict::Neither,
        },
    }
}
