//! What rustls says to itself in memory.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};
use tapedeck_model::{
    Direction, Gap, GapCause, Input, PerDirection, Timestamp, Tls, TlsVersion, Unread,
};

use crate::{KeyLog, Keys, Limits, Probe, Reader, probe};

pub(super) type Flight = (Direction, Vec<u8>);

#[derive(Debug, Default)]
struct Text(Mutex<String>);

impl rustls::KeyLog for Text {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        self.0.lock().unwrap().push_str(&line);
    }
}

/// A client and a server that trust each other.
struct Peers {
    client: ClientConfig,
    server: ServerConfig,
    text: Arc<Text>,
}

impl Peers {
    fn new(suite: SupportedCipherSuite, version: &'static SupportedProtocolVersion) -> Self {
        let made = rcgen::generate_simple_self_signed(["shop.test".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut crypto = provider::default_provider();
        crypto.cipher_suites = vec![suite];
        let crypto = Arc::new(crypto);
        let text = Arc::new(Text::default());
        let mut client = ClientConfig::builder_with_provider(crypto.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        client.key_log = text.clone();
        client.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(8)));
        client.enable_early_data = true;
        let mut server = ServerConfig::builder_with_provider(crypto)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        server.max_early_data_size = 1 << 14;
        server.send_half_rtt_data = false;
        Self {
            client,
            server,
            text,
        }
    }

    /// Both configurations are kept, so that sessions are resumed.
    fn talk(&self, early: Option<&[u8]>, steps: impl FnOnce(&mut Talk)) -> Talk {
        let name = ServerName::try_from("shop.test").unwrap();
        let mut client = ClientConnection::new(Arc::new(self.client.clone()), name).unwrap();
        if let Some(early) = early {
            client
                .early_data()
                .expect("a ticket")
                .write_all(early)
                .unwrap();
        }
        let mut talk = Talk {
            client,
            server: ServerConnection::new(Arc::new(self.server.clone())).unwrap(),
            flights: Vec::new(),
        };
        talk.exchange();
        steps(&mut talk);
        talk
    }

    fn log(&self) -> Arc<Keys> {
        let log = KeyLog::new(1000);
        log.add(self.text.0.lock().unwrap().as_bytes());
        Arc::new(Keys::new(Arc::new(log)))
    }
}

struct Talk {
    client: ClientConnection,
    server: ServerConnection,
    flights: Vec<Flight>,
}

impl Talk {
    /// Carries bytes until nobody has any.
    fn exchange(&mut self) {
        loop {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            while self.client.wants_write() {
                self.client.write_tls(&mut up).unwrap();
            }
            let mut rest = &up[..];
            while !rest.is_empty() {
                self.server.read_tls(&mut rest).unwrap();
                self.server.process_new_packets().unwrap();
                drain(&mut self.server.reader());
            }
            while self.server.wants_write() {
                self.server.write_tls(&mut down).unwrap();
            }
            let mut rest = &down[..];
            while !rest.is_empty() {
                self.client.read_tls(&mut rest).unwrap();
                self.client.process_new_packets().unwrap();
                drain(&mut self.client.reader());
            }
            if up.is_empty() && down.is_empty() {
                return;
            }
            for (direction, bytes) in [(Direction::ToServer, up), (Direction::ToClient, down)] {
                if !bytes.is_empty() {
                    self.flights.push((direction, bytes));
                }
            }
        }
    }

    fn say(&mut self, direction: Direction, text: &[u8]) {
        match direction {
            Direction::ToServer => self.client.writer().write_all(text).unwrap(),
            Direction::ToClient => self.server.writer().write_all(text).unwrap(),
        }
        self.exchange();
    }

    fn bye(&mut self) {
        self.client.send_close_notify();
        self.server.send_close_notify();
        self.exchange();
    }
}

fn drain(reader: &mut impl Read) {
    let mut buffer = [0; 4096];
    while matches!(reader.read(&mut buffer), Ok(1..)) {}
}

/// What came out of each direction: data, `<gap>`s and the end.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Heard {
    pub(super) text: PerDirection<String>,
    pub(super) facts: Tls,
    pub(super) closed: Option<Unread>,
}

