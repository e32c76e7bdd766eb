//! What is said within the tunnels of CONNECT.

use std::num::NonZeroUsize;

use tapedeck_exchange::{Engine, Limits, Pipeline, Recorder};
use tapedeck_model::{
    BodyPart, Direction, Exchange, Head, Ledger, Missing, Origin, Role, Scope, Unread,
    UnreadConnection,
};
use tapedeck_packet::{LinkType, RawPacket};
use tapedeck_testkit::{Conversation, SegmentBuf, wire};

#[derive(Debug, Default, PartialEq)]
struct Tape {
    exchanges: Vec<Exchange>,
    unread: Vec<UnreadConnection>,
}

impl Recorder for Tape {
    fn body_part(&mut self, _part: &BodyPart) {}

    fn exchange(&mut self, exchange: &Exchange) {
        self.exchanges.push(exchange.clone());
    }

    fn unread(&mut self, connection: &UnreadConnection) {
        self.unread.push(connection.clone());
    }
}

fn packets(segments: &[SegmentBuf]) -> Vec<Vec<u8>> {
    let segments = segments.iter();
    segments
        .map(|segment| wire::ip(&segment.as_segment()))
        .collect()
}

fn raw<'a>(segment: &SegmentBuf, data: &'a [u8]) -> RawPacket<'a> {
    RawPacket {
        at: segment.at,
        link: LinkType::RAW,
        scope: Scope(0),
        data,
        wire_len: u32::try_from(data.len()).unwrap_or(u32::MAX),
    }
}

fn read(segments: &[SegmentBuf]) -> (Tape, Ledger) {
    read_with(Limits::default(), segments)
}

fn read_with(limits: Limits, segments: &[SegmentBuf]) -> (Tape, Ledger) {
    let mut engine = Engine::new(limits);
    let mut tape = Tape::default();
    for (segment, data) in segments.iter().zip(packets(segments)) {
        engine.packet(&raw(segment, &data), &mut tape);
    }
    engine.finish(&mut tape);
    let ledger = engine.ledger();
    assert_eq!(
        ledger.payload_bytes_delivered + ledger.bytes_tls_plain + ledger.bytes_tunnel,
        ledger.bytes_http + ledger.bytes_not_http + ledger.bytes_tls,
        "{ledger:?}"
    );
    (tape, ledger)
}

/// Method and target, with the number of the tunnel around it, and whether it is whole.
fn said(tape: &Tape) -> Vec<String> {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or(b"?")).into_owned();
    let exchanges = tape.exchanges.iter();
    exchanges
        .map(|exchange| {
            let head = exchange
                .request
                .as_ref()
                .and_then(|message| message.head.as_ref());
            format!(
                "{}/{} {} {} {}",
                exchange.connection.id.0 & u64::from(u32::MAX),
                exchange.connection.id.0 >> 32,
                text(head.and_then(Head::method)),
                text(head.and_then(Head::target)),
                if exchange.complete() {
                    "whole"
                } else {
                    "not whole"
                },
            )
        })
        .collect()
}

const CONNECT: &[u8] = b"CONNECT shop:80 HTTP/1.1\r\nHost: shop:80\r\n\r\n";
const OPENED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
const GET: &[u8] = b"GET /within HTTP/1.1\r\nHost: shop\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn begun() -> Conversation {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:3128").acknowledging();
    talk.handshake();
    talk.client(CONNECT);
    talk.server(OPENED);
    talk
}

