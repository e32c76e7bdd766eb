//! A daemon that is killed leaves nothing in the kernel.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tapedeckd::sources::ebpf::Ebpf;

use crate::support::{Sending, Server, ebpf_options, or_skip};

/// The ids of our programs in the kernel, whoever loaded them.
fn loaded() -> BTreeSet<u32> {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| {
            program
                .name_as_str()
                .is_some_and(|name| name.starts_with("tapedeck_"))
        })
        .map(|program| program.id())
        .collect()
}

/// The child of the test below: captures until it is killed.
#[test]
fn child_that_captures() {
    if std::env::var_os("TAPEDECK_TEST_CHILD").is_none() {
        return;
    }
    let mut source = Ebpf::open(&ebpf_options(&[])).unwrap();
    println!("capturing");
    loop {
        source.read(&mut |_| ()).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn sigkill_leaves_no_program_behind() {
    if or_skip(Ebpf::open(&ebpf_options(&[]))).is_none() {
        return;
    }
    let before = loaded();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "death::child_that_captures", "--nocapture"])
        .env("TAPEDECK_TEST_CHILD", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let is_capturing = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .any(|line| line.unwrap().contains("capturing"));
    assert!(is_capturing, "the child ended before it captured");
    let of_child: BTreeSet<u32> = loaded().difference(&before).copied().collect();
    assert!(of_child.len() >= 2, "{of_child:?}");

    child.kill().unwrap();
    child.wait().unwrap();
    // The kernel frees programs a moment after the last reference is gone.
    let start = Instant::now();
    while !of_child.is_disjoint(&loaded()) {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "still loaded: {:?}",
            of_child.intersection(&loaded())
        );
        thread::yield_now();
    }
    // The machine's network works as before.
    Server::bind(Ipv4Addr::LOCALHOST.into()).converse(1_000, Sending::Write);
}
