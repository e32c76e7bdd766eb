//! It starts, follows signals and its configuration, and ends.

use std::fs;

use crate::support::{
    Client, Daemon, Load, command, config, get, is_possible, refused, segments, serve, targets,
    until,
};

#[test]
fn what_was_said_is_in_the_archive_and_in_the_metrics() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let daemon = Daemon::start(folder.path(), &config(&archive, server.port(), ""));
    let mut client = Client::connect(server);
    for number in 0..100 {
        client.get(&format!("/{number}"));
    }
    drop(client);
    daemon.wait_for("tapedeck_exchanges_total", 100.0);
    let metrics = daemon.metrics();
    assert_eq!(metrics["tapedeck_backend{backend=\"ebpf\"}"], 1.0);
    assert_eq!(metrics["tapedeck_admits_connections"], 1.0);
    assert_eq!(metrics["tapedeck_archive_writable"], 1.0);
    assert_eq!(metrics["tapedeck_dropped_payload_bytes_total"], 0.0);
    assert!(metrics["tapedeck_packets_total"] >= 200.0);
    assert!(metrics["tapedeck_resident_bytes"] > 1e6);
    assert!(metrics["tapedeck_cpu_seconds_total"] > 0.0);
    assert!(metrics["tapedeck_queue_size_bytes{stream=\"0\"}"] >= f64::from(16 << 20));
    assert_eq!(daemon.get("/livez"), (200, "ok\n".to_owned()));
    assert_eq!(daemon.get("/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(daemon.get("/other").0, 404);
    let log = daemon.stop();
    assert!(log.contains("segment sealed"), "{log}");
    // Addresses and what was said are nowhere in the log.
    assert!(
        !log.contains("/99") && !log.contains(&server.to_string()),
        "{log}"
    );
    let found = targets(&archive);
    let sent: Vec<_> = (0..100)
        .map(|number| (format!("/{number}"), true))
        .collect();
    assert_eq!(found, sent);
}

/// Signals that would end it unless it said otherwise.
#[test]
fn a_signal_that_means_nothing_ends_nothing_and_quit_seals() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let mut daemon = Daemon::start(folder.path(), &config(&archive, server.port(), ""));
    for (number, signal) in (1..).zip(["-USR1", "-USR2", "-ALRM", "-XFSZ"]) {
        daemon.signal(signal);
        get(server, &format!("/{number}"));
        daemon.wait_for("tapedeck_exchanges_total", f64::from(number));
    }
    daemon.signal("-QUIT");
    assert!(daemon.wait().success(), "{}", daemon.log());
    assert_eq!(segments(&archive).len(), 1, "it is sealed");
    assert_eq!(targets(&archive).len(), 4);
}

#[test]
fn a_reload_loses_no_connection_and_a_mistake_changes_nothing() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let (server, other) = (serve(), serve());
    let path = folder.path().join("tapedeckd.yaml");
    let before = config(&archive, server.port(), "");
    let before = before.replace("backend: ebpf", "backend: ebpf, keep_privileges: true");
    let daemon = Daemon::start(folder.path(), &before);
    let mut client = Client::connect(server);
    client.get("/before");
    get(other, "/unseen");

    fs::write(&path, before.replace("rules", "rulez")).unwrap();
    daemon.signal("-HUP");
    daemon.wait_for("tapedeck_reloads_total{result=\"refused\"}", 1.0);
    assert!(daemon.log().contains("rulez"), "{}", daemon.log());
    client.get("/mistake");

    // Other rules, put in force in the running programs.
    let ports = format!("[{}, {}]", server.port(), other.port());
    let more = before.replace(&format!("[{}]", server.port()), &ports);
    fs::write(&path, &more).unwrap();
    daemon.signal("-HUP");
    daemon.wait_for("tapedeck_reloads_total{result=\"applied\"}", 1.0);
    client.get("/rules");
    get(other, "/seen");

    // Another source, while a connection goes on.
    fs::write(
        &path,
        more.replace("backend: ebpf", "backend: ebpf, ring_size: 4MiB"),
    )
    .unwrap();
    daemon.signal("-HUP");
    daemon.wait_for("tapedeck_reloads_total{result=\"applied\"}", 2.0);
    client.get("/source");

    // What only a restart can change.
    fs::write(&path, more.replace("ebpf", "af-packet")).unwrap();
    daemon.signal("-HUP");
    daemon.wait_for("tapedeck_reloads_total{result=\"refused\"}", 2.0);
    client.get("/after");
    drop(client);
    let log = daemon.stop();
    assert!(log.contains("a restart is needed"), "{log}");
    let mut found = targets(&archive);
    found.sort();
    let whole = |path: &str| (path.to_owned(), true);
    let mut expected = [
        "/before", "/mistake", "/rules", "/seen", "/source", "/after",
    ]
    .map(whole);
    expected.sort();
    assert_eq!(found, expected);
}

