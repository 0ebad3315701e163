//! `META-INF/MANIFEST.MF`
//! ([specification](https://docs.oracle.com/en/java/javase/21/docs/specs/jar/jar.html#jar-manifest)): sections of
//! `Name: value` lines of at most 72 bytes, continued on lines that start with a space.

use std::borrow::Cow;

use super::super::field::{MAX_FIELD, optional};

/// A manifest, reduced to the used fields of each section.
#[derive(Default)]
pub(super) struct Manifest {
    /// Section number (the main one is 0), key, value.
    fields: Vec<(usize, &'static str, String)>,
}

/// Fields that identify an archive. All others (`Export-Package`, digests of signed entries) are skipped.
const KEPT: [&str; 22] = [
    "Automatic-Module-Name",
    "Bundle-Activator",
    "Bundle-License",
    "Bundle-Name",
    "Bundle-SymbolicName",
    "Bundle-Version",
    "Created-By",
    "Extension-Name",
    "Group-Id",
    "Implementation-Title",
    "Implementation-Vendor",
    "Implementation-Vendor-Id",
    "Implementation-Version",
    "Main-Class",
    "Name",
    "Package",
    "Plugin-License-Name",
    "Plugin-Version",
    "Short-Name",
    "Specification-Vendor",
    "Specification-Version",
    "Weave-Classes",
];

/// Maximum number of fields. Those of the main section come first.
const MAX_FIELDS: usize = 256;

impl Manifest {
    /// Parses a manifest, which may be truncated. A line that is not `Name: value` is skipped, and a value that is too long; an archive that
    /// nothing else identifies is reported as unidentified.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut manifest = Self::default();
        let mut section = 0;
        let mut lines =
            bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).peekable();
        let mut any = false;
        while let Some(line) = lines.next() {
            if line.is_empty() {
                // Blank lines before the first field do not start a section.
                section += usize::from(any);
                any = false;
                continue;
            }
            let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
            any = true;
            let key = line[..colon].trim_ascii();
            let mut value = Cow::Borrowed(line[colon + 1..].trim_ascii());
            let kept = KEPT.iter().find(|kept| key.eq_ignore_ascii_case(kept.as_bytes()));
            while let Some(more) = lines.next_if(|line| line.starts_with(b" ")) {
                // The rest of a value that is too long is skipped.
                if kept.is_some() && value.len() <= MAX_FIELD {
                    value.to_mut().extend_from_slice(more.trim_ascii());
                }
            }
            if manifest.fields.len() < MAX_FIELDS {
                manifest.fields.extend(kept.and_then(|key| Some((section, *key, optional(&value)?))));
            }
        }
        manifest
    }

    /// Returns the value of `key` in the main section.
    pub(super) fn main(&self, key: &str) -> Option<&str> {
        self.all(key).next().filter(|(section, _)| *section == 0).map(|(_, value)| value)
    }

    /// Returns the value of `key` in the main section, otherwise in the first section that has it: old archives describe themselves in the
    /// section of their only package.
    pub(super) fn anywhere(&self, key: &str) -> Option<&str> {
        self.all(key).next().map(|(_, value)| value)
    }

    /// Returns every value of `key` with the number of its section.
    pub(super) fn all<'m, 'k>(&'m self, key: &'k str) -> impl Iterator<Item = (usize, &'m str)> + use<'m, 'k> {
        self.fields
            .iter()
            .filter(move |(_, kept, _)| *kept == key)
            .map(|(section, _, value)| (*section, value.as_str()))
    }

    /// Returns the name of the artifact, if one of the fields contains it.
    pub(super) fn title(&self) -> Option<&str> {
        ["Name", "Bundle-Name", "Short-Name", "Extension-Name", "Implementation-Title"]
            .into_iter()
            .find_map(|key| self.main(key))
    }

    /// Returns the version from the best field that has one.
    pub(super) fn version(&self) -> Option<&str> {
        ["Implementation-Version", "Specification-Version", "Plugin-Version", "Bundle-Version"]
            .into_iter()
            .find_map(|key| self.anywhere(key))
    }

    /// Returns the declared licenses.
    pub(super) fn licenses(&self) -> Vec<String> {
        ["Bundle-License", "Plugin-License-Name"]
            .into_iter()
            .filter_map(|key| self.anywhere(key))
            .map(str::to_owned)
            .collect()
    }

    /// Returns the name of the artifact, if the symbolic name is `group.artifact`, as the Maven bundle plugin writes it.
    pub(super) fn bundle_artifact(&self) -> Option<&str> {
        if !self.main("Created-By")?.contains("Apache Maven Bundle Plugin") {
            return None;
        }
        let symbolic = self.main("Bundle-SymbolicName")?;
        // Some projects use the group as their symbolic name.
        if self.main("Implementation-Vendor-Id") == Some(symbolic) {
            return None;
        }
        let name = symbolic.split(';').next().unwrap_or_default().trim();
        name.rsplit('.').next().filter(|last| !last.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_continuations_and_line_ends() {
        let manifest = Manifest::parse(
            b"\r\nManifest-Version: 1.0\r\nBundle-Name: a lo\r\n ng one\r\nImplementation-Title: x\r\n\r\nName: org/x/\r\nImplementation-Version: 2\r\n",
        );
        assert_eq!(manifest.main("Bundle-Name"), Some("a long one"));
        assert_eq!(manifest.main("Implementation-Version"), None);
        assert_eq!(manifest.anywhere("Implementation-Version"), Some("2"));
        assert_eq!(manifest.main("Name"), None, "the name of a section is not the archive's");
        assert_eq!(manifest.title(), Some("a long one"));
        assert_eq!(manifest.version(), Some("2"));
    }

    #[test]
    fn malformed_lines_are_skipped() {
        for bytes in [&b""[..], b"\n\n\n", b" x\n y", b"\xff\xfe:\xff", b":\n:\n", b"Name"] {
            assert_eq!(Manifest::parse(bytes).version(), None);
        }
    }

    #[test]
    fn values_and_numbers_of_fields_are_limited() {
        let long = format!("Bundle-Name: x\n{}Bundle-Version: 1\n", " yyyyyyyyyy\n".repeat(100_000));
        let manifest = Manifest::parse(long.as_bytes());
        assert_eq!((manifest.main("Bundle-Name"), manifest.main("Bundle-Version")), (None, Some("1")));
        let many = "Bundle-Name: x\n".repeat(100_000);
        assert_eq!(Manifest::parse(many.as_bytes()).fields.len(), MAX_FIELDS);
    }

    #[test]
    fn the_bundle_plugin_writes_group_and_artifact() {
        let made = |fields: &str| format!("Created-By: Apache Maven Bundle Plugin 5\n{fields}");
        for (fields, expected) in [
            (made("Bundle-SymbolicName: org.apache.commons.lang3"), Some("lang3")),
            (made("Bundle-SymbolicName: a.b;singleton:=true"), Some("b")),
            (made("Bundle-SymbolicName: a.b\nImplementation-Vendor-Id: a.b"), None),
            ("Created-By: bnd\nBundle-SymbolicName: a.b".to_owned(), None),
        ] {
            assert_eq!(Manifest::parse(fields.as_bytes()).bundle_artifact(), expected, "{fields}");
        }
    }
}
