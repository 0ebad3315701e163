//! Questions about packages: a name or a package URL, with an optional range of versions.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use outcrop_proto::ecosystem::PurlName;
use outcrop_proto::{Ecosystem, PackageType};
use packageurl::PackageUrl;
use percent_encoding::percent_decode_str;

use super::range::{Range, RangeError};
use super::{QuestionError, Reason, error, vers};

/// A question about a package.
#[derive(Clone, Debug)]
pub struct PackageQuestion {
    /// The text of the question, for errors.
    text: String,
    /// Only packages of this type.
    kind: Option<PackageType>,
    /// Name of the package, as the ecosystem spells it.
    name: String,
    /// Distribution of an OS package.
    distribution: Option<String>,
    /// Qualifiers that the package URL of the package has.
    qualifiers: Vec<(&'static str, String)>,
    /// The range of versions in each ecosystem that may be meant; `None` if every version is.
    ranges: Option<BTreeMap<PackageType, Result<Range, RangeError>>>,
}

impl PackageQuestion {
    /// Parses a name with an optional range: `lodash`, `lodash<4.17.21`, `@babel/core@^7`, `org.apache:log4j:2.14.1`.
    pub(super) fn of_name(text: &str) -> Result<Self, Reason> {
        let (name, range) = split_range(text)?;
        // Gradle's notation of an artifact with its version.
        let coordinates: Vec<&str> = name.split(':').collect();
        let (name, range) = match (coordinates.as_slice(), range) {
            ([group, artifact, version], None) => (format!("{group}:{artifact}"), Some(*version)),
            (_, range) => (name.to_owned(), range),
        };
        check_name(&name)?;
        let (scheme, ranges) = match range {
            None => (None, None),
            Some(range) => {
                let (scheme, ranges) = ranges(range, &PackageType::ALL)?;
                (scheme, Some(ranges))
            }
        };
        Ok(Self { text: text.to_owned(), kind: scheme, name, distribution: None, qualifiers: Vec::new(), ranges })
    }

    /// Parses a package URL without its scheme: `npm/lodash@<4.17.21`, `deb/debian/curl@7.88.1-10?arch=amd64`.
    pub(super) fn of_purl(text: &str) -> Result<Self, Reason> {
        let rest = text.trim_start_matches('/');
        let (kind, rest) = rest.split_once('/').ok_or(Reason::Purl("expected pkg:TYPE/NAME"))?;
        let known = || PackageType::ALL.map(PackageType::as_str).join(", ");
        let found = || kind.chars().take(20).collect();
        let kind = PackageType::from_name(&kind.to_ascii_lowercase())
            .ok_or_else(|| Reason::Type { found: found(), known: known() })?;
        if rest.contains('#') {
            return Err(Reason::Purl("subpaths are not supported; omit # and what follows"));
        }
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (path, range) = split_range(rest)?;
        let range = range.map(decode).transpose()?;
        let segments: Vec<String> =
            path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect::<Result<_, _>>()?;
        let (distribution, name) = name_of(kind.ecosystem(), &segments)?;
        check_name(&name)?;
        let (mut range, mut qualifiers, mut epoch) = (range, Vec::new(), None);
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or(Reason::Purl("a qualifier has no value"))?;
            let value = decode(value)?;
            match key.to_ascii_lowercase().as_str() {
                "arch" => qualifiers.push(("arch", value)),
                "distro" => qualifiers.push(("distro", value)),
                "epoch" if kind.ecosystem().has_epoch => epoch = Some(value),
                "vers" if range.is_none() => range = Some(value),
                "vers" => return Err(Reason::Purl("a version and the qualifier vers exclude each other")),
                other => return Err(Reason::Qualifier(other.chars().take(20).collect())),
            }
        }
        if let Some(epoch) = epoch {
            let bare = |range: &String| range.starts_with(|first: char| first.is_ascii_alphanumeric());
            range = match range.filter(bare) {
                Some(version) if epoch.bytes().all(|byte| byte.is_ascii_digit()) && !version.contains(':') => {
                    Some(format!("{epoch}:{version}"))
                }
                _ => return Err(Reason::Purl("the qualifier epoch requires one version; write ranges as <1:2.0")),
            };
        }
        let ranges = range.map(|range| ranges(&range, &[kind])).transpose()?;
        if ranges.as_ref().and_then(|(scheme, _)| *scheme).is_some_and(|scheme| scheme != kind) {
            return Err(Reason::Purl("the range has another type than the package"));
        }
        Ok(Self {
            text: format!("pkg:{text}"),
            kind: Some(kind),
            name,
            distribution,
            qualifiers,
            ranges: ranges.map(|(_, ranges)| ranges),
        })
    }

