//! Parses the question of `who-has`: a package, a package URL with or without versions, or an advisory.

use outcrop_proto::ecosystem::PurlName;
use outcrop_proto::{Ecosystem, PackageType};
use percent_encoding::percent_decode_str;

use crate::advisory::version::compare;

/// A query for packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// Only packages of this type.
    pub(super) kind: Option<PackageType>,
    /// The name, as the ecosystem spells it.
    pub(super) name: String,
    /// Only versions within this bound.
    pub(super) bound: Option<(Bound, String)>,
}

/// Comparison of a version with the given one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

/// The text is not a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid query {0:?}: expected a package (log4j-core), a package URL (pkg:npm/lodash@<4.17.21) or a vulnerability (CVE-2021-44228)"
)]
pub(super) struct QueryError(String);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, QueryError> {
        let text = text.trim();
        let wrong = || QueryError(text.to_owned());
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
        let name = percent_decode_str(name).decode_utf8().map_err(|_| wrong())?;
        let name = kind.map_or_else(|| name.clone().into_owned(), |kind| from_purl(kind.ecosystem(), &name));
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
            bound => Ok(Self { kind, name, bound: bound.map(|(bound, version)| (bound, version.to_owned())) }),
        }
    }

    /// Returns whether the text may also be the ID of an advisory: a name without type and version. The store decides.
    pub(super) const fn may_be_advisory(&self) -> bool {
        self.kind.is_none() && self.bound.is_none()
    }
}

/// Returns the name of a package from the namespace and name of its package URL.
fn from_purl(ecosystem: &Ecosystem, path: &str) -> String {
    let (namespace, name) = match ecosystem.purl_name {
        PurlName::Group => path.split_once('/'),
        PurlName::Distribution | PurlName::Lowercase | PurlName::Path => path.rsplit_once('/'),
    }
    .map_or((None, path), |(namespace, name)| (Some(namespace), name));
    ecosystem.join_name(namespace, name)
}

/// Returns whether the version of a package of type `kind` is within `bound`, in the order of its ecosystem.
pub(super) fn is_within(kind: PackageType, version: &str, bound: &(Bound, String)) -> bool {
    let order = compare(kind.ecosystem().version_order, version, &bound.1);
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
            Ok(Query { kind, name: name.to_owned(), bound: bound.map(|(bound, version)| (bound, version.to_owned())) })
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
            ("CVE-2021-44228", package(None, "CVE-2021-44228", None)),
            ("pkg:pypi/requests", package(Some(PackageType::Pypi), "requests", None)),
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
