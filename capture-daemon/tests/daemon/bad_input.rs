//! What is missing or wrong is named, and what can be recorded all the same is recorded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{
    Daemon, command, config, get, is_possible, refused, serve, targets, tool, under, until,
};

/// Runs the rest of its command line in a mount namespace of its own, where the script has changed
/// something.
fn in_other_mounts(script: &str) -> Vec<String> {
    let script = format!("{script} && exec \"$@\"");
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c"];
    let mut words: Vec<_> = words.map(str::to_owned).into();
    words.extend([script, "sh".to_owned()]);
    words
}

/// Runs the rest of its command line as root with only these capabilities.
fn with_capabilities(capabilities: &str) -> Vec<String> {
    let set = format!("-all{capabilities}");
    ["setpriv", "--bounding-set", &set, "--inh-caps", "-all"]
        .map(str::to_owned)
        .into()
}

/// A daemon that is started in that way records by `backend`, and its log says these things.
fn check_records(wrapper: &[String], asked: &str, backend: &str, said: &[&str]) {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let text = config(&archive, server.port(), "");
    let text = text.replace("backend: ebpf", &format!("backend: {asked}"));
    let daemon = Daemon::start_by(folder.path(), &text, wrapper);
    get(server, "/all-the-same");
    daemon.wait_for("tapedeck_exchanges_total", 1.0);
    let backend = format!("tapedeck_backend{{backend=\"{backend}\"}}");
    assert_eq!(daemon.metrics()[&backend], 1.0);
    let log = daemon.stop();
    for part in said {
        assert!(log.contains(part), "{part:?} is not in:\n{log}");
    }
    assert_eq!(targets(&archive), [("/all-the-same".to_owned(), true)]);
}

/// A daemon that is started in that way ends at once, and says these things.
#[track_caller]
fn check_refuses(wrapper: &[String], asked: &str, said: &[&str]) {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tapedeckd.yaml");
    let text = config(&folder.path().join("tapes"), 80, "");
    fs::write(&path, text.replace("backend: ebpf", asked)).unwrap();
    for part in said {
        refused(under(wrapper, &path), part);
    }
}

fn without_cgroup2() -> Vec<String> {
    let root = tapedeckd::sources::ebpf::cgroup_root();
    let root = root.unwrap_or_else(|_| "/sys/fs/cgroup/unified".into());
    in_other_mounts(&format!("umount --lazy '{}'", root.display()))
}

#[test]
fn without_cgroup2_packets_are_read_from_the_interfaces() {
    let said = [
        "a better backend is not possible here",
        "no cgroup2 file system is mounted",
    ];
    check_records(&without_cgroup2(), "auto", "af-packet", &said);
}

#[test]
fn without_cgroup2_the_backend_that_needs_it_is_refused() {
    let said = ["cannot capture with ebpf", "mount -t cgroup2"];
    check_refuses(&without_cgroup2(), "backend: ebpf", &said);
}

#[test]
fn without_btf_it_records_as_with_it() {
    if Path::new("/sys/kernel/btf").exists() {
        let hidden = in_other_mounts("mount -t tmpfs none /sys/kernel/btf");
        check_records(&hidden, "ebpf", "ebpf", &[]);
    } else {
        check_records(&[], "ebpf", "ebpf", &[]);
    }
}

#[test]
fn with_fewer_capabilities_it_takes_the_backend_that_needs_fewer() {
    let said = [
        "a better backend is not possible here",
        "CAP_BPF",
        "docs/privileges.md",
    ];
    check_records(&with_capabilities(",+net_raw"), "auto", "af-packet", &said);
}

#[test]
fn without_capabilities_it_says_which() {
    let said = [
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_NET_ADMIN",
        "CAP_NET_RAW",
        "run as root",
    ];
    check_refuses(&with_capabilities(""), "backend: auto", &said);
}

#[test]
fn an_unknown_interface_is_named_with_those_there_are() {
    let said = ["no interface \"eth77\" here", "there are: ", "lo"];
    check_refuses(&[], "backend: af-packet, interface: eth77", &said);
}

#[test]
fn a_cgroup_that_is_not_there_is_named() {
    let said = [
        "/no/such/cgroup is not a cgroup of version 2",
        "the root of those is",
    ];
    check_refuses(&[], "backend: ebpf, cgroup: /no/such/cgroup", &said);
}

/// Whoever asks whether a configuration is valid hears what the start would say.
#[test]
fn what_the_start_refuses_the_check_refuses_in_the_same_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tapedeckd.yaml");
    let text = config(&folder.path().join("tapes"), 80, "");
    for (capture, said) in [
        ("backend: ebpf, interface: lo", "capture.interface: "),
        ("backend: ebpf, threads: 3", "capture.threads: "),
        ("filter: tcp prot 80", "cannot capture with libpcap"),
    ] {
        fs::write(&path, text.replace("backend: ebpf", capture)).unwrap();
        let mut check = command(&path);
        check.arg("--check");
        let said_by = |mut command: Command| {
            let output = command.output().unwrap();
            assert!(!output.status.success(), "{capture}");
            String::from_utf8(output.stderr).unwrap()
        };
        let by_check = said_by(check);
        assert!(by_check.contains(said), "{by_check}");
        assert_eq!(by_check, said_by(command(&path)));
    }
    assert!(!folder.path().join("tapes").exists(), "nothing was opened");
}

