//! Where a filter is wrong, and why.

use std::fmt;

/// A filter that cannot be used. Prints with the place of the mistake:
///
/// ```text
/// unknown name `request.foo`; `request` has method, scheme, ...
///   request.foo == "a"
///           ^
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FilterError {
    /// What is wrong, in one line.
    pub message: String,
    /// Where in the text, in bytes.
    pub offset: usize,
    /// The line of the text in which it is.
    line: String,
    /// Characters of the line before the mistake.
    column: usize,
}

impl FilterError {
    pub(crate) fn new(text: &str, offset: usize, message: String) -> Self {
        let offset = text.floor_char_boundary(offset);
        let before = text.get(..offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = text.get(line_start..).unwrap_or_default();
        Self {
            message,
            offset,
            line: line.lines().next().unwrap_or_default().to_owned(),
            column: before
                .get(line_start..)
                .map_or(0, |before| before.chars().count()),
        }
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            message,
            offset: _,
            line,
            column,
        } = self;
        write!(f, "{message}\n  {line}\n  {:column$}^", "")
    }
}

impl std::error::Error for FilterError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_mistake() {
        let text = "complete &&\nrequest.päth == x";
        let error = FilterError::new(text, text.find('x').unwrap(), "no".into());
        assert_eq!(
            error.to_string(),
            "no\n  request.päth == x\n                  ^"
        );
        assert_eq!(FilterError::new("ä", 1, "no".into()).offset, 0);
        assert_eq!(
            FilterError::new("a", 9, "no".into()).to_string(),
            "no\n  a\n   ^"
        );
    }
}
