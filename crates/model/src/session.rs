//! Which requests are of one user.
//!
//! The rule by which the archive's index and the mock tell users apart. The player looks for what is finer
//! (one cookie of several, a field, a part of the query), and takes this where it finds nothing.

/// What tells the user of a request from others: the value of its `authorization` field, else that
/// of its `cookie` field. `None`: nothing does.
///
/// `field` gives the value of the first field of a name.
pub fn session_of<'a>(field: impl Fn(&str) -> Option<&'a [u8]>) -> Option<&'a [u8]> {
    field("authorization").or_else(|| field("cookie"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_before_cookies() {
        let of = |fields: &'static [(&str, &str)]| {
            session_of(|name| {
                let found = fields.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.as_bytes())
            })
        };
        assert_eq!(
            of(&[("cookie", "a"), ("authorization", "b")]),
            Some(&b"b"[..])
        );
        assert_eq!(of(&[("cookie", "a")]), Some(&b"a"[..]));
        assert_eq!(of(&[("host", "a")]), None);
    }
}
