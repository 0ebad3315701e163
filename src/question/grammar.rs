//! The grammars of ranges: from the text of a range to sets of comparators.
//!
//! Every grammar accepts a list of comparators, separated by commas or blanks, all of which must be true. A version without an operator is that
//! version. Each ecosystem adds:
//!
//! | grammar | specification |
//! |---|---|
//! | npm | [node-semver](https://github.com/npm/node-semver#ranges): `\|\|`, hyphen ranges, `1.x`, `~`, `^` |
//! | Cargo | [version requirements](https://doc.rust-lang.org/cargo/reference/specifying-dependencies.html): `^`, `~`, `1.*` |
//! | Go | [version queries](https://go.dev/ref/mod#version-queries): `v1.2` is every version that begins so |
//! | PEP 440 | [version specifiers](https://peps.python.org/pep-0440/#version-specifiers) |
//! | Maven | [version ranges](https://maven.apache.org/enforcer/enforcer-rules/versionRanges.html): `[1.0,2.0),[3.0,)` |
//! | gem | [gem requirements](https://guides.rubygems.org/patterns/#pessimistic-version-constraint): `~>`, `!=` |
//! | dpkg | [relationships](https://www.debian.org/doc/debian-policy/ch-relationships.html): `<<`, `>>`; `<` and `>` are the same |
//! | apk | [`apk-world(5)`](https://man.archlinux.org/man/apk-world.5): `~` is every version that begins so |
//! | rpm | [dependencies](https://rpm-software-management.github.io/rpm/manual/dependencies.html): without a release, any release |

mod semver;

use outcrop_proto::ecosystem::RangeGrammar;
use outcrop_proto::{Ecosystem, VersionOrder};

use super::range::{Comparator, MAX_COMPARATORS, Operator, RangeError, quoted};
use semver::Partial;

/// Sets of comparators. All comparators of one set must be true.
type Sets = Vec<Vec<Comparator>>;

/// The operators of a grammar that compare with the given version, with their meaning.
const COMPARISONS: &[(&str, Operator)] = &[
    ("", Operator::Equal),
    ("=", Operator::Equal),
    ("==", Operator::Equal),
    ("<", Operator::Less),
    ("<=", Operator::AtMost),
    (">", Operator::More),
    (">=", Operator::AtLeast),
];

/// Parses a range in the grammar of `ecosystem`.
pub(super) fn parse(ecosystem: &Ecosystem, text: &str) -> Result<Sets, RangeError> {
    let reader = Reader { ecosystem };
    match ecosystem.range_grammar {
        RangeGrammar::Npm => reader.npm(text),
        RangeGrammar::Cargo => reader.all(text, |reader, operator, version| reader.semver(operator, version)),
        RangeGrammar::Go => reader.all(text, Reader::go),
        RangeGrammar::Pep440 => reader.all(text, Reader::pep440),
        RangeGrammar::Maven if text.starts_with(['[', '(']) => reader.intervals(text),
        RangeGrammar::Maven => reader.all(text, |reader, operator, version| reader.compared(operator, version, &[])),
        RangeGrammar::Gem => reader.all(text, Reader::gem),
        RangeGrammar::Dpkg => reader.all(text, |reader, operator, version| {
            reader.compared(operator, version, &[("<<", Operator::Less), (">>", Operator::More)])
        }),
        RangeGrammar::Apk => reader.all(text, |reader, operator, version| {
            reader.compared(
                operator,
                version,
                &[("~", Operator::Prefix), ("~=", Operator::Prefix), ("=~", Operator::Prefix)],
            )
        }),
        RangeGrammar::Rpm => reader.all(text, |reader, operator, version| reader.compared(operator, version, &[])),
    }
}

/// Reads ranges of one ecosystem.
#[derive(Clone, Copy)]
struct Reader<'e> {
    ecosystem: &'e Ecosystem,
}

