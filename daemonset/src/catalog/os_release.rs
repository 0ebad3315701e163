//! The distribution's name.

use outcrop_proto::{Distribution, Fact};

use super::{CatalogError, Cataloguer, Evidence, Want};

/// An os-release file has a few hundred bytes; this is ample.
const MAX_SIZE: u64 = 256 << 10;

/// Reads [os-release(5)](https://www.freedesktop.org/software/systemd/man/latest/os-release.html).
pub(super) struct OsRelease;

impl Cataloguer for OsRelease {
    fn name(&self) -> &'static str {
        "os-release"
    }

    fn wants(&self, path: &[u8]) -> Want {
        if matches!(path, b"etc/os-release" | b"usr/lib/os-release") { Want::Yes } else { Want::No }
    }

    fn read(&self, evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        let bytes = evidence.source.bytes(MAX_SIZE)?;
        let text = String::from_utf8_lossy(&bytes);
        let mut distribution = Distribution::default();
        let mut plain_name = String::new();
        for line in text.lines() {
            let Some((key, value)) = line.trim().split_once('=') else { continue };
            let value = unquote(value);
            match key {
                "ID" => distribution.id = value.to_ascii_lowercase(),
                "VERSION_ID" => distribution.version_id = value,
                "VERSION_CODENAME" => distribution.codename = value,
                "PRETTY_NAME" => distribution.name = value,
                "NAME" => plain_name = value,
                "ID_LIKE" => distribution.id_like = value.split_whitespace().map(str::to_ascii_lowercase).collect(),
                _ => {}
            }
        }
        if distribution.id.is_empty() {
            return Err(CatalogError::malformed("os-release", "it has no ID"));
        }
        if distribution.name.is_empty() {
            distribution.name = plain_name;
        }
        Ok(Fact { distribution: Some(distribution), ..Fact::default() })
    }
}

/// Undoes the shell quoting that os-release(5) allows: one pair of quotes, and backslashes before `"`, `$`, `` ` ``, `\`.
fn unquote(value: &str) -> String {
    let value = value.trim();
    let inner = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    let Some(inner) = inner else { return value.to_owned() };
    if value.starts_with('\'') {
        return inner.to_owned();
    }
    let mut out = String::with_capacity(inner.len());
    let mut characters = inner.chars().peekable();
    while let Some(character) = characters.next() {
        let escape = character == '\\' && characters.peek().is_some_and(|next| matches!(next, '"' | '$' | '`' | '\\'));
        out.extend(if escape { characters.next() } else { Some(character) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_is_undone_as_a_shell_would() {
        for (quoted, plain) in [
            ("debian", "debian"),
            ("\"12\"", "12"),
            ("'a \\$ b'", "a \\$ b"),
            ("\"a \\\"b\\\" \\$c\"", "a \"b\" $c"),
            ("\"", "\""),
        ] {
            assert_eq!(unquote(quoted), plain, "{quoted}");
        }
    }
}
