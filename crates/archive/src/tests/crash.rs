//! Writers that die, disks that fill up, writers in each other's way.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::{env, fs};

use tapedeck_model::Ledger;

use super::samples::{add, expected, memory, noise, provenance, read, shop, write};
use crate::{
    Archive, Limits, OpenError, WriteError, Writer, WriterOptions, partial_path, recover, verify,
};

fn options() -> WriterOptions {
    let mut options = WriterOptions::new(provenance());
    options.limits = Limits {
        block: 8 << 10,
        group: 32 << 10,
        ..Limits::default()
    };
    options
}

/// Held while a child is started, and while a lock on a file must be gone once the file is closed:
/// between fork and exec, a child holds every file of this process, and their locks.
pub(crate) static NO_CHILD_STARTS: Mutex<()> = Mutex::new(());

/// A writer in a process of its own, which says `flushed N` when N exchanges are safe.
pub(crate) struct Victim {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it said last.
    pub(crate) flushed: usize,
    /// How often it said so before it was killed.
    pub(crate) heard: usize,
}

impl Victim {
    /// Starts a test of this binary that is the writer. The variable tells it so, and where to write.
    pub(crate) fn start(test: &str, variable: &str, place: &Path) -> Self {
        let _starting = NO_CHILD_STARTS.lock().unwrap();
        let mut child = Command::new(env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(variable, place)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            lines,
            flushed: 0,
            heard: 0,
        }
    }

    /// Hears it say so, as often as that or until its end.
    pub(crate) fn hear(&mut self, times: usize) {
        let lines = self.lines.by_ref().map_while(Result::ok);
        let said = lines.filter_map(|line| line.rsplit_once("flushed ")?.1.parse().ok());
        for flushed in said.take(times) {
            self.flushed = flushed;
            self.heard += 1;
        }
    }

    /// Kills it; what it said before it died is heard.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let heard = self.heard;
        self.hear(usize::MAX);
        self.heard = heard;
    }
}

/// What the variable holds is where the child writes.
const CHILD: &str = "TAPEDECK_TEST_ARCHIVE";

/// Not a test by itself: the writer that [`a_killed_writer_loses_only_what_was_not_flushed`] kills.
#[test]
fn child_writes_until_it_is_killed() {
    let Some(path) = env::var_os(CHILD) else {
        return;
    };
    let mut writer = Writer::create(Path::new(&path), options()).unwrap();
    for n in 0.. {
        add(&mut writer, &shop(n));
        if n % 13 == 0 {
            writer.flush().unwrap();
            // Long lines, so that few of them fit into the pipe: it is not to run far ahead of
            // the parent, who compares everything that it wrote.
            println!("{:>1000}", format!("flushed {}", n + 1));
        }
    }
}

#[test]
fn a_killed_writer_loses_only_what_was_not_flushed() {
    for round in 0..12_usize {
        let folder = memory();
        let path = folder.path().join("a.tape");
        let writer = "tests::crash::child_writes_until_it_is_killed";
        let mut victim = Victim::start(writer, CHILD, &path);
        // While it is written, it is busy, and can be looked at.
        victim.hear(1);
        let partial = partial_path(&path).unwrap();
        if round == 0 {
            let busy = Writer::create(&path, options()).unwrap_err();
            assert!(matches!(busy, WriteError::Busy { .. }), "{busy}");
            assert!(matches!(
                Archive::open(&partial),
                Err(OpenError::Unsealed { .. })
            ));
            let out = folder.path().join("b.tape");
            assert!(recover(&partial, &out).is_err() && !out.exists());
        }
        victim.hear(round * round);
        victim.kill();
        let flushed = victim.flushed as u64;
        assert!(flushed > 0);

        let leftover = Writer::create(&path, options()).unwrap_err();
        assert!(
            matches!(leftover, WriteError::Leftover { .. }),
            "{leftover}"
        );
        assert!(!verify(&partial).unwrap().sealed);
        // To another name, and to the one that it was to have.
        let out = folder.path().join("b.tape");
        let saved = recover(&partial, &out).unwrap().exchanges;
        assert_eq!(recover(&partial, &path).unwrap().exchanges, saved);
        assert!(verify(&path).unwrap().is_whole());
        let again = recover(&partial, &path).unwrap_err();
        assert!(again.to_string().contains("exists already"), "{again}");
        assert!(saved >= flushed, "{saved} of {flushed} flushed exchanges");
        let archive = Archive::open(&out).unwrap();
        for (n, found) in read(&archive).into_iter().enumerate() {
            assert_eq!(found, expected(&shop(n as u64)));
        }
    }
}

