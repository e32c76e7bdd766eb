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
    let mut engine = Engine::new(Limits::default());
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

#[test]
fn http2_is_read_within_a_tunnel() {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let mut out = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        out.extend(payload);
        out
    };
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
