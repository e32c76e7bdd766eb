//! Writing HTTP/2: frames, and an HPACK encoder that does what it is told.

use std::collections::VecDeque;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const PRIO: u8 = 0x20;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, len @ ..] = (payload.len() as u32).to_be_bytes();
    let head = [&len[..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let one = |&(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let payload: Vec<u8> = values.iter().flat_map(one).collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// How a field is written, where there is a choice.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    /// By the indices there are; else inserted.
    Index,
    /// By the index of the name; not inserted.
    Literal,
    /// Spelled out, never to be indexed.
    Never,
}

/// Name and value.
type Entry = (Vec<u8>, Vec<u8>);

/// An encoder with the dynamic table of RFC 7541, kept as the document says it.
pub(crate) struct Encoder {
    table: VecDeque<Entry>,
    maximum: usize,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self {
            table: VecDeque::new(),
            maximum: 4096,
        }
    }

    pub(crate) fn resize(&mut self, maximum: usize, out: &mut Vec<u8>) {
        self.maximum = maximum;
        self.evict(0);
        integer(0x20, 5, maximum, out);
    }

    pub(crate) fn field(&mut self, name: &str, value: &str, how: How, out: &mut Vec<u8>) {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        let dynamic = |found: &dyn Fn(&Entry) -> bool| {
            self.table.iter().position(found).map(|place| place + 62)
        };
        let whole = dynamic(&|entry| entry.0 == name && entry.1 == value);
        let by_name = dynamic(&|entry| entry.0 == name).or(match name {
            b":method" => Some(2),
            b":path" => Some(4),
            b":status" => Some(8),
            b"content-length" => Some(28),
            _ => None,
        });
        match (how, whole) {
            (How::Index, Some(index)) => return integer(0x80, 7, index, out),
            (How::Index, None) => integer(0x40, 6, by_name.unwrap_or(0), out),
            (How::Literal, _) => integer(0, 4, by_name.unwrap_or(0), out),
            (How::Never, _) => out.push(0x10),
        }
        if by_name.is_none() || matches!(how, How::Never) {
            integer(0, 7, name.len(), out);
            out.extend(name);
        }
        integer(0, 7, value.len(), out);
        out.extend(value);
        if matches!(how, How::Index) {
            let size = name.len() + value.len() + 32;
            self.evict(size);
            if size <= self.maximum {
                self.table.push_front((name.to_vec(), value.to_vec()));
            }
        }
    }

    /// A block of fields that are all inserted.
    pub(crate) fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in fields {
            self.field(name, value, How::Index, &mut out);
        }
        out
    }

    fn evict(&mut self, more: usize) {
        let size = |entry: &Entry| entry.0.len() + entry.1.len() + 32;
        while self.table.iter().map(size).sum::<usize>() + more > self.maximum {
            if self.table.pop_back().is_none() {
                break;
            }
        }
    }
}

fn integer(first: u8, prefix: u32, value: usize, out: &mut Vec<u8>) {
    let mask = (1 << prefix) - 1;
    if value < mask {
        return out.push(first | value as u8);
    }
    out.push(first | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
