//! How bad is it?
//!
//! A distribution's own rating counts where it has one, since it knows how it builds; else the highest version of CVSS.

use std::str::FromStr as _;

use serde::{Deserialize, Serialize};

use super::osv;

/// A rating, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nobody rated it, or in words that are not known.
    #[default]
    Unknown,
    /// Not worth a fix, says the distribution.
    Negligible,
    /// CVSS below 4.
    Low,
    /// CVSS below 7.
    Medium,
    /// CVSS below 9.
    High,
    /// CVSS 9 and above.
    Critical,
}

impl Severity {
    /// Every rating, the mildest first.
    pub const ALL: [Self; 6] = [Self::Unknown, Self::Negligible, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Negligible => "negligible",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    fn of_score(score: f64) -> Self {
        match score {
            score if score >= 9.0 => Self::Critical,
            score if score >= 7.0 => Self::High,
            score if score >= 4.0 => Self::Medium,
            score if score > 0.0 => Self::Low,
            _ => Self::Unknown,
        }
    }

    /// A distribution's or database's word.
    pub(super) fn of_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "unimportant" | "negligible" => Self::Negligible,
            "low" | "minor" => Self::Low,
            "medium" | "moderate" => Self::Medium,
            "high" | "important" => Self::High,
            "critical" => Self::Critical,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A rating with the score that it comes from, if it comes from one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rating {
    /// The rating.
    pub severity: Severity,
    /// CVSS base score.
    pub score: Option<f64>,
}

/// Rates by what a record says: `rating` is the word of a distribution or database, if it has one.
pub(super) fn rate(severities: &[osv::Severity], rating: Option<&str>, distribution: bool) -> Rating {
    let scored = severities.iter().filter_map(score).max_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, score)| score);
    // Ubuntu rates in the list of severities itself.
    let own = severities
        .iter()
        .filter(|entry| !entry.r#type.starts_with("CVSS"))
        .find_map(|entry| Severity::of_word(&entry.score));
    let word = own.or_else(|| rating.and_then(Severity::of_word));
    let by_score = scored.map(Severity::of_score);
    let severity = if distribution { word.or(by_score) } else { by_score.or(word) };
    Rating { severity: severity.unwrap_or_default(), score: scored }
}

/// Version and base score of a CVSS vector.
fn score(entry: &osv::Severity) -> Option<(u8, f64)> {
    if entry.score.len() > 512 {
        return None;
    }
    let version = match entry.r#type.as_str() {
        "CVSS_V4" => 4,
        "CVSS_V3" => 3,
        "CVSS_V2" => 2,
        _ => return None,
    };
    let vector = cvss::Cvss::from_str(&entry.score).ok()?;
    Some((version, vector.score()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distributions_word_counts_before_a_score_and_a_newer_cvss_before_an_older() {
        let entry = |kind: &str, score: &str| osv::Severity { r#type: kind.to_owned(), score: score.to_owned() };
        let high = entry("CVSS_V3", "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H");
        let fourth = entry("CVSS_V4", "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N");
        let broken = entry("CVSS_V3", "CVSS:3.1/AV:X");
        assert_eq!(rate(std::slice::from_ref(&high), Some("LOW"), false).severity, Severity::High);
        assert_eq!(rate(std::slice::from_ref(&high), Some("unimportant"), true).severity, Severity::Negligible);
        assert_eq!(rate(std::slice::from_ref(&high), None, true).score, Some(7.5));
        assert_eq!(rate(&[high, fourth], None, false).severity, Severity::Critical);
        assert_eq!(rate(&[entry("Ubuntu", "medium")], None, true).severity, Severity::Medium);
        assert_eq!(rate(&[broken], Some("MODERATE"), false).severity, Severity::Medium);
    }
}
