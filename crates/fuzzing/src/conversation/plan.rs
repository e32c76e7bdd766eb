//! What is said.

use tapedeck_model::{Direction, PerDirection};
use tapedeck_testkit::Conversation;

use crate::program::Program;

/// A conversation on one connection.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) talk: Conversation,
    /// Its exchanges, in the order in which they end.
    pub(super) calls: Vec<Call>,
    /// How many bytes were said.
    pub(super) said: PerDirection<usize>,
    /// Where the stream of each direction begins.
    pub(super) first: PerDirection<u32>,
    pub(super) has_handshake: bool,
    pub(super) close: Close,
}

/// An exchange.
#[derive(Clone, Debug, Default)]
pub(super) struct Call {
    /// Its target, and the value of the field `x-id` of its response.
    pub(super) id: String,
    pub(super) method: &'static str,
    pub(super) request: Said,
    pub(super) interim: bool,
    pub(super) status: u16,
    pub(super) response: Said,
}

/// A message.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    pub(super) body: Vec<u8>,
    pub(super) has_trailers: bool,
    /// Its last byte is before this offset of its direction.
    pub(super) end: usize,
}

/// How a conversation ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Close {
    /// In order.
    Fin,
    /// The client resets.
    Reset,
    /// The capture ends before.
    Open,
}

/// How a body is delimited.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
}

impl Plan {
    /// The conversation that the program says. `tricky`: bodies look like messages.
    pub(super) fn new(number: usize, program: &mut Program<'_>, tricky: bool) -> Self {
        let control = program.byte();
        let client = format!("10.0.0.1:{}", 40_000 + number);
        let mut talk = Conversation::new(&client, "10.0.0.2:80");
        if control & 1 != 0 {
            // The numbers wrap on the way.
            talk = talk.with_isn(u32::MAX - u32::from(program.byte()), u32::MAX - 40);
        }
        if control & 2 != 0 {
            talk = talk.acknowledging();
        }
        if control & 4 == 0 {
            talk.handshake();
        }
        let first = PerDirection {
            to_server: talk.next_seq(Direction::ToServer).0,
            to_client: talk.next_seq(Direction::ToClient).0,
        };
        let mut plan = Self {
            talk,
            calls: Vec::new(),
            said: PerDirection::default(),
            first,
            has_handshake: control & 4 == 0,
            close: match control >> 3 & 3 {
                0 => Close::Open,
                1 => Close::Reset,
                _ => Close::Fin,
            },
        };
        let calls = 1 + program.below(6);
        if control & 0x20 == 0 {
            plan.http1(number, calls, program, tricky);
        } else {
            plan.http2(number, calls, program, tricky);
        }
        match plan.close {
            Close::Fin => plan.talk.close(),
            Close::Reset => plan.talk.reset(Direction::ToServer),
            Close::Open => {}
        }
        plan
    }

    /// Says bytes, in segments as long as the program wants them.
    fn say(&mut self, direction: Direction, bytes: &[u8], program: &mut Program<'_>) {
        const MOST_SEGMENTS: usize = 40;
        let mss = match program.byte() {
            0 => 1460,
            len => usize::from(len),
        };
        self.talk.mss = mss.max(bytes.len().div_ceil(MOST_SEGMENTS));
        self.talk.send(direction, bytes);
        self.said[direction] += bytes.len();
    }

    fn http1(&mut self, number: usize, calls: usize, program: &mut Program<'_>, tricky: bool) {
        let pipelined = 1 + program.below(4);
        let mut left = calls;
        let mut index = 0;
        while left > 0 {
            let together = pipelined.min(left);
            let mut batch = Vec::new();
            for place in 0..together {
                let is_last = left == place + 1;
                batch.push(self.http1_request(
                    format!("/{number}/{index}"),
                    is_last && self.close == Close::Fin,
                    program,
                    tricky,
                ));
                index += 1;
            }
            for (mut call, framing) in batch {
                self.http1_response(&mut call, framing, program);
                self.calls.push(call);
            }
            left -= together;
        }
    }

    fn http1_request(
        &mut self,
        id: String,
        may_close: bool,
        program: &mut Program<'_>,
        tricky: bool,
    ) -> (Call, Framing) {
        let shape = program.byte();
        let method = ["GET", "POST", "HEAD", "PUT"][usize::from(shape & 3)];
        let chunked = shape & 4 != 0;
        let mut call = Call {
            id,
            method,
            interim: shape & 0x40 != 0,
            ..Call::default()
        };
        if method == "POST" || method == "PUT" {
            call.request.body = body(program, tricky);
            call.request.has_trailers = chunked && shape & 8 != 0;
        }
        let mut head = format!("{method} {} HTTP/1.1\r\nHost: shop\r\n", call.id).into_bytes();
        let framing = if chunked {
            Framing::Chunked
        } else {
            Framing::Length
        };
        let has_body = matches!(method, "POST" | "PUT");
        frame(&mut head, &call.request, framing, has_body, program);
        self.say(Direction::ToServer, &head, program);
        call.request.end = self.said.to_server;

        (call.status, call.response.body) = match program.byte() % 4 {
            0 => (204, Vec::new()),
            1 => (304, Vec::new()),
            _ => (200, body(program, tricky)),
        };
        let framing = match shape >> 4 & 3 {
            0 if may_close && method != "HEAD" && call.status == 200 => Framing::UntilClose,
            1 => Framing::Chunked,
            _ => Framing::Length,
        };
        call.response.has_trailers =
            framing == Framing::Chunked && shape & 8 != 0 && method != "HEAD" && call.status == 200;
        (call, framing)
    }

