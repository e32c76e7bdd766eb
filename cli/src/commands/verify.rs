use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tapedeck_archive::{VerifyReport, archives_in, is_being_written, partial_path, verify_with};

use super::keys;
use super::sign::{self, Signature};
use crate::args::{self, Format};
use crate::output;

pub(crate) fn run(args: &args::Verify) -> Result<ExitCode> {
    let files = files(&args.archive)?;
    let identities = keys::identities(&args.identity)?;
    let key = args
        .public_key
        .as_deref()
        .map(sign::public_key)
        .transpose()?;
    let is_set = files.len() > 1;
    let mut out = BufWriter::new(io::stdout().lock());
    let progress = output::count_progress();
    progress.set_length(if is_set { files.len() as u64 } else { 0 });
    let mut code = ExitCode::SUCCESS;
    for path in &files {
        let verified = match verify_with(path, &identities) {
            Ok(report) => {
                let signature = sign::check(path, key.as_ref())?;
                Verified::of(path, &report).signed(signature, key.is_some())
            }
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
    /// It is encrypted, and nothing opened it: every byte is as it was written, or as someone forged it.
    Locked,
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
    encrypted: bool,
    /// `good`, `bad`, `missing`, `not-checked`; nothing where there is none and no key was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<&'static str>,
    /// What the signature says of the file, or what is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    signature_says: Option<String>,
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
        let state = if report.is_whole() && report.locked {
            State::Locked
        } else if report.is_whole() {
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
            encrypted: report.encrypted,
            signature: None,
            signature_says: None,
            error: None,
        }
    }

    /// With what its signature says. Where a key was given, there has to be one.
    fn signed(self, signature: Signature, is_asked: bool) -> Self {
        let (signature, says) = match signature {
            Signature::None if is_asked => (Some(MISSING), None),
            Signature::None => (None, None),
            Signature::NotChecked => (Some("not-checked"), None),
            Signature::Good(comment) => (Some("good"), Some(comment)),
            Signature::Bad(why) => (Some(BAD), Some(why)),
        };
        Self {
            signature,
            signature_says: says,
            ..self
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
            encrypted: false,
            signature: None,
            signature_says: None,
            error: Some(error),
        }
    }

    fn is_fine(&self) -> bool {
        matches!(
            self.state,
            State::Whole | State::Locked | State::BeingWritten
        ) && !matches!(self.signature, Some(BAD | MISSING))
    }
}

const BAD: &str = "bad";
const MISSING: &str = "missing";

fn print(verified: &Verified, out: &mut impl Write) -> io::Result<()> {
    print_state(verified, out)?;
    let path = &verified.archive;
    let says = verified.signature_says.as_deref().unwrap_or_default();
    let says = output::visible(says);
    match verified.signature {
        Some(BAD) => writeln!(out, "{path}: the signature does not hold: {says}"),
        Some(MISSING) => writeln!(out, "{path}: there is no signature ({path}.minisig)"),
        Some("good") => writeln!(out, "{path}: the signature holds ({says})"),
        Some(_) => writeln!(
            out,
            "{path}: there is a signature, which was not checked: --public-key KEY checks it"
        ),
        None => Ok(()),
    }
}

fn print_state(verified: &Verified, out: &mut impl Write) -> io::Result<()> {
    let path = &verified.archive;
    let len = output::bytes(verified.file_len);
    let state = match verified.state {
        State::Whole => {
            let encrypted = if verified.encrypted {
                ", encrypted"
            } else {
                ""
            };
            return writeln!(
                out,
                "{path}: whole, {} exchanges, {len}{encrypted}",
                verified.exchanges
            );
        }
        State::Locked => {
            return writeln!(
                out,
                "{path}: whole as far as can be seen without its key, {len}, encrypted; \
                 --identity FILE looks inside"
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
