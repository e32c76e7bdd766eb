//! From the wire into an archive.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tapedeck_archive::{Archive, BodyBuffer, Scratch};
use tapedeck_model::Missing;
use tapedeckd::capture::{self, Backend, Ended, Options, Setup, Until};

use crate::support::{record, recording_options, request, response, skip, writer};

const LENGTHS: [usize; 6] = [0, 1, 1_000, 65_536, 1 << 20, 8 << 20];

/// Answers POSTs on one connection, until that is closed: as many other bytes as came.
fn serve(listener: &TcpListener) {
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let mut len = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap() == 0 {
                return;
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                len = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; len];
        reader.read_exact(&mut body).unwrap();
        assert!(body == request(len));
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n");
        reader.get_mut().write_all(head.as_bytes()).unwrap();
        reader.get_mut().write_all(&response(len)).unwrap();
    }
}

/// Sends a POST of each length on one connection.
fn talk(server: SocketAddr) {
    let mut stream = TcpStream::connect(server).unwrap();
    for len in LENGTHS {
        let head = format!("POST /{len} HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&request(len)).unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n");
        let mut got = vec![0; answer.len() + len];
        stream.read_exact(&mut got).unwrap();
        assert!(got.ends_with(&response(len)));
    }
}

/// The bodies of requests and responses, in the order of the archive.
fn bodies(archive: &Archive) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut scratch, mut buffer) = (Scratch::new(), BodyBuffer::new());
    (0..archive.len())
        .map(|id| {
            let record = archive.load(id, &mut scratch).unwrap();
            let [request, response] = [record.request(), record.response()].map(|message| {
                let body = message.unwrap().body();
                archive.body(&body, &mut buffer).unwrap().to_vec()
            });
            (request, response)
        })
        .collect()
}

#[test]
fn what_was_said_is_in_the_archive() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let recordings: Vec<_> = [Backend::Ebpf, Backend::AfPacket]
        .into_iter()
        .filter_map(|backend| {
            let path = folder.path().join(format!("{backend}.tape"));
            let thread = record(&recording_options(backend, server.port()), &path, &stop)?;
            Some((backend, path, thread))
        })
        .collect();
    thread::scope(|scope| {
        scope.spawn(|| serve(&listener));
        talk(server);
    });
    stop.store(true, Ordering::Release);

    for (backend, path, thread) in recordings {
        let summary = thread.join().unwrap();
        assert_eq!(summary.backend, backend);
        assert!(matches!(summary.ended, Ended::Stopped));
        assert_eq!(summary.ledger.packets_dropped_by_kernel, 0, "{backend}");
        assert_eq!(summary.ledger.gaps, 0, "{backend}");
        assert_eq!(summary.ledger.connections, 1, "{backend}");
        assert_eq!(summary.archive.exchanges, LENGTHS.len() as u64, "{backend}");

        let archive = Archive::open(&path).unwrap();
        let targets: Vec<_> = archive
            .rows()
            .map(|row| {
                assert_eq!(row.request_missing(), Missing::NONE, "{backend}");
                assert_eq!(row.response_missing(), Missing::NONE, "{backend}");
                String::from_utf8(row.target().unwrap().to_vec()).unwrap()
            })
            .collect();
        assert_eq!(targets, LENGTHS.map(|len| format!("/{len}")), "{backend}");
        for ((request_body, response_body), len) in bodies(&archive).into_iter().zip(LENGTHS) {
            assert!(request_body == request(len), "{backend}: request of {len}");
            assert!(
                response_body == response(len),
                "{backend}: response of {len}"
            );
        }
    }
}

#[test]
fn a_recording_ends_by_time_and_by_count() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = recording_options(Backend::Auto, server.port());
    let opened = match capture::open(&options) {
        Ok(opened) => opened,
        Err(error) => {
            skip(&error.to_string());
            return;
        }
    };
    assert_ne!(opened.backend, Backend::Auto);
    let never = AtomicBool::new(false);

    let until = Until {
        duration: Some(Duration::from_millis(100)),
        exchanges: None,
    };
    let path = folder.path().join("time.tape");
    let summary = capture::run(
        opened,
        writer(&path),
        Setup::default(),
        &until,
        &never,
        &mut |_| (),
    )
    .unwrap();
    assert!(matches!(summary.ended, Ended::Duration));
    assert!(Archive::open(&path).unwrap().is_empty());

    let until = Until {
        duration: None,
        exchanges: Some(2),
    };
    let opened = capture::open(&options).unwrap();
    let path = folder.path().join("count.tape");
    let summary = thread::scope(|scope| {
        scope.spawn(|| serve(&listener));
        scope.spawn(|| talk(server));
        capture::run(
            opened,
            writer(&path),
            Setup::default(),
            &until,
            &never,
            &mut |_| (),
        )
        .unwrap()
    });
    assert!(matches!(summary.ended, Ended::Exchanges));
    assert!(summary.archive.exchanges >= 2);
}

/// The programs on it go without a word.
#[test]
fn a_cgroup_that_is_removed_ends_the_recording_with_what_it_has() {
    let Ok(root) = tapedeckd::sources::ebpf::cgroup_root() else {
        skip("no cgroup2");
        return;
    };
    let cgroup = root.join(format!("tapedeck-recorded-{}", std::process::id()));
    if let Err(error) = std::fs::create_dir(&cgroup) {
        skip(&error.to_string());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gone.tape");
    let options = Options {
        cgroup: Some(cgroup.clone()),
        ..recording_options(Backend::Ebpf, 80)
    };
    let stop = Arc::new(AtomicBool::new(false));
    let thread = record(&options, &path, &stop);
    std::fs::remove_dir(&cgroup).unwrap();
    let Some(thread) = thread else { return };
    // Else the test would not end.
    let start = Instant::now();
    while !thread.is_finished() && start.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::Release);
    let summary = thread.join().unwrap();
    match summary.ended {
        Ended::SourceFailed(error) => {
            assert_eq!(
                error.to_string(),
                format!("the cgroup {} is gone", cgroup.display())
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(Archive::open(&path).unwrap().is_empty());
}

/// A connection that began before the recording, and goes on after it.
#[test]
fn what_is_not_whole_is_marked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| serve(&listener));
        let mut stream = TcpStream::connect(server).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let path = folder.path().join("midstream.tape");
        let Some(thread) = record(
            &recording_options(Backend::Ebpf, server.port()),
            &path,
            &stop,
        ) else {
            return;
        };
        let head = "POST /3 HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&request(3)).unwrap();
        let mut answer = vec![0; "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n".len() + 3];
        stream.read_exact(&mut answer).unwrap();
        // Of the second one only the half.
        stream.write_all(head.as_bytes()).unwrap();
        stop.store(true, Ordering::Release);
        let summary = thread.join().unwrap();
        assert_eq!(summary.ledger.connections_midstream, 1);
        let archive = Archive::open(&path).unwrap();
        let complete: Vec<_> = archive.rows().map(|row| row.complete()).collect();
        assert_eq!(complete, [true, false], "{:?}", summary.ledger);
        stream.write_all(&request(3)).unwrap();
        stream.read_exact(&mut answer).unwrap();
    });
}
