//! Random but lawful conversations.

use tapedeck_model::Direction;

use crate::log::Step;
use crate::wire::*;

/// A small generator of numbers (xorshift*): the same everywhere, from a seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// One side of the conversation.
struct Peer {
    direction: Direction,
    encoder: Encoder,
}

/// What is left to be said on a stream, in order: the frames of one side, unnumbered in time.
struct Talk {
    stream: u32,
    steps: Vec<Move>,
}

#[derive(Clone, Copy)]
enum Move {
    Request { body: bool },
    RequestBody { last: bool },
    RequestTrailers,
    Interim,
    Response { body: bool },
    ResponseBody { last: bool },
    ResponseTrailers,
    Promise { promised: u32 },
    Reset(Direction),
}

/// A conversation of several interleaved streams, a frame a step (a field block with its
/// CONTINUATIONs is one step).
pub(crate) fn conversation(seed: u64, streams: u32) -> Vec<Step> {
    let mut dice = Dice::new(seed);
    let mut client = Peer::new(Direction::ToServer);
    let mut server = Peer::new(Direction::ToClient);
    let mut out = vec![
        Step::Bytes(Direction::ToServer, PREFACE.to_vec()),
        Step::Bytes(Direction::ToServer, settings(&[(3, 100), (4, 65_535)])),
        Step::Bytes(Direction::ToClient, settings(&[(1, 4096)])),
        Step::Bytes(Direction::ToClient, frame(SETTINGS, ACK, 0, &[])),
        Step::Bytes(Direction::ToServer, frame(SETTINGS, ACK, 0, &[])),
    ];
    let (mut next, mut promised) = (1, 2);
    let mut open: Vec<Talk> = Vec::new();
    while next < streams * 2 || !open.is_empty() {
        if next < streams * 2 && (open.is_empty() || dice.chance(40)) {
            open.extend(talks(next, &mut promised, &mut dice));
            next += 2;
            let this = |open: &[Talk]| open.iter().position(|talk| talk.stream == next - 2);
            // Streams are opened in the order of their ids.
            if let Some(new) = this(&open) {
                speak(
                    &mut open,
                    new,
                    &mut client,
                    &mut server,
                    &mut dice,
                    &mut out,
                );
            }
            if let Some(new) = this(&open)
                && matches!(open[new].steps[0], Move::Promise { .. })
            {
                speak(
                    &mut open,
                    new,
                    &mut client,
                    &mut server,
                    &mut dice,
                    &mut out,
                );
            }
        } else {
            let one = dice.below(open.len());
            speak(
                &mut open,
                one,
                &mut client,
                &mut server,
                &mut dice,
                &mut out,
            );
        }
        if dice.chance(20) {
            let peer = if dice.chance(50) { &client } else { &server };
            out.push(Step::Bytes(peer.direction, chatter(next - 2, &mut dice)));
        }
    }
    out
}

/// What will be said on a stream, and on the one that is promised on it.
fn talks(stream: u32, promised: &mut u32, dice: &mut Dice) -> Vec<Talk> {
    let body = dice.chance(50);
    let mut steps = vec![Move::Request { body }];
    let mut say = |body: bool, part: fn(bool) -> Move, trailers: Move, dice: &mut Dice| {
        let parts = if body { 1 + dice.below(4) } else { 0 };
        let trailed = body && dice.chance(40);
        for part_idx in 1..=parts {
            steps.push(part(part_idx == parts && !trailed));
        }
        if trailed {
            steps.push(trailers);
        }
    };
    say(
        body,
        |last| Move::RequestBody { last },
        Move::RequestTrailers,
        dice,
    );
    let body = dice.chance(70);
    if dice.chance(10) {
        steps.push(Move::Interim);
    }
    steps.push(Move::Response { body });
    let mut push = None;
    if dice.chance(10) {
        // Promises are made in the order of their ids: at once.
        steps.insert(
            1,
            Move::Promise {
                promised: *promised,
            },
        );
        push = Some(*promised);
        *promised += 2;
    }
    let mut say = |body: bool, part: fn(bool) -> Move, trailers: Move, dice: &mut Dice| {
        let parts = if body { 1 + dice.below(5) } else { 0 };
        let trailed = body && dice.chance(40);
        for part_idx in 1..=parts {
            steps.push(part(part_idx == parts && !trailed));
        }
        if trailed {
            steps.push(trailers);
        }
    };
    say(
        body,
        |last| Move::ResponseBody { last },
        Move::ResponseTrailers,
        dice,
    );
    if dice.chance(10) && push.is_none() {
        steps.truncate(1 + dice.below(steps.len()));
        let side = if dice.chance(50) {
            Direction::ToServer
        } else {
            Direction::ToClient
        };
        steps.push(Move::Reset(side));
    }
    let mut talks = vec![Talk { stream, steps }];
    if let Some(promised) = push {
        let steps = vec![
            Move::Response { body: true },
            Move::ResponseBody { last: true },
        ];
        talks.push(Talk {
            stream: promised,
            steps,
        });
    }
    talks
}