    /// Returns the name of the package, as the question has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether the question has a range of versions.
    pub fn has_range(&self) -> bool {
        self.ranges.is_some()
    }

    /// Returns the names under which the package may be stored: some ecosystems treat several spellings as one name.
    pub fn spellings(&self) -> Vec<String> {
        const SEPARATORS: [&str; 3] = ["-", "_", "."];
        let mut spellings = vec![self.name.clone()];
        let is_normalized = |kind: PackageType| (kind.ecosystem().normalize_name)("a_b") != "a_b";
        if self.kind.is_none_or(is_normalized) {
            let separated = |separator: &&str| self.name.replace(['-', '_', '.'], separator);
            spellings.extend(SEPARATORS.iter().map(separated));
        }
        spellings.sort_unstable();
        spellings.dedup();
        spellings
    }

    /// Returns whether the question asks for a package.
    ///
    /// # Errors
    /// When the ecosystem of the package cannot read the range of versions.
    pub fn matches(&self, kind: PackageType, name: &str, version: &str, purl: &str) -> Result<bool, QuestionError> {
        let ecosystem = kind.ecosystem();
        if self.kind.is_some_and(|wanted| wanted != kind) || !self.is_named(ecosystem, name) || !self.is_of(purl) {
            return Ok(false);
        }
        let Some(ranges) = &self.ranges else { return Ok(true) };
        match ranges.get(&kind) {
            Some(Ok(range)) => Ok(range.contains(version)),
            // In this order no version is in the range.
            Some(Err(RangeError::Contradiction(_))) => Ok(false),
            Some(Err(reason)) => {
                let unread = RangeError::OtherEcosystem {
                    name: name.chars().take(60).collect(),
                    ecosystem: ecosystem.display_name,
                    reason: reason.to_string(),
                };
                Err(error(&self.text, Reason::Range(unread)))
            }
            None => Ok(false),
        }
    }

    /// Returns whether a package has the name. Case does not count. Without a type, the last part of a Java or Go name is enough;
    /// an npm package with a scope is another package.
    fn is_named(&self, ecosystem: &Ecosystem, name: &str) -> bool {
        let normalize = ecosystem.normalize_name;
        if normalize(name).eq_ignore_ascii_case(&normalize(&self.name)) {
            return true;
        }
        let may_be_short = self.kind.is_none() || ecosystem.purl_name == PurlName::Group;
        match ecosystem.split_name(name) {
            (Some(namespace), short) if may_be_short && !namespace.starts_with('@') => {
                short.eq_ignore_ascii_case(&self.name)
            }
            _ => false,
        }
    }

    /// Returns whether a package URL has the distribution and the qualifiers of the question.
    fn is_of(&self, purl: &str) -> bool {
        if self.distribution.is_none() && self.qualifiers.is_empty() {
            return true;
        }
        let Ok(purl) = PackageUrl::from_str(purl) else { return false };
        self.distribution
            .as_ref()
            .is_none_or(|wanted| purl.namespace().is_some_and(|distribution| distribution.eq_ignore_ascii_case(wanted)))
            && self.qualifiers.iter().all(|(key, value)| purl.qualifiers().get(*key).is_some_and(|has| has == value))
    }
}

/// Refuses a colon that separates no group of an artifact: in front of a version, as container images have it, and behind `vers`.
pub(super) fn refuse_colon(text: &str) -> Result<(), Reason> {
    let Some((name, rest)) = text.split_once(':') else { return Ok(()) };
    if name == "vers" {
        return Err(Reason::VersAlone);
    }
    let digits = rest.strip_prefix('v').unwrap_or(rest);
    let is_name = name.chars().all(|character| character.is_alphanumeric() || "@/._+-".contains(character));
    if is_name && !name[1.min(name.len())..].contains('@') && digits.starts_with(|first: char| first.is_ascii_digit()) {
        let quoted = |text: &str| text.chars().take(60).collect();
        return Err(Reason::Colon { name: quoted(name), version: quoted(rest) });
    }
    Ok(())
}

