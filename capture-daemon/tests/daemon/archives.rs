//! Segments, interruptions, and disks that are full.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tapedeck_archive::{Archive, Scratch};
use tapedeck_model::Origin;

use crate::support::{
    Client, Daemon, Load, config, get, is_possible, segments, serve, targets, until,
};

#[test]
fn segments_follow_each_other_and_a_connection_goes_on_through_them() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let text = config(&archive, server.port(), "");
    let text = text.replace("archive: {", "archive: { segment_age: 1s,");
    let daemon = Daemon::start(folder.path(), &text);
    let mut client = Client::connect(server);
    let mut sent = 0;
    until("three segments", || {
        client.get(&format!("/{sent}"));
        sent += 1;
        let sealed = daemon.metrics()["tapedeck_segments_total{event=\"sealed\"}"];
        (sealed >= 3.0).then_some(())
    });
    drop(client);
    daemon.stop();
    assert!(segments(&archive).len() >= 3);
    let expected: Vec<_> = (0..sent).map(|n| (format!("/{n}"), true)).collect();
    assert_eq!(targets(&archive), expected);
}

/// What was flushed before is there, nothing is left in the kernel, and the next start goes on.
#[test]
fn after_a_kill_the_next_start_seals_what_was_recorded() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let text = config(&archive, server.port(), "");
    // Open over the whole test.
    let mut client = Client::connect(server);
    let daemon = Daemon::start(folder.path(), &text);
    for number in 0..50 {
        client.get(&format!("/first/{number}"));
    }
    daemon.wait_for("tapedeck_exchanges_total", 50.0);
    // The bound of what a crash costs is a second.
    let uptime = daemon.metrics()["tapedeck_uptime_seconds"];
    daemon.wait_for("tapedeck_uptime_seconds", uptime + 2.5);
    daemon.kill();
    assert!(segments(&archive).is_empty());

    client.get("/between");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.wait_for("tapedeck_segments_total{event=\"resumed\"}", 1.0);
    for number in 0..50 {
        client.get(&format!("/second/{number}"));
    }
    daemon.wait_for("tapedeck_exchanges_total", 50.0);
    let log = daemon.stop();
    assert!(log.contains("interrupted run sealed"), "{log}");
    let part = |name: &str| {
        let name = name.to_owned();
        (0..50).map(move |number| (format!("/{name}/{number}"), true))
    };
    let expected: Vec<_> = part("first").chain(part("second")).collect();
    assert_eq!(targets(&archive), expected);
    // To both runs the connection is one that predates them.
    let archive = Archive::open(&archive).unwrap();
    let mut scratch = Scratch::new();
    for id in 0..archive.len() {
        let exchange = archive.load(id, &mut scratch).unwrap().to_exchange();
        assert_eq!(exchange.connection.origin, Origin::Predates);
    }
}

/// The ids of what a process has in the kernel, as its descriptors tell: `map_id`, `prog_id`, `link_id`.
fn bpf_objects(process: u32) -> BTreeSet<(String, u32)> {
    let mut objects = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap() {
        // One that was closed in between is none.
        let info = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        for line in info.lines() {
            if let Some((kind @ ("map_id" | "prog_id" | "link_id"), id)) = line.split_once(':') {
                objects.insert((kind.to_owned(), id.trim().parse().unwrap()));
            }
        }
    }
    objects
}

/// All that there are in the kernel, whoever has them.
fn all_bpf_objects() -> BTreeSet<(String, u32)> {
    let programs = aya::programs::loaded_programs().filter_map(Result::ok);
    let maps = aya::maps::loaded_maps().filter_map(Result::ok);
    let links = aya::programs::loaded_links().filter_map(Result::ok);
    let of = |kind: &str, id| (kind.to_owned(), id);
    programs
        .map(|program| of("prog_id", program.id()))
        .chain(maps.map(|map| of("map_id", map.id())))
        .chain(links.map(|link| of("link_id", link.id())))
        .collect()
}