#[test]
fn what_a_tunnel_carries_is_read() {
    let mut talk = begun();
    for _ in 0..2 {
        talk.client(GET);
        talk.server(OK);
    }
    talk.close();
    let (tape, ledger) = read(&talk.segments);
    assert_eq!(
        said(&tape),
        [
            "0/1 GET /within whole",
            "0/1 GET /within whole",
            "0/0 CONNECT shop:80 whole",
        ]
    );
    let [within, .., around] = tape.exchanges.as_slice() else {
        panic!("{tape:?}");
    };
    // Its bytes stay what the tunnel carried, as they came.
    assert!(around.tunnel && !within.tunnel);
    let len = |message: &Option<_>| {
        message
            .as_ref()
            .map(|message: &tapedeck_model::Message| message.body.len)
    };
    assert_eq!(len(&around.request), Some(2 * GET.len() as u64));
    assert_eq!(len(&around.response), Some(2 * OK.len() as u64));
    assert_eq!(within.connection.origin, Origin::Handshake);
    assert_eq!(within.connection.client, around.connection.client);
    assert_eq!((ledger.tunnels, ledger.tunnels_not_read), (1, 0));
    assert_eq!(ledger.bytes_tunnel, 2 * (GET.len() + OK.len()) as u64);
    assert_eq!(ledger.connections, 1);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let mut segments = Vec::new();
    for client in 0..6 {
        let mut talk = Conversation::new(&format!("10.0.0.1:{}", 40_000 + client), "10.0.0.2:3128");
        talk.handshake();
        talk.client(CONNECT);
        talk.server(OPENED);
        talk.client(GET);
        talk.server(OK);
        if client % 2 == 0 {
            talk.close();
        }
        segments.extend(talk.segments);
    }
    segments.sort_by_key(|segment| segment.at);
    let (one, ledger) = read(&segments);
    assert_eq!(one.exchanges.len(), 12);
    for threads in [2, 3] {
        let mut pipeline =
            Pipeline::new(Limits::default(), NonZeroUsize::new(threads).unwrap()).unwrap();
        let mut tape = Tape::default();
        for (segment, data) in segments.iter().zip(packets(&segments)) {
            pipeline.packet(&raw(segment, &data), &mut tape);
        }
        assert_eq!(pipeline.finish(&mut tape), ledger);
        assert_eq!(tape, one, "{threads} threads");
    }
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, _, high, low] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut out = vec![0, high, low, kind, flags, 0, 0, 0, stream];
    out.extend(payload);
    out
}

const HEADERS: u8 = 1;
const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A proxy that speaks HTTP/2, and tunnels of so many streams.
fn begun_on_streams(count: u8) -> Conversation {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:3128").acknowledging();
    talk.handshake();
    talk.client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    talk.client(&frame(SETTINGS, 0, 0, &[]));
    talk.server(&frame(SETTINGS, 0, 0, &[]));
    let connect = b"\x02\x07CONNECT\x01\x07shop:80";
    for number in 0..count {
        talk.client(&frame(HEADERS, END_HEADERS, 2 * number + 1, connect));
    }
    for number in (0..count).rev() {
        // :status 200
        talk.server(&frame(HEADERS, END_HEADERS, 2 * number + 1, &[0x88]));
    }
    talk
}

#[test]
fn each_stream_is_a_tunnel_of_its_own() {
    let mut talk = begun_on_streams(20);
    // In pieces, turn by turn.
    for half in GET.chunks(20) {
        for number in 0..20 {
            talk.client(&frame(DATA, 0, 2 * number + 1, half));
        }
    }
    for number in 0..20 {
        let end = END_STREAM * u8::from(number % 2 == 0);
        talk.server(&frame(DATA, end, 2 * number + 1, OK));
        talk.client(&frame(DATA, end, 2 * number + 1, b""));
    }
    talk.close();
    let (tape, ledger) = read(&talk.segments);
    let (within, around): (Vec<_>, Vec<_>) = tape
        .exchanges
        .iter()
        .partition(|exchange| exchange.connection.id.0 >> 32 > 0);
    assert_eq!((within.len(), around.len()), (20, 20), "{:?}", said(&tape));
    assert!(within.iter().all(|exchange| exchange.complete()));
    let whole = |exchange: &&&Exchange| exchange.complete();
    assert_eq!(around.iter().filter(whole).count(), 10, "those that ended");
    assert_eq!(ledger.tunnels, 20);
    assert_eq!(ledger.bytes_tunnel, 20 * (GET.len() + OK.len()) as u64);
}

