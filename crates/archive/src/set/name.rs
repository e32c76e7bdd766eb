//! The names of segments: `00000017-20261121T061300Z.tape`.

use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use tapedeck_model::Timestamp;

/// The extension of an archive that is found in a folder.
pub(crate) const EXTENSION: &str = "tape";

/// The file name of a segment. The number comes first, so that names sort in the order of
/// writing, even where a clock was set back; the time is for people.
pub(crate) fn segment_name(number: u64, at: Timestamp) -> String {
    let at = jiff::Timestamp::from_nanosecond(at.as_nanos().into())
        .unwrap_or_default()
        .to_zoned(TimeZone::UTC);
    format!("{number:08}-{}.{EXTENSION}", at.strftime("%Y%m%dT%H%M%SZ"))
}

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
        let name = segment_name(17, Timestamp::from_nanos(1_795_241_580_999_999_999));
        assert_eq!(name, "00000017-20261121T061300Z.tape");
        for number in [0, 17, 99_999_999, 100_000_000, u64::MAX] {
            for at in [i64::MIN, 0, i64::MAX] {
                let name = segment_name(number, Timestamp::from_nanos(at));
                assert_eq!(segment_number(Path::new(&name)), Some(number), "{name}");
            }
        }
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
