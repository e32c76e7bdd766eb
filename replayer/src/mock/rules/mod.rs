//! Rules: in what a request may differ from the recorded one that answers it.
//!
//! Without rules, everything that is compared has to be equal. A rule names requests, by method and
//! path, and says for single parts of them how they are compared ([`Compare`]). The first rule whose
//! pattern fits a request is its rule; there is none for the others.
//!
//! Rules never take away an exact answer: a request that equals a recorded one gets that one's
//! answer, and only what finds none is looked up again, loosely. So the most specific answer wins.

mod body;
mod file;
mod pattern;
mod suggest;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::bytes::Regex;
use tapedeck_archive::{Archive, ReadError};
use tapedeck_filter::Filter;

use super::call::{Call, normal_path};
use super::source;

pub use file::RulesError;
pub use suggest::Suggestion;

pub(crate) use body::Node;
pub(crate) use pattern::Pattern;
pub(crate) use suggest::{Suggester, member_place};

/// How one part of a request is compared with the recorded one.
#[derive(Clone, Debug, Default)]
pub(crate) enum Compare {
    /// It has to be equal.
    #[default]
    Equal,
    /// It may be there or not, with any value.
    Ignore,
    /// It has to be there where it was recorded, with any value.
    Presence,
    /// It has to be of the same type. JSON: null, boolean, number, string, array, object. Text: an
    /// integer, a number, a UUID, or other text.
    Type,
    /// Both have to match, or be equal.
    Matches(Regex),
    /// Both have to be numbers that are at most this far apart, or be equal.
    Within(f64),
}

/// What a request and the recorded one that answers it may differ in.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub(crate) list: Vec<Rule>,
}

/// How requests of one kind are compared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rule {
    pub(crate) request: Pattern,
    /// Whom they name does not matter.
    pub(crate) any_authority: bool,
    /// The named segments of the pattern.
    pub(crate) path: BTreeMap<String, Compare>,
    pub(crate) query: BTreeMap<String, Compare>,
    /// By name in lower case. Fields that are not named here are not compared.
    pub(crate) headers: BTreeMap<String, Compare>,
    /// JSON members at any depth, form fields.
    pub(crate) anywhere: BTreeMap<String, Compare>,
    /// The body, along paths from its root.
    pub(crate) body: Node,
}

impl Rules {
    /// The rule of a request.
    pub(crate) fn of(&self, method: &[u8], path: &[u8]) -> Option<&Rule> {
        self.list
            .iter()
            .find(|rule| rule.request.fits(method, path))
    }

    /// The rule of a call.
    pub(crate) fn of_call(&self, call: &Call<'_>) -> Option<&Rule> {
        if self.list.is_empty() {
            return None;
        }
        self.of(call.method, &normal_path(call.split().path))
    }

    /// Whether fields of heads are compared at all.
    pub(crate) fn compare_headers(&self) -> bool {
        self.list.iter().any(|rule| !rule.headers.is_empty())
    }
}

impl Rules {
    /// Looks for fields that differ in every recorded request of a kind and look made up for it (ids,
    /// times, nonces), and proposes rules for them. What it proposes is for a person to check.
    ///
    /// # Errors
    ///
    /// When the filter cannot read the archive.
    pub fn suggest(
        archive: Arc<Archive>,
        filter: Option<&Filter>,
    ) -> Result<Vec<Suggestion>, ReadError> {
        source::suggest(archive, filter)
    }
}

impl Rule {
    /// Whether every body fits.
    pub(crate) const fn any_body(&self) -> bool {
        matches!(self.body.compare, Some(Compare::Ignore))
    }
}