/// Whoever takes over a program that reads the bytes of strangers is to find nothing there.
#[test]
fn privileges_are_given_up_and_a_reload_that_needs_them_says_so() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let (server, other) = (serve(), serve());
    let before = config(&archive, server.port(), "");
    let daemon = Daemon::start(folder.path(), &before);
    let threads = daemon.privileges();
    assert!(threads.len() >= 3, "{threads:?}");
    for thread in threads {
        assert_eq!(thread, ["0000000000000000", "0000000000000000", "1"]);
    }
    let path = folder.path().join("tapedeckd.yaml");
    let other_ring = before.replace("backend: ebpf", "backend: ebpf, ring_size: 4MiB");
    fs::write(&path, other_ring).unwrap();
    daemon.signal("-HUP");
    daemon.wait_for("tapedeck_reloads_total{result=\"refused\"}", 1.0);
    assert!(daemon.log().contains("capture.keep_privileges"));
    // Rules need no privileges.
    let ports = format!("[{}, {}]", server.port(), other.port());
    fs::write(
        &path,
        before.replace(&format!("[{}]", server.port()), &ports),
    )
    .unwrap();
    daemon.signal("-HUP");
    daemon.wait_for("tapedeck_reloads_total{result=\"applied\"}", 1.0);
    get(other, "/other");
    daemon.wait_for("tapedeck_exchanges_total", 1.0);
    daemon.stop();
    assert_eq!(targets(&archive), [("/other".to_owned(), true)]);
}

/// Who records steps back behind what is recorded, and who answers probes does not.
#[test]
fn the_threads_that_record_step_back_and_no_others() {
    const NORMAL: u64 = libc::SCHED_OTHER as u64;
    const BATCH: u64 = libc::SCHED_BATCH as u64;
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    for (key, nice) in [("", 10), (", nice: 3", 3)] {
        let text = config(&archive, server.port(), "");
        let own = "ignore_own_cgroup: false";
        let text = text.replace(own, &format!("{own}{key}"));
        let daemon = Daemon::start(folder.path(), &text);
        // What reads, and what writes once a second, which is the first thread.
        let steps_back = |name: &str| name == "capture-0" || name == "tapedeckd";
        let threads = until("the threads that record step back", || {
            let threads = daemon.threads();
            let back = threads
                .iter()
                .filter(|(name, of, policy)| steps_back(name) && (*of, *policy) == (nice, BATCH));
            (back.count() == 2).then_some(threads)
        });
        let others: Vec<_> = threads
            .iter()
            .filter(|(name, ..)| !steps_back(name))
            .collect();
        assert!(!others.is_empty(), "nobody answers probes");
        for (name, nice, policy) in others {
            assert_eq!((*nice, *policy), (0, NORMAL), "{name}");
        }
        daemon.stop();
    }
}

/// The same while there is a load: nothing of it is missing, whatever changes meanwhile.
#[test]
fn a_reload_under_load_loses_nothing() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let path = folder.path().join("tapedeckd.yaml");
    let text = config(&archive, server.port(), "");
    let text = text.replace("backend: ebpf", "backend: ebpf, keep_privileges: true");
    let daemon = Daemon::start(folder.path(), &text);
    let load = Load::start(server, 8);
    let mut taken = 0.0;
    for (reload, size) in ["4MiB", "8MiB", "16MiB"].into_iter().enumerate() {
        // In between, some of the load is recorded by each source.
        taken = daemon.wait_for("tapedeck_exchanges_total", taken + 100.0);
        let other = format!("backend: ebpf, ring_size: {size}");
        fs::write(&path, text.replace("backend: ebpf", &other)).unwrap();
        daemon.signal("-HUP");
        let reloads = (reload + 1) as f64;
        daemon.wait_for("tapedeck_reloads_total{result=\"applied\"}", reloads);
    }
    daemon.wait_for("tapedeck_exchanges_total", taken + 100.0);
    let asked = load.stop();
    let log = daemon.stop();
    let found = targets(&archive);
    assert_eq!(found.len(), asked.len(), "{log}");
    assert!(
        found
            .iter()
            .all(|(target, whole)| *whole && asked.contains(target))
    );
}