impl Reader<'_> {
    const fn order(self) -> VersionOrder {
        self.ecosystem.version_order
    }

    fn comparator(self, operator: Operator, version: &str) -> Comparator {
        Comparator::new(self.order(), operator, (self.ecosystem.normalize_version)(version))
    }

    /// Reads one set of comparators, each by `read`.
    fn all(
        self,
        text: &str,
        read: impl Fn(Self, &str, &str) -> Result<Vec<Comparator>, RangeError>,
    ) -> Result<Sets, RangeError> {
        let mut set = Vec::new();
        for (operator, version) in split(text)? {
            set.extend(read(self, operator, version)?);
        }
        Ok(vec![set])
    }

    /// Reads a comparator that compares with the given version. `more` are operators besides [`COMPARISONS`].
    fn compared(self, operator: &str, version: &str, more: &[(&str, Operator)]) -> Result<Vec<Comparator>, RangeError> {
        let all = || COMPARISONS.iter().chain(more);
        let Some((_, operator)) = all().find(|(known, _)| *known == operator) else {
            return Err(self.unknown(operator, all().map(|(known, _)| *known)));
        };
        self.check(version)?;
        Ok(vec![self.comparator(*operator, version)])
    }

    fn unknown<'k>(self, operator: &str, known: impl Iterator<Item = &'k str>) -> RangeError {
        let known: Vec<&str> = known.filter(|known| !known.is_empty()).collect();
        let ecosystem = self.ecosystem.display_name;
        RangeError::Operator { operator: quoted(operator), ecosystem, known: known.join(", ") }
    }

    fn invalid(self, version: &str) -> RangeError {
        let example = match self.ecosystem.range_grammar {
            RangeGrammar::Npm => "^4.17.0 or <4.17.21 || 5.x",
            RangeGrammar::Cargo => "^1.2 or >=1.2, <1.5",
            RangeGrammar::Go => ">=v1.2.0,<v1.5.0",
            RangeGrammar::Pep440 => ">=1.0,<2 or ~=1.4",
            RangeGrammar::Maven => "[1.0,2.0) or <2.17.1",
            RangeGrammar::Gem => "~> 2.2 or >=1.0, <2",
            RangeGrammar::Dpkg => "<<7.88.1-10 or >=1:2.0",
            RangeGrammar::Apk => "<1.36.1-r2 or ~1.36",
            RangeGrammar::Rpm => "<1:3.0.7-24.el9",
        };
        RangeError::Version { version: quoted(version), ecosystem: self.ecosystem.display_name, example }
    }

    /// Refuses text that is not a version of the ecosystem.
    fn check(self, version: &str) -> Result<(), RangeError> {
        let (more, starts_with_digit) = match self.order() {
            VersionOrder::Dpkg => (".+-~:", true),
            VersionOrder::Apk => (".+-_~", true),
            VersionOrder::Rpm => (".+-_~^:", false),
            VersionOrder::Maven => (".+-_", false),
            VersionOrder::Semver => (".+-", true),
            VersionOrder::Pep440 => (".+-_!*", true),
        };
        let bare = if self.order() == VersionOrder::Semver { version.trim_start_matches('v') } else { version };
        let is_version = bare.chars().all(|next| next.is_ascii_alphanumeric() || more.contains(next))
            && bare.bytes().any(|byte| byte.is_ascii_digit())
            && bare
                .starts_with(|first: char| first.is_ascii_digit() || !starts_with_digit && first.is_ascii_alphabetic());
        if is_version { Ok(()) } else { Err(self.invalid(version)) }
    }

    /// Reads alternatives, separated by `||`, with hyphen ranges.
    fn npm(self, text: &str) -> Result<Sets, RangeError> {
        let (mut sets, mut count) = (Vec::new(), 0);
        for part in text.split("||") {
            let part = part.trim();
            if part.is_empty() {
                return Err(RangeError::NoComparator("||"));
            }
            let pairs = match part.split_once(" - ") {
                Some((from, to)) => vec![(">=", from.trim()), ("<=", to.trim())],
                None => split(part)?,
            };
            count += pairs.len();
            if count > MAX_COMPARATORS {
                return Err(RangeError::TooMany);
            }
            let mut set = Vec::new();
            for (operator, version) in pairs {
                set.extend(self.semver(operator, version)?);
            }
            sets.push(set);
        }
        Ok(sets)
    }

    /// Reads a comparator of npm or Cargo, in which numbers may be missing or wildcards.
    fn semver(self, operator: &str, version: &str) -> Result<Vec<Comparator>, RangeError> {
        const KNOWN: [&str; 9] = ["<", "<=", "=", "==", ">=", ">", "^", "~", "~>"];
        if !operator.is_empty() && !KNOWN.contains(&operator) {
            return Err(self.unknown(operator, KNOWN.into_iter()));
        }
        let partial = Partial::parse(version).ok_or_else(|| self.invalid(version))?;
        // Cargo reads an incomplete version without an operator as a compatible one.
        let is_compatible = operator.is_empty() && self.ecosystem.range_grammar == RangeGrammar::Cargo;
        let operator = if is_compatible && partial.is_incomplete() { "^" } else { operator };
        let bounds = partial.bounds(operator).ok_or_else(|| self.invalid(version))?;
        Ok(bounds.into_iter().map(|(operator, version)| self.comparator(operator, &version)).collect())
    }

    /// Reads a comparator of a Go module: a prefix of a version means all versions that begin so.
    fn go(self, operator: &str, version: &str) -> Result<Vec<Comparator>, RangeError> {
        let partial = Partial::parse(version).filter(|partial| !partial.has_wildcard());
        match (operator, partial) {
            ("" | "=" | "==", Some(partial)) if partial.is_incomplete() => self.semver(operator, version),
            _ => self.compared(operator, version, &[]),
        }
    }

    /// Reads a version specifier of PEP 440.
    fn pep440(self, operator: &str, version: &str) -> Result<Vec<Comparator>, RangeError> {
        const KNOWN: [(&str, Operator); 10] = [
            ("~=", Operator::AtLeast),
            ("==", Operator::Equal),
            ("===", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::AtMost),
            (">=", Operator::AtLeast),
            ("<", Operator::Less),
            (">", Operator::More),
            ("", Operator::Equal),
            ("=", Operator::Equal),
        ];
        let Some((known, meaning)) = KNOWN.iter().find(|(known, _)| *known == operator) else {
            return Err(self.unknown(operator, KNOWN.iter().map(|(known, _)| *known)));
        };
        self.check(version)?;
        let spelled = if matches!(*known, "" | "=") { "==" } else { *known };
        let specifier: pep440_rs::VersionSpecifier =
            format!("{spelled}{version}").parse().map_err(|_| self.invalid(version))?;
        // A prefix compares nothing with versions that PEP 440 refuses.
        let meaning = if version.ends_with(".*") { Operator::Specifier } else { *meaning };
        Ok(vec![Comparator::pep440(meaning, version, specifier)])
    }

    /// Reads a requirement of RubyGems.
    fn gem(self, operator: &str, version: &str) -> Result<Vec<Comparator>, RangeError> {
        if operator != "~>" {
            return self.compared(operator, version, &[("!=", Operator::NotEqual), ("~>", Operator::AtLeast)]);
        }
        self.check(version)?;
        // Without its last number, the last of the others is one higher; a prerelease does not count.
        let release: Vec<&str> =
            version.split(['.', '-']).take_while(|part| part.bytes().all(|byte| byte.is_ascii_digit())).collect();
        let kept = release.get(..release.len().saturating_sub(1).max(1)).unwrap_or_default();
        let (last, first) = kept.split_last().ok_or_else(|| self.invalid(version))?;
        let next =
            last.parse::<u64>().ok().and_then(|last| last.checked_add(1)).ok_or_else(|| self.invalid(version))?;
        let first: String = first.iter().map(|part| format!("{part}.")).collect();
        Ok(vec![
            self.comparator(Operator::AtLeast, version),
            // The first of all prereleases of the next version.
            self.comparator(Operator::Less, &format!("{first}{next}.a")),
        ])
    }

    /// Reads intervals with brackets.
    fn intervals(self, text: &str) -> Result<Sets, RangeError> {
        let wrong = || RangeError::Interval(quoted(text));
        let mut sets = Vec::new();
        let mut rest = text.trim();
        loop {
            let (from, inner) = match rest.split_at_checked(1) {
                Some(("[", inner)) => (Operator::AtLeast, inner),
                Some(("(", inner)) => (Operator::More, inner),
                _ => return Err(wrong()),
            };
            let end = inner.find([']', ')']).ok_or_else(wrong)?;
            let (inner, after) = inner.split_at(end);
            let to = if after.starts_with(']') { Operator::AtMost } else { Operator::Less };
            let set = match inner.split_once(',') {
                Some((low, high)) if !high.contains(',') => {
                    let bounds = [(from, low.trim()), (to, high.trim())];
                    let given = bounds.into_iter().filter(|(_, version)| !version.is_empty());
                    given
                        .map(|(operator, version)| -> Result<Comparator, RangeError> {
                            self.check(version)?;
                            Ok(self.comparator(operator, version))
                        })
                        .collect::<Result<Vec<_>, _>>()?
                }
                None if from == Operator::AtLeast && to == Operator::AtMost => {
                    self.check(inner.trim())?;
                    vec![self.comparator(Operator::Equal, inner.trim())]
                }
                _ => return Err(wrong()),
            };
            sets.push(set);
            rest = after.get(1..).unwrap_or_default().trim_start();
            if rest.is_empty() {
                return Ok(sets);
            }
            rest = rest.strip_prefix(',').ok_or_else(wrong)?.trim_start();
            if sets.len() > MAX_COMPARATORS {
                return Err(RangeError::TooMany);
            }
        }
    }
}

