//! The wire side as a whole: packets in, exchanges out.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_model::{
    BodyPart, Connection, ConnectionId, Exchange, Head, Ledger, Message, Missing, Role,
    UnreadConnection,
};
use tapedeck_packet::{LinkType, RawPacket};
use tapedeck_testkit::{Conversation, Faults, Rng, SegmentBuf, wire};

const CLIENT: &str = "10.0.0.1:40000";
const SERVER: &str = "10.0.0.2:80";

/// Keeps everything, with the parts of long bodies put back together.
#[derive(Default)]
struct Tape {
    exchanges: Vec<Exchange>,
    parts: BTreeMap<(u64, Role), Vec<u8>>,
    /// Whose long bodies are, as was said before they came.
    announced: BTreeMap<u64, (ConnectionId, Option<Vec<u8>>)>,
}

impl Recorder for Tape {
    fn body_begins(&mut self, key: u64, connection: &Arc<Connection>, request: Option<&Head>) {
        let target = request.and_then(|head| head.target()).map(<[u8]>::to_vec);
        self.announced.insert(key, (connection.id, target));
    }

    fn body_part(&mut self, part: &BodyPart) {
        assert!(self.announced.contains_key(&part.key));
        self.parts
            .entry((part.key, part.role))
            .or_default()
            .extend_from_slice(&part.data);
    }

    fn exchange(&mut self, exchange: &Exchange) {
        if let Some((connection, target)) = self.announced.get(&exchange.key) {
            assert_eq!(*connection, exchange.connection.id);
            let head = exchange.request.as_ref().and_then(|of| of.head.as_ref());
            let said = head.and_then(|head| head.target()).map(<[u8]>::to_vec);
            assert_eq!(*target, said);
        }
        self.exchanges.push(exchange.clone());
    }

    fn unread(&mut self, _connection: &UnreadConnection) {}
}

/// What an exchange says, without the times at which it said it.
#[derive(Debug, Eq, PartialEq)]
struct Said {
    stream: u64,
    request: Option<Spoken>,
    response: Option<Spoken>,
    interim: Vec<Option<u16>>,
    tunnel: bool,
    missing: (Missing, Missing),
    anomalies: Vec<&'static str>,
}

#[derive(Debug, Eq, PartialEq)]
struct Spoken {
    head: String,
    body: Vec<u8>,
    trailers: Option<String>,
}

impl Tape {
    fn said(&self) -> Vec<Said> {
        self.exchanges
            .iter()
            .map(|exchange| Said {
                stream: exchange.stream,
                request: self.spoken(exchange, Role::Request, exchange.request.as_ref()),
                response: self.spoken(exchange, Role::Response, exchange.response.as_ref()),
                interim: exchange
                    .interim
                    .iter()
                    .map(|interim| interim.head.status())
                    .collect(),
                tunnel: exchange.tunnel,
                missing: (
                    exchange.missing(Role::Request),
                    exchange.missing(Role::Response),
                ),
                anomalies: exchange
                    .anomalies
                    .iter()
                    .map(tapedeck_model::Anomaly::name)
                    .collect(),
            })
            .collect()
    }

    fn spoken(&self, exchange: &Exchange, role: Role, message: Option<&Message>) -> Option<Spoken> {
        let message = message?;
        let mut body = self
            .parts
            .get(&(exchange.key, role))
            .cloned()
            .unwrap_or_default();
        body.extend_from_slice(&message.body.tail);
        assert_eq!(body.len() as u64, message.body.len);
        let text = |head: &Head| String::from_utf8_lossy(&head.raw).into_owned();
        Some(Spoken {
            head: message.head.as_ref().map(text).unwrap_or_default(),
            body,
            trailers: message.trailers.as_ref().map(text),
        })
    }

    fn paths(&self) -> Vec<String> {
        let target = |exchange: &Exchange| {
            let head = exchange.request.as_ref()?.head.as_ref()?;
            Some(String::from_utf8_lossy(head.target()?).into_owned())
        };
        self.exchanges.iter().filter_map(target).collect()
    }
}

