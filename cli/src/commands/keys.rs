//! The keys that a command line names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tapedeck_archive::{Archive, Identities, Protection, Recipients};

use crate::args;
use crate::output;

/// Names a file of identities, where no option does.
const IDENTITY: &str = "TAPEDECK_IDENTITY";

/// What opens encrypted archives. Nothing, where nothing is named: most archives need none.
pub(super) fn identities(args: &args::Identity) -> Result<Identities> {
    let mut files = args.identities.clone();
    if files.is_empty() {
        let named = std::env::var_os(IDENTITY).filter(|name| !name.is_empty());
        files.extend(named.map(PathBuf::from));
    }
    let mut identities = Identities::none();
    for file in &files {
        let text = zeroize::Zeroizing::new(read(file)?);
        let found = Identities::parse(&text);
        identities.extend(
            found.with_context(|| format!("failed to read an identity from {}", file.display()))?,
        );
    }
    Ok(identities)
}

/// To whom an archive is encrypted; `None`: it is not.
pub(super) fn recipients(args: &args::Encryption) -> Result<Option<Recipients>> {
    let mut all: Option<Recipients> = None;
    let mut add = |found: Recipients| -> Result<()> {
        all = Some(match all.take() {
            Some(others) => others.and(&found)?,
            None => found,
        });
        Ok(())
    };
    for text in &args.encrypt_to {
        // It may be a secret, pasted into the wrong place.
        add(Recipients::parse(text).context("failed to read a recipient (--encrypt-to)")?)?;
    }
    for file in &args.recipients_file {
        let text = read(file)?;
        let found = Recipients::parse(&text);
        add(found.with_context(|| format!("failed to read recipients from {}", file.display()))?)?;
    }
    Ok(all)
}

/// What is done about encryption when an archive is made of others.
pub(super) fn protection(args: &args::Reencryption) -> Result<Protection> {
    Ok(match recipients(&args.encryption)? {
        Some(recipients) => Protection::To(recipients),
        None if args.decrypt => Protection::None,
        None => Protection::AsBefore,
    })
}

/// To whom an archive is encrypted that is made of these: unless something else was asked for, to the
/// same recipients.
pub(super) fn inherited<'a>(
    archives: impl Iterator<Item = &'a Archive>,
    output: &Path,
    args: &args::Reencryption,
) -> Result<Option<Recipients>> {
    let found: BTreeSet<Option<String>> = archives
        .flat_map(Archive::recipients)
        .map(|recipients| recipients.map(|it| it.to_string()))
        .collect();
    let is_encrypted = found.iter().any(Option::is_some);
    match protection(args)? {
        Protection::To(recipients) => Ok(Some(recipients)),
        Protection::None => {
            if is_encrypted {
                in_the_clear(output);
            }
            Ok(None)
        }
        Protection::AsBefore if found.len() > 1 => bail!(
            "these archives are encrypted to different recipients, or only some of them are: say to \
             whom the new one is encrypted (--encrypt-to), or that it is not (--decrypt)"
        ),
        Protection::AsBefore => {
            let recipients = found.into_iter().next().flatten();
            let recipients = recipients.map(|text| Recipients::parse(&text.replace(' ', "\n")));
            Ok(recipients.transpose()?)
        }
    }
}

/// Says that what was encrypted is not any more.
pub(super) fn in_the_clear(output: &Path) {
    output::warn(format_args!(
        "what comes from an encrypted archive is not encrypted in {}",
        output.display()
    ));
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))
}
