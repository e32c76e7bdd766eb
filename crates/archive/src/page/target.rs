//! Request targets, as what many share and what each has of its own.
//!
//! ```text
//! /users/42/cart?page=3  =  /users/␀/cart?page=␀  +  42, 3
//! ```

use std::borrow::Cow;

use tapedeck_model::{is_id, path_template};

/// Stands for what a target has of its own.
const HOLE: u8 = 0;
/// The length of a part is in the four bytes behind this one.
const LONG: u8 = u8::MAX;

/// Takes a target apart: what others may share, and its own parts, each with its length before it.
///
/// Own parts are the segments of the path that look like ids, and the values of the query. A target
/// that could be mistaken is an own part as a whole.
pub(crate) fn split(target: &[u8], shared: &mut Vec<u8>, own: &mut Vec<u8>) {
    if target.contains(&HOLE) {
        shared.push(HOLE);
        push(target, own);
        return;
    }
    let path_len = target
        .iter()
        .position(|byte| matches!(byte, b'?' | b'#'))
        .unwrap_or(target.len());
    let (path, rest) = target.split_at_checked(path_len).unwrap_or((target, &[]));
    for (number, part) in path.split(|byte| *byte == b'/').enumerate() {
        if number > 0 {
            shared.push(b'/');
        }
        if is_id(part) {
            shared.push(HOLE);
            push(part, own);
        } else {
            shared.extend_from_slice(part);
        }
    }
    let query_len = rest
        .iter()
        .position(|byte| *byte == b'#')
        .unwrap_or(rest.len());
    let (query, fragment) = rest.split_at_checked(query_len).unwrap_or((rest, &[]));
    for (number, pair) in query.split(|byte| *byte == b'&').enumerate() {
        if number > 0 {
            shared.push(b'&');
        }
        match pair.iter().position(|byte| *byte == b'=') {
            Some(name_len) => {
                let (name, value) = pair.split_at_checked(name_len + 1).unwrap_or((pair, &[]));
                shared.extend_from_slice(name);
                shared.push(HOLE);
                push(value, own);
            }
            None => shared.extend_from_slice(pair),
        }
    }
    shared.extend_from_slice(fragment);
}

fn push(part: &[u8], own: &mut Vec<u8>) {
    match u8::try_from(part.len()) {
        Ok(len) if len != LONG => own.push(len),
        _ => {
            own.push(LONG);
            own.extend_from_slice(&(part.len() as u32).to_le_bytes());
        }
    }
    own.extend_from_slice(part);
}

/// A request target, read in place: in pieces, since the index keeps what several targets share but
/// once.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    shared: &'a [u8],
    /// `None`: all of it is in `shared`.
    own: Option<&'a [u8]>,
}

impl<'a> Target<'a> {
    pub(crate) fn new(shared: &'a [u8], own: &'a [u8]) -> Self {
        Self {
            shared,
            own: shared.contains(&HOLE).then_some(own),
        }
    }

    /// A target in one piece.
    #[must_use]
    pub fn whole(target: &'a [u8]) -> Self {
        Self {
            shared: target,
            own: None,
        }
    }

    /// Its bytes, piece by piece.
    pub fn pieces(self) -> impl Iterator<Item = &'a [u8]> {
        let mut own = self.own;
        let mut rest = Some(self.shared);
        std::iter::from_fn(move || {
            let bytes = rest?;
            let Some(left) = &mut own else {
                rest = None;
                return Some(bytes);
            };
            match bytes.iter().position(|byte| *byte == HOLE) {
                Some(0) => {
                    rest = bytes.get(1..);
                    Some(next(left))
                }
                Some(hole) => {
                    rest = bytes.get(hole..);
                    bytes.get(..hole)
                }
                None => {
                    rest = None;
                    Some(bytes)
                }
            }
        })
    }

    /// Appends its bytes to a buffer.
    pub fn append_to(self, buffer: &mut Vec<u8>) {
        for piece in self.pieces() {
            buffer.extend_from_slice(piece);
        }
    }

    /// Its bytes in one piece; a copy where they are not.
    #[must_use]
    pub fn to_bytes(self) -> Cow<'a, [u8]> {
        if self.own.is_none() {
            return self.shared.into();
        }
        let mut bytes = Vec::new();
        self.append_to(&mut bytes);
        bytes.into()
    }

    /// Its path with what looks like an id replaced; see [`path_template`].
    #[must_use]
    pub fn endpoint(self) -> String {
        // The holes in the path are just where ids were. Those of the query do not count.
        path_template(&self.to_bytes())
    }
}

/// The next own part; empty where there is none, which only a damaged or forged page can be
/// the cause of.
fn next<'a>(own: &mut &'a [u8]) -> &'a [u8] {
    let taken = own.split_first().and_then(|(len, rest)| {
        let (len, rest) = if *len == LONG {
            let (len, rest) = rest.split_first_chunk::<4>()?;
            (u32::from_le_bytes(*len) as usize, rest)
        } else {
            (usize::from(*len), rest)
        };
        rest.split_at_checked(len)
    });
    let (part, rest) = taken.unwrap_or_default();
    *own = rest;
    part
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there_and_back(target: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut shared, mut own) = (Vec::new(), Vec::new());
        split(target, &mut shared, &mut own);
        assert_eq!(Target::new(&shared, &own).to_bytes(), target);
        (shared, own)
    }

    proptest! {
        #[test]
        fn any_target_survives(target in prop_oneof![
            "(/([a-z]{1,5}|[0-9]{1,4})){0,4}(\\?([a-z]=?[a-z0-9=]{0,4}&?){0,4})?(#.{0,5})?",
            prop::collection::vec(prop_oneof![Just(b'/'), Just(b'?'), Just(b'='), any::<u8>()], 0..40)
                .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        ]) {
            there_and_back(target.as_bytes());
        }

        #[test]
        fn any_bytes_survive(target in prop::collection::vec(any::<u8>(), 0..40)) {
            there_and_back(&target);
        }
    }

    #[test]
    fn ids_and_values_are_its_own() {
        let (shared, own) = there_and_back(b"/users/42/cart?page=3&q=&flag#top");
        assert_eq!(shared, b"/users/\0/cart?page=\0&q=\0&flag#top");
        assert_eq!(own, b"\x0242\x013\x00");
        let long = [b"/x?y=".as_slice(), &[b'z'; 300]].concat();
        there_and_back(&long);
        there_and_back(b"/a\0b?c=d");
    }

    #[test]
    fn own_parts_that_are_not_there_are_empty() {
        for own in [&b""[..], b"\x05ab", b"\xff\xff\xff\xff\xff", b"\xff\x01"] {
            assert_eq!(Target::new(b"/\0?a=\0", own).to_bytes(), &b"/?a="[..]);
        }
    }
}
