//! How a body is framed by the head before it (RFC 9112 section 6.3).

use tapedeck_archive::HeadView;
use tapedeck_model::Role;

/// Where a body ends on the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Exact(u64),
    /// Where its chunks say.
    Chunked,
    /// Where the connection does: tunnels, too.
    UntilClose,
}

impl Framing {
    /// The framing that a head declares. `to_head`: the head of a response to HEAD.
    pub(super) fn of(head: &HeadView<'_>, role: Role, to_head: bool) -> Self {
        let bodiless = matches!(head.status(), Some(100..=199 | 204 | 304));
        if role == Role::Response && (to_head || bodiless) {
            return Self::None;
        }
        let mut coding = None;
        let mut length = None;
        for field in head.fields() {
            let (Some(name), Some(value)) = (field.name, field.value) else {
                continue;
            };
            if name.eq_ignore_ascii_case(b"transfer-encoding") {
                let last = elements(value)
                    .filter(|element| !element.eq_ignore_ascii_case(b"identity"))
                    .last();
                coding = last.or(coding);
            } else if name.eq_ignore_ascii_case(b"content-length") {
                for element in elements(value) {
                    let number = decimal(element);
                    length = match length {
                        None => Some(number),
                        Some(before) if before == number => Some(number),
                        Some(_) => Some(None),
                    };
                }
            }
        }
        match (coding, length) {
            (Some(coding), _) if coding.eq_ignore_ascii_case(b"chunked") => Self::Chunked,
            (None, Some(Some(length))) => Self::Exact(length),
            (Some(_), _) | (None, _) if role == Role::Response => Self::UntilClose,
            (Some(_), _) | (None, _) => Self::None,
        }
    }
}

fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits)
        .ok()
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?
        .parse()
        .ok()
}
