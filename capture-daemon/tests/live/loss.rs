//! A ring that is too small for the traffic: what is lost is counted, to the byte.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use tapedeck_archive::{Archive, BodyBuffer, Destination, Scratch};
use tapedeck_model::Missing;
use tapedeck_packet::{Decoded, decode};
use tapedeckd::capture::{Backend, Finished, Session, Setup};
use tapedeckd::sources::af_packet::AfPacket;
use tapedeckd::sources::ebpf::{Ebpf, Event};

use crate::services::Nginx;
use crate::support::{
    Recording, Sending, Server, af_packet_options, ebpf_options, has, or_skip, record,
    recording_options, response, skip, writer,
};
use crate::witness::until;

const LEN: usize = 8 << 20;

#[test]
fn ebpf_counts_what_found_no_room() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = ebpf_options(&[server.address.port()]);
    options.ring_bytes = 0;
    let Some(mut source) = or_skip(Ebpf::open(&options)) else {
        return;
    };
    // Nobody reads meanwhile, so the smallest ring overflows whatever the machine's speed.
    server.converse(LEN, Sending::Write);
    let mut seen = 0;
    while source
        .read(&mut |event| {
            let Decoded::Segment(segment) = decode(&event.packet) else {
                panic!("not TCP");
            };
            seen += segment.payload.len() as u64;
        })
        .unwrap()
        > 0
    {}
    let drops = source.drops().unwrap();
    assert!(drops.total() > 0, "8 MiB fit into 1 MiB");
    let sent = 2 * LEN as u64;
    let accounted = seen + drops.payload_bytes;
    // TCP may repeat; it cannot say less.
    assert!(
        (sent..sent + sent / 4).contains(&accounted),
        "{seen} bytes seen and {} lost of {sent} sent",
        drops.payload_bytes
    );
    println!("{seen} bytes seen, {drops:?}");
}

#[test]
fn ebpf_tells_the_loss_of_a_socket_with_its_next_event() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = ebpf_options(&[server.address.port()]);
    options.ring_bytes = 0;
    let Some(mut source) = or_skip(Ebpf::open(&options)) else {
        return;
    };
    let mut told = (0, 0);
    let mut drain = |source: &mut Ebpf| {
        let mut add = |event: &Event<'_>| {
            told.0 += u64::from(event.header.lost_packets);
            told.1 += u64::from(event.header.lost_bytes);
        };
        while source.read(&mut add).unwrap() > 0 {}
    };
    // Behind the first bytes the ring is made empty, so that the second ones find room and tell.
    server.converse_twice(4 << 20, 1_000, || drain(&mut source));
    drain(&mut source);
    let drops = source.drops().unwrap();
    assert!(drops.total() > 0);
    assert_eq!(told, (drops.total(), drops.payload_bytes));
}

#[test]
fn af_packet_counts_what_found_no_room() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = af_packet_options(Some("lo"), &[server.address.port()]);
    options.ring_bytes = 0;
    let Some(source) = or_skip(AfPacket::open(&options)) else {
        return;
    };
    server.converse(LEN, Sending::Write);
    let seen = Recording::start(source).stop();
    assert!(seen.drops.total() > 0, "8 MiB fit into 2 MiB");
    let stored: usize = seen.streams.values().map(|stream| stream.bytes().1).sum();
    assert!(stored < 2 * LEN, "something was lost, so not all is there");
    println!("{stored} bytes of {} seen, {:?}", 2 * LEN, seen.drops);
}

