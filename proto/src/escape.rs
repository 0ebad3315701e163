//! Escaping of text from outside for everything that people read: terminals, logs, metrics, pages and files.
//!
//! One function decides which characters are dangerous, so that no output escapes fewer of them than another. JSON escapes them without a change of
//! the value; everywhere else they are written as `\u{…}`.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns whether a character could mislead a terminal, a browser or a reader: control characters, invisible ones, and those that change
/// the direction of text.
pub fn is_treacherous(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Returns `text` with every [treacherous](is_treacherous) character written as `\u{…}`.
///
/// ```
/// # use outcrop_proto::escape::escape;
/// assert_eq!(escape("a\x1b[2Jb\u{202e}"), "a\\u{1b}[2Jb\\u{202e}");
/// ```
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_if(text, is_treacherous)
}

/// Like [`escape`], and keeps the ends of lines: for text of the program's own that consists of lines.
pub fn escape_lines(text: &str) -> Cow<'_, str> {
    escape_if(text, is_treacherous_in_lines)
}

fn is_treacherous_in_lines(character: char) -> bool {
    character != '\n' && is_treacherous(character)
}

fn escape_if(text: &str, is_escaped: fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_escaped(character) {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// Returns JSON in which every treacherous character is written as `\uXXXX`. The value stays the same: only strings contain such characters, besides
/// the ends of lines between them ([RFC 8259, section 7](https://www.rfc-editor.org/rfc/rfc8259#section-7)).
pub fn escape_json(json: &str) -> Cow<'_, str> {
    // A serializer escapes what is below a space itself.
    if json.bytes().all(|byte| byte < 0x7f) || !json.contains(is_treacherous_in_lines) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    let mut units = [0; 2];
    for character in json.chars() {
        if is_treacherous_in_lines(character) {
            for unit in character.encode_utf16(&mut units) {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_moves_a_cursor_or_a_reader_is_escaped_and_nothing_else() {
        for (text, escaped) in [
            ("plain ü 漢", "plain ü 漢"),
            ("a\u{9b}31m\r\u{e0041}", "a\\u{9b}31m\\u{d}\\u{e0041}"),
            ("\u{7f}\u{200b}\u{2066}\u{feff}\t", "\\u{7f}\\u{200b}\\u{2066}\\u{feff}\\u{9}"),
            ("one\ntwo\u{1b}", "one\\u{a}two\\u{1b}"),
        ] {
            assert_eq!(escape(text), escaped);
        }
        assert_eq!(escape_lines("one\ntwo\u{1b}\r\n"), "one\ntwo\\u{1b}\\u{d}\n");
        assert_eq!(escape_json("{\n\"a\u{202e}\": \"\u{e0041}\"}"), "{\n\"a\\u202e\": \"\\udb40\\udc41\"}");
    }

    proptest! {
        #[test]
        fn nothing_treacherous_is_left(text in any::<String>()) {
            prop_assert!(!escape(&text).contains(is_treacherous));
            prop_assert!(!escape_lines(&text).contains(is_treacherous_in_lines));
            prop_assert!(!escape_json(&text).contains(is_treacherous_in_lines) || text.bytes().all(|byte| byte < 0x7f));
        }
    }
}
