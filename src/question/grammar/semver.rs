//! Versions of npm and Cargo in which numbers are missing or wildcards, and the bounds that an operator derives from them.
//!
//! The bounds are those of node-semver with `includePrerelease`: `-0` is the first of all prereleases.

use super::Operator;

/// Number of numbers of a complete version.
const COMPLETE: usize = 3;

/// A version, or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    /// The numbers before the first wildcard.
    numbers: Vec<u64>,
    /// Prerelease and build, with the leading `-` or `+`.
    rest: String,
    wildcard: bool,
}

impl Partial {
    /// Parses `1.2.3-rc.1`, `v1.2`, `1.x`, `*`. Returns `None` for other text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let end = text.find(['-', '+']).unwrap_or(text.len());
        let (release, rest) = text.split_at(end);
        let is_rest = |next: char| next.is_ascii_alphanumeric() || matches!(next, '.' | '-' | '+');
        if !rest.chars().all(is_rest) || rest.len() == 1 {
            return None;
        }
        let (mut numbers, mut wildcard) = (Vec::new(), false);
        for part in release.split('.') {
            match part {
                "*" | "x" | "X" => wildcard = true,
                digits if !wildcard && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                    numbers.push(digits.parse().ok().filter(|number| *number < u64::MAX)?);
                }
                _ => return None,
            }
        }
        let partial = Self { numbers, rest: rest.to_owned(), wildcard };
        // A prerelease belongs to a complete version.
        (partial.rest.is_empty() || !partial.is_incomplete()).then_some(partial)
    }

    /// Returns whether numbers are missing, or wildcards.
    pub(super) fn is_incomplete(&self) -> bool {
        self.wildcard || self.numbers.len() < COMPLETE
    }

    pub(super) const fn has_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Returns the bounds that `operator` makes of the version; none if every version is in them. `None` if no version is.
    pub(super) fn bounds(&self, operator: &str) -> Option<Vec<(Operator, String)>> {
        let count = self.numbers.len();
        let Some(last) = count.checked_sub(1) else {
            return (!matches!(operator, "<" | ">")).then(Vec::new);
        };
        let lower = (Operator::AtLeast, self.first());
        let below = |index: usize| (Operator::Less, self.next(index));
        let complete = |operator| vec![(operator, self.first())];
        Some(match (operator, self.is_incomplete()) {
            ("" | "=" | "==", false) => complete(Operator::Equal),
            ("<", _) => complete(Operator::Less),
            ("<=", false) => complete(Operator::AtMost),
            (">", false) => complete(Operator::More),
            (">=", _) => complete(Operator::AtLeast),
            ("" | "=" | "==", true) => vec![lower, below(last)],
            ("<=", true) => vec![below(last)],
            (">", true) => vec![(Operator::AtLeast, self.next(last))],
            ("~" | "~>", _) => vec![lower, below(last.min(1))],
            // The first number that is not zero must not change.
            ("^", _) => vec![lower, below(self.numbers.iter().position(|number| *number > 0).unwrap_or(last))],
            _ => return None,
        })
    }

    /// Returns the version itself, or the first version that begins so.
    fn first(&self) -> String {
        if self.is_incomplete() { format!("{}-0", release(&self.numbers)) } else { release(&self.numbers) + &self.rest }
    }

    /// Returns the first version in which the number at `index` is one higher.
    fn next(&self, index: usize) -> String {
        let mut numbers: Vec<u64> = self.numbers.iter().take(index + 1).copied().collect();
        if let Some(last) = numbers.last_mut() {
            *last = last.saturating_add(1);
        }
        format!("{}-0", release(&numbers))
    }
}

/// Joins numbers, with zeros for the missing ones.
fn release(numbers: &[u64]) -> String {
    let count = numbers.len().max(COMPLETE);
    let numbers: Vec<String> =
        numbers.iter().copied().chain(std::iter::repeat(0)).take(count).map(|number| number.to_string()).collect();
    numbers.join(".")
}
