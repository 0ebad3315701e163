//! Strings of evidence: UTF-8, trimmed, limited in size.

use std::borrow::Cow;

/// Maximum size of a name, version or license, in bytes. npm allows names of 214 bytes; Maven coordinates and Go module paths are shorter than
/// 300 in practice.
pub(super) const MAX_FIELD: usize = 1024;

/// Returns `bytes` as text without surrounding white space, or `None` if the text is empty or longer than [`MAX_FIELD`].
/// Invalid UTF-8 is replaced.
pub(super) fn field(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() || bytes.len() > MAX_FIELD {
        return None;
    }
    // A replacement character has three bytes, so the limit applies to the input.
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// Returns the last component of a path.
pub(super) fn base_name(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(path, |slash| &path[slash + 1..])
}

/// Returns the last component of a path, as text for messages and names.
pub(super) fn base_text(path: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(base_name(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_trimmed_bounded_and_utf8() {
        assert_eq!(field(b"  a b\t\r\n").as_deref(), Some("a b"));
        assert_eq!(field(b" \t"), None);
        assert_eq!(field(b"\xff").as_deref(), Some("\u{fffd}"));
        assert_eq!(field(&[b'x'; MAX_FIELD]).map(|text| text.len()), Some(MAX_FIELD));
        assert_eq!(field(&[b'x'; MAX_FIELD + 1]), None);
    }

    #[test]
    fn base_names() {
        assert_eq!(base_name(b"a/b/c"), b"c");
        assert_eq!(base_name(b"c"), b"c");
        assert_eq!(base_name(b"a/"), b"");
    }
}
