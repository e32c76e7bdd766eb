//! Filters: which exchanges of an archive are meant.
//!
//! A filter is a boolean expression in [CEL](https://cel.dev). It is parsed by the `cel` crate and then
//! compiled to tests on the columns of the archive's index, so that choosing among millions of
//! exchanges touches no body, allocates nothing for each, and looks at each distinct string once a
//! page. It is not an interpreter of all of CEL: [`FilterError`] says what is not covered, and
//! where.
//!
//! What follows is `docs/filters.md`.
#![doc = include_str!("../../../docs/filters.md")]
#![forbid(unsafe_code)]

mod compile;
mod error;
mod evaluate;
mod expression;
mod literal;

#[cfg(test)]
mod tests;

use tapedeck_archive::{Archive, Page, ReadError, Row, Scratch};

pub use error::FilterError;

use evaluate::{Context, Mask};
use expression::Expression;

/// A compiled filter.
#[derive(Clone, Debug)]
pub struct Filter {
    expression: Expression,
    needs_record: bool,
}

impl Filter {
    /// The longest filter. Longer ones are machine-made, and the parser's time grows with them.
    pub const MAX_LEN: usize = 16 << 10;

    /// Reads a filter.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let expression = compile::compile(text)?;
        Ok(Self {
            needs_record: expression.needs_record(),
            expression,
        })
    }

    /// Whether the filter asks for something that only the record tells, such as a header field.
    /// One that does not never decompresses anything.
    #[must_use]
    pub fn needs_record(&self) -> bool {
        self.needs_record
    }

    /// Whether the filter chooses an exchange. For more than one, [`Filter::select`] is faster, and
    /// so is [`Filter::matches_with`].
    pub fn matches(&self, archive: &Archive, row: &Row<'_>) -> Result<bool, ReadError> {
        self.matches_with(archive, row, &mut Scratch::new())
    }

    /// Whether the filter chooses an exchange. The scratch is used where the record is needed.
    pub fn matches_with(
        &self,
        archive: &Archive,
        row: &Row<'_>,
        scratch: &mut Scratch,
    ) -> Result<bool, ReadError> {
        evaluate::matches(&self.expression, archive, row, scratch)
    }

    /// The exchanges that the filter chooses, by id.
    ///
    /// An error stands for the rows of one index page, or for one exchange whose record is
    /// needed; the iteration goes on behind it.
    pub fn select<'a>(
        &'a self,
        archive: &'a Archive,
    ) -> impl Iterator<Item = Result<Row<'a>, ReadError>> + 'a {
        let mut scratch = Scratch::new();
        archive
            .zones()
            .enumerate()
            .filter(|(_, zone)| self.expression.may_match(zone))
            .flat_map(move |(number, _)| match archive.page(number) {
                Ok(page) => self.select_page(archive, page, &mut scratch),
                Err(error) => Chosen::damaged(error),
            })
    }

    /// How many exchanges the filter chooses. An error is the first of those that
    /// [`Filter::select`] gives.
    pub fn count(&self, archive: &Archive) -> Result<u64, ReadError> {
        let mut scratch = Scratch::new();
        let mut count = 0;
        for (number, zone) in archive.zones().enumerate() {
            if !self.expression.may_match(&zone) {
                continue;
            }
            let chosen = self.select_page(archive, archive.page(number)?, &mut scratch);
            if let Some(error) = chosen.errors.into_iter().next() {
                return Err(error);
            }
            count += chosen.mask.count();
        }
        Ok(count)
    }

    fn select_page<'a>(
        &self,
        archive: &'a Archive,
        page: Page<'a>,
        scratch: &mut Scratch,
    ) -> Chosen<'a> {
        let (mask, errors) = Context::new(archive, page, scratch).select(&self.expression);
        Chosen {
            page: Some(page),
            mask,
            next: 0,
            errors,
        }
    }
}

/// The chosen rows of a page.
struct Chosen<'a> {
    page: Option<Page<'a>>,
    mask: Mask,
    next: usize,
    errors: Vec<ReadError>,
}

impl Chosen<'_> {
    fn damaged(error: ReadError) -> Self {
        Self {
            page: None,
            mask: Mask::empty(),
            next: 0,
            errors: vec![error],
        }
    }
}

impl<'a> Iterator for Chosen<'a> {
    type Item = Result<Row<'a>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.errors.pop() {
            return Some(Err(error));
        }
        let number = self.mask.first_from(self.next)?;
        self.next = number + 1;
        self.page?.row(number).map(Ok)
    }
}
