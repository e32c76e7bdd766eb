//! `pull`.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use tapedeck_cluster_standin::{Fault, When};

use crate::common::cluster::Cluster;
use crate::snapshots::ready_snapshot;

/// How the controller answers one request for a snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answers {
    /// What is asked for.
    Well,
    /// It ends after so many bytes.
    Cut(usize),
    /// All of it, whatever range is asked for.
    Whole,
    /// 503.
    Busy,
    /// Other bytes of the same length.
    Lies,
    /// Another range than that which is asked for.
    WrongRange,
}

/// The controller's port: answers as it is told, then well. Returns its address, and the ranges that were asked for.
pub(crate) fn controller(
    body: &'static [u8],
    answers: &[Answers],
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let mut answers: Vec<Answers> = answers.iter().rev().copied().collect();
    let ranges = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answers.pop().unwrap_or(Answers::Well);
            // Whoever cuts the connection has its reasons.
            drop(answer_one(stream, body, answer, &ranges));
        }
    });
    (address, asked)
}

fn answer_one(
    mut stream: TcpStream,
    body: &[u8],
    answer: Answers,
    ranges: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut from = 0;
    let mut has_sum = false;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            ranges.lock().expect("no panic").push(range.to_owned());
            from = range.trim_end_matches('-').parse().expect("a number");
        }
        has_sum |= line == format!("if-match: \"{}\"", blake3::hash(body).to_hex());
        if line.is_empty() {
            break;
        }
    }
    assert!(has_sum, "who asks must know the sum");
    if matches!(answer, Answers::Busy) {
        return write!(
            stream,
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy"
        );
    }
    let len = body.len();
    if matches!(answer, Answers::Whole) {
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n"
        )?;
        return stream.write_all(body);
    }
    let said = if matches!(answer, Answers::WrongRange) {
        from + 1
    } else {
        from
    };
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: bytes {said}-{}/{len}\r\nconnection: close\r\n\r\n",
        len - from,
        len - 1,
    )?;
    let rest = body.get(from..).expect("a range within");
    match answer {
        Answers::Cut(after) => stream.write_all(rest.get(..after).unwrap_or(rest)),
        Answers::Lies => stream.write_all(&vec![b'x'; rest.len()]),
        Answers::Well | Answers::Whole | Answers::Busy | Answers::WrongRange => {
            stream.write_all(rest)
        }
    }
}

/// A body that is no repetition of itself.
fn body() -> &'static [u8] {
    let bytes: Vec<u8> = (0..200_000_u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    Box::leak(bytes.into_boxed_slice())
}

fn cluster_with_snapshot(
    body: &'static [u8],
    answers: &[Answers],
) -> (Cluster, Arc<Mutex<Vec<String>>>) {
    let cluster = Cluster::with_definitions();
    cluster
        .server
        .seed(&ready_snapshot("friday", body))
        .expect("a snapshot");
    let (address, asked) = controller(body, answers);
    cluster
        .server
        .serve_plainly("tapedeck-system", "tapedeck-controller:https", address);
    (cluster, asked)
}

/// Pulls, and says whether the archive is there, with what was said.
fn pull(cluster: &Cluster, code: i32, says: &[&str]) -> Option<Vec<u8>> {
    let path = cluster.folder.path().join("friday.tape");
    let args = [
        "pull",
        "friday",
        "-n",
        "shop",
        "-o",
        path.to_str().expect("UTF-8"),
    ];
    if code == 0 {
        let ran = cluster.tapedeck(args).succeeds();
        for part in says {
            assert!(ran.stderr.contains(part), "{part}\n{}", ran.stderr);
        }
    } else {
        cluster.tapedeck(args).fails(code, says);
    }
    std::fs::read(path).ok()
}

/// What is left beside the archive.
fn partials(cluster: &Cluster) -> usize {
    let entries = std::fs::read_dir(cluster.folder.path()).expect("a folder");
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".pull"))
        .count()
}

#[test]
fn a_pull_goes_on_where_it_was_cut_and_checks_what_came() {
    let body = body();
    let cuts = [Answers::Cut(100_000), Answers::Busy, Answers::Cut(300_000)];
    let (cluster, asked) = cluster_with_snapshot(body, &cuts);
    let got = pull(
        &cluster,
        0,
        &[
            "friday.tape: 7 exchanges of 2/3 nodes, 781.2 KiB",
            "n3 is missing",
        ],
    );
    assert!(got.is_some_and(|got| got == body));
    assert_eq!(
        *asked.lock().expect("no panic"),
        ["0-", "100000-", "100000-", "400000-"]
    );
    assert_eq!(partials(&cluster), 0);
    pull(&cluster, 1, &["exists; --force replaces it"]);
}

#[test]
fn a_pull_that_ended_is_gone_on_with_by_the_next() {
    let body = body();
    // Cut for good: nothing more comes, again and again.
    let mut answers = vec![Answers::Cut(500_000)];
    answers.extend([Answers::Cut(0); 5]);
    let (cluster, asked) = cluster_with_snapshot(body, &answers);
    assert_eq!(
        pull(
            &cluster,
            1,
            &[
                "the transfer was cut again and again",
                "pull again to go on"
            ]
        ),
        None
    );
    assert_eq!(partials(&cluster), 1);
    asked.lock().expect("no panic").clear();
    let got = pull(&cluster, 0, &["going on behind 488.3 KiB"]);
    assert!(got.is_some_and(|got| got == body));
    assert_eq!(*asked.lock().expect("no panic"), ["500000-"]);
}

#[test]
fn a_pull_through_something_that_knows_no_ranges_begins_anew() {
    let body = body();
    let (cluster, _) = cluster_with_snapshot(body, &[Answers::Cut(1000), Answers::Whole]);
    assert!(pull(&cluster, 0, &[]).is_some_and(|got| got == body));
}

#[test]
fn what_is_not_the_snapshot_is_not_kept() {
    let body = body();
    let (cluster, _) = cluster_with_snapshot(body, &[Answers::Lies]);
    assert_eq!(
        pull(
            &cluster,
            1,
            &[
                "what came is not the snapshot friday: its BLAKE3 is",
                "it was not kept"
            ]
        ),
        None
    );
    assert_eq!(partials(&cluster), 0);
    let (cluster, _) = cluster_with_snapshot(body, &[Answers::WrongRange]);
    assert_eq!(
        pull(
            &cluster,
            1,
            &["the controller sends bytes 1-799999/800000, and not bytes 0-799999/800000"]
        ),
        None
    );
}

#[test]
fn a_pull_without_a_controller_or_the_right_to_it_is_said() {
    let cluster = Cluster::with_definitions();
    cluster
        .server
        .seed(&ready_snapshot("friday", b"tape"))
        .expect("a snapshot");
    assert_eq!(
        pull(
            &cluster,
            1,
            &["the controller does not answer", "no endpoints available"]
        ),
        None
    );
    let when = When {
        subresource: Some("proxy"),
        ..When::default()
    };
    cluster.server.fault(when, Fault::Forbidden, 1);
    assert_eq!(
        pull(
            &cluster,
            1,
            &[
                "services/proxy",
                "resourceNames: [\"https:tapedeck-controller:https\"]",
                "The Role tapedeck-admin"
            ]
        ),
        None
    );
}
