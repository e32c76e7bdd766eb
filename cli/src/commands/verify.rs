use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tapedeck_archive::{VerifyReport, archives_in, is_being_written, partial_path, verify};

use crate::args::{self, Format};
use crate::output;

pub(crate) fn run(args: &args::Verify) -> Result<ExitCode> {
    let files = files(&args.archive)?;
    let is_set = files.len() > 1;
    let mut out = BufWriter::new(io::stdout().lock());
    let progress = output::count_progress();
    progress.set_length(if is_set { files.len() as u64 } else { 0 });
    let mut code = ExitCode::SUCCESS;
    for path in &files {
        let verified = match verify(path) {
            Ok(report) => Verified::of(path, &report),
            Err(error) if is_set => Verified::unreadable(path, error.to_string()),
            Err(error) => {
                let context = format!("failed to verify {}", path.display());
                return Err(error).context(context);
            }
        };
        if !verified.is_fine() {
            code = ExitCode::from(crate::FAILED);
        }
        match args.format {
            Format::Table => print(&verified, &mut out)?,
            Format::Json => {
                serde_json::to_writer(&mut out, &verified)?;
                writeln!(out)?;
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    out.flush()?;
    Ok(code)
}

/// The files that are meant: of a folder, all archives in it, those that are not sealed too.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let found = archives_in(path)?;
        if found.is_empty() {
            bail!("there is no archive (`*.tape`) in {}", path.display());
        }
        for path in found {
            let hidden = partial_path(&path).ok().filter(|_| !path.exists());
            files.push(hidden.unwrap_or(path));
        }
    }
    Ok(files)
}

/// How it is with a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// Every byte is as it was written.
    Whole,
    /// A writer is at work; what is there so far is sound.
    BeingWritten,
    /// Its writer was interrupted.
    NeverSealed,
    Damaged,
    /// It cannot be opened.
    Unreadable,
}

#[derive(Debug, Serialize)]
struct Verified {
    archive: String,
    state: State,
    file_len: u64,
    exchanges: u64,
    exchanges_lost: u64,
    exchanges_without_body: u64,
    damages: Vec<Damaged>,
    damages_not_listed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Damaged {
    offset: u64,
    len: u64,
    what: &'static str,
    damage: String,
}

impl Verified {
    fn of(path: &Path, report: &VerifyReport) -> Self {
        let state = if report.is_whole() {
            State::Whole
        } else if report.sealed {
            State::Damaged
        } else if is_being_written(path) {
            State::BeingWritten
        } else {
            State::NeverSealed
        };
        let damages = report.damages.iter().map(|damage| Damaged {
            offset: damage.offset,
            len: damage.len,
            what: damage.what,
            damage: damage.damage.to_string(),
        });
        Self {
            archive: path.display().to_string(),
            state,
            file_len: report.file_len,
            exchanges: report.exchanges_readable,
            exchanges_lost: report.exchanges_lost,
            exchanges_without_body: report.exchanges_without_body,
            damages: damages.collect(),
            damages_not_listed: report.damages_not_listed,
            error: None,
        }
    }

    fn unreadable(path: &Path, error: String) -> Self {
        Self {
            archive: path.display().to_string(),
            state: State::Unreadable,
            file_len: 0,
            exchanges: 0,
            exchanges_lost: 0,
            exchanges_without_body: 0,
            damages: Vec::new(),
            damages_not_listed: 0,
            error: Some(error),
        }
    }

    fn is_fine(&self) -> bool {
        matches!(self.state, State::Whole | State::BeingWritten)
    }
}

fn print(verified: &Verified, out: &mut impl Write) -> io::Result<()> {
    let path = &verified.archive;
    let len = output::bytes(verified.file_len);
    let state = match verified.state {
        State::Whole => {
            return writeln!(
                out,
                "{path}: whole, {} exchanges, {len}",
                verified.exchanges
            );
        }
        State::BeingWritten => {
            return writeln!(
                out,
                "{path}: being written, {} exchanges so far, {len}",
                verified.exchanges
            );
        }
        State::Unreadable => {
            let error = verified.error.as_deref().unwrap_or_default();
            return writeln!(out, "{error}");
        }
        State::NeverSealed => "never sealed",
        State::Damaged => "damaged",
    };
    writeln!(
        out,
        "{path}: {state}, {len}; {} exchanges can be read, {} are lost",
        verified.exchanges, verified.exchanges_lost
    )?;
    if verified.exchanges_without_body > 0 {
        writeln!(
            out,
            "{} exchanges miss bytes of a body",
            verified.exchanges_without_body
        )?;
    }
    for damage in &verified.damages {
        writeln!(
            out,
            "at {:#x}, {} bytes, {}: {}",
            damage.offset, damage.len, damage.what, damage.damage
        )?;
    }
    if verified.damages_not_listed > 0 {
        writeln!(
            out,
            "and {} more damaged places",
            verified.damages_not_listed
        )?;
    }
    Ok(())
}