/// Killed while it records, it leaves nothing in the kernel and an archive that holds what it had
/// flushed; who is recorded does not notice.
#[test]
fn a_kill_under_load_leaves_nothing_behind() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let text = config(&archive, server.port(), "");
    let daemon = Daemon::start(folder.path(), &text);
    let load = Load::start(server, 8);
    let before = daemon.wait_for("tapedeck_exchanges_total", 200.0) as usize;
    // The bound of what a crash costs is a second.
    let uptime = daemon.metrics()["tapedeck_uptime_seconds"];
    daemon.wait_for("tapedeck_uptime_seconds", uptime + 2.5);
    let had = bpf_objects(daemon.id());
    for kind in ["prog_id", "map_id", "link_id"] {
        assert!(had.iter().any(|(of, _)| of == kind), "no {kind} in {had:?}");
    }
    assert!(had.is_subset(&all_bpf_objects()));
    daemon.kill();
    // The kernel frees them a moment after the last reference is gone.
    until("nothing is left in the kernel", || {
        had.is_disjoint(&all_bpf_objects()).then_some(())
    });
    // Nobody was told anything: the same connections go on, and every answer comes.
    let asked = load.stop();

    let daemon = Daemon::start(folder.path(), &text);
    daemon.wait_for("tapedeck_segments_total{event=\"resumed\"}", 1.0);
    daemon.stop();
    let found = targets(&archive);
    assert!(found.len() >= before, "{} of {before}", found.len());
    let targets: BTreeSet<_> = found.iter().map(|(target, _)| target.clone()).collect();
    assert_eq!(targets.len(), found.len(), "each once");
    assert!(targets.is_subset(&asked));
}

/// A file system of a megabyte, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: &Path) -> Option<Self> {
        let disk = folder.join("disk");
        fs::create_dir(&disk).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(&disk)
            .status()
            .unwrap();
        if !mounted.success() {
            println!("skipped: cannot mount a file system");
            return None;
        }
        Some(Self(disk))
    }

    /// Takes what is left.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        drop(fs::write(&filler, vec![1; 1 << 20]));
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

const NO_ARCHIVE: &str = "tapedeck_exchanges_not_archived_total{cause=\"no_archive\"}";

/// Asks until the daemon cannot write any more. Gives what it says then.
fn ask_until_full(daemon: &Daemon, server: SocketAddr) -> String {
    until("not ready", || {
        get(server, "/lost");
        let (status, why) = daemon.get("/readyz");
        (status == 503).then_some(why)
    })
}

/// What it wrote adds up to what it says: each exchange is in the archive, or is told as lost there.
#[track_caller]
fn check_ledger(archive: &Path, log: &str, lost: u64) {
    let archive = Archive::open(archive).unwrap();
    assert_eq!(archive.len(), stopped_with(log) as u64);
    let ledger = archive.ledger();
    assert_eq!(ledger.exchanges, archive.len());
    assert_eq!(ledger.exchanges_dropped, lost);
    for segment in archive.segments() {
        assert!(segment.len > 0, "{} is empty", segment.path.display());
    }
}

#[test]
fn on_a_full_disk_it_goes_on_as_soon_as_there_is_room() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path()) else {
        return;
    };
    let archive = disk.0.join("tapes");
    let server = serve();
    let daemon = Daemon::start(folder.path(), &config(&archive, server.port(), ""));
    get(server, "/before");
    daemon.wait_for("tapedeck_exchanges_total", 1.0);
    // It is on the disk within a second.
    let uptime = daemon.metrics()["tapedeck_uptime_seconds"];
    daemon.wait_for("tapedeck_uptime_seconds", uptime + 2.5);
    // Somebody else takes the rest of the disk.
    let filler = disk.fill();
    let why = ask_until_full(&daemon, server);
    assert!(why.contains("space"), "{why}");
    assert_eq!(daemon.get("/livez").0, 200);
    get(server, "/lost");
    daemon.wait_for(NO_ARCHIVE, 1.0);
    fs::remove_file(&filler).unwrap();
    until("ready", || (daemon.get("/readyz").0 == 200).then_some(()));
    let taken = daemon.metrics()["tapedeck_exchanges_total"];
    get(server, "/after");
    daemon.wait_for("tapedeck_exchanges_total", taken + 1.0);
    // Sealed by a try to go on, whether or not that had room for more.
    let resumed = daemon.metrics()["tapedeck_segments_total{event=\"resumed\"}"];
    assert!(resumed >= 1.0, "{resumed}");
    let lost = daemon.metrics()[NO_ARCHIVE];
    let log = daemon.stop();
    let found = targets(&archive);
    let has = |path: &str| found.contains(&(path.to_owned(), true));
    assert!(has("/before") && has("/after"), "{found:?}");
    check_ledger(&archive, &log, lost as u64);
}

/// A server of bodies of that many bytes that do not shrink.
fn serve_long(len: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let body: Vec<u8> = (0..len).map(|_| next()).collect();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut line).is_ok_and(|len| len > 2) {
                line.clear();
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n");
            drop(stream.write_all(head.as_bytes()));
            drop(stream.write_all(&body));
        }
    });
    address
}

