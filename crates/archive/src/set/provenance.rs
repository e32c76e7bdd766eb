//! Where an archive of several files comes from.

use std::collections::BTreeSet;

use crate::provenance::Provenance;

/// Names the set that a segment belongs to.
pub(crate) const SET: &str = "set";
/// The number of a segment in its set.
pub(crate) const SEGMENT: &str = "segment";
/// Names the run of a recorder: its segments number their connections together.
pub(crate) const RECORDING: &str = "recording";

impl Provenance {
    /// What is common to several archives. Where they differ, their values one behind the other;
    /// of what only some archives say by a name of their own, nothing.
    #[must_use]
    pub fn of_several<'a>(parts: impl IntoIterator<Item = &'a Self> + Clone) -> Self {
        let distinct = |value: fn(&Self) -> &String| {
            let values: BTreeSet<&str> = parts
                .clone()
                .into_iter()
                .map(|part| value(part).as_str())
                .filter(|value| !value.is_empty())
                .collect();
            values.into_iter().collect::<Vec<_>>().join(", ")
        };
        let created = parts.clone().into_iter().map(|part| part.created).min();
        let mut several = Self {
            source: distinct(|part| &part.source),
            host: distinct(|part| &part.host),
            software: distinct(|part| &part.software),
            capture_filter: distinct(|part| &part.capture_filter),
            created: created.unwrap_or_default(),
            extra: parts
                .clone()
                .into_iter()
                .next()
                .map(|part| part.extra.clone())
                .unwrap_or_default(),
        };
        for part in parts {
            several
                .extra
                .retain(|name, value| part.extra.get(name) == Some(value));
        }
        several
    }
}