/// Says the next thing on one of the open streams.
fn speak(
    open: &mut Vec<Talk>,
    one: usize,
    client: &mut Peer,
    server: &mut Peer,
    dice: &mut Dice,
    out: &mut Vec<Step>,
) {
    let talk = &mut open[one];
    let stream = talk.stream;
    let step = talk.steps.remove(0);
    if talk.steps.is_empty() {
        open.remove(one);
    }
    let end = |last| if last { END_STREAM } else { 0 };
    let (direction, bytes) = match step {
        Move::Request { body } => client.fields(stream, end(!body), REQUEST, dice),
        Move::RequestBody { last } => client.data(stream, end(last), dice),
        Move::RequestTrailers => client.fields(stream, END_STREAM, TRAILERS, dice),
        Move::Interim => server.fields(stream, 0, INTERIM, dice),
        Move::Response { body } => server.fields(stream, end(!body), RESPONSE, dice),
        Move::ResponseBody { last } => server.data(stream, end(last), dice),
        Move::ResponseTrailers => server.fields(stream, END_STREAM, TRAILERS, dice),
        Move::Promise { promised } => server.promise(stream, promised, dice),
        Move::Reset(direction) => (direction, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])),
    };
    out.push(Step::Bytes(direction, bytes));
}

/// A frame that says nothing of a message.
fn chatter(stream: u32, dice: &mut Dice) -> Vec<u8> {
    match dice.below(5) {
        0 => frame(PING, 0, 0, b"12345678"),
        1 => frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
        2 => frame(WINDOW_UPDATE, 0, stream, &[0, 0, 1, 0]),
        3 => frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 9]),
        _ => frame(0x10, 0, 0, b"\0\0\0\x01u=3"),
    }
}

impl Peer {
    fn new(direction: Direction) -> Self {
        Self {
            direction,
            encoder: Encoder::new(),
        }
    }

    /// A field section in HEADERS and CONTINUATIONs.
    fn fields(
        &mut self,
        stream: u32,
        end: u8,
        pseudo: &[(&str, &[&str])],
        dice: &mut Dice,
    ) -> (Direction, Vec<u8>) {
        let block = self.block(pseudo, dice);
        (self.direction, headers(stream, end, &block, dice))
    }

    fn promise(&mut self, stream: u32, promised: u32, dice: &mut Dice) -> (Direction, Vec<u8>) {
        let payload = [&promised.to_be_bytes()[..], &self.block(REQUEST, dice)].concat();
        let bytes = frame(PUSH_PROMISE, END_HEADERS, stream, &payload);
        (self.direction, bytes)
    }

    fn data(&self, stream: u32, end: u8, dice: &mut Dice) -> (Direction, Vec<u8>) {
        let len = dice.below(40);
        let mut bytes: Vec<u8> = (0..len).map(|_| b'a' + dice.below(26) as u8).collect();
        let mut flags = end;
        if dice.chance(25) {
            let padding = dice.below(9);
            bytes.insert(0, padding as u8);
            bytes.resize(bytes.len() + padding, 0);
            flags |= PADDED;
        }
        (self.direction, frame(DATA, flags, stream, &bytes))
    }

    fn block(&mut self, pseudo: &[(&str, &[&str])], dice: &mut Dice) -> Vec<u8> {
        let mut block = Vec::new();
        if dice.chance(5) {
            let size = [0, 100, 300, 4096][dice.below(4)];
            self.encoder.resize(size, &mut block);
        }
        let regular = (0..dice.below(5)).map(|_| REGULAR[dice.below(REGULAR.len())]);
        let regular: Vec<_> = regular.collect();
        for (name, values) in pseudo.iter().chain(&regular) {
            let value = match values.len() {
                0 => format!("{name}-{}", dice.below(12)),
                len => values[dice.below(len)].to_string(),
            };
            let how = match dice.below(10) {
                0 => How::Literal,
                1 => How::Never,
                _ => How::Index,
            };
            self.encoder.field(name, &value, how, &mut block);
        }
        block
    }
}

fn headers(stream: u32, end: u8, block: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut parts = Vec::new();
    let mut rest = block;
    while dice.chance(25) && !rest.is_empty() {
        let (part, behind) = rest.split_at(dice.below(rest.len()));
        parts.push(part);
        rest = behind;
    }
    parts.push(rest);
    let last = parts.len() - 1;
    let mut out = Vec::new();
    for (place, part) in parts.iter().enumerate() {
        let done = if place == last { END_HEADERS } else { 0 };
        if place > 0 {
            out.extend(frame(CONTINUATION, done, stream, part));
            continue;
        }
        let mut flags = end | done;
        let mut payload = part.to_vec();
        if dice.chance(20) {
            payload.splice(..0, [0, 0, 0, 0, 7]);
            flags |= PRIO;
        }
        if dice.chance(20) {
            let padding = dice.below(5);
            payload.insert(0, padding as u8);
            payload.resize(payload.len() + padding, 0);
            flags |= PADDED;
        }
        out.extend(frame(HEADERS, flags, stream, &payload));
    }
    out
}

/// Names with the values that there are; none: one of a dozen that are made.
type Choice = (&'static str, &'static [&'static str]);

const REQUEST: &[Choice] = &[
    (":method", &["GET", "POST", "PUT"]),
    (":scheme", &["http"]),
    (":path", &["/", "/a", "/b?c=d", "/e/f/g", "/h"]),
    (":authority", &["shop", "bank"]),
];
const RESPONSE: &[Choice] = &[(":status", &["200", "404", "500", "201"])];
const INTERIM: &[Choice] = &[(":status", &["100", "103"])];
const TRAILERS: &[Choice] = &[("grpc-status", &["0", "5"])];
const REGULAR: &[Choice] = &[
    ("accept", &["*/*", "text/html"]),
    ("x-request-id", &[]),
    ("cookie", &[]),
    ("user-agent", &["test"]),
    (
        "x-long",
        &["a long value that fills the table soon enough to be evicted some day"],
    ),
];