/// Whoever is recorded already has the last quarter of a ring for itself: a connection that begins
/// meanwhile is refused as a whole, and counted.
#[test]
fn a_ring_that_is_nearly_full_refuses_new_connections_before_it_loses_of_the_old() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let mut options = ebpf_options(&[server.port()]);
    options.ring_bytes = 0;
    let Some(mut source) = or_skip(Ebpf::open(&options)) else {
        return;
    };
    let connect = || {
        let client = TcpStream::connect(server).unwrap();
        (client, listener.accept().unwrap().0)
    };
    // A packet each.
    let say = |(client, accepted): &mut (TcpStream, TcpStream)| {
        client.write_all(&[1; 1_000]).unwrap();
        accepted.read_exact(&mut [0; 1_000]).unwrap();
    };
    let clients = |source: &mut Ebpf| {
        let mut ports = BTreeSet::new();
        let mut note = |event: &Event<'_>| {
            let Decoded::Segment(segment) = decode(&event.packet) else {
                panic!("not TCP");
            };
            ports.extend([segment.source.port, segment.destination.port]);
        };
        while source.read(&mut note).unwrap() > 0 {}
        ports.remove(&server.port());
        ports
    };
    let port = |of: &(TcpStream, TcpStream)| of.0.local_addr().unwrap().port();

    let mut old = connect();
    while {
        let queue = source.tap().queues().remove(0);
        queue.used <= queue.size / 4 * 3
    } {
        say(&mut old);
    }
    let mut refused = connect();
    say(&mut refused);
    say(&mut old);
    let drops = source.drops().unwrap();
    assert_eq!((drops.total(), drops.connections_refused), (0, 1));
    assert_eq!(clients(&mut source), BTreeSet::from([port(&old)]));

    // There is room again, and who was refused stays so.
    let mut new = connect();
    for connection in [&mut new, &mut refused, &mut old] {
        say(connection);
    }
    assert_eq!(
        clients(&mut source),
        BTreeSet::from([port(&old), port(&new)])
    );
    assert_eq!(source.drops().unwrap().connections_refused, 1);
}

/// What is too small for the smallest ring still works, once it is read in time.
#[test]
fn a_tiny_ring_is_enough_for_little() {
    let server = Server::bind(Ipv4Addr::LOCALHOST.into());
    let mut options = ebpf_options(&[server.address.port()]);
    options.ring_bytes = 1;
    let Some(source) = or_skip(Ebpf::open(&options)) else {
        skip("no eBPF");
        return;
    };
    let recording = Recording::start(source);
    let conversation = server.converse(10_000, Sending::Write);
    let seen = recording.stop();
    assert_eq!(seen.drops.total(), 0);
    crate::support::assert_whole(&seen, &conversation, "ebpf");
}

/// Several connections, flat out, through a ring that is far too small, into an archive. Every byte is
/// there or is told as missing, and no exchange says that it is whole when it is not.
#[test]
fn what_is_stored_and_what_is_missing_is_what_was_sent() {
    const CONNECTIONS: usize = 8;
    const ROUNDS: usize = 12;
    const BODY: usize = 200_000;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.tape");
    let mut options = recording_options(Backend::Ebpf, server.port());
    options.ring_bytes = 0;
    let opened = match tapedeckd::capture::open(&options) {
        Ok(opened) => opened,
        Err(error) => return skip(&error.to_string()),
    };
    let output = Destination::from(writer(&path));
    let mut session = Session::start(opened, output, Setup::default()).unwrap();

    let sent = AtomicU64::new(0);
    let (lines, all) = (Barrier::new(CONNECTIONS + 1), Barrier::new(CONNECTIONS));
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            // One after the other, as new connections are refused while a ring is nearly full.
            let client = TcpStream::connect(server).unwrap();
            let (answering, _) = listener.accept().unwrap();
            scope.spawn(|| answer_by_target(answering, &sent));
            let (sent, lines, all) = (&sent, &lines, &all);
            scope.spawn(move || {
                let mut client = Client::new(client, sent);
                all.wait();
                for round in 0..ROUNDS {
                    client.get(BODY + round);
                }
                // Now the ring is read until it is empty.
                lines.wait();
                lines.wait();
                // So that the end of every connection is seen: what comes before it is known to be
                // missing by that.
                client.get(1);
            });
        }
        lines.wait();
        until("the ring is empty", || {
            session.snapshot().unwrap().queues[0].used == 0
        });
        lines.wait();
    });
    let Finished { ledger, drops, .. } = session.finish().unwrap();
    println!(
        "{} bytes sent, {drops:?}, {ledger:?}",
        sent.load(Ordering::Relaxed)
    );
    assert!(
        drops.total() > 0 && ledger.gap_bytes > 0,
        "nothing was lost"
    );
    assert_eq!(drops.connections_refused, 0);
    assert_eq!(ledger.connections, CONNECTIONS as u64);
    let stored = ledger.payload_bytes_delivered;
    assert_eq!(stored + ledger.gap_bytes, sent.load(Ordering::Relaxed));
    assert_eq!(ledger.gap_bytes, ledger.gap_bytes_lost);

    let archive = Archive::open(&path).unwrap();
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::new());
    let (mut whole, mut torn) = (0, 0);
    for row in archive.rows() {
        if row.response_missing() != Missing::NONE || row.request_missing() != Missing::NONE {
            torn += 1;
            continue;
        }
        whole += 1;
        let target = row.target().unwrap();
        let len = String::from_utf8_lossy(&target)[1..].parse().unwrap();
        let record = archive.load(row.id(), &mut scratch).unwrap();
        let body = record.response().unwrap().body();
        assert!(archive.body(&body, &mut buffer).unwrap() == response(len));
    }
    println!("{whole} whole, {torn} torn");
    assert!(
        whole >= CONNECTIONS && torn > 0,
        "{whole} whole, {torn} torn"
    );
}