pub(super) fn listen<'a>(
    log: Arc<Keys>,
    inputs: impl IntoIterator<Item = (Direction, Input<'a>)>,
) -> Heard {
    let mut scratch = Vec::new();
    let mut reader = Reader::new(Limits::default(), log);
    let mut text = PerDirection::<String>::default();
    let mut sink = |_, direction: Direction, input: Input<'_>| {
        let text = &mut text[direction];
        assert!(!text.ends_with('.'), "nothing comes behind the end");
        match input {
            Input::Data(data) => text.push_str(std::str::from_utf8(data).unwrap()),
            Input::Gap(_) => text.push_str("<gap>"),
            Input::Fin | Input::Reset | Input::Cut => text.push('.'),
        }
    };
    for (direction, input) in inputs {
        reader.push(Timestamp::EPOCH, direction, input, &mut scratch, &mut sink);
    }
    for direction in Direction::BOTH {
        reader.push(
            Timestamp::EPOCH,
            direction,
            Input::Cut,
            &mut scratch,
            &mut sink,
        );
    }
    Heard {
        text,
        facts: reader.facts().clone(),
        closed: reader.closed(),
    }
}

pub(super) fn whole(flights: &[Flight]) -> impl Iterator<Item = (Direction, Input<'_>)> {
    flights
        .iter()
        .map(|(direction, bytes)| (*direction, Input::Data(bytes)))
}

fn no_keys() -> Arc<Keys> {
    Arc::new(Keys::new(Arc::new(KeyLog::new(0))))
}

fn cases() -> Vec<Peers> {
    provider::ALL_CIPHER_SUITES
        .iter()
        // The certificate has an ECDSA key.
        .filter(|suite| !format!("{:?}", suite.suite()).contains("_RSA_"))
        .map(|suite| match suite {
            SupportedCipherSuite::Tls12(_) => Peers::new(*suite, &rustls::version::TLS12),
            SupportedCipherSuite::Tls13(_) => Peers::new(*suite, &rustls::version::TLS13),
        })
        .collect()
}

fn tls13() -> Peers {
    Peers::new(
        provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
        &rustls::version::TLS13,
    )
}

fn call(talk: &mut Talk) {
    talk.say(Direction::ToServer, b"GET ");
    talk.say(Direction::ToServer, b"/seats");
    talk.say(Direction::ToClient, &b"200 OK ".repeat(4000));
    talk.say(Direction::ToClient, b"end");
    talk.bye();
}

#[test]
fn every_suite_new_and_resumed() {
    for peers in cases() {
        for round in 0..3 {
            let talk = peers.talk(None, call);
            let heard = listen(peers.log(), whole(&talk.flights));
            assert_eq!(heard.text.to_server, "GET /seats.", "round {round}");
            assert_eq!(heard.text.to_client, "200 OK ".repeat(4000) + "end.");
            assert_eq!(heard.facts.server_name.as_deref(), Some(&b"shop.test"[..]));
            assert_eq!(heard.facts.alpn.as_deref(), Some(&b"http/1.1"[..]));
            assert_eq!(heard.closed, None);
            let suite = talk.client.negotiated_cipher_suite().unwrap();
            assert_eq!(heard.facts.suite, Some(u16::from(suite.suite())));
            let version = if suite.tls13().is_some() {
                TlsVersion::Tls13
            } else {
                TlsVersion::Tls12
            };
            assert_eq!(heard.facts.version, Some(version));
        }
    }
}

