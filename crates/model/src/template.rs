//! Paths whose ids are replaced: `/users/42?full` becomes `/users/{id}`.
//!
//! The one rule by which requests are grouped, in statistics of archives as in results of a replay.

/// The longest template. Paths come from strangers, and a name is for people to read.
const MAX_CHARS: usize = 200;

/// The path of a request target with what looks like an id replaced; safe to print: what is not
/// UTF-8 or controls a terminal is shown as U+FFFD. Longer than 200 characters, it ends in `…`.
#[must_use]
pub fn path_template(target: &[u8]) -> String {
    let target = String::from_utf8_lossy(target);
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let mut template = String::with_capacity(path.len());
    for (index, part) in path.split('/').enumerate() {
        if index > 0 {
            template.push('/');
        }
        template.push_str(if is_id(part.as_bytes()) { "{id}" } else { part });
    }
    if template.chars().any(char::is_control) {
        template = template.replace(char::is_control, "\u{fffd}");
    }
    if let Some((end, _)) = template.char_indices().nth(MAX_CHARS) {
        template.truncate(end);
        template.push('…');
    }
    template
}

/// Whether a segment of a path looks like an id: digits; or a UUID, hash or token: long, with digits, of
/// letters that such things are made of.
#[must_use]
pub fn is_id(part: &[u8]) -> bool {
    if part.is_empty() {
        return false;
    }
    let digits = part.iter().filter(|byte| byte.is_ascii_digit()).count();
    let wordly = part
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
    digits == part.len() || (wordly && part.len() >= 16 && digits >= 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_replaced_and_words_kept() {
        for id in [
            "42",
            "550e8400-e29b-41d4-a716-446655440000",
            "9f86d081884c7d659a2feaa0c55ad015",
        ] {
            let target = format!("/users/{id}/cart?id={id}#1");
            assert_eq!(path_template(target.as_bytes()), "/users/{id}/cart");
        }
        for path in [
            "",
            "*",
            "/",
            "/users/v1//available",
            "/reservations-by-customer/oauth2",
        ] {
            assert_eq!(path_template(path.as_bytes()), path);
        }
    }

    #[test]
    fn templates_are_short_and_safe_to_print() {
        assert_eq!(path_template(b"/a\x1b[31m\xff"), "/a\u{fffd}[31m\u{fffd}");
        let long = path_template(&b"/\xc3\xa4".repeat(300));
        assert_eq!(long.chars().count(), MAX_CHARS + 1);
        assert!(long.ends_with('…'));
    }
}
