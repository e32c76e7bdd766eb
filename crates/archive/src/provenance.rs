//! Where an archive comes from, and the loss ledger: both are named values on disk.
//!
//! A name that this version does not know is kept, so that a counter of a newer writer survives a
//! copy by an older one.
//!
//! ```text
//! u32 count, then for each: u16 length of the name, u16 zero, u32 length of the value, name, value
//! ```

use std::collections::BTreeMap;

use tapedeck_model::{Anomaly, Ledger, Timestamp};

/// Where an archive comes from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Provenance {
    /// What was recorded: a file name, an interface, a cgroup.
    pub source: String,
    /// The host on which it was recorded or imported.
    pub host: String,
    /// The program that wrote it, with its version.
    pub software: String,
    /// What the capture was limited to.
    pub capture_filter: String,
    /// When the archive was begun.
    pub created: Timestamp,
    /// Whatever else is known, by name: workload, redaction policy, clock.
    pub extra: BTreeMap<String, String>,
}

impl Provenance {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self {
            source,
            host,
            software,
            capture_filter,
            created,
            extra,
        } = self;
        let created = created.as_nanos().to_le_bytes();
        let mut values: Vec<(&str, &[u8])> = vec![
            ("source", source.as_bytes()),
            ("host", host.as_bytes()),
            ("software", software.as_bytes()),
            ("capture_filter", capture_filter.as_bytes()),
            ("created", &created),
        ];
        let extra: Vec<_> = extra
            .iter()
            .map(|(name, value)| (format!("{EXTRA}{name}"), value.as_bytes()))
            .collect();
        values.extend(extra.iter().map(|(name, value)| (name.as_str(), *value)));
        encode(&values)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut provenance = Self::default();
        for (name, value) in decode(bytes)? {
            let text = || String::from_utf8_lossy(value).into_owned();
            match name {
                "source" => provenance.source = text(),
                "host" => provenance.host = text(),
                "software" => provenance.software = text(),
                "capture_filter" => provenance.capture_filter = text(),
                "created" => {
                    provenance.created =
                        Timestamp::from_nanos(i64::from_le_bytes(value.try_into().ok()?));
                }
                _ => {
                    let name = name.strip_prefix(EXTRA).unwrap_or(name);
                    provenance.extra.insert(name.to_owned(), text());
                }
            }
        }
        Some(provenance)
    }
}

/// The ledger with the counters of newer versions.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct StoredLedger {
    pub(crate) ledger: Ledger,
    pub(crate) unknown: BTreeMap<String, u64>,
}

impl StoredLedger {
    /// Adds the counters of `other`, those of newer versions too.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.ledger.merge(&other.ledger);
        for (name, count) in &other.unknown {
            let counter = self.unknown.entry(name.clone()).or_default();
            *counter = counter.saturating_add(*count);
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut counters: Vec<(String, [u8; 8])> = Vec::new();
        let mut push = |name: String, count: u64| counters.push((name, count.to_le_bytes()));
        // A counter that is not there is zero. Live recordings write this once a second.
        for (name, count) in self.ledger.counters() {
            if count > 0 {
                push(name.to_owned(), count);
            }
        }
        for (anomaly, count) in &self.ledger.anomalies {
            push(format!("{ANOMALY}{anomaly}"), *count);
        }
        for (name, count) in &self.unknown {
            push(name.clone(), *count);
        }
        let values: Vec<_> = counters
            .iter()
            .map(|(name, count)| (name.as_str(), count.as_slice()))
            .collect();
        encode(&values)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut stored = Self::default();
        for (name, value) in decode(bytes)? {
            let count = u64::from_le_bytes(value.try_into().ok()?);
            let anomaly = name
                .strip_prefix(ANOMALY)
                .and_then(|name| Anomaly::ALL.iter().find(|anomaly| anomaly.name() == name));
            if let Some(anomaly) = anomaly {
                stored.ledger.anomalies.insert(*anomaly, count);
            } else if let Some(counter) = stored.ledger.counter_mut(name) {
                *counter = count;
            } else {
                stored.unknown.insert(name.to_owned(), count);
            }
        }
        Some(stored)
    }
}

/// What the names of [`Provenance::extra`] begin with on disk.
const EXTRA: &str = "x.";
/// What the names of anomaly counters begin with on disk.
const ANOMALY: &str = "anomaly.";

/// Named values, as they are stored.
pub(crate) fn encode(values: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = (values.len() as u32).to_le_bytes().to_vec();
    for (name, value) in values {
        // Nobody names anything at such a length; cut rather than fail the recording.
        let name = name
            .get(..name.floor_char_boundary(MAX_NAME))
            .unwrap_or_default()
            .as_bytes();
        let value = value.get(..MAX_VALUE).unwrap_or(value);
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    }
    out
}

const MAX_NAME: usize = 1024;
const MAX_VALUE: usize = 64 << 10;

/// The named values in these bytes.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<(&str, &[u8])>> {
    let (count, mut rest) = bytes.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count);
    let mut values = Vec::new();
    for _ in 0..count {
        let (head, tail) = rest.split_first_chunk::<8>()?;
        let [n0, n1, z0, z1, v0, v1, v2, v3] = *head;
        if (z0, z1) != (0, 0) {
            return None;
        }
        let (name, tail) = tail.split_at_checked(u16::from_le_bytes([n0, n1]).into())?;
        let len = u32::from_le_bytes([v0, v1, v2, v3]) as usize;
        let (value, tail) = tail.split_at_checked(len)?;
        values.push((std::str::from_utf8(name).ok()?, value));
        rest = tail;
    }
    rest.is_empty().then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provenance_survives() {
        let provenance = Provenance {
            source: "shop.pcap".into(),
            created: Timestamp::from_nanos(-5),
            extra: [("workload".to_owned(), "shop".to_owned())].into(),
            ..Provenance::default()
        };
        assert_eq!(
            Provenance::decode(&provenance.encode()).as_ref(),
            Some(&provenance)
        );
    }

    #[test]
    fn counters_of_a_newer_version_survive() {
        let mut stored = StoredLedger::default();
        stored.ledger.segments = 7;
        stored.ledger.count(Anomaly::BareLf);
        stored.unknown.insert("anomaly.from-the-future".into(), 3);
        stored.unknown.insert("bits_flipped".into(), 4);
        assert_eq!(StoredLedger::decode(&stored.encode()), Some(stored));
    }

    #[test]
    fn every_cut_is_found() {
        let mut stored = StoredLedger::default();
        stored.ledger.segments = 7;
        stored.ledger.exchanges = 3;
        let bytes = stored.encode();
        assert!(bytes.len() < 80, "what is zero is not written");
        for len in 0..bytes.len() {
            assert_eq!(StoredLedger::decode(&bytes[..len]), None);
        }
    }
}
