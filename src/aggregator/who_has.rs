//! Who has it? The question of every emergency: a package, a version of it, or a problem.

use outcrop_proto::PackageType;

use crate::advisory::version::{Scheme, Version};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// Whatever has the problem of this name.
    Problem(String),
    /// Packages.
    Package {
        /// Of this type only.
        kind: Option<PackageType>,
        /// Of this name.
        name: String,
        /// Only versions that are so.
        bound: Option<(Bound, String)>,
    },
}

/// How a version is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

/// A question that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid query {0:?}: expected a package (log4j-core), a package URL (pkg:npm/lodash@<4.17.21) or a vulnerability (CVE-2021-44228)"
)]
pub(super) struct QueryError(String);

/// What the names of problems begin with, in the sources that are read; a number, or the name of a CVE, follows.
const PROBLEMS: [&str; 12] =
    ["CVE-", "GHSA-", "PYSEC-", "GO-", "DEBIAN-", "UBUNTU-", "DSA-", "DLA-", "USN-", "ALPINE-", "ALSA-", "RLSA-"];

/// Whether a text is surely the name of a problem, and not of a package: `go-md2man` is one of these.
fn is_problem(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    let rest = PROBLEMS.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or_default();
    rest.starts_with(|first: char| first.is_ascii_digit())
        || rest.starts_with("CVE-")
        || text.starts_with("GHSA-") && rest.split('-').count() == 3
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, QueryError> {
        let text = text.trim();
        let wrong = || QueryError(text.to_owned());
        if is_problem(text) {
            return Ok(Self::Problem(text.to_owned()));
        }
        let (kind, rest) = match text.strip_prefix("pkg:") {
            Some(rest) => {
                let (kind, rest) = rest.split_once('/').ok_or_else(wrong)?;
                (Some(PackageType::from_name(kind).ok_or_else(wrong)?), rest)
            }
            None => (None, text),
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        // A scope begins with an @ as well: the version's is the last one, and not the first character.
        let (name, version) = match rest.rsplit_once('@') {
            Some((name, version)) if !name.is_empty() => (name, Some(version)),
            _ => (rest, None),
        };
        let name = match kind {
            Some(PackageType::Maven) => name.replacen('/', ":", 1),
            // purl puts the distribution before the name.
            Some(kind) if kind.is_os() => name.rsplit('/').next().unwrap_or_default().to_owned(),
            _ => name.replace("%40", "@"),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(wrong());
        }
        let bounds = [
            ("<=", Bound::AtMost),
            (">=", Bound::AtLeast),
            ("<", Bound::Less),
            (">", Bound::More),
            ("=", Bound::Equal),
            ("", Bound::Equal),
        ];
        let bound = version.map(|version| {
            let found = bounds.iter().find_map(|(sign, bound)| Some((*bound, version.strip_prefix(sign)?)));
            found.unwrap_or((Bound::Equal, version))
        });
        match bound {
            Some((_, "")) => Err(wrong()),
            bound => Ok(Self::Package { kind, name, bound: bound.map(|(bound, version)| (bound, version.to_owned())) }),
        }
    }
}

/// Whether a version of a package of type `kind` is as `bound` says, in that ecosystem's own order.
pub(super) fn is_within(kind: PackageType, version: &str, bound: &(Bound, String)) -> bool {
    let scheme = match kind {
        PackageType::Deb => Scheme::Dpkg,
        PackageType::Apk => Scheme::Apk,
        PackageType::Rpm => Scheme::Rpm,
        PackageType::Pypi => Scheme::Pep440,
        PackageType::Npm | PackageType::Golang => Scheme::Semver,
        PackageType::Maven => Scheme::Maven,
    };
    let order = Version::parse(scheme, version).cmp(&Version::parse(scheme, &bound.1));
    match bound.0 {
        Bound::Less => order.is_lt(),
        Bound::AtMost => order.is_le(),
        Bound::Equal => order.is_eq(),
        Bound::AtLeast => order.is_ge(),
        Bound::More => order.is_gt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_understood_as_they_are_typed() {
        let package = |kind, name: &str, bound: Option<(Bound, &str)>| {
            Ok(Query::Package {
                kind,
                name: name.to_owned(),
                bound: bound.map(|(bound, version)| (bound, version.to_owned())),
            })
        };
        let cases = [
            ("log4j-core", package(None, "log4j-core", None)),
            ("log4j-core@<2.17.1", package(None, "log4j-core", Some((Bound::Less, "2.17.1")))),
            ("pkg:npm/lodash@<4.17.21", package(Some(PackageType::Npm), "lodash", Some((Bound::Less, "4.17.21")))),
            (
                "pkg:npm/@babel/core@7.0.0",
                package(Some(PackageType::Npm), "@babel/core", Some((Bound::Equal, "7.0.0"))),
            ),
            ("pkg:npm/%40babel/core", package(Some(PackageType::Npm), "@babel/core", None)),
            ("@babel/core", package(None, "@babel/core", None)),
            (
                "pkg:maven/org.apache/log4j@>=2",
                package(Some(PackageType::Maven), "org.apache:log4j", Some((Bound::AtLeast, "2"))),
            ),
            ("pkg:deb/debian/curl@1?arch=amd64", package(Some(PackageType::Deb), "curl", Some((Bound::Equal, "1")))),
            (
                "pkg:golang/golang.org/x/net@<=v0.7.0",
                package(Some(PackageType::Golang), "golang.org/x/net", Some((Bound::AtMost, "v0.7.0"))),
            ),
            ("CVE-2021-44228", Ok(Query::Problem("CVE-2021-44228".to_owned()))),
            ("ghsa-jfh8-c2jp-5v3q", Ok(Query::Problem("ghsa-jfh8-c2jp-5v3q".to_owned()))),
            ("DEBIAN-CVE-2023-1", Ok(Query::Problem("DEBIAN-CVE-2023-1".to_owned()))),
            ("go-md2man", package(None, "go-md2man", None)),
            ("debian-archive-keyring", package(None, "debian-archive-keyring", None)),
        ];
        for (text, query) in cases {
            assert_eq!(Query::parse(text), query, "{text}");
        }
        for text in ["", "pkg:", "pkg:cargo/serde", "pkg:npm/", "two words", "lodash@", "lodash@<"] {
            assert!(Query::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn versions_are_compared_as_their_ecosystem_does() {
        let less = |version: &str| (Bound::Less, version.to_owned());
        assert!(is_within(PackageType::Npm, "4.9.0", &less("4.17.21")));
        assert!(is_within(PackageType::Deb, "1.0~rc1", &less("1.0")));
        assert!(!is_within(PackageType::Maven, "2.17.1", &less("2.17.1")));
    }
}
