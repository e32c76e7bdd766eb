//! Rules files, YAML or JSON.

use std::collections::BTreeMap;

use regex::bytes::Regex;
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::body::Place;
use super::{Compare, Node, Pattern, Rule, Rules};

/// What is wrong with a rules file, and where.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct RulesError {
    /// From one.
    pub line: u64,
    /// From one.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

impl RulesError {
    fn at(location: Location, message: impl Into<String>) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
            message: message.into(),
        }
    }
}

impl Rules {
    /// Reads a rules file's text.
    ///
    /// # Errors
    ///
    /// The first mistake, with its place.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| {
            let location = error.location().unwrap_or(Location::UNKNOWN);
            let text = error.without_snippet().to_string();
            let message = text.split(" at line ").next().unwrap_or(&text);
            RulesError::at(location, message.trim_start_matches("error: "))
        })?;
        let list = file.rules.iter().map(RuleFile::check);
        Ok(Self {
            list: list.collect::<Result<_, _>>()?,
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rules: Vec<RuleFile>,
}

type Parts = BTreeMap<String, Spanned<CompareFile>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    request: Option<Spanned<String>>,
    authority: Option<Spanned<AuthorityFile>>,
    #[serde(default)]
    path: Parts,
    #[serde(default)]
    query: Parts,
    #[serde(default)]
    headers: Parts,
    #[serde(default)]
    body: Parts,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AuthorityFile {
    Equal,
    Ignore,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CompareFile {
    Equal,
    Ignore,
    Presence,
    Type,
    Matches(String),
    Within(f64),
}

impl RuleFile {
    fn check(&self) -> Result<Rule, RulesError> {
        let request = match &self.request {
            Some(text) => Pattern::parse(&text.value)
                .map_err(|message| RulesError::at(text.referenced, message))?,
            None => Pattern::default(),
        };
        let path = compares(&self.path)?;
        for (name, place) in &self.path {
            if !request.names().any(|known| known == name) {
                let message = format!("the pattern of the request has no segment {{{name}}}");
                return Err(RulesError::at(place.referenced, message));
            }
        }
        let mut headers = BTreeMap::new();
        for (name, compare) in compares(&self.headers)? {
            headers.insert(name.to_ascii_lowercase(), compare);
        }
        let mut body = Node::default();
        let mut anywhere = BTreeMap::new();
        for (text, compare) in &self.body {
            let place = Place::parse(text)
                .map_err(|message| RulesError::at(compare.referenced, message))?;
            let compare = checked(compare)?;
            match place {
                Place::Anywhere(name) => {
                    anywhere.insert(name, compare);
                }
                Place::Path(steps) => body.at(&steps).compare = Some(compare),
            }
        }
        Ok(Rule {
            request,
            any_authority: matches!(
                self.authority.as_ref().map(|authority| authority.value),
                Some(AuthorityFile::Ignore)
            ),
            path,
            query: compares(&self.query)?,
            headers,
            anywhere,
            body,
        })
    }
}

fn compares(parts: &Parts) -> Result<BTreeMap<String, Compare>, RulesError> {
    let one = |(name, compare): (&String, _)| Ok((name.clone(), checked(compare)?));
    parts.iter().map(one).collect()
}

fn checked(compare: &Spanned<CompareFile>) -> Result<Compare, RulesError> {
    let wrong = |message| RulesError::at(compare.referenced, message);
    Ok(match &compare.value {
        CompareFile::Equal => Compare::Equal,
        CompareFile::Ignore => Compare::Ignore,
        CompareFile::Presence => Compare::Presence,
        CompareFile::Type => Compare::Type,
        CompareFile::Matches(text) => Compare::Matches(
            // The whole value: half a match surprises.
            Regex::new(&format!("^(?:{text})$"))
                .map_err(|_| wrong(format!("{text:?} is no regular expression")))?,
        ),
        CompareFile::Within(distance) if !(0.0..).contains(distance) || distance.is_infinite() => {
            return Err(wrong("a distance is a number, 0 or greater".to_owned()));
        }
        CompareFile::Within(distance) => Compare::Within(*distance),
    })
}
