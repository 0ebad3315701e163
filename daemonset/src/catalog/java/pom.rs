//! `pom.properties`, which Maven's archiver writes into every jar. Shaded jars contain the files of all jars that they include.

use super::super::CatalogError;
use super::super::field::field;
use super::group::clean;

/// Maven coordinates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Coordinates {
    pub(super) group: String,
    pub(super) artifact: String,
    pub(super) version: String,
}

impl Coordinates {
    /// Returns the size of the text, in bytes.
    pub(super) const fn text(&self) -> usize {
        self.group.len() + self.artifact.len() + self.version.len()
    }
}

/// Parses `pom.properties`, which has lines of `key=value`
/// ([format](https://docs.oracle.com/en/java/javase/21/docs/api/java.base/java/util/Properties.html)). Returns `None` if artifact
/// or version is missing, or a value is an unresolved placeholder.
///
/// # Errors
/// When one of the coordinates is too long.
pub(super) fn properties(bytes: &[u8]) -> Result<Option<Coordinates>, CatalogError> {
    let mut group = None;
    let mut artifact = None;
    let mut version = None;
    for line in bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii) {
        if line.starts_with(b"#") || line.starts_with(b"!") {
            continue;
        }
        let Some(separator) = line.iter().position(|byte| matches!(byte, b'=' | b':')) else { continue };
        let target = match line[..separator].trim_ascii() {
            b"groupId" => &mut group,
            b"artifactId" => &mut artifact,
            b"version" => &mut version,
            _ => continue,
        };
        *target = field(&line[separator + 1..])?.filter(|value| !value.contains("${"));
    }
    let (Some(artifact), Some(version)) = (artifact, version) else { return Ok(None) };
    let group = group.map(|group| clean(&group)).filter(|group| !group.is_empty());
    Ok(Some(Coordinates { group: group.unwrap_or_else(|| artifact.clone()), artifact, version }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_in_every_form() {
        let expected =
            Some(Coordinates { group: "org.a".to_owned(), artifact: "b".to_owned(), version: "1.0".to_owned() });
        for text in [
            "#Generated\n#Mon\nversion=1.0\ngroupId=org.a\nartifactId=b\n",
            "version: 1.0\r\ngroupId = org.a\r\n artifactId = b",
            "no separator\n!x=y\ngroupId=org.a;x\nartifactId=b\nversion=0\nversion=1.0",
        ] {
            assert_eq!(properties(text.as_bytes()).unwrap(), expected, "{text}");
        }
        assert_eq!(properties(b"artifactId=a.b\nversion=1").unwrap().map(|pom| pom.group).as_deref(), Some("a.b"));
    }

    #[test]
    fn incomplete_properties_are_ignored() {
        for text in ["", "groupId=a\nartifactId=b", "groupId=a\nversion=1", "artifactId=b\nversion=${v}", "\u{0}="] {
            assert_eq!(properties(text.as_bytes()).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn coordinates_that_are_too_long_are_reported() {
        let text = format!("groupId=a\nartifactId=b\nversion={}", "1".repeat(1025));
        assert!(matches!(properties(text.as_bytes()), Err(CatalogError::Limit { .. })));
    }
}