/// Answers `GET /LENGTH` with so many bytes, and counts what it says.
fn answer_by_target(stream: TcpStream, sent: &AtomicU64) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut stream = stream;
    while let Some(Ok(line)) = lines.next() {
        let Some(target) = line.strip_prefix("GET /") else {
            continue;
        };
        let len = target.split(' ').next().unwrap().parse().unwrap();
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n").into_bytes();
        answer.extend(response(len));
        stream.write_all(&answer).unwrap();
        sent.fetch_add(answer.len() as u64, Ordering::Relaxed);
    }
}

struct Client<'a> {
    reader: BufReader<TcpStream>,
    sent: &'a AtomicU64,
}

impl<'a> Client<'a> {
    fn new(stream: TcpStream, sent: &'a AtomicU64) -> Self {
        let reader = BufReader::new(stream);
        Self { reader, sent }
    }

    fn get(&mut self, len: usize) {
        let ask = format!("GET /{len} HTTP/1.1\r\nHost: test\r\n\r\n");
        self.reader.get_mut().write_all(ask.as_bytes()).unwrap();
        self.sent.fetch_add(ask.len() as u64, Ordering::Relaxed);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n");
        let mut answer = vec![0; head.len() + len];
        self.reader.read_exact(&mut answer).unwrap();
        assert!(answer.ends_with(&response(len)));
    }
}

/// The same by HTTP/2, where a gap may hide whole streams: those that say that they are whole are.
#[test]
fn no_stream_of_http2_says_that_it_is_whole_when_it_is_not() {
    if !(has("nginx") && has("h2load")) {
        return;
    }
    let nginx = Nginx::start("http2");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.tape");
    let mut options = recording_options(Backend::Ebpf, nginx.port);
    options.ring_bytes = 0;
    let stop = Arc::new(AtomicBool::new(false));
    let Some(thread) = record(&options, &path, &stop) else {
        return;
    };
    nginx.load(600);
    stop.store(true, Ordering::Release);
    let summary = thread.join().unwrap();
    nginx.stop();
    let telling = crate::witness::telling(&path);
    let all: Vec<_> = telling.values().flatten().collect();
    let whole = all.iter().filter(|told| told.is_whole());
    println!(
        "{} whole of {}; {:?}",
        whole.count(),
        all.len(),
        summary.drops
    );
    all.iter()
        .for_each(|told| crate::services::assert_is_file(told));
    assert!(summary.ledger.gaps > 0, "nothing was lost");
    assert!(all.len() <= 600 && !all.iter().all(|told| told.is_whole()));
}
