//! The order of npm and Go ([Semantic Versioning 2.0.0](https://semver.org)), with the extensions that both accept: a leading `v`, fewer or
//! more than three numbers, leading zeros. Build metadata is ignored. Versions that do not start with a number sort before all others, and among
//! each other as text.

use super::digits::{Digits, split_digits};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Invalid(Box<str>),
    Valid {
        /// Without trailing zeros: `1.2` is `1.2.0`.
        numbers: Vec<Digits>,
        /// Text that follows the numbers without a hyphen (`1.2.3beta`). It counts as a prerelease, as in npm.
        prerelease: Prerelease,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Prerelease {
    Identifiers(Vec<Identifier>),
    None,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Identifier {
    Number(Digits),
    Text(Box<str>),
}

impl Version {
    pub(super) fn parse(text: &str) -> Self {
        let version = text.trim_start_matches(['v', 'V', '=', ' ']);
        let version = version.split('+').next().unwrap_or_default();
        let (mut numbers, mut rest) = (Vec::new(), version);
        loop {
            let (digits, after) = split_digits(rest);
            if digits.is_empty() {
                break;
            }
            numbers.push(Digits::new(digits));
            rest = after;
            match after.strip_prefix('.') {
                Some(next) if next.starts_with(|character: char| character.is_ascii_digit()) => rest = next,
                _ => break,
            }
        }
        if numbers.is_empty() {
            return Self::Invalid(text.into());
        }
        while numbers.last().is_some_and(Digits::is_zero) {
            numbers.pop();
        }
        let prerelease = match rest.strip_prefix('-').unwrap_or(rest) {
            "" => Prerelease::None,
            identifiers => Prerelease::Identifiers(identifiers.split('.').map(identifier).collect()),
        };
        Self::Valid { numbers, prerelease }
    }
}

fn identifier(text: &str) -> Identifier {
    match split_digits(text) {
        (digits, "") if !digits.is_empty() => Identifier::Number(Digits::new(digits)),
        _ => Identifier::Text(text.into()),
    }
}