#[test]
fn over_its_budget_it_refuses_new_connections_and_goes_on_with_the_old() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let within = config(&archive, server.port(), "");
    let daemon = Daemon::start(folder.path(), &within);
    let mut old = Client::connect(server);
    old.get("/old/1");
    let path = folder.path().join("tapedeckd.yaml");
    fs::write(&path, format!("{within}budget: {{ memory: 1MiB }}\n")).unwrap();
    daemon.signal("-HUP");
    until("refusing", || {
        (daemon.metrics().get("tapedeck_admits_connections") == Some(&0.0)).then_some(())
    });
    old.get("/old/2");
    let mut new = Client::connect(server);
    new.get("/new/1");
    daemon.wait_for("tapedeck_connections_refused_total", 1.0);
    fs::write(&path, &within).unwrap();
    daemon.signal("-HUP");
    until("admitting", || {
        (daemon.metrics().get("tapedeck_admits_connections") == Some(&1.0)).then_some(())
    });
    // A connection that was refused stays so.
    new.get("/new/2");
    get(server, "/newer");
    old.get("/old/3");
    drop((old, new));
    let log = daemon.stop();
    assert!(
        log.contains("over budget") && log.contains("within budget"),
        "{log}"
    );
    let mut found = targets(&archive);
    found.sort();
    let expected = ["/newer", "/old/1", "/old/2", "/old/3"];
    assert_eq!(found, expected.map(|path| (path.to_owned(), true)));
}

/// Packets tell nothing of connections: the gauge says what is so, not what the budget asks for.
#[test]
fn a_backend_that_cannot_refuse_connections_says_so_and_records_them() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let text = config(&archive, server.port(), "budget: { memory: 1MiB }\n");
    let text = text.replace("backend: ebpf", "backend: af-packet");
    let daemon = Daemon::start(folder.path(), &text);
    daemon.wait_for_log("this backend cannot refuse connections");
    let uptime = daemon.metrics()["tapedeck_uptime_seconds"];
    daemon.wait_for("tapedeck_uptime_seconds", uptime + 1.0);
    assert_eq!(daemon.metrics()["tapedeck_admits_connections"], 1.0);
    get(server, "/all-the-same");
    daemon.wait_for("tapedeck_exchanges_total", 1.0);
    daemon.stop();
    assert_eq!(targets(&archive), [("/all-the-same".to_owned(), true)]);
}

#[test]
fn a_configuration_with_mistakes_is_refused_before_anything_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tapedeckd.yaml");
    refused(command(&path), "cannot read the configuration");
    let archive = folder.path().join("tapes");
    fs::write(&path, config(&archive, 80, "budgit: {}\n")).unwrap();
    let place = format!(
        "{}:5:1: unknown field `budgit`, expected one of",
        path.display()
    );
    refused(command(&path), &place);
    assert!(!archive.exists());
    let check = command(&path).arg("--check").output().unwrap();
    assert!(!check.status.success());
    fs::write(&path, config(&archive, 80, "")).unwrap();
    let check = command(&path).arg("--check").output().unwrap();
    assert!(check.status.success());
    assert!(!archive.exists());
}

#[test]
fn a_second_daemon_leaves_the_first_in_peace() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let config = config(&archive, server.port(), "");
    let daemon = Daemon::start(folder.path(), &config);
    refused(
        command(&folder.path().join("tapedeckd.yaml")),
        "another process",
    );
    get(server, "/still");
    daemon.stop();
    assert_eq!(targets(&archive), [("/still".to_owned(), true)]);
    assert_eq!(segments(&archive).len(), 1);
}
