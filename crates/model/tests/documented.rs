//! `docs/anomalies.md` names what there is, all of it, and nothing else.

use std::collections::BTreeSet;

use tapedeck_model::{Anomaly, Missing, Unread};

const DOCUMENT: &str = include_str!("../../../docs/anomalies.md");

/// Where the reasons of TLS begin; one of them is named like a cause of what is missing.
const TLS: &str = "## TLS connections that stay closed";

fn assert_documents(text: &str, known: BTreeSet<&str>) {
    let documented: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let unique: BTreeSet<&str> = documented.iter().copied().collect();
    assert_eq!(documented.len(), unique.len(), "a name stands twice");
    assert_eq!(unique, known);
}

#[test]
fn every_name_stands_in_the_document_and_every_name_there_exists() {
    let (rest, tls) = DOCUMENT.split_once(TLS).expect("a section of TLS");
    let known = Anomaly::ALL
        .iter()
        .map(|anomaly| anomaly.name())
        .chain(Missing::ALL.iter().map(|(_, name)| *name));
    assert_documents(rest, known.collect());
    assert_documents(
        tls,
        Unread::ALL.iter().map(|reason| reason.name()).collect(),
    );
}

#[test]
fn every_row_fills_all_its_columns() {
    for line in DOCUMENT.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{line}");
    }
}
