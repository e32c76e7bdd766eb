//! What the player, the mock, and the daemon are told in words, and the paths of control groups.

use std::str::FromStr;

use tapedeck_replayer::mock::chaos::Chaos;
use tapedeck_replayer::player::{self, FileOptions};
use tapedeckd::attribution;
use tapedeckd::daemon::Config;

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
