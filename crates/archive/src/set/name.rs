//! The names of segments: `00000017-20261121T061300Z.tape`.

use std::path::{Path, PathBuf};

/// The extension of an archive that is found in a folder.
pub(crate) const EXTENSION: &str = "tape";

/// The number in the name of a segment; `None` for any other file.
pub(crate) fn segment_number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let (number, rest) = name.strip_suffix(".tape")?.split_once('-')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (date, time) = rest.strip_suffix('Z')?.split_once('T')?;
    let is_name = number.len() >= 8
        && digits(number)
        && (date.len(), time.len()) == (8, 6)
        && digits(date)
        && digits(time);
    is_name.then(|| number.parse().ok()).flatten()
}

/// The name that a hidden file is to have once it is sealed; `None` where it is not the hidden
/// file of an archive.
pub(crate) fn name_of_partial(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_prefix('.')?.strip_suffix(".partial")?;
    Some(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_not_mistaken_for_them() {
        let name = "00000017-20261121T061300Z.tape";
        assert_eq!(segment_number(Path::new(name)), Some(17));
        for other in [
            "",
            "shop.tape",
            "17-20261121T061300Z.tape",
            "00000017-20261121T061300Z.tape.bak",
            ".00000017-20261121T061300Z.tape.partial",
            "+0000017-20261121T061300Z.tape",
            "00000017-2026112xT061300Z.tape",
            "99999999999999999999-20261121T061300Z.tape",
            "00000017-20261121T061300.tape",
        ] {
            assert_eq!(segment_number(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_hidden_file_tells_its_name() {
        let partial = crate::partial_path(Path::new("a/b.tape")).unwrap();
        assert_eq!(name_of_partial(&partial), Some(PathBuf::from("a/b.tape")));
        assert_eq!(name_of_partial(Path::new("a/b.tape")), None);
    }
}
