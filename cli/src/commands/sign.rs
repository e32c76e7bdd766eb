//! Signatures of archives: those of [minisign](https://jedisct1.github.io/minisign/), prehashed, in a
//! file beside.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minisign::{PublicKey, PublicKeyBox, SecretKey, SecretKeyBox, SignatureBox};
use tapedeck_archive::{archives_in, verify};
use zeroize::Zeroizing;

use crate::args;
use crate::output;

/// Files are hashed in pieces of this size.
const READ_BUFFER: usize = 1 << 20;

pub(crate) fn run(args: &args::Sign) -> Result<ExitCode> {
    let files = files(&args.archive)?;
    if !args.force {
        let signed = files.iter().find(|file| signature_of(file).exists());
        if let Some(file) = signed {
            let signature = signature_of(file);
            bail!(
                "{} exists already; --force replaces it",
                signature.display()
            );
        }
    }
    let key = secret_key(&args.key)?;
    for file in &files {
        sign(file, &key)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The files that are meant: of a folder, the sealed archives in it.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let sealed = archives_in(path)?.into_iter().filter(|file| file.exists());
        let before = files.len();
        files.extend(sealed);
        if files.len() == before {
            bail!(
                "there is no sealed archive (`*.tape`) in {}",
                path.display()
            );
        }
    }
    Ok(files)
}

fn secret_key(path: &Path) -> Result<SecretKey> {
    let text = fs::read_to_string(path);
    let text = Zeroizing::new(text.with_context(|| format!("failed to read {}", path.display()))?);
    let no_key = || format!("{} is no secret key of minisign", path.display());
    let boxed = || SecretKeyBox::from_string(&text).with_context(no_key);
    if let Ok(key) = boxed()?.into_unencrypted_secret_key() {
        return Ok(key);
    }
    if let Some(key) = without_checksum(&text) {
        return Ok(key);
    }
    // It asks for the password on the terminal.
    let key = boxed()?.into_secret_key(None);
    key.with_context(|| format!("failed to open {}", path.display()))
}

/// A key that no password protects, as minisign 0.11 writes it (`-G -W`): with zeros for its checksum,
/// which our library takes for a damaged key. What it signs is verified in any case.
fn without_checksum(text: &str) -> Option<SecretKey> {
    const CHECKSUM: usize = 32;
    let line = text.lines().nth(1)?;
    let bytes = Zeroizing::new(STANDARD.decode(line).ok()?);
    let is_protected = bytes.get(2..4) != Some(&[0, 0]);
    let checksum = bytes.last_chunk::<CHECKSUM>()?;
    if is_protected || *checksum != [0; CHECKSUM] {
        return None;
    }
    SecretKey::from_bytes(&bytes).ok()
}

fn sign(path: &Path, key: &SecretKey) -> Result<()> {
    let failed = || format!("failed to sign {}", path.display());
    let report = verify(path).with_context(failed)?;
    if !report.is_whole() {
        bail!(
            "{} is damaged or was never sealed, and is not signed: `tapedeck verify` says more",
            path.display()
        );
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let comment = format!("file:{name}\texchanges of tapedeck");
    let data = open(path).with_context(failed)?;
    let public = PublicKey::from_secret_key(key).with_context(failed)?;
    let signature = minisign::sign(
        Some(&public),
        key,
        data,
        Some(&comment),
        Some("signature of a tapedeck archive"),
    )
    .with_context(failed)?;
    let to = signature_of(path);
    let partial = with_suffix(&to, ".partial");
    let text = signature.into_string();
    fs::write(&partial, text)
        .and_then(|()| File::open(&partial)?.sync_all())
        .and_then(|()| fs::rename(&partial, &to))
        .with_context(|| format!("failed to write {}", to.display()))?;
    output::say(format_args!("{}: signed", to.display()));
    Ok(())
}

fn open(path: &Path) -> io::Result<BufReader<File>> {
    Ok(BufReader::with_capacity(READ_BUFFER, File::open(path)?))
}

/// Where the signature of a file lies.
pub(super) fn signature_of(path: &Path) -> PathBuf {
    with_suffix(path, ".minisig")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// The key that a command line names: in a file, or as it is.
pub(super) fn public_key(text: &str) -> Result<PublicKey> {
    if let Ok(key) = PublicKey::from_base64(text) {
        return Ok(key);
    }
    let file = fs::read_to_string(text).with_context(|| {
        format!("{text} is no public key of minisign, and no file that can be read")
    })?;
    let no_key = || format!("{text} holds no public key of minisign");
    PublicKeyBox::from_string(&file)
        .and_then(PublicKeyBox::into_public_key)
        .with_context(no_key)
}

/// What a signature says of a file.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Signature {
    /// There is none.
    None,
    /// It is there; no key was given to check it with.
    NotChecked,
    /// The file is as it was signed, with this comment.
    Good(String),
    /// It is not, or the signature is by another key.
    Bad(String),
}

/// Checks the signature of a file, if there is one and a key.
pub(super) fn check(path: &Path, key: Option<&PublicKey>) -> Result<Signature> {
    let signature = signature_of(path);
    let text = match File::open(&signature) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Signature::None),
        Err(error) => {
            return Err(error).context(format!("failed to read {}", signature.display()));
        }
        Ok(file) => {
            let mut text = String::new();
            let read = file.take(MAX_SIGNATURE).read_to_string(&mut text);
            read.map(|_| text)
        }
    };
    let Some(key) = key else {
        return Ok(Signature::NotChecked);
    };
    let bad = |why: &dyn std::fmt::Display| Ok(Signature::Bad(why.to_string()));
    let signature = match text.map(|text| SignatureBox::from_string(&text)) {
        Ok(Ok(signature)) => signature,
        Ok(Err(error)) => return bad(&error),
        Err(error) => return bad(&error),
    };
    let data = open(path).with_context(|| format!("failed to read {}", path.display()))?;
    match minisign::verify(key, &signature, data, true, false, false) {
        Ok(()) => Ok(Signature::Good(
            signature.trusted_comment().unwrap_or_default(),
        )),
        Err(error) => bad(&error),
    }
}

/// The longest signature: those of minisign are of a few hundred bytes.
const MAX_SIGNATURE: u64 = 16 << 10;
