//! Field blocks (RFC 7541 section 6).

use super::section::{Parts, Section};
use super::table::{Lookup, Table};
use super::{huffman, integer, static_table};

/// The decoder of one direction.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
}

/// What became of a block.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// A field refers to an entry that predates the capture or was missed.
    pub unknown: bool,
    /// Something in it is wrong: a real decoder would have ended the connection.
    pub error: bool,
    /// It could not be decoded to its end: what followed is not in the section.
    pub broken: bool,
    /// The smallest maximum size that it set for the table at its beginning.
    pub resized: Option<usize>,
    /// It refers to the dynamic table.
    pub refers: bool,
    /// It changes the dynamic table: what refers to that may mean something else from now on.
    pub changed: bool,
}

impl Decoder {
    /// A decoder for a direction that is seen from its beginning, holding up to `limit` bytes.
    #[must_use]
    pub fn fresh(limit: usize) -> Self {
        Self {
            table: Table::fresh(limit),
        }
    }

    /// A decoder for a direction that is seen from somewhere in the middle.
    pub(crate) fn unknown(limit: usize) -> Self {
        Self {
            table: Table::unknown(limit),
        }
    }

    /// A block was missed, or could not be decoded to its end.
    pub(crate) fn desynchronise(&mut self) {
        self.table.desynchronise();
    }

    /// The maximum size of the peer's table, where it is known.
    #[must_use]
    pub fn table_size(&self) -> Option<usize> {
        self.table.maximum()
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.table.memory()
    }

    /// Decodes a whole block.
    pub fn decode(&mut self, block: &[u8], section: &mut Section) -> Outcome {
        let mut outcome = Outcome::default();
        let mut rest = block;
        if self.fields(&mut rest, section, &mut outcome).is_none() {
            outcome.error = true;
            outcome.broken = true;
            self.desynchronise();
        }
        outcome
    }

    /// Decodes the beginning of a block whose rest is lost; the table is unknown afterwards.
    pub(crate) fn decode_torn(&mut self, block: &[u8], section: &mut Section) -> Outcome {
        let mut outcome = Outcome::default();
        let mut rest = block;
        // That the bytes end within a field is no error here.
        let _torn = self.fields(&mut rest, section, &mut outcome);
        outcome.broken = true;
        self.desynchronise();
        outcome
    }

    fn fields(
        &mut self,
        rest: &mut &[u8],
        section: &mut Section,
        outcome: &mut Outcome,
    ) -> Option<()> {
        let mut begun = false;
        while let Some((&first, behind)) = rest.split_first() {
            *rest = behind;
            // The representations differ in their leading bits:
            //
            //   1xxxxxxx  indexed field               01xxxxxx  literal, to be inserted
            //   001xxxxx  update of the table's size  000nxxxx  literal; n: never to be indexed
            if first & 0x80 != 0 {
                let index = integer::read(first, 7, rest)?;
                self.indexed(index, section, outcome);
            } else if first & 0x40 != 0 {
                let index = integer::read(first, 6, rest)?;
                self.literal(index, true, rest, section, outcome)?;
            } else if first & 0x20 != 0 {
                let size = integer::read(first, 5, rest)? as usize;
                // RFC 7541 section 4.2: only at the beginning of a block.
                outcome.error |= begun;
                let smallest = outcome.resized.map_or(size, |before| before.min(size));
                outcome.resized = Some(smallest);
                outcome.changed = true;
                self.table.resize(size);
                continue;
            } else {
                let index = integer::read(first, 4, rest)?;
                self.literal(index, false, rest, section, outcome)?;
            }
            begun = true;
        }
        Some(())
    }

    fn indexed(&self, index: u32, section: &mut Section, outcome: &mut Outcome) {
        let start = section.mark();
        let (name, value) = self.lookup(index, outcome);
        section.raw.extend_from_slice(name.unwrap_or_default());
        let middle = section.mark();
        section.raw.extend_from_slice(value.unwrap_or_default());
        let parts = Parts {
            name_known: name.is_some(),
            value_known: value.is_some(),
        };
        section.push(start, middle, parts);
    }

    /// A field whose value, and with index 0 its name, is spelled out. `None`: the block ends
    /// within it.
    fn literal(
        &mut self,
        index: u32,
        insert: bool,
        rest: &mut &[u8],
        section: &mut Section,
        outcome: &mut Outcome,
    ) -> Option<()> {
        let start = section.mark();
        let strings = self.strings(index, rest, section, outcome);
        let Some((middle, parts)) = strings else {
            section.forget(start);
            return None;
        };
        // Into a table without room nothing is inserted (RFC 7541 section 4.4): nginx asks for that in each head,
        // with a table that it has shut.
        if insert && self.table.maximum() != Some(0) {
            outcome.changed = true;
            let bytes = section.since(start);
            let (name, value) = bytes.split_at_checked(middle - start).unwrap_or_default();
            self.table.insert(
                parts.name_known.then_some(name),
                parts.value_known.then_some(value),
            );
        }
        section.push(start, middle, parts);
        Some(())
    }

    /// Appends name and value to the section; gives where the value begins.
    fn strings(
        &self,
        index: u32,
        rest: &mut &[u8],
        section: &mut Section,
        outcome: &mut Outcome,
    ) -> Option<(usize, Parts)> {
        let name_known = if index == 0 {
            string(rest, section, outcome)?
        } else {
            let (name, _) = self.lookup(index, outcome);
            section.raw.extend_from_slice(name.unwrap_or_default());
            name.is_some()
        };
        let middle = section.mark();
        let value_known = string(rest, section, outcome)?;
        Some((
            middle,
            Parts {
                name_known,
                value_known,
            },
        ))
    }

    fn lookup(&self, index: u32, outcome: &mut Outcome) -> (Option<&[u8]>, Option<&[u8]>) {
        if let Some((name, value)) = static_table::entry(index) {
            return (Some(name), Some(value));
        }
        outcome.refers = true;
        let found = match index.checked_sub(static_table::LEN + 1) {
            Some(index) => self.table.get(index as usize),
            // Index 0 (RFC 7541 section 6.1).
            None => Lookup::Invalid,
        };
        match found {
            Lookup::Entry(name, value) => {
                outcome.unknown |= name.is_none() || value.is_none();
                (name, value)
            }
            Lookup::Unknown => {
                outcome.unknown = true;
                (None, None)
            }
            Lookup::Invalid => {
                outcome.error = true;
                (None, None)
            }
        }
    }
}

/// Appends a string (RFC 7541 section 5.2) to the section. `Some(false)`: its end is known but its
/// content cannot be decoded, and nothing was appended. `None`: the block ends within it.
fn string(rest: &mut &[u8], section: &mut Section, outcome: &mut Outcome) -> Option<bool> {
    let (&first, behind) = rest.split_first()?;
    *rest = behind;
    let len = integer::read(first, 7, rest)? as usize;
    let (bytes, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    if first & 0x80 == 0 {
        section.raw.extend_from_slice(bytes);
        return Some(true);
    }
    let mark = section.mark();
    if huffman::decode(bytes, &mut section.raw).is_none() {
        section.forget(mark);
        outcome.error = true;
        return Some(false);
    }
    Some(true)
}
