//! Numbers of any length.

use std::cmp::Ordering;

/// A number as text without leading zeros, because dates, hashes and timestamps in versions can exceed 64 bits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Digits(Box<str>);

impl Digits {
    /// Creates the number from ASCII digits; an empty text is zero.
    pub(super) fn new(text: &str) -> Self {
        Self(text.trim_start_matches('0').into())
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.is_empty()
    }
}

impl Ord for Digits {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Digits {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Splits `text` after its leading ASCII digits.
pub(super) fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len()))
}
