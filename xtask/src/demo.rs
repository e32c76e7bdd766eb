//! The main job on real traffic, from the first packet to the mock.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::Value;

use crate::packages::{self, is_root};
use crate::shell::{cargo, line, root, run, say};

const CROWD_SEED: &str = "1";

#[derive(Debug, Parser)]
pub(crate) struct Demo {
    /// How many users come
    #[arg(long, default_value_t = 200)]
    users: u32,
    /// Over how many seconds
    #[arg(long, default_value_t = 8)]
    seconds: u32,
}

/// Who comes, and to what service.
struct Scene {
    /// The service's arguments. Its tokens and ids are drawn from the seed, which the instance that
    /// is replayed against gets, too: as a test environment that shares the signing key would.
    service: &'static [&'static str],
    users: u32,
    seconds: u32,
}

impl Scene {
    /// As `testdata/pcaps/040-concert` was recorded.
    const RECORDED: Self = Self {
        service: &["--seats", "8", "--seed", "1"],
        users: 30,
        seconds: 3,
    };

    fn live(args: &Demo) -> Self {
        Self {
            service: &["--seed", "7"],
            users: args.users,
            seconds: args.seconds,
        }
    }
}

pub(crate) fn run_demo(args: &Demo) -> Result<()> {
    packages::ensure(packages::FOR_DEMO)?;
    title("Building (only the first time takes long)");
    run(&mut cargo(&[
        "build",
        "--release",
        "--quiet",
        "--package",
        "tapedeck",
        "--package",
        "concert",
    ]))?;
    let demo = Tools::new()?;

    title("1. A booking service, a crowd of users, and Tapedeck listening on the wire");
    let recording = demo.folder.join("concert.tape");
    let (scene, seen) = if is_root() {
        let scene = Scene::live(args);
        let seen = record(&demo, &scene, &recording)?;
        (scene, Some(seen))
    } else {
        say(
            "Live capture needs privileges (docs/privileges.md); without them, this demo reads the",
        );
        say("capture of an earlier crowd instead.");
        import(&demo, &recording)?;
        (Scene::RECORDED, None)
    };

    title("2. What was recorded");
    let archive = recording.to_string_lossy();
    demo.tapedeck(&["stats", &archive])?;
    say("");
    say("Some of the calls that failed (`tapedeck ls --filter`):");
    demo.tapedeck_head(&["ls", &archive, "--filter", "response.status >= 400"], 8)?;
    demo.tapedeck(&["verify", &archive])?;

    title("3. The same requests, four times as fast, against a fresh instance");
    let fresh = Service::start(&demo.tool("concert"), scene.service)?;
    let summary = demo.folder.join("summary.json");
    demo.tapedeck(&[
        "replay",
        &archive,
        "--target",
        &fresh.url,
        "--speed",
        "4x",
        "--summary",
        &summary.to_string_lossy(),
    ])?;
    fresh.stop()?;

    title("4. The recording as a mock: the same crowd, and no service behind it");
    let mock = Service::start(
        &demo.tool("tapedeck"),
        &["mock", &archive, "--listen", "127.0.0.1:0"],
    )?;
    let mocked = demo.crowd(&scene, &mock.url)?;
    mock.stop()?;
    match &seen {
        Some(seen) => compare(seen, &mocked)?,
        None => compare_statuses(&demo.statuses(&archive)?, &mocked)?,
    }
    say("");
    say(&format!(
        "The archive, its summary: {}",
        demo.shown_folder()
    ));
    Ok(())
}

/// Records a crowd at work; gives back what the crowd saw.
fn record(demo: &Tools, scene: &Scene, recording: &Path) -> Result<Value> {
    let service = Service::start(&demo.tool("concert"), scene.service)?;
    let port = service
        .url
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .to_owned();
    let output = recording.to_string_lossy().into_owned();
    let mut command = demo.command(&["record", "--output", &output, "--port", &port, "--force"]);
    say(&format!("$ {}", line(&command)));
    let mut recorder = Recorder::start(&mut command)?;
    let seen = demo.crowd(scene, &service.url)?;
    recorder.stop()?;
    service.stop()?;
    Ok(seen)
}

fn import(demo: &Tools, recording: &Path) -> Result<()> {
    let capture = root().join("testdata/pcaps/040-concert/input.pcap");
    demo.tapedeck(&[
        "import",
        &capture.to_string_lossy(),
        "--output",
        &recording.to_string_lossy(),
        "--force",
    ])
}

/// The same where nobody kept what the crowd saw when it was recorded.
fn compare_statuses(recorded: &Value, mocked: &Value) -> Result<()> {
    let mocked = &mocked["by_status"];
    say("");
    say(&format!("answers in the recording: {recorded}"));
    say(&format!("answers of the mock:      {mocked}"));
    ensure!(recorded == mocked, "the mock answered differently");
    Ok(())
}