/// Splits `text` into a name and a range of versions, which begins at the first operator, bracket, blank or `@`.
fn split_range(text: &str) -> Result<(&str, Option<&str>), Reason> {
    let begins = |(at, character): &(usize, char)| match character {
        '<' | '>' | '=' | '!' | '^' | '[' | '(' => true,
        // The first character may be that of an npm scope.
        '@' => *at > 0,
        // SourceHut's module paths contain ~USER.
        '~' => *at > 0 && text.as_bytes().get(at - 1) != Some(&b'/'),
        other => other.is_whitespace(),
    };
    let Some((at, character)) = text.char_indices().find(begins) else { return Ok((text, None)) };
    let (name, range) = text.split_at(at);
    if name.is_empty() {
        return Err(Reason::NoName);
    }
    let range = if character == '@' { range.get(1..).unwrap_or_default() } else { range };
    match range.trim() {
        "" => Err(Reason::Range(RangeError::NoVersion { operator: "@".to_owned() })),
        // Two words are not a package and its version.
        word if character.is_whitespace() && word.starts_with(|first: char| first.is_alphabetic() && first != 'v') => {
            Err(Reason::Character(character))
        }
        range => Ok((name, Some(range))),
    }
}

/// Decodes percent-encoded text.
fn decode(text: &str) -> Result<String, Reason> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| Reason::Purl("invalid percent-encoding"))?;
    Ok(text.into_owned())
}

/// Returns the distribution and the name of a package from the path of its package URL.
fn name_of(ecosystem: &Ecosystem, segments: &[String]) -> Result<(Option<String>, String), Reason> {
    let (last, namespace) = segments.split_last().ok_or(Reason::NoName)?;
    match (ecosystem.purl_name, namespace) {
        (_, []) => Ok((None, ecosystem.join_name(None, last))),
        (PurlName::Distribution, [distribution]) => Ok((Some(distribution.clone()), last.clone())),
        (PurlName::Lowercase, _) => Err(Reason::Purl("packages of this type have no namespace")),
        (PurlName::Distribution, _) => Err(Reason::Purl("expected pkg:TYPE/DISTRIBUTION/NAME")),
        (PurlName::Group, [group]) => Ok((None, ecosystem.join_name(Some(group), last))),
        (PurlName::Group, _) => Err(Reason::Purl("expected pkg:TYPE/GROUP/NAME")),
        (PurlName::Path, _) => Ok((None, ecosystem.join_name(Some(&namespace.join("/")), last))),
    }
}

/// Refuses names that no package has.
fn check_name(name: &str) -> Result<(), Reason> {
    if name.is_empty() || name == "@" {
        return Err(Reason::NoName);
    }
    if name.contains(['*', '?']) {
        return Err(Reason::Wildcard);
    }
    if name.contains("://") {
        return Err(Reason::Character(':'));
    }
    let has_scope_only = name.starts_with('@') && !name.contains('/');
    if has_scope_only || name.contains('/') && name.split('/').any(|part| part.is_empty() || part == "@") {
        return Err(Reason::EmptyPart);
    }
    let is_wrong = |character: &char| {
        !(character.is_alphanumeric() || matches!(character, '@' | '/' | '.' | '_' | ':' | '+' | '-' | '~'))
    };
    match name.chars().find(is_wrong) {
        Some(character) => Err(Reason::Character(character)),
        None if name.chars().any(char::is_alphanumeric) => Ok(()),
        None => Err(Reason::NoName),
    }
}

/// The type that a range names, and the range in each ecosystem.
type Ranges = (Option<PackageType>, BTreeMap<PackageType, Result<Range, RangeError>>);

/// Parses a range in the grammar of each of `kinds`. A `vers:` range names its own.
fn ranges(text: &str, kinds: &[PackageType]) -> Result<Ranges, Reason> {
    if let Some(text) = vers::strip_scheme(text) {
        let (kind, range) = vers::parse(text).map_err(Reason::Range)?;
        return Ok((Some(kind), BTreeMap::from([(kind, Ok(range))])));
    }
    let mut ranges: BTreeMap<_, _> = kinds.iter().map(|kind| (*kind, Range::parse(kind.ecosystem(), text))).collect();
    if ranges.values().any(Result::is_ok) {
        return Ok((None, ranges));
    }
    // Without a type, the errors of the ecosystems are mostly the same. Intervals are Maven's, and npm's grammar is known best.
    let wanted = match kinds {
        [kind] => *kind,
        _ if text.starts_with(['[', '(']) => PackageType::Maven,
        _ => PackageType::Npm,
    };
    Err(Reason::Range(ranges.remove(&wanted).and_then(Result::err).unwrap_or(RangeError::NoRange)))
}