#[test]
fn a_full_disk_loses_only_what_was_not_flushed() {
    let folder = memory();
    let full = folder.path().join("full.tape");
    let samples: Vec<_> = (0..300).map(shop).collect();
    let len = write(&full, &samples, options()).file_len;
    for round in 0..200 {
        let _closing = NO_CHILD_STARTS.lock().unwrap();
        let path = folder.path().join(format!("{round}.tape"));
        let mut writer = Writer::create(&path, options()).unwrap();
        writer.fill_disk_at(100 + round * len / 200);
        let mut flushed = 0;
        let failed = samples.iter().enumerate().find_map(|(n, sample)| {
            writer.exchange(&sample.exchange).err().or_else(|| {
                if n % 50 != 49 {
                    return None;
                }
                let result = writer.flush();
                if result.is_ok() {
                    flushed = n as u64 + 1;
                }
                result.err()
            })
        });
        if failed.is_some() {
            let again = writer
                .flush()
                .and_then(|()| writer.exchange(&samples[0].exchange));
            let again = again.and_then(|()| writer.flush());
            assert!(matches!(again, Err(WriteError::Failed { .. })), "{again:?}");
        }
        let sealed = writer.seal(&Ledger::default());
        assert!(sealed.is_err() && !path.exists());
        let partial = partial_path(&path).unwrap();
        let out = folder.path().join(format!("{round}.out"));
        let saved = recover(&partial, &out).unwrap().exchanges;
        assert!(saved >= flushed, "{saved} of {flushed} flushed exchanges");
        fs::remove_file(&out).unwrap();
    }
}

#[test]
fn outputs_in_the_way_are_told() {
    let folder = memory();
    let path = folder.path().join("a.tape");
    fs::write(&path, b"mine").unwrap();
    let error = Writer::create(&path, options()).unwrap_err();
    assert!(matches!(error, WriteError::Exists { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");

    let error = Writer::create(&folder.path().join("no/a.tape"), options()).unwrap_err();
    assert!(
        matches!(
            error,
            WriteError::Io {
                action: "create",
                ..
            }
        ),
        "{error}"
    );
    let error = Writer::create(Path::new("/"), options()).unwrap_err();
    assert!(matches!(error, WriteError::NoFileName { .. }), "{error}");

    // It came while we wrote: it stays, and so does what we wrote.
    let late = folder.path().join("late.tape");
    let mut writer = Writer::create(&late, options()).unwrap();
    add(&mut writer, &shop(0));
    fs::write(&late, b"mine").unwrap();
    let error = writer.seal(&Ledger::default()).unwrap_err();
    assert!(matches!(error, WriteError::Exists { .. }), "{error}");
    assert_eq!(fs::read(&late).unwrap(), b"mine");
    assert_eq!(
        Archive::open(&partial_path(&late).unwrap()).unwrap().len(),
        1
    );
}

#[test]
fn a_checkpoint_saves_the_ledger() {
    let folder = memory();
    let path = folder.path().join("a.tape");
    let mut writer = Writer::create(&path, options()).unwrap();
    add(&mut writer, &shop(0));
    let ledger = Ledger {
        packets_dropped_by_kernel: 5,
        ..Ledger::default()
    };
    writer.checkpoint(&ledger).unwrap();
    let _closing = NO_CHILD_STARTS.lock().unwrap();
    drop(writer);
    let out = folder.path().join("b.tape");
    recover(&partial_path(&path).unwrap(), &out).unwrap();
    let archive = Archive::open(&out).unwrap();
    assert_eq!(archive.ledger(), &ledger);
    assert_eq!(archive.provenance(), &provenance());
}

#[test]
fn the_same_exchanges_make_the_same_file() {
    let folder = memory();
    let mut samples: Vec<_> = (0..200).map(shop).collect();
    for (n, sample) in samples.iter_mut().enumerate().step_by(20) {
        let body = &mut sample.exchange.response.as_mut().unwrap().body;
        body.tail = noise(10_000, n as u64 % 3);
        body.len = 10_000;
    }
    let [first, second] = ["a.tape", "b.tape"].map(|name| folder.path().join(name));
    write(&first, &samples, options());
    let archive = Archive::open(&first).unwrap();
    let mut writer = Writer::create(&second, options()).unwrap();
    for exchange in read(&archive) {
        writer.exchange(&exchange).unwrap();
    }
    writer.seal(archive.ledger()).unwrap();
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap());
}

#[test]
fn many_readers_share_an_archive() {
    let folder = memory();
    let path = folder.path().join("a.tape");
    let samples: Vec<_> = (0..400).map(shop).collect();
    write(&path, &samples, options());
    let archive = Archive::open(&path).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..4_u64 {
            let (archive, samples) = (&archive, &samples);
            scope.spawn(move || {
                let mut scratch = crate::Scratch::new();
                for n in 0..300 {
                    let id = (n * 7919 + seed * 131) % 400;
                    let record = archive.load(id, &mut scratch).unwrap();
                    let head = record.request().unwrap().head().unwrap();
                    let original = samples[id as usize].exchange.request.as_ref().unwrap();
                    assert_eq!(head.raw(), original.head.as_ref().unwrap().raw);
                    let row = archive.row(id).unwrap();
                    assert_eq!(row.target().as_deref(), head.target());
                }
            });
        }
    });
}