fn read_with(limits: Limits, segments: &[SegmentBuf]) -> (Tape, Ledger) {
    let mut engine = Engine::new(limits);
    let mut tape = Tape::default();
    for segment in segments {
        let data = wire::ip(&segment.as_segment());
        let wire_len = u32::try_from(data.len()).unwrap() + segment.cut;
        let packet = RawPacket {
            at: segment.at,
            link: LinkType::RAW,
            data: &data,
            wire_len,
            scope: tapedeck_model::Scope(0),
        };
        engine.packet(&packet, &mut tape);
    }
    engine.finish(&mut tape);
    let ledger = engine.ledger();
    assert_conserved(&ledger);
    (tape, ledger)
}

fn read(segments: &[SegmentBuf]) -> (Tape, Ledger) {
    read_with(Limits::default(), segments)
}

/// The laws that the ledger's documentation states.
fn assert_conserved(ledger: &Ledger) {
    assert_eq!(
        ledger.packets_seen,
        ledger.segments
            + ledger.packets_not_tcp
            + ledger.packets_fragment
            + ledger.packets_joined
            + ledger.packets_undecodable,
        "{ledger:?}"
    );
    assert_eq!(
        ledger.payload_bytes_seen,
        ledger.payload_bytes_delivered
            + ledger.payload_bytes_duplicate
            + ledger.payload_bytes_dropped,
        "{ledger:?}"
    );
    assert_eq!(
        ledger.payload_bytes_delivered + ledger.bytes_tls_plain + ledger.bytes_tunnel,
        ledger.bytes_http + ledger.bytes_not_http + ledger.bytes_tls,
        "{ledger:?}"
    );
}

