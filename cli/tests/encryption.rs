//! Encrypted archives, and signatures: every command, and the real programs `age` and `minisign`.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Ran, Tapedeck, has, input_of, pcaps, temp_folder};

struct Folder {
    temp: tempfile::TempDir,
    recipient: String,
}

impl Folder {
    /// With an identity in `key.txt`.
    fn new() -> Self {
        let temp = temp_folder();
        let key = temp.path().join("key.txt");
        let made = Tapedeck::new([
            "key".as_ref(),
            "encryption".as_ref(),
            "-o".as_ref(),
            key.as_os_str(),
        ]);
        let recipient = made.succeeds().stdout.trim().to_owned();
        assert!(recipient.starts_with("age1"), "{recipient}");
        Self { temp, recipient }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// A command line in which `@name` stands for a file of the folder.
    fn tapedeck(&self, line: &str) -> Tapedeck {
        let words = line
            .split_whitespace()
            .map(|word| match word.strip_prefix('@') {
                Some(name) => self.path(name).into_os_string(),
                None => word.into(),
            });
        Tapedeck::new(words)
    }

    fn run(&self, line: &str) -> Ran {
        self.tapedeck(line).succeeds()
    }

    fn fails(&self, line: &str, says: &str) {
        self.tapedeck(line).fails(1, &[says]);
    }

    /// The archive of a golden capture, encrypted to `key.txt`.
    fn import(&self, to: &str) {
        let capture = input_of(&pcaps().join("040-concert"));
        let args = ["import", capture.to_str().unwrap(), "-o"].map(Into::into);
        let args = args.into_iter().chain([self.path(to).into_os_string()]);
        let to = ["--encrypt-to".into(), self.recipient.clone().into()];
        Tapedeck::new(args.chain(to)).succeeds();
    }
}

fn contains(path: &Path, text: &str) -> bool {
    let bytes = fs::read(path).unwrap();
    bytes.windows(text.len()).any(|it| it == text.as_bytes())
}

#[test]
fn every_command_reads_with_an_identity_and_none_without() {
    let folder = Folder::new();
    folder.import("a.tape");
    assert!(!contains(&folder.path("a.tape"), "reservations"));
    let lines = folder
        .run("ls @a.tape --format json --identity @key.txt")
        .lines();
    assert!(lines.len() > 100);
    folder.run("key encryption -o @other.txt");
    for command in [
        "ls @a.tape",
        "show @a.tape 0",
        "stats @a.tape",
        "cut @a.tape --filter true -o @out.tape",
        "merge @a.tape -o @out.tape",
        "recover @a.tape -o @out.tape",
        "export jsonl @a.tape",
        "mock @a.tape --listen 127.0.0.1:0",
        "replay @a.tape --target http://127.0.0.1:1 --dry-run",
    ] {
        folder.fails(command, "--identity FILE");
        folder.fails(
            &format!("{command} --identity @other.txt"),
            "the identity does not open",
        );
        assert!(!folder.path("out.tape").exists(), "{command}");
    }
    folder.run("show @a.tape 0 --identity @key.txt");
    folder.run("stats @a.tape --identity @other.txt --identity @key.txt");
    folder.run("replay @a.tape --target http://127.0.0.1:1 --dry-run --identity @key.txt");
    let har = folder.run("export har @a.tape --identity @key.txt");
    assert!(
        har.stderr.contains("is not encrypted in standard output"),
        "{}",
        har.stderr
    );
    let named = folder.tapedeck("ls @a.tape --format json");
    let named = named.env("TAPEDECK_IDENTITY", folder.path("key.txt"));
    assert_eq!(named.succeeds().lines(), lines);
    // Without a key, that nothing was damaged can still be seen.
    let locked = folder.run("verify @a.tape").stdout;
    assert!(locked.contains("whole as far as can be seen"), "{locked}");
    let opened = folder.run("verify @a.tape --identity @key.txt").stdout;
    assert!(
        opened.contains(" exchanges, ") && opened.ends_with("encrypted\n"),
        "{opened}"
    );
    let state = folder.run("verify @a.tape --format json").lines();
    assert_eq!(state[0]["state"], "locked");
}

#[test]
fn a_mock_serves_an_encrypted_archive() {
    let folder = Folder::new();
    folder.import("a.tape");
    let mut mock = Command::new(env!("CARGO_BIN_EXE_tapedeck"))
        .args(["mock", "--listen", "127.0.0.1:0", "--identity"])
        .args([folder.path("key.txt"), folder.path("a.tape")])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(mock.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    mock.kill().unwrap();
    mock.wait().unwrap();
    assert!(line.starts_with("listening on http://127.0.0.1:"), "{line}");
}

#[test]
fn what_is_made_of_an_encrypted_archive_is_encrypted_unless_asked() {
    let folder = Folder::new();
    folder.import("a.tape");
    let all = folder
        .run("ls @a.tape --format json --identity @key.txt")
        .stdout;
    for command in [
        "cut @a.tape --filter true",
        "merge @a.tape",
        "merge @a.tape @a.tape",
        "recover @a.tape",
    ] {
        folder.run(&format!("{command} -o @b.tape --identity @key.txt"));
        folder.fails("ls @b.tape", "is encrypted");
        let made = folder
            .run("ls @b.tape --format json --identity @key.txt")
            .stdout;
        assert_eq!(made.lines().count() % all.lines().count(), 0, "{command}");
        assert!(made.lines().count() > 0, "{command}");
        folder.run("verify @b.tape --identity @key.txt");
        fs::remove_file(folder.path("b.tape")).unwrap();

        let clear = folder.run(&format!(
            "{command} -o @c.tape --identity @key.txt --decrypt"
        ));
        assert!(
            clear.stderr.contains("is not encrypted in"),
            "{command}: {}",
            clear.stderr
        );
        folder.run("ls @c.tape");
        fs::remove_file(folder.path("c.tape")).unwrap();

        let other = folder.run("key encryption -o @other.txt").stdout;
        let other = other.trim();
        folder.run(&format!(
            "{command} -o @d.tape --identity @key.txt --encrypt-to {other}"
        ));
        folder.run("stats @d.tape --identity @other.txt");
        folder.fails(
            "stats @d.tape --identity @key.txt",
            "the identity does not open",
        );
        fs::remove_file(folder.path("d.tape")).unwrap();
        fs::remove_file(folder.path("other.txt")).unwrap();
    }
    // Of several, nobody knows to whom.
    folder.run("cut @a.tape --filter true -o @clear.tape --identity @key.txt --decrypt");
    let both = "merge @a.tape @clear.tape -o @e.tape --identity @key.txt";
    folder.fails(both, "encrypted to different recipients");
    folder.run(&format!("{both} --encrypt-to {}", folder.recipient));
    folder.fails("ls @e.tape", "is encrypted");
}

#[test]
fn an_import_with_a_filter_leaves_nothing_readable_behind() {
    let folder = Folder::new();
    let capture = input_of(&pcaps().join("040-concert"));
    let filter = "response.status==409";
    let line = format!(
        "import {} -o @a.tape --filter {filter} --encrypt-to {}",
        capture.display(),
        folder.recipient
    );
    folder.run(&line);
    let files = fs::read_dir(folder.temp.path()).unwrap().count();
    assert_eq!(files, 2, "the key and the archive");
    let lines = folder
        .run("ls @a.tape --format json --identity @key.txt")
        .lines();
    assert!(!lines.is_empty() && lines.iter().all(|line| line["status"] == 409));
}

#[test]
fn mistakes_with_keys_are_told_and_no_secret_is() {
    let folder = Folder::new();
    let mode = fs::metadata(folder.path("key.txt"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    folder.fails("key encryption -o @key.txt", "exists already");
    let text = fs::read_to_string(folder.path("key.txt")).unwrap();
    let secret = text
        .lines()
        .find(|line| line.starts_with("AGE-SECRET-KEY-"))
        .unwrap();
    let capture = input_of(&pcaps().join("001-keep-alive"));
    let import = format!("import {} -o @a.tape", capture.display());
    for (to, says) in [
        (secret, "that is a secret key"),
        ("age1nobody", "not a recipient"),
        ("ssh-ed25519", "not to SSH keys"),
    ] {
        let ran = folder
            .tapedeck(&format!("{import} --encrypt-to {to}"))
            .run();
        assert_eq!(ran.code, 1);
        assert!(
            ran.stderr.contains(says) && !ran.stderr.contains(secret),
            "{}",
            ran.stderr
        );
    }
    folder.import("a.tape");
    folder.fails("ls @a.tape --identity @a.tape", "failed to read");
    folder.fails("ls @a.tape --identity @missing.txt", "missing.txt");
    fs::write(folder.path("pub.txt"), &folder.recipient).unwrap();
    folder.fails("ls @a.tape --identity @pub.txt", "not an identity");
    let mut bytes = fs::read(folder.path("a.tape")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(folder.path("a.tape"), bytes).unwrap();
    for line in ["verify @a.tape", "verify @a.tape --identity @key.txt"] {
        let ran = folder.tapedeck(line).run();
        assert_eq!(ran.code, 1);
        assert!(ran.stdout.contains("damaged"), "{}", ran.stdout);
    }
}

#[test]
fn keys_of_the_age_program_are_keys_here() {
    if !has("age-keygen") {
        return;
    }
    let folder = Folder::new();
    let made = |arguments: &[&str]| {
        let ran = Command::new("age-keygen")
            .args(arguments)
            .current_dir(folder.temp.path())
            .output();
        let ran = ran.unwrap();
        assert!(ran.status.success());
        String::from_utf8(ran.stdout).unwrap()
    };
    made(&["-o", "age.txt"]);
    fs::write(
        folder.path("team.txt"),
        format!("# team\n{}", made(&["-y", "age.txt"])),
    )
    .unwrap();
    assert_eq!(made(&["-y", "key.txt"]).trim(), folder.recipient);
    let capture = input_of(&pcaps().join("001-keep-alive"));
    let line = format!(
        "import {} -o @a.tape --recipients-file @team.txt --encrypt-to {}",
        capture.display(),
        folder.recipient
    );
    folder.run(&line);
    folder.run("stats @a.tape --identity @age.txt");
    folder.run("stats @a.tape --identity @key.txt");
}

#[test]
fn signatures_hold_for_what_was_signed_and_for_nothing_else() {
    let folder = Folder::new();
    folder.import("a.tape");
    let public = folder.run("key signing -o @sign.key").stdout;
    let public = public.trim();
    folder.run("key signing -o @other.key");
    let mode = fs::metadata(folder.path("sign.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let unsigned = folder.run("verify @a.tape").stdout;
    assert!(!unsigned.contains("signature"), "{unsigned}");
    let missing = folder
        .tapedeck(&format!("verify @a.tape -P {public}"))
        .run();
    assert!(
        missing.code == 1 && missing.stdout.contains("there is no signature"),
        "{missing:?}"
    );

    folder.run("sign @a.tape --key @sign.key");
    folder.fails("sign @a.tape --key @sign.key", "--force replaces it");
    let beside = folder.run("verify @a.tape").stdout;
    assert!(beside.contains("which was not checked"), "{beside}");
    for key in [public, "@sign.key.pub"] {
        let good = folder
            .run(&format!("verify @a.tape --public-key {key}"))
            .stdout;
        assert!(good.contains("the signature holds (file:a.tape"), "{good}");
    }
    let other = folder
        .tapedeck("verify @a.tape --public-key @other.key.pub --format json")
        .run();
    assert_eq!(other.code, 1);
    assert!(
        other.stdout.contains("\"signature\":\"bad\""),
        "{}",
        other.stdout
    );
    folder.fails(
        "verify @a.tape --public-key @key.txt",
        "no public key of minisign",
    );

    // Another archive under its name, whole in itself.
    fs::rename(folder.path("a.tape.minisig"), folder.path("kept")).unwrap();
    fs::remove_file(folder.path("a.tape")).unwrap();
    folder.import("a.tape");
    fs::rename(folder.path("kept"), folder.path("a.tape.minisig")).unwrap();
    let replaced = folder
        .tapedeck(&format!("verify @a.tape -P {public}"))
        .run();
    assert!(
        replaced.code == 1 && replaced.stdout.contains("does not hold"),
        "{replaced:?}"
    );
    // What is damaged is not signed.
    let bytes = fs::read(folder.path("a.tape")).unwrap();
    fs::write(folder.path("cut.tape"), &bytes[..bytes.len() - 1]).unwrap();
    folder.fails("sign @cut.tape --key @sign.key", "is not signed");
    assert!(!folder.path("cut.tape.minisig").exists());
}

#[test]
fn the_segments_of_a_folder_are_signed_each() {
    let folder = Folder::new();
    fs::create_dir(folder.path("set")).unwrap();
    folder.import("set/a.tape");
    folder.import("set/b.tape");
    let public = folder.run("key signing -o @sign.key").stdout;
    folder.run("sign @set --key @sign.key");
    let verify = format!("verify @set --public-key {public}");
    let good = folder.run(&verify).stdout;
    assert_eq!(good.matches("the signature holds").count(), 2, "{good}");
    fs::remove_file(folder.path("set/b.tape.minisig")).unwrap();
    let missing = folder.tapedeck(&verify).run();
    assert_eq!(missing.code, 1);
    // Signatures are no archives.
    folder.run("stats @set --identity @key.txt");
}

#[test]
fn minisign_verifies_ours_and_we_verify_its() {
    if !has("minisign") {
        return;
    }
    let folder = Folder::new();
    folder.import("a.tape");
    let minisign = |line: &str| {
        let ran = Command::new("minisign")
            .args(line.split_whitespace())
            .current_dir(folder.temp.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (
            ran.status.success(),
            String::from_utf8_lossy(&ran.stdout).into_owned(),
        )
    };
    let public = folder.run("key signing -o @ours.key").stdout;
    folder.run("sign @a.tape --key @ours.key");
    let (holds, says) = minisign("-Vm a.tape -p ours.key.pub");
    assert!(holds && says.contains("file:a.tape"), "{says}");
    assert!(minisign(&format!("-Vm a.tape -P {public}")).0);

    assert!(minisign("-GW -p theirs.pub -s theirs.key").0);
    // Its key in our hands, then its own signature.
    folder.run("sign @a.tape --key @theirs.key --force");
    assert!(minisign("-Vm a.tape -p theirs.pub").0);
    assert!(!minisign("-Vm a.tape -p ours.key.pub").0);
    fs::remove_file(folder.path("a.tape.minisig")).unwrap();
    assert!(minisign("-Sm a.tape -s theirs.key -t friday").0);
    let good = folder.run("verify @a.tape --public-key @theirs.pub").stdout;
    assert!(good.contains("the signature holds (friday)"), "{good}");
}