#[test]
fn early_data_is_heard_once() {
    let peers = tls13();
    peers.talk(None, call);
    let talk = peers.talk(Some(b"early "), call);
    assert!(talk.client.is_early_data_accepted());
    let heard = listen(peers.log(), whole(&talk.flights));
    assert_eq!(heard.text.to_server, "early GET /seats.");

    let mut refusing = tls13();
    refusing.server.max_early_data_size = 0;
    refusing.client = peers.client.clone();
    peers.talk(None, call);
    let mut peers = peers;
    peers.server.session_storage = refusing.server.session_storage.clone();
    let talk = peers.talk(Some(b"early "), call);
    assert!(!talk.client.is_early_data_accepted());
    let heard = listen(peers.log(), whole(&talk.flights));
    assert_eq!(heard.text.to_server, "GET /seats.", "it was refused");
}

#[test]
fn keys_are_updated_both_ways() {
    let peers = tls13();
    let talk = peers.talk(None, |talk| {
        for round in 0..3 {
            talk.client.refresh_traffic_keys().unwrap();
            talk.say(Direction::ToServer, format!("c{round} ").as_bytes());
            talk.server.refresh_traffic_keys().unwrap();
            talk.say(Direction::ToClient, format!("s{round} ").as_bytes());
        }
    });
    let heard = listen(peers.log(), whole(&talk.flights));
    assert_eq!(heard.text.to_server, "c0 c1 c2 .");
    assert_eq!(heard.text.to_client, "s0 s1 s2 .");
}

#[test]
fn any_split_gives_the_same() {
    for peers in cases() {
        let talk = peers.talk(None, call);
        let (log, expected) = (peers.log(), listen(peers.log(), whole(&talk.flights)));
        for size in [1, 2, 3, 5, 7, 64, 1448] {
            let inputs = talk.flights.iter().flat_map(|(direction, bytes)| {
                bytes
                    .chunks(size)
                    .map(|part| (*direction, Input::Data(part)))
            });
            assert_eq!(listen(log.clone(), inputs), expected, "pieces of {size}");
        }
    }
}

#[test]
fn a_prefix_gives_a_prefix() {
    let peers = tls13();
    let talk = peers.talk(None, call);
    let (log, full) = (peers.log(), listen(peers.log(), whole(&talk.flights)));
    for (idx, (direction, bytes)) in talk.flights.iter().enumerate() {
        for len in (0..bytes.len()).step_by(97) {
            let cut = (*direction, Input::Data(&bytes[..len]));
            let inputs = whole(&talk.flights[..idx]).chain((len > 0).then_some(cut));
            let heard = listen(log.clone(), inputs);
            for direction in Direction::BOTH {
                let said = heard.text[direction].trim_end_matches('.');
                assert!(full.text[direction].starts_with(said));
            }
        }
    }
}

#[test]
fn a_loss_costs_what_it_touched() {
    for peers in cases() {
        let talk = peers.talk(None, |talk| {
            for round in 10..40 {
                talk.say(Direction::ToServer, format!("[{round}]").as_bytes());
            }
            talk.bye();
        });
        let log = peers.log();
        let full = listen(log.clone(), whole(&talk.flights)).text.to_server;
        // Behind them, each side says goodbye.
        let first = talk.flights.len() - 32;
        // A gap that begins and ends anywhere, also within a record.
        for (from, to, cut) in [(0, 0, 1), (0, 0, 20), (0, 3, 4), (1, 9, 0), (2, 20, 11)] {
            let lost = first + from..=first + to;
            let mut inputs = Vec::new();
            let mut gap = 0;
            for (idx, (direction, bytes)) in talk.flights.iter().enumerate() {
                if *direction != Direction::ToServer || !lost.contains(&idx) {
                    inputs.push((*direction, Input::Data(bytes)));
                    continue;
                }
                let head = if idx == *lost.start() {
                    cut.min(bytes.len())
                } else {
                    0
                };
                if head > 0 {
                    inputs.push((*direction, Input::Data(&bytes[..head])));
                }
                gap += (bytes.len() - head) as u64;
                if idx == *lost.end() {
                    let cause = GapCause::Lost;
                    inputs.push((*direction, Input::Gap(Gap { len: gap, cause })));
                }
            }
            let heard = listen(log.clone(), inputs);
            let (before, after) = heard.text.to_server.split_once("<gap>").expect("a gap");
            assert!(
                full.starts_with(before) && full.ends_with(after),
                "{heard:?}"
            );
            assert!(after.ends_with("[39]."), "{heard:?}");
            let expected = full.len() - 4 * (to - from + 1);
            assert_eq!(before.len() + after.len(), expected, "{heard:?}");
        }
    }
}

