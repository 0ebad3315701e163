//! Ranges of versions: sets of comparators that are evaluated in the version order of one ecosystem.
//!
//! A range contains a version if all comparators of one of its sets are true for it. The version order alone decides whether a range contains a
//! prerelease, so that a question about a range leaves out no affected prerelease. (PEP 440 has its own rule, which is followed.)

use std::cmp::Ordering;

use outcrop_proto::{Ecosystem, PackageType, VersionOrder};

use super::grammar;
use crate::advisory::version::{Version, parse_pep440};

/// Maximum number of comparators of a range.
pub const MAX_COMPARATORS: usize = 32;

/// A range of versions of one ecosystem.
#[derive(Clone, Debug)]
pub struct Range {
    order: VersionOrder,
    normalize: fn(&str) -> &str,
    sets: Vec<Vec<Comparator>>,
}

/// Why a text is not a range of versions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The text is empty.
    #[error("the range of versions is empty; omit it to ask for every version")]
    NoRange,
    /// An operator without a version.
    #[error("the version after {operator:?} is missing")]
    NoVersion {
        /// The operator.
        operator: String,
    },
    /// A comma or `||` without a comparator.
    #[error("a comparator is missing beside {0:?}")]
    NoComparator(&'static str),
    /// The operator is not one of the ecosystem.
    #[error("unknown operator {operator:?} for {ecosystem} versions; expected one of {known}")]
    Operator {
        /// The operator.
        operator: String,
        /// Name of the ecosystem.
        ecosystem: &'static str,
        /// Its operators.
        known: String,
    },
    /// The text is not a version.
    #[error("{version:?} is not a version of {ecosystem}; expected a range as in {example}")]
    Version {
        /// The text.
        version: String,
        /// Name of the ecosystem.
        ecosystem: &'static str,
        /// A range of the ecosystem.
        example: &'static str,
    },
    /// An interval with brackets is malformed.
    #[error("malformed interval {0:?}; expected intervals as in [1.0,2.0) or (,1.5]")]
    Interval(String),
    /// No version is in the range.
    #[error("no version is in the range {0:?}; check its bounds")]
    Contradiction(String),
    /// The range has more than [`MAX_COMPARATORS`] comparators.
    #[error("the range has more than {MAX_COMPARATORS} comparators")]
    TooMany,
    /// A `vers:` range is malformed.
    #[error("malformed vers range: {0}; expected vers:TYPE/COMPARATOR|COMPARATOR, as in vers:npm/>=1.0.0|<1.2.3")]
    Vers(String),
    /// A package with the name belongs to an ecosystem that cannot read the range.
    #[error(
        "{name:?} is also a package of {ecosystem}, for which the range is invalid ({reason}); pass a package URL, as in pkg:TYPE/NAME@RANGE"
    )]
    OtherEcosystem {
        /// Name of the package.
        name: String,
        /// Name of its ecosystem.
        ecosystem: &'static str,
        /// The error in the ecosystem's grammar.
        reason: String,
    },
}

/// A comparison with a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
    NotEqual,
    /// The version begins with the parts of the given one.
    Prefix,
    /// PEP 440: evaluated as its specification defines.
    Specifier,
}

/// One condition of a range.
#[derive(Clone, Debug)]
pub(super) struct Comparator {
    operator: Operator,
    text: String,
    version: Version,
    /// The condition of PEP 440, for versions that PEP 440 accepts.
    specifier: Option<pep440_rs::VersionSpecifier>,
}

impl Comparator {
    pub(super) fn new(order: VersionOrder, operator: Operator, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { operator, version: Version::parse(order, &text), text, specifier: None }
    }

    /// Creates a comparator with a condition of PEP 440. `operator` compares versions that PEP 440 refuses.
    pub(super) fn pep440(operator: Operator, text: &str, specifier: pep440_rs::VersionSpecifier) -> Self {
        Self { specifier: Some(specifier), ..Self::new(VersionOrder::Pep440, operator, text) }
    }

