//! Stores, as nodes and the controller use them: a folder, and the three clouds by real servers of their protocols, with
//! a network in between that throttles, cuts and lies.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod moto;
mod network;
mod process;
mod servers;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use futures_util::TryStreamExt;
use tapedeck_cluster_store::{Store, StoreError, Stored, Stores};
use tempfile::TempDir;

use network::Fault;
use servers::{Cloud, Server};

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

/// What each cloud has to do. One server does for all, as each has a network and a prefix of its own.
const SCENARIOS: [fn(&Server); 8] = [
    it_is_a_store,
    a_part_that_is_there_is_not_sent_again,
    what_was_fetched_already_is_continued,
    one_that_throttles_is_asked_again,
    a_transfer_that_is_cut_goes_on,
    an_upload_that_fails_in_the_middle_leaves_nothing,
    one_that_lies_is_found_out,
    one_that_refuses_is_named_and_no_secret_is,
];

fn on(cloud: Cloud) {
    let Some(server) = Server::start(cloud) else {
        return;
    };
    for scenario in SCENARIOS {
        scenario(&server);
    }
}

#[test]
fn s3() {
    on(Cloud::S3);
}

#[test]
fn google() {
    on(Cloud::Google);
}

#[test]
fn azure() {
    on(Cloud::Azure);
}

/// Its emulator gives objects as Google does. What is stored, listed and deleted it knows by another interface only: a
/// plain PUT it refuses, and one by a signed address it answers without the ETag that Google sends.
#[test]
fn google_reads_from_its_emulator() {
    let Some(server) = Server::start(Cloud::GoogleEmulator) else {
        return;
    };
    let network = server.network();
    let store = server.cloud.store(&network, "some/prefix");
    let content = "0123456789".repeat(7000);
    let at = "/upload/storage/v1/b/tapes/o?uploadType=media&name=some/prefix/ns/a+b";
    let answer = server.ask(&format!("POST {at}"), &content);
    assert!(answer.contains(" 200 "), "{answer}");
    let stored = Stored {
        key: "ns/a b".to_owned(),
        bytes: content.len() as u64,
        digest: blake3::hash(content.as_bytes()).into(),
    };
    assert_eq!(run(store.length(&stored.key)).unwrap(), stored.bytes);
    let files = TempDir::new().unwrap();
    let back = files.path().join("b");
    network.will("GET", [Fault::Throttle]);
    for have in [0, 12_345] {
        fs::write(files.path().join("b.partial"), &content[..have]).unwrap();
        run(store.fetch(&stored, &back)).unwrap();
        assert!(fs::read(&back).unwrap() == content.as_bytes());
    }
    let nothing = run(store.length("ns/c")).unwrap_err();
    assert!(matches!(nothing, StoreError::Missing { .. }), "{nothing:?}");
}