/// What a sink is told, both directions in one text, with the lengths of gaps.
fn told<'a>(log: Arc<Keys>, inputs: impl IntoIterator<Item = (Direction, Input<'a>)>) -> String {
    let mut scratch = Vec::new();
    let mut reader = Reader::new(Limits::default(), log);
    let mut text = String::new();
    let mut sink = |_, direction: Direction, input: Input<'_>| {
        text.push(match direction {
            Direction::ToServer => '>',
            Direction::ToClient => '<',
        });
        match input {
            Input::Data(data) => text.push_str(std::str::from_utf8(data).unwrap()),
            Input::Gap(gap) => text.push_str(&format!("gap {} ", gap.len)),
            Input::Fin | Input::Reset | Input::Cut => text.push('.'),
        }
    };
    for (direction, input) in inputs {
        reader.push(Timestamp::EPOCH, direction, input, &mut scratch, &mut sink);
    }
    for direction in Direction::BOTH {
        let end = Input::Cut;
        reader.push(Timestamp::EPOCH, direction, end, &mut scratch, &mut sink);
    }
    text
}

/// The flights, with gaps in the place of some.
fn without(
    flights: &[Flight],
    lost: impl Fn(&Flight) -> bool,
) -> impl Iterator<Item = (Direction, Input<'_>)> {
    flights.iter().map(move |flight| {
        let (direction, bytes) = flight;
        let gap = Gap {
            len: bytes.len() as u64,
            cause: GapCause::Lost,
        };
        let is_lost = lost(flight);
        (
            *direction,
            if is_lost {
                Input::Gap(gap)
            } else {
                Input::Data(bytes)
            },
        )
    })
}

#[test]
fn lost_records_have_a_length_and_a_place() {
    for peers in cases() {
        let talk = peers.talk(None, |talk| {
            for turn in 1..=4 {
                talk.say(Direction::ToServer, format!("ask{turn} ").as_bytes());
                let answer = format!("answer{turn} ");
                talk.say(Direction::ToClient, answer.as_bytes());
            }
        });
        let said = talk.flights.len() - 8;
        let lose = |lost: &[usize]| {
            let lost: Vec<_> = lost
                .iter()
                .map(|n| talk.flights[said + n].clone())
                .collect();
            let inputs = without(&talk.flights, move |flight| lost.contains(flight));
            told(peers.log(), inputs)
        };
        assert_eq!(
            lose(&[3]),
            ">ask1 <answer1 >ask2 <gap 8 >ask3 <answer3 >ask4 <answer4 >.<."
        );
        // Both directions at once.
        assert_eq!(
            lose(&[3, 4]),
            ">ask1 <answer1 >ask2 <gap 8 >gap 5 <answer3 >ask4 <answer4 >.<."
        );
        // A loss that spans a turn of the other side is told turn by turn, and what each part was is not
        // known.
        assert_eq!(
            lose(&[3, 5]),
            ">ask1 <answer1 >ask2 <gap 0 >ask3 <gap 0 >ask4 <answer4 >.<."
        );
        // Nothing was said before: it may have been a ticket.
        assert_eq!(
            lose(&[1]),
            ">ask1 <gap 0 >ask2 <answer2 >ask3 <answer3 >ask4 <answer4 >.<."
        );
    }
}

