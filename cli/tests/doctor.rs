//! `tapedeck doctor`, as root, as nobody, and with one capability less.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::process::{Command, Output};

use serde_json::Value;

/// Runs the program behind `setpriv` with these options; `None` where this machine cannot.
fn doctor(setpriv: &[&str], args: &[&str]) -> Option<Output> {
    if !is_root() || !common::has("setpriv") {
        return None;
    }
    // A folder that everybody may enter: that of the build may be root's alone.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("tapedeck");
    std::fs::copy(env!("CARGO_BIN_EXE_tapedeck"), &program).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    let ran = Command::new("setpriv")
        .args(setpriv)
        .arg(&program)
        .arg("doctor")
        .args(args)
        .output();
    Some(ran.unwrap())
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let is_root = status.lines().any(|line| line.starts_with("Uid:\t0\t"));
    if !is_root {
        let required = std::env::var_os("TAPEDECK_REQUIRE_PRIVILEGES").is_some_and(|v| v == "1");
        assert!(!required, "cannot be skipped: not root");
        #[expect(clippy::print_stdout, reason = "a test says why it is skipped")]
        {
            println!("skipped: not root");
        }
    }
    is_root
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// The capabilities that a backend misses, and whether it is usable.
fn backend(report: &Value, name: &str) -> (bool, Vec<String>) {
    let backends = report["backends"].as_array().unwrap();
    let backend = backends.iter().find(|b| b["backend"] == name).unwrap();
    let needs = backend["needs"].as_array().unwrap();
    let missing = needs
        .iter()
        .filter(|need| need["met"] == false)
        .map(|need| {
            let what = need["what"].as_str().unwrap();
            what.split(',').next().unwrap().to_owned()
        })
        .collect();
    (backend["usable"] == true, missing)
}

#[test]
fn root_can_record_with_both_backends() {
    let Some(ran) = doctor(&["--reset-env"], &["--format", "json"]) else {
        return;
    };
    let report = json(&ran);
    assert_eq!(backend(&report, "ebpf"), (true, vec![]), "{report:#}");
    assert_eq!(backend(&report, "af-packet"), (true, vec![]));
    assert_eq!(report["choice"], "ebpf");
    assert_eq!(ran.status.code(), Some(0));

    let Some(ran) = doctor(&["--reset-env"], &[]) else {
        return;
    };
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(text.contains("ebpf: ready"), "{text}");
    assert!(text.ends_with("a recording takes ebpf\n"), "{text}");
}

#[test]
fn nobody_is_told_everything_that_is_missing() {
    let nobody = [
        "--reuid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ];
    let Some(ran) = doctor(&nobody, &["--format", "json"]) else {
        return;
    };
    let report = json(&ran);
    let all = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"].map(str::to_owned);
    assert_eq!(backend(&report, "ebpf"), (false, all.to_vec()));
    let raw = vec!["CAP_NET_RAW".to_owned()];
    assert_eq!(backend(&report, "af-packet"), (false, raw));
    assert_eq!(report["choice"], Value::Null);
    assert_eq!(ran.status.code(), Some(1));

    let Some(ran) = doctor(&nobody, &[]) else {
        return;
    };
    let text = String::from_utf8(ran.stdout).unwrap();
    let remedy = "setcap cap_bpf,cap_net_admin,cap_perfmon+ep";
    assert!(text.contains(remedy), "{text}");
    assert!(text.ends_with("no backend can record here\n"), "{text}");
}

/// Each of them alone makes the difference, and CAP_SYS_ADMIN stands for the two that were split off
/// from it.
#[test]
fn one_capability_less_is_one_that_is_missing() {
    let check = |dropped: &str, ebpf: &[&str], af_packet: &[&str], choice: &str| {
        let bounding = format!("--bounding-set={dropped}");
        let Some(ran) = doctor(&[&bounding], &["--format", "json"]) else {
            return;
        };
        let report = json(&ran);
        let missing = |of: &[&str]| of.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let expected = (ebpf.is_empty(), missing(ebpf));
        assert_eq!(backend(&report, "ebpf"), expected, "{dropped}");
        let expected = (af_packet.is_empty(), missing(af_packet));
        assert_eq!(backend(&report, "af-packet"), expected, "{dropped}");
        assert_eq!(report["choice"], choice, "{dropped}");
    };
    check("-bpf,-sys_admin", &["CAP_BPF"], &[], "af-packet");
    check("-perfmon,-sys_admin", &["CAP_PERFMON"], &[], "af-packet");
    check(
        "-net_admin,-sys_admin",
        &["CAP_NET_ADMIN"],
        &[],
        "af-packet",
    );
    check("-net_raw", &[], &["CAP_NET_RAW"], "ebpf");
    check("-bpf,-perfmon", &[], &[], "ebpf");
}

#[test]
fn a_backend_that_cannot_be_is_exit_code_1() {
    let Some(ran) = doctor(
        &["--bounding-set=-net_raw"],
        &["--backend", "af-packet", "--format", "json"],
    ) else {
        return;
    };
    let report = json(&ran);
    assert_eq!(report["backends"].as_array().unwrap().len(), 1);
    assert_eq!(ran.status.code(), Some(1));
    let Some(ran) = doctor(&[], &["--interface", "none-such"]) else {
        return;
    };
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(text.contains("no interface \"none-such\" here"), "{text}");
    assert_eq!(ran.status.code(), Some(1), "{text}");
}
