//! Severities of vulnerabilities, and counts by severity.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::word::{Word as _, words};

words! {
    /// How severe a vulnerability is. Ordered from the least to the most severe.
    #[derive(Default)]
    pub enum Severity {
        /// Not rated, or rated in a word that is not known.
        #[default]
        Unknown = "unknown",
        /// Not worth a fix, according to the distribution.
        Negligible = "negligible",
        /// CVSS below 4.
        Low = "low",
        /// CVSS below 7.
        Medium = "medium",
        /// CVSS below 9.
        High = "high",
        /// CVSS 9 and above.
        Critical = "critical",
    }
}

/// Number of severities.
const SEVERITIES: usize = Severity::ALL.len();

impl Severity {
    /// Every severity, the most severe first: the order of lists and tables.
    pub const WORST_FIRST: [Self; SEVERITIES] =
        [Self::Critical, Self::High, Self::Medium, Self::Low, Self::Negligible, Self::Unknown];

    /// Returns the place of this severity in [`Self::WORST_FIRST`]: 0 is critical. The store's files hold this number.
    pub const fn rank(self) -> u8 {
        Self::Critical as u8 - self as u8
    }

    /// Returns the severity whose [rank](Self::rank) is `rank`.
    pub fn from_rank(rank: u8) -> Option<Self> {
        Self::WORST_FIRST.get(usize::from(rank)).copied()
    }
}

/// Counts by severity.
///
/// Serialized as an object from the word of each severity to its count, without zeros. Words that are not known are read as
/// [`Severity::Unknown`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeverityCounts([u64; SEVERITIES]);

impl SeverityCounts {
    /// Creates counts from an array in the order of [`Severity::WORST_FIRST`].
    pub const fn from_worst_first(counts: [u64; SEVERITIES]) -> Self {
        Self(counts)
    }

    /// Returns the counts in the order of [`Severity::WORST_FIRST`]; as a key it sorts by the most severe first.
    pub const fn worst_first(&self) -> [u64; SEVERITIES] {
        self.0
    }

    /// Returns the count of `severity`.
    pub const fn get(&self, severity: Severity) -> u64 {
        self.0[severity.rank() as usize]
    }

    /// Adds `count` to the count of `severity`.
    pub const fn add(&mut self, severity: Severity, count: u64) {
        let slot = &mut self.0[severity.rank() as usize];
        *slot = slot.saturating_add(count);
    }

    /// Adds every count of `other`, `times` times.
    pub fn add_all(&mut self, other: &Self, times: u64) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(count.saturating_mul(times));
        }
    }

    /// Returns the severities that occur, the most severe first, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Severity, u64)> {
        Severity::WORST_FIRST.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }

    /// Returns the sum of all counts.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Returns whether every count is zero.
    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }
}

impl FromIterator<(Severity, u64)> for SeverityCounts {
    fn from_iter<I: IntoIterator<Item = (Severity, u64)>>(items: I) -> Self {
        let mut counts = Self::default();
        items.into_iter().for_each(|(severity, count)| counts.add(severity, count));
        counts
    }
}

impl Serialize for SeverityCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for SeverityCounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let counts = BTreeMap::<String, u64>::deserialize(deserializer)?;
        let known = |(word, count): (String, u64)| (Severity::from_word(&word).unwrap_or_default(), count);
        Ok(counts.into_iter().map(known).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde::de::value::{Error, MapDeserializer};

    use super::*;

    #[test]
    fn ranks_are_places_from_the_worst_on() {
        for (place, severity) in (0_u8..).zip(Severity::WORST_FIRST) {
            assert_eq!((severity.rank(), Severity::from_rank(place)), (place, Some(severity)));
        }
        assert!(Severity::WORST_FIRST.is_sorted_by(|a, b| a > b));
        assert_eq!(Severity::from_rank(6), None);
    }

    #[test]
    fn counts_are_kept_by_severity_and_read_by_word() {
        let mut counts: SeverityCounts = [(Severity::High, 2), (Severity::Unknown, 1)].into_iter().collect();
        counts.add_all(&counts.clone(), 2);
        assert_eq!(counts.iter().collect::<Vec<_>>(), [(Severity::High, 6), (Severity::Unknown, 3)]);
        assert_eq!((counts.get(Severity::High), counts.total(), counts.is_empty()), (6, 9, false));
        let read = [("high", 6_u64), ("unknown", 1), ("of-another-world", 2)];
        let map: MapDeserializer<'_, _, Error> = MapDeserializer::new(read.into_iter());
        assert_eq!(SeverityCounts::deserialize(map), Ok(counts));
    }
}