#[test]
fn what_waits_for_a_lost_record_is_bounded() {
    let peers = tls13();
    let talk = peers.talk(None, |talk| {
        talk.say(Direction::ToServer, b"ask ");
        talk.say(Direction::ToClient, b"lost");
        for _ in 0..20 {
            talk.say(Direction::ToServer, &[b'x'; 8 << 10]);
        }
    });
    let lost = talk.flights.len() - 21;
    let lost = talk.flights[lost].clone();
    let limits = Limits::default();
    let mut scratch = Vec::new();
    let mut reader = Reader::new(limits, peers.log());
    let (mut said, mut gaps) = (0, 0);
    let inputs = without(&talk.flights, move |flight| *flight == lost);
    for (direction, input) in inputs {
        let mut sink = |_, _, input: Input<'_>| match input {
            Input::Data(data) => said += data.len(),
            _ => gaps += 1,
        };
        reader.push(Timestamp::EPOCH, direction, input, &mut scratch, &mut sink);
        assert!(reader.memory() <= limits.behind_gap + (32 << 10));
    }
    assert_eq!(
        (said, gaps),
        (4 + 20 * (8 << 10), 1),
        "nothing waits any more"
    );
}

#[test]
fn a_lost_end_of_the_handshake_costs_nothing() {
    for peers in cases() {
        let talk = peers.talk(None, call);
        let log = peers.log();
        let expected = listen(log.clone(), whole(&talk.flights)).text;
        // The ClientHello, the server's answer, and then the flight that ends in Finished.
        let (direction, finished) = &talk.flights[2];
        assert_eq!(*direction, Direction::ToServer);
        for keep in [0, 1, 5, 9] {
            let gap = Gap {
                len: (finished.len() - keep) as u64,
                cause: GapCause::Lost,
            };
            let cut = [Input::Data(&finished[..keep]), Input::Gap(gap)];
            let inputs = whole(&talk.flights[..2])
                .chain(
                    cut[usize::from(keep == 0)..]
                        .iter()
                        .map(|input| (*direction, *input)),
                )
                .chain(whole(&talk.flights[3..]));
            assert_eq!(listen(log.clone(), inputs).text, expected, "kept {keep}");
        }
    }
}

#[test]
fn keys_may_come_late() {
    let peers = tls13();
    let talk = peers.talk(None, |talk| talk.say(Direction::ToServer, b"hello"));
    let log = Arc::new(KeyLog::new(1000));
    let keys = Arc::new(Keys::new(log.clone()));
    let mut scratch = Vec::new();
    let mut reader = Reader::new(Limits::default(), keys.clone());
    let mut text = Vec::new();
    let mut sink = |_: Timestamp, _: Direction, input: Input<'_>| match input {
        Input::Data(data) => text.extend_from_slice(data),
        _ => text.push(b'.'),
    };
    for (direction, input) in whole(&talk.flights) {
        reader.push(Timestamp::EPOCH, direction, input, &mut scratch, &mut sink);
    }
    assert!(reader.memory() > 0);
    keys.advance(log.add(peers.text.0.lock().unwrap().as_bytes()).edition);
    for direction in Direction::BOTH {
        reader.push(
            Timestamp::EPOCH,
            direction,
            Input::Fin,
            &mut scratch,
            &mut sink,
        );
    }
    assert_eq!(text, b"hello..");
}

#[test]
fn without_keys_it_says_so() {
    for peers in cases() {
        let talk = peers.talk(None, call);
        let heard = listen(no_keys(), whole(&talk.flights));
        assert_eq!(heard.closed, Some(Unread::NoKeys));
        assert_eq!(heard.facts.server_name.as_deref(), Some(&b"shop.test"[..]));
        assert_eq!((&*heard.text.to_server, &*heard.text.to_client), (".", "."));
    }
}

#[test]
fn a_handshake_that_failed_says_how() {
    for peers in cases() {
        // The client trusts nobody.
        let crypto = peers.client.crypto_provider().clone();
        let mut stranger = ClientConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        stranger.key_log = peers.text.clone();
        let name = ServerName::try_from("shop.test").unwrap();
        let mut client = ClientConnection::new(Arc::new(stranger), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(peers.server.clone())).unwrap();
        let mut flights: Vec<Flight> = Vec::new();
        for _ in 0..4 {
            let mut up = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut up).unwrap();
            }
            let mut rest = &up[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                drop(server.process_new_packets());
            }
            let mut down = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut down).unwrap();
            }
            let mut rest = &down[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                drop(client.process_new_packets());
            }
            let both = [(Direction::ToServer, up), (Direction::ToClient, down)];
            flights.extend(both.into_iter().filter(|(_, bytes)| !bytes.is_empty()));
        }
        let heard = listen(peers.log(), whole(&flights));
        // unknown_ca
        assert_eq!(heard.closed, Some(Unread::HandshakeFailed(Some(48))));
    }
}