fn it_is_a_store(server: &Server) {
    let (network, cloud) = (server.network(), server.cloud);
    let store = cloud.store(&network, "some/prefix");
    run(goes_there_and_back(&store));
    let url = store.url("ns/a.tape");
    assert!(url.ends_with("://tapes/some/prefix/ns/a.tape"), "{url}");
    let root = cloud.root();
    let inside = [
        format!("{root}/some/prefix"),
        "prefix=some/prefix".to_owned(),
    ];
    // What is deleted stands in the body.
    let batches = [
        format!("POST {root}?delete "),
        format!("POST {root}?restype=container&comp=batch "),
    ];
    let seen: Vec<_> = network
        .requests()
        .iter()
        .map(|line| {
            line.replace("%2F", "/")
                .replace("%2f", "/")
                .replace("%2E", ".")
        })
        .collect();
    let outside: Vec<_> = seen
        .iter()
        .filter(|line| !inside.iter().any(|prefix| line.contains(prefix)))
        .filter(|line| !batches.iter().any(|batch| line.starts_with(batch)))
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

fn a_part_that_is_there_is_not_sent_again(server: &Server) {
    let network = server.network();
    let store = server.cloud.store(&network, "again");
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

fn what_was_fetched_already_is_continued(server: &Server) {
    let network = server.network();
    let store = server.cloud.store(&network, "continued");
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

fn one_that_throttles_is_asked_again(server: &Server) {
    let network = server.network();
    let store = server.cloud.store(&network, "throttled");
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
fn a_transfer_that_is_cut_goes_on(server: &Server) {
    let network = server.network();
    let store = server.cloud.store(&network, "cut");
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

/// The second part of an upload is refused: nothing stands there, and the next attempt is a whole one.
fn an_upload_that_fails_in_the_middle_leaves_nothing(server: &Server) {
    let network = server.network();
    let store = server.cloud.store(&network, "middle");
    let files = TempDir::new().unwrap();
    let (file, back) = (files.path().join("a"), files.path().join("b"));
    let content = bytes(LONG);
    fs::write(&file, &content).unwrap();
    // A part that is only late does not count.
    network.will("PUT", [Fault::Throttle, Fault::Deny]);
    let error = run(store.put_part("x", &file)).unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    assert_eq!(run(store.list("x")).unwrap(), []);
    let stored = run(store.put_part("x", &file)).unwrap();
    assert_eq!(
        run(store.list("x")).unwrap(),
        [(stored.key.clone(), LONG as u64)]
    );
    run(store.fetch(&stored, &back)).unwrap();
    assert!(fs::read(&back).unwrap() == content);
    assert_eq!(network.left("PUT"), 0);
}

fn one_that_lies_is_found_out(server: &Server) {
    let network = server.network();
    let store = server.cloud.store(&network, "lies");
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

fn one_that_refuses_is_named_and_no_secret_is(server: &Server) {
    let network = server.network();
    let store = server.cloud.store(&network, "refused");
    let files = TempDir::new().unwrap();
    let file = files.path().join("a");
    fs::write(&file, bytes(10)).unwrap();
    network.will("PUT", [Fault::Deny]);
    network.will("GET", [Fault::Deny, Fault::Deny]);
    let put = run(store.put("a", &file)).unwrap_err();
    let list = run(store.list("a")).unwrap_err();
    let delete = run(store.delete_all("a")).unwrap_err();
    for (error, operation) in [(put, "store"), (list, "list"), (delete, "list")] {
        assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
        assert!(!error.is_passing());
        let said = format!("the store cloud refuses to {operation} a");
        assert!(error.to_string().starts_with(&said), "{error}");
        for text in [format!("{error:?}"), format!("{store:?}")] {
            assert!(!text.contains(server.cloud.secret()), "{text}");
        }
    }
}

/// A key that is not the account's, which Azurite itself finds out; the others take any.
#[test]
fn azure_refuses_who_has_another_key() {
    let Some(server) = Server::start(Cloud::Azure) else {
        return;
    };
    let network = server.network();
    let wrong = "bm90IHRoZSBrZXkgb2YgdGhpcyBhY2NvdW50";
    let store = Cloud::Azure.store_of(&network, "some", wrong);
    let files = TempDir::new().unwrap();
    let file = files.path().join("a");
    fs::write(&file, bytes(10)).unwrap();
    let put = run(store.put("a", &file)).unwrap_err();
    let list = run(store.list("a")).unwrap_err();
    let fetch = run(store.length("a")).unwrap_err();
    for error in [put, list, fetch] {
        assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
        assert!(!format!("{error:?}").contains(wrong));
        assert!(!error.is_passing());
    }
}

/// A key of a service account, as Google's console gives it: every request carries a token that it signed.
#[test]
fn google_signs_in_with_the_key_of_a_service_account() {
    let Some(server) = Server::start(Cloud::Google) else {
        return;
    };
    let files = TempDir::new().unwrap();
    let key = files.path().join("key");
    let made = Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
        ])
        .arg(&key)
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        println!("skipped: openssl is missing");
        return;
    }
    let account = format!(
        r#"{{"type":"service_account","client_email":"tapes@test.example","private_key_id":"1","private_key":"{}"}}"#,
        fs::read_to_string(&key).unwrap().replace('\n', "\\n")
    );
    let network = server.network();
    let store = Cloud::Google.store_of(&network, "some", &account);
    let file = files.path().join("a");
    fs::write(&file, bytes(70_000)).unwrap();
    let stored = run(store.put("a", &file)).unwrap();
    run(store.fetch(&stored, &files.path().join("b"))).unwrap();
    let heads = network.heads();
    assert!(heads.len() >= 3);
    for head in heads {
        let token = head
            .lines()
            .find_map(|line| line.strip_prefix("authorization: Bearer "))
            .unwrap_or_else(|| panic!("no token: {head}"));
        let checked = Command::new("python3")
            .args(["-c", CHECK_TOKEN, token])
            .arg(&key)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{said}");
    }
}

/// A token of RFC 7519, by the key that signed it.
const CHECK_TOKEN: &str = r#"
import base64, json, subprocess, sys, tempfile
token, key = sys.argv[1:]
signed, _, signature = token.rpartition(".")
decode = lambda text: base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
assert json.loads(decode(signed.split(".")[1]))["iss"] == "tapes@test.example"
with tempfile.NamedTemporaryFile() as file:
    file.write(decode(signature))
    file.flush()
    check = ["openssl", "dgst", "-sha256", "-prverify", key, "-signature", file.name]
    sys.exit(subprocess.run(check, input=signed.encode(), stdout=subprocess.DEVNULL).returncode)
"#;

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