/// Splits a list into pairs of an operator, which may be empty, and a version.
fn split(text: &str) -> Result<Vec<(&str, &str)>, RangeError> {
    let is_operator = |character: char| matches!(character, '<' | '>' | '=' | '!' | '~' | '^');
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(RangeError::NoRange);
    }
    loop {
        let (operator, after) = rest.split_at(rest.find(|next| !is_operator(next)).unwrap_or(rest.len()));
        let after = after.trim_start();
        // A version may contain ~ and ^, and PEP 440's epoch ends with an exclamation mark.
        let ends = |(at, next): &(usize, char)| match next {
            '!' => after.get(at + 1..).is_some_and(|rest| rest.starts_with('=')),
            '<' | '>' | '=' | ',' => true,
            other => other.is_whitespace(),
        };
        let end = after.char_indices().find(ends).map_or(after.len(), |(at, _)| at);
        let (version, next) = after.split_at(end);
        if version.is_empty() && operator.is_empty() {
            return Err(RangeError::NoComparator(","));
        }
        if version.is_empty() {
            return Err(RangeError::NoVersion { operator: quoted(operator) });
        }
        pairs.push((operator, version));
        if pairs.len() > MAX_COMPARATORS {
            return Err(RangeError::TooMany);
        }
        let next = next.trim_start();
        if next.is_empty() {
            return Ok(pairs);
        }
        rest = match next.strip_prefix(',') {
            Some(rest) if rest.trim().is_empty() => return Err(RangeError::NoComparator(",")),
            Some(rest) => rest.trim_start(),
            None => next,
        };
    }
}