/// The body lies in the file before its exchange would.
#[test]
fn a_long_body_that_fills_the_disk_is_lost_alone() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path()) else {
        return;
    };
    let archive = disk.0.join("tapes");
    let (server, long) = (serve(), serve_long(3 << 20));
    let text = config(&archive, server.port(), "");
    let ports = format!("ports: [{}, {}]", server.port(), long.port());
    let text = text.replace(&format!("ports: [{}]", server.port()), &ports);
    let daemon = Daemon::start(folder.path(), &text);
    let ask_for = |path: &str| {
        let taken = daemon.metrics()["tapedeck_exchanges_total"];
        get(server, path);
        daemon.wait_for("tapedeck_exchanges_total", taken + 1.0);
    };
    for round in 0..3 {
        ask_for(&format!("/{round}"));
        // Safe within a second.
        let uptime = daemon.metrics()["tapedeck_uptime_seconds"];
        daemon.wait_for("tapedeck_uptime_seconds", uptime + 2.5);
        ask(long);
        daemon.wait_for(NO_ARCHIVE, f64::from(round + 1));
        until("ready", || (daemon.get("/readyz").0 == 200).then_some(()));
    }
    ask_for("/3");
    let log = daemon.stop();
    let expected = ["/0", "/1", "/2", "/3"].map(|path| (path.to_owned(), true));
    assert_eq!(targets(&archive), expected);
    check_ledger(&archive, &log, 3);
    let lens = fs::read_dir(&archive).unwrap();
    let lens = lens.map(|entry| entry.unwrap().metadata().unwrap().len());
    let len: u64 = lens.sum();
    assert!(len < 64 << 10, "{len} bytes of four short exchanges");
}

/// Reads an answer and drops it.
fn ask(server: SocketAddr) {
    let mut stream = TcpStream::connect(server).unwrap();
    stream
        .write_all(b"GET /long HTTP/1.1\r\nHost: test\r\n\r\n")
        .unwrap();
    std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
}

/// What is not to be kept any more makes room, though nothing can be written.
#[test]
fn on_a_full_disk_retention_goes_on() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path()) else {
        return;
    };
    let archive = disk.0.join("tapes");
    let server = serve();
    let text = config(&archive, server.port(), "");
    let text = text.replace("archive: {", "archive: { segment_age: 1s, retain_age: 10s,");
    let daemon = Daemon::start(folder.path(), &text);
    get(server, "/old");
    daemon.wait_for("tapedeck_segments_total{event=\"sealed\"}", 1.0);
    disk.fill();
    ask_until_full(&daemon, server);
    daemon.wait_for("tapedeck_segments_total{event=\"deleted\"}", 1.0);
    until("ready", || (daemon.get("/readyz").0 == 200).then_some(()));
    get(server, "/after");
    let log = daemon.stop();
    assert!(log.contains("segment deleted by retention"), "{log}");
    let found = targets(&archive);
    assert!(found.contains(&("/after".to_owned(), true)), "{found:?}");
}

/// The exchanges that it says it archived, when it stops.
#[track_caller]
fn stopped_with(log: &str) -> usize {
    let line = log
        .lines()
        .find(|line| line.contains("\"stopped\""))
        .unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line["exchanges"].as_u64().unwrap() as usize
}

/// What was written to a file that is no more looks like any other, until it is to get its name.
#[test]
fn a_folder_that_is_removed_is_noticed_and_made_again() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let daemon = Daemon::start(folder.path(), &config(&archive, server.port(), ""));
    for number in 0..3 {
        get(server, &format!("/lost/{number}"));
    }
    daemon.wait_for("tapedeck_exchanges_total", 3.0);
    let removed = Instant::now();
    fs::remove_dir_all(&archive).unwrap();
    daemon.wait_for(NO_ARCHIVE, 3.0);
    // A second to look, one for the numbers; much more is the busy machine's.
    assert!(removed.elapsed() < Duration::from_secs(60));
    daemon.wait_for_log("it was removed meanwhile");
    until("it is there again", || {
        (daemon.metrics()["tapedeck_archive_writable"] == 1.0 && archive.exists()).then_some(())
    });
    get(server, "/after");
    daemon.wait_for("tapedeck_exchanges_total", 4.0);
    assert_eq!(daemon.metrics()[NO_ARCHIVE], 3.0);
    let log = daemon.stop();
    assert_eq!(targets(&archive), [("/after".to_owned(), true)]);
    check_ledger(&archive, &log, 3);
}
