use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use minisign::KeyPair;
use tapedeck_archive::Identities;
use zeroize::Zeroizing;

use crate::args::{self, KeyCommand};
use crate::output;

pub(crate) fn run(args: &args::Key) -> Result<ExitCode> {
    match &args.command {
        KeyCommand::Encryption(args) => encryption(&args.output)?,
        KeyCommand::Signing(args) => signing(&args.output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn encryption(path: &Path) -> Result<()> {
    let identity = Identities::generate()?;
    let recipient = identity.recipients()?.to_string();
    let secret = identity.to_secret_text();
    let text = Zeroizing::new(format!("# public key: {recipient}\n{}", *secret));
    write(path, &text, 0o600)?;
    output::say(format_args!(
        "{} opens what is encrypted to its recipient (--encrypt-to):",
        path.display()
    ));
    output::print(format_args!("{recipient}\n"))?;
    Ok(())
}

fn signing(path: &Path) -> Result<()> {
    let mut public = path.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    if public.symlink_metadata().is_ok() {
        bail!("{} exists already", public.display());
    }
    let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair()?;
    let secret = Zeroizing::new(sk.to_box(None)?.into_string());
    write(path, &secret, 0o600)?;
    write(&public, &pk.to_box()?.into_string(), 0o644)?;
    output::say(format_args!(
        "{} signs; with {}, others check:",
        path.display(),
        public.display()
    ));
    output::print(format_args!("{}\n", pk.to_base64()))?;
    Ok(())
}

/// Writes a file that was not there. Nothing else is ever overwritten: a lost key opens nothing.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let mut options = OpenOptions::new();
    let created = options.write(true).create_new(true).mode(mode).open(path);
    let mut file = match created {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{} exists already", path.display())
        }
        created => created.with_context(|| format!("failed to create {}", path.display()))?,
    };
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.write_all(end.as_bytes()))
        .and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a key is none.
        drop(fs::remove_file(path));
    }
    written.with_context(|| format!("failed to write {}", path.display()))
}
