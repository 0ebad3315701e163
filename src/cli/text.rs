//! Escaping of untrusted strings for a terminal.

use std::borrow::Cow;

use crate::web::is_treacherous;

/// Returns `text` with control and bidirectional characters written as `\u{…}`.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_treacherous) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_treacherous(character) {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// Returns a path as text with a leading slash; bytes that are not UTF-8 are replaced.
pub(super) fn path(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_an_image_moves_the_cursor() {
        assert_eq!(escape("plain ü"), "plain ü");
        assert_eq!(escape("a\x1b[2Jb\u{202e}"), "a\\u{1b}[2Jb\\u{202e}");
        assert_eq!(escape("a\u{9b}31m\r\u{e0041}"), "a\\u{9b}31m\\u{d}\\u{e0041}");
    }
}