#[test]
fn what_is_held_is_bounded() {
    let peers = tls13();
    let talk = peers.talk(None, |talk| {
        for _ in 0..100 {
            talk.say(Direction::ToClient, &[b'x'; 16 << 10]);
        }
    });
    let limits = Limits::default();
    let mut scratch = Vec::new();
    let mut reader = Reader::new(limits, no_keys());
    for (direction, input) in whole(&talk.flights) {
        reader.push(
            Timestamp::EPOCH,
            direction,
            input,
            &mut scratch,
            &mut |_, _, _: Input<'_>| {},
        );
        assert!(reader.memory() <= 2 * limits.held_bytes);
    }
    assert_eq!(reader.closed(), Some(Unread::NoKeys));
}

#[test]
fn trials_are_bounded() {
    let peers = tls13();
    let talk = peers.talk(None, |talk| talk.say(Direction::ToServer, b"hello"));
    let limits = Limits {
        trial_bytes: 1 << 20,
        ..Limits::default()
    };
    let mut scratch = Vec::new();
    let mut reader = Reader::new(limits, peers.log());
    let mut text = Vec::new();
    let mut sink = |_: Timestamp, _: Direction, input: Input<'_>| match input {
        Input::Data(data) => text.extend_from_slice(data),
        Input::Gap(_) => text.extend_from_slice(b"<gap>"),
        _ => text.push(b'.'),
    };
    let at = Timestamp::EPOCH;
    for (direction, input) in whole(&talk.flights) {
        reader.push(at, direction, input, &mut scratch, &mut sink);
    }
    let gap = Gap {
        len: 0,
        cause: GapCause::Lost,
    };
    reader.push(
        at,
        Direction::ToServer,
        Input::Gap(gap),
        &mut scratch,
        &mut sink,
    );
    // Each looks like a record, and none is.
    let bait = [23, 3, 3, 0, 1].repeat(2000);
    reader.push(
        at,
        Direction::ToServer,
        Input::Data(&bait),
        &mut scratch,
        &mut sink,
    );
    assert_eq!(reader.closed(), Some(Unread::Desynchronised));
    reader.push(at, Direction::ToServer, Input::Fin, &mut scratch, &mut sink);
    assert_eq!(text, b"hello<gap>.");
}

#[test]
fn a_connection_without_its_beginning_is_closed() {
    let peers = tls13();
    let talk = peers.talk(None, call);
    let heard = listen(peers.log(), whole(&talk.flights[2..]));
    assert_eq!(heard.closed, Some(Unread::HandshakeNotSeen));
}

#[test]
fn damage_never_panics() {
    let peers = tls13();
    let talk = peers.talk(None, |talk| talk.say(Direction::ToServer, b"hello"));
    let log = peers.log();
    for (idx, (_, bytes)) in talk.flights.iter().enumerate() {
        for at in 0..bytes.len() {
            let mut flights = talk.flights.clone();
            flights[idx].1[at] ^= 0x55;
            listen(log.clone(), whole(&flights));
        }
    }
}

#[test]
fn hellos_are_told_from_others() {
    let peers = tls13();
    let talk = peers.talk(None, |_| {});
    let roles = [
        tapedeck_model::Role::Request,
        tapedeck_model::Role::Response,
    ];
    for ((_, bytes), role) in talk.flights.iter().zip(roles) {
        assert_eq!(probe(bytes), Probe::Yes(role));
        assert_eq!(probe(&bytes[..5]), Probe::NeedMore);
    }
    assert_eq!(probe(b"GET / HTTP/1.1"), Probe::No);
}
