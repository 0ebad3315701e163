//! Strings of evidence: UTF-8, trimmed, limited in size.

use std::borrow::Cow;

use super::CatalogError;

/// Maximum size of a name, version or other identifying field, in bytes. npm allows names of 214 bytes, Debian's longest version has 50; Maven
/// coordinates and Go module paths are shorter than 300 in practice.
pub(super) const MAX_FIELD: usize = 1024;

/// Returns `bytes` as text without surrounding white space, or `None` if the text is empty. Invalid UTF-8 is replaced.
///
/// # Errors
/// When the text is longer than [`MAX_FIELD`]. It is not the same as a missing field: a package that is left out must be reported.
pub(super) fn field(bytes: &[u8]) -> Result<Option<String>, CatalogError> {
    let bytes = bytes.trim_ascii();
    let limit = CatalogError::Limit { what: "bytes of a field", limit: MAX_FIELD as u64 };
    if bytes.len() > MAX_FIELD {
        return Err(limit);
    }
    let text = String::from_utf8_lossy(bytes);
    // A replacement character has three bytes, so the text may be longer than its input.
    if text.len() > MAX_FIELD {
        return Err(limit);
    }
    Ok((!text.is_empty()).then(|| text.into_owned()))
}

/// Returns the same for a field without which the package is still identified, such as its license: one that is too long counts as missing.
pub(super) fn optional(bytes: &[u8]) -> Option<String> {
    field(bytes).ok().flatten()
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
        let text = |bytes: &[u8]| field(bytes).unwrap();
        assert_eq!(text(b"  a b\t\r\n").as_deref(), Some("a b"));
        assert_eq!(text(b" \t"), None);
        assert_eq!(text(b"\xff").as_deref(), Some("\u{fffd}"));
        assert_eq!(text(&[b'x'; MAX_FIELD]).map(|text| text.len()), Some(MAX_FIELD));
        let long = [b'x'; MAX_FIELD + 1];
        assert!(matches!(field(&long), Err(CatalogError::Limit { limit: 1024, .. })));
        assert_eq!(optional(&long), None);
        // Each byte becomes a replacement character.
        assert!(field(&[0xff; MAX_FIELD / 3]).is_ok());
        assert!(matches!(field(&[0xff; MAX_FIELD / 3 + 1]), Err(CatalogError::Limit { limit: 1024, .. })));
    }

    #[test]
    fn base_names() {
        assert_eq!(base_name(b"a/b/c"), b"c");
        assert_eq!(base_name(b"c"), b"c");
        assert_eq!(base_name(b"a/"), b"");
    }
}