/// A file system that can only be read, until it is dropped.
struct ReadOnly(PathBuf);

impl Drop for ReadOnly {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

#[test]
fn an_archive_folder_that_can_only_be_read_is_named() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = ReadOnly(folder.path().join("disk"));
    fs::create_dir(&disk.0).unwrap();
    tool(
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", "ro", "tmpfs"])
            .arg(&disk.0),
    );
    let path = folder.path().join("tapedeckd.yaml");
    let archive = disk.0.join("tapes");
    fs::write(&path, config(&archive, 80, "")).unwrap();
    refused(command(&path), &archive.display().to_string());
    refused(command(&path), "Read-only file system");
}

/// A cgroup that is removed while its sockets are recorded, and one that takes its place.
#[test]
fn a_cgroup_that_disappears_is_told_and_recorded_again_when_it_is_back() {
    if !is_possible() {
        return;
    }
    let root = tapedeckd::sources::ebpf::cgroup_root().unwrap();
    let cgroup = Cgroup(root.join(format!("tapedeck-gone-{}", std::process::id())));
    fs::create_dir(&cgroup.0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let text = config(&archive, server.port(), "");
    let only = format!(
        "backend: ebpf, keep_privileges: true, cgroup: {}",
        cgroup.0.display()
    );
    let daemon = Daemon::start(folder.path(), &text.replace("backend: ebpf", &only));
    cgroup.curl(&format!("http://{server}/first"));
    daemon.wait_for("tapedeck_exchanges_total", 1.0);
    fs::remove_dir(&cgroup.0).unwrap();
    let why = until("not ready", || {
        let (status, why) = daemon.get("/readyz");
        (status == 503).then_some(why)
    });
    assert!(why.contains("is gone"), "{why}");
    assert_eq!(daemon.get("/livez").0, 200);

    fs::create_dir(&cgroup.0).unwrap();
    until("ready", || (daemon.get("/readyz").0 == 200).then_some(()));
    cgroup.curl(&format!("http://{server}/second"));
    daemon.wait_for("tapedeck_exchanges_total", 2.0);
    let log = daemon.stop();
    assert!(
        log.contains("nothing is recorded until it is there again"),
        "{log}"
    );
    assert!(log.contains("the cgroup is there again"), "{log}");
    let whole = |path: &str| (path.to_owned(), true);
    assert_eq!(targets(&archive), [whole("/first"), whole("/second")]);
}

/// Without the privileges for that, it ends with what it has, for whoever watches over it to start it
/// again.
#[test]
fn a_cgroup_that_is_another_one_needs_a_restart_where_privileges_were_given_up() {
    if !is_possible() {
        return;
    }
    let root = tapedeckd::sources::ebpf::cgroup_root().unwrap();
    let cgroup = Cgroup(root.join(format!("tapedeck-other-{}", std::process::id())));
    fs::create_dir(&cgroup.0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let server = serve();
    let text = config(&archive, server.port(), "");
    let only = format!("backend: ebpf, cgroup: {}", cgroup.0.display());
    let mut daemon = Daemon::start(folder.path(), &text.replace("backend: ebpf", &only));
    cgroup.curl(&format!("http://{server}/first"));
    daemon.wait_for("tapedeck_exchanges_total", 1.0);
    fs::remove_dir(&cgroup.0).unwrap();
    fs::create_dir(&cgroup.0).unwrap();
    assert!(!daemon.wait().success());
    daemon.wait_for_log("is not the one it was");
    daemon.wait_for_log("a restart is needed");
    assert_eq!(targets(&archive), [("/first".to_owned(), true)]);
}

/// It may come later, and may be misspelled.
#[test]
fn a_rule_for_a_cgroup_that_is_not_there_is_told_once() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("tapes");
    let text = config(&archive, 80, "");
    let rules = "rules: [{ cgroup: /no/such/one }, { cgroup: /no/such/other }, ";
    let daemon = Daemon::start(folder.path(), &text.replace("rules: [", rules));
    daemon.wait_for_log("/no/such/other");
    // They are resolved again each ten seconds.
    daemon.wait_for("tapedeck_uptime_seconds", 12.0);
    let log = daemon.stop();
    let told = log
        .lines()
        .filter(|line| line.contains("a rule cannot be followed yet"));
    assert_eq!(told.count(), 2, "{log}");
}

/// A cgroup, until it is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Runs curl in it.
    fn curl(&self, url: &str) {
        let script = "echo $$ > \"$1/cgroup.procs\" && exec curl -s -o /dev/null \"$2\"";
        tool(
            Command::new("sh")
                .args(["-c", script, "sh"])
                .arg(&self.0)
                .arg(url),
        );
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.0));
    }
}
