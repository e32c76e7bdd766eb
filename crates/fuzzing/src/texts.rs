//! Texts that the core reads: filters, and what programs log.

use tapedeck_filter::Filter;
use tapedeck_tls::{Added, KeyLog};

use crate::stored;

/// The text of a filter. What is refused is refused with a message; what is read chooses the same
/// exchanges by columns and one by one.
pub fn filter(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let filter = match Filter::parse(text) {
        Ok(filter) => filter,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let archive = stored::sample();
    let Ok(chosen) = filter
        .select(archive)
        .map(|row| row.map(|row| row.id()))
        .collect::<Result<Vec<u64>, _>>()
    else {
        return;
    };
    let one_by_one: Vec<u64> = archive
        .rows()
        .filter(|row| matches!(filter.matches(archive, row), Ok(true)))
        .map(|row| row.id())
        .collect();
    assert_eq!(chosen, one_by_one, "{text}");
    assert!(matches!(filter.count(archive), Ok(count) if count == chosen.len() as u64));
}

/// A key log, in one piece and by lines: it holds the same secrets, and no more than it may.
pub fn key_log(bytes: &[u8]) {
    const MOST: usize = 16;
    let (whole, by_lines) = (KeyLog::new(MOST), KeyLog::new(MOST));
    let at_once = whole.add(bytes);
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let one_by_one = lines
        .map(|line| by_lines.add(line))
        .fold([0; 5], |sum, line| {
            let told = told(line);
            std::array::from_fn(|n| sum[n] + told[n])
        });
    assert_eq!(told(at_once), one_by_one);
    assert_eq!(whole.len(), by_lines.len());
    assert!(whole.len() <= MOST);
}

fn told(added: Added) -> [u64; 5] {
    let Added {
        edition: _,
        sessions,
        secrets,
        passed_over,
        malformed,
        over_limit,
    } = added;
    [sessions, secrets, passed_over, malformed, over_limit]
}
