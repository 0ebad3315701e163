//! Splits the file name of an archive into name and version: `spring-core-5.3.1.jar`.

/// Extensions of archives that contain Java classes or further such archives, in lower case.
const EXTENSIONS: [&[u8]; 13] =
    [b"jar", b"war", b"ear", b"par", b"sar", b"nar", b"jpi", b"hpi", b"kar", b"far", b"lpkg", b"rar", b"zap"];

/// Returns whether a path has the extension of a Java archive.
pub(super) fn is_archive(path: &[u8]) -> bool {
    // Called for every path of a layer, so the position of the dot is checked first.
    let extension = match path {
        [.., b'.', _, _, _] => &path[path.len() - 3..],
        [.., b'.', _, _, _, _] => &path[path.len() - 4..],
        _ => return false,
    };
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Returns whether every file with this extension is an archive, so that another file causes a warning. `.rar` and `.par` have other uses,
/// too.
pub(super) fn must_be_archive(path: &[u8]) -> bool {
    let extension = path.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
    [&b"jar"[..], b"war", b"ear", b"jpi", b"hpi", b"lpkg"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The two parts of a file name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileName<'n> {
    /// The part before the version; empty if no build tool writes such a name.
    pub(super) name: &'n str,
    /// The version; empty if the name has none.
    pub(super) version: &'n str,
    /// True if a dash precedes the version, as in file names that build tools write.
    pub(super) dashed: bool,
}

impl<'n> FileName<'n> {
    /// Splits `base`, a file name with its extension, as syft does: the version starts at the first part after a dash that starts with a digit,
    /// is `build` with a number, or is `r` or `rc` with a number only.
    pub(super) fn split(base: &'n str) -> Self {
        let stem = base.rsplit_once('.').map_or(base, |(stem, _)| stem);
        for (dash, _) in stem.match_indices('-') {
            let (name, version) = (&stem[..dash], &stem[dash + 1..]);
            if !is_name(name) {
                break;
            }
            if is_version(version) {
                return Self { name, version, dashed: true };
            }
        }
        if !is_name(stem) {
            return Self { name: "", version: "", dashed: false };
        }
        // Eclipse and others write `name_1.2.3` or `name.1.2.3`.
        let separators = stem.match_indices(['.', '_', '-']);
        match separators.map(|(at, _)| at).find(|&at| at > 0 && is_version(&stem[at + 1..])) {
            Some(at) => Self { name: &stem[..at], version: &stem[at + 1..], dashed: false },
            None => Self { name: stem, version: "", dashed: false },
        }
    }

    /// Returns the name of the artifact: the last element of a name like `group.artifact`. Names of Eclipse's artifacts contain dots.
    pub(super) fn artifact(&self) -> &'n str {
        let identifier = |part: &str| part.starts_with(|c: char| c.is_alphabetic() || matches!(c, '_' | '$'));
        match self.name.rsplit_once('.') {
            Some((_, last)) if !self.name.starts_with("org.eclipse.") && self.name.split('.').all(identifier) => last,
            _ => self.name,
        }
    }
}

fn is_name(name: &str) -> bool {
    let word = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
    };
    name.strip_suffix('-').unwrap_or(name).split('-').all(word)
}

fn is_version(text: &str) -> bool {
    let digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let lower = |prefix: &str| text.get(..prefix.len()).filter(|start| start.eq_ignore_ascii_case(prefix));
    let only_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digit(text)
        || lower("build").is_some_and(|start| digit(&text[start.len()..]))
        || lower("rc").or_else(|| lower("r")).is_some_and(|start| only_digits(&text[start.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_known_by_their_extension() {
        for path in ["a.jar", "x/a.WAR", "a.b.lpkg", "a.hpi", ".jar"] {
            assert!(is_archive(path.as_bytes()), "{path}");
        }
        for path in ["a.jarx", "ajar", "jar", "a.jar/", "a.zip", "", "a.xjar"] {
            assert!(!is_archive(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn names_and_versions_are_told_apart() {
        for (base, name, version) in [
            ("spring-core-5.3.1.jar", "spring-core", "5.3.1"),
            ("some-package-4.0.1.jar", "some-package", "4.0.1"),
            ("prefix.thing-4.jar", "prefix.thing", "4"),
            ("my-http2-server-5.jar", "my-http2-server", "5"),
            ("jetpack-build235-rc5.jar", "jetpack", "build235-rc5"),
            ("ironman-r4-2009.jar", "ironman-r4", "2009"),
            ("guava-29.0-jre.jar", "guava", "29.0-jre"),
            ("no_pom_properties-2.4.0.jar", "no_pom_properties", "2.4.0"),
            ("org.eclipse.ant.core_3.2.100.v2010.jar", "org.eclipse.ant.core", "3.2.100.v2010"),
            ("a-RC2.war", "a", "RC2"),
            ("commons-lang3.jar", "commons-lang3", ""),
            ("app.jar", "app", ""),
            ("my app.jar", "", ""),
            ("1.0.jar", "", ""),
            ("", "", ""),
        ] {
            let split = FileName::split(base);
            assert_eq!((split.name, split.version), (name, version), "{base}");
        }
    }

    #[test]
    fn an_artifact_is_the_end_of_a_qualified_name() {
        for (name, artifact) in
            [("org.foo.bar", "bar"), ("org.eclipse.ant.core", "org.eclipse.ant.core"), ("bar", "bar"), ("a.1b", "a.1b")]
        {
            assert_eq!(FileName { name, version: "", dashed: false }.artifact(), artifact);
        }
    }
}