/// What has to be given up for want of memory says that, and not that the capture ended.
#[test]
fn a_tunnel_that_is_given_up_says_why() {
    let mut limits = Limits::default();
    limits.held_memory = 16 << 10;
    let long = [GET.trim_ascii_end(), b"\r\nCookie: ", &[b'x'; 20 << 10]].concat();
    let hello = [&[22, 3, 1, 2, 4, 1, 0, 2, 0, 3, 3][..], &[7; 0x204 - 6]].concat();
    for http2 in [false, true] {
        let mut talk = if http2 { begun_on_streams(3) } else { begun() };
        if http2 {
            talk.client(&frame(DATA, 0, 1, &hello));
            talk.client(&frame(DATA, 0, 3, GET));
        }
        let payload = if http2 {
            frame(DATA, 0, 5, &long)
        } else {
            long.clone()
        };
        talk.client(&payload);
        talk.close();
        let (tape, ledger) = read_with(limits.clone(), &talk.segments);
        assert_eq!(ledger.connections_given_up, 1, "{ledger:?}");
        assert!(!tape.exchanges.is_empty());
        for exchange in &tape.exchanges {
            let missing = [Role::Request, Role::Response].map(|role| exchange.missing(role));
            let [asked, answered] = missing;
            let partial = [asked, answered].map(|missing| missing.contains(Missing::PARTIAL));
            assert!(partial.contains(&true), "{http2}: {missing:?}");
            for missing in missing {
                assert!(
                    !missing.contains(Missing::UNFINISHED),
                    "{http2}: {missing:?}"
                );
            }
        }
        assert_eq!(tape.unread.len(), usize::from(http2));
    }
}

#[test]
fn http2_is_read_within_a_tunnel() {
    let mut talk = begun();
    talk.client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    talk.client(&frame(4, 0, 0, &[]));
    // :method GET, :scheme http, :path /
    talk.client(&frame(1, 5, 1, &[0x82, 0x86, 0x84]));
    talk.server(&frame(4, 0, 0, &[]));
    // :status 204
    talk.server(&frame(1, 5, 1, &[0x89]));
    talk.close();
    let (tape, _) = read(&talk.segments);
    assert_eq!(
        said(&tape),
        ["0/1 GET / whole", "0/0 CONNECT shop:80 whole"]
    );
}

#[test]
fn sealed_bytes_within_a_tunnel_are_listed() {
    let mut talk = begun();
    // Records of TLS, of a kind that no hello came before.
    let record = [&[22, 3, 1, 0, 4, 1, 0, 0, 0][..]].concat();
    talk.client(&record);
    talk.close();
    let (tape, ledger) = read(&talk.segments);
    assert_eq!(said(&tape), ["0/0 CONNECT shop:80 whole"]);
    assert_eq!(ledger.connections_tls, 1, "{ledger:?}");
    let [unread] = tape.unread.as_slice() else {
        panic!("{tape:?}");
    };
    assert_eq!(unread.connection.id.0, 1 << 32);
    assert_eq!(unread.bytes[Direction::ToServer], record.len() as u64);
    assert_ne!(unread.reason, Unread::NoKeys);
}

#[test]
fn tunnels_within_tunnels_are_read_to_a_limit() {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:3128");
    talk.handshake();
    let depth = Limits::default().tunnel_depth;
    for _ in 0..depth + 3 {
        talk.client(CONNECT);
        talk.server(OPENED);
    }
    talk.client(GET);
    talk.server(OK);
    talk.close();
    let (tape, ledger) = read(&talk.segments);
    // Those further in are bytes of the last one.
    assert_eq!(tape.exchanges.len(), depth + 1, "{:?}", said(&tape));
    assert!(tape.exchanges.iter().all(Exchange::complete));
    assert_eq!((ledger.tunnels, ledger.tunnels_not_read), (depth as u64, 1));
    let mut ids: Vec<_> = tape
        .exchanges
        .iter()
        .map(|exchange| exchange.connection.id)
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), depth + 1, "each is a connection of its own");
}

#[test]
fn a_loss_within_a_tunnel_is_one_of_what_it_carries() {
    let mut talk = begun();
    talk.client(GET);
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nab");
    talk.lose(Direction::ToClient, 90);
    talk.server(b"01234567");
    talk.client(GET);
    talk.server(OK);
    talk.close();
    let (tape, _) = read(&talk.segments);
    assert_eq!(
        said(&tape),
        [
            "0/1 GET /within not whole",
            "0/1 GET /within whole",
            "0/0 CONNECT shop:80 not whole",
        ]
    );
    for place in [0, 2] {
        assert_eq!(tape.exchanges[place].missing(Role::Response), Missing::LOST);
    }
}

#[test]
fn what_was_refused_or_upgraded_is_no_tunnel_to_look_into() {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:3128");
    talk.handshake();
    talk.client(CONNECT);
    talk.server(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
    talk.client(b"GET /chat HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    talk.server(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    talk.client(GET);
    talk.close();
    let (tape, ledger) = read(&talk.segments);
    assert_eq!(tape.exchanges.len(), 2, "{:?}", said(&tape));
    assert_eq!((ledger.tunnels, ledger.bytes_tunnel), (0, 0));
}
