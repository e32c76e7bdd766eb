//! `docs/anomalies.md` names what there is, all of it, and nothing else.

use std::collections::BTreeSet;

use tapedeck_model::{Anomaly, Missing};

const DOCUMENT: &str = include_str!("../../../docs/anomalies.md");

#[test]
fn every_name_stands_in_the_document_and_every_name_there_exists() {
    let documented: Vec<&str> = DOCUMENT
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let unique: BTreeSet<&str> = documented.iter().copied().collect();
    assert_eq!(documented.len(), unique.len(), "a name stands twice");
    let known: BTreeSet<&str> = Anomaly::ALL
        .iter()
        .map(|anomaly| anomaly.name())
        .chain(Missing::ALL.iter().map(|(_, name)| *name))
        .collect();
    assert_eq!(unique, known);
}

#[test]
fn every_row_fills_all_its_columns() {
    for line in DOCUMENT.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{line}");
    }
}