fn keep_alive() -> Conversation {
    let mut talk = Conversation::new(CLIENT, SERVER);
    talk.handshake();
    talk.client(b"GET /a?x=1 HTTP/1.1\r\nHost: shop\r\n\r\n");
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    talk.client(
        b"POST /b HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    );
    talk.client(b"0\r\nX-Sum: 1\r\n\r\n");
    talk.server(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n");
    talk
}

#[test]
fn a_connection_gives_its_exchanges() {
    let mut talk = keep_alive();
    talk.close();
    let (tape, ledger) = read(&talk.segments);
    assert_eq!(tape.paths(), ["/a?x=1", "/b"]);
    let said = tape.said();
    assert!(tape.exchanges.iter().all(Exchange::complete), "{said:?}");
    assert_eq!(said[0].response.as_ref().unwrap().body, b"hello");
    assert_eq!(said[1].request.as_ref().unwrap().body, b"abc");
    assert_eq!(
        said[1].request.as_ref().unwrap().trailers.as_deref(),
        Some("X-Sum: 1\r\n\r\n")
    );
    assert_eq!(said[1].interim, [Some(100)]);
    assert_eq!((ledger.exchanges, ledger.exchanges_incomplete), (2, 0));
    let connection = &tape.exchanges[0].connection;
    assert_eq!(
        (connection.client.to_string(), connection.server.to_string()),
        (CLIENT.into(), SERVER.into())
    );
}

#[test]
fn an_exchange_is_there_as_soon_as_it_is_over() {
    let mut engine = Engine::new(Limits::default());
    let mut tape = Tape::default();
    for segment in &keep_alive().segments {
        let data = wire::ip(&segment.as_segment());
        let wire_len = u32::try_from(data.len()).unwrap();
        let packet = RawPacket {
            at: segment.at,
            link: LinkType::RAW,
            data: &data,
            wire_len,
            scope: tapedeck_model::Scope(0),
        };
        engine.packet(&packet, &mut tape);
    }
    assert_eq!(
        tape.paths(),
        ["/a?x=1", "/b"],
        "without waiting for the end of the connection"
    );
}

#[test]
fn what_the_capture_cut_off_is_said() {
    let mut talk = Conversation::new(CLIENT, SERVER);
    talk.handshake();
    talk.client(b"GET /never HTTP/1.1\r\nHost: shop\r\n\r\n");
    let (tape, ledger) = read(&talk.segments);
    assert_eq!(tape.paths(), ["/never"]);
    let missing = tape.exchanges[0].missing(Role::Response);
    assert!(missing.contains(Missing::ABSENT), "{missing:?}");
    assert_eq!(
        (
            ledger.exchanges_incomplete,
            ledger.exchanges_without_response
        ),
        (1, 1)
    );
}

#[test]
fn the_wrong_guess_of_who_is_the_client_is_mended() {
    // Without the handshake, the lower port looks like the server's; here it is the client's.
    let mut talk = Conversation::new("10.0.0.1:1000", "10.0.0.2:9999");
    talk.client(b"GET /flip HTTP/1.1\r\nHost: shop\r\n\r\n");
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    talk.close();
    let (tape, ledger) = read(&talk.segments);
    assert_eq!(tape.paths(), ["/flip"]);
    let exchange = &tape.exchanges[0];
    assert!(exchange.complete(), "{exchange:?}");
    assert_eq!(exchange.connection.client.to_string(), "10.0.0.1:1000");
    assert_eq!(ledger.connections_midstream, 1);
}

#[test]
fn a_capture_that_begins_inside_of_a_body_finds_the_next_exchange() {
    let mut talk = Conversation::new(CLIENT, SERVER);
    talk.server(b"end of a body that began before</html>");
    talk.client(b"GET /next HTTP/1.1\r\nHost: shop\r\n\r\n");
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    talk.close();
    let (tape, ledger) = read(&talk.segments);
    assert_eq!(tape.paths(), ["/next"]);
    assert!(tape.exchanges[0].complete(), "{:?}", tape.exchanges[0]);
    assert_eq!(ledger.bytes_skipped, 38);
}

/// The capture begins in the middle, and its queues are out of step: an answer is seen behind the
/// question that followed it.
#[test]
fn an_answer_from_before_the_beginning_is_no_answer_to_what_follows() {
    let one = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none";
    let mut talk = Conversation::new(CLIENT, SERVER);
    talk.server(one);
    talk.client(b"GET /2 HTTP/1.1\r\nHost: shop\r\n\r\n");
    talk.server(b"HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\ntwo");
    talk.client(b"GET /3 HTTP/1.1\r\nHost: shop\r\n\r\n");
    talk.server(b"HTTP/1.1 204 No\r\n\r\n");
    talk.segments.swap(0, 1);
    let (tape, ledger) = read(&talk.segments);
    assert_eq!(tape.paths(), ["/2", "/3"]);
    assert!(tape.exchanges.iter().all(Exchange::complete));
    assert_eq!(tape.said()[0].response.as_ref().unwrap().body, b"two");
    assert_eq!(ledger.bytes_skipped, one.len() as u64);
    // The question is late: its answer is the first that is seen.
    let mut talk = Conversation::new(CLIENT, SERVER);
    talk.client(b"GET /1 HTTP/1.1\r\nHost: shop\r\n\r\n");
    talk.server(one);
    talk.client(b"GET /2 HTTP/1.1\r\nHost: shop\r\n\r\n");
    talk.server(b"HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\ntwo");
    talk.segments.swap(0, 1);
    let (tape, _) = read(&talk.segments);
    assert_eq!(tape.paths(), ["/2"]);
    let said = tape.said();
    assert_eq!(said[1].response.as_ref().unwrap().body, b"two");
    // Where nothing was read of either, there is nothing to mistake.
    let mut talk = Conversation::new(CLIENT, SERVER);
    talk.client(b"GET /1 HTTP/1.1\r\nHost: shop\r\n\r\n");
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n");
    talk.server(b"\x01\x02tail");
    talk.segments.reverse();
    let (tape, _) = read(&talk.segments);
    assert_eq!(tape.paths(), ["/1"]);
}

#[test]
fn what_is_not_http_is_counted_by_kind() {
    let talk = |client: &str, first: &[u8], answer: &[u8]| {
        let mut talk = Conversation::new(client, SERVER);
        talk.handshake();
        if !first.is_empty() {
            talk.client(first);
        }
        if !answer.is_empty() {
            talk.server(answer);
        }
        talk.close();
        talk.segments
    };
    let mut segments = talk(
        "10.0.0.1:1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x16\x03",
    );
    segments.extend(talk("10.0.0.1:2", b"", b"SSH-2.0-OpenSSH_9.2\r\n"));
    segments.extend(talk("10.0.0.1:3", b"", b""));
    segments.extend(talk("10.0.0.1:4", b"GE", b""));
    let (tape, ledger) = read(&segments);
    assert!(tape.exchanges.is_empty());
    assert_eq!(ledger.connections, 4);
    assert_eq!(ledger.connections_tls, 1);
    assert_eq!(ledger.connections_not_http, 2);
    assert_eq!(ledger.connections_empty, 1, "{ledger:?}");
    assert_eq!((ledger.bytes_tls, ledger.bytes_not_http), (13, 23));
}

#[test]
fn long_bodies_leave_in_parts_and_memory_stays_bounded() {
    let body = Rng::new(1).bytes(3 << 20);
    let mut talk = Conversation::new(CLIENT, SERVER);
    talk.handshake();
    talk.client(
        format!(
            "PUT /big HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .as_bytes(),
    );
    talk.client(&body);
    talk.server(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    for (part_len, body_memory) in [(1 << 20, 32 << 20), (1000, 32 << 20), (1 << 20, 1)] {
        let mut limits = Limits::default();
        limits.part_len = part_len;
        limits.body_memory = body_memory;
        let (tape, _) = read_with(limits, &talk.segments);
        let said = tape.said();
        assert!(said[0].request.as_ref().unwrap().body == body);
        let longest = part_len.min(if body_memory == 1 { 17 << 10 } else { part_len });
        assert!(tape.exchanges[0].request.as_ref().unwrap().body.tail.len() <= longest);
        assert!(!tape.parts.is_empty());
    }
}

#[test]
fn a_body_beyond_the_limit_is_partial_and_counted() {
    let mut limits = Limits::default();
    limits.body_len = 3;
    let (tape, ledger) = read_with(limits, &keep_alive().segments);
    let response = tape.exchanges[0].response.as_ref().unwrap();
    assert_eq!(response.body.tail, b"hel");
    assert_eq!(response.missing, Missing::PARTIAL);
    assert_eq!(ledger.body_bytes_over_limit, 2);
}

#[test]
fn pauses_in_a_body_are_kept() {
    let mut talk = Conversation::new(CLIENT, SERVER);
    talk.handshake();
    talk.client(b"GET /events HTTP/1.1\r\nHost: shop\r\n\r\n");
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n");
    talk.wait(std::time::Duration::from_millis(50));
    talk.server(b"data: 2\n\n");
    talk.close();
    let (tape, _) = read(&talk.segments);
    let response = tape.exchanges[0].response.as_ref().unwrap();
    assert!(tape.exchanges[0].complete());
    assert_eq!(response.body.arrivals.len(), 1);
    assert_eq!(response.body.arrivals[0].offset, 9);
    assert!(response.body.arrivals[0].at > response.first_byte);
}

#[test]
fn a_lost_segment_is_said_and_the_rest_is_whole() {
    let segments = keep_alive().segments;
    let whole = read(&segments).0.said();
    for lost in 0..segments.len() {
        let mut rest = segments.clone();
        let gone = rest.remove(lost);
        let (tape, ledger) = read(&rest);
        let said = tape.said();
        for (before, after) in whole.iter().zip(&said) {
            let changed = after.missing.0.is_empty() && after.missing.1.is_empty();
            let equal = before.request == after.request && before.response == after.response;
            assert!(
                equal || !changed,
                "without segment {lost}: {after:?} claims to be whole"
            );
        }
        if !gone.payload.is_empty() {
            assert!(said != whole, "segment {lost} is gone and nothing says so");
            assert!(ledger.exchanges_incomplete > 0 || said.len() < whole.len());
        }
    }
}

/// Splits payload segments at random places, as another path through the network would.
fn resegmented(segments: &[SegmentBuf], rng: &mut Rng) -> Vec<SegmentBuf> {
    let mut out = Vec::new();
    for segment in segments {
        let mut rest = segment.clone();
        while rest.payload.len() > 1 && rng.below(3) > 0 {
            let at = 1 + rng.below(rest.payload.len() - 1);
            let behind = rest.payload.split_off(at);
            let mut first = rest.clone();
            first.flags = tapedeck_model::TcpFlags::ACK;
            rest.seq = tapedeck_model::SeqNum(rest.seq.0.wrapping_add(at as u32));
            rest.payload = behind;
            out.push(first);
        }
        out.push(rest);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_split_of_the_input_gives_the_same_exchanges(seed: u64) {
        let mut talk = keep_alive();
        talk.client(b"GET /c HTTP/1.1\r\nHost: shop\r\n\r\nGET /d HTTP/1.1\r\nHost: shop\r\n\r\n");
        talk.server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\nwxyz\r\n0\r\n\r\n");
        talk.server(b"HTTP/1.0 200 OK\r\n\r\nuntil the end");
        talk.close();
        let whole = read(&talk.segments).0.said();
        prop_assert_eq!(whole.len(), 4);
        let split = resegmented(&talk.segments, &mut Rng::new(seed));
        prop_assert_eq!(read(&split).0.said(), whole);
    }

    #[test]
    fn nothing_panics_and_the_ledger_adds_up_whatever_the_network_does(seed: u64) {
        let mut rng = Rng::new(seed);
        let mut talk = keep_alive();
        talk.close();
        let segments = resegmented(&talk.segments, &mut rng);
        let faults = Faults { loss: 10, duplicate: 10, reorder: 20, window: 4 };
        let (tape, ledger) = read(&faults.inject(&mut rng, &segments));
        prop_assert_eq!(ledger.exchanges, tape.exchanges.len() as u64);
    }
}

#[test]
fn the_same_packets_give_the_same_exchanges_times_included() {
    let segments = keep_alive().segments;
    assert_eq!(read(&segments).0.exchanges, read(&segments).0.exchanges);
}

/// Load balancers and SOCKS proxies say something before the conversation that they carry.
#[test]
fn what_a_proxy_says_first_is_passed_over() {
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x50\0\x50";
    let none: &[u8] = b"";
    for (hello, answer) in [
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 80\r\n".as_slice(),
            none,
        ),
        (v2, none),
        (
            b"\x04\x01\0\x50\x01\x02\x03\x04\0",
            b"\0\x5a\0\x50\x01\x02\x03\x04",
        ),
    ] {
        for apart in [true, false] {
            let request = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
            let mut talk = Conversation::new(CLIENT, SERVER);
            talk.handshake();
            if apart || !answer.is_empty() {
                talk.client(hello);
                talk.server(answer);
                talk.client(request);
            } else {
                talk.client(&[hello, request].concat());
            }
            talk.server(b"HTTP/1.1 204 No Content\r\n\r\n");
            talk.close();
            let (tape, ledger) = read_with(Limits::default(), &talk.segments);
            assert_eq!(tape.paths(), ["/1"]);
            assert!(tape.exchanges[0].complete());
            let said = (hello.len() + answer.len()) as u64;
            assert_eq!(ledger.bytes_not_http, said);
        }
    }
}