    fn admits(&self, order: VersionOrder, version: &str) -> bool {
        if let (Some(specifier), Some(version)) = (&self.specifier, parse_pep440(version)) {
            return specifier.contains(&version);
        }
        // As in rpm, a comparator without a release is true for every release.
        let has_release = order != VersionOrder::Rpm || self.text.contains('-');
        let compared =
            if has_release { version } else { version.rsplit_once('-').map_or(version, |(version, _)| version) };
        let ordering = Version::parse(order, compared).cmp(&self.version);
        match self.operator {
            Operator::Less => ordering.is_lt(),
            Operator::AtMost => ordering.is_le(),
            Operator::Equal => ordering.is_eq(),
            Operator::AtLeast => ordering.is_ge(),
            Operator::More => ordering.is_gt(),
            Operator::NotEqual => ordering.is_ne(),
            Operator::Prefix => version
                .strip_prefix(self.text.as_str())
                .is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric())),
            // Versions that PEP 440 refuses fulfill no specifier but an order.
            Operator::Specifier => false,
        }
    }

    /// Returns the lower and the upper bound, each with whether the bound itself is admitted.
    fn bounds(&self) -> [Option<(&Version, bool)>; 2] {
        let version = &self.version;
        match self.operator {
            Operator::Less => [None, Some((version, false))],
            Operator::AtMost => [None, Some((version, true))],
            Operator::Equal => [Some((version, true)), Some((version, true))],
            Operator::AtLeast => [Some((version, true)), None],
            Operator::More => [Some((version, false)), None],
            Operator::NotEqual | Operator::Prefix | Operator::Specifier => [None, None],
        }
    }
}

impl Range {
    /// Parses a range in the grammar of an ecosystem.
    ///
    /// # Errors
    /// When the grammar does not accept the text, no version is in the range, or the range exceeds a bound.
    pub fn parse(ecosystem: &Ecosystem, text: &str) -> Result<Self, RangeError> {
        let sets = grammar::parse(ecosystem, text.trim())?;
        Self::new(ecosystem, text, sets)
    }

    /// Creates a range of the type `kind` from sets of comparators.
    pub(super) fn of_sets(kind: PackageType, text: &str, sets: Vec<Vec<Comparator>>) -> Result<Self, RangeError> {
        Self::new(kind.ecosystem(), text, sets)
    }

    fn new(ecosystem: &Ecosystem, text: &str, mut sets: Vec<Vec<Comparator>>) -> Result<Self, RangeError> {
        sets.retain(|set| !is_contradiction(set));
        if sets.is_empty() {
            return Err(RangeError::Contradiction(quoted(text)));
        }
        Ok(Self { order: ecosystem.version_order, normalize: ecosystem.normalize_version, sets })
    }

    /// Returns whether a version is in the range.
    pub fn contains(&self, version: &str) -> bool {
        let version = (self.normalize)(version.trim());
        self.sets.iter().any(|set| set.iter().all(|comparator| comparator.admits(self.order, version)))
    }
}

/// Returns whether the bounds of a set exclude each other.
fn is_contradiction(set: &[Comparator]) -> bool {
    let lower = set.iter().filter_map(|comparator| comparator.bounds()[0]);
    let upper = set.iter().filter_map(|comparator| comparator.bounds()[1]);
    let lower = lower.max_by(|a, b| a.0.cmp(b.0).then(b.1.cmp(&a.1)));
    let upper = upper.min_by(|a, b| a.0.cmp(b.0).then(a.1.cmp(&b.1)));
    match (lower, upper) {
        (Some((lower, from)), Some((upper, to))) => match lower.cmp(upper) {
            Ordering::Less => false,
            Ordering::Equal => !(from && to),
            Ordering::Greater => true,
        },
        _ => false,
    }
}

/// Returns the beginning of a text, for an error.
pub(super) fn quoted(text: &str) -> String {
    text.chars().take(60).collect()
}