    fn http1_response(&mut self, call: &mut Call, framing: Framing, program: &mut Program<'_>) {
        let mut bytes = Vec::new();
        if call.interim {
            bytes.extend(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
        }
        bytes.extend(format!("HTTP/1.1 {} Said\r\nX-Id: {}\r\n", call.status, call.id).bytes());
        // What HEAD and 304 announce is not sent; 204 announces nothing.
        let announced = call.status != 204;
        let sent = call.method != "HEAD" && call.status == 200;
        if announced {
            frame(&mut bytes, &call.response, framing, sent, program);
        } else {
            bytes.extend(b"\r\n");
        }
        if !sent {
            call.response.body.clear();
        }
        self.say(Direction::ToClient, &bytes, program);
        call.response.end = self.said.to_client;
    }

    fn http2(&mut self, number: usize, calls: usize, program: &mut Program<'_>, tricky: bool) {
        const SETTINGS: u8 = 4;
        const ACK: u8 = 1;
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(h2_frame(SETTINGS, 0, 0, &[]));
        self.say(Direction::ToServer, &hello, program);
        let hello = [
            h2_frame(SETTINGS, 0, 0, &[]),
            h2_frame(SETTINGS, ACK, 0, &[]),
        ]
        .concat();
        self.say(Direction::ToClient, &hello, program);

        let mut calls: Vec<(u32, Call)> = (0..calls)
            .map(|index| {
                let call = Call {
                    id: format!("/{number}/{index}"),
                    method: "POST",
                    request: Said {
                        body: body(program, tricky),
                        ..Said::default()
                    },
                    status: 200,
                    response: Said {
                        body: body(program, tricky),
                        ..Said::default()
                    },
                    ..Call::default()
                };
                (2 * index as u32 + 1, call)
            })
            .collect();
        let together = 1 + program.below(3);
        for batch in calls.chunks_mut(together) {
            for (stream, call) in &mut *batch {
                let fields = [
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", &call.id),
                ];
                let bytes = h2_message(*stream, &fields, &call.request.body, program);
                self.say(Direction::ToServer, &bytes, program);
                call.request.end = self.said.to_server;
            }
            // Answers may overtake each other.
            let first = program.below(batch.len());
            batch.rotate_left(first);
            for (stream, call) in batch {
                let fields = [(":status", "200"), ("x-id", &*call.id)];
                let bytes = h2_message(*stream, &fields, &call.response.body, program);
                self.say(Direction::ToClient, &bytes, program);
                call.response.end = self.said.to_client;
            }
        }
        self.calls.extend(calls.into_iter().map(|(_, call)| call));
    }
}

/// A body: letters, or, to deceive, messages.
fn body(program: &mut Program<'_>, tricky: bool) -> Vec<u8> {
    let len = usize::from(program.byte()) * (1 + program.below(8));
    let trick: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nGET /trick HTTP/1.1\r\n\r\n";
    let letters: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
    let text = if tricky { trick } else { letters };
    text.iter().copied().cycle().take(len).collect()
}

/// Ends a head, and appends the body where it is sent.
fn frame(out: &mut Vec<u8>, said: &Said, framing: Framing, sent: bool, program: &mut Program<'_>) {
    match framing {
        Framing::Length if sent || !said.body.is_empty() => {
            out.extend(format!("Content-Length: {}\r\n\r\n", said.body.len()).bytes());
        }
        Framing::Chunked if sent => out.extend(b"Transfer-Encoding: chunked\r\n\r\n"),
        Framing::Length | Framing::Chunked | Framing::UntilClose => out.extend(b"\r\n"),
    }
    if !sent {
        return;
    }
    if framing != Framing::Chunked {
        out.extend(&said.body);
        return;
    }
    let len = 1 + usize::from(program.byte());
    for chunk in said.body.chunks(len) {
        out.extend(format!("{:x};a=b\r\n", chunk.len()).bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n");
    if said.has_trailers {
        out.extend(b"X-Sum: 1\r\n");
    }
    out.extend(b"\r\n");
}

fn h2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, len @ ..] = (payload.len() as u32).to_be_bytes();
    let mut out = len.to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A message with fields that enter no table, so that a loss makes none of the others unknown.
fn h2_message(
    stream: u32,
    fields: &[(&str, &str)],
    body: &[u8],
    program: &mut Program<'_>,
) -> Vec<u8> {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text.bytes());
        }
    }
    let flags = END_HEADERS | if body.is_empty() { END_STREAM } else { 0 };
    let mut out = h2_frame(HEADERS, flags, stream, &block);
    let len = 1 + usize::from(program.byte());
    let mut rest = body;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(len.min(rest.len()));
        let flags = if later.is_empty() { END_STREAM } else { 0 };
        out.extend(h2_frame(DATA, flags, stream, now));
        rest = later;
    }
    out
}
