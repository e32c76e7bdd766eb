//! Places in a body: `$.order.items[*].id`, in the notation of JSONPath (RFC 9535), of which names,
//! `[*]` and, at the front, `..` are understood. In a protobuf message, field numbers are the names.

use std::collections::BTreeMap;

use super::Compare;

/// The rules for a value, and for what is in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    /// How the value itself is compared; `None`: by what is in it.
    pub(crate) compare: Option<Compare>,
    pub(crate) members: BTreeMap<String, Self>,
    pub(crate) items: Option<Box<Self>>,
}

/// A place that a rule names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// A name at any depth.
    Anywhere(String),
    /// Steps from the root.
    Path(Vec<Step>),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    Member(String),
    Items,
}

impl Place {
    /// Reads a place. The error says what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some(mut rest) = text.strip_prefix('$') else {
            return Ok(Self::Anywhere(text.to_owned()));
        };
        if let Some(name) = rest.strip_prefix("..")
            && !name.is_empty()
            && !name.contains(['.', '['])
        {
            return Ok(Self::Anywhere(name.to_owned()));
        }
        let wrong = || {
            format!(
                "{text:?} is no place in a body such as $.order.items[*].id, $['a b'] or $..nonce"
            )
        };
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(behind) = rest.strip_prefix("[*]") {
                steps.push(Step::Items);
                rest = behind;
            } else if let Some(behind) = rest.strip_prefix("['") {
                let (name, behind) = behind.split_once("']").ok_or_else(wrong)?;
                steps.push(Step::Member(name.to_owned()));
                rest = behind;
            } else if let Some(behind) = rest.strip_prefix('.') {
                let end = behind.find(['.', '[']).unwrap_or(behind.len());
                let (name, behind) = behind.split_at(end);
                if name.is_empty() {
                    return Err(wrong());
                }
                steps.push(Step::Member(name.to_owned()));
                rest = behind;
            } else {
                return Err(wrong());
            }
        }
        Ok(Self::Path(steps))
    }
}

impl Node {
    /// The node at the end of these steps.
    pub(super) fn at(&mut self, steps: &[Step]) -> &mut Self {
        steps.iter().fold(self, |node, step| match step {
            Step::Member(name) => node.members.entry(name.clone()).or_default(),
            Step::Items => node.items.get_or_insert_default(),
        })
    }

    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.compare.is_none() && self.members.is_empty() && self.items.is_none()
    }
}
