//! Stores, as nodes and the controller use them: a folder, and S3 by a real server of that protocol, with a network
//! in between that throttles, cuts and lies.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod moto;
mod network;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use futures_util::TryStreamExt;
use tapedeck_cluster_store::{Store, StoreError, Stores};
use tempfile::TempDir;

use moto::Moto;
use network::{Fault, Network};

/// Longer than one part of a transfer, and no multiple of it.
const LONG: usize = (17 << 20) + 1;

fn bytes(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

fn folder(path: &Path) -> Store {
    let text = format!("- {{name: volume, url: 'file://{}'}}", path.display());
    let stores = Stores::parse(&text).unwrap();
    stores.get(None).unwrap().open([]).unwrap()
}

fn s3(network: &Network, key: &str) -> Store {
    let text = format!(
        "- {{name: cloud, url: 's3://tapes/some/prefix', options: {{region: us-east-1, allow_http: 'true', \
         endpoint: 'http://{}'}}}}",
        network.address()
    );
    let stores = Stores::parse(&text).unwrap();
    let environment = [
        ("TAPEDECK_STORE_CLOUD_AWS_ACCESS_KEY_ID", key),
        ("TAPEDECK_STORE_CLOUD_AWS_SECRET_ACCESS_KEY", "a secret"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    stores.get(None).unwrap().open(environment).unwrap()
}

/// What is put comes back, whole and in ranges; it is listed, and goes.
async fn goes_there_and_back(store: &Store) {
    let files = TempDir::new().unwrap();
    for count in [0, 1, 70_000, LONG] {
        let content = bytes(count);
        let file = files.path().join("a.tape");
        fs::write(&file, &content).unwrap();
        let stored = store.put("ns/a-1.tape", &file).await.unwrap();
        assert_eq!(stored.bytes, count as u64);
        assert_eq!(stored.digest, blake3::hash(&content).into());
        let back = files.path().join("b.tape");
        store.fetch(&stored, &back).await.unwrap();
        assert!(fs::read(&back).unwrap() == content, "{count} bytes differ");
        assert!(!files.path().join("b.tape.partial").exists());
        let (from, to) = (count as u64 / 3, count as u64 / 2);
        let parts = store.range(&stored.key, from..to).await.unwrap();
        let parts: Vec<_> = parts.try_collect().await.unwrap();
        assert!(parts.concat() == content[from as usize..to as usize]);
    }
    let file = files.path().join("a.tape");
    let one = store.put_part("orders/x/node-1", &file).await.unwrap();
    assert_eq!(one.key, format!("orders/x/node-1/{}.tape", one.digest));
    let listed = store.list("orders/x").await.unwrap();
    assert_eq!(listed, [(one.key.clone(), LONG as u64)]);
    assert_eq!(store.delete_all("orders").await.unwrap(), 1);
    assert_eq!(store.list("orders").await.unwrap(), []);
    store.delete(&one.key).await.unwrap();
    let gone = store.fetch(&one, &files.path().join("c.tape")).await;
    assert!(matches!(gone, Err(StoreError::Missing { .. })), "{gone:?}");
    assert_eq!(store.list("ns").await.unwrap().len(), 1);
}

#[test]
fn a_folder_is_a_store() {
    let folder_of = TempDir::new().unwrap();
    let store = folder(folder_of.path());
    run(goes_there_and_back(&store));
    assert_eq!(
        store.url("ns/a-1.tape"),
        format!("file://{}/ns/a-1.tape", folder_of.path().display())
    );
}

#[test]
fn s3_is_a_store() {
    let Some(moto) = Moto::start() else { return };
    let network = Network::to(moto.address());
    let store = s3(&network, "AKIAEXAMPLE");
    run(goes_there_and_back(&store));
    assert_eq!(store.url("ns/a.tape"), "s3://tapes/some/prefix/ns/a.tape");
    let seen = network.requests();
    let inside = [
        "/tapes/some/prefix",
        "prefix=some/prefix",
        "prefix=some%2Fprefix",
    ];
    // What is deleted stands in the body.
    let outside: Vec<_> = seen
        .iter()
        .filter(|line| !inside.iter().any(|prefix| line.contains(prefix)))
        .filter(|line| !line.starts_with("POST /tapes?delete "))
        .collect();
    assert!(outside.is_empty(), "{outside:?}");
}

#[test]
fn no_key_leads_out_of_a_folder() {
    let outer = TempDir::new().unwrap();
    let inner = outer.path().join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(outer.path().join("secret"), "x").unwrap();
    let store = folder(&inner);
    for key in ["../secret", "a/../../secret", "", "a//b", "/etc/passwd/.."] {
        let found = run(store.length(key));
        assert!(
            matches!(found, Err(StoreError::Key { .. })),
            "{key}: {found:?}"
        );
    }
}

#[test]
fn a_folder_that_is_not_there_is_said() {
    let stores = Stores::parse("- {name: volume, url: 'file:///nowhere/at/all'}").unwrap();
    let error = stores.get(None).unwrap().open([]).unwrap_err();
    assert_eq!(error.to_string(), "store volume");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("/nowhere/at/all"), "{cause}");
}

#[test]
fn a_part_that_is_there_is_not_sent_again() {
    let Some(moto) = Moto::start() else { return };
    let network = Network::to(moto.address());
    let store = s3(&network, "AKIAEXAMPLE");
    let files = TempDir::new().unwrap();
    let file = files.path().join("a");
    fs::write(&file, bytes(100_000)).unwrap();
    let first = run(store.put_part("x", &file)).unwrap();
    let before = network.requests().len();
    assert_eq!(run(store.put_part("x", &file)).unwrap(), first);
    let again = network.requests().split_off(before);
    assert!(
        again.iter().all(|line| line.starts_with("HEAD ")),
        "{again:?}"
    );
}

#[test]
fn what_was_fetched_already_is_continued() {
    let Some(moto) = Moto::start() else { return };
    let network = Network::to(moto.address());
    let store = s3(&network, "AKIAEXAMPLE");
    let files = TempDir::new().unwrap();
    let (file, back) = (files.path().join("a"), files.path().join("b"));
    let content = bytes(300_000);
    fs::write(&file, &content).unwrap();
    let stored = run(store.put("a", &file)).unwrap();
    fs::write(files.path().join("b.partial"), &content[..200_000]).unwrap();
    let before = network.requests().len();
    run(store.fetch(&stored, &back)).unwrap();
    assert!(fs::read(&back).unwrap() == content);
    let asked = network.requests().split_off(before);
    assert_eq!(asked.len(), 1);
    assert!(asked[0].contains("range: bytes=200000-299999"), "{asked:?}");
}

/// What lies beside the destination may be of another object, or damaged: that is found, and the next
/// attempt begins anew.
#[test]
fn a_wrong_beginning_is_not_kept() {
    let there = TempDir::new().unwrap();
    let store = folder(there.path());
    let files = TempDir::new().unwrap();
    let (file, back) = (files.path().join("a"), files.path().join("b"));
    let content = bytes(5000);
    fs::write(&file, &content).unwrap();
    let stored = run(store.put("a", &file)).unwrap();
    for wrong in [vec![7; 100], vec![7; 5000]] {
        fs::write(files.path().join("b.partial"), wrong).unwrap();
        let damaged = run(store.fetch(&stored, &back));
        assert!(matches!(damaged, Err(StoreError::Damaged { .. })));
        assert!(!back.exists());
        run(store.fetch(&stored, &back)).unwrap();
        fs::remove_file(&back).unwrap();
    }
    fs::write(files.path().join("b.partial"), vec![7; 6000]).unwrap();
    run(store.fetch(&stored, &back)).unwrap();
    assert!(fs::read(&back).unwrap() == content);
}

#[test]
fn a_store_that_throttles_is_asked_again() {
    let Some(moto) = Moto::start() else { return };
    let network = Network::to(moto.address());
    let store = s3(&network, "AKIAEXAMPLE");
    let files = TempDir::new().unwrap();
    let (file, back) = (files.path().join("a"), files.path().join("b"));
    fs::write(&file, bytes(50_000)).unwrap();
    network.will("PUT", [Fault::Throttle, Fault::Throttle, Fault::Refuse]);
    network.will("GET", [Fault::Throttle]);
    let stored = run(store.put("a", &file)).unwrap();
    run(store.fetch(&stored, &back)).unwrap();
    assert!(fs::read(&back).unwrap() == bytes(50_000));
    let puts = network.requests();
    let puts = puts.iter().filter(|line| line.starts_with("PUT ")).count();
    assert_eq!(puts, 4);
}

/// Whatever becomes of a connection, a few attempts bring all bytes, and none twice.
#[test]
fn a_transfer_that_is_cut_goes_on() {
    let Some(moto) = Moto::start() else { return };
    let network = Network::to(moto.address());
    let store = s3(&network, "AKIAEXAMPLE");
    let files = TempDir::new().unwrap();
    let (file, back) = (files.path().join("a"), files.path().join("b"));
    fs::write(&file, bytes(900_000)).unwrap();
    let stored = run(store.put("a", &file)).unwrap();
    network.will(
        "GET",
        [Fault::Cut(1), Fault::Cut(200_000), Fault::Cut(400_000)],
    );
    let attempts = (0..10).position(|_| run(store.fetch(&stored, &back)).is_ok());
    assert!(attempts.is_some());
    assert!(fs::read(&back).unwrap() == bytes(900_000));
    assert_eq!(network.left("GET"), 0);
}

#[test]
fn a_store_that_lies_is_found_out() {
    let Some(moto) = Moto::start() else { return };
    let network = Network::to(moto.address());
    let store = s3(&network, "AKIAEXAMPLE");
    let files = TempDir::new().unwrap();
    let (file, back) = (files.path().join("a"), files.path().join("b"));
    fs::write(&file, bytes(50_000)).unwrap();
    let stored = run(store.put("a", &file)).unwrap();
    network.will("GET", [Fault::Flip(30_000)]);
    let error = run(store.fetch(&stored, &back)).unwrap_err();
    assert!(
        matches!(error, StoreError::Damaged { found: 50_000, .. }),
        "{error}"
    );
    assert!(!back.exists());
    run(store.fetch(&stored, &back)).unwrap();
    // It has fewer bytes than it was given, or those of another.
    fs::write(&file, bytes(40_000)).unwrap();
    run(store.put("a", &file)).unwrap();
    let error = run(store.fetch(&stored, &files.path().join("c"))).unwrap_err();
    assert!(
        matches!(error, StoreError::Damaged { found: 40_000, .. }),
        "{error}"
    );
    assert!(!error.is_passing());
}

#[test]
fn a_store_that_refuses_is_named_and_no_secret_is() {
    let Some(moto) = Moto::start() else { return };
    let network = Network::to(moto.address());
    let store = s3(&network, "AKIADENIED");
    let files = TempDir::new().unwrap();
    let file = files.path().join("a");
    fs::write(&file, bytes(10)).unwrap();
    network.will("PUT", [Fault::Deny]);
    let error = run(store.put("a", &file)).unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("the store cloud refuses to store a")
    );
    for text in [format!("{error:?}"), format!("{store:?}")] {
        assert!(!text.contains("a secret"), "{text}");
    }
}

/// Nodes write as root without any capability, the controller removes as 65532; the kubelet gives the volume to that
/// group, which both are in.
#[test]
fn a_volume_is_shared_by_its_group_and_with_nobody_else() {
    let as_user = |user: &str, script: &str, volume: &Path| {
        let ids = [format!("--reuid={user}"), format!("--regid={user}")];
        let done = Command::new("setpriv")
            .args(ids)
            .args(["--clear-groups", "sh", "-c", script, "sh"])
            .arg(volume)
            .status();
        done.is_ok_and(|status| status.success())
    };
    if !as_user("65532", "true", Path::new("/")) {
        println!("skipped: this user may not become another one");
        return;
    }
    let volume = TempDir::new().unwrap();
    let owned = Command::new("chgrp")
        .arg("65532")
        .arg(volume.path())
        .status();
    assert!(owned.unwrap().success());
    fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o2775)).unwrap();
    let store = folder(volume.path());
    let files = TempDir::new().unwrap();
    let file = files.path().join("a");
    for count in [10, LONG] {
        fs::write(&file, bytes(count)).unwrap();
        run(store.put_part("orders/x/node-1", &file)).unwrap();
    }
    assert!(!as_user(
        "1000",
        "cat \"$1\"/orders/x/node-1/*",
        volume.path()
    ));
    let work =
        "cat \"$1\"/orders/x/node-1/* >/dev/null && mkdir \"$1/orders/y\" && rm -r \"$1/orders\"";
    assert!(as_user("65532", work, volume.path()));
    assert!(!volume.path().join("orders").exists());
}

#[test]
fn a_volume_that_is_full_is_said() {
    let mount = TempDir::new().unwrap();
    let arguments = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
    let mounted = Command::new("mount")
        .args(arguments)
        .arg(mount.path())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("skipped: this user may mount nothing");
        return;
    }
    let store = folder(mount.path());
    let files = TempDir::new().unwrap();
    let file = files.path().join("a");
    let mut said = Vec::new();
    for count in [2 << 20, LONG] {
        fs::write(&file, bytes(count)).unwrap();
        said.push(run(store.put("ns/a", &file)));
    }
    let left = run(store.list("ns"));
    let unmounted = Command::new("umount").arg(mount.path()).status();
    assert!(unmounted.unwrap().success());
    for error in said {
        let error = error.unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        assert!(error.is_passing());
    }
    assert_eq!(left.unwrap(), []);
}