/// Says whether the crowd was answered as it was when it was recorded.
fn compare(recorded: &Value, mocked: &Value) -> Result<()> {
    let statuses = |report: &Value| report["by_status"].to_string();
    say("");
    say(&format!("answers of the service: {}", statuses(recorded)));
    say(&format!("answers of the mock:    {}", statuses(mocked)));
    ensure!(
        recorded["requests"] == mocked["requests"],
        "the mock answered another number of calls"
    );
    ensure!(
        recorded["by_endpoint"] == mocked["by_endpoint"],
        "the mock answered differently"
    );
    if recorded["bodies_hash"] == mocked["bodies_hash"] {
        say("Every body is the recorded one, byte for byte.");
    } else {
        bail!("some bodies of the mock are not the recorded ones");
    }
    Ok(())
}

fn title(text: &str) {
    say("");
    say(&format!("=== {text}"));
}

/// The programs that were built, and a folder for what they write.
struct Tools {
    programs: PathBuf,
    folder: PathBuf,
}

impl Tools {
    fn new() -> Result<Self> {
        let target = target_folder()?;
        let folder = target.join("demo");
        fs::create_dir_all(&folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
        Ok(Self {
            programs: target.join("release"),
            folder,
        })
    }

    fn tool(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    fn shown_folder(&self) -> String {
        self.folder.display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.tool("tapedeck"));
        command.args(args);
        command
    }

    fn tapedeck(&self, args: &[&str]) -> Result<()> {
        run(&mut self.command(args))
    }

    /// Runs a command and shows the first lines of what it prints.
    fn tapedeck_head(&self, args: &[&str], lines: usize) -> Result<()> {
        let mut command = self.command(args);
        say(&format!("$ {} | head -{lines}", line(&command)));
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(
            output.status.success(),
            "{} failed: {}",
            line(&command),
            output.status
        );
        for text in String::from_utf8_lossy(&output.stdout).lines().take(lines) {
            say(text);
        }
        Ok(())
    }

    /// How many answers of an archive have which status.
    fn statuses(&self, archive: &str) -> Result<Value> {
        let output = self
            .command(&["stats", archive, "--format", "json"])
            .output()?;
        let stats: Value = serde_json::from_slice(&output.stdout).context("stats is not JSON")?;
        Ok(stats["statuses"].clone())
    }

    /// Sends the crowd to a service; gives back what it saw.
    fn crowd(&self, scene: &Scene, url: &str) -> Result<Value> {
        let mut command = Command::new(self.tool("concert-crowd"));
        command.args(["--target", url, "--seed", CROWD_SEED, "--json"]);
        command.args([
            "--users",
            &scene.users.to_string(),
            "--seconds",
            &scene.seconds.to_string(),
        ]);
        say(&format!("$ {}", line(&command)));
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(
            output.status.success(),
            "{} failed: {}",
            line(&command),
            output.status
        );
        serde_json::from_slice(&output.stdout).context("the crowd's report is not JSON")
    }
}

fn target_folder() -> Result<PathBuf> {
    let output = cargo(&["metadata", "--no-deps", "--format-version", "1"]).output()?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata failed")?;
    Ok(PathBuf::from(
        metadata["target_directory"]
            .as_str()
            .context("no target folder")?,
    ))
}

/// A server that was started here, and is ended here, whatever happens.
pub(crate) struct Service {
    child: Child,
    pub(crate) url: String,
}

impl Service {
    /// Starts a program that says `listening on URL` on its standard output.
    pub(crate) fn start(program: &Path, args: &[&str]) -> Result<Self> {
        Self::spawn(Command::new(program).args(args))
    }

    /// The same, for a command that is made up already.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        command.stdout(Stdio::piped());
        say(&format!("$ {} &", line(command)));
        let mut child = command
            .spawn()
            .with_context(|| format!("failed to start {}", line(command)))?;
        let mut first = String::new();
        let stdout = child.stdout.take().context("no output")?;
        BufReader::new(stdout.take(1000)).read_line(&mut first)?;
        let mut service = Self {
            child,
            url: String::new(),
        };
        match first.trim_end().strip_prefix("listening on ") {
            Some(url) => url.clone_into(&mut service.url),
            None => bail!("{} did not come up: it said {first:?}", line(command)),
        }
        Ok(service)
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        terminate(&mut self.child)?;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A running `tapedeck record`.
struct Recorder {
    child: Child,
}

impl Recorder {
    /// Starts it, and waits until it says that it listens.
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().context("no output")?;
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for text in BufReader::new(stderr).lines().map_while(Result::ok) {
                say(&text);
                if text.starts_with("recording") {
                    ready.send(()).unwrap_or_default();
                }
            }
        });
        let recorder = Self { child };
        is_ready
            .recv_timeout(Duration::from_secs(10))
            .context("the recorder did not come up")?;
        Ok(recorder)
    }

    fn stop(&mut self) -> Result<()> {
        let status = terminate(&mut self.child)?;
        ensure!(status.success(), "the recorder failed: {status}");
        Ok(())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks a child to end, as ctrl-c would, and waits until it has.
pub(crate) fn terminate(child: &mut Child) -> Result<ExitStatus> {
    run_quietly(Command::new("kill").args(["-INT", &child.id().to_string()]))?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(15) {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("a program did not end within 15 s");
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{} failed: {status}", line(command));
    Ok(())
}
