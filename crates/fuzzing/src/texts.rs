//! Texts: what users write, and what programs log.

use std::str::FromStr;

use tapedeck_filter::Filter;
use tapedeck_replayer::mock::chaos::Chaos;
use tapedeck_replayer::player::{self, FileOptions};
use tapedeck_tls::{Added, KeyLog};
use tapedeckd::attribution;
use tapedeckd::daemon::Config;

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

/// What the player is told in words: thresholds, speeds, targets, routes, sessions. What is refused is refused with a
/// message.
pub fn player_option(bytes: &[u8]) {
    fn read<T: FromStr<Err: ToString>>(text: &str) {
        if let Err(error) = text.parse::<T>() {
            assert!(!error.to_string().is_empty());
        }
    }
    if let Ok(text) = str::from_utf8(bytes) {
        read::<player::Threshold>(text);
        read::<player::Speed>(text);
        read::<player::Target>(text);
        read::<player::Route>(text);
        read::<player::SessionKey>(text);
    }
}

/// A scenario file. What is refused is refused with a message and a place in it.
pub fn scenario(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    if let Err(error) = FileOptions::parse(text) {
        assert_place(text, error.line, &error.to_string());
    }
}

/// A chaos file. What is refused is refused with a message and a place in it.
pub fn chaos(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    match Chaos::parse(text) {
        Ok(chaos) => {
            let is_share = |share: f64| (0.0..=1.0).contains(&share);
            assert!(chaos.rules.iter().all(|rule| is_share(rule.probability)));
        }
        Err(error) => assert_place(text, error.line, &error.to_string()),
    }
}

/// A message says something, and its line is one of the file, or the one behind its end.
fn assert_place(text: &str, line: u64, message: &str) {
    // YAML knows more ends of lines than one.
    let lines = text
        .chars()
        .filter(|c| c.is_control() || !c.is_ascii())
        .count() as u64;
    assert!(line <= lines + 2, "line {line} of {lines}");
    assert!(!message.trim().is_empty());
}

/// The daemon's configuration. What is taken is taken again as it is written down, and gives
/// options; what is refused is refused with a message.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let config = match Config::parse(text, "config") {
        Ok(config) => config,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    std::hint::black_box(config.options());
    let written = serde_json::to_string(&config);
    let again = written
        .ok()
        .and_then(|text| Config::parse(&text, "config").ok());
    assert_eq!(again, Some(config));
}

/// The path of a cgroup: the ids that are found are in it, and look like ids.
pub fn place(bytes: &[u8]) {
    let path = String::from_utf8_lossy(bytes);
    let place = attribution::place(&path);
    let is_id = |id: &str, lens: &[usize]| {
        lens.contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
    };
    if let Some(id) = place.container_id {
        assert!(path.contains(&id) && is_id(&id, &[64]));
    }
    if let Some(uid) = place.pod_uid {
        assert!(path.replace('_', "-").contains(&uid) && is_id(&uid, &[32, 36]));
    }
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
