//! Key logs, as `SSLKEYLOGFILE` writes them.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tapedeck_exchange::Added;

use crate::output;

/// A log is read in pieces of this size. No line is as long.
const PIECE: usize = 1 << 20;

/// Reads a log to its end, and gives it to `add` in pieces of whole lines.
///
/// # Errors
/// When it cannot be read, or is something else.
pub(super) fn read(path: &Path, mut add: impl FnMut(&[u8]) -> Added) -> Result<()> {
    let name = path.display();
    let mut file = File::open(path).with_context(|| format!("failed to open key log {name}"))?;
    let mut sum = Added::default();
    let mut text = Vec::new();
    loop {
        let room = (PIECE - text.len()) as u64;
        let read = Read::by_ref(&mut file)
            .take(room)
            .read_to_end(&mut text)
            .with_context(|| format!("failed to read key log {name}"))?;
        let lines = match text.iter().rposition(|byte| *byte == b'\n') {
            Some(last) if read > 0 => last + 1,
            // The last line may lack its end.
            _ if read == 0 => text.len(),
            _ if text.len() == PIECE => bail!("{name} is no TLS key log: it has endless lines"),
            _ => 0,
        };
        let whole = text.get(..lines).unwrap_or_default();
        merge(&mut sum, add(whole));
        text.drain(..lines);
        if read == 0 {
            return judge(path, &sum);
        }
    }
}

fn merge(sum: &mut Added, more: Added) {
    sum.sessions += more.sessions;
    sum.secrets += more.secrets;
    sum.passed_over += more.passed_over;
    sum.malformed += more.malformed;
    sum.over_limit += more.over_limit;
}

fn judge(path: &Path, sum: &Added) -> Result<()> {
    let name = path.display();
    let Added {
        secrets,
        passed_over,
        malformed,
        over_limit,
        ..
    } = *sum;
    match (secrets + over_limit + passed_over, malformed) {
        (0, 0) => output::warn(format_args!("key log {name} is empty")),
        (0, _) => bail!(
            "{name} is no TLS key log: none of its {malformed} lines is like `CLIENT_RANDOM <hex> \
             <hex>`, which SSLKEYLOGFILE writes (docs/tls.md)"
        ),
        (_, 0) => {}
        (_, _) => output::warn(format_args!(
            "{malformed} lines of key log {name} cannot be read"
        )),
    }
    if over_limit > 0 {
        output::warn(format_args!(
            "{over_limit} secrets of key log {name} are over the limit; import fewer sessions at once"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn pieces_end_with_lines_and_nothing_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.log");
        let text = format!("CLIENT_RANDOM {} {}\n", "ab".repeat(32), "cd".repeat(48)).repeat(9000);
        let text = text.trim_ascii_end();
        fs::write(&path, text).unwrap();
        let (mut pieces, mut together) = (0, Vec::new());
        let add = |piece: &[u8]| {
            let lines = piece.split(|byte| *byte == b'\n');
            assert!(
                lines
                    .filter(|line| !line.is_empty())
                    .all(|line| line.len() == 175)
            );
            pieces += 1;
            together.extend_from_slice(piece);
            Added {
                secrets: 1,
                ..Added::default()
            }
        };
        read(&path, add).unwrap();
        assert_eq!(together, text.as_bytes());
        assert!(pieces > 1, "{pieces}");
    }
}
