//! What the fuzzers run: every reader of foreign bytes, as a function of bytes.
//!
//! A [`Target`] must return, whatever it is given, within time and memory that the limits of its
//! reader allow; it panics where a reader breaks its contract. The test beside this crate gives
//! each target damaged copies of known inputs, and every input that ever broke one. It reads no files
//! and generates nothing.

#![forbid(unsafe_code)]

mod messages;

use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_filter::Filter;
use tapedeck_interchange::content;
use tapedeck_model::{BodyPart, Exchange, Timestamp, UnreadConnection};
use tapedeck_packet::{CaptureReader, LinkType, RawPacket, decode};

/// A reader to be fed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which its folders have, too.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: [Target; 7] = [
    Target {
        name: "packet",
        run: packet,
    },
    Target {
        name: "capture",
        run: capture,
    },
    Target {
        name: "engine",
        run: engine,
    },
    Target {
        name: "http1",
        run: messages::http1,
    },
    Target {
        name: "http2",
        run: messages::http2,
    },
    Target {
        name: "filter",
        run: filter,
    },
    Target {
        name: "content",
        run: content,
    },
];

/// Packets that one input may hold: a compressed one can stand for millions, which would only be
/// slow.
const MAX_PACKETS: usize = 20_000;

/// A packet of each link type: those that are known, and the one that the first two bytes say.
fn packet(bytes: &[u8]) {
    const KNOWN: [u16; 9] = [0, 1, 101, 108, 113, 228, 229, 239, 276];
    let named = bytes
        .first_chunk()
        .map_or(0, |first| u16::from_be_bytes(*first));
    for link in KNOWN.into_iter().chain([named]) {
        let packet = RawPacket {
            at: Timestamp::EPOCH,
            link: LinkType(link),
            data: bytes,
            wire_len: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            scope: tapedeck_model::Scope(0),
        };
        // A segment that lies outside of the packet would have panicked.
        std::hint::black_box(decode(&packet));
    }
}

/// A capture file of any kind. Behind an error there is nothing.
fn capture(bytes: &[u8]) {
    let Ok(mut capture) = CaptureReader::open(bytes) else {
        return;
    };
    for _ in 0..MAX_PACKETS {
        match capture.next_packet() {
            Ok(Some(packet)) => assert!(packet.wire_len as usize >= packet.data.len()),
            Ok(None) => return,
            Err(_) => {
                assert!(matches!(capture.next_packet(), Ok(None)));
                return;
            }
        }
    }
}

/// A capture file through the whole engine. The ledger must know of every exchange.
fn engine(bytes: &[u8]) {
    struct Count(u64);

    impl Recorder for Count {
        fn body_part(&mut self, _part: &BodyPart) {}

        fn exchange(&mut self, exchange: &Exchange) {
            // Of one that was cut, an interim response may be all that was seen.
            let messages = [&exchange.request, &exchange.response];
            let has_message = messages.into_iter().any(Option::is_some);
            assert!(
                has_message || !exchange.interim.is_empty(),
                "an exchange of nothing"
            );
            self.0 += 1;
        }

        fn unread(&mut self, _connection: &UnreadConnection) {}
    }

    let Ok(mut capture) = CaptureReader::open(bytes) else {
        return;
    };
    let mut engine = Engine::new(Limits::default());
    let mut count = Count(0);
    let mut packets = 0;
    while packets < MAX_PACKETS {
        let Ok(Some(packet)) = capture.next_packet() else {
            break;
        };
        engine.packet(&packet, &mut count);
        packets += 1;
    }
    engine.finish(&mut count);
    let ledger = engine.ledger();
    assert_eq!(ledger.packets_seen, packets as u64);
    assert_eq!(ledger.exchanges, count.0);
}

/// The text of a filter.
fn filter(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        // A filter that is refused is refused with a message.
        if let Err(error) = Filter::parse(text) {
            assert!(!error.to_string().is_empty());
        }
    }
}

/// A body behind each content coding, and behind two of them.
fn content(bytes: &[u8]) {
    const CAP: usize = 1 << 16;
    for coding in ["gzip", "deflate", "br", "zstd", "gzip, gzip"] {
        if let Ok(body) = content::decode(Some(coding.as_bytes()), bytes, CAP) {
            assert!(body.len() <= CAP);
        }
    }
}
